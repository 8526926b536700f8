"""Types of mingrad.autodiff. Nests of arguments and results are Any: their types follow from the function.

What a transform gives takes floats where its function is written for Variables, and the other way round; so it does not
take over the function's parameters. A derivative is a float, or a Variable where there is one about it to be derived by.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

from ._core import Variable, VariableList

__all__ = [
    "derivative",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "stop_gradient",
    "value_and_grad",
    "vjp",
]

# One argument, or several.
_Argnums = int | Sequence[int]
_Function = Callable[..., Any]
_Aux = TypeVar("_Aux")
# An adjoint of the outputs, and those of each argument.
_Pull = Callable[[Any], tuple[Any, ...]]
# Rows, columns and values.
_Sparse = tuple[list[int], list[int], list[Any]]

@overload
def stop_gradient(x: Variable) -> Variable: ...
@overload
def stop_gradient(x: VariableList) -> VariableList: ...
@overload
def stop_gradient(x: float) -> float: ...
@overload
def stop_gradient(x: Any) -> Any: ...
@overload
def grad(f: _Function, argnums: _Argnums = 0, has_aux: Literal[False] = False) -> Callable[..., Any]: ...
@overload
def grad(
    f: Callable[..., tuple[Any, _Aux]], argnums: _Argnums = 0, *, has_aux: Literal[True]
) -> Callable[..., tuple[Any, _Aux]]: ...
@overload
def grad(f: _Function, argnums: _Argnums = 0, has_aux: bool = False) -> Callable[..., Any]: ...
@overload
def value_and_grad(f: _Function, argnums: _Argnums = 0, has_aux: Literal[False] = False) -> Callable[..., tuple[Any, Any]]: ...
@overload
def value_and_grad(
    f: Callable[..., tuple[Any, _Aux]], argnums: _Argnums = 0, *, has_aux: Literal[True]
) -> Callable[..., tuple[tuple[Any, _Aux], Any]]: ...
@overload
def value_and_grad(f: _Function, argnums: _Argnums = 0, has_aux: bool = False) -> Callable[..., tuple[Any, Any]]: ...
@overload
def jvp(f: _Function, primals: Sequence[Any], tangents: Sequence[Any], has_aux: Literal[False] = False) -> tuple[Any, Any]: ...
@overload
def jvp(
    f: Callable[..., tuple[Any, _Aux]], primals: Sequence[Any], tangents: Sequence[Any], has_aux: Literal[True]
) -> tuple[Any, Any, _Aux]: ...
@overload
def jvp(f: _Function, primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> Any: ...
@overload
def vjp(f: _Function, *primals: Any, has_aux: Literal[False] = False) -> tuple[Any, _Pull]: ...
@overload
def vjp(f: Callable[..., tuple[Any, _Aux]], *primals: Any, has_aux: Literal[True]) -> tuple[Any, _Pull, _Aux]: ...
@overload
def vjp(f: _Function, *primals: Any, has_aux: bool = False) -> Any: ...
@overload
def jacfwd(f: _Function, argnums: _Argnums = 0, has_aux: Literal[False] = False) -> Callable[..., Any]: ...
@overload
def jacfwd(
    f: Callable[..., tuple[Any, _Aux]], argnums: _Argnums = 0, *, has_aux: Literal[True]
) -> Callable[..., tuple[Any, _Aux]]: ...
@overload
def jacfwd(f: _Function, argnums: _Argnums = 0, has_aux: bool = False) -> Callable[..., Any]: ...
@overload
def jacrev(f: _Function, argnums: _Argnums = 0, has_aux: Literal[False] = False) -> Callable[..., Any]: ...
@overload
def jacrev(
    f: Callable[..., tuple[Any, _Aux]], argnums: _Argnums = 0, *, has_aux: Literal[True]
) -> Callable[..., tuple[Any, _Aux]]: ...
@overload
def jacrev(f: _Function, argnums: _Argnums = 0, has_aux: bool = False) -> Callable[..., Any]: ...
@overload
def jacobian(f: _Function, argnums: _Argnums = 0, has_aux: Literal[False] = False) -> Callable[..., Any]: ...
@overload
def jacobian(
    f: Callable[..., tuple[Any, _Aux]], argnums: _Argnums = 0, *, has_aux: Literal[True]
) -> Callable[..., tuple[Any, _Aux]]: ...
@overload
def jacobian(f: _Function, argnums: _Argnums = 0, has_aux: bool = False) -> Callable[..., Any]: ...
@overload
def hessian(
    f: _Function, argnums: _Argnums = 0, has_aux: Literal[False] = False, sparse: Literal[False] = False
) -> Callable[..., Any]: ...
@overload
def hessian(
    f: _Function, argnums: _Argnums = 0, has_aux: Literal[False] = False, *, sparse: Literal[True]
) -> Callable[..., _Sparse]: ...
@overload
def hessian(
    f: Callable[..., tuple[Any, _Aux]], argnums: _Argnums = 0, *, has_aux: Literal[True], sparse: Literal[False] = False
) -> Callable[..., tuple[Any, _Aux]]: ...
@overload
def hessian(
    f: Callable[..., tuple[Any, _Aux]], argnums: _Argnums = 0, *, has_aux: Literal[True], sparse: Literal[True]
) -> Callable[..., tuple[_Sparse, _Aux]]: ...
@overload
def hessian(f: _Function, argnums: _Argnums = 0, has_aux: bool = False, sparse: bool = False) -> Callable[..., Any]: ...
def hvp(f: _Function, primals: Sequence[Any], tangents: Sequence[Any]) -> Any: ...
def derivative(f: _Function, n: int = 1) -> Callable[..., Any]: ...
