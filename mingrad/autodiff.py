"""Derivatives of functions: grad, jvp, vjp, Jacobians, Hessians, to any order, with JAX's names and argument conventions.

Each transform takes a function and gives a function. It calls the function once on Variables of its own, which records a graph,
and walks that graph: down for adjoints (reverse mode), up for tangents (forward mode). The walks are in csrc/derive.pxi; here is
only what goes in and out. No ``.grad`` changes.

Arguments and results are numbers, Variables, and nested lists, tuples, dicts, VariableLists and NumPy arrays of them; other
buffers count as lists. Where all arguments are numbers and the function uses no Variable of its own, results are floats;
otherwise they are Variables that carry the graph of the derivative, so that transforms nest and a loss may contain derivatives.
"""

from collections.abc import Mapping
from itertools import islice

from . import _core
from .engine import Variable, VariableList, enable_grad, is_grad_enabled

__all__ = [
    "derivative",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "stop_gradient",
    "value_and_grad",
    "vjp",
]

# bits of _core._kinds()
_FLOATS, _INTS, _VARIABLES, _OTHERS = 1, 2, 4, 8
_AS_IT_IS = _core.Mode()


# -- nested arguments and results ------------------------------------------------------------------


def _flatten(tree, what):
    """The numbers and Variables of a nest, as a list, and a function that builds the same nest from others."""
    if type(tree) is float:
        return [tree], _first
    if type(tree) is list and _core._kinds(tree) < _OTHERS:
        return tree.copy(), _same
    if _is_leaf(tree):
        return [tree.item() if hasattr(tree, "ndim") else tree], _first
    if isinstance(tree, VariableList):
        return list(tree), lambda leaves: VariableList(leaves) if _any_variable(leaves) else list(leaves)
    if hasattr(tree, "dtype"):
        leaves, build = _flatten(_items(tree, what), what)
        return leaves, lambda leaves: _array(build(leaves))
    if isinstance(tree, Mapping):
        keys, items, kind = list(tree), list(tree.values()), dict
    else:
        keys, items = None, _items(tree, what)
        kind = type(tree) if isinstance(tree, (list, tuple)) else list
    parts = [_flatten(item, what) for item in items]

    sizes = [(len(part), below) for part, below in parts]  # build() must not hold the leaves

    def build(leaves):
        leaves, built = iter(leaves), []
        for size, below in sizes:
            built.append(below(list(islice(leaves, size))))
        if keys is not None:
            return dict(zip(keys, built))
        return kind(*built) if hasattr(kind, "_fields") else kind(built)

    return [leaf for part, _ in parts for leaf in part], build


def _same(leaves):
    """Build a list of numbers: nobody else has it."""
    return leaves


def _first(leaves):
    """Build a single number."""
    return leaves[0]


def _items(tree, what):
    """What a nest that is no dict holds. Buffers count as lists."""
    if isinstance(tree, (list, tuple, VariableList)):
        return list(tree)
    if hasattr(tree, "tolist"):
        return tree.tolist()
    raise TypeError(
        f"{what}: expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got {type(tree).__name__}"
    )


def _leaves_like(tree, other, what, name):
    """The leaves of a nest in the order of another nest's, which has the same structure. name: of the first nest."""
    if _is_leaf(other):
        if not _is_leaf(tree):
            raise ValueError(f"{what}: expected a number among the {name}, got {type(tree).__name__}")
        return _flatten(tree, what)[0]
    if isinstance(other, Mapping):
        if not isinstance(tree, Mapping) or set(tree) != set(other):
            got = f"keys {list(tree)}" if isinstance(tree, Mapping) else type(tree).__name__
            raise ValueError(f"{what}: expected a dict with keys {list(other)} among the {name}, got {got}")
        pairs = [(tree[key], item) for key, item in other.items()]
    else:
        others = _items(other, what)
        if _is_leaf(tree) or isinstance(tree, Mapping):
            raise ValueError(f"{what}: expected {len(others)} items among the {name}, got {type(tree).__name__}")
        items = _items(tree, what)
        if len(items) != len(others):
            raise ValueError(f"{what}: expected {len(others)} items among the {name}, got {len(items)}")
        if _core._kinds(items) < _OTHERS and _core._kinds(others) < _OTHERS:
            return items
        pairs = zip(items, others)
    return [leaf for item, its_like in pairs for leaf in _leaves_like(item, its_like, what, name)]


