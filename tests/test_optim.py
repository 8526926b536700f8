"""mingrad.optim against PyTorch, against the written formulas, and against what it promises.

reference() is the independent second mention: each optimiser's formulas in plain floats. PyTorch,
where it is installed, is the third. Trajectories are compared on problems whose gradients do not
die out (the target moves, batches change): near a minimum gradients are rounding noise, and
dividing by their own size, as Adam and RMSprop do, would make noise of any two trajectories.
"""

import array
import contextlib
import copy
import gc
import itertools
import json
import math
import pickle
import random
import struct
import threading
import weakref

import pytest

import mingrad
from mingrad import Variable, _core, no_grad, optim
from mingrad.nn import MLP
from mingrad.optim import LBFGS, SGD, Adam, AdamW, RMSprop
from watch import collects_always

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

STEPS = 200
# PyTorch and the core round some operations differently (a product and a sum at once, a division
# by a reciprocal): a few units of 2**-53 a step, which these problems carry on but do not amplify.
CLOSE = 1e-12

SGDS = [
    dict(lr=0.02, momentum=m, dampening=d, weight_decay=w, nesterov=n, maximize=x)
    for m, d, w, n, x in itertools.product([0, 0.9], [0, 0.3], [0, 0.05], [False, True], [False, True])
    if not n or (m and not d)
]
ADAMS = [
    dict(lr=0.02, betas=b, weight_decay=w, amsgrad=a, maximize=x, eps=e)
    for b, w, a, x, e in itertools.product([(0.9, 0.999), (0.3, 0.9)], [0, 0.05], [False, True], [False, True], [1e-8, 0.1])
]
RMSPROPS = [
    dict(lr=0.01, alpha=a, weight_decay=w, momentum=m, centered=c, maximize=x)
    for a, w, m, c, x in itertools.product([0.99, 0.3], [0, 0.05], [0, 0.9], [False, True], [False, True])
]
CASES = [(SGD, s) for s in SGDS] + [(Adam, s) for s in ADAMS] + [(AdamW, s) for s in ADAMS] + [(RMSprop, s) for s in RMSPROPS]
PLAIN = [
    (SGD, dict(lr=0.1)),
    (SGD, dict(lr=0.1, momentum=0.9)),
    (Adam, dict(lr=0.1)),
    (Adam, dict(lr=0.1, amsgrad=True)),
    (AdamW, dict(lr=0.1)),
    (RMSprop, dict(lr=0.1, centered=True, momentum=0.5)),
]


def case_id(case):
    kind, settings = case
    texts = [f"{key}={value}" for key, value in settings.items() if value not in (0, False)]
    return "-".join([kind.__name__, *texts])


every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
plain_cases = pytest.mark.parametrize("case", PLAIN, ids=case_id)


def variables(values):
    return [Variable(x) for x in values]


def normals(count, seed=0):
    draw = random.Random(seed)
    return [draw.gauss(0, 1) for _ in range(count)]


def data(params):
    return [p.data for p in params]


def set_grads(params, grads):
    for p, g in zip(params, grads):
        p.grad = g


def distance(got, expected):
    """The largest difference, relative to the largest of the expected numbers."""
    worst = max(abs(a - b) for a, b in zip(got, expected))
    return worst / max(abs(b) for b in expected)


@contextlib.contextmanager
def stress(young, growth=0):
    before = _core._stress(young, growth)
    try:
        yield
    finally:
        _core._stress(*before)


# -- the formulas in plain floats ------------------------------------------------------------------


def reference(kind, settings, p, grads):
    """The value of one parameter after each of these gradients, by the formulas."""
    s = (
        dict(
            weight_decay=0.01 if kind is AdamW else 0,
            maximize=False,
            eps=1e-8,
            momentum=0,
            dampening=0,
            nesterov=False,
            alpha=0.99,
            centered=False,
        )
        | settings
    )
    b = m = v = top = None
    found = []
    for t, g in enumerate(grads, 1):
        if s["maximize"]:
            g = -g
        if kind is AdamW:
            p -= s["lr"] * s["weight_decay"] * p
        else:
            g += s["weight_decay"] * p
        if kind is SGD:
            if s["momentum"]:
                b = g if b is None else s["momentum"] * b + (1 - s["dampening"]) * g
                g = g + s["momentum"] * b if s["nesterov"] else b
            p -= s["lr"] * g
        elif kind is RMSprop:
            v = s["alpha"] * (v or 0) + (1 - s["alpha"]) * g**2
            m = s["alpha"] * (m or 0) + (1 - s["alpha"]) * g
            q = g / (math.sqrt(max(v - m**2, 0) if s["centered"] else v) + s["eps"])
            b = s["momentum"] * (b or 0) + q
            p -= s["lr"] * b
        else:
            beta1, beta2 = s.get("betas", (0.9, 0.999))
            m = beta1 * (m or 0) + (1 - beta1) * g
            v = beta2 * (v or 0) + (1 - beta2) * g**2
            top = max(top or 0, v) if s.get("amsgrad") else v
            corrected = m / (1 - beta1**t)
            p -= s["lr"] * corrected / (math.sqrt(top / (1 - beta2**t)) + s["eps"])
        found.append(p)
    return found


def far_from_reference(case, count, steps, disturb=0.0):
    """How far a trajectory of `count` parameters is from the formulas at worst."""
    kind, settings = case
    start = normals(count)
    grads = [normals(count, seed) for seed in range(1, steps + 1)]
    expected = [reference(kind, settings, x, column) for x, column in zip(start, zip(*grads))]
    params = variables(start)
    optimizer = kind(params, **settings)
    worst = 0.0
    for row, rows_of_grads in zip(zip(*expected), grads):
        set_grads(params, rows_of_grads)
        optimizer.step()
        params[0].data += disturb * params[0].data
        worst = max(worst, distance(data(params), row))
    return worst


@every_case
def test_a_step_does_what_the_formulas_say(case):
    assert far_from_reference(case, 11, STEPS) < CLOSE


@pytest.mark.parametrize("kind, settings", [(Adam, dict(betas=(0.0, 0.0))), (RMSprop, dict(alpha=0.0))])
def test_without_memory_only_the_present_gradient_counts(kind, settings):
    """A mean of weight 1 is the new number itself, however large the old one was."""
    params = variables([0.0])
    optimizer = kind(params, lr=0.5, eps=0.0, **settings)
    for grad in (1e20, 1.0, -1.0):
        before = params[0].data
        params[0].grad = grad
        optimizer.step()
        assert params[0].data - before == math.copysign(0.5, -grad)


def test_the_comparison_with_the_formulas_notices_a_small_error():
    assert far_from_reference(CASES[0], 11, 20, disturb=1e-11) > CLOSE


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31])
@plain_cases
def test_any_number_of_parameters_is_stepped(case, count):
    assert far_from_reference(case, count, 5) < CLOSE


@every_case
def test_both_instruction_sets_give_the_same_bits(case):
    kind, settings = case
    levels = ["base", "avx2"] if _core._simd() == "avx2" else ["base"]
    before = _core._simd()
    try:
        seen = []
        for level in levels:
            _core._simd(level)
            params = variables(normals(23))
            optimizer = kind(params, **settings)
            for seed in range(5):
                set_grads(params, [g * 10.0 ** (seed * 40) for g in normals(23, seed)])
                optimizer.step()
            seen.append([struct.pack("<d", x) for x in data(params)])
    finally:
        _core._simd(before)
    assert all(bits == seen[0] for bits in seen)


# -- PyTorch ---------------------------------------------------------------------------------------


def coupled(params, step):
    """A quadratic whose valley moves with the step."""
    loss = 0.0
    for k, (p, pull) in enumerate(zip(params, normals(len(params), step))):
        beside = params[(k + 1) % len(params)]
        loss = loss + (k + 1) / 2 * p**2 + 0.3 * p * beside - 2 * pull * p
    return loss


def coupled_in_torch(p, step):
    """The same for a tensor."""
    weights = torch.arange(1, len(p) + 1, dtype=torch.float64) / 2
    pulls = torch.tensor(normals(len(p), step), dtype=torch.float64)
    return (weights * p**2 + 0.3 * p * p.roll(-1) - 2 * pulls * p).sum()


def moons(count=40):
    """Points of two half circles with noise, and which they belong to: -1 or 1."""
    draw = random.Random(2)
    points = []
    for k in range(count):
        angle, side = draw.uniform(0, math.pi), k % 2
        x = (1 - math.cos(angle), 0.5 - math.sin(angle)) if side else (math.cos(angle), math.sin(angle))
        points.append(([xi + draw.gauss(0, 0.1) for xi in x], 2.0 * side - 1))
    return points


def torch_twins(params):
    return [torch.tensor(p.data, dtype=torch.float64, requires_grad=True) for p in params]


@needs_torch
@every_case
def test_the_trajectory_is_pytorchs_on_a_quadratic(case):
    kind, settings = case
    ours = variables(normals(5))
    theirs = torch.tensor(data(ours), dtype=torch.float64, requires_grad=True)
    a, b = kind(ours, **settings), getattr(torch.optim, kind.__name__)([theirs], **settings)
    sign = -1 if settings["maximize"] else 1
    for step in range(STEPS):
        a.zero_grad()
        (sign * coupled(ours, step)).backward()
        a.step()
        b.zero_grad()
        (sign * coupled_in_torch(theirs, step)).backward()
        b.step()
        assert distance(data(ours), theirs.tolist()) < CLOSE, step


