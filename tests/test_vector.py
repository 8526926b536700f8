"""Vector functions (csrc/vector.h): errors, special values, bits that depend on the operand only.

The oracle for values is mpmath, for special values C99's Annex F as written here. What the ops
compute one by one is not tested here, nor how fast anything is: tests/benchmarks/vectors.py, which
also looks for the largest errors among millions of operands; those that it met are points here.
"""

import contextlib
import importlib.util
import itertools
import math
import pathlib
import random
import re
import struct
from array import array

import mpmath
import pytest
from mpmath import mp, mpf

from helpers import assert_same_bits, same_bits
from mingrad import _core

INF, NAN = math.inf, math.nan
TINY, SMALLEST, LARGEST = 5e-324, 2.0**-1022, 1.7976931348623157e308
HERE = pathlib.Path(__file__).parent
LEVELS = ["base", "avx2"] if _core._simd() == "avx2" else ["base"]


def call(name, x, y=None, into=None, repeat=1):
    """The vector function `name` of the floats x (and y); into 0 or 1: in that operand's array."""
    operands = [bytearray(array("d", xs).tobytes()) for xs in (x, x if y is None else y)]
    result = bytearray(len(operands[0])) if into is None else operands[into]
    _core._vector(name.encode(), result, *operands, repeat)
    return array("d", bytes(result)).tolist()


@contextlib.contextmanager
def simd(level):
    before = _core._simd()
    _core._simd(level)
    try:
        yield
    finally:
        _core._simd(before)


# -- true values -----------------------------------------------------------------------------------


# name: the function in exact arithmetic; ranges to draw from, the first that in which values are
# finite and differ from 0 and 1; the bound in ulp. Bounds: where the last rounding (half an ulp)
# follows on errors that are small beside it, 0.9; where it is one of three (two parts and their sum
# or quotient), 1.6. sqrt is the processor's. cbrt: half an ulp and a third of the quotient's half.
FUNCTIONS = {
    "exp": (mpmath.exp, [(-745.2, 709.8), (-1, 1), (-0.36, 0.36)], 0.9),
    "exp2": (lambda x: mpf(2) ** x, [(-1075, 1024), (-1, 1), (-20, 20)], 0.9),
    "expm1": (mpmath.expm1, [(-50, 709.8), (-1, 1), (0.3, 0.4)], 1.6),
    "log": (mpmath.log, [(0, LARGEST), (0.5, 2), (0.9, 1.1)], 0.9),
    "log2": (lambda x: mpmath.log(x) / mpmath.log(2), [(0, LARGEST), (0.5, 2), (0.9, 1.1)], 0.9),
    "log10": (lambda x: mpmath.log(x) / mpmath.log(10), [(0, LARGEST), (0.5, 2), (0.9, 1.1)], 0.9),
    "log1p": (mpmath.log1p, [(-1, LARGEST), (-0.5, 1), (-0.1, 0.1)], 0.9),
    "sqrt": (mpmath.sqrt, [(0, LARGEST), (0.5, 2)], 0.5),
    "cbrt": (lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)), [(-8e307, 8e307), (0.5, 2), (-8, 8)], 0.667),
    "sin": (mpmath.sin, [(-25735, 25735), (-4, 4), (-0.8, 0.8)], 0.9),
    "cos": (mpmath.cos, [(-25735, 25735), (-4, 4), (-0.8, 0.8)], 0.9),
    "tan": (mpmath.tan, [(-25735, 25735), (-4, 4), (-0.8, 0.8)], 1.2),
    "sinh": (mpmath.sinh, [(-710.4, 710.4), (-1.5, 1.5), (0.9, 1.1)], 1.6),
    "cosh": (mpmath.cosh, [(-710.4, 710.4), (-1.5, 1.5), (-0.5, 0.5)], 1.6),
    "tanh": (mpmath.tanh, [(-20, 20), (-1, 1), (0.6, 0.7)], 1.6),
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), [(-745, 40), (-5, 5), (-1, 1)], 1.6),
    "softplus": (lambda x: mpmath.log1p(mpmath.exp(x)), [(-745, 50), (-5, 5), (-2, 1)], 1.6),
    "erf": (mpmath.erf, [(-6, 6), (-1.2, 1.2), (0.9, 1.1)], 1.6),
    "erfc": (mpmath.erfc, [(-6, 27.2), (-1.2, 1.2), (20, 24)], 1.6),
    "gauss": (lambda x: mpmath.exp(-x * x), [(-27.2, 27.2), (-1.2, 1.2), (1, 5)], 0.9),
    "normal_cdf": (lambda x: mpmath.erfc(-x / mpmath.sqrt(2)) / 2, [(-38.4, 9), (-2, 2), (-2, -1)], 1.6),
    "normal_pdf": (lambda x: mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mp.pi), [(-38.4, 38.4), (-1, 1)], 0.9),
}
POW_BOUND = 0.9
# Where tests/benchmarks/vectors.py has met the largest errors in some million operands.
WORST = {
    "exp": [-708.8023046150528],
    "exp2": [-1022.0822942392264],
    "expm1": [0.3469961703273606],
    "log": [1.4088235904364315],
    "log2": [1.391103884545952],
    "log10": [1.3234871655594682],
    "log1p": [0.40880282213217556],
    "cbrt": [1.21958402572486],
    "sin": [22610.822794925924, 22486.73481623241],
    "cos": [-0.7969507594435932],
    "tan": [-16170.549818307996, 24882.199214594493],
    "sinh": [1.0286733447739866],
    "cosh": [-0.8790425154296543],
    "tanh": [0.6303531149667193],
    "sigmoid": [-4.1573535725635224],
    "softplus": [-1.2758697974087745],
    "erf": [0.9883205891180401, 0.9821255918175108],
    "erfc": [1.0881897179629363],
    "gauss": [-26.62199500701454],
    "normal_cdf": [-1.6398973561275536, -1.8660708855565233],
    "normal_pdf": [-37.61781497920517],
}
WORST_POWERS = [(1.39856272785926, 2057.0904251144675), (1.7419885539258877, -1276.6722502223215)]


