"""Learning-rate schedules: the names, arguments and numbers of torch.optim.lr_scheduler."""

import math
from math import inf
from types import MappingProxyType as Fixed

from . import Optimizer
from ._arguments import choice, doubles, for_each_group, keys, number, real, whole

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "ReduceLROnPlateau",
    "StepLR",
]


class LRScheduler:
    """Base of the schedules: they set the "lr" of an optimiser's groups when made, and at step().

    optimizer: an Optimizer. last_epoch: -1 to begin; a number to go on after that epoch, with an
    optimiser whose state was loaded. A schedule of one's own overrides get_lr(), which gives the
    new rates from ``last_epoch`` (0 after construction, then the number of steps), ``base_lrs``
    (the rates at the beginning) and the present ones.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD, LRScheduler
    >>> class Halved(LRScheduler):
    ...     def get_lr(self):
    ...         return [lr / 2**self.last_epoch for lr in self.base_lrs]
    >>> scheduler = Halved(SGD([Variable(1.0)], lr=1.0))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    # What state_dict() has, besides "base_lrs" and "_last_lr": a check of each, and its limits.
    _saved = Fixed({"last_epoch": (whole, -1)})

    def __init__(self, optimizer, last_epoch=-1):
        name = type(self).__name__
        self._attach(optimizer)
        self.last_epoch = self._check("last_epoch", last_epoch)
        for k, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"{name}: last_epoch={last_epoch} goes on with a schedule, but parameter group "
                    f"{k} has no 'initial_lr'; load the optimiser's state first"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._set_lr(self._first_lr)

    def _check(self, key, x, what=None):
        check, *limits = self._saved[key]
        return check(x, what or f"{type(self).__name__}: {key}", *limits)

    def _attach(self, optimizer):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an optimiser of mingrad.optim, got {type(optimizer).__name__}")
        self.optimizer = optimizer

    def _set_lr(self, next_lr):
        """One epoch more, with the rates that next_lr() gives."""
        name, groups = type(self).__name__, self.optimizer.param_groups
        self.last_epoch += 1
        try:
            rates = next_lr()
            if len(rates) != len(groups):
                raise ValueError(
                    f"{name}: expected {len(groups)} learning rates, got {len(rates)}; after "
                    "add_param_group() make a new schedule"
                )
            rates = [number(lr, f"{name}: lr", 0, inf) for lr in rates]
        except BaseException:
            self.last_epoch -= 1
            raise
        for group, lr in zip(groups, rates):
            group["lr"] = lr
        self._last_lr = rates

    def _first_lr(self):
        return self.get_lr()

    def _present_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_lr(self):
        """The learning rates of ``last_epoch``, one for each parameter group."""
        raise NotImplementedError(f"{type(self).__name__} has no get_lr()")

    def get_last_lr(self):
        """The learning rates that were set last, one for each parameter group."""
        return list(self._last_lr)

    def step(self):
        """Set the next learning rates; if one is no finite number, ValueError and no change."""
        self._set_lr(self.get_lr)

    def state_dict(self):
        """Where the schedule stands, and its settings: numbers, texts and lists of numbers."""
        state = {}
        for key in ("base_lrs", "_last_lr", *self._saved):
            value = getattr(self, key)
            state[key] = list(value) if isinstance(value, list) else value
        return state

    def load_state_dict(self, state_dict):
        """Go on from where state_dict() was taken; the optimiser's rates are in its own state dict.

        Raises ValueError or TypeError for a dict that does not fit, and then has changed nothing.
        """
        name, own = f"{type(self).__name__}.load_state_dict", self.state_dict()
        if not isinstance(state_dict, dict) or set(state_dict) != set(own):
            raise ValueError(f"{name}: expected {', '.join(own)}, got {keys(state_dict)}")
        checked = {}
        for key, value in own.items():
            x, what = state_dict[key], f"{name}: {key!r}"
            if isinstance(value, list):
                checked[key] = [number(lr, what, 0, inf) for lr in doubles(x, what, len(value))]
            else:
                checked[key] = self._check(key, x, what)
        vars(self).update(checked)


class StepLR(LRScheduler):
    """StepLR(optimizer, step_size, gamma=0.1, last_epoch=-1): lr *= gamma every step_size epochs.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> from mingrad.optim.lr_scheduler import StepLR
    >>> scheduler = StepLR(SGD([Variable(1.0)], lr=1.0), step_size=2, gamma=0.5)
    >>> rates = []
    >>> for _ in range(5):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> rates
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    _saved = Fixed({**LRScheduler._saved, "step_size": (whole, 1), "gamma": (number, 0, inf)})

    def __init__(self, optimizer, step_size, gamma=0.1, last_epoch=-1):
        self.step_size = self._check("step_size", step_size)
        self.gamma = self._check("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        """The present rates, times gamma if this epoch is a multiple of step_size."""
        if self.last_epoch == 0 or self.last_epoch % self.step_size:
            return self._present_lr()
        return [lr * self.gamma for lr in self._present_lr()]


class ExponentialLR(LRScheduler):
    """ExponentialLR(optimizer, gamma, last_epoch=-1): lr *= gamma every epoch.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> from mingrad.optim.lr_scheduler import ExponentialLR
    >>> scheduler = ExponentialLR(SGD([Variable(1.0)], lr=1.0), gamma=0.5)
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    _saved = Fixed({**LRScheduler._saved, "gamma": (number, 0, inf)})

    def __init__(self, optimizer, gamma, last_epoch=-1):
        self.gamma = self._check("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _first_lr(self):
        return self._present_lr()

    def get_lr(self):
        """The present rates times gamma."""
        return [lr * self.gamma for lr in self._present_lr()]


class CosineAnnealingLR(LRScheduler):
    """CosineAnnealingLR(optimizer, T_max, eta_min=0.0, last_epoch=-1): half a cosine to eta_min.

    In epoch t the rate is eta_min + (first - eta_min) * (1 + cos(pi * t / T_max)) / 2, and rises
    again after T_max epochs. It is computed from the rate before, as in PyTorch, so that changes by
    others are kept. Source: Loshchilov and Hutter, 2017.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> from mingrad.optim.lr_scheduler import CosineAnnealingLR
    >>> scheduler = CosineAnnealingLR(SGD([Variable(1.0)], lr=1.0), T_max=2)
    >>> rates = []
    >>> for _ in range(3):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> [round(lr, 6) for lr in rates]
    [1.0, 0.5, 0.0]
    """

    _saved = Fixed({**LRScheduler._saved, "T_max": (whole, 1), "eta_min": (number, 0, inf)})

    def __init__(self, optimizer, T_max, eta_min=0.0, last_epoch=-1):
        self.T_max = self._check("T_max", T_max)
        self.eta_min = self._check("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _first_lr(self):
        return self._present_lr()

    def get_lr(self):
        """The present rates, moved on by one epoch."""
        t, T, low = self.last_epoch, self.T_max, self.eta_min
        before = 1 + math.cos(math.pi * (t - 1) / T)
        if (t - 1 - T) % (2 * T) == 0 or not before:  # up from the lowest rate, where the quotient is 0 / 0
            rise = (1 - math.cos(math.pi / T)) / 2
            return [lr + (base - low) * rise for lr, base in zip(self._present_lr(), self.base_lrs)]
        quotient = (1 + math.cos(math.pi * t / T)) / before
        return [quotient * (lr - low) + low for lr in self._present_lr()]


class LambdaLR(LRScheduler):
    """LambdaLR(optimizer, lr_lambda, last_epoch=-1): the first rate times lr_lambda(epoch).

    lr_lambda: a function of the epoch's number, or a list of them, one for each parameter group. A
    state dict does not hold them.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> from mingrad.optim.lr_scheduler import LambdaLR
    >>> scheduler = LambdaLR(SGD([Variable(1.0)], lr=1.0), lambda epoch: 1 / (1 + epoch))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer, lr_lambda, last_epoch=-1):
        self._attach(optimizer)
        self.lr_lambdas = for_each_group(lr_lambda, optimizer, "LambdaLR: lr_lambda")
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        """The first rates times the functions' values."""
        pairs = zip(self.base_lrs, self.lr_lambdas)
        return [base * factor(self.last_epoch) for base, factor in pairs]


class ReduceLROnPlateau(LRScheduler):
    """ReduceLROnPlateau(optimizer, mode='min', factor=0.1, patience=10, threshold=1e-4,
    threshold_mode='rel', cooldown=0, min_lr=0, eps=1e-8): lr *= factor when a measure stays bad.

    ``step(metrics)`` takes the measure, for instance the loss on other data. An epoch is good if
    the measure is below best * (1 - threshold), or with threshold_mode 'abs' below best -
    threshold; with mode 'max' above best * (1 + threshold) or best + threshold. After more than
    patience bad epochs in a row (nan is bad) the rates are multiplied, but not brought below min_lr
    (a number, or a list with one for each group) and not changed by eps or less. Then cooldown
    epochs follow that do not count as bad.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> from mingrad.optim.lr_scheduler import ReduceLROnPlateau
    >>> scheduler = ReduceLROnPlateau(SGD([Variable(1.0)], lr=1.0), factor=0.5, patience=0)
    >>> scheduler.step(3.0)
    >>> scheduler.step(3.0)
    >>> scheduler.get_last_lr()
    [0.5]
    """

    _saved = Fixed(
        {
            **LRScheduler._saved,
            "mode": (choice, "min", "max"),
            "factor": (number, 0, 1),
            "patience": (whole, 0),
            "threshold": (number, 0, inf),
            "threshold_mode": (choice, "rel", "abs"),
            "cooldown": (whole, 0),
            "min_lrs": (number, 0, inf),
            "eps": (number, 0, inf),
            "best": (real,),
            "num_bad_epochs": (whole, 0),
            "cooldown_counter": (whole, 0),
        }
    )

    def __init__(
        self,
        optimizer,
        mode="min",
        factor=0.1,
        patience=10,
        threshold=1e-4,
        threshold_mode="rel",
        cooldown=0,
        min_lr=0,
        eps=1e-8,
    ):
        self._attach(optimizer)
        settings = {"mode": mode, "factor": factor, "patience": patience, "threshold": threshold}
        settings |= {"threshold_mode": threshold_mode, "cooldown": cooldown, "eps": eps}
        vars(self).update({key: self._check(key, x) for key, x in settings.items()})
        least = for_each_group(min_lr, optimizer, f"{type(self).__name__}: min_lr")
        self.min_lrs = [self._check("min_lrs", lr, f"{type(self).__name__}: min_lr") for lr in least]
        self.best = inf if mode == "min" else -inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0
        self.base_lrs = self._present_lr()
        self._last_lr = self._present_lr()

    def get_lr(self):
        """The present rates times factor, within the limits of min_lr and eps."""
        found = []
        for lr, least in zip(self._present_lr(), self.min_lrs):
            lower = max(lr * self.factor, least)
            found.append(lower if lr - lower > self.eps else lr)
        return found

    def step(self, metrics):
        """Take the measure of one more epoch, a number or a Variable; multiply if it is time."""
        metrics = real(metrics, "ReduceLROnPlateau.step")
        sign = 1 if self.mode == "min" else -1
        margin = sign * self.threshold
        aim = self.best * (1 - margin) if self.threshold_mode == "rel" else self.best - margin
        good, cool = sign * metrics < sign * aim, self.cooldown_counter > 0
        bad_epochs = 0 if good or cool else self.num_bad_epochs + 1
        if bad_epochs > self.patience:
            self._set_lr(self.get_lr)
            self.num_bad_epochs, self.cooldown_counter = 0, self.cooldown
        else:
            self.last_epoch += 1
            self._last_lr = self._present_lr()
            self.num_bad_epochs, self.cooldown_counter = bad_epochs, self.cooldown_counter - cool
        if good:
            self.best = metrics
