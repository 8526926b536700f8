"""The tape: what handles, collections, failed allocations, threads and forks may never change.

Random programs run with a collection at every recording call and must log the same bits as with the
tape's own sizes and as the slow reference. Then: running out of memory at each allocation, deep
chains, memory given back, long loops, threads, fork, reproducibility, stale leaves. Shapes of
graphs are test_graphs.py's. MINGRAD_SLOW=1 makes the chains and loops ten times longer.
"""

import contextlib
import gc
import os
import random
import sys
import sysconfig
import threading
import weakref

import pytest

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, compare_logs, random_program, run_program, run_python
from mingrad import _core, nn
from watch import live_now, stress

SLOW = os.environ.get("MINGRAD_SLOW") == "1"
DEPTH = 10_000_000 if SLOW else 1_000_000
ITERATIONS = 200_000 if SLOW else 20_000
PICKS = ["max", "min"]  # the n-ary ops that leave no freedom in the last bit
YOUNG = [1, 2, 3, 7, 64]
# Python's collector then has no generations: it waits for a quarter as many new objects as there are old ones.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def resident_bytes():
    if not sys.platform.startswith("linux"):
        pytest.skip("resident memory is read from /proc, which this system has not got")
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- Programs that drop, rebind and write --------------------------------------------------------


@pytest.mark.parametrize("young", YOUNG)
def test_a_program_logs_the_references_bits_with_collections_all_the_time(young):
    for seed in range(15):
        program = random_program(seed, 500, EXACT + PICKS)
        expected = run_program(program, reference)
        compare_logs(run_program(program, mingrad), expected, program)
        with stress(young):
            compare_logs(run_program(program, mingrad), expected, program)


@pytest.mark.parametrize("young", YOUNG)
def test_a_program_of_all_ops_logs_the_same_bits_whenever_collections_happen(young):
    for seed in range(100, 115):
        program = random_program(seed, 500, EXACT + LIBM + OTHER + NARY)
        expected = run_program(program, mingrad)
        with stress(young):
            compare_logs(run_program(program, mingrad), expected, program)


def test_random_programs_are_worth_running():
    """Most instructions do something, numbers stay finite, passes and stale leaves happen."""
    logs, passes = [], []
    for seed in range(15):
        program = random_program(seed, 500, EXACT + PICKS)
        log = run_program(program, reference)
        logs += map(str, log)
        passes += [str(entry) for (kind, *_), entry in zip(program, log) if kind == "backward"]
    assert sum("empty" in entry for entry in logs) < len(logs) / 4
    assert sum("nan" in entry or "inf" in entry for entry in logs) < len(logs) / 20
    assert sum("stale" in entry for entry in passes) > 20
    assert sum(entry.startswith("((") for entry in passes) > 200


@pytest.mark.parametrize("young", [None, 1, 7])
def test_the_nodes_that_live_are_those_that_a_handle_or_a_user_holds(young):
    """The reference's objects die by Python's reference counts: an independent count."""
    for seed in range(6):
        program = random_program(seed, 300, EXACT)

        def count(engine):
            return live_now() if engine is mingrad else reference.live()

        at_start = live_now(), reference.live()
        with stress(young) if young else contextlib.nullcontext():
            got = run_program(program, mingrad, after=count)
        expected = run_program(program, reference, after=count)
        for k, (x, y) in enumerate(zip(got, expected)):
            assert x[-1] - at_start[0] == y[-1] - at_start[1], f"seed {seed}, instruction {k} {program[k]}"
        assert live_now() == at_start[0]


@pytest.mark.parametrize("young", [1, 3, 64])
def test_training_gives_the_same_weights_whenever_collections_happen(young):
    def train():
        random.seed(3)
        model = nn.MLP(3, [5, 4, 1], activation="tanh")
        rows = [[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [-1.0, 1.0, 0.0]]
        for _ in range(6):
            outputs = [model(row) for row in rows]
            loss = sum((y - t) ** 2 for y, t in zip(outputs, (1.0, -1.0, 0.5)))
            loss = loss + 0.01 * mingrad.norm(model.parameters()) + mingrad.logsumexp(outputs)
            model.zero_grad()
            loss.backward()
            for p in model.parameters():
                p.data -= 0.05 * p.grad
        return [(p.data.hex(), p.grad.hex()) for p in model.parameters()]

    expected = train()
    with stress(young):
        assert train() == expected


@contextlib.contextmanager
def finalizers_everywhere():
    """Every few allocations a cycle dies whose finalizer records, drops and collects."""

    class Nuisance:
        count = 0

        def __init__(self):
            self.me = self
            self.held = mingrad.Variable(1.0)

        def __del__(self):
            Nuisance.count += 1
            x = mingrad.Variable(2.0) * self.held + 1.0
            y = mingrad.sum([x, x])
            if y.requires_grad:  # it may run inside no_grad()
                y.backward()
            if Nuisance.count % 3 == 0:
                mingrad.collect()

    def another(phase, info):
        if phase == "stop":
            Nuisance()

    before = gc.get_threshold()
    gc.callbacks.append(another)
    gc.set_threshold(1, 1000, 1000)
    try:
        yield Nuisance
    finally:
        gc.callbacks.remove(another)
        gc.set_threshold(*before)
        gc.collect()


@pytest.mark.parametrize("young", [1, 2, 64])
def test_finalizers_that_use_the_engine_may_run_at_any_moment(young):
    for seed in range(200, 204):
        program = random_program(seed, 300, EXACT + LIBM + NARY)
        expected = run_program(program, mingrad)
        with stress(young), finalizers_everywhere() as nuisance:
            got = run_program(program, mingrad)
        compare_logs(got, expected, program)
        assert nuisance.count > 50 or FREE_THREADED


def dense():
    """Two dense layers, the second without bias."""
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))


