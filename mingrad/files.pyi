"""Types of mingrad.files."""

from array import array
from collections.abc import Mapping
from os import PathLike

__all__ = ["FileFormatError", "read_file", "write_file"]

_Path = str | bytes | PathLike[str] | PathLike[bytes]

class FileFormatError(ValueError): ...

def write_file(
    path: _Path, tensors: Mapping[str, tuple[tuple[int, ...], array[float]]], metadata: Mapping[str, str]
) -> None: ...
def read_file(path: _Path) -> tuple[dict[str, tuple[tuple[int, ...], array[float]]], dict[str, str]]: ...
