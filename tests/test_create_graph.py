"""backward(create_graph=True): gradients that are Variables, and that can be differentiated.

The oracles are PyTorch's backward(create_graph=True) on the same programs, the transforms of
mingrad.autodiff, and mpmath by way of test_autodiff.py's formulas. Then: accumulation, everything
that makes such a gradient a number again, memory, modes, threads, failing allocations.
"""

import copy
import importlib.util
import itertools
import math
import pathlib
import pickle
import random
import threading
import types
import weakref

import pytest

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, assert_close_relative, assert_same_bits, build, random_graph
from mingrad import Variable, _core, nn, optim
from watch import live_now, no_trace, refuses, spell, stress


def value(x):
    return x.data if isinstance(x, Variable) else x


def taken(xs):
    """The gradients of these, which start from 0.0 again."""
    grads = [x.grad for x in xs]
    for x in xs:
        x.zero_grad()
    return grads


# -- every op, to third order ----------------------------------------------------------------------

TABLE = {row["name"]: row for row in _core._ops()}
UNARY = [name for name, row in TABLE.items() if row["kind"] == "unary" and name[0] != "_"]
BINARY = [name for name, row in TABLE.items() if row["kind"] == "binary" and name != "_polygamma"]
PARAMETERS = {"leaky_relu", "elu", "clamp_min", "clamp_max", "_huber"}  # b is a number
POINTS = {"acosh": 1.7, "digamma": 2.7, "lgamma": 2.7, "asin": 0.35, "acos": 0.35, "atanh": 0.35}
PAIRS = {"pow": (1.3, 0.7), "_bce": (0.3, 0.8), "_huber": (0.4, 0.7)}


@pytest.fixture(scope="module")
def mpmath():
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


def assert_three_orders(f, exact, points, mpmath, what):
    """.grad after recorded passes through f, through the sum of its gradients, and once more."""
    xs = [Variable(x) for x in points]
    y = f(*xs)
    n = len(points)
    for order in (1, 2, 3):
        y.backward(create_graph=True)
        grads = taken(xs)
        for k, g in enumerate(grads):
            assert isinstance(g, Variable) or order > 1  # 0.0 where a derivative has no graph left
            expected = 0.0  # of the sum over all derivatives of the order before
            for rest in itertools.product(range(n), repeat=order - 1):
                counts = tuple((k, *rest).count(j) for j in range(n))
                expected += float(mpmath.diff(exact, tuple(map(mpmath.mpf, points)), counts))
            # Up to ten terms, each of some roundings, operands of size one; as in test_autodiff.py.
            assert_close_relative(value(g), expected, 1e-13, f"{what}, {order}, by {k}", floor=1.0)
        y = mingrad.sum(grads)
        if not isinstance(y, Variable) or not y.requires_grad:
            return


@pytest.mark.parametrize("op", UNARY)
def test_a_unary_op_to_third_order(op, mpmath, maker):
    exact = maker.UNARY[op][0]
    assert_three_orders(spell(op), exact, [POINTS.get(op, 0.6)], mpmath, op)


@pytest.mark.parametrize("op", BINARY)
def test_a_binary_op_to_third_order(op, mpmath, maker):
    f, exact = spell(op), maker.BINARY[op][0]
    a, b = PAIRS.get(op, (1.3, 0.7))
    number = mpmath.mpf(b)
    assert_three_orders(lambda x: f(x, b), lambda s: exact(s, number), [a], mpmath, op)
    if op not in PARAMETERS:
        assert_three_orders(f, exact, [a, b], mpmath, op)
        number = mpmath.mpf(a)
        assert_three_orders(lambda y: f(a, y), lambda s: exact(number, s), [b], mpmath, op)


