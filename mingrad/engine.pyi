"""Types of mingrad.engine: the public names of the compiled module (_core.pyi), and the context managers.

A new operation needs a line in __all__ here, as the runtime makes its own list from the op table.
"""

from contextlib import ContextDecorator
from typing import Literal

from typing_extensions import Self

from ._core import *

__all__ = [
    "TapeInfo",
    "Variable",
    "VariableList",
    "abs",
    "acos",
    "acosh",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "clamp",
    "collect",
    "cos",
    "cosh",
    "detect_anomaly",
    "digamma",
    "dot",
    "elu",
    "enable_grad",
    "erf",
    "erfc",
    "errstate",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "floor",
    "gelu",
    "hypot",
    "is_grad_enabled",
    "leaky_relu",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "logsumexp",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "neg",
    "negative",
    "no_grad",
    "norm",
    "pow",
    "prod",
    "reciprocal",
    "relu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "stack",
    "sum",
    "tan",
    "tanh",
    "tape_info",
    "tensor",
]

_Setting = Literal["raise", "ignore"]

class _Mode(Mode, ContextDecorator):
    def _recreate_cm(self) -> Self: ...

class no_grad(_Mode):
    def __init__(self) -> None: ...

class enable_grad(_Mode):
    def __init__(self) -> None: ...

def is_grad_enabled() -> bool: ...

class errstate(_Mode):
    def __init__(
        self,
        *,
        all: _Setting | None = None,
        divide: _Setting | None = None,
        over: _Setting | None = None,
        invalid: _Setting | None = None,
    ) -> None: ...

class detect_anomaly(_Mode):
    def __init__(self) -> None: ...
