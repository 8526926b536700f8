"""Types of mingrad.nn.init."""

from collections.abc import Sequence
from random import Random
from typing import Literal, TypeVar

from .._core import Variable, VariableList

__all__ = [
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_Row = VariableList | Sequence[Variable]
_Tensor = TypeVar("_Tensor", bound=Variable | _Row | Sequence[_Row] | Sequence[Sequence[_Row]])
_Rows = TypeVar("_Rows", bound=Sequence[_Row])
_Nonlinearity = Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
_Mode = Literal["fan_in", "fan_out"]

def constant_(tensor: _Tensor, val: float) -> _Tensor: ...
def zeros_(tensor: _Tensor) -> _Tensor: ...
def ones_(tensor: _Tensor) -> _Tensor: ...
def uniform_(tensor: _Tensor, a: float = 0.0, b: float = 1.0, generator: Random = ...) -> _Tensor: ...
def normal_(tensor: _Tensor, mean: float = 0.0, std: float = 1.0, generator: Random = ...) -> _Tensor: ...
def trunc_normal_(
    tensor: _Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Random = ...,
) -> _Tensor: ...
def calculate_gain(nonlinearity: _Nonlinearity, param: float | None = None) -> float: ...
def xavier_uniform_(tensor: _Rows, gain: float = 1.0, generator: Random = ...) -> _Rows: ...
def xavier_normal_(tensor: _Rows, gain: float = 1.0, generator: Random = ...) -> _Rows: ...
def kaiming_uniform_(
    tensor: _Rows,
    a: float = 0.0,
    mode: _Mode = "fan_in",
    nonlinearity: _Nonlinearity = "leaky_relu",
    generator: Random = ...,
) -> _Rows: ...
def kaiming_normal_(
    tensor: _Rows,
    a: float = 0.0,
    mode: _Mode = "fan_in",
    nonlinearity: _Nonlinearity = "leaky_relu",
    generator: Random = ...,
) -> _Rows: ...
