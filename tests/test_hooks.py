"""Hooks on adjoints: Variable.register_hook(), in every kind of pass and whatever a hook does.

The oracle is PyTorch's Tensor.register_hook where it is installed, on random graphs and on dense
layers; and mingrad without hooks, since a hook that gives its adjoint back must change no bit.
Then: what hooks may do in the middle of a pass (record, run passes, collect, raise, register and
remove hooks), who lives how long, threads, failing allocations.
"""

import copy
import gc
import itertools
import math
import pickle
import random
import sys
import threading
import types
import warnings
import weakref

import pytest

import mingrad
import reference
from helpers import EXACT, LIBM, NARY, OTHER, assert_same_bits, build, random_graph, run_python
from mingrad import Variable, _core, nn, optim
from watch import live_now, no_trace, refuses, stress


def value(x):
    return x.data if isinstance(x, Variable) else x


BOTH = pytest.mark.parametrize("create_graph", [False, True], ids=["numbers", "recorded"])


# -- what a hook is given, and what it gives back --------------------------------------------------


@BOTH
def test_hooks_are_called_in_their_order_each_with_what_the_one_before_gave(create_graph):
    x = Variable(3.0)
    y = x * 2.0
    seen = []
    y.register_hook(lambda a: seen.append(a))
    y.register_hook(lambda a: seen.append(a) or a * 10.0)
    y.register_hook(lambda a: seen.append(a) or a + 1.0)
    y.register_hook(lambda a: seen.append(a))
    (y * y).backward(create_graph=create_graph)
    assert [value(a) for a in seen] == [12.0, 12.0, 120.0, 121.0]
    assert (value(y.grad), value(x.grad)) == (121.0, 242.0)
    assert {type(a) for a in seen} == {Variable if create_graph else float}
    seen.clear()  # a hook that holds what came of its own Variable keeps it


@BOTH
def test_a_hook_sees_the_sum_over_all_paths_and_is_called_once(create_graph):
    x = Variable(3.0)
    y = x * 2.0
    seen = []
    y.register_hook(lambda a: seen.append(value(a)))
    z = y * y + mingrad.sum([y, y, 5.0]) + mingrad.dot([y, 1.0], [2.0, y])
    z.backward(create_graph=create_graph)
    assert seen == [12.0 + 2.0 + 3.0]


@BOTH
def test_hooks_of_what_a_compiled_function_takes_and_captures_are_called_once(create_graph):
    w, x = Variable(1.5), Variable(0.5)
    compiled = mingrad.compile(lambda x: w * x * x)
    seen = []
    for name, v in (("w", w), ("x", x)):
        v.register_hook(lambda g, name=name: seen.append((name, float(getattr(g, "data", g)))) or -g)
    for _ in range(2):  # the recording, and a run of it
        seen.clear()
        w.zero_grad(), x.zero_grad()
        compiled(x).backward(2.0, create_graph=create_graph)
        assert sorted(seen) == [("w", 0.5), ("x", 3.0)]
        assert [float(getattr(v.grad, "data", v.grad)) for v in (w, x)] == [-0.5, -3.0]


def test_a_walk_that_makes_a_schedule_goes_on_although_another_thread_is_in_a_walk():
    """The schedule is made without the GIL; going on with the other's walk, it would write where it likes."""
    run_python(
        """
        import threading, time
        import mingrad
        from mingrad import Variable

        def beside():
            x = Variable(2.0)
            y = x * x
            y.register_hook(lambda g: time.sleep(0.002))
            while not over:
                y.backward()

        over = False
        thread = threading.Thread(target=beside)
        thread.start()
        try:
            for n in range(8):
                f = mingrad.compile(lambda xs: sum((xs[i % 7] * (i % 3 + n) for i in range(2000)), 0.0))
                numbers = [0.25 * k for k in range(7)]
                f(numbers), f(numbers)  # a run of numbers wants no gradients
                xs = [Variable(x) for x in numbers]
                (f(xs) * 2.0).backward()
                assert [x.grad for x in xs] == [2.0 * sum(i % 3 + n for i in range(2000) if i % 7 == k) for k in range(7)]
        finally:
            over = True
            thread.join()
        """
    )


@BOTH
def test_a_hook_on_a_leaf_sees_its_pass_alone_and_what_it_gives_is_added(create_graph):
    x = Variable(3.0)
    seen = []
    x.register_hook(lambda a: seen.append(value(a)) or -a)
    for _ in range(2):
        (x * x).backward(create_graph=create_graph)
    assert seen == [6.0, 6.0]
    assert value(x.grad) == -12.0


@BOTH
def test_a_hook_on_the_root_sees_the_seed(create_graph):
    x = Variable(3.0)
    y = x * 2.0
    y.register_hook(lambda a: a + 4.0)
    y.backward(1.5, create_graph=create_graph)
    assert (value(y.grad), value(x.grad)) == (5.5, 11.0)
    x = Variable(3.0)
    x.register_hook(lambda a: a + 4.0)
    x.backward(1.5, create_graph=create_graph)
    assert value(x.grad) == 5.5


@pytest.mark.parametrize("answer", [7, 7.0, True, "numpy", "Variable", "constant"])
@BOTH
def test_a_hook_may_give_any_number(answer, create_graph):
    if answer == "numpy":
        answer = pytest.importorskip("numpy", reason="NumPy is not installed").float32(7.0)
    elif isinstance(answer, str):
        answer = Variable(7.0, requires_grad=answer == "Variable")
    x = Variable(3.0)
    y = x * 2.0
    y.register_hook(lambda a: answer)
    (y * y).backward(create_graph=create_graph)
    assert value(y.grad) == value(answer) and value(x.grad) == 2.0 * value(answer)
    assert type(x.grad) is (Variable if create_graph else float)


