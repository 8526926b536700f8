"""Compiled functions: the same bits as the function itself, values and gradients, for any numbers.

Each test runs a function as it is and compiled, on the numbers it was recorded with and on others:
every op, random graphs, programs that hypothesis makes, layers, nests. Then what decides the way
(guards), what a recording refuses, parameters, the cache, memory, threads, failing allocations, and
the steps that a program ends in. It times nothing.
"""

import array
import collections
import dataclasses
import gc
import itertools
import math
import os
import random
import sys
import threading
import time
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, apply, as_function, random_graph, run_python
from mingrad import (
    RecordingError,
    Variable,
    VariableList,
    _core,
    autodiff,
    derivative,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacrev,
    jvp,
    nn,
    optim,
    value_and_grad,
    vjp,
)
from watch import no_trace, refuses, same_by_each_instruction_set, spell, stress

INF, NAN = math.inf, math.nan
# Kinks, ties, ends of the line.
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-300, 5e-324, 1e155, -1e308, INF, -INF, NAN]
# One seed for each result, none of them 0 or 1.
SEEDS = [0.75, -1.25, 1.5, 0.625, -0.875]


def bits(x):
    x = x.data if isinstance(x, Variable) else float(x)
    return "nan" if x != x else x.hex()


def outcome(f, args, parameters=(), passes=1):
    """Everything that can be seen of a call with these numbers as Variables: the results' bits, the
    gradients' bits of the arguments and parameters after backward(), or what was raised."""
    leaves, build = autodiff._flatten(args, "arguments")
    leaves = [Variable(x) for x in leaves]
    for p in parameters:
        p.zero_grad()
    try:
        results = autodiff._flatten(f(*build(leaves)), "results")[0]
    except (ArithmeticError, ValueError) as error:
        return type(error).__name__, str(error)
    nodes = [x for x in results if isinstance(x, Variable) and x.requires_grad]
    for _ in range(passes if nodes else 0):
        mingrad.dot(nodes, list(itertools.islice(itertools.cycle(SEEDS), len(nodes)))).backward()
    return [bits(x) for x in results], [bits(v.grad) for v in [*leaves, *parameters]]


def same(f, *calls, parameters=(), compiled=None, passes=1):
    """Fail unless f compiled gives the outcome of f for all of these argument tuples, in this order
    and again in reverse. Returns the compiled function."""
    compiled = compiled or mingrad.compile(f)
    for args in [*calls, *calls[::-1]]:
        expected = outcome(f, args, parameters, passes)
        assert outcome(compiled, args, parameters, passes) == expected, f"at {args}"
    return compiled


def raised(call):
    """(type, text, lines of this file that the traceback went through) of what the call raises."""
    try:
        call()
    except Exception as error:
        lines, at = [], error.__traceback__
        while at is not None:
            if at.tb_frame.f_code.co_filename == __file__:
                lines.append(at.tb_lineno)
            at = at.tb_next
        return type(error), str(error), lines[2:]
    raise AssertionError("nothing was raised")


# -- every op --------------------------------------------------------------------------------------

TABLE = {row["name"]: row for row in _core._ops()}
UNARY = [name for name, row in TABLE.items() if row["kind"] == "unary" and name[0] != "_"]
BINARY = [name for name, row in TABLE.items() if row["kind"] == "binary" and name != "_polygamma"]
PARAMETERS = {"leaky_relu", "elu", "clamp_min", "clamp_max", "_huber"}  # b is a number for these


@pytest.mark.parametrize("op", UNARY)
def test_a_unary_op_gives_the_same_bits_at_every_kink(op):
    f = spell(op)
    start = next(x for x in (0.5, 1.5) if not isinstance(outcome(f, (x,))[1], str))
    same(f, (start,), *[(x,) for x in SPECIAL])
    with mingrad.errstate(all="ignore"):
        same(f, (start,), *[(x,) for x in SPECIAL])


@pytest.mark.parametrize("op", BINARY)
def test_a_binary_op_gives_the_same_bits_for_every_pair(op):
    f = spell(op)
    pairs = list(itertools.product(SPECIAL, repeat=2))
    if op not in PARAMETERS:
        same(f, (0.5, 0.25), *pairs)
        same(lambda x: f(x, x), (0.5,), *[(x,) for x in SPECIAL])
    for number in (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -3.0, NAN):
        if op == "_huber" and not number > 0:
            continue
        for ordered in (lambda x: f(x, number), lambda x: f(number, x)):
            try:
                ordered(Variable(0.25))
            except (ArithmeticError, ValueError, TypeError):
                continue
            same(ordered, (0.25,), *[(x,) for x in SPECIAL])


def lists(rng, n):
    """Lists of n numbers: moderate ones, with ties, with specials."""
    yield [rng.uniform(-2, 2) for _ in range(n)]
    yield [rng.choice([-1.0, 0.5, 2.0]) for _ in range(n)]
    yield [0.0] * n
    for _ in range(6):
        yield [rng.choice([rng.uniform(-2, 2), *SPECIAL]) for _ in range(n)]


NARY_FUNCTIONS = {name: getattr(mingrad, name) for name in "sum mean prod max min logsumexp norm softmax".split()} | {
    "dot": lambda xs: mingrad.dot(xs, xs[::-1]),
    "dot with numbers": lambda xs: mingrad.dot(xs, [0.5 - k for k in range(len(xs))]),
    "log of softmax": lambda xs: [mingrad.log(p) for p in mingrad.softmax(xs)],
    "cross_entropy": lambda xs: nn.cross_entropy(xs, len(xs) // 2),
    "mse": lambda xs: nn.mse_loss(xs, [0.5] * len(xs)),
    "l1": lambda xs: nn.l1_loss(xs, [0.5] * len(xs)),
    "bce with logits": lambda xs: nn.binary_cross_entropy_with_logits(xs, [1.0] * len(xs)),
    "huber": lambda xs: nn.huber_loss(xs, xs[::-1]),
    "hinge": lambda xs: nn.hinge_loss(xs, [1.0] * len(xs)),
    "python's sum": sum,
    "python's max": max,
    "python's sorted": lambda xs: [x * (k + 1.0) for k, x in enumerate(sorted(xs))],
    "softmax twice": lambda xs: mingrad.softmax(mingrad.softmax(xs)),
    "two softmaxes": lambda xs: [*mingrad.softmax(xs), *mingrad.softmax([2.0 * x for x in xs])],
}


@pytest.mark.parametrize("name", NARY_FUNCTIONS)
def test_an_op_over_a_list_gives_the_same_bits(name):
    rng = random.Random(name)
    for n in (1, 2, 3, 7, 8, 9, 33):
        if n == 33 and "python" in name:  # as many guards
            continue
        same(NARY_FUNCTIONS[name], *[(xs,) for xs in lists(rng, n)])
        same(lambda xs: NARY_FUNCTIONS[name](VariableList(xs)), *[(xs,) for xs in lists(rng, n)])


# -- random functions ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
def test_a_random_graph_gives_the_same_bits_at_other_numbers(seed):
    rng = random.Random(seed)
    graph = random_graph(seed, rng.choice([20, 60, 200]), EXACT + LIBM + OTHER + NARY, reference)
    f, start = as_function(graph, mingrad)
    other = [[rng.uniform(-2, 2) for _ in start] for _ in range(4)]
    hostile = [[rng.choice([*SPECIAL, x]) for x in start] for _ in range(4)]
    with mingrad.errstate(all="ignore"):
        same(f, (start,), *[(xs,) for xs in other + hostile])
    same(f, (start,), *[(xs,) for xs in other + hostile], passes=2)


def interpret(code, xs):
    """Run a program made by hypothesis."""
    return interpret_all(code, xs)[-1]


def interpret_all(code, xs):
    """Everything that it computes: places are taken modulo how many values there are."""
    values = list(xs)
    value = lambda k: values[k % len(values)]
    for kind, *rest in code:
        if kind == "op":
            name, operands = rest
            values.append(apply(mingrad, name, [value(k) if isinstance(k, int) else k for k in operands]))
        elif kind == "branch":
            compare, j, k, yes, no = rest
            values.append(interpret(yes if COMPARE[compare](value(j), value(k)) else no, values[-6:]))
        elif kind == "while":
            j, limit, body = rest
            x, count = value(j), 0
            while x < limit and count < 4:
                x, count = interpret(body, [x, *values[-2:]]) + 1.0, count + 1
            values.append(x)
        elif kind == "recursion":
            j, depth = rest
            halve = lambda x, n: x if n == 0 or abs(x) < 0.25 else halve(0.5 * x, n - 1) + 0.125
            values.append(halve(value(j), depth))
        elif kind == "truth":
            values.append((value(rest[0]) and value(rest[1])) or value(rest[2]))
        else:
            values.append({"max": max, "min": min, "sorted": lambda v: sorted(v)[1]}[kind]([value(k) for k in rest]))
    return values


COMPARE = {
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "not <": lambda x, y: not x < y,
    "number <": lambda x, y: 0.5 < x,
    "<= int": lambda x, y: x <= 1,
    "chain": lambda x, y: -1.0 < x <= y < 2,
}
PLACE = st.integers(0, 40)
NUMBER = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, -0.75, 3.0])
SAFE = [
    "+",
    "-",
    "*",
    "maximum",
    "minimum",
    "neg",
    "relu",
    "abs",
    "square",
    "tanh",
    "sigmoid",
    "sin",
    "leaky_relu",
    "atan2",
]


def instructions(depth):
    operation = st.sampled_from(SAFE + ["/", "log", "exp", "sqrt", "**2", "**-1", "**0.5"]).flatmap(
        lambda name: st.tuples(
            st.just("op"),
            st.just(name),
            st.tuples(PLACE, PLACE | NUMBER)
            if name in ("+", "-", "*", "/", "maximum", "minimum", "atan2")
            else st.tuples(PLACE),
        )
    )
    simple = [
        operation,
        operation,
        st.tuples(
            st.just("op"),
            st.sampled_from(["sum", "max", "logsumexp", "softmax"]),
            st.tuples(PLACE, PLACE, PLACE),
        ),
        st.tuples(st.just("truth"), PLACE, PLACE, PLACE),
        st.tuples(st.sampled_from(["max", "min", "sorted"]), PLACE, PLACE, PLACE),
        st.tuples(st.just("recursion"), PLACE, st.integers(0, 4)),
    ]
    if depth:
        inner = st.lists(instructions(depth - 1), min_size=1, max_size=3)
        simple += [
            st.tuples(st.just("branch"), st.sampled_from(sorted(COMPARE)), PLACE, PLACE, inner, inner),
            st.tuples(st.just("while"), PLACE, NUMBER, inner),
        ]
    return st.one_of(simple)


