"""mingrad/visualize/explorer.py: the page that steps through a graph.

What the file holds is read without a browser. What the page shows and does is read off it in a headless Chromium (browser.py),
skipped with a reason where there is none: numbers at every step are compared with the engine's, and those that the page computes
itself, after sliders were moved by keyboard, with a fresh graph at the leaf values that the page then has.
"""

import base64
import hashlib
import json
import os
import random
import re
import socket
from html.parser import HTMLParser
from itertools import groupby

import pytest

pytest.importorskip("graphlay", reason="the explorer needs graphlay (extra viz)")

import mingrad
from browser import Browser, what_is_missing
from helpers import assert_close_relative
from mingrad import Variable, _core, nn
from mingrad.steps import _steps, _Writer
from mingrad.visualize import explore
from mingrad.visualize._graph import gradient_shade
from mingrad.visualize._javascript import JavaScript
from watch import refuses, spell

ROWS = {row["name"]: row for row in _core._ops()}
SETTINGS = {"leaky_relu", "elu", "clamp_min", "clamp_max", "_huber"}  # whose b is a number
MATH_OF_JAVASCRIPT = set(  # ECMAScript 2015
    "abs acos acosh asin asinh atan atan2 atanh cbrt ceil cos cosh exp expm1 floor fround hypot log log10 log1p log2 max min pow "
    "round sign sin sinh sqrt tan tanh trunc".split()
)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "\"'&<>`",
    "<!-- <img src=x onerror=alert(1)>",
    "a\u2028b\u2029c",
    "\ud800 alone",
    "__proto__",
    "constructor",
    "\u202eright to left\x00\x01\x1b",
    "{0} ${values} \x010\x02",
]


def small():
    x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
    return x**2 + y


@pytest.fixture
def page(tmp_path):
    return tmp_path / "graph.html"


