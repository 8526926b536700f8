"""The package as it is installed: its metadata, its files, and what importing it brings along.

How long an import takes and how large an installation is are benchmarks (tests/benchmarks), not
tests. Building the sdist and the wheel, which takes minutes, is the work of the gate (.ci/run).
"""

import importlib.metadata
import importlib.util
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
ROOT = Path(__file__).resolve().parent.parent


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
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "PYTHONSAFEPATH", "PYTHONSTARTUP")
    }
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=60
    )


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
    for name in (
        "__init__.py",
        "__init__.pyi",
        "_core.pyi",
        "engine.py",
        "engine.pyi",
        "py.typed",
        os.path.join("nn", "__init__.py"),
        os.path.join("nn", "__init__.pyi"),
        "__main__.py",
        os.path.join("examples", "moons.py"),
    ):
        assert os.path.join("mingrad", name) in names


def test_no_source_of_the_core_is_installed():
    endings = {file.suffix for file in installed_files() if file.parts[0] == "mingrad"}
    assert endings <= {".py", ".pyi", ".pyc", ".typed", ".so", ".pyd", ".css", ".js"}  # the last two: the explorer's page


def test_nothing_is_installed_outside_the_package():
    tops = {file.parts[0] for file in installed_files() if file.parts[0] != ".."}
    assert tops - {top for top in tops if top.endswith(".dist-info")} == {"mingrad"}


# -- importing -------------------------------------------------------------------------------------


def test_importing_warns_of_nothing(tmp_path):
    finished = run("-W", "error", "-c", "import mingrad, mingrad.nn, mingrad.visualize", cwd=tmp_path)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


@pytest.mark.parametrize("module", ["mingrad", "mingrad.nn", "mingrad.visualize"])
def test_importing_brings_in_no_other_package(module, tmp_path):
    code = (
        f"import sys; before = set(sys.modules); import {module}\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    finished = run("-c", code, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    names = set(finished.stdout.split())
    assert "mingrad" in names
    own = {name for name in names if name == "mingrad" or "cython" in name}  # Cython's has no file
    assert names - own <= set(sys.stdlib_module_names), names


def test_the_public_names_are_what_a_star_brings(tmp_path):
    code = (
        "import builtins, mingrad; given = {}; exec('from mingrad import *', given)\n"
        "assert set(given) - {'__builtins__'} == set(mingrad.__all__)"
    )
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
    code = (
        "import mingrad, mingrad.nn; from mingrad import _core, Variable\n"
        "print(mingrad.__file__, mingrad.nn.__file__, _core.__file__, *mingrad.__path__,\n"
        "      sep='\\n')\n"
        "assert 'Variable' in mingrad.__all__ and mingrad.Variable is Variable"
    )
    finished = run("-S", "-c", code, cwd=checkout)
    assert finished.returncode == 0, finished.stderr
    places = [Path(line).resolve() for line in finished.stdout.splitlines()]
    assert places == [HOME / "__init__.py", HOME / "nn" / "__init__.py", Path(_core.__file__).resolve(), HOME]


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
        finished.stderr.splitlines()[-1],
    )


# -- workflows and wheels: the same facts in several files -----------------------------------------
# What a runner does with them is seen on runners only; actionlint (CONTRIBUTING.md) looks at the rest.


def project_text(name):
    """The text of a file of the checkout; skips the test where there is no checkout."""
    if not (ROOT / ".github").exists():
        pytest.skip("the tests are not in a checkout: an sdist has no workflows")
    return (ROOT / name).read_text(encoding="utf-8")


def workflow(name):
    text = project_text(f".github/workflows/{name}.yml")
    return pytest.importorskip("yaml", reason="PyYAML is not installed").safe_load(text)


def project():
    text = project_text("pyproject.toml")
    return pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib").loads(text)


def identifiers():
    """{(platform, architecture): [identifiers]} of .ci/identifiers.txt."""
    found = {}
    for section in project_text(".ci/identifiers.txt").split("\n\n"):
        head, *names = section.split("\n")
        platform, *architectures = head.strip("[]").split()
        for architecture in architectures:
            ending = f"_{architecture}".lower()
            found[platform, architecture] = [name for name in names if name.endswith(ending)]
        assert sum(len(found[platform, each]) for each in architectures) == len(list(filter(None, names)))
    return found


