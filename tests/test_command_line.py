"""python -m mingrad draw, bench and info: run as a user runs them, in processes of their own; what draw's expressions may hold is
looked at in this one. The demo is in test_examples.py.
"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

import mingrad
from mingrad import Variable, _core, tree
from mingrad.__main__ import main
from mingrad._commands import bench, draw, info


def run(*arguments, check=None, **changes):
    """Run `python -m mingrad arguments`; return the finished process, its output decoded."""
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "PYTHONUTF8")}
    home = str(pathlib.Path(mingrad.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH")]))
    environment |= {"PYTHONIOENCODING": "utf-8", **changes}
    done = subprocess.run(
        [sys.executable, "-m", "mingrad", *arguments], env=environment, capture_output=True, encoding="utf-8", timeout=300
    )
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def refused(capsys, *arguments):
    """What `python -m mingrad arguments` says on its way out with the exit status 2."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("usage: python -m mingrad")
    return error.partition("error: ")[2].strip()


# -- draw: what it computes --------------------------------------------------------------------------

EXPRESSIONS = [
    ("x**2 * sin(y)", {"x": 2.0, "y": 3.0}, lambda m, x, y: x**2 * m.sin(y)),
    ("-x // 3 % 2 + +y", {"x": 7.0, "y": 0.5}, lambda m, x, y: -x // 3 % 2 + +y),
    ("2**-1 * max(x, y, 1) / min(x, 2)", {"x": 3.0, "y": 2.0}, lambda m, x, y: 0.5 * m.max(x, y, 1) / m.min(x, 2)),
    ("clamp(x, 0, 1) + leaky_relu(0-x, 0.5)", {"x": 0.5}, lambda m, x: m.clamp(x, 0, 1) + m.leaky_relu(0 - x, 0.5)),
    ("arctan2(x, 1) * hypot(x, y) + pow(x, y)", {"x": 0.5, "y": 2.0}, lambda m, x, y: m.arctan2(x, 1) * m.hypot(x, y) + x**y),
    ("a", {"a": 1.0}, lambda m, a: a),
    ("grad_2 * 1e3", {"grad_2": 0.5}, lambda m, g: g * 1e3),
]


@pytest.mark.parametrize("expression, point, f", EXPRESSIONS, ids=[row[0] for row in EXPRESSIONS])
def test_an_expression_is_what_python_makes_of_it(expression, point, f):
    names = draw.values([f"{name}={value}" for name, value in point.items()])
    found = draw.evaluate(expression, names)
    found.backward()
    others = [Variable(value, label=name) for name, value in point.items()]
    wanted = f(mingrad, *others)
    wanted.backward()
    assert found.data == wanted.data
    assert [v.grad for v in names.values()] == [v.grad for v in others]
    assert str(tree(found)) == str(tree(wanted))


def test_every_function_of_the_op_table_may_be_called():
    for row in _core._ops():
        for name in (row["name"], row["alias"]):
            if (
                row["kind"] in ("unary", "binary")
                and name in mingrad.__all__
                and row["name"] not in ("leaky_relu", "elu", "pow")
            ):
                operands = ["x", "0.25"][: 1 + (row["kind"] == "binary")]
                value = 1.5 if row["name"] == "acosh" else 0.5
                found = draw.evaluate(f"{name}({', '.join(operands)})", draw.values([f"x={value}"]))
                assert found.data == getattr(mingrad, name)(*[value, 0.25][: len(operands)])


def test_a_tree_is_printed_with_gradients():
    done = run("draw", "x**2*sin(y)", "x=2", "y=3", check=0)
    x, y = Variable(2.0, label="x"), Variable(3.0, label="y")
    z = x**2 * mingrad.sin(y)
    z.backward()
    assert done.stdout == f"{tree(z, ascii=False)}\n" and done.stderr == ""


def test_options_may_stand_anywhere_and_a_minus_sign_first_comes_after_two():
    assert (
        run("draw", "--format", "text", "x*y", "x=1", "y=-2", check=0).stdout
        == run("draw", "x*y", "x=1", "--format", "text", "y=-2").stdout
    )
    assert run("draw", "--", "-x", "x=2", check=0).stdout.startswith("neg")


def test_a_terminal_with_few_characters_gets_plain_ones():
    done = run("draw", "ä*ä+1", "ä=2", PYTHONIOENCODING="ascii", check=0)
    assert done.stdout.isascii() and "`- constant" in done.stdout and r"\xe4" in done.stdout


# -- draw: what it refuses ---------------------------------------------------------------------------

ALLOWED = "allowed are numbers, the names that are given values, + - * / // % **, parentheses, and abs acos"
NOT_COMPUTED = [
    "x.data",
    "x.__class__.__mro__",
    "().__class__",
    "__import__('os').system('true')",
    "open('file')",
    "eval('x')",
    "print(x)",
    "lambda: x",
    "(lambda: x)()",
    "[x for x in (x, x)]",
    "{x: x}",
    "{x, x}",
    "(x, x)",
    "[x][0]",
    "'a' * x",
    "f'{x}'",
    "b'a'",
    "x if x else 1",
    "x < 1",
    "x and 1",
    "not x",
    "~x",
    "x @ x",
    "x << 1",
    "x | 1",
    "True * x",
    "None",
    "... * x",
    "2j * x",
    "(x := 2)",
    "sin(*[x])",
    "sin(x=x)",
    "clamp(x, min=0)",
    "max(**x)",
    "sin(sin)(x)",
    "x(2)",
    "backward(x)",
    "sum(x)",
    "await_(x)",
]


@pytest.mark.parametrize("expression", NOT_COMPUTED)
def test_what_is_no_arithmetic_is_refused(capsys, expression):
    text = " ".join(refused(capsys, "draw", "--", expression, "x=2").split())
    assert re.match(r"(['\"]).*\1 is not computed here; ", text) and ALLOWED in text


@pytest.mark.parametrize(
    "expression, problem",
    [
        ("", "'' is no expression: "),
        ("x = 2", "'x = 2' is no expression: "),
        ("x; x", "'x; x' is no expression: "),
        ("import os", "'import os' is no expression: "),
        ("x +", "'x +' is no expression: "),
        ("x \\", "is no expression: "),
        ("*x", "is no expression: "),
        ("yield x", "is no expression: "),
        ("x\0", "is no expression: "),
        ("\ud800", "is no expression: "),
        ("(" * 300 + "x" + ")" * 300, "is no expression: "),
        ("x" * 1001, "the expression has 1,001 characters, at most 1,000 are allowed"),
        ("+".join(["x"] * 300), "the expression is more than 200 operations deep"),
        ("1" + "-" * 900 + "x", "operations deep"),
        ("9**9**9 * x", "9.0 ** 387420489.0: result too large for a float"),
        ("9" * 900 + " * x", "int too large to convert to float"),
        ("1e999 * x", "a number in the expression is too large for a float"),
        ("x**x**x**x**x**x", "2.0 ** 65536.0: result too large for a float"),
        ("(-8)**(1/3) * x", "-8.0 ** 0.3333333333333333: outside the function's domain"),
        ("log(0 - x)", "log(-2.0): outside the function's domain"),
        ("x / (x - x)", "2.0 / 0.0: division by zero"),
        ("1 / 0 * x", "1.0 / 0.0: division by zero"),
        ("sin(x, x)", "sin takes 1 operand, got 2"),
        ("hypot(x)", "hypot takes 2 operands, got 1"),
        ("max(x)", "max takes 2 or more operands, got 1"),
        ("clamp(x)", "clamp takes 2 to 3 operands, got 1"),
        ("sin * x", "sin is a function: write its operands behind it"),
        ("x + y", "y has no value: add name=number"),
        ("2 + 2", "x: given, but not in the expression"),
    ],
)
def test_what_cannot_be_computed_is_said(capsys, expression, problem):
    text = refused(capsys, "draw", "--", expression, "x=2")
    assert problem in " ".join(text.split())
    assert "errstate" not in text and len(text) < 700


@pytest.mark.parametrize(
    "values, problem",
    [
        (["x=1", "x=2"], "x is given two values"),
        (["x=nan"], "x=...: expected a finite number, got 'nan'"),
        (["x=-inf"], "x=...: expected a finite number, got '-inf'"),
        (["x=1e999"], "x=...: expected a finite number, got '1e999'"),
        (["x=two"], "x=...: expected a number, got 'two'"),
        (["x="], "x=...: expected a number, got ''"),
        (["x=1=2"], "x=...: expected a number, got '1=2'"),
        (["x=1+1"], "x=...: expected a number, got '1+1'"),
        (["x"], "expected name=number, such as x=2, got 'x'"),
        (["2=x"], "expected name=number, such as x=2, got '2=x'"),
        (["x.y=1"], "expected name=number, such as x=2, got 'x.y=1'"),
        (["x=1", "sin=2"], "sin=...: sin is a function here, choose another name"),
        (["x=1", "y=2"], "y: given, but not in the expression"),
        ([], "x has no value: add name=number"),
    ],
    ids=str,
)
def test_values_are_numbers_for_names_of_the_expression(capsys, values, problem):
    assert refused(capsys, "draw", "x*x", *values) == problem


def test_an_expression_without_names_has_no_graph(capsys):
    assert refused(capsys, "draw", "2+3") == (
        'the expression has no name in it, it is just 5.0: name a number, such as x in "x**2" x=3'
    )


def test_a_refusal_leaves_one_message_and_the_exit_status_2():
    done = run("draw", "__import__('os')", check=2)
    assert done.stdout == "" and "Traceback" not in done.stderr and "usage: python -m mingrad draw" in done.stderr


def test_text_from_the_command_line_cannot_steer_the_terminal(capsys):
    for hostile in ("\x1b[31m", "\x07", "\u202e", "\r"):
        for arguments in (
            [f"x.{hostile}"],
            ["x*x", f"{hostile}=1"],
            ["x*x", f"x={hostile}"],
            ["x", "x=1", "-o", f"{hostile}.pdf"],
        ):
            text = refused(capsys, "draw", *arguments)
            assert all(c.isprintable() or c == "\n" for c in text), text


# -- draw: files -------------------------------------------------------------------------------------


@pytest.fixture
def layout():
    pytest.importorskip("graphlay", reason="graphlay, which lays out, is not installed")


def test_a_file_has_the_format_of_its_ending(tmp_path, layout):
    pytest.importorskip("resvg_py", reason="resvg-py, which makes pixels, is not installed")
    for ending, begin in ((".svg", b"<svg"), (".html", b"<!"), (".dot", b"digraph"), (".png", b"\x89PNG"), (".txt", b"*")):
        path = tmp_path / f"z{ending}"
        done = run("draw", "x**2*sin(y)", "x=2", "y=3", "-o", str(path), check=0)
        assert path.read_bytes().lower().startswith(begin.lower()), ending
        assert done.stdout.strip().endswith({".txt": "text"}.get(ending, ending[1:]))
    assert "└─" in (tmp_path / "z.txt").read_text(encoding="utf-8")


def test_a_format_without_a_file_is_printed(layout):
    assert run("draw", "x*x", "x=2", "--format", "svg", check=0).stdout.startswith("<svg")
    assert run("draw", "x*x", "x=2", "--format", "dot", check=0).stdout.startswith("digraph")


def test_files_that_cannot_be_are_refused(capsys, tmp_path):
    expected = "expected a file that ends in .txt .svg .html .dot .png, or a --format"
    assert expected in " ".join(refused(capsys, "draw", "x", "x=1", "-o", "z.pdf").split())
    assert "--format png is no text: write it to a file" in refused(capsys, "draw", "x", "x=1", "--format", "png")
    assert main(["draw", "x", "x=1", "-o", str(tmp_path / "no" / "z.txt")]) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("mingrad: [Errno 2]")


def test_a_format_that_is_not_that_of_the_path_is_said(capsys, tmp_path):
    text = refused(capsys, "draw", "x", "x=1", "--format", "dot", "-o", str(tmp_path / "z.svg"))
    assert "the path ends in .svg" in text and not list(tmp_path.iterdir())


def test_a_graph_that_is_too_large_to_draw_is_said(capsys, layout):
    text = refused(capsys, "draw", "+".join([f"(x+{k})*x" for k in range(100)]), "x=1", "--format", "svg")
    assert "too large to draw" in text


def test_a_missing_layout_library_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "graphlay", None)
    monkeypatch.delitem(sys.modules, "mingrad.visualize._layout", raising=False)
    assert main(["draw", "x*x", "x=1", "--format", "svg"]) == 1
    out, error = capsys.readouterr()
    assert out == "" and "graphlay" in error and "mingrad[viz]" in error


