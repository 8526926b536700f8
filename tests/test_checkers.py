"""The checkers are checked: each comparison of this suite meets a planted error and must fail.

Copies of the reference engine carry the errors; mingrad itself is not tested here.
"""

import importlib.util
import math
import random

import pytest

import reference
from helpers import (
    EXACT,
    LIBM,
    NARY,
    OTHER,
    apply,
    assert_close_relative,
    assert_close_ulps,
    assert_same_bits,
    compare_close,
    compare_exact,
    compare_logs,
    random_graph,
    random_program,
    run_program,
    ulps,
)

ALL = EXACT + LIBM + OTHER + NARY


def copy_of_the_reference():
    """The reference engine once more, as a module of its own that may be spoilt."""
    spec = importlib.util.spec_from_file_location("spoilt_reference", reference.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spoil_partial(engine, name, change):
    value, partials = engine.RULES[name]
    engine.RULES[name] = value, lambda xs, y, **params: tuple(map(change, partials(xs, y, **params)))


def spoil_value(engine, name, change):
    value, partials = engine.RULES[name]
    engine.RULES[name] = lambda *xs, **params: change(value(*xs, **params)), partials


def up(x, steps=1):
    for _ in range(steps):
        x = math.nextafter(x, math.inf)
    return x


# --- Distances -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, y, distance",
    [
        (1.0, 1.0, 0),
        (1.0, up(1.0), 1),
        (up(1.0, 7), 1.0, 7),
        (-1.0, up(-1.0, 3), 3),
        (0.0, -0.0, 0),
        (0.0, 5e-324, 1),
        (-5e-324, 5e-324, 2),
        (1.0, 2.0, 2**52),
        (math.inf, math.inf, 0),
        (-math.inf, math.inf, math.inf),
        (math.inf, 1.7976931348623157e308, math.inf),
        (math.nan, math.nan, 0),
        (math.nan, 1.0, math.inf),
        (1.0, math.nan, math.inf),
        (math.nan, math.inf, math.inf),
    ],
)
def test_ulps_counts_the_doubles_between(x, y, distance):
    assert ulps(x, y) == ulps(y, x) == distance


def test_assert_close_ulps_fails_just_past_its_bound():
    golden = float.fromhex("0x1.8a2f5b1c9d3e7p-3")
    for bound in 0, 1, 4:
        assert_close_ulps(up(golden, bound), golden, bound)
        with pytest.raises(AssertionError, match=f"{bound + 1} ulps apart, {bound} allowed"):
            assert_close_ulps(up(golden, bound + 1), golden, bound)
    for wrong in math.nan, math.inf, -golden, 0.0, 2 * golden:
        with pytest.raises(AssertionError):
            assert_close_ulps(wrong, golden, 1000)
        with pytest.raises(AssertionError):
            assert_close_ulps(golden, wrong, 1000)


def test_assert_same_bits_sees_one_ulp_and_the_sign_of_zero():
    assert_same_bits(math.nan, -math.nan)
    for x, y in [(0.0, -0.0), (1.0, up(1.0)), (math.nan, 0.0), (math.inf, -math.inf)]:
        with pytest.raises(AssertionError):
            assert_same_bits(x, y)


def test_assert_close_relative_fails_just_past_its_bound():
    assert_close_relative(1.0 + 1e-13, 1.0, 1e-12)
    assert_close_relative(1e-13, 0.0, 1e-12, floor=1.0)
    for got, expected in [
        (1.0 + 1e-11, 1.0),
        (1e-300, 0.0),
        (math.nan, 1.0),
        (math.inf, 1.0),
        (1.0, math.inf),
        (0.0, math.nan),
    ]:
        with pytest.raises(AssertionError):
            assert_close_relative(got, expected, 1e-12)


# --- Formulas ------------------------------------------------------------------------------------


def finds(compare, names, seeds, spoilt, oracle=reference, **options):
    """Whether the comparison fails on at least one of these random graphs."""
    for seed in seeds:
        graph = random_graph(seed, 600, names, reference)
        try:
            compare(graph, [(599, 1.0), (599, -0.5)], spoilt, oracle, **options)
        except AssertionError:
            return True
    return False


def test_unspoilt_copies_pass():
    assert not finds(compare_exact, EXACT, range(2), copy_of_the_reference())
    assert not finds(compare_close, ALL, range(2), copy_of_the_reference())


SLOPED = [name for name in EXACT if name not in ("//", "neg")]


@pytest.mark.parametrize("name", SLOPED)
def test_a_partial_that_is_one_ulp_off_is_found_among_exact_ops(name):
    spoilt = copy_of_the_reference()
    spoil_partial(spoilt, {"**2": "**c", "clamp": "clamp_min"}.get(name, name), lambda p: p and up(p))
    assert finds(compare_exact, EXACT, range(3), spoilt)