# -- PyTorch ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def engine_of(torch):
    """PyTorch under the names that helpers.build() asks an engine for; scalars in float64."""

    def variable(data, requires_grad=True, label=""):
        return torch.tensor(data, dtype=torch.float64, requires_grad=requires_grad)

    def stacked(xs):
        return torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in xs])

    names = "tanh exp sin cos sigmoid square atan asinh expm1 erf".split()
    return types.SimpleNamespace(
        Variable=variable,
        **{name: getattr(torch, name) for name in names},
        softplus=torch.nn.functional.softplus,
        silu=torch.nn.functional.silu,
        sum=lambda xs: stacked(xs).sum(),
        prod=lambda xs: stacked(xs).prod(),
        mean=lambda xs: stacked(xs).mean(),
        norm=lambda xs: stacked(xs).norm(),
        logsumexp=lambda xs: torch.logsumexp(stacked(xs), 0),
        dot=lambda xs, ys: torch.dot(stacked(xs), stacked(ys)),
        softmax=lambda xs: list(torch.softmax(stacked(xs), 0)),
    )


SHARED = (
    "+ - * / neg tanh exp sin cos sigmoid square atan asinh expm1 erf softplus silu sum prod mean logsumexp norm dot softmax"
).split()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
@pytest.mark.parametrize("seed", range(10))
def test_three_recorded_passes_on_a_random_graph_give_what_torch_gives(seed, torch):
    spec = random_graph(seed, 40, SHARED, reference)
    found = []
    for engine in (mingrad, engine_of(torch)):
        things, _ = build(spec, engine)
        leaves = [v for v, (name, *_) in zip(things, spec) if name == "leaf"]
        root, orders = things[-1], []
        for _ in range(3):
            root.backward(create_graph=True)
            grads = [0.0 if x.grad is None else x.grad for x in leaves]
            for x in leaves:
                x.zero_grad() if engine is mingrad else setattr(x, "grad", None)
            orders.append([float(getattr(g, "data", g)) for g in grads])
            root = sum(g * (0.5 + 0.25 * k) for k, g in enumerate(grads))
        found.append(orders)
    for got, expected in zip(*found):
        scale = max(1.0, *map(abs, expected))
        # Each order multiplies the number of terms, which may cancel.
        assert got == pytest.approx(expected, rel=1e-10, abs=1e-11 * scale)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_a_gradient_penalty_trains_a_model_as_in_torch(torch):
    """WGAN-GP's term: (|d model / d input| - 1)**2 beside a loss, by both engines, 20 steps."""
    rng = random.Random(5)
    ours = nn.MLP(2, [4, 3, 1], activation="tanh")
    rows = [[rng.uniform(-1, 1) for _ in range(2)] for _ in range(3)]
    targets = [rng.uniform(-1, 1) for _ in rows]
    for p in ours.parameters():
        p.data = rng.uniform(-1, 1)
    sizes, parts = [2, 4, 3, 1], []
    numbers = iter([p.data for p in ours.parameters()])
    for n, m in itertools.pairwise(sizes):  # micrograd's order: each neuron's weights, then its bias
        flat = [[next(numbers) for _ in range(n + 1)] for _ in range(m)]
        parts.append(
            [
                torch.tensor(numbers_, dtype=torch.float64, requires_grad=True)
                for numbers_ in ([row[:n] for row in flat], [row[n] for row in flat])
            ]
        )
    optimizer = optim.SGD(ours.parameters(), lr=0.05)
    history = [], []
    for _ in range(20):
        optimizer.zero_grad()
        loss = 0.0
        for row, target in zip(rows, targets):
            x = [Variable(v) for v in row]
            y = ours(x)
            y.backward(create_graph=True)
            slope = mingrad.norm([v.grad for v in x])
            loss = loss + (slope - 1.0) ** 2 + (y - target) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history[0].append(loss.data)
    for _ in range(20):
        loss = 0.0
        for row, target in zip(rows, targets):
            x = h = torch.tensor(row, dtype=torch.float64, requires_grad=True)
            for k, (w, b) in enumerate(parts):
                h = w @ h + b
                h = torch.tanh(h) if k < 2 else h
            (g,) = torch.autograd.grad(h.sum(), x, create_graph=True)
            loss = loss + (g.norm() - 1.0) ** 2 + (h.sum() - target) ** 2
        loss.backward()
        with torch.no_grad():
            for w, b in parts:
                for p in (w, b):
                    p -= 0.05 * p.grad
                    p.grad = None
        history[1].append(loss.item())
    assert history[0] == pytest.approx(history[1], rel=1e-9)
    assert history[0][-1] < history[0][0]


