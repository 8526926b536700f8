# %% [markdown]
# # 7. How the tape works
#
# Run it: `python -m mingrad.examples.lessons.lesson7_tape`, or open it as a notebook.
#
# Where does the graph live? Not in Python: the nodes stand one after the other in arrays of C, on the **tape**. `tape_info()`
# counts them. Nobody needs to know this to use mingrad; it explains why things are fast, and what keeps memory.

# %%
from typing import Any

import mingrad
from mingrad import Variable, collect, no_grad, tape_info
from mingrad.examples.lessons import figures
from mingrad.visualize import plot_loss

show = figures("lesson7_tape", __name__)

before = tape_info()
x, y = Variable(3.0, label="x"), Variable(4.0, label="y")
z = x * y + 1.0
after = tape_info()
print("nodes recorded:", after.recorded - before.recorded, "  Variables for them:", after.handles - before.handles)
assert (after.recorded - before.recorded, after.handles - before.handles) == (4, 3)

# %% [markdown]
# Four nodes: x, y, `x * y`, and the sum. (The number 1.0 is no node, it is written beside the addition.) But only three Variables:
# nobody holds the product, so it has none. A **Variable is a handle**, a small Python object that knows the number of its node.
# The node itself has a value, a gradient, an operation and the numbers of its operands.
#
# ## How much is a node?
#
# A chain of 200,000 operations, each made of the one before.

# %%
end = start = Variable(1.0)
for _ in range(200_000):
    end = end * 0.9999 + 1e-6
info = tape_info()
print(
    f"{info.nodes:,} nodes on the tape, {info.live:,} of them can be reached; room for {info.capacity:,} in {info.bytes:,} bytes"
)
print(f"that is {info.bytes / info.capacity:.1f} bytes a node")
assert 40 <= info.bytes / info.capacity < 48

# %% [markdown]
# In micrograd a node is a Python object with a set and a function of its own, and the order of the nodes is found by a function
# that calls itself, for which a chain of a thousand is too deep. Here the tape *is* the order: an operand is always older than
# what is made of it, so backward just walks down the numbers.

# %%
end.backward()
print("through 400,000 nodes:", start.grad)
assert abs(start.grad - 0.9999**200_000) < 1e-15

# %% [markdown]
# ## Who keeps a node alive?
#
# A node is needed while its Variable lives, or a needed node is made of it. `end` keeps the whole chain. Let go of it and the chain
# goes: what lies dead on top of the tape is popped at once.

# %%
held = tape_info().live
del end
freed = held - tape_info().live
print(f"nodes let go of with one Variable: {freed:,}")
assert freed == 400_000

# %% [markdown]
# Dead nodes below living ones wait. When 131,072 new nodes have come, the **collector** slides the living together over the dead.
# It is the tape's own, Python's has nothing to do with it. So a loop may run for ever, and no tape is ever reset by hand. Watch it:
# each round of the loop leaves one node that is needed and 20 that are not.

# %%
collect()
begun, kept, nodes = tape_info(), [], []
for turn in range(20_000):
    t = x * 2.0
    for _ in range(20):
        t = t + y
    kept.append(x * y)
    if turn % 100 == 0:
        nodes.append(tape_info().nodes - begun.nodes)
done = tape_info()
print(f"{done.recorded - begun.recorded:,} nodes recorded, at most {max(nodes):,} on the tape at once")
print("collections:", done.collections - begun.collections)
assert done.recorded - begun.recorded >= 20_000 * 22 and max(nodes) < 200_000 and done.live - begun.live <= 20_100


# %%
def saw() -> Any:
    ax = plot_loss({"epoch": range(0, 20_000, 100), "nodes": nodes}, names=["nodes"])
    ax.set(xlabel="rounds of the loop", ylabel="nodes on the tape", xticks=range(0, 20_001, 5_000))
    return ax


show(saw)

# %% [markdown]
# The line that the teeth stand on rises slowly: those are the nodes that `kept` holds.
#
# ## Computing without recording
#
# To use a model, no graph is needed. Inside `no_grad()` an operation gives a value that remembers nothing.

# %%
with no_grad():
    plain = x * y + 1.0
print("requires a gradient:", plain.requires_grad, "  made of:", plain._prev)
assert plain.data == 13.0 and not plain.requires_grad and not plain._prev

# %% [markdown]
# ## Right or loud
#
# The walk back reads the values of the way there. Write a leaf in between and they would not fit together: the gradient would be
# wrong without a word. The tape remembers when a leaf was written, and refuses.

# %%
x.data = 5.0
try:
    z.backward()
    refused = ""
except RuntimeError as error:
    refused = str(error)
print(refused)
assert refused and x.grad == 0.0

# %% [markdown]
# ## Exercises
#
# 1. How many nodes does `mingrad.sum(xs)` record for a list of 100 Variables, and how many does Python's `sum(xs)`?
# 2. And a neuron's sum, `mingrad.dot(w, x)`, beside `sum(wi * xi for wi, xi in zip(w, x))`?
# 3. Keep every loss of a training in a list: `losses.append(loss)`. What happens to memory? What should stand there instead?


# %%
def recorded(call: Any) -> int:
    before = tape_info().recorded
    result = call()
    assert result is not None
    return tape_info().recorded - before


xs, ws = ([Variable(float(k)) for k in range(100)] for _ in range(2))
assert recorded(lambda: mingrad.sum(xs)) == 1
assert recorded(lambda: sum(xs)) == 100
assert recorded(lambda: mingrad.dot(ws, xs)) == 1
assert recorded(lambda: sum(w * x for w, x in zip(ws, xs))) == 199  # products, and sums of two
# 3: each loss keeps the whole graph that it was computed by; loss.data is a number and keeps nothing.