def error(exact, value):
    """How far value is from the exact result, in units of the exact result's last place."""
    if abs(exact) > mpf(LARGEST) + mpf(2) ** 970:  # half an ulp beyond: rounds to infinity
        return 0 if value == mpmath.sign(exact) * INF else INF
    if not math.isfinite(value):
        return INF
    unit = mpmath.ldexp(1, max(mpmath.frexp(exact)[1] - 53, -1074))
    return float(abs(exact - mpf(value)) / unit)


def check(name, exact, operands, values, bound):
    """Fail if some value is further from the exact one than bound; the text shows the worst."""
    worst, args, value = max(
        ((error(exact(*map(mpf, args)), value), args, value) for args, value in zip(operands, values)), key=lambda row: row[0]
    )
    at = ", ".join(f"{x!r} ({x.hex()})" for x in args)
    assert worst <= bound, f"{name} at {at}: got {value!r}, {worst:.4g} ulp off, {bound} allowed"


@pytest.fixture(autouse=True)
def precision():
    """True values with 300 bits, to bear the largest angles and exponents."""
    with mpmath.workprec(300):
        yield


def steps(x, count):
    """x and its neighbours, count on each side."""
    found = [x]
    for _ in range(count):
        found = [math.nextafter(found[0], -INF), *found, math.nextafter(found[-1], INF)]
    return found


