"""Sequences of Variables: VariableList, tensor, stack, changes in place, and loops over elements.

An operation on a VariableList is compared with the same operation on each of its Variables, bit for
bit; clamp_, attention and norms with PyTorch in float64 (skipped without it) and with their
formulas in plain code. Not here: single operations (test_ops.py), losses (test_losses.py), modules
and models (test_layers.py), no memory and Python's collector at any moment (test_tape.py).
"""

import array
import contextlib
import copy
import fractions
import itertools
import math
import operator
import pickle
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mingrad
from helpers import assert_close_ulps, assert_same_bits, same_bits
from mingrad import Variable, VariableList, _core, nn, stack, tensor
from watch import no_trace, refuses, same_by_each_instruction_set, stress

try:
    import numpy as np
except ImportError:
    np = None

INF, NAN = math.inf, math.nan
needs_numpy = pytest.mark.skipif(np is None, reason="NumPy is not installed")


def leaves_of(values):
    """Leaves that ask for a gradient, one after the other on the tape."""
    return [Variable(x) for x in values]


def apart(values):
    """The same, but no two of them are neighbours on the tape."""
    both = [(Variable(x), Variable(0.0)) for x in values]
    return [v for v, _ in both]


def gradients(outputs, leaves):
    """The outputs' values, and each leaf's gradient of their sum with weights 1, -0.5, 0.25, ..."""
    for leaf in leaves:
        leaf.grad = 0.0
    terms = [x * (-0.5) ** (k % 9) for k, x in enumerate(outputs)]
    root = mingrad.sum([x for x in terms if isinstance(x, Variable)])
    if root.requires_grad:
        root.backward()
    return [x.data for x in outputs], [leaf.grad for leaf in leaves]


def assert_same_list(got, expected):
    assert len(got) == len(expected)
    for x, y in zip(got, expected):
        assert_same_bits(x, y)


# -- what a VariableList is ------------------------------------------------------------------------


def test_it_keeps_variables_and_makes_constants_of_numbers():
    v, w = Variable(1.0), Variable(2.0) * 3.0
    xs = VariableList([v, 4, w, True, 0.5])
    assert xs[0] is v and xs[2] is w and len(xs) == 5
    assert xs.tolist() == xs.data == [1.0, 4.0, 6.0, 1.0, 0.5]
    assert all(type(x) is float for x in xs.tolist())
    assert [x.requires_grad for x in xs] == [True, False, True, False, False]
    assert all(xs[k].is_leaf for k in (0, 1, 3, 4))
    assert repr(xs) == "VariableList([1.0, 4.0, 6.0, 1.0, 0.5])" == str(xs)
    assert mingrad.VariableList is VariableList is nn.VariableList


KINDS = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda xs: (x for x in xs),
    "VariableList": VariableList,
    "dict": dict.fromkeys,
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_made_of_any_iterable(kind):
    leaves = leaves_of([1.0, 2.0, 3.0])
    xs = VariableList(KINDS[kind](leaves))
    assert len(xs) == 3 and all(a is b for a, b in zip(xs, leaves))
    assert VariableList(KINDS[kind]([1.0, 2.5])).tolist() == [1.0, 2.5]
    assert VariableList(KINDS[kind]([])).tolist() == []


def test_it_copies_the_list_that_it_is_made_of():
    held = leaves_of([1.0, 2.0])
    xs = VariableList(held)
    held.append(Variable(3.0))
    assert len(xs) == 2
    again = VariableList(xs)
    assert again is not xs and list(again) == list(xs)


@needs_numpy
def test_arrays_and_buffers_are_taken():
    for source in (
        np.array([1.0, 2.0]),
        np.array([1, 2]),
        np.array([1, 2], dtype="f4"),
        array.array("d", [1, 2]),
        array.array("b", [1, 2]),
        range(1, 3),
        [np.float32(1), np.int64(2)],
    ):
        assert VariableList(source).tolist() == tensor(source).tolist() == [1.0, 2.0]
    leaves = leaves_of([1.0, 2.0])
    assert list(VariableList(np.array(leaves))) == leaves


@pytest.mark.parametrize(
    "make, name", [(VariableList, "VariableList"), (stack, "mingrad.stack"), (lambda xs: tensor(xs), "mingrad.tensor")]
)
def test_what_is_no_sequence_of_numbers_is_refused(make, name):
    v = Variable(1.0)
    number = "expected a real number (int, float, NumPy scalar), got"
    element = "work element by element, or use mingrad.sum, mingrad.dot and the like"
    sequence = f"{name}: expected a sequence of Variables and numbers, got"
    for bad, text in [
        ([v, "a"], f"{name}, element 1: {number} str; convert it to a float first"),
        ([v, None], f"{name}, element 1: {number} NoneType; convert it to a float first"),
        ([1j], f"{name}, element 0: {number} complex; mingrad works on real numbers: take .real, .imag or abs() first"),
        ([v, [1.0]], f"{name}, element 1: {number} list; {element}"),
        ([[1.0, 2.0]], f"{name}, element 0: {number} list; {element}"),
        ("12", f"{sequence} str"),
        (b"12", f"{sequence} bytes"),
        ({1.0, 2.0}, f"{sequence} set"),
        (None, f"{sequence} NoneType"),
    ]:
        refuses(lambda: make(bad), TypeError, text, [v])
    with no_trace([v]), pytest.raises(OverflowError):
        make([v, 10**400])


@pytest.mark.parametrize("make, name", [(VariableList, "VariableList"), (stack, "mingrad.stack")])
def test_one_variable_or_number_is_no_sequence(make, name):
    for bad in (Variable(1.0), 1.0, 3):
        refuses(lambda: make(bad), TypeError, f"{name}: expected a sequence of Variables and numbers, got {type(bad).__name__}")


def test_it_is_indexed_sliced_and_iterated_like_a_list():
    leaves = leaves_of(range(7))
    xs = VariableList(leaves)
    for k in range(-7, 7):
        assert xs[k] is leaves[k]
    for start, stop, step in itertools.product((None, 0, 2, -3, 9), (None, 0, 5, -1), (None, 1, 2, -1, -3)):
        part = xs[start:stop:step]
        assert type(part) is VariableList
        assert [id(v) for v in part] == [id(v) for v in leaves[start:stop:step]]
    assert list(reversed(xs)) == leaves[::-1]
    assert leaves[3] in xs and Variable(3.0) not in xs and 3.0 not in xs
    a, *middle, z = xs
    assert a is leaves[0] and z is leaves[6] and middle == leaves[1:6]
    assert xs.shape == (7,) and bool(xs) and not VariableList([])
    if np is not None:
        assert xs[np.int64(2)] is leaves[2]
    for bad, kind in ((7, IndexError), (-8, IndexError), ("a", TypeError), (1.0, TypeError), ((1, 2), TypeError)):
        with pytest.raises(kind):
            xs[bad]


def test_it_cannot_be_changed():
    xs = VariableList([1.0, 2.0])
    with pytest.raises((TypeError, AttributeError)):
        xs[0] = Variable(3.0)
    with pytest.raises((TypeError, AttributeError)):
        del xs[0]
    with pytest.raises(AttributeError):
        xs.append(1.0)
    with pytest.raises(AttributeError):
        xs.shape = (3,)
    with pytest.raises(AttributeError):
        xs.anything = 1
    same = xs
    xs += 1.0
    assert xs is not same and same.tolist() == [1.0, 2.0]


def test_it_is_compared_by_identity_and_hashed():
    xs, ys = VariableList([1.0]), VariableList([1.0])
    assert xs == xs and xs != ys and len({xs, ys, xs}) == 2


