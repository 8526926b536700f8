"""One training step of micrograd's moons demo, in every form.

MLP 2-16-16-1, 100 points, full batch, SVM max-margin loss, L2 of 1e-4, accuracy, SGD with the
demo's schedule, all float64. Every form starts from the same weights and must give the same losses.
A sample restarts from these weights after 100 steps, as the schedule does.
"""

import functools
import itertools
import random

from timing import Case, Form, Missing, ratio

STEPS = 100
ALPHA = 1e-4
SIZES = (2, 16, 16, 1)
FUSED, OWN = "mingrad.nn", "own classes on mingrad"
CORE = "mingrad.nn, loss and SGD in the core"
COMPILED = "own classes on mingrad, compiled"
ON, OFF = ", GC on", ", GC off"


def points():
    """The demo's 100 points: X, a list of pairs, and y, a list of -1 and 1."""
    try:
        from mingrad.examples.moons import load
    except ImportError:
        try:
            import numpy
            from sklearn.datasets import make_moons
        except ImportError:
            raise Missing("neither mingrad.examples.moons nor scikit-learn has the data") from None
        numpy.random.seed(1337)  # noqa: NPY002
        X, y = make_moons(n_samples=100, noise=0.1)
        return X.tolist(), (y * 2 - 1).tolist()
    X, y = load()
    return [list(row) for row in X], list(y)


def weights():
    """The demo's initial weights in the order of parameters(): uniform draws, biases zero."""
    draw = random.Random(1337)
    values = []
    for nin, nout in itertools.pairwise(SIZES):
        for _ in range(nout):
            values += [draw.uniform(-1, 1) for _ in range(nin)] + [0.0]
    return values


def rate(k):
    return 1.0 - 0.9 * k / 100


# the notebook's loop, over any scalar type with micrograd's manners


def notebook(Number, model):
    X, y = points()
    start = weights()

    def loss():
        inputs = [list(map(Number, xrow)) for xrow in X]
        scores = list(map(model, inputs))
        losses = [(1 + -yi * scorei).relu() for yi, scorei in zip(y, scores)]
        data_loss = sum(losses) * (1.0 / len(losses))
        reg_loss = ALPHA * sum(p * p for p in model.parameters())
        total_loss = data_loss + reg_loss
        accuracy = [(yi > 0) == (scorei.data > 0) for yi, scorei in zip(y, scores)]
        return total_loss, sum(accuracy) / len(accuracy)

    def train(n, seen):
        for i in range(n):
            k = i % STEPS
            if k == 0:
                for p, w in zip(model.parameters(), start):
                    p.data = w
            total_loss, acc = loss()
            model.zero_grad()
            total_loss.backward()
            learning_rate = 1.0 - 0.9 * k / 100
            for p in model.parameters():
                p.data -= learning_rate * p.grad
            if seen is not None:
                seen.append(total_loss.data)
        return acc

    return cases(train)


def cases(train):
    """The cases of a form, given train(n, seen): n steps, losses appended to seen unless None."""

    def losses(n):
        seen = []
        train(n, seen)
        return [float(loss) for loss in seen]

    return {"step": Case(lambda n: float(train(n, None))), "losses": Case(losses)}


class Module:
    def zero_grad(self):
        for p in self.parameters():
            p.grad = 0.0


class Neuron(Module):
    """A user's own neuron in plain Python; Layer and MLP likewise."""

    def __init__(self, Number, nin, nonlin):
        self.w = [Number(0.0) for _ in range(nin)]
        self.b = Number(0.0)
        self.nonlin = nonlin

    def __call__(self, x):
        act = sum((wi * xi for wi, xi in zip(self.w, x)), self.b)
        return act.relu() if self.nonlin else act

    def parameters(self):
        return self.w + [self.b]


class Layer(Module):
    def __init__(self, Number, nin, nout, nonlin, unit=Neuron):
        self.neurons = [unit(Number, nin, nonlin) for _ in range(nout)]

    def __call__(self, x):
        out = [n(x) for n in self.neurons]
        return out[0] if len(out) == 1 else out

    def parameters(self):
        return [p for n in self.neurons for p in n.parameters()]


class MLP(Module):
    def __init__(self, Number, sizes, unit=Neuron):
        last = len(sizes) - 2
        self.layers = [Layer(Number, nin, nout, i != last, unit) for i, (nin, nout) in enumerate(itertools.pairwise(sizes))]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def parameters(self):
        return [p for layer in self.layers for p in layer.parameters()]


