"""mingrad.minimize: SciPy's methods with exact derivatives, nests in and out, what it refuses.

The oracles are SciPy's own Rosenbrock function with its derivatives by hand, and constrained
problems whose solutions are known on paper (Hock and Schittkowski, Test examples for nonlinear
programming codes, 1981, by their numbers there). Whether SciPy's methods are good is SciPy's.
"""

import collections
import gc
import itertools
import math
import sys

import pytest

import mingrad
from mingrad import Variable, VariableList, minimize, optimize

np = pytest.importorskip("numpy", reason="NumPy is not installed")
scipy_optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
sparse_linalg = pytest.importorskip("scipy.sparse.linalg", reason="SciPy is not installed")

Bounds = scipy_optimize.Bounds
LinearConstraint = scipy_optimize.LinearConstraint
NonlinearConstraint = scipy_optimize.NonlinearConstraint

METHODS = list(optimize._METHODS)
GRADIENT = [name for name, takes in optimize._METHODS.items() if "g" in takes]
SECOND = [name for name, takes in optimize._METHODS.items() if set("Hp") & set(takes)]
BOUNDED = [name for name, takes in optimize._METHODS.items() if "b" in takes]
if not hasattr(scipy_optimize._minimize, "_minimize_cobyqa"):  # it came with SciPy 1.14
    METHODS.remove("COBYQA")
    BOUNDED.remove("COBYQA")


class Counted:
    """A function that counts its calls and keeps where they were."""

    def __init__(self, f):
        self.f, self.calls, self.points = f, 0, set()

    def __call__(self, x, *args):
        self.calls += 1
        leaves = mingrad.autodiff._flatten(x, "test")[0]
        self.points.add(tuple(leaf.data for leaf in leaves))
        return self.f(x, *args)


def rosen(x):
    return sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in itertools.pairwise(x))


def start(method):
    """dogleg needs a start, and a path from there, where Rosenbrock's function is convex."""
    return [-1.2, 1.0, 0.5] if method == "dogleg" else [1.3, 0.7, 0.8, 1.9, 1.2]


def probe(**given):
    """What minimize hands to SciPy, as a dict."""
    seen = {}

    def method(fun, x0, args, **others):
        seen.update(others, fun=fun, x0=x0)
        return scipy_optimize.OptimizeResult(x=list(x0))

    minimize(method=method, **given)
    return seen


# -- derivatives -----------------------------------------------------------------------------------


def by_hand(method):
    """SciPy's derivatives of Rosenbrock's function that a method takes."""
    takes = optimize._METHODS[method]
    derivatives = {"jac": scipy_optimize.rosen_der}
    if "H" in takes:
        derivatives["hess"] = scipy_optimize.rosen_hess
    elif "p" in takes:
        derivatives["hessp"] = scipy_optimize.rosen_hess_prod
    return derivatives


def assert_as_by_hand(method):
    """The same path and the same counts as with derivatives by hand, whose roundings differ, over
    so many iterations that these have not grown."""
    options = {"maxfun": 20} if method == "TNC" else {"maxiter": 10}
    f = Counted(rosen)
    result = minimize(f, start(method), method=method, options=options)
    expected = scipy_optimize.minimize(scipy_optimize.rosen, start(method), method=method, options=options, **by_hand(method))
    counts = {key: expected[key] for key in ("nit", "nfev", "njev", "nhev") if key in expected}
    assert {key: result[key] for key in counts} == counts
    # A factor of 1e4 for what ten steps make of roundings of 1e-16. TNC divides differences of
    # gradients by a step of 1e-8. Measured: 1e-14 at most, 4e-9 for TNC.
    bound = 1e-6 if method == "TNC" else 1e-12
    np.testing.assert_allclose(result.x, expected.x, rtol=bound)
    # They go to 0, and terms of some hundreds cancel in the second.
    np.testing.assert_allclose(result.fun, expected.fun, rtol=bound, atol=bound)
    np.testing.assert_allclose(result.jac, expected.jac, rtol=bound, atol=1e3 * bound)
    assert f.calls == result.nfev == len(f.points)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of SciPy, when iterations run out
@pytest.mark.parametrize("method", GRADIENT)
def test_path_and_counts_are_those_of_derivatives_by_hand(method):
    assert_as_by_hand(method)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("method", GRADIENT)
def test_a_wrong_gradient_is_noticed(method, monkeypatch):
    right = optimize._Point.jacobian
    monkeypatch.setattr(optimize._Point, "jacobian", lambda self: right(self) * (1 + 1e-4))
    with pytest.raises(AssertionError):
        assert_as_by_hand(method)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("method", SECOND)
def test_a_wrong_hessian_is_noticed(method, monkeypatch):
    right = optimize._Point.hessian
    monkeypatch.setattr(optimize._Point, "hessian", lambda *given: right(*given) * (1 + 1e-9))
    with pytest.raises(AssertionError):
        assert_as_by_hand(method)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_optimum_of_rosenbrocks_function(method):
    f = Counted(rosen)
    options = {"maxfun": 1000} if method == "TNC" else {"maxiter": 1000}
    result = minimize(f, start(method)[:3], method=method, tol=1e-9, options=options)
    if method == "COBYLA":  # its linear models crawl along the valley
        assert result.fun < 0.01 * rosen(start(method)[:3])
    else:
        assert result.x == pytest.approx([1.0] * 3, abs=1e-4)
    assert type(result.x) is list and all(type(x) is float for x in result.x)
    assert f.calls <= result.nfev
    assert f.calls == len(f.points) or method == "Powell"  # which comes back to earlier points