def test_functions_of_sequences_take_it():
    xs = tensor([3.0, -1.0, 2.0], requires_grad=True)
    for name in ("sum", "mean", "prod", "max", "min", "logsumexp", "norm"):
        function = getattr(mingrad, name)
        assert_same_bits(function(xs).data, function(xs.tolist()))
    assert [v.data for v in mingrad.softmax(xs)] == mingrad.softmax(xs.tolist())
    assert mingrad.dot(xs, xs).data == 14.0 and mingrad.dot(xs, [1, 2, 3]).data == 7.0
    assert xs.sum()._op == "sum" and xs.mean()._op == "mean"
    assert xs.sum()._prev == tuple(xs)
    assert_same_bits(xs.mean().data, mingrad.mean(xs.tolist()))
    assert sum(xs).data == 4.0 and max(xs) is xs[0] and sorted(xs)[0] is xs[1]
    with pytest.raises(ValueError, match="empty"):
        VariableList([]).mean()


def test_elements_of_a_subclass_are_kept():
    class Weight(Variable):
        pass

    w = Weight(2.0)
    w.note = "mine"
    xs = VariableList([w, 1.0])
    assert xs[0] is w and xs[:1][0] is w and type(xs[0]) is Weight
    loss = (xs * xs).sum()
    loss.backward()
    assert w.grad == 4.0 and xs.grad == [4.0, 0.0]
    again = copy.deepcopy(xs)
    assert type(again[0]) is Weight and again[0].note == "mine"


# -- tensor and stack ------------------------------------------------------------------------------


def test_tensor_makes_new_leaves():
    v = Variable(5.0)
    for requires in (False, True, 0, 1):
        xs = tensor([1, v, 2.5], requires_grad=requires)
        assert xs.tolist() == [1.0, 5.0, 2.5] and type(xs) is VariableList
        assert all(x.is_leaf and x.requires_grad == bool(requires) for x in xs)
        assert xs[1] is not v and xs.grad == [0.0] * 3
    assert not tensor([1.0]).requires_grad and tensor([1.0], True).requires_grad
    assert tensor(x for x in (1, 2)).tolist() == [1.0, 2.0]
    assert tensor([]).tolist() == []


def test_tensor_of_one_number_is_a_variable():
    for data in (2, 2.0, Variable(2.0), *([] if np is None else [np.float64(2), np.int8(2)])):
        x = tensor(data)
        assert type(x) is Variable and x.data == 2.0 and x.is_leaf and not x.requires_grad
        assert tensor(data, requires_grad=True).requires_grad
    assert tensor(True).data == 1.0
    v = Variable(2.0) * 3.0
    assert tensor(v) is not v and tensor(v).is_leaf


def test_stack_records_nothing():
    v, w = Variable(1.0), Variable(2.0) * 1.5
    recorded = mingrad.tape_info().recorded
    xs = stack([v, w])
    assert mingrad.tape_info().recorded == recorded
    assert xs[0] is v and xs[1] is w and type(xs) is VariableList
    xs.sum().backward()
    assert v.grad == 1.0
    assert stack((v, 2)).tolist() == [1.0, 2.0] and stack(xs) is not xs
    with pytest.raises(TypeError):
        stack()


# -- arithmetic ------------------------------------------------------------------------------------

OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
LEFT, RIGHT = [2.5, 0.75, 3.0, 1.25], [1.5, 2.0, 0.5, 3.0]


def partners():
    """name: (what stands on the other side, its elements, its leaves), made anew."""
    many = leaves_of(RIGHT)
    one = Variable(1.5)
    kinds = {
        "VariableList": (VariableList(many), many, many),
        "list": (list(many), many, many),
        "tuple": (tuple(many), many, many),
        "mixed": ([many[0], 2.0, many[2], 3], [many[0], 2.0, many[2], 3], many),
        "floats": (list(RIGHT), RIGHT, []),
        "ints": ((1, 2, 1, 3), (1, 2, 1, 3), []),
        "a number": (1.5, [1.5] * 4, []),
        "an int": (2, [2] * 4, []),
        "a Variable": (one, [one] * 4, [one]),
    }
    if np is not None:
        kinds["array"] = (np.array(RIGHT), RIGHT, [])
        kinds["array of ints"] = (np.array([1, 2, 1, 3]), [1, 2, 1, 3], [])
        kinds["array of objects"] = (np.array(many), many, many)
        kinds["NumPy scalar"] = (np.float64(1.5), [1.5] * 4, [])
        kinds["NumPy int"] = (np.int64(2), [2.0] * 4, [])
    return kinds


@pytest.mark.parametrize("partner", partners())
@pytest.mark.parametrize("symbol", OPERATORS)
def test_arithmetic_is_that_of_each_element(symbol, partner):
    function = OPERATORS[symbol]
    for swap in (False, True):
        results = []
        for whole in (False, True):
            mine = leaves_of(LEFT)
            other, elements, theirs = partners()[partner]
            if whole:
                out = function(other, VariableList(mine)) if swap else function(VariableList(mine), other)
                assert type(out) is VariableList
            else:
                out = [function(y, x) if swap else function(x, y) for x, y in zip(mine, elements)]
            results.append(gradients(out, mine + theirs))
        for got, expected in zip(*results):
            assert_same_list(got, expected)


def test_negation_and_absolute_value_are_those_of_each_element():
    for function in (operator.neg, abs):
        mine, other = leaves_of([1.5, -2.0, 0.0]), leaves_of([1.5, -2.0, 0.0])
        out = function(VariableList(mine))
        assert type(out) is VariableList
        got, expected = gradients(out, mine), gradients([function(v) for v in other], other)
        assert_same_list(got[0], expected[0])
        assert_same_list(got[1], expected[1])


def test_arithmetic_with_nothing_in_it():
    empty = VariableList([])
    for out in (empty + 1.0, 1.0 - empty, empty * [], empty / empty, -empty, empty.clamp(min=0.0), empty.detach()):
        assert type(out) is VariableList and len(out) == 0


def test_constants_give_constants_and_no_grad_records_nothing():
    constant, xs = tensor([1.0, 2.0]), tensor([1.0, 2.0], requires_grad=True)
    assert [v.requires_grad for v in constant * 2.0 + constant] == [False, False]
    mixed = VariableList([constant[0], xs[0]]) * 3.0
    assert [v.requires_grad for v in mixed] == [False, True]
    with mingrad.no_grad():
        for out in (xs + xs, -xs, abs(xs), xs**2, xs.clamp(0.0, 1.5), VariableList([xs.sum()])):
            assert all(v.is_leaf and not v.requires_grad for v in out)


ARITHMETIC_REFUSALS = [
    (
        "another length",
        lambda xs: xs + [1.0],
        ValueError,
        "VariableList +: expected two sequences of equal length, got 2 and 1",
    ),
    (
        "on the left",
        lambda xs: [1.0, 2.0, 3.0] - xs,
        ValueError,
        "VariableList -: expected two sequences of equal length, got 3 and 2",
    ),
    (
        "two of them",
        lambda xs: xs * VariableList([1.0]),
        ValueError,
        "VariableList *: expected two sequences of equal length, got 2 and 1",
    ),
    (
        "a str inside",
        lambda xs: xs / ["a", 1.0],
        TypeError,
        "VariableList /: element 0: expected a real number (int, float, NumPy scalar), got str; convert it to a float first",
    ),
    (
        "a zero inside",
        lambda xs: xs / [1.0, 0.0],
        ZeroDivisionError,
        "2.0 / 0.0: division by zero; with mingrad.errstate(all='ignore') the result is inf",
    ),
    ("a modulus", lambda xs: pow(xs, 2, 3), TypeError, "pow() with a modulus is not defined for Variables"),
    ("no bound", lambda xs: xs.clamp(), TypeError, "VariableList.clamp: expected min, max or both, got neither"),
    (
        "bounds",
        lambda xs: xs.clamp(min=[1.0]),
        ValueError,
        "VariableList clamp_min: expected two sequences of equal length, got 2 and 1",
    ),
]


@pytest.mark.parametrize("case", ARITHMETIC_REFUSALS, ids=[c[0] for c in ARITHMETIC_REFUSALS])
def test_arithmetic_that_is_refused_leaves_no_trace(case):
    _, call, kind, text = case
    xs = tensor([1.0, 2.0], requires_grad=True)
    with no_trace(list(xs)), pytest.raises(kind) as caught:
        call(xs)
    assert str(caught.value).replace(", element", ": element") == text