def micrograd():
    from micrograd.engine import Value
    from micrograd.nn import MLP

    return notebook(Value, MLP(2, [16, 16, 1]))


def fused():
    from mingrad.engine import Variable
    from mingrad.nn import MLP

    return notebook(Variable, MLP(2, [16, 16, 1]))


def core():
    """The step as a practitioner writes it: hinge_loss, and SGD whose weight decay is the L2."""
    from mingrad import nn, optim

    X, y = points()
    start = weights()
    model = nn.MLP(2, [16, 16, 1])
    parameters = model.parameters()
    optimizer = optim.SGD(parameters, lr=rate(0), weight_decay=2 * ALPHA)

    def train(n, seen):
        for i in range(n):
            k = i % STEPS
            if k == 0:
                for p, w in zip(parameters, start):
                    p.data = w
            scores = model(X)
            loss = nn.hinge_loss(scores, y)
            accuracy = [(yi > 0) == (score > 0) for yi, score in zip(y, scores)]
            if seen is not None:
                seen.append(loss.data + ALPHA * sum(p.data * p.data for p in parameters))
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = rate(k)
            optimizer.step()
        return sum(accuracy) / len(accuracy)

    return cases(train)


def own_classes():
    from mingrad.engine import Variable

    return notebook(Variable, MLP(Variable, SIZES))


def own_loss(model):
    """A function of the points: loss and accuracy of the own classes over mingrad, as the notebook
    computes them, without reading a number off a Variable."""
    parameters = model.parameters()

    def loss(X, y):
        scores = list(map(model, X))
        losses = [(1 + -yi * scorei).relu() for yi, scorei in zip(y, scores)]
        data_loss = sum(losses) * (1.0 / len(losses))
        reg_loss = ALPHA * sum(p * p for p in parameters)
        # a comparison would be recorded, and there were as many recordings as patterns of scores
        signs = sum((yi * scorei).sign() for yi, scorei in zip(y, scores))
        return data_loss + reg_loss, (signs / len(y) + 1) / 2

    return loss


def compiled(given=False):
    """The own classes, their loss compiled; SGD in the core. given: the points are arguments of the
    loss, as mini-batches are, and not the same 100 in every call."""
    import mingrad
    from mingrad import optim
    from mingrad.engine import Variable

    model = MLP(Variable, SIZES)
    parameters = model.parameters()
    optimizer = optim.SGD(parameters, lr=rate(0))
    data = points()
    start = weights()
    loss = own_loss(model)
    loss, arguments = (mingrad.compile(loss), data) if given else (mingrad.compile(functools.partial(loss, *data)), ())

    def train(n, seen):
        for i in range(n):
            k = i % STEPS
            if k == 0:
                for p, w in zip(parameters, start):
                    p.data = w
            total_loss, acc = loss(*arguments)
            optimizer.zero_grad()
            total_loss.backward()
            optimizer.param_groups[0]["lr"] = rate(k)
            optimizer.step()
            acc = acc.data
            if seen is not None:
                seen.append(total_loss.data)
        return acc

    return cases(train)


def xad():
    """The own classes over XAD. Its numbers cannot be assigned to, so a step makes new ones."""
    import xad.adj_1st
    from xad.math import max

    Real = xad.adj_1st.Real

    class XadNeuron(Neuron):
        def __call__(self, x):
            act = sum((wi * xi for wi, xi in zip(self.w, x)), self.b)
            return max(act, 0.0) if self.nonlin else act

    model = MLP(Real, SIZES, XadNeuron)
    neurons = [n for layer in model.layers for n in layer.neurons]
    X, y = points()
    start = weights()

    def assign(values):
        values = map(Real, values)
        for neuron in neurons:
            neuron.w = [next(values) for _ in neuron.w]
            neuron.b = next(values)

    def step(k):
        # a tape and a function of its own for each step: numbers of an earlier step that die while
        # this one records would free slots of the wrong tape, and XAD's gradients go wrong
        with xad.adj_1st.Tape() as tape:
            parameters = model.parameters()
            tape.registerInputs(parameters)
            tape.newRecording()
            inputs = [list(map(Real, xrow)) for xrow in X]
            scores = list(map(model, inputs))
            losses = [max(1 + -yi * scorei, 0.0) for yi, scorei in zip(y, scores)]
            data_loss = sum(losses) * (1.0 / len(losses))
            total_loss = data_loss + ALPHA * sum(p * p for p in parameters)
            accuracy = [(yi > 0) == (scorei.value > 0) for yi, scorei in zip(y, scores)]
            tape.registerOutput(total_loss)
            total_loss.derivative = 1.0
            tape.computeAdjoints()
            learning_rate = rate(k)
            values = [p.value - learning_rate * p.derivative for p in parameters]
            return values, total_loss.value, sum(accuracy) / len(accuracy)

    def train(n, seen):
        for i in range(n):
            k = i % STEPS
            if k == 0:
                assign(start)
            values, total_loss, accuracy = step(k)
            assign(values)
            if seen is not None:
                seen.append(total_loss)
        return accuracy

    return cases(train)


