"""Make ops.csv: correctly rounded values and partials of every op, by mpmath.

This is the oracle of test_ops.py and, on purpose, a second writing of every formula: it shares no
line with the op table, and takes no number from any library but mpmath. It is not imported by the
package. Run `python make_golden.py` (mpmath 1.3 or later) to write ops.csv anew; a test makes a
sample of its rows again and compares bytes.

Each row is worked out twice, with two working precisions far beyond double; both must round to the
same doubles. Kinks and points of undefined derivative are not in here: test_ops.py lists them.
"""

import math
import pathlib
import random
import sys

import mpmath
from mpmath import mp, mpf

OUT = pathlib.Path(__file__).with_name("ops.csv")
HEAD = """\
# Golden values of the ops, made by make_golden.py; test_ops.py reads them. Doubles as float.hex().
# Each is the exact result rounded once. b and db are empty for unary ops.
op,a,b,value,da,db
"""


# -- the formulas: value and partials in exact arithmetic (mpf in, mpf out) -----------------------


def _sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def _gauss_cdf(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def _gauss_pdf(x):
    return mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mp.pi)


def _cbrt(x):
    return mpmath.sign(x) * mpmath.cbrt(abs(x))


def _lgamma(x):
    if x > 0:
        return mpmath.loggamma(x)
    return mpmath.log(mp.pi / abs(mpmath.sin(mp.pi * x))) - mpmath.loggamma(1 - x)


def _silu_slope(x):
    s = _sigmoid(x)
    return s + x * s * _sigmoid(-x)


def _erf_slope(x):
    return 2 / mpmath.sqrt(mp.pi) * mpmath.exp(-x * x)


UNARY = {
    "neg": (lambda x: -x, lambda x: mpf(-1)),
    "abs": (abs, mpmath.sign),
    "sign": (mpmath.sign, lambda x: mpf(0)),
    "floor": (mpmath.floor, lambda x: mpf(0)),
    "ceil": (mpmath.ceil, lambda x: mpf(0)),
    "relu": (lambda x: max(x, mpf(0)), lambda x: mpf(x > 0)),
    "gelu": (lambda x: x * _gauss_cdf(x), lambda x: _gauss_cdf(x) + x * _gauss_pdf(x)),
    "silu": (lambda x: x * _sigmoid(x), _silu_slope),
    "softplus": (lambda x: mpmath.log1p(mpmath.exp(x)), _sigmoid),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "tanh": (mpmath.tanh, lambda x: mpmath.sech(x) ** 2),
    "exp": (mpmath.exp, mpmath.exp),
    "exp2": (lambda x: mpf(2) ** x, lambda x: mpmath.ln(2) * mpf(2) ** x),
    "expm1": (mpmath.expm1, mpmath.exp),
    "log": (mpmath.ln, lambda x: 1 / x),
    "log2": (lambda x: mpmath.ln(x) / mpmath.ln(2), lambda x: 1 / (x * mpmath.ln(2))),
    "log10": (lambda x: mpmath.ln(x) / mpmath.ln(10), lambda x: 1 / (x * mpmath.ln(10))),
    "log1p": (mpmath.log1p, lambda x: 1 / (1 + x)),
    "sqrt": (mpmath.sqrt, lambda x: 1 / (2 * mpmath.sqrt(x))),
    "cbrt": (_cbrt, lambda x: 1 / (3 * _cbrt(x) ** 2)),
    "square": (lambda x: x * x, lambda x: 2 * x),
    "reciprocal": (lambda x: 1 / x, lambda x: -1 / (x * x)),
    "sin": (mpmath.sin, mpmath.cos),
    "cos": (mpmath.cos, lambda x: -mpmath.sin(x)),
    "tan": (mpmath.tan, lambda x: mpmath.sec(x) ** 2),
    "asin": (mpmath.asin, lambda x: 1 / mpmath.sqrt((1 - x) * (1 + x))),
    "acos": (mpmath.acos, lambda x: -1 / mpmath.sqrt((1 - x) * (1 + x))),
    "atan": (mpmath.atan, lambda x: 1 / (1 + x * x)),
    "sinh": (mpmath.sinh, mpmath.cosh),
    "cosh": (mpmath.cosh, mpmath.sinh),
    "asinh": (mpmath.asinh, lambda x: 1 / mpmath.sqrt(1 + x * x)),
    "acosh": (mpmath.acosh, lambda x: 1 / mpmath.sqrt((x - 1) * (x + 1))),
    "atanh": (mpmath.atanh, lambda x: 1 / ((1 - x) * (1 + x))),
    "erf": (mpmath.erf, _erf_slope),
    "erfc": (mpmath.erfc, lambda x: -_erf_slope(x)),
    "lgamma": (_lgamma, mpmath.digamma),
    "digamma": (mpmath.digamma, lambda x: mpmath.polygamma(1, x)),
}


