"""mingrad/examples/microgpt.py: the model's numbers against PyTorch, differences and each other.

The command is run as a user runs it, in a process of its own. How fast it is: tests/benchmarks.
"""

import math
import os
import pathlib
import random
import re
import subprocess
import sys

import pytest

import mingrad
from mingrad import Variable, no_grad
from mingrad.examples import microgpt
from mingrad.examples.microgpt import (
    BLOCK,
    EPSILON,
    FORMS,
    HEADS,
    NAMES,
    RATE,
    WIDTH,
    PlainAdam,
    alphabet,
    encode,
    initial_weights,
    invent,
    load,
    train,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Two right orders of the same sums differ by some units in the last place of their largest terms;
# after a few hundred operations 1e-12 of the result is far from both that and a wrong formula.
SAME = 1e-12


def made(form, tokens=27, seed=1):
    return FORMS[form][0](initial_weights(tokens, seed))


def gradients(model, name="quinn"):
    """The gradient of a name's loss, a float for each parameter."""
    for p in model.parameters():
        p.zero_grad()
    model.loss(encode(name, LETTERS)).backward()
    return [p.grad for p in model.parameters()]


def assert_close(got, expected, bound=SAME):
    """Element by element, relative to the largest: small sums of large terms round as these do."""
    size = max(map(abs, expected))
    assert len(got) == len(expected) and size > 0
    for k, (x, y) in enumerate(zip(got, expected)):
        assert abs(x - y) <= bound * size, f"element {k}: got {x!r}, expected {y!r}"


# -- names and letters -----------------------------------------------------------------------------


def test_load_takes_one_name_a_line_without_blanks(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffada\r\n\n  zoë \njean luc".encode())
    assert load(path) == ["ada", "zoë", "jean luc"]


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\t\n"], ids=range(3))
def test_load_refuses_a_file_without_names(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: expected one name a line, got no names at all"


def test_load_refuses_what_is_no_text(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"ada\n" * 10_000 + b"\xff\xfe")
    with pytest.raises(ValueError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: expected UTF-8 text with one name a line, got bytes that are none (invalid start byte at byte 40000)"
    )


def test_the_built_in_names_have_each_letter_of_the_alphabet():
    assert len(NAMES) == len(set(NAMES)) == 60
    assert alphabet(NAMES) == LETTERS
    assert max(map(len, NAMES)) < BLOCK


def test_names_become_tokens_between_two_boundaries():
    assert encode("", "ab") == [2, 2]
    assert encode("abba", "ab") == [2, 0, 1, 1, 0, 2]
    assert encode("b" * (BLOCK - 1), "ab") == [2] + [1] * (BLOCK - 1) + [2]
    with pytest.raises(ValueError) as caught:
        encode("abc", "ab")
    assert str(caught.value) == "encode: expected letters among 'ab', got 'c'"


@pytest.mark.parametrize("length", [BLOCK, BLOCK + 1, 100])
def test_a_long_name_is_cut_to_what_the_model_can_look_at(length):
    assert encode("b" * length, "ab") == [2] + [1] * BLOCK


# -- the model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_model_has_4192_parameters_and_the_weights_it_was_given(form):
    weights = initial_weights(27, seed=3)
    flat = [w for rows in weights.values() for row in rows for w in row]
    assert len(flat) == 4192
    assert [p.data for p in FORMS[form][0](weights).parameters()] == flat


def test_initial_weights_follow_from_the_seed():
    assert initial_weights(5, seed=1) == initial_weights(5, seed=1)
    assert initial_weights(5, seed=1) != initial_weights(5, seed=2)
    assert {name: (len(rows), len(rows[0])) for name, rows in initial_weights(5, 1).items()} == {
        "token": (5, 16),
        "position": (16, 16),
        "query": (16, 16),
        "key": (16, 16),
        "value": (16, 16),
        "join": (16, 16),
        "widen": (64, 16),
        "narrow": (16, 64),
        "output": (5, 16),
    }


def test_softmax_gives_shares_and_cannot_overflow():
    logits = [Variable(x) for x in (1000.0, 998.0, -1000.0)]
    shares = [share.data for share in microgpt.softmax(logits)]
    assert shares == pytest.approx(mingrad.softmax([1000.0, 998.0, -1000.0]), rel=1e-15)


def test_cross_entropy_is_minus_the_log_of_the_share_and_cannot_overflow():
    logits = [Variable(x) for x in (3.0, 1.0, 2.5)]
    expected = -math.log(mingrad.softmax([3.0, 1.0, 2.5])[1])
    assert microgpt.cross_entropy(logits, 1).data == pytest.approx(expected, rel=1e-14)
    far = [Variable(x) for x in (1000.0, -1000.0)]
    assert microgpt.cross_entropy(far, 1).data == 2000.0


def test_rms_norm_makes_the_mean_square_one():
    normed = microgpt.rms_norm([Variable(x) for x in (3.0, -4.0, 12.0)])
    assert sum(x.data**2 for x in normed) / 3 == pytest.approx(1.0, abs=EPSILON)
    assert [x.data for x in microgpt.rms_norm([Variable(0.0)])] == [0.0]


@pytest.mark.parametrize("form", FORMS)
def test_an_untrained_model_is_about_as_good_as_guessing(form):
    loss = made(form).loss(encode("emilia", LETTERS)).data
    assert loss == pytest.approx(math.log(27), rel=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_a_letter_sees_those_before_it_and_none_behind_it(form):
    model = made(form)

    def logits(tokens):
        keys, values = [], []
        return [[x.data for x in model.logits(t, keys, values)] for t in tokens]

    first, second = logits([26, 3, 4, 5]), logits([26, 3, 9, 5])
    assert first[:2] == second[:2]
    assert first[2] != second[2] and first[3] != second[3]


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_matches_differences(form):
    model = made(form)
    parameters = model.parameters()
    tokens = encode("quinn", LETTERS)
    found = gradients(model)
    steepest = max(map(abs, found))
    places = random.Random(1).sample([k for k, g in enumerate(found) if g], 40)
    # a central difference errs by step**2 and by rounding / step
    step, bound = 1e-5, 1e-8
    for k in places:
        start = parameters[k].data
        with no_grad():
            parameters[k].data = start + step
            above = model.loss(tokens).data
            parameters[k].data = start - step
            below = model.loss(tokens).data
        parameters[k].data = start
        assert abs((above - below) / (2 * step) - found[k]) <= bound * steepest, k


@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_are_those_of_pytorch(form):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    functional = torch.nn.functional
    weights = {
        name: torch.tensor(rows, dtype=torch.float64, requires_grad=True) for name, rows in initial_weights(27, 1).items()
    }
    tokens = torch.tensor(encode("quinn", LETTERS))

    def norm(x):
        return functional.rms_norm(x, (WIDTH,), eps=EPSILON)

    def heads(x):
        return x.view(-1, HEADS, WIDTH // HEADS).transpose(0, 1)

    x = weights["token"][tokens[:-1]] + weights["position"][: len(tokens) - 1]
    query, key, value = (heads(norm(x) @ weights[part].T) for part in ("query", "key", "value"))
    found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    x = x + found.transpose(0, 1).reshape(-1, WIDTH) @ weights["join"].T
    x = x + torch.relu(norm(x) @ weights["widen"].T) @ weights["narrow"].T
    loss = functional.cross_entropy(norm(x) @ weights["output"].T, tokens[1:])
    loss.backward()

    model = made(form)
    assert model.loss(tokens.tolist()).data == pytest.approx(loss.item(), rel=SAME)
    assert_close(gradients(model), [g for w in weights.values() for g in w.grad.ravel().tolist()])


def test_plain_adam_is_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    start = [0.5, -2.0, 0.0, 1e-3]
    own = [Variable(x) for x in start]
    others = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in start]
    optimizer = PlainAdam(own, steps=50)
    other = torch.optim.Adam(others, lr=RATE, betas=microgpt.BETAS, eps=microgpt.TINY)
    draw = random.Random(1)
    for step in range(50):
        other.param_groups[0]["lr"] = RATE * (1 - step / 50)
        for p, q in zip(own, others):
            p.grad = draw.gauss(0.0, 1.0) if q is not others[2] else 0.0
            q.grad = torch.tensor(p.grad, dtype=torch.float64)
        optimizer.step()
        other.step()
    assert_close([p.data for p in own], [q.item() for q in others])


def test_plain_adam_sets_gradients_to_zero_when_asked():
    p = Variable(1.0)
    p.grad = 2.0
    PlainAdam([p], steps=1).zero_grad()
    assert p.grad == 0.0


# -- training and inventing ------------------------------------------------------------------------


def losses(form, steps, names=NAMES, seed=1):
    found = []
    train(names, steps, form, seed, lambda step, loss: found.append((step, loss)))
    assert [step for step, _ in found] == list(range(steps))
    return [loss for _, loss in found]


def test_both_forms_give_the_same_loss_and_gradient():
    plain, layers = made("plain"), made("layers")
    tokens = encode("quinn", LETTERS)
    assert layers.loss(tokens).data == pytest.approx(plain.loss(tokens).data, rel=SAME)
    assert_close(gradients(layers), gradients(plain))


def test_both_forms_give_the_same_losses_over_100_steps():
    # roundings grow as the parameters move on; measured: 5e-16 here, 4e-13 after 1,000 steps
    plain, layers = losses("plain", 100), losses("layers", 100)
    assert layers == pytest.approx(plain, rel=SAME)
    assert layers[0] > 1.2 * layers[-1]


def test_both_forms_invent_the_same_names():
    names = [[invent(made(form), LETTERS, random.Random(seed)) for seed in range(5)] for form in FORMS]
    assert names[0] == names[1] and len(set(names[0])) == 5


@pytest.mark.parametrize("form", FORMS)
def test_training_lowers_the_loss(form):
    found = losses(form, 120, NAMES[:4])
    assert sum(found[-4:]) < 0.4 * sum(found[:4])


@pytest.mark.parametrize("form", FORMS)
def test_training_gives_the_same_bits_twice(form):
    first, again = losses(form, 5), losses(form, 5)
    assert [x.hex() for x in first] == [x.hex() for x in again]
    assert first != losses(form, 5, seed=2)


def test_training_takes_all_names_in_turn_in_an_order_of_the_seed(monkeypatch):
    def order(seed):
        taken = []
        monkeypatch.setattr(microgpt, "encode", lambda name, letters: taken.append(name) or encode(name, letters))
        train(NAMES[:7], 14, seed=seed)
        return taken

    taken = order(1)
    assert sorted(taken[:7]) == sorted(NAMES[:7]) and taken[7:] == taken[:7]
    assert taken != order(2)


@pytest.mark.parametrize("form", FORMS)
def test_training_needs_names(form):
    with pytest.raises(ValueError) as caught:
        train([], 5, form)
    assert str(caught.value) == "train: expected at least one name, got none"


@pytest.mark.parametrize("form", FORMS)
def test_invented_names_follow_from_the_seed(form):
    model = made(form)
    first, again, other = ([invent(model, LETTERS, random.Random(seed)) for _ in range(5)] for seed in (1, 1, 2))
    assert first == again != other
    assert all(set(name) <= set(LETTERS) and len(name) <= BLOCK for name in first + other)


def test_a_model_that_learned_one_name_says_it():
    model = train(["otto"], 60)
    assert invent(model, "ot", random.Random(1)) == "otto"


# -- the command -----------------------------------------------------------------------------------


def run(*arguments):
    """Run `python -m mingrad.examples.microgpt arguments`; return the finished process."""
    home = str(pathlib.Path(mingrad.__file__).parent.parent)
    changes = {"PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-m", "mingrad.examples.microgpt", *arguments],
        env={**os.environ, **changes},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_command_trains_on_the_built_in_names_and_invents_some(form):
    finished = run("--steps", "100", "--form", form, "--samples", "3")
    assert (finished.returncode, finished.stderr) == (0, "")
    lines = finished.stdout.splitlines()
    assert lines[0] == f"60 names of 26 letters, 4,192 parameters, form: {form}"
    progress = [re.fullmatch(r"step +(\d+)/100  loss (\d\.\d{4})", line) for line in lines[1:11]]
    assert [int(match[1]) for match in progress] == list(range(10, 101, 10))
    assert float(progress[-1][2]) < float(progress[0][2])
    assert re.fullmatch(r"[\d.]+ s, [\d.]+ ms a step", lines[11])
    assert len(lines) == 15 and all(re.fullmatch(r"  [a-z]*", line) for line in lines[12:])


def test_the_command_reads_a_names_file_and_repeats_itself(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Žofie\nŽaneta\n", encoding="utf-8")
    first, again, other = (run(str(path), "--steps", "3", "--samples", "4", "--seed", seed) for seed in ("1", "1", "2"))
    assert first.returncode == 0
    # 8 letters and the boundary instead of 27 tokens: two matrices with rows of 16 numbers less
    assert first.stdout.startswith("2 names of 8 letters, 3,616 parameters, form: ")
    invented = [finished.stdout.splitlines()[-4:] for finished in (first, again, other)]
    assert invented[0] == invented[1] != invented[2]


def test_the_command_says_when_names_are_cut(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("bartholomew\n" + "a" * (BLOCK - 1) + "\n" + "a" * BLOCK + "\n")
    finished = run(str(path), "--steps", "1", "--samples", "0")
    assert finished.returncode == 0
    assert "1 names are longer than 15 letters: of these only the first 16 letters are learned\n" in finished.stdout


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "No such file or directory"),
        (b"", "expected one name a line, got no names at all"),
        (b"\xff\xfe", "expected UTF-8 text with one name a line, got bytes that are none (invalid start byte at byte 0)"),
    ],
    ids=["missing", "empty", "binary"],
)
def test_the_command_says_why_it_cannot_have_the_names(tmp_path, capsys, content, reason):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    assert microgpt.main([str(path)]) == 2
    assert capsys.readouterr() == ("", f"microgpt: {path}: {reason}\n")


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--samples", "-1"], "--samples must be at least 0, got -1"),
        (["--steps", "x"], "argument --steps: invalid int value: 'x'"),
        (["--form", "other"], "argument --form: invalid choice: 'other'"),
        (["--other"], "unrecognized arguments: --other"),
    ],
    ids=str,
)
def test_the_command_refuses_bad_arguments(capsys, arguments, reason):
    with pytest.raises(SystemExit) as caught:
        microgpt.main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "usage: python -m mingrad.examples.microgpt" in error and reason in error


# -- the checkers ----------------------------------------------------------------------------------


def test_a_wrong_gradient_is_noticed():
    right = gradients(made("plain"))
    wrong = list(right)
    wrong[100] += 1e-11 * max(map(abs, right))
    assert_close(right, right)
    for bad in (wrong, right[:-1], [float("nan"), *right[1:]]):
        with pytest.raises(AssertionError):
            assert_close(bad, right)
