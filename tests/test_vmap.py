"""vmap: rows through a recorded program, against the function called row by row.

Values may differ by the vector functions' two units in the last place; where a function uses none of
those they have its bits. Gradients by rows are value_and_grad's; sums do not depend on threads.
"""

import array
import math
import os
import random
import subprocess
import sys

import pytest

import mingrad
from helpers import ulps
from mingrad import Variable, value_and_grad, vmap


def columns(n, k, seed=1):
    rng = random.Random(seed)
    return [array.array("d", [rng.uniform(0.2, 3.0) for _ in range(n)]) for _ in range(k)]


def smooth(x, y):
    return mingrad.exp(-x) * mingrad.log(y) + mingrad.sin(x * y) / mingrad.sqrt(x + y) + mingrad.erfc(x) * y**1.5


def stepped(x, y):
    if x > y:
        return x * y
    return y - x if y < 1.0 else mingrad.relu(y - 2.0 * x) + abs(x - 1.0)


def test_exact_operations_have_the_functions_bits_in_every_row():
    x, y = columns(1000, 2)
    assert vmap(stepped)(x, y).tolist() == [stepped(a, b) for a, b in zip(x, y)]


def test_vector_functions_are_within_a_few_units_in_the_last_place():
    x, y = columns(1000, 2)
    for a, b, found in zip(x, y, vmap(smooth)(x, y).tolist()):
        terms = (mingrad.exp(-a) * mingrad.log(b), mingrad.sin(a * b), mingrad.erfc(a) * b**1.5)
        assert abs(found - smooth(a, b)) <= 8 * 2.0**-53 * sum(map(abs, terms))
    for function in (mingrad.exp, mingrad.tanh, mingrad.cos, mingrad.erf, mingrad.log1p):
        for a, found in zip(x, vmap(lambda x: function(x))(x).tolist()):
            assert ulps(found, function(a)) <= 3  # two of ours, one of libm's


@pytest.mark.parametrize("f", [smooth, stepped])
def test_gradients_by_rows_are_those_of_each_row(f):
    x, y = columns(700, 2)
    values, (gx, gy) = vmap(f, grad="rows")(x, y)
    for k, (a, b) in enumerate(zip(x, y)):
        value, (da, db) = value_and_grad(f, argnums=(0, 1))(a, b)
        assert values[k] == pytest.approx(value, rel=1e-14, abs=1e-15)
        assert gx[k] == pytest.approx(da, rel=1e-13, abs=1e-14)
        assert gy[k] == pytest.approx(db, rel=1e-13, abs=1e-14)


def test_a_sum_of_gradients_goes_to_the_parameters_and_does_not_depend_on_threads():
    x, y = columns(50_000, 2)
    found = []
    for threads in (1, 2, 8):
        w, v = Variable(0.5), Variable(-1.5)
        vmap(lambda x, y: w * x * x + v * y if x < y else w * v * x, grad="sum", threads=threads)(x, y)
        found.append((w.grad, v.grad))
    assert found[0] == found[1] == found[2]
    w = math.fsum(a * a if a < b else -1.5 * a for a, b in zip(x, y))
    v = math.fsum(b if a < b else 0.5 * a for a, b in zip(x, y))
    assert found[0] == pytest.approx((w, v), rel=1e-12)


def test_a_parameter_is_read_at_each_call_and_its_gradient_adds_up():
    w = Variable(2.0)
    f = vmap(lambda x: w * x, grad="sum")
    assert f([1.0, 3.0]).tolist() == [2.0, 6.0] and w.grad == 4.0
    w.data = 5.0
    assert f([1.0, 3.0]).tolist() == [5.0, 15.0] and w.grad == 8.0


def test_arguments_may_be_rows_of_lists_and_the_same_for_all():
    rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    f = vmap(lambda x, scale, n: (scale * x[0] + x[1] ** n, {"sum": sum(x)}), in_axes=(0, None, None))
    first, second = f(rows, 10.0, 2)
    assert first.tolist() == [14.0, 46.0, 86.0] and second["sum"].tolist() == [3.0, 7.0, 11.0]


