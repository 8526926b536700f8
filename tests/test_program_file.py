"""mingrad/program_file.py, csrc/exchange.pxi: a program that was saved runs and trains elsewhere to
the bit; a file that is not whole, or made to harm, is refused; a write that fails leaves the old
file. And calling a program: what it does where its recording does not fit.

Broken files are made here byte by byte, with a right checksum, so that what is read is checked and
not the checksum. How fast it is, is not tested.
"""

import collections
import enum
import errno
import gc
import json
import math
import os
import random
import signal
import struct
import tracemalloc
from array import array
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, apply, importable, random_graph, run_python
from mingrad import (
    RecordingError,
    Variable,
    VariableList,
    _core,
    autodiff,
    hvp,
    nn,
    optim,
    program_file,
)
from mingrad.files import FileFormatError
from mingrad.program import Program, _nest
from watch import no_trace, refuses, spell, stress

INF, NAN = math.inf, math.nan
SEEDS = [0.75, -1.25, 1.5, 0.625, -0.875]
FILE = "f.program"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


needs_numpy = pytest.mark.skipif(not importable("numpy"), reason="numpy is not installed")


def exact(x):
    """The bits of a number, nan's payload included."""
    return struct.pack("<d", x.data if isinstance(x, Variable) else x)


def recorded(f, *args, **kwargs):
    """The Program of f for these arguments."""
    compiled = mingrad.compile(f)
    compiled(*args, **kwargs)
    return compiled.programs[0]


def reloaded(program):
    program.save(FILE)
    return Program.load(FILE)


def saved_bytes(program):
    program.save(FILE)
    with open(FILE, "rb") as file:
        return file.read()


def outcome(program, leaves, parameters):
    """What can be seen of a run with these numbers as Variables: bits of results and gradients."""
    inputs = [Variable(x) for x in leaves]
    numbers = iter(inputs)
    args, kwargs = (_nest(key, numbers) for key in program.keys)
    for p in parameters:
        p.zero_grad()
    try:
        results = autodiff._flatten(program(*args, **kwargs), "results")[0]
    except (ArithmeticError, ValueError, RecordingError) as error:
        return type(error).__name__, str(error)
    nodes = [x for x in results if isinstance(x, Variable) and x.requires_grad]
    if nodes:
        mingrad.dot(nodes, [SEEDS[k % 5] for k in range(len(nodes))]).backward()
    return [exact(x) for x in results], [exact(v.grad) for v in [*inputs, *parameters]]


def same(program, *numbers):
    """Fail unless the program comes back from a file as it was; returns what came back."""
    other = reloaded(program)
    assert list(map(repr, other.rows())) == list(map(repr, program.rows()))
    assert (other.name, other.keys) == (program.name, program.keys)
    assert (len(other), other.n_inputs) == (len(program), program.n_inputs)
    assert list(map(repr, other.guards)) == list(map(repr, program.guards))
    assert list(map(repr, other.outputs)) == list(map(repr, program.outputs))
    for v, w in zip(other.captured, program.captured, strict=True):
        assert (exact(v), v.requires_grad, v.label) == (exact(w), w.requires_grad, w.label)
        assert v is not w and v.is_leaf and v.grad == 0
    for leaves in numbers:
        expected = outcome(program, leaves, program.captured)
        assert outcome(other, leaves, other.captured) == expected, f"at {leaves}"
    assert saved_bytes(other) == saved_bytes(program)
    return other


# -- there and back --------------------------------------------------------------------------------

TABLE = {row["name"]: row for row in _core._ops()}
UNARY = [name for name, row in TABLE.items() if row["kind"] == "unary" and name[0] != "_"]
BINARY = [name for name, row in TABLE.items() if row["kind"] == "binary" and name != "_polygamma"]


@pytest.mark.parametrize("op", UNARY)
def test_a_unary_op_comes_back(op):
    f = spell(op)
    start = 1.5 if op == "acosh" else 0.5
    same(recorded(f, start), [0.25], [1.5], [-0.5], [0.0], [INF], [NAN])


@pytest.mark.parametrize("op", BINARY)
def test_a_binary_op_comes_back_with_nodes_and_numbers(op):
    f = spell(op)
    parameter = op in ("_huber", "leaky_relu", "elu", "clamp_min", "clamp_max")

    def all_three(x, y):
        found = [f(x, 0.75), 0.5 * x]
        return found if parameter else [*found, f(x, y), f(0.75, y)]

    same(recorded(all_three, 0.5, 0.25), [0.3, 0.6], [0.5, 0.5], [-0.5, 0.25], [0.0, -0.0])


def test_ops_over_many_operands_come_back():
    def f(xs):
        ranges = [getattr(mingrad, name)(xs) for name in NARY if name not in ("dot", "softmax")]
        index = nn.cross_entropy(xs, 2), nn.cross_entropy([xs, xs[::-1]], [0, 1])
        return (
            *ranges,
            mingrad.dot(xs, xs[::-1]),
            *mingrad.softmax(xs),
            *index,
            nn.mse_loss(xs, [1.0] * 4),
        )

    same(recorded(f, [0.5, -1.0, 2.0, 0.25]), [1.0, 2.0, -3.0, 0.5], [1.0, 1.0, 1.0, NAN])


def as_function(graph):
    """A function of the graph's leaves that gives its last entry, and their values."""
    places = [k for k, (name, *_) in enumerate(graph) if name == "leaf"]

    def f(xs):
        things = dict(zip(places, xs))
        for k, (name, *rest) in enumerate(graph):
            if name == "constant":
                things[k] = rest[0]
            elif name != "leaf":
                things[k] = apply(mingrad, name, [things[x] if isinstance(x, int) else x for x in rest[0]])
        return things[len(graph) - 1]

    return f, [graph[k][1] for k in places]


@pytest.mark.parametrize("seed", range(12))
def test_a_random_graph_comes_back(seed):
    rng = random.Random(seed)
    f, start = as_function(random_graph(seed, rng.choice([20, 60, 200]), EXACT + LIBM + OTHER + NARY, reference))
    with mingrad.errstate(all="ignore"):
        same(recorded(f, start), start, *[[rng.uniform(-2, 2) for _ in start] for _ in range(3)])


def test_derivatives_of_any_order_inside_a_program_come_back():
    def f(x, ys):
        return (
            mingrad.derivative(lambda x: mingrad.digamma(x) * mingrad.exp(x), 3)(x),
            mingrad.hessian(lambda ys: mingrad.logsumexp(ys) * mingrad.softmax(ys)[0])(ys),
        )

    program = recorded(f, 1.5, [0.5, 1.0])
    assert any(row[0] == "_polygamma" for row in program.rows())
    same(program, [2.5, 1.0, 0.25], [0.75, -1.0, 2.0])


def test_guards_come_back_of_each_kind():
    def f(x, y, w=Variable(0.5, label="w")):
        first = x * y if x < y else x + y
        second = first + 1.0 if first >= 0.25 else first - 1.0
        third = min(second, x, w) if y else max(second, x)
        return third + 1.0 if 2.0 > third else third

    compiled = mingrad.compile(f)
    for x, y in [(1.0, 2.0), (2.0, 1.0), (-1.0, 0.5), (0.0, 0.0), (-3.0, -2.0), (NAN, 1.0)]:
        compiled(x, y)
    programs = compiled.programs
    assert len(programs) >= 4 and len({op for p in programs for op, *_ in p.guards}) == 4
    for program in programs:
        same(
            program,
            *[[x, y] for x, y in [(1.0, 2.0), (2.0, 1.0), (-1.0, 0.5), (0.0, 0.0), (-3.0, -2.0)]],
        )


