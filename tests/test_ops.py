"""Every op, checked against the op table: values, partials, errors, kinks, NaN, operand kinds.

The tests are made from the table of the core, `_core._ops()`; an op without golden rows, without
a stencil interval or without an n-ary case fails here. Three oracles: golden/ops.csv (mpmath,
golden/make_golden.py), Python's own float and math, and finite differences. Graphs of several ops,
memory and threads are not tested here. helpers.py has the comparisons.
"""

import contextlib
import decimal
import fractions
import importlib.util
import inspect
import itertools
import math
import operator
import pathlib
import random
from typing import NamedTuple

import pytest

import mingrad
from helpers import assert_close_ulps, assert_same_bits, same_bits, ulps
from mingrad import Variable, _core
from watch import no_trace, spell

INF, NAN = math.inf, math.nan
TINY = 5e-324
FOLDER = pathlib.Path(__file__).parent / "golden"

TABLE = {row["name"]: row for row in _core._ops()}
PUBLIC = {name: row for name, row in TABLE.items() if not name.startswith("_")}
UNARY = [name for name, row in PUBLIC.items() if row["kind"] == "unary"]
BINARY = [name for name, row in PUBLIC.items() if row["kind"] == "binary"]
NARY = [name for name, row in PUBLIC.items() if row["kind"] == "nary"]
# Terms of losses: golden values are compared here, all else about them is in test_losses.py.
# _polygamma is only met as a derivative of digamma: test_autodiff.py.
TERMS = [name for name, row in TABLE.items() if row["kind"] == "binary" and name not in PUBLIC and name != "_polygamma"]


# b is a setting: leaky_relu's slope, elu's alpha, a bound.
PARAMETERS = ("leaky_relu", "elu", "clamp_min", "clamp_max")
OPERANDS = [op for op in BINARY if op not in PARAMETERS]


def gradients(function, *args):
    """Value of function at fresh Variables with data args, and the gradient at each."""
    leaves = [Variable(x) for x in args]
    result = function(*leaves)
    result.backward()
    return result.data, [v.grad for v in leaves]


def gradients_of_list(function, args):
    return gradients(lambda *leaves: function(leaves), *args)


def slopes(op, *args):
    """Value and partials of op. A parameter is handed over as a number and has no partial."""
    if op in PARAMETERS or op == "_huber":
        return gradients(lambda x: spell(op)(x, args[1]), args[0])
    return gradients(spell(op), *args)


def show(op, args, got, expected, distance):
    at = ", ".join(f"{x!r} ({x.hex()})" for x in args)
    return (
        f"{op} at {at}: got {got!r} ({float(got).hex()}), expected {expected!r} ({float(expected).hex()}), {distance:.4g} ulps"
    )


# -- against mpmath -------------------------------------------------------------------------------


class Golden(NamedTuple):
    args: tuple
    value: float
    partials: tuple
    line: str


def read_golden():
    found = {}
    for line in (FOLDER / "ops.csv").read_text(encoding="ascii").splitlines(keepends=True):
        if line.startswith(("#", "op,")):
            continue
        op, *cells = line.rstrip("\n").split(",")
        a, b, value, da, db = (float.fromhex(cell) if cell else None for cell in cells)
        args, partials = ((a,), (da,)) if b is None else ((a, b), (da, db))
        found.setdefault(op, []).append(Golden(args, value, partials, line))
    return found


GOLDEN = read_golden()


class Bound(NamedTuple):
    """Allowed distance in ulps.

    floor: results smaller than this are measured in ulps of floor, where the reason says why an
    absolute error is all that can be had. A number, or a function of the op's arguments.
    """

    ulps: int
    reason: str
    floor: object = 0.0

    def excess(self, got, expected, args):
        """None if got is near enough, else its distance in ulps."""
        distance = ulps(got, expected)
        floor = self.floor(*args) if callable(self.floor) else self.floor
        if distance <= self.ulps:
            return None
        if abs(expected) < floor and abs(got - expected) <= self.ulps * math.ulp(floor):
            return None
        return distance


EXACT = Bound(0, "one rounding, by IEEE")
LIBM = Bound(1, "libm's own error is below one ulp")
FEW = Bound(2, "two or three roundings")

# A subnormal factor is rounded to 2**-1075, the other factor (below 2**10) magnifies that.
UNDERFLOW = 2.0**-1014


def reflection(x):
    """At negative arguments two terms, the larger near log|x| + 1.5, cancel around the roots."""
    return 4.0 if x < 0 else UNDERFLOW


def hinge_terms(a, b):
    """The product that is taken off 1, or 1."""
    return max(1.0, abs(a * b))


def bce_terms(p, t):
    """What is added up: two logarithms, none below -100."""
    return abs(1 - t) * abs(max(-100.0, math.log1p(-p))) + abs(t * max(-100.0, math.log(p)))


def logit_terms(x, t):
    """What is taken off each other: the sigmoid and the target."""
    return max(abs(t), 0.5)


def around(root):
    """A floor of 0.25 near the root."""
    return lambda x: 0.25 if abs(x - root) < 0.3 else UNDERFLOW


VALUE_BOUNDS = dict.fromkeys(
    "add sub mul div neg abs sign floor ceil square reciprocal relu sqrt maximum minimum "
    "clamp_min clamp_max leaky_relu mod".split(),
    EXACT,
) | {
    "floordiv": Bound(1, "Python's own way: the remainder is taken off, then one division"),
    "sigmoid": FEW,
    "softplus": FEW,
    "elu": FEW,
    "tanh": FEW,
    "sinh": FEW,
    "cosh": FEW,
    "asinh": FEW,
    "acosh": FEW,
    "atanh": FEW,
    "log10": FEW,
    "log1p": FEW,
    "expm1": FEW,
    "gelu": Bound(4, "libm's erfc is off by up to 2, three roundings follow", UNDERFLOW),
    "silu": Bound(3, "sigmoid is off by up to 2, one rounding follows", UNDERFLOW),
    "cbrt": Bound(4, "glibc states 4 for its cbrt; the bits are those of math.cbrt"),
    "erfc": Bound(4, "glibc states 5 for its erfc; the bits are those of math.erfc"),
    "lgamma": Bound(8, "the bits are those of math.lgamma, which is absolute about its roots", 2.0),
    "digamma": Bound(3, "recurrence, series: a rounding for each of up to ten terms", reflection),
    "_absolute_error": EXACT,
    "_squared_error": FEW,
    "_huber": FEW,
    "_hinge": Bound(1, "the product is rounded before it is taken off 1", hinge_terms),
    "_bce": Bound(
        4, "two products of a rounded target and a logarithm; for a target outside [0, 1] they have different signs", bce_terms
    ),
    "_bce_logits": Bound(
        3, "the product is rounded before it is taken off x; a logarithm", lambda x, t: max(abs(x), abs(x * t))
    ),
}
PARTIAL_BOUNDS = dict.fromkeys(
    "add-a add-b sub-a sub-b mul-a mul-b neg-a abs-a sign-a floor-a ceil-a square-a relu-a "
    "maximum-a maximum-b minimum-a minimum-b clamp_min-a clamp_max-a leaky_relu-a floordiv-a "
    "floordiv-b mod-a div-a".split(),
    EXACT,
) | {
    "sin-a": LIBM,
    "cos-a": LIBM,
    "exp-a": LIBM,
    "expm1-a": LIBM,
    "sigmoid-a": Bound(4, "the product of two sigmoids, each off by up to 2", UNDERFLOW),
    "silu-a": Bound(4, "two terms of 0.22 cancel at the root, -1.278", around(-1.278)),
    "gelu-a": Bound(4, "two terms of 0.23 cancel at the root, -0.752", around(-0.752)),
    "tanh-a": Bound(4, "the square doubles the relative error of exp and a division"),
    "cbrt-a": Bound(10, "the square doubles the relative error of libm's cbrt, up to 4"),
    "pow-a": Bound(3, "a power, a difference and a product", UNDERFLOW),
    "pow-b": Bound(3, "a power, a logarithm and a product", UNDERFLOW),
    "lgamma-a": Bound(3, "as digamma", reflection),
    "digamma-a": Bound(4, "recurrence and series: a rounding for each of up to ten terms"),
    "_squared_error-a": EXACT,
    "_squared_error-b": EXACT,
    "_absolute_error-a": EXACT,
    "_absolute_error-b": EXACT,
    "_huber-a": EXACT,
    "_hinge-a": EXACT,
    "_hinge-b": EXACT,
    "_bce-a": Bound(3, "two differences, a product and a division"),
    "_bce-b": Bound(2, "two logarithms cancel around 0.5", lambda p, t: 0.5),
    "_bce_logits-a": Bound(2, "a sigmoid and the target cancel", logit_terms),
    "_bce_logits-b": EXACT,
}


def value_bound(op):
    return VALUE_BOUNDS.get(op, LIBM)


def partial_bound(op, letter):
    return PARTIAL_BOUNDS.get(f"{op}-{letter}", FEW)


def report(misses):
    misses.sort(reverse=True)
    assert not misses, f"{len(misses)} misses, the worst:\n" + "\n".join(m[1] for m in misses[:6])


