"""Plots of functions, losses, gradients and models with matplotlib (extra ``plot``).

Each function draws on the Axes it is given, or on a Figure of its own, and returns the Axes. None shows a window or touches
pyplot: a notebook shows the Axes that a cell ends in, ``ax.figure.savefig(path)`` writes a file. Graphs are drawn elsewhere in
this package; the history's panels are laid out by ``History.plot()``, which draws them with plot_loss().
"""

from __future__ import annotations

import functools
import io
import math
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..autodiff import value_and_grad
from ..engine import Variable, VariableList, errstate, no_grad
from ..nn import Module
from ..program import RecordingError
from ..rows import vmap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_decision_boundary", "plot_gradients", "plot_loss", "plot_loss_surface", "plot_tangent"]

CLASSES = ("#2f6fb3", "#d2601a", "#3a923a", "#8a63b8", "#a8813a", "#c0447e", "#2f9aa0", "#7d7d7d", "#8f9a1e", "#5b4ba0")
PALE = 0.62  # how much white is in the colour of a class's region
INK = "#333333"  # lines on pale regions


def plot_loss(
    history: Mapping[str, Sequence[float]] | Sequence[Any], ax: Axes | None = None, names: Sequence[str] | None = None
) -> Axes:
    """Draw curves of a training; return the Axes.

    history: what ``fit`` returns, or a dict of lists like it; or a plain list of losses, one for each step. names: the
    history's lists to draw over the epochs; None: "loss" and, where it is there, "validation loss". Metrics have scales of
    their own: ``plot_loss(history, names=["validation accuracy"])``; ``history.plot()`` draws all side by side.

    Raises ImportError if matplotlib, the extra mingrad[plot], is missing; ValueError for a name that the history has not.

    >>> from mingrad.visualize import plot_loss
    >>> ax = plot_loss({"epoch": [1, 2, 3], "loss": [0.9, 0.4, 0.2], "validation loss": [1.0, 0.6, 0.5]})
    >>> [line.get_label() for line in ax.lines]
    ['loss', 'validation loss']
    """
    ax = _axes("plot_loss", ax, (4.8, 3.6))
    from matplotlib.ticker import MaxNLocator

    if not isinstance(history, Mapping):
        if names is not None:
            raise ValueError(f"plot_loss: expected names with a history, which has lists by name, got {names!r} with a list")
        losses = [_number("plot_loss: a loss", loss) for loss in history]
        history, names, over = {"step": range(1, len(losses) + 1), "loss": losses}, ["loss"], "step"
    else:
        over = "epoch"
        if names is None:
            names = [name for name in ("loss", "validation loss") if name in history]
        for name in [over, *names]:
            if name not in history:
                raise ValueError(f"plot_loss: expected one of {', '.join(map(repr, history))}, got {name!r}")
    marker = "." if len(history[over]) < 30 else ""  # a single epoch has no line
    for name in names:
        ax.plot(history[over], history[name], label=name, marker=marker)
    ax.set_xlabel(over)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if names:
        ax.legend()
    return ax


