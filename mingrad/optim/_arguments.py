"""Checks of what optimisers and schedules are given; each says what was expected and what came."""

from array import array

from .._core import _number as number  # noqa: F401
from ..engine import Variable


def doubles(values, what, count):
    """The numbers of a sequence of this length as a new array."""
    try:
        if isinstance(values, (str, bytes, bytearray)):
            raise TypeError
        found = array("d", values)
    except (TypeError, OverflowError):
        got = type(values).__name__
        raise TypeError(f"{what}: expected a sequence of {count} numbers, got {got}") from None
    if len(found) != count:
        raise ValueError(f"{what}: expected {count} numbers, got {len(found)}")
    return found


def real(x, what):
    """The value of a number, which may be nan, or of a Variable."""
    if isinstance(x, Variable):
        return x.data
    try:
        return array("d", [x])[0]
    except (TypeError, OverflowError):
        got = type(x).__name__
        raise TypeError(f"{what}: expected a number or a Variable, got {got}") from None


def whole(x, what, least=1):
    """x as an int, if it is one and not below least; one that a float may be made of."""
    if isinstance(x, bool) or not hasattr(x, "__index__"):
        raise TypeError(f"{what}: expected an int, got {x!r}")
    if x.__index__() < least:
        raise ValueError(f"{what}: expected an int not below {least}, got {x}")
    if x.__index__() >= 1 << 63:
        raise ValueError(f"{what}: expected an int below 2**63, got one with {x.__index__().bit_length()} bits")
    return x.__index__()


def choice(x, what, *choices):
    """x, if it is among the choices."""
    if x not in choices:
        raise ValueError(f"{what}: expected {' or '.join(map(repr, choices))}, got {x!r}")
    return x


def for_each_group(value, optimizer, what):
    """A list with an item for each parameter group: always the value, or the value's items."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{what}: expected {count}, one for each group, got {len(value)}")
    return list(value)


def keys(x):
    """A wrong argument for an error message: a dict's keys, or the type."""
    return f"a dict with {', '.join(map(repr, x))}" if isinstance(x, dict) else type(x).__name__
