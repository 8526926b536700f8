"""Adam's step on 4,192 parameters, the matrices of a GPT of width 16.

Beside mingrad and PyTorch: NumPy by hand over one flat array, and what a plain Python loop over
p.data and p.grad costs. zero_grad() is timed too, where a form has one.
"""

import math
import random

from timing import Case, Form

# embeddings, attention, MLP, output: 4,192 numbers, the sizes of the GPT example
SHAPES = ((27, 16), (16, 16), (16, 16), (16, 16), (16, 16), (16, 16), (64, 16), (16, 64), (27, 16))
COUNT = sum(rows * columns for rows, columns in SHAPES)
LR, BETA1, BETA2, EPS = 0.01, 0.85, 0.99, 1e-8
STEP, ZERO = "Adam.step()", "zero_grad()"


def numbers():
    """Values and gradients."""
    draw = random.Random(4192)
    return ([draw.gauss(0, 0.1) for _ in range(COUNT)], [draw.gauss(0, 1) for _ in range(COUNT)])


def cases(step, zero, read):
    def check(n):
        for _ in range(n):
            step()
        return read()

    def run(function):
        def repeat(n):
            for _ in range(n):
                function()

        return repeat

    found = {"check": Case(check), STEP: Case(run(step))}
    return found if zero is None else {**found, ZERO: Case(run(zero))}


def variables():
    from mingrad import Variable

    values, gradients = numbers()
    parameters = [Variable(value) for value in values]
    for p, gradient in zip(parameters, gradients):
        p.grad = gradient
    return parameters


def mingrad():
    from mingrad.optim import Adam

    parameters = variables()
    optimizer = Adam(parameters, lr=LR, betas=(BETA1, BETA2), eps=EPS)
    return cases(optimizer.step, optimizer.zero_grad, lambda: [p.data for p in parameters])


def plain_loop():
    """The optimiser as micrograd-style programs write it out, over mingrad's Variables."""
    parameters = variables()
    m, v = [0.0] * COUNT, [0.0] * COUNT
    steps = 0

    def step():
        nonlocal steps
        steps += 1
        for i, p in enumerate(parameters):
            m[i] = BETA1 * m[i] + (1 - BETA1) * p.grad
            v[i] = BETA2 * v[i] + (1 - BETA2) * p.grad**2
            m_hat = m[i] / (1 - BETA1**steps)
            v_hat = v[i] / (1 - BETA2**steps)
            p.data -= LR * m_hat / (math.sqrt(v_hat) + EPS)

    def zero():
        for p in parameters:
            p.grad = 0.0

    return cases(step, zero, lambda: [p.data for p in parameters])


def numpy():
    import numpy as np

    p, g = map(np.array, numbers())
    m, v = np.zeros(COUNT), np.zeros(COUNT)
    a, b = np.empty(COUNT), np.empty(COUNT)
    steps = 0

    def step():
        nonlocal steps, m, v, p
        steps += 1
        m *= BETA1
        m += np.multiply(g, 1 - BETA1, out=a)
        v *= BETA2
        v += np.multiply(np.multiply(g, g, out=a), 1 - BETA2, out=a)
        np.sqrt(v, out=a)
        np.multiply(a, 1 / math.sqrt(1 - BETA2**steps), out=a)
        np.add(a, EPS, out=a)
        np.divide(np.multiply(m, LR / (1 - BETA1**steps), out=b), a, out=a)
        p -= a

    return cases(step, lambda: g.fill(0.0), p.tolist)


def torch(foreach):
    import torch

    torch.set_num_threads(1)
    values, gradients = (torch.tensor(x, dtype=torch.float64) for x in numbers())
    sizes = [rows * columns for rows, columns in SHAPES]
    parameters = [part.reshape(shape).clone().requires_grad_() for part, shape in zip(values.split(sizes), SHAPES)]
    for p, gradient, shape in zip(parameters, gradients.split(sizes), SHAPES):
        p.grad = gradient.reshape(shape).clone()
    optimizer = torch.optim.Adam(parameters, lr=LR, betas=(BETA1, BETA2), eps=EPS, foreach=foreach)
    return cases(
        optimizer.step,
        lambda: optimizer.zero_grad(set_to_none=False),
        lambda: [x for p in parameters for x in p.flatten().tolist()],
    )


FORMS = {
    "mingrad": Form(mingrad),
    "PyTorch, foreach": Form(lambda: torch(True)),
    "PyTorch, for loop": Form(lambda: torch(False)),
    "NumPy by hand": Form(numpy),
    "plain loop over p.data": Form(plain_loop),
}


def measure(bench):
    with bench.workers(__name__, FORMS) as workers:
        bench.agree("values after 3 steps", {name: worker.ask("check", 3)["value"] for name, worker in workers.items()}, 1e-9)
        found = bench.time_rows(workers, STEP)
        bench.time_rows(workers, ZERO)
        bench.memory_rows(workers)
    step = found.get("mingrad")
    bench.target("Adam.step() on 4,192 parameters", step and step.cpu * 1e6, 15, unit="us")
