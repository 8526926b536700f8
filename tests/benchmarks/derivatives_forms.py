"""The tools of the workload derivatives.py: what each does with the functions of its models.

A form is the shortest that a user of the tool would write who wants it fast. Where a tool cannot do
something, or takes seconds for it, the case is not there.
"""

import functools

import derivatives_models as models
from derivatives_models import CHECK, HESSIAN, JOBS, KNOWN, cases, flat
from timing import Case, Missing

# sharper, and roundings decide how often the function is called
SETTINGS = dict(method="L-BFGS-B", options=dict(ftol=1e-11, gtol=1e-8))


# the fit


def with_fit(kinds, array=None):
    """kinds with the fit by SciPy's L-BFGS-B, if SciPy is there. array: makes what the tool takes
    of SciPy's NumPy arrays; None: it takes them."""
    try:
        from scipy.optimize import minimize
    except ImportError:
        return kinds

    def fit(f, x):
        both = kinds["both"](f, x)

        def converted(p):
            value, gradient = both(array(p))
            return float(value), flat(gradient)

        function = converted if array else both
        return lambda x: fitted(minimize(function, flat(x), jac=True, **SETTINGS))

    return {**kinds, "fit": fit}


def fitted(result):
    """The loss, and how often the function was called. Parameters can agree to half the loss's
    digits only."""
    return result.fun, result.nfev


# number by number


def scalars(math):
    return {
        "rosenbrock": models.rosenbrock,
        "chain": functools.partial(models.chain, sin=math.sin),
        "black_scholes": functools.partial(models.black_scholes, log=math.log, exp=math.exp, sqrt=math.sqrt, erf=math.erf),
        "lotka_volterra": models.lotka_volterra,
    }


def mingrad():
    import mingrad

    def greeks(f, p):
        both, second = mingrad.value_and_grad(f), mingrad.hessian(f)
        return lambda p: (*both(p), second(p))

    return cases(
        scalars(mingrad),
        with_fit(
            {
                "gradient": lambda f, x: mingrad.grad(f),
                "hessian": lambda f, x: mingrad.hessian(f),
                "product": lambda f, x, v: lambda x, v: mingrad.hvp(f, (x,), (v,)),
                "both": lambda f, x: mingrad.value_and_grad(f),
                "greeks": greeks,
            }
        ),
    )


def compiled(array=list, **settings):
    """Recorded at the first call. array: what the arguments are; settings: of compile()."""
    import mingrad

    try:
        mingrad.compile(**settings)
    except TypeError:
        raise Missing(f"mingrad.compile has no {', '.join(settings)}") from None

    def transformed(transform):
        return lambda f, x: transform(mingrad.compile(f, **settings))

    return cases(
        scalars(mingrad),
        with_fit({"gradient": transformed(mingrad.grad), "both": transformed(mingrad.value_and_grad)}),
        array,
        compiled=True,
    )


def compiled_array(**settings):
    import numpy as np

    return compiled(np.array, **settings)


def sparse():
    import mingrad

    def whole(triplets):
        size = max(triplets[0]) + 1
        rows = [[0.0] * size for _ in range(size)]
        for i, j, value in zip(*triplets):
            rows[i][j] = value
        return flat(rows)

    return cases(scalars(mingrad), {"hessian": lambda f, x: mingrad.hessian(f, sparse=True)}, read=whole)


def backward():
    """Variables and backward() as in a training loop; the fit by mingrad's own LBFGS."""
    import mingrad
    from mingrad.optim import LBFGS

    def both(f, x):
        def value_and_gradient(x):
            x = [mingrad.Variable(value) for value in x]
            y = f(x)
            y.backward()
            return y.data, [variable.grad for variable in x]

        return value_and_gradient

    def gradient(f, x):
        value_and_gradient = both(f, x)
        return lambda x: value_and_gradient(x)[1]

    def fit(f, x):
        def train(x):
            x = [mingrad.Variable(value) for value in x]
            optimizer = LBFGS(x, max_iter=100, line_search_fn="strong_wolfe")
            seen = []

            def closure():
                optimizer.zero_grad()
                loss = f(x)
                loss.backward()
                seen.append(loss.data)
                return loss

            optimizer.step(closure)
            return seen[-1], len(seen)

        return train

    return cases(scalars(mingrad), {"gradient": gradient, "both": both, "fit": fit})


def alone():
    """What the function itself costs on Variables that are there."""
    import mingrad

    def value(f, x, *rest):
        x = [mingrad.Variable(value) for value in x]
        return lambda *arguments: f(x).data

    return cases(scalars(mingrad), dict.fromkeys(("gradient", "product", "both"), value))


