"""What the sdist and the wheel hold: everything that belongs there and nothing else.

python .ci/contents.py FOLDER_WITH_BOTH CHECKOUT
"""

import pathlib
import sys
import tarfile
import zipfile

LIMIT = 2_300_000  # bytes, installed; the wheel is under half of that


def checkout_files(checkout):
    """The files of a clone that an sdist needs: source, stubs, tests, texts."""
    files = {
        path.relative_to(checkout).as_posix()
        for room in ("csrc", "mingrad", "tests")
        for path in (checkout / room).rglob("*")
        if path.is_file()
    }
    files = {name for name in files if not name.endswith((".pyc", ".so"))} - {"csrc/_core.c", "csrc/portable_text.pxi"}
    return files | {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}


def sdist_problems(names, wanted):
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    return [f"sdist lacks {name}" for name in sorted(wanted - names)] + [
        f"sdist should not have {name}" for name in sorted(names - wanted - made)
    ]


def wheel_problems(sizes, wanted):
    package = {name for name in wanted if name.startswith("mingrad/")}
    compiled = [name for name in sizes if name.startswith("mingrad/_core.") and name.endswith((".so", ".pyd"))]
    info = {name for name in sizes if ".dist-info/" in name}
    problems = [f"wheel lacks {name}" for name in sorted(package - set(sizes))]
    problems += [f"wheel should not have {name}" for name in sorted(set(sizes) - package - info - set(compiled))]
    if len(compiled) != 1:
        problems.append(f"wheel: expected one compiled core, got {compiled}")
    if not any(name.endswith("/licenses/LICENSE") for name in info):
        problems.append("wheel lacks LICENSE")
    if sum(sizes.values()) > LIMIT:
        problems.append(f"wheel: {sum(sizes.values())} bytes installed, {LIMIT} allowed")
    return problems


def main(folder, checkout):
    (sdist,), (wheel,) = sorted(folder.glob("*.tar.gz")), sorted(folder.glob("*.whl"))
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    wanted = checkout_files(checkout)
    problems = sdist_problems(names, wanted) + wheel_problems(sizes, wanted)
    print(f"{sdist.name}: {len(names)} files; {wheel.name}: {len(sizes)} files, {sum(sizes.values()):,} bytes installed")
    print("\n".join(problems) or "both hold what they should")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*map(pathlib.Path, sys.argv[1:])))
