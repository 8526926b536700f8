"""What csrc/schedule.pxi makes of programs: chains, fast programs and their bounds, runs without
the tape, texts of summaries. Bits of everything else are in test_program.py.
"""

import gc
import itertools
import math
import random
from array import array
from fractions import Fraction

import pytest

import mingrad
from mingrad import Variable, _core, hvp, value_and_grad
from watch import same_by_each_instruction_set

CHAIN = 5  # a kind of step: csrc/steps.h


def bits(xs):
    return [float(x).hex() for x in xs]


def recorded(f, *args, **settings):
    """f compiled and called twice, so that its steps are made, and its program."""
    f = mingrad.compile(f, **settings)
    f(*args), f(*args)
    return f, f.programs[0]


def steps(program):
    """(op, kind, results, links) of each step of the results."""
    found, n_results, *_ = _core._summary(program)
    return [step[:4] for step in found[:n_results]]


# -- chains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("links", [1, 2, 3, 16, 40])
def test_sums_of_products_are_one_step_with_the_bits_of_the_loop(n, links):
    rng = random.Random(n * links)
    w = [[Variable(rng.uniform(-1, 1)) for _ in range(links)] for _ in range(n)]
    b = [Variable(rng.uniform(-1, 1)) for _ in range(n)]
    x = [rng.uniform(-1, 1) for _ in range(links)]

    def f(x):
        return [sum((wi * xi for wi, xi in zip(row, x)), bi) for row, bi in zip(w, b)]

    compiled, program = recorded(f, x)
    assert bits(v.data for v in compiled(x)) == bits(v.data for v in f(x))
    assert [step for step in steps(program) if step[1] == CHAIN] == [("mul", CHAIN, n, links)]
    grads = []
    for g in (f, compiled):
        for v in (*b, *sum(w, [])):
            v.zero_grad()
        mingrad.sum([y * y for y in g(x)]).backward()
        grads.append(bits(v.grad for v in (*b, *sum(w, []))))
    assert grads[0] == grads[1]


def test_sums_with_and_without_products_are_one_chain():
    def f(xs):
        total = 0.0
        for x, y in itertools.pairwise(xs):
            total = total + 3.0 * x * y + abs(x)
        return total

    xs = [0.1 * k for k in range(50)]
    compiled, program = recorded(f, xs)
    assert bits([compiled(xs)]) == bits([f(xs)])
    assert [step[1:] for step in steps(program)].count((CHAIN, 1, 98)) == 1


def test_a_partial_sum_that_others_need_stays():
    def f(xs):
        sums = [xs[0]]
        for x in xs[1:]:
            sums.append(sums[-1] + x)
        return sums

    xs = [0.1 * k for k in range(9)]
    compiled, program = recorded(f, xs)
    assert bits(compiled(xs)) == bits(f(xs))
    assert all(step[1] != CHAIN for step in steps(program))
    assert "a sum that others need too is no part of a longer one  test_schedule.py:" in program.summary()


# -- fast ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [2, 3, 4, -1, 0.5])
def test_small_powers_of_fast_programs_are_within_two_units(power):
    f = mingrad.compile(lambda x: x**power, fast=True)
    rng = random.Random(1)
    for _ in range(200):
        x = rng.uniform(0.1, 10.0)
        f(x)
        exact = Fraction(x) ** power if power != 0.5 else Fraction(math.sqrt(x))
        assert abs(Fraction(f(x)) - exact) <= 2 * Fraction(math.ulp(float(exact)))


def test_squares_have_the_bits_of_pythons_power_above_all_nearly_halfway_between_two_floats():
    """A square is computed without pow() where both are surely the same (is_power_2 in csrc/ops.h)."""
    rng = random.Random(2)
    hard = []  # a * a in the last 1/20 of a unit before the middle, or a power of two of either side
    while len(hard) < 2000:
        a = rng.choice((-1, 1)) * math.ldexp(rng.uniform(1, 2), rng.randrange(-40, 40))
        rest = Fraction(a) ** 2 - Fraction(a * a)
        if abs(rest) > Fraction(9, 20) * Fraction(math.ulp(a * a)):
            hard.append(a)
    roots = [math.nextafter(math.sqrt(2.0**k), to) for k in range(-60, 60) for to in (0.0, 1e9)]
    small_and_large = [math.ldexp(rng.uniform(-2, 2), k) for k in range(-600, 500)]
    special = [0.0, -0.0, 5e-324, 1e-160, 1.3e154, math.inf, -math.inf, math.nan]
    xs = hard + roots + small_and_large + special
    expected = bits(x**2 for x in xs)

    def run():
        square = mingrad.compile(lambda xs: [x**2 for x in xs])
        square(xs), square(xs)
        found = bits((Variable(x) ** 2).data for x in xs), bits(square(xs)), bits(mingrad.vmap(lambda x: x**2)(array("d", xs)))
        assert found == (expected,) * 3
        return found

    with mingrad.errstate(all="ignore"):
        same_by_each_instruction_set(run)


