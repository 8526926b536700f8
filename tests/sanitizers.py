"""Looks for errors that a right answer does not show: bad memory, undefined behaviour, broken invariants, leaks, no memory.

Not a test file: each command makes a build of its own of the checkout that it stands in, in build/sanitizers, and uses it.

    python tests/sanitizers.py address       # the tests under AddressSanitizer and UndefinedBehaviorSanitizer
    python tests/sanitizers.py debug         # the tests with a debug build: collections all the time, invariants checked
    python tests/sanitizers.py leaks         # each test again and again: references, blocks, bytes, Variables stay as many
    python tests/sanitizers.py valgrind      # the programs below under memcheck, leaks included
    python tests/sanitizers.py allocations   # the programs below with the n-th allocation failing, for each n
    python tests/sanitizers.py nomemory      # the same with Python's own allocations

nomemory is for people: where it ends by a signal, look whose fault it is. Code of Cython 3.3.0 and 3.3.1 frees an element twice
when a list comprehension gets no memory; Cython 3.2 is right.

address, debug and leaks take files of tests and --share K/N, as pytest does here; the others take names of programs. It needs
Linux, gcc, the packages of ".[test]", Cython and setuptools, and valgrind. leaks sees most with a debug build of Python
(python3-dbg) that has no NumPy: it counts references; any Python will do. The last line counts what was looked at and what was
found; the exit status is 0 only if nothing was. csrc is not to be edited while a build is being made.
"""

import argparse
import ctypes
import gc
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Words of MINGRAD_BUILD (setup.py) for each command.
BUILDS = {
    "address": "address undefined",
    "debug": "debug",
    "leaks": "symbols",
    "valgrind": "symbols",
    "allocations": "symbols",
    "nomemory": "symbols",
}

LONGEST_FILE = 3600  # seconds after which a file of tests is stopped, which is a finding
LONGEST_TEST = (
    60  # after which a test is skipped, and named: millions of nodes, or an allocation failing at each of thousands of places
)
LONGEST_REPEATED = 3.0  # what one test may take to be repeated by `leaks`

# What one call may leave: Python's cache of attributes keeps names that were made for getattr(), other packages have caches too.
# One forgotten object is seen where references are counted; one Variable or one node, everywhere.
ALLOWED = {"blocks": 64, "references": 4, "bytes of C": 2048}

# What a build is bound to fail, with the reason: parts of names, as pytest's -k takes them.
MEMORY = "memory_is_given_back or memory_flat or is_a_byte_a_row or need_no_more_memory"
LEFT_OUT = {
    "address": [MEMORY],  # AddressSanitizer keeps what was freed for a while
    "debug": ["tape_info_counts or every_collection_expensive"],  # how often the tape collects
    # a function that holds the graph in which it is a hook or a rule, or what it was given in a recorded pass: the tape is
    # between the two, where Python's collector cannot look
    "leaks": ["hook_may_run_the_same_graph_again or recorded_hooks_on_a_random_graph or some_of_several_results_may_have_died"],
}


# -- representative programs -------------------------------------------------------------------------------------------------
# Each makes what it needs, and gives a nest of numbers that is the same every time.


def arithmetic():
    x, y = mingrad.Variable(1.5), mingrad.Variable(-0.5)
    z = (x * y + 2.0) ** 2 / (1.0 + x * x) - mingrad.tanh(y) + max(x, y) + abs(y) // 1.0
    z.label = "z"
    z.backward()
    (x.exp() + y).backward()
    return z.data, x.grad, y.grad


def sequences():
    xs = mingrad.tensor([0.5, -1.0, 2.0, 0.25], requires_grad=True)
    ys = [mingrad.Variable(0.1 * k) for k in range(5)]
    shuffled = [ys[3], xs[1], ys[0], xs[0]]  # no run: operands are listed
    z = mingrad.dot(xs, shuffled) + mingrad.logsumexp(shuffled) + mingrad.prod(list(xs)) + mingrad.norm(ys)
    z = z + mingrad.softmax(shuffled)[1] + (xs * 2.0 - shuffled)[1:3].sum() + mingrad.mean(xs.clamp(min=-0.5))
    z.backward()
    with mingrad.no_grad():
        xs.clamp_(min=0.0, max=1.0)
        xs.copy_([1.0, 2.0, 3.0, 4.0])
    return z.data, xs.grad, [y.grad for y in ys], xs.data


