"""mingrad/steps.py: the backward pass one addition at a time, and the chain rule as text.

Steps are compared with backward() on random graphs, bit for bit. Of explain()'s text, some whole
texts are pinned; that its formulas are right is seen by computing each of them, as it is written,
for every op of the table.
"""

import ast
import copy
import math
import os
import random
import re
import threading

import pytest

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, assert_same_bits, build, random_graph, ulps
from mingrad import Variable, _core, nn
from mingrad.nn import MLP
from mingrad.steps import (
    BackwardStep,
    _Atom,
    _Call,
    _order,
    _text,
    _Writer,
    backward_steps,
    explain,
)
from watch import no_trace, refuses, spell, stress

SLOW = os.environ.get("MINGRAD_SLOW") == "1"


def xyz():
    return Variable(2.0, label="x"), Variable(3.0, label="y"), Variable(-1.5, label="z")


@pytest.fixture
def no_functions_on_the_tape():
    """Where a hook or a custom function's result is on the tape, dead or alive, backward() takes
    another way, on which it adds up the products of a dot in another order."""
    mingrad.collect()


def described(steps):
    """Steps of a graph whose Variables have labels, without their Variables."""
    return [
        (step.node.label, step.contribution, step.user and step.user.label, step.adjoint, step.partial, step.place, step.total)
        for step in steps
    ]


def totals(steps):
    """What each node has received in the end, as (Variable, number)."""
    found = {}
    for step in steps:
        found[step.node] = step.total
    return list(found.items())


# -- backward_steps --------------------------------------------------------------------------------


def test_each_addition_of_a_pass_is_a_step():
    x, y, _ = xyz()
    v = x * y
    v.label = "v"
    w = v + x
    w.label = "w"
    assert described(backward_steps(w)) == [
        ("w", 1.0, None, 1.0, 1.0, None, 1.0),
        ("v", 1.0, "w", 1.0, 1.0, 0, 1.0),
        ("x", 1.0, "w", 1.0, 1.0, 1, 1.0),
        ("x", 3.0, "v", 1.0, 3.0, 0, 4.0),
        ("y", 2.0, "v", 1.0, 2.0, 1, 2.0),
    ]


def test_a_step_unpacks_into_node_and_contribution():
    x, _, _ = xyz()
    steps = list(backward_steps(x * 3))
    assert [len(step) for step in steps] == [2, 2]
    for node, contribution in steps[1:]:
        assert node is x and contribution == 3.0
    step = steps[1]
    assert (step.node, step.contribution) == step == (x, 3.0) and step[0] is x
    assert isinstance(step, BackwardStep)
    assert repr(step) == (
        "BackwardStep(node=Variable(data=2.0, grad=0.0), contribution=3.0, "
        "user=Variable(data=6.0, grad=0.0), adjoint=1.0, partial=3.0, place=0, total=3.0)"
    )
    again = copy.copy(step)
    assert again == step and vars(again) == vars(step)


def test_a_leaf_has_the_one_step_that_starts_the_pass():
    x, _, _ = xyz()
    assert described(backward_steps(x)) == [("x", 1.0, None, 1.0, 1.0, None, 1.0)]


def test_a_repeated_operand_has_a_step_for_each_place():
    x, y, _ = xyz()
    assert [(s.place, s.partial, s.total) for s in backward_steps(x * x)][1:] == [(0, 2.0, 2.0), (1, 2.0, 4.0)]
    assert [(s.node.label, s.place) for s in backward_steps(mingrad.sum([x, y, x]))][1:] == [("x", 0), ("y", 1), ("x", 2)]


def test_constants_and_numbers_have_no_step():
    x, _, _ = xyz()
    c = Variable(5.0, requires_grad=False, label="c")
    v = mingrad.sum([x * c, 2.0 * x, c, 1.0])
    assert "c" not in [step.node.label for step in backward_steps(v)]
    assert all(step.node.requires_grad for step in backward_steps(v))


def test_the_steps_are_made_one_by_one():
    x, _, _ = xyz()
    steps = backward_steps(x.exp())
    assert iter(steps) is steps
    assert next(steps).user is None
    assert next(steps).node is x
    assert next(steps, None) is None


def test_the_graph_is_the_one_at_the_call():
    x, _, _ = xyz()
    v = x * x
    steps = backward_steps(v)
    x.data = 100.0
    assert [step.contribution for step in steps] == [1.0, 2.0, 2.0]


def test_zero_adjoints_are_steps_too():
    x, _, _ = xyz()
    v = (x * 3) * Variable(0.0)
    assert [step.contribution for step in backward_steps(v)] == [1.0, 0.0, 6.0, 0.0]


def random_things(seed, names, size):
    graph = random_graph(seed, size, names, reference)
    return build(graph, mingrad)[0]


@pytest.mark.parametrize("seed", range(60))
def test_totals_of_a_random_graph_have_the_bits_of_backward(seed, no_functions_on_the_tape):
    names = [EXACT, EXACT + LIBM, EXACT + LIBM + OTHER + NARY, NARY + ["*"]][seed % 4]
    things = random_things(seed, names, 250)
    root = things[-1]
    steps = list(backward_steps(root))
    assert all(v.grad == 0.0 for v in things)
    root.backward()
    received = totals(steps)
    assert len(received) > 100
    for k, (node, total) in enumerate(received):
        assert_same_bits(total, node.grad, f"node {k}")
    reached = {node for node, _ in received}
    assert all(v.grad == 0.0 for v in things if v not in reached)