class Reader(HTMLParser):
    """The elements of a page with their attributes, and the texts of those that have texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = len(self.elements)
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        self.texts.setdefault(self.inside, []).append(data)

    def all(self, tag):
        """(attributes, text) of each element of this name."""
        found = [k for k, (name, _) in enumerate(self.elements) if name == tag]
        return [(self.elements[k][1], "".join(self.texts.get(k, []))) for k in found]


def read(page):
    return Reader(page.read_text("ascii"))


def data_of(page):
    """What Python has put into the page."""
    (text,) = [text for attributes, text in read(page).all("script") if attributes.get("type") == "application/json"]
    return json.loads(text)


# -- the file --------------------------------------------------------------------------------------


def test_the_path_is_returned_and_one_file_is_written(tmp_path):
    assert explore(small(), str(tmp_path / "a.html")) == str(tmp_path / "a.html")
    assert explore(small(), tmp_path / "b.html") == str(tmp_path / "b.html")
    assert sorted(os.listdir(tmp_path)) == ["a.html", "b.html"]


def test_the_page_holds_names_formulas_and_the_engines_numbers(page):
    z = small()
    explore(z, page)
    data = data_of(page)
    assert [node["name"] for node in data["nodes"]] == ["x", "y", "v1", "v2"]
    assert [node["head"] for node in data["nodes"]] == ["x", "y", "v1 = x**2", "v2 = v1 + y"]
    assert [node["value"] for node in data["nodes"]] == [2.0, 3.0, 4.0, 7.0]
    assert [node["partials"] for node in data["nodes"]] == [[], [], [4.0], [1.0, 1.0]]
    assert data["passes"] == [{"user": 3, "places": [0, 1]}, {"user": 2, "places": [0]}]
    assert [(edge["from"], edge["to"]) for edge in data["edges"]] == [(0, 2), (2, 3), (1, 3)]
    assert z.grad == 0.0  # nothing has changed


def test_exploring_does_not_change_gradients_or_labels(page):
    z = small()
    z.backward()
    (x,) = z._prev[0]._prev[:1]
    explore(z, page)
    assert (x.grad, x.label, z.label) == (4.0, "x", "")


def test_parameters_go_by_their_names_in_the_model(page):
    model = nn.Neuron(2)
    explore(model([1.0, 2.0]), page, model=model)
    assert {"w.0", "w.1", "b"} <= {node["name"] for node in data_of(page)["nodes"]}


def test_the_title_is_the_callers(page):
    explore(small(), page)
    assert read(page).all("title") == [({}, "v2: 4 nodes")] and read(page).all("h1")[0][1] == "v2: 4 nodes"
    explore(Variable(1.0, label="w"), page)
    assert read(page).all("title") == [({}, "w: 1 node")]
    explore(small(), page, title="x < y & z")
    assert read(page).all("title") == [({}, "x < y & z")] and read(page).all("h1")[0][1] == "x < y & z"


def test_the_page_needs_no_network_and_may_not_use_any(page):
    explore(small(), page)
    text = page.read_text("ascii")
    assert not re.search(r"https?:|//[a-z]+\.|@import|\burl\(", text)
    assert not [attributes for _, attributes in read(page).elements if {"src", "href", "style", "onclick"} & set(attributes)]
    (policy,) = [a["content"] for a, _ in read(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (read(page).all("script")[1][1], read(page).all("style")[0][1])
    ]
    assert policy == (f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; base-uri 'none'; form-action 'none'")


def test_hostile_texts_stay_texts(page):
    leaves = [Variable(1.0 + k, label=label) for k, label in enumerate(HOSTILE)]
    explore(mingrad.sum(leaves), page, title="".join(HOSTILE))
    found = read(page)
    assert len(found.all("script")) == 2 and not found.all("img")
    assert [node["label"] for node in data_of(page)["nodes"]] == [
        *("".join([c if c.isprintable() else "\ufffd" for c in label]) for label in HOSTILE),
        "",
    ]
    names = [node["name"] for node in data_of(page)["nodes"]]
    assert all(name.isprintable() and len(name) <= 40 for name in names) and len(set(names)) == len(names)
    assert found.all("h1")[0][1].startswith(HOSTILE[0] + HOSTILE[1])


def test_numbers_that_json_has_not_got_are_there(page):
    with mingrad.errstate(all="ignore"):
        x = Variable(0.0, label="x")
        explore(mingrad.log(x) - 1 / x + mingrad.sqrt(x - 1), page)
    values = {node["head"]: node["value"] for node in data_of(page)["nodes"]}
    assert values["v1 = log(x)"] == "-Infinity" and values["v2 = 1 / x"] == "Infinity" and values["v5 = sqrt(v4)"] == "NaN"


def test_only_functions_that_are_used_are_in_the_page(page):
    explore(mingrad.exp(Variable(1.0)), page)
    assert "function" not in page.read_text("ascii").partition("const choices")[0].partition('"use strict"')[2]
    explore(mingrad.erfc(Variable(1.0)), page)
    found = re.findall(r"^function (\w+)", page.read_text("ascii").partition("const choices")[0], re.MULTILINE)
    assert sorted(found) == ["erf", "erfc", "mg_gauss", "mg_square_rest"]


@pytest.mark.parametrize("function", [mingrad.max, mingrad.prod, mingrad.logsumexp, mingrad.norm])
def test_pages_grow_with_the_length_of_a_list_not_with_its_square(function, page):
    sizes = []
    for n in (20, 40, 80):
        explore(function([Variable(1.0 + k) for k in range(n)]), page)
        sizes.append(page.stat().st_size)
    assert sizes[2] - sizes[1] < 2.2 * (sizes[1] - sizes[0])


@pytest.mark.parametrize(
    "v, options, error, text",
    [
        (
            1.0,
            {},
            TypeError,
            "explore: expected the Variable that a graph ends in, got float: pass the result, such as the loss",
        ),
        (None, {"path": b"graph.html"}, TypeError, "explore: expected a path as text or a Path, got bytes"),
        (None, {"title": 3}, TypeError, "explore: expected title to be a str, got int"),
        (None, {"model": []}, TypeError, "explore: expected model to be a mingrad.nn.Module, got list"),
        (None, {"rankdir": "up"}, ValueError, "rankdir must be one of LR, TB, RL, BT, got 'up'"),
        (None, {"max_nodes": 0}, ValueError, "explore: expected max_nodes to be an int from 1 on, got 0"),
        (None, {"max_nodes": True}, ValueError, "explore: expected max_nodes to be an int from 1 on, got True"),
        (None, {"max_nodes": 2.5}, ValueError, "explore: expected max_nodes to be an int from 1 on, got 2.5"),
    ],
)
def test_what_cannot_be_explored_is_refused(v, options, error, text, tmp_path):
    root = small() if v is None else v
    refuses(lambda: explore(root, **{"path": tmp_path / "graph.html", **options}), error, text)
    assert os.listdir(tmp_path) == []


def test_a_constant_has_no_backward_pass(page):
    with pytest.raises(RuntimeError) as caught:
        Variable(1.0, requires_grad=False).backward()
    refuses(lambda: explore(Variable(1.0, requires_grad=False), page), RuntimeError, str(caught.value))
    assert not page.exists()


def test_a_graph_that_is_too_large_is_refused_with_what_to_do(page):
    cures = (
        "explore a part of it (a result on the way, a smaller input), print mingrad.visualize.tree(v), draw() it with its layers "
        "as boxes, or give a larger max_nodes"
    )
    x = Variable(1.0).exp().sin().exp()
    text = f"explore: the graph has 4 nodes, the limit is max_nodes=3: {cures}"
    refuses(lambda: explore(x, page, max_nodes=3), ValueError, text)
    for _ in range(700):
        x = x.sin()
    text = f"explore: the graph has more than 300 nodes, the limit is max_nodes=300: {cures}"
    refuses(lambda: explore(x, page), ValueError, text)
    assert not page.exists()


def test_a_missing_layout_library_is_named(page, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "graphlay", None)
    with pytest.raises(ImportError, match="graphlay, which the extra"):
        explore(small(), page)
    assert not page.exists()


@pytest.mark.parametrize("name", ROWS)
def test_every_function_that_a_page_calls_is_in_it(name):
    function, values = graph_of(name)
    writer = JavaScript()
    text = writer.with_helpers(writer.graph(_core._graph([function(*leaves(values))])))
    called = set(re.findall(r"(?<![.\w])([A-Za-z_]\w*)\(", text)) - {"if", "for", "while", "switch", "return"}
    defined = set(re.findall(r"\b(?:function|const) (\w+)", text))
    assert called - defined == set()
    assert set(re.findall(r"\bMath\.(\w+)", text)) <= MATH_OF_JAVASCRIPT


# -- the page in a browser -------------------------------------------------------------------------

STATE = """
const text = (id) => document.getElementById(id).textContent;
return {
    position: +document.getElementById("position").value, heading: text("heading"), said: text("said"), note: text("note"),
    cards: [...document.querySelectorAll("#contributions .card")].map((card) => ({
        node: +card.dataset.node, place: +card.dataset.place,
        lines: Object.fromEntries([...card.querySelectorAll("dd")].map((line) => [line.dataset.of, line.textContent])),
    })),
    boxes: [...document.querySelectorAll(".box")].map((box) => [box.getAttribute("class"), box.querySelector("title").textContent]),
    leaves: [...document.querySelectorAll("#leaves li")].map((row) =>
        [row.querySelector(".name").textContent, row.querySelector("input").value, row.querySelector(".number").textContent]),
};
"""


@pytest.fixture(scope="module")
def one_browser():
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    with Browser() as found:
        yield found


@pytest.fixture
def browser(one_browser):
    """The browser, with nothing said on its console and nothing asked of the network when the test is over."""
    one_browser.looks()
    yield one_browser
    assert one_browser.complaints() == []
    assert one_browser.requests() == []


def state(browser):
    return browser.run(STATE)


def shown(box):
    """(value, gradient) that a box tells in full; None for a gradient that is not there yet."""
    value, gradient = re.search(r": value (\S+), gradient (\S+)$", box[1]).groups()
    return float(value), None if gradient in ("\u2013", "constant") else float(gradient)


def signed(x):
    return f"({x!r})" if repr(x).startswith("-") else repr(x)


def numbers(line):
    """The number that a line of a card ends in."""
    return float(line.split(" = ")[-1])


def names_in_the_page(root, page):
    """A writer of explain()'s formulas for this graph, with the page's names."""
    graph = _core._graph([root])
    given = {id(row[0]): (row[0], node["name"]) for row, node in zip(graph, data_of(page)["nodes"])}
    return _Writer(graph, given, 17)


def compare_steps(browser, root, page, same):
    """Go through all steps by keyboard and compare with the engine's. same(got, expected, what): how numbers are compared."""
    writer = names_in_the_page(root, page)
    graph = writer.graph
    place = {id(row[0]): number for number, row in enumerate(graph)}
    start, *steps = _steps(graph)
    totals = {place[id(start.node)]: 1.0}
    browser.run("document.getElementById('graph').focus()")
    browser.press("Home")
    seen = 0
    for position, group in enumerate([[], *(list(g) for _, g in groupby(steps, key=lambda step: id(step.user)))]):
        if position:
            browser.press("ArrowRight")
        now = state(browser)
        assert now["position"] == position
        assert [(card["node"], card["place"]) for card in now["cards"]] == [(place[id(s.node)], s.place) for s in group]
        for card, step in zip(now["cards"], group):
            what, lines = f"step {position}, place {step.place}", card["lines"]
            before = totals.get(card["node"], 0.0)
            totals[card["node"]] = step.total
            same(numbers(lines["product"]), step.contribution, f"{what}: product")
            same(numbers(lines["after"]), step.total, f"{what}: gradient after")
            same(float(lines["after"].split(" + ")[0]), before, f"{what}: gradient before")
            if step.partial is None:
                continue
            same(numbers(lines["adjoint"]), step.adjoint, f"{what}: adjoint")
            same(numbers(lines["partial"]), step.partial, f"{what}: partial")
            user = place[id(step.user)]
            # in explain() the largest of a list is a number where it has numbers, and how many are the largest everywhere
            as_explained = graph[user][1] not in ("max", "min", "sumexp", "softmax", "_sumexp", "_softmax")
            left, formulas, _ = writer.contributions(user)[[s.place for s in group].index(step.place)]
            told = lines["partial"].split(" = ")
            assert told[0] == left.replace(f" (operand {step.place + 1})", "")
            if same is exactly:
                assert told[1:] == formulas or not as_explained, what
                assert lines["product"] == f"{step.adjoint!r} * {signed(step.partial)} = {step.contribution!r}"
                assert lines["after"] == f"{before!r} + {signed(step.contribution)} = {step.total!r}"
            else:
                assert told[1:-1][:1] == formulas[:-1][:1] or not as_explained, what
        for number, (row, box) in enumerate(zip(graph, now["boxes"])):
            value, gradient = shown(box)
            same(value, row[0].data, f"step {position}: value of node {number}")
            assert (gradient is None) == (number not in totals)
            if gradient is not None:
                same(gradient, totals[number], f"step {position}: gradient of node {number}")
            assert ("giver" in box[0].split()) == (number in (writer.users(group[0]) if group else [len(graph) - 1]))
            assert ("taker" in box[0].split()) == (number in [place[id(s.node)] for s in group])
        seen += len(group)
    assert seen == len(steps)
    assert browser.run("return document.getElementById('next').disabled")


