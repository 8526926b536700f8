"""Types of mingrad.rows."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

__all__ = ["scan", "vmap"]

def vmap(
    f: Callable[..., Any],
    in_axes: int | Sequence[int | None] | None = 0,
    *,
    grad: Literal["rows", "sum"] | None = None,
    threads: int = 1,
    errors: Literal["ignore", "raise"] = "ignore",
    progress: bool | Callable[[int, int], object] = False,
) -> Callable[..., Any]: ...
def scan(
    f: Callable[..., Any],
    *,
    grad: Literal["sum"] | None = None,
    errors: Literal["ignore", "raise"] = "ignore",
) -> Callable[..., Any]: ...
