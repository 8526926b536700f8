"""Types of mingrad._translate."""

from collections.abc import Callable

MATH: dict[str, str]

class Unknown(Exception): ...

def translate(text: str, rename: Callable[[str], str]) -> str: ...
