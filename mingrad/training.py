"""fit: the training loop, with a history, early stopping, and checkpoints that resume to the bit.

The loop is the one that a user writes by hand, over the same public functions, and holds nothing
that such a loop cannot reach. Losses are in mingrad.nn, optimisers and schedules in mingrad.optim,
the file formats in mingrad.files.
"""

import copy
import json
import marshal
import math
import operator
import os
import random
import shutil
import sys
import time
import zlib
from array import array

from . import _core, distributed, files, optim
from .engine import Variable, no_grad
from .nn import Module

__all__ = ["Checkpoint", "EarlyStopping", "FitState", "History", "fit"]


def fit(
    model,
    data,
    *,
    loss,
    optimizer,
    epochs=1,
    batch_size=32,
    shuffle=None,
    callbacks=(),
    validation=None,
    scheduler=None,
    metrics=None,
    progress=None,
    resume=None,
    comm=None,
):
    """Train model on data in mini-batches; return the :class:`History` of the run.

    For each batch it does what one writes by hand, and nothing else::

        optimizer.zero_grad()
        value = loss(model(xs), ys)     # xs: a list of samples, ys: the list of their targets
        value.backward()
        optimizer.step()

    model: a callable that takes a list of samples and gives the sequence of their results, as the
    modules of mingrad.nn do. A Module is in train() for the batches, in eval() for validation, and
    afterwards as it was; a function that wraps modules looks after their modes itself.
    data: a tuple (X, y) of two sequences of equal length (lists, buffers, NumPy arrays), or a list
    of pairs (x, y); a sample and its target may be whatever model and loss understand.
    loss: function(outputs, targets) to one Variable, such as nn.mse_loss or nn.cross_entropy.
    optimizer: one of mingrad.optim over the model's parameters. LBFGS is given a closure.
    epochs: passes over the data; with resume, those of the interrupted run included.
    batch_size: samples in a batch; the last batch of an epoch has what is left.
    shuffle: None, every epoch in the data's order, or an int, the seed of a generator of its own:
    ``rng = random.Random(shuffle)``, then for each epoch ``keys = [rng.random() for _ in X]`` and
    ``order = sorted(range(len(X)), key=keys.__getitem__)``. Python promises the same random() in
    all its versions, as it does not for shuffle() and sample(). The order neither depends on the
    global generator nor disturbs it.
    validation: data as above that is not learned from. After each epoch, under no_grad(), the
    model is called on all of it at once, and the loss of the outputs is noted.
    metrics: {name: function(outputs, targets) to a number}, of the validation data. They look at
    all outputs together, as many are no mean over batches. To measure on the training data, pass it
    as validation; that costs a forward pass an epoch.
    scheduler: one of mingrad.optim over the optimizer, stepped once after each epoch;
    ReduceLROnPlateau is given the validation loss, without validation the training loss.
    callbacks: functions or objects. A function is called with the :class:`FitState` after each
    epoch and the scheduler's step. An object has one or more of these methods, each called with the
    FitState: ``on_fit_begin``; ``on_backward``, between backward() and the optimizer's step, the
    place to clip gradients; ``on_batch_end``; ``on_epoch_end``; ``on_fit_end``, unless an exception
    ended the training. A function or an ``on_epoch_end`` that returns True makes the epoch the
    last. What an object gives as ``state_dict()`` is kept in checkpoints and handed back to its
    ``load_state_dict``. See :class:`EarlyStopping` and :class:`Checkpoint`.
    progress: None, a bar on stderr if that is a terminal and the work takes longer than a second;
    True, at once and anywhere; False, none. It is tqdm's where tqdm is installed.
    resume: the path of a file that a Checkpoint wrote. The training goes on behind that epoch, and
    all but the seconds comes out as if it had never stopped, to the bit: parameters, optimizer,
    history, Python's random numbers. All other arguments must be those of the first call.
    comm: an mpi4py communicator, as mingrad.distributed.run() gives it; None: this process alone.
    Its ranks make the same call, with all of the data, and share the training: each does its part
    of every batch, gradients are their mean over the batch, and every rank takes the same step, to
    the bit. Up to the rounding of sums the outcome is that of a single process; a Dropout draws
    from each rank's own random numbers. Rank 0 has what is not shared: the parameters that all
    begin with, validation and metrics, whose numbers all are given, the bar, the files that are
    written and read. Callbacks are called on every rank. One that fails makes all raise, the others
    mingrad.distributed.RankError. On as many ranks as before, resume goes on to the bit.

    Raises TypeError or ValueError, before anything has changed, for arguments that do not fit
    together (no data, lengths that differ, an optimizer of another model, ...), and for a file to
    resume from that another model, optimizer or data made. TypeError for a loss that is not one
    Variable, ValueError for one that depends on no parameter. FloatingPointError for a loss that is
    nan or infinite: the step is not taken, so parameters and optimizer are as the batch before left
    them, and the text says where to look. (It is the ArithmeticError that Python has for failed
    float operations, and the one that NumPy raises for them.)

    >>> import random
    >>> from mingrad import fit, optim
    >>> from mingrad.nn import MLP, mse_loss
    >>> random.seed(1)
    >>> model = MLP(1, [8, 1], activation="tanh")
    >>> X = [[i / 10] for i in range(-10, 11)]
    >>> y = [x * x for x, in X]
    >>> history = fit(model, (X, y), loss=mse_loss, shuffle=0, epochs=300, batch_size=7,
    ...               optimizer=optim.Adam(model.parameters(), lr=0.05))
    >>> history["loss"][0] > 0.1, history["loss"][-1] < 0.001
    (True, True)
    """
    ranks = distributed._Ranks(comm)
    with ranks.told():
        state = FitState(
            model,
            data,
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            callbacks=callbacks,
            validation=validation,
            scheduler=scheduler,
            metrics=metrics,
            ranks=ranks,
        )
        if progress not in (None, True, False):
            raise TypeError(f"fit: expected progress to be True, False or None, got {progress!r}")
        for hook in state._hooks("on_fit_begin"):
            hook(state)
        _begin_together(state, resume)
        if resume is not None:
            _resume(state, resume)
        _train(state, loss, progress)
        ranks.meet("at the end of fit()")
    return state.history


