"""Optimisers with PyTorch's names, arguments and numbers.

What each optimiser computes is written in its docstring; the loops over parameters are in the core (csrc/optim.pxi,
csrc/kernels_body.h).

What differs from PyTorch: ``grad`` is 0.0 before the first backward pass, never None, so every parameter that asks for a
gradient makes every step, and weight decay or momentum can move it; switch its ``requires_grad`` off to leave it alone.
The "params" of a group are a tuple. A state dict holds one array of doubles for each vector of a group, not a dict for each
parameter, and it is a snapshot. Settings that cannot be meant, such as a learning rate of nan, are refused at the next
step, before anything has changed.
"""

from array import array
from collections.abc import Iterator
from math import inf

from . import _core
from .engine import Variable, enable_grad

__all__ = ["Adam", "AdamW", "Optimizer", "RMSprop", "SGD"]

_STEPS = -1  # what a core Group reads and writes besides vector 0, 1, 2
_number = _core._number


class Optimizer:
    """Base of the optimisers: parameter groups, their settings, and what is kept of each parameter.

    params: an iterable of Variables, of sequences of Variables, or of dicts ``{"params": ..., setting: value}``, each of
    which becomes a parameter group. ``param_groups`` is a list of such dicts with all settings in them; they can be changed
    between steps.

    Raises TypeError for what is no Variable, and ValueError for one that is no leaf or is there twice, for no parameters
    at all, and for a setting out of range.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> optimizer = SGD([{"params": [Variable(1.0)]}, {"params": [Variable(2.0)], "lr": 0.5}], lr=0.1)
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.1, 0.5]
    """

    _vectors = ()  # names of the vectors that are kept of a group

    def __init__(self, params, defaults):
        self.defaults = defaults
        self.param_groups = []
        self._groups = []
        if isinstance(params, Iterator):
            params = list(params)
        if not isinstance(params, (list, tuple)) or not any(isinstance(item, dict) for item in params):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def __repr__(self):
        groups = [
            ", ".join([f"{len(group['params'])} parameters"] + [f"{k}={v!r}" for k, v in group.items() if k != "params"])
            for group in self.param_groups
        ]
        return f"{type(self).__name__}({'; '.join(groups)})"

    def add_param_group(self, param_group):
        """Add a parameter group: a dict with "params" and the settings that are to differ from the optimiser's own.

        Raises what the constructor raises; then there is no new group.

        >>> from mingrad import Variable
        >>> from mingrad.optim import SGD
        >>> optimizer = SGD([Variable(1.0)], lr=0.1)
        >>> optimizer.add_param_group({"params": [Variable(2.0)], "lr": 0.01})
        >>> len(optimizer.param_groups)
        2
        """
        name = type(self).__name__
        if not isinstance(param_group, dict) or "params" not in param_group:
            got = sorted(param_group) if isinstance(param_group, dict) else type(param_group).__name__
            raise TypeError(f"{name}: expected parameter groups as dicts with 'params', or Variables only, got {got}")
        for key in param_group:
            if key not in ("params", "initial_lr", *self.defaults):
                raise ValueError(f"{name}: unknown setting {key!r} in a parameter group; expected {', '.join(self.defaults)}")
        params = _core._variables(param_group["params"], name)
        if not params:
            raise ValueError(f"{name}: expected at least one parameter, got none; was a generator used up before?")
        seen = {p for group in self.param_groups for p in group["params"]}
        for k, p in enumerate(params):
            if not p.is_leaf:
                raise ValueError(
                    f"{name}: parameter {k} is {p!r}, the result of {p._op!r}; expected leaves: pass what it was made from"
                )
            if p in seen:
                raise ValueError(f"{name}: parameter {k}, {p!r}, is there twice; pass each parameter once")
            seen.add(p)
        group = {"params": params, **self.defaults, **param_group}
        group["params"] = params
        self._settings(group)
        self._groups.append(_core.Group(params))
        self.param_groups.append(group)

    def zero_grad(self):
        """Set the grad of every parameter to 0."""
        for group in self._groups:
            group.zero_grad()

    def step(self, closure=None):
        """Change every parameter that asks for a gradient, by its grad.

        closure: called first, with recording on; usually it computes the loss and its gradients. Returns what it returns.
        A step writes the parameters, so backward() refuses graphs that were recorded before. Raises ValueError or
        TypeError for a setting that cannot be meant; then nothing has changed.
        """
        settings = self._all_settings()
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
            settings = self._all_settings()  # the closure may have changed them
        self._step(self._groups, settings)
        return loss

    def _all_settings(self):
        """The settings of each group as the core wants them, after a look whether the groups are those that it knows."""
        groups = self.param_groups
        if len(groups) != len(self._groups) or any(a["params"] is not b.variables for a, b in zip(groups, self._groups)):
            raise RuntimeError(
                f"{type(self).__name__}: param_groups or the 'params' in it have been exchanged, but only settings can be "
                "changed there; use add_param_group(), or make a new optimiser"
            )
        return [self._settings(group) for group in groups]

    # saving

    def state_dict(self):
        """The settings and what is kept of the parameters, as a new dict of dicts, lists, numbers and arrays of doubles.

        ``{"state": [...], "param_groups": [...]}``, an item for each group. A state has an array for each vector that is
        in use, in the order of the group's parameters, and "step", how many steps each of them has made (SGD: with
        momentum). Of the parameters themselves there is the number only.

        >>> from mingrad import Variable
        >>> from mingrad.optim import SGD
        >>> x = Variable(3.0)
        >>> optimizer = SGD([x], lr=0.1, momentum=0.9)
        >>> x.grad = 2.0
        >>> optimizer.step()
        >>> optimizer.state_dict()["state"]
        [{'step': array('d', [1.0]), 'momentum_buffer': array('d', [2.0])}]
        """
        return {
            "state": [self._read_state(group) for group in self._groups],
            "param_groups": [{**group, "params": len(group["params"])} for group in self.param_groups],
        }

    def _read_state(self, group):
        state = {}
        for what, name in enumerate(("step", *self._vectors), _STEPS):
            if what == _STEPS or group.kept >> what & 1:
                state[name] = array("d", bytes(8 * len(group.variables)))
                group.read(what, state[name])
        return state

    def load_state_dict(self, state_dict):
        """Take over settings and vectors from a dict as state_dict() gives it; any sequence of numbers will do for an array.

        Training goes on with the same bits as if it had not been interrupted, provided that the parameters have their old
        values too. Raises ValueError or TypeError for a dict that does not fit this optimiser; then nothing has changed.
        """
        name = f"{type(self).__name__}.load_state_dict"
        try:
            states, groups = list(state_dict["state"]), [dict(group) for group in state_dict["param_groups"]]
        except (KeyError, TypeError, ValueError):
            raise TypeError(
                f"{name}: expected a dict with lists 'state' and 'param_groups', as state_dict() gives it, got "
                f"{sorted(state_dict) if isinstance(state_dict, dict) else type(state_dict).__name__}"
            ) from None
        if not len(states) == len(groups) == len(self._groups):
            raise ValueError(
                f"{name}: expected {len(self._groups)} parameter groups, got {len(states)} in 'state' and {len(groups)} in "
                "'param_groups'"
            )
        checked = []
        for k, (state, group, own) in enumerate(zip(states, groups, self.param_groups)):
            where = f"{name}: parameter group {k}"
            if group.get("params") != len(own["params"]):
                raise ValueError(f"{where}: expected {len(own['params'])} parameters, got {group.get('params')}")
            missing = [key for key in self.defaults if key not in group]
            if missing:
                raise ValueError(f"{where}: setting {missing[0]!r} is missing; is it of another optimiser?")
            group["params"] = own["params"]
            self._settings(group)
            checked.append(self._check_state(state, len(own["params"]), where))
        for group, state in zip(self._groups, checked):
            self._reserve_state(group, state)
        for own, group in zip(self.param_groups, groups):
            own.clear()
            own.update(group)
        for group, state in zip(self._groups, checked):
            self._write_state(group, state)

    def _check_state(self, state, count, where):
        """The arrays of a group's saved state, by name."""
        if not isinstance(state, dict) or not {"step"} <= set(state) <= {"step", *self._vectors}:
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"{where}: expected a state with 'step' and some of {list(self._vectors)}, got {got}")
        state = {key: _doubles(values, f"{where}: {key!r}", count) for key, values in state.items()}
        if not all(x >= 0 and x.is_integer() for x in state["step"]):
            raise ValueError(f"{where}: 'step': expected numbers of steps, got {min(state['step'])}")
        return state

    def _reserve_state(self, group, state):
        group.reserve(sum(1 << what for what, name in enumerate(self._vectors) if name in state))

    def _write_state(self, group, state):
        group.forget()
        for what, name in enumerate(("step", *self._vectors), _STEPS):
            if name in state:
                group.write(what, state[name])

    def __getstate__(self):
        return {**vars(self), "_groups": [self._read_state(group) for group in self._groups]}

    def __setstate__(self, state):
        vars(self).update(state)
        self._groups = [_core.Group(group["params"]) for group in self.param_groups]
        for group, kept in zip(self._groups, state["_groups"]):
            self._write_state(group, kept)


