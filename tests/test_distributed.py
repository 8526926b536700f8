"""mingrad/distributed.py, and fit(comm=): several processes under a real MPI, beside one process alone.

The functions under "what the ranks do" run on every rank: this file is the program that mpiexec starts, with a function's
name, and each rank writes what the function returned into a file. The tests call the same functions alone and compare.
Skipped where mpi4py, an MPI library or mpiexec is missing. What can be, is tested in any case: with threads in the place of
processes, or without a second rank.
"""

import concurrent.futures
import doctest
import functools
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
from array import array

import pytest

import mingrad
from mingrad import Checkpoint, EarlyStopping, RecordingError, Variable, distributed, fit, nn, optim
from mingrad.distributed import RankError

HOME = str(pathlib.Path(mingrad.__file__).parent.parent)
SECONDS = 120  # for a run; a few are needed


class Rank:
    """What a communicator says of itself; nothing can be sent."""

    Alltoallv = None

    def __init__(self, rank=0, size=1):
        self.rank, self.size = rank, size

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size


ALONE = Rank()


class Thread(Rank):
    """What mingrad.distributed uses of a communicator, for ranks that are threads."""

    def __init__(self, rank, size, things, barrier):
        super().__init__(rank, size)
        self.things, self.barrier = things, barrier

    def allgather(self, thing):
        self.things[self.rank] = thing
        self.barrier.wait()
        found = list(self.things)
        self.barrier.wait()
        return found

    def bcast(self, thing):
        return self.allgather(thing)[0]

    def Bcast(self, values, root):
        values[:] = self.allgather(values[:])[root]

    def Allgather(self, mine, every):
        every[:] = sum(self.allgather(mine[:]), array("d"))

    def Allgatherv(self, mine, receive):
        every, (counts, starts) = receive
        for part, count, start in zip(self.allgather(mine[:]), counts, starts):
            every[start : start + count] = part

    def Alltoallv(self, send, receive):
        parts, (counts, starts) = receive
        for part, count, start in zip(self.allgather(send), counts, starts):
            mine, (theirs, at) = part
            assert theirs[self.rank] == count
            parts[start : start + count] = mine[at[self.rank] : at[self.rank] + count]


def on_threads(ranks, folder, function, *arguments):
    """What a function of this file returned, for each thread; the folder is for processes."""
    things, barrier = [None] * ranks, threading.Barrier(ranks, timeout=SECONDS)

    def one(rank):
        try:
            return function(Thread(rank, ranks, things, barrier), *arguments)
        except BaseException:
            barrier.abort()
            raise

    with concurrent.futures.ThreadPoolExecutor(ranks) as pool:
        answers = list(pool.map(one, range(ranks)))
    return json.loads(json.dumps(answers))


# -- what the ranks do ---------------------------------------------------------------------------------------------------------


def samples(count=23):
    """Inputs and targets of a small regression."""
    draw = random.Random(5).uniform
    X = [[draw(-1, 1), draw(-1, 1)] for _ in range(count)]
    return X, [math.sin(2 * a) - a * b for a, b in X]


def network(seed=3):
    random.seed(seed)
    return nn.MLP(2, [5, 1], activation="tanh")


def values(model):
    return [p.data for p in model.parameters()]


def hundred_steps(comm, kind):
    """Adam for 100 steps, in a loop by hand: the parameters, bit by bit. A last batch has 3 samples of 23."""
    X, y = samples()
    model = network(seed=comm.rank)
    distributed.broadcast_parameters(model.parameters(), comm)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    # the loss of one sample, compiled with the parameters as captured leaves
    one = mingrad.compile(lambda a, b, target: (model([a, b]) - target) ** 2)
    steps = epoch = 0
    while steps < 100:
        for indices in distributed.batches(len(X), 10, shuffle=1, epoch=epoch, comm=comm):
            optimizer.zero_grad()
            if indices and kind == "compiled":
                (sum(one(*X[i], y[i]) for i in indices) / len(indices)).backward()
            elif indices:
                nn.mse_loss(model([X[i] for i in indices]), [y[i] for i in indices]).backward()
            distributed.all_reduce_gradients(optimizer, comm, weight=len(indices))
            optimizer.step()
            steps += 1
        epoch += 1
    return values(model)


