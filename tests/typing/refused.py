"""What type checkers must refuse. Each `type: ignore` is one error; a line without its error fails `python -m mypy` too."""

import math

import mingrad
from mingrad import Variable, nn, tensor

v = Variable(1.0)
xs = tensor([1.0, 2.0])

Variable("1")  # type: ignore[arg-type]
Variable(1j)  # type: ignore[arg-type]
float(v)  # type: ignore[arg-type]
int(v)  # type: ignore[call-overload]
round(v)  # type: ignore[call-overload]
math.exp(v)  # type: ignore[arg-type]
v + "a"  # type: ignore[operator]
v + None  # type: ignore[operator]
v * 1j  # type: ignore[operator]
v @ v  # type: ignore[operator]
v.data = v  # type: ignore[assignment]
v.is_leaf = True  # type: ignore[misc]
v.hypot("2")  # type: ignore[arg-type]
mingrad.exp("1")  # type: ignore[call-overload]
mingrad.exp([1.0])  # type: ignore[call-overload]
mingrad.exp(x=1.0)  # type: ignore[call-overload]
mingrad.hypot(1.0)  # type: ignore[call-overload]
mingrad.sum(1.0)  # type: ignore[call-overload]
mingrad.softmax(["a"])  # type: ignore[list-item]
xs["a"]  # type: ignore[call-overload]
xs[0] = v  # type: ignore[index]
xs + "a"  # type: ignore[operator]
tensor("a")  # type: ignore[arg-type]
nn.mse_loss("a", "b")  # type: ignore[arg-type]
nn.cross_entropy(xs, 1.5)  # type: ignore[call-overload]
nn.MSELoss("most")  # type: ignore[arg-type]
nn.init.kaiming_uniform_(xs)  # type: ignore[type-var]
linear = nn.Linear(2, 3)
linear("ab")  # type: ignore[arg-type]
linear.weight = 3  # type: ignore[assignment]
mingrad.optim.SGD(v)  # type: ignore[arg-type]
mingrad.grad(lambda x: x, argnums="x")  # type: ignore[arg-type]
mingrad.derivative(1.0)  # type: ignore[arg-type]
mingrad.minimize(lambda x: x, 1.0, jac=True)  # type: ignore[arg-type]
mingrad.explain(v, digits="6")  # type: ignore[arg-type]
mingrad.explain(v, x=3.0)  # type: ignore[arg-type]
mingrad.check_grad(lambda x: x, 1.0, order=3)  # type: ignore[arg-type]
mingrad.check_grad(lambda x: x, 1.0, modes="forward")  # type: ignore[arg-type]
mingrad.program.Program.load(3)  # type: ignore[arg-type]
mingrad.vmap(lambda x: x, grad="columns")  # type: ignore[call-overload]
mingrad.errstate(all="warn")  # type: ignore[arg-type]
mingrad.save("model.npz", 3)  # type: ignore[arg-type]


@mingrad.compile
def price(x: Variable, barrier: float = 2.0) -> Variable:
    return x


price("a")  # type: ignore[arg-type]
price(v, strike=2.0)  # type: ignore[call-arg]
price(v).prices()  # type: ignore[attr-defined]