READERS = {
    "_prev of *": lambda a, b, c: (a * b, lambda y: y._prev),
    "_prev of * and a number": lambda a, b, c: (a * 2.0, lambda y: y._prev),
    "_prev of tanh": lambda a, b, c: (a.tanh(), lambda y: y._prev),
    "_prev of sum": lambda a, b, c: (mingrad.sum([b, a, c]), lambda y: y._prev),
    "_prev of neighbours": lambda a, b, c: (mingrad.sum([a, b, c]), lambda y: y._prev),
    "_prev of dot": lambda a, b, c: (mingrad.dot([a, c], [c, b]), lambda y: y._prev),
    "_prev of a layer": lambda a, b, c: (
        nn.Layer(2, 2, nonlin=False)([a, b])[0],
        lambda y: y._prev,
    ),
    "sum": lambda a, b, c: ([b, 1.5, a], lambda xs: [mingrad.sum(xs)]),
    "dot": lambda a, b, c: ([b, 1.5, a], lambda xs: [mingrad.dot(xs, xs)]),
    "softmax": lambda a, b, c: ([b, 1.5, a], mingrad.softmax),
    "layer": lambda a, b, c: (([b, a], nn.MLP(2, [3, 4])), lambda pair: pair[1](pair[0])),
    "layer of numbers": lambda a, b, c: (
        ([0.5, 1.0], nn.MLP(2, [3, 4])),
        lambda pair: pair[1](pair[0]),
    ),
    "layer of rows": lambda a, b, c: (
        ([[0.5, 1.0], [a, b]], nn.MLP(2, [3, 4])),
        lambda pair: [y for row in pair[1](pair[0]) for y in row],
    ),
    "rows of a Sequential": lambda a, b, c: (
        ([[0.5, 1.0], [a, b], (2.0, 3.0)], dense()),
        lambda pair: [y for row in pair[1](pair[0]) for y in row],
    ),
    "a VariableList in a Sequential": lambda a, b, c: (
        (mingrad.VariableList([b, a]), dense()),
        lambda pair: list(pair[1](pair[0])),
    ),
    "VariableList": lambda a, b, c: ([b, 1.5, a], lambda xs: list(mingrad.VariableList(xs))),
    "tensor": lambda a, b, c: ([b, 1.5, a], lambda xs: list(mingrad.tensor(xs, True))),
    "a list times a list": lambda a, b, c: (
        mingrad.VariableList([b, 1.5, a]),
        lambda xs: list(2.0 - xs * [c, 0.5, c]),
    ),
    "clamp": lambda a, b, c: (
        mingrad.VariableList([b, 1.5, a]),
        lambda xs: list(xs.clamp(a, [2.5, c, 9.0])),
    ),
    "an activation": lambda a, b, c: ([b, 1.5, a], lambda xs: list(nn.Tanh()(xs))),
    "an activation of a run": lambda a, b, c: ([a, b, c], lambda xs: list(nn.ELU(0.5)(xs))),
    "norms": lambda a, b, c: (
        ([b, 1.5, a], nn.RMSNorm(3), nn.LayerNorm(3)),
        lambda them: [*them[1](them[0]), *them[2](them[0]), *nn.Softmax()(them[0])],
    ),
    "attention": lambda a, b, c: (
        ([b, a], [[a, c], [1.0, b]], [(c, 2.0), mingrad.VariableList([a, b])]),
        lambda them: list(nn.scaled_dot_product_attention(*them, heads=2)),
    ),
    "losses": lambda a, b, c: (
        ([b, 1.5, a], [0.5, c, 2.0]),
        lambda pair: [
            nn.mse_loss(*pair),
            nn.huber_loss(*pair, "sum", delta=0.5),
            *nn.l1_loss(*pair, "none"),
            nn.hinge_loss(pair[0][0], pair[1][1]),
        ],
    ),
    "a loss of rows": lambda a, b, c: (
        ([[b, 1.5], (a, c)], [(0.5, c), [1.0, a]]),
        lambda pair: [
            nn.binary_cross_entropy_with_logits(*pair),
            *[v for row in nn.mse_loss(*pair, "none") for v in row],
        ],
    ),
    "cross-entropy": lambda a, b, c: (
        ([[b, 1.5, a], (a, b, c)], [2, 0]),
        lambda pair: [
            nn.cross_entropy(*pair),
            *nn.cross_entropy(*pair, "none"),
            nn.cross_entropy(pair[0][1], 1),
        ],
    ),
    "a loss that is refused": lambda a, b, c: (
        [b, a],
        lambda xs: [pytest.raises(ValueError, nn.binary_cross_entropy, xs, [1.0, 0.0]) and xs[0]],
    ),
    "error": lambda a, b, c: (a - a, lambda x: [pytest.raises(ValueError, x.log) and x]),
    "divmod": lambda a, b, c: (a, lambda x: divmod(x, b)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("warm", [False, True], ids=["first-call", "later-call"])
def test_pythons_collector_may_run_at_any_allocation_inside_a_call(name, warm):
    """Before Python 3.12 it runs wherever a list is made; a finalizer may then drop, collect and
    record, so that nodes move. Let it run at the k-th such place, for each k, and look at what the
    call gives."""

    class Mover:
        def __init__(self, junk):
            self.me, self.junk = self, junk

        def __del__(self):
            self.junk.clear()
            mingrad.collect()
            survivors.append(mingrad.Variable(88.0) * 1.5)
            mingrad.Variable(99.0) * 2.0

    def run(place):
        random.seed(6)
        junk = [mingrad.Variable(-1.0) for _ in range(10)]
        held = [mingrad.Variable(k + 2.0, label=f"v{k}") for k in range(3)]
        thing, call = READERS[name](*held)
        if warm:
            call(thing)
        gc.collect()  # empties Python's own free lists too
        gc.disable()
        mover = Mover(junk)
        del mover, junk
        before = gc.get_threshold()
        gc.set_threshold(1_000_000 if place is None else gc.get_count()[0] + place, 1000, 1000)
        gc.enable()
        try:
            results = call(thing)
        finally:
            gc.disable()
            gc.set_threshold(*before)
            gc.enable()
        return [(v.data, v.label, any(v is x for x in held)) for v in results]

    survivors = []
    gc.freeze()  # or every gc.collect() would look at all that pytest holds
    try:
        with stress(131_072, 1):  # what is gone is overwritten with nan
            expected = run(None)
            for place in range(40):
                assert run(place) == expected, f"at allocation {place}"
    finally:
        gc.unfreeze()
    assert all(v.data == 132.0 for v in survivors)


def test_finalizers_may_run_while_layers_record_and_subclasses_are_made():
    class Weight(mingrad.Variable):
        """Has a dictionary, so Python's collector may run where it is allocated."""

    def work():
        random.seed(5)
        model = nn.MLP(3, [4, 4, 2])
        seen = []
        for k in range(10):
            w = Weight(0.5 * k)
            w.note = [k]
            rows = model([[w, 1.0, w], [0.5, w * 2.0, 1.0]])
            y = mingrad.sum(rows[0] + rows[1]) + mingrad.softmax([w, rows[0][0], 1.0])[1]
            y.backward()
            info = mingrad.tape_info()
            assert info.nodes <= info.capacity
            seen.append((y.data.hex(), w.grad.hex(), w.note, len(y._prev)))
        return seen + [p.grad.hex() for p in model.parameters()]

    expected = work()
    for young in 1, 3:
        with stress(young), finalizers_everywhere() as nuisance:
            assert work() == expected
        assert nuisance.count > 50 or FREE_THREADED


def test_a_node_has_one_handle_while_it_lives():
    x = mingrad.Variable(2.0)
    y = x * 3.0
    z = y + x
    with stress(1):
        mingrad.Variable(0.0)
        assert z._prev[0] is y and z._prev[1] is x and y._prev[0] is x
        del y
        again = z._prev[0]
        assert again is z._prev[0] and again.data == 6.0


def test_labels_and_weak_references_follow_their_nodes():
    with stress(1):
        kept = [mingrad.Variable(float(k), label=f"kept {k}") for k in range(50)]
        for k in range(0, 50, 2):
            mingrad.Variable(0.0, label="dropped")
            kept[k].label = f"again {k}"
        watched = weakref.ref(kept[7])
        del kept[:7]
        for _ in range(3):
            mingrad.Variable(1.0) * 2.0
        assert [v.label for v in kept] == [f"kept {k}" if k % 2 else f"again {k}" for k in range(7, 50)]
        assert [v.data for v in kept] == [float(k) for k in range(7, 50)]
        assert watched() is kept[0]
        del kept
        assert watched() is None


def test_a_collection_between_passes_changes_no_adjoint():
    x = mingrad.Variable(3.0)
    y = x * x
    z = y * x
    z.backward()
    seen = [v.grad for v in (x, y, z)]
    junk = [mingrad.Variable(1.0) for _ in range(1000)]
    del junk[::2]
    mingrad.collect()
    assert [v.grad for v in (x, y, z)] == seen
    z.backward()
    assert [v.grad for v in (x, y, z)] == [54.0, 3.0, 1.0]


# --- No memory -----------------------------------------------------------------------------------


class World:
    """Things that were there before an allocation failed and must be there afterwards."""

    def __init__(self):
        random.seed(11)
        self.leaves = [mingrad.Variable(0.5 + k, label=f"leaf {k}") for k in range(6)]
        self.model = nn.MLP(3, [4, 2])
        self.dense = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
        self.inner = self.leaves[0] * self.leaves[1]
        self.root = mingrad.sum([self.inner, *self.leaves, self.inner]) * mingrad.dot(self.leaves[:3], self.leaves[3:])
        self.root.backward()
        parameters = self.model.parameters() + self.dense.parameters()
        self.all = [*self.leaves, *parameters, self.inner, self.root]

    def seen(self):
        return [(v.data.hex(), v.grad.hex(), v.label) for v in self.all] + [
            live_now(),
            mingrad.tape_info().handles,
        ]


def record(world):
    a, b = world.leaves[:2]
    total = a + 1.0
    for k in range(3):
        total = (total * 0.5 - b / 3.0).tanh() + k
    return total.data


def nary(world):
    outputs = [
        mingrad.sum(world.leaves),
        mingrad.prod(reversed(world.leaves)),
        mingrad.max(world.leaves),
        mingrad.logsumexp(world.leaves[::2]),
        mingrad.norm([*world.leaves, 2.0]),
        mingrad.dot(world.leaves[::-1], world.leaves),
        *mingrad.softmax(world.leaves),
    ]
    return [v.data for v in outputs]


def layers(world):
    return [v.data for row in world.model([world.leaves[:3], [1.0, 2.0, 3.0], world.leaves[3:]]) for v in row]


def batches(world):
    rows = [[1.0, 2.0, 3.0], [0.5, -0.5, 1.5], world.leaves[:3], (2, 1, 0), [0.1, 0.2, 0.3]]
    return [v.data for row in world.dense(rows) + [world.dense(rows[2])] for v in row]


def sequences(world):
    xs = mingrad.VariableList(world.leaves)
    apart = xs[::2]
    outputs = [
        *(xs * 2.0 + xs[::-1]),
        *(1.0 - apart / [1.0, 2, world.leaves[1]]),
        *xs.clamp(0.75, [2.0] * 6),
        *nn.GELU()(xs),
        *nn.LeakyReLU(0.3)(-apart),
        *nn.Softmax()(apart),
        *nn.RMSNorm(6)(xs),
        *nn.LayerNorm(3)(apart),
        *nn.scaled_dot_product_attention(xs[:2], [xs[2:4], apart[:2]], [xs[4:], [1.0, 2.0]], 2),
        *mingrad.tensor([1.0, xs[0]], requires_grad=True),
        *mingrad.stack([xs[0], 2.0]),
        xs.sum(),
    ]
    return [v.data for v in outputs]


def losses(world):
    xs, ys = world.leaves[:3], world.leaves[3:]
    rows = [xs, ys[::-1], [xs[0], 1.0, 2.0]]
    outputs = [
        nn.mse_loss(xs, ys),
        nn.l1_loss(xs[::-1], [1.0, ys[0], 2], "sum"),
        *nn.huber_loss(xs, [0.0] * 3, "none", delta=0.7),
        nn.huber_loss(xs[0], ys[0]),
        nn.hinge_loss(mingrad.VariableList(xs), [1.0, -1.0, 1.0]),
        nn.binary_cross_entropy([xs[0], 0.25], [1.0, 0.0]),
        nn.binary_cross_entropy_with_logits([xs, ys], [[1.0] * 3, [0.0] * 3]),
        *[v for row in nn.mse_loss([xs, ys], [ys, xs], "none") for v in row],
        nn.cross_entropy(rows, [0, 2, 1]),
        *nn.cross_entropy(rows, [0, 2, 1], "none"),
        nn.cross_entropy(ys, 1),
    ]
    return [v.data for v in outputs]


def writes(world):
    xs = mingrad.VariableList(world.leaves)
    with mingrad.no_grad():
        xs.clamp_(min=1.0, max=[2.0] * 6)
    return xs.tolist()


def leaves(world):
    made = [mingrad.Variable(k, label=f"new {k}") for k in range(20)]
    for v in made:
        v.label = v.label + "!"
    return [v.label for v in made]


def backward(world):
    world.root.backward(0.5)
    return [v.grad for v in world.all]


def reread(world):
    return [x.data for x in world.root._prev] + [len(x._prev) for x in world.root._prev]


def collect(world):
    extra = [mingrad.Variable(1.0) * 2.0 for _ in range(20)]
    del extra[::2]
    mingrad.collect()
    return [v.data for v in extra]


def everything(world):
    steps = (record, nary, layers, batches, sequences, losses, leaves, reread, collect)
    return [step(world) for step in steps] + [backward(world)]


STEPS = [record, nary, layers, batches, sequences, losses, writes]
STEPS += [leaves, reread, collect, backward]


@pytest.mark.parametrize("step", [*STEPS, everything])
@pytest.mark.parametrize("young", [1, 16, None], ids=["young-1", "young-16", "young-default"])
def test_when_any_allocation_fails_nothing_has_changed(step, young):
    """Fail the n-th allocation for n = 0, 1, 2, ... until the step needs fewer."""
    failures = 0
    gc.collect()  # Variables that earlier tests left in reference cycles are not to die meanwhile
    with stress(young, 1) if young else contextlib.nullcontext():
        mingrad.collect()
        expected = step(World())
        ballast = []
        for n in range(100_000):
            world = World()
            before = world.seen()
            if young:  # leave no room from the last round: every node of the step needs memory
                info = mingrad.tape_info()
                ballast += [mingrad.Variable(0.0) for _ in range(info.capacity - info.nodes)]
                before = world.seen()
            _core._fail_allocation(n)
            try:
                result = step(world)
            except MemoryError:
                result = None
            triggered = _core._fail_allocation(-1)
            if result is None:
                assert triggered
                failures += 1
                assert world.seen() == before, f"allocation {n}"
                result = step(world)
            assert result == expected, f"allocation {n}"
            if not triggered:
                break
        else:
            pytest.fail("the step never got through")
    if young and step not in (backward, writes):  # a pass takes no memory, a write seldom some
        assert failures > 0
    if young and step is everything:
        assert failures > 100


def test_an_allocation_that_fails_during_a_write_leaves_the_leaf_as_it_was():
    """Old leaves that are written are listed, and that list grows now and then."""
    with stress(1):
        leaves = [mingrad.Variable(float(k)) for k in range(100_000)]
        mingrad.collect()
        root = leaves[0] * 2.0
        failed = None
        for k, v in enumerate(leaves):
            _core._fail_allocation(0)
            try:
                v.data = k + 0.5
            except MemoryError:
                failed = k
            if _core._fail_allocation(-1):
                break
        assert leaves[failed].data == failed
        assert all(v.data == k + 0.5 for k, v in enumerate(leaves[:failed]))
        leaves[failed].data = 7.0
        with pytest.raises(RuntimeError, match="forward pass"):
            root.backward()


def test_a_failed_allocation_of_a_python_object_leaves_the_tape_as_it_was():
    """Python's own allocator fails at its n-th call, when no spare handle is left to use again."""
    pytest.importorskip("_testcapi", reason="this Python came without its own test module")
    out = run_python("""
        import _testcapi
        import mingrad
        holders = [mingrad.Variable(1.0) for _ in range(5000)]
        x, y = mingrad.Variable(2.0), mingrad.Variable(3.0)
        def step():
            a = x * y
            b = a + 1.0
            c = (b * a).tanh() + mingrad.maximum(a, 2.0)
            c.backward()
            return b._prev[0] is a, c.data
        assert step() == (True, 7.0)
        xs, ys = x.grad, y.grad
        failed = 0
        for n in range(300):
            mingrad.collect()
            before = mingrad.tape_info().live
            x.zero_grad(), y.zero_grad()
            result = None
            more = [x * 1.0 for _ in range(2000)]  # uses up the free list
            _testcapi.set_nomemory(n, n + 1)
            try:
                result = step()
            except MemoryError:
                pass
            _testcapi.remove_mem_hooks()
            del more
            mingrad.collect()
            assert mingrad.tape_info().live == before, n
            assert (x.grad, y.grad) in ((0.0, 0.0), (xs, ys)), n
            failed += result is None
            assert result in (None, (True, 7.0)), result
        print(failed)
    """)
    assert int(out) > 2


# --- Depth ---------------------------------------------------------------------------------------


def chain(depth, hold=False):
    """x -> x*a -> ... ; returns the leaf, the end, and every handle if asked to hold them."""
    x = y = mingrad.Variable(1.0)
    held = []
    for _ in range(depth):
        y = y * 0.9999999
        if hold:
            held.append(y)
    return x, y, held


def check_deep_chain():
    base = live_now()
    x, y, _ = chain(DEPTH)
    y.backward()
    assert x.grad == y.data != 1.0
    assert y.grad == 1.0 and live_now() == base + DEPTH + 1
    del y
    assert live_now() == base + 1


def test_a_deep_chain_is_built_walked_and_dropped_without_recursion():
    check_deep_chain()


def test_a_deep_chain_works_in_a_thread_with_a_small_stack():
    errors = []

    def work():
        try:
            check_deep_chain()
        except BaseException as error:  # handed to the test below
            errors.append(error)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert not errors, errors


@pytest.mark.parametrize("order", ["oldest first", "newest first", "shuffled"])
def test_a_held_chain_is_dropped_in_any_order(order):
    base = live_now()
    depth = DEPTH // 5
    x, y, held = chain(depth, hold=True)
    assert mingrad.tape_info().handles >= depth + 1
    y.backward()
    expected = x.grad
    del y
    if order == "newest first":
        held.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(held)
    half = len(held) // 2
    for k in range(half):
        held[k] = None
    last = held[-1]
    last.zero_grad()
    mingrad.collect()
    last.backward()
    assert x.grad > expected
    del held, last
    assert live_now() == base + 1


def test_a_deep_chain_can_be_walked_down_by_prev():
    depth = DEPTH // 10
    x, y, _ = chain(depth)
    count = 0
    while y._prev:
        y = y._prev[0]
        count += 1
    assert y is x and count == depth


def test_a_long_sum_and_a_wide_fan_are_no_deeper_than_others():
    n = DEPTH // 10
    x = mingrad.Variable(2.0)
    y = sum(x * 1.0 for _ in range(n))
    y.backward()
    assert x.grad == n and y.data == 2.0 * n
    z = mingrad.sum([x] * n)
    z.backward()
    assert x.grad == 2 * n


def test_an_interpreter_ends_cleanly_while_a_deep_graph_is_alive():
    assert run_python(f"""
        import threading
        import mingrad
        y = x = mingrad.Variable(1.0)
        for _ in range({DEPTH}):
            y = y + 1.0
        class Holder:
            def __del__(self):
                print(self.v.data)
        h = Holder()
        h.v = y
        h.me = h
        print("end")
    """).startswith("end")


# --- Memory --------------------------------------------------------------------------------------


def test_memory_is_given_back_after_a_large_graph_has_died():
    mingrad.collect()
    gc.collect()
    before = resident_bytes()
    x, y, _ = chain(DEPTH * 2)
    y.backward()
    peak, at_peak = mingrad.tape_info(), resident_bytes()
    assert peak.capacity >= peak.nodes > DEPTH * 2
    assert at_peak - before > 20 * DEPTH * 2
    assert peak.bytes <= 48 * peak.capacity + (1 << 20)
    del y
    mingrad.collect()
    after = mingrad.tape_info()
    assert after.capacity < peak.capacity / 4 and after.bytes < peak.bytes / 4
    assert resident_bytes() - before < (at_peak - before) / 4


def test_memory_is_given_back_after_a_large_nary_op_has_died():
    mingrad.collect()
    base = mingrad.tape_info().bytes
    xs = [mingrad.Variable(1.0) for _ in range(2 * DEPTH // 10)]
    y = mingrad.sum(xs[::-1])
    y.backward()
    peak = mingrad.tape_info().bytes
    del xs, y
    mingrad.collect()
    assert mingrad.tape_info().bytes - base < (peak - base) / 2 + (8 << 20)


@pytest.mark.parametrize("name", ["prod", "logsumexp", "sum", "max", "norm", "softmax"])
def test_an_nary_node_can_run_backward_after_memory_was_given_back(name):
    """Scratch room that a pass needs must outlive a collection, whatever else has died."""
    xs = [mingrad.Variable(1.0) for _ in range(30_000)]
    y = getattr(mingrad, name)(xs)
    y = y[0] if name == "softmax" else y
    chain(300_000)
    mingrad.collect()
    y.backward()
    assert xs[0].grad != 0.0 and xs[-1].grad != 0.0


def test_a_training_loop_keeps_the_tape_small_and_memory_flat():
    random.seed(1)
    model = nn.MLP(2, [3, 1])
    rows = [[2.0, 3.0], [-1.0, -2.0], [1.5, 2.0], [-1.5, -2.5]]
    targets = [1.0, -1.0, 1.0, -1.0]
    most, warm, live = 0, None, None
    for iteration in range(ITERATIONS):
        k = iteration % 4
        loss = (model(rows[k]) - targets[k]) ** 2
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= 0.001 * p.grad
        if iteration % 1000 == 0:
            most = max(most, mingrad.tape_info().nodes)
        if iteration == ITERATIONS // 2:  # the tape has collected twice, and touched all its pages
            warm, live = resident_bytes(), live_now()
    assert resident_bytes() - warm < 2 << 20
    assert live_now() == live
    assert most < live + 2 * 131_072


def test_a_loop_of_plain_expressions_keeps_the_tape_small_and_memory_flat():
    weights = [mingrad.Variable(0.1 * k) for k in range(8)]
    warm = loss = None
    for iteration in range(ITERATIONS // 2):
        loss = sum(w * w for w in weights) - mingrad.logsumexp(weights[::-1])  # the old loss lives until here
        for w in weights:
            w.zero_grad()
        loss.backward()
        for w in weights:
            w.data -= 0.01 * w.grad
        if iteration == ITERATIONS // 4:
            warm = resident_bytes()
    assert resident_bytes() - warm < 2 << 20
    assert mingrad.tape_info().nodes < live_now() + 2 * 131_072


def test_a_large_live_graph_does_not_make_every_collection_expensive():
    """Survivors are promoted: with a million live nodes a loop causes few full collections."""
    x, y, _ = chain(DEPTH)
    before = mingrad.tape_info()
    for _ in range(DEPTH):
        x * 2.0
    held = [x * 2.0 for _ in range(DEPTH // 10)]
    after = mingrad.tape_info()
    assert after.full_collections - before.full_collections <= 2
    assert len(held) == DEPTH // 10 and y.data < 1.0


# --- Counters ------------------------------------------------------------------------------------


def test_tape_info_counts_what_happened():
    mingrad.collect()
    start = mingrad.tape_info()
    assert start.nodes == start.live
    x = mingrad.Variable(2.0)
    y = (x * x) + 1.0
    info = mingrad.tape_info()
    assert info.recorded - start.recorded == 3
    assert info.handles - start.handles == 2  # x*x has lost its handle
    assert info.live - start.live == 3
    assert info.nodes >= info.live and info.capacity >= info.nodes and info.bytes >= 40 * info.capacity
    mingrad.collect()
    info = mingrad.tape_info()
    assert info.collections == start.collections + 1
    assert info.full_collections == start.full_collections + 1
    assert info.nodes == info.live == start.live + 3
    del y
    mingrad.collect()
    assert mingrad.tape_info().live == start.live + 1


def test_collect_returns_how_many_nodes_it_reclaimed():
    mingrad.collect()
    assert mingrad.collect() == 0
    held = [mingrad.Variable(1.0) for _ in range(100)]
    top = mingrad.Variable(0.0)  # what dies on top may go at once; what dies below waits
    del held[::2]
    assert mingrad.collect() == 50
    assert [v.data for v in held] == [1.0] * 50 and top.data == 0.0


def test_with_a_young_part_of_one_every_recording_call_collects():
    with stress(1):
        held = []
        before = mingrad.tape_info().collections
        for _k in range(50):
            held.append(mingrad.Variable(1.0))
        assert mingrad.tape_info().collections - before >= 48


# --- Threads and processes -----------------------------------------------------------------------


def in_threads(count, work):
    """Run work(k) in that many threads at once, switching often; returns their results in order."""
    results, errors = [None] * count, []
    start = threading.Barrier(count)

    def run(k):
        try:
            start.wait()
            results[k] = work(k)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors, errors
    return results


@pytest.mark.parametrize("young", [1, 64, None], ids=["young-1", "young-64", "young-default"])
def test_eight_threads_with_graphs_of_their_own_get_the_bits_of_one_thread(young):
    names = list(EXACT + LIBM + NARY)

    def work(k):
        return run_program(random_program(k, 300, names), mingrad)

    expected = [work(k) for k in range(8)]
    with stress(young, 1) if young else contextlib.nullcontext():
        got = in_threads(8, work)
    for k in range(8):
        compare_logs(got[k], expected[k], random_program(k, 300, names))


def test_eight_threads_that_share_a_leaf_lose_no_contribution():
    shared = mingrad.Variable(2.0)
    passes = 300

    def work(k):
        for _ in range(passes):
            y = shared * float(k + 1)
            for _ in range(10):
                y = y + shared
            y.backward()

    in_threads(8, work)
    assert shared.grad == passes * (sum(range(1, 9)) + 8 * 10)


def test_no_grad_in_one_thread_does_not_reach_another():
    inside, leave = threading.Event(), threading.Event()

    def quiet():
        with mingrad.no_grad():
            inside.set()
            leave.wait()
            return (x * 2.0).requires_grad

    def loud():
        inside.wait()
        try:
            y = x * 3.0
            y.backward()
            return y.requires_grad
        finally:
            leave.set()

    x = mingrad.Variable(1.0)
    assert in_threads(2, lambda k: (quiet, loud)[k]()) == [False, True]
    assert x.grad == 3.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_a_fork_the_childs_tape_is_its_own():
    out = run_python("""
        import os
        import mingrad
        x = mingrad.Variable(3.0)
        y = x * x
        before = mingrad.tape_info().live
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            y.backward()                          # the graph it was born with
            x.data = 5.0
            z = x * x * x
            z.backward()
            junk = [x * 2.0 for _ in range(300000)]
            del junk
            mingrad.collect()
            os.write(writer, f"{x.grad} {z.data} {y.data}".encode())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(status, os.read(reader, 100).decode())
        assert x.data == 3.0 and x.grad == 0.0 and mingrad.tape_info().live == before
        y.backward()
        print(x.grad)
    """)
    assert out.split() == ["0", str(6.0 + 75.0), "125.0", "9.0", "6.0"]


def test_results_are_the_same_bits_in_every_process_whatever_the_hash_seed():
    code = """
        import gc, hashlib, os, random
        if os.environ["PYTHONHASHSEED"] == "7":
            gc.disable()
            ballast = [object() for _ in range(100_000)]  # other addresses
        import mingrad
        from mingrad import nn
        from helpers import EXACT, LIBM, NARY, OTHER, random_program, run_program
        names = EXACT + LIBM + OTHER + NARY
        logs = [run_program(random_program(seed, 400, names), mingrad) for seed in range(5)]
        random.seed(4)
        model = nn.MLP(4, [8, 8, 2])
        for _ in range(20):
            out = model([0.1, 0.2, -0.3, 0.4])
            loss = mingrad.logsumexp(out) - out[0]
            model.zero_grad()
            loss.backward()
            for p in model.parameters():
                p.data -= 0.1 * p.grad
        logs.append([p.data.hex() for p in model.parameters()])
        print(hashlib.sha256(repr(logs).encode()).hexdigest())
    """
    assert len({run_python(code, PYTHONHASHSEED=seed) for seed in ("0", "1", "7", "random")}) == 1


# --- Stale leaves --------------------------------------------------------------------------------


def assert_stale(root, watched, name):
    """backward() refuses, names the leaf, says what to do, and adds nothing to any leaf."""
    before = [v.grad for v in watched]
    with pytest.raises(RuntimeError) as caught:
        root.backward()
    assert name in str(caught.value) and "forward" in str(caught.value), str(caught.value)
    assert [v.grad for v in watched] == before


@pytest.mark.parametrize("shake", [None, 1, 7], ids=["as-is", "young-1", "young-7"])
def test_backward_through_a_leaf_that_was_written_since_is_refused(shake):
    with stress(shake) if shake else contextlib.nullcontext():
        junk = [mingrad.Variable(0.0) for _ in range(10)]
        w = mingrad.Variable(2.0, label="weight")
        x = mingrad.Variable(3.0, label="input")
        x.backward(0.25)
        old = (w * x).tanh() + x
        del junk
        old.backward()
        w.data = 4.0
        fresh = w * x
        mingrad.collect()
        assert_stale(old, [w, x], "weight")
        assert_stale(old, [w, x], "weight")
        w.zero_grad(), x.zero_grad()
        fresh.backward()
        assert (w.grad, x.grad) == (3.0, 4.0)
        x.data = 1.0
        assert_stale(fresh, [w, x], "input")
        (w * x).backward()
        assert (w.grad, x.grad) == (4.0, 8.0)


def test_an_unlabelled_stale_leaf_is_named_by_what_it_prints():
    x = mingrad.Variable(3.0)
    y = x * x
    x.data = 8.5
    assert_stale(y, [x], "8.5")


def test_a_write_before_the_first_use_or_beside_the_root_is_no_matter():
    x, beside = mingrad.Variable(3.0), mingrad.Variable(1.0)
    x.data = 4.0
    y, other = x * x, beside * 2.0
    beside.data = 7.0
    y.backward()
    assert x.grad == 8.0
    assert_stale(other, [beside], "7.0")


def test_a_written_constant_makes_a_node_stale_too():
    x, c = mingrad.Variable(3.0), mingrad.Variable(2.0, requires_grad=False, label="c")
    y = x * c
    c.data = 5.0
    assert_stale(y, [x], "c")


def test_writing_a_result_is_refused_and_changes_nothing():
    x = mingrad.Variable(3.0)
    y = x * x
    with pytest.raises(RuntimeError):
        y.data = 1.0
    assert y.data == 9.0
    y.backward()
    assert x.grad == 6.0


SHARED = {
    "+": lambda xs: xs[0] + xs[1],
    "tanh": lambda xs: xs[0].tanh() + xs[1].tanh(),
    "relu": lambda xs: sum([x.relu() for x in xs]),
    "neg": lambda xs: mingrad.sum([-x for x in xs]),
    "sum": mingrad.sum,
    "prod": lambda xs: mingrad.prod(xs[::-1]),
    "dot": lambda xs: mingrad.dot(xs[:3], xs[3:]),
    "dot scattered": lambda xs: mingrad.dot(xs[::2], xs[1::2]),
    "softmax": lambda xs: mingrad.softmax(xs)[0],
    "number": lambda xs: mingrad.sum([2.0 * x for x in xs]),
    "**2": lambda xs: mingrad.sum([x**2 for x in xs]),
    "an activation": lambda xs: nn.Tanh()(xs).sum(),
    "a list times a list": lambda xs: (mingrad.VariableList(xs[:3]) * xs[3:]).sum(),
    "rms norm": lambda xs: nn.RMSNorm(6, elementwise_affine=False)(xs[::-1])[0],
    "layer norm": lambda xs: nn.LayerNorm(6, elementwise_affine=False)(xs)[5],
    "attention": lambda xs: nn.scaled_dot_product_attention(xs[:2], [xs[2:4]], [xs[4:]]).sum(),
    "attention, copied": lambda xs: nn.scaled_dot_product_attention(
        xs[::3], [xs[1::3], xs[2::3]], [xs[1::3], xs[2::3]], 2
    ).sum(),
    "mse": lambda xs: nn.mse_loss(xs[:3], xs[3:]),
    "l1, one by one": lambda xs: nn.l1_loss(xs[:3], xs[3:], "none").sum(),
    "huber": lambda xs: nn.huber_loss(xs[::2], xs[1::2], delta=0.1),
    "hinge": lambda xs: nn.hinge_loss([-x for x in xs[:3]], xs[3:]),
    "logits": lambda xs: nn.binary_cross_entropy_with_logits([xs[:3]], [xs[3:]]),
    "cross-entropy": lambda xs: nn.cross_entropy(xs, 2),
    "cross-entropy, rows": lambda xs: nn.cross_entropy([xs[::2], xs[1::2]], [0, 1]),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("later", [False, True], ids=["at-once", "after-collections"])
def test_whichever_operand_was_written_the_pass_is_refused(name, later):
    """Ops on neighbouring operands may run as one block: each operand of the block counts."""
    for written in range(6):
        xs = [mingrad.Variable(0.5 + k, label=f"x{k}") for k in range(6)]
        dead = [x * 2.0 for x in xs]
        root = SHARED[name](xs)
        del dead
        xs[written].data = 9.0
        if later:
            with stress(1):
                mingrad.Variable(0.0)
            mingrad.collect()
        if name in ("+", "tanh") and written > 1:
            root.backward()
        else:
            assert_stale(root, xs, f"x{written}")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_whichever_parameter_of_a_layer_was_written_the_pass_is_refused(activation):
    random.seed(2)
    model = nn.MLP(3, [4, 3, 1], activation=activation)
    inputs = [mingrad.Variable(0.5), mingrad.Variable(-0.25), mingrad.Variable(1.5)]
    watched = [*model.parameters(), *inputs]
    for k, leaf in enumerate(watched):
        out = model(inputs)
        leaf.label = f"leaf {k}"
        leaf.data = leaf.data + 0.125
        assert_stale(out, watched, f"leaf {k}")
        leaf.label = ""
    model(inputs).backward()
    assert any(v.grad for v in inputs)


def test_a_refused_pass_leaves_the_tape_ready_for_the_next():
    """Marks that a refused walk left behind would reach into later passes."""
    rng = random.Random(8)
    starts = [rng.uniform(-1, 1) for _ in range(10)]
    leaves = {engine: [engine.Variable(x) for x in starts] for engine in (mingrad, reference)}
    for round_ in range(60):
        seen = []
        for xs in leaves.values():
            draw = random.Random(round_)
            nodes = list(xs)
            for _ in range(40):
                product = draw.choice(nodes) * draw.choice(nodes)
                nodes.append((product + draw.choice(nodes[-5:]) * 0.5) * 0.25)
            for k in draw.sample(range(10, 50), 3):
                nodes[k].backward()
            xs[draw.randrange(10)].data = draw.uniform(-1, 1)
            outcomes = []
            for k in draw.sample(range(10, 50), 3):
                try:
                    nodes[k].backward()
                    outcomes.append("fine")
                except RuntimeError:
                    outcomes.append("stale")
            seen.append((outcomes, [x.grad.hex() for x in xs]))
        assert seen[0] == seen[1]
