"""mingrad/visualize/plots.py: what is drawn, as numbers; pixels are not looked at.

What they are compared with is computed here, point by point.
"""

import math
import random
import signal
import sys
import threading

import pytest

import mingrad
from helpers import importable, run_python
from mingrad import Variable, nn, no_grad, visualize
from mingrad.examples import moons
from mingrad.nn import MLP, Dropout, Linear, Sequential, Tanh
from mingrad.training import History
from mingrad.visualize import plot_decision_boundary, plot_gradients, plot_loss, plot_loss_surface, plot_tangent
from watch import refuses

HISTORY = {
    "epoch": [1, 2, 3],
    "loss": [2.0, 1.0, 0.5],
    "validation loss": [3.0, 2.5, 2.75],
    "validation accuracy": [0.5, 0.75, 0.5],
}
POINTS, CLASSES = [[0.0, 0.0], [1.0, 3.0], [2.0, 0.0], [2.0, 2.0]], [-1, 1, -1, 1]
drawn = pytest.mark.skipif(not importable("matplotlib"), reason="matplotlib is not installed")


def new_axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def curves(ax):
    return {line.get_label(): list(zip(list(line.get_xdata()), list(line.get_ydata()))) for line in ax.lines}


def grid(ax):
    """The points where an image's pixels have their middle, row by row from below."""
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    rows, columns = image.get_array().shape
    return [
        [(left + (k + 0.5) * (right - left) / columns, bottom + (j + 0.5) * (top - bottom) / rows) for k in range(columns)]
        for j in range(rows)
    ]


def pixels(ax):
    """What an image shows, row by row from below; nan where it is empty."""
    (image,) = ax.images
    assert image.origin == "lower"
    return image.get_array().astype(float).filled(math.nan).tolist()


def assert_close(got, expected, bound=1e-12):
    """bound: vmap's own exp and tanh are within 2 units in the last place, a layer adds some of them up."""
    assert [len(row) for row in got] == [len(row) for row in expected]
    for row, other in zip(got, expected):
        assert row == pytest.approx(other, rel=bound, abs=bound, nan_ok=True)


CALLS = {
    "plot_loss": lambda ax=None: plot_loss([1.0, 0.5], ax),
    "plot_decision_boundary": lambda ax=None: plot_decision_boundary(lambda p: p[0] - p[1], POINTS, CLASSES, ax),
    "plot_gradients": lambda ax=None: plot_gradients({"all": [backward(Variable(2.0))]}, ax),
    "plot_loss_surface": lambda ax=None: surface_of_one(ax),
    "plot_tangent": lambda ax=None: plot_tangent(mingrad.sin, 1.0, ax),
}


def backward(x):
    (x * x).backward()
    return x


def surface_of_one(ax):
    x = Variable(2.0)
    return plot_loss_surface(lambda: x * x, [x], ax, steps=3)


# -- all of them -----------------------------------------------------------------------------------


def test_these_are_all_the_plots():
    assert sorted(CALLS) == sorted(name for name in visualize.__all__ if name.startswith("plot_"))