def rosenbrock(xs):
    return sum((100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in itertools.pairwise(xs)), 0.0)


def derivatives():
    x = [0.5, -1.0, 2.0]
    nested = mingrad.grad(mingrad.grad(lambda a: mingrad.sin(a) * a**3))(0.7)
    a = mingrad.Variable(3.0)
    (a**3).backward(create_graph=True)
    (a.grad * a).backward()
    return (
        mingrad.value_and_grad(rosenbrock)(x),
        mingrad.hessian(rosenbrock)(x),
        mingrad.hvp(rosenbrock, (x,), ([1.0, 0.0, -1.0],)),
        mingrad.jacfwd(lambda v: [v[0] * v[1], mingrad.exp(v[2])])(x),
        mingrad.jacrev(lambda v: [v[0] * v[1], mingrad.exp(v[2])])(x),
        nested,
        float(a.grad),
    )


def hooks_and_rules():
    @mingrad.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, g: (3.0 * x * x * g,))
    seen = []
    a = mingrad.Variable(2.0)
    b = a * 3.0
    b.register_hook(lambda g: seen.append(float(g)) or g * 0.5)
    with mingrad.detect_anomaly():
        (cube(b) + b).backward()
    return seen, a.grad


def branching(x, y):
    return x * y + mingrad.exp(x) if x < y else mingrad.sin(y) - x


def compiled():
    f = mingrad.compile(branching)
    found = [f(1.0, 2.0), f(0.5, 3.0), f(3.0, 2.0), f(4.0, 1.0)]  # recorded, run; the other branch the same
    a = mingrad.Variable(0.25)
    y = f(a, 1.0) + a
    y.backward()
    return found, y.data, a.grad, mingrad.grad(f)(1.0, 2.0), mingrad.hessian(f)(1.0, 2.0)


def layered_loops():
    """Plain loops compiled: sums become chains, values side by side become steps."""
    ws = [[mingrad.Variable(0.1 * (i - j)) for j in range(4)] for i in range(5)]

    @mingrad.compile
    def net(xs):
        return sum(mingrad.tanh(sum(w * x for w, x in zip(row, xs))) for row in ws)

    for step in range(3):
        net([mingrad.Variable(0.5 * k + step) for k in range(4)]).backward()
    return [w.grad for row in ws for w in row]


def rows():
    found = mingrad.vmap(branching, in_axes=(0, None))([0.1 * k for k in range(40)], 2.0).tolist()
    w = mingrad.Variable(0.5)
    run = mingrad.rows.scan(lambda state, x: (w * state + x, state), grad="sum")
    last, before = run(1.0, [0.1 * k for k in range(10)], lengths=[7, 3])
    return found, last.tolist(), before.tolist(), w.grad


def exported():
    w = mingrad.Variable(2.0)
    f = mingrad.compile(lambda x: w * mingrad.exp(x) + x)
    f(1.0)
    program = f.programs[0]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.program")
        program.save(path)
        loaded = mingrad.Program.load(path)
    made = {}
    exec(program.to_python("f"), made)
    return loaded(2.0).data, len(program.to_c("f")), program.summary(), sorted(made)[-1]


def replayed():
    a, b = mingrad.Variable(1.0), mingrad.Variable(2.0)
    graph = mingrad.record(mingrad.exp(a) * b + b * b)
    found = []
    for k in range(3):
        a.data, b.data = 0.5 * k, 1.0 - k
        graph.forward()
        graph.backward()
        found.append((a.grad, b.grad))
    return found


def model():
    random.seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2), nn.ReLU())


DATA = [[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]]