def _train(state, loss, progress):
    """The loop of fit."""
    model, optimizer, ranks = state.model, state.optimizer, state._ranks
    X, y = state._data
    rng, samples = state._rng, range(len(X))
    order = samples
    takes_closure = isinstance(optimizer, optim.LBFGS)
    on_backward, on_batch_end, on_epoch_end = map(state._hooks, ("on_backward", "on_batch_end", "on_epoch_end"))
    checkpoints = [hook for hook in on_epoch_end if isinstance(getattr(hook, "__self__", None), Checkpoint)]
    clock, isfinite = time.perf_counter, math.isfinite

    def step_loss():
        """The loss of the batch after its backward(): the closure that LBFGS takes."""
        optimizer.zero_grad()
        number = 0.0
        if xs:  # of a small batch a rank may have no part
            value = loss(model(xs), ys)
            if state.loss is None:  # the first time in this batch: at the parameters as they are
                if not (isinstance(value, Variable) and value.requires_grad and isfinite(value.data)):
                    raise _bad_loss(value, state, xs, ys)
            number = value.data
            value.backward()
        number = ranks.reduce(optimizer._groups, "mean", len(xs), number)
        if state.loss is None:
            state.loss = number
        for hook in on_backward:
            hook(state)
        return number

    bar = _Progress(state, progress)
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, Module) else []
    try:
        if modes:
            model.train()
        while state.epoch < state.epochs and not state.stopped:
            started, total = clock(), 0.0
            state.epoch += 1
            state._train(True)
            if rng is not None:
                order = sorted(samples, key=[rng.random() for _ in samples].__getitem__)
            for state.batch, first in enumerate(range(0, len(samples), state.batch_size), 1):  # noqa: B020
                batch = order[first : first + state.batch_size]
                state.indices = indices = ranks.part(batch)
                xs, ys = [X[i] for i in indices], [y[i] for i in indices]
                state.loss = None
                if takes_closure:
                    optimizer.step(step_loss)
                else:
                    step_loss()
                    optimizer.step()
                total += state.loss * len(batch)
                for hook in on_batch_end:
                    hook(state)
                if clock() >= bar.due:
                    bar.draw()
            state._end_epoch(total / len(samples), started)
            bar.hide()
            for hook in on_epoch_end:
                if hook not in checkpoints:
                    state.stopped |= _is_true(hook(state))
            state._meet()
            for hook in checkpoints:
                hook(state)
        if bar.drawn:
            bar.draw()
        for hook in state._hooks("on_fit_end"):
            hook(state)
    finally:
        bar.close()
        for module, training in modes:  # outer ones first, so that each ends as it was
            if module.training != training:
                module.train(training)


