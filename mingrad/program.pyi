"""Types of mingrad.program."""

from collections.abc import Callable
from typing import Any

from ._core import Program
from ._core import RecordingError as RecordingError

__all__ = ["Compiled", "RecordingError", "compile"]

# A Compiled; without f a decorator that makes one.
def compile(f: Callable[..., Any] | None = None, *, check: bool = False, max_programs: int = 64) -> Any: ...

class Compiled:
    def __init__(self, f: Callable[..., Any], check: bool = False, max_programs: int = 64) -> None: ...
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    @property
    def programs(self) -> list[Program]: ...
    def clear(self) -> None: ...