def test_numpy_arrays_of_any_stride_are_read_where_they_are():
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    table = numpy.arange(24.0).reshape(6, 4)
    f = vmap(lambda row, x: row[0] * x + row[1])
    expected = table[::2, 1] * table[::2, 3] + table[::2, 2]
    assert numpy.array_equal(f(table[::2, 1:3], table[::2, 3]), expected)
    values, gradient = vmap(lambda row: row[0] * row[1], grad="rows")(table[:, ::2])
    assert numpy.array_equal(values, table[:, 0] * table[:, 2])
    assert gradient.shape == (6, 2) and numpy.array_equal(gradient, table[:, [2, 0]])
    assert numpy.array_equal(vmap(lambda x: x * 2.0)(numpy.arange(3)), [0.0, 2.0, 4.0])


def test_n_ary_operations_and_the_same_bits_at_every_length():
    def f(row):
        return mingrad.softmax(row)[0] + mingrad.logsumexp(row) * mingrad.max(row) + mingrad.dot(row, row) + mingrad.prod(row)

    rng = random.Random(3)
    rows = [[rng.uniform(-2.0, 2.0) for _ in range(5)] for _ in range(300)]
    whole = vmap(f, grad="rows")(rows)
    for n in (1, 2, 7, 17, 255, 257):
        values, gradient = vmap(f, grad="rows")(rows[:n])
        assert values.tolist() == whole[0].tolist()[:n]
    for row, value, k in zip(rows, whole[0].tolist(), range(300)):
        exact, slopes = value_and_grad(f)(row)
        assert value == pytest.approx(exact, rel=1e-14)
        found = [g[k] for g in whole[1]] if isinstance(whole[1], list) else list(whole[1][k])
        assert found == pytest.approx(slopes, rel=1e-13, abs=1e-13)


def test_infinities_and_nan_stay_in_their_rows():
    found = vmap(lambda x: 1 / x + mingrad.log(x))([1.0, 0.0, -1.0, 2.0]).tolist()
    assert found[0] == 1.0 and math.isnan(found[1]) and math.isnan(found[2]) and found[3] == 0.5 + math.log(2.0)


def test_too_many_ways_are_refused():
    f = mingrad.compile(lambda x: sum(x for k in range(40) if x > k), max_programs=4)
    with pytest.raises(RuntimeError, match="takes more than 4 ways"):
        vmap(f)([k + 0.5 for k in range(20)])


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: vmap(abs)([]), "vmap: expected arguments of one length, at least 1, got [0]"),
        (lambda: vmap(smooth)([1.0], [1.0, 2.0]), "vmap: expected arguments of one length, at least 1, got [1, 2]"),
        (
            lambda: vmap(smooth, in_axes=(0,))([1.0], [2.0]),
            "vmap: expected in_axes of 0 and None, one for each of 2 arguments, got (0,)",
        ),
        (lambda: vmap(smooth, grad="all"), "vmap: expected grad to be None, 'rows' or 'sum', got 'all'"),
        (lambda: vmap(smooth, threads=0), "vmap: expected threads to be an int of at least 1, got 0"),
        (lambda: vmap(lambda x: x[0])([[1.0], [1.0, 2.0]]), "vmap: expected rows of one length in argument 0"),
    ],
)
def test_an_error_says_what_was_expected(call, text):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == text


# Gradients of Variables among the arguments: nothing is lost without a word


def test_leaves_among_the_arguments_take_part_in_a_sum():
    xs, w = [Variable(float(k)) for k in range(1, 6)], Variable(3.0)
    rows = [[Variable(1.0), 2.0], [3.0, Variable(4.0)]]
    found = vmap(lambda x, w: w * x * x if x < 4.0 else w * x, in_axes=(0, None), grad="sum")(xs, w)
    assert found.tolist() == [3.0, 12.0, 27.0, 12.0, 15.0]
    assert [x.grad for x in xs] == [6.0, 12.0, 18.0, 3.0, 3.0] and w.grad == 1 + 4 + 9 + 4 + 5
    vmap(lambda row: row[0] * row[1], grad="sum")(rows)
    assert rows[0][0].grad == 2.0 and rows[1][1].grad == 3.0
    vmap(lambda x, c: x * c["a"][0] + c["b"], in_axes=(0, None), grad="sum")(
        mingrad.tensor([1.0, 2.0]), {"a": [w, 1.0], "b": 2.0}
    )
    assert w.grad == 23 + 3