@pytest.mark.parametrize("name", CALLS)
def test_without_matplotlib_it_says_what_to_install(name, monkeypatch):
    for module in ("matplotlib", "matplotlib.axes", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    text = f"{name}() needs matplotlib, which the extra mingrad[plot] adds: python -m pip install 'mingrad[plot]'"
    with pytest.raises(ImportError) as caught:
        CALLS[name]()
    assert str(caught.value) == text


@drawn
@pytest.mark.parametrize("name", CALLS)
def test_it_draws_on_the_axes_it_is_given_and_returns_them(name):
    ax = new_axes()
    assert CALLS[name](ax) is ax
    assert ax.lines or ax.images or ax.patches
    assert ax.figure.axes == [ax], "it put others beside them"


@drawn
@pytest.mark.parametrize("name", CALLS)
def test_what_are_no_axes_is_refused(name):
    text = f"{name}: expected ax to be the Axes to draw on, or None for new ones, got list"
    with pytest.raises(TypeError) as caught:
        CALLS[name]([new_axes()])
    assert str(caught.value) == text


@drawn
@pytest.mark.parametrize("name", CALLS)
def test_a_notebook_gets_a_picture_of_the_axes_and_of_the_figure(name):
    ax = CALLS[name]()
    for thing in (ax, ax.figure):
        data, size = thing._repr_png_()
        assert data.startswith(b"\x89PNG")
        # two dots for one
        assert [int.from_bytes(data[k : k + 4], "big") for k in (16, 20)] == pytest.approx(
            [2 * size["width"], 2 * size["height"]], abs=2
        )


@drawn
def test_pyplot_is_left_alone_and_nothing_warns():
    code = """
        import sys, warnings
        warnings.simplefilter("error")
        import mingrad, mingrad.visualize
        assert not [name for name in sys.modules if name.startswith("matplotlib") or name == "mingrad.visualize.plots"]
        from mingrad import Variable
        x = Variable(2.0)
        (x * x).backward()
        for ax in (
            mingrad.visualize.plot_loss([1.0]),
            mingrad.visualize.plot_decision_boundary(lambda p: p[0], [[0.0, 1.0]], [1]),
            mingrad.visualize.plot_decision_boundary(lambda p: 1.0, [[0.0, 1.0]], [1]),
            mingrad.visualize.plot_gradients({"x": [x]}),
            mingrad.visualize.plot_loss_surface(lambda: x * x, [x]),
            mingrad.visualize.plot_loss_surface(lambda: 3.0, [x]),
            mingrad.visualize.plot_tangent(mingrad.log, 1.0),
        ):
            ax._repr_png_()
        assert "matplotlib.pyplot" not in sys.modules
    """
    run_python(code, MPLBACKEND="agg")


# -- plot_loss() -----------------------------------------------------------------------------------


@drawn
def test_losses_of_a_history_are_drawn_over_its_epochs():
    ax = plot_loss(History(HISTORY))
    assert curves(ax) == {name: list(zip([1, 2, 3], HISTORY[name])) for name in ("loss", "validation loss")}
    assert ax.get_xlabel() == "epoch"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "validation loss"]


@drawn
def test_a_metric_is_drawn_by_its_name():
    assert curves(plot_loss(HISTORY, names=["validation accuracy"])) == {
        "validation accuracy": list(zip([1, 2, 3], [0.5, 0.75, 0.5]))
    }


@drawn
def test_a_list_of_losses_is_drawn_over_its_steps():
    ax = plot_loss([2.0, Variable(1.5), 1])
    assert curves(ax) == {"loss": [(1, 2.0), (2, 1.5), (3, 1.0)]} and ax.get_xlabel() == "step"


@drawn
def test_names_that_a_history_has_not_are_refused():
    names = "'epoch', 'loss', 'validation loss', 'validation accuracy'"
    for history in (HISTORY, History(HISTORY)):
        refuses(
            lambda: plot_loss(history, names=["accuracy"]), ValueError, f"plot_loss: expected one of {names}, got 'accuracy'"
        )
    refuses(lambda: plot_loss({"loss": [1.0]}), ValueError, "plot_loss: expected one of 'loss', got 'epoch'")
    refuses(
        lambda: plot_loss([1.0], names=["loss"]),
        ValueError,
        "plot_loss: expected names with a history, which has lists by name, got ['loss'] with a list",
    )
    refuses(lambda: plot_loss(["high"]), TypeError, "plot_loss: a loss: expected a number, got str")


# -- plot_decision_boundary() ----------------------------------------------------------------------


def moons_model():
    random.seed(7)
    return MLP(2, [5, 1], activation="tanh")


def three_classes():
    random.seed(7)
    return Sequential(Linear(2, 4), Tanh(), Linear(4, 3))


@drawn
@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: lambda p: model(p),
        lambda model: lambda p: model(p).data,
        lambda model: lambda p: [model(p)],
        lambda model: lambda p: float(model(p).data),
    ],
    ids=["module", "recorded", "read", "list", "float"],
)
def test_the_image_has_the_models_numbers_however_they_are_computed(wrap):
    model = moons_model()
    X, Y = moons.load()
    ax = plot_decision_boundary(wrap(model), X, Y, steps=9)
    assert_close(pixels(ax), [[model([a, b]).data for a, b in row] for row in grid(ax)])


