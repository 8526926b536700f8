"""Programs as C and Python source: the same bits as the function that was recorded.

All C of a test run is compiled at once, with warnings as errors, into one library that ctypes calls;
tests that need it are skipped where there is no C compiler. What the sources look like, refusals and
sizes come last. It times nothing.
"""

import ctypes
import itertools
import math
import os
import random
import re
import shutil
import subprocess
import sys

import pytest
from test_program import (
    BINARY,
    INF,
    NAN,
    NARY_FUNCTIONS,
    PARAMETERS,
    SEEDS,
    SPECIAL,
    UNARY,
    attention,
    bits,
    lists,
)

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, as_function, random_graph
from mingrad import Variable, _core, autodiff, export, nn
from mingrad.program import Program
from watch import refuses, spell

CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
FLAGS = "-std=c99 -pedantic -Wall -Wextra -Werror -O2 -ffp-contract=off".split()
needs_cc = pytest.mark.skipif(CC is None or os.name == "nt", reason="no C compiler called cc, gcc or clang")
# What Python's math has not got (their derivatives are worse off).
SLOPE_NOT_IN_MATH = {"lgamma", "digamma"}
# Python's float and math raise at every point.
ALWAYS_RAISES = {f"{op} with 0.0 0" for op in ("div", "floordiv", "mod")} | {"pow with -1.0 1"}
ALWAYS_RAISES |= {f"_bce with {number} 1" for number in (0.0, -1.0, 2.0)}


def total(results):
    """The results of a function as one number that depends on each of them in another way."""
    leaves = autodiff._flatten(results, "results")[0]
    return mingrad.dot(leaves, list(itertools.islice(itertools.cycle(SEEDS), len(leaves)))) if len(leaves) != 1 else leaves[0]


def recorded(f, points):
    """The programs that calls with these arguments leave behind."""
    compiled = mingrad.compile(f)
    with mingrad.errstate(all="ignore"):
        for point in points:
            leaves, build = autodiff._flatten(point, "arguments")
            compiled(*build([Variable(x) for x in leaves]))
    return compiled.programs


def expected(f, point, parameters):
    """What the function gives at this point: bits of its value and of its derivatives."""
    leaves, build = autodiff._flatten(point, "arguments")
    leaves = [Variable(x) for x in leaves]
    for p in parameters:
        p.zero_grad()
    with mingrad.errstate(all="ignore"):
        y = f(*build(leaves))
        if isinstance(y, Variable):
            y.backward()
    return bits(y), [bits(v.grad) for v in leaves], {id(p): bits(p.grad) for p in parameters}


class Case:
    """A function of one number as its result, and points to compare at."""

    def __init__(self, f, *points, parameters=()):
        self.f, self.points, self.parameters = f, points, parameters
        self.programs = recorded(f, points)
        self.names = None


CASES = {}


def case(name, f, *points, parameters=()):
    CASES[name] = f, points, parameters


def whole(f):
    return lambda *args: total(f(*args))