def points(name, count):
    """Operands with finite values: random ones, range ends, where formulas and exponents change."""
    rng = random.Random(name)
    ranges = FUNCTIONS[name][1]
    low, high = ranges[0]
    xs = [rng.uniform(a, b) for a, b in ranges for _ in range(count)]
    while len(xs) < (len(ranges) + 1) * count:  # any double
        x = struct.unpack("<d", rng.randbytes(8))[0]
        if low <= x <= high:
            xs.append(x)
    edges = [
        TINY,
        3 * TINY,
        1e-310,
        SMALLEST,
        1e-300,
        1e-160,
        1e-20,
        2.0**-54,
        2.0**-53,
        2.0**-27,
        1e-8,
        1e-3,
        0.1,
        0.5,
        0.625,
        math.sqrt(0.5),
        0.75,
        1.0,
        1.25,
        math.sqrt(2),
        1.5,
        2.0,
        3.0,
        3.75,
        4.0,
        6.0,
        8.0,
        20.0,
        22.0,
        37.0,
        100.0,
        700.0,
        709.782712893384,
        710.4758600739439,
        low,
        high,
    ]
    edges += [k * math.log(2) / 2 for k in range(1, 40, 2)]
    edges += [k * math.pi / 4 for k in (*range(1, 40), 16383, 16384, 32767)]
    for edge in edges:
        for x in {abs(edge), -abs(edge)}:
            xs += [v for v in steps(x, 2) if low < v < high and v != 0]
    return xs + WORST.get(name, [])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_within_their_bound(name):
    exact, _, bound = FUNCTIONS[name]
    xs = points(name, 150)
    check(name, exact, [(x,) for x in xs], call(name, xs), bound)


def test_powers_are_within_their_bound():
    rng = random.Random(5)
    pairs = [(rng.uniform(0, 10), rng.uniform(-5, 5)) for _ in range(300)]
    pairs += [(-rng.uniform(0, 100), float(rng.randint(-100, 100))) for _ in range(300)]
    for _ in range(300):  # the largest exponents that leave the result finite
        for base in (
            abs(struct.unpack("<d", rng.randbytes(8))[0]),
            rng.uniform(0.7, 1.42),
            1 + rng.uniform(-0.5, 0.5) * math.exp(rng.uniform(-30, 0)),
        ):
            if 0 < base < INF and base != 1:
                exponent = rng.uniform(-1076, 1076) / math.log2(base)
                pairs.append((base, max(-2e15, min(2e15, exponent))))
    bases = [TINY, 1e-310, SMALLEST, 0.5, math.sqrt(0.5), 1.0, math.sqrt(2), LARGEST]
    exponents = [-2.5, -1.0, -TINY, 1e-300, 0.5, 1.0, 1.0000000000000002, 3.0]
    bases = [x for base in bases for x in steps(base, 1) if 0 < x < INF]
    pairs += itertools.product(bases, exponents)
    pairs += WORST_POWERS
    values = call("pow", *zip(*pairs))
    check("pow", lambda x, y: x**y if x > 0 else (-1) ** int(y) * (-x) ** y, pairs, values, POW_BOUND)


def test_an_error_beyond_the_bound_is_seen():
    xs = [0.1 * i for i in range(1, 40)]
    values = call("exp", xs)
    check("exp", mpmath.exp, [(x,) for x in xs], values, 0.9)
    values[17] = math.nextafter(values[17], INF)
    if error(mpmath.exp(mpf(xs[17])), values[17]) < 0.9:
        values[17] = math.nextafter(values[17], INF)
    text = r"exp at 1\.8\d* \(0x.*\): got .* ulp off, 0\.9 allowed"
    with pytest.raises(AssertionError, match=text):
        check("exp", mpmath.exp, [(x,) for x in xs], values, 0.9)
    assert error(mpf(1), math.nextafter(1.0, 2)) == 1 and error(mpf(TINY), 0.0) == 1
    assert error(mpf(1), NAN) == error(mpf(1), INF) == error(mpf(LARGEST) * 2, LARGEST) == INF
    assert error(mpf(LARGEST) * 2, INF) == 0


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_angles_next_to_multiples_of_a_quarter_turn_keep_their_bound(name):
    """The remainder is tiny there: it takes all the bits that pi/2 has in three parts."""
    rng = random.Random(7)
    multiples = [*range(1, 50), *rng.sample(range(50, 16384), 300), 16383]
    xs = [v for k in multiples for v in steps(float(k * mp.pi / 2), 1)]
    xs = [x for x in xs if x < 25735]
    exact, _, bound = FUNCTIONS[name]
    check(name, exact, [(x,) for x in xs], call(name, xs), bound)


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_large_angles_are_libms(name):
    """Also next to small ones, whose bits do not change."""
    large = [25735.0, 25736.5, -1e5, 1e15, 1e22, -1e300, LARGEST]
    small = [0.1 * i for i in range(93)]
    assert call(name, large) == [getattr(math, name)(x) for x in large]
    mixed = small + large + small
    assert call(name, mixed) == call(name, small) + call(name, large) + call(name, small)
    assert call(name, mixed, into=0) == call(name, mixed)


