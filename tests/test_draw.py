"""mingrad/visualize/drawing.py and what it draws from, _graph.py and _layout.py: structure, not bytes.

Each format is parsed and compared with the graph. Layouts need the package graphlay, PNGs resvg-py; that a click opens
a layer is tested where a Chromium is installed, that Graphviz reads what is written for it where its program dot is.
"""

import pathlib
import random
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

import browser
import helpers
import mingrad
from mingrad import Variable, nn
from mingrad.nn import MLP, Linear, Sequential, Tanh
from mingrad.visualize import _graph, _layout, draw, trace
from mingrad.visualize._graph import gradient_shade, picture
from watch import no_trace, refuses

NAME_SPACE = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    '"',
    "\\",
    "ends in \\",
    "</script><script>alert(1)</script>",
    "]]><svg onload=alert(1)>",
    "' onclick='alert(1)",
    "{a|b}<c>",
    "&lt;b&gt;",
    "\\N\\G\\n",
    "-->",
    "$w^2$ äöü 日本語",
]


def need(*packages):
    for package in packages:
        pytest.importorskip(package, reason=f"{package} of the extra viz is not installed")


def small():
    """x**2 * sin(y) + x*x / (y - 1), with gradients."""
    x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
    z = x**2 * y.sin() + x * x / (y - 1.0)
    z.label = "z"
    z.backward()
    return z


def network(*sizes, seed=1, **settings):
    """(model, loss of one sample with gradients) of an MLP."""
    random.seed(seed)
    model = MLP(sizes[0], list(sizes[1:]), **settings)
    loss = (model([float(k) for k in range(1, sizes[0] + 1)]) - 1.0) ** 2
    loss.backward()
    return model, loss


class Neuron:
    """A user's own, of plain operations."""

    def __init__(self, inputs):
        self.w = [Variable(random.random()) for _ in range(inputs)]
        self.b = Variable(0.1)

    def __call__(self, xs):
        return (sum(w * x for w, x in zip(self.w, xs)) + self.b).tanh()


def random_graph(seed, nodes):
    rng = random.Random(seed)
    made = [Variable(rng.uniform(0.5, 2.0), label=f"x{k}") for k in range(4)]
    while len(made) < nodes:
        a, b = (made[-rng.randint(1, min(len(made), 9))] for _ in range(2))
        made.append(rng.choice([lambda: a + b, lambda: a.tanh(), lambda: a - b, lambda: mingrad.sum([a, b, a])])())
    root = mingrad.sum(made[-5:])
    root.backward()
    return root


def names(graph):
    """{key: first line} of a picture's boxes."""
    return {box.key: box.lines[0] for box in graph.boxes}


def by_key(graph, key):
    return next(box for box in graph.boxes if box.key == key)


# -- what is drawn ---------------------------------------------------------------------------------


def test_a_picture_of_a_graph_without_layers_has_its_nodes_and_edges():
    z = random_graph(5, 60)
    nodes, edges = trace(z)
    graph = picture(z)
    assert [box.nodes for box in graph.boxes] == [[node] for node in nodes]
    assert graph.boxes[graph.root].nodes[0] is z and graph.nodes == len(nodes)
    drawn = [pair for source, target, count in graph.edges for pair in [(source, target)] * count]
    place = {id(node): k for k, node in enumerate(nodes)}
    assert sorted(drawn) == sorted((place[id(a)], place[id(b)]) for a, b in edges)


def test_a_box_has_the_lines_of_its_node():
    graph = picture(small())
    assert [box.lines for box in graph.boxes] == [
        ["x", "data 2", "grad 2.564"],
        ["**2", "data 4", "grad 0.1411"],
        ["y", "data 3", "grad -4.96"],
        ["sin", "data 0.1411", "grad 4"],
        ["*", "data 0.5645", "grad 1"],
        ["*", "data 4", "grad 0.5"],
        ["data 1"],
        ["-", "data 2", "grad -1"],
        ["/", "data 2", "grad 1"],
        ["z: +", "data 2.564", "grad 1"],
    ]
    assert [box.kind for box in graph.boxes] == ["leaf", "op", "leaf", "op", "op", "op", "constant", "op", "op", "op"]
    assert by_key(graph, "n6").grad is None and by_key(graph, "n7").value == 2.0


