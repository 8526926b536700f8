"""A tiny GPT reads names, letter by letter, and learns to invent new ones.

    python -m mingrad.examples.microgpt [NAMES_FILE] [--form plain]

The file has one name in a line; without it a short list below is used. The model is written twice.
PlainGPT is to be read: every number is a Variable, every formula a loop over lists, as in
micrograd. LayersGPT is to be run: the same formulas by mingrad's layers. Both begin with the same
weights and give the same losses. For a first example see ``moons.py``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from mingrad import VariableList, nn, optim
from mingrad.engine import Variable, no_grad

WIDTH = 16  # numbers that describe one letter in its place
HEADS = 4  # looks back that are taken side by side, each at a quarter of the width
BLOCK = 16  # letters that the model looks at, at most
EPSILON = 1e-5  # keeps RMSNorm from dividing by 0
SCALE = 0.1  # standard deviation of the initial weights

RATE = 0.01  # Adam's learning rate at the first step; it falls in a straight line to 0
BETAS = (0.9, 0.99)
TINY = 1e-8  # Adam's epsilon
TEMPERATURE = 0.6  # of invented names: 1 as learned, towards 0 only the likeliest letters


# -- names and letters -----------------------------------------------------------------------------


def load(path: str) -> list[str]:
    """Return the names in a UTF-8 text file, one a line; blanks around them and empty lines go.

    Raises OSError if the file cannot be read, ValueError if it is no UTF-8 text or has no names.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.strip() for line in file.read().split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text with one name a line, got bytes that are none ({error.reason} at byte {error.start})"
        ) from None
    names = [name for name in names if name]
    if not names:
        raise ValueError(f"{path}: expected one name a line, got no names at all")
    return names


def alphabet(names: Sequence[str]) -> str:
    """Return the characters that occur in the names, sorted, each once.

    The model's tokens are their places in it, and one token more, the last: the boundary, which
    stands before and after each name.

    >>> from mingrad.examples.microgpt import alphabet
    >>> alphabet(["ada", "dan"])
    'adn'
    """
    return "".join(sorted(set("".join(names))))


def encode(name: str, letters: str) -> list[int]:
    """Return the tokens of a name with a boundary on both sides, cut to the first BLOCK + 1.

    Raises ValueError if a character is not among the letters.

    >>> from mingrad.examples.microgpt import encode
    >>> encode("dad", "adn")
    [3, 1, 0, 1, 3]
    """
    for letter in name:
        if letter not in letters:
            raise ValueError(f"encode: expected letters among {letters!r}, got {letter!r}")
    boundary = len(letters)
    return [boundary, *map(letters.index, name), boundary][: BLOCK + 1]


def initial_weights(tokens: int, seed: int) -> dict[str, list[list[float]]]:
    """Return the first weights of either form: nine matrices, each a list of rows.

    tokens: number of letters and the boundary. seed: of the normal distribution they are drawn
    from. A matrix has one row for each of its results, and each row one number for each input.

    >>> from mingrad.examples.microgpt import initial_weights
    >>> sum(len(rows) * len(rows[0]) for rows in initial_weights(27, seed=1).values())
    4192
    """
    draw = random.Random(seed)
    shapes = {
        "token": (tokens, WIDTH),  # what a letter is
        "position": (BLOCK, WIDTH),  # where it stands
        "query": (WIDTH, WIDTH),  # attention: what a letter looks for,
        "key": (WIDTH, WIDTH),  # what it can be found by,
        "value": (WIDTH, WIDTH),  # what it tells those that find it,
        "join": (WIDTH, WIDTH),  # and how what the heads found is put together
        "widen": (4 * WIDTH, WIDTH),  # the two layers of the MLP
        "narrow": (WIDTH, 4 * WIDTH),
        "output": (tokens, WIDTH),  # how well each token would come next
    }
    return {
        name: [[draw.gauss(0.0, SCALE) for _ in range(columns)] for _ in range(rows)]
        for name, (rows, columns) in shapes.items()
    }


# -- the model in plain Variables ------------------------------------------------------------------