@pytest.mark.parametrize("seed", range(8))
def test_steps_come_in_the_order_of_the_tape_with_final_adjoints(seed):
    root = random_things(seed, EXACT + LIBM + OTHER + NARY, 150)[-1]
    number = {row[0]: k for k, row in enumerate(_core._graph([root]))}
    steps = list(backward_steps(root))
    final = dict(totals(steps))
    users = [number[step.user] for step in steps[1:]]
    assert users == sorted(users, reverse=True)
    assert steps[0].user is None and steps[0].node is root
    running = dict.fromkeys(number, 0.0)
    for step in steps:
        running[step.node] += step.contribution
        assert_same_bits(step.total, running[step.node])
        assert_same_bits(step.contribution, step.adjoint * step.partial)
        if step.user is not None:
            assert_same_bits(step.adjoint, final[step.user])


def sum_of_dots(order, *dots):
    """A node that adds up dots of the same Variables, whose adjoints have digits in all places."""
    total = 0.0
    for k, (p, q) in enumerate(dots):
        total = total + mingrad.dot([order[i] for i in p], [order[i] for i in q]) * (k + 1) * 0.1
    return mingrad.sin(total) * 0.7


@pytest.mark.parametrize("seed", range(20))
def test_a_dot_over_lists_that_share_variables_adds_in_backwards_order(seed, no_functions_on_the_tape):
    rng = random.Random(seed)
    xs = [Variable(rng.gauss(0, 1)) for _ in range(4)]
    lists = [[rng.randrange(4) for _ in range(3)] for _ in range(6)]
    v = sum_of_dots(xs, ([0, 1, 2], [1, 2, 3]), *zip(lists[:3], lists[3:]))
    received = totals(backward_steps(v))
    v.backward()
    for node, total in received:
        assert_same_bits(total, node.grad)


def test_steps_of_a_model_add_up_to_its_gradients():
    """To rounding: backward() does not add up a layer's contributions row by row. Each of the few
    hundred additions of a weight or an input is off by half an ulp of a partial sum."""
    random.seed(3)
    model = MLP(3, [8, 8, 1], activation="tanh")
    xs = [[random.gauss(0, 1) for _ in range(3)] for _ in range(5)]
    loss = nn.mse_loss(model(xs), [0.1 * k for k in range(5)])
    received = dict(totals(backward_steps(loss)))
    loss.backward()
    for p in model.parameters():
        assert abs(received[p] - p.grad) <= 1e-13 * max(1.0, abs(p.grad))


def test_steps_leave_no_trace():
    x, y, z = leaves = xyz()
    v = mingrad.softmax([x * y, z, y])[1] + (x / z).tanh()
    with no_trace(leaves):
        list(backward_steps(v))
        next(backward_steps(v))
        explain(v, x=x, unused=z)


def test_nodes_may_move_while_steps_are_taken():
    def texts():
        x, y, z = xyz()
        v = mingrad.softmax([x * y, z, y])[1] + (x / z).tanh()
        found = []
        for node, contribution in backward_steps(v):
            found.append((node._op, node.label, contribution, (Variable(contribution) * 2).data))
        return found, explain(v)

    expected = texts()
    with stress(1):
        assert texts() == expected


def test_hooks_are_not_called():
    x, y, _ = xyz()
    v = x * y
    called = []
    v.register_hook(called.append)
    assert [step.total for step in backward_steps(v)] == [1.0, 3.0, 2.0]
    assert "adjoint 1.0" in explain(v)
    assert called == []


def test_a_long_chain_has_its_steps_in_a_thread_with_a_small_stack():
    """Half a kilobyte of list for each node, and no recursion."""
    length = 1_000_000 if SLOW else 50_000
    counted = []

    def run():
        x = Variable(1.0)
        v = x
        for _ in range(length):
            v = -v
        counted.append(sum(1 for _ in backward_steps(v)))
        counted.append(step_of_leaf(v, x))

    def step_of_leaf(v, x):
        return next(step.total for step in backward_steps(v) if step.node is x)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert counted == [length + 1, 1.0]


# -- custom functions ------------------------------------------------------------------------------


@mingrad.custom_vjp
def polar(r, angle):
    return r * math.cos(angle), r * math.sin(angle)


def polar_forward(r, angle):
    return polar(r, angle), (r, angle)


def polar_backward(residuals, adjoints):
    (r, angle), (dx, dy) = residuals, adjoints
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * dx + sin * dy, r * (cos * dy - sin * dx)


polar.defvjp(polar_forward, polar_backward)


