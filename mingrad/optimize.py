"""SciPy's minimize with exact derivatives, for functions of nested numbers in plain mingrad.

SciPy does the minimizing (extra ``scipy``). Here is what stands between it and the function: nests
on one side, flat arrays on the other. A function is called once at a point; its graph is kept, and
value, gradient, Jacobian, Hessian and products with it are read off that one graph when SciPy asks
for them. No ``.grad`` changes.
"""

from collections.abc import Mapping
from copy import copy
from inspect import signature

from .autodiff import _array, _Call, _flatten, _floats, _is_leaf, _is_number, _items, _rows
from .engine import dot, enable_grad, no_grad

__all__ = ["minimize"]

# What SciPy's methods take: g the gradient, H the Hessian as a matrix, p products with it,
# v Hessians of constraints, b bounds, c constraints.
_METHODS = {
    "Nelder-Mead": "b",
    "Powell": "b",
    "CG": "g",
    "BFGS": "g",
    "Newton-CG": "gp",
    "L-BFGS-B": "gb",
    "TNC": "gb",
    "COBYLA": "bc",
    "COBYQA": "bc",
    "SLSQP": "gbc",
    "trust-constr": "gHpvbc",
    "dogleg": "gH",
    "trust-ncg": "gp",
    "trust-exact": "gH",
    "trust-krylov": "gp",
}
# trust-constr gets a matrix for up to this many numbers, then products. It asks for 10 to 16
# products at a point (the other methods that take products for 2 to 4), and a matrix costs as much
# as 2 or 3 products for 10 numbers, 7 to 10 for 50, 10 to 20 for 100, 80 to 370 for 1000.
_DENSE = 50


