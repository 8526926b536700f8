"""Gradients, Hessians and products of functions a user writes, by mingrad and by other tools.

Rosenbrock's function of 10, 100 and 1000 numbers, a Black-Scholes price with its Greeks, the fit of
a Lotka-Volterra model, and the sparse Hessian of a chain of 400; float64. What is made once for any
number of calls stands apart as "first call": JAX's tracing and compiling, CasADi's symbols and
Function. Arguments and results are what each tool works with: lists of floats, its own arrays.
derivatives_models.py has the functions, derivatives_forms.py the tools.
"""

import statistics

import derivatives_forms as forms
from derivatives_models import CHECK, FIRST, FIT, JOBS, KNOWN, LINKS, PRODUCT
from timing import Form, ratio

MINGRAD, SPARSE, BACKWARD, ALONE = ("mingrad", "mingrad, sparse", "mingrad, backward()", "mingrad, f alone")
COMPILED, ARRAYS = "mingrad, compiled", "mingrad, compiled, arrays"
FAST = "mingrad, compiled, fast=True"
FAST_ARRAYS = "mingrad, compiled, fast=True, arrays"
DIFFERENCES = "floats, central differences"
SLOW = 0.5  # seconds

FORMS = {
    MINGRAD: Form(forms.mingrad),
    SPARSE: Form(forms.sparse),
    BACKWARD: Form(forms.backward),
    ALONE: Form(forms.alone),
    COMPILED: Form(forms.compiled),
    ARRAYS: Form(forms.compiled_array),
    FAST: Form(lambda: forms.compiled(fast=True)),
    FAST_ARRAYS: Form(lambda: forms.compiled_array(fast=True)),
    "JAX, jitted": Form(forms.jax),
    "JAX, jitted, forward mode": Form(lambda: forms.jax(forward=True)),
    "JAX, not jitted": Form(lambda: forms.jax(compiled=False)),
    "CasADi": Form(forms.casadi),
    "CasADi, dense": Form(lambda: forms.casadi(dense=True)),
    "CasADi, mapaccum": Form(forms.casadi_map),
    "PyTorch, torch.func": Form(lambda: forms.torch(transforms=True)),
    "PyTorch, torch.autograd": Form(lambda: forms.torch(transforms=False)),
    "HIPS autograd": Form(forms.hips),
    "HIPS autograd, scalars": Form(forms.hips_scalars),
    "XAD": Form(forms.xad),
    "NumPy by hand": Form(forms.numpy),
    "floats, closed form": Form(forms.closed_form),
    DIFFERENCES: Form(forms.differences),
    "C by hand, -O3": Form(forms.c),
}


def measure(bench):
    with bench.workers(__name__, FORMS) as workers:
        known = {name: worker.ask(KNOWN)["value"] for name, worker in workers.items()}
        found = {}
        for job in JOBS:
            case = job.case
            here = {name: worker for name, worker in workers.items() if case in known[name]}
            if not here:
                continue
            baseline = MINGRAD
            if case == LINKS and SPARSE in here:
                baseline, here = SPARSE, {SPARSE: here[SPARSE], **here}
            found[case] = one(bench, case, here, baseline)
    if FIT not in known.get(MINGRAD, ()):
        bench.note("skipped the fits by SciPy's L-BFGS-B: SciPy is not installed")
    bench.note(
        "left out, as too slow to repeat: JAX not jitted with the 200 steps in a Python "
        "loop (seconds for one gradient), the fits by HIPS autograd and JAX not jitted"
    )
    costs = {case: ratio(times.get(MINGRAD), times.get(ALONE)) for case, times in found.items()}
    bench.note(
        "mingrad's cost in evaluations of the function on Variables: "
        + ", ".join(f"{case} {cost:.1f}" for case, cost in costs.items() if cost)
    )
    bench.target(f"{PRODUCT}: mingrad / f on Variables", costs.get(PRODUCT), 5, "evaluations")


def one(bench, case, workers, baseline):
    """Compare and time a case in all workers given: {form: Timing}."""
    compare(bench, case, {name: worker.ask(case + CHECK)["value"] for name, worker in workers.items()})
    found = bench.times(workers, case, SLOW)
    bench.time_rows(workers, case, baseline, found=found)
    for name, worker in workers.items():
        if case + FIRST in worker.ask(KNOWN)["value"]:
            first_call(bench, case, name, worker, found.get(baseline))
    return found


def compare(bench, case, answers):
    """Numbers of all forms that have exact derivatives, and more roughly of the others."""
    answers.pop(ALONE, None)
    if case == FIT:
        bench.note(
            f"{case}: calls of the function: " + ", ".join(f"{name} {calls:.0f}" for name, (_, calls) in answers.items())
        )
        answers = {name: answer[:1] for name, answer in answers.items()}
    rough = {MINGRAD: answers.get(MINGRAD, []), DIFFERENCES: answers.pop(DIFFERENCES, [])}
    bench.agree(case, answers, 1e-9)
    if all(rough.values()):
        bench.agree(f"{case}, by differences", rough, 1e-6)


def first_call(bench, case, name, worker, baseline):
    answers = [worker.ask(case + FIRST) for _ in range(1 if bench.quick else 3)]
    cpu, wall = (statistics.median(answer[clock] for answer in answers) for clock in ("cpu", "wall"))
    bench.row(
        case, name + FIRST, cpu, "s", gc=True, wall=wall, samples=len(answers), ratio=ratio(cpu, baseline and baseline.cpu)
    )
