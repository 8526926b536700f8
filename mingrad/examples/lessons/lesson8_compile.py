# %% [markdown]
# # 8. Compile: record once, run without Python
#
# Run it: `python -m mingrad.examples.lessons.lesson8_compile`, or open it as a notebook.
#
# Plain Python is a fine language for formulas, and most of its time goes into being Python. `mingrad.compile` runs your function
# once, keeps what was computed, and from then on computes only that.

# %%
import random

import mingrad
from mingrad import Variable
from mingrad.examples import moons
from mingrad.examples.lessons import Scalar, figures, seconds
from mingrad.visualize import plot_decision_boundary

show = figures("lesson8_compile", __name__)

# %% [markdown]
# ## A network of loops
#
# The neurons of lesson 3, eight of them and one on top, and the moons of lesson 4: a hundred points, and for each of them some
# loops over numbers.

# %%
X, Y = moons.load()
random.seed(5)
hidden = [[Variable(random.uniform(-1.0, 1.0)) for _ in range(3)] for _ in range(8)]
last = [Variable(random.uniform(-1.0, 1.0)) for _ in range(9)]
parameters = [v for neuron in [*hidden, last] for v in neuron]


def network(point: list[float]) -> Scalar:
    a, b = point
    seen = [mingrad.tanh(w[0] * a + w[1] * b + w[2]) for w in hidden]
    return sum(w * s for w, s in zip(last, seen)) + last[-1]


def loss() -> Scalar:
    return sum(mingrad.softplus(-y * network(point)) for point, y in zip(X, Y)) / len(X)


fast = mingrad.compile(loss)


def gradient(of: Scalar) -> list[float]:
    for p in parameters:
        p.zero_grad()
    of().backward()
    return [p.grad for p in parameters]


slow_gradient, fast_gradient = gradient(loss), gradient(fast)
assert fast().data == loss().data and fast_gradient == slow_gradient  # not nearly: the same bits
slow_time, fast_time = 1e3 * seconds(lambda: gradient(loss)), 1e3 * seconds(lambda: gradient(fast))
print(f"loss and gradient: plain {slow_time:.2f} ms, compiled {fast_time:.3f} ms, {slow_time / fast_time:.0f} times as fast")

# %% [markdown]
# What has it done with the loops? `summary()` tells: thousands of operations were recorded, and operations of one kind that stand
# side by side became one step over many numbers.

# %%
print("\n".join(fast.programs[0].summary().splitlines()[:4]))

# %% [markdown]
# So training may be written as plainly as in lesson 3.

# %%
for _ in range(600):
    for p, g in zip(parameters, gradient(fast)):
        p.data -= 2.0 * g
right = sum((network(point) > 0) == (y > 0) for point, y in zip(X, Y))
print(f"after 600 steps: loss {fast().data:.4f}, {right} of {len(X)} points right")
assert right >= 95

# %%
show(plot_decision_boundary, network, X, Y)

# %% [markdown]
# ## What if the function decides?
#
# A recording has one way through the function. So the questions that were asked on the way, `if x < 10`, are recorded with their
# answers, as **guards**. When an answer comes out otherwise, the function runs in Python again and another recording is made.


# %%
@mingrad.compile
def tax(income: Scalar) -> Scalar:
    if income < 10.0:
        return 0.0 * income
    return 0.3 * (income - 10.0)


for income in (5.0, 20.0, 8.0, 50.0):
    print(f"tax({income}) = {tax(income)}   recordings so far: {len(tax.programs)}")
assert len(tax.programs) == 2 and mingrad.grad(tax)(20.0) == 0.3 and mingrad.grad(tax)(5.0) == 0.0

# %% [markdown]
# What cannot be repeated is refused, and the message says what to do. Here somebody reads a number off a Variable, and what came
# of it would be frozen for ever:


# %%
@mingrad.compile
def wrong(x: Scalar) -> Scalar:
    return x * 2.0 if x.data > 0 else x


try:
    wrong(1.0)
    refused = ""
except mingrad.RecordingError as error:
    refused = str(error)
print(refused)
assert ".data" in refused

# %% [markdown]
# ## Many rows
#
# `vmap` runs a recording for whole arrays, blocks of rows through each operation. Rows that take another way are sorted out and
# run by the recording of theirs.

# %%
incomes = [0.001 * k for k in range(100_000)]
rows = mingrad.vmap(tax)
taxes = rows(incomes)
assert len(taxes) == 100_000 and all(abs(taxes[k] - tax(incomes[k])) < 1e-12 for k in range(0, 100_000, 7_000))
by_row = seconds(lambda: [tax(income) for income in incomes[:5_000]]) / 5_000
by_rows = seconds(lambda: rows(incomes)) / 100_000
print(f"a row at a time: {1e9 * by_row:.0f} ns a row;  by vmap: {1e9 * by_rows:.0f} ns a row")

# %% [markdown]
# And a recording can leave Python: `tax.programs[1].to_c("tax")` is a file of C that needs nothing but its compiler.

# %%
print(tax.programs[1].to_c("tax", gradient=False))

# %% [markdown]
# ## Exercises
#
# 1. Write `wrong` right. (One word goes.)
# 2. What does a compiled function give that asks `random.random()`? Guess, try, and then try `compile(f, check=True)`.
# 3. How many recordings does a loop need that runs `while x > 1: x = x / 2`, called with 3, 5 and 6?

# %%
corrected = mingrad.compile(lambda x: x * 2.0 if x > 0 else x)
assert (corrected(3.0), corrected(-3.0)) == (6.0, -3.0)

noisy = mingrad.compile(lambda x: x + random.random())
assert noisy(1.0) == noisy(1.0)  # the first number is part of the recording


@mingrad.compile
def halved(x: Scalar) -> Scalar:
    while x > 1:
        x = x / 2
    return x


assert [halved(3.0), halved(5.0), halved(6.0)] == [0.75, 0.625, 0.75] and len(halved.programs) == 2  # two turns, and three
