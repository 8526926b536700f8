"""Recorded programs: mingrad.compile and vmap beside C by hand, compilers, and mingrad as it is.

An option's price and Greeks for many rows (recorded_rows.py); the training steps of microgpt's
plain loops and of a user's own neurons (forms of microgpt.py and moons.py, which have all others
too); the gradient of a plain loop over 1000 numbers (derivatives.py); the fit of fsrs's scheduler
(spaced_repetition.py); and what recording itself costs, up to programs of a million nodes
(recorded_cost.py).
"""

import math
import statistics

import derivatives
import microgpt
import moons
import recorded_cost as cost
import recorded_rows as rows
import spaced_repetition
from derivatives_models import BOTH, CHECK, FIRST, KNOWN
from timing import ratio

SLOW = 0.5  # seconds
LONG, ROUGH = 120, 10  # seconds that a first call may take, also if --quick


def measure(bench):
    many_rows(bench)
    names(bench)
    neurons(bench)
    loop(bench)
    scheduler(bench)
    first_calls(bench)
    for program in cost.LARGE:
        large(bench, program)


def subset(forms, names):
    return {name: forms[name] for name in names}


def many_rows(bench):
    with bench.workers("recorded_rows", rows.FORMS) as workers:
        for count in rows.SIZES:
            case = rows.case(count)
            bench.agree(f"{count:,} rows", {name: worker.ask(case + CHECK)["value"] for name, worker in workers.items()}, 1e-9)
            found = bench.times(workers, case, SLOW)
            bench.time_rows(workers, case, rows.MINGRAD, found=found)
            ours, two = found.get(rows.MINGRAD), found.get(rows.TWO)
            peers = {name: ratio(ours, found[name]) for name in rows.PEERS if name in found}
            best = max(peers, key=peers.get) if ours and peers else None
            bench.target(
                f"{count:,} options: mingrad / the best of NumPy, JAX, PyTorch, CasADi" + (f" ({best})" if best else ""),
                peers[best] if best else None,
                1,
            )
            bench.target(f"{count:,} options: mingrad / C with libm", ratio(ours, found.get(rows.C)), 1.5)
            if ours and two:
                bench.note(f"{count:,} rows: 2 threads take {two.wall / ours.wall:.2f} of the wall time of 1")


def names(bench):
    forms = subset(microgpt.FORMS, (microgpt.COMPILED, microgpt.PLAIN, microgpt.VALUE, microgpt.JAX, microgpt.C))
    with bench.workers("microgpt", forms) as workers:
        bench.agree(
            "microgpt, losses and every 97th partial",
            {name: worker.ask("check")["value"] for name, worker in workers.items()},
            1e-9,
        )
        microgpt.check_training(bench, workers)
        for case, what in ((microgpt.STEP, "forward and backward"), (microgpt.TRAIN, microgpt.TRAIN)):
            found = bench.times(workers, case, SLOW)
            get = found.get
            bench.time_rows(workers, f"microgpt, {what}", microgpt.COMPILED, per=microgpt.NAMES, found=found)
            ours, jitted = get(microgpt.COMPILED), get(microgpt.JAX)
            if ours and jitted:
                bench.note(f"microgpt, {what}: mingrad / JAX in wall time {ours.wall / jitted.wall:.2f}")
            bench.target(f"microgpt, plain loops compiled, {what}: mingrad / JAX jitted", ratio(ours, jitted), 1)
            bench.target(
                f"microgpt, plain loops compiled, {what}: pure-Python Value / mingrad",
                ratio(get(microgpt.VALUE), ours),
                1500,
                at_least=True,
            )


def neurons(bench):
    given = moons.COMPILED + ", points given"
    forms = subset(
        moons.FORMS,
        (
            moons.COMPILED,
            given,
            moons.OWN + moons.ON,
            moons.CORE,
            "micrograd" + moons.ON,
            "JAX, jitted",
            "NumPy by hand",
            "C by hand, -O3",
        ),
    )
    with bench.workers("moons", forms) as workers:
        steps = 2 if bench.quick else 5
        bench.agree(
            f"moons, losses of the first {steps} steps",
            {name: worker.ask("losses", steps)["value"] for name, worker in workers.items()},
            1e-9,
        )
        found = bench.times(workers, "step", SLOW)
        bench.time_rows(workers, "moons, step", moons.COMPILED, found=found)
    for name in (moons.COMPILED, given):
        bench.target(f"moons, {name}: mingrad / C by hand", ratio(found.get(name), found.get("C by hand, -O3")), 3)


def loop(bench):
    kinds = (derivatives.COMPILED, derivatives.ARRAYS, derivatives.FAST, derivatives.FAST_ARRAYS)
    forms = subset(derivatives.FORMS, (*kinds, derivatives.MINGRAD, "JAX, jitted", "CasADi", "NumPy by hand", "C by hand, -O3"))
    with bench.workers("derivatives", forms) as workers:
        found = derivatives.one(bench, BOTH, workers, derivatives.COMPILED)
    for name in kinds:
        measured = found[name].cpu * 1e6 if name in found else None
        bench.target(f"Rosenbrock-1000, value and gradient: {name}", measured, 20, "us")


