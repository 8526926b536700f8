"""draw(): a graph as SVG, PNG, a page of HTML or DOT, without a program of the system.

What is drawn is decided in ``_graph.py``, where it stands in ``_layout.py``; here it gets its looks. DOT needs no
package; SVG and HTML need graphlay, PNG resvg-py too (extra ``viz``). A page that computes is in ``explorer.py``.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable
from typing import Literal, TypeVar, overload

from ..engine import Variable
from ..nn import Module
from ._graph import MAX_NODES, SHADES, Box, Picture, dot_text, gradient_shade, number, picture, printable, xml_text
from ._layout import RANKDIRS, layout

__all__ = ["draw"]

FORMATS = ("svg", "html", "dot", "png")
PNG_ZOOM = 2.0  # pixels of a PNG for one of the SVG
CHARACTER = 7.25  # pixels, the width of one
LINE = 16  # pixels, the height of one
PADDING = 10  # pixels around the text of a box
SHORTEST = 12  # characters that each box has room for
LONGEST = 32  # characters that a line may have
BEND = 8.0  # pixels before and after the corner of an edge where it leaves its lines
STACK = 5  # pixels by which the second sheet of a layer shows
COMBINED = 3  # layers up to which a page holds every combination of open ones; of more, each alone and all
OPENED = 20  # layers that a page opens

# What Picture has no shade for: name, in light, in dark.
COLOURS = (
    ("card", "#ffffff", "#0d1117"),
    ("border", "#d0d7de", "#30363d"),
    ("text", "#1f2328", "#e6edf3"),
    ("quiet", "#57606a", "#9aa4b0"),
    ("line", "#8c959f", "#6e7681"),
    ("constant", "#f6f8fa", "#161b22"),
)

_Path = TypeVar("_Path", str, os.PathLike[str])


@overload
def draw(
    v: Variable,
    format: Literal["svg", "html", "dot"] = "svg",
    *,
    path: None = None,
    rankdir: str = "LR",
    model: Module | None = None,
    expand: bool | Iterable[str] = (),
    max_nodes: int = MAX_NODES,
) -> str: ...
@overload
def draw(
    v: Variable,
    format: Literal["png"],
    *,
    path: None = None,
    rankdir: str = "LR",
    model: Module | None = None,
    expand: bool | Iterable[str] = (),
    max_nodes: int = MAX_NODES,
) -> bytes: ...
@overload
def draw(
    v: Variable,
    format: Literal["svg", "html", "dot", "png"] = "svg",
    *,
    path: _Path,
    rankdir: str = "LR",
    model: Module | None = None,
    expand: bool | Iterable[str] = (),
    max_nodes: int = MAX_NODES,
) -> _Path: ...
def draw(
    v: Variable,
    format: str = "svg",
    *,
    path: str | os.PathLike[str] | None = None,
    rankdir: str = "LR",
    model: Module | None = None,
    expand: bool | Iterable[str] = (),
    max_nodes: int = MAX_NODES,
) -> str | bytes | os.PathLike[str]:
    """Return a drawing of the graph that ends in ``v``: text, or bytes for a PNG. With path it is written there.

    v: a Variable. format: "svg", "html" (one page, in which a click opens and closes layers), "dot" (for Graphviz, which
    need not be here) or "png". path: a file to write; it is returned then. rankdir: where the graph runs, "LR" (left to
    right), "TB" (top to bottom), "RL" or "BT". model: a module whose names its layers and parameters get. expand: which
    layers are drawn neuron by neuron, True for all, or their names as they stand in their boxes. max_nodes: how many
    boxes there may be.

    A box has the label, the operation, data and grad, and is the darker the larger its gradient is beside the largest.
    Neurons of a layer (the same operations on the same inputs, each with parameters of its own) are one box. An edge
    with ×2 is an operand used twice; where the order of operands matters, numbers beside the heads of edges tell it.

    Nothing of the graph changes. Raises ImportError if a package is missing, TypeError if v is not a Variable, ValueError
    for an unknown format, rankdir or layer, for a path that ends in another format's name, and if the graph is too large.

    >>> from mingrad import Variable
    >>> from mingrad.visualize import draw
    >>> x = Variable(3.0, label="x")
    >>> print(draw(x * x, "dot"))
    digraph {
      rankdir="LR"
      ...
      n0 [label="x\\ndata 3\\ngrad 0", fillcolor="#ffffff"]
      n1 [label="*\\ndata 9\\ngrad 0", fillcolor="#ffffff"]
      n0 -> n1 [label="×2"]
    }
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if rankdir not in RANKDIRS:
        raise ValueError(f"rankdir must be one of {', '.join(RANKDIRS)}, got {rankdir!r}")
    if path is not None:
        suffix = os.path.splitext(os.fspath(path))[1][1:].lower()
        if suffix in FORMATS and suffix != format:
            raise ValueError(f"the path ends in .{suffix}, but the format is {format!r}: write draw(v, {suffix!r}, path=...)")
    graph = picture(v, model=model, expand=expand, max_nodes=max_nodes)
    if format == "dot":
        drawing: str | bytes = _dot(graph, rankdir)
    elif format == "html":
        drawing = _html(v, graph, rankdir, model, max_nodes)
    elif format == "png":
        drawing = _png(_svg(graph, rankdir, alone=True))
    else:
        drawing = _svg(graph, rankdir, alone=True)
    if path is None:
        return drawing
    data = drawing if isinstance(drawing, bytes) else drawing.encode()
    with open(path, "wb") as file:
        file.write(data)
    return path


