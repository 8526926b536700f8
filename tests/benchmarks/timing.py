"""Times the forms of a workload side by side, each in a process of its own, and keeps the rows.

Not a profiler, and it knows no workload. A workload's module (ops.py, moons.py, ...) has FORMS,
the ways to do the work, and measure(bench), which asks for times and writes rows and targets.
Read worker.py next: the other end of the pipe.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = (
    "mingrad",
    "micrograd",
    "xad",
    "torch",
    "jax",
    "jaxlib",
    "casadi",
    "autograd",
    "fsrs",
    "numpy",
    "scipy",
    "scikit-learn",
)


PEAK = "peak memory"  # a case that each worker has by itself


class Form(NamedTuple):
    """One way to do a workload."""

    prepare: Callable  # () -> {case name: Case}; runs in the worker; ImportError, Missing: skipped
    gc: bool = True  # whether Python's cyclic collector is on while it is timed


class Case(NamedTuple):
    """One thing a form can be asked to do."""

    run: Callable  # run(n) does it n times; timed as a whole
    setup: Callable | None = None  # called before each run, not timed


class Missing(Exception):
    """Something that a form needs is not on this machine; the text says what."""


class Worker:
    """A process that has prepared one form and does what it is asked."""

    def __init__(self, module, form, gc):
        self.form, self.gc = form, gc
        env = dict(os.environ, PYTHONHASHSEED="0", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "worker.py"), module, form],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.missing = self._answer().get("missing")

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of form {self.form!r} ended; its message is above")
        return json.loads(line)

    def ask(self, case, n=1):
        """Do case n times. Returns {"wall": s, "cpu": s, "value": what the last run returned}."""
        self.process.stdin.write(json.dumps([case, n]) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Timing(NamedTuple):
    """Seconds for doing a case once. Ratios are taken of cpu: other processes disturb it less."""

    cpu: float  # median over the samples; all threads of the process together
    wall: float  # median
    spread: float  # (third quartile - first) / median of cpu
    n: int  # times per sample
    rounds: tuple  # cpu of each sample, in order


class Bench:
    """One run: how long to measure, and what came out."""

    def __init__(self, quick=False):
        self.quick = quick
        self.samples = 3 if quick else 15
        self.budget = 0.02 if quick else 0.1  # seconds per sample, more if once takes longer
        self.workload = None
        self.rows, self.targets, self.notes = [], [], []
        self.failures = 0

    @contextlib.contextmanager
    def workers(self, module, forms):
        """The forms of a module, each in its process: {name: Worker}. Missing ones are noted."""
        started = {}
        try:
            for name, form in forms.items():
                worker = Worker(module, name, form.gc)
                if worker.missing:
                    self.note(f"skipped {name}: {worker.missing}")
                    worker.close()
                else:
                    started[name] = worker
            yield started
        finally:
            for worker in started.values():
                worker.close()

    def times(self, workers, case, slow=math.inf):
        """Time a case in all workers that know it, in turn (A B C A B C ...): {form: Timing}.
        slow: seconds; a form that needs longer for once takes part in the first 3 rounds only."""
        counts, rounds = {}, {}
        for name, worker in workers.items():
            counts[name], once = self._calibrate(worker, case)
            rounds[name] = self.samples if once < slow else 3
        walls = {name: [] for name in workers}
        cpus = {name: [] for name in workers}
        for k in range(self.samples):
            for name, worker in workers.items():
                if k >= rounds[name]:
                    continue
                answer = worker.ask(case, counts[name])
                walls[name].append(answer["wall"] / counts[name])
                cpus[name].append(answer["cpu"] / counts[name])
        found = {}
        for name in workers:
            low, cpu, high = statistics.quantiles(cpus[name], n=4)
            found[name] = Timing(cpu, statistics.median(walls[name]), (high - low) / cpu, counts[name], tuple(cpus[name]))
        return found

    def _calibrate(self, worker, case):
        """How often a case fits into a sample, and the seconds that once takes."""
        n = 1
        worker.ask(case, n)  # the first time warms up
        while True:
            cpu = max(worker.ask(case, n)["cpu"], 1e-9)
            if cpu >= self.budget / 3:
                return max(1, round(n * self.budget / cpu)), cpu / n
            n = max(n + 1, min(10 * n, round(n * self.budget / cpu)))

    def time_rows(self, workers, case, baseline="mingrad", per=1, found=None):
        """Time a case and write a row per form, its ratio to the baseline form beside it."""
        found = found or self.times(workers, case)
        for name, timing in found.items():
            self.row(
                case,
                name,
                timing.cpu / per,
                "s",
                gc=workers[name].gc,
                wall=timing.wall / per,
                ratio=ratio(timing, found.get(baseline)),
                spread=timing.spread,
                n=timing.n,
                samples=len(timing.rounds),
            )
        return found

    def memory_rows(self, workers, case="memory of the process, peak"):
        """A row per form: the most memory that its process ever had, with all that it imports."""
        for name, worker in workers.items():
            peak = worker.ask(PEAK)["value"]
            if peak is not None:
                self.row(case, name, peak, "MB")

    def row(self, case, form, value, unit, **more):
        """Keep one figure. Units: s, MB, bytes, instr (instructions), or a word."""
        self.rows.append(dict(workload=self.workload, case=case, form=form, value=value, unit=unit, **more))

    def note(self, text):
        note = dict(workload=self.workload, text=text)
        if note not in self.notes:
            self.notes.append(note)

    def target(self, text, measured, limit, unit="times", at_least=False):
        """Keep one promise beside what was measured (None: could not be measured here)."""
        met = None if measured is None else (measured >= limit if at_least else measured <= limit)
        self.targets.append(
            dict(workload=self.workload, text=text, measured=measured, limit=limit, unit=unit, at_least=at_least, met=met)
        )

    def agree(self, what, answers, tolerance):
        """Compare lists of numbers from several forms; say the largest relative difference."""
        names = list(answers)
        worst, where = 0.0, None
        for name in names[1:]:
            for x, y in zip(answers[names[0]], answers[name]):
                # `not <=` so that a nan counts as the largest difference there is
                gap = abs(x - y) / max(abs(x), abs(y), 1e-300)
                if not gap <= worst:
                    worst, where = gap, name
        if worst <= tolerance:
            self.note(f"{what}: {len(names)} forms agree to {worst:.1e} relative")
        else:
            self.fail(f"{what}: {where} is {worst:.1e} from {names[0]}, {tolerance:.0e} allowed")

    def fail(self, text):
        """Say that something is wrong (not slow); the run ends with status 1."""
        self.failures += 1
        self.note("WRONG: " + text)


def ratio(above, below):
    """above / below, of Timings the median over the rounds, in which the forms took turns: what
    slows the machine for a while slows both. None if either is missing."""
    if above is None or below is None:
        return None
    if isinstance(above, Timing):
        return statistics.median(x / y for x, y in zip(above.rounds, below.rounds))
    return above / below


def loop(statement, **names):
    """A function run(n) that executes a statement n times with the given names as its locals."""
    arguments = "".join(f", {name}={name}" for name in names)
    space = dict(names)
    exec(f"from itertools import repeat\ndef run(n{arguments}):\n    for _ in repeat(None, n):\n        {statement}\n", space)
    return space["run"]


def resident():
    """Megabytes of memory that the process has in RAM now (Linux); None elsewhere."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return None


def resident_peak():
    """Megabytes of RAM that the process ever had; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def environment():
    """What the figures depend on, for the JSON file."""
    import gc

    versions = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    if versions["mingrad"] is None:
        with contextlib.suppress(ImportError):
            import mingrad

            versions["mingrad"] = f"{getattr(mingrad, '__version__', '?')} (not installed)"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "python compiler": platform.python_compiler(),
        "gc thresholds": gc.get_threshold(),
        "system": f"{platform.system()} {platform.machine()}, " + " ".join(part for part in platform.libc_ver() if part),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "cc": _first_line(os.environ.get("CC", "cc"), "--version"),
        "valgrind": _first_line("valgrind", "--version"),
        "packages": versions,
    }


def _cpu():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return _first_line("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()


def _first_line(*command):
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None
