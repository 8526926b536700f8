"""A graph as boxes and edges, ready to be drawn: what SVG, DOT, HTML, text and the explorer have in common.

picture() reads the graph through Variable's public face, groups the neurons of a layer into one box, and writes the
lines that a box shows. It lays out nothing (``_layout.py``) and draws nothing (``drawing.py``, ``explorer.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any

from ..engine import Variable
from ..nn import Module
from .dot import DOT_ESCAPES, walk
from .text import gradient

__all__ = [
    "MAX_NODES",
    "SHADES",
    "Box",
    "Picture",
    "dot_text",
    "gradient",
    "gradient_shade",
    "number",
    "picture",
    "printable",
    "xml_text",
]

MAX_NODES = 300  # boxes in a picture
MAX_READ = 100_000  # nodes that are looked at for one picture: a layer of many becomes one box

# How large a gradient is, beside the largest of the picture: class, fill in light, fill in dark, what the legend says.
SHADES = (
    ("g0", "#ffffff", "#21262d", "0"),
    ("g1", "#fff6e5", "#33291a", "< 1 %"),
    ("g2", "#ffe3b8", "#4d3813", "< 10 %"),
    ("g3", "#ffcb80", "#704b0a", "< 50 %"),
    ("g4", "#ffab52", "#955a05", "more"),
    ("gx", "#ffc9d2", "#7d1f35", "inf, nan"),
)
SHADE_LIMITS = (("g1", 0.01), ("g2", 0.1), ("g3", 0.5))  # below this part of the largest

# The result of these is the same whatever the order of operands; of all others a picture says which operand is which.
ANY_ORDER = {"+", "*", "max", "min", "hypot", "sum", "mean", "prod", "logsumexp", "norm", "squared_error", "absolute_error"}
MANY = 4  # operands from which on their places are not written beside the edges

NUMBERS = {"+", "*", "leaky_relu", "elu"}  # in a neuron, a plain number that one of these reads is part of it
WEIGHTED = {"*", "affine", "dot"}  # what these take from a neuron is its result, on its way to the next layer
FUSED = {"affine", "dot"}  # a node of these with parameters of its own is a neuron, also when it is alone


@dataclass
class Box:
    """One box of a picture: a node, or a layer of them."""

    id: int  # its place in Picture.boxes: operands before users
    kind: str  # "leaf", "constant", "op" or "layer"
    op: str  # as Variable._op says; of a layer those of a neuron, "affine, ReLU"; "" for leaves
    label: str  # the Variable's, or the parameter's or module's name in the model; as it is, not escaped
    value: float | None  # None for a layer
    grad: float | None  # None for a constant; of a layer the largest in size
    nodes: list[Variable]  # what it stands for, operands before users; one unless it is a layer
    lines: list[str]  # the text in it, from top to bottom; not escaped
    key: str  # the same however much is expanded: "n12", or of a layer "layer1" or its name in the model


@dataclass
class Picture:
    """Boxes, operands before users, and the edges between them."""

    boxes: list[Box]
    edges: list[tuple[int, int, int]]  # from box, to box, how many operands that is: 2 for x * x
    places: dict[tuple[int, int], list[int]]  # of an edge whose operand's place matters: 1 is the left one of a - b
    root: int  # the box that the graph ends in
    largest: float  # gradient in size; shades are relative to it
    nodes: int  # of the graph, those inside layers too
    layers: list[str]  # keys of all layers, those too that are expanded


def picture(
    root: Variable, *, model: Module | None = None, expand: bool | Iterable[str] = (), max_nodes: int = MAX_NODES
) -> Picture:
    """Return the graph that ends in root as a Picture; it changes nothing.

    root: a Variable. model: a module whose names its parameters and layers get. expand: True for every layer, or keys
    of layers that are to be drawn neuron by neuron. max_nodes: how many boxes there may be.

    Neurons are one layer if they do the same with the same inputs, each with parameters that no other node reads (or,
    with model, that are the model's).

    Raises TypeError if root is not a Variable or model not a Module, ValueError for a key that no layer has and if the
    picture would be too large.
    """
    if not isinstance(root, Variable):
        raise TypeError(
            f"expected the Variable that a graph ends in, got {type(root).__name__}: pass the result, such as the loss"
        )
    if model is not None and not isinstance(model, Module):
        raise TypeError(f"model: expected a mingrad.nn.Module, got {type(model).__name__}")
    if isinstance(expand, str):
        expand = (expand,)
    nodes, operands = _read(root)
    names = {} if model is None else {id(parameter): name for name, parameter in model.named_parameters()}
    layers = _layers(nodes, operands, model, names)
    keys = list(layers)
    if isinstance(expand, bool):
        opened = set(keys) if expand else set()
    else:
        opened = set(expand)
        if unknown := sorted(map(str, opened.difference(keys))):
            raise ValueError(
                f"expand: no layer {', '.join(map(repr, unknown))}; this graph has {', '.join(keys) or 'no layers'}"
            )

    inside: dict[int, str] = {}  # the layer of each node that is in a box with others
    for key, members in layers.items():
        if key not in opened:
            inside.update(dict.fromkeys(members, key))
    groups: dict[int | str, list[int]] = {}
    for node in range(len(nodes)):
        groups.setdefault(inside.get(node, node), []).append(node)
    if len(groups) > max_nodes:
        raise ValueError(_too_large(f"{len(groups):,} boxes", max_nodes, bool(opened)))

    # An operand inside a layer that is a leaf is a parameter that several layers share: no edge leads out to the others.
    edges_of: dict[int | str, dict[int | str, list[int]]] = {group: {} for group in groups}
    for node, its_operands in enumerate(operands):
        group = inside.get(node, node)
        for place, operand in enumerate(its_operands, 1):
            source = inside.get(operand, operand)
            if source != group and not (isinstance(source, str) and not operands[operand]):
                edges_of[group].setdefault(source, []).append(place)
    order = _ordered(edges_of, groups)
    ids = {group: number for number, group in enumerate(order)}
    boxes = [
        _layer_box(ids[group], group, groups[group], nodes, operands)
        if isinstance(group, str)
        else _box(ids[group], nodes[group], f"n{group}", names.get(id(nodes[group]), ""))
        for group in order
    ]
    edges, places = [], {}
    for group in order:
        for source, its_places in edges_of[group].items():
            edges.append((ids[source], ids[group], len(its_places)))
            if isinstance(group, int) and nodes[group]._op not in ANY_ORDER and 1 < len(operands[group]) <= MANY:
                places[ids[source], ids[group]] = its_places
    largest = max((abs(box.grad) for box in boxes if box.grad is not None and math.isfinite(box.grad)), default=0.0)
    root_box = ids[inside.get(len(nodes) - 1, len(nodes) - 1)]
    return Picture(boxes, edges, places, root_box, largest, len(nodes), list(layers))


# -- reading a graph -------------------------------------------------------------------------------


def _read(root: Variable) -> tuple[list[Variable], list[list[int]]]:
    """Return the nodes that root reaches, operands first, root last, and the numbers of each one's operands."""
    read = walk(root, MAX_READ)
    if read is None:
        raise ValueError(_too_large(f"more than {MAX_READ:,} nodes", MAX_READ, False))
    nodes, edges = read
    number_of = {id(node): number for number, node in enumerate(nodes)}
    operands: list[list[int]] = [[] for _ in nodes]
    for operand, node in edges:
        operands[number_of[id(node)]].append(number_of[id(operand)])
    return nodes, operands


def _layers(
    nodes: list[Variable], operands: list[list[int]], model: Module | None, names: dict[int, str]
) -> dict[str, list[int]]:
    """Return the nodes of each layer, in order, under the layer's key; names: of model's parameters, by id.

    A node has a form: its op and, for each operand, which node it is, or only "a parameter of its own", or the form of
    a node that nothing else reads. Nodes of one form do the same with the same inputs: they are neurons of one layer,
    and what nothing else reads lies inside them. What has a label is shown, and so in no layer.
    """
    users: list[set[int]] = [set() for _ in nodes]
    for k, its_operands in enumerate(operands):
        for operand in its_operands:
            users[operand].add(k)
    form_of: list[int] = []
    numbers: dict[object, int] = {}  # of forms
    parameters, inputs = [0] * len(nodes), [0] * len(nodes)  # inside the form of each node, and read by it
    alike: dict[int, list[int]] = {}
    own = [
        id(node) in names or (node.requires_grad and not its_operands and not node.label and len(users[k]) == 1)
        for k, (node, its_operands) in enumerate(zip(nodes, operands))
    ]
    alone = [len(users[k]) == 1 and not node.label for k, node in enumerate(nodes)]
    for k, (node, its_operands) in enumerate(zip(nodes, operands)):
        form: list[object] = [node._op]
        for operand in its_operands:
            if own[operand]:
                form.append("parameter")
                parameters[k] += 1
            elif alone[operand] and operands[operand] and not (node._op in WEIGHTED and parameters[operand]):
                form.append(("form", form_of[operand]))
                parameters[k] += parameters[operand]
                inputs[k] += inputs[operand]
            elif alone[operand] and node._op in NUMBERS:
                form.append(("number", nodes[operand].data.hex()))
                inputs[k] += node._op == "*"
            else:
                form.append(operand)
                inputs[k] += 1
        form_of.append(numbers.setdefault(tuple(form), len(numbers)) if its_operands and not node.label else -1)
        alike.setdefault(form_of[k], []).append(k)

    def is_neuron(k: int) -> bool:
        if form_of[k] < 0 or not parameters[k] or not inputs[k]:
            return False
        return nodes[k]._op in FUSED or (parameters[k] > 1 and len(alike[form_of[k]]) > 1)

    # From the end on: a neuron takes in what only it reads. One that is alone in its layer takes in its parameters only.
    layer_of: dict[int, int] = {}
    for k in reversed(range(len(nodes))):
        user = min(users[k]) if alone[k] else k
        if user in layer_of and len(alike[form_of[user]]) > 1 and (operands[k] or nodes[user]._op in NUMBERS):
            layer_of[k] = layer_of[user]
        elif is_neuron(k):
            layer_of[k] = form_of[k]
    for k in range(len(nodes)):
        if own[k] and users[k] and all(user in layer_of for user in users[k]):
            layer_of[k] = layer_of[min(users[k])]

    members: dict[int, list[int]] = {}
    for k in sorted(layer_of):
        members.setdefault(layer_of[k], []).append(k)
    layers: dict[str, list[int]] = {}
    times: dict[str, int] = {}  # that a name has been given: a model's layer is there once for each sample of a batch
    for inner in sorted(members.values(), key=lambda inner: inner[-1]):
        read = sorted({operand for k in inner for operand in operands[k] if id(nodes[operand]) in names})
        name = _module_name(model, [names[id(nodes[k])] for k in read]) or f"layer{len(layers) + 1}"
        times[name] = times.get(name, 0) + 1
        key = name if times[name] == 1 else f"{name} ({times[name]})"
        while key in layers:  # modules may have any name, such as "layer2" or "a (2)"
            key += "'"
        layers[key] = inner
    return layers


def _module_name(model: Module | None, names: list[str]) -> str:
    """Return the path of the innermost module that has all the parameters of these names; "" if there is none."""
    inner: Any = model
    path, found = [], ""
    for parts in zip(*(name.split(".") for name in names)):
        if len(set(parts)) > 1:
            break
        path.append(parts[0])
        if isinstance(inner, Module):
            inner = vars(inner)[parts[0]]
        elif isinstance(inner, dict):
            inner = next(value for key, value in inner.items() if str(key) == parts[0])
        else:
            inner = inner[int(parts[0])]
        if isinstance(inner, Module):
            found = ".".join(path)
    return found


def _ordered(edges_of: dict[int | str, dict[int | str, list[int]]], groups: dict[int | str, list[int]]) -> list[int | str]:
    """Return the groups, each after those that it has an edge from, and else in the order of their last nodes."""
    waits_for = {group: len(sources) for group, sources in edges_of.items()}
    users: dict[int | str, list[int | str]] = {group: [] for group in groups}
    for group, sources in edges_of.items():
        for source in sources:
            users[source].append(group)
    group_at = {inner[-1]: group for group, inner in groups.items()}
    ready = [inner[-1] for group, inner in groups.items() if not waits_for[group]]
    heapify(ready)
    order = []
    while ready:
        group = group_at[heappop(ready)]
        order.append(group)
        for user in users[group]:
            waits_for[user] -= 1
            if not waits_for[user]:
                heappush(ready, groups[user][-1])
    return order


# -- boxes -----------------------------------------------------------------------------------------


def _box(id: int, node: Variable, key: str, name: str) -> Box:
    op, label, value = node._op, node.label or name, node.data
    kind = "op" if op else "leaf" if node.requires_grad else "constant"
    grad = gradient(node) if node.requires_grad else None
    title = f"{label}: {op}" if op and label else op or label
    lines = [title] if title else []
    lines.append(f"data {number(value)}")
    if grad is not None:
        lines.append(f"grad {number(grad)}")
    return Box(id, kind, op, label, value, grad, [node], lines, key)


def _layer_box(id: int, key: str, inner: list[int], nodes: list[Variable], operands: list[list[int]]) -> Box:
    """The box of a layer; inner: the numbers of its nodes."""
    read = {operand for k in inner for operand in operands[k]}
    ends = sum(1 for k in inner if operands[k] and k not in read)
    inside = [nodes[k] for k in inner]
    ops = ", ".join(dict.fromkeys(node._op for node in inside if node._op))
    parameters = sum(1 for node in inside if node.requires_grad and not node._op)
    grad = max((gradient(node) for node in inside), key=lambda grad: math.inf if math.isnan(grad) else abs(grad))
    lines = [key, f"{ends:,} neuron{'s' * (ends > 1)}: {ops}", f"|grad| up to {number(abs(grad))}"]
    if parameters:
        lines.insert(2, f"{parameters:,} parameter{'s' * (parameters > 1)}")
    return Box(id, "layer", ops, key, None, grad, inside, lines, key)


def number(value: float) -> str:
    """Return a value or gradient as pictures show it: four digits, or fewer."""
    return f"{value:.4g}"


def gradient_shade(grad: float | None, largest: float) -> str:
    """Return the class, one of those in SHADES, for a gradient beside the largest of its picture; "" for None."""
    if grad is None:
        return ""
    if not math.isfinite(grad):
        return "gx"
    if grad == 0.0 or largest == 0.0:
        return "g0"
    part = abs(grad) / largest
    return next((shade for shade, limit in SHADE_LIMITS if part < limit), "g4")


# -- texts that may hold anything ------------------------------------------------------------------


def xml_text(text: str) -> str:
    """Return text for SVG and HTML, in attributes too; what XML cannot hold becomes the replacement character."""
    for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(character, escape)
    return printable(text)


def dot_text(text: str) -> str:
    """Return text for a quoted string of DOT that is the label of a record."""
    return "".join('\\"' if c == '"' else DOT_ESCAPES.get(c, c) for c in printable(text))


def printable(text: str) -> str:
    """Return text in one line: each character that has no printed form becomes the replacement character."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\n", " "))


def _too_large(what: str, limit: int, opened: bool) -> str:
    cures = ["draw a part of it (an operand instead of the result, one sample instead of a batch)"]
    if limit != MAX_READ:
        cures.insert(0, "raise max_nodes=")
        if opened:
            cures.insert(0, "expand fewer layers")
    return (
        f"the graph is too large to draw: {what}, the limit is {limit:,}: {', '.join(cures)}, "
        "or print mingrad.visualize.tree(v)"
    )
