"""check_grad: it passes what is right, fails what is wrong, and says which is which.

The formulas of _complex.py against mpmath, then every op of the table and random graphs, which must
pass; then planted errors of every kind, which must not: in rules, in one mode, in what is recorded.
At the end what it says, and that it leaves no trace. Derivatives themselves are test_autodiff.py's.
"""

import collections
import importlib.util
import itertools
import math
import pathlib
import pickle
import random

import pytest

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, apply, random_graph, ulps
from mingrad import (
    GradientCheckError,
    Variable,
    VariableList,
    _complex,
    _core,
    check_grad,
    gradcheck,
    nn,
)
from mingrad._complex import ComplexGraph, Recording
from watch import no_trace, refuses, spell

FOLDER = pathlib.Path(__file__).parent / "golden"
TABLE = {row["name"]: row for row in _core._ops()}
UNARY = [name for name, row in TABLE.items() if row["kind"] == "unary"]
BINARY = [name for name, row in TABLE.items() if row["kind"] == "binary"]
# _stop is what detach() is in a program; polygamma is met as a derivative of digamma.
WITHOUT_COMPLEX_FORM = {"lgamma", "digamma", "_polygamma", "_stop"}
# b is a number for these.
PARAMETERS = {"leaky_relu", "elu", "clamp_min", "clamp_max", "_huber"}


def checked(f, *args, **options):
    """The report, whatever it says."""
    return check_grad(f, *args, raise_exception=False, **options)


def methods(report):
    return {agreement.method for agreement in report.agreements}


def kinds(report):
    return [failure.kind for failure in report.failures]


@pytest.fixture(scope="module")
def mpmath():
    """mpmath at 50 digits."""
    module = pytest.importorskip("mpmath", reason="mpmath is not installed")
    with module.workdps(50):
        yield module


