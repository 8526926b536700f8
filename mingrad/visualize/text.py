"""A graph as text: tree() draws it from the result down to its leaves, for terminals and for print().

It reads ``_prev`` and ``_op``, as any user could, and what the core counts (_core._census); it changes nothing and never
recurses. Pictures are in dot.py and drawing.py; printable() is for everything that shows text of users.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from .. import _core
from ..engine import Variable

__all__ = ["tree"]

_WIDTH = 44  # columns before the numbers at most; what is longer pushes them to the right
_LABEL = 32  # characters of a label
_NAMES = 8  # names in one line of references
# Attributes as Variable has them: a subclass may have its own, which may raise.
_data = vars(Variable)["data"].__get__
_grad = vars(Variable)["grad"].__get__
_label = vars(Variable)["label"].__get__
_op = vars(Variable)["_op"].__get__
_prev = vars(Variable)["_prev"].__get__
_requires = vars(Variable)["requires_grad"].__get__
_BOXES = {"├": "|", "└": "`", "│": "|", "─": "-", "…": "..."}


class Tree(str):
    """The text that tree() gives: a str that shows itself as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class _Line(NamedTuple):
    indent: str
    node: Variable | None  # drawn here, with what it was made from below it
    others: tuple[Variable, ...] = ()  # operands that are drawn above
    left_out: int = 0  # operands that are not drawn


def tree(v: Variable, *, max_nodes: int = 100, max_depth: int = 20, ascii: bool | None = None) -> Tree:
    """The graph that ends in ``v`` as text, each node above its operands, with its value and its gradient.

    A node that is used more than once is drawn where it comes first, and there gets a name (its label, or ``#1``) by which
    it is mentioned elsewhere. max_nodes: how many nodes are drawn, those nearest to v. max_depth: how far down. What is
    left out is counted in the last line. ascii: True for plain characters instead of box-drawing ones; None: where standard
    output cannot print the others.

    Raises TypeError if v is not a Variable, ValueError for limits below 1.

    >>> import mingrad
    >>> x, y = mingrad.Variable(2.0, label="x"), mingrad.Variable(3.0)
    >>> z = (x * y).tanh() + x
    >>> z.backward()
    >>> print(mingrad.tree(z, ascii=True))
    +           data 2.99999  grad 1
    |- tanh     data 0.999988  grad 1
    |  `- *     data 6  grad 2.45765e-05
    |     |- x  data 2  grad 1.00007
    |     `- leaf  data 3  grad 4.91531e-05
    `- x above
    """
    if not isinstance(v, Variable):
        raise TypeError(f"tree() expects the Variable that a graph ends in, got {type(v).__name__}: pass the result")
    for name, limit in (("max_nodes", max_nodes), ("max_depth", max_depth)):
        if type(limit) is not int or limit < 1:
            raise ValueError(f"tree: expected {name} to be an int of at least 1, got {limit!r}")
    _data(v)  # in a function that is being compiled this raises and says why
    nodes, numbers, *_ = _core._census(v)
    operands = _nearest(v, max_nodes)
    lines = _lines(v, operands, max_depth)
    text = _written(lines)
    drawn = len({id(line.node) for line in lines if line.node is not None})
    total = nodes + numbers
    if drawn < total:
        text += f"\n… {total - drawn:,} of {total:,} nodes are left out (max_nodes={max_nodes}, max_depth={max_depth})"
    if ascii or (ascii is None and not can_print(text)):
        text = "".join([_BOXES.get(c, c) for c in text]).encode("ascii", "backslashreplace").decode()
    return Tree(text)


def _nearest(v: Variable, most: int) -> dict[int, tuple[Variable, ...]]:
    """Operands, by id, of the nodes nearest to v, `most` at most. ``_prev`` is read once a node: every reading makes new objects
    for numbers. The tuples keep the nodes alive, so an id stays one node's."""
    operands: dict[int, tuple[Variable, ...]] = {}
    front = [v]
    while front and len(operands) < most:
        behind: list[Variable] = []
        for node in front:
            if id(node) not in operands and len(operands) < most:
                operands[id(node)] = _prev(node)
                behind += operands[id(node)]
        front = behind
    return operands


