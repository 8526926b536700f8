"""Types of mingrad.program."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

from typing_extensions import Self

from . import _core
from ._core import RecordingError as RecordingError

__all__ = ["Compiled", "Program", "RecordingError", "compile"]

# A Compiled; without f a decorator that makes one.
def compile(f: Callable[..., Any] | None = None, *, check: bool = False, fast: bool = False, max_programs: int = 64) -> Any: ...

class Compiled:
    def __init__(self, f: Callable[..., Any], check: bool = False, max_programs: int = 64, fast: bool = False) -> None: ...
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
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def map(
        self,
        X: Any,
        threads: int = 1,
        grad: Literal["rows", "sum"] | None = None,
        *,
        errors: Literal["ignore", "raise"] = "ignore",
        progress: bool | Callable[[int, int], object] = False,
        out: Any = None,
    ) -> Any: ...
    def save(self, path: str | bytes | PathLike[str] | PathLike[bytes]) -> None: ...
    @classmethod
    def load(cls: type[Self], path: str | bytes | PathLike[str] | PathLike[bytes]) -> Self: ...
    def to_c(self, name: str, gradient: bool = True) -> str: ...
    def to_python(self, name: str, gradient: bool = True) -> str: ...
