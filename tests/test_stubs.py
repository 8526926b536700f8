"""The stubs (mingrad/*.pyi) name what the package has, and nothing else.

Read with ast, so no type checker is needed. What the types say is checked for the operations, whose
stubs follow from the op table (a failure prints the lines to add), and, where mypy is installed, on
one program that says the type of each of its expressions.
"""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mingrad
from mingrad import (
    _core,
    autodiff,
    custom,
    engine,
    export,
    files,
    gradcheck,
    nn,
    optim,
    optimize,
    program,
    replay,
    rows,
    steps,
    training,
    visualize,
)
from mingrad.nn import init
from mingrad.optim import lr_scheduler

HOME = Path(mingrad.__file__).parent
# Written in Python.
MODULES = [
    autodiff,
    custom,
    engine,
    export,
    nn,
    init,
    optim,
    lr_scheduler,
    optimize,
    program,
    replay,
    rows,
    steps,
    visualize,
    files,
    gradcheck,
    training,
]

SUBMODULES = {
    "autodiff",
    "custom",
    "engine",
    "export",
    "files",
    "gradcheck",
    "nn",
    "optim",
    "optimize",
    "program",
    "replay",
    "rows",
    "steps",
    "training",
    "visualize",
}
# Variable has these only to refuse them; left out, a type checker refuses float(v) and math.exp(v).
REFUSALS = {"__float__", "__int__", "__complex__", "__round__", "__trunc__"}
# What Python or Cython puts into every class, and what a stub says in another way.
EVERYWHERE = {"__doc__", "__module__", "__new__", "__weakref__", "__repr__", "__pyx_vtable__"}
IMPORTED = {"namedtuple", "operator", "sys"}  # what the parts of _core import for themselves
CLASSES = [
    _core.Variable,
    _core.VariableList,
    _core.TapeInfo,
    _core.WatchedList,
    _core.Watched,
    engine.no_grad,
    engine.enable_grad,
    engine.errstate,
    _core.Group,
    optim.Optimizer,
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.RMSprop,
    optim.LBFGS,
    optim.LRScheduler,
    optim.StepLR,
    optim.ExponentialLR,
    optim.CosineAnnealingLR,
    optim.LambdaLR,
    optim.ReduceLROnPlateau,
    training.FitState,
    training.History,
    training.EarlyStopping,
    training.Checkpoint,
    steps.BackwardStep,
    gradcheck.GradientCheckError,
    *(getattr(gradcheck, name) for name in ("Agreement", "GradientCheck", "Mismatch")),
]
CLASSES += [getattr(nn, name) for name in nn.__all__ if inspect.isclass(getattr(nn, name))]
CLASSES += [nn._Activation, nn._Loss]
# Stubs of these name attributes that only an instance has.
ARGUMENTS = {
    nn.Neuron: (2,),
    nn.Layer: (2, 3),
    nn.MLP: (2, [3, 1]),
    nn.Linear: (2, 3),
    nn.Embedding: (2, 3),
    nn.RMSNorm: (2,),
    nn.LayerNorm: (2,),
}
INSTANCES = {cls: lambda cls=cls: cls(*ARGUMENTS.get(cls, ())) for cls in CLASSES if issubclass(cls, nn.Module)}
INSTANCES |= {
    optim.Optimizer: lambda: sgd(),
    optim.LRScheduler: lambda: optim.StepLR(sgd(), 1),
    optim.StepLR: lambda: optim.StepLR(sgd(), 1),
    optim.ExponentialLR: lambda: optim.ExponentialLR(sgd(), 1),
    optim.CosineAnnealingLR: lambda: optim.CosineAnnealingLR(sgd(), 1),
    optim.LambdaLR: lambda: optim.LambdaLR(sgd(), float),
    optim.ReduceLROnPlateau: lambda: optim.ReduceLROnPlateau(sgd()),
    training.FitState: lambda: fit_state(),
    training.EarlyStopping: training.EarlyStopping,
    training.Checkpoint: lambda: training.Checkpoint("run.npz"),
    gradcheck.GradientCheckError: lambda: gradcheck.GradientCheckError(gradcheck.check_grad(lambda x: x, 1.0)),
    steps.BackwardStep: lambda: next(steps.backward_steps(_core.Variable(1.0))),
}
# What the stub of the compiled module needs for itself: type variables, protocols, aliases.
TYPES_ALONE = {"_T", "_T_co", "_V", "_Vector", "_Elements", "_Numbers", "_Values", "_Reduced", "_Kept", "_TermLoss"}


def sgd():
    return optim.SGD([_core.Variable(1.0)])