@pytest.mark.parametrize(
    "other", [None, "ab", b"ab", 1j, object(), {1: 2}, {1.0, 2.0}, (x for x in [1.0, 2.0])], ids=lambda x: type(x).__name__
)
def test_what_is_no_number_and_no_sequence_is_a_type_error(other):
    xs = tensor([1.0, 2.0], requires_grad=True)
    for function in OPERATORS.values():
        with no_trace(list(xs)), pytest.raises(TypeError):
            function(xs, other)
        if not (function is operator.mod and isinstance(other, (str, bytes))):  # formatting
            with no_trace(list(xs)), pytest.raises(TypeError):
                function(other, xs)


@needs_numpy
def test_arrays_that_are_no_sequence_of_n_are_refused():
    xs = tensor([1.0, 2.0], requires_grad=True)
    for bad in (np.ones((2, 2)), np.ones((2, 1)), np.ones(3), np.array(["a", "b"]), np.array([1j, 2.0])):
        for call in (lambda: xs + bad, lambda: bad + xs, lambda: bad * xs):
            with no_trace(list(xs)), pytest.raises((TypeError, ValueError)):
                call()


def test_other_types_get_their_turn():
    class Other:
        def __radd__(self, left):
            return "right"

        def __add__(self, right):
            return "left"

    xs = tensor([1.0])
    assert xs + Other() == "right" and Other() + xs == "left"


# -- what its Variables hold -----------------------------------------------------------------------


def test_data_and_grad_are_read_and_written_as_a_whole():
    xs = tensor([1.0, 2.0, 3.0], requires_grad=True)
    (xs * [2.0, 3.0, 4.0]).sum().backward()
    assert xs.grad == [2.0, 3.0, 4.0] and [v.grad for v in xs] == xs.grad
    writes = [
        ([4, 5.5, True], [4.0, 5.5, 1.0]),
        (7, [7.0] * 3),
        (0.25, [0.25] * 3),
        (Variable(6.0), [6.0] * 3),
        (leaves_of([3, 2, 1]), [3.0, 2.0, 1.0]),
        (tensor([3, 2, 4]), [3.0, 2.0, 4.0]),
    ]
    if np is not None:
        writes += [(np.array([1, 2, 3]), [1.0, 2.0, 3.0]), (np.float32(0.5), [0.5] * 3)]
    for value, expected in writes:
        xs.data = value
        xs.grad = value
        assert xs.data == xs.tolist() == xs.grad == expected
    xs.data = (k for k in range(3))
    assert xs.data == [0.0, 1.0, 2.0]
    xs.data = reversed(xs)
    assert xs.data == [2.0, 1.0, 0.0]
    xs.zero_grad()
    assert xs.grad == [0.0] * 3


def test_the_values_of_results_are_not_written_and_their_grads_are():
    leaf = Variable(1.0)
    xs = VariableList([leaf, leaf * 2.0])
    leaf.data = 5.0
    refuses(
        lambda: setattr(xs, "data", [8.0, 9.0]),
        RuntimeError,
        "data of the result of '*' (data=2.0) cannot be written: it is a result; write the "
        "leaves it was made from and compute it again, or detach() it",
        [leaf],
    )
    assert leaf.data == 5.0
    xs.grad = [1.0, 2.0]
    assert xs.grad == [1.0, 2.0]


WRITES = {
    "data": lambda xs, values: setattr(xs, "data", values),
    "grad": lambda xs, values: setattr(xs, "grad", values),
    "copy_": lambda xs, values: xs.copy_(values),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    "values, kind, text",
    [
        ([1.0], ValueError, "{what}: expected 3 numbers, got 1"),
        ([1.0] * 4, ValueError, "{what}: expected 3 numbers, got 4"),
        ([], ValueError, "{what}: expected 3 numbers, got 0"),
        (
            [1.0, "a", 2.0],
            TypeError,
            "{what}, element 1: expected a real number (int, float, NumPy scalar), got str; convert it to a float first",
        ),
        (
            [1.0, 2.0, None],
            TypeError,
            "{what}, element 2: expected a real number (int, float, NumPy scalar), got NoneType; convert it to a float first",
        ),
        ([1.0, 2.0, 10**400], OverflowError, "int too large to convert to float"),
        ("123", TypeError, "{what}: expected a sequence of Variables and numbers, got str"),
        (None, TypeError, "{what}: expected a sequence of Variables and numbers, got NoneType"),
    ],
    ids=str,
)
def test_a_write_that_is_refused_writes_nothing(write, values, kind, text):
    xs = tensor([1.0, 2.0, 3.0])
    what = "copy_" if write == "copy_" else f"VariableList.{write}"
    refuses(lambda: WRITES[write](xs, values), kind, text.format(what=what), list(xs))


def test_requires_grad_is_that_of_any_and_is_set_for_all():
    xs = tensor([1.0, 2.0])
    assert xs.requires_grad is False
    xs[1].requires_grad = True
    assert xs.requires_grad is True
    xs.requires_grad = True
    assert [v.requires_grad for v in xs] == [True, True]
    xs.requires_grad = False
    assert [v.requires_grad for v in xs] == [False, False]
    assert VariableList([]).requires_grad is False


def test_requires_grad_that_cannot_be_set_for_all_is_set_for_none():
    leaf = Variable(1.0)
    xs = VariableList([leaf, leaf * 2.0])
    refuses(
        lambda: setattr(xs, "requires_grad", False),
        RuntimeError,
        "requires_grad of the result of '*' (data=2.0) cannot be switched off: it is a result; detach() it instead",
        [leaf],
    )


def test_a_detached_list_holds_new_constants():
    xs = tensor([1.0, 2.0], requires_grad=True)
    out = (xs * 3.0).detach()
    assert type(out) is VariableList and out.tolist() == [3.0, 6.0]
    assert all(v.is_leaf and not v.requires_grad for v in out)
    assert xs.detach()[0] is not xs[0]


# -- copies ----------------------------------------------------------------------------------------

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle 2": lambda x: pickle.loads(pickle.dumps(x, 2)),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_independent_and_complete(way):
    xs = tensor([1.0, NAN, -0.0], requires_grad=True)
    xs.grad = [1.0, 2.0, 3.0]
    xs[0].label = "first"
    xs[2].requires_grad = False
    again = COPIES[way](xs)
    assert type(again) is VariableList
    assert_same_list(again.tolist(), [1.0, NAN, -0.0])
    assert again.grad == [1.0, 2.0, 3.0] and again[0].label == "first"
    assert [v.requires_grad for v in again] == [True, True, False]
    assert not {id(v) for v in again} & {id(v) for v in xs}
    again[0].data = 9.0
    assert xs[0].data == 1.0


@pytest.mark.parametrize("way", COPIES)
def test_what_is_shared_stays_shared_in_a_copy(way):
    v = Variable(1.0)
    xs = VariableList([v, v])
    again, w = COPIES[way]((xs, v))
    assert again[0] is again[1] is w
    assert COPIES[way]([xs, xs])[0] is not xs


@pytest.mark.parametrize("way", COPIES)
def test_results_are_not_copied(way):
    with pytest.raises(TypeError, match="detach"):
        COPIES[way](VariableList([Variable(1.0) * 2.0]))


def test_a_shallow_copy_shares_its_variables():
    xs = tensor([1.0, 2.0])
    again = copy.copy(xs)
    assert again is not xs and list(again) == list(xs)


# -- clamp_ and copy_ ------------------------------------------------------------------------------

AWKWARD = [-INF, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, INF, NAN]


def pytorchs_clamp(torch, xs, low, high):
    def bound(x):
        return torch.tensor(x, dtype=torch.float64) if isinstance(x, list) else x

    x = torch.tensor(xs, dtype=torch.float64)
    if isinstance(low, list) or isinstance(high, list):  # both tensors or both numbers
        low, high = ([b] * len(xs) if isinstance(b, float) else b for b in (low, high))
    return x.clamp_(min=bound(low), max=bound(high)).tolist()


