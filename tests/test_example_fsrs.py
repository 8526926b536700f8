"""mingrad/examples/fsrs.py: the package fsrs's own Scheduler, trained with mingrad as with PyTorch.

Skipped without the package. The peers are PyTorch in the same loop, and the package's Optimizer,
which is an independent writing of the algorithm.
"""

import functools
import itertools
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

import mingrad
from mingrad.examples import fsrs as example

fsrs = pytest.importorskip("fsrs", reason="fsrs is not installed")

# The promise of the example. What is seen is some 1e-15: Adam divides a gradient's rounding errors
# by its size, and eighty steps carry them on.
PROMISED = 1e-9


@functools.cache
def longest():
    """The longest of the simulated histories; not all of it is used."""
    history = max(example.simulate()[0], key=len)
    assert len(history) > 64
    return history


@functools.cache
def some():
    """Histories with enough counted reviews for a mini-batch of the package."""
    return [*example.simulate(900, seed=3)[0], longest()]


def pytorch():
    """The backend that the package itself uses."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = functools.partial(torch.tensor, dtype=torch.float64)

    def loss(predictions, targets):
        return torch.nn.functional.binary_cross_entropy(torch.stack(predictions), tensor(targets), reduction="sum")

    return example.Backend(tensor, tensor, loss, torch.optim.Adam, torch.optim.lr_scheduler.CosineAnnealingLR, torch.no_grad)


def run(*arguments):
    """Run the command in a process of its own."""
    home = str(pathlib.Path(mingrad.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "mingrad.examples.fsrs", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


# the simulation


def test_the_simulation_has_12000_reviews_and_is_the_same_twice():
    histories, true = example.simulate()
    assert sum(map(len, histories)) >= 12_000
    again, same = example.simulate()
    assert histories == again and true == same


def test_another_seed_makes_other_learners():
    histories, true = example.simulate(500, seed=1)
    others, other = example.simulate(500, seed=2)
    assert histories != others and true != other


def test_true_parameters_are_within_bounds_and_not_the_defaults():
    _, true = example.simulate(1)
    lower, upper = example.bounds()
    assert len(true) == len(lower) == len(upper) == len(example.defaults()) == 21
    assert all(low <= value <= high for low, value, high in zip(lower, true, upper))
    assert all(value != default for value, default in zip(true, example.defaults()) if default not in lower)


def test_reviews_are_in_order_and_count_if_a_day_or_more_has_passed():
    ratings = set()
    for history in some():
        assert history[0].counts is False
        for before, after in itertools.pairwise(history):
            assert before.date < after.date
            assert after.counts == ((after.date - before.date).total_seconds() >= 24 * 3600)
        ratings.update(review.rating for review in history)
    assert ratings == set(fsrs.Rating)


def test_learners_recall_what_the_true_scheduler_says():
    histories, true = example.simulate()
    chances, recalled = example.predict(histories, true)
    # the mean of independent events with these chances; 4 standard deviations
    spread = math.sqrt(sum(chance * (1 - chance) for chance in chances)) / len(chances)
    assert sum(recalled) / len(recalled) == pytest.approx(sum(chances) / len(chances), abs=4 * spread)


# training


def test_training_lowers_the_loss_and_keeps_the_best_parameters_within_bounds():
    before = example.mean_loss(some(), example.defaults())
    reports = []
    found = example.train(some(), epochs=3, batch=64, report=lambda *what: reports.append(what))
    assert min(found.epochs) < before
    assert reports == list(enumerate(found.epochs))
    assert example.mean_loss(some(), found.parameters) == min(found.epochs)
    lower, upper = example.bounds()
    assert all(low <= value <= high for low, value, high in zip(lower, found.parameters, upper))
    counted = len(example.predict(some(), example.defaults())[0])
    assert len(found.batches) == 3 * math.ceil(counted / 64)


def test_parameters_are_held_at_both_bounds(monkeypatch):
    monkeypatch.setattr(example, "LEARNING_RATE", 0.5)
    found = example.train(some(), epochs=1, batch=16).parameters
    lower, upper = example.bounds()
    assert all(low <= value <= high for low, value, high in zip(lower, found, upper))
    assert any(map(float.__eq__, found, lower)) and any(map(float.__eq__, found, upper))


def test_training_gives_the_same_bits_twice_and_others_in_another_order():
    first, second = (example.train(some(), epochs=1, batch=64) for _ in range(2))
    assert first == second
    assert example.train(some(), epochs=1, seed=1, batch=64) != first


def test_a_card_in_two_mini_batches_learns_from_the_second_only():
    # mingrad refuses a backward pass into the batch before, whose parameters have changed since
    assert len(example.train([longest()], epochs=1, batch=8).batches) > 2


def test_64_reviews_of_a_card_are_used():
    cut = [longest()[:64]]
    assert example.train([longest()], epochs=1) == example.train(cut, epochs=1)
    assert example.train(cut, epochs=1) != example.train([longest()[:63]], epochs=1)


def test_reviews_of_one_day_are_refused():
    histories = [[review._replace(counts=False) for review in history] for history in some()]
    with pytest.raises(ValueError) as caught:
        example.train(histories)
    assert str(caught.value) == ("expected a review that is a day or more after the one before, got none")


def test_review_card_writes_on_the_examples_card_and_computes_the_same():
    scheduler = fsrs.Scheduler(enable_fuzzing=False)
    for history in some()[:20]:
        ours = example.card_class()(card_id=1, due=history[0].date)
        theirs = fsrs.Card(card_id=1, due=history[0].date)
        for review in history:
            written, _ = scheduler.review_card(ours, review.rating, review.date)
            theirs, _ = scheduler.review_card(theirs, review.rating, review.date)
            assert written is ours
            assert ours.to_dict() == theirs.to_dict()


# compiled


# Vector functions are 2 units in the last place from the true value, libm's 1; sums of a mini-batch
# are added in another order, and eighty steps of Adam carry both on. Some 1e-14 is seen.
COMPILED = 1e-10


@pytest.mark.parametrize("epochs, batch, seed", [(3, 100, 42), (1, 512, 1), (2, 7, 3)])
def test_the_compiled_training_has_every_loss_of_the_eager_one(epochs, batch, seed):
    ours = example.train_compiled(some(), epochs=epochs, batch=batch, seed=seed)
    theirs = example.train(some(), epochs=epochs, batch=batch, seed=seed)
    assert len(ours.batches) == len(theirs.batches)
    for mine, expected in zip(ours, theirs):
        assert mine == pytest.approx(expected, rel=COMPILED)


def test_the_compiled_training_on_bounds_is_the_eager_one(monkeypatch):
    # clamps are met exactly, and growth within a day is exactly 1
    monkeypatch.setattr(example, "LEARNING_RATE", 0.5)
    ours, theirs = (train(some(), epochs=2, batch=32) for train in (example.train_compiled, example.train))
    assert set(example.bounds()[0]) & set(ours.parameters)
    for mine, expected in zip(ours, theirs):
        assert mine == pytest.approx(expected, rel=1e-8)  # steps are ten times as long


def test_gradients_of_a_compiled_mini_batch_are_those_of_the_eager_one():
    parameters = mingrad.tensor(example.defaults(), requires_grad=True)
    example.MINGRAD.loss(*example.predict(some(), parameters)).backward()
    expected = list(parameters.grad)
    parameters.zero_grad()
    run = mingrad.rows.scan(example.review_function(parameters), grad="sum")
    cards = [history[:64] for history in some()]
    rows = [
        (0 if k == 0 else (review.date - card[k - 1].date).days, review.rating, review.counts)
        for card in cards
        for k, review in enumerate(card)
    ]
    run((0.0, 0.0), *map(list, zip(*rows)), lengths=list(map(len, cards)))
    assert list(parameters.grad) == pytest.approx(expected, rel=1e-12)


def test_the_compiled_training_is_the_same_twice_and_reports():
    reports = []
    first = example.train_compiled(some(), 2, batch=64, report=lambda *what: reports.append(what))
    assert first == example.train_compiled(some(), 2, batch=64)
    assert reports == list(enumerate(first.epochs))


def test_compiled_reviews_of_one_day_are_refused():
    histories = [[review._replace(counts=False) for review in history] for history in some()]
    with pytest.raises(ValueError, match="expected a review that is a day or more after the one "):
        example.train_compiled(histories)


def test_a_planted_error_in_the_compiled_training_is_seen(monkeypatch):
    monkeypatch.setattr(example.Moment, "__sub__", lambda now, _: example.Moment(now.days * 2))
    ours, theirs = (train(some(), epochs=1, batch=100) for train in (example.train_compiled, example.train))
    assert ours.batches != pytest.approx(theirs.batches, rel=COMPILED)


@pytest.mark.parametrize(
    "cards, expected",
    [
        ([[0, 1, 1]], [([3], False)]),
        ([[0, 1, 1, 1]], [([3], True), ([1], False)]),
        ([[0, 1], [0, 0], [0, 1, 0]], [([2, 2, 2], True)]),
        ([[0, 1, 1, 0], [0, 1]], [([3], True), ([1, 2], False)]),
        ([[0, 0]], []),
    ],
)
def test_mini_batches_are_cut_where_enough_reviews_have_been_counted(cards, expected):
    assert list(example.mini_batches([(card, sum(card)) for card in cards], 2)) == expected


# beside PyTorch


@pytest.mark.parametrize("start", ["defaults", "lower bounds", "upper bounds", "truth"])
def test_gradients_of_a_mini_batch_are_those_of_pytorch(start):
    # on the bounds clamps are met exactly, and growth within a day is exactly 1
    backend = pytorch()
    lower, upper = example.bounds()
    values = {"defaults": example.defaults(), "lower bounds": lower, "upper bounds": upper, "truth": example.simulate(1)[1]}[
        start
    ]
    ours, theirs = (b.tensor(values, requires_grad=True) for b in (example.MINGRAD, backend))
    loss = example.MINGRAD.loss(*example.predict(some(), ours))
    expected = backend.loss(*example.predict(some(), theirs))
    loss.backward()
    expected.backward()
    # sums of hundreds of terms that partly cancel, each rounded; 2e-15 is seen
    assert loss.item() == pytest.approx(expected.item(), rel=1e-13)
    assert ours.grad == pytest.approx(theirs.grad.tolist(), rel=1e-12)


def test_every_loss_of_a_run_is_that_of_pytorch():
    ours = example.train(some(), epochs=3, batch=100)
    theirs = example.train(some(), epochs=3, batch=100, backend=pytorch())
    assert len(ours.batches) == len(theirs.batches) > 9
    for mine, expected in zip(ours, theirs):
        assert mine == pytest.approx(expected, rel=PROMISED)


def test_a_planted_error_is_seen():
    backend = pytorch()
    ours = example.train(some(), epochs=1, batch=100)
    wrong = backend._replace(Adam=functools.partial(backend.Adam, eps=1e-5))
    theirs = example.train(some(), epochs=1, batch=100, backend=wrong)
    assert ours.batches[0] == pytest.approx(theirs.batches[0], rel=PROMISED)
    assert ours.batches[1:] != pytest.approx(theirs.batches[1:], rel=PROMISED)
    assert ours.parameters != pytest.approx(theirs.parameters, rel=PROMISED)


def test_the_parameters_are_those_that_the_packages_own_optimizer_finds(monkeypatch):
    for name in ("torch", "pandas", "tqdm"):
        pytest.importorskip(name, reason=f"fsrs's Optimizer needs {name}")
    from fsrs import optimizer

    monkeypatch.setattr(optimizer, "num_epochs", 2)
    logs = [
        fsrs.ReviewLog(number, review.rating, review.date, None) for number, history in enumerate(some()) for review in history
    ]
    expected = optimizer.Optimizer(logs).compute_optimal_parameters()
    assert expected != example.defaults()  # what it gives without a whole mini-batch
    assert example.train(some(), epochs=2).parameters == pytest.approx(expected, rel=PROMISED)


# python -m mingrad.examples.fsrs


def test_the_command_prints_the_losses_and_the_parameters():
    finished = run("--reviews", "1500", "--epochs", "2", "--seed", "4")
    assert (finished.returncode, finished.stderr) == (0, "")
    output = finished.stdout
    assert len(re.findall(r"^epoch +\d/2 +loss 0\.\d{6}$", output, re.MULTILINE)) == 2
    assert len(re.findall(r"^ ?\d+ +[\d.]+ +[\d.]+ +[\d.]+  \S", output, re.MULTILINE)) == 21
    before, after = re.search(r"^loss ([\d.]+) before, ([\d.]+) after 2 epochs in [\d.]+ s$", output, re.MULTILINE).groups()
    assert float(after) < float(before)


def test_the_command_trains_compiled_too():
    finished = run("--reviews", "1500", "--epochs", "2", "--seed", "4", "--compiled")
    assert (finished.returncode, finished.stderr) == (0, "")
    plain = run("--reviews", "1500", "--epochs", "2", "--seed", "4")
    seconds = re.compile(r"in [\d.]+ s$", re.MULTILINE)
    assert seconds.sub("", finished.stdout) == seconds.sub("", plain.stdout)


def test_the_command_fails_if_the_loss_does_not_fall(monkeypatch, capsys):
    monkeypatch.setattr(example, "LEARNING_RATE", 0.0)
    assert example.main(["--reviews", "600", "--epochs", "1"]) == 1
    assert capsys.readouterr().err == "fsrs: the loss did not fall\n"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--reviews", "511"], "--reviews must be at least 512, got 511"),
    ],
    ids=str,
)
def test_the_command_refuses_bad_arguments(arguments, text, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_the_command_without_the_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fsrs", None)
    assert example.main([]) == 2
    assert capsys.readouterr().err == ("fsrs: the scheduler is the package fsrs: python -m pip install 'mingrad[examples]'\n")