def test_a_file_that_the_terminals_encoding_does_not_hold_is_no_traceback(layout):
    done = run("draw", "ä*ä", "ä=2", "--format", "svg", PYTHONIOENCODING="ascii")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "write it to a file, -o FILE" in done.stderr


# -- info --------------------------------------------------------------------------------------------


def test_info_says_what_is_installed():
    done = run("info", check=0)
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(facts) == ["mingrad", "core", "SIMD", "tape", "Python", "system", "extras"]
    assert facts["mingrad"].startswith(mingrad.__version__) and _core._compiler() in facts["core"]
    assert facts["SIMD"].split()[0] == _core._simd() and facts["Python"].startswith(sys.version.split()[0])
    assert ("without the GIL" in facts["Python"]) == (not getattr(sys, "_is_gil_enabled", lambda: True)())
    assert re.match(r"\d+ bytes a node", facts["tape"]) and done.stderr == ""


def test_extras_are_those_of_the_packages_metadata(monkeypatch):
    monkeypatch.setattr(
        info.metadata,
        "requires",
        lambda name: [
            "graphviz; extra == 'viz'",
            "no-such-package>=2; extra == 'viz'",
            'pytest>=8; python_version > "3" and extra == "test"',
            "needed",
        ],
    )
    assert info.extras() == "test; viz (lacks no-such-package)" or "graphviz" in info.extras()

    def missing(name):
        raise info.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(info.metadata, "requires", missing)
    assert "not known" in info.extras()