@needs_torch
@pytest.mark.parametrize(
    "case",
    [
        (SGD, dict(lr=0.1)),
        (SGD, dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)),
        (Adam, dict(lr=0.01)),
        (Adam, dict(lr=0.01, amsgrad=True)),
        (AdamW, dict(lr=0.01)),
        (RMSprop, dict(lr=0.005)),
        (RMSprop, dict(lr=0.005, centered=True, momentum=0.5)),
    ],
    ids=case_id,
)
def test_the_trajectory_is_pytorchs_for_a_network_on_moons(case):
    """MLP 2-6-1 with tanh, batches of 8, squared error; 25 parameters on the tape in one run."""
    kind, settings = case
    random.seed(3)
    model = MLP(2, [6, 1], activation="tanh")
    ours = model.parameters()
    hidden = [[*n.w, n.b] for n in model.layers[0].neurons]
    last = model.layers[1].neurons[0]

    def matrix(rows):
        return torch.tensor([data(row) for row in rows], dtype=torch.float64, requires_grad=True)

    first, second = matrix(hidden), matrix([[*last.w, last.b]])
    a = kind(ours, **settings)
    b = getattr(torch.optim, kind.__name__)([first, second], **settings)
    points = moons()
    for step in range(STEPS):
        batch = [points[(8 * step + k) % len(points)] for k in range(8)]
        a.zero_grad()
        losses = [(score - y) ** 2 for score, (_, y) in zip(model([x for x, _ in batch]), batch)]
        (mingrad.sum(losses) / 8).backward()
        a.step()
        b.zero_grad()
        x = torch.tensor([x for x, _ in batch], dtype=torch.float64)
        h = torch.tanh(x @ first[:, :2].T + first[:, 2])
        scores = h @ second[0, :6] + second[0, 6]
        ((scores - torch.tensor([y for _, y in batch])) ** 2).mean().backward()
        b.step()
        theirs = torch.cat([first.flatten(), second.flatten()]).tolist()
        assert distance(data(ours), theirs) < CLOSE, step


@needs_torch
@plain_cases
def test_groups_with_settings_of_their_own_are_as_in_pytorch(case):
    """Two groups whose parameters alternate on the tape; settings change between steps."""
    kind, settings = case
    ours = variables(normals(6))
    theirs = torch_twins(ours)

    def groups(params):
        return [{"params": params[::2]}, {"params": params[1::2], "lr": 0.3, "weight_decay": 0.1}]

    a = kind(groups(ours), **settings)
    b = getattr(torch.optim, kind.__name__)(groups(theirs), **settings)
    for step in range(30):
        set_grads(ours, normals(6, step))
        for p, q in zip(ours, theirs):
            q.grad = torch.tensor(p.grad, dtype=torch.float64)
        if step == 10:
            for optimizer in (a, b):
                optimizer.param_groups[0]["lr"] = 0.05
                optimizer.param_groups[1]["weight_decay"] = 0
        a.step()
        b.step()
        assert distance(data(ours), [p.item() for p in theirs]) < CLOSE, step


@needs_torch
@plain_cases
def test_a_parameter_that_joins_later_begins_with_step_one_as_in_pytorch(case):
    """PyTorch leaves out what has grad None; here requires_grad is switched off meanwhile."""
    kind, settings = case
    ours = variables(normals(7))
    theirs = torch_twins(ours)
    a, b = kind(ours, **settings), getattr(torch.optim, kind.__name__)(theirs, **settings)
    absent = {0: range(5), 3: range(10, 15), 6: range(30)}
    for step in range(30):
        for k, p in enumerate(ours):
            p.requires_grad = step not in absent.get(k, ())
        set_grads(ours, normals(7, step))
        before = data(ours)
        for p, q in zip(ours, theirs):
            q.grad = torch.tensor(p.grad, dtype=torch.float64) if p.requires_grad else None
        a.step()
        b.step()
        assert distance(data(ours), [p.item() for p in theirs]) < CLOSE, step
        assert all(p.data == x for p, x in zip(ours, before) if not p.requires_grad)


@needs_torch
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@every_case
def test_what_is_not_finite_spreads_as_in_pytorch(case, bad):
    kind, settings = case
    ours = variables(normals(5))
    theirs = torch_twins(ours)
    a, b = kind(ours, **settings), getattr(torch.optim, kind.__name__)(theirs, **settings)
    for step in range(4):
        grads = normals(5, step)
        if step == 1:
            grads[2] = bad
        set_grads(ours, grads)
        for q, g in zip(theirs, grads):
            q.grad = torch.tensor(g, dtype=torch.float64)
        a.step()
        b.step()
        for x, y in zip(data(ours), [q.item() for q in theirs]):
            assert x == pytest.approx(y, rel=1e-12, nan_ok=True), step


def test_centered_rmsprop_stays_finite_where_the_variance_rounds_below_zero():
    """With a constant gradient v - m*m dies out; its rounded value is below 0 now and then."""
    params = variables([1.0, 1.0, 1.0])
    optimizer = RMSprop(params, lr=1e-9, alpha=0.9, centered=True)
    set_grads(params, [0.1, 0.3, 0.7])
    for _ in range(2000):
        optimizer.step()
    assert all(math.isfinite(p.data) for p in params)


# -- L-BFGS ----------------------------------------------------------------------------------------


def rosenbrock(params):
    loss = 0.0
    for x, y in itertools.pairwise(params):
        loss = loss + (1 - x) ** 2 + 100 * (y - x**2) ** 2
    return loss


def bowl(params):
    return coupled(params, 0)


def shallow(params):
    """So flat that changes of the gradient are not remembered."""
    return 1e-11 * coupled(params, 0)


def fit_of_an_exponential(params):
    a, b, c = params
    loss = 0.0
    for k in range(12):
        residual = a * 2.0 ** (b * (k / 6)) + c - (1.5 * 2.0 ** (-0.7 * k / 6) + 0.2)
        loss = loss + residual**2
    return loss


LBFGS_CASES = [
    (rosenbrock, 2, dict(line_search_fn="strong_wolfe")),
    (rosenbrock, 2, dict(line_search_fn="strong_wolfe", max_iter=1)),
    (rosenbrock, 2, dict(lr=0.01, max_iter=4, history_size=3)),
    (bowl, 6, dict()),
    (bowl, 6, dict(line_search_fn="strong_wolfe")),
    (bowl, 6, dict(line_search_fn="strong_wolfe", max_eval=2)),
    (bowl, 6, dict(line_search_fn="strong_wolfe", max_iter=3, history_size=2, lr=7.0)),
    (bowl, 6, dict(max_iter=1, lr=0.5, history_size=1)),
    (bowl, 6, dict(max_eval=1)),
    (shallow, 6, dict(max_iter=3, tolerance_grad=0, tolerance_change=0)),
    (fit_of_an_exponential, 3, dict(line_search_fn="strong_wolfe", max_iter=2)),
    (fit_of_an_exponential, 3, dict(line_search_fn="strong_wolfe", lr=0.001, max_iter=3)),
]


def closure_for(optimizer, params, loss, seen=None):
    def closure():
        optimizer.zero_grad()
        value = loss(params)
        value.backward()
        if seen is not None:
            seen.append(float(value.item()))
        return value

    return closure