def exactly(got, expected, what):
    assert repr(got) == repr(expected), f"{what}: got {got!r}, expected {expected!r}"


def closely(got, expected, what):
    assert_close_relative(got, expected, 1e-12, what, floor=1e-6)


def move(browser, name, presses):
    """Moves the slider of a leaf by keyboard."""
    browser.run("document.querySelector(`input[type=range][aria-label='slider of ${arguments[0]}']`).focus()", name)
    browser.press(*presses)


def leaves(values):
    return [Variable(value, label=f"x{k}") for k, value in enumerate(values)]


def unary(name):
    return lambda x: 2.5 * spell(name)(x)


def binary(name):
    function = spell(name)
    if name in SETTINGS:
        return lambda x, y: 2.5 * function(x, 0.7) + y
    if ROWS[name]["symbol"].isidentifier():
        return lambda x, y: function(x, y) + function(x, 0.6) * y
    return lambda x, y: function(x, y) + function(x, 2.0) * function(1.7, y)


def over(function):
    return lambda *xs: 2.5 * function([*xs, xs[0], 0.5])


def polygamma(x):
    return _core._adjoints([mingrad.digamma(x)], [1.0], [x])[0]


def stopped(x):
    with _core.Recording():
        return x.detach() * 3 + x


def layer(make):
    def build(*xs):
        random.seed(1)
        found = make()(list(xs))
        return found if isinstance(found, Variable) else mingrad.sum(found)

    return build


