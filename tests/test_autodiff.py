"""Derivatives of functions: every op to third order, both modes, transforms, what goes in and out.

The oracle for derivatives is mpmath, which differentiates golden/make_golden.py's formulas by
differences with 50 digits; they share nothing with the op table. Then: both modes against each
other and against backward() on random graphs, transforms nested in every pair, PyTorch and JAX
where they are installed, nests, errors, memory. Then second derivatives as numbers: the walk that
records nothing, patterns, groups of columns. First derivatives are test_ops.py's in full.
"""

import array
import collections
import gc
import importlib.util
import itertools
import math
import pathlib
import random

import pytest

import mingrad
import reference
from helpers import (
    EXACT,
    FLAT,
    LIBM,
    NARY,
    OTHER,
    assert_close_relative,
    build,
    random_graph,
    run_python,
)
from mingrad import (
    Variable,
    VariableList,
    _core,
    autodiff,
    derivative,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    jvp,
    nn,
    value_and_grad,
    vjp,
)
from watch import no_trace, refuses, spell, stress

TRANSFORMS = [grad, value_and_grad, jacfwd, jacrev, jacobian, hessian]


@pytest.fixture(scope="module")
def mpmath():
    """mpmath at 50 digits."""
    module = pytest.importorskip("mpmath", reason="mpmath is not installed")
    with module.workdps(50):
        yield module


