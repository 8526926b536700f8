"""Optimisers, learning-rate schedules, gradient clipping: PyTorch's names, arguments and numbers.

What an optimiser computes is written in its docstring; the loops over parameters are in the core
(csrc/optim.pxi, csrc/kernels_body.h), the decisions of L-BFGS here. The schedules
are in lr_scheduler.py, as in PyTorch, and are found here too.

What differs from PyTorch: ``grad`` is 0.0 before the first backward pass, never None, so every
parameter that asks for a gradient takes part in every step, and weight decay or momentum can move
it; switch its ``requires_grad`` off to leave it alone. The "params" of a group are a tuple. A state
dict has an array of doubles for each vector of a group, not a dict for each parameter, and is a
snapshot. A setting that cannot be meant, such as a learning rate of nan, is refused by the next
step, before anything has changed.
"""

import math
from array import array
from collections import namedtuple
from collections.abc import Iterator
from math import inf

from .. import _core
from ..engine import enable_grad
from ._arguments import choice, doubles, keys, number, real, whole

__all__ = [
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LBFGS",
    "LRScheduler",
    "LambdaLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "SGD",
    "StepLR",
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]

_STEPS, _VALUES, _GRADS = -1, -2, -3  # what a core Group reads and writes besides vector 0, 1, 2


