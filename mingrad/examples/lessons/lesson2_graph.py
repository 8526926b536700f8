# %% [markdown]
# # 2. The graph and the chain rule
#
# Run it: `python -m mingrad.examples.lessons.lesson2_graph`, or open it as a notebook.
#
# Lesson 1 walked back through three operations. Here we look at what is walked on, and why the walk is right.

# %%
import math
from itertools import pairwise

import mingrad
from mingrad import Variable
from mingrad.visualize import trace

x, y = Variable(0.5, label="x"), Variable(2.0, label="y")
p = x * y
p.label = "p"
e = mingrad.exp(p)
e.label = "e"
z = e + p * x
z.label = "z"
print("z =", z.data)

# %% [markdown]
# Each operation made a **node**: it knows its value, its operation and its operands. Together they are a graph without circles,
# since nobody can be made of what comes after. `trace` lists it, operands before the nodes that use them.

# %%
nodes, edges = trace(z)
for node in nodes:
    operands = [operand.label or operand._op for operand in node._prev]
    print(f"{node.label or '(no label)':10} {node._op or 'leaf':5} {node.data:8.4f}   made of {operands}")
assert (len(nodes), len(edges)) == (6, 7)

# %% [markdown]
# `tree` draws it as text, from the result down to what it is made of. (A notebook draws a Variable that a cell ends in. Try `z`.)

# %%
print(mingrad.tree(z))

# %% [markdown]
# ## One edge
#
# An edge has a **local derivative**: how much does this node move when that operand alone moves? For `p = x * y` it is y for x,
# and x for y. One operation knows its own; it need not know what it is part of. `backward_steps()` is the backward pass in
# slow motion: in each step one node gives to one operand.

# %%
local = {}  # (user, operand): local derivative
for step in z.backward_steps():
    if step.user is not None and step.partial is not None:
        local[step.user, step.node] = step.partial
        user, operand = (node.label or node._op for node in (step.user, step.node))
        print(f"{user} gives {operand}: {step.adjoint:.4f} * {step.partial:.4f} = {step.contribution:.4f}")
assert local[p, x] == y.data and local[p, y] == x.data
assert local[e, p] == e.data  # exp is its own derivative

# %% [markdown]
# ## All paths
#
# The **chain rule**: along a path, local derivatives multiply. When x moves by 1, p moves by y; when p moves by 1, e moves by
# exp(p); so along x → p → e → z, z moves by the product. Where several paths lead from x to z, their products **add up**.


# %%
def paths(node: Variable, way: tuple[Variable, ...] = ()) -> list[tuple[Variable, ...]]:
    """All ways from z to x that go on from this node."""
    way = (*way, node)
    if node is x:
        return [way]
    return [found for operand in node._prev for found in paths(operand, way)]


total = 0.0
for way in paths(z):
    product = math.prod(local[user, operand] for user, operand in pairwise(way))
    total += product
    print(" <- ".join(node.label or node._op for node in way), f"  product {product:.4f}")

z.backward()
print(f"sum {total:.4f}, backward() says {x.grad:.4f}")
assert math.isclose(total, x.grad)

# %% [markdown]
# ## Why backward() does not count paths
#
# Let a number be added to itself twenty times over. The graph has 21 nodes, and a million paths lead through it. But each node
# needs to hear only once how much z moves with it, when all its users have spoken. That is the whole trick of reverse mode:
# **one visit for each node**, users before operands. The work is that of the computation itself, a few times over.

# %%
doubled = start = Variable(1.0)
for _ in range(20):
    doubled = doubled + doubled
visited = sum(1 for _ in doubled.backward_steps())
doubled.backward()
print("paths:", 2**20, "  nodes:", len(trace(doubled)[0]), "  additions made:", visited, "  gradient:", start.grad)
assert start.grad == 2**20 and visited == 41

# %% [markdown]
# ## The same, written out
#
# For small graphs `explain` writes the whole chain rule, with formulas and numbers. Find the three products of above in it.

# %%
print(mingrad.explain(z))

# %% [markdown]
# Gradients of leaves add up from one `backward()` to the next, as they add up from path to path. That is useful (a batch in
# parts), and it is why training loops begin a step with `zero_grad()`.

# %%
once = x.grad
z.backward()
assert x.grad == 2 * once
x.zero_grad()
assert x.grad == 0.0

# %% [markdown]
# ## Exercises
#
# 1. On paper: what does `backward()` give for x in `x * x * x` at x = 2? How many paths are there, and what is each product?
# 2. Build `d = (x + y) * (x - y)` and find both gradients by paths.
# 3. Is there a graph in which an operand's contribution is 0 although it was used? (Think of `relu`, or of `x - x`.)

# %%
u = Variable(2.0)
(u * u * u).backward()
assert u.grad == 3 * (2.0 * 2.0)  # three paths, each the product of the two other factors

u, w = Variable(3.0), Variable(1.0)
((u + w) * (u - w)).backward()
assert u.grad == (u.data - w.data) + (u.data + w.data) and w.grad == (u.data - w.data) - (u.data + w.data)

u = Variable(-1.0)
u.relu().backward()
assert u.grad == 0.0  # relu is flat there; and in x - x the contributions 1 and -1 cancel
(u - u).backward()
assert u.grad == 0.0