@drawn
def test_the_grid_reaches_around_the_points():
    ax = plot_decision_boundary(lambda p: p[0], POINTS, CLASSES, steps=4)
    assert ax.images[0].get_extent() == pytest.approx([-0.3, 2.3, -0.45, 3.45])
    assert (ax.get_xlim(), ax.get_ylim()) == (pytest.approx((-0.3, 2.3)), pytest.approx((-0.45, 3.45)))
    single = plot_decision_boundary(lambda p: p[0], [[2.0, 5.0]], [1], steps=4)
    assert single.images[0].get_extent() == [1.0, 3.0, 4.0, 6.0]


@drawn
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_boundary_is_where_the_model_gives_the_threshold(threshold):
    ax = plot_decision_boundary(lambda p: p[0] - 2 * p[1] + 1, POINTS, CLASSES, threshold=threshold)
    line = ax.collections[0]
    vertices = [vertex for path in line.get_paths() for vertex in path.vertices.tolist()]
    assert len(vertices) > 50
    assert all(a - 2 * b + 1 == pytest.approx(threshold, abs=1e-9) for a, b in vertices)
    assert ax.images[0].norm.vcenter == threshold


@drawn
def test_the_points_are_drawn_by_class():
    ax = plot_decision_boundary(lambda p: p[1] - 1, POINTS, [[float(c)] for c in CLASSES])
    groups = {points.get_label(): points.get_offsets().tolist() for points in ax.collections[1:]}
    assert groups == {"-1": [POINTS[0], POINTS[2]], "1": [POINTS[1], POINTS[3]]}
    below, above = (tuple(points.get_facecolor()[0]) for points in ax.collections[1:])
    shades = ax.images[0].cmap
    assert (below, above) == (shades(0.0), shades(1.0)), "a class has the colour of its side"


@drawn
def test_of_several_numbers_the_largest_wins():
    model = three_classes()
    for asked in (model, lambda p: [v.data for v in model(p)]):
        ax = plot_decision_boundary(asked, POINTS, [0, 1, 2, 1], steps=11)
        best = []
        for row in grid(ax):
            outputs = [model(list(p)).tolist() for p in row]
            best.append([float(max(range(3), key=numbers.__getitem__)) for numbers in outputs])
        assert pixels(ax) == best and len({k for row in best for k in row}) > 1
        assert [points.get_label() for points in ax.collections] == ["0", "1", "2"]


@drawn
def test_a_module_is_asked_in_evaluation_mode_and_put_back():
    random.seed(3)
    model = Sequential(Linear(2, 8), Dropout(0.5), Linear(8, 1))
    next(module for module in model.modules() if isinstance(module, Linear)).eval()  # modes that differ
    modes = [module.training for module in model.modules()]
    before = [(p.data.hex(), p.grad) for p in model.parameters()]
    ax = plot_decision_boundary(model, POINTS, CLASSES, steps=5)
    assert [module.training for module in model.modules()] == modes
    assert [(p.data.hex(), p.grad) for p in model.parameters()] == before
    model.eval()
    assert_close(pixels(ax), [[model([a, b])[0].data for a, b in row] for row in grid(ax)])


@drawn
def test_a_module_whose_call_fails_is_put_back():
    class Failing(nn.Module):
        def __call__(self, point):
            raise ZeroDivisionError("mine")

    model = Failing()
    model.train()
    with pytest.raises(ZeroDivisionError, match="mine"):
        plot_decision_boundary(model, POINTS, CLASSES)
    assert model.training is True


@drawn
def test_a_function_that_a_recording_would_freeze_is_asked_point_by_point():
    calls = []

    def model(point):
        calls.append(point)
        return point[0] + (len(calls) % 2)

    ax = plot_decision_boundary(model, POINTS, CLASSES, steps=6)
    assert len(calls) > 36
    assert len({round(number - a) for row, where in zip(pixels(ax), grid(ax)) for number, (a, _) in zip(row, where)}) == 2


