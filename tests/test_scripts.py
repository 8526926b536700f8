"""The programs a learner brings along: they run unchanged and give the right numbers.

The scripts are texts and are executed as they stand. What single operations do in all corners is in
the tests of the engine; here is what the programs print and where their training ends.
"""

import contextlib
import io
import random

import pytest

from helpers import assert_close_ulps
from mingrad.engine import Variable
from mingrad.nn import MLP

FIRST_SCRIPT = """
from mingrad.engine import Variable

x = Variable(2.0)
y = Variable(3.0)
z = x**2 + y

print(x)
print(y)
print(z)

z.backward()

print(x.grad)
print(y.grad)
"""

TRAINING_SCRIPT = """
from mingrad.nn import MLP

mlp = MLP(2, [3, 1])

X = [[2.0, 3.0], [-1.0, -2.0], [1.5, 2.0], [-1.5, -2.5]]
y = [1.0, -1.0, 1.0, -1.0]

learning_rate = 0.01
for epoch in range(100):
    for xi, yi in zip(X, y):
        y_pred = mlp(xi)
        loss = (y_pred - yi) ** 2
        mlp.zero_grad()
        loss.backward()
        for p in mlp.parameters():
            p.data -= learning_rate * p.grad
    print(f"epoch {epoch} loss {loss.data}")

for xi, yi in zip(X, y):
    y_pred = mlp(xi)
    print(xi, yi, y_pred.data)
"""

# micrograd 0.1.0 after random.seed(42): the weights it starts with, the loss that the script prints
# for epochs 0, 1, 9 and 99, and its four predictions at the end.
SEED_42_WEIGHTS = [
    0.2788535969157675,
    -0.9499784895546661,
    0.0,
    -0.4499413632617615,
    -0.5535785237023545,
    0.0,
    0.4729424283280248,
    0.3533989748458226,
    0.0,
    0.7843591354096908,
    -0.8261223347411677,
    -0.15615636062945915,
    0.0,
]
SEED_42_LOSSES = {
    0: 0.2880248624480629,
    1: 0.020236449530220236,
    9: 0.037275851868513774,
    99: 0.03337847555691465,
}
SEED_42_PREDICTIONS = [
    1.1134056207235574,
    -0.7662213717503878,
    0.8585105082308799,
    -1.103637310768468,
]

# Both engines add the same few numbers in different order. A step of 0.01 on a smooth loss shrinks
# a difference of a few ulp rather than growing it; 1e-12 leaves three digits.
TRAINED = 1e-12

README_SCRIPT = """
from mingrad.engine import Variable

a = Variable(-4.0)
b = Variable(2.0)
c = a + b
d = a * b + b**3
c += c + 1
c += 1 + c + (-a)
d += d * 2 + (b + a).relu()
d += 3 * d + (b - a).relu()
e = c - d
f = e**2
g = f / 2.0
g += 10.0 / f
print(f'{g.data:.4f}') # prints 24.7041, the outcome of this forward pass
g.backward()
print(f'{a.grad:.4f}') # prints 138.8338, i.e. the numerical value of dg/da
print(f'{b.grad:.4f}') # prints 645.5773, i.e. the numerical value of dg/db
"""


def executed(script):
    """Run a script; return the lines that it printed, and its names."""
    names, output = {"__name__": "__main__"}, io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(script, "<script>", "exec"), names)
    return output.getvalue().splitlines(), names


# The two scripts


def test_the_first_script_prints_exact_numbers():
    lines, names = executed(FIRST_SCRIPT)
    assert lines == [
        "Variable(data=2.0, grad=0.0)",
        "Variable(data=3.0, grad=0.0)",
        "Variable(data=7.0, grad=0.0)",
        "4.0",
        "1.0",
    ]
    assert names["x"].grad == 4.0 and names["y"].grad == 1.0 and names["z"].data == 7.0


def test_the_training_script_starts_with_micrograds_weights():
    random.seed(42)
    assert [p.data for p in MLP(2, [3, 1]).parameters()] == SEED_42_WEIGHTS


def test_the_training_script_gives_the_stored_numbers():
    random.seed(42)
    lines, names = executed(TRAINING_SCRIPT)
    losses = [float(line.split()[-1]) for line in lines[:100]]
    assert {epoch: losses[epoch] for epoch in SEED_42_LOSSES} == pytest.approx(SEED_42_LOSSES, rel=TRAINED, abs=TRAINED)
    predictions = [float(line.split()[-1]) for line in lines[100:]]
    assert predictions == pytest.approx(SEED_42_PREDICTIONS, rel=TRAINED)
    assert type(names["loss"].data) is float and type(names["y_pred"].data) is float


