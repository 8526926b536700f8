"""What the documentation shows is what the package does.

README's Python blocks and every docstring run as doctests, and every public name has a docstring.
Whether the text beside the examples is true is for readers. Commands of a shell are not run here.
"""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import random
import re
import tokenize
from pathlib import Path

import pytest

import helpers
import mingrad
from mingrad import Variable, _core

README = Path(__file__).resolve().parent.parent / "README.md"
MODULES = [
    "mingrad",
    "mingrad.autodiff",
    "mingrad.custom",
    "mingrad.distributed",
    "mingrad.engine",
    "mingrad.nn",
    "mingrad.nn.init",
    "mingrad.nn.utils",
    "mingrad.optim",
    "mingrad.optim.lr_scheduler",
    "mingrad.optimize",
    "mingrad.files",
    "mingrad.gradcheck",
    "mingrad.profiler",
    "mingrad.program",
    "mingrad.rows",
    "mingrad.steps",
    "mingrad.training",
    "mingrad.visualize",
    "mingrad.visualize.dot",
    "mingrad.visualize.drawing",
    "mingrad.visualize.explorer",
    "mingrad.visualize.plots",
    "mingrad.visualize.text",
    "mingrad.examples",
    "mingrad.examples.moons",
    "mingrad.examples.digits",
    "mingrad.examples.fsrs",
    "mingrad.examples.microgpt",
    "mingrad.examples.picture",
    "mingrad.examples.lessons",
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# An example with one of these words needs a package that may not be here.
NEEDED = {
    "draw_dot": "graphviz",
    "explore": "graphlay",
    "minimize": "scipy",
    "numpy": "numpy",
    "sklearn": "sklearn",
    "torch": "torch",
}
NEEDED |= dict.fromkeys([name for name in mingrad.visualize.__all__ if name.startswith("plot_")], "matplotlib")
# A module whose examples need a process of their own, where the test of this file runs them.
ELSEWHERE = {"mingrad.distributed": "test_distributed.py"}
# C libraries differ in the last digits of cbrt, lgamma and others; glibc's manual grants lgamma 4.
LIBM_ULPS = 4
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[-+]?\d+)?")


@pytest.fixture(autouse=True)
def random_numbers_are_not_disturbed():
    state = random.getstate()
    random.seed(0)
    yield
    random.setstate(state)


class Checker(doctest.OutputChecker):
    """Doctest's own, but a float may be LIBM_ULPS away from the one that is written."""

    def check_output(self, want, got, optionflags):
        if super().check_output(want, got, optionflags):
            return True
        wanted, gotten = NUMBER.findall(want), NUMBER.findall(got)
        return (
            len(wanted) == len(gotten)
            and all(helpers.ulps(x, y) <= LIBM_ULPS for x, y in zip(wanted, gotten))
            and super().check_output(NUMBER.sub("0", want), NUMBER.sub("0", got), optionflags)
        )


# -- docstrings ------------------------------------------------------------------------------------


def documented():
    """{name: object} of everything whose docstring a user can ask for, under one name each."""
    found, seen = {}, set()

    def add(name, thing):
        if id(thing) not in seen:
            seen.add(id(thing))
            found[name] = thing

    for name in MODULES:
        module = importlib.import_module(name)
        add(name, module)
        public = getattr(module, "__all__", None)
        if public is None:
            public = [
                key
                for key, thing in vars(module).items()
                if not key.startswith("_") and getattr(thing, "__module__", None) == name
            ]
        for key in public:
            thing = getattr(module, key)
            if not callable(thing):
                continue
            add(f"{name}.{key}", thing)
            if inspect.isclass(thing):
                for member, value in vars(thing).items():
                    if member in ("_prev", "_op") or not member.startswith("_"):
                        if callable(value) or inspect.isdatadescriptor(value):
                            add(f"{name}.{key}.{member}", value)
    return found


DOCUMENTED = documented()


