"""Recorded programs in files: what Program.save() and Program.load() do.

A file is data alone: rows by the names of their ops, numbers, and the structure of arguments and results as JSON. Little-endian::

    16 bytes   MAGIC
    u32        the format's version
    u32        CRC-32 of all the other bytes
    u64, u64   how many bytes the two parts that follow take
               a JSON object in ASCII (_text())
               the program's rows, lists, outputs and guards (csrc/exchange.pxi)

The checksum is against accidents: CRC-32 sees every change within 32 bits in a row, and all but one in four thousand million
others. No checksum without a secret, however long, stops somebody who means harm, since who changes a file can compute it anew.
So what is read is checked besides, part by part; what comes out is a program that could have been recorded here, or a
FileFormatError. Files of weights are in mingrad/files.py.
"""

import json
import os
import struct
import zlib

from . import _core
from ._version import __version__
from .autodiff import _flatten
from .engine import Variable, VariableList
from .files import FileFormatError, _replace_file, _unique
from .program import _NUMBER, _key, _nest

MAGIC = b"mingrad program\n"  # a copy that turned line ends would show
VERSION = 1
HEAD = struct.Struct("<16sIIQQ")
MAX_DEPTH = 100  # of nests
MEMBERS = {"mingrad", "name", "ops", "args", "kwargs", "results", "labels"}
KINDS = {"list": list, "tuple": tuple, "dict": dict, "VariableList": VariableList, "array": "array"}
NAMES = {kind: name for name, kind in KINDS.items()}
NO_FILE = "a file holds lists, tuples, dicts, VariableLists and arrays of numbers, and str, int, float, bool, bytes and None"


def write_program(program, path):
    """Write a Program to a file, whole or not at all."""
    path = os.fsdecode(path)
    what = f"save: {program.name}"
    ops, rows = _core._program_bytes(program)
    marker = Variable(0.0, requires_grad=False)
    results = _key(program.build([marker] * len(program.outputs)), [])
    text = {
        "mingrad": __version__,
        "name": program.name,
        "ops": ops,
        "args": _encode(program.keys[0], f"{what}: an argument"),
        "kwargs": _encode(program.keys[1], f"{what}: an argument"),
        "results": _encode(results, f"{what}: the result"),
        "labels": [[k, v.label] for k, v in enumerate(program.captured) if v.label],
    }
    _replace_file(path, _sealed(json.dumps(text).encode("ascii"), rows))


def _sealed(text, rows, magic=MAGIC, version=VERSION):
    """A file's bytes of its two parts."""
    head = HEAD.pack(magic, version, 0, len(text), len(rows))
    checksum = _checksum(head, text + rows)
    return b"".join([HEAD.pack(magic, version, checksum, len(text), len(rows)), text, rows])


def _checksum(head, rest):
    return zlib.crc32(rest, zlib.crc32(head[24:40], zlib.crc32(head[:20])))


def read_program(cls, path):
    """A new Program of class cls from a file."""
    path = os.fsdecode(path)
    with open(path, "rb") as file:
        head = file.read(HEAD.size)
        if head[:16] != MAGIC:
            raise FileFormatError(f"{path!r} is not a saved program: expected it to begin with {MAGIC!r}, got {head[:16]!r}")
        if len(head) < HEAD.size:
            raise FileFormatError(
                f"{path!r} is not a whole program file: expected a head of {HEAD.size} bytes, got {len(head)}"
            )
        _, version, checksum, text_size, rows_size = HEAD.unpack(head)
        if version != VERSION:
            raise FileFormatError(
                f"{path!r} is a program file of version {version}, and mingrad {__version__} reads version {VERSION}: load it "
                f"with the mingrad that wrote it, or a newer one"
            )
        rest = file.read()
    if len(rest) != text_size + rows_size:
        size = HEAD.size + text_size + rows_size
        raise FileFormatError(f"{path!r} is not a whole program file: expected {size} bytes, got {HEAD.size + len(rest)}")
    got = _checksum(head, rest)
    if got != checksum:
        raise FileFormatError(f"{path!r} is not as it was written: expected checksum {checksum:08x}, got {got:08x}")
    try:
        return _parsed(cls, rest, text_size)
    except MemoryError:
        raise
    except ImportError as error:
        raise ImportError(
            f"{path!r}: its result has arrays, which need NumPy: python -m pip install 'mingrad[numpy]'"
        ) from error
    except Exception as error:  # json's and NumPy's are of many kinds
        raise FileFormatError(f"{path!r} is not a whole program file: {error}") from error