@pytest.mark.parametrize("answer, kind", [("7", "str"), ([7.0], "list"), (7j, "complex")])
@BOTH
def test_a_hook_that_gives_no_number_is_refused(answer, kind, create_graph):
    x = Variable(3.0)
    y = x * 2.0
    y.register_hook(lambda a: answer)
    text = f"what a hook of register_hook() returned: expected a real number (int, float, NumPy scalar), got {kind}; "
    with no_trace([x]), pytest.raises(TypeError) as caught:
        y.backward(create_graph=create_graph)
    assert str(caught.value).startswith(text)


def test_what_a_recorded_hook_gives_is_differentiated():
    """The adjoint of y becomes its own cube times x: 1 * x**3 -> x.grad = (2 x)**3 * x * 2."""
    x = Variable(1.5)
    y = x * 2.0
    y.register_hook(lambda a: a**3 * x)
    (y * y * 0.5).backward(create_graph=True)
    assert x.grad.data == pytest.approx(16.0 * 1.5**4, rel=1e-15)
    g = x.grad
    x.zero_grad()
    y.zero_grad()
    g.backward()
    # Through the hook of y once more: g uses y, whose adjoint 3 y**2 x * 2 is cubed again.
    own = y.data**3 * 2.0
    through = (3.0 * y.data**2 * x.data * 2.0) ** 3 * x.data * 2.0
    assert x.grad == pytest.approx(own + through, rel=1e-14)


def test_a_number_in_a_recorded_pass_is_a_variable_for_the_hook_too():
    x = Variable(3.0)
    y = x * 2.0
    seen = []
    y.register_hook(seen.append)
    y.register_hook(lambda a: 5.0)
    y.register_hook(seen.append)
    y.backward(create_graph=True)
    assert [type(a) for a in seen] == [Variable, Variable] and [a.data for a in seen] == [1.0, 5.0]


def test_hooks_get_adjoints_of_zero_but_not_of_nodes_out_of_reach():
    x, other = Variable(3.0), Variable(1.0)
    seen = []
    x.register_hook(seen.append)
    other.register_hook(seen.append)
    (x * 0.0).backward()
    assert seen == [0.0]


def test_a_hook_may_pass_on_inf_and_nan():
    for strange in (math.inf, -math.inf, math.nan):
        x = Variable(3.0)
        y = x * 2.0
        y.register_hook(lambda a: strange)
        y.backward()
        assert_same_bits(x.grad, strange)


def test_hooks_work_in_no_grad_and_record_nothing_there():
    x = Variable(3.0)
    y = x * 2.0
    kinds = []
    y.register_hook(lambda a: kinds.append((x * 1.0).requires_grad) or a * 2.0)
    with mingrad.no_grad():
        y.backward()
        assert (x.grad, kinds) == (4.0, [False])
        y.backward(create_graph=True)
        assert not mingrad.is_grad_enabled()
    assert x.grad.data == 8.0 and kinds == [False, True]


# -- registering and removing ----------------------------------------------------------------------


def test_a_removed_hook_is_not_called_and_removing_twice_does_nothing():
    x = Variable(3.0)
    y = x * 2.0
    seen = []
    first = y.register_hook(lambda a: seen.append("first"))
    second = y.register_hook(lambda a: seen.append("second"))
    first.remove()
    first.remove()
    y.backward()
    assert seen == ["second"]
    second.remove()
    first.remove()
    y.backward()
    assert seen == ["second"] and x.grad == 4.0
    third = y.register_hook(lambda a: seen.append("third"))
    second.remove()
    y.backward()
    assert seen == ["second", "third"]
    third.remove()


@BOTH
def test_a_hook_may_remove_itself_and_others(create_graph):
    x = Variable(3.0)
    y = x * 2.0
    seen = []
    handles = {}

    def once(name, *others):
        def hook(adjoint):
            seen.append(name)
            for other in (name, *others):
                handles[other].remove()

        return hook

    handles["y"] = y.register_hook(once("y"))
    handles["x"] = x.register_hook(once("x"))
    y.backward(create_graph=create_graph)
    y.backward(create_graph=create_graph)
    assert seen == ["y", "x"] and value(x.grad) == 4.0
    seen.clear()
    handles["y"] = y.register_hook(once("y", "x"))  # x's turn would come later in the pass
    handles["x"] = x.register_hook(once("x"))
    y.backward(create_graph=create_graph)
    assert seen == ["y"] and value(x.grad) == 6.0


@BOTH
def test_a_hook_may_register_hooks_and_those_below_count_in_this_pass(create_graph):
    x = Variable(3.0)
    y = x * 2.0
    z = y * 5.0
    seen = []

    def hook(adjoint):
        seen.append("z")
        if len(seen) == 1:
            z.register_hook(lambda a: seen.append("z again"))
            y.register_hook(lambda a: seen.append("y"))
            x.register_hook(lambda a: seen.append("x"))

    handle = z.register_hook(hook)
    z.backward(create_graph=create_graph)
    assert seen == ["z", "y", "x"]
    z.backward(create_graph=create_graph)
    assert seen == ["z", "y", "x", "z", "z again", "y", "x"]
    handle.remove()  # it names its own Variable, and so would keep it


def test_the_same_function_may_be_registered_twice():
    x = Variable(3.0)
    twice = lambda a: a * 2.0
    handles = [x.register_hook(twice), x.register_hook(twice)]
    x.backward()
    assert x.grad == 4.0
    handles[0].remove()
    x.backward()
    assert x.grad == 6.0


def test_a_handle_may_outlive_the_node():
    y = Variable(3.0) * 2.0
    handle = y.register_hook(print)
    del y
    mingrad.collect()
    other = Variable(1.0) * 2.0  # in the same place on the tape
    seen = []
    kept = other.register_hook(seen.append)
    handle.remove()
    other.backward()
    assert seen == [1.0]
    kept.remove()


def test_a_handle_without_hooks_can_be_made_and_removed():
    handle = type(Variable(1.0).register_hook(print))
    handle({}).remove()
    handle.__new__(handle).remove()
    with pytest.raises(TypeError):
        handle(None)


