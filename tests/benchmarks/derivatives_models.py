"""The functions that derivatives.py differentiates and where, derivatives by hand, and how a tool's
cases are made of them.

Not a workload. Each function is there for numbers one at a time, which is how mingrad, XAD and
floats take it, and, where it matters, for whole arrays, which is how the others take it.
"""

import functools
import itertools
import math
import random
from typing import NamedTuple

from timing import Case

SIZES, CHAIN = (10, 100, 1000), 400
STRIKE = (100.0, 110.0, 0.05, 0.2, 1.5)  # S, K, r, sigma, T
STEPS, DT = 200, 0.1
POPULATIONS = (10.0, 5.0)  # prey and predators at the start; known to the fit
TRUE, GUESS = (1.1, 0.4, 0.4, 0.1), (0.9, 0.3, 0.5, 0.12)
FIRST, CHECK, KNOWN = ", first call", ", check", "the cases that it knows"


class Job(NamedTuple):
    """One figure: what kind of derivative of which function, and the arguments, lists of floats."""

    case: str
    function: str
    kind: str
    arguments: tuple


def numbers(count, seed):
    draw = random.Random(seed)
    return [draw.uniform(-1.5, 1.5) for _ in range(count)]


GRADIENT = {n: f"Rosenbrock-{n}: gradient" for n in SIZES}
HESSIAN = {n: f"Rosenbrock-{n}: Hessian" for n in SIZES}
BOTH = "Rosenbrock-1000: value and gradient"
PRODUCT = "Rosenbrock-100: Hessian times vector"
PRICE = "Black-Scholes: price, 5 first Greeks"
GREEKS = "Black-Scholes: price, 5 first and 25 second Greeks"
CURVE = "Lotka-Volterra: value and gradient"
FIT = "Lotka-Volterra: the fit by L-BFGS"
LINKS = f"chain of {CHAIN}: Hessian"
JOBS = (
    *(Job(GRADIENT[n], "rosenbrock", "gradient", (numbers(n, n),)) for n in SIZES),
    *(Job(HESSIAN[n], "rosenbrock", "hessian", (numbers(n, n),)) for n in SIZES),
    Job(BOTH, "rosenbrock", "both", (numbers(1000, 1000),)),
    Job(PRODUCT, "rosenbrock", "product", (numbers(100, 100), numbers(100, 1))),
    Job(PRICE, "black_scholes", "both", (list(STRIKE),)),
    Job(GREEKS, "black_scholes", "greeks", (list(STRIKE),)),
    Job(CURVE, "lotka_volterra", "both", (list(GUESS),)),
    Job(FIT, "lotka_volterra", "fit", (list(GUESS),)),
    Job(LINKS, "chain", "hessian", (numbers(CHAIN, CHAIN),)),
)


# number by number


def rosenbrock(x):
    return sum(100.0 * (b - a**2) ** 2 + (1.0 - a) ** 2 for a, b in itertools.pairwise(x))


def chain(x, sin=math.sin):
    return sum((a - b) ** 4 + sin(a * b) for a, b in itertools.pairwise(x))


def black_scholes(p, log=math.log, sqrt=math.sqrt, exp=math.exp, erf=math.erf, cdf=None):
    """The price of a European call. cdf: of the normal distribution, where a tool has its own."""
    S, K, r, sigma, T = p
    cdf = cdf or (lambda x: 0.5 * (1.0 + erf(x / math.sqrt(2.0))))
    spread = sigma * sqrt(T)
    d1 = (log(S / K) + (r + 0.5 * sigma * sigma) * T) / spread
    return S * cdf(d1) - K * exp(-r * T) * cdf(d1 - spread)


def populations(p, steps=STEPS):
    """Prey and predators after each step of the classical Runge-Kutta method."""
    a, b, c, d = p

    def slope(x, y):
        return x * (a - b * y), y * (d * x - c)

    x, y = POPULATIONS
    for _ in range(steps):
        x1, y1 = slope(x, y)
        x2, y2 = slope(x + DT / 2 * x1, y + DT / 2 * y1)
        x3, y3 = slope(x + DT / 2 * x2, y + DT / 2 * y2)
        x4, y4 = slope(x + DT * x3, y + DT * y3)
        x = x + DT / 6 * (x1 + 2.0 * x2 + 2.0 * x3 + x4)
        y = y + DT / 6 * (y1 + 2.0 * y2 + 2.0 * y3 + y4)
        yield x, y


def observed():
    """What the fit is to: the curves of the true parameters with noise."""
    draw = random.Random(4)
    return [(x + draw.gauss(0.0, 0.3), y + draw.gauss(0.0, 0.3)) for x, y in populations(TRUE)]


OBSERVED = observed()


def lotka_volterra(p):
    """The sum of the squares of 400 errors."""
    return sum((x - u) ** 2 + (y - v) ** 2 for (x, y), (u, v) in zip(populations(p), OBSERVED))


# whole arrays; any kind with slices


