"""A Black-Scholes price and its 5 first Greeks for many rows at once, float64.

A row is S, K, r, sigma and T of an option; each is a column, an array of its own, and so are the
price and its derivatives by these. All forms compute on one thread, but for the one that says two.
They differ in what does the loop over the rows: mingrad's vmap, whole arrays, a compiler, or C. Not
a workload: recorded.py runs it.
"""

import functools
import itertools
import os
import random

from derivatives_models import CHECK, black_scholes
from timing import Case, Form, Missing

SIZES = (100_000, 1_000_000)
MINGRAD, TWO, C = "mingrad, vmap", "mingrad, vmap, 2 threads", "C by hand, -O3, libm"
NUMPY, JAX, TORCH, CASADI = ("NumPy by hand", "JAX, jit of vmap of grad", "PyTorch, whole columns", "CasADi, map")
PEERS = (NUMPY, JAX, TORCH, CASADI)
# S, K, r, sigma, T: prices that all formulas can tell from 0 to ten digits
RANGES = ((90.0, 110.0), (90.0, 110.0), (0.0, 0.05), (0.15, 0.4), (0.5, 2.0))


def case(rows):
    return f"Black-Scholes, price and 5 first Greeks, {rows:,} rows"


def columns(rows):
    """The five columns, lists of floats."""
    draw = random.Random(1)
    return [[low + (high - low) * draw.random() for _ in range(rows)] for low, high in RANGES]


def cases(array, make):
    """The cases of a form. array: makes of a list what the form works with; make(*columns): what is
    called without arguments and gives the price's and the Greeks' columns."""
    # when a case is first asked for: a million rows are a second's work
    made = {rows: functools.cache(lambda rows=rows: make(*map(array, columns(rows)))) for rows in SIZES}

    def run(n, rows):
        call = made[rows]()
        for _ in itertools.repeat(None, n):
            call()

    def check(n, rows):
        """Some of the rows, and the sum of each column."""
        found = []
        for column in made[rows]()():
            found += [float(x) for x in column[:: rows // 100]] + [float(column.sum())]
        return found

    return {
        case(rows) + what: Case(functools.partial(f, rows=rows)) for rows in SIZES for what, f in (("", run), (CHECK, check))
    }


def mingrad(threads=1):
    import numpy as np

    import mingrad

    def price(*option):
        return black_scholes(option, log=mingrad.log, sqrt=mingrad.sqrt, exp=mingrad.exp, erf=mingrad.erf)

    f = mingrad.vmap(price, grad="rows", threads=threads)

    def make(*option):
        def call():
            value, gradient = f(*option)
            return value, *gradient

        return call

    return cases(np.array, make)


def numpy():
    import numpy as np

    try:
        from scipy.special import ndtr
    except ImportError:
        raise Missing("NumPy has no normal distribution function; SciPy is not installed") from None

    def make(S, K, r, sigma, T):
        def call():
            root = np.sqrt(T)
            spread = sigma * root
            d1 = (np.log(S / K) + (r + 0.5 * sigma * sigma) * T) / spread
            n1, n2 = ndtr(d1), ndtr(d1 - spread)
            discount = np.exp(-r * T)
            owed = K * discount * n2
            share = S * np.exp(-0.5 * d1 * d1) / np.sqrt(2.0 * np.pi)
            return (S * n1 - owed, n1, -discount * n2, T * owed, share * root, share * sigma / (2.0 * root) + r * owed)

        return call

    return cases(np.array, make)


def jax():
    os.environ["NPROC"] = "1"  # threads of XLA
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")

    def price(*option):
        return black_scholes(option, log=jnp.log, sqrt=jnp.sqrt, exp=jnp.exp, cdf=jax.scipy.stats.norm.cdf)

    f = jax.jit(jax.vmap(jax.value_and_grad(price, argnums=tuple(range(5)))))

    def make(*option):
        def call():
            value, gradient = jax.block_until_ready(f(*option))
            return value, *gradient

        return call

    return cases(jnp.array, make)


def torch():
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)

    def make(*option):
        for column in option:
            column.requires_grad_()

        def call():
            value = black_scholes(option, log=torch.log, sqrt=torch.sqrt, exp=torch.exp, cdf=torch.special.ndtr)
            return value.detach(), *torch.autograd.grad(value.sum(), option)

        return call

    return cases(torch.tensor, make)


def casadi():
    import casadi
    import numpy as np

    option = casadi.SX.sym("option", 5)
    price = black_scholes(casadi.vertsplit(option), log=casadi.log, sqrt=casadi.sqrt, exp=casadi.exp, erf=casadi.erf)
    one = casadi.Function("one", [option], [price, casadi.jacobian(price, option).T])

    def make(*option):
        table, mapped = casadi.DM(np.array(option)), one.map(len(option[0]))

        def call():
            value, gradient = mapped(table)
            return np.vstack((value.full(), gradient.full()))

        return call

    return cases(np.array, make)


def c(name):
    import ctypes

    import numpy as np
    from native import library

    by_hand = getattr(library("recorded_rows"), name)

    def make(*option):
        results = [np.empty(len(option[0])) for _ in range(6)]

        def pointers(columns):
            return (ctypes.c_void_p * len(columns))(*(column.ctypes.data for column in columns))

        arguments = pointers(option), pointers(results), ctypes.c_long(len(option[0]))

        def call(kept=option):
            by_hand(*arguments)
            return results

        return call

    return cases(np.array, make)


FORMS = {
    MINGRAD: Form(mingrad),
    TWO: Form(lambda: mingrad(threads=2)),
    C: Form(lambda: c("greeks_by_sweeps")),
    C + ", closed form": Form(lambda: c("greeks_in_closed_form")),
    NUMPY: Form(numpy),
    JAX: Form(jax),
    TORCH: Form(torch),
    CASADI: Form(casadi),
}