POINT = st.lists(NUMBER | st.floats(-3, 3) | st.sampled_from(SPECIAL), min_size=3, max_size=3)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(instructions(2), min_size=2, max_size=12), st.lists(POINT, min_size=2, max_size=5))
def test_a_program_with_branches_loops_and_recursion_gives_the_same_bits(code, points):
    with mingrad.errstate(all="ignore"):
        same(lambda xs: interpret(code, xs), *[(xs,) for xs in points])


KIND = st.sampled_from([lambda x: x, Variable, Variable, lambda x: Variable(x, requires_grad=False)])


def seen(f, args):
    """Everything that can be seen of a call: results with their kinds, the gradients of each, or what was raised."""
    tree, scale = args
    leaves = [x for x in (tree["a"], *tree["b"][0], scale) if isinstance(x, Variable)]
    try:
        results = f(*args)
    except (ArithmeticError, ValueError, TypeError) as error:
        return type(error).__name__, str(error)
    found = [str(results.keys()), type(results["rest"]).__name__]
    for x in [results["last"], results["rest"][0], *results["rest"][1]]:
        found.append(repr(x) if isinstance(x, complex) else (*kinds(x), bits(x)))
        if isinstance(x, Variable) and x.requires_grad:
            for v in leaves:
                v.zero_grad()
            x.backward(-0.75)
            found.append([bits(v.grad) for v in leaves])
    return found


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(instructions(2), min_size=2, max_size=10),
    st.lists(st.tuples(POINT, st.tuples(KIND, KIND, KIND)), min_size=2, max_size=5),
)
def test_nests_of_floats_and_variables_give_nests_of_the_same(code, calls):
    """And the same errors: nothing is ignored here."""

    def f(tree, scale):
        values = interpret_all(code, [tree["a"], *tree["b"][0], scale])
        return {"last": values[-1], "rest": (values[len(values) // 2], [values[3], values[-2]])}

    compiled = mingrad.compile(f)
    for numbers, makes in [*calls, *calls[::-1]]:
        args = []
        for _ in range(2):
            x, y, z = (make(number) for make, number in zip(makes, numbers))
            args.append(({"a": x, "b": ([y], None)}, z))
        assert seen(compiled, args[0]) == seen(f, args[1]), numbers


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 63, 255, 256, 257, 600])
def test_steps_of_any_width_give_the_same_bits(n):
    def f(xs, ys, c):
        maps = [mingrad.tanh(x) * y for x, y in zip(xs, ys)]  # side by side
        odd = [x - c for x in xs[::2]] + [y / c for y in ys[::-1]]  # by a stride, backwards
        shuffled = [xs[k * 7 % n] * ys[k * 11 % n] for k in range(n)]  # anywhere
        chain = 0.0
        for x, y in zip(xs, ys):
            chain = chain + x * y
        outer = [xs[k % n] * ys[k // n % n] for k in range(4 * n)]
        back = c
        for x, y in zip(xs[::-1], ys):
            back = x * y + back
        return [
            sum(maps),
            sum(odd),
            sum(shuffled),
            chain,
            sum(outer),
            back,
            xs[0] * ys[-1] + c,
            mingrad.dot(xs, ys),
            mingrad.sum([x * y + c for x, y in zip(xs, ys)]),
            mingrad.sum([c * x for x in xs]),
        ]

    rng = random.Random(n)
    point = lambda: (
        [rng.uniform(-1, 1) for _ in range(n)],
        [rng.uniform(-1, 1) for _ in range(n)],
        1.5,
    )
    same(f, point(), point())


def test_a_sum_that_starts_at_0_has_the_sign_of_zero_that_it_should():
    same(lambda x: mingrad.atan2(sum([x * 1.5, x * 2.0]), -1.0), (0.5,), (-0.0,), (0.0,))


def test_the_same_expression_written_twice_has_the_gradient_of_both():
    """Equal values are computed once, but each has its own adjoint."""
    same(
        lambda x, y: (x * y + mingrad.exp(x * y)) * (y * x) + mingrad.exp(y * x),
        (0.3, 0.7),
        (-1.1, 0.2),
    )
    same(lambda x, y: [x * y, x * y, y * x, x, x, y], (0.3, 0.7), (0.0, INF))


# -- layers ----------------------------------------------------------------------------------------


def make_modules():
    yield "Linear", nn.Linear(3, 4), 3
    yield "Linear without bias", nn.Linear(3, 4, bias=False), 3
    yield "MLP tanh", nn.MLP(3, [4, 2]), 3
    yield "LayerNorm", nn.LayerNorm(5), 5
    yield "RMSNorm", nn.RMSNorm(5), 5
    yield "Sequential", nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2), nn.Tanh()), 3
    yield "Neuron", nn.Neuron(3), 3


def test_layers_give_the_same_bits_and_the_same_gradients_of_their_parameters():
    rng = random.Random(5)
    for _name, module, n in make_modules():
        parameters = list(module.parameters())
        for p in parameters:
            p.data = rng.uniform(-1, 1)
        points = [([rng.uniform(-2, 2) for _ in range(n)],) for _ in range(3)] + [([0.0] * n,)]
        f = lambda xs: module(xs)
        g = same(f, *points, parameters=parameters)
        for p in parameters:
            p.data = rng.uniform(-1, 1)
        same(f, *points, parameters=parameters, compiled=g)


@pytest.mark.parametrize("samples", [1, 2, 5, 40])
def test_a_layer_over_many_samples_gives_the_same_gradients(samples):
    rng = random.Random(samples)
    model = nn.MLP(2, [6, 1])
    parameters = list(model.parameters())

    def loss(batch, targets):
        outputs = [model(xs) for xs in batch]
        outputs = [y[0] if isinstance(y, (list, VariableList)) else y for y in outputs]
        return nn.mse_loss(outputs, targets) + 1e-4 * mingrad.sum([p * p for p in parameters])

    points = [
        (
            [[rng.uniform(-1, 1) for _ in range(2)] for _ in range(samples)],
            [1.0, -1.0] * (samples // 2) + [1.0] * (samples % 2),
        )
        for _ in range(2)
    ]
    same(loss, *points, parameters=parameters)


def test_neurons_in_plain_loops_give_the_same_gradients():
    rng = random.Random(8)
    w = [[[Variable(rng.uniform(-1, 1)) for _ in range(i)] for _ in range(o)] for i, o in ((2, 5), (5, 5), (5, 1))]
    b = [[Variable(rng.uniform(-1, 1)) for _ in layer] for layer in w]
    parameters = [p for layer in w for row in layer for p in row] + [p for layer in b for p in layer]

    def loss(points, targets):
        total = 0.0
        for xs, target in zip(points, targets):
            for layer, biases in zip(w, b):
                xs = [mingrad.tanh(sum((wi * xi for wi, xi in zip(row, xs)), bias)) for row, bias in zip(layer, biases)]
            total = total + (1.0 - target * xs[0]).relu()
        return total / len(points) + 1e-3 * sum(p * p for p in parameters)

    points = lambda: (
        [[rng.uniform(-1, 1), rng.uniform(-1, 1)] for _ in range(7)],
        [rng.choice([1.0, -1.0]) for _ in range(7)],
    )
    same(loss, points(), points(), parameters=parameters)


def attention(q, k, v):
    """Plain loops."""
    found = []
    for qi in q:
        weights = [sum(a * b for a, b in zip(qi, kj)) / len(qi) ** 0.5 for kj in k]
        top = max(weights)
        weights = [mingrad.exp(w - top) for w in weights]
        total = sum(weights)
        found.append([sum(w / total * vj[c] for w, vj in zip(weights, v)) for c in range(len(v[0]))])
    return found


def test_attention_in_plain_loops_gives_the_same_bits():
    rng = random.Random(3)
    matrix = lambda: [[rng.uniform(-1, 1) for _ in range(4)] for _ in range(3)]
    same(attention, *[(matrix(), matrix(), matrix()) for _ in range(3)])


# -- derivatives -----------------------------------------------------------------------------------


def smooth(x, y):
    s = mingrad.sin(x * y) + mingrad.tanh(x) / (1.5 + y * y)
    return s * s + mingrad.logsumexp([x, y, s]) + mingrad.softmax([x, s, y])[1] + mingrad.prod([x, y, s]) + mingrad.norm([x, y])


def choosing(x, y):
    z = x * y if x < y else mingrad.exp(y) - x
    return mingrad.maximum(z, x) * abs(y) + mingrad.relu(z - 0.25) ** 3


def numbers(tree):
    return [x.data if isinstance(x, Variable) else x for x in autodiff._flatten(tree, "results")[0]]


FIRST = {
    "grad": lambda f: lambda x, y: grad(f, argnums=(0, 1))(x, y),
    "value_and_grad": lambda f: lambda x, y: value_and_grad(f, argnums=(0, 1))(x, y),
    "jacrev": lambda f: lambda x, y: jacrev(f, argnums=(0, 1))(x, y),
    "jacfwd": lambda f: lambda x, y: jacfwd(f, argnums=(0, 1))(x, y),
    "jvp": lambda f: lambda x, y: jvp(f, (x, y), (0.75, -1.25)),
    "vjp": lambda f: lambda x, y: vjp(f, x, y)[1](0.75),
}
SECOND = {
    "hessian": lambda f: lambda x, y: hessian(f, argnums=(0, 1))(x, y),
    "hvp": lambda f: lambda x, y: hvp(f, (x, y), (0.75, -1.25)),
    "grad of grad": lambda f: lambda x, y: grad(lambda x: grad(f)(x, y) * x)(x),
    "second derivative": lambda f: lambda x, y: derivative(lambda x: f(x, y), 2)(x),
    "jvp of grad": lambda f: lambda x, y: jvp(lambda x: grad(f)(x, y), (x,), (1.0,)),
}
POINTS = [(0.3, 0.8), (0.9, -0.4), (1.0, 1.0), (-0.7, 0.1)]


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("f", [smooth, choosing])
def test_first_derivatives_through_a_compiled_function_have_the_same_bits(f, name):
    g = mingrad.compile(f)
    for point in POINTS + POINTS[::-1]:
        assert list(map(bits, numbers(FIRST[name](g)(*point)))) == list(map(bits, numbers(FIRST[name](f)(*point)))), point


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("f", [smooth, choosing])
def test_higher_derivatives_through_a_compiled_function(f, name):
    """Terms may come in another order: some roundings of numbers of size one to ten."""
    g = mingrad.compile(f)
    for point in POINTS + POINTS[::-1]:
        for x, y in zip(numbers(SECOND[name](g)(*point)), numbers(SECOND[name](f)(*point))):
            assert math.isclose(x, y, rel_tol=1e-14, abs_tol=1e-14), (point, x, y)


@pytest.mark.parametrize("name", [*FIRST, *SECOND])
@pytest.mark.parametrize("f", [smooth, choosing])
def test_derivatives_inside_a_compiled_function(f, name):
    take = {**FIRST, **SECOND}[name](f)
    g = mingrad.compile(take)
    for point in POINTS + POINTS[::-1]:
        for x, y in zip(numbers(g(*point)), numbers(take(*point))):
            assert math.isclose(x, y, rel_tol=1e-14, abs_tol=1e-14), (point, x, y)


def test_a_softmax_that_outlives_the_recording_of_its_derivative_keeps_its_operands():
    kept = []

    def inner(a, b, c):
        def f(x):
            kept[:] = [mingrad.softmax([c, x, a, b])[1], a, b, c]  # no run of nodes: its operands are listed
            return kept[0]

        return grad(f)(a + b)

    mingrad.compile(inner)(0.5, 0.25, 0.75)
    _core._check()
    others = [Variable(1.0) for _ in range(3)]
    later = [mingrad.logsumexp(others[::-1]) for _ in range(3)]
    kept[0].backward()
    a, b, c = (Variable(x) for x in (0.5, 0.25, 0.75))
    mingrad.softmax([c, a + b, a, b])[1].backward()
    assert [x.grad for x in kept[1:]] == [x.grad for x in (a, b, c)]
    assert [x.grad for x in others] == [0.0] * len(later)


def test_kinks_of_derivatives_inside_a_compiled_function_are_guards():
    for op in ("relu", "abs", "gelu", "silu", "softplus", "sigmoid", "sign", "tanh", "atan"):
        inner = spell(op)
        same(lambda x: grad(inner)(x) * x, *[(x,) for x in (0.5, -0.5, 0.0, -0.0, 2.0, NAN)])
    for op in ("maximum", "minimum", "pow", "hypot", "atan2"):
        inner = spell(op)
        same(lambda x, y: grad(inner)(x, y) * x, *itertools.product((0.5, 0.0, 2.0), repeat=2))
    same(
        lambda xs: mingrad.sum(grad(lambda xs: mingrad.max(xs))(xs)),
        *[(x,) for x in ([1.0, 2.0], [2.0, 2.0], [3.0, 2.0])],
    )


def test_backward_with_create_graph_goes_through_a_program():
    f = mingrad.compile(smooth)
    found = []
    for g in (smooth, f, f):
        x, y = Variable(0.3), Variable(0.8)
        g(x, y).backward(create_graph=True)
        slope = x.grad
        y.zero_grad()
        slope.backward()
        found.append((slope.data, y.grad if isinstance(y.grad, float) else y.grad.data))
    assert found[1] == found[2]
    for got, expected in zip(found[1], found[0]):
        assert math.isclose(got, expected, rel_tol=1e-14)


LAYERS = {
    "one sample": lambda layer: lambda z: mingrad.tanh(layer([z, 0.5 * z])[0]),
    "two layers deep": lambda layer: lambda z: mingrad.tanh(layer([layer([z, 1.0])[0], z])[0]),
    "three samples": lambda layer: lambda z: mingrad.sum([mingrad.tanh(layer([z, 0.1 * k])[0]) for k in range(3)]),
}


@pytest.mark.parametrize(
    "take",
    [grad, lambda f: lambda z: hvp(f, (z,), (1.0,)), lambda f: lambda z: jvp(f, (z,), (1.0,))],
    ids=["grad", "hvp", "jvp"],
)
@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_through_a_compiled_layer(name, take):
    layer = nn.Linear(2, 1)
    for p, value in zip(layer.parameters(), (0.7, -0.4, 0.6)):
        p.data = value
    f = LAYERS[name](layer)
    for x, y in zip(numbers(take(mingrad.compile(f))(0.5)), numbers(take(f)(0.5))):
        assert math.isclose(x, y, rel_tol=1e-14), (x, y)


def test_derivatives_through_many_compiled_layers_end_where_they_should():
    """In a process of its own: it may take the process with it."""
    assert (
        run_python("""
        import mingrad
        from mingrad import nn
        layer = nn.Linear(2, 1)
        for p in layer.parameters():
            p.data = 0.4
        def f(z):
            y = z
            for k in range(60000):
                y = layer([y, z])[0]
            return y
        mingrad.hvp(mingrad.compile(f), (0.5,), (1.0,))
        print("done")
    """)
        == "done"
    )


# -- guards ----------------------------------------------------------------------------------------


def test_guards_flip_in_every_order():
    def f(x, y):
        found = 1.0
        for value in (x, y, x + y):
            found = found * value if value > 0.5 else found - value * value
        return found

    points = [(0.1, 0.2), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9), (0.3, 0.3)]  # five ways
    for order in itertools.permutations(points):
        compiled = same(f, *order)
        assert len(compiled.programs) == 5


@pytest.mark.parametrize("name", COMPARE)
def test_each_comparison_is_checked_in_every_run(name):
    numbers = [0.0, -0.0, 0.5, 1.0, -1.0, 2.0, INF, NAN, 5e-324]
    same(
        lambda x, y: x * 3.0 if COMPARE[name](x, y) else x - y,
        *itertools.product(numbers, repeat=2),
    )


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * 2 if x > 3 else -x,
        lambda x: x * 2 if 3.0 >= x else -x,
        lambda x: x * 2 if x else -x + 1,
        lambda x: x and 2.0 * x,
        lambda x: x or x + 1.0,
        lambda x: max(x, 0.5) * x,
        lambda x: min(0.5, x, x * x),
        lambda x: sorted([x, 1.0, x * x])[1] * x,
        lambda x: abs(max([x, -x])),
        lambda x: [1.0 * x, 2.0 * x][x > 0],
        lambda x: x * sum(1.0 for k in range(4) if k < x),
        lambda x: x if not (0.0 < x < 2.0) else x * x,
        lambda x: x * 2.0 if any(v > 1 for v in (x, -x)) else x,
        lambda x: x * 2 if x > INF else x * 3,
        lambda x: x * 2 if x <= NAN else x * 3,
    ],
)
def test_python_decides_by_values(f):
    same(f, *[(x,) for x in (2.0, 4.0, 3.0, 0.0, -0.0, 0.5, 1.0, -1.5, INF, NAN)])