def test_the_compiler_has_a_name_and_a_version():
    assert re.search(r"\d", _core._compiler()) and _core._compiler().isprintable()


# -- bench -------------------------------------------------------------------------------------------


def test_bench_measures_every_program_in_every_form():
    done = run("bench", "--json", "--seconds", "0")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (
        len(found["programs"]) == 4
        and "median" in found["method"]
        and found["versions"]["mingrad"].startswith(mingrad.__version__)
    )
    for program in found["programs"]:
        assert program["agree"] and program["forms"][0]["ratio"] == 1.0
        names = [row["form"] for row in program["forms"]]
        assert "Value in pure Python" in names and any(name.startswith("mingrad") for name in names)
        for row in program["forms"]:
            assert row["seconds"] > 0.0 and math.isclose(row["ratio"], row["seconds"] / program["forms"][0]["seconds"])
            assert row["samples"] >= bench.ROUNDS


def test_bench_prints_a_table_and_names_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "micrograd", None)
    monkeypatch.setitem(sys.modules, "micrograd.engine", None)
    monkeypatch.setattr(bench, "version", lambda package: None)
    assert main(["bench", "--seconds", "0"]) == 0
    out, error = capsys.readouterr()
    assert error == "" and out.isascii() and "\x1b" not in out
    assert "not installed, so not compared: micrograd, PyTorch (python -m pip install micrograd torch)" in out
    assert len(re.findall(r"^  Value in pure Python +[\d.]+ (?:s|ms|us) +x [\d.,]+$", out, re.MULTILINE)) == 4
    assert "same numbers to 9" in " ".join(out.split()) and "median" in out