def fit_state():
    """The state of a training of one parameter, as callbacks see it."""
    x, states = _core.Variable(1.0), []
    training.fit(
        lambda xs: x,
        ([1], [1]),
        loss=lambda output, target: output * output,
        optimizer=optim.SGD([x]),
        callbacks=[states.append],
    )
    return states[0]


def stub_of(module):
    """The text of a module's stub; of the module itself where its types are written in it."""
    stem = HOME / Path(*module.split(".")[1:]) if "." in module else HOME / "__init__"
    for file in (stem.with_suffix(".pyi"), stem / "__init__.pyi", stem.with_suffix(".py")):
        if file.exists():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(f"no stub of {module}")


def definitions(body):
    """{name: the nodes that define it} of the statements of a module or class."""
    found = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.AnnAssign):
            found.setdefault(node.target.id, []).append(node)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                found.setdefault(target.id, []).append(node)
    return found


def exported(text, package="mingrad"):
    """The names that a stub gives away, by the rules of type checkers.

    They are those in __all__ if there is one; else what the stub defines, what it imports under its
    own name (`x as x`), and every public name of what it imports with a star.
    """
    body = ast.parse(text).body
    found = definitions(body)
    names = {name for name in found if not name.startswith("_")}
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if alias.name == "*":  # only ever from a neighbour
                    others = exported(stub_of(f"{package}.{node.module}"))
                    names |= {name for name in others if not name.startswith("_")}
                elif alias.asname == alias.name:
                    names.add(alias.name)
    if "__all__" in found:
        listed = set(ast.literal_eval(found["__all__"][0].value))
        assert listed <= names, f"only in __all__ of the stub: {sorted(listed - names)}"
        return listed
    return names


def difference(stub, runtime):
    """What is in one set of names only, as the text of a failure; '' if they are the same."""
    lines = []
    if runtime - stub:
        lines.append(f"not in the stub: {', '.join(sorted(runtime - stub))}")
    if stub - runtime:
        lines.append(f"in the stub only: {', '.join(sorted(stub - runtime))}")
    return "; ".join(lines)


def class_in_stub(cls):
    """The stub's definition of a class."""
    module = "mingrad._core" if hasattr(_core, cls.__name__) else cls.__module__
    found = definitions(ast.parse(stub_of(module)).body)
    assert cls.__name__ in found, f"class {cls.__name__} is not in the stub of {module}"
    return found[cls.__name__][0]


def parameters(node):
    """The parameters of a function in a stub, in order: [(name, kind, has a default)]."""
    kind, args = inspect.Parameter, node.args
    plain = [(arg, kind.POSITIONAL_ONLY) for arg in args.posonlyargs]
    plain += [(arg, kind.POSITIONAL_OR_KEYWORD) for arg in args.args]
    first_default = len(plain) - len(args.defaults)
    result = [(arg.arg, how, number >= first_default) for number, (arg, how) in enumerate(plain)]
    if args.vararg:
        result.append((args.vararg.arg, kind.VAR_POSITIONAL, False))
    result += [(arg.arg, kind.KEYWORD_ONLY, default is not None) for arg, default in zip(args.kwonlyargs, args.kw_defaults)]
    if args.kwarg:
        result.append((args.kwarg.arg, kind.VAR_KEYWORD, False))
    return result


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["mingrad", *(module.__name__ for module in MODULES)])
def test_the_stub_has_every_public_name_and_no_other(module):
    names = set(importlib.import_module(module).__all__)
    stub = exported(stub_of(module)) - (SUBMODULES if module == "mingrad" else set())
    assert not difference(stub, names), f"{module}: {difference(stub, names)}"


def test_the_stub_of_the_compiled_module_has_every_name_and_no_other():
    names = {name for name in vars(_core) if not name.startswith("__")} - IMPORTED
    stub = set(definitions(ast.parse(stub_of("mingrad._core")).body)) - TYPES_ALONE
    assert not difference(stub, names), f"mingrad._core: {difference(stub, names)}"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_stub_of_a_class_has_every_attribute_and_no_other(cls):
    in_stub = set(definitions(class_in_stub(cls).body))
    names = {name for name in vars(cls) if not name.startswith("_")}
    if cls in (_core.Variable, _core.VariableList):
        names |= {name for name in vars(cls) if name.startswith("_")} - EVERYWHERE - REFUSALS
        names.discard("_floats")
    if cls in (_core.WatchedList, _core.TapeInfo):  # list's and tuple's own
        names -= set(dir(cls.__base__))
    sample = INSTANCES[cls]() if cls in INSTANCES else cls
    left_over = {name for name in in_stub if not hasattr(sample, name)}
    assert not difference(left_over, names - in_stub), difference(left_over, names - in_stub)


