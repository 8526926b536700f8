"""profile(): which lines of a program record what, what passes and collections take, and which lines one node could replace.

Counting is done in the core (csrc/profile.pxi); here counters become lines, ops, totals, suggestions and texts.
"""

import os
from collections.abc import Callable, Iterable
from linecache import getline
from typing import Literal, NamedTuple, TypeAlias

from . import _core

__all__ = ["Line", "Op", "Suggestion", "Totals", "profile"]

_Frame: TypeAlias = tuple[str, int, str, bool]  # file, line, function, mingrad's own
_Stack: TypeAlias = tuple[_Frame, ...]
# What the core gives at the end of a block: block_data() in csrc/profile.pxi.
_Site: TypeAlias = tuple[
    _Stack, int, int, int, int, int, float, int, dict[str, tuple[int, int]], list[tuple[int, int, int, int, int]]
]
_Graph: TypeAlias = tuple[_Stack, int, int, int, int, int, _Stack, _Stack]

_FEW_CALLS = 16  # operations that so few calls have recorded are fused already: compile() would save little
_NANO = 1e-9


class Line(NamedTuple):
    """One line of the user's code: what it recorded, and what passes did with that.

    nodes: recorded, leaves included, whether or not they are still there. calls: calls into mingrad that recorded them. bytes:
    what they took of the tape. seconds: of recording. swept: how often a pass went over one of them. backward: seconds of passes.
    depth: of the deepest, operations on the longest way from a leaf. ops: nodes by operation. function: where it is. text: the
    line; "" if its source is not known.

    >>> import mingrad
    >>> from mingrad.profiler import Line
    >>> x = mingrad.Variable(2.0)
    >>> with mingrad.profile() as p:
    ...     y = x * x
    >>> isinstance(p.lines[0], Line), p.lines[0].nodes, p.lines[0].bytes, p.lines[0].ops
    (True, 1, 40, {'mul': 1})
    """

    file: str
    line: int
    function: str
    text: str
    nodes: int
    calls: int
    bytes: int
    seconds: float
    swept: int
    backward: float
    depth: int
    ops: dict[str, int]


class Op(NamedTuple):
    """One operation, by its name in the table of operations ('leaf', 'mul', 'dot', ...); fields as those of a Line. seconds: a
    line's time by nodes, where one instruction has recorded several operations.

    >>> import mingrad
    >>> x = mingrad.Variable(2.0)
    >>> with mingrad.profile() as p:
    ...     y = mingrad.sum([x, x, x * x, 1.0])
    >>> [(op.name, op.nodes, op.bytes) for op in p.ops]
    [('leaf', 1, 40), ('mul', 1, 40), ('sum', 1, 56)]
    """

    name: str
    nodes: int
    bytes: int
    seconds: float
    swept: int
    backward: float


class Totals(NamedTuple):
    """A whole block. seconds: from its beginning to its end; that is recording, backward, collecting and what is left of it,
    elsewhere. passes: backward passes, and walks of the transforms (grad, jvp, hessian, ...). swept: operations they went over.
    collections, full_collections, freed, collecting: of the tape's collector, how often, nodes, seconds. unlooked: nodes that were
    not looked at for suggestions, for want of memory.

    >>> import mingrad
    >>> x = mingrad.Variable(2.0)
    >>> with mingrad.profile() as p:
    ...     (x * x + x).backward()
    >>> p.totals.nodes, p.totals.depth, p.totals.passes, p.totals.swept, p.totals.collections
    (2, 2, 1, 2, 0)
    """

    nodes: int
    calls: int
    bytes: int
    depth: int
    passes: int
    swept: int
    collections: int
    full_collections: int
    freed: int
    seconds: float
    recording: float
    backward: float
    collecting: float
    elsewhere: float
    unlooked: int


class Suggestion(NamedTuple):
    """What would record less on a line. kind: 'dot', 'linear', 'sum' or 'compile'. nodes, bytes: what the line recorded for it;
    fewer_nodes, fewer_bytes: what would be recorded instead. text: all of it in a sentence; so is ``str()``.

    >>> import mingrad
    >>> ws, xs = ([mingrad.Variable(float(k)) for k in range(8)] for _ in range(2))
    >>> with mingrad.profile() as p:
    ...     y = sum(w * x for w, x in zip(ws, xs))
    >>> [(s.kind, s.nodes, s.fewer_nodes, s.bytes, s.fewer_bytes) for s in p.suggestions]
    [('dot', 15, 1, 600, 40)]
    """

    file: str
    line: int
    function: str
    kind: Literal["dot", "linear", "sum", "compile"]
    nodes: int
    fewer_nodes: int
    bytes: int
    fewer_bytes: int
    text: str

    def __str__(self) -> str:
        return f"{_base(self.file)}:{self.line}: {self.text}"


