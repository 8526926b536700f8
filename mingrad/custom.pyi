"""Types of mingrad.custom. The function and its rules get floats where it is called with Variables: calls are not its own."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from typing_extensions import Self

__all__ = ["custom_jvp", "custom_vjp"]

_F = TypeVar("_F", bound=Callable[..., Any])

class _Custom:
    def __init__(self, fun: Callable[..., Any], nondiff_argnums: int | Sequence[int] = ()) -> None: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

class custom_vjp(_Custom):
    def defvjp(self, fwd: Callable[..., tuple[Any, Any]], bwd: Callable[..., tuple[Any, ...]]) -> None: ...

class custom_jvp(_Custom):
    def defjvp(self, jvp: _F) -> _F: ...
    def defjvps(self, *jvps: Callable[..., Any] | None) -> None: ...