def test_clamp_in_place_is_pytorchs():
    torch = pytest.importorskip("torch")
    n = len(AWKWARD)
    bounds = [None, *AWKWARD, AWKWARD[::-1], [0.0] * n, [NAN] + [1.0] * (n - 1)]
    for low, high in itertools.product(bounds, repeat=2):
        if low is None and high is None:
            continue
        expected = pytorchs_clamp(torch, AWKWARD, low, high)
        xs = tensor(AWKWARD)
        assert xs.clamp_(min=low, max=high) is xs
        for x, got, want in zip(AWKWARD, xs.tolist(), expected):
            assert got == want or (math.isnan(got) and math.isnan(want)), (x, low, high)
        leaves = [Variable(x) for x in AWKWARD]
        with mingrad.no_grad():
            for k, v in enumerate(leaves):
                bound = [b[k] if isinstance(b, list) else b for b in (low, high)]
                assert v.clamp_(*bound) is v
        assert_same_list([v.data for v in leaves], xs.tolist())


@pytest.mark.parametrize("requires", [False, True])
def test_clamp_of_a_list_is_the_clamp_of_each_element(requires):
    bounds = leaves_of([0.0, -1.0, 2.0])
    for low, high in (
        (0.5, None),
        (None, [1.0, -1.5, 0.0]),
        (bounds, 1.5),
        (bounds[0], bounds),
        (2.0, -2.0),
        ([0.0, -2.0, NAN], NAN),
    ):
        results = []
        for whole in (True, False):
            leaves = [Variable(x, requires_grad=requires) for x in (0.75, -3.0, 4.0)]
            for bound in bounds:
                bound.grad = 0.0
            if whole:
                out = VariableList(leaves).clamp(low, high)
                assert type(out) is VariableList
            else:
                out = [
                    mingrad.clamp(v, low[k] if isinstance(low, list) else low, high[k] if isinstance(high, list) else high)
                    for k, v in enumerate(leaves)
                ]
            results.append(gradients(out, leaves + bounds))
        assert_same_list(results[0][0], results[1][0])
        assert_same_list(results[0][1], results[1][1])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(*[st.floats()] * 3), max_size=12))
def test_whatever_the_bounds_a_clamped_value_is_that_of_clamp(triples):
    xs = tensor([x for x, _, _ in triples])
    low, high = [a for _, a, _ in triples], [b for _, _, b in triples]
    expected = [mingrad.clamp(x, a, b) for x, a, b in triples]
    xs.clamp_(min=low, max=tuple(high))
    assert_same_list(xs.tolist(), expected)


def test_bounds_may_be_any_sequence_of_n_and_variables_count_by_value():
    low = [0.0, Variable(0.5), 1]
    kinds = [low, tuple(low), VariableList(low)]
    if np is not None:
        kinds += [np.array([0.0, 0.5, 1.0]), np.array([0, 0.5, 1], dtype="f4")]
    for bounds in kinds:
        assert tensor([-1.0] * 3).clamp_(min=bounds).tolist() == [0.0, 0.5, 1.0]
        assert tensor([2.0] * 3).clamp_(max=bounds).tolist() == [0.0, 0.5, 1.0]
        assert tensor([2.0] * 3).copy_(bounds).tolist() == [0.0, 0.5, 1.0]
    assert tensor([-1.0, 2.0]).clamp_(Variable(0.0), Variable(1.0)).tolist() == [0.0, 1.0]
    x = Variable(3.0, requires_grad=False)
    assert x.clamp_(max=Variable(2.0)).data == 2.0 and x.clamp_(4).data == 4.0


def test_a_leaf_that_asks_for_a_gradient_is_changed_in_place_only_inside_no_grad():
    xs = tensor([1.0, 2.0], requires_grad=True)
    xs[1].label = "w"
    text = (
        "{}: the leaf Variable(data=1.0) requires a gradient and cannot be changed in place "
        "while operations are recorded; do it inside `with mingrad.no_grad():`"
    )
    leaves = list(xs)
    refuses(lambda: xs.clamp_(max=1.5), RuntimeError, text.format("clamp_"), leaves)
    refuses(lambda: xs.copy_([0.0, 0.0]), RuntimeError, text.format("copy_"), leaves)
    refuses(lambda: xs[0].clamp_(max=1.5), RuntimeError, text.format("clamp_"), leaves)
    refuses(
        lambda: VariableList([0.0, xs[1]]).clamp_(max=1.5),
        RuntimeError,
        text.format("clamp_").replace("the leaf Variable(data=1.0)", "Variable 'w'"),
        leaves,
    )
    with mingrad.no_grad():
        assert xs.clamp_(max=1.5).tolist() == [1.0, 1.5]
        assert xs.copy_([3.0, 4.0]).tolist() == [3.0, 4.0]
        with mingrad.enable_grad(), pytest.raises(RuntimeError, match="in place"):
            xs.clamp_(max=1.5)
        assert xs[0].clamp_(max=1.0).data == 1.0
    assert xs.requires_grad and all(v.requires_grad for v in xs)


def test_results_are_not_changed_in_place():
    x = Variable(1.0)
    y = x * 2.0
    text = "{}: the result of '*' (data=2.0) cannot be written: it is a result; write the leaves it was made from"
    with mingrad.no_grad():
        refuses(lambda: y.clamp_(max=1.0), RuntimeError, text.format("clamp_"), [x])
        refuses(lambda: stack([x, y]).clamp_(max=0.5), RuntimeError, text.format("clamp_"), [x])
        refuses(lambda: stack([x, y]).copy_(0.5), RuntimeError, text.format("copy_"), [x])
    assert x.data == 1.0 and y.data == 2.0


@pytest.mark.parametrize(
    "bounds, kind, text",
    [
        ({}, TypeError, "clamp_: expected min, max or both, got neither"),
        ({"min": [0.0]}, ValueError, "clamp_: expected min to be a number or a sequence of 2, got 1 of them"),
        ({"max": [0.0] * 3}, ValueError, "clamp_: expected max to be a number or a sequence of 2, got 3 of them"),
        ({"min": "a"}, ValueError, "clamp_: expected min to be a number or a sequence of 2, got 1 of them"),
        (
            {"min": [0.0, "a"]},
            TypeError,
            "clamp_: min: expected a real number (int, float, NumPy scalar), got str; convert it to a float first",
        ),
        (
            {"min": -5.0, "max": [0.0, None]},
            TypeError,
            "clamp_: max: expected a real number (int, float, NumPy scalar), got NoneType; convert it to a float first",
        ),
        ({"min": [0.0, 10**400]}, OverflowError, "int too large to convert to float"),
    ],
    ids=str,
)
def test_bounds_that_are_refused_change_nothing(bounds, kind, text):
    xs = tensor([1.0, -2.0])
    refuses(lambda: xs.clamp_(**bounds), kind, text, list(xs))
    with pytest.raises(TypeError):
        xs.clamp_(min=1j)


def test_a_change_in_place_makes_older_graphs_stale():
    for change in (
        lambda xs: xs.clamp_(max=1.5),
        lambda xs: xs.copy_([1.0, 1.0]),
        lambda xs: xs[1].clamp_(0.0, 1.0),
        lambda xs: setattr(xs, "data", 0.5),
    ):
        xs = tensor([1.0, 2.0], requires_grad=True)
        loss = (xs * xs).sum()
        with mingrad.no_grad():
            change(xs)
        with pytest.raises(RuntimeError, match="forward pass"):
            loss.backward()
        assert xs.grad == [0.0, 0.0]
        (xs * xs).sum().backward()
        assert xs.grad == [2.0 * x for x in xs.tolist()]