def _floordiv(a, b):
    return mpmath.floor(a / b)


def _pow_db(a, b):
    if a < 0:
        return mpf("nan")
    if a == 0:
        return mpf(0)
    return a**b * mpmath.ln(a)


def _pow_da(a, b):
    return mpf(0) if b == 0 else b * a ** (b - 1)


def _squares(a, b):
    return a * a + b * b


def _held_log(x):
    """The logarithm as binary cross-entropy counts it: -100 at least."""
    return mpf(-100) if x == 0 else max(mpmath.ln(x), mpf(-100))


def _bce_slope(p, t):
    return (p - t) / max(p * (1 - p), mpf(1e-12))


def _huber(d, delta):
    return d * d / 2 if abs(d) <= delta else delta * (abs(d) - delta / 2)


BINARY = {
    "add": (lambda a, b: a + b, lambda a, b: mpf(1), lambda a, b: mpf(1)),
    "sub": (lambda a, b: a - b, lambda a, b: mpf(1), lambda a, b: mpf(-1)),
    "mul": (lambda a, b: a * b, lambda a, b: b, lambda a, b: a),
    "div": (lambda a, b: a / b, lambda a, b: 1 / b, lambda a, b: -a / (b * b)),
    "pow": (lambda a, b: a**b, _pow_da, _pow_db),
    "floordiv": (_floordiv, lambda a, b: mpf(0), lambda a, b: mpf(0)),
    "mod": (
        lambda a, b: a - b * _floordiv(a, b),
        lambda a, b: mpf(1),
        lambda a, b: -_floordiv(a, b),
    ),
    "atan2": (
        mpmath.atan2,
        lambda a, b: b / _squares(a, b),
        lambda a, b: -a / _squares(a, b),
    ),
    "hypot": (
        lambda a, b: mpmath.sqrt(_squares(a, b)),
        lambda a, b: a / mpmath.sqrt(_squares(a, b)),
        lambda a, b: b / mpmath.sqrt(_squares(a, b)),
    ),
    "maximum": (max, lambda a, b: mpf(a > b), lambda a, b: mpf(a < b)),
    "minimum": (min, lambda a, b: mpf(a < b), lambda a, b: mpf(a > b)),
    "leaky_relu": (
        lambda a, b: a if a > 0 else a * b,
        lambda a, b: mpf(1) if a > 0 else b,
        lambda a, b: mpf(0) if a > 0 else a,
    ),
    "elu": (
        lambda a, b: a if a > 0 else b * mpmath.expm1(a),
        lambda a, b: mpf(1) if a > 0 else b * mpmath.exp(a),
        lambda a, b: mpf(0) if a > 0 else mpmath.expm1(a),
    ),
    "clamp_min": (max, lambda a, b: mpf(a >= b), lambda a, b: mpf(a < b)),
    "clamp_max": (min, lambda a, b: mpf(a <= b), lambda a, b: mpf(a > b)),
    # terms of losses, of a prediction and a target; huber: of their difference and delta
    "_squared_error": (
        lambda a, b: (a - b) ** 2,
        lambda a, b: 2 * (a - b),
        lambda a, b: 2 * (b - a),
    ),
    "_absolute_error": (
        lambda a, b: abs(a - b),
        lambda a, b: mpmath.sign(a - b),
        lambda a, b: mpmath.sign(b - a),
    ),
    "_huber": (
        _huber,
        lambda d, delta: max(-delta, min(delta, d)),
        lambda d, delta: max(mpf(0), abs(d) - delta),
    ),
    "_hinge": (
        lambda a, b: max(mpf(0), 1 - a * b),
        lambda a, b: -b if a * b < 1 else mpf(0),
        lambda a, b: -a if a * b < 1 else mpf(0),
    ),
    "_bce": (
        lambda p, t: -(t * _held_log(p) + (1 - t) * _held_log(1 - p)),
        _bce_slope,
        lambda p, t: mpmath.ln(1 - p) - mpmath.ln(p),
    ),
    "_bce_logits": (
        lambda x, t: mpmath.log1p(mpmath.exp(x)) - x * t,
        lambda x, t: _sigmoid(x) - t,
        lambda x, t: -x,
    ),
}