@pytest.mark.parametrize(
    "name",
    [
        "-",
        "*",
        "/",
        "%",
        "relu",
        "abs",
        "neg",
        "maximum",
        "minimum",
        "tanh",
        "exp",
        "log",
        "sqrt",
        "sin",
        "atan2",
        "erf",
        "sigmoid",
        "gelu",
        "**",
        "**c",
        *NARY,
    ],
)
def test_a_partial_with_the_wrong_sign_is_found(name):
    spoilt = copy_of_the_reference()
    spoil_partial(spoilt, name, lambda p: -p)
    assert finds(compare_close, ALL, range(3), spoilt)


@pytest.mark.parametrize(
    "name",
    ["*", "tanh", "exp", "log", "cbrt", "sin", "erf", "sigmoid", "softplus", "**", "atan2", *NARY],
)
def test_a_partial_that_is_off_by_a_millionth_is_found(name):
    spoilt = copy_of_the_reference()
    spoil_partial(spoilt, name, lambda p: p * (1 + 1e-6))
    assert finds(compare_close, [name, "+", "*", "-"], range(3), spoilt)


@pytest.mark.parametrize("name", ["+", "*", "tanh", "log", "sqrt", "erf"])
def test_a_value_that_is_one_ulp_off_is_found(name):
    spoilt = copy_of_the_reference()
    spoil_value(spoilt, name, up)
    assert finds(compare_close, ALL, range(3), spoilt)


@pytest.mark.parametrize(
    "name",
    ["sum", "mean", "dot", "prod", "logsumexp", "norm", "softmax", "gelu", "sigmoid", "lgamma"],
)
def test_a_value_that_is_a_thousand_ulps_off_is_found(name):
    spoilt = copy_of_the_reference()
    spoil_value(spoilt, name, lambda y: up(y, 1000))
    assert finds(compare_close, ALL, range(3), spoilt)


def test_an_exception_of_another_type_or_none_at_all_is_found():
    graph = [("leaf", 0.0), ("/", (1.0, 0)), ("+", (1, 2.0))]
    for compare in compare_exact, compare_close:
        for change in ValueError("no"), None:
            spoilt = copy_of_the_reference()

            def divide(a, b):
                if b:
                    return a / b
                if change:
                    raise change
                return math.inf

            spoilt.RULES["/"] = divide, spoilt.RULES["/"][1]
            compare(graph, [(2, 1.0)], copy_of_the_reference(), reference)
            with pytest.raises(AssertionError):
                compare(graph, [(2, 1.0)], spoilt, reference)


# --- Structure -----------------------------------------------------------------------------------


def dropped(self, gradient=1.0):
    """A pass that forgets the second of two equal operands (as a set of operands does)."""
    kept = [(node, node.operands) for node in self.reached()]
    for node, operands in kept:
        if len(operands) == 2 and operands[0] is operands[1]:
            node.operands = operands[0], operands[0].value
    self.honest(gradient)
    for node, operands in kept:
        node.operands = operands


def uncleared(self, gradient=1.0):
    """Interior adjoints pile up from pass to pass, as micrograd's do."""
    before = {id(node): node.grad for node in self.reached() if not node.is_leaf}
    self.honest(gradient)
    for node in self.reached():
        node.grad += before.get(id(node), 0.0)


def replaced(self, gradient=1.0):
    """Leaves forget earlier passes."""
    for node in self.reached():
        if node.is_leaf:
            node.grad = 0.0
    self.honest(gradient)


def upward(self, gradient=1.0):
    """The users of a node give their contributions oldest first."""
    nodes = self.reached()
    adjoint = {id(node): 0.0 for node in nodes}
    waiting = {id(node): [] for node in nodes}
    waiting[id(self)].append(float(gradient))
    for node in nodes:
        for contribution in reversed(waiting[id(node)]):
            adjoint[id(node)] += contribution
        if not node.is_leaf:
            for x, partial in zip(node.operands, node.partials()):
                if not isinstance(x, float) and x.requires_grad:
                    waiting[id(x)].append(adjoint[id(node)] * partial)
    for node in nodes:
        if not node.is_leaf:
            node.grad = adjoint[id(node)]
        elif node.requires_grad:
            node.grad += adjoint[id(node)]


def eager(self, gradient=1.0):
    """Contributions go straight into a leaf's grad, instead of one addition at the end."""
    nodes = self.reached()
    for node in nodes:
        if not node.is_leaf:
            node.grad = 0.0
    self.grad += gradient
    for node in nodes:
        if not node.is_leaf:
            for x, partial in zip(node.operands, node.partials()):
                if not isinstance(x, float) and x.requires_grad:
                    x.grad += node.grad * partial


@pytest.mark.parametrize("spoiler", [dropped, uncleared, replaced, upward, eager])
def test_a_wrong_walk_is_found(spoiler):
    spoilt = copy_of_the_reference()
    spoilt.Ref.honest = spoilt.Ref.backward
    spoilt.Ref.backward = spoiler
    assert finds(compare_exact, EXACT, range(3), spoilt)
    if spoiler not in (upward, eager):  # those differ in the last bits only
        assert finds(compare_close, ALL, range(3), spoilt)


# --- Programs ------------------------------------------------------------------------------------


