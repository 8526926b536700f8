# %% [markdown]
# # 4. Two moons
#
# Run it: `python -m mingrad.examples.lessons.lesson4_moons`, or open it as a notebook.
#
# A hundred points in two half-moons, a network of 337 parameters, and the question that matters: is it right about points that
# it has never seen?

# %%
import random

from mingrad import nn, no_grad, optim
from mingrad.examples import moons
from mingrad.examples.lessons import figures
from mingrad.visualize import plot_decision_boundary, plot_gradients, plot_loss, plot_loss_surface

show = figures("lesson4_moons", __name__)

points, classes = moons.load()
order = random.Random(1).sample(range(100), 100)
X, Y = [points[k] for k in order[:75]], [classes[k] for k in order[:75]]
unseen_X, unseen_Y = [points[k] for k in order[75:]], [classes[k] for k in order[75:]]
print(len(X), "points to learn from,", len(unseen_X), "kept back")

# %% [markdown]
# ## A loss that can be descended
#
# What we want is accuracy, but accuracy is a bad guide: move a weight a little and it does not change at all, its derivative is
# 0. The **hinge loss** asks for more than the right side. It is 0 for a point that is on its side by a margin of 1, and grows
# evenly from there: `max(0, 1 - y * score)`.


# %%
def accuracy(model: nn.MLP, X: list[list[float]], Y: list[float]) -> float:
    with no_grad():
        right: int = sum((score > 0) == (y > 0) for score, y in zip(model(X), Y))
    return right / len(Y)


random.seed(1337)
model = nn.MLP(2, [16, 16, 1])
loss = nn.hinge_loss(model(X), Y)
loss.backward()
print(f"{len(model.parameters())} parameters, loss {loss.data:.3f}, accuracy {accuracy(model, X, Y):.0%}")

# %% [markdown]
# Before the first step, look at the gradients. Each row is a layer, on one scale. If one of them had nothing but zeros, or numbers
# a thousand times those of the others, now would be the time to see it.

# %%
show(plot_gradients, model)

# %% [markdown]
# ## Training
#
# The loop of lesson 3, with an optimiser for its last line: Adam gives each parameter a step of its own size.

# %%
optimizer = optim.Adam(model.parameters(), lr=0.02)
losses = []
for _ in range(120):
    optimizer.zero_grad()
    loss = nn.hinge_loss(model(X), Y)
    loss.backward()
    optimizer.step()
    losses.append(loss.data)
print(f"loss {losses[0]:.3f} -> {losses[-1]:.4f}")
print(f"accuracy {accuracy(model, X, Y):.0%}, on the points it has never seen {accuracy(model, unseen_X, unseen_Y):.0%}")
assert accuracy(model, X, Y) == 1.0 and accuracy(model, unseen_X, unseen_Y) >= 0.92

# %%
show(plot_loss, losses)

# %% [markdown]
# What it learned, with the points it has not seen. The darker, the surer. Far from all points it is sure of itself without any
# reason: nothing has told it otherwise. Keep this in mind when a model answers.

# %%
show(plot_decision_boundary, model, unseen_X, unseen_Y)

# %% [markdown]
# ## The valley
#
# 337 parameters are 337 directions. Take two at random and compute the loss all over that plane: training has brought us to the
# cross. The parameters come back from this with all their bits.

# %%
before = [p.data for p in model.parameters()]
show(plot_loss_surface, lambda: nn.hinge_loss(model(X), Y), model)

# %%
assert [p.data for p in model.parameters()] == before

# %% [markdown]
# ## Exercises
#
# 1. Learn from 10 points only. What is the accuracy on the other 90?
# 2. Take the hidden layers away (`nn.MLP(2, [1])`). How good can a straight line be?
# 3. Turn the labels of five points round. How do boundary and loss change, and is the accuracy on the others still good?

# %%


def trained(sizes: list[int], count: int) -> tuple[float, float]:
    """Accuracy on the first points, after learning from them, and on the others."""
    random.seed(1)
    model = nn.MLP(2, sizes)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    X, Y = [points[k] for k in order], [classes[k] for k in order]
    for _ in range(120):
        optimizer.zero_grad()
        nn.hinge_loss(model(X[:count]), Y[:count]).backward()
        optimizer.step()
    return accuracy(model, X[:count], Y[:count]), accuracy(model, X[count:], Y[count:])


few, line = trained([16, 16, 1], 10), trained([1], 75)
print(f"from 10 points: {few[0]:.0%} of them right, {few[1]:.0%} of the others")
print(f"a straight line: {line[0]:.0%} of 75, {line[1]:.0%} of the others")
assert few[0] == 1.0 and few[1] < 1.0 and line[0] < 0.95
