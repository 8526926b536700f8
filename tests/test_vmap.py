"""vmap: rows through a recorded program, against the function called row by row.

Values may differ by the vector functions' two units in the last place; where a function uses none of
those they have its bits. Gradients by rows are value_and_grad's; sums do not depend on threads.
"""

import array
import math
import random

import pytest
from helpers import ulps

import mingrad
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


@pytest.mark.parametrize("call, text", [
    (lambda: vmap(abs)([]), "vmap: expected arguments of one length, at least 1, got [0]"),
    (lambda: vmap(smooth)([1.0], [1.0, 2.0]), "vmap: expected arguments of one length, at least 1, got [1, 2]"),
    (lambda: vmap(smooth, in_axes=(0,))([1.0], [2.0]),
     "vmap: expected in_axes of 0 and None, one for each of 2 arguments, got (0,)"),
    (lambda: vmap(smooth, grad="all"), "vmap: expected grad to be None, 'rows' or 'sum', got 'all'"),
    (lambda: vmap(smooth, threads=0), "vmap: expected threads to be an int of at least 1, got 0"),
    (lambda: vmap(lambda x: x[0])([[1.0], [1.0, 2.0]]), "vmap: expected rows of one length in argument 0"),
])
def test_an_error_says_what_was_expected(call, text):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == text