class FitState:
    """What a running :func:`fit` consists of, as its callbacks see it.

    model, optimizer, scheduler, callbacks, batch_size, shuffle: as given to fit. history: the
    :class:`History` so far. epoch, epochs: the running epoch's number, from 1 on, and how many
    there will be; batch, batches: the same of the batches of an epoch. indices: where in the data
    the batch's samples are, of several ranks this one's. loss: the batch's, a float. stopped:
    whether a callback has ended the training. rank, ranks: this process's number and how many of
    them share the training, 0 and 1 without comm.

    >>> from mingrad import fit, optim
    >>> from mingrad.nn import MLP, mse_loss
    >>> model = MLP(1, [1])
    >>> def each_epoch(state):
    ...     print(state.epoch, "of", state.epochs, list(state.history))
    >>> _ = fit(model, [([1.0], 2.0)], loss=mse_loss, epochs=2, callbacks=[each_epoch],
    ...         optimizer=optim.SGD(model.parameters(), lr=0.1))
    1 of 2 ['epoch', 'loss', 'learning rate', 'seconds']
    2 of 2 ['epoch', 'loss', 'learning rate', 'seconds']
    """

    def __init__(
        self,
        model,
        data,
        *,
        loss,
        optimizer,
        epochs,
        batch_size,
        shuffle,
        callbacks,
        validation,
        scheduler,
        metrics,
        ranks,
    ):
        _check_callable("model", model)
        _check_callable("loss", loss)
        _check_tool(
            "optimizer",
            optimizer,
            "optim.SGD(model.parameters(), lr=0.1)",
            ("step", "zero_grad", "param_groups"),
        )
        if scheduler is not None:
            _check_tool("scheduler", scheduler, "optim.StepLR(optimizer, step_size=10)", ("step",))
        if shuffle is not None and (isinstance(shuffle, bool) or not isinstance(shuffle, int)):
            raise TypeError(
                f"fit: expected shuffle to be None (the data's order) or an int, the seed of the order, got {shuffle!r}"
            )
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.epochs = _count("epochs", epochs, 0)
        self.batch_size = _count("batch_size", batch_size, 1)
        self.shuffle = shuffle
        self.callbacks = _callbacks(callbacks)
        self.epoch = self.batch = 0
        self.indices, self.loss, self.stopped = (), None, False
        self.rank, self.ranks, self._ranks = ranks.rank, ranks.size, ranks
        self._random = ()  # states of all ranks' random numbers, at the end of the epoch
        self._rng = None if shuffle is None else random.Random(shuffle)
        self._data = _samples("data", data)
        self.batches = -(-len(self._data[0]) // self.batch_size)
        self._validation = None if validation is None else _samples("validation", validation)
        self._measures = {"loss": loss, **_metrics(metrics, validation)}
        if isinstance(model, Module):
            own = set(model.parameters())
            if own and own.isdisjoint(self._optimized()):
                raise ValueError(
                    "fit: the optimizer has none of the model's parameters, so the model would not "
                    f"learn: expected {type(optimizer).__name__}(model.parameters(), ...) of this "
                    "model"
                )
        groups = len(optimizer.param_groups)
        self._rates = ["learning rate" + (f" {k}" if groups > 1 else "") for k in range(groups)]
        names = [f"validation {name}" for name in self._measures] if validation is not None else []
        self.history = History({name: [] for name in ("epoch", "loss", *names, *self._rates, "seconds")})

    def parameters(self):
        """The model's parameters as a list, then what the optimizer has beside them."""
        own = self.model.parameters() if isinstance(self.model, Module) else []
        seen = set(own)
        return own + [p for p in self._optimized() if p not in seen]

    def _optimized(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _hooks(self, name):
        """The callbacks' methods of this name; at the end of an epoch also the plain functions."""
        found = []
        for callback in self.callbacks:
            if hasattr(callback, name):
                found.append(getattr(callback, name))
            elif name == "on_epoch_end" and not any(hasattr(callback, hook) for hook in HOOKS):
                found.append(callback)
        return found

    def _train(self, mode):
        if isinstance(self.model, Module) and self.model.training != mode:
            self.model.train(mode)

    def _end_epoch(self, loss, started):
        """Validate, note the epoch's numbers, step the scheduler."""
        noted = {"epoch": self.epoch, "loss": loss}
        for name, group in zip(self._rates, self.optimizer.param_groups):
            noted[name] = group["lr"]
        if self._validation is not None:
            self._train(False)
        if self._validation is not None and self.rank == 0:
            X, y = self._validation
            with no_grad():
                outputs = self.model(X)
                for name, measure in self._measures.items():
                    noted[f"validation {name}"] = _number(name, measure(outputs, y))
        noted["seconds"] = time.perf_counter() - started
        noted = self._ranks.same(noted, "at the end of an epoch of fit()")
        if isinstance(self.scheduler, optim.ReduceLROnPlateau):
            self.scheduler.step(noted.get("validation loss", loss))
        elif self.scheduler is not None:
            self.scheduler.step()
        for name, values in self.history.items():
            values.append(noted[name])

    def _meet(self):
        """The training is stopped on all ranks or on none; note their random numbers for a checkpoint."""
        met = self._ranks.every((self.stopped, random.getstate()), "at the end of an epoch of fit()")
        self.stopped = any(stopped for stopped, _ in met)
        self._random = [state for _, state in met]


HOOKS = ("on_fit_begin", "on_backward", "on_batch_end", "on_epoch_end", "on_fit_end")


# -- arguments and their errors --------------------------------------------------------------------


def _kind(thing):
    """What an argument is, for an error message."""
    if isinstance(thing, type):
        return f"the class {thing.__name__} itself"
    plain = thing is None or isinstance(thing, (str, int, float))
    return repr(thing) if plain else type(thing).__name__


def _check_callable(name, thing):
    if not callable(thing):
        raise TypeError(f"fit: expected {name} to be callable, got {_kind(thing)}")


def _check_tool(name, thing, example, needed):
    if isinstance(thing, type) or not all(hasattr(thing, attribute) for attribute in needed):
        raise TypeError(f"fit: expected {name} to be one of mingrad.optim, such as {example}, got {_kind(thing)}")


def _count(name, value, least):
    try:
        if isinstance(value, bool):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"fit: expected {name} to be an int, got {value!r}") from None
    if value < least:
        raise ValueError(f"fit: expected {name} to be at least {least}, got {value}")
    return value


def _samples(name, data):
    """(X, y) as two lists of equal length, from (X, y) or from pairs."""
    if isinstance(data, tuple):
        if len(data) != 2:
            raise ValueError(f"fit: expected {name} to be a tuple (X, y) or a list of pairs (x, y), got a tuple of {len(data)}")
        X, y = (_list(f"{name}[{k}]", part) for k, part in enumerate(data))
    else:
        X, y = [], []
        for k, pair in enumerate(_list(name, data)):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                what = f"{len(pair)} items" if isinstance(pair, (tuple, list)) else _kind(pair)
                raise TypeError(
                    f"fit: expected {name}[{k}] to be a pair (x, y), got {what}; samples "
                    "and targets that are apart go into a tuple, (X, y)"
                )
            X.append(pair[0])
            y.append(pair[1])
    if len(X) != len(y):
        raise ValueError(f"fit: expected a target for each sample, got {len(X)} samples and {len(y)} targets in {name}")
    if not X:
        raise ValueError(f"fit: expected {name} to have at least one sample, got none")
    return X, y


def _list(name, part):
    """A sequence, buffer or array as a list; numbers in it become Python's own."""
    if isinstance(part, memoryview) or (getattr(part, "ndim", None) == 1 and hasattr(part, "tolist")):
        return part.tolist()
    if isinstance(part, (str, bytes, dict, set, frozenset)) or not hasattr(part, "__iter__"):
        raise TypeError(f"fit: expected {name} to be a sequence, got {_kind(part)}")
    return list(part)


def _metrics(metrics, validation):
    if metrics is None:
        return {}
    if not isinstance(metrics, dict) or not all(isinstance(name, str) and callable(metric) for name, metric in metrics.items()):
        got = repr(metrics) if isinstance(metrics, dict) else _kind(metrics)
        raise TypeError(f"fit: expected metrics to be a dict from name to function(outputs, targets), got {got}")
    if "loss" in metrics:
        raise ValueError("fit: expected another name than 'loss' for a metric: the validation loss is noted under it")
    if metrics and validation is None:
        raise ValueError(
            "fit: metrics are of the validation data, got validation=None: give "
            "validation=(X, y), be it the training data once more"
        )
    return metrics


def _callbacks(callbacks):
    """The callbacks as a tuple, Checkpoints last: they keep how the others left things."""
    if callable(callbacks) or isinstance(callbacks, (str, dict)) or not hasattr(callbacks, "__iter__"):
        raise TypeError(f"fit: expected callbacks to be a list of functions and objects, got {_kind(callbacks)}")
    callbacks = list(callbacks)
    for callback in callbacks:
        if isinstance(callback, type) or not (callable(callback) or any(hasattr(callback, hook) for hook in HOOKS)):
            raise TypeError(
                "fit: expected a callback to be a function or an object with one of the "
                f"methods {', '.join(HOOKS)}, got {_kind(callback)}"
            )
    return tuple(sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint)))


