"""Recorded graphs: forward() and backward() after leaves were written, against the code that built the graph, run anew.

Values, gradients and errors have the code's own bits (the sign of a zero apart). It times nothing.
"""

import gc
import itertools
import math
import random
import threading
import weakref

import pytest

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, as_function, random_graph
from mingrad import RecordingError, Variable, VariableList, _core, autodiff, nn, optim, record, replay
from watch import no_trace, refuses, same_by_each_instruction_set, stress

INF, NAN = math.inf, math.nan
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-300, 5e-324, 1e155, -1e308, INF, -INF, NAN]


def bits(x):
    x = x.data if isinstance(x, Variable) else float(x)
    return "nan" if x != x else "0" if x == 0 else x.hex()


def numbers_of(tree):
    return autodiff._flatten(tree, "results")[0]


def outcome(run, leaves):
    """The bits of the results and of the leaves' gradients after run(), which gives results and does a backward pass; or what
    was raised."""
    for v in leaves:
        v.zero_grad()
    try:
        results = run()
    except (ArithmeticError, ValueError) as error:
        return type(error).__name__, str(error)
    return [bits(x) for x in numbers_of(results)], [bits(v.grad) for v in leaves]


def same(f, *points, seeds=(1.0,), passes=1):
    """Fail unless the graph of f at the first point has the outcome of f at all points, in this order and in reverse. f: of a
    list of Variables; its graph must be the same everywhere. Returns the graph."""
    leaves = [Variable(x) for x in points[0]]
    graph = record(f(leaves))
    one = not isinstance(f(leaves), (list, tuple, dict, VariableList))

    def eager():
        results = f(leaves)
        for _ in range(passes):
            if one:
                results.backward(seeds[0])
            else:
                nodes = [x for x in numbers_of(results) if isinstance(x, Variable) and x.requires_grad]
                mingrad.dot(nodes, list(itertools.islice(itertools.cycle(seeds), len(nodes)))).backward()
        return results

    def replayed():
        results = graph.forward()
        for _ in range(passes):
            nodes = itertools.cycle(seeds)
            graph.backward(seeds[0] if one else [next(nodes) for _ in numbers_of(results)])
        return results

    for point in [*points, *points[::-1]]:
        for v, x in zip(leaves, point):
            v.data = x
        assert outcome(replayed, leaves) == outcome(eager, leaves), f"at {point}"
    return graph


# -- values and gradients --------------------------------------------------------------------------


def smooth(xs):
    x, y, z = xs
    s = mingrad.sin(x * y) + mingrad.tanh(z) / (1.5 + y * y)
    return s * s + mingrad.logsumexp(xs) + mingrad.softmax(xs)[1] + mingrad.prod([x, s, z]) + mingrad.norm([x, y])


def choosing(xs):
    x, y, z = xs
    return (
        mingrad.maximum(x, y) * abs(z)
        + mingrad.relu(x - y) ** 3
        + mingrad.clamp(z, -1.0, 1.0)
        + mingrad.max(xs)
        + mingrad.sign(x)
    )


POINTS = [(0.3, 0.8, -0.5), (0.9, -0.4, 1.0), (1.0, 1.0, 1.0), (-0.7, 0.1, 2.0)]


@pytest.mark.parametrize("f", [smooth, choosing])
def test_a_graph_gives_the_bits_of_the_code_that_built_it(f):
    same(f, *POINTS)
    same(f, *POINTS, seeds=(-0.75,), passes=3)


@pytest.mark.parametrize("seed", range(24))
def test_a_random_graph_gives_the_same_bits_at_other_numbers(seed):
    rng = random.Random(seed)
    f, start = as_function(random_graph(seed, rng.choice([20, 60, 200]), EXACT + LIBM + OTHER + NARY, reference), mingrad)
    other = [[rng.uniform(-2, 2) for _ in start] for _ in range(4)]
    hostile = [[rng.choice([*SPECIAL, x]) for x in start] for _ in range(4)]
    with mingrad.errstate(all="ignore"):
        same(f, start, *other, *hostile, seeds=(0.75, -1.25))
    same(f, start, *other, *hostile, seeds=(0.75, -1.25), passes=2)