@needs_torch
@pytest.mark.parametrize("loss, count, settings", LBFGS_CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_lbfgs_goes_where_pytorchs_goes(loss, count, settings):
    """The same calls of the closure with the same losses, until the loss is at its rounding noise.

    A Newton-like step takes differences of gradients, so a difference in the last place grows by
    the condition number, 2,500 at Rosenbrock's minimum: hence 1e-11 there; 1e-12 where it is 10.
    """
    bound = 1e-11 if loss is rosenbrock else CLOSE
    ours = variables([x / 2 for x in normals(count, 4)])
    theirs = torch_twins(ours)
    a, b = LBFGS(ours, **settings), torch.optim.LBFGS(theirs, **settings)
    slopes = []
    for step in range(20):
        seen, wanted = [], []
        mine = a.step(closure_for(a, ours, loss, seen))
        other = b.step(closure_for(b, theirs, loss, wanted))
        slopes.append(max(abs(p.grad) for p in ours))
        if slopes[-1] < 1e-7 * slopes[0]:
            break
        assert len(seen) == len(wanted), step
        assert mine.data == pytest.approx(other.item(), rel=bound, abs=bound)
        assert seen == pytest.approx(wanted, rel=bound, abs=bound), step
        assert distance(data(ours), [p.item() for p in theirs]) < bound, step


def wavy(seed, count=2):
    """A random function with many minima: (values -> loss, gradient)."""
    draw = random.Random(seed)
    waves = [(draw.gauss(0, 1), [draw.gauss(0, 2) for _ in range(count)], draw.uniform(0, 7)) for _ in range(6)]

    def function(x):
        angles = [math.fsum([b, *map(math.prod, zip(w, x))]) for _, w, b in waves]
        loss = sum(a * math.sin(angle) for (a, _, _), angle in zip(waves, angles))
        slopes = [a * math.cos(angle) for (a, _, _), angle in zip(waves, angles)]
        grad = [sum(s * w[k] for s, (_, w, _) in zip(slopes, waves)) for k in range(count)]
        return loss + 0.05 * sum(v * v for v in x), [g + 0.1 * v for g, v in zip(grad, x)]

    return function


@needs_torch
def test_the_line_search_makes_pytorchs_trials_on_wavy_functions():
    """1000 random functions, one search each: brackets, cubics, ends that are tried too often.

    Both get values and gradients from the same plain floats. Three may part: where two trials are
    close together, whether the cubic through them has a minimum is decided by rounding.
    """
    parted, longest = [], 0
    for seed in range(1000):
        function = wavy(seed)
        start = normals(2, seed)
        settings = dict(line_search_fn="strong_wolfe", max_iter=1, max_eval=26, lr=2 + 3 * (seed % 2))
        trials = [], []
        ours, theirs = variables(start), torch.tensor(start, dtype=torch.float64)
        theirs.requires_grad = True

        def closure():
            trials[0].append(data(ours))
            loss, grad = function(trials[0][-1])
            set_grads(ours, grad)
            return loss

        def torch_closure():
            trials[1].append(theirs.tolist())
            loss, grad = function(trials[1][-1])
            theirs.grad = torch.tensor(grad, dtype=torch.float64)
            return torch.tensor(loss, dtype=torch.float64)

        LBFGS(ours, **settings).step(closure)
        torch.optim.LBFGS([theirs], **settings).step(torch_closure)
        mine, other = (list(itertools.chain(*points)) for points in trials)
        if len(mine) != len(other) or mine != pytest.approx(other, rel=1e-9, abs=1e-9):
            parted.append(seed)
        longest = max(longest, len(trials[0]))
    assert len(parted) <= 3, parted
    assert longest > 8


def test_the_line_search_takes_a_point_that_is_a_little_lower_and_flat():
    """1e-4 of what the slope at the start promises is enough; half of that is not."""
    for part, calls in [(2e-4, 2), (0.5e-4, 4)]:
        x = Variable(0.0)
        seen = []

        def closure():
            seen.append(x.data)
            x.grad = 1.0 if x.data == 0 else 0.1
            return 0.0 if x.data == 0 else part * x.data

        LBFGS([x], line_search_fn="strong_wolfe", max_iter=1, max_eval=3).step(closure)
        assert len(seen) == calls
        assert seen[:2] == [0.0, -1.0]


@pytest.mark.parametrize(
    "loss, start, best",
    [
        (rosenbrock, [-1.2, 1.0], [1.0, 1.0]),
        (fit_of_an_exponential, [1.0, 0.0, 0.0], [1.5, -0.7, 0.2]),
    ],
)
def test_lbfgs_with_strong_wolfe_finds_the_minimum(loss, start, best):
    params = variables(start)
    optimizer = LBFGS(
        params,
        line_search_fn="strong_wolfe",
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=0,
    )
    optimizer.step(closure_for(optimizer, params, loss))
    # the point is as far off as the gradient times the inverse of the smallest curvature: below 100
    assert data(params) == pytest.approx(best, abs=1e-8)


def test_lbfgs_returns_what_the_closure_returned_first():
    params = variables([3.0])
    optimizer = LBFGS(params)
    answers = []

    def closure():
        optimizer.zero_grad()
        loss = (params[0] - 1) ** 2
        loss.backward()
        answers.append(loss)
        return loss

    assert optimizer.step(closure) is answers[0]
    assert len(answers) > 1


def test_lbfgs_takes_a_plain_number_as_loss():
    params = variables([3.0])
    optimizer = LBFGS(params)

    def closure():
        params[0].grad = 2 * (params[0].data - 1)
        return (params[0].data - 1) ** 2

    assert optimizer.step(closure) == 4.0
    assert params[0].data == pytest.approx(1.0)


@pytest.mark.parametrize("settings", [dict(), dict(line_search_fn="strong_wolfe")], ids=str)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("call", [0, 1, 3, 8])
def test_lbfgs_leaves_everything_as_it_was_when_the_closure_raises(settings, error, call):
    params = variables([0.3, -0.4, 0.2])
    optimizer = LBFGS(params, max_iter=12, **settings)
    working = closure_for(optimizer, params, rosenbrock)
    optimizer.step(working)
    twin = copy.deepcopy((params, optimizer))
    before = data(params), [p.grad for p in params], optimizer.state_dict()
    calls = itertools.count()

    def closure():
        if next(calls) == call:
            raise error("planted")
        return working()

    with pytest.raises(error):
        optimizer.step(closure)
    assert (data(params), [p.grad for p in params], optimizer.state_dict()) == before
    optimizer.step(working)
    twin[1].step(closure_for(twin[1], twin[0], rosenbrock))
    assert data(params) == data(twin[0])


def test_lbfgs_leaves_a_parameter_alone_that_asks_for_no_gradient():
    params = variables([-1.2, 1.0, 0.5])
    optimizer = LBFGS(params, line_search_fn="strong_wolfe", max_iter=4)
    closure = closure_for(optimizer, params, rosenbrock)
    optimizer.step(closure)
    params[1].requires_grad = False
    kept = params[1].data
    loss = optimizer.step(closure).data
    for _ in range(5):
        optimizer.step(closure)
    assert params[1].data == kept
    assert rosenbrock(params).data < loss


def test_lbfgs_goes_on_with_nan_without_raising_and_ends():
    params = variables([1.0])
    optimizer = LBFGS(params, line_search_fn="strong_wolfe")

    def closure():
        params[0].grad = math.nan
        return math.nan

    optimizer.step(closure)
    assert math.isnan(params[0].data)


@pytest.mark.parametrize(
    "closure, error, text",
    [
        (
            lambda: None,
            TypeError,
            "LBFGS: closure's loss: expected a number or a Variable, got NoneType",
        ),
        (None, TypeError, "not callable"),
    ],
)
def test_lbfgs_says_what_a_closure_must_return(closure, error, text):
    params = variables([1.0])
    with pytest.raises(error, match=text):
        LBFGS(params).step(closure)
    assert params[0].data == 1.0


def test_lbfgs_has_one_group():
    params = variables([1.0, 2.0])
    text = "LBFGS: expected one parameter group, got another; pass all parameters in one list"
    with pytest.raises(ValueError, match=text):
        LBFGS([{"params": params[:1]}, {"params": params[1:]}])
    optimizer = LBFGS(params[:1])
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group({"params": params[1:]})


# -- what a step is to the tape --------------------------------------------------------------------


@plain_cases
def test_a_step_makes_graphs_recorded_before_stale(case):
    kind, settings = case
    params = variables([1.0, 2.0, 3.0])
    optimizer = kind(params, **settings)
    before = params[1] * params[2]
    before.backward()
    optimizer.step()
    after = params[0] * params[2]
    with pytest.raises(RuntimeError, match=r"was written after this graph had used it"):
        before.backward()
    after.backward()


@pytest.mark.parametrize("old", [False, True], ids=["young", "old"])
@pytest.mark.parametrize("young", [1, 7, None])
def test_stale_graphs_stay_stale_whatever_the_collector_does(old, young):
    with stress(young) if young else contextlib.nullcontext():
        gaps = [Variable(0.0) for _ in range(50)]
        params = variables(normals(40))
        used = [p * 2.0 for p in params]
        if old:
            mingrad.collect()
        optimizer = Adam(params)
        set_grads(params, normals(40, 1))
        for _ in range(3):
            optimizer.step()
            del gaps[::3]
            [Variable(1.0) * 2.0 for _ in range(20)]
            mingrad.collect()
            for graph in used:
                with pytest.raises(RuntimeError, match="forward pass"):
                    graph.backward()


@pytest.mark.skipif(collects_always(), reason="collections of the young part alone are what this is about")
@pytest.mark.parametrize("steps", [1, 2])
def test_a_graph_recorded_after_a_step_is_fresh_whatever_the_collector_does(steps):
    """A stamp of an old leaf is a number of nodes, which a collection of the young part lowers."""
    with stress(1000):
        params = variables(normals(40))
        mingrad.collect()
        optimizer = Adam(params)
        for _ in range(steps):
            held = [Variable(0.0) for _ in range(500)]
            optimizer.step()
            before = mingrad.tape_info()
            lids = []  # what is on top of the tape would not wait for the collector
            while mingrad.tape_info().collections == before.collections:
                held += [Variable(0.0) for _ in range(50)]
                lids.append(Variable(0.0))
                held.clear()
            after = mingrad.tape_info()
            assert after.full_collections == before.full_collections
            assert after.nodes < before.nodes - 300
            fresh = [p * 2.0 for p in params]
            lids[0].data = 1.0  # a write makes backward look at the stamps of what is below
            for graph in fresh:
                graph.backward()


def test_a_step_that_changes_nothing_of_a_graphs_leaves_leaves_the_graph_usable():
    params = variables([1.0, 2.0, 3.0])
    params[0].requires_grad = False
    other = params[0] * Variable(2.0)
    optimizer = SGD(params)
    optimizer.step()
    other.backward()


@plain_cases
def test_parameters_may_lie_anywhere_and_in_any_order(case):
    """Shuffled, with gaps, on an old and a young part of the tape, moving all the time."""
    kind, settings = case
    draw = random.Random(5)
    start = normals(60)
    plain = variables(start)
    expected = kind(plain, **settings)
    with stress(5):
        made, between = [], []
        for x in start:
            made.append(Variable(x))
            between += [Variable(0.0) for _ in range(draw.choice([0, 0, 0, 1, 2]))]
            if len(made) == 30:
                mingrad.collect()
        order = list(range(60))
        draw.shuffle(order)
        scattered = kind([made[k] for k in order], **settings)
        for step in range(12):
            grads = normals(60, step)
            set_grads(plain, grads)
            set_grads(made, grads)
            expected.step()
            scattered.step()
            del between[: len(between) // 5]
            [Variable(1.0) + 1.0 for _ in range(7)]
            assert data(made) == data(plain), step
            names = set(scattered.state_dict()["state"][0])
            for name in names:
                vector = scattered.state_dict()["state"][0][name]
                other = expected.state_dict()["state"][0][name]
                assert [vector[order.index(k)] for k in range(60)] == list(other)


@plain_cases
def test_no_grad_around_a_step_changes_nothing(case):
    kind, settings = case
    seen = []
    for mode in (contextlib.nullcontext(), no_grad()):
        params = variables(normals(9))
        optimizer = kind(params, **settings)
        set_grads(params, normals(9, 1))
        with mode:
            for _ in range(3):
                optimizer.step()
            optimizer.zero_grad()
        seen.append((data(params), [p.grad for p in params]))
    assert seen[0] == seen[1]
    assert not any(seen[0][1])


@pytest.mark.parametrize("kind", [SGD, LBFGS])
def test_the_closure_records_even_inside_no_grad(kind):
    params = variables([3.0])
    optimizer = kind(params, lr=0.25)
    with no_grad():
        loss = optimizer.step(closure_for(optimizer, params, lambda p: p[0] ** 2))
    assert loss.requires_grad
    assert params[0].data < 3.0


def test_step_returns_what_the_closure_returns():
    optimizer = SGD(variables([1.0]))
    assert optimizer.step() is None
    assert optimizer.step(lambda: "loss") == "loss"


def test_a_step_in_another_thread_is_a_step():
    params = variables([1.0])
    optimizer = SGD(params, lr=0.5)
    params[0].grad = 1.0
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    thread.join()
    assert params[0].data == 0.5


def test_zero_grad_zeroes_every_parameter_and_nothing_else():
    params = variables(normals(20))
    beside = [Variable(0.0)]
    optimizer = SGD([{"params": params[:9:2]}, {"params": params[1:9:2] + params[12:]}])
    params[3].requires_grad = False
    set_grads(params + beside, normals(21, 1))
    grads = [p.grad for p in params]
    optimizer.zero_grad()
    left = set(range(9, 12))
    assert [p.grad for p in params] == [grads[k] if k in left else 0.0 for k in range(20)]
    assert beside[0].grad != 0


def test_the_optimizer_keeps_its_parameters_alive_and_lets_them_go():
    class Marked(Variable):
        pass

    parameter = Marked(1.0)
    seen = weakref.ref(parameter)
    optimizer = Adam([parameter])
    parameter.optimizer = optimizer  # a cycle
    del parameter
    gc.collect()
    assert seen() is not None
    optimizer.step()
    del optimizer
    gc.collect()
    assert seen() is None


@plain_cases
@pytest.mark.parametrize("old", [False, True], ids=["young", "old"])
def test_when_an_allocation_of_a_step_fails_nothing_has_changed(case, old):
    kind, settings = case
    failures = 0
    start = normals(300)
    for n in range(100):
        params = variables(start)
        more = variables(start)
        if old:
            mingrad.collect()
        set_grads(params + more, normals(600, 1))
        optimizer = kind([{"params": params}, {"params": more, "maximize": True}], **settings)
        before = data(params + more), repr(optimizer.state_dict())
        graph = params[0] * more[-1]
        _core._fail_allocation(n)
        try:
            optimizer.step()
        except MemoryError:
            pass
        if not _core._fail_allocation(-1):
            break
        failures += 1
        assert (data(params + more), repr(optimizer.state_dict())) == before
        graph.backward()  # not stale
        optimizer.step()
        assert data(params + more) != before[0]
    vectors = {SGD: 1 if "momentum" in settings else 0, RMSprop: 3}.get(kind, 2)
    assert failures >= 2 * (3 if settings.get("amsgrad") else vectors)


def test_when_an_allocation_of_a_construction_fails_there_is_no_new_group():
    params, more = variables([1.0, 2.0]), variables([3.0])
    optimizer = Adam(params)
    for n in range(100):
        _core._fail_allocation(n)
        try:
            optimizer.add_param_group({"params": more})
        except MemoryError:
            assert len(optimizer.param_groups) == 1
            optimizer.step()
        if not _core._fail_allocation(-1):
            break
    assert n >= 3
    assert len(optimizer.param_groups) == 2
    optimizer.step()


# -- groups and arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        iter,
        lambda p: (x for x in p),
        lambda p: [p],
        lambda p: [p[:2], tuple(p[2:])],
        lambda p: [[p[:1], p[1:2]], p[2:]],
        lambda p: {"a": p}.values(),
        lambda p: iter([{"params": p}]),
        lambda p: [{"params": iter(p)}],
    ],
)
def test_parameters_come_in_any_ordered_form(form):
    params = variables([1.0, 2.0, 3.0, 4.0])
    optimizer = SGD(form(params), lr=0.5)
    assert optimizer.param_groups[0]["params"] == tuple(params)
    set_grads(params, [1.0] * 4)
    optimizer.step()
    assert data(params) == [0.5, 1.5, 2.5, 3.5]