def make_cases():
    for op in UNARY:
        start = 1.5 if op == "acosh" else 0.5
        case(op, spell(op), (start,), *[(x,) for x in SPECIAL])
    for op in BINARY:
        f = spell(op)
        if op not in PARAMETERS:
            case(op, f, (0.5, 0.25), *itertools.product(SPECIAL, repeat=2))
            case(f"{op} of the same", lambda x, f=f: f(x, x), (0.5,), *[(x,) for x in SPECIAL])
        for number in (0.0, -1.0, 2.0):
            for side, ordered in enumerate((lambda x, f=f, n=number: f(x, n), lambda x, f=f, n=number: f(n, x))):
                try:
                    with mingrad.errstate(all="ignore"):
                        ordered(Variable(0.25))
                except (ValueError, TypeError):
                    continue
                case(f"{op} with {number} {side}", ordered, (0.25,), *[(x,) for x in SPECIAL])
    for name, f in NARY_FUNCTIONS.items():
        rng = random.Random(name)
        for n in (1, 2, 3, 8, 33):
            if n < 33 or "python" not in name:
                case(f"{name} of {n}", whole(f), *[(xs,) for xs in lists(rng, n)])
    for seed in range(24):
        rng = random.Random(seed)
        graph = random_graph(seed, rng.choice([20, 60, 200]), EXACT + LIBM + OTHER + NARY, reference)
        f, start = as_function(graph, mingrad)
        other = [[rng.uniform(-2, 2) for _ in start] for _ in range(3)]
        hostile = [[rng.choice([*SPECIAL, x]) for x in start] for _ in range(2)]
        case(f"random graph {seed}", whole(f), *[(xs,) for xs in [start, *other, *hostile]])
    for n in (1, 2, 3, 4, 15, 17, 64, 300):
        case(f"steps of {n}", whole(steps_of(n)), *wide_points(n))
    rng = random.Random(9)
    rows = lambda n: [[rng.uniform(-1, 1) for _ in range(3)] for _ in range(n)]
    case("attention", whole(attention), (rows(4), rows(4), rows(4)))
    case(
        "a branch",
        lambda x, y: x * y if x > y else mingrad.exp(y) if x >= 0 else y,
        *itertools.product([0.0, 1.0, -2.0, NAN], repeat=2),
    )
    case(
        "truth values",
        lambda x, y: (x and y) or x - y,
        *itertools.product([0.0, 1.0, -2.0], repeat=2),
    )
    case("no number depends on it", lambda x: 3.5, (1.0,), (2.0,))
    case("nothing but the input", lambda x: x, (1.0,), (-0.0,))
    case("the other input", lambda x, y: y, (1.0, 2.0))
    case(
        "inf and nan inside",
        lambda x: mingrad.minimum(x, INF) + mingrad.maximum(-INF, x) + 0.0 * x,
        (1.0,),
        (INF,),
        (NAN,),
    )
    # Here glibc's pow rounds otherwise than x * x, 1 / x and sqrt, which compilers take for it.
    for number, xs in (
        (2.0, ("0x1.9aca9a13df3ep+0", "0x1.60dd5d6d8d9c8p+0")),
        (-1.0, ("0x1.04c0132a1cc38p+0", "0x1.81d2c6a873a78p+0")),
        (0.5, ("0x1.2dd21191e73adp+0", "0x1.7ff82d0d8dd6dp+0")),
    ):
        points = [(float.fromhex(x),) for x in xs]
        case(f"a power of {number} that libm computes", lambda x, n=number: x**n, *points)
    case("a deep chain", chain(2500), ([0.3, 0.7],), ([-0.1, 0.2],))
    case("many different steps", many_steps, ([0.3, 0.7, -0.2],), ([-0.1, 0.2, 0.4],))
    case(
        "many comparisons",
        lambda xs: max(xs) + sum(x if x > 0.25 else 2.0 * x for x in xs),
        ([math.sin(k) for k in range(150)],),
        ([math.cos(k) for k in range(150)],),
    )
    for name, f, parameters, points in models():
        case(name, f, *points, parameters=parameters)


