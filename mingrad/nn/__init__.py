"""Layers, models and losses over Variables: micrograd's Neuron, Layer and MLP with its structure and order, and under PyTorch's
names what practitioners train with. Optimisers are in mingrad.optim.

What each class computes is written here (`forward`). A stack of dense layers made of these classes alone, with its weights
still in the order in which they were made, is called through a plan in the core instead, which computes the same on
contiguous runs of nodes (csrc/layers.pxi); replace a weight, share one or subclass Neuron, and `forward` is used. The losses
and the loops over elements are in csrc/sequences.pxi.
"""

import math
import random
from reprlib import recursive_repr

from .. import _core
from .._core import (
    VariableList,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    dot,
    hinge_loss,
    huber_loss,
    l1_loss,
    mse_loss,
    scaled_dot_product_attention,
)
from ..engine import Variable
from . import init as init

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Dropout",
    "ELU",
    "Embedding",
    "GELU",
    "HingeLoss",
    "HuberLoss",
    "Identity",
    "L1Loss",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MLP",
    "MSELoss",
    "Module",
    "Neuron",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "hinge_loss",
    "huber_loss",
    "init",
    "l1_loss",
    "mse_loss",
    "scaled_dot_product_attention",
]


def __getattr__(name):
    if name == "utils":  # it imports mingrad.optim, which layers do not need
        from importlib import import_module

        return import_module(f"{__name__}.utils")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Module:
    """Base of everything that has parameters: Variables and Modules found in attributes, lists, tuples and dicts."""

    training = True

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
            elif isinstance(item, (Module, dict, list, tuple, VariableList)):
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

    def modules(self):
        """Yield this module and every module in it, each once, outer ones first.

        >>> from mingrad.nn import MLP
        >>> len(list(MLP(2, [3, 1]).modules()))
        7
        """
        seen = set()
        stack = [self]
        while stack:
            item = stack.pop()
            if not isinstance(item, (Module, dict, list, tuple)) or id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, Module):
                yield item
                item = vars(item)
            stack.extend(
                reversed([part for part in (item.values() if isinstance(item, dict) else item) if type(part) is not Variable])
            )

    def train(self, mode=True):
        """Put this module and those in it into training mode (mode False: evaluation); returns self. Dropout obeys it."""
        for module in self.modules():
            vars(module)["training"] = bool(mode)  # past __setattr__: no plan depends on it
        return self

    def eval(self):
        """Put this module and those in it into evaluation mode; returns self."""
        return self.train(False)

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

    def summary(self):
        """The layers as a table in text: names, kinds, shapes of their parameters and how many these are. A parameter that is
        shared counts where it comes first.

        >>> from mingrad.nn import MLP
        >>> print(MLP(2, [16, 1]).summary())
        name      layer  parameters      count
        layers.0  Layer  w (16, 2), b (16)  48
        layers.1  Layer  w (1, 16), b (1)   17
        MLP: 65 parameters
        """
        from ..visualize.reprs import module_table

        return module_table(self)

    @recursive_repr("...")
    def __repr__(self):
        lines = []
        for name, part in vars(self).items():
            parts = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, (list, tuple)) else None
            named = [(name, part)] if parts is None else [(f"{name}.{key}", item) for key, item in parts]
            lines += [f"  ({name}): {item!r}".replace("\n", "\n  ") for name, item in named if isinstance(item, Module)]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"]) if lines else f"{type(self).__name__}()"

    def _repr_html_(self):
        from ..visualize.reprs import module

        return module(self)


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

    _vector = False  # whether a sample's result is a VariableList

    def _stages(self):
        """The dense layers this module is made of, for a plan (csrc/layers.pxi); None if it is not made of such."""
        return None

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
            [Layer(sizes[i], sizes[i + 1], **{"nonlin": i != len(nouts) - 1, **kwargs}) for i in range(len(nouts))]
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


