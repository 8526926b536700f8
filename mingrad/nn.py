"""Neurons, layers and multi-layer perceptrons over Variables, with micrograd's names, structure and order.

What each class computes is written here in plain Python (`forward`). A model made of these classes alone, with its weights
still in the order in which they were made, is called through a plan in the core instead, which computes the same on
contiguous runs of nodes (csrc/layers.pxi); replace a weight, share one or subclass Neuron, and `forward` is used.
"""

import random

from . import _core
from .engine import Variable

__all__ = ["MLP", "Layer", "Module", "Neuron"]


class Module:
    """Base of everything that has parameters: Variables and Modules found in attributes, lists, tuples and dicts."""

    def named_parameters(self, prefix=""):
        """Yield (name, Variable) for each parameter once, in the order in which attributes were set.

        A name is the path to it, like ``layers.0.neurons.1.w.2``; a parameter that is shared has its first name.

        >>> from mingrad.nn import Neuron
        >>> [name for name, p in Neuron(2).named_parameters()]
        ['w.0', 'w.1', 'b']
        """
        seen = set()
        stack = [(prefix, self)]
        while stack:
            path, item = stack.pop()
            if isinstance(item, Variable):
                if item not in seen:
                    seen.add(item)
                    yield path, item
            elif isinstance(item, (Module, dict, list, tuple)):
                if id(item) in seen:
                    continue
                seen.add(id(item))
                if isinstance(item, Module):
                    children = vars(item).items()
                elif isinstance(item, dict):
                    children = item.items()
                else:
                    children = enumerate(item)
                dot = path + "." if path else ""
                stack.extend(reversed([(f"{dot}{key}", child) for key, child in children]))

    def parameters(self):
        """The parameters as a list, each once, in the order of :meth:`named_parameters`."""
        return [p for _, p in self.named_parameters()]

    def zero_grad(self):
        """Set the grad of every parameter to 0."""
        for p in self.parameters():
            p.zero_grad()

    def state_dict(self):
        """The parameters' values: a dict from name to float.

        >>> from mingrad.nn import Neuron
        >>> sorted(Neuron(1).state_dict())
        ['b', 'w.0']
        """
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, state):
        """Set the parameters from a dict as state_dict() gives it.

        Raises KeyError where names are missing or left over and TypeError where a value is no number; then no parameter
        has changed.
        """
        own = dict(self.named_parameters())
        missing = [name for name in own if name not in state]
        unknown = [name for name in state if name not in own]
        if missing or unknown:
            raise KeyError(
                f"load_state_dict: expected the {len(own)} parameters of {type(self).__name__}, got {len(state)}; "
                f"missing: {_some(missing)}; unknown: {_some(unknown)}"
            )
        for name, value in state.items():
            try:
                Variable(value, requires_grad=False)
            except (TypeError, OverflowError) as error:
                raise type(error)(f"load_state_dict: parameter {name!r}: {error}") from None
        for name, p in own.items():
            p.data = state[name]


def _some(names):
    """A few names for an error message."""
    return (", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")) if names else "none"


def _activate(activation, x):
    """Apply an activation: 'linear', the name of a unary operation, or a callable."""
    if activation == "linear":
        return x
    return getattr(x, activation)() if isinstance(activation, str) else activation(x)


class _Compiled(_core.Watched, Module):
    """A Module that the core calls through a plan where it has one, through forward() where it has not."""

    def parameters(self):
        """The parameters as a list, each once, in micrograd's order."""
        planned = self._parameters()
        return Module.parameters(self) if planned is None else planned

    def zero_grad(self):
        """Set the grad of every parameter to 0."""
        if type(self).parameters is not _Compiled.parameters or not self._zero_grad():
            Module.zero_grad(self)


