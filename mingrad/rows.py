"""A function for many rows at once: vmap() over recorded programs.

Here are arrays, groups of rows and threads; programs are in mingrad/program.py, the sweep over a block of rows in csrc/rows.pxi.
"""

import functools
from array import array

from . import _core
from .engine import Variable
from .program import Compiled, _key

__all__ = ["vmap"]

_TASK = 16384  # rows; sums over rows are made of sums over tasks, so that they do not depend on threads


def vmap(f, in_axes=0, *, grad=None, threads=1):
    """f for many rows at once, blocks of rows through each operation, without the GIL: JAX's vmap for scalar functions.

    f: a function of floats, or of lists of floats, in plain Python, that gives a nest of numbers; or a Compiled one. in_axes: 0
    for arguments that have one row for each call (arrays of shape (N,) become floats, (N, k) lists of k), None for those that
    are the same for all; one of these, or a tuple with one for each argument. grad: None; 'rows' to give the pair (results,
    gradients of the result by each row's arguments), where f gives one number; 'sum' to add the gradient of the sum over all
    rows to ``.grad`` of the parameters that f uses. threads: how many work; the results do not depend on it.

    Results have f's nest, with an array of N in place of each number: NumPy's where NumPy is installed, else array('d'). Rows
    whose comparisons come out differently are grouped by themselves. Values are IEEE in every row: no error is raised for
    infinities and nan, once f has been recorded on the first row of each group; exp, log, sin and their like are mingrad's own
    vector functions, within 2 units in the last place of the true value.

    Raises ValueError for arguments of different lengths or no row, RecordingError as compile().

    >>> import mingrad
    >>> f = mingrad.vmap(lambda x, y: x * y if x > y else mingrad.exp(x - y))
    >>> f([1.0, 3.0], [1.0, 2.0]).tolist()
    [1.0, 6.0]
    """
    return _Mapped(f, in_axes, grad, threads)


class _Mapped:
    def __init__(self, f, in_axes, grad, threads):
        if grad not in (None, "rows", "sum"):
            raise ValueError(f"vmap: expected grad to be None, 'rows' or 'sum', got {grad!r}")
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"vmap: expected threads to be an int of at least 1, got {threads!r}")
        self._compiled = f if isinstance(f, Compiled) else Compiled(f)
        self._axes, self._grad, self._threads = in_axes, grad, threads
        functools.update_wrapper(self, self._compiled)

    def __call__(self, *args):
        axes = self._axes if isinstance(self._axes, (tuple, list)) else (self._axes,) * len(args)
        if len(axes) != len(args) or any(axis not in (0, None) for axis in axes):
            raise ValueError(f"vmap: expected in_axes of 0 and None, one for each of {len(args)} arguments, got {self._axes!r}")
        args = [arg if axis is None else _Rows(arg, k) for k, (arg, axis) in enumerate(zip(args, axes))]
        rows = [arg for arg in args if isinstance(arg, _Rows)]
        counts = {arg.count for arg in rows}
        if len(counts) != 1 or not min(counts):
            raise ValueError(f"vmap: expected arguments of one length, at least 1, got {sorted(counts)}")
        return self._run(args, counts.pop())

    def _run(self, args, count):
        status, done, paths, sums = bytearray(count), 0, [], []
        outputs = gradients = None
        while done < count:
            row = status.find(0)
            if len(paths) > self._compiled._most:
                raise RuntimeError(
                    f"vmap: {self._compiled._name} takes more than {self._compiled._most} ways, and row {row} still another one; "
                    f"give compile() a larger max_programs, or let it compare less"
                )
            program = self._compiled._path_of([arg[row] if isinstance(arg, _Rows) else arg for arg in args], paths)
            paths.append(program)
            if outputs is None:
                outputs = [_new(count) for _ in program.outputs]
                if self._grad == "rows":
                    if len(outputs) != 1:
                        raise TypeError(f"vmap: expected a function with one number as its result for grad='rows', got {len(outputs)}")
                    gradients = [arg.like() if isinstance(arg, _Rows) else None for arg in args]
            inputs, columns = [], []
            for k, arg in enumerate(args):
                mine = arg.columns if isinstance(arg, _Rows) else _leaves_of(arg)
                inputs += mine
                columns += gradients[k].columns if gradients and gradients[k] is not None else [None] * len(mine)
            for slot, column in zip(program.outputs, outputs):
                if isinstance(slot, float):
                    for r in range(count):
                        if not status[r]:
                            column[r] = slot
            ours = [c for s, c in zip(program.outputs, outputs) if not isinstance(s, float)]
            sums += self._sweep(program, inputs, ours, columns, status)
            if not status[row]:  # a comparison of this row hangs on a last digit that vector functions have otherwise
                sums += self._sweep(program, inputs, ours, columns, status, row)
            done = count - status.count(0)
        result = program.build(outputs)
        if self._grad == "sum":
            for program, total in sums:
                for v, x in zip(program.captured, total[program.n_inputs :]):
                    if v.requires_grad:
                        v.grad += x
        if self._grad != "rows":
            return result
        found = [g.rows for g in gradients if g is not None]
        return result, found[0] if len(found) == 1 else tuple(found)

    def _sweep(self, program, inputs, outputs, columns, status, row=None):
        """One pass of a program over the rows that are left, or over one with libm's functions; the sums of its tasks, in order."""
        wanted = None
        if self._grad is not None:
            wanted = bytes([self._grad == "rows" and c is not None for c in columns]
                           + [self._grad == "sum" and v.requires_grad for v in program.captured] + [True] * len(outputs))
        tasks = range(0, len(status), _TASK) if row is None else range(1)
        sums = [array("d", bytes(8 * (program.n_inputs + len(program.captured)))) if self._grad == "sum" else None for _ in tasks]

        def work(task):
            start, stop = (task * _TASK, min((task + 1) * _TASK, len(status))) if row is None else (row, row + 1)
            _core._map_rows(program, wanted, inputs, outputs, columns, sums[task], status, start, stop, row is not None)

        if self._threads == 1 or len(tasks) == 1:
            for task in range(len(tasks)):
                work(task)
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(work, range(len(tasks))))
        return [(program, total) for total in sums if total is not None]