def _doubles(values, what, count):
    """A new array of doubles of the numbers in a sequence of this length."""
    try:
        if isinstance(values, (str, bytes, bytearray)):
            raise TypeError
        found = array("d", values)
    except (TypeError, OverflowError):
        raise TypeError(f"{what}: expected {count} numbers, got {type(values).__name__}") from None
    if len(found) != count:
        raise ValueError(f"{what}: expected {count} numbers, got {len(found)}")
    return found


class SGD(Optimizer):
    """SGD(params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *, maximize=False): gradient descent.

    With g the gradient (its negative with maximize) plus weight_decay * p, each step does::

        b = momentum * b + (1 - dampening) * g     # the first time b = g
        p -= lr * b                                # without momentum p -= lr * g, with nesterov p -= lr * (g + momentum * b)

    params: see Optimizer. lr, momentum, weight_decay: numbers not below 0; nesterov needs a momentum and no dampening.
    Raises ValueError or TypeError for other settings.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> x = Variable(3.0)
    >>> optimizer = SGD([x], lr=0.25)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     (x**2).backward()
    ...     optimizer.step()
    >>> x.data
    0.375
    """

    _vectors = ("momentum_buffer",)
    _step = staticmethod(_core._sgd)

    def __init__(
        self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *, maximize=False
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _settings(self, group):
        momentum = _number(group["momentum"], "SGD: momentum", 0, inf)
        dampening = _number(group["dampening"], "SGD: dampening", -inf, inf)
        if group["nesterov"] and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"SGD: nesterov needs a momentum above 0 and a dampening of 0, got {momentum} and {dampening}"
            )
        return (
            _number(group["lr"], "SGD: lr", 0, inf),
            _number(group["weight_decay"], "SGD: weight_decay", 0, inf),
            bool(group["maximize"]),
            momentum,
            dampening,
            bool(group["nesterov"]),
        )


