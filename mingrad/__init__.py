"""mingrad: scalar automatic differentiation with micrograd's manners and a compiled heart.

>>> from mingrad import Variable
>>> x = Variable(2.0)
>>> y = Variable(3.0)
>>> z = x**2 + y
>>> z.backward()
>>> x.grad, y.grad
(4.0, 1.0)
"""

try:
    from ._core import Variable  # noqa: F401
except ModuleNotFoundError:
    # Python was started in a checkout, beside the source of this package: become the installed one.
    import sys

    from ._checkout import installed

    __spec__ = installed()
    __path__, __file__ = __spec__.submodule_search_locations, __spec__.origin
    __spec__.loader.exec_module(sys.modules[__name__])
else:
    from . import engine
    from ._version import __version__
    from .engine import *  # noqa: F403  (every public name of the engine, and nothing else)

    # Imported when first asked for, since most programs need little of it: submodules, and names by their submodule.
    _SUBMODULES = (
        "autodiff",
        "custom",
        "distributed",
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
    )
    _NAMES = {
        "Checkpoint": "training",
        "EarlyStopping": "training",
        "GradientCheckError": "gradcheck",
        "History": "training",
        "Program": "program",
        "RecordingError": "program",
        "check_grad": "gradcheck",
        "compile": "program",
        "custom_jvp": "custom",
        "custom_vjp": "custom",
        "derivative": "autodiff",
        "explain": "steps",
        "fit": "training",
        "grad": "autodiff",
        "hessian": "autodiff",
        "hvp": "autodiff",
        "jacfwd": "autodiff",
        "jacobian": "autodiff",
        "jacrev": "autodiff",
        "jvp": "autodiff",
        "load": "files",
        "minimize": "optimize",
        "profile": "profiler",
        "record": "replay",
        "save": "files",
        "scan": "rows",
        "stop_gradient": "autodiff",
        "tree": "visualize.text",
        "vmap": "rows",
        "value_and_grad": "autodiff",
        "vjp": "autodiff",
    }
    __all__ = ["__version__", *engine.__all__, *_NAMES]


def __getattr__(name):
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in _NAMES:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_SUBMODULES, *_NAMES})
