"""The chain rule step by step, for people who learn it: backward_steps() and explain().

Nothing here computes a derivative. Partials are the core's, which gives a graph as data
(csrc/derive.pxi); the formulas that explain() writes are the op table's own texts. Done here: to
walk, to choose the branch of a formula that was taken, and to put names and numbers into it. No
``.grad`` changes.
"""

import ast
import operator
import re
import textwrap
from functools import cache
from itertools import count
from math import isfinite
from typing import NamedTuple

from . import _core
from .engine import Variable, VariableList, errstate

__all__ = ["BackwardStep", "backward_steps", "explain"]

_WIDTH = 100  # columns of explain()'s text


# -- a backward pass, one addition at a time -------------------------------------------------------


class BackwardStep(tuple):
    """One addition of a backward pass. It unpacks into ``(node, contribution)``.

    node: the Variable that receives. contribution: what is added to its adjoint. total: node's
    adjoint after that. user: the Variable whose row gives it; None in the first step, which starts
    the pass. adjoint: the user's adjoint, final by then. partial: d user / d node at this place.
    place: which of the user's operands node is, counted from 0; None in the first step.

    contribution = adjoint * partial. A custom function has no partials, only a rule that gives the
    contributions of all its results at once: there partial is None, and user the last result.

    >>> from mingrad import Variable
    >>> from mingrad.steps import backward_steps
    >>> x = Variable(3.0)
    >>> start, first, second = backward_steps(x * x)
    >>> second.adjoint, second.partial, second.contribution, second.total
    (1.0, 3.0, 3.0, 6.0)
    """

    def __new__(cls, node, contribution, user, adjoint, partial, place, total):
        step = super().__new__(cls, (node, contribution))
        step.user = user
        step.adjoint = adjoint
        step.partial = partial
        step.place = place
        step.total = total
        return step

    node = property(operator.itemgetter(0), doc="The Variable that receives.")
    contribution = property(operator.itemgetter(1), doc="What is added to the node's adjoint.")

    def __getnewargs__(self):
        return (*self, self.user, self.adjoint, self.partial, self.place, self.total)

    def __repr__(self):
        return (
            f"BackwardStep(node={self.node!r}, contribution={self.contribution!r}, "
            f"user={self.user!r}, adjoint={self.adjoint!r}, partial={self.partial!r}, "
            f"place={self.place!r}, total={self.total!r})"
        )


def backward_steps(v):
    """The backward pass of a Variable, one addition at a time, in the order of ``backward()``.

    v: the Variable that a graph ends in. Gives an iterator of :class:`BackwardStep`, each of which
    unpacks into a node and the contribution that it receives; the first starts the pass with
    (v, 1.0). Nodes that ask for no gradient have no step. Also a method: ``v.backward_steps()``.

    What a node has received in the end is its adjoint, to the bit what ``backward()`` gives it;
    only where dense layers are in the graph the last bits may differ, since ``backward()`` adds up
    their contributions in another order. Hooks are not called. The graph is written down at the
    call, half a kilobyte for each node; steps are made when they are asked for.

    Raises RuntimeError as ``backward()`` does: if v requires no gradient, or if a leaf was written
    after it had been used; TypeError if v is no Variable.

    >>> from mingrad import Variable
    >>> from mingrad.steps import backward_steps
    >>> x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
    >>> z = x * y + x
    >>> for node, contribution in backward_steps(z):
    ...     print(node.label or node._op, contribution)
    + 1.0
    * 1.0
    x 1.0
    x 3.0
    y 2.0
    """
    return _steps(_graph("backward_steps", v))


def _graph(what, v):
    """The graph that v ends in, as _core._graph() gives it. Refuses what has no backward pass."""
    if not isinstance(v, Variable):
        raise TypeError(
            f"{what}: expected the Variable that a graph ends in, got {type(v).__name__}: pass the result, such as the loss"
        )
    if not v.requires_grad:
        v.backward()  # raises, and says why
    return _core._graph([v])