def test_numbers_come_back_to_the_bit_with_the_payloads_of_nan():
    odd = [
        struct.unpack("<d", struct.pack("<Q", bits))[0]
        for bits in (0x7FF8000000000123, 0xFFF8000000000001, 0x8000000000000000, 1)
    ]
    w = [Variable(x, requires_grad=k % 2 == 0, label=f"ü{k}" * k) for k, x in enumerate(odd)]
    program = recorded(lambda x: [x, *odd, *[x + v for v in w], x * odd[0]], 1.0)
    other = same(program, [2.0])
    assert [exact(x) for x in other(1.0)[1:5]] == [exact(x) for x in odd]
    assert [v.requires_grad for v in other.captured] == [True, False, True, False]
    assert [exact(row[2][1]) for row in other.rows() if row[2]] == [exact(row[2][1]) for row in program.rows() if row[2]]


def test_any_op_that_a_program_has_is_one_that_a_file_has():
    names = _core._program_ops()
    assert len(names) == len(set(names)) and "custom" not in names
    assert {name.split("(")[0] for name in names} == {"leaf", "dot", "affine", "linear", *TABLE}


def test_affine_rows_whose_inputs_ask_for_no_gradient_are_the_same_in_a_file():
    layer = nn.Linear(2, 2)
    constant = recorded(lambda x: layer([Variable(1.0, requires_grad=False), 2.0])[0] * x, 1.0)
    same(constant, [3.0])
    same(recorded(lambda xs: nn.Linear(2, 2, bias=False)(xs), [1.0, 2.0]), [3.0, 4.0])
    same(recorded(lambda x: nn.Neuron(0)([]) + x, 1.0), [3.0])


# -- training after loading ------------------------------------------------------------------------


def samples(count):
    rng = random.Random(count)
    return [([rng.uniform(-1, 1), rng.uniform(-1, 1)], rng.uniform(-1, 1)) for _ in range(count)]


def trained(program, optimizer, steps):
    """Bits of the loss at each step and of the parameters at the end."""
    found = []
    for x, y in samples(steps):
        optimizer.zero_grad()
        loss = program(x, y)
        loss.backward()
        optimizer.step()
        found.append(exact(loss))
    return found, [exact(p) for p in program.captured]


def moons_program(seed=0):
    random.seed(seed)
    model = nn.MLP(2, [8, 8, 1])
    return recorded(
        lambda x, y: (model(x) - y) ** 2 + 1e-4 * sum(p * p for p in model.parameters()),
        *samples(1)[0],
    )


def test_a_loaded_program_trains_as_the_one_that_was_saved():
    program = moons_program()
    trained(program, optim.SGD(program.captured, lr=0.05), 7)
    other = reloaded(program)
    expected = trained(program, optim.Adam(program.captured, lr=0.01), 25)
    assert trained(other, optim.Adam(other.captured, lr=0.01), 25) == expected
    assert expected[0][0] != expected[0][-1]


def test_results_of_a_run_node_by_node_are_floats_and_variables_as_the_functions_own():
    w, c = Variable(2.0), Variable(3.0, requires_grad=False)

    def f(x):
        return mingrad.log(x), w * x, c * x, x, w, 1.5

    program = recorded(f, 2.0)
    with mingrad.errstate(all="ignore"):
        for x in (0.0, Variable(0.0), Variable(0.0, requires_grad=False)):
            found, expected = program(x), f(x)
            assert [type(y) for y in found] == [type(y) for y in expected]
            for y, z in zip(found, expected):
                if isinstance(y, Variable):
                    assert (y.data, y.requires_grad) == (z.data, z.requires_grad)
                else:
                    assert y == z


def test_parameters_that_are_saved_have_their_present_values():
    w = Variable(2.0)
    program = recorded(lambda x: w * x, 1.0)
    w.data = 5.0
    w.requires_grad = False
    other = reloaded(program)
    w.data = 7.0
    assert (other(3.0).data, other.captured[0].requires_grad) == (15.0, False)


def test_a_program_runs_and_trains_in_a_process_without_its_module():
    with open("users.py", "w") as file:
        file.write(
            "import mingrad\nw = mingrad.Variable(0.5, label='w')\n"
            "@mingrad.compile\ndef model(xs, *, power=2, **rest):\n"
            "    return {'y': sum(w * x for x in xs) ** power, 'all': (xs, rest)} if xs[0] < 9.0 else None\n"
        )
    code = "import users; users.model([1.0, 2.0], power=3, k=4.0); users.model.programs[0].save('f.program')"
    run_python(f"import sys; sys.path.insert(0, '.'); {code}")
    os.remove("users.py")
    run = """
        import sys
        import mingrad
        program = mingrad.program.Program.load("f.program")
        found = program([2.0, 3.0], k=5.0, power=3)
        found["y"].backward()
        print(program.name, found["y"].data, found["all"][1]["k"], program.captured)
        assert "users" not in sys.modules and "numpy" not in sys.modules
        """
    assert run_python(run) == "model 15.625 5.0 (Variable(data=0.5, grad=93.75),)"


# -- structures ------------------------------------------------------------------------------------


def test_nests_of_arguments_and_results_come_back():
    def f(a, b, *rest, **named):
        (x, y), empty, (z,) = a
        return {
            "x": x * 2.0,
            3: [y, (z,), [], ()],
            b"b": {},
            None: VariableList([x, y]),
            True: b["v"][0] * named["k"],
            2.5: rest[0],
            "all": [*b["v"], x],
        }

    a, b = ([1.0, 2.0], [], (3.0,)), {"v": VariableList([4.0, 5.0]), 1: (), "n": {"m": 6.0}}
    program = recorded(f, a, b, 7.0, k=8.0, j="text", i=None, h=b"\0\xff", g=True, e=10**30, d=-5)
    other = same(program, [float(k) for k in range(8)])
    found = other(a, b, Variable(9.0), k=8.0, j="text", i=None, h=b"\0\xff", g=True, e=10**30, d=-5)
    assert list(found) == ["x", 3, b"b", None, True, 2.5, "all"] and found[2.5].data == 9.0
    assert type(found[None]) is list and type(found[3][1]) is tuple
    reordered = other(a, b, Variable(9.0), d=-5, e=10**30, g=True, h=b"\0\xff", i=None, j="text", k=8.0)
    assert reordered[True].data == 32.0


@needs_numpy
def test_arrays_come_back():
    import numpy

    def f(x, n, m):
        return (
            numpy.array([[x[0, 0], x[1, 1], 2.0], [x[0, 1], 4.0, 5.0]]),
            numpy.array(x[0]) * 2.0,
            numpy.array([]),
        )

    args = (
        numpy.array([[1.0, 2.0], [3.0, 4.0]]),
        numpy.array([1, 2]),
        numpy.array([True, 0.5, "s", None], dtype=object),
    )
    program = recorded(f, *args)
    program.save(FILE)
    other = Program.load(FILE)
    for result, expected in zip(other(*args), f(*args), strict=True):
        assert result.dtype == expected.dtype and (result == expected).all() and result.shape == expected.shape
    matrix, row, empty = other(numpy.array([[Variable(1.0), 2.0], [3.0, 4.0]]), *args[1:])
    assert isinstance(matrix[0, 0], Variable) and matrix.shape == (2, 3) and empty.shape == (0,)
    with pytest.raises(TypeError, match=r"got \(array\(list of 2, list of 2\), array of \[1, 3\], array of "):
        other(args[0], numpy.array([1, 3]), args[2])
    array_of_floats = recorded(lambda x: x[1] * 2.0, array("d", [1.0, 2.0]))
    assert reloaded(array_of_floats)(array("d", [3.0, 4.0])) == 8.0


