"""mingrad/training.py: fit() against the loop written by hand, what it notes, and what it refuses.

Resumed trainings are compared with uninterrupted ones to the bit; some run in processes that are
interrupted or killed. Not here: that optimizers and losses compute the right thing, or speed.
"""

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from array import array
from pathlib import Path

import pytest

import mingrad
from mingrad import Variable, files, nn, optim, training
from mingrad.training import Checkpoint, EarlyStopping, FitState, History, fit

try:
    import numpy as np
except ImportError:
    np = None

needs_numpy = pytest.mark.skipif(np is None, reason="NumPy is not installed")

X = [[x / 10, (x * x % 7) / 7] for x in range(20)]
Y = [2 * a - b + 0.5 for a, b in X]
VALIDATION = [[0.05, 0.3], [0.95, 0.1], [1.5, 0.9]], [0.3, 2.3, 2.6]


@pytest.fixture(autouse=True)
def random_numbers_are_not_disturbed():
    state = random.getstate()
    random.seed(0)
    yield
    random.setstate(state)


def mlp(seed=1, sizes=(3, 1)):
    random.seed(seed)
    return nn.MLP(2, list(sizes), activation="tanh")


def sgd(model, **settings):
    return optim.SGD(model.parameters(), **{"lr": 0.05, **settings})


def run(model=None, data=(X, Y), **arguments):
    """fit() with what a test does not care about filled in."""
    model = mlp() if model is None else model
    if "optimizer" not in arguments:
        arguments["optimizer"] = sgd(model)
    return fit(model, data, **{"loss": nn.mse_loss, **arguments})


def bits(values):
    return [float(value).hex() for value in values]


def exactly(state):
    """A state dict's text: the same for the same bits, in whatever order its entries are."""
    if isinstance(state, dict):
        return "{" + ", ".join(sorted(f"{k!r}: {exactly(v)}" for k, v in state.items())) + "}"
    if isinstance(state, (list, tuple, array)):
        return f"{type(state).__name__}({', '.join(map(exactly, state))})"
    return repr(state)


def weights(model):
    return bits(p.data for p in model.parameters())


def without_seconds(history):
    return {name: values for name, values in history.items() if name != "seconds"}


# -- the loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [None, 0, 7])
@pytest.mark.parametrize("batch_size", [1, 6, 20, 50])
def test_fit_does_what_the_loop_by_hand_does_to_the_bit(shuffle, batch_size):
    model = mlp()
    history = run(model, epochs=3, batch_size=batch_size, shuffle=shuffle)

    by_hand = mlp()
    optimizer = sgd(by_hand)
    rng = random.Random(shuffle)
    losses = []
    for _ in range(3):
        order = range(len(X))
        if shuffle is not None:
            keys = [rng.random() for _ in X]
            order = sorted(range(len(X)), key=keys.__getitem__)
        total = 0.0
        for start in range(0, len(X), batch_size):
            batch = order[start : start + batch_size]
            optimizer.zero_grad()
            loss = nn.mse_loss(by_hand([X[i] for i in batch]), [Y[i] for i in batch])
            loss.backward()
            optimizer.step()
            total += loss.data * len(batch)
        losses.append(total / len(X))

    assert weights(model) == weights(by_hand)
    assert bits(history["loss"]) == bits(losses)


def test_fit_learns():
    history = run(mlp(), epochs=300, batch_size=5, shuffle=1)
    assert history["loss"][-1] < 0.01 * history["loss"][0]


def test_the_order_neither_depends_on_the_global_generator_nor_disturbs_it():
    results = []
    for seed in (1, 2):
        model = mlp()
        random.seed(seed)
        before = random.getstate()
        run(model, epochs=2, batch_size=3, shuffle=5)
        assert random.getstate() == before
        results.append(weights(model))
    assert results[0] == results[1]


def test_the_order_is_the_same_in_every_version_of_python():
    orders = []

    class Notes:
        def on_batch_end(self, state):
            orders.append(list(state.indices))

    run(data=(X[:8], Y[:8]), epochs=2, batch_size=8, shuffle=42, callbacks=[Notes()])
    assert orders == [[1, 7, 3, 2, 0, 5, 4, 6], [4, 1, 5, 2, 0, 3, 7, 6]]  # as in Python 3.11


def test_every_sample_is_in_one_batch_of_an_epoch():
    seen = []

    class Notes:
        def on_batch_end(self, state):
            seen.append((state.epoch, state.batch, state.batches, list(state.indices)))

    run(epochs=2, batch_size=8, shuffle=3, callbacks=[Notes()])
    assert [entry[:3] for entry in seen] == [(e, b, 3) for e in (1, 2) for b in (1, 2, 3)]
    assert [len(entry[3]) for entry in seen] == [8, 8, 4] * 2
    orders = [sum((entry[3] for entry in seen if entry[0] == e), []) for e in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20)) and orders[0] != orders[1]


def test_model_and_loss_are_given_lists_of_samples_and_targets():
    given = []

    def model(xs):
        return [x * weight for x in xs]

    def loss(outputs, targets):
        given.append((len(outputs), targets))
        return mingrad.sum(outputs)

    weight = Variable(1.0)
    fit(model, ([1.0, 2.0, 3.0], ["a", None, (4, 5)]), loss=loss, batch_size=2, optimizer=optim.SGD([weight], lr=0.5))
    assert given == [(2, ["a", None]), (1, [(4, 5)])]
    assert weight.data == 1.0 - 0.5 * 3.0 - 0.5 * 3.0