def test_a_guard_on_a_parameter_is_checked_in_every_run():
    w = Variable(1.0)
    f = mingrad.compile(lambda x: w * x if w > 0 else x * x)
    for value in (1.0, -1.0, 2.0, -3.0):
        w.data = value
        x = Variable(3.0)
        w.zero_grad()
        y = f(x)
        y.backward()
        assert (y.data, x.grad, w.grad) == ((3.0 * value, value, 3.0) if value > 0 else (9.0, 6.0, 0.0))
    assert len(f.programs) == 2


def test_a_guard_on_a_constant_from_outside_is_checked_in_every_run():
    c = Variable(1.0, requires_grad=False)
    f = mingrad.compile(lambda x: x * 2.0 if c > 0 else x * 3.0)
    assert bits(f(1.0)) == bits(2.0)
    c.data = -1.0
    assert bits(f(1.0)) == bits(3.0)


def test_a_loop_takes_as_long_as_its_numbers_ask():
    def newton(a):
        x, count = a, 0
        while abs(x * x - a) > 1e-9 * a and count < 60:
            x, count = 0.5 * (x + a / x), count + 1
        return x

    same(newton, *[(a,) for a in (2.0, 2.5, 100.0, 1e-6, 1.0)])


def test_an_untaken_branch_does_not_raise():
    f = mingrad.compile(lambda x: mingrad.log(x) if x > 0 else 1 / x if x else x)
    for _k in range(2):
        assert (f(1.0), f(-2.0), f(0.0), f(math.e)) == (0.0, -0.5, 0.0, math.log(math.e))


# -- what is refused -------------------------------------------------------------------------------

w_outside = Variable(3.0, label="w")
result_outside = w_outside * 2.0
constant = Variable(2.0, requires_grad=False)
COMPUTE = "Compute with the Variable itself (mingrad.exp, abs, comparisons, mingrad.stop_gradient)"
LATER = "in a function that is being compiled: the number would be the same in every later call. " + COMPUTE
WRITTEN = "was written in a function that is being compiled: later calls would not repeat it. Write it outside"


def without_gradients(x):
    with mingrad.no_grad():
        return x * 2.0


REFUSED = {
    "data": (lambda x: x.data * 2, ".data of the leaf Variable(data=2.0) was read " + LATER),
    "data of a result": (
        lambda x: (x * x).data,
        ".data of the result of '*' (data=4.0) was read " + LATER,
    ),
    "data of a parameter": (
        lambda x: x * w_outside.data,
        ".data of Variable 'w' was read " + LATER,
    ),
    "item": (lambda x: x.item(), ".item() of the leaf Variable(data=2.0) was read " + LATER),
    "grad": (
        lambda x: x.grad,
        ".grad was read in a function that is being compiled: use mingrad.grad inside, or read it outside",
    ),
    "backward": (
        lambda x: (x * x).backward(),
        "backward() in a function that is being compiled: use mingrad.grad inside, or call backward() on the result outside",
    ),
    "hook": (
        lambda x: x.register_hook(print),
        (
            "register_hook() in a function that is being compiled: a program has no nodes to "
            "hook; hook its arguments or its result"
        ),
    ),
    "no_grad": (
        without_gradients,
        (
            "no_grad() in a function that is being compiled: results would be the same in every later "
            "call; use mingrad.stop_gradient"
        ),
    ),
    "a write": (lambda x: setattr(w_outside, "data", 1.0), "Variable 'w' " + WRITTEN),
    "requires_grad": (
        lambda x: setattr(w_outside, "requires_grad", False),
        "Variable 'w' " + WRITTEN,
    ),
    "a comparison": (
        lambda x: x < "a",
        "comparison with str in a function that is being compiled: compare with a float",
    ),
    "a large int": (
        lambda x: x < 2**70,
        "comparison with int in a function that is being compiled: compare with a float",
    ),
}


