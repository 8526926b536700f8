"""``python -m mingrad info``: what is installed here, for people and for reports of errors."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import sysconfig
from importlib import metadata
from importlib.util import find_spec

from .. import __version__, _core
from ..engine import Variable, tape_info

# Packages whose module has another name.
MODULES = {"scikit-learn": "sklearn"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print what is installed: version, compiler, SIMD level, tape, Python, extras. Paste it into reports of errors."
    )


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Print a line for each fact."""
    facts = {
        "mingrad": f"{__version__}, in {os.path.dirname(_core.__file__)}",
        "core": f"compiled by {_core._compiler()}{', a debug build' if _core._check() else ''}",
        "SIMD": f"{_core._simd()} (the processor decides; results are the same bits)",
        "tape": tape(),
        "Python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.python_compiler()}), {lock()}",
        "system": f"{platform.platform()}, {os.cpu_count()} processors",
        "extras": extras(),
    }
    print("\n".join([f"{name:8} {text}" for name, text in facts.items()]))
    return 0


def tape() -> str:
    """How much the tape holds, and when it is collected."""
    Variable(0.0)  # or there may be no tape yet
    info = tape_info()
    young, _ = _core._stress()
    each = info.bytes // info.capacity
    return f"{each} bytes a node with its marks; room for {info.capacity:,}; collected after {young:,} new nodes"


def lock() -> str:
    """Whether this Python runs threads side by side."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "with the GIL"
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "free-threaded, but its GIL is switched on" if enabled else "free-threaded, without the GIL"


def extras() -> str:
    """The extras and which of them are here, as the package's own metadata lists them."""
    try:
        requirements = metadata.requires("mingrad") or []
    except metadata.PackageNotFoundError:
        return "not known, as mingrad runs from a folder that is not installed"
    needed: dict[str, set[str]] = {}
    for text in requirements:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", text)
        if found:
            needed.setdefault(found[2], set()).add(found[1])
    states = []
    for extra, packages in sorted(needed.items()):
        missing = sorted(package for package in packages if not is_here(package))
        states.append(extra if not missing else f"{extra} (lacks {', '.join(missing)})")
    return "; ".join(states)


def is_here(package: str) -> bool:
    """Whether a package is installed, under its own name or its module's."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return find_spec(MODULES.get(package, package.replace("-", "_"))) is not None
    return True