def _steps(graph):
    totals = [0.0] * len(graph)
    totals[-1] = 1.0
    yield BackwardStep(graph[-1][0], 1.0, None, 1.0, 1.0, None, 1.0)
    number = len(graph)
    while number:
        number -= 1
        user, name, operands, call, _, partials = graph[number]
        adjoint = totals[number]
        if name == "custom":
            results = _results_of_call(graph, number)
            given = _call_gives(graph, results, totals)
            number = results[-1]
        for place in _order(name, operands):
            k = operands[place]
            node = graph[k][0]
            if not node.requires_grad:
                continue
            partial = None if name == "custom" else partials[place]
            contribution = given[place] if name == "custom" else adjoint * partial
            totals[k] += contribution
            yield BackwardStep(node, contribution, user, adjoint, partial, place, totals[k])


def _results_of_call(graph, number):
    """The places of the results of a custom function's call, from its last one down."""
    results = [number]
    while number and graph[number - 1][1] == "custom" and graph[number - 1][3] is graph[number][3]:
        number -= 1
        results.append(number)
    return results


def _call_gives(graph, results, adjoints):
    """What the operands of a custom function's call receive from all its results together."""
    call = graph[results[0]][3]
    cotangents = [0.0] * call.count
    for k in results:
        cotangents[graph[k][4]] = adjoints[k]
    return call.vjp(cotangents, None)


def _order(name, operands):
    """The places of a row's operands in the order in which backward() adds to them."""
    places = range(len(operands))
    half = len(operands) // 2
    if name == "dot" and not (_is_run(operands[:half]) and _is_run(operands[half:])):
        return [place for pair in zip(places[:half], places[half:]) for place in pair]
    return places


def _is_run(operands):
    """Do these nodes follow each other? Then the core adds to all of them in one go."""
    return operands == tuple(range(operands[0], operands[0] + len(operands)))


# -- formulas --------------------------------------------------------------------------------------
#
# A formula of the table becomes a tree of atoms and calls without choices: where() is decided by
# the numbers at hand. Functions below recurse over a formula, whose depth the table bounds, never
# over a graph.


class _Atom(NamedTuple):
    """A name in a formula; or, without one, a number that belongs to the formula."""

    name: str | None
    value: float


class _Call(NamedTuple):
    """A function, or an operator as Python writes it; 'neg' is the one with one operand."""

    function: str
    parts: tuple


_ONE = _Atom(None, 1.0)
_SYMBOLS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_ORDERS = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
_OPERATORS = {
    "neg": operator.neg,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "neg": 3, "**": 4}
_TIGHTEST = 5


@cache
def _table():
    """The op table: its rows by name, how each function in a formula is written, and what functions
    and constants mean that are no rows."""
    rows = {row["name"]: row for row in _core._ops()}
    written = {}
    for row in rows.values():
        name = row["name"].lstrip("_")
        for spelling in (name, row["alias"]):
            written[spelling] = name if row["symbol"].isidentifier() else row["symbol"]
    return rows, written, _core._meanings()


@cache
def _parsed(text):
    return ast.parse(text.strip(), mode="eval").body


def _tree(node, known, decide=None):
    """A formula's syntax tree as atoms and calls. known: what its names stand for. decide: which side of a where() to take,
    from an ast comparison's type and the trees of its sides; by default the numbers at hand say it."""
    if isinstance(node, ast.Constant):
        return _Atom(None, float(node.value))
    if isinstance(node, ast.Name):
        if node.id in known:
            return known[node.id]
        return _Atom(None, float(_table()[2][node.id][1]))
    if isinstance(node, ast.Subscript):
        return known["xs"][int(known["k"].value)]
    if isinstance(node, ast.UnaryOp):
        return _call("neg", _tree(node.operand, known, decide))
    if isinstance(node, ast.BinOp):
        return _call(_SYMBOLS[type(node.op)], _tree(node.left, known, decide), _tree(node.right, known, decide))
    function = node.func.id
    if function == "where":
        condition, then, otherwise = node.args
        order = type(condition.ops[0])
        sides = [_tree(side, known, decide) for side in (condition.left, condition.comparators[0])]
        return _tree(then if (decide or _holds)(order, sides) else otherwise, known, decide)
    if function.startswith("k_"):
        return _over(function[2:], known)
    parts = [_tree(argument, known, decide) for argument in node.args]
    _, written, meanings = _table()
    if function in meanings:
        parameters, text = meanings[function]
        return _tree(_parsed(text), dict(zip(parameters.split(", "), parts)), decide)
    return _call(written[function], *parts)


def _holds(order, sides):
    return _ORDERS[order](*map(_value, sides))