def place_of(f):
    code = f.__code__
    line = code.co_firstlineno + (2 if f is without_gradients else 0)
    return f" ({code.co_filename}, line {line}, in {code.co_name})"


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_recording_cannot_repeat_is_refused_with_the_users_line(name):
    f, text = REFUSED[name]
    compiled = mingrad.compile(f)
    for _ in range(2):
        refuses(lambda: compiled(2.0), RecordingError, text + place_of(f), [w_outside])
    assert compiled.programs == []


def test_a_result_from_outside_is_refused():
    text = (
        "the result of '*' (data=6.0) was computed before the function that is being compiled, "
        "which would keep that value for "
        "ever: compute it inside, or pass it as an argument"
    )
    refuses(lambda: mingrad.compile(lambda x: x * result_outside)(2.0), RecordingError, text)
    refuses(
        lambda: mingrad.compile(lambda x: x if result_outside > x else -x)(2.0),
        RecordingError,
        text,
    )


def test_a_list_of_numbers_read_is_refused():
    for read in (lambda xs: xs.tolist(), lambda xs: xs.data):
        with pytest.raises(
            RecordingError,
            match=r"of the leaf Variable.data=1.0. was read in a function that is being compiled",
        ):
            mingrad.compile(read)(VariableList([1.0, 2.0]))


@pytest.mark.parametrize(
    "read, name",
    [
        (float, "float"),
        (int, "int"),
        (round, "round"),
        (complex, "complex"),
        (math.trunc, "trunc"),
        (math.exp, "float"),
        (math.isnan, "float"),
    ],
)
def test_a_number_made_of_a_variable_is_refused_with_the_cure_for_recordings(read, name):
    f = lambda x: read(x)
    text = f"the number (for {name}()) of the leaf Variable(data=2.0) was read " + LATER
    refuses(lambda: mingrad.compile(f)(2.0), RecordingError, text + place_of(f))
    with pytest.raises(TypeError, match="would leave the graph"):  # a constant, as elsewhere
        mingrad.compile(lambda x: read(Variable(1.0, requires_grad=False)))(2.0)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: float(f"{x:.17g}") * x,
        lambda x: float(repr(x).split("=")[1].split(",")[0]) * x,
        lambda x: len(f"{x}") * x,
        lambda x: len(str([x])) * x,
        lambda x: len("%s" % x) * x,
        lambda x: {str(x): x}["2"],
    ],
)
def test_a_number_read_off_its_text_is_refused(read):
    f = mingrad.compile(read)
    text = "the text of the leaf Variable(data=2.0) was read " + LATER
    for x in (2.0, Variable(2.0)):
        refuses(lambda: f(x), RecordingError, text + place_of(read))
    assert str(Variable(2.0)) == "Variable(data=2.0, grad=0.0)"
    assert mingrad.compile(lambda x: x * len(str(Variable(1.0, requires_grad=False))))(1.0) == 28.0


@pytest.mark.parametrize(
    "catch",
    [
        lambda x: caught(lambda: x.data, x),
        lambda x: caught(lambda: x == 2.0, x),
        lambda x: caught(lambda: setattr(w_outside, "data", 1.0), x),
    ],
)
def test_a_refusal_that_the_function_catches_is_raised_at_the_end(catch):
    """What the function does instead would be the same in every later call."""
    for _ in range(2):
        with pytest.raises(RecordingError, match="in a function that is being compiled"):
            mingrad.compile(catch)(2.0)


def caught(read, x):
    try:
        return read()
    except Exception:
        return x * 3.0


def test_data_of_a_constant_from_outside_is_refused():
    c = Variable(1.0, requires_grad=False)
    f = lambda x: x * c.data
    text = ".data of the leaf Variable(data=1.0) was read " + LATER
    refuses(lambda: mingrad.compile(f)(1.0), RecordingError, text + place_of(f))
    assert mingrad.compile(lambda x: x * Variable(2.0, requires_grad=False).data)(3.0) == 6.0


@pytest.mark.parametrize(
    "write",
    [
        lambda v: setattr(v, "grad", 5.0),
        lambda v: v.zero_grad(),
        lambda v: setattr(v, "label", "u"),
        lambda v: VariableList([v]).zero_grad(),
        lambda v: setattr(VariableList([v]), "grad", 5.0),
        lambda v: optim.SGD([v], lr=0.1).zero_grad(),
    ],
)
def test_other_writes_to_variables_from_outside_are_refused(write):
    v = Variable(1.0)
    f = mingrad.compile(lambda x: write(v) or x * v)
    text = "the leaf Variable(data=1.0) " + WRITTEN
    with no_trace([v]):
        with pytest.raises(RecordingError) as error:
            f(1.0)
        assert str(error.value).startswith(text)
        del error
    assert v.label == ""


@pytest.mark.parametrize("name", ["zero_grad", "step", "clip"])
def test_optimisers_inside_are_refused(name):
    layer = nn.Linear(1, 1)
    optimizer = optim.Adam(layer.parameters())
    do = {
        "zero_grad": layer.zero_grad,
        "step": optimizer.step,
        "clip": lambda: nn.utils.clip_grad_norm_(layer.parameters(), 1.0),
    }[name]
    f = mingrad.compile(lambda x: (do() and None) or layer([x])[0])
    with no_trace(list(layer.parameters())), pytest.raises(RecordingError, match="in a function that is being compiled"):
        f(1.0)


def test_names_given_inside_are_no_writes():
    def f(x):
        y = x * w_outside
        y.label = "y"
        y.grad = 1.0
        return y * 1.5

    assert [mingrad.compile(f)(2.0).data for _ in range(2)] == [9.0, 9.0]


def test_a_custom_function_is_refused_by_name():
    @mingrad.custom_vjp
    def cube(x):
        return x * x * x

    cube.defvjp(lambda x: (x * x * x, x), lambda x, g: (3 * x * x * g,))
    f = lambda x: cube(x) + 1.0
    text = (
        "'cube' is computed outside and cannot be part of a compiled function: call it before or "
        "after, and pass its result as an argument"
    )
    refuses(lambda: mingrad.compile(f)(2.0), RecordingError, text + place_of(f))
    assert mingrad.compile(lambda x: cube(2.0) * x)(3.0) == 24.0  # of a number it is one


def test_a_custom_function_is_refused():
    @mingrad.custom_vjp
    def cube(x):
        return x * x * x

    cube.defvjp(lambda x: (x * x * x, x), lambda x, g: (3 * x * x * g,))
    compiled = mingrad.compile(lambda x: cube(x) + 1.0)
    with no_trace(), pytest.raises(RecordingError):
        compiled(2.0)
    assert compiled.programs == []


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * 2 if x == 5.0 else x,
        lambda x: x * 2 if x in (5.0, 6.0) else x,
        lambda x: abs((x - 9.0) ** 0.5),
    ],
)
def test_what_floats_answer_otherwise_than_variables_is_refused_or_right(f):
    compiled = mingrad.compile(f)
    try:
        found = compiled(5.0)
    except RecordingError:
        return
    assert found == f(5.0) == compiled(5.0)


def test_what_asks_whether_a_number_is_a_float_is_found_by_check():
    """Nothing can see isinstance() from outside, and while a function is recorded its floats are Variables."""
    f = lambda x: x * 2 if isinstance(x, float) else x
    assert (f(5.0), mingrad.compile(f)(5.0)) == (10.0, 5.0)
    with pytest.raises(RuntimeError, match=r"number 0 of <lambda>'s result is 10\.0"):
        mingrad.compile(f, check=True)(5.0)