def test_the_stub_of_tape_info_has_the_fields_in_order():
    fields = definitions(class_in_stub(_core.TapeInfo).body)
    assert tuple(fields) == _core.TapeInfo._fields


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_parameters_of_python_functions_are_those_of_the_stub(module):
    found = definitions(ast.parse(stub_of(module.__name__)).body)
    checked = 0
    for name, nodes in found.items():
        thing = getattr(module, name, None)
        pairs = []
        if inspect.isfunction(thing):
            pairs.append((name, thing, nodes[0]))
        elif inspect.isclass(thing) and thing.__module__ == module.__name__:
            members = definitions(nodes[0].body)
            pairs += [
                (f"{name}.{member}", vars(thing)[member], stubs[0])
                for member, stubs in members.items()
                if inspect.isfunction(vars(thing).get(member))
            ]
        for what, function, node in pairs:
            real = [(p.name, p.kind, p.default is not p.empty) for p in inspect.signature(function).parameters.values()]
            stub = parameters(node)
            if real and real[-1][1] is inspect.Parameter.VAR_KEYWORD and real[-1] not in stub:
                # the stub says which ones
                real.pop()
                named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
                stub = [p for p in stub if p[1] not in named]
            assert stub == real, f"{module.__name__}.{what}: expected {real}, the stub has {stub}"
            checked += 1
    assert checked


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_parameter_and_result_in_the_stub_has_a_type(module):
    for node in ast.walk(ast.parse(stub_of(module.__name__))):
        if not isinstance(node, ast.FunctionDef):
            continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        assert all(arg.annotation or arg.arg == "self" for arg in args) and node.returns, node.name


def test_the_package_says_that_it_has_types():
    assert (HOME / "py.typed").exists()


# -- what a type checker says ----------------------------------------------------------------------

TYPED = """\
from typing import Any
from typing_extensions import assert_type
import array
import mingrad
from mingrad import Variable, VariableList, nn, stack, tensor

v = Variable(1.0)
xs = tensor([1, 2.5], requires_grad=True)
assert_type(xs, VariableList)
assert_type(tensor(2), Variable)
assert_type(stack([v, 1.0]), VariableList)
assert_type(xs[0], Variable)
assert_type(xs[1:], VariableList)
assert_type([x.data for x in xs], list[float])
assert_type(xs * 2 + v - [1.0, 2.0], VariableList)
assert_type([1, 2] - xs, VariableList)
assert_type(v * xs ** 2, VariableList)
assert_type(xs.sum(), Variable)
assert_type(xs.clamp_(min=[0.0, 1.0], max=2), VariableList)
assert_type(v.clamp_(0, 1), Variable)
xs.data = [1.0, 2.0]
xs.data = 3
xs.grad = xs
assert_type(xs.grad, list[Any])
assert_type(mingrad.dot(xs, [1.0, 2.0]), Variable)

assert_type(mingrad.grad(lambda x: x * x)(2.0), Any)
assert_type(mingrad.jvp(lambda x: x * x, (2.0,), [1.0]), Any)
assert_type(mingrad.vjp(lambda x: x * x, 2.0), Any)
assert_type(mingrad.hessian(mingrad.derivative(lambda x: x * x, 3), sparse=True)(v), Any)
assert_type(mingrad.hvp(lambda x: x[0], (xs,), ([1.0, 0.0],)), Any)
assert_type(mingrad.minimize(lambda x: x * x, 2, method="BFGS", bounds=(0, None), tol=1e-9), Any)
check = mingrad.check_grad(lambda x, y: x, 1.0, [v], order=2, modes="rev", argnums=0, rtol=1e-9)
assert_type(check.failures[0].got, float)
assert_type(str(check.agreements[0]), str)
assert_type(mingrad.explain(v, max_nodes=9, xs=xs, more=[v, [v]]), str)
assert_type([x.data * y for x, y in mingrad.steps.backward_steps(v)], list[float])
assert_type(mingrad.program.Program.load("f.program"), mingrad.program.Program)
mingrad.program.Program.load(b"f.program").save(b"f.program")

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
"""
# What is no number, and calls that make no sense: an error each.
UNTYPED = """\
xs["a"]
xs + "a"
tensor("a")
nn.mse_loss("a", "b")
nn.cross_entropy(xs, 1.5)
linear("ab")
nn.init.kaiming_uniform_(xs)
linear.weight = 3
nn.MSELoss("most")
mingrad.grad(lambda x: x, argnums="x")
mingrad.derivative(1.0)
mingrad.minimize(lambda x: x, 1.0, jac=True)
mingrad.explain(v, digits="6")
mingrad.check_grad(lambda x: x, 1.0, order=3)
mingrad.check_grad(lambda x: x, 1.0, modes="forward")
mingrad.explain(v, x=3.0)
mingrad.program.Program.load(3)
"""


