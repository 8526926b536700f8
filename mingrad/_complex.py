"""The ops in complex arithmetic, and a recorded graph's derivatives by the complex step.

For check_grad; what is compared with what, and all that users see, is in gradcheck.py.

This is the independent second mention of the op table (csrc/ops.def): values and slopes are
written once more, of complex numbers, and nothing is taken from the table's derivatives. The value
at x + ih with a tiny h has f(x) as its real part and h f'(x) as its imaginary part, with no
difference taken (Martins, Sturdza and Alonso, The complex-step derivative approximation, 2003).
Slopes of complex numbers give second derivatives in the same way.

Ops with a kink choose by the real part, and where that is a tie by the imaginary part, which says
to which side one goes. So +h gives the derivative to the right and -h the one to the left; where
they differ is a kink. An op that jumps gives nan there.
"""

import cmath
import math

from . import _core
from .autodiff import _floats
from .engine import Variable

_LN2, _LN10 = math.log(2.0), math.log(10.0)
_EPS = 2.0**-52
# The largest imaginary part of an op's operands, relative to the smallest of them (or to 1). A
# singularity can be as near to x as the next double, 2**-53 of x; the error is this ratio squared.
STEP = 2.0**-90
# Outside of these an operand other than 0 leaves too little room for an imaginary part beside it.
_SMALLEST, _LARGEST = 1e-100, 1e100
# Imaginary parts may lose digits below this.
_UNDERFLOW = 1e-290
# Rounding errors of one contribution, in ulps: of its slope in the table, which is right to 4
# (tests/test_ops.py), of its slope here, of the product and the sum.
_ROUNDINGS = 8


# -- choices ---------------------------------------------------------------------------------------


def _above(a, b):
    """Whether a is more than b, on a tie of the real parts by the imaginary ones."""
    return (a.real, a.imag) > (b.real, b.imag)


def _absolute(z):
    return z if _above(z, 0.0) else -z


def _sign(z):
    """Which way |z| goes: 1 or -1; 0 at 0 where nothing moves."""
    return 1.0 if _above(z, 0.0) else -1.0 if _above(0.0, z) else 0.0


def _larger(a, b):
    return a if _above(a, b) else b


def _smaller(a, b):
    return b if _above(a, b) else a


def _chosen(zs, choose):
    """The place of the largest or the smallest."""
    best = zs[0]
    for z in zs[1:]:
        best = choose(best, z)
    return zs.index(best)


def _one_at(place, count):
    return [float(i == place) for i in range(count)]


def _step(y, jumps, *zs):
    """The value of a step function."""
    return complex(y, math.nan if jumps and any(z.imag for z in zs) else 0.0)


# -- functions that cmath has not, or not as exact near the real axis ------------------------------


def _expm1(z):
    return complex(math.expm1(z.real), math.exp(z.real) * math.sin(z.imag))


def _log1p(z):
    return complex(math.log1p(z.real), math.atan2(z.imag, 1.0 + z.real))


def _sigmoid(z):
    if z.real >= 0.0:
        return 1.0 / (1.0 + cmath.exp(-z))
    e = cmath.exp(z)
    return e / (1.0 + e)


def _softplus(z):
    return z + _log1p(cmath.exp(-z)) if z.real > 0.0 else _log1p(cmath.exp(z))


def _power(a, b):
    """a**b in polar form; a negative base has a whole exponent. At base 0: to first order."""
    if a.real == 0.0:
        if b.real == 1.0:
            return a
        steep = 0.0 < b.real < 1.0 and a.imag
        return complex(0.0**b.real, math.nan if steep else 0.0)
    sign = 1.0
    if a.real < 0.0:
        a, sign = -a, (-1.0) ** b.real
    length = abs(a) ** b.real * math.exp(-cmath.phase(a) * b.imag)
    return sign * cmath.rect(length, cmath.phase(a) * b.real + math.log(abs(a)) * b.imag)


