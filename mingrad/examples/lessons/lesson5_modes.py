# %% [markdown]
# # 5. Forward against reverse: what they cost
#
# Run it: `python -m mingrad.examples.lessons.lesson5_modes`, or open it as a notebook.
#
# Both modes give the same numbers. Which one you want is a question of shape: how many numbers go in, how many come out?
# Here it is measured, on your machine.

# %%
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mingrad import grad, hvp, jacfwd, jacrev, jvp, sin, tape_info, vjp
from mingrad.examples.lessons import Scalar, figures, seconds
from mingrad.visualize import plot_loss

show = figures("lesson5_modes", __name__)

# %% [markdown]
# ## Many numbers in, one out
#
# A loss has this shape. Forward mode asks what happens when *one* input moves; for all of n inputs it has to ask n times. Reverse
# mode asks what moves the *one* output, and gets all answers in a single walk.

# %%
calls = 0


def f(x: list[Scalar]) -> Scalar:
    global calls
    calls += 1
    return sum(sin(a * b) for a, b in pairwise(x)) + x[0] * x[-1]


def unit(n: int, k: int) -> list[float]:
    return [float(j == k) for j in range(n)]


def forward_gradient(x: list[float]) -> list[float]:
    return [jvp(f, (x,), (unit(len(x), k),))[1] for k in range(len(x))]


x = [0.1 * k for k in range(8)]
forward, forward_calls, calls = forward_gradient(x), calls, 0
backward, backward_calls = grad(f)(x), calls
print("forward mode ran f", forward_calls, "times, reverse mode", backward_calls)
assert (forward_calls, backward_calls) == (8, 1)
assert all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(forward, backward))


# %%
def measured(n: int) -> tuple[float, float, float]:
    """Microseconds for f on n floats, and for its gradient in each mode."""
    x = [0.01 * k for k in range(n)]
    times = seconds(lambda: f(x)), seconds(lambda: forward_gradient(x), 2), seconds(lambda: grad(f)(x))
    alone, forward, reverse = (1e6 * time for time in times)
    print(f"{n:4} {alone:12.1f} {forward:11.1f} {reverse:11.1f}")
    return alone, forward, reverse


sizes = [4, 8, 16, 32, 64, 128]
print("   n      f alone     forward     reverse   (microseconds)")
_alone, by_forward, by_reverse = zip(*map(measured, sizes))


# %%
def costs() -> Any:
    lists: dict[str, Sequence[float]] = {"epoch": sizes, "forward mode": by_forward, "reverse mode": by_reverse}
    ax = plot_loss(lists, names=["forward mode", "reverse mode"])
    ax.set(xlabel="numbers that f takes", ylabel="microseconds for its gradient", xscale="log", yscale="log")
    return ax


show(costs)

# %% [markdown]
# Both axes are logarithmic. Reverse mode grows as f does: a gradient costs a few times f, **whatever the number of inputs**.
# Forward mode grows by n times f. A network has thousands of inputs, its parameters, and one loss. So training goes backward.
#
# ## One number in, many out
#
# Turn the shape round, and all is turned round: the path of a ball by time, prices by one interest rate. Now forward mode gets
# everything at once, and reverse mode has to walk back from every output.


# %%
def g(t: Scalar) -> list[Scalar]:
    return [sin(k * t) for k in range(1, 65)]


values, slopes = jvp(g, (0.3,), (1.0,))
_, pull = vjp(g, 0.3)
walks = [pull(unit(64, k))[0] for k in range(64)]
assert all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(slopes, walks))
assert all(math.isclose(a, k * math.cos(k * 0.3), rel_tol=1e-12) for k, a in enumerate(slopes, 1))
one_jvp = 1e6 * seconds(lambda: jvp(g, (0.3,), (1.0,)))
all_walks = 1e6 * seconds(lambda: [pull(unit(64, k)) for k in range(64)])
print(f"64 outputs: forward {one_jvp:.0f} microseconds, reverse {all_walks:.0f}")

# %% [markdown]
# ## What reverse mode has to keep
#
# The walk back needs the numbers of the way there, so they are kept until it is done: memory grows with the length of the
# computation. Forward mode as in lesson 1 needs two numbers at a time. (mingrad's `jvp` records as well, and then sweeps upward.)

# %%
before = tape_info().recorded
grad(f)([0.1 * k for k in range(1000)])
recorded = tape_info().recorded - before
print("nodes recorded for the gradient of 1000 inputs:", recorded)
assert recorded > 3 * 1000

# %% [markdown]
# ## Both together
#
# The second derivatives of a loss are n² numbers. But the *product* of that matrix with a vector is forward mode over reverse
# mode, one of each: a few gradients' cost, for any n. Lesson 6 uses it.

# %%
x, direction = [0.01 * k for k in range(128)], unit(128, 3)
ratio = seconds(lambda: hvp(f, (x,), (direction,))) / seconds(lambda: grad(f)(x))
print(f"a Hessian-vector product of 128 inputs costs {ratio:.1f} gradients")

# %% [markdown]
# ## Exercises
#
# 1. A function takes 3 numbers and gives 1000. Which mode gives its whole matrix of derivatives with less work?
# 2. `jacfwd` and `jacrev` compute that matrix. Do they agree on `lambda x: [x[0] * k + x[1] for k in range(5)]`?
# 3. How many walks has `jacobian` of a function from 1000 numbers to 2?


# %%
def h(x: list[Scalar]) -> list[Scalar]:
    return [x[0] * k + x[1] for k in range(5)]


assert jacfwd(h)([1.0, 2.0]) == jacrev(h)([1.0, 2.0]) == [[float(k), 1.0] for k in range(5)]
# 1: forward, 3 sweeps instead of 1000.  3: two, backward.
