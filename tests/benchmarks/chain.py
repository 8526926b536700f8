"""A chain of 10 million operations: build, backward, drop; seconds and resident memory.

Done once per form, not repeated. The shorter chain beside it shows whether time is linear.
micrograd is left out: its backward recurses once per node of the chain.
"""

from timing import Case, Form, resident, resident_peak

LONG, SHORT = 10_000_000, 1_000_000


def cases(number, after=lambda: None):
    kept = {}

    def memory(n):
        return resident(), resident_peak()

    def build(n):
        w, b, y = number(1.0000001), number(1e-9), number(0.5)
        for _ in range(n // 2):
            y = y * w
            y = y + b
        kept["y"] = y

    def backward(n):
        kept["y"].backward()

    def drop(n):
        kept.clear()
        after()

    return {"memory": Case(memory), "build": Case(build), "backward": Case(backward), "drop": Case(drop)}


def floats():
    return cases(float)


def mingrad():
    from mingrad.engine import Variable, collect

    return cases(Variable, collect)


def torch():
    import torch

    torch.set_num_threads(1)
    return cases(lambda value: torch.tensor(value, dtype=torch.float64, requires_grad=True))


FORMS = {"floats": Form(floats), "mingrad": Form(mingrad), "mingrad, short": Form(mingrad), "torch, short": Form(torch)}


def measure(bench):
    long, short = (LONG // 10, SHORT // 10) if bench.quick else (LONG, SHORT)
    per_op, back = {}, None
    for form in FORMS:  # one after another: each wants the memory for itself
        ops = short if "short" in form else long
        with bench.workers(__name__, {form: FORMS[form]}) as workers:
            for worker in workers.values():
                start, _ = worker.ask("memory")["value"]
                for case in ("build",) if form == "floats" else ("build", "backward", "drop"):
                    took = worker.ask(case, ops)["cpu"]
                    per_op.setdefault(case, {})[form] = took / ops
                    bench.row(f"{case}, {ops:,} ops", form, took, "s", gc=True)
                    bench.row(f"{case}, {ops:,} ops", form, took / ops, "s", gc=True, each="op")
                    if case == "backward":
                        before, peak = worker.ask("memory")["value"]
                end, _ = worker.ask("memory")["value"]
            if workers and form != "floats" and start is not None:
                bench.row("memory before", form, start, "MB")
                bench.row("memory with the chain", form, before, "MB")
                bench.row("memory at its peak", form, peak, "MB")
                bench.row("memory after the drop", form, end, "MB")
                if form == "mingrad":
                    back = end - start
    for case in ("build", "backward"):
        times = per_op.get(case, {})
        linear = times["mingrad"] / times["mingrad, short"] if "mingrad" in times else None
        bench.target(f"chain, {case}: time an op, {long:,} ops / {short:,} ops", linear, 1.5)
    bench.target("chain: memory kept after the drop", back, 20.0, "MB")