# Bits of the two workings. The large pair holds 1 + x and x - 1 exactly for every double x; the
# gamma functions need no such sum (mpmath's own series care for it) and are slow.
PRECISIONS = {"lgamma": (400, 700), "digamma": (400, 700)}
DEFAULT_PRECISIONS = (1300, 2600)


# -- rounding and rows ----------------------------------------------------------------------------


def nearest(x):
    """The double nearest to mpf x, ties to even, gradual underflow included; an exact 0 is +0.0."""
    if mpmath.isnan(x):
        return math.nan
    if mpmath.isinf(x):
        return math.copysign(math.inf, x)
    negative, mantissa, exponent, bits = x._mpf_
    if not mantissa:
        return 0.0
    sign = -1.0 if negative else 1.0
    if exponent + bits > 1025:
        return sign * math.inf
    if exponent + bits < -1080:
        return sign * 0.0
    if exponent >= 0:
        numerator, denominator = int(mantissa) << exponent, 1
    else:
        numerator, denominator = int(mantissa), 1 << -exponent
    try:
        return sign * (numerator / denominator)  # true division of integers rounds correctly
    except OverflowError:
        return sign * math.inf


def results(op, *args):
    """[value, da, ...] of op at float args, each rounded once."""
    formulas = (UNARY if len(args) == 1 else BINARY)[op]
    rounded = []
    for bits in PRECISIONS.get(op, DEFAULT_PRECISIONS):
        with mp.workprec(bits):
            exact = [mpf(x) for x in args]
            rounded.append([nearest(f(*exact)) for f in formulas])
    if repr(rounded[0]) != repr(rounded[1]):
        raise ArithmeticError(f"{op}{args}: {bits} bits are not enough: {rounded}")
    return rounded[0]


def row(op, *args):
    """The line of ops.csv for op at float args, newline included."""
    value, *partials = results(op, *args)
    cells = [args[0], args[1] if len(args) == 2 else None, value, *partials]
    cells += [None] * (5 - len(cells))
    return ",".join([op, *("" if x is None else x.hex() for x in cells)]) + "\n"


# -- the points -----------------------------------------------------------------------------------

TINY = 5e-324
SMALLEST_NORMAL = 2.2250738585072014e-308
LARGEST = 1.7976931348623157e308


def beside(x, *ulps):
    """x and the doubles that lie so many steps above (below: negative) it."""
    out = [x]
    for n in ulps:
        y = x
        for _ in range(abs(n)):
            y = math.nextafter(y, math.copysign(math.inf, n))
        out.append(y)
    return out


def signed(*xs):
    return [s * x for x in xs for s in (1.0, -1.0)]


