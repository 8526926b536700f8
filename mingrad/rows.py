"""Recorded programs over many rows of numbers: vmap() and scan(), and what Program.map() does.

Here are arrays, groups of rows, threads and reports; programs are in mingrad/program.py, the sweep over a block of rows in
csrc/rows.pxi.
"""

import functools
import math
import operator
import sys
from array import array
from collections import deque
from contextlib import closing, contextmanager

from . import _core
from .autodiff import _flatten, _floats
from .engine import Variable, VariableList, errstate, is_grad_enabled
from .program import _NUMBER, Compiled, _key

__all__ = ["scan", "vmap"]

_TASK = 16384  # rows; sums over rows are made of sums over tasks, so that they do not depend on threads
_COMPARISONS = ("<", "<=", "==", "!=", ">", ">=")  # by Python's numbers for them
_OPERATORS = (operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge)


def vmap(f, in_axes=0, *, grad=None, threads=1, errors="ignore", progress=False):
    """f for many rows at once, blocks of rows through each operation, without the GIL: JAX's vmap for scalar functions.

    f: a function of floats, or of lists of floats, in plain Python, that gives a nest of numbers; or a Compiled one. in_axes: 0
    for arguments that have one row for each call (arrays of shape (N,) become floats, (N, k) lists of k), None for those that
    are the same for all; one of these, or a tuple with one for each argument. grad: None; 'rows' to give the pair (results,
    gradients of the result by each row's arguments), where f gives one number; 'sum' to add the gradient of the sum over all
    rows to ``.grad`` of the parameters that f uses, and of leaves among the arguments. threads: how many work; the results do
    not depend on it. errors: 'ignore', values are IEEE in every row, as in NumPy's ``errstate(all='ignore')``; 'raise', the
    first row that has a result that is not finite is an error, which names the operation. progress: True for a bar (tqdm's
    where that is installed), or a function that is called as ``progress(rows_done, rows)``.

    Results have f's nest, with an array of N in place of each number: NumPy's where NumPy is installed, else array('d'). A call
    takes ``out=``, a nest like its result with arrays that are filled instead of new ones. Rows whose comparisons come out
    differently are grouped by themselves. exp, log, sin and their like are mingrad's own vector functions, within 2 units in
    the last place of the true value. Beside arguments and results a byte a row is needed. Ctrl-C ends a call within a tenth of
    a second; no ``.grad`` has changed then, and arrays given as ``out`` are half filled.

    Raises ValueError for arguments of different lengths or no row, TypeError for Variables among the arguments whose gradient
    would be lost, FloatingPointError for errors='raise', RecordingError as compile().

    >>> import mingrad
    >>> f = mingrad.vmap(lambda x, y: x * y if x > y else mingrad.exp(x - y))
    >>> f([1.0, 3.0], [1.0, 2.0]).tolist()
    [1.0, 6.0]
    >>> mingrad.vmap(mingrad.log, errors="raise")([1.0, 0.0])
    Traceback (most recent call last):
    ...
    FloatingPointError: vmap: row 1: log(0.0) is -inf; the row's arguments are 0.0; errors='ignore' keeps such results
    """
    return _Mapped(f, in_axes, grad, threads, errors, progress)


class _Mapped:
    def __init__(self, f, in_axes, grad, threads, errors, progress):
        _check_options("vmap", (None, "rows", "sum"), grad, threads, errors, progress)
        self._compiled = f if isinstance(f, Compiled) else Compiled(f)
        self._axes, self._options = in_axes, (grad, threads, errors, progress)
        functools.update_wrapper(self, self._compiled, updated=())

    def __call__(self, *args, out=None):
        axes = self._axes if isinstance(self._axes, (tuple, list)) else (self._axes,) * len(args)
        if len(axes) != len(args) or any(axis not in (0, None) for axis in axes):
            raise ValueError(f"vmap: expected in_axes of 0 and None, one for each of {len(args)} arguments, got {self._axes!r}")
        args = [_Same(arg, k) if axis is None else _Rows(arg, k, "vmap") for k, (arg, axis) in enumerate(zip(args, axes))]
        known = self._compiled._paths.get((tuple, tuple([arg.key for arg in args])), ())

        def more(row, known):
            return _record("vmap", self._compiled, tuple([arg[row] for arg in args]), row, known)

        return _Call("vmap", args, *self._options).run([*known], more, out)