def test_a_repeated_operand_is_one_edge_that_counts_and_places_are_told_where_order_matters():
    graph = picture(small())
    assert (0, 5, 2) in graph.edges
    assert graph.places == {(2, 7): [1], (6, 7): [2], (5, 8): [1], (7, 8): [2]}
    x = Variable(2.0)
    assert picture(x - x).places == {(0, 1): [1, 2]} and picture(x * x).places == {}


def test_a_layer_is_one_box_until_asked():
    _, loss = network(2, 16, 16, 1)
    graph = picture(loss)
    assert graph.layers == ["layer1", "layer2", "layer3"] and len(graph.boxes) == 8
    assert [by_key(graph, key).lines[:3] for key in graph.layers] == [
        ["layer1", "16 neurons: affine, ReLU", "48 parameters"],
        ["layer2", "16 neurons: affine, ReLU", "272 parameters"],
        ["layer3", "1 neuron: affine", "17 parameters"],
    ]
    ids = [by_key(graph, key).id for key in graph.layers]
    counts = {(source, target): count for source, target, count in graph.edges}
    assert counts[ids[0], ids[1]] == 256 and counts[ids[1], ids[2]] == 16
    nodes, _ = trace(loss)
    assert sum(len(box.nodes) for box in graph.boxes) == len(nodes) == graph.nodes


def test_a_layer_opens_by_its_key_and_keeps_the_others_keys():
    _, loss = network(2, 4, 4, 1)
    nodes, _ = trace(loss)
    closed, second, all_open = picture(loss), picture(loss, expand=["layer2"]), picture(loss, expand=True)
    assert closed.layers == second.layers == all_open.layers == ["layer1", "layer2", "layer3"]
    assert [box.key for box in second.boxes if box.kind == "layer"] == ["layer1", "layer3"]
    assert len(second.boxes) == len(closed.boxes) - 1 + 28
    assert [box.key for box in all_open.boxes] == [f"n{k}" for k in range(len(nodes))]
    assert names(second).items() <= {**names(all_open), **names(closed)}.items()
    assert picture(loss, expand="layer2").edges == second.edges


def test_a_models_names_are_those_of_its_layers_and_parameters():
    model, loss = network(2, 4, 1)
    graph = picture(loss, model=model)
    assert graph.layers == ["layers.0", "layers.1.neurons.0"]
    opened = picture(loss, model=model, expand=True)
    labels = {box.label for box in opened.boxes if box.kind == "leaf"}
    assert labels == {name for name, _ in model.named_parameters()}


def test_with_a_model_the_neurons_of_a_batch_are_layers_too():
    random.seed(1)
    model = Sequential(Linear(2, 3), Tanh(), Linear(3, 2))
    loss = nn.mse_loss(model([[1.0, 2.0], [2.0, 3.0]]), [[1.0, 2.0], [1.0, 1.0]])
    graph = picture(loss, model=model)
    assert graph.layers == ["0", "2", "0 (2)", "2 (2)"]
    assert by_key(graph, "0").lines[1:3] == ["3 neurons: affine, tanh", "9 parameters"]
    assert by_key(graph, "0 (2)").lines[1:] == ["3 neurons: affine, tanh", "|grad| up to 0"]
    assert not {(by_key(graph, "0").id, by_key(graph, "0 (2)").id)} & {edge[:2] for edge in graph.edges}


def test_layers_of_one_name_have_keys_of_their_own():
    random.seed(1)
    model = nn.Module()
    model.layer2, other = Linear(2, 2), Linear(2, 2)
    model.d = {"a": Linear(2, 2), "a (2)": Linear(2, 2)}
    xs = [1.0, 2.0]
    for part in (model.layer2, other, model.d["a"], model.d["a"], model.d["a (2)"]):
        xs = part(xs)
    graph = picture(mingrad.sum(xs), model=model)
    assert graph.layers == ["layer2", "layer2 (2)", "d.a", "d.a (2)", "d.a (2)'"]