def _parsed(cls, data, text_size):
    text = json.loads(data[:text_size].decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(text, dict) or set(text) != MEMBERS:
        raise ValueError(f"expected an object with {', '.join(sorted(MEMBERS))}")
    name, ops, labels, writer = text["name"], text["ops"], text["labels"], text["mingrad"]
    if not (type(name) is str and type(writer) is str and isinstance(ops, list) and isinstance(labels, list)):
        raise ValueError("expected a name and a version of type str, and lists of ops and labels")
    known = set(_core._program_ops())
    for op in ops:
        if type(op) is not str or op not in known:
            raise ValueError(
                f"mingrad {writer} wrote it, with an op {op!r} that mingrad {__version__} does not know: load it with the "
                f"mingrad that wrote it, or a newer one"
            )
    (args, n_args), (kwargs, n_kwargs) = _decode(text["args"]), _decode(text["kwargs"])
    results, n_results = _decode(text["results"], is_result=True)
    if _NUMBER in (args, kwargs) or (args[0], kwargs[0]) != (tuple, dict) or any(kind is not str for kind, _ in kwargs[1]):
        raise ValueError("expected a tuple of arguments and a dict of those with names")
    program = cls(name, (args, kwargs), None)
    _core._read_program(program, ops, data, text_size)
    if n_args + n_kwargs != program.n_inputs or n_results != len(program.outputs):
        raise ValueError(
            f"expected arguments with {program.n_inputs} numbers and results with {len(program.outputs)}, "
            f"got {n_args + n_kwargs} and {n_results}"
        )
    markers = [Variable(0.0, requires_grad=False)] * n_results
    program.build = _flatten(_nest(results, iter(markers)), "load")[1]
    program.build([0.0] * n_results)  # NumPy knows best what it cannot build
    last = -1
    for place, label in labels:
        if type(place) is not int or not last < place < len(program.captured) or type(label) is not str:
            raise ValueError(f"expected labels of captured Variables by place, got {label!r} at {place!r}")
        program.captured[place].label = label
        last = place
    return program


# -- structures as JSON ----------------------------------------------------------------------------
#
# A key (program.py) is "number", or [kind, ...]: ["list", 3] holds three numbers, ["list", [parts]] its parts, ["dict", [names],
# [parts]], ["value", x] what is no input, ["array of others", [values], is NumPy's].


def _encode(key, what, depth=0):
    """A key for JSON. what: begins the error about what no file can hold."""
    if key is _NUMBER:
        return "number"
    if depth == MAX_DEPTH:
        raise ValueError(f"{what} is nested more than {MAX_DEPTH} deep, which no file holds; make it flatter")
    kind, *rest = key
    if kind == "other":
        return ["value", _encode_value(rest[1], what)]
    if kind == "array of others":
        return [kind, [_encode_value(x, what) for x in rest[1]], rest[2]]
    if kind == "array" and _shape((list, rest[0])) is None:
        raise TypeError(f"{what} has an array of lists, tuples or dicts, which no file holds; pass it as a list")
    if kind not in NAMES:
        raise TypeError(f"{what} has a {kind.__name__}: {NO_FILE}; record the function with one of these in its place")
    if isinstance(rest[0], int):
        return [NAMES[kind], rest[0]]
    if kind is list and rest[0] and all(part is _NUMBER for part in rest[0]):  # NumPy's, but any floats will do
        return ["list", len(rest[0])]
    found = [NAMES[kind], [_encode(part, what, depth + 1) for part in rest[-1]]]
    if kind is dict:
        found.insert(1, [_encode_value(name, what) for _, name in rest[0]])
    return found


def _encode_value(x, what):
    """bool, str and None as they are; else [type, text]: JSON has no bytes, and no nan or large int that every reader takes."""
    if x is None or type(x) in (bool, str):
        return x
    if type(x) is int:
        return ["int", f"{x:x}"]
    if type(x) is float:
        return ["float", struct.pack(">d", x).hex()]
    if type(x) is bytes:
        return ["bytes", x.hex()]
    raise TypeError(f"{what} has {_short(x)} of type {type(x).__name__}: {NO_FILE}; close over it instead")


def _short(x):
    text = repr(x)
    return text if len(text) <= 60 else text[:60] + "..."


def _decode(item, is_result=False, depth=0):
    """(key, how many numbers it has) of what JSON had. Raises ValueError for what _encode() does not make."""
    if item == "number":
        return _NUMBER, 1
    if not isinstance(item, list) or len(item) < 2 or depth == MAX_DEPTH:
        raise ValueError(f"expected the structure of a nest at most {MAX_DEPTH} deep, got {_short(item)}")
    name, *rest = item
    if name == "value" and len(rest) == 1 and not is_result:
        value = _decode_value(rest[0])
        return ("other", type(value), value), 0
    if name == "array of others" and len(rest) == 2 and isinstance(rest[0], list) and type(rest[1]) is bool and not is_result:
        values = tuple([_decode_value(x) for x in rest[0]])
        return (name, tuple([type(x) for x in values]), values, rest[1]), 0
    if name in ("list", "VariableList", "array") and len(rest) == 1 and type(rest[0]) is int and rest[0] >= 0:
        return (KINDS[name], rest[0]), rest[0]
    names = []
    if name == "dict" and isinstance(rest[0], list):
        names = [_decode_value(x) for x in rest.pop(0)]
    if name not in ("list", "tuple", "dict", "array") or len(rest) != 1 or not isinstance(rest[0], list):
        raise ValueError(f"expected the structure of a nest, got {_short(item)}")
    parts = [_decode(part, is_result, depth + 1) for part in rest[0]]
    count = sum([n for _, n in parts])
    parts = tuple([part for part, _ in parts])
    if name == "dict":
        if not len(dict.fromkeys(names)) == len(names) == len(parts):
            raise ValueError(f"expected a dict with different keys, one for each item, got {_short(names)}")
        return (dict, tuple([(type(x), x) for x in names]), parts), count
    if name == "array" and _shape((list, parts)) is None:
        raise ValueError("expected an array with rows of one length")
    return (KINDS[name], parts), count


def _decode_value(x):
    if x is None or type(x) in (bool, str):
        return x
    if isinstance(x, list) and len(x) == 2 and type(x[1]) is str:
        if x[0] == "int":
            return int(x[1], 16)
        if x[0] == "bytes":
            return bytes.fromhex(x[1])
        if x[0] == "float" and len(x[1]) == 16:
            return struct.unpack(">d", bytes.fromhex(x[1]))[0]
    raise ValueError(f"expected a value, got {_short(x)}")


def _shape(key):
    """Of the nest of lists that an array is; None where its rows differ."""
    if key is _NUMBER or key[0] == "other":
        return ()
    if key[0] is not list:
        return None
    if isinstance(key[1], int):
        return (key[1],)
    shapes = {_shape(part) for part in key[1]} or {()}
    return None if None in shapes or len(shapes) > 1 else (len(key[1]), *shapes.pop())


# -- structures for people -------------------------------------------------------------------------


def describe_arguments(keys):
    """The structure of args and kwargs as text: (number, [2 numbers], n=3)."""
    args, kwargs = keys
    parts = [_describe(part) for part in args[1]]
    parts += [f"{name}={_describe(part)}" for (_, name), part in zip(kwargs[1], kwargs[2])]
    text = ", ".join(parts)
    return f"({text if len(text) <= 300 else text[:300] + '...'})"


def _describe(key):
    if key is _NUMBER:
        return "number"
    kind, *rest = key
    if kind == "other":
        return _short(rest[1])
    if kind == "array of others":
        return f"array of {_short(list(rest[1]))}"
    name = getattr(kind, "__name__", kind)
    if isinstance(rest[0], int):
        return f"{name} of {rest[0]}"
    parts = ", ".join(map(_describe, rest[-1]))
    if kind is dict:
        parts = ", ".join(f"{x!r}: {_describe(part)}" for (_, x), part in zip(*rest))
    left, right = {list: "[]", tuple: "()", dict: "{}"}.get(kind, (f"{name}(", ")"))
    return f"{left}{parts}{',' if kind is tuple and len(rest[0]) == 1 else ''}{right}"
