"""What pytest needs to run these tests; no test and no helper is defined here.

It puts this folder on the import path (pytest's importlib mode does not), so that a test file can
write `import helpers`, it fails any test that leaves one of the core's test hooks away from its
default, and it lets several runs share the tests out.
"""

import gc
import sys
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mingrad import _core, engine

STRESS = _core._stress()
SIMD = _core._simd()


@pytest.fixture(autouse=True)
def hooks_are_left_at_their_defaults():
    yield
    stress, simd = _core._stress(), _core._simd()
    grad, triggered = engine.is_grad_enabled(), _core._fail_allocation(-1)
    _core._stress(*STRESS)
    _core._simd(SIMD)
    assert stress == STRESS, "the test left the tape's sizes changed: _core._stress"
    assert simd == SIMD, "the test left another instruction set chosen: _core._simd"
    assert not triggered, "the test left an allocation failure that it never looked at: _fail_allocation"
    assert grad, "the test left recording switched off"


@pytest.fixture(autouse=True, scope="module")
def what_is_there_already_is_not_collected_again():
    """Python's collector, which many tests call, need not look at all that was imported before a file's tests."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--share", metavar="K/N", help="run the Kth of N shares of the tests, K from 1 on")


def pytest_collection_modifyitems(config, items):
    if share := config.getoption("--share"):
        k, n = map(int, share.split("/"))
        if not 1 <= k <= n:
            raise pytest.UsageError(f"--share: expected K/N with 1 <= K <= N, got {share}")
        mine = [item for item in items if zlib.crc32(item.nodeid.encode()) % n == k - 1]
        config.hook.pytest_deselected(items=list(set(items).difference(mine)))
        items[:] = mine
