"""Types of mingrad.gradcheck."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

__all__ = ["Agreement", "GradientCheck", "GradientCheckError", "Mismatch", "check_grad"]

_Mode = Literal["fwd", "rev"]

def check_grad(
    f: Callable[..., Any],
    *args: Any,
    order: Literal[1, 2] = 1,
    modes: _Mode | Sequence[_Mode] = ("fwd", "rev"),
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    raise_exception: bool = True,
) -> GradientCheck: ...

class Mismatch(NamedTuple):
    kind: str
    order: int
    mode: str
    output: str
    argument: str
    expected: float | tuple[float, float]
    got: float
    ulps: float
    allowed: float
    method: str

class Agreement(NamedTuple):
    argument: int
    method: str
    ulps: float
    relative: float
    steps: tuple[float, float] | None

class GradientCheck(NamedTuple):
    order: int
    modes: tuple[str, ...]
    first: int
    second: int
    failures: tuple[Mismatch, ...]
    agreements: tuple[Agreement, ...]
    notes: tuple[str, ...]
    def __bool__(self) -> bool: ...

class GradientCheckError(AssertionError):
    report: GradientCheck
    def __init__(self, report: GradientCheck) -> None: ...