@needs_numpy
def test_a_list_of_numpys_numbers_is_a_list_of_numbers_in_a_file():
    import numpy

    program = reloaded(recorded(lambda xs: xs[0] * xs[1], [numpy.float64(2.0), 3.0]))
    assert program([4.0, 5.0]) == 20.0


@needs_numpy
def test_without_numpy_a_result_that_is_an_array_says_what_to_install():
    import numpy

    recorded(lambda x: numpy.array([x, 2.0]), 1.0).save(FILE)
    code = """
        import sys
        sys.modules["numpy"] = None
        from mingrad.program import Program
        try:
            Program.load("f.program")
        except ImportError as error:
            print(error)
        """
    assert run_python(code) == "'f.program': its result has arrays, which need NumPy: python -m pip install 'mingrad[numpy]'"


class Point(collections.namedtuple("Point", "x y")):
    pass


class Colour(enum.IntEnum):
    RED = 1


class Rows(list):
    pass


HOLDS = "a file holds lists, tuples, dicts, VariableLists and arrays of numbers, and str, int, float, bool, bytes and None"
REFUSED = [
    (
        lambda f: recorded(f, Point(1.0, 2.0)),
        TypeError,
        f"save: f: an argument has a Point: {HOLDS}; record the function with one of these in its place",
    ),
    (
        lambda f: recorded(f, [Rows([1.0])]),
        TypeError,
        f"save: f: an argument has a Rows: {HOLDS}; record the function with one of these in its place",
    ),
    (
        lambda f: recorded(f, k=collections.OrderedDict(a=1.0)),
        TypeError,
        f"save: f: an argument has a OrderedDict: {HOLDS}; record the function with one of these in its place",
    ),
    (
        lambda f: recorded(f, 1.0, Colour.RED),
        TypeError,
        f"save: f: an argument has <Colour.RED: 1> of type Colour: {HOLDS}; close over it instead",
    ),
    (
        lambda f: recorded(f, 1j),
        TypeError,
        f"save: f: an argument has 1j of type complex: {HOLDS}; close over it instead",
    ),
    (
        lambda f: recorded(f, {(1, 2): 1.0}),
        TypeError,
        f"save: f: an argument has (1, 2) of type tuple: {HOLDS}; close over it instead",
    ),
    (
        lambda f: recorded(f, frozenset(range(40))),
        TypeError,
        f"save: f: an argument has {repr(frozenset(range(40)))[:60]}... of type frozenset: {HOLDS}; close over it instead",
    ),
    (
        lambda f: recorded(lambda x: Point(x, x), 1.0),
        TypeError,
        f"save: <lambda>: the result has a Point: {HOLDS}; record the function with one of these in its place",
    ),
    (
        lambda f: recorded(f, pytest.importorskip("numpy").array([[{"a": 1.0}]])),
        TypeError,
        "save: f: an argument has an array of lists, tuples or dicts, which no file holds; pass it as a list",
    ),
    (
        lambda f: recorded(f, nested(100)),
        ValueError,
        "save: f: an argument is nested more than 100 deep, which no file holds; make it flatter",
    ),
    (
        lambda f: Program("f", ((tuple, ()), (dict, (), ())), lambda leaves: leaves),
        ValueError,
        "expected a recorded program, got an empty Program",
    ),
]


def nested(depth):
    tree = 1.0
    for _ in range(depth):
        tree = [tree]
    return tree


@pytest.mark.parametrize("make, kind, text", REFUSED, ids=range(len(REFUSED)))
def test_a_structure_that_no_file_holds_is_refused_and_nothing_is_written(make, kind, text):
    def f(*args, **kwargs):
        return 1.0

    program = make(f)
    with pytest.raises(kind) as caught:
        program.save(FILE)
    assert str(caught.value) == text and os.listdir() == []


def test_nests_as_deep_as_files_hold_come_back():
    same(recorded(lambda tree: tree, nested(99)), [2.0])


# -- calling a program -----------------------------------------------------------------------------


def f_of(x, y):
    return x * y if x > y else mingrad.log(y)


def test_a_program_gives_floats_for_floats_and_nodes_for_variables():
    program = recorded(f_of, 3.0, 2.0)
    assert program(5.0, 4.0) == 20.0
    x = Variable(5.0)
    y = program(x, 4.0)
    (y * 2.0).backward()
    assert (y.data, x.grad, y._op) == (20.0, 8.0, "f_of")
    constant = program(Variable(5.0, requires_grad=False), 4.0)
    assert isinstance(constant, Variable) and not constant.requires_grad
    with mingrad.no_grad():
        assert not program(x, 4.0).requires_grad
    assert hvp(lambda x: program(x[0], x[1]), ([5.0, 4.0],), ([1.0, 0.0],)) == [0.0, 1.0]


def test_arguments_of_another_structure_are_refused_with_both():
    def f(x, rows, n=2, *, scale):
        return x

    program = recorded(f, 1.0, [{"a": (1.0,)}, [2.0, 3.0]], scale=1.0, n=3)
    cure = "; a program takes the structure it was recorded with, of which only floats and Variables may change"
    expected = "f: expected arguments (number, [{'a': (number,)}, list of 2], 3, scale=number), got "
    calls = [
        ((1.0,), {}, "(number)"),
        (
            (1.0, [{"a": (1.0,)}, [2.0, 3.0]], 3),
            {"scale": 2},
            "(number, [{'a': (number,)}, list of 2], 3, scale=2)",
        ),
        (
            (1.0, [{"b": (1.0,)}, [2.0, 3.0]], 4),
            {"scale": 2.0},
            "(number, [{'b': (number,)}, list of 2], 4, scale=number)",
        ),
        ((), {"x": 1.0}, "(x=number)"),
        ((VariableList([1.0]), Point(1.0, "s")), {}, "(VariableList of 1, Point(number, 's'))"),
        (
            ([1.0, ["long"] * 99],),
            {},
            f"([number, [{', '.join([repr('long')] * 99)}"[:301] + "...)",
        ),
    ]
    for args, kwargs, got in calls:
        refuses(lambda: program(*args, **kwargs), TypeError, expected + got + cure)
    assert program(1.5, [{"a": (1.0,)}, [2.0, 3.0]], 3, scale=2.0) == 1.5


CURE = (
    "; a program goes the one way that was recorded: call the compiled function, or use a program "
    "that was recorded with numbers like these"
)


