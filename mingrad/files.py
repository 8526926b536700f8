"""Weights in files: save() and load(), to `.safetensors` or `.npz`, never as pickles.

What a file holds is named tensors of float64 and a dict of strings, its metadata. `.npz` is what numpy.savez writes
and numpy.load reads, made here with the standard library alone; its metadata is the member METADATA, where there is
any. `.safetensors` is the format of PyTorch's neighbours and needs the package of that name.

A file that is not whole is a FileFormatError, and nothing is made of it. `.npz` has a checksum for each tensor.
`.safetensors` has none; files written here carry one in their metadata under CHECKSUM, which is looked at and taken
away in reading. A flipped bit among the numbers of a `.safetensors` file by another program cannot be noticed.
"""

import errno
import io
import os
import re
import stat
import struct
import sys
from array import array
from contextlib import contextmanager, suppress
from functools import partial
from math import prod

# json, zipfile and zlib are imported where they are used: together they take longer than `import mingrad`.

__all__ = ["FileFormatError", "read_file", "write_file"]

CHECKSUM = "mingrad.crc32"
METADATA = "__metadata__.json"
MAX_DIMENSIONS = 64  # NumPy's limit
MAX_NPY_HEADER = 10_000  # characters; NumPy's limit
# What float64 holds exactly (64-bit integers: value by value): array's letter and bytes under safetensors' names.
DTYPES = {
    "F64": ("d", 8), "F32": ("f", 4), "F16": (None, 2), "BF16": (None, 2), "BOOL": (None, 1),
    "I64": ("q", 8), "I32": ("i", 4), "I16": ("h", 2), "I8": ("b", 1),
    "U64": ("Q", 8), "U32": ("I", 4), "U16": ("H", 2), "U8": ("B", 1),
}  # fmt: skip


class FileFormatError(ValueError):
    """The file is truncated, corrupt, or not what its name says; the text names it and, where known, the tensor.

    A ValueError, like the complaint about a sound file that does not fit the model: `except ValueError` catches both,
    and this class says that the file is at fault. A file that cannot be opened at all is an OSError, as from open().

    >>> from mingrad.files import FileFormatError, read_file
    >>> with open("broken.npz", "wb") as file:
    ...     size = file.write(b"PK")
    >>> try:
    ...     read_file("broken.npz")
    ... except FileFormatError as error:
    ...     print(error)
    'broken.npz' is not a whole .npz file: File is not a zip file
    """


# -- files of tensors ------------------------------------------------------------------------------


def write_file(path, tensors, metadata):
    """Write named tensors of float64 and metadata to a file, whole or not at all; for programs that have no Module.

    path: str or path-like, ends in '.safetensors' or '.npz'. tensors: dict from name to (shape, values), a tuple of
    sizes and an array('d') with the last index fastest. metadata: dict from str to str.

    The bytes go to a new file `.mingrad-*.tmp` in the same folder, which then takes the old one's place. An error on
    the way (a full disk, Ctrl-C) removes it and leaves the old file; a process that is killed leaves both. The file has
    the permissions of the one that it replaces, or those of any new file (umask); a symbolic link stays a link.

    Raises ValueError for another ending, name or size, TypeError for metadata that are no strings, OSError where the
    file cannot be written, ImportError for '.safetensors' without the package safetensors.

    >>> from array import array
    >>> from mingrad.files import read_file, write_file
    >>> write_file("w.npz", {"w": ((2, 1), array("d", [0.5, 1.5]))}, {"made": "by hand"})
    >>> read_file("w.npz")
    ({'w': ((2, 1), array('d', [0.5, 1.5]))}, {'made': 'by hand'})
    """
    path = os.fsdecode(path)
    pack = {".npz": _npz_bytes, ".safetensors": _safetensors_bytes}[_ending(path)]
    for name, (shape, values) in tensors.items():
        if problem := _problem(name, shape):
            raise ValueError(f"{path!r}: tensor {name!r}: {problem}")
        if values.typecode != "d" or len(values) != prod(shape):
            raise ValueError(
                f"{path!r}: tensor {name!r}: expected array('d') with the {prod(shape)} numbers of shape {list(shape)}, "
                f"got array({values.typecode!r}) with {len(values)}"
            )
    for key, text in metadata.items():
        if type(key) is not str or type(text) is not str:
            raise TypeError(f"{path!r}: expected metadata from str to str, got {key!r}: {text!r}")
        if key == CHECKSUM or not (_is_unicode(key) and _is_unicode(text)):
            reason = "the key is taken by mingrad" if key == CHECKSUM else "a lone surrogate has no bytes in UTF-8"
            raise ValueError(f"{path!r}: metadata {key!r}: {reason}")
    _replace_file(path, pack(tensors, metadata))