def plot_decision_boundary(
    model: Callable[..., Any] | Module,
    X: Iterable[Sequence[float]],
    y: Iterable[Any],
    ax: Axes | None = None,
    *,
    threshold: float = 0.0,
    steps: int = 150,
) -> Axes:
    """Draw how a model of two inputs divides the plane, and the points it should divide; return the Axes.

    model: called as ``model([a, b])``. It gives one number, which says one of two classes by whether it is above threshold
    (for probabilities 0.5), or a number for each class, the largest of which wins. A Module is asked in evaluation mode and
    then put back. X: points, two numbers each. y: their classes; for one number two values, the lower of which is below
    threshold; for several the places 0, 1, ... steps: of the grid, in each direction.

    Of one number the shade says how far it is from threshold; cells where it is not finite stay empty. The grid is computed
    by :func:`mingrad.vmap`, or point by point where the model cannot be recorded.

    Raises ImportError if matplotlib is missing, TypeError or ValueError for what does not fit together.

    >>> from mingrad.visualize import plot_decision_boundary
    >>> ax = plot_decision_boundary(lambda p: p[0] + p[1] - 1, [[0, 0], [1, 1], [0, 2]], [-1, 1, 1])
    >>> ax.images[0].get_array().shape, [points.get_label() for points in ax.collections[1:]]
    ((150, 150), ['-1', '1'])
    """
    where = "plot_decision_boundary"
    _check_steps(where, steps)
    points = [[_number(f"{where}: X", number) for number in point] for point in X]
    labels = [_label(label) for label in (y.tolist() if hasattr(y, "tolist") else y)]
    if not points or any([len(point) != 2 for point in points]):
        raise ValueError(f"{where}: expected X to be points of two numbers, got {points[:1]!r} first")
    if len(points) != len(labels):
        raise ValueError(f"{where}: expected a class in y for each of {len(points)} points, got {len(labels)}")
    if not all([math.isfinite(number) for point in points for number in point]):
        raise ValueError(f"{where}: expected X to be finite")
    ax = _axes(where, ax, (5.2, 4.2))
    from matplotlib.colors import CenteredNorm, LinearSegmentedColormap, ListedColormap

    (left, right), (bottom, top) = (_widened([point[k] for point in points]) for k in (0, 1))
    # pixels of the image have their middle where the model is asked
    xs, ys = ([low + (k + 0.5) * (high - low) / steps for k in range(steps)] for low, high in ((left, right), (bottom, top)))
    columns = _outputs(model, points[0], [[x, y] for y in ys for x in xs])
    known = sorted(set(labels))
    if len(columns) == 1 and len(known) > 2:
        raise ValueError(f"{where}: expected two classes in y, as the model gives one number, got {known!r}")
    if len(columns) > 1 and not set(known) <= set(range(len(columns))):
        raise ValueError(
            f"{where}: expected classes from 0 to {len(columns) - 1} in y, as the model gives {len(columns)} numbers, got {known!r}"
        )
    colours = [CLASSES[k % len(CLASSES)] for k in range(max(2, len(columns)))]
    pale = [_mixed(colour, PALE) for colour in colours]
    picture = dict(extent=(left, right, bottom, top), origin="lower", aspect="auto", zorder=0)
    if len(columns) == 1:
        scores = [score if math.isfinite(score) else math.nan for score in columns[0]]
        far = sorted([abs(score - threshold) for score in scores if score == score])
        if not far:
            raise ValueError(f"{where}: expected a finite number somewhere on the grid, got none")
        shades = LinearSegmentedColormap.from_list("mingrad", [colours[0], pale[0], "#ffffff", pale[1], colours[1]])
        norm = CenteredNorm(threshold, far[len(far) * 19 // 20] or 1.0)  # a few far corners shall not make all else pale
        ax.imshow(_rows(scores, steps), cmap=shades, norm=norm, alpha=0.75, **picture)
        if any([score <= threshold for score in scores]) and any([score > threshold for score in scores]):
            ax.contour(xs, ys, _rows(scores, steps), levels=[threshold], colors=INK, linewidths=1.2)
        colour_of = dict(zip(known, colours if len(known) == 2 else [colours[1 if known[0] > threshold else 0]]))
    else:
        winners = [max(range(len(columns)), key=numbers.__getitem__) for numbers in zip(*columns)]
        ax.imshow(_rows(winners, steps), cmap=ListedColormap(pale), vmin=-0.5, vmax=len(pale) - 0.5, **picture)
        colour_of = dict(enumerate(colours))
    for label in known:
        mine = [point for point, other in zip(points, labels) if other == label]
        ax.scatter(*zip(*mine), s=26, color=colour_of[label], edgecolors="white", linewidths=0.7, label=f"{label}")
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.legend(title="class", framealpha=0.9)
    return ax


def plot_gradients(model: Module | Mapping[str, Iterable[Variable]], ax: Axes | None = None, *, bins: int = 40) -> Axes:
    """Draw a histogram of the gradients of each layer, one above the other on one scale; return the Axes.

    model: a Module after ``backward()``; a layer is what holds parameters (neurons count to their Layer). Or a dict of
    Variables by the name of their layer. The text at a layer's right is the root of its gradients' mean square: layers whose
    numbers differ by much learn at different speeds. bins: bars over the scale, which ends at the largest gradient.

    Raises ImportError if matplotlib is missing, ValueError if all gradients are 0, as they are before ``backward()``, or one
    is not finite.

    >>> from mingrad import Variable
    >>> from mingrad.visualize import plot_gradients
    >>> a, b = Variable(1.0), Variable(2.0)
    >>> (a * b * b).backward()
    >>> ax = plot_gradients({"first": [a], "second": [b]})
    >>> [text.get_text() for text in ax.texts]
    ['rms 4.0e+00', 'rms 4.0e+00']
    """
    where = "plot_gradients"
    _check_steps(where, bins, "bins")
    layers: dict[str, list[Variable]] = {}
    if isinstance(model, Module):
        for name, parameter in model.named_parameters():
            layers.setdefault(_layer(name) or type(model).__name__, []).append(parameter)
    elif isinstance(model, Mapping):
        layers = {name: list(parameters) for name, parameters in model.items()}
    else:
        raise TypeError(f"{where}: expected a Module or a dict of Variables by layer, got {type(model).__name__}")
    gradients = {name: [parameter.grad for parameter in parameters] for name, parameters in layers.items() if parameters}
    for name, numbers in gradients.items():
        if not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"{where}: expected finite gradients, got {next(g for g in numbers if not math.isfinite(g))} in {name}"
            )
    end = max([abs(g) for numbers in gradients.values() for g in numbers], default=0.0)
    if end == 0.0:
        raise ValueError(f"{where}: expected gradients, got none but 0: call backward() on the loss first")
    ax = _axes(where, ax, (5.6, 1.2 + 0.62 * len(gradients)))
    from matplotlib.ticker import MaxNLocator

    edges = [end * (2.0 * k / bins - 1.0) for k in range(bins + 1)]
    for place, (name, numbers) in enumerate(gradients.items()):
        counts = [0.0] * bins
        for gradient in numbers:
            counts[min(bisect_right(edges, gradient), bins) - 1] += 1.0
        base = float(len(gradients) - 1 - place)
        scale = 0.85 / max(counts)
        bars = ax.stairs([base + scale * n for n in counts], edges, baseline=base, fill=True, color=CLASSES[0], alpha=0.85)
        bars.set_gid(name)
        ax.axhline(base, color="0.6", linewidth=0.6)
        mean = math.sqrt(math.fsum([g * g for g in numbers]) / len(numbers))
        ax.text(0.99, base + 0.4, f"rms {mean:.1e}", transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=8)
    ax.set_yticks([len(gradients) - 1.0 - place for place in range(len(gradients))], list(gradients))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(xlabel="gradient", xlim=(edges[0], edges[-1]), ylim=(-0.08, len(gradients)))
    return ax


def plot_loss_surface(
    loss: Callable[[], Any],
    params: Module | Iterable[Any],
    ax: Axes | None = None,
    directions: Sequence[Iterable[Any]] | None = None,
    *,
    seed: int = 0,
    span: float = 1.0,
    steps: int = 41,
) -> Axes:
    """Draw the loss over a plane through the parameters, as shades with lines of equal loss; return the Axes.

    loss: a function without arguments that computes the loss from the parameters. params: a Module, or Variables and
    sequences of Variables. directions: two sequences with a number for each parameter, which span the plane; None: two random
    ones from seed, filter-normalised: what belongs to one neuron has in the direction the norm that it has in the model
    (rows of a Module's weights; the sequences in a list), so that a step along it means the same everywhere. The cross is
    where the parameters are; the picture reaches from -span to span times each direction, in steps points.

    Parameters are written while the loss is computed, steps**2 times under ``no_grad()``, and have their old bits afterwards,
    after an error and Ctrl-C too; graphs that used them before are stale then. Shades and lines are
    closer together near the lowest loss, by the cube; where the loss is not finite the picture is empty.

    Raises ImportError if matplotlib is missing, ValueError for directions that do not fit.

    >>> from mingrad import Variable
    >>> from mingrad.visualize import plot_loss_surface
    >>> a, b = Variable(1.0), Variable(2.0)
    >>> ax = plot_loss_surface(lambda: a * a + 10 * b, [a, b], directions=[(1, 0), (0, 1)], span=2.0, steps=3)
    >>> ax.images[0].get_array().tolist()
    [[1.0, 1.0, 9.0], [21.0, 21.0, 29.0], [41.0, 41.0, 49.0]]
    >>> a.data, b.data
    (1.0, 2.0)
    """
    where = "plot_loss_surface"
    _check_steps(where, steps)
    if not 0.0 < span < math.inf:
        raise ValueError(f"{where}: expected span to be above 0, got {span!r}")
    groups = _groups(where, params)
    parameters = VariableList([parameter for group in groups for parameter in group])
    here = [parameter.data for parameter in parameters]
    if directions is None:
        rng = random.Random(seed)
        directions = [_filter_normalised(groups, rng) for _ in range(2)]
        if not any(directions[0]):
            raise ValueError(f"{where}: expected parameters that are not all 0, which have no scale: give directions")
    both = [[_number(f"{where}: a direction", number) for number in direction] for direction in directions]
    if len(both) != 2 or any([len(direction) != len(here) for direction in both]):
        raise ValueError(
            f"{where}: expected two directions of {len(here)} numbers, one for each parameter, "
            f"got {len(both)} of {', '.join([str(len(direction)) for direction in both])}"
        )
    ax = _axes(where, ax, (5.0, 4.2))
    from matplotlib.colors import PowerNorm

    ticks = [span * (2.0 * k / (steps - 1) - 1.0) for k in range(steps)]
    losses = []
    with no_grad(), errstate(all="ignore"):
        try:
            for b in ticks:
                for a in ticks:
                    parameters.copy_([x + a * u + b * v for x, u, v in zip(here, *both)])
                    losses.append(_number(f"{where}: the loss", loss()))
        finally:
            parameters.copy_(here)  # in one call of C, which Ctrl-C cannot cut in two
    finite = [number for number in losses if math.isfinite(number)]
    if not finite:
        raise ValueError(f"{where}: expected a finite loss somewhere, got none")
    low, high = min(finite), max(finite)
    rows = _rows([number if math.isfinite(number) else math.nan for number in losses], steps)
    half = span / (steps - 1)
    norm = PowerNorm(1 / 3, low, high if high > low else low + 1.0)  # equal steps would show the walls alone
    extent = (-span - half, span + half, -span - half, span + half)
    ax.imshow(rows, norm=norm, extent=extent, origin="lower", aspect="auto", cmap="viridis", interpolation="nearest", zorder=0)
    if high > low:
        levels = [low + (high - low) * (k / 11) ** 3 for k in range(1, 11)]
        lines = ax.contour(ticks, ticks, rows, levels=levels, colors="white", linewidths=0.7, alpha=0.8)
        ax.clabel(lines, fmt="%.3g", fontsize=7)
    ax.plot([0.0], [0.0], "x", color="white", markersize=9, markeredgewidth=2)
    ax.set(xlabel="first direction", ylabel="second direction", xlim=(-span, span), ylim=(-span, span))
    return ax


def plot_tangent(f: Callable[[Any], Any], x: float, ax: Axes | None = None, *, span: float = 2.0, steps: int = 201) -> Axes:
    """Draw f around x, the point at x, and the line that touches f there; return the Axes.

    f: a function of one number in mingrad's operations. The line's slope is the exact derivative. span: how far to each side.
    Where f has no finite value the curve has a gap.

    Raises ImportError if matplotlib is missing, and what f raises at x.

    >>> from mingrad.visualize import plot_tangent
    >>> ax = plot_tangent(lambda x: x**2, 3.0)
    >>> [line.get_label() for line in ax.lines]
    ['f', 'tangent, slope 6', 'f(3) = 9']
    """
    _check_steps("plot_tangent", steps)
    if not 0.0 < span < math.inf:
        raise ValueError(f"plot_tangent: expected span to be above 0, got {span!r}")
    x = _number("plot_tangent: x", x)
    value, slope = [_number("plot_tangent: f", number) for number in value_and_grad(f)(x)]
    ax = _axes("plot_tangent", ax, (4.8, 3.6))
    xs = [x + span * (2.0 * k / (steps - 1) - 1.0) for k in range(steps)]
    curve = []
    with no_grad():
        for t in xs:
            try:
                curve.append(_number("plot_tangent: f", f(Variable(t))))
            except (ArithmeticError, ValueError):  # Python's words for what has no value here
                curve.append(math.nan)
    ax.plot(xs, curve, color=CLASSES[0], linewidth=2, label="f")
    # a line without ends, which the picture's scale does not follow
    ax.axline((x, value), slope=slope, linestyle="--", color=CLASSES[1], label=f"tangent, slope {slope:.4g}")
    ax.plot([x], [value], "o", color=CLASSES[1], label=f"f({x:.4g}) = {value:.4g}")
    ax.set_xlabel("x")
    ax.legend()
    return ax


# -- Axes ------------------------------------------------------------------------------------------


def _axes(where: str, ax: Any, size: tuple[float, float]) -> Any:
    """The Axes to draw on: the given ones, or those of a new Figure, which a notebook shows."""
    try:
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"{where}() needs matplotlib, which the extra mingrad[plot] adds: python -m pip install 'mingrad[plot]'"
        ) from error
    if ax is None:
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.subplots()
        # A notebook asks for this method; it knows by itself figures of pyplot only.
        figure._repr_png_ = ax._repr_png_ = functools.partial(_png, figure)  # type: ignore[attr-defined, unused-ignore]
    elif not isinstance(ax, Axes):
        raise TypeError(f"{where}: expected ax to be the Axes to draw on, or None for new ones, got {type(ax).__name__}")
    return ax


