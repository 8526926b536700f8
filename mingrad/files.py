"""Weights in files: save() and load(), to `.safetensors` or `.npz`, never as pickles.

A file holds named tensors of float64 and a dict of strings, its metadata. `.npz` is what
numpy.savez writes and numpy.load reads, made here by the standard library alone; its metadata is
the member METADATA, where there is any. `.safetensors` is what PyTorch's neighbours read and needs
the package of that name.

Weights go to PyTorch and back in five lines, since names and shapes are PyTorch's. For example
with net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)) and
model = mingrad.nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))::

    from safetensors.torch import load_file, save_file
    save_file(net.state_dict(), "net.safetensors")
    mingrad.load("net.safetensors", model)  # float32 is widened exactly
    mingrad.save("net.safetensors", model)
    net.load_state_dict(load_file("net.safetensors"))  # rounded, unless net is .double()

A file that is not whole is a FileFormatError, and nothing is made of it. `.npz` has a checksum for
each tensor. `.safetensors` has none; files written here carry one in their metadata under CHECKSUM,
which is looked at and taken away in reading. A flipped bit among the numbers of a `.safetensors`
file by another program cannot be noticed.
"""

import errno
import io
import os
import re
import stat
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import prod

from ._core import VariableList
from .engine import Variable
from .nn import Module

# json, zipfile and zlib are imported where they are used: they take longer than `import mingrad`.

__all__ = ["FileFormatError", "load", "read_file", "save", "write_file"]

CHECKSUM = "mingrad.crc32"
METADATA = "__metadata__.json"
MAX_DIMENSIONS = 64  # NumPy's limit
MAX_NPY_HEADER = 10_000  # characters; NumPy's limit
MAX_EMPTY_LISTS = 2**20  # load() makes no more of them of a tensor without numbers
# What float64 holds exactly (64-bit integers: value by value): array's letter and bytes under
# safetensors' names.
DTYPES = {
    "F64": ("d", 8), "F32": ("f", 4), "F16": (None, 2), "BF16": (None, 2), "BOOL": (None, 1),
    "I64": ("q", 8), "I32": ("i", 4), "I16": ("h", 2), "I8": ("b", 1),
    "U64": ("Q", 8), "U32": ("I", 4), "U16": ("H", 2), "U8": ("B", 1),
}  # fmt: skip


class FileFormatError(ValueError):
    """The file is truncated, corrupt or not what its name says; the text names it and the tensor.

    A ValueError, like the complaint about a sound file that does not fit the model: `except
    ValueError` catches both, and this class says that the file is at fault. A file that cannot be
    opened is an OSError, as from open().

    >>> from mingrad.files import FileFormatError, read_file
    >>> with open("broken.npz", "wb") as file:
    ...     size = file.write(b"PK")
    >>> try:
    ...     read_file("broken.npz")
    ... except FileFormatError as error:
    ...     print(error)
    'broken.npz' is not a whole .npz file: File is not a zip file
    """


# -- files of modules ------------------------------------------------------------------------------


def save(path, model, *, metadata=None):
    """Write a model's parameters, or a mapping of numbers, to a file: whole or not at all.

    path: str or path-like, ends in '.safetensors' (needs the package) or '.npz' (needs none).
    model: a Module, or a mapping from name to a number, a Variable or nested sequences of these
    with rows of equal length, such as a state_dict(). metadata: a dict from str to str, which
    read_file() gives back.

    A Module's tensors have the names of its named_parameters(), but a list, or rows, of Variables
    is one tensor: `w.0`, `w.1`, `b` become `w` of shape [2] and `b` of shape []. Rows of different
    lengths, and lists with a shared parameter, are taken apart, each row a tensor of its own; a
    shared parameter is stored once, under its first name. (A class with a named_parameters() of
    its own is stored under just these names.) Everything is float64; write_file() has the rest.

    Raises TypeError for another model or what is no number, ValueError for a name that does not
    end as above, rows that differ in length, two tensors of one name; else as write_file().

    >>> import mingrad.files
    >>> from mingrad.nn import Neuron
    >>> neuron = Neuron(2)
    >>> mingrad.files.save("neuron.npz", neuron)
    >>> mingrad.files.load("neuron.npz") == {"w": [w.data for w in neuron.w], "b": 0.0}
    True
    """
    path = os.fsdecode(path)
    _ending(path)
    if isinstance(model, Module):
        tensors = {
            name: (shape, array("d", VariableList(parameters).tolist()))
            for name, (shape, parameters) in _tensors(model).items()
        }
    elif isinstance(model, Mapping):
        tensors = {name: _numbers(name, value) for name, value in model.items()}
    else:
        raise TypeError(
            f"save: expected a Module or a mapping from name to numbers, got "
            f"{type(model).__name__}; name what you have: {{'numbers': ...}}"
        )
    write_file(path, tensors, {} if metadata is None else metadata)


