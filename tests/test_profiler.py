"""profile(): what is counted, at which line, and what is suggested.

Counts are compared exactly: with the tape's own counters, with the graph as trace() shows it, and, for suggestions, with what the
suggested code records. Lines are those of this file, found by a comment. Times are looked at for what they add up to, and for which
is longest where one must be.
"""

import gc
import inspect
import itertools
import linecache
import random
import re
import sys
import threading
import time

import pytest

import mingrad
from mingrad import Variable, _core, nn, profile
from mingrad.visualize import trace
from watch import stress


@pytest.fixture(autouse=True)
def no_block_is_left_on():
    yield
    assert _core.tape_info().nodes >= 0
    _core._check()


needs_whole_sums = pytest.mark.skipif(
    _core._check(), reason="a debug build collects in the midst of each sum, so none is found whole"
)


def marked(function):
    """{mark: line number} of a function's lines that end in a comment '# mark'."""
    lines, first = inspect.getsourcelines(function)
    return {line.rpartition("  # ")[2].strip(): first + k for k, line in enumerate(lines) if "  # " in line}


def by_line(p):
    """{line number: Line} of the lines of this file."""
    return {line.line: line for line in p.lines if line.file == __file__}


def variables(n):
    return [Variable(0.1 + k) for k in range(n)]


def interior(root):
    return [v for v in trace(root)[0] if v._op]


def depth_of(v):
    """Operations on the longest way from a leaf, by looking at operands."""
    return 1 + max(map(depth_of, v._prev)) if v._op else 0


class Neuron:
    """micrograd's, in plain Python."""

    def __init__(self, inputs, activation=True):
        self.w = [Variable(random.uniform(-1, 1)) for _ in range(inputs)]
        self.b = Variable(0.0)
        self.activation = activation

    def __call__(self, x):
        act = sum((wi * xi for wi, xi in zip(self.w, x)), self.b)  # sum
        return act.relu() if self.activation else act  # relu


class Layers:
    def __init__(self, *sizes):
        self.layers = [[Neuron(m, k + 2 < len(sizes)) for _ in range(n)] for k, (m, n) in enumerate(itertools.pairwise(sizes))]
        self.parameters = [p for layer in self.layers for neuron in layer for p in [*neuron.w, neuron.b]]

    def __call__(self, x):
        for layer in self.layers:
            x = [neuron(x) for neuron in layer]
        return x[0] if len(x) == 1 else x


# -- what is counted ---------------------------------------------------------------------------------------------------------------


def a_bit_of_everything():
    x, y, *more = variables(9)
    z = (x * y + 2.0) ** 2 / more[0] - 1
    (x * y).tanh()  # it is dropped at once
    total = mingrad.sum(more) + mingrad.dot(more, [1.0] * 7) + mingrad.sum([z, x, y])
    with mingrad.no_grad():
        total * 2
    mingrad.softmax(more)
    mingrad.nn.mse_loss([z, x], [1.0, 2.0])
    return total.exp2() if total < 9 else total


@pytest.mark.parametrize("young", [1, 3, 64, None])
def test_nodes_are_those_of_the_tapes_counter_whatever_is_collected(young):
    a_bit_of_everything()
    with stress(young), profile() as p:
        before = mingrad.tape_info().recorded
        for _ in range(5):
            kept = a_bit_of_everything()
        after = mingrad.tape_info().recorded
    assert kept is not None
    assert p.totals.nodes == after - before
    assert sum(line.nodes for line in p.lines) == sum(op.nodes for op in p.ops) == after - before
    assert sum(line.bytes for line in p.lines) == sum(op.bytes for op in p.ops) == p.totals.bytes


def test_ops_are_those_of_the_graph():
    x, y = variables(2)
    with profile() as p:
        z = (x * y + x) * x - (y + y).tanh() / x
    found = {}
    for v in interior(z):
        found[v._op] = found.get(v._op, 0) + 1
    assert {op.name: op.nodes for op in p.ops} == {"mul": 2, "add": 2, "sub": 1, "tanh": 1, "div": 1}
    assert sum(found.values()) == p.totals.nodes == 7
    assert p.lines[0].ops == {"add": 2, "mul": 2, "div": 1, "sub": 1, "tanh": 1}


def test_bytes_are_the_tapes_for_each_node_and_for_operands_that_are_listed():
    xs = variables(5)
    with profile() as p:
        mingrad.sum(xs)  # a run of nodes
        mingrad.sum(xs[::2])  # three that are listed
        mingrad.dot(xs, xs[::-1])  # ten
        xs[0] * xs[1]
    assert [(op.name, op.nodes, op.bytes) for op in p.ops] == [("sum", 2, 92), ("dot", 1, 80), ("mul", 1, 40)]
    assert p.totals.bytes == 212


