"""Errors and speeds of the vector functions: `python tests/benchmarks/vectors.py [--blocks N]`.

Compiles vectors.c with csrc/vector.c as setup.py does and prints what it measures as the table of
csrc/README.md. Needs GCC on x86-64, for libquadmath, which gives the true values; tests/
test_vector.py compares with mpmath and needs nothing. N blocks of 1024 operands are drawn from each
of four or five ranges; 200 take half a minute.
"""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
CORE = HERE.parents[1] / "csrc"
FLAGS = ["-O2", "-ftree-vectorize", "-ffp-contract=off", "-fno-math-errno"]  # setup.py's


def main():
    parser = argparse.ArgumentParser(description="Errors and speeds of the vector functions.")
    parser.add_argument("--blocks", type=int, default=200, help="times 1024 operands a range (200)")
    blocks = parser.parse_args().blocks
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(prefix="mingrad-bench-") as folder:
        program = os.path.join(folder, "vectors")
        subprocess.run(
            [
                *compiler,
                *FLAGS,
                f"-I{CORE}",
                str(HERE / "vectors.c"),
                str(CORE / "vector.c"),
                "-o",
                program,
                "-lquadmath",
                "-lm",
            ],
            check=True,
        )
        print("| function | worst error, ulp | at | base, ns | AVX2, ns | libm, ns |")
        print("|---|---|---|---|---|---|")
        with subprocess.Popen([program, str(blocks)], stdout=subprocess.PIPE, text=True) as run:
            for line in run.stdout:
                name, error, at, *speeds = line.split()
                at = ", ".join(f"{float.fromhex(x)!r}" for x in at.split(","))
                print(f"| `{name}` | {error} | {at} | {' | '.join(speeds)} |", flush=True)
        if run.returncode:
            sys.exit(run.returncode)


if __name__ == "__main__":
    main()