FORMS = {
    "pairs": lambda: list(zip(X, Y)),
    "lists of pairs": lambda: [[x, y] for x, y in zip(X, Y)],
    "an iterator of pairs": lambda: zip(X, Y),
    "tuples": lambda: (tuple(map(tuple, X)), tuple(Y)),
    "buffers": lambda: ([array("d", x) for x in X], array("d", Y)),
    "a memoryview": lambda: (memoryview(array("d", sum(X, []))).cast("B").cast("d", (20, 2)), Y),
    "arrays": lambda: (np.array(X), np.array(Y)),
    "a Fortran-ordered array": lambda: (np.asfortranarray(X), np.array(Y)),
    "an array of rows": lambda: (np.array(X), list(np.array(Y))),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_data_gives_the_same(form):
    if "array" in form and np is None:
        pytest.skip("NumPy is not installed")
    expected, model = mlp(), mlp()
    run(expected, epochs=2, batch_size=6, shuffle=2, validation=VALIDATION)
    history = run(model, FORMS[form](), epochs=2, batch_size=6, shuffle=2, validation=VALIDATION)
    assert weights(model) == weights(expected)
    json.dumps(history)


@needs_numpy
def test_numbers_of_an_array_of_targets_become_pythons_own():
    given = []
    fit(
        lambda xs: weight * len(xs),
        (np.ones((3, 2)), np.array([3, 1, 2])),
        loss=lambda outputs, targets: given.extend(targets) or outputs,
        optimizer=optim.SGD([weight := Variable(1.0)], lr=0.1),
    )
    assert given == [3, 1, 2] and {type(y) for y in given} == {int}


def test_no_epochs_change_nothing():
    model = mlp()
    before = weights(model)
    history = run(model, epochs=0)
    assert weights(model) == before
    assert history == {"epoch": [], "loss": [], "learning rate": [], "seconds": []}


class Moody(nn.Module):
    """A linear model that notes in which mode it was called, and draws a number when it trains."""

    def __init__(self):
        self.w, self.notes, self.seen = Variable(0.5), Notebook(), []

    def __call__(self, xs):
        self.seen.append((self.training, self.notes.training, mingrad.is_grad_enabled(), len(xs)))
        noise = random.random() if self.training else 0.5
        return [self.w * x[0] * (1.5 - noise) for x in xs]


class Notebook(nn.Module):
    pass


@pytest.mark.parametrize("before", [True, False])
def test_a_module_trains_in_training_mode_and_is_measured_in_evaluation_mode(before):
    model = Moody()
    model.train(before)
    run(model, epochs=2, batch_size=10, validation=VALIDATION)
    assert model.seen == [(True, True, True, 10)] * 2 + [(False, False, False, 3)] + [(True, True, True, 10)] * 2 + [
        (False, False, False, 3)
    ]
    assert (model.training, model.notes.training) == (before, before)


def test_a_part_that_was_in_another_mode_is_so_afterwards():
    model = Moody()
    model.notes.eval()
    run(model, batch_size=20)
    assert model.seen == [(True, True, True, 20)]
    assert (model.training, model.notes.training) == (True, False)


def test_the_mode_is_what_it_was_after_an_exception_too():
    model = Moody()
    model.eval()

    def interrupted(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, callbacks=[interrupted])
    assert model.training is False


def test_lbfgs_is_given_a_closure():
    model = mlp()
    history = run(model, epochs=5, batch_size=20, optimizer=optim.LBFGS(model.parameters(), lr=1.0, max_iter=10))
    assert history["loss"][-1] < 0.05 * history["loss"][0]

    by_hand = mlp()
    optimizer = optim.LBFGS(by_hand.parameters(), lr=1.0, max_iter=10)

    def closure():
        optimizer.zero_grad()
        loss = nn.mse_loss(by_hand(X), Y)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert weights(model) == weights(by_hand)


# -- what is noted ---------------------------------------------------------------------------------


def test_the_loss_of_an_epoch_is_the_mean_over_samples():
    weight = Variable(1.0)
    history = fit(
        lambda xs: [weight * x for x in xs],
        ([1.0, 2.0, 6.0], [0.0] * 3),
        epochs=2,
        batch_size=2,
        loss=lambda outputs, targets: mingrad.mean(outputs),
        optimizer=optim.SGD([weight], lr=0.0),
    )
    assert history["loss"] == [3.0, 3.0]


def test_validation_and_metrics_are_of_all_validation_data_after_the_epoch():
    model, counts = mlp(), []

    def largest(outputs, targets):
        counts.append((len(outputs), len(targets)))
        return max(abs(o.data - t) for o, t in zip(outputs, targets))

    history = run(
        model, epochs=2, batch_size=7, validation=VALIDATION, metrics={"largest error": largest, "squared": nn.mse_loss}
    )
    assert counts == [(3, 3)] * 2
    assert list(history) == [
        "epoch",
        "loss",
        "validation loss",
        "validation largest error",
        "validation squared",
        "learning rate",
        "seconds",
    ]
    outputs = [model(x).data for x in VALIDATION[0]]
    errors = [abs(o - t) for o, t in zip(outputs, VALIDATION[1])]
    assert history["validation largest error"][-1] == max(errors)
    squared = sum(e * e for e in errors) / 3
    assert history["validation loss"][-1] == pytest.approx(squared, rel=1e-14)  # another order
    assert history["validation squared"] == history["validation loss"]


def test_validation_changes_nothing_in_the_training():
    with_validation, without = mlp(), mlp()
    run(with_validation, epochs=3, batch_size=7, shuffle=1, validation=VALIDATION)
    run(without, epochs=3, batch_size=7, shuffle=1)
    assert weights(with_validation) == weights(without)


def test_the_scheduler_steps_once_an_epoch_and_the_rate_in_force_is_noted():
    model = mlp()
    optimizer = sgd(model, lr=1e-3)
    history = run(model, epochs=3, batch_size=4, optimizer=optimizer, scheduler=optim.ExponentialLR(optimizer, gamma=0.5))
    assert history["learning rate"] == [1e-3, 5e-4, 2.5e-4]
    assert optimizer.param_groups[0]["lr"] == 1.25e-4


@pytest.mark.parametrize("validation, name", [(None, "loss"), (VALIDATION, "validation loss")])
def test_a_plateau_is_looked_for_in_the_validation_loss_or_else_in_the_loss(validation, name):
    given = []

    class Plateau(optim.ReduceLROnPlateau):
        def step(self, metric):
            given.append(metric)
            super().step(metric)

    model = mlp()
    optimizer = sgd(model)
    history = run(model, epochs=3, batch_size=4, optimizer=optimizer, validation=validation, scheduler=Plateau(optimizer))
    assert given == history[name]


def test_each_parameter_group_has_its_learning_rate():
    model = mlp()
    first, *rest = model.parameters()
    optimizer = optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.25)
    history = run(model, optimizer=optimizer)
    assert (history["learning rate 0"], history["learning rate 1"]) == ([0.5], [0.25])


def test_history_is_a_dict_of_lists_for_json():
    history = run(epochs=2)
    assert history["epoch"] == [1, 2]
    assert len(history["seconds"]) == 2 and all(0 < s < 60 for s in history["seconds"])
    assert json.loads(json.dumps(history)) == history == dict(history)
    with pytest.raises(KeyError, match="expected one of 'epoch', 'loss', 'learning rate', 'seconds', got 'validation loss'"):
        history["validation loss"]


def test_history_has_a_short_repr():
    one = History(epoch=[1], loss=[0.123456789], seconds=[2.0])
    assert repr(one) == "History(1 epoch, loss 0.1235)"
    assert repr(run(epochs=0)) == "History(0 epochs)"
    numbers = {
        "epoch": [1, 2],
        "loss": [2.0, 1.0],
        "validation loss": [3.0, 2.5],
        "validation accuracy": [0.5, 0.75],
        "learning rate": [0.1, 0.1],
        "seconds": [1, 1],
    }
    assert repr(History(numbers)) == ("History(2 epochs, loss 1, validation loss 2.5, validation accuracy 0.75)")