def test_bounds_that_run_code_while_they_are_read_are_no_crash():
    class Bounds:
        """A sequence that collects, records and writes while it is asked."""

        def __init__(self, xs):
            self.xs = xs

        def __len__(self):
            return 3

        def __getitem__(self, k):
            [Variable(1.0) * 2.0 for _ in range(50)]
            mingrad.collect()
            self.xs[2].data = 10.0 + k
            return float(k)

    for young in (1, 3, 64):
        with stress(young):
            junk = leaves_of(range(20))
            xs = tensor([-1.0, 5.0, -1.0])
            del junk
            xs.clamp_(min=Bounds(xs))
            assert xs.tolist() == [0.0, 5.0, 12.0]


def failing_allocations(prepare, action, check):
    """Run action(prepare()) with its n-th allocation failing, n = 0, 1, ..., and check() each time.

    Returns how many failures it took until the action came through.
    """
    for failed in range(10_000):
        world = prepare()
        _core._fail_allocation(failed)
        try:
            action(world)
            done = True
        except MemoryError:
            done = False
        triggered = _core._fail_allocation(-1)
        check(world, done)
        if not triggered:
            assert done
            return failed
    raise AssertionError("the action never got through")


def test_a_write_for_which_there_is_no_memory_writes_nothing():
    """Old leaves that are written are listed, and the list's room grows now and then."""

    def prepare():
        xs = tensor([1.0] * count)
        mingrad.collect()
        return xs

    def check(xs, done):
        assert set(xs.tolist()) == ({2.0} if done else {1.0})

    writes = (lambda xs: xs.clamp_(min=2.0), lambda xs: xs.copy_(2.0), lambda xs: setattr(xs, "data", 2.0))
    count = 1000
    for write in writes:
        while not failing_allocations(prepare, write, check):
            count *= 3  # other tests have left room for that many
            assert count < 10_000_000


# -- activations -----------------------------------------------------------------------------------

MODULES = {
    "relu": (nn.ReLU, mingrad.relu),
    "tanh": (nn.Tanh, mingrad.tanh),
    "sigmoid": (nn.Sigmoid, mingrad.sigmoid),
    "gelu": (nn.GELU, mingrad.gelu),
    "silu": (nn.SiLU, mingrad.silu),
    "softplus": (nn.Softplus, mingrad.softplus),
    "leaky_relu": (nn.LeakyReLU, mingrad.leaky_relu),
    "leaky_relu 0.3": (lambda: nn.LeakyReLU(0.3), lambda v: mingrad.leaky_relu(v, 0.3)),
    "leaky_relu 0": (lambda: nn.LeakyReLU(0), lambda v: mingrad.leaky_relu(v, 0.0)),
    "elu": (nn.ELU, mingrad.elu),
    "elu 2": (lambda: nn.ELU(2), lambda v: mingrad.elu(v, 2.0)),
}
SPREAD = [0.0, -0.0, 1e-300, -1e-20, 0.5, -0.5, 2.0, -3.0, 30.0, -40.0, 800.0, -800.0, 1e300, -1e9]
NOT_FINITE = [INF, -INF, NAN]


@pytest.mark.parametrize(
    "make",
    [leaves_of, apart, lambda xs: [v * 1.0 for v in leaves_of(xs)], lambda xs: leaves_of(xs)[::-1]],
    ids=["a run", "scattered", "results", "backwards"],
)
@pytest.mark.parametrize("name", MODULES)
def test_an_activation_has_the_bits_of_its_operation(name, make):
    module, function = MODULES[name]
    for values in (SPREAD + NOT_FINITE, SPREAD[:1], []):
        mine, other = make(values), make(values)
        out = module()(VariableList(mine))
        assert type(out) is VariableList and len(out) == len(values)
        if values:
            got, expected = gradients(out, mine), gradients([function(v) for v in other], other)
            assert_same_list(got[0], expected[0])
            assert_same_list(got[1], expected[1])


@pytest.mark.parametrize("name", MODULES)
def test_an_activation_takes_numbers_and_constants(name):
    module, function = MODULES[name]
    v, constant = Variable(-0.5), Variable(-0.5, requires_grad=False)
    out = module()([v, constant, -0.5, 2, v])
    assert [x.requires_grad for x in out] == [True, False, False, False, True]
    assert out[0].data == out[1].data == out[2].data == function(-0.5)
    assert out[3].data == function(2.0)
    out.sum().backward()
    single = Variable(-0.5)
    function(single).backward()
    assert v.grad == 2 * single.grad and constant.grad == 0.0
    with mingrad.no_grad():
        quiet = module()([v, constant, -0.5, 2, v])
    assert quiet.tolist() == out.tolist() and not quiet.requires_grad
    assert all(x.is_leaf for x in quiet)


