"""Soak: hours of mixed work in two threads with faults injected; no crash, no growth, no wrong number.

    python tests/soak.py --minutes 60
    python tests/soak.py --minutes 2 --seed 7 --only files kills

Not a test file: pytest does not run it. What runs at once in two threads: training (own neurons, layers, optimisers, fit with
checkpoints), recording (compile with branches that flip, vmap, map, record), transforms, and files of every kind. What goes wrong
on purpose meanwhile: allocations of the core fail, KeyboardInterrupt comes at any moment (to the main thread as a signal, to the
other as an asynchronous exception), the tape collects at sizes that change, a process that writes files is killed in the midst.

Every job ends in numbers, which are compared with others that mingrad had no part in: plain floats, closed forms, the engine of
tests/reference.py. A job that a fault has ended is begun anew until it ends by itself. What must hold between jobs: Variables
that no job touches have the bits they had, modes are as they were, a file is as one of the last two writers left it.

Once in a while both threads pause, and after a fifth of the time these must stay the same: nodes on the tape, Variables alive,
threads, open files. Resident memory and Python's allocated blocks may not rise: the straight line fitted to the second half of
the run must rise by less than 2 % over that half. A wrong number, growth, an exception that nobody caused, a dead or silent
process: exit code 1 and the reason.
"""

import argparse
import collections
import contextlib
import copy
import ctypes
import faulthandler
import gc
import json
import math
import os
import pickle
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import mingrad
import reference
from mingrad import _core, nn, optim

SILENCE = 240  # seconds without a line after which the child counts as hanging
LEVELS = (1, 3, 64, 4096, 131072)  # sizes of the tape's young part, by turns


class Wrong(Exception):
    """What the soak is there to find."""


# -- jobs ------------------------------------------------------------------------------------------
#
# A job is a function of a seed and the worker that does it; it returns numbers. Its truth is a function of the seed that returns
# (the same numbers by other means, the relative difference allowed: 0 for the same bits, where the order of roundings is given).

JOBS = {}


def job(truth, weight=1.0):
    def keep(function):
        JOBS[function.__name__] = function, truth, weight
        return function

    return keep


def rows_of(rng, count, width):
    return [[rng.uniform(-1.5, 1.5) for _ in range(width)] for _ in range(count)]


def moons(engine, seed):
    """Three steps of a learner's own neurons, 2-3-1 with relu and a hinge loss; every op has one rounding."""
    rng = random.Random(seed)
    X, y = rows_of(rng, 6, 2), [rng.choice([-1.0, 1.0]) for _ in range(6)]
    neurons = [[engine.Variable(rng.uniform(-1, 1)) for _ in range(3)] for _ in range(3)]
    last = [engine.Variable(rng.uniform(-1, 1)) for _ in range(4)]
    parameters = [p for neuron in neurons for p in neuron] + last
    found = []
    for _ in range(3):
        total = 0.0
        for row, target in zip(X, y):
            hidden = [(n[0] * row[0] + n[1] * row[1] + n[2]).relu() for n in neurons]
            score = last[3] + last[0] * hidden[0] + last[1] * hidden[1] + last[2] * hidden[2]
            total = total + (1.0 - target * score).relu()
        for p in parameters:
            p.zero_grad()
        total = total * 0.125
        total.backward()
        for p in parameters:
            p.data -= 0.25 * p.grad
        found.append(total.data)
    return found + [p.data for p in parameters] + [p.grad for p in parameters]


@job(lambda seed: (moons(reference, seed), 0.0), weight=2.0)
def neurons(seed, worker):
    return moons(mingrad, seed)


def tanh_net(seed):
    rng = random.Random(seed)
    X, y = rows_of(rng, 5, 2), [rng.uniform(-1, 1) for _ in range(5)]
    return X, y, [rng.uniform(-1, 1) for _ in range(17)], seed % 2  # 2-4-1: 8 + 4 + 4 + 1