def test_one_variable_will_do_as_the_params_of_a_group():
    x, y = Variable(1.0), Variable(2.0)
    optimizer = SGD([{"params": x}, {"params": y, "lr": 0.5}], lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


def test_object_arrays_and_subclasses_are_parameters():
    np = pytest.importorskip("numpy", reason="NumPy is not installed")

    class Own(Variable):
        pass

    params = np.array([[Variable(1.0), Own(2.0)], [Variable(3.0), Variable(4.0)]])
    assert SGD(params).param_groups[0]["params"] == tuple(params.ravel())


def looped():
    items = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    "params, error, text",
    [
        (
            [],
            ValueError,
            "SGD: expected at least one parameter, got none; was a generator used before?",
        ),
        ([{"params": []}], ValueError, "SGD: expected at least one parameter, got none"),
        (
            [1.0],
            TypeError,
            "SGD: expected Variables, or sequences of them, got float; make it one with mingrad.Variable(number)",
        ),
        (["w"], TypeError, "SGD: expected Variables, or sequences of them, got str"),
        (None, TypeError, "SGD: expected Variables, or sequences of them, got NoneType"),
        (
            MLP(1, [1]),
            TypeError,
            "SGD: expected Variables, or sequences of them, got MLP; pass its parameters()",
        ),
        ({Variable(1.0)}, TypeError, "got set; its order changes from run to run: pass a list"),
        ({"w": Variable(1.0)}, TypeError, "got dict; pass its values()"),
        (looped(), TypeError, "got list; nested more than 16 deep"),
        (
            [Variable(1.0), {"params": [Variable(1.0)]}],
            TypeError,
            "SGD: expected Variables only, or parameter groups only (dicts with 'params'), got Variable",
        ),
        (
            [{"lr": 1.0}],
            TypeError,
            "SGD: expected Variables only, or parameter groups only (dicts with 'params'), got a dict with 'lr'",
        ),
        (
            [{"params": [Variable(1.0)], "momentun": 1}],
            ValueError,
            (
                "SGD: expected a parameter group with 'params' and settings among lr, momentum, "
                "dampening, weight_decay, nesterov, maximize; got 'momentun'"
            ),
        ),
    ],
    ids=lambda x: None,
)
def test_what_are_no_parameters_is_refused(params, error, text):
    with pytest.raises(error) as caught:
        SGD(params)
    assert text in str(caught.value)


def test_a_parameter_that_is_a_result_or_is_there_twice_is_refused():
    x = Variable(2.0)
    with pytest.raises(ValueError) as caught:
        SGD([x, x * 2.0])
    assert str(caught.value) == (
        "SGD: parameter 1, Variable(data=4.0, grad=0.0), is the result of '*'; expected leaves: pass what it was made from"
    )
    for params in ([x, x], [{"params": [x]}, {"params": [Variable(1.0), x]}]):
        with pytest.raises(
            ValueError,
            match=r"SGD: parameter 1, Variable\(data=2.0, grad=0.0\), "
            "is there twice; pass each parameter once",
        ):
            SGD(params)
    optimizer = SGD([x])
    with pytest.raises(ValueError, match="twice"):
        optimizer.add_param_group({"params": [Variable(1.0), x]})
    assert len(optimizer.param_groups) == 1


