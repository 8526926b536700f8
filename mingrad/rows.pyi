"""Types of mingrad.rows."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

__all__ = ["vmap"]

def vmap(
    f: Callable[..., Any],
    in_axes: int | Sequence[int | None] | None = 0,
    *,
    grad: Literal["rows", "sum"] | None = None,
    threads: int = 1,
) -> Callable[..., Any]: ...
