"""Types of mingrad.export."""

from .program import Program

__all__ = ["to_c", "to_python"]

def to_c(program: Program, name: str, gradient: bool = True) -> str: ...
def to_python(program: Program, name: str, gradient: bool = True) -> str: ...
