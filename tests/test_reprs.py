"""What terminals and notebooks show: mingrad.tree() and the reprs of Variables, modules, programs and histories.

Looked at by structure: the drawing is read back and compared with the graph, HTML is parsed. Text of users is as hostile as it
gets, and graphs have a million nodes; no test looks at a clock, the limits of pytest's timeout are wide enough for anything that
is counted and too narrow for anything that is walked node by node in Python.
"""

import math
import random
import re
import sys
from html.parser import HTMLParser

import pytest

import mingrad
from mingrad import History, Variable, _core, nn, tree
from mingrad.visualize import reprs, text, trace

HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></td></table><b>",
    "]]>&lt;&#60;",
    "'\"><img src=x onerror=alert(1)>",
    "a\nb\r\n├── c",
    "\x1b[31mred\x1b[0m\x07",
    "\u202egnirts",
    "\u2028\u2029\x00",
    "\ud800 alone",
    "{0} %s {x!r}",
    "#1",
    "x" * 100_000,
    " ",
]


class Subclass(Variable):
    """A Variable with attributes that raise, as a user's may."""

    def __repr__(self):
        raise RuntimeError("no text")

    __str__ = __repr__

    @property
    def label(self):
        raise RuntimeError("no label")

    @property
    def _op(self):
        raise RuntimeError("no op")

    @property
    def grad(self):
        return object()

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None