def _record(where, compiled, args, row, known):
    """A recording for the arguments of this row that is none of those known."""
    if len(known) >= compiled._most:
        raise RuntimeError(
            f"{where}: {compiled._name} takes more than {compiled._most} ways, and row {row} still another one; give compile() a "
            f"larger max_programs, or let it compare less"
        )
    with errstate(all="ignore"):  # as in other rows
        return compiled._path_of(args, known)


def map_program(program, X, threads, grad, errors, progress, out):
    """Program.map()."""
    _check_options("map", (None, "rows", "sum"), grad, threads, errors, progress)
    several = isinstance(X, (list, tuple))
    args = [_Rows(x, k, "map") for k, x in enumerate(X if several else [X])]
    given = sum([len(arg.columns) for arg in args])
    if given != program.n_inputs or (several and any(arg.nested for arg in args)):
        raise ValueError(
            f"map: expected an array of shape (N, {program.n_inputs}) or {program.n_inputs} columns, one for each input of "
            f"{program.name}, got {given} columns"
        )

    def refuse(row, known):
        numbers = [float(c[row]) for arg in args for c in arg.columns]
        raise ValueError(
            f"map: row {row} goes another way through {program.name} than the one recorded: {_failed_guard(program, numbers)}; "
            f"mingrad.vmap(f) records the other ways too"
        )

    return _Call("map", args, grad, threads, errors, progress, several).run([program], refuse, out)


def scan(f, *, grad=None, errors="ignore"):
    """f step by step along many sequences at once: JAX's lax.scan for scalar functions.

    f: a function ``f(state, *row) -> (state, y)`` in plain Python, or a Compiled one. state: a number or a nest of numbers,
    what one step hands to the next. row: as vmap's arguments. y: a nest of numbers. grad: None; 'sum' to add the gradient of the
    sum of all y to ``.grad`` of the parameters that f uses. errors: as in :func:`vmap`.

    What scan returns is called as ``run(init, *rows, lengths=None)``. init: a nest like state, each leaf a number for all
    sequences or an array with one for each. rows: arrays of shape (N,) or (N, k), the rows of the first sequence, then those of
    the second, and so on. lengths: how many rows each sequence has; None for a single one. It gives the pair of the states
    in the end, an array with a number for each sequence in each place, and of y, with arrays of N. All sequences go through
    their first rows together, then through their second rows, grouped by how their comparisons come out. Ctrl-C: as in vmap.

    Raises ValueError for lengths that do not fit, TypeError where f gives no state like the one that it was given.

    >>> import mingrad
    >>> growth = mingrad.Variable(2.0)
    >>> run = mingrad.rows.scan(lambda x, add: (growth * x + add, x), grad="sum")
    >>> last, before = run(1.0, [0.0, 0.0, 5.0, 5.0], lengths=[3, 1])
    >>> last.tolist(), before.tolist(), growth.grad
    ([13.0, 7.0], [1.0, 2.0, 4.0, 1.0], 5.0)
    """
    return _Scanned(f, grad, errors)