WORKFLOWS = ["release", "tests", "wheels"]
# What a job may write, and no other job may.
WRITES = {("release", "page"): {"contents"}, ("release", "index"): {"id-token"}}


def test_the_workflows_are_those_that_are_tested():
    project_text("pyproject.toml")
    assert sorted(path.stem for path in (ROOT / ".github" / "workflows").iterdir()) == WORKFLOWS


@pytest.mark.parametrize(
    "name", ["dependabot.yml", "ISSUE_TEMPLATE/bug.yml", "ISSUE_TEMPLATE/feature.yml", "ISSUE_TEMPLATE/gradient.yml"]
)
def test_the_form_is_yaml(name):
    text = project_text(f".github/{name}")
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert isinstance(yaml.safe_load(text), dict)


def test_every_action_is_pinned_by_commit_and_is_the_same_everywhere():
    versions = {}
    for name in WORKFLOWS:
        for used in re.findall(r"\buses: *(.*)", project_text(f".github/workflows/{name}.yml")):
            if used.startswith("./"):
                assert (ROOT / used).is_file()
                continue
            match = re.fullmatch(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", used)
            assert match, f"{name}.yml: {used}: expected owner/name@commit # vX.Y.Z"
            assert versions.setdefault(match[1], match.groups()) == match.groups()
    assert len(versions) == 5


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_job_may_do_only_what_it_needs(name):
    loaded = workflow(name)
    assert loaded["permissions"] == {} and loaded["concurrency"]["group"].startswith(f"{name}-")
    for job, body in loaded["jobs"].items():
        rights = body["permissions"]
        assert set(rights.values()) <= {"read", "write"}
        assert {right for right, level in rights.items() if level == "write"} == WRITES.get((name, job), set())
        assert "uses" in body or 0 < body["timeout-minutes"] <= 180
        for step in body.get("steps", ()):
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_workflow_runs_is_what_people_are_told_to_run(name):
    told = "\n".join(map(project_text, ["README.md", ".github/CONTRIBUTING.md", ".ci/run"])).splitlines()
    told = {line.strip("# ").partition("  #")[0].strip() for line in told}
    example = {"${{ matrix.platform }}": "linux", "${{ matrix.arch }}": "x86_64", "${{ matrix.command }}": "address"}
    for job in workflow(name)["jobs"].values():
        for step in job.get("steps", ()):
            command = step.get("run", "actionlint")
            for expression, value in example.items():
                command = command.replace(expression, value)
            assert command.strip() in told, f"{command} is in {name}.yml only"


def test_each_command_of_the_sanitizers_has_a_job_and_is_told_of():
    said = project_text(".github/CONTRIBUTING.md")
    told = re.findall(r"^python tests/sanitizers\.py (\w+)$", said, re.MULTILINE)
    assert re.findall(r"sanitizers\.py (\w+) ", project_text("tests/sanitizers.py")) == [*told, "nomemory"]
    assert workflow("tests")["jobs"]["sanitizers"]["strategy"]["matrix"]["command"] == told


def test_every_file_names_the_same_pythons():
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project_text("pyproject.toml"))
    assert f">={classifiers[0]}" in project_text("pyproject.toml")
    tested = workflow("tests")["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert [version for version in tested if not version.endswith("t")] == classifiers
    gate = re.search(r"OTHER_PYTHONS=\$\{OTHER_PYTHONS-(.*)\}", project_text(".ci/run"))[1]
    assert gate.split() == classifiers
    built = {}
    for name in sum(identifiers().values(), []):
        python, _, system = name.partition("-")
        built.setdefault(system, []).append(python.replace("cp3", "3."))
    assert set(built.pop("pyodide_wasm32")) <= set(classifiers)
    assert len(built) == 8
    for system, pythons in built.items():
        assert pythons == tested, system


def test_every_listed_wheel_has_a_job_that_builds_it():
    jobs = workflow("wheels")["jobs"]["build"]["strategy"]["matrix"]["include"]
    assert [(job["platform"], job["arch"]) for job in jobs] == list(identifiers())


def test_a_wheel_is_tested_with_packages_and_files_that_exist():
    loaded = project()
    extras, wheels = loaded["project"]["optional-dependencies"], loaded["tool"]["cibuildwheel"]
    assert wheels["test-extras"] == ["test"]
    for override in wheels["overrides"]:
        needed = override["test-requires"] + sum((extras[extra] for extra in override["test-extras"]), [])
        assert set(needed) <= set(extras["test"])
    for name in wheels["test-sources"] + re.findall(r"tests/\w+\.py", wheels["pyodide"]["test-command"]):
        assert (ROOT / name).exists(), name


# -- what looks at wheels: .ci/contents.py, tests/wheels.py ----------------------------------------


def tool(name):
    """A script of the checkout as a module; skips the test where there is no checkout."""
    project_text(name)
    found = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(ROOT / ".ci"))  # one of them imports the other
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / ".ci"))
    return module