def read_file(path):
    """Read what write_file(), numpy.savez or safetensors has written: (tensors, metadata) as write_file() takes them.

    float16, bfloat16, float32, integers and bools are widened to float64, exactly. The order is the file's.

    Raises FileFormatError for a file that is not whole or has what float64 does not hold (an integer beyond 2**53 that
    it would round, complex numbers, object arrays, which are pickles); else as write_file().
    """
    path = os.fsdecode(path)
    stored, metadata = _stored(path)
    return {name: (tensor.shape, tensor.numbers()) for name, tensor in stored.items()}, metadata


class _Stored:
    """A tensor in a file, as its header describes it: all of that is checked here, the bytes are read by numbers()."""

    def __init__(self, path, name, dtype, shape, read, big=False, fortran=False):
        self.where = f"{path!r}: tensor {name!r}"
        problem = _problem(name, shape)
        if problem is None and dtype not in DTYPES:
            problem = f"expected a float of at most 64 bits, an integer or a bool, got {dtype}"
        if problem:
            raise FileFormatError(f"{self.where}: {problem}")
        self.dtype, self.shape, self.big, self.fortran = dtype, tuple(shape), big, fortran
        self.read = read  # gives the bytes
        self.nbytes = prod(shape) * DTYPES[dtype][1]

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
            return array("d", struct.unpack(f"{'>' if self.big else '<'}{len(data) // 2}e", data))
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
    """({name: _Stored}, metadata) of a file. Takes memory for the file's own bytes, whatever sizes its headers claim."""
    ending = _ending(path)
    with open(path, "rb") as file:
        data = file.read()
    looks = ".npz" if data[:2] == b"PK" else ".safetensors" if data[8:9] == b"{" else ending
    if looks != ending:
        raise FileFormatError(f"{path!r} is not a {ending} file: it begins as a {looks} file does; rename it")
    return (_npz_stored if ending == ".npz" else _safetensors_stored)(path, data)


@contextmanager
def _reading(path, name=None):
    """Whatever a parser raises over a broken file becomes a FileFormatError that names the file and the tensor."""
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
    """What forbids a tensor's name or shape, or None. Programs that unpack .npz files make paths of the names."""
    if type(name) is not str:
        return f"expected a name of type str, got {type(name).__name__}"
    if not _is_unicode(name) or re.search(r"[\x00-\x1f\x7f\\]", name):
        return "a name has no control characters, backslashes or lone surrogates"
    if any(part in ("", ".", "..") for part in name.split("/")) or re.match(r"[A-Za-z]:", name):
        return "a name must not be empty, or lead elsewhere when it is read as a path"
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
    """array('d') with the first index fastest, rearranged. shape has no sizes of 1, so the recursion is flat."""
    if len(shape) < 2 or not values:
        return values
    rows = array("d")
    for row in range(shape[0]):
        rows += _last_index_fastest(values[row :: shape[0]], shape[1:])
    return rows


