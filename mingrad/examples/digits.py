"""Read handwritten digits: 1,797 images of 8 by 8 pixels, softmax cross-entropy, mini-batches.

    python -m mingrad.examples.digits

The images are scikit-learn's ``load_digits``: real scans, part of that package, nothing is
downloaded. A fifth is held out and never trained on. The loss is written in plain Variables; for a
first example see ``moons.py``.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import mingrad
from mingrad.engine import Variable, no_grad
from mingrad.nn import MLP

HIDDEN = 32
BATCH = 32
REQUIRED = 0.95  # held-out accuracy below which the program exits with 1


def load() -> tuple[list[list[float]], list[int]]:
    """Return the images, 64 numbers from 0 to 1 each, and the digits they show.

    Raises ImportError, which says what to install, if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits are part of scikit-learn: python -m pip install scikit-learn"
        ) from error
    digits = load_digits()
    return (digits.data / 16.0).tolist(), digits.target.tolist()


def cross_entropy(logits: list[Variable], digit: int) -> Variable:
    """Return -log(softmax(logits)[digit]), in the form that cannot overflow."""
    return mingrad.logsumexp(logits) - logits[digit]


def accuracy(model: MLP, images: list[list[float]], digits: list[int]) -> float:
    """Return the share of images, between 0 and 1, whose largest logit is their digit's."""
    with no_grad():
        right = 0
        for image, digit in zip(images, digits):
            logits = model(image)
            right += logits.index(max(logits)) == digit
    return right / len(digits)


def train(
    epochs: int = 20, seed: int = 1337, learning_rate: float = 0.5, progress: bool = True
) -> tuple[MLP, float]:
    """Return a trained MLP and its accuracy on the fifth of the images that was held out.

    epochs: passes over the other four fifths. seed: of the split, the initial weights and the
    order of the images. learning_rate: at the start; it falls by nine tenths over the run.
    progress: print a line per epoch.
    """
    X, Y = load()
    random.seed(seed)
    order = random.sample(range(len(X)), len(X))
    fifth = len(X) // 5
    held_out, training = order[:fifth], order[fifth:]
    test_X, test_Y = [X[i] for i in held_out], [Y[i] for i in held_out]

    model = MLP(64, [HIDDEN, 10])
    if progress:
        print(f"{model.__class__.__name__} 64-{HIDDEN}-10, {len(model.parameters())} parameters, "
              f"{len(training)} images to learn, {fifth} held out")
    for epoch in range(epochs):
        rate = learning_rate * (1.0 - 0.9 * epoch / epochs)
        random.shuffle(training)
        total = 0.0
        for start in range(0, len(training), BATCH):
            batch = training[start : start + BATCH]
            loss = sum(cross_entropy(model(X[i]), Y[i]) for i in batch) / len(batch)
            model.zero_grad()
            loss.backward()
            for p in model.parameters():
                p.data -= rate * p.grad
            total += loss.data * len(batch)
        if progress:
            print(f"epoch {epoch + 1:2}/{epochs}  loss {total / len(training):.4f}  "
                  f"held-out accuracy {accuracy(model, test_X, test_Y):.2%}", flush=True)
    return model, accuracy(model, test_X, test_Y)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 below 95 % accuracy, 2 if data is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m mingrad.examples.digits",
        description="Train a small network on scikit-learn's 1,797 handwritten digits.",
    )
    parser.add_argument("--epochs", type=int, default=20, help="passes over the images (20)")
    parser.add_argument("--seed", type=int, default=1337, help="of split and weights (1337)")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")

    start = time.perf_counter()
    try:
        _, held_out_accuracy = train(options.epochs, options.seed)
    except ImportError as error:
        print(f"digits: {error}", file=sys.stderr)
        return 2
    print(f"held-out accuracy {held_out_accuracy:.2%} after {time.perf_counter() - start:.1f} s")
    if held_out_accuracy < REQUIRED:
        print(f"digits: expected at least {REQUIRED:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