Number = Any  # a Variable here; anything with micrograd's manners will do
Numbers = list[Number]


def linear(weight: list[Numbers], x: Numbers) -> Numbers:
    """Return weight times x: for each row, the sum of its products with x."""
    return [sum(w * xi for w, xi in zip(row, x)) for row in weight]


def rms_norm(x: Numbers) -> Numbers:
    """Return x divided by the root of the mean of its squares."""
    mean_square = sum(xi * xi for xi in x) / len(x)
    scale = (mean_square + EPSILON) ** -0.5
    return [xi * scale for xi in x]


def softmax(scores: Numbers) -> Numbers:
    """Return shares, positive numbers with the sum 1: exp(score) / sum of all exp(score)."""
    largest = max(score.data for score in scores)  # taken off so that exp cannot overflow
    powers = [(score - largest).exp() for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def attention(query: Numbers, keys: list[Numbers], values: list[Numbers]) -> Numbers:
    """Return the mean of the values, each weighted by how well its key fits the query."""
    fits = [sum(q * k for q, k in zip(query, key)) / len(query) ** 0.5 for key in keys]
    weights = softmax(fits)
    return [sum(w * v for w, v in zip(weights, column)) for column in zip(*values)]


def cross_entropy(logits: Numbers, target: int) -> Number:
    """Return -log(softmax(logits)[target]): 0 if the target was sure, more the less it was."""
    largest = max(logit.data for logit in logits)
    total: Number = sum((logit - largest).exp() for logit in logits)
    return total.log() + largest - logits[target]


class PlainGPT:
    """PlainGPT(weights, number=Variable): the model with every number a Variable.

    weights: as from initial_weights(). number: makes a parameter from a float; anything with
    micrograd's manners will do.

    >>> from mingrad.examples.microgpt import PlainGPT, initial_weights
    >>> model = PlainGPT(initial_weights(27, seed=1))
    >>> len(model.parameters())
    4192
    """

    def __init__(self, weights: dict[str, list[list[float]]], number: Callable[[float], Number] = Variable):
        self.weights = {name: [[number(w) for w in row] for row in rows] for name, rows in weights.items()}

    def parameters(self) -> Numbers:
        """Return all weights in one list."""
        return [w for rows in self.weights.values() for row in rows for w in row]

    def logits(self, token: int, keys: list[Numbers], values: list[Numbers]) -> Numbers:
        """Return the logit of each token to come next, after one token more.

        keys, values: the cache, one of each for each earlier token of the name; this token's are
        appended. So one token is worked on at a time, and it sees those before it, none behind it.
        """
        weights = self.weights
        letter, place = weights["token"][token], weights["position"][len(keys)]
        x = [t + p for t, p in zip(letter, place)]

        # attention: ask what the letters so far have to say, one head for each part of the width
        normed = rms_norm(x)
        query = linear(weights["query"], normed)
        keys.append(linear(weights["key"], normed))
        values.append(linear(weights["value"], normed))
        found = []
        for start in range(0, WIDTH, WIDTH // HEADS):
            part = slice(start, start + WIDTH // HEADS)
            found += attention(query[part], [key[part] for key in keys], [value[part] for value in values])
        x = [xi + f for xi, f in zip(x, linear(weights["join"], found))]

        # MLP: think it over, each letter for itself
        hidden = [h.relu() for h in linear(weights["widen"], rms_norm(x))]
        x = [xi + t for xi, t in zip(x, linear(weights["narrow"], hidden))]

        return linear(weights["output"], rms_norm(x))

    def loss(self, tokens: Sequence[int]) -> Number:
        """Return the mean cross-entropy of each token after the first, told those before it."""
        keys: list[Numbers] = []
        values: list[Numbers] = []
        losses = [cross_entropy(self.logits(token, keys, values), target) for token, target in itertools.pairwise(tokens)]
        return sum(losses) / len(losses)


class PlainAdam:
    """PlainAdam(parameters, steps): Adam in plain floats, the optimiser of PlainGPT.

    It divides a running mean of each gradient by the root of a running mean of its square, so each
    parameter moves by about the learning rate, however steep the loss is there. The learning rate
    falls to 0 over the given number of steps.
    """

    def __init__(self, parameters: Numbers, steps: int):
        self.parameters = parameters
        self.steps = steps
        self.done = 0
        self.means = [0.0] * len(parameters)
        self.squares = [0.0] * len(parameters)

    def zero_grad(self) -> None:
        """Set the gradients to 0."""
        for p in self.parameters:
            p.grad = 0.0

    def step(self) -> None:
        """Move the parameters against their gradients."""
        rate = RATE * (1 - self.done / self.steps)
        self.done += 1
        beta, beta_squares = BETAS
        # the running means begin at 0; these make up for it
        of_means, of_squares = 1 - beta**self.done, 1 - beta_squares**self.done
        for i, p in enumerate(self.parameters):
            self.means[i] = beta * self.means[i] + (1 - beta) * p.grad
            self.squares[i] = beta_squares * self.squares[i] + (1 - beta_squares) * p.grad**2
            root = math.sqrt(self.squares[i] / of_squares)
            p.data -= rate * (self.means[i] / of_means) / (root + TINY)


# -- the same model with mingrad's layers ----------------------------------------------------------


class LayersGPT(nn.Module):
    """LayersGPT(weights): the model of PlainGPT, made of mingrad.nn.

    weights: as from initial_weights().

    >>> from mingrad.examples.microgpt import LayersGPT, initial_weights
    >>> model = LayersGPT(initial_weights(27, seed=1))
    >>> len(model.parameters())
    4192
    """

    def __init__(self, weights: dict[str, list[list[float]]]):
        tokens = len(weights["token"])
        self.token = nn.Embedding(tokens, WIDTH)
        self.position = nn.Embedding(BLOCK, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.join = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, tokens, bias=False)
        self.norm = nn.RMSNorm(WIDTH, eps=EPSILON, elementwise_affine=False)
        self.relu = nn.ReLU()
        self.load_state_dict(
            {
                f"{name}.weight.{i}.{j}": w
                for name, rows in weights.items()
                for i, row in enumerate(rows)
                for j, w in enumerate(row)
            }
        )

    def logits(self, token: int, keys: list[VariableList], values: list[VariableList]) -> VariableList:
        """Return the logit of each token to come next, after one token more; see PlainGPT."""
        x = self.token(token) + self.position(len(keys))
        normed = self.norm(x)
        keys.append(self.key(normed))
        values.append(self.value(normed))
        found = nn.scaled_dot_product_attention(self.query(normed), keys, values, heads=HEADS)
        x = x + self.join(found)
        x = x + self.narrow(self.relu(self.widen(self.norm(x))))
        return self.output(self.norm(x))

    def loss(self, tokens: Sequence[int]) -> Variable:
        """Return the mean cross-entropy of each token after the first, told those before it."""
        keys: list[VariableList] = []
        values: list[VariableList] = []
        logits = [self.logits(token, keys, values) for token in tokens[:-1]]
        return nn.cross_entropy(logits, tokens[1:])


class LayersAdam:
    """LayersAdam(parameters, steps): PlainAdam, made of mingrad.optim."""

    def __init__(self, parameters: Sequence[Variable], steps: int):
        self.adam = optim.Adam(parameters, lr=RATE, betas=BETAS, eps=TINY)
        self.schedule = optim.LambdaLR(self.adam, lambda done: 1 - done / steps)

    def zero_grad(self) -> None:
        """Set the gradients to 0."""
        self.adam.zero_grad()

    def step(self) -> None:
        """Move the parameters against their gradients, then lower the learning rate."""
        self.adam.step()
        self.schedule.step()


# -- training and inventing ------------------------------------------------------------------------

FORMS: dict[str, tuple[Any, Any]] = {"plain": (PlainGPT, PlainAdam), "layers": (LayersGPT, LayersAdam)}


def train(
    names: Sequence[str],
    steps: int = 1000,
    form: str = "layers",
    seed: int = 1,
    report: Callable[[int, float], object] | None = None,
) -> PlainGPT | LayersGPT:
    """Return a model trained on the names, one name a step, over and over in one shuffled order.

    steps: number of updates, at least 1. form: "plain" or "layers". seed: of the initial weights
    and of the order. report: called after each step as ``report(step, loss)``, with the loss from
    before its update.

    Raises ValueError if there are no names.
    """
    if not names:
        raise ValueError("train: expected at least one name, got none")
    letters = alphabet(names)
    order = random.Random(seed).sample(names, len(names))
    Model, Optimizer = FORMS[form]
    model: PlainGPT | LayersGPT = Model(initial_weights(len(letters) + 1, seed))
    optimizer = Optimizer(model.parameters(), steps)
    for step in range(steps):
        loss = model.loss(encode(order[step % len(order)], letters))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report:
            report(step, loss.data)
    return model


def invent(
    model: PlainGPT | LayersGPT,
    letters: str,
    draw: random.Random,
    temperature: float = TEMPERATURE,
) -> str:
    """Return a name of at most BLOCK letters, drawn letter by letter as the model expects them.

    letters: the alphabet it was trained with. draw: where chance comes from. temperature: above 0;
    logits are divided by it, so the lower it is the likelier is the likeliest letter.
    """
    boundary = token = len(letters)
    name = ""
    keys: list[Any] = []
    values: list[Any] = []
    with no_grad():
        while len(name) < BLOCK:
            logits = [logit.data for logit in model.logits(token, keys, values)]
            largest = max(logits)
            shares = [math.exp((logit - largest) / temperature) for logit in logits]
            token = draw.choices(range(boundary + 1), shares)[0]
            if token == boundary:
                break
            name += letters[token]
    return name


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 if the names cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m mingrad.examples.microgpt",
        description="Train a tiny GPT on names and let it invent some.",
    )
    parser.add_argument(
        "names", nargs="?", metavar="NAMES_FILE", help=f"text file, one name a line ({len(NAMES)} names that are built in)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="names to learn from (1000)")
    parser.add_argument(
        "--form", choices=FORMS, default="layers", help="of the model: in plain Variables or with mingrad's layers (layers)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of weights, order and names (1)")
    parser.add_argument("--samples", type=int, default=20, help="names to invent (20)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    if options.samples < 0:
        parser.error(f"--samples must be at least 0, got {options.samples}")

    try:
        names = load(options.names) if options.names is not None else NAMES
    except OSError as error:
        print(f"microgpt: {options.names}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"microgpt: {error}", file=sys.stderr)
        return 2

    letters = alphabet(names)
    count = sum(len(rows) * len(rows[0]) for rows in initial_weights(len(letters) + 1, 0).values())
    print(f"{len(names):,} names of {len(letters)} letters, {count:,} parameters, form: {options.form}")
    long = sum(len(name) >= BLOCK for name in names)
    if long:
        print(f"{long:,} names are longer than {BLOCK - 1} letters: of these only the first {BLOCK} letters are learned")

    seen: list[float] = []

    def report(step: int, loss: float) -> None:
        seen.append(loss)
        if (step + 1) * 10 // options.steps > step * 10 // options.steps:
            print(f"step {step + 1:{len(str(options.steps))}}/{options.steps}  loss {sum(seen) / len(seen):.4f}", flush=True)
            seen.clear()

    start = time.perf_counter()
    model = train(names, options.steps, options.form, options.seed, report)
    took = time.perf_counter() - start
    print(f"{took:.1f} s, {took / options.steps * 1e3:.2f} ms a step")
    draw = random.Random(options.seed)
    for _ in range(options.samples):
        print(" ", invent(model, letters, draw))
    return 0


NAMES = """
    adam alexander alice amelia anna anton beatrice benjamin bruno camila carlos charlotte clara
    daniel diana edward elena elias emily eva felix finn florence gabriel george grace hannah henry
    hugo ida isabella jack jacqueline james julia karl katherine laura leo lucas maria max mia nina
    noah olive oscar paula quinn rosa samuel sofia thomas ulla victor viola walter xavier yara zoe
""".split()


if __name__ == "__main__":
    sys.exit(main())
