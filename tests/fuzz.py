"""Fuzz the loaders: whatever bytes a file has, loading it ends in the right object or in a clear refusal.

    python tests/fuzz.py --seconds 120
    python tests/fuzz.py --seconds 1800 --engine atheris --only program
    python tests/fuzz.py --make-corpus
    python tests/fuzz.py fuzz-found-1a2b3c4d.npz

Not a test file; test_fuzz.py loads every file of the corpus once. With the package atheris (Google's, on libFuzzer) the search is
led by which lines of the loaders an input reaches; without it a seeded loop of random changes does what it can. Which of the two
ran is said at the end. Both begin with the files of tests/corpus, which --make-corpus writes, and change them with a knowledge of
their formats: JSON by its values, numbers by ones that are prone to overflow, and with checksums made good, which would refuse
all the rest before anybody looks.

What must hold, for each kind of file: an exception is a ValueError that names the file; what was loaded and is saved again is
the same when it is loaded again; a program gives the same bits as node by node; a refused checkpoint changes nothing. A crash,
20 seconds for one file, or 500 MB of memory are findings, as is any other exception. The input of a finding is left in the
working folder; with its name as argument it is tried again. Exit code 1 if there was a finding.
"""

import argparse
import contextlib
import copy
import faulthandler
import gc
import io
import json
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from array import array
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows
    resource = None

CORPUS = Path(__file__).parent / "corpus"
TIME = 20  # seconds for one input
MEMORY = 500 * 2**20  # bytes beyond what there is at the start
LONGEST = 1 << 16  # bytes of an input

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None and {"--child", "atheris"} <= set(sys.argv):
    with atheris.instrument_imports(include=["mingrad.files", "mingrad.program_file", "mingrad.training"]):
        import mingrad.files
        import mingrad.program_file
        import mingrad.training

import mingrad  # noqa: E402
from mingrad import _core, files, nn, optim, program_file, training  # noqa: E402
from mingrad.program import _nest  # noqa: E402


class Finding(Exception):
    """What must not be."""


# -- what must hold --------------------------------------------------------------------------------


def refused(error, path):
    """Fail unless the exception is what a loader is allowed to raise over the file."""
    if not isinstance(error, ValueError) or repr(path) not in str(error):
        raise Finding(f"expected a ValueError with {path!r} in it, got {type(error).__name__}: {error}") from error
    return False


def same_numbers(x, y):
    return x.tobytes() == y.tobytes()


def check_weights(path):
    """.npz and .safetensors: whether it was read."""
    try:
        tensors, metadata = files.read_file(path)
    except Exception as error:
        return refused(error, path)
    with contextlib.suppress(files.FileFormatError):  # too many empty lists
        mingrad.load(path)
    again = "again.npz"
    files.write_file(again, tensors, metadata)
    tensors_again, metadata_again = files.read_file(again)
    if metadata_again != metadata or list(tensors_again) != list(tensors):
        raise Finding("names or metadata differ when written and read again")
    for name, (shape, values) in tensors.items():
        if tensors_again[name][0] != shape or not same_numbers(tensors_again[name][1], values):
            raise Finding(f"tensor {name!r} differs when written and read again")
    return True


def numbers_of(results):
    return [x.data if isinstance(x, mingrad.Variable) else x for x in results]


def check_program(path):
    try:
        program = mingrad.Program.load(path)
    except Exception as error:
        return refused(error, path)
    program.save("again.program")
    mingrad.Program.load("again.program").save("third.program")
    if Path("again.program").read_bytes() != Path("third.program").read_bytes():
        raise Finding("a program that is saved, loaded and saved is another")
    inputs = [0.25 * (k % 9) - 1.0 for k in range(program.n_inputs)]
    outcomes = []
    for run in (_core._run_eagerly, _core._run, _core._run):
        try:
            with mingrad.no_grad():
                found = run(program, list(inputs), program.name)
            outcomes.append(numbers_of(found) if isinstance(found, list) else None)
        except (ArithmeticError, ValueError, mingrad.RecordingError) as error:
            outcomes.append(type(error))
    for found in outcomes[1:]:  # None, False: not this way, or an op has raised; then the eager run decides
        if isinstance(found, list) and isinstance(outcomes[0], list):
            if not all(x == y or (x != x and y != y) for x, y in zip(found, outcomes[0])):
                raise Finding(f"a run gives {found}, node by node {outcomes[0]}")
        elif isinstance(found, list):
            raise Finding(f"a run gives {found}, node by node {outcomes[0].__name__}")
    arguments = iter([mingrad.Variable(x) for x in inputs])
    with contextlib.suppress(ArithmeticError, ValueError, mingrad.RecordingError):
        args, kwargs = (_nest(key, arguments) for key in program.keys)
        for x in nest_numbers(program(*args, **kwargs)):
            if isinstance(x, mingrad.Variable) and x.requires_grad:
                x.backward()
                break
    if program.n_inputs:
        with contextlib.suppress(ArithmeticError, ValueError, mingrad.RecordingError):
            program.map([[x, x, -x] for x in inputs], grad="rows" if len(program.outputs) == 1 else None)
    program.summary()
    return True