def scheduler(bench):
    work = spaced_repetition
    compiled = [name for name in work.FORMS if "compiled" in name]
    if not compiled:
        bench.note("skipped the compiled fit of fsrs's scheduler: spaced_repetition.py has no form of it")
        return
    eager = "mingrad"
    with bench.workers("spaced_repetition", subset(work.FORMS, (*compiled, eager))) as workers:
        found = bench.times(workers, work.CASE, SLOW)
        bench.time_rows(workers, f"fsrs, {work.CASE}", compiled[0], found=found)
    bench.target(
        f"fsrs, {work.CASE}: eager / {compiled[0]}", ratio(found.get(eager), found.get(compiled[0])), 15, at_least=True
    )


def first_calls(bench):
    forms = subset(cost.FORMS, (cost.RECORDED, cost.EAGER))
    with bench.workers("recorded_cost", forms) as workers:
        for name in cost.SMALL:
            for what in (cost.FORWARD, cost.BACKWARD):
                case = f"{name}{what}: first call of all"
                found = bench.times(workers, name + what)
                bench.time_rows(workers, case, cost.EAGER, found=found)
                bench.target(
                    f"{name}{what}: recording / an eager call", ratio(found.get(cost.RECORDED), found.get(cost.EAGER)), 3
                )
                twice = bench.times(workers, name + what + cost.TWICE)
                bench.time_rows(workers, f"{name}{what}: first two calls, steps made", cost.EAGER, found=twice)


# large programs


def large(bench, program):
    """First calls and later ones at the largest programs that the tools take in time."""
    limit = ROUGH if bench.quick else LONG
    with bench.workers("recorded_cost", cost.FORMS) as workers:
        workers = {
            name: worker for name, worker in workers.items() if cost.size(program, cost.NODES[0]) in worker.ask(KNOWN)["value"]
        }
        firsts = {name: grow(worker, program, limit, 1 if bench.quick else 3) for name, worker in workers.items()}
        for nodes in sorted({max(found) for found in firsts.values()}):
            one_size(
                bench,
                cost.size(program, nodes),
                {name: (worker, firsts[name][nodes]) for name, worker in workers.items() if nodes in firsts[name]},
            )
        bench.memory_rows(workers, f"{program}, memory of the process, peak")
        if cost.RECORDED in workers:
            most(bench, cost.size(program, cost.NODES[-1]), workers[cost.RECORDED], firsts[cost.RECORDED].get(cost.NODES[-1]))
    for name, found in firsts.items():
        if max(found) < cost.NODES[-1]:
            first = found[max(found)]
            bench.note(
                f"{name}: the first call of {cost.size(program, max(found))}, took "
                f"{first['wall']:.3g} s; of the next size, longer than {limit} s"
            )


def grow(worker, program, limit, samples):
    """Answers of the first calls of ever larger programs, as long as the next one will be there in
    time if time grows from here as it has grown, or in proportion: {nodes: answer}. An answer is
    the one in the middle of a number of samples where they are quick."""
    found, power, last, before = {}, 1.0, None, None
    for nodes, following in zip(cost.NODES, (*cost.NODES[1:], None)):
        answers = [worker.ask(cost.size(program, nodes) + FIRST)]
        while len(answers) < samples and answers[0]["wall"] < limit / 20:
            answers.append(worker.ask(cost.size(program, nodes) + FIRST))
        answer = found[nodes] = sorted(answers, key=lambda answer: answer["cpu"])[len(answers) // 2]
        if last:
            power = max(1.0, math.log(answer["wall"] / before["wall"]) / math.log(nodes / last))
        if following and answer["wall"] * (following / nodes) ** power > limit:
            break
        last, before = nodes, answer
    return found


def one_size(bench, case, forms):
    """forms: {name: (worker, answer of its first call)}."""
    workers = {name: worker for name, (worker, _) in forms.items()}
    bench.agree(case, {name: worker.ask(case + CHECK)["value"] for name, worker in workers.items()}, 1e-9)
    _, ours = forms.get(cost.RECORDED, (None, None))
    for name, (_, first) in forms.items():
        bench.row(case + FIRST, name, first["cpu"], "s", wall=first["wall"], ratio=ours and first["cpu"] / ours["cpu"])
    bench.time_rows(workers, case, cost.RECORDED, found=bench.times(workers, case, SLOW))


def most(bench, case, worker, first):
    """What is promised of the first calls of mingrad's largest program."""
    value = statistics.median(worker.ask(case + cost.VALUE)["cpu"] for _ in range(3))
    bench.row(case + cost.VALUE, cost.RECORDED, value, "s")
    bench.target(f"{case}: recorded and optimised, first value", value, 3, "s")
    bench.target(f"{case}: and its gradient", first and first["cpu"], 3, "s")
