"""Graphs to look at. Here are names only; each file beside this one says what it does.

trace() and draw_dot() are micrograd's, on the graphviz package (dot.py).
"""

from __future__ import annotations

from .dot import draw_dot, trace

__all__ = ["draw_dot", "trace"]
