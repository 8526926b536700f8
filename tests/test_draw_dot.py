"""mingrad/visualize/dot.py: what the drawn graph contains. Its structure, not its bytes.

What Graphviz makes of hostile labels is tested only where its program `dot` is installed.
"""

import re
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree

import pytest

import mingrad
from mingrad import Variable
from mingrad.nn import MLP
from mingrad.visualize import draw_dot, trace

HOSTILE = [
    '"',
    "\\",
    '"}|<x>',
    '\\"',
    "ends in \\",
    "{a|b}",
    "<b>bold</b>",
    "&lt;",
    "a\\nb",
    "\\N\\G",
    "x_1:p",
    "Gewicht für äöü",
    "; node [shape=box]",
    "}|{",
    "it's",
    "$w^2$",
]


def names(nodes):
    """The ops and labels of nodes, for readable comparison."""
    return [node._op or node.label for node in nodes]


def parsed(dot):
    """The source of a Digraph as ({name: (label, shape)}, [(tail, head)])."""
    boxes, edges = {}, []
    for line in dot.source.splitlines():
        line = line.strip()
        if edge := re.fullmatch(r'"?([^"]*?)"? -> "?([^"]*?)"?', line):
            edges.append(edge.groups())
        elif box := re.fullmatch(r'"?([^"]*?)"? \[label="?(.*?)"?(?: shape=(\w+))?\]', line):
            name, label, shape = box.groups()
            boxes[name] = label, shape
    return boxes, edges