def many(rank):
    return [random.Random(f"{rank} {k}").uniform(-1, 1) for k in range(1001)]


def calls(comm, gathered):
    """What single calls give, by name. gathered: up to how many numbers there is one round of messages."""
    found, rank = {}, comm.rank
    distributed.GATHERED = gathered
    # an order of addition that shows: 1 is lost in 1e16, 3 is not
    found["order"] = distributed.all_reduce([1.0, 1e16, -1e16, 3.0][rank], comm)
    found["many"] = distributed.all_reduce(many(rank), comm)
    w = [Variable(float(rank)), Variable(10.0 * rank, requires_grad=False)]
    distributed.broadcast_parameters(w, comm, root=2)
    found["broadcast"] = [p.data for p in w]

    def gradients(numbers, *more, **settings):
        ps = [Variable(1.0) for _ in numbers]
        for p, number in zip(ps, numbers):
            p.grad = number
        distributed.all_reduce_gradients([ps[:1], *ps[1:]], comm, *more, **settings)
        return [p.grad for p in ps]

    found["mean"] = gradients([rank, 2.0])
    found["sum"] = gradients([rank, 2.0], "sum")
    found["weights"] = gradients([1.0, rank], weight=rank)
    found["nan with weight 0"] = gradients([math.nan if rank == 1 else 1.0], weight=rank != 1)
    found["nan"] = gradients([math.nan if rank == 1 else 1.0])
    frozen = Variable(1.0)
    frozen.grad, frozen.requires_grad = 5.0, False
    distributed.all_reduce_gradients([frozen, Variable(2.0)], comm)
    found["frozen"] = frozen.grad
    groups = optim.SGD([{"params": [Variable(1.0)]}, {"params": [Variable(2.0), Variable(3.0)], "lr": 1.0}], lr=0.5)
    for k, p in enumerate(p for group in groups.param_groups for p in group["params"]):
        p.grad = k + rank
    distributed.all_reduce_gradients(groups, comm, op="sum")
    found["parameter groups"] = [p.grad for group in groups.param_groups for p in group["params"]]

    X = [1.0, 2.0, 3.0]  # fewer than ranks
    mine, v = distributed.shard(X, comm), Variable(2.0)
    if mine:
        (sum((v * x - 1.0) ** 2 for x in mine) / len(mine)).backward()
    distributed.all_reduce_gradients([v], comm, weight=len(mine))
    found["shards"] = v.grad
    return found


def wrong_uses(comm):
    """What ranks that do not fit together are told, on each of them; and that they can go on afterwards."""
    rank, told = comm.rank, {}

    def use(name, call):
        try:
            call()
        except (RankError, TypeError, ValueError, RecordingError) as error:
            told[name] = f"{type(error).__name__}: {error}"
        else:
            told[name] = None

    w, more = Variable(1.0), Variable(2.0)
    odd = rank == 1
    use("another model", lambda: distributed.all_reduce_gradients([w, more] if odd else [w], comm))
    use("another model to broadcast", lambda: distributed.broadcast_parameters([w, more] if odd else [w], comm))
    use("other parameters", lambda: distributed.all_reduce_gradients([Variable(1.0 + 1e-15 * odd)], comm))
    use("another function", lambda: distributed.broadcast_parameters([w], comm) if odd else distributed.all_reduce(1.0, comm))
    use("another op", lambda: distributed.all_reduce_gradients([w], comm, "sum" if odd else "mean"))
    use("another root", lambda: distributed.broadcast_parameters([w], comm, root=rank))
    use("no such root", lambda: distributed.broadcast_parameters([w], comm, root=3))
    use("other counts", lambda: distributed.all_reduce([1.0] * (1 + odd), comm))
    use("a mistake on one", lambda: distributed.all_reduce_gradients([w, w] if odd else [w], comm))
    use("no leaf", lambda: distributed.all_reduce_gradients([w * 2] if odd else [w], comm))
    use("no Variable", lambda: distributed.all_reduce_gradients([1.0] if odd else [w], comm))
    use("no parameter", lambda: distributed.broadcast_parameters([], comm))
    use("no weight", lambda: distributed.all_reduce_gradients([w], comm, weight=0))
    use("a negative weight", lambda: distributed.all_reduce_gradients([w], comm, weight=-1 if odd else 1))
    use("a weight for a sum", lambda: distributed.all_reduce_gradients([w], comm, op="sum", weight=2))
    use("no such op", lambda: distributed.all_reduce_gradients([w], comm, op="max"))
    use("no number", lambda: distributed.all_reduce("1.5" if odd else 1.5, comm))
    use("nothing wrong", lambda: distributed.all_reduce_gradients([w], comm))
    return told


