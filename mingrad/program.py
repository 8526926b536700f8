"""Recorded programs: compile() records a function of plain Python once and runs it at compiled speed from then on.

Here are the arguments, the cache and what people look at; recording is in csrc/record.pxi, programs in csrc/program.pxi, rows
in mingrad/rows.py.
"""

import functools
import inspect
import threading
from collections import OrderedDict, defaultdict
from types import GenericAlias
from weakref import ref

from . import _core
from ._core import RecordingError
from .autodiff import _FLOATS, _VARIABLES, _array, _first, _flatten, _floats
from .engine import Variable, VariableList, enable_grad

__all__ = ["Compiled", "Program", "RecordingError", "compile"]

_NUMBERS = _FLOATS | _VARIABLES


def compile(f=None, *, check=False, fast=False, max_programs=64):
    """Decorator, or ``compile(f)``: f, recorded at its first call and run without Python at later ones.

    f: a function of floats, Variables and nests of them (lists, tuples, dicts, VariableLists, arrays of floats), in plain
    Python on numbers, that gives a nest of numbers. It may use Variables from outside (parameters), which are read at each call.
    check: run f itself beside every recorded run and raise RuntimeError at the first difference. max_programs: how many
    recordings are kept; the one not used for longest goes. fast: let results be rounded otherwise, see below.

    What decides which way f goes is recorded too: a comparison or truth value of Variables that comes out otherwise in a later
    call takes another recording, or makes one. Arguments that are no floats (ints, strings, None, objects) and the structure of
    nests are part of the key: another value records anew (objects that are equal to themselves only, such as a method's self, are
    not kept alive). Frozen into a recording are: global and closed-over numbers, random numbers and the time of day
    (``random.random()``, ``numpy.random``, ``time.time()``), ``requires_grad=False`` Variables made inside, and everything f does
    beside computing (printing, appending, attributes of objects). While f is recorded its floats are Variables:
    ``isinstance(x, float)`` is False then, and that is frozen too. ``check=True`` finds what is frozen and should not be.

    A recorded run gives the same bits as f and the same bits of its gradient (the sign of a zero apart), and floats or Variables
    where f does; numbers for which some operation raises are f's own matter: it is called as it is. A result takes part in an
    eager graph as one node: backward() and all transforms work. That node keeps the numbers of constants (requires_grad=False):
    writing one afterwards does not make it stale, as it would the nodes of f itself.

    With ``fast=True`` a recorded run may round otherwise than f: ``x**2``, ``x**3`` and ``x**4`` are products, ``x**0.5`` a root
    and quotients by a number products (each within 2 units in the last place of the true value for its operands); exp, log, sin and
    their like are mingrad's own vector functions (within 2 units, as in :func:`vmap`); long sums are added several terms at a
    time, with the bound that every order has: at most (n - 1) 2**-53 times the sum of the terms' absolute values. Where such a
    power overflows, the result is an infinity, not an OverflowError. With ``check=True`` results are compared to 9 digits then.

    Raises RecordingError (at the first call) where f reads a number off a Variable (.data, .item(), float(), its text), writes
    one from outside, or does another thing that a recording cannot repeat; TypeError for arrays of single precision, in which f
    would compute otherwise than a recorded run.

    >>> import mingrad
    >>> @mingrad.compile
    ... def f(x, y):
    ...     return x * y if x > y else mingrad.exp(y)
    >>> f(3.0, 2.0), mingrad.grad(f)(5.0, 2.0)
    (6.0, 2.0)
    """
    if f is None:
        return functools.partial(compile, check=check, fast=fast, max_programs=max_programs)
    return Compiled(f, check, max_programs, fast)