def test_many_hooks_are_called_and_removed():
    xs = [Variable(float(k)) for k in range(500)]
    seen = []
    handles = [x.register_hook(seen.append) for x in xs for _ in range(4)]
    mingrad.dot(xs, xs).backward()
    assert sorted(seen) == sorted(2.0 * k for k in range(500) for _ in range(4))
    random.Random(1).shuffle(handles)
    for handle in handles:
        handle.remove()
    seen.clear()
    mingrad.dot(xs, xs).backward()
    assert seen == [] and xs[7].grad == 28.0


X = Variable(2.0)
REFUSED = [
    (
        lambda: Variable(1.0, requires_grad=False).register_hook(print),
        RuntimeError,
        "register_hook on Variable(data=1.0, grad=0.0), which requires no gradient: no pass will reach it",
    ),
    (
        lambda: (X * 2.0).detach().register_hook(print),
        RuntimeError,
        "register_hook on Variable(data=4.0, grad=0.0), which requires no gradient: no pass will reach it",
    ),
    (
        lambda: mingrad.no_grad()(lambda: X * 3.0)().register_hook(print),
        RuntimeError,
        "register_hook on Variable(data=6.0, grad=0.0), which requires no gradient: no pass will reach it",
    ),
    (lambda: X.register_hook(3.0), TypeError, "register_hook: expected a function of the adjoint, got float"),
    (lambda: X.register_hook(None), TypeError, "register_hook: expected a function of the adjoint, got NoneType"),
]


@pytest.mark.parametrize("call, kind, text", REFUSED, ids=[text[:60] for *_, text in REFUSED])
def test_what_register_hook_refuses(call, kind, text):
    refuses(call, kind, text)


# -- what a hook may do in the middle of a pass ----------------------------------------------------


def graph():
    """A graph with a hook's place in the middle: leaves, where the hook goes, root."""
    x, w = Variable(1.5), Variable(-0.5)
    h = mingrad.tanh(x * w)
    return [x, w], h, mingrad.sum([h * h, mingrad.exp(h) * x, w])


def undisturbed():
    leaves, h, root = graph()
    root.backward()
    return [leaf.grad for leaf in leaves], h.grad


def records_nodes():
    keep = [Variable(float(k)) for k in range(300)]
    return mingrad.sum(x * x for x in keep)


def drops_what_it_records():
    for k in range(300):
        Variable(float(k)) * 2.0


def collects():
    records_nodes()
    assert mingrad.collect() == 0  # no node moves while a walk is at work


def collects_cycles():
    class Cycle:
        def __init__(self):
            self.me, self.node = self, Variable(1.0) * 2.0

        def __del__(self):
            records_nodes()

    Cycle()
    gc.collect(0)


def runs_another_pass():
    x = Variable(3.0)
    (x * x).backward()
    assert x.grad == 6.0


def runs_a_recorded_pass():
    x = Variable(3.0)
    (x**3).backward(create_graph=True)
    x.grad.backward()


def takes_derivatives():
    assert mingrad.grad(lambda x: x**3)(2.0) == 12.0
    assert mingrad.hessian(lambda x: x[0] ** 2 * x[1])([3.0, 5.0]) == [[10.0, 6.0], [6.0, 0.0]]
    assert mingrad.jvp(mingrad.grad(lambda x: x**4), (2.0,), (1.0,)) == (32.0, 48.0)


def runs_a_pass_with_hooks():
    x = Variable(3.0)
    y = x * x
    seen = []
    y.register_hook(lambda a: seen.append(a) or drops_what_it_records() or collects())
    (y * 2.0).backward()
    assert seen == [2.0] and x.grad == 12.0


def catches_an_error():
    x = Variable(3.0)
    y = x * x
    y.register_hook(lambda a: 1 / 0)
    for create_graph in (False, True):
        with pytest.raises(ZeroDivisionError):
            y.backward(create_graph=create_graph)
    assert x.grad == 0.0


def trains_a_layer():
    model = nn.MLP(2, [3, 1])
    optimizer = optim.Adam(model.parameters())
    nn.mse_loss(model([[1.0, 2.0], [3.0, 4.0]]), [1.0, 2.0]).backward()
    optimizer.step()
    optimizer.zero_grad()


def switches_recording_off():
    with mingrad.no_grad():
        records_nodes()


def looks_at_the_tape():
    mingrad.tape_info()
    repr(X), X._prev, X.label


DEEDS = [
    records_nodes,
    drops_what_it_records,
    collects,
    collects_cycles,
    runs_another_pass,
    runs_a_recorded_pass,
    takes_derivatives,
    runs_a_pass_with_hooks,
    catches_an_error,
    trains_a_layer,
    switches_recording_off,
    looks_at_the_tape,
]


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
@BOTH
def test_whatever_a_hook_does_the_pass_goes_on(deed, create_graph):
    expected = undisturbed()
    for young in (None, 1):
        with stress(young, 1 if young else None):
            leaves, h, root = graph()
            calls = []
            for v in (*leaves, h, root):
                v.register_hook(lambda a: calls.append(deed()))
            root.backward(create_graph=create_graph)
            assert len(calls) == 4
            assert ([value(leaf.grad) for leaf in leaves], value(h.grad)) == expected
            if create_graph:  # and the graph of the adjoints is whole
                g = leaves[0].grad
                leaves[0].zero_grad()
                g.backward()
                second = leaves[0].grad
    leaves, h, root = graph()
    root.backward(create_graph=True)
    g = leaves[0].grad
    leaves[0].zero_grad()
    g.backward()
    assert not create_graph or second == leaves[0].grad


@BOTH
def test_a_hook_may_run_the_same_graph_again(create_graph):
    (x_grad, w_grad), _ = undisturbed()
    (x, w), h, root = graph()
    depth = []

    def hook(adjoint):
        if len(depth) < 3:
            depth.append(adjoint)
            root.backward(create_graph=create_graph)

    h.register_hook(hook)
    root.backward(create_graph=create_graph)
    assert value(x.grad) == pytest.approx(4 * x_grad) and value(w.grad) == pytest.approx(4 * w_grad)