@pytest.mark.parametrize("name", ["relu", "tanh", "elu 2"])
def test_constants_in_a_run_cut_its_block(name):
    """A constant's result is a leaf among the block's nodes, and one pass may reach them all."""
    module, function = MODULES[name]
    for count in (3, 70, 5000):
        constants = {1, 2, count // 2, count - 1}
        results = []
        for whole in (True, False):
            xs = leaves_of(math.sin(k) for k in range(count))
            for k in constants:
                xs[k].requires_grad = False
            out = module()(VariableList(xs)) if whole else [function(v) for v in xs]
            assert [v.requires_grad for v in out] == [k not in constants for k in range(count)]
            for k in constants:
                xs[k].grad = out[k].grad = 5.0
            total = mingrad.sum(out)  # over a run: its operands are reached word by word
            total.backward()
            assert all(xs[k].grad == out[k].grad == 5.0 for k in constants)
            for k in constants:
                xs[k].grad = 0.0
            results.append(([v.data for v in out], [v.grad for v in xs]))
            total.backward()
            assert [v.grad for v in xs] == [2.0 * g for g in results[-1][1]]
        assert results[0] == results[1]


@pytest.mark.parametrize("name", ["relu", "gelu", "leaky_relu 0.3"])
@pytest.mark.parametrize("count", [63, 64, 65, 4095, 4096, 4097, 9000])
def test_blocks_of_every_size_have_the_bits_of_single_operations(name, count):
    module, function = MODULES[name]
    rng = random.Random(count)
    values = [rng.gauss(0, 2) for _ in range(count)]
    mine, other = leaves_of(values), leaves_of(values)
    out = module()(VariableList(mine))
    single = [function(v) for v in other]
    assert [v.data for v in out] == [v.data for v in single]
    for part in (slice(None), slice(5, None, 7), slice(count // 2, count // 2 + 1)):
        for v in mine + other:
            v.grad = 0.0
        mingrad.sum(list(out)[part]).backward()
        mingrad.sum(single[part]).backward()
        assert [v.grad for v in mine] == [v.grad for v in other]


@pytest.mark.parametrize("young", [1, 7, None])
def test_a_block_of_which_parts_have_died_gives_the_rest_its_gradients(young):
    """Collections renumber what is left: a block may be cut into pieces anywhere."""
    rng = random.Random(young)
    for count in (5, 70, 200):
        values = [rng.gauss(0, 2) for _ in range(count)]
        for keep in (0.1, 0.5, 0.9):
            kept = [rng.random() < keep for _ in range(count)]
            results = []
            for whole in (True, False):
                with stress(young) if young else contextlib.nullcontext():
                    leaves = leaves_of(values)
                    if whole:
                        out = list(nn.Tanh()(leaves))
                    else:
                        out = [v.tanh() for v in leaves]
                    out = [v for v, k in zip(out, kept) if k]
                    mingrad.collect()
                    leaves = [v for v, k in zip(leaves, kept) if k]
                    extra = Variable(1.0)
                    results.append(gradients([*out, extra * 2.0], [*leaves, extra]))
                    del leaves[::2]
                    mingrad.collect()
                    results[-1] += gradients(out, leaves) if out else ()
            assert results[0] == results[1]


def test_a_domain_error_inside_a_list_leaves_no_trace():
    """No module has such an operation, but a plan or a user's subclass may."""
    leaves = leaves_of([1.0, 2.0, -1.0, 3.0])
    text = "log(-1.0): outside the function's domain; with mingrad.errstate(all='ignore') the result is nan"
    for xs in (leaves, leaves[::-1], VariableList(leaves)):
        refuses(lambda: _core._activate("log", xs), ValueError, text, leaves)
    with mingrad.errstate(all="ignore"):
        assert math.isnan(_core._activate("log", leaves)[2].data)
    with mingrad.no_grad():
        refuses(lambda: _core._activate("log", leaves), ValueError, text, leaves)
    assert _core._activate("exp", leaves).tolist() == [math.exp(v.data) for v in leaves]


def test_softmax_of_a_list_is_softmax():
    leaves, other = leaves_of([0.3, -1.0, 2.0]), leaves_of([0.3, -1.0, 2.0])
    out = nn.Softmax()(leaves)
    assert type(out) is VariableList
    assert gradients(out, leaves) == gradients(mingrad.softmax(other), other)
    assert nn.Softmax()([1.0, 1.0]).tolist() == [0.5, 0.5]
    assert not nn.Softmax()([1.0, 1.0]).requires_grad
    with pytest.raises(ValueError, match="empty"):
        nn.Softmax()([])


# -- norms -----------------------------------------------------------------------------------------


def norm_cases():
    rng = random.Random(2)
    return [[rng.gauss(0, 3) for _ in range(n)] for n in (1, 2, 3, 8, 17)] + [
        [1e-8, -2e-8, 3e-8],
        [1e6, 1e6 + 1, 1e6 - 2],
        [0.0, 0.0, 0.0],
    ]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [None, 1e-5, 0.3])
def test_rms_norm_is_pytorchs(eps, affine):
    torch = pytest.importorskip("torch")
    for xs in norm_cases():
        n = len(xs)
        weights = [0.5 + 0.25 * k for k in range(n)]
        norm = nn.RMSNorm(n, eps=eps, elementwise_affine=affine)
        x, w = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (xs, weights))
        theirs = torch.nn.functional.rms_norm(x, (n,), w if affine else None, eps)
        seeds = torch.tensor([(-0.5) ** (k % 9) for k in range(n)])
        (theirs * seeds).sum().backward()
        leaves = leaves_of(xs)
        if affine:
            norm.weight.data = weights
        values, grads = gradients(norm(leaves), leaves + (list(norm.weight) if affine else []))
        expected = x.grad.tolist() + (w.grad.tolist() if affine else [])
        # The mean of squares, a power and products are a few ulps each; what they give to an
        # input cancels what it gets directly, a weight divided by the root; for n = 1 all of it.
        square = math.fsum(v * v for v in xs) / n + (2**-52 if eps is None else eps)
        size = max(map(abs, [*weights, 1.0])) / math.sqrt(square)
        assert values == pytest.approx(theirs.tolist(), rel=1e-14, abs=1e-300)
        assert grads == pytest.approx(expected, rel=1e-12, abs=1e-14 * size)


@pytest.mark.parametrize("affine, bias", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_layer_norm_is_pytorchs(eps, affine, bias):
    torch = pytest.importorskip("torch")
    for xs in norm_cases():
        n = len(xs)
        weights, biases = [0.5 + 0.25 * k for k in range(n)], [0.1 * k - 0.2 for k in range(n)]
        norm = nn.LayerNorm(n, eps=eps, elementwise_affine=affine, bias=bias)
        x, w, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (xs, weights, biases))
        theirs = torch.nn.functional.layer_norm(x, (n,), w if affine else None, b if affine and bias else None, eps)
        seeds = torch.tensor([(-0.5) ** (k % 9) for k in range(n)])
        (theirs * seeds).sum().backward()
        leaves, tensors = leaves_of(xs), [x]
        parameters = []
        if affine:
            norm.weight.data = weights
            parameters.extend(norm.weight)
            tensors.append(w)
        if affine and bias:
            norm.bias.data = biases
            parameters.extend(norm.bias)
            tensors.append(b)
        assert norm.parameters() == parameters
        values, grads = gradients(norm(leaves), leaves + parameters)
        expected = [g for t in tensors for g in t.grad.tolist()]
        # Subtracting the mean cancels: an absolute error of an ulp of the largest input, which is
        # then divided by the deviation.
        slack = 2**-52 * max(map(abs, xs), default=0.0) / math.sqrt(eps) + 1e-14
        assert values == pytest.approx(theirs.tolist(), rel=1e-13, abs=slack)
        assert grads == pytest.approx(expected, rel=1e-11, abs=slack / eps)


def test_norms_are_their_formulas():
    xs = [3.0, -1.0, 2.0]
    square = math.fsum(x * x for x in xs) / 3
    got = nn.RMSNorm(3, eps=0.5)(xs).tolist()
    assert got == pytest.approx([x / math.sqrt(square + 0.5) for x in xs], rel=1e-15)
    mean = math.fsum(xs) / 3
    variance = math.fsum((x - mean) ** 2 for x in xs) / 3
    got = nn.LayerNorm(3, eps=0.5)(xs).tolist()
    assert got == pytest.approx([(x - mean) / math.sqrt(variance + 0.5) for x in xs], rel=1e-15)


def test_the_mean_of_squares_inside_a_norm_is_exact_but_for_rounding():
    for n in (1, 2, 3, 8, 31):
        rng = random.Random(n)
        leaves = [Variable(rng.gauss(0, 3)) for _ in range(n)]
        for xs in (leaves, leaves[::-1]):
            y = nn.RMSNorm(n, eps=0.25, elementwise_affine=False)(xs)[0]
            waiting = [y]
            while waiting[-1]._op != "mean_square":
                waiting += waiting.pop()._prev
            node = waiting[-1]
            exact = sum(fractions.Fraction(v.data) ** 2 for v in leaves) / n
            # a product, a tree of depth 3 + n / 8, a division
            assert_close_ulps(node.data, float(exact), 3 + n / 8)
            for v in leaves:
                v.grad = 0.0
            node.backward()
            for v in leaves:
                assert_close_ulps(v.grad, float(fractions.Fraction(v.data) * 2 / n), 1)
            assert node._prev == tuple(xs)


def test_a_zero_vector_is_normalised_to_zero_or_refused():
    zeros = leaves_of([0.0, 0.0])
    out = nn.RMSNorm(2)(zeros)
    assert out.tolist() == [0.0, 0.0]
    out[0].backward()
    assert [v.grad for v in zeros] == [2.0**26, 0.0]  # 1 / sqrt(eps)
    assert nn.LayerNorm(2)(zeros).tolist() == [0.0, 0.0]
    text = "0.0 ** -0.5: division by zero; with mingrad.errstate(all='ignore') the result is inf"
    rms, layer = nn.RMSNorm(2, eps=0.0), nn.LayerNorm(2, eps=0.0)
    leaves = [*zeros, *rms.weight, *layer.weight, *layer.bias]
    refuses(lambda: rms(zeros), ZeroDivisionError, text, leaves)
    refuses(lambda: layer(zeros), ZeroDivisionError, text, leaves)
    refuses(lambda: layer([3.0, 3.0]), ZeroDivisionError, text, leaves)
    with mingrad.errstate(all="ignore"):
        assert all(math.isnan(x) for x in rms(zeros).tolist())


def test_norms_of_constants_train_their_weights():
    for norm in (nn.RMSNorm(3), nn.LayerNorm(3)):
        for xs in ([1.0, 2.0, 4.0], tensor([1.0, 2.0, 4.0]), (1, 2, 4)):
            for p in norm.parameters():
                p.grad = 0.0
            out = norm(xs)
            out.sum().backward()
            assert norm.weight.grad == pytest.approx(out.tolist(), rel=1e-15)
        with mingrad.no_grad():
            assert not norm([1.0, 2.0, 4.0]).requires_grad
    assert norm.bias.grad == [1.0] * 3
    plain = nn.RMSNorm(3, elementwise_affine=False)
    assert not plain([1.0, 2.0, 4.0]).requires_grad and plain.parameters() == []


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: nn.RMSNorm(0), "RMSNorm: expected normalized_shape to be a positive int, got 0"),
        (lambda: nn.LayerNorm(-1), "LayerNorm: expected normalized_shape to be a positive int, got -1"),
        (lambda: nn.RMSNorm(True), "RMSNorm: expected normalized_shape to be a positive int, got True"),
        (lambda: nn.RMSNorm((2,)), "RMSNorm: expected normalized_shape to be a positive int, got (2,)"),
        (lambda: nn.RMSNorm(2, eps=-1e-9), "RMSNorm: expected eps to be a finite number, 0 or more, got -1e-09"),
        (lambda: nn.LayerNorm(2, eps=NAN), "LayerNorm: expected eps to be a finite number, 0 or more, got nan"),
        (lambda: nn.LayerNorm(2, eps=INF), "LayerNorm: expected eps to be a finite number, 0 or more, got inf"),
        (lambda: nn.RMSNorm(2)([1.0]), "RMSNorm: expected 2 inputs, got 1"),
        (lambda: nn.LayerNorm(2)([1.0, 2.0, 3.0]), "LayerNorm: expected 2 inputs, got 3"),
        (lambda: nn.LayerNorm(2)([[1.0, 2.0], [1.0]]), "LayerNorm: expected 2 inputs, got 1"),
    ],
)
def test_what_a_norm_refuses(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


# -- attention -------------------------------------------------------------------------------------

attention = nn.scaled_dot_product_attention


def by_formula(query, keys, values, heads):
    """softmax(q . k / sqrt(d)) . v for each head, in plain code over Variables and numbers."""
    d, m = len(query) // heads, len(values[0]) // heads
    out = []
    for h in range(heads):
        q = query[h * d : (h + 1) * d]
        scores = [sum(a * b for a, b in zip(q, key[h * d : (h + 1) * d])) / math.sqrt(d) for key in keys]
        weights = mingrad.softmax(scores)
        for j in range(h * m, (h + 1) * m):
            out.append(sum(w * value[j] for w, value in zip(weights, values)))
    return out


def numbers(count, seed):
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in range(count)]