class Compiled:
    """A function that compile() has wrapped."""

    __class_getitem__ = classmethod(GenericAlias)  # Compiled[[Variable], Variable]: in the stub it is generic

    def __init__(self, f, check=False, max_programs=64, fast=False):
        if not callable(f):
            raise TypeError(f"compile: expected a function, got {type(f).__name__}")
        if isinstance(max_programs, bool) or not isinstance(max_programs, int) or max_programs < 1:
            raise ValueError(f"compile: expected max_programs to be an int of at least 1, got {max_programs!r}")
        functools.update_wrapper(self, f)
        self._function = f
        self._check, self._fast = check, fast
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
            found = _core._run(path, leaves, self._name)
            if found is not None:
                if k:
                    with self._lock:
                        if k < len(paths) and paths[k] is path:
                            paths.insert(0, paths.pop(k))
                break
        else:
            path = self._record_into(paths, key, args, kwargs, leaves)
            found = path is not None and _core._run(path, leaves, self._name, True)
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

    def _gradient(self, args, chosen):
        """For value_and_grad(): the recorded function's value and its gradients by the chosen arguments without the tape; None
        where that is not possible: no recording yet, other arguments than floats, lists of them and arrays, parameters that take
        part in derivatives."""
        if self._check or _core._is_recording():
            return None
        key, gradients = [], []
        for k, arg in enumerate(args):
            if type(arg) is float:
                key.append(_NUMBER)
            elif type(arg) is list and arg and _core._kinds(arg) == _FLOATS:
                key.append((list, len(arg)))
            elif _is_vector(arg):
                key.append(("array", len(arg)))
            else:
                return None
            gradients.append(None if k not in chosen else arg.copy() if hasattr(arg, "dtype") else 0)
        for program in self._paths.get((tuple, tuple(key)), ()):
            if program.build is not _first or isinstance(program.outputs[0], float):
                return None
            if any(v.requires_grad for v in program.captured):
                return None
            value = _core._gradient(program, list(args), gradients)
            if value is not None:
                return None if value is False else (value, [gradients[k] for k in chosen])
        return None

    def _path_of(self, args, known):
        """The recording for these arguments that is none of those known, an old one or a new one."""
        leaves = []
        key = _key(tuple(args), leaves)
        with self._lock:
            paths = self._paths.setdefault(key, [])
        for path in paths:
            if path not in known:
                return path
        path = self._record_into(paths, key, tuple(args), {}, leaves)
        if path is None:
            self._function(*args)  # raises what there is to raise
            raise RecordingError(
                f"compile: {self._name} has caught what an operation raised, so there is no recording for these numbers"
            )
        return path

    def _record_into(self, paths, key, args, kwargs, leaves):
        """A new recording, kept. None where an operation has raised."""
        path = None
        try:
            path = self._record(args, kwargs, leaves)
        finally:
            with self._lock:
                if path is not None:
                    paths.insert(0, path)
                    self._paths[key] = paths
                    self._drop()
                elif not paths and self._paths.get(key) is paths:
                    del self._paths[key]
        return path

    def _record(self, args, kwargs, leaves, lines=False):
        keys = _key(args, []), _key(kwargs, [])
        values = _floats(leaves)
        with enable_grad(), _core.Recording(lines) as recording:
            (base,) = recording.inputs([0.0])
            inputs = recording.inputs(values)
            numbers = iter(inputs)
            args, kwargs = (_nest(key, numbers) for key in keys)
            try:
                outputs, build = _flatten(self._function(*args, **kwargs), f"compile: {self._name}'s result")
            except Exception:
                if recording.raised:
                    return None
                raise
            if recording.raised:  # and caught
                return None
            outputs = [float(x) if not isinstance(x, Variable) else x for x in outputs]
            program = _core._program(Program(self._name, keys, build), inputs, outputs, recording.guards, base)
        program.fast = self._fast
        program.numbers, program.compiled = values, ref(self)
        return program

    def _drop(self):
        """Forget the recordings of objects that are gone, and what has not been used for longest where there are too many."""
        for key in [key for key in self._paths if _is_gone(key)]:
            del self._paths[key]
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
            if self._fast and abs(x - y) <= 1e-9 * max(abs(x), abs(y)):
                continue
            if x != y and (x == x or y == y):
                raise RuntimeError(
                    f"compile(check=True): number {k} of {self._name}'s result is {y!r}, but the recorded run gave {x!r}: the "
                    f"function depends on something that is no argument, comparison or Variable (a global, a random number, a "
                    f"file); pass it as an argument"
                )

    @property
    def programs(self):
        """The recordings, as a list of Program, which show their sizes; the latest used of each key first.

        >>> import mingrad
        >>> f = mingrad.compile(lambda x: x * x if x > 0 else -x)
        >>> f(2.0), f
        (4.0, <compiled <lambda>: 1 program>)
        >>> f(-2.0), f.programs  # doctest: +ELLIPSIS
        (2.0, [<Program <lambda>: 2 rows, 1 input, 0 Variables from outside, 1 comparison>, <Program <lambda>: 2 rows, ...>])
        """
        with self._lock:
            return [path for key, paths in self._paths.items() if not _is_gone(key) for path in paths]

    def clear(self):
        """Forget all recordings.

        >>> import mingrad
        >>> f = mingrad.compile(lambda x: x * x)
        >>> f(2.0), f.clear(), f.programs
        (4.0, None, [])
        """
        with self._lock:
            dropped, self._paths = self._paths, OrderedDict()
        dropped.clear()  # may run code, so not while the lock is held

    def __repr__(self):
        return f"<compiled {self._name}: {_count(len(self.programs), 'program')}>"

    def _repr_html_(self):
        from .visualize.reprs import compiled

        return compiled(self)