def test_a_comparison_that_comes_out_otherwise_is_named():
    w = Variable(0.5, label="w")

    def f(x, y):
        z = x * 2.0
        if z <= y and x > 1.0 and w < x:
            return z if y else x
        return 0.0

    program = reloaded(recorded(f, 2.0, 5.0))
    cases = [
        (
            (3.0, 5.0),
            "the result of '*' in row 3 <= input 1 (number 0 of the program's guards) came out False with 6.0 and 5.0",
        ),
        (
            (1.0, 5.0),
            "input 0 > 1.0 (number 1 of the program's guards) came out False with 1.0 and 1.0",
        ),
        (
            (NAN, 5.0),
            "the result of '*' in row 3 <= input 1 (number 0 of the program's guards) came out False with nan and 5.0",
        ),
    ]
    for args, text in cases:
        refuses(lambda: program(*args), RecordingError, f"f: the comparison {text}{CURE}")
        refuses(lambda: program(*map(Variable, args)), RecordingError, f"f: the comparison {text}{CURE}")
    program.captured[0].data = 2.0
    text = "Variable 'w' < input 0 (number 2 of the program's guards) came out False with 2.0 and 1.5"
    refuses(lambda: program(1.5, 5.0), RecordingError, f"f: the comparison {text}{CURE}")
    truth = recorded(lambda x: 1.0 if x else 2.0, 1.0)
    text = "<lambda>: the comparison bool(input 0) (number 0 of the program's guards) came out False with 0.0"
    refuses(lambda: truth(0.0), RecordingError, text + CURE)