@pytest.mark.parametrize("name", ["rosenbrock", "BFGS", "TRUST-EXACT"])
def test_methods_are_known_by_their_names_in_any_case(name):
    if name == "rosenbrock":
        with pytest.raises(ValueError, match="expected method to be None, a function or one of"):
            minimize(rosen, [0.5, 0.5], method=name)
    else:
        for spelled in (name.lower(), name.upper()):
            assert minimize(rosen, [0.5, 0.5], method=spelled).x == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("n", [optimize._DENSE, optimize._DENSE + 2])
def test_trust_constr_gets_a_matrix_or_products(n, monkeypatch):
    asked = []
    right = optimize._Point.hessian

    def hessian(self, weights, directions=None):
        asked.append("matrix" if directions is None else "product")
        return right(self, weights, directions)

    monkeypatch.setattr(optimize._Point, "hessian", hessian)
    x0 = [0.9, 1.1] * (n // 2)
    constraint = NonlinearConstraint(lambda x: mingrad.dot(x, x), 0.0, n - 1.0)
    result = minimize(rosen, x0, method="trust-constr", constraints=constraint, options={"maxiter": 30})
    assert set(asked) == ({"matrix"} if n <= optimize._DENSE else {"product"})
    assert mingrad.dot(result.x, result.x) < n - 1 + 1e-6 and result.fun < rosen(x0)


@pytest.mark.parametrize("method", ["trust-ncg", "trust-krylov", "trust-exact"])
def test_a_function_is_not_called_again_after_steps_that_were_taken_back(method):
    f, steps = Counted(lambda x: mingrad.hypot(x[0], 1.0) + mingrad.hypot(x[1], 1.0)), []
    result = minimize(f, [5.0, 4.0], method=method, callback=steps.append, options={"initial_trust_radius": 80.0})
    assert steps[:2] == [[5.0, 4.0]] * 2, "the first steps were meant to be too long"
    assert f.calls == result.nfev == len(f.points)


def test_a_function_as_method_gets_gradient_and_hessian():
    given = probe(f=rosen, x0=[1.3, 0.7, 0.8])
    x = np.array([1.3, 0.7, 0.8])
    np.testing.assert_allclose(given["fun"](x), scipy_optimize.rosen(x), rtol=1e-14)
    np.testing.assert_allclose(given["jac"](x), scipy_optimize.rosen_der(x), rtol=1e-13)
    np.testing.assert_allclose(given["hess"](x), scipy_optimize.rosen_hess(x), rtol=1e-14)


def test_a_function_that_does_not_depend_on_x_or_is_linear():
    assert minimize(lambda x: 3, [1.0, 2.0]).x == [1.0, 2.0]
    given = probe(f=lambda x: 2 * x[1], x0=[1, 2])
    assert given["jac"](given["x0"]).tolist() == [0.0, 2.0]
    assert given["hess"](given["x0"]).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("method", ["trust-constr", "Newton-CG", "trust-ncg", "trust-krylov"])
def test_an_approximate_hessian_in_the_exact_ones_place(method, monkeypatch):
    monkeypatch.setattr(optimize._Point, "hessian", None)
    result = minimize(lambda x: x[0] ** 2 + mingrad.exp(x[1]) - x[1], [2.0, 1.0], method=method, hessian=scipy_optimize.BFGS())
    assert result.x == pytest.approx([0.0, 0.0], abs=1e-3)


@pytest.mark.filterwarnings("ignore:delta_grad")
def test_an_approximate_hessian_leaves_those_of_constraints_to_scipy(monkeypatch):
    monkeypatch.setattr(optimize._Point, "hessian", None)
    constraints = [
        NonlinearConstraint(lambda x: x[0] * x[1], 2.0, np.inf),
        {"type": "ineq", "fun": lambda x: 3.0 - x[0] * x[0]},
    ]
    result = minimize(
        lambda x: x[0] + x[1], [1.5, 2.0], method="trust-constr", constraints=constraints, hessian=scipy_optimize.SR1()
    )
    assert result.x == pytest.approx([math.sqrt(2)] * 2, abs=1e-4)


# -- nests -----------------------------------------------------------------------------------------

Point = collections.namedtuple("Point", "a b")
A, B = Variable(0.5, requires_grad=True), Variable(2.0, requires_grad=True)
NESTS = {
    "list": ([0.5, 2.0], lambda x: x[0], lambda x: x[1], list),
    "tuple": ((0.5, 2.0), lambda x: x[0], lambda x: x[1], tuple),
    "ints": ([1, 2], lambda x: x[0], lambda x: x[1], list),
    "dict": ({"a": 0.5, "b": 2}, lambda x: x["a"], lambda x: x["b"], dict),
    "named tuple": (Point(0.5, 2.0), lambda x: x.a, lambda x: x.b, Point),
    "nested": ({"p": [0.5], "q": (2.0,)}, lambda x: x["p"][0], lambda x: x["q"][0], dict),
    "Variables": ([A, B], lambda x: x[0], lambda x: x[1], list),
    "VariableList": (VariableList([A, B]), lambda x: x[0], lambda x: x[1], list),
    "array": (np.array([0.5, 2.0]), lambda x: x[0], lambda x: x[1], np.ndarray),
    "array of ints": (np.array([1, 2]), lambda x: x[0], lambda x: x[1], np.ndarray),
    "array of two axes": (np.array([[0.5, 2.0]]), lambda x: x[0, 0], lambda x: x[0, 1], np.ndarray),
    "dict of arrays": ({"a": np.array([0.5]), "b": np.array(2.0)}, lambda x: x["a"][0], lambda x: x["b"], dict),
}


def floats(x):
    leaves = mingrad.autodiff._flatten(x, "test")[0]
    assert all(type(leaf) is float for leaf in leaves)
    return leaves


@pytest.mark.parametrize("method", ["BFGS", "Nelder-Mead", "trust-exact", "trust-ncg"])
@pytest.mark.parametrize("name", NESTS)
def test_x_comes_and_goes_in_the_nest_of_x0(name, method):
    x0, first, second, kind = NESTS[name]
    seen = []

    def f(x):
        seen.append(x)
        return (first(x) - 1.0) ** 2 + (second(x) - 3.0) ** 2 + 1.0

    result = minimize(f, x0, method=method)
    assert floats(result.x) == pytest.approx([1.0, 3.0], abs=1e-4) and type(result.x) is kind
    assert not isinstance(result.fun, Variable) and result.fun == pytest.approx(1.0)
    for x in seen:
        assert type(x) is (VariableList if name == "VariableList" else kind)
        assert isinstance(first(x), Variable) and isinstance(second(x), Variable)
    if kind is np.ndarray:
        assert result.x.shape == x0.shape and result.x.dtype == np.float64
    assert (A.data, A.grad, B.data, B.grad) == (0.5, 0.0, 2.0, 0.0)


@pytest.mark.parametrize("x0", [3, 3.0, np.float32(3), np.array(3.0), Variable(3.0), True])
def test_x0_may_be_one_number(x0):
    result = minimize(lambda x: (x - 2) ** 2, x0)
    assert type(result.x) is float and result.x == pytest.approx(2.0)


def test_other_results_are_flat_as_scipy_gives_them():
    result = minimize(
        lambda x: rosen([x["a"], x["b"][0]]), {"a": 0.5, "b": [0.5]}, method="trust-exact", options={"return_all": True}
    )
    assert isinstance(result, scipy_optimize.OptimizeResult) and result.success
    assert result.jac.shape == (2,) and result.hess.shape == (2, 2)
    assert all(x.shape == (2,) for x in result.allvecs)
    assert result.x == {"a": result.allvecs[-1][0], "b": [result.allvecs[-1][1]]}


def test_args_are_passed_on_and_not_differentiated_by():
    for args in ((2.0, "x"), [2.0]):
        seen = []

        def f(x, *others):
            seen.append(others)
            return (x - (others[0] if isinstance(args, tuple) else others[0][0])) ** 2

        assert minimize(f, 0.5, args).x == pytest.approx(2.0)
        assert all(others == (args if isinstance(args, tuple) else (args,)) for others in seen)


# -- the functions' own Variables ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_function_may_use_parameters_and_their_gradients_stay(method):
    scale, shift = Variable(2.0, requires_grad=True), Variable(1.0, requires_grad=True)
    (scale * shift * shift).backward()
    before = scale.grad, shift.grad, scale.data, shift.data

    def f(x):
        return scale * (x[0] - shift) ** 2 + mingrad.exp(x[1]) - x[1] + x[0] * x[1] * 0.0

    constraints, bounds = (), None
    if "c" in optimize._METHODS[method]:
        constraints = {"type": "ineq", "fun": lambda x: shift * (x[0] + x[1]) + 10.0}
    if "b" in optimize._METHODS[method]:
        bounds = (-5.0, 5.0)
    result = minimize(f, [0.5, 0.5], method=method, constraints=constraints, bounds=bounds)
    assert floats(result.x) == pytest.approx([1.0, 0.0], abs=1e-3)
    assert not isinstance(result.fun, Variable)
    assert (scale.grad, shift.grad, scale.data, shift.data) == before
    scale.requires_grad = shift.requires_grad = False
    again = minimize(f, [0.5, 0.5], method=method, constraints=constraints, bounds=bounds)
    assert again.x == result.x and again.nfev == result.nfev


def test_it_works_where_recording_is_off_and_leaves_it_off():
    with mingrad.no_grad():
        result = minimize(rosen, [0.5, 0.5], method="trust-ncg")
        assert not mingrad.is_grad_enabled()
    assert result.x == pytest.approx([1.0, 1.0], abs=1e-3)
    (constraint,) = probe_constraints({"type": "eq", "fun": lambda x: x["a"] ** 2})
    with mingrad.no_grad():
        hessian = constraint.hess(np.array([0.5, 2.0]), np.array([3.0]))
    assert hessian.tolist() == [[6.0, 0.0], [0.0, 0.0]]


def test_a_parameter_written_between_a_point_and_its_hessian_is_an_error():
    scale = Variable(1.0)

    def callback(x):
        scale.data *= 0.5

    with pytest.raises(RuntimeError, match="was written after this graph had used it"):
        minimize(lambda x: scale * rosen(x), [0.5, 0.8, 0.1], method="trust-ncg", callback=callback)


def test_a_function_may_hold_derivatives():
    def f(x):
        return mingrad.grad(lambda t: (t - 3.0) ** 2 * x * 0.5 + t * x * x)(2.0)

    # d/dt at 2 is -x + x^2, least at 0.5.
    assert minimize(f, 2.0, method="trust-exact").x == pytest.approx(0.5)


@pytest.mark.parametrize("method", ["BFGS", "trust-exact", "trust-ncg", "trust-constr"])
def test_a_function_may_hold_functions_with_rules_of_their_own(method):
    @mingrad.custom_vjp
    def cosh(x):
        return math.cosh(x)

    @mingrad.custom_vjp
    def sinh(x):
        return math.sinh(x)

    cosh.defvjp(lambda x: (cosh(x), x), lambda x, g: (g * sinh(x),))
    sinh.defvjp(lambda x: (sinh(x), x), lambda x, g: (g * cosh(x),))
    result = minimize(
        lambda x: cosh(x[0] - 1.0) + x[1] * x[1],
        [0.2, 0.7],
        method=method,
        constraints={"type": "ineq", "fun": lambda x: 2.0 - cosh(x[0])} if method == "trust-constr" else (),
    )
    assert floats(result.x) == pytest.approx([1.0, 0.0], abs=1e-4)


def test_no_graph_is_left_over():
    minimize(rosen, [0.5, 0.5], method="trust-ncg")
    gc.collect()
    mingrad.collect()
    before = mingrad.tape_info().nodes
    result = minimize(rosen, [0.5] * 30, method="trust-ncg")
    gc.collect()
    mingrad.collect()
    assert result.success and mingrad.tape_info().nodes <= before


@pytest.mark.parametrize("method", METHODS)
def test_exceptions_pass_through(method):
    class Mine(Exception):
        pass

    calls = []

    def f(x):
        calls.append(x)
        if len(calls) == 3:
            raise Mine("the third call")
        return rosen(x)

    with pytest.raises(Mine, match="the third call"):
        minimize(f, start(method), method=method)
    assert len(calls) == 3
    with pytest.raises(ValueError, match="outside the function's domain"):
        minimize(lambda x: mingrad.log(x[0]), [-1.0, 1.0], method=method)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_is_scipys_business():
    result = minimize(lambda x: x[0] * math.nan, [1.0, 2.0])
    assert math.isnan(result.fun) and not result.success


def test_errstate_lets_a_search_go_on_outside_the_domain():
    def f(x):
        with mingrad.errstate(all="ignore"):
            return x - mingrad.log(x)

    assert minimize(f, 20.0, bounds=(1e-3, None)).x == pytest.approx(1.0, abs=1e-5)
    assert minimize(f, 3.0, method="Nelder-Mead").x == pytest.approx(1.0, abs=1e-3)


# -- bounds ----------------------------------------------------------------------------------------

INF = math.inf
TREE = {"a": 1.0, "b": [2.0, 3.0]}


@pytest.mark.parametrize(
    "x0, bounds, low, high",
    [
        (1.0, (0, 2), [0.0], [2.0]),
        (1.0, [(0, 2)], [0.0], [2.0]),
        ([1.0, 2.0], (0, None), [0.0, 0.0], [INF, INF]),
        ([1.0, 2.0], (None, 5), [-INF, -INF], [5.0, 5.0]),
        ([1.0, 2.0], [(0, 3), None], [0.0, -INF], [3.0, INF]),
        ([1.0, 2.0], ((0, 3), (None, 4.5)), [0.0, -INF], [3.0, 4.5]),
        ([1.0, 2.0], [[0, 3], [1, np.inf]], [0.0, 1.0], [3.0, INF]),
        ((1.0, 2.0), np.array([[0.0, 3.0], [1.0, 4.0]]), [0.0, 1.0], [3.0, 4.0]),
        ([1.0, 2.0], Bounds(0, [3, 4]), [0.0, 0.0], [3.0, 4.0]),
        (TREE, {"b": [(1, 9), (2, 9)], "a": (0, 9)}, [0.0, 1.0, 2.0], [9.0] * 3),
        (TREE, {"a": None, "b": (0, 9)}, [-INF, 0.0, 0.0], [INF, 9.0, 9.0]),
        (TREE, {"a": (0, 1), "b": [(0, 9), None]}, [0.0, 0.0, -INF], [1.0, 9.0, INF]),
        (TREE, {"a": np.array([0.0, 1.0]), "b": np.array([[0.0, 9.0], [1.0, 8.0]])}, [0.0, 0.0, 1.0], [1.0, 9.0, 8.0]),
        (TREE, [(0, 1), None, (2, 3)], [0.0, -INF, 2.0], [1.0, INF, 3.0]),
        ([[1.0, 2.0], [3.0, 4.0]], [(0, 5), (1, 6)], [0.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]),
        (np.ones((2, 2)), [(0, 5), (1, 6), (2, 7), (3, 8)], [0.0, 1.0, 2.0, 3.0], [5.0, 6.0, 7.0, 8.0]),
        (np.ones((2, 1)), Bounds([[0.0], [0.5]], [[2.0], [3.0]]), [0.0, 0.5], [2.0, 3.0]),
        (np.ones((2, 1)), np.array([[[0.0, 2.0]], [[0.5, 3.0]]]), [0.0, 0.5], [2.0, 3.0]),
        (VariableList([A, B]), (0, 4), [0.0, 0.0], [4.0, 4.0]),
    ],
)
def test_bounds_in_all_forms(x0, bounds, low, high):
    found = probe(f=lambda x: 1.0, x0=x0, bounds=bounds)["bounds"]
    n = len(low)
    assert np.broadcast_to(found.lb, n).tolist() == low
    assert np.broadcast_to(found.ub, n).tolist() == high


def test_keep_feasible_is_kept():
    bounds = Bounds([0.0, 0.0], [1.0, 1.0], keep_feasible=[True, False])
    found = probe(f=lambda x: 1.0, x0=np.ones((2, 1)), bounds=bounds)["bounds"]
    assert found.keep_feasible.tolist() == [True, False]


@pytest.mark.parametrize("method", [None, *BOUNDED])
def test_bounds_hold(method):
    f = Counted(lambda x: rosen([x["a"], x["b"]]))
    result = minimize(f, {"a": 0.2, "b": 0.8}, method=method, tol=1e-8, bounds={"a": (None, 0.5), "b": None})
    assert result.x == pytest.approx({"a": 0.5, "b": 0.25}, abs=1e-3)
    if method not in ("trust-constr", "COBYLA"):  # which may look outside on their way
        assert max(a for a, _ in f.points) <= 0.5


@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "SLSQP", "trust-constr"])
def test_numbers_may_be_fixed_by_equal_bounds(method):
    result = minimize(lambda x: (x[0] - x[1]) ** 2 + x[1] ** 2, [3.0, 1.0], method=method, bounds=[(2, 2), None])
    assert result.x == pytest.approx([2.0, 1.0], abs=1e-4)
    result = minimize(lambda x: (x[0] - x[1]) ** 2, (3.0, 1.0), method=method, bounds=(2, 2))
    assert result.x == pytest.approx((2.0, 2.0), abs=1e-4) and type(result.x) is tuple