def xad():
    """Gradients only: the Python package has derivatives of the first order."""
    import xad.adj_1st
    import xad.math

    def both(f, x):
        def value_and_gradient(x):
            with xad.adj_1st.Tape() as tape:  # for each gradient one: see moons.py
                x = [xad.adj_1st.Real(float(value)) for value in x]
                tape.registerInputs(x)
                tape.newRecording()
                y = f(x)
                tape.registerOutput(y)
                y.derivative = 1.0
                tape.computeAdjoints()
                return y.value, [variable.derivative for variable in x]

        return value_and_gradient

    def gradient(f, x):
        value_and_gradient = both(f, x)
        return lambda x: value_and_gradient(x)[1]

    return cases(scalars(xad.math), with_fit({"gradient": gradient, "both": both}))


def hips_scalars():
    """Each number an argument of its own, or every use of one would cost a whole array."""
    import autograd
    import autograd.numpy as np

    def gradient(f, x):
        return autograd.grad(lambda *x: f(x), tuple(range(len(x))))

    # a Hessian of 100 takes seconds this way
    return cases(
        {"rosenbrock": models.rosenbrock},
        {"gradient": lambda f, x: lambda x, g=gradient(f, x): g(*x), "hessian": lambda f, x: autograd.hessian(f)},
        np.array,
        without=(HESSIAN[100], HESSIAN[1000]),
    )


# whole arrays at a time


def hips():
    import autograd
    import autograd.numpy as np
    from autograd.scipy.stats import norm

    def greeks(f, p):
        both, second = autograd.value_and_grad(f), autograd.hessian(f)
        return lambda p: (*both(p), second(p))

    return cases(
        {
            "rosenbrock": lambda x: np.sum(models.rosenbrock_terms(x)),
            "chain": lambda x: np.sum(models.chain_terms(x, np.sin)),
            "black_scholes": functools.partial(models.black_scholes, log=np.log, sqrt=np.sqrt, exp=np.exp, cdf=norm.cdf),
            # no slower than pairs as arrays, which have to be put together
            "lotka_volterra": models.lotka_volterra,
        },
        {
            "gradient": lambda f, x: autograd.grad(f),
            "hessian": lambda f, x: autograd.hessian(f),
            "product": lambda f, x, v: lambda x, v: autograd.make_hvp(f)(x)[0](v),
            "both": lambda f, x: autograd.value_and_grad(f),
            "greeks": greeks,
        },
        np.array,
    )


def torch(transforms):
    """transforms: by torch.func, whose results are functions; otherwise by torch.autograd, which is
    faster for functions as small as these."""
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    observed = torch.tensor(models.OBSERVED)

    def lotka_volterra(p):
        a, b, c, d = p.unbind()
        growth, mixing = torch.stack((a, -c)), torch.stack((-b, d))
        u, found = torch.tensor(models.POPULATIONS), []
        for _ in range(models.STEPS):
            u = models.runge_kutta(lambda u: u * (growth + mixing * u.flip(0)), u)
            found.append(u)
        return ((torch.stack(found) - observed) ** 2).sum()

    found = {
        "rosenbrock": lambda x: models.rosenbrock_terms(x).sum(),
        "chain": lambda x: models.chain_terms(x, torch.sin).sum(),
        "black_scholes": lambda p: models.black_scholes(p.unbind(), torch.log, torch.sqrt, torch.exp, cdf=torch.special.ndtr),
        "lotka_volterra": lotka_volterra,
    }
    if transforms:
        grad, hessian, jvp = torch.func.grad, torch.func.hessian, torch.func.jvp

        def both(f, x):
            flipped = torch.func.grad_and_value(f)
            return lambda x: flipped(x)[::-1]

        def greeks(f, p):
            first, second = both(f, p), hessian(f)
            return lambda p: (*first(p), second(p))

        # the fit is left to the faster form
        return cases(
            found,
            {
                "gradient": lambda f, x: grad(f),
                "hessian": lambda f, x: hessian(f),
                "product": lambda f, x, v: lambda x, v: jvp(grad(f), (x,), (v,))[1],
                "both": both,
                "greeks": greeks,
            },
            torch.tensor,
        )

    def first(f, x, graph=False):
        x = x.detach().requires_grad_()
        y = f(x)
        return x, y, *torch.autograd.grad(y, x, create_graph=graph)

    def product(x, v, f):
        x, y, gradient = first(f, x, True)
        return torch.autograd.grad(gradient, x, v)[0]

    def hessian(f, x):
        return lambda x: torch.autograd.functional.hessian(f, x, vectorize=True)

    def greeks(f, p):
        second = hessian(f, p)
        return lambda p: (*first(f, p)[1:], second(p))

    def fit(f, x):
        def train(x):
            x = x.clone().requires_grad_()
            optimizer = torch.optim.LBFGS([x], max_iter=100, line_search_fn="strong_wolfe")
            seen = []

            def closure():
                optimizer.zero_grad()
                loss = f(x)
                loss.backward()
                seen.append(loss.item())
                return loss

            optimizer.step(closure)
            return seen[-1], len(seen)

        return train

    return cases(
        found,
        {
            "gradient": lambda f, x: lambda x: first(f, x)[2],
            "hessian": hessian,
            "product": lambda f, x, v: functools.partial(product, f=f),
            "both": lambda f, x: lambda x: first(f, x)[1:],
            "greeks": greeks,
            "fit": fit,
        },
        torch.tensor,
    )