def steps_of_an_option(s, k):
    d = (mingrad.log(s / k) + 0.08) / 0.3
    return s * 0.5 * mingrad.erfc(-d / 2**0.5) - k * mingrad.exp(-0.03) * 0.5 * mingrad.erfc(-(d - 0.3) / 2**0.5)


SPECIAL = {
    "_copy": (lambda x: _core._inputs([x])[0] * 3, [2.0]),
    "_stop": (stopped, [2.0]),
    "_polygamma": (polygamma, [1.6]),
    "_sumexp": (lambda *xs: mingrad.softmax(list(xs))[1], [0.3, -0.7, 1.2]),
    "_softmax": (lambda *xs: mingrad.softmax(list(xs))[0] * 2, [0.3, -0.7]),
    "_mean_square": (lambda *xs: nn.RMSNorm(2)(list(xs))[0], [0.6, -1.7]),
    "_cross_entropy": (lambda *xs: nn.cross_entropy(list(xs), 1), [0.6, -1.7, 0.2]),
}
SEQUENCES = {
    "dot": (lambda *xs: mingrad.dot(list(xs[:2]), [xs[2], 4.0]), [1.0, 2.0, 3.0]),
    "dot of runs": (lambda *xs: mingrad.dot(list(xs[:3]), list(xs[3:])), [1.0, 2.0, 3.0, -0.5, 0.25, 0.1]),
    "x * x": (lambda x: x * x, [3.0]),
    "leaf": (lambda x: x, [3.0]),
    "a tie": (lambda x, y: mingrad.max([x, y, x]), [3.0, 3.0]),
    "Linear": (layer(lambda: nn.Linear(2, 2)), [1.0, -2.0]),
    "Linear without bias": (layer(lambda: nn.Linear(2, 1, bias=False)), [1.0, -2.0]),
    "LayerNorm": (layer(lambda: nn.LayerNorm(3)), [1.0, -2.0, 0.5]),
    "MLP": (layer(lambda: nn.MLP(2, [2, 1])), [1.0, -2.0]),
    "an option": (steps_of_an_option, [100.0, 105.0]),
}


def graph_of(name):
    """(a function of leaves, their first values) whose graph has this op."""
    if name in SPECIAL:
        return SPECIAL[name]
    if name in SEQUENCES:
        return SEQUENCES[name]
    if ROWS[name]["kind"] == "nary":
        return over(spell(name)), [0.6, -1.7]
    if ROWS[name]["kind"] == "binary":
        return binary(name), [0.6, 1.7]
    function = unary(name)
    try:
        function(Variable(0.6))
    except ValueError:
        return function, [1.6]
    return function, [0.6]


@pytest.mark.parametrize("name", [*ROWS, *SEQUENCES])
def test_the_page_shows_the_engines_numbers_and_computes_them_at_other_leaves(name, browser, page):
    function, values = graph_of(name)
    root = function(*leaves(values))
    assert name in SEQUENCES or name in {row[1] for row in _core._graph([root])}
    explore(root, page)
    browser.open(page)
    compare_steps(browser, root, page, exactly)

    for k in range(len(values)):
        move(browser, f"x{k}", ["ArrowRight", "ArrowRight"] if k else ["ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight"])
    now = state(browser)
    assert now["note"] == "Computed by this page: the last bits may differ from the engine\u2019s."
    told = {name: float(value) for name, value, _ in now["leaves"]}
    moved = [told[f"x{k}"] for k in range(len(values))]
    assert all(new > old for new, old in zip(moved, values))
    compare_steps(browser, function(*leaves(moved)), page, closely)

    browser.run("document.getElementById('reset').click()")
    assert [shown(box)[0] for box in state(browser)["boxes"]] == [row[0].data for row in _core._graph([root])]


