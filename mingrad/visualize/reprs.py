"""What notebooks show (``_repr_html_``, ``_repr_svg_``) of Variables, modules, recorded programs and histories.

Here are tables and text as HTML; small graphs are drawn by drawing.py. All text of users is escaped, and the time this takes is
bounded: what is large is counted or cut. The colours are the page's own, so that it is readable in light and dark.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import chain
from typing import TYPE_CHECKING, Any

from .. import _core
from ..engine import Variable, VariableList
from .text import _data, _label, _op, _requires, gradient, number, printable, tree

if TYPE_CHECKING:
    from ..nn import Module
    from ..program import Compiled, Program

__all__: list[str] = []

DRAWN = 60  # boxes of a drawing (a layer is one), nodes of a tree; larger graphs are summarised
LOOKED_AT = 2_000  # nodes up to which it is tried to draw them in so few boxes
ROWS = 20  # of a table
PARAMETERS = 300_000  # of a module that are looked at
RECORDED = 100_000  # rows of a program whose steps are listed
EPOCHS = 5  # of a history

_CELL = ' style="text-align:left;padding:1px 10px 1px 0"'
_BLOCK = ' style="margin:0;font-family:monospace;line-height:1.25;white-space:pre;overflow-x:auto"'


def html_table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), title: str = "") -> str:
    """Rows of plain texts as an HTML table."""
    lines = [f"<b>{_html(title)}</b>"] if title else []
    lines.append('<table style="border-collapse:collapse;color:inherit;font-size:inherit">')
    if head:
        lines.append("<thead><tr>" + "".join([f"<th{_CELL}>{_html(text)}</th>" for text in head]) + "</tr></thead>")
    cells = ["".join([f"<td{_CELL}>{_html(text)}</td>" for text in row]) for row in rows]
    lines += ["<tbody>", *[f"<tr>{row}</tr>" for row in cells], "</tbody></table>"]
    return "\n".join(lines)


def block(text: str, note: str = "") -> str:
    """Text as it is, and a line below it."""
    lines = "\n".join([_html(line) for line in text.split("\n")])
    return f"<pre{_BLOCK}>{lines}</pre>" + (f"\n<small>{_html(note)}</small>" if note else "")


def _html(text: str) -> str:
    """One line of text for HTML. Lone surrogates, which no notebook could write to its file, and the like become escapes."""
    return escape(printable(text, 500))


# -- Variables ---------------------------------------------------------------------------------------


def variable(v: Variable) -> tuple[str | None, str | None]:
    """(SVG, HTML) of a Variable, of which one is None: a small graph is drawn, a large one summarised."""
    _data(v)  # in a function that is being compiled this raises and says why
    counted = _core._census(v)
    nodes = counted[0] + counted[1]
    note = ""
    if nodes <= LOOKED_AT:
        try:
            from .drawing import draw

            return draw(v, max_nodes=DRAWN), None
        except ImportError as error:
            note = str(error)
        except Exception as error:  # too many boxes; or a subclass has attributes of its own, which may raise anything
            note = f"it could not be drawn: {type(error).__name__}"
    if nodes > DRAWN:
        return None, _summary(v, counted)
    return None, block(tree(v, max_nodes=DRAWN, ascii=False), note)


def _summary(v: Variable, counted: tuple[int, int, int, int, int, dict[str, int]]) -> str:
    nodes, numbers, depth, parameters, constants, ops = counted
    often = sorted(ops.items(), key=lambda item: -item[1])
    few = [f"{printable(op)} ×{count:,}" for op, count in often[:12]] + (["…"] if len(often) > 12 else [])
    rows = [
        ("value", number(_data(v))),
        ("gradient", number(gradient(v)) if _requires(v) else "none is asked for"),
        ("nodes", f"{nodes + numbers:,}"),
        ("depth", f"{depth:,} operations"),
        ("operations", f"{sum(ops.values()):,}: {', '.join(few)}"),
        ("parameters", f"{parameters:,} (leaves that ask for a gradient)"),
        ("constants", f"{constants + numbers:,}"),
    ]
    title = " = ".join([printable(text) for text in (_label(v), _op(v)) if text])
    return html_table(rows, title=f"{type(v).__name__} {title}") + "\n<small>mingrad.tree(v) draws the part next to it</small>"


def variables(found: VariableList) -> str:
    """HTML of a VariableList: a row for each Variable."""
    few = list(found[:ROWS])
    numbers = VariableList(few).tolist()  # in a function that is being compiled this raises and says why
    rows = [
        [str(k), printable(_label(v)), printable(_op(v)), number(x), number(gradient(v)) if _requires(v) else ""]
        for k, (v, x) in enumerate(zip(few, numbers))
    ]
    columns = [k for k in range(5) if k in (0, 3) or any(row[k] for row in rows)]
    head = ["", "label", "op", "data", "grad"]
    more = f"\n<small>… {len(found) - len(few):,} more</small>" if len(found) > len(few) else ""
    title = f"VariableList of {len(found):,}"
    return html_table([[row[k] for k in columns] for row in rows], [head[k] for k in columns], title) + more


# -- modules -----------------------------------------------------------------------------------------


def layers(model: Module) -> tuple[list[tuple[str, str, str, str]], str]:
    """A module as a table, (name, layer, shapes of its parameters, how many they are), and their sum in words.

    A layer is a module without others in it, or with Neurons alone; a module that has parameters beside its layers has a row
    too. A parameter that is shared counts where it comes first.
    """
    from ..nn import Neuron

    rows: list[tuple[str, str, str, str]] = []
    seen: set[int] = set()
    counted: set[Variable] = set()
    stack = [("", model)]
    whole = True
    while stack and whole:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        own, below = _parts(module)
        if below and all([isinstance(part, Neuron) for _, part in below]):
            own, below = _parts(module, Neuron)
        stack += [(f"{path}.{name}" if path else name, part) for name, part in reversed(below)]
        fresh = set(chain.from_iterable([variables for _, _, variables in own])) - counted
        counted |= fresh
        whole = sum([len(variables) for _, _, variables in own]) < PARAMETERS and len(counted) < PARAMETERS
        if own or not below:
            rows.append((path, type(module).__name__, *((_shapes(own), f"{len(fresh):,}") if whole else ("…", "…"))))
    return rows, f"{len(counted):,} parameters" if whole else f"{PARAMETERS:,} parameters or more"


Group = tuple[str, list[int], Sequence[Variable]]  # a name without numbers, the numbers beside it, the Variables there


def _parts(module: Module, inside: tuple[type, ...] | type = ()) -> tuple[list[Group], list[tuple[str, Module]]]:
    """Parameters and modules in a module's attributes, with their names; not those in these modules, but in those of the class
    `inside`."""
    from ..nn import Module

    groups: list[Group] = []
    modules: list[tuple[str, Module]] = []
    seen: set[int] = set()
    count = 0
    stack: list[tuple[str, Any]] = [(name, part) for name, part in reversed(vars(module).items())]
    while stack and count < PARAMETERS:
        path, item = stack.pop()
        if isinstance(item, Variable):
            groups.append(_group(path, [item]))
            count += 1
        elif isinstance(item, Module) and not isinstance(item, inside):
            modules.append((path, item))
        elif not isinstance(item, (Module, dict, list, tuple, VariableList)) or id(item) in seen:
            continue
        elif isinstance(item, VariableList) or (isinstance(item, list) and all([isinstance(part, Variable) for part in item])):
            name, places, variables = _group(path, list(item))
            groups += [(name, [*places, len(variables)], variables)] if variables else []
            count += len(variables)
        else:
            items: Any = vars(item) if isinstance(item, Module) else item
            pairs = list(items.items() if isinstance(items, dict) else enumerate(items))
            stack += [(f"{path}.{key if isinstance(key, str) else _name(key)}", part) for key, part in reversed(pairs)]
        seen.add(id(item))
    return groups, modules


def _group(path: str, variables: list[Variable]) -> Group:
    words = path.split(".")
    places = [word for word in words if word.isdecimal() and len(word) < 10]
    return next((word for word in reversed(words) if word not in places), path), [int(word) + 1 for word in places], variables


def _shapes(groups: list[Group]) -> str:
    """``weight (16, 2), bias (16)``: names, and how far the numbers beside them go."""
    shapes: dict[str, list[int]] = {}
    counts: dict[str, int] = {}
    for name, places, variables in groups:
        shape = shapes.setdefault(name, places)
        shapes[name] = [max(pair) for pair in zip(shape, places)] if len(shape) == len(places) else [0]
        counts[name] = counts.get(name, 0) + len(variables)
    texts = []
    for name, shape in shapes.items():
        shape = shape if math.prod(shape) == counts[name] else [counts[name]]
        texts.append(f"{printable(name)} ({', '.join(map(str, shape))})" if shape else printable(name))
    return ", ".join(texts[:6] + ["…"] * (len(texts) > 6))


def module_table(model: Module) -> str:
    """A module's layers as text, in columns."""
    rows, total = layers(model)
    table = [("name", "layer", "parameters", "count"), *[tuple(map(printable, row[:2])) + row[2:] for row in rows]]
    widths = [max(len(row[k]) for row in table) for k in range(4)]
    lines = ["  ".join([*[f"{row[k]:{widths[k]}}" for k in range(3)], f"{row[3]:>{widths[3]}}"]) for row in table]
    return "\n".join([*lines, f"{printable(type(model).__name__)}: {total}"])