FROZEN = {
    "random.random": lambda x: x * random.random(),
    "time.time": lambda x: x * time.perf_counter(),
    "a dropout": lambda x: nn.Dropout(0.5)([x] * 64),
    "a counter": lambda x, count=itertools.count(1): x * next(count),
    "numpy.random": lambda x: x * pytest.importorskip("numpy", reason="NumPy is not installed").random.rand(),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_changes_from_call_to_call_is_frozen_and_check_finds_it(name):
    f = mingrad.compile(FROZEN[name])
    assert [bits(x) for x in autodiff._flatten(f(1.0), "")[0]] == [bits(x) for x in autodiff._flatten(f(1.0), "")[0]]
    with pytest.raises(RuntimeError, match="depends on something that is no argument"):
        mingrad.compile(FROZEN[name], check=True)(1.0)


def test_an_exception_of_the_function_leaves_everything_as_it_was():
    def f(x, how):
        y = w_outside * x
        z = [mingrad.exp(y) for _ in range(10)]
        if how == "key":
            raise KeyError("mine")
        if how == "log":
            return mingrad.log(-x * x)
        if how == "result":
            return z, None
        return sum(z)

    compiled = mingrad.compile(f)
    compiled(1.0, "fine")
    before = compiled.programs
    for how, kind in (("key", KeyError), ("log", ValueError), ("result", TypeError)):
        for x in (1.0, Variable(1.0)):
            with no_trace([w_outside]), pytest.raises(kind):
                compiled(x, how)
            assert compiled.programs == before and not _core._is_recording()
    w_outside.zero_grad()


def test_a_call_that_raises_leaves_nothing_in_the_cache():
    def f(x, how):
        if how < 0:
            raise KeyError(how)
        return x * how

    compiled = mingrad.compile(f, max_programs=2)
    with pytest.raises(KeyError):
        compiled(1.0, -1)
    assert [compiled(1.0, k) for k in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]


RAISING = {
    "1/x": (lambda x: 1 / (x - 2.0), 1.0, 2.0),
    "log": (lambda x: mingrad.log(x) + 1, 1.0, 0.0),
    "exp": (lambda x: mingrad.exp(x) * 2, 1.0, 1000.0),
    "pow": (lambda x: x**0.5 + x**-1.0, 1.0, 0.0),
    "floordiv": (lambda x: 3.0 // x, 1.0, 0.0),
    "mod": (lambda x: 3.0 % x, 2.0, 0.0),
    "sqrt": (lambda x: mingrad.sqrt(x - 1.0), 3.0, 0.0),
    "of two the first": (lambda x: mingrad.log(x) + 1 / x, 1.0, 0.0),
    "inside a layer": (lambda x: sum(mingrad.acosh(x * k) for k in (3.0, 2.0, 1.0)), 2.0, 0.6),
    "bce": (lambda x: nn.binary_cross_entropy([x], [1.0]), 0.5, 1.5),
}


@pytest.mark.parametrize("name", RAISING)
def test_errors_of_a_run_are_those_of_the_function_at_its_line(name):
    f, fine, wrong = RAISING[name]
    compiled = mingrad.compile(f)
    compiled(Variable(fine))
    expected = raised(lambda: f(Variable(wrong)))
    assert expected[2][-1] == f.__code__.co_firstlineno
    for _ in range(2):
        with no_trace():
            assert raised(lambda: compiled(Variable(wrong))) == expected
    if name != "pow":  # a float's power of a negative number is complex
        assert raised(lambda: compiled(wrong))[0] is raised(lambda: f(wrong))[0]
    assert compiled(Variable(fine)).data == f(Variable(fine)).data


def test_what_no_result_needs_raises_too():
    def f(x):
        1 / (x * 0.5)
        for k in range(3):
            mingrad.log(x + k)
        return x * 2.0

    compiled = mingrad.compile(f)
    assert compiled(1.0) == 2.0
    for x, kind in ((0.0, ZeroDivisionError), (-1.0, ValueError), (-2.5, ValueError)):
        assert raised(lambda: compiled(x))[:2] == raised(lambda: f(x))[:2]
        with no_trace():
            assert raised(lambda: compiled(Variable(x)))[0] is kind
    assert compiled(2.0) == 4.0 and len(compiled.programs) == 1


def test_what_other_threads_compute_meanwhile_is_no_part_of_a_recording():
    inside, go_on = threading.Event(), threading.Event()
    outside = []

    def f(x):
        y = x * 2.0
        inside.set()
        assert go_on.wait(10)
        1 / x
        return y

    def work():
        assert inside.wait(10)
        v = Variable(3.0)
        outside.append([v, v * v])
        outside.append(1 / outside[0][1])  # it can fail too
        go_on.set()

    thread = threading.Thread(target=work)
    thread.start()
    compiled = mingrad.compile(f)
    assert compiled(1.0) == 2.0
    thread.join()
    assert [name for name, *_ in compiled.programs[0].rows()] == ["leaf", "mul", "div"]
    with pytest.raises(ZeroDivisionError):
        compiled(0.0)


def test_an_error_that_the_function_catches_is_its_own_matter():
    """No recording can say what a function does with an error: for such numbers it is called as it is."""

    def f(x):
        try:
            return 1 / x
        except ZeroDivisionError:
            return x + 7.0

    for order in ((0.0, 2.0, 0.0), (2.0, 0.0, 4.0), (0.0, 0.0)):
        compiled = mingrad.compile(f)
        assert [compiled(x) for x in order] == [f(x) for x in order]
        assert len(compiled.programs) == (2.0 in order)
        with no_trace():
            x = Variable(0.0)
            compiled(x).backward()
            assert x.grad == 1.0
            del x
    assert mingrad.vmap(f)([0.0, 1.0]).tolist() == [INF, 1.0]  # rows are IEEE, none raises
    assert mingrad.vmap(f)([1.0, 0.0]).tolist() == [1.0, INF]


def test_the_first_call_raises_what_later_ones_raise():
    for name, (f, fine, wrong) in RAISING.items():
        first, later = mingrad.compile(f), mingrad.compile(f)
        later(fine)
        if name == "pow":  # a float's power of a negative number is complex
            continue
        expected = raised(lambda: f(wrong))
        assert raised(lambda: first(wrong)) == raised(lambda: later(wrong)) == expected, name


def test_ignored_errors_are_ignored_and_others_are_not():
    f = mingrad.compile(lambda x: mingrad.exp(x))
    with mingrad.errstate(all="ignore"):
        assert (f(1000.0), f(1.0)) == (INF, math.e)
    with pytest.raises(OverflowError):
        f(1000.0)
    assert (f(INF), f(-INF)) == (INF, 0.0) and math.isnan(f(NAN))


# -- results and gradients -------------------------------------------------------------------------


def test_a_result_that_is_not_used_adds_nothing_to_gradients():
    f = mingrad.compile(lambda x: (x * 2.0, mingrad.sqrt(x)))
    for _k in range(2):
        x = Variable(0.0)
        y, z = f(x)
        y.backward()
        assert x.grad == 2.0
        x.zero_grad()
        z.backward()
        assert x.grad == INF


def test_rows_of_a_jacobian_do_not_mix():
    f = lambda x: (x * 2.0, mingrad.sqrt(x))
    assert numbers(jacrev(f)(0.0)) == [2.0, INF]
    assert numbers(jacrev(mingrad.compile(f))(0.0)) == [2.0, INF]


def test_the_same_variable_twice_gets_both_gradients():
    f = mingrad.compile(lambda x, y: x * x * y)
    x = Variable(3.0)
    f(x, x).backward()
    assert x.grad == 27.0
    w = Variable(2.0)
    g = mingrad.compile(lambda x: w * x)
    g(w).backward()
    assert w.grad == 4.0


def test_results_are_built_as_the_function_builds_them():
    Pair = collections.namedtuple("Pair", "a b")
    f = mingrad.compile(lambda x, y: {"a": [x, (y, x * y)], "b": Pair(x, 2.0), "c": VariableList([x, y])})
    got = f(2.0, 3.0)
    assert got == {"a": [2.0, (3.0, 6.0)], "b": Pair(2.0, 2.0), "c": got["c"]} and list(got) == [
        "a",
        "b",
        "c",
    ]
    got = f(Variable(2.0), Variable(3.0))
    assert type(got["b"]) is Pair and type(got["c"]) is VariableList and got["a"][1][1].data == 6.0


def kinds(results):
    """Of each number: None for a float, whether it asks for a gradient for a Variable."""
    return [x.requires_grad if isinstance(x, Variable) else None for x in autodiff._flatten(results, "results")[0]]


MIXED = {
    "apart": lambda x, y, z: (x * 2.0, y * 3.0, z + x, x, y, 1.5, z * z / 2.0),
    "sequences": lambda x, y, z: [
        mingrad.sum([x, 1.0]),
        *mingrad.softmax([y, 2.0]),
        mingrad.dot([x, y], [1.0, z]),
        mingrad.max([1.0, 2.0, z]),
    ],
    "stopped": lambda x, y, z: [
        mingrad.stop_gradient(x) * 1.0,
        mingrad.stop_gradient(y) * z,
        mingrad.stop_gradient(z),
    ],
    "a constant made inside": lambda x, y, z: [
        x * Variable(2.0, requires_grad=False),
        Variable(1.0, requires_grad=False),
        mingrad.maximum(y, Variable(0.0, requires_grad=False)),
        abs(Variable(-2.0, requires_grad=False)) + z,
    ],
    "a constant from outside": lambda x, y, z: [
        x * constant,
        constant + 1.0,
        y + 1.0,
        z * mingrad.stop_gradient(constant),
    ],
    "a parameter": lambda x, y, z: [
        x * w_outside,
        y,
        mingrad.stop_gradient(w_outside * z),
        w_outside,
    ],
    "chosen": lambda x, y, z: [max(x, y), min(y, z), x and y, sorted([x, y, z])[1]],
}


@pytest.mark.parametrize("name", MIXED)
def test_a_result_is_a_float_or_a_variable_as_the_function_gives_it(name):
    f = MIXED[name]
    makes = (lambda x: x, Variable, lambda x: Variable(x, requires_grad=False))
    compiled = mingrad.compile(f)
    for _turn in range(2):
        for make in itertools.product(makes, repeat=3):
            args = lambda: [m(x) for m, x in zip(make, (1.5, -0.5, 2.0))]
            found, expected = compiled(*args()), f(*args())
            assert kinds(found) == kinds(expected) and list(map(bits, numbers_of(found))) == list(
                map(bits, numbers_of(expected))
            )
            with mingrad.no_grad():
                assert kinds(compiled(*args())) == kinds(f(*args()))


def numbers_of(tree):
    return autodiff._flatten(tree, "results")[0]


def test_what_a_result_does_not_depend_on_may_be_written():
    w, c = Variable(1.0), Variable(5.0)
    f = lambda x: x * 2.0 + mingrad.stop_gradient(c) if w > 0 else -x
    for g in (f, mingrad.compile(f)):
        x = Variable(3.0)
        y = g(x)
        w.data = 2.0
        y.backward()
        assert x.grad == 2.0


def test_a_parameter_that_is_only_compared_is_no_operand():
    w = Variable(1.0)
    f = lambda x: x * 2.0 if w > 0 else -x
    for g in (f, mingrad.compile(f)):
        x = Variable(3.0)
        y = g(x)
        w.data = 2.0
        y.backward()
        assert x.grad == 2.0 and type(g(1.0)) is float


def test_what_asks_for_no_gradient_gets_none():
    f = mingrad.compile(lambda x, y: x * y)
    x, c = Variable(2.0), Variable(3.0, requires_grad=False)
    f(x, c).backward()
    assert (x.grad, c.grad) == (3.0, 0.0)
    assert not f(c, c).requires_grad and f(2.0, 3.0) == 6.0
    with mingrad.no_grad():
        assert not f(x, x).requires_grad
    f(c, x).backward()  # another set of operands
    f(x, c).backward()
    assert x.grad == 9.0


def test_stop_gradient_and_detach_stop_gradients_only():
    for f in (
        lambda x: mingrad.stop_gradient(x) * x,
        lambda x: x.detach() * x * x,
        lambda x: mingrad.exp(x.detach()),
    ):
        same(lambda x: f(x) + 0.5 * x, (3.0,), (-1.0,), (0.0,))


# -- parameters ------------------------------------------------------------------------------------


def test_a_parameter_written_between_forward_and_backward_is_refused():
    w = Variable(2.0, label="w")
    f = mingrad.compile(lambda x: w * x)
    for g in (f._function, f):
        y = g(Variable(3.0))
        w.data = w.data
        refuses(
            y.backward,
            RuntimeError,
            "data of Variable 'w' (or its requires_grad) was written after this graph had used it; "
            "run the forward pass again before backward()",
            [w],
        )


def test_gradients_accumulate():
    w = Variable(2.0)
    f = mingrad.compile(lambda x: w * w * x)
    for k in range(1, 4):
        f(3.0).backward()
        assert w.grad == 12.0 * k


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_training_gives_the_same_bits_over_fifty_steps(name):
    found = []
    for wrap in (lambda f: f, mingrad.compile):
        rng = random.Random(1)
        model = nn.MLP(2, [8, 1])
        parameters = list(model.parameters())
        for p in parameters:
            p.data = rng.uniform(-1, 1)
        optimizer = getattr(optim, name)(parameters, lr=0.05)

        @wrap
        def loss(points, targets):
            total = 0.0
            for xs, target in zip(points, targets):
                y = model(xs)
                total = total + (1.0 - target * (y[0] if isinstance(y, (list, VariableList)) else y)).relu()
            return total / len(points)

        losses = []
        for _ in range(50):
            points = [[rng.uniform(-1, 1), rng.uniform(-1, 1)] for _ in range(6)]
            y = loss(points, [1.0 if a * b > 0 else -1.0 for a, b in points])
            optimizer.zero_grad()
            y.backward()
            optimizer.step()
            losses.append(y.data)
        found.append((losses, [p.data for p in parameters]))
    assert found[0] == found[1]


def test_constants_that_the_function_makes_are_frozen_and_those_outside_are_read():
    c = Variable(2.0, requires_grad=False)
    numbers = [5.0]
    f = mingrad.compile(lambda x: x * c + Variable(numbers[0], requires_grad=False) + numbers[0])
    assert numbers and f(1.0).data == 12.0
    c.data, numbers[0] = 3.0, 100.0
    assert f(1.0).data == 13.0


def test_constants_outside_that_only_layers_losses_and_lists_see_are_read():
    """Here nothing asks for a gradient where they are used: no reason to compute it once and for all."""
    a, b, *models = [
        VariableList([0.3, -0.7, 0.9]),
        VariableList([1.3, 0.2, 0.4]),
        nn.MLP(2, [3, 1]),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh()),
        nn.LayerNorm(3),
        nn.Embedding(2, 2),
    ]
    mlp, layers, norm, embedding = models
    constants = [*a, *b, *(p for model in models for p in model.parameters())]
    for v in constants:
        v.requires_grad = False

    def f(x):
        total = nn.mse_loss([x, x * x, x], b) + nn.huber_loss(a, b) + nn.cross_entropy([a, b], [0, 1])
        total += nn.binary_cross_entropy_with_logits(a, [0.0, 1.0, 1.0]) + nn.hinge_loss(a, [1, -1, 1]) + nn.l1_loss(a, b)
        total += mlp([0.5, -1.0]) + mlp([a[0], b[1]]) + mlp(a[:2]) + mlp([a[0], 2.0]) + sum(mlp([[1.0, 2.0], [0.5, 0.1]]))
        total += mingrad.sum(layers([1.0, 0.5])) + mingrad.dot(norm(a), b) + mingrad.sum(embedding(1))
        total += mingrad.dot(nn.Tanh()(a), a * b + 2.0 / b) + mingrad.dot(mingrad.softmax(a), b)
        return total * x

    g = mingrad.compile(f)
    for k in range(3):
        for n, v in enumerate(constants):
            v.data = math.sin(n + k) + 1.5
        y, z = g(Variable(0.75)), f(Variable(0.75))
        assert y.data == z.data
        assert grad(g)(0.75) == grad(f)(0.75)


def test_a_parameter_that_stops_asking_for_gradients():
    w, v = Variable(2.0), Variable(3.0)
    f = mingrad.compile(lambda x: w * v * x)
    f(1.0).backward()
    w.requires_grad = False
    f(1.0).backward()
    assert (w.grad, v.grad) == (3.0, 4.0)
    v.requires_grad = False
    assert not f(1.0).requires_grad
    w.requires_grad = True
    f(1.0).backward()
    assert (w.grad, v.grad) == (6.0, 4.0)


# -- the cache -------------------------------------------------------------------------------------


def test_what_is_no_number_is_part_of_the_key():
    seen = []

    def f(x, how):
        seen.append(how)
        return x * 2.0

    g = mingrad.compile(f)
    for how in (
        1,
        2,
        True,
        False,
        0,
        None,
        "1",
        "a",
        b"a",
        (1,),
        (True,),
        [1],
        [True],
        (),
        [],
        {},
        1 + 0j,
        10**400,
        range(3),
        int,
    ):
        count = len(seen)
        for _ in range(2):
            assert g(1.5, how) == 3.0
        assert len(seen) == count + 1 and type(seen[-1]) is type(how) and seen[-1] == how
    assert len(g.programs) == 20 == len(seen)


def test_structures_and_lengths_are_part_of_the_key():
    f = mingrad.compile(lambda tree: sum(numbers_of(tree), 0.0) * 2.0)
    numbers_of = lambda tree: autodiff._flatten(tree, "tree")[0]
    trees = [
        [1.0],
        [1.0, 2.0],
        (1.0, 2.0),
        [[1.0], [2.0]],
        [[1.0, 2.0]],
        {"a": 1.0},
        {"b": 1.0},
        {"a": 1.0, "b": 2.0},
        1.0,
        {"b": 1.0, "a": 2.0},
        VariableList([1.0, 2.0]),
        [(1.0,), 2.0],
    ]
    for k, tree in enumerate(trees):
        for _ in range(2):
            value = f(tree)
        assert (value if isinstance(value, float) else value.data) == 2.0 * sum(numbers(tree))
        assert len(f.programs) == k + 1


def test_types_of_the_keys_of_a_dict_are_part_of_the_key():
    f = mingrad.compile(lambda tree: [x * 2.0 if key is True else x for key, x in tree.items()])
    assert (f({1: 1.0}), f({True: 1.0})) == ([1.0], [2.0])


def test_arrays_are_inputs_if_of_floats_and_keys_if_not():
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    f = mingrad.compile(lambda a, k: sum(x * 2.0 for x in a.ravel()) * float(k[0]))
    k = numpy.array([1, 2])
    for a in (
        numpy.array([1.0, 2.0]),
        numpy.array([3.0, 4.0]),
        numpy.array([[1.0, 2.0], [3.0, 4.0]]),
        numpy.array([]),
    ):
        expected = 2.0 * a.sum()
        assert f(a, k) == expected and f(a, k + 1) == 2.0 * expected
    assert len(f.programs) == 6
    g = mingrad.compile(lambda a: a[0] * a[1])
    assert g(array.array("d", [2.0, 3.0])) == 6.0 == g(memoryview(array.array("d", [2.0, 3.0])))
    assert g(array.array("i", [2, 3])) == 6.0
    assert mingrad.compile(lambda x: x * 2.0)(numpy.float64(1.5)) == 3.0
    objects = numpy.array([Variable(2.0), Variable(3.0)], dtype=object)
    g(objects).backward()
    assert [x.grad for x in objects] == [3.0, 2.0]


def test_arrays_of_single_precision_are_refused():
    """The function itself would compute in single precision."""
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    f = mingrad.compile(lambda a: a * a if a.ndim == 0 else a[0] * a[0])
    for kind in (numpy.float32, numpy.float16, numpy.longdouble):
        for a in (numpy.array([0.1], dtype=kind), kind(0.1), numpy.array([[0.1]], dtype=kind)):
            refuses(
                lambda: f(a),
                TypeError,
                f"compile: expected arrays of float64, got {numpy.dtype(kind)}, in whose precision the function itself would "
                "compute; convert it with .astype(float)",
            )
    assert mingrad.compile(lambda a: a[0] * a[0])(array.array("f", [0.1])) == float(numpy.float32(0.1)) ** 2  # as Python has it


def test_dicts_of_all_kinds_are_the_same_dicts_inside():
    def f(d):
        return d["a"] * 2.0 + d["b"], type(d).__name__, list(d.items())

    g = mingrad.compile(lambda d: [f(d)[0]] + [x for _, x in f(d)[2]] if f(d)[1] == type(d).__name__ else None)
    for d in (
        {"a": 1.0, "b": 2.0},
        collections.OrderedDict(b=1.0, a=2.0),
        collections.Counter(a=1.5, b=2.5),
    ):
        for _ in range(2):
            assert g(d) == [f(d)[0], *d.values()]
    h = mingrad.compile(lambda d: d["a"] * 2.0 + d["c"])
    for factory, expected in ((float, 2.0), (lambda: 5.0, 7.0), (lambda: 7.0, 9.0)):
        for _ in range(2):
            assert h(collections.defaultdict(factory, a=1.0)) == expected
    with pytest.raises(KeyError):
        h(collections.defaultdict(None, a=1.0))


def test_nests_with_attributes_of_their_own_are_refused():
    class Point(list):
        pass

    f = mingrad.compile(lambda p: p[0] * 2.0)
    assert f(Point([1.0])) == 2.0
    p = Point([1.0])
    p.scale = 3.0
    refuses(
        lambda: f(p),
        TypeError,
        "compile: expected lists, tuples and dicts that hold nothing else, got a Point with attributes ['scale']; pass those as "
        "arguments of their own",
    )


def test_what_cannot_be_a_key_is_refused():
    f = mingrad.compile(lambda x: 1.0)
    refuses(
        lambda: f({1, 2}),
        TypeError,
        "compile: expected arguments that are numbers, nests of them, or hashable, got set; close "
        "over it, or pass what is in it",
    )
    assert f.programs == []


def test_what_is_given_to_compile_is_checked():
    refuses(lambda: mingrad.compile(3), TypeError, "compile: expected a function, got int")
    for most in (0, -1, True, 1.5, "2"):
        refuses(
            lambda: mingrad.compile(abs, max_programs=most),
            ValueError,
            f"compile: expected max_programs to be an int of at least 1, got {most!r}",
        )


def test_the_recording_that_was_not_used_for_longest_goes():
    count = collections.Counter()

    @mingrad.compile(max_programs=2)
    def f(x, n):
        count[n] += 1
        return x * n

    for n in (1, 2, 1, 3, 1, 2):  # 3 pushes 2 out, 2 pushes 3 out
        assert f(1.5, n) == 1.5 * n
        assert len(f.programs) <= 2
    assert count == {1: 1, 2: 2, 3: 1}
    g = mingrad.compile(lambda x: x if x < 1 else x * 2 if x < 2 else x * 3, max_programs=2)
    for x in (0.5, 1.5, 2.5, 0.5, 1.5, 2.5) * 2:
        assert g(x) == g._function(x)
        assert len(g.programs) <= 2


def test_programs_and_clear():
    f = mingrad.compile(lambda x: x * x if x > 0 else x)
    assert f.programs == [] and f(2.0) == 4.0 and f(-2.0) == -2.0
    assert [len(program) for program in f.programs] == [1, 2]  # the latest used first
    program = f.programs[0]
    f.clear()
    assert f.programs == [] and f(3.0) == 9.0 and len(f.programs) == 1 and len(program) == 1
    y = f(Variable(3.0))
    f.clear()
    y.backward()  # what has been computed keeps its program


def test_check_runs_the_function_beside():
    scale = [2.0]
    f = mingrad.compile(lambda x: [x, x * scale[0]], check=True)
    assert f(1.0) == [1.0, 2.0]
    scale[0] = 3.0
    with pytest.raises(RuntimeError) as caught:
        f(1.0)
    assert str(caught.value) == (
        "compile(check=True): number 1 of <lambda>'s result is 3.0, but the recorded run gave "
        "2.0: the function depends on something that is no argument, comparison or Variable (a "
        "global, a random number, a file); pass it as an argument"
    )
    same(choosing, *POINTS, compiled=mingrad.compile(choosing, check=True))


def test_check_finds_another_structure():
    count = [1]
    f = mingrad.compile(lambda x: [x] * count[0], check=True)
    f(1.0)
    count[0] = 3
    with pytest.raises(RuntimeError):
        f(1.0)


def test_methods_keywords_and_decorators():
    class Model:
        def __init__(self, w):
            self.w = Variable(w)

        @mingrad.compile(max_programs=8)
        def scale(self, x, *, by=1.0, n=1):
            """Scaled."""
            return self.w * x * by * n

    a, b = Model(2.0), Model(3.0)
    assert (
        a.scale(1.0).data,
        b.scale(1.0).data,
        a.scale(1.0, by=2.0).data,
        a.scale(x=1.0, n=3).data,
    ) == (2.0, 3.0, 4.0, 6.0)
    assert len(Model.scale.programs) == 4 and Model.scale.__name__ == "scale" and Model.scale.__doc__ == "Scaled."
    for call in (lambda f: f(1.0, 2.0), lambda f: f(z=1.0), lambda f: f()):
        f = lambda x: x
        with pytest.raises(TypeError):
            call(mingrad.compile(f))


def test_compiled_functions_inside_compiled_functions():
    inner = mingrad.compile(lambda x: x * x if x > 1 else 2.0 * x)
    same(lambda x, y: inner(x) * y + inner(y), (0.5, 2.0), (3.0, 2.0), (0.5, 0.25))
    outer = mingrad.compile(lambda x: inner(x) + inner(inner(x)))
    assert outer(2.0) == 20.0 and inner.programs != [] and outer(0.25) == 1.5
    same(mingrad.compile(mingrad.compile(smooth)), *POINTS)

    @mingrad.compile
    def power(x, n):
        return x if n == 0 else power(x * x, n - 1) + 1.0

    assert power(1.1, 5) == power._function(1.1, 5) and len(power.programs) == 2


# -- memory and the collector ----------------------------------------------------------------------


def test_nothing_is_left_on_the_tape():
    w = Variable(2.0)
    f = mingrad.compile(lambda x: w * x * x if x > 0 else x)
    for x in (1.0, -1.0, 2.0):
        with no_trace():
            assert bits(f(x)) == bits(2.0 * x * x if x > 0 else x)
        with no_trace():
            f(Variable(x)).backward()
            w.zero_grad()
    del f
    with no_trace():
        g = mingrad.compile(lambda x: w * x)
        assert g(1.0).data == 2.0
        del g


def test_thousands_of_calls_and_recordings_need_no_more_memory():
    out = (
        run_python("""
        import gc, mingrad, resource
        from mingrad import Variable
        def used():
            gc.collect()
            mingrad.collect()
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        w = Variable(1.0)
        def make(n):
            return mingrad.compile(lambda xs: sum(mingrad.tanh(w * x) * n for x in xs))
        f, xs = make(1.0), [0.01 * k for k in range(200)]
        def work():
            for k in range(500):
                f(xs).backward()
                y = f([Variable(x) for x in xs])
                y.backward()
            for k in range(150):
                g = make(float(k))
                g(xs).backward()
                h = mingrad.hvp(g, (xs,), (xs,)) if k % 50 == 0 else None
                mingrad.compile(lambda x: x.data if x > 0 else x * k, max_programs=3)(-1.0)
        work()
        before, info = used(), mingrad.tape_info()
        for _ in range(2):
            work()
        after = mingrad.tape_info()
        print((used() - before) // 1024, after.live - info.live, after.handles - info.handles)
    """)
        if os.path.exists("/proc/self/statm")
        else pytest.skip("this system has no /proc")
    )
    kilobytes, live, handles = map(int, out.split())
    assert (live, handles) == (0, 0) and kilobytes < 2000  # 300 programs would be more


def test_numbers_of_results_that_have_died_are_let_go():
    """A loop that holds the latest result while it computes the next one: what has died lies below on the tape."""
    w = Variable(1.0)
    f = mingrad.compile(lambda xs: sum(mingrad.tanh(w * x) for x in xs))
    xs = [0.01 * k for k in range(2000)]
    gc.collect()
    calls = lambda: sum(type(x) is _core.ProgramCall for x in gc.get_objects())
    before, most = calls(), 0
    for _ in range(200):
        loss = f(xs)
        loss.backward()
        most = max(most, calls() - before)
    assert most < 20
    kept = [f(xs) for _ in range(50)]  # none of these
    (kept[0] * 2.0 + kept[-1]).backward()
    assert all(y.data == kept[0].data for y in kept)


def test_a_program_dies_with_its_function_and_its_results():
    w = Variable(2.0)
    f = mingrad.compile(lambda x: w * x)
    y = f(1.0)
    before = sys.getrefcount(w)
    reference_to_f = weakref.ref(f)
    del f
    gc.collect()
    assert reference_to_f() is None
    y.backward()
    assert w.grad == 1.0
    del y
    mingrad.collect()
    gc.collect()
    assert sys.getrefcount(w) < before


def test_an_object_dies_though_a_method_of_it_was_compiled():
    class Model:
        def __init__(self):
            self.w = Variable(2.0)

        @mingrad.compile
        def scale(self, x):
            return self.w * x

    model = Model()
    model.scale(1.0)
    known = weakref.ref(model)
    assert len(Model.scale.programs) == 1 and model.scale(3.0).data == 6.0
    del model
    gc.collect()
    assert known() is None and Model.scale.programs == []
    for k in range(100):  # objects at the same address
        other = Model()
        other.w.data = float(k)
        assert other.scale(1.0).data == k
        del other
    assert len(Model.scale._paths) == 1


def test_objects_that_are_equal_share_a_recording_whether_or_not_they_live():
    Config = dataclasses.make_dataclass("Config", ["scale"], frozen=True)
    f = mingrad.compile(lambda x, config: x * config.scale)
    for scale in (2, 3, 2, 3):
        assert f(1.5, Config(scale)) == 1.5 * scale
    assert len(f.programs) == 2
    g = mingrad.compile(lambda x, function: function(x))
    twice, thrice = lambda x: 2.0 * x, lambda x: 3.0 * x
    assert [g(1.5, function) for function in (twice, thrice, twice, mingrad.sin)] == [
        3.0,
        4.5,
        3.0,
        math.sin(1.5),
    ]
    assert len(g.programs) == 3
    del twice
    gc.collect()
    assert len(g.programs) == 2


@pytest.mark.parametrize("young", [1, 7, 1000])
def test_the_collector_may_run_at_every_recording(young):
    rng = random.Random(young)
    module = nn.MLP(3, [4, 1])
    with stress(young, 1):
        same(
            lambda xs: module(xs),
            ([0.1, 0.2, 0.3],),
            ([1.0, -1.0, 0.5],),
            parameters=list(module.parameters()),
        )
        same(smooth, *POINTS)
        same(choosing, *POINTS)
        for name in ("hessian", "hvp"):
            f = mingrad.compile(smooth)
            for point in POINTS:
                assert numbers(SECOND[name](f)(*point)) == pytest.approx(numbers(SECOND[name](smooth)(*point)), rel=1e-13)
        graph = random_graph(young, 60, EXACT + NARY, reference)
        f, start = as_function(graph, mingrad)
        with mingrad.errstate(all="ignore"):
            same(f, (start,), ([rng.uniform(-2, 2) for _ in start],))


def test_each_result_has_its_own_numbers():
    f = mingrad.compile(lambda x: (mingrad.exp(x) * x, x * x * x))
    xs = [Variable(0.1 * k) for k in range(20)]
    pairs = [f(x) for x in xs]
    random.Random(0).shuffle(order := list(range(20)))
    for k in order:
        mingrad.collect()
        junk = [Variable(1.0) * 2.0 for _ in range(50)]
        f(5.0), f(Variable(7.0))[1].backward()
        y, z = pairs[k]
        (y * z).backward()
        del junk
    for k, x in enumerate(xs):
        v = Variable(x.data)
        y, z = f._function(v)
        (y * z).backward()
        assert x.grad == v.grad and pairs[k][0].data == y.data


def test_results_of_a_call_may_be_dropped_one_by_one():
    f = mingrad.compile(lambda x: [x * k for k in (1.0, 2.0, 3.0)])
    for order in itertools.permutations(range(3)):
        x = Variable(2.0)
        results = f(x)
        for k in order:
            results[k].backward()
            results[k] = None
            mingrad.collect()
        assert x.grad == 6.0
    del x, results
    with no_trace():
        x = Variable(2.0)
        results = f(x)
        z = results[1]
        del results
        mingrad.collect()
        z.backward()
        assert x.grad == 2.0
        del x, z


def test_backward_twice_and_with_a_gradient():
    same(smooth, *POINTS, passes=3)
    f = mingrad.compile(smooth)
    x = Variable(0.3)
    f(x, 0.8).backward(-2.5)
    v = Variable(0.3)
    smooth(v, 0.8).backward(-2.5)
    assert x.grad == v.grad


def test_hooks_of_arguments_and_results_are_called():
    f = mingrad.compile(lambda x: x * x)
    seen = []
    x = Variable(3.0)
    h = x * 1.0
    h.register_hook(seen.append)
    y = f(h)
    y.register_hook(lambda adjoint: adjoint * 2.0)
    y.backward()
    assert (seen, x.grad) == ([12.0], 12.0)


# -- threads, processes, memory that runs out ------------------------------------------------------


def test_threads_may_call_one_compiled_function_at_once():
    w = Variable(0.5)

    def f(x, n):
        y = x * w
        for _ in range(n):
            y = mingrad.tanh(y) + x if y > 0 else y * y - x
        return y

    compiled, wrong = mingrad.compile(f, max_programs=500), []
    points = [(0.1 * k - 1.0, n) for k in range(20) for n in range(6)]
    expected = {point: outcome(lambda x: f(x, point[1]), point[:1]) for point in points}

    def work(seed):
        try:
            rng = random.Random(seed)
            for _ in range(150):
                point = rng.choice(points)
                x = Variable(point[0])
                y = compiled(x, point[1])
                slope = mingrad.grad(lambda x: compiled(x, point[1]))(point[0])
                if ([bits(y)], [bits(slope)]) != expected_at[point]:
                    wrong.append(point)
        except BaseException as error:
            wrong.append(error)

    expected_at = {
        point: (values, [bits(mingrad.grad(lambda x: f(x, point[1]))(point[0]))]) for point, (values, _) in expected.items()
    }
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == [] and not _core._is_recording()


def test_a_recording_may_be_dropped_by_another_thread_before_it_is_used():
    inside, go_on, found = threading.Event(), threading.Event(), []

    def f(x, n):
        if n == 0:
            inside.set()
            assert go_on.wait(10)
        return x * n

    def work():
        try:
            found.append(compiled(2.0, 0))
        except BaseException as error:
            found.append(error)

    compiled = mingrad.compile(f, max_programs=1)
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    try:
        assert [compiled(2.0, n) for n in (1, 2, 3)] == [2.0, 4.0, 6.0]
        compiled.clear()
        assert [compiled(2.0, n) for n in (1, 2)] == [2.0, 4.0]
    finally:
        go_on.set()
        thread.join()
    assert found == [0.0]


def test_other_threads_work_on_while_a_function_is_recorded():
    inside, go_on, found = threading.Event(), threading.Event(), []

    def f(x):
        inside.set()
        assert go_on.wait(10)
        return x * x

    other = mingrad.compile(lambda x: x * 3.0)
    thread = threading.Thread(target=lambda: found.append(mingrad.compile(f)(3.0)))
    thread.start()
    assert inside.wait(10)
    try:
        x = Variable(2.0)
        y = other(x) * x
        y.backward()
        assert (y.data, x.grad, x.data) == (12.0, 12.0, 2.0)  # .data may be read here
        x.data = 5.0
        with mingrad.no_grad():
            assert not (x * 2.0).requires_grad
    finally:
        go_on.set()
        thread.join()
    assert found == [9.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_has_programs_of_its_own():
    f = mingrad.compile(smooth)
    x = Variable(0.3)
    y = f(x, 0.8)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        ok = False
        try:
            y.backward()
            ok = x.grad != 0.0 and f(0.3, 0.8) == y.data and f(-0.7, 0.1) == smooth(-0.7, 0.1)
        finally:
            os._exit(0 if ok else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and x.grad == 0.0 and len(f.programs) == 1


def dense(xs, w):
    hidden = [mingrad.tanh(sum(a * x for a, x in zip(w, xs)) + k) for k in range(4)]
    return mingrad.softmax(hidden)[1] * mingrad.prod(hidden) + mingrad.maximum(hidden[0], xs[0]), hidden[2]


@pytest.mark.parametrize("what", ["record", "run", "backward", "hvp"])
def test_an_allocation_that_fails_leaves_everything_as_it_was(what):
    w = [Variable(0.3), Variable(-0.2)]
    xs = [0.5, -1.5]

    def function(xs):
        return dense(xs, w)

    expected = outcome(function, (xs,), w)
    slopes = numbers(hvp(lambda xs: function(xs)[0], (xs,), ([1.0, 2.0],)))
    f = mingrad.compile(function)
    failures = 0
    for n in range(2000):
        if what == "record":
            f.clear()
        else:
            f(xs)
        if what == "backward":
            f.clear()
            leaves = [Variable(x) for x in xs]
            y = f(leaves)
        for p in w:
            p.zero_grad()
        gc.collect()
        mingrad.collect()
        before, programs = mingrad.tape_info(), len(f.programs)
        _core._fail_allocation(n)
        try:
            if what == "backward":
                mingrad.dot(list(y), SEEDS[:2]).backward()
            elif what == "hvp":
                found = hvp(lambda xs: f(xs)[0], (xs,), ([1.0, 2.0],))
            else:
                found = f(xs)
            failed = False
        except MemoryError:
            failed = True
        triggered = _core._fail_allocation(-1)
        if failed:
            failures += 1
            gc.collect()
            mingrad.collect()
            after = mingrad.tape_info()
            assert triggered and (after.live, after.handles) == (before.live, before.handles), n
            assert len(f.programs) == programs or (what == "record" and len(f.programs) == 1)
            assert not _core._is_recording() and [p.grad for p in w] == [0.0, 0.0]
        elif what == "backward":
            assert [bits(v.grad) for v in [*leaves, *w]] == expected[1]
        elif what == "hvp":
            assert numbers(found) == pytest.approx(slopes, rel=1e-13)
        else:
            assert [bits(x) for x in found] == expected[0]
        found = None
        assert outcome(f, (xs,), w) == expected
        if not triggered:
            break
    assert failures >= (1 if what == "run" else 2)


# -- instruction sets and steps --------------------------------------------------------------------


def test_programs_give_the_same_bits_by_each_instruction_set():
    rng = random.Random(4)
    matrix = lambda: [[rng.uniform(-1, 1) for _ in range(9)] for _ in range(21)]
    q, k, v = matrix(), matrix(), matrix()

    def run():
        f = mingrad.compile(lambda q, k, v: mingrad.sum([mingrad.gelu(x) * x for row in attention(q, k, v) for x in row]))
        return outcome(f, (q, k, v)), outcome(f, (q, k, v))

    same_by_each_instruction_set(run)


def steps_of(f, *args, gradient=False):
    """(how many steps, the widest of each op) of f's program."""
    compiled = mingrad.compile(f)
    result = compiled(*args)
    if gradient:
        result.backward()
    widest = collections.Counter()
    steps, *_ = _core._summary(compiled.programs[0])
    for op, _kind, n, *_ in steps:
        widest[op] = max(widest[op], n)
    return len(steps), widest


def test_an_elementwise_map_is_one_step_per_op():
    xs = [0.01 * k for k in range(700)]
    count, widest = steps_of(lambda xs, c: [mingrad.exp(mingrad.sin(x) * 2.0 - c) for x in xs], xs, 0.5)
    # A number that all share may stand on either side of a product: a few may be a step apart.
    assert count <= 6 and min(widest[op] for op in ("sin", "mul", "sub", "exp")) >= 690


def test_a_chain_of_sums_of_products_takes_a_step_per_link_for_all_rows_at_once():
    n = 24
    rng = random.Random(1)
    matrix = lambda: [[rng.uniform(-1, 1) for _ in range(n)] for _ in range(n)]

    def product(a, b):
        found = []
        for row in a:
            found.append([])
            for k in range(n):
                total = 0.0
                for j in range(n):
                    total = total + row[j] * b[j][k]
                found[-1].append(total)
        return found

    count, widest = steps_of(product, matrix(), matrix())
    assert count <= 2 * n and widest["mul"] == n * n  # of 27,648 nodes


def test_a_sum_over_a_list_is_one_step():
    xs = [0.01 * k for k in range(300)]
    assert steps_of(lambda xs: mingrad.sum(xs), xs)[0] == 1
    assert steps_of(lambda xs: mingrad.dot(xs, xs), xs)[0] == 1
    assert steps_of(lambda xs: mingrad.logsumexp([x * 2.0 for x in xs]), xs)[0] <= 2


def test_equal_values_are_computed_once_and_what_nothing_needs_not_at_all():
    assert steps_of(lambda x, y: (x * y) + (y * x), 2.0, 3.0)[1]["mul"] == 1
    assert steps_of(lambda x: [mingrad.exp(x), mingrad.relu(x)][0], 2.0) == (1, {"exp": 1})
    assert steps_of(lambda x: x * 1.0 / 1.0 - 0.0, 2.0)[0] == 0


def test_the_gradient_of_a_map_is_few_steps_too():
    xs = [Variable(0.01 * k) for k in range(500)]
    count, _ = steps_of(lambda xs: mingrad.sum([mingrad.tanh(x * 0.5) for x in xs]), xs, gradient=True)
    assert count <= 20


def test_neurons_in_plain_loops_are_steps_over_all_neurons():
    w = [[Variable(0.01 * (i - j)) for j in range(16)] for i in range(16)]

    def layer(xs):
        return [mingrad.tanh(sum(a * x for a, x in zip(row, xs))) for row in w]

    count, widest = steps_of(layer, [0.1 * k for k in range(16)])
    assert count <= 2 * 17 and widest["tanh"] == 16 == widest["mul"]