POINTS = [
    -150.5,
    -26.0,
    -3.7,
    -2.0,
    -1.0,
    -0.6,
    -1e-3,
    0.0,
    1e-8,
    0.3,
    0.999,
    1.0,
    1.3,
    1.45,
    1.5,
    2.0,
    2.9,
    5.5,
    12.0,
    30.0,
    150.5,
]


def far_graphs(name):
    """Graphs with this op at many points, poles and tails included."""
    function, values = graph_of(name)
    with mingrad.errstate(all="ignore"):
        if len(values) == 1:
            return [function(*leaves([x])) for x in POINTS]
        pairs = [(x, y) for x in POINTS for y in (-1.7, 0.0, 0.5, 1.0, 2.0)] if len(values) == 2 else [values]
        return [function(*leaves(pair)) for pair in pairs]


def test_functions_in_javascript_are_the_engines_at_poles_and_in_tails_too(browser):
    graphs = [(name, _core._graph([root])) for name in ROWS for root in far_graphs(name)]
    writer, texts = JavaScript(), []
    for _, graph in graphs:
        starts = ", ".join([writer.number(row[0].data) for row in graph])
        texts.append(f"{{ {writer.graph(graph)}\ntry_out(rows, [{starts}]); }}")
    found = browser.run(
        "const found = [], text = (xs) => xs.map(String);\n"
        "function try_out(rows, v) {\n"
        "    rows.forEach((row, k) => { if (row) v[k] = row[0](v); });\n"
        "    found.push([text(v), rows.map((row) => (row ? text(row[1](v)) : []))]);\n"
        "}\n" + writer.with_helpers("\n".join(texts)) + "\nreturn found;"
    )

    def number(text):
        return float(text.replace("Infinity", "inf"))

    for (name, graph), (values, slopes) in zip(graphs, found):
        for row, value, partials in zip(graph, values, slopes):
            at = f"{name} at {[x[0].data for x in graph if x[1] == 'leaf']}"
            assert_close_relative(number(value), row[0].data, 1e-12, f"{at}: value")
            assert len(partials) == len(row[5])
            for got, expected in zip(partials, row[5]):
                assert_close_relative(number(got), expected, 1e-12, f"{at}: partial")


def test_operands_of_a_list_are_written_out_in_the_page(browser, page):
    xs = [Variable(1.0 + k, label=f"x{k}") for k in range(9)]
    explore(mingrad.prod(xs) + mingrad.max(xs[:2]), page)
    browser.open(page)
    browser.press("ArrowRight", "ArrowRight")
    now = state(browser)
    assert now["heading"] == "v2 = max([x0, x1])"
    assert now["cards"][1]["lines"]["partial"] == "dv2/dx1 = 1 / [x0, x1].count(v2) = 1 / [1.0, 2.0].count(2.0) = 1.0"
    browser.press("ArrowRight")
    assert state(browser)["cards"][0]["lines"]["partial"] == (
        "dv1/dx0 = prod([x0, x1, x2, x3, x4, x5, x6, x7, x8] without x0) "
        "= prod([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0] without 1.0) = 362880.0"
    )


def test_a_leaf_that_is_no_number_can_be_given_one(browser, page):
    explore(leaves([float("nan")])[0] * leaves([float("inf")])[0], page)
    browser.open(page)
    assert [value for _, value, _ in state(browser)["leaves"]] == ["", ""]
    for k in range(2):
        browser.run("document.querySelectorAll('#leaves input[type=number]')[arguments[0]].focus()", k)
        browser.press(*"-2.5")
    assert [shown(box)[0] for box in state(browser)["boxes"]] == [-2.5, -2.5, 6.25]


def test_a_custom_functions_graph_is_stepped_through_and_has_no_sliders(browser, page):
    @mingrad.custom_vjp
    def both(x, y):
        return x * y, x + y

    both.defvjp(lambda x, y: ((x * y, x + y), (x, y)), lambda kept, g: (g[0] * kept[1] + g[1], g[0] * kept[0] + g[1]))
    x, y = leaves([2.0, 3.0])
    first, second = both(x, y)
    root = first * second + mingrad.relu(x)
    explore(root, page)
    browser.open(page)
    compare_steps(browser, root, page, exactly)
    assert browser.run("return [...document.querySelectorAll('#leaves input')].every((input) => input.disabled)")
    assert (
        state(browser)["note"] == "This graph has a custom function, whose code is Python\u2019s: leaves cannot be moved here."
    )
    browser.run("document.getElementById('start').click()")
    while not browser.run("return document.querySelector('[data-of=product]')?.textContent.includes('rule')"):
        browser.press("ArrowRight")
    card = state(browser)["cards"][0]
    assert card["lines"]["product"].startswith("the rule of both = ")