def nest_numbers(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple, mingrad.VariableList)):
        return [x for part in tree for x in nest_numbers(part)]
    return [tree]


def checkpointed(path, optimizer="Adam", resume=None, epochs=2):
    """A short training with all that a checkpoint holds; returns all that may change."""
    random.seed(3)
    model = nn.Linear(1, 2)
    mingrad.VariableList(model.parameters()).data = [0.5, -0.5, 0.25, 0.0]
    tool = getattr(optim, optimizer)(model.parameters(), lr=0.1)
    stopping = mingrad.EarlyStopping(patience=50)
    scheduler = optim.lr_scheduler.StepLR(tool, step_size=2)

    def everything():
        kept = [p.data for p in model.parameters()], tool.state_dict(), scheduler.state_dict(), stopping.state_dict()
        return repr((*kept, random.getstate()))

    before = everything()
    try:
        history = mingrad.fit(
            model,
            [([0.0], [1.0, 2.0]), ([1.0], [0.5, -1.0]), ([2.0], [0.0, 0.0])],
            loss=nn.mse_loss,
            optimizer=tool,
            scheduler=scheduler,
            epochs=epochs,
            batch_size=2,
            shuffle=4,
            callbacks=[stopping, *([mingrad.Checkpoint(path)] if resume is None else [])],
            progress=False,
            resume=resume,
        )
    except Exception as error:
        if everything() != before and not is_end_of_training(error):
            raise Finding(f"{error!r} came after something had changed") from error
        raise
    return history


def is_end_of_training(error):
    """Whether it comes of numbers that no training has, but a file may: a loss or a rate that is no finite number."""
    return isinstance(error, FloatingPointError) or "LR: lr: expected a finite number" in str(error)


def check_checkpoint(path):
    with open(path, "rb") as file:
        optimizer = "SGD" if b"SGD" in file.read() else "Adam"
    try:
        history = checkpointed(path, optimizer, resume=path, epochs=3)
    except Exception as error:
        return is_end_of_training(error) or refused(error, path)
    if len({len(column) for column in history.values()}) != 1:
        raise Finding(f"columns of the history are of different lengths: {dict(history)}")
    return True


def check_state(path):
    """What unpickling hands to __setstate__ and _rebuild, changed: there only crashes count, since a pickle may do anything."""
    with open(path, "rb") as file:
        rng = random.Random(file.read())
    leaves = [mingrad.Variable(k / 4) for k in range(3)]
    for leaf in leaves:
        leaf.grad = 0.5
    cls = rng.choice([optim.SGD, optim.Adam, optim.RMSprop])
    tool = cls(leaves, lr=0.1)
    tool.step()
    made = cls.__new__(cls)
    done = False
    with contextlib.suppress(Exception):
        made.__setstate__(changed_tree(copy.deepcopy(tool.__getstate__()), rng))
        made.step()
        made.state_dict()
        done = True
    linear = nn.Linear(2, 2)
    made = nn.Linear.__new__(nn.Linear)
    with contextlib.suppress(Exception):
        made.__setstate__(changed_tree(copy.deepcopy(linear.__getstate__()), rng))
        made([[1.0, 2.0], [0.5, mingrad.Variable(1.0)]])
        made.zero_grad()
    for thing in (leaves[0], mingrad.VariableList(leaves), linear.weight):
        function, arguments, *rest = thing.__reduce__()
        with contextlib.suppress(Exception):
            copy.copy(function(*changed_tree(list(arguments), rng)))
    return done


