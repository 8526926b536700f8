"""Types of mingrad.program."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from ._core import Program
from ._core import RecordingError as RecordingError

__all__ = ["Compiled", "RecordingError", "compile", "vmap"]

# A Compiled; without f a decorator that makes one.
def compile(f: Callable[..., Any] | None = None, *, check: bool = False, max_programs: int = 64) -> Any: ...

def vmap(
    f: Callable[..., Any],
    in_axes: int | Sequence[int | None] | None = 0,
    *,
    grad: Literal["rows", "sum"] | None = None,
    threads: int = 1,
) -> Callable[..., Any]: ...

class Compiled:
    def __init__(self, f: Callable[..., Any], check: bool = False, max_programs: int = 64) -> None: ...
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    @property
    def programs(self) -> list[Program]: ...
    def clear(self) -> None: ...