@pytest.mark.parametrize("as_variables", [False, True], ids=["numbers", "Variables"])
def test_neurons_of_plain_operations_are_a_layer_too(as_variables):
    random.seed(1)
    xs = [Variable(1.0, label="a"), Variable(2.0, label="b")] if as_variables else [1.0, 2.0]
    hidden = [neuron(xs) for neuron in [Neuron(2) for _ in range(4)]]
    graph = picture(Neuron(4)(hidden))
    assert graph.layers == ["layer1"]
    box = by_key(graph, "layer1")
    assert box.lines[1:3] == ["4 neurons: *, +, tanh", "12 parameters"]
    assert sum(source == box.id for source, _, _ in graph.edges) == 4  # by the next neuron's four products


@pytest.mark.parametrize(
    "build",
    [
        lambda x, y, z: x * y + x * z,
        lambda x, y, z: (x - y) ** 2 + (x - z) ** 2,
        lambda x, y, z: x.sin() + y.sin() + z.sin(),
        lambda x, y, z: mingrad.dot([x, y], [y, z]),
        lambda x, y, z: nn.mse_loss([x, y, z], [1.0, 1.0, 1.0]),
    ],
)
def test_terms_that_only_look_alike_are_no_layer(build):
    assert picture(build(*(Variable(float(k)) for k in range(1, 4)))).layers == []


def test_what_has_a_label_is_shown():
    random.seed(1)
    neurons = [Neuron(2) for _ in range(3)]
    neurons[0].b.label = "bias"
    outputs = [neuron([1.0, 2.0]) for neuron in neurons]
    outputs[1].label = "o"
    graph = picture(mingrad.sum(outputs))
    assert {"bias", "o: tanh"} <= set(names(graph).values())


def test_boxes_come_after_what_they_read_also_where_a_neuron_is_used_before_the_last_one():
    random.seed(1)
    x = [Variable(1.0, label="a"), Variable(2.0, label="b")]
    one, two, three = (neuron(x) for neuron in [Neuron(2) for _ in range(3)])
    root = mingrad.sum([(one.exp() + two).exp(), two.exp(), three])
    graph = picture(root)
    assert graph.layers == ["layer1"]
    assert all(source < target for source, target, _ in graph.edges)
    assert [box.id for box in graph.boxes] == list(range(len(graph.boxes)))


def test_a_gradient_that_is_a_variable_is_read_as_its_number():
    x = Variable(3.0, label="x")
    z = x * x
    z.backward(create_graph=True)
    assert picture(z).boxes[0].lines == ["x", "data 3", "grad 6"]


def test_shades_follow_the_gradients_size_beside_the_largest():
    inf, nan = float("inf"), float("nan")
    sizes = [None, 0.0, 0.009, -0.02, 0.2, -0.9, 1.0, inf, nan]
    assert [gradient_shade(size, 1.0) for size in sizes] == ["", "g0", "g1", "g2", "g3", "g4", "g4", "gx", "gx"]
    assert gradient_shade(0.0, 0.0) == "g0" and gradient_shade(5e-324, 5e-324) == "g4"
    assert {gradient_shade(size, 1.0) for size in sizes} - {""} == {shade for shade, *_ in _graph.SHADES}
    x = Variable(1.0)
    x.grad = nan
    assert picture(x * 2.0).largest == 0.0


# -- layout ----------------------------------------------------------------------------------------


def overlaps(boxes):
    """Pairs of (x, y, width, height) that share more than a border."""
    return [
        (a, b)
        for k, a in enumerate(boxes)
        for b in boxes[:k]
        if a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
    ]


@pytest.mark.parametrize("rankdir", _layout.RANKDIRS)
@pytest.mark.parametrize("seed", range(4))
def test_boxes_do_not_overlap_and_edges_run_forward_from_border_to_border(rankdir, seed):
    need("graphlay")
    rng = random.Random(seed)
    sizes = [(rng.uniform(40, 250), rng.uniform(20, 90)) for _ in range(40)]
    edges = sorted({tuple(sorted(rng.sample(range(max(0, k - 9), k + 1), 2))) for k in range(1, 40) for _ in range(2)})
    placed = _layout.layout(sizes, edges, rankdir)
    boxes = [(x, y, *size) for (x, y), size in zip(placed.positions, sizes)]
    assert overlaps(boxes) == []
    assert all(0 <= x and x + w <= placed.width and 0 <= y and y + h <= placed.height for x, y, w, h in boxes)
    axis, sign = {"LR": (0, 1), "RL": (0, -1), "TB": (1, 1), "BT": (1, -1)}[rankdir]
    for (source, target), route in zip(edges, placed.routes):
        assert len(route) >= 2
        along = [sign * point[axis] for point in route]
        assert along == sorted(along)
        for box, end in ((source, route[0]), (target, route[-1])):
            x, y, w, h = boxes[box]
            assert x - 0.02 <= end[0] <= x + w + 0.02 and y - 0.02 <= end[1] <= y + h + 0.02
            near = min(abs(end[0] - x), abs(end[0] - x - w), abs(end[1] - y), abs(end[1] - y - h))
            assert near < 0.02