@pytest.mark.parametrize("seed", [0, 1, 42, 1337])
def test_the_training_script_gives_what_micrograd_gives(seed):
    nn = pytest.importorskip("micrograd.nn", reason="micrograd is not installed")
    random.seed(seed)
    lines, names = executed(TRAINING_SCRIPT)
    state = random.getstate()

    random.seed(seed)
    initial = [p.data for p in nn.MLP(2, [3, 1]).parameters()]
    random.seed(seed)
    assert [p.data for p in MLP(2, [3, 1]).parameters()] == initial

    random.seed(seed)
    their_lines, their_names = executed(TRAINING_SCRIPT.replace("mingrad", "micrograd"))
    assert random.getstate() == state, "mingrad and micrograd draw different numbers of weights"
    for line, their_line in zip(lines, their_lines, strict=True):
        *words, number = line.split()
        *their_words, their_number = their_line.split()
        assert words == their_words
        assert float(number) == pytest.approx(float(their_number), rel=TRAINED, abs=TRAINED)
    ours = [p.data for p in names["mlp"].parameters()]
    assert ours == pytest.approx([p.data for p in their_names["mlp"].parameters()], rel=TRAINED)
    assert repr(names["mlp"]) == repr(their_names["mlp"])


def test_the_training_script_learns_the_signs():
    random.seed(42)
    _, names = executed(TRAINING_SCRIPT)
    model = names["mlp"]
    assert all((model(xi).data > 0) == (yi > 0) for xi, yi in zip(names["X"], names["y"]))


# micrograd's README example


def test_micrograds_readme_example_prints_its_numbers():
    lines, _ = executed(README_SCRIPT)
    assert lines == ["24.7041", "138.8338", "645.5773"]


def test_micrograds_readme_example_agrees_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    _, ours = executed(README_SCRIPT)

    def leaf(number):
        return torch.tensor(number, dtype=torch.float64, requires_grad=True)

    script = README_SCRIPT.replace("from mingrad.engine import Variable\n", "")
    theirs = {"Variable": leaf}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(script, "<script>", "exec"), theirs)
    assert_close_ulps(ours["g"].data, theirs["g"].item(), 2, "g")
    # Some ten partials are multiplied along a path, each product rounded once.
    assert_close_ulps(ours["a"].grad, theirs["a"].grad.item(), 8, "dg/da")
    assert_close_ulps(ours["b"].grad, theirs["b"].grad.item(), 8, "dg/db")


# Operator by operator against PyTorch in float64

# name -> (function of a and b, ulps allowed between the two engines). A function uses operators and
# methods that both engines have. 0 where IEEE fixes the value and the partials have one natural
# form; 2 for a power, which C libraries round differently; 4 where each engine has its own
# exponential or its own order of the factors in a partial.
OPERATORS = {
    "a+b": (lambda a, b: a + b, 0),
    "a+2": (lambda a, b: a + 2, 0),
    "2+a": (lambda a, b: 2 + a, 0),
    "a-b": (lambda a, b: a - b, 0),
    "a-2": (lambda a, b: a - 2, 0),
    "2-a": (lambda a, b: 2 - a, 0),
    "a*b": (lambda a, b: a * b, 0),
    "a*2": (lambda a, b: a * 2, 0),
    "2*a": (lambda a, b: 2 * a, 0),
    "a*a": (lambda a, b: a * a, 0),
    "a/b": (lambda a, b: a / b, 0),
    "a/3": (lambda a, b: a / 3, 1),  # PyTorch multiplies the adjoint by 1/3
    "3/a": (lambda a, b: 3 / a, 2),
    "a**2": (lambda a, b: a**2, 0),
    "a**3": (lambda a, b: a**3, 2),
    "a**-1": (lambda a, b: a**-1, 2),
    "a**-2.0": (lambda a, b: a**-2.0, 2),
    "a**0": (lambda a, b: a**0, 0),
    "a**1": (lambda a, b: a**1, 0),
    "abs**0.5": (lambda a, b: abs(a) ** 0.5, 2),
    "abs**b": (lambda a, b: abs(a) ** b, 4),
    "2**b": (lambda a, b: 2**b, 4),
    "-a": (lambda a, b: -a, 0),
    "+a": (lambda a, b: +a, 0),
    "abs": (lambda a, b: abs(a), 0),
    "a%b": (lambda a, b: a % b, 0),
    "a%2": (lambda a, b: a % 2, 0),
    "relu": (lambda a, b: a.relu(), 0),
    # nearer to 0, as PyTorch's partials 1 - y*y and y * (1 - y) lose digits in the tails
    "tanh": (lambda a, b: (a / 4).tanh(), 6),
    "sigmoid": (lambda a, b: (a / 4).sigmoid(), 4),
    "exp": (lambda a, b: a.exp(), 4),
    "log": (lambda a, b: abs(a).log(), 4),
    "sqrt": (lambda a, b: abs(a).sqrt(), 1),
    "sin": (lambda a, b: a.sin(), 4),
    "cos": (lambda a, b: a.cos(), 4),
    "shared": (lambda a, b: (a + b) * (a + b) + (a + b), 2),
    "branch": (lambda a, b: a * b if a > b else a + b, 0),
}
POINTS = [(-4.0, 2.0), (2.0, 3.0), (0.5, -1.25), (-0.3, -0.7), (1.7, 0.1), (3.1, -2.9)]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_agrees_with_pytorch(operator):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    function, bound = OPERATORS[operator]
    for point in POINTS:
        a, b = map(Variable, point)
        ours = function(a, b)
        ours.backward()
        x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in point)
        theirs = function(x, y)
        theirs.backward()
        assert_close_ulps(ours.data, theirs.item(), bound, f"value at {point}")
        for name, v, tensor in (("a", a, x), ("b", b, y)):
            expected = 0.0 if tensor.grad is None else tensor.grad.item()
            assert_close_ulps(v.grad, expected, bound, f"partial by {name} at {point}")