def layers_by_hand(seed):
    X, y, p, adam = tanh_net(seed)
    moved, squares, losses = [0.0] * 17, [0.0] * 17, []
    for step in range(1, 5):
        g, loss = [0.0] * 17, 0.0
        for row, target in zip(X, y):
            hidden = [math.tanh(math.fsum([p[2 * j] * row[0], p[2 * j + 1] * row[1], p[8 + j]])) for j in range(4)]
            off = math.fsum([p[12 + j] * h for j, h in enumerate(hidden)] + [p[16]]) - target
            loss += off * off / 5
            g[16] += 2 * off / 5
            for j, h in enumerate(hidden):
                g[12 + j] += 2 * off / 5 * h
                back = 2 * off / 5 * p[12 + j] * (1 - h * h)
                g[8 + j] += back
                g[2 * j] += back * row[0]
                g[2 * j + 1] += back * row[1]
        losses.append(loss)
        for k in range(17):
            if adam:
                moved[k] = 0.9 * moved[k] + 0.1 * g[k]
                squares[k] = 0.999 * squares[k] + 0.001 * g[k] * g[k]
                p[k] -= 0.05 * moved[k] / (1 - 0.9**step) / (math.sqrt(squares[k] / (1 - 0.999**step)) + 1e-8)
            else:
                moved[k] = 0.5 * moved[k] + g[k] if step > 1 else g[k]
                p[k] -= 0.05 * moved[k]
    return losses + p, 1e-9


@job(layers_by_hand, weight=2.0)
def layers(seed, worker):
    X, y, p, adam = tanh_net(seed)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    parameters = model.parameters()
    mingrad.VariableList(parameters).data = p
    optimizer = optim.Adam(parameters, lr=0.05) if adam else optim.SGD(parameters, lr=0.05, momentum=0.5)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = nn.mse_loss(model(X), [[t] for t in y])
        loss.backward()
        optimizer.step()
        losses.append(loss.data)
    return losses + [q.data for q in parameters]


def maze(x, y, ws):
    """Which way it goes depends on the numbers; exact operations alone."""
    total = x * ws[0]
    for w in ws:
        total = total - w * y if total > y else total + w * x
    if total * total > 4.0:
        total = total / (1.0 + total * total)
    return total * x + y


compiled_maze = mingrad.compile(maze, max_programs=24)  # more ways than that: recordings come and go


def maze_numbers(seed):
    rng = random.Random(seed)
    return [(rng.uniform(-2, 2), rng.uniform(-2, 2), [rng.uniform(-1, 1) for _ in range(5)]) for _ in range(6)]


def maze_by_hand(seed):
    found = []
    for x, y, ws in maze_numbers(seed):
        refs = [reference.Variable(v) for v in (x, y, *ws)]
        maze(refs[0], refs[1], refs[2:]).backward()
        found += [maze(x, y, ws), refs[0].grad, refs[1].grad, *[r.grad for r in refs[2:]]]
    return [x + 0.0 for x in found], 0.0  # of recorded programs the sign of a zero is open


@job(maze_by_hand, weight=2.0)
def compiled(seed, worker):
    found = []
    for x, y, ws in maze_numbers(seed):
        if seed % 3 == 0:
            value, (dx, dy, dws) = mingrad.value_and_grad(compiled_maze, (0, 1, 2))(x, y, ws)
        else:
            leaves = [mingrad.Variable(v) for v in (x, y, *ws)]
            result = compiled_maze(leaves[0], leaves[1], leaves[2:])
            result.backward()
            value, dx, dy, dws = result.data, leaves[0].grad, leaves[1].grad, [leaf.grad for leaf in leaves[2:]]
        if seed % 3 == 1:
            with mingrad.no_grad():
                value = compiled_maze(x, y, ws)
        found += [value, dx, dy, *dws]
    return [x + 0.0 for x in found]


def ways(x, y):
    return x * y + x if x < y else mingrad.exp(y - x) * 0.5


def ways_by_hand(seed):
    values, dx, dy = [], [], []
    for x, y in rows_of(random.Random(seed), 40, 2):
        e = 0.5 * math.exp(y - x)
        values.append(x * y + x if x < y else e)
        dx.append(y + 1 if x < y else -e)
        dy.append(x if x < y else e)
    return values + dx + dy, 1e-13


@job(ways_by_hand)
def rows(seed, worker):
    xs, ys = zip(*rows_of(random.Random(seed), 40, 2))
    values, (dx, dy) = mingrad.vmap(ways, grad="rows", threads=1 + seed % 2)(list(xs), list(ys))
    return [float(x) for column in (values, dx, dy) for x in column]