def _replace_file(path, data):
    """Let data become the file's contents, whole or not at all."""
    target = os.path.realpath(path)  # of a symbolic link: what it leads to
    exists = os.path.exists(target)
    if exists and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "expected a regular file", path)
    if exists and not os.access(target, os.W_OK):  # os.replace() would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".mingrad-{os.urandom(8).hex()}.tmp")
    try:
        file = open(temporary, "xb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None  # of the user's file, not of ours
    try:
        with file:
            if exists:
                mode = stat.S_IMODE(os.stat(target).st_mode)
                if mode != stat.S_IMODE(os.fstat(file.fileno()).st_mode):
                    os.chmod(temporary, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise
    if os.name == "posix":  # the new name survives a power failure, too; elsewhere folders cannot be opened
        with suppress(OSError):
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


# -- .npz ------------------------------------------------------------------------------------------

# One entry of the dict that a .npy header is, up to its comma. Not eval: the header may come from anywhere.
_NPY_ENTRY = re.compile(
    r" *(?:'descr' *: *'(?P<descr>[^']*)'|'fortran_order' *: *(?P<fortran>True|False)|'shape' *: *\((?P<shape>[^)]*)\))"
    r" *(?:,|(?=\}))"
)


def _npz_bytes(tensors, metadata):
    import json
    import zipfile

    members = [
        (f"{name}.npy", _npy_header(shape) + _little_endian(values).tobytes())
        for name, (shape, values) in tensors.items()
    ]
    if metadata:
        members.append((METADATA, json.dumps(metadata).encode("ascii")))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)  # same contents, same bytes
    return file.getbuffer()


def _npy_header(shape):
    """The header of an array of '<f8' in version 1.0 of the format, filled up to a multiple of 64 bytes as by NumPy."""
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
                raise ValueError(f"member {info.filename!r} has {len(contents)} bytes, expected {info.file_size}")
            return contents[start:]

    stored, metadata = {}, {}
    with _reading(path):
        archive = zipfile.ZipFile(io.BytesIO(data))
        _check_directory(data, archive)
    for info in archive.infolist():
        with _reading(path):
            _check_member(info)
        if info.filename == METADATA:
            with _reading(path):
                metadata = _strings(json.loads(read(info, 0), object_pairs_hook=_unique))
            continue
        name = info.filename.removesuffix(".npy")
        with _reading(path, name), archive.open(info) as file:
            dtype, big, fortran, shape, start = _parse_npy_header(file)
        tensor = _Stored(path, name, dtype, shape, partial(read, info, start), big, fortran)
        if start + tensor.nbytes != info.file_size:
            raise FileFormatError(
                f"{tensor.where}: shape {list(shape)} of {dtype} takes {tensor.nbytes} bytes, "
                f"the file has {info.file_size - start}"
            )
        stored[name] = tensor
    return stored, metadata


def _check_directory(data, archive):
    """Refuse an archive that lacks members or has bytes before or behind it; zipfile reads what it finds."""
    end = len(data) - 22 - len(archive.comment)  # the end record: see APPNOTE.TXT, 4.3.16
    directory_end = end
    count, size, offset = struct.unpack("<10xHII2x", data[end : end + 22])
    if data[end - 20 : end - 16] == b"PK\6\7":  # 4.3.14 and 4.3.15, for large archives: the same in 64 bits
        directory_end = end - 76
        count, size, offset = struct.unpack("<32xQQQ", data[directory_end : end - 20])
    names = [info.filename for info in archive.infolist()]
    if data[end : end + 4] != b"PK\5\6" or (count, offset + size) != (len(names), directory_end):
        raise ValueError("its directory of members does not fit its size")
    if len(set(names)) < len(names):
        raise ValueError(f"two members are named {next(name for name in names if names.count(name) > 1)!r}")


def _check_member(info):
    """Refuse a member that NumPy does not write, and sizes that cannot be true."""
    if info.filename != info.orig_filename or not (info.filename.isascii() or info.flag_bits & 0x800):
        raise ValueError(f"member {info.orig_filename!r}: expected a name in UTF-8")
    if info.filename != METADATA and not info.filename.endswith(".npy"):
        raise ValueError(f"member {info.filename!r}: expected a name that ends in '.npy'")
    # The best that deflate can do is 1032 to 1. Stored: 1 to 1.
    if info.compress_type not in (0, 8) or info.file_size > info.compress_size * (1032 if info.compress_type else 1):
        raise ValueError(
            f"member {info.filename!r}: expected it stored or deflated, got {info.compress_size} bytes for "
            f"{info.file_size} by method {info.compress_type}"
        )


def _parse_npy_header(file):
    """(dtype, big-endian?, first index fastest?, shape, size of the header) of a .npy file, which stands at its start."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("expected a .npy header of version 1, 2 or 3")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    text = file.read(min(length, MAX_NPY_HEADER)).decode("latin-1")
    found, position = {}, 1
    while (entry := _NPY_ENTRY.match(text, position)) and entry.lastgroup not in found:
        found[entry.lastgroup] = entry[entry.lastgroup]
        position = entry.end()
    if len(found) < 3 or len(text) != length or text[:1] + text[position:].strip() != "{}":
        raise ValueError(f"expected the .npy header of a plain array, got {text[:100]!r}")
    *sizes, last = found["shape"].replace("L", "").split(",")  # (3L,): Python 2 has written it
    if last.strip():
        sizes.append(last)
    if not all(re.fullmatch(" *[0-9]{1,19} *", size) for size in sizes) or "," not in found["shape"] and sizes:
        raise ValueError(f"expected a tuple of sizes as shape, got ({found['shape'][:100]})")
    descr = found["descr"]
    kind = re.fullmatch("([<>|=])([fiub])([0-9]{1,2})", descr)
    if kind is None:
        dtype = "objects, which are pickles and never loaded" if "O" in descr else descr
    else:
        dtype = "BOOL" if kind[2] == "b" else f"{kind[2].upper()}{8 * int(kind[3])}"
    big = kind is not None and (kind[1] == ">" or kind[1] == "=" and sys.byteorder == "big")
    return dtype, big, found["fortran"] == "True", tuple(map(int, sizes)), 8 + width + length


def _strings(metadata):
    """Metadata as a dict from str to str."""
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("expected metadata that are strings")
    return metadata


def _unique(pairs):
    """A JSON object's pairs as a dict, refused where a name comes twice."""
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("its header has a name twice")
    return names


# -- .safetensors ----------------------------------------------------------------------------------


def _package():
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "a .safetensors file needs the package safetensors: python -m pip install \"mingrad[safetensors]\"; "
            "a .npz file needs none"
        ) from error
    return safetensors


