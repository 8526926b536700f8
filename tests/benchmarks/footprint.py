"""What mingrad costs before it does anything: import time and installed size.

Import time is that of a fresh process that imports it, less that of one that imports nothing; both
in turn, medians; CPU time where the system tells it, the disk's cache being warm. Size is the sum
of the files that the installation lists (of the package's folder when it runs from a source tree),
without __pycache__.
"""

import importlib.metadata
import importlib.util
import os
import statistics
import subprocess
import sys
import time

MODULES = ("mingrad", "micrograd.nn", "numpy", "torch", "jax")


def children_cpu():
    """CPU seconds of all processes started and ended so far; None where it is not told."""
    try:
        import resource
    except ImportError:
        return None
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def process_time_of(code):
    """CPU and wall seconds of a fresh process that runs the code."""
    cpu, wall = children_cpu(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    wall = time.perf_counter() - wall
    return (wall if cpu is None else children_cpu() - cpu), wall


def found(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def installed_files():
    """Size in bytes of every file of the package: {name: bytes}; where the list is from."""
    try:
        distribution = importlib.metadata.distribution("mingrad")
        paths = {str(file): str(file.locate()) for file in distribution.files or ()}
        if any(name.startswith("mingrad") and "_core" in name for name in paths):
            source = "installed package"
        else:
            raise importlib.metadata.PackageNotFoundError  # an editable installation
    except importlib.metadata.PackageNotFoundError:
        folder = os.path.dirname(importlib.util.find_spec("mingrad").origin)
        source = "package folder"
        paths = {
            os.path.relpath(os.path.join(where, name), folder): os.path.join(where, name)
            for where, _, names in os.walk(folder)
            for name in names
        }
    return {
        name: os.path.getsize(path) for name, path in paths.items() if "__pycache__" not in name and os.path.exists(path)
    }, source


def measure(bench):
    modules = [module for module in MODULES if found(module)]
    for module in set(MODULES) - set(modules):
        bench.note(f"skipped {module}: not installed")
    fast = [module for module in modules if module not in ("torch", "jax")]
    rounds = dict.fromkeys(["", *fast], 5 if bench.quick else 41)
    rounds.update({name: 1 if bench.quick else 5 for name in modules if name not in fast})
    times = {name: [] for name in rounds}
    for name in rounds:
        process_time_of(f"import {name}" if name else "pass")  # warms up the disk's cache
    for turn in range(max(rounds.values())):
        for name, count in rounds.items():
            if turn < count:
                times[name].append(process_time_of(f"import {name}" if name else "pass"))
    medians = {name: [statistics.median(kind) for kind in zip(*values)] for name, values in times.items()}
    bare, bare_wall = medians.pop("")
    bench.row("process", "bare interpreter", bare, "s", wall=bare_wall)
    net = {name: cpu - bare for name, (cpu, _) in medians.items()}
    for name, seconds in net.items():
        bench.row(
            "import",
            name,
            seconds,
            "s",
            wall=medians[name][1] - bare_wall,
            ratio=seconds / net["mingrad"] if "mingrad" in net else None,
        )
    bench.target("import of mingrad", net.get("mingrad") and net["mingrad"] * 1e3, 15.0, "ms")
    total = None
    if "mingrad" in net:
        sizes, source = installed_files()
        total = sum(sizes.values()) / 1e6
        bench.row("size", source, total, "MB")
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
        bench.note("largest files: " + ", ".join(f"{os.path.basename(name)} {size:,}" for name, size in largest))
    bench.target("installed size", total, 1.5, "MB")