def quadratic(seed):
    rng = random.Random(seed)
    return [[rng.uniform(-1, 1) for _ in range(4)] for _ in range(4)], [rng.uniform(-1, 1) for _ in range(4)]


def replay_by_hand(seed):
    a, x = quadratic(seed)
    found = []
    for step in range(3):
        x = [v + 0.25 * step for v in x]
        found.append(math.fsum(a[i][j] * x[i] * x[j] for i in range(4) for j in range(4)))
        found += [math.fsum((a[i][j] + a[j][i]) * x[j] for j in range(4)) for i in range(4)]
    return found, 1e-10


@job(replay_by_hand)
def replay(seed, worker):
    a, x = quadratic(seed)
    leaves = [mingrad.Variable(v) for v in x]
    graph = mingrad.record(sum(a[i][j] * leaves[i] * leaves[j] for i in range(4) for j in range(4)))
    found = []
    for step in range(3):
        for leaf in leaves:
            leaf.data += 0.25 * step
            leaf.zero_grad()
        found.append(graph.forward())
        graph.backward()
        found += [leaf.grad for leaf in leaves]
    return found


def cubic(x):
    """sum of x[i]**2 * x[i+1], cyclic, and sin(x[0])."""
    return mingrad.sum([x[i] * x[i] * x[(i + 1) % 4] for i in range(4)]) + mingrad.sin(x[0])


def transforms_by_hand(seed):
    a, x = quadratic(seed)
    v = a[0]
    h = [[0.0] * 4 for _ in range(4)]
    for i in range(4):
        j = (i + 1) % 4
        h[i][i] += 2 * x[j]
        h[i][j] += 2 * x[i]
        h[j][i] += 2 * x[i]
    h[0][0] -= math.sin(x[0])
    gradient = [2 * x[i] * x[(i + 1) % 4] + x[i - 1] ** 2 + (math.cos(x[0]) if i == 0 else 0.0) for i in range(4)]
    product = [math.fsum(p * q for p, q in zip(row, v)) for row in h]
    along = math.fsum(p * q for p, q in zip(gradient, v))
    return [y for row in h for y in row] + product + gradient + [along, 12 * x[0] ** 2, math.cos(x[1])], 1e-11


@job(transforms_by_hand, weight=1.5)
def transforms(seed, worker):
    a, x = quadratic(seed)
    v = a[0]
    h = mingrad.hessian(cubic)(x)
    if seed % 2:
        product = mingrad.hvp(cubic, (x,), (v,))
    else:
        product = mingrad.jvp(mingrad.grad(cubic), (x,), (v,))[1]
    along = mingrad.jvp(cubic, (x,), (v,))[1]
    t = mingrad.Variable(x[0])
    (t**4).backward(create_graph=True)
    first = t.grad
    t.zero_grad()
    first.backward()
    second = t.grad
    return (
        [y for row in h for y in row]
        + list(product)
        + mingrad.grad(cubic)(x)
        + [
            along,
            float(second.data if isinstance(second, mingrad.Variable) else second),
            foreign_sine(mingrad.Variable(x[1])),
        ]
    )


@mingrad.custom_vjp
def foreign(x):
    return math.sin(x)


foreign.defvjp(lambda x: (math.sin(x), x), lambda x, g: (g * math.cos(x),))


def foreign_sine(x):
    seen = []
    x.register_hook(seen.append)
    foreign(x).backward()
    if len(seen) != 1 or seen[0] != x.grad:
        raise Wrong(f"a hook saw {seen}, the grad is {x.grad!r}")
    return x.grad


def chain_by_hand(seed):
    rng = random.Random(seed)
    x, factors = rng.uniform(-1, 1), [rng.uniform(-0.9, 0.9) for _ in range(2000)]
    values = [x]
    for factor in factors:
        values.append(values[-1] * factor + x)
    adjoint, dx = 1.0, 0.0
    for factor in reversed(factors):
        dx += adjoint
        adjoint *= factor
    return [values[-1], dx + adjoint], 1e-12