@BOTH
def test_passes_nested_in_hooks_to_depth_20(create_graph):
    """Each pass has a walk of its own."""

    def nested(depth):
        x = Variable(1.0 + depth)
        y = x * 3.0
        inner = []
        if depth:
            y.register_hook(lambda a: inner.append(nested(depth - 1)))
        (y * y).backward(create_graph=create_graph)
        assert value(x.grad) == 18.0 * (1.0 + depth)
        return 1 + sum(inner)

    assert nested(20) == 21


def test_a_hook_may_set_the_grad_of_another_variable():
    x, other = Variable(3.0), Variable(1.0)
    y = x * 2.0
    y.register_hook(lambda a: setattr(other, "grad", a))
    (y * y).backward()
    assert (other.grad, x.grad) == (12.0, 24.0)


@BOTH
def test_a_leaf_that_a_hook_writes_is_refused_or_does_not_count(create_graph):
    """The partial of x * w by x is w's value when it was recorded, or the pass is stale."""
    x, w = Variable(3.0), Variable(2.0)
    y = x * w
    y.register_hook(lambda a: setattr(w, "data", 100.0))
    try:
        (y * y).backward(create_graph=create_graph)
    except RuntimeError as error:
        assert "was written by a hook or a custom rule while a pass" in str(error)
        assert (x.grad, w.grad) == (0.0, 0.0)
    else:
        assert (value(x.grad), value(w.grad)) == (24.0, 36.0)


@BOTH
def test_a_constant_that_a_hook_writes_is_refused_or_does_not_count(create_graph):
    x, c = Variable(3.0), Variable(2.0, requires_grad=False)
    y = x * c
    y.register_hook(lambda a: setattr(c, "data", 100.0))
    try:
        (y * y).backward(create_graph=create_graph)
    except RuntimeError as error:
        assert "was written by a hook or a custom rule while a pass" in str(error)
    else:
        assert value(x.grad) == 24.0


@BOTH
def test_an_optimisers_step_in_a_hook_is_refused_while_its_weights_are_needed(create_graph):
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    ys = model([0.5, -0.5])
    for p in model.parameters():
        p.grad = 1.0
    ys[0].register_hook(lambda a: optimizer.step())
    text = "was written by a hook or a custom rule while a pass that depends on it was at work; write it after the pass"
    with pytest.raises(RuntimeError, match=text):
        (ys[0] * ys[1]).backward(create_graph=create_graph)
    assert [p.grad for p in model.parameters()] == [1.0] * 6


@BOTH
def test_a_hook_may_write_leaves_that_the_pass_does_not_need(create_graph):
    x, other = Variable(3.0), Variable(1.0)
    aside = other * 2.0
    y = x * 2.0
    y.register_hook(lambda a: setattr(other, "data", value(a)))
    (y * y).backward(create_graph=create_graph)
    assert (other.data, value(x.grad)) == (12.0, 24.0)
    with pytest.raises(RuntimeError, match="run the forward pass again"):
        aside.backward()


# -- hooks that raise ------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop(adjoint):
    raise Stop


@pytest.mark.parametrize("place", ["x", "w", "h", "root"])
@BOTH
def test_a_hook_that_raises_leaves_every_grad_and_the_tape(place, create_graph):
    (x, w), h, root = graph()
    root.backward()
    handle = {"x": x, "w": w, "h": h, "root": root}[place].register_hook(stop)
    interior = h.grad, root.grad
    with no_trace([x, w]), pytest.raises(Stop):
        root.backward(3.0, create_graph=create_graph)
    assert (h.grad, root.grad) == interior
    handle.remove()
    x.zero_grad(), w.zero_grad()
    root.backward()
    assert ([x.grad, w.grad], h.grad) == undisturbed()


@BOTH
def test_a_gradient_that_is_a_variable_survives_a_hook_that_raises(create_graph):
    (x, w), h, root = graph()
    root.backward(create_graph=True)
    held = x.grad, w.grad, h.grad
    handle = x.register_hook(stop)
    for _ in range(3):
        with pytest.raises(Stop):
            root.backward(create_graph=create_graph)
    assert all(a is b for a, b in zip((x.grad, w.grad, h.grad), held))
    handle.remove()
    root.backward(create_graph=True)
    assert x.grad.data == 2.0 * held[0].data


@BOTH
def test_an_interrupt_in_a_hook_ends_the_pass(create_graph):
    (x, w), h, root = graph()

    def interrupt(adjoint):
        raise KeyboardInterrupt

    h.register_hook(interrupt)
    with no_trace([x, w]), pytest.raises(KeyboardInterrupt):
        root.backward(create_graph=create_graph)


TRANSFORMS = ["grad", "value_and_grad", "jacrev", "hessian"]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_hook_that_raises_in_a_transform_leaves_nothing(transform):
    w = Variable(2.0)
    w.register_hook(stop)

    def f(x, hooked):
        y = x * x
        if hooked:
            y.register_hook(stop)
        return y * x

    refuses(lambda: getattr(mingrad, transform)(lambda x: f(x, True))(3.0), Stop, "", [w])
    assert getattr(mingrad, transform)(lambda x: f(x, False))(3.0) is not None


# -- transforms ------------------------------------------------------------------------------------


def hooked(x):
    """9 x where hooks count: the adjoint of y is times 10, that of z becomes its half."""
    y = x * x
    y.register_hook(lambda a: a * 10.0)
    z = y * 1.0
    z.register_hook(lambda a: a * 0.5)
    return z * 0.9


def test_hooks_count_in_reverse_mode_and_not_in_forward_mode():
    x = 3.0
    assert mingrad.grad(hooked)(x) == pytest.approx(9.0 * x)
    assert mingrad.value_and_grad(hooked)(x)[1] == pytest.approx(9.0 * x)
    assert mingrad.jacrev(hooked)(x) == pytest.approx(9.0 * x)
    assert mingrad.vjp(hooked, x)[1](1.0)[0] == pytest.approx(9.0 * x)
    assert mingrad.jvp(hooked, (x,), (1.0,))[1] == pytest.approx(1.8 * x)
    assert mingrad.jacfwd(hooked)(x) == pytest.approx(1.8 * x)