def _size(owner, name, value):
    """Check a number of features."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{owner}: expected {name} to be a positive int, got {value!r}")
    return value


def _vector(owner, x, size):
    """Check the length of a sample."""
    if len(x) != size:
        raise ValueError(f"{owner}: expected {size} inputs, got {len(x)}")
    return x


class Linear(_Compiled):
    """Linear(in_features, out_features, bias=True): W x + b.

    ``weight``: out_features rows of in_features Variables; ``bias``: a list of out_features, or None. All are drawn from
    random.uniform(-k, k), k = 1 / sqrt(in_features), as in PyTorch. ``linear(x)`` takes in_features numbers or Variables and
    gives a VariableList of out_features; rows of them give a list of those. Raises ValueError for another number of inputs.

    >>> from mingrad.nn import Linear
    >>> linear = Linear(2, 3)
    >>> linear, len(linear([1.0, 2.0]))
    (Linear(in_features=2, out_features=3, bias=True), 3)
    """

    _vector = True

    def __init__(self, in_features, out_features, bias=True):
        bound = 1 / math.sqrt(_size("Linear", "in_features", in_features))
        rows, biases = [], []
        for _ in range(_size("Linear", "out_features", out_features)):  # on the tape each row's bias follows its weights
            rows.append(_core.WatchedList([Variable(random.uniform(-bound, bound)) for _ in range(in_features)]))
            if bias:
                biases.append(Variable(random.uniform(-bound, bound)))
        self.weight = _core.WatchedList(rows)
        self.bias = _core.WatchedList(biases) if bias else None

    def forward(self, x):
        """The outputs for one sample, in plain Python."""
        out = [dot(row, _vector("Linear", x, len(row))) for row in self.weight]
        return VariableList(out if self.bias is None else [y + b for y, b in zip(out, self.bias)])

    def _stages(self):
        return [(self.weight, self.bias, "linear", None)] if type(self) is Linear else None

    def __getstate__(self):
        state = dict(vars(self))
        if self.bias is not None:  # a copy makes its Variables in the order met: that of the tape
            state = {None: list(zip(self.weight, self.bias)), **state}
        return state

    def __setstate__(self, state):
        vars(self).update((name, value) for name, value in state.items() if name is not None)

    def __repr__(self):
        return f"Linear(in_features={len(self.weight[0])}, out_features={len(self.weight)}, bias={self.bias is not None})"


class Embedding(Module):
    """Embedding(num_embeddings, embedding_dim): a table of vectors, looked up by index.

    ``weight``: num_embeddings VariableLists of embedding_dim, drawn from the normal distribution N(0, 1), as in PyTorch.
    ``embedding(i)`` gives row i itself (no node is recorded), a sequence of ints a list of rows. Raises IndexError for an
    index outside 0 ... num_embeddings - 1, TypeError for what is no int.

    >>> from mingrad.nn import Embedding
    >>> len(Embedding(27, 16)(3))
    16
    """

    def __init__(self, num_embeddings, embedding_dim):
        _size("Embedding", "num_embeddings", num_embeddings)
        _size("Embedding", "embedding_dim", embedding_dim)
        self.weight = [
            VariableList([Variable(random.gauss(0.0, 1.0)) for _ in range(embedding_dim)]) for _ in range(num_embeddings)
        ]

    def __call__(self, index):
        if type(index) is int and 0 <= index < len(self.weight):
            return self.weight[index]
        if hasattr(index, "__len__") and not isinstance(index, (str, bytes)):
            return [self(i) for i in index]
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(f"Embedding: expected an int or a sequence of ints, got {type(index).__name__}")
        if not 0 <= index < len(self.weight):
            raise IndexError(f"Embedding: expected an index from 0 to {len(self.weight) - 1}, got {index}")
        return self.weight[index]

    def __repr__(self):
        return f"Embedding({len(self.weight)}, {len(self.weight[0])})"


class RMSNorm(_Compiled):
    """RMSNorm(normalized_shape, eps=None, elementwise_affine=True): x_i / sqrt(mean(x**2) + eps) * weight_i.

    normalized_shape: n, how many numbers a sample has. eps: None is the distance from 1 to the next float, as in PyTorch.
    ``weight``: a VariableList of n ones; elementwise_affine=False: None. Source: Zhang and Sennrich, Root Mean Square Layer
    Normalization (2019). Raises ValueError for another number of inputs.

    >>> from mingrad.nn import RMSNorm
    >>> RMSNorm(2, eps=0.0)([3.0, 3.0]).tolist()
    [1.0, 1.0]
    """

    def __init__(self, normalized_shape, eps=None, elementwise_affine=True):
        self.size = _size("RMSNorm", "normalized_shape", normalized_shape)
        self.eps = 2.0**-52 if eps is None else _eps("RMSNorm", eps)
        self.weight = VariableList([Variable(1.0) for _ in range(self.size)]) if elementwise_affine else None

    def forward(self, x):
        """The normalised sample, a VariableList."""
        return _core._rms_norm(_vector("RMSNorm", x, self.size), self.weight, self.eps)

    def __repr__(self):
        return f"RMSNorm({self.size}, eps={self.eps}, elementwise_affine={self.weight is not None})"


class LayerNorm(_Compiled):
    """LayerNorm(normalized_shape, eps=1e-5, elementwise_affine=True, bias=True): (x_i - mean) / sqrt(variance + eps) * weight_i
    + bias_i.

    normalized_shape: n, how many numbers a sample has; the variance is that of the n numbers themselves (divided by n).
    ``weight``: a VariableList of n ones, ``bias`` one of n zeros; None without elementwise_affine or bias. Source: Ba, Kiros
    and Hinton, Layer Normalization (2016). Raises ValueError for another number of inputs.

    >>> from mingrad.nn import LayerNorm
    >>> LayerNorm(2, eps=0.0)([1.0, 3.0]).tolist()
    [-1.0, 1.0]
    """

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.size = _size("LayerNorm", "normalized_shape", normalized_shape)
        self.eps = _eps("LayerNorm", eps)
        self.weight = VariableList([Variable(1.0) for _ in range(self.size)]) if elementwise_affine else None
        self.bias = VariableList([Variable(0.0) for _ in range(self.size)]) if elementwise_affine and bias else None

    def forward(self, x):
        """The normalised sample, a VariableList."""
        return _core._layer_norm(_vector("LayerNorm", x, self.size), self.weight, self.bias, self.eps)

    def __repr__(self):
        return f"LayerNorm({self.size}, eps={self.eps}, elementwise_affine={self.weight is not None})"


def _eps(owner, eps):
    """Check the number that keeps a norm from dividing by zero."""
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"{owner}: expected eps to be a finite number, 0 or more, got {eps!r}")
    return float(eps)


class Dropout(_Compiled):
    """Dropout(p=0.5): in training mode each input is 0 with probability p, else it is divided by 1 - p; in evaluation mode
    (``model.eval()``) inputs pass as they are.

    Numbers are drawn from Python's ``random``; random.seed makes them repeatable. Raises ValueError unless 0 <= p <= 1.

    >>> from mingrad.nn import Dropout
    >>> Dropout(0.5).eval()([1.0, 2.0]).tolist()
    [1.0, 2.0]
    """

    def __init__(self, p=0.5):
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: expected p to be a probability, 0 to 1, got {p!r}")
        self.p = float(p)

    def forward(self, x):
        """The sample with some of its numbers dropped, a VariableList."""
        x = VariableList(x)
        if not self.training or self.p == 0.0:
            return x
        kept = 1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0
        return x * [0.0 if random.random() < self.p else kept for _ in range(len(x))]

    def __repr__(self):
        return f"Dropout(p={self.p})"


class _Activation(_Compiled):
    """A unary operation on each number of a sample. Subclasses name the operation and its setting, if it has one."""

    _operation: str

    def _setting(self):
        return None

    def forward(self, x):
        """The operation on each number of a sample, a VariableList."""
        return _core._activate(self._operation, x, self._setting())

    def __repr__(self):
        setting = self._setting()
        return f"{type(self).__name__}({'' if setting is None else setting})"


def _is_plain_activation(module):
    """An activation that computes what its operation does: no subclass with mathematics of its own."""
    kind = type(module)
    return isinstance(module, _Activation) and kind.forward is _Activation.forward and kind.__call__ is _Activation.__call__


class ReLU(_Activation):
    """ReLU(): max(0, x) for each number of a sample; gives a VariableList.

    >>> from mingrad.nn import ReLU
    >>> ReLU()([-1.0, 2.0])
    VariableList([0.0, 2.0])
    """

    _operation = "relu"


class Tanh(_Activation):
    """Tanh(): tanh(x) for each number of a sample; gives a VariableList."""

    _operation = "tanh"


class Sigmoid(_Activation):
    """Sigmoid(): 1 / (1 + exp(-x)) for each number of a sample; gives a VariableList."""

    _operation = "sigmoid"


class GELU(_Activation):
    """GELU(): x times the normal distribution's cdf(x) for each number of a sample; gives a VariableList."""

    _operation = "gelu"