def _is_leaf(x):
    return isinstance(x, Variable) or _is_number(x)


def _is_number(x):
    return isinstance(x, (int, float)) or (hasattr(x, "dtype") and getattr(x, "ndim", None) == 0)


def _any_variable(leaves):
    return _core._kinds(leaves) >= _VARIABLES and any(isinstance(x, Variable) for x in leaves)


def _floats(xs):
    """Numbers, and the data of Variables."""
    return [x.data if isinstance(x, Variable) else float(x) for x in xs]


def _array(nest, dtype=None):
    import numpy

    return numpy.array(nest, dtype=dtype)


def _argnums(argnums, count, what):
    """The chosen arguments as a tuple of indices, and whether one was asked for alone."""
    if type(argnums) is int and 0 <= argnums < count:
        return (argnums,), True
    alone = not isinstance(argnums, (tuple, list))
    chosen = (argnums,) if alone else tuple(argnums)
    for index in chosen:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{what}: expected argnums to be an int or a tuple of ints, got {argnums!r}")
        if not -count <= index < count:
            raise ValueError(
                f"{what}: argnums {index} is out of range: the function was called with {count} positional arguments"
            )
    chosen = tuple(index % count for index in chosen)
    if len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(f"{what}: expected different arguments in argnums, at least one, got {argnums!r}")
    return chosen, alone