def test_quotients_by_numbers_of_fast_programs_are_within_two_units():
    f = mingrad.compile(lambda x: x / 3.0 + 0.0, fast=True)
    for k in range(1, 200):
        x = k / 7
        f(x)
        assert abs(f(x) - x / 3.0) <= 2 * math.ulp(x / 3.0)


def test_a_division_by_a_power_of_two_keeps_its_bits():
    f = mingrad.compile(lambda x: x / 8.0)
    for x in (1.0, 5e-324, 3e-323, -0.0, 1e308, math.inf):
        f(x)
        assert bits([f(x)]) == bits([x / 8.0])


def test_long_sums_of_fast_programs_keep_the_bound_of_every_order():
    rng = random.Random(2)
    xs = [rng.uniform(-1.0, 1.0) * 10.0 ** rng.randrange(-8, 8) for _ in range(1000)]
    f, program = recorded(lambda xs: sum(x * x * x for x in xs), xs, fast=True)
    assert ("affine", 0, 1, 1000) in steps(program) or ("dot", 0, 1, 1000) in steps(program)
    exact = sum(Fraction(x) ** 3 for x in xs)
    # each term is rounded twice, so (n - 1) + 2 roundings
    bound = (len(xs) + 1) * 2.0**-53 * sum(abs(x) ** 3 for x in xs)
    assert abs(Fraction(f(xs)) - exact) <= bound


def test_gradients_of_fast_programs_are_those_of_the_function():
    def f(xs):
        return sum(mingrad.exp(-x * x) / 7.0 + x**3 for x in xs) ** 0.5

    xs = [0.1 * k + 0.3 for k in range(40)]
    fast, _ = recorded(f, xs, fast=True)
    value, gradient = value_and_grad(fast)(xs)
    expected, partials = value_and_grad(f)(xs)
    # sums of 40 terms and functions within 2 units each: a few hundred units at most
    assert value == pytest.approx(expected, rel=1e-13)
    assert gradient == pytest.approx(partials, rel=1e-13)
    assert hvp(fast, (xs,), ([1.0] * 40,)) == pytest.approx(hvp(f, (xs,), ([1.0] * 40,)), rel=1e-12)


def test_check_allows_what_fast_allows_and_no_more():
    factor = 1.0
    f = mingrad.compile(lambda x: x**3 * factor, fast=True, check=True)
    assert [f(x) for x in (1.1, 1.3, 1.7)] == pytest.approx([1.1**3, 1.3**3, 1.7**3], rel=1e-15)
    factor = 1.0 + 1e-6
    with pytest.raises(RuntimeError, match="but the recorded run gave"):
        f(1.9)


# -- value_and_grad without the tape ---------------------------------------------------------------


def smooth(xs, y):
    return sum(mingrad.sin(x) * y for x in xs) if y > 0 else sum(xs) * y * y


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_value_and_grad_of_a_compiled_function_has_the_same_bits(argnums):
    f = mingrad.compile(smooth)
    for xs, y in (([0.3, 0.4, 2.0], 1.5), ([1.0, 2.0, 3.0], -2.0), ([0.1, -0.4, 2.0], 2.5)) * 2:
        found, expected = value_and_grad(f, argnums)(xs, y), value_and_grad(smooth, argnums)(xs, y)
        assert repr(found) == repr(expected)
    assert len(f.programs) == 2


def test_arrays_get_arrays_of_their_own():
    numpy = pytest.importorskip("numpy")
    f = mingrad.compile(smooth)
    xs = numpy.array([0.3, 0.4, 2.0])
    value, gradient = value_and_grad(f)(xs, 1.5)
    for _ in range(2):
        again, other = value_and_grad(f)(xs, 1.5)
        assert again == value and other is not gradient and numpy.array_equal(gradient, other)
    other[:] = 7.0
    assert numpy.array_equal(value_and_grad(f)(xs, 1.5)[1], gradient)
    strided = numpy.array([0.3, 9.0, 0.4, 9.0, 2.0, 9.0])[::2]
    assert numpy.array_equal(value_and_grad(f)(strided, 1.5)[1], gradient)


def test_what_takes_part_in_derivatives_still_does():
    w = Variable(2.0)
    f = mingrad.compile(lambda x: w * x * x)
    for _ in range(3):
        value, slope = value_and_grad(f)(3.0)
        slope.backward()  # by w
    assert (value.data, slope.data, w.grad) == (18.0, 12.0, 18.0)