@pytest.fixture(scope="module")
def maker(mpmath):
    """golden/make_golden.py: the formulas of the ops in exact arithmetic."""
    spec = importlib.util.spec_from_file_location("make_golden", FOLDER / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden():
    """{op: [(arguments, partials)]} of the points where the complex step can be used."""
    found = collections.defaultdict(list)
    for line in (FOLDER / "ops.csv").read_text(encoding="ascii").splitlines():
        if not line.startswith(("#", "op,")):
            op, *cells = line.split(",")
            a, b, _, da, db = (float.fromhex(cell) if cell else None for cell in cells)
            args, partials = ((a,), (da,)) if b is None else ((a, b), (da, db))
            if op not in WITHOUT_COMPLEX_FORM and usable(op, args, partials):
                found[op].append((args, partials))
    return found


def usable(op, args, partials):
    moderate = all(x == 0.0 or 1e-40 < abs(x) < 1e40 for x in args)
    if op == "_bce":  # its slope is held where a * (1 - a) is below 1e-12: not the true one
        moderate = 1e-12 < args[0] * (1.0 - args[0])
    if op in ("floor", "ceil") and args[0] % 1.0 == 0.0:
        return False  # it jumps
    return moderate and all(p == 0.0 or 1e-250 < abs(p) < 1e250 or p != p for p in partials)


def graph_of(f, xs):
    inputs = _core._inputs(list(xs))
    return ComplexGraph(Recording([f(*inputs)], inputs))


def op_of(op, args):
    """The op as a function of all its operands that are differentiated by, and those."""
    if op in PARAMETERS:
        return (lambda x: spell(op)(x, args[1])), args[:1]
    return spell(op), args


# -- the formulas in complex arithmetic ------------------------------------------------------------


def test_every_op_has_a_complex_form_or_is_known_to_have_none():
    known = {*_complex._UNARY, *_complex._BINARY, *_complex._RANGE}
    assert set(TABLE) | {"dot", "affine", "linear"} == known | WITHOUT_COMPLEX_FORM
    assert not known & WITHOUT_COMPLEX_FORM


# Beyond 4 ulps: silu, gelu cancel near a root of the slope, gelu's tail is as steep as exp(-x*x/2);
# binary_cross_entropy takes off what it adds where a prediction is near its target.
LOOSE = {"silu", "gelu", "_bce", "_bce_logits"}


@pytest.mark.parametrize("op", sorted(golden()))
def test_first_derivatives_by_the_complex_step_are_right_to_4_ulps(op):
    for args, partials in golden()[op]:
        f, xs = op_of(op, args)
        graph = graph_of(f, xs)
        bounds = graph.first_bounds()[0]
        for k, expected in enumerate(partials[: len(xs)]):
            if math.isnan(expected):
                continue
            (got,) = graph.first(k, 1.0) or (None,)
            assert got is not None, (args, k)
            assert abs(got - expected) <= bounds[k][1], (args, k, got, expected, bounds[k])
            assert op in LOOSE or ulps(got, expected) <= 4, (args, k, got, expected)


# Two operands each where second derivatives are of size one.
POINTS = dict.fromkeys("log log2 log10 sqrt reciprocal".split(), (0.3, 1.7))
POINTS |= dict.fromkeys("asin acos atanh".split(), (-0.6, 0.35))
POINTS |= {
    "acosh": (1.4, 3.0),
    "log1p": (-0.4, 1.7),
    "cbrt": (-1.3, 0.7),
    "tan": (-0.6, 0.4),
    "lgamma": (0.6, 2.7, -1.3),
    "digamma": (0.6, 2.7, -1.3),
    "silu": (-0.7, 0.4, 2.2),
}
PAIRS = {
    "pow": ((1.3, 2.7), (0.6, -1.4)),
    "_bce": ((0.3, 0.8), (0.7, 0.1)),
    "_huber": ((0.4, 0.7), (-1.3, 0.6)),
    "leaky_relu": ((-1.3, 0.1), (0.4, 0.1)),
    "elu": ((-1.3, 0.7), (0.4, 0.7)),
    "_polygamma": ((0.7, 1.0), (2.6, 2.0)),
}


def points(op):
    if op in UNARY:
        return [(x,) for x in POINTS.get(op, (-1.3, 0.4, 2.2))]
    return PAIRS.get(op, ((1.3, 0.7), (-0.6, 2.3), (0.8, -1.7)))


SMOOTH = [op for op in UNARY + BINARY if op not in WITHOUT_COMPLEX_FORM and op != "_copy"]


@pytest.mark.parametrize("op", SMOOTH)
def test_second_derivatives_by_the_complex_step_are_right(op, mpmath, maker):
    """Of terms of size one that may cancel: measured 5e-16 at most."""
    exact = {**maker.UNARY, **maker.BINARY}[op][0]
    for args in points(op):
        f, xs = op_of(op, args)
        graph = graph_of(f, xs)
        for k in range(len(xs)):
            (row,) = graph.second(k, 1.0)
            (bounds,) = graph.second_bounds(k)
            for j in range(len(xs)):
                counts = tuple((i == k) + (i == j) for i in range(len(args)))
                expected = float(mpmath.diff(exact, tuple(map(mpmath.mpf, args)), counts))
                assert abs(row[j] - expected) <= 2e-15 * max(1.0, abs(expected)), (args, k, j)
                assert abs(row[j] - expected) <= bounds[j][1] + 1e-17, (args, k, j)


# -- what is right passes --------------------------------------------------------------------------

# What right derivatives of the first and second order may differ by, over all ops and points here:
# measured 3 ulps; another C library's functions may cost a few more.
ULPS = 8
# The same by differences, as a share: measured 3e-14; with other roundings the extrapolation may end
# at another step.
RELATIVE = 1e-11


def assert_right(report, method="complex step"):
    assert report, str(report)
    assert methods(report) == {method}
    if method == "complex step":
        assert max(agreement.ulps for agreement in report.agreements) <= ULPS, str(report)
    else:
        assert max(agreement.relative for agreement in report.agreements) <= RELATIVE, str(report)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("op", [op for op in UNARY + BINARY if op not in ("_copy", "_stop")])
def test_an_op_passes(op, order):
    method = "differences" if op in WITHOUT_COMPLEX_FORM else "complex step"
    for args in points(op):
        if op == "_polygamma":
            f, xs = polygamma(int(args[1])), args[:1]
        else:
            f, xs = op_of(op, args)
        assert_right(check_grad(f, *xs, order=order), method)
        if len(xs) == 2:
            a, b = args
            assert_right(check_grad(lambda x: f(x, b), a, order=order), method)
            assert_right(check_grad(lambda y: f(a, y), b, order=order), method)
            assert_right(check_grad(lambda x: f(x, x * 0.75), a, order=order), method)


def polygamma(order):
    return lambda x: mingrad.derivative(mingrad.digamma, order)(x)


def linear(bias):
    """A layer of weights that are arguments: the only way that they are an affine row."""
    layer = nn.Linear(3, 2, bias=bias)
    for k, p in enumerate(layer.parameters()):
        p.data = math.sin(k + 1.0)
    return lambda xs: list(layer(xs))


SEVERAL = {
    "sum": mingrad.sum,
    "mean": mingrad.mean,
    "prod": mingrad.prod,
    "max": mingrad.max,
    "min": mingrad.min,
    "logsumexp": mingrad.logsumexp,
    "norm": mingrad.norm,
    "dot": lambda xs: mingrad.dot(xs, xs[::-1]),
    "softmax": lambda xs: list(mingrad.softmax(xs)),
    "cross_entropy": lambda xs: nn.cross_entropy(xs, 2),
    "RMSNorm": lambda xs: list(nn.RMSNorm(3, eps=0.1)(xs)),
    "affine": linear(True),
    "linear": linear(False),
    "attention": lambda xs: list(nn.scaled_dot_product_attention(xs, [xs, xs[::-1]], [xs, [1.0, xs[0], 2.0]])),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", SEVERAL)
def test_an_op_of_several_operands_passes(name, order):
    f = SEVERAL[name]
    for xs in ([0.7, -1.2, 0.4], [3.0, 0.25, -2.0]):
        assert_right(check_grad(f, xs, order=order))
        assert_right(check_grad(lambda x, y, z: f([y * x, z, x]), *xs, order=order))


def test_prod_with_zeros_and_a_large_cross_entropy_pass():
    assert_right(check_grad(mingrad.prod, [0.0, 3.0, 0.0], order=2))
    assert_right(check_grad(lambda xs: nn.cross_entropy(xs, 0), [0.0, 900.0, 3.0], order=2))
    assert_right(check_grad(lambda xs: nn.cross_entropy(xs, 0), [40.0, 0.0, 3.0], order=2))


def of_graph(graph):
    """A random graph as a function of the list of its leaves."""

    def f(xs):
        xs, things = list(xs), []
        for name, *rest in graph:
            if name == "leaf":
                things.append(xs.pop(0))
            elif name == "constant":
                things.append(rest[0])
            else:
                operands = [things[x] if isinstance(x, int) else x for x in rest[0]]
                things.append(apply(mingrad, name, operands))
        return things[-1]

    return f, [rest[0] for name, *rest in graph if name == "leaf"]


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_pass(seed):
    f, xs = of_graph(random_graph(seed, 60, EXACT + LIBM + OTHER + NARY, reference))
    check_grad(f, xs)
    check_grad(f, xs, order=2)


def test_a_network_passes():
    widths = [3, 8, 8, 1]
    count = sum(n * (m + 1) for m, n in itertools.pairwise(widths))
    rng = random.Random(4)

    def network(weights):
        weights, xs = iter(weights), [0.3, -0.2, 0.9]
        for n in widths[1:]:
            xs = [mingrad.tanh(sum((next(weights) * x for x in xs), next(weights))) for _ in range(n)]
        return xs[0]

    report = check_grad(network, [rng.uniform(-1, 1) for _ in range(count)], order=2)
    assert methods(report) == {"complex step"}
    assert (report.first, report.second) == (count, count**2)


def test_several_outputs_and_nested_arguments():
    Pair = collections.namedtuple("Pair", "a b")

    def f(p, pair, x):
        return {"s": mingrad.sin(p["w"][1]) * pair.b, "rest": [x * x, (pair.a / p["w"][0],), 2.0]}

    report = check_grad(f, {"w": [0.5, 1.5]}, Pair(2.0, -1.0), 0.25, order=2)
    assert (report.first, report.second) == (4 * 5, 4 * 25)
    assert [agreement.argument for agreement in report.agreements] == [0, 1, 2]
    assert_right(report)


def test_arrays_are_arguments_and_results():
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    w = numpy.array([[0.5, -1.0], [2.0, 0.25]])
    assert_right(check_grad(lambda w: numpy.exp(w @ numpy.array([1.0, 2.0])), w, order=2))
    report = checked(lambda w: w[1, 0] * w[1, 0].detach(), w)
    assert {failure.argument for failure in report.failures} == {"argument 0[1][0]"}
    assert checked(lambda w: w[0] * w[1], w).first == 8


def test_variables_stand_for_their_values_and_lists_of_them_stay_such():
    xs = mingrad.tensor([1.5, -2.0], requires_grad=True)
    y = Variable(0.5)

    def f(xs, y):
        assert isinstance(xs, VariableList) and xs[0] is not y
        return (xs * xs).sum() * y

    assert_right(check_grad(f, xs, y, order=2))
    assert xs.grad == [0.0, 0.0] and y.grad == 0.0


def test_parameters_that_f_uses_otherwise_are_constants():
    layer = nn.Linear(2, 1)
    assert_right(check_grad(lambda xs: layer(xs)[0].tanh(), [0.5, -0.25], order=1))
    assert check_grad(lambda xs: layer(xs)[0].tanh(), [0.5, -0.25], order=2)


def test_argnums_choose_the_arguments():
    def f(x, n, y):
        return x**n * y.detach()

    assert check_grad(f, 1.5, 3, Variable(2.0), argnums=0, order=2)
    report = checked(f, 1.5, 3, 2.0, argnums=(0, 2))
    assert {failure.argument for failure in report.failures} == {"argument 2"}
    assert {failure.argument for failure in checked(f, 1.5, 3, 2.0, argnums=(0, -1)).failures} == {"argument 2"}


@pytest.mark.parametrize("method", ["complex step", "differences"])
@pytest.mark.parametrize("x", [0.0, 1e-8, -1e-8, 1e-3, 1e8, -1e8])
def test_badly_scaled_arguments_pass(method, x):
    one = (lambda x: 1.0) if method == "complex step" else (lambda x: hidden_one(x))
    size = abs(x) or 1.0
    for f in (
        lambda x: mingrad.sin(x) * one(x),
        lambda x: mingrad.exp(x / size) * one(x),
        lambda x: (x * x * x / size - 2.0 * x + 1.0) * one(x),
        lambda x: mingrad.atan(1e3 * x / size) * one(x),
        lambda x: (x / size + 2.0) ** -0.5 * one(x),
    ):
        assert methods(check_grad(f, x)) == {method}


@mingrad.custom_vjp
def hidden_one(x):
    """1.0 that depends on x in a way that no graph shows."""
    return 1.0


hidden_one.defvjp(lambda x: (1.0, x), lambda x, adjoint: (x * 0.0,))


@pytest.mark.parametrize("order", [1, 2])
def test_a_mixture_of_scales_passes(order):
    def f(p):
        return [p[0] * p[1], p[0] / p[1], (p[2] - 1e-8) ** 2 * p[1]]

    assert_right(check_grad(f, [1e-8, 1e8, 0.0], order=order))
    for k in range(3):

        def g(p, k=k):
            return [y * hidden_one(p[k]) for y in f(p)]

        assert check_grad(g, [1e-8, 1e8, 0.0], order=order)


def test_branches_are_those_that_f_takes():
    def f(x, y):
        return x * y if x > y else y - x

    for at in ((1.0, 2.0), (2.0, 1.0)):
        assert_right(check_grad(f, *at, order=2))


def test_numbers_that_change_without_changing_the_derivative_are_right_by_differences():
    """The maximum that is taken off before exponentials is a constant, and rightly so."""

    def logsumexp(xs):
        top = max(x.data for x in xs)
        return mingrad.log(sum(mingrad.exp(x - top) for x in xs)) + top

    report = check_grad(logsumexp, [1.0, 2.0, 2.5], order=2)
    assert methods(report) == {"complex step", "differences"}
    assert report.notes == (
        (
            "argument 0[2]: f uses numbers that change with it and are not recorded, such as 2.5 in "
            "sub (.data, detach(), stop_gradient(), no_grad()); differences are used"
        ),
    )


@pytest.mark.parametrize("x", [0.7, 0.0, 1e-6, 30.0])
def test_differences_are_as_right_as_they_say(x, mpmath):
    for f, exact in (
        (math.sin, mpmath.cos),
        (math.exp, mpmath.exp),
        (math.erf, lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x)),
        (lambda x: 1.0 / (1.0 + x * x), lambda x: -2 * x / (1 + x * x) ** 2),
        (lambda x: math.sqrt(x + 1e-3), lambda x: 1 / (2 * mpmath.sqrt(x + mpmath.mpf(1e-3)))),
    ):

        def at(x):
            return gradcheck._or_none(lambda: [f(x)])

        (found,) = gradcheck._differences(at, x, [f(x)], 1e-7, False)
        assert abs(found.value - exact(mpmath.mpf(x))) <= 2.0 * found.error
        assert found.share() <= 4e-7


# -- what is wrong does not ------------------------------------------------------------------------


def scaled(transform, factor):
    """A transform with all derivatives so many times as large."""

    def wrong(f, **options):
        def derivatives(*args):
            found = transform(f, **options)(*args)
            return [[x * factor if not isinstance(x, list) else [y * factor for y in x] for x in row] for row in found]

        return derivatives

    return wrong


@pytest.mark.parametrize("mode, name", [("fwd", "jacfwd"), ("rev", "jacrev")])
@pytest.mark.parametrize("factor", [-1.0, 0.0, 1.0 + 1e-6, 1.0 - 1e-11])
def test_a_flaw_of_one_mode_is_found(mode, name, factor, monkeypatch):
    monkeypatch.setitem(gradcheck._FIRST, mode, scaled(getattr(mingrad, name), factor))
    report = checked(lambda x, y: mingrad.sin(x) * y, 0.5, 3.0)
    assert {failure.mode for failure in report.failures} == {mode}
    assert kinds(report) == ["wrong"] * 2
    by_differences = checked(lambda x: hidden_one(x) * mingrad.sin(x), 0.5)
    assert kinds(by_differences) == (["wrong"] if abs(factor - 1.0) > 1e-7 else [])


def test_a_flaw_of_second_derivatives_alone_is_found(monkeypatch):
    monkeypatch.setattr(gradcheck, "hessian", scaled(mingrad.hessian, 1.0 + 1e-6))
    report = checked(lambda x, y: mingrad.sin(x) * y, 0.5, 3.0, order=2)
    assert {(failure.order, failure.mode) for failure in report.failures} == {(2, "hessian")}
    assert sorted(failure.argument for failure in report.failures) == [
        "argument 0, then argument 0",
        "argument 0, then argument 1",
        "argument 1, then argument 0",
    ]
    assert not checked(lambda x: hidden_one(x) * mingrad.sin(x), 0.5, order=2)
    assert check_grad(lambda x, y: mingrad.sin(x) * y, 0.5, 3.0, order=2, modes="rev")


def test_a_wrong_formula_here_is_found_as_well(monkeypatch):
    value, slope = _complex._UNARY["sin"]
    monkeypatch.setitem(_complex._UNARY, "sin", (value, lambda y, z: slope(y, z) * (1.0 + 1e-9)))
    assert check_grad(mingrad.sin, 0.5)
    assert kinds(checked(mingrad.sin, 0.5, order=2)) == ["wrong"] * 3
    monkeypatch.setitem(_complex._UNARY, "sin", (lambda z: value(z) + 1e-6 * z.imag * 1j, slope))
    assert kinds(checked(mingrad.sin, 0.5)) == ["wrong"] * 2


def test_a_formula_that_gives_other_values_is_not_used(monkeypatch):
    value, slope = _complex._UNARY["sin"]
    monkeypatch.setitem(_complex._UNARY, "sin", (lambda z: value(z) + 1e-6, slope))
    assert_right(check_grad(mingrad.sin, 0.5), "differences")


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * x.detach(),
        lambda x: x * x.data,
        lambda x: x.detach() * x.detach(),
        lambda x: float(x.data) ** 2,
        lambda x: x * mingrad.stop_gradient(x),
        lambda x: mingrad.lgamma(x) * x.data,
        lambda x: x * under_no_grad(x),
        lambda x: x * (1.0 + 1e-3 * x.data),
        lambda x: x * Variable(x.data),
    ],
    ids=range(9),
)
def test_what_is_detached_in_silence_is_found(f):
    report = checked(f, 3.25)
    assert set(kinds(report)) == {"wrong"} and {m.mode for m in report.failures} == {"fwd", "rev"}
    assert len(report.notes) == 1 and "are not recorded" in report.notes[0]


