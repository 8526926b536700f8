"""Recorded programs: compile() records a function of plain Python once and runs it at compiled speed from then on.

Here are the arguments, the cache and what people look at; recording is in csrc/record.pxi, programs in csrc/program.pxi.
"""

import functools
import inspect
import threading
from array import array
from collections import OrderedDict

from . import _core
from ._core import RecordingError
from .autodiff import _flatten
from .engine import Variable, VariableList, enable_grad

__all__ = ["Compiled", "RecordingError", "compile", "vmap"]

_NUMBERS = 4 | 1  # bits of _core._kinds(): floats and Variables


def compile(f=None, *, check=False, max_programs=64):
    """Decorator, or ``compile(f)``: f, recorded at its first call and run without Python at later ones.

    f: a function of floats, Variables and nests of them (lists, tuples, dicts, VariableLists, arrays of floats), in plain
    Python on numbers, that gives a nest of numbers. It may use Variables from outside (parameters), which are read at each call.
    check: run f itself beside every recorded run and raise RuntimeError at the first difference. max_programs: how many
    recordings are kept; the one not used for longest goes.

    What decides which way f goes is recorded too: a comparison or truth value of Variables that comes out otherwise in a later
    call takes another recording, or makes one. Arguments that are no floats (ints, strings, None, objects) and the structure of
    nests are part of the key: another value records anew. Frozen into a recording are: global and closed-over numbers, random
    numbers, ``requires_grad=False`` Variables made inside, and everything f does beside computing (printing, appending). A
    recorded run gives the same bits as f and the same bits of its gradient (the sign of a zero apart), raises what f raises, and
    takes part in an eager graph as one node: backward() and all transforms work.

    Raises RecordingError (at the first call) where f reads a number off a Variable (.data, .item()), writes one from outside,
    or does another thing that a recording cannot repeat.

    >>> import mingrad
    >>> @mingrad.compile
    ... def f(x, y):
    ...     return x * y if x > y else mingrad.exp(y)
    >>> f(3.0, 2.0), mingrad.grad(f)(5.0, 2.0)
    (6.0, 2.0)
    """
    if f is None:
        return functools.partial(compile, check=check, max_programs=max_programs)
    return Compiled(f, check, max_programs)


class Compiled:
    """A function that compile() has wrapped."""

    def __init__(self, f, check=False, max_programs=64):
        if not callable(f):
            raise TypeError(f"compile: expected a function, got {type(f).__name__}")
        if isinstance(max_programs, bool) or not isinstance(max_programs, int) or max_programs < 1:
            raise ValueError(f"compile: expected max_programs to be an int of at least 1, got {max_programs!r}")
        functools.update_wrapper(self, f)
        self._function = f
        self._check = check
        self._most = max_programs
        self._name = getattr(f, "__name__", type(f).__name__)
        self._paths = OrderedDict()  # of each key its recordings, the latest used first
        self._lock = threading.Lock()  # for changes of it

    def __get__(self, instance, owner=None):
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args, **kwargs):
        if _core._is_recording():
            return self._function(*args, **kwargs)
        if kwargs:
            bound = inspect.signature(self._function).bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        leaves = []
        key = _key(args, leaves)
        if kwargs:
            key = key, _key(kwargs, leaves)
        paths = self._paths.get(key)
        if paths is None:
            with self._lock:
                paths = self._paths.setdefault(key, [])
        for k, path in enumerate(paths.copy()):
            found = _core._run(path.program, leaves, self._name)
            if found is not None:
                if k:
                    with self._lock:
                        if k < len(paths) and paths[k] is path:
                            paths.insert(0, paths.pop(k))
                break
        else:
            path = self._record_into(paths, key, args, kwargs, leaves)
            found = _core._run(path.program, leaves, self._name)
        if not isinstance(found, list):  # f itself raises what there is to raise
            return self._function(*args, **kwargs)
        if len(self._paths) > 1:
            with self._lock:
                if key in self._paths:  # another thread may have dropped it
                    self._paths.move_to_end(key)
        result = path.build(found)
        if self._check:
            self._compare(result, args, kwargs)
        return result

    def _path_of(self, args, known):
        """The recording for these arguments that is none of those known, an old one or a new one."""
        leaves = []
        key = _key(tuple(args), leaves)
        with self._lock:
            paths = self._paths.setdefault(key, [])
        for path in paths:
            if path not in known:
                return path
        return self._record_into(paths, key, tuple(args), {}, leaves)

    def _record_into(self, paths, key, args, kwargs, leaves):
        try:
            path = self._record(args, kwargs, leaves)
        except BaseException:
            with self._lock:
                if not paths and self._paths.get(key) is paths:
                    del self._paths[key]
            raise
        with self._lock:
            paths.insert(0, path)
            self._paths[key] = paths
            self._drop()
        return path

    def _record(self, args, kwargs, leaves):
        keys = _key(args, []), _key(kwargs, [])
        values = [x.data if isinstance(x, Variable) else float(x) for x in leaves]
        with enable_grad(), _core.Recording() as recording:
            (base,) = recording.inputs([0.0])
            inputs = recording.inputs(values)
            numbers = iter(inputs)
            args, kwargs = (_nest(key, numbers) for key in keys)
            outputs, build = _flatten(self._function(*args, **kwargs), f"compile: {self._name}'s result")
            program = _core._program(inputs, [float(x) if not isinstance(x, Variable) else x for x in outputs], recording.guards, base)
        return _Path(program, build)

    def _drop(self):
        """Forget what has not been used for longest, where there are too many recordings."""
        while sum(map(len, self._paths.values())) > self._most:
            oldest = next(iter(self._paths))
            if self._paths[oldest]:
                self._paths[oldest].pop()
            if not self._paths[oldest]:
                del self._paths[oldest]

    def _compare(self, result, args, kwargs):
        expected, found = (_flatten(nest, self._name)[0] for nest in (self._function(*args, **kwargs), result))
        if len(expected) != len(found):
            raise RuntimeError(
                f"compile(check=True): {self._name}'s result has {len(expected)} numbers, but the recorded run gave {len(found)}"
            )
        for k, (x, y) in enumerate(zip(found, expected)):
            x, y = (v.data if isinstance(v, Variable) else v for v in (x, y))
            if x != y and (x == x or y == y):
                raise RuntimeError(
                    f"compile(check=True): number {k} of {self._name}'s result is {y!r}, but the recorded run gave {x!r}: the "
                    f"function depends on something that is no argument, comparison or Variable (a global, a random number, a "
                    f"file); pass it as an argument"
                )

    @property
    def programs(self):
        """The recordings, as a list of Program (``len(program)``: how many rows); the latest used of each key first.

        >>> import mingrad
        >>> f = mingrad.compile(lambda x: x * x)
        >>> f(2.0), len(f.programs)
        (4.0, 1)
        """
        return [path.program for paths in self._paths.values() for path in paths]

    def clear(self):
        """Forget all recordings.

        >>> import mingrad
        >>> f = mingrad.compile(lambda x: x * x)
        >>> f(2.0), f.clear(), f.programs
        (4.0, None, [])
        """
        self._paths.clear()