def test_several_results_come_in_their_nest():
    f = lambda xs: {"sum": xs[0] + xs[1], "rest": (xs[2] * xs[0], [xs[1], 2.0, xs[0]])}
    x, y, z = leaves = [Variable(k) for k in (1.0, 2.0, 3.0)]
    graph = record(f(leaves))
    assert graph.data == {"sum": 3.0, "rest": (3.0, [2.0, 2.0, 1.0])}
    x.data = 5.0
    assert graph.data == {"sum": 3.0, "rest": (3.0, [2.0, 2.0, 1.0])}
    assert graph.forward() == {"sum": 7.0, "rest": (15.0, [2.0, 2.0, 5.0])} == graph.data
    graph.data["sum"] = 0.0  # a nest of one's own
    assert graph.data["sum"] == 7.0
    graph.backward({"sum": 1.0, "rest": (10.0, [100.0, 7.0, 1000])})
    assert [v.grad for v in leaves] == [1.0 + 30.0 + 1000.0, 1.0 + 100.0, 50.0]
    graph.backward()
    assert [v.grad for v in leaves] == [1031.0 + 5.0, 101.0 + 2.0, 55.0]
    for roots in (VariableList([x, y]), (x,), [x * 2.0]):
        graph = record(roots)
        assert graph.forward() == [v.data for v in roots] or graph.forward() == tuple(v.data for v in roots)
        assert type(graph.forward()) in (list, tuple)


def test_sequences_layers_and_losses():
    rng = random.Random(3)
    layer = nn.MLP(3, [4, 2])
    parameters = list(layer.parameters())

    def f(leaves):
        xs, rest = leaves[:3], leaves[3:]
        hidden = layer(xs)
        return (
            mingrad.dot(xs, rest)
            + mingrad.sum([x * x for x in rest])
            + mingrad.mean(hidden)
            + nn.cross_entropy(hidden, 1)
            + nn.mse_loss(hidden, [0.5, -0.5])
            + mingrad.dot(mingrad.softmax(rest), xs)
        )

    leaves = [Variable(rng.uniform(-1, 1)) for _ in range(6)]
    graph = record(f(leaves))
    assert set(graph.leaves) == {*leaves, *parameters}
    for _ in range(5):
        for v in [*leaves, *parameters]:
            v.data = rng.uniform(-1, 1)

        def eager():
            y = f(leaves)
            y.backward()
            return y

        def replayed():
            y = graph.forward()
            graph.backward()
            return y

        assert outcome(replayed, [*leaves, *parameters]) == outcome(eager, [*leaves, *parameters])


def neurons(sizes, rng):
    """Layers of weights and biases in plain lists, and their function."""
    weights = [[[Variable(rng.uniform(-1, 1)) for _ in range(a + 1)] for _ in range(b)] for a, b in itertools.pairwise(sizes)]

    def f(xs):
        for layer in weights:
            xs = [mingrad.tanh(sum((w * x for w, x in zip(row, xs)), row[-1])) for row in layer]
        return xs[0]

    return f, [w for layer in weights for row in layer for w in row]


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_fifty_steps_of_training_have_the_same_bits(name):
    found = []
    for replays in (False, True):
        rng = random.Random(1)
        model, parameters = neurons((2, 8, 8, 1), rng)
        points = [([rng.uniform(-1, 1), rng.uniform(-1, 1)], rng.choice([-1.0, 1.0])) for _ in range(12)]
        optimizer = getattr(optim, name)(parameters, lr=0.05)

        def loss():
            losses = [(1.0 - target * model(xs)).relu() for xs, target in points]
            return sum(losses) * (1.0 / len(losses)) + 1e-4 * sum(p * p for p in parameters)

        graph = record(loss()) if replays else None
        losses = []
        for _ in range(50):
            optimizer.zero_grad()
            if replays:
                losses.append(graph.forward())
                graph.backward()
            else:
                y = loss()
                y.backward()
                losses.append(y.data)
            optimizer.step()
        found.append((losses, [p.data for p in parameters]))
    assert found[0] == found[1] and len(set(found[0][0])) > 40


