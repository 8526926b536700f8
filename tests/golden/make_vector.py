"""Make csrc/vector_tables.h: polynomials and split constants of the vector functions, by mpmath.

Every polynomial is the best one in the sense of Chebyshev (its weighted error reaches the same
height, with changing sign, once more than it has coefficients), found by Remez' exchange on a grid
of Chebyshev points with BITS bits. Its coefficients are rounded to doubles one after the other, the
lowest first, and those not yet rounded are fitted anew each time, so that rounding costs next to
nothing. Run `python make_vector.py` (mpmath 1.3 or later, half a minute) to write the header anew;
`--check` only compares. The formulas that use the tables are in csrc/vector.c.
"""

import argparse
import pathlib
import sys

import mpmath
from mpmath import mp, mpf

OUT = pathlib.Path(__file__).parents[2] / "csrc" / "vector_tables.h"
HEAD = """\
/* vector_tables.h: polynomials and constants of vector.c. Made by tests/golden/make_vector.py with
 * mpmath; change that file, not this one. Errors are of the whole function in the polynomial's range,
 * relative to its true value, before any rounding in the evaluation: 2**-53 is half an ulp. */
"""
BITS = 250
POINTS = 14  # of the grid, per coefficient


# -- Remez' exchange -------------------------------------------------------------------------------


def peaks(errors, count):
    """Places of `count` extremes of alternating sign, the largest there are."""
    found = []
    for i, e in enumerate(errors):
        if found and (errors[found[-1]] > 0) == (e > 0):
            if abs(e) > abs(errors[found[-1]]):
                found[-1] = i
        else:
            found.append(i)
    while len(found) > count:
        if len(found) == count + 1:
            del found[0 if abs(errors[found[0]]) < abs(errors[found[-1]]) else -1]
        else:
            pairs = range(len(found) - 1)
            k = min(pairs, key=lambda j: max(abs(errors[found[j]]), abs(errors[found[j + 1]])))
            del found[k : k + 2]
    return found


def exchange(columns, values, weights):
    """Coefficients c with the least max |weights * (values - sum c * columns)|; that maximum."""
    count, last = len(columns), len(values) - 1
    places = [round(i * last / count) for i in range(count + 1)]
    best = None
    for _ in range(60):
        system = mpmath.matrix(count + 1, count + 1)
        right = mpmath.matrix(count + 1, 1)
        for i, place in enumerate(places):
            for k in range(count):
                system[i, k] = columns[k][place]
            system[i, count] = (-1) ** i / weights[place]
            right[i] = values[place]
        solution = mpmath.lu_solve(system, right)
        c, level = list(solution)[:count], abs(solution[count])
        errors = [w * (v - mpmath.fdot(c, row)) for w, v, row in zip(weights, values, zip(*columns))]
        top = max(abs(e) for e in errors)
        if best is None or top < best[1]:
            best = c, top
        places = peaks(errors, count + 1)
        if top <= level * mpf("1.01") or len(places) < count + 1:
            break
    return best


def grid(low, high, n):
    """n Chebyshev points from low to high, neither included."""
    low, high = mpf(low), mpf(high)
    return [(low + high) / 2 - (high - low) / 2 * mpmath.cos(mp.pi * (i + mpf(1) / 2) / n) for i in range(n)]


def polynomial(function, variable, weight, low, high, count):
    """`count` doubles c with function(x) about sum c[k] * variable(x)**k, and log2 of the error
    |weight * difference| that they leave on low < x < high."""
    xs = grid(low, high, POINTS * (count + 1))
    powers = [[variable(x) ** k for x in xs] for k in range(count)]
    weights = [weight(x) for x in xs]
    rest = [function(x) for x in xs]
    rounded = []
    for k in range(count):
        c = float(exchange(powers[k:], rest, weights)[0][0])
        rounded.append(c)
        rest = [r - mpf(c) * p for r, p in zip(rest, powers[k])]
    return rounded, logarithm(weights, rest)


def quotient(function, variable, weight, low, high, above, below):
    """The same for sum p[k] * t**k / (1 + sum q[k] * t**(k + 1)): p, q and log2 of the error.
    Linear fits of function * denominator, weighted with the last fit's denominator, lead there."""
    xs = grid(low, high, POINTS * (above + below + 1))
    ts = [variable(x) for x in xs]
    values = [function(x) for x in xs]
    weights = [weight(x) for x in xs]
    columns = [[t**k for t in ts] for k in range(above)]
    columns += [[-v * t ** (k + 1) for v, t in zip(values, ts)] for k in range(below)]
    denominator = [mpf(1)] * len(xs)
    for _ in range(8):
        scaled = [w / d for w, d in zip(weights, denominator)]
        c = exchange(columns, values, scaled)[0]
        denominator = [1 + sum(q * t ** (k + 1) for k, q in enumerate(c[above:])) for t in ts]
    p, q = [float(x) for x in c[:above]], [float(x) for x in c[above:]]
    rest = [
        v - sum(mpf(x) * t**k for k, x in enumerate(p)) / (1 + sum(mpf(x) * t ** (k + 1) for k, x in enumerate(q)))
        for v, t in zip(values, ts)
    ]
    return p, q, logarithm(weights, rest)