class _Scanned:
    def __init__(self, f, grad, errors):
        _check_options("scan", (None, "sum"), grad, 1, errors, False)
        self._compiled = f if isinstance(f, Compiled) else Compiled(f)
        self._grad, self._check = grad, errors == "raise"
        self._checked = None  # a program whose result has the form that it should have
        functools.update_wrapper(self, self._compiled, updated=())

    def __call__(self, init, *rows, lengths=None):
        rows = [_Rows(x, k, "scan") for k, x in enumerate(rows, 1)]
        counts = sorted({arg.count for arg in rows})
        lengths = counts if lengths is None else [operator.index(n) for n in lengths]
        if len(counts) != 1 or min(lengths, default=0) < 1 or sum(lengths) != counts[0]:
            raise ValueError(
                f"scan: expected arguments of one length, and lengths of at least 1 that add up to it, got arguments of {counts} "
                f"and lengths that add up to {sum(lengths)}"
            )
        for arg in rows:
            arg.trained(None, "scan")
        init, build = _begin(init, len(lengths))
        states = [array("d", bytes(8 * (counts[0] + len(lengths)))) for _ in init]
        for state, x in zip(states, init):
            state[0] = x if isinstance(x, float) else x[0]

        def sample(row, at):
            return (build([state[at] for state in states]), *[arg[row] for arg in rows])

        key = _key(sample(0, 0), [])
        known = [*self._compiled._paths.get(key, ())]
        before = len(known)
        known = known or [_record("scan", self._compiled, sample(0, 0), 0, known)]
        if known[0] is not self._checked:
            form = known[0].build(list(range(len(known[0].outputs))))
            if not isinstance(form, (list, tuple)) or len(form) != 2 or _flatten(form[0], "scan")[0] != list(range(len(init))):
                raise TypeError(
                    f"scan: expected {self._compiled._name} to give a pair of a state like the one it is given, here of "
                    f"{len(init)} numbers, and a result"
                )
            self._checked = known[0]
        values = _new(counts[0], len(known[0].outputs) - len(init))
        inputs = _core.Columns(states + [column for arg in rows for column in arg.columns], False)
        outputs = _core.Columns([memoryview(state)[1:] for state in states] + values, True)
        sweep = _core.Scan(inputs, outputs, _core.Columns(init, False), lengths, self._check)
        self._forward(sweep, known, sample, [k < len(init) for k in range(known[0].n_inputs)])
        if len(known) > before:
            uses = dict(zip(known, sweep.uses(len(known))))
            with self._compiled._lock:  # what has computed most rows is tried first from now on
                paths = self._compiled._paths.get(key, [])
                paths[:] = sorted(paths, key=lambda program: -uses.get(program, 0))  # sort() would show others an empty list
        last = _new(len(lengths), len(init))
        sweep.last(_core.Columns(last, True))
        if self._grad == "sum":
            adjoints = [array("d", bytes(8 * len(state))) for state in states] + [None] * (known[0].n_inputs - len(init))
            sweep.back(_core.Columns(adjoints, True))
        return known[0].build(last + values)

    def _forward(self, sweep, known, sample, states):
        """Run all rows; known gets what there is to record. states: which inputs are states."""
        recorded = None
        while True:
            wanted = [None if self._grad is None else _core._row_wanted(p, states, True) for p in known]
            if (found := sweep.forward(known, wanted)) is None:
                return
            sequence, fine = found
            row = sweep.row(sequence)
            if fine:
                # a comparison may hang on a last digit, which vector functions have otherwise
                fits = next((fit for k in range(len(known)) if (fit := sweep.exactly(known, wanted, k))), 0)
                if fits > 0:
                    continue
                if not fits:
                    if recorded == row:
                        raise RuntimeError(f"scan: row {row} goes another way each time it is computed")
                    known.append(_record("scan", self._compiled, sample(row, row + sequence), row, known))
                    recorded = row
                    continue
            raise FloatingPointError(f"scan: row {row}: {_failure(known, sweep.numbers(sequence))}")


def _begin(init, count):
    """The numbers and columns in a state to begin with, and what builds such a state of numbers."""
    leaves = []

    def numbers(tree):
        if isinstance(tree, dict):
            return {key: numbers(item) for key, item in tree.items()}
        if isinstance(tree, (list, tuple)):
            items = [numbers(item) for item in tree]
            return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
        if getattr(tree, "ndim", 0) or hasattr(tree, "typecode"):
            rows = _Rows(tree, 0, "scan")
            if rows.nested or rows.count != count:
                raise ValueError(
                    f"scan: expected states to begin with that are numbers or arrays of {count}, one for each sequence"
                )
            leaves.append(rows.columns[0])
        else:
            leaves.append(float(tree))
        return 0.0

    return leaves, _flatten(numbers(init), "scan")[1]