@pytest.mark.parametrize(
    "x0, bounds, message",
    [
        (1.0, 3, "expected a pair (low, high) or None as the bounds of a number of x0, got 3"),
        ([1.0, 2.0], [(0, 1)], "expected bounds with 2 items, as in x0, got [(0, 1)]"),
        ([1.0, 2.0, 3.0], [0, 1, 2], "expected a pair (low, high) or None as the bounds of a number of x0, got 0"),
        ([1.0, 2.0], "ab", "expected bounds with 2 items, as in x0, got 'ab'"),
        ([1.0], {"a": (0, 1)}, "expected bounds with 1 items, as in x0, got {'a': (0, 1)}"),
        (TREE, {"a": (0, 1)}, "expected bounds to be a dict with keys ['a', 'b'], as in x0, got {'a': (0, 1)}"),
        (TREE, [(0, 1)], "expected bounds to be a dict with keys ['a', 'b'], as in x0, got [(0, 1)]"),
        (
            TREE,
            {"a": (0, 1), "b": [(0, 1), (0, "1")]},
            "expected a pair (low, high) or None as the bounds of a number of x0, got (0, '1')",
        ),
    ],
)
def test_bounds_of_another_structure_are_refused(x0, bounds, message):
    f = Counted(rosen)
    with pytest.raises(ValueError) as caught:
        minimize(f, x0, bounds=bounds)
    assert str(caught.value) == f"minimize: {message}" and not f.calls