@mingrad.custom_vjp
def clipped(x):
    """x, through which an adjoint passes as at most 1: a rule that is not linear."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, adjoint: (min(adjoint, 1.0),))


@mingrad.custom_jvp
def cube(x):
    return x * x * x


@cube.defjvp
def cube_rule(primals, tangents):
    (x,), (dx,) = primals, tangents
    return cube(x), 3 * x * x * dx


def custom_graphs():
    r, t, _ = xyz()
    x, y = polar(r, t)
    x.label, y.label = "px", "py"
    u, v = polar(r, t)
    return {
        "both results": (x * y + r, [r, t, x, y]),
        "one result": (y * 3 + x.detach(), [r, t, y]),
        "two calls beside each other": (x * v * 0.1 + v.sin(), [r, t, x, v]),
        "calls of calls": (cube(clipped(x * 5)) + mingrad.sum(polar(y, x)), [r, t, x, y]),
        "not linear": (clipped(r * 2) * 7, [r]),
        "the last node": (cube(r), [r]),
    }


@pytest.mark.parametrize("graph", list(custom_graphs()))
def test_steps_through_custom_functions_have_the_bits_of_backward(graph):
    root, nodes = custom_graphs()[graph]
    received = dict(totals(backward_steps(root)))
    root.backward()
    assert set(nodes) <= set(received)
    for node, total in received.items():
        assert_same_bits(total, node.grad)


def test_a_call_gives_the_contributions_of_all_its_results_in_one_go():
    r, t, _ = xyz()
    x, y = polar(r, t)
    x.label, y.label = "px", "py"
    steps = described(backward_steps(2.0 * x + y))
    cos, sin = math.cos(3.0), math.sin(3.0)
    assert [(node, user, place, partial) for node, _, user, _, partial, place, _ in steps[-2:]] == [
        ("x", "py", 0, None),
        ("y", "py", 1, None),
    ]
    assert [step[1] for step in steps[-2:]] == [2 * cos + sin, 2.0 * (cos - 2 * sin)]


def test_a_rule_that_raises_ends_the_steps_there():
    @mingrad.custom_vjp
    def bad(x):
        return x

    bad.defvjp(lambda x: (x, None), lambda _, adjoint: 1 / 0)
    x, _, _ = leaves = xyz()
    v = bad(x) * 2
    with no_trace(leaves):
        steps = backward_steps(v)
        assert [step.contribution for _, step in zip(range(2), steps)] == [1.0, 2.0]
        with pytest.raises(ZeroDivisionError):
            next(steps)
        with pytest.raises(ZeroDivisionError):
            explain(v)
        del steps


def test_custom_functions_are_explained():
    r, t, _ = xyz()
    x, y = polar(r, t)
    x.label, y.label = "px", "py"
    assert (
        explain(x * y + cube(r))
        == """\
forward: each node from its operands
  x  = 2.0
  y  = 3.0
  px = polar(x, y)[0] = -1.97998
  py = polar(x, y)[1] = 0.28224
  v1 = px * py        = -0.558831
  v2 = cube(x)        = 8.0
  v3 = v1 + v2        = 7.44117

backward: adjoint * local derivative = contribution -> operand
  v3: adjoint 1.0 (the start)
    dv3/dv1 = 1.0                     1.0 * 1.0 = 1.0 -> v1
    dv3/dv2 = 1.0                     1.0 * 1.0 = 1.0 -> v2
  v2: adjoint 1.0 (from v3)
    the rule of cube for v2           12.0 -> x
  v1: adjoint 1.0 (from v3)
    dv1/dpx = py = 0.28224            1.0 * 0.28224 = 0.28224 -> px
    dv1/dpy = px = -1.97998           1.0 * (-1.97998) = -1.97998 -> py
  py: adjoint -1.97998 (from v1)
  px: adjoint 0.28224 (from v1)
    the rule of polar for px and py   -0.558831 -> x
    the rule of polar for px and py   3.84068 -> y

