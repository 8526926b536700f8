"""Random graphs with heavy sharing, built at once in mingrad, in the slow reference and in PyTorch.

This file is about structure: who contributes to whom, in which order, how often, in which pass.
Formulas at their edges are test_ops.py's; handles that die and collections are test_tape.py's.
"""

import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mingrad
import reference
from helpers import (
    EXACT,
    EXACT_BINARY,
    LIBM,
    NARY,
    OPERANDS,
    OTHER,
    apply,
    assert_close_relative,
    assert_same_bits,
    build,
    compare_close,
    compare_exact,
    random_graph,
)

GRAPHS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
ALL = EXACT + LIBM + OTHER + NARY

moderate = st.floats(-3, 3, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0])
anything = moderate | st.floats() | st.sampled_from([math.inf, -math.inf, math.nan, 5e-324, 1e308, -1e-308])


@st.composite
def graphs(draw, names, numbers):
    """A graph and some backward passes."""
    graph = [
        (draw(st.sampled_from(["leaf", "leaf", "leaf", "constant"])), draw(numbers)) for _ in range(draw(st.integers(1, 4)))
    ]
    graph.append(("leaf", draw(numbers)))
    for _ in range(draw(st.integers(1, 30))):
        name = draw(st.sampled_from(names))
        place = st.integers(0, len(graph) - 1)
        count = OPERANDS.get(name, 1)
        if name in NARY:
            count = draw(st.integers(1, 6)) * (2 if name == "dot" else 1)
        operands = [draw(place | place | place | numbers) for _ in range(count)]
        if all(isinstance(x, float) for x in operands):
            operands[draw(st.integers(0, count - 1))] = draw(place)
        graph.append((name, tuple(operands)))
    passes = draw(st.lists(st.tuples(st.integers(0, len(graph) - 1), st.sampled_from([1.0, -0.5, 3.0])), max_size=3))
    return graph, asking(graph, [(len(graph) - 1, 1.0)] + passes)


def asking(graph, passes):
    """Those passes whose root asks for a gradient (a root that does not is test_variable.py's)."""
    things, _ = build(graph, reference)
    return [(root, gradient) for root, gradient in passes if things[root].requires_grad]


@settings(GRAPHS, max_examples=400)
@given(graphs(EXACT, anything))
def test_exact_ops_give_the_reference_engines_bits_in_values_and_adjoints(case):
    compare_exact(*case, mingrad, reference)


@settings(GRAPHS, max_examples=400)
@given(graphs(ALL, moderate))
def test_all_ops_mixed_agree_with_the_reference_engine_within_rounding(case):
    compare_close(*case, mingrad, reference)


@pytest.mark.parametrize("seed", range(3))
def test_a_big_shared_graph_of_exact_ops_gives_the_reference_engines_bits(seed):
    graph = random_graph(seed, 6000, EXACT, reference)
    passes = asking(graph, [(5999, 1.0), (3000, -0.5), (5999, 2.0), (5990, 1.0), (2, 1.0)])
    assert len(passes) >= 3
    compare_exact(graph, passes, mingrad, reference)


@pytest.mark.parametrize("seed", range(3))
def test_a_big_shared_graph_of_all_ops_agrees_with_the_reference_engine(seed):
    graph = random_graph(100 + seed, 4000, ALL, reference)
    assert {name for name, *_ in graph} >= set(NARY) | {"tanh", "exp", "lgamma", "atan2", "**"}
    compare_close(graph, asking(graph, [(3999, 1.0), (2000, -0.5), (3998, 2.0)]), mingrad, reference)