class _Rows:
    """An argument with one row for each call: its columns, float64 without a copy where it is that already."""

    def __init__(self, rows, place):
        self.rows = rows
        if not hasattr(rows, "shape"):
            if hasattr(rows, "typecode"):
                rows = memoryview(rows)
            else:
                rows = list(rows)
        if hasattr(rows, "dtype") and rows.dtype != float:
            rows = rows.astype(float)
        if isinstance(rows, memoryview) and rows.format != "d":
            rows = rows.tolist()
        if isinstance(rows, list):
            if rows and isinstance(rows[0], (list, tuple)):
                if len({len(row) for row in rows}) != 1:
                    raise ValueError(f"vmap: expected rows of one length in argument {place}")
                self.columns, self.nested = [array("d", column) for column in zip(*rows)], True
            else:
                self.columns, self.nested = [array("d", rows)], False
            self.count = len(rows)
            return
        if rows.ndim not in (1, 2):
            raise ValueError(f"vmap: expected arrays of shape (N,) or (N, k), got {rows.ndim} dimensions in argument {place}")
        self.count, self.nested = rows.shape[0], rows.ndim == 2
        if not self.nested:
            self.columns = [rows]
        elif hasattr(rows, "dtype"):
            self.columns = [rows[:, k] for k in range(rows.shape[1])]
        else:
            self.columns = [memoryview(rows).cast("B").cast("d")[k :: rows.shape[1]] for k in range(rows.shape[1])]

    def __getitem__(self, row):
        return [float(c[row]) for c in self.columns] if self.nested else float(self.columns[0][row])

    def like(self):
        """Gradients of its shape."""
        twin = object.__new__(_Rows)
        twin.count, twin.nested = self.count, self.nested
        numpy = _numpy()
        if numpy is not None:
            twin.rows = numpy.zeros((self.count, len(self.columns)) if self.nested else self.count)
            twin.columns = [twin.rows[:, k] for k in range(len(self.columns))] if self.nested else [twin.rows]
        else:
            twin.columns = [_new(self.count) for _ in self.columns]
            twin.rows = twin.columns if self.nested else twin.columns[0]
        return twin


def _new(count):
    numpy = _numpy()
    return array("d", bytes(8 * count)) if numpy is None else numpy.zeros(count)


def _numpy():
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def _leaves_of(tree):
    leaves = []
    _key(tree, leaves)
    return [x.data if isinstance(x, Variable) else float(x) for x in leaves]
