"""Variable and what works on it: the names a micrograd user imports, from the compiled core.

Here are only the context managers; operations come from the table in csrc/ops.def, the type from csrc/variable.pxi.
Layers are in mingrad.nn.
"""

from contextlib import ContextDecorator

from . import _core
from ._core import (
    TapeInfo,
    Variable,
    VariableList,
    clamp,
    collect,
    dot,
    elu,
    leaky_relu,
    pow,
    softmax,
    stack,
    tape_info,
    tensor,
)

# One function for each row of the op table that has a name for people, and its NumPy name where that is another.
OPERATIONS = tuple(
    name
    for row in _core._ops()
    for name in (row["name"], row["alias"])
    if name and not name.startswith("_") and hasattr(_core, name)
)
globals().update({name: getattr(_core, name) for name in OPERATIONS})

__all__ = sorted(
    {
        "TapeInfo",
        "Variable",
        "VariableList",
        "clamp",
        "collect",
        "detect_anomaly",
        "dot",
        "elu",
        "enable_grad",
        "errstate",
        "is_grad_enabled",
        "leaky_relu",
        "no_grad",
        "pow",
        "softmax",
        "stack",
        "tape_info",
        "tensor",
        *OPERATIONS,
    }
)


class _Mode(_core.Mode, ContextDecorator):
    """What the context managers share: as a decorator each call has one of its own, since threads may call at once."""

    def _recreate_cm(self):
        return self._twin()


class no_grad(_Mode):
    """Context manager and decorator: inside, operations of this thread are computed but not recorded.

    Their results are constants (``requires_grad`` False). Other threads are not affected.

    >>> import mingrad
    >>> x = mingrad.Variable(2.0)
    >>> with mingrad.no_grad():
    ...     y = x * 3
    >>> y.data, y.requires_grad
    (6.0, False)
    """

    def __init__(self):
        self._set(off=True)


class enable_grad(_Mode):
    """Context manager and decorator: inside, operations of this thread are recorded, even within :class:`no_grad`.

    >>> import mingrad
    >>> x = mingrad.Variable(2.0)
    >>> with mingrad.no_grad(), mingrad.enable_grad():
    ...     y = x * 3
    >>> y.requires_grad
    True
    """

    def __init__(self):
        self._set(off=False)


def is_grad_enabled():
    """Whether operations of this thread are recorded.

    >>> import mingrad
    >>> mingrad.is_grad_enabled()
    True
    """
    return not _core._set_no_grad(None)


class errstate(_Mode):
    """Context manager and decorator: which float errors of this thread raise (NumPy's form).

    ``all``, ``divide``, ``over``, ``invalid``: ``'raise'`` (the default outside) or ``'ignore'``, which gives the IEEE
    result instead: divide a signed infinity or NaN for division by zero and poles such as log(0), over an infinity for
    results too large for a float, invalid NaN for operands outside a function's domain. Single settings win over ``all``;
    what is not named stays as it is.

    Raises ValueError for another setting.

    >>> import mingrad
    >>> with mingrad.errstate(all='ignore'):
    ...     mingrad.log(0.0), mingrad.exp(1000.0), mingrad.sqrt(-1.0)
    (-inf, inf, nan)
    """

    def __init__(self, *, all=None, divide=None, over=None, invalid=None):
        bits = {"raise": 0, "ignore": 0}
        for name, value in (("divide", divide), ("over", over), ("invalid", invalid)):
            value = all if value is None else value
            if value is not None:
                if value not in ("raise", "ignore"):
                    raise ValueError(f"errstate: expected {name} to be 'raise' or 'ignore', got {value!r}")
                bits[value] |= _core._ERRORS[name]
        self._set(raised=bits["raise"], ignored=bits["ignore"])


class detect_anomaly(_Mode):
    """Context manager and decorator: inside, the first operation of this thread that makes inf or nan raises.

    Forward: an operation whose result is nan, or infinite although its operands are finite. Backward, and in the transforms of
    mingrad.autodiff: a node whose contribution to an operand's adjoint (or whose tangent) is not finite. The error is a
    FloatingPointError with the operation, its operands and the line of your code that recorded it; no ``.grad`` has changed.
    Operations over sequences (sum, layers, losses) are looked at when the next operation begins, and at the end.

    What Python's floats raise by themselves (1 / 0, log(0)) is raised as ever. Costs nothing outside; inside about a
    microsecond for each operation.

    >>> import mingrad
    >>> with mingrad.detect_anomaly():
    ...     x = mingrad.Variable(1e200)
    ...     y = x * x  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    FloatingPointError: detect_anomaly: 1e+200 * 1e+200 is inf...
    """

    def __init__(self):
        self._set(anomaly=True)