class Adam(Optimizer):
    """Adam(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, maximize=False).

    With g the gradient (its negative with maximize) plus weight_decay * p, step number t does::

        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p -= lr / (1 - betas[0]**t) * m / (sqrt(v / (1 - betas[1]**t)) + eps)

    With amsgrad the largest v so far stands in place of v in the last line. params: see Optimizer. lr, eps, weight_decay:
    numbers not below 0; betas: from 0 to 1, 1 excluded. Raises ValueError or TypeError for other settings. Source: Kingma
    and Ba, 2015; Reddi, Kale and Kumar, 2018.

    >>> from mingrad import Variable
    >>> from mingrad.optim import Adam
    >>> x = Variable(3.0)
    >>> optimizer = Adam([x], lr=0.5)
    >>> (x**2).backward()
    >>> optimizer.step()
    >>> round(x.data, 6)
    2.5
    """

    _vectors = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    _step = staticmethod(_core._adam)
    _decoupled = False  # whether weight decay stays out of the gradient

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, maximize=False
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def _settings(self, group):
        name, betas = type(self).__name__, group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{name}: betas: expected a pair of numbers, got {betas!r}")
        decay = _number(group["weight_decay"], f"{name}: weight_decay", 0, inf)
        return (
            _number(group["lr"], f"{name}: lr", 0, inf),
            0.0 if self._decoupled else decay,
            bool(group["maximize"]),
            _number(betas[0], f"{name}: betas[0]", 0, 1),
            _number(betas[1], f"{name}: betas[1]", 0, 1),
            _number(group["eps"], f"{name}: eps", 0, inf),
            bool(group["amsgrad"]),
            decay if self._decoupled else 0.0,
        )


class AdamW(Adam):
    """AdamW(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False).

    Adam with decoupled weight decay: instead of adding it to the gradient, a step begins with p *= 1 - lr * weight_decay.
    Source: Loshchilov and Hutter, 2019.

    >>> from mingrad import Variable
    >>> from mingrad.optim import AdamW
    >>> x = Variable(3.0)
    >>> optimizer = AdamW([x], lr=0.5, weight_decay=0.2)
    >>> (x**2).backward()
    >>> optimizer.step()
    >>> round(x.data, 6)
    2.2
    """

    _decoupled = True

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, maximize=False
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class RMSprop(Optimizer):
    """RMSprop(params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, *, maximize=False).

    With g the gradient (its negative with maximize) plus weight_decay * p, each step does::

        v = alpha * v + (1 - alpha) * g * g
        q = g / (sqrt(v) + eps)      # centered: sqrt(v - m * m), where m = alpha * m + (1 - alpha) * g
        b = momentum * b + q
        p -= lr * b                  # without momentum p -= lr * q

    params: see Optimizer. lr, eps, weight_decay, momentum: numbers not below 0; alpha: from 0 to 1, 1 excluded. Where
    rounding makes v - m * m negative it counts as 0 (PyTorch gives nan). Raises ValueError or TypeError for other settings.
    Source: Tieleman and Hinton, 2012; Graves, 2013.

    >>> from mingrad import Variable
    >>> from mingrad.optim import RMSprop
    >>> x = Variable(3.0)
    >>> optimizer = RMSprop([x], lr=0.25)
    >>> (x**2).backward()
    >>> optimizer.step()
    >>> round(x.data, 6)
    0.5
    """

    _vectors = ("square_avg", "grad_avg", "momentum_buffer")
    _step = staticmethod(_core._rmsprop)

    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0,
        momentum=0,
        centered=False,
        *,
        maximize=False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def _settings(self, group):
        return (
            _number(group["lr"], "RMSprop: lr", 0, inf),
            _number(group["weight_decay"], "RMSprop: weight_decay", 0, inf),
            bool(group["maximize"]),
            _number(group["alpha"], "RMSprop: alpha", 0, 1),
            _number(group["eps"], "RMSprop: eps", 0, inf),
            _number(group["momentum"], "RMSprop: momentum", 0, inf),
            bool(group["centered"]),
        )