class _Place:
    """What is added up of a stack, a line or an operation."""

    __slots__ = ("nodes", "calls", "bytes", "seconds", "swept", "backward", "depth", "ops", "savings")

    def __init__(self) -> None:
        self.nodes = self.calls = self.bytes = self.swept = self.depth = 0
        self.seconds = self.backward = 0.0
        self.ops: dict[str, tuple[int, int]] = {}  # nodes and bytes
        self.savings = [(0, 0, 0, 0, 0)] * 3

    def add(self, other: "_Place") -> None:
        self.nodes += other.nodes
        self.calls += other.calls
        self.bytes += other.bytes
        self.seconds += other.seconds
        self.swept += other.swept
        self.backward += other.backward
        self.depth = max(self.depth, other.depth)
        for name, (nodes, size) in other.ops.items():
            before = self.ops.get(name, (0, 0))
            self.ops[name] = before[0] + nodes, before[1] + size
        self.savings = [
            (a + f, b + g, c + h, d + i, e + j) for (a, b, c, d, e), (f, g, h, i, j) in zip(self.savings, other.savings)
        ]


class profile(_core.Profile):
    """Context manager: inside, what this thread records is counted by line of your code, and what passes and collections take.

    After the block: ``print(p)`` or ``p.report()`` for a table, ``p.lines``, ``p.ops``, ``p.totals``, ``p.suggestions`` for the
    numbers, ``p.folded()`` and ``p.save_flamegraph(path)`` for flame graphs.

    What is counted: every node that is recorded, at the innermost line that is no code of mingrad's own (of ``mlp(x)`` that is your
    line, of ``sum(w * x for ...)`` the products are the generator's); its operation; its bytes on the tape: 40, and 4 for each
    operand that is listed beside it (those of sum(), dot() and their like that are no consecutive nodes). Variables as Python
    objects, and what the tape keeps to spare, are not in it. Operations in no_grad() make nodes too, constants. A compiled function
    records while its recording is made, and then one node for each result that has a gradient.

    How time is measured, all of it by the wall clock, so waiting for other threads is in it:

    * Recording: from when a call into mingrad begins to record to when the next one does, or a pass, or the block ends. So a
      line has the Python work behind its operations too, up to the next operation, wherever that is. An instruction that
      records often is timed each time at first and, if that takes less than 2 microseconds, later once in eight times, at random,
      for eight. Python work after a pass and before the next operation
      (optimizers, data) is ``totals.elsewhere``, and so is the profiler's own.
    * Backward: each pass is timed, and its time shared out by how many contributions each node gives, which is the number of its
      operands. Custom and compiled functions are timed by themselves. Hooks, and what a pass itself records
      (``create_graph=True``, nodes at the line of the call), count as the pass.
    * Collections of the tape are timed, and in no line's time.

    Recording takes up to five times as long inside; outside, nothing is different from before. Frames are looked at on the way from
    the block to the operation, 128 at most.

    Blocks may be inside each other; each counts by itself. One object may be used for several blocks, one after another: they add
    up. A block counts its own thread's operations and passes; collections are the tape's, whoever records. It may end in another
    thread or out of turn, as in generators. What raises in a block ends it as ever, with all that was counted.

    Suggestions are facts about what was recorded, never times: sums of products that :func:`dot` records as one node or
    ``nn.Linear`` as a node for each output, sums for :func:`sum`, and graphs that come again and again with the same operations,
    which :func:`compile` would record once. Sums are found by what finds them in recorded programs, where nothing else uses their
    parts; a sum is of the block in which it is finished.

    Raises RuntimeError if it is on already, or if asked for numbers before its end; RecordingError in a function that is being
    compiled.

    >>> import mingrad
    >>> ws, xs = ([mingrad.Variable(float(k)) for k in range(30)] for _ in range(2))
    >>> with mingrad.profile() as p:
    ...     y = sum(w * x for w, x in zip(ws, xs))
    ...     y.backward()
    >>> p.totals.nodes, p.totals.passes, p.totals.swept
    (59, 1, 59)
    >>> print(p.suggestions[0].text)
    59 nodes are a sum of products: mingrad.dot(ws, xs) would record 1
    """

    def __init__(self) -> None:
        self._numbers = [0] * 8
        self._by_op: dict[str, tuple[int, float]] = {}
        self._stacks: dict[_Stack, _Place] = {}
        self._graphs: dict[tuple[_Stack, int, int, int, int, _Stack, _Stack], int] = {}
        self._texts: dict[tuple[str, int], str] = {}

    def _add(
        self,
        numbers: list[int],
        by_op: dict[str, tuple[int, float]],
        sites: list[_Site],
        graphs: list[_Graph],
    ) -> None:
        """A block has ended."""
        self._numbers = [x + y for x, y in zip(self._numbers, numbers)]
        for name, (swept, time) in by_op.items():
            before = self._by_op.get(name, (0, 0.0))
            self._by_op[name] = before[0] + swept, before[1] + time
        for site in sites:
            place = _Place()
            stack, place.calls, place.nodes, place.bytes, recording, place.swept, backward, place.depth, place.ops, savings = (
                site
            )
            place.seconds, place.backward, place.savings = recording * _NANO, backward * _NANO, list(savings)
            self._stacks.setdefault(stack, _Place()).add(place)
            for file, line, _, _ in stack:
                if (file, line) not in self._texts:  # now: the file may be another one later
                    self._texts[file, line] = getline(file, line).strip()
        for where, passes, nodes, calls, size, fewer_size, common, first in graphs:
            key = (where, nodes, calls, size, fewer_size, common, first)
            self._graphs[key] = self._graphs.get(key, 0) + passes

    def _check(self) -> None:
        if self._running():
            raise RuntimeError("profile: the block is still on; ask for its numbers after it")

    @property
    def lines(self) -> list[Line]:
        """The lines of your code that recorded nodes or whose nodes a pass went over, as a list of Line, most nodes first.

        >>> import mingrad
        >>> x = mingrad.Variable(2.0)
        >>> with mingrad.profile() as p:
        ...     for _ in range(3):
        ...         y = x * x
        ...     z = y + 1
        >>> [(line.line, line.nodes) for line in p.lines]
        [(3, 3), (4, 1)]
        """
        self._check()
        places: dict[tuple[str, int], _Place] = {}
        functions: dict[tuple[str, int], str] = {}
        for stack, place in self._stacks.items():
            frame = _user_frame(stack)
            if frame is not None:
                key = frame[:2]
                places.setdefault(key, _Place()).add(place)
                if key not in functions or functions[key].startswith("<"):  # rather the function than its generator
                    functions[key] = frame[2]
        found = [
            Line(
                *key,
                functions[key],
                self._texts.get(key, ""),
                place.nodes,
                place.calls,
                place.bytes,
                place.seconds,
                place.swept,
                place.backward,
                place.depth,
                {name: nodes for name, (nodes, _) in sorted(place.ops.items(), key=lambda item: (-item[1][0], item[0]))},
            )
            for key, place in places.items()
        ]
        return sorted(found, key=lambda line: (-line.nodes, -line.swept, line.file, line.line))

    @property
    def ops(self) -> list[Op]:
        """The operations that were recorded or that passes went over, as a list of Op, most nodes first.

        >>> import mingrad
        >>> x = mingrad.Variable(2.0)
        >>> with mingrad.profile() as p:
        ...     y = (x * x + x).tanh() * x
        >>> [(op.name, op.nodes) for op in p.ops]
        [('mul', 2), ('add', 1), ('tanh', 1)]
        """
        self._check()
        total = _Place()
        seconds = dict.fromkeys(self._by_op, 0.0)
        for place in self._stacks.values():
            total.add(place)
            for name, (nodes, _) in place.ops.items():
                seconds[name] = seconds.get(name, 0.0) + place.seconds * nodes / place.nodes
        found = []
        for name, time in seconds.items():
            swept, backward = self._by_op.get(name, (0, 0.0))
            found.append(Op(name, *total.ops.get(name, (0, 0)), time, swept, backward * _NANO))
        return sorted(found, key=lambda op: (-op.nodes, -op.swept, op.name))

    @property
    def totals(self) -> Totals:
        """The whole, as Totals.

        >>> import mingrad
        >>> with mingrad.profile() as p:
        ...     before = mingrad.tape_info().recorded
        ...     x = mingrad.Variable(2.0)
        ...     y = x * x
        ...     after = mingrad.tape_info().recorded
        >>> p.totals.nodes == after - before
        True
        """
        self._check()
        total = _Place()
        for place in self._stacks.values():
            total.add(place)
        clock, passes, backward, collections, full, collecting, freed, unlooked = self._numbers
        whole, parts = clock * _NANO, (total.seconds, backward * _NANO, collecting * _NANO)
        return Totals(
            total.nodes,
            total.calls,
            total.bytes,
            total.depth,
            passes,
            total.swept,
            collections,
            full,
            freed,
            whole,
            *parts,
            max(0.0, whole - sum(parts)),
            unlooked,
        )

    @property
    def suggestions(self) -> list[Suggestion]:
        """What would record less, as a list of Suggestion, that which saves most nodes first. Several may be about the same nodes.

        >>> import mingrad
        >>> xs = [mingrad.Variable(float(k)) for k in range(8)]
        >>> with mingrad.profile() as p:
        ...     y = sum(x.tanh() for x in xs)
        >>> [str(suggestion) for suggestion in p.suggestions]  # doctest: +ELLIPSIS
        ['...:2: 7 nodes are a sum: mingrad.sum(xs) would record 1']
        """
        self._check()
        lines: dict[tuple[str, int], tuple[_Frame, _Place]] = {}
        for stack, place in self._stacks.items():
            frame = _user_frame(stack)
            if frame is not None:
                lines.setdefault(frame[:2], (frame, _Place()))[1].add(place)
        found = []
        for frame, place in lines.values():
            for kind, (sums, nodes, size, fewer, fewer_size) in zip(_SAVINGS, place.savings):
                if nodes:
                    what = _SAVINGS[kind][min(sums, 2) - 1].format(f"{sums:,}")
                    text = f"{nodes:,} nodes are {what} would record {fewer:,}"
                    found.append(Suggestion(*frame[:3], kind, nodes, fewer, size, fewer_size, text))
        found += self._compilable()
        return sorted(found, key=lambda s: (s.fewer_nodes - s.nodes, s.file, s.line))

    def _compilable(self) -> Iterable[Suggestion]:
        """Graphs of the same operations that several passes from one line went over, each for the first time."""
        for (where, nodes, calls, size, fewer_size, common, first), passes in self._graphs.items():
            frame = _user_frame(common) or _user_frame(where)
            if passes < 2 or calls < _FEW_CALLS or frame is None:
                continue
            inner = [function for _, _, function, ours in first[len(common) :] if not ours]
            name = "what computes them, as a function"
            if common and inner and not inner[0].startswith("<"):
                name = inner[0]
            again = passes - 1
            text = (
                f"{passes:,} passes go over the same {nodes:,} operations in the same order, each time recorded anew by {calls:,} "
                f"calls: {name}, compiled (mingrad.compile) would record 1 node by 1 call from the second time on"
            )
            yield Suggestion(*frame[:3], "compile", again * nodes, again, again * size, again * fewer_size, text)

    def report(
        self, sort: Literal["nodes", "bytes", "seconds", "backward", "swept", "depth"] = "nodes", limit: int | None = 25
    ) -> str:
        """A table of the lines, as text; ``print(p)`` shows the same. sort: the column that says which come first; limit: how many
        (None: all).

        >>> import mingrad
        >>> x = mingrad.Variable(2.0)
        >>> with mingrad.profile() as p:
        ...     (x * x).backward()
        >>> print(p.report().splitlines()[0])  # doctest: +ELLIPSIS
        profile of ... s: 1 node recorded by 1 call, 40 bytes of tape, depth 1
        """
        if sort not in _COLUMNS:
            raise ValueError(f"report: expected sort to be one of {', '.join(_COLUMNS)}, got {sort!r}")
        total = self.totals
        collections = f"{_count(total.collections, 'collection')}, {_count(total.freed, 'node')} freed"
        first = f"profile of {total.seconds:.3f} s: {_count(total.nodes, 'node')} recorded by {_count(total.calls, 'call')}, "
        first += f"{_count(total.bytes, 'byte')} of tape, depth {total.depth:,}"
        second = (
            f"recording {total.recording:.3f} s, backward {total.backward:.3f} s ({_count(total.passes, 'pass', 'es')} over "
        )
        second += f"{_count(total.swept, 'node')}), collecting {total.collecting:.3f} s ({collections}), "
        text = [first, second + f"elsewhere {total.elsewhere:.3f} s"]
        lines = sorted(self.lines, key=lambda line: -float(getattr(line, sort)))
        shown = lines[:limit]
        if shown:
            text += ["", *_table(shown, total.nodes)]
        if len(lines) > len(shown):
            text.append(f"and {_count(len(lines) - len(shown), 'line')} more: report(limit=None)")
        if self.ops:
            text += ["", "operations: " + ", ".join(f"{op.name} {op.nodes:,}" for op in self.ops if op.nodes)]
        if self.suggestions:
            text += ["", "what would record less:", *(f"  {suggestion}" for suggestion in self.suggestions)]
        if total.unlooked:
            text.append(f"({_count(total.unlooked, 'node')} not looked at for this, for want of memory)")
        return "\n".join(text)

    def __str__(self) -> str:
        return self.report()

    def __repr__(self) -> str:
        if self._running():
            return "<profile: on>"
        return f"<profile: {_count(self.totals.nodes, 'node')}, {_count(len(self.lines), 'line')}>"

    def folded(self, weight: Literal["nodes", "bytes", "seconds"] = "nodes") -> str:
        """The stacks of your functions in the format that flamegraph.pl, inferno and speedscope read: a line for each,
        ``outer (file:line);inner (file:line) count``. weight: nodes, bytes, or seconds (of recording and passes together, as whole
        microseconds); stacks of weight 0 are left out.

        >>> import mingrad
        >>> def square(x):
        ...     return x * x
        >>> x = mingrad.Variable(2.0)
        >>> with mingrad.profile() as p:
        ...     y = square(x) + 1
        >>> print(p.folded())  # doctest: +ELLIPSIS
        <module> (...:2) 1
        <module> (...:2);square (...:2) 1
        """
        self._check()
        if weight not in _WEIGHTS:
            raise ValueError(f"folded: expected weight to be one of {', '.join(_WEIGHTS)}, got {weight!r}")
        found: dict[str, float] = {}
        for stack, place in self._stacks.items():
            frames = [f"{function} ({_base(file)}:{line})" for file, line, function, ours in stack if not ours]
            text = ";".join(" ".join(frame.replace(";", ",").split()) for frame in frames)
            if text:
                found[text] = found.get(text, 0) + _WEIGHTS[weight](place)
        return "\n".join(f"{text} {round(count)}" for text, count in sorted(found.items()) if round(count))

    def save_flamegraph(self, path: "str | os.PathLike[str]", weight: Literal["nodes", "bytes", "seconds"] = "nodes") -> None:
        """Write :meth:`folded` to a file, for ``flamegraph.pl path > graph.svg`` or https://www.speedscope.app.

        >>> import mingrad
        >>> x = mingrad.Variable(2.0)
        >>> with mingrad.profile() as p:
        ...     y = x * x
        >>> p.save_flamegraph("nodes.folded")
        """
        text = self.folded(weight)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n" if text else "")