class Program(_core.Program):
    """One recording of a function: a graph that runs on other numbers. ``len(program)``: how many rows.

    >>> import mingrad
    >>> f = mingrad.compile(lambda x: x * x + 1)
    >>> f(2.0), f.programs[0].name, len(f.programs[0])
    (5.0, '<lambda>', 3)
    """

    def __init__(self, name, keys, build):
        self.name = name
        self.keys = keys  # of args and kwargs: see _key()
        self.build = build  # of a list of its outputs the function's result
        self.numbers = self.compiled = None  # the inputs at the recording, and a weak reference to the Compiled

    def __repr__(self):
        return f"<Program {self.name}: {_count(len(self), 'row')}, {_operands(self)}>"

    def _repr_html_(self):
        from .visualize.reprs import program

        return program(self)

    def summary(self):
        """What the optimiser has made of the recording, as text: rows before, steps after, bytes, the kernels with the lines they
        come from, and what stopped a fusion.

        A step computes results side by side; a chain is a sum of products (or of numbers), one after the other. The steps are
        those of the latest run: with the gradient's once somebody has asked for one. For the lines the function is called once
        more, with the numbers of the recording; where it then does something else, and for a program from a file, there are none.

        >>> import mingrad
        >>> f = mingrad.compile(lambda xs: sum(x * x for x in xs))
        >>> f([1.0, 2.0, 3.0]), f([1.0, 2.0, 3.0])
        (14.0, 14.0)
        >>> print(f.programs[0].summary().splitlines()[0])
        <lambda>: 9 rows recorded, 1 step
        """
        from .program_summary import summarize

        return summarize(self)

    def __call__(self, *args, **kwargs):
        """The function's result for these arguments, by this recording alone.

        Arguments have the structure they were recorded with (positional ones are passed by position), and comparisons come out
        as recorded: a program has no function to go another way. What it raises, and how it takes part in an eager graph, is as
        for the compiled function.

        Raises TypeError for arguments of another structure, RecordingError for a comparison that comes out otherwise.

        >>> import mingrad
        >>> f = mingrad.compile(lambda x, y: x * y if x > y else y)
        >>> f(3.0, 2.0), f.programs[0](5.0, 4.0)
        (6.0, 20.0)
        """
        leaves = []
        kwargs = {name: kwargs[name] for _, name in self.keys[1][1] if name in kwargs} | kwargs  # in the order of recording
        keys = _key(args, leaves), _key(kwargs, leaves)
        if keys != self.keys:
            from .program_file import describe_arguments

            raise TypeError(
                f"{self.name}: expected arguments {describe_arguments(self.keys)}, got {describe_arguments(keys)}; a program "
                f"takes the structure it was recorded with, of which only floats and Variables may change"
            )
        found = False if _core._is_recording() else _core._run(self, leaves, self.name)
        return self.build(found if isinstance(found, list) else _core._run_eagerly(self, leaves, self.name))

    def map(self, X, threads=1, grad=None, *, errors="ignore", progress=False, out=None):
        """This recording on every row of X, without the GIL and without the function.

        X: an array of shape (N, n_inputs) of float64, a column for each number among the function's arguments, in order; or a
        list of n_inputs columns; or an array of shape (N,) where there is one input. grad: None; 'rows' to give the pair
        (results, gradients of the result by each row's inputs, of X's form); 'sum' to add the gradient of the sum over all rows
        to ``.grad`` of the parameters. threads, errors, progress, out and the results: as in :func:`mingrad.vmap`.

        Raises ValueError for the first row that goes another way through the function than the one recorded, naming the
        comparison; mingrad.vmap(f), which has the function, records that way.

        >>> import mingrad
        >>> f = mingrad.compile(lambda x, y: x * y if x > y else y)
        >>> f(3.0, 2.0), f.programs[0].map([[3.0, 5.0], [2.0, 4.0]]).tolist()
        (6.0, [6.0, 20.0])
        """
        from .rows import map_program

        return map_program(self, X, threads, grad, errors, progress, out)

    def save(self, path):
        """Write the program to a file: whole or not at all, see mingrad.files.write_file().

        path: str, bytes or path-like; any name. The file holds the rows, the captured Variables (parameters) with their present
        values, labels and requires_grad, and the structure of arguments and results, in a format of its own that is data alone
        (mingrad/program_file.py). Program.load() needs neither the function nor its module.

        Raises TypeError where an argument that is no number is none of str, int, float, bool, bytes and None, or a nest no plain
        list, tuple, dict, VariableList or array; ValueError for nests more than 100 deep; OSError where it cannot be written.

        >>> import mingrad
        >>> w = mingrad.Variable(2.0, label="w")
        >>> f = mingrad.compile(lambda x: w * x)
        >>> f(3.0).data
        6.0
        >>> f.programs[0].save("f.program")
        >>> program = mingrad.Program.load("f.program")
        >>> program(4.0).data, program.captured[0].label
        (8.0, 'w')
        """
        from .program_file import write_program

        write_program(self, path)

    @classmethod
    def load(cls, path):
        """The program in a file that save() has written. Nothing in the file is executed.

        ``program.captured`` are new Variables with the values, labels and requires_grad of those that were saved, ready for an
        optimiser.

        Raises mingrad.files.FileFormatError, a ValueError, for a file that is no program, not whole, of another version of the
        format, or with an op that this mingrad does not know; OSError for one that cannot be read; ImportError where a result
        is an array and NumPy is not installed.
        """
        from .program_file import read_program

        return read_program(cls, path)

    def to_c(self, name, gradient=True):
        """The program as one self-contained C99 file, as a string: a function ``name``, and with gradient ``name_gradient``, which
        gives the result and its derivatives by all inputs and parameters.

        name: a C identifier. gradient: True needs a program with one number as its result. The file needs libm and nothing else,
        allocates nothing and can be called from several threads; its comment says what the arrays hold. Both functions return 0, or
        k where comparison k comes out otherwise than recorded. Values and derivatives are those of the recorded run to the bit,
        where libm is the same and the compiler contracts nothing (``cc -std=c99 -O2 -ffp-contract=off``); those of ``fast=True``
        are rounded as close, but with libm's functions. Where mingrad raises there are infinities and nan.

        Raises ValueError for a name that C has a use for, and for gradient=True with several results.

        >>> import mingrad
        >>> f = mingrad.compile(lambda x: x * x + 1)
        >>> f(2.0)
        5.0
        >>> text = f.programs[0].to_c("parabola")
        >>> "int parabola_gradient(const double *x, double *y, double *gx, double *work)" in text
        True
        """
        from . import export

        return export.to_c(self, name, gradient)

    def to_python(self, name, gradient=True):
        """The program as Python source that imports nothing but math: a function ``name`` of a list of inputs (and one of
        parameters, if it has any), and with gradient ``name_gradient``, which gives (result, derivatives by inputs, by parameters).

        name: a Python identifier. gradient: True needs a program with one number as its result. One line for each value, so meant
        for programs that people read. Values and derivatives are those of the recorded run to the bit. The source raises ValueError
        where a comparison comes out otherwise than recorded, and what Python's float and math raise, also where a derivative is
        infinite. exp2 and cbrt need Python 3.11.

        Raises ValueError for a name that is none, for gradient=True with several results, and for digamma, which math has not got
        (lgamma's derivative needs it).

        >>> import mingrad
        >>> f = mingrad.compile(lambda x: x * x + 1)
        >>> f(2.0)
        5.0
        >>> names = {}
        >>> exec(f.programs[0].to_python("parabola"), names)
        >>> names["parabola"]([3.0]), names["parabola_gradient"]([3.0])
        (10.0, (10.0, [6.0]))
        """
        from . import export

        return export.to_python(self, name, gradient)