gradients: what backward() adds to .grad
  x: 12.0 + (-0.558831) = 11.4412 (from v2, px and py)
  y: 3.84068 (from px and py)"""
    )


def test_a_custom_function_without_a_name_is_explained():
    x, _, _ = xyz()
    f = mingrad.custom_vjp(lambda x: x)
    f.defvjp(lambda x: (x, None), lambda _, adjoint: (adjoint,))
    text = explain(f(x))
    assert lines_of(text, "forward")[-1] == "  v1 = (<lambda>)(x) = 2.0"
    assert lines_of(text, "backward")[-1] == "    the rule of (<lambda>) for v1   1.0 -> x"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [backward_steps, explain])
def test_a_variable_that_requires_no_gradient_is_refused_in_backwards_words(function):
    c = Variable(2.0, requires_grad=False)
    with pytest.raises(RuntimeError) as expected:
        c.backward()
    refuses(lambda: function(c), RuntimeError, str(expected.value))
    assert str(expected.value).startswith("backward() on Variable(data=2.0")


@pytest.mark.parametrize("function", [backward_steps, explain])
def test_a_graph_whose_leaf_was_written_is_refused(function):
    x, y, _ = leaves = xyz()
    v = x * y
    x.data = 5.0
    refuses(
        lambda: function(v),
        RuntimeError,
        "data of Variable 'x' (or its requires_grad) was written after this graph had used it; "
        "run the forward pass again before taking derivatives",
        leaves,
    )


@pytest.mark.parametrize("root", [3.0, None, "z", [Variable(1.0)]], ids=repr)
def test_what_is_no_variable_is_refused(root):
    for function in (backward_steps, explain):
        refuses(
            lambda: function(root),
            TypeError,
            f"{function.__name__}: expected the Variable that a graph ends in, got "
            f"{type(root).__name__}: pass the result, such as the loss",
        )


def test_a_graph_that_is_too_large_is_refused_with_its_size():
    x, y, _ = leaves = xyz()
    v = x
    for _ in range(24):
        v = v * y + x
    assert explain(v).count("\n") > 100
    refuses(
        lambda: explain(v + 1),
        ValueError,
        "explain: the graph has 51 nodes, more than max_nodes=50: explain a part of it (a "
        "result on the way, a smaller input), or give a larger max_nodes",
        leaves,
    )
    assert explain(v + 1, max_nodes=51)


@pytest.mark.parametrize(
    "arguments, kind, text",
    [
        ({"max_nodes": 0}, ValueError, "explain: expected max_nodes to be 1 or more, got 0"),
        ({"max_nodes": 1e3}, TypeError, "explain: expected max_nodes to be an int, got 1000.0"),
        ({"max_nodes": True}, TypeError, "explain: expected max_nodes to be an int, got True"),
        ({"digits": 0}, ValueError, "explain: expected digits to be from 1 to 17, got 0"),
        ({"digits": 18}, ValueError, "explain: expected digits to be from 1 to 17, got 18"),
        ({"digits": None}, TypeError, "explain: expected digits to be an int, got None"),
        ({"x": 2.0}, TypeError, "explain: expected a Variable or a list of Variables under the name x, got float"),
        (
            {"w": [Variable(1.0), (Variable(2.0), "b")]},
            TypeError,
            "explain: expected a Variable or a list of Variables under the name w[1][1], got str",
        ),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused(arguments, kind, text):
    x, _, _ = leaves = xyz()
    v = x * x
    refuses(lambda: explain(v, **arguments), kind, text, leaves)


# -- explain: every formula is right ---------------------------------------------------------------

PAIRS = [(0.3, 0.7), (-0.4, 0.6), (1.7, -1.2), (0.5, 0.5), (2.5, 2.0), (-2.3, 3.0), (0.0, 1.0), (1.2, 0.0), (3.0, 1.0)]
LISTS = [[0.3], [0.7, -1.2], [0.5, 0.5, -0.1], [-2.0, 3.0, 0.25, 3.0], [0.0, 0.0]]
SETTINGS = {"leaky_relu", "elu", "clamp_min", "clamp_max", "_huber"}  # whose b is a number
ROWS = {row["name"]: row for row in _core._ops()}
# What formulas call and mingrad has under another name, or not at all.
FUNCTIONS = {
    "inf": math.inf,
    "nan": math.nan,
    "abs": abs,
    "copy": lambda x: x,
    "stop_gradient": lambda x: x,
    "huber": spell("_huber"),
    "clamp_min": spell("clamp_min"),
    "clamp_max": spell("clamp_max"),
    "squared_error": nn.mse_loss,
    "absolute_error": nn.l1_loss,
    "hinge": nn.hinge_loss,
    "binary_cross_entropy": nn.binary_cross_entropy,
    "binary_cross_entropy_with_logits": nn.binary_cross_entropy_with_logits,
    "cross_entropy": nn.cross_entropy,
    "polygamma": lambda x, n: mingrad.derivative(mingrad.digamma, int(n))(x),
    "sumexp": lambda xs: math.fsum(math.exp(x - max(xs)) for x in xs),
    "mean_square": lambda xs: math.fsum(x * x for x in xs) / len(xs),
}


def calls_of(name):
    """Calls whose graphs have a node of this op."""
    if name == "_polygamma":

        def second(x):
            return _core._adjoints([mingrad.digamma(x)], [1.0], [x])[0]

        return [lambda a=a: second(Variable(a)) for a, _ in PAIRS]
    if name == "_copy":
        return [lambda: _core._inputs([Variable(2.0)])[0] * 3]
    if name == "_stop":  # detach() in a function that is recorded for a program

        def stopped():
            with _core.Recording():
                return Variable(2.0).detach() * 3

        return [stopped]
    if name in ("_sumexp", "_softmax"):
        return [lambda xs=xs: mingrad.softmax(list(map(Variable, xs)))[-1] for xs in LISTS]
    if name == "_mean_square":
        return [lambda xs=xs: nn.RMSNorm(len(xs))(list(map(Variable, xs)))[0] for xs in LISTS]
    if name == "_cross_entropy":
        return [lambda xs=xs, k=k: nn.cross_entropy(list(map(Variable, xs)), k) for xs in LISTS for k in range(len(xs))]
    kind, function = ROWS[name]["kind"], spell(name)
    if kind == "unary":
        return [lambda a=a: function(Variable(a)) for a, _ in PAIRS]
    if kind == "nary":
        return [
            lambda xs=xs, more=more: function([*map(Variable, xs), *more])
            for xs in LISTS
            for more in ([], [1.5], [Variable(1.5, requires_grad=False)])
        ]
    calls = [lambda a=a, b=b: function(Variable(a), b) for a, b in PAIRS]
    if name not in SETTINGS:
        calls += [lambda a=a, b=b: function(Variable(a), Variable(b)) for a, b in PAIRS]
        calls += [lambda a=a: function(*[Variable(a)] * 2) for a, _ in PAIRS]
    if ROWS[name]["kind"] == "binary" and not ROWS[name]["symbol"].isidentifier():
        calls += [lambda a=a, b=b: function(a, Variable(b)) for a, b in PAIRS]
    return calls


def close(got, expected):
    """To rounding. A formula is not always what the core computes: where a helper of it takes more
    care, what it means is written."""
    return ulps(got, expected) == 0 or abs(got - expected) <= 1e-12 * max(1.0, abs(expected))


def computed(text, known):
    """What Python makes of a formula; infinite at a pole, on whatever side."""
    try:
        with mingrad.errstate(all="ignore"):
            return eval(text, known)
    except ZeroDivisionError:
        return math.inf


def check_formulas(root):
    """Compute all formulas of a graph as they are written, with names and with numbers. Returns the
    ops of the graph."""
    graph = _core._graph([root])
    writer = _Writer(graph, {}, 17)
    known = {name: getattr(mingrad, name) for name in mingrad.engine.__all__} | FUNCTIONS
    known |= {writer.names[k]: row[0].data for k, row in enumerate(graph)}
    for number, (v, name, operands, *_) in enumerate(graph):
        if name == "leaf":
            continue
        for text in writer.formula(number):
            assert close(computed(text, known), v.data), (name, text)
        rows = writer.contributions(number)
        places = [j for j in _order(name, operands) if graph[operands[j]][0].requires_grad]
        assert len(rows) == len(places)
        for (left, formulas, right), place in zip(rows, places):
            k, partial = operands[place], graph[number][5][place]
            assert left.split(" ")[0] == f"d{writer.names[number]}/d{writer.names[k]}"
            for text in formulas:
                assert close(computed(text, known), partial), (name, left, text)
            assert formulas[-1] == repr(partial)
            adjoint, share = writer.received[number][-1].total, right.split(" = ")[1]
            assert share == f"{adjoint * partial!r} -> {writer.names[k]}"
    return {row[1] for row in graph}


@pytest.mark.parametrize("name", ROWS)
def test_every_op_is_written_with_formulas_that_give_its_value_and_partials(name):
    seen = 0
    for call in calls_of(name):
        try:
            root = call()
        except (ValueError, ZeroDivisionError, OverflowError):
            continue  # outside the op's domain
        seen += name in check_formulas(root)
    assert seen


@pytest.mark.parametrize(
    "root",
    [
        lambda: mingrad.dot([Variable(1.0), Variable(2.0)], [Variable(3.0), 4.0]),
        lambda: nn.Linear(2, 1)([Variable(1.0), Variable(2.0)])[0],
        lambda: nn.Linear(2, 1, bias=False)([Variable(1.0), 2.0])[0],
        lambda: nn.Linear(2, 1)([1.0, 2.0])[0],
    ],
    ids=["dot", "affine", "linear", "affine of numbers"],
)
def test_ops_over_two_ranges_are_written_with_right_formulas(root):
    check_formulas(root())


def random_tree(rng, depth):
    """(a formula of atoms and calls, the same with all its brackets)"""
    if depth == 0 or rng.random() < 0.2:
        atom = rng.choice([_Atom("x", 0.0), _Atom(None, 2.0), _Atom(None, -3.0)])
        return atom, atom.name or f"({atom.value:g})"
    function = rng.choice(["+", "-", "*", "/", "//", "%", "**", "neg", "sin"])
    if function in ("neg", "sin"):
        part, text = random_tree(rng, depth - 1)
        return _Call(function, (part,)), f"(-{text})" if function == "neg" else f"sin({text})"
    (left, left_text), (right, right_text) = (random_tree(rng, depth - 1) for _ in range(2))
    return _Call(function, (left, right)), f"({left_text} {function} {right_text})"


@pytest.mark.parametrize("seed", range(200))
def test_brackets_are_where_python_needs_them(seed):
    tree, expected = random_tree(random.Random(seed), 4)
    text = _text(tree, lambda atom: atom.name or f"{atom.value:g}")
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(expected)), (text, expected)


def test_an_op_over_many_operands_is_written_without_recursion():
    xs = [Variable(1.0) for _ in range(1500)]  # more than Python lets calls nest
    writer = _Writer(_core._graph([mingrad.prod(xs)]), {}, 6)
    assert writer.text(writer.local(1500, 2, {})).startswith("x1 * x2 * x4 * ")
    writer = _Writer(_core._graph([nn.Linear(1500, 1)(xs)[0]]), {}, 6)
    assert writer.formula(3001)[0].endswith(" + x3000 * x1500 + x3001")


@pytest.mark.parametrize("seed", range(6))
def test_the_formulas_of_a_random_graph_are_right(seed):
    root = random_things(seed, EXACT + LIBM + OTHER + NARY, 60)[-1]
    check_formulas(root)
    assert explain(root, max_nodes=1000).isascii()


# -- explain: the text -----------------------------------------------------------------------------


def lines_of(text, part):
    """The lines of one part of the text, which begins with that word, without its heading."""
    (found,) = [block for block in text.split("\n\n") if block.startswith(f"{part}: ")]
    return found.split("\n")[1:]


def test_readmes_program_is_explained():
    x, y = Variable(2.0), Variable(3.0)
    z = x**2 + y
    assert (
        explain(z, x=x, y=y, z=z)
        == """\