@pytest.fixture(scope="module")
def maker(mpmath):
    """golden/make_golden.py: the formulas of the ops in exact arithmetic."""
    path = pathlib.Path(__file__).parent / "golden" / "make_golden.py"
    spec = importlib.util.spec_from_file_location("make_golden", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_adjoints(y, x):
    """The derivative of y by x, recorded, from one reverse walk."""
    return _core._adjoints([y], [1.0], [x])[0] if isinstance(y, Variable) else 0.0


def by_tangents(y, x):
    """The same from one forward walk."""
    return _core._tangents([y], [x], [1.0])[0] if isinstance(y, Variable) else 0.0


def number(x):
    return x.data if isinstance(x, Variable) else x


WALKS = [by_adjoints, by_tangents]
# A derivative of order three has up to ten terms, each of some roundings, and they may cancel; all
# operands here are of size one. Measured: 3e-14 at most.
BOUND = 1e-13


def assert_derivative(got, expected, what):
    assert_close_relative(number(got), float(expected), BOUND, what, floor=1.0)


def assert_all_derivatives(y, xs, exact, points, mpmath, what, order=3):
    """Every derivative of y up to that order, by every sequence of xs and of walks.

    exact: the function of len(points) numbers in mpmath's arithmetic.
    """
    expected = {}
    for indices in itertools.chain.from_iterable(itertools.product(range(len(xs)), repeat=n) for n in range(1, order + 1)):
        counts = tuple(indices.count(k) for k in range(len(points)))
        if counts not in expected:
            with mpmath.workdps(50):
                at = tuple(map(mpmath.mpf, points))
                expected[counts] = float(mpmath.diff(exact, at, counts))
    found = {(): {(): y}}  # of each sequence of walks, of each sequence of operands
    for _ in range(order):
        found = {
            (*walks, walk): {(*indices, k): walk(z, x) for indices, z in derived.items() for k, x in enumerate(xs)}
            for walks, derived in found.items()
            for walk in WALKS
        }
        for walks, derived in found.items():
            for indices, z in derived.items():
                counts = tuple(indices.count(k) for k in range(len(points)))
                names = [walk.__name__ for walk in walks]
                assert_derivative(z, expected[counts], f"{what}, by {indices}, {names}")


# -- every op --------------------------------------------------------------------------------------

TABLE = {row["name"]: row for row in _core._ops()}
UNARY = [name for name, row in TABLE.items() if row["kind"] == "unary" and name[0] != "_"]
BINARY = [name for name, row in TABLE.items() if row["kind"] == "binary" and name != "_polygamma"]
# b is a number for these.
PARAMETERS = {"leaky_relu", "elu", "clamp_min", "clamp_max", "_huber"}
POSITIVE, UNIT = (0.3, 1.7), (-0.6, 0.35)
POINTS = dict.fromkeys("log log2 log10 sqrt".split(), POSITIVE)
POINTS |= dict.fromkeys("asin acos atanh".split(), UNIT)
POINTS |= {
    "acosh": (1.4, 3.0),
    "log1p": (-0.4, 1.7),
    "lgamma": (0.6, 2.7, -1.3),
    "digamma": (0.6, 2.7, -1.3),
    "tan": (-0.6, 0.4),
    "cbrt": (-1.3, 0.7),
    "atan": (-1.3, 0.4, 1e160),
}
PAIRS = {
    "pow": ((1.3, 2.7), (0.6, -1.4)),
    "_bce": ((0.3, 0.8), (0.7, 0.1)),
    "_huber": ((0.4, 0.7), (-1.3, 0.6)),
    "leaky_relu": ((-1.3, 0.1), (0.4, 0.1)),
    "elu": ((-1.3, 0.7), (0.4, 0.7)),
}


@pytest.mark.parametrize("op", UNARY)
def test_a_unary_op_to_third_order(op, mpmath, maker):
    for x in POINTS.get(op, (-1.3, 0.4, 2.2)):
        v = Variable(x)
        y = spell(op)(v)
        assert_all_derivatives(y, [v], maker.UNARY[op][0], [x], mpmath, f"{op} at {x}")


@pytest.mark.parametrize("op", BINARY)
def test_a_binary_op_to_third_order_in_all_forms(op, mpmath, maker):
    function, exact = spell(op), maker.BINARY[op][0]
    for a, b in PAIRS.get(op, ((1.3, 0.7), (-0.6, 2.3), (0.8, -1.7))):
        x, y = Variable(a), Variable(b)
        what = f"{op} at {a}, {b}"
        assert_all_derivatives(function(x, b), [x], lambda s: exact(s, mpmath.mpf(b)), [a], mpmath, what + ", b a number")
        if op not in PARAMETERS:
            assert_all_derivatives(function(x, y), [x, y], exact, [a, b], mpmath, what)
            assert_all_derivatives(function(a, y), [y], lambda s: exact(mpmath.mpf(a), s), [b], mpmath, what + ", a a number")


@pytest.mark.parametrize("op", ["mul", "pow", "atan2", "hypot", "div", "maximum"])
def test_a_binary_op_of_one_variable_twice(op, mpmath, maker):
    function, exact = spell(op), maker.BINARY[op][0]
    x = Variable(1.3)
    y = function(x, x * x)
    assert_all_derivatives(y, [x], lambda s: exact(s, s * s), [1.3], mpmath, op)


def exact_nary(mpmath):
    """{name: (function of Variables, the same in mpmath's arithmetic)}; each takes a list."""
    exp, log, sqrt = mpmath.exp, mpmath.log, mpmath.sqrt

    def logsumexp(xs):
        return log(mpmath.fsum(map(exp, xs)))

    return {
        "sum": (mingrad.sum, mpmath.fsum),
        "mean": (mingrad.mean, lambda xs: mpmath.fsum(xs) / len(xs)),
        "prod": (mingrad.prod, mpmath.fprod),
        "max": (mingrad.max, max),
        "min": (mingrad.min, min),
        "logsumexp": (mingrad.logsumexp, logsumexp),
        "norm": (mingrad.norm, lambda xs: sqrt(mpmath.fsum(x * x for x in xs))),
        "dot": (lambda xs: mingrad.dot(xs, xs[::-1]), lambda xs: mpmath.fsum(x * y for x, y in zip(xs, xs[::-1]))),
        "_softmax": (lambda xs: mingrad.softmax(xs)[1], lambda xs: exp(xs[1] - logsumexp(xs))),
        "_sumexp": (lambda xs: mingrad.softmax(xs)[0] * 2.0, lambda xs: 2 * exp(xs[0] - logsumexp(xs))),
        "_cross_entropy": (lambda xs: nn.cross_entropy(xs, 2), lambda xs: logsumexp(xs) - xs[2]),
        "_mean_square": (
            lambda xs: nn.RMSNorm(3, eps=0.1, elementwise_affine=False)(xs)[1],
            lambda xs: xs[1] / sqrt(mpmath.fsum(x * x for x in xs) / 3 + mpmath.mpf(0.1)),
        ),
    }


NARY_OPS = [name for name, row in TABLE.items() if row["kind"] in ("nary", "linked")] + ["dot"]


@pytest.mark.parametrize("op", NARY_OPS)
@pytest.mark.parametrize("scattered", [False, True], ids=["a run", "scattered"])
def test_an_nary_op_to_third_order(op, scattered, mpmath):
    function, exact = exact_nary(mpmath)[op]
    points = [0.7, -1.2, 0.4]
    xs = [Variable(x) for x in points]
    if scattered:
        xs = xs[1:] + xs[:1]
        points = points[1:] + points[:1]
    assert_all_derivatives(function(xs), xs, lambda *at: exact(list(at)), points, mpmath, op)


def test_an_nary_op_of_one_variable_several_times(mpmath):
    for op, (function, exact) in exact_nary(mpmath).items():
        x = Variable(0.7)
        assert_all_derivatives(function([x, x * 0.5, x * x]), [x], lambda s: exact([s, s / 2, s * s]), [0.7], mpmath, op)


def test_prod_with_zeros_has_exact_derivatives():
    xs = [Variable(x) for x in (0.0, 3.0, 0.0)]
    for walk, again in itertools.product(WALKS, repeat=2):
        first = [walk(mingrad.prod(xs), x) for x in xs]
        assert [number(g) for g in first] == [0.0, 0.0, 0.0]
        assert number(again(first[0], xs[2])) == 3.0
        assert number(again(again(first[0], xs[2]), xs[1])) == 1.0


def fill(module, seed):
    """Parameters of size one."""
    rng = random.Random(seed)
    for p in module.parameters():
        p.data = rng.uniform(-1, 1)
    return [[p.data for p in row] for row in getattr(module, "weight", [])], [
        p.data for p in getattr(module, "bias", None) or []
    ]


def affine(weight, bias, xs):
    bias = bias or [0] * len(weight)
    return [sum((w * x for w, x in zip(row, xs)), b) for row, b in zip(weight, bias)]


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_to_third_order_by_inputs_and_weights(bias, mpmath):
    layers = [nn.Linear(2, 2, bias=bias), nn.Linear(2, 1, bias=bias)]
    (w, b), (u, c) = [fill(layer, k) for k, layer in enumerate(layers)]
    x, weight = [Variable(0.6), Variable(-0.9)], layers[0].weight[0][1]
    y = layers[1](nn.Tanh()(layers[0](x)))[0]

    def exact(s, t, changed):
        changed = [[w[0][0], changed], w[1]]
        return affine(u, c, [mpmath.tanh(h) for h in affine(changed, b, [s, t])])[0]

    assert_all_derivatives(y, [*x, weight], exact, [0.6, -0.9, w[0][1]], mpmath, "linear")


@pytest.mark.parametrize("batch", [1, 9])
def test_layers_called_on_a_batch_have_the_derivatives_of_single_calls(batch):
    model = nn.MLP(3, [5, 2], activation="tanh")
    fill(model, 3)
    rows = [[math.sin(3 * k + j) for j in range(3)] for k in range(batch)]

    def together(rows):
        return mingrad.sum(y * y for row in model(rows) for y in row)

    def one_by_one(rows):
        return mingrad.sum(y * y for row in rows for y in model(row))

    inputs = [[Variable(x) for x in row] for row in rows]
    direction = [[1.0, -0.5, 0.25]] * batch
    got = [x.data for row in hvp(together, (inputs,), (direction,)) for x in row]
    expected = [x.data for row in hvp(one_by_one, (inputs,), (direction,)) for x in row]
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_attention_to_third_order(mpmath):
    keys, values = [[0.3, -0.5], [0.8, 0.2], [-0.4, 0.9]], [[1.0, 2.0], [-1.0, 0.5], [0.3, 0.7]]

    def exact(s, t):
        scores = [(s * k[0] + t * k[1]) / mpmath.sqrt(2) for k in keys]
        weights = [mpmath.exp(x) for x in scores]
        return mpmath.fsum(w * v[1] for w, v in zip(weights, values)) / mpmath.fsum(weights)

    q = [Variable(0.6), Variable(-0.9)]
    y = nn.scaled_dot_product_attention(q, keys, values)[1]
    assert_all_derivatives(y, q, exact, [0.6, -0.9], mpmath, "attention")


def test_layer_norm_to_third_order(mpmath):
    def exact(*xs):
        mean = mpmath.fsum(xs) / 3
        variance = mpmath.fsum((x - mean) ** 2 for x in xs) / 3
        return (xs[0] - mean) / mpmath.sqrt(variance + mpmath.mpf(1e-5))

    xs = [Variable(x) for x in (0.6, -0.9, 0.4)]
    assert_all_derivatives(nn.LayerNorm(3)(xs)[0], xs, exact, [0.6, -0.9, 0.4], mpmath, "norm")


@pytest.mark.parametrize("loss", [nn.mse_loss, nn.huber_loss, nn.binary_cross_entropy])
def test_a_loss_over_several_samples_has_the_derivatives_of_its_terms(loss):
    predictions, targets = [0.3, 0.8, 0.6], [0.0, 1.0, 0.7]
    second = hessian(lambda p: loss(p, targets, "sum"))(predictions)
    for i, j in itertools.product(range(3), repeat=2):
        expected = derivative(lambda q: loss(q, targets[i]), 2)(predictions[i]) if i == j else 0.0
        assert second[i][j] == pytest.approx(expected, rel=1e-15 * 4)  # a few roundings


def test_the_seventh_derivative():
    assert derivative(mingrad.sin, 7)(0.5) == pytest.approx(-math.cos(0.5), rel=1e-14)
    assert derivative(lambda x: x**9, 7)(2.0) == pytest.approx(181440 * 4.0, rel=1e-14)
    assert [derivative(mingrad.exp, n)(1.0) for n in range(6)] == [math.e] * 6


def test_second_derivatives_at_kinks_are_those_of_the_flat_pieces():
    for f in (mingrad.relu, abs, lambda x: mingrad.clamp(x, 0.0, 1.0)):
        assert derivative(f, 2)(0.0) == 0.0
    assert hessian(lambda x: mingrad.maximum(x[0], x[1]))([1.0, 1.0]) == [[0.0, 0.0], [0.0, 0.0]]
    assert math.isnan(derivative(mingrad.relu, 1)(math.nan))


@pytest.mark.parametrize("n", range(1, 7))
def test_polygamma_matches_mpmath(n, mpmath):
    """Positive: a sum of up to n + 16 terms of one sign. Negative: terms of both signs may cancel,
    so the largest of them is the measure."""
    rng = random.Random(n)
    xs = [10 ** rng.uniform(-3, 6) for _ in range(30)] + [-rng.uniform(0, 50) for _ in range(30)]
    for x in xs:
        expected = float(mpmath.polygamma(n, mpmath.mpf(x)))
        largest = math.factorial(n) / abs(x - round(x)) ** (n + 1) if x < 0 else 0.0
        got = derivative(mingrad.digamma, n)(x)
        assert_close_relative(got, expected, 2e-15, f"polygamma({n}, {x!r})", floor=largest)


def test_polygamma_at_poles_and_ends():
    assert derivative(mingrad.digamma, 2)(math.inf) == 0.0
    with mingrad.errstate(all="ignore"):
        assert math.isnan(derivative(mingrad.digamma, 2)(-math.inf))
        assert math.isnan(derivative(mingrad.digamma, 3)(-2.0))


# -- both modes, on random graphs ------------------------------------------------------------------


def random_things(seed, names):
    """(root, leaves) of a random graph in mingrad, and (root, leaves) of it in the reference."""
    graph = random_graph(seed, 120, names, reference)
    leaves = [k for k, (name, *_) in enumerate(graph) if name == "leaf"]
    found = []
    for engine in (mingrad, reference):
        things, _ = build(graph, engine)
        found += [things[-1], [things[k] for k in leaves]]
    return found


@pytest.mark.parametrize("seed", range(40))
def test_forward_reverse_recorded_and_backward_agree_on_a_random_graph(seed):
    """To 2 ulps where nothing is added up; else to the running error bound of the reference."""
    names = [EXACT, EXACT + LIBM, EXACT + LIBM + OTHER + NARY][seed % 3]
    root, leaves, oracle, oracle_leaves = random_things(seed, names)
    slack = reference.adjoint_slack(oracle, 1.0)
    oracle.backward()
    reverse = _core._adjoint_values([root], [1.0], leaves)
    ones = [[float(j == k) for j in range(len(leaves))] for k in range(len(leaves))]
    forward = [row[0] for row in _core._tangent_values([root], leaves, ones)]
    recorded = [number(g) for g in _core._adjoints([root], [1.0], leaves)]
    tangents = [number(_core._tangents([root], leaves, one)[0]) for one in ones]
    assert all(v.grad == 0.0 for v in leaves)
    root.backward()
    backward = [v.grad for v in leaves]
    for k, node in enumerate(oracle_leaves):
        allowed = 2 * slack.get(id(node), 0.0)
        if not math.isfinite(allowed) or not math.isfinite(backward[k]):
            continue  # out of range on the way: nothing is promised about which infinity
        for got in (reverse[k], forward[k], recorded[k], tangents[k]):
            assert abs(got - backward[k]) <= max(allowed, 2 * math.ulp(backward[k])), k


def test_forward_and_reverse_agree_to_two_ulps_on_chains_of_one_variable():
    """A product of slopes, from the left or from the right: half an ulp for each factor."""
    chains = list("exp sin tanh sigmoid atan asinh softplus erf".split())
    for f, g in itertools.product(chains, repeat=2):
        x = Variable(0.7)
        y = getattr(mingrad, f)(getattr(mingrad, g)(x))
        (reverse,) = _core._adjoint_values([y], [1.0], [x])
        ((forward,),) = _core._tangent_values([y], [x], [[1.0]])
        assert abs(reverse - forward) <= 2 * math.ulp(reverse)


@pytest.mark.parametrize("seed", range(12))
def test_hessians_of_random_graphs_are_symmetric_and_agree_in_every_mode(seed):
    root, leaves, *_ = random_things(seed, EXACT + LIBM[:10] + ["sigmoid", "softplus"] + NARY)
    rows = []
    first = _core._adjoints([root], [1.0], leaves)
    for g in first:
        rows.append(_core._adjoint_values([g], [1.0], leaves) if isinstance(g, Variable) else [0.0] * len(leaves))
    scale = max(1.0, *(abs(x) for row in rows for x in row))
    ones = [[float(j == k) for j in range(len(leaves))] for k in range(len(leaves))]
    tangents = [_core._tangents([root], leaves, one)[0] for one in ones]
    others = [[number(by_tangents(t, x)) for x in leaves] for t in tangents]
    for i, j in itertools.product(range(len(leaves)), repeat=2):
        # A few hundred roundings of terms that may be larger than their sum.
        assert abs(rows[i][j] - rows[j][i]) <= 1e-11 * scale
        assert abs(rows[i][j] - others[i][j]) <= 1e-11 * scale


def test_walks_take_several_roots_repeated_roots_and_inputs_in_between():
    x, y = Variable(2.0), Variable(3.0)
    a = x * y
    b = a * a + x
    assert _core._adjoint_values([b, a, b], [1.0, 10.0, 1.0], [x, y]) == [104.0, 68.0]
    assert _core._adjoint_values([b], [1.0], [a, y]) is None  # x asks for a gradient as well
    assert _core._adjoint_values([b], [1.0], [a, x]) == [12.0, 1.0]
    assert _core._tangent_values([b, x, a], [a, x], [[1.0, 0.0], [0.0, 1.0]]) == [[12.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert _core._adjoint_values([b], [1.0], [x, y, b]) == [0.0, 0.0, 1.0]


def test_walks_where_no_input_is_below_a_root_find_nothing():
    early = Variable(1.0)
    root = early * 2.0
    keep = [Variable(1.0) * 1.5 for _ in range(300)]
    late = Variable(5.0)
    busy = late * late
    assert _core._adjoint_values([busy], [1.0], [late]) == [10.0]  # leaves bits behind
    assert _core._adjoints([root], [1.0], [late, busy]) == [0.0, 0.0]
    assert _core._tangents([root, early], [late], [1.0]) == [0.0, 0.0]
    assert _core._dependence([root], [late]) == [[]]
    assert _core._adjoints([root], [1.0], [early, late, keep[7]])[1:] == [0.0, 0.0]
    assert _core._dependence([root, busy], [early, late]) == [[0], [1]]
    assert _core._adjoints([], [], [late]) == [0.0] and _core._tangents([], [late], [1.0]) == []


# -- transforms nested -----------------------------------------------------------------------------

# Operators on functions of one number: (name, order, operator).
OPERATORS = [
    ("grad", 1, grad),
    ("value_and_grad", 1, lambda f: lambda x: value_and_grad(f)(x)[1]),
    ("jvp", 1, lambda f: lambda x: jvp(f, (x,), (1.0,))[1]),
    ("vjp", 1, lambda f: lambda x: vjp(f, x)[1](1.0)[0]),
    ("jacfwd", 1, jacfwd),
    ("jacrev", 1, jacrev),
    ("jacobian", 1, jacobian),
    ("hessian", 2, hessian),
    ("hvp", 2, lambda f: lambda x: hvp(f, (x,), (1.0,))),
    ("sparse hessian", 2, lambda f: lambda x: hessian(f, sparse=True)(x)[2][0]),
]
PAIRS_OF_OPERATORS = list(itertools.product(OPERATORS, repeat=2))
NAMES_OF_PAIRS = [f"{outer[0]} of {inner[0]}" for outer, inner in PAIRS_OF_OPERATORS]


@pytest.mark.parametrize("outer, inner", PAIRS_OF_OPERATORS, ids=NAMES_OF_PAIRS)
def test_a_transform_of_a_transform(outer, inner, mpmath):
    def f(x):
        return mingrad.exp(mingrad.sin(x) * 1.5) / (x * x + 1.0)

    def exact(x):
        return mpmath.exp(mpmath.sin(x) * 1.5) / (x * x + 1)

    order = outer[1] + inner[1]
    got = outer[2](inner[2](f))(0.7)
    assert type(got) is float
    assert_close_relative(got, mpmath.diff(exact, mpmath.mpf(0.7), order), BOUND)
    third = grad(outer[2](inner[2](f)))(0.7)
    assert_close_relative(third, mpmath.diff(exact, mpmath.mpf(0.7), order + 1), 10 * BOUND)


def rosenbrock(x):
    return mingrad.sum(100.0 * (x[k + 1] - x[k] ** 2) ** 2 + (1.0 - x[k]) ** 2 for k in range(len(x) - 1))


SECOND = {
    "jacfwd of jacrev": lambda f: jacfwd(jacrev(f)),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f)),
    "jacfwd of jacfwd": lambda f: jacfwd(jacfwd(f)),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f)),
    "jacobian of grad": lambda f: jacobian(grad(f)),
    "hvp of each direction": lambda f: (
        lambda x: [hvp(f, (x,), ([float(k == j) for k in range(len(x))],)) for j in range(len(x))]
    ),
    "vjp of grad": lambda f: lambda x: [vjp(grad(f), x)[1]([float(k == j) for k in range(len(x))])[0] for j in range(len(x))],
    "grad of jvp": lambda f: (
        lambda x: [grad(lambda y, j=j: jvp(f, (y,), ([float(k == j) for k in range(len(x))],))[1])(x) for j in range(len(x))]
    ),
}