class Optimizer:
    """Base of the optimisers: parameter groups, their settings, and what is kept of parameters.

    params: an iterable of Variables, of sequences of Variables, or of dicts ``{"params": ...,
    setting: value}``, each of which becomes a parameter group. ``param_groups`` is a list of such
    dicts with all settings in them; the settings can be changed between steps.

    Raises TypeError for what is no Variable; ValueError for a Variable that is no leaf or is there
    twice, for no parameters at all, and for a setting out of range.

    >>> from mingrad import Variable
    >>> from mingrad.optim import SGD
    >>> x, y = Variable(1.0), Variable(2.0)
    >>> optimizer = SGD([{"params": [x]}, {"params": [y], "lr": 0.5}], lr=0.1)
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
        if not isinstance(params, (list, tuple)) or not any(isinstance(p, dict) for p in params):
            params = [{"params": params}]
        for group in params:
            self.add_param_group(group)

    def __repr__(self):
        groups = []
        for group in self.param_groups:
            settings = [f"{key}={value!r}" for key, value in group.items() if key != "params"]
            groups.append(", ".join([f"{len(group['params'])} parameters", *settings]))
        return f"{type(self).__name__}({'; '.join(groups)})"

    def add_param_group(self, param_group):
        """Add a group: a dict with "params" and the settings that differ from the optimiser's own.

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
            raise TypeError(
                f"{name}: expected Variables only, or parameter groups only (dicts with 'params'), got {keys(param_group)}"
            )
        for key in param_group:
            if key not in ("params", "initial_lr", *self.defaults):
                raise ValueError(
                    f"{name}: expected a parameter group with 'params' and settings among "
                    f"{', '.join(self.defaults)}; got {key!r}"
                )
        params = _core._variables(param_group["params"], name)
        if not params:
            raise ValueError(f"{name}: expected at least one parameter, got none; was a generator used before?")
        seen = {p for group in self.param_groups for p in group["params"]}
        for k, p in enumerate(params):
            if not p.is_leaf:
                raise ValueError(
                    f"{name}: parameter {k}, {p!r}, is the result of {p._op!r}; expected leaves: pass what it was made from"
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

        closure: called first, with recording on; usually it computes the loss and its gradients.
        Returns what closure returns. A step writes the parameters, so backward() refuses graphs
        that were recorded before it. Raises ValueError or TypeError for a setting that cannot be
        meant, and then has changed nothing.
        """
        settings = self._all_settings()
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
            settings = self._all_settings()  # closure may have changed them
        self._step(self._groups, settings)
        return loss

    def _all_settings(self):
        """Each group's settings as the core wants them; the groups must be those that it knows."""
        groups = self.param_groups
        known = len(groups) == len(self._groups)
        if not known or any(a["params"] is not b.variables for a, b in zip(groups, self._groups)):
            raise RuntimeError(
                f"{type(self).__name__}: param_groups, or the 'params' in it, have been exchanged; "
                "only settings can be changed there: use add_param_group() or make a new optimiser"
            )
        return [self._settings(group) for group in groups]

    def state_dict(self):
        """Settings and what is kept of parameters: new dicts, lists, numbers, arrays of doubles.

        ``{"state": [...], "param_groups": [...]}`` with an item for each group. A state has an
        array for each vector in use, in the order of the parameters, and "step": how many steps
        each of them has made (with SGD: with momentum). Instead of "params" there is their number.

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

    def load_state_dict(self, state_dict):
        """Take over settings and vectors from a dict as state_dict() gives it.

        For an array any sequence of numbers will do. If the parameters have their old values too,
        training goes on with the same bits as if it had not been interrupted. Raises ValueError or
        TypeError for a dict that does not fit this optimiser, and then has changed nothing.
        """
        name = f"{type(self).__name__}.load_state_dict"
        try:
            states = list(state_dict["state"])
            groups = [dict(group) for group in state_dict["param_groups"]]
        except (KeyError, TypeError, ValueError):
            raise TypeError(
                f"{name}: expected a dict with lists 'state' and 'param_groups', as state_dict() "
                f"gives it, got {keys(state_dict)}"
            ) from None
        if not len(states) == len(groups) == len(self._groups):
            raise ValueError(
                f"{name}: expected {len(self._groups)} parameter groups, got {len(states)} in "
                f"'state' and {len(groups)} in 'param_groups'"
            )
        checked = []
        for k, (state, group, own) in enumerate(zip(states, groups, self.param_groups)):
            where, count = f"{name}: parameter group {k}", len(own["params"])
            missing = {"params", *self.defaults} - set(group)
            if missing:
                raise ValueError(
                    f"{where}: expected {', '.join(own)}, got {', '.join(group)}; is it the state of another optimiser?"
                )
            if group["params"] != count:
                raise ValueError(f"{where}: expected {count} parameters, got {group['params']!r}")
            group["params"] = own["params"]
            self._settings(group)
            checked.append(self._check_state(state, count, where))
        for group, state in zip(self._groups, checked):
            group.reserve(sum(1 << k for k, key in enumerate(self._vectors) if key in state))
        for own, group in zip(self.param_groups, groups):
            own.clear()
            own.update(group)
        for group, state in zip(self._groups, checked):
            self._write_state(group, state)

    def _read_state(self, group):
        """What is kept of a group, by name."""
        state = {"step": _read(group, _STEPS)}
        for k, name in enumerate(self._vectors):
            if group.kept >> k & 1:
                state[name] = _read(group, k)
        return state

    def _check_state(self, state, count, where):
        """A copy of what _read_state() gave, or an error for what it cannot have given."""
        names = ["step", *self._vectors]
        if not isinstance(state, dict) or "step" not in state or not set(state) <= set(names):
            raise ValueError(f"{where}: expected a state with 'step' and some of {', '.join(self._vectors)}, got {keys(state)}")
        state = {key: doubles(x, f"{where}: {key!r}", count) for key, x in state.items()}
        if not all(x >= 0 and x.is_integer() for x in state["step"]):
            raise ValueError(f"{where}: 'step': expected numbers of steps, got {state['step']}")
        return state

    def _write_state(self, group, state):
        """The reverse of _read_state(). Cannot fail after reserve()."""
        group.forget()
        group.write(_STEPS, state["step"])
        for k, name in enumerate(self._vectors):
            if name in state:
                group.write(k, state[name])

    def __getstate__(self):
        return {**vars(self), "_groups": [self._read_state(group) for group in self._groups]}

    def __setstate__(self, state):
        vars(self).update(state)
        self._groups = [_core.Group(group["params"]) for group in self.param_groups]
        for group, kept in zip(self._groups, state["_groups"]):
            self._write_state(group, kept)


class SGD(Optimizer):
    """SGD(params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *,
    maximize=False): stochastic gradient descent.

    With g the gradient (with maximize its negative) plus weight_decay * p, each step does::

        b = momentum * b + (1 - dampening) * g    # the first time b = g
        p -= lr * b                               # nesterov: p -= lr * (g + momentum * b)

    and without momentum p -= lr * g. params: see Optimizer. lr, momentum, weight_decay: numbers not
    below 0; nesterov needs a momentum and no dampening. Raises ValueError or TypeError for others.

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
        self,
        params,
        lr=1e-3,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        *,
        maximize=False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _settings(self, group):
        momentum = number(group["momentum"], "SGD: momentum", 0, inf)
        dampening = number(group["dampening"], "SGD: dampening", -inf, inf)
        if group["nesterov"] and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"SGD: nesterov: expected a momentum above 0 and a dampening of 0 with it, got {momentum} and {dampening}"
            )
        return (
            number(group["lr"], "SGD: lr", 0, inf),
            number(group["weight_decay"], "SGD: weight_decay", 0, inf),
            bool(group["maximize"]),
            momentum,
            dampening,
            bool(group["nesterov"]),
        )