def _is_true(result):
    """Whether a callback returned True, Python's or NumPy's. Other objects, which functions return
    for other reasons, end no training."""
    return type(result).__name__ in ("bool", "bool_") and bool(result)


def _number(name, value):
    """A metric's or the validation loss's value as a float."""
    if isinstance(value, Variable):
        return value.data
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"fit: expected {name!r} of the validation data to be one number, got {_kind(value)}") from None


def _bad_loss(value, state, xs, ys):
    """The exception for a loss that cannot be learned from."""
    if not isinstance(value, Variable):
        cure = (
            "the loss must stay on the graph, without .data, item() or float()"
            if isinstance(value, float)
            else "loss(outputs, targets) must give a single number, as with reduction='mean'"
        )
        return TypeError(f"fit: expected the loss to be one Variable, got {_kind(value)}: {cure}")
    if not value.requires_grad:
        return ValueError(
            "fit: expected a loss that depends on parameters with requires_grad, got "
            "one that depends on none: .data, detach() or no_grad() on the way to it "
            "cut it off"
        )
    return FloatingPointError(
        f"fit: expected a finite loss, got {value.data} in epoch {state.epoch}, batch "
        f"{state.batch} of {state.batches}; parameters and optimizer are as they were before this "
        "batch. " + _why_not_finite(state, xs, ys)
    )


def _why_not_finite(state, xs, ys):
    for what, part in (("sample", xs), ("target", ys)):
        for index, item in zip(state.indices, part):
            if not _all_finite(item):
                return f"The {what} of index {index} in the data is not finite: leave it out or repair it"
    rates = ", ".join(repr(group["lr"]) for group in state.optimizer.param_groups)
    smaller = f"a smaller learning rate (now {rates}) or optim.clip_grad_norm_ in a callback's on_backward keeps steps small"
    if not all(math.isfinite(p.data) for p in state.parameters()):
        return "An earlier step made parameters infinite or nan: begin again or from a checkpoint; " + smaller
    if _core._ignored_errors():
        return (
            "Float errors are ignored here: under mingrad.errstate(all='raise') the operation "
            "that first leaves its domain raises and names itself"
        )
    return (
        "The data and the parameters are finite, and no operation left its domain, so most likely "
        f"sums or products outgrew a float (mingrad.detect_anomaly() around fit names the line): {smaller}"
    )