@drawn
def test_cells_without_a_finite_number_stay_empty():
    ax = plot_decision_boundary(lambda p: mingrad.log(p[0]), POINTS, CLASSES, steps=20)
    for row, where in zip(pixels(ax), grid(ax)):
        for number, (a, _) in zip(row, where):
            assert number == pytest.approx(math.log(a), abs=1e-12) if a > 0 else math.isnan(number)


@drawn
def test_a_model_without_a_boundary_in_sight_is_drawn():
    ax = plot_decision_boundary(lambda p: 1.0, POINTS, [1, 1, 1, 1], steps=3)
    assert pixels(ax) == [[1.0] * 3] * 3 and len(ax.collections) == 1


@drawn
def test_models_and_points_that_do_not_fit_together_are_refused():
    where = "plot_decision_boundary: expected"
    one, three = (lambda p: p[0]), (lambda p: [p[0], p[1], 0.0])
    for call, kind, text in [
        (lambda: plot_decision_boundary(one, [], []), ValueError, f"{where} X to be points of two numbers, got [] first"),
        (
            lambda: plot_decision_boundary(one, [[1.0]], [1]),
            ValueError,
            f"{where} X to be points of two numbers, got [[1.0]] first",
        ),
        (
            lambda: plot_decision_boundary(one, POINTS, [1]),
            ValueError,
            f"{where} a class in y for each of 4 points, got 1",
        ),
        (lambda: plot_decision_boundary(one, [[1.0, math.inf]], [1]), ValueError, f"{where} X to be finite"),
        (
            lambda: plot_decision_boundary(one, POINTS, [0, 1, 2, 2]),
            ValueError,
            f"{where} two classes in y, as the model gives one number, got [0, 1, 2]",
        ),
        (
            lambda: plot_decision_boundary(three, POINTS, [1, 2, 3, 3]),
            ValueError,
            f"{where} classes from 0 to 2 in y, as the model gives 3 numbers, got [1, 2, 3]",
        ),
        (
            lambda: plot_decision_boundary(lambda p: "a", POINTS, CLASSES),
            TypeError,
            "plot_decision_boundary: the model's result: expected a number, got str",
        ),
        (
            lambda: plot_decision_boundary(lambda p: [], POINTS, CLASSES),
            ValueError,
            f"{where} the model to give a number or a list of numbers, got an empty one",
        ),
        (
            lambda: plot_decision_boundary(
                lambda p: [1.0] * (1 + (p[0].data if hasattr(p[0], "data") else p[0] > 1)), POINTS, CLASSES
            ),
            ValueError,
            f"{where} the model to give as many numbers at each point",
        ),
        (
            lambda: plot_decision_boundary(lambda p: math.nan, POINTS, CLASSES),
            ValueError,
            f"{where} a finite number somewhere on the grid, got none",
        ),
        (
            lambda: plot_decision_boundary(one, POINTS, CLASSES, steps=1),
            ValueError,
            f"{where} steps to be an int of at least 2, got 1",
        ),
    ]:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == text


# -- plot_gradients() ------------------------------------------------------------------------------


def histograms(ax):
    """{layer: (counts up to a factor, edges)} from the top down."""
    return {bars.get_gid(): bars.get_data() for bars in ax.patches}


