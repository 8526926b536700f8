"""Loss and gradient of one name in microgpt (mingrad/examples/microgpt.py), in every form.

4,192 parameters, float64, names of the letters a to z. A step is forward and backward for one name,
the mean over NAMES names, the same in all forms; the optimiser's step stands apart, and a training
step is all of it. All forms start from the same weights and must give the same losses and
gradients. In a step, gradients are added up from name to name, except in JAX and CasADi, which make
new ones.

The names come from the file that MINGRAD_BENCH_NAMES names (one a line), else from the example's
list; they are those at the eighths 1, 3, 5 and 7 of all names by length.
"""

import os
import statistics
import string
import time

from timing import Case, Form, Missing, ratio, resident, resident_peak

NAMES = 4
LETTERS = string.ascii_lowercase
PLAIN, LAYERS, VALUE = "mingrad, plain loops", "mingrad, layers", "pure-Python Value"
COMPILED = "mingrad, plain loops, compiled"
TORCH, JAX, CASADI, C = ("PyTorch, whole names", "JAX, jitted, whole names", "CasADi", "C by hand, -O3")
STEP, BACKWARD, ADAM, TRAIN = "step", "backward", "Adam", "training step"


def names():
    """The names that are worked on, and what they were taken from."""
    from mingrad.examples import microgpt

    path = os.environ.get("MINGRAD_BENCH_NAMES")
    found = microgpt.load(path) if path else microgpt.NAMES
    if not set("".join(found)) <= set(LETTERS):
        raise Missing("MINGRAD_BENCH_NAMES: expected names of the letters a to z")
    ordered = sorted(found, key=lambda name: (len(name), name))
    picked = [ordered[len(ordered) * (2 * i + 1) // (2 * NAMES)] for i in range(NAMES)]
    return picked, f"{len(found):,} names, " + ("MINGRAD_BENCH_NAMES" if path else "the example's")


def documents():
    """The names as lists of tokens."""
    from mingrad.examples.microgpt import encode

    return [encode(name, LETTERS) for name in names()[0]]


def weights():
    """The initial weights as {name: rows}."""
    from mingrad.examples.microgpt import initial_weights

    return initial_weights(len(LETTERS) + 1, seed=1337)


def flat(matrices):
    return [w for rows in matrices for row in rows for w in row]


def cases(step, check, **more):
    """The cases of a form: a step, losses with gradients, memory, and what else it has."""
    before = resident()
    return {STEP: Case(step), "check": Case(check), "memory": Case(lambda n: (before, resident_peak())), **more}


# any scalar type with micrograd's manners


def scalars(model, optimizer):
    """A form over a model of the example; parameters have .data and .grad."""
    tokens = documents()
    parameters = model.parameters()
    start = flat(weights().values())
    graphs = []

    def step(n):
        for _ in range(n):
            for name in tokens:
                loss = model.loss(name)
                loss.backward()
        return loss.data

    def restart():
        for p, w in zip(parameters, start):
            p.data = w

    def train(n):
        for _ in range(n):
            for name in tokens:
                loss = model.loss(name)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                value = loss.data
        return value

    def record():
        graphs[:] = [model.loss(name) for name in tokens]

    def backward(n):
        # again and again over the same graphs: nothing that a pass does depends on the last one
        for _ in range(n):
            for loss in graphs:
                loss.backward()

    def share(n):
        """Backward's share of the time of n rounds of steps."""
        start, spent = time.process_time(), 0.0
        for _ in range(n):
            for name in tokens:
                loss = model.loss(name)
                begun = time.process_time()
                loss.backward()
                spent += time.process_time() - begun
        return spent / (time.process_time() - start)

    def adam(n):
        graphs.clear()
        for _ in range(n):
            optimizer.step()

    def check(n):
        for p in parameters:
            p.grad = 0.0
        losses = []
        for name in tokens:
            loss = model.loss(name)
            loss.backward()
            losses.append(loss.data)
        return losses + [p.grad for p in parameters[::97]]

    return cases(
        step, check, **{BACKWARD: Case(backward, record), "share": Case(share), ADAM: Case(adam), TRAIN: Case(train, restart)}
    )


def plain(Number):
    from mingrad.examples.microgpt import PlainAdam, PlainGPT

    model = PlainGPT(weights(), Number)
    return scalars(model, PlainAdam(model.parameters(), steps=10**9))


def mingrad_plain():
    from mingrad.engine import Variable

    return plain(Variable)


def compilable():
    """The plain loops as compile() can take them. The example takes the largest score off as a
    number that it reads (.data), which would be the same in every call of a recording; here it is
    computed."""
    import mingrad
    from mingrad.examples import microgpt as example

    def largest_of(scores):
        return mingrad.stop_gradient(mingrad.max(scores))

    def softmax(scores):
        largest = largest_of(scores)
        powers = [(score - largest).exp() for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def cross_entropy(logits, target):
        largest = largest_of(logits)
        total = sum((logit - largest).exp() for logit in logits)
        return total.log() + largest - logits[target]

    example.softmax, example.cross_entropy = softmax, cross_entropy
    return example.PlainGPT(weights())


def mingrad_compiled():
    """Recorded once for each name; with mingrad's Adam."""
    import mingrad
    from mingrad.examples.microgpt import LayersAdam

    model = compilable()
    model.loss = mingrad.compile(model.loss)
    return scalars(model, LayersAdam(model.parameters(), steps=10**9).adam)


def mingrad_layers():
    from mingrad.examples.microgpt import LayersAdam, LayersGPT

    model = LayersGPT(weights())
    return scalars(model, LayersAdam(model.parameters(), steps=10**9).adam)


def pure_python():
    from value import Value

    return plain(Value)


# whole arrays at a time


def torch():
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    nn, functional = torch.nn, torch.nn.functional
    from mingrad.examples.microgpt import BETAS, BLOCK, EPSILON, HEADS, RATE, TINY, WIDTH

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            count = len(LETTERS) + 1
            self.token, self.position = nn.Embedding(count, WIDTH), nn.Embedding(BLOCK, WIDTH)
            for name in ("query", "key", "value", "join"):
                setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))
            self.widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
            self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)
            self.output = nn.Linear(WIDTH, count, bias=False)
            self.norm = nn.RMSNorm(WIDTH, eps=EPSILON, elementwise_affine=False)

        def forward(self, tokens):
            def heads(x):
                return x.view(-1, HEADS, WIDTH // HEADS).transpose(0, 1)

            x = self.token(tokens) + self.position.weight[: len(tokens)]
            normed = self.norm(x)
            found = functional.scaled_dot_product_attention(
                heads(self.query(normed)), heads(self.key(normed)), heads(self.value(normed)), is_causal=True
            )
            x = x + self.join(found.transpose(0, 1).reshape(-1, WIDTH))
            x = x + self.narrow(torch.relu(self.widen(self.norm(x))))
            return self.output(self.norm(x))

    model = GPT()
    parameters = list(model.parameters())
    start = [torch.tensor(rows) for rows in weights().values()]

    def restart():
        with torch.no_grad():
            for p, w in zip(parameters, start):
                p.copy_(w)

    restart()
    optimizer = torch.optim.Adam(parameters, lr=RATE, betas=BETAS, eps=TINY)
    tokens = [torch.tensor(name) for name in documents()]
    graphs = []

    def loss_of(name):
        return functional.cross_entropy(model(name[:-1]), name[1:])

    def step(n):
        for _ in range(n):
            for name in tokens:
                loss = loss_of(name)
                loss.backward()
                value = loss.item()
        return value

    def train(n):
        for _ in range(n):
            for name in tokens:
                loss = loss_of(name)
                optimizer.zero_grad(set_to_none=False)
                loss.backward()
                optimizer.step()
                value = loss.item()
        return value

    def record():
        graphs[:] = [loss_of(name) for name in tokens]

    def backward(n):
        for _ in range(n):
            for loss in graphs:
                loss.backward(retain_graph=True)

    def adam(n):
        graphs.clear()
        for _ in range(n):
            optimizer.step()

    def check(n):
        model.zero_grad(set_to_none=False)
        losses = []
        for name in tokens:
            loss = loss_of(name)
            loss.backward()
            losses.append(loss.item())
        return losses + torch.cat([p.grad.ravel() for p in parameters])[::97].tolist()

    return cases(step, check, **{BACKWARD: Case(backward, record), ADAM: Case(adam), TRAIN: Case(train, restart)})


def jax():
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    from mingrad.examples.microgpt import BETAS, EPSILON, HEADS, RATE, TINY, WIDTH

    start = {name: jnp.array(rows) for name, rows in weights().items()}
    tokens = [jnp.array(name) for name in documents()]  # each length is compiled once

    def norm(x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON)

    def loss_of(p, name):
        before, after = name[:-1], name[1:]
        n = len(before)
        x = p["token"][before] + p["position"][:n]
        normed = norm(x)
        query, key, value = ((normed @ p[part].T).reshape(n, HEADS, WIDTH // HEADS) for part in ("query", "key", "value"))
        fits = jnp.einsum("qhi,khi->hqk", query, key) / (WIDTH // HEADS) ** 0.5
        seen = jnp.tril(jnp.ones((n, n), bool))
        shares = jax.nn.softmax(jnp.where(seen, fits, -jnp.inf))
        found = jnp.einsum("hqk,khi->qhi", shares, value)
        x = x + found.reshape(n, WIDTH) @ p["join"].T
        x = x + jax.nn.relu(norm(x) @ p["widen"].T) @ p["narrow"].T
        logits = norm(x) @ p["output"].T
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), after[:, None], axis=1)
        return -jnp.mean(chosen)

    both = jax.jit(jax.value_and_grad(loss_of))

    @jax.jit
    def update(p, g, means, squares, steps):
        of_means, of_squares = 1 - BETAS[0] ** steps, 1 - BETAS[1] ** steps
        means = jax.tree.map(lambda m, d: BETAS[0] * m + (1 - BETAS[0]) * d, means, g)
        squares = jax.tree.map(lambda s, d: BETAS[1] * s + (1 - BETAS[1]) * d * d, squares, g)
        p = jax.tree.map(lambda w, m, s: w - RATE * (m / of_means) / (jnp.sqrt(s / of_squares) + TINY), p, means, squares)
        return p, means, squares, steps + 1

    @jax.jit
    def both_and_update(p, means, squares, steps, name):
        loss, g = jax.value_and_grad(loss_of)(p, name)
        return loss, update(p, g, means, squares, steps)

    zero = jax.tree.map(jnp.zeros_like, start)

    def train(n):
        state = start, zero, zero, 1.0
        for _ in range(n):
            for name in tokens:
                loss, state = both_and_update(*state, name)
                value = float(loss)
        jax.block_until_ready(state)
        return value

    def step(n):
        for _ in range(n):
            for name in tokens:
                loss, gradient = both(start, name)
                value = float(loss)
        jax.block_until_ready(gradient)
        return value

    def adam(n):
        _, g = both(start, tokens[0])
        state = start, zero, zero, 1.0
        for _ in range(n):
            state = update(state[0], g, *state[1:])
        jax.block_until_ready(state)

    def check(n):
        losses, gradients = zip(*(both(start, name) for name in tokens))
        total = [sum(np.asarray(g[name]) for g in gradients) for name in start]
        return [*map(float, losses), *np.concatenate([g.ravel() for g in total])[::97].tolist()]

    return cases(step, check, **{ADAM: Case(adam), TRAIN: Case(train)})


def casadi():
    """A function for each length, of the weights, of the embedded letters and of the targets.

    CasADi's graphs have no indexing by a number that is not known yet; NumPy looks the letters up
    and adds their gradients.
    """
    import casadi
    import numpy as np

    from mingrad.examples.microgpt import EPSILON, HEADS, WIDTH

    start = {name: np.array(rows) for name, rows in weights().items()}
    gradients = {name: np.zeros_like(w) for name, w in start.items()}
    inner = list(start)[2:]

    def norm(x):
        return x / casadi.sqrt(casadi.sumsqr(x) / WIDTH + EPSILON)

    def compiled(n):
        p = {name: casadi.SX.sym(name, *start[name].shape) for name in inner}
        embedded = casadi.SX.sym("embedded", WIDTH, n)
        targets = casadi.SX.sym("targets", len(LETTERS) + 1, n)  # columns with a single 1
        keys, values, total = [], [], 0
        for k in range(n):
            x = embedded[:, k]
            normed = norm(x)
            query = p["query"] @ normed
            keys.append(p["key"] @ normed)
            values.append(p["value"] @ normed)
            found = []
            for h in range(0, WIDTH, WIDTH // HEADS):
                part = slice(h, h + WIDTH // HEADS)
                fits = casadi.vertcat(*(casadi.dot(query[part], key[part]) for key in keys))
                fits /= (WIDTH // HEADS) ** 0.5
                powers = casadi.exp(fits - casadi.mmax(fits))
                found.append(casadi.horzcat(*(value[part] for value in values)) @ powers / casadi.sum1(powers))
            x += p["join"] @ casadi.vertcat(*found)
            x += p["narrow"] @ casadi.fmax(p["widen"] @ norm(x), 0)
            logits = p["output"] @ norm(x)
            total += casadi.logsumexp(logits) - casadi.dot(logits, targets[:, k])
        inputs = [*p.values(), embedded, targets]
        differentiated = inputs[:-1]
        flat = casadi.veccat(*differentiated)
        gradient = casadi.gradient(total / n, flat)
        return casadi.Function("both", inputs, [total / n, gradient])

    tokens = [np.array(name) for name in documents()]
    functions = {len(name): compiled(len(name) - 1) for name in tokens}
    identity = np.eye(len(LETTERS) + 1)
    splits = np.cumsum([start[name].size for name in inner])

    def both(name):
        before, after = name[:-1], name[1:]
        embedded = start["token"][before] + start["position"][: len(before)]
        loss, gradient = functions[len(name)](*(start[name] for name in inner), embedded.T, identity[:, after])
        *parts, letters = np.split(gradient.full()[:, 0], splits)
        letters = letters.reshape(len(before), WIDTH)
        np.add.at(gradients["token"], before, letters)
        gradients["position"][: len(before)] += letters
        for name, part in zip(inner, parts):
            gradients[name] += part.reshape(start[name].shape, order="F")
        return float(loss)

    def step(n):
        for _ in range(n):
            for name in tokens:
                value = both(name)
        return value

    def check(n):
        for g in gradients.values():
            g[:] = 0.0
        losses = [both(name) for name in tokens]
        return losses + np.concatenate([g.ravel() for g in gradients.values()])[::97].tolist()

    return cases(step, check)


def c():
    import ctypes

    from native import doubles, library

    from mingrad.examples.microgpt import BETAS, RATE, TINY

    code = library("microgpt")
    code.microgpt.restype = code.microgpt_train.restype = ctypes.c_double
    start = doubles(flat(weights().values()))
    grad, means, squares = (doubles([0.0] * len(start)) for _ in range(3))
    first = doubles(start)
    settings = tuple(map(ctypes.c_double, (RATE, *BETAS, TINY)))
    tokens = documents()
    together = [token for name in tokens for token in name]
    together = (ctypes.c_int * len(together))(*together)
    lengths = (ctypes.c_int * NAMES)(*(len(name) - 1 for name in tokens))
    steps = 0

    def step(n):
        return code.microgpt(start, grad, together, lengths, NAMES, ctypes.c_long(n))

    def adam(n):
        nonlocal steps
        for _ in range(n):
            steps += 1
            code.adam(start, grad, means, squares, ctypes.c_long(len(start)), steps, *settings)

    def restart():
        for numbers in (means, squares):
            ctypes.memset(numbers, 0, ctypes.sizeof(numbers))
        ctypes.memmove(start, first, ctypes.sizeof(start))

    def train(n):
        return code.microgpt_train(
            start, grad, means, squares, ctypes.c_long(len(start)), together, lengths, NAMES, ctypes.c_long(n), *settings
        )

    def check(n):
        ctypes.memset(grad, 0, ctypes.sizeof(grad))
        losses = []
        for name in tokens:
            here = (ctypes.c_int * len(name))(*name)
            losses.append(code.microgpt(start, grad, here, (ctypes.c_int * 1)(len(name) - 1), 1, ctypes.c_long(1)))
        return losses + grad[::97]

    return cases(step, check, **{ADAM: Case(adam), TRAIN: Case(train, restart)})


FORMS = {
    PLAIN: Form(mingrad_plain),
    COMPILED: Form(mingrad_compiled),
    LAYERS: Form(mingrad_layers),
    VALUE: Form(pure_python),
    VALUE + ", GC off": Form(pure_python, gc=False),
    TORCH: Form(torch),
    JAX: Form(jax),
    CASADI: Form(casadi),
    C: Form(c),
}
KNOWING = {
    BACKWARD: (PLAIN, LAYERS, VALUE, TORCH),
    ADAM: (PLAIN, LAYERS, VALUE, TORCH, JAX, C),
    TRAIN: (PLAIN, COMPILED, LAYERS, VALUE, TORCH, JAX, C),
}


def check_training(bench, workers):
    """Compare the forms after the first NAMES steps; once only, as some go on from where they were.
    Adam divides by roots of sums of squares: roundings grow where these are tiny."""
    bench.agree("loss of a training step", {name: [worker.ask(TRAIN)["value"]] for name, worker in workers.items()}, 1e-6)


def measure(bench):
    picked, source = names()
    bench.note(f"names: {', '.join(picked)} (of {source})")
    with bench.workers(__name__, FORMS) as workers:
        answers = {name: worker.ask("check")["value"] for name, worker in workers.items()}
        bench.agree("losses and every 97th partial", answers, 1e-9)
        check_training(bench, {name: workers[name] for name in KNOWING[TRAIN] if name in workers})
        steps = bench.time_rows(workers, STEP, baseline=LAYERS, per=NAMES)
        shares = [workers[PLAIN].ask("share", 10)["value"] for _ in range(bench.samples)]
        memory = {name: worker.ask("memory")["value"] for name, worker in workers.items()}
        knowing = {case: {name: workers[name] for name in forms if name in workers} for case, forms in KNOWING.items()}
        bench.time_rows(knowing[BACKWARD], BACKWARD, baseline=LAYERS, per=NAMES)
        bench.time_rows(knowing[ADAM], ADAM, baseline=LAYERS)
        bench.time_rows(knowing[TRAIN], TRAIN, baseline=LAYERS, per=NAMES)
    for name, (before, peak) in memory.items():
        if before is not None:
            bench.row("memory", name + ", before the first step", before, "MB")
            bench.row("memory", name + ", at its peak", peak, "MB")
    get = steps.get
    bench.target("microgpt, plain loops: pure-Python Value / mingrad", ratio(get(VALUE), get(PLAIN)), 35, at_least=True)
    bench.target("microgpt, plain loops: backward / step", statistics.median(shares), 0.1)
    bench.target("microgpt, layers: pure-Python Value / mingrad", ratio(get(VALUE), get(LAYERS)), 1000, at_least=True)