def test_one_box_and_none_are_laid_out_too():
    need("graphlay")
    assert _layout.layout([(50, 20)], [], "TB") == ([(12.0, 12.0)], [], 74.0, 44.0)
    assert _layout.layout([], [], "LR").positions == []


def test_without_graphlay_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphlay", None)
    text = "laying out a graph needs the package graphlay, which the extra mingrad[viz] adds: python -m pip install graphlay"
    for format in ("svg", "html", "png"):
        refuses(lambda format=format: draw(Variable(1.0), format), ImportError, text)
    assert draw(Variable(1.0), "dot").startswith("digraph {")


def test_without_resvg_the_error_says_what_to_install(monkeypatch):
    need("graphlay")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    text = "draw(v, 'png') needs the package resvg-py, which the extra mingrad[viz] adds: python -m pip install resvg-py"
    refuses(lambda: draw(Variable(1.0), "png"), ImportError, text)


# -- SVG -------------------------------------------------------------------------------------------


def parsed(svg, space=NAME_SPACE):
    """({key: (classes, title, lines, (x, y, width, height))}, {(from, to): (count, places, first point, last point)})."""
    root = ElementTree.fromstring(svg)
    boxes, edges = {}, {}
    for group in root.iter(f"{space}g"):
        classes = group.get("class", "").split()
        if classes[:1] == ["box"]:
            x, y = map(float, re.findall(r"[-\d.]+", group.get("transform")))
            rects = list(group.iter(f"{space}rect"))
            width = max(float(rect.get("x", 0)) + float(rect.get("width")) for rect in rects)
            height = max(float(rect.get("y", 0)) + float(rect.get("height")) for rect in rects)
            lines = ["".join(text.itertext()) for text in group.iter(f"{space}text")]
            key = group.get("data-box")
            assert key not in boxes
            boxes[key] = classes[1:], group.find(f"{space}title").text, lines, (x, y, width, height)
        elif classes[:1] == ["edge"]:
            line, head = group.findall(f"{space}path")
            start, end = (re.findall(r"[-\d.e]+", path.get("d"))[:2] for path in (line, head))
            pair = group.get("data-from"), group.get("data-to")
            assert pair not in edges
            notes = ["".join(text.itertext()) for text in group.iter(f"{space}text")]
            edges[pair] = int(group.get("data-count")), group.get("data-places"), notes, tuple(map(float, start + end))
    return boxes, edges


def agree(svg, graph, rankdir="LR", space=NAME_SPACE):
    """Fail unless an SVG has a picture's boxes, apart from each other, and its edges, forward."""
    boxes, edges = parsed(svg, space)
    keys = [box.key for box in graph.boxes]
    assert list(boxes) == keys
    for box in graph.boxes:
        classes, title, lines, _ = boxes[box.key]
        shade = gradient_shade(box.grad, graph.largest)
        assert classes == [box.kind] + [shade] * bool(shade)
        assert title.split("\n") == lines == box.lines
    assert overlaps([place for *_, place in boxes.values()]) == []
    assert list(edges) == [(keys[source], keys[target]) for source, target, _ in graph.edges]
    axis, sign = {"LR": (0, 1), "RL": (0, -1), "TB": (1, 1), "BT": (1, -1)}[rankdir]
    for source, target, count in graph.edges:
        got, places, notes, ends = edges[keys[source], keys[target]]
        told = ",".join(map(str, graph.places.get((source, target), []))) or None
        assert (got, places) == (count, told)
        assert notes == [f"×{count}"] * (count > 1) + [told] * bool(told)
        assert sign * ends[axis] < sign * ends[2 + axis]


