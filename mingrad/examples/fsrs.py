"""Learn when to show a flash card again: the 21 parameters of FSRS, from 12,000 reviews.

    python -m mingrad.examples.fsrs
    python -m mingrad.examples.fsrs --compiled
    mpiexec -n 2 python -m mingrad.examples.fsrs --distributed

The scheduler is the package ``fsrs``'s own class, as installed: plain scalar Python, a few dozen
operations for a review. The package fits it with PyTorch; here mingrad takes PyTorch's place, the
algorithm is the same. With --compiled the scheduler runs once for each kind of review, and from
then on as recorded, for all cards of a mini-batch together. With --distributed processes share the
cards: each looks after its own, and for each mini-batch they add their gradients up. The reviews are simulated, by learners
whose true parameters are known. For a first example see ``moons.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from operator import sub
from random import Random
from typing import Any, NamedTuple

import mingrad
from mingrad import distributed, nn, optim
from mingrad.engine import no_grad
from mingrad.rows import scan

REVIEWS = 12_000
BATCH = 512  # counted reviews in a mini-batch
LONGEST = 64  # reviews of a card that are used, from its first
EPOCHS = 5
LEARNING_RATE = 4e-2
MEANINGS = (
    "days that a card lasts, first seen and rated Again",
    "... Hard",
    "... Good",
    "... Easy",
    "difficulty of a new card, rated Again",
    "... how it falls with the rating",
    "how a rating moves the difficulty",
    "... how the difficulty returns to that of Easy",
    "growth after recall",
    "... less for what lasts",
    "... more when it was nearly forgotten",
    "days left after forgetting",
    "... less for the difficult",
    "... more for what lasted",
    "... more when it was nearly forgotten",
    "growth if rated Hard, a factor",
    "growth if rated Easy, a factor",
    "growth within a day",
    "... its shift by the rating",
    "... less for what lasts",
    "shape of the forgetting curve",
)


class Backend(NamedTuple):
    """What the training takes from a library of automatic differentiation."""

    tensor: Callable[..., Any]  # (numbers, requires_grad=True) -> a sequence of scalars
    constants: Callable[..., Any]  # (numbers) -> the same without gradients
    loss: Callable[..., Any]  # (predictions, targets) -> the sum of the binary cross-entropies
    Adam: Callable[..., Any]
    CosineAnnealingLR: Callable[..., Any]
    no_grad: Callable[..., Any]


MINGRAD = Backend(
    tensor=mingrad.tensor,
    constants=list,  # plain floats do: the scheduler's code runs on either
    loss=functools.partial(nn.binary_cross_entropy, reduction="sum"),
    Adam=optim.Adam,
    CosineAnnealingLR=optim.CosineAnnealingLR,
    no_grad=no_grad,
)


class Review(NamedTuple):
    """One look at a card."""

    date: datetime  # in UTC
    rating: Any  # an fsrs.Rating: Again (forgotten), Hard, Good or Easy
    counts: bool  # whether it is a day or more after the one before: only these have a loss


class Trained(NamedTuple):
    """What train() returns."""

    parameters: list[float]  # those of the best epoch
    epochs: list[float]  # mean loss over all counted reviews after each epoch
    batches: list[float]  # summed loss of each mini-batch, before its step


def package() -> Any:
    """Return the package ``fsrs``.

    Raises ImportError, which says what to install, if it is missing.
    """
    try:
        import fsrs
        import fsrs.scheduler
    except ImportError as error:
        raise ImportError("the scheduler is the package fsrs: python -m pip install 'mingrad[examples]'") from error
    return fsrs


def defaults() -> list[float]:
    """Return the 21 parameters that the package starts from."""
    return list(package().scheduler.DEFAULT_PARAMETERS)


def bounds() -> tuple[list[float], list[float]]:
    """Return the lowest and the highest values that the package accepts, 21 each."""
    scheduler = package().scheduler
    return list(scheduler.LOWER_BOUNDS_PARAMETERS), list(scheduler.UPPER_BOUNDS_PARAMETERS)


@functools.cache
def card_class() -> Any:
    """Return the package's Card, but review_card() writes on the card, not on a copy of it.

    Nobody looks at the old card, and copying takes a third of the time of a review in floats.
    """

    class Card(package().Card):  # type: ignore[misc]
        def __copy__(self) -> Card:
            return self

    return Card


# -- learners --------------------------------------------------------------------------------------


def simulate(reviews: int = REVIEWS, seed: int = 1) -> tuple[list[list[Review]], list[float]]:
    """Return the histories of cards, together at least ``reviews`` long, and the true parameters.

    Two years of four learners. They forget alike, by the scheduler with the true parameters, which
    are up to some tens of percent from the package's defaults; how soon after a card is due they
    look at it, and which rating they give when they know it, are their own.
    """
    fsrs = package()
    Card, Rating = card_class(), fsrs.Rating
    rng = Random(seed)
    true = [min(max(value * math.exp(rng.gauss(0.0, 0.3)), low), high) for value, low, high in zip(defaults(), *bounds())]
    scheduler = fsrs.Scheduler(true, enable_fuzzing=False)
    learners = [(rng.uniform(0.1, 3.0), [rng.uniform(0.1, 0.3), 1.0, rng.uniform(0.1, 0.3)]) for _ in range(4)]
    start = datetime(2025, 1, 1, tzinfo=timezone.utc)
    end = start + timedelta(days=730)

    histories: list[list[Review]] = []
    total = 0
    while total < reviews:
        lateness, habits = rng.choice(learners)
        now = start + timedelta(days=rng.randrange(300), minutes=rng.randrange(24 * 60))
        card = Card(card_id=len(histories), due=now)
        history: list[Review] = []
        while now < end:
            if history:
                recalled = rng.random() < scheduler.get_card_retrievability(card, now)
                counts = (now - history[-1].date).days > 0
            else:
                recalled, counts = rng.random() < 0.7, False  # 0.7: known from elsewhere
            rating = Rating(rng.choices((2, 3, 4), habits)[0]) if recalled else Rating.Again
            history.append(Review(now, rating, counts))
            card, _ = scheduler.review_card(card, rating, now)
            wait = rng.expovariate(1.0)  # of mean 1: minutes within a session, days between them
            now = card.due + (
                timedelta(days=lateness * wait) if card.due - now >= timedelta(days=1) else timedelta(minutes=wait)
            )
        histories.append(history)
        total += len(history)
    return histories, true


# -- training --------------------------------------------------------------------------------------


def predict(histories: Iterable[Sequence[Review]], parameters: Sequence[Any]) -> tuple[list[Any], list[float]]:
    """Return, for each counted review, the chance given to recall, and whether there was: 0 or 1.

    parameters: 21 floats or scalars of a backend; the chances are of the same kind.
    """
    Card = card_class()
    scheduler = package().Scheduler(parameters, enable_fuzzing=False)
    predictions, targets = [], []
    for number, history in enumerate(histories):
        card = Card(card_id=number, due=history[0].date)
        for date, rating, counts in history[:LONGEST]:
            if counts:
                predictions.append(scheduler.get_card_retrievability(card, date))
                targets.append(float(rating > 1))
            card, _ = scheduler.review_card(card, rating, date)
    return predictions, targets


def mean_loss(
    histories: Sequence[Sequence[Review]], parameters: Sequence[float], backend: Backend = MINGRAD, comm: Any = None
) -> float:
    """Return the mean binary cross-entropy of the counted reviews, of which there must be some."""
    mine = histories if comm is None else distributed.shard(histories, comm)
    predictions, targets = predict(mine, backend.constants(parameters))
    sums = [float(backend.loss(predictions, targets)) if targets else 0.0, float(len(targets))]
    if comm is not None:
        sums = distributed.all_reduce(sums, comm)
    return sums[0] / sums[1]


def train(
    histories: Sequence[Sequence[Review]],
    epochs: int = EPOCHS,
    seed: int = 42,
    batch: int = BATCH,
    backend: Backend = MINGRAD,
    report: Callable[[int, float], object] | None = None,
    comm: Any = None,
) -> Trained:
    """Return parameters that predict whether cards are recalled, and the losses on the way.

    histories: as simulate() makes them. epochs: passes over them, at least 1. seed: of the order
    of the cards; 42 is what the package takes. batch: counted reviews for one step. backend: the
    library that differentiates. report: called after each epoch as ``report(epoch, loss)``. comm:
    of the processes that share the cards, as mingrad.distributed.run() gives it; not with another
    backend. Each is given all histories.

    Adam with a cosine schedule from 0.04 to 0. After each step the parameters go back inside
    their bounds, and the card at hand keeps its values but forgets how they came about. Raises
    ValueError if no review counts.
    """
    Card, Scheduler = card_class(), package().Scheduler
    counted = sum(review.counts for history in histories for review in history[:LONGEST])
    if not counted:
        raise ValueError("expected a review that is a day or more after the one before, got none")
    lower, upper = map(backend.constants, bounds())
    parameters = backend.tensor(defaults(), requires_grad=True)
    optimizer = backend.Adam([parameters], lr=LEARNING_RATE)
    schedule = backend.CosineAnnealingLR(optimizer, T_max=math.ceil(counted / batch) * epochs)

    batches: list[float] = []
    predictions: list[Any] = []
    targets: list[float] = []
    rank, ranks = (0, 1) if comm is None else (comm.rank, comm.size)

    def step() -> None:
        optimizer.zero_grad()
        total = 0.0
        if predictions:  # a rank may have no card in a mini-batch
            loss = backend.loss(predictions, targets)
            loss.backward()
            total = loss.item()
        if comm is not None:
            distributed.all_reduce_gradients(optimizer, comm, op="sum")
        optimizer.step()
        with backend.no_grad():
            parameters.clamp_(lower, upper)
        schedule.step()
        batches.append(total)
        predictions.clear()
        targets.clear()

    means: list[float] = []
    best: list[float] = []
    order = list(range(len(histories)))
    rng = Random(seed)
    for epoch in range(epochs):
        rng.shuffle(order)
        scheduler = Scheduler(parameters, enable_fuzzing=False)
        in_batch = 0  # counted reviews, on all ranks
        for number in order:
            history = histories[number]
            card = Card(card_id=number, due=history[0].date)
            mine = number % ranks == rank
            for date, rating, counts in history[:LONGEST]:
                in_batch += counts
                if mine:
                    if counts:
                        predictions.append(scheduler.get_card_retrievability(card, date))
                        targets.append(float(rating > 1))
                    card, _ = scheduler.review_card(card, rating, date)
                if in_batch == batch:
                    step()
                    in_batch = 0
                    scheduler = Scheduler(parameters, enable_fuzzing=False)
                    if mine:
                        card.stability = card.stability.detach()
                        card.difficulty = card.difficulty.detach()
        if in_batch:
            step()

        values = parameters.tolist()
        mean = mean_loss(histories, values, backend, comm)
        if mean < min(means, default=math.inf):
            best = values
        means.append(mean)
        if report:
            report(epoch, mean)
    return Trained(best, means, batches if comm is None else distributed.all_reduce(batches, comm))


# -- the same, compiled ----------------------------------------------------------------------------


class Moment:
    """What the scheduler takes for a date, where only the days since the last review are known."""

    tzinfo = timezone.utc

    def __init__(self, days: Any) -> None:
        self.days = days

    def __sub__(self, other: object) -> Moment:
        return self  # the time that has passed

    def __add__(self, other: object) -> Moment:
        return self  # when the card is due: nobody asks


def review_function(parameters: mingrad.VariableList) -> Callable[..., Any]:
    """Return ``review(memory, days, grade, counts) -> (memory, loss)``: the scheduler's, for one.

    memory: (stability, difficulty) of the card, (0, 0) for a new one. days: whole ones since its
    last review. grade: its rating, 1 to 4. counts: 1, or 0 for a loss of 0. All are scalars; what
    ``if`` asks of them, here and in the package, decides by which recording a review runs.
    """
    fsrs, Card = package(), card_class()

    class Scheduler(package().Scheduler):  # type: ignore[misc]
        def _next_interval(self, *, stability: Any) -> int:
            return 1  # nobody asks when the card is due; the package rounds a number for it

    def review(memory: Any, days: Any, grade: Any, counts: Any) -> Any:
        scheduler = Scheduler(parameters, enable_fuzzing=False)
        rating = fsrs.Rating(1 + (grade > 1) + (grade > 2) + (grade > 3))
        now = Moment(days)
        card = Card(card_id=0, due=now)
        if memory[0] > 0:
            card.state, card.step, card.last_review = fsrs.State.Review, None, now
            card.stability, card.difficulty = memory
        loss = 0.0
        if counts:
            recall = scheduler.get_card_retrievability(card, now)
            loss = MINGRAD.loss([recall], [float(rating > 1)])
        card, _ = scheduler.review_card(card, rating, now)
        return (card.stability, card.difficulty), loss

    return review


def train_compiled(
    histories: Sequence[Sequence[Review]],
    epochs: int = EPOCHS,
    seed: int = 42,
    batch: int = BATCH,
    report: Callable[[int, float], object] | None = None,
    comm: Any = None,
) -> Trained:
    """Return what train() returns, up to the last digits, in a small part of its time.

    A review is a row, those of a card are a sequence: scan() runs the sequences of a mini-batch
    together, and back again for the gradient, with one recording for each kind of review.
    """
    parameters = mingrad.tensor(defaults(), requires_grad=True)
    review = mingrad.compile(review_function(parameters))
    run, evaluate = scan(review, grad="sum"), scan(review)

    cards = [tuple(zip(*history[:LONGEST])) for history in histories]  # dates, ratings, counts
    days = [array("d", [0, *[t.days for t in map(sub, dates[1:], dates)]]) for dates, _, _ in cards]
    counts = [array("d", counts) for _, _, counts in cards]
    columns = days, [array("d", ratings) for _, ratings, _ in cards], counts
    totals = [sum(counts) for _, _, counts in cards]
    counted = sum(totals)
    if not counted:
        raise ValueError("expected a review that is a day or more after the one before, got none")

    lower, upper = bounds()
    optimizer = optim.Adam([parameters], lr=LEARNING_RATE)
    schedule = optim.CosineAnnealingLR(optimizer, T_max=math.ceil(counted / batch) * epochs)
    batches: list[float] = []
    means: list[float] = []
    best: list[float] = []
    order = list(range(len(histories)))
    rng = Random(seed)
    rank, ranks = (0, 1) if comm is None else (comm.rank, comm.size)
    mine = [k for k in order if k % ranks == rank]
    rows = [join([column[k] for k in mine]) for column in columns]

    for epoch in range(epochs):
        rng.shuffle(order)
        shuffled = [memoryview(join([column[k] for k in order if k % ranks == rank])) for column in columns]
        first = place = 0
        memory: tuple[float, ...] = (0.0, 0.0)
        for lengths, goes_on in mini_batches([(counts[k], totals[k]) for k in order], batch):
            numbers = order[place : place + len(lengths)]
            place += len(lengths) - goes_on
            lengths = [length for k, length in zip(numbers, lengths) if k % ranks == rank]
            goes_on = goes_on and numbers[-1] % ranks == rank
            here = slice(first, first + sum(lengths))
            losses: Any = []
            optimizer.zero_grad()
            if lengths:  # a rank may have no card in a mini-batch
                begin = tuple([array("d", [x] + [0.0] * (len(lengths) - 1)) for x in memory])
                memories, losses = run(begin, *[column[here] for column in shuffled], lengths=lengths)
                losses = losses.tolist()
            if comm is not None:
                distributed.all_reduce_gradients(optimizer, comm, op="sum")
            optimizer.step()
            with no_grad():
                parameters.clamp_(lower, upper)
            schedule.step()
            batches.append(sum(losses))
            # the card at hand keeps its values but forgets how they came about
            memory = tuple([float(x[-1]) for x in memories]) if goes_on else (0.0, 0.0)
            first = here.stop

        losses = evaluate((0.0, 0.0), *rows, lengths=[len(days[k]) for k in mine])[1].tolist() if mine else []
        total = sum(losses) if comm is None else distributed.all_reduce(sum(losses), comm)
        mean = total / counted
        if mean < min(means, default=math.inf):
            best = parameters.tolist()
        means.append(mean)
        if report:
            report(epoch, mean)
    return Trained(best, means, batches if comm is None else distributed.all_reduce(batches, comm))


def mini_batches(cards: Iterable[tuple[Sequence[float], int]], batch: int) -> Iterator[tuple[list[int], bool]]:
    """Cut cards, one after the other, where so many reviews have been counted.

    cards: of each, for each review 1 if it counts, else 0; and their sum. Yields how many reviews
    of each card are in a mini-batch, and whether its last card goes on in the next one.
    """
    lengths: list[int] = []
    missing = batch
    for counts, left in cards:
        first = 0
        while left >= missing:
            last, left = first, left - missing
            while missing:
                missing -= int(counts[last])
                last += 1
            yield [*lengths, last - first], last < len(counts)
            lengths, missing, first = [], batch, last
        if first < len(counts):
            lengths.append(len(counts) - first)
            missing -= left
    if missing < batch:
        yield lengths, False


def join(columns: Iterable[array[float]]) -> array[float]:
    """Return these numbers as one array."""
    joined = array("d")
    joined.frombytes(b"".join(columns))
    return joined


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 if nothing was learned, 2 without fsrs."""
    parser = argparse.ArgumentParser(
        prog="python -m mingrad.examples.fsrs",
        description="Fit the 21 parameters of the spaced-repetition scheduler FSRS to reviews.",
    )
    parser.add_argument("--reviews", type=int, default=REVIEWS, help=f"how many to simulate, at least ({REVIEWS})")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over them ({EPOCHS})")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated learners (1)")
    parser.add_argument(
        "--compiled", action="store_true", help="run the scheduler as recorded, all cards of a mini-batch together"
    )
    parser.add_argument("--distributed", action="store_true", help="share the cards with the processes that mpiexec started")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    if options.reviews < BATCH:
        parser.error(f"--reviews must be at least {BATCH}, got {options.reviews}")

    try:
        with distributed.run() if options.distributed else contextlib.nullcontext() as comm:
            return command(options, comm)
    except ImportError as error:
        print(f"fsrs: {error}", file=sys.stderr)
        return 2


