"""Graphs to look at. Here are names only; each file beside this one says what it does.

draw() makes SVG, HTML, DOT and PNG (drawing.py); trace() and draw_dot() are micrograd's, on the graphviz package (dot.py).
explore() writes a page that steps through the backward pass (explorer.py).
plot_loss() and its like draw with matplotlib (plots.py), tree() with characters alone (text.py). What is not micrograd's is
imported when it is first asked for. What notebooks show of Variables, modules, programs and histories is in reprs.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .dot import draw_dot, trace

if TYPE_CHECKING:
    from .drawing import draw
    from .explorer import explore
    from .plots import plot_decision_boundary, plot_gradients, plot_loss, plot_loss_surface, plot_tangent
    from .text import tree

__all__ = [
    "draw",
    "draw_dot",
    "explore",
    "plot_decision_boundary",
    "plot_gradients",
    "plot_loss",
    "plot_loss_surface",
    "plot_tangent",
    "trace",
    "tree",
]

# Imported when first asked for: names by their submodule.
_NAMES = {name: "plots" for name in __all__ if name.startswith("plot_")} | {
    "draw": "drawing",
    "explore": "explorer",
    "tree": "text",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