forward: each node from its operands
  x  = 2.0
  y  = 3.0
  v1 = x**2   = 4.0
  z  = v1 + y = 7.0

backward: adjoint * local derivative = contribution -> operand
  z: adjoint 1.0 (the start)
    dz/dv1 = 1.0                     1.0 * 1.0 = 1.0 -> v1
    dz/dy = 1.0                      1.0 * 1.0 = 1.0 -> y
  v1: adjoint 1.0 (from z)
    dv1/dx = 2 * x = 2 * 2.0 = 4.0   1.0 * 4.0 = 4.0 -> x

gradients: what backward() adds to .grad
  x: 4.0 (from v1)
  y: 1.0 (from z)"""
    )


def test_a_neuron_is_explained():
    w, x, b = (Variable(v, label=label) for v, label in ((0.5, "w"), (-1.5, "x"), (0.25, "b")))
    assert (
        explain(mingrad.tanh(w * x + b))
        == """\
forward: each node from its operands
  w  = 0.5
  x  = -1.5
  b  = 0.25
  v1 = w * x    = -0.75
  v2 = v1 + b   = -0.5
  v3 = tanh(v2) = -0.462117

backward: adjoint * local derivative = contribution -> operand
  v3: adjoint 1.0 (the start)
    dv3/dv2 = square(2 * exp(-abs(v2)) / (1 + square(exp(-abs(v2)))))
            = square(2 * exp(-abs(-0.5)) / (1 + square(exp(-abs(-0.5)))))
            = 0.786448   1.0 * 0.786448 = 0.786448 -> v2
  v2: adjoint 0.786448 (from v3)
    dv2/dv1 = 1.0        0.786448 * 1.0 = 0.786448 -> v1
    dv2/db = 1.0         0.786448 * 1.0 = 0.786448 -> b
  v1: adjoint 0.786448 (from v2)
    dv1/dw = x = -1.5    0.786448 * (-1.5) = -1.17967 -> w
    dv1/dx = w = 0.5     0.786448 * 0.5 = 0.393224 -> x