def _all_finite(item):
    """Whether all numbers in a sample are finite; what is no number counts as finite."""
    if isinstance(item, Variable):
        return math.isfinite(item.data)
    if hasattr(item, "tolist"):
        item = item.tolist()
    if isinstance(item, (list, tuple)):
        return all(map(_all_finite, item))
    return not isinstance(item, float) or math.isfinite(item)


# -- history ---------------------------------------------------------------------------------------


class History(dict):
    """The numbers of a training, a list for each name with an entry per epoch: a dict with plot().

    ``"epoch"``: 1, 2, ...; ``"loss"``: the mean of the batches' losses while the epoch went, each
    weighted with its number of samples; ``"validation loss"`` and, for each metric,
    ``"validation NAME"``: after the epoch; ``"learning rate"``: in force during the epoch (of
    several parameter groups: ``"learning rate 0"``, ...); ``"seconds"``: how long the epoch took.
    As it is a dict of lists, ``json.dumps(history)`` writes it.

    >>> from mingrad import History
    >>> History({"epoch": [1, 2], "loss": [0.75, 0.5], "seconds": [0.1, 0.1]})
    History(2 epochs, loss 0.5)
    """

    def __missing__(self, name):
        raise KeyError(f"expected one of {', '.join(map(repr, self))}, got {name!r}")

    def __repr__(self):
        epochs = len(self.get("epoch", ()))
        last = [f"{name} {values[-1]:.4g}" for name, values in self.items() if values and _is_curve(name)]
        return f"History({', '.join([f'{epochs} epoch' + 's' * (epochs != 1), *last])})"

    def _repr_html_(self):
        from .visualize.reprs import history

        return history(self)

    def plot(self, path=None):
        """Draw the losses over the epochs, and beside them each metric; return the list of Axes.

        path: a file to write the picture to, in the format of its suffix (.png, .svg, .pdf); then
        neither a window nor pyplot is involved. None: a figure of pyplot, which a notebook shows,
        and elsewhere ``matplotlib.pyplot.show()``. ``axes[0].figure`` is the figure.

        Raises ImportError if matplotlib, the extra mingrad[plot], is missing.
        """
        from .visualize.plots import plot_loss

        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "History.plot() needs matplotlib, which the extra mingrad[plot] adds: python -m pip install 'mingrad[plot]'"
            ) from error
        losses = [name for name in ("loss", "validation loss") if name in self]
        panels = [losses, *([name] for name in self if _is_curve(name) and name not in losses)]
        size = (4.8 * len(panels), 3.6)  # inches
        if path is None:
            from matplotlib import pyplot

            figure = pyplot.figure(figsize=size, layout="constrained")
        else:
            figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0].tolist()
        for names, ax in zip(panels, axes):
            plot_loss(self, ax, names)
        if path is not None:
            figure.savefig(path)
        return axes


def _is_curve(name):
    return name == "loss" or name.startswith("validation ")


# -- callbacks -------------------------------------------------------------------------------------


