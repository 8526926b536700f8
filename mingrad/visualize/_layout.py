"""Where the boxes of a picture stand and how its edges run. It knows sizes and numbers, no Variable.

The library is graphlay (extra ``viz``; MIT or Apache-2.0): layers, few crossings, edges routed around boxes of any size,
the same numbers on every system; one wheel of 1.5 MB for all Pythons but free-threaded ones, which need Rust to build it.
What it was compared with in November 2026, on graphs of 12, 59, 309 and 1,237 nodes (crossings; milliseconds):

    graphlay 0.3.1       2  94 137  734; 2  17 147 1466   also 0 overlaps, and no edge runs through a box
    graphviz-pure 0.2.2  3  94 141  664; 10 25  49  420   EPL; a program of 13 MB to start, no library; two releases so far
    fast-sugiyama 0.5.3  4  94 169    -; 0  50  13    -   one size for all boxes, no routes, hung on the largest; not for 3.10
    grandalf 0.8         3 163 244  966; 1 110  88  865   GPL or EPL; last release of January 2023; no routes
    pyelk 0.3.0          6  94 327 1448; 0   4   6   24   EPL; one release; crossings hardly reduced, no routes

igraph and OGDF are under the GPL; networkx has no crossing reduction and no sizes of boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["RANKDIRS", "Layout", "layout"]

RANKDIRS = ("LR", "TB", "RL", "BT")
MARGIN = 12.0  # around the drawing
MAX_EDGES = 2_000
RIGHT_ANGLED = 1_000  # edges up to which they run level and upright; of more, slanted, which takes a tenth of the time
MAX_WAYPOINTS = 5_000  # places where an edge passes a layer between its ends


class Layout(NamedTuple):
    """Places in pixels, x to the right and y down, all within (0, 0) and (width, height)."""

    positions: list[tuple[float, float]]  # of each box, its corner at the top left
    routes: list[list[tuple[float, float]]]  # of each edge, from border to border: at least two points
    width: float
    height: float


def layout(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], rankdir: str = "LR") -> Layout:
    """Return places for boxes and routes for edges, every edge running in the direction of rankdir.

    sizes: width and height of each box, in pixels. edges: pairs of boxes by number, without cycles, no pair twice.
    rankdir: "LR" (left to right), "TB" (top to bottom), "RL" or "BT".

    Raises ImportError if graphlay is missing, ValueError for an unknown rankdir and if the edges are too many or too long.
    """
    if rankdir not in RANKDIRS:
        raise ValueError(f"rankdir must be one of {', '.join(RANKDIRS)}, got {rankdir!r}")
    try:
        import graphlay
    except ImportError as error:
        raise ImportError(
            "laying out a graph needs the package graphlay, which the extra mingrad[viz] adds: python -m pip install graphlay"
        ) from error
    graph = {
        "nodes": [{"size": {"width": float(width), "height": float(height)}} for width, height in sizes],
        "edges": [{"source": source, "target": target} for source, target in edges],
    }
    options = {
        "direction": "leftright" if rankdir in ("LR", "RL") else "topbottom",
        "routing": {"style": "orthogonal" if len(edges) <= RIGHT_ANGLED else "diagonal", "port_sides": "facing_only"},
        "spacing": {"layer_gap": 46.0, "node_gap": 20.0, "dummy_gap": 18.0, "port_gap": 14.0},
        "limits": {"max_edges": MAX_EDGES, "max_dummies": MAX_WAYPOINTS},
    }
    try:
        drawn = graphlay.layout(graph, options=options)
    except graphlay.GraphlayError as error:
        if not str(error).startswith("too many"):
            raise
        raise ValueError(
            f"the graph has too many edges that pass others to be laid out ({error}): draw a part of it, write it as 'dot' for "
            "Graphviz, or print mingrad.visualize.tree(v)"
        ) from error
    low, high = drawn.bounds["min"], drawn.bounds["max"]
    width, height = high["x"] - low["x"] + 2 * MARGIN, high["y"] - low["y"] + 2 * MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        x, y = x - low["x"] + MARGIN, y - low["y"] + MARGIN
        return round(width - x if rankdir == "RL" else x, 2), round(height - y if rankdir == "BT" else y, 2)

    positions = []
    for node, (box_width, box_height) in zip(drawn.nodes, sizes):
        x, y = place(node["center"]["x"], node["center"]["y"])
        positions.append((round(x - box_width / 2, 2), round(y - box_height / 2, 2)))
    routes = [[place(point["x"], point["y"]) for point in edge["points"]] for edge in drawn.edges]
    return Layout(positions, routes, round(width, 2), round(height, 2))