def test_operators_in_place_make_new_nodes():
    a, b = Variable(-4.0), Variable(2.0)
    c = a
    c += b
    c -= 0.5
    c *= b
    c /= 3.0
    c **= 2
    c.backward()
    x, y = Variable(-4.0), Variable(2.0)
    z = ((x + y - 0.5) * y / 3.0) ** 2
    z.backward()
    assert (c.data, a.grad, b.grad) == (z.data, x.grad, y.grad)
    assert a.data == -4.0 and c is not a


# A micrograd user's own classes, in plain Python over Variable


class Module:
    def zero_grad(self):
        for p in self.parameters():
            p.grad = 0

    def parameters(self):
        return []


class Neuron(Module):
    def __init__(self, nin, nonlin=True, activation="relu"):
        self.w = [Variable(random.uniform(-1, 1)) for _ in range(nin)]
        self.b = Variable(0)
        self.nonlin = nonlin
        self.activation = activation

    def __call__(self, x):
        act = sum((wi * xi for wi, xi in zip(self.w, x)), self.b)
        return getattr(act, self.activation)() if self.nonlin else act

    def parameters(self):
        return self.w + [self.b]


class Layer(Module):
    def __init__(self, nin, nout, **kwargs):
        self.neurons = [Neuron(nin, **kwargs) for _ in range(nout)]

    def __call__(self, x):
        out = [n(x) for n in self.neurons]
        return out[0] if len(out) == 1 else out

    def parameters(self):
        return [p for n in self.neurons for p in n.parameters()]


class OwnMLP(Module):
    def __init__(self, nin, nouts, activation="relu"):
        sz = [nin] + nouts
        self.layers = [Layer(sz[i], sz[i + 1], nonlin=i != len(nouts) - 1, activation=activation) for i in range(len(nouts))]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def parameters(self):
        return [p for layer in self.layers for p in layer.parameters()]


def trained(model, epochs=30):
    """Train model by the script's loop; return its losses."""
    X = [[2.0, 3.0, -1.0], [3.0, -1.0, 0.5], [0.5, 1.0, 1.0], [1.0, 1.0, -1.0]]
    Y = [1.0, -1.0, -1.0, 1.0]
    losses = []
    for _ in range(epochs):
        loss = sum((model(x) - y) ** 2 for x, y in zip(X, Y))
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= 0.01 * p.grad
        losses.append(loss.data)
    return losses


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("nouts", [[1], [4, 1], [4, 4, 1]], ids=str)
def test_a_users_own_classes_train_as_mingrad_nn_does(nouts, activation):
    random.seed(7)
    own = OwnMLP(3, nouts, activation=activation)
    random.seed(7)
    fused = MLP(3, nouts, activation=activation)
    weights = [p.data for p in fused.parameters()]
    assert [p.data for p in own.parameters()] == weights

    losses = trained(own)
    assert losses == pytest.approx(trained(fused), rel=TRAINED)
    assert losses[-1] < losses[0]
    assert [p.data for p in own.parameters()] == pytest.approx([p.data for p in fused.parameters()], rel=TRAINED, abs=TRAINED)
    assert [p.grad for p in own.parameters()] == pytest.approx([p.grad for p in fused.parameters()], rel=TRAINED, abs=TRAINED)


def test_a_users_own_layer_gives_a_list_as_mingrad_nn_does():
    random.seed(7)
    own = OwnMLP(3, [4, 2])
    random.seed(7)
    fused = MLP(3, [4, 2])
    x = [Variable(1.0), 2.0, -0.5]
    outputs, fused_outputs = own(x), fused(x)
    assert [o.data for o in outputs] == pytest.approx([o.data for o in fused_outputs], rel=1e-15)
    assert all(isinstance(o, Variable) for o in fused_outputs)


def test_a_number_modulo_a_variable():  # PyTorch has no derivative for this one
    b = Variable(3.0)
    z = 7 % b
    z.backward()
    assert (z.data, b.grad) == (1.0, -2.0)