def test_second_derivatives_are_those_of_the_gradient_with_hooks():
    assert mingrad.hessian(hooked)(3.0) == pytest.approx(9.0)
    assert mingrad.hessian(hooked, sparse=True)(3.0)[2] == [pytest.approx(9.0)]
    assert mingrad.hvp(hooked, (3.0,), (2.0,)) == pytest.approx(18.0)
    assert mingrad.derivative(hooked, 2)(3.0) == pytest.approx(9.0)
    assert mingrad.jacfwd(mingrad.grad(hooked))(3.0) == pytest.approx(9.0)
    many = mingrad.hessian(lambda x: mingrad.sum(map(hooked, x)))([3.0] * 40)
    assert many == [[pytest.approx(9.0) if j == k else 0.0 for k in range(40)] for j in range(40)]


def test_a_hook_on_a_transforms_own_input_counts():
    seen = []

    def f(x):
        x.register_hook(lambda a: seen.append(a) or a * 10.0)
        return x * x

    assert mingrad.grad(f)(3.0) == 60.0 and seen == [6.0]


def test_every_pull_of_a_vjp_and_every_row_of_a_jacobian_calls_hooks():
    seen = []

    def f(x):
        y = x * 2.0
        y.register_hook(lambda a: seen.append(a))
        return [y, y * 3.0]

    _, pull = mingrad.vjp(f, 1.0)
    assert seen == []
    pull([1.0, 0.0]), pull([1.0, 1.0])
    assert seen == [1.0, 4.0]
    seen.clear()
    assert mingrad.jacrev(f)(1.0) == [2.0, 6.0] and seen == [1.0, 3.0]


def test_a_hook_on_a_variable_that_the_function_closes_over_is_not_on_the_way():
    """grad() asks for the derivative by x alone; the walk does not go to w."""
    w = Variable(2.0)
    seen = []
    w.register_hook(seen.append)
    g = mingrad.grad(lambda x: w * x)(3.0)
    assert g.data == 2.0 and seen == []
    g.backward()
    assert seen == [1.0]


# -- who lives how long ----------------------------------------------------------------------------


@BOTH
def test_a_hook_belongs_to_the_node_not_to_the_variable(create_graph):
    x = Variable(3.0)
    seen = []

    def make():
        y = x * 2.0
        y.register_hook(lambda a: seen.append(value(a)) or a * 2.0)
        return y * y

    z = make()
    live_now()
    z.backward(create_graph=create_graph)
    assert seen == [12.0] and value(x.grad) == 48.0


def test_a_hook_dies_with_its_node_or_when_it_is_removed():
    class Hook:
        def __call__(self, adjoint):
            return None

    x = Variable(3.0)
    hook = Hook()
    gone = weakref.ref(hook)
    y = x * 2.0
    z = y * 3.0
    handle = y.register_hook(hook)
    del hook, y
    live_now()
    assert gone() is not None
    handle.remove()
    live_now()
    assert gone() is None
    hook = Hook()
    gone = weakref.ref(hook)
    y = x * 2.0
    z = y * 3.0
    handle = y.register_hook(hook)  # holds the dict of hooks, so it must not be what keeps them
    del hook, y, z, handle
    live_now()
    gc.collect()
    assert gone() is None


def test_a_hook_dies_with_its_node_without_pythons_collector():
    class Hook:
        def __call__(self, adjoint):
            return None

    gc.disable()
    try:
        y = Variable(3.0) * 2.0
        hook = Hook()
        gone = weakref.ref(hook)
        y.register_hook(hook)
        del hook, y
        live_now()
        assert gone() is None
    finally:
        gc.enable()


def test_hooks_leave_no_trace_in_a_training_loop():
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    found = []
    for step in range(1000):
        ys = model([0.5, -0.5])
        ys[0].register_hook(lambda a: max(min(a, 1.0), -1.0))
        handle = ys[1].register_hook(lambda a: None)
        optimizer.zero_grad()
        (ys[0] * ys[0] + ys[1]).backward()
        optimizer.step()
        handle.remove()
        if step % 200 == 199:
            del ys, handle
            found.append((live_now(), mingrad.tape_info().bytes))
    assert len(set(found[1:])) == 1, found  # before the first, the tape was as other tests left it


def test_a_hook_that_names_its_own_variable_keeps_its_graph_until_it_is_removed():
    """Python's collector does not see the node between them."""

    def make():
        y = Variable(3.0) * 2.0
        return y.register_hook(lambda a: a * y.data)

    before = live_now()
    handles = [make() for _ in range(10)]
    gc.collect()
    assert live_now() > before
    for handle in handles:
        handle.remove()
    assert live_now() == before


def test_a_hook_may_hold_the_last_reference_to_its_own_graph():
    """The node's Variable dies in the hook; the pass holds what it needs."""
    x = Variable(3.0)
    held = [x * 2.0]
    root = held[0] * held[0]
    held[0].register_hook(lambda a: held.clear())
    root.backward()
    assert x.grad == 24.0


@BOTH
def test_variables_and_graphs_may_die_in_a_hook(create_graph):
    x = Variable(3.0)
    things = [x * float(k) for k in range(50)]
    root = mingrad.sum(t * t for t in things)
    expected = sum(2.0 * k * k * 3.0 for k in range(50))
    for k in range(0, 50, 7):
        things[k].register_hook(lambda a: things.pop() and None)
    root.backward(create_graph=create_graph)
    assert value(x.grad) == expected
    things.clear()  # which the hooks hold


def test_copies_of_a_hooked_leaf_have_no_hooks():
    x = Variable(3.0, label="x")
    seen = []
    x.register_hook(seen.append)
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        (twin * twin).backward()
        assert seen == [] and twin.grad == 6.0 and twin.label == "x"
    model = nn.Linear(2, 1)
    model.weight[0][1].register_hook(lambda a: seen.append(a))
    twin = copy.deepcopy(model)
    twin([1.0, 2.0])[0].backward()
    assert seen == []
    model([1.0, 2.0])[0].backward()
    assert seen == [2.0]