def _png(figure: Any) -> tuple[bytes, dict[str, int]]:
    """A picture for notebooks, with two dots for one, and the size at which to show it."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=2 * figure.dpi)
    width, height = (int(inches * figure.dpi) for inches in figure.get_size_inches())
    return data.getvalue(), {"width": width, "height": height}


def _mixed(colour: str, white: float) -> str:
    """A colour '#rrggbb' with so much white in it."""
    parts = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join([f"{round(part + white * (255 - part)):02x}" for part in parts])


# -- numbers ---------------------------------------------------------------------------------------


def _check_steps(where: str, steps: object, name: str = "steps") -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ValueError(f"{where}: expected {name} to be an int of at least 2, got {steps!r}")


def _number(what: str, value: Any) -> float:
    """The float that value is or holds."""
    if isinstance(value, Variable):
        return value.data
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: expected a number, got {type(value).__name__}") from None


def _label(label: Any) -> Any:
    """A class: a number that is whole as an int; in a list of its own, as a model's targets are, as if without."""
    if isinstance(label, (list, tuple)) and len(label) == 1:
        label = label[0]
    if isinstance(label, Variable):
        label = label.data
    return int(label) if isinstance(label, (bool, float)) and math.isfinite(label) and label == int(label) else label


def _rows(numbers: Sequence[float], steps: int) -> list[Sequence[float]]:
    return [numbers[k : k + steps] for k in range(0, len(numbers), steps)]