@pytest.mark.parametrize("rankdir", _layout.RANKDIRS)
def test_an_svg_has_the_boxes_and_edges_of_the_graph(rankdir):
    need("graphlay")
    z = small()
    agree(draw(z, rankdir=rankdir), picture(z), rankdir)


@pytest.mark.parametrize("expand", [(), ["layer1"], True], ids=["closed", "one open", "all open"])
def test_an_svg_of_an_mlp_has_its_layers(expand):
    need("graphlay")
    _, loss = network(2, 4, 4, 1)
    agree(draw(loss, expand=expand), picture(loss, expand=expand))


@pytest.mark.parametrize("seed", range(3))
def test_an_svg_of_a_random_graph_agrees_with_it(seed):
    need("graphlay")
    root = random_graph(seed, 60)
    agree(draw(root), picture(root))


def test_an_svg_says_what_its_colours_mean_or_that_there_are_no_gradients():
    need("graphlay")
    z = small()
    legend = re.search(r'<g class="legend".*', draw(z)).group()
    assert "|grad| beside the largest, 4.96:" in legend
    assert re.findall(r'class="(g\w)"', legend) == ["g0", "g1", "g2", "g3", "g4"]
    x = Variable(1.0)
    assert "no gradients: call backward() to see them" in draw(x * 2.0)
    x.grad = float("inf")
    assert 'class="gx"' in re.search(r'<g class="legend".*', draw(x * 2.0)).group()


def test_everything_of_an_svg_is_inside_its_frame():
    need("graphlay")
    svg = draw(random_graph(2, 50), rankdir="TB")
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    boxes, edges = parsed(svg)
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for *_, (x, y, w, h) in boxes.values())
    assert all(0 <= x <= width for *_, ends in edges.values() for x in ends[::2])


def test_a_long_label_is_shortened_in_its_box_and_whole_in_its_title():
    need("graphlay")
    label = "weight of the third neuron in the second layer"
    boxes, _ = parsed(draw(Variable(1.0, label=label)))
    _, title, lines, (_, _, width, _) = boxes["n0"]
    assert title.startswith(label + "\n") and lines[0] == "weight of the third neuron in t…" and width < 260


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_label_is_only_text(label):
    need("graphlay")
    x = Variable(1.0, label=label)
    z = x.exp()
    z.label = label
    boxes, _ = parsed(draw(z))
    assert boxes["n0"][1].split("\n")[0] == label and boxes["n1"][1].split("\n")[0] == f"{label}: exp"
    page = draw(z, "html")
    reader = Reader()
    reader.feed(page)
    plain = Reader()
    plain.feed(draw(Variable(1.0, label="x").exp(), "html"))
    assert reader.tags == plain.tags and not any("alert" in name for name in reader.attributes)
    assert label in reader.texts


def test_a_hostile_name_in_a_model_is_only_text():
    need("graphlay")
    random.seed(1)
    evil = '"><script>alert(1)</script>'
    model = nn.Module()
    setattr(model, evil, Linear(2, 2))
    loss = mingrad.sum(getattr(model, evil)([1.0, 2.0]))
    assert picture(loss, model=model).layers == [evil]
    boxes, _ = parsed(draw(loss, model=model))
    assert evil in boxes
    page = Reader()
    page.feed(draw(loss, "html", model=model))
    assert page.tags.count("script") == 1 and evil in page.texts


def test_characters_that_no_file_may_hold_are_replaced():
    need("graphlay")
    x = Variable(1.0, label="two\nlines\0\x1b\ud800\u2028")
    boxes, _ = parsed(draw(x))
    mark = "\N{REPLACEMENT CHARACTER}"
    assert boxes["n0"][2][0] == f"two lines{mark}{mark}{mark}{mark}"
    draw(x, "html").encode()
    draw(x, "dot").encode()


# -- HTML ------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.texts += data.split("\n")


def views(page):
    """{keys of open layers: (hidden, SVG)} of a page."""
    buttons = re.findall(r'<button type="button" data-layer="(\d+)"[^>]*>(.*?)</button>', page)
    found = re.findall(r'<div class="view" data-open="([\d ]*)"( hidden)?>\n(.*?)\n</div>', page, re.DOTALL)
    return {tuple(buttons[int(k)][1] for k in opened.split()): (bool(hidden), svg) for opened, hidden, svg in found}


