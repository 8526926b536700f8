"""Types of mingrad.distributed. comm is a communicator of mpi4py, which need not be installed where types are checked."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeVar, overload

from .engine import Variable
from .optim import Optimizer

__all__ = ["RankError", "all_reduce", "all_reduce_gradients", "batches", "broadcast_parameters", "run", "shard"]

class _Sliceable(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> Any: ...

_S = TypeVar("_S", bound=_Sliceable)

# Variables and sequences of them
_Parameters = Optimizer | Iterable[Variable] | Iterable[Iterable[Variable]]

class RankError(RuntimeError): ...

def run(comm: Any = None) -> AbstractContextManager[Any]: ...
def broadcast_parameters(params: _Parameters, comm: Any = None, root: int = 0) -> None: ...
def all_reduce_gradients(
    params: _Parameters, comm: Any = None, op: Literal["mean", "sum"] = "mean", weight: float = 1
) -> None: ...
@overload
def all_reduce(numbers: Variable | float, comm: Any = None) -> float: ...
@overload
def all_reduce(numbers: Sequence[Variable] | Sequence[float], comm: Any = None) -> list[float]: ...
def shard(data: _S, comm: Any = None) -> _S: ...
def batches(
    samples: int, batch_size: int, *, shuffle: int | None = None, epoch: int = 0, comm: Any = None
) -> Iterator[list[int]]: ...