class SiLU(_Activation):
    """SiLU(): x * sigmoid(x) for each number of a sample; gives a VariableList."""

    _operation = "silu"


class Softplus(_Activation):
    """Softplus(): log(1 + exp(x)) for each number of a sample; gives a VariableList."""

    _operation = "softplus"


class LeakyReLU(_Activation):
    """LeakyReLU(negative_slope=0.01): x if x > 0, else negative_slope * x, for each number of a sample; gives a VariableList."""

    _operation = "leaky_relu"

    def __init__(self, negative_slope=0.01):
        self.negative_slope = float(negative_slope)

    def _setting(self):
        return self.negative_slope


class ELU(_Activation):
    """ELU(alpha=1.0): x if x > 0, else alpha * (exp(x) - 1), for each number of a sample; gives a VariableList."""

    _operation = "elu"

    def __init__(self, alpha=1.0):
        self.alpha = float(alpha)

    def _setting(self):
        return self.alpha


class Softmax(_Compiled):
    """Softmax(): exp(x_i) / sum_j exp(x_j) over the numbers of a sample; gives a VariableList.

    >>> from mingrad.nn import Softmax
    >>> Softmax()([0.0, 0.0])
    VariableList([0.5, 0.5])
    """

    def forward(self, x):
        """The probabilities of one sample, a VariableList."""
        return _core._softmax_list(x)

    def __repr__(self):
        return "Softmax()"