def minimize(
    f,
    x0,
    args=(),
    *,
    method=None,
    bounds=None,
    constraints=(),
    hessian=None,
    tol=None,
    callback=None,
    options=None,
    jac=None,
    hess=None,
    hessp=None,
):
    """Minimize a function by ``scipy.optimize.minimize`` with exact derivatives.

    f: a function with one number as its result, called as f(x, *args) with Variables in x0's nest.
    x0: where to start: a number, a nested list, tuple or dict of numbers, a VariableList, a NumPy
    array of any shape. Ints count as floats.
    args: further arguments of f, by which nothing is differentiated.
    method: SciPy's Nelder-Mead, Powell, CG, BFGS, Newton-CG, L-BFGS-B, TNC, COBYLA, COBYQA, SLSQP,
    trust-constr, dogleg, trust-ncg, trust-exact or trust-krylov, or a function in SciPy's form for
    such. None: BFGS, with bounds L-BFGS-B, with constraints SLSQP.
    bounds: x0's nest with a pair (low, high) for each number, None in it for no bound; a pair or
    None can also stand for a part of the nest or for all of it. Or one pair for each number in a
    flat list, or SciPy's Bounds.
    constraints: SciPy's dicts, NonlinearConstraint and LinearConstraint, one or a list. Their fun
    gets x as f does and gives a number or a nest of numbers. Jacobians are exact, with trust-constr
    Hessians too, but a jac or hess function that is given is used: it gets floats in x0's nest and
    gives what SciPy expects, columns being x0's numbers in order.
    hessian: None for the exact one, or a HessianUpdateStrategy such as ``scipy.optimize.BFGS()``.
    tol, options: SciPy's.
    callback: called after each iteration as SciPy does it, as callback(intermediate_result=...)
    where that is the only parameter's name, else as callback(x), with x in x0's nest, of floats.
    jac, hess, hessp: refused, since they are computed.

    Gives SciPy's OptimizeResult. Its x is in x0's nest, of floats; in everything else (jac, hess,
    hess_inv, grad, ...) x0's numbers stand flat and in order. No Variable is written, and where f
    uses Variables of yours, nothing can be differentiated by them through minimize. What f raises
    passes through; under ``errstate(all="ignore")`` f gives inf or nan where it would raise.

    f is called once at a point. The gradient is one reverse sweep of its graph. dogleg and
    trust-exact get the Hessian as a matrix, trust-constr too for up to 50 numbers; other methods
    that use it get products with it, each one sweep forward and one back.

    Raises ImportError without SciPy; TypeError for a result of f that is not one number, for
    anything but numbers in x0, for jac and the like; ValueError for an empty x0, an unknown method,
    bounds, constraints or a hessian that the method does not take, bounds of another structure.

    >>> import mingrad
    >>> rosen = lambda x: 100 * (x["b"] - x["a"] ** 2) ** 2 + (1 - x["a"]) ** 2
    >>> result = mingrad.minimize(rosen, {"a": -1.2, "b": 1.0}, method="trust-exact")
    >>> {key: round(value, 6) for key, value in result.x.items()}
    {'a': 1.0, 'b': 1.0}
    >>> result = mingrad.minimize(rosen, {"a": 0, "b": 0}, bounds={"a": (None, 0.5), "b": None})
    >>> {key: round(value, 6) for key, value in result.x.items()}
    {'a': 0.5, 'b': 0.25}
    """
    optimize = _scipy()
    for name, given in (("jac", jac), ("hess", hess), ("hessp", hessp)):
        if given is not None:
            raise TypeError(
                f"minimize: {name} is computed, exactly; leave it out, or call "
                "scipy.optimize.minimize with a derivative of your own"
            )
    _expect_function(f, "")
    leaves, build = _flatten(x0, "minimize")
    if not leaves:
        raise ValueError(f"minimize: expected at least one number in x0, got {x0!r}")
    start = _array(_floats(leaves), float)
    takes = _what_is_taken(method)
    if hessian is not None:
        _expect_strategy(hessian, takes, method, optimize)
        takes = takes.translate(dict.fromkeys(map(ord, "Hpv")))
    if bounds is not None:
        _expect_taken("b", "bounds", takes, method)
        bounds = _bounds(bounds, x0, len(leaves), optimize)
    constraints = _listed(constraints)
    if constraints:
        _expect_taken("c", "constraints", takes, method)
        constraints = [_constraint(c, build, len(leaves), takes, optimize) for c in constraints]

    function = _Function(f, build, args if isinstance(args, tuple) else (args,), takes)
    derivatives = {"jac": function.gradient} if "g" in takes else {}
    if hessian is not None:
        derivatives["hess"] = hessian
    elif "H" in takes and ("p" not in takes or len(leaves) <= _DENSE):
        derivatives["hess"] = function.hessian
    elif "p" in takes:
        derivatives["hessp"] = function.product
    result = optimize.minimize(
        function.value,
        start,
        method=method,
        bounds=bounds,
        constraints=constraints,
        tol=tol,
        callback=None if callback is None else _callback(callback, build),
        options=options,
        **derivatives,
    )
    result.x = build(_array(result.x, float).ravel().tolist())
    return result


def _scipy():
    try:
        import scipy.optimize
    except ImportError as error:
        raise ImportError('minimize needs the package scipy: python -m pip install "mingrad[scipy]"') from error
    return scipy.optimize


# -- what was given --------------------------------------------------------------------------------


def _expect_function(f, where):
    if not callable(f):
        raise TypeError(f"minimize: expected a function{where}, got {type(f).__name__}")


def _what_is_taken(method):
    """The method's letters."""
    if method is None:
        return "gbc"
    if callable(method):
        return "gHbc"
    for name, takes in _METHODS.items():
        if isinstance(method, str) and method.lower() == name.lower():
            return takes
    raise ValueError(f"minimize: expected method to be None, a function or one of {', '.join(_METHODS)}, got {method!r}")


def _expect_taken(letter, what, takes, method):
    """SciPy warns and goes on without, which answers another question."""
    if letter not in takes:
        others = ", ".join(name for name, letters in _METHODS.items() if letter in letters)
        raise ValueError(f"minimize: method {method!r} takes no {what}; leave it out, or choose one of {others}")