@pytest.mark.parametrize("way", SECOND)
def test_every_way_to_a_hessian(way):
    x = [0.5, -1.2, 0.8, 1.5]
    expected, got = hessian(rosenbrock)(x), SECOND[way](rosenbrock)(x)
    for i, j in itertools.product(range(4), repeat=2):
        assert got[i][j] == pytest.approx(expected[i][j], rel=1e-14)
        assert expected[i][j] == pytest.approx(expected[j][i], rel=1e-14)


def test_no_perturbation_is_taken_for_another():
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(1.0) == 1.0
    assert grad(lambda x: x * grad(lambda y: x * y)(2.0))(3.0) == 6.0
    assert grad(lambda x: x * jvp(lambda y: x + y, (1.0,), (1.0,))[1])(1.0) == 1.0
    assert jvp(lambda x: x * jvp(lambda y: x * y, (2.0,), (1.0,))[1], (3.0,), (1.0,)) == (9.0, 6.0)
    assert jvp(lambda x: jvp(lambda y: y * x, (x,), (x,))[1], (3.0,), (1.0,)) == (9.0, 6.0)
    assert grad(lambda x: grad(lambda y: y * y * x)(x))(3.0) == 12.0
    assert jacfwd(lambda x: hessian(lambda y: y**3 * x)(x))(3.0) == 36.0
    assert grad(lambda x: hvp(lambda y: x * y * y, (1.0,), (x,)))(3.0) == 12.0


# -- other libraries -------------------------------------------------------------------------------


def shared(x, sin, exp, tanh):
    """A function from four numbers to three, in any library's arithmetic."""
    a, b, c, d = x[0], x[1], x[2], x[3]
    return [sin(a * b) * exp(c / 2), tanh(a - d) / (1.5 + c * c), a**3 * d - b / (d * d + 1.0)]


AT = [0.4, -0.7, 1.1, 0.6]


def assert_nests_close(got, expected):
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for x, y in zip(got, expected):
            assert_nests_close(x, y)
    else:
        assert got == pytest.approx(expected, rel=1e-13, abs=1e-14)  # some roundings each


def ours(x):
    return shared(x, mingrad.sin, mingrad.exp, mingrad.tanh)


def test_torch_func_gives_the_same():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    def theirs(x):
        return torch.stack(shared(x, torch.sin, torch.exp, torch.tanh))

    x, v = torch.tensor(AT, dtype=torch.float64), torch.tensor(AT[::-1], dtype=torch.float64)
    theirs_sum, ours_sum = lambda x: theirs(x).sum(), lambda x: mingrad.sum(ours(x))
    func = torch.func
    assert_nests_close(jacfwd(ours)(AT), func.jacfwd(theirs)(x).tolist())
    assert_nests_close(jacrev(ours)(AT), func.jacrev(theirs)(x).tolist())
    assert_nests_close(hessian(ours_sum)(AT), func.hessian(theirs_sum)(x).tolist())
    third = func.jacfwd(func.hessian(theirs_sum))(x).tolist()
    assert_nests_close(jacfwd(hessian(ours_sum))(AT), third)
    assert_nests_close(jvp(ours, (AT,), (AT[::-1],))[1], func.jvp(theirs, (x,), (v,))[1].tolist())
    pulled = func.vjp(theirs, x)[1](torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))[0]
    assert_nests_close(vjp(ours, AT)[1]([1.0, -2.0, 0.5])[0], pulled.tolist())


def test_jax_gives_the_same_and_has_the_same_conventions():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        np = jax.numpy
        theirs = lambda x: shared(x, np.sin, np.exp, np.tanh)
        plain = lambda tree: jax.tree_util.tree_map(lambda leaf: leaf.tolist(), tree)
        assert_nests_close(jacfwd(ours)(AT), plain(jax.jacfwd(theirs)(AT)))
        assert_nests_close(jacrev(ours)(AT), plain(jax.jacrev(theirs)(AT)))
        ours_sum, theirs_sum = lambda x: mingrad.sum(ours(x)), lambda x: sum(theirs(x))
        assert_nests_close(hessian(ours_sum)(AT), plain(jax.hessian(theirs_sum)(AT)))
        assert_nests_close(hessian(grad_first(grad, ours_sum))(AT), plain(jax.hessian(grad_first(jax.grad, theirs_sum))(AT)))

        def f(p, s):
            return p["a"] * s[0] * s[0] + p["b"][0] * s[1] * p["a"]

        arguments = {"a": 2.0, "b": [3.0]}, (5.0, 7.0)
        for argnums in (0, -1, (1, 0), (1,)):
            for name in ("grad", "jacfwd", "hessian"):
                got = getattr(mingrad, name)(f, argnums)(*arguments)
                assert got == plain(getattr(jax, name)(f, argnums)(*arguments)), (name, argnums)
        got = grad(lambda x: (x * x, "aux"), has_aux=True)(3.0)
        assert got == (6.0, "aux")
        assert jacrev(lambda x: {"u": [x[0], x[1] * 2.0]})([1.0, 2.0]) == plain(
            jax.jacrev(lambda x: {"u": [x[0], x[1] * 2.0]})([1.0, 2.0])
        )
    finally:
        jax.config.update("jax_enable_x64", before)


def grad_first(gradient, f):
    return lambda x: gradient(f)(x)[0]


# -- arguments and results -------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "left right")


def total(nest):
    """The sum of the squares of a nest's leaves, the k-th (from 1) times k."""
    leaves, _ = autodiff._flatten(nest, "total")
    return mingrad.sum(x * x * float(k + 1) for k, x in enumerate(leaves))


NESTS = [
    (3.0, 6.0),
    ([1.0, 2.0], [2.0, 8.0]),
    ((1.0, 2.0), (2.0, 8.0)),
    ([1.0, [2.0, (3.0,)]], [2.0, [8.0, (18.0,)]]),
    ({"b": 1.0, "a": [2.0]}, {"b": 2.0, "a": [8.0]}),
    (Pair(1.0, {"x": 2.0}), Pair(2.0, {"x": 8.0})),
    ([Pair([1.0], ()), []], [Pair([2.0], ()), []]),
    (array.array("d", [1.0, 2.0]), [2.0, 8.0]),
    (memoryview(array.array("d", [1.0, 2.0])), [2.0, 8.0]),
    (VariableList([1.0, 2.0]), [2.0, 8.0]),
]


@pytest.mark.parametrize("nest, expected", NESTS, ids=[repr(nest)[:30] for nest, _ in NESTS])
def test_a_gradient_has_the_nest_of_the_argument(nest, expected):
    got = grad(total)(nest)
    assert got == expected and type(got) is type(expected)
    value, again = value_and_grad(total)(nest)
    assert again == expected and type(value) is float
    assert vjp(total, nest)[1](1.0) == (expected,)
    assert jacfwd(total)(nest) == expected and jacrev(total)(nest) == expected
    assert jvp(total, (nest,), (nest,)) == (value, 2.0 * value)
    assert hvp(total, (nest,), (nest,)) == expected  # of a quadratic form


def test_numpy_arrays_give_arrays_of_the_same_shape():
    np = pytest.importorskip("numpy", reason="NumPy is not installed")
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    f = lambda x: mingrad.sum(v**3 for row in x for v in row)
    got = grad(f)(x)
    assert isinstance(got, np.ndarray) and got.dtype == float and (got == 3 * x * x).all()
    second = hessian(f)(x)
    assert second.shape == (2, 3, 2, 3) and second[1, 2, 1, 2] == 36.0 and second.sum() == 126.0
    weights = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    jac = jacfwd(lambda v: weights @ v)(np.array([1.0, 2.0, 3.0]))
    assert isinstance(jac, np.ndarray) and (jac == weights).all()
    jac = jacrev(lambda v: {"y": weights @ v})(np.array([1.0, 2.0, 3.0]))["y"]
    assert isinstance(jac, np.ndarray) and (jac == weights).all()
    assert grad(lambda a: a * a)(np.float64(3.0)) == 6.0 == grad(lambda a: a * a)(np.array(3.0))
    carried = grad(lambda v: mingrad.sum(v * v))(np.array([Variable(1.0), Variable(2.0)]))
    assert carried.dtype == object and [v.data for v in carried] == [2.0, 4.0]
    assert (jvp(lambda v: v * v, (x[0],), (x[1],))[1] == 2 * x[0] * x[1]).all()


def test_jacobians_have_the_nest_of_the_result_then_that_of_the_argument():
    def f(p, scale):
        return Pair({"u": p["a"] * scale}, [p["b"][0], 7.0, p["a"] * p["b"][1]])

    p = {"a": 2.0, "b": (3.0, 5.0)}
    expected = Pair(
        {"u": {"a": 10.0, "b": (0.0, 0.0)}},
        [{"a": 0.0, "b": (1.0, 0.0)}, {"a": 0.0, "b": (0.0, 0.0)}, {"a": 5.0, "b": (0.0, 2.0)}],
    )
    for transform in (jacfwd, jacrev, jacobian):
        assert transform(f)(p, 10.0) == expected
        both = transform(f, (1, 0))(p, 10.0)
        assert both.left["u"] == (2.0, {"a": 10.0, "b": (0.0, 0.0)})
    second = hessian(lambda a, b: a[0] * a[0] * b, (0, 1))([3.0], 5.0)
    assert second == ([([10.0], 6.0)], ([6.0], 0.0))


@pytest.mark.parametrize("transform", [grad, jacfwd, jacrev, jacobian])
def test_argnums_choose_arguments_and_keywords_go_through(transform):
    f = lambda x, y, z=1.0, *, w=1.0: x * y * y * z * w
    assert transform(f)(2.0, 3.0) == 9.0
    assert transform(f, 1)(2.0, 3.0) == transform(f, -1)(2.0, 3.0) == 12.0
    assert transform(f, (1, 0))(2.0, 3.0, w=2.0) == (24.0, 18.0)
    assert transform(f, [0])(2.0, 3.0, z=5.0) == (45.0,)
    assert transform(f, argnums=2)(2.0, 3.0, 4.0) == 18.0


def test_arguments_that_are_not_chosen_may_be_anything():
    assert grad(lambda x, how: x * len(how))(2.0, "four") == 4.0