def test_hooks_follow_their_nodes_when_the_collector_moves_them():
    """Random graphs with hooks on a third of the nodes; others die in between."""
    for seed in range(6):
        spec = random_graph(seed, 60, EXACT + LIBM + NARY, reference)
        logs = []
        for young in (None, 1, 3):
            with stress(young, 1 if young else None):
                log = []
                rng = random.Random(seed)
                dead = [Variable(1.0) for _ in range(20)]

                def after(k, thing, operands):
                    dead.pop() if dead else None
                    if rng.random() < 0.3:
                        thing.register_hook(lambda a, k=k: log.append((k, a)) or a * 1.5)

                things, _ = build(spec, mingrad, after)
                leaves = [v for v, (name, *_) in zip(things, spec) if name == "leaf"]
                root = things[-1]
                del things
                dead.clear()
                mingrad.collect()
                root.backward()
                logs.append((repr(log), [v.grad for v in leaves]))
        assert logs[0] == logs[1] == logs[2] and len(log) > 5


# -- the watched sweep against the fast one --------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_hook_that_changes_nothing_changes_no_bit_on_a_scalar_graph(seed):
    """One hook anywhere on the tape, and the pass goes another way through the core."""
    names = [name for name in EXACT + LIBM + OTHER + NARY if name != "dot"]
    spec = random_graph(seed, 150, names, reference)
    plain, _ = build(spec, mingrad)
    plain[-1].backward(1.25)
    watched, _ = build(spec, mingrad)
    somewhere = Variable(0.0)  # not in the graph
    handle = somewhere.register_hook(stop)
    watched[-1].backward(1.25)
    handle.remove()
    hooks, _ = build(spec, mingrad)
    rng = random.Random(seed)
    for v in rng.sample(hooks, 20):
        if v.requires_grad:
            v.register_hook(lambda a: rng.choice([None, a]))
    hooks[-1].backward(1.25)
    for k, (a, b, c) in enumerate(zip(plain, watched, hooks)):
        assert_same_bits(b.grad, a.grad, f"entry {k} {spec[k]}, watched")
        assert_same_bits(c.grad, a.grad, f"entry {k} {spec[k]}, hooked")


@pytest.mark.parametrize("seed", range(6))
def test_a_hook_that_changes_nothing_changes_a_dot_by_roundings(seed):
    """Where both ranges share operands their contributions come in another order: sums of at most
    35 terms of size one."""
    spec = random_graph(seed, 60, EXACT + ["dot", "tanh", "sin"], reference)
    found = []
    for hook in (None, lambda a: None):
        things, _ = build(spec, mingrad)
        if hook:
            things[0].register_hook(hook)
        things[-1].backward()
        found.append([v.grad for v in things])
    scale = max(1.0, *map(abs, found[0]))
    assert found[1] == pytest.approx(found[0], rel=1e-13, abs=1e-14 * scale)


def model_and_loss(seed):
    rng = random.Random(seed)
    hidden = nn.Linear(3, 5)
    rest = nn.Sequential(nn.Tanh(), nn.Linear(5, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 2))
    for p in hidden.parameters() + rest.parameters():
        p.data = rng.uniform(-1, 1)
    rows = [[rng.uniform(-1, 1) for _ in range(3)] for _ in range(6)]
    return hidden, rest, rows


@pytest.mark.parametrize("batch", [False, True], ids=["one sample", "six samples"])
def test_a_hook_that_changes_nothing_changes_layers_by_roundings(batch):
    """Sums over six samples and five inputs, all of size one, in another order."""
    found = []
    for hook in (None, lambda a: None):
        hidden, rest, rows = model_and_loss(4)
        h = hidden(rows if batch else rows[0])
        if hook:
            (h[2][1] if batch else h[1]).register_hook(hook)
            hidden.weight[0][0].register_hook(hook)
        ys = rest(h)
        targets = [k % 2 for k in range(6)] if batch else 1
        nn.cross_entropy(ys, targets).backward()
        found.append([p.grad for p in hidden.parameters() + rest.parameters()])
    assert found[1] == pytest.approx(found[0], rel=1e-12, abs=1e-15)
    assert any(found[0])


def test_frozen_weights_stay_without_gradient_when_a_pass_is_watched():
    for watched in (False, True):
        layer = nn.Linear(2, 2)
        layer.weight[0][1].requires_grad = False
        layer.bias[1].requires_grad = False
        seen = []
        ys = layer([Variable(1.0), Variable(2.0)])
        if watched:
            ys[0].register_hook(seen.append)
        (ys[0] + ys[1] * 3.0).backward()
        assert [p.grad for row in layer.weight for p in row] == [1.0, 0.0, 3.0, 6.0]
        assert [p.grad for p in layer.bias] == [1.0, 0.0] and seen == [1.0] * watched


# -- PyTorch ---------------------------------------------------------------------------------------

SHARED = "+ - * / neg square tanh exp sin cos sigmoid softplus".split() + [
    "sum",
    "prod",
    "mean",
    "logsumexp",
    "norm",
    "dot",
    "softmax",
]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def torch_engine(torch):
    """PyTorch under the names that helpers.build() asks an engine for; scalars in float64."""

    def variable(data, requires_grad=True, label=""):
        return torch.tensor(data, dtype=torch.float64, requires_grad=requires_grad)

    def stacked(xs):
        return torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in xs])

    return types.SimpleNamespace(
        Variable=variable,
        tanh=torch.tanh,
        exp=torch.exp,
        sin=torch.sin,
        cos=torch.cos,
        sigmoid=torch.sigmoid,
        softplus=torch.nn.functional.softplus,
        square=torch.square,
        sum=lambda xs: stacked(xs).sum(),
        prod=lambda xs: stacked(xs).prod(),
        mean=lambda xs: stacked(xs).mean(),
        norm=lambda xs: stacked(xs).norm(),
        logsumexp=lambda xs: torch.logsumexp(stacked(xs), 0),
        dot=lambda xs, ys: torch.dot(stacked(xs), stacked(ys)),
        softmax=lambda xs: list(torch.softmax(stacked(xs), 0)),
    )