def _over(function, known):
    """A function of all operands of a row, k_max(xs, n) for example, as an atom."""
    values = [x.value for x in known["xs"]]
    if function == "count":  # how many are equal to y
        return _Atom(None, float(values.count(known["y"].value)))
    with errstate(all="ignore"):
        return _Atom(f"{function}({known['list']})", getattr(_core, function)(values))


def _value(tree):
    """The number that a tree stands for, computed by the core."""
    if isinstance(tree, _Atom):
        return tree.value
    values = [Variable(_value(part), requires_grad=False) for part in tree.parts]
    with errstate(all="ignore"):
        return (_OPERATORS.get(tree.function) or getattr(_core, tree.function))(*values).data


def _call(function, *parts):
    """A call as a tree, without what a number makes trivial: 1 * x, 0 + x, x**1, 3 - 1."""
    numbers = [x.value if isinstance(x, _Atom) and x.name is None else None for x in parts]
    first, last = numbers[0], numbers[-1]
    if function == "neg" and first is not None:
        return _Atom(None, -first)
    if function in ("+", "-", "*") and None not in numbers:
        return _Atom(None, _OPERATORS[function](first, last))
    if (function in ("*", "/", "**") and last == 1) or (function in ("+", "-") and last == 0):
        return parts[0]
    if (function == "*" and first == 1) or (function == "+" and first == 0):
        return parts[1]
    if (function == "*" and first == -1) or (function == "-" and first == 0):
        return _Call("neg", parts[1:])
    if function == "**" and last == 0:
        return _ONE
    if function == "*" and (first == 0 or last == 0) and all(isfinite(_value(x)) for x in parts):
        return _Atom(None, 0.0)
    return _Call(function, parts)


def _joined(operation, parts):
    """A sum or a product of any number of parts, which does not nest however many they are."""
    return _Call(operation, tuple(parts)) if len(parts) > 1 else parts[0]


def _text(tree, atom_text, binding=0):
    """A tree as Python would write it, in brackets if it binds less than that."""
    if isinstance(tree, _Atom):
        text = atom_text(tree)
        own = _BINDING["neg"] if text.startswith("-") else _TIGHTEST
    elif tree.function == "neg":
        own = _BINDING["neg"]
        text = "-" + _text(tree.parts[0], atom_text, own + 1)
    elif tree.function in _BINDING:
        own = _BINDING[tree.function]
        power = tree.function == "**"
        text = _text(tree.parts[0], atom_text, own + power)
        for part in tree.parts[1:]:
            right = _text(part, atom_text, _BINDING["neg"] if power else own + 1)
            if right.startswith("-") and not power:
                right = f"({right})"
            text += f"**{right}" if power else f" {tree.function} {right}"
    else:
        own = _TIGHTEST
        text = f"{tree.function}({', '.join(_text(part, atom_text) for part in tree.parts)})"
    return f"({text})" if own < binding else text


# -- the chain rule as text ------------------------------------------------------------------------


def explain(v, /, *, max_nodes=50, digits=6, **names):
    """The chain rule for a small graph, written out with its numbers: a text to print.

    v: the Variable that the graph ends in. max_nodes: how large a graph may be. digits: significant
    digits of numbers, 1 to 17. names: what Variables are to be called, ``explain(z, x=x, w=w)``;
    under one name also a list of Variables, called w[0], w[1], ..., and lists of such. Without a
    name here a Variable goes by its label; other leaves are x1, x2, ..., constants their number and
    results v1, v2, ... in order of creation.

    First the forward pass, each node from its operands. Then the backward pass from v down: each
    node's adjoint as the sum of what it has received, and for each operand the local derivative, a
    formula of the op table with names and then numbers in it, times that adjoint: what the operand
    receives. In the end the gradients of the leaves. No ``.grad`` changes and no hook is called.

    Raises ValueError for a graph of more than max_nodes, RuntimeError where ``backward()`` does,
    TypeError for what is no Variable.

    >>> import mingrad
    >>> x, y = mingrad.Variable(2.0), mingrad.Variable(3.0)
    >>> print(mingrad.explain(x**2 + y, x=x, y=y))
    forward: each node from its operands
      x  = 2.0
      y  = 3.0
      v1 = x**2   = 4.0
      v2 = v1 + y = 7.0
    <BLANKLINE>
    backward: adjoint * local derivative = contribution -> operand
      v2: adjoint 1.0 (the start)
        dv2/dv1 = 1.0                    1.0 * 1.0 = 1.0 -> v1
        dv2/dy = 1.0                     1.0 * 1.0 = 1.0 -> y
      v1: adjoint 1.0 (from v2)
        dv1/dx = 2 * x = 2 * 2.0 = 4.0   1.0 * 4.0 = 4.0 -> x
    <BLANKLINE>
    gradients: what backward() adds to .grad
      x: 4.0 (from v1)
      y: 1.0 (from v2)
    """
    _check_whole("max_nodes", max_nodes, None)
    _check_whole("digits", digits, 17)
    graph = _graph("explain", v)
    if len(graph) > max_nodes:
        raise ValueError(
            f"explain: the graph has {len(graph)} nodes, more than max_nodes={max_nodes}: explain "
            "a part of it (a result on the way, a smaller input), or give a larger max_nodes"
        )
    given = _given_names(names)
    writer = _Writer(graph, given, digits)
    return "\n".join([*writer.forward(), "", *writer.backward(), "", *writer.gradients()])