def test_a_chain_of_a_hundred_thousand_operations():
    x, w = Variable(0.5), Variable(1.0)
    y = x
    for _ in range(100_000):
        y = y * w + x * 1e-6
    graph = record(y)
    x.data = 0.25
    value = graph.forward()
    graph.backward()
    y = x
    found = x.grad, w.grad
    x.zero_grad(), w.zero_grad()
    for _ in range(100_000):
        y = y * w + x * 1e-6
    y.backward()
    assert (value, *found) == (y.data, x.grad, w.grad)


def test_stop_gradient_and_detach_make_constants():
    """As the docstring says: what they give is no part of the graph."""
    for stop in (mingrad.stop_gradient, Variable.detach):
        x = Variable(3.0)
        held = stop(x)
        graph = record(stop(x) * x + held * x)
        x.data = 5.0
        assert graph.forward() == 30.0
        held.data = 5.0
        assert graph.forward() == 40.0
        graph.backward()
        assert (x.grad, held.grad) == (8.0, 0.0)
    f = mingrad.compile(lambda x: mingrad.stop_gradient(x) * x)  # there it is
    assert (f(3.0), f(5.0)) == (9.0, 25.0)


def test_a_leaf_may_be_the_result():
    x = Variable(2.0)
    graph = record([x, x, x * 1.0])
    x.data = 7.0
    assert graph.forward() == [7.0] * 3
    graph.backward()
    assert x.grad == 3.0 and graph.leaves == [x]


def test_gradients_add_up_and_a_second_pass_counts_again():
    x = Variable(3.0)
    x.grad = 100.0
    graph = record(x * x)
    graph.forward()
    for k in (1, 2, 3):
        graph.backward()
        assert x.grad == 100.0 + 6.0 * k
    graph.backward(-0.5)
    assert x.grad == 115.0
    graph.backward(True)
    assert x.grad == 121.0


def test_by_each_instruction_set():
    rng = random.Random(7)
    model, parameters = neurons((3, 16, 1), rng)

    def run():
        graph = record([model([0.1 * k, 0.5, -0.2]) for k in range(9)])
        for p in parameters:
            p.zero_grad()
        values = graph.forward()
        graph.backward()
        return values, [p.grad for p in parameters]

    same_by_each_instruction_set(run)


# -- leaves ----------------------------------------------------------------------------------------


def test_leaves_that_nobody_else_holds_stay_and_can_be_written():
    graph = record(sum((Variable(float(k), label=f"w{k}") * Variable(2.0) for k in range(3)), 0.0))
    gc.collect()
    mingrad.collect()
    assert [v.data for v in graph.leaves] == [0.0, 2.0, 1.0, 2.0, 2.0, 2.0]
    assert [v.label for v in graph.leaves[::2]] == ["w0", "w1", "w2"]
    graph.leaves[0].data = 10.0
    assert graph.forward() == 26.0
    graph.backward()
    assert [v.grad for v in graph.leaves] == [2.0, 10.0, 2.0, 1.0, 2.0, 2.0]
    graph.leaves.clear()  # a list of one's own
    assert len(graph.leaves) == 6


def test_constants_that_somebody_holds_are_read_anew_and_others_are_not():
    held, w = Variable(2.0, requires_grad=False), Variable(3.0)
    graph = record(w * held + w * Variable(10.0, requires_grad=False) + mingrad.dot([w, 1.0], [0.5, 100.0]))
    assert graph.leaves == [held, w]
    held.data = 4.0
    assert graph.forward() == 12.0 + 30.0 + 101.5
    graph.backward()
    assert (w.grad, held.grad) == (14.5, 0.0)


def test_whether_a_leaf_asks_for_a_gradient_is_read_at_backward():
    a, b = Variable(2.0), Variable(3.0, requires_grad=False)
    graph = record(a * b)
    graph.forward()
    graph.backward()
    a.requires_grad, b.requires_grad = False, True
    graph.backward()
    assert (a.grad, b.grad) == (3.0, 2.0)
    b.requires_grad = False
    refuses(graph.backward, RuntimeError, "graph.backward() of a graph no leaf of which requires a gradient", [a, b])