def _count(n, what):
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _operands(program):
    """What a program reads and compares, for people."""
    outside, compared = _count(len(program.captured), "Variable"), _count(len(program.guards), "comparison")
    return f"{_count(program.n_inputs, 'input')}, {outside} from outside, {compared}{', fast' if program.fast else ''}"


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
    if isinstance(tree, (list, tuple, dict)) and getattr(tree, "__dict__", None):
        raise TypeError(
            f"compile: expected lists, tuples and dicts that hold nothing else, got a {kind.__name__} with attributes "
            f"{list(tree.__dict__)}; pass those as arguments of their own"
        )
    if isinstance(tree, (list, tuple)):
        return (kind, tuple([_key(item, leaves) for item in tree]))
    if isinstance(tree, dict):
        keys, items = tuple([(type(key), key) for key in tree]), tuple([_key(item, leaves) for item in tree.values()])
        return (kind, keys, items, _key(tree.default_factory, [])) if isinstance(tree, defaultdict) else (kind, keys, items)
    if hasattr(tree, "dtype") or hasattr(tree, "typecode") or kind is memoryview:
        return _array_key(tree, leaves)
    try:
        hash(tree)
    except TypeError:
        raise TypeError(
            f"compile: expected arguments that are numbers, nests of them, or hashable, got {kind.__name__}; close over it, or "
            f"pass what is in it"
        ) from None
    if kind.__hash__ is object.__hash__:
        try:
            return ("weak", kind, _Weak(tree))
        except TypeError:  # None and its like
            pass
    return ("other", kind, tree)


