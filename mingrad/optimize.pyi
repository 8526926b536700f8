"""Types of mingrad.optimize. Nests are Any: x0's type says what they are."""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["minimize"]

def minimize(
    f: Callable[..., Any],
    x0: Any,
    args: Any = (),
    *,
    method: str | Callable[..., Any] | None = None,
    bounds: Any = None,
    constraints: Any = (),
    hessian: Any = None,
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
    jac: None = None,
    hess: None = None,
    hessp: None = None,
) -> Any: ...
