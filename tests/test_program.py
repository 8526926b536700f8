"""Compiled functions: the same bits as the function itself, values and gradients, whatever it is given.

Each test runs a function as it is and compiled, on the numbers it was recorded with and on others: every op, random graphs,
programs that hypothesis makes, layers, nests. Then what decides the way (guards), what a recording refuses, parameters, the
cache, memory, threads, failing allocations, and the steps that a program ends in. It times nothing.
"""

import array
import collections
import functools
import gc
import itertools
import math
import os
import random
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest
from helpers import EXACT, LIBM, NARY, OTHER, apply, assert_close_ulps, random_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mingrad
import reference
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
    """Everything that can be seen of a call with these numbers as Variables: the results' bits, the gradients' bits of the
    arguments and parameters after backward(), or what was raised."""
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
    """Fail unless f compiled gives the outcome of f for all of these argument tuples, in this order and again in reverse.
    Returns the compiled function."""
    compiled = compiled or mingrad.compile(f)
    for args in [*calls, *calls[::-1]]:
        expected = outcome(f, args, parameters, passes)
        assert outcome(compiled, args, parameters, passes) == expected, f"at {args}"
    return compiled


def raised(call):
    """(type, text, the lines of this file that the traceback went through) of what the call raises."""
    try:
        call()
    except Exception as error:
        lines, at = [], error.__traceback__
        while at is not None:
            if at.tb_frame.f_code.co_filename == __file__:
                lines.append(at.tb_lineno)
            at = at.tb_next
        return type(error), str(error), lines[1:]
    raise AssertionError("nothing was raised")


def run_python(code, *args):
    """Run the code in a process of its own; its output. Fails if it does."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


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
    "log_softmax": lambda xs: nn.log_softmax(xs) if hasattr(nn, "log_softmax") else mingrad.softmax(xs),
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


def as_function(graph):
    """A random graph as a function of the numbers of its leaves; it gives the last entry and one in the middle."""

    def f(xs):
        xs, things = iter(xs), []
        for name, *rest in graph:
            if name == "leaf":
                things.append(next(xs))
            elif name == "constant":
                things.append(Variable(rest[0], requires_grad=False))
            else:
                things.append(apply(mingrad, name, [things[x] if isinstance(x, int) else x for x in rest[0]]))
        return things[-1], things[len(things) // 2]

    return f, [rest[0] for name, *rest in graph if name == "leaf"]


@pytest.mark.parametrize("seed", range(24))
def test_a_random_graph_gives_the_same_bits_at_other_numbers(seed):
    rng = random.Random(seed)
    graph = random_graph(seed, rng.choice([20, 60, 200]), EXACT + LIBM + OTHER + NARY, reference)
    f, start = as_function(graph)
    other = [[rng.uniform(-2, 2) for _ in start] for _ in range(4)]
    hostile = [[rng.choice([*SPECIAL, x]) for x in start] for _ in range(4)]
    with mingrad.errstate(all="ignore"):
        same(f, (start,), *[(xs,) for xs in other + hostile])
    same(f, (start,), *[(xs,) for xs in other + hostile], passes=2)


def interpret(code, xs):
    """Run a program made by hypothesis: places are taken modulo how many values there are."""
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
            values.append(value(rest[0]) and value(rest[1]) or value(rest[2]))
        else:
            values.append({"max": max, "min": min, "sorted": lambda v: sorted(v)[1]}[kind]([value(k) for k in rest]))
    return values[-1]


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
SAFE = ["+", "-", "*", "maximum", "minimum", "neg", "relu", "abs", "square", "tanh", "sigmoid", "sin", "leaky_relu", "atan2"]


def instructions(depth):
    operation = st.sampled_from(SAFE + ["/", "log", "exp", "sqrt", "**2", "**-1", "**0.5"]).flatmap(
        lambda name: st.tuples(st.just("op"), st.just(name), st.tuples(PLACE, PLACE | NUMBER) if name in
                               ("+", "-", "*", "/", "maximum", "minimum", "atan2") else st.tuples(PLACE))
    )
    simple = [
        operation, operation,
        st.tuples(st.just("op"), st.sampled_from(["sum", "max", "logsumexp", "softmax"]), st.tuples(PLACE, PLACE, PLACE)),
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
    same(lambda xs: interpret(code, xs), *[(xs,) for xs in points])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 63, 255, 256, 257, 600])
def test_steps_of_any_width_give_the_same_bits(n):
    def f(xs, ys, c):
        maps = [mingrad.tanh(x) * y for x, y in zip(xs, ys)]  # side by side
        odd = [x - c for x in xs[::2]] + [y / c for y in ys[::-1]]  # by a stride, backwards
        shuffled = [xs[k * 7 % n] * ys[k * 11 % n] for k in range(n)]  # anywhere
        chain = 0.0
        for x, y in zip(xs, ys):
            chain = chain + x * y
        outer = [xs[k % n] * ys[k // n] for k in range(4 * n)]
        back = c
        for x, y in zip(xs[::-1], ys):
            back = x * y + back
        return [sum(maps), sum(odd), sum(shuffled), chain, sum(outer), back, xs[0] * ys[-1] + c, mingrad.dot(xs, ys),
                mingrad.sum([x * y + c for x, y in zip(xs, ys)]), mingrad.sum([c * x for x in xs])]

    rng = random.Random(n)
    point = lambda: ([rng.uniform(-1, 1) for _ in range(n)], [rng.choice([rng.uniform(-1, 1), 0.0]) for _ in range(n)], 1.5)
    same(f, point(), point())


def test_the_same_expression_written_twice_has_the_gradient_of_both():
    """Equal values are computed once, but each has its own adjoint."""
    same(lambda x, y: (x * y + mingrad.exp(x * y)) * (y * x) + mingrad.exp(y * x), (0.3, 0.7), (-1.1, 0.2))
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
    for name, module, n in make_modules():
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

    points = [([[rng.uniform(-1, 1) for _ in range(2)] for _ in range(samples)], [1.0, -1.0] * (samples // 2) + [1.0] *
              (samples % 2)) for _ in range(2)]
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

    points = lambda: ([[rng.uniform(-1, 1), rng.uniform(-1, 1)] for _ in range(7)], [rng.choice([1.0, -1.0]) for _ in range(7)])
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


def test_kinks_of_derivatives_inside_a_compiled_function_are_guards():
    for op in ("relu", "abs", "gelu", "silu", "softplus", "sigmoid", "sign", "tanh", "atan"):
        inner = spell(op)
        same(lambda x: grad(inner)(x) * x, *[(x,) for x in (0.5, -0.5, 0.0, -0.0, 2.0, NAN)])
    for op in ("maximum", "minimum", "pow", "hypot", "atan2"):
        inner = spell(op)
        same(lambda x, y: grad(inner)(x, y) * x, *itertools.product((0.5, 0.0, 2.0), repeat=2))
    same(lambda xs: mingrad.sum(grad(lambda xs: mingrad.max(xs))(xs)), *[(x,) for x in ([1.0, 2.0], [2.0, 2.0], [3.0, 2.0])])


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


@pytest.mark.parametrize("take", [grad, lambda f: lambda z: hvp(f, (z,), (1.0,)), lambda f: lambda z: jvp(f, (z,), (1.0,))],
                         ids=["grad", "hvp", "jvp"])
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
    assert run_python("""
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
    """) == "done\n"