class _Weak(ref):
    """In a key: an object that is equal to itself only."""

    __slots__ = ()


def _is_gone(key):
    """Whether an object in a key has died, so that no call can have this key."""
    return key() is None if type(key) is _Weak else type(key) is tuple and any(map(_is_gone, key))


def _array_key(tree, leaves):
    """Arrays of floats are inputs, of others part of the key."""
    if hasattr(tree, "dtype") and getattr(tree.dtype, "kind", "") == "f" and tree.dtype.itemsize != 8:
        raise TypeError(
            f"compile: expected arrays of float64, got {tree.dtype}, in whose precision the function itself would compute; "
            "convert it with .astype(float)"
        )
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
    if kind == "weak":
        return rest[1]()
    if kind == "array of others":
        return _array(rest[1]) if rest[2] else list(rest[1])
    if kind == "array":
        return _array(_nest((list, rest[0]), numbers), object)
    if isinstance(rest[0], int):
        return kind([next(numbers) for _ in range(rest[0])])
    if len(rest) > 1:
        nest = kind(*[_nest(factory, numbers) for factory in rest[2:]])
        for (_, key), item in zip(*rest[:2]):
            nest[key] = _nest(item, numbers)
        return nest
    items = [_nest(item, numbers) for item in rest[0]]
    return kind(*items) if hasattr(kind, "_fields") else kind(items)


def _is_vector(x):
    """Is x an array of float64 whose numbers stand side by side?"""
    return hasattr(x, "dtype") and x.dtype == float and x.ndim == 1 and x.flags.c_contiguous and len(x) > 0