def fitted(comm, kind, folder="", resume=False, kill=0):
    """fit() with all that it knows: the parameters and the history but for the seconds."""
    X, y = samples()
    random.seed(comm.rank)
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Dropout(0.25 if kind == "dropout" else 0.0), nn.Linear(6, 1))
    parameters = model.parameters()
    optimizer = optim.LBFGS(parameters, max_iter=3) if kind == "lbfgs" else optim.Adam(parameters, lr=0.03)

    class Clip:
        def on_backward(self, state):
            optim.clip_grad_norm_(state.parameters(), 0.5)

        def on_batch_end(self, state):
            if kill and state.epoch == kill and state.batch == 2 and state.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    callbacks = [Clip(), EarlyStopping(patience=50)] if kind != "lbfgs" else []
    if folder:
        callbacks.append(Checkpoint(os.path.join(folder, "run.npz")))
    history = fit(
        model, (X, [[target] for target in y]), loss=nn.mse_loss, optimizer=optimizer, epochs=4 if kind == "lbfgs" else 34,
        batch_size=23 if kind == "lbfgs" else 9, shuffle=2, callbacks=callbacks, validation=([[0.5, 0.5]], [[0.3]]),
        metrics={"size": lambda outputs, _: abs(outputs[0][0])}, scheduler=optim.ReduceLROnPlateau(optimizer, patience=2),
        resume=os.path.join(folder, "run.npz") if resume else None, comm=None if comm is ALONE else comm,
    )  # fmt: skip
    history.pop("seconds")
    return values(model), dict(history)


def fits_that_fail(comm):
    """What fit() raises, on each rank, where one of them fails; and how a training stops that one of them stops."""
    rank, told = comm.rank, {}

    def training(name, X=(1.0, 2.0, 3.0, 4.0), epochs=3, callbacks=(), loss=nn.mse_loss, **more):
        w = Variable(1.0)
        try:
            history = fit(
                lambda xs: [w * x for x in xs], (list(X), [1.0] * len(X)), loss=loss, optimizer=optim.SGD([w], lr=0.1),
                epochs=epochs, batch_size=4, callbacks=callbacks, comm=comm, **more,
            )  # fmt: skip
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}", w.data
        else:
            told[name] = history["epoch"], w.data

    def breaks(state):
        if state.rank == 1 and state.epoch == 2:
            raise KeyError("on rank 1")

    training("nan", [1.0, math.nan, 3.0, 4.0])
    training("a callback", callbacks=[breaks])
    training("a loss", loss=lambda a, b: 1.0 if rank == 1 else nn.mse_loss(a, b))
    training("other data", [1.0, 2.0, 3.0, 4.0 + rank])
    training("other lengths", [1.0] * (4 + rank))
    training("other epochs", epochs=3 + rank)
    training("arguments", progress="yes" if rank == 1 else None)
    training("resume", resume="no such file.npz")
    training("a callback on one rank stops", epochs=9, callbacks=[lambda state: state.epoch == 2] if rank == 1 else [])
    training("nothing")
    return told


def runs(comm, kind):
    """Ends of `with run()`."""
    with distributed.run() as world:
        assert (world.rank, world.size) == (comm.rank, comm.size)
        w = Variable(1.0)
        for step in range(5):
            if kind == "exception" and world.rank == 1 and step == 3:
                raise ValueError("of rank 1")
            if kind == "exit" and world.rank == 1 and step == 3:
                sys.exit(7)
            if kind == "killed" and world.rank == 1 and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "fewer steps" and world.rank == 1 and step == 3:
                break
            distributed.all_reduce_gradients([w])
        if kind == "exit with 0":
            sys.exit(0)


def cards(comm, compiled):
    from mingrad.examples import fsrs

    histories = fsrs.simulate(900, seed=3)[0]
    train = fsrs.train_compiled if compiled else fsrs.train
    return train(histories, epochs=2, batch=7, comm=None if comm is ALONE else comm)


