"""mingrad/files.py: what is saved comes back to the bit, here, in NumPy, safetensors and PyTorch;
what is not whole is refused; a write that fails leaves the old file.

Broken files are made here byte by byte. How fast it is, is not tested.
"""

import errno
import io
import json
import math
import os
import random
import re
import stat
import struct
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import zipfile
from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import helpers
from mingrad import Variable, files
from mingrad._core import VariableList
from mingrad.files import FileFormatError, load, read_file, save, write_file
from mingrad.nn import MLP, Embedding, LayerNorm, Linear, Module, Neuron, ReLU, Sequential

SPECIAL = [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan]
ANY = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
METADATA = {"step": "200", "ü": "naïve \U0001f642", "": ""}


def needs(module):
    return pytest.mark.skipif(not helpers.importable(module), reason=f"{module} is not installed")


@pytest.fixture(params=[".npz", pytest.param(".safetensors", marks=needs("safetensors"))])
def path(request, tmp_path, monkeypatch):
    """The name of a file that is not there, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return "weights" + request.param


@pytest.fixture
def npz(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return "weights.npz"


@pytest.fixture
def safetensors(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    return "weights.safetensors"


@pytest.fixture
def numpy():
    return pytest.importorskip("numpy")


class Holder(Module):
    """A Module with these attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def variables(*shape):
    """Nested lists of new Variables; one Variable for no shape."""
    if not shape:
        return Variable(random.uniform(-1, 1))
    return [variables(*shape[1:]) for _ in range(shape[0])]


def state(module):
    """All that a Module's parameters have, to the bit."""
    return [(struct.pack("<dd", p.data, p.grad), p.requires_grad, p.label) for p in module.parameters()]


def write(path, contents):
    with open(path, "wb") as file:
        file.write(contents)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def safetensors_file(header, data=b""):
    """The bytes of a .safetensors file with this header: a dict, or bytes."""
    header = header if type(header) is bytes else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def f64(*shape, begin=0, end=8):
    """What a .safetensors header says of a tensor."""
    return {"dtype": "F64", "shape": list(shape), "data_offsets": [begin, end]}


