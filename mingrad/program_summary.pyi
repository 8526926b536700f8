"""Types of mingrad.program_summary."""

from .program import Program

def summarize(program: Program) -> str: ...
