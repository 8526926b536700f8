"""check_grad: whether derivatives are right, by values that no rule for a derivative has part in.

There are two such values: the complex step through the recorded graph (_complex.py), right to a few
ulps; and differences of the function itself (Ridders, Accurate computation of F'(x) and
F'(x)F''(x), 1982), right to nine digits or more. Here is which one counts for an argument, what may
differ, and how it is said. The derivatives that are checked are those of autodiff.py.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from ._complex import STEP, ComplexGraph, Recording
from .autodiff import _argnums, _Call, _flatten, _floats, _is_leaf, _items, hessian, jacfwd, jacrev
from .engine import Variable, no_grad

__all__ = ["Agreement", "GradientCheck", "GradientCheckError", "Mismatch", "check_grad"]

_FIRST = {"fwd": jacfwd, "rev": jacrev}
_COMPLEX, _DIFFERENCES = "complex step", "differences"
_RTOL = {_COMPLEX: 1e-12, _DIFFERENCES: 1e-7}  # where none is given
_EPS = 2.0**-52
_SHOWN = 10  # mismatches in the text of a report


def check_grad(
    f,
    *args,
    order=1,
    modes=("fwd", "rev"),
    argnums=None,
    rtol=None,
    atol=0.0,
    raise_exception=True,
):
    """Check the derivatives of f at one point; raise :class:`GradientCheckError` if one is wrong.

    f: a function from numbers, or nests of them, to a number or a nest of them.
    args: the point: floats, in nests of lists, tuples, dicts, arrays. A Variable is its value.
    order: 1, the Jacobian, every output by every input; 2, that and then every second derivative.
    modes: 'fwd', forward mode (jacfwd; order 2: hessian, and forward over reverse mode), 'rev',
    reverse mode (jacrev; order 2: reverse over reverse mode).
    argnums: by which arguments, an int or a tuple of ints; None: by all.
    rtol, atol: how far a derivative may be from the expected one, atol + rtol * abs(expected),
    beside the rounding errors, which the check works out. rtol None: 1e-12 with the complex step,
    1e-7 with differences.
    raise_exception: False: give the report of a failed check instead of raising it.

    Returns a :class:`GradientCheck`, which is true and as a str says what was compared and how.

    Expected derivatives come from the **complex step** where they can: the recorded graph is
    computed once more in complex arithmetic, an input moved by a tiny imaginary step,
    ``f'(x) = Im f(x + ih) / h``. It takes no difference, so nothing cancels and nothing is cut off:
    it is right to a few ulps. It sees what f recorded, with the branches that f took. So it does
    not count for an argument that

    * f uses otherwise as well: through numbers that are not recorded, by ``.data``, ``detach()``,
      ``stop_gradient()``, ``no_grad()``. f is recorded again beside the point to see that;
    * goes through an op without a complex form: lgamma, digamma, a custom function, operands beyond
      1e-100 and 1e100.

    There **differences** of f count: central ones, extrapolated to step 0 by Ridders' method from a
    step that suits the argument. f is called under ``no_grad()``, or recorded if it cannot be so.
    Order 2 takes differences of the first derivative, which is checked at the point and beside it.
    Their estimated error is allowed for as far as 4 * rtol, of the derivative or of a thousandth of
    the steepest slope nearby; where they settle no better, the check fails and says so.

    At a kink (relu or abs at 0, a tie of max) there is no derivative. mingrad gives the one that
    its convention chooses, the slopes to the left and right differ, and the check fails with both.
    A derivative that is nan or infinite fails too: as wrong if there is a finite one, else because
    nothing can be verified. Check at another point then.

    It is a tool for tests: Python code walks over the graph once or twice for each input, and
    differences call f 40 times or more for each.

    Raises GradientCheckError, an AssertionError whose ``report`` is the GradientCheck; TypeError
    for arguments or results that are no numbers, and for ints to differentiate by; ValueError for
    another order or mode, and where there is nothing to differentiate.

    >>> import mingrad
    >>> def f(x, p):
    ...     return mingrad.sin(x) * p["a"] ** 2
    >>> print(mingrad.check_grad(f, 0.5, {"a": 3.0}, order=2))
    check_grad: all right (first derivatives: 2, second: 4, by fwd and rev)
      argument 0: complex step, error at most 0 ulps
      argument 1: complex step, error at most 0 ulps
    >>> check = mingrad.check_grad(lambda x: x * x.detach(), 3.0, raise_exception=False)
    >>> bool(check), check.failures[0].got, round(check.failures[0].expected, 6)
    (False, 3.0, 6.0)
    """
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"check_grad: expected order 1 or 2, got {order!r}")
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    for mode in modes:
        if mode not in _FIRST:
            raise ValueError(f"check_grad: unknown mode {mode!r}: expected 'fwd', 'rev' or both")
    if not modes:
        raise ValueError("check_grad: expected at least one mode, 'fwd' or 'rev', got none")
    for name, given in ("rtol", rtol), ("atol", atol):
        if given is not None and not 0.0 <= given < math.inf:
            raise ValueError(f"check_grad: expected {name} to be finite, 0 or more, got {given!r}")
    function = _Function(f, args, argnums)
    check = _Check(function, function.xs, modes, rtol, atol)
    check.first()
    if order == 2 and not check.failures:
        check.second()
    report = check.report(order)
    if raise_exception and not report:
        raise GradientCheckError(report)
    return report


# -- the report ------------------------------------------------------------------------------------


class Mismatch(NamedTuple):
    """A derivative that :func:`check_grad` found wrong or could not verify; as a str a sentence.

    kind: 'wrong'; 'kink', the slopes to the left and right differ; 'unsettled', differences do not
    settle; 'not finite'; 'value', f's value is another one when it is computed again.
    order: 1 or 2. mode: what gave the derivative, such as 'fwd' or 'rev over rev'.
    output, argument: paths, such as "output[0]" and "argument 1['w'][0]"; at order 2 "argument 0,
    then argument 1". expected, got: the derivative; of a kink expected is (left, right).
    ulps: the error in units in the last place of expected. allowed: the largest error that is none.
    method: where expected comes from.
    """

    kind: str
    order: int
    mode: str
    output: str
    argument: str
    expected: float | tuple[float, float]
    got: float
    ulps: float
    allowed: float
    method: str

    def __str__(self):
        got = f"{self.output} by {self.argument}, {self.mode}: got {self.got!r}"
        if self.kind == "wrong":
            share = ""
            if self.expected and math.isfinite(self.got):
                share = f", {abs(self.got / self.expected - 1.0):.2g} of it"
            return (
                f"{got}, expected {self.expected!r} from {self.method}; "
                f"off by {self.ulps:.3g} ulps{share}; allowed {self.allowed:.2g}"
            )
        if self.kind == "kink":
            left, right = self.expected
            bent = "f has a kink" if self.order == 1 else "the first derivative has a kink"
            return (
                f"{got} by convention, but {bent} here: {left!r} to the left, {right!r} to the "
                f"right, from {self.method}; check at another point"
            )
        if self.kind == "unsettled":
            return (
                f"{got}, which cannot be verified: {self.method} do not settle, the best is "
                f"{self.expected!r}; f is not smooth or too noisy here: check at another point, or "
                "allow more by rtol or atol"
            )
        if self.kind == "not finite":
            return f"{got}, which cannot be verified: not finite; check at another point"
        return (
            f"{self.output}: got {self.got!r} where f is recorded, and {self.expected!r} when it "
            "is called again under no_grad(): it uses random numbers or keeps a state, or a custom "
            "rule computes another value than its function"
        )


class Agreement(NamedTuple):
    """How right derivatives by an argument were found so, and how far off they are at most.

    ulps: in units in the last place, of the derivative or of the terms that it is a sum of, if they
    are larger. relative: as a share of the derivative, where that is not 0. steps: of differences
    the smallest and the largest one.
    """

    argument: int
    method: str
    ulps: float
    relative: float
    steps: tuple[float, float] | None

    def __str__(self):
        if self.steps is None:
            return f"argument {self.argument}: {self.method}, error at most {self.ulps:.3g} ulps"
        low, high = (f"{step:.2g}" for step in self.steps)
        steps = low if low == high else f"{low} to {high}"
        return f"argument {self.argument}: {self.method} (step {steps}), error at most {self.relative:.2g} of the derivative"


class GradientCheck(NamedTuple):
    """The report of :func:`check_grad`: true if every derivative is right; as a str, for people.

    order, modes: as asked for. first, second: how many derivatives were compared, each by every
    mode. failures: a :class:`Mismatch` for each that is not right, the worst first. agreements: an
    :class:`Agreement` for each argument and method. notes: why differences were used, where that is
    not due to an op.
    """

    order: int
    modes: tuple[str, ...]
    first: int
    second: int
    failures: tuple[Mismatch, ...]
    agreements: tuple[Agreement, ...]
    notes: tuple[str, ...]

    def __bool__(self):
        return not self.failures

    def __str__(self):
        counts = f"first derivatives: {self.first}, "
        if self.order == 2:
            counts += f"second: {self.second}, "
        counts += f"by {' and '.join(self.modes)}"
        if self:
            lines = [f"check_grad: all right ({counts})", *map(str, self.agreements)]
        else:
            lines = [f"check_grad: mismatches: {len(self.failures)} ({counts})"]
            lines += map(str, self.failures[:_SHOWN])
            if len(self.failures) > _SHOWN:
                lines.append(f"and {len(self.failures) - _SHOWN} more")
        return "\n  ".join([*lines, *self.notes])


class GradientCheckError(AssertionError):
    """:func:`check_grad` found a derivative wrong, or could not verify it.

    report: the :class:`GradientCheck`, whose str is the message.
    """

    def __init__(self, report):
        super().__init__(str(report))
        self.report = report

    def __reduce__(self):
        return type(self), (self.report,)


# -- a function of nests as one of flat lists ------------------------------------------------------


def _paths(tree, name):
    """What each leaf of a nest is called, in the order of _flatten()."""
    if _is_leaf(tree):
        return [name]
    if isinstance(tree, Mapping):
        parts = [(item, f"{name}[{key!r}]") for key, item in tree.items()]
    elif hasattr(tree, "_fields"):
        parts = [(item, f"{name}.{key}") for key, item in zip(tree._fields, tree)]
    else:
        parts = [(item, f"{name}[{i}]") for i, item in enumerate(_items(tree, "check_grad"))]
    return [path for part in parts for path in _paths(*part)]


class _Function:
    """f from a flat list of numbers to a flat list of numbers.

    xs: the point. names, owners: of each number of it its path and its argument. outputs: paths of
    the results of the latest call.
    """

    def __init__(self, f, args, argnums):
        if not callable(f):
            raise TypeError(f"check_grad: expected a function, got {type(f).__name__}")
        self.f, self.args = f, args
        self.needs_record = False
        self.chosen = range(len(args))
        if argnums is not None:
            self.chosen = _argnums(argnums, len(args), "check_grad")[0]
        self.xs, self.names, self.owners, self.builds = [], [], [], []
        for index in self.chosen:
            leaves, build = _flatten(args[index], "check_grad")
            self.xs += [x.data if isinstance(x, Variable) else x for x in leaves]
            self.names += _paths(args[index], f"argument {index}")
            self.owners += [index] * len(leaves)
            self.builds.append((build, len(leaves)))
        if not self.xs:
            raise ValueError("check_grad: expected a float to differentiate by, got none")

    def __call__(self, xs):
        args, at = list(self.args), 0
        for index, (build, size) in zip(self.chosen, self.builds):
            args[index] = build(xs[at : at + size])
            at += size
        result = self.f(*args)
        leaves, _ = _flatten(result, "check_grad: the function's result")
        if not leaves:
            raise ValueError("check_grad: expected a number as the function's result, got none")
        self.outputs = _paths(result, "output")
        return leaves

    def record(self, xs):
        call = _Call("check_grad", self, [xs], {}, (0,))
        return Recording(call.outputs, call.inputs)

    def values(self, xs):
        """The results, computed without a record if f can be: hooks and backward() cannot."""
        if not self.needs_record:
            try:
                with no_grad():
                    return _floats(self([Variable(x, requires_grad=False) for x in xs]))
            except RuntimeError:
                self.needs_record = True
        return self.record(xs).results

    def jacobian(self, mode, xs):
        """Rows of floats."""
        return list(map(_floats, _FIRST[mode](self)(xs)))

    def hessians(self, mode, xs, count):
        """{what gave them: for each of count outputs the rows of its second derivatives}."""
        found = {}
        if mode == "fwd":
            parts = [hessian(lambda xs, o=o: self(xs)[o]) for o in range(count)]
            found["hessian"] = [list(map(_floats, part(xs))) for part in parts]
        both = _FIRST[mode](jacrev(self))(xs)
        found[f"{mode} over rev"] = [list(map(_floats, rows)) for rows in both]
        return found


def _or_none(function, *args):
    """What it gives; None where f cannot be computed: beside the point it may be undefined."""
    try:
        return function(*args)
    except (ArithmeticError, ValueError):
        return None


# -- whether the graph is all that f does with an input --------------------------------------------

# How far inputs are moved to see what else moves, as a share of them. From afar f may take another
# branch; from near it must not.
_FAR, _NEAR = 2.0**-10, 2.0**-40


def _beside_the_graph(function, recording, xs):
    """For each input None, or what f does with it that its graph does not show, in words."""
    if _unlike(function, recording, xs, range(len(xs))) is None:
        return [None] * len(xs)
    return [_unlike(function, recording, xs, [k]) for k in range(len(xs))]


def _unlike(function, recording, xs, inputs):
    """What is another than values in the graph when these inputs are moved, in words, or None."""
    for share in (_FAR, -_FAR, _NEAR, -_NEAR):
        moved = list(xs)
        for k in inputs:  # each by another share, so that differences between them move too
            moved[k] += share * (1.0 + 0.618 * k % 1.0) * (abs(xs[k]) or 1.0)
        other = _or_none(function.record, moved)
        if other is None or other.shape != recording.shape:
            if abs(share) == _FAR:
                continue
            return "f takes another branch just beside the point, or cannot be computed there; differences are used"
        for (x, user), (y, _) in zip(recording.constants, other.constants):
            if x != y:
                return (
                    f"f uses numbers that change with it and are not recorded, such as {x!r} in "
                    f"{user} (.data, detach(), stop_gradient(), no_grad()); differences are used"
                )
    return None


# -- differences -----------------------------------------------------------------------------------

_LEVELS, _SHRINK = 10, 1.6  # steps of one extrapolation, and the ratio of one to the next


class _Estimate(NamedTuple):
    """A derivative by differences.

    error: its estimate. scale: the steepest slope that was seen. floor: an error that will do.
    sides: the slopes to the left and to the right, where it is sure that they differ.
    """

    value: float = math.nan
    error: float = math.inf
    scale: float = 0.0
    floor: float = 0.0
    step: float = 0.0
    sides: tuple[float, float] | None = None

    def share(self):
        """What is allowed for the error, as a share of the derivative or of a thousandth of the
        scale. Where f does not change at all it is sure: the error then shows in no value of f."""
        if not self.scale:
            return 0.0 if self.error < math.inf else math.inf
        return 2.0 * self.error / max(abs(self.value), 1e-3 * self.scale)

    def rank(self, rtol):
        """The less the better; below 2 it is settled. A kink counts if it is one at all steps: from
        afar a narrow bend looks like one."""
        if self.sides:
            return 2, self.share()
        if self.share() <= 4.0 * rtol:
            return 0, self.share()
        return (1, self.floor) if self.error <= self.floor else (3, self.share())

    def follows(self, old, far, rtol):
        """Whether this one may replace what other steps gave: if it agrees with that, or that was
        hardly known. From near, numbers that are rounded make stairs, whose steps look smooth; from
        afar f may look another one."""
        apart = abs(self.value - old.value)
        if far:
            return old.rank(rtol)[0] == 3 and not self.sides and apart <= 2.0 * old.error
        if old.sides:
            return min(old.sides) <= self.value <= max(old.sides)
        return old.share() > 1e-2 or apart <= 10.0 * old.error


class _Limit:
    """The limit, for steps that go to 0, of numbers with an error that is a series in step**power:
    Neville's scheme. The best entry is the one that differs least from its neighbours."""

    def __init__(self, power):
        self.power, self.steps, self.row = power, [], []
        self.value, self.error, self.step = math.nan, math.inf, 0.0

    def add(self, step, value, noise):
        """noise: what rounding can have made of this number."""
        above, self.row = self.row, [value]
        self.steps.append(step)
        for i, other in enumerate(above):
            share = (self.steps[-2 - i] / step) ** self.power - 1.0
            better = self.row[i] + (self.row[i] - other) / share
            error = max(abs(better - self.row[i]), abs(better - other)) + noise
            self.row.append(better)
            if error < self.error:
                self.value, self.error, self.step = better, error, step