@pytest.mark.parametrize("grad", [None, "rows"])
def test_a_gradient_that_would_be_lost_is_an_error(grad):
    f = vmap(lambda x, w: w * x, in_axes=(0, None), grad=grad)
    text = (
        f"has Variables that require a gradient, which would get none with grad={grad!r}: use grad='sum', or pass numbers "
        f"(.data, .detach())"
    )
    with pytest.raises(TypeError) as caught:
        f([1.0], Variable(2.0))
    assert str(caught.value) == f"vmap: argument 1 {text}"
    with pytest.raises(TypeError) as caught:
        f([Variable(1.0)], 2.0)
    assert str(caught.value) == f"vmap: argument 0 {text}"
    with mingrad.no_grad():
        f([Variable(1.0)], Variable(2.0))
    f([Variable(1.0, requires_grad=False)], Variable(2.0).detach())


def test_a_result_of_a_computation_among_the_arguments_is_an_error():
    w = Variable(2.0)
    with pytest.raises(TypeError) as caught:
        vmap(lambda x, w: w * x, in_axes=(0, None), grad="sum")([1.0], w * w)
    assert str(caught.value) == (
        "vmap: argument 1 has the result of a computation, and grad='sum' does not go on into that: pass leaves and compute inside "
        "the function, or pass numbers (.data, .detach())"
    )
    assert w.grad == 0.0


# errors='raise'


def test_the_first_row_with_a_result_that_is_not_finite_is_named():
    f = mingrad.compile(lambda x, y: 1.0 / x if x < y else mingrad.log(x - y))
    assert vmap(f, errors="raise")([1.0, 3.0], [2.0, 2.0]).tolist() == [1.0, 0.0]
    for threads in (1, 2):
        x, y = [1.0] * 40_000, [2.0] * 40_000
        x[20_001], x[30_000], y[25_000] = 2.0, 0.0, math.inf  # log(0.0) is the first of its program, 1 / 0 of the other one
        with pytest.raises(FloatingPointError) as caught:
            vmap(f, errors="raise", threads=threads)(x, y)
        assert str(caught.value) == (
            "vmap: row 20001: log(0.0) is -inf; the row's arguments are 2.0, 2.0; errors='ignore' keeps such results"
        )


def test_an_error_leaves_gradients_as_they_were():
    w = Variable(1.0)
    f = vmap(lambda x: mingrad.sqrt(w * x), grad="sum", errors="raise")
    with pytest.raises(FloatingPointError, match=r"row 1: sqrt\(-1.0\) is nan"):
        f([1.0, -1.0])
    assert w.grad == 0.0
    f([1.0])
    assert w.grad == 0.5


def test_what_is_not_finite_inside_only_is_no_error():
    assert vmap(lambda x: 1.0 / (1.0 + mingrad.exp(x)), errors="raise")([0.0, 1000.0]).tolist() == [0.5, 0.0]


def test_the_first_row_may_be_one_that_has_no_value():
    assert math.isnan(vmap(mingrad.log)([-1.0, 1.0])[0])
    with pytest.raises(FloatingPointError, match=r"row 0: log\(-1.0\) is nan"):
        vmap(mingrad.log, errors="raise")([-1.0, 1.0])


@pytest.mark.parametrize(
    "f, row, text",
    [
        (lambda x: 2.0 / x[0], [0.0, 1.0], "div(2.0, 0.0) is inf"),
        (lambda x: x[0] * 1e300, [1e300, 1.0], "mul(1e+300, 1e+300) is inf"),
        (
            lambda x: mingrad.sum([x[0], x[1], x[0], x[1], x[0]]),
            [1e308, 1e308],
            "sum(1e+308, 1e+308, 1e+308, 1e+308, ...) is inf",
        ),
        (lambda x: mingrad.dot(x, x), [1e200, 1e200], "dot(1e+200, 1e+200, 1e+200, 1e+200) is inf"),
        (lambda x: mingrad.softmax(x)[0] / x[1], [1.0, 0.0], "div(0.7310585786300049, 0.0) is inf"),
        (lambda x: x[0] + x[1], [math.inf, 1.0], "a result is not finite"),
    ],
)
def test_the_operation_is_named(f, row, text):
    with pytest.raises(FloatingPointError) as caught:
        vmap(f, errors="raise")([[2.0, 3.0], row])
    assert str(caught.value).startswith(f"vmap: row 1: {text}; the row's arguments are {row[0]!r}, {row[1]!r}; ")