def test_the_bytes_of_a_node_are_what_the_tapes_arrays_grow_by():
    mingrad.collect()
    with stress(1 << 20, 1):
        info = mingrad.tape_info()
        kept = variables(info.capacity - info.nodes + 1)  # from here on the arrays grow node by node
        before = mingrad.tape_info()
        with profile() as p:
            kept += variables(640)
        after = mingrad.tape_info()
    assert after.capacity - before.capacity == 640
    bitmaps = 10 * (2 * 8 + 4)  # of 64 nodes each
    assert 0 <= after.bytes - before.bytes - bitmaps - p.totals.bytes < 64
    assert p.totals.bytes == 640 * 40


def lines_of_a_program(model, xs):
    total = 0.0
    for x in xs:
        y = model(x)  # model
        total = total + (y - 1.0) ** 2  # loss
    scale = (
        total  # first
        * 2.0
    )  # last
    return scale


def test_lines_are_those_of_the_source_with_their_text_and_function():
    model, marks = Layers(2, 3, 1), marked(lines_of_a_program)
    own = marked(Neuron.__call__)
    with profile() as p:
        lines_of_a_program(model, [[1.0, 2.0], [3.0, 4.0]])
    found = by_line(p)
    assert found[own["sum"]].nodes == 2 * (3 * 4 + 6)
    assert found[own["relu"]].nodes == 2 * 3
    assert found[marks["loss"]].nodes == 2 * 3
    assert sum(line.nodes for line in found.values()) == p.totals.nodes == 2 * (18 + 3 + 3) + 1
    assert found[own["sum"]].function == "__call__"
    assert found[own["sum"]].text == "act = sum((wi * xi for wi, xi in zip(self.w, x)), self.b)  # sum"
    assert found[marks["loss"]].function == "lines_of_a_program"
    (scale,) = set(found) - {own["sum"], own["relu"], marks["loss"]}
    assert marks["first"] <= scale <= marks["last"]
    assert [line.nodes for line in p.lines] == sorted((line.nodes for line in p.lines), reverse=True)


def test_a_layers_nodes_are_at_the_line_that_calls_it_by_one_call():
    model = nn.MLP(2, [16, 16, 1])
    X = [[0.5, 1.0]] * 10
    before = mingrad.tape_info().recorded
    with profile() as p:
        model(X)
    (line,) = p.lines
    assert (line.file, line.line, line.text) == (__file__, inspect.currentframe().f_lineno - 2, "model(X)")
    assert line.nodes == mingrad.tape_info().recorded - before == 10 * (2 + 16 + 16 + 16 + 16 + 1)
    assert (line.calls, line.depth) == (1, 5)


def test_depth_is_the_longest_way_from_a_leaf_wherever_that_was_recorded():
    x, y = variables(2)
    early = (x * y).tanh()
    with profile() as p:
        a = early * x  # one
        b = (a + y).tanh() * early  # other
        c = mingrad.sum([x, b, a, 1.0]) + x
    assert sorted(line.depth for line in p.lines) == [depth_of(a), depth_of(b), depth_of(c)] == [3, 6, 8]
    assert p.totals.depth == 8


def test_the_first_and_the_last_time_of_a_line_in_other_functions_are_one_line():
    x = Variable(2.0)
    square = lambda v: v * v
    with profile() as p:
        square(x)
        square(square(x))
    assert [(line.nodes, line.function) for line in p.lines] == [(3, "<lambda>")]


def test_a_generator_is_counted_where_it_records_and_under_who_asks_it():
    def products(x):
        while True:
            yield x * x  # product

    def ask(source):
        return next(source)

    source = products(Variable(2.0))
    with profile() as p:
        next(source)
        ask(source)
    (line,) = p.lines
    assert (line.line, line.nodes, line.function) == (marked(products)["product"], 2, "products")
    stacks = [re.findall(r"(\w+) \(", text) for text in p.folded().splitlines()]
    name = inspect.currentframe().f_code.co_name
    assert sorted(stacks) == [[name, "ask", "products"], [name, "products"]]


def test_frames_beyond_128_are_left_out():
    def deep(n, x):
        return deep(n - 1, x) if n else x * x  # deep

    with profile() as p:
        for n in (3, 126, 127, 300):
            deep(n, Variable(2.0))
    assert p.totals.nodes == 8
    assert by_line(p)[marked(deep)["deep"]].nodes == 4
    assert sorted(text.count(";") for text in p.folded().splitlines()) == [0, 4, 127, 127]  # the deepest two are the same


def test_code_without_a_file_has_lines_and_its_text_where_linecache_knows_it():
    source = "x = Variable(2.0)\ny = x * x\nz = y * y\n"
    name = "<cell of a notebook>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    try:
        with profile() as p:
            exec(compile(source, name, "exec"), {"Variable": Variable, "__name__": "__main__"})
            exec("y = x * x", {"x": Variable(2.0)})
    finally:
        del linecache.cache[name]
    found = {(line.file, line.line): line.text for line in p.lines}
    assert found[name, 2] == "y = x * x"
    assert found[name, 3] == "z = y * y"
    assert found["<string>", 1] == ""


