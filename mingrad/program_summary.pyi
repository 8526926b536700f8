"""Types of mingrad.program_summary."""

from .program import Program

def summarize(program: Program, lines: bool = True) -> str: ...
