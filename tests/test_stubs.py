"""The stubs (mingrad/*.pyi) name what the package has, and nothing else; signatures are what the stubs say.

Read with ast, so no type checker is needed. What the types say is checked for the operations, whose
stubs follow from the op table (a failure prints the lines to add), and, where mypy is installed, by
the two commands of CONTRIBUTING.md: mypy on the package, the examples and the programs in
tests/typing, which say the type of each of their expressions; and stubtest on what is installed.
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
    _complex,
    _core,
    _translate,
    autodiff,
    custom,
    distributed,
    engine,
    export,
    files,
    gradcheck,
    nn,
    optim,
    optimize,
    profiler,
    program,
    program_file,
    program_summary,
    replay,
    rows,
    steps,
    training,
)
from mingrad.nn import init
from mingrad.optim import _arguments, lr_scheduler
from mingrad.visualize import dot, drawing, explorer, plots, text

HOME = Path(mingrad.__file__).parent
ROOT = Path(__file__).resolve().parent.parent
# Written in Python.
MODULES = [
    autodiff,
    custom,
    distributed,
    engine,
    export,
    nn,
    init,
    optim,
    lr_scheduler,
    optimize,
    profiler,
    program,
    replay,
    rows,
    steps,
    dot,
    drawing,
    explorer,
    plots,
    text,
    files,
    gradcheck,
    training,
]
# Not for users; their stubs are for the others' sake.
PRIVATE = [_complex, _translate, program_file, program_summary, _arguments]

SUBMODULES = {
    "autodiff",
    "custom",
    "distributed",
    "engine",
    "export",
    "files",
    "gradcheck",
    "nn",
    "optim",
    "optimize",
    "profiler",
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
    distributed.RankError,
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
    distributed.RankError: distributed.RankError,
    steps.BackwardStep: lambda: next(steps.backward_steps(_core.Variable(1.0))),
}
# What the stub of the compiled module needs for itself: type variables, protocols, aliases.
TYPES_ALONE = {
    "_T",
    "_T_co",
    "_V",
    "_NumPyNumber",
    "_Array",
    "_Number",
    "_Vector",
    "_Elements",
    "_Numbers",
    "_Values",
    "_Reduced",
    "_Kept",
    "_TermLoss",
}


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
    """The parameters of a function in a stub, in order: [(name, kind, has a default, its value or ...)]."""
    kind, args = inspect.Parameter, node.args
    plain = [(arg, kind.POSITIONAL_ONLY) for arg in args.posonlyargs]
    plain += [(arg, kind.POSITIONAL_OR_KEYWORD) for arg in args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + args.defaults
    result = [(arg.arg, how, default is not None, value_of(default)) for (arg, how), default in zip(plain, defaults)]
    if args.vararg:
        result.append((args.vararg.arg, kind.VAR_POSITIONAL, False, ...))
    result += [
        (arg.arg, kind.KEYWORD_ONLY, default is not None, value_of(default))
        for arg, default in zip(args.kwonlyargs, args.kw_defaults)
    ]
    if args.kwarg:
        result.append((args.kwarg.arg, kind.VAR_KEYWORD, False, ...))
    return result


def value_of(default):
    """A default in a stub; ... for what is no literal."""
    try:
        return ast.literal_eval(default)
    except ValueError:
        return ...


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


# -- signatures ------------------------------------------------------------------------------------

SEVERAL_FORMS = {"max", "min"}  # max(xs) and max(x, y, *more), which no single signature says: it is (xs, /, *more)
UNSIGNED = {"__class_getitem__"}  # it makes a GenericAlias, of which Python shows no signature
WRAPPER = type(object.__init__)
NAMED = inspect.Parameter.VAR_KEYWORD


def described(module):
    """{name: (what has a signature, parameters in each of its stubs, without self)} of what a module's stub describes."""
    found, body = {}, definitions(ast.parse(stub_of(module.__name__)).body)
    for name, nodes in body.items():
        thing = getattr(module, name, None)
        if isinstance(nodes[0], ast.FunctionDef):
            found[name] = thing, [parameters(node) for node in nodes]
        elif isinstance(nodes[0], ast.AnnAssign) and inspect.isroutine(thing):  # a protocol says how it is called
            protocol = definitions(body[nodes[0].annotation.id][0].body)
            found[name] = thing, [parameters(node)[1:] for node in protocol["__call__"]]
        elif isinstance(nodes[0], ast.ClassDef) and inspect.isclass(thing):
            for member, stubs in definitions(nodes[0].body).items():
                there = getattr(thing, member, None)
                if not isinstance(stubs[0], ast.FunctionDef) or not callable(there):
                    continue
                stubs = [parameters(node)[1:] for node in stubs]
                if member in ("__init__", "__new__"):
                    found[name] = thing, stubs
                elif member not in UNSIGNED and not (isinstance(there, WRAPPER) and member == "__call__"):  # (*args, **kwargs)
                    found[f"{name}.{member}"] = there, stubs
    return found