# -- constraints -----------------------------------------------------------------------------------

# Hock and Schittkowski's numbers: objective, equalities, inequalities (at least 0), bounds, start,
# solution.
PROBLEMS = {
    6: (lambda x: (1 - x[0]) ** 2, lambda x: [10 * (x[1] - x[0] ** 2)], None, None, [-1.2, 1.0], [1.0, 1.0]),
    7: (
        lambda x: mingrad.log(1 + x[0] ** 2) - x[1],
        lambda x: (1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4,
        None,
        None,
        [2.0, 2.0],
        [0.0, math.sqrt(3)],
    ),
    14: (
        lambda x: (x[0] - 2) ** 2 + (x[1] - 1) ** 2,
        lambda x: x[0] - 2 * x[1] + 1,
        lambda x: 1 - x[0] ** 2 / 4 - x[1] ** 2,
        None,
        [2.0, 2.0],
        [(math.sqrt(7) - 1) / 2, (math.sqrt(7) + 1) / 4],
    ),
    35: (
        lambda x: (
            9 - 8 * x[0] - 6 * x[1] - 4 * x[2] + 2 * x[0] ** 2 + 2 * x[1] ** 2 + x[2] ** 2 + 2 * x[0] * x[1] + 2 * x[0] * x[2]
        ),
        None,
        lambda x: 3 - x[0] - x[1] - 2 * x[2],
        (0, None),
        [0.5, 0.5, 0.5],
        [4 / 3, 7 / 9, 4 / 9],
    ),
    43: (
        lambda x: mingrad.dot(x, x) + x[2] ** 2 - 5 * x[0] - 5 * x[1] - 21 * x[2] + 7 * x[3],
        None,
        lambda x: {
            "first": 8 - mingrad.dot(x, x) - x[0] + x[1] - x[2] + x[3],
            "others": [
                10 - mingrad.dot(x, x) - x[1] ** 2 - x[3] ** 2 + x[0] + x[3],
                5 - mingrad.dot(x, x) - x[0] ** 2 + x[3] ** 2 - 2 * x[0] + x[1] + x[3],
            ],
        },
        None,
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 2.0, -1.0],
    ),
    71: (
        lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2],
        lambda x: mingrad.dot(x, x) - 40,
        lambda x: mingrad.prod(x) - 25,
        (1, 5),
        [1.0, 5.0, 5.0, 1.0],
        [1.0, 4.7429996, 3.8211500, 1.3794083],
    ),
}


