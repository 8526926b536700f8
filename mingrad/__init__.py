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

    __all__ = ["__version__", *engine.__all__]


def __getattr__(name):
    """Import `mingrad.nn`, `mingrad.optim` and `mingrad.visualize` when they are first asked for; few programs need all."""
    if name in ("nn", "optim", "visualize"):
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    if name in ("Checkpoint", "EarlyStopping", "History", "fit"):
        from . import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