def load(path, model=None):
    """Set a Module's parameters from a file and return it; without one, return what the file holds.

    path: as save() takes it, or a file by PyTorch, NumPy, safetensors. model: a Module with the
    file's tensors, each of the file's shape; grad, requires_grad and labels stay. Without a model
    the result is a dict from name to a float or (nested) lists of floats. Floats of fewer bits,
    integers and bools are widened to float64, exactly.

    Raises ValueError where names or shapes differ, or where the model has the result of an
    operation for a parameter; FileFormatError, a ValueError, for a file that is not whole; else as
    read_file(). After any error the model is as it was.

    >>> import mingrad.files
    >>> mingrad.files.save("wb.npz", {"w": [[1, 2], [3, 4]], "b": 0.5})
    >>> mingrad.files.load("wb.npz")
    {'w': [[1.0, 2.0], [3.0, 4.0]], 'b': 0.5}
    """
    path = os.fsdecode(path)
    if model is None:
        return {name: _nested(tensor) for name, tensor in _stored(path)[0].items()}
    if not isinstance(model, Module):
        raise TypeError(f"load: expected a Module, got {type(model).__name__}")
    stored, _ = _stored(path)
    own = _tensors(model)
    missing = [(name, shape) for name, (shape, _) in own.items() if name not in stored]
    unknown = [(name, tensor.shape) for name, tensor in stored.items() if name not in own]
    if missing or unknown:
        raise ValueError(
            f"{path!r} does not fit {type(model).__name__}: expected {len(own)} tensors, got "
            f"{len(stored)}; missing: {_some(missing)}; unknown: {_some(unknown)}"
        )
    for name, (shape, parameters) in own.items():
        if stored[name].shape != shape:
            raise ValueError(
                f"{path!r} does not fit {type(model).__name__}: tensor {name!r}: expected shape "
                f"{list(shape)}, got {list(stored[name].shape)}"
            )
        if not all(p.is_leaf for p in parameters):
            raise ValueError(
                f"load: tensor {name!r} of {type(model).__name__}: expected leaves, got a result "
                f"of operations, which cannot be set; do not keep results in a Module"
            )
    numbers = [x for name in own for x in stored[name].numbers()]
    VariableList([p for _, parameters in own.values() for p in parameters]).data = numbers
    return model


def _some(tensors):
    """A few names and shapes for an error message."""
    texts = [f"{name!r} {list(shape)}" for name, shape in tensors[:3]]
    return ", ".join(texts + ["..."] * (len(tensors) > 3)) or "none"


def _tensors(module):
    """{name: (shape, Variables)} of a Module: named_parameters() in order, rectangles joined."""
    if type(module).named_parameters is not Module.named_parameters:
        found = [(name, (), [parameter]) for name, parameter in module.named_parameters()]
    else:
        found = _walk(module)
    tensors = {}
    for name, shape, parameters in found:
        if name in tensors:
            raise ValueError(f"{type(module).__name__} has two parameters named {name!r}")
        tensors[name] = shape, parameters
    return tensors