@pytest.mark.parametrize("op", UNARY + BINARY + TERMS)
def test_value_matches_golden(op):
    bound, misses = value_bound(op), []
    for row in GOLDEN[op]:
        got = slopes(op, *row.args)[0]
        distance = bound.excess(got, row.value, row.args)
        if distance is not None:
            misses.append((distance, show(op, row.args, got, row.value, distance)))
    report(misses)


PARTIALS = [(op, "a") for op in UNARY] + [(op, letter) for op in BINARY for letter in "ab"]
PARTIALS = [(op, letter) for op, letter in PARTIALS if not (op in PARAMETERS and letter == "b")]

WITH_TERMS = PARTIALS + [(op, x) for op in TERMS for x in "ab" if (op, x) != ("_huber", "b")]


@pytest.mark.parametrize("op, letter", WITH_TERMS, ids=[f"{op}-{x}" for op, x in WITH_TERMS])
def test_partial_matches_golden(op, letter):
    bound, misses = partial_bound(op, letter), []
    place = "ab".index(letter)
    for row in GOLDEN[op]:
        got, expected = slopes(op, *row.args)[1][place], row.partials[place]
        distance = bound.excess(got, expected, row.args)
        if distance is not None:
            misses.append((distance, show(f"d{letter} {op}", row.args, got, expected, distance)))
    report(misses)


def test_every_op_has_golden_rows():
    assert set(UNARY + BINARY + TERMS) == set(GOLDEN)


def test_every_bound_is_of_an_op_and_has_a_reason():
    assert set(VALUE_BOUNDS) <= set(UNARY + BINARY + TERMS)
    assert set(PARTIAL_BOUNDS) <= {f"{op}-{letter}" for op, letter in WITH_TERMS}
    assert all(bound.reason for bound in (VALUE_BOUNDS | PARTIAL_BOUNDS).values())


@pytest.mark.parametrize("op", UNARY + BINARY + TERMS)
def test_golden_rows_are_made_again_byte_for_byte(op):
    pytest.importorskip("mpmath")
    maker = load_maker()
    rows = GOLDEN[op]
    for row in random.Random(op).sample(rows, 3):
        assert maker.row(op, *row.args) == row.line


def load_maker():
    spec = importlib.util.spec_from_file_location("make_golden", FOLDER / "make_golden.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker


# -- against float and math -----------------------------------------------------------------------


def from_math(name):
    return getattr(math, name, None)  # math.exp2 and math.cbrt came with Python 3.11


def whole(function):
    """floor or ceil as a float: math's gives an int, and no int is inf or nan."""

    def rounded(x):
        return float(function(x)) if math.isfinite(x) else x

    return rounded


def digamma_domain(x):
    """A pole is a ValueError as for math.lgamma; nearer to 0 than 1e-308, -1/x is too large."""
    if x == -INF or (x <= 0 and x == math.floor(x)):
        raise ValueError
    if abs(x) < 5e-309:
        raise OverflowError
    return Ellipsis


def no_error(*args):
    return Ellipsis


def real_power(a, b):
    """float's power; ValueError where it turns complex (as math.pow)."""
    if -INF < a < 0 and math.isfinite(b) and b != math.floor(b):
        raise ValueError
    return a**b


def choose(function):
    def chosen(a, b):
        return NAN if math.isnan(a) or math.isnan(b) else function(a, b)

    return chosen


# What Python says of the same numbers: a float, an exception, or Ellipsis where math has no such
# function (then only errors are compared).
PYTHON = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": real_power,
    "neg": operator.neg,
    "abs": abs,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1.0 / x,
    "sign": lambda x: x if x == 0 or math.isnan(x) else math.copysign(1.0, x),
    "floor": whole(math.floor),
    "ceil": whole(math.ceil),
    "relu": lambda x: 0.0 if x < 0 else x,
    "maximum": choose(max),
    "minimum": choose(min),
    "clamp_min": choose(max),
    "clamp_max": choose(min),
    "leaky_relu": lambda a, b: a if a > 0 else a * b,
    "elu": lambda a, b: a if a > 0 else b * math.expm1(a),
    "gelu": no_error,
    "silu": no_error,
    "sigmoid": no_error,
    "softplus": no_error,
    "digamma": digamma_domain,
} | {
    name: from_math(name)
    for name in (
        "exp exp2 expm1 log log2 log10 log1p sqrt cbrt sin cos tan asin acos atan sinh cosh tanh "
        "asinh acosh atanh erf erfc lgamma atan2 hypot"
    ).split()
}

# Zeros of either sign are one number to these: Python's choice between them is by operand order
# or by way of an int.
ZERO_SIGN_FREE = {"maximum", "minimum", "clamp_min", "clamp_max", "floor", "ceil", "sign"}


def python_says(op, args):
    """(float or Ellipsis, None) or (None, exception type)."""
    try:
        return PYTHON[op](*args), None
    except (ArithmeticError, ValueError) as error:
        return None, type(error)


def agree(op, got, expected):
    if expected is Ellipsis:
        return True
    if op in ZERO_SIGN_FREE and got == expected == 0:
        return True
    return same_bits(got, expected)


def test_every_op_is_compared_with_python():
    assert set(PYTHON) == set(UNARY + BINARY)


def magnitudes(rng, n):
    for _ in range(n):
        x = math.ldexp(rng.uniform(1, 2), round(rng.triangular(-1074, 1023, 0)))
        yield rng.choice((x, -x))
        yield rng.uniform(-4, 4)
        yield rng.uniform(-1, 1)
        yield float(rng.randint(-12, 12))


@pytest.mark.parametrize("op", [op for op in UNARY + BINARY if PYTHON[op] not in (no_error, digamma_domain)])
def test_value_has_the_bits_of_python(op):
    if PYTHON[op] is None:
        pytest.skip(f"math.{op} is not in this Python")
    rng = random.Random(op)
    if op in UNARY:
        points = [(x,) for x in magnitudes(rng, 500)]
    else:
        points = list(zip(magnitudes(rng, 500), magnitudes(rng, 500)))
        xs = list(magnitudes(rng, 500))
        rng.shuffle(xs)
        points += list(zip(xs, magnitudes(rng, 500)))
        points += [(x, x * rng.uniform(0.9, 1.1)) for x in xs[:400]]
    function, misses, compared = spell(op), [], 0
    for args in points:
        expected, error = python_says(op, args)
        if error is None:
            compared += 1
            got = function(Variable(args[0]), *args[1:]).data
            if not agree(op, got, expected):
                distance = ulps(got, expected)
                misses.append((distance, show(op, args, got, expected, distance)))
    assert compared > 100
    report(misses)


AWKWARD = [
    s * x
    for x in (
        0.0,
        TINY,
        2.2250738585072014e-308,
        1e-200,
        1e-20,
        0.5,
        1 - 2**-53,
        1.0,
        1 + 2**-52,
        1.5,
        2.0,
        3.0,
        1 / 3,
        100.0,
        171.7,
        709.7,
        710.0,
        745.2,
        1024.0,
        1075.0,
        1e16,
        1e154,
        1e200,
        1e308,
        1.7976931348623157e308,
        INF,
    )
    for s in (1.0, -1.0)
] + [NAN]
AWKWARD_PAIRS = list(itertools.product(AWKWARD, repeat=2))


def awkward(op):
    return [(x,) for x in AWKWARD] if op in UNARY else AWKWARD_PAIRS


def spellings(op, args):
    """Calls that make the same result from Variables, and from Variables and numbers."""
    function = spell(op)
    yield lambda: function(*map(Variable, args)) if op not in PARAMETERS else function(Variable(args[0]), args[1])
    if op in OPERANDS:
        yield lambda: function(Variable(args[0]), args[1])
        yield lambda: function(args[0], Variable(args[1]))


def outcome(call):
    try:
        return call().data, None
    except Exception as error:
        return None, type(error)


@pytest.mark.parametrize("op", UNARY + BINARY)
def test_exception_is_the_one_of_python(op):
    if PYTHON[op] is None:
        pytest.skip(f"math.{op} is not in this Python")
    misses = []
    for args in awkward(op):
        expected = python_says(op, args)
        for i, call in enumerate(spellings(op, args)):
            got = outcome(call)
            if got[1] is not expected[1] or (got[1] is None and not agree(op, got[0], expected[0])):
                misses.append((i, f"{op}{args}, spelling {i}: got {got}, expected {expected}"))
    report(misses)


@pytest.mark.parametrize("op", UNARY + BINARY)
def test_function_of_numbers_is_a_float_or_the_same_exception(op):
    function = mingrad.pow if op == "pow" else spell(op)
    if PYTHON[op] is None:
        pytest.skip(f"math.{op} is not in this Python")
    for args in awkward(op):
        if op in OPERANDS and op not in ("pow", "atan2", "hypot", "maximum", "minimum"):
            break  # an operator between numbers is Python's own
        expected, error = python_says(op, args)
        try:
            got = function(*args)
        except Exception as raised:
            assert type(raised) is error, (op, args, raised)
        else:
            assert error is None, (op, args, got)
            assert type(got) is float, (op, args, got)
            assert agree(op, got, expected), (op, args, got, expected)