WHOLE = [float(k) for k in range(-1074, 1024)]


@pytest.mark.parametrize(
    "name, xs, expected",
    [
        ("exp2", WHOLE, [math.ldexp(1, int(k)) for k in WHOLE]),
        ("log2", [math.ldexp(1, int(k)) for k in WHOLE], WHOLE),
        ("log10", [float(10**k) for k in range(23)], [float(k) for k in range(23)]),
        ("sqrt", [float(k * k) for k in range(2000)], [float(k) for k in range(2000)]),
        ("cbrt", [float(k**3) for k in range(-2000, 2000)], [float(k) for k in range(-2000, 2000)]),
    ],
)
def test_exact_results_are_exact(name, xs, expected):
    assert call(name, xs) == expected


def test_exact_powers_are_exact():
    pairs = [(sign * x, float(k)) for x in map(float, range(1, 60)) for k in range(9) for sign in (1, -1, 0.5) if x**k < 2**53]
    assert call("pow", *zip(*pairs)) == [x**k for x, k in pairs]
    squares = [float(k * k) for k in range(1, 500)]
    assert call("pow", squares, [0.5] * len(squares)) == [math.sqrt(x) for x in squares]


@pytest.mark.parametrize("name", ["cbrt", "sin", "tan", "sinh", "tanh", "erf"])
def test_odd_functions_are_odd_to_the_bit(name):
    xs = [abs(x) for x in points(name, 100)]
    for x, plus, minus in zip(xs, call(name, xs), call(name, [-x for x in xs])):
        assert_same_bits(minus, -plus, f"{name} at {x!r}")


# -- special values --------------------------------------------------------------------------------