@pytest.mark.parametrize("form", ["dicts", "objects"])
@pytest.mark.parametrize(
    "number, method",
    [
        (number, method)
        for number in PROBLEMS
        for method in (None, *METHODS)
        if method in (None, "SLSQP", "trust-constr", "COBYLA", "COBYQA")
        and not (method == "COBYLA" and PROBLEMS[number][1])  # it takes equalities since SciPy 1.16
    ],
)
def test_constrained_problems_with_known_solutions(number, form, method):
    f, equal, at_least_0, bounds, x0, solution = PROBLEMS[number]
    functions = {"eq": equal and Counted(equal), "ineq": at_least_0 and Counted(at_least_0)}
    constraints = [{"type": kind, "fun": g} for kind, g in functions.items() if g]
    if form == "objects":
        constraints = [NonlinearConstraint(c["fun"], 0, 0 if c["type"] == "eq" else np.inf) for c in constraints]
    f = Counted(f)
    # With this tol SciPy's COBYQA gives up on problem 14, with its default it does not.
    result = minimize(f, x0, method=method, bounds=bounds, constraints=constraints, tol=None if method == "COBYQA" else 1e-9)
    # trust-constr stays inside by its barrier's parameter, the last two stop by a radius.
    assert result.x == pytest.approx(solution, abs=1e-5 if method in (None, "SLSQP") else 1e-3)
    assert f.calls <= result.nfev
    for g in filter(None, functions.values()):
        assert g.calls == len(g.points) or method == "COBYQA"  # which comes back to earlier points