class Draw:
    """Random points, the same on every machine: a generator seeded with the op's name."""

    def __init__(self, op):
        self.random = random.Random(op)

    def even(self, low, high, n):
        return [self.random.uniform(low, high) for _ in range(n)]

    def spread(self, low, high, n, both=True):
        """n numbers of magnitude 2**low to 2**high, of both signs unless told."""
        out = []
        for _ in range(n):
            x = math.ldexp(self.random.uniform(1, 2), self.random.randrange(low, high))
            out.append(-x if both and self.random.random() < 0.5 else x)
        return out


def unary_points(op):
    d = Draw(op)
    if op in ("neg", "abs", "sign", "relu"):
        return signed(1.0, TINY, SMALLEST_NORMAL, 1e-200, 1e200, LARGEST) + d.spread(-40, 40, 12)
    if op in ("floor", "ceil"):
        return signed(0.5, TINY, 1.5, 4503599627370495.5, 2.0**52 + 1, 1e300, 1 - 2**-53) + d.spread(-4, 54, 16)
    if op == "square":
        return signed(1.0, 1e-200, 1e-160, 1e-154, 1.3e154, TINY) + d.spread(-500, 500, 20)
    if op == "reciprocal":
        return (
            signed(1.0, 3.0, 1e-200, 1e200, 1e-154, 1e154, 1.6e308, SMALLEST_NORMAL, 6e-309)
            + d.spread(-1000, 1000, 20)
            + d.spread(-3, 3, 20)
        )
    if op == "gelu":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.0, 3.0, 5.0, 5.9, 8.0, 8.3, 10.0, 38.0)
            + [-20.0, -26.5, -30.0, -37.0, -38.4, 100.0, 1e300]
            + beside(-0.7517915246935645, 1, -3)  # a root of the slope
            + d.even(-8, 8, 36)
            + d.even(-38, -8, 8)
            + d.spread(-60, 2, 16)
        )
    if op == "silu":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.0, 20.0, 36.0, 37.0, 40.0, 700.0, 708.0)
            + [-709.0, -720.0, -740.0, -744.0, 745.0, 1e300, -1e300]
            + beside(-1.2784645427610738, 1, -3)  # a root of the slope
            + d.even(-40, 40, 36)
            + d.spread(-60, 9, 24)
        )
    if op in ("softplus", "sigmoid"):
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.0, 20.0, 36.0, 36.7, 37.0, 40.0, 700.0, 708.0)
            + signed(709.5, 720.0, 740.0, 745.0, 1e300)
            + d.even(-40, 40, 36)
            + d.spread(-60, 9, 24)
        )
    if op == "tanh":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.0, 10.0, 18.7, 19.1, 20.0, 22.0, 100.0, 300.0)
            + signed(350.0, 371.0, 373.0, 1e300)
            + d.even(-20, 20, 32)
            + d.spread(-60, 4, 28)
        )
    if op in ("exp", "expm1"):
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.0, 700.0)
            + [709.78, 709.7, -708.3, -708.5, -720.0, -740.0, -744.5, -745.1, -36.0, -40.0]
            + d.even(-740, 709, 24)
            + d.spread(-60, 6, 36)
        )
    if op == "exp2":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.0, 10.0, 1000.0)
            + [1023.9, 1023.0, -1021.5, -1022.5, -1040.5, -1060.0, -1073.6]
            + d.even(-1070, 1023, 24)
            + d.spread(-60, 6, 36)
        )
    if op in ("log", "log2", "log10"):
        return (
            [TINY, 1e-320, 4e-309, SMALLEST_NORMAL, 1e-200, 0.5, 2.0, 10.0, 1000.0, 1e200, LARGEST]
            + beside(1.0, 1, -1, 4, -4, 1000, -1000)
            + [1 + 1e-12, 1 - 1e-12, 1 + 1e-6, 1 - 1e-6, 0.9, 1.1, 2.0**60, 1e-5]
            + d.spread(-1060, 1020, 20, both=False)
            + d.spread(-6, 6, 20, both=False)
            + d.even(0.7, 1.4, 20)
        )
    if op == "log1p":
        return (
            [TINY, -TINY, 1e-320, 1e300, LARGEST, 1.0, -0.5, 1e16, 9e15, 3.0, 1e10]
            + signed(1e-20, 1e-300, 1e-16, 1e-12, 1e-8, 0.3)
            + beside(-1.0, 1, 4, 1000)[1:]
            + [-1 + 1e-12, -0.99, -0.9]
            + d.spread(-60, 0, 26)
            + d.spread(0, 1020, 20, both=False)
            + d.even(-0.999, 2, 14)
        )
    if op == "sqrt":
        return (
            [TINY, 1e-320, SMALLEST_NORMAL, 1e-200, 1.0, 2.0, 4.0, 1e200, LARGEST]
            + beside(1.0, 1, -1)
            + d.spread(-1070, 1020, 30, both=False)
            + d.spread(-4, 4, 30, both=False)
        )
    if op == "cbrt":
        return (
            signed(TINY, 1e-320, SMALLEST_NORMAL, 1e-200, 1.0, 8.0, 27.0, 0.001, 1e200, LARGEST)
            + d.spread(-1070, 1020, 30)
            + d.spread(-4, 4, 30)
        )
    if op in ("sin", "cos", "tan"):
        quarter = math.pi / 2
        return (
            signed(1e-300, 1e-20, 1e-8, 1.0, 1e22, 1e300, LARGEST, 355.0, 6381956970095103.0)
            + [n * quarter for n in (-3, -2, -1, 0.5, 1, 1.5, 2, 3, 4, 11, 1001, 2.0**30)]
            + beside(quarter, 1, -1)[1:]
            + d.even(-7, 7, 30)
            + d.spread(-40, 0, 10)
            + d.spread(3, 60, 20)
        )
    if op in ("asin", "acos", "atanh"):
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 0.9, 0.7071067811865476, 0.975, 1 - 1e-12)
            + signed(1 - 1e-6, *beside(1.0, -1, -2, -1000)[1:])
            + d.even(-1, 1, 34)
            + d.spread(-60, 0, 26)
        )
    if op in ("atan", "asinh"):
        return (
            signed(1e-300, 1e-20, 1e-8, 0.4375, 1.0, 2.0, 1e8, 1e16, 1e154, 1.5e154, 1e200, LARGEST)
            + d.even(-4, 4, 30)
            + d.spread(-60, 60, 30)
        )
    if op in ("sinh", "cosh"):
        return (
            signed(1e-300, 1e-20, 1e-8, 0.3, 1.0, 20.0, 22.0, 36.0, 40.0, 700.0, 709.0, 710.0)
            + signed(710.4)
            + d.even(-25, 25, 24)
            + d.even(-710, 710, 12)
            + d.spread(-60, 2, 24)
        )
    if op == "acosh":
        return (
            beside(1.0, 1, 2, 4, 1000)[1:]
            + [1 + 1e-12, 1 + 1e-6, 1.1, 1.5, 2.0, 10.0, 1e8, 2.0**28, 1e16, 1e154, 1.5e154]
            + [1e200, LARGEST]
            + d.even(1, 2, 25)
            + d.even(2, 50, 20)
            + d.spread(1, 1020, 20, both=False)
        )
    if op == "erf":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 0.84375, 1.0, 1.25, 2.857, 3.0, 5.0, 5.9, 6.0, 10.0)
            + signed(26.0, 27.0, 40.0)
            + d.even(-6, 6, 32)
            + d.spread(-60, 2, 28)
        )
    if op == "erfc":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 0.84375, 1.0, 1.25, 2.857, 3.0, 5.0, 5.9, 10.0, 25.0)
            + [26.0, 26.5, 26.6, 27.0, 27.2, 40.0, -26.0, -40.0]
            + d.even(-6, 26, 34)
            + d.spread(-60, 2, 24)
        )
    if op == "lgamma":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.5, 10.5, 100.5)
            + [2.5, 3.0, 4.0, 10.0, 20.0, 1e5, 1e15, 1e100, 1e300, 1.2345e305, 171.6]
            + beside(1.0, 1, -1, 1000)
            + beside(2.0, 1, -1, 1000)
            + [1 + 1e-8, 1 - 1e-8, 2 + 1e-8, 2 - 1e-8, 0.999, 1.001, 1.999, 2.001]
            + [-2.4570247382208006, -2.747682646727413, -3.143580888349980, -3.955294284858598]
            + [-4.039361839740536, -1 + 1e-9, -1 - 1e-9, -2.0 - 2**-51, -20.001, -1e5 - 0.3]
            + d.even(0, 4, 26)
            + d.spread(2, 60, 14, both=False)
            + d.even(-12, 0, 20)
        )
    if op == "digamma":
        return (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.5, 10.5, 100.5)
            + [1.0, 2.0, 2.5, 3.0, 6.0, 7.0, 10.0, 20.0, 1e5, 1e15, 1e16, 1e100, 1e300]
            + beside(1.4616321449683623, 1, -1, 100)  # the positive root
            + [1.46, 1.4616, 1.462, 1.47]
            + [-0.504083008264455, -1.573498473162390, -2.610720868444144]  # other roots
            + [-1 + 1e-9, -1 - 1e-9, -2.0 - 2**-51, -20.001, -1e5 - 0.3]
            + d.even(0, 4, 26)
            + d.spread(2, 60, 14, both=False)
            + d.even(-12, 0, 20)
        )
    raise KeyError(op)