def odd(x):
    return math.fmod(x, 2.0) in (1.0, -1.0)


def divide(a, b):
    """IEEE a / b."""
    if b:
        return a / b
    if a == 0 or math.isnan(a):
        return NAN
    return math.copysign(INF, a) * math.copysign(1.0, b)


POLES = {
    "log": {0.0: -INF},
    "log2": {0.0: -INF},
    "log10": {0.0: -INF},
    "log1p": {-1.0: -INF},
    "atanh": {1.0: INF, -1.0: -INF},
}


def ieee(op, args):
    """The IEEE result where Python raises (C99 Annex F where that names one)."""
    a, b = args if len(args) == 2 else (args[0], None)
    if op == "div" or op == "floordiv":
        return divide(a, b)
    if op == "reciprocal":
        return divide(1.0, a)
    if op == "lgamma":
        return INF
    if op == "digamma":
        return math.copysign(INF, -a) if abs(a) < 1 else NAN
    if op == "pow":
        if a == 0 or (abs(a) > 1 and b > 0) or (abs(a) < 1 and b < 0):
            if a >= 0 or b == math.floor(b):
                return math.copysign(INF, a) if odd(b) else INF
        return NAN
    if op in ("exp", "exp2", "expm1", "cosh"):
        return INF
    if op == "sinh":
        return math.copysign(INF, a)
    return POLES.get(op, {}).get(a, NAN)


@pytest.mark.parametrize("op", UNARY + BINARY)
def test_with_errors_ignored_the_result_is_ieee(op):
    if PYTHON[op] is None:
        pytest.skip(f"math.{op} is not in this Python")
    misses, raising = [], 0
    with mingrad.errstate(all="ignore"):
        for args in awkward(op):
            expected, error = python_says(op, args)
            if error is not None:
                expected = ieee(op, args)
                raising += 1
            for i, call in enumerate(spellings(op, args)):
                got = outcome(call)
                if got[1] is not None or not agree(op, got[0], expected):
                    misses.append((i, f"{op}{args}, spelling {i}: {got}, not {expected}"))
    report(misses)


def test_errstate_ends_with_its_block_and_nests():
    x = Variable(0.0)
    with mingrad.errstate(all="ignore"):
        assert mingrad.log(x).data == -INF
        with mingrad.errstate(all="raise"), pytest.raises(ValueError):
            mingrad.log(x)
        assert mingrad.log(0.0) == -INF
    with pytest.raises(ValueError):
        mingrad.log(x)
    with contextlib.suppress(KeyError), mingrad.errstate(all="ignore"):
        raise KeyError
    with pytest.raises(ZeroDivisionError):
        1 / x


def test_ignored_errors_leave_ieee_gradients():
    with mingrad.errstate(all="ignore"):
        assert gradients(mingrad.log, 0.0) == (-INF, [INF])
        value, (slope,) = gradients(mingrad.sqrt, -1.0)
        assert math.isnan(value) and math.isnan(slope)
        assert gradients(mingrad.exp, 710.0) == (INF, [INF])
        assert gradients(mingrad.atanh, 1.0) == (INF, [INF])
        assert gradients(lambda x: 1 / x, 0.0) == (INF, [-INF])
        assert gradients(mingrad.log1p, -1.0) == (-INF, [INF])


FAILING = {
    "div": (1.0, 0.0),
    "floordiv": (1.0, 0.0),
    "mod": (1.0, 0.0),
    "pow": (0.0, -1.0),
    "reciprocal": (0.0,),
    "exp": (710.0,),
    "exp2": (1025.0,),
    "expm1": (710.0,),
    "sinh": (-711.0,),
    "cosh": (711.0,),
    "log": (0.0,),
    "log2": (-1.0,),
    "log10": (-0.0,),
    "log1p": (-1.0,),
    "sqrt": (-1.0,),
    "sin": (INF,),
    "cos": (INF,),
    "tan": (-INF,),
    "asin": (1.5,),
    "acos": (-1.5,),
    "acosh": (0.5,),
    "atanh": (1.0,),
    "lgamma": (-1.0,),
    "digamma": (0.0,),
}


@pytest.mark.parametrize("op", UNARY + BINARY)
def test_failed_op_leaves_no_trace(op):
    args = FAILING.get(op)
    leaves = [Variable(x) for x in args or (1.0, 2.0)[: 1 + (op in BINARY)]]
    function = spell(op)
    if args is None and PYTHON[op]:
        for point in awkward(op):
            assert python_says(op, point)[1] is None, f"{op} fails at {point}: put it into FAILING"
    with no_trace():
        if args is not None:
            with pytest.raises((ArithmeticError, ValueError)):
                function(*leaves)
            if op in OPERANDS:
                with pytest.raises((ArithmeticError, ValueError)):
                    function(leaves[0], args[1])
                with pytest.raises((ArithmeticError, ValueError)):
                    function(args[0], leaves[1])
        with pytest.raises(TypeError):
            function(leaves[0], "1.0")
        with pytest.raises(TypeError):
            function(leaves[0], *leaves[1:], 1.0, 2.0, 3.0)
    assert [v.grad for v in leaves] == [0.0] * len(leaves)
    assert [v.data for v in leaves] == list(args or (1.0, 2.0)[: len(leaves)])


# -- kinks, NaN, infinities, signed zeros ---------------------------------------------------------

# (op, arguments, value, partials), by PyTorch's rule: the derivative; else the minimum-norm
# subgradient; else by continuity.
KINKS = [
    ("relu", (0.0,), 0.0, [0.0]),
    ("relu", (-0.0,), 0.0, [0.0]),
    ("relu", (TINY,), TINY, [1.0]),
    ("relu", (-TINY,), 0.0, [0.0]),
    ("abs", (0.0,), 0.0, [0.0]),
    ("abs", (-0.0,), 0.0, [0.0]),
    ("abs", (-TINY,), TINY, [-1.0]),
    ("sign", (0.0,), 0.0, [0.0]),
    ("floor", (2.0,), 2.0, [0.0]),
    ("ceil", (-2.0,), -2.0, [0.0]),
    ("hypot", (0.0, 0.0), 0.0, [0.0, 0.0]),
    ("hypot", (-0.0, 0.0), 0.0, [0.0, 0.0]),
    ("hypot", (0.0, 2.0), 2.0, [0.0, 1.0]),
    ("atan2", (0.0, 0.0), 0.0, [0.0, 0.0]),
    ("atan2", (-0.0, -0.0), -math.pi, [0.0, 0.0]),
    ("maximum", (2.0, 2.0), 2.0, [0.5, 0.5]),
    ("minimum", (2.0, 2.0), 2.0, [0.5, 0.5]),
    ("maximum", (0.0, -0.0), 0.0, [0.5, 0.5]),
    ("minimum", (0.0, -0.0), 0.0, [0.5, 0.5]),
    ("maximum", (INF, INF), INF, [0.5, 0.5]),
    ("minimum", (-INF, 1.0), -INF, [1.0, 0.0]),
    ("clamp_min", (2.0, 2.0), 2.0, [1.0]),
    ("clamp_max", (2.0, 2.0), 2.0, [1.0]),
    ("clamp_min", (1.0, 2.0), 2.0, [0.0]),
    ("clamp_max", (3.0, 2.0), 2.0, [0.0]),
    ("leaky_relu", (0.0, 0.01), 0.0, [0.01]),
    ("elu", (0.0, 1.0), 0.0, [1.0]),
    ("sqrt", (0.0,), 0.0, [INF]),
    ("cbrt", (0.0,), 0.0, [INF]),
    ("cbrt", (-0.0,), 0.0, [INF]),
    ("asin", (1.0,), math.pi / 2, [INF]),
    ("asin", (-1.0,), -math.pi / 2, [INF]),
    ("acos", (1.0,), 0.0, [-INF]),
    ("acos", (-1.0,), math.pi, [-INF]),
    ("acosh", (1.0,), 0.0, [INF]),
    ("pow", (0.0, 0.0), 1.0, [0.0, 0.0]),
    ("pow", (0.0, 0.5), 0.0, [INF, 0.0]),
    ("pow", (0.0, 1.0), 0.0, [1.0, 0.0]),
    ("pow", (0.0, 2.0), 0.0, [0.0, 0.0]),
    ("pow", (0.0, 3.0), 0.0, [0.0, 0.0]),
    ("pow", (-2.0, 3.0), -8.0, [12.0, NAN]),
    ("pow", (-2.0, 0.0), 1.0, [0.0, NAN]),
    ("pow", (-2.0, 1.0), -2.0, [1.0, NAN]),
    ("pow", (2.0, 0.0), 1.0, [0.0, math.log(2.0)]),
    ("pow", (1.0, 5.0), 1.0, [5.0, 0.0]),
    ("pow", (1.0, NAN), 1.0, [NAN, 0.0]),
    ("pow", (NAN, 0.0), 1.0, [0.0, NAN]),
    ("pow", (INF, 0.0), 1.0, [0.0, INF]),
    ("div", (0.0, 2.0), 0.0, [0.5, -0.0]),
    ("div", (1e-200, 1e-200), 1.0, [1e200, -1e200]),
    ("mul", (0.0, 3.0), 0.0, [3.0, 0.0]),
    ("mod", (7.0, 2.0), 1.0, [1.0, -3.0]),
    ("mod", (-7.0, 2.0), 1.0, [1.0, 4.0]),
    ("floordiv", (7.0, 2.0), 3.0, [0.0, 0.0]),
    ("tanh", (1000.0,), 1.0, [0.0]),
    ("sigmoid", (1000.0,), 1.0, [0.0]),
    ("sigmoid", (-1000.0,), 0.0, [0.0]),
    ("exp", (-1000.0,), 0.0, [0.0]),
    ("softplus", (1000.0,), 1000.0, [1.0]),
    ("softplus", (-1000.0,), 0.0, [0.0]),
]