class Neuron(_Compiled):
    """Neuron(nin, nonlin=True, activation='relu'): activation(sum(w*x) + b), or without activation if nonlin is False.

    nin: number of inputs. Weights are drawn from random.uniform(-1, 1), the bias is 0, as in micrograd. activation: the
    name of a unary operation ('relu', 'tanh', 'sigmoid', 'gelu', 'silu', 'softplus', ...), 'linear', or a callable from
    Variable to Variable.

    Raises ValueError for an unknown activation. ``neuron(x)`` takes nin numbers or Variables (a list, a tuple, a buffer)
    and gives a Variable; rows of them give a list of Variables.

    >>> import random
    >>> from mingrad.nn import Neuron
    >>> random.seed(0)
    >>> Neuron(2)([1.0, -2.0])
    Variable(data=0.0, grad=0.0)
    """

    def __init__(self, nin, nonlin=True, activation="relu"):
        if not callable(activation) and activation != "linear" and not _core._is_activation(activation):
            raise ValueError(
                f"Neuron: expected activation to be the name of a unary operation such as 'relu' or 'tanh', 'linear', "
                f"or a callable, got {activation!r}"
            )
        self.w = _core.WatchedList([Variable(random.uniform(-1, 1)) for _ in range(nin)])
        self.b = Variable(0)
        self.nonlin = nonlin
        self.activation = activation

    def forward(self, x):
        """The neuron's value for one sample, in plain Python."""
        if len(x) != len(self.w):
            raise ValueError(f"expected {len(self.w)} inputs, got {len(x)}")
        total = sum((wi * xi for wi, xi in zip(self.w, x)), self.b)
        return _activate(self.activation, total) if self.nonlin else total

    def _stages(self):
        return [_core.WatchedList([self])] if type(self) is Neuron else None

    def __repr__(self):
        name = "Linear"
        if self.nonlin and self.activation != "linear":
            name = self.activation if isinstance(self.activation, str) else self.activation.__name__
            name = "ReLU" if name == "relu" else name.capitalize()
        return f"{name}Neuron({len(self.w)})"


class Layer(_Compiled):
    """Layer(nin, nout, nonlin=True, activation='relu'): nout neurons over the same nin inputs.

    ``layer(x)`` gives a list of nout Variables, or the Variable itself for one neuron.

    >>> from mingrad.nn import Layer
    >>> Layer(2, 3)
    Layer of [ReLUNeuron(2), ReLUNeuron(2), ReLUNeuron(2)]
    """

    def __init__(self, nin, nout, **kwargs):
        self.neurons = _core.WatchedList([Neuron(nin, **kwargs) for _ in range(nout)])

    def forward(self, x):
        """The neurons' values for one sample."""
        out = [n(x) for n in self.neurons]
        return out[0] if len(out) == 1 else out

    def _stages(self):
        if type(self) is Layer and all(type(n) is Neuron for n in self.neurons):
            return [self.neurons]
        return None

    def __repr__(self):
        return f"Layer of [{', '.join(str(n) for n in self.neurons)}]"


class MLP(_Compiled):
    """MLP(nin, nouts, activation='relu'): layers of the given sizes, the last one without activation.

    nin: number of inputs; nouts: neurons of each layer. ``mlp(x)`` takes nin numbers or Variables (list, tuple, any
    buffer of floats or ints) and gives the last layer's value, a Variable for one neuron, else a list; rows of inputs (a
    list of samples, a 2-D buffer) give a list with one result for each row. Raises ValueError for another number of inputs.

    >>> from mingrad.nn import MLP
    >>> len(MLP(2, [16, 16, 1]).parameters())
    337
    """

    def __init__(self, nin, nouts, **kwargs):
        sizes = [nin, *nouts]
        self.layers = _core.WatchedList(
            [
                Layer(sizes[i], sizes[i + 1], **{"nonlin": i != len(nouts) - 1, **kwargs})
                for i in range(len(nouts))
            ]
        )

    def forward(self, x):
        """The layers' values for one sample, one layer after the other."""
        for layer in self.layers:
            x = layer([x] if isinstance(x, Variable) else x)
        return x

    def _stages(self):
        if type(self) is not MLP:
            return None
        stages = []
        for layer in self.layers:
            below = layer._stages() if type(layer) is Layer else None
            if below is None:
                return None
            stages += below
        return stages

    def __repr__(self):
        return f"MLP of [{', '.join(str(layer) for layer in self.layers)}]"