def test_has_aux_gives_what_the_function_has_to_say_besides():
    f = lambda x: (x * x, {"seen": 1})
    assert grad(f, has_aux=True)(3.0) == (6.0, {"seen": 1})
    assert value_and_grad(f, has_aux=True)(3.0) == ((9.0, {"seen": 1}), 6.0)
    for transform in (jacfwd, jacrev, jacobian):
        assert transform(f, has_aux=True)(3.0) == (6.0, {"seen": 1})
    assert hessian(f, has_aux=True)(3.0) == (2.0, {"seen": 1})
    assert hessian(f, has_aux=True, sparse=True)(3.0) == (([0], [0], [2.0]), {"seen": 1})
    assert jvp(f, (3.0,), (1.0,), has_aux=True) == (9.0, 6.0, {"seen": 1})
    out, pull, aux = vjp(f, 3.0, has_aux=True)
    assert (out, pull(1.0), aux) == (9.0, (6.0,), {"seen": 1})


def test_functions_that_are_constant_ignore_arguments_or_give_them_back():
    assert grad(lambda x: 5.0)(2.0) == 0.0 and hessian(lambda x: 5.0)([2.0]) == [[0.0]]
    assert value_and_grad(lambda x: 5)(2.0) == (5.0, 0.0)
    assert hvp(lambda x: 5.0, (2.0,), (1.0,)) == 0.0 and derivative(lambda x: 5.0, 4)(1.0) == 0.0
    assert hessian(lambda x: 5.0, sparse=True)([2.0]) == ([], [], [])
    assert hessian(lambda x: x[0] * 3.0)([2.0, 1.0]) == [[0.0, 0.0], [0.0, 0.0]]
    assert grad(lambda x, y: y * y, (0, 1))(2.0, 3.0) == (0.0, 6.0)
    same = lambda x: x
    assert grad(same)(2.0) == 1.0 and derivative(same, 2)(2.0) == 0.0
    assert jacfwd(same)([1.0, 2.0]) == jacrev(same)([1.0, 2.0]) == [[1.0, 0.0], [0.0, 1.0]]
    assert jvp(same, ([1.0, 2.0],), ([3.0, 4.0],)) == ([1.0, 2.0], [3.0, 4.0])
    out, pull = vjp(lambda x: [x, x, x * 2.0], 1.0)
    assert out == [1.0, 1.0, 2.0] and pull([1.0, 10.0, 100.0]) == (211.0,)
    assert jacrev(lambda x: [])([1.0]) == [] and jacfwd(lambda x: [1.0])([]) == [[]]
    assert grad(lambda x: 1.0)([]) == []


def test_a_result_list_that_is_changed_later_changes_no_derivative():
    kept = []

    def f(x):
        kept[:] = [x * 2.0, x * x]
        return kept

    _, pull = vjp(f, 3.0)
    kept.reverse()
    assert pull([1.0, 10.0]) == (62.0,)
    xs = [1.0, 2.0]
    grad(total)(xs)
    assert xs == [1.0, 2.0]


def test_tangents_of_a_dict_are_taken_by_key_not_by_place():
    f = lambda p: p["a"] * 1.0 + p["b"] * 10.0
    assert jvp(f, ({"a": 1.0, "b": 1.0},), ({"b": 1.0, "a": 0.0},))[1] == 10.0
    out, pull = vjp(lambda x: {"u": x, "v": x * 10.0}, 1.0)
    assert pull({"v": 1.0, "u": 0.0}) == (10.0,)


# -- Variables as arguments and in functions -------------------------------------------------------


def test_a_gradient_by_a_variable_carries_the_graph():
    x = Variable(3.0)
    g = grad(lambda v: v**3)(x)
    assert isinstance(g, Variable) and g.data == 27.0 and g.requires_grad
    assert x.grad == 0.0
    g.backward()
    assert x.grad == 18.0


def test_a_function_that_closes_over_a_variable_gives_variables():
    w = Variable(2.0)
    g = grad(lambda x: w * x * x)(3.0)
    assert isinstance(g, Variable) and g.data == 12.0 and w.grad == 0.0
    g.backward()
    assert w.grad == 6.0
    value, slope = jvp(lambda x: w * x, (3.0,), (1.0,))
    assert (value.data, slope.data) == (6.0, 2.0)
    for transform in (jacfwd, jacrev, jacobian):
        (row,) = transform(lambda x: [w * w * x])(3.0)
        w.zero_grad()
        row.backward()
        assert w.grad == 4.0
    w.zero_grad()
    hessian(lambda x: w * x * x)(1.0).backward()
    assert w.grad == 2.0


def test_a_loss_may_contain_a_derivative():
    """A gradient penalty, by its own formula: f = w x**2, loss = (f' - 1)**2 + f."""
    w = Variable(0.7)
    f = lambda x: w * x * x
    loss = (grad(f)(1.5) - 1.0) ** 2 + f(1.5)
    loss.backward()
    assert w.grad == pytest.approx(2 * (2 * 0.7 * 1.5 - 1) * 2 * 1.5 + 2.25, rel=1e-15)


def test_a_variable_as_argument_and_in_the_function_is_two_things():
    x = Variable(3.0)
    g = grad(lambda y: x * y)(x)
    assert g.data == 3.0
    g.backward()
    assert x.grad == 1.0
    assert jvp(lambda y: x * y * y, (x,), (1.0,))[1].data == 18.0
    first, second = grad(lambda a, b: a * a * b, (0, 1))(x, x)
    assert (first.data, second.data) == (18.0, 9.0)


def test_variables_that_ask_for_no_gradient_are_numbers():
    x = Variable(3.0, requires_grad=False)
    assert grad(lambda v: v * v)(x) == 6.0
    assert grad(lambda v: x * v)(2.0) == 3.0
    assert jvp(lambda v: v * v, (2.0,), (x,)) == (4.0, 12.0)


def test_directions_may_be_variables():
    v = Variable(2.0)
    out = jvp(lambda x: x * x, (3.0,), (v,))
    assert [y.data for y in out] == [9.0, 12.0]
    out[1].backward()
    assert v.grad == 6.0
    _, pull = vjp(lambda x: x * x, 3.0)
    pulled = pull(v)[0]
    assert isinstance(pulled, Variable) and pulled.data == 12.0
    assert type(pull(1.0)[0]) is float
    assert hvp(lambda x: x**3, (2.0,), (v,)).data == 24.0


def test_no_grad_outside_gives_numbers_and_derivatives_all_the_same():
    w, x = Variable(2.0), Variable(3.0)
    with mingrad.no_grad():
        assert grad(lambda v: w * v * v)(x) == 12.0
        assert grad(grad(lambda v: w * v**3))(x) == 36.0
        assert jvp(lambda v: w * v, (x,), (1.0,)) == (6.0, 2.0)
        assert hessian(lambda v: w * v * v)(3.0) == 4.0
        assert vjp(lambda v: w * v, 3.0)[1](Variable(1.0)) == (2.0,)
        assert not mingrad.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), mingrad.no_grad():
        grad(lambda v: v / 0.0)(1.0)
    assert mingrad.is_grad_enabled()


def test_models_are_functions_like_others():
    model = nn.MLP(2, [4, 1], activation="tanh")
    fill(model, 5)
    g = grad(lambda x: model(x))([0.5, -0.3])
    assert all(isinstance(v, Variable) for v in g)
    (g[0] * g[0] + g[1] * g[1]).backward()
    assert all(math.isfinite(p.grad) for p in model.parameters()) and model.parameters()[0].grad


def test_a_graph_whose_leaf_was_written_is_refused():
    w = Variable(2.0)
    _, pull = vjp(lambda x: w * x, 3.0)
    w.data = 5.0
    text = r"data of .* was written after this graph had used it; run the forward pass again before"
    with pytest.raises(RuntimeError, match=text):
        pull(1.0)

    def f(x):
        y = w * x
        w.data = 1.0
        return y

    for transform in TRANSFORMS:
        with pytest.raises(RuntimeError, match=text):
            transform(f)(3.0)
    assert grad(lambda x: w * x)(3.0).data == 1.0


def test_grads_of_everything_stay_as_they_were():
    w, x = Variable(2.0), Variable(3.0)
    (w * x).backward()
    seen = []

    def f(v):
        seen.append(w * v)
        return seen[-1] * v

    for transform in TRANSFORMS:
        transform(f)(x)
    assert (w.grad, x.grad) == (3.0, 2.0) and all(y.grad == 0.0 for y in seen)


# -- sparse Hessians -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_sparse_hessian_is_the_dense_one(seed):
    rng = random.Random(seed)
    n = rng.choice([1, 5, 20, 70])
    terms = [(rng.sample(range(n), min(n, rng.choice([1, 1, 2, 2, 3]))), rng.uniform(-1, 1)) for _ in range(2 * n)]

    def f(x):
        parts = []
        for places, scale in terms:
            y = mingrad.sin(x[places[0]] * scale)
            for k in places[1:]:
                y = y * x[k]
            parts.append(y)
        return mingrad.sum(parts)

    x = [rng.uniform(-1, 1) for _ in range(n)]
    rows, columns, values = hessian(f, sparse=True)(x)
    entries = dict(zip(zip(rows, columns), values))
    assert len(entries) == len(values)
    dense = hessian(f)(x)
    for i, j in itertools.product(range(n), repeat=2):
        # Other directions round otherwise: a sum over the terms that share both.
        assert entries.get((i, j), 0.0) == pytest.approx(dense[i][j], rel=1e-12, abs=1e-14)
    if n == 70:
        assert len(entries) < n * n / 2


def test_a_sparse_hessian_of_a_chain_has_three_diagonals():
    rows, columns, values = hessian(rosenbrock, sparse=True)([0.5] * 100)
    assert len(values) == 100 + 2 * 99
    assert all(abs(i - j) <= 1 for i, j in zip(rows, columns))
    assert rows == sorted(rows) and all(type(x) is float for x in values)


def test_a_sparse_hessian_carries_the_graph():
    w = Variable(3.0)
    *_, (value,) = hessian(lambda x: w * x[0] * x[0], sparse=True)([1.0, 2.0])
    value.backward()
    assert value.data == 6.0 and w.grad == 2.0


# -- errors ----------------------------------------------------------------------------------------

