"""Training on several processes, on one machine or many: a thin layer over MPI, by the package mpi4py.

Every process ("rank") runs the same script, has the same parameters and works on its part of each batch; the gradients of
all are added up, and every rank takes the same step. There is no server, and nothing here looks at the network: starting
the processes and ending them all when one dies is mpiexec's work. mingrad.fit does it with ``comm=``.

    mpiexec -n 4 python train.py

How the numbers come out: sums are taken in the order of the ranks, each on one rank or in the same way on all, never by
MPI's own reduction, which promises neither an order nor the same bits everywhere. So all ranks have the same bits, twice
the same run gives them twice, and what differs from a single process is the rounding of sums.

Every call is one of all ranks, and begins with a meeting (_Ranks.meet): a few numbers of each rank go to all, and if they
do not fit together, or a rank has failed, all raise. Only then do data travel.
"""

import contextlib
import itertools
import random
import sys
import traceback
import zlib
from array import array

from . import _core, optim
from .optim._arguments import choice, whole

__all__ = ["RankError", "all_reduce", "all_reduce_gradients", "batches", "broadcast_parameters", "run", "shard"]


class RankError(RuntimeError):
    """What all ranks raise together: they do not fit together, or one of them has failed.

    As all of them do, none waits for another, and a program may catch it and go on, on all of them.

    >>> from mingrad.distributed import RankError
    >>> issubclass(RankError, RuntimeError)
    True
    """


@contextlib.contextmanager
def run(comm=None):
    """``with run() as comm:`` around a script: an exception on one rank ends them all, instead of leaving them waiting.

    comm: an mpi4py communicator; None: all processes that mpiexec has started, or this one alone. An exception is printed
    with its rank, and then mpiexec is told to end the run; its exit status is that of sys.exit(), else 1. A process that
    is killed from outside ends the run without this. At the end every rank waits for the others, so that one which has made
    fewer steps is an error too.

    Raises ImportError if mpi4py or an MPI library is missing; it says what to install.

    >>> from mingrad import distributed
    >>> with distributed.run() as comm:  # started without mpiexec
    ...     print(comm.rank, comm.size)
    0 1
    """
    ranks = _Ranks(_world() if comm is None else comm)
    try:
        try:
            yield ranks.comm
        except SystemExit as error:
            if error.code:
                raise
            ranks.meet("at the end of run()")
            raise
        ranks.meet("at the end of run()")
    except BaseException as error:
        if ranks.size == 1 or (isinstance(error, SystemExit) and not error.code):
            raise
        status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        sys.stdout.flush()
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        print(f"rank {ranks.rank} of {ranks.size} ends the run:\n{text}", file=sys.stderr, end="", flush=True)
        ranks.comm.Abort(status)


def broadcast_parameters(params, comm=None, root=0):
    """Give the parameters of all ranks the values they have on rank root.

    params: Variables, or sequences of them, as for mingrad.optim; or an optimizer, whose parameters are meant. On every
    rank as many, in the same order. Gradients, and what an optimizer keeps, stay as they are. comm: as for run().

    Raises TypeError or ValueError for what are no leaves, each there once, and RankError if the ranks do not fit together;
    then nothing has changed.

    >>> from mingrad import Variable, distributed
    >>> w = Variable(2.0)
    >>> distributed.broadcast_parameters([w])  # on every rank 2.0, or what rank 0 has
    >>> w.data
    2.0
    """
    ranks = _Ranks(_world() if comm is None else comm)
    with ranks.told():
        groups = _groups(params, "broadcast_parameters")
        root = whole(root, "broadcast_parameters: root", 0)
        if root >= ranks.size:
            raise ValueError(f"broadcast_parameters: expected root to be a rank, below {ranks.size}, got {root}")
    ranks.broadcast(groups, root)


