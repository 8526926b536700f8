"""A neuron in plain Python: sum(w * x for w, x in zip(ws, xs)) with 16 weights.

The weights are Variables (or the peer's numbers, or floats), the inputs floats. Most of the time
is Python's own generator, zip and sum: that is the point.
"""

import random

from timing import Case, Form, loop, ratio

WEIGHTS = 16
CASE = "16 weights"


def cases(number):
    draw = random.Random(16)
    ws = [number(draw.uniform(-1, 1)) for _ in range(WEIGHTS)]
    xs = [draw.uniform(-1, 1) for _ in range(WEIGHTS)]
    return {CASE: Case(loop("sum(w * x for w, x in zip(ws, xs))", ws=ws, xs=xs))}


def floats():
    return cases(float)


def mingrad():
    from mingrad.engine import Variable

    return cases(Variable)


def micrograd():
    from micrograd.engine import Value

    return cases(Value)


def torch():
    import torch

    torch.set_num_threads(1)
    return cases(lambda value: torch.tensor(value, dtype=torch.float64, requires_grad=True))


FORMS = {"floats": Form(floats), "mingrad": Form(mingrad), "micrograd": Form(micrograd), "torch": Form(torch)}


def measure(bench):
    with bench.workers(__name__, FORMS) as workers:
        found = bench.time_rows(workers, CASE)
    bench.target("plain-Python neuron, 16 weights, to floats", ratio(found.get("mingrad"), found.get("floats")), 1.7)