def test_what_branches_and_constants_decided_is_frozen():
    """As the docstring says, loudly."""
    x, c = Variable(2.0), Variable(3.0, requires_grad=False)
    graph = record([x * 10.0 if x > 0 else -x, max(x, 1.0) * 1.0, x * (c * c)])
    x.data, c.data = -2.0, 5.0
    assert graph.forward() == [-20.0, -2.0, -18.0]


def test_the_variables_of_the_code_keep_their_values_and_gradients():
    x = Variable(2.0)
    y = x * 3.0
    z = y * y
    z.backward()
    graph = record(z)  # the leaf was not written, and if it had been:
    x.data = 5.0
    again = record(z)
    for g in (graph, again):
        assert g.forward() == 225.0
        g.backward()
    assert (z.data, y.data, y.grad) == (36.0, 6.0, 12.0)
    assert x.grad == 36.0 + 2 * 90.0
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        z.backward()


def test_the_eager_graph_and_its_leaves_die_as_they_should():
    with no_trace():
        x = Variable(1.0)
        y = mingrad.exp(x)
        for _ in range(50):
            y = y * 0.5 + x
        graph = record(y)
        known = weakref.ref(y), weakref.ref(x)
        del y
        mingrad.collect()
        assert known[0]() is None
        info = mingrad.tape_info()
        for k in range(100):
            x.data = 0.01 * k
            graph.forward()
            graph.backward()
        after = mingrad.tape_info()
        assert (after.live, after.recorded) == (info.live, info.recorded)  # a replay records nothing
        del x
        assert known[1]() is not None
        del graph
    assert known[1]() is None


def test_graphs_of_a_higher_order():
    x, y = Variable(0.3), Variable(0.8)
    f = lambda x, y: mingrad.sin(x * y) * mingrad.exp(y)
    graph = record(mingrad.grad(f, argnums=(0, 1))(x, y))
    x.data = 0.7
    assert graph.forward() == pytest.approx(tuple(mingrad.grad(f, argnums=(0, 1))(0.7, 0.8)), rel=1e-15)
    graph.backward((1.0, 0.0))
    expected = mingrad.hvp(lambda v: f(*v), ([0.7, 0.8],), ([1.0, 0.0],))
    assert [x.grad, y.grad] == pytest.approx(expected, rel=1e-14)


def test_a_gradient_that_was_a_variable_becomes_a_number():
    x = Variable(3.0)
    (x * x).backward(create_graph=True)
    assert isinstance(x.grad, Variable)
    graph = record(x * x)
    graph.forward()
    graph.backward()
    assert x.grad == 12.0 and type(x.grad) is float


# -- errors ----------------------------------------------------------------------------------------