def _differences(evaluate, x, middle, rtol, related):
    """Estimates of the derivatives of evaluate's results at x, where they are middle, from the
    starting steps that suit best. evaluate gives None where there are no results.

    related: results are partials of one function, and those that are small because terms cancel are
    as noisy as the large ones: an error of that size will do.
    """
    best = [_Estimate() for _ in middle]
    sizes = {abs(x), 1.0} - {0.0}
    near = sorted((size / 8.0 for size in sizes), reverse=True)
    near += sorted((size * 2.0**-e for size in sizes for e in (9, 15, 21, 27)), reverse=True)
    for start in [*near, 2.0**7, 2.0**17]:
        far = start > near[0]  # for what nothing else settles
        if all(old.rank(rtol) < ((2, 0.0) if far else (0, 0.01 * rtol)) for old in best):
            break
        pairs = zip(*(_ridders(evaluate, x, middle, s, related) for s in (start, 0.7 * start)))
        for i, (one, two) in enumerate(pairs):
            new, old = _joined(one, two), best[i]
            if new.rank(rtol) < old.rank(rtol) and new.follows(old, far, rtol):
                best[i] = new
    return best


def _ridders(evaluate, x, middle, start, related):
    """Estimates from one extrapolation: of central differences, and of one-sided ones, by which a
    kink is known, and a central difference that is deceived since f is alike far to both sides."""
    limits, scales, largest = _limits(middle)
    last = math.inf
    for level in range(_LEVELS):
        step = (abs(x) + start / _SHRINK**level) - abs(x)  # x + step and x - step are exact
        if not 0.0 < step < last:
            break
        last = step
        above, below = evaluate(x + step), evaluate(x - step)
        if above is None or below is None:
            limits, scales, largest = _limits(middle)
            continue
        for i, (high, mid, low) in enumerate(zip(above, middle, below)):
            size = max(abs(high), abs(mid), abs(low))
            left, right = (mid - low) / step, (high - mid) / step
            for limit, slope in zip(limits[i], ((high - low) / (2.0 * step), left, right)):
                limit.add(step, slope, _EPS * size / step)
            scales[i] = max(scales[i], abs(left), abs(right))
            largest[i] = max(largest[i], size)
    found, top = [], sorted(largest, reverse=True)[:2]
    for i, ((slope, left, right), scale) in enumerate(zip(limits, scales)):
        value, error, step, sides = slope.value, slope.error, slope.step, None
        doubt, apart = left.error + right.error, abs(right.value - left.value)
        mean = (left.value + right.value) / 2.0
        if apart > max(20.0 * doubt, 1e-4 * scale):
            error, step, sides = doubt, left.step, (left.value, right.value)
        elif doubt + apart < error:  # odd powers as well: the slope has a kink
            value, error, step = mean, doubt + apart, left.step
        elif scale and not (doubt <= 1e-3 * scale and abs(value - mean) <= 2.0 * doubt):
            error = max(doubt, abs(value - mean))
        others = top[-1] if largest[i] == top[0] else top[0]  # the largest other result
        floor = 16.0 * _EPS * others if related and len(top) == 2 else 0.0
        if not scale:
            error = max(error, floor)
        floor = floor / step if step else 0.0
        found.append(_Estimate(value, error, scale, floor, step, sides))
    return found


