"""A machine that does to the eager API whatever a user may do, step by step, beside the slow reference.

Hypothesis draws the steps: building with every op, numbers and Variables on either side, sequences of all kinds; writing, in
place too; dropping handles under collections at any moment; passes with hooks and create_graph; copies, no_grad, transforms,
compiled functions, other threads, bad operands, allocations that fail. After each step every Variable that is held has the
reference's bits (where roundings are free, in values and adjoints, within the bounds of helpers.adopt_value and
reference.adjoint_slack; the reference then takes the core's number over, so that differences cannot pile up), and as many
Variables are alive as are held. At a run's end nothing is left.

MINGRAD_SLOW=1 makes runs longer and their number fifty times as large, with other steps each time. Random programs of a fixed
grammar are in test_tape.py, graphs in test_graphs.py; this file is about what they do not combine.
"""

import contextlib
import copy
import gc
import math
import os
import pickle
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import helpers
import mingrad
import reference
from helpers import EXACT, adopt_value, assert_same_bits, same_bits
from mingrad import _core, nn

SLOW = os.environ.get("MINGRAD_SLOW") == "1"
SLOTS = 8
LARGEST = 1e4  # values beyond are replaced: nan everywhere would test nothing

ENGINE = SimpleNamespace(
    **{name: getattr(mingrad, name) for name in mingrad.engine.__all__},
    **{name: getattr(nn, name) for name in [*reference.LOSSES, "cross_entropy"]},
)
INFIX = list(helpers.INFIX)
UNARY = [name for name in reference.UNARY if name not in ("neg", "abs")] + ["neg", "abs", "**2", "**3", "**0.5", "**-1"]
BINARY = INFIX + reference.BINARY
SETTING = ["leaky_relu", "elu", "clamp_min", "clamp_max"]
# Rules of the reference whose values and partials leave no freedom: bits must be equal.
EXACT_RULES = {
    *EXACT,
    "**c",
    "clamp_min",
    "clamp_max",
    "max",
    "min",
    "sign",
    "floor",
    "ceil",
    "squared_error",
    "absolute_error",
}

slots = st.integers(0, SLOTS - 1)
numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0]) | st.floats(-3, 3)
operands = slots | slots | numbers


class Raised(tuple):
    """The type and the text of an exception."""