def test_errors_of_value_and_grad_are_those_of_the_function():
    f = mingrad.compile(lambda x: mingrad.log(x))
    assert [value_and_grad(f)(2.0) for _ in range(2)] == [(math.log(2.0), 0.5)] * 2
    with pytest.raises(ValueError, match=r"log\(-1.0\)"):
        value_and_grad(f)(-1.0)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, w: x * -w,
        lambda x, w: x * (w * 2.0 + 1.0),
        lambda x, w: x * mingrad.sum([w, 1.0, w]),
        lambda x, w: x + mingrad.dot([w, 2.0], [3.0, w]),
        lambda x, w: x * mingrad.softmax([w, 0.5])[0],
        lambda x, w: -w,
    ],
)
def test_constants_from_outside_are_read_at_each_call_whatever_is_made_of_them(f):
    w, x = Variable(2.0, requires_grad=False), Variable(3.0)
    compiled = mingrad.compile(lambda x: f(x, w))
    for value in (2.0, 2.0, 5.0, -1.0):
        w.data = value
        found, expected = compiled(x), f(x, w)
        assert bits([found.data]) == bits([expected.data])
        assert found.requires_grad == expected.requires_grad
        if found.requires_grad:
            grads = []
            for y in (found, expected):
                x.zero_grad()
                y.backward()
                grads.append(x.grad)
            assert grads[0] == grads[1]
    assert len(compiled.programs) == 1


# -- backward() of a program alone, and what it must not pass by ------------------------------------


def trained(w, f):
    f().backward()
    return w.grad


def test_backward_of_a_programs_result_sees_hooks_stale_leaves_and_graphs():
    w, v = Variable(3.0), Variable(2.0)
    f = mingrad.compile(lambda: w * w * v)
    for _ in range(2):
        f().backward()
    assert (w.grad, v.grad) == (24.0, 18.0)
    seen = []
    hook = w.register_hook(seen.append)
    f().backward()
    hook.remove()
    y = f()
    w.data = 5.0
    with pytest.raises(RuntimeError, match="written"):
        y.backward()
    assert (seen, w.grad) == ([12.0], 36.0)
    (f() * 2.0).backward(0.5)
    assert w.grad == 36.0 + 20.0
    y = f()
    y.backward(create_graph=True)
    w.zero_grad()
    z = f()
    z.backward()
    assert (w.grad, z.grad) == (20.0, 1.0)
    v.requires_grad = False
    f().backward()
    assert (w.grad, v.grad) == (40.0, 9.0 * 3 + 25.0 * 3)


def test_numbers_of_a_call_go_with_its_result_and_not_before():
    ws = [Variable(0.5) for _ in range(100)]
    f = mingrad.compile(lambda: mingrad.sum([mingrad.exp(w) * w for w in ws]))
    f(), f()
    kept = [f() for _ in range(5)]
    total = kept[1] * 2.0 + kept[3]
    expected = trained(ws[0], f)
    ws[0].zero_grad()
    del kept
    for _ in range(20):
        loss = f()
        loss.backward()
    gc.collect()
    ws[0].zero_grad()
    total.backward()  # its operands' handles are gone, their numbers are not
    assert ws[0].grad == pytest.approx(3 * expected, rel=1e-15)


# -- summaries -------------------------------------------------------------------------------------


def neuron(xs, w):
    return mingrad.tanh(sum(x * wi for x, wi in zip(xs, w)))


def test_a_summary_says_rows_steps_bytes_kernels_and_lines():
    w = [Variable(0.1 * k) for k in range(8)]
    f, program = recorded(lambda X: sum(neuron(xs, w) for xs in X), [[0.5] * 8] * 30)
    text = program.summary()
    line = neuron.__code__.co_firstlineno + 1
    assert text.startswith("<lambda>: ") and "rows recorded, " in text.splitlines()[0]
    assert "for results" in text and "for the gradient" in text and "gradient\n" in text
    assert "240 inputs, 8 Variables from outside, 0 comparisons" in text
    assert "bytes recorded; " in text
    assert f"  test_schedule.py:{line} in neuron" in text
    assert "sums of 8 products" in text and "sums of 30 numbers" in text


def test_a_summary_says_what_stopped_a_fusion():
    def orbit(x):
        for _ in range(40):
            x = mingrad.sin(x)
        return x

    f, program = recorded(orbit, 0.7)
    assert "with 1 at a time: each needs what comes before" in program.summary()


def test_a_summary_of_what_cannot_be_recorded_again_has_no_lines(tmp_path):
    calls = []

    def f(x):
        calls.append(1)
        return x * x if len(calls) == 1 else x + 1.0

    f, program = recorded(f, 2.0)
    assert "test_schedule.py" not in program.summary()
    program.save(tmp_path / "f.program")
    assert "  mul   1" in mingrad.Program.load(tmp_path / "f.program").summary()