class _Call:
    """A run over rows: arguments to results and gradients, by programs, for each row the first that fits."""

    def __init__(self, where, args, grad, threads, errors, progress, several=None):
        """several: whether gradients by rows are a tuple, by default for more than one argument with rows."""
        self.where, self.args, self.grad, self.threads = where, args, grad, threads
        self.check, self.progress = errors == "raise", progress
        self.rows = [arg for arg in args if type(arg) is _Rows]
        counts = {arg.count for arg in self.rows}
        if len(counts) != 1 or not min(counts):
            raise ValueError(f"{where}: expected arguments of one length, at least 1, got {sorted(counts)}")
        self.count = counts.pop()
        self.several = len(self.rows) > 1 if several is None else several
        self.trained = None  # of each input: a Variable for all rows, a list with one for each row, None for numbers
        if any([arg.variables for arg in args]):
            self.trained = [v for arg in args for v in arg.trained(grad, where)]

    def run(self, known, more, out):
        """known: programs to begin with. more(row, known): one for that row, or an error. out: as vmap's."""
        self.status, self.limit, self.sums = bytearray(self.count), self.count, []
        self.x = _core.Columns([column for arg in self.args for column in arg.columns], False)
        known = known or [more(0, known)]
        outputs, gradients, out = self._places(known[0], out)
        self.y, self.g = _core.Columns(outputs, True), None
        if self.grad is not None:
            self.g = _core.Columns(gradients, True)
            self.wanted = [column is not None for column in gradients]
            if self.trained:
                self.wanted = [yes or v is not None for yes, v in zip(self.wanted, self.trained)]
        if self.progress is False:
            self.report = None
            self._sweep_all(known, more)
        else:
            self.left = [_TASK] * (self.count // _TASK) + [self.count % _TASK]  # rows that are left in each task
            with _reports(self.progress, self.where, self.count) as self.report:
                self._sweep_all(known, more)
        if self.limit < self.count:
            numbers = [x if type(x) is float else float(x[self.limit]) for arg in self.args for x in arg.columns]
            raise FloatingPointError(f"{self.where}: row {self.limit}: {_failure(known, numbers)}")
        for program, total in self.sums:
            total = _core.Columns([total], False)
            _core._add_to_grads(self.trained or (), total, 0)
            _core._add_to_grads(program.captured, total, program.n_inputs)
        for variables, column in zip(self.trained or (), gradients):
            if isinstance(variables, list):
                _core._add_to_grads(variables, _core.Columns([column], False), 0)
        return out

    def _sweep_all(self, known, more):
        for program in known:
            self._sweep(program)
        while (row := self.status.find(0, 0, self.limit)) >= 0:
            # a comparison may hang on a last digit, which vector functions have otherwise
            if not any(self._sweep(program, row) for program in known):
                known.append(more(row, known))
                self._sweep(known[-1])
                if row < self.limit and not (self.status[row] or self._sweep(known[-1], row)):
                    raise RuntimeError(f"{self.where}: row {row} goes another way each time it is computed")

    def _places(self, program, out):
        """Columns for results, columns for gradients by inputs (None: not asked for), and what is returned."""
        count = len(program.outputs)
        by = self.rows if self.grad == "rows" else ()
        if by and count != 1:
            raise TypeError(f"{self.where}: expected a function with one number as its result for grad='rows', got {count}")
        if out is None:
            new = _new(self.count, count + sum([not arg.nested for arg in by]))
            results, columns = new[:count], iter(new[count:])
            arrays = [arg.like() if arg.nested else next(columns) for arg in by]
            out = self._nest(program.build(results), arrays)
        else:
            form = self._nest(program.build(list(range(count))), range(len(by)))
            arrays = _leaves_like(form, out, self.where)
            results, arrays = [self._filled(x) for x in arrays[:count]], arrays[count:]
            for arg, array_ in zip(by, arrays):
                for column in arg.split(array_, self.where):
                    self._filled(column)
        if by:
            gradients = {id(arg): arg.split(array_, self.where) for arg, array_ in zip(by, arrays)}
            return results, [c for arg in self.args for c in gradients.get(id(arg)) or [None] * len(arg.columns)], out
        trained = self.trained or [None] * program.n_inputs
        return results, [array("d", bytes(8 * self.count)) if isinstance(v, list) else None for v in trained], out

    def _nest(self, results, arrays):
        """What a call returns."""
        if self.grad != "rows":
            return results
        return results, tuple(arrays) if self.several else arrays[0]

    def _filled(self, column):
        """A column of out, if it is one that can be filled."""
        view = memoryview(column)
        if view.readonly or view.format != "d" or view.shape != (self.count,):
            raise ValueError(
                f"{self.where}: expected out to have writable float64 arrays for {self.count} rows, got shape {view.shape}, format "
                f"{view.format!r}{', read-only' if view.readonly else ''}"
            )
        return column

    def _sweep(self, program, row=None):
        """One pass of a program over the rows that are left, or over one with libm's functions; is that one done then?"""
        wanted = None if self.grad is None else _core._row_wanted(program, self.wanted, self.grad == "sum")
        if row is not None or self.limit <= _TASK:
            tasks = [(0, self.limit) if row is None else (row, row + 1)]
        else:
            tasks = [(start, min(start + _TASK, self.limit)) for start in range(0, self.limit, _TASK)]

        halt = bytearray(1)

        def work(start, stop):
            sums = array("d", bytes(8 * (program.n_inputs + len(program.captured)))) if self.grad == "sum" else None
            bad = _core._map_rows(program, wanted, self.x, self.y, self.g, None if sums is None else _core.Columns([sums], True),
                                  self.status, start, stop, row is not None, self.check, halt)  # fmt: skip
            return bad, sums

        total = None
        with closing(self._in_order(work, tasks, halt)) as found:
            for (start, _), (bad, sums) in zip(tasks, found):
                if total is not None:
                    _core._add_sums(_core.Columns([total], True), _core.Columns([sums], False))
                elif sums is not None:
                    total = sums
                    self.sums.append((program, total))
                if bad is not None:
                    self.limit = bad
                    break
                if self.report is not None:
                    self._report(start // _TASK)
        return row is not None and (row >= self.limit or self.status[row] == 1)

    def _report(self, task):
        """Say how many rows of a task are done now that were not."""
        left = self.status.count(0, task * _TASK, (task + 1) * _TASK)
        more, self.left[task] = self.left[task] - left, left
        if more:
            self.report(more)

    def _in_order(self, work, tasks, halt):
        """work(*task) of each task in turn, threads working ahead; halt: its byte tells them that nobody waits any more."""
        if self.threads == 1 or len(tasks) == 1:
            for task in tasks:
                yield work(*task)
            return
        from concurrent.futures import ThreadPoolExecutor

        pool, ahead = ThreadPoolExecutor(self.threads), deque()
        try:
            for task in tasks:
                ahead.append(pool.submit(work, *task))
                if len(ahead) > 2 * self.threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BaseException:  # Ctrl-C, an error, or a row that ends the pass
            halt[0] = 1
            raise
        finally:
            pool.shutdown(cancel_futures=True)


# -- arguments -------------------------------------------------------------------------------------------------------------------


class _Same:
    """An argument that is the same for all rows: a nest, of which the numbers are inputs. key: see _key()."""

    def __init__(self, tree, place):
        self.tree, self.place, self.leaves = tree, f"argument {place}", []
        self.key = _key(tree, self.leaves)
        self.columns = _floats(self.leaves)
        self.variables = any([isinstance(x, Variable) for x in self.leaves])

    def __getitem__(self, row):
        return self.tree

    def trained(self, grad, where):
        """For each input the Variable that takes part in the gradient, or None."""
        return _trained(self.leaves, grad, where, self.place) or [None] * len(self.leaves)


class _Rows:
    """An argument with one row for each call: its columns, float64 without a copy where it is that already."""

    variables = False
    nested = False

    def __init__(self, rows, place, where):
        self.place = place
        dtype = getattr(rows, "dtype", None)
        if dtype is not None:
            kind = getattr(dtype, "char", "")  # the comparison with float, which comes last, takes long
            if kind == "O":
                rows = rows.tolist()
            elif not (kind == "d" and dtype.isnative) and dtype != float:  # noqa: E721
                rows = rows.astype(float)
        elif hasattr(rows, "typecode"):
            rows = memoryview(rows)
        elif not hasattr(rows, "ndim"):
            rows = list(rows)
        if isinstance(rows, memoryview) and rows.format != "d":
            rows = rows.tolist()
        if isinstance(rows, list):
            self.count = len(rows)
            self._take_lists(rows, where)
        elif rows.ndim not in (1, 2):
            raise ValueError(
                f"{where}: expected arrays of shape (N,) or (N, k), got {rows.ndim} dimensions in argument {place}"
            )
        else:
            self.count, self.nested = rows.shape[0], rows.ndim == 2
            self.columns = _columns_of(rows)
        self.key = (list, len(self.columns)) if self.nested and self.columns else (list, ()) if self.nested else _NUMBER

    def _take_lists(self, rows, where):
        self.nested = bool(rows) and isinstance(rows[0], (list, tuple, VariableList))
        if self.nested and len({len(row) for row in rows}) != 1:
            raise ValueError(f"{where}: expected rows of one length in argument {self.place}")
        self.lists = [list(column) for column in zip(*rows)] if self.nested else [rows]
        self.variables = any([isinstance(x, Variable) for column in self.lists for x in column])
        numbers = self.lists
        if self.variables:
            numbers = [[x.data if isinstance(x, Variable) else x for x in column] for column in self.lists]
        self.columns = [array("d", column) for column in numbers]

    def __getitem__(self, row):
        return [float(c[row]) for c in self.columns] if self.nested else float(self.columns[0][row])

    def trained(self, grad, where):
        """For each input a list of the Variables that take part in the gradient, or None."""
        if not self.variables:
            return [None] * len(self.columns)
        return [_trained(column, grad, where, f"argument {self.place}") for column in self.lists]

    def like(self):
        """A new array of shape (N, k); without NumPy a list of k arrays."""
        numpy = _numpy()
        return _new(self.count, len(self.columns)) if numpy is None else numpy.empty((self.count, len(self.columns)))

    def split(self, array_, where):
        """The columns of an array of its shape."""
        if not self.nested:
            return [array_]
        columns = array_ if isinstance(array_, list) else _columns_of(array_)
        if len(columns) != len(self.columns):
            raise ValueError(f"{where}: expected out for the gradient by {self.place} to have {len(self.columns)} columns, got "
                             f"{len(columns)}")  # fmt: skip
        return columns


def _trained(leaves, grad, where, place):
    """Those Variables that take part in a gradient, with None for others; None if there are none. An error if one's gradient
    would be lost."""
    if not is_grad_enabled() or not any(isinstance(x, Variable) and x.requires_grad for x in leaves):
        return None
    if grad != "sum":
        cure = ":" if where == "scan" else f" with grad={grad!r}: use grad='sum', or"
        raise TypeError(
            f"{where}: {place} has Variables that require a gradient, which would get none{cure} pass numbers (.data, .detach())"
        )
    for x in leaves:
        if isinstance(x, Variable) and x.requires_grad and not x.is_leaf:
            raise TypeError(
                f"{where}: {place} has the result of a computation, and grad='sum' does not go on into that: pass leaves and "
                f"compute inside the function, or pass numbers (.data, .detach())"
            )
    return [x if isinstance(x, Variable) and x.requires_grad else None for x in leaves]


def _columns_of(rows):
    """The columns of an array of one or two dimensions, which they share."""
    if rows.ndim == 1:
        return [rows]
    if hasattr(rows, "dtype"):
        return [rows[:, k] for k in range(rows.shape[1])]
    flat = memoryview(rows).cast("B").cast("d")
    return [flat[k :: rows.shape[1]] for k in range(rows.shape[1])]


def _leaves_like(form, tree, where):
    """The leaves of a tree that has the nest of form."""
    if isinstance(form, dict):
        if not isinstance(tree, dict) or list(tree) != list(form):
            raise ValueError(f"{where}: expected out to have a dict of {', '.join(map(str, form))}, got {type(tree).__name__}")
        pairs = zip(form.values(), tree.values())
    elif isinstance(form, (list, tuple)):
        if not isinstance(tree, (list, tuple)) or len(tree) != len(form):
            raise ValueError(f"{where}: expected out to have a {type(form).__name__} of {len(form)}, as the result has, got "
                             f"{type(tree).__name__}{f' of {len(tree)}' if hasattr(tree, '__len__') else ''}")  # fmt: skip
        pairs = zip(form, tree)
    else:
        return [tree]
    return [leaf for part, item in pairs for leaf in _leaves_like(part, item, where)]


def _new(count, k):
    """k arrays of so many numbers, to be filled, in one block of memory: the system gives one large block out faster."""
    numpy = _numpy()
    return [array("d", bytes(8 * count)) for _ in range(k)] if numpy is None else list(numpy.empty((k, count)))


def _numpy():
    try:
        import numpy
    except ImportError:
        return None
    return numpy


# -- what is reported -------------------------------------------------------------------------------------------------------------


def _check_options(where, grads, grad, threads, errors, progress):
    for name, value, choices in (("grad", grad, grads), ("errors", errors, ("ignore", "raise"))):
        if value not in choices:
            *most, last = map(repr, choices)
            raise ValueError(f"{where}: expected {name} to be {', '.join(most)} or {last}, got {value!r}")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"{where}: expected threads to be an int of at least 1, got {threads!r}")
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"{where}: expected progress to be True, False or a function, got {progress!r}")


