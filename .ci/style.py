"""Everything that keeps the style: layout and lint of Python, of C and of Cython; settings are in pyproject.toml and .clang-format.

    python -m pip install --group style
    python .ci/style.py
    python .ci/style.py --fix      # lay out, and mend what can be mended by itself
    python .ci/style.py ruff       # one tool of several

Needs only what that group installs. .pre-commit-config.yaml calls it for the files of a commit.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
C = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.[ch]"))

# tool: its commands that look, and those that mend
TOOLS = {
    "ruff": (
        [["ruff", "format", "--diff", "--quiet", "."], ["ruff", "check", "--output-format", "concise", "."]],
        [["ruff", "check", "--fix", "--quiet", "."], ["ruff", "format", "--quiet", "."]],
    ),
    "clang-format": ([["clang-format", "--dry-run", "-Werror", *C]], [["clang-format", "-i", *C]]),
    "cython-lint": ([["cython-lint", "csrc"]], [["cython-lint", "csrc"]]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tools", nargs="*", metavar="tool", help=f"{', '.join(TOOLS)}; all, if none is named")
    parser.add_argument("--fix", action="store_true", help="mend what can be mended")
    arguments = parser.parse_args()
    unknown = [tool for tool in arguments.tools if tool not in TOOLS]
    if unknown:
        parser.error(f"expected tools among {', '.join(TOOLS)}, got {unknown[0]}")
    failed = []
    for tool in arguments.tools or TOOLS:
        for command in TOOLS[tool][arguments.fix]:
            if run(command):
                failed.append(tool)
    print(f"style: {' and '.join(dict.fromkeys(failed))} found something" if failed else "style: nothing to mend")
    return bool(failed)


def run(command):
    """The exit status of a tool of this Python's environment, be it activated or not."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])  # cython-lint calls pycodestyle
    tool = shutil.which(command[0], path=path)
    if tool is None:
        sys.exit(f"{command[0]} is not installed: python -m pip install --group style")
    return subprocess.run([tool, *command[1:]], cwd=ROOT, env={**os.environ, "PATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main())