def binary_points(op):
    d = Draw(op)

    def pairs(low, high, n, both=True):
        return list(zip(d.spread(low, high, n, both), d.spread(low, high, n, both)))

    if op in ("add", "sub", "mul"):
        return (
            [(0.1, 0.2), (1e307, -1e-308), (1.0, 2.0**-53), (1e-200, 1e-200), (TINY, TINY)]
            + [(1e-160, 1e-160), (TINY, 0.5), (3.0, SMALLEST_NORMAL), (1e16, 1.0), (-0.1, 0.3)]
            + pairs(-8, 8, 14)
            + pairs(-500, 500, 8)
        )
    if op == "div":
        return (
            [(1e-200, 1e-200), (1e200, 1e200), (1e-200, 1e-150), (1e200, 1e150), (1.0, 3.0)]
            + [(1.0, 1e200), (1e-300, 1e-8), (1.0, -1e-154), (TINY, TINY), (1e-310, 3.0)]
            + [(1e308, 1.5e308), (0.0, 3.0), (TINY, 2.0), (1e-310, 1e-310), (-7.0, 1e-150)]
            + pairs(-8, 8, 30)
            + pairs(-500, 500, 30)
        )
    if op == "pow":
        whole = [float(n) for n in (-7, -3, -2, -1, 1, 2, 3, 4, 5, 8, 13)]
        near_one = [1 + x for x in d.spread(-40, -2, 12)]
        return (
            [(2.0, 0.5), (0.5, -2.5), (10.0, 300.0), (10.0, -300.0), (1e-200, 1.5), (1e200, 1.5)]
            + [(1e-200, -1.5), (0.0, 2.0), (0.0, 1.0), (0.0, 3.5), (-2.0, 3.0), (-0.5, -5.0)]
            + [(1.0, 1e300), (1.0 + 2**-52, 1e18), (1.0 - 2**-53, -1e18), (TINY, 0.5)]
            + [(10.0, -320.0), (7.0, 1e-20), (1e-5, 1e-300), (3.0, 1.0), (LARGEST, 1.0)]
            + [(1e-310, 1.0), (-3.0, 0.0)]
            + [(-1e-3, 2.0), (-7.5, 1.0), (5.0, 0.0), (2.0, 1023.5), (2.0, -1070.0), (1e154, 2.0)]
            + list(zip(d.spread(-4, 4, 22, both=False), d.even(-6, 6, 22)))
            + list(zip(d.spread(-30, 30, 11), whole))
            + [(x, y * 100) for x, y in zip(near_one, d.spread(0, 10, 12))]
            + list(zip(d.spread(-90, 90, 12, both=False), d.even(-8, 8, 12)))
            # b - 1 is rounded: da must not magnify that log(a) times
            + [(5.431790577572527e25, -3.7619264127296863), (1e200, 0.1), (1e-250, -0.3)]
            + list(zip(d.spread(-300, 300, 10, both=False), d.even(-1, 1, 10)))
        )
    if op in ("floordiv", "mod"):
        return (
            [(7.0, 2.0), (-7.0, 2.0), (7.0, -2.0), (-7.0, -2.0), (1e18, 7.0), (1.0, 0.1)]
            + [(0.3, 0.1), (-0.3, 0.1), (1e300, 3.0), (5.0, 1e300), (TINY, 2.0), (1e-200, 3e-201)]
            + [(x, y) for x, y in pairs(-8, 8, 20)]
            + [(x, y) for x, y in pairs(-30, 30, 10)]
        )
    if op == "atan2":
        return (
            [(1e-200, 1e-200), (1e200, 1e200), (1e-200, -1e200), (1e200, 1e-200), (-1.0, 1e-300)]
            + [(1e-310, 1e-310), (TINY, TINY), (1.6e308, 1.6e308), (-1e-200, -3e-200)]
            + [(1.0, 1e16), (1e-16, -1.0), (0.0, 1.0), (0.0, -2.0), (3.0, 0.0), (-3.0, 0.0)]
            + [(1e154, 1e154), (3e-160, 4e-160), (1.0, 1e-20), (2.5e-308, 1.0), (1e300, 1.0)]
            + pairs(-8, 8, 30)
            + pairs(-500, 500, 20)
        )
    if op == "hypot":
        return (
            [(1e-200, 1e-200), (1e200, 1e200), (1e-200, 1e200), (3.0, 4.0), (-5.0, 12.0)]
            + [(1e-310, 1e-310), (TINY, TINY), (1e308, 1e308), (1e-200, -3e-200), (0.0, -2.0)]
            + [(1.0, 1e16), (1e-16, -1.0), (3.0, 0.0), (1.0, 1e-200), (1e-320, 4e-320)]
            + pairs(-8, 8, 30)
            + pairs(-500, 500, 20)
        )
    if op in ("maximum", "minimum"):
        return (
            [(1.0, 2.0), (2.0, 1.0), (-1.0, 0.0), (TINY, 0.0), (-TINY, 0.0), (1e308, -1e308)]
            + [(1.0, 1 + 2**-52)]
            + pairs(-8, 8, 12)
        )
    if op == "leaky_relu":
        slopes = [0.01, 0.2, 1.0, -0.5, 0.0, 0.3]
        points = signed(1.0, 1e-200, 1e200, TINY, 1e-310, 3.3) + d.spread(-8, 8, 18)
        return [(x, slopes[i % len(slopes)]) for i, x in enumerate(points)]
    if op == "elu":
        alphas = [1.0, 1.0, 0.5, 2.0, 0.1]
        points = (
            signed(1.0, 1e-200, 1e-20, 1e-8, 1e300, TINY, 3.3)
            + [-36.0, -40.0, -700.0, -708.0, -720.0, -744.0, -800.0]
            + d.spread(-60, 5, 40)
        )
        return [(x, alphas[i % len(alphas)]) for i, x in enumerate(points)]
    if op in ("clamp_min", "clamp_max"):
        return [(1.0, 2.0), (2.0, 1.0), (-TINY, 0.0), (TINY, 0.0)] + pairs(-8, 8, 10)
    if op in ("_squared_error", "_absolute_error"):
        return (
            [(0.1, 0.2), (-0.1, 0.3), (1e16, 1.0), (1.0, 1 + 2**-52), (1.0, 1 - 2**-53)]
            + [(1e154, 0.0), (-1e154, 3e153), (1e300, -1e300), (1e300, 1.0), (LARGEST, 0.5)]
            + [(1e-160, 0.0), (TINY, 0.0), (0.0, 1e-310), (3e-162, 1e-162), (1e-300, 1.0)]
            + pairs(-8, 8, 20)
            + pairs(-300, 300, 12)
        )
    if op == "_huber":
        deltas = [1.0, 0.5, 2.0, 1e-3, 100.0, 1e-300, 1e300]
        points = signed(0.5, 0.999, 3.0, 1e-200, TINY, 1e154, 1e300) + d.spread(-8, 8, 28)
        return (
            [(x, deltas[i % len(deltas)]) for i, x in enumerate(points)]
            + [(1.0, 1.0), (-2.0, 2.0), (1 + 2**-52, 1.0), (1e-160, 1.0), (LARGEST, 1.0)]
            + [(1.5e154, 2e154), (-1.5e154, 1e154), (0.0, 1.0)]
        )
    if op == "_hinge":
        return (
            [(0.5, 1.0), (0.5, -1.0), (2.0, 1.0), (-3.0, 1.0), (0.0, 1.0), (0.0, -1.0)]
            + [(1e300, -1.0), (-LARGEST, 1.0), (1e300, 1.0), (1e-20, 1.0), (TINY, -1.0)]
            + [(1 - 2**-53, 1.0), (0.99999999, 1.0), (-1e300, 1e-300), (0.5, 0.0), (1e16, -1e-16)]
            + list(zip(d.spread(-8, 8, 20), [1.0, -1.0] * 10))
            + pairs(-4, 4, 16)
        )
    if op == "_bce":
        chances = (
            [0.5, 0.3, 0.9, 1e-20, 1e-12, 1e-13, 2e-12, 1e-300, TINY, 1e-310, 3e-44, 4e-44, 1e-100]
            + [1 - 2**-53, 1 - 1e-12, 1 - 1e-13, 1 - 2e-12, 1 - 1e-9, 0.5 + 2**-40, 0.25]
            + d.even(0, 1, 24)
        )
        targets = [0.0, 1.0, 0.0, 1.0, 0.5, 0.1, 0.999, 1e-20, 1 - 2**-53, -0.5, 1.5]
        return [(p, t) for i, p in enumerate(chances) for t in (*targets[:2], targets[i % 11])]
    if op == "_bce_logits":
        logits = (
            signed(1e-300, 1e-20, 1e-8, 0.5, 1.0, 20.0, 36.7, 40.0, 700.0, 709.5, 745.0, 800.0)
            + signed(1e300, TINY, 2.1972245773362196)
            + d.even(-40, 40, 20)
        )
        targets = [0.5, 0.9, 0.1, 0.999, 1e-20, 1 - 2**-53, -0.5, 1.5]
        return [(x, t) for i, x in enumerate(logits) for t in (0.0, 1.0, targets[i % 8])]
    raise KeyError(op)


def points(op):
    """The distinct argument tuples of op, in order."""
    found = [(x,) for x in unary_points(op)] if op in UNARY else binary_points(op)
    return list(dict.fromkeys(tuple(float(x) for x in args) for args in found))


def table():
    """The text of ops.csv. Points where the value leaves the doubles are left out."""
    lines = [HEAD]
    for op in (*UNARY, *BINARY):
        for args in points(op):
            value = results(op, *args)[0]
            if math.isfinite(value):
                lines.append(row(op, *args))
            else:
                print(f"left out: {op}{args} is {value}", file=sys.stderr)
    return "".join(lines)


if __name__ == "__main__":
    OUT.write_text(table(), encoding="ascii", newline="\n")
