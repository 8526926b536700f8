"""What the sdist and the wheels hold: everything that belongs there and nothing else, in little room.

python .ci/contents.py FOLDER_WITH_BOTH CHECKOUT
"""

import pathlib
import re
import sys
import tarfile
import zipfile

# bytes: the wheel as it is downloaded, and what it takes when it is installed; gcc needs a tenth less
DOWNLOADED, INSTALLED = 950_000, 2_300_000


def checkout_files(checkout):
    """The files of a clone that an sdist needs: source, stubs, tests, texts."""
    files = {
        path.relative_to(checkout).as_posix()
        for room in ("csrc", "mingrad", "tests")
        for path in (checkout / room).rglob("*")
        if path.is_file()
    }
    files = {name for name in files if not re.search(r"\.(pyc|so)$|^csrc/(_core\w*\.c|portable_text\.pxi)$", name)}
    return files | {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}


def sdist_problems(names, wanted):
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    return [f"sdist lacks {name}" for name in sorted(wanted - names)] + [
        f"sdist should not have {name}" for name in sorted(names - wanted - made)
    ]


def wheel_problems(sizes, downloaded, wanted):
    """sizes: {name: bytes} of the files in the wheel, which has `downloaded` bytes itself."""
    package = {name for name in wanted if name.startswith("mingrad/") and not name.endswith(".svg")}  # README's pictures
    compiled = [name for name in sizes if name.startswith("mingrad/_core.") and name.endswith((".so", ".pyd"))]
    info = {name for name in sizes if ".dist-info/" in name}
    problems = [f"wheel lacks {name}" for name in sorted(package - set(sizes))]
    problems += [f"wheel should not have {name}" for name in sorted(set(sizes) - package - info - set(compiled))]
    if len(compiled) != 1:
        problems.append(f"wheel: expected one compiled core, got {compiled}")
    if not any(name.endswith("/licenses/LICENSE") for name in info):
        problems.append("wheel lacks LICENSE")
    for size, limit, what in ((downloaded, DOWNLOADED, "to download"), (sum(sizes.values()), INSTALLED, "installed")):
        if size > limit:
            problems.append(f"wheel: {size:,} bytes {what}, {limit:,} allowed")
    return problems


def look_at_sdist(path, wanted):
    """Prints what is there; returns what is wrong with it."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    print(f"{path.name}: {len(names)} files")
    return sdist_problems(names, wanted)


def look_at_wheel(path, wanted):
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
    downloaded = path.stat().st_size
    print(f"{path.name}: {len(sizes)} files, {downloaded:,} bytes to download, {sum(sizes.values()):,} installed")
    return wheel_problems(sizes, downloaded, wanted)


def main(folder, checkout):
    wanted = checkout_files(checkout)
    (sdist,), wheels = sorted(folder.glob("*.tar.gz")), sorted(folder.glob("*.whl"))
    problems = look_at_sdist(sdist, wanted) + [problem for wheel in wheels for problem in look_at_wheel(wheel, wanted)]
    if not wheels:
        problems.append(f"no wheel in {folder}")
    print("\n".join(problems) or "all hold what they should")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*map(pathlib.Path, sys.argv[1:])))