def _limits(middle):
    """What an extrapolation begins with: limits of each result, the steepest slopes, the largest
    values."""
    zeros = [0.0] * len(middle)
    return [[_Limit(2), _Limit(1), _Limit(1)] for _ in middle], zeros, zeros.copy()


def _joined(one, two):
    """The better of two estimates; how far they are apart counts as an error."""
    if one.error > two.error:
        one, two = two, one
    if two.error == math.inf:
        return two
    error = max(one.error, abs(one.value - two.value))
    scale = max(one.scale, two.scale)
    return one._replace(error=error, scale=scale, sides=two.sides and one.sides)


# -- expected derivatives --------------------------------------------------------------------------


class _Expected(NamedTuple):
    """An expected derivative.

    value: (left, right) at a kink. error: what both it and the one to be checked may be off by.
    size: the sum of the terms' sizes. estimate: of differences. settled: whether it is known well
    enough.
    """

    value: float | tuple[float, float]
    error: float
    size: float = 0.0
    estimate: _Estimate | None = None
    settled: bool = True

    @property
    def method(self):
        return _COMPLEX if self.estimate is None else _DIFFERENCES

    def __str__(self):
        if self.estimate is None:
            return f"the complex step (h = 2**{round(math.log2(STEP))})"
        step, error = self.estimate.step, self.estimate.error
        return f"differences (step {step:.2g}, estimated error {error:.1g})"


