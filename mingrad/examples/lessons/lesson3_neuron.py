# %% [markdown]
# # 3. A neuron and a network, by hand
#
# Run it: `python -m mingrad.examples.lessons.lesson3_neuron`, or open it as a notebook.
#
# A neuron multiplies each input with a weight, adds up, adds a bias, and squashes the sum. You will write one, see what it
# cannot learn, and put three together into a network that can.

# %%
import math
import random
from collections.abc import Callable, Sequence

import mingrad
from mingrad import Variable, nn
from mingrad.examples.lessons import Scalar, figures
from mingrad.visualize import plot_decision_boundary, plot_loss

show = figures("lesson3_neuron", __name__)


def neuron(w: Sequence[Scalar], b: Scalar, x: Sequence[Scalar]) -> Scalar:
    return mingrad.tanh(sum(wi * xi for wi, xi in zip(w, x)) + b)


w, b, x = [Variable(0.5), Variable(-1.0)], Variable(0.25), [2.0, 1.0]
out = neuron(w, b, x)
out.backward()
print("out:", out.data, "  gradients:", [v.grad for v in w], b.grad)

# %% [markdown]
# On paper: tanh has the slope 1 - tanh², the sum moves by x with a weight and by 1 with the bias. So the gradient of a weight
# is `(1 - out²) * x`. Note what that says: a weight whose input is large learns fast, and a neuron whose output is near -1 or 1
# hardly learns at all, since its curve is flat there.

# %%
slope = 1 - out.data**2
for v, moves in zip([*w, b], [slope * x[0], slope * x[1], slope]):
    assert math.isclose(v.grad, moves)

# %% [markdown]
# ## A task: one or the other, but not both
#
# Four points, the answer 1 where the inputs differ, -1 where they agree. **Learning** is a loop of four lines: compute the loss,
# forget old gradients, go backward, move each parameter a little against its gradient.

# %%
X = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
Y = [-1.0, 1.0, 1.0, -1.0]


def train(model: Callable[[list[float]], Scalar], parameters: list[Variable], steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = sum((model(xi) - yi) ** 2 for xi, yi in zip(X, Y)) / len(X)
        for p in parameters:
            p.zero_grad()
        loss.backward()
        for p in parameters:
            p.data -= 0.3 * p.grad
        losses.append(loss.data)
    return losses


losses = train(lambda xi: neuron(w, b, xi), [*w, b], 300)
print(f"one neuron: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
assert losses[-1] > 0.9

# %% [markdown]
# It fails, and no training helps: a neuron's boundary is a straight line, and no line has these corners on their right sides.
# The best it can do is to answer 0 everywhere, a loss of 1.
#
# ## Three neurons
#
# Two neurons look at the inputs, a third looks at the two. Their weights start at random: neurons that start alike would receive
# the same gradients and stay alike for ever.

# %%
random.seed(4)


def weights(n: int) -> list[Variable]:
    return [Variable(random.uniform(-1.0, 1.0)) for _ in range(n)]


hidden = [(weights(2), Variable(0.0)) for _ in range(3)]
last = (weights(3), Variable(0.0))


def network(xi: Sequence[Scalar]) -> Scalar:
    return neuron(*last, [neuron(*each, xi) for each in hidden])


parameters = [p for w, b in [*hidden, last] for p in [*w, b]]
losses = train(network, parameters, 300)
print(f"the network of {len(parameters)} parameters: loss {losses[0]:.3f} -> {losses[-1]:.4f}")
for xi, yi in zip(X, Y):
    print(xi, "should be", yi, "is", round(network(xi).data, 2))
assert losses[-1] < 0.05

# %%
show(plot_loss, losses)

# %%
show(plot_decision_boundary, network, X, Y)

# %% [markdown]
# The plane is bent: the hidden neurons draw a line each, and the last one combines their sides.
#
# ## The same with mingrad.nn
#
# `nn.MLP` is that network with any number of layers, computed layer by layer in C. We give it our numbers, and it gives our
# answers.

# %%
mlp = nn.MLP(2, [3, 1], nonlin=True, activation="tanh")
assert len(mlp.parameters()) == len(parameters)
for theirs, ours in zip(mlp.parameters(), parameters):
    theirs.data = ours.data
for xi in X:
    assert abs(mlp(xi).data - network(xi).data) < 1e-12

# %% [markdown]
# ## Exercises
#
# 1. With all weights 0 at the start, which gradients of `network` are 0? Guess, then look.
# 2. Two hidden neurons can be enough. Find weights for them by thinking: one neuron for "at least one", one for "both".
# 3. Replace tanh in the hidden neurons by nothing at all. What can the network learn then?

# %%
for p in parameters:
    p.data = p.grad = 0.0
((network([1.0, 0.0]) - 1.0) ** 2).backward()
assert [p.grad != 0.0 for p in parameters] == [False] * 12 + [
    True
]  # only the last bias: all else is multiplied with a weight 0

at_least_one, both = ([20.0, 20.0], -10.0), ([20.0, 20.0], -30.0)
thought = [neuron([10.0, -10.0], -10.0, [neuron(*at_least_one, xi), neuron(*both, xi)]) for xi in X]
assert [round(answer) for answer in thought] == Y

# 3: no more than one neuron can, as a sum of sums is a sum.