BAD_SETTINGS = [
    (SGD, "lr", -1, ValueError, "SGD: lr: expected a finite number not below 0, got -1"),
    (SGD, "lr", math.nan, ValueError, "SGD: lr: expected a finite number not below 0, got nan"),
    (SGD, "lr", math.inf, ValueError, "SGD: lr: expected a finite number not below 0, got inf"),
    (
        SGD,
        "lr",
        "0.1",
        TypeError,
        "SGD: lr: expected a real number (int, float, NumPy scalar), got str; convert it to a float first",
    ),
    (
        SGD,
        "lr",
        Variable(0.1),
        TypeError,
        "SGD: lr: expected a real number (int, float, NumPy scalar), got Variable; a number is needed here: take its .data",
    ),
    (SGD, "lr", None, TypeError, "SGD: lr: expected a real number"),
    (SGD, "lr", 10**400, OverflowError, "int too large"),
    (SGD, "momentum", -0.1, ValueError, "SGD: momentum: expected a finite number not below 0"),
    (SGD, "dampening", math.nan, ValueError, "SGD: dampening: expected a finite number, got nan"),
    (
        SGD,
        "weight_decay",
        -1,
        ValueError,
        "SGD: weight_decay: expected a finite number not below 0",
    ),
    (
        SGD,
        "nesterov",
        True,
        ValueError,
        "SGD: nesterov: expected a momentum above 0 and a dampening of 0 with it, got 0.0 and 0.0",
    ),
    (Adam, "lr", math.nan, ValueError, "Adam: lr: expected a finite number not below 0, got nan"),
    (Adam, "betas", 0.9, TypeError, "Adam: betas: expected a pair of numbers, got 0.9"),
    (Adam, "betas", (0.9,), TypeError, "Adam: betas: expected a pair of numbers, got (0.9,)"),
    (
        Adam,
        "betas",
        (1.0, 0.9),
        ValueError,
        "Adam: betas[0]: expected a number not below 0 and below 1, got 1",
    ),
    (
        Adam,
        "betas",
        (0.9, -1),
        ValueError,
        "Adam: betas[1]: expected a number not below 0 and below 1, got -1",
    ),
    (Adam, "eps", -1e-8, ValueError, "Adam: eps: expected a finite number not below 0, got -1e-08"),
    (
        AdamW,
        "weight_decay",
        -1,
        ValueError,
        "AdamW: weight_decay: expected a finite number not below 0, got -1",
    ),
    (
        RMSprop,
        "alpha",
        1.0,
        ValueError,
        "RMSprop: alpha: expected a number not below 0 and below 1, got 1",
    ),
    (
        RMSprop,
        "momentum",
        -1,
        ValueError,
        "RMSprop: momentum: expected a finite number not below 0",
    ),
    (LBFGS, "lr", math.nan, ValueError, "LBFGS: lr: expected a finite number not below 0, got nan"),
    (LBFGS, "max_iter", 0, ValueError, "LBFGS: max_iter: expected an int not below 1, got 0"),
    (LBFGS, "max_iter", 2.0, TypeError, "LBFGS: max_iter: expected an int, got 2.0"),
    (LBFGS, "max_eval", 0, ValueError, "LBFGS: max_eval: expected an int not below 1, got 0"),
    (
        LBFGS,
        "tolerance_grad",
        -1,
        ValueError,
        "LBFGS: tolerance_grad: expected a finite number not",
    ),
    (
        LBFGS,
        "tolerance_change",
        math.inf,
        ValueError,
        "LBFGS: tolerance_change: expected a finite ",
    ),
    (LBFGS, "history_size", True, TypeError, "LBFGS: history_size: expected an int, got True"),
    (
        LBFGS,
        "line_search_fn",
        "wolfe",
        ValueError,
        "LBFGS: line_search_fn: expected None or 'strong_wolfe', got 'wolfe'",
    ),
]


@pytest.mark.parametrize(
    "kind, name, value, error, text",
    BAD_SETTINGS,
    ids=[f"{b[0].__name__}-{b[1]}-{b[2]}"[:40] for b in BAD_SETTINGS],
)
def test_a_setting_that_cannot_be_meant_is_refused_at_once_and_at_the_next_step(kind, name, value, error, text):
    with pytest.raises(error) as caught:
        kind(variables([1.0]), **{name: value})
    assert text in str(caught.value)
    with pytest.raises(error):
        kind([{"params": variables([1.0]), name: value}])

    first, second = variables([1.0, 2.0]), variables([3.0, 4.0])
    one = kind is LBFGS
    optimizer = kind(first) if one else kind([{"params": first}, {"params": second}])
    set_grads(first + second, [1.0] * 4)
    calls = []

    def closure():
        calls.append(1)
        return 0.0

    if not one:
        optimizer.step()
    optimizer.param_groups[-1][name] = value
    before = data(first + second), repr(optimizer.state_dict()["state"])
    with pytest.raises(error) as caught:
        optimizer.step(closure)
    assert text in str(caught.value)
    assert (data(first + second), repr(optimizer.state_dict()["state"])) == before
    assert not calls


def test_a_learning_rate_that_the_closure_spoils_is_refused_before_anything_changes():
    params = variables([1.0])
    params[0].grad = 1.0
    optimizer = SGD(params)

    def closure():
        optimizer.param_groups[0]["lr"] = math.nan

    with pytest.raises(ValueError, match="lr"):
        optimizer.step(closure)
    assert params[0].data == 1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda o: o.param_groups.append(o.param_groups[0]),
        lambda o: o.param_groups.clear(),
        lambda o: o.param_groups[0].update(params=variables([5.0])),
        lambda o: o.param_groups[0].update(params=list(o.param_groups[0]["params"])),
    ],
)
def test_parameters_exchanged_behind_the_optimizers_back_are_refused(change):
    optimizer = SGD(variables([1.0]))
    change(optimizer)
    with pytest.raises(RuntimeError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        "SGD: param_groups, or the 'params' in it, have been exchanged; only settings can be "
        "changed there: use add_param_group() or make a new optimiser"
    )


def test_settings_may_be_numpy_scalars():
    np = pytest.importorskip("numpy", reason="NumPy is not installed")
    params = variables([1.0])
    params[0].grad = 1.0
    SGD(params, lr=np.float32(0.5), momentum=np.float64(0.5)).step()
    assert params[0].data == 0.5


def test_an_optimizer_shows_its_settings():
    optimizer = SGD([{"params": variables([1.0, 2.0])}, {"params": variables([3.0]), "lr": 1}], lr=0.5)
    rest = "momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False"
    assert repr(optimizer) == f"SGD(2 parameters, lr=0.5, {rest}; 1 parameters, lr=1, {rest})"


# -- saving ----------------------------------------------------------------------------------------