@job(chain_by_hand, weight=0.5)
def chain(seed, worker):
    """Deep, and nothing of it is held but its end."""
    rng = random.Random(seed)
    x = mingrad.Variable(rng.uniform(-1, 1))
    y = x
    for _ in range(2000):
        y = y * rng.uniform(-0.9, 0.9) + x
    y.backward()
    return [y.data, x.grad]


@job(lambda seed: (layers_by_hand(seed)[0][4:] * 3, 1e-9), weight=0.5)
def copies(seed, worker):
    """A trained model, a deep copy of it and what pickle makes of it."""
    found = layers(seed, worker)[4:]
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    mingrad.VariableList(model.parameters()).data = found
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found += [p.data for p in twin.parameters()]
        twin.parameters()[0].data = 7.0
    if [p.data for p in model.parameters()] != found[:17]:
        raise Wrong("a copy is not one of its own")
    return found


def weights(seed):
    rng = random.Random(seed)
    return [[rng.uniform(-1, 1) for _ in range(40)] for _ in range(8)]


@job(lambda seed: ([x for row in weights(seed) for x in row] * 2, 0.0), weight=0.2)
def files(seed, worker):
    """Write, read; and before that the file must be as one of the last two writings left it, whatever became of them."""
    found = []
    for ending in (".npz", ".safetensors"):
        path = os.path.join(worker.folder, "weights" + ending)
        known = worker.written.setdefault(path, collections.deque(maxlen=2))
        if known and os.path.exists(path):
            on_disk = mingrad.load(path)["w"]
            if not any(on_disk == weights(k) for k in known):
                raise Wrong(f"{path} holds what none of the last two writings held")
        if not known or known[-1] != seed:
            known.append(seed)
        mingrad.save(path, {"w": weights(seed)}, metadata={"seed": str(seed)})
        while len(known) > 1:
            known.popleft()
        found += [x for row in mingrad.load(path)["w"] for x in row]
    return found


def affine(x, w, b):
    return [w * x + b if x < b else mingrad.tanh(w * x), x * 2.0]


def programs_by_hand(seed):
    x, w, b = rows_of(random.Random(seed), 1, 3)[0]
    return [w * x + b if x < b else math.tanh(w * x), x * 2.0], 1e-14


@job(programs_by_hand, weight=0.4)
def programs(seed, worker):
    x, w, b = rows_of(random.Random(seed), 1, 3)[0]
    w, b = mingrad.Variable(w), mingrad.Variable(b)
    path = os.path.join(worker.folder, "affine.program")
    function = mingrad.compile(lambda x: affine(x, w, b))
    function(x)
    function.programs[0].save(path)
    program = mingrad.Program.load(path)
    if seed % 2:
        return [float(column[1]) for column in program.map([[x, x]])]
    return [y.data if isinstance(y, mingrad.Variable) else y for y in program(x)]


EPOCHS = 5


def line_data(seed):
    rng = random.Random(seed)
    return [[rng.uniform(-1, 1)] for _ in range(7)], [rng.uniform(-1, 1) for _ in range(7)], seed % 1000


def line_by_hand(seed, epochs=EPOCHS):
    X, y, shuffle = line_data(seed)
    order, w, b, losses = random.Random(shuffle), 0.5, 0.0, []
    for _ in range(epochs):
        keys = [order.random() for _ in X]
        places = sorted(range(7), key=keys.__getitem__)
        total = 0.0
        for batch in (places[:4], places[4:]):
            off = [w * X[i][0] + b - y[i] for i in batch]
            total += math.fsum(d * d for d in off)
            gw = math.fsum(2 * d * X[i][0] for d, i in zip(off, batch)) / len(batch)
            gb = math.fsum(2 * d for d in off) / len(batch)
            w, b = w - 0.1 * gw, b - 0.1 * gb
        losses.append(total / 7)
    return losses + [w, b], 1e-11


