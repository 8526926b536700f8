"""Fitting the 21 parameters of the scheduler of the package fsrs to 12,000 simulated reviews.

mingrad.examples.fsrs trains them, with mingrad or with PyTorch's float64 in its place; beside them
is the package's own Optimizer, which is PyTorch too. A whole run is 5 epochs with an evaluation
after each: PyTorch evaluates in tensors, as the package does, mingrad in floats. The compiled form
records the scheduler anew in each run, once for each kind of review. The floor is what the
scheduler's own Python costs in floats, without a gradient. The file is not called fsrs.py, as
it would hide the package from every benchmark.
"""

import functools
import statistics

from timing import Case, Form, resident_peak

CASE = "512 counted reviews"
PYTORCH, PACKAGE = "PyTorch, the same loop", "PyTorch, the package's Optimizer"
FLOOR = "floats, the forward passes only"
COMPILED = "mingrad, compiled"


def mini_batch(histories, example):
    """The first histories, cut so that they have exactly one mini-batch of counted reviews."""
    chosen, missing = [], example.BATCH
    for history in histories:
        chosen.append([])
        for review in history[: example.LONGEST]:
            chosen[-1].append(review)
            missing -= review.counts
            if missing == 0:
                return chosen


def cases(whole, part):
    """whole(epochs) -> a dict of lists of numbers; part() trains on 512 counted reviews."""

    def run(epochs):
        return {**whole(epochs), "peak": resident_peak()}

    def parts(n):
        for _ in range(n):
            part()

    return {"whole run": Case(run), CASE: Case(parts)}


def mingrad(backend=None):
    from mingrad.examples import fsrs as example

    backend = backend or example.MINGRAD
    histories, _ = example.simulate()
    few = mini_batch(histories, example)
    return cases(
        lambda epochs: example.train(histories, epochs, backend=backend)._asdict(),
        lambda: example.train(few, 1, backend=backend),
    )


def compiled():
    from mingrad.examples import fsrs as example

    histories, _ = example.simulate()
    few = mini_batch(histories, example)
    example.train_compiled(few, 1)  # NumPy is imported, once in a process
    return cases(lambda epochs: example.train_compiled(histories, epochs)._asdict(), lambda: example.train_compiled(few, 1))


def torch():
    import torch

    from mingrad.examples.fsrs import Backend

    torch.set_num_threads(1)
    tensor = functools.partial(torch.tensor, dtype=torch.float64)
    entropy = torch.nn.BCELoss()

    def loss(predictions, targets):  # one by one, as the package does
        return torch.sum(torch.stack([entropy(prediction, tensor(target)) for prediction, target in zip(predictions, targets)]))

    return mingrad(Backend(tensor, tensor, loss, torch.optim.Adam, torch.optim.lr_scheduler.CosineAnnealingLR, torch.no_grad))


def package():
    import torch
    from fsrs import ReviewLog, optimizer

    from mingrad.examples import fsrs as example

    if not hasattr(optimizer.Optimizer, "compute_optimal_parameters"):
        raise ImportError("fsrs's Optimizer needs torch, pandas and tqdm")
    torch.set_num_threads(1)
    histories, _ = example.simulate()

    def train(histories, epochs):
        optimizer.num_epochs = epochs
        losses = []

        class Optimizer(optimizer.Optimizer):
            def _compute_batch_loss(self, **parameters):
                losses.append(super()._compute_batch_loss(**parameters))
                return losses[-1]

        logs = [
            ReviewLog(number, review.rating, review.date, None)
            for number, history in enumerate(histories)
            for review in history
        ]
        return dict(parameters=Optimizer(logs).compute_optimal_parameters(), epochs=losses)

    few = mini_batch(histories, example)
    return cases(lambda epochs: train(histories, epochs), lambda: train(few, 1))


def floats():
    from mingrad.examples import fsrs as example

    histories, _ = example.simulate()
    few = mini_batch(histories, example)
    defaults = example.defaults()

    def passes(histories, epochs):
        for _ in range(2 * epochs):  # one to train, one to evaluate
            loss = example.mean_loss(histories, defaults)
        return {"epochs": [loss] * epochs}

    return cases(lambda epochs: passes(histories, epochs), lambda: passes(few, 1))


FORMS = {"mingrad": Form(mingrad), COMPILED: Form(compiled), FLOOR: Form(floats), PYTORCH: Form(torch), PACKAGE: Form(package)}


def measure(bench):
    epochs = 1 if bench.quick else 5
    with bench.workers(__name__, FORMS) as workers:
        if "mingrad" not in workers:
            return
        # A B A C A D A: mingrad takes a second, PyTorch half a minute
        answers, ours = {}, []
        for name, worker in workers.items():
            ours.append(workers["mingrad"].ask("whole run", epochs))
            if name != "mingrad":
                answers[name] = worker.ask("whole run", epochs)
            if name == COMPILED:  # a twentieth of a second: the median of nine
                more = [answers[name], *(worker.ask("whole run", epochs) for _ in range(8))]
                answers[name] = sorted(more, key=lambda answer: answer["cpu"])[4]
        answers["mingrad"] = ours[-1]
        cpu = statistics.median(answer["cpu"] for answer in ours)
        for name in workers:
            answer = answers[name]
            seconds = cpu if name == "mingrad" else answer["cpu"]
            bench.row(f"whole run, {epochs} epochs", name, seconds, "s", gc=True, wall=answer["wall"], ratio=seconds / cpu)
        for name in workers:
            if answers[name]["value"]["peak"] is not None:
                bench.row("whole run, memory", name, answers[name]["value"]["peak"], "MB")
        bench.time_rows(workers, CASE)

    for what in ("batches", "epochs", "parameters"):
        bench.agree(
            {
                "batches": "losses of the mini-batches",
                "epochs": "losses after the epochs",
                "parameters": "the learned parameters",
            }[what],
            {name: answer["value"][what] for name, answer in answers.items() if name != FLOOR and what in answer["value"]},
            1e-9,
        )
    times = cpu / answers[COMPILED]["cpu"] if COMPILED in answers else None
    bench.target("fsrs, whole run: mingrad / mingrad, compiled", times, 15, at_least=True)
    for name in (PYTORCH, PACKAGE):
        times = answers[name]["cpu"] / cpu if name in answers else None
        bench.target(f"fsrs, whole run: {name} / mingrad", times, 40, at_least=True)