def npy(shape="(1,)", data=bytes(8), descr="'<f8'", version=1, order="False"):
    """The bytes of a .npy file."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def npz_file(*members, method=zipfile.ZIP_STORED):
    """The bytes of an archive with these members: (name, bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, contents in members:
            archive.writestr(name, contents)
    return file.getvalue()


def npy_member(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def refused(path, contents=None):
    """The text of the FileFormatError; it names the file, and load() into a model raises it too."""
    if contents is not None:
        write(path, contents)
    model = Holder(w=variables(2, 2), b=variables())
    before = state(model)
    with pytest.raises(FileFormatError) as caught:
        read_file(path)
    with pytest.raises(ValueError):  # FileFormatError, or that it does not fit
        load(path, model)
    assert state(model) == before
    assert repr(path) in str(caught.value)
    return str(caught.value)


# -- the tensors of a Module -----------------------------------------------------------------------


def shapes(module):
    return {name: shape for name, (shape, _) in files._tensors(module).items()}


def elements(name, shape):
    """The names of a tensor's elements, last index fastest."""
    names = [name]
    for size in shape:
        names = [f"{name}.{k}" for name in names for k in range(size)]
    return names


def assert_as_named_parameters(module):
    got = [
        pair
        for name, (shape, parameters) in files._tensors(module).items()
        for pair in zip(elements(name, shape), parameters, strict=True)
    ]
    wanted = list(module.named_parameters())
    assert [name for name, _ in got] == [name for name, _ in wanted]
    assert all(p is q for (_, p), (_, q) in zip(got, wanted))


def test_the_tensors_have_the_names_and_shapes_of_pytorch():
    model = Sequential(Linear(2, 3), ReLU(), Linear(3, 1, False), LayerNorm(1), Embedding(5, 2))
    assert shapes(model) == {
        "0.weight": (3, 2),
        "0.bias": (3,),
        "2.weight": (1, 3),
        "3.weight": (1,),
        "3.bias": (1,),
        "4.weight": (5, 2),
    }
    assert shapes(MLP(2, [3, 1])) == {
        **{f"layers.0.neurons.{k}.{name}": shape for k in range(3) for name, shape in (("w", (2,)), ("b", ()))},
        "layers.1.neurons.0.w": (3,),
        "layers.1.neurons.0.b": (),
    }


def shared():
    v, row = Variable(1.0), variables(2)
    return [
        Holder(a=v, b=v),
        Holder(a=[v, variables()], b=[variables(), v]),
        Holder(a=[row, row], b=row),
        Holder(a=[row, [row[0], variables()]]),
        Holder(a=row, b=list(row)),
        Holder(a=[v, v]),
    ]


def holding_themselves():
    a, b = [variables()], [[variables()]]
    a.append(a)
    b.append(b)
    c = []
    c += [c, c]
    deep = [variables()]
    for _ in range(60):
        deep = [deep, deep]
    return [Holder(a=a), Holder(b=b), Holder(c=c, d=variables(2)), Holder(deep=deep)]


@pytest.mark.parametrize(
    "module",
    [
        Neuron(2),
        Neuron(0),
        MLP(3, [4, 4, 2]),
        Linear(2, 3),
        Sequential(Linear(2, 2), Linear(2, 1)),
        LayerNorm(3),
        Embedding(3, 2),
        Holder(),
        Holder(a=[], b=[[], []], c=None, d="text", e=("x", 1)),
        Holder(w=variables(2, 3, 4)),
        Holder(w=tuple(map(tuple, variables(2, 3)))),
        Holder(ragged=[variables(2), variables(3)], deeper=[variables(2, 2), variables(2, 3)]),
        Holder(uneven=[variables(), variables(1)], mixed=[variables(), 1.0, None, Neuron(1)]),
        Holder(d={"x": variables(2), 3: Neuron(1), "y": {"z": variables()}}, w=[{"q": variables()}]),
        Holder(v=VariableList(variables(3)), rows=[VariableList(variables(2)) for _ in range(2)]),
        Holder(v=[VariableList(variables(3)), variables(3)]),
        Holder(modules=[Neuron(1), Neuron(2)]),
        *shared(),
        *holding_themselves(),
    ],
    ids=range(27),
)
def test_the_tensors_are_the_named_parameters_in_their_order(module):
    assert_as_named_parameters(module)


def test_a_ragged_nest_is_taken_apart_where_it_is_ragged():
    module = Holder(w=[variables(2, 2), [variables(2), variables(3)], variables()])
    assert shapes(module) == {"w.0": (2, 2), "w.1.0": (2,), "w.1.1": (3,), "w.2": ()}


def test_a_shared_parameter_is_stored_once_under_its_first_name():
    v, rows = Variable(1.0), variables(2, 3)
    assert shapes(Holder(a=v, b=v)) == {"a": ()}
    assert shapes(Holder(embedding=rows, head=rows)) == {"embedding": (2, 3)}
    assert shapes(Holder(embedding=rows, head=[list(row) for row in rows])) == {"embedding": (2, 3)}
    assert shapes(Holder(a=v, b=[variables(), v, variables()])) == {"a": (), "b.0": (), "b.2": ()}
    assert shapes(Holder(a=[rows[0], variables(3)], b=rows)) == {"a": (2, 3), "b.1": (3,)}


def test_more_dimensions_than_a_file_has_are_taken_apart():
    deep = Variable(1.0)
    for _ in range(files.MAX_DIMENSIONS + 2):
        deep = [deep]
    assert shapes(Holder(w=deep)) == {"w.0.0": (1,) * files.MAX_DIMENSIONS}


NESTS = st.recursive(
    st.sampled_from(["new", "old", "number"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from("ab"), below)
        | st.tuples(below, below)
        | below.map(lambda x: [x, x])
    ),
    max_leaves=12,
)


@settings(ANY)
@given(st.dictionaries(st.sampled_from("uvw"), NESTS))
def test_the_tensors_of_any_nest_are_its_named_parameters(nests):
    known = [Variable(0.0)]

    def made(nest):
        if nest == "number":
            return 1.0
        if nest == "old":
            return known[len(known) // 2]
        if nest == "new":
            known.append(Variable(1.0))
            return known[-1]
        if isinstance(nest, dict):
            return {key: made(x) for key, x in nest.items()}
        return type(nest)(map(made, nest))

    assert_as_named_parameters(Holder(**{key: made(nest) for key, nest in nests.items()}))


def test_two_parameters_of_one_name_are_refused(path):
    model = Holder(d={1: Variable(1.0), "1": Variable(2.0)})
    text = r"Holder has two parameters named 'd\.1'"
    with pytest.raises(ValueError, match=text):
        save(path, model)
    assert os.listdir() == []
    save(path, {"d.1": 1.0})
    with pytest.raises(ValueError, match=text):
        load(path, model)


def test_a_class_with_named_parameters_of_its_own_is_saved_by_them(path):
    class Named(Module):
        def __init__(self):
            self.w, self.frozen = variables(2), variables(2)

        def named_parameters(self, prefix=""):
            yield "first", self.w[0]
            yield "second", self.w[1]

    model, other = Named(), Named()
    save(path, model)
    assert load(path) == {"first": model.w[0].data, "second": model.w[1].data}
    before = [v.data for v in other.frozen]
    load(path, other)
    assert [v.data for v in other.w] == [v.data for v in model.w]
    assert [v.data for v in other.frozen] == before


# -- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(2, [3, 1]),
        lambda: Sequential(Linear(2, 3), ReLU(), Linear(3, 1)),
        lambda: Holder(),
        lambda: Holder(ragged=[variables(2), variables(3)], d={"x": variables(2, 2)}),
        lambda: Holder(v=VariableList(variables(3)), w=[variables(4)] * 2),
        lambda: Embedding(4, 2),
    ],
    ids=["MLP", "Sequential", "nothing", "ragged", "lists", "Embedding"],
)
def test_a_model_comes_back_to_the_bit(path, make):
    model, other = make(), make()
    for k, p in enumerate(model.parameters()):
        p.data = SPECIAL[k % len(SPECIAL)] if k % 3 == 0 else random.uniform(-1, 1)
    save(path, model)
    assert load(path, other) is other
    assert state(other) == state(model)
    assert os.listdir() == [path]


def test_load_sets_values_and_nothing_else(path):
    model, other = Neuron(2), Neuron(2)
    save(path, model)
    other.b.requires_grad = False
    other.w[0].label = "first"
    (other.w[0] * 3.0).backward()
    load(path, other)
    assert [p.data for p in other.parameters()] == [p.data for p in model.parameters()]
    assert [p.grad for p in other.parameters()] == [3.0, 0.0, 0.0]
    assert [p.requires_grad for p in other.parameters()] == [True, True, False]
    assert other.w[0].label == "first"


def test_a_graph_from_before_load_refuses_backward(path):
    model = Neuron(2)
    save(path, model)
    loss = model([1.0, 2.0]) ** 2
    load(path, model)
    with pytest.raises(RuntimeError):
        loss.backward()


def test_a_planned_model_computes_with_what_was_loaded(path):
    model, other = MLP(3, [8, 2]), MLP(3, [8, 2])
    other([0.1, 0.2, 0.3])
    save(path, model)
    load(path, other)
    for got, wanted in zip(other([0.1, 0.2, 0.3]), model([0.1, 0.2, 0.3]), strict=True):
        helpers.assert_same_bits(got.data, wanted.data)


def test_numbers_come_back_as_floats_and_lists(path):
    save(
        path,
        {
            "int": 3,
            "bool": True,
            "float": 0.1,
            "variable": Variable(2.5),
            "empty": [],
            "rows": [[1, Variable(2)], (3.0, 4)],
            "no rows": [[], []],
            "range": range(3),
            "list": VariableList([1.0, 2.0]),
            "array": array("f", [0.5, 1.5]),
            "a/b": [7],
            "again": [[1, 2]] * 2,
            "Gewicht für äöü": -0.0,
        },
    )
    got = load(path)
    assert got == {
        "int": 3.0,
        "bool": 1.0,
        "float": 0.1,
        "variable": 2.5,
        "empty": [],
        "rows": [[1.0, 2.0], [3.0, 4.0]],
        "no rows": [[], []],
        "range": [0.0, 1.0, 2.0],
        "list": [1.0, 2.0],
        "array": [0.5, 1.5],
        "a/b": [7.0],
        "again": [[1.0, 2.0], [1.0, 2.0]],
        "Gewicht für äöü": 0.0,
    }
    assert type(got["int"]) is float and type(got["rows"][0][0]) is float
    helpers.assert_same_bits(got["Gewicht für äöü"], -0.0)


def test_a_state_dict_goes_to_a_file_and_back(path):
    model, other = MLP(2, [3, 1]), MLP(2, [3, 1])
    save(path, model.state_dict())
    other.load_state_dict(load(path))
    assert state(other) == state(model)


def test_arrays_of_numpy_are_saved(path, numpy):
    scalar = numpy.float32(0.1)
    save(
        path,
        {
            "a": numpy.arange(6, dtype="f4").reshape(2, 3),
            "scalar": scalar,
            "rows": [numpy.ones(2), numpy.zeros(2)],
            "object": numpy.array([Variable(3.0), 4]),
        },
    )
    assert load(path) == {
        "a": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "scalar": float(scalar),
        "rows": [[1.0, 1.0], [0.0, 0.0]],
        "object": [3.0, 4.0],
    }


def test_metadata_come_back(path):
    save(path, {"b": 1.0}, metadata=METADATA)
    assert read_file(path) == ({"b": ((), array("d", [1.0]))}, METADATA)
    save(path, {"b": 1.0})
    assert read_file(path)[1] == {}


@settings(ANY)
@given(
    tensors=st.dictionaries(
        st.text("wb.0/ü", max_size=5).filter(lambda name: files._problem(name, ()) is None),
        st.lists(st.integers(0, 3), max_size=4).flatmap(
            lambda shape: st.tuples(
                st.just(tuple(shape)), st.lists(st.floats(), min_size=math.prod(shape), max_size=math.prod(shape))
            )
        ),
    ),
    metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=5)),
    ending=st.sampled_from([".npz"] + [".safetensors"] * helpers.importable("safetensors")),
)
def test_any_tensors_come_back_to_the_bit(tensors, metadata, ending, tmp_path_factory):
    path = str(tmp_path_factory.getbasetemp() / f"any{ending}")
    tensors = {name: (shape, array("d", numbers)) for name, (shape, numbers) in tensors.items()}
    write_file(path, tensors, metadata)
    got, got_metadata = read_file(path)
    assert got_metadata == metadata
    assert {name: (shape, values.tobytes()) for name, (shape, values) in got.items()} == {
        name: (shape, values.tobytes()) for name, (shape, values) in tensors.items()
    }