def all_reduce_gradients(params, comm=None, op="mean", weight=1):
    """Replace every gradient by its mean or sum over all ranks, by way of one buffer; the same bits everywhere.

    params: as for broadcast_parameters(); an optimizer costs less, as it knows its parameters already. op: "mean", for
    losses that are a mean over samples, or "sum", for those that are a sum. weight: how much this rank counts in a mean:
    the number of samples that its loss is a mean of. So unequal parts give what a single process gets from all samples
    together. The gradients of a rank with weight 0 are not looked at: call this there too, without a backward pass.
    comm: as for run().

    Raises what broadcast_parameters() raises, and RankError if parameters are not the same on all ranks: they were made
    differently and not broadcast, or a rank has made a step of its own. Then no gradient has changed.

    >>> from mingrad import Variable, distributed
    >>> w = Variable(2.0)
    >>> samples = [1.0, 2.0, 3.0]
    >>> mine = distributed.shard(samples)
    >>> (sum((w * x - 1.0) ** 2 for x in mine) / len(mine)).backward()  # 0 samples on a rank: none
    >>> distributed.all_reduce_gradients([w], weight=len(mine))
    >>> round(w.grad, 12)  # whatever the number of ranks
    14.666666666667
    """
    ranks = _Ranks(_world() if comm is None else comm)
    with ranks.told():
        groups = _groups(params, "all_reduce_gradients")
        choice(op, "all_reduce_gradients: op", "mean", "sum")
        weight = _core._number(weight, "all_reduce_gradients: weight", 0.0, float("inf"))
        if op == "sum" and weight != 1.0:
            raise ValueError(
                f"all_reduce_gradients: expected no weight with op='sum', which counts each rank once, got {weight}"
            )
    ranks.reduce(groups, op, weight)


def all_reduce(numbers, comm=None):
    """The sum over all ranks of a number, as a float, or of each of a sequence's numbers, as a list of floats.

    For losses and counts. On every rank as many numbers; a Variable counts as its value. The same bits everywhere. comm:
    as for run(). Raises TypeError for what is no number, RankError if the ranks do not fit together.

    >>> from mingrad import distributed
    >>> distributed.all_reduce(0.5), distributed.all_reduce([1, 2])
    (0.5, [1.0, 2.0])
    """
    ranks = _Ranks(_world() if comm is None else comm)
    with ranks.told():
        single = not hasattr(numbers, "__len__")
        try:
            if isinstance(numbers, (dict, set, frozenset)):
                raise TypeError
            mine = array("d", [getattr(x, "data", x) for x in ([numbers] if single else numbers)])
        except TypeError:
            got = type(numbers).__name__
            raise TypeError(f"all_reduce: expected a number or a sequence of numbers, got {got}") from None
    ranks.meet("in all_reduce()", len(mine), counted="numbers")
    total = ranks.add(mine).tolist()
    return total[0] if single else total


def shard(data, comm=None):
    """This rank's part of a sequence: a slice of it, in the order of the ranks, at most one longer than another's.

    data: a list, an array or whatever has len() and slices, the same on every rank. Where it is shorter than there are
    ranks, some parts are empty. comm: as for run().

    >>> from mingrad import distributed
    >>> distributed.shard(range(10))  # on rank 1 of 4: range(2, 5)
    range(0, 10)
    """
    ranks = _Ranks(_world() if comm is None else comm)
    return ranks.part(data)


def batches(samples, batch_size, *, shuffle=None, epoch=0, comm=None):
    """This rank's part of each batch of an epoch: lists of indices.

    samples: how many there are on all ranks together. batch_size: of a batch, all ranks together. shuffle: None, the data's
    order, or an int: with the epoch's number it is the seed of the order, so that any epoch can be taken up again.
    comm: as for run(). Every rank gets as many lists, and together they are all samples, each once; a list is empty where
    a last batch has fewer samples than there are ranks.

    >>> from mingrad import distributed
    >>> list(distributed.batches(5, 2))
    [[0, 1], [2, 3], [4]]
    >>> sorted(sum(distributed.batches(5, 2, shuffle=1, epoch=3), []))
    [0, 1, 2, 3, 4]
    """
    samples = whole(samples, "batches: samples", 0)
    batch_size = whole(batch_size, "batches: batch_size")
    epoch = whole(epoch, "batches: epoch", 0)
    order = list(range(samples))
    if shuffle is not None:
        draw = random.Random(f"{whole(shuffle, 'batches: shuffle', -sys.maxsize)} {epoch}").random
        keys = [draw() for _ in order]
        order.sort(key=keys.__getitem__)
    part = _Ranks(_world() if comm is None else comm).part
    return (part(order[first : first + batch_size]) for first in range(0, samples, batch_size))