@pytest.mark.parametrize("op, args, value, partials", KINKS, ids=[f"{k[0]}({', '.join(map(str, k[1]))})" for k in KINKS])
def test_kink_follows_the_written_rule(op, args, value, partials):
    got, got_partials = slopes(op, *args)
    assert_close_ulps(got, value)
    for g, p in zip(got_partials, partials, strict=True):
        assert_close_ulps(g, p)


EXPONENTS = [
    (0.0, 0, 1.0, 0.0),
    (-0.0, 0.0, 1.0, 0.0),
    (INF, 0, 1.0, 0.0),
    (-INF, 0, 1.0, 0.0),
    (NAN, 0, 1.0, 0.0),
    (-3.0, 0, 1.0, 0.0),
    (0.0, 1, 0.0, 1.0),
    (-0.0, 1, 0.0, 1.0),
    (-3.0, 1, -3.0, 1.0),
    (0.0, 2, 0.0, 0.0),
    (0.0, 3, 0.0, 0.0),
    (0.0, 0.5, 0.0, INF),
    (0.0, 1.5, 0.0, 0.0),
    (-2.0, 2, 4.0, -4.0),
    (-2.0, 3, -8.0, 12.0),
    (-2.0, 3.0, -8.0, 12.0),
    (-2.0, -1, -0.5, -0.25),
    (-0.5, -2, 4.0, 16.0),
    (3.0, True, 3.0, 1.0),
]


@pytest.mark.parametrize("base, exponent, value, slope", EXPONENTS)
def test_constant_exponent_never_takes_a_logarithm(base, exponent, value, slope):
    for function in (operator.pow, mingrad.pow):
        got, (got_slope,) = gradients(lambda x, f=function: f(x, exponent), base)
        assert_close_ulps(got, value)
        assert_close_ulps(got_slope, slope)


def test_constant_base_has_the_exponents_gradient():
    assert gradients(lambda y: 2.0**y, 3.0) == (8.0, [8.0 * math.log(2.0)])
    assert gradients(lambda y: 0.0**y, 2.0) == (0.0, [0.0])
    assert gradients(lambda y: 0**y, 0.0) == (1.0, [0.0])
    assert gradients(lambda y: 1**y, NAN) == (1.0, [0.0])
    value, (slope,) = gradients(lambda y: (-2.0) ** y, 3.0)
    assert value == -8.0 and math.isnan(slope)


# Where a partial does not depend on the operand itself, a NaN there leaves it as it is.
LINEAR = {"add-a", "add-b", "sub-a", "sub-b", "neg-a", "mul-a", "mul-b", "div-a", "mod-a"}
LINEAR |= {"floordiv-a", "floordiv-b"}
PARTIALS_AND_PARAMETERS = PARTIALS + [(op, "b") for op in PARAMETERS]


def nan_is_swallowed(op, args):
    """Whether float itself, or the op's definition, gives a number with this NaN among args."""
    if op == "pow":
        return args[1] == 0 or args[0] == 1
    if op in ("leaky_relu", "elu"):
        return args[0] > 0  # the setting is not used there
    return op in ("div", "floordiv", "mod") and args[1] == 0  # an error


@pytest.mark.parametrize("op, letter", PARTIALS_AND_PARAMETERS, ids=[f"{op}-{x}" for op, x in PARTIALS_AND_PARAMETERS])
def test_nan_propagates_to_value_and_gradient(op, letter):
    place = "ab".index(letter)
    for other in (0.5, -0.5, 0.0, 1.0, 2.0, -3.0, 1e300, NAN):
        args = [other] * (1 + (op in BINARY))
        args[place] = NAN
        if nan_is_swallowed(op, args):
            continue
        value, partials = slopes(op, *args)
        assert math.isnan(value), (args, value)
        if op in PARAMETERS and letter == "b" and not op.startswith("clamp"):
            continue  # the slope for x is then a matter of the setting, not of a bound
        slope = partials[0 if op in PARAMETERS else place]
        if f"{op}-{letter}" not in LINEAR and (op, args[-1]) != ("pow", 1.0):
            assert math.isnan(slope), (args, partials)


@pytest.mark.parametrize("op", ["maximum", "minimum"])
def test_nan_on_either_side_of_a_choice_reaches_both_gradients(op):
    for args in ((NAN, 1.0), (1.0, NAN), (NAN, NAN), (NAN, INF), (-INF, NAN)):
        value, partials = slopes(op, *args)
        assert math.isnan(value)
        assert all(math.isnan(p) for p in partials)


def test_nan_reaches_the_result_from_a_number_on_either_side():
    for op in OPERANDS:
        if op == "pow":
            continue
        assert math.isnan(spell(op)(Variable(2.0), NAN).data)
        assert math.isnan(spell(op)(NAN, Variable(2.0)).data)
    assert math.isnan(mingrad.clamp(Variable(NAN), 0.0, 1.0).data)
    assert math.isnan(mingrad.clamp(Variable(0.5), NAN, 1.0).data)
    assert math.isnan(mingrad.clamp(Variable(0.5), 0.0, NAN).data)


# op: (value, slope) at +inf, then at -inf; None where Python raises or no limit is promised.
INFINITIES = {
    "neg": ((-INF, -1.0), (INF, -1.0)),
    "abs": ((INF, 1.0), (INF, -1.0)),
    "sign": ((1.0, 0.0), (-1.0, 0.0)),
    "floor": ((INF, 0.0), (-INF, 0.0)),
    "ceil": ((INF, 0.0), (-INF, 0.0)),
    "relu": ((INF, 1.0), (0.0, 0.0)),
    "gelu": (None, None),
    "silu": (None, None),
    "softplus": ((INF, 1.0), (0.0, 0.0)),
    "sigmoid": ((1.0, 0.0), (0.0, 0.0)),
    "tanh": ((1.0, 0.0), (-1.0, 0.0)),
    "exp": ((INF, INF), (0.0, 0.0)),
    "exp2": ((INF, INF), (0.0, 0.0)),
    "expm1": ((INF, INF), (-1.0, 0.0)),
    "log": ((INF, 0.0), None),
    "log2": ((INF, 0.0), None),
    "log10": ((INF, 0.0), None),
    "log1p": ((INF, 0.0), None),
    "sqrt": ((INF, 0.0), None),
    "cbrt": ((INF, 0.0), (-INF, 0.0)),
    "square": ((INF, INF), (INF, -INF)),
    "reciprocal": ((0.0, 0.0), (0.0, 0.0)),
    "sin": (None, None),
    "cos": (None, None),
    "tan": (None, None),
    "asin": (None, None),
    "acos": (None, None),
    "atan": ((math.pi / 2, 0.0), (-math.pi / 2, 0.0)),
    "sinh": ((INF, INF), (-INF, INF)),
    "cosh": ((INF, INF), (INF, -INF)),
    "asinh": ((INF, 0.0), (-INF, 0.0)),
    "acosh": ((INF, 0.0), None),
    "atanh": (None, None),
    "erf": ((1.0, 0.0), (-1.0, 0.0)),
    "erfc": ((0.0, 0.0), (2.0, 0.0)),
    "lgamma": ((INF, INF), None),
    "digamma": ((INF, 0.0), None),
}


@pytest.mark.parametrize("op", UNARY)
def test_infinite_operand_gives_the_limit(op):
    for x, expected in zip((INF, -INF), INFINITIES[op], strict=True):
        if expected is not None:
            value, (slope,) = slopes(op, x)
            assert_close_ulps(value, expected[0], what=f"{op}({x})")
            assert_close_ulps(slope, expected[1], what=f"slope of {op}({x})")


ODD = "neg sin tan asin atan sinh asinh tanh atanh erf expm1 log1p cbrt sqrt relu silu gelu".split()


@pytest.mark.parametrize("op", ODD)
def test_sign_of_zero_is_kept(op):
    for zero in (0.0, -0.0):
        assert_same_bits(spell(op)(Variable(zero)).data, -zero if op == "neg" else zero)
        if op != "neg":
            assert_same_bits(spell(op)(zero), zero)


def test_zero_times_infinity_on_the_way_back_is_nan():
    value, (slope,) = gradients(lambda x: 0 * mingrad.sqrt(x), 0.0)
    assert value == 0.0 and math.isnan(slope)
    value, (slope,) = gradients(lambda x: mingrad.relu(-mingrad.sqrt(x)), 0.0)
    assert value == 0.0 and math.isnan(slope)