class _Call:
    """One call of a function on Variables of our own in place of the chosen arguments.

    inputs: those Variables. result: what the function gave; outputs: its leaves, numbers among them; build: makes its nest of
    others. aux: what else it gave. graph: whether derivatives must be recorded,
    because an argument is a Variable or the function uses one of its own; recording: whether anything may be.
    """

    def __init__(self, what, function, args, kwargs, chosen, has_aux=False):
        if not callable(function):
            raise TypeError(f"{what}: expected a function, got {type(function).__name__}")
        self.what = what
        leaves, self.builds, self.sizes = [], [], []
        for index in chosen:
            found, build = _flatten(args[index], what)
            leaves += found
            self.builds.append(build)
            self.sizes.append(len(found))
        kinds = _core._kinds(leaves)
        if kinds & ~(_FLOATS | _VARIABLES):
            for x in leaves:
                if isinstance(x, int):
                    raise TypeError(
                        f"{what}: expected floats to differentiate by, got the {type(x).__name__} {x!r}; a derivative says what a "
                        f"small change of a real number does: write {'a float' if abs(x) > 2**53 else float(x)}, or name the other "
                        f"arguments in argnums"
                    )
        self.recording = is_grad_enabled()
        with _AS_IT_IS if self.recording else enable_grad():
            self.graph = kinds >= _VARIABLES and self.carries_graph(leaves)
            self.inputs = _core._inputs(leaves)
            args = list(args)
            for index, value in zip(chosen, self.nests(self.inputs)):
                args[index] = value
            result = function(*args, **kwargs)
        self.aux, self.differentiated = None, False
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(
                    f"{what}: with has_aux the function must give a pair (output, aux), got {type(result).__name__}"
                )
            result, self.aux = result
        self.result = result
        if type(result) is Variable:
            self.outputs, self.build = [result], _first
        else:
            self.outputs, self.build = _flatten(result, f"{what}: the function's result")

    def nests(self, leaves):
        """A flat list as the nests of the chosen arguments."""
        if len(self.builds) == 1:
            return [self.builds[0](leaves.copy())]
        nests, at = [], 0
        for build, size in zip(self.builds, self.sizes):
            nests.append(build(leaves[at : at + size]))
            at += size
        return nests

    def scalar(self):
        """The one number that grad needs."""
        if self.build is not _first:
            raise TypeError(
                f"{self.what}: expected a function with one number as its result, got a {type(self.result).__name__} of "
                f"{len(self.outputs)}; use jacrev or jacfwd for those"
            )
        return self.outputs[0]

    def carries_graph(self, leaves):
        """Whether what is computed from these is to be recorded."""
        return self.recording and _any_variable(leaves) and any(isinstance(x, Variable) and x.requires_grad for x in leaves)

    def own(self, values, graph=False):
        """Derivatives, or values, as they go to the caller: floats where nothing is recorded, else Variables."""
        if not (self.graph or graph):
            if _core._kinds(values) == _FLOATS:
                return values
            return _floats(values)
        return [x if isinstance(x, Variable) else Variable(x, requires_grad=False) for x in values]

    def adjoints(self, seeds, outputs=None):
        """Adjoints of the inputs for seeds at the outputs, or at some of them."""
        outputs = self.outputs if outputs is None else outputs
        if not self.graph and not _any_variable(seeds):
            found = _core._adjoint_values(outputs, seeds, self.inputs)
            if found is not None:
                return found
            self.graph = self.recording
        with enable_grad():
            return _core._adjoints(outputs, seeds, self.inputs)

    def differentiate(self):
        """Put the gradient of the one output, recorded, in the outputs' place."""
        with enable_grad():
            self.outputs = _core._adjoints([self.scalar()], [1.0], self.inputs)
        self.differentiated = True

    def tangents(self, directions):
        """Tangents of the outputs, a list for each direction, which is a list of tangents of the inputs. directions None: by
        each input."""
        if not self.graph and not (directions and any(map(_any_variable, directions))):
            found = _core._tangent_values(self.outputs, self.inputs, directions)
            if found is not None:
                return found
            self.graph = self.recording
        if directions is None:
            directions = _unit_rows(len(self.inputs))
        with enable_grad():
            return [_core._tangents(self.outputs, self.inputs, direction) for direction in directions]

    def curvatures(self, directions):
        """Second derivatives of the one output times directions, a list for each; directions None: by each input."""
        if not self.differentiated:
            if not self.graph and not (directions and any(map(_any_variable, directions))):
                found = _core._second_values(self.scalar(), self.inputs, directions)
                if found is not None:
                    return found
            self.differentiate()
        return self.tangents(directions)


def _unit_rows(count):
    """The rows of the unit matrix."""
    return [[0.0] * k + [1.0] + [0.0] * (count - 1 - k) for k in range(count)]


# -- gradients -------------------------------------------------------------------------------------


def stop_gradient(x):
    """x, without what it was made from: derivatives take it for a constant.

    x: a number, a Variable, or a nest of them; the result has the same nest, with constant Variables for Variables.

    >>> from mingrad import grad, stop_gradient
    >>> grad(lambda x: x * stop_gradient(x))(3.0)
    3.0
    """
    leaves, build = _flatten(x, "stop_gradient")
    return build([leaf.detach() if isinstance(leaf, Variable) else leaf for leaf in leaves])


def grad(f, argnums=0, has_aux=False):
    """The gradient of a function with one number as its result.

    f: the function. argnums: which positional argument to differentiate by, an int, or a tuple of ints (then the result is a
    tuple). has_aux: f gives a pair (number, anything), and so does the new function: (gradient, anything).

    The new function takes f's arguments and gives a gradient of the argument's nest: floats, or Variables where the gradient
    can itself be differentiated (see the module's text). Reverse mode: its cost does not grow with the number of arguments.

    Raises TypeError for a result that is not one number and for arguments that are no numbers, ValueError for argnums out of
    range.

    >>> from mingrad import grad
    >>> grad(lambda x: x**3)(2.0)
    12.0
    >>> grad(grad(lambda x: x**3))(2.0)
    12.0
    >>> grad(lambda p: p["a"] * p["b"][0])({"a": 2.0, "b": [5.0, 1.0]})
    {'a': 5.0, 'b': [2.0, 0.0]}
    """
    both = _value_and_grad("grad", f, argnums, has_aux)

    def gradient(*args, **kwargs):
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return gradient