def test_one_constraint_needs_no_list_and_none_is_none():
    equal = {"type": "EQ", "fun": lambda x: x[0] + x[1] - 2}
    for constraints in (equal, (equal,), [equal]):
        result = minimize(lambda x: mingrad.dot(x, x), [3.0, 0.0], constraints=constraints)
        assert result.x == pytest.approx([1.0, 1.0])
    for constraints in (None, (), []):
        result = minimize(lambda x: mingrad.dot(x, x), [3.0, 0.0], constraints=constraints)
        assert result.x == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr"])
def test_a_linear_constraint_has_a_column_for_each_number(method):
    result = minimize(
        lambda x: x["a"] ** 2 + x["b"][0] ** 2,
        {"a": 3.0, "b": [0.0]},
        method=method,
        tol=1e-10,
        constraints=LinearConstraint([[1.0, 3.0]], 10.0, 10.0),
    )
    assert result.x["a"] == pytest.approx(1.0, abs=1e-5)
    assert result.x["b"] == pytest.approx([3.0], abs=1e-5)


def test_a_constraints_derivatives_are_exact():
    def g(x):
        return [x["a"] * x["b"][0] ** 2, (mingrad.exp(x["a"]), 3.0)]

    (given,) = probe_constraints(NonlinearConstraint(g, -1, [1, 2, 3], keep_feasible=True))
    x, weights = np.array([0.5, 2.0]), np.array([2.0, 3.0, 5.0])
    e = math.exp(0.5)
    assert given.fun(x).tolist() == [2.0, e, 3.0]
    assert given.jac(x).tolist() == [[4.0, 2.0], [e, 0.0], [0.0, 0.0]]
    expected = [[3 * e, 8.0], [8.0, 2.0]]
    for hessian in (given.hess(x, weights), given.hess(x, weights)):
        np.testing.assert_allclose(hessian, expected, rtol=1e-15)
    assert (given.lb, given.ub, given.keep_feasible) == (-1, [1, 2, 3], True)


def probe_constraints(*constraints):
    """What trust-constr is given in the place of these, for x0 = {"a": ..., "b": [...]}."""
    scipy_names = optimize._scipy()
    build = mingrad.autodiff._flatten({"a": 0.5, "b": [2.0]}, "test")[1]
    takes = optimize._METHODS["trust-constr"]
    return [optimize._constraint(c, build, 2, takes, scipy_names) for c in constraints]


def test_products_with_a_constraints_hessian_are_exact(monkeypatch):
    monkeypatch.setattr(optimize, "_DENSE", 1)
    fun = Counted(lambda x: [x["a"] * x["b"][0] ** 2, mingrad.exp(x["a"])])
    (given,) = probe_constraints({"type": "ineq", "fun": fun})
    x, e = np.array([0.5, 2.0]), math.exp(0.5)
    hessian = given.hess(x, np.array([2.0, 3.0]))
    other = given.hess(x, np.array([1.0, 0.0]))
    assert isinstance(hessian, sparse_linalg.LinearOperator)
    np.testing.assert_allclose(hessian @ np.eye(2), [[3 * e, 8.0], [8.0, 2.0]], rtol=1e-15)
    np.testing.assert_allclose(other @ np.array([1.0, 0.0]), [0.0, 4.0], rtol=1e-15)
    np.testing.assert_allclose(hessian @ np.array([0.0, 1.0]), [8.0, 2.0], rtol=1e-15)
    assert fun.calls == 1 and (given.lb, given.ub) == (0.0, INF)


def test_a_jacobian_with_more_rows_than_columns_is_swept_forward_and_another_back(monkeypatch):
    many = [lambda x, k=k: x["a"] ** k * x["b"][0] for k in range(5)]
    (tall,) = probe_constraints(NonlinearConstraint(lambda x: [g(x) for g in many], 0, 1))
    (flat,) = probe_constraints(NonlinearConstraint(many[2], 0, 1))
    x = np.array([0.5, 2.0])
    with monkeypatch.context() as patch:
        patch.setattr(mingrad.autodiff._Call, "adjoints", None)
        assert tall.jac(x).tolist() == [[k * 0.5 ** (k - 1) * 2.0, 0.5**k] for k in range(5)]
    monkeypatch.setattr(mingrad.autodiff._Call, "tangents", None)
    assert flat.jac(x).tolist() == [[2.0, 0.25]]