def layers():
    random.seed(2)
    net, mlp = model(), nn.MLP(3, [4, 4, 1], activation="tanh")
    loss = nn.mse_loss(net(DATA), [[0.5, 1.0], [0.0, 2.0]]) + sum(mlp(DATA), 0.0)
    loss.backward()
    scores = nn.cross_entropy(net(DATA), [0, 1])
    with mingrad.no_grad():
        still = nn.binary_cross_entropy_with_logits(mlp(DATA), [1.0, 0.0]).data
    return loss.data, scores.data, still, [p.grad for p in [*net.parameters(), *mlp.parameters()]]


def optimisers():
    found = []
    kinds = {
        "SGD": {"momentum": 0.9},
        "Adam": {},
        "AdamW": {"weight_decay": 0.1},
        "RMSprop": {"momentum": 0.5},
        "LBFGS": {"max_iter": 3},
    }
    for name, settings in kinds.items():
        net = model()
        optimizer = getattr(optim, name)(net.parameters(), lr=0.01, **settings)

        def closure():
            optimizer.zero_grad()
            loss = nn.mse_loss(net(DATA), [[0.5, 1.0], [0.0, 2.0]])
            loss.backward()
            return loss

        for _ in range(2):
            if name == "LBFGS":
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        found.append([p.data for p in net.parameters()])
    return found


def files():
    net, other = model(), model()
    for p in other.parameters():
        p.data = 0.0
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for ending in ("npz", "safetensors"):
            path = os.path.join(folder, f"net.{ending}")
            mingrad.save(path, net)
            mingrad.load(path, other)
            found.append([p.data for p in other.parameters()])
    return found


def training():
    net = nn.Sequential(nn.Linear(1, 4, bias=True), nn.Tanh(), nn.Linear(4, 1))
    for k, p in enumerate(net.parameters()):
        p.data = 0.1 * (k % 5) - 0.2
    xs = [[0.1 * k] for k in range(12)]
    history = mingrad.fit(
        net,
        (xs, [[math.sin(x)] for [x] in xs]),
        loss=nn.mse_loss,
        optimizer=optim.Adam(net.parameters(), lr=0.02),
        epochs=2,
        batch_size=5,
        shuffle=0,
    )
    return history["loss"]


PROGRAMS = {
    f.__name__: f
    for f in (
        arithmetic,
        sequences,
        derivatives,
        hooks_and_rules,
        compiled,
        layered_loops,
        rows,
        exported,
        replayed,
        layers,
        optimisers,
        files,
        training,
    )
}


# -- in the process that uses a build: what is looked at ---------------------------------------------------------------------