# out=


def test_out_is_filled_and_returned():
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    table = numpy.random.default_rng(1).uniform(1, 2, (50, 3))
    f = vmap(lambda row, c: row[0] * row[1] * c, in_axes=(0, None), grad="rows")
    expected, slopes = f(table, 3.0)
    out = numpy.empty(100)[::2], numpy.empty((3, 50)).T
    assert f(table, 3.0, out=out) is out
    assert numpy.array_equal(out[0], expected) and numpy.array_equal(out[1], slopes)
    g = vmap(lambda x, y: {"sum": x + y, "more": (x * y, [x])}, grad=None)
    out = {"sum": array.array("d", [0.0] * 50), "more": [numpy.empty(50), (memoryview(bytearray(400)).cast("d"),)]}
    g(table[:, 0], table[:, 1], out=out)
    assert numpy.array_equal(out["sum"], table[:, 0] + table[:, 1]) and numpy.array_equal(out["more"][1][0], table[:, 0])


@pytest.mark.parametrize(
    "out, text",
    [
        (
            (array.array("d", [0.0]), array.array("d", [0.0] * 2)),
            "vmap: expected out to have writable float64 arrays for 2 rows, got shape (1,), format 'd'",
        ),
        (
            (array.array("f", [0.0] * 2), array.array("d", [0.0] * 2)),
            "vmap: expected out to have writable float64 arrays for 2 rows, got shape (2,), format 'f'",
        ),
        (
            (memoryview(bytes(16)).cast("d"), array.array("d", [0.0] * 2)),
            "vmap: expected out to have writable float64 arrays for 2 rows, got shape (2,), format 'd', read-only",
        ),
        ([array.array("d", [0.0] * 2)], "vmap: expected out to have a tuple of 2, as the result has, got list of 1"),
        ({}, "vmap: expected out to have a tuple of 2, as the result has, got dict of 0"),
    ],
)
def test_an_out_that_does_not_fit_is_an_error(out, text):
    with pytest.raises(ValueError) as caught:
        vmap(lambda x: (x, x + 1.0))([1.0, 2.0], out=out)
    assert str(caught.value) == text


# Progress and Ctrl-C


def test_progress_is_told_of_all_rows_once():
    rng = random.Random(5)
    x = [rng.uniform(-1.0, 1.0) for _ in range(40_000)]
    for threads in (1, 2):
        told = []
        vmap(lambda x: x if x > 0.0 else -x, threads=threads, progress=lambda done, rows: told.append((done, rows)))(x)
        assert told[-1] == (40_000, 40_000) and {rows for _, rows in told} == {40_000}
        assert [done for done, _ in told] == sorted({done for done, _ in told}) and len(told) > 3


def test_progress_is_shown(capsys, monkeypatch):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    vmap(lambda x: x + 1.0, progress=True)([1.0, 2.0])
    assert "vmap: 100%" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    vmap(lambda x: x + 1.0, progress=True)([1.0, 2.0])
    assert capsys.readouterr().err == "vmap: 2 of 2 rows\n"


def test_what_progress_raises_ends_the_call_and_changes_no_gradient():
    w = Variable(1.0)

    def stop(done, rows):
        raise KeyError(done)

    for threads in (1, 2):
        with pytest.raises(KeyError):
            vmap(lambda x: w * x, grad="sum", threads=threads, progress=stop)([1.0] * 200_000)
    assert w.grad == 0.0


def in_a_process(source, *arguments):
    run = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


INTERRUPTED = """
import signal, sys, threading, time, mingrad
from array import array

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
w = mingrad.Variable(1.0)
def f(x):
    for k in range(300):
        x = mingrad.sin(x * w) + k
    return x

g = mingrad.vmap(mingrad.compile(f), grad="sum", threads=int(sys.argv[1]))
x = array("d", [0.5]) * 20
g(x)
before, many, out = w.grad, x * 50_000, array("d", bytes(8_000_000))

def interrupt():
    while not any(out[:: len(out) // 100]):  # until some rows have been computed
        time.sleep(0.001)
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    g(many, out=out)
except KeyboardInterrupt:
    for thread in threading.enumerate()[1:]:  # one that was just being started may still have to notice
        thread.join()
    print("stopped", w.grad == before, any(out), all(out))
assert g(x)[0] == out[0] and w.grad == 2 * before
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_ends_a_call_soon_in_all_threads_and_changes_no_gradient(threads):
    assert in_a_process(INTERRUPTED, str(threads)).split() == ["stopped", "True", "True", "False"]


# Memory, bits


MEASURED = """
import resource, numpy, mingrad