def docstrings(comm):
    """How many examples of the module are wrong, and how many there are."""
    return list(doctest.testmod(distributed))


# -- starting them -------------------------------------------------------------------------------------------------------------


@functools.cache
def mpiexec():
    """The command that starts ranks, of this Python's environment if it has one; skips if there is none that works."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    if sys.platform == "win32":
        pytest.skip("nobody has tried these tests with an MPI for Windows")
    here = os.path.dirname(sys.executable)
    found = shutil.which("mpiexec", path=here) or shutil.which("mpiexec")
    if found is None:
        pytest.skip("mpiexec is not here: python -m pip install mpich")
    done = start(found, 1, "-c", "from mpi4py import MPI")
    if done.returncode:
        pytest.skip(f"MPI does not work here: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return found


def start(command, ranks, *arguments, folder=None):
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(filter(None, [HOME, os.environ.get("PYTHONPATH")])),
        # Open MPI refuses to run as root and to start more ranks than there are cores
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe",
    )
    return subprocess.run(
        [command, "-n", str(ranks), sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
    )


def on_ranks(ranks, folder, function, *arguments):
    """What a function of this file returned, on each rank."""
    done = start(mpiexec(), ranks, "-m", "mpi4py", __file__, function.__name__, json.dumps(arguments), folder=folder)
    assert done.returncode == 0, done.stderr
    answers = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return answers


def main(name, arguments):
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    answer = globals()[name](comm, *json.loads(arguments))
    pathlib.Path(f"{comm.rank}.json").write_text(json.dumps(answer))


def assert_close(found, expected, bound=1e-12):
    """Numbers in nests of lists and dicts, relative to the largest of their list."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_close(found[name], expected[name], bound)
    elif any(isinstance(x, (list, tuple, dict)) for x in expected):
        assert len(found) == len(expected)
        for x, y in zip(found, expected):
            assert_close(x, y, bound)
    else:
        assert found == pytest.approx(expected, rel=bound, abs=bound * max(map(abs, expected)))


@pytest.fixture(scope="module", params=[on_threads, on_ranks], ids=["threads", "processes"])
def means(request):
    return request.param


# -- training ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eager", "compiled"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_hundred_steps_end_with_the_same_bits_on_all_ranks_and_as_alone(ranks, kind, tmp_path):
    found = on_ranks(ranks, tmp_path, hundred_steps, kind)
    assert all(one == found[0] for one in found)
    alone = hundred_steps(ALONE, kind)
    assert found[0] == alone if ranks == 1 else found[0] != alone  # the sums are rounded elsewhere
    assert_close(found[0], alone)


@pytest.mark.parametrize("ranks, kind", [(1, "adam"), (2, "adam"), (4, "adam"), (2, "lbfgs")])
def test_fit_is_the_same_on_all_ranks_and_as_alone(ranks, kind, tmp_path):
    found = on_ranks(ranks, tmp_path, fitted, kind)
    assert all(one == found[0] for one in found)
    alone = json.loads(json.dumps(fitted(ALONE, kind)))
    assert len(alone[1]["epoch"]) == (4 if kind == "lbfgs" else 34)  # of 3 batches
    if ranks == 1:
        assert found[0] == alone
    # L-BFGS divides by differences of gradients
    assert_close(found[0], alone, 1e-9 if kind == "lbfgs" else 1e-12)


def test_a_training_goes_on_behind_a_killed_rank_as_if_nothing_had_been(tmp_path):
    undisturbed = on_ranks(2, tmp_path, fitted, "dropout", str(tmp_path))
    assert undisturbed[0] == undisturbed[1]
    (tmp_path / "run.npz").unlink()
    done = start(
        mpiexec(), 2, "-m", "mpi4py", __file__, "fitted", json.dumps(["dropout", str(tmp_path), False, 9]), folder=tmp_path
    )
    assert done.returncode != 0
    assert "killed" in (done.stdout + done.stderr).lower()
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "run.npz", tmp_path / "alone")
    assert on_ranks(2, tmp_path, fitted, "dropout", str(tmp_path), True) == undisturbed
    # one process alone goes on from it too, with other random numbers
    _, history = fitted(ALONE, "dropout", str(tmp_path / "alone"), True)
    assert history["loss"][:8] == undisturbed[0][1]["loss"][:8]
    assert history["epoch"] == list(range(1, 35)) and history["loss"] != undisturbed[0][1]["loss"]