gradients: what backward() adds to .grad
  w: -1.17967 (from v1)
  x: 0.393224 (from v1)
  b: 0.786448 (from v2)"""
    )


def test_a_repeated_operand_is_explained_place_by_place():
    x, y = Variable(3.0, label="x"), Variable(4.0, label="y")
    text = explain(x * x + x * y)
    assert lines_of(text, "backward") == [
        "  v3: adjoint 1.0 (the start)",
        "    dv3/dv1 = 1.0                  1.0 * 1.0 = 1.0 -> v1",
        "    dv3/dv2 = 1.0                  1.0 * 1.0 = 1.0 -> v2",
        "  v2: adjoint 1.0 (from v3)",
        "    dv2/dx = y = 4.0               1.0 * 4.0 = 4.0 -> x",
        "    dv2/dy = x = 3.0               1.0 * 3.0 = 3.0 -> y",
        "  v1: adjoint 1.0 (from v3)",
        "    dv1/dx (operand 1) = x = 3.0   1.0 * 3.0 = 3.0 -> x",
        "    dv1/dx (operand 2) = x = 3.0   1.0 * 3.0 = 3.0 -> x",
    ]
    assert lines_of(text, "gradients") == [
        "  x: 4.0 + 3.0 + 3.0 = 10.0 (from v2, v1, v1)",
        "  y: 3.0 (from v2)",
    ]


def test_a_tie_of_a_maximum_is_explained():
    x, y, z = Variable(3.0, label="x"), Variable(3.0, label="y"), Variable(1.0, label="z")
    text = explain(mingrad.max(x, y, z))
    assert lines_of(text, "forward")[-1] == "  v1 = max([x, y, z]) = 3.0"
    assert lines_of(text, "backward")[1:] == [
        "    dv1/dx = 1 / 2 = 0.5   1.0 * 0.5 = 0.5 -> x",
        "    dv1/dy = 1 / 2 = 0.5   1.0 * 0.5 = 0.5 -> y",
        "    dv1/dz = 0.0           1.0 * 0.0 = 0.0 -> z",
    ]
    text = explain(mingrad.maximum(x, y))
    assert lines_of(text, "forward")[-1] == "  v1 = maximum(x, y) = x = 3.0"
    assert lines_of(text, "backward")[1:] == [
        "    dv1/dx = 0.5   1.0 * 0.5 = 0.5 -> x",
        "    dv1/dy = 0.5   1.0 * 0.5 = 0.5 -> y",
    ]


NARY_TEXTS = {
    "sum": (
        lambda x, y, z: mingrad.sum([x, y, 2.0]),
        """\
  v1 = sum([x, y, 2]) = 7.0
  v1: adjoint 1.0 (the start)
    dv1/dx = 1.0   1.0 * 1.0 = 1.0 -> x
    dv1/dy = 1.0   1.0 * 1.0 = 1.0 -> y""",
    ),
    "mean": (
        lambda x, y, z: mingrad.mean([x, y, z]),
        """\
  v1 = mean([x, y, z]) = 1.16667
  v1: adjoint 1.0 (the start)
    dv1/dx = 1 / 3 = 0.333333   1.0 * 0.333333 = 0.333333 -> x
    dv1/dy = 1 / 3 = 0.333333   1.0 * 0.333333 = 0.333333 -> y
    dv1/dz = 1 / 3 = 0.333333   1.0 * 0.333333 = 0.333333 -> z""",
    ),
    "prod": (
        lambda x, y, z: mingrad.prod([x, y, z, 4.0]),
        """\
  v1 = prod([x, y, z, 4]) = -36.0
  v1: adjoint 1.0 (the start)
    dv1/dx = y * z * 4 = 3.0 * (-1.5) * 4 = -18.0   1.0 * (-18.0) = -18.0 -> x
    dv1/dy = x * z * 4 = 2.0 * (-1.5) * 4 = -12.0   1.0 * (-12.0) = -12.0 -> y
    dv1/dz = x * y * 4 = 2.0 * 3.0 * 4 = 24.0       1.0 * 24.0 = 24.0 -> z""",
    ),
    "dot": (
        lambda x, y, z: mingrad.dot([x, y], [y, z]),
        """\
  v1 = dot([x, y], [y, z]) = 1.5
  v1: adjoint 1.0 (the start)
    dv1/dx = y = 3.0                1.0 * 3.0 = 3.0 -> x
    dv1/dy (operand 2) = z = -1.5   1.0 * (-1.5) = -1.5 -> y
    dv1/dy (operand 3) = x = 2.0    1.0 * 2.0 = 2.0 -> y
    dv1/dz = y = 3.0                1.0 * 3.0 = 3.0 -> z""",
    ),
    "logsumexp": (
        lambda x, y, z: mingrad.logsumexp([x, y]),
        """\
  v1 = logsumexp([x, y]) = 3.31326
  v1: adjoint 1.0 (the start)
    dv1/dx = exp(x - v1) = exp(2.0 - 3.31326) = 0.268941   1.0 * 0.268941 = 0.268941 -> x
    dv1/dy = exp(y - v1) = exp(3.0 - 3.31326) = 0.731059   1.0 * 0.731059 = 0.731059 -> y""",
    ),
    "softmax": (
        lambda x, y, z: mingrad.softmax([x, y])[1],
        """\
  v1 = sumexp([x, y])            = 1.36788
  v2 = exp(y - max([x, y])) / v1 = 0.731059
  v2: adjoint 1.0 (the start)
    dv2/dy = v2 = 0.731059                                     1.0 * 0.731059 = 0.731059 -> y
    dv2/dv1 = -(v2 / v1) = -(0.731059 / 1.36788) = -0.534447   1.0 * (-0.534447) = -0.534447 -> v1
  v1: adjoint -0.534447 (from v2)
    dv1/dx = exp(x - max([x, y]))
           = exp(2.0 - 3.0)
           = 0.367879                                          -0.534447 * 0.367879 = -0.196612 -> x
    dv1/dy = exp(y - max([x, y])) = exp(3.0 - 3.0) = 1.0       -0.534447 * 1.0 = -0.534447 -> y""",
    ),
    "cross_entropy": (
        lambda x, y, z: nn.cross_entropy([x, y], 0),
        """\
  v1 = cross_entropy([x, y], 0) = 1.31326
  v1: adjoint 1.0 (the start)
    dv1/dx = expm1(-v1) = expm1(-1.31326) = -0.731059   1.0 * (-0.731059) = -0.731059 -> x
    dv1/dy = exp(y - x - v1)
           = exp(3.0 - 2.0 - 1.31326)
           = 0.731059                                   1.0 * 0.731059 = 0.731059 -> y""",
    ),
}


@pytest.mark.parametrize("op", NARY_TEXTS)
def test_an_op_over_a_sequence_is_explained(op):
    make, expected = NARY_TEXTS[op]
    text = explain(make(*xyz()))
    results = [line for line in lines_of(text, "forward") if line.startswith("  v")]
    assert "\n".join(results + lines_of(text, "backward")) == expected


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda x: x**3, "dv1/dx = 3 * x**2 = 3 * 2.0**2 = 12.0"),
        (lambda x: x**1, "dv1/dx = 1.0"),
        (lambda x: x**-1, "dv1/dx = -x**-2 = -2.0**-2 = -0.25"),
        (lambda x: 2**x, "dv1/dx = v1 * log(2) = 4.0 * log(2) = 2.77259"),
        (lambda x: x / 4, "dv1/dx = 1 / 4 = 0.25"),
        (lambda x: x % 3, "dv1/dx = 1.0"),
        (lambda x: 7 % x, "dv1/dx = -(7 // x) = -(7 // 2.0) = -3.0"),
        (lambda x: x * 3, "dv1/dx = 3.0"),
        (lambda x: 5 - x, "dv1/dx = -1.0"),
        (lambda x: x.relu(), "dv1/dx = 1.0"),
        (lambda x: (x - 4).relu(), "dv2/dv1 = 0.0"),
        (lambda x: (x - 4).leaky_relu(0.1), "dv2/dv1 = 0.1"),
        (lambda x: (x - 4).elu(0.5), "dv2/dv1 = 0.5 * exp(v1) = 0.5 * exp(-2.0) = 0.0676676"),
        (lambda x: x.exp2(), "dv1/dx = v1 * 0.693147 = 4.0 * 0.693147 = 2.77259"),
        (lambda x: mingrad.hypot(x, 1.5), "dv1/dx = x / v1 = 2.0 / 2.5 = 0.8"),
        (lambda x: mingrad.digamma(x), "dv1/dx = polygamma(x, 1) = polygamma(2.0, 1) = 0.644934"),
        (lambda x: nn.mse_loss(x, 5.0), "dv1/dx = 2 * (x - 5) = 2 * (2.0 - 5) = -6.0"),
        (lambda x: nn.hinge_loss(x, -1.0), "dv1/dx = 1.0"),
        (
            lambda x: nn.binary_cross_entropy(x / 4, 1.0),
            "dv2/dv1 = (v1 - 1) / ((1 - v1) * v1) = (0.5 - 1) / ((1 - 0.5) * 0.5) = -2.0",
        ),
    ],
)
def test_a_local_derivative_is_written_without_what_is_trivial(make, expected):
    lines = lines_of(explain(make(Variable(2.0, label="x"))), "backward")[1:]
    end = next(k for k, line in enumerate(lines) if "->" in line)
    equation = " ".join(line.strip() for line in lines[: end + 1])
    assert re.split(" {2,}", equation)[0] == expected


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda x: x.relu(), "relu(x) = x = 2.0"),
        (lambda x: (-x).relu(), "relu(v1) = 0 = 0.0"),
        (lambda x: -x, "-x = -2.0"),
        (lambda x: 1 / x, "1 / x = 0.5"),
        (lambda x: x.silu(), "silu(x) = x * sigmoid(x) = 1.76159"),
        (lambda x: x.clamp(max=1.0), "clamp_max(x, 1) = 1 = 1.0"),
        (lambda x: x - -1.0, "x - (-1) = 3.0"),
        (lambda x: nn.mse_loss(x, 5.0), "squared_error(x, 5) = square(x - 5) = 9.0"),
        (lambda x: nn.binary_cross_entropy(x / 4, 1.0), "binary_cross_entropy(v1, 1) = -log(v1) = 0.693147"),
        (lambda x: x * Variable(3.0, requires_grad=False), "x * 3 = 6.0"),
    ],
)
def test_a_node_is_written_by_what_it_is_called_and_what_that_is(make, expected):
    last = lines_of(explain(make(Variable(2.0, label="x"))), "forward")[-1]
    assert re.sub(" +", " ", last).split(" = ", 1)[1] == expected


def test_numbers_have_as_many_digits_as_asked_for():
    x = Variable(2.0, label="x")
    assert "  v1 = x / 3 = 0.666667\n" in explain(x / 3)
    assert "  v1 = x / 3 = 0.67\n" in explain(x / 3, digits=2)
    assert "  v1 = x / 3 = 0.6666666666666666\n" in explain(x / 3, digits=17)
    assert "  v1 = x * 1.23457e-07 = 2.46914e-07\n" in explain(x * 1.23456789e-7)
    assert "  v1 = x * 1234570 = 2469130.0\n" in explain(x * 1234567.0)
    with mingrad.errstate(all="ignore"):
        assert "  v1 = x / 0 = inf\n" in explain(x / 0.0)


def test_a_leaf_alone_is_explained():
    assert (
        explain(Variable(3.0, label="x"))
        == """\