class EarlyStopping:
    """EarlyStopping(monitor=None, patience=5, min_delta=0.0, mode=None, restore_best=True): a
    callback that ends a training which does not get better.

    It ends after patience epochs in a row whose monitored number was not better than the best so
    far by more than min_delta; nan is never better.

    monitor: a name of the history; None: "validation loss", without validation "loss". patience: in
    epochs, at least 1. min_delta: at least 0. mode: "min" or "max", which of two numbers is better;
    to be said where monitor is a metric, "min" for losses. restore_best: at the end of the
    training, stopped or not, give the parameters the values they had after the best epoch; the
    optimiser keeps its last state. Afterwards ``best`` is the best number and ``best_epoch`` its
    epoch.

    Raises ValueError for bad arguments, and from fit for a name that its history has not.

    >>> from mingrad import EarlyStopping, fit, optim
    >>> from mingrad.nn import MLP, mse_loss
    >>> model = MLP(1, [1])
    >>> stopping = EarlyStopping(patience=3, min_delta=1e-6)
    >>> history = fit(model, ([[0.0], [1.0]], [1.0, 3.0]), loss=mse_loss, epochs=1000,
    ...               optimizer=optim.SGD(model.parameters(), lr=0.5), callbacks=[stopping])
    >>> len(history["loss"]) < 1000, stopping.best < 1e-4
    (True, True)
    """

    def __init__(self, monitor=None, patience=5, min_delta=0.0, mode=None, restore_best=True):
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"EarlyStopping: expected patience to be an int of at least 1, got {patience!r}")
        if not min_delta >= 0.0:
            raise ValueError(f"EarlyStopping: expected min_delta to be at least 0, got {min_delta!r}")
        if mode not in (None, "min", "max"):
            raise ValueError(f"EarlyStopping: expected mode to be 'min', 'max' or None, got {mode!r}")
        if mode is None and monitor not in (None, "loss", "validation loss"):
            raise ValueError(
                f"EarlyStopping: expected mode='max' or mode='min', as it is not known which {monitor!r} is better, got None"
            )
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.mode, self.restore_best = mode or "min", restore_best
        self.best, self.best_epoch, self._values = None, 0, None
        self._count = None  # of the parameters of the running fit

    def on_fit_begin(self, state):
        """Begin anew: what is best is what is best in this run."""
        name = self._name(state)
        if name not in state.history:
            raise ValueError(
                f"EarlyStopping: expected monitor to be one of {', '.join(map(repr, state.history))}, got {name!r}"
            )
        self.best, self.best_epoch, self._values = None, 0, None
        self._count = len(state.parameters())

    def on_epoch_end(self, state):
        """Look at the number; return whether it has not improved for patience epochs."""
        value = state.history[self._name(state)][-1]
        if self._better(value):
            self.best, self.best_epoch = value, state.epoch
            if self.restore_best:
                self._values = array("d", [p.data for p in state.parameters()])
        return state.epoch - self.best_epoch >= self.patience

    def on_fit_end(self, state):
        """Restore the best parameters."""
        if self._values is not None and self.best_epoch != state.epoch:
            for p, value in zip(state.parameters(), self._values):
                p.data = value

    def state_dict(self):
        """What a checkpoint keeps of it."""
        return {"best": self.best, "best_epoch": self.best_epoch, "values": self._values}

    def load_state_dict(self, state):
        """Go on from what state_dict() gave. Raises ValueError for what that cannot be, and then has changed nothing."""
        best, epoch, values = (
            map(state.get, ("best", "best_epoch", "values")) if isinstance(state, dict) else (state, None, None)
        )
        count = len(values) if isinstance(values, array) else 0
        if not (
            (best is None or type(best) in (int, float))
            and (type(epoch) is int and epoch >= 0)
            and (values is None or (isinstance(values, array) and self._count in (None, count)))
        ):
            raise ValueError(
                f"EarlyStopping.load_state_dict: expected 'best', a number or None, 'best_epoch', an int not below 0, and "
                f"'values', None or an array with a number for each parameter, got {best!r:.50}, {epoch!r:.50} and "
                f"{f'{count} values' if count else repr(values)[:50]}"
            )
        self.best, self.best_epoch, self._values = best, epoch, values

    def _name(self, state):
        if self.monitor is not None:
            return self.monitor
        return "validation loss" if "validation loss" in state.history else "loss"

    def _better(self, value):
        if self.best is None:
            return not math.isnan(value)
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta


class Checkpoint:
    """Checkpoint(path, every=1): a callback that writes a training to a file for fit(resume=path).

    The file holds the parameters, the epoch, the history, the states of Python's random numbers,
    and what optimiser, scheduler and callbacks give as state_dict(); no pickle. It is written after
    all other callbacks of the epoch, whole or not at all (mingrad.files.write_file): interrupt or
    kill the process whenever you like, the file is the last checkpoint.

    path: ends in .npz or .safetensors (for which the extra mingrad[safetensors] is needed). every:
    in epochs; the last epoch is written in any case. A generator of NumPy's or of your own is not
    kept, unless a callback of yours gives its state.

    >>> import random
    >>> from mingrad import Checkpoint, fit, optim
    >>> from mingrad.nn import MLP, mse_loss
    >>> def training(epochs, **more):
    ...     random.seed(1)
    ...     model = MLP(1, [4, 1])
    ...     return fit(model, ([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0]), loss=mse_loss, batch_size=2,
    ...                shuffle=7, optimizer=optim.Adam(model.parameters()), epochs=epochs, **more)
    >>> _ = training(3, callbacks=[Checkpoint("run.npz")])
    >>> training(5, resume="run.npz")["loss"] == training(5)["loss"]
    True
    """

    def __init__(self, path, every=1):
        self.path = os.fspath(path)
        if isinstance(self.path, bytes) or not self.path.endswith((".npz", ".safetensors")):
            raise ValueError(f"Checkpoint: expected path to end in .npz or .safetensors, got {path!r}")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"Checkpoint: expected every to be an int of at least 1, got {every!r}")
        self.every = every

    def on_fit_begin(self, state):
        """Find out before the first epoch what the first writing would stumble over."""
        if state.rank != 0:
            return
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"Checkpoint: expected a folder {folder!r} for {self.path!r}, got none: make it first")
        if self.path.endswith(".safetensors"):
            files._package()
        _pack(_contents(state), "", {})

    def on_epoch_end(self, state):
        """Write the file, if it is time."""
        if state.rank == 0 and (state.epoch % self.every == 0 or state.epoch == state.epochs or state.stopped):
            tensors = {"parameters": _flat(p.data for p in state.parameters())}
            text = json.dumps(_pack(_contents(state), "", tensors))
            files.write_file(self.path, tensors, {ENTRY: text})


