"""Types of mingrad.program_file."""

from os import PathLike
from struct import Struct
from typing import Any, TypeVar

from .program import Program

MAGIC: bytes
VERSION: int
HEAD: Struct
MAX_DEPTH: int
MEMBERS: set[str]
KINDS: dict[str, Any]
NAMES: dict[Any, str]
NO_FILE: str

_Path = str | bytes | PathLike[str] | PathLike[bytes]
_Program = TypeVar("_Program", bound=Program)

def write_program(program: Program, path: _Path) -> None: ...
def read_program(cls: type[_Program], path: _Path) -> _Program: ...
def describe_arguments(keys: tuple[Any, Any]) -> str: ...