# whole arrays at a time


def matrices(array):
    """The initial weights as [(W, b), ...] with W of shape (outputs, inputs)."""
    values, found = weights(), []
    for nin, nout in itertools.pairwise(SIZES):
        rows = array(values[: nout * (nin + 1)]).reshape(nout, nin + 1)
        del values[: nout * (nin + 1)]
        found.append((rows[:, :nin], rows[:, nin]))
    return found


def numpy():
    import numpy as np

    X, y = map(np.array, points())
    y = y.astype(float)
    start = matrices(np.array)

    def train(n, seen):
        for i in range(n):
            k = i % STEPS
            if k == 0:
                (W1, b1), (W2, b2), (W3, b3) = [(W.copy(), b.copy()) for W, b in start]
                parameters = W1, b1, W2, b2, W3, b3
            h1 = np.maximum(X @ W1.T + b1, 0.0)
            h2 = np.maximum(h1 @ W2.T + b2, 0.0)
            scores = (h2 @ W3.T + b3)[:, 0]
            margins = 1.0 - y * scores
            loss = np.maximum(margins, 0.0).mean() + ALPHA * sum(np.vdot(p, p) for p in parameters)
            accuracy = np.mean((scores > 0) == (y > 0))
            d3 = np.where(margins > 0, -y / len(y), 0.0)[:, None]
            d2 = (d3 @ W3) * (h2 > 0)
            d1 = (d2 @ W2) * (h1 > 0)
            gradients = (d1.T @ X, d1.sum(0), d2.T @ h1, d2.sum(0), d3.T @ h2, d3.sum(0))
            learning_rate = rate(k)
            for p, g in zip(parameters, gradients):
                p -= learning_rate * (g + 2 * ALPHA * p)
            if seen is not None:
                seen.append(loss)
        return accuracy

    return cases(train)


def torch():
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    nn = torch.nn
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    start = [part for pair in matrices(torch.tensor) for part in pair]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    X, y = map(torch.tensor, points())
    y = y.to(torch.float64)

    def train(n, seen):
        for i in range(n):
            k = i % STEPS
            if k == 0:
                with torch.no_grad():
                    for p, w in zip(model.parameters(), start):
                        p.copy_(w)
            scores = model(X).squeeze(1)
            data_loss = torch.relu(1 - y * scores).mean()
            reg_loss = ALPHA * sum((p * p).sum() for p in model.parameters())
            total_loss = data_loss + reg_loss
            accuracy = ((y > 0) == (scores > 0)).double().mean().item()
            optimizer.zero_grad()
            total_loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate(k)
            optimizer.step()
            loss = total_loss.item()
            if seen is not None:
                seen.append(loss)
        return accuracy

    return cases(train)