# -- passes and collections --------------------------------------------------------------------------------------------------------


def test_a_pass_sweeps_what_the_root_depends_on_and_no_other():
    xs = variables(4)
    old = xs[0] * xs[1]
    with profile() as p:
        z = (old * xs[2] + mingrad.sum(xs)).tanh() * mingrad.dot(xs, [2.0] * 4)  # z
        z * 3.0
        unused = xs[0].exp()
        z.backward()
        z.backward()
    assert unused.data
    assert (p.totals.passes, p.totals.swept) == (2, 2 * len(interior(z)))
    assert by_line(p)[marked(test_a_pass_sweeps_what_the_root_depends_on_and_no_other)["z"]].swept == 2 * (len(interior(z)) - 1)
    assert {op.name: op.swept for op in p.ops if op.swept} == {"mul": 6, "sum": 2, "add": 2, "tanh": 2, "dot": 2}


def test_a_layers_pass_sweeps_all_its_nodes():
    model = nn.MLP(2, [16, 16, 1])
    with profile() as p:
        loss = nn.mse_loss(model([[0.5, 1.0]] * 10), [1.0] * 10)
        loss.backward()
    assert p.totals.swept == len(interior(loss))


@pytest.mark.parametrize("kind", ["plain", "create_graph", "hook", "anomaly"])
def test_each_kind_of_backward_is_one_pass(kind):
    x, y = variables(2)
    with profile() as p:
        z = (x * y).tanh() * x
        if kind == "hook":
            z.register_hook(lambda adjoint: None)
        if kind == "anomaly":
            with mingrad.detect_anomaly():
                z.backward()
        else:
            z.backward(create_graph=kind == "create_graph")
    assert (p.totals.passes, p.totals.swept) == (1, 3)
    assert {op.name: op.swept for op in p.ops if op.swept} == {"mul": 2, "tanh": 1}


def test_what_a_recorded_pass_records_is_at_its_line():
    x, y = variables(2)
    before = mingrad.tape_info().recorded
    with profile() as p:
        z = (x * y).tanh() * x
        z.backward(create_graph=True)  # pass
    found = by_line(p)[marked(test_what_a_recorded_pass_records_is_at_its_line)["pass"]]
    assert found.nodes == mingrad.tape_info().recorded - before - 3 > 3
    assert p.totals.nodes == mingrad.tape_info().recorded - before


def test_transforms_are_passes_and_record_where_the_function_does():
    def f(x):
        return x * x * x  # f

    with profile() as p:
        mingrad.grad(f)(2.0)
        mingrad.jvp(f, (2.0,), (1.0,))
    assert by_line(p)[marked(f)["f"]].nodes == 4
    assert (p.totals.passes, p.totals.swept) == (2, 4)


def test_a_pass_over_another_ones_nodes_counts_them_without_a_line():
    x, y = variables(2)
    z = (x * y).tanh()
    with profile() as p:
        z.backward()
    assert (p.totals.passes, p.totals.swept, p.totals.nodes, p.lines) == (1, 2, 0, [])


def test_a_pass_that_raises_leaves_all_in_order():
    x = Variable(2.0)

    def stop(adjoint):
        raise KeyError("stop")

    with profile() as p:
        y = x * x
        handle = y.register_hook(stop)
        z = y * x
        with pytest.raises(KeyError):
            z.backward()
        handle.remove()
        z.backward()
        x.data = 3.0
        with pytest.raises(RuntimeError, match="was written after"):
            z.backward()
    assert (p.totals.passes, p.totals.nodes) == (3, 2)


def test_a_pass_within_a_hook_is_a_pass_of_its_own():
    x = Variable(2.0)
    y = x * x
    with profile() as p:
        z = y * x
        z.register_hook(lambda adjoint: (x * x * x).backward())
        z.backward()
    assert (p.totals.passes, p.totals.swept) == (2, 2 + 2)
    assert p.totals.nodes == 3


def test_collections_are_the_tapes():
    x = Variable(1.0)
    mingrad.collect()
    before = mingrad.tape_info()
    with stress(256, 0), profile() as p:
        for _ in range(1000):
            y = x * x * x
        mingrad.collect()
    after = mingrad.tape_info()
    assert y.data == 1.0
    assert p.totals.collections == after.collections - before.collections > 1
    assert p.totals.full_collections == after.full_collections - before.full_collections >= 1
    assert 0 < p.totals.freed <= p.totals.nodes == 2000
    assert 0 < p.totals.collecting < p.totals.seconds