SQUARE = lambda x: x * x
ERRORS = [
    (
        lambda: grad(lambda x: [x, x])(1.0),
        TypeError,
        "grad: expected a function with one number as its result, got a list of 2; use jacrev or jacfwd for those",
    ),
    (
        lambda: hessian(lambda x: [x])(1.0),
        TypeError,
        "hessian: expected a function with one number as its result, got a list of 1; use jacrev or jacfwd for those",
    ),
    (
        lambda: hvp(lambda x: {"y": x}, (1.0,), (1.0,)),
        TypeError,
        "hvp: expected a function with one number as its result, got a dict of 1; use jacrev or jacfwd for those",
    ),
    (
        lambda: value_and_grad(lambda x: None)(1.0),
        TypeError,
        (
            "value_and_grad: the function's "
            "result: expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got "
            "NoneType"
        ),
    ),
    (
        lambda: grad(SQUARE)("a"),
        TypeError,
        "grad: expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got str",
    ),
    (
        lambda: jacrev(SQUARE)([1.0, None]),
        TypeError,
        "jacrev: expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got NoneType",
    ),
    (lambda: grad(3.0)(1.0), TypeError, "grad: expected a function, got float"),
    (
        lambda: grad(SQUARE, 1)(1.0),
        ValueError,
        "grad: argnums 1 is out of range: the function was called with 1 positional arguments",
    ),
    (
        lambda: jacfwd(SQUARE, (0, -2))(1.0),
        ValueError,
        "jacfwd: argnums -2 is out of range: the function was called with 1 positional arguments",
    ),
    (
        lambda: grad(SQUARE)(x=1.0),
        ValueError,
        "grad: argnums 0 is out of range: the function was called with 0 positional arguments",
    ),
    (lambda: grad(SQUARE, "x")(1.0), TypeError, "grad: expected argnums to be an int or a tuple of ints, got 'x'"),
    (lambda: grad(SQUARE, True)(1.0), TypeError, "grad: expected argnums to be an int or a tuple of ints, got True"),
    (lambda: grad(SQUARE, ())(1.0), ValueError, "grad: expected different arguments in argnums, at least one, got ()"),
    (
        lambda: grad(SQUARE, (0, -1))(1.0),
        ValueError,
        "grad: expected different arguments in argnums, at least one, got (0, -1)",
    ),
    (
        lambda: grad(SQUARE, has_aux=True)(1.0),
        TypeError,
        "grad: with has_aux the function must give a pair (output, aux), got Variable",
    ),
    (
        lambda: jvp(SQUARE, 1.0, (1.0,)),
        TypeError,
        "jvp: expected primals to be a list or tuple of the function's arguments, got float",
    ),
    (
        lambda: hvp(SQUARE, (1.0,), 1.0),
        TypeError,
        "hvp: expected tangents to be a list or tuple of the function's arguments, got float",
    ),
    (lambda: jvp(SQUARE, (1.0,), (1.0, 2.0)), ValueError, "jvp: expected as many tangents as primals, got 2 and 1"),
    (lambda: jvp(total, ([1.0],), ([1.0, 2.0],)), ValueError, "jvp: expected 1 items among the tangents, got 2"),
    (lambda: jvp(total, ([1.0],), (1.0,)), ValueError, "jvp: expected 1 items among the tangents, got float"),
    (lambda: jvp(total, (1.0,), ([1.0],)), ValueError, "jvp: expected a number among the tangents, got list"),
    (lambda: hvp(total, ([[1.0]],), ([1.0],)), ValueError, "hvp: expected 1 items among the tangents, got float"),
    (
        lambda: jvp(total, ({"a": 1.0},), ({"b": 1.0},)),
        ValueError,
        "jvp: expected a dict with keys ['a'] among the tangents, got keys ['b']",
    ),
    (
        lambda: jvp(total, ({"a": 1.0},), ([1.0],)),
        ValueError,
        "jvp: expected a dict with keys ['a'] among the tangents, got list",
    ),
    (
        lambda: jvp(SQUARE, ("a",), (1.0,)),
        TypeError,
        "jvp: expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got str",
    ),
    (lambda: vjp(SQUARE, 1.0)[1]([1.0]), ValueError, "vjp: expected a number among the adjoints, got list"),
    (lambda: vjp(lambda x: (x, x), 1.0)[1]((1.0,)), ValueError, "vjp: expected 2 items among the adjoints, got 1"),
    (
        lambda: hessian(lambda x, y: x * y, (0, 1), sparse=True)(1.0, 2.0),
        ValueError,
        "hessian: expected one argument with sparse=True, got several argnums",
    ),
    (lambda: derivative(SQUARE, -1), ValueError, "derivative: expected the order n to be 0 or more, got -1"),
    (lambda: derivative(SQUARE, 1.0), TypeError, "derivative: expected the order n to be an int, got 1.0"),
    (lambda: derivative(SQUARE, True), TypeError, "derivative: expected the order n to be an int, got True"),
    (lambda: derivative(SQUARE, 2)([1.0]), TypeError, None),
]


@pytest.mark.parametrize("call, kind, text", ERRORS, ids=[str(text)[:60] for *_, text in ERRORS])
def test_an_error_says_what_was_expected_and_leaves_nothing(call, kind, text):
    gc.collect()
    mingrad.collect()
    before = mingrad.tape_info()
    with pytest.raises(kind) as caught:
        call()
    assert text is None or str(caught.value) == text
    del caught
    gc.collect()
    mingrad.collect()
    after = mingrad.tape_info()
    assert (after.live, after.handles) == (before.live, before.handles)


def test_an_error_in_the_function_comes_through():
    for transform in TRANSFORMS:
        with pytest.raises(ZeroDivisionError):
            transform(lambda x: x / 0.0)(1.0)


def test_derivative_of_order_0_is_the_function():
    assert derivative(SQUARE, 0) is SQUARE


# -- memory ----------------------------------------------------------------------------------------


def everything():
    """Every transform once, at functions with every shape of row; results as text."""
    w = Variable(0.5)
    layer = nn.Linear(3, 2)
    with mingrad.no_grad():
        for k, p in enumerate(layer.parameters()):
            p.data = math.cos(k)

    def f(x):
        h = layer(x)
        y = mingrad.softmax([*h, x[0] * x[2]])
        return mingrad.dot(y, x) + mingrad.prod(x) * mingrad.norm(x) + w * mingrad.tanh(x[1])

    x = [0.3, -0.7, 1.1]
    found = [
        grad(f)(x),
        jacfwd(f)(x),
        hessian(f)(x),
        hvp(f, (x,), (x,)),
        hessian(rosenbrock)(x),
        hessian(rosenbrock, sparse=True)(x),
        derivative(mingrad.gelu, 4)(0.3),
        jacrev(lambda x: [f(x), x[0]])(x),
        jvp(grad(f), (x,), (x,)),
        vjp(f, x)[1](w),
    ]
    loss = mingrad.sum(v * v for v in found[0])
    loss.backward()
    return repr(found), w.grad, [p.grad for p in layer.parameters()]


@pytest.fixture(scope="module")
def undisturbed():
    everything()  # the op table's formulas are parsed once
    return everything()


@pytest.mark.parametrize("young", [1, 2, 7, 64])
def test_collections_at_any_time_change_nothing(young, undisturbed):
    before = _core._stress(young, 1)
    try:
        assert everything() == undisturbed
    finally:
        _core._stress(*before)


def test_nothing_is_left_on_the_tape(undisturbed):
    gc.collect()
    mingrad.collect()
    before = mingrad.tape_info()
    everything()
    gc.collect()
    mingrad.collect()
    after = mingrad.tape_info()
    assert (after.live, after.handles) == (before.live, before.handles)


def small_steps():
    """As everything(), but shorter, for a failure at each allocation."""
    w = Variable(0.5)
    f = lambda x: w * mingrad.tanh(x[0]) * x[1] + mingrad.prod(x) + mingrad.logsumexp(x)
    g = lambda x: f(x) - w * x[0]
    x = [0.3, -0.7]
    found = [
        hessian(f)(x),
        hessian(rosenbrock)(x),
        jvp(rosenbrock, (x,), (x,)),
        hessian(rosenbrock, sparse=True)(x),
        grad(g)(x),
        derivative(mingrad.sin, 3)(0.3),
    ]
    return repr(found)


@pytest.mark.parametrize("young", [1, None], ids=["young-1", "young-default"])
def test_when_any_allocation_fails_nothing_has_changed(young):
    before = _core._stress(young, 1) if young else None
    failures = 0
    try:
        expected = small_steps()
        gc.collect()
        gc.freeze()  # what other tests hold need not be looked at a thousand times
        for n in range(100_000):
            gc.collect()
            mingrad.collect()
            info = mingrad.tape_info()
            ballast = [Variable(0.0) for _ in range(info.capacity - info.nodes)] if young else []
            held = mingrad.tape_info()
            _core._fail_allocation(n)
            try:
                result = small_steps()
            except MemoryError:
                result = None
            triggered = _core._fail_allocation(-1)
            if result is None:
                assert triggered
                failures += 1
                gc.collect()
                mingrad.collect()
                info = mingrad.tape_info()
                assert (info.live, info.handles) == (held.live, held.handles), n
                result = small_steps()
            assert result == expected, n
            del ballast
            if not triggered:
                break
        else:
            pytest.fail("the steps never got through")
    finally:
        gc.unfreeze()
        if young:
            _core._stress(*before)
    assert failures > (100 if young else 0)


def test_recording_more_nodes_than_the_tape_has_room_for_makes_room():
    x = Variable(1.0)
    y = x
    for _ in range(20_000):
        y = y * 1.0001 + x * 0.0001
    recorded = mingrad.tape_info().recorded
    (g,) = _core._adjoints([y], [1.0], [x])
    ((t,),) = _core._tangent_values([y], [x], [[1.0]])
    assert number(g) == pytest.approx(t, rel=1e-10)
    assert mingrad.tape_info().recorded >= recorded


# -- second derivatives as numbers -----------------------------------------------------------------
#
# One walk up for tangents, one down for adjoints and their tangents: what hessian and hvp give
# where nothing is to be recorded. The oracles: mpmath, and the recorded gradient's own tangents.


def both_ways(root, xs, directions=None):
    """Second derivatives times directions: as numbers in one go, and by recorded adjoints."""
    gradient = _core._adjoints([root], [1.0], xs)
    return (_core._second_values(root, xs, directions), _core._tangent_values(gradient, xs, directions))


def assert_both_ways(root, xs, what="", directions=None, ulps=16):
    """They do the same arithmetic in another order: some roundings of the largest entry."""
    got, expected = both_ways(root, xs, directions)
    scale = max((abs(x) for row in expected for x in row), default=1.0)
    for row, wanted in zip(got, expected):
        assert len(row) == len(wanted) == len(xs)
        for x, y in zip(row, wanted):
            assert abs(x - y) <= ulps * math.ulp(max(scale, 1.0)), f"{what}: {got}, {expected}"
    return got


def assert_seconds(y, xs, exact, points, mpmath, what):
    """All second derivatives of y, and of a function of y, by both ways and by mpmath."""
    curved = lambda *s: (lambda z: z * z / 2 + z)(exact(*s))
    for root, of in ((y, exact), (y * y * 0.5 + y, curved)):
        found = assert_both_ways(root, xs, what)
        for j, k in itertools.product(range(len(xs)), repeat=2):
            counts = tuple((j, k).count(i) for i in range(len(points)))
            expected = float(mpmath.diff(of, tuple(map(mpmath.mpf, points)), counts))
            assert_derivative(found[j][k], expected, f"{what}, by {j}, {k}")


@pytest.mark.parametrize("op", UNARY)
def test_second_derivatives_of_a_unary_op_as_numbers(op, mpmath, maker):
    for x in POINTS.get(op, (-1.3, 0.4, 2.2)):
        v = Variable(x)
        assert_seconds(spell(op)(v), [v], maker.UNARY[op][0], [x], mpmath, f"{op} at {x}")


@pytest.mark.parametrize("op", BINARY)
def test_second_derivatives_of_a_binary_op_as_numbers(op, mpmath, maker):
    function, exact = spell(op), maker.BINARY[op][0]
    for a, b in PAIRS.get(op, ((1.3, 0.7), (-0.6, 2.3), (0.8, -1.7))):
        x, y = Variable(a), Variable(b)
        what = f"{op} at {a}, {b}"
        number = mpmath.mpf(b)
        assert_seconds(function(x, b), [x], lambda s: exact(s, number), [a], mpmath, what)
        if op in PARAMETERS:
            continue
        number_a = mpmath.mpf(a)
        assert_seconds(function(a, y), [y], lambda s: exact(number_a, s), [b], mpmath, what)
        if op == "mod":  # it crashes; see below
            continue
        assert_seconds(function(x, y), [x, y], exact, [a, b], mpmath, what)
        square = lambda s: exact(s, s * s)
        if op != "_bce":
            z = Variable(0.8)
            assert_seconds(function(z, z * z), [z], square, [0.8], mpmath, what + ", one twice")
        constant = Variable(b, requires_grad=False)
        assert_seconds(function(x, constant), [x], lambda s: exact(s, number), [a], mpmath, what)