def logarithm(weights, rest):
    return float(mpmath.log(max(abs(w * r) for w, r in zip(weights, rest)), 2))


# -- the tables ------------------------------------------------------------------------------------


def leading(x, bits):
    """x cut to its leading bits, as a double."""
    exponent = int(mpmath.floor(mpmath.log(abs(x), 2))) + 1
    return float(mpmath.ldexp(int(mpmath.ldexp(x, bits - exponent)), exponent - bits))


def square(x):
    return x * x


def scaled_erfc(x):
    return mpmath.erfc(x) * mpmath.exp(x * x) * (1 + 2 * x)


def tables():
    """The header's text, line by line."""
    half_ln2 = mpmath.log(2) / 2 * mpf("1.0001")
    largest_s = mpf("1.0001") * (mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1)
    eighth = mp.pi / 4 * mpf("1.0001")
    tiny = mpf("1e-12")

    def table(name, about, c, error):
        yield f"/* {about}: {len(c)} terms, error 2**{error:.1f} */"
        yield f"static const double {name}[{len(c)}] = {{"
        for i in range(0, len(c), 4):
            yield "    " + ", ".join(x.hex() for x in c[i : i + 4]) + ","
        yield "};"

    def fit(name, about, *arguments):
        return table(name, about, *polynomial(*arguments))

    def constants(*pairs):
        for name, value, about in pairs:
            text = f"#define {name} {value.hex()}"
            yield text + (f" /* {about} */" if about else "")

    ln2, half_pi = mpmath.log(2), mp.pi / 2
    yield HEAD.rstrip()
    yield "#ifndef MINGRAD_VECTOR_TABLES_H"
    yield "#define MINGRAD_VECTOR_TABLES_H"
    yield ""
    ln2_high = leading(ln2, 42)
    yield from constants(
        ("V_INV_LN2", float(1 / ln2), ""),
        ("V_LN2_HIGH", ln2_high, "42 bits: exact times n <= 2**11"),
        ("V_LN2_LOW", float(ln2 - ln2_high), ""),
        ("V_LN2_HALF", leading(ln2, 26), "26 bits"),
        ("V_LN2_REST", float(ln2 - leading(ln2, 26)), ""),
    )
    first = leading(half_pi, 39)
    second = leading(half_pi - first, 39)
    yield from constants(
        ("V_TWO_PI", float(2 / mp.pi), "2 / pi"),
        ("V_PI_2_A", first, "pi/2 in three parts, two of 39 bits: exact times n <= 2**14"),
        ("V_PI_2_B", second, ""),
        ("V_PI_2_C", float(half_pi - first - second), ""),
    )
    inv_ln2, log10_2, inv_ln10 = 1 / ln2, mpmath.log10(2), 1 / mpmath.log(10)
    yield from constants(
        ("V_INV_LN2_A", leading(inv_ln2, 26), "1/ln(2) and 1/ln(10) as 26 bits and the rest"),
        ("V_INV_LN2_B", float(inv_ln2 - leading(inv_ln2, 26)), ""),
        ("V_INV_LN10_A", leading(inv_ln10, 26), ""),
        ("V_INV_LN10_B", float(inv_ln10 - leading(inv_ln10, 26)), ""),
        ("V_LOG10_2_A", leading(log10_2, 42), ""),
        ("V_LOG10_2_B", float(log10_2 - leading(log10_2, 42)), ""),
    )
    root2, pdf, third = mpmath.sqrt(2), 1 / mpmath.sqrt(2 * mp.pi), mpf(1) / 3
    yield from constants(
        ("V_SQRT2_A", leading(root2, 26), "sqrt(2), 1/sqrt(2*pi) and 1/3 as 26 bits and the rest"),
        ("V_SQRT2_B", float(root2 - leading(root2, 26)), ""),
        ("V_PDF_A", leading(pdf, 26), ""),
        ("V_PDF_B", float(pdf - leading(pdf, 26)), ""),
        ("V_THIRD_A", leading(third, 26), ""),
        ("V_THIRD_B", float(third - leading(third, 26)), ""),
        ("V_SQRT1_2", float(1 / root2), ""),
        ("V_CBRT2", float(mpmath.cbrt(2)), ""),
        ("V_CBRT4", float(mpmath.cbrt(4)), ""),
    )
    yield ""
    yield from fit(
        "v_exp",
        "(e**r - 1 - r) / r**2 in r, |r| < ln(2)/2",
        lambda r: (mpmath.expm1(r) - r) / r**2,
        lambda r: r,
        lambda r: r**2 / mpmath.exp(r),
        -half_ln2,
        half_ln2,
        10,
    )
    yield from fit(
        "v_log",
        "(log((1 + s) / (1 - s)) / s - 2) / z in z = s*s, |s| < 3 - 2*sqrt(2)",
        lambda s: (2 * mpmath.atanh(s) / s - 2) / s**2,
        square,
        lambda s: s**3 / (2 * mpmath.atanh(s)),
        tiny,
        largest_s,
        7,
    )
    yield from fit(
        "v_log_rest",
        "((atanh(s) / s - 1) / z - 1/3) / z in z = s*s, same range (pow)",
        lambda s: ((mpmath.atanh(s) / s - 1) / s**2 - mpf(1) / 3) / s**2,
        square,
        lambda s: s**4,
        mpf("1e-6"),
        largest_s,
        8,
    )
    yield from fit(
        "v_sin",
        "(sin(r) - r) / r**3 in z = r*r, |r| < pi/4",
        lambda r: (mpmath.sin(r) - r) / r**3,
        square,
        lambda r: r**3 / mpmath.sin(r),
        tiny,
        eighth,
        6,
    )
    yield from fit(
        "v_cos",
        "(cos(r) - 1 + z/2) / z**2 in z = r*r, |r| < pi/4",
        lambda r: (mpmath.cos(r) - 1 + r**2 / 2) / r**4,
        square,
        lambda r: r**4 / mpmath.cos(r),
        mpf("1e-8"),
        eighth,
        6,
    )
    p, q, error = quotient(
        lambda x: (mpmath.tanh(x) - x) / x**3, square, lambda x: x**3 / mpmath.tanh(x), tiny, mpf("0.626"), 3, 3
    )
    about = "of P(z) / (1 + z*Q(z)) for (tanh(x) - x) / x**3, z = x*x, |x| < 0.625"
    yield from table("v_tanh_above", "P " + about, p, error)
    yield from table("v_tanh_below", "Q " + about, q, error)
    yield from fit(
        "v_sinh",
        "(sinh(x) - x) / x**3 in z = x*x, |x| < 1",
        lambda x: (mpmath.sinh(x) - x) / x**3,
        square,
        lambda x: x**3 / mpmath.sinh(x),
        tiny,
        1,
        7,
    )
    yield from fit(
        "v_erf_small",
        "erf(x) / x - 1 in z = x*x, |x| < 1",
        lambda x: mpmath.erf(x) / x - 1,
        square,
        lambda x: x / mpmath.erf(x),
        tiny,
        1,
        12,
    )
    yield from fit(
        "v_erf_large",
        "erfc(x) * exp(x*x) * (1 + 2*x) in q = (x - 3) / (x + 3), 1 < x < 6; error of erf",
        scaled_erfc,
        lambda x: (x - 3) / (x + 3),
        lambda x: mpmath.exp(-x * x) / (1 + 2 * x),
        1,
        mpf("5.95"),
        12,
    )
    yield from fit(
        "v_erfc",
        "(erfc(x) * exp(x*x) * (1 + 2*x) - 1) / w in 2*w - 1, w = x / (x + 3.75), 0 < x < 28",
        lambda x: (scaled_erfc(x) - 1) * (x + mpf("3.75")) / x,
        lambda x: (x - mpf("3.75")) / (x + mpf("3.75")),
        lambda x: x / (x + mpf("3.75")) / scaled_erfc(x),
        tiny,
        28,
        23,
    )
    yield from fit(
        "v_cbrt",
        "cbrt(x) in x - 1, 1 < x < 2, to begin with",
        mpmath.cbrt,
        lambda x: x - 1,
        lambda x: 1 / mpmath.cbrt(x),
        1,
        2,
        8,
    )
    yield ""
    yield "#endif"


def main():
    parser = argparse.ArgumentParser(description="Make csrc/vector_tables.h.")
    parser.add_argument("--check", action="store_true", help="compare with the file, write nothing")
    check = parser.parse_args().check
    mp.prec = BITS
    text = "\n".join(tables()) + "\n"
    if not check:
        OUT.write_text(text, encoding="utf-8")
    elif OUT.read_text(encoding="utf-8") != text:
        sys.exit(f"{OUT.name} is not what make_vector.py makes")


if __name__ == "__main__":
    main()