# -- changes ---------------------------------------------------------------------------------------

NUMBERS = [0, 1, 2, 3, 7, 8, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    -(2**63),
    10**30,
    0.5,
    math.nan,
    -math.inf,
    "",
    "x",
    "number",
    "\ud800",
]


def changed_bytes(data, rng, other=b""):
    """A few changes that know nothing of any format."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + rng.choice([1, 2, 4, 8, 100])]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice([1, 4, 8, 100])]
        elif kind == 4:
            size = rng.choice([2, 4, 8])
            at -= at % rng.choice([1, size])
            data[at : at + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")
        elif kind == 5:
            data[at : at + 8] = struct.pack("<d", rng.choice([0.0, -0.0, 1e308, 5e-324, math.inf, math.nan, rng.gauss(0, 9)]))
        elif kind == 6:
            del data[at:]
        else:
            data[at:at] = other[rng.randrange(len(other) + 1) :][: rng.choice([1, 8, 100])]
    return bytes(data[:LONGEST])


def changed_text(text, rng):
    """Numbers in it exchanged, or changed as bytes."""
    found = list(re.finditer(rb"\d+|'[^']*'|\"[^\"]*\"", text))
    if found and rng.random() < 0.7:
        match = rng.choice(found)
        new = rng.choice(
            [str(rng.choice(NUMBERS)).encode(), b"-1", b"'O'", b"'<f8'", b"'>i2'", b"'|b1'", b"'<f2'", b"1e9", b"", b"()"]
        )
        return text[: match.start()] + new + text[match.end() :]
    return changed_bytes(text, rng)


def changed_tree(tree, rng):
    """A nest of dicts and lists with a part or two exchanged, gone, or come twice."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = []
        walk = [tree]
        while walk:
            item = walk.pop()
            if isinstance(item, (dict, list, array)) and len(item):
                keys = list(item) if isinstance(item, dict) else range(len(item))
                keys = rng.sample(keys, 12) if len(keys) > 12 else keys  # a generator's state has 625 words
                places += [(item, key) for key in keys]
                if not isinstance(item, array):
                    walk += [item[key] for key in keys]
        if not places:
            return rng.choice(VALUES)
        item, key = rng.choice(places)
        kind = rng.randrange(6)
        if isinstance(item, array):
            if kind < 3:
                del item[key]
            else:
                item.append(1.5)
        elif kind == 0:
            del item[key]
        elif kind == 1:
            other, place = rng.choice(places)
            item[key] = copy.deepcopy(other[place])
        elif kind == 2 and isinstance(item, list):
            item.insert(key, copy.deepcopy(item[key]))
        elif kind == 3 and isinstance(item[key], (int, float)):
            item[key] = rng.choice([item[key] + 1, -item[key], rng.choice(NUMBERS), float(item[key]), str(item[key])])
        elif kind == 4:
            nest = item[key]
            for _ in range(rng.choice([1, 2, 110, 3000])):
                nest = [nest]
            item[key] = nest
        else:
            item[key] = rng.choice([*VALUES, [], {}, [[]], {"": 0}])
    return tree


def changed_json(data, rng):
    """Bytes of JSON with a part of it changed."""
    if rng.random() < 0.2:
        return changed_text(data, rng)
    return json.dumps(changed_tree(json.loads(data), rng)).encode()


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [[info, archive.read(info)] for info in archive.infolist()]


def zipped(found, rng):
    file = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive,
    ):
        warnings.simplefilter("ignore")  # names that come twice
        for info, contents in found:
            archive.writestr(getattr(info, "filename", info), contents)
    return file.getvalue()


def changed_npz(data, rng, other):
    found = members(data)
    k = rng.randrange(len(found))
    info, contents = found[k]
    kind = rng.randrange(8)
    if kind == 0:
        del found[k]
    elif kind == 1:
        found[k][0] = rng.choice(["", "x.npy", "../x.npy", "a//b.npy", found[0][0], files.METADATA, "\u00e9.npy"])
    elif kind == 2:
        found += rng.choices(members(other), k=1) if other[:2] == b"PK" else [["y.npy", contents]]
    elif kind == 3:
        found[k][1] = changed_bytes(contents, rng, other)
    elif info.filename == files.METADATA:
        found[k][1] = changed_json(contents, rng)
    else:
        end = contents.index(b"\n") + 1
        header = changed_text(contents[10:end], rng)
        size = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
        found[k][1] = contents[:8] + (size % 2**16).to_bytes(2, "little") + header + contents[end:]
    return zipped(found, rng)


