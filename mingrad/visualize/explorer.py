"""The explorer: explore() writes a graph as one page to walk through in a browser.

Here is what the page holds: names, formulas, the engine's numbers, where boxes stand, and the graph as JavaScript
(``_javascript.py``), which computes again when a leaf is moved. What the page looks like and does is in ``explorer.css`` and
``explorer.js``. Where boxes stand is ``_layout.py``'s, the backward pass and the texts of formulas are ``mingrad/steps.py``'s.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from itertools import count, groupby
from typing import TYPE_CHECKING, Any

from .. import steps
from ..engine import Variable
from ..export import _COMPARISON_SIGNS
from ._graph import MAX_NODES, SHADE_LIMITS, SHADES
from ._javascript import JavaScript
from ._layout import layout
from .dot import walk

if TYPE_CHECKING:
    from ..nn import Module

__all__ = ["explore"]

WIDEST = 30  # characters of a box's first line; a longer formula is shown as its operation alone
CHARACTER = 7.25  # pixels; explorer.css has the same font size
LINE = 17.0
PADDING = 10.0
WRITTEN_OUT = 8  # factors of a product of all others
NUMBER = 17  # characters that a number may need, with the sign before it


def explore(
    v: Variable,
    path: str | os.PathLike[str] = "graph.html",
    *,
    model: Module | None = None,
    title: str | None = None,
    max_nodes: int = MAX_NODES,
    rankdir: str = "LR",
) -> str:
    """Write the graph that ends in v as a page to explore in a browser, and return the page's path.

    v: the Variable that the graph ends in. path: the file to write. model: a Module whose names its parameters get; others go by
    their label, or by x1, x2, ... (leaves), c1, c2, ... (constants) and v1, v2, ... (results). title: of the page. max_nodes: how
    large a graph may be. rankdir: where the graph runs, "LR" (left to right), "TB" (top to bottom), "RL" or "BT".

    The page is one file that needs no network and may not use any. It steps through the backward pass, forward and back, one
    node at a time: to each operand goes adjoint times local derivative, in formulas and in numbers, which are the engine's, every
    digit (:func:`mingrad.steps.backward_steps`). Leaves can be moved by sliders: then the page computes values and gradients
    itself, with the op table's formulas in JavaScript, whose functions may differ from Python's in the last bits; "Reset" brings
    the engine's numbers back. What Python has decided by value, such as ``if x > 0``, stays decided: the graph is the one that
    was recorded. A custom function's code is Python's, so a graph with one has no sliders. Hooks are not called, and no ``.grad``
    changes.

    Raises ImportError if the layout library is missing (extra ``viz``), ValueError for an unknown rankdir or a graph of more
    than max_nodes, RuntimeError where ``backward()`` does, TypeError for what is no Variable.

    >>> import mingrad
    >>> from mingrad.visualize import explore
    >>> x, y = mingrad.Variable(2.0, label="x"), mingrad.Variable(3.0, label="y")
    >>> explore(x**2 * mingrad.sin(y), "graph.html")
    'graph.html'
    """
    path = os.fspath(path)
    if not isinstance(path, str):
        raise TypeError(f"explore: expected a path as text or a Path, got {type(path).__name__}")
    if title is not None and not isinstance(title, str):
        raise TypeError(f"explore: expected title to be a str, got {type(title).__name__}")
    if type(max_nodes) is not int or max_nodes < 1:
        raise ValueError(f"explore: expected max_nodes to be an int from 1 on, got {max_nodes!r}")
    names = _parameter_names(model)
    text = _Page(_graph(v, max_nodes), names).html(title, rankdir)
    with open(path, "wb") as file:
        file.write(text)
    return path


def _graph(v: Any, max_nodes: int) -> list[Any]:
    # walk() counts numbers too, of which a node has one at most; here they are part of the node
    large = isinstance(v, Variable) and walk(v, 2 * max_nodes) is None
    graph = [] if large else steps._graph("explore", v)
    if large or len(graph) > max_nodes:
        raise ValueError(
            f"explore: the graph has {f'more than {max_nodes:,}' if large else f'{len(graph):,}'} nodes, the limit is max_nodes="
            f"{max_nodes}: explore a part of it (a result on the way, a smaller input), print mingrad.visualize.tree(v), draw() it "
            "with its layers as boxes, or give a larger max_nodes"
        )
    return graph


def _parameter_names(model: Module | None) -> dict[int, tuple[Variable, str]]:
    """What the model calls its parameters, as _Writer takes names."""
    if model is None:
        return {}
    if not hasattr(model, "named_parameters"):
        raise TypeError(f"explore: expected model to be a mingrad.nn.Module, got {type(model).__name__}")
    return {id(parameter): (parameter, name) for name, parameter in model.named_parameters()}


class _Undecided(Exception):
    """A formula asks something that another run may answer otherwise: the comparison and its sides."""


class _Page(steps._Writer):
    """Writes the page. In its formulas a node stands as its number between two signs that no name has, a list of a node's operands
    likewise; the page puts names and numbers there."""

    def __init__(self, graph: list[Any], names: dict[int, tuple[Variable, str]]) -> None:
        self.decisions: Iterator[bool] = iter(())
        self.asked = 0  # how often something was to be decided
        self.kept: dict[int, dict[str, Any]] = {}
        self.javascript = JavaScript()
        super().__init__(graph, names, 17)

    # what steps.py asks for

    @staticmethod
    def printable(name: str) -> str:
        """A name in one line, short, and in brackets where it might be read as a formula."""
        name = _one_line(name)
        if len(name) > WIDEST:
            name = name[: WIDEST - 3] + "..."
        return name if re.fullmatch(r"[^\W\d][\w.\[\]]*", name) else f"({name})"

    def choose_names(self, given: dict[int, tuple[Variable, str]]) -> None:
        super().choose_names(given)
        taken = {name for name in self.names if name is not None}
        fresh = (name for name in (f"c{k}" for k in count(1)) if name not in taken)
        self.names = [next(fresh) if name is None else name for name in self.names]

    def atom(self, number: int) -> Any:
        return steps._Atom(f"\x01{number}\x02", self.graph[number][0].data)

    def listed(self, number: int, xs: list[Any]) -> str:
        return f"\x01[{number}\x02"  # the page writes it out, or texts would grow with the square of its length

    def local(self, number: int, place: int, known: dict[str, Any]) -> Any:
        _, name, operands, *_ = self.graph[number]
        if name == "prod" and len(operands) > WRITTEN_OUT:
            return steps._Atom(f"prod({self.listed(number, [])} without \x01{operands[place]}\x02)", 0.0)
        return super().local(number, place, known)

    def known(self, number: int) -> dict[str, Any]:
        if number in self.kept:
            return self.kept[number]
        asked = self.asked
        known: dict[str, Any] = super().known(number)
        if asked == self.asked:  # it is the same whatever is decided
            self.kept[number] = known
        if steps._table()[0][self.graph[number][1]]["aux"].startswith("k_count"):  # in another run it may be another number
            known["aux"] = steps._Atom(f"{known['list']}.count({known['y'].name})", known["aux"].value)
        return known

    def decide(self, order: type, sides: list[Any]) -> bool:
        """Which side of a where() to take: as numbers of the formula say, else as was decided to look at next."""
        if all(isinstance(side, steps._Atom) and side.name is None for side in sides):
            return bool(steps._holds(order, sides))
        self.asked += 1
        for decision in self.decisions:
            return decision
        raise _Undecided(order, sides)

    # formulas

    def cases(self, formula: Callable[[], str], texts: list[str], decisions: tuple[bool, ...] = ()) -> str:
        """All forms that a formula has, added to texts, and JavaScript that says which one holds."""
        self.decisions = iter(decisions)
        try:
            text = formula()
        except _Undecided as undecided:
            order, (left, right) = undecided.args
            test = f"{self.expression(left)} {_COMPARISON_SIGNS[order][0]} {self.expression(right)}"
            then, otherwise = (self.cases(formula, texts, (*decisions, decision)) for decision in (True, False))
            return f"({test} ? {then} : {otherwise})"
        if text not in texts:
            texts.append(text)
        return str(texts.index(text))

    def expression(self, tree: Any) -> str:
        """A formula's tree as JavaScript."""
        if isinstance(tree, steps._Atom):
            return self.javascript.number(tree.value) if tree.name is None else f"v[{int(tree.name[1:-1])}]"
        parts = [self.expression(part) for part in tree.parts]
        if tree.function == "neg":
            return f"-({parts[0]})"
        if tree.function in ("+", "-", "*", "/"):
            return "(" + f" {tree.function} ".join(parts) + ")"
        return self.javascript.call({"**": "power", "//": "floordiv", "%": "mod"}.get(tree.function, tree.function), parts)

    def slope_forms(self, number: int) -> tuple[list[list[str]], str]:
        """Of each operand the forms of its local derivative, and JavaScript, of each operand which one holds."""
        name, operands = self.graph[number][1:3]
        if name in ("leaf", "custom"):
            return [], "null"
        forms, choices = [], []
        for place in range(len(operands)):
            texts: list[str] = []
            choices.append(self.cases(partial(self.slope_text, number, place), texts))
            forms.append(texts)
        return forms, f"(v) => [{', '.join(choices)}]" if any(len(texts) > 1 for texts in forms) else "null"

    def slope_text(self, number: int, place: int) -> str:
        known = self.known(number) if self.graph[number][1] in steps._table()[0] else {}
        return str(self.text(self.local(number, place, known)))

    def value_text(self, number: int) -> str:
        if self.graph[number][1] == "leaf":
            return ""
        texts: list[str] = []  # all forms begin alike: with the call, or what stands for an operator
        self.cases(lambda: str(self.formula(number)[0]), texts)
        return texts[0]

    # what the page holds

    def name_found(self, found: re.Match[str]) -> str:
        number = int(found[2])
        return f"[{', '.join([self.names[k] for k in self.graph[number][2]])}]" if found[1] else str(self.names[number])

    def node(self, number: int) -> dict[str, Any]:
        v, name, operands, _, _, partials = self.graph[number]
        formula = self.value_text(number)
        head = self.names[number]
        if formula:
            head += " = " + re.sub("\x01(\\[?)(\\d+)\x02", self.name_found, formula)
            if len(head) > WIDEST:
                head = f"{self.names[number]} = {self.printable(v._op)}(\N{HORIZONTAL ELLIPSIS})"
        forms, _ = self.slopes[number]
        return {
            "name": self.names[number],
            "label": _one_line(v.label),
            "op": _one_line(v._op),
            "word": "" if name == "leaf" else name.lstrip("_"),
            "head": head,
            "formula": formula,
            "value": _json_number(v.data),
            "graded": v.requires_grad,
            "leaf": name == "leaf",
            "operands": operands,
            "partials": [_json_number(x) for x in partials],
            "slopes": forms,
        }

    def passes(self) -> list[dict[str, Any]]:
        """The backward pass, a node (or a custom function's call) at a time: in the page the numbers follow from the partials."""
        found = []
        for number, together in groupby(self.steps[1:], key=lambda step: self.place[id(step.user)]):
            group = list(together)
            entry: dict[str, Any] = {"user": number, "places": [step.place for step in group]}
            if group[0].partial is None:
                entry["given"] = [_json_number(step.contribution) for step in group]
                entry["results"] = self.users(group[0])[::-1]
            found.append(entry)
        return found

    def html(self, title: str | None, rankdir: str) -> bytes:
        numbers = range(len(self.graph))
        self.slopes = [self.slope_forms(number) for number in numbers]
        nodes = [self.node(number) for number in numbers]
        edges = list(dict.fromkeys((operand, number) for number in numbers for operand in self.graph[number][2]))
        sizes = [(max(NUMBER, len(node["head"])) * CHARACTER + 2 * PADDING, 3 * LINE + 2 * PADDING) for node in nodes]
        placed = layout(sizes, edges, rankdir)
        for node, (x, y), (width, height) in zip(nodes, placed.positions, sizes):
            node["box"] = [x, y, width, height]
        data = {
            "nodes": nodes,
            "edges": [{"from": a, "to": b, "route": route} for (a, b), route in zip(edges, placed.routes)],
            "passes": self.passes(),
            "shades": SHADES,
            "limits": SHADE_LIMITS,
            "size": [placed.width, placed.height],
        }
        title = f"{self.names[-1]}: {len(nodes)} node{'s' * (len(nodes) > 1)}" if title is None else title
        computed = f"{self.javascript.graph(self.graph)}\nconst choices = [{', '.join([choice for _, choice in self.slopes])}];"
        source = files(__package__)
        script = (
            '"use strict";\n'
            + self.javascript.with_helpers(computed)
            + "\n"
            + source.joinpath("explorer.js").read_text("utf-8")
        )
        shades = "\n".join([f":root {{ --{name}: light-dark({light}, {dark}); }}" for name, light, dark, _ in SHADES])
        style = shades + "\n" + source.joinpath("explorer.css").read_text("utf-8")
        page = _PAGE.format(
            title=html.escape(title),
            policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'",
            style=style,
            data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
            script=script,
        )
        return page.encode("ascii", "xmlcharrefreplace")