def module(model: Module) -> str:
    """HTML of a module: a row for each layer."""
    rows, total = layers(model)
    few = [(*map(printable, row[:2]), *row[2:]) for row in rows[: 5 * ROWS]]
    more = f"\n<small>… {len(rows) - len(few):,} more layers</small>" if len(rows) > len(few) else ""
    return html_table(few, ("", "layer", "parameters", "count"), f"{printable(type(model).__name__)}: {total}") + more


# -- recorded programs -------------------------------------------------------------------------------


def program(found: Program) -> str:
    """HTML of a Program: what summary() says, without the lines, for which it would call the function."""
    from ..program_summary import summarize

    if len(found) > RECORDED:
        return block(repr(found), "summary() lists its steps")
    return block(summarize(found, lines=False), "summary() names the lines of the code too")


def compiled(f: Compiled[..., Any]) -> str:
    """HTML of a compiled function: its recordings, the first of them with their steps."""
    programs = f.programs
    more = f"\n<small>… {len(programs) - 3:,} more: f.programs</small>" if len(programs) > 3 else ""
    return "\n".join([block(repr(f)), *[program(found) for found in programs[:3]]]) + more


# -- histories ---------------------------------------------------------------------------------------

_COLOURS = ("#1f77b4", "#d9730d")  # of losses and of validation losses; both are seen on white and on black
_PLOT_WIDTH, _PLOT_HEIGHT = 260, 60
_POINTS = 500  # of a curve