def changed_safetensors(data, rng, other):
    size = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    if rng.random() < 0.8:
        header.get("__metadata__", {}).pop(files.CHECKSUM, None)
    if rng.random() < 0.3:
        rest = changed_bytes(rest, rng, other)
    else:
        header = changed_tree(header, rng)
        if isinstance(header, dict):
            for tensor in header.values():
                if isinstance(tensor, dict) and "dtype" in tensor and rng.random() < 0.2:
                    tensor["dtype"] = rng.choice([*files.DTYPES, "F8_E4M3", "C64"])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def changed_program(data, rng, other):
    size = program_file.HEAD.unpack(data[:40])[3]
    text, rows = data[40 : 40 + size], data[40 + size :]
    if rng.random() < 0.5:
        text = changed_json(text, rng)
    if rng.random() < 0.6:
        rows = changed_bytes(rows, rng, other[40:])
    return program_file._sealed(text, rows)


def changed_checkpoint(data, rng, other):
    found = members(data)
    for k, (info, contents) in enumerate(found):
        if info.filename == files.METADATA and rng.random() < 0.8:
            metadata = json.loads(contents)
            entry = changed_tree(json.loads(metadata[training.ENTRY]), rng)
            found[k][1] = json.dumps({training.ENTRY: json.dumps(entry)}).encode()
            return zipped(found, rng)
    return changed_npz(data, rng, other)


# -- kinds -----------------------------------------------------------------------------------------

KINDS = {
    "npz": (".npz", check_weights, changed_npz),
    "safetensors": (".safetensors", check_weights, changed_safetensors),
    "program": (".program", check_program, changed_program),
    "checkpoint": (".checkpoint.npz", check_checkpoint, changed_checkpoint),
    "state": (".state", check_state, changed_bytes),
}


def changed(kind, data, rng, other=b""):
    """An input from another one: by the format's mutator where data is of the format, else by bytes."""
    if rng.random() < 0.8:
        with contextlib.suppress(Exception):
            return KINDS[kind][2](data, rng, other)
    return changed_bytes(data, rng, other)


def attempt(kind, data):
    """Write data to a file and check what loading it does; returns whether it was loaded."""
    ending, check, _ = KINDS[kind]
    path = "input" + ending
    with open(path, "wb") as file:
        file.write(data)
    alarm = getattr(signal, "alarm", int)  # Windows has none
    alarm(TIME)  # not caught: C code that hangs would never come to a handler
    try:
        return check(path)
    finally:
        alarm(0)


def nothing_left(handles=mingrad.tape_info().handles):
    gc.collect()
    left = mingrad.tape_info().handles - handles
    if left:
        raise Finding(f"{left} Variables are left")


def kind_of(path):
    for kind, (ending, _, _) in sorted(KINDS.items(), key=lambda item: -len(item[1][0])):
        if str(path).endswith(ending):
            return kind
    raise SystemExit(f"expected a file that ends in {', '.join(ending for ending, _, _ in KINDS.values())}, got {path}")


def corpus(kind):
    """The contents of the corpus's files of this kind, by name."""
    return {path.name: path.read_bytes() for path in sorted(CORPUS.iterdir()) if kind_of(path) == kind}


# -- engines: each runs in a process of its own, in an empty folder ------------------------------------


def search_alone(kind, seconds, seed):
    """Seeded changes of the corpus; an input that was loaded may be changed again."""
    rng = random.Random(f"{kind} {seed}")
    pool = list(corpus(kind).values())
    own, end, runs, loads = len(pool), time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        data = changed(kind, rng.choice(pool), rng, rng.choice(pool))
        loaded = attempt(kind, data)
        runs, loads = runs + 1, loads + loaded
        if runs % 256 == 0:
            nothing_left()
        if loaded:
            if len(pool) < own + 200:
                pool.append(data)
            else:
                pool[own + rng.randrange(200)] = data
    print(f"stat: {runs} executions, {loads} loaded")