# -- what is a Variable, and which -----------------------------------------------------------------


def test_leaves_interior_variables_and_the_root_get_variables():
    x, w, c = Variable(3.0), Variable(2.0), Variable(5.0, requires_grad=False)
    h = x * w
    y = h * h + c
    y.backward(create_graph=True)
    assert [type(v.grad) for v in (x, w, h, y)] == [Variable] * 4 and type(c.grad) is float
    assert [v.grad.data for v in (x, w, h, y)] == [24.0, 36.0, 12.0, 1.0] and c.grad == 0.0
    assert x.grad is x.grad


def test_a_gradient_that_is_a_number_is_a_constant_variable():
    x, y = Variable(3.0), Variable(1.0)
    (x * 2.0 + y).backward(create_graph=True)
    assert (x.grad.data, y.grad.data) == (2.0, 1.0)
    assert not x.grad.requires_grad and not y.grad.requires_grad
    with pytest.raises(RuntimeError, match="requires no gradient"):
        x.grad.backward()
    x = Variable(3.0)
    x.backward(create_graph=True)
    assert x.grad.data == 1.0


def test_what_the_root_does_not_reach_stays_a_number():
    x, other = Variable(3.0), Variable(1.0)
    aside = x * other
    (x * x).backward(create_graph=True)
    assert type(other.grad) is float and type(aside.grad) is float


def test_the_gradient_of_an_interior_variable_is_that_of_the_latest_pass():
    x = Variable(3.0)
    h = x * 2.0
    (h * h).backward(create_graph=True)
    first = h.grad
    (h * h * h).backward(create_graph=True)
    assert first.data == 12.0 and h.grad.data == 108.0
    h.backward()
    assert type(h.grad) is float and h.grad == 1.0


def test_weights_of_layers_and_their_outputs_get_variables():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))
    ys = model([[0.5, -0.5], [1.0, 2.0]])
    nn.mse_loss(ys, [[1.0, 0.0], [0.0, 1.0]]).backward(create_graph=True)
    assert {type(p.grad) for p in model.parameters()} == {Variable}
    assert {type(y.grad) for row in ys for y in row} == {Variable}
    plain = [p.grad.data for p in model.parameters()]
    model.zero_grad()
    nn.mse_loss(model([[0.5, -0.5], [1.0, 2.0]]), [[1.0, 0.0], [0.0, 1.0]]).backward()
    # A layer's share is summed up by kernels, in another order.
    assert [p.grad for p in model.parameters()] == pytest.approx(plain, rel=1e-13, abs=1e-15)


def test_frozen_weights_get_nothing():
    layer = nn.Linear(2, 1)
    layer.weight[0][1].requires_grad = False
    layer([1.0, 2.0])[0].backward(create_graph=True)
    assert value(layer.weight[0][0].grad) == 1.0 and layer.weight[0][1].grad == 0.0
    assert type(layer.weight[0][1].grad) is float


@pytest.mark.parametrize("seed", range(8))
def test_a_recorded_pass_gives_the_numbers_of_a_plain_one(seed):
    spec = random_graph(seed, 120, EXACT + LIBM + OTHER + NARY, reference)
    plain, _ = build(spec, mingrad)
    recorded, _ = build(spec, mingrad)
    oracle, _ = build(spec, reference)
    slack = reference.adjoint_slack(oracle[-1], 1.25)
    plain[-1].backward(1.25)
    recorded[-1].backward(1.25, create_graph=True)
    for k, (a, b) in enumerate(zip(plain, recorded)):
        allowed = 2 * slack.get(id(oracle[k]), 0.0)
        if math.isfinite(a.grad) and math.isfinite(allowed):
            assert abs(value(b.grad) - a.grad) <= max(allowed, 2 * math.ulp(a.grad)), spec[k]