def test_a_choice_inside_an_operation_is_made_again(browser, page):
    x = Variable(0.5, label="x")
    explore(mingrad.relu(x) + mingrad.tanh(x) * 0 + mingrad.maximum(x, 0.25), page)
    browser.open(page)

    def slopes():
        browser.run("document.getElementById('graph').focus()")
        browser.press("Home")
        found = {}
        for _ in range(len(data_of(page)["passes"])):
            browser.press("ArrowRight")
            now = state(browser)
            found |= {f"{now['heading']} by {card['node']}": card["lines"]["partial"] for card in now["cards"]}
        return found

    assert slopes()["v1 = relu(x) by 0"] == "dv1/dx = 1.0" and slopes()["v5 = maximum(x, 0.25) by 0"] == "dv5/dx = 1.0"
    browser.run(
        "const field = document.querySelector('#leaves input[type=number]'); field.value = '-2.5'; "
        "field.dispatchEvent(new Event('input'))"
    )
    assert slopes()["v1 = relu(x) by 0"] == "dv1/dx = 0.0" and slopes()["v5 = maximum(x, 0.25) by 0"] == "dv5/dx = 0.0"


def test_the_player_goes_by_buttons_keys_and_slider(browser, page):
    explore(small(), page)
    browser.open(page)

    def position():
        return state(browser)["position"]

    def click(name):
        browser.run("document.getElementById(arguments[0]).click()", name)
        return position()

    assert position() == 0 and state(browser)["heading"] == "dv2/dv2 = 1.0"
    assert [click(name) for name in ("next", "next", "back", "end", "start")] == [1, 2, 1, 2, 0]
    assert browser.run("return ['start', 'back', 'next', 'end'].map((id) => document.getElementById(id).disabled)") == [
        True, True, False, False,
    ]  # fmt: skip
    found = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End"):
        browser.press(key)
        found.append(position())
    assert found == [1, 2, 2, 1, 0, 2]
    browser.run("document.getElementById('position').focus()")
    browser.press("ArrowLeft")
    assert position() == 1
    browser.press("Home")
    assert position() == 0
    browser.run("document.getElementById('graph').focus()")
    browser.press(" ")
    assert browser.run("return document.getElementById('play').textContent") == "Pause"
    browser.press("End")
    assert position() == 2 and browser.run("return document.getElementById('play').textContent") == "Play"


def test_a_step_is_told_in_words(browser, page):
    explore(small(), page)
    browser.open(page)
    assert state(browser)["said"] == "Step 0 of 2. Every node has its value. The backward pass starts at v2 with gradient 1.0."
    browser.press("ArrowRight")
    assert state(browser)["said"] == "Step 1 of 2. v2 has its adjoint, 1.0. v1 receives 1.0, y receives 1.0."
    browser.press("ArrowRight")
    assert state(browser)["said"] == "Step 2 of 2, the last. v1 has its adjoint, 1.0. x receives 4.0."
    assert state(browser)["cards"][0]["lines"] == {
        "adjoint": "dv2/dv1 = 1.0",
        "partial": "dv1/dx = 2 * x = 2 * 2.0 = 4.0",
        "product": "1.0 * 4.0 = 4.0",
        "after": "0.0 + 4.0 = 4.0",
    }
    assert browser.run("return document.getElementById('said').getAttribute('aria-live')") == "polite"
    tags = browser.run("return [...document.querySelectorAll('.tag')].map((tag) => tag.textContent)")
    assert tags == ["+4.0"]


def test_labels_and_operations_are_found(browser, page):
    rate, time = Variable(0.5, label="Rate"), Variable(2.0, label="time")
    explore(mingrad.exp(-rate * time) * mingrad.exp(rate) * time, page)
    browser.open(page)

    def look_for(text):
        browser.press("/")
        browser.run("document.getElementById('query').value = ''")
        browser.press(*text)
        found = [k for k, (classes, _) in enumerate(state(browser)["boxes"]) if "found" in classes.split()]
        return [data_of(page)["nodes"][k]["head"] for k in found], browser.run("return document.getElementById('found').value")

    assert look_for("rate") == (["Rate"], "1 found")
    assert look_for("EXP") == (["v3 = exp(v2)", "v4 = exp(Rate)"], "2 found")
    assert look_for("mul")[1] == look_for("*")[1] == "3 found"
    assert look_for("nothing") == ([], "0 found")
    look_for("exp")
    told = []
    for key in ("Enter", "Enter", "Enter", "Shift+Enter"):
        browser.press(key)
        told.append(
            browser.run("return [document.getElementById('found').value, document.querySelector('#picked h2').textContent]")
        )
    assert told == [["1 of 2", "v3"], ["2 of 2", "v4"], ["1 of 2", "v3"], ["2 of 2", "v4"]]
    browser.press("Escape")
    assert not [classes for classes, _ in state(browser)["boxes"] if "found" in classes.split()]
    assert browser.run("return document.activeElement.id") == "graph"


def view(browser):
    """(x, y, scale) of the drawing."""
    return [float(x) for x in re.findall(r"-?[\d.]+(?:e-?\d+)?", browser.run("return drawing.getAttribute('transform')"))]


