"""MLP 784-50-10 (relu, then linear), one sample: forward and backward of the sum of squares.

Half of the inputs are zero, as in a picture of a digit. Gradients are added up from pass to pass
in every form; "NumPy, fresh" is NumPy's cheaper habit of making new gradient arrays instead.
"""

import itertools
import random

from timing import Case, Form, ratio

SIZES = (784, 50, 10)
LIST, BUFFER = "mingrad.nn, x a list", "mingrad.nn, x a buffer"
CASE = "forward, backward"


def sample():
    """Weights in the order of parameters(), and one input."""
    draw = random.Random(784)
    values = []
    for nin, nout in itertools.pairwise(SIZES):
        for _ in range(nout):
            values += [draw.uniform(-1, 1) / nin**0.5 for _ in range(nin + 1)]
    return values, [max(0.0, draw.uniform(-1, 1)) for _ in range(SIZES[0])]


def matrices(array):
    values, x = sample()
    found = []
    for nin, nout in itertools.pairwise(SIZES):
        rows = array(values[: nout * (nin + 1)]).reshape(nout, nin + 1)
        del values[: nout * (nin + 1)]
        found += [rows[:, :nin], rows[:, nin]]
    return found, array(x)


def scalars(model, x):
    """A form over mlp(x) with numbers in micrograd's manner."""
    weights, _ = sample()
    parameters = model.parameters()
    for p, w in zip(parameters, weights):
        p.data = w

    def run(n):
        for _ in range(n):
            loss = sum(y * y for y in model(x))
            loss.backward()
        return loss.data

    def check(n):
        model.zero_grad()
        return [run(1)] + [float(p.grad) for p in parameters[::97]]

    return {CASE: Case(run), "check": Case(check)}


def mingrad():
    from mingrad.nn import MLP

    return scalars(MLP(784, [50, 10]), sample()[1])


def mingrad_buffer():
    from array import array

    from mingrad.nn import MLP

    return scalars(MLP(784, [50, 10]), array("d", sample()[1]))


def micrograd():
    import sys

    from micrograd.nn import MLP

    sys.setrecursionlimit(20_000)  # its backward goes down a sum of 784 terms by recursion
    return scalars(MLP(784, [50, 10]), sample()[1])


def numpy(fresh=False):
    import numpy as np

    (W1, b1, W2, b2), x = matrices(np.array)
    W1, b1, W2, b2 = map(np.ascontiguousarray, (W1, b1, W2, b2))
    gradients = [np.zeros_like(p) for p in (W1, b1, W2, b2)]

    def run(n):
        for _ in range(n):
            h = np.maximum(W1 @ x + b1, 0.0)
            y = W2 @ h + b2
            loss = y @ y
            dy = 2.0 * y
            dh = (dy @ W2) * (h > 0)
            found = np.outer(dh, x), dh, np.outer(dy, h), dy
            if fresh:
                gradients[:] = found
            else:
                for g, d in zip(gradients, found):
                    g += d
        return float(loss)

    def check(n):
        gradients[:] = [np.zeros_like(g) for g in gradients]
        loss = run(1)
        W1, b1, W2, b2 = gradients
        flat = np.concatenate([np.c_[W1, b1].ravel(), np.c_[W2, b2].ravel()])
        return [loss] + flat[::97].tolist()

    return {CASE: Case(run), "check": Case(check)}


def torch():
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    start, x = matrices(torch.tensor)
    model = torch.nn.Sequential(torch.nn.Linear(784, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))
    parameters = list(model.parameters())
    with torch.no_grad():
        for p, w in zip(parameters, start):
            p.copy_(w)

    def run(n):
        for _ in range(n):
            loss = (model(x) ** 2).sum()
            loss.backward()
        return loss.item()

    def check(n):
        model.zero_grad(set_to_none=False)
        loss = run(1)
        W1, b1, W2, b2 = (p.grad for p in parameters)
        flat = torch.cat([torch.column_stack([W1, b1]).ravel(), torch.column_stack([W2, b2]).ravel()])
        return [loss] + flat[::97].tolist()

    return {CASE: Case(run), "check": Case(check)}


def c():
    import ctypes

    from native import doubles, library

    train = library("mlp784").mlp784
    train.restype = ctypes.c_double
    weights, x = map(doubles, sample())
    grad = doubles([0.0] * len(weights))

    def run(n):
        return train(weights, grad, x, ctypes.c_long(n))

    def check(n):
        ctypes.memset(grad, 0, ctypes.sizeof(grad))
        return [run(1)] + grad[::97]

    return {CASE: Case(run), "check": Case(check)}


FORMS = {
    LIST: Form(mingrad),
    BUFFER: Form(mingrad_buffer),
    "micrograd": Form(micrograd),
    "PyTorch": Form(torch),
    "NumPy by hand": Form(numpy),
    "NumPy, fresh": Form(lambda: numpy(fresh=True)),
    "C by hand, -O3": Form(c),
}


def measure(bench):
    with bench.workers(__name__, FORMS) as workers:
        bench.agree(
            "loss and every 97th partial", {name: worker.ask("check")["value"] for name, worker in workers.items()}, 1e-9
        )
        found = bench.time_rows(workers, CASE, baseline=LIST)
    get = found.get
    hand = [found[name] for name in ("NumPy by hand", "NumPy, fresh") if name in found]
    faster = min(hand, key=lambda timing: timing.cpu, default=None)
    for name in (LIST, BUFFER):
        short = name.split(", ")[1]
        bench.target(f"MLP 784-50-10, {short}: mingrad / C", ratio(get(name), get("C by hand, -O3")), 3.0)
        bench.target(f"MLP 784-50-10, {short}: faster NumPy / mingrad", ratio(faster, get(name)), 1.0, at_least=True)