ENTRY = "mingrad.fit"  # of the file's metadata
VERSION = 1  # of what stands there


def _flat(values):
    values = array("d", values)
    return (len(values),), values


def _contents(state):
    """What a checkpoint holds beside the parameters."""
    return {
        "version": VERSION,
        "training": _training(state),
        "epoch": state.epoch,
        "stopped": state.stopped,
        "history": dict(state.history),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler and state.scheduler.state_dict(),
        "callbacks": [callback.state_dict() for callback in _stateful(state)],
        "random": random.getstate(),
        "random of other ranks": list(state._random[1:]),
        "order": state._rng and state._rng.getstate(),
    }


def _stateful(state):
    return [callback for callback in state.callbacks if hasattr(callback, "state_dict")]


def _training(state):
    """What must be the same for a training to go on as if it had not stopped."""
    names = [name for name, _ in state.model.named_parameters()] if isinstance(state.model, Module) else []
    return {
        "model": type(state.model).__name__,
        "parameters": len(state.parameters()),
        "parameter names": f"{zlib.crc32(chr(10).join(names).encode()):08x}",
        "optimizer": type(state.optimizer).__name__,
        "scheduler": state.scheduler and type(state.scheduler).__name__,
        "callbacks with a state": [type(callback).__name__ for callback in _stateful(state)],
        "samples": len(state._data[0]),
        "validation samples": state._validation and len(state._validation[0]),
        "batch_size": state.batch_size,
        "shuffle": state.shuffle,
        "history": list(state.history),
    }


def _pack(value, name, tensors):
    """value for JSON. Arrays and long lists of floats in it go to tensors, under name and below."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, array) and value.typecode == "d":
        tensors[name] = (len(value),), value
        return {"array": name}
    if type(value) is list and len(value) > 8 and all(type(item) is float for item in value):
        tensors[name] = _flat(value)
        return {"list": name}
    if type(value) in (list, tuple):
        items = [_pack(item, f"{name}/{k}", tensors) for k, item in enumerate(value)]
        return items if type(value) is list else {"tuple": items}
    if isinstance(value, dict) and all(isinstance(key, (str, int)) for key in value):
        return {"dict": [[key, _pack(item, f"{name}/{key}" if name else str(key), tensors)] for key, item in value.items()]}
    raise TypeError(
        f"Checkpoint: expected {name!r} to be of numbers, texts, arrays of doubles, lists, "
        f"tuples and dicts with keys that are texts or ints, got {_kind(value)}"
    )


def _unpack(value, tensors):
    """What _pack() was given."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "tuple":
            return tuple(_unpack(item, tensors) for item in content)
        if kind == "dict":
            return {key: _unpack(item, tensors) for key, item in content}
        return tensors[content][1] if kind == "array" else tensors[content][1].tolist()
    return value


def _read(path):
    """(what a Checkpoint wrote beside the parameters, the parameters) of a file."""
    tensors, metadata = files.read_file(path)
    if ENTRY not in metadata:
        raise ValueError(
            f"fit: expected resume to be a file that a Checkpoint wrote, got {path!r} without its "
            "entries; mingrad.load reads weights alone"
        )
    try:
        kept = _unpack(json.loads(metadata[ENTRY]), tensors)
        if kept["version"] == VERSION:
            values = tensors["parameters"][1]
            _check(kept, len(values))
            return kept, values
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"fit: the checkpoint {path!r} is damaged: {error!r}") from error
    raise ValueError(
        f"fit: expected a checkpoint of version {VERSION}, got {kept['version']!r} in {path!r}, from another version of mingrad"
    )


def _check(kept, count):
    """Raise one of many errors for what _contents() cannot have given for so many parameters. What states hold is for those who
    take them."""
    training, epoch, history = kept["training"], kept["epoch"], kept["history"]
    fits = {
        "epoch": type(epoch) is int and epoch >= 0,
        "stopped": type(kept["stopped"]) is bool,
        "parameters": training["parameters"] == count,
        "history": list(history) == training["history"]
        and all(type(column) is list and len(column) == epoch for column in history.values())
        and all(type(x) in (int, float) for column in history.values() for x in column),
        "scheduler": (kept["scheduler"] is None) == (training["scheduler"] is None),
        "callbacks": type(kept["callbacks"]) is list and len(kept["callbacks"]) == len(training["callbacks with a state"]),
        "order": (kept["order"] is None) == (training["shuffle"] is None),
        "optimizer": isinstance(kept.get("optimizer"), dict),
    }
    if not all(fits.values()):
        raise ValueError(f"{', '.join(name for name, is_right in fits.items() if not is_right)}: not as a Checkpoint writes it")
    orders = () if kept["order"] is None else (kept["order"],)
    for state in (kept["random"], *kept.get("random of other ranks", ()), *orders):
        random.Random().setstate(state)


