"""One epoch of a network that reads handwritten digits: 1,437 images, mini-batches of 32.

MLP 64-32-10 (relu, then linear), cross-entropy and plain SGD in float64, the images in a new order
each epoch. The images are four fifths of scikit-learn's `load_digits`. Every form starts from the
same weights and must give the same losses for the batches of one epoch.
"""

import itertools
import random

from timing import Case, Form, Missing, ratio, resident, resident_peak

SIZES = (64, 32, 10)
COUNT, BATCH, RATE = 1437, 32, 0.1
FIT, LOOP = "mingrad.fit", "mingrad, loop by hand"


def images():
    """The images, lists of 64 numbers from 0 to 1, and the digits they show."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise Missing("scikit-learn has the images and is not installed") from None
    digits = load_digits()
    return (digits.data[:COUNT] / 16.0).tolist(), digits.target[:COUNT].tolist()


def weights():
    """The initial weights in the order of MLP.parameters(): each neuron's, then its bias."""
    draw = random.Random(64)
    values = []
    for nin, nout in itertools.pairwise(SIZES):
        for _ in range(nout):
            values += [draw.uniform(-1, 1) / nin**0.5 for _ in range(nin)] + [0.0]
    return values


def order(rng):
    """A new order, as fit makes it; from random.Random(0) the first of shuffle=0."""
    keys = [rng.random() for _ in range(COUNT)]
    return sorted(range(COUNT), key=keys.__getitem__)


def cases(epochs, losses):
    """epochs(n): train n epochs. losses(): those of the first epoch's batches, from the start."""
    before = resident()

    def memory(n):
        epochs(n)
        return before, resident_peak()

    return {"epoch": Case(epochs), "losses": Case(lambda n: losses()), "memory": Case(memory)}


# mingrad


def prepared():
    from mingrad import nn, optim

    X, y = images()
    model = nn.MLP(SIZES[0], SIZES[1:])
    parameters = model.parameters()
    for p, w in zip(parameters, weights()):
        p.data = w
    return X, y, model, optim.SGD(parameters, lr=RATE)


def fit():
    from mingrad import fit, nn

    X, y, model, optimizer = prepared()

    class Losses(list):
        def on_batch_end(self, state):
            self.append(state.loss)

    def train(n, callbacks=()):
        return fit(
            model,
            (X, y),
            loss=nn.cross_entropy,
            optimizer=optimizer,
            epochs=n,
            batch_size=BATCH,
            shuffle=0,
            callbacks=callbacks,
        )["loss"][-1]

    def losses():
        seen = Losses()
        train(1, [seen])
        return seen

    return cases(train, losses)


def by_hand():
    from mingrad import nn

    X, y, model, optimizer = prepared()

    def epoch(order, seen=None):
        total = 0.0
        for start in range(0, COUNT, BATCH):
            batch = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = nn.cross_entropy(model([X[i] for i in batch]), [y[i] for i in batch])
            loss.backward()
            optimizer.step()
            total += loss.data * len(batch)
            if seen is not None:
                seen.append(loss.data)
        return total / COUNT

    def train(n):
        rng = random.Random(0)
        for _ in range(n):
            loss = epoch(order(rng))
        return loss

    def losses():
        seen = []
        epoch(order(random.Random(0)), seen)
        return seen

    return cases(train, losses)


# whole arrays at a time


def matrices(array):
    """The initial weights as [(W, b), ...] with W of shape (outputs, inputs)."""
    values, found = weights(), []
    for nin, nout in itertools.pairwise(SIZES):
        rows = array(values[: nout * (nin + 1)]).reshape(nout, nin + 1)
        del values[: nout * (nin + 1)]
        found.append((rows[:, :nin], rows[:, nin]))
    return found


def torch():
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    nn = torch.nn
    X, y = map(torch.tensor, images())
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        start = [part for pair in matrices(torch.tensor) for part in pair]
        for p, w in zip(model.parameters(), start):
            p.copy_(w)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def epoch(order, seen=None):
        total = 0.0
        for batch in order.split(BATCH):
            loss = nn.functional.cross_entropy(model(X[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            if seen is not None:
                seen.append(loss.item())
        return total / COUNT

    def train(n):
        for _ in range(n):
            loss = epoch(torch.randperm(COUNT))
        return loss

    def losses():
        seen = []
        epoch(torch.tensor(order(random.Random(0))), seen)
        return seen

    return cases(train, losses)


def jax():
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    X, y = map(np.array, images())
    parameters = matrices(jnp.array)

    def loss(parameters, X, y):
        (V, a), (W, b) = parameters
        logits = jax.nn.relu(X @ V.T + a) @ W.T + b
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    @jax.jit  # compiled once for whole batches and once for an epoch's last one
    def step(parameters, X, y):
        value, gradients = jax.value_and_grad(loss)(parameters, X, y)
        return jax.tree.map(lambda p, g: p - RATE * g, parameters, gradients), value

    def epoch(order, seen=None):
        nonlocal parameters
        total = 0.0
        for start in range(0, COUNT, BATCH):
            batch = order[start : start + BATCH]
            parameters, value = step(parameters, X[batch], y[batch])
            total += float(value) * len(batch)
            if seen is not None:
                seen.append(float(value))
        return total / COUNT

    generator = np.random.default_rng(0)

    def train(n):
        for _ in range(n):
            loss = epoch(generator.permutation(COUNT))
        return loss

    def losses():
        seen = []
        epoch(np.array(order(random.Random(0))), seen)
        return seen

    return cases(train, losses)


FORMS = {FIT: Form(fit), LOOP: Form(by_hand), "PyTorch": Form(torch), "JAX, jitted": Form(jax)}


def measure(bench):
    with bench.workers(__name__, FORMS) as workers:
        # to 1e-9: roundings grow from batch to batch, the fastest where a relu is near its kink
        bench.agree(
            "losses of the first epoch's batches",
            {name: worker.ask("losses")["value"] for name, worker in workers.items()},
            1e-9,
        )
        found = bench.time_rows(workers, "epoch", baseline=FIT)
        for name, worker in workers.items():
            before, peak = worker.ask("memory", 10)["value"]
            if before is not None and peak is not None:
                bench.row("memory of the process", f"{name}: before", before, "MB")
                peak = max(before, peak)  # the two are not counted at the same moment
                bench.row("memory of the process", f"{name}: peak", peak, "MB")
    get = found.get
    bench.target("digits, an epoch: mingrad.fit / PyTorch", ratio(get(FIT), get("PyTorch")), 1.0)
    bench.target("digits, an epoch: mingrad.fit / its loop by hand", ratio(get(FIT), get(LOOP)), 1.05)