def jax(compiled=True, forward=False):
    """forward: the gradient of the fit by forward mode, which suits 4 parameters; nothing else."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    observed = jnp.array(models.OBSERVED)

    def slope(p, u):
        return jnp.stack((u[0] * (p[0] - p[1] * u[1]), u[1] * (p[3] * u[0] - p[2])))

    def lotka_volterra(p):
        def step(u, _):
            u = models.runge_kutta(functools.partial(slope, p), u)
            return u, u

        _, found = jax.lax.scan(step, jnp.array(models.POPULATIONS), length=models.STEPS)
        return ((found - observed) ** 2).sum()

    def loop(p):  # forward mode keeps nothing, so nothing is stacked
        def step(i, state):
            u, total = state
            u = models.runge_kutta(functools.partial(slope, p), u)
            return u, total + ((u - observed[i]) ** 2).sum()

        start = jnp.array(models.POPULATIONS), 0.0
        return jax.lax.fori_loop(0, models.STEPS, step, start)[1]

    def ready(f):
        called = jax.jit(f) if compiled else f
        return lambda *arguments: jax.block_until_ready(called(*arguments))

    def value_and_jacfwd(f, p):
        tangents = jax.jacfwd(lambda p: (f(p),) * 2, has_aux=True)
        return ready(lambda p: tangents(p)[::-1])

    if forward:
        return cases(
            {"lotka_volterra": loop},
            with_fit({"both": value_and_jacfwd}, jnp.array),
            jnp.array,
            compiled=True,
            clear=jax.clear_caches,
        )
    kinds = {
        "gradient": lambda f, x: ready(jax.grad(f)),
        "hessian": lambda f, x: ready(jax.hessian(f)),
        "product": lambda f, x, v: ready(lambda x, v: jax.jvp(jax.grad(f), (x,), (v,))[1]),
        "both": lambda f, x: ready(jax.value_and_grad(f)),
        "greeks": lambda f, p: ready(lambda p: (*jax.value_and_grad(f)(p), jax.hessian(f)(p))),
    }
    return cases(
        {
            "rosenbrock": lambda x: models.rosenbrock_terms(x).sum(),
            "chain": lambda x: models.chain_terms(x, jnp.sin).sum(),
            "black_scholes": functools.partial(
                models.black_scholes, log=jnp.log, sqrt=jnp.sqrt, exp=jnp.exp, cdf=jax.scipy.stats.norm.cdf
            ),
            "lotka_volterra": lotka_volterra,
        },
        with_fit(kinds, jnp.array) if compiled else kinds,
        jnp.array,
        compiled=compiled,
        clear=jax.clear_caches,
    )


def casadi(dense=False):
    """Graphs of scalars (SX) that CasADi's own interpreter evaluates; for the fit one of all 200
    steps. Its Hessians are sparse by themselves. dense: filled up; Hessians only."""
    import casadi

    def function(outputs):
        """make, for outputs(f of x, x, other arguments) -> list."""

        def make(f, *arguments):
            symbols = [casadi.SX.sym("x", len(argument)) for argument in map(flat, arguments)]
            return casadi.Function("made", symbols, outputs(f(symbols[0]), *symbols))

        return make

    def hessian(y, x):
        found, _ = casadi.hessian(y, x)
        return [casadi.densify(found) if dense else found]

    kinds = {"hessian": function(hessian)}
    if not dense:
        kinds = with_fit(
            {
                **kinds,
                "gradient": function(lambda y, x: [casadi.gradient(y, x)]),
                "product": function(lambda y, x, v: [casadi.jtimes(casadi.gradient(y, x), x, v)]),
                "both": function(lambda y, x: [y, casadi.gradient(y, x)]),
                "greeks": function(lambda y, x: [y, *casadi.hessian(y, x)[::-1]]),
            },
            casadi.DM,
        )
    apart = scalars(casadi)
    return cases(
        {
            "rosenbrock": lambda x: casadi.sum1(models.rosenbrock_terms(x)),
            "chain": lambda x: casadi.sum1(models.chain_terms(x, casadi.sin)),
            "black_scholes": lambda p: apart["black_scholes"](casadi.vertsplit(p)),
            "lotka_volterra": lambda p: models.lotka_volterra(casadi.vertsplit(p)),
        },
        kinds,
        casadi.DM,
        compiled=True,
    )


def casadi_map():
    """The fit with one step as a Function and mapaccum, which calls it 200 times."""
    import casadi

    def both(f, x):
        p, u = casadi.SX.sym("p", 4), casadi.SX.sym("u", 2)
        step = casadi.Function(
            "step",
            [u, p],
            [models.runge_kutta(lambda u: casadi.vertcat(u[0] * (p[0] - p[1] * u[1]), u[1] * (p[3] * u[0] - p[2])), u)],
        )
        p = casadi.MX.sym("p", 4)
        found = step.mapaccum(models.STEPS)(casadi.DM(models.POPULATIONS), casadi.repmat(p, 1, models.STEPS))
        loss = casadi.sumsqr(found - casadi.DM(models.OBSERVED).T)
        return casadi.Function("both", [p], [loss, casadi.jacobian(loss, p)])

    return cases({"lotka_volterra": None}, with_fit({"both": both}, casadi.DM), casadi.DM, compiled=True)


# by hand


def closed_form():
    return cases(
        {"black_scholes": None},
        {"both": lambda f, p: functools.partial(models.closed_form, second=False), "greeks": lambda f, p: models.closed_form},
    )


def differences():
    """What SciPy's users have without a tool; the fit takes SciPy's own differences."""
    kinds = {"both": lambda f, p: functools.partial(models.central_differences, f)}
    if "fit" in with_fit(kinds):
        from scipy.optimize import minimize

        kinds["fit"] = lambda f, p: lambda p: fitted(minimize(f, p, **SETTINGS))
    return cases({"lotka_volterra": models.lotka_volterra}, kinds)


def numpy():
    import numpy as np

    def both(f, x):
        gradient_of = gradient(f, x)

        def by_hand(x):
            rest, above = x[1:] - x[:-1] ** 2, 1.0 - x[:-1]
            return 100.0 * rest @ rest + above @ above, gradient_of(x)

        return by_hand

    def gradient(f, x):
        def by_hand(x):
            rest, found = x[1:] - x[:-1] ** 2, np.zeros_like(x)
            found[:-1] = -400.0 * x[:-1] * rest - 2.0 * (1.0 - x[:-1])
            found[1:] += 200.0 * rest
            return found

        return by_hand

    def hessian(f, x):
        def by_hand(x):
            diagonal = np.zeros_like(x)
            diagonal[:-1] = 1200.0 * x[:-1] ** 2 - 400.0 * x[1:] + 2.0
            diagonal[1:] += 200.0
            beside = -400.0 * x[:-1]
            return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)

        return by_hand

    return cases({"rosenbrock": None}, {"gradient": gradient, "hessian": hessian, "both": both}, np.array)


def c():
    """The repetitions are in C too."""
    import ctypes

    from native import doubles, library

    code = library("derivatives")
    found = {}
    for job in JOBS:
        by_hand = getattr(code, f"{job.function}_{job.kind}", None)
        if by_hand is None:
            continue
        size = len(job.arguments[0])
        out = doubles([0.0] * {"both": size + 1, "hessian": size**2}.get(job.kind, size))
        arguments = *map(doubles, job.arguments), out, size

        def run(n, by_hand=by_hand, arguments=arguments):
            by_hand(*arguments, ctypes.c_long(n))

        def check(n, run=run, out=out, size=size):
            run(1)
            return flat([out[i : i + size] for i in range(0, len(out), size)] if len(out) == size**2 else out[:])

        found |= {job.case: Case(run), job.case + CHECK: Case(check)}
    return {**found, KNOWN: Case(lambda n: list(found))}