def test_a_node_that_is_not_reached_adds_nothing():
    x = Variable(0.0)
    unused = mingrad.sqrt(x)
    (x * 3.0).backward()
    assert x.grad == 3.0 and unused.data == 0.0


# -- kinds of operands ----------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERANDS)
def test_number_on_either_side_gives_the_same_value_and_gradient(op):
    function = spell(op)
    for row in GOLDEN[op][::2]:
        a, b = row.args
        value, (da, db) = gradients(function, a, b)
        left, (left_slope,) = gradients(lambda x, b=b: function(x, b), a)
        right, (right_slope,) = gradients(lambda x, a=a: function(a, x), b)
        assert_same_bits(left, value, f"{op}(Variable({a!r}), {b!r})")
        assert_same_bits(right, value, f"{op}({a!r}, Variable({b!r}))")
        assert_same_bits(left_slope, da, f"da {op}(Variable({a!r}), {b!r})")
        assert_same_bits(right_slope, db, f"db {op}({a!r}, Variable({b!r}))")


@pytest.mark.parametrize("op", UNARY + OPERANDS)
def test_backward_never_raises_and_awkward_numbers_have_the_gradients_of_variables(op):
    function = spell(op)
    with mingrad.errstate(all="ignore"):
        for args in awkward(op):
            _, partials = gradients(function, *args)
            if op in OPERANDS:
                a, b = args
                _, (da,) = gradients(lambda x, b=b: function(x, b), a)
                _, (db,) = gradients(lambda x, a=a: function(a, x), b)
                assert_same_bits(da, partials[0], f"da {op}{args}, b a number")
                assert_same_bits(db, partials[1], f"db {op}{args}, a a number")


@pytest.mark.parametrize("op", OPERANDS)
def test_int_and_bool_operands_count_as_floats(op):
    function = spell(op)
    for number in (3, True):
        for x in (2.0, 0.75):
            expected = gradients(lambda v, n=float(number): function(v, n), x)
            assert gradients(lambda v, n=number: function(v, n), x) == expected
            expected = gradients(lambda v, n=float(number): function(n, v), x)
            assert gradients(lambda v, n=number: function(n, v), x) == expected


@pytest.mark.parametrize("op", OPERANDS)
def test_same_variable_twice_adds_both_partials(op):
    _, (da, db) = gradients(spell(op), 1.25, 1.25)
    _, (both,) = gradients(lambda x: spell(op)(x, x), 1.25)
    assert_same_bits(both, da + db)