def hooks_for(spec, seed):
    """(place, how the adjoint is changed), several for some places, for both engines."""
    rng = random.Random(seed)
    changes = [lambda a: None, lambda a: a * 0.5, lambda a: -a, lambda a: a * a * 0.25, lambda a: a + 0.125]
    places = [k for k, (name, *_) in enumerate(spec) if name != "constant"]
    return [(rng.choice(places), rng.choice(changes)) for _ in range(15)]


def run_hooked(spec, engine, hooks, backward):
    """Places and adjoints in the order of the calls, and the grad of each leaf."""
    things, _ = build(spec, engine)
    log = []
    for place, change in hooks:
        if things[place].requires_grad:

            def hook(a, place=place, change=change):
                log.append((place, a if isinstance(a, float) else a.item()))
                return change(a)

            things[place].register_hook(hook)
    leaves = [v for v, (name, *_) in zip(things, spec) if name == "leaf"]
    backward(things[-1])
    return log, leaves


@pytest.mark.parametrize("seed", range(15))
def test_hooks_on_a_random_graph_do_what_torch_hooks_do(seed, torch):
    spec = random_graph(seed, 60, SHARED, reference)
    hooks = hooks_for(spec, seed)
    run = lambda root: root.backward()
    log, leaves = run_hooked(spec, mingrad, hooks, run)
    expected_log, expected = run_hooked(spec, torch_engine(torch), hooks, run)
    scale = max(1.0, *(abs(a) for _, a in expected_log))
    # PyTorch visits nodes in an order of its own; for one node the order is fixed.
    by_place = lambda log: {k: [a for j, a in log if j == k] for k, _ in log}
    got, wanted = by_place(log), by_place(expected_log)
    assert got.keys() == wanted.keys()
    for place, adjoints in wanted.items():
        assert got[place] == pytest.approx(adjoints, rel=1e-11, abs=1e-12 * scale), spec[place]
    for x, y in zip(leaves, expected):
        y = 0.0 if y.grad is None else y.grad.item()
        assert x.grad == pytest.approx(y, rel=1e-11, abs=1e-12 * scale)


# Ops whose partials both engines write in the same operands: where a hook sits on a result, it
# matters in the second pass whether a partial was said in terms of the operands or of the result.
SAME_FORMULA = "+ - * neg square sin cos exp sum mean dot".split()


@pytest.mark.parametrize("seed", range(10))
def test_recorded_hooks_on_a_random_graph_do_what_torch_hooks_do(seed, torch):
    """Then the sum of all gradients is differentiated, through the hooks once more."""
    spec = random_graph(seed, 40, SAME_FORMULA, reference)
    hooks = hooks_for(spec, seed)
    run = lambda root: root.backward(create_graph=True)
    warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")  # PyTorch's advice
    _, leaves = run_hooked(spec, mingrad, hooks, run)
    _, expected = run_hooked(spec, torch_engine(torch), hooks, run)
    theirs = [y.grad for y in expected if y.grad is not None]
    ours = [x.grad for x in leaves]
    for g, y in zip(ours, expected):
        assert value(g) == pytest.approx(0.0 if y.grad is None else y.grad.item(), rel=1e-11, abs=1e-12)
    total = mingrad.sum([g for g in ours if isinstance(g, Variable)])
    for x in leaves:
        x.zero_grad()
    if not total.requires_grad:
        return
    total.backward()
    second = torch.autograd.grad(sum(theirs), expected, allow_unused=True)
    scale = max(1.0, *(abs(s.item()) for s in second if s is not None))
    for x, s in zip(leaves, second):
        # Terms of several hundred roundings may cancel.
        assert x.grad == pytest.approx(0.0 if s is None else s.item(), rel=1e-9, abs=1e-11 * scale)


def test_hooks_in_the_middle_of_dense_layers_do_what_torch_hooks_do(torch):
    """Adjoints of two of five hidden units are clipped, for one sample and for six."""
    hidden, rest, rows = model_and_loss(7)
    modules = torch.nn
    theirs = modules.Linear(3, 5).double()
    others = modules.Sequential(
        modules.Tanh(), modules.Linear(5, 4, bias=False), modules.LayerNorm(4), modules.Linear(4, 2)
    ).double()
    for mine, its in ((hidden, theirs), (rest, others)):
        numbers = torch.tensor([p.data for _, p in mine.named_parameters()], dtype=torch.float64)
        modules.utils.vector_to_parameters(numbers, its.parameters())
    for batch in (rows[:1], rows):
        for module in (hidden, rest, theirs, others):
            module.zero_grad()
        targets = [[0.5, -0.5]] * len(batch)
        log, expected_log = [], []
        hs = hidden(batch)
        for i, j in itertools.product(range(len(batch)), (0, 3)):
            hs[i][j].register_hook(lambda a, i=i, j=j: log.append((i, j, a)) or max(min(a, 0.05), -0.05))
        nn.mse_loss(rest(hs), targets, reduction="sum").backward()

        def clip(a):
            expected_log.extend((i, j, a[i, j].item()) for i in range(len(batch)) for j in (0, 3))
            clipped = a.clone()
            clipped[:, [0, 3]] = a[:, [0, 3]].clamp(-0.05, 0.05)
            return clipped

        out = theirs(torch.tensor(batch, dtype=torch.float64))
        out.register_hook(clip)
        modules.functional.mse_loss(others(out), torch.tensor(targets, dtype=torch.float64), reduction="sum").backward()
        assert [(i, j) for i, j, _ in sorted(log)] == [(i, j) for i, j, _ in expected_log]
        for (*_, a), (*_, b) in zip(sorted(log), expected_log):
            assert a == pytest.approx(b, rel=1e-12, abs=1e-15)
        assert any(abs(a) > 0.05 for *_, a in log)
        for mine, its in ((hidden, theirs), (rest, others)):
            ours = [p.grad for _, p in mine.named_parameters()]
            wanted = [x for p in its.parameters() for x in p.grad.flatten().tolist()]
            assert ours == pytest.approx(wanted, rel=1e-11, abs=1e-14)