def rosenbrock_terms(x):
    return 100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2


def chain_terms(x, sin):
    return (x[:-1] - x[1:]) ** 4 + sin(x[:-1] * x[1:])


def runge_kutta(slope, u):
    """One step; u is a pair of populations as an array, slope(u) its rate of change."""
    k1 = slope(u)
    k2 = slope(u + DT / 2 * k1)
    k3 = slope(u + DT / 2 * k2)
    k4 = slope(u + DT * k3)
    return u + DT / 6 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


# by hand


def closed_form(p, second=True):
    """Price and gradient of black_scholes, and if second the Hessian, without any tool."""
    S, K, r, sigma, T = p
    root = math.sqrt(T)
    spread = sigma * root
    d1 = (math.log(S / K) + (r + 0.5 * sigma * sigma) * T) / spread
    d2 = d1 - spread
    n1 = 0.5 * (1.0 + math.erf(d1 / math.sqrt(2.0)))
    n2 = 0.5 * (1.0 + math.erf(d2 / math.sqrt(2.0)))
    D = math.exp(-r * T)
    share = S * math.exp(-0.5 * d1 * d1) / math.sqrt(2.0 * math.pi)  # also K * D * density at d2
    price, owed = S * n1 - K * D * n2, K * D * n2
    gradient = [n1, -D * n2, T * owed, share * root, share * sigma / (2.0 * root) + r * owed]
    if not second:
        return price, gradient
    d1_T = (r + 0.5 * sigma * sigma) / spread - d1 / (2.0 * T)
    d2_T = d1_T - sigma / (2.0 * root)
    SS, SK, KK = (share / (S * S * spread), -share / (S * K * spread), share / (K * K * spread))
    Sr, Ss, ST = share * root / (sigma * S), -share * d2 / (sigma * S), share * d1_T / S
    Kr, Ks = T * D * n2 - share * root / (sigma * K), share * d1 / (sigma * K)
    KT = r * D * n2 - share * d2_T / K
    rr, rs = T * (share * root / sigma - T * owed), -T * share * d1 / sigma
    rT = owed - r * T * owed + T * share * d2_T
    ss, sT = share * root * d1 * d2 / sigma, share * (0.5 / root - root * d1 * d1_T)
    TT = -0.5 * share * sigma / root * (d1 * d1_T + 0.5 / T) + r * (share * d2_T - r * owed)
    return (
        price,
        gradient,
        [[SS, SK, Sr, Ss, ST], [SK, KK, Kr, Ks, KT], [Sr, Kr, rr, rs, rT], [Ss, Ks, rs, ss, sT], [ST, KT, rT, sT, TT]],
    )


def central_differences(f, p):
    """Value and gradient, the latter from two calls of f for each parameter."""
    gradient = []
    for i, x in enumerate(p):
        step = 6e-6 * max(abs(x), 1.0)  # the cube root of the rounding unit
        above, below = list(p), list(p)
        above[i], below[i] = x + step, x - step
        gradient.append((f(above) - f(below)) / (above[i] - below[i]))
    return f(p), gradient


# a form's cases


def flat(result):
    """A result of any tool as a flat list of floats. Of matrices larger than that of the Greeks,
    which have three diagonals, only these, and the sum of all absolute values."""
    if hasattr(result, "full"):  # CasADi's
        result = result.full()
    if hasattr(result, "tolist"):
        result = result.tolist()
    if not isinstance(result, (list, tuple)):
        return [float(result)]
    n = len(result)
    if n > 5 and isinstance(result[0], (list, tuple)) and len(result[0]) == n:
        diagonals = [result[i][j] for i in range(n) for j in range(max(0, i - 1), min(n, i + 2))]
        return diagonals + [sum(abs(value) for row in result for value in row)]
    return [value for part in result for value in flat(part)]


def cases(functions, kinds, array=list, read=flat, compiled=False, clear=None, without=()):
    """The cases of a tool that works with arrays made by array.

    functions: the functions of the models that it has, by name. kinds: what it can do, {kind of
    job: make}; make(function, *arguments) gives what is called with the arguments, and is timed
    with its first call if compiled, after clear().
    """
    found = {}
    for job in JOBS:
        if job.function not in functions or job.kind not in kinds or job.case in without:
            continue
        arguments = tuple(map(array, job.arguments))
        make = functools.partial(kinds[job.kind], functions[job.function], *arguments)
        found |= _cases(job.case, make, arguments, read, compiled, clear)
    return {**found, KNOWN: Case(lambda n: list(found))}


def _cases(name, make, arguments, read, compiled, clear):
    made = functools.cache(make)  # when it is first asked for

    def run(n):
        call = made()
        for _ in itertools.repeat(None, n):
            call(*arguments)

    def first(n):
        make()(*arguments)

    found = {name: Case(run), name + CHECK: Case(lambda n: read(made()(*arguments)))}
    return {**found, name + FIRST: Case(first, clear)} if compiled else found
