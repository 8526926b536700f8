"""A slow, plain-Python engine with mingrad's semantics: the oracle for structure.

What it is for: sharing, accumulation order, which pass an adjoint belongs to, staleness, liveness.
Its formulas are written here a second time, from the mathematics, and share nothing with
csrc/ops.def. What it is not: fast, an oracle for the last bit of a formula (golden values made with
50 digits are), or a home for errstate. test_graphs.py and test_tape.py compare it with the core;
test_checkers.py plants errors in copies of it.

The module can stand where `mingrad` stands in a test: same names, same arguments.
"""

import builtins
import contextlib
import math

from helpers import Unsettled

_EPS = 2.0**-52
_state = {"count": 0, "live": 0, "grad": True}


# --- IEEE arithmetic for partials: math raises where IEEE has an answer --------------------------


def _div(a, b):
    if b != 0.0 or a != a or b != b:
        return a / b
    return math.nan if a == 0.0 else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _exp(x):
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _cosh(x):
    try:
        return math.cosh(x)
    except OverflowError:
        return math.inf


def _sqrt(x):
    return math.nan if x < 0 else math.sqrt(x)


def _log(x):
    return math.nan if x < 0 else -math.inf if x == 0 else math.log(x)


def _pow(a, b):
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        if a == 0:
            return math.copysign(math.inf, a) if b % 2 == 1 else math.inf
        return math.nan


# --- Formulas ------------------------------------------------------------------------------------
# RULES[name] = (value, partials): value(*operands, **params) -> y, raising what float and math
# raise; partials(operands, y, **params) -> one number for each operand.

RULES = {}
UNARY = []  # names of those that _unary made


def _unary(name, value, partial):
    UNARY.append(name)
    RULES[name] = (value, lambda xs, y: (partial(xs[0], y),))


def _sigmoid(x):
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def _sigmoid_partial(x):
    e = math.exp(-builtins.abs(x))
    return e / ((1.0 + e) * (1.0 + e))


def _softplus(x):
    return x if x != x else builtins.max(x, 0.0) + math.log1p(math.exp(-builtins.abs(x)))


def _normal(x):
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _density(x):
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _cbrt(x):
    if hasattr(math, "cbrt"):
        return math.cbrt(x)
    y = math.copysign(builtins.abs(x) ** (1 / 3), x)
    return y if y == 0 or not math.isfinite(y) else y - (y * y * y - x) / (3 * y * y)


def _step(x, below, at, above):
    """A function of the sign of x; nan for nan."""
    return x if x != x else below if x < 0 else above if x > 0 else at


def _polygamma(order, x):
    """digamma (order 0) or trigamma (order 1): recurrence up to 20, then the asymptotic series."""
    if x <= 0 and x == math.floor(x):
        return math.nan
    if x < 0:  # reflection; the distance to a whole number is exact
        angle = math.pi * (x - round(x))
        t = math.pi / math.tan(angle)
        if order == 0:
            return _polygamma(0, 1 - x) - t
        s = math.pi / math.sin(angle)
        return s * s - _polygamma(1, 1 - x)
    total = 0.0
    while x < 20:
        total += -1 / x if order == 0 else 1 / (x * x)
        x += 1
    q = 1 / (x * x)
    if order == 0:
        return total + (math.log(x) - 0.5 / x - q * (1 / 12 - q * (1 / 120 - q * (1 / 252 - q * (1 / 240 - q / 132)))))
    return total + (1 / x + 0.5 * q + q / x * (1 / 6 - q * (1 / 30 - q * (1 / 42 - q * (1 / 30 - q * 5 / 66)))))


def _digamma(x):
    if x <= 0 and x == math.floor(x):
        raise ValueError("digamma: pole")
    return _polygamma(0, x)