class Machine(RuleBasedStateMachine):
    """Slots hold pairs: the core's Variable and the reference's node. A slot that is written drops what it held."""

    def __init__(self):
        super().__init__()
        gc.collect()
        mingrad.collect()
        self.before = mingrad.tape_info()
        self.stress = _core._stress()
        self.loose = weakref.WeakSet()  # the reference's nodes of compiled functions: the core adds up their adjoints by itself
        self.removers, self.parameters = [], []
        self.kept = False  # a compiled function has kept Variables alive
        self.outside = False  # passes may call functions: they begin at 0.0 plus the gradient, so a zero's sign is open
        self.pairs = [self.leaf_pair(0.25 * (k + 1)) for k in range(SLOTS)]

    def teardown(self):
        _core._stress(*self.stress)
        self.pairs = self.removers = self.parameters = self.loose = None
        gc.collect()
        mingrad.collect()
        after = mingrad.tape_info()
        if sys.exc_info()[0] is None:  # else the exception holds some
            assert (after.live, after.handles) == (self.before.live, self.before.handles), (
                f"left: {after}, before: {self.before}"
            )

    # -- what steps share

    def leaf_pair(self, x, wants=True, label=""):
        return mingrad.Variable(x, wants, label), reference.Variable(x, wants, label)

    def put(self, k, v, r):
        """The pair takes the slot, if its number is one to go on with."""
        self.pairs[k] = (v, r) if abs(r.data) < LARGEST else self.leaf_pair(1.5)

    def two(self, xs):
        """Operands for either engine: a slot's Variable and node, or the number itself."""
        return [[x if isinstance(x, float) else self.pairs[x][side] for x in xs] for side in (0, 1)]

    def same(self, act):
        """What act(engine, side) gives in both; None where both raise the same."""
        outcomes = []
        for side, engine in enumerate((ENGINE, reference)):
            try:
                outcomes.append(act(engine, side))
            except (ArithmeticError, ValueError, RuntimeError, TypeError) as error:
                outcomes.append(Raised((type(error).__name__, str(error))))  # itself it would keep frames alive
        got, expected = outcomes
        if isinstance(got, Raised) or isinstance(expected, Raised):
            both = isinstance(got, Raised) and isinstance(expected, Raised)
            assert both and got[0] == expected[0], f"got {got}, expected {expected}"
            return None
        return outcomes

    def build(self, k, name, xs, act=None):
        """An op by its name in helpers.py; its result takes slot k."""
        given = self.two(xs)
        found = self.same(act or (lambda engine, side: helpers.apply(engine, name, given[side])))
        if found is None:
            return
        v, r = found
        if not isinstance(r, reference.Variable):  # there was none among the operands
            return
        values = [x if isinstance(x, float) else x.data for x in given[0]]
        if math.isfinite(r.data) and abs(r.data) < LARGEST:
            adopt_value(name, v.data, r, values, f"value of {name} {values}")
        assert v.requires_grad == r.requires_grad
        self.put(k, v, r)

    # -- building

    @rule(k=slots, x=numbers, wants=st.booleans(), label=st.sampled_from(["", "w"]))
    def leaf(self, k, x, wants, label):
        self.pairs[k] = self.leaf_pair(x, wants, label)

    @rule(k=slots, name=st.sampled_from(UNARY), a=slots, passes=st.booleans())
    def unary(self, k, name, a, passes):
        self.build(k, name, [a])
        if passes:
            self.a_pass(k, 1.0, False)

    @rule(k=slots, name=st.sampled_from(BINARY), a=operands, b=operands, passes=st.booleans())
    def binary(self, k, name, a, b, passes):
        self.build(k, name, [a, b])
        if passes:
            self.a_pass(k, 1.0, False)

    @rule(k=slots, name=st.sampled_from(SETTING), a=operands, b=operands)
    def setting(self, k, name, a, b):
        given = self.two([a, b])

        def act(engine, side):
            x, y = given[side]
            if name.startswith("clamp"):
                return engine.clamp(x, **{name[6:]: y})
            return getattr(engine, name)(x, y)

        self.build(k, name, [a, b], act)

    @rule(
        k=slots,
        name=st.sampled_from(["sum", "prod", "mean", "max", "min", "logsumexp", "norm", "dot", "softmax"]),
        xs=st.lists(operands, min_size=1, max_size=6),
        form=st.sampled_from([list, tuple, iter, mingrad.VariableList]),
        passes=st.booleans(),
    )
    def sequence(self, k, name, xs, form, passes):
        given = self.two(xs)

        def act(engine, side):
            parts = given[side]
            whole = form(parts) if side == 0 else parts
            if name == "dot":
                return engine.dot(whole, parts[::-1])
            result = getattr(engine, name)(whole)
            return result[len(parts) // 2] if name == "softmax" else result

        self.build(k, name, xs + xs[::-1] if name == "dot" else xs, act)
        if passes:
            self.a_pass(k, 1.0, False)

    @rule(
        k=slots,
        name=st.sampled_from(list(reference.LOSSES)),
        pairs=st.lists(st.tuples(slots, operands), min_size=1, max_size=4),
        reduction=st.sampled_from(["mean", "sum"]),
    )
    def loss(self, k, name, pairs, reduction):
        xs, ys = map(list, zip(*pairs))
        given = self.two(xs), self.two(ys)

        def act(engine, side):
            return getattr(engine, name)(
                given[0][side], given[1][side], reduction, **({"delta": 0.75} if "huber" in name else {})
            )

        self.build(k, name, xs + ys, act)

    @rule(k=slots, xs=st.lists(operands, min_size=1, max_size=5), index=st.integers(0, 4))
    def choice(self, k, xs, index):
        xs[index % len(xs)] = k
        given = self.two(xs)
        self.build(k, "cross_entropy", xs, lambda engine, side: engine.cross_entropy(given[side], index % len(xs)))

    @rule(
        name=st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]),
        start=slots,
        count=st.integers(1, 4),
        other=operands | st.lists(operands, min_size=4, max_size=4),
        reflected=st.booleans(),
    )
    def elementwise(self, name, start, count, other, reflected):
        """A VariableList, or a slice of one, with a number, a Variable or a sequence on either side."""
        places = [(start + k) % SLOTS for k in range(count)]
        others = other[:count] if isinstance(other, list) else [other] * count
        (vs, rs), (ws, qs) = self.two(places), self.two(others)
        whole = mingrad.VariableList([*vs, mingrad.Variable(9.0)])[:count]
        right = ws if isinstance(other, list) else ws[0]
        pairs = [(y, x) if reflected else (x, y) for x, y in zip(rs, qs)]

        def act(engine, side):
            if side == 0:
                return list(helpers.INFIX[name](right, whole) if reflected else helpers.INFIX[name](whole, right))
            return [helpers.INFIX[name](x, y) for x, y in pairs]

        found = self.same(act)
        if found is None:
            return
        assert len(found[0]) == len(found[1]) == count
        for k, v, r in zip(places, *found):
            assert_same_bits(v.data, r.data, f"{name} of lists")
            self.put(k, v, r)

    @rule(k=slots, a=slots, which=st.sampled_from([0, 1]))
    def operand(self, k, a, which):
        """A node whose handle may have died comes back through its user."""
        v, r = self.pairs[a]
        if r.rule not in (*INFIX, *reference.UNARY, *reference.BINARY) or r in self.loose:
            return
        x = r.operands[which % len(r.operands)]
        w = v._prev[which % len(r.operands)]
        if isinstance(x, float):
            assert w.data == x and not w.requires_grad
        else:
            assert_same_bits(w.data, x.data)
            if all(x is not other for _, other in self.pairs):
                x.grad = w.grad  # of passes while nobody held it: the reference's is as right, but not to the bit
            self.put(k, w, x)

    # -- writing

    @rule(k=slots, x=numbers)
    def write(self, k, x):
        self.same(lambda engine, side: setattr(self.pairs[k][side], "data", x))

    @rule(k=slots, x=numbers)
    def write_grad(self, k, x):
        for thing in self.pairs[k]:
            thing.grad = x

    @rule(k=slots)
    def descend(self, k):
        """What training does."""
        for thing in self.pairs[k]:
            if thing.is_leaf and math.isfinite(thing.grad) and abs(thing.grad) < 100:
                thing.data -= 0.125 * thing.grad
                thing.zero_grad()

    @rule(k=slots, wants=st.booleans())
    def ask(self, k, wants):
        self.same(lambda engine, side: setattr(self.pairs[k][side], "requires_grad", wants))

    @rule(k=slots, low=numbers, high=numbers, quiet=st.booleans(), copies=st.booleans())
    def in_place(self, k, low, high, quiet, copies):
        v, r = self.pairs[k]
        if not r.is_leaf:
            return

        def act(engine, side):
            thing = mingrad.VariableList([v]) if side == 0 else r
            if copies:
                thing.copy_([low] if side == 0 else low)
            else:
                thing.clamp_(low, high)

        def quietly(engine, side):
            with engine.no_grad():
                act(engine, side)

        self.same(quietly if quiet else act)

    @rule(start=slots, count=st.integers(1, 4), x=numbers, what=st.sampled_from(["data", "grad", "zero_grad"]))
    def write_list(self, start, count, x, what):
        """All or nothing: a result among them refuses data."""
        places = [(start + k) % SLOTS for k in range(count)]
        vs, rs = self.two(places)
        whole = mingrad.VariableList(vs)
        if what == "zero_grad":
            whole.zero_grad()
            for r in rs:
                r.zero_grad()
        elif what == "data" and not all(r.is_leaf for r in rs):
            with pytest.raises(RuntimeError):
                whole.data = [x + k for k in range(count)]
        else:
            setattr(whole, what, [x + k for k in range(count)])
            for k, r in enumerate(rs):
                setattr(r, what, x + k)

    # -- handles

    @rule(places=st.lists(slots, min_size=1, max_size=SLOTS))
    def drop(self, places):
        for k in places:
            self.pairs[k] = None
        for k in places:
            self.pairs[k] = self.leaf_pair(0.5)

    @rule(k=slots, a=slots)
    def alias(self, k, a):
        self.pairs[k] = self.pairs[a]

    @rule(k=slots, a=slots)
    def detach(self, k, a):
        v, r = self.pairs[a]
        self.pairs[k] = v.detach(), r.detach()

    @rule(
        start=slots,
        count=st.integers(1, 3),
        how=st.sampled_from(["deepcopy", "pickle", "copy"]),
    )
    def copies(self, start, count, how):
        places = [(start + k) % SLOTS for k in range(count)]
        vs, rs = self.two(places)
        twins = {}

        def act(engine, side):
            if side == 0:
                return {
                    "deepcopy": copy.deepcopy,
                    "pickle": lambda xs: pickle.loads(pickle.dumps(xs)),
                    "copy": lambda xs: [copy.copy(x) for x in xs],
                }[how](vs)
            if how == "copy":
                return [r.twin() for r in rs]
            for r in rs:  # what stands in a list twice does so in its copy
                twins[r] = twins.get(r) or r.twin()
            return [twins[r] for r in rs]

        found = self.same(act)
        if found is not None:
            for k, v, r in zip(places, *found):
                assert (v.label, v.requires_grad) == (r.label, r.requires_grad)
                self.pairs[k] = v, r

    @rule(young=st.sampled_from([1, 2, 7, 64, 131072]), growth=st.sampled_from([0, 1, 100]))
    def press(self, young, growth):
        """Collections and growing arrays at other moments from now on."""
        _core._stress(young, growth)

    @rule()
    def collect(self):
        mingrad.collect()

    # -- passes

    @rule(k=slots, gradient=numbers, create_graph=st.booleans())
    def backward(self, k, gradient, create_graph):
        self.a_pass(k, gradient, create_graph)

    def a_pass(self, k, gradient, create_graph):
        v, r = self.pairs[k]
        nodes = r.reached()
        exact = not create_graph and all(x.is_leaf or (x.rule in EXACT_RULES and x not in self.loose) for x in nodes)
        exact = exact and all(x.params.get("exponent", 2.0) == 2.0 for x in nodes)
        slack = reference.adjoint_slack(r, gradient) if r.requires_grad else {}
        held = {id(x): w for w, x in self.pairs}
        old = {id(x): x.grad for x in nodes}
        found = self.same(
            lambda engine, side: v.backward(gradient, create_graph=create_graph) if side == 0 else r.backward(gradient)
        )
        if found is None:
            for x in nodes:
                if not x.is_leaf and id(x) in held:
                    x.grad = float(held[id(x)].grad)  # nothing is promised of interior ones after a refusal
            return
        for x in nodes:
            if not x.requires_grad or id(x) not in held:
                continue
            got = held[id(x)].grad
            got = got if isinstance(got, float) else got.data
            bound = slack[id(x)] + 2.0**-52 * abs(x.grad) + (2.0**-52 * abs(old[id(x)]) if x.is_leaf else 0.0)
            if not same_bits(got, x.grad) and math.isfinite(x.grad) and math.isfinite(bound):
                what = f"adjoint of {x.rule or 'a leaf'} in a pass from {r.rule}"
                assert not exact or (self.outside and got == x.grad), f"{what}: got {got!r}, expected {x.grad!r} to the bit"
                assert abs(got - x.grad) <= bound, f"{what}: got {got!r}, expected {x.grad!r} within {bound:.3g}"
            x.grad = got
        if create_graph:
            for w, x in self.pairs:
                if not isinstance(w.grad, float):
                    w.grad = x.grad
            for w, _ in self.parameters:  # what a call keeps alive may have a gradient that depends on the call
                w.grad = float(w.grad.data if isinstance(w.grad, mingrad.Variable) else w.grad)

    @rule(k=slots, kind=st.sampled_from(["look", "halve", "turn"]))
    def hook(self, k, kind):
        v, r = self.pairs[k]
        if not r.requires_grad:
            return
        function = {"look": lambda g: None, "halve": lambda g: 0.5 * g, "turn": lambda g: -g}[kind]
        self.removers.append((v.register_hook(function).remove, r, function))
        r.hooks.append(function)
        self.outside = True
        self.a_pass(k, 1.0, False)

    @rule()
    def unhook(self):
        if self.removers:
            remove, r, function = self.removers.pop(0)
            remove()
            r.hooks.remove(function)

    @rule(k=slots, x=numbers, gradient=numbers)
    def second_order(self, k, x, gradient):
        """d/dx of the gradient of x**3 * c, by two passes and by transforms."""
        t, c = mingrad.Variable(x), self.pairs[k][0].data
        c, gradient = (y if abs(y) > 1e-9 else 0.75 for y in (c, gradient))  # of 0.0 the gradient is a constant
        (t * t * t * c).backward(gradient, create_graph=True)
        first = t.grad
        t.zero_grad()
        first.backward()
        expected = 6.0 * x * c * gradient
        assert math.isclose(t.grad, expected, rel_tol=1e-14, abs_tol=1e-300)
        assert math.isclose(
            mingrad.derivative(lambda x: x * x * x * c * gradient, 2)(x), expected, rel_tol=1e-14, abs_tol=1e-300
        )

    # -- functions

    @rule(
        names=st.lists(st.sampled_from(["+", "-", "*", "tanh", "sin", "maximum", "square", "**2"]), min_size=1, max_size=5),
        a=slots,
        x=numbers,
    )
    def transforms(self, names, a, x):
        """Derivatives of a function that closes over a Variable; no grad changes."""
        v, r = self.pairs[a]

        def f(engine, x, other):
            y = x
            for name in names:
                y = helpers.apply(engine, name, [y, other] if helpers.OPERANDS.get(name) == 2 else [y])
            return y * x

        q = reference.Variable(x)
        root = f(reference, q, r.data)
        root.backward()
        bound = 4 * reference.adjoint_slack(root)[id(q)] + 1e-300
        value, slope = mingrad.value_and_grad(lambda x: f(ENGINE, x, v))(x)
        along = mingrad.jvp(lambda x: f(ENGINE, x, v), (x,), (2.0,))[1]
        pulled = mingrad.vjp(lambda x: f(ENGINE, x, v), x)[1](-1.0)[0]
        value, slope, along, pulled = (
            float(y.data if isinstance(y, mingrad.Variable) else y) for y in (value, slope, along, pulled)
        )
        assert_same_bits(value, root.data)
        for got, factor in ((slope, 1.0), (along, 2.0), (pulled, -1.0)):
            assert abs(got - factor * q.grad) <= bound * abs(factor), f"got {got!r}, expected {factor * q.grad!r}"

    @rule(x=numbers, y=numbers, a=slots, b=slots)
    def hessians(self, x, y, a, b):
        a, b = self.pairs[a][0], self.pairs[b][0]
        found = mingrad.hessian(lambda z: a * z[0] * z[0] * z[1] + b * z[0] * z[1] * z[1])([x, y])
        found = [[float(h.data if isinstance(h, mingrad.Variable) else h) for h in row] for row in found]
        a, b = a.data, b.data
        size = 1e-14 * (abs(a) + abs(b)) * (abs(x) + abs(y)) + 1e-300
        for got, expected in zip(sum(found, []), [2 * a * y, 2 * a * x + 2 * b * y, 2 * a * x + 2 * b * y, 2 * b * x]):
            assert abs(got - expected) <= size, (found, a, b, x, y)

    @rule(k=slots, a=slots, b=operands, c=slots, inner=st.booleans(), times=st.integers(1, 3))
    def compiled(self, k, a, b, c, inner, times):
        """A recorded function with a branch, and one inside another, on Variables of the graph; it reads a leaf from outside."""
        parameters = self.pairs[c] if self.pairs[c][1].is_leaf else self.leaf_pair(0.75)

        def function(w):
            def part(x, y):
                return x * w + y if x > y else y - w

            def whole(x, y):
                return part(x, y) * x + part(y, x) if inner else part(x, y)

            return whole

        self.parameters.append(parameters)
        recorded, before = mingrad.compile(function(parameters[0])), reference.Variable(0.0).number
        xs = self.two([a, b])
        for _ in range(times):
            found = self.same(lambda engine, side: recorded(*xs[0]) if side == 0 else function(parameters[1])(*xs[1]))
            if found is None:
                return
            v, r = found
            assert v.data == r.data
            r.value = v.data  # the sign of a zero is open
        assert v.requires_grad == r.requires_grad
        for x in r.reached():
            if x.number > before:
                self.loose.add(x)  # and a call keeps the numbers of constants, whatever is written to them later
                x.operands = tuple(o if isinstance(o, float) or o.requires_grad else o.data for o in x.operands)
        self.kept = self.outside = True
        self.put(k, v, r)

    # -- modes, threads, and what goes wrong

    @rule(k=slots, name=st.sampled_from(["+", "*", "-", "maximum"]), a=slots, b=operands)
    def quiet(self, k, name, a, b):
        given = self.two([a, b])

        def act(engine, side):
            with engine.no_grad():
                return helpers.apply(engine, name, given[side])

        self.build(k, name, [a, b], act)

    @rule(
        k=slots, name=st.sampled_from(["+", "*", "exp", "tanh"]), a=slots, b=operands, quiet=st.booleans(), passes=st.booleans()
    )
    def elsewhere(self, k, name, a, b, quiet, passes):
        """Another thread does a step while this one, inside no_grad() or not, waits."""
        xs = [a, b] if name in INFIX else [a]
        failure = []

        def work():
            try:
                assert mingrad.is_grad_enabled()
                self.build(k, name, xs)
                if passes:
                    self.a_pass(k, 1.0, False)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work)
        if quiet:
            with mingrad.no_grad():
                thread.start()
                thread.join()
        else:
            thread.start()
            thread.join()
        if failure:
            raise failure[0]

    BAD = {
        "text": lambda v: v + "x",
        "None": lambda v: None * v,
        "a function of text": lambda v: mingrad.exp("x"),
        "text in a sequence": lambda v: mingrad.sum([v, 1.0, "x"]),
        "an endless one": lambda v: mingrad.mean(5),
        "nothing": lambda v: mingrad.max([]),
        "lengths": lambda v: mingrad.dot([v], [v, 1.0]),
        "data": lambda v: mingrad.Variable("x"),
        "a list's text": lambda v: mingrad.VariableList([v, "x"]),
        "a list's length": lambda v: mingrad.VariableList([v, v]) * [1.0, 2.0, 3.0],
        "a list's index": lambda v: mingrad.VariableList([v])[3],
        "written text": lambda v: setattr(v, "grad", "x"),
        "a seed": lambda v: v.backward("x"),
        "a hook": lambda v: v.register_hook(3),
        "a label": lambda v: setattr(v, "label", 3),
        "targets": lambda v: nn.mse_loss([v], [1.0, 2.0]),
        "a class": lambda v: nn.cross_entropy([v, v], 2),
        "a large int": lambda v: v + 10**400,
        "complex": lambda v: v * 1j,
        "a huge power": lambda v: mingrad.exp(v * 0.0 + 1e5),
        "a domain": lambda v: mingrad.log(v * 0.0 - 1.0),
        "a bound": lambda v: mingrad.clamp(v, "x"),
        "no bound": lambda v: v.clamp(),
        "a generator that raises": lambda v: mingrad.sum(x / 0 for x in [v, v]),
    }

    @rule(k=slots, what=st.sampled_from(list(BAD)))
    def bad(self, k, what):
        """It raises; that nothing has changed is seen after it, as after all steps."""
        before = mingrad.tape_info()
        try:
            self.BAD[what](self.pairs[k][0])
        except (TypeError, ValueError, OverflowError, IndexError, ZeroDivisionError):
            pass
        else:
            raise AssertionError(f"{what} was taken")
        after = mingrad.tape_info()
        assert (after.live, after.handles) == (before.live, before.handles)

    @rule(
        k=slots,
        name=st.sampled_from(["+", "tanh", "logsumexp", "softmax", "dot"]),
        xs=st.lists(slots, min_size=2, max_size=2),
        n=st.integers(0, 3),
    )
    def no_memory(self, k, name, xs, n):
        """The nth allocation of a step and a pass fails, or they need fewer. A pass counts for leaves as a whole or not at all."""
        _core._fail_allocation(n)
        try:
            self.build(k, name, xs if name != "tanh" else xs[:1])
            self.a_pass(k, 1.0, False)
        except MemoryError:
            for v, r in self.pairs:
                if not r.is_leaf:
                    r.grad = v.grad
        finally:
            _core._fail_allocation(-1)

    # -- after each step

    @invariant()
    def everything_is_as_in_the_reference(self):
        for k, (v, r) in enumerate(self.pairs):
            if not (same_bits(v.data, r.data) and same_bits(v.grad, r.grad)):
                raise AssertionError(f"slot {k}: {v!r}, expected data={r.data!r}, grad={r.grad!r}")
            assert (v.is_leaf, v.requires_grad) == (r.is_leaf, r.requires_grad), f"slot {k}: {v!r}"
        assert mingrad.is_grad_enabled() and not _core._is_recording()
        if not self.kept:
            held = len({id(v) for v, _ in self.pairs})
            assert mingrad.tape_info().handles - self.before.handles == held, "a Variable lives that nobody holds"