@drawn
@pytest.mark.parametrize(
    "make, layers",
    [
        (lambda: MLP(2, [4, 3, 1], activation="tanh"), ["layers.0", "layers.1", "layers.2"]),
        (lambda: Sequential(Linear(2, 4), Tanh(), Linear(4, 1)), ["0", "2"]),
        (lambda: Linear(2, 1), ["Linear"]),
        (lambda: nn.Layer(2, 3, activation="tanh"), ["Layer"]),
        (lambda: nn.Neuron(2, activation="tanh"), ["Neuron"]),
    ],
    ids=["MLP", "Sequential", "Linear", "Layer", "Neuron"],
)
def test_gradients_are_counted_by_layer(make, layers):
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed")
    random.seed(5)
    model = make()
    outputs = model([1.0, -2.0])
    mingrad.sum([v * v for v in (outputs if isinstance(outputs, (list, mingrad.VariableList)) else [outputs])]).backward()
    ax = plot_gradients(model, bins=11)
    assert list(histograms(ax)) == layers
    by_layer = {layer: [] for layer in layers}
    for name, p in model.named_parameters():
        (layer,) = [layer for layer in layers if name.startswith(layer + ".")] or [layers[0]]
        by_layer[layer].append(p.grad)
    end = max(abs(g) for gradients in by_layer.values() for g in gradients)
    for place, (layer, (values, edges, base)) in enumerate(histograms(ax).items()):
        counts = numpy.histogram(by_layer[layer], bins=11, range=(-end, end))[0]
        assert numpy.allclose(edges, numpy.linspace(-end, end, 12))
        assert base == len(layers) - 1 - place
        assert numpy.allclose((values - base) * counts.max() / 0.85, counts)
    assert [label.get_text() for label in ax.get_yticklabels()] == layers
    means = [f"rms {math.sqrt(sum(g * g for g in gradients) / len(gradients)):.1e}" for gradients in by_layer.values()]
    assert [text.get_text() for text in ax.texts] == means


@drawn
def test_gradients_that_say_nothing_are_refused():
    model = MLP(2, [2, 1])
    refuses(
        lambda: plot_gradients(model),
        ValueError,
        "plot_gradients: expected gradients, got none but 0: call backward() on the loss first",
    )
    model.layers[0].neurons[0].b.grad = math.nan
    with pytest.raises(ValueError) as caught:
        plot_gradients(model)
    assert str(caught.value) == "plot_gradients: expected finite gradients, got nan in layers.0"
    refuses(
        lambda: plot_gradients([1.0]), TypeError, "plot_gradients: expected a Module or a dict of Variables by layer, got list"
    )
    refuses(lambda: plot_gradients({}, bins=0), ValueError, "plot_gradients: expected bins to be an int of at least 2, got 0")


# -- plot_loss_surface() ---------------------------------------------------------------------------


def bits(parameters):
    return [(p.data.hex(), p.grad.hex()) for p in parameters]


@drawn
def test_the_surface_has_the_loss_at_each_point_of_the_plane():
    a, b, c = Variable(0.1), Variable(-0.0), Variable(3.0)
    before = bits([a, b, c])
    first, second = (1.0, 2.0, 0.0), (0.0, 0.5, -1.0)
    ax = plot_loss_surface(lambda: (a - 1) ** 2 + 3 * b * c, [a, b, c], directions=[first, second], span=0.5, steps=7)
    assert bits([a, b, c]) == before and math.copysign(1.0, b.data) == -1.0
    expected = []
    for row in grid(ax):
        expected.append([])
        for s, t in row:
            x, y, z = (p.data + s * u + t * v for p, u, v in zip((a, b, c), first, second))
            expected[-1].append((x - 1) ** 2 + 3 * y * z)
    assert_close(pixels(ax), expected)
    assert grid(ax)[3][3] == pytest.approx((0.0, 0.0), abs=1e-15) and grid(ax)[6][6] == pytest.approx((0.5, 0.5))


@drawn
def test_random_directions_have_the_norms_of_the_models_rows():
    random.seed(2)
    model = Sequential(Linear(2, 3), Tanh(), Linear(3, 1))
    names = [name for name, _ in model.named_parameters()]
    here = [p.data for p in model.parameters()]
    seen = []
    plot_loss_surface(lambda: seen.append([p.data for p in model.parameters()]) or float(len(seen)), model, steps=3, seed=4)
    for corner in (seen[3], seen[1]):  # one step back along the first direction, and along the second
        direction = [x - y for x, y in zip(here, corner)]
        rows = {}
        for name, x, step in zip(names, here, direction):
            row = name if name.count(".") == 1 else name.rpartition(".")[0]
            rows.setdefault(row, []).append((x, step))
        assert list(rows) == ["0.weight.0", "0.weight.1", "0.weight.2", "0.bias", "2.weight.0", "2.bias"]
        for numbers in rows.values():
            xs, steps = zip(*numbers)
            assert math.hypot(*steps) == pytest.approx(math.hypot(*xs), rel=1e-9)
    again = []
    plot_loss_surface(lambda: again.append([p.data for p in model.parameters()]) or 1.0, model, steps=3, seed=4)
    other = []
    plot_loss_surface(lambda: other.append([p.data for p in model.parameters()]) or 1.0, model, steps=3, seed=5)
    assert seen == again and seen != other
    assert [p.data for p in model.parameters()] == here


