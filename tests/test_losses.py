"""The losses of mingrad.nn: value and gradient, shapes and kinds of operands, reductions, errors.

Oracles: PyTorch in float64 (skipped without it), the slow reference engine with the losses written
out, decimal arithmetic of 60 digits for cross-entropy, and identities (a mean is its sum divided by
n, rows are their numbers in a row). The terms by themselves are compared with golden values in
test_ops.py; no memory, stale leaves and Python's collector at any moment are in test_tape.py.
"""

import copy
import decimal
import math
import pickle
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mingrad
import reference
from helpers import assert_close_ulps, assert_same_bits, same_bits
from mingrad import Variable, VariableList, _core, nn
from watch import no_trace, same_by_each_instruction_set

try:
    import numpy as np
except ImportError:
    np = None

INF, NAN = math.inf, math.nan
needs_numpy = pytest.mark.skipif(np is None, reason="NumPy is not installed")

# name: (loss, the same term by term for any engine, from what input and target are drawn)
LOSSES = {
    "mse": (nn.mse_loss, lambda e, p, t: (p - t) ** 2, "any", "any"),
    "l1": (nn.l1_loss, lambda e, p, t: abs(p - t), "any", "any"),
    "huber": (nn.huber_loss, lambda e, p, t: huber_by_hand(p - t, 1.0), "any", "any"),
    "huber 0.4": (
        lambda p, t, r="mean": nn.huber_loss(p, t, r, delta=0.4),
        lambda e, p, t: huber_by_hand(p - t, 0.4),
        "any",
        "any",
    ),
    "hinge": (nn.hinge_loss, lambda e, p, t: e.relu(1.0 - p * t), "any", "side"),
    "bce": (
        nn.binary_cross_entropy,
        lambda e, p, t: -(t * e.log(p) + (1.0 - t) * e.log(1.0 - p)),
        "chance",
        "chance",
    ),
    "logits": (
        nn.binary_cross_entropy_with_logits,
        lambda e, p, t: e.softplus(p) - p * t,
        "any",
        "chance",
    ),
}
TERMS = list(LOSSES)
REDUCTIONS = ["mean", "sum", "none"]


def huber_by_hand(d, delta):
    if abs(d if isinstance(d, float) else d.data) <= delta:
        return 0.5 * d * d
    return delta * (abs(d) - 0.5 * delta)


def drawn(kind, count, rng):
    """Numbers of moderate size, never at a kink; a chance is not near 0 or 1."""
    if kind == "side":
        return [rng.choice([-1.0, 1.0]) for _ in range(count)]
    if kind == "chance":
        return [rng.uniform(0.05, 0.95) for _ in range(count)]
    return [rng.uniform(-3, 3) for _ in range(count)]


def operands_for(name, count=6, seed=1):
    rng = random.Random(f"{name} {seed}")
    _, _, p, t = LOSSES[name]
    return drawn(p, count, rng), drawn(t, count, rng)


WHO = ["input", "target", "both", "alternating"]


def as_variables(ps, ts, who):
    """The numbers, some of them as Variables; and these, those of the input first."""

    def asks(side, k):
        return who in (side, "both") or (who == "alternating" and (side == "input") == (k % 2 == 0))

    sides = [[Variable(x) if asks(side, k) else x for k, x in enumerate(xs)] for side, xs in (("input", ps), ("target", ts))]
    return (*sides, [v for xs in sides for v in xs if isinstance(v, Variable)])


def flat(result):
    """A loss's result as a list of Variables or floats, whatever its shape."""
    if isinstance(result, (list, VariableList)):
        return [x for row in result for x in flat(row)]
    return [result]


def number(x):
    return x if isinstance(x, float) else x.data


def backward(result, leaves):
    """Values of a result of any shape, and the gradients of its terms with weights 1, -0.5, ..."""
    for leaf in leaves:
        leaf.grad = 0.0
    terms = flat(result)
    root = terms[0]
    if len(terms) > 1:
        root = mingrad.sum([x * (-0.5) ** (k % 5) for k, x in enumerate(terms)])
    root.backward()
    return [number(x) for x in terms], [leaf.grad for leaf in leaves]


def rows_of(xs, width=3):
    return [xs[k : k + width] for k in range(0, len(xs), width)]


# How 6 items can be handed over, and what the losses make of them: a sequence, or rows of 3.
SEQUENCES = {
    "list": list,
    "tuple": tuple,
    "VariableList": VariableList,
    "generator": lambda xs: (x for x in xs),
    "keys": lambda xs: dict(enumerate(xs)).values(),
}
ROWS = {
    "lists": rows_of,
    "tuples": lambda xs: tuple(map(tuple, rows_of(xs))),
    "VariableLists": lambda xs: [VariableList(row) for row in rows_of(xs)],
    "different kinds": lambda xs: [xs[:3], VariableList(xs[3:])],
}
if np is not None:
    SEQUENCES["array of objects"] = lambda xs: np.array(xs, dtype=object)
    ROWS["array of objects"] = lambda xs: np.array(xs, dtype=object).reshape(2, 3)
    ROWS["list of arrays"] = lambda xs: [np.array(row, dtype=object) for row in rows_of(xs)]


# -- against PyTorch -------------------------------------------------------------------------------


def torch_loss(torch, name):
    f = torch.nn.functional

    def hinge(p, t, reduction):
        terms = torch.relu(1 - p * t)
        return terms if reduction == "none" else getattr(terms, reduction)()

    return {
        "mse": f.mse_loss,
        "l1": f.l1_loss,
        "huber": f.huber_loss,
        "huber 0.4": lambda p, t, reduction: f.huber_loss(p, t, reduction=reduction, delta=0.4),
        "hinge": hinge,
        "bce": f.binary_cross_entropy,
        "logits": f.binary_cross_entropy_with_logits,
    }[name]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", TERMS)
def test_value_and_gradients_are_pytorchs(name, reduction):
    torch = pytest.importorskip("torch")
    loss = LOSSES[name][0]
    for count in (1, 2, 7, 40):
        ps, ts = operands_for(name, count, seed=count)
        p, t = (torch.tensor(xs, dtype=torch.float64, requires_grad=True) for xs in (ps, ts))
        theirs = torch_loss(torch, name)(p, t, reduction=reduction)
        weights = torch.tensor([(-0.5) ** (k % 5) for k in range(theirs.numel())])
        (theirs * weights.reshape(theirs.shape)).sum().backward()
        expected = theirs.detach().flatten().tolist()
        gradients = p.grad.tolist() + t.grad.tolist()
        for who in WHO:
            x, y, leaves = as_variables(ps, ts, who)
            values, grads = backward(loss(x, y, reduction), leaves)
            # Both are a few ulps off for each term, and add up 40 of them in different orders.
            assert values == pytest.approx(expected, rel=1e-14, abs=1e-14)
            wanted = [g for v, g in zip(x + y, gradients) if isinstance(v, Variable)]
            assert grads == pytest.approx(wanted, rel=1e-13, abs=1e-14)