def test_a_program_raises_what_plain_mingrad_raises():
    cases = [
        (lambda x, y: x / y, (1.0, 2.0), (1.0, 0.0)),
        (lambda x, y: 1.0 / (x - y), (1.0, 2.0), (1.0, 1.0)),
        (lambda x, y: (x - y) ** 0.5, (2.0, 1.0), (1.0, 2.0)),
        (lambda x, y: 2.0**x * mingrad.log(y), (1.0, 2.0), (5000.0, -1.0)),
        (lambda x, y: mingrad.exp(x) * y, (1.0, 2.0), (1000.0, 0.0)),
        (lambda x, y: x // y, (1.0, 2.0), (1.0, 0.0)),
        (lambda x, y: mingrad.reciprocal(x) + y, (1.0, 2.0), (0.0, 0.0)),
        (lambda x, y: nn.binary_cross_entropy(x, y), (0.5, 1.0), (2.0, 1.0)),
    ]
    for f, good, bad in cases:
        program = recorded(f, *good)
        with pytest.raises((ArithmeticError, ValueError)) as caught:
            f(*map(Variable, bad))
        refuses(lambda: program(*bad), caught.type, str(caught.value))
        refuses(lambda: program(*map(Variable, bad)), caught.type, str(caught.value))
        with mingrad.errstate(all="ignore"):
            x, y = map(Variable, bad)
            found, expected = program(*bad), f(*map(Variable, bad))
            assert isinstance(found, float) and repr(found) == repr(expected.data)
            result = program(x, y)
            result.backward()
            v, w = map(Variable, bad)
            f(v, w).backward()
            assert repr((result.data, x.grad, y.grad)) == repr((expected.data, v.grad, w.grad))
            with mingrad.no_grad():
                assert not program(x, y).requires_grad
            assert not program(Variable(bad[0], requires_grad=False), bad[1]).requires_grad


def test_what_comes_before_a_comparison_fails_first_and_what_comes_after_does_not():
    program = recorded(f_of, 1.0, 2.0)  # the comparison needs no row, log(y) is one
    text = "f_of: the comparison input 0 > input 1 (number 0 of the program's guards) came out True with -1.0 and -2.0"
    refuses(lambda: program(-1.0, -2.0), RecordingError, text + CURE)
    program = recorded(lambda x: x if mingrad.log(x) > 0.0 else 1.0, 3.0)
    refuses(
        lambda: program(-1.0),
        ValueError,
        "log(-1.0): outside the function's domain; with mingrad.errstate(all='ignore') the result is nan",
    )


def test_detect_anomaly_sees_what_an_op_of_a_program_makes():
    program = recorded(lambda x: mingrad.exp(x * x), 1.0)
    with (
        mingrad.detect_anomaly(),
        pytest.raises(FloatingPointError, match=r"1e\+200 \* 1e\+200 is inf"),
    ):
        program(1e200)


def test_a_program_called_while_recording_becomes_part_of_the_recording():
    program = reloaded(moons_program())
    inner = recorded(f_of, 3.0, 2.0)

    def f(x, y):
        return program([x, y], 0.5) + inner(x, 1.0)

    compiled = mingrad.compile(f)
    for point in [(2.0, 1.0), (3.0, -1.0)]:
        for p in program.captured:
            p.zero_grad()
        expected = program(list(point), 0.5) + inner(point[0], 1.0)
        x, y = map(Variable, point)
        found = compiled(x, y)
        assert found.data == expected.data
        expected.backward()
        grads = [p.grad for p in program.captured]
        for p in program.captured:
            p.zero_grad()
        found.backward()
        assert [p.grad for p in program.captured] == grads
    (outer,) = compiled.programs
    assert outer.captured == program.captured
    assert all(row[0] != "custom" for row in outer.rows())
    refuses(
        lambda: outer(0.5, 1.0),
        RecordingError,
        f"f: the comparison input 0 > 1.0 (number 0 of the program's guards) came out False with 0.5 and 1.0{CURE}",
    )
    with pytest.raises(RecordingError, match=r"f_of: the comparison input 0 > input 1 \(number 0"):
        compiled(0.5, 1.0)
    assert mingrad.compile(lambda: inner(3.0, 2.0) + 1.0)() == 7.0


def test_a_program_called_on_a_tape_that_collects_at_every_node_gives_the_same():
    program = moons_program()
    failing = recorded(
        lambda xs: [mingrad.log(x) * y for x in xs for y in xs] if xs[0] < 9.0 else xs,
        [1.0, 2.0, 3.0],
    )
    with mingrad.errstate(all="ignore"):
        expected = outcome(failing, [-1.0, 2.0, 0.0], ())
        _, loss = trained(program, optim.SGD(program.captured), 3), exact(program(*samples(1)[0]))
        for young in (1, 7):
            with stress(young):
                assert outcome(reloaded(failing), [-1.0, 2.0, 0.0], ()) == expected
                assert exact(reloaded(program)(*samples(1)[0])) == loss


def test_a_program_without_rows_runs():
    program = same(recorded(lambda: 2.5))
    assert program() == 2.5 and len(program) == 0
    program = same(recorded(lambda x: [], 1.0), [2.0])
    assert program(1.0) == []


def test_an_empty_program_is_no_crash():
    program = Program("f", ((tuple, ()), (dict, (), ())), lambda leaves: leaves)
    for call in (
        program,
        lambda: _core._run_eagerly(program, [], "f"),
        lambda: _core._run(program, [], "f"),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("what", ["load", "replay"])
def test_any_failing_allocation_leaves_everything_as_it_was(what):
    program = recorded(lambda xs: [mingrad.log(x) + mingrad.sum(xs) for x in xs] if xs[0] < 1.5 else xs, [1.0, 2.0])
    captured = recorded(lambda x, w=[Variable(k, label="w") for k in range(3)]: x * mingrad.sum(w), 1.0)
    captured.save(FILE)
    xs, failures = [Variable(-1.0), Variable(2.0)], 0
    for n in range(1000):
        with no_trace(xs):
            _core._fail_allocation(n)
            try:
                with mingrad.errstate(all="ignore"):
                    found = Program.load(FILE)(2.0).data if what == "load" else repr([x.data for x in program(xs)])
            except MemoryError:
                found = None
            triggered = _core._fail_allocation(-1)
        failures += found is None
        assert found in (None, 6.0 if what == "load" else "[nan, 1.6931471805599454]"), n
        if not triggered:
            break
    assert failures >= 3 and found is not None


# -- files that are not whole, and hostile ones ----------------------------------------------------


def parts(data):
    """(text as an object, rows) of a file."""
    *_, text_size, rows_size = program_file.HEAD.unpack(data[:40])
    assert len(data) == 40 + text_size + rows_size
    return json.loads(data[40 : 40 + text_size]), data[40 + text_size :]


def sealed(text, rows, **head):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return program_file._sealed(text, rows, **head)


def load_bytes(data):
    with open("broken.program", "wb") as file:
        file.write(data)
    return Program.load("broken.program")


def is_refused(data, text):
    with no_trace():
        with pytest.raises(FileFormatError) as caught:
            load_bytes(data)
        said = str(caught.value)
        del caught
    assert said == f"'broken.program' {text}"


def hostile(xs, y, n=2, *, k={"a": 1.0}, w=[Variable(0.5, label="w"), Variable(1.5)]):  # noqa: B006
    z = mingrad.softmax([xs[0], xs[1], y])[1] + nn.cross_entropy(xs, 1) * mingrad.dot(xs, w)
    return [z * 2.0, 7.5, {"y": VariableList([y, mingrad.derivative(mingrad.digamma, 2)(y * y)])}] if z > -9.0 else []


@pytest.fixture
def good():
    return saved_bytes(recorded(hostile, [1.0, 2.0], 3.0, k={"a": 4.0}, n=2))


def test_a_file_cut_anywhere_is_refused(good):
    for size in range(len(good)):
        with open("broken.program", "wb") as file:
            file.write(good[:size])
        with pytest.raises(
            FileFormatError,
            match=r"^'broken\.program' is not a (saved program|whole program file): expected",
        ):
            Program.load("broken.program")
    is_refused(
        good[:7],
        "is not a saved program: expected it to begin with b'mingrad program\\n', got b'mingrad'",
    )
    is_refused(good[:30], "is not a whole program file: expected a head of 40 bytes, got 30")
    is_refused(good[:-1], f"is not a whole program file: expected {len(good)} bytes, got {len(good) - 1}")
    is_refused(
        good + b"\0",
        f"is not a whole program file: expected {len(good)} bytes, got {len(good) + 1}",
    )


def test_a_bit_flipped_anywhere_is_refused(good):
    rng = random.Random(0)
    for place in range(len(good)):
        broken = bytearray(good)
        broken[place] ^= 1 << rng.randrange(8)
        with pytest.raises(FileFormatError):
            load_bytes(broken)


def test_something_else_is_refused(good):
    is_refused(b"", "is not a saved program: expected it to begin with b'mingrad program\\n', got b''")
    is_refused(
        b"PK\3\4" * 9,
        "is not a saved program: expected it to begin with b'mingrad program\\n', got " + repr(b"PK\3\4" * 4),
    )
    crlf = good.replace(b"\n", b"\r\n", 1)
    is_refused(
        crlf,
        "is not a saved program: expected it to begin with b'mingrad program\\n', got b'mingrad program\\r'",
    )
    is_refused(
        sealed(*parts(good), version=2),
        f"is a program file of version 2, and mingrad {mingrad.__version__} reads version 1: load "
        "it with the mingrad that wrote it, or a newer one",
    )
    wrong = bytearray(good)
    wrong[20] ^= 1
    crc = struct.unpack("<I", good[20:24])[0]
    is_refused(wrong, f"is not as it was written: expected checksum {crc ^ 1:08x}, got {crc:08x}")
    with pytest.raises(OSError):
        Program.load("nowhere.program")
    with pytest.raises(OSError):
        Program.load(os.curdir)


NEST = "expected the structure of a nest"
DICT = "expected a dict with different keys, one for each item, got"
LABELS = "expected labels of captured Variables by place, got"
MEMBERS = "expected an object with args, kwargs, labels, mingrad, name, ops, results"
ROWS = "expected an array with rows of one length"
NAMES = "expected a tuple of arguments and a dict of those with names"
KNOWN = f"mingrad {mingrad.__version__} does not know: load it with the mingrad that wrote it, or a newer one"
COUNTS = "expected arguments with 4 numbers and results with 4, got"
TYPES = "expected a name and a version of type str, and lists of ops and labels"
TEXTS = [
    (
        lambda t: t.update(ops=["leaf", "warp"]),
        f"mingrad {mingrad.__version__} wrote it, with an op 'warp' that {KNOWN}",
    ),
    (
        lambda t: t.update(ops=["custom", *t["ops"][1:]], mingrad="9.0"),
        f"mingrad 9.0 wrote it, with an op 'custom' that {KNOWN}",
    ),
    (
        lambda t: t.update(ops=[[]]),
        f"mingrad {mingrad.__version__} wrote it, with an op [] that {KNOWN}",
    ),
    (lambda t: t.update(ops=["leaf"]), "row 6: expected one of 1 ops, got number 1"),
    (lambda t: t.update(name=3), TYPES),
    (lambda t: t.update(labels={}), TYPES),
    (lambda t: t.pop("labels"), MEMBERS),
    (lambda t: t.update(more=1), MEMBERS),
    (lambda t: t.update(labels=[[2, "v"]]), f"{LABELS} 'v' at 2"),
    (lambda t: t.update(labels=[[0, "v"], [0, "v"]]), f"{LABELS} 'v' at 0"),
    (lambda t: t.update(labels=[[True, "v"]]), f"{LABELS} 'v' at True"),
    (lambda t: t.update(labels=[[0, 1]]), f"{LABELS} 1 at 0"),
    (lambda t: t.update(labels=[3]), "cannot unpack non-iterable int object"),
    (lambda t: t.update(args="number"), NAMES),
    (lambda t: t.update(args=["list", 3]), NAMES),
    (lambda t: t.update(kwargs=["dict", [["int", "1"]], ["number"]]), NAMES),
    (lambda t: t.update(args=["tuple", [["array", [["array", 3]]]]]), ROWS),
    (lambda t: t.update(args=["tuple", 3]), f"{NEST}, got ['tuple', 3]"),
    (lambda t: t.update(args=["tuple", ["number"] * 2]), f"{COUNTS} 3 and 4"),
    (lambda t: t.update(args=["tuple", [["list", 10**30]]]), f"{COUNTS} {10**30 + 1} and 4"),
    (lambda t: t.update(results=["list", 10**9]), f"{COUNTS} 4 and 1000000000"),
    (lambda t: t.update(results=["list", -1]), f"{NEST}, got ['list', -1]"),
    (lambda t: t.update(results=["list", 1.0]), f"{NEST}, got ['list', 1.0]"),
    (lambda t: t.update(results=["list", True]), f"{NEST}, got ['list', True]"),
    (lambda t: t.update(results=["set", 4]), f"{NEST}, got ['set', 4]"),
    (lambda t: t.update(results=["list"]), f"{NEST} at most 100 deep, got ['list']"),
    (lambda t: t.update(results=[["list"], 4]), f"{NEST}, got [['list'], 4]"),
    (lambda t: t.update(results={"list": 4}), f"{NEST} at most 100 deep, got {{'list': 4}}"),
    (
        lambda t: t.update(results=["list", ["number"] * 4, []]),
        f"{NEST}, got ['list', ['number', 'number', 'number', 'number'], []]",
    ),
    (lambda t: t.update(results=["value", 4]), f"{NEST}, got ['value', 4]"),
    (lambda t: t.update(results=["dict", [], ["number"]]), f"{DICT} []"),
    (lambda t: t.update(results=["dict", ["a", "a"], ["number"] * 2]), f"{DICT} ['a', 'a']"),
    (lambda t: t.update(results=["dict", ["a", "a", "b"], ["number"] * 2]), f"{DICT} ['a', 'a', 'b']"),
    (
        lambda t: t.update(results=["dict", [True, ["int", "1"]], ["number"] * 2]),
        f"{DICT} [True, 1]",
    ),
    (
        lambda t: t.update(results=["dict", [["list", 1]], ["number"]]),
        "expected a value, got ['list', 1]",
    ),
    (lambda t: t.update(results=["dict", [1], ["number"]]), "expected a value, got 1"),
    (
        lambda t: t.update(results=["dict", [["float", "00"]], ["number"]]),
        "expected a value, got ['float', '00']",
    ),
    (
        lambda t: t.update(results=["dict", [["int", "x"]], ["number"]]),
        "invalid literal for int() with base 16: 'x'",
    ),
    (lambda t: t.update(results=["array", [["list", 2], ["list", 1]]]), ROWS),
    (lambda t: t.update(results=["array", [["tuple", ["number"]], ["tuple", ["number"]]]]), ROWS),
    (lambda t: t.update(results=["array", [["list", ["number", ["list", 1]]]]]), ROWS),
    (
        lambda t: t.update(args=["tuple", [["array of others", [], 1]]]),
        f"{NEST}, got ['array of others', [], 1]",
    ),
    (
        lambda t: t.update(results=json.loads('["list", [' * 101 + '"number"' + "]]" * 101)),
        f"{NEST} at most 100 deep, got ['list', ['number']]",
    ),
]


@pytest.mark.parametrize("change, text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_that_is_wrong_is_refused(good, change, text):
    object, rows = parts(good)
    change(object)
    is_refused(sealed(object, rows), f"is not a whole program file: {text}")


def test_a_text_that_is_no_json_is_refused(good):
    object, rows = parts(good)
    text = json.dumps(object)
    for broken, said in [
        (
            b"\xff" + text.encode(),
            "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[]", MEMBERS),
        (text.encode() + b"]", f"Extra data: line 1 column {len(text) + 1} (char {len(text)})"),
        (text.replace('"name"', '"args": 1, "name"').encode(), "a name comes twice in its header"),
    ]:
        is_refused(sealed(broken, rows), f"is not a whole program file: {said}")
    deep = b'{"args": ' + b"[" * 200_000
    with pytest.raises(FileFormatError, match=r"^'broken\.program' is not a whole program file: "):
        load_bytes(sealed(deep, rows))


def row_of(good, name):
    """Where the first row of an op begins among the rows' bytes, and its number."""
    object, rows = parts(good)
    code = object["ops"].index(name)
    n = struct.unpack_from("<I", rows)[0]
    k = next(k for k in range(n) if struct.unpack_from("<H", rows, 24 + 16 * k)[0] == code)
    return 24 + 16 * k, k


def test_rows_that_no_recording_makes_are_refused(good):
    object, rows = parts(good)
    n, inputs, captured, entries, outputs, guards = struct.unpack_from("<6I", rows)
    assert (inputs, captured, outputs, guards) == (4, 2, 4, 1)
    lists = 24 + 16 * n
    ends = lists + 4 * entries
    guard = ends + 16 * outputs
    softmax, softmax_row = row_of(good, "_softmax")
    poly, poly_row = row_of(good, "_polygamma(a, number)")
    entropy, entropy_row = row_of(good, "_cross_entropy")
    dot, dot_row = row_of(good, "dot")
    double, double_row = row_of(good, "mul(a, number)")
    product, product_row = row_of(good, "mul")
    leaf = object["ops"].index("leaf")
    before = lambda k, got: f"row {k}: expected operands from the {k} rows before, got {got}"
    leaf_alone = lambda k: f"row {k}: expected a leaf without operands and, of an input, without a value"
    order = f"row {poly_row}: expected polygamma's order to be a whole number from 1 to 1000"
    sizes = lambda more, rows_, guards_: (
        f"expected {len(rows) + more} bytes for {rows_} rows, {entries} entries of lists, "
        f"4 outputs and {guards_} guards, got {len(rows)}"
    )
    sixth = object["ops"][struct.unpack_from("<H", rows, 24 + 96)[0]]
    cases = [
        (0, "<I", n + 1, sizes(16, n + 1, 1)),
        (0, "<I", 2**32 - 1, sizes(16 * (2**32 - 1 - n), 2**32 - 1, 1)),
        (20, "<I", 2**32 - 1, sizes(40 * (2**32 - 2), n, 2**32 - 1)),
        (
            4,
            "<I",
            2**32 - 1,
            f"expected at most {n} inputs and captured Variables, got {2**32 - 1} and 2",
        ),
        (8, "<I", n, f"expected at most {n} inputs and captured Variables, got 4 and {n}"),
        (4, "<I", 5, "row 4: expected no flags, got 1"),
        (4, "<II", (3, 3), "expected arguments with 3 numbers and results with 4, got 4 and 4"),
        (8, "<I", 3, f"row 6: expected a leaf for an input or a captured Variable, got {sixth!r}"),
        (24, "<H", 999, f"row 0: expected one of {len(object['ops'])} ops, got number 999"),
        (24 + 2, "<H", 1, "row 0: expected no flags, got 1"),
        (24 + 64 + 2, "<H", 2, "row 4: expected no flags, got 2"),
        (softmax + 2, "<H", 1, f"row {softmax_row}: expected no flags, got 1"),
        (24 + 4, "<I", 1, leaf_alone(0)),
        (24 + 8, "<d", 1.0, leaf_alone(0)),
        (product, "<HHIII", (leaf, 0, 1, 0, 0), leaf_alone(product_row)),
        (double + 4, "<I", double_row, before(double_row, double_row)),
        (product + 4, "<I", 2**32 - 1, before(product_row, 2**32 - 1)),
        (product + 8, "<I", product_row, before(product_row, product_row)),
        (product + 12, "<I", 1, f"row {product_row}: expected 2 operands, got more"),
        (
            softmax + 8,
            "<I",
            0,
            f"row {softmax_row}: expected softmax's second operand to be a sum of exponentials, got 'leaf'",
        ),
        (poly + 8, "<d", 1e300, order),
        (poly + 8, "<d", NAN, order),
        (poly + 8, "<d", 0.0, order),
        (poly + 8, "<d", 1.5, order),
        (
            entropy + 8,
            "<I",
            2,
            f"row {entropy_row}: expected an index that '_cross_entropy' has for 2 operands, got 2",
        ),
        (
            dot + 8,
            "<I",
            1,
            f"row {dot_row}: expected an index that 'dot' has for 2 operands, got 1",
        ),
        (
            dot + 4,
            "<I",
            1,
            f"row {dot_row}: expected an index that 'dot' has for 2 operands, got 0",
        ),
        (dot + 12, "<I", 0, f"row {dot_row}: expected operands for 'dot', got none"),
        (
            dot + 12,
            "<I",
            2**31,
            f"row {dot_row}: expected a list of at most 4 operands, got {2**32}",
        ),
        (
            dot + 12,
            "<I",
            2**32 - 1,
            f"row {dot_row}: expected a list of at most 4 operands, got {2**33 - 2}",
        ),
        (dot + 12, "<I", 1, f"expected lists of {entries - 2} entries, got {entries}"),
        (lists, "<I", n, None),
        (ends, "<I", 2, "output 0: expected a number or a row, got kind 2"),
        (ends + 4, "<I", n, f"output 0: expected one of {n} rows, got {n}"),
        (ends + 8, "<d", 1.0, "output 0: expected a row alone, got a number with it"),
        (ends + 16 + 4, "<I", 1, f"output 1: expected one of {n} rows, got 1"),
        (guard, "<I", 6, "guard 0: expected one of 6 comparisons and an outcome, got 6 and 1"),
        (guard + 4, "<I", 2, "guard 0: expected one of 6 comparisons and an outcome, got 4 and 2"),
        (guard + 8, "<I", 2, "guard 0: expected a number or a row, got kind 2"),
        (guard + 24, "<I", 3, "guard 0: expected a number or a row, got kind 3"),
        (guard + 12, "<I", 2**32 - 1, f"guard 0: expected one of {n} rows, got {2**32 - 1}"),
    ]
    for place, form, value, text in cases:
        broken = bytearray(rows)
        struct.pack_into(form, broken, place, *(value if isinstance(value, tuple) else (value,)))
        if text is None:
            first = next(k for k in range(n) if struct.unpack_from("<I", rows, 24 + 16 * k + 12)[0] and k > 5)
            text = before(first, n)
        is_refused(sealed(object, bytes(broken)), f"is not a whole program file: {text}")
    for size in (0, 23):
        is_refused(
            sealed(object, rows[:size]),
            "is not a whole program file: expected a program's counts, got less",
        )


def test_polygamma_of_two_rows_is_refused(good):
    object, rows = parts(good)
    poly, k = row_of(good, "_polygamma(a, number)")
    object["ops"] = [name.replace("_polygamma(a, number)", "_polygamma") for name in object["ops"]]
    broken = bytearray(rows)
    struct.pack_into("<II", broken, poly + 8, 0, 0)
    text = f"is not a whole program file: row {k}: expected polygamma's order to be a whole number from 1 to 1000"
    is_refused(sealed(object, bytes(broken)), text)
    object["ops"] = [name.replace("_polygamma", "_polygamma(number, b)") for name in object["ops"]]
    is_refused(sealed(object, bytes(broken)), text)


def test_no_count_takes_more_memory_than_the_file_is_long(good):
    object, rows = parts(good)
    files = []
    for place in range(0, 24, 4):
        for count in (2**20, 2**31, 2**32 - 1):
            broken = bytearray(rows)
            struct.pack_into("<I", broken, place, count)
            files.append(sealed(object, bytes(broken)))
    for key in ("args", "results"):
        for nest in (
            ["list", 10**8],
            ["tuple", [["list", 10**8]]],
            ["VariableList", 10**8],
            ["array", 10**8],
            ["array", [["list", 10**8]]],
        ):
            files.append(sealed({**object, key: nest}, rows))
    load_bytes(good)
    tracemalloc.start()
    try:
        for data in files:
            with pytest.raises(FileFormatError):
                load_bytes(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(good) + 200_000  # Python's own parser and this loop


def test_a_program_is_read_once():
    program = recorded(f_of, 1.0, 2.0)
    ops, rows = _core._program_bytes(program)
    with pytest.raises(ValueError, match=r"^expected a new Program, got one that is recorded$"):
        _core._read_program(program, ops, rows, 0)
    with pytest.raises(ValueError, match=r"^expected the name of an op, got 'warp'$"):
        _core._read_program(Program("f", (), None), ["warp"], rows, 0)
    for start in (len(rows), len(rows) + 1, 2**63):
        with pytest.raises(ValueError, match=r"^expected a program's counts, got less$"):
            _core._read_program(Program("f", (), None), ops, rows, start)


# -- mutations: right or refused, and never a crash ------------------------------------------------


def corpus():
    """Files of programs that have everything that a program can have."""
    random.seed(1)
    model = nn.MLP(3, [4, 2])
    cases = [
        (hostile, ([1.0, 2.0], 3.0), {"k": {"a": 4.0}, "n": 2}),
        (f_of, (3.0, 2.0), {}),
        (
            lambda xs: {"loss": sum(y * y for y in model(xs)), b"b": [1.0, (xs[0],)]},
            ([1.0, 2.0, 3.0],),
            {},
        ),
        (
            lambda xs: [getattr(mingrad, name)(xs) for name in NARY if name not in ("dot", "softmax")],
            ([1.0, -2.0, 0.5],),
            {},
        ),
        (lambda x: [spell(name)(x) for name in UNARY if name != "acosh"], (0.5,), {}),
        (lambda x, y: [f(x, y) for f in map(spell, BINARY[:12])], (0.5, 0.75), {}),
        (lambda x, *ys: min(ys) * x if x else max(ys), (1.0, 2.0, 3.0, 1.0), {}),
        (lambda: 2.5, (), {}),
    ]
    if importable("numpy"):
        import numpy

        matrix = numpy.array([[1.0, 2.0], [3.0, 4.0]])
        cases.append(
            (
                lambda a, n: (numpy.array([a[0], a[1]]), a[0] * 2.0),
                (matrix, numpy.array([1, 2])),
                {},
            )
        )
    found = []
    for f, args, kwargs in cases:
        with mingrad.errstate(all="ignore"):
            found.append(parts(saved_bytes(recorded(f, *args, **kwargs))))
    return found


NUMBERS = [0, 1, 2, 3, 5, 7, 16, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
LEAVES = [
    "number",
    "a",
    None,
    True,
    0,
    1,
    -1,
    2**40,
    1.5,
    [],
    {},
    ["list", 1],
    ["tuple", []],
    ["int", "2"],
    ["float", "7ff8000000000001"],
    ["value", None],
    ["array", 1],
    ["array", [["list", 1]]],
    ["VariableList", 2],
    ["dict", ["a"], ["number"]],
]


def mutated_rows(rng, rows):
    rows = bytearray(rows)
    n = struct.unpack_from("<I", rows)[0]
    kinds = rng.choice([range(8), [0, 3, 3, 4]])
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        kind = rng.choice(kinds)
        if len(rows) < 24:
            break
        word = 4 * rng.randrange(len(rows) // 4)
        if kind == 0:
            rows[rng.randrange(len(rows))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            rows[rng.randrange(len(rows))] = rng.randrange(256)
        elif kind == 2:
            struct.pack_into("<I", rows, word, rng.choice([*NUMBERS, max(n, 1) - 1, n, rng.randrange(n + 1)]))
        elif kind == 3 and n:  # an operand, a count or an index; mostly one from the rows before
            k = rng.randrange(n)
            struct.pack_into(
                "<I",
                rows,
                24 + 16 * k + rng.choice([4, 8, 12]),
                rng.randrange(max(k, 1) + (rng.random() < 0.2)),
            )
        elif kind == 4 and n:  # another op
            struct.pack_into("<H", rows, 24 + 16 * rng.randrange(n), rng.randrange(12))
        elif kind == 5 and n > 1:  # rows in another order
            j, k = sorted(24 + 16 * rng.randrange(n) for _ in range(2))
            rows[j : j + 16], rows[k : k + 16] = rows[k : k + 16], rows[j : j + 16]
        elif kind == 6:
            struct.pack_into("<I", rows, 4 * rng.randrange(6), rng.choice([*NUMBERS, n, rng.randrange(n + 2)]))
        else:
            place = rng.randrange(len(rows))
            rows[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 16])))
            if rng.random() < 0.5:
                del rows[-rng.choice([1, 4, 16]) :]
    return bytes(rows)


def mutated_text(rng, object):
    if rng.random() < 0.4:
        text = bytearray(json.dumps(object).encode())
        text[rng.randrange(len(text))] = rng.choice(b'[]{},:"0123456789abelmnrstu\\ \xff')
        return bytes(text)
    object = json.loads(json.dumps(object))
    at, key = object, rng.choice(list(object))
    while isinstance(at[key], (list, dict)) and at[key] and rng.random() < 0.8:
        at = at[key]
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
    if isinstance(at, list) and rng.random() < 0.3:
        at.insert(key, json.loads(json.dumps(rng.choice(LEAVES))))
    elif rng.random() < 0.2:
        del at[key]
    else:
        at[key] = json.loads(json.dumps(rng.choice(LEAVES + _core._program_ops()[:3])))
    return object


def mutated(rng, files):
    text, rows = rng.choice(files)
    if rng.random() < 0.75:
        rows = mutated_rows(rng, rows)
    else:
        text = mutated_text(rng, text)
    if rng.random() < 0.1 and isinstance(text, dict) and isinstance(text.get("ops"), list):  # rows of other ops
        text = {
            **text,
            "ops": [name if rng.random() < 0.7 else rng.choice(_core._program_ops()) for name in text["ops"]],
        }
    return sealed(text, rows)


def is_mutant_right(data):
    """Whether the file was loaded. Fails unless it was refused by the right error, or runs in every
    way there is, without anything but the errors of numbers, and is saved and loaded as it is."""
    try:
        program = load_bytes(data)
    except FileFormatError as error:
        cause = error.__cause__
        assert cause is None or isinstance(cause, (ValueError, TypeError, RecursionError, OverflowError)), repr(cause)
        return False
    rng = random.Random(len(data))
    numbers = [rng.choice([0.5, -1.0, 2.0, 0.0, NAN, INF, rng.uniform(-2, 2)]) for _ in range(program.n_inputs)]
    program.rows()
    for ignore in ({}, {"all": "ignore"}):
        with mingrad.errstate(**ignore):
            try:
                outcome(program, numbers, program.captured)
            except TypeError as error:  # a structure that no arguments have
                assert "expected arguments (" in str(error)
    with mingrad.errstate(all="ignore"):
        try:
            _core._run_eagerly(program, numbers, "f")
        except (RecordingError, ArithmeticError, ValueError):
            pass
        found = _core._run(program, [Variable(x) for x in numbers], "f")
        nodes = [x for x in found or [] if isinstance(x, Variable) and x.requires_grad]
        if nodes:

            def scalar(xs):
                results = _core._run(program, xs, "f")
                return mingrad.sum([x for x in results if isinstance(x, Variable)]) if results else 0.0

            hvp(scalar, (numbers,), ([1.0] * len(numbers),))
    if numbers:
        columns = [array("d", [x, x]) for x in numbers]
        with suppress(ValueError):  # a row that goes another way, or as many numbers as there are results
            program.map(columns, grad="sum")
    again = saved_bytes(program)
    assert saved_bytes(load_bytes(again)) == again
    return True


def test_a_mutated_file_is_refused_or_runs():
    rng, files, loaded = random.Random(5), corpus(), 0
    for _ in range(1500):
        loaded += is_mutant_right(mutated(rng, files))
    assert 150 < loaded < 1350  # both happen


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_a_file_that_hypothesis_mutates_is_refused_or_runs(data):
    text, rows = data.draw(st.sampled_from(CORPUS or CORPUS.extend(corpus()) or CORPUS))
    broken = bytearray(rows)
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, max(len(rows) - 4, 0)), st.integers(0, 2**32 - 1)), max_size=4)
    ):
        struct.pack_into("<I", broken, place, value)
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(rows) - 1), st.integers(0, 255)), max_size=4)):
        broken[place] = value
    is_mutant_right(sealed(text, bytes(broken)))


