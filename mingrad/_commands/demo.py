"""``python -m mingrad``: train micrograd's moons demo and draw what it learned in the terminal.

Only printing and drawing: the model, its loss and its training loop are in ``examples/moons.py``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time

from ..engine import no_grad, tape_info
from ..examples import moons
from ..nn import MLP
from ..visualize.text import can_print

REQUIRED = 0.99  # accuracy below which the program exits with 1
LEFT, RIGHT, BOTTOM, TOP = -1.6, 2.6, -0.95, 1.45  # the part of the plane that is drawn
ROWS = 20  # of text
# Colours of xterm's 256, from unsure to sure of the class -1 and of the class 1.
SHADES = {-1: (195, 153, 111, 68), 1: (230, 223, 216, 209)}
POINT_COLOUR = {-1: 18, 1: 88}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=100, help="training steps (100)")
    parser.add_argument("--seed", type=int, default=1337, help="of the initial weights (1337)")
    parser.add_argument("--no-color", action="store_true", help="draw with characters only")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Run the command; return its exit status: 0, or 1 if the accuracy is below 99 %."""
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")

    progress = Progress(options.steps)
    nodes_before = tape_info().recorded
    model = moons.train(options.steps, options.seed, progress.report)
    nodes = tape_info().recorded - nodes_before

    X, Y = moons.load()
    with no_grad():
        loss, accuracy = moons.loss(model, X, Y)
    print("\n".join(picture(model, X, Y, colour=not options.no_color and wants_colour())))
    print(f"loss {loss.data:.4f}, accuracy {100 * accuracy:.0f} % of {len(Y)} points after {options.steps} steps")
    print(
        f"{1e3 * progress.seconds / options.steps:.2f} ms a step, {nodes / progress.seconds / 1e6:.1f} million nodes a second"
    )
    if accuracy < REQUIRED:
        print(f"mingrad: expected an accuracy of at least {REQUIRED:.0%}", file=sys.stderr)
        return 1
    return 0


class Progress:
    """Prints how training goes: one line that changes on a terminal, else about five lines.

    ``seconds`` is the time that training took; the printing is left out.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds = 0.0
        self._resumed = time.perf_counter()
        self._terminal = sys.stdout.isatty()

    def report(self, step: int, loss: float, accuracy: float) -> None:
        self.seconds += time.perf_counter() - self._resumed
        last = step + 1 == self.steps
        if self._terminal or last or step % max(1, self.steps // 5) == 0:
            line = f"step {step + 1:{len(str(self.steps))}}/{self.steps}  loss {loss:.4f}  accuracy {100 * accuracy:3.0f} %"
            if self._terminal:
                print(f"\r{line}", end="\n" if last else "", flush=True)
            else:
                print(line)
        self._resumed = time.perf_counter()


def wants_colour() -> bool:
    """Return whether standard output is a terminal whose user has not asked for plain text."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    if os.name == "nt" and not (os.environ.get("WT_SESSION") or os.environ.get("TERM")):
        return False  # the old console prints escape sequences instead of obeying them
    return sys.stdout.isatty()


def picture(model: MLP, X: list[list[float]], Y: list[float], colour: bool) -> list[str]:
    """Return the lines of a drawing: how model divides the plane, and the points X of class Y.

    With colour, a character is two cells, one above the other, shaded by how sure the model is.
    Without, it is one cell, empty on one side of the boundary and shaded on the other.
    """
    circle, cross, shade = "●", "×", "░"
    if not can_print(circle + cross + shade + "▀"):
        circle, cross, shade = "o", "x", "."
        colour = False
    columns = max(20, min(72, shutil.get_terminal_size().columns - 1))

    def place(x: float, y: float) -> tuple[int, int]:
        return (int((x - LEFT) / (RIGHT - LEFT) * columns), int((TOP - y) / (TOP - BOTTOM) * ROWS))

    def score(column: float, row: float) -> float:
        x = LEFT + (column + 0.5) * (RIGHT - LEFT) / columns
        y = TOP - (row + 0.5) * (TOP - BOTTOM) / ROWS
        found: float = model([x, y]).data
        return found

    def shade_of(score: float) -> int:
        return SHADES[1 if score > 0 else -1][min(3, int(2 * abs(score)))]

    points = {place(*point): int(label) for point, label in zip(X, Y)}
    lines = []
    with no_grad():
        for row in range(ROWS):
            line = ""
            for column in range(columns):
                label = points.get((column, row))
                mark = {None: None, -1: circle, 1: cross}[label]
                if not colour:
                    line += mark or (shade if score(column, row) > 0 else " ")
                elif label is not None:
                    line += f"\x1b[1;38;5;{POINT_COLOUR[label]};48;5;{shade_of(score(column, row))}m{mark}\x1b[0m"
                else:
                    upper, lower = (shade_of(score(column, row + half)) for half in (-0.25, 0.25))
                    line += f"\x1b[38;5;{upper};48;5;{lower}m▀\x1b[0m"
            lines.append(line if colour else line.rstrip())
    return lines
