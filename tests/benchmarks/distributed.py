"""Training on 1, 2 and 4 processes of this machine: an epoch's wall time, and what of it is spent in MPI.

The digits and FSRS examples by mingrad.distributed, each rank a process that mpiexec starts: this file is its program too.
A rank's time in MPI includes its waiting for the slowest. All ranks are on one machine, so what is measured is its memory
and its scheduler, not a network; with more ranks than cores they take turns, and an epoch cannot get shorter. Other work on
the machine makes every message wait, so a figure is the median epoch of the best of 5 runs.
"""

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from timing import HERE

RANKS = (1, 2, 4)


class Counted:
    """A communicator that adds up the time spent in it and the bytes that each rank receives, its own included."""

    def __init__(self, comm):
        self._comm, self.seconds, self.bytes = comm, 0.0, 0
        self.rank, self.size = comm.rank, comm.size

    def __getattr__(self, name):
        call = getattr(self._comm, name)

        def timed(*arguments):
            begun = time.perf_counter()
            answer = call(*arguments)
            self.seconds += time.perf_counter() - begun
            if name == "Allgather":
                self.bytes += len(arguments[1]) * arguments[1].itemsize
            return answer

        return timed


def digits(batch_size):
    def train(comm, epochs, done):
        import random

        from mingrad import fit, nn, optim
        from mingrad.examples import digits as example

        X, y = example.load()
        X, y = X[:1437], y[:1437]
        random.seed(1)
        model = nn.Sequential(nn.Linear(64, example.HIDDEN), nn.ReLU(), nn.Linear(example.HIDDEN, 10))
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        fit(
            model,
            (X, y),
            loss=nn.cross_entropy,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=1,
            callbacks=[lambda state: done()],
            comm=comm,
        )
        return [p.data for p in model.parameters()], -(-len(X) // batch_size)

    return train


def fsrs(name):
    def train(comm, epochs, done):
        from mingrad.examples import fsrs as example

        histories, _ = example.simulate()
        trained = getattr(example, name)(histories, epochs, comm=comm, report=lambda *_: done())
        return trained.parameters, len(trained.batches) // epochs

    return train


CASES = {
    "digits, batches of 32": (digits(32), 20),
    "digits, batches of 512": (digits(512), 20),
    "fsrs": (fsrs("train"), 5),
    "fsrs, compiled": (fsrs("train_compiled"), 20),
}


def rank(case, epochs):
    """What one rank does; rank 0 prints what came out."""
    from mingrad import distributed

    with distributed.run() as comm:
        counted = Counted(comm)
        marks = []
        numbers, steps = CASES[case][0](
            counted, epochs, lambda: marks.append((time.perf_counter(), counted.seconds, counted.bytes))
        )
        if comm.rank == 0:
            each = [[after - before for before, after in zip(*pair)] for pair in itertools.pairwise(marks)]
            wall, seconds, size = (statistics.median(column) for column in zip(*each))
            print(json.dumps(dict(wall=wall, share=seconds / wall, bytes=size / steps, numbers=numbers)))


def start(command, ranks, case, epochs):
    environment = dict(
        os.environ,
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe",
    )
    program = [sys.executable, os.path.join(HERE, "distributed.py"), case, str(epochs)]
    done = subprocess.run([command, "-n", str(ranks), *program], env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{case} on {ranks} ranks: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def named(ranks):
    return "1 rank" if ranks == 1 else f"{ranks} ranks"


def measure(bench):
    command = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError):
        command = None
    if command is None:
        bench.note("skipped: it needs MPI: python -m pip install 'mingrad[mpi]' mpich")
        return
    for case, (_, epochs) in CASES.items():
        found = {ranks: [] for ranks in RANKS}
        for _ in range(1 if bench.quick else 5):  # 1 2 4 1 2 4
            for ranks, answers in found.items():
                answers.append(start(command, ranks, case, 3 if bench.quick else epochs))
        best = {ranks: min(answers, key=lambda answer: answer["wall"]) for ranks, answers in found.items()}
        for ranks, answer in best.items():
            more = dict(wall=answer["wall"], ratio=answer["wall"] / best[1]["wall"])
            bench.row(f"{case}: an epoch (wall time)", named(ranks), answer["wall"], "s", **more)
        for ranks in RANKS[1:]:
            bench.row(f"{case}: share of time in MPI", named(ranks), 100 * best[ranks]["share"], "%")
        for ranks in RANKS[1:]:
            bench.row(f"{case}: a step's messages, received", named(ranks), best[ranks]["bytes"], "bytes")
        bench.agree(f"{case}: parameters", {str(ranks): answer["numbers"] for ranks, answer in best.items()}, 1e-9)


if __name__ == "__main__":
    rank(sys.argv[1], int(sys.argv[2]))
