# setup.py: the compiled extension; everything else about the package is in pyproject.toml.
import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# No contraction and no fast-math: results are the same bits on every machine. SIMD is chosen at run time.
if sys.platform == "win32":
    FLAGS, LIBRARIES = ["/O2", "/fp:precise"], []
else:
    FLAGS, LIBRARIES = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-g0"], ["m"]


class BuildExt(build_ext):
    """build_ext that says what is missing when there is no C compiler."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            raise SystemExit(
                f"mingrad: building its C core failed: {error}\n"
                "A C compiler and Python's headers are needed: on Debian or Ubuntu `apt install gcc python3-dev`, on Fedora\n"
                "`dnf install gcc python3-devel`, on macOS `xcode-select --install`, on Windows the Visual Studio Build Tools.\n"
                "Or install a wheel, which needs no compiler."
            ) from error


def files(*endings):
    return sorted(os.path.join("csrc", name) for name in os.listdir("csrc") if name.endswith(endings))


setup(
    ext_modules=cythonize(
        [
            Extension(
                "mingrad._core",
                sources=["csrc/_core.pyx", "csrc/kernels.c", "csrc/special.c"],
                include_dirs=["csrc"],
                depends=files(".h", ".def", ".pxi"),
                libraries=LIBRARIES,
                extra_compile_args=FLAGS,
            )
        ],
        annotate=bool(os.environ.get("MINGRAD_ANNOTATE")),
    ),
    cmdclass={"build_ext": BuildExt},
)