def test_a_path_may_be_bytes_or_a_path_object_and_its_ending_in_capitals(path, tmp_path):
    for name in (os.fsencode(path), tmp_path / path, path.upper()):
        save(name, {"b": 2.0})
        assert load(name) == {"b": 2.0}


def test_the_same_contents_are_the_same_bytes(npz):
    save(npz, {"b": 2.0}, metadata={"x": "y"})
    before = read(npz)
    save(npz, {"b": 2.0}, metadata={"x": "y"})
    assert read(npz) == before


# -- what save refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w", "w.pt", "w.npz.gz", "npz", ".npz", "w.npy", ""])
def test_another_ending_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = re.escape(f"expected a file name that ends in '.safetensors' or '.npz', got {name!r}")
    for call in (
        lambda: save(name, {"b": 1.0}),
        lambda: load(name),
        lambda: read_file(name),
        lambda: load(name, Neuron(1)),
        lambda: write_file(name, {}, {}),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    assert os.listdir() == []


@pytest.mark.parametrize(
    "model, error, text",
    [
        ([1.0], TypeError, "expected a Module or a mapping from name to numbers, got list; name what"),
        (Variable(1.0), TypeError, "expected a Module or a mapping from name to numbers, got Variable"),
        (None, TypeError, "expected a Module or a mapping from name to numbers, got NoneType"),
        ({"w": "text"}, TypeError, "save: 'w': Variable: expected a real number"),
        ({"w": [1.0, None]}, TypeError, "save: 'w': Variable: expected a real number .*, got NoneType"),
        ({"w": 1j}, TypeError, "save: 'w': Variable: expected a real number .*, got complex"),
        ({"w": {"a": 1.0}}, TypeError, "save: 'w': Variable: expected a real number .*, got dict"),
        ({"w": Neuron(1)}, TypeError, "save: 'w': Variable: expected a real number .*, got Neuron"),
        ({"w": 10**400}, OverflowError, "save: 'w': "),
        ({"w": [[1.0], [1.0, 2.0]]}, ValueError, "save: 'w': expected a number or sequences of equal"),
        ({"w": [1.0, [1.0]]}, ValueError, "got a ragged nest"),
        ({"w": [[1.0], 1.0]}, ValueError, "got a ragged nest"),
        ({"w": [[], [1.0]]}, ValueError, "got a ragged nest"),
        ({1: 1.0}, ValueError, "tensor 1: expected a name of type str, got int"),
        ({"": 1.0}, ValueError, "tensor '': expected a name that is not empty"),
        ({"__metadata__": 1.0}, ValueError, "the name is taken by the .safetensors format"),
        ({"\ud800": 1.0}, ValueError, "without control characters, backslashes and lone surrogates"),
        ({"a\0b": 1.0}, ValueError, "without control characters"),
        ({"a\\b": 1.0}, ValueError, "backslashes"),
        ({"/etc/x": 1.0}, ValueError, "read as a path, leads nowhere else"),
        ({"a/../../x": 1.0}, ValueError, "read as a path, leads nowhere else"),
        ({"C:x": 1.0}, ValueError, "read as a path, leads nowhere else"),
    ],
    ids=range(22),
)
def test_what_cannot_be_saved_is_refused_by_name(path, model, error, text):
    save(path, {"old": 1.0})
    with pytest.raises(error, match=text):
        save(path, model)
    assert os.listdir() == [path] and load(path) == {"old": 1.0}


def test_a_list_that_holds_itself_is_refused(path):
    loop = []
    loop += [loop, loop]
    with pytest.raises(ValueError, match="ragged nest"):
        save(path, {"w": loop})


@pytest.mark.parametrize(
    "metadata, error, text",
    [
        ([("a", "b")], TypeError, "expected a dict of metadata, got list"),
        ({"a": 1}, TypeError, "expected metadata from str to str, got 'a': 1"),
        ({1: "a"}, TypeError, "expected metadata from str to str, got 1: 'a'"),
        ({"a": "\udc80"}, ValueError, "metadata 'a': a lone surrogate has no UTF-8"),
        ({"mingrad.crc32": "0"}, ValueError, "metadata 'mingrad.crc32': the key is taken by mingrad"),
    ],
)
def test_metadata_that_cannot_be_saved_are_refused(path, metadata, error, text):
    with pytest.raises(error, match=text):
        save(path, {"w": 1.0}, metadata=metadata)
    assert os.listdir() == []


def test_values_that_do_not_fit_their_shape_are_refused(path):
    for shape, values in [((2,), array("d", [1.0])), ((), array("d")), ((1,), array("f", [1.0]))]:
        with pytest.raises(ValueError, match=r"tensor 'w': expected array\('d'\) with \d numbers"):
            write_file(path, {"w": (shape, values)}, {})
    with pytest.raises(ValueError, match="expected at most 64 dimensions, got 65"):
        write_file(path, {"w": ((1,) * 65, array("d", [1.0]))}, {})
    assert os.listdir() == []


# -- a file that does not fit ----------------------------------------------------------------------


class Taken(Module):
    def __init__(self):
        self.w, self.b = variables(2, 3), Variable(0.0)


@pytest.mark.parametrize(
    "contents, text",
    [
        ({"b": 1.0}, "does not fit Taken: expected 2 tensors, got 1; missing: 'w' [2, 3]; unknown: none"),
        (
            {"w": [[1] * 3] * 2, "b": 1, "c": [1]},
            "does not fit Taken: expected 2 tensors, got 3; missing: none; unknown: 'c' [1]",
        ),
        (
            {"b.0": 1.0, **{f"w.{k}": [1.0] for k in range(4)}},
            "missing: 'w' [2, 3], 'b' []; unknown: 'b.0' [], 'w.0' [1], 'w.1' [1], ...",
        ),
        ({"w": [[1] * 2] * 3, "b": 1}, "tensor 'w': expected shape [2, 3], got [3, 2]"),
        ({"w": [1] * 6, "b": 1}, "tensor 'w': expected shape [2, 3], got [6]"),
        ({"w": [[1] * 3] * 2, "b": [1]}, "tensor 'b': expected shape [], got [1]"),
        ({}, "missing: 'w' [2, 3], 'b' []; unknown: none"),
    ],
    ids=range(7),
)
def test_a_file_that_does_not_fit_is_refused_by_name_and_shape(path, contents, text):
    save(path, contents)
    model = Taken()
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        load(path, model)
    assert type(caught.value) is ValueError and repr(path) in str(caught.value)
    assert state(model) == before


def test_a_module_that_keeps_a_result_cannot_be_loaded(path):
    model = Holder(w=Variable(1.0), last=[Variable(2.0), Variable(3.0) * 2])
    save(path, model)
    before = state(model)
    text = (
        "load: tensor 'last' of Holder: expected leaves, got a result of operations, which "
        "cannot be set; do not keep results in a Module"
    )
    with pytest.raises(ValueError, match=text):
        load(path, model)
    assert state(model) == before


def test_an_integer_that_no_float_holds_is_refused_before_anything_is_set(npz):
    numbers = struct.pack("<2q", 2**53, 2**53 + 1)
    write(npz, npz_file(("a.npy", npy("()")), ("w.npy", npy("(2,)", numbers, "'<i8'"))))
    model = Holder(a=variables(), w=variables(2))
    before = state(model)
    with pytest.raises(FileFormatError, match="'w': float64 cannot hold the integer 9007199254"):
        load(npz, model)
    assert state(model) == before


def test_load_wants_a_module(path):
    save(path, {"w": 1.0})
    with pytest.raises(TypeError, match="load: expected a Module, got dict"):
        load(path, {"w": 2.0})


def test_a_file_that_is_not_there_is_an_os_error_that_names_it(path):
    with pytest.raises(FileNotFoundError) as caught:
        load(path, Neuron(1))
    assert caught.value.filename == path


# -- NumPy's files ---------------------------------------------------------------------------------


def test_numpy_reads_what_is_written(npz, numpy):
    model = Sequential(Linear(2, 3))
    save(npz, model)
    with numpy.load(npz) as got:
        assert got.files == ["0.weight", "0.bias"]
        assert got["0.weight"].tolist() == [[p.data for p in row] for row in model[0].weight]
        assert got["0.bias"].tolist() == [p.data for p in model[0].bias]
    save(npz, {"none": [[], []], "special": SPECIAL, "number": 0.5})
    with numpy.load(npz) as got:
        assert all(got[name].dtype == "<f8" and got[name].flags.c_contiguous for name in got.files)
        assert got["none"].shape == (2, 0) and got["number"].shape == ()
        assert got["special"].tobytes() == struct.pack("<8d", *SPECIAL)


def test_numpy_gives_metadata_as_json_under_a_documented_name(npz, numpy):
    save(npz, {"w": [1.0]}, metadata=METADATA)
    with numpy.load(npz) as got:
        assert got.files == ["w", files.METADATA]
        assert json.loads(got[files.METADATA]) == METADATA


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"])
def test_numbers_of_numpy_are_widened_exactly(npz, numpy, kind, order):
    dtype = numpy.dtype(order + kind)
    numbers = numpy.array(
        [0, 1, 100, 0.1, 1 / 3, 60000, -2, 2**53, 2**31]
        if kind[0] == "f"
        else [0, 1, 100]
        if kind[0] == "b"
        else [0, 1, 100, min(2**53, numpy.iinfo(dtype).max), max(-(2**53), numpy.iinfo(dtype).min)]
    )
    if kind == "f2":
        numbers = numbers[:6]
    numbers = numbers.astype(dtype)
    numpy.savez(npz, w=numbers)
    assert load(npz)["w"] == [float(x) for x in numbers]


@pytest.mark.parametrize("integer", [2**53 + 1, -(2**53) - 1, 2**63 - 1])
def test_an_integer_that_no_float_holds_is_refused(npz, numpy, integer):
    numpy.savez(npz, w=numpy.array([1, 2**60, integer]))  # 2**60 is a float
    assert f"tensor 'w': float64 cannot hold the integer {integer}" in refused(npz)
    numpy.savez(npz, w=numpy.array([1, 2**60, -(2**63)]))
    assert load(npz) == {"w": [1.0, 2.0**60, -(2.0**63)]}


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (1, 3, 1, 2), (0,), (2, 0), (0, 2), (3, 1), (1,) * 32])
@pytest.mark.parametrize("function", ["savez", "savez_compressed"])
def test_arrays_of_any_order_are_read(npz, numpy, shape, function):
    c = numpy.random.default_rng(0).standard_normal(shape)
    f = numpy.asarray(c, order="F")
    getattr(numpy, function)(npz, c=c, f=f, t=c.T, big=c.astype(">f4"))
    if f.flags.fnc:  # Fortran's order only
        assert b"'fortran_order': True" in npy_member(npz, "f.npy")
    got = load(npz)
    assert got["c"] == got["f"] == c.tolist() and got["t"] == c.T.tolist()
    assert got["big"] == c.astype("f4").tolist()


