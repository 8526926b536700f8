"""Make the README's picture, one SVG file, from the package's own numbers and nothing else.

    python -m mingrad.examples.picture moons.svg

On the left the trained model of ``moons.py``: the plane coloured by its score, and the points. On
the right the graph of ``z = x**2 + y`` after ``backward()``. Cards of their own colour keep it
readable on a light and on a dark page. The layout fits this one small graph; draw_dot() in
``mingrad/visualize/dot.py`` draws any.
"""

from __future__ import annotations

import argparse
import sys
from xml.sax.saxutils import escape

from mingrad.engine import Variable, no_grad
from mingrad.examples import moons
from mingrad.nn import MLP
from mingrad.visualize import trace

WIDTH, HEIGHT, GAP, PAD = 896, 318, 16, 16  # of the picture, between its cards, inside a card
PLOT_WIDTH, PLOT_HEIGHT, CELL = 368, 228, 4  # pixels; the plot is a grid of square cells
LEFT, TOP, SCALE = -1.6, 1.58, 4.2 / 368  # of the plot, in the plane; SCALE is units per pixel
BOX_WIDTH, BOX_HEIGHT, COLUMN, ROW = 92, 64, 176, 92  # of a node's box; from box to box

# From sure of the class -1, over unsure, to sure of the class 1.
SHADES = ("#8fb8de", "#b0cdea", "#cfe1f3", "#e9f1f9", "#fdf0e4", "#fbdcc0", "#f6c398", "#efa76f")
POINT_COLOURS = {-1.0: "#1f4e79", 1.0: "#a3440b"}

STYLE = """
  text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328 }
  .quiet { fill: #57606a }
  .card { fill: #ffffff; stroke: #d0d7de }
  .node { fill: #f6f8fa; stroke: #57606a }
  .op { fill: #ddf4ff; stroke: #57606a }
  .edge { fill: none; stroke: #57606a; stroke-width: 1.3; marker-end: url(#arrow) }
"""


def moons_plot(model: MLP) -> list[str]:
    """Return SVG elements, PLOT_WIDTH by PLOT_HEIGHT: model's scores, and the points."""
    paths = [""] * len(SHADES)
    for top in range(0, PLOT_HEIGHT, CELL):
        row = [shade(model, left + CELL / 2, top + CELL / 2) for left in range(0, PLOT_WIDTH, CELL)]
        start = 0
        for end in range(1, len(row) + 1):
            if end == len(row) or row[end] != row[start]:  # cells of one shade are one rectangle
                width = CELL * (end - start)
                paths[row[start]] += f"M{CELL * start} {top}h{width}v{CELL}h-{width}z"
                start = end
    elements = [f'<path fill="{colour}" d="{path}"/>' for colour, path in zip(SHADES, paths) if path]
    elements = ['<g shape-rendering="crispEdges">', *elements, "</g>"]

    for label, colour in POINT_COLOURS.items():
        elements.append(f'<g fill="{colour}" stroke="#ffffff" stroke-width="0.8">')
        for (x, y), its_label in zip(*moons.load()):
            if its_label != label:
                continue
            across, down = (x - LEFT) / SCALE, (TOP - y) / SCALE
            if label < 0:
                elements.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.6"/>')
            else:
                elements.append(f'<path d="M{across:.1f} {down - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6-4.6z"/>')
        elements.append("</g>")
    return elements


def shade(model: MLP, left: float, top: float) -> int:
    """Return the index in SHADES for the score at a place of the plot: four shades a class."""
    score = model([LEFT + left * SCALE, TOP - top * SCALE]).data
    sureness = min(3, int(2 * abs(score)))
    return 4 + sureness if score > 0 else 3 - sureness


