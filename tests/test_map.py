"""Program.map(): one recording on many rows, without the function that was recorded."""

import array

import pytest

import mingrad
from mingrad import Variable


def area(x, y):
    return x * y if x > y else y - x


def recorded(f, *args):
    compiled = mingrad.compile(f)
    compiled(*args)
    return compiled.programs[0]


def test_rows_are_an_array_of_shape_n_k_or_a_list_of_columns():
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    program = recorded(area, 3.0, 2.0)
    table = numpy.array([[3.0, 2.0], [5.0, 4.0], [9.0, 1.0]])
    assert program.map(table).tolist() == [6.0, 20.0, 9.0]
    assert program.map([table[:, 0], array.array("d", [2.0, 4.0, 1.0])]).tolist() == [6.0, 20.0, 9.0]
    assert program.map(memoryview(table)).tolist() == [6.0, 20.0, 9.0]
    values, slopes = program.map(table, grad="rows")
    assert values.tolist() == [6.0, 20.0, 9.0] and slopes.tolist() == [[2.0, 3.0], [4.0, 5.0], [1.0, 9.0]]
    values, slopes = program.map([[3.0, 5.0], [2.0, 4.0]], grad="rows")
    assert [slope.tolist() for slope in slopes] == [[2.0, 4.0], [3.0, 5.0]]
    assert recorded(lambda x: x * x, 1.0).map(array.array("d", [1.0, 3.0])).tolist() == [1.0, 9.0]


def test_inputs_are_the_numbers_among_the_arguments_in_order():
    program = recorded(lambda x, n, d: x[0] * n + x[1] * d["a"], [1.0, 2.0], 3, {"a": 4.0})
    assert program.n_inputs == 3
    assert program.map([[1.0, 10.0], [2.0, 20.0], [5.0, 50.0]]).tolist() == [13.0, 1030.0]


def test_sums_go_to_the_parameters_and_threads_change_no_bit():
    w = Variable(2.0)
    program = recorded(lambda x: mingrad.sin(w * x) * x, 0.1)
    x = array.array("d", [0.001 * k for k in range(40_000)])
    found = []
    for threads in (1, 2, 8):
        w.grad = 0.0
        found.append((program.map(x, threads, "sum").tolist(), w.grad))
    assert found[0] == found[1] == found[2]
    assert found[0][1] == pytest.approx(
        mingrad.grad(lambda w: mingrad.sum([mingrad.sin(w * a) * a for a in x]))(2.0), rel=1e-12
    )


def test_out_takes_results_and_gradients():
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    out = numpy.empty(2), numpy.empty((2, 2))
    assert recorded(area, 3.0, 2.0).map(numpy.array([[3.0, 2.0], [5.0, 4.0]]), grad="rows", out=out) is out
    assert out[0].tolist() == [6.0, 20.0] and out[1].tolist() == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize(
    "f, at, row, text",
    [
        (area, (3.0, 2.0), (1.0, 2.0), "(input 0 = 1.0) > (input 1 = 2.0) was True"),
        (lambda x, y: 1.0 if x * y < 10.0 else x, (3.0, 2.0), (5.0, 4.0), "(mul = 20.0) < (10.0) was True"),
        (lambda x, y: x if x - y else y, (3.0, 2.0), (2.0, 2.0), "the truth value of sub = 0.0 was True"),
    ],
)
def test_a_row_that_goes_another_way_is_named_with_its_comparison(f, at, row, text):
    program = recorded(f, *at)
    for threads in (1, 2):
        columns = [[x] * 20_000 + [y] for x, y in zip(at, row)]
        with pytest.raises(ValueError) as caught:
            program.map(columns, threads=threads)
        assert str(caught.value) == (
            f"map: row 20000 goes another way through {program.name} than the one recorded: {text}; "
            f"mingrad.vmap(f) records the other ways too"
        )


def test_a_parameter_that_goes_another_way_is_named():
    w = Variable(1.0, label="w")
    program = recorded(lambda x: x if w > 0.0 else -x, 1.0)
    w.data = -2.0
    with pytest.raises(ValueError, match=r"map: row 0 goes another way .*: \(w = -2.0\) > \(0.0\) was True"):
        program.map([[1.0]])
    assert w.grad == 0.0


def test_a_comparison_that_hangs_on_a_last_digit_comes_out_as_it_does_without_rows():
    # vector functions are up to two units in the last place away: compare with libm's own value
    for k in range(200):
        x = 0.37 + 0.1 * k
        program = recorded(lambda x, y: x if mingrad.exp(x) >= y else -x, x, mingrad.exp(x))
        assert program.map([[x, x], [mingrad.exp(x)] * 2]).tolist() == [x, x]


def test_a_result_that_is_not_finite_is_named_if_asked_for():
    program = recorded(lambda x: mingrad.log(x), 1.0)
    assert program.map([[0.0, 1.0]]).tolist() == [-float("inf"), 0.0]
    with pytest.raises(FloatingPointError) as caught:
        program.map([[1.0, 0.0]], errors="raise")
    assert str(caught.value) == "map: row 1: log(0.0) is -inf; the row's arguments are 0.0; errors='ignore' keeps such results"


def test_a_program_from_a_file_maps(tmp_path):
    recorded(area, 3.0, 2.0).save(tmp_path / "area")
    program = mingrad.program.Program.load(tmp_path / "area")
    assert program.map([[3.0, 5.0], [2.0, 4.0]], grad="rows")[0].tolist() == [6.0, 20.0]


@pytest.mark.parametrize(
    "X, options, error, text",
    [
        (
            [[1.0]],
            {},
            ValueError,
            "map: expected an array of shape (N, 2) or 2 columns, one for each input of area, got 1 columns",
        ),
        ([[1.0], [1.0, 2.0]], {}, ValueError, "map: expected arguments of one length, at least 1, got [1, 2]"),
        ([[], []], {}, ValueError, "map: expected arguments of one length, at least 1, got [0]"),
        ([[1.0], [1.0]], {"threads": 0}, ValueError, "map: expected threads to be an int of at least 1, got 0"),
        ([[1.0], [1.0]], {"grad": "all"}, ValueError, "map: expected grad to be None, 'rows' or 'sum', got 'all'"),
        (
            [[Variable(1.0)], [1.0]],
            {},
            TypeError,
            (
                "map: argument 0 has Variables that require a gradient, which would get none with grad=None: use grad='sum', or "
                "pass numbers (.data, .detach())"
            ),
        ),
    ],
)
def test_an_error_says_what_was_expected(X, options, error, text):
    with pytest.raises(error) as caught:
        recorded(area, 3.0, 2.0).map(X, **options)
    assert str(caught.value) == text