def test_a_page_has_a_drawing_for_each_combination_of_open_layers():
    need("graphlay")
    _, loss = network(2, 3, 3, 1)
    found = views(draw(loss, "html"))
    assert len(found) == 8 and [keys for keys, (hidden, _) in found.items() if not hidden] == [()]
    for keys, (_, svg) in found.items():
        agree(svg, picture(loss, expand=keys), space="")


def test_a_page_of_many_layers_opens_each_alone_or_all():
    need("graphlay")
    _, loss = network(1, 2, 2, 2, 1)
    keys = ["layer1", "layer2", "layer3", "layer4"]
    assert list(views(draw(loss, "html"))) == [(), *((key,) for key in keys), tuple(keys)]
    shown = views(draw(loss, "html", expand=["layer2", "layer3"]))
    assert [keys for keys, (hidden, _) in shown.items() if not hidden] == [("layer2", "layer3")]


def test_a_page_says_which_layers_are_too_large_to_open():
    need("graphlay")
    _, loss = network(2, 30, 2, 1)
    page = draw(loss, "html", max_nodes=80)
    assert set(views(page)) == {(), ("layer2",), ("layer3",), ("layer2", "layer3")}
    assert re.search(r'data-layer="0" aria-pressed="false" disabled title="the graph is too large to draw', page)
    assert not re.search(r'data-layer="2"[^>]* disabled', page)


def test_a_page_opens_the_first_of_very_many_layers():
    need("graphlay")
    _, loss = network(1, *[2] * 24, 1)
    page = draw(loss, "html")
    assert len(views(page)) == 1 + 20 + 1  # the last: all of them
    assert page.count('disabled title="this page opens 20 layers: draw it with expand="') == 5
    assert len(views(draw(loss, "html", max_nodes=60))) == 1 + 20


def test_a_page_leaves_out_what_is_too_dense_to_lay_out():
    need("graphlay")
    random.seed(1)
    xs, model = [Variable(1.0) for _ in range(2)], MLP(2, [48, 48, 1])
    page = draw(model(xs), "html", max_nodes=100_000)
    assert list(views(page)) == [(), ("layer1",), ("layer3",), ("layer1", "layer3")]
    assert page.count('disabled title="the graph has too many edges that pass others') == 1


def test_a_page_fetches_nothing_and_is_readable_in_the_dark():
    need("graphlay")
    page = draw(network(2, 4, 1)[1], "html")
    assert not re.search(r"https?:|//|url\(|@import|src=|href=", page)
    assert "@media (prefers-color-scheme:dark)" in page
    assert "<script" not in draw(small(), "html") and "<nav>" not in draw(small(), "html")


def test_a_click_opens_a_layer_and_another_closes_it(tmp_path):
    need("graphlay")
    if missing := browser.what_is_missing():
        pytest.skip(missing)
    _, loss = network(1, 2, 2, 2, 1)
    steps = """
    const said = [], shown = () => said.push(views.filter(v => !v.hidden).map(v => v.dataset.open).join("|") || "none");
    const box = key => views.find(v => !v.hidden).querySelector(`.layer[data-box=${key}]`);
    shown(); box("layer2").onclick(); shown(); box("layer3").onclick(); shown(); buttons[2].click(); shown();
    box("layer1").onkeydown({ key: "Enter", preventDefault() {} }); shown(); all.click(); shown(); all.click(); shown();
    return said.join(",");"""
    draw(loss, "html", path=tmp_path / "page.html")
    with browser.Browser() as page:
        page.open(tmp_path / "page.html")
        assert page.run(steps) == "none,1,2,none,0,0 1 2 3,none"
        assert page.complaints() == []


def test_readmes_picture_is_what_its_command_draws():
    need("graphlay")
    root = pathlib.Path(__file__).resolve().parent.parent
    stored = root / "mingrad" / "examples" / "graph.svg"
    if not stored.exists():
        pytest.skip("README's pictures are not here: they are not part of what is installed")
    assert 'x**2*sin(y) + x/y" x=2 y=3 -o graph.svg`](mingrad/examples/graph.svg)' in (root / "README.md").read_text("utf-8")
    x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
    z = x**2 * mingrad.sin(y) + x / y
    z.backward()
    drawn = [ElementTree.fromstring(svg) for svg in (stored.read_text("utf-8"), draw(z))]
    texts = [["".join(text.itertext()) for text in svg.iter(f"{NAME_SPACE}text")] for svg in drawn]
    assert texts[0] == texts[1] and {"x", "y", "grad -4.182"} <= set(texts[0])


