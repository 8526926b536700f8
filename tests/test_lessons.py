"""mingrad/examples/lessons: each runs as a script and as a notebook, and is written in the format that makes it both.

What a lesson says is checked by its own asserts; here it is only run. Notebooks need jupytext, nbclient and ipykernel.
"""

import importlib
import re
from pathlib import Path

import pytest

from helpers import importable, run_python
from mingrad.examples import lessons

FOLDER = Path(lessons.__file__).parent
README = Path(__file__).resolve().parent.parent / "README.md"
SCRIPT = "import runpy, sys; runpy.run_module(f'mingrad.examples.lessons.{sys.argv.pop(1)}', run_name='__main__')"
NOTEBOOKS = [name for name in ("jupytext", "nbclient", "nbformat", "ipykernel") if not importable(name)]
MATPLOTLIB = importable("matplotlib")


def source(lesson):
    return (FOLDER / f"{lesson}.py").read_text(encoding="utf-8")


def cells(text):
    """[(kind, text)] of a script in the percent format; raises ValueError for one that is not."""
    found = []
    for line in text.splitlines():
        if line in ("# %%", "# %% [markdown]"):
            found.append(("markdown" if line.endswith("]") else "code", []))
        elif line.startswith("# %%") or not found:
            raise ValueError(f"expected a cell to begin, got {line!r}")
        else:
            found[-1][1].append(line)
    result = []
    for kind, lines in found:
        if kind == "markdown":
            if wrong := [line for line in lines if line and not re.match("#( |$)", line)]:
                raise ValueError(f"expected '# ' before each line of text, got {wrong[0]!r}")
            lines = [line[2:] for line in lines]
        result.append((kind, "\n".join(lines).strip()))
        if not result[-1][1]:
            raise ValueError("expected something in each cell")
    return result


def figures(lesson):
    """How many figures a lesson shows."""
    return len(re.findall(r"^show\(", source(lesson), re.MULTILINE))


# -- the format ------------------------------------------------------------------------------------


def test_the_lessons_are_the_files_that_are_there():
    assert sorted(path.stem for path in FOLDER.glob("lesson*.py")) == sorted(lessons.LESSONS)
    assert len(lessons.LESSONS) == 9


def test_readme_leads_to_each_lesson_in_order():
    if not README.exists():
        pytest.skip("README.md is missing; another test fails for it")
    links = re.findall(r"\]\(mingrad/examples/lessons/(\w+)\.py\)", README.read_text(encoding="utf-8"))
    assert tuple(links) == lessons.LESSONS


@pytest.mark.parametrize("number, lesson", list(enumerate(lessons.LESSONS, 1)))
def test_a_lesson_is_written_in_cells_and_ends_with_exercises_and_their_answers(number, lesson):
    (first, opening), (second, imports), *_ = found = cells(source(lesson))
    assert first == "markdown" and re.match(rf"# {number}\. \w", opening) and lesson.startswith(f"lesson{number}_")
    assert f"`python -m mingrad.examples.lessons.{lesson}`" in opening
    assert second == "code" and "import" in imports
    assert all(len([cell for cell in found if cell[0] == kind]) >= 5 for kind in ("markdown", "code"))
    kinds, texts = zip(*found)
    exercises = [place for place, text in enumerate(texts) if text.startswith("## Exercises")]
    assert len(exercises) == 1 and re.findall(r"^(\d)\. ", texts[exercises[0]], re.MULTILINE) == ["1", "2", "3"]
    assert {*kinds[exercises[0] + 1 :]} == {"code"} and "assert" in "".join(texts[exercises[0] + 1 :])
    for kind, text in found:  # a figure is what a cell ends in, or a notebook would not show it
        if kind == "code" and re.search(r"^show\(", text, re.MULTILINE):
            assert text.splitlines()[-1].startswith("show(") and text.count("\nshow(") <= 1


@pytest.mark.parametrize(
    "text",
    [
        "import os\n# %%\nos\n",
        "# %% a title\nx = 1\n",
        "# %% [markdown]\ntext\n",
        "# %%\n\n# %%\nx = 1\n",
        "# %% [markdown]\n#text\n",
    ],
    ids=range(5),
)
def test_a_script_in_another_format_is_noticed(text):
    with pytest.raises(ValueError, match="expected"):
        cells(text)


# -- scripts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", lessons.LESSONS)
def test_a_lesson_runs_as_a_script_and_keeps_its_figures_where_it_is_told_to(lesson, tmp_path):
    folder = tmp_path / "figures"
    # any system's terminal can print what a lesson prints
    output = run_python(SCRIPT, lesson, "--figures", str(folder), MPLBACKEND="agg", PYTHONIOENCODING="ascii")
    assert output
    expected = [f"{lesson}-{number}.png" for number in range(1, figures(lesson) + 1)] if MATPLOTLIB else []
    written = sorted(path.name for path in folder.glob("*")) if folder.exists() else []
    assert written == expected
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in written)
    assert output.count("is left out: ") == (0 if MATPLOTLIB else figures(lesson))


def test_without_other_packages_lessons_run_and_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = """
        import importlib, sys
        sys.modules.update(dict.fromkeys(["matplotlib", "matplotlib.axes", "matplotlib.figure", "numpy", "fsrs"]))
        from mingrad.examples import lessons
        for lesson in lessons.LESSONS:
            importlib.import_module(f"mingrad.examples.lessons.{lesson}")
    """
    output = run_python(code, PYTHONIOENCODING="ascii")
    assert output.count("is left out: plot_") == sum(map(figures, lessons.LESSONS)) > 10
    assert output.count("python -m pip install 'mingrad[plot]'") == sum(map(figures, lessons.LESSONS))
    assert "(left out: the scheduler is the package fsrs: python -m pip install 'mingrad[examples]')" in output
    assert not list(tmp_path.iterdir())


def test_an_option_that_lessons_have_not_is_refused():
    run_python(SCRIPT, "lesson1_derivative", "--pictures", "folder", status=2)


# -- notebooks -------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(NOTEBOOKS), reason=f"packages for notebooks are not installed: {', '.join(NOTEBOOKS)}")
@pytest.mark.parametrize("lesson", lessons.LESSONS)
def test_a_lesson_runs_as_a_notebook_which_shows_its_figures(lesson, tmp_path, monkeypatch):
    jupytext, nbclient = importlib.import_module("jupytext"), importlib.import_module("nbclient")
    notebook = jupytext.reads(source(lesson), fmt="py:percent")
    assert [(cell.cell_type, cell.source.strip()) for cell in notebook.cells] == cells(source(lesson))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[2]))
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == (figures(lesson) if MATPLOTLIB else 0)
    assert not list(tmp_path.iterdir())