def test_bench_notices_forms_that_differ(monkeypatch, capsys):
    def wrong(torch, micrograd):
        return bench.Program("wrong", {"one": lambda: (1.0, lambda: [1.0]), "two": lambda: (1.0, lambda: [1.1])})

    monkeypatch.setattr(bench, "load", lambda module: None)
    for name in ("chain", "perceptron", "names", "rosenbrock"):
        monkeypatch.setattr(bench, name, wrong)
    assert main(["bench", "--seconds", "0"]) == 1
    out, error = capsys.readouterr()
    assert error.startswith("mingrad: forms give different numbers: wrong") and "same numbers" not in out
    assert bench.agree([(1.0, [1.0, 2.0]), (1.0 + 1e-12, [1.0, 2.0 - 1e-10])])
    for other in [(1.1, [1.0, 2.0]), (1.0, [1.0]), (1.0, [1.0, 2.1]), (math.nan, [1.0, 2.0]), (1.0, [math.nan, 2.0])]:
        assert not bench.agree([(1.0, [1.0, 2.0]), other])


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "x", "99999"])
def test_bench_refuses_times_that_are_none(capsys, seconds):
    assert "--seconds" in refused(capsys, "bench", f"--seconds={seconds}")


def test_the_baselines_derivatives_are_mingrads():
    def f(x, y):
        return ((x * y + 2.0 * x - y / x) ** 3.0 + (1.0 - x).exp() * y.log() - (-x).relu() + (x * 3).relu()) / 2.0

    ours, others = [Variable(0.7), Variable(1.3)], [bench.Value(0.7), bench.Value(1.3)]
    f(*ours).backward()
    f(*others).backward()
    for a, b in zip(ours, others):
        assert math.isclose(a.grad, b.grad, rel_tol=1e-14)