def _by_complex_step(sides, bounds):
    """Expected derivatives from those of one side or two, lists; None if any is not finite.
    bounds: (size, error) of each."""
    if any(side is None for side in sides):
        return None
    if not all(math.isfinite(x) for part in (*sides, *bounds) for x in part):
        return None
    found = []
    for values, (size, error) in zip(zip(*sides), bounds):
        allowed = _RTOL[_COMPLEX] * max(map(abs, values)) + 2.0 * error
        kink = max(values) - min(values) > allowed
        found.append(_Expected(values[::-1] if kink else values[0], error, size))
    return found


def _by_differences(evaluate, xs, k, middle, rtol, related):
    """Expected derivatives of evaluate's results, which are middle at xs, by input k."""

    def at(x):
        found = _or_none(evaluate, [*xs[:k], x, *xs[k + 1 :]])
        if found is None or len(found) != len(middle) or not all(map(math.isfinite, found)):
            return None
        return found

    found = []
    for estimate in _differences(at, xs[k], middle, rtol, related):
        kind, _ = estimate.rank(rtol)
        error = estimate.floor if kind == 1 else estimate.error
        value = estimate.sides or estimate.value
        found.append(_Expected(value, 2.0 * error, 0.0, estimate, kind < 2))
    return found


# -- the check -------------------------------------------------------------------------------------


