"""The wheels of a release: whether cibuildwheel would build those that .ci/identifiers.txt lists.

    python -m pip install --group wheels
    python .ci/identifiers.py            # compares; says what is missing and what is new
    python .ci/identifiers.py --write    # takes what cibuildwheel says into the list

It builds nothing and needs no container. A headline of the list, `[platform architectures]`, is what
cibuildwheel is asked; a newer cibuildwheel that adds or drops a Python shows here first.
"""

import argparse
import difflib
import re
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).resolve().with_suffix(".txt")


def read(text):
    """{(platform, architectures): [identifiers]} of the list's text."""
    return {
        (platform, tuple(architectures.split())): identifiers.split()
        for platform, architectures, identifiers in re.findall(r"^\[(\w+) ([\w ]+)\]\n([^\[]*)", text, re.MULTILINE)
    }


def write(sections):
    return "\n".join(
        "\n".join([f"[{platform} {' '.join(architectures)}]", *identifiers, ""])
        for (platform, architectures), identifiers in sections.items()
    )


def ask(platform, architectures):
    """What cibuildwheel would build there, in its order."""
    command = [
        sys.executable,
        "-m",
        "cibuildwheel",
        "--print-build-identifiers",
        "--platform",
        platform,
        "--archs",
        ",".join(architectures),
    ]
    finished = subprocess.run(command, cwd=LIST.parent.parent, stdout=subprocess.PIPE, encoding="utf-8")
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)} failed; is cibuildwheel here (python -m pip install --group wheels)?")
    return finished.stdout.split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the list anew")
    arguments = parser.parse_args()
    text = LIST.read_text(encoding="ascii")
    asked = write({section: ask(*section) for section in read(text)})
    if arguments.write:
        LIST.write_text(asked, encoding="ascii")
    elif asked != text:
        sys.stdout.writelines(difflib.unified_diff(text.splitlines(True), asked.splitlines(True), LIST.name, "cibuildwheel"))
        raise SystemExit(
            "cibuildwheel would build other wheels than listed: mend [tool.cibuildwheel], "
            "or run `python .ci/identifiers.py --write` and look at the change"
        )
    print(f"{sum(map(len, read(asked).values()))} wheels")


if __name__ == "__main__":
    main()