def drawn_texts(dot):
    """The texts that Graphviz's own program draws, top to bottom and left to right."""
    svg = subprocess.run(["dot", "-Tsvg"], input=dot.source, capture_output=True, check=True, encoding="utf-8")
    assert svg.stderr == ""
    root = ElementTree.fromstring(svg.stdout)
    return [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


# trace


def test_trace_lists_operands_before_users_and_root_last():
    x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
    z = x**2 + y
    nodes, edges = trace(z)
    assert names(nodes) == ["x", "**2", "y", "+"]
    assert nodes[-1] is z
    assert [(a._op or a.label, b._op) for a, b in edges] == [("x", "**2"), ("**2", "+"), ("y", "+")]


def test_trace_of_a_leaf_is_the_leaf():
    x = Variable(2.0)
    nodes, edges = trace(x)
    assert len(nodes) == 1 and nodes[0] is x
    assert edges == []


def test_trace_keeps_both_edges_of_a_repeated_operand():
    x = Variable(3.0)
    y = x * x
    nodes, edges = trace(y)
    assert len(nodes) == 2
    assert [(a is x, b is y) for a, b in edges] == [(True, True), (True, True)]


def test_trace_keeps_the_order_of_operands():
    a, b, c = (Variable(v, label=v_label) for v, v_label in ((1.0, "a"), (2.0, "b"), (3.0, "c")))
    nodes, edges = trace(mingrad.sum([c, a, b, a]))
    assert [operand.label for operand, _ in edges] == ["c", "a", "b", "a"]
    _, edges = trace(b / a)
    assert [operand.label for operand, _ in edges] == ["b", "a"]
    _, edges = trace(2.0 - a)
    assert [operand.data for operand, _ in edges] == [2.0, 1.0]


def test_trace_lists_a_shared_node_once():
    x = Variable(2.0)
    y = x.exp()
    z = (y + 1.0) * (y - 1.0)
    nodes, _ = trace(z)
    assert sum(node is y for node in nodes) == 1
    assert sum(node is x for node in nodes) == 1


def test_trace_shows_a_plain_number_as_a_constant():
    x = Variable(2.0)
    nodes, edges = trace(x + 5.0)
    assert sorted(node.data for node in nodes) == [2.0, 5.0, 7.0]
    constant = next(node for node in nodes if node.data == 5.0)
    assert not constant.requires_grad and constant._prev == ()
    assert len(edges) == 2


def test_trace_reaches_every_parameter_of_an_mlp():
    model = MLP(3, [4, 4, 1], activation="tanh")
    loss = (model([1.0, -2.0, 3.0]) - 1.0) ** 2
    nodes, edges = trace(loss)
    reached = {id(node) for node in nodes}
    assert all(id(p) in reached for p in model.parameters())
    position = {id(node): number for number, node in enumerate(nodes)}
    assert all(position[id(operand)] < position[id(node)] for operand, node in edges)


def test_trace_changes_no_number():
    x, y = Variable(2.0), Variable(3.0)
    z = x * y + x
    z.backward()
    before = [(v.data, v.grad) for v in (x, y, z)]
    trace(z)
    assert [(v.data, v.grad) for v in (x, y, z)] == before
    z.backward()
    assert (x.grad, y.grad) == (8.0, 4.0)


def test_trace_follows_a_chain_that_would_overflow_the_stack():
    lengths = []

    def run():
        v = Variable(1.0)
        for _ in range(100_000):
            v = -v
        nodes, edges = trace(v)
        lengths.append((len(nodes), len(edges)))

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert lengths == [(100_001, 100_000)]


@pytest.mark.parametrize("root", [3.0, None, "z", [Variable(1.0)]], ids=repr)
def test_trace_refuses_what_is_not_a_variable(root):
    with pytest.raises(TypeError, match=f"expects the Variable .* got {type(root).__name__}"):
        trace(root)


# draw_dot


def test_drawing_has_a_record_for_each_node_and_an_oval_for_each_op():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
    z = x**2 + y
    z.label = "z"
    z.backward()
    boxes, edges = parsed(draw_dot(z))
    records = [label for label, shape in boxes.values() if shape == "record"]
    assert sorted(records) == sorted(
        [
            "{ x | data 2.0000 | grad 4.0000 }",
            "{ y | data 3.0000 | grad 1.0000 }",
            "{ data 4.0000 | grad 1.0000 }",
            "{ z | data 7.0000 | grad 1.0000 }",
        ]
    )
    assert sorted(label for label, shape in boxes.values() if shape is None) == ["**2", "+"]

    label_of = {name: label for name, (label, _) in boxes.items()}
    drawn = [(label_of[tail], label_of[head]) for tail, head in edges]
    assert sorted(drawn) == sorted(
        [
            ("{ x | data 2.0000 | grad 4.0000 }", "**2"),
            ("**2", "{ data 4.0000 | grad 1.0000 }"),
            ("{ data 4.0000 | grad 1.0000 }", "+"),
            ("{ y | data 3.0000 | grad 1.0000 }", "+"),
            ("+", "{ z | data 7.0000 | grad 1.0000 }"),
        ]
    )


def test_drawing_keeps_both_edges_of_a_repeated_operand_in_operand_order():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    x, y = Variable(3.0, label="x"), Variable(4.0, label="y")
    boxes, edges = parsed(draw_dot(mingrad.sum([y, x, y])))
    op = next(name for name, (label, shape) in boxes.items() if shape is None)
    into_op = [boxes[tail][0].split(" | ")[0] for tail, head in edges if head == op]
    assert into_op == ["{ y", "{ x", "{ y"]


def test_drawing_of_a_leaf_is_one_record():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    boxes, edges = parsed(draw_dot(Variable(1.5)))
    assert [label for label, _ in boxes.values()] == ["{ data 1.5000 | grad 0.0000 }"]
    assert edges == []


def test_drawing_has_the_format_and_direction_asked_for():
    graphviz = pytest.importorskip("graphviz", reason="the extra viz is not installed")
    default = draw_dot(Variable(1.0))
    assert isinstance(default, graphviz.Digraph)
    assert default.format == "svg" and "rankdir=LR" in default.source
    other = draw_dot(Variable(1.0), format="png", rankdir="TB")
    assert other.format == "png" and "rankdir=TB" in other.source


def test_drawing_refuses_an_unknown_format_or_direction():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    with pytest.raises(ValueError, match="rankdir must be one of LR, TB, RL, BT, got 'left'"):
        draw_dot(Variable(1.0), rankdir="left")
    with pytest.raises(ValueError, match="format"):
        draw_dot(Variable(1.0), format="not a format")
    with pytest.raises(TypeError, match="expects the Variable"):
        draw_dot(3.0)


def test_drawing_has_the_same_source_for_the_same_graph():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")

    def source():
        x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
        return draw_dot((x * y + x.exp()) / (y - 1.0)).source

    assert source() == source()


def test_drawing_prints_nan_and_infinities():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    x = Variable(float("inf"))
    x.grad = float("nan")
    boxes, _ = parsed(draw_dot(x))
    assert [label for label, _ in boxes.values()] == ["{ data inf | grad nan }"]


@pytest.mark.parametrize("label", HOSTILE)
def test_graphviz_draws_a_hostile_label_as_it_stands(label):
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    if shutil.which("dot") is None:
        pytest.skip("Graphviz's program dot is not installed")
    x = Variable(1.0, label=label)
    z = x.exp()
    assert set(drawn_texts(draw_dot(z))) == {label, "data 1.0000", "grad 0.0000", "data 2.7183", "exp"}


def test_a_hostile_label_stays_inside_its_quotes():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    x = Variable(1.0, label='"}|<x>\\')
    source = draw_dot(x).source
    assert r'label="{ \"\}\|\<x\>\\ | data 1.0000 | grad 0.0000 }" shape=record' in source


def test_a_label_of_several_lines_or_with_control_characters_is_drawable():
    pytest.importorskip("graphviz", reason="the extra viz is not installed")
    x = Variable(1.0, label="two\nlines\0\x1b\ud800")
    boxes, _ = parsed(draw_dot(x))
    assert [label for label, _ in boxes.values()] == [
        "{ two\\nlines\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} | data 1.0000 | grad 0.0000 }"
    ]


def test_without_the_graphviz_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match=r"graphviz.*mingrad\[viz\]"):
        draw_dot(Variable(1.0))