# -- threads, memory -------------------------------------------------------------------------------


@BOTH
def test_threads_may_be_in_hooks_at_the_same_time(create_graph):
    """Each waits in its hook for the other, so two walks are at work; the first to begin is the
    first to go on."""
    barriers = [threading.Barrier(2, timeout=20) for _ in range(3)]
    results = {}

    def work(k):
        x = Variable(3.0 + k)
        y = x * 2.0
        z = y * y

        def hook(adjoint):
            records_nodes()
            barriers[0].wait()
            if k:
                barriers[1].wait()
            mingrad.collect()

        y.register_hook(hook)
        z.backward(create_graph=create_graph)
        results[k] = value(x.grad)
        if not k:
            barriers[1].wait()
        barriers[2].wait()
        for _ in range(3):  # the spare walks are used again
            mingrad.hessian(lambda v: v[0] ** 2 * v[1])([1.0, 2.0])
            x.zero_grad()
            runs_a_pass_with_hooks()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: 24.0, 1: 32.0}


@pytest.mark.parametrize("young", [1, None], ids=["young-1", "young-default"])
@BOTH
def test_when_any_allocation_fails_in_a_hooked_pass_no_grad_has_changed(create_graph, young):
    seen = []

    def hook(adjoint):
        seen.append(value(adjoint))
        return adjoint * 2.0

    with stress(young, 1 if young else None):
        (x, w), h, root = graph()
        for v in (x, h, root):
            v.register_hook(hook)
        for n in range(10_000):
            x.grad, w.grad = 0.0, 0.0
            mingrad.collect()
            info = mingrad.tape_info()
            ballast = [Variable(0.0) for _ in range(info.capacity - info.nodes)] if young else []
            _core._fail_allocation(n)
            try:
                root.backward(create_graph=create_graph)
                failed = False
            except MemoryError:
                failed = True
            triggered = _core._fail_allocation(-1)
            del ballast
            if failed:
                assert triggered and (x.grad, w.grad) == (0.0, 0.0), n
            else:
                assert (value(x.grad), value(w.grad)) != (0.0, 0.0)
            if not triggered:
                break
    assert n > 0 or not create_graph  # numbers stand in arrays that earlier walks have left


def test_what_a_hook_returns_dies_where_the_pass_cannot_go_on():
    """detect_anomaly() looks at what the hook recorded when the walk makes sure of its room."""

    def step():
        x = Variable(1.0)
        x.register_hook(lambda a: mingrad.sum([Variable(1e308), 1e308]))
        with mingrad.detect_anomaly(), pytest.raises(FloatingPointError, match=r"sum.* is inf"):
            (x * 2.0).backward(create_graph=True)

    step()
    gc.collect()
    before = live_now()
    for _ in range(5):
        step()
    gc.collect()
    assert live_now() <= before


def test_registering_a_hook_without_memory_registers_none():
    x = Variable(3.0)
    y = x * 2.0
    failures = 0
    for n in range(10):
        _core._fail_allocation(n)
        try:
            y.register_hook(lambda a: a * 2.0)
        except MemoryError:
            failures += 1
            _core._fail_allocation(-1)
            y.backward()
            assert x.grad == 2.0
            x.zero_grad()
            continue
        _core._fail_allocation(-1)
        break
    y.backward()
    assert x.grad == 4.0


def test_a_hook_may_make_the_tape_move_in_memory():
    """Three million nodes: arrays of that size are moved by the allocator."""
    assert run_python("""
        from mingrad import Variable
        x = Variable(3.0)
        y = x * 2.0
        keep = []
        y.register_hook(lambda a: keep.extend(Variable(1.0) for _ in range(3_000_000)))
        (y * y).backward()
        print(x.grad, y.grad)
    """).split() == ["24.0", "12.0"]


def test_hooks_registered_in_a_hook_may_all_die_at_once():
    """Sixteen notes fill what there is room for; while a walk is at work it counts as one more."""
    assert run_python("""
        from mingrad import Variable
        x = Variable(3.0)
        y = x * 2.0
        keep = [Variable(1.0) for _ in range(15)]
        for k, v in enumerate(keep):
            v.label = f"v{k}"
        made = []
        def hook(adjoint):
            for _ in range(20_000):
                made.append(Variable(1.0))
                made[-1].register_hook(print)
        y.register_hook(hook)
        y.backward()
        made.clear()
        print(x.grad)
    """).split() == ["2.0"]


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="from 3.12 on finalisers run between instructions, not in the middle of a walk"
)
def test_a_thread_may_be_in_a_hook_when_a_finaliser_of_another_one_waits():
    """The finaliser runs where backward() makes a tuple, and returns while the other thread is
    still in its hook."""
    assert run_python("""
        import gc, threading
        import mingrad
        from mingrad import Variable
        inside, leave, start = (threading.Event() for _ in range(3))
        class Cycle:
            def __init__(self):
                self.me = self
            def __del__(self):
                gc.disable()
                start.set()
                inside.wait(20)
        def work():
            start.wait(20)
            xs = [Variable(1.0) for _ in range(2000)]
            y = mingrad.sum(x * x for x in xs)
            y.register_hook(lambda a: inside.set() or leave.wait(20) and None)
            y.backward()
            print([x.grad for x in xs] == [2.0] * 2000)
        gc.collect()
        gc.disable()
        thread = threading.Thread(target=work)
        thread.start()
        x = Variable(3.0)
        y = x * 2.0
        def hook(adjoint):
            Cycle()
            gc.set_threshold(1, 1, 1)
            gc.enable()
        x.register_hook(hook)
        y.backward(create_graph=True)
        gc.disable()
        print(x.grad.data, y.grad.data)
        leave.set()
        thread.join()
    """).split() == ["2.0", "1.0", "True"]