SHAPES = [
    (1, 1, 1, 1),
    (4, 4, 1, 3),
    (4, 4, 2, 3),
    (4, 4, 4, 5),
    (6, 3, 3, 2),
    (8, 8, 2, 9),
    (2, 6, 2, 1),
    (16, 16, 4, 17),
]  # n, m, heads, rows


@pytest.mark.parametrize("n, m, heads, rows", SHAPES)
def test_attention_is_its_formula(n, m, heads, rows):
    def made():
        query = leaves_of(numbers(n, 1))
        keys = [leaves_of(numbers(n, 2 + t)) for t in range(rows)]
        values = [leaves_of(numbers(m, 100 + t)) for t in range(rows)]
        return query, keys, values, [*query, *sum(keys, []), *sum(values, [])]

    query, keys, values, leaves = made()
    expected, gradient = gradients(by_formula(query, keys, values, heads), leaves)
    forms = [lambda xs: xs, tuple, VariableList]
    for q_form, k_form, v_form in zip(forms, forms[1:] + forms[:1], forms[2:] + forms[:2]):
        query, keys, values, leaves = made()
        out = attention(q_form(query), [k_form(k) for k in keys], [v_form(v) for v in values], heads=heads)
        assert type(out) is VariableList and len(out) == m
        got, grads = gradients(out, leaves)
        # sums of up to 17 products of size 1, softmax, the same in another order
        assert got == pytest.approx(expected, rel=1e-13, abs=1e-14)
        assert grads == pytest.approx(gradient, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("n, m, heads, rows", SHAPES)
def test_attention_is_pytorchs(n, m, heads, rows):
    torch = pytest.importorskip("torch")
    sources = (numbers(n, 1), [numbers(n, 2 + t) for t in range(rows)], [numbers(m, 100 + t) for t in range(rows)])
    q, k, v = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in sources)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        q.reshape(heads, 1, -1), k.reshape(rows, heads, -1).transpose(0, 1), v.reshape(rows, heads, -1).transpose(0, 1)
    ).reshape(-1)
    (theirs * torch.tensor([(-0.5) ** (j % 9) for j in range(m)])).sum().backward()
    query, keys, values = leaves_of(sources[0]), *([leaves_of(row) for row in x] for x in sources[1:])
    leaves = [*query, *sum(keys, []), *sum(values, [])]
    got, grads = gradients(attention(query, keys, values, heads), leaves)
    expected = [g for x in (q, k, v) for g in x.grad.flatten().tolist()]
    assert got == pytest.approx(theirs.tolist(), rel=1e-12, abs=1e-14)
    assert grads == pytest.approx(expected, rel=1e-11, abs=1e-13)


def rows_apart(rows):
    """Keys none of which is a run: their elements lie crosswise on the tape."""
    columns = [[Variable(row[j]) for row in rows] for j in range(len(rows[0]))]
    return [[column[t] for column in columns] for t in range(len(rows))]


def test_keys_that_are_no_runs_are_copied_into_runs():
    sources = [numbers(4, t) for t in range(3)]
    expected = None
    for make in (
        lambda: [leaves_of(row) for row in sources],
        lambda: rows_apart(sources),
        lambda: [leaves_of(row[::-1])[::-1] for row in sources],
    ):
        rows = make()
        leaves = sum(rows, [])
        query = apart(numbers(4, 9))
        got = gradients(attention(query, rows, rows, 2), query + leaves)
        expected = expected or got
        assert got == expected


def test_attention_over_what_is_shared():
    """The same Variables as query, keys and values, and one Variable in many places."""
    for heads in (1, 2):
        results = []
        for call in (attention, by_formula):
            xs = leaves_of(numbers(4, 1))
            rows = [xs, xs[::-1], [xs[0]] * 4]
            results.append(gradients(call(xs, rows, rows, heads), xs))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-13)
        assert results[0][1] == pytest.approx(results[1][1], rel=1e-12, abs=1e-14)


def test_attention_with_numbers_and_constants():
    q, k, v = numbers(4, 1), [numbers(4, 2), numbers(4, 3)], [numbers(2, 4), numbers(2, 5)]
    expected = [x.data for x in by_formula([Variable(x) for x in q], k, v, 2)]
    plain = attention(q, k, v, heads=2)
    assert plain.tolist() == pytest.approx(expected, rel=1e-14)
    assert type(plain) is VariableList
    assert all(x.is_leaf and not x.requires_grad for x in plain)
    if np is not None:
        assert attention(np.array(q), np.array(k), np.array(v), 2).tolist() == plain.tolist()
        assert attention(np.array(q), list(map(np.array, k)), v, 2).tolist() == plain.tolist()
    for place in range(3):
        sources = [q, k, v]
        leaves = leaves_of(q) if place == 0 else [leaves_of(row) for row in sources[place]]
        sources[place] = leaves
        leaves = leaves if place == 0 else sum(leaves, [])
        out = attention(*sources, heads=2)
        assert out.tolist() == plain.tolist() and out.requires_grad
        mine = gradients(out, leaves)
        assert mine[1] == pytest.approx(gradients(by_formula(*sources, 2), leaves)[1], rel=1e-12, abs=1e-15)
        mingrad.collect()
        live, quiet = mingrad.tape_info().live, None
        with mingrad.no_grad():
            quiet = attention(*sources, heads=2)
        assert quiet.tolist() == plain.tolist() and all(x.is_leaf for x in quiet)
        mingrad.collect()
        assert mingrad.tape_info().live == live + 2
        del quiet