SPECIAL = {
    "exp": {
        0.0: 1,
        TINY: 1,
        INF: INF,
        -INF: 0,
        709.7827128933841: INF,
        LARGEST: INF,
        -LARGEST: 0,
        -745.1332191019411: TINY,
        -745.1332191019412: 0,
    },
    "exp2": {0.0: 1, TINY: 1, INF: INF, -INF: 0, 1024.0: INF, LARGEST: INF, -LARGEST: 0, -1074.0: TINY, -1075.0: 0},
    "expm1": {
        0.0: 0,
        TINY: TINY,
        -TINY: -TINY,
        INF: INF,
        -INF: -1,
        709.7827128933841: INF,
        LARGEST: INF,
        -LARGEST: -1,
        -40.0: -1,
    },
    "log": {0.0: -INF, 1.0: 0, INF: INF, -1.0: NAN, -TINY: NAN, -INF: NAN},
    "log2": {0.0: -INF, 1.0: 0, INF: INF, -1.0: NAN, -TINY: NAN, -INF: NAN},
    "log10": {0.0: -INF, 1.0: 0, INF: INF, -1.0: NAN, -TINY: NAN, -INF: NAN},
    "log1p": {0.0: 0, TINY: TINY, -TINY: -TINY, INF: INF, -1.0: -INF, -1.0000000000000002: NAN, -INF: NAN},
    "sqrt": {0.0: 0, INF: INF, -1.0: NAN, -TINY: NAN, -INF: NAN},
    "cbrt": {0.0: 0, INF: INF, -INF: -INF},
    "sin": {0.0: 0, TINY: TINY, -TINY: -TINY, INF: NAN, -INF: NAN},
    "cos": {0.0: 1, TINY: 1, INF: NAN, -INF: NAN},
    "tan": {0.0: 0, TINY: TINY, -TINY: -TINY, INF: NAN, -INF: NAN},
    "sinh": {0.0: 0, TINY: TINY, -TINY: -TINY, INF: INF, -INF: -INF, 710.475860073944: INF, -LARGEST: -INF},
    "cosh": {0.0: 1, TINY: 1, INF: INF, -INF: INF, 710.475860073944: INF, -LARGEST: INF},
    "tanh": {0.0: 0, TINY: TINY, -TINY: -TINY, INF: 1, -INF: -1, 22.0: 1, -LARGEST: -1},
    "sigmoid": {0.0: 0.5, INF: 1, -INF: 0, 40.0: 1, LARGEST: 1, -LARGEST: 0, -746.0: 0, -745.1332191019411: TINY},
    "softplus": {0.0: 0.6931471805599453, INF: INF, -INF: 0, 50.0: 50, LARGEST: LARGEST, -LARGEST: 0, -745.1332191019411: TINY},
    "erf": {0.0: 0, TINY: TINY, -TINY: -TINY, INF: 1, -INF: -1, 6.0: 1, -LARGEST: -1},
    "erfc": {0.0: 1, TINY: 1, INF: 0, -INF: 2, 28.0: 0, LARGEST: 0, -6.0: 2, -LARGEST: 2},
    "gauss": {0.0: 1, TINY: 1, INF: 0, -INF: 0, 28.0: 0, LARGEST: 0, -LARGEST: 0},
    "normal_cdf": {0.0: 0.5, TINY: 0.5, INF: 1, -INF: 0, 9.0: 1, -39.0: 0, LARGEST: 1, -LARGEST: 0},
    "normal_pdf": {0.0: 0.3989422804014327, INF: 0, -INF: 0, 39.0: 0, LARGEST: 0, -LARGEST: 0},
}
# f(-0.0) is -0.0
SIGNED_ZEROS = {"expm1", "log1p", "sqrt", "cbrt", "sin", "tan", "sinh", "tanh", "erf"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, level):
    expected = SPECIAL[name]
    with simd(level):
        values = call(name, expected)
        for x, value in zip(expected, values):
            assert_same_bits(value, expected[x], f"{name} at {x!r}")
        at_zero = -0.0 if name in SIGNED_ZEROS else expected[0.0]
        assert_same_bits(call(name, [-0.0])[0], at_zero, f"{name} at -0.0")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_of_any_kind_gives_nan(name):
    """Payloads too: their bits stand where exponents are made."""
    nans = [
        0x7FF8000000000000,
        0xFFF8000000000000,
        0x7FF8000000000001,
        0xFFF80000000007FF,
        0x7FFFFFFFFFFFFFFF,
        0x7FF0000000000001,
    ]
    buffer = bytearray(struct.pack(f"<{len(nans)}Q", *nans))
    _core._vector(name.encode(), buffer, buffer, buffer, 1)
    assert all(math.isnan(x) for x in struct.unpack(f"<{len(nans)}d", buffer))


def annex_f_pow(x, y):
    """C99 F.9.4.4: 0, infinite and nan operands, nan results; None for the ordinary rest."""
    whole = math.isinf(y) or y == math.floor(y) if not math.isnan(y) else False
    odd = whole and math.isfinite(y) and abs(y) < 2**53 and int(y) % 2 == 1
    if y == 0 or x == 1:
        return 1.0
    if math.isnan(x) or math.isnan(y):
        return NAN
    if math.isinf(y):
        if abs(x) == 1:
            return 1.0
        return INF if (abs(x) > 1) == (y > 0) else 0.0
    if x == 0 or math.isinf(x):
        size = 0.0 if (x == 0) == (y > 0) else INF
        return math.copysign(size, x) if odd else size
    return NAN if x < 0 and not whole else None