def _check_whole(what, number, most):
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"explain: expected {what} to be an int, got {number!r}")
    if number < 1 or (most is not None and number > most):
        wanted = "1 or more" if most is None else f"from 1 to {most}"
        raise ValueError(f"explain: expected {what} to be {wanted}, got {number}")


def _given_names(names):
    """What explain() was given under names, as {id: (Variable, name)}; the first name counts."""
    found = {}
    todo = list(names.items())[::-1]
    while todo:
        name, thing = todo.pop()
        if isinstance(thing, Variable):
            found.setdefault(id(thing), (thing, name))
        elif isinstance(thing, (list, tuple, VariableList)):
            todo += [(f"{name}[{k}]", item) for k, item in enumerate(thing)][::-1]
        elif hasattr(thing, "tolist"):
            todo.append((name, thing.tolist()))
        else:
            raise TypeError(
                f"explain: expected a Variable or a list of Variables under the name {name}, got {type(thing).__name__}"
            )
    return found


def _printable(name):
    """A name in one line of ASCII, short, and in brackets where it might be read as a formula."""
    text = ascii(name)[1:-1]
    if len(text) > 30:
        text = text[:27] + "..."
    return text if re.fullmatch(r"[A-Za-z_][\w.\[\]]*", text) else f"({text})"