# -- DOT -------------------------------------------------------------------------------------------


def parsed_dot(source):
    """({name: settings}, {(from, to): settings}) of what draw() writes."""
    nodes, edges = {}, {}
    for line in source.splitlines():
        text = r'"((?:[^"\\]|\\.)*)"'
        settings = dict(re.findall(rf"(\w+)={text}", line))
        if edge := re.match(r"  (n\d+) -> (n\d+)", line):
            edges[edge.groups()] = settings
        elif node := re.match(r"  (n\d+) \[", line):
            nodes[node.group(1)] = settings
    return nodes, edges


@pytest.mark.parametrize("rankdir", _layout.RANKDIRS)
def test_dot_has_the_boxes_and_edges_of_the_graph(rankdir):
    z = small()
    graph, source = picture(z), draw(z, "dot", rankdir=rankdir)
    assert source.startswith(f'digraph {{\n  rankdir="{rankdir}"\n') and source.endswith("}\n")
    nodes, edges = parsed_dot(source)
    assert [settings["label"].split(r"\n") for settings in nodes.values()] == [box.lines for box in graph.boxes]
    assert list(edges) == [(f"n{source}", f"n{target}") for source, target, _ in graph.edges]
    assert edges["n0", "n5"] == {"label": "×2"}
    assert edges["n6", "n7"] == {"headlabel": "2"}


@pytest.mark.parametrize("label", HOSTILE)
def test_graphviz_reads_a_hostile_label_as_it_stands(label):
    if shutil.which("dot") is None:
        pytest.skip("Graphviz's program dot is not installed")
    source = draw(Variable(1.0, label=label) * 2.0, "dot")
    done = subprocess.run(["dot", "-Tsvg"], input=source, capture_output=True, check=True, encoding="utf-8")
    texts = [text.text for text in ElementTree.fromstring(done.stdout).iter(f"{NAME_SPACE}text")]
    short = label if len(label) <= 32 else label[:31] + "…"
    assert done.stderr == "" and set(texts) == {short, "data 1", "data 2", "grad 0", "*"}


# -- PNG, files ------------------------------------------------------------------------------------


def test_a_png_is_the_svg_in_twice_its_size():
    need("graphlay", "resvg_py")
    z = small()
    png, svg = draw(z, "png"), draw(z)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    wanted = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    assert all(abs(got - 2 * size) <= 2 for got, size in zip((width, height), wanted))


def test_a_png_without_fonts_is_refused(monkeypatch):
    need("graphlay", "resvg_py")
    import resvg_py

    render = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda svg, **settings: render(svg, skip_system_fonts=True))
    text = "draw(v, 'png') finds no font on this system, so texts would be missing: install one, such as DejaVu"
    refuses(lambda: draw(Variable(1.0), "png"), RuntimeError, text)


@pytest.mark.parametrize("format, package", [("svg", "graphlay"), ("html", "graphlay"), ("dot", "re"), ("png", "resvg_py")])
def test_with_a_path_the_drawing_is_written_there(format, package, tmp_path):
    need(package)
    z, path = small(), tmp_path / f"z.{format}"
    assert draw(z, format, path=path) is path
    written = path.read_bytes()
    drawn = draw(z, format)
    assert written == (drawn if format == "png" else drawn.encode())
    assert draw(z, format, path=str(path)) == str(path)


def test_a_path_of_another_format_is_refused_and_a_failure_writes_nothing(tmp_path):
    z, path = small(), tmp_path / "z.png"
    text = "the path ends in .png, but the format is 'svg': write draw(v, 'png', path=...)"
    refuses(lambda: draw(z, path=path), ValueError, text)
    with pytest.raises(ValueError, match="too large"):
        draw(z, "dot", path=tmp_path / "z.dot", max_nodes=3)
    assert list(tmp_path.iterdir()) == []


# -- what a drawing leaves as it was, and refuses --------------------------------------------------