class Limit:
    """pytest plugin: a test that takes very long is skipped."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        def stop(*_):
            pytest.skip(f"GIVEN UP after {LONGEST_TEST} s: {item.nodeid}")

        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(LONGEST_TEST)
        try:
            return (yield)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


class Invariants:
    """pytest plugin: the tape is in order after every test."""

    def pytest_runtest_teardown(self):
        assert _core._check(), "this is no debug build"


class Counters:
    """What must not grow."""

    def __init__(self):
        try:
            self.mallinfo = ctypes.CDLL(None).mallinfo2
            self.mallinfo.restype = MallInfo
        except AttributeError:  # not glibc 2.33 or newer
            self.mallinfo = None

    def read(self):
        gc.collect()
        mingrad.collect()
        _core._fail_allocation(1 << 30)  # empties the free list, which otherwise fills up slowly
        _core._fail_allocation(-1)
        info = mingrad.tape_info()
        found = {"Variables": info.handles, "nodes": info.nodes, "blocks": sys.getallocatedblocks()}
        if hasattr(sys, "gettotalrefcount") and "numpy" not in sys.modules:  # which keeps references for later
            found["references"] = sys.gettotalrefcount()
        if self.mallinfo:
            heap = self.mallinfo()
            found["bytes of C"] = heap.uordblks + heap.hblkhd - info.bytes
        return found


class MallInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def grows(run, warm=2, least=1, most=10, ignored=()):
    """Call run() until each counter has stayed the same or fallen once: {counter: by how much at least in each call} of those that
    never did. A cache fills up; a leak goes on."""
    counters = Counters()
    for _ in range(warm):
        run()
    last, steps = counters.read(), {}
    for k in range(most):
        run()
        now = counters.read()
        for name, count in now.items():  # one number each: a list of them would grow itself
            if name not in ignored:
                steps[name] = min(steps.get(name, sys.maxsize), count - last[name])
        last = now
        if k + 1 >= least and all(step <= ALLOWED.get(name, 0) for name, step in steps.items()):
            return {}
    return {name: step for name, step in steps.items() if step > ALLOWED.get(name, 0)}


class Leaks:
    """pytest plugin: each test's function is called again until nothing has grown in one call, at most ten times. Its fixtures
    are set up once: pytest keeps something of each time."""

    def __init__(self):
        self.repeated = self.slow = self.single = 0
        self.found = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem):
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        begun = time.monotonic()
        pyfuncitem.obj(**arguments)
        if time.monotonic() - begun > LONGEST_REPEATED:
            self.slow += 1
            return True
        try:
            # monkeypatch keeps what it is to undo at the end, of each call
            ignored = ("blocks", "references") if "monkeypatch" in pyfuncitem.fixturenames else ()
            if "tracemalloc" in pyfuncitem.obj.__code__.co_names:  # Python's own, which leaves something each time
                ignored += ("bytes of C",)
            left = grows(lambda: pyfuncitem.obj(**arguments), ignored=ignored)
        except (
            Exception,
            pytest.fail.Exception,
            pytest.skip.Exception,
        ):  # it has passed once, as in the file that it has written
            _core._fail_allocation(-1)
            self.single += 1
            return True
        self.repeated += 1
        if left:
            self.found.append(f"{pyfuncitem.nodeid} grows: {left}")
        return True

    def pytest_terminal_summary(self, terminalreporter):
        for line in self.found:
            terminalreporter.write_line(f"FINDING {line}")
        terminalreporter.write_line(
            f"{self.repeated} tests repeated; not {self.slow} slow ones, {self.single} that pass only once"
        )


def child_tests(command, arguments):
    plugins = {"debug": [Limit(), Invariants()], "leaks": [Leaks()], "address": [Limit()]}
    return pytest.main(arguments, plugins[command])


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def child_programs_leak(names):
    """The programs, again and again: counters and resident memory stay flat."""
    status = 0
    for name in names:
        if left := grows(PROGRAMS[name], warm=3, least=5):
            print(f"FINDING {name} grows: {left}")
            status = 1
        added = []
        while not added or (added[-1] > 64 << 10 and len(added) < 5):  # allocators have pages that they come to late
            before = resident()
            for _ in range(40):
                PROGRAMS[name]()
                gc.collect()
                mingrad.collect()
            added.append(resident() - before)
        if added[-1] > 64 << 10:
            print(f"FINDING {name}: each 40 runs added so many bytes of resident memory: {added}")
            status = 1
    return status


def child_programs(names):
    for name in names:
        for _ in range(2):
            PROGRAMS[name]()
    return 0


def child_allocations(names):
    """Let the core's n-th allocation fail, for each n: MemoryError or the right result, and nothing is left behind."""
    status = 0
    _core._stress(8, 16)  # or one allocation would last for thousands of nodes
    for name in names:
        program = PROGRAMS[name]
        expected = repr(program())
        assert repr(program()) == expected, f"{name} is not the same every time"
        errors = 0
        for n in range(1_000_000):
            gc.collect()
            mingrad.collect()
            info = mingrad.tape_info()
            ballast = [mingrad.Variable(0.0) for _ in range(info.capacity - info.nodes)]  # no room is left
            before = mingrad.tape_info()
            _core._fail_allocation(n)
            problem = ""
            try:
                if repr(program()) != expected:
                    problem = "another result"
            except MemoryError:
                errors += 1
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
            triggered = _core._fail_allocation(-1)
            gc.collect()
            mingrad.collect()
            after = mingrad.tape_info()
            if not problem and (before.nodes, before.handles) != (after.nodes, after.handles):
                problem = f"{before.nodes} nodes and {before.handles} Variables before, {after.nodes} and {after.handles} after"
            _core._check()
            del ballast
            if not problem and repr(program()) != expected:
                problem = "another result in the next run"
            if problem:
                print(f"FINDING {name}, allocation {n}: {problem}")
                status = 1
            if not triggered:
                break
        print(f"{name}: {n} allocations, {errors} MemoryErrors", flush=True)
    return status