WANTED = {
    "mingrad/__init__.py",
    "mingrad/_core.pyi",
    "mingrad/py.typed",
    "mingrad/examples/moons.svg",
    "csrc/_core.pyx",
    "LICENSE",
}
WHEEL = {
    "mingrad/__init__.py": 1,
    "mingrad/_core.pyi": 1,
    "mingrad/py.typed": 0,
    "mingrad/_core.cpython-311-x86_64-linux-gnu.so": 1,
    "mingrad-0.1.0.dist-info/RECORD": 1,
    "mingrad-0.1.0.dist-info/licenses/LICENSE": 1,
}


@pytest.mark.parametrize(
    "change, downloaded, problem",
    [
        ({}, 1, None),
        ({"mingrad/_core.pyx": 1}, 1, "wheel should not have mingrad/_core.pyx"),
        ({"csrc/_core_made.c": 1}, 1, "wheel should not have csrc/_core_made.c"),
        ({"mingrad/examples/moons.svg": 1}, 1, "wheel should not have mingrad/examples/moons.svg"),
        ({"mingrad/_core.pyi": None}, 1, "wheel lacks mingrad/_core.pyi"),
        ({"mingrad/py.typed": None}, 1, "wheel lacks mingrad/py.typed"),
        ({"mingrad-0.1.0.dist-info/licenses/LICENSE": None}, 1, "wheel lacks LICENSE"),
        ({"mingrad/_core.cpython-311-x86_64-linux-gnu.so": None}, 1, "wheel: expected one compiled core, got []"),
        ({}, 10**6, "wheel: 1,000,000 bytes to download, {DOWNLOADED:,} allowed"),
        ({"mingrad/__init__.py": 10**7}, 1, "wheel: 10,000,004 bytes installed, {INSTALLED:,} allowed"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_said(change, downloaded, problem):
    contents = tool(".ci/contents.py")
    sizes = {name: size for name, size in (WHEEL | change).items() if size is not None}
    expected = [] if problem is None else [problem.format(**vars(contents))]
    assert contents.wheel_problems(sizes, downloaded, WANTED) == expected


def test_an_sdist_has_the_sources_and_not_what_is_made_of_them():
    contents = tool(".ci/contents.py")
    wanted = contents.checkout_files(ROOT)
    assert {"csrc/_core.pyx", "mingrad/py.typed", "tests/wheels.py", "setup.py"} <= wanted
    assert not any(re.search(r"\.so$|_core\w*\.c$|portable_text", name) for name in wanted)
    assert contents.sdist_problems(wanted | {"PKG-INFO"}, wanted) == []
    assert contents.sdist_problems((wanted - {"setup.py"}) | {"csrc/_core.c"}, wanted) == [
        "sdist lacks setup.py",
        "sdist should not have csrc/_core.c",
    ]


def test_a_wheel_without_a_test_that_passed_is_not_well():
    pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    wheels = tool("tests/wheels.py")
    assert wheels.counts("...\n3 passed, 1 skipped, 2 deselected in 4.56s\n") == {"passed": 3, "skipped": 1, "deselected": 2}
    assert wheels.all_is_well(wheels.counts("= 3 passed, 1 skipped in 4.56s (0:00:04) ="))
    for text in (
        "",
        "no tests ran in 0.01s",
        "5 skipped in 1.00s",
        "1 failed, 3 passed in 1.00s",
        "3 passed, 2 errors in 1.00s",
    ):
        assert not wheels.all_is_well(wheels.counts(text)), text


def test_wheels_are_looked_for_where_the_gate_looks_for_pythons():
    pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    found = tool("tests/wheels.py").versions()
    gate = re.search(r"OTHER_PYTHONS=\$\{OTHER_PYTHONS-(.*)\}", project_text(".ci/run"))[1]
    assert [version for version in found if not version.endswith("t")] == gate.split()