RAISING = {
    "1/x": (lambda x: 1 / x, 0.0),
    "x/0": (lambda x: 3.0 * x / (x * 0.0 + x), 0.0),
    "log": (lambda x: mingrad.log(x) + 1 / x, 0.0),
    "the first of two": (lambda x: 1 / x + mingrad.log(x), 0.0),
    "exp": (lambda x: mingrad.exp(x) * 2, 1000.0),
    "negative power": (lambda x: x**-1.0, 0.0),
    "root": (lambda x: x**0.5, -1.0),
    "power of a number": (lambda x: 2.0**x, 5000.0),
    "power": (lambda x: x**x, -0.5),
    "floordiv": (lambda x: 3.0 // x, 0.0),
    "mod": (lambda x: x % x, 0.0),
    "inside a layer": (lambda x: sum(mingrad.acosh(x * k) for k in (3.0, 2.0, 1.0)), 0.6),
    "bce": (lambda x: nn.binary_cross_entropy([x], [1.0]), 1.5),
}


@pytest.mark.parametrize("name", RAISING)
def test_errors_are_those_of_the_code(name):
    f, wrong = RAISING[name]
    v = Variable(wrong)
    with pytest.raises((ArithmeticError, ValueError)) as expected:
        f(v)
    kind, text = type(expected.value), str(expected.value)
    del expected
    fine = 2.0 if name != "bce" else 0.5
    x = Variable(fine)
    graph = record([f(x), x * 2.0])
    before = graph.data
    graph.forward()
    x.data = wrong
    for _ in range(2):
        refuses(graph.forward, kind, text, [x])
        refuses(
            graph.backward,
            RuntimeError,
            "graph.backward() without the numbers of a graph.forward() that went well: call graph.forward() first",
            [x],
        )
        assert graph.data == before
    with mingrad.errstate(all="ignore"):
        assert bits(graph.forward()[0]) == bits(f(x))
        graph.backward([1.0, 0.0])
    x.data = fine
    assert graph.forward() == before


def test_infinite_operands_are_no_error():
    x = Variable(1.0)
    graph = record(mingrad.exp(x) + 1 / x)
    x.data = INF
    assert graph.forward() == INF
    x.data = NAN
    assert math.isnan(graph.forward())


def test_backward_before_forward_is_refused():
    x = Variable(2.0)
    graph = record(x * x)
    refuses(
        graph.backward,
        RuntimeError,
        "graph.backward() without the numbers of a graph.forward() that went well: call graph.forward() first",
        [x],
    )


def test_backward_after_a_write_is_refused():
    x, w = Variable(2.0, label="x"), Variable(3.0)
    graph = record(x * w)
    graph.forward()
    x.data = 2.5
    refuses(
        graph.backward,
        RuntimeError,
        "data of Variable 'x' was written after graph.forward() had used it; call graph.forward() again before graph.backward()",
        [x, w],
    )
    x.data = 2.0  # the number that forward() used
    x.zero_grad()
    graph.backward()
    assert x.grad == 3.0
    x.data = NAN
    graph.forward()
    graph.backward()
    assert math.isnan(w.grad)


def test_hooks_are_refused():
    x = Variable(2.0, label="x")
    y = x * x
    y.label = "y"
    text = (
        "Variable {!r} has a hook (register_hook), which a recorded graph would not call: remove it, or call backward() on the "
        "Variable"
    )
    handle = y.register_hook(print)
    refuses(lambda: record(y * 1.5), RuntimeError, text.format("y"), [x])
    handle.remove()
    graph = record(y * 1.5)
    handle = x.register_hook(print)
    refuses(lambda: record(y), RuntimeError, text.format("x"), [x])
    graph.forward()
    refuses(graph.backward, RuntimeError, text.format("x"), [x])
    handle.remove()
    x.zero_grad()
    graph.backward()
    assert x.grad == 6.0


def test_what_was_computed_outside_is_refused():
    @mingrad.custom_vjp
    def cube(x):
        return x * x * x

    cube.defvjp(lambda x: (x * x * x, x), lambda x, g: (3 * x * x * g,))
    x = Variable(2.0)
    for f, name in ((cube, "cube"), (mingrad.compile(lambda x: x * x), "<lambda>")):
        y = f(x)
        refuses(
            lambda: record(y + 1.0),
            RecordingError,
            f"{name!r} is computed outside, by a custom or compiled function, and cannot be part of a recorded graph: record what "
            "comes before or after it",
            [x],
        )


def test_what_is_no_graph_is_refused():
    for tree, name in ((2.0, "float"), ([1.0, 2], "list"), ({}, "dict")):
        refuses(lambda: record(tree), TypeError, f"record: expected a Variable, or a nest with some, got {name}")
    with pytest.raises(TypeError, match="record: expected numbers, Variables"):
        record([Variable(1.0), "a"])
    x = Variable(2.0)
    graph = record([x * x, x])
    graph.forward()
    with no_trace([x]):
        for gradient, kind, text in (
            ([x, 1.0], TypeError, "graph.backward: expected numbers as gradients, got Variables: nothing is recorded here"),
            ([1.0], ValueError, "graph.backward: expected 2 items among the gradients, got 1"),
            (["a", 1.0], TypeError, None),
            (None, TypeError, None),
            ("a", TypeError, None),
        ):
            with pytest.raises((kind, ValueError)) as caught:
                graph.backward(gradient)
            assert text is None or str(caught.value) == text
            del caught


def test_graphs_inside_compiled_functions_are_refused():
    x = Variable(2.0)
    graph = record(x * x)
    text = "in a function that is being compiled: call it"
    for f in (lambda y: graph.forward() * y, lambda y: graph.backward() or y, lambda y: record(x * y).forward()):
        with no_trace([x]), pytest.raises(RecordingError, match=text):
            mingrad.compile(f)(1.0)


def test_anomaly_detection_is_refused():
    x = Variable(2.0)
    graph = record(x * x)
    graph.forward()
    for call, name in ((graph.forward, "forward"), (graph.backward, "backward")):
        with (
            mingrad.detect_anomaly(),
            pytest.raises(RuntimeError, match=rf"graph.{name}\(\) in detect_anomaly\(\), which has no operations to look at"),
        ):
            call()
    assert x.grad == 0.0


def test_no_grad_makes_no_difference():
    x = Variable(2.0)
    graph = record(x * x)
    with mingrad.no_grad():
        assert graph.forward() == 4.0
        graph.backward()
    assert x.grad == 4.0


# -- threads, memory -------------------------------------------------------------------------------


def test_threads_may_replay_one_graph():
    xs = [Variable(0.1 * k) for k in range(50)]
    graph = record(mingrad.sum([mingrad.tanh(x * 0.5) for x in xs]))
    expected, wrong = graph.forward(), []

    def work():
        try:
            for _ in range(200):
                if graph.forward() != expected:
                    wrong.append("value")
                graph.backward()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    slope = xs[7].grad / 800
    (mingrad.tanh(xs[7] * 0.5)).backward()
    assert xs[7].grad - 800 * slope == pytest.approx(slope, rel=1e-9)  # differences of sums of 800 terms


@pytest.mark.parametrize("young", [1, 7])
def test_the_collector_may_run_at_every_recording(young):
    with stress(young, 1):
        same(smooth, *POINTS)
        x = Variable(2.0)
        graph = record(mingrad.log(x) + 1 / x)
        x.data = 0.0
        for _ in range(3):
            with pytest.raises(ValueError):
                graph.forward()


@pytest.mark.parametrize("what", ["record", "forward", "backward", "error"])
def test_an_allocation_that_fails_leaves_everything_as_it_was(what):
    xs = [Variable(0.3), Variable(0.8), Variable(-0.5)]
    f = lambda xs: smooth(xs) + mingrad.log(xs[0])
    y = f(xs)
    y.backward()
    expected = [v.grad for v in xs]
    failures = 0
    for n in range(500):
        graph = None if what == "record" else record(y)
        if what == "backward":
            graph.forward()
        xs[0].data = -1.0 if what == "error" else 0.3
        for v in xs:
            v.zero_grad()
        gc.collect()
        mingrad.collect()
        before = mingrad.tape_info()
        _core._fail_allocation(n)
        try:
            if what == "record":
                graph = record(y)
            elif what == "backward":
                graph.backward()
            else:
                graph.forward()
            failed = False
        except MemoryError:
            failed = True
        except ValueError:
            assert what == "error"
            failed = False
        triggered = _core._fail_allocation(-1)
        failures += failed
        assert not failed or triggered
        if failed or what == "error":
            gc.collect()
            mingrad.collect()
            after = mingrad.tape_info()
            assert (after.live, after.handles) == (before.live, before.handles), n
            assert [v.grad for v in xs] == [0.0] * 3
        xs[0].data = 0.3
        if graph is not None:
            for v in xs:
                v.zero_grad()
            assert graph.forward() == y.data
            graph.backward()
            assert [v.grad for v in xs] == expected
        if not triggered:
            break
    assert failures >= 2


def test_the_program_of_a_graph():
    x = Variable(2.0)
    y = x * x + 1.0
    y.label = "parabola"
    graph = record(y)
    assert type(graph) is replay.Graph and graph.program.name == "parabola" and graph.program.captured == (x,)
    assert [name for name, *_ in graph.program.rows()] == ["leaf", "mul", "add"] and graph.program.n_inputs == 0