def test_an_archive_that_numpy_wrote_to_a_pipe_is_read(npz, numpy):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *args):
            raise OSError("a pipe")

        tell = seek

    pipe = Pipe()
    numpy.savez(pipe, w=numpy.arange(3.0), b=numpy.float64(2.0))
    write(npz, pipe.getvalue())
    assert load(npz) == {"w": [0.0, 1.0, 2.0], "b": 2.0}


@pytest.mark.parametrize(
    "header",
    [
        dict(version=2),
        dict(version=3),
        dict(shape="(1L,)"),
        dict(shape="(1, )"),
        dict(shape="()"),
        dict(shape="( 1 ,)"),
        dict(descr="'=f8'" if sys.byteorder == "little" else "'<f8'"),
    ],
    ids=str,
)
def test_other_ways_to_write_a_header_are_read(npz, header):
    write(npz, npz_file(("w.npy", npy(data=struct.pack("<d", 2.5), **header))))
    assert read_file(npz)[0]["w"][1].tolist() == [2.5]


@pytest.mark.parametrize(
    "code, text",
    [
        ("numpy.array([None])", "got objects, which are pickles and never loaded"),
        ("numpy.array([1j])", "got <c16"),
        ("numpy.array(['a'])", "got <U1"),
        ("numpy.array([b'a'])", r"got |S1"),
        ("numpy.array([0], 'M8[s]')", "got <M8[s]"),
        (
            "numpy.zeros(2, 'f8,i4')",
            "tensor 'w': expected the .npy header of a plain array, got \"{'descr': [('f0', '<f8'), ('f1', '<i4')]",
        ),
    ],
)
def test_arrays_of_something_else_are_refused_by_name(npz, numpy, code, text):
    numpy.savez(npz, w=eval(code))
    text = text if "header" in text else ("tensor 'w': expected a float of at most 64 bits, an integer or a bool, " + text)
    assert text in refused(npz)


