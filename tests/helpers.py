"""What the test files share: distances in ulps, random graphs, random programs, and how two engines
are compared on them.

Not a test file, and it imports neither mingrad nor the reference: engines are handed in.
test_checkers.py plants errors to show that every comparison here fails when it should. Start
reading at ulps().
"""

import importlib
import math
import operator
import os
import random
import struct
import subprocess
import sys
import textwrap


def _ordinal(x):
    """The place of the double x on the line of all doubles: neighbours differ by one; -0.0 is 0."""
    bits = struct.unpack("<q", struct.pack("<d", x))[0]
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)


def ulps(x, y):
    """How many steps from double to double lead from x to y.

    0 if both are nan or both the same infinity; inf (a float) if only one is nan, or if one is
    infinite and the other is not the same infinity. 0.0 and -0.0 are 0 apart: use same_bits()
    where the sign of zero matters.
    """
    x, y = float(x), float(y)
    if math.isnan(x) or math.isnan(y):
        return 0 if math.isnan(x) and math.isnan(y) else math.inf
    if math.isinf(x) or math.isinf(y):
        return 0 if x == y else math.inf
    return abs(_ordinal(x) - _ordinal(y))


def assert_close_ulps(got, expected, bound=0, what=""):
    """Fail unless got and expected are at most `bound` doubles apart; the text shows both."""
    distance = ulps(got, expected)
    if not distance <= bound:
        raise AssertionError(
            f"{what + ': ' if what else ''}got {float(got)!r} ({float(got).hex()}), "
            f"expected {float(expected)!r} ({float(expected).hex()}): "
            f"{distance} ulps apart, {bound} allowed"
        )


def same_bits(x, y):
    """Whether two doubles are the same: same sign of zero too; any nan is the same as any nan.

    nan's own sign and payload are left out: IEEE leaves them open and compilers differ.
    """
    x, y = float(x), float(y)
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    return struct.pack("<d", x) == struct.pack("<d", y)


def assert_same_bits(got, expected, what=""):
    """Fail unless same_bits(got, expected); the text shows both in hex."""
    if not same_bits(got, expected):
        raise AssertionError(
            f"{what + ': ' if what else ''}got {float(got)!r} ({float(got).hex()}), "
            f"expected the same bits as {float(expected)!r} ({float(expected).hex()})"
        )


def relative_difference(got, expected, floor=0.0):
    """|got - expected| / max(|expected|, floor); 0.0 if both nan or the same infinity, else inf."""
    got, expected = float(got), float(expected)
    if got == expected or (math.isnan(got) and math.isnan(expected)):
        return 0.0
    if not (math.isfinite(got) and math.isfinite(expected)):
        return math.inf
    scale = max(abs(expected), floor)
    return math.inf if scale == 0.0 else abs(got - expected) / scale


def assert_close_relative(got, expected, bound, what="", floor=0.0):
    """Fail unless got is within `bound` of expected, relative to max(|expected|, floor)."""
    difference = relative_difference(got, expected, floor)
    if not difference <= bound:
        raise AssertionError(
            f"{what + ': ' if what else ''}got {float(got)!r}, expected "
            f"{float(expected)!r}: relative {difference:.3g}, allowed {bound:.3g}"
        )


# --- Random graphs: one description, built in any engine -----------------------------------------
# A graph is a list of entries. ("leaf", value) or ("constant", value), then (name, operands); an
# operand is the place of an earlier entry (int) or a plain number (float). An engine is a module
# with mingrad's names.

INFIX = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
# Ops whose values and partials leave no freedom: +, -, *, /, comparisons. Bits must be equal.
EXACT_BINARY = ["+", "-", "*", "/", "maximum", "minimum"]
EXACT_UNARY = ["neg", "relu", "abs", "square"]
EXACT = EXACT_BINARY + EXACT_UNARY + ["//", "%", "clamp", "leaky_relu", "**2"]
# Ops whose values are Python's own functions, to the bit; their partials may round otherwise.
LIBM = (
    "tanh exp expm1 log log2 log10 log1p sqrt sin cos tan asin acos atan sinh cosh asinh acosh "
    "atanh erf erfc reciprocal **3 **0.5 **-1 ** atan2"
).split()
# Ops that Python's math module has not got, or got under another rounding: a few ulps.
OTHER = "gelu silu softplus sigmoid exp2 cbrt lgamma elu hypot".split()
NARY = "sum prod mean max min logsumexp norm dot softmax".split()
OPERANDS = dict.fromkeys("+ - * / // % ** maximum minimum atan2 hypot".split(), 2)  # others: 1