def _power_slopes(y, a, b):
    if b == 0.0:
        by_base = 0.0
    elif a.real == 0.0 or (b.imag == 0.0 and (b.real - 1.0) + 1.0 == b.real):
        by_base = b * _power(a, b - 1.0)
    else:  # b - 1 would be rounded
        by_base = b * y / a
    return by_base, y * cmath.log(a) if a.real else 0.0


def _cbrt(z):
    negative = z.real < 0.0
    z = -z if negative else z
    root = cmath.rect(abs(z) ** (1.0 / 3.0), cmath.phase(z) / 3.0)
    root -= (root - z / (root * root)) / 3.0  # Newton: 1/3 is rounded, which costs digits far out
    return -root if negative else root


def _norm(zs):
    """The square root of the sum of squares. At the origin it is |.|, along the direction."""
    top = max(abs(z.real) for z in zs)
    if top == 0.0:
        return complex(0.0, math.hypot(*(z.imag for z in zs)))
    return top * cmath.sqrt(sum((z / top) * (z / top) for z in zs))


def _norm_slopes(y, zs):
    return [z / y if y.real else 0.0 for z in zs]


def _atan2(a, b):
    if abs(b.real) >= abs(a.real):
        angle = cmath.atan(a / b)
    else:
        angle = -cmath.atan(b / a)
    return complex(math.atan2(a.real, b.real), angle.imag)  # angle's real part lacks the quadrant


def _atan2_slopes(y, a, b):
    r = _norm((a, b))
    return b / r / r, -(a / r / r)


def _gauss(z):
    """exp(-z*z); z*z is split so that its rounding costs no digits in the tails."""
    near = round(z.real * 65536.0) / 65536.0
    return math.exp(-near * near) * cmath.exp(-(z - near) * (z + near))


def _erf_slope(z):
    return 2.0 / math.sqrt(math.pi) * _gauss(z)


def _erf(z):
    """Near the real axis, by its derivative there."""
    return complex(math.erf(z.real), z.imag * _erf_slope(z.real).real)


def _erfc(z):
    return complex(math.erfc(z.real), -z.imag * _erf_slope(z.real).real)


def _normal_cdf(z):
    return 0.5 * _erfc(-z * math.sqrt(0.5))


def _normal_pdf(z):
    return _gauss(z * math.sqrt(0.5)) / math.sqrt(2.0 * math.pi)


def _tanh_slope(z):
    e = cmath.exp(-2.0 * (z if z.real > 0.0 else -z))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


def _exponentials(zs):
    """Of the differences to the largest one, which as a number moves no derivative (ops.def)."""
    top = max(z.real for z in zs)
    return [cmath.exp(z - top) for z in zs]


def _logsumexp(zs):
    return max(z.real for z in zs) + cmath.log(sum(_exponentials(zs)))


def _cross_entropy(zs, k):
    others = [z - zs[k] for i, z in enumerate(zs) if i != k]
    if all(z.real < 600.0 for z in others):
        return _log1p(sum(map(cmath.exp, others)))  # a small loss keeps its digits
    return _logsumexp(zs) - zs[k]


def _cross_entropy_slopes(y, zs, k):
    return [_expm1(-y) if i == k else cmath.exp(z - zs[k] - y) for i, z in enumerate(zs)]


def _product(zs):
    found = 1.0 + 0.0j
    for z in zs:
        found *= z
    return found


def _product_slopes(y, zs, k):
    """For each the product of those before it and those behind it."""
    before, behind = [1.0 + 0.0j], [1.0 + 0.0j]
    for z in zs[:-1]:
        before.append(before[-1] * z)
    for z in zs[:0:-1]:
        behind.append(behind[-1] * z)
    return [a * b for a, b in zip(before, reversed(behind))]


def _held_log(z, log):
    """The logarithm as binary_cross_entropy counts it: -100 at least."""
    y = log(z)
    return y if y.real >= -100.0 else complex(-100.0)


def _bce(a, b):
    return -(b * _held_log(a, cmath.log) + (1.0 - b) * _held_log(-a, _log1p))


def _bce_slopes(y, a, b):
    low, high = _held_log(a, cmath.log), _held_log(-a, _log1p)
    by_low = -b / a if low.real > -100.0 else 0.0
    by_high = (1.0 - b) / (1.0 - a) if high.real > -100.0 else 0.0
    return by_low + by_high, high - low


