# setup.py: the compiled extension; everything else about the package is in pyproject.toml.
import os
import re
import shutil
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# No contraction and no fast-math: results are the same bits on every machine. SIMD is chosen at run time. -O3 would make the
# core a tenth larger and backward slower (4.7 ns a node instead of 4.4).
if sys.platform == "win32":
    FLAGS, LINK_FLAGS, LIBRARIES = ["/O2", "/fp:precise"], [], []
else:
    FLAGS = ["-O2", "-ftree-vectorize", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-g0"]
    LINK_FLAGS, LIBRARIES = [], ["m"]

# Builds that look for errors, and one whose lines gcov counts, by words of the environment's MINGRAD_BUILD; tests/sanitizers.py
# and tests/covered.py make and use them. -O0 compiles in a fifth of the time. Python's own flags have -fwrapv, with which no
# overflow would be an error.
BUILDS = {
    "debug": ["-O0", "-g", "-UNDEBUG", "-DMINGRAD_DEBUG"],
    "address": ["-O0", "-g", "-fno-omit-frame-pointer", "-fsanitize=address"],
    "undefined": ["-O0", "-g", "-fno-wrapv", "-fsanitize=undefined,float-cast-overflow"],
    "symbols": ["-g"],
    "coverage": ["-O0", "-fprofile-update=atomic", "--coverage"],
}
BUILD = os.environ.get("MINGRAD_BUILD", "").split()
if sys.platform == "linux" and not BUILD:  # no symbols and no tables for unwinding, which only a debugger asks for
    FLAGS += ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-align-functions", "-fno-align-jumps"]
    LINK_FLAGS += ["-Wl,-s"]
for word in BUILD:
    FLAGS = FLAGS + BUILDS[word]
    LINK_FLAGS = LINK_FLAGS + [flag for flag in BUILDS[word] if flag.startswith(("-fsanitize", "--coverage"))]


class BuildExt(build_ext):
    """build_ext that ends by saying what is missing when the core cannot be compiled."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            # compiler_so: the words of CC where compilers are Unix-like; cc: a path, once MSVC has been found
            command = getattr(self.compiler, "compiler_so", None) or [getattr(self.compiler, "cc", None) or "cl.exe"]
            if shutil.which(command[0]) is None:
                problem = f"no C compiler was found ({error})"
            else:
                problem = f"the C compiler {command[0]!r} failed; its messages are above"
            raise SystemExit(
                f"\nmingrad could not be installed: its core is written in C and {problem}.\n"
                "Building it needs a C compiler and Python's headers. Debian, Ubuntu: apt install gcc python3-dev; Fedora:\n"
                "dnf install gcc python3-devel; Alpine: apk add gcc musl-dev python3-dev; macOS: xcode-select --install;\n"
                'Windows: Visual Studio Build Tools with the workload "Desktop development with C++".\n'
                "A wheel of mingrad for this system needs none of them.\n"
            ) from error


def write_if_new(path, text):
    """Make a source file; untouched if it is there, or everything would be compiled again."""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_portable_text():
    """csrc/portable.h as a string for export.pxi."""
    with open(os.path.join("csrc", "portable.h"), encoding="ascii") as file:
        text = f"# Made by setup.py of portable.h.\ncdef str PORTABLE = {file.read()!r}\n"
    write_if_new(os.path.join("csrc", "portable_text.pxi"), text)


FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# The core's doors are the C functions that Python calls: those of Cython's, whose address stands anywhere; csrc/README.md.
OWN = r"(?<!\w)__pyx_\w*_7mingrad_5_core_\w+"
NO_DOORS = (
    "__pyx_obj_",  # a type
    "__pyx_f_",  # in the tables of the core's own classes: only the core calls it
    "__pyx_tp_traverse_",  # called by Python's collector while no other thread runs
)


def door(kind, name, parameters):
    """A door: the function as Python calls it, which takes the lock and calls what Cython has made."""
    names = ", ".join(re.findall(r"(\w+)\s*(?:,|$)", parameters))
    call = f"DOOR_VOID(inside{name}({names}))" if kind == "void" else f"DOOR({kind.strip()}, inside{name}({names}))"
    return f"static {kind} inside{name}({parameters});\nstatic {kind} {name}({parameters}) {{ {call}; }}"


def lock_doors(text):
    """The text of the C file that Cython has made, with the core's lock (lock.h) at every door."""
    definition = re.compile(rf"^static ([\w ]+?\**) ?({OWN})\(([^;{{]*?)\) \{{$", re.MULTILINE)
    declared = set(re.findall(rf"^static [\w ]+?\**\s?({OWN})\(", text, re.MULTILINE))
    doors = {name for name in declared.intersection(re.findall(rf"{OWN}\b(?!\()", text)) if not name.startswith(NO_DOORS)}
    missing = sorted(doors - {found[2] for found in definition.finditer(text)})
    for path in files(".pxi"):
        with open(path, encoding="utf-8") as file:
            functions = re.findall(r"^(?:    )?def (?!__)(\w+)\(", file.read(), re.MULTILINE)
        missing += [name for name in functions if not any(re.search(rf"_\d*{name}$", known) for known in doors)]
    if missing:
        problem = f"no lock at these doors of the core, as this Cython writes C: {', '.join(missing)}"
        if FREE_THREADED:
            raise SystemExit(f"setup.py: {problem}")
        print(f"csrc/_core.c: warning: {problem}; a Python without a GIL would need them", file=sys.stderr)

    def with_door(found):
        kind, name, parameters = found.groups()
        if name not in doors:
            return found[0]
        parts = re.fullmatch(r"([^#]*)(?:#if (\w+)\n(.*)\n#else\n(.*)\n#endif\n)?", parameters)
        begin, condition, one, other = parts.groups("")
        lines = [door(kind, name, " ".join(f"{begin} {more}".split())) for more in ((one, other) if condition else ("",))]
        if condition:
            lines = [f"#if {condition}", lines[0], "#else", lines[1], "#endif"]
        return "\n".join([*lines, f"static {kind} inside{name}({parameters}) {{"])

    return definition.sub(with_door, text)


def locked(path):
    """The path of a copy of Cython's C file in which doors are locked, where Python has no GIL; else of itself. Doors are looked
    for in every build, so that one that cannot be locked is seen at once: there it is an error, elsewhere a warning."""
    with open(path, encoding="utf-8") as file:
        text = lock_doors(file.read())
    if not FREE_THREADED:
        return path
    path = os.path.join("csrc", "_core_doors.c")
    write_if_new(path, text)
    return path


def files(*endings):
    return sorted(os.path.join("csrc", name) for name in os.listdir("csrc") if name.endswith(endings))


write_portable_text()
(core,) = cythonize(
    [
        Extension(
            "mingrad._core",
            sources=["csrc/_core.pyx", "csrc/kernels.c", "csrc/special.c", "csrc/vector.c"],
            include_dirs=["csrc"],
            depends=files(".h", ".def", ".pxi"),
            libraries=LIBRARIES,
            extra_compile_args=FLAGS,
            extra_link_args=LINK_FLAGS,
        )
    ],
    annotate=bool(os.environ.get("MINGRAD_ANNOTATE")),
    emit_linenums="coverage" in BUILD,
)
core.sources[0] = locked(core.sources[0])
setup(ext_modules=[core], cmdclass={"build_ext": BuildExt})
