"""mingrad.rows.scan: sequences of rows, each beginning with what the one before has ended with, against loops in plain Python.

Where a step uses no vector function its values have the loop's bits; sums of gradients are added in another order.
"""

import array
import math
import os
import random
import subprocess
import sys

import pytest

import mingrad
from mingrad import Variable
from mingrad.rows import scan


def step(state, x, w):
    """A step with branches by input, by state and by what is computed of both."""
    a, b = state["a"], state["b"][0]
    if x > 0.5:
        a = a * w + x
    elif b > a:
        b = b - w * x
    c = mingrad.maximum(a, b) if a * x > b else a - b
    return {"a": 0.5 * c + 0.1, "b": [b * 0.9 + x]}, (c * c, a)


def by_hand(init, rows, lengths, w):
    """The states at the end, and the results of all rows, from plain loops."""
    ends, results, first = [], [], 0
    for k, length in enumerate(lengths):
        state = {"a": init["a"][k], "b": [init["b"][0][k]]}
        for x in rows[first : first + length]:
            state, y = step(state, x, w)
            results.append(y)
        ends.append(state)
        first += length
    return ends, results


def sequences(count, longest, seed=1):
    rng = random.Random(seed)
    lengths = [rng.randint(1, longest) for _ in range(count)]
    rows = array.array("d", [rng.uniform(-1.0, 1.0) for _ in range(sum(lengths))])
    a, b = ([rng.uniform(-1.0, 1.0) for _ in lengths] for _ in range(2))
    return {"a": array.array("d", a), "b": [array.array("d", b)]}, rows, lengths


@pytest.mark.parametrize("count, longest", [(1, 1), (1, 40), (7, 3), (60, 20), (700, 9)])
def test_states_and_results_have_the_bits_of_loops(count, longest):
    init, rows, lengths = sequences(count, longest)
    ends, results = by_hand(init, rows, lengths, 0.7)
    w = Variable(0.7)
    last, found = scan(lambda state, x: step(state, x, w))(init, rows, lengths=lengths)
    assert last["a"].tolist() == [state["a"] for state in ends] and last["b"][0].tolist() == [state["b"][0] for state in ends]
    assert [y.tolist() for y in found] == [list(column) for column in zip(*results)]
    assert w.grad == 0.0


@pytest.mark.parametrize("count, longest", [(1, 40), (60, 20), (700, 9)])
def test_a_sum_of_gradients_is_that_of_loops(count, longest):
    init, rows, lengths = sequences(count, longest)
    w, v = Variable(0.7), Variable(0.7)
    _, results = by_hand(init, rows, lengths, v)
    sum(x for pair in results for x in pair).backward()
    run = scan(lambda state, x: step(state, x, w), grad="sum")
    run(init, rows, lengths=lengths)
    assert w.grad == pytest.approx(v.grad, rel=1e-11)  # 5,000 terms of both signs, added otherwise
    before, w.grad = w.grad, 0.0
    run(init, rows, lengths=lengths)
    assert w.grad == pytest.approx(before, rel=1e-12)


def test_what_is_kept_for_the_way_back_and_what_is_computed_again_give_the_same_bits():
    # 2 ** 23 numbers are kept; the second batch is more than that
    w = Variable(0.99)
    run = scan(lambda s, x: (mingrad.sin(s * w) + x, s * x), grad="sum")
    length, count = 400, 10_000
    small = array.array("d", [0.001 * k for k in range(length)])
    run(0.5, small)
    one, w.grad = w.grad, 0.0
    run(0.5, small * count, lengths=[length] * count)
    assert w.grad == pytest.approx(count * one, rel=1e-12)


def test_a_sequence_alone_and_numbers_to_begin_with():
    last, before = scan(lambda s, x, y: (s + x * y[0], s))(1.0, [2.0, 3.0], [[10.0], [100.0]])
    assert last.tolist() == [321.0] and before.tolist() == [1.0, 21.0]


def test_states_are_carried_on_from_call_to_call():
    init, rows, lengths = sequences(5, 12)
    f = mingrad.compile(lambda s, x: (0.5 * s + x, s * x))
    whole, values = scan(f)(0.0, rows[:10])
    half, first = scan(f)(0.0, rows[:4])
    again, second = scan(f)(half, rows[4:10])
    assert again.tolist() == whole.tolist() and first.tolist() + second.tolist() == values.tolist()


def test_a_state_and_a_result_may_be_numbers():
    last, y = scan(lambda s, x: ((0.0, x), 1.0) if x < 0.0 else ((s[0] + x, s[1]), s[0]))((5.0, 7.0), [1.0, -1.0, 2.0])
    assert [x.tolist() for x in last] == [[2.0], [-1.0]] and y.tolist() == [5.0, 1.0, 0.0]