def jax(read=True):
    """read: take loss and accuracy as numbers at each step, as the loops of all others do."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    X, y = map(jnp.array, points())
    start = matrices(jnp.array)

    def loss(parameters):
        h = X
        for W, b in parameters[:-1]:
            h = jax.nn.relu(h @ W.T + b)
        W, b = parameters[-1]
        scores = (h @ W.T + b)[:, 0]
        squares = sum(jnp.sum(p * p) for pair in parameters for p in pair)
        total = jax.nn.relu(1 - y * scores).mean() + ALPHA * squares
        return total, jnp.mean((scores > 0) == (y > 0))

    @jax.jit
    def step(parameters, learning_rate):
        (total, accuracy), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        parameters = jax.tree.map(lambda p, g: p - learning_rate * g, parameters, gradients)
        return parameters, total, accuracy

    def train(n, seen):
        for i in range(n):
            k = i % STEPS
            if k == 0:
                parameters = start
            parameters, total, accuracy = step(parameters, rate(k))
            if read:
                total, accuracy = float(total), float(accuracy)
            if seen is not None:
                seen.append(total)
        jax.block_until_ready(parameters)
        return accuracy

    return cases(train)


def c():
    import ctypes

    from native import doubles, library

    train_in_c = library("moons").moons_train
    train_in_c.restype = ctypes.c_double
    X, y = points()
    start, now = doubles(weights()), doubles(weights())
    x, y = doubles(value for row in X for value in row), doubles(y)

    def train(n, seen):
        losses = (ctypes.c_double * n)() if seen is not None else None
        accuracy = train_in_c(start, now, x, y, len(y), ctypes.c_long(n), losses)
        if seen is not None:
            seen.extend(losses)
        return accuracy

    return cases(train)


FORMS = {
    FUSED + ON: Form(fused),
    FUSED + OFF: Form(fused, gc=False),
    CORE: Form(core),
    OWN + ON: Form(own_classes),
    OWN + OFF: Form(own_classes, gc=False),
    COMPILED: Form(compiled),
    COMPILED + ", points given": Form(lambda: compiled(given=True)),
    "micrograd" + ON: Form(micrograd),
    "micrograd" + OFF: Form(micrograd, gc=False),
    "own classes on XAD": Form(xad),
    "PyTorch, vectorised": Form(torch),
    "JAX, jitted": Form(jax),
    "JAX, nothing read": Form(lambda: jax(read=False)),
    "NumPy by hand": Form(numpy),
    "C by hand, -O3": Form(c),
}


def measure(bench):
    with bench.workers(__name__, FORMS) as workers:
        steps = 2 if bench.quick else 5
        bench.agree(
            f"losses of the first {steps} steps",
            {name: worker.ask("losses", steps)["value"] for name, worker in workers.items()},
            1e-9,
        )
        slow = {name: worker.ask("losses", STEPS)["value"][-1:] for name, worker in workers.items() if "micrograd" not in name}
        bench.note(
            "loss after 100 steps: "
            + ", ".join(f"{name.removesuffix(ON)} {loss:.9f}" for name, (loss,) in slow.items() if not name.endswith(OFF))
        )
        found = bench.time_rows(workers, "step", baseline=FUSED + ON)
        bench.memory_rows(workers)
    get = found.get
    bench.target(
        "moons, mingrad.nn: micrograd / mingrad, GC on", ratio(get("micrograd" + ON), get(FUSED + ON)), 5000, at_least=True
    )
    bench.target(
        "moons, mingrad.nn: micrograd / mingrad, GC off", ratio(get("micrograd" + OFF), get(FUSED + OFF)), 700, at_least=True
    )
    bench.target(
        "moons, own classes: micrograd / mingrad, GC on", ratio(get("micrograd" + ON), get(OWN + ON)), 80, at_least=True
    )
    bench.target("moons, own classes: XAD / mingrad, GC on", ratio(get("own classes on XAD"), get(OWN + ON)), 5, at_least=True)
    bench.target("moons, mingrad.nn: PyTorch / mingrad", ratio(get("PyTorch, vectorised"), get(FUSED + ON)), 4, at_least=True)
    bench.target("moons, mingrad.nn: mingrad / JAX jitted", ratio(get(FUSED + ON), get("JAX, jitted")), 1.5)
    bench.target("moons, loss and SGD in the core: mingrad / C by hand", ratio(get(CORE), get("C by hand, -O3")), 5)
    bench.target("moons, loss and SGD in the core: mingrad / JAX jitted", ratio(get(CORE), get("JAX, jitted")), 0.5)
    bench.target(
        "moons, loss and SGD in the core: PyTorch / mingrad", ratio(get("PyTorch, vectorised"), get(CORE)), 4, at_least=True
    )
    jitted, unread, ours = get("JAX, jitted"), get("JAX, nothing read"), get(FUSED + ON)
    if jitted and unread and ours:
        bench.note(
            f"mingrad.nn / JAX: wall time {ours.wall / jitted.wall:.2f}; with JAX's loss "
            f"and accuracy never read, CPU time {ours.cpu / unread.cpu:.2f}, wall time "
            f"{ours.wall / unread.wall:.2f}"
        )
