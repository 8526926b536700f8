"""``python -m mingrad bench``: how fast mingrad is on this machine, beside what else is installed.

Four small programs, each in several forms that must give the same value and gradients. What is compared with: a micrograd-like
Value in pure Python, which is written here and so is always there; micrograd and PyTorch where they are installed. The
repository's own benchmarks (tests/benchmarks) have more peers and take longer.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import random
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from itertools import pairwise
from typing import Any, NamedTuple

from .. import __version__, _core, nn, optim, value_and_grad
from .. import compile as compiled
from ..engine import Variable
from ..examples import microgpt, moons

SAMPLE = 0.01  # seconds that one sample takes at least
ROUNDS = 3  # samples of each form at least
PEERS = {"micrograd": "micrograd", "torch": "PyTorch"}
METHOD = (
    "Wall time of one forward and backward pass, and how much that is of a program's first line; the median of samples that are "
    "taken in turns, a form after the other, so that what else the machine does falls on all; the first calls, which import, "
    "record and compile, are not counted; Python's cyclic collector is on; PyTorch has one thread."
)

Numbers = list[float]
Result = tuple[float, Callable[[], Numbers]]  # a value, and how its gradients are read, which is not measured
Form = Callable[[], Result]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure small programs in mingrad, in a pure-Python Value, and in micrograd and PyTorch where installed."
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--seconds", type=float, default=16.0, help="how long to measure, about (16)")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Measure and print; return 0, or 1 if two forms of a program differ."""
    if not 0.0 <= options.seconds <= 3600.0:
        parser.error(f"--seconds must be a number from 0 to 3600, got {options.seconds}")
    torch, micrograd = load("torch"), load("micrograd.engine")
    if torch is not None:
        torch.set_num_threads(1)
    programs = [make(torch, micrograd) for make in (chain, perceptron, names, rosenbrock)]
    figures = []
    for program in programs:
        say(f"measuring: {program.title}")
        figures.append(measure(program, options.seconds / len(programs)))
    say("")
    about = {
        "mingrad": f"{__version__} ({_core._simd()}, {_core._compiler()})",
        "Python": f"{platform.python_version()} on {platform.machine()}",
        **{title: version(package) for package, title in PEERS.items()},
    }
    if options.json:
        print(json.dumps({"versions": about, "method": METHOD, "programs": figures}, indent=2))
    else:
        print("\n".join(table(figures, about)))
    differing = [figure["program"] for figure in figures if not figure["agree"]]
    if differing:
        print(f"mingrad: forms give different numbers: {'; '.join(differing)}", file=sys.stderr)
    return int(bool(differing))


def say(text: str) -> None:
    """Write over the line at the terminal's cursor; elsewhere nothing."""
    if sys.stderr.isatty():
        print(f"\r{text:78}\r", end="", file=sys.stderr, flush=True)


def load(module: str) -> Any:
    """A module, or None if it is not installed or cannot be imported."""
    try:
        return import_module(module)
    except Exception:  # a broken installation of a peer is no reason not to measure the others
        return None


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# -- measuring ---------------------------------------------------------------------------------------


class Program(NamedTuple):
    title: str
    forms: dict[str, Form]  # the first is the one that others are compared with


def measure(program: Program, seconds: float) -> dict[str, Any]:
    """The figures of a program: median seconds of each form, and their ratio to the first's."""
    results, loops = {}, {}
    for name, form in program.forms.items():
        for _ in range(3):  # a compiled function records in its first call and makes its steps in the second
            begun = time.perf_counter()
            results[name] = form()
            once = time.perf_counter() - begun
            if once > 0.1:
                break
        loops[name] = max(1, math.ceil(SAMPLE / max(once, 1e-9)))
    samples: dict[str, Numbers] = {name: [] for name in program.forms}
    begun, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - begun < seconds:
        rounds += 1
        for name, form in program.forms.items():
            samples[name].append(timed(form, loops[name]))
    medians = {name: statistics.median(times) for name, times in samples.items()}
    first = next(iter(program.forms))
    rows = [
        {"form": name, "seconds": median, "ratio": median / medians[first], "samples": rounds}
        for name, median in medians.items()
    ]
    return {
        "program": program.title,
        "agree": agree([(value, read()) for value, read in results.values()]),
        "forms": rows,
    }


def timed(form: Form, loops: int) -> float:
    """Seconds of one call, the mean of a few in a row."""
    gc.collect()
    begun = time.perf_counter()
    for _ in range(loops):
        form()
    return (time.perf_counter() - begun) / loops