def test_second_derivatives_of_mod_by_both_operands():
    assert run_python("""
        import mingrad
        print(mingrad.hessian(lambda x: x[0] % x[1])([5.0, 2.0]))
        print(mingrad.hessian(lambda x: (x[0] % x[1]) ** 2)([5.0, 3.0]))
    """).split("\n")[:2] == ["[[0.0, 0.0], [0.0, 0.0]]", "[[2.0, -2.0], [-2.0, 2.0]]"]


@pytest.mark.parametrize("op", NARY_OPS)
@pytest.mark.parametrize("places", [(0, 1, 2), (1, 2, 0), (2, 0, 1)], ids=repr)
def test_second_derivatives_of_an_nary_op_as_numbers(op, places, mpmath):
    function, exact = exact_nary(mpmath)[op]
    points = [0.7, -1.2, 0.4]
    xs = [Variable(x) for x in points]
    xs, points = [xs[k] for k in places], [points[k] for k in places]
    assert_seconds(function(xs), xs, lambda *at: exact(list(at)), points, mpmath, op)
    v = Variable(0.7)  # one of it several times, and constants
    assert_seconds(function([v, v * 0.5, v * v]), [v], lambda s: exact([s, s / 2, s * s]), [0.7], mpmath, op)
    with_number = lambda s: exact([s, mpmath.mpf("0.25"), s * s])
    assert_seconds(function([v, 0.25, v * v]), [v], with_number, [0.7], mpmath, op)


def test_second_derivatives_of_prod_with_zeros_as_numbers():
    for points, expected in (
        ([0.0, 3.0, 5.0], [[0.0, 5.0, 3.0], [5.0, 0.0, 0.0], [3.0, 0.0, 0.0]]),
        ([0.0, 3.0, 0.0], [[0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]),
        ([0.0, 0.0, 0.0], [[0.0] * 3] * 3),
    ):
        assert hessian(mingrad.prod)(points) == expected
        xs = [Variable(x) for x in points]
        assert both_ways(mingrad.prod(xs), xs) == (expected, expected)


@pytest.mark.parametrize("index", range(3))
def test_second_derivatives_of_cross_entropy_by_logits_for_each_class(index, mpmath):
    def exact(*xs):
        return mpmath.log(mpmath.fsum(map(mpmath.exp, xs))) - xs[index]

    for points in ([0.7, -1.2, 0.4], [30.0, -30.0, 0.0]):
        xs = [Variable(x) for x in points]
        assert_seconds(nn.cross_entropy(xs, index), xs, exact, points, mpmath, f"class {index}")


@pytest.mark.parametrize("seed", range(30))
def test_second_derivatives_of_random_graphs_as_numbers(seed):
    """The scale is that of all second derivatives of the graph: terms cancel."""
    names = [EXACT, EXACT + LIBM, EXACT + LIBM + OTHER + NARY][seed % 3]
    root, leaves, *_ = random_things(seed, [name for name in names if name != "%"])
    got, expected = both_ways(root, leaves)
    scale = max(1.0, *(abs(x) for row in expected for x in row))
    for row, wanted in zip(got, expected):
        for x, y in zip(row, wanted):
            assert abs(x - y) <= 1e-11 * scale or not math.isfinite(y)
    direction = [math.sin(k) for k in range(len(leaves))]
    (product,) = _core._second_values(root, leaves, [direction])
    for k, x in enumerate(product):
        assert x == pytest.approx(sum(got[k][j] * d for j, d in enumerate(direction)), rel=1e-9, abs=1e-11 * scale)


def dense_models():
    with_bias = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    without = nn.Sequential(nn.Linear(3, 4, bias=False), nn.SiLU(), nn.Linear(4, 2, bias=False))
    mixed = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2, bias=False), nn.Softmax())
    return {
        "mlp": nn.MLP(3, [4, 2], activation="tanh"),
        "with bias": with_bias,
        "without bias": without,
        "norm and softmax": mixed,
    }


@pytest.mark.parametrize("name", dense_models())
@pytest.mark.parametrize("batch", [False, True], ids=["one sample", "four samples"])
def test_second_derivatives_through_dense_layers_as_numbers(name, batch):
    """By inputs and weights together; then with frozen weights by inputs alone."""
    model = dense_models()[name]
    fill(model, 7)
    rows = [[Variable(math.sin(3 * k + j)) for j in range(3)] for k in range(4 if batch else 1)]

    def loss():
        outputs = model(rows) if batch else [model(rows[0])]
        return mingrad.sum((y - 0.3) ** 2 * (k + 1.0) for row in outputs for k, y in enumerate(row))

    inputs = [x for row in rows for x in row]
    parameters = list(model.parameters())
    assert _core._second_values(loss(), inputs) is None  # weights are no inputs: gradients by them
    assert_both_ways(loss(), inputs + parameters, name, ulps=64)
    assert_both_ways(loss(), parameters[::2] + inputs + parameters[1::2], name, ulps=64)
    full = _core._second_values(loss(), inputs + parameters)
    for p in parameters:
        p.requires_grad = False
    frozen = assert_both_ways(loss(), inputs, name, ulps=64)
    n = len(inputs)
    for row, wanted in zip(frozen, full):
        assert row == pytest.approx(wanted[:n], rel=1e-12, abs=1e-13)


# f, point: finite operands, where a derivative on the way, or the result, is not; and operands that
# are not finite themselves.
EDGES = {
    "sqrt at 0": (lambda x: mingrad.sqrt(x[0]), [0.0]),
    "asin at 1": (lambda x: mingrad.asin(x[0]), [1.0]),
    "acosh at 1": (lambda x: mingrad.acosh(x[0]), [1.0]),
    "log at 0": (lambda x: mingrad.log(x[0]), [0.0]),
    "lgamma at 0": (lambda x: mingrad.lgamma(x[0]), [0.0]),
    "1 / 0": (lambda x: x[0] / x[1], [1.0, 0.0]),
    "a branch not taken": (lambda x: mingrad.maximum(x[0] ** 1.5, x[1]), [0.0, 3.0]),
    "a branch not taken, of a list": (lambda x: mingrad.max([x[0] ** 1.5, x[1]]), [0.0, 3.0]),
    "relu off": (lambda x: mingrad.relu(x[0] ** 1.5 - 1.0), [0.0]),
    "clamped": (lambda x: mingrad.clamp(x[0] ** 1.5, max=-1.0), [0.0]),
    "floor": (lambda x: mingrad.floor(x[0] ** 1.5), [0.0]),
    "hinge met": (lambda x: nn.hinge_loss(x[0] ** 1.5 + 2.0, 1.0), [0.0]),
    "no slope of leaky relu": (lambda x: mingrad.leaky_relu(-(x[0] ** 1.5), 0.0), [0.0]),
    "times 0": (lambda x: x[0] ** 1.5 * 0.0, [0.0]),
    "inf squared": (lambda x: x[0] * x[0], [math.inf]),
    "times inf": (lambda x: x[0] * x[0] * math.inf, [1.0]),
    "dot with inf": (lambda x: mingrad.dot(x, x), [0.0, math.inf, 3.0]),
    "prod with inf": (lambda x: mingrad.prod(x), [0.0, math.inf, 3.0]),
}
SAME_EDGES = {
    "x**1.5 at 0": (lambda x: x[0] ** 1.5, [0.0]),
    "x**2 at 0": (lambda x: x[0] ** 2, [0.0]),
    "x**1 at 0": (lambda x: x[0] ** 1, [0.0]),
    "x**0 at 0": (lambda x: x[0] ** 0, [0.0]),
    "x**y at 0": (lambda x: x[0] ** x[1], [0.0, 2.0]),
    "x**y at 0, a root": (lambda x: x[0] ** x[1], [0.0, 0.5]),
    "x**y below 0": (lambda x: x[0] ** x[1], [-2.0, 2.0]),
    "norm at 0": (mingrad.norm, [0.0, 0.0]),
    "hypot at 0": (lambda x: mingrad.hypot(x[0], x[1]), [0.0, 0.0]),
    "atan2 at 0": (lambda x: mingrad.atan2(x[0], x[1]), [0.0, 0.0]),
    "abs at 0": (lambda x: abs(x[0]) * x[1], [0.0, 2.0]),
    "cbrt at 0": (lambda x: mingrad.cbrt(x[0]), [0.0]),
    "digamma at -1": (lambda x: mingrad.digamma(x[0]), [-1.0]),
    "nan": (lambda x: mingrad.sin(x[0]) * x[1], [math.nan, 1.0]),
    "maximum of nan": (lambda x: mingrad.maximum(x[0], x[1]), [math.nan, 1.0]),
    "max of inf": (mingrad.max, [math.inf, 1.0]),
    "logsumexp of inf": (mingrad.logsumexp, [math.inf, 1.0]),
    "logsumexp of -inf": (mingrad.logsumexp, [-math.inf, 1.0]),
    "logsumexp of -inf alone": (mingrad.logsumexp, [-math.inf, -math.inf]),
    "softmax of -inf": (lambda x: mingrad.softmax(x)[0], [-math.inf, 1.0, 0.5]),
    "softmax of inf": (lambda x: mingrad.softmax(x)[0], [math.inf, 1.0, 0.5]),
    "cross_entropy of -inf": (lambda x: nn.cross_entropy(x, 0), [-math.inf, 1.0, 0.5]),
    "cross_entropy beside -inf": (lambda x: nn.cross_entropy(x, 1), [-math.inf, 1.0, 0.5]),
    "cross_entropy beside inf": (lambda x: nn.cross_entropy(x, 1), [math.inf, 1.0, 0.5]),
    "cross_entropy far out": (lambda x: nn.cross_entropy(x, 1), [800.0, 1.0, 0.5]),
    "an overflow": (lambda x: mingrad.exp(x[0]) * mingrad.exp(x[0]), [700.0]),
    "saturated": (lambda x: mingrad.sigmoid(x[0]) * mingrad.tanh(x[0]), [800.0]),
    "saturated below": (lambda x: mingrad.sigmoid(x[0]) * mingrad.tanh(x[0]), [-800.0]),
    "gelu far out": (lambda x: mingrad.gelu(x[0]), [-40.0]),
    "gelu of -inf": (lambda x: mingrad.gelu(x[0]), [-math.inf]),
    "elu of -inf": (lambda x: mingrad.elu(x[0]), [-math.inf]),
    "nothing of infinity": (lambda x: mingrad.sqrt(x[0]) * 0.0, [0.0]),
    "floor of a root": (lambda x: mingrad.floor(mingrad.sqrt(x[0])), [0.0]),
    "a zero times a curve": (lambda x: (x[0] - x[0]) * x[0] ** 1.5, [0.0]),
    "loss at 0": (lambda x: nn.binary_cross_entropy(x[0], 0.0), [0.0]),
    "loss at 1": (lambda x: nn.binary_cross_entropy(x[0], 1.0), [0.0]),
    "atan far out": (lambda x: mingrad.atan(x[0]), [1e200]),
    "square far out": (lambda x: mingrad.square(x[0]), [1e200]),
}


