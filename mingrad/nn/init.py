"""First values of parameters, under PyTorch's names (torch.nn.init).

Each function writes into leaves: a "tensor" is a sequence of n Variables (a bias) or rows of them (the weight of a Linear: one
row for each output). All take their numbers from Python's ``random`` unless ``generator``, a random.Random, is given, row by
row. They return the tensor, and raise TypeError for what is none and ValueError for settings outside their range; then
nothing has been written.
"""

import math
import random
from collections.abc import Sequence

from ..engine import Variable, VariableList

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


def _leaves(name, tensor):
    """The Variables of a tensor, row by row."""
    found = []
    nested = isinstance(tensor, (Sequence, VariableList)) and not isinstance(tensor, str)
    for item in tensor if nested else [tensor]:
        if nested and isinstance(item, (Sequence, VariableList)) and not isinstance(item, str):
            found += _leaves(name, item)
        elif isinstance(item, Variable) and item.is_leaf:
            found.append(item)
        else:
            raise TypeError(
                f"{name}: expected a sequence of Variables that are leaves, or rows of them, got {item!r}"
                + (" among them" if isinstance(item, Variable) else "")
            )
    return found


def _fill(name, tensor, draw):
    """Write one number of draw() into each Variable."""
    leaves = _leaves(name, tensor)
    for v, value in zip(leaves, [draw() for _ in leaves]):
        v.data = value
    return tensor


def _fans(name, tensor):
    """(fan in, fan out) of the weight of a dense layer."""
    _leaves(name, tensor)
    if any(isinstance(row, Variable) for row in tensor) or len({len(row) for row in tensor}) != 1:
        raise ValueError(f"{name}: expected rows of equal length, as in the weight of a Linear, got another shape")
    return len(tensor[0]), len(tensor)


def constant_(tensor, val):
    """constant_(tensor, val): every value is val."""
    return _fill("constant_", tensor, lambda: val)


def zeros_(tensor):
    """zeros_(tensor): every value is 0."""
    return _fill("zeros_", tensor, lambda: 0.0)


def ones_(tensor):
    """ones_(tensor): every value is 1."""
    return _fill("ones_", tensor, lambda: 1.0)


def uniform_(tensor, a=0.0, b=1.0, generator=random):
    """uniform_(tensor, a=0.0, b=1.0): evenly between a and b.

    >>> from mingrad import nn, tensor
    >>> all(2.0 <= x <= 3.0 for x in nn.init.uniform_(tensor([0.0, 0.0]), 2.0, 3.0).tolist())
    True
    """
    if not a <= b:
        raise ValueError(f"uniform_: expected a <= b, got {a!r} and {b!r}")
    return _fill("uniform_", tensor, lambda: generator.uniform(a, b))


def normal_(tensor, mean=0.0, std=1.0, generator=random):
    """normal_(tensor, mean=0.0, std=1.0): from the normal distribution; std: its standard deviation, 0 or more."""
    _positive("normal_", std)
    return _fill("normal_", tensor, lambda: generator.gauss(mean, std))


def trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0, generator=random):
    """trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0): from the part of the normal distribution between a and b, by its
    inverse distribution function. Raises ValueError unless std > 0 and some of a ... b is within 4 std of the mean."""
    from statistics import NormalDist

    _positive("trunc_normal_", std)
    if not (std > 0 and a < b and a <= mean + 4 * std and b >= mean - 4 * std):
        raise ValueError(
            f"trunc_normal_: expected std > 0 and a < b with a part within 4 std of the mean {mean!r}, got std {std!r}, a {a!r} "
            f"and b {b!r}"
        )
    normal = NormalDist(mean, std)
    low, high = max(normal.cdf(a), 1e-300), min(normal.cdf(b), 1 - 2.0**-53)
    return _fill("trunc_normal_", tensor, lambda: min(max(normal.inv_cdf(generator.uniform(low, high)), a), b))


def _positive(name, std):
    if not 0.0 <= std < math.inf:
        raise ValueError(f"{name}: expected std to be a finite number, 0 or more, got {std!r}")


def calculate_gain(nonlinearity, param=None):
    """calculate_gain(nonlinearity, param=None): by how much an activation's inputs are scaled up to keep their variance.

    nonlinearity: 'linear', 'sigmoid', 'tanh' (5/3), 'relu' (sqrt 2), 'leaky_relu' (sqrt(2 / (1 + param**2)); param: its
    negative slope, 0.01 if None), 'selu' (3/4). Raises ValueError for another.

    >>> from mingrad import nn
    >>> nn.init.calculate_gain("tanh")
    1.6666666666666667
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + (0.01 if param is None else param) ** 2))
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: expected one of {', '.join(gains)}, leaky_relu, got {nonlinearity!r}")
    return gains[nonlinearity]


def xavier_uniform_(tensor, gain=1.0, generator=random):
    """xavier_uniform_(tensor, gain=1.0): evenly between -k and k, k = gain * sqrt(6 / (fan in + fan out)). Source: Glorot and
    Bengio, Understanding the difficulty of training deep feedforward neural networks (2010)."""
    bound = gain * math.sqrt(6.0 / sum(_fans("xavier_uniform_", tensor)))
    return _fill("xavier_uniform_", tensor, lambda: generator.uniform(-bound, bound))


def xavier_normal_(tensor, gain=1.0, generator=random):
    """xavier_normal_(tensor, gain=1.0): normal, standard deviation gain * sqrt(2 / (fan in + fan out)); see xavier_uniform_."""
    std = gain * math.sqrt(2.0 / sum(_fans("xavier_normal_", tensor)))
    return _fill("xavier_normal_", tensor, lambda: generator.gauss(0.0, std))


def kaiming_uniform_(tensor, a=0.0, mode="fan_in", nonlinearity="leaky_relu", generator=random):
    """kaiming_uniform_(tensor, a=0.0, mode='fan_in', nonlinearity='leaky_relu'): evenly between -k and k, k = gain * sqrt(3 /
    fan).

    a: the negative slope of leaky_relu; mode: 'fan_in' or 'fan_out'; gain: calculate_gain(nonlinearity, a). Source: He, Zhang,
    Ren and Sun, Delving Deep into Rectifiers (2015).
    """
    bound = math.sqrt(3.0) * _kaiming("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return _fill("kaiming_uniform_", tensor, lambda: generator.uniform(-bound, bound))


def kaiming_normal_(tensor, a=0.0, mode="fan_in", nonlinearity="leaky_relu", generator=random):
    """kaiming_normal_(tensor, a=0.0, mode='fan_in', nonlinearity='leaky_relu'): normal, standard deviation gain / sqrt(fan);
    see kaiming_uniform_."""
    std = _kaiming("kaiming_normal_", tensor, a, mode, nonlinearity)
    return _fill("kaiming_normal_", tensor, lambda: generator.gauss(0.0, std))


def _kaiming(name, tensor, a, mode, nonlinearity):
    """The standard deviation of Kaiming's rule."""
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: expected mode to be 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(_fans(name, tensor)[mode == "fan_out"])