def test_a_label_does_not_move_to_the_gradient():
    x = Variable(3.0, label="x")
    y = x * x
    y.label = "y"
    y.backward(create_graph=True)
    assert (x.grad.label, y.grad.label) == ("", "") and (x.label, y.label) == ("x", "y")
    x.grad.label = "dx"
    assert x.grad.label == "dx"
    x.zero_grad()
    assert x.grad == 0.0


def test_a_gradient_has_a_graph_to_look_at():
    x = Variable(3.0)
    (x**3).backward(create_graph=True)
    assert x.grad._op and x.grad._prev
    assert repr(x) == "Variable(data=3.0, grad=27.0)"


# -- the seed --------------------------------------------------------------------------------------


def test_the_seed_may_be_a_variable():
    x, v = Variable(3.0), Variable(2.0)
    (x * x).backward(v, create_graph=True)
    assert x.grad.data == 12.0
    g = x.grad
    x.zero_grad()
    g.backward()
    assert (x.grad, v.grad) == (4.0, 6.0)
    c = Variable(2.0, requires_grad=False)
    x.zero_grad()
    (x * x).backward(c, create_graph=True)
    assert x.grad.data == 12.0


def test_the_seed_may_depend_on_the_root_and_the_root_on_it():
    x = Variable(3.0)
    y = x * x
    y.backward(y, create_graph=True)  # y * 2x = 2 x**3
    assert x.grad.data == 54.0
    g = x.grad
    x.zero_grad()
    g.backward()
    assert x.grad == 54.0  # 6 x**2
    x.zero_grad()
    y.backward(x, create_graph=True)
    assert x.grad.data == 18.0


@pytest.mark.parametrize("seed", [2, True, 2.0])
def test_the_seed_may_be_any_number(seed):
    x = Variable(3.0)
    (x * x).backward(seed, create_graph=True)
    assert x.grad.data == 6.0 * seed


X = Variable(2.0)
CONSTANT = Variable(2.0, requires_grad=False)
REFUSED = [
    (
        lambda: (X * X).backward("1", create_graph=True),
        TypeError,
        "backward(gradient=...): expected a real number (int, float, NumPy scalar), got str; convert it to a float first",
    ),
    (
        lambda: (X * X).backward(X),
        TypeError,
        (
            "backward(gradient=...): expected a real number (int, "
            "float, NumPy scalar), got Variable; a number is needed here: take its .data"
        ),
    ),
    (
        lambda: CONSTANT.backward(create_graph=True),
        RuntimeError,
        (
            "backward() on Variable(data=2.0, "
            "grad=0.0), which requires no gradient: it was made with requires_grad=False, by detach(), "
            "inside no_grad(), or from such Variables only"
        ),
    ),
]


@pytest.mark.parametrize("call, kind, text", REFUSED, ids=[text[:50] for *_, text in REFUSED])
def test_what_a_recorded_pass_refuses(call, kind, text):
    refuses(call, kind, text, [X])


def test_a_stale_graph_is_refused_and_nothing_has_changed():
    x, w = Variable(3.0), Variable(2.0)
    y = x * x * w * 0.5
    y.backward(create_graph=True)
    held = x.grad
    w.data = 5.0
    with pytest.raises(
        RuntimeError,
        match=r"was written after this graph had used it; run the "
        r"forward pass again before backward\(\)",
    ):
        y.backward(create_graph=True)
    assert x.grad is held and held.data == 6.0
    with pytest.raises(RuntimeError, match="was written after"):
        held.backward()


def test_a_gradient_is_a_variable_of_its_own():
    """d(x * w) / dx is w's value now, whatever is done to w, or to the gradient, afterwards."""
    x, w = Variable(3.0), Variable(2.0, label="w")
    (x * w).backward(create_graph=True)
    assert x.grad is not w and x.grad.label == ""
    g = x.grad
    w.data = 5.0
    assert g.data == 2.0
    g = mingrad.grad(lambda v: v * w)(3.0)
    assert g is not w


# -- accumulation ----------------------------------------------------------------------------------