def test_recordings_are_shared_and_limited():
    f = mingrad.compile(lambda s, x: (s + x, s) if x > 0.0 else (s - x, s))
    scan(f)(0.0, [1.0, -1.0])
    scan(f, grad="sum")(0.0, [-1.0, 1.0, 2.0])
    assert len(f.programs) == 2
    few = mingrad.compile(lambda s, x: (s, sum([x for k in range(9) if x > k])), max_programs=3)
    with pytest.raises(RuntimeError, match="scan: <lambda> takes more than 3 ways, and row 3 still another one"):
        scan(few)(0.0, [k + 0.5 for k in range(9)])


def test_more_comparisons_than_bits():
    def f(s, x):
        return s, sum([1.0 for k in range(100) if x > k])

    x = [1000.0, 3.5, 99.5, 70.5, -1.0]
    assert scan(f)(0.0, x * 2)[1].tolist() == [100.0, 4.0, 100.0, 71.0, 0.0] * 2


def test_a_comparison_that_hangs_on_a_last_digit_comes_out_as_it_does_without_rows():
    x = [0.37 + 0.1 * k for k in range(200)]
    f = mingrad.compile(lambda s, x, y: (s + 1.0, x if mingrad.exp(x) >= y else -x), max_programs=8)
    last, found = scan(f)(0.0, x, [mingrad.exp(a) for a in x])
    assert found.tolist() == x and last.tolist() == [200.0]


def test_the_first_result_that_is_not_finite_is_named():
    w = Variable(1.0)
    run = scan(lambda s, x: (s - w * x, mingrad.log(s)), grad="sum", errors="raise")
    run(3.0, [1.0, 1.0])
    before = w.grad
    with pytest.raises(FloatingPointError) as caught:
        run(2.0, [1.0, 1.0, 1.0, 0.5], lengths=[3, 1])
    assert str(caught.value) == (
        "scan: row 2: log(0.0) is -inf; the row's arguments are 0.0, 1.0; errors='ignore' keeps such results"
    )
    assert w.grad == before and math.isinf(scan(lambda s, x: (s - x, mingrad.log(s)))(1.0, [1.0, 1.0])[1][1])


INTERRUPTED = """
import signal, threading, mingrad
from array import array

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
w = mingrad.Variable(1.0)
def f(s, x):
    for k in range(300):
        s = mingrad.sin(s * w) + x
    return s, s

run = mingrad.rows.scan(mingrad.compile(f), grad="sum")
x = array("d", [0.5]) * 20
run(0.1, x)
before = w.grad
threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
try:
    run(0.1, x * 50_000, lengths=[100] * 10_000)
except KeyboardInterrupt:
    print("stopped", w.grad == before)
run(0.1, x)
assert w.grad == 2 * before
"""


def test_ctrl_c_ends_a_call_soon_and_changes_no_gradient():
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["stopped", "True"]


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: scan(step, grad="rows"), ValueError, "scan: expected grad to be None or 'sum', got 'rows'"),
        (
            lambda: scan(lambda s, x: (s, x))(0.0, [1.0], lengths=[2]),
            ValueError,
            (
                "scan: expected arguments of one length, and lengths of at least 1 that add up to it, got arguments of [1] and "
                "lengths that add up to 2"
            ),
        ),
        (
            lambda: scan(lambda s, x: (s, x))(0.0, [1.0], lengths=[1, 0]),
            ValueError,
            (
                "scan: expected arguments of one length, and lengths of at least 1 that add up to it, got arguments of [1] and "
                "lengths that add up to 1"
            ),
        ),
        (
            lambda: scan(lambda s, x, y: (s, x))(0.0, [1.0], [1.0, 2.0]),
            ValueError,
            (
                "scan: expected arguments of one length, and lengths of at least 1 that add up to it, got arguments of [1, 2] and "
                "lengths that add up to 3"
            ),
        ),
        (
            lambda: scan(lambda s, x: s + x)(0.0, [1.0]),
            TypeError,
            "scan: expected <lambda> to give a pair of a state like the one it is given, here of 1 numbers, and a result",
        ),
        (
            lambda: scan(lambda s, x: ((s, x), x))(0.0, [1.0]),
            TypeError,
            "scan: expected <lambda> to give a pair of a state like the one it is given, here of 1 numbers, and a result",
        ),
        (
            lambda: scan(lambda s, x: (s, x))(array.array("d", [0.0, 1.0]), [1.0]),
            ValueError,
            "scan: expected states to begin with that are numbers or arrays of 1, one for each sequence",
        ),
        (
            lambda: scan(lambda s, x: (s, x))(0.0, [Variable(1.0)]),
            TypeError,
            "scan: argument 1 has Variables that require a gradient, which would get none: pass numbers (.data, .detach())",
        ),
    ],
)
def test_an_error_says_what_was_expected(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_a_variable_to_begin_with_is_refused():
    with pytest.raises(TypeError):
        scan(lambda s, x: (s, x))(Variable(1.0), [1.0])