def _one_line(text: str) -> str:
    """A text without what cannot be seen, or changes how others are seen."""
    return "".join([c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text])


def _json_number(x: float) -> float | str:
    """JSON has no nan and no infinities: they are texts that JavaScript's Number() reads."""
    return x if math.isfinite(x) else "NaN" if math.isnan(x) else f"{'-' * (x < 0)}Infinity"


def _hash(text: str) -> str:
    """What the page's policy calls this text, which may run or style; no other may."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<form id="search" role="search">
<label class="unseen" for="query">Search by label or operation</label>
<input id="query" type="search" placeholder="Label or operation" aria-keyshortcuts="/" autocomplete="off" spellcheck="false">
<output id="found" for="query" aria-label="Found"></output>
</form>
<div class="group" role="group" aria-label="View">
<button id="out" type="button" aria-label="Zoom out" aria-keyshortcuts="-">&minus;</button>
<output id="zoom" aria-label="Zoom">100 %</output>
<button id="in" type="button" aria-label="Zoom in" aria-keyshortcuts="+">+</button>
<button id="fit" type="button" aria-keyshortcuts="0">Fit</button>
</div>
<button id="theme" type="button">Theme: system</button>
<button id="help" type="button" aria-keyshortcuts="?">Help</button>
</header>
<main>
<svg id="graph" tabindex="0" role="group" aria-label="The graph; arrow keys step, + and - zoom, shift and arrow keys move it"></svg>
<ul id="legend" aria-label="Size of a gradient beside the largest"><li>gradient beside the largest:</li></ul>
</main>
<section id="player" aria-label="Backward pass">
<button id="start" type="button" aria-keyshortcuts="Home">Start</button>
<button id="back" type="button" aria-keyshortcuts="ArrowLeft">&#x2190; Back</button>
<button id="play" type="button" aria-keyshortcuts="Space">Play</button>
<button id="next" type="button" aria-keyshortcuts="ArrowRight">Next &#x2192;</button>
<button id="end" type="button" aria-keyshortcuts="End">End</button>
<input id="position" type="range" min="0" value="0" aria-label="Position in the backward pass">
</section>
<aside>
<section id="step" aria-labelledby="heading">
<h2 id="heading"></h2>
<p id="said" role="status" aria-live="polite"></p>
<div id="contributions"></div>
</section>
<section id="picked" aria-live="polite" hidden></section>
<section id="leaves" aria-labelledby="leaves-heading">
<h2 id="leaves-heading">Leaves</h2>
<p id="note"></p>
<button id="reset" type="button" disabled>Reset</button>
<ul></ul>
</section>
</aside>
<dialog id="manual" aria-labelledby="manual-heading">
<h2 id="manual-heading">How to read this page</h2>
<p>A box is a node: what it is, its <b>value</b>, and its <b>gradient</b>, how fast the result changes with it. The backward pass
goes through the boxes from the result to the leaves. Each step takes one of them, whose gradient is final by then (its
<b>adjoint</b>), and adds adjoint &times; local derivative to each of its operands: the chain rule.</p>
<dl>
<dt>&#x2190; &#x2192; Home End</dt><dd>step back and forward, to the start, to the end; space plays</dd>
<dt>/</dt><dd>search; Enter and Shift+Enter go through what was found, Escape ends it</dd>
<dt>+ &minus; 0</dt><dd>zoom in, zoom out, fit; Ctrl and the wheel, or two fingers, zoom too</dd>
<dt>Shift and arrows</dt><dd>move the graph; so do dragging and the wheel</dd>
<dt>click on a box</dt><dd>shows its numbers in full, and goes to its step</dd>
</dl>
<p>First all numbers are the engine&rsquo;s, every digit. Once a leaf has been moved, this page computes with the same formulas in
JavaScript, whose functions may differ from Python&rsquo;s in the last bits, and gives infinities and nan where Python raises an
error. Reset brings the engine&rsquo;s numbers back.</p>
<p>The graph is the one that was recorded. What Python decided by a value on the way, such as <code>if x &gt; 0</code> or how
often a loop runs, stays as it was decided, however leaves are moved; choices inside an operation, such as relu&rsquo;s, are made
again.</p>
<form method="dialog"><button>Close</button></form>
</dialog>
<noscript>This page needs JavaScript, which it carries with it.</noscript>
<script id="data" type="application/json">{data}</script>
<script>{script}</script>
</body>
</html>
"""