def value_and_grad(f, argnums=0, has_aux=False):
    """As :func:`grad`, but the new function gives (value, gradient), or ((value, aux), gradient). With SciPy:
    ``scipy.optimize.minimize(value_and_grad(f), x0, jac=True)``.

    >>> from mingrad import value_and_grad
    >>> value_and_grad(lambda x: x * x)(3.0)
    (9.0, 6.0)
    """
    return _value_and_grad("value_and_grad", f, argnums, has_aux)


def _value_and_grad(what, f, argnums, has_aux):
    def both(*args, **kwargs):
        chosen, alone = _argnums(argnums, len(args), what)
        if hasattr(f, "_gradient") and not kwargs and not has_aux:  # a function that compile() has recorded
            found = f._gradient(args, chosen)
            if found is not None:
                return found[0], found[1][0] if alone else tuple(found[1])
        call = _Call(what, f, args, kwargs, chosen, has_aux)
        y = call.scalar()
        gradient = call.nests(call.own(call.adjoints([1.0])))
        (value,) = call.own([y])
        gradient = gradient[0] if alone else tuple(gradient)
        return ((value, call.aux) if has_aux else value), gradient

    return both


# -- products with Jacobians -----------------------------------------------------------------------


def jvp(f, primals, tangents, has_aux=False):
    """Forward mode: f(*primals) and its derivative in the direction tangents.

    primals: a list or tuple of f's arguments. tangents: the same with the same nests. Gives (outputs, output tangents), with
    has_aux also aux. One forward sweep, whatever the number of outputs.

    Raises TypeError or ValueError where primals and tangents differ in structure.

    >>> import mingrad
    >>> mingrad.jvp(lambda x, y: x * y, (2.0, 3.0), (1.0, 0.0))
    (6.0, 3.0)
    """
    primals, direction = _same_structure("jvp", primals, tangents)
    call = _Call("jvp", f, primals, {}, tuple(range(len(primals))), has_aux)
    call.graph |= call.carries_graph(direction)
    (found,) = call.tangents([direction])
    out = call.build(call.own(call.outputs.copy())), call.build(call.own(found))
    return (*out, call.aux) if has_aux else out


def vjp(f, *primals, has_aux=False):
    """Reverse mode: f(*primals) and a function from adjoints of its outputs to a tuple with those of each argument.

    The function may be called any number of times. Gives (outputs, function), with has_aux also aux.

    Raises TypeError for arguments that are no numbers; the function ValueError for adjoints of another structure.

    >>> import mingrad
    >>> out, pull = mingrad.vjp(lambda x, y: (x * y, x + y), 2.0, 3.0)
    >>> out, pull((1.0, 0.0))
    ((6.0, 5.0), (3.0, 2.0))
    """
    call = _Call("vjp", f, primals, {}, tuple(range(len(primals))), has_aux)

    def pull(cotangent):
        seeds = _leaves_like(cotangent, call.result, "vjp", "adjoints")
        return tuple(call.nests(call.own(call.adjoints(seeds), call.carries_graph(seeds))))

    out = call.build(call.own(call.outputs.copy()))
    return (out, pull, call.aux) if has_aux else (out, pull)


def _same_structure(what, primals, tangents):
    """primals as a tuple, and tangents flat."""
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (list, tuple)):
            raise TypeError(
                f"{what}: expected {name} to be a list or tuple of the function's arguments, got {type(given).__name__}"
            )
    if len(primals) != len(tangents):
        raise ValueError(f"{what}: expected as many tangents as primals, got {len(tangents)} and {len(primals)}")
    direction = []
    for x, tangent in zip(primals, tangents):
        direction += _leaves_like(tangent, x, what, "tangents")
    return tuple(primals), direction


# -- Jacobians and Hessians ------------------------------------------------------------------------


