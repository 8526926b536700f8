"""What recording costs: the first call of a compiled function beside an eager one, and programs of
a million nodes beside other tools that look at a program before they run it.

The functions are those of other workloads: the loss of moons' own neurons, that of a name in
microgpt's plain loops, Rosenbrock's of 1000 numbers. The large programs are a Lotka-Volterra model
of 20,000 steps of Runge-Kutta, one chain in which nothing can be put together, and Rosenbrock's of
125,000 numbers, where everything can. Each tool gets the same operations on scalars in the same
Python loop (whoever uses JAX would write lax.scan). Not a workload: recorded.py runs it.
"""

import functools
import itertools

import microgpt
import moons
from derivatives_models import CHECK, FIRST, GUESS, KNOWN, numbers, populations, rosenbrock
from timing import Case, Form

EAGER, RECORDED, JAX, CASADI = ("mingrad, eager", "mingrad, compiled", "JAX, jit of grad", "CasADi, SX")
FORWARD, BACKWARD = ", forward", ", forward and backward"
TWICE = ", twice"  # a compiled function makes its steps at the second call
SMALL = ("moons, own classes", "microgpt, plain loops", "Rosenbrock-1000")
VALUE = ", first call, value only"
NODES = (1_000, 3_000, 10_000, 100_000, 1_000_000)


# the first call


def functions():
    """{name: (function, its arguments)} of SMALL; what depends on values does so in the core."""
    from mingrad import Variable

    loss = moons.own_loss(model := moons.MLP(Variable, moons.SIZES))
    for p, w in zip(model.parameters(), moons.weights()):
        p.data = w
    X, y = moons.points()
    x = [Variable(number) for number in numbers(1000, 1000)]
    return dict(
        zip(
            SMALL,
            (
                (lambda X, y: loss(X, y)[0], (X, y)),
                (microgpt.compilable().loss, (microgpt.documents()[microgpt.NAMES // 2],)),
                (rosenbrock, (x,)),
            ),
        )
    )


def small(record):
    """record: each call is the first one of a compiled function; otherwise mingrad as it is."""
    import mingrad

    found = {}
    for name, (f, arguments) in functions().items():
        compiled = mingrad.compile(f) if record else None

        def run(n, backward, calls=1, f=compiled or f, arguments=arguments):
            for _ in itertools.repeat(None, n):
                if record:
                    f.clear()
                for _ in range(calls):
                    y = f(*arguments)
                    if backward:
                        y.backward()
            return y.data

        for what, backward in ((FORWARD, False), (BACKWARD, True)):
            found[name + what] = Case(functools.partial(run, backward=backward))
            found[name + what + TWICE] = Case(functools.partial(run, backward=backward, calls=2))
    return found


# large programs


def recurrence(p, steps):
    for x, y in populations(p, steps):  # noqa: B007  (the last ones)
        pass
    return x * x + y * y


def recurrence_of(nodes):
    """The function and its arguments, so that about this many nodes are recorded: 50 a step."""
    return functools.partial(recurrence, steps=nodes // 50), list(GUESS)


def sum_of(nodes):
    return rosenbrock, numbers(nodes // 8, 1000)


LARGE = {"a chain (Lotka-Volterra)": recurrence_of, "a sum (Rosenbrock)": sum_of}


def size(program, nodes):
    return f"{program}, {nodes:,} nodes"


def cases(make, known=LARGE, value=None, calls=1):
    """The cases of a tool: make(f, x) gives what is called with nothing, and then returns value and
    gradient; value(f, x) computes a value. The first call is with all that comes before, and it is
    this many calls: mingrad's compiled functions make their steps at the second one."""
    found = {}
    for program, nodes in itertools.product(known, NODES):
        prepared = functools.cache(functools.partial(LARGE[program], nodes))
        made = {}

        def fresh(prepared=prepared, made=made):
            made.clear()
            prepared()

        def first(n, prepared=prepared, made=made):
            made["call"] = make(*prepared())
            for _ in range(calls):
                made["call"]()

        def run(n, made=made):
            for _ in itertools.repeat(None, n):
                made["call"]()

        def check(n, made=made):
            value, gradient = made["call"]()
            return [float(value), *map(float, gradient)]

        name = size(program, nodes)
        found |= {name: Case(run), name + FIRST: Case(first, fresh), name + CHECK: Case(check)}
        if value:
            found[name + VALUE] = Case(lambda n, prepared=prepared: value(*prepared()), fresh)
    return found | {KNOWN: Case(lambda n: list(found))}


def mingrad(record):
    import mingrad

    def make(f, x):
        both = mingrad.value_and_grad(mingrad.compile(f) if record else f)
        return lambda: both(x)

    def value(f, x):
        x = [mingrad.Variable(number) for number in x]
        f = mingrad.compile(f) if record else f
        for _ in range(2 if record else 1):
            y = f(x)
        return y.data

    return small(record) | cases(make, value=value, calls=2 if record else 1)


def jax():
    """The sum is left out: indexing traced arrays element by element takes minutes by itself."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")

    def make(f, x):
        both, x = jax.jit(jax.value_and_grad(f)), [jnp.array(number) for number in x]
        return lambda: jax.block_until_ready(both(x))

    return cases(make, list(LARGE)[:1])


def casadi():
    import casadi

    def make(f, x):
        symbols = casadi.SX.sym("x", len(x))
        y = f(casadi.vertsplit(symbols))
        both, x = casadi.Function("both", [symbols], [y, casadi.gradient(y, symbols)]), casadi.DM(x)

        def call():
            value, gradient = both(x)
            return value, gradient.full()[:, 0]

        return call

    return cases(make)


FORMS = {EAGER: Form(lambda: mingrad(False)), RECORDED: Form(lambda: mingrad(True)), CASADI: Form(casadi), JAX: Form(jax)}