def stepper(kind, settings, params):
    """step(k): one step of an optimiser with gradients that depend on k and the parameters."""
    optimizer = kind(
        ([{"params": params[::2]}, {"params": params[1::2], "lr": 0.02}] if kind is not LBFGS else params),
        **settings,
    )

    def step(k):
        if kind is LBFGS:
            optimizer.step(closure_for(optimizer, params, lambda p: coupled(p, k // 4)))
        else:
            optimizer.zero_grad()
            coupled(params, k).backward()
            optimizer.step()

    return optimizer, step


SAVED = [
    *PLAIN,
    (LBFGS, dict(max_iter=3)),
    (LBFGS, dict(line_search_fn="strong_wolfe", max_iter=2, history_size=2)),
]


def as_lists(x):
    if isinstance(x, dict):
        return {key: as_lists(value) for key, value in x.items()}
    return [as_lists(item) for item in x] if isinstance(x, (list, tuple, array.array)) else x


@pytest.mark.parametrize(
    "how",
    [
        copy.deepcopy,
        lambda s: pickle.loads(pickle.dumps(s)),
        lambda s: json.loads(json.dumps(as_lists(s))),
    ],
    ids=["deepcopy", "pickle", "json"],
)
@pytest.mark.parametrize("when", [0, 1, 9])
@pytest.mark.parametrize("case", SAVED, ids=case_id)
def test_training_goes_on_with_the_same_bits_after_a_load(case, when, how):
    params = variables(normals(6))
    optimizer, step = stepper(*case, params)
    for k in range(when):
        step(k)
    values, state = data(params), how(optimizer.state_dict())
    for k in range(when, when + 6):
        step(k)

    others = variables(normals(6, 8))
    resumed, step = stepper(*case, others)
    for k in range(3):  # it has a state of its own, which must go
        step(k)
    for p, x in zip(others, values):
        p.data = x
    resumed.load_state_dict(state)
    for k in range(when, when + 6):
        step(k)
    assert data(others) == data(params)
    assert as_lists(resumed.state_dict()) == as_lists(optimizer.state_dict())


@pytest.mark.parametrize("case", SAVED, ids=case_id)
def test_a_model_and_its_optimizer_are_copied_and_pickled_together(case):
    params = variables(normals(6))
    optimizer, step = stepper(*case, params)
    for k in range(5):
        step(k)
    for twins, twin in (
        copy.deepcopy((params, optimizer)),
        pickle.loads(pickle.dumps((params, optimizer))),
    ):
        assert repr(twin.state_dict()) == repr(optimizer.state_dict())
        assert twin.param_groups[0]["params"][0] is twins[0]
        set_grads(twins, [p.grad for p in params])
        closure = closure_for(twin, twins, bowl) if case[0] is LBFGS else None
        twin.step(closure)
        assert data(twins) != data(params)
        again = copy.deepcopy((params, optimizer))
        again[1].step(closure_for(again[1], again[0], bowl) if closure else None)
        assert data(twins) == data(again[0])


def test_a_state_dict_is_a_snapshot():
    params = variables([1.0, 2.0])
    optimizer = SGD(params, momentum=0.9)
    set_grads(params, [1.0, 1.0])
    optimizer.step()
    state = optimizer.state_dict()
    optimizer.step()
    assert list(state["state"][0]["momentum_buffer"]) == [1.0, 1.0]
    optimizer.load_state_dict(state)
    state["state"][0]["momentum_buffer"][0] = 7.0
    state["param_groups"][0]["lr"] = 7.0
    assert list(optimizer.state_dict()["state"][0]["momentum_buffer"]) == [1.0, 1.0]
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_a_state_dict_has_pytorchs_names():
    params = variables([1.0])
    set_grads(params, [1.0])
    names = {}
    for kind, settings in [
        (SGD, dict(momentum=0.9)),
        (Adam, dict(amsgrad=True)),
        (RMSprop, dict(centered=True, momentum=0.9)),
    ]:
        optimizer = kind(params, **settings)
        optimizer.step()
        (names[kind],) = map(set, optimizer.state_dict()["state"])
    assert names == {
        SGD: {"step", "momentum_buffer"},
        Adam: {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
        RMSprop: {"step", "square_avg", "grad_avg", "momentum_buffer"},
    }


def test_settings_that_others_leave_in_a_group_are_saved_too():
    params = variables([1.0])
    optimizer = SGD(params)
    optimizer.param_groups[0].update(initial_lr=0.5, name="head")
    other = SGD(variables([2.0]))
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["initial_lr"] == 0.5
    assert other.param_groups[0]["name"] == "head"


def spoil(path, value):
    def change(state):
        *way, last = path
        for key in way:
            state = state[key]
        if value is None:
            del state[last]
        else:
            state[last] = value

    return change


NAME = "Adam.load_state_dict"
BAD_STATES = [
    (
        lambda s: s.clear(),
        TypeError,
        f"{NAME}: expected a dict with lists 'state' and 'param_groups', as state_dict() gives it, got a dict with ",
    ),
    (spoil(["state"], None), TypeError, "got a dict with 'param_groups'"),
    (spoil(["state"], 3), TypeError, "expected a dict with lists"),
    (
        spoil(["param_groups", 0], None),
        ValueError,
        f"{NAME}: expected 2 parameter groups, got 2 in 'state' and 1 in 'param_groups'",
    ),
    (
        spoil(["param_groups", 0, "params"], 3),
        ValueError,
        f"{NAME}: parameter group 0: expected 2 parameters, got 3",
    ),
    (
        spoil(["param_groups", 1, "betas"], None),
        ValueError,
        (
            f"{NAME}: parameter group 1: expected params, lr, betas, eps, weight_decay, amsgrad, "
            "maximize, got lr, eps, weight_decay, amsgrad, maximize, params; is it the state of "
            "another optimiser?"
        ),
    ),
    (spoil(["param_groups", 1, "lr"], math.nan), ValueError, "Adam: lr: expected a finite number"),
    (
        spoil(["state", 1, "step"], None),
        ValueError,
        (
            f"{NAME}: parameter group 1: expected a state with 'step' and some of exp_avg, exp_avg_sq, "
            "max_exp_avg_sq, got a dict with 'exp_avg', 'exp_avg_sq'"
        ),
    ),
    (spoil(["state", 1, "momentum_buffer"], [0.0]), ValueError, "and some of exp_avg"),
    (spoil(["state", 1], [1.0]), ValueError, "got list"),
    (
        spoil(["state", 1, "exp_avg"], [1.0, 2.0]),
        ValueError,
        f"{NAME}: parameter group 1: 'exp_avg': expected 1 numbers, got 2",
    ),
    (
        spoil(["state", 1, "exp_avg"], ["x"]),
        TypeError,
        f"{NAME}: parameter group 1: 'exp_avg': expected a sequence of 1 numbers, got list",
    ),
    (spoil(["state", 1, "exp_avg"], b"12345678"), TypeError, "numbers, got bytes"),
    (spoil(["state", 1, "exp_avg"], 1.0), TypeError, "numbers, got float"),
    (
        spoil(["state", 1, "step"], [-1]),
        ValueError,
        f"{NAME}: parameter group 1: 'step': expected numbers of steps, got array('d', [-1.0])",
    ),
    (spoil(["state", 1, "step"], [math.nan]), ValueError, "expected numbers of steps"),
]


@pytest.mark.parametrize("change, error, text", BAD_STATES, ids=range(len(BAD_STATES)))
def test_a_state_dict_that_does_not_fit_is_refused_and_nothing_changes(change, error, text):
    params = variables(normals(3))
    optimizer = Adam([{"params": params[:2]}, {"params": params[2:]}])
    set_grads(params, normals(3, 1))
    optimizer.step()
    state = optimizer.state_dict()
    state["param_groups"] = [{**dict(reversed(g.items())), "params": g["params"]} for g in state["param_groups"]]
    state["param_groups"] = [
        {k: g[k] for k in ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "params")}
        for g in state["param_groups"]
    ]
    state["param_groups"][0]["lr"] = 0.7
    state["state"][0]["exp_avg"][0] = 7.0
    change(state)
    before = repr(optimizer.state_dict())
    with pytest.raises(error) as caught:
        optimizer.load_state_dict(state)
    assert text in str(caught.value)
    assert repr(optimizer.state_dict()) == before


def test_the_state_of_another_optimizer_is_refused():
    saved = SGD(variables([1.0])).state_dict()
    with pytest.raises(ValueError, match=r"is it the state of another optimiser\?"):
        Adam(variables([1.0])).load_state_dict(saved)
    with pytest.raises(TypeError, match=r"expected a dict with lists 'state'.* got NoneType"):
        Adam(variables([1.0])).load_state_dict(None)


LBFGS_SPOILED = [
    (
        spoil(["state", 0, "d"], None),
        "expected a state with func_evals, n_iter, d, prev_flat_grad, old_dirs, old_stps, ro, H_diag, t, prev_loss, got a dict",
    ),
    (spoil(["state", 0, "d"], [1.0]), "'d': expected 4 numbers, got 1"),
    (spoil(["state", 0, "t"], "x"), "'t': expected a number or a Variable, got str"),
    (spoil(["state", 0, "n_iter"], 1.5), "'n_iter': expected an int, got 1.5"),
    (spoil(["state", 0, "n_iter"], 0), "expected a state with func_evals, n_iter, got a dict"),
    (spoil(["state", 0, "ro"], [1.0]), "'old_dirs': expected a list as long as 'ro'"),
    (spoil(["state", 0, "old_stps", 0], [1.0]), "'old_stps': expected 4 numbers, got 1"),
    (spoil(["state", 0], 5), "got int"),
]


@pytest.mark.parametrize("change, text", LBFGS_SPOILED, ids=range(len(LBFGS_SPOILED)))
def test_a_state_that_does_not_fit_lbfgs_is_refused_and_nothing_changes(change, text):
    params = variables(normals(4))
    optimizer, step = stepper(LBFGS, dict(max_iter=4), params)
    step(0)
    state, before = optimizer.state_dict(), repr(optimizer.state_dict())
    assert len(state["state"][0]["ro"]) > 1
    change(state)
    with pytest.raises((ValueError, TypeError)) as caught:
        optimizer.load_state_dict(state)
    assert text in str(caught.value)
    assert repr(optimizer.state_dict()) == before


def test_when_an_allocation_of_a_load_fails_nothing_has_changed():
    params = variables(normals(6))
    optimizer, step = stepper(Adam, dict(amsgrad=True), params)
    step(0)
    state = optimizer.state_dict()
    for n in range(20):
        fresh = Adam([{"params": params[::2]}, {"params": params[1::2]}])
        before = repr(fresh.state_dict())
        _core._fail_allocation(n)
        try:
            fresh.load_state_dict(state)
        except MemoryError:
            assert repr(fresh.state_dict()) == before
        if not _core._fail_allocation(-1):
            break
    assert n == 6
    assert repr(fresh.state_dict()) == repr(optimizer.state_dict())


# -- schedules -------------------------------------------------------------------------------------


SCHEDULES = [
    ("StepLR", dict(step_size=3, gamma=0.5)),
    ("StepLR", dict(step_size=1)),
    ("ExponentialLR", dict(gamma=0.93)),
    ("CosineAnnealingLR", dict(T_max=10)),
    ("CosineAnnealingLR", dict(T_max=7, eta_min=0.01)),
    ("CosineAnnealingLR", dict(T_max=1)),
    ("LambdaLR", dict(lr_lambda=lambda epoch: 0.95**epoch)),
    ("LambdaLR", dict(lr_lambda=[lambda epoch: 1 / (1 + epoch), lambda epoch: 1.0])),
]
PLATEAUS = [
    dict(),
    dict(mode="max", factor=0.5, patience=1),
    dict(threshold=0.1, patience=2),
    dict(threshold_mode="abs", threshold=0.3, patience=0, cooldown=3),
    dict(mode="max", threshold_mode="abs", threshold=0.2, patience=1, min_lr=[0.02, 0.05]),
    dict(patience=0, factor=0.3, min_lr=0.01, eps=1e-2),
    dict(mode="max", patience=1, cooldown=1),
]


def two_groups(kind=SGD, lr=0.1):
    return kind([{"params": variables([1.0])}, {"params": variables([2.0]), "lr": lr / 2}], lr=lr)


def torch_groups(lr=0.1):
    x, y = torch_twins(variables([1.0, 2.0]))
    return torch.optim.SGD([{"params": [x]}, {"params": [y], "lr": lr / 2}], lr=lr)


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


schedules = pytest.mark.parametrize("name, settings", SCHEDULES, ids=[f"{n}-{list(s.values())}"[:34] for n, s in SCHEDULES])


@needs_torch
@schedules
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
def test_a_schedule_has_pytorchs_rates(name, settings):
    ours, theirs = two_groups(), torch_groups()
    a = getattr(optim, name)(ours, **settings)
    b = getattr(torch.optim.lr_scheduler, name)(theirs, **settings)
    for epoch in range(60):
        assert rates(ours) == rates(theirs), epoch
        assert a.get_last_lr() == list(b.get_last_lr()), epoch
        assert a.last_epoch == b.last_epoch == epoch
        if epoch == 20:  # someone else changes a rate
            ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.07
        a.step()
        b.step()


def measures(seed, count=80):
    """A loss that falls, stays, jumps, and is nan now and then."""
    draw = random.Random(seed)
    return [math.nan if draw.random() < 0.05 else math.exp(-k / 30) * 2 + draw.gauss(0, 0.2) for k in range(count)]


@needs_torch
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", PLATEAUS, ids=str)
def test_the_plateau_schedule_has_pytorchs_rates(settings, seed):
    ours, theirs = two_groups(), torch_groups()
    a = optim.ReduceLROnPlateau(ours, **settings)
    b = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **settings)
    for epoch, measure in enumerate(measures(seed)):
        a.step(Variable(measure) if epoch % 2 else measure)
        b.step(measure)
        assert rates(ours) == rates(theirs), epoch
        assert a.get_last_lr() == list(b.get_last_lr())
        assert (a.num_bad_epochs, a.cooldown_counter) == (b.num_bad_epochs, b.cooldown_counter)


def closed_form(name, settings, base, epoch):
    """The rate of an epoch by the formula, not from the one before."""
    if name == "StepLR":
        return base * settings.get("gamma", 0.1) ** (epoch // settings["step_size"])
    if name == "ExponentialLR":
        return base * settings["gamma"] ** epoch
    if name == "CosineAnnealingLR":
        low = settings.get("eta_min", 0.0)
        return low + (base - low) * (1 + math.cos(math.pi * epoch / settings["T_max"])) / 2
    return base * settings["lr_lambda"](epoch)


@pytest.mark.parametrize("name, settings", [s for s in SCHEDULES if not isinstance(s[1].get("lr_lambda"), list)], ids=str)
def test_a_schedule_follows_its_formula(name, settings):
    optimizer = two_groups()
    schedule = getattr(optim, name)(optimizer, **settings)
    for epoch in range(25):
        expected = [closed_form(name, settings, base, epoch) for base in (0.1, 0.05)]
        # the recursion carries each epoch's rounding error on; at the bottom of the cosine, where
        # 1 + cos is 1e-17 instead of 0, noise is all that is left
        assert rates(optimizer) == pytest.approx(expected, rel=1e-12, abs=1e-16)
        schedule.step()


def test_the_plateau_schedule_waits_multiplies_and_cools_down():
    optimizer = two_groups()
    schedule = optim.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=2)
    seen = []
    for measure in [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1]:
        schedule.step(measure)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025]


@schedules
@pytest.mark.parametrize("how", [copy.deepcopy, lambda s: json.loads(json.dumps(s))], ids=["deepcopy", "json"])
def test_a_schedule_goes_on_after_a_load(name, settings, how):
    optimizer = two_groups()
    schedule = getattr(optim, name)(optimizer, **settings)
    for _ in range(5):
        schedule.step()
    saved = how(schedule.state_dict()), how(as_lists(optimizer.state_dict()))
    other = two_groups(lr=0.7)
    resumed = getattr(optim, name)(other, **settings)
    resumed.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    assert resumed.get_last_lr() == schedule.get_last_lr()
    for _ in range(20):
        schedule.step()
        resumed.step()
        assert rates(other) == rates(optimizer)
    assert resumed.state_dict() == schedule.state_dict()


@pytest.mark.parametrize("settings", PLATEAUS, ids=str)
def test_the_plateau_schedule_goes_on_after_a_load(settings):
    optimizer = two_groups()
    schedule = optim.ReduceLROnPlateau(optimizer, **settings)
    seen = measures(1)
    for measure in seen[:40]:
        schedule.step(measure)
    other = two_groups()
    resumed = optim.ReduceLROnPlateau(other)
    resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    other.load_state_dict(optimizer.state_dict())
    for measure in seen[40:]:
        schedule.step(measure)
        resumed.step(measure)
        assert rates(other) == rates(optimizer)
    assert resumed.state_dict() == schedule.state_dict()


def test_a_schedule_can_be_made_again_at_a_later_epoch():
    """As PyTorch 2.13: the first rates are the groups' own, StepLR takes its step at a multiple."""
    for name, settings, expected in [
        ("StepLR", dict(step_size=2, gamma=0.5), 0.025),
        ("ExponentialLR", dict(gamma=0.5), 0.05),
        ("CosineAnnealingLR", dict(T_max=10), 0.05),
    ]:
        optimizer = two_groups()
        with pytest.raises(
            KeyError,
            match="parameter group 0 has no 'initial_lr'; load the optimiser's state first",
        ):
            getattr(optim, name)(optimizer, last_epoch=3, **settings)
        for group in optimizer.param_groups:
            group.update(initial_lr=0.1, lr=0.05)
        schedule = getattr(optim, name)(optimizer, last_epoch=3, **settings)
        assert schedule.last_epoch == 4
        assert schedule.base_lrs == [0.1, 0.1]
        assert rates(optimizer) == [expected, expected]


def test_schedules_are_found_where_pytorch_has_them():
    import mingrad.optim.lr_scheduler as module
    from mingrad.optim.lr_scheduler import StepLR

    assert StepLR is optim.StepLR is optim.lr_scheduler.StepLR is module.StepLR
    assert set(module.__all__) == {
        name for name in optim.__all__ if name.endswith("LR") or "Scheduler" in name or name == "ReduceLROnPlateau"
    }


@pytest.mark.parametrize(
    "make, error, text",
    [
        (
            lambda o: optim.StepLR([], 3),
            TypeError,
            "StepLR: expected an optimiser of mingrad.optim, got list",
        ),
        (
            lambda o: optim.StepLR(o, 0),
            ValueError,
            "StepLR: step_size: expected an int not below 1, got ",
        ),
        (
            lambda o: optim.StepLR(o, 3, gamma=math.nan),
            ValueError,
            "StepLR: gamma: expected a finite ",
        ),
        (
            lambda o: optim.StepLR(o, 3, last_epoch=-2),
            ValueError,
            "StepLR: last_epoch: expected an int ",
        ),
        (
            lambda o: optim.ExponentialLR(o, -1),
            ValueError,
            "ExponentialLR: gamma: expected a finite",
        ),
        (
            lambda o: optim.CosineAnnealingLR(o, 2.5),
            TypeError,
            "CosineAnnealingLR: T_max: expected an int",
        ),
        (
            lambda o: optim.CosineAnnealingLR(o, 0),
            ValueError,
            "CosineAnnealingLR: T_max: expected an int",
        ),
        (
            lambda o: optim.LambdaLR(o, [float]),
            ValueError,
            "LambdaLR: lr_lambda: expected 2, one for each group, got 1",
        ),
        (
            lambda o: optim.LambdaLR(o, lambda epoch: math.nan),
            ValueError,
            "LambdaLR: lr: expected a finite number not below 0, got nan",
        ),
        (
            lambda o: optim.ReduceLROnPlateau(o, mode="low"),
            ValueError,
            "ReduceLROnPlateau: mode: expected 'min' or 'max', got 'low'",
        ),
        (
            lambda o: optim.ReduceLROnPlateau(o, factor=1.0),
            ValueError,
            "ReduceLROnPlateau: factor: expected a number not below 0 and below 1, got 1",
        ),
        (
            lambda o: optim.ReduceLROnPlateau(o, min_lr=[0.1]),
            ValueError,
            "ReduceLROnPlateau: min_lr: expected 2, one for each group, got 1",
        ),
        (
            lambda o: optim.ReduceLROnPlateau(o, threshold_mode="r"),
            ValueError,
            "ReduceLROnPlateau: threshold_mode: expected 'rel' or 'abs', got 'r'",
        ),
        (
            lambda o: optim.ReduceLROnPlateau(o).step("1"),
            TypeError,
            "ReduceLROnPlateau.step: expected a number or a Variable, got str",
        ),
        (lambda o: optim.LRScheduler(o), NotImplementedError, "LRScheduler has no get_lr()"),
    ],
    ids=range(15),
)
def test_a_schedule_that_cannot_be_meant_is_refused(make, error, text):
    optimizer = two_groups()
    with pytest.raises(error) as caught:
        make(optimizer)
    assert text in str(caught.value)
    assert rates(optimizer) == [0.1, 0.05]


def test_a_rate_that_is_not_finite_is_refused_and_the_schedule_stays_where_it_was():
    optimizer = two_groups()
    schedule = optim.LambdaLR(optimizer, lambda epoch: math.inf if epoch == 2 else 1.0 + epoch)
    schedule.step()
    before = rates(optimizer), schedule.state_dict()
    with pytest.raises(ValueError, match="LambdaLR: lr: expected a finite number not below 0, got inf"):
        schedule.step()
    assert (rates(optimizer), schedule.state_dict()) == before


def test_a_group_that_joins_later_needs_a_new_schedule():
    optimizer = two_groups()
    schedule = optim.LambdaLR(optimizer, lambda epoch: 1.0)
    optimizer.add_param_group({"params": variables([3.0])})
    with pytest.raises(
        ValueError,
        match="LambdaLR: expected 3 learning rates, got 2; after "
        r"add_param_group\(\) make a new schedule",
    ):
        schedule.step()


@pytest.mark.parametrize(
    "change, text",
    [
        (
            spoil(["gamma"], None),
            "StepLR.load_state_dict: expected base_lrs, _last_lr, last_epoch, step_size, gamma, got a dict with",
        ),
        (spoil(["gamma"], "x"), "'gamma': expected a real number (int, float, NumPy scalar), got str"),
        (spoil(["last_epoch"], 1.5), "'last_epoch': expected an int, got 1.5"),
        (spoil(["last_epoch"], 1 << 63), "'last_epoch': expected an int below 2**63, got one with 64 bits"),
        (spoil(["base_lrs"], [1.0]), "'base_lrs': expected 2 numbers, got 1"),
        (spoil(["base_lrs"], [1.0, -1.0]), "'base_lrs': expected a finite number not below 0, got -1"),
        (spoil(["step_size"], 0), "'step_size': expected an int not below 1, got 0"),
    ],
)
def test_the_state_of_another_schedule_is_refused_and_nothing_changes(change, text):
    schedule = optim.StepLR(two_groups(), 3)
    state = schedule.state_dict()
    state["last_epoch"] = 17
    change(state)
    before = schedule.state_dict()
    with pytest.raises((ValueError, TypeError)) as caught:
        schedule.load_state_dict(state)
    assert text in str(caught.value)
    assert schedule.state_dict() == before


# -- clipping --------------------------------------------------------------------------------------

GRADS = {
    "plain": [0.3, -1.7, 2.2, 0.0, 5.0],
    "small": [1e-3, -2e-3],
    "huge": [1e200, -3e200, 1e100],
    "nan": [1.0, math.nan, 2.0],
    "inf": [1.0, -math.inf, 2.0],
    "both": [math.inf, math.nan],
    "zero": [0.0, 0.0],
}


@needs_torch
@pytest.mark.parametrize("p", [2.0, 1.0, 3.5, math.inf, "inf", 0.5], ids=str)
@pytest.mark.parametrize("bound", [1.0, 0.0, 100.0, math.inf], ids=str)
@pytest.mark.parametrize("name", GRADS)
def test_gradients_are_scaled_as_in_pytorch(name, bound, p):
    if name == "huge" and p not in (1.0, math.inf, "inf"):
        pytest.skip("PyTorch's sum of powers overflows; another test says what is right")
    params = variables([0.0] * len(GRADS[name]))
    set_grads(params, GRADS[name])
    theirs = torch_twins(params)
    for q, g in zip(theirs, GRADS[name]):
        q.grad = torch.tensor(g, dtype=torch.float64)
    got = optim.clip_grad_norm_(params, bound, norm_type=p)
    expected = torch.nn.utils.clip_grad_norm_(theirs, bound, norm_type=p).item()
    assert got == pytest.approx(expected, rel=1e-14, nan_ok=True)
    assert [v.grad for v in params] == pytest.approx([q.grad.item() for q in theirs], rel=1e-14, nan_ok=True)


@pytest.mark.parametrize("p, expected", [(2.0, 5e200), (4.0, (81 + 256) ** 0.25 * 1e200)])
def test_a_norm_of_huge_gradients_does_not_overflow(p, expected):
    params = variables([0.0, 0.0])
    set_grads(params, [3e200, -4e200])
    assert optim.clip_grad_norm_(params, 5.0, p) == pytest.approx(expected, rel=1e-15)
    assert params[0].grad / params[1].grad == pytest.approx(-0.75, rel=1e-15)


@pytest.mark.parametrize("grads", [[1.0, math.nan], [math.inf, 1.0]])
def test_a_norm_that_is_not_finite_can_be_made_an_error(grads):
    params = variables([0.0, 0.0])
    set_grads(params, grads)
    with pytest.raises(
        RuntimeError,
        match=r"clip_grad_norm_: the norm of the gradients is (nan|inf), "
        "so they cannot be scaled; look for what made them so, or "
        "pass error_if_nonfinite=False",
    ):
        optim.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert [p.grad for p in params] == pytest.approx(grads, nan_ok=True)


def test_gradients_are_brought_within_a_bound():
    params = variables([0.0] * 6)
    set_grads(params, [3.0, -3.0, 0.5, math.nan, math.inf, -math.inf])
    assert optim.clip_grad_value_(params, 2.0) is None
    assert [p.grad for p in params] == pytest.approx([2.0, -2.0, 0.5, math.nan, 2.0, -2.0], nan_ok=True)


def test_clipping_takes_one_variable_rows_and_no_parameters():
    x, y = Variable(0.0), Variable(0.0)
    set_grads([x, y], [3.0, 4.0])
    assert optim.clip_grad_norm_(x, 1.0) == 3.0
    assert optim.clip_grad_norm_([[x], (y for y in [y])], math.inf) == pytest.approx(math.hypot(1, 4))
    assert optim.clip_grad_norm_([], 1.0) == 0.0
    optim.clip_grad_value_(y, 0.5)
    assert y.grad == 0.5


@pytest.mark.parametrize(
    "call, error, text",
    [
        (
            lambda x: optim.clip_grad_norm_(x, -1),
            ValueError,
            "clip_grad_norm_: max_norm: expected a finite",
        ),
        (
            lambda x: optim.clip_grad_norm_(x, math.nan),
            ValueError,
            "clip_grad_norm_: max_norm: expected",
        ),
        (
            lambda x: optim.clip_grad_norm_(x, 1.0, 0),
            ValueError,
            "clip_grad_norm_: norm_type: expected a number above 0, or infinity, got 0",
        ),
        (
            lambda x: optim.clip_grad_norm_(x, 1.0, "two"),
            TypeError,
            "clip_grad_norm_: norm_type: expected",
        ),
        (
            lambda x: optim.clip_grad_norm_([x, 1.0], 1.0),
            TypeError,
            "clip_grad_norm_: expected Variables",
        ),
        (
            lambda x: optim.clip_grad_value_(x, -1),
            ValueError,
            "clip_grad_value_: clip_value: expected a ",
        ),
        (
            lambda x: optim.clip_grad_value_("x", 1),
            TypeError,
            "clip_grad_value_: expected Variables, or ",
        ),
    ],
    ids=range(7),
)
def test_clipping_that_cannot_be_meant_is_refused(call, error, text):
    x = Variable(0.0)
    x.grad = 5.0
    with pytest.raises(error) as caught:
        call(x)
    assert text in str(caught.value)
    assert x.grad == 5.0


# -- the core's part, misused ----------------------------------------------------------------------


def test_a_group_of_the_core_refuses_what_would_break_it():
    x = Variable(1.0)
    for wrong in ((1.0,), (x * 2.0,), (None,)):
        with pytest.raises(TypeError, match="Group: expected leaf Variables"):
            _core.Group(wrong)
    for wrong in ((), ([x],)):
        with pytest.raises(TypeError):
            _core.Group.__new__(_core.Group, *wrong)
    group = _core.Group((x,))
    group.__init__((x,))
    room = array.array("d", [0.0])
    for what in (-4, 3, 99):
        with pytest.raises(ValueError, match="expected what from -3 to 2"):
            group.read(what, room)
        with pytest.raises(ValueError, match="expected what from -3 to 2"):
            group.write(what, room)
    for wrong in (array.array("d"), array.array("f", [1.0]), array.array("d", [1.0, 2.0])):
        with pytest.raises(ValueError, match="expected a buffer of 1 doubles"):
            group.read(-2, wrong)
        with pytest.raises(ValueError, match="expected a buffer of 1 doubles"):
            group.write(-2, wrong)
    with pytest.raises(BufferError):
        group.read(-2, struct.pack("d", 1.0))
    with pytest.raises(TypeError):
        _core._adam([x], [()])
    with pytest.raises(ValueError, match="at most 8 settings"):
        _core._adam([group], [(0.0,) * 9])
    with pytest.raises(ValueError):
        _core._vector_dot(room, array.array("d", [1.0, 2.0]))
    with pytest.raises(ValueError):
        _core._vector_add(room, 1.0, array.array("d"))
    assert _core.Group(()).variables == ()
    _core._sgd([_core.Group(())], [(0.1, 0.0, 0.0, 0.9, 0.0, 0.0)])
    assert x.data == 1.0


def test_parameters_that_follow_each_other_are_one_run():
    params = variables(normals(50))
    shuffled = random.Random(1).sample(params, 50)
    assert _core.Group(tuple(shuffled)).runs == 1
    assert _core.Group(tuple(params[::2])).runs == 25
    assert _core.Group(tuple(params[:20] + params[30:])).runs == 2
    group = _core.Group(tuple(params))
    params[7].requires_grad = False
    _core._sgd([group], [(0.1, 0.0, 0.0, 0.0, 0.0, 0.0)])
    assert group.runs == 3
    params[7].requires_grad = True
    _core._sgd([group], [(0.1, 0.0, 0.0, 0.0, 0.0, 0.0)])
    assert group.runs == 1


def test_parameters_that_follow_each_other_make_one_run_again_after_they_were_apart():
    """Seen from outside: the state is right through freezing, unfreezing and different steps."""
    params = variables(normals(9))
    optimizer = Adam(params)
    twin = [reference(Adam, dict(lr=1e-3), p.data, normals(12, k)) for k, p in enumerate(params)]
    for step in range(12):
        for k, p in enumerate(params):
            p.grad = normals(12, k)[step]
        for p in params[step % 3 :: 3]:
            p.requires_grad = False
        frozen = data(params[step % 3 :: 3])
        optimizer.step()
        assert data(params[step % 3 :: 3]) == frozen
        for p in params[step % 3 :: 3]:
            p.requires_grad = True
        for p in params[step % 3 :: 3]:  # what they missed, alone
            for q in params:
                q.requires_grad = q is p
            optimizer.step()
        for q in params:
            q.requires_grad = True
        assert distance(data(params), [row[step] for row in twin]) < CLOSE
    assert set(optimizer.state_dict()["state"][0]["step"]) == {12.0}