def test_a_long_double_is_refused(npz):
    write(npz, npz_file(("w.npy", npy(data=bytes(16), descr="'<f16'"))))
    assert "a float of at most 64 bits, an integer or a bool, got F128" in refused(npz)


def test_a_pickle_is_never_loaded(npz, tmp_path, numpy):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    numpy.savez(npz, w=numpy.array([Trap()]))
    refused(npz)
    assert os.listdir() == [npz]


# -- safetensors' files ----------------------------------------------------------------------------


def test_the_package_reads_what_is_written(safetensors):
    from safetensors import deserialize

    save(safetensors, {"w": [[1.0, 2.0]], "b": 3.0, "none": [[], []]}, metadata={"x": "y"})
    got = dict(deserialize(read(safetensors)))
    assert {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in got.items()} == {
        "w": ("F64", [1, 2], struct.pack("<2d", 1.0, 2.0)),
        "b": ("F64", [], struct.pack("<d", 3.0)),
        "none": ("F64", [2, 0], b""),
    }


def test_versions_of_the_package_that_take_bytes_are_given_bytes(safetensors, monkeypatch):
    """The package took {"data": bytes} before version 0.8 and takes addresses since."""
    import safetensors as package

    given = {}
    monkeypatch.delattr(package, "TensorSpec", raising=False)
    monkeypatch.setattr(package, "serialize", lambda specs, metadata: given.update(specs) or b"")
    save(safetensors, {"w": [[1.0, 2.0]]})
    data = struct.pack("<2d", 1.0, 2.0)
    assert given == {"w": {"dtype": "float64", "shape": (1, 2), "data": data}}


@needs("torch")
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_numbers_of_pytorch_are_widened_exactly(safetensors, dtype):
    import torch
    from safetensors.torch import save_file

    numbers = torch.tensor([[0.1, -2.5, 100.0], [1 / 3, 7.0, 0.0]]).abs().to(getattr(torch, dtype))
    if numbers.is_floating_point():
        numbers = torch.cat([numbers, torch.tensor([[-0.0, math.inf, 6e-8]]).to(numbers.dtype)])
    save_file({"w": numbers, "b": numbers[0, 1].clone()}, safetensors)
    model = Holder(w=variables(*numbers.shape), b=variables())
    load(safetensors, model)
    wanted = numbers.double().flatten().tolist() + [numbers[0, 1].double().item()]
    for p, number in zip(model.parameters(), wanted, strict=True):
        helpers.assert_same_bits(p.data, number)


@pytest.mark.parametrize("dtype, size", [("F8_E5M2", 1), ("C64", 8)])
def test_a_dtype_that_is_no_float_or_integer_is_refused_by_name(safetensors, dtype, size):
    entry = {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}
    text = refused(safetensors, safetensors_file({"w": entry}, bytes(size)))
    assert f"an integer or a bool, got {dtype}" in text or "not a whole" in text  # older packages


def test_a_file_of_another_program_has_no_checksum_and_is_read(safetensors):
    write(safetensors, safetensors_file({"w": f64(1), "__metadata__": {"format": "pt"}}, struct.pack("<d", 2.5)))
    assert read_file(safetensors) == ({"w": ((1,), array("d", [2.5]))}, {"format": "pt"})


def test_a_checksum_that_another_program_kept_says_how_to_go_on(safetensors):
    save(safetensors, {"w": [1.0]})
    changed = read(safetensors)[:-1] + b"\x40"
    text = refused(safetensors, changed)
    assert re.search(
        "is not as it was written: expected checksum [0-9a-f]{8}, got [0-9a-f]{8}; if "
        "another program changed it rightly, let it drop the metadata 'mingrad.crc32'",
        text,
    )


# -- files that are not whole ----------------------------------------------------------------------


def small(path):
    """A small file with all that a file can have; its bytes and what it holds."""
    tensors = {
        "w": ((2, 2), array("d", [1.5, -2.25, 0.1, 1e300])),
        "b": ((), array("d", [0.3])),
        "ä": ((1,), array("d", [7.0])),
    }
    write_file(path, tensors, {"k": "v"})
    return read(path), read_file(path)


def test_a_file_cut_anywhere_is_refused(path, show):
    whole, _ = small(path)
    for length in range(len(whole)):
        show(whole[:length])
        refused(path)


def test_a_file_with_more_at_its_end_or_beginning_is_refused(path):
    whole, _ = small(path)
    for more in (b"\0", b"x" * 30, whole):
        refused(path, whole + more)
        refused(path, more + whole[1:])


@pytest.fixture
def show(monkeypatch):
    """A function: from now on every file has these contents. (On a disk: a minute.)"""

    def show(contents):
        monkeypatch.setattr(files, "open", lambda *_: io.BytesIO(contents), raising=False)

    return show