POINTS = 300  # of Python's allocations in one program that are let fail: every one is looked at in small programs only


def without_memory(program, *which):
    """program(), while Python's allocations from the first to before the second number fail (one number: all from there on). The
    result, or the error."""
    import _testcapi

    gc.collect()
    try:
        _testcapi.set_nomemory(*which)
        return program()
    except BaseException as error:
        return error
    finally:
        _testcapi.remove_mem_hooks()


def is_of_memory(error):
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def child_nomemory(names):
    """Let Python's own allocations fail too, one in each run: no crash, no other error, no other result."""
    status = 0
    for name in names:
        program = PROGRAMS[name]
        expected = repr(program())
        low, high = 0, 1
        while isinstance(without_memory(program, high), BaseException):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if isinstance(without_memory(program, middle), BaseException):
                low = middle
            else:
                high = middle
        points, errors = range(0, high + 1, high // POINTS + 1), 0
        for n in points:
            found = without_memory(program, n, n + 1)
            errors += isinstance(found, BaseException)
            problem = ""
            if isinstance(found, BaseException):
                if not is_of_memory(found):
                    problem = f"{type(found).__name__}: {found}"
            elif repr(found) != expected:
                problem = "another result"
            found = None
            _core._check()
            if not problem and repr(program()) != expected:
                problem = "another result in the next run"
            if problem:
                print(f"FINDING {name}, Python's allocation {n}: {problem}")
                status = 1
        print(f"{name}: {len(points)} of Python's {high} allocations, {errors} errors", flush=True)
    return status


CHILDREN = {
    "programs": child_programs,
    "programs-leak": child_programs_leak,
    "allocations": child_allocations,
    "nomemory": child_nomemory,
}


# -- in the process that a person starts: builds, processes, counts ------------------------------------------------------------


def build(command):
    """The folder of a build of this checkout for a command."""
    base = ROOT / "build" / "sanitizers" / BUILDS[command].replace(" ", "-")
    finished = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", str(base), "--build-lib", str(base / "lib")],
        cwd=ROOT,
        env={**os.environ, "MINGRAD_BUILD": BUILDS[command]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if finished.returncode:
        raise SystemExit(f"{finished.stdout}\n{command}: the build failed")
    return base / "lib"


def environment(command, library):
    found = {**os.environ, "PYTHONPATH": str(library)}
    if command in ("address", "valgrind"):
        found["PYTHONMALLOC"] = "malloc"  # or objects would be parts of pools, which a tool cannot look into
    if command == "address":
        # libstdc++ too: a package of C++ that throws asks for it before it has been loaded
        libraries = [
            subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
            for name in ("libasan.so", "libstdc++.so.6")
        ]
        found["LD_PRELOAD"] = " ".join(map(os.path.realpath, libraries))
        found["ASAN_OPTIONS"] = "detect_leaks=0:allocator_may_return_null=1"  # what Python keeps until its end is no leak
        found["UBSAN_OPTIONS"] = "print_stacktrace=1"
    return found


REPORT = re.compile(r"^(?:.*: runtime error: .*|==\d+==ERROR: .*|Fatal Python error: .*|FINDING .*)$", re.MULTILINE)


def run_tests(command, arguments):
    """Each file of tests in a process of its own, so that a crash costs one file."""
    library = build(command)
    files = [Path(a).resolve() for a in arguments if a.endswith(".py")] or sorted((ROOT / "tests").glob("test_*.py"))
    options = [
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-o",
        "faulthandler_timeout=0",
        f"--rootdir={ROOT}",
        f"-c{ROOT}/pyproject.toml",
    ]
    options += ["--capture=sys", *(a for a in arguments if not a.endswith(".py"))]  # what a tool writes goes to the log at once
    for names in LEFT_OUT[command]:
        options += ["-k", f"not ({names})"]
    passed, failed, given_up, found = 0, 0, 0, []
    for file in files:
        begun = time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            child = [sys.executable, __file__, "--child", command, *options, str(file)]
            try:
                status = subprocess.run(
                    child, cwd=library, env=environment(command, library), stdout=log, stderr=log, timeout=LONGEST_FILE
                ).returncode
            except subprocess.TimeoutExpired:
                status = "stopped"
            log.seek(0)
            text = log.read()
        reports = sorted(set(REPORT.findall(text)))
        lines = text.strip().splitlines()
        summary = next(
            (
                line
                for line in reversed(lines)
                if " in " in line and ("passed" in line or "deselected" in line or "failed" in line)
            ),
            "no summary",
        )
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", summary)}
        wrong = counts.get("failed", 0) + counts.get("error", 0)
        passed += counts.get("passed", 0)
        failed += wrong
        if status not in (0, 5) or reports or wrong:  # 5: no test of this file is in the share
            found.append(file.name)
            print(text[-20_000:])
        print(
            f"{file.name}: {summary.strip('= ')}, {len(reports)} reports, status {status}, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        late = re.findall(r"GIVEN UP after .*", text)
        given_up += len(late)
        for line in [*reports, *late]:
            print(f"    {line}")
    text = f"{len(files)} files, {passed} tests passed, {failed} failed, {given_up} given up, {len(found)} files with findings"
    return text, not found and passed > 0


def run_child(command, what, names, before=()):
    library = build(command)
    return subprocess.run(
        [*before, sys.executable, __file__, "--child", what, *names], env=environment(command, library)
    ).returncode


def run_address(arguments):
    return run_tests("address", arguments)


def run_debug(arguments):
    return run_tests("debug", arguments)


def run_leaks(arguments):
    text, fine = run_tests("leaks", arguments)
    status = run_child("leaks", "programs-leak", PROGRAMS)
    return f"{text}; {len(PROGRAMS)} programs repeated", fine and status == 0


def run_allocations(arguments):
    names = arguments or list(PROGRAMS)
    found = [name for name in names if run_child("allocations", "allocations", [name])]
    return f"{len(names)} programs, {len(found)} with findings {found}", not found


def run_nomemory(arguments):
    names = arguments or list(PROGRAMS)
    found = [name for name in names if run_child("nomemory", "nomemory", [name])]
    return f"{len(names)} programs, {len(found)} with findings {found}", not found


def run_valgrind(arguments):
    """Errors with our module among the callers count: Python's own are not ours to mend."""
    names = arguments or list(PROGRAMS)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "report.xml")
        options = [
            "--xml=yes",
            f"--xml-file={path}",
            "--num-callers=40",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite",
        ]
        status = run_child("valgrind", "programs", names, ["valgrind", "--show-leak-kinds=definite", *options])
        errors = xml.etree.ElementTree.parse(path).getroot().findall("error")
    ours = 0
    for error in errors:
        stack = error.find("stack").findall("frame")
        if any("_core." in frame.findtext("obj", "") for frame in stack):
            ours += 1
            print(error.findtext("kind"), error.findtext("what") or error.findtext("xwhat/text"))
            for frame in stack[:12]:
                print(
                    f"    {frame.findtext('fn')} {frame.findtext('file', '')}:{frame.findtext('line', '')} {frame.findtext('obj')}"
                )
    return f"{len(names)} programs, {ours} errors of the core, {len(errors) - ours} elsewhere", status == 0 and not ours


COMMANDS = {
    "address": run_address,
    "debug": run_debug,
    "leaks": run_leaks,
    "valgrind": run_valgrind,
    "allocations": run_allocations,
    "nomemory": run_nomemory,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    options, arguments = parser.parse_known_args()
    begun = time.monotonic()
    text, fine = COMMANDS[options.command](arguments)
    print(f"{options.command}: {text}; {'nothing found' if fine else 'FOUND SOMETHING'}, {time.monotonic() - begun:.0f} s")
    return 0 if fine else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        import mingrad
        import mingrad.rows
        from mingrad import _core, nn, optim

        _, _, what, *rest = sys.argv
        sys.exit(CHILDREN[what](rest) if what in CHILDREN else child_tests(what, rest))
    sys.exit(main())
