"""Replay without functions: record() takes the graph that plain code has built and runs it again after its leaves were written.

Here are nests and what people see; the runs are in csrc/replay.pxi, programs in csrc/program.pxi. Functions, with branches that
are checked, are mingrad.compile's (mingrad/program.py).
"""

from types import GenericAlias

from . import _core
from .autodiff import _flatten, _leaves_like
from .engine import Variable
from .program import Program, _key

__all__ = ["Graph", "record"]


def record(result):
    """The graph of a result, for people who build once and iterate: ``graph.forward(); graph.backward()`` after leaves' ``.data``
    has changed, without Python.

    result: a Variable, or a nest (lists, tuples, dicts) of Variables and numbers, as your code has computed it. Returns a Graph.
    Read anew at each forward() are all leaves that ask for a gradient, and those that somebody holds when record() is called.

    **Branches are frozen**: the graph is what your code did when it ran, whatever an ``if``, a ``while``, Python's ``max`` or
    ``sorted`` decided then; other numbers do not take another way, and nothing says so. Constants of the graph are also what
    your code computed from numbers and ``requires_grad=False`` Variables alone, what stop_gradient() and detach() gave, and at
    which side of a kink a derivative in the graph was taken. Functions like mingrad.maximum, relu and abs are operations and
    choose anew. Where your code branches by value, use mingrad.compile, which checks each comparison in every run.

    Raises TypeError where the result is no Variable, RecordingError for what a custom or a compiled function has computed,
    RuntimeError for nodes with hooks.

    >>> import mingrad
    >>> w, x = mingrad.Variable(2.0), mingrad.Variable(3.0)
    >>> graph = mingrad.record((w * x - 1.0) ** 2)
    >>> w.data = 1.0
    >>> graph.forward()
    4.0
    >>> graph.backward()
    >>> w.grad, x.grad
    (12.0, 4.0)
    """
    return Graph(result)


class Graph:
    """What record() gives: a graph that is computed again and again.

    It keeps its leaves alive, not the Variables between them and the result; those keep the value and gradient of your code's
    own pass, the result included. ``backward(create_graph=True)``, hooks and detect_anomaly() are for graphs that were built
    anew.
    """

    __class_getitem__ = classmethod(GenericAlias)  # Graph[float]: in the stub it is generic

    def __init__(self, result):
        values, self._build = _flatten(result, "record")
        if not any(isinstance(x, Variable) for x in values):
            raise TypeError(f"record: expected a Variable, or a nest with some, got {type(result).__name__}")
        name = result.label if isinstance(result, Variable) else ""
        outputs = [x if isinstance(x, Variable) else float(x) for x in values]
        program = Program(name or "graph", (_key((), []), _key({}, [])), self._build)
        self._program = _core._record_graph(program, outputs)
        self._run = _core._replay(self._program, program.name)
        self._values = [x.data if isinstance(x, Variable) else x for x in outputs]

    def forward(self):
        """forward(): the result, of the leaves' ``.data`` as they are now: a float, or floats in the result's nest.

        The same bits as your code would give (but for the sign of a zero), as long as it would take the same branches. Raises
        what that raises (``log(-1.0)``: ValueError).

        >>> import mingrad
        >>> x = mingrad.Variable(2.0)
        >>> graph = mingrad.record({"square": x * x, "half": x / 2})
        >>> x.data = 3.0
        >>> graph.forward()
        {'square': 9.0, 'half': 1.5}
        """
        self._values = _core._replay_forward(self._run)
        return self.data

    def backward(self, gradient=1.0):
        """backward(gradient=1.0): add the result's derivatives to ``.grad`` of the leaves that ask for a gradient, as
        Variable.backward() would on a graph built anew.

        gradient: the adjoint to start from: a number, for each number of the result; or a nest of numbers like the result's.

        Raises RuntimeError before the first forward(), where a leaf was written since (call forward() again), where no leaf asks
        for a gradient, or where one has a hook; then no gradient has changed.

        >>> import mingrad
        >>> x = mingrad.Variable(2.0)
        >>> graph = mingrad.record([x * x, x / 2])
        >>> graph.forward()
        [4.0, 1.0]
        >>> graph.backward([1.0, 10.0])
        >>> x.grad
        9.0
        """
        if isinstance(gradient, (int, float)):
            seeds = [gradient] * len(self._values)
        else:
            seeds = _leaves_like(gradient, self.data, "graph.backward", "gradients")
            if any(isinstance(x, Variable) for x in seeds):
                raise TypeError("graph.backward: expected numbers as gradients, got Variables: nothing is recorded here")
        _core._replay_backward(self._run, [x for x, slot in zip(seeds, self._program.outputs) if not isinstance(slot, float)])

    @property
    def data(self):
        """What forward() gave last, in the result's nest; before the first one what your code gave."""
        return self._build(self._values.copy())

    @property
    def leaves(self):
        """The Variables that are read at each forward(), a list in order of creation.

        >>> import mingrad
        >>> graph = mingrad.record(mingrad.Variable(2.0) * mingrad.Variable(3.0))
        >>> graph.leaves[0].data = 5.0
        >>> graph.forward(), [v.data for v in graph.leaves]
        (15.0, [5.0, 3.0])
        """
        return list(self._program.captured)

    @property
    def program(self):
        """The graph as a Program without arguments."""
        return self._program