def under_no_grad(x):
    with mingrad.no_grad():
        return x * 2.0


def test_what_is_detached_is_found_among_other_arguments():
    def f(p):
        return [p["a"] * p["b"][1].data, p["b"][0] ** 2]

    report = checked(f, {"a": 2.0, "b": [1.0, 3.0]})
    assert {m.output for m in report.failures} == {"output[0]"}
    assert {m.argument for m in report.failures} == {"argument 0['b'][1]"}
    assert report.notes[0].startswith("argument 0['b'][1]: ")


def custom(value, slope):
    """A custom function of one number with this rule."""

    @mingrad.custom_vjp
    def f(x):
        return value(x)

    f.defvjp(lambda x: (f(x), x), lambda x, adjoint: (adjoint * slope(x),))
    return f


def number(x):
    return x.data if isinstance(x, Variable) else x


def test_a_right_rule_passes():
    f = custom(math.sin, mingrad.cos)
    assert_right(check_grad(f, 0.7, order=2), "differences")
    assert check_grad(lambda x, y: f(x * y) * y, 0.7, 1.3, order=2)
    assert check_grad(custom(math.sin, math.cos), 0.7)


@pytest.mark.parametrize(
    "slope",
    [
        lambda x: -mingrad.cos(x),
        lambda x: 2.0 * mingrad.cos(x),
        lambda x: (1.0 + 1e-6) * mingrad.cos(x),
        lambda x: mingrad.cos(x) + 1e-6,
        lambda x: 0.0 * x,
        lambda x: math.nan,
        lambda x: math.inf,
    ],
    ids=range(7),
)
def test_a_wrong_rule_is_found(slope):
    f = custom(math.sin, slope)
    for g in (f, lambda x: x * x * f(x)):
        assert kinds(checked(g, 0.7)) == ["wrong"] * 2