def _walk(module):
    """Yield (name, shape, Variables) as Module.named_parameters() yields single ones."""
    seen = set()
    stack = [("", module)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, Variable):
            if item not in seen:
                seen.add(item)
                yield path, (), [item]
        elif isinstance(item, (Module, dict, list, tuple, VariableList)) and id(item) not in seen:
            seen.add(id(item))
            if isinstance(item, Module):
                children = vars(item).items()
            elif isinstance(item, dict):
                children = item.items()
            else:
                shape, leaves = _rectangle(item, _rows, repeats=False)
                if leaves and all(isinstance(leaf, Variable) for leaf in leaves):
                    distinct = set(leaves)
                    if len(distinct) == len(leaves) and seen.isdisjoint(distinct):
                        seen |= distinct
                        yield path, shape, leaves
                        continue
                children = enumerate(item)
            dot = path + "." if path else ""
            stack.extend(reversed([(f"{dot}{key}", child) for key, child in children]))


def _rows(item):
    return item if isinstance(item, (list, tuple, VariableList)) else None


def _rows_of_numbers(item):
    """Whatever is a sequence, as a list; NumPy's arrays and others with tolist() too."""
    if hasattr(item, "tolist"):
        item = item.tolist()
    if isinstance(item, Sequence) and not isinstance(item, (str, bytes, bytearray)):
        return item
    return None


def _rectangle(item, rows, repeats=True):
    """(shape, leaves) of nested sequences with rows of equal length; (None, []) of others.

    rows(x): x as a sequence, None for a leaf; leaves are not looked at, but the first. repeats:
    whether the same row may come twice.
    """
    shape, level, above, seen = [], [item], [], set()
    while level and rows(level[0]) is not None:
        below = [rows(row) for row in level]
        if None in below or len({len(row) for row in below}) > 1 or len(shape) == MAX_DIMENSIONS:
            return None, []
        ids = set(map(id, level))
        if not seen.isdisjoint(ids) or (not repeats and len(ids) < len(level)):
            return None, []  # a row on two levels holds itself
        above.append(level)  # kept alive, so that an id is one row's
        seen |= ids
        shape.append(len(below[0]))
        level = [child for row in below for child in row]
    return tuple(shape), level


def _numbers(name, value):
    """(shape, array('d')) of a mapping's value."""
    shape, leaves = _rectangle(value, _rows_of_numbers)
    try:
        if shape is not None:
            return shape, array("d", [x if type(x) is float else _number(x) for x in leaves])
    except (TypeError, OverflowError) as error:
        if all(_rows_of_numbers(x) is None for x in leaves):
            raise type(error)(f"save: {name!r}: {error}") from None
    raise ValueError(
        f"save: {name!r}: expected a number or sequences of equal length, at most {MAX_DIMENSIONS} deep, got a ragged nest"
    )


def _number(x):
    return (x if isinstance(x, Variable) else Variable(x, requires_grad=False)).data


def _nested(tensor):
    """A stored tensor's numbers as nested lists; of shape [] as a float."""
    shape, items = tensor.shape, tensor.numbers().tolist()
    if not shape:
        return items[0]
    most = max(len(items), MAX_EMPTY_LISTS)
    for axis in range(len(shape) - 1, 0, -1):
        rows, size = prod(shape[:axis]), shape[axis]
        if rows > most:
            raise FileFormatError(f"{tensor.where}: shape {list(shape)} has no numbers, but {rows} lists of them")
        items = [items[size * row : size * (row + 1)] for row in range(rows)]
    return items


# -- files of tensors ------------------------------------------------------------------------------


