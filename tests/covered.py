"""Which lines of the package and of the core the tests run: a table, and an exit status of 1 under 95 %.

    python tests/covered.py                     # all tests, slower than without counting
    python tests/covered.py tests/test_tape.py  # or what else pytest takes, such as -k WORD and --share K/N
    python tests/covered.py --into FOLDER ...   # count there, and add to what earlier runs counted there

It works in a copy; FOLDER keeps it, with its build, so that runs of parts add up. Python's lines are counted by coverage.py, those
of csrc/*.pyx and *.pxi by the C compiler: the core is built without optimisation and gcov tells how often each line's C has run.
Cython's own line tracing calls Python for each line, and changes what it looks at, since lines that run without the GIL would take
it. Not a test file. Needs gcc with gcov, and

    python -m pip install ".[dev]" && python -m pip install --group coverage
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MADE = (".git", ".*_cache", ".hypothesis", ".venv", "__pycache__", "build", "dist", "*.egg-info", "*.so", "_core.c")
LEAST = 95.0  # per cent, of Python's lines and of Cython's

# Cython has C for the first line of a docstring: what follows a failure to take the arguments apart.
DOCSTRING = re.compile(r'\s*"""')


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog="other arguments are pytest's")
    parser.add_argument("--into", metavar="FOLDER", type=Path, help="where to build and count, and keep it")
    arguments, for_pytest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="mingrad-covered.") as temporary:
        folder = (arguments.into or Path(temporary)).resolve() / "copy"
        if not folder.exists():
            shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*MADE))
            call("setup.py", "-q", "build_ext", "--inplace", cwd=folder, MINGRAD_BUILD="coverage")
        run = ("-m", "coverage", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", *for_pytest)
        status = call(*run, cwd=folder, PYTHONPATH=str(folder), COVERAGE_FILE=str(folder / ".coverage"), check=False)
        python, branches = python_lines(folder)
        totals = [report("Python", python), report("Cython", cython_lines(folder))]
    print(f"Branches of Python: {branches:.1f} %")
    if status:
        print("tests failed")
    elif min(totals) < LEAST:
        print(f"expected at least {LEAST} % of Python's lines and of Cython's; write tests for the lines above")
    return bool(status or min(totals) < LEAST)


def call(*words, cwd, check=True, **environment):
    return subprocess.run([sys.executable, *words], cwd=cwd, env={**os.environ, **environment}, check=check).returncode


def python_lines(folder):
    """{file: (lines, missed lines)} and how many per cent of the branches were taken."""
    data = folder / ".coverage"
    call("-m", "coverage", "combine", "--append", "--quiet", cwd=folder, COVERAGE_FILE=str(data), check=False)
    call("-m", "coverage", "json", "--quiet", "-o", "lines.json", cwd=folder, COVERAGE_FILE=str(data))
    found = json.loads((folder / "lines.json").read_text())
    lines = {
        file: (len(one["executed_lines"]) + len(one["missing_lines"]), one["missing_lines"])
        for file, one in found["files"].items()
        if file.startswith("mingrad")
    }
    return lines, found["totals"]["percent_branches_covered"]


def cython_lines(folder):
    """{file: (lines, missed lines)}, of lines that Cython made C of."""
    counts = collections.defaultdict(collections.Counter)
    notes = sorted(map(str, folder.glob("build/**/_core.gcda")))
    told = subprocess.run(["gcov", "--json-format", "--stdout", *notes], cwd=folder, capture_output=True, check=True).stdout
    for document in told.splitlines():
        for source in json.loads(document)["files"]:
            if source["file"].endswith((".pyx", ".pxi")) and "portable_text" not in source["file"]:
                for line in source["lines"]:
                    if not line.get("function_name", "").startswith("__Pyx_"):  # Cython's own functions, which have no line
                        counts[source["file"]][line["line_number"]] += line["count"]
    lines = {}
    for file, of_line in counts.items():
        text = (folder / file).read_text().splitlines()
        known = [k for k in sorted(of_line) if k <= len(text) and not DOCSTRING.match(text[k - 1])]
        lines[file] = len(known), [k for k in known if not of_line[k]]
    return lines


def report(title, lines):
    """Print a table; return how many per cent of all lines have run."""
    print(f"\n{title:32}  lines  missed       %")
    for file, (n, missed) in sorted(lines.items()):
        print(f"{file:32} {n:6} {len(missed):7} {percent(n, missed):7.1f}  {ranges(missed)}")
    n, missed = sum(n for n, _ in lines.values()), [k for _, missed in lines.values() for k in missed]
    print(f"{'all':32} {n:6} {len(missed):7} {percent(n, missed):7.1f}")
    return percent(n, missed)


def percent(n, missed):
    return 100.0 * (n - len(missed)) / n if n else 100.0


def ranges(numbers):
    """[3, 4, 5, 9] as "3-5, 9"."""
    found = []
    for k in numbers:
        if found and found[-1][1] == k - 1:
            found[-1][1] = k
        else:
            found.append([k, k])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


if __name__ == "__main__":
    sys.exit(main())