def disagreement(name, thing, stubs):
    """How what inspect.signature() says differs from the stubs, which together say the same; '' if it does not."""
    real = list(inspect.signature(thing).parameters.values())
    if "." in name and not inspect.ismethod(thing):
        real = real[1:]
    if name.endswith("__"):  # operators: nobody gives their operands by name
        real = [p.replace(name=f"operand{k}") for k, p in enumerate(real)]
        stubs = [[(f"operand{k}", *q[1:]) for k, q in enumerate(stub)] for stub in stubs]
    if real and real[-1].kind is NAMED and all(stub[-1][1] is not NAMED for stub in stubs):
        real.pop()  # the stub says which ones
        stubs = [[q for q in stub if q[1] is not inspect.Parameter.KEYWORD_ONLY] for stub in stubs]
    by_name = {p.name: p for p in real}
    for stub in stubs:
        names = [q[0] for q in stub]
        if names != [name for name in by_name if name in names]:
            return f"expected {list(by_name)}, the stub has {names}"
        for q in stub:
            if q[2] and q[3] is not ... and q[3] != by_name[q[0]].default:
                return f"expected {by_name[q[0]]}, the stub has the default {q[3]!r}"
    for p in real:
        same = [q for stub in stubs for q in stub if q[:2] == (p.name, p.kind)]
        optional = any(q[2] for q in same) or any(p.name not in [q[0] for q in stub] for stub in stubs)
        if not same or optional != (p.default is not p.empty):
            return f"expected {p} ({p.kind.description}), the stub has {same or 'another kind'}"
    return ""


@pytest.mark.parametrize("module", [_core, *MODULES, *PRIVATE], ids=lambda module: module.__name__)
def test_signatures_are_those_of_the_stub(module):
    found = described(module)
    assert found
    problems = [f"{name}: {disagreement(name, *rest)}" for name, rest in found.items() if name not in SEVERAL_FORMS]
    assert [problem for problem in problems if not problem.endswith(": ")] == []


@pytest.mark.parametrize("module", [mingrad, *MODULES], ids=lambda module: module.__name__)
def test_everything_public_has_a_signature_to_show(module):
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) and issubclass(thing, (BaseException, dict)) and not inspect.isfunction(thing.__init__):
            continue  # made as Python makes its own, of which it shows no signature
        if callable(thing):
            inspect.signature(thing)
        if inspect.isclass(thing):
            for member in vars(thing).values():
                if inspect.isroutine(member) and not isinstance(member, (classmethod, staticmethod)):
                    inspect.signature(member)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_parameter_and_result_in_the_stub_has_a_type(module):
    for node in ast.walk(ast.parse(stub_of(module.__name__))):
        if not isinstance(node, ast.FunctionDef):
            continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        assert all(arg.annotation or arg.arg in ("self", "cls") for arg in args) and node.returns, node.name