def test_a_constraint_may_be_empty():
    result = minimize(lambda x: mingrad.dot(x, x), [3.0, 1.0], constraints={"type": "ineq", "fun": lambda x: []})
    assert result.x == pytest.approx([0.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr"])
@pytest.mark.parametrize("form", ["dict", "object"])
def test_derivatives_of_a_constraint_that_are_given_are_used(method, form):
    seen = []

    def fun(x, *args):
        assert args == ((7,) if form == "dict" else ())
        return x["a"] + x["b"] ** 2

    def jac(x, *args):
        assert args == ((7,) if form == "dict" else ())
        assert type(x) is dict and floats(x)
        seen.append("jac")
        return [[1.0, 2 * x["b"]]]

    def hess(x, weights):
        assert type(x) is dict and floats(x) and weights.shape == (1,)
        seen.append("hess")
        return [[0.0, 0.0], [0.0, 2 * weights[0]]]

    constraint = {"type": "eq", "fun": fun, "jac": jac, "args": (7,)}
    if form == "object":
        hess = {"hess": hess} if method == "trust-constr" else {}
        constraint = NonlinearConstraint(fun, 0, 0, jac=jac, **hess)
    result = minimize(
        lambda x: (x["a"] - 1) ** 2 + x["b"] ** 2, {"a": 0.0, "b": 1.0}, method=method, constraints=constraint, tol=1e-10
    )
    # On a = -b^2: (b^2 + 1)^2 + b^2, least at b = 0.
    assert result.x == pytest.approx({"a": 0.0, "b": 0.0}, abs=1e-4)
    assert set(seen) == ({"jac", "hess"} if method == "trust-constr" and form == "object" else {"jac"})


def test_a_strategy_of_a_constraint_is_kept_unless_it_is_scipys_default():
    fun = [lambda x: x["a"] ** 2]
    strategy = scipy_optimize.SR1()
    kept, exact = probe_constraints(*(NonlinearConstraint(*fun, 0, 1, hess=hess) for hess in (strategy, "2-point")))
    assert kept.hess is strategy
    assert exact.hess(np.array([0.5, 2.0]), np.array([1.0])).tolist() == [[2.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "constraint, error, message",
    [
        (
            {"fun": rosen},
            ValueError,
            "expected a constraint's dict to have 'type', which is 'eq' or 'ineq', and 'fun', got {'fun': ",
        ),
        (
            {"type": "eq"},
            ValueError,
            "expected a constraint's dict to have 'type', which is 'eq' or 'ineq', and 'fun', got {'type': 'eq'}",
        ),
        ({"type": "le", "fun": rosen}, ValueError, "expected a constraint's dict to have 'type', "),
        ({"type": "eq", "fun": 1}, TypeError, "expected a function as a constraint's fun, got int"),
        (NonlinearConstraint(None, 0, 1), TypeError, "expected a function as a constraint's fun, got NoneType"),
        (
            rosen,
            TypeError,
            "expected constraints to be dicts, NonlinearConstraints or LinearConstraints of SciPy, got function",
        ),
        (
            Bounds(0, 1),
            TypeError,
            "expected constraints to be dicts, NonlinearConstraints or LinearConstraints of SciPy, got Bounds",
        ),
    ],
    ids=range(7),
)
def test_other_constraints_are_refused(constraint, error, message):
    f = Counted(rosen)
    with pytest.raises(error) as caught:
        minimize(f, [0.5, 0.5], constraints=[constraint])
    assert str(caught.value).startswith(f"minimize: {message}") and not f.calls


def test_a_constraint_on_text_is_an_error_of_its_own():
    with pytest.raises(TypeError, match="minimize: the function's result: expected numbers"):
        minimize(rosen, [0.5, 0.5], constraints={"type": "eq", "fun": lambda x: "x"})


# -- callbacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_callback_sees_x_in_its_nest(method):
    seen = []
    x0 = {"a": 0.9, "b": [0.8]}

    def f(x):
        return rosen([x["a"], *x["b"]])

    if method == "trust-constr":

        def callback(x, state):
            seen.append(x)
            assert state.x == x and state.fun == pytest.approx(f(x), abs=1e-12)
    else:

        def callback(x):
            seen.append(x)

    options = {"maxfun": 50} if method == "TNC" else {"maxiter": 50}
    minimize(f, x0, method=method, callback=callback, options=options)
    assert seen and all(list(x) == ["a", "b"] and len(floats(x)) == 2 for x in seen)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("TNC", "COBYLA")])
def test_a_callback_of_the_new_kind_gets_a_copy_of_the_state_with_x_in_its_nest(method):
    seen = []

    def callback(intermediate_result):
        assert isinstance(intermediate_result, scipy_optimize.OptimizeResult)
        seen.append((intermediate_result.x, intermediate_result.fun))
        intermediate_result.x = None

    if method == "SLSQP" and not takes_new_callbacks(method):
        pytest.skip("this SciPy's SLSQP knows only callbacks of the old kind")
    result = minimize(lambda x: rosen([x["a"], x["b"]]), {"a": 0.9, "b": 0.8}, method=method, callback=callback)
    assert seen and all(list(x) == ["a", "b"] and floats(x) for x, _ in seen)
    expected = minimize(lambda x: rosen([x["a"], x["b"]]), {"a": 0.9, "b": 0.8}, method=method)
    assert result.x == expected.x and result.nfev == expected.nfev


def takes_new_callbacks(method):
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result)

    scipy_optimize.minimize(lambda x: x[0] ** 2, [1.0], method=method, callback=callback)
    return hasattr(seen[0], "x")


@pytest.mark.parametrize("method", ["BFGS", "trust-constr", "trust-ncg"])
def test_a_callback_stops_by_stop_iteration(method):
    def callback(intermediate_result):
        raise StopIteration

    result = minimize(rosen, [0.5, 0.8, 0.1], method=method, callback=callback)
    assert result.nit == 1 and not result.success and floats(result.x)


def test_a_callbacks_answer_goes_to_scipy():
    result = minimize(rosen, [0.5, 0.8], method="trust-constr", callback=lambda x, state: True)
    assert result.nit == 1 and result.status == 3


