"""Pictures of a graph: trace() lists its nodes and edges, draw_dot() draws them with Graphviz.

It reads the graph through ``_prev`` and ``_op``, as any user could, and changes nothing. It does
not lay out or render: the graphviz package (extra ``viz``) does that. A picture that needs no
package at all is in ``mingrad/examples/picture.py``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..engine import Variable

if TYPE_CHECKING:
    from graphviz import Digraph

__all__ = ["trace", "draw_dot"]

RANKDIRS = ("LR", "TB", "RL", "BT")

# What a record label would read as its own syntax. An ampersand would start an HTML entity.
DOT_ESCAPES = {
    "\\": r"\\",
    "{": r"\{",
    "}": r"\}",
    "|": r"\|",
    "<": r"\<",
    ">": r"\>",
    "\n": r"\n",
    "&": "&amp;",
}


def trace(root: Variable) -> tuple[list[Variable], list[tuple[Variable, Variable]]]:
    """Return ``(nodes, edges)`` of the graph that ends in ``root``.

    nodes: every node that root reaches, once, operands before the nodes that use them, root last.
    edges: pairs (operand, node), those of one node together and in operand order; an operand that
    is used twice, as in ``x * x``, has two edges.

    Raises TypeError if root is not a Variable. Any depth is fine: nothing recurses.

    >>> from mingrad import Variable
    >>> x = Variable(3.0, label="x")
    >>> nodes, edges = trace(x * x)
    >>> [node._op or node.label for node in nodes], len(edges)
    (['x', '*'], 2)
    """
    if not isinstance(root, Variable):
        raise TypeError(
            f"trace() expects the Variable that a graph ends in, got {type(root).__name__}: pass the result, such as the loss"
        )
    found = walk(root, sys.maxsize)
    assert found is not None
    return found


def walk(root: Variable, limit: int) -> tuple[list[Variable], list[tuple[Variable, Variable]]] | None:
    """What trace() returns; None if there are more than limit nodes, of which no more are read."""
    # `_prev` is read once a node: every reading of it makes new objects for constants. The entries
    # keep the nodes alive, so an id stays one node's.
    operands_of = {id(root): root._prev}
    nodes: list[Variable] = []
    path = [(root, iter(operands_of[id(root)]))]
    while path:
        node, unvisited = path[-1]
        for operand in unvisited:
            if id(operand) not in operands_of:
                if len(operands_of) >= limit:
                    return None
                operands_of[id(operand)] = operand._prev
                path.append((operand, iter(operands_of[id(operand)])))
                break
        else:
            path.pop()
            nodes.append(node)
    edges = [(operand, node) for node in nodes for operand in operands_of[id(node)]]
    return nodes, edges


def draw_dot(root: Variable, format: str = "svg", rankdir: str = "LR") -> Digraph:
    """Return the graph that ends in ``root`` as a ``graphviz.Digraph``; a notebook shows it inline.

    root: a Variable. format: a Graphviz output format, such as "svg" or "png". rankdir: where the
    graph runs, "LR" (left to right), "TB" (top to bottom), "RL" or "BT".

    A node is a box with its label, if it has one, its data and its grad. An operation is an oval
    before its result. ``draw_dot(z).render("z")`` writes a file, for which Graphviz's own program
    ``dot`` must be installed; ``draw_dot(z).source`` needs no program.

    Raises ImportError if the graphviz package is missing, TypeError if root is not a Variable,
    ValueError for an unknown format or rankdir.
    """
    try:
        from graphviz import Digraph
    except ImportError as error:
        raise ImportError(
            "draw_dot() needs the Python package graphviz, which the extra mingrad[viz] adds: python -m pip install graphviz"
        ) from error
    if rankdir not in RANKDIRS:
        raise ValueError(f"rankdir must be one of {', '.join(RANKDIRS)}, got {rankdir!r}")

    nodes, edges = trace(root)
    dot = Digraph(format=format, graph_attr={"rankdir": rankdir})
    # Numbered names, not addresses: the same graph gives the same source in every run.
    names = {id(node): f"n{number}" for number, node in enumerate(nodes)}
    for node in nodes:
        name = names[id(node)]
        cells = [f"data {node.data:.4f}", f"grad {node.grad:.4f}"]
        if node.label:
            cells.insert(0, _escaped(node.label))
        dot.node(name, label="{ " + " | ".join(cells) + " }", shape="record")
        if node._op:
            dot.node(f"{name}op", label=_escaped(node._op))
            dot.edge(f"{name}op", name)
    for operand, node in edges:
        dot.edge(names[id(operand)], f"{names[id(node)]}op")
    return dot


def _escaped(text: str) -> str:
    """Return text so that DOT prints it as it stands. (The package escapes the double quotes.)"""
    return "".join(DOT_ESCAPES.get(c, c if c.isprintable() else "\N{REPLACEMENT CHARACTER}") for c in text)