def test_two_recorded_passes_are_summed_and_the_sum_keeps_both_graphs():
    x = Variable(3.0)
    (x**3).backward(create_graph=True)
    (x**2).backward(create_graph=True)
    assert x.grad.data == 33.0
    g = x.grad
    x.zero_grad()
    g.backward()
    assert x.grad == 6.0 * 3.0 + 2.0


def test_a_recorded_pass_is_added_to_a_number():
    x = Variable(3.0)
    x.grad = 100.0
    (x**3).backward(create_graph=True)
    assert x.grad.data == 127.0
    g = x.grad
    x.zero_grad()
    g.backward()
    assert x.grad == 18.0


def test_a_plain_pass_after_a_recorded_one_makes_numbers():
    x = Variable(3.0)
    h = x * 2.0
    (h * h).backward(create_graph=True)
    (h * h * 2.0).backward()
    assert (x.grad, h.grad) == (72.0, 24.0)
    assert type(x.grad) is type(h.grad) is float


def test_a_plain_pass_that_gives_the_same_value_makes_numbers_too():
    x = Variable(3.0)
    h = x * 2.0
    (h * h).backward(create_graph=True)
    (h * h).backward()
    assert type(h.grad) is float
    x = Variable(1.0)
    (x * x).backward(create_graph=True)
    ((x - 1.0) ** 2).backward()  # adds 0.0
    assert type(x.grad) is float


def test_hooks_of_three_passes_of_one_graph_accumulate_on_leaves_only():
    x = Variable(3.0)
    h = x * x
    root = h * 2.0
    for count in (1, 2, 3):
        root.backward(create_graph=True)
        assert (x.grad.data, h.grad.data) == (12.0 * count, 2.0)


def test_differentiating_a_gradient_adds_to_the_gradients_of_the_leaves():
    """Without zero_grad() in between both orders are in .grad, as in PyTorch."""
    x = Variable(3.0)
    (x**3).backward(create_graph=True)
    x.grad.backward()
    assert x.grad == 27.0 + 18.0
    x = Variable(3.0)
    (x**3).backward(create_graph=True)
    x.grad.backward(create_graph=True)
    assert x.grad.data == 45.0
    x.grad.backward(create_graph=True)  # 18 + 6 on top
    assert x.grad.data == 45.0 + 24.0


# -- what makes it a number again ------------------------------------------------------------------

