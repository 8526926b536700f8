# %% [markdown]
# # 9. When will I forget? A scheduler learns
#
# Run it: `python -m mingrad.examples.lessons.lesson9_scheduler`, or open it as a notebook.
#
# Programs for flash cards show a card again just before you would forget it. To do so they need a model of your memory, and the
# model has parameters. Nobody knows yours; but you have answered cards, and from the answers they can be learned. This is what
# the scheduler FSRS does with 21 parameters. Here you build a small one with three, then meet the real one.

# %%
import math
import random
from typing import Any, NamedTuple

import mingrad
from mingrad import Variable, hessian, nn, optim
from mingrad.examples import fsrs
from mingrad.examples.lessons import Scalar, figures
from mingrad.visualize import plot_loss, plot_loss_surface

show = figures("lesson9_scheduler", __name__)

# %% [markdown]
# ## Forgetting
#
# A memory has a **stability** S: the days until the chance to recall it has fallen to 90 %. The chance after t days follows a
# curve, steep at first and flat later. The scheduler works on plain numbers, so all of it is plain Python.


# %%
def recall(days: float, stability: Scalar) -> Scalar:
    return 1 / (1 + days / (9 * stability))


def after_review(stability: Scalar, days: float, known: bool, growth: Scalar, loss: Scalar) -> Scalar:
    """Stability grows when you knew it, the more the nearer you were to forgetting; else a part of it is left."""
    if known:
        return stability * (1 + growth * (1 - recall(days, stability)))
    return stability * loss


assert math.isclose(recall(5.0, 5.0), 0.9)
for days in (1, 5, 10, 30, 100):
    print(f"after {days:3} days: {recall(days, 5.0):.0%}")

# %% [markdown]
# ## A learner
#
# We invent one, so that we know the truth that is to be found: 300 cards, each reviewed six times, at random days. All that we
# keep is what an app would see: how many days, and known or not.


# %%
class Truth(NamedTuple):
    first: float = 3.0  # stability after the first look
    growth: float = 8.0
    loss: float = 0.3


rng = random.Random(9)
cards = []
for _ in range(300):
    stability: float = Truth().first
    reviews = []
    for _ in range(6):
        days = max(1, round(stability * rng.uniform(0.2, 6.0)))
        known = rng.random() < recall(days, stability)
        reviews.append((days, known))
        stability = after_review(stability, days, known, Truth().growth, Truth().loss)
    cards.append(reviews)
print("three cards:", *cards[:3], sep="\n  ")

# %% [markdown]
# ## Learning from answers
#
# A model that gives the chance p to an answer that came true shall have p near 1. The loss is the mean of -log p over all answers.
# The parameters are positive, and it is their size that matters: so we learn their logarithms.


# %%
def answers(p: list[Scalar]) -> Scalar:
    first, growth, loss = (mingrad.exp(logarithm) for logarithm in p)
    chances, came = [], []
    for reviews in cards:
        stability = first
        for days, known in reviews:
            chances.append(recall(days, stability))
            came.append(float(known))
            stability = after_review(stability, days, known, growth, loss)
    return nn.binary_cross_entropy(chances, came)


parameters = [Variable(0.0), Variable(0.0), Variable(-1.0)]
optimizer = optim.Adam(parameters, lr=0.1)
losses = []
for _ in range(100):
    optimizer.zero_grad()
    loss = answers(parameters)
    loss.backward()
    optimizer.step()
    losses.append(loss.data)
found = [math.exp(p.data) for p in parameters]
at_truth = answers([math.log(value) for value in Truth()])
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}; that of the truth: {float(at_truth):.4f}")
assert losses[-1] <= float(at_truth) + 1e-6  # it may be a little better on these very answers

# %%
show(plot_loss, losses)

# %% [markdown]
# ## How sure are we?
#
# 1800 answers do not say everything. Where the loss rises steeply around the best parameters, they are known well; the second
# derivatives say how steeply (lesson 6). The inverse of the Hessian of the summed loss has the squares of the uncertainties.


# %%
def inverse(matrix: list[list[float]]) -> list[list[float]]:
    """By Gauss and Jordan, for small matrices of this kind."""
    n = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        rows[i] = [number / rows[i][i] for number in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i])]
    return [row[n:] for row in rows]


count = sum(map(len, cards))
curvature = hessian(answers)([p.data for p in parameters])
covariance = inverse([[count * entry for entry in row] for row in curvature])
for name, value, truth, k in zip(Truth._fields, found, Truth(), range(3)):
    spread = math.sqrt(covariance[k][k])
    off = abs(math.log(value / truth)) / spread
    print(f"{name:7} found {value:6.3f}, give or take {spread:.0%};  truth {truth:5.2f}, off by {off:.1f} of that")
    assert off < 3.0


# %%
def valley() -> Any:
    directions = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    fast = mingrad.compile(lambda: answers(parameters))  # lesson 8
    ax = plot_loss_surface(fast, parameters, directions=directions)
    ax.set(xlabel="logarithm of first, from what was found", ylabel="logarithm of growth")
    return ax


show(valley)

# %% [markdown]
# ## The real one
#
# The package `fsrs` has 21 parameters: how a first rating sets the stability, what a difficulty is, how forgetting resets it. Its
# class was written for floats, and for PyTorch where it is trained. mingrad takes PyTorch's place, and not a line of it is changed.
# The reviews are again those of invented learners; `python -m mingrad.examples.fsrs` does the same on more of them.

# %%
try:
    histories, true = fsrs.simulate(reviews=6000)
    epochs = [fsrs.mean_loss(histories, fsrs.defaults())]
    trained = fsrs.train_compiled(histories, epochs=5)
    epochs += trained.epochs
    print(f"{sum(map(len, histories))} reviews; loss {epochs[0]:.4f} with the package's parameters, then", end=" ")
    print(", ".join(f"{mean:.4f}" for mean in trained.epochs))
    assert min(trained.epochs) < epochs[0]
    for meaning, value, truth in list(zip(fsrs.MEANINGS, trained.parameters, true))[:4]:
        print(f"  {meaning:55} {value:8.3f}   truth {truth:8.3f}")
except ImportError as error:
    print(f"(left out: {error})")

# %% [markdown]
# ## Exercises
#
# 1. When should a card be shown again, if it shall be known with a chance of 80 %? Solve `recall` for the days.
# 2. Drop half of the cards. What happens to the uncertainties? (Think first: by what factor?)
# 3. Let `first` depend on the card: two kinds of cards, easy and hard, with a parameter each. How do you simulate it? Is it found?


# %%
def due(stability: float, chance: float) -> float:
    return 9 * stability * (1 / chance - 1)


assert math.isclose(recall(due(7.0, 0.8), 7.0), 0.8)

cards = cards[::2]
half = inverse([[count / 2 * entry for entry in row] for row in hessian(answers)([p.data for p in parameters])])
print("with half of the cards:", *(f"{math.sqrt(half[k][k] / covariance[k][k]):.2f}" for k in range(3)), "times as uncertain")
assert all(1.2 < math.sqrt(half[k][k] / covariance[k][k]) < 1.7 for k in range(3))  # about the square root of 2