def test_binary_cross_entropy_of_certainties_is_pytorchs():
    torch = pytest.importorskip("torch")
    ps = [0.0, 1.0, 0.0, 1.0, 1e-50, 1e-20, 1 - 1e-16, 0.0, 1.0]
    ts = [1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 0.0, 0.25, 0.25]
    p, t = (torch.tensor(xs, dtype=torch.float64, requires_grad=True) for xs in (ps, ts))
    theirs = torch.nn.functional.binary_cross_entropy(p, t, reduction="none")
    theirs.sum().backward()
    x, y, _ = as_variables(ps, ts, "both")
    terms = nn.binary_cross_entropy(x, y, "none")
    terms.sum().backward()
    assert terms.data == pytest.approx(theirs.tolist(), rel=1e-15)
    # PyTorch holds its denominator above 1e-12 as a float32, which is 4e-9 less
    assert [v.grad for v in x] == pytest.approx(p.grad.tolist(), rel=1e-8)
    assert [v.grad for v in y] == pytest.approx(t.grad.tolist(), rel=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_is_pytorchs(reduction):
    torch = pytest.importorskip("torch")
    for samples, classes in ((1, 1), (1, 5), (4, 2), (7, 27)):
        rng = random.Random(samples * classes)
        rows = [[rng.gauss(0, 3) for _ in range(classes)] for _ in range(samples)]
        targets = [rng.randrange(classes) for _ in rows]
        logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
        theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction=reduction)
        weights = torch.tensor([(-0.5) ** (k % 5) for k in range(theirs.numel())])
        (theirs * weights.reshape(theirs.shape)).sum().backward()
        ours = [[Variable(x) for x in row] for row in rows]
        leaves = [v for row in ours for v in row]
        values, grads = backward(nn.cross_entropy(ours, targets, reduction), leaves)
        assert values == pytest.approx(theirs.detach().flatten().tolist(), rel=1e-14, abs=1e-15)
        assert grads == pytest.approx(logits.grad.flatten().tolist(), rel=1e-13, abs=1e-15)


# -- against the reference engine ------------------------------------------------------------------