def line_training(seed, path, epochs=EPOCHS):
    """A straight line by fit, which goes on where the checkpoint at path, if any, has ended."""
    X, y, shuffle = line_data(seed)
    model = nn.Linear(1, 1)
    model.weight[0][0].data, model.bias[0].data = 0.5, 0.0
    history = mingrad.fit(
        model,
        (X, [[t] for t in y]),
        loss=nn.mse_loss,
        optimizer=optim.SGD(model.parameters(), lr=0.1),
        epochs=epochs,
        batch_size=4,
        shuffle=shuffle,
        callbacks=[mingrad.Checkpoint(path)],
        progress=False,
        resume=path if os.path.exists(path) else None,
    )
    return history["loss"] + [model.weight[0][0].data, model.bias[0].data]


@job(line_by_hand, weight=0.15)
def checkpoints(seed, worker):
    path = os.path.join(worker.folder, f"run-{seed}.npz")  # what a fault has ended goes on, it does not begin anew
    found = line_training(seed, path)
    os.remove(path)
    return found


KILLED = ("big.npz", "big.safetensors", "chain.program", "run.npz")


def big(k):
    return [math.sin(i + 1000.0 * k) for i in range(20_000)]


def write_for_ever(folder):
    """The process that gets killed: it writes each file of KILLED by turns, in two versions, and says so once."""
    paths = [os.path.join(folder, name) for name in KILLED]
    numbers, chains = [big(0), big(1)], []
    for k in range(2):
        chain = mingrad.compile(lambda x, k=k: sum((math.sin(i + 1000.0 * k) * x for i in range(500)), 0.0))
        chain(1.0)
        chains.append(chain.programs[0])
    for turn in range(1_000_000):
        for path in paths[:2]:
            mingrad.save(path, {"w": numbers[turn % 2]}, metadata={"turn": str(turn)})
        chains[turn % 2].save(paths[2])
        with contextlib.suppress(FileNotFoundError):
            os.remove(paths[3])
        line_training(5, paths[3])
        if turn == 0:
            print("written", flush=True)


def kills_by_hand(seed):
    return [1.0, 1.0, 1.0, *line_by_hand(5)[0]], 1e-11


@job(kills_by_hand, weight=0.0)  # its turn comes by the clock
def kills(seed, worker):
    """A process that writes is killed; each file is whole, one version or the other."""
    folder = tempfile.mkdtemp(dir=worker.folder)
    try:
        with worker.in_peace():
            child = subprocess.Popen([sys.executable, __file__, "--writer", folder], stdout=subprocess.PIPE)
            try:
                if child.stdout.readline() != b"written\n":
                    raise Wrong("the writing process did not get to write")
                time.sleep(random.Random(seed).uniform(0.0, 0.1))
            finally:
                child.kill()
                child.wait()
                child.stdout.close()
        paths = [os.path.join(folder, name) for name in KILLED]
        cut = any(name.startswith(".mingrad-") for name in os.listdir(folder))
        found = [float(any(mingrad.load(path)["w"] == big(k) for k in range(2))) for path in paths[:2]]
        values = [math.fsum(math.sin(i + 1000.0 * k) for i in range(500)) for k in range(2)]
        got = mingrad.Program.load(paths[2])(1.0)
        found.append(float(any(abs(got - value) < 1e-9 for value in values)))
        found += line_training(5, paths[3])
        worker.killed += 1
        worker.cut += cut
        return found
    finally:
        with worker.in_peace():
            shutil.rmtree(folder)


# -- workers ---------------------------------------------------------------------------------------