forward: each node from its operands
  x = 3.0

backward: adjoint * local derivative = contribution -> operand
  x: adjoint 1.0 (the start)

gradients: what backward() adds to .grad
  x: 1.0 (the start)"""
    )


# -- explain: names --------------------------------------------------------------------------------


def named(text):
    return [line.split()[0] for line in lines_of(text, "forward")]


def test_names_given_win_over_labels_and_labels_over_numbers():
    x, y, z = Variable(1.0, label="x"), Variable(2.0, label="y"), Variable(3.0)
    v = (x + y) * z
    assert named(explain(v)) == ["x", "y", "x1", "v1", "v2"]
    assert named(explain(v, a=x, out=v)) == ["a", "y", "x1", "v1", "out"]
    assert explain(v, v=v).startswith("forward")


def test_lists_of_variables_are_named_by_place():
    x, y, z = xyz()
    w = mingrad.tensor([1.0, 2.0], requires_grad=True)
    text = explain(x * w[0] + y * w[1], w=w, deep=[(x,), [y]], rest=[z])
    assert named(text)[:4] == ["deep[0][0]", "deep[1][0]", "w[0]", "w[1]"]
    assert lines_of(text, "gradients")[-1] == "  rest[0]:    0.0 (v3 does not depend on it)"


def test_arrays_and_a_models_parameters_give_names():
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    x, y, _ = xyz()
    assert named(explain(x * y, a=numpy.array([[x], [y]])))[:2] == ["a[0][0]", "a[1][0]"]
    model = MLP(1, [1])
    text = explain(model([2.0]), **dict(model.named_parameters()))
    (first, _), *_ = model.named_parameters()
    assert first in named(text)


def test_a_named_variable_that_has_no_part_has_gradient_zero():
    x, y, z = xyz()
    assert lines_of(explain(x * 2, unused=y), "gradients") == [
        "  x:      2.0 (from v1)",
        "  unused: 0.0 (v1 does not depend on it)",
    ]


def test_a_name_given_is_kept_where_another_variable_has_that_label():
    a, b = Variable(1.0, label="w"), Variable(2.0)
    assert named(explain(a * b, w=b))[:2] == ["w_2", "w"]


def test_very_long_names_are_cut_and_still_laid_out():
    names = {f"{'n' * 40}{k}": v for k, v in enumerate(xyz())}
    x, y, z = names.values()
    text = explain((x * y).tanh() + x * x + z, **names)
    assert named(text)[:3] == ["n" * 27 + "...", "n" * 27 + "..._2", "n" * 27 + "..._3"]


def test_a_name_that_is_used_twice_gets_a_number():
    a, b, c = Variable(1.0, label="w"), Variable(2.0, label="w"), Variable(3.0, label="w_2")
    assert named(explain(a * b * c))[:3] == ["w", "w_2", "w_2_2"]
    labelled = Variable(1.0, label="v1"), Variable(1.0, label="x1"), Variable(1.0)
    assert named(explain(mingrad.sum(labelled))) == ["v1", "x1", "x2", "v2"]


def test_constants_go_by_their_number_or_their_label():
    x = Variable(2.0, label="x")
    c, d = Variable(3.0, requires_grad=False), Variable(4.0, requires_grad=False, label="d")
    text = explain(x * c + d)
    assert lines_of(text, "forward") == [
        "  x  = 2.0",
        "  d  = 4.0    (a constant)",
        "  v1 = x * 3  = 6.0",
        "  v2 = v1 + d = 10.0",
    ]
    assert "-> d" not in text
    assert lines_of(text, "gradients") == ["  x: 3.0 (from v1)"]


HOSTILE = {
    "two\nlines": r"(two\nlines)",
    "\r\x1b[31m\0": r"(\r\x1b[31m\x00)",
    "ä": r"(\xe4)",
    "\ud800": r"(\ud800)",
    "x1*w1 + b": "(x1*w1 + b)",
    "3": "(3)",
    " ": "( )",
    "it's \"": "(it\\'s \")",
    "w" * 40: "w" * 27 + "...",
    "layers.0.w[1]": "layers.0.w[1]",
}


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_label_stays_in_one_line_of_ascii(label):
    text = explain(Variable(2.0, label=label) * 3)
    plain = explain(Variable(2.0, label="x") * 3)
    assert text.isascii() and text.count("\n") == plain.count("\n")
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert re.sub(" +", " ", text.replace(HOSTILE[label], "x")) == re.sub(" +", " ", plain)


def test_usual_texts_fit_the_width_and_have_no_blanks_at_line_ends():
    random.seed(5)
    model = MLP(2, [3, 1], activation="tanh")
    loss = nn.binary_cross_entropy_with_logits(model([0.5, -1.25]), 1.0)
    terms = mingrad.sum([Variable(k / 7) for k in range(40)]).gelu()
    for text in (explain(loss, **dict(model.named_parameters())), explain(terms)):
        assert max(map(len, text.split("\n"))) <= 100
        assert all(line == line.rstrip() for line in text.split("\n"))