def _bce_logits(a, b):
    return a * (1.0 - b) + _softplus(-a) if a.real > 0.0 else _softplus(a) - a * b


def _huber(a, b):
    size = _absolute(a)
    return b * (size - 0.5 * b) if _above(size, b) else 0.5 * a * a


def _huber_slopes(y, a, b):
    size = _absolute(a)
    return (b * _sign(a), size - b) if _above(size, b) else (a, 0.0)


def _floordiv(a, b):
    return _step(a.real // b.real, a.real % b.real == 0.0, a, b)


def _halves(zs):
    """dot's two ranges; affine's inputs and weights, without the bias behind them."""
    half = len(zs) // 2
    return zs[:half], zs[half : 2 * half]


def _dot(zs, k):
    return sum((a * b for a, b in zip(*_halves(zs))), zs[-1] if len(zs) % 2 else 0.0)


def _dot_slopes(y, zs, k):
    left, right = _halves(zs)
    return [*right, *left, *[1.0] * (len(zs) % 2)]


# -- the ops: {name: (value, slopes)} --------------------------------------------------------------

# value(z), slope(y, z)
_UNARY = {
    "neg": (lambda z: -z, lambda y, z: -1.0),
    "_copy": (lambda z: z, lambda y, z: 1.0),
    "abs": (_absolute, lambda y, z: _sign(z)),
    "square": (lambda z: z * z, lambda y, z: 2.0 * z),
    "reciprocal": (lambda z: 1.0 / z, lambda y, z: -1.0 / z / z),
    "sign": (lambda z: _step(_sign(z.real), z.real == 0.0, z), lambda y, z: 0.0),
    "floor": (lambda z: _step(math.floor(z.real), z.real % 1.0 == 0.0, z), lambda y, z: 0.0),
    "ceil": (lambda z: _step(math.ceil(z.real), z.real % 1.0 == 0.0, z), lambda y, z: 0.0),
    "relu": (lambda z: z if _above(z, 0.0) else 0.0j, lambda y, z: float(_above(z, 0.0))),
    "sigmoid": (_sigmoid, lambda y, z: _sigmoid(z) * _sigmoid(-z)),
    "silu": (lambda z: z * _sigmoid(z), lambda y, z: _sigmoid(z) * (1.0 + z * _sigmoid(-z))),
    "softplus": (_softplus, lambda y, z: _sigmoid(z)),
    "gelu": (lambda z: z * _normal_cdf(z), lambda y, z: _normal_cdf(z) + z * _normal_pdf(z)),
    "exp": (cmath.exp, lambda y, z: y),
    "exp2": (lambda z: cmath.rect(2.0**z.real, z.imag * _LN2), lambda y, z: y * _LN2),
    "expm1": (_expm1, lambda y, z: cmath.exp(z)),
    "log": (cmath.log, lambda y, z: 1.0 / z),
    "log2": (lambda z: cmath.log(z) / _LN2, lambda y, z: 1.0 / (z * _LN2)),
    "log10": (cmath.log10, lambda y, z: 1.0 / (z * _LN10)),
    "log1p": (_log1p, lambda y, z: 1.0 / (1.0 + z)),
    "sqrt": (cmath.sqrt, lambda y, z: 0.5 / y),
    "cbrt": (_cbrt, lambda y, z: 1.0 / (3.0 * y * y)),
    "sin": (cmath.sin, lambda y, z: cmath.cos(z)),
    "cos": (cmath.cos, lambda y, z: -cmath.sin(z)),
    "tan": (cmath.tan, lambda y, z: 1.0 + y * y),
    "asin": (cmath.asin, lambda y, z: 1.0 / cmath.sqrt((1.0 - z) * (1.0 + z))),
    "acos": (cmath.acos, lambda y, z: -1.0 / cmath.sqrt((1.0 - z) * (1.0 + z))),
    "atan": (cmath.atan, lambda y, z: 1.0 / (1.0 + z * z)),
    "sinh": (cmath.sinh, lambda y, z: cmath.cosh(z)),
    "cosh": (cmath.cosh, lambda y, z: cmath.sinh(z)),
    "tanh": (cmath.tanh, lambda y, z: _tanh_slope(z)),
    "asinh": (cmath.asinh, lambda y, z: 1.0 / _norm((z, 1.0))),
    "acosh": (cmath.acosh, lambda y, z: 1.0 / (cmath.sqrt(z - 1.0) * cmath.sqrt(z + 1.0))),
    "atanh": (cmath.atanh, lambda y, z: 1.0 / ((1.0 - z) * (1.0 + z))),
    "erf": (_erf, lambda y, z: _erf_slope(z)),
    "erfc": (_erfc, lambda y, z: -_erf_slope(z)),
}
# value(a, b), slopes(y, a, b)
_BINARY = {
    "add": (lambda a, b: a + b, lambda y, a, b: (1.0, 1.0)),
    "sub": (lambda a, b: a - b, lambda y, a, b: (1.0, -1.0)),
    "mul": (lambda a, b: a * b, lambda y, a, b: (b, a)),
    "div": (lambda a, b: a / b, lambda y, a, b: (1.0 / b, -y / b)),
    "floordiv": (_floordiv, lambda y, a, b: (0.0, 0.0)),
    "mod": (
        lambda a, b: a - b * (a.real // b.real) + _step(0.0, a.real % b.real == 0.0, a, b),
        lambda y, a, b: (1.0, -(a.real // b.real)),
    ),
    "pow": (_power, _power_slopes),
    "maximum": (_larger, lambda y, a, b: (1.0, 0.0) if _above(a, b) else (0.0, 1.0)),
    "minimum": (_smaller, lambda y, a, b: (0.0, 1.0) if _above(a, b) else (1.0, 0.0)),
    "clamp_min": (_larger, lambda y, a, b: (1.0, 0.0) if _above(a, b) else (0.0, 1.0)),
    "clamp_max": (_smaller, lambda y, a, b: (0.0, 1.0) if _above(a, b) else (1.0, 0.0)),
    "leaky_relu": (
        lambda a, b: a if _above(a, 0.0) else b * a,
        lambda y, a, b: (1.0, 0.0) if _above(a, 0.0) else (b, a),
    ),
    "elu": (
        lambda a, b: a if _above(a, 0.0) else b * _expm1(a),
        lambda y, a, b: (1.0, 0.0) if _above(a, 0.0) else (b * cmath.exp(a), _expm1(a)),
    ),
    "atan2": (_atan2, _atan2_slopes),
    "hypot": (lambda a, b: _norm((a, b)), lambda y, a, b: _norm_slopes(y, (a, b))),
    "_squared_error": (
        lambda a, b: (a - b) * (a - b),
        lambda y, a, b: (2.0 * (a - b), 2.0 * (b - a)),
    ),
    "_absolute_error": (
        lambda a, b: _absolute(a - b),
        lambda y, a, b: (_sign(a - b), _sign(b - a)),
    ),
    "_huber": (_huber, _huber_slopes),
    "_hinge": (
        lambda a, b: _larger(1.0 - a * b, 0.0j),
        lambda y, a, b: (-b, -a) if _above(1.0, a * b) else (0.0, 0.0),
    ),
    "_bce": (_bce, _bce_slopes),
    "_bce_logits": (_bce_logits, lambda y, a, b: (_sigmoid(a) - b, -a)),
}
# value(zs, index), slopes(y, zs, index). index: cross_entropy's class; softmax's common maximum.
_RANGE = {
    "sum": (lambda zs, k: sum(zs), lambda y, zs, k: [1.0] * len(zs)),
    "mean": (lambda zs, k: sum(zs) / len(zs), lambda y, zs, k: [1.0 / len(zs)] * len(zs)),
    "prod": (lambda zs, k: _product(zs), _product_slopes),
    "max": (
        lambda zs, k: zs[_chosen(zs, _larger)],
        lambda y, zs, k: _one_at(_chosen(zs, _larger), len(zs)),
    ),
    "min": (
        lambda zs, k: zs[_chosen(zs, _smaller)],
        lambda y, zs, k: _one_at(_chosen(zs, _smaller), len(zs)),
    ),
    "logsumexp": (
        lambda zs, k: _logsumexp(zs),
        lambda y, zs, k: [cmath.exp(z - y) for z in zs],
    ),
    "norm": (lambda zs, k: _norm(zs), lambda y, zs, k: _norm_slopes(y, zs)),
    "_sumexp": (lambda zs, k: sum(_exponentials(zs)), lambda y, zs, k: _exponentials(zs)),
    "_mean_square": (
        lambda zs, k: sum(z * z for z in zs) / len(zs),
        lambda y, zs, k: [2.0 * z / len(zs) for z in zs],
    ),
    "_cross_entropy": (_cross_entropy, _cross_entropy_slopes),
    "_softmax": (
        lambda zs, top: cmath.exp(zs[0] - top) / zs[1],
        lambda y, zs, top: (y, -y / zs[1]),
    ),
    "dot": (_dot, _dot_slopes),
    "affine": (_dot, _dot_slopes),
    "linear": (_dot, _dot_slopes),
}


def _formula(name):
    """(value, slopes), both of a list of operands and the row's index; None for an op without."""
    if name in _RANGE:
        return _RANGE[name]
    if name in _UNARY:
        value, slope = _UNARY[name]
        return (lambda zs, k: value(*zs)), (lambda y, zs, k: (slope(y, *zs),))
    if name in _BINARY:
        value, slopes = _BINARY[name]
        return (lambda zs, k: value(*zs)), (lambda y, zs, k: slopes(y, *zs))
    return None


# The second derivatives of some ops are sums of terms that cancel: as large as a slope divided by
# the length over which slopes change, which for these is 1 wherever they are.
_UNIT_LENGTH = set("sigmoid silu softplus gelu tanh erf erfc elu logsumexp".split())
_UNIT_LENGTH |= {"_sumexp", "_softmax", "_bce_logits", "_cross_entropy"}


def _bend(name, xs):
    """1 / that length, 0.0 where nothing cancels."""
    if name in _UNIT_LENGTH:
        return 1.0
    sizes = [abs(x) for x in xs if x != 0.0]
    if name in ("hypot", "norm", "atan2") and sizes:
        return 1.0 / max(sizes)
    return 1.0 / min(sizes) if name == "pow" and sizes else 0.0


# -- a recorded graph ------------------------------------------------------------------------------


class Recording:
    """What a call of a function recorded: a graph over the inputs (Variables), as places in a list.

    outputs: Variables and numbers; results: their values. shape: what two recordings of the same
    computation have in common. constants: what numbers went into it from elsewhere, as pairs
    (number, the op that uses it).
    """

    def __init__(self, outputs, inputs):
        graph = _core._graph([y for y in outputs if isinstance(y, Variable)])
        place = {row[0]: i for i, row in enumerate(graph)}
        self.values = [row[0].data for row in graph]
        # (name, operands, (0 or 1, the number that stands for this operand) or None, index)
        self.rows = [
            (name, operands, number if isinstance(number, tuple) else None, index)
            for _, name, operands, number, index, _ in graph
        ]
        self.inputs = [place.get(x) for x in inputs]
        self.outputs = [place.get(y) if isinstance(y, Variable) else None for y in outputs]
        self.results = _floats(outputs)
        names = [(name, operands, index) for name, operands, _, index in self.rows]
        self.shape = self.inputs, self.outputs, names
        ours = set(self.inputs)
        users = {i: name for name, operands, _, _ in reversed(self.rows) for i in operands}
        self.constants = [(y, "the result") for y in outputs if not isinstance(y, Variable)]
        for i, (name, operands, number, _) in enumerate(self.rows):
            if number is not None:
                self.constants.append((number[1], name))
            if not operands and i not in ours:
                self.constants.append((self.values[i], users.get(i, "the result")))


class _Node:
    """An interior node: its operands' places and values, and how it is computed here.

    operands: places, None for the number of the row. formula: None where there is no complex form,
    none for the op or one that is of no use at these operands. slopes: the partials; sizes: how
    large the terms are that rounding acts on in them. tie: whether the two sides may differ.
    """

    def __init__(self, name, operands, xs, index, value):
        self.operands, self.xs, self.index = operands, xs, index
        self.bend = _bend(name, xs)
        self.roundings = (_ROUNDINGS + len(xs)) * _EPS
        self.step = STEP * min([1.0, *(abs(x) for x in xs if x != 0.0)])
        self.slopes = self.sizes = None
        self.tie = False
        self.formula = _formula(name)
        if self.formula is not None and not self._usable(value):
            self.formula = None

    def _usable(self, value):
        """Work out slopes and sizes; whether they are finite and the recorded value comes out."""
        if not (self.step >= STEP * _SMALLEST and max(map(abs, self.xs)) <= _LARGEST):
            return False
        try:
            y = self.compute([complex(x) for x in self.xs])[0].real
            slopes = self.compute([complex(x, x * STEP) for x in self.xs])[1]
            self.tie = self._side(1.0) != self._side(-1.0)
        except (ArithmeticError, ValueError):
            return False
        self.slopes = [p.real for p in slopes]
        # how a slope follows its operands, times them: what its terms' roundings make of it
        self.sizes = [abs(p.real) + abs(p.imag) / STEP for p in slopes]
        scale = abs(value) + sum(abs(x * p) for x, p in zip(self.xs, self.sizes))
        return abs(y - value) <= 1e-9 * scale < math.inf

    def _side(self, side):
        """The derivative in one direction, and the slopes there."""
        zs, _ = self.operands_along([side / (1.0 + i) for i in range(len(self.xs))])
        y, slopes = self.compute(zs)
        return side * y.imag, [p.real for p in slopes]

    def compute(self, zs):
        """The value and the slopes of complex operands."""
        y = self.formula[0](zs, self.index)
        return y, self.formula[1](y, zs, self.index)

    def operands_along(self, tangents):
        """Operands with imaginary parts along the tangents, and what 1 of a tangent became."""
        top = max(map(abs, tangents))
        zs = [complex(x, t / top * self.step) for x, t in zip(self.xs, tangents)]
        return zs, self.step / top


class ComplexGraph:
    """The derivatives of a recording. Each method's result is by output.

    ties: whether there may be a kink, so that both sides must be looked at.
    """

    def __init__(self, recording):
        self.inputs, self.outputs = recording.inputs, recording.outputs
        rows, values = recording.rows, recording.values
        self.nodes = []  # None: a leaf
        for (name, operands, number, index), value in zip(rows, values):
            if not operands:
                self.nodes.append(None)
                continue
            xs = [values[i] for i in operands]
            if name == "_softmax":
                index = max(values[i] for i in rows[operands[1]][1])
            if number is not None:
                xs.insert(*number)
                operands = list(operands)
                operands.insert(number[0], None)
            self.nodes.append(_Node(name, operands, xs, index, value))
        self.ties = any(node.tie for node in self.nodes if node is not None)

    def first(self, k, side):
        """The derivatives by input k, to the right (side 1.0) or to the left (-1.0). None where
        they go through an op without a complex form."""
        t, _ = self._upwards(k, side)
        if t is None:
            return None
        return [0.0 if i is None else side * t[i] for i in self.outputs]

    def second(self, k, side):
        """For each output its derivatives by input k, then by each input. Right for inputs that go
        through ops with complex forms only."""
        t, bent = self._upwards(k, side)
        found = []
        for output in self.outputs:
            adjoint, along = [0.0] * len(t), [0.0] * len(t)
            if output is not None:
                adjoint[output] = 1.0
            for place, node in self._downwards(output):
                a, b = adjoint[place], along[place]
                if a == 0.0 and b == 0.0:
                    continue
                slopes = bent.get(place) or [(p, 0.0) for p in node.slopes]
                for i, (p, dp) in zip(node.operands, slopes):
                    if i is not None:
                        adjoint[i] += p * a
                        along[i] += p * b + dp * a
            found.append([0.0 if i is None else side * along[i] for i in self.inputs])
        return found

    def _upwards(self, k, seed):
        """The tangents of all nodes for this one of input k, and {place: [(slope, its derivative)]}
        of the nodes that move."""
        t, bent = [0.0] * len(self.nodes), {}
        for place, node, tangents in self._moving(k, seed, t):
            if node.formula is None:
                return None, None
            if not all(map(math.isfinite, tangents)):
                t[place] = math.nan
                continue
            zs, unit = node.operands_along(tangents)
            y, slopes = node.compute(zs)
            t[place] = y.imag / unit
            bent[place] = [(p.real, p.imag / unit) for p in slopes]
        return t, bent

    def _moving(self, k, seed, t):
        """Give input k the tangent seed in t; then the nodes above it that have operands with a
        tangent other than 0, in order, each with its operands' tangents."""
        if self.inputs[k] is None:
            return
        t[self.inputs[k]] = seed
        for place in range(self.inputs[k] + 1, len(t)):
            node = self.nodes[place]
            if node is not None:
                tangents = [0.0 if i is None else t[i] for i in node.operands]
                if any(tangents):
                    yield place, node, tangents

    def _downwards(self, output):
        """The interior nodes with slopes from an output down."""
        if output is not None:
            for place in range(output, -1, -1):
                node = self.nodes[place]
                if node is not None and node.slopes is not None:
                    yield place, node

    # What rounding can make of a derivative in either mode and here: the roundings of each row,
    # carried on by the sizes of the partials. A size is what a sum would be if nothing cancelled.

    def first_bounds(self):
        """For each output (size, error) of its derivatives by each input."""
        return [self._bounds_down(output, {})[0] for output in self.outputs]

    def second_bounds(self, k):
        """For each output those of its derivatives by input k, then by each input."""
        bends = self._bends(k)
        return [self._bounds_down(output, bends)[1] for output in self.outputs]

    def _bends(self, k):
        """{place: [(size, relative error)]} of the slopes' derivatives by input k."""
        size, error, found = [0.0] * len(self.nodes), [0.0] * len(self.nodes), {}
        for place, node, sizes in self._moving(k, 1.0, size):
            if node.formula is None or not max(sizes) < math.inf:
                continue
            worst = 0.0
            for i, p, s in zip(node.operands, node.slopes, node.sizes):
                if i is not None and size[i]:
                    size[place] += abs(p) * size[i]
                    error[place] += abs(p) * error[i] + node.roundings * s * size[i]
                    worst = max(worst, error[i] / size[i])
            zs, unit = node.operands_along(sizes)
            _, slopes = node.compute(zs)
            terms = max(map(abs, node.slopes)) * max(sizes) * node.bend
            found[place] = [(abs(p.imag) / unit + terms, node.roundings + worst) for p in slopes]
        return found

    def _bounds_down(self, output, bends):
        """(size, error) of the inputs' adjoints, and of their derivatives along what bends are."""
        size, error, bend, bend_error, terms = ([0.0] * len(self.nodes) for _ in range(5))
        if output is not None:
            size[output] = 1.0
        for place, node in self._downwards(output):
            a, e, b, f = size[place], error[place], bend[place], bend_error[place]
            if a == 0.0 and b == 0.0:
                continue
            bent = bends.get(place) or [(0.0, 0.0)] * len(node.slopes)
            for i, p, s, (d, worst) in zip(node.operands, node.slopes, node.sizes, bent):
                if i is not None:
                    p = abs(p)
                    terms[i] += 1.0  # it is a sum of so many contributions
                    rounding = node.roundings + terms[i] * _EPS
                    s += _UNDERFLOW / node.step / _EPS
                    size[i] += p * a
                    error[i] += p * e + rounding * s * a
                    bend[i] += p * b + d * a
                    bend_error[i] += p * f + rounding * s * b + d * (e + (rounding + worst) * a)
        found = []
        for part in zip(size, error), zip(bend, bend_error):
            part = list(part)
            found.append([(0.0, 0.0) if i is None else part[i] for i in self.inputs])
        return found
