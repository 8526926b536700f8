"""Read handwritten digits: 1,797 images of 8 by 8 pixels, softmax cross-entropy, mini-batches.

    python -m mingrad.examples.digits [--plot digits.svg]
    mpiexec -n 2 python -m mingrad.examples.digits --distributed

The images are scikit-learn's ``load_digits``: real scans, part of that package, nothing is
downloaded. A fifth is held out and never trained on. For a training loop written by hand see
``moons.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from mingrad import distributed, optim
from mingrad.engine import Variable
from mingrad.nn import Dropout, Linear, ReLU, Sequential, cross_entropy
from mingrad.training import FitState, History, fit

HIDDEN = 64
REQUIRED = 0.96  # held-out accuracy below which the program exits with 1


def load() -> tuple[list[list[float]], list[int]]:
    """Return the images, 64 numbers from 0 to 1 each, and the digits they show.

    Raises ImportError, which says what to install, if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits are part of scikit-learn: python -m pip install scikit-learn") from error
    digits = load_digits()
    return (digits.data / 16.0).tolist(), digits.target.tolist()


def accuracy(outputs: Sequence[Sequence[Variable]], digits: Sequence[int]) -> float:
    """Return the share of images, between 0 and 1, whose largest logit is their digit's.

    >>> from mingrad.examples.digits import accuracy
    >>> accuracy([[0.5, 2.0], [0.25, 0.0], [3.0, 1.0], [1.0, 0.0]], [1, 0, 1, 0])
    0.75
    """
    right = 0
    for logits, digit in zip(outputs, digits):
        right += max(range(len(logits)), key=logits.__getitem__) == digit
    return right / len(digits)


def train(epochs: int = 20, seed: int = 1337, progress: bool = True, comm: Any = None) -> tuple[Sequential, History]:
    """Return a trained model and its history, which has the held-out images' accuracy.

    epochs: passes over the other images. seed: of the initial weights, the order of the images and
    what Dropout drops; the fifth that is held out is always the same. progress: print a line per
    epoch. comm: of the processes that share the work, as mingrad.distributed.run() gives it.
    """
    X, Y = load()
    order = random.Random(1337).sample(range(len(X)), len(X))
    fifth = len(X) // 5
    held_out, training = (([X[i] for i in part], [Y[i] for i in part]) for part in (order[:fifth], order[fifth:]))

    random.seed(seed)
    model = Sequential(Linear(64, HIDDEN), ReLU(), Dropout(0.3), Linear(HIDDEN, 10))
    if comm is not None and comm.rank > 0:
        random.seed(f"{seed} {comm.rank}")  # or Dropout would drop the same on all ranks
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-4)

    def report(state: FitState) -> None:
        print(
            f"epoch {state.epoch:2}/{epochs}  loss {state.history['loss'][-1]:.4f}  "
            f"held-out accuracy {state.history['validation accuracy'][-1]:.2%}",
            flush=True,
        )

    if progress:
        print(
            f"a network 64-{HIDDEN}-10, {len(model.parameters())} parameters, "
            f"{len(training[0])} images to learn, {fifth} held out"
        )
    history = fit(
        model, training, loss=cross_entropy, optimizer=optimizer, epochs=epochs, batch_size=32,
        scheduler=optim.CosineAnnealingLR(optimizer, epochs), shuffle=seed, validation=held_out,
        metrics={"accuracy": accuracy}, callbacks=[report] if progress else [], comm=comm,
    )  # fmt: skip
    return model, history


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 below 96 % accuracy, 2 if data is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m mingrad.examples.digits",
        description="Train a small network on scikit-learn's 1,797 handwritten digits.",
    )
    parser.add_argument("--epochs", type=int, default=20, help="passes over the images (20)")
    parser.add_argument("--seed", type=int, default=1337, help="of weights and order (1337)")
    parser.add_argument("--plot", metavar="FILE", help="draw the history (.svg, .png)")
    parser.add_argument("--distributed", action="store_true", help="share the work with the processes that mpiexec started")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")

    try:
        with distributed.run() if options.distributed else contextlib.nullcontext() as comm:
            return command(options, comm)
    except ImportError as error:
        print(f"digits: {error}", file=sys.stderr)
        return 2


def command(options: argparse.Namespace, comm: Any) -> int:
    """Train and say how it went; return the exit status of main()."""
    first = comm is None or comm.rank == 0
    start = time.perf_counter()
    _, history = train(options.epochs, options.seed, progress=first, comm=comm)
    held_out_accuracy = history["validation accuracy"][-1]
    if first:
        if options.plot:
            history.plot(options.plot)
        print(f"held-out accuracy {held_out_accuracy:.2%} after {time.perf_counter() - start:.1f} s")
        if held_out_accuracy < REQUIRED:
            print(f"digits: expected at least {REQUIRED:.0%}", file=sys.stderr)
    return 0 if held_out_accuracy >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
