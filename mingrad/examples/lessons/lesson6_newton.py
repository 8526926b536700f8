# %% [markdown]
# # 6. Second derivatives, and Newton
#
# Run it: `python -m mingrad.examples.lessons.lesson6_newton`, or open it as a notebook.
#
# The first derivative says which way is down. The second says how the slope itself changes, and so how far to go.

# %%
import math
from itertools import pairwise
from typing import Any

from mingrad import Variable, derivative, exp, grad, hessian, hvp
from mingrad.examples.lessons import Scalar, figures
from mingrad.visualize import plot_loss_surface, plot_tangent

show = figures("lesson6_newton", __name__)


def f(x: Scalar) -> Scalar:
    return exp(x) - 2 * x


first, second = derivative(f), derivative(f, 2)
print("at 0: f' =", first(0.0), " f'' =", second(0.0), "  and the hundredth:", derivative(f, 100)(0.0))
assert (first(0.0), second(0.0), derivative(f, 100)(0.0)) == (-1.0, 1.0, 1.0)

# %% [markdown]
# ## Two ways down
#
# The lowest point of f is where exp(x) = 2, at the logarithm of 2. **Gradient descent** goes against the slope, by a step size
# that somebody has to choose. **Newton's step** asks where the slope, continued straight, becomes 0: at x - f'(x) / f''(x).

# %%
goal = math.log(2.0)
x = y = 0.0
print("step   gradient descent   Newton    (distance from the goal)")
for step in range(1, 7):
    x -= 0.3 * first(x)
    y -= first(y) / second(y)
    print(f"{step:4} {abs(x - goal):18.1e} {abs(y - goal):8.1e}")
assert abs(y - goal) < 1e-15 and abs(x - goal) > 1e-3

# %% [markdown]
# Look at the exponents: descent gains a digit every few steps, Newton **doubles** its digits at each. The picture shows a step: the
# tangent of f' at 0 meets the grey line at 1, and that is the next x. The curve itself meets it at the goal.


# %%
def newton_picture() -> Any:
    ax = plot_tangent(first, 0.0, span=1.2)
    ax.axhline(0.0, color="grey", linewidth=0.8)
    ax.plot([1.0, goal], [0.0, 0.0], "k.")
    return ax


show(newton_picture)

# %% [markdown]
# ## Two dimensions: a curved valley
#
# Rosenbrock's function has its lowest point at (1, 1), in a narrow, bent valley. The second derivatives are now a matrix, the
# **Hessian**, and Newton's step solves a system of equations with it.


# %%
def valley(p: list[Scalar]) -> Scalar:
    x, y = p
    return 10 * (y - x * x) ** 2 + (1 - x) ** 2


def newton_step(p: list[float]) -> list[float]:
    (gx, gy), ((a, b), (c, d)) = grad(valley)(p), hessian(valley)(p)
    assert b == c  # the order of two derivatives does not matter
    determinant = a * d - b * c
    return [p[0] - (d * gx - b * gy) / determinant, p[1] - (a * gy - c * gx) / determinant]


way = [[-1.2, 1.0]]
for step in range(7):
    way.append(newton_step(way[-1]))
    print(f"Newton, step {step + 1}: ({way[-1][0]:+.6f}, {way[-1][1]:+.6f})  f = {valley(way[-1]):.1e}")
assert valley(way[-1]) < 1e-12

slow = [[-1.2, 1.0]]
while valley(slow[-1]) > 1e-6:
    slow.append([a - 0.01 * g for a, g in zip(slow[-1], grad(valley)(slow[-1]))])
print("gradient descent to f < 1e-6:", len(slow) - 1, "steps")
assert len(slow) > 500


# %%
def ways() -> Any:
    x, y = Variable(0.0), Variable(0.0)
    ax = plot_loss_surface(lambda: valley([x, y]), [x, y], directions=[(1, 0), (0, 1)], span=2.0, steps=81)
    ax.lines[0].remove()  # the cross at (0, 0)
    ax.plot(*zip(*slow), color="orange", label=f"descent, {len(slow) - 1} steps")
    ax.plot(*zip(*way), "o-", color="red", markersize=4, label=f"Newton, {len(way) - 1} steps")
    ax.set(xlabel="x", ylabel="y")
    ax.legend(loc="lower right")
    return ax


show(ways)

# %% [markdown]
# Newton's second point is far up the wall: it trusts its straight continuation too far, and comes back at the next step. Real
# methods hold it on a leash; `mingrad.minimize` gives such methods of SciPy exact derivatives.
#
# ## Without the matrix
#
# For n numbers the Hessian has n² entries. Often its product with a vector is enough, and that costs a few gradients (lesson 5).


# %%
def chain(x: list[Scalar]) -> Scalar:
    return sum((b - a * a) ** 2 for a, b in pairwise(x))


x500 = [0.002 * k for k in range(500)]
v = [float(k % 3) for k in range(500)]
product = hvp(chain, (x500,), (v,))
rows, columns, entries = hessian(chain, sparse=True)(x500)
print("entries of the Hessian that are not 0:", len(entries), "of", 500 * 500)

by_matrix = [0.0] * 500
for i, j, entry in zip(rows, columns, entries):
    by_matrix[i] += entry * v[j]
assert all(math.isclose(p, q, rel_tol=1e-9, abs_tol=1e-12) for p, q in zip(product, by_matrix))

# %% [markdown]
# ## Exercises
#
# 1. Find the square root of 2 with Newton's steps on x² - 2 = 0. (Here the *function* shall be 0, so a step is f / f'.) Which old
#    friend from lesson 1 is it?
# 2. Start Newton's steps for the lowest point of `x**4 - 2 * x**2` at 0.1. Where do they go, and why is it no lowest point?
# 3. What is the Hessian of `valley` at (1, 1)? Compute it on paper first.


# %%
def square(x: Scalar) -> Scalar:
    return x * x - 2.0


def bump(x: Scalar) -> Scalar:
    return x**4 - 2 * x**2


x, heron = 1.5, 1.5
for _ in range(5):
    x, heron = x - square(x) / derivative(square)(x), (heron + 2.0 / heron) / 2
assert math.isclose(x, heron) and math.isclose(x, math.sqrt(2.0))

x = 0.1
for _ in range(6):
    x -= derivative(bump)(x) / derivative(bump, 2)(x)
assert abs(x) < 1e-12 and derivative(bump, 2)(x) < 0.0  # the top of the bump: its slope is 0 too

assert hessian(valley)([1.0, 1.0]) == [[82.0, -40.0], [-40.0, 20.0]]