def _expect_strategy(hessian, takes, method, optimize):
    if not isinstance(hessian, optimize.HessianUpdateStrategy):
        raise TypeError(
            "minimize: expected hessian to be None, for the exact one, or a HessianUpdateStrategy "
            f"such as scipy.optimize.BFGS(), got {hessian!r}"
        )
    _expect_taken("p", "approximate hessian", takes, method)


def _bounds(bounds, x0, count, optimize):
    """SciPy's Bounds of x0's numbers in order."""
    if isinstance(bounds, optimize.Bounds):
        parts = bounds.lb, bounds.ub, bounds.keep_feasible
        return optimize.Bounds(*(part.ravel() for part in parts))
    if hasattr(bounds, "tolist"):
        bounds = bounds.tolist()
    flat = isinstance(bounds, (list, tuple)) and len(bounds) == count
    if flat and all(pair is None or _is_pair(pair) for pair in bounds):
        pairs = [pair or (None, None) for pair in bounds]
    else:
        pairs = _pairs(bounds, x0)
    infinity = float("inf")
    return optimize.Bounds(
        _array([-infinity if low is None else low for low, _ in pairs], float),
        _array([infinity if high is None else high for _, high in pairs], float),
    )


def _is_pair(x):
    if not isinstance(x, (list, tuple)) or len(x) != 2:
        return False
    return all(end is None or _is_number(end) for end in x)


def _pairs(bounds, part):
    """A pair for each number in a part of x0."""
    if hasattr(bounds, "tolist"):
        bounds = bounds.tolist()
    if bounds is None or _is_pair(bounds):
        return [bounds or (None, None)] * len(_flatten(part, "minimize")[0])
    if _is_leaf(part):
        raise ValueError(f"minimize: expected a pair (low, high) or None as the bounds of a number of x0, got {bounds!r}")
    if isinstance(part, Mapping):
        if not isinstance(bounds, Mapping) or set(bounds) != set(part):
            raise ValueError(f"minimize: expected bounds to be a dict with keys {list(part)}, as in x0, got {bounds!r}")
        both = [(bounds[key], item) for key, item in part.items()]
    else:
        items = _items(part, "minimize")
        if not isinstance(bounds, (list, tuple)) or len(bounds) != len(items):
            raise ValueError(f"minimize: expected bounds with {len(items)} items, as in x0, got {bounds!r}")
        both = zip(bounds, items)
    return [pair for theirs, item in both for pair in _pairs(theirs, item)]


def _listed(constraints):
    if constraints is None:
        return []
    return list(constraints) if isinstance(constraints, (list, tuple)) else [constraints]


def _constraint(given, build, count, takes, optimize):
    """A constraint on flat arrays, with exact derivatives where no function for them is given."""
    if isinstance(given, optimize.LinearConstraint):
        return given
    if isinstance(given, Mapping):
        kind = str(given.get("type")).lower()
        if kind not in ("eq", "ineq") or "fun" not in given:
            raise ValueError(
                f"minimize: expected a constraint's dict to have 'type', which is 'eq' or 'ineq', and 'fun', got {given!r}"
            )
        fun, args, jac, hess = given["fun"], given.get("args", ()), given.get("jac"), None
        limits, keep = (0.0, 0.0 if kind == "eq" else float("inf")), False
    elif isinstance(given, optimize.NonlinearConstraint):
        fun, args, jac, hess = given.fun, (), given.jac, given.hess
        limits, keep = (given.lb, given.ub), given.keep_feasible
    else:
        raise TypeError(
            "minimize: expected constraints to be dicts, NonlinearConstraints or LinearConstraints "
            f"of SciPy, got {type(given).__name__}"
        )
    _expect_function(fun, " as a constraint's fun")
    function = _Function(fun, build, args, takes)
    jac = _flat(jac, build, args) if callable(jac) else function.jacobian
    if isinstance(given, Mapping) and "v" not in takes:
        return {"type": kind, "fun": function.values, "jac": jac}
    if callable(hess):
        hess = _flat(hess, build, args)
    elif "v" in takes and (hess is None or isinstance(hess, (str, optimize.BFGS))):
        # BFGS() is what SciPy puts there when nothing is given.
        hess = function.hessian if count <= _DENSE else function.operator
    return optimize.NonlinearConstraint(function.values, *limits, jac, hess, keep)