def test_times_and_ratios_have_three_digits():
    assert [bench.duration(x) for x in (1.234e-6, 0.0123, 0.9996, 12.3, 123.4)] == [
        "1.23 us",
        "12.3 ms",
        "1.00e+03 ms",
        "12.3 s",
        "123 s",
    ]
    assert [bench.factor(x) for x in (0.5, 3.14159, 27.1, 1234.5)] == ["x 0.50", "x 3.14", "x 27", "x 1,234"]


# -- all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["bench", "draw", "info"])
def test_a_command_explains_itself(command):
    done = run(command, "--help", check=0)
    assert done.stdout.startswith(f"usage: python -m mingrad {command}")
    assert f"  {command} " in run("--help", check=0).stdout


def test_an_unknown_command_is_refused(capsys):
    assert "unrecognized arguments: drwa" in refused(capsys, "drwa")
    assert "unrecognized arguments" in refused(capsys, "info", "more")


@pytest.mark.parametrize("arguments", [["info"], ["draw", "x*x", "x=2"], ["draw", "--help"], ["--help"]], ids=str)
def test_a_reader_that_leaves_is_no_error_to_print(arguments):
    home = str(pathlib.Path(mingrad.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
    environment.pop("PYTHONUNBUFFERED", None)  # without it, output is written at the very end
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mingrad", *arguments], env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=300
        )
    finally:
        os.close(writing)
    assert done.stderr == b"" and done.returncode in (0, 1)


@pytest.mark.parametrize("arguments", [["info"], ["draw", "x*x", "x=2"]], ids=str)
def test_what_is_no_picture_of_the_plane_has_no_colours(arguments):
    for changes in ({"NO_COLOR": "1"}, {"TERM": "xterm-256color"}):
        assert "\x1b" not in run(*arguments, check=0, **changes).stdout
