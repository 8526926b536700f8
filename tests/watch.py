"""What tests do to the core and how they watch it: stress it, see that a block leaves no trace, run
it by each instruction set; and how an op of the table is called.

Not a test file. helpers.py compares numbers and knows no engine; this file knows mingrad's hooks.
"""

import contextlib
import gc
import operator

import pytest

import mingrad
from mingrad import Variable, _core, nn


@contextlib.contextmanager
def stress(young, growth=1):
    """A young part of so many nodes (1: collect at every recording); arrays grow by so many."""
    before = _core._stress(young, growth)
    try:
        yield
    finally:
        _core._stress(*before)


def live_now():
    """Nodes that something holds, after a full collection. Variables here are in no cycles."""
    mingrad.collect()
    return mingrad.tape_info().live


def collects_always():
    """Whether this is a debug build, in which recording calls begin with a full collection."""
    before = mingrad.tape_info().full_collections
    kept = [Variable(0.0) for _ in range(100)]
    return mingrad.tape_info().full_collections - before > len(kept) // 10


@contextlib.contextmanager
def no_trace(leaves=()):
    """Fail if the block leaves a node on the tape or a Variable alive, or takes one away, or
    changes a leaf's data, grad or mode."""
    for k, leaf in enumerate(leaves):
        leaf.grad = 1.0 + k
    gc.disable()  # Variables that earlier tests left in reference cycles are not to die just now
    try:
        mingrad.collect()
        held = [(leaf.data, leaf.requires_grad) for leaf in leaves]
        before = mingrad.tape_info()
        yield
        after = mingrad.tape_info()
    finally:
        gc.enable()
    assert (after.nodes, after.live, after.handles) == (before.nodes, before.live, before.handles)
    assert [(leaf.data, leaf.requires_grad) for leaf in leaves] == held
    assert [leaf.grad for leaf in leaves] == [1.0 + k for k in range(len(leaves))]


def refuses(call, kind, text, leaves=()):
    """The call raises exactly this and changes nothing."""
    with no_trace(leaves):
        with pytest.raises(kind) as caught:
            call()
        said = str(caught.value)
        del caught  # it holds what the call held
    assert said == text


def same_by_each_instruction_set(run):
    """Fail unless run() gives the same with the kernels of each instruction set. Skips where there
    is only one."""
    before = _core._simd()
    try:
        _core._simd("avx2")
    except ValueError:
        pytest.skip("this processor or build has no avx2")
    try:
        expected = run()
        _core._simd("base")
        assert run() == expected
    finally:
        _core._simd(before)


# -- calling ops of the table by name --------------------------------------------------------------


def clamp_min(x, bound):
    return mingrad.clamp(x, min=bound)


def clamp_max(x, bound):
    return mingrad.clamp(x, max=bound)


def huber(difference, delta):
    return nn.huber_loss(difference, 0.0, delta=delta)


# How a user says an op that is not a function of the table's name in mingrad.
SPELLING = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "clamp_min": clamp_min,
    "clamp_max": clamp_max,
    "_squared_error": nn.mse_loss,
    "_absolute_error": nn.l1_loss,
    "_huber": huber,
    "_hinge": nn.hinge_loss,
    "_bce": nn.binary_cross_entropy,
    "_bce_logits": nn.binary_cross_entropy_with_logits,
}


def spell(op):
    return SPELLING.get(op) or getattr(mingrad, op)