@pytest.mark.parametrize("name", [*EDGES, *SAME_EDGES])
def test_second_derivatives_at_the_edge_are_the_same_in_both_ways(name):
    f, points = (EDGES | SAME_EDGES)[name]
    with mingrad.errstate(all="ignore"):
        xs = [Variable(x) for x in points]
        got, expected = both_ways(f(xs), xs)
    for row, wanted in zip(got, expected):
        for x, y in zip(row, wanted):
            assert x == pytest.approx(y, rel=1e-14, nan_ok=True), (got, expected)


def test_the_hessian_of_a_root_at_zero_is_infinite():
    assert derivative(mingrad.sqrt, 2)(0.0) == -math.inf
    assert hessian(mingrad.sqrt)(0.0) == -math.inf


@pytest.mark.parametrize("n", range(1, 21))
def test_directions_are_swept_in_blocks_of_any_size(n):
    xs = [Variable(math.sin(k + 1.0)) for k in range(n)]
    y = mingrad.sum(mingrad.sin(a * b) for a, b in zip(xs, xs[1:] + xs[:1])) + mingrad.prod(xs)
    full = assert_both_ways(y, xs)
    for k in range(n):
        one = [float(j == k) for j in range(n)]
        assert _core._second_values(y, xs, [one]) == [full[k]]
    directions = [[math.cos(j * k) for j in range(n)] for k in range(n)]
    together = _core._second_values(y, xs, directions)
    assert together == [_core._second_values(y, xs, [one])[0] for one in directions]
    assert _core._tangent_values([y], xs, directions) == [_core._tangent_values([y], xs, [one])[0] for one in directions]


def test_directions_of_a_large_graph_are_swept_a_few_at_a_time():
    """64 MB hold six or seven directions of 600,000 nodes."""
    xs = [Variable(0.1 * k + 0.1) for k in range(8)]
    y = xs[0]
    for k in range(300_000):
        y = y * 0.999 + xs[k % 8] * xs[(k + 1) % 8]
    full = _core._second_values(y, xs)
    for k in (0, 5, 7):
        assert _core._second_values(y, xs, [[float(j == k) for j in range(8)]]) == [full[k]]
    assert full[0][1] == pytest.approx(full[1][0], rel=1e-13)


def test_inputs_may_be_nodes_in_between_and_the_root_a_number_or_an_input():
    x, y = Variable(2.0), Variable(3.0)
    a = x * y
    root = a * a * x
    assert _core._second_values(root, [a, x]) == [[4.0, 12.0], [12.0, 0.0]]
    assert _core._second_values(root, [x]) is None and _core._second_pattern(root, [x], 100) is None
    assert _core._second_values(root, [root, x, y]) == [[0.0] * 3] * 3
    assert _core._second_values(x, [x, y]) == [[0.0, 0.0], [0.0, 0.0]]
    assert _core._second_values(5.0, [x, y]) == [[0.0, 0.0], [0.0, 0.0]]
    assert _core._second_values(5.0, []) == [] and _core._second_values(x, [], []) is None
    assert _core._second_values(root, [x, y], []) == []
    late = Variable(1.0)
    assert _core._second_values(root, [x, y, late])[2] == [0.0, 0.0, 0.0]
    assert _core._second_pattern(5.0, [x, y], 100) == [[], []]
    assert _core._second_pattern(root, [a, x], 100) == [[0, 1], [0]]


NO_NUMBER = "{}: expected a real number (int, float, NumPy scalar), got {}; {}"
SEEDED = {
    "_second_values": lambda y, xs, seeds: _core._second_values(y, xs, [[1.0, 0.0], seeds]),
    "_tangent_values": lambda y, xs, seeds: _core._tangent_values([y], xs, [[1.0, 0.0], seeds]),
    "_tangents": lambda y, xs, seeds: _core._tangents([y], xs, seeds),
    "_adjoint_values": lambda y, xs, seeds: _core._adjoint_values([y, y], seeds, xs),
    "_adjoints": lambda y, xs, seeds: _core._adjoints([y, y], seeds, xs),
}


@pytest.mark.parametrize("walk", SEEDED)
def test_seeds_that_are_no_numbers_are_refused_before_the_walk(walk):
    x, y = Variable(2.0), Variable(3.0)
    root, xs = x * y, [x, y]
    name = "adjoints" if "adjoint" in walk else "tangents"
    convert = "convert it to a float first"
    listed = "work element by element, or use mingrad.sum, mingrad.dot and the like"
    for seeds, got, cure in (([1.0, "2"], "str", convert), ([None, 1.0], "NoneType", convert), ([[1.0], 1.0], "list", listed)):
        text = NO_NUMBER.format(name, got, cure)
        refuses(lambda: SEEDED[walk](root, xs, seeds), TypeError, text, xs)
    for seeds in ([], [1.0], [1.0] * 3):
        text = f"{name}: expected 2 seeds, got {len(seeds)}"
        refuses(lambda: SEEDED[walk](root, xs, seeds), ValueError, text, xs)
    for seeds in ((1.0, 0.0), "10", 1.0, None):
        with no_trace(xs), pytest.raises(TypeError):
            SEEDED[walk](root, xs, seeds)
    assert SEEDED[walk](root, xs, [True, 0]) is not None


def test_seeds_that_are_variables_are_for_recorded_walks():
    x = Variable(2.0)
    y = x * x * x
    for call in (
        lambda: _core._second_values(y, [x], [[Variable(1.0)]]),
        lambda: _core._tangent_values([y], [x], [[Variable(1.0)]]),
        lambda: _core._adjoint_values([y], [Variable(1.0)], [x]),
    ):
        with no_trace([x]), pytest.raises(TypeError, match=r"float.. would leave the graph"):
            call()
    assert _core._second_values(y, [x]) == [[12.0]]  # and the next walk finds all clean


def test_walks_refuse_what_is_no_variable():
    x = Variable(2.0)
    y = x * x
    for call in (
        lambda: _core._second_values("y", [x]),
        lambda: _core._second_values(y, [2.0]),
        lambda: _core._second_pattern(None, [x], 9),
        lambda: _core._second_pattern(y, [None], 9),
        lambda: _core._dependence([[]], [x]),
        lambda: _core._dependence([y], ["x"]),
    ):
        with no_trace([x]), pytest.raises(TypeError, match="expected Variables, got "):
            call()
    for call in (
        lambda: _core._second_values(y, (x,)),
        lambda: _core._second_values(y, None),
        lambda: _core._second_pattern(y, None, 9),
        lambda: _core._groups(None),
        lambda: _core._kinds(None),
        lambda: _core._kinds((1.0,)),
    ):
        with pytest.raises(TypeError):
            call()


def test_a_written_leaf_makes_second_derivatives_stale():
    x = Variable(2.0)
    y = x * x
    x.data = 3.0
    for call in (lambda: _core._second_values(y, [x]), lambda: _core._second_pattern(y, [x], 99)):
        with pytest.raises(
            RuntimeError, match="was written after this graph had used it; run the forward pass again before taking derivatives"
        ):
            call()


def test_second_derivatives_of_a_deep_chain():
    x = Variable(0.7)
    y = x
    for _ in range(100_000):
        y = mingrad.sin(y)
    got, expected = both_ways(y, [x])
    assert got[0][0] == pytest.approx(expected[0][0], rel=1e-9)


# -- which second derivatives can differ from 0 ----------------------------------------------------


def nonzero(rows):
    return {(j, k) for j, row in enumerate(rows) for k, x in enumerate(row) if x != 0.0}


def places(pattern):
    return {(j, k) for j, row in enumerate(pattern) for k in row}


def depending(root, xs):
    """The places of the inputs that entries of the recorded gradient depend on, and the reverse."""
    found = places(_core._dependence(_core._adjoints([root], [1.0], xs), xs))
    return found | {(k, j) for j, k in found}


@pytest.mark.parametrize("flat", [False, True], ids=["smooth", "with flat pieces"])
@pytest.mark.parametrize("seed", range(20))
def test_the_pattern_holds_what_is_not_zero_and_no_more_than_the_gradient_depends_on(seed, flat):
    names = [EXACT, EXACT + LIBM, EXACT + LIBM + OTHER + NARY][seed % 3]
    steps = {"%"} if flat else {"%", "maximum", "minimum", *FLAT}
    root, leaves, *_ = random_things(seed, [name for name in names if name not in steps])
    pattern = _core._second_pattern(root, leaves, 1 << 60)
    assert all(row == sorted(set(row)) for row in pattern)
    found = places(pattern)
    assert found == {(k, j) for j, k in found}
    assert nonzero(_core._second_values(root, leaves)) <= found
    if not flat:
        assert found <= depending(root, leaves)


@pytest.mark.parametrize(
    "f",
    [lambda x: mingrad.relu(x[0] * x[1] - 5.0), mingrad.floor, lambda x: mingrad.maximum(x[0] * x[1], 5.0) + x[1]],
    ids=["relu off", "floor", "a branch not taken"],
)
def test_the_pattern_leaves_out_what_no_adjoint_reaches(f):
    xs = [Variable(0.5), Variable(0.25)]
    y = f(xs) if f is not mingrad.floor else f(xs[0] * xs[1])
    assert places(_core._second_pattern(y, xs, 1 << 60)) <= depending(y, xs) == set()


PATTERNS = {
    "a sum": (lambda x: x[0] + x[1] * 2.0 - x[2], set()),
    "squares": (lambda x: x[0] ** 2 + x[1] * x[1] + mingrad.square(x[2]), {(0, 0), (1, 1), (2, 2)}),
    "a product": (lambda x: x[0] * x[1] + x[2], {(0, 1), (1, 0)}),
    "a quotient": (lambda x: x[0] / x[1], {(0, 1), (1, 0), (1, 1)}),
    "a number over it": (lambda x: 2.0 / x[1], {(1, 1)}),
    "a dot": (lambda x: mingrad.dot(x[:2], x[1:]), {(0, 1), (1, 0), (1, 2), (2, 1)}),
    "a function of a sum": (lambda x: mingrad.sin(x[0] + x[2]), {(0, 0), (0, 2), (2, 0), (2, 2)}),
    "relu": (lambda x: mingrad.relu(x[0]) * x[1], {(0, 1), (1, 0)}),
    "max": (lambda x: mingrad.max(x), set()),
    "a branch not taken": (lambda x: mingrad.maximum(x[0] * x[0], -5.0 + x[1]), {(0, 0)}),
    "a norm": (mingrad.norm, {(j, k) for j in range(3) for k in range(3)}),
    "mean square": (lambda x: mingrad.mean([v * v for v in x[:2]]), {(0, 0), (1, 1)}),
    "a loss": (lambda x: nn.mse_loss(x[:2], x[1:], "sum"), {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)}),
    "prod": (mingrad.prod, {(j, k) for j in range(3) for k in range(3)}),  # the diagonal with it
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_pattern_of(name):
    f, expected = PATTERNS[name]
    xs = [Variable(x) for x in (0.7, -1.2, 0.4)]
    y = f(xs)
    found = places(_core._second_pattern(y, xs, 1 << 60))
    assert nonzero(_core._second_values(y, xs)) <= found == expected
    rows, columns, values = hessian(f, sparse=True)([0.7, -1.2, 0.4])
    assert set(zip(rows, columns)) == expected
    dense = hessian(f)([0.7, -1.2, 0.4])
    assert all(dense[j][k] == pytest.approx(v, rel=1e-14) for j, k, v in zip(rows, columns, values))