def command(options: argparse.Namespace, comm: Any) -> int:
    """Simulate, train and say what was learned; return the exit status of main()."""
    first = comm is None or comm.rank == 0

    def say(text: str) -> None:
        if first:
            print(text, flush=True)

    histories, true = simulate(options.reviews, options.seed)
    counted = sum(review.counts for history in histories for review in history)
    before = mean_loss(histories, defaults(), comm=comm)
    say(
        f"{len(histories):,} cards, {sum(map(len, histories)):,} reviews, {counted:,} counted "
        "(a day or more after the one before)"
    )
    say(f"the defaults  loss {before:.6f}")
    start = time.perf_counter()
    found = (train_compiled if options.compiled else train)(
        histories,
        options.epochs,
        report=lambda epoch, loss: say(f"epoch {epoch + 1:2}/{options.epochs}    loss {loss:.6f}"),
        comm=comm,
    )
    seconds = time.perf_counter() - start
    say(f"the truth     loss {mean_loss(histories, true, comm=comm):.6f}\n")
    say("      true  default  learned")
    for number, row in enumerate(zip(true, defaults(), found.parameters, MEANINGS)):
        say("{:2} {:7.4f}  {:7.4f}  {:7.4f}  {}".format(number, *row))
    after = min(found.epochs)
    say(f"\nloss {before:.6f} before, {after:.6f} after {options.epochs} epochs in {seconds:.1f} s")
    if after < before:
        return 0
    if first:
        print("fsrs: the loss did not fall", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