def test_divmod_is_floor_and_remainder():
    for a, b in ((7.5, 2.0), (-7.5, 2.0), (7.5, -2.0), (0.3, 0.1)):
        x, y = Variable(a), Variable(b)
        for q, r in (divmod(x, y), divmod(x, b), divmod(a, y)):
            assert (q.data, r.data) == divmod(a, b)
        quotient, remainder = divmod(x, y)
        remainder.backward()
        assert (x.grad, y.grad) == (1.0, -(a // b))
        x.zero_grad()
        y.zero_grad()
        quotient.backward()
        assert (x.grad, y.grad) == (0.0, 0.0)
    with pytest.raises(ZeroDivisionError):
        divmod(Variable(1.0), 0)


ALIASES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
    "atan2": "arctan2",
}


@pytest.mark.parametrize("op", UNARY + ["atan2", "hypot", "maximum", "minimum", "pow"])
def test_method_alias_and_function_agree(op):
    names = [op, ALIASES[op]] if op in ALIASES else [op]
    args = (1.25,) if op == "acosh" else (0.6,) if op in UNARY else (0.6, 2.5)
    expected = slopes(op, *args)
    for name in names:
        function = getattr(mingrad, name)
        assert gradients(function, *args) == expected
        assert function(*args) == expected[0]
        assert type(function(*args)) is float
        if op != "pow":
            assert gradients(lambda x, *rest, n=name: getattr(x, n)(*rest), *args) == expected


@pytest.mark.parametrize("op", UNARY + BINARY)
def test_result_names_its_op_and_operands(op):
    x, y = Variable(0.6 + (op == "acosh")), Variable(2.5)
    symbol = TABLE[op]["symbol"]
    if op in UNARY:
        result = spell(op)(x)
        assert result._prev == (x,)
    elif op in OPERANDS:
        result = spell(op)(x, y)
        assert result._prev == (x, y)
    else:
        result = spell(op)(x, 2.5)
        assert result._prev[0] is x
    assert result._op == symbol
    assert not result.is_leaf and x.is_leaf
    assert type(result) is Variable


def test_symbols_of_the_python_operators():
    x, y = Variable(2.0), Variable(3.0)
    results = [x + y, x - y, x * y, x / y, x // y, x % y, x**y, -x, abs(x)]
    assert [v._op for v in results] == ["+", "-", "*", "/", "//", "%", "**", "neg", "abs"]
    assert (x**2)._op == "**2" and (x**2)._prev == (x,)
    assert (+x).data == 2.0


@pytest.mark.parametrize("op", UNARY + ["atan2", "hypot", "maximum", "minimum", "pow"])
def test_constant_operands_ask_for_no_gradient(op):
    args = [Variable(0.6 + (op == "acosh"), requires_grad=False)]
    args += [Variable(2.5, requires_grad=False)] * (op in BINARY)
    assert spell(op)(*args).requires_grad is False


def test_clamp_takes_two_bounds_one_or_none_as_method_and_function():
    for x, slope in ((-2.0, 0.0), (-1.0, 1.0), (0.5, 1.0), (3.0, 1.0), (4.0, 0.0)):
        expected = (min(max(x, -1.0), 3.0), [slope])
        assert gradients(lambda v: mingrad.clamp(v, -1.0, 3.0), x) == expected
        assert gradients(lambda v: mingrad.clamp(v, min=-1.0, max=3.0), x) == expected
        assert gradients(lambda v: v.clamp(min=-1.0, max=3.0), x) == expected
        assert gradients(lambda v: v.clamp(-1.0, 3.0), x) == expected
        assert gradients(lambda v: v.clamp(min=-1), x)[0] == max(x, -1.0)
        assert gradients(lambda v: v.clamp(max=3), x)[0] == min(x, 3.0)
        assert mingrad.clamp(x, -1, 3) == expected[0]
        assert type(mingrad.clamp(x, -1, 3)) is float
    assert mingrad.clamp(Variable(5.0), max=5.0, min=5.0).data == 5.0


def test_settings_have_pytorchs_defaults():
    assert mingrad.leaky_relu(Variable(-2.0)).data == -0.02
    assert mingrad.leaky_relu(-2.0) == -0.02
    assert mingrad.leaky_relu(-2.0, negative_slope=0.5) == -1.0
    assert Variable(-2.0).leaky_relu(0.5).data == -1.0
    assert mingrad.elu(Variable(-2.0)).data == math.expm1(-2.0)
    assert mingrad.elu(-2.0, alpha=0.5) == 0.5 * math.expm1(-2.0)
    assert Variable(-2.0).elu(0.5).data == 0.5 * math.expm1(-2.0)


# -- against finite differences -------------------------------------------------------------------

# Where the op is smooth and its values are of moderate size.
INTERVALS = {
    "acosh": (1.2, 4.0),
    "asin": (-0.85, 0.85),
    "acos": (-0.85, 0.85),
    "atanh": (-0.85, 0.85),
    "log": (0.3, 4.0),
    "log2": (0.3, 4.0),
    "log10": (0.3, 4.0),
    "log1p": (-0.7, 4.0),
    "sqrt": (0.3, 4.0),
    "cbrt": (0.3, 4.0),
    "reciprocal": (-4.0, -0.3),
    "tan": (-1.1, 1.1),
    "lgamma": (0.4, 5.0),
    "digamma": (0.5, 5.0),
    "relu": (0.1, 4.0),
    "abs": (-4.0, -0.1),
    "sign": (-4.0, -0.1),
    "floor": (2.1, 2.9),
    "ceil": (2.1, 2.9),
    "pow": ((0.4, 3.0), (-2.0, 3.0)),
    "div": ((-3.0, 3.0), (0.5, 3.0)),
    "floordiv": ((7.1, 7.9), (2.05, 2.2)),
    "mod": ((7.1, 7.9), (2.05, 2.2)),
    "atan2": ((0.3, 3.0), (-2.0, 2.0)),
    "hypot": ((0.3, 3.0), (-2.0, 2.0)),
    "maximum": ((1.0, 2.0), (2.1, 3.0)),
    "minimum": ((1.0, 2.0), (2.1, 3.0)),
    "leaky_relu": ((-3.0, -0.1), (0.01, 0.5)),
    "elu": ((-3.0, -0.1), (0.5, 2.0)),
    "clamp_min": ((2.1, 3.0), (1.0, 2.0)),
    "clamp_max": ((1.0, 2.0), (2.1, 3.0)),
}


def difference(function, x):
    """The derivative of function at x from four values around it: error of the fourth order."""
    h = 2.0**-10
    near = function(x + h) - function(x - h)
    far = function(x + 2 * h) - function(x - 2 * h)
    return (8 * near - far) / (12 * h)


def close_to_difference(got, expected):
    """h**4/30 times a fifth derivative, and some 1e-13 of rounding, in ops of moderate size."""
    return abs(got - expected) <= 2e-9 * max(1.0, abs(expected))


@pytest.mark.parametrize("op, letter", PARTIALS, ids=[f"{op}-{x}" for op, x in PARTIALS])
def test_partial_matches_difference(op, letter):
    place, rng = "ab".index(letter), random.Random(op)
    interval = INTERVALS.get(op, (-2.5, 2.5))
    intervals = [interval] if op in UNARY else interval if op in INTERVALS else [interval] * 2
    for _ in range(25):
        args = [rng.uniform(*ends) for ends in intervals]

        def along(t, args=args):
            moved = [Variable(t) if i == place else x for i, x in enumerate(args)]
            return spell(op)(*moved).data

        got, expected = slopes(op, *args)[1][place], difference(along, args[place])
        assert close_to_difference(got, expected), (op, args, got, expected)


def test_difference_check_notices_an_error_of_a_millionth():
    for function, slope in ((math.tan, lambda x: 1 + math.tan(x) ** 2), (math.exp, math.exp)):
        assert close_to_difference(slope(1.0), difference(function, 1.0))
        assert not close_to_difference(slope(1.0) * (1 + 1e-6), difference(function, 1.0))


def test_golden_check_notices_an_error_of_one_ulp_too_many():
    bound = Bound(2, "")
    assert bound.excess(1.0 + 2 * 2**-52, 1.0, ()) is None
    assert bound.excess(1.0 + 3 * 2**-52, 1.0, ()) == 3
    assert bound.excess(1.0, NAN, ()) == INF
    assert Bound(2, "", floor=1.0).excess(1e-20 + 2**-51, 1e-20, ()) is None
    assert Bound(2, "", floor=1.0).excess(1e-20 + 2**-50, 1e-20, ()) is not None
    assert Bound(2, "", floor=1.0).excess(NAN, 1e-20, ()) == INF


# -- many operands --------------------------------------------------------------------------------

# Exact reference values: Fractions for sums and products, decimal with 60 digits for exp and log.
CONTEXT = decimal.Context(prec=60, Emin=-999999, Emax=999999)


def exact(xs):
    return [fractions.Fraction(x) for x in xs]


def fraction_product(xs):
    return math.prod(exact(xs), start=fractions.Fraction(1))


def exact_norm(xs):
    return fractions.Fraction(CONTEXT.sqrt(to_decimal(sum(x * x for x in exact(xs)))))


def to_decimal(x):
    x = fractions.Fraction(x)
    return CONTEXT.divide(decimal.Decimal(x.numerator), decimal.Decimal(x.denominator))


def decimal_exps(xs):
    return [CONTEXT.exp(to_decimal(x)) for x in xs]


def decimal_sum(ds):
    total = decimal.Decimal(0)
    for d in ds:
        total = CONTEXT.add(total, d)
    return total


def exact_logsumexp(xs):
    return float(CONTEXT.ln(decimal_sum(decimal_exps(xs))))


def exact_softmax(xs):
    exps = decimal_exps(xs)
    total = decimal_sum(exps)
    return [CONTEXT.divide(e, total) for e in exps]


SPREAD = [
    [1.5],
    [1.0, 2.0],
    [0.1, 0.2, 0.3],
    [3.0, -1.0, 2.0, 3.0, 0.5],
    [random.Random(7).uniform(-3, 3) for _ in range(7)],
    [random.Random(8).uniform(-3, 3) for _ in range(8)],
    [random.Random(9).uniform(-3, 3) for _ in range(9)],
    [random.Random(31).gauss(0, 5) for _ in range(31)],
    [random.Random(100).uniform(-1, 1) for _ in range(100)],
]
NARY_CASES = {
    "sum": lambda xs: (sum(exact(xs)), [1.0] * len(xs)),
    "mean": lambda xs: (sum(exact(xs)) / len(xs), [1 / len(xs)] * len(xs)),
    "prod": lambda xs: (
        fraction_product(xs),
        [fraction_product(xs[:i] + xs[i + 1 :]) for i in range(len(xs))],
    ),
    "max": lambda xs: (max(xs), [(x == max(xs)) / xs.count(max(xs)) for x in xs]),
    "min": lambda xs: (min(xs), [(x == min(xs)) / xs.count(min(xs)) for x in xs]),
    "logsumexp": lambda xs: (exact_logsumexp(xs), [float(s) for s in exact_softmax(xs)]),
    "norm": lambda xs: (exact_norm(xs), [fractions.Fraction(x) / exact_norm(xs) for x in xs]),
}


def test_every_nary_op_has_a_case():
    assert set(NARY) - {"softmax", "dot"} == set(NARY_CASES)


def nary_bounds(op, xs, value):
    """(value, every partial) in ulps."""
    if op == "prod":
        return len(xs), len(xs)  # a rounding for every factor
    if op == "logsumexp":
        # The greatest x is added to a logarithm, they may cancel. exp(x - y): half an ulp of y, and
        # of x - y, moves exp by |y| / 2 and |x - y| / 2 ulps.
        cancels = abs(max(xs)) / abs(value)
        return 2 + cancels, 3 + abs(value) + max(abs(x - value) for x in xs)
    if op == "norm":
        return 1 + len(xs) // 4, 2 + len(xs) // 4  # the squares are summed from left to right
    return 0, 0


@pytest.mark.parametrize("op", NARY_CASES)
@pytest.mark.parametrize("xs", SPREAD, ids=len)
def test_nary_value_and_partials_match_exact_arithmetic(op, xs):
    expected, partials = NARY_CASES[op](xs)
    value, got = gradients_of_list(getattr(mingrad, op), xs)
    value_ulps, partial_ulps = nary_bounds(op, xs, value)
    if op in ("sum", "mean"):
        # a tree of depth at most 3 + n/8: that many roundings of sums no larger than sum(|x|)
        size = math.fsum(map(abs, xs)) / (len(xs) if op == "mean" else 1)
        assert abs(value - float(expected)) <= (4 + len(xs) / 8) * math.ulp(size) / 2
    else:
        assert_close_ulps(value, float(expected), value_ulps, op)
    for g, p in zip(got, partials, strict=True):
        assert_close_ulps(g, float(p), partial_ulps, f"{op}'")


@pytest.mark.parametrize("op", NARY)
def test_nary_partial_matches_difference(op):
    xs = [0.7, -1.3, 2.1, 0.4]
    function = getattr(mingrad, op)
    _, got = gradients_of_list(function, xs)
    for i in range(len(xs)):
        expected = difference(lambda t, i=i: function(xs[:i] + [t] + xs[i + 1 :]), xs[i])
        assert close_to_difference(got[i], expected), (op, i, got[i], expected)


def dot_all(xs):
    return mingrad.dot(xs, xs)


def softmax_first(xs):
    return mingrad.softmax(xs)[0]


ALL_NARY = {op: getattr(mingrad, op) for op in NARY_CASES} | {
    "dot": dot_all,
    "softmax": softmax_first,
}


@pytest.mark.parametrize("op", ALL_NARY)
def test_nary_of_numbers_is_a_float_with_the_same_bits(op):
    for xs in SPREAD:
        got = ALL_NARY[op](xs)
        assert type(got) is float
        assert_same_bits(got, gradients_of_list(ALL_NARY[op], xs)[0], op)
    assert type(ALL_NARY[op]([1, 2, True])) is float


@pytest.mark.parametrize("op", ALL_NARY)
def test_nary_takes_any_iterable_and_mixes_numbers_in(op):
    function = ALL_NARY[op]
    xs = [0.5, 2.0, -1.0]
    expected = function(xs)
    x, y, z = map(Variable, xs)
    for operands in ((x, y, z), [x, 2, z], [0.5, 2.0, z], (x, y, -1), {x: 0, y: 0, z: 0}):
        assert function(tuple(operands)).data == expected
        if op != "dot":  # dot_all would empty the iterator
            assert function(iter(operands)).data == expected
            assert function(v for v in operands).data == expected
            assert function(operands).data == expected
    x.zero_grad()
    result = function([x, 2.0, -1.0])
    result.backward()
    assert_close_ulps(x.grad, gradients_of_list(function, xs)[1][0], 0)


@pytest.mark.parametrize("op", NARY_CASES)
def test_nary_partials_of_one_variable_add_up(op):
    function = ALL_NARY[op]
    xs = [0.75, 0.75, 2.0, 0.75]
    _, partials = gradients_of_list(function, xs)
    _, (got, _) = gradients(lambda x, y: function([x, x, y, x]), 0.75, 2.0)
    assert_close_ulps(got, partials[0] + partials[1] + partials[3], 1)


@pytest.mark.parametrize("op", [op for op in ALL_NARY if op != "softmax"])
def test_nary_is_one_node(op):
    leaves = [Variable(x) for x in (0.5, 2.0, -1.0)]
    mingrad.collect()
    before = mingrad.tape_info().nodes
    result = ALL_NARY[op](leaves)
    assert mingrad.tape_info().nodes == before + 1
    assert result._prev == tuple(leaves) * (2 if op == "dot" else 1)
    assert result._op == op


def test_softmax_is_a_list_of_one_node_each_and_one_shared():
    leaves = [Variable(x) for x in (0.5, 2.0, -1.0)]
    mingrad.collect()
    before = mingrad.tape_info().nodes
    result = mingrad.softmax(leaves)
    assert type(result) is list and len(result) == 3
    assert mingrad.tape_info().nodes <= before + 4


def test_empty_sequences():
    assert mingrad.sum([]) == 0.0 and type(mingrad.sum([])) is float
    assert mingrad.prod(()) == 1.0 and type(mingrad.prod(())) is float
    assert mingrad.dot([], []) == 0.0
    assert mingrad.norm([]) == 0.0
    for function in (mingrad.max, mingrad.min, mingrad.mean, mingrad.logsumexp, mingrad.softmax):
        for empty in ([], (), iter(())):
            with pytest.raises(ValueError, match="empty"):
                function(empty)


def test_prod_is_math_prod_from_left_to_right():
    rng = random.Random("prod")
    for n in (1, 2, 3, 8, 9, 40):
        for _ in range(20):
            xs = [rng.uniform(-3, 3) for _ in range(n)]
            assert_same_bits(mingrad.prod(map(Variable, xs)).data, math.prod(xs))


PRODUCTS = [
    ([2.0, 0.0, 4.0], [0.0, 8.0, 0.0]),
    ([2.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]),
    ([0.0], [1.0]),
    ([0.0, 7.0], [7.0, 0.0]),
    ([0.0, 0.0], [0.0, 0.0]),
    ([1e-200, 1e-200, 4.0], [4e-200, 4e-200, 0.0]),  # the product underflows, two partials do not
    ([1e200, 1e200, 0.5], [5e199, 5e199, INF]),  # it overflows, and so does one partial
    ([1e-200, 1e200, 1e200], [INF, 1.0, 1.0]),
    ([-2.0, 3.0, -0.5], [-1.5, 1.0, -6.0]),
]


@pytest.mark.parametrize("xs, partials", PRODUCTS, ids=[str(p[0]) for p in PRODUCTS])
def test_prod_partials_survive_zeros_and_underflow(xs, partials):
    value, got = gradients_of_list(mingrad.prod, xs)
    assert_same_bits(value, math.prod(xs))
    for g, p in zip(got, partials, strict=True):
        assert_close_ulps(g, p, 2)


def test_max_and_min_share_ties_equally():
    assert gradients_of_list(mingrad.max, [2.0, 5.0, 5.0, 5.0, 1.0]) == (5.0, [0.0, 1 / 3, 1 / 3, 1 / 3, 0.0])
    assert gradients_of_list(mingrad.min, [2.0, 1.0, 1.0]) == (1.0, [0.0, 0.5, 0.5])
    assert gradients_of_list(mingrad.max, [0.0, -0.0]) == (0.0, [0.5, 0.5])
    assert gradients_of_list(mingrad.max, [INF, INF, 1.0]) == (INF, [0.5, 0.5, 0.0])
    assert gradients_of_list(mingrad.max, [-INF, -INF]) == (-INF, [0.5, 0.5])
    value, (slope,) = gradients(lambda x: mingrad.max([x, 3.0, x, 1.0]), 3.0)
    assert value == 3.0
    assert_close_ulps(slope, 2 / 3, 1)


def test_max_and_min_also_take_their_operands_one_by_one_like_the_builtins():
    for mine, builtin in ((mingrad.max, max), (mingrad.min, min)):
        assert gradients(lambda x, y, z: mine(x, y, z), 1.0, 4.0, 2.0)[0] == builtin(1.0, 4.0, 2.0)
        assert mine(Variable(1.0), 2).data == builtin(1.0, 2)
        assert mine(2, Variable(1.0)).data == builtin(1.0, 2)
        assert mine(1, 2.5) == builtin(1, 2.5) and type(mine(1, 2)) is float
        with pytest.raises(TypeError):
            mine()
        with pytest.raises(TypeError):
            mine(Variable(1.0))
    assert gradients(mingrad.max, 3.0, 3.0) == (3.0, [0.5, 0.5])


@pytest.mark.parametrize("op", [*NARY_CASES, "dot"])
def test_nary_nan_propagates_from_any_place(op):
    for place in range(3):
        xs = [1.0, 2.0, 3.0]
        xs[place] = NAN
        value, partials = gradients_of_list(ALL_NARY[op], xs)
        assert math.isnan(value)
        if op not in ("sum", "mean", "prod"):
            assert math.isnan(partials[place])
        assert math.isnan(ALL_NARY[op](xs))
        if op in ("max", "min", "logsumexp", "norm"):
            assert all(map(math.isnan, partials))


def test_nan_reaches_every_softmax_output():
    for xs in ([NAN, 1.0], [1.0, NAN], [NAN, NAN]):
        assert all(math.isnan(s) for s in mingrad.softmax(xs))
        assert all(math.isnan(s.data) for s in mingrad.softmax([Variable(x) for x in xs]))


LOG2 = math.log(2.0)
LARGE_EXPONENTS = [
    ([1000.0, 1000.0], 1000.0 + LOG2, [0.5, 0.5]),
    ([-1000.0, -1000.0], -1000.0 + LOG2, [0.5, 0.5]),
    ([1000.0, 0.0], 1000.0, [1.0, 0.0]),
    ([-1000.0, 0.0], 0.0, [0.0, 1.0]),
    ([1e308, -1e308], 1e308, [1.0, 0.0]),
    ([-INF, 2.0], 2.0, [0.0, 1.0]),
    ([5.0], 5.0, [1.0]),
    ([-745.0], -745.0, [1.0]),
]


@pytest.mark.parametrize("xs, value, partials", LARGE_EXPONENTS)
def test_logsumexp_stands_large_operands(xs, value, partials):
    got, got_partials = gradients_of_list(mingrad.logsumexp, xs)
    assert_close_ulps(got, value, 1)
    for g, p in zip(got_partials, partials, strict=True):
        # exp(x - y): y's half ulp moves exp by as much, relative: 1000 * 2**-53
        assert abs(g - p) <= 1e-13


def test_logsumexp_of_infinities():
    assert mingrad.logsumexp([INF, 1.0]) == INF
    assert mingrad.logsumexp([-INF, -INF]) == -INF
    assert mingrad.logsumexp([-INF, Variable(-INF)]).data == -INF
    assert mingrad.logsumexp([INF, -INF]) == INF
    assert math.isnan(mingrad.logsumexp([INF, NAN]))


def test_logsumexp_keeps_small_terms_and_shifts():
    assert_close_ulps(mingrad.logsumexp([0.0, -50.0]), exact_logsumexp([0.0, -50.0]), 1)
    assert_close_ulps(mingrad.logsumexp([0.5, -0.7]), exact_logsumexp([0.5, -0.7]), 2)
    assert_close_ulps(mingrad.logsumexp([-30.0, 1.0, 1e-9]), exact_logsumexp([-30.0, 1.0, 1e-9]), 2)


@pytest.mark.parametrize("xs", SPREAD, ids=len)
def test_softmax_matches_exact_arithmetic(xs):
    truth = exact_softmax(xs)
    leaves = [Variable(x) for x in xs]
    outputs = mingrad.softmax(leaves)
    numbers = mingrad.softmax(xs)
    # x - max is rounded: half an ulp of up to 32 moves exp by up to 32 half ulps
    bound = 4 + 2 * (max(xs) - min(xs))
    for output, number, expected in zip(outputs, numbers, truth, strict=True):
        assert_same_bits(output.data, number)
        assert_close_ulps(output.data, float(expected), bound)
    for i in range(0, len(xs), 7):
        for leaf in leaves:
            leaf.zero_grad()
        outputs[i].backward()
        for j, leaf in enumerate(leaves):
            slope = float(truth[i] * ((i == j) - truth[j]))
            assert abs(leaf.grad - slope) <= 2**-50 * max(abs(slope), float(truth[i]))


def test_softmax_extremes():
    for xs, expected in (
        ([1000.0, 0.0], [1.0, 0.0]),
        ([1000.0, 1000.0], [0.5, 0.5]),
        ([-1000.0, -1000.0], [0.5, 0.5]),
        ([-1000.0], [1.0]),
        ([1e308, -1e308, 0.0], [1.0, 0.0, 0.0]),
        ([-INF, 3.0], [0.0, 1.0]),
    ):
        assert mingrad.softmax(xs) == expected
        leaves = [Variable(x) for x in xs]
        outputs = mingrad.softmax(leaves)
        assert [s.data for s in outputs] == expected
        outputs[0].backward()
        s = expected
        slopes_of_first = [s[0] * ((j == 0) - s[j]) for j in range(len(xs))]
        assert [v.grad for v in leaves] == slopes_of_first


def test_softmax_gradients_of_all_outputs_sum_to_zero():
    leaves = [Variable(x) for x in (0.1, 0.7, -0.3)]
    mingrad.sum(mingrad.softmax(leaves)).backward()
    assert all(abs(v.grad) <= 2**-52 for v in leaves)


def test_softmax_cross_entropy_has_the_textbook_gradient():
    xs = [0.3, -1.2, 2.0, 0.0]
    leaves = [Variable(x) for x in xs]
    (-mingrad.log(mingrad.softmax(leaves)[2])).backward()
    for i, (v, s) in enumerate(zip(leaves, exact_softmax(xs), strict=True)):
        assert abs(v.grad - (float(s) - (i == 2))) <= 4 * 2**-53


NORMS = [
    ([0.0, 0.0, 0.0], 0.0, [0.0, 0.0, 0.0]),
    ([0.0], 0.0, [0.0]),
    ([3e200, -4e200], 5e200, [0.6, -0.8]),
    ([3e-200, 4e-200], 5e-200, [0.6, 0.8]),
    ([3e-320, 4e-320], 5e-320, None),
    ([1e308, 1e308], 1.414213562373095e308, [0.5**0.5, 0.5**0.5]),
    ([-7.0], 7.0, [-1.0]),
    ([1e-200, 1.0], 1.0, [1e-200, 1.0]),
    ([INF, 1.0], INF, None),
]


@pytest.mark.parametrize("xs, value, partials", NORMS)
def test_norm_neither_overflows_nor_underflows(xs, value, partials):
    got, got_partials = gradients_of_list(mingrad.norm, xs)
    assert_close_ulps(got, value, 1)
    for g, p in zip(got_partials, partials or [], strict=bool(partials)):
        assert_close_ulps(g, p, 2)


def test_norm_of_two_agrees_with_hypot():
    rng = random.Random("norm")
    for _ in range(200):
        a, b = rng.uniform(-9, 9), rng.uniform(-9, 9)
        assert_close_ulps(mingrad.norm([a, b]), math.hypot(a, b), 1)


def test_sums_overflow_to_infinity_as_float_addition_does():
    assert mingrad.sum([1e308, 1e308]) == INF
    assert mingrad.sum([Variable(1e308), 1e308]).data == INF
    assert math.isnan(mingrad.sum([INF, -INF]))
    assert mingrad.dot([1e200], [1e200]) == INF


def test_sum_of_up_to_two_terms_is_pythons():
    rng = random.Random("sum")
    for _ in range(100):
        a, b = rng.uniform(-9, 9), rng.uniform(-9, 9)
        assert mingrad.sum([a]) == a and mingrad.sum([a, b]) == a + b


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 9, 16, 33, 100])
def test_dot_matches_exact_arithmetic(n):
    rng = random.Random(n)
    xs, ys = ([rng.uniform(-2, 2) for _ in range(n)] for _ in range(2))
    truth = float(sum(a * b for a, b in zip(exact(xs), exact(ys), strict=True)))
    size = math.fsum(abs(a * b) for a, b in zip(xs, ys, strict=True))
    left, right = [Variable(x) for x in xs], [Variable(y) for y in ys]
    for first, second in ((xs, ys), (left, ys), (xs, right), (left, right)):
        got = mingrad.dot(first, second)
        value = got if isinstance(got, float) else got.data
        assert abs(value - truth) <= (2 + 4 + n / 8) * math.ulp(size) / 2
        assert_same_bits(value, mingrad.dot(xs, ys))
    if n:
        mingrad.dot(left, right).backward()
        assert [v.grad for v in left] == ys and [v.grad for v in right] == xs