def unnoticed(path, whole, wanted, show):
    """The places where a flipped bit in a file is not noticed.

    Fails where another error comes than the right one, or where numbers or names are others.
    """
    places = set()
    for place in range(len(whole)):
        for bit in range(8):
            show(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                tensors, metadata = read_file(path)
            except FileFormatError as error:
                assert repr(path) in str(error)
                continue
            assert tensors == wanted[0]
            if metadata != wanted[1]:  # the checksum's own name was hit
                (name,) = set(metadata) - {"k"}
                assert len(name) == len(files.CHECKSUM) and metadata["k"] == "v"
            places.add(place)
    return places


def test_a_flipped_bit_is_refused_or_changes_no_number_and_no_name(path, show):
    """What may pass: an archive's times, versions and attributes; the name of our checksum."""
    whole, wanted = small(path)
    places = unnoticed(path, whole, wanted, show)
    assert len(places) < (0.3 if path.endswith("npz") else 0.1) * len(whole)
    for name, (_, values) in wanted[0].items():
        start = whole.index(values.tobytes())
        assert places.isdisjoint(range(start, start + 8 * len(values))), name


def test_a_large_archive_is_read_and_cut_or_flipped_it_is_refused(npz, monkeypatch, show):
    """Large: it has the records for more than 65,535 members."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    whole, wanted = small(npz)
    assert b"PK\6\6" in whole and b"PK\6\7" in whole
    for length in range(len(whole)):
        show(whole[:length])
        refused(npz)
    unnoticed(npz, whole, wanted, show)


def test_a_compressed_file_flipped_anywhere_is_refused_or_the_same(npz, numpy, show):
    numpy.savez_compressed(npz, w=numpy.arange(40.0))
    unnoticed(npz, read(npz), read_file(npz), show)


def test_the_checker_sees_a_flipped_number(safetensors, show):
    """Without a checksum, as in files of other programs, a flipped bit is a wrong number."""
    whole = safetensors_file({"w": f64(1)}, struct.pack("<d", 2.5))
    write(safetensors, whole)
    with pytest.raises(AssertionError):
        unnoticed(safetensors, whole, read_file(safetensors), show)


@pytest.mark.parametrize(
    "contents", [b"", b"PK", b"{}", b"\x80\x04K\x01.", b"text", bytes(100), b"\xff" * 100, b"PK\5\6" + bytes(17)]
)
def test_something_else_is_refused(path, contents):
    assert "is not a" in refused(path, contents)


def test_a_file_under_the_other_ending_is_told_to_be_renamed(safetensors, npz):
    save(safetensors, {"w": 1.0})
    save(npz, {"w": 1.0})
    packed = read(npz)
    text = "'weights{0}' is not a {0} file: it begins as a {1} file does; rename it"
    assert refused(npz, read(safetensors)) == text.format(".npz", ".safetensors")
    assert refused(safetensors, packed) == text.format(".safetensors", ".npz")


def test_memory_that_runs_out_is_no_fault_of_the_file(npz, monkeypatch):
    small(npz)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda *args: 1 / 0)
    refused(npz)

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
    with pytest.raises(MemoryError):
        load(npz)


HUGE = "9999999999999999999"


@pytest.mark.parametrize(
    "contents, text",
    [
        (npz_file(("w.npy", npy("(2,)"))), "shape [2] of F64 takes 16 bytes, the file has 8"),
        (npz_file(("w.npy", npy(data=bytes(16)))), "shape [1] of F64 takes 8 bytes, the file has 16"),
        (npz_file(("w.npy", npy("(1,)", descr="'<f4'"))), "shape [1] of F32 takes 4 bytes"),
        (npz_file(("w.npy", npy(f"({HUGE}, {HUGE})"))), "tensor 'w': shape"),
        (npz_file(("w.npy", npy("(" + "1," * 65 + ")"))), "expected at most 64 dimensions, got 65"),
        (npz_file(("w.npy", npy(f"({HUGE}9,)"))), "expected a tuple of sizes as shape"),
        (npz_file(("w.npy", npy("(-1,)"))), "expected a tuple of sizes as shape, got (-1,)"),
        (npz_file(("w.npy", npy("(1)"))), "expected a tuple of sizes as shape, got (1)"),
        (npz_file(("w.npy", npy("(,)"))), "expected a tuple of sizes as shape"),
        (npz_file(("w.npy", npy("(1, ,)"))), "expected a tuple of sizes as shape"),
        (npz_file(("w.npy", npy("1"))), "expected the .npy header of a plain array"),
        (npz_file(("w.npy", npy("(1,), 'x': 1"))), "expected the .npy header of a plain array"),
        (npz_file(("w.npy", npy("(1,), 'shape': (1,)"))), "expected the .npy header of a plain array"),
        (npz_file(("w.npy", npy(order="0"))), "expected the .npy header of a plain array"),
        (npz_file(("w.npy", npy(" " * 20_000 + "()"))), "expected the .npy header of a plain array"),
        (npz_file(("w.npy", npy(version=4))), "expected a .npy header of version 1 to 3"),
        (npz_file(("w.npy", npy()[:5])), "expected a .npy header of version 1 to 3, got"),
        (npz_file(("w.npy", npy()[:9])), "expected the .npy header of a plain array"),
        (npz_file(("w.npy", b"")), "tensor 'w': expected a .npy header"),
        (npz_file(("w.txt", npy())), "member 'w.txt': expected a name that ends in '.npy'"),
        (npz_file(("w/", b"")), "expected a name that ends in '.npy'"),
        (npz_file(("../w.npy", npy())), "leads nowhere else"),
        (npz_file(("/w.npy", npy())), "leads nowhere else"),
        (npz_file((".npy", npy())), "tensor '': expected a name that is not empty"),
        (npz_file(("a\\w.npy", npy())), "backslashes"),
        (npz_file((files.METADATA, b"{")), "is not a whole .npz file: "),
        (npz_file((files.METADATA, b"[]")), "expected metadata from str to str"),
        (npz_file((files.METADATA, b'{"a": 1}')), "expected metadata from str to str"),
        (npz_file((files.METADATA, b'{"a": "\\udc80"}')), "expected metadata without lone surrogates"),
        (npz_file((files.METADATA, b'{"a": "1", "a": "2"}')), "a name comes twice"),
        (npz_file(("w.npy", npy()), method=zipfile.ZIP_BZIP2), "expected stored or deflated bytes"),
        (npz_file(("w.npy", npy()))[:-22] + b"PK\5\6" + bytes(18), "its directory does not fit its"),
        (b"PK\5\6" + bytes(18) + npz_file(("w.npy", npy())), "its directory does not fit its size"),
    ],
    ids=range(33),
)
def test_a_broken_archive_is_refused(npz, contents, text):
    assert text in refused(npz, contents)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(npz):
    contents = npz_file(("w.npy", npy()), ("w.npy", npy(data=b"12345678")))
    assert "two members are named 'w.npy'" in refused(npz, contents)


def test_an_encrypted_member_is_refused(npz):
    contents = bytearray(npz_file(("w.npy", npy())))
    contents[6] |= 1
    contents[contents.index(b"PK\1\2") + 8] |= 1
    assert "encrypted" in refused(npz, bytes(contents))


def test_a_member_whose_name_is_not_unicode_is_refused(npz):
    contents = npz_file(("ä.npy", npy()))
    for place in (6, contents.index(b"PK\1\2") + 8):
        contents = contents[:place] + b"\0\0" + contents[place + 2 :]
    assert "expected a name in UTF-8" in refused(npz, contents)


@pytest.mark.parametrize(
    "header, data, text",
    [
        ({"w": f64(2)}, bytes(8), "is not a whole .safetensors file: "),
        ({"w": f64(1)}, bytes(16), "is not a whole .safetensors file: "),
        ({"w": f64(1, end=9)}, bytes(9), "is not a whole .safetensors file: "),
        ({"w": f64(2**64 - 1, 2)}, bytes(8), "is not a whole .safetensors file: "),
        ({"w": f64(-1)}, bytes(8), "is not a whole .safetensors file: "),
        ({"w": {"dtype": "F64"}}, bytes(8), "is not a whole .safetensors file: "),
        ({"w": f64(1), "b": f64(1)}, bytes(8), "is not a whole .safetensors file: "),
        ({"w": f64(1), "__metadata__": {"a": 1}}, bytes(8), "is not a whole .safetensors file: "),
        ({"w": f64(*[1] * 65)}, bytes(8), "tensor 'w': expected at most 64 dimensions, got 65"),
        ({"../w": f64(1)}, bytes(8), "leads nowhere else"),
        ({"a\\w": f64(1)}, bytes(8), "backslashes"),
        ({"": f64(1)}, bytes(8), "tensor '': expected a name that is not empty"),
        (b'{"w":%b,"w":%b}' % ((json.dumps(f64(1)).encode(),) * 2), bytes(8), "comes twice"),
        (b'{"w":%b,"__metadata__":{"a":"b","a":"c"}}' % json.dumps(f64(1)).encode(), bytes(8), "twice"),
        (b"[]", b"", "is not a whole .safetensors file: "),
        (b'{"a":' * 100_000, b"", "is not a whole .safetensors file: "),
        (b"", b"", "is not a whole .safetensors file: "),
        (
            {"w": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}},
            struct.pack("<q", 2**53 + 1),
            "tensor 'w': float64 cannot hold the integer 9007199254740993",
        ),
    ],
    ids=range(18),
)
def test_a_broken_safetensors_file_is_refused(safetensors, header, data, text):
    assert text in refused(safetensors, safetensors_file(header, data))


def resized(contents, size):
    """An archive of one member that says another size of it, before the member and at the end."""
    contents = bytearray(contents)
    for place in (22, contents.index(b"PK\1\2") + 24):
        contents[place : place + 4] = struct.pack("<I", size)
    return bytes(contents)


def test_a_compressed_member_with_fewer_bytes_than_it_says_is_refused(npz):
    """The shape agrees with the size that is said, the checksum with the bytes that are there."""
    array = npy("(2,)")
    contents = resized(npz_file(("w.npy", array), method=zipfile.ZIP_DEFLATED), len(array) + 8)
    assert f"expected {len(array) + 8} bytes, got {len(array)}" in refused(npz, contents)


def test_sizes_that_lie_take_no_memory(path):
    if path.endswith("npz"):
        bomb = npz_file(("w.npy", npy()), method=zipfile.ZIP_DEFLATED)
        broken = [
            resized(bomb, 2**20),
            resized(bomb, 2**31),
            npz_file(("w.npy", npy(f"({2**40},)"))),
            npz_file(("w.npy", npy(f"({2**62}, {2**62})"))),
            b"PK\3\4" + bytes(20) + b"\xff" * 200,
        ]
    else:
        broken = [
            safetensors_file({"w": f64(2**40)}, bytes(8)),
            b"\xff" * 7 + b"\0{" + bytes(9),
            struct.pack("<Q", 2**40) + b"{}",
            safetensors_file({"w": f64(2**61)}, bytes(8)),
        ]
    for contents in broken:
        write(path, contents)
        tracemalloc.start()
        try:
            with pytest.raises(FileFormatError):
                read_file(path)
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()


def test_a_shape_without_numbers_makes_no_endless_lists(path):
    """(10**12, 0) is a sound shape; as nested lists it has 10**12 of them."""
    for shape in [(10**12, 0), (10**12, 0, 5), (2**20 + 1, 0)]:
        write_file(path, {"w": (shape, array("d"))}, {})
        with pytest.raises(FileFormatError, match=r"tensor 'w': shape .* but \d+ lists of them"):
            load(path)
        assert read_file(path)[0]["w"] == (shape, array("d"))
    write_file(path, {"w": ((0, 10**12), array("d")), "v": ((3, 0), array("d"))}, {})
    assert load(path) == {"w": [], "v": [[], [], []]}


# -- all or nothing --------------------------------------------------------------------------------

FAILURES = [
    ("os.fsync", OSError(errno.EIO, "disk")),
    ("os.replace", OSError(errno.EXDEV, "link")),
    ("os.fsync", KeyboardInterrupt()),
    ("os.replace", KeyboardInterrupt()),
    ("os.fsync", MemoryError()),
]


@pytest.mark.parametrize("old", [True, False], ids=["over a file", "new"])
@pytest.mark.parametrize("function, failure", FAILURES, ids=map(str, range(len(FAILURES))))
def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch, function, failure, old):
    if old:
        save(path, {"old": 1.0})

    def fail(*args):
        assert len(os.listdir()) == 1 + old  # what is written is on its way
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        with pytest.raises(type(failure)):
            save(path, {"new": 2.0})
    assert os.listdir() == [path] * old
    assert not old or load(path) == {"old": 1.0}


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are POSIX")
def test_a_full_disk_leaves_the_old_file(path):
    save(path, {"old": 1.0})
    run_child(
        f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            save({path!r}, {{"new": [1.0] * 10_000}})
        except OSError:
            print("refused")
        """,
        prints="refused",
    )
    assert os.listdir() == [path] and load(path) == {"old": 1.0}