def search_by_atheris(kind, seconds, seed):
    """libFuzzer in this process, led by coverage; it ends the process."""
    os.mkdir("pool")
    for name, data in corpus(kind).items():
        Path("pool", name).write_bytes(data)
    runs = 0

    def one(data):
        nonlocal runs
        attempt(kind, data)
        runs += 1
        if runs % 256 == 0:
            nothing_left()

    def mutate(data, most, number):
        rng = random.Random(number)
        if rng.random() < 0.2:
            return atheris.Mutate(data, most)
        return changed(kind, data, rng, rng.choice(list(seeds)))[:most]

    seeds = list(corpus(kind).values())
    options = {"max_total_time": max(1, int(seconds)), "seed": seed, "max_len": LONGEST, "timeout": TIME, "rss_limit_mb": 0}
    arguments = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, "-print_final_stats=1", "-artifact_prefix=./", "pool"], one, custom_mutator=mutate)
    atheris.Fuzz()


def child(options):
    """One kind's search, in the present folder, with the limits set."""
    faulthandler.enable()
    if resource is not None and sys.platform == "linux":
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    (search_by_atheris if options.engine == "atheris" else search_alone)(options.child, options.seconds, options.seed)


def search(kind, options):
    """Run a child for one kind; returns whether it found something."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.abspath(__file__), "--child", kind, "--engine", options.engine]
        command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
        paths = [str(Path(mingrad.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=options.seconds + 120,
        )
        if done.returncode == 0:
            print(f"{kind}: {summary(done.stdout)}", flush=True)
            return False
        print(f"{kind}: FOUND, exit code {done.returncode}")
        lines = [line for line in done.stdout.splitlines() if not line.startswith(("#", "INFO: "))]
        print("\n".join(lines[-60:]))
        ending = KINDS[kind][0]
        data = Path(folder, "input" + ending).read_bytes()
        found = f"fuzz-found-{zlib.crc32(data):08x}{ending}"
        Path(found).write_bytes(data)
        print(f"{kind}: the input is in {found}", flush=True)
        return True


def summary(text):
    """A line of what a child printed."""
    if "stat: " in text:
        return text.partition("stat: ")[2].strip()
    units = re.search(r"number_of_executed_units:\s*(\d+)", text)
    last = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    return f"{units[1]} executions, {last[-1][0]} edges, {last[-1][1]} features, {last[-1][2]} inputs kept"


# -- the corpus ------------------------------------------------------------------------------------


def make_corpus():
    """Write small files of each kind that mingrad and others make. Those named found-... stay: each was a finding once."""
    CORPUS.mkdir(exist_ok=True)
    for path in CORPUS.iterdir():
        if not path.name.startswith("found-"):
            path.unlink()
    seen, here = set(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, write in makers().items():
            write(name)
            data = Path(name).read_bytes()
            if data not in seen:
                (CORPUS / name).write_bytes(data)
            seen.add(data)
        os.chdir(here)
    sizes = [path.stat().st_size for path in CORPUS.iterdir()]
    print(f"{len(sizes)} files, {sum(sizes)} bytes")


def makers():
    """{name of a file: function that writes it}"""
    import numpy as np
    from safetensors.numpy import save_file

    layer = [[0.5, -0.25], [1e-300, -0.0], [math.inf, math.nan]]
    weights = {"0.weight": layer, "0.bias": [1.0, 2.0, 3.0], "scale": 0.5}
    w = mingrad.Variable(0.75, label="w")

    def numbers(write, **arrays):
        return lambda name: write(name, **{key: np.asarray(value) for key, value in arrays.items()})

    def program(function, *args):
        def write(name):
            recorded = mingrad.compile(function)
            recorded(*args)
            recorded.programs[0].save(name)

        return write

    def checkpoint(**options):
        return lambda name: checkpointed(name, **options)

    other = {
        "halves": np.array([[1.5, -2.0], [65504.0, 6e-8]], "<f2"),
        "big": np.array([1, -2], ">i4"),
        "bool": np.array([True, False]),
        "words": np.array([2**53, 3], "<u8"),
        "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        "empty": np.zeros((2, 0, 3)),
        "scalar": np.float64(2.5),
    }
    names = {
        "mingrad.npz": lambda name: mingrad.save(name, weights),
        "metadata.npz": lambda name: mingrad.save(name, {"a/b": [1.0]}, metadata={"made": "by hand", "\u00e9": ""}),
        "nothing.npz": lambda name: mingrad.save(name, {}),
        "numpy.npz": numbers(np.savez, **other),
        "deflated.npz": numbers(np.savez_compressed, zeros=np.zeros(300), halves=other["halves"]),
        "mingrad.safetensors": lambda name: mingrad.save(name, weights, metadata={"made": "by hand"}),
        "nothing.safetensors": lambda name: mingrad.save(name, {}),
        "numpy.safetensors": lambda name: save_file({k: np.ascontiguousarray(v) for k, v in other.items() if k != "big"}, name),
        "plain.safetensors": lambda name: save_file({"x": np.arange(3, dtype="<f4"), "y": np.ones((1, 2), "<i8")}, name),
        "square.program": program(lambda x: x * x + 1.0, 2.0),
        "branches.program": program(lambda x, y: w * x if x < y and y else mingrad.exp(y), 1.0, 2.0),
        "nest.program": program(
            lambda xs, k, d: {"a": [xs[0] * k, d["u"]], "b": (mingrad.tanh(xs[1]),)}, [1.0, 2.0], 3, {"u": 0.5}
        ),
        "sums.program": program(
            lambda xs: [mingrad.dot(xs, xs[::-1]), mingrad.logsumexp(xs), *mingrad.softmax(xs)], [1.0, 2.0, 0.5]
        ),
        "layers.program": program(tanh_layers(), [0.5, -1.0]),
        "ops.program": program(lambda x, y: [f(x, y) for f in BINARY] + [f(x) for f in UNARY], 0.5, 0.25),
        "arrays.program": program(lambda x: x * 2.0, np.array([[1.0, 2.0]])),
        "values.program": program(lambda x, k, s, n, b: x + k, 1.0, 10**20, "text", None, b"bytes"),
        "adam.checkpoint.npz": checkpoint(),
        "sgd.checkpoint.npz": checkpoint(optimizer="SGD"),
    }
    for k in range(2):
        names[f"{k}.state"] = lambda name, k=k: Path(name).write_bytes(bytes([k] * 8))
    return names


UNARY = [getattr(mingrad, name) for name in "exp log1p sin atan erf lgamma digamma sqrt relu gelu softplus floor abs".split()]
BINARY = [mingrad.maximum, mingrad.atan2, mingrad.hypot, mingrad.pow, lambda x, y: x % y, lambda x, y: mingrad.clamp(x, -y, y)]


def tanh_layers():
    random.seed(5)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), nn.RMSNorm(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["atheris", "own"], default="own" if atheris is None else "atheris")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--make-corpus", action="store_true")
    parser.add_argument("--child", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help="inputs to try once")
    options = parser.parse_args()
    if options.child:
        return child(options)
    if options.make_corpus:
        return make_corpus()
    if options.files:
        return try_again([os.path.abspath(path) for path in options.files])
    if options.engine == "atheris" and atheris is None:
        parser.error("expected the package atheris for --engine atheris: python -m pip install atheris")
    options.seconds /= len(options.only)
    print(
        f"mingrad {mingrad.__version__}, engine {options.engine}, seed {options.seed}, {options.seconds:.0f} s for each kind",
        flush=True,
    )
    found = [kind for kind in options.only if search(kind, options)]
    by = (
        "atheris, led by coverage"
        if options.engine == "atheris"
        else "seeded changes without coverage (atheris is not installed or not wanted)"
    )
    print(f"findings: {', '.join(found) or 'none'}; searched by {by}")
    return bool(found)


def try_again(paths):
    """Each file as an input, once; whether one is a finding."""
    failed, here = False, os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for path in paths:
            try:
                print(f"{path}: {'loaded' if attempt(kind_of(path), Path(path).read_bytes()) else 'refused'}")
            except Exception:
                failed = True
                print(f"{path}: {traceback.format_exc()}")
        os.chdir(here)
    return failed


if __name__ == "__main__":
    sys.exit(main())
