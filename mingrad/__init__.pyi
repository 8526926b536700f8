"""Types of mingrad: the public names of mingrad.engine."""

from . import engine as engine
from ._version import __version__ as __version__
from .engine import *