def test_ctrl_c_right_after_a_file_was_opened_leaves_no_temporary_file(path, monkeypatch):
    """The interpreter looks for signals when a call returns: the file is there, but no name for it."""
    save(path, {"old": 1.0})

    def interrupted(*args):
        open(*args).close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "open", interrupted, raising=False)
        save(path, {"new": 2.0})
    assert os.listdir() == [path] and load(path) == {"old": 1.0}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_while_an_archive_is_made_stays_one(npz, monkeypatch):
    """zipfile believes from then on that a member is being written, and will not close the archive."""
    begin = zipfile.ZipFile.open

    def interrupted(*args, **kwargs):
        begin(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zipfile.ZipFile, "open", interrupted)
        save(npz, {"new": 2.0})
    assert os.listdir() == []


def run_child(code, prints=None, status=0):
    """Run code in a process of its own."""
    code = "from mingrad.files import *\nimport os, sys\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    if prints is not None:
        assert done.stdout.strip() == prints


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_writer_that_is_killed_leaves_the_old_file(path, function):
    save(path, {"old": 1.0})
    run_child(
        f"""
        import signal
        os.{function} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        save({path!r}, {{"new": [1.0] * 10_000}})
        """,
        status=-9,
    )
    assert load(path) == {"old": 1.0}
    (rest,) = set(os.listdir()) - {path}
    assert re.fullmatch(r"\.mingrad-[0-9a-f]{16}\.tmp", rest)
    save(path, {"new": 2.0})
    assert load(path) == {"new": 2.0}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_writer_killed_at_any_time_leaves_a_whole_file(path):
    save(path, {"w": [0.0] * 1000})
    for delay in (0.002, 0.007, 0.013, 0.02):
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(f"""
            from mingrad.files import save
            number = 0.0
            while True:
                save({path!r}, {{"w": [number] * 1000}})
                if number == 0.0:
                    print("begun", flush=True)
                number += 1.0
            """),
            ],
            stdout=subprocess.PIPE,
        )
        with child:
            child.stdout.readline()
            threading.Event().wait(delay)
            child.kill()
        (numbers,) = load(path).values()
        assert len(numbers) == 1000 and len(set(numbers)) == 1