WAYS = {
    "zero_grad of the Variable": lambda model, group: [p.zero_grad() for p in model.parameters()],
    "zero_grad of the module": lambda model, group: model.zero_grad(),
    "zero_grad of the optimiser": lambda model, group: group.zero_grad(),
    "the setter": lambda model, group: [setattr(p, "grad", 0.0) for p in model.parameters()],
    "zero_grad of a VariableList": lambda model, group: mingrad.VariableList(model.parameters()).zero_grad(),
    "the setter of a VariableList": lambda model, group: setattr(
        mingrad.VariableList(model.parameters()), "grad", [0.0] * len(model.parameters())
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [1.0, 0.0, -0.0], ids=["some", "zero", "minus zero"])
def test_every_way_to_reset_a_gradient_forgets_its_graph(way, seed):
    """A gradient of 0.0 is the same number before and after."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    group = optim.SGD(model.parameters(), lr=0.1)
    x = Variable(0.5)
    before = live_now()
    model([x, -x])[0].backward(seed, create_graph=True)
    assert {type(p.grad) for p in model.parameters()} == {Variable}
    assert live_now() > before
    WAYS[way](model, group)
    grads = [p.grad for p in model.parameters()]
    assert {type(g) for g in grads} == {float} and not any(grads)
    x.zero_grad()
    assert live_now() == before


def test_a_gradient_can_be_set_to_its_own_value_to_forget_its_graph():
    x = Variable(3.0)
    (x * x).backward(create_graph=True)
    x.grad = x.grad.data
    assert x.grad == 6.0 and type(x.grad) is float


def test_clipping_makes_numbers_or_leaves_the_variable_as_it_is():
    for clip in (optim.clip_grad_norm_, optim.clip_grad_value_):
        x, y = Variable(3.0), Variable(4.0)
        (x * x + y * y).backward(create_graph=True)
        clip([x, y], 1.0)
        assert all(type(v.grad) is float for v in (x, y))
        (x * x).backward(create_graph=True)
        clip([x, y], 1e9)  # changes nothing
        assert value(x.grad) == pytest.approx(value(x.grad))


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9),
        lambda ps: optim.Adam(ps, lr=0.1),
        lambda ps: optim.AdamW(ps, lr=0.1),
        lambda ps: optim.RMSprop(ps, lr=0.1),
    ],
    ids=["SGD", "Adam", "AdamW", "RMSprop"],
)
def test_an_optimiser_steps_by_recorded_gradients_as_by_numbers(make):
    after = []
    for create_graph in (False, True):
        xs = [Variable(3.0), Variable(-1.0)]
        optimizer = make(xs)
        for _ in range(5):
            optimizer.zero_grad()
            (xs[0] * xs[0] * xs[1] + mingrad.sin(xs[1])).backward(create_graph=create_graph)
            optimizer.step()
        after.append([x.data for x in xs])
    assert after[0] == after[1]


def test_writing_a_leaf_keeps_its_gradient_as_a_number_would_be_kept():
    x = Variable(3.0)
    (x**3).backward(create_graph=True)
    x.data = 4.0
    assert value(x.grad) == 27.0


def test_the_gradient_of_a_list_has_variables_where_they_are():
    xs = mingrad.tensor([1.0, 2.0], requires_grad=True)
    mingrad.sum(x**3 for x in xs).backward(create_graph=True)
    assert [type(g) for g in xs.grad] == [Variable] * 2
    assert [g.data for g in xs.grad] == [3.0, 12.0]


# -- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "twin_of", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "deepcopy", "pickle"]
)
@pytest.mark.parametrize("linear", [True, False])
def test_a_leaf_with_a_recorded_gradient_can_be_copied_with_the_number(twin_of, linear):
    x = Variable(3.0)
    (x * 2.0 if linear else x * x).backward(create_graph=True)
    twin = twin_of(x)
    assert (twin.data, twin.grad) == (3.0, 2.0 if linear else 6.0)


def test_a_module_with_recorded_gradients_can_be_copied():
    model = nn.MLP(2, [2, 1])
    model([1.0, 2.0]).backward(create_graph=True)
    twin = copy.deepcopy(model)
    assert [p.data for p in twin.parameters()] == [p.data for p in model.parameters()]


def test_a_state_dict_is_the_same_after_a_recorded_pass():
    model = nn.MLP(2, [2, 1])
    before = model.state_dict()
    model([1.0, 2.0]).backward(create_graph=True)
    assert model.state_dict() == before
    model.load_state_dict(before)


class Equal(Variable):
    """Equal to what has the same value, as some write it."""

    def __eq__(self, other):
        return self.data == value(other)

    def __hash__(self):
        return hash(self.data)


def test_variables_that_are_equal_have_gradients_of_their_own():
    x, y = Equal(2.0), Equal(2.0)
    (x * y**2).backward(create_graph=True)
    assert (value(x.grad), value(y.grad)) == (4.0, 8.0)
    assert type(x.grad) is type(y.grad) is Variable


class Unhashable(Variable):
    def __eq__(self, other):
        return NotImplemented


def test_variables_of_a_class_without_a_hash_get_gradients():
    x = Unhashable(3.0)
    (x * x).backward(create_graph=True)
    assert x.grad.data == 6.0


class Slotted(Variable):
    __slots__ = ("name",)

    def __init__(self, data, name):
        super().__init__(data)
        self.name = name


def test_variables_of_subclasses_get_plain_variables():
    x = Slotted(3.0, "x")
    (x**3).backward(create_graph=True)
    assert type(x.grad) is Variable and x.grad.data == 27.0 and x.name == "x"


# -- memory ----------------------------------------------------------------------------------------


def test_a_gradients_graph_dies_with_the_variable_or_when_it_is_forgotten():
    before = live_now()
    x = Variable(3.0)
    (mingrad.sin(x) * x**3).backward(create_graph=True)
    gone = weakref.ref(x.grad)
    assert gone() is not None and live_now() > before + 1
    x.zero_grad()
    assert gone() is None and live_now() == before + 1
    (mingrad.sin(x) * x**3).backward(create_graph=True)
    gone = weakref.ref(x.grad)
    del x
    assert gone() is None and live_now() == before


def test_the_graph_of_an_interior_variable_dies_with_it():
    before = live_now()
    x = Variable(3.0)
    h = mingrad.tanh(x)
    (h * h * h).backward(create_graph=True)
    x.zero_grad()
    assert live_now() > before + 2
    del h
    assert live_now() == before + 1
    x.zero_grad()


@pytest.mark.parametrize("interior", [False, True], ids=["leaves", "results"])
def test_the_factors_of_a_product_die_with_their_gradients(interior):
    def step():
        x, w = Variable(3.0), Variable(2.0)
        if interior:
            x, w = x * 2.0, w * 2.0
        (x * w).backward(create_graph=True)

    before = live_now()
    for _ in range(5):
        step()
    assert live_now() == before


def test_a_gradient_outlives_the_variable_it_belongs_to_if_it_is_held():
    x, w = Variable(3.0), Variable(2.0)
    (x * x * w).backward(create_graph=True)
    g = x.grad
    del x
    live_now()
    w.zero_grad()
    g.backward()
    assert g.data == 12.0 and w.grad == 6.0


def test_the_tape_stays_flat_over_a_thousand_steps_with_a_gradient_penalty():
    model = nn.MLP(2, [3, 1], activation="tanh")
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    seen = []
    for step in range(1000):
        x = [Variable(0.5), Variable(-0.25)]
        y = model(x)
        y.backward(create_graph=True)
        loss = y * y + mingrad.sum((v.grad - 1.0) ** 2 for v in x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (300, 600, 999):
            del x, y, loss
            model.zero_grad()
            seen.append((live_now(), mingrad.tape_info().handles))
    assert len(set(seen)) == 1


def test_a_loop_that_never_resets_the_gradient_keeps_what_it_sums_up_and_no_more():
    x = Variable(0.5)
    sizes = []
    for _ in range(3):
        (x**3).backward(create_graph=True)
        sizes.append(live_now())
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0
    x.zero_grad()
    assert live_now() < sizes[0]


def test_a_refused_pass_leaves_no_node():
    x, w = Variable(3.0), Variable(2.0)
    y = x * w
    w.data = 1.0
    with no_trace([x, w]), pytest.raises(RuntimeError):
        y.backward(create_graph=True)


def everything():
    """Recorded passes over every shape of row, with all that is read from them."""
    layer, norm = nn.Linear(3, 2), nn.LayerNorm(3)
    for k, p in enumerate(layer.parameters() + norm.parameters()):
        p.data = math.cos(k)
    w, x = Variable(0.5), [Variable(v) for v in (0.3, -0.7, 1.1)]
    h = layer(norm(x))
    y = mingrad.softmax([*h, x[0] * x[2]])
    loss = mingrad.dot(y, x) + mingrad.prod(x) * mingrad.norm(x) + w * nn.cross_entropy(h, 1)
    found = []
    for _order in range(2):
        loss.backward(1.5, create_graph=True)
        grads = taken([w, *x, *layer.parameters(), *norm.parameters()])
        found += [g.data for g in grads] + [value(v.grad) for v in (*h, *y)]
        loss = mingrad.sum(g * g for g in grads)
    loss.backward()
    return found, [p.grad for p in (w, *x, *layer.parameters())]


@pytest.mark.parametrize("young", [1, 2, 7, 64])
def test_collections_at_any_time_change_nothing(young):
    expected = everything()
    with stress(young):
        assert everything() == expected


def test_nothing_is_left_on_the_tape():
    everything()
    before = live_now(), mingrad.tape_info().handles
    everything()
    assert (live_now(), mingrad.tape_info().handles) == before


def small_steps(xs):
    """Two passes, the second on top of the first, and one through both."""
    x, w = xs
    h = mingrad.tanh(x * w)
    (h * h).backward(create_graph=True)
    yield
    (h * w * x).backward(create_graph=True)
    yield
    g = x.grad
    x.zero_grad()
    g.backward()
    yield


def state(xs):
    return [(x.data, value(x.grad), type(x.grad)) for x in xs]


@pytest.mark.parametrize("young", [1, None], ids=["young-1", "young-default"])
def test_when_any_allocation_fails_grads_are_as_they_were(young):
    """Values and kinds; of a leaf with a recorded gradient the very Variable."""
    failures = 0
    with stress(young, 1 if young else None):
        expected = []
        xs = Variable(0.5), Variable(-0.7)
        for _ in small_steps(xs):
            expected.append(state(xs))
        del xs
        for n in range(10_000):
            mingrad.collect()
            xs = Variable(0.5), Variable(-0.7)
            info = mingrad.tape_info()
            ballast = [Variable(0.0) for _ in range(info.capacity - info.nodes)] if young else []
            done, held = [], [x.grad for x in xs]
            before = state(xs)
            _core._fail_allocation(n)
            try:
                for _ in small_steps(xs):
                    before = state(xs)
                    held = [x.grad for x in xs]
                    done.append(before)
            except MemoryError:
                pass
            triggered = _core._fail_allocation(-1)
            assert done == expected[: len(done)]
            if len(done) < 3:
                assert triggered
                failures += 1
                if len(done) < 2:  # the third step resets x's own gradient first
                    assert state(xs) == before, n
                    assert all(x.grad is g or x.grad == g for x, g in zip(xs, held)), n
            del ballast, held
            if not triggered:
                break
    assert failures > (20 if young else 0) and len(done) == 3


# -- modes and threads -----------------------------------------------------------------------------


def test_no_grad_outside_does_not_keep_a_recorded_pass_from_recording():
    x = Variable(3.0)
    y = x**3
    with mingrad.no_grad():
        y.backward(create_graph=True)
        assert not mingrad.is_grad_enabled()
        assert (y * 2.0).requires_grad is False
    g = x.grad
    x.zero_grad()
    g.backward()
    assert x.grad == 18.0


def test_recording_is_switched_back_after_an_error_too():
    x = Variable(3.0)
    y = x * x
    y.register_hook(lambda a: 1 / 0)
    for mode in (mingrad.no_grad, mingrad.enable_grad):
        with mode():
            with pytest.raises(ZeroDivisionError):
                y.backward(create_graph=True)
            assert mingrad.is_grad_enabled() is (mode is mingrad.enable_grad)


def test_float_errors_do_not_stop_a_recorded_pass():
    x = Variable(0.0)
    mingrad.sqrt(x).backward(create_graph=True)
    assert x.grad.data == math.inf
    x = Variable(1e200)
    with mingrad.errstate(all="ignore"):
        (x * x).backward(1e300, create_graph=True)
    assert x.grad.data == math.inf
    (x * 1.0).backward(-math.inf, create_graph=True)
    assert math.isnan(value(x.grad))


def test_threads_may_run_recorded_passes_at_once():
    def work(k):
        model = nn.MLP(2, [3, 1], activation="tanh")
        for j, p in enumerate(model.parameters()):
            p.data = math.sin(j)
        found = []
        for _ in range(30):
            x = [Variable(0.5), Variable(-0.25)]
            model(x).backward(create_graph=True)
            penalty = mingrad.sum(v.grad**2 for v in x)
            model.zero_grad()
            penalty.backward()
            found.append([p.grad for p in model.parameters()])
            model.zero_grad()
        results[k] = found

    results = {}
    work("alone")
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 5 and all(found == results["alone"] for found in results.values())


def test_a_deep_chain_has_a_recorded_gradient():
    x = Variable(1.0)
    y = x
    for _ in range(100_000):
        y = mingrad.sin(y)
    y.backward(create_graph=True)
    (expected,) = _core._adjoint_values([y], [1.0], [x])
    assert_same_bits(x.grad.data, expected)
    del y
    g = x.grad
    x.zero_grad()
    g.backward()
    assert math.isfinite(x.grad) and x.grad != 0.0