def test_the_graph_is_moved_and_zoomed(browser, page):
    explore(small(), page)
    browser.open(page)
    begin = view(browser)
    browser.run("document.getElementById('in').click()")
    assert view(browser)[2] == pytest.approx(1.25 * begin[2])
    browser.press("-", "-")
    assert view(browser)[2] == pytest.approx(0.8 * begin[2])
    browser.press("+")
    assert view(browser) == pytest.approx(begin)
    browser.press("Shift+ArrowLeft")
    assert view(browser) == pytest.approx([begin[0] + 60, begin[1], begin[2]])
    browser.press("0")
    assert view(browser) == pytest.approx(begin)
    browser.drag(40, 90, (80, 40))
    assert view(browser) == pytest.approx([begin[0] + 80, begin[1] + 40, begin[2]])
    wheel = "svg.dispatchEvent(new WheelEvent('wheel', {deltaX: 10, deltaY: 20, cancelable: true, ...arguments[0]}))"
    browser.run(wheel, {})
    assert view(browser) == pytest.approx([begin[0] + 70, begin[1] + 20, begin[2]])
    browser.run(wheel, {"ctrlKey": True, "clientX": 300, "clientY": 300})
    assert view(browser)[2] == pytest.approx(begin[2] * 2.718281828459045 ** (-0.004 * 20))
    browser.run("document.getElementById('fit').click()")
    assert view(browser) == pytest.approx(begin)


