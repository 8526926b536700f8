"""Types of mingrad.program."""

from collections.abc import Callable
from typing import Any

from . import _core
from ._core import RecordingError as RecordingError

__all__ = ["Compiled", "Program", "RecordingError", "compile"]

# A Compiled; without f a decorator that makes one.
def compile(f: Callable[..., Any] | None = None, *, check: bool = False, max_programs: int = 64) -> Any: ...

class Compiled:
    def __init__(self, f: Callable[..., Any], check: bool = False, max_programs: int = 64) -> None: ...
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    @property
    def programs(self) -> list[Program]: ...
    def clear(self) -> None: ...

class Program(_core.Program):
    name: str
    keys: tuple[Any, Any]
    build: Callable[[list[Any]], Any]
    def __init__(self, name: str, keys: tuple[Any, Any], build: Callable[[list[Any]], Any]) -> None: ...