def test_times_are_parts_of_the_whole():
    model = Layers(2, 16, 1)
    with profile() as p:
        for _ in range(20):
            loss = sum(model([0.5, float(k)]) for k in range(5))
            loss.backward()
    total = p.totals
    assert 0 < total.recording < total.seconds
    assert 0 < total.backward < total.seconds
    assert total.elsewhere >= 0
    assert sum(line.seconds for line in p.lines) == pytest.approx(total.recording)
    assert sum(op.seconds for op in p.ops) == pytest.approx(total.recording)
    assert sum(line.backward for line in p.lines) == pytest.approx(total.backward)
    assert sum(op.backward for op in p.ops) == pytest.approx(total.backward)


def test_slow_work_after_an_operation_is_at_its_line_and_after_a_pass_elsewhere():
    x = Variable(2.0)
    with profile() as p:
        y = x * x  # slow
        time.sleep(0.05)
        z = y * x
        z.backward()
        time.sleep(0.05)
    line = by_line(p)[marked(test_slow_work_after_an_operation_is_at_its_line_and_after_a_pass_elsewhere)["slow"]]
    assert 0.05 <= line.seconds <= p.totals.recording
    assert p.totals.elsewhere >= 0.05
    assert p.totals.seconds >= 0.1


def test_a_custom_functions_pass_is_timed_by_itself():
    @mingrad.custom_vjp
    def slow(x):
        return x * 2.0

    def rule(x, g):
        time.sleep(0.05)
        return (g * 2.0,)

    slow.defvjp(lambda x: (x * 2.0, x), rule)
    xs = variables(2)
    with profile() as p:
        y = slow(xs[0])  # slow
        z = mingrad.sum([v * y for v in xs * 50])
        z.backward()
    line = by_line(p)[marked(test_a_custom_functions_pass_is_timed_by_itself)["slow"]]
    assert 0.05 <= line.backward
    assert {op.name: op.backward for op in p.ops}["custom"] >= 0.05


# -- suggestions -------------------------------------------------------------------------------------------------------------------


def kinds(p):
    return {s.kind: s for s in p.suggestions}


def recorded(work):
    """(nodes, bytes) of what work() records."""
    with profile() as p:
        kept = work()
    assert kept is not None
    return p.totals.nodes, p.totals.bytes