def test_two_fingers_zoom(browser, page):
    explore(small(), page)
    browser.open(page)
    begin = view(browser)
    for kind, distance in (("touchStart", 50), ("touchMove", 75), ("touchMove", 100)):
        points = [{"x": 300 - distance, "y": 300, "id": 1}, {"x": 300 + distance, "y": 300, "id": 2}]
        browser.command("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    browser.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert view(browser)[2] == pytest.approx(2 * begin[2], rel=0.1)


def test_a_click_on_a_box_shows_its_numbers_and_its_step(browser, page):
    explore(small(), page)
    browser.open(page)
    x, y = browser.run(
        "const box = document.querySelector('[data-node=\"2\"]').getBoundingClientRect(); return [box.x + 9, box.y + 9]"
    )
    browser.drag(int(x), int(y), (0, 0))
    assert state(browser)["heading"] == "v1 = x**2"
    told = browser.run("return [...document.querySelectorAll('#picked dd')].map((line) => line.textContent)")
    assert told == ["**2", "v1 = x**2 = 2.0**2 = 4.0", "1.0"]


def test_the_theme_is_the_systems_until_another_is_chosen(browser, page):
    explore(small(), page)
    dark, light = "rgb(13, 17, 23)", "rgb(246, 247, 249)"
    found = []
    for scheme in ("dark", "light"):
        browser.looks(scheme)
        browser.open(page)
        for _ in range(4):
            found.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
            browser.run("document.getElementById('theme').click()")
    assert found == [dark, light, dark, dark] + [light, light, dark, light]


CONTRAST = """
const linear = (x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
const light = (text) => {
    const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
const found = {}, card = getComputedStyle(document.querySelector("aside > section")).backgroundColor;
for (const box of document.querySelectorAll(".box")) {
    const frame = getComputedStyle(box.querySelector(".frame")).fill;
    box.querySelectorAll("tspan").forEach((text, k) => {
        found[`${box.getAttribute("class")}, text ${k}`] = ratio(getComputedStyle(text).fill, frame);
    });
}
for (const id of ["heading", "said", "found", "note", "zoom"]) {
    found[id] = ratio(getComputedStyle(document.getElementById(id)).color, card);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_on_all_shades(browser, page, scheme):
    x = Variable(1.0, label="x")
    with mingrad.errstate(all="ignore"):
        parts = [size * mingrad.sin(x) for size in (1.0, 0.3, 0.05, 0.005, 0.0, float("inf"))]
        explore(mingrad.sum(parts), page)
    browser.looks(scheme)
    browser.open(page)
    browser.press("End")
    classes = " ".join([classes for classes, _ in state(browser)["boxes"]]).split()
    assert {"g0", "g1", "g2", "g3", "g4", "gx"} <= set(classes)
    assert {what: ratio for what, ratio in browser.run(CONTRAST).items() if ratio < 4.5} == {}


def test_shades_are_those_of_drawings(browser, page):
    explore(small(), page)
    browser.open(page)
    sizes = [0.0, -0.0, 1e-9, 0.01, -0.00999, 0.1, -0.0999, 0.5, 0.4999, 1.0, -1.0, float("inf"), float("nan")]
    texts = [repr(x).replace("inf", "Infinity").replace("nan", "NaN") for x in sizes]
    found = browser.run("return arguments[0].map((x) => shade(Number(x), 1))", texts)
    assert found == [gradient_shade(x, 1.0) for x in sizes]


def test_numbers_are_written_as_python_writes_them(browser, page):
    explore(small(), page)
    browser.open(page)
    rng = random.Random(3)
    numbers = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        1e15,
        1e16,
        123456789012345680.0,
        1e-4,
        1e-5,
        9.999e-5,
        5e-324,
        1.7976931348623157e308,
        1e22,
    ]
    numbers += [rng.uniform(-1, 1) * 10.0 ** rng.randint(-30, 30) for _ in range(300)]
    numbers += [float("inf"), float("-inf"), float("nan")]
    texts = [repr(x).replace("inf", "Infinity").replace("nan", "NaN") for x in numbers]
    assert browser.run("return arguments[0].map((x) => repr(Number(x)))", texts) == [repr(x) for x in numbers]


def test_hostile_labels_do_nothing_in_the_page(browser, page):
    variables = [Variable(1.0 + k, label=label) for k, label in enumerate(HOSTILE)]
    root = mingrad.sum(variables)
    explore(root, page, title=HOSTILE[0])
    browser.open(page)
    assert browser.run("return [document.title, document.scripts.length, document.images.length]") == [HOSTILE[0], 2, 0]
    browser.press("ArrowRight")
    now = state(browser)
    assert len(now["cards"]) == len(HOSTILE) and len(now["leaves"]) == len(HOSTILE)
    assert [numbers(card["lines"]["after"]) for card in now["cards"]] == [1.0] * len(HOSTILE)
    heads = browser.run("return [...document.querySelectorAll('.box .head')].map((head) => head.textContent)")
    assert heads == [node["head"] for node in data_of(page)["nodes"]]
    for k in range(len(HOSTILE)):
        browser.run("pick(arguments[0])", k)
    assert browser.run("return {}.polluted === undefined && Object.keys(Object.prototype).length === 0")


def test_the_policy_keeps_the_page_from_the_network_and_from_other_scripts(one_browser, page):
    explore(small(), page)
    one_browser.looks()
    one_browser.open(page)
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused = one_browser.run(
            """
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            document.body.append(Object.assign(document.createElement("script"), { textContent: "window.intruder = 1" }));
            const image = document.body.appendChild(document.createElement("img"));
            image.setAttribute("onerror", "window.intruder = 2");
            image.src = `http://127.0.0.1:${arguments[0]}/picture`;
            const end = () => new Promise((done) => setTimeout(() => done([...refused, String(window.intruder)]), 200));
            return fetch(`http://127.0.0.1:${arguments[0]}/data`).then(end, end);
            """,
            server.getsockname()[1],
        )
        assert sorted(refused) == ["connect-src", "img-src", "script-src-attr", "script-src-elem", "undefined"]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert len(one_browser.complaints()) >= 4 and one_browser.requests()  # which the next test would find


def test_everything_is_reached_by_tab_and_has_a_name(browser, page):
    explore(small(), page)
    browser.open(page)
    browser.press("ArrowRight")
    found = []
    for _ in range(20):
        browser.press("Tab")
        found.append(
            browser.run(
                "const a = document.activeElement, style = getComputedStyle(a); "
                "const visible = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2; "
                "return [a.id || a.getAttribute('aria-label') || a.tagName, visible]"
            )
        )
        if found[-1][0] == "BODY":
            found.pop()
            break
    assert [name for name, _ in found] == (
        "query out in fit theme help graph start back play next end position".split()
        + [f"{what} of {leaf}" for leaf in "xy" for what in ("value", "slider")]
    )
    assert [name for name, visible in found if not visible] == []
    nameless = browser.run(
        "return [...document.querySelectorAll('button, input, output, svg, section')].filter((e) => !(e.textContent.trim() || "
        "e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || (e.labels && e.labels.length))).map((e) => e.id)"
    )
    assert set(nameless) <= {"picked"}  # which says nothing before a box is picked


def test_the_help_opens_and_closes_by_keyboard(browser, page):
    explore(small(), page)
    browser.open(page)
    browser.press("?")
    assert browser.run("return document.getElementById('manual').open")
    assert "stays as it was decided" in browser.run("return document.getElementById('manual').textContent")
    browser.press("ArrowRight")
    assert state(browser)["position"] == 0
    browser.press("Escape")
    assert not browser.run("return document.getElementById('manual').open")


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_nothing_is_cut_off_in_a_narrow_window(browser, page, width):
    model = nn.MLP(2, [3, 1])
    explore(nn.mse_loss([model([1.0, -2.0])], [0.5]), page, model=model, title="a title that is rather long " * 3)
    browser.looks(width=width, height=700)
    browser.open(page)
    browser.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert browser.run(
        "return [...document.querySelectorAll('button, input, .formula, h1, h2')].filter((e) => e.getClientRects().length && "
        "!e.closest('dialog')).map((e) => e.getBoundingClientRect()).every((r) => r.left >= 0 && r.right <= innerWidth + 0.5)"
    )


def test_a_large_graph_begins_where_it_can_be_read(browser, page):
    x = Variable(0.5, label="x")
    for _ in range(40):
        x = x.sin()
    explore(x, page)
    browser.open(page)
    assert view(browser)[2] >= 0.6
    for keys in (["ArrowRight"], ["End"], ["Home"]):
        browser.press(*keys)
        box, graph = browser.run(
            "return [document.querySelector('.giver'), svg].map((e) => e.getBoundingClientRect()).map((r) => [r.left, r.right])"
        )
        assert graph[0] <= box[0] and box[1] <= graph[1]


@pytest.mark.parametrize("rankdir", ["LR", "TB", "RL", "BT"])
def test_the_graph_runs_where_it_should(browser, page, rankdir):
    explore(small(), page, rankdir=rankdir)
    browser.open(page)
    first, last = browser.run(
        "return [0, 3].map((k) => document.querySelector(`[data-node='${k}']`).getBoundingClientRect()).map((r) => [r.x, r.y])"
    )
    axis = 0 if rankdir in ("LR", "RL") else 1
    assert (first[axis] < last[axis]) == (rankdir in ("LR", "TB"))
