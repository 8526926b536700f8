"""mingrad: scalar automatic differentiation with micrograd's manners and a compiled heart.

>>> from mingrad import Variable
>>> x = Variable(2.0)
>>> y = Variable(3.0)
>>> z = x**2 + y
>>> z.backward()
>>> x.grad, y.grad
(4.0, 1.0)
"""

from . import engine
from ._version import __version__
from .engine import *  # noqa: F403  (every public name of the engine, and nothing else)

__all__ = ["__version__", *engine.__all__]