def apply(engine, name, operands):
    """The result of the op called `name` in that engine; operands are its Variables and floats."""
    if name in INFIX:
        return INFIX[name](*operands)
    if name.startswith("**"):
        return operands[0] ** float(name[2:])
    if name == "neg":
        return -operands[0]
    if name == "abs":
        return abs(operands[0])
    if name == "clamp":
        return engine.clamp(operands[0], -1.5, 2.0)
    if name == "dot":
        half = len(operands) // 2
        return engine.dot(operands[:half], operands[half : 2 * half])
    if name == "softmax":
        return engine.softmax(operands)[len(operands) // 2]
    if name in NARY:
        return getattr(engine, name)(operands)
    return getattr(engine, name)(*operands)


def build(graph, engine, after=None):
    """Build every entry; returns (things, events).

    things[k] is entry k's Variable; events[k] its value, or the name of the exception type it
    raised (the entry then stands for its first operand that is no number). after(k, thing,
    operands) runs after each success.
    """
    things, events = [], []
    for k, (name, *rest) in enumerate(graph):
        if name in ("leaf", "constant"):
            things.append(engine.Variable(rest[0], requires_grad=name == "leaf", label=f"n{k}"))
            events.append(things[-1].data)
            continue
        operands = [things[x] if isinstance(x, int) else x for x in rest[0]]
        try:
            made = apply(engine, name, operands)
        except (ZeroDivisionError, ValueError, OverflowError) as error:
            things.append(next(x for x in operands if not isinstance(x, float)))
            events.append(type(error).__name__)
            continue
        if after is not None:
            after(k, made, operands)
        things.append(made)
        events.append(made.data)
    return things, events


def describe(graph, k):
    """Entry k as text, for a failure message."""
    return f"entry {k}: {graph[k][0]} {graph[k][1]}"


def compare_exact(graph, passes, engine, oracle):
    """Fail unless both engines give the same bits for all values and, after each pass, adjoints.

    passes: list of (place of the root, gradient).
    """
    got, got_events = build(graph, engine)
    expected, expected_events = build(graph, oracle)
    for k, (x, y) in enumerate(zip(got_events, expected_events)):
        if isinstance(x, str) or isinstance(y, str):
            assert x == y, f"{describe(graph, k)}: {x} where {y} is expected"
        else:
            assert_same_bits(x, y, f"value of {describe(graph, k)}")
    for number, (root, gradient) in enumerate(passes):
        got[root].backward(gradient)
        expected[root].backward(gradient)
        for k in range(len(graph)):
            assert_same_bits(
                got[k].grad,
                expected[k].grad,
                f"adjoint after pass {number} (root {root}) of {describe(graph, k)}",
            )


# Near their zeros only an absolute bound holds.
ABSOLUTE = ["digamma", "lgamma", "logsumexp", "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
# Terms may cancel: relative to what was added.
SUMS = ["sum", "mean", "dot", "mse_loss", "l1_loss", "huber_loss", "hinge_loss"]


def adopt_value(name, value, node, operands, what, value_ulps=8):
    """Fail unless an op's value is the oracle's as far as rounding allows; the oracle's node then takes it over. operands: the
    values that the op was given."""
    if name in EXACT or name in LIBM or name in ("max", "min"):
        assert_same_bits(value, node.data, what)
    elif name in SUMS:
        half = len(operands) // 2
        if name in ("sum", "mean"):
            size = math.fsum(map(abs, operands)) / (len(operands) if name == "mean" else 1)
        elif name == "dot":
            size = math.fsum(abs(x * y) for x, y in zip(operands[:half], operands[half:]))
        else:
            size = abs(node.data)
        close = abs(value - node.data) <= (len(operands) + (0 if name in ("sum", "mean", "dot") else 4)) * 2.0**-52 * size
        assert close or same_bits(value, node.data), f"{what}: {value!r} for {node.data!r}"
    elif name in ABSOLUTE:
        size = max(1.0, abs(value), *map(abs, operands))
        close = abs(value - node.data) <= value_ulps * 2.0**-52 * size
        assert close or same_bits(value, node.data), f"{what}: {value!r} for {node.data!r}"
    else:  # gelu's far tail is as steep as exp(-x*x / 2): a rounded argument costs x*x ulps
        tail = min(operands[0] * operands[0], 1500.0) if name == "gelu" else 0.0
        assert_close_ulps(value, node.data, value_ulps * max(1, len(operands) - 1) + 2 * tail, what)
    node.value = value


def compare_close(graph, passes, engine, oracle, value_ulps=8):
    """Fail unless both engines agree as far as rounding allows.

    Each value is compared with the oracle's for the same operands (the oracle then takes the
    engine's value over, so that differences cannot pile up): bit for bit where Python's own
    function is the law, else to `value_ulps` times the number of operands. Adjoints:
    oracle.adjoint_slack's running error bound.
    """
    got, got_events = build(graph, engine)

    def adopt(k, node, operands):
        name, value = graph[k][0], got_events[k]
        what = f"value of {describe(graph, k)}"
        if isinstance(value, str):
            raise AssertionError(f"{what}: {value} raised where {node.data!r} is expected")
        adopt_value(name, value, node, [x if isinstance(x, float) else x.data for x in operands], what, value_ulps)

    expected, expected_events = build(graph, oracle, adopt)
    for k, (x, y) in enumerate(zip(got_events, expected_events)):
        assert isinstance(x, str) == isinstance(y, str), f"{describe(graph, k)}: {x!r}, expected {y!r}"
        assert not isinstance(x, str) or x == y, f"{describe(graph, k)}: {x}, expected {y}"
    bound = {id(node): 0.0 for node in expected}
    for number, (root, gradient) in enumerate(passes):
        slack = oracle.adjoint_slack(expected[root], gradient)
        got[root].backward(gradient)
        expected[root].backward(gradient)
        for node in expected[root].reached():
            before = bound.get(id(node), 0.0) if node.is_leaf else 0.0
            bound[id(node)] = before + slack[id(node)] + (2.0**-52 * abs(node.grad) if before else 0.0)
        for k, (x, y) in enumerate(zip(got, expected)):
            if same_bits(x.grad, y.grad) or abs(x.grad - y.grad) <= bound[id(y)]:
                continue
            if not math.isfinite(bound[id(y)]) or not math.isfinite(y.grad):
                continue  # out of range somewhere below: nothing is promised about which infinity
            raise AssertionError(
                f"adjoint after pass {number} (root {root}) of {describe(graph, k)}: "
                f"got {x.grad!r}, expected {y.grad!r} within {bound[id(y)]:.3g}"
            )


# Adjoints often end at these.
FLAT = {"//", "floor", "ceil", "sign", "clamp", "relu", "prod", "max", "min"}


def random_graph(seed, size, names, oracle, leaves=6, largest=20.0, steepest=4.0):
    """A graph of `size` entries whose last one reaches nearly all of it, with much sharing.

    Every value and partial is moderate, so that engines with other roundings can be compared. A
    third of the operands are entries that nothing used yet, a third are recent, a third anything.
    """
    rng = random.Random(seed)
    graph = [("leaf", rng.uniform(-2, 2)) for _ in range(leaves)] + [("constant", rng.uniform(-2, 2))]
    things, _ = build(graph, oracle)
    unused = list(range(leaves))
    weights = [0.2 if name in FLAT else 1.0 for name in names]

    def operand():
        pick = rng.random()
        if pick < 0.1:
            return rng.choice([0.5, -1.0, 2.0, 3.0, rng.uniform(-2, 2)])
        if pick < 0.4 and unused:
            return rng.choice(unused[:20])
        return rng.randrange(max(0, len(graph) - 30) if pick < 0.7 else 0, len(graph))

    def add(name, operands):
        """Append the entry if its value and partials are moderate; returns whether it was."""
        try:
            made = apply(oracle, name, [things[x] if isinstance(x, int) else x for x in operands])
            partials = (
                [p for x, p in zip(made.operands, made.partials()) if not isinstance(x, float)] if made.requires_grad else []
            )
        except (ZeroDivisionError, ValueError, OverflowError):
            return False
        if not abs(made.data) <= largest or not any(partials) or not all(abs(p) <= steepest for p in partials):
            return False
        unused[:] = [x for x in unused if x not in operands] + [len(graph)]
        graph.append((name, tuple(operands)))
        things.append(made)
        return True

    while len(graph) + 3 * len(unused) < size:
        name = rng.choices(names, weights)[0]
        count = OPERANDS.get(name, 1)
        if name in NARY:
            count = rng.choice([1, 2, 3, 4, 5, 8, 17]) * (2 if name == "dot" else 1)
        operands = [operand() for _ in range(count)]
        if name not in NARY and len(operands) == 2 and rng.random() < 0.1:
            operands[1] = operands[0]
        if not all(isinstance(x, float) for x in operands):
            add(name, operands)
    while len(unused) > 1:  # tie the loose ends together into one root: average, two by two
        x, y = unused[:2]
        assert add("*", [x, 0.5]) and add("*", [y, 0.5])
        assert add("+", [len(graph) - 2, len(graph) - 1])
    while len(graph) < size:
        add("*", [len(graph) - 1, 1.25 if abs(things[-1].data) < 2 else 0.75])
    return graph


# --- Random programs: what a user does to handles, in any engine ---------------------------------
# A program works on numbered slots that hold Variables or None. Which slots an instruction takes is
# settled when the program is written; what they hold is the engine's affair, so two engines that
# agree stay in step.


def random_program(seed, length, names, slots=12):
    """A list of `length` instructions. Same seed, same program."""
    rng = random.Random(seed)
    slot = lambda: rng.randrange(slots)
    number = lambda: rng.choice([rng.uniform(-2, 2), rng.uniform(-2, 2), 0.5, -1.5, 3.0])
    kinds = {
        "leaf": 12,
        "constant": 2,
        "make": 70,
        "rebind": 8,
        "drop": 8,
        "copy": 4,
        "write": 3,
        "step": 3,
        "backward": 7,
        "zero": 2,
        "set_grad": 1,
        "read": 4,
        "operand": 4,
        "detach": 2,
        "quiet": 2,
        "collect": 0.7,
        "cut": 0.5,
        "burst": 1,
    }
    program = []
    for _ in range(length):
        kind = rng.choices(list(kinds), kinds.values())[0]
        if kind in ("leaf", "constant", "write", "set_grad"):
            program.append((kind, slot(), number()))
        elif kind in ("make", "quiet", "rebind"):
            name = rng.choice(names)
            count = OPERANDS.get(name, 1)
            if name in NARY:
                count = rng.choice([1, 2, 3, 5, 9]) * (2 if name == "dot" else 1)
            operands = tuple(slot() if rng.random() < 0.85 else number() for _ in range(count))
            if all(isinstance(x, float) for x in operands):
                operands = (slot(),) + operands[1:]
            if kind == "rebind":
                operands = tuple(x if isinstance(x, int) else slot() for x in operands)
                program.append(("make", operands[0], name, operands))
            else:
                program.append((kind, slot(), name, operands))
        elif kind == "backward":
            program.append((kind, slot(), rng.choice([1.0, 1.0, -0.5, 3.0])))
        elif kind == "burst":  # many nodes at once, most of them dropped
            program.append((kind, slot(), slot(), rng.choice([5, 40, 150])))
        elif kind == "cut":  # drop half of the slots: much dies together
            program.append((kind, tuple(k for k in range(slots) if rng.random() < 0.5)))
        elif kind == "collect":
            program.append((kind,))
        else:  # drop copy step zero read operand detach
            program.append((kind, slot(), slot(), rng.randrange(3)))
    return program


class Unsettled(float):
    """What an oracle stores where nothing is promised: interior adjoints after a refused pass."""

    def __new__(cls):
        return float.__new__(cls, math.nan)


def _bits(x):
    return "?" if isinstance(x, Unsettled) else "nan" if x != x else float(x).hex()


def _agree(x, y):
    """Whether two log entries are equal; the oracle's "?" (the second's) agrees with anything."""
    if isinstance(x, tuple) and isinstance(y, tuple):
        return len(x) == len(y) and all(map(_agree, x, y))
    return y == "?" or x == y


def run_program(program, engine, slots=12, after=None):
    """Run it; returns the log: for each instruction a tuple of all that can be seen of its work.

    after(engine) is called after each instruction and its answer ends the log's tuple.
    """
    held = [engine.Variable(0.25 * (k + 1), label=f"slot{k}") for k in range(slots)]
    return [_run_one(instruction, held, engine) + (() if after is None else (after(engine),)) for instruction in program]


def _run_one(instruction, held, engine):
    kind = instruction[0]
    if kind == "collect":
        engine.collect()
        return tuple((_bits(v.data), _bits(v.grad)) for v in held if v is not None)
    if kind == "cut":
        for k in instruction[1]:
            held[k] = None
        return ()
    _, k, *rest = instruction
    if kind in ("leaf", "constant"):
        held[k] = engine.Variable(rest[0], requires_grad=kind == "leaf", label=f"slot{k}")
    elif kind in ("make", "quiet"):
        name, operands = rest
        xs = [x if isinstance(x, float) else held[x] for x in operands]
        if any(x is None for x in xs):
            return ("empty",)
        try:
            if kind == "quiet":
                with engine.no_grad():
                    held[k] = apply(engine, name, xs)
            else:
                held[k] = apply(engine, name, xs)
        except (ZeroDivisionError, ValueError, OverflowError) as error:
            return (type(error).__name__,)
        if not abs(held[k].data) < 1e6:  # out of hand: nan everywhere would test nothing
            held[k] = engine.Variable(1.5, label=f"slot{k}")
        return (_bits(held[k].data), held[k].is_leaf)
    elif kind == "burst":
        x, y = held[rest[0]], held[k]
        if x is None or y is None:
            return ("empty",)
        for _ in range(rest[1]):
            y = y * 0.5 + x
            held[k] = y if abs(y.data) < 1e6 else engine.Variable(1.5)
        return (_bits(held[k].data),)
    elif held[k] is None and kind not in ("drop", "copy", "operand", "detach"):
        return ("empty",)
    elif kind == "drop":
        held[k] = None
    elif kind == "copy":
        held[k] = held[rest[0]]
    elif kind in ("write", "step"):
        v = held[k]
        try:
            v.data = rest[0] if kind == "write" else v.data - 0.01 * v.grad
        except RuntimeError:
            return ("result",)
        return (_bits(v.data),)
    elif kind == "backward":
        try:
            held[k].backward(rest[0])
        except RuntimeError as error:  # a stale leaf, or nothing asks for a gradient
            return (
                "stale" if "forward pass" in str(error) else "refused",
                *(_bits(v.grad) for v in held if v is not None and v.is_leaf),
            )
        return tuple((_bits(v.data), _bits(v.grad)) for v in held if v is not None)
    elif kind == "zero":
        held[k].zero_grad()
    elif kind == "set_grad":
        held[k].grad = rest[0]
    elif kind == "read":
        v = held[k]
        return (
            _bits(v.data),
            _bits(v.grad),
            v.is_leaf,
            v.requires_grad,
            len(v._prev),
            *(_bits(x.data) for x in v._prev),
        )
    elif kind == "operand":  # a node whose handle may have died comes back through its user
        operands = held[rest[0]]._prev if held[rest[0]] is not None else ()
        held[k] = operands[rest[1] % len(operands)] if operands else None
        if operands and not held[k].requires_grad:  # a number: whether it is a node is the engine's affair
            held[k] = held[k].detach()
        return () if held[k] is None else (_bits(held[k].data), held[k].is_leaf, held[k].requires_grad)
    elif kind == "detach":
        v = held[rest[0]]
        held[k] = None if v is None else v.detach()
    return ()


def compare_logs(got, expected, program):
    """Fail at the first instruction after which a log differs from the oracle's."""
    assert len(got) == len(expected)
    for k, (x, y) in enumerate(zip(got, expected)):
        if not _agree(x, y):
            parts = [(a, b) for a, b in zip(x, y) if not _agree(a, b)] if len(x) == len(y) else [(x, y)]
            raise AssertionError(f"instruction {k} {program[k]}: (got, expected) = {parts}")


def as_function(graph, engine):
    """A random graph as a function of its leaves, which gives the last entry and one in the middle; and
    the leaves' numbers."""

    def f(xs):
        xs, things = iter(xs), []
        for name, *rest in graph:
            if name == "leaf":
                things.append(next(xs))
            elif name == "constant":
                things.append(engine.Variable(rest[0], requires_grad=False))
            else:
                things.append(apply(engine, name, [things[x] if isinstance(x, int) else x for x in rest[0]]))
        return things[-1], things[len(things) // 2]

    return f, [rest[0] for name, *rest in graph if name == "leaf"]


def run_python(code, *args, status=0, **environment):
    """Run a script, which may crash, in a fresh interpreter that finds this one's packages; returns
    its output without the last line's end. status: the exit code that it must end with."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **environment,
        },
    )
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def importable(module):
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