CORPUS = []

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.floats()
    | st.sampled_from(["number", "list", "tuple", "dict", "array", "a"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from("ab"), children, max_size=2),
    max_leaves=12,
)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.sampled_from(["args", "kwargs", "results", "ops", "labels", "name", "mingrad"]), JSON)
def test_any_json_in_place_of_a_member_is_refused_or_runs(key, item):
    text, rows = (CORPUS or CORPUS.extend(corpus()) or CORPUS)[0]
    is_mutant_right(sealed({**text, key: item}, rows))


def test_the_checker_of_mutants_notices_an_error_that_is_not_the_right_one(monkeypatch):
    data = sealed(*corpus()[1])
    assert is_mutant_right(data)
    monkeypatch.setattr(program_file, "_parsed", lambda *args: 1 / 0)
    with pytest.raises(AssertionError):
        is_mutant_right(data)


# -- all or nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [True, False], ids=["over a file", "new"])
@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_what_was_there(monkeypatch, function, old):
    program, other = recorded(lambda x: x + 1.0, 1.0), recorded(lambda x: x + 2.0, 1.0)
    if old:
        program.save(FILE)

    def fail(*args):
        assert len(os.listdir()) == 1 + old
        raise OSError(errno.EIO, "disk")

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        with pytest.raises(OSError):
            other.save(FILE)
    assert os.listdir() == [FILE] * old
    assert not old or Program.load(FILE)(1.0) == 2.0


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_writer_that_is_killed_leaves_the_old_file():
    recorded(lambda x: x + 1.0, 1.0).save(FILE)
    code = """
        import os, signal, mingrad
        f = mingrad.compile(lambda x: x + 2.0)
        f(1.0)
        os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        f.programs[0].save("f.program")
        """
    run_python(code, status=-signal.SIGKILL)
    assert Program.load(FILE)(1.0) == 2.0