class _Writer:
    """Writes the parts of explain()'s text for one graph. Nodes go by their places in the graph."""

    decide = None  # see _tree()

    def __init__(self, graph, given, digits):
        self.graph = graph
        self.digits = digits
        self.place = {id(row[0]): number for number, row in enumerate(graph)}
        self.received = [[] for _ in graph]  # of each node the steps that add to its adjoint
        self.gave = [[] for _ in graph]  # of each node the steps to write under it
        self.steps = list(_steps(graph))
        for step in self.steps:
            self.received[self.place[id(step.node)]].append(step)
            if step.user is not None:
                self.gave[self.users(step)[-1]].append(step)
        self.choose_names(given)

    def users(self, step):
        """The user of a step, or the results of the call that gave it, from the last one down."""
        number = self.place[id(step.user)]
        return [number] if step.partial is not None else _results_of_call(self.graph, number)

    def users_text(self, step):
        return " and ".join(self.names[number] for number in reversed(self.users(step)))

    # names and numbers

    @staticmethod
    def printable(name):
        return _printable(name)

    def choose_names(self, given):
        """self.names: of each node, None for a constant that has none. self.apart: names that were
        given to Variables which are not in the graph."""
        taken, self.apart, self.names = set(), [], [None] * len(self.graph)
        for v, name in given.values():
            name = self.unique(self.printable(name), taken)
            if id(v) in self.place:
                self.names[self.place[id(v)]] = name
            else:
                self.apart.append(name)
        for number, (v, *_) in enumerate(self.graph):
            if self.names[number] is None and v.label:
                self.names[number] = self.unique(self.printable(v.label), taken)
        leaves, results = (f"x{k}" for k in count(1)), (f"v{k}" for k in count(1))
        for number, (v, *_) in enumerate(self.graph):
            if self.names[number] is None and v.requires_grad:
                fresh = leaves if v.is_leaf else results
                self.names[number] = next(name for name in fresh if name not in taken)

    @staticmethod
    def unique(name, taken):
        """The name, or with a number behind it if there is another node of that name."""
        if name in taken:
            name = next(f"{name}_{k}" for k in count(2) if f"{name}_{k}" not in taken)
        taken.add(name)
        return name

    def number(self, x):
        """The shortest text of x rounded to so many digits."""
        return repr(float(f"{x:.{self.digits}g}"))

    def named(self, atom):
        """An atom by its name; numbers of a formula without '.0', unlike values: 2 * 3.0."""
        return atom.name or self.number(atom.value).removesuffix(".0")

    def listed(self, number, xs):
        """The operands of a node as a list."""
        return f"[{', '.join([self.named(x) for x in xs])}]"

    def filled_in(self, atom):
        return self.named(atom) if atom.name is None else self.number(atom.value)

    def signed(self, x):
        """A number behind an operator."""
        text = self.number(x)
        return f"({text})" if text.startswith("-") else text

    # formulas

    def atom(self, number):
        return _Atom(self.names[number], self.graph[number][0].data)

    def known(self, number):
        """What the names in the formulas of a row stand for: y, a, b; of a range y, xs, n, k, aux;
        list is not one of them, but the text of xs."""
        v, name, operands, constant, index, _ = self.graph[number]
        row = _table()[0][name]
        xs = [self.atom(k) for k in operands]
        known = {"y": self.atom(number)}
        if row["kind"] == "nary":
            known |= {"xs": xs, "n": _Atom(None, len(xs)), "k": _Atom(None, index)}
            known["list"] = self.listed(number, xs)
            known["aux"] = _tree(_parsed(row["aux"]), known, self.decide)
            return known
        if constant is not None:
            xs.insert(constant[0], _Atom(None, constant[1]))
        known |= zip("ab", xs)
        if row["kind"] == "linked":
            known["m"] = self.known(operands[1])["aux"]
        return known

    def formula(self, number):
        """How a node follows from its operands, as the parts of an equation."""
        v, name, operands, call, index, _ = self.graph[number]
        xs = [self.atom(k) for k in operands]
        half = len(xs) // 2
        if name == "dot":
            first, second = (", ".join(map(self.named, part)) for part in (xs[:half], xs[half:]))
            return [f"dot([{first}], [{second}])"]
        if name in ("affine", "linear"):
            terms = [_call("*", w, x) for x, w in zip(xs[:half], xs[half:])] + xs[2 * half :]
            return [self.text(_joined("+", terms))]
        if name == "custom":
            chosen = f"[{index}]" if call.count > 1 else ""
            return [f"{_printable(v._op)}({', '.join(map(self.named, xs))}){chosen}"]
        row = _table()[0][name]
        called = row["symbol"] if name.startswith("_") else name
        known = self.known(number)
        value = _parsed(row["value"])
        if row["kind"] == "nary":
            chosen = f", {index}" if any(x.id == "k" for x in value.args) else ""
            return [f"{called}({known['list']}{chosen})"]
        text = self.text(_tree(value, known, self.decide))
        if row["kind"] == "linked" or not row["symbol"].isidentifier():
            return [text]
        call = self.text(_Call(called, tuple(known[x] for x in "ab" if x in known)))
        return [call] if call == text else [call, text]

    def local(self, number, place, known):
        """The formula of a node's local derivative by the operand at a place, as a tree."""
        _, name, operands, constant, _, _ = self.graph[number]
        half = len(operands) // 2
        if name == "prod":
            others = [self.atom(k) for k in operands[:place] + operands[place + 1 :]]
            return _joined("*", others) if others else _ONE
        if name in ("dot", "affine", "linear"):
            if place == 2 * half:
                return _ONE
            return self.atom(operands[place + half if place < half else place - half])
        row = _table()[0][name]
        if row["kind"] == "nary":
            known = known | {"x": known["xs"][place], "i": _Atom(None, place)}
        second = (place == 1 and row["kind"] != "nary") or (constant is not None and constant[0] == 0)
        return _tree(_parsed(row["db" if second else "da"]), known, self.decide)

    def text(self, tree):
        return _text(tree, self.named)

    # the parts of the text

    def forward(self):
        rows = []
        for number, (v, name, *_) in enumerate(self.graph):
            if name != "leaf":
                rows.append((self.names[number], self.formula(number), f"= {self.number(v.data)}"))
            elif self.names[number] is not None:
                constant = "" if v.requires_grad else "(a constant)"
                rows.append((self.names[number], [self.number(v.data)], constant))
        width = max(len(name) for name, _, _ in rows)
        rows = [(name.ljust(width), *rest) for name, *rest in rows]
        lines = [line for block in _columns(rows, "  ", 1) for line in block]
        return ["forward: each node from its operands", *lines]

    def backward(self):
        headings, rows = [], []
        for number in reversed(range(len(self.graph))):
            name = self.graph[number][1]
            if name != "leaf" or number == len(self.graph) - 1:
                headings.append((number, len(rows)))
                rows += self.contributions(number)
        blocks = _columns(rows, "    ", 3)
        lines = ["backward: adjoint * local derivative = contribution -> operand"]
        for number, first in headings:
            lines += self.sum(f"{self.names[number]}: adjoint ", self.received[number])
            for block in blocks[first : first + len(self.gave[number])]:
                lines += block
        return lines

    def gradients(self):
        lines = ["gradients: what backward() adds to .grad"]
        leaves = [k for k, row in enumerate(self.graph) if row[1] == "leaf" and self.received[k]]
        width = max(len(name) for name in [self.names[k] for k in leaves] + self.apart)
        for k in leaves:
            lines += self.sum(f"{self.names[k]}:".ljust(width + 2), self.received[k])
        root = self.names[-1]
        for name in self.apart:
            lines.append(f"  {f'{name}:'.ljust(width + 2)}0.0 ({root} does not depend on it)")
        return lines

    def sum(self, heading, steps):
        """Lines that say of what an adjoint is the sum."""
        text = self.number(steps[-1].total)
        if len(steps) > 1:
            first, *others = [step.contribution for step in steps]
            text = f"{' + '.join([self.number(first), *map(self.signed, others)])} = {text}"
        users = [self.users_text(step) for step in steps if step.user is not None]
        text += f" (from {', '.join(users)})" if users else " (the start)"
        return _wrapped(f"  {heading}", text)

    def contributions(self, number):
        """Rows for _columns(): local derivatives, and what the operands receive."""
        name, operands = self.graph[number][1:3]
        known = self.known(number) if name in _table()[0] else {}
        rows = []
        for step in self.gave[number]:
            operand = self.names[operands[step.place]]
            if name == "custom":
                rule = f"the rule of {_printable(step.user._op)} for {self.users_text(step)}"
                rows.append((rule, [], f"{self.number(step.contribution)} -> {operand}"))
                continue
            again = operands.count(operands[step.place]) > 1
            which = f" (operand {step.place + 1})" if again else ""
            tree = self.local(number, step.place, known)
            parts = [self.text(tree), _text(tree, self.filled_in), self.number(step.partial)]
            if isinstance(tree, _Atom) and tree.name is None:
                parts = parts[2:]
            product = f"{self.number(step.adjoint)} * {self.signed(step.partial)}"
            given = f"{product} = {self.number(step.contribution)} -> {operand}"
            rows.append((f"d{self.names[number]}/d{operand}{which}", _different(parts), given))
        return rows