@pytest.mark.parametrize("format, package", [("svg", "graphlay"), ("html", "graphlay"), ("dot", "re"), ("png", "resvg_py")])
def test_drawing_changes_nothing(format, package):
    need(package)
    model, loss = network(2, 3, 1)
    draw(loss, format)  # imports what it needs
    with no_trace(model.parameters()):
        draw(loss, format, model=model)


SCRIPT = """
import hashlib, random
from mingrad.nn import MLP
from mingrad.visualize import draw
random.seed(3)
loss = (MLP(2, [4, 4, 1])([1.0, 2.0]) - 1.0) ** 2
loss.backward()
print(*(hashlib.sha256(draw(loss, format).encode()).hexdigest() for format in ("svg", "html", "dot")))
"""


def test_the_same_graph_gives_the_same_bytes_in_every_run():
    need("graphlay")
    assert len({helpers.run_python(SCRIPT, PYTHONHASHSEED=seed) for seed in ("1", "2")}) == 1
    z = small()
    assert draw(z) == draw(z)


CURES = (
    "draw a part of it (an operand instead of the result, one sample instead of a batch), or print mingrad.visualize.tree(v)"
)


def test_a_graph_too_large_is_refused_with_its_size_the_limit_and_the_cures():
    v = Variable(1.0)
    for _ in range(300):
        v = -v
    text = f"the graph is too large to draw: 301 boxes, the limit is 300: raise max_nodes=, {CURES}"
    refuses(lambda: draw(v), ValueError, text)
    assert draw(v, "dot", max_nodes=301).count("->") == 300
    _, loss = network(2, 4, 1)
    text = f"the graph is too large to draw: 12 boxes, the limit is 11: expand fewer layers, raise max_nodes=, {CURES}"
    refuses(lambda: draw(loss, "dot", expand=["layer2"], max_nodes=11), ValueError, text)


def test_a_very_deep_graph_is_refused_at_once():
    v = Variable(1.0)
    for _ in range(1_000_000):
        v = -v
    begun = time.process_time()
    text = f"the graph is too large to draw: more than 100,000 nodes, the limit is 100,000: {CURES}"
    refuses(lambda: draw(v), ValueError, text)
    assert time.process_time() - begun < 10


def test_a_graph_too_dense_to_lay_out_is_refused():
    need("graphlay")
    v = Variable(1.0)
    passed = [v := -v for _ in range(150)]
    with pytest.raises(ValueError, match=r"too many edges that pass others to be laid out .* 'dot' for Graphviz"):
        draw(mingrad.sum(passed))
    xs = [Variable(1.0) for _ in range(50)]
    with pytest.raises(ValueError, match="too many edges: 2550, limit is 2000"):
        draw(mingrad.sum([mingrad.sum(xs) for _ in range(50)]))


def test_a_layer_of_many_neurons_is_small_when_closed():
    _, loss = network(40, 50, 10, 1)
    assert picture(loss).nodes > 2_500 and len(picture(loss).boxes) < 60


def test_arguments_that_make_no_sense_are_refused():
    z, (model, loss) = small(), network(2, 4, 1)
    refuses(lambda: draw(z, "gif"), ValueError, "format must be one of svg, html, dot, png, got 'gif'")
    refuses(lambda: draw(z, rankdir="left"), ValueError, "rankdir must be one of LR, TB, RL, BT, got 'left'")
    refuses(lambda: _layout.layout([], [], "up"), ValueError, "rankdir must be one of LR, TB, RL, BT, got 'up'")
    text = "expected the Variable that a graph ends in, got float: pass the result, such as the loss"
    refuses(lambda: draw(3.0), TypeError, text)
    refuses(lambda: draw(z, model=[1]), TypeError, "model: expected a mingrad.nn.Module, got list")
    refuses(lambda: draw(z, "dot", expand=["x"]), ValueError, "expand: no layer 'x'; this graph has no layers")
    text = "expand: no layer 'layer3'; this graph has layer1, layer2"
    refuses(lambda: draw(loss, "dot", expand=["layer1", "layer3"]), ValueError, text)
    text = "expand: no layer 'layer1'; this graph has layers.0, layers.1.neurons.0"
    refuses(lambda: draw(loss, "dot", expand="layer1", model=model), ValueError, text)