@drawn
def test_sequences_of_variables_are_scaled_each_by_itself():
    rows = [mingrad.tensor([3.0, 4.0], requires_grad=True), [Variable(0.5)], Variable(2.0)]
    flat = [*rows[0], *rows[1], rows[2]]
    seen = []
    plot_loss_surface(lambda: seen.append([p.data for p in flat]) or 1.0, rows, steps=3)
    step = [x.data - y for x, y in zip(flat, seen[3])]
    assert math.hypot(*step[:2]) == pytest.approx(5.0) and abs(step[2]) == pytest.approx(0.5)
    assert abs(step[3]) == pytest.approx(2.0)


class Stopped(Exception):
    pass


@drawn
@pytest.mark.parametrize("call", [1, 2, 5, 9])
@pytest.mark.parametrize("how", ["error", "interrupt", "result"])
def test_parameters_have_their_old_bits_after_an_error_and_after_ctrl_c(call, how):
    if how == "interrupt" and threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are the main thread's")
    random.seed(1)
    model = MLP(2, [3, 1])
    model.layers[0].neurons[0].b.data = -0.0
    mingrad.sum([p * p for p in model.parameters()]).backward()
    before, ax, calls = bits(model.parameters()), new_axes(), []

    def loss():
        calls.append([p.data for p in model.parameters()])
        if len(calls) == call:
            if how == "error":
                raise Stopped
            if how == "interrupt":
                signal.raise_signal(signal.SIGINT)
            return "no number"
        return model([1.0, 2.0])

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises({"error": Stopped, "interrupt": KeyboardInterrupt, "result": TypeError}[how]):
            plot_loss_surface(loss, model, ax, steps=3)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(calls) == call and calls[0] != [p.data for p in model.parameters()]
    assert bits(model.parameters()) == before
    assert mingrad.is_grad_enabled() and not ax.images


@drawn
def test_losses_that_are_not_finite_leave_the_picture_empty_there():
    x = Variable(0.5)
    ax = plot_loss_surface(lambda: mingrad.log(x), [x], directions=[[1.0], [0.0]], steps=5)
    (first, *_) = pixels(ax)
    assert first == pytest.approx([math.nan, math.nan, math.log(0.5), math.log(1.0), math.log(1.5)], nan_ok=True)


@drawn
def test_lines_and_shades_are_closer_together_near_the_lowest_loss():
    x = Variable(0.0)
    ax = plot_loss_surface(lambda: 1 + 11**3 * x, [x], directions=[[1.0], [1.0]], span=0.5, steps=5)
    (image,) = ax.images
    low, high = 1 - 11**3, 1 + 11**3
    assert (image.norm.vmin, image.norm.vmax) == (low, high)
    assert list(ax.collections[0].levels) == pytest.approx([low + 2 * k**3 for k in range(1, 11)])
    assert [float(image.norm(level)) for level in ax.collections[0].levels] == pytest.approx([k / 11 for k in range(1, 11)])