# -- the ranks -----------------------------------------------------------------------------------------------------------------

FAILED = "failed"
# What a rank can be doing when ranks meet; its number here is what travels.
DOING = (
    FAILED,
    "at the end of run()",
    "in broadcast_parameters()",
    "in all_reduce_gradients(op='mean')",
    "in all_reduce_gradients(op='sum')",
    "in all_reduce()",
    "at the beginning of fit()",
    "at the end of an epoch of fit()",
    "at the end of fit()",
)
GATHERED = 1 << 17  # doubles of all ranks together, up to which each rank adds up all of them


class _Ranks:
    """The processes of a communicator, of which this is one. None: this one alone, which never waits."""

    def __init__(self, comm):
        if comm is not None and not hasattr(comm, "Alltoallv"):
            got = type(comm).__name__
            raise TypeError(f"expected comm to be a communicator of mpi4py, such as mpi4py.MPI.COMM_WORLD, got {got}")
        self.comm = comm
        self.rank, self.size = (0, 1) if comm is None else (comm.Get_rank(), comm.Get_size())

    def meet(self, doing, count=0, mark=0, weight=0.0, counted="parameters, of the same model,", text=None):
        """Wait for all ranks, compare what they do, to how many things, with which mark; return their weights."""
        if self.size == 1:
            return [weight]
        every = array("d", bytes(32 * self.size))
        self.comm.Allgather(array("d", (DOING.index(doing), count, mark, weight)), every)
        does, counts, marks = (every[k::4].tolist() for k in range(3))
        if 0.0 in does:
            texts = self.comm.allgather(text)
            if doing == FAILED:
                return None  # and raise what has happened here
            rank, text = next((rank, text) for rank, text in enumerate(texts) if text)
            raise RankError(f"rank {rank} of {self.size} has failed, so no rank goes on: {text}")
        if len(set(does)) > 1:
            raise RankError(
                "expected all ranks to make the same calls, as often; ranks are "
                f"{_by_value([DOING[int(k)] for k in does])}. Steps must be as many on every rank: batches() gives each as "
                "many parts, though some may be empty"
            )
        if len(set(counts)) > 1:
            raise RankError(f"{doing[3:]}: expected as many {counted} on every rank, got {_by_value(map(int, counts))}")
        if len(set(marks)) > 1:
            if doing == "in broadcast_parameters()":
                raise RankError(f"{doing[3:]}: expected the same root on every rank, got {_by_value(map(int, marks))}")
            others = [rank for rank, other in enumerate(marks) if other != marks[0]]
            raise RankError(
                f"{doing[3:]}: expected the same parameters on every rank, but those of rank {others[0]} are not those of "
                "rank 0. Call broadcast_parameters() before the first step, and make every step on all ranks"
            )
        return every[3::4].tolist()

    @contextlib.contextmanager
    def told(self):
        """An exception in here makes the other ranks raise RankError, at the meeting that they come to next."""
        try:
            yield
        except RankError:
            raise
        except Exception as error:
            self.meet(FAILED, text=f"{type(error).__name__}: {error}")
            raise

    def same(self, thing, doing):
        """What thing is on rank 0."""
        self.meet(doing)
        return thing if self.size == 1 else self.comm.bcast(thing)

    def every(self, thing, doing):
        """What thing is on each rank, a list."""
        self.meet(doing)
        return [thing] if self.size == 1 else self.comm.allgather(thing)

    def part(self, data):
        """The part of a sequence that is this rank's."""
        n = len(data)
        return data[n * self.rank // self.size : n * (self.rank + 1) // self.size]

    def broadcast(self, groups, root=0):
        """Give the parameters the values that they have on rank root."""
        values = _read(groups, optim._VALUES)
        self.meet("in broadcast_parameters()", len(values), root)
        if self.size > 1:
            self.comm.Bcast(values, root)
        if self.rank != root:
            numbers = iter(values)
            for group in groups:
                for p, value in zip(group.variables, numbers):
                    p.data = value

    def reduce(self, groups, op="mean", weight=1.0, loss=0.0):
        """Replace gradients by their mean or sum over the ranks; return the same of loss."""
        if self.size == 1:
            return loss
        # what each rank's parameters are: a sum that any other bit changes, almost surely, in the time of a copy
        values = _read(groups, optim._VALUES)
        weights = self.meet(f"in all_reduce_gradients(op={op!r})", len(values), zlib.adler32(values), weight)
        factor = 1.0
        if op == "mean":
            total = sum(weights)
            if not total:
                raise RankError("all_reduce_gradients: expected a weight above 0 on one rank at least, got 0 on all")
            factor = weight / total
        mine = _read(groups, optim._GRADS, 1) if weight else array("d", bytes(8 * (len(values) + 1)))
        if weight:
            mine[-1] = loss
        if factor != 1.0:
            _core._vector_scale(mine, factor)
        total = memoryview(self.add(mine))
        first = 0
        for group in groups:
            last = first + len(group.variables)
            group.write(optim._GRADS, total[first:last])
            first = last
        return total[-1]

    def add(self, mine):
        """The sum of an array of doubles over the ranks, in their order; as long on every rank."""
        n, size = len(mine), self.size
        if size == 1:
            return mine
        if n * size <= GATHERED:  # one round: each rank adds up everything
            every = array("d", bytes(8 * n * size))
            self.comm.Allgather(mine, every)
            return _added(every, size)
        # two rounds, less traffic: each rank adds up a part, and all get its sum
        ends = [n * k // size for k in range(size + 1)]
        counts = [last - first for first, last in itertools.pairwise(ends)]
        count = counts[self.rank]
        parts, total = array("d", bytes(8 * count * size)), array("d", bytes(8 * n))
        self.comm.Alltoallv([mine, (counts, ends[:-1])], [parts, ([count] * size, [count * k for k in range(size)])])
        self.comm.Allgatherv(_added(parts, size), [total, (counts, ends[:-1])])
        return total


def _added(parts, size):
    """The sum of so many arrays that lie behind each other, the first one first."""
    n = len(parts) // size
    view = memoryview(parts)
    for k in range(1, size):
        _core._vector_add(view[:n], 1.0, view[k * n : (k + 1) * n])
    return parts[:n]


def _groups(params, what):
    """The parameters as the core's groups, those of an optimizer or one for all."""
    if isinstance(params, optim.Optimizer):
        return params._groups
    variables = _core._variables(params, what)
    if not variables:
        raise ValueError(f"{what}: expected at least one parameter, got none; was a generator used before?")
    for k, p in enumerate(variables):
        if not p.is_leaf:
            raise ValueError(f"{what}: parameter {k}, {p!r}, is the result of {p._op!r}; expected leaves")
    if len(set(variables)) < len(variables):
        raise ValueError(f"{what}: expected each parameter once, got {len(variables)} of which some are the same")
    return [_core.Group(variables)]


def _read(groups, what, more=0):
    """The values or gradients of all groups' parameters as one array, which has room for more."""
    found = array("d", bytes(8 * (sum(len(group.variables) for group in groups) + more)))
    view, first = memoryview(found), 0
    for group in groups:
        last = first + len(group.variables)
        group.read(what, view[first:last])
        first = last
    return found


def _by_value(values):
    """What the ranks have, those with the same value together."""
    kinds = {}
    for rank, value in enumerate(values):
        kinds.setdefault(value, []).append(str(rank))
    return "; ".join(f"{value} on rank {', '.join(ranks)}" for value, ranks in kinds.items())


def _world():
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the second: mpi4py is here, but no MPI library
        raise ImportError(
            "mingrad.distributed needs mpi4py and an MPI, which most clusters have: python -m pip install 'mingrad[mpi]' mpich "
            f"(on Windows impi-rt in place of mpich). Here: {str(error).splitlines()[0]}"
        ) from error
    return MPI.COMM_WORLD