def _flat(derivative, build, args):
    """A function of a nest of floats as one of an array."""
    return lambda x, *weights: derivative(build(x.tolist()), *weights, *args)


def _callback(callback, build):
    """A callback for SciPy, which looks at the names of its parameters."""

    def seen(state):
        if hasattr(state, "tolist"):
            return build(state.tolist())
        state = type(state)(state)  # SciPy goes on with its own
        state.x = build(state.x.tolist())
        return state

    if set(signature(callback).parameters) == {"intermediate_result"}:
        return lambda intermediate_result: callback(intermediate_result=seen(intermediate_result))
    return lambda x, *state: callback(*map(seen, (x, *state)))


# -- what SciPy asks for ---------------------------------------------------------------------------


class _Point:
    """A function's graph at a point, and what is read off it, as floats."""

    def __init__(self, f, x):
        with no_grad():  # f is recorded all the same; derivatives by what it closes over are not
            self.call = _Call("minimize", f, (x.tolist(),), {}, (0,))
        self.sum = self.weights = None

    def jacobian(self):
        call = self.call
        if len(call.inputs) <= len(call.outputs):
            return _array([call.own(column) for column in call.tangents(None)], float).T
        return _array([call.own(call.adjoints([1.0], [output])) for output in call.outputs], float)

    def hessian(self, weights, directions=None):
        """The Hessian of the outputs' weighted sum (weights None: of the one output), or products
        with it. On a copy of the call: it may record the gradient in the outputs' place."""
        if self.sum is None or weights != self.weights:
            self.sum, self.weights = copy(self.call), weights
            if weights is not None:
                with enable_grad():
                    self.sum.result = dot(self.call.outputs, weights)
                self.sum.outputs, self.sum.build = _flatten(self.sum.result, "minimize")
        rows = _rows(self.sum) if directions is None else self.sum.curvatures(directions)
        return _array([self.sum.own(row) for row in rows], float)


class _Function:
    """A function of nests as functions of flat arrays, and its derivatives.

    It holds the graph of the latest point; where second derivatives are asked for, of two, since
    trust-region methods look at a next point and may come back.
    """

    def __init__(self, f, build, args, takes):
        self.f = lambda leaves: f(build(leaves), *args)
        self.capacity = 2 if set("Hp") & set(takes) else 1
        self.points = {}  # by their bytes, the latest last

    def at(self, x):
        key = x.tobytes()
        point = self.points.pop(key, None)
        if point is None:
            if len(self.points) == self.capacity:
                del self.points[next(iter(self.points))]
            point = _Point(self.f, x)
        self.points[key] = point
        return point

    def value(self, x):
        call = self.at(x).call
        return call.own([call.scalar()])[0]

    def gradient(self, x):
        return self.jacobian(x)[0]

    def values(self, x):
        call = self.at(x).call
        return _array(call.own(call.outputs), float)

    def jacobian(self, x):
        return self.at(x).jacobian()

    def product(self, x, direction):
        return self.at(x).hessian(None, [direction.tolist()])[0]

    def hessian(self, x, weights=None):
        return self.at(x).hessian(None if weights is None else weights.tolist())

    def operator(self, x, weights):
        from scipy.sparse.linalg import LinearOperator

        point, weights = self.at(x), weights.tolist()

        def matvec(direction):
            return point.hessian(weights, [direction.ravel().tolist()])[0]

        return LinearOperator((len(x), len(x)), matvec=matvec, dtype=float)