def run_examples(examples, name, namespace, text, line=0):
    """Run a docstring's or a block's examples; fail with doctest's own report."""
    report = io.StringIO()
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=OPTIONS)
    runner.run(doctest.DocTest(examples, namespace, name, name, line, text), out=report.write, clear_globs=False)
    assert not runner.failures, report.getvalue()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_docstring_is_there_and_its_examples_are_right(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(DOCUMENTED[name])
    assert text and text.strip(), f"{name} has no docstring"
    module = inspect.getmodule(DOCUMENTED[name])
    examples = doctest.DocTestParser().get_examples(text)
    if module and module.__name__ in ELSEWHERE:
        return
    missing = missing_packages("".join(example.source for example in examples))
    if missing:
        pytest.skip(f"its examples need packages that are not installed: {missing}")
    run_examples(examples, name, dict(vars(module)) if module else {}, text)


@pytest.mark.parametrize("name", sorted(mingrad.__all__))
def test_a_public_name_is_among_the_documented(name):
    thing = getattr(mingrad, name)
    assert isinstance(thing, str) or any(thing is other for other in DOCUMENTED.values())


@pytest.mark.parametrize("name", sorted({row["name"] for row in _core._ops()} & set(vars(_core)) - {"pow"}))
def test_the_function_of_an_operation_has_an_example(name):
    assert doctest.DocTestParser().get_examples(getattr(mingrad, name).__doc__), name


def test_the_same_operation_under_numpys_name_says_so():
    aliases = [(row["name"], row["alias"]) for row in _core._ops() if row["alias"]]
    assert ("asin", "arcsin") in aliases
    for name, alias in aliases:
        for owner in (mingrad, Variable):
            assert getattr(owner, alias).__doc__ == f"Same as {name}, under NumPy's name."


# -- README ----------------------------------------------------------------------------------------


def blocks():
    """[(line number, text)] of README's Python blocks."""
    if not README.exists():
        return []
    text = README.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(1)) + 1, match.group(1))
        for match in re.finditer(r"^```python *\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


def claims(source):
    """{line: text} of the comments that say what a line prints.

    Such a comment stands behind a `print(...)` and begins with `prints ` or with what looks like a
    value: a digit, a sign, a bracket, a quote, `Variable(`, `True`, `False` or `None`.
    """
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("print("):
            comment = token.string.lstrip("# ")
            if re.match(r"prints |[-\d.\[('\"]|Variable\(|(True|False|None)\b", comment):
                found[token.start[0]] = comment.removeprefix("prints ")
    return found


def run_program(source, name, namespace):
    """Run a block without prompts, statement by statement; what it prints is what its comments say.

    A comment may go on after the value: `# 24.7041, the outcome of this forward pass`.
    """
    said = claims(source)
    for statement in ast.parse(source).body:
        output = io.StringIO()
        code = compile(ast.Module([statement], []), name, "exec")
        with contextlib.redirect_stdout(output):
            exec(code, namespace)
        printed = output.getvalue().rstrip("\n")
        if statement.end_lineno in said:
            assert re.match(re.escape(printed) + r"(?![\w.])", said[statement.end_lineno]), (
                f"{name}: line {statement.end_lineno} of the block prints {printed!r}, "
                f"its comment says {said[statement.end_lineno]!r}"
            )


def run_block(source, name, namespace):
    if ">>>" in source:
        run_examples(doctest.DocTestParser().get_examples(source, name), name, namespace, source)
    else:
        run_program(source, name, namespace)


def test_readme_is_there_and_shows_python():
    assert README.exists(), "README.md is missing: it belongs beside the folder tests"
    assert blocks(), "README.md has no block that begins with ```python"


def test_readmes_blocks_run_in_order_and_print_what_they_say(tmp_path, monkeypatch):
    """One after the other in one namespace, as a reader types them."""
    if not README.exists():
        pytest.skip("README.md is missing; another test fails for it")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__readme__"}
    skipped = []
    for line, source in blocks():
        missing = missing_packages(source)
        if missing:
            skipped.append(f"line {line}: {', '.join(missing)}")
            continue
        run_block(source, f"README.md, line {line}", namespace)
    if skipped:
        pytest.skip(f"blocks of README.md need packages that are not installed: {skipped}")


def missing_packages(source):
    """The packages that a program needs and that are not here."""
    return [module for word, module in NEEDED.items() if re.search(rf"\b{word}\b", source) and not helpers.importable(module)]


# -- the checkers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        ">>> 1 + 1\n3\n",
        ">>> 3.0 + 4e-15\n3.0\n",
        ">>> 1 / 0\n",
        "print(1 + 1)  # prints 3, or so\n",
        "x = 2\nprint(\n    x)  # 22\n".replace("(\n    ", "("),
        "print(2.0)  # 2\n",
        "print(2)  # 2.0\n",
        "raise RuntimeError\n",
    ],
    ids=range(8),
)
def test_a_wrong_block_is_noticed(source):
    with pytest.raises((AssertionError, RuntimeError)):
        run_block(source, "block", {})


@pytest.mark.parametrize(
    "source",
    [
        ">>> 1 + 1\n2\n",
        ">>> [3.0 + 4e-16, 1]\n[3.0, 1]\n",
        "print(1 + 1)  # prints 2, the sum\n",
        "print(1 + 1)  # the sum\n",
        "print(2.0)  # 2.0\n",
        "for i in range(2):\n    print(i)  # the number\n",
        "x = 2\nprint(-x, x)  # -2 2\n",
    ],
    ids=range(7),
)
def test_a_right_block_passes(source):
    run_block(source, "block", {})
