"""Threads that use mingrad at once: with graphs of their own they get the bits that one thread gets; what they share stays
whole; what was switched on in one is off in the others.

The tests run on every Python. Where there is a GIL they try out where it may change hands; without one, whether everything that
reaches the core takes its lock. Tests of one feature in threads are in that feature's file.
"""

import ast
import gc
import os
import random
import re
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

import mingrad
from mingrad import Variable, VariableList, _core, nn, optim

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
COUNT = 4
YOUNG = pytest.mark.parametrize("young", [1, 64, None], ids=["young-1", "young-64", "young-default"])


def in_threads(*works):
    """Run these functions at once, each in a thread of its own that switches often; their results in order."""
    results, errors = [None] * len(works), []
    start = threading.Barrier(len(works))

    def run(k, work):
        try:
            start.wait(30)
            results[k] = work()
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        sys.setswitchinterval(interval)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    if errors:
        raise errors[0]
    return results


class stressed:
    """The tape collects at every `young` recorded nodes, and grows by a few at a time."""

    def __init__(self, young):
        self.young = young

    def __enter__(self):
        self.before = _core._stress(*((None, None) if self.young is None else (self.young, 3)))

    def __exit__(self, *exc_info):
        _core._stress(*self.before)


def train(seed, model, steps=4):
    """The training of an nn.MLP(3, [4, 1]): numbers that follow from the seed alone, if the model was made while no other thread
    made leaves. Parameters between which others stand are no run, and the layers' sums are rounded in another order."""
    generator = random.Random(seed)
    for p in model.parameters():
        p.data = generator.uniform(-1, 1)
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        xs = [[generator.uniform(-1, 1) for _ in range(3)] for _ in range(5)]
        loss = sum(((model(x) - x[0] * x[1]) ** 2 for x in xs), Variable(0.0, requires_grad=False)) / 5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.data)
    return losses + [p.data for p in model.parameters()] + [p.grad for p in model.parameters()]


def scalars(seed, n=60):
    """Ops of many kinds on a list from which results fall out again, and their gradients."""
    generator = random.Random(seed)
    leaves = [Variable(generator.uniform(0.5, 1.5)) for _ in range(3)]
    pool = list(leaves)
    for _ in range(n):
        a, b = generator.choice(pool), generator.choice(pool)
        y = [
            lambda a, b: a * b,
            lambda a, b: a + b * 0.5,
            lambda a, b: mingrad.sum([a, b, 1.0]),
            lambda a, b: mingrad.softmax([a, b])[0],
            lambda a, b: a.tanh(),
            lambda a, b: mingrad.dot([a, b], [0.25, a]),
            lambda a, b: (a - b).sigmoid(),
        ][generator.randrange(7)](a, b)
        pool.append(y)
        if len(pool) > 8:
            pool.pop(generator.randrange(8))
    total = mingrad.sum(pool)
    total.backward()
    return [total.data] + [leaf.grad for leaf in leaves]