@needs_whole_sums
@pytest.mark.parametrize("numbers", [False, True], ids=["Variables", "numbers"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("step", [1, 2], ids=["run", "apart"])
def test_a_sum_of_products_is_what_dot_records_in_its_place(numbers, bias, step):
    ws, b = variables(20)[::step], Variable(0.5)
    xs = [float(k) for k in range(len(ws))] if numbers else variables(len(ws))
    with profile() as p:
        y = sum(w * x for w, x in zip(ws, xs)) + b if bias else sum(w * x for w, x in zip(ws, xs))  # here
    (found,) = p.suggestions
    assert y.data
    assert (found.nodes, found.bytes) == (p.totals.nodes, p.totals.bytes)
    instead = recorded(lambda: mingrad.dot(ws, xs) + b if bias else mingrad.dot(ws, xs))
    assert (found.kind, found.fewer_nodes, found.fewer_bytes) == ("dot", *instead)
    text = f"{found.nodes} nodes are a sum of products: mingrad.dot(ws, xs) would record {found.fewer_nodes}"
    assert found.text == text
    line = marked(test_a_sum_of_products_is_what_dot_records_in_its_place)["here"]
    assert str(found) == f"test_profiler.py:{line}: {text}"


@needs_whole_sums
@pytest.mark.parametrize("numbers", [False, True], ids=["Variables", "numbers"])
def test_sums_of_products_of_the_same_inputs_are_what_a_layer_records(numbers):
    layer, linear = Layers(12, 16), nn.Linear(12, 16)
    xs = [float(k) for k in range(12)] if numbers else variables(12)
    with profile() as p:
        kept = layer(xs)
    assert len(kept) == 16
    found = kinds(p)
    assert set(found) == {"dot", "linear"}
    instead = recorded(lambda: linear(xs))
    assert (found["linear"].fewer_nodes, found["linear"].fewer_bytes) == instead
    assert found["linear"].nodes == p.totals.nodes == 16 * 24
    nodes, fewer = found["linear"].nodes, found["linear"].fewer_nodes
    assert found["linear"].text == (
        f"{nodes} nodes are 16 sums of products, several of the same inputs: nn.Linear would record {fewer}"
    )
    assert found["dot"].nodes == nodes
    assert found["dot"].fewer_nodes == recorded(lambda: [mingrad.dot(n.w, xs) + n.b for n in layer.layers[0]])[0]


@needs_whole_sums
@pytest.mark.parametrize("step", [1, 3], ids=["run", "apart"])
def test_a_sum_is_what_sum_records_in_its_place(step):
    xs = variables(30)[::step]
    with profile() as p:
        y = xs[0]
        for x in xs[1:]:
            y = y + x
    (found,) = p.suggestions
    assert (found.kind, found.nodes, found.bytes) == ("sum", p.totals.nodes, p.totals.bytes)
    assert (found.fewer_nodes, found.fewer_bytes) == recorded(lambda: mingrad.sum(xs))


def attention(query, keys, values):
    scores = [sum(q * k for q, k in zip(query, key)) / 2.0 for key in keys]  # scores
    exps = [s.exp() for s in scores]
    total = sum(exps)  # total
    weights = [e / total for e in exps]
    return [sum(w * v[j] for w, v in zip(weights, values)) for j in range(4)]  # out


@needs_whole_sums
def test_a_plain_attention_loop_is_told_line_by_line():
    query = variables(4)
    keys, values = ([variables(4) for _ in range(9)] for _ in range(2))
    with profile() as p:
        attention(query, keys, values)
    marks = marked(attention)
    found = {(s.line, s.kind): (s.nodes, s.fewer_nodes) for s in p.suggestions}
    assert found[marks["scores"], "dot"] == (9 * 7, 9)
    assert found[marks["total"], "sum"] == (8, 1)
    assert found[marks["out"], "dot"] == (4 * 17, 4)


@needs_whole_sums
def test_a_partial_sum_that_others_need_ends_a_sum():
    ws, xs = variables(8), variables(8)
    with profile() as p:
        half = sum(w * x for w, x in zip(ws[:4], xs[:4]))
        whole = half + sum(w * x for w, x in zip(ws[4:], xs[4:]))
        kept = half * whole
    assert kept.data
    assert sorted(s.nodes for s in p.suggestions) == [7, 8]


def test_graphs_that_come_again_are_told_with_the_function_that_makes_them():
    model = Layers(2, 4, 1)

    def loss_of(x):
        return (model(x) - 1.0) ** 2

    compiled = mingrad.compile(loss_of)
    with profile() as p:
        for k in range(5):
            loss = loss_of([0.5, float(k)])  # call
            loss.backward()
    found = kinds(p)["compile"]
    assert found.line == marked(test_graphs_that_come_again_are_told_with_the_function_that_makes_them)["call"]
    nodes = p.totals.nodes // 5
    assert found.text == (
        f"5 passes go over the same {nodes} operations in the same order, each time recorded anew by {nodes} calls: loss_of, "
        "compiled (mingrad.compile) would record 1 node by 1 call from the second time on"
    )
    assert (found.nodes, found.fewer_nodes) == (4 * nodes, 4)

    def again():
        kept = [compiled([0.5, float(k)]) for k in range(4)]
        for loss in kept:
            loss.backward()
        return kept

    compiled([0.5, 9.0])
    assert recorded(again) == (4, found.fewer_bytes)


def test_a_loop_without_a_function_is_told_to_become_one():
    w, xs = variables(1)[0], [1.0] * 20
    with profile() as p:
        for _ in range(2):
            loss = w
            for x in xs:
                loss = (loss * x).tanh()
            loss.backward()  # pass
    found = kinds(p)["compile"]
    assert found.line == marked(test_a_loop_without_a_function_is_told_to_become_one)["pass"]
    assert "what computes them, as a function, compiled (mingrad.compile)" in found.text


def test_passes_over_the_same_graph_or_over_others_are_no_reason_to_compile():
    x = Variable(0.5)

    def chain(n):
        y = x
        for _ in range(n):
            y = y.tanh()
        return y

    y = chain(30)
    with profile() as p:
        z = chain(30)
        for n in range(3):
            y.backward()
            z.backward()
            chain(20 + n).backward()
    assert p.totals.passes == 9
    assert p.suggestions == []


def test_code_that_is_fused_already_has_no_suggestions():
    model = nn.MLP(4, [16, 16, 2])
    query, keys, values = variables(4), [variables(4) for _ in range(6)], [variables(4) for _ in range(6)]
    compiled = mingrad.compile(lambda x: sum(p * x for p in model.parameters()))
    compiled(1.0)
    with profile() as p:
        for k in range(3):
            outputs = model([[0.1 * k] * 4] * 10)
            loss = nn.mse_loss([row[0] for row in outputs], [1.0] * 10)
            loss = loss + mingrad.dot(query, keys[0]) + mingrad.sum(values[0]) + compiled(2.0)
            mingrad.sum(nn.scaled_dot_product_attention(query, keys, values)).backward()
            loss.backward()
    assert p.suggestions == []
    assert p.totals.unlooked == 0


@needs_whole_sums
def test_sums_of_graphs_that_have_died_are_found_too():
    ws, xs = variables(10), [float(k) for k in range(10)]
    with profile() as p:
        for _ in range(30):
            sum(w * x for w, x in zip(ws, xs)) * 2.0  # popped at once
        for _ in range(30):
            kept = sum(w * x for w, x in zip(ws, xs)) * 2.0  # collected, later
        mingrad.collect()
    assert kept.data
    assert [s.nodes for s in p.suggestions] == [30 * 19] * 2


# -- flame graphs and texts --------------------------------------------------------------------------------------------------------


def parsed(text):
    """{frames: count} of a text of folded stacks, as the tools read it."""
    found = {}
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = tuple(stack.split(";"))
        assert frames not in found
        assert all(re.fullmatch(r".+ \(.+:\d+\)", frame) for frame in frames)
        found[frames] = int(count)
    return found


def test_a_flame_graph_is_read_back_and_adds_up(tmp_path):
    model = Layers(2, 3, 1)
    with profile() as p:
        for _ in range(200):
            lines_of_a_program(model, [[1.0, 2.0]]).backward()
    path = tmp_path / "nodes.folded"
    p.save_flamegraph(path)
    found = parsed(path.read_text(encoding="utf-8"))
    assert sum(found.values()) == p.totals.nodes
    assert sum(parsed(p.folded("bytes")).values()) == p.totals.bytes
    times = sum(parsed(p.folded("seconds")).values())
    assert times == pytest.approx((p.totals.recording + p.totals.backward) * 1e6, abs=20, rel=0.01)
    lines = {}
    for frames, count in found.items():
        number = int(re.search(r":(\d+)\)$", frames[-1])[1])
        lines[number] = lines.get(number, 0) + count
    assert lines == {number: line.nodes for number, line in by_line(p).items()}
    assert all(frames[1].startswith("lines_of_a_program (test_profiler.py:") for frames in found)


def test_names_do_not_break_the_format_of_flame_graphs(tmp_path):
    name = "odd; name\nof a file"
    code, x = compile("y = x * x", name, "exec"), Variable(2.0)
    with profile() as p:
        exec(code, {"x": x})
    ((frames, count),) = parsed(p.folded()).items()
    assert frames[1] == "<module> (odd, name of a file:1)"
    assert count == 1
    with profile() as p:
        pass
    path = tmp_path / "empty"
    p.save_flamegraph(str(path))
    assert path.read_bytes() == b""


@needs_whole_sums
def test_the_report_shows_lines_totals_and_suggestions():
    ws, xs = variables(10), variables(10)
    with profile() as p:
        y = sum(w * x for w, x in zip(ws, xs))
        y.backward()
    text = p.report()
    assert text == str(p)
    first, second, _, heading, line, *rest = text.splitlines()
    assert re.fullmatch(r"profile of \d+\.\d{3} s: 19 nodes recorded by 19 calls, 760 bytes of tape, depth 10", first)
    assert re.fullmatch(
        r"recording \S+ s, backward \S+ s \(1 pass over 19 nodes\), collecting 0.000 s \(0 collections, 0 nodes freed\), "
        r"elsewhere \S+ s",
        second,
    )
    assert heading.split() == "nodes % bytes seconds depth swept backward line".split()
    assert line.split()[:3] == ["19", "100.0", "760"]
    assert line.endswith("  y = sum(w * x for w, x in zip(ws, xs))")
    assert rest[1] == "operations: mul 10, add 9"
    assert rest[4].endswith(": 19 nodes are a sum of products: mingrad.dot(ws, xs) would record 1")
    assert repr(p) == "<profile: 19 nodes, 1 line>"


def test_the_report_is_sorted_and_cut_as_asked():
    x = Variable(2.0)
    with profile() as p:
        y = x * x
        for _ in range(9):
            z = x * x
        z.backward()
        (y * y).backward()
    assert z.data
    by_depth = p.report(sort="depth", limit=1).splitlines()
    assert by_depth[4].endswith("(y * y).backward()")
    assert by_depth[5] == "and 2 lines more: report(limit=None)"
    assert "more:" not in p.report(limit=None)
    with pytest.raises(ValueError) as caught:
        p.report(sort="name")
    assert str(caught.value) == ("report: expected sort to be one of nodes, bytes, seconds, backward, swept, depth, got 'name'")
    with pytest.raises(ValueError) as caught:
        p.folded("depth")
    assert str(caught.value) == "folded: expected weight to be one of nodes, bytes, seconds, got 'depth'"


def test_an_empty_block_has_a_report():
    with profile() as p:
        pass
    assert p.report().splitlines()[0].endswith("0 nodes recorded by 0 calls, 0 bytes of tape, depth 0")
    assert (p.lines, p.ops, p.suggestions, p.folded()) == ([], [], [], "")


# -- blocks ------------------------------------------------------------------------------------------------------------------------


def test_blocks_inside_each_other_count_by_themselves():
    x = Variable(2.0)
    with profile() as outer:
        y = x * x
        with profile() as inner:
            z = (y * x).tanh()
            with profile() as innermost:
                pass
        with profile() as second:
            z.backward()
        w = y + z
    assert w.data
    assert [p.totals.nodes for p in (outer, inner, innermost, second)] == [4, 2, 0, 0]
    assert [p.totals.passes for p in (outer, inner, innermost, second)] == [1, 0, 0, 1]
    assert [p.totals.swept for p in (outer, inner, innermost, second)] == [3, 0, 0, 3]
    assert [p.totals.depth for p in (outer, inner, innermost, second)] == [4, 3, 0, 0]
    assert [line.swept for line in second.lines] == [2, 1]


@needs_whole_sums
def test_a_sum_belongs_to_the_block_in_which_it_ends():
    ws, xs = variables(10), variables(10)
    product = lambda: sum(w * x for w, x in zip(ws, xs))
    with profile() as outer:
        kept = [product()]
        with profile() as inner:
            kept.append(product())
            kept.append(product())
        kept.append(product())
    assert inner.suggestions[0].nodes == 2 * 19
    assert outer.suggestions[0].nodes == 4 * 19


def test_one_object_adds_up_over_blocks():
    x, p = Variable(2.0), profile()
    for _ in range(3):
        with p:
            (x * x).backward()
        x * x * x
    assert (p.totals.nodes, p.totals.passes, p.totals.swept) == (3, 3, 3)
    assert [line.nodes for line in p.lines] == [3]


def test_a_block_that_is_on_is_refused_with_the_cure_and_goes_on():
    x, p = Variable(2.0), profile()
    with p:
        x * x
        with pytest.raises(RuntimeError) as caught, p:
            pass
        assert str(caught.value) == "profile: this block is on already; a block inside it needs a profile() of its own"
        for ask in ("lines", "ops", "totals", "suggestions"):
            with pytest.raises(RuntimeError, match=r"^profile: the block is still on; ask for its numbers after it$"):
                getattr(p, ask)
        for ask in (p.report, p.folded):
            with pytest.raises(RuntimeError, match="still on"):
                ask()
        assert repr(p) == "<profile: on>"
        x * x
    assert p.totals.nodes == 2
    with pytest.raises(RuntimeError, match=r"^profile: left more often than entered$"):
        p.__exit__(None, None, None)


def test_a_block_in_a_function_that_is_compiled_is_refused():
    @mingrad.compile
    def f(x):
        with profile():
            return x * x

    with pytest.raises(mingrad.RecordingError, match=r"^profile\(\) in a function that is being compiled: a program would not"):
        f(2.0)
    with profile() as p:
        y = Variable(2.0) * 2
    assert y.data
    assert p.totals.nodes == 2


def test_a_compiled_functions_recording_and_its_runs_are_counted():
    w = Variable(0.5)

    @mingrad.compile
    def f(x):
        return w * x + x * x  # f

    for expected in (5, 1):  # the recording: two inputs at the call, three operations, and the node of the result
        before = mingrad.tape_info().recorded
        with profile() as p:
            y = f(2.0)  # call
            y.backward()
        assert p.totals.nodes == mingrad.tape_info().recorded - before >= expected
        assert p.totals.passes == 1
    assert [(op.name, op.nodes, op.swept) for op in p.ops] == [("custom", 1, 1)]
    assert p.lines[0].line == marked(test_a_compiled_functions_recording_and_its_runs_are_counted)["call"]


def test_what_raises_ends_the_block_with_what_was_counted():
    x = Variable(2.0)
    with pytest.raises(ZeroDivisionError), profile() as p:
        y = x * x
        y / 0.0
    assert p.totals.nodes == 1
    assert not _core.Profile()._running()


def test_blocks_may_end_out_of_turn_as_in_generators():
    x = Variable(2.0)

    def watched():
        with profile() as p:
            x * x
            yield p
            x * x

    source = watched()
    with profile() as outer:
        p = next(source)
        x * x
    x * x  # the generator's is still on
    assert list(source) == []
    assert (p.totals.nodes, outer.totals.nodes) == (4, 2)


def test_a_block_that_nobody_ends_ends_with_its_object():
    x, p = Variable(2.0), profile()
    p.__enter__()
    x * x
    del p
    gc.collect()
    with profile() as p:
        x * x
    assert p.totals.nodes == 1


def test_subclasses_and_objects_that_were_never_used_are_fine():
    class Mine(profile):
        pass

    with Mine() as p:
        Variable(2.0)
    assert p.totals.nodes == 1
    unused = profile()
    assert (unused.totals.nodes, unused.lines) == (0, [])


# -- threads -----------------------------------------------------------------------------------------------------------------------


def in_threads(*works):
    errors, interval = [], sys.getswitchinterval()
    start = threading.Barrier(len(works))

    def run(work):
        try:
            start.wait(30)
            work()
        except BaseException as error:
            errors.append(error)

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


@pytest.mark.parametrize("young", [64, None])
def test_each_thread_counts_its_own(young):
    found = {}

    def profiled(name, turns):
        def work():
            x = Variable(2.0)
            for _ in range(3):
                with profile() as p:
                    for _ in range(turns):
                        y = (x * x + 1.0).tanh()
                        y.backward()
                assert (p.totals.nodes, p.totals.passes, p.totals.swept) == (3 * turns, turns, 3 * turns)
                assert {op.name: op.nodes for op in p.ops} == {"mul": turns, "add": turns, "tanh": turns}
                assert [line.nodes for line in p.lines] == [3 * turns]
            found[name] = p

        return work

    def plain():
        x = Variable(2.0)
        for _ in range(3000):
            y = x * x
        y.backward()

    with stress(young, 0):
        in_threads(profiled("one", 300), plain, profiled("two", 500))
    assert set(found) == {"one", "two"}
    _core._check()


def test_a_block_may_end_in_another_thread():
    p, x = profile(), Variable(2.0)
    p.__enter__()
    x * x
    thread = threading.Thread(target=p.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    x * x
    assert p.totals.nodes == 1
    with profile() as p:
        x * x
    assert p.totals.nodes == 1


def test_a_thread_that_dies_in_a_block_leaves_nothing_on():
    def work():
        p = profile()
        p.__enter__()
        Variable(2.0)

    in_threads(work)
    gc.collect()
    with profile() as p:
        Variable(2.0)
    assert p.totals.nodes == 1


# -- memory ------------------------------------------------------------------------------------------------------------------------


def test_wherever_memory_ends_the_tape_is_in_order_and_counts_agree():
    """Each allocation of the core fails once: of entering, recording, a pass, collections and the end."""
    ws = variables(6)

    def work(p):
        with p:
            before = mingrad.tape_info().recorded
            try:
                for _ in range(2):
                    y = sum(w * 2.0 for w in ws) + mingrad.sum(ws[::2])
                    mingrad.softmax(ws[::-1])
                    nested = profile()
                    with nested:
                        y.backward()
                    mingrad.collect()
            finally:
                recorded.append(mingrad.tape_info().recorded - before)

    failed = 0
    for n in range(10_000):
        recorded, p = [], profile()
        _core._fail_allocation(n)
        try:
            work(p)
        except MemoryError:
            failed += 1
        finally:
            triggered = _core._fail_allocation(-1)
        _core._check()
        assert not p._running()
        if recorded and p._stacks:
            assert p.totals.nodes == recorded[0]
        if not triggered:
            break
    assert failed > 10
    assert p.totals.passes == 2
    with profile() as p:
        Variable(1.0)
    assert p.totals.nodes == 1


def test_blocks_leave_no_memory_behind():
    def work():
        model = Layers(2, 3, 1)
        with profile():
            model([1.0, 2.0]).backward()

    for _ in range(3):
        work()
    gc.collect()
    before = len(gc.get_objects()), mingrad.tape_info().live
    references = sys.getrefcount(Neuron.__call__.__code__)
    for _ in range(20):
        work()
    gc.collect()
    assert abs(len(gc.get_objects()) - before[0]) < 20
    assert mingrad.tape_info().live == before[1]
    assert sys.getrefcount(Neuron.__call__.__code__) < references + 10


# -- all together ------------------------------------------------------------------------------------------------------------------


@needs_whole_sums
def test_a_step_of_the_moons_with_plain_neurons():
    random.seed(3)
    model = Layers(2, 16, 16, 1)
    X = [[random.random(), random.random()] for _ in range(20)]
    y = [random.choice([-1.0, 1.0]) for _ in X]
    own, step = marked(Neuron.__call__), marked(test_a_step_of_the_moons_with_plain_neurons)
    before = mingrad.tape_info().recorded
    with profile() as p:
        scores = [model(x) for x in X]
        losses = [(1 - yi * score).relu() for yi, score in zip(y, scores)]  # losses
        loss = sum(losses) * (1.0 / 20)  # mean
        loss = loss + 1e-4 * sum(v * v for v in model.parameters)  # penalty
        loss.backward()
        for v in model.parameters:
            v.data -= 0.1 * v.grad
    assert p.totals.nodes == mingrad.tape_info().recorded - before
    products = 2 * 16 + 16 * 16 + 16
    found = {line: entry.nodes for line, entry in by_line(p).items()}
    assert found == {
        own["sum"]: 20 * 2 * products,
        own["relu"]: 20 * 32,
        step["losses"]: 20 * 3,
        step["mean"]: 20,
        step["penalty"]: 337 + 336 + 2,
    }
    assert p.totals.swept == p.totals.nodes == len(interior(loss))
    assert p.totals.depth == max(line.depth for line in p.lines) == by_line(p)[step["penalty"]].depth
    told = {(s.line, s.kind): (s.nodes, s.fewer_nodes) for s in p.suggestions}
    # neurons of two numbers are no shorter as dot(), the others of 16 Variables are one node and the bias
    assert told[own["sum"], "dot"] == (20 * 17 * 32, 20 * 17 * 2)
    assert told[own["sum"], "linear"][0] == 20 * 2 * (2 * 16 + 16 * 16)
    assert told[step["penalty"], "dot"] == (673, 1)
    assert told[step["mean"], "sum"] == (19, 1)