NUMBERS = {
    "epoch": [1, 2, 3],
    "loss": [2.0, 1.0, 0.5],
    "validation loss": [3.0, 2.5, 2.75],
    "validation accuracy": [0.5, 0.75, 0.625],
    "validation l1 loss": [1.0, 0.5, 0.25],
    "learning rate": [0.1] * 3,
    "seconds": [1.0] * 3,
}


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_writes_a_picture_and_returns_its_axes(tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / f"history.{suffix}"
    axes = History(NUMBERS).plot(path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    lines = [
        {
            line.get_label(): line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else list(line.get_ydata())
            for line in ax.lines
        }
        for ax in axes
    ]
    assert lines == [
        {"loss": NUMBERS["loss"], "validation loss": NUMBERS["validation loss"]},
        {"validation accuracy": NUMBERS["validation accuracy"]},
        {"validation l1 loss": NUMBERS["validation l1 loss"]},
    ]
    assert all(list(line.get_xdata()) == [1, 2, 3] for ax in axes for line in ax.lines)


def test_plot_to_a_file_leaves_pyplot_alone_and_plot_without_one_shows_there(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code = f"""
        import sys
        from mingrad.training import History
        history = History({NUMBERS!r})
        history.plot("picture.png")
        assert "matplotlib.pyplot" not in sys.modules
        axes = history.plot()
        from matplotlib import pyplot
        assert pyplot.get_fignums() == [1] and pyplot.gcf() is axes[0].figure
        History(epoch=[], loss=[], seconds=[]).plot("empty.png")
    """
    child(code, tmp_path, MPLBACKEND="agg").check()


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"python -m pip install 'mingrad\[plot\]'"):
        History(NUMBERS).plot("history.png")


# -- callbacks -------------------------------------------------------------------------------------


def test_callbacks_are_called_in_order_with_the_state():
    calls = []

    class Notes:
        def __init__(self, name):
            self.name = name

        def __getattr__(self, hook):
            if hook not in training.HOOKS:
                raise AttributeError(hook)
            return lambda state: calls.append((self.name, hook, state.epoch, state.batch))

    model = mlp()
    states = []
    history = run(model, epochs=2, batch_size=10, callbacks=[Notes("a"), states.append, Notes("b")])
    each_batch = ["on_backward"] * 2 + ["on_batch_end"] * 2
    each_epoch = each_batch * 2 + ["on_epoch_end"] * 2
    expected = ["on_fit_begin"] * 2 + each_epoch * 2 + ["on_fit_end"] * 2
    assert [hook for _, hook, _, _ in calls] == expected
    assert [name for name, _, _, _ in calls] == ["a", "b"] * (len(calls) // 2)
    assert [call[2:] for call in calls if call[1] == "on_backward"] == [(e, b) for e in (1, 2) for b in (1, 2) for _ in "ab"]
    state, again = states
    assert state is again and isinstance(state, FitState)
    assert state.model is model and state.history is history and state.epochs == 2
    assert not state.stopped and isinstance(state.loss, float)


def test_on_backward_sees_the_gradients_before_the_step_uses_them():
    class Clip:
        def on_backward(self, state):
            self.norm = optim.clip_grad_norm_(state.model.parameters(), 1e-3)

    model, clip = mlp(), Clip()
    before = [p.data for p in model.parameters()]
    run(model, batch_size=20, callbacks=[clip], optimizer=sgd(model, lr=1.0))
    moved = math.dist(before, [p.data for p in model.parameters()])
    assert clip.norm > 1e-3 and moved == pytest.approx(1e-3, rel=1e-2)  # the divisor has 1e-6 more


@pytest.mark.parametrize(
    "answer, epochs",
    [(True, 2), (False, 4), (None, 4), (1, 4), ("stop", 4), ([1], 4), pytest.param("np.True_", 2, marks=needs_numpy)],
    ids=repr,
)
def test_only_true_ends_the_training(answer, epochs):
    answer = np.True_ if answer == "np.True_" else answer
    later = []
    history = run(epochs=4, callbacks=[lambda state: state.epoch == 2 and answer, later.append])
    assert history["epoch"] == list(range(1, epochs + 1)) and len(later) == epochs


def test_what_on_batch_end_returns_ends_nothing():
    class Chatty:
        def on_batch_end(self, state):
            return True

    assert run(epochs=2, callbacks=[Chatty()])["epoch"] == [1, 2]


# -- early stopping --------------------------------------------------------------------------------


def descent(losses, **settings):
    """A training whose validation loss takes these values; returns (history, stopping, weight)."""
    weight = Variable(0.0)
    coming = iter(losses)

    def loss(outputs, targets):
        return weight * 1.0 if targets == [0] else next(coming)

    stopping = EarlyStopping(**settings)
    history = fit(
        lambda xs: xs,
        ([0], [0]),
        loss=loss,
        epochs=len(losses),
        validation=([1], [1]),
        optimizer=optim.SGD([weight], lr=1.0),
        callbacks=[stopping],
    )
    return history, stopping, weight


def test_early_stopping_waits_for_patience_epochs_without_improvement_in_a_row():
    history, stopping, weight = descent([5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 2.0], patience=2)
    assert history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert (stopping.best, stopping.best_epoch) == (3.0, 4)
    assert weight.data == -4.0  # as after the fourth epoch


def test_early_stopping_restores_the_best_also_where_nothing_stopped():
    history, stopping, weight = descent([5.0, 4.0, 4.5], patience=9)
    assert len(history["epoch"]) == 3 and weight.data == -2.0


def test_early_stopping_leaves_the_last_parameters_if_told_to():
    _, _, weight = descent([5.0, 4.0, 4.5], patience=9, restore_best=False)
    assert weight.data == -3.0


def test_an_improvement_within_min_delta_is_none():
    history, stopping, _ = descent([5.0, 4.9, 4.8, 4.7, 4.6], patience=2, min_delta=0.25)
    assert history["epoch"] == [1, 2, 3] and stopping.best == 5.0


def test_nan_is_no_improvement():
    history, stopping, weight = descent([math.nan, math.nan, 1.0], patience=2)
    assert history["epoch"] == [1, 2] and stopping.best is None and weight.data == -2.0
    history, stopping, _ = descent([math.nan, 2.0, math.nan, 1.0], patience=2)
    assert history["epoch"] == [1, 2, 3, 4] and stopping.best == 1.0


def test_a_metric_can_be_monitored_upwards():
    values = iter([0.5, 0.7, 0.6, 0.6])
    stopping = EarlyStopping("validation accuracy", patience=2, mode="max")
    history = run(
        epochs=9, validation=VALIDATION, callbacks=[stopping], metrics={"accuracy": lambda outputs, targets: next(values)}
    )
    assert history["epoch"] == [1, 2, 3, 4] and stopping.best == 0.7


def test_early_stopping_monitors_the_training_loss_without_validation():
    stopping = EarlyStopping(patience=1)
    model = mlp()
    history = run(model, epochs=5, callbacks=[stopping], optimizer=sgd(model, lr=0.0))
    assert history["epoch"] == [1, 2] and stopping.best == history["loss"][0]


def test_early_stopping_begins_anew_in_each_fit():
    stopping = EarlyStopping(patience=2)
    model = mlp()
    run(model, epochs=3, callbacks=[stopping])
    stopping.best = -1.0  # nothing could be better
    assert run(model, epochs=3, callbacks=[stopping])["epoch"] == [1, 2, 3]
    assert stopping.best > 0


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"patience": 0}, "EarlyStopping: expected patience to be an int of at least 1, got 0"),
        ({"patience": 1.5}, "EarlyStopping: expected patience to be an int of at least 1, got 1.5"),
        ({"min_delta": -1}, "EarlyStopping: expected min_delta to be at least 0, got -1"),
        ({"min_delta": math.nan}, "EarlyStopping: expected min_delta to be at least 0, got nan"),
        ({"mode": "auto"}, "EarlyStopping: expected mode to be 'min', 'max' or None, got 'auto'"),
        (
            {"monitor": "validation accuracy"},
            (
                "EarlyStopping: expected mode='max' or mode='min', as it is not known which "
                "'validation accuracy' is better, got None"
            ),
        ),
    ],
    ids=lambda value: None,
)
def test_early_stopping_refuses_bad_arguments(arguments, text):
    with pytest.raises(ValueError) as caught:
        EarlyStopping(**arguments)
    assert str(caught.value) == text