def test_a_failure_of_one_rank_ends_fit_on_all(means, tmp_path):
    told = means(3, tmp_path, fits_that_fail)
    for name, kind, text in (
        ("nan", "FloatingPointError", "expected a finite loss, got nan in epoch 1"),
        ("a callback", "KeyError", "'on rank 1'"),
        ("a loss", "TypeError", "expected the loss to be one Variable, got 1.0"),
        ("arguments", "TypeError", "expected progress to be True, False or None, got 'yes'"),
    ):
        own = [what[name][0].startswith(f"{kind}: ") for what in told]
        assert own == [False, True, False], told
        for what in told:
            assert text in what[name][0]
        assert told[0][name][0].startswith(f"RankError: rank 1 of 3 has failed, so no rank goes on: {kind}: ")
    assert len({what["a callback"][1] for what in told}) == 1  # the parameters
    assert told[0]["nan"][1] == told[1]["nan"][1] == 1.0  # no step was taken
    assert told[0]["resume"][0].startswith("FileNotFoundError: ")
    assert told[1]["resume"][0].startswith("RankError: rank 0 of 3 has failed, so no rank goes on: FileNotFoundError: ")
    for what in told:
        assert what["other data"][0].startswith("RankError: fit: expected the same data on every rank, got ")
        assert what["other data"][0].endswith(" (a checksum). Give each rank all of the data: fit takes its part of each batch")
        assert what["other lengths"][0] == (
            "RankError: fit: expected the same samples on every rank, got 4 on rank 0; 5 on rank 1; 6 on rank 2"
        )
        assert what["other epochs"][0].startswith("RankError: fit: expected the same epochs on every rank, got 3 on rank 0; ")
        assert what["a callback on one rank stops"][0] == [1, 2]
        assert what["nothing"] == told[0]["nothing"] and what["nothing"][0] == [1, 2, 3]


# -- calls ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[distributed.GATHERED, 0], ids=["one round", "two rounds"])
def called(request, means, tmp_path_factory):
    before = distributed.GATHERED
    yield means(4, tmp_path_factory.mktemp("calls"), calls, request.param)
    distributed.GATHERED = before


@pytest.mark.parametrize(
    "name, expected",
    [
        ("order", 3.0),  # from left to right
        ("many", [((a + b) + c) + d for a, b, c, d in zip(*map(many, range(4)))]),
        ("broadcast", [2.0, 20.0]),
        ("mean", [1.5, 2.0]),
        ("sum", [6.0, 8.0]),
        ("weights", [1.0, 14 / 6]),
        ("nan with weight 0", [1.0]),
        ("nan", [math.nan]),
        ("frozen", 5.0),
        ("parameter groups", [6.0, 10.0, 14.0]),
        ("shards", 44 / 3),
    ],
)
def test_a_call_gives_all_ranks_the_same_right_numbers(called, name, expected):
    for rank in called:
        assert rank[name] == pytest.approx(expected, rel=1e-15, nan_ok=True)
        assert repr(rank[name]) == repr(called[0][name])


@pytest.fixture(scope="module")
def told(means, tmp_path_factory):
    return means(3, tmp_path_factory.mktemp("told"), wrong_uses)


FAILED = "RankError: rank 1 of 3 has failed, so no rank goes on: "