@pytest.mark.parametrize("level", LEVELS)
def test_special_powers(level):
    bases = [0.0, TINY, 0.5, 1.0, 1.5, 2.0, LARGEST, INF, NAN]
    exponents = [*bases, 3.0, 2.0**51 - 1, 2.0**51, 2.0**51 + 1, 2.0**52 + 1, 2.0**53 - 1, 2.0**53]
    bases, exponents = ([sign * x for x in xs for sign in (1, -1)] for xs in (bases, exponents))
    pairs = list(itertools.product(bases, exponents))
    with simd(level):
        values = call("pow", *zip(*pairs))
    seen = 0
    for (x, y), value in zip(pairs, values):
        expected = annex_f_pow(x, y)
        if expected is not None:
            assert_same_bits(value, expected, f"pow({x!r}, {y!r})")
            seen += 1
        elif x == -1:
            assert value == (-1 if y % 2 else 1)
        else:  # over- and underflow keep the sign
            negative = x < 0 and y % 2 == 1
            assert math.copysign(1, value) == (-1 if negative else 1), f"pow({x!r}, {y!r})"
    assert seen > 200


# -- the same bits ---------------------------------------------------------------------------------


def everything(name):
    rng = random.Random(name)
    xs = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(2000)] + points(name, 500)
    return xs + [0.0, -0.0, INF, -INF, NAN, TINY, -TINY, LARGEST, -LARGEST]


@pytest.mark.skipif(len(LEVELS) == 1, reason="this processor has no AVX2")
@pytest.mark.parametrize("name", [*FUNCTIONS, "pow"])
def test_base_and_avx2_give_the_same_bits(name):
    xs = everything("exp" if name == "pow" else name)
    ys = [random.Random(3).uniform(-5, 5) for _ in xs]
    results = []
    for level in LEVELS:
        with simd(level):
            results.append(call(name, xs, ys))
    for x, y, base, avx2 in zip(xs, ys, *results):
        assert_same_bits(avx2, base, f"{name} at {x!r}" + (f", {y!r}" if name == "pow" else ""))


@pytest.mark.parametrize("name", [*FUNCTIONS, "pow"])
def test_bits_depend_neither_on_place_nor_on_number(name):
    """Groups of 4, blocks of 64: every remainder of both, with neighbours that go to libm."""
    xs = [0.3 + 0.017 * i for i in range(150)]
    for i in range(0, 150, 41):
        xs[i] = [1e6, INF, NAN, -1e300][i // 41]
    ys = [1.7 - 0.01 * i for i in range(150)]
    whole = call(name, xs, ys)
    for n in [*range(70), 127, 128, 129]:
        for start in (0, 1, 3, 17):
            part = call(name, xs[start : start + n], ys[start : start + n])
            assert all(map(same_bits, part, whole[start : start + n])), (n, start)
    for into in (0, 1) if name == "pow" else (0,):
        assert all(map(same_bits, call(name, xs, ys, into=into), whole)), f"over operand {into}"


# -- the files -------------------------------------------------------------------------------------


def test_every_function_of_the_header_is_tested():
    text = (HERE.parent / "csrc" / "vector.h").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:ONE|ANGLE|TWO)\((\w+)\)", text)) == set(FUNCTIONS) == set(SPECIAL)


def test_the_tables_are_what_their_script_makes():
    """The constants and first polynomials; all of them take the script's --check 15 seconds."""
    spec = importlib.util.spec_from_file_location("make_vector", HERE / "golden" / "make_vector.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    with mpmath.workprec(made.BITS):
        rows = list(itertools.takewhile(lambda row: "v_log_rest" not in row, made.tables()))
    lines = "\n".join(rows).split("\n")
    assert "static const double v_log[7] = {" in lines
    assert made.OUT.read_text(encoding="utf-8").split("\n")[: len(lines)] == lines


def test_wrong_calls_of_the_hook_are_refused():
    with pytest.raises(ValueError, match=r"expected a name of vector\.h and buffers of one size"):
        call("nothing", [1.0])
    with pytest.raises(ValueError, match=r"expected a name of vector\.h and buffers of one size"):
        _core._vector(b"pow", bytearray(8), bytearray(8), bytearray(16), 1)
