"""Types of mingrad.steps."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from typing_extensions import Self, disjoint_base

from .engine import Variable

__all__ = ["BackwardStep", "backward_steps", "explain"]

_Named: TypeAlias = Variable | Iterable[Any]

@disjoint_base
class BackwardStep(tuple[Variable, float]):
    user: Variable | None
    adjoint: float
    partial: float | None
    place: int | None
    total: float
    def __new__(
        cls,
        node: Variable,
        contribution: float,
        user: Variable | None,
        adjoint: float,
        partial: float | None,
        place: int | None,
        total: float,
    ) -> Self: ...
    @property
    def node(self) -> Variable: ...
    @property
    def contribution(self) -> float: ...

def backward_steps(v: Variable) -> Iterator[BackwardStep]: ...
def explain(v: Variable, /, *, max_nodes: int = 50, digits: int = 6, **names: _Named) -> str: ...