def write_file(path, tensors, metadata):
    """Write named tensors of float64 and metadata to a file, whole or not at all.

    path: str or path-like, ends in '.safetensors' or '.npz'. tensors: dict from name to (shape,
    values), a tuple of sizes and an array('d'), last index fastest. metadata: dict from str to str.

    The bytes go to a new file `.mingrad-*.tmp` in the same folder, which then takes the place of
    the old one. An error on the way (a full disk, Ctrl-C) removes it and leaves the old file; a
    process that is killed leaves both. The file has the permissions of the one that it replaces,
    or those of any new file (umask); a symbolic link stays, and what it leads to is replaced.

    Raises ValueError for a path with another ending, a name that is empty, reserved or no plain
    path, or values that do not fit their shape; TypeError for metadata other than strings; OSError
    where the file cannot be written; ImportError for '.safetensors' without the package.

    >>> from array import array
    >>> from mingrad.files import read_file, write_file
    >>> write_file("w.npz", {"w": ((2, 1), array("d", [0.5, 1.5]))}, {"made": "by hand"})
    >>> read_file("w.npz")
    ({'w': ((2, 1), array('d', [0.5, 1.5]))}, {'made': 'by hand'})
    """
    path = os.fsdecode(path)
    pack = _npz_bytes if _ending(path) == ".npz" else _safetensors_bytes
    for name, (shape, values) in tensors.items():
        if problem := _problem(name, shape):
            raise ValueError(f"{path!r}: tensor {name!r}: {problem}")
        if values.typecode != "d" or len(values) != prod(shape):
            raise ValueError(
                f"{path!r}: tensor {name!r}: expected array('d') with {prod(shape)} numbers for "
                f"shape {list(shape)}, got array({values.typecode!r}) with {len(values)}"
            )
    if not isinstance(metadata, Mapping):
        raise TypeError(f"{path!r}: expected a dict of metadata, got {type(metadata).__name__}")
    for key, text in metadata.items():
        if type(key) is not str or type(text) is not str:
            raise TypeError(f"{path!r}: expected metadata from str to str, got {key!r}: {text!r}")
        if not (_is_unicode(key) and _is_unicode(text)):
            raise ValueError(f"{path!r}: metadata {key!r}: a lone surrogate has no UTF-8")
        if key == CHECKSUM:
            raise ValueError(f"{path!r}: metadata {key!r}: the key is taken by mingrad")
    _replace_file(path, pack(tensors, metadata))


def read_file(path):
    """Read a file by write_file(), numpy.savez or safetensors: (tensors, metadata).

    tensors: dict from name to (shape, array('d')), in the file's order; float16,
    bfloat16, float32, integers and bools are widened to float64, exactly. metadata: dict of str.

    Raises FileFormatError for a file that is not whole or holds anything else (an integer that
    float64 would round, complex numbers, object arrays, which are pickles); OSError where it cannot
    be read; ValueError and ImportError as write_file().
    """
    stored, metadata = _stored(os.fsdecode(path))
    return {name: (tensor.shape, tensor.numbers()) for name, tensor in stored.items()}, metadata


class _Stored:
    """A tensor in a file: what its header says, checked; its bytes are read by numbers()."""

    def __init__(self, path, name, dtype, shape, read, big=False, fortran=False):
        self.where = f"{path!r}: tensor {name!r}"
        problem = _problem(name, shape)
        if problem is None and dtype not in DTYPES:
            problem = f"expected a float of at most 64 bits, an integer or a bool, got {dtype}"
        if problem:
            raise FileFormatError(f"{self.where}: {problem}")
        self.dtype, self.shape = dtype, tuple(shape)
        self.big, self.fortran = big, fortran  # most significant byte first; first index fastest
        self.nbytes = prod(shape) * DTYPES[dtype][1]
        self.read = read  # gives the bytes

    def numbers(self):
        """The values as array('d'), last index fastest."""
        values = self._doubles(self.read())
        if self.fortran:
            values = _last_index_fastest(values, [size for size in self.shape if size != 1])
        return values

    def _doubles(self, data):
        if self.dtype == "BOOL":
            return array("d", [byte != 0 for byte in data])
        if self.dtype == "F16":
            order = ">" if self.big else "<"
            return array("d", struct.unpack(f"{order}{len(data) // 2}e", data))
        letter = DTYPES[self.dtype][0]
        if self.dtype == "BF16":  # the upper half of a float32
            letter, half, data = "f", data, bytearray(2 * len(data))
            data[2::4], data[3::4] = half[0::2], half[1::2]
        values = array(letter)
        values.frombytes(data)
        if self.big != (sys.byteorder == "big"):
            values.byteswap()
        if letter in "qQ" and values and (max(values) > 2**53 or min(values) < -(2**53)):
            for integer in values:
                if integer != int(float(integer)):
                    raise FileFormatError(f"{self.where}: float64 cannot hold the integer {integer}")
        return values if letter == "d" else array("d", values)


