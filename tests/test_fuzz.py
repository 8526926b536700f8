"""The fuzzer of the loaders (fuzz.py) in small: its corpus, and that it finds errors which are planted.

A file named found-... in the corpus was a finding once.
"""

import pytest

import fuzz
from mingrad import files, training

pytest.importorskip("numpy", reason="a program of the corpus has arrays")
CORPUS = sorted(fuzz.CORPUS.iterdir())


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_a_file_of_the_corpus_is_loaded_or_refused(path):
    kind = fuzz.kind_of(path)
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    loaded = fuzz.attempt(kind, path.read_bytes())
    assert loaded or path.name.startswith("found-") or kind == "state"


def test_the_corpus_is_small_and_has_each_kind():
    assert {fuzz.kind_of(path) for path in CORPUS} == set(fuzz.KINDS)
    assert sum(path.stat().st_size for path in CORPUS) < 200_000


def test_changes_of_a_seed_are_the_same_each_time():
    data = (fuzz.CORPUS / "mingrad.npz").read_bytes()
    made = [[fuzz.changed("npz", data, fuzz.random.Random(seed)) for seed in range(20)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 10


# What a loader must look at, left out: (kind, module, name, what stands in its place)
PLANTED = {
    "a tensor's size": ("npz", files._Stored, "numbers", lambda self: self._doubles(self.read()[:-8])),
    "texts of metadata": ("npz", files, "_strings", lambda metadata: metadata),
    "parts of a checkpoint": ("checkpoint", training, "_check", lambda kept, count: None),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_check_that_is_left_out_is_found(what, monkeypatch):
    kind, module, name, instead = PLANTED[what]
    monkeypatch.setattr(module, name, instead)
    with pytest.raises((fuzz.Finding, ValueError, TypeError)):
        fuzz.search_alone(kind, 300.0, 1)  # seconds: it takes a few