# What a user of micrograd brings along


def test_a_draw_dot_pasted_from_micrograds_notebook_works_unchanged():
    graphviz = pytest.importorskip("graphviz", reason="the extra viz is not installed")
    Digraph = graphviz.Digraph

    def trace(root):
        nodes, edges = set(), set()

        def build(v):
            if v not in nodes:
                nodes.add(v)
                for child in v._prev:
                    edges.add((child, v))
                    build(child)

        build(root)
        return nodes, edges

    def draw_dot(root, format="svg", rankdir="LR"):
        assert rankdir in ["LR", "TB"]
        nodes, edges = trace(root)
        dot = Digraph(format=format, graph_attr={"rankdir": rankdir})

        for n in nodes:
            dot.node(name=str(id(n)), label="{ data %.4f | grad %.4f }" % (n.data, n.grad), shape="record")
            if n._op:
                dot.node(name=str(id(n)) + n._op, label=n._op)
                dot.edge(str(id(n)) + n._op, str(id(n)))

        for n1, n2 in edges:
            dot.edge(str(id(n1)), str(id(n2)) + n2._op)

        return dot

    x, y = Variable(1.0), Variable(-2.0)
    z = (x * y + x * 3.0).relu() - y**2
    z.backward()
    boxes, edges = parsed(draw_dot(z))
    own_boxes, own_edges = parsed(mingrad.visualize.draw_dot(z))
    assert sorted(boxes.values(), key=str) == sorted(own_boxes.values(), key=str)

    def labelled(boxes, edges):
        return sorted((boxes[tail][0], boxes[head][0]) for tail, head in edges)

    assert labelled(boxes, edges) == labelled(own_boxes, own_edges)