# What no user reaches by name: nodes within layers, norms and derivatives, which have tests of their own.
INNER = {"_copy", "_stop", "_polygamma", "_sumexp", "_softmax", "_mean_square"}
NAMES = {
    **dict(zip("add sub mul div floordiv mod pow".split(), ["+", "-", "*", "/", "//", "%", "**"])),
    **{f"_{rule}": rule for rule in [*reference.LOSSES.values(), "cross_entropy"]},
}


def test_every_op_of_the_table_is_among_the_steps():
    names = {*INFIX, *UNARY, *BINARY, *SETTING, *reference.NARY, *reference.LOSSES.values(), "cross_entropy"}
    table = {NAMES.get(row["name"], row["name"]) for row in _core._ops()} - INNER
    assert table == table & names


RUNS = settings(
    max_examples=5000 if SLOW else 120,
    stateful_step_count=100 if SLOW else 50,
    derandomize=not SLOW,
    database=None,
    deadline=None,
    phases=list(Phase) if SLOW else [Phase.generate],  # to shrink a finding may take minutes
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
TestMachine = Machine.TestCase
TestMachine.settings = RUNS

# An error is planted in the reference, which is as good as one in the core: (object, name, what stands in its place)
PLANTED = {
    "a derivative off by 1e-9": (reference.RULES, "tanh", (math.tanh, lambda xs, y: ((1.0 - y * y) * (1.0 + 1e-9),))),
    "a sign": (reference.RULES, "-", (lambda a, b: a - b, lambda xs, y: (1.0, 1.0))),
    "a hook that is not called": (reference.Ref, "hooked", lambda self, adjoint: adjoint),
    "a copy's grad": (reference.Ref, "twin", lambda self: reference.Ref(self.value, self.wants, self.label)),
    "a leaf that is written without a trace": (reference.Ref, "data", property(lambda self: self.value, lambda self, x: None)),
    "no_grad() that does nothing": (reference, "no_grad", contextlib.nullcontext),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_error_is_found(what, monkeypatch, capsys):
    place, name, instead = PLANTED[what]
    monkeypatch.setitem(place, name, instead) if isinstance(place, dict) else monkeypatch.setattr(place, name, instead)
    runs = settings(RUNS, max_examples=500, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=runs)