_unary("neg", lambda x: -x, lambda x, y: -1.0)
_unary("abs", builtins.abs, lambda x, y: _step(x, -1.0, 0.0, 1.0))
_unary("relu", lambda x: 0.0 if x < 0 else x, lambda x, y: _step(x, 0.0, 0.0, 1.0))
_unary("gelu", lambda x: x * _normal(x), lambda x, y: _normal(x) + x * _density(x))
_unary("silu", lambda x: x * _sigmoid(x), lambda x, y: _sigmoid(x) + x * _sigmoid_partial(x))
_unary("softplus", _softplus, lambda x, y: _sigmoid(x))
_unary("sigmoid", _sigmoid, lambda x, y: _sigmoid_partial(x))
_unary("tanh", math.tanh, lambda x, y: 1.0 / _cosh(x) / _cosh(x))
_unary("exp", math.exp, lambda x, y: y)
_unary("exp2", getattr(math, "exp2", lambda x: 2.0**x), lambda x, y: y * math.log(2.0))
_unary("expm1", math.expm1, lambda x, y: _exp(x))
_unary("log", math.log, lambda x, y: _div(1.0, x))
_unary("log2", math.log2, lambda x, y: _div(1.0, x * math.log(2.0)))
_unary("log10", math.log10, lambda x, y: _div(1.0, x * math.log(10.0)))
_unary("log1p", math.log1p, lambda x, y: _div(1.0, 1.0 + x))
_unary("sqrt", math.sqrt, lambda x, y: _div(0.5, y))
_unary("cbrt", _cbrt, lambda x, y: _div(1.0, 3.0 * y * y))
_unary("square", lambda x: x * x, lambda x, y: 2.0 * x)
_unary("reciprocal", lambda x: 1.0 / x, lambda x, y: -y * y)
_unary("sin", math.sin, lambda x, y: math.cos(x))
_unary("cos", math.cos, lambda x, y: -math.sin(x))
_unary("tan", math.tan, lambda x, y: 1.0 + y * y)
_unary("asin", math.asin, lambda x, y: _div(1.0, _sqrt((1.0 - x) * (1.0 + x))))
_unary("acos", math.acos, lambda x, y: -_div(1.0, _sqrt((1.0 - x) * (1.0 + x))))
_unary("atan", math.atan, lambda x, y: 1.0 / (1.0 + x * x))
_unary("sinh", math.sinh, lambda x, y: _cosh(x))
_unary("cosh", math.cosh, lambda x, y: math.sinh(x))
_unary("asinh", math.asinh, lambda x, y: 1.0 / math.hypot(1.0, x))
_unary("acosh", math.acosh, lambda x, y: _div(1.0, _sqrt(x - 1.0) * _sqrt(x + 1.0)))
_unary("atanh", math.atanh, lambda x, y: _div(1.0, (1.0 - x) * (1.0 + x)))
_unary("erf", math.erf, lambda x, y: 2.0 / math.sqrt(math.pi) * math.exp(-x * x))
_unary("erfc", math.erfc, lambda x, y: -2.0 / math.sqrt(math.pi) * math.exp(-x * x))
_unary("lgamma", math.lgamma, lambda x, y: _polygamma(0, x))
_unary("digamma", _digamma, lambda x, y: _polygamma(1, x))
_unary("sign", lambda x: _step(x, -1.0, 0.0, 1.0), lambda x, y: x if x != x else 0.0)
_unary("floor", lambda x: float(math.floor(x)), lambda x, y: x if x != x else 0.0)
_unary("ceil", lambda x: float(math.ceil(x)), lambda x, y: x if x != x else 0.0)


def _power(a, b):
    if a < 0 and math.isfinite(a) and math.isfinite(b) and b != math.floor(b):
        raise ValueError("negative base, fractional exponent: float would turn complex")
    return a**b


def _power_da(a, b):
    return 0.0 if b == 0 else b * _pow(a, b - 1.0)


def _power_db(a, b, y):
    if a < 0:
        return math.nan
    if a == 0:
        return 0.0 if b >= 0 else -math.inf
    return y * _log(a)