f = mingrad.vmap(lambda x, y: mingrad.exp(-x) * mingrad.log(y) if x > 1.0 else x * y, grad="rows", threads=2)
x, y, out, first, second = (numpy.full(3_000_000, 1.5) for _ in range(5))
x[::7] = 0.5
f(x[:100], y[:100])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
f(x, y, out=(out, (first, second)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_beside_arguments_and_results_is_a_byte_a_row():
    pytest.importorskip("numpy", reason="NumPy is not installed")
    if sys.platform != "linux":
        pytest.skip("ru_maxrss has other units elsewhere")
    grown = int(in_a_process(MEASURED))
    assert grown < 10_000  # KiB; 3,000 for a byte a row. A column has 24,000


@pytest.mark.parametrize("f", [smooth, stepped])
def test_threads_change_no_bit(f):
    x, y = columns(50_001, 2)
    found = [vmap(f, grad="rows", threads=threads)(x, y) for threads in (1, 2, 8)]
    for values, (gx, gy) in found[1:]:
        assert values.tolist() == found[0][0].tolist()
        assert gx.tolist() == found[0][1][0].tolist() and gy.tolist() == found[0][1][1].tolist()


def test_a_parameter_decides_for_all_rows():
    w = Variable(1.0)
    f = vmap(lambda x: w * x if w > 0.0 else x - w, grad="sum")
    assert f([1.0, 2.0]).tolist() == [1.0, 2.0] and w.grad == 3.0
    w.data = -1.0
    assert f([1.0, 2.0]).tolist() == [2.0, 3.0] and w.grad == 1.0


def test_what_is_the_same_in_all_rows_has_the_bits_of_each():
    w, v = Variable(0.7), Variable(1.3)
    f = vmap(lambda x: x * mingrad.exp(w) ** v + mingrad.log(v) * w, grad="sum")
    x = [0.1 * k for k in range(40)]
    for a, found in zip(x, f(x).tolist()):
        assert found == pytest.approx(a * math.exp(0.7) ** 1.3 + math.log(1.3) * 0.7, rel=1e-14)
    p = mingrad.exp(0.7) ** 1.3
    assert w.grad == pytest.approx(math.fsum(a * 1.3 * p + math.log(1.3) for a in x), rel=1e-13)
    assert v.grad == pytest.approx(math.fsum(a * 0.7 * p + 0.7 / 1.3 for a in x), rel=1e-13)


def test_a_result_may_be_a_number_in_some_rows():
    assert vmap(lambda x: x * 2.0 if x > 0.0 else 7.0)([1.0, -1.0, 2.0, -3.0]).tolist() == [2.0, 7.0, 4.0, 7.0]


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: vmap(smooth, errors="warn"), ValueError, "vmap: expected errors to be 'ignore' or 'raise', got 'warn'"),
        (lambda: vmap(smooth, progress=1), TypeError, "vmap: expected progress to be True, False or a function, got 1"),
        (
            lambda: vmap(lambda x: (x, x), grad="rows")([1.0]),
            TypeError,
            "vmap: expected a function with one number as its result for grad='rows', got 2",
        ),
    ],
)
def test_a_wrong_option_is_named(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_nan_goes_the_way_that_it_goes_without_rows():
    def f(x, y):
        return (
            (1.0 if x < y else 2.0) + (10.0 if x >= y else 20.0) + (100.0 if x else 200.0) + (1000.0 if x * y > 1.0 else 2000.0)
        )

    x, y = [math.nan, 1.0, 2.0, math.nan, 0.0, math.inf], [1.0, math.nan, 1.0, math.nan, 0.0, math.inf]
    expected = [f(a, b) for a, b in zip(x, y)]
    assert vmap(f)(x, y).tolist() == expected
    assert mingrad.rows.scan(lambda s, a, b: (s, f(a, b)))(0.0, x, y)[1].tolist() == expected