@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_sets_of_inputs_of_any_width(n):
    xs = [Variable(math.sin(k)) for k in range(n)]
    y = mingrad.sum(xs[k] * xs[(7 * k + 1) % n] for k in range(n)) + mingrad.sin(xs[0] + xs[-1])
    found = places(_core._second_pattern(y, xs, 1 << 60))
    expected = {(j, k) for k in range(n) for j, k in ((k, (7 * k + 1) % n), ((7 * k + 1) % n, k))}
    assert found == expected | {(j, k) for j in (0, n - 1) for k in (0, n - 1)}
    assert _core._dependence([y, xs[0], 2.0], xs) == [list(range(n)), [0], []]


def test_a_budget_that_is_too_small_gives_no_pattern_and_any_larger_one_the_same():
    xs = [Variable(0.5) for _ in range(40)]
    y = rosenbrock(xs)
    full = _core._second_pattern(y, xs, 1 << 60)
    assert full == [[k for k in (j - 1, j, j + 1) if 0 <= k < 40] for j in range(40)]
    found = [_core._second_pattern(y, xs, budget) for budget in range(-1, 3000)]
    enough = found.index(full)
    assert enough > 100
    assert found[:enough] == [None] * enough and found[enough:] == [full] * len(found[enough:])
    assert _core._second_pattern(y, xs, -(1 << 62)) is None


def random_pattern(rng, n, links):
    """A symmetric one, with empty columns."""
    rows = [set() for _ in range(n)]
    for _ in range(links):
        j, k = rng.randrange(n), rng.randrange(n)
        rows[j].add(k)
        rows[k].add(j)
    return [sorted(row) for row in rows]


@pytest.mark.parametrize("seed", range(20))
def test_columns_of_one_group_have_no_row_in_common(seed):
    rng = random.Random(seed)
    n = rng.choice([1, 2, 17, 64, 65, 150])
    pattern = random_pattern(rng, n, rng.choice([0, 1, n, 4 * n]))
    place, groups = _core._groups(pattern)
    assert [g == -1 for g in place] == [not row for row in pattern]
    assert {g for g in place if g >= 0} == set(range(groups))
    for g in range(groups):
        rows = [k for column in range(n) if place[column] == g for k in pattern[column]]
        assert len(rows) == len(set(rows))
    assert groups >= max(map(len, pattern))


def test_groups_of_plain_patterns():
    assert _core._groups([]) == ([], 0) and _core._groups([[]]) == ([-1], 0)
    assert _core._groups([[k] for k in range(100)]) == ([0] * 100, 1)
    place, groups = _core._groups([list(range(40))] * 40)
    assert groups == 40 and sorted(place) == list(range(40))
    assert _core._groups([[j for j in (k - 1, k, k + 1) if 0 <= j < 99] for k in range(99)])[1] <= 5
    with pytest.raises(ValueError, match="expected places below 2, got 2"):
        _core._groups([[0, 2], [0]])
    for wrong in ([[-1]], [["a"]], [(0,)], [None]):
        with pytest.raises((TypeError, OverflowError)):
            _core._groups(wrong)


def test_the_kinds_in_a_list():
    class Sub(float):
        pass

    class Own(Variable):
        pass

    x = Variable(1.0)
    for items, kinds in (
        ([], 0),
        ([1.0, -0.0], 1),
        ([1], 2),
        ([True], 2),
        ([x], 4),
        ([None], 8),
        ([Sub(1.0)], 8),
        ([Own(1.0)], 8),
        ([[1.0]], 8),
        ([1.0, 2, x, "a"], 15),
        ([x, 1.0], 5),
        ([10**400], 2),
    ):
        assert _core._kinds(items) == kinds, items
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    assert _core._kinds([numpy.float64(1.0)]) == 8


# -- Hessians of many inputs: columns that share a sweep -------------------------------------------


def banded(x):
    return mingrad.sum(mingrad.sin(x[k] * x[k + 1] * x[k + 2]) for k in range(len(x) - 2))


def arrow(x):
    """The first input meets all others."""
    return mingrad.sum(mingrad.exp(x[0] * v * 0.1) for v in x[1:])


def blocks(x):
    return mingrad.sum(mingrad.prod(x[k : k + 4]) + mingrad.norm(x[k : k + 4]) for k in range(0, len(x) - 3, 4))


def some(x):
    """Only three inputs matter."""
    return x[5] * x[17] ** 3 + mingrad.sin(x[30])


def linear(x):
    return mingrad.dot(x, [float(k) for k in range(len(x))])


def full(x):
    return mingrad.tanh(mingrad.sum(x)) * x[0]


@pytest.mark.parametrize("f", [banded, arrow, blocks, some, linear, full, rosenbrock], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n", [31, 32, 65])
def test_a_hessian_of_many_inputs_is_that_of_column_by_column(f, n):
    """Sums of columns round as each column by itself: what else is in the sum are zeros."""
    x = [math.sin(3.0 * k + 1.0) for k in range(n)]
    got = hessian(f)(x)
    expected = [hvp(f, (x,), ([float(j == k) for j in range(n)],)) for k in range(n)]
    assert len(got) == n and all(len(row) == n for row in got)
    for row, wanted in zip(got, expected):
        assert row == pytest.approx(wanted, rel=1e-12, abs=1e-13)
    assert jacfwd(grad(f))(x)[n // 2] == pytest.approx(expected[n // 2], rel=1e-12, abs=1e-13)
    rows, columns, values = hessian(f, sparse=True)(x)
    entries = dict(zip(zip(rows, columns), values))
    for j, k in itertools.product(range(n), repeat=2):
        assert entries.get((j, k), 0.0) == pytest.approx(got[j][k], rel=1e-12, abs=1e-13)


def test_a_hessian_of_many_inputs_in_every_nest():
    x = [math.sin(3.0 * k + 1.0) for k in range(40)]
    flat = hessian(rosenbrock)(x)
    second = hessian(lambda p: rosenbrock([*p["a"], *p["b"][0]]))({"a": x[:15], "b": (x[15:],)})
    assert second["a"][3]["a"] == flat[3][:15] and second["b"][0][2]["b"] == (flat[17][15:],)
    both = hessian(lambda s, t: rosenbrock([*s, *t]), (1, 0))(x[:30], x[30:])
    assert both[0][2][0] == flat[32][30:] and both[1][4][1] == flat[4][:30]
    found, aux = hessian(lambda x: (rosenbrock(x), "aux"), has_aux=True)(x)
    assert found == flat and aux == "aux"
    w = Variable(2.0)
    carried = hessian(lambda x: rosenbrock(x) * w)(x)
    assert [v.data for v in carried[7]] == pytest.approx([2.0 * v for v in flat[7]], rel=1e-14)
    carried[7][7].backward()
    assert w.grad == pytest.approx(flat[7][7], rel=1e-14)
    assert hessian(lambda x: 5.0)(x) == [[0.0] * 40] * 40
    assert jacfwd(hessian(some))(x)[17][17][5] == pytest.approx(6.0 * x[17], rel=1e-14)


def test_rows_of_a_large_hessian_are_lists_of_their_own():
    rows = hessian(linear)([0.5] * 40)
    rows[0][0] = 1.0
    assert rows[1][0] == 0.0 and len({id(row) for row in rows}) == 40


def test_when_any_allocation_fails_in_a_large_hessian_nothing_has_changed():
    x = [math.sin(3.0 * k + 1.0) for k in range(36)]
    steps = lambda: (hessian(banded)(x), hessian(full)(x), hessian(some, sparse=True)(x))
    expected = steps()
    for young in (None, 64):
        with stress(young, 1 if young else None):
            for n in range(0, 10_000, 1 if young is None else 37):
                with no_trace():
                    _core._fail_allocation(n)
                    try:
                        result = steps()
                    except MemoryError:
                        result = None
                    triggered = _core._fail_allocation(-1)
                    assert result == expected if not triggered else result in (None, expected)
                if not triggered:
                    break


@pytest.mark.parametrize("young", [1, 7])
def test_collections_at_any_time_change_no_large_hessian(young):
    x = [math.sin(3.0 * k + 1.0) for k in range(36)]
    expected = hessian(banded)(x), hessian(full)(x), hessian(blocks, sparse=True)(x)
    with stress(young):
        assert (hessian(banded)(x), hessian(full)(x), hessian(blocks, sparse=True)(x)) == expected


# -- integers --------------------------------------------------------------------------------------

CALLS = {
    "grad": lambda x: grad(total)(x),
    "value_and_grad": lambda x: value_and_grad(total)(x),
    "jacfwd": lambda x: jacfwd(total)(x),
    "jacrev": lambda x: jacrev(total)(x),
    "hessian": lambda x: hessian(total)(x),
    "jvp": lambda x: jvp(total, (x,), (x,)),
    "vjp": lambda x: vjp(total, x),
    "hvp": lambda x: hvp(total, (x,), (x,)),
}


@pytest.mark.parametrize("name", [*CALLS, "jacobian", "derivative"])
@pytest.mark.parametrize(
    "x, kind, got",
    [(2, "int", "2"), ([1.0, 3], "int", "3"), ({"a": (True,)}, "bool", "True"), (-5, "int", "-5")],
    ids=["2", "among floats", "a bool", "-5"],
)
def test_an_int_to_differentiate_by_is_refused(name, x, kind, got):
    call = CALLS.get(name) or (lambda x: getattr(mingrad, name)(total)(x))
    what = {"derivative": "grad"}.get(name, name)
    called = []
    global total
    before, total = total, lambda x: called.append(x)
    try:
        text = (
            f"{what}: expected floats to differentiate by, got the {kind} {got}; a derivative "
            f"says what a small change of a real number does: write {float(eval(got))!r}, or "
            "name the other arguments in argnums"
        )
        refuses(lambda: call(x), TypeError, text)
    finally:
        total = before
    assert called == []


def test_ints_of_numpy_are_refused_too():
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    for x in (numpy.int64(2), numpy.array(2), numpy.array([2, 3]), [numpy.int8(2)], numpy.bool_(True)):
        with pytest.raises(TypeError, match="grad: expected floats to differentiate by, got the "):
            grad(total)(x)
    assert grad(total)(numpy.float32(2.0)) == 4.0
    with pytest.raises(TypeError, match="got the int 1"):
        grad(total)(array.array("i", [1, 2]))


def test_ints_elsewhere_are_numbers_like_others():
    assert grad(lambda x, n: x**n)(3.0, 2) == 6.0
    assert grad(lambda x: x * 3)(2.0) == 3.0
    assert jvp(SQUARE, (3.0,), (1,)) == (9.0, 6.0)
    assert vjp(SQUARE, 3.0)[1](1) == (6.0,)
    assert hvp(lambda x: x**3, (2.0,), (1,)) == 12.0
    with pytest.raises(TypeError, match="got the int 2"):
        grad(lambda x, n: x**n, 1)(3.0, 2)


def test_an_int_that_no_float_holds_is_refused_as_an_int():
    with pytest.raises(TypeError, match="expected floats to differentiate by"):
        grad(SQUARE)(10**400)