def type_check(source, folder):
    """What mypy says of a program, strictly, as the numbers of the lines that it complains of."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    file = folder / "program.py"
    file.write_text(source, encoding="utf-8")
    environment = dict(os.environ, MYPY_FORCE_COLOR="0")
    environment.pop("MYPYPATH", None)
    if not {"site-packages", "dist-packages"} & set(HOME.parts):  # else mypy finds it by itself
        environment["MYPYPATH"] = str(HOME.parent)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), str(file)],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert all(line.startswith("program.py:") for line in lines), done.stdout
    return {int(line.split(":")[1]): line for line in lines}


def test_a_type_checker_finds_the_types_that_are_meant(tmp_path):
    good, bad = TYPED.count("\n"), UNTYPED.count("\n")
    found = type_check(TYPED + UNTYPED, tmp_path)
    assert [line for number, line in found.items() if number <= good] == []
    assert set(found) == set(range(good + 1, good + bad + 1))


# -- operations ------------------------------------------------------------------------------------

UNARY = """\
@overload
def {name}(x: float, /) -> float: ...
@overload
def {name}(x: Variable, /) -> Variable: ..."""
BINARY = """\
@overload
def {name}({x}: float, {y}: float, /) -> float: ...
@overload
def {name}({x}: Variable, {y}: Variable | float, /) -> Variable: ...
@overload
def {name}({x}: float, {y}: Variable, /) -> Variable: ..."""
NARY = """\
@overload
def {name}(xs: Iterable[float], /) -> float: ...
@overload
def {name}(xs: Iterable[Variable | float], /) -> Variable: ..."""
UNARY_METHOD = "def {name}(self) -> Variable: ..."
BINARY_METHOD = "def {name}(self, other: Variable | float, /) -> Variable: ..."
SETTINGS = {"leaky_relu", "elu", "pow"}  # binary rows whose parameters have names of their own


def rows():
    """(row, name) for every name of an operation that is a function of mingrad."""
    return [
        (row, name)
        for row in _core._ops()
        for name in (row["name"], row["alias"])
        if name in engine.__all__ and name not in SETTINGS
    ]


def expected(row, name):
    """The stub's lines of an operation: of the function, of the method (None: it has none)."""
    x, y = ("y", "x") if row["name"] == "atan2" else ("x", "y")
    function, method = {"unary": (UNARY, UNARY_METHOD), "binary": (BINARY, BINARY_METHOD), "nary": (NARY, None)}[row["kind"]]
    return function.format(name=name, x=x, y=y), method and method.format(name=name)


def lacks(text, row, name):
    """What a stub of the compiled module lacks of an operation, as lines to add; or ''."""
    body = ast.parse(text).body
    found = definitions(body)
    function, method = expected(row, name)
    wanted = [ast.unparse(node) for node in ast.parse(function).body]
    got = [ast.unparse(node) for node in found.get(name, [])]
    lines = [] if set(wanted) <= set(got) else [function]  # max and min have more
    if method and ast.unparse(ast.parse(method)) not in [
        ast.unparse(node) for node in definitions(found["Variable"][0].body).get(name, [])
    ]:
        lines.append(f"class Variable:\n    {method}")
    return "\n".join(lines)


@pytest.mark.parametrize("row, name", [pytest.param(*pair, id=pair[1]) for pair in rows()])
def test_the_stub_has_the_function_and_the_method_of_an_operation(row, name):
    missing = lacks(stub_of("mingrad._core"), row, name)
    assert not missing, f"add to mingrad/_core.pyi, and {name!r} to __all__ in mingrad/engine.pyi:\n{missing}"


# -- the checker -----------------------------------------------------------------------------------


def test_a_name_taken_out_of_the_stub_is_noticed():
    text = stub_of("mingrad.engine")
    assert '    "tanh",\n' in text
    shorter = exported(text.replace('    "tanh",\n', ""))
    assert difference(shorter, exported(text)) == "not in the stub: tanh"


def test_an_operation_taken_out_of_the_stub_is_printed():
    row = next(row for row in _core._ops() if row["name"] == "tanh")
    text = stub_of("mingrad._core")
    function, method = expected(row, "tanh")
    assert lacks(text, row, "tanh") == ""
    assert lacks(text.replace(function, ""), row, "tanh") == function
    assert lacks(text.replace(method, ""), row, "tanh") == f"class Variable:\n    {method}"