def _different(parts):
    """Without those that say the same as the one before."""
    return [part for part, before in zip(parts, [None, *parts]) if part != before]


def _wrapped(heading, text):
    """A text behind a heading, in as many lines as it takes."""
    width = max(20, _WIDTH - len(heading))  # long names have to be somewhere
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    margin = " " * len(heading)
    return [(margin if k else heading) + line for k, line in enumerate(lines)]


def _columns(rows, indent, gap):
    """Rows (left, parts of an equation, right) as blocks of lines, the right sides in one column.
    An equation that leaves no room for it is broken before its equals signs."""
    room = _WIDTH - gap - max((len(right) for _, _, right in rows), default=0)
    blocks = []
    for left, parts, _ in rows:
        left = indent + left
        lines = [" = ".join([left, *parts])]
        if len(lines[0]) > room:
            margin = " " * len(left)
            lines = []
            for part in parts:
                lines += _wrapped(f"{margin} = " if lines else f"{left} = ", part)
            if len(lines[-1]) > room:
                lines.append(margin)
        blocks.append(lines)
    column = max((len(lines[-1]) for lines in blocks), default=0) + gap
    for lines, (_, _, right) in zip(blocks, rows):
        lines[-1] = (lines[-1].ljust(column) + right).rstrip()
    return blocks
