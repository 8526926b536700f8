"""Types of mingrad.rows. Rows are arrays of any kind; results are NumPy's where it is installed, else array('d'): Any."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar, overload

__all__ = ["scan", "vmap"]

_R = TypeVar("_R")
_Errors = Literal["ignore", "raise"]
_Progress = bool | Callable[[int, int], object]

class _Mapped(Generic[_R]):
    def __init__(
        self,
        f: Callable[..., Any],
        in_axes: int | Sequence[int | None] | None,
        grad: Literal["rows", "sum"] | None,
        threads: int,
        errors: _Errors,
        progress: _Progress,
    ) -> None: ...
    def __call__(self, *args: Any, out: Any = None) -> _R: ...

class _Scanned:
    def __init__(self, f: Callable[..., Any], grad: Literal["sum"] | None, errors: _Errors) -> None: ...
    def __call__(self, init: Any, *rows: Any, lengths: Sequence[int] | None = None) -> tuple[Any, Any]: ...

@overload
def vmap(
    f: Callable[..., Any],
    in_axes: int | Sequence[int | None] | None = 0,
    *,
    grad: Literal["sum"] | None = None,
    threads: int = 1,
    errors: _Errors = "ignore",
    progress: _Progress = False,
) -> _Mapped[Any]: ...
@overload
def vmap(
    f: Callable[..., Any],
    in_axes: int | Sequence[int | None] | None = 0,
    *,
    grad: Literal["rows"],
    threads: int = 1,
    errors: _Errors = "ignore",
    progress: _Progress = False,
) -> _Mapped[tuple[Any, Any]]: ...
def scan(f: Callable[..., Any], *, grad: Literal["sum"] | None = None, errors: _Errors = "ignore") -> _Scanned: ...