def graph_plot(root: Variable) -> list[str]:
    """Return SVG elements of root's graph: a node is as high as the mean of its operands."""
    nodes, edges = trace(root)
    operands = {node: [operand for operand, user in edges if user is node] for node in nodes}
    places: dict[Variable, tuple[float, float]] = {}
    leaves = 0
    for node in nodes:
        if operands[node]:
            column = max(places[operand][0] for operand in operands[node]) + COLUMN
            row = sum(places[operand][1] for operand in operands[node]) / len(operands[node])
            places[node] = column, row
        else:
            places[node] = 0, leaves * ROW
            leaves += 1

    elements = []
    for operand, node in edges:
        (x1, y1), (x2, y2) = places[operand], places[node]
        x1, y1, x2, y2 = x1 + BOX_WIDTH, y1 + BOX_HEIGHT / 2, x2 - 64, y2 + BOX_HEIGHT / 2
        bend = max(x1, x2 - 32)  # level until near the operation, so as to pass below other boxes
        elements.append(f'<path class="edge" d="M{x1} {y1}H{bend}C{bend + 14} {y1} {x2 - 20} {y2} {x2} {y2}"/>')
    for node, (x, y) in places.items():
        middle = y + BOX_HEIGHT / 2
        if node._op:
            elements += [
                f'<path class="edge" d="M{x - 24} {middle}H{x - 1}"/>',
                f'<ellipse class="op" cx="{x - 42}" cy="{middle}" rx="20" ry="15"/>',
                text(x - 42, middle + 4, node._op, "middle"),
            ]
        lines = [node.label] if node.label else []
        lines += [f"data {node.data:.4f}"[:11], f"grad {node.grad:.4f}"[:11]]
        elements.append(f'<rect class="node" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4"/>')
        for number, line in enumerate(lines):
            height = middle + 4 + 18 * (number - (len(lines) - 1) / 2)
            elements.append(text(x + BOX_WIDTH / 2, height, line, "middle"))
    return elements


def text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    """Return an SVG text element; style is a class of STYLE."""
    attributes = f' class="{style}"' if style else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{attributes}>{escape(words)}</text>'


def card(x: float, width: float, lines: list[str], elements: list[str], inset: float) -> list[str]:
    """Return a card at x with lines of code above elements, these moved down by inset."""
    below = HEIGHT - 1 - PAD - PLOT_HEIGHT
    return [
        f'<g transform="translate({x} 0.5)">',
        f'<rect class="card" width="{width}" height="{HEIGHT - 1}" rx="8"/>',
        *(
            text(PAD, 29 + 20 * number, line, style="quiet" if line.startswith("#") else "")
            for number, line in enumerate(lines)
        ),
        f'<g transform="translate({PAD} {below + inset})">',
        *elements,
        "</g>",
        "</g>",
    ]


def svg() -> str:
    """Return the picture: trains the moons model, builds the small graph, draws both."""
    model = moons.train()
    X, Y = moons.load()
    with no_grad():
        _, accuracy = moons.loss(model, X, Y)
        left = moons_plot(model)

    x = Variable(2.0, label="x")
    y = Variable(3.0, label="y")
    z = x**2 + y
    z.label = "z"
    z.backward()
    right = graph_plot(z)

    left_width = PLOT_WIDTH + 2 * PAD
    right_x = left_width + GAP + 0.5
    return (
        "\n".join(
            [
                (
                    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
                    f'height="{HEIGHT}" role="img">'
                ),
                "<title>What mingrad computes: a trained decision boundary, and a graph with its gradients</title>",
                f"<style>{STYLE}</style>",
                (
                    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
                    'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>'
                ),
                *card(
                    0.5, left_width, ["python -m mingrad", f"# MLP 2-16-16-1 on two moons, accuracy {accuracy:.0%}"], left, 0
                ),
                *card(
                    right_x,
                    WIDTH - 0.5 - right_x,
                    ["x, y = Variable(2.0), Variable(3.0)", "z = x**2 + y", "z.backward()"],
                    right,
                    50,
                ),
                "</svg>",
            ]
        )
        + "\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command: write the picture to a file, or to standard output."""
    parser = argparse.ArgumentParser(
        prog="python -m mingrad.examples.picture",
        description="Make the README's picture as SVG.",
    )
    parser.add_argument("path", nargs="?", help="file to write (standard output)")
    options = parser.parse_args(arguments)
    picture = svg()
    if options.path is None:
        sys.stdout.write(picture)
    else:
        with open(options.path, "w", encoding="utf-8", newline="\n") as file:
            file.write(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