def steps_of(n):
    def f(xs, ys, c):
        chain = 0.0
        for x, y in zip(xs, ys):
            chain = chain + x * y
        back = c
        for x, y in zip(xs[::-1], ys):
            back = x * y + back
        return [
            sum([mingrad.tanh(x) * y for x, y in zip(xs, ys)]),
            sum([x - c for x in xs[::2]] + [y / c for y in ys[::-1]]),
            sum([xs[k * 7 % n] * ys[k * 11 % n] for k in range(n)]),
            chain,
            sum([xs[k % n] * ys[k // n % n] for k in range(4 * n)]),
            back,
            mingrad.dot(xs, ys),
            mingrad.dot(xs[::2], ys[::-1][::2]),
            mingrad.sum([x * y + c for x, y in zip(xs, ys)]),
            mingrad.sum([1.5 * x for x in xs]),
        ]

    return f


def wide_points(n):
    rng = random.Random(n)
    numbers = lambda: [rng.uniform(-1, 1) for _ in range(n)]
    return [(numbers(), numbers(), 1.5) for _ in range(2)]


def chain(n):
    """A program with more steps than are written one by one: they become a table."""

    def f(xs):
        x, y = xs
        for k in range(n):
            x, y = mingrad.sin(x * y + 0.1 * k) - 0.5 * y, x + mingrad.exp(-x * x) * 0.125
        return x * y

    return f


def many_steps(xs):
    """All kinds of steps in one table."""
    rng = random.Random(3)
    xs = list(xs)
    for _ in range(400):
        a, b, c = (rng.choice(xs[-6:]) for _ in range(3))
        xs.append(
            rng.choice(
                [
                    lambda: mingrad.sin(a * b + c),
                    lambda: mingrad.tanh(mingrad.sum([a, b, c, xs[0]])),
                    lambda: mingrad.logsumexp([a, b, c, xs[1]]) / 4,
                    lambda: mingrad.norm([a, b, 0.5]) * 0.5,
                    lambda: mingrad.gelu(a) * b,
                    lambda: mingrad.dot([a, b, c, a], [b, c, a, xs[2]]) * 0.3,
                    lambda: sum(p * q for p, q in zip(mingrad.softmax([a, b, c]), (c, a, b))),
                    lambda: nn.cross_entropy([a, b, c], rng.randrange(3)) * 0.5,
                    lambda: mingrad.atan2(a, b + 2.0) + mingrad.hypot(b, 1.0) * 0.1,
                    lambda: mingrad.maximum(a, b) + mingrad.relu(c) - mingrad.erf(a),
                    lambda: (a * a + 1.0) ** 0.3 * 0.4,
                    lambda: mingrad.cos(a) + sum([a, b, c, a, b, c, a, b, c, b]) * 0.05,
                    lambda: mingrad.sin(sum([p * q for p, q in zip(xs[-9:], xs[-8:])]) * 0.1),
                ]
            )()
        )
    return sum(xs[-5:])


def models():
    rng = random.Random(11)
    model = nn.MLP(2, [16, 16, 1])
    parameters = list(model.parameters())
    for p in parameters:
        p.data = rng.uniform(-1, 1)

    def moons(batch, targets):
        scores = [model(xs) for xs in batch]
        return nn.hinge_loss(scores, targets) + 1e-4 * mingrad.sum([p * p for p in parameters])

    batch = lambda n: (
        [[rng.uniform(-1, 2) for _ in range(2)] for _ in range(n)],
        [rng.choice([1.0, -1.0]) for _ in range(n)],
    )
    yield "moons", moons, parameters, [batch(20), ([[0.5, 0.25]] * 20, [1.0] * 20)]
    w = [[[Variable(rng.uniform(-1, 1), label=f"w{i}{j}") for i in range(m)] for j in range(n)] for m, n in ((2, 8), (8, 1))]

    def plain(batch, targets):
        loss = 0.0
        for xs, target in zip(batch, targets):
            for layer in w:
                xs = [mingrad.tanh(sum(wi * x for wi, x in zip(row, xs))) for row in layer]
            loss = loss + mingrad.relu(1.0 - target * xs[0])
        return loss / len(targets)

    yield (
        "neurons in plain loops",
        plain,
        [p for layer in w for row in layer for p in row],
        [batch(30), batch(30)],
    )
    b = Variable(0.5, label="b */ ??/ \\")
    yield "a parameter alone", lambda x: b * 2.0, [b], [(1.0,)]
    yield "no input", lambda: b * b, [b], [()]
    fixed = Variable(3.0, requires_grad=False)
    yield "a parameter without a gradient", lambda x: fixed * x, [], [(2.0,)]


make_cases()


@pytest.fixture(scope="module")
def cases():
    """Each case with its programs."""
    return {name: Case(f, *points, parameters=parameters) for name, (f, points, parameters) in CASES.items()}


@pytest.fixture(scope="module")
def library(cases, tmp_path_factory):
    """All cases' programs, compiled."""
    folder = tmp_path_factory.mktemp("c")
    texts = []
    for number, made in enumerate(cases.values()):
        made.names = [f"f{number}_{k}" for k in range(len(made.programs))]
        texts += [p.to_c(name) for p, name in zip(made.programs, made.names)]
    texts.sort(key=len)
    runs = []
    for k in range(8):
        (folder / f"{k}.c").write_text("\n".join(texts[k::8]))
    for k in (0, 4):
        jobs = [
            subprocess.Popen([CC, *FLAGS, "-fPIC", "-c", f"{j}.c"], cwd=folder, stderr=subprocess.PIPE, text=True)
            for j in range(k, k + 4)
        ]
        runs += [(job.communicate()[1], job.returncode) for job in jobs]
    assert all(code == 0 for _, code in runs), "".join(text for text, _ in runs)[:4000]
    subprocess.run(
        [CC, "-shared", *[f"{k}.o" for k in range(8)], "-o", "all.so", "-lm"],
        cwd=folder,
        check=True,
    )
    return ctypes.CDLL(str(folder / "all.so"))


def doubles(numbers):
    return (ctypes.c_double * max(1, len(numbers)))(*numbers)


def work_of(text, name):
    """How much room the file asks for, value and gradient."""
    found = [int(line.split()[2]) for line in text.splitlines() if line.startswith(f"#define {name.upper()}_")]
    return found if len(found) == 2 else [*found, 0]


def run_c(library, program, name, xs):
    """(what both functions return, results, derivatives); work is filled with nan beforehand, and must not be overrun."""
    sizes = work_of(program.to_c(name), name)
    p = [v.data for v in program.captured]
    x, p, y, gx, gp = (
        doubles(xs),
        doubles(p),
        doubles([-7.0]),
        doubles([-7.0] * len(xs)),
        doubles([-7.0] * len(p)),
    )
    given = [x] * bool(xs) + [p] * bool(program.captured)
    slopes = [gx] * bool(xs) + [gp] * bool(program.captured)
    found = []
    for function, size, arguments in (
        (name, sizes[0], [*given, y]),
        (f"{name}_gradient", sizes[1], [*given, y, *slopes]),
    ):
        work = doubles([NAN] * size + [0.125] * 8)
        code = getattr(library, function)(*arguments, work)
        assert list(work[size:]) == [0.125] * 8, "it writes beyond work"
        found.append((code, bits(y[0])))
    return found, [gx[k] for k in range(len(xs))], [gp[k] for k in range(len(program.captured))]


def positive(x):
    """A derivative's bits; a pass adds it to 0, so -0 is 0."""
    return bits(x + 0.0)


@needs_cc
@pytest.mark.parametrize("name", CASES)
def test_c_gives_the_bits_of_the_function_and_its_gradient(name, cases, library):
    made = cases[name]
    for point in made.points:
        value, slopes, by_parameter = expected(made.f, point, made.parameters)
        xs = autodiff._flatten(point, "arguments")[0]
        fitting = 0
        for program, function in zip(made.programs, made.names):
            if len(xs) != program.n_inputs:
                continue
            (first, second), gx, gp = run_c(library, program, function, xs)
            assert first == second
            if first[0] == 0:
                fitting += 1
                assert first[1] == value, f"{point}: value"
                assert [positive(g) for g in gx] == slopes, f"{point}: gradient"
                found = {id(v): positive(g) for v, g in zip(program.captured, gp)}
                for p in made.parameters:
                    assert found.get(id(p), bits(0.0)) == by_parameter[id(p)]
            else:
                assert (first[1], set(gx + gp)) == (bits(-7.0), {-7.0}), "only work may be written to"
                assert 1 <= first[0] <= len(program.guards)
        assert fitting, f"no program for {point}"


def in_python(program, name):
    """The functions of a program's Python source."""
    names = {}
    exec(compile(program.to_python(name), name, "exec"), names)
    return names[name], names[f"{name}_gradient"]


@pytest.mark.parametrize("name", CASES)
def test_python_gives_the_bits_of_the_function_and_its_gradient(name, cases):
    made = cases[name]
    op = name.split()[0]
    if op in SLOPE_NOT_IN_MATH:
        with pytest.raises(ValueError, match="whose functions Python's math module has"):
            made.programs[0].to_python("f")
        return
    try:
        texts = [program.to_python("f") for program in made.programs]
    except ValueError as error:
        assert name.startswith("random graph") and "which calls digamma" in str(error)
        return
    if sys.version_info < (3, 11) and re.search(r"math\.(exp2|cbrt)\b", "".join(texts)):
        pytest.skip("math has it from Python 3.11 on")
    functions = [in_python(program, "f") for program in made.programs]
    compared = 0
    for point in made.points:
        value, slopes, by_parameter = expected(made.f, point, made.parameters)
        xs = autodiff._flatten(point, "arguments")[0]
        for program, (f, gradient) in zip(made.programs, functions):
            arguments = [xs] if xs else []
            if program.captured:
                arguments.append([v.data for v in program.captured])
            try:
                y = f(*arguments)
                z, *g = gradient(*arguments)
            except (ArithmeticError, ValueError):
                continue
            compared += 1
            assert bits(y) == bits(z) == value and type(y) is float
            if xs:
                assert [positive(x) for x in g[0]] == slopes
            found = {id(v): positive(x) for v, x in zip(program.captured, g[-1])}
            for p in made.parameters:
                assert found.get(id(p), bits(0.0)) == by_parameter[id(p)]
    assert compared or name in ALWAYS_RAISES


# -- several results -------------------------------------------------------------------------------


def several(x, y):
    return {"sum": x + y, "pair": (x, 2.5), "many": [mingrad.exp(x * k) for k in range(12)]}


@needs_cc
def test_a_program_of_several_results_gives_all_of_them(tmp_path):
    (program,) = recorded(several, [(0.5, 2.0)])
    values = [x.data if isinstance(x, Variable) else x for x in autodiff._flatten(several(0.25, 3.0), "")[0]]
    text = program.to_c("several", gradient=False)
    library = compiled(tmp_path, text)
    y, work = doubles([0.0] * len(values)), doubles([0.0] * work_of(text, "several")[0])
    assert library.several(doubles([0.25, 3.0]), y, work) == 0
    assert list(y) == values
    assert " * y[2]: result['pair'][1]\n" in text and "_gradient" not in text
    names = {}
    exec(program.to_python("several", gradient=False), names)
    assert names["several"]([0.25, 3.0]) == values
    assert "several_gradient" not in names


def compiled(folder, text, *more):
    """A library of one C file."""
    (folder / "one.c").write_text(text)
    command = [CC, *FLAGS, *more, "-fPIC", "-shared", "one.c", "-o", "one.so", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return ctypes.CDLL(str(folder / "one.so"))


@needs_cc
def test_two_programs_can_be_one_file(tmp_path):
    (program,) = recorded(lambda x: mingrad.gelu(x) + mingrad.hypot(x, 1.0), [(0.5,)])
    library = compiled(tmp_path, program.to_c("first") + program.to_c("second"))
    assert hasattr(library, "first_gradient") and hasattr(library, "second_gradient")


@needs_cc
def test_every_function_of_portable_h_compiles_without_a_warning(tmp_path):
    formulas = export._Formulas("f")
    for name in export._pieces():
        formulas.piece(name)
    text = formulas.helpers()
    compiled(tmp_path, f"#include <math.h>\n#include <stddef.h>\n{text}\n", "-Wno-unused")
    assert text.count("static ") > 30 and "mg_" not in text and "k_" not in text


@needs_cc
def test_fast_math_is_refused(tmp_path):
    (program,) = recorded(lambda x: x * x, [(0.5,)])
    with pytest.raises(AssertionError, match="f: compile without -ffast-math"):
        compiled(tmp_path, program.to_c("f"), "-ffast-math")


@needs_cc
def test_other_bits_are_seen(tmp_path):
    """The comparison above fails where the text computes another thing."""
    (program,) = recorded(lambda x, y: x * y + mingrad.sin(x), [(0.5, 0.75)])
    text = program.to_c("f")
    for right, wrong in (
        (" + ", " - "),
        ("sin(", "cos("),
        (" * v[", " * 0x1.0000000000001p+0 * v["),
    ):
        library = compiled(tmp_path, text.replace(right, wrong))
        (first, _), gx, _ = run_c(library, program, "f", [0.5, 0.75])
        value, slopes, _ = expected(lambda x, y: x * y + mingrad.sin(x), (0.5, 0.75), [])
        assert (first[1], [positive(g) for g in gx]) != (value, slopes)
        (tmp_path / "one.so").unlink()


# -- what the sources look like --------------------------------------------------------------------


def test_the_c_file_says_what_the_arrays_hold():
    w = Variable(2.0, label="weight")

    def loss(x, options, *, scale):
        return (w * x[0] + options["bias"] * x[1]) * scale

    compiled = mingrad.compile(loss)
    compiled([1.0, 2.0], {"bias": 3.0, "kind": "plain"}, scale=0.5)
    text = compiled.programs[0].to_c("loss")
    assert text.startswith(f"/* loss: a program that mingrad {mingrad.__version__} recorded of the function 'loss'.\n")
    assert "int loss_gradient(const double *x, const double *p, double *y, double *gx, double *gp, double *work);" in text
    assert " * x[0] to x[1]: the numbers of argument 0, in order\n * x[2]: argument 1['bias']\n" in text
    assert " * p[0]: weight\n" in text
    assert "const double loss_parameters[1] = {\n    2.0,\n};" in text


def test_labels_and_keys_cannot_end_a_comment():
    w = Variable(2.0, label='*/ int main; /* ??/\\\n"""\nimport os')
    program = recorded(lambda x: w * x['*/"""\n'], [({'*/"""\n': 1.0},)])[0]
    text = program.to_c("f")
    assert text.count("*/") == text.count("/*") == len(re.findall(r"/\*.*?\*/", text, re.DOTALL))
    assert "??" not in text and not any(line.endswith("\\") for line in text.splitlines())
    names = {}
    exec(program.to_python("f"), names)
    assert names["f"]([3.0]) == 6.0 and "os" not in names


def test_a_comparison_that_comes_out_otherwise_is_named():
    (program,) = recorded(lambda x, y: x * y if x < y and x > 0.5 else y, [(1.0, 2.0)])
    text = program.to_c("f")
    assert "return 1; /* x[0] < x[1] was true */" in text and "return 2; /* x[0] > 0.5 was true */" in text
    f, _ = in_python(program, "f")
    refuses(
        lambda: f([3.0, 2.0]),
        ValueError,
        "f: x[0] < x[1] was true when this was recorded, and is not here: record the function for these numbers",
    )


def test_small_programs_read_like_the_function():
    (program,) = recorded(lambda x, y: mingrad.tanh(x * 2.0 + y) ** 3, [(0.5, 0.75)])
    text = program.to_python("f", gradient=False)
    assert text.endswith(
        "    [x0, x1] = x\n    t3 = x1 + x0 * 2.0\n    t4 = math.tanh(t3)\n    t6 = math.pow(t4, 3.0)\n    return t6\n"
    )
    assert "    v[3] = v[0] + v[1] * 2.0;\n    v[4] = tanh(v[3]);\n" in program.to_c("f", gradient=False)


@needs_cc
def test_wide_programs_are_small_files_and_deep_ones_have_a_short_row_for_a_step(tmp_path):
    rng = random.Random(2)
    w = [[Variable(rng.uniform(-1, 1)) for _ in range(20)] for _ in range(16)]

    def wide(batch):
        return sum(mingrad.tanh(sum(a * b for a, b in zip(row, xs))) for xs in batch for row in w)

    (program,) = recorded(wide, [([[rng.uniform(-1, 1) for _ in range(20)] for _ in range(150)],)])
    text = program.to_c("wide")
    assert len(program) > 90_000 and len(text) < 400_000
    compiled(tmp_path, text)
    (program,) = recorded(chain(5000), [([0.3, 0.7],)])
    text = program.to_c("deep")
    assert len(program) > 40_000 and len(text) < 70 * len(program)


# -- refusals --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def square():
    return recorded(lambda x: x * x, [(2.0,)])[0]


@pytest.mark.parametrize("name", ["", "2d", "a-b", "é", "_f", "double", "exp", "sinf", "main", "size_t", "f\n"])
def test_a_name_that_c_has_a_use_for_is_refused(square, name):
    refuses(
        lambda: square.to_c(name),
        ValueError,
        "to_c: expected a C identifier that is free: no keyword, no name of the standard library, such as 'price', "
        f"got {name!r}",
    )


@pytest.mark.parametrize("name", ["", "2d", "a-b", "lambda", "_f", "math", "float", "f\n"])
def test_a_name_that_python_has_a_use_for_is_refused(square, name):
    refuses(
        lambda: square.to_python(name),
        ValueError,
        "to_python: expected a Python identifier that is free: no keyword, no built-in name, no _ in front, such as "
        f"'price', got {name!r}",
    )


@pytest.mark.parametrize("what", ["to_c", "to_python"])
def test_a_name_that_is_no_text_is_refused(square, what):
    refuses(
        lambda: getattr(square, what)(3),
        TypeError,
        f"{what}: expected a name such as 'price', got int",
    )


@pytest.mark.parametrize("what", ["to_c", "to_python"])
def test_a_gradient_of_several_results_is_refused(what):
    (program,) = recorded(lambda x: [x, x * x], [(2.0,)])
    refuses(
        lambda: getattr(program, what)("f"),
        ValueError,
        f"{what}: expected a program with one number as its result, which has a gradient, got 2 results; pass "
        "gradient=False, or record a function that gives one of them",
    )


def test_what_math_has_not_got_is_refused_by_name():
    (program,) = recorded(lambda x: mingrad.lgamma(x), [(2.5,)])
    assert "math.lgamma(x0)" in program.to_python("f", gradient=False)
    refuses(
        lambda: program.to_python("f"),
        ValueError,
        "to_python: expected operations whose functions Python's math module has, got digamma, which calls digamma; use to_c",
    )


def test_exporting_leaves_the_program_as_it_was(square):
    before = _core._summary(square)
    square.to_c("f"), square.to_python("f")
    assert _core._summary(square) == before


def test_a_program_from_a_file_gives_the_same_texts(tmp_path):
    w = Variable(2.0, label="weight")
    (program,) = recorded(lambda x: mingrad.tanh(w * x["in"]), [({"in": 0.5},)])
    program.save(tmp_path / "f.program")
    loaded = Program.load(tmp_path / "f.program")
    assert loaded.to_c("f") == program.to_c("f")
    assert loaded.to_python("f") == program.to_python("f")


def test_a_graph_that_was_recorded_is_a_program_of_its_leaves():
    a, b = Variable(2.0, label="a"), Variable(3.0)
    program = mingrad.record(a * b + mingrad.sin(a)).program
    names = {}
    exec(program.to_python("f"), names)
    y, slopes = names["f_gradient"]()
    assert (y, slopes) == (6.0 + math.sin(2.0), [3.0 + math.cos(2.0), 2.0])


@needs_cc
def test_a_fast_program_is_as_close_in_c(tmp_path):
    """Its steps are the fast ones, with libm's functions: a few roundings from the function itself."""
    f = lambda x, y: mingrad.exp(-(x**2.0)) / 3.0 + sum([x * y, x, y, x**0.5])
    fast = mingrad.compile(f, fast=True)
    fast(0.5, 0.75)
    (program,) = fast.programs
    library = compiled(tmp_path, program.to_c("f"))
    (first, second), gx, _ = run_c(library, program, "f", [0.5, 0.75])
    assert first == second and first[0] == 0
    value, slopes = mingrad.value_and_grad(f, (0, 1))(0.5, 0.75)
    # 10 operations of half a unit each, none of which magnifies an error
    assert [float.fromhex(first[1]), *gx] == pytest.approx([value, *slopes], rel=10 * 2**-53)
    _, gradient = in_python(program, "f")
    assert gradient([0.5, 0.75]) == (float.fromhex(first[1]), gx)