@pytest.mark.parametrize(
    "name, everywhere",
    [
        (
            "another model",
            (
                "RankError: all_reduce_gradients(op='mean'): expected as many parameters, of the same model, on every rank, "
                "got 1 on rank 0, 2; 2 on rank 1"
            ),
        ),
        (
            "another model to broadcast",
            (
                "RankError: broadcast_parameters(): expected as many parameters, of the same model, on every rank, got 1 on "
                "rank 0, 2; 2 on rank 1"
            ),
        ),
        (
            "other parameters",
            (
                "RankError: all_reduce_gradients(op='mean'): expected the same parameters on every rank, but those of rank 1 are "
                "not those of rank 0. Call broadcast_parameters() before the first step, and make every step on all ranks"
            ),
        ),
        (
            "another function",
            (
                "RankError: expected all ranks to make the same calls, as often; ranks are in all_reduce() on rank 0, 2; in "
                "broadcast_parameters() on rank 1. Steps must be as many on every rank: batches() gives each as many parts, "
                "though some may be empty"
            ),
        ),
        (
            "another op",
            (
                "RankError: expected all ranks to make the same calls, as often; ranks are in all_reduce_gradients(op='mean') on "
                "rank 0, 2; in all_reduce_gradients(op='sum') on rank 1. Steps must be as many on every rank: batches() gives "
                "each as many parts, though some may be empty"
            ),
        ),
        (
            "another root",
            (
                "RankError: broadcast_parameters(): expected the same root on every rank, got 0 on rank 0; 1 on rank 1; 2 on "
                "rank 2"
            ),
        ),
        ("no such root", "ValueError: broadcast_parameters: expected root to be a rank, below 3, got 3"),
        ("other counts", "RankError: all_reduce(): expected as many numbers on every rank, got 1 on rank 0, 2; 2 on rank 1"),
        (
            "no parameter",
            "ValueError: broadcast_parameters: expected at least one parameter, got none; was a generator used before?",
        ),
        ("no weight", "RankError: all_reduce_gradients: expected a weight above 0 on one rank at least, got 0 on all"),
        (
            "a weight for a sum",
            "ValueError: all_reduce_gradients: expected no weight with op='sum', which counts each rank once, got 2.0",
        ),
        ("no such op", "ValueError: all_reduce_gradients: op: expected 'mean' or 'sum', got 'max'"),
        ("nothing wrong", None),
    ],
)
def test_ranks_that_do_not_fit_together_are_told_so_on_each_of_them(told, name, everywhere):
    assert [rank[name] for rank in told] == [everywhere] * 3


@pytest.mark.parametrize(
    "name, text",
    [
        (
            "a mistake on one",
            "ValueError: all_reduce_gradients: expected each parameter once, got 2 of which some are the same",
        ),
        (
            "no leaf",
            (
                "ValueError: all_reduce_gradients: parameter 0, Variable(data=2.0, grad=0.0), is the result of '*'; expected "
                "leaves"
            ),
        ),
        (
            "no Variable",
            (
                "TypeError: all_reduce_gradients: expected Variables, or sequences of them, got float; make it one with "
                "mingrad.Variable(number)"
            ),
        ),
        ("a negative weight", "ValueError: all_reduce_gradients: weight: expected a finite number not below 0, got -1"),
        ("no number", "TypeError: all_reduce: expected a number or a sequence of numbers, got str"),
    ],
)
def test_a_mistake_on_one_rank_is_told_to_the_others(told, name, text):
    assert [rank[name] for rank in told] == [FAILED + text, text, FAILED + text]


# -- run() ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, status, texts",
    [
        ("exception", 1, ["rank 1 of 3 ends the run:\nTraceback", "ValueError: of rank 1\n"]),
        ("exit", 7, ["rank 1 of 3 ends the run:\nTraceback", "SystemExit: 7\n"]),
        ("exit with 0", 0, []),
        ("killed", None, ["illed"]),
        (
            "fewer steps",
            1,
            ["in all_reduce_gradients(op='mean') on rank 0, 2; at the end of run() on rank 1. Steps must be as many "],
        ),
        ("nothing", 0, []),
    ],
)
def test_run_ends_all_ranks(kind, status, texts, tmp_path):
    done = start(mpiexec(), 3, __file__, "runs", json.dumps([kind]), folder=tmp_path)
    assert done.returncode == status if status is not None else done.returncode != 0
    for text in texts:
        assert text in done.stdout + done.stderr
    assert bool(done.stderr) == bool(status) or kind == "killed"


def test_run_alone_lets_exceptions_pass():
    with pytest.raises(KeyError, match="mine"), distributed.run(ALONE) as comm:
        assert comm is ALONE
        raise KeyError("mine")
    with pytest.raises(SystemExit), distributed.run(ALONE):
        sys.exit(0)


def test_the_examples_in_docstrings_are_right(tmp_path):
    ((failed, tried),) = on_ranks(1, tmp_path, docstrings)
    assert failed == 0 and tried > 15


# -- without a second process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 11])
def test_shards_are_the_whole_in_order_and_of_like_lengths(count, size):
    parts = [distributed.shard(list(range(count)), Rank(rank, size)) for rank in range(size)]
    assert sum(parts, []) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("shuffle", [None, 0, -3])