def test_early_stopping_refuses_a_name_that_is_not_noted_before_the_first_epoch():
    model = mlp()
    before = weights(model)
    with pytest.raises(ValueError) as caught:
        run(model, callbacks=[EarlyStopping("validation loss")])
    assert str(caught.value) == (
        "EarlyStopping: expected monitor to be one of 'epoch', 'loss', 'learning rate', 'seconds', got 'validation loss'"
    )
    assert weights(model) == before


# -- checkpoints -----------------------------------------------------------------------------------


def noisy(epochs, optimizer, scheduler=None, stopping=False, suffix=".npz", **more):
    """A training with all that has a state; returns all that must come out the same."""
    random.seed(3)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(0.25), nn.Linear(4, 1))
    optimizer = optimizer(model.parameters())
    scheduler = scheduler and scheduler(optimizer)
    callbacks = list(more.pop("callbacks", ()))
    if stopping:
        callbacks.append(EarlyStopping(patience=2, min_delta=0.02))
    history = fit(
        model,
        (X, [[y] for y in Y]),
        loss=nn.mse_loss,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=6,
        shuffle=11,
        scheduler=scheduler,
        callbacks=callbacks,
        validation=(VALIDATION[0], [[y] for y in VALIDATION[1]]),
        **more,
    )
    kept = [
        optimizer.state_dict(),
        scheduler and scheduler.state_dict(),
        *(c.state_dict() for c in callbacks if isinstance(c, EarlyStopping)),
    ]
    return weights(model), exactly(kept), without_seconds(history), random.random()


KINDS = {
    "SGD": (lambda p: optim.SGD(p, lr=0.1), None),
    "SGD with momentum, StepLR": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda o: optim.StepLR(o, 2, gamma=0.5)),
    "Adam, CosineAnnealingLR": (lambda p: optim.Adam(p, lr=0.02), lambda o: optim.CosineAnnealingLR(o, 7)),
    "AdamW, ReduceLROnPlateau": (
        lambda p: optim.AdamW(p, lr=0.02),
        lambda o: optim.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    ),
    "RMSprop, LambdaLR": (lambda p: optim.RMSprop(p, lr=0.01), lambda o: optim.LambdaLR(o, lambda epoch: 0.9**epoch)),
    "LBFGS": (lambda p: optim.LBFGS(p, lr=0.1, max_iter=3, history_size=4), None),
}
SUFFIXES = [".npz", ".safetensors"]