def test_dot_refuses_unequal_lengths():
    for xs, ys in (([1.0], []), ([Variable(1.0)], [1.0, 2.0]), ([1.0, 2.0], [Variable(3.0)])):
        with pytest.raises(ValueError, match=r"length|long"):
            mingrad.dot(xs, ys)


def test_dot_of_a_vector_with_itself_has_twice_its_gradient():
    leaves = [Variable(x) for x in (1.0, -2.0, 3.0)]
    mingrad.dot(leaves, leaves).backward()
    assert [v.grad for v in leaves] == [2.0, -4.0, 6.0]
    mixed = Variable(2.0)
    mingrad.dot([mixed, 1.0], (3, mixed)).backward()
    assert mixed.grad == 4.0


# -- wrong arguments ------------------------------------------------------------------------------

WRONG = ["1.0", b"1", None, 1j, [1.0], {}, object(), fractions.Fraction(1, 2), decimal.Decimal(1)]
WRONG_IDS = [type(x).__name__ for x in WRONG]


@pytest.mark.parametrize("wrong", WRONG, ids=WRONG_IDS)
@pytest.mark.parametrize("op", UNARY)
def test_unary_function_refuses_what_is_no_number(op, wrong):
    function = getattr(mingrad, op)
    with pytest.raises(TypeError) as info:
        function(wrong)
    assert type(wrong).__name__ in str(info.value)