def agree(results: list[tuple[float, Numbers]]) -> bool:
    """Are values and gradients the same to 9 digits of the largest?"""
    value, gradients = results[0]
    largest = max(map(abs, gradients))
    return all(
        math.isclose(x, value, rel_tol=1e-9)
        and len(others) == len(gradients)
        and all(abs(g - h) <= 1e-9 * largest for g, h in zip(gradients, others))
        for x, others in results
    )


def table(figures: list[dict[str, Any]], about: dict[str, str | None]) -> list[str]:
    """The figures as lines of text."""
    lines = []
    width = max(len(row["form"]) for figure in figures for row in figure["forms"])
    for figure in figures:
        lines.append(figure["program"])
        for row in figure["forms"]:
            lines.append(f"  {row['form']:{width}}  {duration(row['seconds']):>9}  {factor(row['ratio']):>7}")
        lines.append("")
    lines.append("; ".join([f"{name} {text}" for name, text in about.items() if text]))
    missing = {package: title for package, title in PEERS.items() if not about[title]}
    if missing:
        lines.append(
            f"not installed, so not compared: {', '.join(missing.values())} (python -m pip install {' '.join(missing)})"
        )
    agreed = " All forms of a program gave the same numbers to 9 digits." if all(figure["agree"] for figure in figures) else ""
    return [*lines, *textwrap.wrap(METHOD + agreed, 100)]


def duration(seconds: float) -> str:
    """A time with three digits: 12.3 µs."""
    unit = 0 if seconds >= 1 else 1 if seconds >= 1e-3 else 2
    text = f"{seconds * 1000**unit:#.3g}".rstrip(".")
    return f"{text} {('s', 'ms', 'us')[unit]}"


def factor(ratio: float) -> str:
    return f"x {ratio:.2f}" if ratio < 10 else f"x {ratio:,.0f}"


# -- what is compared with ---------------------------------------------------------------------------