def _stored(path):
    """({name: _Stored}, metadata). Takes memory as the file's size is, whatever its headers say."""
    ending = _ending(path)
    with open(path, "rb") as file:
        data = file.read()
    looks = ".npz" if data[:2] == b"PK" else ".safetensors" if data[8:9] == b"{" else ending
    if looks != ending:
        raise FileFormatError(f"{path!r} is not a {ending} file: it begins as a {looks} file does; rename it")
    return (_npz_stored if ending == ".npz" else _safetensors_stored)(path, data)


@contextmanager
def _reading(path, name=None):
    """Turn whatever a parser raises over a broken file into a FileFormatError."""
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except Exception as error:
        tensor = "" if name is None else f"tensor {name!r}: "
        raise FileFormatError(f"{path!r} is not a whole {_ending(path)} file: {tensor}{error}") from error


def _ending(path):
    ending = os.path.splitext(path)[1].lower()
    if ending not in (".npz", ".safetensors"):
        raise ValueError(f"expected a file name that ends in '.safetensors' or '.npz', got {path!r}")
    return ending


def _problem(name, shape):
    """What forbids a tensor's name or shape, or None.

    Programs that unpack archives make paths of the names, so these must not lead elsewhere.
    """
    if type(name) is not str:
        return f"expected a name of type str, got {type(name).__name__}"
    if not _is_unicode(name) or re.search(r"[\x00-\x1f\x7f\\]", name):
        return "expected a name without control characters, backslashes and lone surrogates"
    if any(part in ("", ".", "..") for part in name.split("/")) or re.match(r"[A-Za-z]:", name):
        return "expected a name that is not empty and, read as a path, leads nowhere else"
    if name == "__metadata__":
        return "the name is taken by the .safetensors format"
    if len(shape) > MAX_DIMENSIONS:
        return f"expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}"
    return None


def _is_unicode(text):
    return not re.search("[\ud800-\udfff]", text)