class Torch:
    """PyTorch's float64 tensors of shape () behind the few names that helpers.apply uses."""

    def __init__(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch, a second opinion, is not installed")

    def Variable(self, data, requires_grad=True, label=""):
        return self.torch.tensor(data, dtype=self.torch.float64, requires_grad=requires_grad)

    def _tensor(self, x):
        return x if isinstance(x, self.torch.Tensor) else self.torch.tensor(x, dtype=self.torch.float64)

    def _stack(self, xs):
        return self.torch.stack([self._tensor(x) for x in xs])

    def dot(self, xs, ys):
        return self.torch.dot(self._stack(xs), self._stack(ys))

    def softmax(self, xs):
        return list(self.torch.softmax(self._stack(xs), 0))

    def clamp(self, x, low, high):
        return self.torch.clamp(x, min=low, max=high)

    def __getattr__(self, name):
        special = {
            "max": "amax",
            "min": "amin",
            "norm": "linalg.vector_norm",
            "gelu": "nn.functional.gelu",
            "silu": "nn.functional.silu",
            "softplus": "nn.functional.softplus",
            "elu": "nn.functional.elu",
            "leaky_relu": "nn.functional.leaky_relu",
        }
        function = self.torch
        for part in special.get(name, name).split("."):
            function = getattr(function, part)
        if name in NARY:
            return lambda xs: function(self._stack(xs), dim=0)
        return lambda *xs: function(*map(self._tensor, xs))


@pytest.mark.parametrize("seed", range(4))
def test_a_big_shared_graph_of_all_ops_agrees_with_pytorch(seed):
    """To 1e-12 of the adjoint or, where it is smaller, of 1: thousands of roundings each."""
    torch = Torch()
    names = [name for name in ALL if name not in ("%", "cbrt", "softplus")]  # differ, or are not there
    graph = random_graph(200 + seed, 2500, names, reference)
    ours, _ = build(graph, mingrad)
    theirs, _ = build(graph, torch)
    for k, (x, y) in enumerate(zip(ours, theirs)):
        assert_close_relative(x.data, y.item(), 1e-12, f"value of entry {k} {graph[k]}", floor=1.0)
        if y.requires_grad and not y.is_leaf:
            y.retain_grad()
    for root, gradient in [(2499, 1.0), (2490, -0.5), (2499, 3.0)]:
        for y in theirs:
            if not y.is_leaf:
                y.grad = None  # mingrad's interior adjoints are those of the latest pass
        ours[root].backward(gradient)
        theirs[root].backward(gradient=torch._tensor(gradient), retain_graph=True)
        for k, (x, y) in enumerate(zip(ours, theirs)):
            if y.requires_grad and y.grad is not None:
                assert_close_relative(x.grad, y.grad.item(), 1e-12, f"adjoint of entry {k} {graph[k]}", 1.0)


# --- Passes --------------------------------------------------------------------------------------


def test_a_second_backward_adds_to_leaves_and_replaces_interior_adjoints():
    x = mingrad.Variable(2.0)
    y = x * x
    z = y**2
    z.backward()
    assert (x.grad, y.grad, z.grad) == (32.0, 8.0, 1.0)
    z.backward()
    assert (x.grad, y.grad, z.grad) == (64.0, 8.0, 1.0)


def test_two_losses_that_share_a_hidden_node_add_up_in_the_leaf():
    x = mingrad.Variable(2.0)
    hidden = x * x
    first, second = hidden * 3.0, hidden * 5.0
    first.backward()
    second.backward()
    assert x.grad == 32.0
    assert hidden.grad == 5.0 and first.grad == 1.0 and second.grad == 1.0


def test_a_pass_leaves_the_adjoints_of_nodes_that_it_does_not_reach():
    x = mingrad.Variable(2.0)
    hidden = x * 3.0
    other = hidden * 2.0
    root = hidden * 7.0
    other.backward()
    root.backward()
    assert other.grad == 1.0 and hidden.grad == 7.0 and x.grad == 27.0


def test_backward_from_inside_a_graph_says_nothing_of_what_is_above():
    x = mingrad.Variable(2.0)
    middle = x * x
    top = middle * x
    top.backward()
    middle.backward()
    assert x.grad == 12.0 + 4.0
    assert middle.grad == 1.0 and top.grad == 1.0


def test_backward_on_a_leaf_adds_the_gradient_to_it():
    x = mingrad.Variable(2.0)
    x.backward()
    x.backward(2.5)
    assert x.grad == 3.5


def test_the_gradient_argument_scales_a_pass():
    x = mingrad.Variable(3.0)
    y = x * x
    y.backward(gradient=0.5)
    assert x.grad == 3.0 and y.grad == 0.5


def test_a_leaf_gets_one_addition_in_each_pass():
    """1e16 + (1 + 1) is 1e16 + 2; adding 1 twice to 1e16 would leave 1e16."""
    x = mingrad.Variable(1.0)
    x.grad = 1e16
    (x + x).backward()
    assert x.grad == 1e16 + 2.0


def test_contributions_are_added_from_the_newest_user_to_the_oldest():
    """In doubles (1e16 + 1) - 1e16 is 0 and (-1e16 + 1e16) + 1 is 1: the order can be seen."""
    for order, expected in [
        ((1e16, 1.0, -1e16), 0.0),
        ((1.0, 1e16, -1e16), 1.0),
        ((-1e16, 1e16, 1.0), 0.0),
    ]:
        for engine in mingrad, reference:
            x = engine.Variable(1.0)
            a, b, c = (x * scale for scale in order)
            ((c + b) + a).backward()
            assert x.grad == expected, (engine.__name__, order)


def test_a_value_used_by_a_hundred_doublings_has_the_adjoint_two_to_the_hundred():
    x = mingrad.Variable(1.0)
    y = x
    for _ in range(100):
        y = y + y
    y.backward()
    assert y.data == x.grad == 2.0**100


def test_a_product_of_a_node_with_itself_counts_both_operands():
    for build_square in [
        lambda x: x * x,
        lambda x: mingrad.prod([x, x]),
        lambda x: mingrad.dot([x], [x]),
        lambda x: x**2,
        lambda x: x.square(),
    ]:
        x = mingrad.Variable(3.0)
        build_square(x).backward()
        assert x.grad == 6.0


@pytest.mark.parametrize("name", EXACT_BINARY + ["//", "%", "**", "atan2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_plain_number_works_on_either_side(name, side):
    for number, value in [(2, 1.5), (2.5, -0.75), (True, 3.0), (-3, 2.0), (7, 2.0)]:
        if name == "**" and (number < 0 or value < 0):
            continue
        results = []
        for engine in mingrad, reference:
            x = engine.Variable(value)
            y = apply(engine, name, [x, number] if side == "left" else [number, x])
            y.backward()
            results.append((y.data, x.grad))
        assert_same_bits(results[0][0], results[1][0])
        if name in ("**", "atan2"):
            assert_close_relative(results[0][1], results[1][1], 1e-14)
        else:
            assert_same_bits(results[0][1], results[1][1])


def test_pythons_sum_over_variables_starts_with_zero_and_has_the_right_gradients():
    xs = [mingrad.Variable(0.1 * k) for k in range(20)]
    total = sum(w * x for w, x in zip(range(20), xs))
    total.backward()
    assert_same_bits(total.data, sum(w * (0.1 * k) for k, w in enumerate(range(20))))
    assert [x.grad for x in xs] == [float(k) for k in range(20)]


# --- N-ary ops -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NARY)
def test_an_nary_op_agrees_with_the_reference_at_every_length_up_to_seventy(name):
    """Kernels work in blocks: lengths around block sizes; numbers and repeats as operands."""
    rng = random.Random(5)
    for count in list(range(1, 71)) + [127, 128, 129, 1000]:
        graph = [("leaf", rng.uniform(0.9, 1.1) * rng.choice([1, 1, 1, -1])) for _ in range(count)]
        operands = [
            rng.randrange(count) if rng.random() < 0.9 else rng.uniform(0.9, 1.1)
            for _ in range(count * (2 if name == "dot" else 1))
        ]
        operands[0] = 0
        graph += [(name, tuple(operands)), ("*", (count, 3.0)), ("+", (count + 1, 0))]
        compare_close(graph, [(count + 2, 1.0), (count + 2, 0.5)], mingrad, reference)


def test_an_nary_op_is_one_node_with_all_its_operands_in_order():
    xs = [mingrad.Variable(float(k)) for k in range(1, 4)]
    for operation in (
        mingrad.sum,
        mingrad.prod,
        mingrad.mean,
        mingrad.max,
        mingrad.min,
        mingrad.logsumexp,
        mingrad.norm,
    ):
        y = operation([xs[1], xs[0], xs[1], xs[2]])
        assert [id(x) for x in y._prev] == [id(xs[1]), id(xs[0]), id(xs[1]), id(xs[2])]


def test_nary_ops_take_any_iterable_and_give_floats_for_numbers():
    assert mingrad.sum(x for x in (1, 2.5, True)) == 4.5
    assert type(mingrad.sum([1, 2])) is float
    assert mingrad.max(1.0, 4.0, 2.0) == 4.0 and mingrad.min([3, 2]) == 2.0
    x = mingrad.Variable(2.0)
    y = mingrad.max(1.0, x, -5)
    y.backward()
    assert y.data == 2.0 and x.grad == 1.0


def test_the_same_nary_ops_give_the_same_bits_on_every_instruction_set():
    from mingrad import _core

    rng = random.Random(9)
    numbers = [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-8, 8) for _ in range(333)]
    results = []
    before = _core._simd()
    try:
        for level in ("base", before):
            _core._simd(level)
            xs = [mingrad.Variable(x) for x in numbers]
            found = []
            for count in list(range(1, 40)) + [333]:
                for y in (
                    mingrad.sum(xs[:count]),
                    mingrad.dot(xs[:count], xs[-count:]),
                    mingrad.norm(xs[:count]),
                    mingrad.logsumexp(xs[:count]),
                    *mingrad.softmax(xs[:count]),
                ):
                    y.backward()
                    found.append(y.data.hex())
            results.append(found + [x.grad.hex() for x in xs])
    finally:
        _core._simd(before)
    assert results[0] == results[1]