class Value:
    """A number that remembers where it came from, in the fewest lines: micrograd's idea, with slots and without recursion."""

    __slots__ = ("data", "grad", "operands", "slopes")

    def __init__(self, data: float, operands: tuple[Value, ...] = (), slopes: tuple[float, ...] = ()) -> None:
        self.data = data
        self.grad = 0.0
        self.operands = operands
        self.slopes = slopes

    def __add__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data + other.data, (self, other), (1.0, 1.0))
        return Value(self.data + other, (self,), (1.0,))

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other), (other.data, self.data))
        return Value(self.data * other, (self,), (other,))

    def __pow__(self, power: float) -> Value:
        return Value(self.data**power, (self,), (power * self.data ** (power - 1),))

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Value | float) -> Value:
        return self + -other

    def __rsub__(self, other: float) -> Value:
        return -self + other

    def __truediv__(self, other: Value | float) -> Value:
        return self * other**-1.0

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> Value:
        y = math.exp(self.data)
        return Value(y, (self,), (y,))

    def log(self) -> Value:
        return Value(math.log(self.data), (self,), (1.0 / self.data,))

    def relu(self) -> Value:
        return Value(max(0.0, self.data), (self,), (float(self.data > 0.0),))

    def backward(self) -> None:
        order: list[Value] = []
        seen = set()
        stack: list[tuple[Value, bool]] = [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend([(operand, False) for operand in node.operands])
        self.grad = 1.0
        for node in reversed(order):
            for operand, slope in zip(node.operands, node.slopes):
                operand.grad += slope * node.grad


def forms(number: Callable[[float], Any], weights: Numbers, f: Callable[[list[Any]], Any]) -> Form:
    """A form that makes Variables, or what else number makes, of the weights, computes f of them and goes backward."""

    def run() -> Result:
        leaves = [number(w) for w in weights]
        loss = f(leaves)
        loss.backward()
        return loss.data, lambda: [leaf.grad for leaf in leaves]

    return run


def scalars(weights: Numbers, f: Callable[[list[Any]], Any], micrograd: Any) -> dict[str, Form]:
    """The same plain Python over mingrad's Variables, over Values, and over micrograd's."""
    found = {"mingrad, plain Python": forms(Variable, weights, f), "Value in pure Python": forms(Value, weights, f)}
    if micrograd is not None:
        found["micrograd"] = forms(micrograd.Value, weights, f)
    return found


def tensors(torch: Any, weights: Numbers, f: Callable[[Any], Any]) -> Form:
    """A form over one tensor of PyTorch."""

    def run() -> Result:
        leaf = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
        loss = f(leaf)
        loss.backward()
        return loss.item(), leaf.grad.tolist

    return run


# -- the programs ------------------------------------------------------------------------------------


def chain(torch: Any, micrograd: Any) -> Program:
    """A long way of single operations."""

    def f(x: Sequence[Any]) -> Any:
        y = x[0]
        for _ in range(200):
            y = y * x[1] + x[2]
        return y

    found = scalars([1.0, 0.99, 0.01], f, micrograd)
    if torch is not None:
        found["PyTorch, scalars"] = tensors(torch, [1.0, 0.99, 0.01], f)
    return Program("chain of 200 products and 200 sums", found)


def perceptron(torch: Any, micrograd: Any) -> Program:
    """micrograd's demo: neurons of one's own, layers, and tensors."""
    sizes = (2, 16, 16, 1)
    draw = random.Random(1)
    model = nn.MLP(sizes[0], list(sizes[1:]))
    parameters = model.parameters()
    optimizer = optim.SGD(parameters)
    weights = [draw.uniform(-1.0, 1.0) for _ in parameters]
    for p, w in zip(parameters, weights):
        p.data = w
    X, Y = (part[:20] for part in moons.load())

    def plain(flat: Sequence[Any]) -> Any:
        numbers = iter(flat)
        layers = [[[next(numbers) for _ in range(n + 1)] for _ in range(m)] for n, m in pairwise(sizes)]
        losses = []
        for x, y in zip(X, Y):
            signals: Any = x
            for layer in layers:
                signals = [sum([w * s for w, s in zip(row, signals)], row[-1]) for row in layer]
                if layer is not layers[-1]:
                    signals = [s.relu() for s in signals]
            losses.append((1.0 - signals[0] * y).relu())
        return sum(losses) * (1.0 / len(losses))

    def with_layers() -> Result:
        optimizer.zero_grad()
        loss = nn.hinge_loss(model(X), Y)
        loss.backward()
        return loss.data, lambda: [p.grad for p in parameters]

    found = {"mingrad.nn": with_layers, **scalars(weights, plain, micrograd)}
    if torch is not None:
        inputs, targets = (torch.tensor(part, dtype=torch.float64) for part in (X, Y))

        def vectorised(flat: Any) -> Any:
            signals, begin = inputs, 0
            for n, m in pairwise(sizes):
                rows = flat[begin : begin + m * (n + 1)].view(m, n + 1)
                signals, begin = signals @ rows[:, :n].T + rows[:, n], begin + m * (n + 1)
                if m != 1:
                    signals = signals.relu()
            return (1.0 - signals[:, 0] * targets).relu().mean()

        found["PyTorch, tensors"] = tensors(torch, weights, vectorised)
    return Program("moons: a network 2-16-16-1 on 20 points", found)


def names(torch: Any, micrograd: Any) -> Program:
    """A GPT's loss on a name. micrograd has no exp; PyTorch's form is in the repository's benchmarks."""
    letters = "aem"
    first = microgpt.initial_weights(len(letters) + 1, seed=1)
    weights = [w for rows in first.values() for row in rows for w in row]
    tokens = microgpt.encode("emma", letters)
    layers = microgpt.LayersGPT(first)
    parameters = layers.parameters()
    optimizer = optim.SGD(parameters)

    def plain(flat: Sequence[Any]) -> Any:
        numbers = iter(flat)
        given = {name: [[next(numbers) for _ in row] for row in rows] for name, rows in first.items()}
        return microgpt.PlainGPT(given, number=lambda x: x).loss(tokens)

    def with_layers() -> Result:
        optimizer.zero_grad()
        loss = layers.loss(tokens)
        loss.backward()
        return loss.data, lambda: [p.grad for p in parameters]

    return Program(
        "microgpt: a name of 4 letters, 3,456 parameters", {"mingrad.nn": with_layers, **scalars(weights, plain, None)}
    )


def rosenbrock(torch: Any, micrograd: Any) -> Program:
    """A function of 100 numbers, recorded once."""
    draw = random.Random(2)
    point = [draw.uniform(-1.0, 1.0) for _ in range(100)]

    def f(x: Sequence[Any]) -> Any:
        return sum([(b - a**2) ** 2 * 100.0 + (1.0 - a) ** 2 for a, b in pairwise(x)])

    gradient = value_and_grad(compiled(f))

    def recorded() -> Result:
        value, slopes = gradient(point)
        return value, lambda: slopes

    found = {"mingrad.compile": recorded, **scalars(point, f, micrograd)}
    if torch is not None:

        def vectorised(x: Any) -> Any:
            return ((x[1:] - x[:-1] ** 2) ** 2 * 100.0 + (1.0 - x[:-1]) ** 2).sum()

        found["PyTorch, tensors"] = tensors(torch, point, vectorised)
    return Program("Rosenbrock's function of 100 numbers", found)