# --- The build -----------------------------------------------------------------------------------


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has a GIL")
def test_importing_mingrad_leaves_the_gil_off_and_warns_of_nothing():
    text = "import sys, mingrad; print(sys._is_gil_enabled())"
    env = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    found = subprocess.run([sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, env=env, timeout=120)
    assert (found.stdout, found.stderr, found.returncode) == ("False\n", "", 0)


SETUP = Path(__file__).parent.parent / "setup.py"


@pytest.mark.skipif(not SETUP.exists(), reason="no sources here")
def test_a_door_of_the_core_that_setup_py_cannot_lock_ends_the_build_or_with_a_gil_warns(tmp_path, capsys):
    kept = ("OWN", "NO_DOORS", "door", "lock_doors")
    tree = ast.parse(SETUP.read_text(encoding="utf-8"))
    tree.body = [
        x
        for x in tree.body
        if getattr(x, "name", None) in kept or getattr(getattr(x, "targets", [None])[0], "id", None) in kept
    ]
    (tmp_path / "one.pxi").write_text("def f(x):\n    pass\n")
    setup = {"re": re, "sys": sys, "FREE_THREADED": True, "files": lambda *endings: [str(tmp_path / "one.pxi")]}
    exec(compile(tree, "setup.py", "exec"), setup)
    name = "__pyx_pw_7mingrad_5_core_1f"
    table = f"static PyMethodDef m = {{{name}}};\n"
    text = f"static int {name}(PyObject *self, \n#if NEW\nlong x\n#else\nint x\n#endif\n) {{\n  return x;\n}}\n" + table
    found = setup["lock_doors"](text)
    assert f"static int {name}(PyObject *self, long x) {{ DOOR(int, inside{name}(self, x)); }}\n#else\n" in found
    assert f"static int {name}(PyObject *self, int x) {{ DOOR(int, inside{name}(self, x)); }}\n#endif\n" in found
    assert found.endswith(") {\n  return x;\n}\n" + table) and found.count(f"inside{name}(PyObject") == 3
    for changed in (text.replace(table, ""), text.replace(") {", ")\n{"), text.replace("1f", "1g")):
        with pytest.raises(SystemExit, match="no lock at these doors of the core"):
            setup["lock_doors"](changed)
    setup["FREE_THREADED"] = False
    setup["lock_doors"](text.replace(table, ""))
    assert "_core.c: warning: no lock at these doors of the core" in capsys.readouterr().err


# --- Graphs of their own ---------------------------------------------------------------------------


@YOUNG
def test_threads_with_graphs_of_their_own_get_the_bits_of_one_thread(young):
    def works():
        models = [nn.MLP(3, [4, 1]) for _ in range(COUNT)]
        return [lambda k=k: (train(k, models[k]), [scalars(10 * k + i) for i in range(8)]) for k in range(COUNT)]

    expected = [work() for work in works()]
    with stressed(young):
        assert in_threads(*works()) == expected


def test_collections_in_some_threads_leave_recording_in_others_as_it_is():
    stop = threading.Event()

    def collect():
        while not stop.is_set():
            mingrad.collect()
            gc.collect()

    def record():
        try:
            return [scalars(k) for k in range(25)]
        finally:
            stop.set()

    expected = [scalars(k) for k in range(25)]
    with stressed(16):
        assert in_threads(record, record, collect)[:2] == [expected] * 2


def test_the_first_derivatives_of_a_process_may_be_taken_by_threads_at_once():
    text = """
import threading
import mingrad
start, found = threading.Barrier(6), []
def work():
    start.wait()
    found.append(mingrad.grad(mingrad.grad(lambda x: mingrad.exp(x) * x.sin() / (x * x + 1)))(0.5))
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 6 and len(set(found)) == 1, found
"""
    for _ in range(3):
        found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
        assert found.returncode == 0, found.stderr


# --- What threads share ----------------------------------------------------------------------------


@YOUNG
def test_gradients_of_shared_leaves_are_the_sums_of_all_threads_passes(young):
    rounds = 60
    shared = [Variable(float(k + 1)) for k in range(5)]

    def work():
        for i in range(rounds):
            y = mingrad.sum([p * i for p in shared]) + shared[0] * shared[1] * 2
            y.backward()

    with stressed(young):
        in_threads(*[work] * COUNT)
    sums = COUNT * rounds * (rounds - 1) / 2  # whole numbers: exact in any order
    assert [p.grad for p in shared] == [sums + COUNT * rounds * x for x in (4.0, 2.0, 0, 0, 0)]


def test_every_pass_over_one_shared_graph_counts_once():
    x, y = Variable(2.0), Variable(3.0)
    z = (x * y + x) * y
    in_threads(*[lambda: [z.backward() for _ in range(200)]] * COUNT)
    assert (x.grad, y.grad) == (200 * COUNT * 12.0, 200 * COUNT * 14.0)


def test_a_leaf_written_in_one_thread_is_read_whole_in_others():
    x = Variable(0.0)
    values = [1.5 * 2.0**k for k in range(40)]
    stop = threading.Event()

    def write():
        for _ in range(200):
            for value in values:
                x.data = value
        stop.set()

    def read():
        seen = set()
        while not stop.is_set():
            seen.add(x.data)
            seen.add((x * 1.0).data)
        return seen <= {0.0, *values}

    assert in_threads(write, read, read)[1:] == [True, True]


def test_optimizers_of_two_threads_step_over_parameters_of_their_own_in_one_list():
    parameters = [Variable(1.0) for _ in range(8)]

    def work(mine):
        optimizer = optim.SGD(mine, lr=0.125)
        for _ in range(20):
            optimizer.zero_grad()
            mingrad.sum([p * 2 for p in mine]).backward()
            optimizer.step()

    in_threads(lambda: work(parameters[:4]), lambda: work(parameters[4:]))
    assert [p.data for p in parameters] == [1.0 - 20 * 0.25] * 8


# --- Variables that come and go --------------------------------------------------------------------


@YOUNG
def test_a_variable_dropped_in_one_thread_may_be_asked_for_in_another(young):
    x, y = Variable(2.0), Variable(3.0)
    z = (x * y) * (x + y)
    del x, y
    wrong = []

    def ask():
        for _ in range(1500):
            found = z._prev  # nobody else holds them: they are made, given out and dropped by all threads at once
            numbers = [v.data for v in found], [w.data for v in found for w in v._prev]
            if numbers != ([6.0, 5.0], [2.0, 3.0, 2.0, 3.0]):
                wrong.append(numbers)
            if found[0]._prev[0] is not found[1]._prev[0]:
                wrong.append("one node, two Variables")

    def record():
        a = Variable(1.0)
        for _ in range(1500):
            a * a

    with stressed(young):
        in_threads(ask, ask, ask, record)
    assert wrong == []


class Named(Variable):
    """A subclass with what makes a death long: a dict and a __del__."""

    seen = []

    def __del__(self):
        self.seen.append(self.data)


def test_a_variable_of_a_subclass_may_die_while_another_thread_asks_for_its_node():
    Named.seen.clear()
    cell = []
    stop = threading.Event()

    def drop():
        try:
            for k in range(400):
                leaf = Named(1.0)
                leaf.note = [k]
                cell[:] = [leaf * 2]
                del leaf
        finally:
            stop.set()

    def ask():
        numbers = set()
        while not stop.is_set():
            for result in cell.copy():
                numbers.update(v.data for v in result._prev)
        return numbers <= {1.0, 2.0}

    assert in_threads(drop, ask, ask)[1:] == [True, True]
    assert len(Named.seen) >= 399 and {x for x in Named.seen if x == x} <= {1.0}
    assert all(x == x for x in Named.seen) or FREE_THREADED  # nan: another thread has its node


def test_variables_die_in_other_threads_than_they_were_born_in():
    cells = [[] for _ in range(3)]
    stop = threading.Event()

    def make():
        try:
            for k in range(6000):
                v = Variable(float(k))
                cells[k % 3].append((v, v * 2, v.sigmoid()))
                cells[k % 3].append(v)
        finally:
            stop.set()

    def drop(cell):
        wrong = 0
        while not stop.is_set() or cell:
            if cell:
                item = cell.pop()
                if isinstance(item, tuple):
                    wrong += item[1].data != 2 * item[0].data
                    item[1].backward()
        return wrong

    before = mingrad.tape_info().handles
    with stressed(100):
        assert in_threads(make, *[lambda cell=cell: drop(cell) for cell in cells])[1:] == [0] * 3
    gc.collect()
    mingrad.collect()
    assert mingrad.tape_info().handles <= before


def test_a_variable_list_may_be_written_while_other_threads_walk_it():
    shared = VariableList([float(k) for k in range(50)])
    rows = {True: [float(k) for k in range(50)], False: [-float(k) for k in range(50)]}
    stop = threading.Event()

    def write():
        try:
            for k in range(400):
                shared.data = rows[k % 2 == 1]
        finally:
            stop.set()

    def read():
        while not stop.is_set():
            if shared.data not in rows.values() or abs(mingrad.sum(shared).data) != 1225.0:
                return "half of one, half of the other"
            if {abs(v.data) for v in shared} != set(rows[True]):
                return "other Variables"

    with stressed(256):
        assert in_threads(write, read, read)[1:] == [None, None]


def test_a_model_may_be_called_while_another_thread_edits_its_lists():
    model, one, two = nn.MLP(2, [3, 1]), nn.Layer(2, 3), nn.Layer(2, 3)
    model.layers[0] = one
    expected = [model([0.5, -1.0]).data]
    model.layers[0] = two
    expected.append(model([0.5, -1.0]).data)
    stop = threading.Event()

    def edit():
        try:
            for k in range(500):
                model.layers[0] = (one, two)[k % 2]
        finally:
            stop.set()

    def call():
        while not stop.is_set():
            if model([0.5, -1.0]).data not in expected:
                return "neither the one nor the other"

    assert in_threads(edit, call, call)[1:] == [None, None]


def test_a_list_of_numbers_may_change_its_length_while_it_is_an_argument():
    model = nn.Linear(3, 2)
    compiled = mingrad.compile(lambda xs: sum(x * x for x in xs))
    xs = [1.0, 2.0, 3.0]
    stop = threading.Event()

    def edit():
        try:
            for k in range(3000):
                xs.append(float(k))
                xs.pop()
                del xs[1:]
                xs.extend([2.0, 3.0])
        finally:
            stop.set()

    def call():
        while not stop.is_set():
            for f in (model, compiled, mingrad.grad(compiled), mingrad.sum, lambda xs: nn.mse_loss(xs, xs)):
                try:
                    f(xs)
                except (ValueError, TypeError, IndexError):
                    pass  # of three lengths, one does

    in_threads(edit, call, call)


def test_labels_written_by_threads_are_those_of_one_of_them():
    shared = [Variable(float(k)) for k in range(20)]

    def write(name):
        for _ in range(150):
            for v in shared:
                v.label = name
                if v.label not in ("one", "two", "three"):
                    return v.label

    with stressed(8):
        assert in_threads(*[lambda name=name: write(name) for name in ("one", "two", "three")]) == [None] * 3


# --- Modes -----------------------------------------------------------------------------------------


def test_no_grad_errstate_and_detect_anomaly_hold_in_their_thread_alone():
    x = Variable(2.0)

    def quiet():
        for _ in range(150):
            with mingrad.no_grad():
                assert not (x * 2).requires_grad
            assert (x * 2).requires_grad

    def lenient():
        for _ in range(150):
            with mingrad.errstate(all="ignore"):
                assert (Variable(1.0) / 0.0).data == float("inf")
            with pytest.raises(ZeroDivisionError):
                Variable(1.0) / 0.0

    def watched():
        for _ in range(40):
            with mingrad.detect_anomaly(), pytest.raises(FloatingPointError, match="detect_anomaly"):
                Variable(float("inf")) - Variable(float("inf"))
            assert (Variable(float("inf")) - Variable(float("inf"))).data != 0

    def plain():
        for _ in range(150):
            y = x * 3
            assert y.requires_grad
            assert (y * 2).data == 12.0

    with stressed(64):
        in_threads(quiet, lenient, watched, plain)
    assert mingrad.is_grad_enabled()


def test_a_thread_that_raises_in_the_midst_leaves_the_others_alone():
    class Odd:
        def __float__(self):
            raise RuntimeError("odd")

    x = Variable(2.0)

    def raising():
        for _ in range(200):
            for wrong in (lambda: mingrad.log(Variable(-1.0)), lambda: mingrad.sum([x, object()]), lambda: Variable(Odd())):
                with pytest.raises((ValueError, TypeError, RuntimeError)):
                    wrong()

    expected = [scalars(k) for k in range(10)]
    with stressed(32):
        assert in_threads(raising, lambda: [scalars(k) for k in range(10)], raising)[1] == expected


def test_hooks_are_called_in_the_thread_of_the_pass_and_may_wait_for_others():
    turns = threading.Barrier(2)

    def work():
        here, found = threading.get_ident(), []
        x = Variable(3.0)
        y = x * 2

        def hook(adjoint):
            turns.wait(30)  # both threads are inside a walk now
            found.append(threading.get_ident())
            (Variable(1.0) * adjoint).backward()
            return adjoint * 2

        handle = y.register_hook(hook)
        for _ in range(10):
            (y * y).backward()
        handle.remove()
        return found == [here] * 10, x.grad

    with stressed(4):
        assert in_threads(work, work) == [(True, 10 * 12.0 * 4)] * 2


def test_a_hook_may_hold_a_lock_for_which_another_thread_waits():
    lock = threading.Lock()
    x = Variable(1.0)
    y = x * 2

    def hook(adjoint):
        with lock:
            time.sleep(0)
            return adjoint

    y.register_hook(hook)

    def passes():
        for _ in range(100):
            (y * 1.0).backward()

    def holds():
        for _ in range(100):
            with lock:
                Variable(1.0) * 2.0

    in_threads(passes, holds, holds)
    assert x.grad == 200.0


# --- Programs ----------------------------------------------------------------------------------------


def test_a_compiled_function_may_be_called_by_threads_while_it_is_recorded_anew():
    parameter = Variable(1.5)

    def f(x, n):
        y = x * parameter
        for _ in range(n):
            y = y.tanh() + x if y > 0.5 else y * 1.25
        return y

    compiled = mingrad.compile(f, max_programs=6)
    points = [(random.Random(k).uniform(-1, 1), k % 5) for k in range(60)]
    expected = [f(*point).data for point in points]

    def work(seed):
        order = list(range(len(points)))
        random.Random(seed).shuffle(order)
        found = [None] * len(points)
        for k in order:
            found[k] = compiled(*points[k]).data
        return found

    def look():
        for _ in range(20):
            assert all(len(program) > 0 for program in compiled.programs)
            compiled.clear()

    with stressed(256):
        found = in_threads(*[lambda k=k: work(k) for k in range(3)], look)
    assert found[:3] == [expected] * 3


def test_large_recorded_runs_in_threads_have_the_bits_of_one_thread():
    @mingrad.compile
    def f(xs):
        total = 0.0
        for k, x in enumerate(xs):
            total = total + (x * k).tanh() * x
        return total

    rows = [[random.Random(k + 100 * i).uniform(-1, 1) for i in range(400)] for k in range(8)]
    expected = [(f(row), mingrad.grad(f)(row)) for row in rows]
    assert len(f.programs) == 1

    def work():
        return [(f(row), mingrad.grad(f)(row)) for row in rows]

    assert in_threads(*[work] * COUNT) == [expected] * COUNT


def test_maps_of_several_threads_in_several_threads_have_the_bits_of_one():
    w = Variable(0.5)
    f = mingrad.vmap(lambda x: (x * w).exp() / (x * x + 1), threads=2, grad="sum")
    xs = [k / 7000 for k in range(40_000)]
    expected = list(f(xs))
    once, w.grad = w.grad, 0.0

    def record():
        for k in range(40):
            scalars(k)

    found = in_threads(lambda: list(f(xs)), record, lambda: list(f(xs)))
    assert found[0] == expected and found[2] == expected
    assert w.grad == 2 * once


def test_gradients_are_taken_by_threads_at_once():
    def f(x, y):
        return (x * y).tanh() + x.sin() * y

    expected = mingrad.grad(mingrad.grad(f))(0.5, 1.5), mingrad.hessian(lambda xs: f(*xs))([0.5, 1.5])

    def work():
        for _ in range(15):
            if (mingrad.grad(mingrad.grad(f))(0.5, 1.5), mingrad.hessian(lambda xs: f(*xs))([0.5, 1.5])) != expected:
                return "other numbers"

    with stressed(128):
        assert in_threads(*[work] * 3) == [None] * 3


def test_custom_functions_are_called_by_threads_at_once():
    @mingrad.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda kept, adjoint: (2 * kept * adjoint,))

    def work(number):
        x = Variable(number)
        for _ in range(60):
            square(x).backward()
        return x.grad

    with stressed(16):
        assert in_threads(*[lambda k=k: work(float(k)) for k in range(4)]) == [120.0 * k for k in range(4)]
