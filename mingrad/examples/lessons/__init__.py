"""Nine lessons, from one derivative to a scheduler's parameters: scripts to run, which are notebooks too.

    python -m mingrad.examples.lessons.lesson1_derivative
    python -m mingrad.examples.lessons.lesson1_derivative --figures folder

They are in jupytext's percent format: VS Code and PyCharm run them cell by cell, Jupyter opens them where jupytext is installed,
and ``jupytext --to notebook lesson1_derivative.py`` writes a notebook. Figures need matplotlib; without it all else runs. Here are
the lessons' names, and what they share.
"""

from __future__ import annotations

import argparse
import builtins
import os
import time
from collections.abc import Callable
from typing import Any, TypeAlias

LESSONS = (
    "lesson1_derivative",
    "lesson2_graph",
    "lesson3_neuron",
    "lesson4_moons",
    "lesson5_modes",
    "lesson6_newton",
    "lesson7_tape",
    "lesson8_compile",
    "lesson9_scheduler",
)

Scalar: TypeAlias = Any  # a float or a Variable: most functions of the lessons take either


def figures(lesson: str, name: str) -> Callable[..., Any]:
    """Return ``show(draw, *args, **kwargs)``, which draws a figure and returns its Axes for a notebook to show.

    lesson: one of LESSONS. name: the lesson's ``__name__``; a script's options are read here, of which there is one:
    ``--figures FOLDER`` writes each figure to a file there. Without matplotlib show() says so and returns None.

    >>> from mingrad.examples.lessons import figures
    >>> show = figures("lesson1_derivative", "not run as a script")
    >>> show(lambda label: label, "what draw gives")
    'what draw gives'
    """
    folder, count = None, 0
    if name == "__main__" and not hasattr(builtins, "__IPYTHON__"):
        parser = argparse.ArgumentParser(prog=f"python -m mingrad.examples.lessons.{lesson}")
        parser.add_argument("--figures", metavar="FOLDER", help="write the lesson's figures there, as PNG")
        folder = parser.parse_args().figures

    def show(draw: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        try:
            ax = draw(*args, **kwargs)
        except ImportError as error:
            print(f"(figure {count} is left out: {error})")
            return None
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, f"{lesson}-{count}.png")
            ax.figure.savefig(path, dpi=150)
            print(f"(figure {count}: {path})")
        return ax

    return show


def seconds(call: Callable[[], object], times: int = 5) -> float:
    """Return how long a call takes: the shortest of so many.

    >>> from mingrad.examples.lessons import seconds
    >>> seconds(lambda: sum(range(1000))) > 0.0
    True
    """
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begun)
    return best
