"""Machine instructions of one operation, counted by valgrind: the same from run to run.

Each statement runs in a loop of two lengths under `valgrind --tool=callgrind`; the difference of
the two counts, divided by that of the lengths, is one turn; the empty loop's turn is taken off.
The long loop makes the tape collect several times, so that the collector's share is in it.
"""

import os
import re
import shutil
import subprocess
import sys

from timing import ratio

# the short loop, and by how much the long one is longer
LENGTHS = {"floats": (5_000, 100_000), "mingrad": (20_000, 4 * 131_072), "micrograd": (500, 7_000)}
SETUPS = {
    "floats": "Number = float",
    "mingrad": "from mingrad.engine import Variable as Number",
    "micrograd": "from micrograd.engine import Value as Number",
}
STATEMENTS = {"empty loop": "pass", "a * b": "a * b", "a + 1.0": "a + 1.0", "read .data": "a.data"}
PROGRAM = """
import sys
{setup}
def run(n, a, b):
    for _ in range(n):
        {statement}
run(int(sys.argv[1]), Number(1.5), Number(2.5))
"""


def count(program, n):
    """Instructions of the whole process."""
    env = dict(os.environ, PYTHONHASHSEED="0")
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + os.devnull, sys.executable, "-c", program, str(n)],
        capture_output=True,
        text=True,
        env=env,
    )
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError("valgrind failed:\n" + done.stderr[-2000:])
    return int(found[1])


def turn(form, case):
    """Instructions of one turn of the loop."""
    program = PROGRAM.format(setup=SETUPS[form], statement=STATEMENTS[case])
    short, more = LENGTHS[form]
    return (count(program, short + more) - count(program, short)) / more


def measure(bench):
    if shutil.which("valgrind") is None:
        bench.note("skipped: no valgrind")
        return
    net = {}
    for form, setup in SETUPS.items():
        if subprocess.run([sys.executable, "-c", setup], capture_output=True).returncode:
            bench.note(f"skipped {form}: cannot be imported")
            continue
        empty = turn(form, "empty loop")
        bench.note(f"empty loop, {form}: {empty:.0f} instructions a turn (taken off)")
        for case in STATEMENTS:
            if case != "empty loop" and not (form == "floats" and case == "read .data"):
                net[case, form] = turn(form, case) - empty
    for case in STATEMENTS:
        for form in SETUPS:
            if (case, form) in net:
                base = net.get((case, "mingrad"))
                bench.row(case, form, net[case, form], "instr", gc=True, ratio=base and net[case, form] / base)
    for case, limit in (("a * b", 2.0), ("a + 1.0", 2.5)):
        bench.target(
            f"{case}: instructions, mingrad / floats", ratio(net.get((case, "mingrad")), net.get((case, "floats"))), limit
        )
    bench.target("read .data: instructions", net.get(("read .data", "mingrad")), 100.0, "instr")