def test_threads_that_save_to_one_name_leave_one_whole_file(path):
    def saver(number):
        for _ in range(10):
            save(path, {"w": [number] * 100})

    threads = [threading.Thread(target=saver, args=(float(k),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir() == [path] and len(set(load(path)["w"])) == 1


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_permissions_are_those_of_a_new_file_or_of_the_old_one(path):
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            save(path, {"w": 1.0})
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o666 & ~mask
        os.remove(path)
    for mode in (0o600, 0o640, 0o664):
        save(path, {"w": 1.0})
        os.chmod(path, mode)
        save(path, {"w": 2.0})
        assert stat.S_IMODE(os.stat(path).st_mode) == mode and load(path) == {"w": 2.0}


def test_a_file_that_must_not_be_written_is_not_replaced(path, monkeypatch):
    save(path, {"w": 1.0})
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anything
    with pytest.raises(PermissionError) as caught:
        save(path, {"w": 2.0})
    assert caught.value.filename == path
    assert os.listdir() == [path] and load(path) == {"w": 1.0}


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights elsewhere")
def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced(path):
    os.mkdir("folder")
    target = os.path.join("folder", path)
    os.symlink(target, path)
    for number in (1.0, 2.0):  # first it leads to nothing
        save(path, {"w": number})
        assert os.path.islink(path) and load(target) == load(path) == {"w": number}
    assert os.listdir("folder") == [path]


def test_a_folder_of_that_name_is_refused(path):
    os.mkdir(path)
    with pytest.raises(OSError, match="expected a regular file") as caught:
        save(path, {"w": 1.0})
    assert caught.value.filename == path
    with pytest.raises(OSError):
        load(path)
    assert os.listdir() == [path]


def test_a_folder_that_is_not_there_is_an_error_about_the_users_path(path):
    with pytest.raises(FileNotFoundError) as caught:
        save(os.path.join("nowhere", path), {"w": 1.0})
    assert caught.value.filename == os.path.join("nowhere", path)


# -- packages and machines -------------------------------------------------------------------------


def test_without_numpy_and_safetensors_npz_goes_there_and_back(npz, monkeypatch):
    for module in ("numpy", "safetensors"):
        monkeypatch.setitem(sys.modules, module, None)
    model, other = MLP(2, [3, 1]), MLP(2, [3, 1])
    save(npz, model, metadata=METADATA)
    assert state(load(npz, other)) == state(model) and read_file(npz)[1] == METADATA


def test_without_the_package_safetensors_its_files_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    write("there.safetensors", safetensors_file({"w": f64(1)}, bytes(8)))
    text = re.escape(
        "a .safetensors file needs the package safetensors: python -m pip install "
        '"mingrad[safetensors]"; a .npz file needs none'
    )
    for call in (lambda: save("new.safetensors", {"w": 1.0}), lambda: load("there.safetensors")):
        with pytest.raises(ImportError, match=text):
            call()
    assert os.listdir() == ["there.safetensors"]


def test_no_file_needs_numpy_or_pickle(path):
    run_child(
        f"""
        sys.modules["numpy"] = sys.modules["pickle"] = sys.modules["_pickle"] = None
        save({path!r}, {{"w": [1.0]}})
        print(load({path!r}))
        """,
        prints="{'w': [1.0]}",
    )


def test_a_big_endian_machine_writes_and_reads_the_same_bytes(path, monkeypatch):
    def swapped(numbers):
        values = array("d", numbers)
        values.byteswap()
        return values

    write_file(path, {"w": ((2,), array("d", [1.0, 2.0]))}, {})
    before = read(path)
    monkeypatch.setattr(sys, "byteorder", {"little": "big", "big": "little"}[sys.byteorder])
    values = swapped([1.0, 2.0])
    write_file(path, {"w": ((2,), values)}, {})
    assert values == swapped([1.0, 2.0])
    assert sorted(read(path)) == sorted(before)  # safetensors orders metadata as it likes
    assert struct.pack("<2d", 1.0, 2.0) in before and struct.pack("<2d", 1.0, 2.0) in read(path)
    assert read_file(path)[0]["w"] == ((2,), swapped([1.0, 2.0]))


# -- PyTorch ---------------------------------------------------------------------------------------


def recipe():
    """The lines of the module's docstring that move weights to PyTorch and back."""
    block = re.search(r"::\n\n((?: {4}.*\n)+)", files.__doc__)[1]
    return textwrap.dedent(block).splitlines()


@needs("torch")
def test_the_recipe_moves_weights_from_pytorch_and_back(safetensors):
    import torch

    lines = recipe()
    assert len(lines) == 5 and len([line for line in lines if "mingrad." in line]) == 2

    def networks():
        return (
            torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)).double(),
            Sequential(Linear(2, 16), ReLU(), Linear(16, 1)),
        )

    def assert_alike(net, model):
        for _ in range(20):
            x = [random.uniform(-2, 2), random.uniform(-2, 2)]
            # 1e-12: both sum 16 products of float64, in an order of their own.
            wanted = net(torch.tensor(x, dtype=torch.float64)).item()
            helpers.assert_close_relative(model(x)[0].data, wanted, 1e-12, floor=1.0)

    class Here:  # mingrad.save and mingrad.load
        save, load = staticmethod(files.save), staticmethod(files.load)

    net, model = networks()
    namespace = {"mingrad": Here, "net": net, "model": model}
    for line in lines[:3]:
        exec(line, namespace)
    assert_alike(net, model)
    for p in model.parameters():
        p.data = random.uniform(-1, 1)
    for line in lines[3:]:
        exec(line, namespace)
    assert_alike(net, model)

    single = networks()[0].float()
    namespace.update(net=single)
    for line in lines[3:]:
        exec(line, namespace)
    wanted = [torch.tensor(p.data).float().item() for p in model.parameters()]
    got = [x for tensor in single.state_dict().values() for x in tensor.flatten().tolist()]
    assert got == wanted
    for line in lines[1:3]:  # float32 is widened exactly
        exec(line, namespace)
    assert [p.data for p in model.parameters()] == wanted