class _Check:
    """A check at a point xs.

    failures, notes, counts: as they go into the report. estimates: one of each input that is
    checked by differences. worst: by argument and method, what goes into an Agreement.
    """

    def __init__(self, function, xs, modes, rtol, atol):
        self.function, self.xs, self.modes = function, xs, modes
        self.given, self.atol = (rtol, atol), atol
        self.rtol = {method: share if rtol is None else rtol for method, share in _RTOL.items()}
        self.failures, self.notes, self.counts = [], [], [0, 0]
        self.estimates, self.worst = {}, {}

    def first(self):
        """Compare the first derivatives."""
        function, xs = self.function, self.xs
        recording = function.record(xs)
        self.outputs, values = function.outputs, function.values(xs)
        if not self.same_values(recording, values):
            return
        got = {mode: function.jacobian(mode, xs) for mode in self.modes}
        self.graph = ComplexGraph(recording)
        self.sides = (1.0, -1.0) if self.graph.ties else (1.0,)
        bounds = self.graph.first_bounds()
        for k, beside in enumerate(_beside_the_graph(function, recording, xs)):
            expected = None
            if beside is None:
                sides = [self.graph.first(k, side) for side in self.sides]
                expected = _by_complex_step(sides, [row[k] for row in bounds])
            else:
                self.notes.append(f"{function.names[k]}: {beside}")
            if expected is None:
                rtol = self.rtol[_DIFFERENCES]
                expected = _by_differences(function.values, xs, k, values, rtol, False)
                self.estimates[k] = expected[0].estimate
            for o, name in enumerate(self.outputs):
                found = {mode: rows[o][k] for mode, rows in got.items()}
                self.compare(1, found, name, function.names[k], function.owners[k], expected[o])

    def same_values(self, recording, values):
        """Whether f gives the same when it is computed again."""
        if len(values) != len(self.outputs):
            raise ValueError(
                f"check_grad: f gave {len(self.outputs)} numbers where it was recorded, and "
                f"{len(values)} when it was called again"
            )
        largest = max(map(abs, recording.values), default=0.0)
        for name, got, again in zip(self.outputs, recording.results, values):
            allowed = 1e-6 * max(abs(got), abs(again)) + 1e-14 * largest
            if not (abs(got - again) <= allowed or got == again or got != got):
                ulps = _ulps(got, again)
                self.failures.append(Mismatch("value", 1, "", name, "", again, got, ulps, allowed, "no_grad()"))
        return not self.failures

    def second(self):
        """Compare the second derivatives, where the first ones are right."""
        function, inputs = self.function, range(len(self.xs))
        got = {}
        for mode in self.modes:
            got |= function.hessians(mode, self.xs, len(self.outputs))
        columns = [self.second_by(k) for k in inputs]
        if not self.right_beside():
            return
        for o, name in enumerate(self.outputs):
            for i in inputs:
                for j in inputs:
                    # they are symmetric: the complex step needs both inputs, differences either
                    k, other = (i, j) if i in self.estimates else (j, i)
                    found = {mode: rows[o][i][j] for mode, rows in got.items()}
                    argument = f"{function.names[i]}, then {function.names[j]}"
                    expected = columns[k][o][other]
                    self.compare(2, found, name, argument, function.owners[k], expected)

    def second_by(self, k):
        """For each output the expected derivatives by input k of those by each input."""
        if k not in self.estimates:
            sides = [self.graph.second(k, side) for side in self.sides]
            bounds = self.graph.second_bounds(k)
            found = [_by_complex_step(parts[:-1], parts[-1]) for parts in zip(*sides, bounds)]
            if None not in found:
                return found
        mode = "rev" if "rev" in self.modes else "fwd"

        def gradients(xs):
            return [x for row in self.function.jacobian(mode, xs) for x in row]

        rtol, n = self.rtol[_DIFFERENCES], len(self.xs)
        flat = _by_differences(gradients, self.xs, k, gradients(self.xs), rtol, True)
        self.estimates[k] = flat[0].estimate
        return [flat[at : at + n] for at in range(0, len(flat), n)]

    def right_beside(self):
        """Whether first derivatives are right beside the point too, if their differences count."""
        moved = list(self.xs)
        for k, estimate in self.estimates.items():
            moved[k] += 0.37 * estimate.step
        if moved == self.xs:
            return True
        beside = _Check(self.function, moved, self.modes, *self.given)
        beside.first()
        wrong = [failure for failure in beside.failures if failure.kind in ("wrong", "value")]
        if wrong:
            self.failures += wrong
            self.notes.append(f"these are first derivatives beside the point, at {moved}")
        return not wrong

    def compare(self, order, found, output, argument, owner, expected):
        """Compare a derivative, as found by each mode."""
        self.counts[order - 1] += 1
        kink = isinstance(expected.value, tuple)
        value = expected.value[0] if kink else expected.value
        allowed = self.atol + self.rtol[expected.method] * abs(value) + expected.error
        settled = expected.settled or expected.error <= self.atol
        for mode, got in found.items():
            if kink:
                kind = "kink"
            elif settled:
                if abs(got - value) <= allowed:
                    self.agree(owner, expected, got)
                    continue
                kind = "wrong"
            else:
                kind = "unsettled" if math.isfinite(got) else "not finite"
            where = (kind, order, mode, output, argument)
            self.failures.append(Mismatch(*where, expected.value, got, _ulps(got, value), allowed, str(expected)))
            if kind != "wrong":
                break  # it is f that has no such derivative, whatever the mode

    def agree(self, owner, expected, got):
        """Note how far off a right derivative is."""
        none = (0.0, 0.0, math.inf, 0.0)
        ulps, relative, low, high = self.worst.get((owner, expected.method), none)
        error = abs(got - expected.value)
        ulps = max(ulps, error / math.ulp(max(abs(expected.value), expected.size)))
        if expected.value:
            relative = max(relative, error / abs(expected.value))
        if expected.estimate is not None:
            low, high = min(low, expected.estimate.step), max(high, expected.estimate.step)
        self.worst[owner, expected.method] = ulps, relative, low, high

    def report(self, order):
        agreements = []
        for (owner, method), (ulps, relative, *steps) in sorted(self.worst.items()):
            steps = tuple(steps) if method == _DIFFERENCES else None
            agreements.append(Agreement(owner, method, ulps, relative, steps))
        failures = sorted(self.failures, key=lambda found: (found.kind != "wrong", -found.ulps))
        found = tuple(failures), tuple(agreements), tuple(self.notes)
        return GradientCheck(order, self.modes, *self.counts, *found)


def _ulps(got, expected):
    """The error in units in the last place of expected; inf where it is not finite."""
    error = abs(got - expected)
    return error / math.ulp(expected) if error < math.inf else math.inf