class _Path:
    """One recording: its program, and what builds f's result of its outputs."""

    def __init__(self, program, build):
        self.program = program
        self.build = build


# -- many rows -------------------------------------------------------------------------------------

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
            path = self._compiled._path_of([arg[row] if isinstance(arg, _Rows) else arg for arg in args], paths)
            paths.append(path)
            program = path.program
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
        result = path.build(outputs)
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


# -- arguments: their structure is the key of a recording, their numbers its inputs ----------------


class _Number:
    """In a key: an input stands here."""

    def __repr__(self):
        return "number"


_NUMBER = _Number()


def _key(tree, leaves):
    """The structure of an argument, hashable, with everything in it that is no input; the inputs go to leaves."""
    return _core._structure(tree, leaves, _NUMBER, _other_key)


def _other_key(tree, leaves):
    """_key() for what is no float, Variable, list or tuple."""
    kind = type(tree)
    if isinstance(tree, (Variable, float)):
        leaves.append(tree)
        return _NUMBER
    if kind is VariableList:
        leaves.extend(tree)
        return (VariableList, len(tree))
    if isinstance(tree, (list, tuple)):
        return (kind, tuple([_key(item, leaves) for item in tree]))
    if isinstance(tree, dict):
        return (kind, tuple([(type(key), key) for key in tree]), tuple([_key(item, leaves) for item in tree.values()]))
    if hasattr(tree, "dtype") or hasattr(tree, "typecode") or kind is memoryview:
        return _array_key(tree, leaves)
    try:
        hash(tree)
    except TypeError:
        raise TypeError(
            f"compile: expected arguments that are numbers, nests of them, or hashable, got {kind.__name__}; close over it, or "
            f"pass what is in it"
        ) from None
    return ("other", kind, tree)


def _array_key(tree, leaves):
    """Arrays of floats are inputs, of others part of the key."""
    items = tree.tolist()
    shape = getattr(tree, "shape", None) or ()
    if not isinstance(items, list):
        return _key(items, leaves)
    if len(shape) > 1:
        return ("array", tuple([_key(row, leaves) for row in items]))
    if _core._kinds(items) & ~_NUMBERS:
        return ("array of others", tuple([type(x) for x in items]), tuple(items), hasattr(tree, "dtype"))
    leaves.extend(items)
    return ("array", len(items)) if hasattr(tree, "dtype") else (list, len(items))


def _nest(key, numbers):
    """The nest that a key describes, with the next of these numbers for inputs."""
    if key is _NUMBER:
        return next(numbers)
    kind, *rest = key
    if kind == "other":
        return rest[1]
    if kind == "array of others":
        return _as_array(rest[1], None) if rest[2] else list(rest[1])
    if kind == "array":
        return _as_array(_nest((list, rest[0]), numbers), object)
    if isinstance(rest[0], int):
        return kind([next(numbers) for _ in range(rest[0])])
    if len(rest) == 2:
        return kind(zip([key for _, key in rest[0]], [_nest(item, numbers) for item in rest[1]]))
    items = [_nest(item, numbers) for item in rest[0]]
    return kind(*items) if hasattr(kind, "_fields") else kind(items)


def _as_array(items, dtype):
    import numpy

    return numpy.array(items, dtype=dtype)