def _atan2_partials(xs, r):
    y, x = xs
    h = math.hypot(y, x)
    return (0.0, 0.0) if h == 0 else (x / h / h, -(y / h / h))


def _pick(better):
    """The value of max or min: nan wins, then the first of the best."""

    def value(*xs):
        for x in xs:
            if x != x:
                return x
        return better(xs)

    return value


def _pick_partials(xs, y):
    """Ties share; operands that did not win have 0; nan for all if any is nan."""
    if y != y:
        return tuple(math.nan for _ in xs)
    winners = builtins.sum(x == y for x in xs)
    return tuple(1.0 / winners if x == y else 0.0 for x in xs)


RULES["+"] = (lambda a, b: a + b, lambda xs, y: (1.0, 1.0))
RULES["-"] = (lambda a, b: a - b, lambda xs, y: (1.0, -1.0))
RULES["*"] = (lambda a, b: a * b, lambda xs, y: (xs[1], xs[0]))
RULES["/"] = (lambda a, b: a / b, lambda xs, y: (_div(1.0, xs[1]), -_div(y, xs[1])))
RULES["//"] = (lambda a, b: a // b, lambda xs, y: (0.0, 0.0))
RULES["%"] = (lambda a, b: a % b, lambda xs, y: (1.0, -(xs[0] // xs[1])))
RULES["**"] = (_power, lambda xs, y: (_power_da(*xs), _power_db(*xs, y)))
RULES["**c"] = (
    lambda a, exponent: _power(a, exponent),
    lambda xs, y, exponent: (_power_da(xs[0], exponent),),
)
RULES["atan2"] = (math.atan2, _atan2_partials)
RULES["hypot"] = (math.hypot, lambda xs, y: (0.0, 0.0) if y == 0 else (xs[0] / y, xs[1] / y))
RULES["maximum"] = (_pick(builtins.max), _pick_partials)
RULES["minimum"] = (_pick(builtins.min), _pick_partials)
# Their second operand is a setting; where a bound is met the operand is the one that moves.
RULES["leaky_relu"] = (
    lambda x, slope: x if x > 0 else slope * x,
    lambda xs, y: (_step(xs[0], xs[1], xs[1], 1.0), 0.0 if xs[0] > 0 else xs[0]),
)
RULES["elu"] = (
    lambda x, alpha: x if x > 0 else alpha * math.expm1(x),
    lambda xs, y: (1.0 if xs[0] > 0 else xs[1] * math.exp(xs[0]), 0.0 if xs[0] > 0 else math.expm1(xs[0])),
)
RULES["clamp_min"] = (
    lambda x, low: low if x < low else x,
    lambda xs, y: (y, y) if y != y else (1.0, 0.0) if xs[0] >= xs[1] else (0.0, 1.0),
)
RULES["clamp_max"] = (
    lambda x, high: high if x > high else x,
    lambda xs, y: (y, y) if y != y else (1.0, 0.0) if xs[0] <= xs[1] else (0.0, 1.0),
)

# Terms of losses: a the prediction, b the target. Logarithms are held above -100, as in PyTorch, and so is what divides.


def _sign(x):
    return _step(x, -1.0, 0.0, 1.0)


def _held_log(x):
    return builtins.max(_log(x), -100.0)


def _bce(a, b):
    if not 0 <= a <= 1:
        raise ValueError("binary_cross_entropy: a probability")
    return -(b * _held_log(a)) - (1.0 - b) * builtins.max(math.log1p(-a) if a < 1 else -math.inf, -100.0)


def _huber_slope(xs, y, delta):
    d = xs[0] - xs[1]
    slope = d if builtins.abs(d) <= delta else delta * _sign(d)
    return slope, -slope


def _huber(a, b, delta):
    d = builtins.abs(a - b)
    return 0.5 * d * d if d <= delta else delta * (d - 0.5 * delta)


RULES["squared_error"] = (lambda a, b: (a - b) * (a - b), lambda xs, y: (2.0 * (xs[0] - xs[1]), 2.0 * (xs[1] - xs[0])))
RULES["absolute_error"] = (
    lambda a, b: builtins.abs(a - b),
    lambda xs, y: (_sign(xs[0] - xs[1]), _sign(xs[1] - xs[0])),
)
RULES["huber"] = (_huber, _huber_slope)
RULES["hinge"] = (
    lambda a, b: builtins.max(1.0 - a * b, 0.0),
    lambda xs, y: (-xs[1], -xs[0]) if xs[0] * xs[1] < 1 else (0.0, 0.0),
)
RULES["bce"] = (
    _bce,
    lambda xs, y: (
        (xs[0] - xs[1]) / builtins.max((1.0 - xs[0]) * xs[0], 1e-12),
        (math.log1p(-xs[0]) if xs[0] < 1 else -math.inf) - _log(xs[0]),
    ),
)
RULES["bce_logits"] = (
    lambda a, b: builtins.max(a, 0.0) - a * b + math.log1p(math.exp(-builtins.abs(a))),
    lambda xs, y: (_sigmoid(xs[0]) - xs[1], -xs[0]),
)


def _others(xs, y):
    """For each operand the product of all the others, without dividing (zeros are welcome)."""
    return tuple(math.prod(xs[:i] + xs[i + 1 :]) for i in range(len(xs)))


def _logsumexp(*xs):
    top = builtins.max(xs)
    if not math.isfinite(top):
        return top
    return top + math.log(math.fsum(math.exp(x - top) for x in xs))


def _softmax(xs):
    top = builtins.max(xs)
    terms = [math.exp(x - top) for x in xs]
    total = math.fsum(terms)
    return [term / total for term in terms]


def _dot(*xs):
    n = len(xs) // 2
    return math.fsum(x * y for x, y in zip(xs[:n], xs[n:]))


RULES["sum"] = (lambda *xs: math.fsum(xs), lambda xs, y: tuple(1.0 for _ in xs))
RULES["mean"] = (
    lambda *xs: math.fsum(xs) / len(xs),
    lambda xs, y: tuple(1.0 / len(xs) for _ in xs),
)
RULES["prod"] = (lambda *xs: math.prod(xs), _others)
RULES["dot"] = (_dot, lambda xs, y: xs[len(xs) // 2 :] + xs[: len(xs) // 2])
RULES["max"] = (_pick(builtins.max), _pick_partials)
RULES["min"] = (_pick(builtins.min), _pick_partials)
RULES["logsumexp"] = (_logsumexp, lambda xs, y: tuple(_exp(x - y) for x in xs))
RULES["norm"] = (
    lambda *xs: math.hypot(*xs),
    lambda xs, y: tuple(0.0 if y == 0 else x / y for x in xs),
)
RULES["softmax"] = (
    lambda *xs, index: _softmax(xs)[index],
    lambda xs, y, index: tuple(y * ((i == index) - p) for i, p in enumerate(_softmax(xs))),
)

RULES["cross_entropy"] = (
    lambda *xs, index: _logsumexp(*xs) - xs[index],
    lambda xs, y, index: tuple(p - (i == index) for i, p in enumerate(_softmax(xs))),
)

_SHOWN = {"relu": "ReLU"}


# --- Nodes ---------------------------------------------------------------------------------------


def _number(x):
    """x as a float, or None if x is no number that an engine takes."""
    if isinstance(x, (int, float)):
        return float(x)
    if type(x).__module__ == "numpy" and getattr(x, "shape", None) == () and hasattr(x, "dtype"):
        return float(x) if x.dtype.kind in "biuf" else None
    return None


class Ref:
    """A node: a number, who made it, and its adjoint. Numbered in order of creation."""

    __slots__ = (
        "number",
        "value",
        "grad",
        "label",
        "wants",
        "rule",
        "operands",
        "params",
        "written",
        "hooks",
        "__weakref__",
    )

    def __init__(self, data, requires_grad=True, label=""):
        value = _number(data)
        if value is None:
            raise TypeError(f"expected a number, got {type(data).__name__}")
        self.value = value
        self.grad = 0.0
        self.label = label
        self.wants = requires_grad
        self.hooks = []  # called in order with the adjoint, once it is final; None: leave it
        self.rule = None  # a leaf
        self.operands = ()  # Refs, and floats for operands that came as plain numbers
        self.params = {}
        self.number = _state["count"]
        self.written = 0  # how many nodes there were when .data was last written
        _state["count"] += 1
        _state["live"] += 1

    def __del__(self):
        if hasattr(self, "number"):
            _state["live"] -= 1

    @property
    def data(self):
        return self.value

    @data.setter
    def data(self, x):
        if not self.is_leaf:
            raise RuntimeError("the result of an operation cannot be written")
        value = _number(x)
        if value is None:
            raise TypeError(f"expected a number, got {type(x).__name__}")
        self.value = value
        self.written = _state["count"]

    @property
    def requires_grad(self):
        return self.wants

    @requires_grad.setter
    def requires_grad(self, wanted):
        if self.is_leaf and wanted != self.wants:
            self.wants = wanted
            self.written = _state["count"]
        elif not self.is_leaf and not wanted:
            raise RuntimeError("a result requires a gradient")

    @property
    def is_leaf(self):
        return self.rule is None

    @property
    def _prev(self):
        return tuple(x if isinstance(x, Ref) else Ref(x, requires_grad=False) for x in self.operands)

    @property
    def _op(self):
        if self.rule == "**c":
            return f"**{self.params['exponent']:g}"
        return "" if self.rule is None else _SHOWN.get(self.rule, self.rule)

    def partials(self):
        """One partial for each operand, at the values that the operands have now."""
        xs = tuple(x.value if isinstance(x, Ref) else x for x in self.operands)
        return RULES[self.rule][1](xs, self.value, **self.params)

    def reached(self):
        """Every node that this one is made of, itself included, newest first."""
        found, waiting = {id(self): self}, [self]
        while waiting:
            for x in waiting.pop().operands:
                if isinstance(x, Ref) and id(x) not in found:
                    found[id(x)] = x
                    waiting.append(x)
        return sorted(found.values(), key=lambda node: -node.number)

    def backward(self, gradient=1.0):
        if not self.requires_grad:
            raise RuntimeError("backward() on what requires no gradient")
        nodes = self.reached()
        for node in nodes:
            for x in node.operands:
                if isinstance(x, Ref) and x.is_leaf and node.number < x.written:
                    for other in nodes:
                        other.grad = other.grad if other.is_leaf else Unsettled()
                    raise RuntimeError(f"{x.label or x!r} was written after a node used it: run the forward pass again")
        adjoint = {id(node): 0.0 for node in nodes}
        adjoint[id(self)] = float(gradient)
        for node in nodes:
            if node.requires_grad:
                adjoint[id(node)] = node.hooked(adjoint[id(node)])
            if not node.is_leaf:
                for x, partial in zip(node.operands, node.partials()):
                    if isinstance(x, Ref) and x.requires_grad:
                        adjoint[id(x)] += adjoint[id(node)] * partial
        for node in nodes:
            if not node.is_leaf:
                node.grad = adjoint[id(node)]
            elif node.requires_grad:
                node.grad += adjoint[id(node)]

    def hooked(self, adjoint):
        for hook in self.hooks:
            answer = hook(adjoint)
            adjoint = adjoint if answer is None else answer
        return adjoint

    def zero_grad(self):
        self.grad = 0.0

    def clamp_(self, low, high):
        """In place, for leaves and under no_grad() alone; where the bounds cross, the upper one wins."""
        x = low if self.value < low else self.value
        self._write_in_place(high if x > high else x)

    def copy_(self, x):
        self._write_in_place(x)

    def _write_in_place(self, x):
        if self.requires_grad and _state["grad"]:
            raise RuntimeError("a leaf that asks for a gradient is changed in place under no_grad() alone")
        self.data = x

    def twin(self):
        """A copy: of leaves alone."""
        if not self.is_leaf:
            raise TypeError("the result of an operation cannot be copied")
        copy = Ref(self.value, self.requires_grad, self.label)
        copy.grad = self.grad
        return copy

    def item(self):
        return self.value

    def detach(self):
        return Ref(self.value, requires_grad=False)

    def __repr__(self):
        return f"Variable(data={self.value}, grad={self.grad})"

    def __format__(self, spec):
        return format(self.value, spec) if spec else repr(self)

    def __bool__(self):
        return self.value != 0

    def __pos__(self):
        return self

    def __neg__(self):
        return _record("neg", self)

    def __abs__(self):
        return _record("abs", self)

    def __pow__(self, other):
        if isinstance(other, Ref):
            return _record("**", self, other)
        exponent = _number(other)
        return NotImplemented if exponent is None else _record("**c", self, exponent=exponent)

    def __divmod__(self, other):
        return self // other, self % other

    def __rdivmod__(self, other):
        return other // self, other % self

    def clamp(self, min=None, max=None):
        return clamp(self, min, max)

    def leaky_relu(self, negative_slope=0.01):
        return leaky_relu(self, negative_slope)

    def elu(self, alpha=1.0):
        return elu(self, alpha)


def _record(rule, *operands, **params):
    """A new node; a float if no operand is a node; a constant if no operand asks for a gradient."""
    xs = tuple(x if isinstance(x, Ref) else _number(x) for x in operands)
    if None in xs:
        raise TypeError(f"{rule}: expected numbers or nodes")
    value = float(RULES[rule][0](*(x.value if isinstance(x, Ref) else x for x in xs), **params))
    nodes = [x for x in xs if isinstance(x, Ref)]
    if not nodes:
        return value
    needs = _state["grad"] and any(x.requires_grad for x in nodes)
    out = Ref(value, requires_grad=needs)
    if needs:
        out.rule, out.operands, out.params = rule, xs, params
    return out


def _operator(rule):
    def forward(self, other):
        if not isinstance(other, Ref) and _number(other) is None:
            return NotImplemented
        return _record(rule, self, other)

    def reflected(self, other):
        return NotImplemented if _number(other) is None else _record(rule, other, self)

    return forward, reflected


def _comparison(name):
    def compare(self, other):
        other = other.value if isinstance(other, Ref) else _number(other)
        return NotImplemented if other is None else getattr(self.value, name)(other)

    return compare


for _symbol, _name in {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "truediv",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
}.items():
    _forward, _reflected = _operator(_symbol)
    if _symbol != "**":
        setattr(Ref, f"__{_name}__", _forward)
    setattr(Ref, f"__r{_name}__", _reflected)
for _name in "__lt__", "__le__", "__gt__", "__ge__":
    setattr(Ref, _name, _comparison(_name))


# --- Functions, under mingrad's names ------------------------------------------------------------

BINARY = ["atan2", "hypot", "maximum", "minimum"]
NARY = ["sum", "prod", "mean", "max", "min", "logsumexp", "norm"]


def _function(rule):
    def function(*operands):
        return _record(rule, *operands)

    function.__name__ = rule
    return function


def _nary(rule):
    def function(first, *rest):
        return _record(rule, *((first,) + rest if rest else first))

    function.__name__ = rule
    return function


for _name in UNARY + BINARY:
    globals()[_name] = _function(_name)
    setattr(Ref, _name, _function(_name))
for _name in NARY:
    globals()[_name] = _nary(_name)


def pow(a, b):
    return a**b if isinstance(a, Ref) or isinstance(b, Ref) else _power(a, b)


def leaky_relu(x, negative_slope=0.01):
    return _record("leaky_relu", x, negative_slope)


def elu(x, alpha=1.0):
    return _record("elu", x, alpha)


def clamp(x, min=None, max=None):
    """One node for each bound."""
    if min is not None:
        x = _record("clamp_min", x, min)
    return x if max is None else _record("clamp_max", x, max)


def dot(xs, ys):
    xs, ys = tuple(xs), tuple(ys)
    if len(xs) != len(ys):
        raise ValueError("dot: lengths differ")
    return _record("dot", *xs, *ys)


def softmax(xs):
    xs = tuple(xs)
    return [_record("softmax", *xs, index=i) for i in range(len(xs))]


def _loss(rule):
    def loss(xs, ys, reduction="mean", **params):
        terms = [_record(rule, x, y, **params) for x, y in zip(xs, ys, strict=True)]
        return terms if reduction == "none" else globals()[reduction](terms)

    return loss


LOSSES = {
    "mse_loss": "squared_error",
    "l1_loss": "absolute_error",
    "huber_loss": "huber",
    "hinge_loss": "hinge",
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_logits",
}
for _name, _rule in LOSSES.items():
    globals()[_name] = _loss(_rule)


def cross_entropy(xs, index):
    return _record("cross_entropy", *xs, index=index)


@contextlib.contextmanager
def no_grad():
    before, _state["grad"] = _state["grad"], False
    try:
        yield
    finally:
        _state["grad"] = before


def collect():
    """Python's reference counts have done it already."""
    return 0


def live():
    """How many nodes something still holds."""
    return _state["live"]


Variable = Ref


# --- How far apart two right answers may be ------------------------------------------------------


def adjoint_slack(root, gradient=1.0, per_partial=8.0):
    """Running error analysis of one backward pass: {id(node): bound on |error of its adjoint|}.

    Assumes that each partial is off by at most `per_partial` ulps of _scale, and that each product
    and sum is rounded once, in any order. So it is what is left when formulas differ only in how
    they round; a missing, doubled or wrong contribution is far outside.
    """
    nodes = root.reached()
    adjoint = {id(node): 0.0 for node in nodes}
    slack = dict.fromkeys(adjoint, 0.0)
    adjoint[id(root)] = float(gradient)
    for node in nodes:
        if node.requires_grad and node.hooks:
            adjoint[id(node)] = node.hooked(adjoint[id(node)])
            slack[id(node)] = builtins.abs(node.hooked(slack[id(node)]))
        if node.is_leaf:
            continue
        terms = {}
        for x, partial in zip(node.operands, node.partials()):
            if not isinstance(x, Ref) or not x.requires_grad:
                continue
            scale = _scale(node, partial)
            terms[id(x)] = terms.get(id(x), 0.0) + builtins.abs(adjoint[id(node)] * partial)
            slack[id(x)] += (
                scale * (slack[id(node)] + per_partial * _EPS * builtins.abs(adjoint[id(node)])) + 2 * _EPS * terms[id(x)]
            )
            adjoint[id(x)] += adjoint[id(node)] * partial
            slack[id(x)] += _EPS * builtins.abs(adjoint[id(x)])
    return slack


def _scale(node, partial):
    """What a partial's rounding error is relative to: mostly itself."""
    size = builtins.abs(partial)
    if node.rule in ("silu", "gelu", "lgamma", "digamma", "softmax", "cross_entropy", "bce", "bce_logits"):
        return builtins.max(size, 1.0)  # a difference: crosses zero, or is the small rest of 1
    if node.rule in ("erf", "erfc"):
        return size * (1.0 + node.operands[0].value ** 2)  # the rounded square in exp(-x*x)
    return size