# -- SciPy on the transforms -----------------------------------------------------------------------


def test_value_and_grad_serves_scipys_minimize_as_it_is():
    def by_arrays(x):
        return 100 * ((x[1:] - x[:-1] ** 2) ** 2).sum() + ((1 - x[:-1]) ** 2).sum()

    for f in (rosen, by_arrays):
        both = mingrad.value_and_grad(f)
        result = scipy_optimize.minimize(both, np.array(start("BFGS")), jac=True)
        np.testing.assert_allclose(result.x, 1.0, atol=1e-5)
    result = scipy_optimize.minimize(
        mingrad.value_and_grad(rosen), start("BFGS"), jac=True, hess=mingrad.hessian(rosen), method="trust-exact"
    )
    np.testing.assert_allclose(result.x, 1.0, atol=1e-5)


def test_jacobian_serves_scipys_least_squares_as_it_is():
    times = [0.1 * k for k in range(20)]
    data = [3.0 * math.exp(-1.5 * t) for t in times]

    def residuals(x):
        return np.array([x[0] * mingrad.exp(-x[1] * t) - y for t, y in zip(times, data)])

    def as_list(x):
        return list(residuals(x))

    for f in (residuals, as_list):
        result = scipy_optimize.least_squares(f, np.array([1.0, 1.0]), jac=mingrad.jacobian(f))
        np.testing.assert_allclose(result.x, [3.0, 1.5], rtol=1e-8)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, error, message",
    [
        (
            dict(jac=True),
            TypeError,
            "jac is computed, exactly; leave it out, or call scipy.optimize.minimize with a derivative of your own",
        ),
        (
            dict(hess=rosen),
            TypeError,
            "hess is computed, exactly; leave it out, or call scipy.optimize.minimize with a derivative of your own",
        ),
        (
            dict(hessp=False),
            TypeError,
            "hessp is computed, exactly; leave it out, or call scipy.optimize.minimize with a derivative of your own",
        ),
        (
            dict(method="Adam"),
            ValueError,
            (
                "expected method to be None, a function or one of "
                "Nelder-Mead, Powell, CG, BFGS, Newton-CG, L-BFGS-B, TNC, COBYLA, COBYQA, SLSQP, "
                "trust-constr, dogleg, trust-ncg, trust-exact, trust-krylov, got 'Adam'"
            ),
        ),
        (
            dict(method=3),
            ValueError,
            (
                "expected method to be None, a function or one of "
                "Nelder-Mead, Powell, CG, BFGS, Newton-CG, L-BFGS-B, TNC, COBYLA, COBYQA, SLSQP, "
                "trust-constr, dogleg, trust-ncg, trust-exact, trust-krylov, got 3"
            ),
        ),
        (
            dict(method="bfgs", bounds=(0, 1)),
            ValueError,
            (
                "method 'bfgs' takes no bounds; leave it out, "
                "or choose one of Nelder-Mead, Powell, L-BFGS-B, TNC, COBYLA, COBYQA, SLSQP, trust-constr"
            ),
        ),
        (
            dict(constraints={}),
            ValueError,
            "expected a constraint's dict to have 'type', which is 'eq' or 'ineq', and 'fun', got {}",
        ),
        (
            dict(method="CG", constraints={"type": "eq", "fun": rosen}),
            ValueError,
            "method 'CG' takes no constraints; leave it out, or choose one of COBYLA, COBYQA, SLSQP, trust-constr",
        ),
        (
            dict(hessian="sparse", method="trust-constr"),
            TypeError,
            (
                "expected hessian to be None, for "
                "the exact one, or a HessianUpdateStrategy such as scipy.optimize.BFGS(), got 'sparse'"
            ),
        ),
        (
            dict(hessian=scipy_optimize.BFGS(), method="dogleg"),
            ValueError,
            (
                "method 'dogleg' takes no "
                "approximate hessian; leave it out, or choose one of Newton-CG, trust-constr, trust-ncg, "
                "trust-krylov"
            ),
        ),
        (dict(f=3), TypeError, "expected a function, got int"),
        (dict(x0=[]), ValueError, "expected at least one number in x0, got []"),
        (dict(x0={"a": []}), ValueError, "expected at least one number in x0, got {'a': []}"),
        (dict(x0="ab"), TypeError, "expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got str"),
        (
            dict(x0=[1.0, None]),
            TypeError,
            "expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got NoneType",
        ),
        (
            dict(x0=[1j]),
            TypeError,
            "expected numbers, Variables, or nested lists, tuples, dicts or arrays of them, got complex",
        ),
    ],
    ids=range(16),
)
def test_what_makes_no_sense_is_refused_before_anything_is_called(given, error, message):
    f = Counted(rosen)
    with pytest.raises(error) as caught:
        minimize(**{"f": f, "x0": [0.5, 0.5], **given})
    assert str(caught.value) == f"minimize: {message}" and not f.calls


@pytest.mark.parametrize("method", METHODS)
def test_a_result_that_is_not_one_number_is_refused(method):
    with pytest.raises(TypeError) as caught:
        minimize(lambda x: [x[0], x[1]], [0.5, 0.5], method=method)
    assert str(caught.value) == (
        "minimize: expected a function with one number as its result, got a list of 2; use jacrev or jacfwd for those"
    )


def test_without_scipy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    f = Counted(rosen)
    with pytest.raises(ImportError) as caught:
        minimize(f, [0.5, 0.5])
    assert str(caught.value) == ('minimize needs the package scipy: python -m pip install "mingrad[scipy]"')
    assert not f.calls
