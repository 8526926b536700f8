"""Finds the installed package for a Python that was started inside a checkout. Used only there, and only on failure.

After ``python -m pip install .`` the same folder still holds a folder ``mingrad``, the one that Python looks at first and
that has no compiled core. ``python -m mingrad`` and ``python -m pytest`` mean the installed package, not that one.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder


def installed() -> ModuleSpec:
    """The import spec of the installed package. Raises ImportError, which says what to do, if there is none."""
    checkout = os.path.realpath(os.path.dirname(os.path.dirname(__file__)))
    elsewhere = [folder for folder in sys.path if os.path.realpath(folder or os.curdir) != checkout]
    spec = PathFinder.find_spec("mingrad", elsewhere)
    if spec is None or PathFinder.find_spec("mingrad._core", spec.submodule_search_locations) is None:
        raise ImportError(
            f"mingrad: the core in {checkout} is not compiled for this Python, and no mingrad is installed in "
            f"{sys.prefix}: run `python -m pip install .` in that folder (with -e to work on the code)",
            name="mingrad._core",
        )
    return spec
