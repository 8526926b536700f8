# %% [markdown]
# # 1. A derivative: by hand, forward, backward
#
# Run it: `python -m mingrad.examples.lessons.lesson1_derivative`, or open it as a notebook.
#
# A derivative answers one question: *I move the input a little; how far does the output move, per unit of my movement?*
# In this lesson you find one in four ways, and they agree.

# %%
import math

from mingrad import Variable, derivative, jvp
from mingrad.examples.lessons import Scalar, figures
from mingrad.visualize import plot_tangent

show = figures("lesson1_derivative", __name__)


def f(x: Scalar) -> Scalar:
    return x**3 - 2 * x


print("f(2) =", f(2.0))

# %% [markdown]
# ## First way: nudge it
#
# Move x by a small h, and see. The smaller h, the better? Watch the last rows.

# %%
errors = {}
for k in range(1, 16, 2):
    h = 10.0**-k
    slope = (f(2.0 + h) - f(2.0)) / h
    errors[k] = abs(slope - 10.0)
    print(f"h = 1e-{k:02}   slope {slope:.12f}   off by {errors[k]:.0e}")

best = min(errors, key=errors.__getitem__)
print(f"best: h = 1e-{best:02}")
assert 1 < best < 15

# %% [markdown]
# At first each smaller h helps: the curve looks straighter from nearer. Then it gets worse. A float has about 16 digits,
# `f(2 + h)` and `f(2)` agree in most of them, and the subtraction keeps only the rest. Half of the digits is the best that
# nudging can do. It is fine for checking, and too poor for learning.
#
# ## Second way: the rules from school
#
# The derivative of x³ is 3x², that of 2x is 2. So f'(x) = 3x² - 2, and f'(2) = 10, with all its digits. But a person had to
# do it, and a program of a thousand lines has no formula that fits on paper.

# %%
print("f'(2) =", 3 * 2.0**2 - 2)

# %% [markdown]
# ## Third way: forward mode
#
# Let every number carry its slope with it. We start with x = 2, which moves by 1 when x moves by 1. Each operation makes a new
# number and, by the rule of that one operation, its slope.

# %%
x, dx = 2.0, 1.0
a, da = x**3, 3 * x**2 * dx
b, db = 2 * x, 2 * dx
y, dy = a - b, da - db
print("value", y, "slope", dy)

# `jvp` does the same to any function. (The name: Jacobian times vector.)
assert jvp(f, (2.0,), (1.0,)) == (y, dy) == (4.0, 10.0)

# %% [markdown]
# ## Fourth way: reverse mode
#
# Compute first, then walk back from the result. At every step ask: *how much does y move when this number moves?* For y itself
# that is 1. Each operation hands it on to its operands. x was used twice, so it receives twice, and what it receives adds up.

# %%
y_moves = 1.0
a_moves = y_moves * 1.0  # y = a - b
b_moves = y_moves * -1.0
x_moves = a_moves * 3 * x**2 + b_moves * 2  # a = x**3, b = 2 * x
print("y moves by", x_moves, "when x moves by 1")

# A Variable remembers what was done to it, and `backward()` takes that walk.
v = Variable(2.0)
f(v).backward()
assert v.grad == x_moves == 10.0

# %% [markdown]
# ## What it means
#
# The slope belongs to the line that touches the curve. Come near enough, and you cannot tell the two apart.

# %%
show(plot_tangent, f, 2.0, span=1.2)

# %% [markdown]
# ## A program is a function too
#
# Heron's square root is a loop that stops when it is good enough. It has no formula, but every turn is made of operations with
# known rules, and that is all that is needed. The true derivative is 1/(2√a).


# %%
def root(a: Scalar) -> Scalar:
    guess = a
    while abs(guess * guess - a) > 1e-12:
        guess = (guess + a / guess) / 2
    return guess


print("root(2) =", root(2.0), "  its derivative:", derivative(root)(2.0))
assert math.isclose(derivative(root)(2.0), 1 / (2 * math.sqrt(2.0)), rel_tol=1e-9)

# %% [markdown]
# ## Exercises
#
# 1. Where is the tangent of f flat? Solve f'(x) = 0 on paper, then ask `derivative(f)`.
# 2. Nudge to both sides: `(f(2 + h) - f(2 - h)) / (2 * h)`. Which h is best now, and how many digits do you get?
# 3. For which a is the derivative of `root` 1/4?
#
# Try before you read on: the next cell has the answers, and checks them.

# %%
flat = math.sqrt(2 / 3)
assert abs(derivative(f)(flat)) < 1e-15 and abs(derivative(f)(-flat)) < 1e-15

both_sides = {k: abs((f(2 + 10.0**-k) - f(2 - 10.0**-k)) / (2 * 10.0**-k) - 10.0) for k in range(1, 16)}
best = min(both_sides, key=both_sides.__getitem__)
print(f"to both sides: best h = 1e-{best:02}, off by {both_sides[best]:.0e}")

assert math.isclose(derivative(root)(4.0), 0.25)