# -- DOT -------------------------------------------------------------------------------------------


def _dot(graph: Picture, rankdir: str) -> str:
    fill = {shade: light for shade, light, _, _ in SHADES}
    lines = [
        "digraph {",
        f'  rankdir="{rankdir}"',
        '  node [shape="box", style="filled,rounded", fontname="Courier", fontsize="10", color="#8c959f"]',
        '  edge [fontname="Courier", fontsize="9", color="#8c959f", fontcolor="#57606a"]',
    ]
    for box in graph.boxes:
        label = r"\n".join(dot_text(_clipped(line)) for line in box.lines)
        style = {"constant": ', style="filled,rounded,dashed"', "layer": ", peripheries=2"}.get(box.kind, "")
        colour = fill.get(gradient_shade(box.grad, graph.largest), "#f6f8fa")
        lines.append(f'  n{box.id} [label="{label}", fillcolor="{colour}"{style}]')
    for source, target, count in graph.edges:
        places = _places(graph, source, target)
        settings = [f'label="×{count}"'] * (count > 1) + [f'headlabel="{places}"'] * bool(places)
        lines.append(f"  n{source} -> n{target}" + f" [{', '.join(settings)}]" * bool(settings))
    return "\n".join([*lines, "}\n"])


# -- SVG -------------------------------------------------------------------------------------------


def _svg(graph: Picture, rankdir: str, alone: bool) -> str:
    """Return the picture as an SVG element; alone: a file of its own, with its style and name space."""
    sizes = [_size(box) for box in graph.boxes]
    placed = layout(sizes, [(source, target) for source, target, _ in graph.edges], rankdir)
    legend, legend_width = _legend(graph)
    width, height = max(placed.width, legend_width), placed.height + 34
    elements = [f'<rect class="card" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>']
    for (source, target, count), route in zip(graph.edges, placed.routes):
        elements += _edge(graph, source, target, count, route)
    for box, (x, y), size in zip(graph.boxes, placed.positions, sizes):
        elements += _box(box, x, y, *size, gradient_shade(box.grad, graph.largest))
    elements.append(f'<g class="legend" transform="translate(14 {placed.height + 8:g})">{legend}</g>')
    head = f'<svg class="mingrad" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
    if alone:
        head += ' xmlns="http://www.w3.org/2000/svg"'
        elements.insert(0, f"<style>{_style('.mingrad ', dark=False)}</style>")
    title = f"<title>A graph of {graph.nodes:,} node{'s' * (graph.nodes > 1)}</title>"
    return "\n".join([head + ">", title, *elements, "</svg>"])