def _lines(v: Variable, operands: dict[int, tuple[Variable, ...]], max_depth: int) -> list[_Line]:
    """The drawing, with the nodes in `operands` where they come first."""
    lines = [_Line("", v)]
    drawn = {id(v)}

    def parts(node: Variable, below: str) -> Iterable[_Line]:
        """What stands under a node: its operands, side by side what is not drawn here."""
        kinds = groupby(operands[id(node)], lambda operand: _kind(id(operand)))
        found = [(kind, list(group)) for kind, group in kinds]
        for k, (kind, group) in enumerate(found):
            for j, operand in enumerate(group if kind == "drawn" else group[:1]):
                more = k + 1 < len(found) or (kind == "drawn" and j + 1 < len(group))
                indent = below + ("├─ " if more else "└─ ")
                if kind == "drawn" and id(operand) not in drawn:
                    yield _Line(indent, operand)
                elif kind == "left out":
                    yield _Line(indent, None, left_out=len(group))
                else:
                    yield _Line(indent, None, (operand,) if kind == "drawn" else tuple(group))

    def _kind(key: int) -> str:
        return "above" if key in drawn else "drawn" if key in operands else "left out"

    path = [iter(parts(v, ""))]
    while path:
        line = next(path[-1], None)
        if line is None:
            path.pop()
            continue
        lines.append(line)
        if line.node is None:
            continue
        drawn.add(id(line.node))
        below = line.indent[:-3] + ("│  " if line.indent[-3] == "├" else "   ")
        if len(path) < max_depth:
            path.append(iter(parts(line.node, below)))
        elif operands[id(line.node)]:
            lines.append(_Line(below + "└─ ", None, left_out=len(operands[id(line.node)])))
    return lines


def _written(lines: list[_Line]) -> str:
    """The lines with names, values and gradients."""
    shared = {id(node): node for line in lines for node in line.others}
    labels = [_label(node) for node in shared.values()]
    names: dict[int, str] = {}
    for line in lines:  # in the order in which they are drawn
        if line.node is not None and id(line.node) in shared:
            label = _label(line.node)
            plain = label and labels.count(label) == 1 and not label.startswith("#")
            names[id(line.node)] = printable(label) if plain else f"#{len(names) + 1}"
    heads = [line.indent + _head(line, names) for line in lines]
    numbers = [_numbers(line.node) if line.node is not None else "" for line in lines]
    width = max((len(head) for head, number in zip(heads, numbers) if number and len(head) <= _WIDTH), default=0)
    return "\n".join([f"{head:{width}}  {number}" if number else head for head, number in zip(heads, numbers)])


def _head(line: _Line, names: dict[int, str]) -> str:
    if line.left_out:
        return f"… {line.left_out:,} operand{'s' if line.left_out > 1 else ''}"
    if line.node is None:
        few = [names[id(node)] for node in line.others[:_NAMES]]
        more = f" and {len(line.others) - len(few):,} more" if len(line.others) > len(few) else ""
        return f"{', '.join(few)}{more} above"
    words = [names.get(id(line.node), ""), printable(_label(line.node)), printable(_op(line.node))]
    words = [word for word in dict.fromkeys(words) if word]  # a name may be the label
    return " = ".join(words) or ("leaf" if _requires(line.node) else "constant")


def _numbers(node: Variable) -> str:
    if not _requires(node):
        return f"data {number(_data(node))}"
    return f"data {number(_data(node))}  grad {number(gradient(node))}"


def gradient(v: Variable) -> float:
    """The gradient as a number, after backward(create_graph=True) too."""
    grad = _grad(v)
    return _data(grad) if isinstance(grad, Variable) else float(grad)


def number(x: float) -> str:
    """A number as people read it: six digits."""
    return f"{x:.6g}"


def printable(text: str, most: int = _LABEL) -> str:
    """Text of a user in one line: escapes for what has no picture (control characters, marks that turn the direction of writing
    round, lone surrogates), and no longer than `most` characters."""
    text = "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: most + 1]])
    return text if len(text) <= most else text[: most - 1] + "…"


def can_print(text: str) -> bool:
    """Whether standard output's encoding has every character of text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