def test_batches_of_all_ranks_together_are_those_of_one(shuffle, size):
    whole = list(distributed.batches(23, 10, shuffle=shuffle, epoch=2, comm=ALONE))
    parts = [list(distributed.batches(23, 10, shuffle=shuffle, epoch=2, comm=Rank(rank, size))) for rank in range(size)]
    assert [sum(batch, []) for batch in zip(*parts, strict=True)] == whole
    assert list(map(len, whole)) == [10, 10, 3]
    assert sorted(sum(whole, [])) == list(range(23))


def test_the_order_is_of_the_seed_and_the_epoch_alone():
    def order(shuffle, epoch):
        return sum(distributed.batches(23, 10, shuffle=shuffle, epoch=epoch, comm=ALONE), [])

    random.seed(1)
    before = random.getstate()
    assert order(None, 0) == order(None, 1) == list(range(23))
    assert len({tuple(order(shuffle, epoch)) for shuffle in range(3) for epoch in range(3)}) == 9
    assert order(1, 2) == order(1, 2)
    assert order(1, 1)[:6] == [15, 20, 16, 6, 4, 10]  # on every Python and every machine
    assert random.getstate() == before


@pytest.mark.parametrize(
    "call, kind, text",
    [
        (lambda: distributed.shard([1], comm="world"), TypeError, "expected comm to be a communicator of mpi4py, such as "),
        (lambda: fit(abs, [], loss=abs, optimizer=None, comm=0), TypeError, "such as mpi4py.MPI.COMM_WORLD, got int"),
        (lambda: distributed.batches(-1, 1), ValueError, "batches: samples: expected an int not below 0, got -1"),
        (lambda: distributed.batches(1, 0), ValueError, "batches: batch_size: expected an int not below 1, got 0"),
        (lambda: distributed.batches(1, 1, epoch=-1), ValueError, "batches: epoch: expected an int not below 0, got -1"),
        (lambda: distributed.batches(1, 1, shuffle=True), TypeError, "batches: shuffle: expected an int, got True"),
        (lambda: distributed.all_reduce({}, ALONE), TypeError, "expected a number or a sequence of numbers, got dict"),
        (lambda: distributed.all_reduce(None, ALONE), TypeError, "expected a number or a sequence of numbers, got NoneType"),
    ],
)
def test_wrong_arguments_are_refused(call, kind, text):
    with pytest.raises(kind) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize("missing", ["mpi4py", "mpi4py.MPI"])
def test_without_mpi_the_error_says_what_to_install(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as caught:
        distributed.all_reduce(1.0)
    assert "needs mpi4py and an MPI, which most clusters have: python -m pip install 'mingrad[mpi]' mpich" in str(caught.value)


# -- examples ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_fsrs_on_ranks_is_the_same_on_all_and_as_alone(compiled, tmp_path):
    pytest.importorskip("fsrs", reason="fsrs is not installed")
    found = on_ranks(3, tmp_path, cards, compiled)
    assert found[0] == found[1] == found[2]
    # some hundred steps of Adam, which divides a gradient's rounding errors by its size; some 1e-13 is seen
    for mine, expected in zip(found[0], cards(ALONE, compiled)):
        assert mine == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "command, needed, status",
    [
        (["mingrad.examples.digits", "--epochs", "1"], "sklearn", 1),  # 96 % are not reached in one epoch
        (["mingrad.examples.fsrs", "--reviews", "1500", "--epochs", "2", "--seed", "4", "--compiled"], "fsrs", 0),
    ],
    ids=["digits", "fsrs"],
)
def test_the_examples_run_on_ranks_and_print_once(command, needed, status, tmp_path):
    pytest.importorskip(needed, reason=f"{needed} is not installed")
    done = start(mpiexec(), 2, "-m", *command, "--distributed", folder=tmp_path)
    assert done.returncode == status, done.stderr
    assert done.stdout.count("\nepoch  1/") == 1
    if needed == "fsrs":
        alone = start(mpiexec(), 1, "-m", *command, folder=tmp_path)
        assert done.stdout.rsplit(" in ")[0] == alone.stdout.rsplit(" in ")[0]
    else:
        assert done.stderr.count("digits: expected at least 96%") == 1


if __name__ == "__main__":
    main(*sys.argv[1:])