def _box(box: Box, x: float, y: float, width: float, height: float, shade: str) -> list[str]:
    """Return a box with its corner at (x, y)."""
    told = "\n".join(xml_text(line) for line in box.lines)
    names = f"{box.kind} {shade}".strip()
    elements = [f'<g class="box {names}" data-box="{xml_text(box.key)}" transform="translate({x:g} {y:g})">']
    elements.append(f"<title>{told}</title>")
    sheet = (
        f'<rect width="{width - STACK * (box.kind == "layer"):g}" height="{height - STACK * (box.kind == "layer"):g}" rx="6"'
    )
    if box.kind == "layer":
        elements.append(f'{sheet} x="{STACK}" y="{STACK}"/>')
    elements.append(f"{sheet}/>")
    for place, line in enumerate(box.lines):
        name, _, value = line.partition(" ")
        text = xml_text(_clipped(line))
        if place == 0 and (box.op or box.label):
            text = f'<tspan class="title">{text}</tspan>'
        elif name in ("data", "grad"):
            text = f'<tspan class="quiet">{name}</tspan> {xml_text(value)}'
        elements.append(f'<text x="{PADDING}" y="{PADDING + LINE * place + 10}">{text}</text>')
    return [*elements, "</g>"]


def _edge(graph: Picture, source: int, target: int, count: int, route: list[tuple[float, float]]) -> list[str]:
    """Return an edge along its route, bent softly at its points, with an arrow's head at its end."""
    places = _places(graph, source, target)
    keys = [xml_text(graph.boxes[box].key) for box in (source, target)]
    (x, y), (end_x, end_y) = route[-2:]
    length = max(((end_x - x) ** 2 + (end_y - y) ** 2) ** 0.5, 1e-9)
    ahead_x, ahead_y = (end_x - x) / length, (end_y - y) / length
    points = [*route[:-1], (end_x - 6 * ahead_x, end_y - 6 * ahead_y)]
    path = f"M{_pair(points[0])}"
    for before, corner, after in zip(points, points[1:], points[2:]):
        path += f"L{_pair(_towards(corner, before))}Q{_pair(corner)} {_pair(_towards(corner, after))}"
    path += f"L{_pair(points[-1])}"
    wings = [(end_x - 7 * ahead_x - side * 3.5 * ahead_y, end_y - 7 * ahead_y + side * 3.5 * ahead_x) for side in (1, -1)]
    told = f' data-places="{places}"' if places else ""
    elements = [
        f'<g class="edge" data-from="{keys[0]}" data-to="{keys[1]}" data-count="{count}"{told}>',
        f'<path class="line{" many" * (count > 1)}" d="{path}"/>',
        f'<path class="head" d="M{_pair((end_x, end_y))}L{_pair(wings[0])}L{_pair(wings[1])}z"/>',
    ]
    if count > 1:
        (x1, y1), (x2, y2) = route[(len(route) - 1) // 2 : (len(route) - 1) // 2 + 2]
        elements.append(_note((x1 + x2) / 2, (y1 + y2) / 2, f"×{count}"))
    if places:
        elements.append(_note(end_x - 11 * ahead_x + 7 * ahead_y, end_y - 11 * ahead_y - 7 * ahead_x, places))
    return [*elements, "</g>"]


def _note(x: float, y: float, text: str) -> str:
    """Return a short text on an edge."""
    return f'<text class="note halo" x="{round(x, 1):g}" y="{round(y + 3.6, 1):g}" text-anchor="middle">{text}</text>'


def _legend(graph: Picture) -> tuple[str, float]:
    """Return what the colours mean, and its width."""
    used = {gradient_shade(box.grad, graph.largest) for box in graph.boxes}
    if not used & {"g1", "g2", "g3", "g4", "gx"}:
        text = "no gradients: call backward() to see them"
        return f'<text class="note" y="12">{text}</text>', len(text) * 6.3 + 28
    text = f"|grad| beside the largest, {number(graph.largest)}:"
    elements, x = [f'<text class="note" y="12">{text}</text>'], len(text) * 6.3 + 12
    for shade, _, _, meaning in SHADES:
        if shade != "gx" or "gx" in used:
            elements.append(f'<g class="{shade}"><rect x="{x:.4g}" y="1" width="20" height="14" rx="3"/></g>')
            elements.append(f'<text class="note" x="{x + 25:.4g}" y="12">{xml_text(meaning)}</text>')
            x += 25 + 6.3 * len(meaning) + 14
    return "".join(elements), x + 14


def _style(scope: str, dark: bool) -> str:
    """Return CSS for what has the class mingrad, with concrete colours: renderers of SVG know no variables."""
    colour = {name: shades[dark] for name, *shades in COLOURS}
    fills = {shade: (light, in_dark)[dark] for shade, light, in_dark, _ in SHADES}
    rules = [
        f"text{{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:{colour['text']}}}",
        ".title{font-weight:bold}",
        f".quiet{{fill:{colour['quiet']}}}",
        f".card{{fill:{colour['card']};stroke:{colour['border']}}}",
        f"text.note{{font-size:10.5px;fill:{colour['quiet']}}}",
        f".halo{{stroke:{colour['card']};stroke-width:5;stroke-linejoin:round;paint-order:stroke}}",
        f"rect{{stroke:{colour['line']};stroke-width:1}}",
        f".constant rect{{fill:{colour['constant']};stroke-dasharray:3 2}}",
        *(f".{shade} rect{{fill:{fill}}}" for shade, fill in fills.items()),
        f".line{{fill:none;stroke:{colour['line']};stroke-width:1.3}}",
        ".many{stroke-width:2}",
        f".head{{fill:{colour['line']}}}",
    ]
    return "".join(scope + rule for rule in rules)


def _size(box: Box) -> tuple[float, float]:
    """Return width and height of a box, in pixels."""
    longest = max(SHORTEST * (box.kind != "constant"), *(_columns(_clipped(line)) for line in box.lines))
    more = STACK * (box.kind == "layer")
    return longest * CHARACTER + 2 * PADDING + more, len(box.lines) * LINE + 2 * PADDING - 4 + more


def _clipped(line: str) -> str:
    """Return a line as far as a box shows it."""
    line = printable(line)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _columns(text: str) -> int:
    """Return how many characters of usual width are as wide as text."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _places(graph: Picture, source: int, target: int) -> str:
    return ",".join(map(str, graph.places.get((source, target), ())))


def _towards(corner: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Return where the bend at a corner begins or ends, on the way to another point."""
    (x, y), (to_x, to_y) = corner, other
    part = min(0.5, BEND / max(((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5, 1e-9))
    return x + part * (to_x - x), y + part * (to_y - y)


def _pair(point: tuple[float, float]) -> str:
    return f"{round(point[0], 1):g} {round(point[1], 1):g}"


# -- PNG -------------------------------------------------------------------------------------------


def _png(svg: str) -> bytes:
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise ImportError(
            "draw(v, 'png') needs the package resvg-py, which the extra mingrad[viz] adds: python -m pip install resvg-py"
        ) from error
    probe = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="18" font-size="18">{}</text></svg>'
    if svg_to_bytes(probe.format("M")) == svg_to_bytes(probe.format("")):
        raise RuntimeError(
            "draw(v, 'png') finds no font on this system, so texts would be missing: install one, such as DejaVu"
        )
    return bytes(svg_to_bytes(svg, zoom=PNG_ZOOM))


# -- HTML ------------------------------------------------------------------------------------------

PAGE_STYLE = """
:root{color-scheme:light dark}
body{margin:24px;font:14px system-ui,sans-serif;background:#f6f8fa;color:#1f2328}
nav{margin:0 0 12px}
button{font:inherit;margin:0 6px 6px 0;padding:3px 10px;border:1px solid #8c959f;border-radius:6px;background:#fff;color:inherit}
button[aria-pressed=true]{background:#1f2328;color:#fff}
button:disabled{opacity:.5}
.views{overflow-x:auto}
.layer{cursor:pointer}
.layer:focus,.layer:hover{outline:2px solid #0969da;outline-offset:2px}
@media (prefers-color-scheme:dark){
body{background:#010409;color:#e6edf3}
button{background:#161b22}
button[aria-pressed=true]{background:#e6edf3;color:#010409}
}
"""

# Which layers are open is what the pressed buttons say. Of combinations that the page does not hold, the last click counts.
PAGE_SCRIPT = """
const views = [...document.querySelectorAll(".view")], buttons = [...document.querySelectorAll("button[data-layer]")];
const all = document.querySelector("button:not([data-layer])"), every = buttons.map((_, layer) => layer);
const find = open => views.find(view => view.dataset.open === open.join(" "));
const pressed = button => button.getAttribute("aria-pressed") === "true";
function show(open) {
  for (const view of views) view.hidden = view !== find(open);
  for (const button of buttons) button.setAttribute("aria-pressed", open.includes(+button.dataset.layer));
  if (all) all.setAttribute("aria-pressed", open.length === every.length);
}
function toggle(layer) {
  const open = every.filter(k => pressed(buttons[k])), closes = open.includes(layer);
  const wanted = every.filter(k => k === layer ? !closes : open.includes(k));
  show([wanted, closes ? [] : [layer], []].find(find));
}
if (all) all.onclick = () => show(pressed(all) ? [] : every);
buttons.forEach((button, layer) => button.onclick = () => toggle(layer));
for (const box of document.querySelectorAll(".layer")) {
  const button = buttons.find(button => button.textContent === box.dataset.box);
  if (button.disabled) continue;
  box.setAttribute("tabindex", 0);
  box.setAttribute("role", "button");
  box.onclick = () => button.click();
  box.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button.click(); } };
}
"""


def _html(v: Variable, graph: Picture, rankdir: str, model: Module | None, max_nodes: int) -> str:
    """Return a page with a drawing for each combination of open layers that it offers; graph's is shown first."""
    layers = graph.layers
    closed = {box.key for box in graph.boxes if box.kind == "layer"}
    first = tuple(number for number, key in enumerate(layers) if key not in closed)
    everything = tuple(range(len(layers)))
    sizes = everything if len(layers) <= COMBINED else (0, 1)
    combinations = (itertools.combinations(everything[:OPENED], size) for size in sizes)
    offered = {first, everything, *itertools.chain.from_iterable(combinations)}
    refused: dict[tuple[int, ...], str] = {
        (layer,): f"this page opens {OPENED} layers: draw it with expand=" for layer in everything[OPENED:]
    }
    drawn = {first: _svg(graph, rankdir, alone=False)}
    for opened in offered - {first}:
        try:
            view = picture(v, model=model, expand=[layers[k] for k in opened], max_nodes=max_nodes)
            drawn[opened] = _svg(view, rankdir, alone=False)
        except ValueError as error:  # too large with these open
            refused[opened] = str(error)
    views = [
        f'<div class="view" data-open="{" ".join(map(str, opened))}"{" hidden" * (opened != first)}>\n{drawn[opened]}\n</div>'
        for opened in sorted(drawn, key=lambda opened: (len(opened), opened))
    ]
    buttons = []
    for layer, key in enumerate(layers):
        state = f'data-layer="{layer}" aria-pressed="{str(layer in first).lower()}"'
        if (layer,) in refused:
            state += f' disabled title="{xml_text(refused[layer,])}"'
        buttons.append(f'<button type="button" {state}>{xml_text(key)}</button>')
    if everything in drawn and len(layers) > 1:
        buttons.append(f'<button type="button" aria-pressed="{str(first == everything).lower()}">all</button>')
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n<title>mingrad: a graph</title>',
            f"<style>{PAGE_STYLE}{_style('.mingrad ', dark=False)}",
            f"@media (prefers-color-scheme:dark){{{_style('.mingrad ', dark=True)}}}</style>\n</head>\n<body>",
            *(["<nav>Open layers:", *buttons, "</nav>"] if layers else []),
            '<div class="views">',
            *views,
            "</div>",
            *([f"<script>{PAGE_SCRIPT}</script>"] if layers else []),
            "</body>\n</html>\n",
        ]
    )