def _little_endian(values):
    """array('d') with its bytes as files have them."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


def _last_index_fastest(values, shape):
    """array('d') with the first index fastest, rearranged. No size is 1: the recursion is flat."""
    if len(shape) < 2 or not values:
        return values
    rows = array("d")
    for row in range(shape[0]):
        rows += _last_index_fastest(values[row :: shape[0]], shape[1:])
    return rows


def _replace_file(path, data):
    """Let data be the file's contents, or leave the file as it was."""
    target = os.path.realpath(path)  # of a symbolic link: what it leads to
    exists = os.path.exists(target)
    if exists and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "expected a regular file", path)
    if exists and not os.access(target, os.W_OK):  # os.replace() would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".mingrad-{os.urandom(8).hex()}.tmp")
    try:  # Ctrl-C may come as soon as the file is there
        try:
            file = open(temporary, "xb")  # noqa: SIM115
        except OSError as error:  # about the user's file, not ours
            raise OSError(error.errno, error.strerror, path) from None
        with file:
            if exists:
                mode = stat.S_IMODE(os.stat(target).st_mode)
                if mode != stat.S_IMODE(os.stat(temporary).st_mode):
                    os.chmod(temporary, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise
    if os.name == "posix":  # let the new name survive a power failure; elsewhere there is no way
        numbers = []
        with suppress(OSError):
            try:
                numbers.extend(map(os.open, [folder], [os.O_RDONLY]))  # Ctrl-C finds it opened and listed, or neither
                os.fsync(numbers[0])
            finally:
                for number in numbers:
                    os.close(number)


# -- .npz ------------------------------------------------------------------------------------------

# One entry of the dict in a .npy header, with its comma. Not eval: headers come from anywhere.
_NPY_ENTRY = (
    r" *(?:'descr' *: *'(?P<descr>[^']*)'"
    r"|'fortran_order' *: *(?P<fortran>True|False)"
    r"|'shape' *: *\((?P<shape>[^)]*)\)) *(?:,|(?=\}))"
)


def _npz_bytes(tensors, metadata):
    import json
    import zipfile

    members = [
        (f"{name}.npy", _npy_header(shape) + _little_endian(values).tobytes()) for name, (shape, values) in tensors.items()
    ]
    if metadata:
        members.append((METADATA, json.dumps(dict(metadata)).encode("ascii")))
    file = io.BytesIO()
    archive = zipfile.ZipFile(file, "w")  # not by `with`, which makes a ValueError of Ctrl-C in the midst of writestr()
    for name, data in members:  # without the time: same contents, same bytes
        archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    archive.close()
    return file.getvalue()


def _npy_header(shape):
    """The header of an array of '<f8', version 1.0; data begins at a multiple of 64 bytes."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def _npz_stored(path, data):
    import json
    import zipfile

    def read(info, start):
        """The bytes of a member from `start` on."""
        with _reading(path), archive.open(info) as file:
            contents = file.read()
            if len(contents) != info.file_size:
                raise ValueError(f"member {info.filename!r}: expected {info.file_size} bytes, got {len(contents)}")
            return contents[start:]

    with _reading(path):
        archive = zipfile.ZipFile(io.BytesIO(data))
        _check_archive(data, archive)
    stored, metadata = {}, {}
    for info in archive.infolist():
        if info.filename == METADATA:
            with _reading(path):
                metadata = _strings(json.loads(read(info, 0), object_pairs_hook=_unique))
            continue
        name = info.filename.removesuffix(".npy")
        with _reading(path, name), archive.open(info) as file:
            dtype, big, fortran, shape, start = _parse_npy_header(file)
        tensor = _Stored(path, name, dtype, shape, partial(read, info, start), big, fortran)
        if tensor.nbytes != info.file_size - start:
            raise FileFormatError(
                f"{tensor.where}: shape {list(shape)} of {dtype} takes {tensor.nbytes} bytes, "
                f"the file has {info.file_size - start}"
            )
        stored[name] = tensor
    return stored, metadata


def _check_archive(data, archive):
    """Refuse what zipfile lets pass: a lost member, a name that comes twice, sizes that lie."""
    members = archive.infolist()
    # The end record, and before it those of large archives: APPNOTE.TXT, 4.3.14 to 4.3.16.
    end = directory_end = len(data) - 22 - len(archive.comment)
    count, size, offset = struct.unpack("<10xHII2x", data[end : end + 22])
    if data[end - 20 : end - 16] == b"PK\6\7":
        directory_end = end - 76
        count, size, offset = struct.unpack("<32xQQQ", data[directory_end : end - 20])
    if data[end : end + 4] != b"PK\5\6" or (count, offset + size) != (len(members), directory_end):
        raise ValueError("its directory does not fit its size")
    seen = set()
    for info in members:
        name = info.filename
        if name in seen:
            raise ValueError(f"two members are named {name!r}")
        seen.add(name)
        if name != info.orig_filename or not (name.isascii() or info.flag_bits & 0x800):
            raise ValueError(f"member {info.orig_filename!r}: expected a name in UTF-8")
        if name != METADATA and not name.endswith(".npy"):
            raise ValueError(f"member {name!r}: expected a name that ends in '.npy'")
        ratio = {0: 1, 8: 1032}.get(info.compress_type, 0)  # stored; deflated at its best
        if info.file_size > ratio * info.compress_size:
            raise ValueError(
                f"member {name!r}: expected stored or deflated bytes, got {info.compress_size} "
                f"for {info.file_size} by method {info.compress_type}"
            )


def _parse_npy_header(file):
    """(dtype, most significant byte first?, first index fastest?, shape, bytes of the header)."""
    magic = file.read(8)
    if magic not in (b"\x93NUMPY\1\0", b"\x93NUMPY\2\0", b"\x93NUMPY\3\0"):
        raise ValueError(f"expected a .npy header of version 1 to 3, got {magic!r}")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    text = file.read(min(length, MAX_NPY_HEADER)).decode("latin-1")
    found, position = {}, 1
    entry_at = re.compile(_NPY_ENTRY).match
    while (entry := entry_at(text, position)) and entry.lastgroup not in found:
        found[entry.lastgroup] = entry[entry.lastgroup]
        position = entry.end()
    if len(found) < 3 or len(text) != length or text[:1] + text[position:].strip() != "{}":
        raise ValueError(f"expected the .npy header of a plain array, got {text[:100]!r}")
    *sizes, last = found["shape"].replace("L", "").split(",")  # (3L,): Python 2 has written it
    if last.strip():
        sizes.append(last)
    one = len(sizes) == 1 and "," not in found["shape"]  # (3) is no tuple
    if one or not all(re.fullmatch(" *[0-9]{1,19} *", size) for size in sizes):
        raise ValueError(f"expected a tuple of sizes as shape, got ({found['shape'][:100]})")
    descr = found["descr"]
    kind = re.fullmatch("([<>|=])([fiub])([0-9]{1,2})", descr)
    if kind is None:
        dtype = "objects, which are pickles and never loaded" if "O" in descr else descr
    else:
        dtype = "BOOL" if kind[2] == "b" else f"{kind[2].upper()}{8 * int(kind[3])}"
    big = kind is not None and (kind[1] == ">" or (kind[1] == "=" and sys.byteorder == "big"))
    return dtype, big, found["fortran"] == "True", tuple(map(int, sizes)), 8 + width + length


def _strings(metadata):
    """Metadata from a file, which must be a dict from str to str."""
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise ValueError("expected metadata from str to str")
    if not all(_is_unicode(key) and _is_unicode(text) for key, text in metadata.items()):
        raise ValueError("expected metadata without lone surrogates, which have no UTF-8")
    return metadata


def _unique(pairs):
    """The pairs of a JSON object as a dict; JSON lets names come twice."""
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name comes twice in its header")
    return names


# -- .safetensors ----------------------------------------------------------------------------------


def _package():
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "a .safetensors file needs the package safetensors: python -m pip install "
            '"mingrad[safetensors]"; a .npz file needs none'
        ) from error
    return safetensors


def _safetensors_bytes(tensors, metadata):
    safetensors = _package()
    contents = {name: ("F64", shape, _little_endian(values)) for name, (shape, values) in tensors.items()}
    specs = {}
    for name, (_, shape, values) in contents.items():
        if hasattr(safetensors, "TensorSpec"):  # since its version 0.8, which takes addresses
            specs[name] = safetensors.TensorSpec(
                dtype="float64",
                shape=shape,
                data_ptr=values.buffer_info()[0],
                data_len=8 * len(values),
            )
        else:
            specs[name] = {"dtype": "float64", "shape": shape, "data": values.tobytes()}
    return safetensors.serialize(specs, {**metadata, CHECKSUM: _checksum(contents, metadata)})


def _safetensors_stored(path, data):
    import json

    safetensors = _package()
    with _reading(path):
        found = dict(safetensors.deserialize(data))
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        header = json.loads(header, object_pairs_hook=_unique)
        metadata = _strings(header.pop("__metadata__", {}))
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None:
        got = _checksum({name: (t["dtype"], t["shape"], t["data"]) for name, t in found.items()}, metadata)
        if got != expected:
            raise FileFormatError(
                f"{path!r} is not as it was written: expected checksum {expected}, got {got}; if "
                f"another program changed it rightly, let it drop the metadata {CHECKSUM!r}"
            )
    stored = {}
    for name in header:  # the file's order
        tensor = found[name]
        read = partial(tensor.__getitem__, "data")
        stored[name] = _Stored(path, name, tensor["dtype"], tensor["shape"], read)
    return stored, metadata


def _checksum(tensors, metadata):
    """Hex digits for metadata and {name: (dtype, shape, bytes)}, in whatever order."""
    import json
    import zlib

    names = sorted(tensors)
    shapes = [(name, tensors[name][0], list(tensors[name][1])) for name in names]
    crc = zlib.crc32(json.dumps([sorted(metadata.items()), shapes]).encode("ascii"))
    for name in names:
        crc = zlib.crc32(tensors[name][2], crc)
    return f"{crc:08x}"
