"""Compiles a C file of this folder into a temporary library and loads it with ctypes.

Not a build system: one file, one command, gone when the process ends.
"""

import atexit
import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile

from timing import HERE, Missing

FLAGS = ("-O3", "-std=c99", "-shared", "-fPIC")


def library(name):
    """The library made of `name`.c at -O3. Raises Missing without a C compiler."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise Missing(f"no C compiler {compiler[0]!r}")
    folder = tempfile.mkdtemp(prefix="mingrad-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = os.path.join(folder, name + ".so")
    subprocess.run([*compiler, *FLAGS, os.path.join(HERE, name + ".c"), "-o", target, "-lm"], check=True)
    return ctypes.CDLL(target)


def doubles(values):
    """A C array of doubles."""
    values = list(values)
    return (ctypes.c_double * len(values))(*values)