@pytest.mark.parametrize("cls", [program.Compiled, replay.Graph])
def test_what_is_generic_in_the_stub_can_be_written_so_in_annotations(cls):
    assert cls[int].__origin__ is cls


def test_the_package_says_that_it_has_types():
    assert (HOME / "py.typed").exists()


# -- what a type checker says ----------------------------------------------------------------------


def commands():
    """The commands of CONTRIBUTING.md that check types."""
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("python -m mypy")]


@pytest.mark.parametrize("tool", ["mypy", "mypy.stubtest"])
def test_the_types_pass(tool, tmp_path):
    for package in ("mypy", "numpy"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    if not (ROOT / ".github").exists() or not (ROOT / "mingrad" / "_core.pyi").exists():
        pytest.skip("there is no checkout here, only its tests")
    (command,) = [line.split() for line in commands() if line.split()[2] == tool]
    options = ["--cache-dir", str(tmp_path)] if tool == "mypy" else []
    done = subprocess.run(
        [sys.executable, *command[1:], *options],
        cwd=ROOT,
        env=dict(os.environ, MYPY_FORCE_COLOR="0", FORCE_COLOR="0"),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_stubtest_is_to_overlook_has_a_reason_each():
    for block in (ROOT / "tests" / "typing" / "stubtest.txt").read_text(encoding="utf-8").strip().split("\n\n")[1:]:
        reason, *patterns = block.splitlines()
        assert reason.startswith("# ") and len(patterns) == 1, block


# -- operations ------------------------------------------------------------------------------------

UNARY = """\
@overload
def {name}(x: _Number, /) -> float: ...
@overload
def {name}(x: Variable, /) -> Variable: ..."""
BINARY = """\
@overload
def {name}({x}: _Number, {y}: _Number, /) -> float: ...
@overload
def {name}({x}: Variable, {y}: Variable | _Number, /) -> Variable: ...
@overload
def {name}({x}: _Number, {y}: Variable, /) -> Variable: ..."""
NARY = """\
@overload
def {name}(xs: Iterable[_Number], /) -> float: ...
@overload
def {name}(xs: Iterable[Variable | _Number], /) -> Variable: ..."""
UNARY_METHOD = "def {name}(self) -> Variable: ..."
BINARY_METHOD = "def {name}(self, other: Variable | _Number, /) -> Variable: ..."
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


@pytest.mark.parametrize(
    "stub, problem",
    [
        ("def f(x: float, /, *more: float, n: int = 1) -> None: ...", ""),
        ("def f(x: float, /, *more: float, n: int = ...) -> None: ...", ""),
        ("def f(x: float, /, *more: float, n: int = 2) -> None: ...", "expected n=1, the stub has the default 2"),
        ("def f(x: float, /, *more: float, n: int) -> None: ...", "expected n=1 (keyword-only), the stub has"),
        ("def f(x: float, *more: float, n: int = 1) -> None: ...", "expected x (positional-only), the stub has another kind"),
        (
            "def f(x: float, /, *more: float, m: int = 1) -> None: ...",
            "expected ['x', 'more', 'n'], the stub has ['x', 'more', 'm']",
        ),
    ],
)
def test_a_signature_that_differs_from_the_stub_is_noticed(stub, problem):
    def f(x, /, *more, n=1):
        return x, more, n

    found = disagreement("f", f, [parameters(ast.parse(stub).body[0])])
    assert found.startswith(problem) and bool(found) == bool(problem)


def test_several_stubs_together_say_what_a_signature_says():
    def f(x=None, *, deep=False):
        return x, deep

    pair = "def f(x: int, *, deep: bool = False) -> int: ...\ndef f(*, deep: bool = False) -> str: ..."
    assert disagreement("f", f, [parameters(node) for node in ast.parse(pair).body]) == ""
    assert "(positional or keyword)" in disagreement("f", f, [parameters(ast.parse(pair).body[0])])


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