@pytest.mark.parametrize("wrong", WRONG, ids=WRONG_IDS)
@pytest.mark.parametrize("op", BINARY)
def test_binary_op_refuses_what_is_no_number(op, wrong):
    function, x = spell(op), Variable(1.5)
    calls = [lambda: function(x, wrong)]
    if op in OPERANDS:
        calls.append(lambda: function(wrong, x))
    if op in ("pow", "atan2", "hypot", "maximum", "minimum"):
        function = getattr(mingrad, op)
        calls += [lambda: function(wrong, x), lambda: function(1.0, wrong)]
    if op.startswith("clamp") and wrong is None:
        return  # no bound
    if op == "mod" and isinstance(wrong, (str, bytes)):
        calls = calls[:1]  # '%' on a str or bytes is formatting: str's own error comes first
    for call in calls:
        with pytest.raises(TypeError) as info:
            call()
        assert type(wrong).__name__ in str(info.value)


@pytest.mark.parametrize("wrong", WRONG, ids=WRONG_IDS)
@pytest.mark.parametrize("op", [*NARY_CASES, "softmax"])
def test_nary_op_refuses_what_is_no_number(op, wrong):
    function, x = getattr(mingrad, op), Variable(1.0)
    for operands in ([x, wrong], (wrong, x), [1.0, wrong]):
        with no_trace(), pytest.raises(TypeError) as info:
            function(operands)
        assert type(wrong).__name__ in str(info.value)


@pytest.mark.parametrize("op", ["sum", "mean", "prod", "logsumexp", "norm", "softmax"])
def test_nary_op_refuses_what_is_no_iterable(op):
    for wrong in (5, 2.0, None, Variable(1.0)):
        with pytest.raises(TypeError):
            getattr(mingrad, op)(wrong)


@pytest.mark.parametrize("op", ["sum", "dot", "softmax"])
def test_an_iterator_that_raises_hands_its_own_error_on(op):
    def broken():
        yield Variable(1.0)
        raise KeyError("mine")

    with no_trace(), pytest.raises(KeyError, match="mine"):
        mingrad.dot(broken(), [1.0, 2.0]) if op == "dot" else getattr(mingrad, op)(broken())


@pytest.mark.parametrize("op", UNARY + ["atan2", "hypot", "maximum", "minimum", "pow"])
def test_wrong_number_of_arguments_is_a_type_error(op):
    function = getattr(mingrad, op)
    x = Variable(0.5)
    for args in ((), (x,) * 3, (x,) * (2 if op in UNARY else 1)):
        with pytest.raises(TypeError):
            function(*args)
    with pytest.raises(TypeError):
        function(x, nonsense=1)


def test_int_too_large_for_a_float_is_an_overflow():
    for op in OPERANDS:
        with pytest.raises(OverflowError):
            spell(op)(Variable(2.0), 10**400)
        with pytest.raises(OverflowError):
            spell(op)(10**400, Variable(2.0))
    with pytest.raises(OverflowError):
        mingrad.exp(-(10**400))
    with pytest.raises(OverflowError):
        mingrad.sum([1.0, 10**400])


def test_power_with_a_modulus_is_refused():
    with pytest.raises(TypeError):
        pow(Variable(2.0), 3, 5)


def test_error_texts_say_what_python_or_the_op_would_say():
    x = Variable(0.0)
    for call, kind, text in (
        (lambda: 1 / x, ZeroDivisionError, "zero"),
        (lambda: 1 // x, ZeroDivisionError, "zero"),
        (lambda: 1 % x, ZeroDivisionError, "zero"),
        (lambda: x**-1, ZeroDivisionError, "zero"),
        (lambda: mingrad.log(x), ValueError, "log"),
        (lambda: mingrad.sqrt(x - 1.0), ValueError, "sqrt"),
        (lambda: mingrad.exp(x + 710.0), OverflowError, "exp"),
    ):
        with pytest.raises(kind, match=text):
            call()


@pytest.mark.parametrize("op", UNARY + ["atan2", "hypot", "maximum", "minimum", "sum", "prod"])
def test_function_has_a_docstring_with_its_name(op):
    assert getattr(mingrad, op).__doc__
    assert inspect.getdoc(getattr(mingrad, op)).strip()


def test_numpy_object_arrays_find_every_unary_method():
    np = pytest.importorskip("numpy")
    for op in UNARY:
        name = {"neg": "negative", "abs": "absolute"}.get(op, ALIASES.get(op, op))
        ufunc = getattr(np, name, None)
        if not isinstance(ufunc, np.ufunc) or op == "sign":
            continue  # np.sign compares objects with 0 and gives an int; it asks for no method
        x = 1.5 if op == "acosh" else 0.5
        result = ufunc(np.array([Variable(x)], dtype=object))
        assert result[0].data == spell(op)(Variable(x)).data, op
