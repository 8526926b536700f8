"""Types of mingrad.files."""

from array import array
from collections.abc import Mapping
from os import PathLike
from typing import Any, TypeVar, overload

from .nn import Module

__all__ = ["FileFormatError", "load", "read_file", "save", "write_file"]

_Path = str | bytes | PathLike[str] | PathLike[bytes]
_M = TypeVar("_M", bound=Module)

class FileFormatError(ValueError): ...

# Numbers nested as deep as the shape says: Any, as no type checker knows the shape.
def save(path: _Path, model: Module | Mapping[str, Any], *, metadata: Mapping[str, str] | None = None) -> None: ...
@overload
def load(path: _Path, model: None = None) -> dict[str, Any]: ...
@overload
def load(path: _Path, model: _M) -> _M: ...
def write_file(
    path: _Path,
    tensors: Mapping[str, tuple[tuple[int, ...], array[float]]],
    metadata: Mapping[str, str],
) -> None: ...
def read_file(
    path: _Path,
) -> tuple[dict[str, tuple[tuple[int, ...], array[float]]], dict[str, str]]: ...