class Worker:
    """A thread's life: jobs one after the other, faults between and in the midst of them."""

    def __init__(self, name, seed, only):
        self.name, self.rng = name, random.Random(f"{seed} {name}")
        self.folder = tempfile.mkdtemp(prefix=f"mingrad-soak-{name}-")
        self.names = [n for n in JOBS if n in only] if only else list(JOBS)
        self.jobs = collections.Counter()
        self.memory = self.interrupts = self.lost = self.killed = self.cut = 0
        self.written = {}
        self.armed = self.sent = self.busy = False  # see Pest.interrupt()
        self.ident = None
        self.next_kill = time.monotonic() + self.rng.uniform(0, 10)
        rng = random.Random(name)
        self.witnesses = [mingrad.Variable(rng.uniform(-1, 1), label=f"{name} {k}") for k in range(40)]
        for k, v in enumerate(self.witnesses):
            v.grad = k / 7
        self.held = mingrad.sum([a * b for a, b in zip(self.witnesses, self.witnesses[1:])])
        self.seen = self.witness()

    def witness(self):
        return [(v.data, v.grad, v.label, v.requires_grad) for v in self.witnesses] + [(self.held.data, self.held.is_leaf)]

    @contextlib.contextmanager
    def in_peace(self):
        """Nothing interrupts the block. What was under way comes before it."""
        self.settle()
        try:
            yield
        finally:
            self.armed = not self.sent

    def settle(self):
        """Let no interrupt come from now on, but the one that is under way; whether it is that none came although one was sent."""
        self.armed = False
        while self.busy:
            time.sleep(0)
        if self.sent:
            for _ in range(1000):
                time.sleep(0)
        return self.sent

    def one(self):
        """One job, to its end."""
        weighted = [JOBS[name][2] for name in self.names]
        name = self.rng.choices(self.names, weighted)[0] if any(weighted) else self.names[0]
        if "kills" in self.names and time.monotonic() > self.next_kill:
            name, self.next_kill = "kills", time.monotonic() + 10.0
        function, truth, _ = JOBS[name]
        seed = self.rng.randrange(1_000_000)
        for _ in range(200):
            found, fault = self.attempt(function, seed)
            self.check(name, seed, fault)
            if found is not None:
                break
        else:
            raise Wrong(f"{name}({seed}) does not come to an end")
        with TRUTH:
            expected, allowed = truth(seed)
        compare(name, seed, found, expected, allowed)
        self.jobs[name] += 1

    def attempt(self, function, seed):
        """(numbers, None) or (None, the fault that ended it)."""
        found = fault = None
        self.sent = False
        try:
            try:
                self.armed = True
                found = function(seed, self)
            except MemoryError as error:
                if "a test asked" not in str(error):
                    raise
                fault = "MemoryError"
            self.lost += self.settle()  # swallowed by what ran when it came
        except KeyboardInterrupt:
            found, fault = None, "KeyboardInterrupt"
            self.armed = False
            self.interrupts += 1
        self.memory += fault == "MemoryError"
        return found, fault

    def check(self, name, seed, fault):
        """What no fault may change."""
        where = f"after {name}({seed}), {fault or 'no fault'}"
        if not mingrad.is_grad_enabled():
            raise Wrong(f"{where}: recording is switched off")
        if _core._is_recording():
            raise Wrong(f"{where}: a Recording is still on")
        if self.witness() != self.seen:
            raise Wrong(f"{where}: Variables that nobody touched are {self.witness()}, not {self.seen}")
        if fault and any(name.startswith(".mingrad-") for name in os.listdir(self.folder)):
            raise Wrong(f"{where}: a temporary file is left")
        if self.rng.random() < 0.05:
            self.walk(where)

    def walk(self, where):
        """Adjoints in the graph that was recorded at the start."""
        while True:
            try:
                got = _core._adjoint_values([self.held], [1.0], self.witnesses)
                break
            except MemoryError:
                continue
        values = [0.0, *[value for value, *_ in self.seen[:-1]], 0.0]
        expected = [before + after for before, after in zip(values, values[2:])]
        if got != expected:
            raise Wrong(f"{where}: adjoints of the witnesses are {got}, expected {expected}")


TRUTH = threading.Lock()  # the reference engine counts its nodes for one thread alone


def compare(name, seed, found, expected, allowed):
    if len(found) != len(expected):
        raise Wrong(f"{name}({seed}): {len(found)} numbers, expected {len(expected)}")
    for k, (x, y) in enumerate(zip(found, expected)):
        same = x == y and math.copysign(1, x) == math.copysign(1, y)
        if not same and not (allowed and abs(x - y) <= allowed * max(1.0, abs(y))):
            raise Wrong(f"{name}({seed}), number {k}: got {x!r} ({x.hex()}), expected {y!r} ({y.hex()}) within {allowed}")