def test_a_path_may_be_bytes_or_a_path_object(tmp_path):
    program = recorded(f_of, 3.0, 2.0)
    for path in (b"a", tmp_path / "b", "c"):
        program.save(path)
        assert Program.load(path)(5.0, 4.0) == 20.0


def test_the_same_program_is_the_same_bytes_and_little_endian():
    w = Variable(0.5, requires_grad=True, label="w")
    data = saved_bytes(recorded(lambda x: x * w if x < 2.0 else x, 1.0))
    object, rows = parts(data)
    assert data[:16] == b"mingrad program\n" and struct.unpack("<I", data[16:20]) == (1,)
    assert object == {
        "mingrad": mingrad.__version__,
        "name": "<lambda>",
        "ops": ["leaf", "mul"],
        "args": ["tuple", ["number"]],
        "kwargs": ["dict", [], []],
        "results": "number",
        "labels": [[0, "w"]],
    }
    assert rows == (
        struct.pack("<6I", 3, 1, 1, 0, 1, 1)
        + struct.pack("<HHId", 0, 0, 0, 0.0)
        + struct.pack("<HHId", 0, 1, 0, 0.5)
        + struct.pack("<HHIII", 1, 0, 0, 1, 0)
        + struct.pack("<IId", 1, 2, 0.0)
        + struct.pack("<II", 0, 1)
        + struct.pack("<IId", 1, 0, 0.0)
        + struct.pack("<IId", 0, 0, 2.0)
    )


def test_a_large_program_comes_back():
    def f(x):
        for _k in range(20_000):
            x = mingrad.sin(x * 0.5) * x + 0.25
        return x

    program = recorded(f, 0.3)
    other = reloaded(program)
    assert len(other) == 80_001 and other(0.7) == program(0.7)
    gc.collect()