def _begin_together(state, resume):
    """Give all ranks the parameters of rank 0, unless their trainings differ."""
    ranks = state._ranks
    if ranks.size == 1:
        return
    mine = {**_training(state), "epochs": state.epochs, "resume": resume is not None, "data": _mark(state._data)}
    every = ranks.every(mine, "at the beginning of fit()")
    for name in mine:
        found = [repr(training[name]) for training in every]
        if len(set(found)) > 1:
            raise distributed.RankError(
                f"fit: expected the same {name} on every rank, got {distributed._by_value(found)}"
                + (" (a checksum). Give each rank all of the data: fit takes its part of each batch" * (name == "data"))
            )
    ranks.broadcast(distributed._groups(state.parameters(), "fit"))


def _mark(data):
    """A checksum of samples and targets; None if they are no numbers, texts, buffers and nests of such."""
    try:
        return zlib.crc32(marshal.dumps(data, 2))  # 2: without marks of what is the same object
    except ValueError:
        return None


def _resume(state, path):
    """Bring everything to where the file's training was; on an exception nothing has changed."""
    path = os.fspath(path)
    kept, values = state._ranks.same(_read(path) if state.rank == 0 else None, "at the beginning of fit()")
    there, here = kept["training"], _training(state)
    if there != here:
        wrong = [name for name in here if there.get(name) != here[name]]
        wrong = [f"{name} {there.get(name)!r} there and {here[name]!r} here" for name in wrong]
        raise ValueError(f"fit: {path!r} is a checkpoint of another training and cannot be resumed here: {', '.join(wrong)}")
    if kept["epoch"] > state.epochs:
        raise ValueError(
            f"fit: expected epochs to be at least the {kept['epoch']} of the checkpoint {path!r}, got {state.epochs}"
        )
    loaders = [(state.optimizer, kept["optimizer"]), *zip(_stateful(state), kept["callbacks"])]
    if state.scheduler is not None:
        loaders.append((state.scheduler, kept["scheduler"]))
    before = [copy.deepcopy(thing.state_dict()) for thing, _ in loaders]
    try:
        for thing, content in loaders:
            thing.load_state_dict(content)
    except BaseException as error:
        taker = type(thing).__name__
        for (thing, _), content in zip(loaders, before):
            thing.load_state_dict(content)
        if isinstance(error, (LookupError, TypeError, ValueError)):
            raise ValueError(f"fit: {taker} does not take its state from the checkpoint {path!r}: {error}") from error
        raise
    for p, value in zip(state.parameters(), values):
        p.data = value
    states = [kept["random"], *kept.get("random of other ranks", ())]
    if state.rank < len(states):  # a rank that was not there goes on with the random numbers that it has
        random.setstate(states[state.rank])
    if state._rng is not None:
        state._rng.setstate(kept["order"])
    for name, column in state.history.items():
        column[:] = kept["history"][name]
    state.epoch, state.stopped = kept["epoch"], kept["stopped"]


# -- progress --------------------------------------------------------------------------------------


class _Progress:
    """The bar of a training, tqdm's or a line. due: when to draw it next, by perf_counter()."""

    def __init__(self, state, wanted):
        self.state, self.bar, self.drawn, self.width = state, None, False, 0
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self.start, self.first = time.perf_counter(), state.epoch * state.batches
        self.due = math.inf
        if state.rank == 0 and sys.stderr is not None and (wanted or (wanted is None and self.terminal)):
            self.due = self.start + (0.0 if wanted else LONG)

    def draw(self):
        """Show how far the training is."""
        if not self.drawn:
            self.drawn = True
            try:
                from tqdm.auto import tqdm
            except ImportError:
                pass
            else:
                self.bar = tqdm(total=self.state.epochs * self.state.batches, initial=self.first, unit="batch")
                self.bar.start_t -= time.perf_counter() - self.start
        state = self.state
        epoch, loss = f"epoch {state.epoch}/{state.epochs}", f"loss {state.loss:.4g}"
        done = (state.epoch - 1) * state.batches + state.batch
        pause = 0.1 if self.terminal else 1.0  # seconds; a notebook is no terminal
        if self.bar is not None:
            self.bar.n = done
            self.bar.set_description_str(epoch, refresh=False)
            self.bar.set_postfix_str(loss, refresh=False)
            self.bar.refresh()
        else:
            seconds = time.perf_counter() - self.start
            left = seconds / (done - self.first) * (state.epochs * state.batches - done)
            text = f"{epoch}  batch {state.batch}/{state.batches}  {loss}  {seconds:.0f} s, {left:.0f} s left"
            if self.terminal:
                self._line(text)
            else:
                pause = 10.0  # a line of a log file each
                print(text, file=sys.stderr, flush=True)
        self.due = time.perf_counter() + pause

    def hide(self):
        """Make room for what callbacks print."""
        if self.bar is not None:
            self.bar.clear()
        elif self.width:
            self._line("")
            print(end="\r", file=sys.stderr, flush=True)

    def close(self):
        if self.bar is not None:
            self.bar.close()
        elif self.width:
            print(file=sys.stderr)

    def _line(self, text):
        text = text[: shutil.get_terminal_size().columns - 1]
        print("\r" + text.ljust(self.width), end="", file=sys.stderr, flush=True)
        self.width = len(text)


LONG = 1.0  # seconds after which a training is long enough for a bar