def needs(suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")


@pytest.mark.parametrize("stopping", [False, True], ids=["", "early stopping"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(kind, suffix, stopping, tmp_path):
    needs(suffix)
    path = tmp_path / f"run{suffix}"
    expected = noisy(7, *KINDS[kind], stopping)
    for epochs in (1, 4):
        # the run up to the checkpoint knows nothing of how many epochs follow
        noisy(epochs, *KINDS[kind], stopping, callbacks=[Checkpoint(path)])
        random.seed(99)
        assert noisy(7, *KINDS[kind], stopping, resume=path) == expected


def test_a_training_that_a_callback_stopped_stays_stopped(tmp_path):
    path = tmp_path / "run.npz"
    kind = KINDS["SGD"]

    def enough(state):
        return state.epoch == 3

    expected = noisy(7, *kind, True, callbacks=[Checkpoint(path, every=5), enough])
    assert expected[2]["epoch"] == [1, 2, 3]
    assert noisy(7, *kind, True, callbacks=[enough], resume=path) == expected


def test_a_checkpoint_keeps_how_later_callbacks_left_things(tmp_path):
    path = tmp_path / "run.npz"
    kind = KINDS["SGD"]
    first = noisy(4, *kind, True, callbacks=[Checkpoint(path)])  # in the list before EarlyStopping
    assert noisy(4, *kind, True, resume=path) == first


@pytest.mark.parametrize("every, written", [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_a_checkpoint_is_written_every_so_many_epochs_and_at_the_end(tmp_path, monkeypatch, every, written):
    epochs = []
    monkeypatch.setattr(
        files,
        "write_file",
        lambda path, tensors, metadata: epochs.append(dict(json.loads(metadata["mingrad.fit"])["dict"])["epoch"]),
    )
    run(epochs=5, callbacks=[Checkpoint(tmp_path / "run.npz", every)])
    assert epochs == written


def test_a_callbacks_own_state_is_kept_and_handed_back(tmp_path):
    class Counter:
        def __init__(self):
            self.kept = {
                "batches": 0,
                "floats": [0.1 * k for k in range(20)],
                3: (None, True, "é"),
                "array": array("d", [math.inf, -0.0, 5e-324]),
                "nested": {"x": [1, [2.5]]},
            }

        def on_batch_end(self, state):
            self.kept["batches"] += 1

        def state_dict(self):
            return self.kept

        def load_state_dict(self, state):
            self.kept = state

    first, second = Counter(), Counter()
    run(epochs=2, batch_size=10, callbacks=[Checkpoint(tmp_path / "run.npz"), first])
    run(epochs=3, batch_size=10, callbacks=[second], resume=tmp_path / "run.npz")
    first.kept["batches"] += 2
    assert repr(second.kept) == repr(first.kept) and second.kept["batches"] == 6


def test_a_state_that_cannot_be_kept_is_refused_before_the_first_epoch(tmp_path):
    class Strange:
        def on_epoch_end(self, state):
            pass

        def state_dict(self):
            return {"when": {1, 2}}

    model = mlp()
    before = weights(model)
    with pytest.raises(TypeError) as caught:
        run(model, callbacks=[Checkpoint(tmp_path / "run.npz"), Strange()])
    assert str(caught.value) == (
        "Checkpoint: expected 'callbacks/0/when' to be of numbers, texts, arrays of doubles, "
        "lists, tuples and dicts with keys that are texts or ints, got set"
    )
    assert weights(model) == before and not list(tmp_path.iterdir())


def test_a_checkpoint_has_no_pickle_and_numpy_reads_it(tmp_path):
    path = tmp_path / "run.npz"
    model = mlp()
    run(model, epochs=2, callbacks=[Checkpoint(path)])
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                start = file.read(6)
            assert start == b"\x93NUMPY" or (name == "__metadata__.json" and start[:1] == b"{")
    if np is not None:
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["parameters"].tolist() == [p.data for p in model.parameters()]


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({"path": "run.pickle"}, ValueError, "Checkpoint: expected path to end in .npz or .safetensors, got 'run.pickle'"),
        ({"path": b"run.npz"}, ValueError, "Checkpoint: expected path to end in .npz or .safetensors, got b'run.npz'"),
        ({"path": "run.npz", "every": 0}, ValueError, "Checkpoint: expected every to be an int of at least 1, got 0"),
    ],
    ids=["suffix", "bytes", "every"],
)
def test_a_checkpoint_refuses_bad_arguments(arguments, error, text):
    with pytest.raises(error) as caught:
        Checkpoint(**arguments)
    assert str(caught.value) == text


def test_a_checkpoint_without_its_folder_is_refused_before_the_first_epoch(tmp_path):
    model = mlp()
    before = weights(model)
    path = os.path.join(tmp_path, "none", "run.npz")
    with pytest.raises(FileNotFoundError) as caught:
        run(model, callbacks=[Checkpoint(path)])
    assert str(caught.value) == (
        f"Checkpoint: expected a folder {os.path.dirname(path)!r} for {path!r}, got none: make it first"
    )
    assert weights(model) == before


def test_a_checkpoint_without_its_package_is_refused_before_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    model = mlp()
    before = weights(model)
    with pytest.raises(ImportError, match=r"mingrad.safetensors."):
        run(model, callbacks=[Checkpoint(tmp_path / "run.safetensors")])
    assert weights(model) == before


def other_runs():
    """What differs from the checkpoint's run, and what the error says of it."""
    bigger = mlp(sizes=(4, 1))
    other = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    renamed = mlp()
    renamed.stack, renamed.layers = renamed.layers, []
    return {
        "data": (dict(data=(X[:19], Y[:19])), "samples 20 there and 19 here"),
        "batch_size": (dict(batch_size=5), "batch_size 4 there and 5 here"),
        "shuffle": (dict(shuffle=2), "shuffle 1 there and 2 here"),
        "no shuffle": (dict(shuffle=None), "shuffle 1 there and None here"),
        "model's size": (dict(model=bigger, optimizer=optim.Adam(bigger.parameters())), "parameters 13 there and 17 here"),
        "model": (dict(model=other, optimizer=optim.Adam(other.parameters())), "model 'MLP' there and 'Sequential' here"),
        "parameters' names": (dict(model=renamed, optimizer=optim.Adam(renamed.parameters())), "parameter names "),
        "optimizer": (dict(optimizer=optim.SGD), "optimizer 'Adam' there and 'SGD' here"),
        "scheduler": (dict(scheduler=lambda o: optim.StepLR(o, 2)), "scheduler None there and 'StepLR' here"),
        "validation": (dict(validation=VALIDATION), "validation samples None there and 3 here"),
        "callback": (dict(callbacks=[EarlyStopping()]), "callbacks with a state [] there and ['EarlyStopping'] here"),
        "epochs": (dict(epochs=1), "fit: expected epochs to be at least the 2 of the checkpoint"),
    }


@pytest.mark.parametrize(
    "what",
    [
        "data",
        "batch_size",
        "shuffle",
        "no shuffle",
        "model's size",
        "model",
        "parameters' names",
        "optimizer",
        "scheduler",
        "validation",
        "callback",
        "epochs",
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_nothing_has_changed(what, tmp_path):
    path = tmp_path / "run.npz"
    model = mlp()
    usual = dict(batch_size=4, shuffle=1, epochs=2)
    run(model, optimizer=optim.Adam(model.parameters()), callbacks=[Checkpoint(path)], **usual)
    changes, text = other_runs()[what]
    arguments = {**usual, "model": mlp(2), **changes}
    model = arguments["model"]
    made = arguments.get("optimizer", optim.Adam)
    arguments["optimizer"] = made(model.parameters(), lr=0.1) if isinstance(made, type) else made
    if "scheduler" in arguments:
        arguments["scheduler"] = arguments["scheduler"](arguments["optimizer"])

    def everything():
        return weights(model), exactly(arguments["optimizer"].state_dict()), random.getstate()

    before = everything()
    with pytest.raises(ValueError) as caught:
        run(resume=path, **arguments)
    assert text in str(caught.value) and repr(str(path)) in str(caught.value)
    assert everything() == before


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        run(resume=tmp_path / "none.npz")
    path = str(tmp_path / "weights.npz")
    files.write_file(path, {"w": ((1,), array("d", [1.0]))}, {})
    with pytest.raises(ValueError) as caught:
        run(resume=path)
    assert str(caught.value) == (
        f"fit: expected resume to be a file that a Checkpoint wrote, got "
        f"{path!r} without its entries; mingrad.load reads weights alone"
    )


RANDOM = '{"dict": [["version", 1], ["random", {"tuple": []}]]}'


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"dict": []}', '{"dict": [["version", 1]]}', '{"array": "none"}', RANDOM])
def test_a_damaged_checkpoint_is_refused(text, tmp_path):
    path = str(tmp_path / "run.npz")
    files.write_file(path, {"parameters": ((1,), array("d", [1.0]))}, {"mingrad.fit": text})
    with pytest.raises(ValueError, match=r"^fit: the checkpoint '.*run\.npz' is damaged: "):
        run(resume=path)


def without(name):
    return lambda kept: kept.pop(name)


def to(value, *names):
    """An edit of a nest: the item there becomes value."""

    def edit(kept):
        for name in names[:-1]:
            kept = kept[name]
        kept[names[-1]] = value

    return edit


EDITS = {
    "no training": without("training"),
    "no epoch": without("epoch"),
    "an epoch that is text": to("1", "epoch"),
    "an epoch below 0": to(-1, "epoch"),
    "more epochs than in the history": to(1, "epoch"),
    "a column less": lambda kept: kept["history"].pop("loss"),
    "a column that is short": lambda kept: kept["history"]["loss"].pop(),
    "a column of texts": to(["a", "b"], "history", "loss"),
    "stopped is a number": to(1, "stopped"),
    "no random numbers": to(None, "random"),
    "random numbers out of range": to((3, (10**400,) * 625, None), "random"),
    "no order": to(None, "order"),
    "no scheduler": to(None, "scheduler"),
    "a scheduler's text": to("x", "scheduler", "last_epoch"),
    "one callback more": lambda kept: kept["callbacks"].append({}),
    "a callback that is a number": to(1.0, "callbacks", 0),
    "a best epoch that is text": to("1", "callbacks", 0, "best_epoch"),
    "best values that are too few": to(array("d", [1.0]), "callbacks", 0, "values"),
    "no optimizer": lambda kept: kept.pop("optimizer"),
    "an optimizer without groups": to([], "optimizer", "param_groups"),
    "a learning rate that is text": to("x", "optimizer", "param_groups", 0, "lr"),
    "a nest": to([[[[[[[]]]]]]], "optimizer", "state"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_checkpoint_with_a_part_exchanged_is_refused_and_nothing_has_changed(what, tmp_path):
    def tools(model):
        optimizer = optim.Adam(model.parameters(), lr=0.125)
        return dict(optimizer=optimizer, scheduler=optim.StepLR(optimizer, 2), shuffle=1, epochs=2)

    path = str(tmp_path / "run.npz")
    model = mlp()
    run(model, callbacks=[EarlyStopping(), Checkpoint(path)], **tools(model))
    tensors, metadata = files.read_file(path)
    kept = training._unpack(json.loads(metadata["mingrad.fit"]), tensors)
    EDITS[what](kept)
    tensors = {"parameters": tensors["parameters"]}
    text = json.dumps(training._pack(kept, "", tensors))
    files.write_file(path, tensors, {"mingrad.fit": text})

    model = mlp(5)
    arguments, stopping = tools(model), EarlyStopping()
    random.seed(9)

    def everything():
        return (
            weights(model),
            exactly(arguments["optimizer"].state_dict()),
            arguments["scheduler"].state_dict(),
            random.getstate(),
        )

    before = everything()
    with pytest.raises(ValueError) as caught:
        run(model, callbacks=[stopping], resume=path, **arguments)
    assert repr(path) in str(caught.value)
    assert everything() == before and stopping.state_dict() == {"best": None, "best_epoch": 0, "values": None}


def test_a_checkpoint_nested_too_deep_is_refused(tmp_path):
    path = str(tmp_path / "run.npz")
    files.write_file(path, {}, {"mingrad.fit": "[" * 100_000})
    with pytest.raises(ValueError, match=r"^fit: the checkpoint '.*run\.npz' is damaged: "):
        run(resume=path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    path = str(tmp_path / "run.npz")
    monkeypatch.setattr(training, "VERSION", 2)
    run(callbacks=[Checkpoint(path)])
    monkeypatch.undo()
    with pytest.raises(ValueError) as caught:
        run(resume=path)
    assert str(caught.value) == (f"fit: expected a checkpoint of version 1, got 2 in {path!r}, from another version of mingrad")


def test_a_state_that_is_not_taken_leaves_everything_as_it_was(tmp_path):
    class Picky:
        """Takes its own state, but not one from a file."""

        def __init__(self):
            self.own = {"k": object()}

        def on_epoch_end(self, state):
            pass

        def state_dict(self):
            return {"k": 1} if writing else self.own

        def load_state_dict(self, state):
            if state.keys() == {"k"} and state["k"] == 1:
                raise OSError("no")

    path, writing = tmp_path / "run.npz", True
    model = mlp()
    run(model, optimizer=optim.Adam(model.parameters()), callbacks=[Checkpoint(path), Picky()])
    writing = False
    model = mlp(5)
    optimizer = optim.Adam(model.parameters(), lr=0.125)
    before = weights(model), exactly(optimizer.state_dict()), random.getstate()
    with pytest.raises(OSError, match="no"):
        run(model, optimizer=optimizer, callbacks=[Picky()], resume=path, epochs=2)
    assert (weights(model), exactly(optimizer.state_dict()), random.getstate()) == before


# -- processes that end in the middle --------------------------------------------------------------


class Child:
    """A Python process with mingrad importable, running a piece of code."""

    def __init__(self, code, folder, **environment):
        home = str(Path(mingrad.__file__).parent.parent)
        paths = filter(None, [home, os.environ.get("PYTHONPATH")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=folder,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def check(self):
        """Wait for its end, which is to be a good one; return what it printed."""
        output, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors
        return output


def child(*arguments, **environment):
    return Child(*arguments, **environment)


TRAINING = """
    import random, signal, time
    from mingrad import nn, optim
    from mingrad.training import Checkpoint, fit

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells switch it off in the background

    class Pause:
        def on_backward(self, state):
            if state.epoch == 6 and state.batch == 2:
                print("in the middle", flush=True)
                time.sleep(60)

    random.seed(1)
    model = nn.MLP(2, [4, 1], activation="tanh")
    X = [[k / 40, (k * k % 13) / 13] for k in range(40)]
    history = fit(model, (X, [x * y for x, y in X]), loss=nn.mse_loss, epochs=12, batch_size=4,
                  shuffle=2, optimizer=optim.Adam(model.parameters(), lr=0.01), resume=RESUME,
                  callbacks=[Checkpoint("run.npz"), *([Pause()] if PAUSE else [])])
    print([p.data.hex() for p in model.parameters()], history["loss"])
"""


def run_training(folder, resume=None, pause=False):
    code = f"RESUME, PAUSE = {resume!r}, {pause!r}\n" + textwrap.dedent(TRAINING)
    return Child(code, folder)


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_a_training_that_was_interrupted_in_an_epoch_resumes_to_the_same_bits(how, tmp_path):
    if os.name == "nt" and how == "interrupt":
        pytest.skip("Windows sends Ctrl-C to all processes of the console")
    (tmp_path / "whole").mkdir()
    expected = run_training(tmp_path / "whole").check()
    victim = run_training(tmp_path, pause=True)
    assert victim.process.stdout.readline() == "in the middle\n"
    victim.process.kill() if how == "kill" else victim.process.send_signal(signal.SIGINT)
    output, errors = victim.process.communicate(timeout=60)
    assert victim.process.returncode != 0 and output == ""
    assert how == "kill" or errors.endswith("KeyboardInterrupt\n")
    assert run_training(tmp_path, resume="run.npz").check() == expected


def test_a_kill_while_checkpoints_are_written_leaves_a_whole_one(tmp_path):
    """The writer does nothing else, so that most kills come while it writes."""
    code = """
        import random
        from mingrad import nn, optim
        from mingrad.training import Checkpoint, fit
        random.seed(1)
        model = nn.MLP(20, [100, 1])
        print("here", flush=True)
        fit(model, ([[1.0] * 20], [0.5]), loss=nn.mse_loss, epochs=10**6,
            optimizer=optim.SGD(model.parameters(), lr=1e-5), callbacks=[Checkpoint("run.npz")])
    """
    epochs = []
    for delay in (0.0, 0.003, 0.01):
        victim = Child(code, tmp_path)
        victim.process.stdout.readline()
        while not (tmp_path / "run.npz").exists() and victim.process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.05 + delay)
        victim.process.kill()
        victim.process.communicate(timeout=60)
        tensors, metadata = files.read_file(tmp_path / "run.npz")
        epochs.append(dict(json.loads(metadata["mingrad.fit"])["dict"])["epoch"])
        assert len(tensors["parameters"][1]) == 20 * 100 + 100 + 100 + 1
    assert all(epochs)


# -- errors ----------------------------------------------------------------------------------------

BAD = {
    "model": (dict(model=3), TypeError, "fit: expected model to be callable, got 3"),
    "loss": (dict(loss=None), TypeError, "fit: expected loss to be callable, got None"),
    "optimizer's class": (
        dict(optimizer=optim.SGD),
        TypeError,
        (
            "fit: expected optimizer to be one of mingrad.optim, such as optim.SGD(model.parameters(), "
            "lr=0.1), got the class SGD itself"
        ),
    ),
    "optimizer's name": (
        dict(optimizer="adam"),
        TypeError,
        "fit: expected optimizer to be one of mingrad.optim, such as optim.SGD(model.parameters(), lr=0.1), got 'adam'",
    ),
    "scheduler": (
        dict(scheduler=0.5),
        TypeError,
        "fit: expected scheduler to be one of mingrad.optim, such as optim.StepLR(optimizer, step_size=10), got 0.5",
    ),
    "another model's optimizer": (
        dict(optimizer=lambda: sgd(mlp())),
        ValueError,
        (
            "fit: the optimizer has none of the model's parameters, so the model would not learn: "
            "expected SGD(model.parameters(), ...) of this model"
        ),
    ),
    "epochs below 0": (dict(epochs=-1), ValueError, "fit: expected epochs to be at least 0, got -1"),
    "epochs a float": (dict(epochs=2.0), TypeError, "fit: expected epochs to be an int, got 2.0"),
    "epochs a bool": (dict(epochs=True), TypeError, "fit: expected epochs to be an int, got True"),
    "batch_size 0": (dict(batch_size=0), ValueError, "fit: expected batch_size to be at least 1, got 0"),
    "batch_size None": (dict(batch_size=None), TypeError, "fit: expected batch_size to be an int, got None"),
    "shuffle": (
        dict(shuffle=True),
        TypeError,
        "fit: expected shuffle to be None (the data's order) or an int, the seed of the order, got True",
    ),
    "no data": (dict(data=([], [])), ValueError, "fit: expected data to have at least one sample, got none"),
    "no pairs": (dict(data=[]), ValueError, "fit: expected data to have at least one sample, got none"),
    "lengths": (
        dict(data=(X, Y[:-1])),
        ValueError,
        "fit: expected a target for each sample, got 20 samples and 19 targets in data",
    ),
    "a tuple of three": (
        dict(data=(X, Y, Y)),
        ValueError,
        "fit: expected data to be a tuple (X, y) or a list of pairs (x, y), got a tuple of 3",
    ),
    "a list of X and y": (
        dict(data=[X, Y]),
        TypeError,
        "fit: expected data[0] to be a pair (x, y), got 20 items; samples and targets that are apart go into a tuple, (X, y)",
    ),
    "X alone": (
        dict(data=Y),
        TypeError,
        f"fit: expected data[0] to be a pair (x, y), got {Y[0]}; samples and targets that are apart go into a tuple, (X, y)",
    ),
    "a string": (dict(data=("abc", Y)), TypeError, "fit: expected data[0] to be a sequence, got 'abc'"),
    "a number": (dict(data=3), TypeError, "fit: expected data to be a sequence, got 3"),
    "no validation data": (
        dict(validation=([], [])),
        ValueError,
        "fit: expected validation to have at least one sample, got none",
    ),
    "a fraction": (dict(validation=0.2), TypeError, "fit: expected validation to be a sequence, got 0.2"),
    "metrics without validation": (
        dict(metrics={"a": max}),
        ValueError,
        (
            "fit: metrics are of the validation data, got validation=None: give validation=(X, y), be "
            "it the training data once more"
        ),
    ),
    "metrics in a list": (
        dict(metrics=[max], validation=VALIDATION),
        TypeError,
        "fit: expected metrics to be a dict from name to function(outputs, targets), got list",
    ),
    "a metric that is none": (
        dict(metrics={"a": 1}, validation=VALIDATION),
        TypeError,
        "fit: expected metrics to be a dict from name to function(outputs, targets), got {'a': 1}",
    ),
    "a metric's name": (
        dict(metrics={"loss": max}, validation=VALIDATION),
        ValueError,
        "fit: expected another name than 'loss' for a metric: the validation loss is noted under it",
    ),
    "callbacks": (
        dict(callbacks=print),
        TypeError,
        "fit: expected callbacks to be a list of functions and objects, got builtin_function_or_method",
    ),
    "a callback": (
        dict(callbacks=[None]),
        TypeError,
        (
            "fit: expected a callback to be a function or an object with one of the methods "
            "on_fit_begin, on_backward, on_batch_end, on_epoch_end, on_fit_end, got None"
        ),
    ),
    "a callback's class": (
        dict(callbacks=[EarlyStopping]),
        TypeError,
        (
            "fit: expected a callback to be a function or an object with one of the methods "
            "on_fit_begin, on_backward, on_batch_end, on_epoch_end, on_fit_end, got the class "
            "EarlyStopping itself"
        ),
    ),
    "progress": (dict(progress="yes"), TypeError, "fit: expected progress to be True, False or None, got 'yes'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_refused_and_nothing_has_changed(what):
    arguments, error, text = BAD[what]
    model = mlp()
    optimizer = optim.Adam(model.parameters())
    before = weights(model), exactly(optimizer.state_dict())
    arguments = {"model": model, "data": (X, Y), "optimizer": optimizer, **arguments}
    if what == "another model's optimizer":
        arguments["optimizer"] = arguments["optimizer"]()
    with pytest.raises(error) as caught:
        run(**arguments)
    assert str(caught.value) == text
    assert (weights(model), exactly(optimizer.state_dict())) == before


LOSSES = {
    "a float": (
        lambda o, t: sum(v.data for v in o),
        TypeError,
        "got {}: the loss must stay on the graph, without .data, item() or float()",
    ),
    "a list": (
        lambda o, t: list(o),
        TypeError,
        "got list: loss(outputs, targets) must give a single number, as with reduction='mean'",
    ),
    "None": (
        lambda o, t: None,
        TypeError,
        "got None: loss(outputs, targets) must give a single number, as with reduction='mean'",
    ),
    "detached": (
        lambda o, t: mingrad.sum(o).detach(),
        ValueError,
        (
            "fit: expected a loss that depends on parameters with requires_grad, got one that "
            "depends on none: .data, detach() or no_grad() on the way to it cut it off"
        ),
    ),
}


@pytest.mark.parametrize("what", LOSSES)
def test_a_loss_that_cannot_be_learned_from_is_refused(what):
    loss, error, text = LOSSES[what]
    model = mlp()
    optimizer = optim.Adam(model.parameters())
    before = weights(model), exactly(optimizer.state_dict())
    with pytest.raises(error) as caught:
        run(model, loss=loss, optimizer=optimizer)
    assert text.split("{}")[-1] in str(caught.value)
    assert (weights(model), exactly(optimizer.state_dict())) == before


def test_fit_inside_no_grad_is_refused():
    with mingrad.no_grad(), pytest.raises(ValueError, match="no_grad"):
        run()


def grown(model):
    for p in model.parameters():
        p.data = 1e200
    return model


def undone(model):
    model.parameters()[0].data = math.nan
    return model


BEFORE = "; parameters and optimizer are as they were before this batch. "
SMALLER = "a smaller learning rate (now 0.001) or optim.clip_grad_norm_ in a callback's on_backward keeps steps small"
NOT_FINITE = {
    "a sample": (
        dict(data=([*X[:9], [0.5, math.nan], *X[10:]], Y)),
        "got nan in epoch 1, batch 3 of 5",
        "The sample of index 9 in the data is not finite: leave it out or repair it",
    ),
    "a target": (
        dict(data=(X, [*Y[:6], math.inf, *Y[7:]])),
        "got inf in epoch 1, batch 2 of 5",
        "The target of index 6 in the data is not finite: leave it out or repair it",
    ),
    "parameters": (
        dict(model=undone),
        "got nan in epoch 1, batch 1 of 5",
        "An earlier step made parameters infinite or nan: begin again or from a checkpoint; " + SMALLER,
    ),
    "growth": (
        dict(loss=lambda o, t: mingrad.sum(o) * 1e200 * 1e200),
        "got inf in epoch 1, batch 1 of 5",
        "The data and the parameters are finite, and no operation left its domain, so most likely "
        "sums or products outgrew a float (mingrad.detect_anomaly() around fit names the line): " + SMALLER,
    ),
    "ignored errors": (
        dict(loss=lambda o, t: mingrad.log(0.0 * mingrad.sum(o))),
        "got -inf in epoch 1, batch 1 of 5",
        (
            "Float errors are ignored here: under mingrad.errstate(all='raise') the operation that "
            "first leaves its domain raises and names itself"
        ),
    ),
}


@pytest.mark.parametrize("what", NOT_FINITE)
def test_a_loss_that_is_not_finite_ends_the_training_before_the_step(what):
    changes, where, why = NOT_FINITE[what]
    model = mlp()
    if "model" in changes:
        model = changes["model"](model)
    elif what == "growth":
        for p in model.parameters():
            p.data = 1.0
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    seen = []

    class Notes:
        def on_batch_end(self, state):
            seen.append((weights(model), exactly(optimizer.state_dict())))

    Notes().on_batch_end(None)
    arguments = {**changes, "model": model, "optimizer": optimizer, "callbacks": [Notes()]}
    with mingrad.errstate(all="ignore" if what == "ignored errors" else None), pytest.raises(FloatingPointError) as caught:
        run(**arguments, batch_size=4)
    assert str(caught.value) == f"fit: expected a finite loss, {where}{BEFORE}{why}"
    assert seen[-1] == (weights(model), exactly(optimizer.state_dict()))


def test_what_the_error_of_ignored_errors_advises_names_the_operation():
    with mingrad.errstate(all="raise"), pytest.raises(ValueError, match="log"):
        run(loss=lambda o, t: mingrad.log(0.0 * mingrad.sum(o)))


def test_lbfgs_may_try_points_where_the_loss_is_not_finite_but_not_start_there():
    model = mlp()
    optimizer = optim.LBFGS(model.parameters())
    before = weights(model)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1 of 1"):
        run(model, ([[math.nan, 0.0]], [1.0]), optimizer=optimizer)
    assert weights(model) == before


@pytest.mark.parametrize("result", [[1.0], "high", None], ids=repr)
def test_a_metric_that_is_no_number_is_refused(result):
    with pytest.raises(TypeError, match="fit: expected 'accuracy' of the validation data to be one number, got "):
        run(validation=VALIDATION, metrics={"accuracy": lambda outputs, targets: result})


# -- progress --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Sleeper:
    """Makes each batch take long, without taking time: the clock is set forward."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def on_backward(self, state):
        self.now += self.seconds


@pytest.fixture(params=["tqdm", "a line"])
def bar(request, monkeypatch):
    if request.param == "tqdm":
        pytest.importorskip("tqdm", reason="tqdm is not installed")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    return request.param


def progress_of(monkeypatch, stream, seconds, **arguments):
    monkeypatch.setattr(sys, "stderr", stream)
    callbacks = [Sleeper(monkeypatch, seconds), *arguments.pop("callbacks", ())]
    run(epochs=2, batch_size=5, callbacks=callbacks, **arguments)
    return "" if stream is None else stream.getvalue()


def test_long_work_on_a_terminal_has_a_bar(bar, monkeypatch):
    text = progress_of(monkeypatch, Terminal(), 0.3)
    assert "epoch 1/2" in text and "epoch 2/2" in text and "loss " in text
    assert ("8/8" in text) == (bar == "tqdm") and ("batch 4/4" in text) == (bar == "a line")
    assert text.endswith("\n") and "\r" in text
    assert "batch 1/4  loss" not in text.split("epoch 2/2")[0]  # the first second is without


@pytest.mark.parametrize(
    "stream, seconds, progress",
    [
        (Terminal, 0.1, None),
        (io.StringIO, 10.0, None),
        (Terminal, 10.0, False),
        (lambda: None, 10.0, None),
        (lambda: None, 10.0, True),
    ],
    ids=["short", "no terminal", "not wanted", "no stderr", "no stderr, but wanted"],
)
def test_nothing_is_written_otherwise(bar, monkeypatch, stream, seconds, progress):
    assert progress_of(monkeypatch, stream(), seconds, progress=progress) == ""


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_bar_that_is_asked_for_is_shown_at_once_and_anywhere(bar, monkeypatch, stream):
    text = progress_of(monkeypatch, stream(), 0.0001, progress=True)
    assert "epoch 1/2" in text and "epoch 2/2" in text and text.endswith("\n")


def test_lines_of_a_log_are_whole(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    text = progress_of(monkeypatch, io.StringIO(), 6.0, progress=True)
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0].startswith("epoch 1/2  batch 1/4  loss ")
    assert lines[0].endswith("6 s, 42 s left")
    assert lines[-1].startswith("epoch 2/2  batch 4/4  loss ")
    assert lines[-1].endswith("48 s, 0 s left")


def test_a_line_fits_the_terminal(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setenv("COLUMNS", "30")
    text = progress_of(monkeypatch, Terminal(), 2.0)
    assert max(map(len, text.replace("\n", "\r").split("\r"))) == 29


def test_the_line_makes_room_for_what_callbacks_print(bar, monkeypatch):
    text = progress_of(monkeypatch, Terminal(), 2.0, callbacks=[lambda state: print("a callback", file=sys.stderr)])
    for before in text.split("a callback")[:-1]:
        assert before.endswith("\r") and not before.rstrip("\r").split("\r")[-1].strip()


def test_the_bar_is_closed_after_an_exception(bar, monkeypatch):
    stream = Terminal()
    with pytest.raises(ZeroDivisionError):
        progress_of(monkeypatch, stream, 2.0, callbacks=[lambda state: 1 / 0])
    assert stream.getvalue() == "" or stream.getvalue()[-1] in "\r\n"


def test_a_resumed_training_counts_from_where_it_was(bar, monkeypatch, tmp_path):
    path = tmp_path / "run.npz"
    run(epochs=1, batch_size=5, callbacks=[Checkpoint(path)])
    text = progress_of(monkeypatch, Terminal(), 2.0, resume=path)
    assert "epoch 2/2" in text and "epoch 1/2" not in text
    assert "2 s, 6 s left" in text or "00:02<00:06" in text  # three of four batches at 2 s