@contextmanager
def _reports(progress, where, count):
    """A function that is told of rows done, or None."""
    if progress is False:
        yield None
        return
    done, bar, due = 0, None, 0.0
    if progress is True:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            import time
        else:
            bar = tqdm(total=count, unit="row", unit_scale=True, desc=where)

    def report(more):
        nonlocal done, due
        done += more
        if progress is not True:
            progress(done, count)
        elif bar is not None:
            bar.update(more)
        elif sys.stderr is not None and (time.monotonic() >= due or done == count):
            print(f"{where}: {done:,} of {count:,} rows", file=sys.stderr, flush=True)
            due = time.monotonic() + 10.0  # seconds: a line of a log file each

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


def _text(program, values, slot):
    """What an operand of a guard is, and its value."""
    if not isinstance(slot, int):
        return repr(slot)
    if slot < program.n_inputs:
        return f"input {slot} = {values[slot]!r}"
    inner = slot - program.n_inputs
    if inner < len(program.captured):
        return f"{program.captured[inner].label or 'a parameter'} = {values[slot]!r}"
    return f"{program.rows()[slot][0]} = {values[slot]!r}"


def _failed_guard(program, numbers):
    """The first comparison that comes out otherwise than recorded for these inputs, as a text; None if all come out so."""
    values = _core._values_of(program, numbers)
    for op, left, right, outcome in program.guards:
        x, y = (values[slot] if isinstance(slot, int) else slot for slot in (left, 0.0 if right is None else right))
        if _OPERATORS[op](x, y) != outcome:
            text = _text(program, values, left)
            if right is None:
                return f"the truth value of {text} was {outcome}"
            return f"({text}) {_COMPARISONS[op]} ({_text(program, values, right)}) was {outcome}"
    return None


def _failure(programs, numbers):
    """The first operation whose value is not finite for these inputs, though its operands are, as a text."""
    program = next((p for p in programs if _failed_guard(p, numbers) is None), programs[-1])
    values = _core._values_of(program, numbers)
    given = f"; the row's arguments are {', '.join(map(repr, numbers))}; errors='ignore' keeps such results"
    for (name, operands, number, _, _), value in zip(program.rows(), values):
        items = [values[slot] for slot in operands]
        if operands and not math.isfinite(value) and all(map(math.isfinite, items)):
            if number is not None:
                items.insert(*number)
            shown = [repr(x) for x in items[:4]] + ["..."] * (len(items) > 4)
            return f"{name}({', '.join(shown)}) is {value!r}{given}"
    return f"a result is not finite{given}"