class Page(HTMLParser):
    """HTML read back: its tags in order, its text, and whether each tag is closed by its own end."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.words, self.cells = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == [], f"left open: {self.open}"
        self.text = "".join(self.words)

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") for name, _ in attrs), attrs
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> ends something else"

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self.open:
            self.cells[-1] += data


OWN_TAGS = {"b", "table", "thead", "tbody", "tr", "th", "td", "pre", "small", "svg", "polyline", "title"}


def page(source):
    found = Page(source)
    assert set(found.tags) <= OWN_TAGS, set(found.tags) - OWN_TAGS
    source.encode()
    assert source.isprintable() or {c for c in source if not c.isprintable()} == {"\n"}
    return found


def summarised(v):
    """The HTML of a Variable that is too large to be drawn, read back: {name: text}."""
    assert v._repr_svg_() is None
    cells = page(v._repr_html_()).cells
    return dict(zip(cells[::2], cells[1::2]))


def long_chain(length):
    x = y = Variable(1.0)
    for _ in range(length):
        y = y + x
    return y


def layers_loss():
    random.seed(3)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    return nn.mse_loss(model([[0.5, k / 9] for k in range(9)]), [[1.0]] * 9)


def custom_graph():
    @mingrad.custom_vjp
    def twice(x):
        return 2.0 * x

    twice.defvjp(lambda x: (2.0 * x, None), lambda kept, g: (2.0 * g,))
    return twice(Variable(1.0)) * 3 + mingrad.compile(lambda x: x * x + x)(Variable(2.0))


def frozen_layers():
    model = nn.MLP(3, [4, 2])
    model.layers[0].neurons[1].w[2].requires_grad = False
    return mingrad.sum(model([1.0, Variable(2.0), Variable(3.0, requires_grad=False) * 1])) ** 2


def scattered():
    xs = [Variable(float(k)) for k in range(6)]
    y = mingrad.dot(xs[::2], xs[1::2]) + mingrad.logsumexp([xs[4], xs[1], xs[1]])
    return mingrad.softmax([y, xs[0], 2.0])[0] ** 0.5 / 3 - mingrad.max([*xs, y])


def shared():
    x = Variable(2.0, label="x")
    y = x * 2 + x**2
    return y * y + mingrad.maximum(x, y).tanh()


GRAPHS = [
    lambda: Variable(1.0),
    lambda: Variable(1.0, requires_grad=False),
    shared,
    scattered,
    frozen_layers,
    layers_loss,
    custom_graph,
    lambda: nn.MLP(2, [5, 5, 1])([1.0, 2.0]) * 2.0,
    lambda: long_chain(30),
]


# -- what a graph is made of -------------------------------------------------------------------------


def census(root):
    """What _core._census() says, counted on what `_prev` gives."""
    nodes, edges = trace(root)
    operands = {id(node): [] for node in nodes}
    for operand, node in edges:
        operands[id(node)].append(operand)
    depth, ops = {}, {}
    for node in nodes:
        depth[id(node)] = 1 + max([depth[id(x)] for x in operands[id(node)]]) if operands[id(node)] else 0
        if node._op:
            name = re.sub(r"^\*\*.*", "**", node._op)
            ops[name] = ops.get(name, 0) + 1
    leaves = [node for node in nodes if node.is_leaf]
    parameters = sum(node.requires_grad for node in leaves)
    return len(nodes), depth[id(root)], parameters, len(leaves) - parameters, ops


@pytest.mark.parametrize("make", GRAPHS)
def test_what_the_core_counts_is_what_a_walk_over_prev_counts(make):
    root = make()
    nodes, numbers, depth, parameters, constants, ops = _core._census(root)
    ops = {{"twice": "custom", "<lambda>": "custom"}.get(name, name): count for name, count in ops.items()}
    expected = census(root)
    named = {"twice", "<lambda>"} & set(expected[4])
    if named:
        assert sum(ops.values()) == sum(expected[4].values())
    else:
        assert ops == expected[4]
    assert (nodes + numbers, depth, parameters, constants + numbers) == expected[:4]


def test_counting_changes_nothing_and_works_on_a_stale_graph():
    x = Variable(2.0)
    y = x * x + 1
    x.data = 3.0
    before = mingrad.tape_info().recorded
    assert _core._census(y)[0] == 3
    assert mingrad.tape_info().recorded == before and (x.grad, y.grad) == (0.0, 0.0)
    _core._check()


def test_a_count_that_runs_out_of_memory_leaves_the_tape_in_order():
    y = long_chain(5000)
    for n in range(3):
        _core._fail_allocation(n)
        try:
            _core._census(y)
        except MemoryError:
            pass
        finally:
            _core._fail_allocation(-1)
        _core._check()
    assert _core._census(y)[0] == 5001


# -- tree() ------------------------------------------------------------------------------------------


def read(drawing):
    """[(depth, text)] of the lines of a tree, its last line about what is left out apart."""
    found = []
    for line in str(drawing).split("\n"):
        indent = re.match(r"(?:[│|] {2}| {3})*(?:[├└|`][─-] )?", line)[0]
        found.append((len(indent) // 3, line[len(indent) :]))
    return found


@pytest.mark.parametrize("make", GRAPHS[:-1])
def test_a_tree_has_every_node_once_and_every_operand_under_its_node(make):
    root = make()
    nodes, edges = trace(root)
    lines = read(tree(root, max_nodes=10_000))
    drawn = [(depth, line) for depth, line in lines if not line.endswith(" above")]
    assert len(drawn) == len(nodes) and "left out" not in lines[-1][1]
    above = [line.removesuffix(" above") for _, line in lines if line.endswith(" above")]
    mentioned = sum(len(re.sub(r" and .*", "", line).split(", ")) for line in above)
    more = sum(int(n.replace(",", "")) for line in above for n in re.findall(r" and ([\d,]+) more", line))
    assert len(drawn) - 1 + mentioned + more == len(edges)


def test_a_tree_shows_labels_operations_values_and_gradients():
    x, y = Variable(2.0, label="x"), Variable(3.0)
    z = (x * y).tanh() * 2 + x
    z.label = "z"
    z.backward()
    lines = [line.split() for line in str(tree(z, ascii=True)).split("\n")]
    assert [line[: line.index("data")] if "data" in line else line for line in lines] == [
        ["z", "=", "+"],
        ["|-", "*"],
        ["|", "|-", "tanh"],
        ["|", "|", "`-", "*"],
        ["|", "|", "|-", "x"],
        ["|", "|", "`-", "leaf"],
        ["|", "`-", "constant"],
        ["`-", "x", "above"],
    ]
    assert lines[0][-4:] == ["data", f"{z.data:.6g}", "grad", "1"]
    assert lines[4][-4:] == ["data", "2", "grad", f"{x.grad:.6g}"]
    assert lines[6][-2:] == ["data", "2"]  # a constant has no gradient


def test_a_tree_names_what_is_shared_where_it_comes_first():
    x = Variable(1.0)
    a, b = x + 1, x + 2
    a.label = b.label = "same"
    lines = [line for _, line in read(tree(a * b + a / b))]
    assert lines[1].startswith("*") and lines[2].startswith("#1 = same = +") and lines[3].startswith("#2")
    assert lines[5].startswith("#3 = same = +") and lines[6] == "#2 above" and lines[8:] == ["/" + lines[8][1:], "#1, #3 above"]


def test_a_tree_is_shown_without_quotes():
    z = Variable(1.0) + Variable(2.0)
    drawing = tree(z)
    assert isinstance(drawing, str) and repr(drawing) == str(drawing) and "\n" in repr(drawing)
    assert mingrad.tree is mingrad.visualize.tree


def test_a_tree_after_a_recorded_backward_shows_numbers():
    x = Variable(3.0, label="x")
    (x * x).backward(create_graph=True)
    assert isinstance(x.grad, Variable) and str(tree(x)) == "x  data 3  grad 6"


def test_a_large_graph_is_cut_and_the_last_line_counts_what_is_left_out():
    v = layers_loss()
    total = len(trace(v)[0])
    for limit in (1, 2, 10, 57, total):
        lines = read(tree(v, max_nodes=limit))
        drawn = sum(not re.match(r"…|.* above$", line) for _, line in lines)
        said = re.fullmatch(r"… ([\d,]+) of ([\d,]+) nodes are left out \(max_nodes=(\d+), max_depth=20\)", lines[-1][1])
        if limit >= total:
            assert said is None and drawn == total
        else:
            assert tuple(int(n.replace(",", "")) for n in said.groups()) == (total - drawn, total, limit) and drawn <= limit


def test_a_tree_goes_no_deeper_than_asked():
    lines = read(tree(long_chain(50), max_depth=7))
    assert max(depth for depth, _ in lines) == 8 and "… 2 operands" in [line for _, line in lines]
    assert (
        lines[-1][1] == "… 42 of 51 nodes are left out (max_nodes=100, max_depth=7)"
    )  # drawn: v, seven sums below it, the leaf


@pytest.mark.parametrize("label", HOSTILE, ids=range(len(HOSTILE)))
def test_a_label_stays_in_its_line(label):
    x = Variable(1.0, label=label)
    drawing = str(tree(x * x + 1))
    assert len(drawing.split("\n")) == 5 and len(drawing.splitlines()) == 5 and len(drawing) < 1000
    assert all(line.isprintable() for line in drawing.split("\n"))
    drawing.encode()


@pytest.mark.parametrize(
    "encoding, expected", [("ascii", True), ("cp1252", True), ("utf-8", False), ("cp437", True), (None, True)]
)
def test_a_tree_is_plain_where_the_terminal_cannot_print_more(monkeypatch, encoding, expected):
    class Terminal:
        def write(self, text):
            pass

    Terminal.encoding = encoding
    v = Variable(1.0, label="größe → 漢")
    monkeypatch.setattr(sys, "stdout", Terminal())
    drawing = str(tree(v * v))
    assert drawing.isascii() == expected
    assert tree(v * v, ascii=True).isascii() and not tree(v * v, ascii=False).isascii()


def test_a_tree_of_a_million_nodes_is_drawn():
    v = long_chain(1_000_000)
    drawing = str(tree(v, max_nodes=20))
    assert len(drawing) < 3000 and drawing.endswith("of 1,000,001 nodes are left out (max_nodes=20, max_depth=20)")
    v = mingrad.sum([Variable(1.0) for _ in range(300_000)])
    assert len(str(tree(v, max_nodes=20)).split("\n")) == 22


def test_a_tree_refuses_what_it_cannot_draw():
    with pytest.raises(TypeError) as caught:
        tree(3.0)
    assert str(caught.value) == "tree() expects the Variable that a graph ends in, got float: pass the result"
    for limits in ({"max_nodes": 0}, {"max_depth": -1}, {"max_nodes": 2.5}, {"max_depth": True}):
        with pytest.raises(ValueError, match=r"tree: expected max_\w+ to be an int of at least 1, got "):
            tree(Variable(1.0), **limits)


def test_printable_cuts_and_escapes():
    assert text.printable("ab\tc") == r"ab\tc" and text.printable("") == ""
    assert text.printable("x" * 99, 10) == "x" * 9 + "…" and text.printable("x" * 10, 10) == "x" * 10


# -- Variables in notebooks --------------------------------------------------------------------------


@pytest.fixture
def no_layout(monkeypatch):
    """As where what draws, or what lays out, is not installed."""
    monkeypatch.setitem(sys.modules, "mingrad.visualize.drawing", None)


@pytest.mark.parametrize("make", GRAPHS)
def test_exactly_one_of_svg_and_html_is_there(make):
    v = make()
    svg, html = v._repr_svg_(), v._repr_html_()
    assert (svg is None) != (html is None)
    if html is not None:
        page(html)


@pytest.mark.parametrize("make", GRAPHS[:4])
def test_without_the_layout_library_a_small_graph_is_a_tree_and_a_line_says_why(make, no_layout):
    v = make()
    found = page(v._repr_html_())
    assert v._repr_svg_() is None and found.tags == ["pre", "small"]
    assert found.text.startswith(str(tree(v, max_nodes=reprs.DRAWN, ascii=False)))


@pytest.mark.parametrize("label", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("size", [2, 100])
def test_a_hostile_label_is_text(label, size, no_layout):
    x = Variable(1.0, label=label)
    y = x
    for _ in range(size):
        y = y * 2
    y.label = label
    assert text.printable(label) in page(y._repr_html_()).text


@pytest.mark.parametrize("size", [2, 100])
def test_a_subclass_that_raises_is_shown_all_the_same(size):
    x = Subclass(1.0)
    y = x
    for _ in range(size):
        y = y * 2
    for v in (x, y):
        svg, html = v._repr_svg_(), v._repr_html_()
        assert (svg is None) != (html is None)
    assert tree(x).startswith("leaf")


def test_a_large_graph_is_summarised():
    v = layers_loss()
    v.label = "loss"
    v.backward()
    nodes, depth, parameters, constants, ops = census(v)
    found = summarised(v)
    assert found["value"] == f"{v.data:.6g}" and found["gradient"] == "1"
    assert found["nodes"] == str(nodes) and found["depth"] == f"{depth} operations"
    assert found["parameters"].startswith(f"{parameters} ") and found["constants"] == str(constants)
    listed = dict(part.rsplit(" ×", 1) for part in found["operations"].split(": ")[1].split(", "))
    assert {name: int(count) for name, count in listed.items()} == ops
    assert "Variable loss = mean" in v._repr_html_()


def test_a_million_nodes_are_summarised():
    found = summarised(long_chain(1_000_000))
    assert (found["nodes"], found["depth"], found["operations"]) == (
        "1,000,001",
        "1,000,000 operations",
        "1,000,000: + ×1,000,000",
    )


def test_a_network_of_a_hundred_million_edges_is_summarised():
    random.seed(1)
    model = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 300), nn.Tanh())
    v = nn.mse_loss(model([[0.1] * 300] * 500), [[0.0] * 300] * 500)
    found = summarised(v)
    assert found["parameters"].startswith("180,600 ") and "affine ×300,000" in found["operations"]


def test_reading_a_repr_in_a_function_that_is_compiled_is_refused_like_any_other_reading():
    for show in (Variable._repr_svg_, Variable._repr_html_, tree, lambda v: mingrad.stack([v])._repr_html_()):
        with pytest.raises(mingrad.RecordingError):
            mingrad.compile(lambda x, show=show: [x, show(x * x)][0])(2.0)


def test_a_variable_list_is_a_table():
    w = mingrad.tensor([1.5, -2.0], requires_grad=True)
    (w * [3.0, 4.0]).sum().backward()
    found = page(w._repr_html_())
    assert found.cells == ["0", "1.5", "3", "1", "-2", "4"] and "VariableList of 2" in found.text
    assert page(mingrad.stack([])._repr_html_()).cells == []
    many = page(mingrad.tensor([0.0] * 50_000)._repr_html_())
    assert "… 49,980 more" in many.text and len(many.tags) < 200
    labelled = mingrad.stack([Variable(1.0, label=label) for label in HOSTILE])
    assert page(labelled._repr_html_()).cells[1::4] == [text.printable(label) for label in HOSTILE]


# -- modules -----------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        self.table = nn.Embedding(5, 3)
        self.blocks = [nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.MLP(4, [2, 1])]
        self.scale = Variable(1.0)
        self.by_name = {"a": [Variable(2.0), Variable(3.0)]}
        self.tied = self.blocks[0]
        self.log = []


def test_a_module_is_a_table_of_its_layers():
    rows, total = reprs.layers(Net())
    assert rows == [
        ("", "Net", "scale, a (2)", "3"),
        ("table", "Embedding", "weight (5, 3)", "15"),
        ("blocks.0.0", "Linear", "weight (4, 3), bias (4)", "16"),
        ("blocks.0.1", "Tanh", "", "0"),
        ("blocks.1.layers.0", "Layer", "w (2, 4), b (2)", "10"),
        ("blocks.1.layers.1", "Layer", "w (1, 2), b (1)", "3"),
    ]
    assert total == "47 parameters" and len(Net().parameters()) == 47


def test_a_shared_parameter_counts_where_it_comes_first():
    net = Net()
    net.again = nn.Linear(3, 4)
    net.again.weight = net.blocks[0][0].weight
    rows, total = reprs.layers(net)
    assert rows[-1] == ("again", "Linear", "weight (4, 3), bias (4)", "4")
    assert total == f"{len(net.parameters())} parameters"


@pytest.mark.parametrize(
    "make", [Net, lambda: nn.Neuron(3), lambda: nn.Linear(2, 2, bias=False), nn.Tanh, nn.Sequential, nn.MSELoss]
)
def test_a_summary_and_the_html_have_the_same_numbers(make):
    model = make()
    rows, total = reprs.layers(model)
    cells = page(model._repr_html_()).cells
    assert cells == [cell for row in rows for cell in row]
    lines = model.summary().split("\n")
    assert len(lines) == len(rows) + 2 and lines[-1] == f"{type(model).__name__}: {total}"
    assert total == f"{len(model.parameters())} parameters"


def test_a_module_of_ones_own_has_pytorchs_kind_of_text():
    net = Net()
    net.itself = net
    assert repr(net).split("\n")[:4] == [
        "Net(",
        "  (table): Embedding(5, 3)",
        "  (blocks.0): Sequential(",
        "    (0): Linear(in_features=3, out_features=4, bias=True)",
    ]
    assert repr(net).endswith("  (itself): ...\n)")
    assert page(net._repr_html_()).cells and repr(type("Empty", (nn.Module,), {})()) == "Empty()"


def test_names_of_modules_and_classes_are_text():
    for name in HOSTILE:
        net = type("<b>", (nn.Module,), {})()
        net.part = {name: [Variable(1.0)], "inner" + name: nn.Tanh()}
        page(net._repr_html_())
        assert len(net.summary().split("\n")) == 4


def test_a_large_model_is_not_looked_at_to_its_end(monkeypatch):
    monkeypatch.setattr(reprs, "PARAMETERS", 40)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 10), nn.Linear(10, 1))
    rows, total = reprs.layers(model)
    assert (
        rows == [("0", "Linear", "weight (4, 3), bias (4)", "16"), ("1", "Linear", "…", "…")]
        and total == "40 parameters or more"
    )
    assert page(model._repr_html_()).cells


# -- recorded programs -------------------------------------------------------------------------------


def test_a_program_shows_its_summary_and_does_not_call_the_function():
    calls = []

    @mingrad.compile
    def f(x, y):
        calls.append(1)
        return x * y + y if x < y else x

    f(1.0, 2.0), f(3.0, 2.0)
    before = len(calls)
    found = page(f.programs[-1]._repr_html_())
    assert len(calls) == before
    assert re.match(r"f: \d+ rows recorded, \d+ step", found.text)
    whole = page(f._repr_html_())
    assert len(calls) == before and "<compiled f: 2 programs>" in whole.text and whole.tags.count("pre") == 3


def test_of_many_programs_a_few_are_shown():
    f = mingrad.compile(lambda x, k: x * k)
    for k in range(8):
        f(1.0, k)
    found = page(f._repr_html_())
    assert found.tags.count("pre") == 4 and "… 5 more" in found.text


def test_a_large_program_is_one_line(monkeypatch):
    monkeypatch.setattr(reprs, "RECORDED", 5)
    f = mingrad.compile(lambda x: x * x * x * x * x * x)
    f(1.0)
    assert page(f.programs[0]._repr_html_()).text.count("\n") <= 1


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_programs_name_is_text(name):
    def f(x):
        return x * x

    f.__name__ = name
    f = mingrad.compile(f)
    f(1.0)
    page(f._repr_html_())


# -- histories ---------------------------------------------------------------------------------------


def test_a_history_shows_its_last_epochs_and_a_curve():
    n = 40
    h = History({"epoch": list(range(1, n + 1)), "loss": [1 / k for k in range(1, n + 1)], "validation loss": [2.0] * n})
    found = page(h._repr_html_())
    assert found.cells == [
        f"{x:.4g}" if type(x) is float else str(x) for k in range(n - 5, n) for x in (k + 1, 1 / (k + 1), 2.0)
    ]
    assert "History of 40 epochs" in found.text and found.tags.count("polyline") == 2
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', h._repr_html_())[1].split()]
    assert points == sorted(points) and len(points) >= n and all(0 <= x <= 260 and 0 <= y <= 60 for x, y in points)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"epoch": [], "loss": []},
        {"epoch": [1], "loss": [0.5]},
        {"epoch": [1, 2], "loss": [math.nan, math.inf]},
        {"epoch": [1, 2, 3], "loss": [1e308, -1e308, math.nan], "validation loss": [5e-324, 1.0]},
        {"loss": [3.0, 3.0]},
        {"loss": ["<b>", object(), None, Variable(1.0), 10**400, 10**6000, True]},
        {"loss": 3.0, 5: [1], HOSTILE[0]: [HOSTILE[1], HOSTILE[5]]},
    ],
    ids=range(8),
)
def test_a_history_of_anything_is_shown(columns):
    source = History(columns)._repr_html_()
    page(source)
    assert not any(re.search("nan|inf", points) for points in re.findall(r'points="([^"]*)"', source))


def test_a_long_history_stays_small():
    n = 200_000
    assert len(History({"epoch": list(range(n)), "loss": [1.0] * n})._repr_html_()) < 30_000
