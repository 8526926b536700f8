"""Types of mingrad.training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from .engine import Variable
from .optim import Optimizer

__all__ = ["Checkpoint", "EarlyStopping", "FitState", "History", "fit"]

# X and y as two sequences (lists, buffers, arrays), or pairs (x, y).
_Data = tuple[Any, Any] | Iterable[Any]

def fit(
    model: Callable[[Any], Any],
    data: _Data,
    *,
    loss: Callable[[Any, Any], Variable],
    optimizer: Optimizer,
    epochs: int = 1,
    batch_size: int = 32,
    shuffle: int | None = None,
    callbacks: Iterable[Any] = (),
    validation: _Data | None = None,
    scheduler: Any = None,
    metrics: dict[str, Callable[[Any, Any], Variable | float]] | None = None,
    progress: bool | None = None,
    resume: str | PathLike[str] | None = None,
    comm: Any = None,
) -> History: ...

class FitState:
    model: Any
    optimizer: Any
    scheduler: Any
    callbacks: tuple[Any, ...]
    history: History
    epoch: int
    epochs: int
    batch: int
    batches: int
    batch_size: int
    shuffle: int | None
    indices: Sequence[int]
    loss: float | None
    stopped: bool
    rank: int
    ranks: int
    def __init__(
        self,
        model: Callable[[Any], Any],
        data: _Data,
        *,
        loss: Callable[[Any, Any], Variable],
        optimizer: Optimizer,
        epochs: int,
        batch_size: int,
        shuffle: int | None,
        callbacks: Iterable[Any],
        validation: _Data | None,
        scheduler: Any,
        metrics: dict[str, Callable[[Any, Any], Variable | float]] | None,
        ranks: Any,
    ) -> None: ...
    def parameters(self) -> list[Variable]: ...

class History(dict[str, list[Any]]):
    def __missing__(self, name: str) -> list[Any]: ...
    def _repr_html_(self) -> str: ...
    def plot(self, path: str | PathLike[str] | None = None) -> list[Any]: ...

class EarlyStopping:
    monitor: str | None
    patience: int
    min_delta: float
    mode: Literal["min", "max"]
    restore_best: bool
    best: float | None
    best_epoch: int
    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] | None = None,
        restore_best: bool = True,
    ) -> None: ...
    def on_fit_begin(self, state: FitState) -> None: ...
    def on_epoch_end(self, state: FitState) -> bool: ...
    def on_fit_end(self, state: FitState) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

class Checkpoint:
    path: str
    every: int
    def __init__(self, path: str | PathLike[str], every: int = 1) -> None: ...
    def on_fit_begin(self, state: FitState) -> None: ...
    def on_epoch_end(self, state: FitState) -> None: ...
