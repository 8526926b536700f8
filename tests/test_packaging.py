"""The package as it is installed: its metadata, its files, and what importing it brings along.

How long an import takes and how large an installation is are benchmarks (tests/benchmarks), not
tests. Building the sdist and the wheel, which takes minutes, is the work of the gate (.ci/run).
"""
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mingrad
from mingrad import _core

HOME = Path(mingrad.__file__).resolve().parent


def distribution():
    """The metadata of the installation that the tests run against; skips the test without one."""
    for found in importlib.metadata.distributions(name="mingrad"):
        if found.read_text("WHEEL") is not None:  # else it is what a build has left behind
            return found
    pytest.skip("mingrad is not installed here: it was found in its source folder")


def installed_files():
    """Every installed file; skips the test where the installation only points elsewhere."""
    files = [Path(str(file)) for file in distribution().files or ()]
    if not any(file.name.startswith("_core.") and file.suffix in (".so", ".pyd") for file in files):
        pytest.skip("mingrad is installed in editable mode: its files are those of the source")
    return files


def run(*arguments, cwd, path=(HOME.parent,)):
    """Run Python in cwd, with mingrad importable from path; return the finished process."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("PYTHONWARNINGS", "PYTHONSAFEPATH", "PYTHONSTARTUP")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment,
                          capture_output=True, encoding="utf-8", timeout=60)


# -- metadata --------------------------------------------------------------------------------------


def test_the_version_is_the_installed_one():
    assert distribution().version == mingrad.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", mingrad.__version__)


def test_it_needs_no_other_package_at_run_time():
    needed = [text for text in distribution().requires or () if "extra ==" not in text]
    assert needed == []


@pytest.mark.parametrize("extra", ["test", "viz", "numpy", "scipy", "bench", "dev", "examples"])
def test_the_extra_exists_and_brings_something(extra):
    here = distribution()
    assert extra in here.metadata.get_all("Provides-Extra")
    assert any(re.search(rf"extra == ['\"]{extra}['\"]", text) for text in here.requires)


def test_the_licence_is_mit_and_its_text_is_installed():
    here = distribution()
    assert here.metadata["License-Expression"] == "MIT"
    files = installed_files()
    licences = [file for file in files if file.name == "LICENSE"]
    assert len(licences) == 1
    text = Path(here.locate_file(licences[0])).read_text(encoding="utf-8")
    assert text.startswith("MIT License") and "the mingrad authors" in text


def test_every_python_that_is_supported_may_install_it():
    assert distribution().metadata["Requires-Python"] == ">=3.10"


# -- files -----------------------------------------------------------------------------------------


def test_what_is_installed_is_what_runs():
    names = {str(file) for file in installed_files()}
    for name in ("__init__.py", "__init__.pyi", "_core.pyi", "engine.py", "engine.pyi", "py.typed",
                 os.path.join("nn", "__init__.py"), os.path.join("nn", "__init__.pyi"),
                 "__main__.py", os.path.join("examples", "moons.py")):
        assert os.path.join("mingrad", name) in names


def test_no_source_of_the_core_is_installed():
    endings = {file.suffix for file in installed_files() if file.parts[0] == "mingrad"}
    assert endings <= {".py", ".pyi", ".pyc", ".typed", ".so", ".pyd", ".svg"}


def test_nothing_is_installed_outside_the_package():
    tops = {file.parts[0] for file in installed_files() if file.parts[0] != ".."}
    assert tops - {top for top in tops if top.endswith(".dist-info")} == {"mingrad"}


# -- importing -------------------------------------------------------------------------------------


def test_importing_warns_of_nothing(tmp_path):
    finished = run("-W", "error", "-c", "import mingrad, mingrad.nn, mingrad.visualize",
                   cwd=tmp_path)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


@pytest.mark.parametrize("module", ["mingrad", "mingrad.nn", "mingrad.visualize"])
def test_importing_brings_in_no_other_package(module, tmp_path):
    code = (f"import sys; before = set(sys.modules); import {module}\n"
            "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))")
    finished = run("-c", code, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    names = set(finished.stdout.split())
    assert "mingrad" in names
    own = {name for name in names if name == "mingrad" or "cython" in name}  # Cython's has no file
    assert names - own <= set(sys.stdlib_module_names), names


def test_the_public_names_are_what_a_star_brings(tmp_path):
    code = ("import builtins, mingrad; given = {}; exec('from mingrad import *', given)\n"
            "assert set(given) - {'__builtins__'} == set(mingrad.__all__)")
    finished = run("-c", code, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr


# -- a checkout: the folder mingrad without a compiled core ----------------------------------------
# Here Python runs without site-packages (-S), where the hook of an editable installation would be;
# PYTHONPATH says what is installed.


@pytest.fixture
def checkout(tmp_path):
    """A folder as a fresh clone has it: the package's Python files, nothing compiled."""
    compiled = shutil.ignore_patterns("_core*.so", "_core*.pyd", "__pycache__")
    shutil.copytree(HOME, tmp_path / "clone" / "mingrad", ignore=compiled)
    return tmp_path / "clone"


def test_python_started_in_a_checkout_uses_the_installed_package(checkout):
    code = ("import mingrad, mingrad.nn; from mingrad import _core, Variable\n"
            "print(mingrad.__file__, mingrad.nn.__file__, _core.__file__, *mingrad.__path__,\n"
            "      sep='\\n')\n"
            "assert 'Variable' in mingrad.__all__ and mingrad.Variable is Variable")
    finished = run("-S", "-c", code, cwd=checkout)
    assert finished.returncode == 0, finished.stderr
    places = [Path(line).resolve() for line in finished.stdout.splitlines()]
    assert places == [HOME / "__init__.py", HOME / "nn" / "__init__.py",
                      Path(_core.__file__).resolve(), HOME]


def test_the_main_command_works_in_a_checkout(checkout):
    finished = run("-S", "-m", "mingrad", "--help", cwd=checkout)
    assert finished.returncode == 0, finished.stderr
    assert "usage: python -m mingrad" in finished.stdout


@pytest.mark.parametrize("others", [[], ["."], ["another"]], ids=["nowhere", "itself", "another"])
def test_a_checkout_without_an_installed_package_says_what_to_do(others, checkout):
    shutil.copytree(checkout / "mingrad", checkout / "another" / "mingrad")
    finished = run("-S", "-c", "import mingrad", cwd=checkout, path=others)
    assert finished.returncode == 1
    assert re.fullmatch(
        f"ImportError: mingrad: the core in {re.escape(os.path.realpath(checkout))} is not "
        "compiled for this Python, and no mingrad is installed in .*: run "
        r"`python -m pip install \.` in that folder \(with -e to work on the code\)",
        finished.stderr.splitlines()[-1])