def program_finds(spoil):
    for seed in range(6):
        program = random_program(seed, 400, EXACT)
        spoilt = copy_of_the_reference()
        spoil(spoilt, random.Random(seed))
        try:
            compare_logs(run_program(program, spoilt), run_program(program, reference), program)
        except AssertionError:
            return True
    return False


def test_an_unspoilt_program_passes():
    assert not program_finds(lambda engine, rng: None)


def test_a_collection_that_disturbs_one_value_is_found():
    def spoil(engine, rng):
        nodes = []
        honest = engine.Ref.__init__

        def init(self, *args, **kwargs):
            honest(self, *args, **kwargs)
            nodes.append(self)

        def collect():
            node = rng.choice(nodes[-40:])
            node.value = up(node.value)

        engine.Ref.__init__ = init
        engine.collect = collect

    assert program_finds(spoil)


def test_a_leaf_whose_write_goes_unnoticed_is_found():
    def spoil(engine, rng):
        def write(self, x):
            if not self.is_leaf:
                raise RuntimeError("a result")
            self.value = x

        engine.Ref.data = property(lambda self: self.value, write)

    assert program_finds(spoil)


def test_a_pass_that_is_refused_half_way_is_found():
    def spoil(engine, rng):
        honest = engine.Ref.backward

        def backward(self, gradient=1.0):
            try:
                honest(self, gradient)
            except RuntimeError:
                for node in self.reached():
                    if node.is_leaf:
                        node.grad += 1.0
                raise

        engine.Ref.backward = backward

    assert program_finds(spoil)


def test_a_write_to_a_result_that_goes_through_is_found():
    def spoil(engine, rng):
        def write(self, x):
            self.value, self.written = x, engine._state["count"]

        engine.Ref.data = property(lambda self: self.value, write)

    assert program_finds(spoil)


def test_a_node_that_outlives_its_users_is_counted():
    spoilt = copy_of_the_reference()
    kept = []
    program = random_program(1, 300, EXACT)
    before, base = reference.live(), spoilt.live()
    expected = run_program(program, reference, after=lambda engine: engine.live() - before)
    honest = spoilt.Ref.detach
    spoilt.Ref.detach = lambda self: kept.append(self) or honest(self)
    got = run_program(program, spoilt, after=lambda engine: engine.live() - base)
    with pytest.raises(AssertionError):
        compare_logs(got, expected, program)


def test_the_references_own_kinks_are_those_of_the_written_rule():
    """A few numbers by hand, so that the oracle is not only compared with what it judges."""
    cases = [
        ("relu", [0.0], [0.0]),
        ("abs", [0.0], [0.0]),
        ("maximum", [2.0, 2.0], [0.5, 0.5]),
        ("hypot", [0.0, 0.0], [0.0, 0.0]),
        ("atan2", [0.0, 0.0], [0.0, 0.0]),
        ("sqrt", [0.0], [math.inf]),
        ("asin", [1.0], [math.inf]),
        ("**", [0.0, 0.0], [0.0, 0.0]),
        ("**", [-2.0, 3.0], [12.0, math.nan]),
        ("/", [1e-200, 1e-200], [1e200, -1e200]),
        ("%", [7.0, 2.0], [1.0, -3.0]),
        ("prod", [0.0, 3.0], [3.0, 0.0]),
        ("norm", [0.0, 0.0], [0.0, 0.0]),
        ("max", [1.0, 1.0, 0.0], [0.5, 0.5, 0.0]),
        ("relu", [math.nan], [math.nan]),
        ("atan2", [1e-200, 1e-200], [5e199, -5e199]),
        ("clamp", [2.0], [1.0]),
        ("clamp", [2.5], [0.0]),
    ]
    for name, numbers, expected in cases:
        xs = [reference.Variable(x) for x in numbers]
        apply(reference, name, xs).backward()
        for x, partial in zip(xs, expected):
            assert_close_ulps(x.grad, partial, 4, f"{name}{numbers}")


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("softmax", "sum")])
def test_the_references_partials_match_central_differences(name):
    """The oracle's two halves, value and partial, are written apart: (f(x+h) - f(x-h)) / 2h."""
    rng = random.Random(name)
    done = 0
    while done < 8:
        count = (
            4
            if name in NARY
            else (2 if name in ("+", "-", "*", "/", "//", "%", "**", "maximum", "minimum", "atan2", "hypot") else 1)
        )
        numbers = [rng.uniform(-1.9, 2.9) for _ in range(count)]
        try:
            xs = [reference.Variable(x) for x in numbers]
            y = apply(reference, name, xs)
            y.backward()
            for k in range(count):
                values = []
                for step in 1e-5, -1e-5:
                    moved = [reference.Variable(x + step * (j == k)) for j, x in enumerate(numbers)]
                    values.append(apply(reference, name, moved).data)
                slope = (values[0] - values[1]) / 2e-5
                if not abs(slope) < 1e3:  # a jump (floor, sign, %) or a pole lies between
                    continue
                assert_close_relative(xs[k].grad, slope, 1e-6, f"{name}{numbers} operand {k}", floor=1.0)
        except (ValueError, ZeroDivisionError, OverflowError):
            continue
        done += 1