class Pest(threading.Thread):
    """What goes wrong."""

    def __init__(self, workers, seed):
        super().__init__(daemon=True)
        self.workers, self.rng = workers, random.Random(seed)
        self.quiet, self.resting, self.over = threading.Event(), threading.Event(), False
        self.error = None
        self.requests = 0

    def run(self):
        try:
            while not self.over:
                if self.quiet.is_set():
                    _core._fail_allocation(-1)
                    self.resting.set()
                    time.sleep(0.005)
                    continue
                time.sleep(self.rng.expovariate(1 / 0.02))
                what = self.rng.random()
                if what < 0.6:
                    _core._fail_allocation(int(2 ** self.rng.uniform(0, 11)) - 1)
                    self.requests += 1
                elif what < 0.9:
                    self.interrupt(self.rng.choice(self.workers))
                else:
                    _core._stress(self.rng.choice(LEVELS), self.rng.choice((0, 0, 1, 500)))
        except BaseException as error:
            self.error = error

    def interrupt(self, worker):
        """One at most in an attempt: the worker waits until it has come."""
        worker.busy = True
        if worker.armed:
            worker.armed, worker.sent = False, True
            if worker.ident == threading.main_thread().ident:
                signal.pthread_kill(worker.ident, signal.SIGINT)
            else:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(KeyboardInterrupt))
        worker.busy = False


# -- the child -------------------------------------------------------------------------------------


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Soak:
    def __init__(self, options):
        self.seconds, self.every = 60.0 * options.minutes, min(60.0, 60.0 * options.minutes / 20)
        self.workers = [Worker(name, options.seed, options.only) for name in ("main", "other")]
        self.pest = Pest(self.workers, options.seed)
        self.pause, self.parked, self.go_on = threading.Event(), threading.Event(), threading.Event()
        self.failure, self.over, self.samples = None, False, []
        self.unraisable = collections.Counter()

    def run(self):
        sys.setswitchinterval(0.0005)
        sys.unraisablehook = self.unraised
        warm()
        main, other = self.workers
        main.ident = threading.get_ident()
        thread = threading.Thread(target=self.other, args=(other,))
        thread.start()
        while other.ident is None:
            time.sleep(0.001)
        self.start = time.monotonic()
        self.pest.start()
        due = self.start + self.every
        try:
            while self.failure is None and time.monotonic() < self.start + self.seconds:
                main.one()
                if time.monotonic() >= due:
                    self.look()
                    due += self.every
            if not self.samples:
                self.look()
        except BaseException:
            self.failure = self.failure or traceback.format_exc()
        self.over = self.pest.over = True
        self.go_on.set()
        thread.join()
        self.pest.join()
        for worker in self.workers:
            shutil.rmtree(worker.folder)
        return [self.failure] if self.failure else grown(self.samples)

    def other(self, worker):
        try:
            worker.ident = threading.get_ident()
            while not self.over:
                worker.one()
                if self.pause.is_set():
                    self.parked.set()
                    self.go_on.wait()
        except BaseException:
            self.failure = traceback.format_exc()
            self.parked.set()

    def unraised(self, args):
        """A fault in a destructor or callback has nobody to go to. An archive that one left half-made complains when it dies."""
        kind = args.exc_type.__name__
        self.unraisable[kind] += 1
        if kind not in ("KeyboardInterrupt", "MemoryError") and args.object is not zipfile.ZipFile.__del__:
            self.failure = f"in {args.object!r}: {''.join(traceback.format_exception(args.exc_value))}"

    def look(self):
        """Both threads at rest: count what there is."""
        self.go_on.clear()
        self.pest.resting.clear()
        self.pest.quiet.set()
        self.pest.resting.wait()
        if self.pest.error is not None:
            raise self.pest.error
        self.parked.clear()
        self.pause.set()
        while not self.parked.wait(1) and self.failure is None:
            pass
        if self.failure is None:
            gc.collect()
            mingrad.collect()
            info = mingrad.tape_info()
            self.samples.append(
                {
                    "seconds": time.monotonic() - self.start,
                    "nodes": info.nodes,
                    "handles": info.handles,
                    "threads": threading.active_count(),
                    "open files": len(os.listdir("/proc/self/fd")),
                    "blocks": sys.getallocatedblocks(),
                    "resident": resident(),
                }
            )
            self.print_line(info)
        self.pause.clear()
        self.pest.quiet.clear()
        self.go_on.set()

    def print_line(self, info):
        s = self.samples[-1]
        jobs = sum((worker.jobs for worker in self.workers), collections.Counter())
        total = {
            name: sum(getattr(w, name) for w in self.workers) for name in ("memory", "interrupts", "lost", "killed", "cut")
        }
        print(
            f"{s['seconds'] / 60:6.1f} min  {jobs.total()} jobs  faults: {total['memory']} MemoryError, "
            f"{total['interrupts']} KeyboardInterrupt, {total['killed']} killed ({total['cut']} while writing)  "
            f"tape {info.nodes} nodes, {info.handles} Variables, {info.recorded} recorded, {info.collections} collections  "
            f"{s['blocks']} blocks  {s['resident'] / 2**20:.1f} MB  {s['threads']} threads  {s['open files']} files",
            flush=True,
        )
        self.summary = {"jobs": dict(sorted(jobs.items())), **total, "in destructors": dict(self.unraisable)}


