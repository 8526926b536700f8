"""What type checkers say of programs that use mingrad. `python -m mypy` checks it; nobody runs it.

Each expression's type is asserted. tests/typing/refused.py has what must not pass.
"""

import array
from collections.abc import Callable
from typing import Any, TypeVar

from typing_extensions import assert_type

import mingrad
from mingrad import Variable, VariableList, nn, optim, stack, tensor

v = Variable(1.0)
xs = tensor([1, 2.5], requires_grad=True)

# -- Variables and their operators -----------------------------------------------------------------

assert_type(v.data, float)
assert_type(v.grad, Any)
assert_type(v.item(), float)
assert_type(v + v, Variable)
assert_type(v + 1, Variable)
assert_type(2.0 - v, Variable)
assert_type(True * v, Variable)
assert_type(1 / v // 2 % 3, Variable)
assert_type(v**2, Variable)
assert_type(2**v, Variable)
assert_type(divmod(v, 2), tuple[Variable, Variable])
assert_type(divmod(2, v), tuple[Variable, Variable])
assert_type(-abs(+v), Variable)
assert_type(v < 1, bool)
assert_type(1.5 >= v, bool)
assert_type(v == 1, bool)
assert_type(v.exp().hypot(2).clamp(0, 1), Variable)
assert_type(v.clamp_(0, 1), Variable)
assert_type(v.detach(), Variable)
v.data += 1
v.data = 3
v.grad = 0
v.backward()
v.backward(gradient=2, create_graph=True)
v.register_hook(lambda adjoint: None).remove()
v.register_hook(lambda adjoint: 2 * adjoint)

# -- functions: of numbers a float, else a Variable ------------------------------------------------

assert_type(mingrad.exp(1), float)
assert_type(mingrad.exp(v), Variable)
assert_type(mingrad.hypot(3, 4.0), float)
assert_type(mingrad.hypot(v, 4.0), Variable)
assert_type(mingrad.arctan2(3, v), Variable)
assert_type(mingrad.pow(v, v), Variable)
assert_type(mingrad.clamp(1, 2), float)
assert_type(mingrad.clamp(v, max=3), Variable)
assert_type(mingrad.clamp(1.0, max=v), Variable)
assert_type(mingrad.leaky_relu(v, 0.1), Variable)
assert_type(mingrad.sum([1, 2.0]), float)
assert_type(mingrad.sum([1, v]), Variable)
assert_type(mingrad.sum(xs), Variable)
assert_type(mingrad.mean(x * x for x in xs), Variable)
assert_type(mingrad.max(1, 2, 3), float)
assert_type(mingrad.max(1, 2, v), Variable)
assert_type(mingrad.min([v, v]), Variable)
assert_type(mingrad.dot(xs, [1.0, 2.0]), Variable)
assert_type(mingrad.dot([1], [1.0]), float)
assert_type(mingrad.softmax([1, 2]), list[float])
assert_type(mingrad.softmax(xs), list[Variable])


def of_either(x: Variable | float) -> Variable | float:
    return assert_type(mingrad.exp(x), float | Variable)


# -- sequences -------------------------------------------------------------------------------------

assert_type(xs, VariableList)
assert_type(tensor(2), Variable)
assert_type(stack([v, 1.0]), VariableList)
assert_type(xs[0], Variable)
assert_type(xs[1:], VariableList)
assert_type([x.data for x in xs], list[float])
assert_type(xs * 2 + v - [1.0, 2.0], VariableList)
assert_type([1, 2] - xs, VariableList)
assert_type(v * xs**2, VariableList)
assert_type(xs.sum(), Variable)
assert_type(xs.clamp_(min=[0.0, 1.0], max=2), VariableList)
assert_type(xs.tolist(), list[float])
xs.data = [1.0, 2.0]
xs.data = 3
xs.grad = xs
assert_type(xs.grad, list[Any])

# -- derivatives of functions ----------------------------------------------------------------------


def with_aux(x: Variable) -> tuple[Variable, str]:
    return x * x, "aux"


def plain(x: Variable, y: Variable) -> Variable:
    return x * y


assert_type(mingrad.grad(lambda x: x * x)(2.0), Any)
assert_type(mingrad.grad(plain, argnums=(0, 1))(2.0, v), Any)  # floats where the function has Variables
assert_type(mingrad.grad(with_aux, has_aux=True)(2.0), tuple[Any, str])
assert_type(mingrad.value_and_grad(plain)(1.0, 2.0), tuple[Any, Any])
assert_type(mingrad.value_and_grad(with_aux, has_aux=True)(1.0), tuple[tuple[Any, str], Any])
assert_type(mingrad.jvp(lambda x: x * x, (2.0,), [1.0]), tuple[Any, Any])
assert_type(mingrad.jvp(with_aux, (2.0,), [1.0], True), tuple[Any, Any, str])
value, pull = mingrad.vjp(lambda x: x * x, 2.0)
assert_type(pull(1.0), tuple[Any, ...])
assert_type(mingrad.vjp(with_aux, 2.0, has_aux=True)[2], str)
assert_type(mingrad.jacfwd(with_aux, has_aux=True)(2.0), tuple[Any, str])
assert_type(mingrad.hessian(mingrad.derivative(lambda x: x * x, 3))(v), Any)
assert_type(mingrad.hessian(plain, sparse=True)(v), tuple[list[int], list[int], list[Any]])
assert_type(mingrad.hvp(lambda x: x[0], (xs,), ([1.0, 0.0],)), Any)
assert_type(mingrad.stop_gradient(v), Variable)
assert_type(mingrad.stop_gradient({"a": v}), Any)
assert_type(mingrad.minimize(lambda x: x * x, 2, method="BFGS", bounds=(0, None), tol=1e-9), Any)


@mingrad.custom_vjp
def ruled(x: float) -> float:
    return x * x


ruled.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
assert_type(ruled(v), Any)  # the function gets floats, its caller has Variables

check = mingrad.check_grad(lambda x, y: x, 1.0, [v], order=2, modes="rev", argnums=0, rtol=1e-9)
assert_type(check.failures[0].got, float)
assert_type(str(check.agreements[0]), str)
assert_type(mingrad.explain(v, max_nodes=9, xs=xs, more=[v, [v]]), str)
assert_type([x.data * y for x, y in mingrad.steps.backward_steps(v)], list[float])

# -- recorded programs: called as the function is --------------------------------------------------

_Number = TypeVar("_Number", float, Variable)


@mingrad.compile
def price(x: Variable, barrier: float = 2.0) -> Variable:
    return x * x if x < barrier else mingrad.exp(x)


@mingrad.compile(fast=True)
def generic(x: _Number) -> _Number:
    return x * x


class Model:
    @mingrad.compile
    def loss(self, x: Variable, *, scale: float = 1.0) -> Variable:
        return x * scale


assert_type(price(v), Variable)
assert_type(price(v, barrier=3), Variable)
assert_type(price.programs[0].summary(), str)
assert_type(generic(2.0), float)
assert_type(generic(v), Variable)
assert_type(Model().loss(v, scale=2), Variable)
assert_type(mingrad.compile(lambda x: v)(1.0), Variable)
function: Callable[[Variable], Variable] = price
assert_type(mingrad.vmap(price, in_axes=(0, None))([1.0, 2.0], 3.0), Any)
assert_type(mingrad.vmap(price, grad="rows")([1.0, 2.0], out=None), tuple[Any, Any])
assert_type(mingrad.scan(lambda state, x: (state, x))(1.0, [2.0, 3.0], lengths=[1, 1]), tuple[Any, Any])
assert_type(mingrad.record(v * v).forward(), float)
assert_type(mingrad.record(xs * v).data, list[float])
assert_type(mingrad.record([v, {"a": v}]).forward(), Any)
assert_type(mingrad.program.Program.load("f.program"), mingrad.program.Program)
mingrad.program.Program.load(b"f.program").save(b"f.program")

# -- models, losses, optimisers, files -------------------------------------------------------------

assert_type(nn.mse_loss(1.0, 2), float)
assert_type(nn.mse_loss(v, 2), Variable)
assert_type(nn.mse_loss([1.0, 2.0], [1, 2]), float)
assert_type(nn.mse_loss(xs, [1, 2]), Variable)
assert_type(nn.mse_loss([1.0, 2.0], [v, v]), Variable)
assert_type(nn.mse_loss([[1.0], [2.0]], [[1], [2]]), float)
assert_type(nn.mse_loss([xs, xs], [[1, 2], [2, 3]], "sum"), Variable)
assert_type(nn.mse_loss([xs, xs], [[1, 2], [2, 3]], "none"), Any)
assert_type(nn.mse_loss(xs, [1, 2], "none"), VariableList)
assert_type(nn.mse_loss([1, 2], [1, 2], "none"), list[float])
assert_type(nn.mse_loss(v, 1, "none"), Variable)
assert_type(nn.mse_loss(2, 1, "none"), float)
assert_type(nn.mse_loss(xs, [1, 2], str(v)), Any)
assert_type(nn.huber_loss(xs, [1, 2], delta=2), Variable)
assert_type(nn.cross_entropy(xs, 1), Variable)
assert_type(nn.cross_entropy([1.0, 2.0], 1), float)
assert_type(nn.cross_entropy([xs, xs], [1, 0]), Variable)
assert_type(nn.cross_entropy([[1.0], [2.0]], [1, 0]), float)
assert_type(nn.cross_entropy([xs, xs], [1, 0], "none"), VariableList)
assert_type(nn.CrossEntropyLoss()([xs, xs], [1, 0]), Any)

linear = nn.Linear(2, 3, bias=False)
assert_type(linear([1.0, 2.0]), VariableList)
assert_type(linear(array.array("d", [1.0, 2.0])), VariableList)
assert_type(linear([[1.0, 2.0], [1.0, 3.0]]), list[VariableList])
assert_type(nn.GELU()(linear([xs, xs])), list[VariableList])
assert_type(nn.Neuron(2)([1.0, v]), Variable)
assert_type(nn.Embedding(3, 2)(1), VariableList)
assert_type(nn.Embedding(3, 2)([1, 2]), list[VariableList])
model = nn.Sequential(linear, nn.ReLU(), lambda x: x).train().eval()
assert_type(model, nn.Sequential)
assert_type(model[:1], nn.Sequential)
assert_type(nn.scaled_dot_product_attention(xs, [xs, xs], [xs, [1.0, 2.0]]), VariableList)
assert_type(nn.init.zeros_(xs), VariableList)
nn.init.xavier_uniform_(linear.weight)
for module in model.modules():
    module.train(False)

optimizer = optim.AdamW([{"params": model.parameters(), "lr": 1e-3}], betas=(0.9, 0.99))
assert_type(optimizer.step(), None)
assert_type(optimizer.step(lambda: v), Variable)
assert_type(optim.LBFGS(linear.parameters()).step(lambda: 1.5), float)
assert_type(optim.clip_grad_norm_(model.parameters(), 1.0), float)
assert_type(optim.StepLR(optimizer, 10).get_last_lr(), list[float])
history = mingrad.fit(linear, ([[1.0, 2.0]], [1]), loss=nn.cross_entropy, optimizer=optimizer)
assert_type(history["loss"], list[Any])
assert_type(mingrad.load("model.npz", linear), nn.Linear)
assert_type(mingrad.load("model.npz"), dict[str, Any])

# -- modes -----------------------------------------------------------------------------------------


@mingrad.no_grad()
def evaluated(x: Variable) -> float:
    return x.data


assert_type(evaluated(v), float)
with mingrad.no_grad(), mingrad.errstate(all="ignore"), mingrad.detect_anomaly():
    assert_type(mingrad.tape_info().nodes, int)
