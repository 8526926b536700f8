"""One operation at a time: nanoseconds on Variables against floats, micrograd and PyTorch.

The cost of the empty loop is taken off. Instruction counts of the same statements:
instructions.py.
"""

import math

from timing import Case, Form, loop, ratio

CASES = {  # case: statement per kind of number; `a` and `b` are two of them, Number makes one
    "a * b": {},
    "a + 1.0": {},
    "read .data": dict(default="a.data", floats="a", torch="a.item()"),
    "relu": dict(default="a.relu()", floats="a if a > 0.0 else 0.0"),
    "exp": dict(default="a.exp()", floats="exp(a)", micrograd=None),
    "make a leaf": dict(default="Number(1.0)"),
}


def statement(case, kind):
    """The case's statement for floats, mingrad, micrograd or torch; None: it has no such op."""
    texts = CASES[case]
    return texts.get(kind, texts.get("default", case))


def cases(kind, **names):
    found = {"empty loop": Case(loop("pass", **names))}
    for case in CASES:
        text = statement(case, kind)
        found[case] = Case(loop(text, **names) if text else loop("pass"))
    return found


def floats():
    return cases("floats", a=1.5, b=2.5, Number=float, exp=math.exp)


def mingrad():
    from mingrad.engine import Variable

    return cases("mingrad", a=Variable(1.5), b=Variable(2.5), Number=Variable)


def micrograd():
    from micrograd.engine import Value

    return cases("micrograd", a=Value(1.5), b=Value(2.5), Number=Value)


def torch():
    import torch

    torch.set_num_threads(1)

    def number(value):
        return torch.tensor(value, dtype=torch.float64, requires_grad=True)

    return cases("torch", a=number(1.5), b=number(2.5), Number=number)


FORMS = {"floats": Form(floats), "mingrad": Form(mingrad), "micrograd": Form(micrograd), "torch": Form(torch)}


def less(timing, empty):
    """A timing without the empty loop's time."""
    return timing._replace(
        cpu=timing.cpu - empty.cpu,
        wall=timing.wall - empty.wall,
        rounds=tuple(max(cpu - empty.cpu, 1e-12) for cpu in timing.rounds),
    )


def measure(bench):
    with bench.workers(__name__, FORMS) as workers:
        empty = bench.times(workers, "empty loop")
        for case in CASES:
            able = {name: worker for name, worker in workers.items() if statement(case, name)}
            found = {name: less(timing, empty[name]) for name, timing in bench.times(able, case).items()}
            bench.time_rows(able, case, found=found)
            if case in ("a * b", "a + 1.0"):
                times = ratio(found.get("mingrad"), found.get("floats"))
                bench.note(f"{case}: " + (f"{times:.2f} times floats" if times else "no mingrad"))