def written_out(engine, name, x, y, reduction):
    """The loss term by term in an engine; x and y are flat."""
    terms = [LOSSES[name][1](engine, p, t) for p, t in zip(x, y)]
    if reduction == "none":
        return terms
    return engine.sum(terms) if reduction == "sum" else engine.mean(terms)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(TERMS),
    reduction=st.sampled_from(REDUCTIONS),
    kinds=st.lists(st.tuples(*[st.sampled_from("leaf number constant result shared".split())] * 2), min_size=1, max_size=24),
    width=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 1000),
)
def test_any_mix_of_operands_is_the_loss_written_out(name, reduction, kinds, width, seed):
    """Leaves, numbers, constants, results and one Variable that is used again and again."""
    if width and len(kinds) % width:
        kinds = kinds * width
    numbers = operands_for(name, len(kinds), seed)
    outcome = []
    for engine in (mingrad, reference):
        shared = [engine.Variable(numbers[0][0]), engine.Variable(numbers[1][0])]
        leaves = list(shared)
        sides = []
        for side in (0, 1):
            items = []
            for k, kind in enumerate(kinds):
                x = numbers[side][k]
                item = x
                if kind[side] == "shared":
                    item = shared[side]
                elif kind[side] != "number":
                    item = engine.Variable(x, requires_grad=kind[side] != "constant")
                    leaves.append(item)
                    item = item * 1.0 if kind[side] == "result" else item
                items.append(item)
            sides.append(items)
        if all(isinstance(x, float) for items in sides for x in items):
            return  # only numbers: there is no gradient, another test has them
        if engine is reference:
            terms = written_out(engine, name, *sides, reduction)
            terms = terms if isinstance(terms, list) else [terms]
        else:
            handed = sides if width is None else [rows_of(items, width) for items in sides]
            terms = flat(LOSSES[name][0](*handed, reduction))
        values = [number(x) for x in terms]
        root = engine.sum([x * (-0.5) ** (k % 5) for k, x in enumerate(terms)])
        if not isinstance(root, float) and root.requires_grad:
            root.backward()
        outcome.append((values, [v.grad for v in leaves]))
    (values, grads), (expected, gradients) = outcome
    # A few ulps for each term and each of up to 72 additions; terms below 1e2, slopes below 1e2.
    assert values == pytest.approx(expected, rel=1e-13, abs=1e-13)
    assert grads == pytest.approx(gradients, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_is_logsumexp_minus_the_logit(reduction):
    rng = random.Random(3)
    rows = [[rng.gauss(0, 2) for _ in range(5)] for _ in range(4)]
    targets = [0, 4, 2, 2]
    outcome = []
    for engine in (mingrad, reference):
        shared = engine.Variable(0.5)
        logits = [[engine.Variable(x) for x in row[:3]] + [shared, 1.25] for row in rows]
        if engine is mingrad:
            terms = flat(nn.cross_entropy(logits, targets, reduction))
        else:
            terms = [engine.logsumexp(row) - row[t] for row, t in zip(logits, targets)]
            terms = terms if reduction == "none" else [getattr(engine, reduction)(terms)]
        engine.sum([x * (-0.5) ** k for k, x in enumerate(terms)]).backward()
        leaves = [shared, *(v for row in logits for v in row[:3])]
        outcome.append(([x.data for x in terms], [v.grad for v in leaves]))
    (values, grads), (expected, gradients) = outcome
    assert values == pytest.approx(expected, rel=1e-14, abs=1e-14)
    assert grads == pytest.approx(gradients, rel=1e-13, abs=1e-14)


# -- cross-entropy, exactly ------------------------------------------------------------------------

CONTEXT = decimal.Context(prec=60, Emin=-999999999, Emax=999999999)


def exact_cross_entropy(xs, target):
    """(value, slopes, logsumexp), each rounded once; 60 digits hold what these tests need."""
    exps = [CONTEXT.exp(decimal.Decimal(x)) for x in xs]
    total = decimal.Decimal(0)
    for e in exps:
        total = CONTEXT.add(total, e)
    rest = CONTEXT.subtract(total, exps[target])
    slopes = [CONTEXT.divide(e, total) for e in exps]
    slopes[target] = CONTEXT.divide(-rest, total)
    # log(total / e_k) = log(1 + rest / e_k), in this form where it is small
    ratio = CONTEXT.divide(rest, exps[target])
    value = (
        CONTEXT.subtract(ratio, CONTEXT.divide(CONTEXT.multiply(ratio, ratio), decimal.Decimal(2)))
        if ratio < decimal.Decimal("1e-25")
        else CONTEXT.ln(CONTEXT.add(decimal.Decimal(1), ratio))
    )
    return float(value), [float(s) for s in slopes], float(CONTEXT.ln(total))


LOGITS = {
    "one class": [2.5],
    "two": [0.3, -1.2],
    "ties": [1.5, 1.5, 1.5],
    "ties at the top": [1.5, -2.0, 1.5, 0.0],
    "near ties": [1.0, 1.0 + 2**-52, 1.0 - 2**-53],
    "one far ahead": [0.0, 60.0, -3.0],
    "farther than a double": [800.0, -800.0, 0.0],
    "all large": [800.0, 799.5, 801.0],
    "all small": [-800.0, -799.5, -801.0],
    "tiny": [1e-300, -1e-300, 0.0],
    "moderate": [random.Random(31).gauss(0, 5) for _ in range(31)],
    "many": [random.Random(1000).gauss(0, 2) for _ in range(1000)],
}


@pytest.mark.parametrize("case", LOGITS)
def test_cross_entropy_matches_exact_arithmetic(case):
    xs = LOGITS[case]
    for target in sorted({0, 1 % len(xs), len(xs) // 2, len(xs) - 1}):
        value, slopes, total = exact_cross_entropy(xs, target)
        leaves = [Variable(x) for x in xs]
        loss = nn.cross_entropy(leaves, target)
        loss.backward()
        # Differences from the largest are rounded: half an ulp of d moves exp(d) by d / 2 ulps, of
        # which the sum takes a weighted mean; each of n terms is rounded. Beyond 745 exp is 0.
        spread = min(max(xs) - min(xs), 745.0)
        assert_close_ulps(loss.data, value, 4 + len(xs) / 8 + 2 * spread, f"{case}[{target}]")
        for k, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
            # exp(x - logsumexp): half an ulp of either moves it by as many ulps, relative
            bound = 8 + len(xs) / 8 + 2 * spread + 2 * abs(total)
            assert_close_ulps(leaf.grad, slope, bound, f"{case}[{target}], slope {k}")


def test_a_large_offset_that_all_logits_share_leaves_the_slopes_as_they_are():
    """Softmax does not change when a number is added to all logits; here none is rounded."""
    for offset in (0.0, 2.0**20, 2.0**40, -(2.0**40)):
        leaves = [Variable(offset + x) for x in (0.0, 1.0, -1.0)]
        nn.cross_entropy(leaves, 1).backward()
        _, slopes, _ = exact_cross_entropy([0.0, 1.0, -1.0], 1)
        for leaf, slope in zip(leaves, slopes):
            assert_close_ulps(leaf.grad, slope, 8, f"offset {offset}")


def test_cross_entropy_of_many_classes_and_of_one():
    n = 20_000
    leaves = [Variable(0.0) for _ in range(n)]
    loss = nn.cross_entropy(leaves, 7)
    loss.backward()
    assert_close_ulps(loss.data, math.log(n), 2)
    assert leaves[7].grad == pytest.approx(1 / n - 1, rel=1e-15)
    assert {v.grad for k, v in enumerate(leaves) if k != 7} == {leaves[0].grad}
    assert leaves[0].grad == pytest.approx(1 / n, rel=1e-14)
    only = Variable(1e300)
    loss = nn.cross_entropy([only], 0)
    loss.backward()
    assert (loss.data, only.grad) == (0.0, 0.0)


INFINITE = [
    # logits, target, value, slopes (None: no limit)
    ([-INF, 1.0], 1, 0.0, [0.0, 0.0]),
    ([-INF, 1.0, 1.0], 1, math.log(2.0), [0.0, -0.5, 0.5]),
    ([-INF, 1.0], 0, INF, [-1.0, 1.0]),
    ([INF, 1.0], 1, INF, None),
    ([-INF, -INF], 0, NAN, [NAN, NAN]),
    ([INF, INF], 0, NAN, [NAN, NAN]),
    ([INF, 1.0], 0, NAN, None),
]


@pytest.mark.parametrize("xs, target, value, slopes", INFINITE, ids=str)
def test_cross_entropy_of_infinite_logits(xs, target, value, slopes):
    leaves = [Variable(x) for x in xs]
    loss = nn.cross_entropy(leaves, target)
    loss.backward()
    assert_close_ulps(loss.data, value, 1)
    assert same_bits(nn.cross_entropy(xs, target), loss.data)
    for leaf, slope in zip(leaves, slopes or []):
        assert_close_ulps(leaf.grad, slope, 1)


def test_nan_among_the_logits_reaches_the_loss_and_every_slope():
    for place in range(3):
        for target in range(3):
            leaves = [Variable(NAN if k == place else 1.0 + k) for k in range(3)]
            loss = nn.cross_entropy(leaves, target)
            loss.backward()
            assert math.isnan(loss.data) and all(math.isnan(v.grad) for v in leaves)
            assert math.isnan(nn.cross_entropy([v.data for v in leaves], target))
            rows = nn.cross_entropy([leaves, [Variable(0.0)] * 3], [target, 0], "none").data
            assert math.isnan(rows[0]) and rows[1] == math.log1p(2.0)


@pytest.mark.parametrize("target", range(5))
def test_logits_in_a_run_and_scattered_ones_give_the_same_bits(target):
    rng = random.Random(5)
    xs = [rng.gauss(0, 4) for _ in range(5)]
    seen = set()

    def look(leaves, target):
        values, grads = backward(nn.cross_entropy([leaves, leaves], [target, 0]), leaves)
        seen.add((values[0].hex(), *(g.hex() for g in grads)))

    look(mingrad.tensor(xs, requires_grad=True), target)
    look([Variable(x) for x in xs], target)
    apart = []
    for x in xs:
        apart += [Variable(x), Variable(99.0)]
    look(apart[::2], target)
    backwards = [Variable(x) for x in reversed(xs)]
    look(backwards[::-1], target)
    assert len(seen) == 1


# -- kinks and nan ---------------------------------------------------------------------------------

THIRD = 1 / 3  # 3 * THIRD is 1 when it is rounded
KINKS = [
    # loss, input, target, value, slope for the input, slope for the target
    ("mse", 2.0, 2.0, 0.0, 0.0, 0.0),
    ("mse", INF, 1.0, INF, INF, -INF),
    ("l1", 2.0, 2.0, 0.0, 0.0, 0.0),
    ("l1", 0.0, -0.0, 0.0, 0.0, 0.0),
    ("l1", -INF, 1.0, INF, -1.0, 1.0),
    ("huber", 2.0, 2.0, 0.0, 0.0, 0.0),
    ("huber", 3.0, 2.0, 0.5, 1.0, -1.0),
    ("huber", -1.0, 0.0, 0.5, -1.0, 1.0),
    ("huber", INF, 0.0, INF, 1.0, -1.0),
    ("huber", -INF, 0.0, INF, -1.0, 1.0),
    ("huber 0.4", 0.4, 0.0, 0.5 * 0.4 * 0.4, 0.4, -0.4),
    ("huber 0.4", -1.4, 0.0, 0.4 * (1.4 - 0.2), -0.4, 0.4),
    ("hinge", 1.0, 1.0, 0.0, 0.0, 0.0),
    ("hinge", -1.0, -1.0, 0.0, 0.0, 0.0),
    ("hinge", 3.0, THIRD, 0.0, 0.0, 0.0),
    ("hinge", 0.0, 1.0, 1.0, -1.0, -0.0),
    ("hinge", 2.0, 1.0, 0.0, 0.0, 0.0),
    ("hinge", INF, 1.0, 0.0, 0.0, 0.0),
    ("hinge", -INF, 1.0, INF, -1.0, INF),
    ("bce", 0.0, 1.0, 100.0, -1e12, INF),
    ("bce", 1.0, 0.0, 100.0, 1e12, -INF),
    ("bce", 0.0, 0.0, 0.0, 0.0, INF),
    ("bce", 1.0, 1.0, 0.0, 0.0, -INF),
    ("bce", -0.0, 1.0, 100.0, -1e12, INF),
    ("bce", 0.5, 0.5, math.log(2.0), 0.0, 0.0),
    ("logits", 0.0, 0.0, math.log(2.0), 0.5, -0.0),
    ("logits", 0.0, 1.0, math.log(2.0), -0.5, -0.0),
    ("logits", 1e308, 1.0, 0.0, 0.0, -1e308),
    ("logits", 1e308, 0.0, 1e308, 1.0, -1e308),
    ("logits", -1e308, 0.0, 0.0, 0.0, 1e308),
    ("logits", -1e308, 1.0, 1e308, -1.0, 1e308),
]


@pytest.mark.parametrize("name, x, t, value, dx, dt", KINKS, ids=[str(k[:3]) for k in KINKS])
def test_kink_follows_the_written_rule(name, x, t, value, dx, dt):
    loss = LOSSES[name][0]
    for reduction in REDUCTIONS:
        p, target = Variable(x), Variable(t)
        term = flat(loss([p], [target], reduction))[0]
        term.backward()
        assert_close_ulps(term.data, value)
        assert_close_ulps(p.grad, dx)
        assert_close_ulps(target.grad, dt)
        alone = Variable(x)
        flat(loss([alone], [t], reduction))[0].backward()
        assert_same_bits(alone.grad, p.grad)
        alone = Variable(t)
        flat(loss([x], [alone], reduction))[0].backward()
        assert_same_bits(alone.grad, target.grad)


# Where the derivative does not depend on the operand itself, a nan there leaves it as it is.
LINEAR = {("bce", "target"), ("logits", "target")}


@pytest.mark.parametrize("side", ["input", "target"])
@pytest.mark.parametrize("name", TERMS)
def test_nan_reaches_the_loss_and_the_derivative(name, side):
    loss = LOSSES[name][0]
    for other in (0.0, 1.0, 0.25) if name == "bce" else (0.0, 1.0, -1.0, 2.0, 1e300, NAN):
        x, t = (NAN, other) if side == "input" else (other, NAN)
        for reduction in REDUCTIONS:
            for place in range(3):
                ps, ts = [0.5] * 3, [1.0] * 3
                ps[place], ts[place] = x, t
                for who in WHO:
                    p, target, leaves = as_variables(ps, ts, who)
                    result = loss(p, target, reduction)
                    broken = [math.isnan(number(v)) for v in flat(result)]
                    if reduction == "none":
                        assert broken == [k == place for k in range(3)]
                    else:
                        assert broken == [True]
                assert math.isnan(number(flat(loss(ps, ts, "sum"))[0]))
        if (name, side) not in LINEAR:
            p, target = Variable(x), Variable(t)
            loss(p, target).backward()
            assert math.isnan(p.grad if side == "input" else target.grad), (x, t)


# -- shapes and kinds of operands ------------------------------------------------------------------


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", TERMS)
def test_every_shape_and_kind_gives_the_same_bits(name, who):
    loss = LOSSES[name][0]
    ps, ts = operands_for(name)
    for reduction in REDUCTIONS:
        x, y, leaves = as_variables(ps, ts, who)
        expected = backward(loss(x, y, reduction), leaves)
        for kinds in (SEQUENCES, ROWS):
            plain = "list" if kinds is SEQUENCES else "lists"
            pairs = [(kind, plain) for kind in kinds] + [(plain, kind) for kind in kinds]
            for left, right in pairs + [(kind, kind) for kind in kinds]:
                x, y, leaves = as_variables(ps, ts, who)
                result = loss(kinds[left](x), kinds[right](y), reduction)
                assert backward(result, leaves) == expected, (left, right)
                if reduction != "none":
                    assert type(result) is Variable
                elif kinds is SEQUENCES:
                    assert type(result) is VariableList
                else:
                    assert [type(row) for row in result] == [VariableList] * 2


@pytest.mark.parametrize("name", TERMS)
def test_more_dimensions_are_taken_and_kept(name):
    loss = LOSSES[name][0]
    ps, ts = operands_for(name, 12)
    x, y, leaves = as_variables(ps, ts, "both")
    expected = backward(loss(x, y, "mean"), leaves)
    deep = [rows_of(rows_of(xs, 3), 2) for xs in (x, y)]
    assert backward(loss(*deep, "mean"), leaves) == expected
    terms = loss(*deep, "none")
    assert len(terms) == 2 and [len(row) for row in terms] == [2, 2]
    assert all(type(row) is VariableList and len(row) == 3 for block in terms for row in block)
    assert [v.data for v in flat(terms)] == loss(x, y, "none").data


@needs_numpy
@pytest.mark.parametrize("form", ["f8", "f4", "f2", ">f8", "i4", "u1", "i8"])
def test_numpy_arrays_are_operands(form):
    xs, ts = np.array([3, 1, 2, 0, 5, 4], dtype=form), np.array([1, 1, 0, 2, 3, 9], dtype=form)
    expected = nn.mse_loss(xs.tolist(), ts.tolist())
    assert type(nn.mse_loss(xs, ts)) is float and nn.mse_loss(xs, ts) == expected
    for p, t in (
        (xs, ts),
        (xs[::-1], ts[::-1]),
        (xs.reshape(2, 3), ts.reshape(2, 3)),
        (xs.reshape(3, 2).T, ts.reshape(3, 2).T),
        (xs.reshape(2, 3), rows_of(list(ts))),
        (rows_of(list(xs)), ts.reshape(2, 3)),
        (xs.reshape(1, 2, 3), ts.reshape(1, 2, 3)),
    ):
        assert nn.mse_loss(p, t) == pytest.approx(expected, rel=1e-15)
    leaves = [Variable(float(x)) for x in xs]
    for p in (leaves, VariableList(leaves), np.array(leaves)):
        assert nn.mse_loss(p, ts).data == expected
        assert nn.mse_loss(ts, p).data == expected
    for p in (rows_of(leaves), np.array(leaves).reshape(2, 3)):
        assert nn.mse_loss(p, ts.reshape(2, 3)).data == expected
        rows = nn.mse_loss(p, ts.reshape(2, 3), "none")
        assert [type(row) for row in rows] == [VariableList] * 2


@needs_numpy
def test_cross_entropy_takes_arrays_and_rows_of_every_kind():
    xs = [[1.0, 2.0, 0.5], [0.25, -1.0, 3.0]]
    expected = nn.cross_entropy(xs, [2, 0])
    for rows in (
        np.array(xs),
        [np.array(row) for row in xs],
        np.array(xs, dtype="f4"),
        np.asfortranarray(xs),
        tuple(map(tuple, xs)),
        [iter(row) and row for row in xs],
    ):
        for targets in (
            [2, 0],
            (2, 0),
            np.array([2, 0]),
            np.array([2, 0], dtype="u1"),
            [np.int64(2), np.uint8(0)],
            range(2, -1, -2),
        ):
            assert nn.cross_entropy(rows, targets) == expected
    leaves = [[Variable(x) for x in row] for row in xs]
    for rows in (
        leaves,
        [VariableList(row) for row in leaves],
        np.array(leaves),
        [tuple(row) for row in leaves],
        [np.array(row) for row in leaves],
    ):
        assert nn.cross_entropy(rows, [2, 0]).data == expected
    single = nn.cross_entropy(xs[0], 2)
    assert type(single) is float and single == nn.cross_entropy([xs[0]], [2])
    row = xs[0]
    for form in (tuple(row), iter(row), (x for x in row), np.array(row), VariableList(row)):
        assert number(nn.cross_entropy(form, np.int32(2))) == single


def test_rows_of_different_numbers_of_classes_are_taken():
    loss = nn.cross_entropy([[1.0, Variable(2.0)], [Variable(0.5)], [0.0] * 5], [1, 0, 4], "none")
    assert loss.data == [math.log1p(math.exp(-1)), 0.0, math.log(5)]


# -- reductions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TERMS, "cross_entropy"])
def test_a_mean_is_a_sum_divided_by_how_many(name):
    for count in (1, 2, 3, 8, 9, 31):
        if name == "cross_entropy":
            rng = random.Random(count)
            leaves = [Variable(rng.gauss(0, 2)) for _ in range(3 * count)]
            args = rows_of(leaves), [k % 3 for k in range(count)]
            loss = nn.cross_entropy
        else:
            loss = LOSSES[name][0]
            x, y, leaves = as_variables(*operands_for(name, count), "both")
            args = x, y
        terms = loss(*args, "none")
        total, mean = loss(*args, "sum"), loss(*args)
        assert_same_bits(total.data, mingrad.sum(terms).data)
        assert_same_bits(mean.data, total.data / count)
        sums = backward(total, leaves)[1]
        by_term = backward(mingrad.sum(terms), leaves)[1]
        means = backward(mean, leaves)[1]
        assert by_term == sums
        for got, expected in zip(means, sums):
            # 1 / n is rounded, and its product with each slope of up to n terms
            assert got == pytest.approx(expected / count, rel=2 * count * 2**-52, abs=1e-300)


@pytest.mark.parametrize("name", TERMS)
def test_one_prediction_and_one_target_are_one_term_whatever_the_reduction(name):
    loss = LOSSES[name][0]
    (p,), (t,) = operands_for(name, 1)
    expected = loss([p], [t], "sum")
    for reduction in REDUCTIONS:
        assert loss(p, t, reduction) == expected
        for x, y in ((Variable(p), t), (p, Variable(t)), (Variable(p), Variable(t))):
            result = loss(x, y, reduction)
            assert type(result) is Variable and result.data == expected


@pytest.mark.parametrize("name", TERMS)
def test_numbers_alone_give_floats_with_the_bits_of_variables(name):
    loss = LOSSES[name][0]
    ps, ts = operands_for(name)
    mingrad.collect()
    before = mingrad.tape_info()
    for reduction in REDUCTIONS:
        for p, t in ((ps, ts), (rows_of(ps), rows_of(ts)), (tuple(ps), iter(ts))):
            result = loss(p, t, reduction)
            assert all(type(x) is float for x in flat(result))
        expected = [v.data for v in flat(loss(*as_variables(ps, ts, "alternating")[:2], reduction))]
        assert flat(loss(ps, ts, reduction)) == expected
        assert loss(rows_of(ps), rows_of(ts), "none") == rows_of(loss(ps, ts, "none"))
    mingrad.collect()
    after = mingrad.tape_info()
    assert (after.nodes, after.live, after.handles) == (before.nodes, before.live, before.handles)


def test_whole_numbers_and_booleans_count_as_floats():
    for name in TERMS:
        loss = LOSSES[name][0]
        ps, ts = ([1, 0, True], [0, 1, False]) if name == "bce" else ([3, -2, True], [1, 0, -1])
        floats = [float(x) for x in ps], [float(x) for x in ts]
        assert loss(ps, ts) == loss(*floats)
        assert loss([Variable(x) for x in ps], ts).data == loss(*floats)


# -- what is recorded ------------------------------------------------------------------------------


def recorded_by(call):
    """How many nodes a call records."""
    before = mingrad.tape_info().recorded
    kept = call()
    after = mingrad.tape_info().recorded
    del kept
    return after - before


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_one_node_and_the_reduction_one(name):
    loss = LOSSES[name][0]
    per_term = 2 if name.startswith("huber") else 1
    ps, ts = operands_for(name)
    for who in WHO:
        x, y, _ = as_variables(ps, ts, who)
        assert recorded_by(lambda: loss(x, y)) == 6 * per_term + 1
        assert recorded_by(lambda: loss(x, y, "sum")) == 6 * per_term + 1
        assert recorded_by(lambda: loss(x, y, "none")) == 6 * per_term
        assert recorded_by(lambda: loss(x[0], y[0])) == per_term
    assert recorded_by(lambda: loss(ps, ts)) == 0


def test_cross_entropy_is_one_node_for_each_sample():
    leaves = [Variable(float(k)) for k in range(12)]
    rows = rows_of(leaves)
    assert recorded_by(lambda: nn.cross_entropy(leaves, 3)) == 1
    assert recorded_by(lambda: nn.cross_entropy(rows, [0] * 4, "none")) == 4
    assert recorded_by(lambda: nn.cross_entropy(rows, [0] * 4)) == 5
    assert recorded_by(lambda: nn.cross_entropy([row[::-1] for row in rows], [0] * 4)) == 5
    assert recorded_by(lambda: nn.cross_entropy([leaves[0], 1.0, 2.0], 0)) == 3  # two leaves
    assert recorded_by(lambda: nn.cross_entropy([1.0, 2.0], 0)) == 0
    loss = nn.cross_entropy(leaves[:3], 1)
    assert loss._prev == tuple(leaves[:3]) and loss._op == "cross_entropy[1]" and not loss.is_leaf
    assert nn.cross_entropy(rows, [0, 1, 2, 0])._op == "mean"


def test_a_loss_shows_what_it_was_made_of():
    x, t = Variable(0.25), Variable(0.5)
    for name, op in (
        ("mse", "squared_error"),
        ("l1", "absolute_error"),
        ("hinge", "hinge"),
        ("bce", "binary_cross_entropy"),
        ("logits", "binary_cross_entropy_with_logits"),
    ):
        term = LOSSES[name][0](x, t)
        assert term._op == op and term._prev == (x, t)
        total = LOSSES[name][0]([x], [t], "sum")
        assert total._op == "sum" and [v._op for v in total._prev] == [op]
    term = nn.huber_loss(x, t, delta=0.1)
    assert term._op == "huber" and term._prev[0]._op == "-" and term._prev[0]._prev == (x, t)


@pytest.mark.parametrize("name", [*TERMS, "cross_entropy"])
def test_inside_no_grad_a_loss_is_a_constant_and_keeps_nothing(name):
    loss = nn.cross_entropy if name == "cross_entropy" else LOSSES[name][0]
    args = ([Variable(1.0), 2.0], 1) if name == "cross_entropy" else as_variables(*operands_for(name), "both")[:2]
    for reduction in REDUCTIONS:
        expected, result = [v.data for v in flat(loss(*args, reduction))], None
        mingrad.collect()
        before = mingrad.tape_info().live
        with mingrad.no_grad():
            result = loss(*args, reduction)
        assert [v.data for v in flat(result)] == expected
        assert all(v.is_leaf and not v.requires_grad and v._prev == () for v in flat(result))
        mingrad.collect()
        assert mingrad.tape_info().live == before + len(flat(result))
        with pytest.raises(RuntimeError, match="requires no gradient"):
            flat(result)[0].backward()


@pytest.mark.parametrize("name", [*TERMS, "cross_entropy"])
def test_constants_alone_give_a_constant(name):
    loss = nn.cross_entropy if name == "cross_entropy" else LOSSES[name][0]
    numbers = ([1.0, 2.0, 0.5], 1) if name == "cross_entropy" else operands_for(name, 3)
    constants = [Variable(x, requires_grad=False) for x in numbers[0]]
    for reduction in REDUCTIONS:
        result = loss(constants, numbers[1], reduction)
        assert [v.data for v in flat(result)] == flat(loss(*numbers, reduction))
        assert not any(v.requires_grad for v in flat(result))
        assert all(v.is_leaf for v in flat(result))


def test_elements_that_ask_for_no_gradient_are_constants_of_none():
    for name in TERMS:
        ps, ts = operands_for(name, 3)
        p = [Variable(ps[0]), ps[1], Variable(ps[2], requires_grad=False)]
        result = LOSSES[name][0](p, ts, "none")
        if not name.startswith("huber"):  # there, as in PyTorch, all ask where one does
            assert [v.requires_grad for v in result] == [True, False, False], name
        result.sum().backward()
        assert p[0].grad != 0.0 and p[2].grad == 0.0


def test_a_second_backward_adds_the_same_again():
    for name in TERMS:
        x, y, leaves = as_variables(*operands_for(name), "both")
        loss = LOSSES[name][0](x, y)
        loss.backward()
        once = [v.grad for v in leaves]
        loss.backward()
        assert [v.grad for v in leaves] == [2 * g for g in once]


def test_a_subclass_of_variable_is_an_operand():
    class Tagged(Variable):
        pass

    for name in TERMS:
        ps, ts = operands_for(name)
        x, y, leaves = as_variables(ps, ts, "both")
        expected = backward(LOSSES[name][0](x, y), leaves)
        leaves = [Tagged(v) for v in ps + ts]
        assert backward(LOSSES[name][0](leaves[:6], leaves[6:]), leaves) == expected
    leaves = [Tagged(1.0), Tagged(2.0)]
    nn.cross_entropy(leaves, 0).backward()
    assert leaves[1].grad == pytest.approx(-leaves[0].grad, rel=1e-15)


# -- loss objects ----------------------------------------------------------------------------------

OBJECTS = {
    "MSELoss": nn.mse_loss,
    "L1Loss": nn.l1_loss,
    "HuberLoss": nn.huber_loss,
    "HingeLoss": nn.hinge_loss,
    "BCELoss": nn.binary_cross_entropy,
    "BCEWithLogitsLoss": nn.binary_cross_entropy_with_logits,
    "CrossEntropyLoss": nn.cross_entropy,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_loss_as_an_object_is_its_function(name):
    cls, function = getattr(nn, name), OBJECTS[name]
    x = [Variable(0.25), Variable(0.5), Variable(0.75)]
    target = 1 if function is nn.cross_entropy else [1.0, 0.0, 1.0]
    assert cls()(x, target).data == function(x, target).data
    for reduction in REDUCTIONS:
        for loss in (
            cls(reduction),
            cls(reduction=reduction),
            copy.deepcopy(cls(reduction)),
            pickle.loads(pickle.dumps(cls(reduction))),
        ):
            assert loss.reduction == reduction
            got = flat(loss(x, target))
            assert [v.data for v in got] == [v.data for v in flat(function(x, target, reduction))]
    assert cls().parameters() == [] and cls().state_dict() == {}
    extra = ", delta=1.0" if name == "HuberLoss" else ""
    assert repr(cls()) == f"{name}(reduction='mean'{extra})"
    assert repr(cls("sum")) == f"{name}(reduction='sum'{extra})"


def test_a_huber_loss_as_an_object_has_its_delta():
    loss = nn.HuberLoss("sum", 0.4)
    assert loss([3.0], [1.0]) == nn.huber_loss([3.0], [1.0], "sum", 0.4) == 0.4 * (2.0 - 0.2)
    assert loss.delta == 0.4 and repr(loss) == "HuberLoss(reduction='sum', delta=0.4)"
    loss.delta = 100.0
    assert loss([3.0], [1.0]) == 2.0


@pytest.mark.parametrize("name", OBJECTS)
def test_a_loss_in_a_model_works_in_every_mode(name):
    """Module.train() and eval() reach the losses that a model keeps, too."""

    class Net(nn.Module):
        def __init__(self):
            self.loss = getattr(nn, name)()

    net = Net()
    target = 1 if name == "CrossEntropyLoss" else [1.0, 0.0]
    expected, text = net.loss([0.25, 0.75], target), repr(net.loss)
    net.eval()
    assert net.loss([0.25, 0.75], target) == expected
    net.train()
    assert net.loss([0.25, 0.75], target) == expected
    assert repr(net.loss) == text


# -- errors ----------------------------------------------------------------------------------------


def refusals():
    """(name, call of a loss with Variable v, exception, text), {loss} standing for its name."""
    number = "expected a real number (int, float, NumPy scalar), got"
    sequence = "expected a sequence of Variables and numbers, got"
    shape = "{loss}: expected input and target of one shape, got"
    return [
        ("a str", lambda f, v: f("ab", [1.0, 2.0]), TypeError, f"{{loss}}: input: {sequence} str"),
        ("None", lambda f, v: f(None, None), TypeError, f"{{loss}}: input: {sequence} NoneType"),
        ("no target", lambda f, v: f([v], None), TypeError, f"{{loss}}: target: {sequence} NoneType"),
        ("a set", lambda f, v: f({0.5}, [1.0]), TypeError, f"{{loss}}: input: {sequence} set"),
        (
            "a str inside",
            lambda f, v: f([v, "a"], [0.5, 0.5]),
            TypeError,
            f"{{loss}}: input, element 1: {number} str; convert it to a float first",
        ),
        (
            "None inside",
            lambda f, v: f([v, v], [0.5, None]),
            TypeError,
            f"{{loss}}: target, element 1: {number} NoneType; convert it to a float first",
        ),
        (
            "complex",
            lambda f, v: f([1j], [0.5]),
            TypeError,
            f"{{loss}}: input, element 0: {number} complex; mingrad works on real numbers: take .real, .imag or abs() first",
        ),
        (
            "lengths",
            lambda f, v: f([v, v], [0.5]),
            ValueError,
            "{loss}: expected input and target of equal length, got 2 and 1",
        ),
        ("empty", lambda f, v: f([], []), ValueError, "{loss}: expected at least one element, got empty input and target"),
        (
            "empty rows",
            lambda f, v: f([[], []], [[], []]),
            ValueError,
            "{loss}: expected at least one element, got empty input and target",
        ),
        ("one and a sequence", lambda f, v: f(v, [0.5]), ValueError, f"{shape} Variable and list"),
        ("a sequence and one", lambda f, v: f([v], 0.5), ValueError, f"{shape} list and float"),
        ("rows and a sequence", lambda f, v: f([[v], [v]], [0.5, 0.5]), ValueError, f"{shape} rows and a sequence"),
        ("a sequence and rows", lambda f, v: f([v, v], [[0.5], [0.5]]), ValueError, f"{shape} a sequence and rows"),
        ("numbers of rows", lambda f, v: f([[v], [v]], [[0.5]]), ValueError, f"{shape} 2 and 1 items"),
        ("numbers of rows, none", lambda f, v: f([[v], [v]], [[0.5]], "none"), ValueError, f"{shape} 2 and 1 rows"),
        ("a row's length", lambda f, v: f([[v], [v]], [[0.5], [0.5, 0.5]]), ValueError, f"{shape} 1 and 2 items"),
        (
            "a row's length, none",
            lambda f, v: f([[v], [v]], [[0.5], [0.5] * 2], "none"),
            ValueError,
            "{loss}: expected input and target of equal length, got 1 and 2",
        ),
        (
            "a row and a number",
            lambda f, v: f([[v], [v]], [[0.5], 0.5]),
            ValueError,
            f"{shape} a number where the other has a row",
        ),
        (
            "reduction",
            lambda f, v: f([v], [0.5], "avg"),
            ValueError,
            "{loss}: expected reduction to be 'mean', 'sum' or 'none', got 'avg'",
        ),
        (
            "no reduction",
            lambda f, v: f(v, 0.5, None),
            ValueError,
            "{loss}: expected reduction to be 'mean', 'sum' or 'none', got None",
        ),
        (
            "late in a list",
            lambda f, v: f([v] * 50 + ["a"], [0.5] * 51),
            TypeError,
            f"{{loss}}: input, element 50: {number} str; convert it to a float first",
        ),
        (
            "late in the rows",
            lambda f, v: f([[v, v], [v, "a"]], [[0.5] * 2] * 2, "none"),
            TypeError,
            f"{{loss}}: input, element 1: {number} str; convert it to a float first",
        ),
        ("too large", lambda f, v: f([v], [10**400]), OverflowError, "int too large to convert to float"),
    ]


FUNCTIONS = {function.__name__: function for function in OBJECTS.values()}
REFUSALS = refusals()


@pytest.mark.parametrize("case", REFUSALS, ids=[case[0] for case in REFUSALS])
@pytest.mark.parametrize("loss", sorted(FUNCTIONS.keys() - {"cross_entropy"}))
def test_what_a_loss_refuses_leaves_everything_as_it_was(loss, case):
    _, call, kind, text = case
    v = Variable(0.5)
    with no_trace([v]), pytest.raises(kind) as caught:
        call(FUNCTIONS[loss], v)
    assert str(caught.value) == text.replace("{loss}", loss)
    caught = None


CROSS_ENTROPY_REFUSALS = [
    ("index 2", lambda f, v: f([v, v], 2), IndexError, "expected target to be a class index from 0 to 1, got 2"),
    ("index -1", lambda f, v: f([v, v], -1), IndexError, "expected target to be a class index from 0 to 1, got -1"),
    (
        "a huge index",
        lambda f, v: f([v, v], 2**70),
        IndexError,
        f"expected target to be a class index from 0 to 1, got {2**70}",
    ),
    (
        "index of sample 1",
        lambda f, v: f([[v, v], [v, v]], [0, 2]),
        IndexError,
        "expected target of sample 1 to be a class index from 0 to 1, got 2",
    ),
    ("a float", lambda f, v: f([v, v], 1.0), TypeError, "expected target to be a class index (int), got float"),
    ("a bool", lambda f, v: f([v, v], True), TypeError, "expected target to be a class index (int), got bool"),
    ("a Variable", lambda f, v: f([v, v], v), TypeError, "expected target to be a class index (int), got Variable"),
    ("a list for one sample", lambda f, v: f([v, v], [1]), TypeError, "expected target to be a class index (int), got list"),
    (
        "a str of sample 0",
        lambda f, v: f([[v, v], [v, v]], "01"),
        TypeError,
        "expected target of sample 0 to be a class index (int), got str",
    ),
    (
        "one int for rows",
        lambda f, v: f([[v, v], [v, v]], 1),
        ValueError,
        "expected a sequence of 2 class indices, one for each row of logits, got int",
    ),
    (
        "a generator of targets",
        lambda f, v: f([[v, v], [v, v]], iter([0, 1])),
        ValueError,
        "expected a sequence of 2 class indices, one for each row of logits, got list_iterator",
    ),
    (
        "too few targets",
        lambda f, v: f([[v, v], [v, v]], [1]),
        ValueError,
        "expected as many rows of logits as class indices, got 2 and 1",
    ),
    ("nothing", lambda f, v: f([], 0), ValueError, "expected at least one logit or row of logits, got none"),
    ("no rows", lambda f, v: f([], []), ValueError, "expected at least one logit or row of logits, got none"),
    ("reduction", lambda f, v: f([v, v], 0, "max"), ValueError, "expected reduction to be 'mean', 'sum' or 'none', got 'max'"),
    (
        "a Variable as logits",
        lambda f, v: f(v, 0),
        TypeError,
        "input: expected a sequence of Variables and numbers, got Variable",
    ),
    ("a str as logits", lambda f, v: f("ab", 0), TypeError, "input: expected a sequence of Variables and numbers, got str"),
    (
        "a str among them",
        lambda f, v: f([v, "b"], 0),
        TypeError,
        "input, element 1: expected a real number (int, float, NumPy scalar), got str; convert it to a float first",
    ),
    (
        "three dimensions",
        lambda f, v: f([[[v]]], [0]),
        TypeError,
        (
            "input, element 0: expected a real number (int, float, NumPy scalar), got list; work element "
            "by element, or use mingrad.sum, mingrad.dot and the like"
        ),
    ),
    (
        "a number among rows",
        lambda f, v: f([[v, v], 1.0], [0, 0]),
        TypeError,
        "input: expected a sequence of Variables and numbers, got float",
    ),
]


@pytest.mark.parametrize("case", CROSS_ENTROPY_REFUSALS, ids=[c[0] for c in CROSS_ENTROPY_REFUSALS])
def test_what_cross_entropy_refuses_leaves_everything_as_it_was(case):
    _, call, kind, text = case
    v = Variable(0.5)
    with no_trace([v]), pytest.raises(kind) as caught:
        call(nn.cross_entropy, v)
    assert str(caught.value) == f"cross_entropy: {text}"
    caught = None


def test_no_logits_at_all_are_a_value_error_whatever_holds_them():
    empty = [([[], []], [0, 0]), ((), 0), (VariableList([]), 0), (iter(()), 0), ((), ())]
    if np is not None:
        empty += [(np.zeros((0, 3)), []), (np.zeros((0, 3)), np.zeros(0, dtype=int)), (np.zeros(0), 0)]
    for logits, target in empty:
        with pytest.raises(ValueError, match="cross_entropy: expected at least one logit"):
            nn.cross_entropy(logits, target)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_number_where_a_row_should_be_is_refused_by_name(reduction):
    v = Variable(0.5)
    for p, t in (([[v], 0.5], [[0.5], [0.5]]), ([[v], [v]], [[0.5], 0.5])):
        with no_trace([v]), pytest.raises((TypeError, ValueError), match=r"^l1_loss: "):
            nn.l1_loss(p, t, reduction)


@pytest.mark.parametrize(
    "delta, kind, text",
    [
        (0.0, ValueError, "huber_loss: expected delta to be a positive finite number, got 0.0"),
        (-1, ValueError, "huber_loss: expected delta to be a positive finite number, got -1"),
        (NAN, ValueError, "huber_loss: expected delta to be a positive finite number, got nan"),
        (INF, ValueError, "huber_loss: expected delta to be a positive finite number, got inf"),
        (
            "1",
            TypeError,
            "huber_loss: delta: expected a real number (int, float, NumPy scalar), got str; convert it to a float first",
        ),
        (
            None,
            TypeError,
            "huber_loss: delta: expected a real number (int, float, NumPy scalar), got NoneType; convert it to a float first",
        ),
    ],
    ids=str,
)
def test_a_delta_that_is_none_is_refused(delta, kind, text):
    v = Variable(0.5)
    with no_trace([v]), pytest.raises(kind) as caught:
        nn.huber_loss([v], [0.5], delta=delta)
    assert str(caught.value) == text
    caught = None
    with pytest.raises(TypeError, match=r"take its \.data"):
        nn.huber_loss([v], [0.5], delta=v)


@pytest.mark.parametrize("p", [-0.5, 1.5, -5e-324, 1 + 2**-52, INF, -INF])
@pytest.mark.parametrize("t", [0.0, 1.0, 0.5])
def test_a_chance_outside_0_and_1_is_refused_wherever_it_stands(p, t):
    text = (
        f"binary_cross_entropy({p!r}, {t!r}): outside the function's domain; with "
        "mingrad.errstate(all='ignore') the result is nan"
    )
    v, out = Variable(0.5), Variable(p)
    for call in (
        lambda: nn.binary_cross_entropy(out, t),
        lambda: nn.binary_cross_entropy(p, t),
        lambda: nn.binary_cross_entropy([v, p, v], [0.5, Variable(t), 0.5]),
        lambda: nn.binary_cross_entropy([v] * 30 + [out], [0.5] * 30 + [t], "none"),
        lambda: nn.binary_cross_entropy([[v] * 2, [v, out]], [[0.5] * 2, [0.5, t]], "none"),
    ):
        with no_trace([v, out]), pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == text
        caught = None
    with mingrad.errstate(all="ignore"):
        assert math.isnan(nn.binary_cross_entropy(out, t).data)
        assert math.isnan(nn.binary_cross_entropy([0.5, p], [0.5, t]))


def test_an_iterable_that_raises_hands_its_own_error_on():
    v = Variable(0.5)

    def broken():
        yield v
        raise KeyError("mine")

    for function in FUNCTIONS.values():
        target = 0 if function is nn.cross_entropy else [0.5, 0.5]
        with no_trace([v]), pytest.raises(KeyError, match="mine"):
            function(broken(), target)


# -- whatever the tape does ------------------------------------------------------------------------


def everything():
    """Values and gradients of each loss with each reduction, its operands scattered and in runs."""
    seen = []
    for name in TERMS:
        for who in WHO:
            x, y, leaves = as_variables(*operands_for(name), who)
            for reduction in REDUCTIONS:
                for args in ((x, y), (x[::-1], y[::-1]), (rows_of(x), rows_of(y)), ([v * 1.0 for v in x], y)):
                    seen.append(backward(LOSSES[name][0](*args, reduction), leaves))
    rng = random.Random(1)
    leaves = [Variable(rng.gauss(0, 2)) for _ in range(12)]
    for reduction in REDUCTIONS:
        for rows in (rows_of(leaves), rows_of(leaves[::-1]), [[v, 1.0] for v in leaves[:4]]):
            seen.append(backward(nn.cross_entropy(rows, [1, 0, 1, 1], reduction), leaves))
    return seen


@pytest.mark.parametrize("young", [1, 3, 64])
def test_collections_at_any_moment_change_no_bit(young):
    expected = everything()
    before = _core._stress(young, 1)
    try:
        assert everything() == expected
    finally:
        _core._stress(*before)


def test_every_instruction_set_gives_the_same_bits():
    same_by_each_instruction_set(everything)