def history(found: Mapping[str, Any]) -> str:
    """HTML of a History: the last epochs, and the losses as a small curve."""
    columns = {name: values for name, values in found.items() if isinstance(values, (list, tuple))}
    count = max(map(len, columns.values()), default=0)
    rows = [[_entry(values, k) for values in columns.values()] for k in range(max(0, count - EPOCHS), count)]
    title = f"History of {count:,} epoch{'' if count == 1 else 's'}"
    return html_table(rows, [_name(name) for name in columns], title) + _curves(columns)


def _entry(values: Sequence[Any], k: int) -> str:
    x = values[k] if k < len(values) else ""
    return f"{x:.4g}" if type(x) is float else _name(x)


def _name(x: object) -> str:
    """The text of a str or of an int that is no giant; of anything else its type, as its own text may be anything."""
    return printable(str(x)) if type(x) is str or (isinstance(x, int) and abs(x) < 2**63) else type(x).__name__


def _curves(columns: Mapping[str, Sequence[Any]]) -> str:
    """The losses as an inline SVG of a few lines; '' if there are not two numbers."""
    curves = [
        (colour, _thinned([(k, float(x)) for k, x in enumerate(columns.get(name, ())) if _is_finite(x)]), name)
        for name, colour in zip(("loss", "validation loss"), _COLOURS)
    ]
    points = [point for _, curve, _ in curves for point in curve]
    if len(points) < 2:
        return ""
    last, low, high = max(k for k, _ in points), min(x for _, x in points), max(x for _, x in points)
    scale = high / 2 - low / 2 or 1.0  # halves: the difference may be too large for a float

    def place(k: int, x: float) -> str:
        return f"{4 + (_PLOT_WIDTH - 8) * k / max(1, last):.1f},{4 + (_PLOT_HEIGHT - 8) * ((high / 2 - x / 2) / scale):.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join([place(*point) for point in curve])}">'
        f"<title>{name}, {number(low)} to {number(high)}</title></polyline>"
        for colour, curve, name in curves
        if curve
    ]
    return (
        f'\n<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="loss by epoch" width="{_PLOT_WIDTH}" '
        f'height="{_PLOT_HEIGHT}">{"".join(lines)}</svg>'
    )


def _is_finite(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) <= sys.float_info.max


def _thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about _POINTS of the points, the last one included."""
    return curve[:: len(curve) // _POINTS + 1] + curve[-1:]