def _jacobian(what, f, argnums, has_aux, forward):
    """forward(inputs, outputs) says which mode to use."""

    def jacobian(*args, **kwargs):
        chosen, alone = _argnums(argnums, len(args), what)
        call = _Call(what, f, args, kwargs, chosen, has_aux)
        n, m = len(call.inputs), len(call.outputs)
        if forward(n, m):
            rows = list(map(list, zip(*call.tangents(None)))) if n else [[] for _ in range(m)]
        else:
            rows = [call.adjoints([1.0], [output]) for output in call.outputs]  # seeds of 0 for the others might meet inf
        nests = [call.nests(call.own(row)) for row in rows]
        found = call.build([_Nest(row[0] if alone else tuple(row)) for row in nests])
        found = _unwrapped(found)
        return (found, call.aux) if has_aux else found

    return jacobian


class _Nest:
    """A nest in the place of a leaf."""

    def __init__(self, nest):
        self.nest = nest


def _unwrapped(tree):
    """The nests in place of the leaves; arrays are put together."""
    if isinstance(tree, _Nest):
        return tree.nest
    if isinstance(tree, dict):
        return {key: _unwrapped(item) for key, item in tree.items()}
    if hasattr(tree, "ndim"):
        return _array([_unwrapped(item) for item in tree.tolist()] if tree.ndim == 1 else [_unwrapped(row) for row in tree])
    if hasattr(tree, "_fields"):
        return type(tree)(*map(_unwrapped, tree))
    return type(tree)(map(_unwrapped, tree))


def jacfwd(f, argnums=0, has_aux=False):
    """The Jacobian by forward mode: one sweep for each input, eight side by side. For few inputs and many outputs.

    f: any nest of numbers as result. argnums, has_aux: as in :func:`grad`. The new function gives f's nest with the nest of
    the argument in place of each number: jacobian[output][input].

    >>> from mingrad import jacfwd
    >>> jacfwd(lambda x: [x[0] * x[1], x[0]])([2.0, 3.0])
    [[3.0, 2.0], [1.0, 0.0]]
    """
    return _jacobian("jacfwd", f, argnums, has_aux, lambda n, m: True)


def jacrev(f, argnums=0, has_aux=False):
    """The Jacobian by reverse mode: one sweep for each output. For many inputs and few outputs; otherwise as :func:`jacfwd`.

    >>> from mingrad import jacrev
    >>> jacrev(lambda x: [x[0] * x[1], x[0]])([2.0, 3.0])
    [[3.0, 2.0], [1.0, 0.0]]
    """
    return _jacobian("jacrev", f, argnums, has_aux, lambda n, m: False)


def jacobian(f, argnums=0, has_aux=False):
    """The Jacobian by the cheaper mode: forward where there are no more inputs than outputs, else reverse; see :func:`jacfwd`.

    >>> from mingrad import jacobian
    >>> jacobian(lambda x: [x[0] * x[1], x[0]])([2.0, 3.0])
    [[3.0, 2.0], [1.0, 0.0]]
    """
    return _jacobian("jacobian", f, argnums, has_aux, lambda n, m: n <= m)