def _widened(numbers: Sequence[float]) -> tuple[float, float]:
    """An interval with room around these numbers."""
    room = 0.15 * (max(numbers) - min(numbers)) or 1.0
    return min(numbers) - room, max(numbers) + room


# -- models ----------------------------------------------------------------------------------------


def _outputs(model: Any, first: list[float], points: list[list[float]]) -> list[list[float]]:
    """What model gives for each point: a list with a number for each, or one such list for each class."""
    modules = [(module, module.training) for module in model.modules()] if isinstance(model, Module) else []
    try:
        for module, _ in modules:
            module.training = False
        with no_grad(), errstate(all="ignore"):
            places = len(_flat(model(first)))  # raises what a model has to raise, in its own words
            try:
                result = vmap(lambda point: model(point))(points)
                columns = [column.tolist() for column in (result if isinstance(result, (list, tuple)) else [result])]
                # a recording has frozen what is not computed from the point, such as a random number
                tried = range(0, len(points), max(1, len(points) // 7))
                agrees = all([_close([column[k] for column in columns], _flat(model(points[k]))) for k in tried])
            except (AttributeError, RecordingError, RuntimeError, TypeError, ValueError):
                agrees = False
            if not agrees:
                rows = [_flat(model(point)) for point in points]
                if any([len(row) != places for row in rows]):
                    raise ValueError("plot_decision_boundary: expected the model to give as many numbers at each point")
                columns = [list(column) for column in zip(*rows)]
    finally:
        for module, training in modules:
            module.training = training
    return columns


def _flat(output: Any) -> list[float]:
    """What a model gives for a point: a number, or a sequence of numbers."""
    if hasattr(output, "tolist"):
        output = output.tolist()
    several = output if isinstance(output, (list, tuple)) else [output]
    if not several:
        raise ValueError("plot_decision_boundary: expected the model to give a number or a list of numbers, got an empty one")
    return [_number("plot_decision_boundary: the model's result", number) for number in several]


def _close(some: list[float], others: list[float]) -> bool:
    return len(some) == len(others) and all(
        [x == y or (x != x and y != y) or math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12) for x, y in zip(some, others)]
    )


def _layer(name: str) -> str:
    """The path of the layer that a parameter belongs to: "layers.0" of "layers.0.neurons.3.w.2", "0" of "0.weight.3.5"."""
    owner = re.sub(r"(\.\d+)+$", "", name).rpartition(".")[0]
    return re.sub(r"(^|\.)neurons\.\d+$", "", owner)


def _groups(where: str, params: Module | Iterable[Any]) -> list[list[Variable]]:
    """The parameters in groups that are scaled together."""
    groups: dict[str, list[Variable]] = {}
    if isinstance(params, Module):
        for name, parameter in params.named_parameters():
            before, _, last = name.rpartition(".")
            groups.setdefault(before if last.isdigit() else name, []).append(parameter)
    else:
        for place, item in enumerate(params):
            if isinstance(item, Variable):
                groups.setdefault("", []).append(item)
            elif isinstance(item, (list, tuple, VariableList)) and all([isinstance(v, Variable) for v in item]):
                groups[str(place)] = list(item)
            else:
                raise TypeError(
                    f"{where}: expected params to be Variables, or sequences of Variables, got {type(item).__name__}"
                )
    if not any(groups.values()):
        raise ValueError(f"{where}: expected parameters, got none")
    return list(groups.values())


def _filter_normalised(groups: list[list[Variable]], rng: random.Random) -> list[float]:
    """A random direction, in which each group has the norm that it has among the parameters."""
    direction: list[float] = []
    for group in groups:
        drawn = [rng.gauss(0.0, 1.0) for _ in group]
        scale = math.hypot(*[parameter.data for parameter in group]) / math.hypot(*drawn)
        direction += [scale * number for number in drawn]
    return direction