class Adam(Optimizer):
    """Adam(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *,
    maximize=False): steps scaled by running means of gradient and squared gradient.

    With g the gradient (with maximize its negative) plus weight_decay * p, step number t does::

        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p -= lr / (1 - betas[0]**t) * m / (sqrt(v / (1 - betas[1]**t)) + eps)

    With amsgrad the largest v so far stands for v in the last line. params: see Optimizer. lr, eps,
    weight_decay: numbers not below 0; betas: from 0 to 1, 1 excluded. Raises ValueError or
    TypeError for others. Source: Kingma and Ba, 2015; Reddi, Kale and Kumar, 2018.

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
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        amsgrad=False,
        *,
        maximize=False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _settings(self, group):
        name, betas = type(self).__name__, group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{name}: betas: expected a pair of numbers, got {betas!r}")
        decay = number(group["weight_decay"], f"{name}: weight_decay", 0, inf)
        return (
            number(group["lr"], f"{name}: lr", 0, inf),
            0.0 if self._decoupled else decay,
            bool(group["maximize"]),
            number(betas[0], f"{name}: betas[0]", 0, 1),
            number(betas[1], f"{name}: betas[1]", 0, 1),
            number(group["eps"], f"{name}: eps", 0, inf),
            bool(group["amsgrad"]),
            decay if self._decoupled else 0.0,
        )


class AdamW(Adam):
    """AdamW(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *,
    maximize=False): Adam with decoupled weight decay.

    The decay is not part of the gradient; instead a step begins with p *= 1 - lr * weight_decay.
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
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        *,
        maximize=False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class RMSprop(Optimizer):
    """RMSprop(params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, *,
    maximize=False): steps scaled by a running mean of the squared gradient.

    With g the gradient (with maximize its negative) plus weight_decay * p, each step does::

        v = alpha * v + (1 - alpha) * g * g
        q = g / (sqrt(v) + eps)    # centered: v - m * m for v, with m = alpha * m + (1 - alpha) * g
        b = momentum * b + q
        p -= lr * b                # without momentum: p -= lr * q

    params: see Optimizer. lr, eps, weight_decay, momentum: numbers not below 0; alpha: from 0 to 1,
    1 excluded. Where rounding makes v - m * m negative it counts as 0 (PyTorch gives nan). Raises
    ValueError or TypeError for others. Source: Tieleman and Hinton, 2012; Graves, 2013.

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
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _settings(self, group):
        return (
            number(group["lr"], "RMSprop: lr", 0, inf),
            number(group["weight_decay"], "RMSprop: weight_decay", 0, inf),
            bool(group["maximize"]),
            number(group["alpha"], "RMSprop: alpha", 0, 1),
            number(group["eps"], "RMSprop: eps", 0, inf),
            number(group["momentum"], "RMSprop: momentum", 0, inf),
            bool(group["centered"]),
        )


# -- L-BFGS ----------------------------------------------------------------------------------------


class LBFGS(Optimizer):
    """LBFGS(params, lr=1, max_iter=20, max_eval=None, tolerance_grad=1e-7, tolerance_change=1e-9,
    history_size=100, line_search_fn=None): a quasi-Newton method for smooth, exact losses.

    ``step(closure)`` makes up to max_iter iterations with up to max_eval calls of closure (None:
    max_iter * 5 // 4). closure sets all grads to 0, computes the loss of all data, calls backward()
    and returns the loss. An iteration goes along the direction that the last history_size changes
    of point and gradient suggest (Nocedal and Wright, Numerical Optimization, algorithm 7.4) by lr,
    the very first by lr * min(1, 1 / sum of abs(grad)). With line_search_fn='strong_wolfe' it goes
    on from there to a point that fulfils the strong Wolfe conditions for 1e-4 and 0.9 (algorithms
    3.5 and 3.6). A step ends early when no abs(grad) is above tolerance_grad, or when the point or
    the loss changes by no more than tolerance_change.

    params: see Optimizer, but one group only. Raises ValueError or TypeError for settings out of
    range. If closure raises, parameters, gradients and optimiser are as before the step.

    >>> from mingrad import Variable
    >>> from mingrad.optim import LBFGS
    >>> x, y = Variable(-1.0), Variable(2.0)
    >>> optimizer = LBFGS([x, y], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (1 - x)**2 + 100 * (y - x**2)**2
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(3):
    ...     loss = optimizer.step(closure)
    >>> round(x.data, 3), round(y.data, 3)
    (1.0, 1.0)
    """

    def __init__(
        self,
        params,
        lr=1,
        max_iter=20,
        max_eval=None,
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        history_size=100,
        line_search_fn=None,
    ):
        if max_eval is None:
            max_eval = max(1, whole(max_iter, "LBFGS: max_iter") * 5 // 4)
        self._memory = {"func_evals": 0, "n_iter": 0}  # PyTorch's names; values are never changed
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group):
        """Refused, but for the group that the constructor adds: L-BFGS has one."""
        if self.param_groups:
            raise ValueError("LBFGS: expected one parameter group, got another; pass all parameters in one list")
        super().add_param_group(param_group)

    def _settings(self, group):
        return {
            "lr": number(group["lr"], "LBFGS: lr", 0, inf),
            "max_iter": whole(group["max_iter"], "LBFGS: max_iter"),
            "max_eval": whole(group["max_eval"], "LBFGS: max_eval"),
            "tolerance_grad": number(group["tolerance_grad"], "LBFGS: tolerance_grad", 0, inf),
            "tolerance_change": number(group["tolerance_change"], "LBFGS: tolerance_change", 0, inf),
            "history_size": whole(group["history_size"], "LBFGS: history_size"),
            "line_search_fn": choice(group["line_search_fn"], "LBFGS: line_search_fn", None, "strong_wolfe"),
        }

    def step(self, closure):
        """Make up to max_iter iterations; returns what closure returned the first time.

        closure: sets all grads to 0, computes the loss and its gradients, and returns the loss, a
        Variable or a number. If it raises, everything is as before.
        """
        (settings,) = self._all_settings()
        group = self._groups[0]
        values, grads = _read(group, _VALUES), _read(group, _GRADS)
        try:
            answer, self._memory = _minimise(group, closure, dict(self._memory), **settings)
        except BaseException:
            group.write(_VALUES, values)
            group.write(_GRADS, grads)
            raise
        return answer

    def _read_state(self, group):
        return _copied(self._memory)

    def _check_state(self, state, count, where):
        names = ["func_evals", "n_iter"]
        if isinstance(state, dict) and state.get("n_iter") != 0:
            names += [*_LAST_MOVE, *_HISTORY, "H_diag", "t", "prev_loss"]
        if not isinstance(state, dict) or set(state) != set(names):
            raise ValueError(f"{where}: expected a state with {', '.join(names)}, got {keys(state)}")
        found = {}
        for key in names:
            x, what = state[key], f"{where}: {key!r}"
            if key in ("func_evals", "n_iter"):
                found[key] = whole(x, what, 0)
            elif key in _LAST_MOVE:
                found[key] = doubles(x, what, count)
            elif key in ("H_diag", "t", "prev_loss"):
                found[key] = real(x, what)
            elif not isinstance(x, (list, tuple)) or len(x) != len(state["ro"]):
                raise ValueError(f"{what}: expected a list as long as 'ro', got {x!r}")
            elif key == "ro":
                found[key] = [real(r, what) for r in x]
            else:
                found[key] = [doubles(vector, what, count) for vector in x]
        return found

    def _write_state(self, group, state):
        self._memory = _copied(state)


# What is remembered: the last direction and the gradient before it; of earlier moves the change of
# the gradient, of the point, and 1 over their product.
_LAST_MOVE = ("d", "prev_flat_grad")
_HISTORY = ("old_dirs", "old_stps", "ro")


def _copied(memory):
    copies = {}
    for key, value in memory.items():
        if isinstance(value, list):
            value = [x[:] if isinstance(x, array) else x for x in value]
        copies[key] = value[:] if isinstance(value, array) else value
    return copies


# What was found at one distance (step) along a direction; slope: of the loss along it.
_Trial = namedtuple("_Trial", "step loss grad slope")


def _minimise(
    group,
    closure,
    memory,
    lr,
    max_iter,
    max_eval,
    tolerance_grad,
    tolerance_change,
    history_size,
    line_search_fn,
):
    """The iterations of one step of LBFGS. Returns (closure's first answer, the new memory)."""

    def evaluate():
        with enable_grad():
            answer = closure()
        return answer, real(answer, "LBFGS: closure's loss"), _read(group, _GRADS)

    def move(step):
        there = values[:]
        _core._vector_add(there, step, direction)
        group.write(_VALUES, there)

    def trial(step):
        move(step)
        _, loss, grad = evaluate()
        return _Trial(step, loss, grad, _core._vector_dot(grad, direction))

    first, loss, grad = evaluate()
    calls = 1
    if _core._vector_norm(grad, inf) <= tolerance_grad:
        max_iter = 0
    for iteration in range(1, max_iter + 1):
        memory["n_iter"] += 1
        if memory["n_iter"] == 1:
            memory.update(old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            step = lr * min(1.0, 1.0 / _core._vector_norm(grad, 1.0))
        else:
            _remember(memory, grad, history_size)
            step = lr
        values = _read(group, _VALUES)
        direction = _newton_direction(memory, grad)
        reach = _core._vector_norm(direction, inf)
        slope = _core._vector_dot(grad, direction)
        memory.update(d=direction, t=step, prev_flat_grad=grad, prev_loss=loss)
        if slope > -tolerance_change:
            break
        if line_search_fn is not None:
            start = _Trial(0.0, loss, grad, slope)
            found, made = _strong_wolfe(trial, step, start, reach, max_eval - calls)
            step, loss, grad, _ = found
            calls += made
            move(step)
        else:
            move(step)
            if iteration < max_iter:
                _, loss, grad = evaluate()
                calls += 1
        memory["t"] = step
        if (
            calls >= max_eval
            or _core._vector_norm(grad, inf) <= tolerance_grad
            or abs(step) * reach <= tolerance_change
            or abs(loss - memory["prev_loss"]) < tolerance_change
        ):
            break
    memory["func_evals"] += calls
    return first, memory


def _remember(memory, grad, history_size):
    """Add what the last move changed to the history, unless the loss was not convex along it."""
    y, s = grad[:], memory["d"][:]
    _core._vector_add(y, -1.0, memory["prev_flat_grad"])
    _core._vector_scale(s, memory["t"])
    ys, yy = _core._vector_dot(y, s), _core._vector_dot(y, y)
    if ys > 1e-10 and yy > 0:
        memory["H_diag"] = ys / yy
        for key, item in zip(_HISTORY, (y, s, 1.0 / ys)):
            memory[key] = [*memory[key], item][-history_size:]


def _newton_direction(memory, grad):
    """Minus the approximate inverse Hessian times the gradient."""
    history = list(zip(*(memory[key] for key in _HISTORY)))
    direction, parts = grad[:], []
    _core._vector_scale(direction, -1.0)
    for y, s, r in reversed(history):
        parts.append(_core._vector_dot(s, direction) * r)
        _core._vector_add(direction, -parts[-1], y)
    _core._vector_scale(direction, memory["H_diag"])
    for y, s, r in history:
        _core._vector_add(direction, parts.pop() - _core._vector_dot(y, direction) * r, s)
    return direction


def _cubic_minimum(a, b, low, high):
    """Where the cubic with the losses and slopes of trials a and b is least, from low to high.

    In the middle if it has no minimum.
    """
    if a.step > b.step:
        a, b = b, a
    try:
        tilt = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
        root = math.sqrt(tilt * tilt - a.slope * b.slope)
        part = (b.slope + root - tilt) / (b.slope - a.slope + 2 * root)
    except (ValueError, ZeroDivisionError):
        part = math.nan
    at = b.step - (b.step - a.step) * part
    return (low + high) / 2 if math.isnan(at) else min(max(at, low), high)


def _strong_wolfe(trial, step, start, reach, most):
    """Look along a direction for a trial that fulfils the strong Wolfe conditions.

    trial(step) makes one; start: the one at 0; reach: the direction's largest element; most: how
    many trials after the first. Returns (the best, how many were made).
    """

    def too_high(there):
        return there.loss > start.loss + 1e-4 * there.step * start.slope

    def flat(there):
        return abs(there.slope) <= -0.9 * start.slope

    # go on until a minimum lies between two trials
    before, here, more = start, trial(step), 0
    while True:
        if more >= most:
            return start if start.loss <= here.loss else here, 1 + more
        if too_high(here) or (more > 1 and here.loss >= before.loss):
            break
        if flat(here):
            return here, 1 + more
        if here.slope >= 0:
            break
        nearest = here.step + 0.01 * (here.step - before.step)
        step = _cubic_minimum(before, here, nearest, 10 * here.step)
        before, here, more = here, trial(step), more + 1

    # narrow it down; ends[low] has the lower loss
    ends = [before, here]
    low = 0 if before.loss <= here.loss else 1
    near_end = False  # the last trial was, though not beyond it
    while more < most and not abs(ends[1].step - ends[0].step) * reach < 1e-9:
        left, right = sorted(end.step for end in ends)
        step = _cubic_minimum(*ends, left, right)
        margin = 0.1 * (right - left)
        if not min(right - step, step - left) < margin:
            near_end = False
        elif near_end or step >= right or step <= left:
            near_end = False
            step = right - margin if abs(step - right) < abs(step - left) else left + margin
        else:
            near_end = True
        here, more = trial(step), more + 1
        if too_high(here) or here.loss >= ends[low].loss:
            ends[1 - low] = here
            low = 0 if ends[0].loss <= ends[1].loss else 1
            continue
        if flat(here):
            return here, 1 + more
        if here.slope * (ends[1 - low].step - ends[low].step) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = here
    return ends[low], 1 + more


# -- clipping --------------------------------------------------------------------------------------


def clip_grad_norm_(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False):
    """Scale the gradients so that their norm is at most max_norm; returns what it was, a float.

    parameters: Variables, one or an iterable. max_norm: a number not below 0; infinity only
    measures. norm_type: the p > 0 of the p-norm over all gradients; infinity: the largest. Each
    grad is multiplied by min(1, max_norm / (norm + 1e-6)). An infinite norm makes gradients 0 and
    nan, a norm of nan all of them nan; with error_if_nonfinite they raise RuntimeError instead.

    >>> from mingrad import Variable
    >>> from mingrad.optim import clip_grad_norm_
    >>> x, y = Variable(3.0), Variable(4.0)
    >>> ((x * x + y * y) / 2).backward()
    >>> clip_grad_norm_([x, y], max_norm=1.0)
    5.0
    >>> round(x.grad, 6), round(y.grad, 6)
    (0.6, 0.8)
    """
    what = "clip_grad_norm_"
    bound = inf if max_norm == inf else number(max_norm, f"{what}: max_norm", 0, inf)
    p = inf if norm_type in (inf, "inf") else number(norm_type, f"{what}: norm_type", 0, inf)
    if p == 0:
        raise ValueError(f"{what}: norm_type: expected a number above 0, or infinity, got 0")
    variables = _core._variables(parameters, what)
    norm = _core._grad_norm(variables, p)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"{what}: the norm of the gradients is {norm}, so they cannot be scaled; look for what "
            "made them so, or pass error_if_nonfinite=False"
        )
    factor = bound / (norm + 1e-6)
    if not factor >= 1:
        _core._scale_grads(variables, factor)
    return norm


def clip_grad_value_(parameters, clip_value):
    """Bring each gradient to between -clip_value and clip_value; nan stays.

    parameters: Variables, one or an iterable. clip_value: a number not below 0.

    >>> from mingrad import Variable
    >>> from mingrad.optim import clip_grad_value_
    >>> x = Variable(3.0)
    >>> (x * -2.0).backward()
    >>> clip_grad_value_([x], 0.5)
    >>> x.grad
    -0.5
    """
    bound = number(clip_value, "clip_grad_value_: clip_value", 0, inf)
    _core._clamp_grads(_core._variables(parameters, "clip_grad_value_"), bound)


def _read(group, what):
    """Vector `what` of a group, or its steps, values or gradients, as a new array."""
    found = array("d", bytes(8 * len(group.variables)))
    group.read(what, found)
    return found


# At the end, because schedules look at the class Optimizer.
from .lr_scheduler import (  # noqa: E402
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    ReduceLROnPlateau,
    StepLR,
)
