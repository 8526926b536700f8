"""Types of mingrad.program."""

from collections.abc import Callable
from os import PathLike
from types import GenericAlias
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload
from weakref import ReferenceType

from typing_extensions import Self

from . import _core
from ._core import RecordingError as RecordingError

__all__ = ["Compiled", "Program", "RecordingError", "compile"]

_P = ParamSpec("_P")
_Q = ParamSpec("_Q")
_R = TypeVar("_R")

# What is compiled is called as the function is, and gives what it gives.
@overload
def compile(f: Callable[_P, _R], *, check: bool = False, fast: bool = False, max_programs: int = 64) -> Compiled[_P, _R]: ...
@overload
def compile(
    f: None = None, *, check: bool = False, fast: bool = False, max_programs: int = 64
) -> Callable[[Callable[_P, _R]], Compiled[_P, _R]]: ...

class Compiled(Generic[_P, _R]):
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    def __init__(self, f: Callable[_P, _R], check: bool = False, max_programs: int = 64, fast: bool = False) -> None: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self: Compiled[Concatenate[Any, _Q], _R], instance: object, owner: type | None = None) -> Callable[_Q, _R]: ...
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...
    @property
    def programs(self) -> list[Program]: ...
    def clear(self) -> None: ...
    def _repr_html_(self) -> str: ...

class Program(_core.Program):
    name: str
    keys: tuple[Any, Any]
    build: Callable[[list[Any]], Any]
    numbers: list[float] | None
    compiled: ReferenceType[Compiled[..., Any]] | None
    def __init__(self, name: str, keys: tuple[Any, Any], build: Callable[[list[Any]], Any]) -> None: ...
    def _repr_html_(self) -> str: ...
    def summary(self) -> str: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def map(
        self,
        X: Any,
        threads: int = 1,
        grad: Literal["sum"] | None = None,
        *,
        errors: Literal["ignore", "raise"] = "ignore",
        progress: bool | Callable[[int, int], object] = False,
        out: Any = None,
    ) -> Any: ...
    @overload
    def map(
        self,
        X: Any,
        threads: int = 1,
        *,
        grad: Literal["rows"],
        errors: Literal["ignore", "raise"] = "ignore",
        progress: bool | Callable[[int, int], object] = False,
        out: Any = None,
    ) -> tuple[Any, Any]: ...
    def save(self, path: str | bytes | PathLike[str] | PathLike[bytes]) -> None: ...
    @classmethod
    def load(cls: type[Self], path: str | bytes | PathLike[str] | PathLike[bytes]) -> Self: ...
    def to_c(self, name: str, gradient: bool = True) -> str: ...
    def to_python(self, name: str, gradient: bool = True) -> str: ...