def test_attention_over_more_rows_than_a_block_holds():
    rows = 5000
    keys = [leaves_of([math.sin(t)]) for t in range(rows)]
    query = leaves_of([0.5])
    out = attention(query, keys, keys)
    out[0].backward()
    weights = [math.exp(0.5 * math.sin(t)) for t in range(rows)]
    total = math.fsum(weights)
    mean = math.fsum(w * math.sin(t) for t, w in enumerate(weights)) / total
    square = math.fsum(w * math.sin(t) ** 2 for t, w in enumerate(weights)) / total
    assert out[0].data == pytest.approx(mean, rel=1e-12)
    assert query[0].grad == pytest.approx(square - mean * mean, rel=1e-11)
    for t in (0, 1, 4095, 4096, 4999):
        p = weights[t] / total
        slope = p + 0.5 * p * (math.sin(t) - mean)
        assert keys[t][0].grad == pytest.approx(slope, rel=1e-10)


def test_attention_stands_large_scores():
    big = leaves_of([1e4, 0.0])
    out = attention(big, [[1e4, 0.0], [-1e4, 0.0]], [[1.0], [2.0]])
    assert out.tolist() == [1.0]
    out[0].backward()
    assert [v.grad for v in big] == [0.0, 0.0]


@pytest.mark.parametrize("heads", [0, -1, True, 1.0, "1", None], ids=repr)
def test_heads_that_are_no_positive_int_are_refused(heads):
    refuses(
        lambda: attention([1.0], [[1.0]], [[1.0]], heads),
        ValueError,
        f"scaled_dot_product_attention: expected heads to be a positive int, got {heads!r}",
    )


NUMBER = "expected a real number (int, float, NumPy scalar), got"
ATTENTION_REFUSALS = [
    (
        "no rows",
        lambda v: ([v, 2.0], [], []),
        ValueError,
        "expected a query and as many rows of key as of value, at least one, got 2 numbers, 0 and 0 rows",
    ),
    (
        "no query",
        lambda v: ([], [[]], [[v]]),
        ValueError,
        "expected a query and as many rows of key as of value, at least one, got 0 numbers, 1 and 1 rows",
    ),
    (
        "more keys",
        lambda v: ([v], [[v], [2.0]], [[1.0]]),
        ValueError,
        "expected a query and as many rows of key as of value, at least one, got 1 numbers, 2 and 1 rows",
    ),
    ("a short key", lambda v: ([v, 2.0], [[1.0, 2.0], [v]], [[v], [1.0]]), ValueError, "key: expected rows of 2, got one of 1"),
    ("a long value", lambda v: ([v], [[v], [v]], [[1.0], [v, 2.0]]), ValueError, "value: expected rows of 1, got one of 2"),
    (
        "three heads",
        lambda v: ([v, 2.0], [[v, 2.0]], [[v, v, v]], 3),
        ValueError,
        "expected lengths that 3 heads share evenly, got 2 and 3",
    ),
    (
        "two heads",
        lambda v: ([v, 2.0], [[v, 2.0]], [[v, v, v]], 2),
        ValueError,
        "expected lengths that 2 heads share evenly, got 2 and 3",
    ),
    ("no value", lambda v: ([v], [[v]], [[]]), ValueError, "expected lengths that 1 heads share evenly, got 1 and 0"),
    (
        "a str in a key",
        lambda v: ([v], [[v], ["a"]], [[v], [v]]),
        TypeError,
        f"key, element 0: {NUMBER} str; convert it to a float first",
    ),
    (
        "None in a value",
        lambda v: ([v], [[v]], [[None]]),
        TypeError,
        f"value, element 0: {NUMBER} NoneType; convert it to a float first",
    ),
    (
        "None in a query",
        lambda v: ([v, None], [[1.0, 2.0]], [[1.0]]),
        TypeError,
        f"query, element 1: {NUMBER} NoneType; convert it to a float first",
    ),
    (
        "numbers for rows",
        lambda v: ([v], [v], [[v]]),
        TypeError,
        "key: expected a sequence of Variables and numbers, got Variable",
    ),
]


@pytest.mark.parametrize("case", ATTENTION_REFUSALS, ids=[c[0] for c in ATTENTION_REFUSALS])
def test_what_attention_refuses_leaves_no_trace(case):
    _, arguments, kind, text = case
    v = Variable(1.0)
    args = arguments(v)
    refuses(lambda: attention(*args), kind, f"scaled_dot_product_attention: {text}", [v])


# -- whatever the tape does ------------------------------------------------------------------------


def everything():
    """A bit of all that is in this file, as the bits of values and gradients."""
    seen = []
    leaves = leaves_of(numbers(12, 1))
    runs = VariableList(leaves), VariableList(leaves[::-1]), VariableList(apart(range(5))) * 0.1
    for xs in runs:
        held = list(xs)
        for out in (
            xs * 2.0 + xs,
            1.0 / (xs * xs + 1.0),
            xs - 0.5,
            xs.clamp(-0.5, [0.7] * len(xs)),
            nn.GELU()(xs),
            nn.ELU(0.5)(nn.Tanh()(xs)),
            nn.Softmax()(xs),
            nn.RMSNorm(len(xs))(xs),
            nn.LayerNorm(len(xs))(xs),
            attention(xs[:4], [xs[:4], xs[1:5]], [xs[:3], xs[2:5]]),
            attention(xs[:4], [xs[:4], held[:4][::-1]], [held[:2], held[:2]], 2),
        ):
            seen.append(gradients(out, leaves))
    return seen


@pytest.mark.parametrize("young", [1, 3, 64])
def test_collections_at_any_moment_change_no_bit(young):
    expected = everything()
    with stress(young):
        assert everything() == expected


def test_every_instruction_set_gives_the_same_bits():
    same_by_each_instruction_set(everything)


def test_a_refused_pass_through_a_list_changes_nothing():
    xs = tensor([0.5, 1.5, 2.5], requires_grad=True)
    for make in (
        lambda: nn.Tanh()(xs).sum(),
        lambda: (xs * xs).sum(),
        lambda: attention(xs, [xs], [xs]).sum(),
        lambda: nn.RMSNorm(3)(xs).sum(),
        lambda: nn.LayerNorm(3)(xs)[2],
        lambda: nn.Softmax()(xs)[0],
    ):
        for k in range(3):
            xs.grad = 1.0
            out = make()
            xs[k].data = xs[k].data + 0.25
            with pytest.raises(RuntimeError, match="forward pass"):
                out.backward()
            assert xs.grad == [1.0] * 3
            make().backward()


def test_blocks_that_a_collection_joined_are_refused_where_a_leaf_was_written_between_them():
    """The operands that lay between two blocks have died, so that both look like one."""
    for written in range(6):
        xs = tensor([0.5 + k for k in range(7)], requires_grad=True)
        held = list(xs)
        first = list(nn.Tanh()(held[:3]))
        held[min(written, 5)].data = 9.0
        second = list(nn.Tanh()(held[3:]))
        del xs, held[3], second[0]
        mingrad.collect()
        for v in held:
            v.grad = 1.0
        mingrad.sum(second).backward()
        assert [v.grad for v in held[:3]] == [1.0] * 3 and held[3].grad != 1.0
        for v in held:
            v.grad = 1.0
        loss = mingrad.sum(second + first)
        if written < 3:
            with pytest.raises(RuntimeError, match="forward pass"):
                loss.backward()
            assert [v.grad for v in held] == [1.0] * 6
        else:
            loss.backward()
            assert all(v.grad != 1.0 for v in held)


def test_the_check_of_bits_notices_the_last_one():
    with pytest.raises(AssertionError):
        assert_same_list([1.0, 2.0], [1.0, 2.0 + 2**-51])
    with pytest.raises(AssertionError):
        assert_same_list([0.0], [-0.0])
    with pytest.raises(AssertionError):
        assert_same_list([1.0], [1.0, 2.0])
    assert same_bits(NAN, -NAN)
    v = Variable(1.0)
    for change in (
        lambda: setattr(v, "grad", 5.0),
        lambda: setattr(v, "data", 5.0),
        lambda: setattr(v, "requires_grad", False),
    ):
        with pytest.raises(AssertionError), no_trace([v]):
            change()
    held = []
    with pytest.raises(AssertionError), no_trace():
        held.append(Variable(2.0))