# Of each kind of savings (SAVE_DOT, ... in csrc/profile.pxi) what nodes are, one sum or several.
_SAVINGS: dict[Literal["dot", "linear", "sum"], tuple[str, str]] = {
    "dot": ("a sum of products: mingrad.dot(ws, xs)", "{} sums of products: mingrad.dot(ws, xs)"),
    "linear": ("a sum of products of the same inputs: nn.Linear", "{} sums of products, several of the same inputs: nn.Linear"),
    "sum": ("a sum: mingrad.sum(xs)", "{} sums: mingrad.sum(xs)"),
}
_COLUMNS = ("nodes", "bytes", "seconds", "backward", "swept", "depth")
_WEIGHTS: dict[str, Callable[[_Place], float]] = {
    "nodes": lambda place: place.nodes,
    "bytes": lambda place: place.bytes,
    "seconds": lambda place: (place.seconds + place.backward) * 1e6,
}


def _user_frame(stack: _Stack) -> _Frame | None:
    """The innermost frame that is not mingrad's own."""
    return next((frame for frame in reversed(stack) if not frame[3]), None)


def _base(file: str) -> str:
    return os.path.basename(file) or file


def _count(n: int, what: str, plural: str = "s") -> str:
    return f"{n:,} {what}{'' if n == 1 else plural}"


def _table(lines: list[Line], nodes: int) -> list[str]:
    rows = [("nodes", "%", "bytes", "seconds", "depth", "swept", "backward", "line", "")]
    rows += [
        (
            f"{line.nodes:,}",
            f"{100 * line.nodes / nodes if nodes else 0:.1f}",
            f"{line.bytes:,}",
            f"{line.seconds:.6f}",
            f"{line.depth:,}",
            f"{line.swept:,}",
            f"{line.backward:.6f}",
            f"{_base(line.file)}:{line.line}",
            line.text,
        )
        for line in lines
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(8)]
    return [
        "  ".join([*(f"{row[k]:>{widths[k]}}" for k in range(7)), f"{row[7]:<{widths[7]}}", row[8]]).rstrip() for row in rows
    ]