def hessian(f, argnums=0, has_aux=False, sparse=False):
    """The Hessian of a function with one number as its result, by forward over reverse mode.

    argnums, has_aux: as in :func:`grad`; the result has the argument's nest, with the same nest in place of each number.
    sparse: instead give (rows, columns, values), lists for ``scipy.sparse.coo_array((values, (rows, columns)))``: which second
    derivatives can differ from 0 is read off the graph, and columns without a common row share a sweep (Curtis, Powell and
    Reid, On the estimation of sparse Jacobian matrices, 1974). rows and columns count the argument's numbers in order.

    Raises as grad; ValueError for sparse with several argnums.

    >>> from mingrad import hessian
    >>> hessian(lambda x: x[0] ** 2 * x[1])([3.0, 5.0])
    [[10.0, 6.0], [6.0, 0.0]]
    >>> hessian(lambda x: x[0] ** 2 + x[1], sparse=True)([3.0, 5.0])
    ([0], [0], [2.0])
    """

    def second(*args, **kwargs):
        chosen, alone = _argnums(argnums, len(args), "hessian")
        if sparse and not alone:
            raise ValueError("hessian: expected one argument with sparse=True, got several argnums")
        call = _Call("hessian", f, args, kwargs, chosen, has_aux)
        call.scalar()
        if sparse:
            pattern = _pattern(call, None)
            place, columns = _columns(call, pattern, *_core._groups(pattern))
            found = (
                [j for j, row in enumerate(pattern) for _ in row],
                [k for row in pattern for k in row],
                call.own([columns[place[k]][j] for j, row in enumerate(pattern) for k in row]),
            )
        elif call.builds == [_same]:
            found = list(map(call.own, _rows(call)))
        else:
            rows = [call.nests(call.own(row)) for row in _rows(call)]
            nests = call.nests([_Nest(row[0] if alone else tuple(row)) for row in rows])
            found = _unwrapped(nests[0]) if alone else tuple(map(_unwrapped, nests))
        return (found, call.aux) if has_aux else found

    return second


def _rows(call):
    """The rows of the Hessian. A large one that is mostly zeros is found as a sparse one is."""
    n = len(call.inputs)
    if n >= 32 and not call.graph:
        pattern = _pattern(call, n * n)  # as many steps as numbers in the result: looking costs little
        if pattern is not None and sum(map(len, pattern)) < n * n // 8:
            place, groups = _core._groups(pattern)
            if groups < n // 2:
                place, columns = _columns(call, pattern, place, groups)
                rows = [[0.0] * n for _ in range(n)]
                for j, (row, ks) in enumerate(zip(rows, pattern)):
                    for k in ks:
                        row[k] = columns[place[k]][j]
                return rows
    return call.curvatures(None)  # it is symmetric: columns are rows


def _pattern(call, budget):
    """For each input those with which it has a second derivative that can differ from 0. None if that takes more steps than
    budget, where one is given."""
    pattern = None
    if not call.graph:
        pattern = _core._second_pattern(call.scalar(), call.inputs, 1 << 60 if budget is None else budget)
    if pattern is None and budget is None:
        call.differentiate()
        pattern = _core._dependence(call.outputs, call.inputs)
    return pattern


def _columns(call, pattern, place, groups):
    """One sweep for each group of columns of the Hessian: place, and the sums of the columns of each group."""
    directions = [[0.0] * len(pattern) for _ in range(groups)]
    for k, group in enumerate(place):
        if group >= 0:
            directions[group][k] = 1.0
    return place, call.curvatures(directions)


def hvp(f, primals, tangents):
    """The Hessian of f times a vector: forward mode over the gradient's graph.

    f: a function with one number as its result. primals: a list or tuple of its arguments; tangents: the vector, the same with
    the same nests. Gives one nest for each argument, as a tuple, or alone where there is one argument.

    >>> from mingrad import hvp
    >>> hvp(lambda x: x[0] ** 2 * x[1], ([3.0, 5.0],), ([1.0, 0.0],))
    [10.0, 6.0]
    """
    primals, direction = _same_structure("hvp", primals, tangents)
    call = _Call("hvp", f, primals, {}, tuple(range(len(primals))))
    call.graph |= call.carries_graph(direction)
    call.scalar()
    (found,) = call.curvatures([direction])
    nests = call.nests(call.own(found))
    return nests[0] if len(nests) == 1 else tuple(nests)


def derivative(f, n=1):
    """The n-th derivative of a function of one variable.

    f: a function from a number to a number. n: the order, 0 or more. Reverse sweeps, the last one without recording.

    Raises ValueError for n below 0, TypeError for another n.

    >>> from mingrad import derivative
    >>> derivative(lambda x: x**5, 3)(2.0)
    240.0
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"derivative: expected the order n to be an int, got {n!r}")
    if n < 0:
        raise ValueError(f"derivative: expected the order n to be 0 or more, got {n}")
    if n == 0:
        return f
    for _ in range(n):
        f = grad(f)
    return f