@drawn
def test_planes_that_do_not_fit_are_refused():
    a, b = Variable(1.0), Variable(2.0)
    zero = Variable(0.0)
    where = "plot_loss_surface: expected"
    loss = lambda: a * b
    for call, kind, text in [
        (
            lambda: plot_loss_surface(loss, [a, b], directions=[[1.0, 2.0]]),
            ValueError,
            f"{where} two directions of 2 numbers, one for each parameter, got 1 of 2",
        ),
        (
            lambda: plot_loss_surface(loss, [a, b], directions=[[1.0, 2.0], [1.0]]),
            ValueError,
            f"{where} two directions of 2 numbers, one for each parameter, got 2 of 2, 1",
        ),
        (lambda: plot_loss_surface(loss, []), ValueError, f"{where} parameters, got none"),
        (
            lambda: plot_loss_surface(loss, [1.0]),
            TypeError,
            f"{where} params to be Variables, or sequences of Variables, got float",
        ),
        (
            lambda: plot_loss_surface(loss, [zero]),
            ValueError,
            f"{where} parameters that are not all 0, which have no scale: give directions",
        ),
        (lambda: plot_loss_surface(loss, [a], span=0.0), ValueError, f"{where} span to be above 0, got 0.0"),
        (lambda: plot_loss_surface(loss, [a], steps=True), ValueError, f"{where} steps to be an int of at least 2, got True"),
        (lambda: plot_loss_surface(lambda: math.nan, [a]), ValueError, f"{where} a finite loss somewhere, got none"),
        (
            lambda: plot_loss_surface(lambda: None, [a]),
            TypeError,
            "plot_loss_surface: the loss: expected a number, got NoneType",
        ),
    ]:
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == text
        assert (a.data, b.data, zero.data) == (1.0, 2.0, 0.0)


# -- plot_tangent() --------------------------------------------------------------------------------


@drawn
@pytest.mark.parametrize(
    "f, x, value, slope",
    [
        (lambda x: x**3 - 2 * x, 2.0, 4.0, 10.0),
        (mingrad.sin, 0.0, 0.0, 1.0),
        (lambda x: x.tanh(), 0.25, math.tanh(0.25), 1 - math.tanh(0.25) ** 2),
        (lambda x: 7.0, 1.0, 7.0, 0.0),
    ],
    ids=["cubic", "sin", "method", "constant"],
)
def test_the_tangent_has_the_exact_slope_at_the_point(f, x, value, slope):
    ax = plot_tangent(f, x, span=1.5, steps=5)
    curve, _, point = curves(ax).values()
    tangent = ax.lines[1]
    assert [t for t, _ in curve] == [x - 1.5, x - 0.75, x, x + 0.75, x + 1.5]
    with no_grad():
        expected = [f(Variable(t)) for t, _ in curve]
    assert [y for _, y in curve] == [y.data if isinstance(y, Variable) else y for y in expected]
    assert tangent.get_xy1() == (x, pytest.approx(value, abs=1e-15))
    assert tangent.get_slope() == pytest.approx(slope, rel=1e-15)
    assert point == [(x, pytest.approx(value, abs=1e-15))]
    assert list(curves(ax)) == ["f", f"tangent, slope {slope:.4g}", f"f({x:.4g}) = {value:.4g}"]


@drawn
def test_the_curve_has_a_gap_where_the_function_has_no_value():
    ax = plot_tangent(mingrad.log, 1.0, steps=5)
    assert [y for _, y in curves(ax)["f"]] == pytest.approx([math.nan, math.nan, 0.0, math.log(2), math.log(3)], nan_ok=True)


@drawn
def test_a_steep_tangent_does_not_squeeze_the_curve():
    ax = plot_tangent(lambda x: mingrad.atan(1000 * x), 0.0)
    low, high = ax.get_ylim()
    assert -2.0 < low < -1.5 and 1.5 < high < 2.0


@drawn
def test_a_point_without_a_tangent_is_refused():
    refuses(lambda: plot_tangent(mingrad.log, "a"), TypeError, "plot_tangent: x: expected a number, got str")
    refuses(lambda: plot_tangent(mingrad.log, 1.0, span=-1), ValueError, "plot_tangent: expected span to be above 0, got -1")
    refuses(
        lambda: plot_tangent(mingrad.log, 1.0, steps=0),
        ValueError,
        "plot_tangent: expected steps to be an int of at least 2, got 0",
    )
    with pytest.raises(ValueError, match="outside the function's domain"):
        plot_tangent(mingrad.log, -1.0)