def test_a_rule_without_a_term_is_found_at_its_argument():
    @mingrad.custom_jvp
    def f(x, y):
        return x * y + math.sin(y)

    @f.defjvp
    def rule(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        return f(x, y), y * dx + x * dy

    report = checked(f, 0.7, 1.3)
    assert {failure.argument for failure in report.failures} == {"argument 1"}


def test_a_rule_that_is_right_at_first_and_wrong_at_second_order_is_found():
    for slope in (
        lambda x: mingrad.cos(number(x)),
        lambda x: mingrad.cos(x) + 1e-6 * (x - number(x)),
    ):
        f = custom(math.sin, slope)
        assert check_grad(f, 0.7)
        assert kinds(checked(f, 0.7, order=2)) == ["wrong"] * 3
        report = checked(lambda x, y: f(x) * y, 0.7, 1.3, order=2)
        assert {m.argument for m in report.failures} == {"argument 0, then argument 0"}


def test_a_rule_that_is_right_at_one_point_only_is_found_at_second_order():
    f = custom(lambda x: x**3, lambda x: 3.0 * x)
    assert check_grad(f, 1.0)
    report = checked(f, 1.0, order=2)
    assert [(m.kind, m.order, m.mode) for m in report.failures] == [("wrong", 1, "fwd"), ("wrong", 1, "rev")]
    assert report.notes[-1].startswith("these are first derivatives beside the point, at [1.0")


def test_a_hook_that_changes_an_adjoint_is_found_in_reverse_mode():
    def f(x):
        y = x * x
        y.register_hook(lambda adjoint: adjoint * 2.0)
        return y * 3.0

    report = checked(f, 1.5)
    assert {(m.kind, m.mode) for m in report.failures} == {("wrong", "rev")}


# -- where there is nothing to compare with --------------------------------------------------------


@pytest.mark.parametrize(
    "f, xs, left, right, got",
    [
        (mingrad.relu, [0.0], 0.0, 1.0, 0.0),
        (abs, [0.0], -1.0, 1.0, 0.0),
        (lambda x: mingrad.clamp(2.0 * x, -1.0, 1.0), [0.5], 2.0, 0.0, 2.0),
        (lambda x: mingrad.maximum(x, x * x), [1.0], 1.0, 2.0, 1.5),
        (lambda x: mingrad.max([x, 3.0 * x, 0.0]), [0.0], 0.0, 3.0, 4.0 / 3.0),
        (lambda x: mingrad.hypot(x, 2.0 * x), [0.0], -math.sqrt(5.0), math.sqrt(5.0), 0.0),
        (lambda x: mingrad.norm([x, x]), [0.0], -math.sqrt(2.0), math.sqrt(2.0), 0.0),
        (lambda x: mingrad.leaky_relu(x, 0.25), [0.0], 0.25, 1.0, 0.25),
        (lambda x: nn.hinge_loss(x, 1.0), [1.0], -1.0, 0.0, 0.0),
    ],
    ids=range(9),
)
def test_a_kink_is_reported_with_both_slopes(f, xs, left, right, got):
    for g, close in ((f, 1e-15), (lambda x: f(x) * hidden_one(x), 1e-6)):
        (failure,) = checked(g, *xs).failures
        assert failure.kind == "kink" and failure.got == pytest.approx(got)
        assert failure.expected == pytest.approx((left, right), rel=close, abs=close)


def test_a_tie_that_is_no_kink_passes():
    for f in (
        lambda x: mingrad.maximum(x, x),
        lambda x: mingrad.relu(x) ** 2,
        lambda x: mingrad.relu(x) * x,
        lambda x: nn.huber_loss(x + 1.0, 0.0),
        lambda x: mingrad.elu(x),
        lambda x: abs(x) * 0.0,
    ):
        assert_right(check_grad(f, 0.0))
        assert_right(check_grad(lambda x: f(x) * hidden_one(x), 0.0), "differences")


def test_a_derivative_that_conventions_at_kinks_make_wrong_is_found():
    """relu(x) - relu(-x) is x, and its derivative 1; the rule for relu gives 0 twice."""
    assert kinds(checked(lambda x: mingrad.relu(x) - mingrad.relu(-x), 0.0)) == ["wrong"] * 2


def test_a_kink_of_the_first_derivative_is_reported_at_order_2():
    def f(x):
        return mingrad.relu(x) ** 2

    for g in (f, lambda x: f(x) * hidden_one(x)):
        assert check_grad(g, 0.0)
        (failure,) = checked(g, 0.0, order=2).failures
        assert failure.kind == "kink" and failure.expected == pytest.approx((0.0, 2.0))


def test_a_narrow_bend_is_no_kink():
    for width in (1e-2, 1e-4, 1e-6):

        def f(x):
            return mingrad.sqrt(x * x + width * width) * hidden_one(x)

        assert check_grad(f, 0.0)
        assert check_grad(f, 0.5 * width)


@pytest.mark.parametrize(
    "f, x",
    [
        (lambda x: mingrad.floor(x), 2.0),
        (lambda x: mingrad.sign(x), 0.0),
        (lambda x: x % 1.5, 3.0),
        (lambda x: hidden_one(x) * round(math.sin(x.data), 7), 0.5),
        (lambda x: custom(lambda x: x * math.cos(1e6 / (x + 1e-3)), lambda x: 0.0 * x)(x), 0.0),
    ],
    ids=range(5),
)
def test_what_does_not_settle_is_not_taken_for_right(f, x):
    assert kinds(checked(f, x)) == ["unsettled"]


def test_a_tolerance_that_is_given_settles_what_is_noisy():
    f = custom(lambda x: round(math.sin(x), 9), mingrad.cos)
    assert kinds(checked(f, 0.5)) == ["unsettled"]
    assert check_grad(f, 0.5, rtol=1e-4)
    assert check_grad(f, 0.5, atol=1e-4)
    assert (
        kinds(checked(custom(lambda x: round(math.sin(x), 9), lambda x: mingrad.cos(x) * 1.01), 0.5, atol=1e-4))
        == ["wrong"] * 2
    )


def test_tolerances_are_added_to_what_rounding_costs(monkeypatch):
    monkeypatch.setitem(gradcheck._FIRST, "rev", scaled(mingrad.jacrev, 1.0 + 1e-5))
    f = (lambda x: 4.0 * x), 1.0
    assert kinds(checked(*f)) == ["wrong"]
    assert kinds(checked(*f, rtol=0.9e-5)) == ["wrong"] and check_grad(*f, rtol=1.1e-5)
    assert kinds(checked(*f, atol=3.9e-5)) == ["wrong"] and check_grad(*f, atol=4.1e-5)
    assert check_grad(mingrad.tanh, 0.3, rtol=0.0, modes="fwd")


def test_derivatives_that_are_not_finite_cannot_be_verified():
    for f, x in ((mingrad.sqrt, 0.0), (mingrad.asin, 1.0), (mingrad.cbrt, 0.0)):
        assert kinds(checked(f, x)) == ["not finite"]
    with mingrad.errstate(all="ignore"):
        assert kinds(checked(lambda x: mingrad.log(x) * 0.0, 0.0)) == ["not finite"]


def test_a_function_that_gives_other_values_again_is_reported():
    rng = random.Random(0)
    assert kinds(checked(lambda x: x * rng.random(), 1.0)) == ["value"]
    f = custom(math.sin, mingrad.cos)
    f.defvjp(lambda x: (math.cos(x), x), lambda x, adjoint: (adjoint * mingrad.cos(x),))
    (failure,) = checked(f, 0.7).failures
    assert (failure.kind, failure.got, failure.expected) == ("value", math.cos(0.7), math.sin(0.7))


def test_a_function_that_gives_another_number_of_results_again_is_refused():
    lengths = iter((1, 2))
    with pytest.raises(ValueError) as caught:
        check_grad(lambda x: [x] * next(lengths), 1.0)
    assert str(caught.value) == ("check_grad: f gave 1 numbers where it was recorded, and 2 when it was called again")


# -- what it says ----------------------------------------------------------------------------------


def test_the_report_of_a_check_that_passed():
    report = check_grad(lambda x, y: x * mingrad.lgamma(y), 2.0, 3.5)
    assert report and (report.order, report.modes) == (1, ("fwd", "rev"))
    assert (report.first, report.second, report.failures, report.notes) == (2, 0, (), ())
    x, y = report.agreements
    assert (x.argument, x.method, x.steps) == (0, "complex step", None)
    assert (y.argument, y.method) == (1, "differences") and 0.0 < y.steps[0] <= y.steps[1] < 1.0
    first, second, third = str(report).split("\n")
    assert first == "check_grad: all right (first derivatives: 2, by fwd and rev)"
    assert second == "  argument 0: complex step, error at most 0 ulps"
    assert third.startswith("  argument 1: differences (step 0.")
    assert third.endswith(" of the derivative")
    assert str(check_grad(lambda x: x, 1.0, order=2, modes="rev")).startswith(
        "check_grad: all right (first derivatives: 1, second: 1, by rev)\n"
    )


def test_a_mismatch_says_which_what_and_how(monkeypatch):
    monkeypatch.setitem(gradcheck._FIRST, "rev", scaled(mingrad.jacrev, 1.5))
    with pytest.raises(GradientCheckError) as caught:
        check_grad(lambda p: [1.0, p["w"][1] * 4.0], {"w": [1.0, 2.0]})
    assert str(caught.value) == (
        "check_grad: mismatches: 1 (first derivatives: 4, by fwd and rev)\n"
        "  output[1] by argument 0['w'][1], rev: got 6.0, expected 4.0 from the complex step (h = "
        "2**-90); off by 2.25e+15 ulps, 0.5 of it; allowed 4e-12"
    )
    (failure,) = caught.value.report.failures
    assert failure[:7] == ("wrong", 1, "rev", "output[1]", "argument 0['w'][1]", 4.0, 6.0)
    assert failure.ulps == 2.0 / math.ulp(4.0)
    assert isinstance(caught.value, AssertionError)


def test_a_mismatch_by_differences_says_step_and_estimated_error():
    f = custom(lambda x: x * x, lambda x: 0.0 * x)
    with pytest.raises(
        GradientCheckError,
        match=(
            r"output by argument 0, fwd: got 0\.0, expected 6\.\d+ from differences \(step 0\.\d+, "
            r"estimated error \de-1\d\); off by 6\.\d+e\+15 ulps, 1 of it; allowed 6e-07"
        ),
    ):
        check_grad(f, 3.0)
    assert "expected" in str(checked(custom(lambda x: 2.0, lambda x: x), 3.0))


def test_kinks_and_what_cannot_be_verified_say_so():
    (kink,) = checked(mingrad.relu, 0.0).failures
    assert str(kink) == (
        "output by argument 0, fwd: got 0.0 by convention, but f has a kink here: -0.0 to the "
        "left, 1.0 to the right, from the complex step (h = 2**-90); check at another point"
    )
    (bend,) = checked(lambda x: mingrad.relu(x) ** 2, 0.0, order=2).failures
    assert str(bend) == (
        "output by argument 0, then argument 0, hessian: got 0.0 by convention, but the first "
        "derivative has a kink here: -0.0 to the left, 2.0 to the right, from the complex step "
        "(h = 2**-90); check at another point"
    )
    (step,) = checked(mingrad.floor, 2.0).failures
    assert str(step).startswith("output by argument 0, fwd: got 0.0, which cannot be verified: differences (step ")
    assert str(step).endswith("; f is not smooth or too noisy here: check at another point, or allow more by rtol or atol")
    (pole,) = checked(mingrad.sqrt, 0.0).failures
    assert str(pole) == ("output by argument 0, fwd: got inf, which cannot be verified: not finite; check at another point")
    numbers = iter((2.0, 3.0))
    (value,) = checked(lambda x: [x, x * next(numbers)], 1.0).failures
    assert str(value) == (
        "output[1]: got 2.0 where f is recorded, and 3.0 when it is called again under no_grad(): "
        "it uses random numbers or keeps a state, or a custom rule computes another value than its "
        "function"
    )


def test_a_note_says_where_f_leaves_the_graph():
    assert checked(lambda x: x * x.detach(), 3.0).notes == (
        (
            "argument 0: f uses numbers that change with it and are not recorded, such as 3.0 in mul "
            "(.data, detach(), stop_gradient(), no_grad()); differences are used"
        ),
    )
    assert (
        checked(lambda x: x.data, 3.0)
        .notes[0]
        .startswith("argument 0: f uses numbers that change with it and are not recorded, such as 3.0 in the result (")
    )
    assert checked(lambda x: x if x > 1.0 else 2.0 * x, 1.0).notes == (
        "argument 0: f takes another branch just beside the point, or cannot be computed there; differences are used",
    )
    assert "mul" in checked(lambda x: x * (x.data + 1.0), 3.0).notes[0]


def test_the_worst_ten_are_shown_and_all_are_kept(monkeypatch):
    monkeypatch.setitem(gradcheck._FIRST, "fwd", scaled(mingrad.jacfwd, 0.5))
    report = checked(lambda xs: mingrad.sum(xs), [1.0] * 20, modes="fwd")
    assert len(report.failures) == 20
    lines = str(report).split("\n")
    assert len(lines) == 12 and lines[-1] == "  and 10 more"
    mixed = checked(lambda x, y: [mingrad.relu(x), y.detach() * y, y * x.detach()], 0.0, 1.0)
    assert kinds(mixed) == ["wrong"] * 4 + ["kink"]
    assert [m.ulps for m in mixed.failures[:4]] == sorted((m.ulps for m in mixed.failures[:4]), reverse=True)


def test_reports_and_errors_are_pickled():
    report = checked(abs, 0.0)
    assert pickle.loads(pickle.dumps(report)) == report
    again = pickle.loads(pickle.dumps(GradientCheckError(report)))
    assert again.report == report and str(again) == str(report)


@pytest.mark.parametrize(
    "call, kind, text",
    [
        (lambda: check_grad(3.0, 1.0), TypeError, "check_grad: expected a function, got float"),
        (lambda: check_grad(abs, 1.0, order=3), ValueError, "check_grad: expected order 1 or 2, got 3"),
        (lambda: check_grad(abs, 1.0, order=True), ValueError, "check_grad: expected order 1 or 2, got True"),
        (
            lambda: check_grad(abs, 1.0, modes=("fwd", "forward")),
            ValueError,
            "check_grad: unknown mode 'forward': expected 'fwd', 'rev' or both",
        ),
        (
            lambda: check_grad(abs, 1.0, modes=()),
            ValueError,
            "check_grad: expected at least one mode, 'fwd' or 'rev', got none",
        ),
        (lambda: check_grad(abs, 1.0, rtol=-1.0), ValueError, "check_grad: expected rtol to be finite, 0 or more, got -1.0"),
        (lambda: check_grad(abs, 1.0, atol=math.nan), ValueError, "check_grad: expected atol to be finite, 0 or more, got nan"),
        (lambda: check_grad(lambda: 1.0), ValueError, "check_grad: expected a float to differentiate by, got none"),
        (lambda: check_grad(lambda x: 1.0, []), ValueError, "check_grad: expected a float to differentiate by, got none"),
        (
            lambda: check_grad(lambda x: x * x, 2),
            TypeError,
            (
                "check_grad: expected floats to differentiate by, got the int 2; a derivative says what a "
                "small change of a real number does: write 2.0, or name the other arguments in argnums"
            ),
        ),
        (
            lambda: check_grad(lambda x: x, "two"),
            TypeError,
            "check_grad: expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got str",
        ),
        (
            lambda: check_grad(lambda x: None, 1.0),
            TypeError,
            (
                "check_grad: the function's result: expected numbers, Variables, or nested lists, tuples, "
                "dicts or arrays of them, got NoneType"
            ),
        ),
        (lambda: check_grad(lambda x: [], 1.0), ValueError, "check_grad: expected a number as the function's result, got none"),
        (
            lambda: check_grad(lambda x: x, 1.0, argnums=1),
            ValueError,
            "check_grad: argnums 1 is out of range: the function was called with 1 positional arguments",
        ),
        (
            lambda: check_grad(mingrad.log, -1.0),
            ValueError,
            "log(-1.0): outside the function's domain; with mingrad.errstate(all='ignore') the result is nan",
        ),
    ],
    ids=range(15),
)
def test_errors_say_what_was_expected(call, kind, text):
    refuses(call, kind, text)


def test_errors_of_f_come_through():
    def f(x):
        raise KeyError("f")

    refuses(lambda: check_grad(f, 1.0), KeyError, "'f'")


# -- what it leaves --------------------------------------------------------------------------------


def test_it_leaves_no_trace():
    w = Variable(2.0)
    with no_trace([w]):
        check_grad(lambda x: (x * w).tanh(), 0.3, order=2)
        checked(lambda x: x * x.detach() * w, 0.3)
        check_grad(lambda x: hidden_one(x) * x * w, 0.3, order=2)


def test_recording_that_is_off_stays_off_and_does_not_matter():
    with mingrad.no_grad():
        assert check_grad(lambda x: mingrad.exp(x), 0.5)
        assert not mingrad.is_grad_enabled()