SAME, LEVEL = ("nodes", "handles", "threads", "open files"), ("blocks", "resident")
RISE = 0.02


def grown(samples):
    """The rules of this file's first lines, as complaints."""
    end = samples[-1]["seconds"]
    late = [s for s in samples if s["seconds"] >= end / 5]
    problems = [f"{name} changed: {[s[name] for s in late]}" for name in SAME if any(s[name] != late[0][name] for s in late)]
    half = [s for s in samples if s["seconds"] >= end / 2]
    for name in LEVEL:
        rise = slope(half, name) * end / 2
        if rise > RISE * half[0][name]:
            problems.append(f"{name} grow: by {rise:.0f} over the last half, from {half[0][name]}")
    return problems


def slope(samples, name):
    """Of the straight line through the samples, per second."""
    t0 = math.fsum(s["seconds"] for s in samples) / len(samples)
    y0 = math.fsum(s[name] for s in samples) / len(samples)
    square = math.fsum((s["seconds"] - t0) ** 2 for s in samples)
    return math.fsum((s["seconds"] - t0) * (s[name] - y0) for s in samples) / square if square else 0.0


class Nobody(Worker):
    """Does each job once, before anything goes wrong: what is imported and cached at first use is there then."""

    def __init__(self):
        super().__init__("first", 0, [])


def warm():
    worker = Nobody()
    for name, (function, truth, _) in JOBS.items():
        for seed in range(4):
            compare(name, seed, function(seed, worker), *truth(seed))
            if name == "kills":
                break
    worker.armed = False
    shutil.rmtree(worker.folder)


def child(options):
    faulthandler.enable()
    soak = Soak(options)
    problems = soak.run()
    if soak.samples:
        end, half = soak.samples[-1], soak.samples[len(soak.samples) // 2 :]
        rises = {name: round(slope(half, name) * 3600) for name in LEVEL}
        print(f"summary: {json.dumps(soak.summary)}")
        print(
            f"summary: rise in an hour, by the last half: {rises['blocks']} blocks, {rises['resident'] / 1024:.0f} kB", end=""
        )
        print(f"; at the end {end['blocks']} blocks, {end['resident'] / 2**20:.1f} MB")
    for problem in problems:
        print(f"WRONG: {problem}")
    print("the soak found something" if problems else "nothing wrong", flush=True)
    return bool(problems)


# -- the parent ------------------------------------------------------------------------------------


def supervise(arguments):
    """Run the child; notice when it dies or falls silent."""
    command = [sys.executable, "-X", "faulthandler", __file__, "--child", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = queue.Queue()

    def read():
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (line := lines.get(timeout=SILENCE)) is not None:
            print(line, end="", flush=True)
    except queue.Empty:
        print(f"WRONG: nothing heard for {SILENCE} s; where its threads are:", flush=True)
        child.send_signal(signal.SIGABRT)
        while (line := lines.get(timeout=30)) is not None:
            print(line, end="", flush=True)
        child.kill()
    status = child.wait()
    if status < 0:
        print(f"WRONG: the child died of {signal.Signals(-status).name}")
    return status != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=[], help="these jobs alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--writer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        return write_for_ever(options.writer)
    if options.child:
        return child(options)
    print(f"mingrad {mingrad.__version__}, Python {sys.version.split()[0]}, seed {options.seed}, {options.minutes:g} minutes")
    return supervise(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