class Identity(_Compiled):
    """Identity(): each sample as it is, as a VariableList."""

    def forward(self, x):
        """The sample itself."""
        return VariableList(x)

    def __repr__(self):
        return "Identity()"


class Sequential(_Compiled):
    """Sequential(*modules): each module on what the one before it gives.

    Modules are kept under the names '0', '1', ..., so that parameters have PyTorch's names ('0.weight.3.1'); ``model[i]`` is
    module number i. A sample is a sequence of numbers and Variables, rows of samples give a list of results. Made of Linear
    and activations alone it runs as one plan in the core.

    Raises TypeError for what cannot be called.

    >>> from mingrad.nn import Linear, ReLU, Sequential
    >>> model = Sequential(Linear(2, 8), ReLU(), Linear(8, 1))
    >>> len(model.parameters()), len(model([[1.0, 2.0], [3.0, 4.0]]))
    (33, 2)
    """

    _vector = True

    def __init__(self, *modules):
        for number, module in enumerate(modules):
            if not callable(module):
                raise TypeError(f"Sequential: expected modules, got {type(module).__name__} as number {number}")
            setattr(self, str(number), module)

    def _children(self):
        return [child for name, child in vars(self).items() if name.isdigit()]

    def __len__(self):
        return len(self._children())

    def __getitem__(self, index):
        children = self._children()[index]
        return Sequential(*children) if isinstance(index, slice) else children

    def __iter__(self):
        return iter(self._children())

    def forward(self, x):
        """The last module's result for one sample."""
        for module in self._children():
            x = module(x)
        return x

    def _stages(self):
        if type(self) is not Sequential:
            return None
        stages = []
        for module in self._children():
            if _is_plain_activation(module) and stages and stages[-1][2] == "linear":
                stages[-1] = (*stages[-1][:2], module._operation, module._setting())
            elif type(module) in (Linear, Sequential) and (below := module._stages()):
                stages += below
            else:
                return None
        return stages

    def __repr__(self):
        lines = [f"  ({name}): {child!r}".replace("\n", "\n  ") for name, child in enumerate(self._children())]
        return "\n".join(["Sequential(", *lines, ")"]) if lines else "Sequential()"


class _Loss(Module):
    """A loss as an object: its function with the settings it was made with."""

    def __init__(self, reduction="mean"):
        self.reduction = reduction

    def _settings(self):
        return {"reduction": self.reduction}

    def __call__(self, input, target):
        return type(self)._function(input, target, **self._settings())

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._settings().items())})"


class MSELoss(_Loss):
    """MSELoss(reduction='mean'): :func:`mse_loss` as an object.

    >>> from mingrad.nn import MSELoss
    >>> MSELoss(reduction="sum")([1.0, 3.0], [1.0, 1.0])
    4.0
    """

    _function = staticmethod(mse_loss)


class L1Loss(_Loss):
    """L1Loss(reduction='mean'): :func:`l1_loss` as an object."""

    _function = staticmethod(l1_loss)


class HuberLoss(_Loss):
    """HuberLoss(reduction='mean', delta=1.0): :func:`huber_loss` as an object."""

    _function = staticmethod(huber_loss)

    def __init__(self, reduction="mean", delta=1.0):
        super().__init__(reduction)
        self.delta = delta

    def _settings(self):
        return {"reduction": self.reduction, "delta": self.delta}


class HingeLoss(_Loss):
    """HingeLoss(reduction='mean'): :func:`hinge_loss` as an object."""

    _function = staticmethod(hinge_loss)


class BCELoss(_Loss):
    """BCELoss(reduction='mean'): :func:`binary_cross_entropy` as an object."""

    _function = staticmethod(binary_cross_entropy)


class BCEWithLogitsLoss(_Loss):
    """BCEWithLogitsLoss(reduction='mean'): :func:`binary_cross_entropy_with_logits` as an object."""

    _function = staticmethod(binary_cross_entropy_with_logits)


class CrossEntropyLoss(_Loss):
    """CrossEntropyLoss(reduction='mean'): :func:`cross_entropy` as an object."""

    _function = staticmethod(cross_entropy)