def _safetensors_bytes(tensors, metadata):
    safetensors = _package()
    contents = {name: ("F64", shape, _little_endian(values)) for name, (shape, values) in tensors.items()}
    specs = {}
    for name, (_, shape, values) in contents.items():
        if hasattr(safetensors, "TensorSpec"):  # since version 0.8, which takes addresses
            specs[name] = safetensors.TensorSpec(
                dtype="float64", shape=shape, data_ptr=values.buffer_info()[0], data_len=8 * len(values)
            )
        else:
            specs[name] = {"dtype": "float64", "shape": shape, "data": values.tobytes()}
    return safetensors.serialize(specs, {**metadata, CHECKSUM: _checksum(contents, metadata)})


def _safetensors_stored(path, data):
    import json

    safetensors = _package()
    with _reading(path):
        found = dict(safetensors.deserialize(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_unique)
        metadata = _strings(header.pop("__metadata__", {}))
    written = metadata.pop(CHECKSUM, None)
    if written is not None:
        contents = {name: (tensor["dtype"], tensor["shape"], tensor["data"]) for name, tensor in found.items()}
        checksum = _checksum(contents, metadata)
        if checksum != written:
            raise FileFormatError(
                f"{path!r} has changed since it was written: expected the checksum {written}, got {checksum}; where "
                f"another program changed it on purpose, let it drop the metadata entry {CHECKSUM!r}"
            )
    stored = {}
    for name in header:  # in the file's order; `found` has none
        tensor = found[name]
        stored[name] = _Stored(path, name, tensor["dtype"], tensor["shape"], partial(tensor.__getitem__, "data"))
    return stored, metadata


def _checksum(tensors, metadata):
    """Eight hex digits over metadata and {name: (dtype, shape, bytes)}, whatever their order in a file."""
    import json
    import zlib

    names = sorted(tensors)
    about = [sorted(metadata.items()), [(name, tensors[name][0], list(tensors[name][1])) for name in names]]
    crc = zlib.crc32(json.dumps(about).encode("ascii"))
    for name in names:
        crc = zlib.crc32(tensors[name][2], crc)
    return f"{crc:08x}"
