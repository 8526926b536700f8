"""backward() on a chain of 200,000 nodes, per node; and how many bytes of tape a node takes.

The graph is built once and walked again and again. micrograd recurses, so its recursion limit is
raised; from Python 3.11 on that costs no C stack.
"""

import sys

from timing import Case, Form, Missing

NODES = 200_000


def operands(number):
    """y = y * w, y = y + b: each node has two operands that ask for a gradient."""
    w, b, y = number(1.0000001), number(1e-9), number(0.5)
    for _ in range(NODES // 2):
        y = y * w
        y = y + b
    return y


def constants(number):
    """y = y * 1.0000001, y = y + 1e-9: one operand is a plain number."""
    y = number(0.5)
    for _ in range(NODES // 2):
        y = y * 1.0000001
        y = y + 1e-9
    return y


def relus(number):
    """y = relu(y * 1.0000001)."""
    y = number(0.5)
    for _ in range(NODES // 2):
        y = y * 1.0000001
        y = y.relu()
    return y


CHAINS = {"y*w, y+b": operands, "y*1.0000001, y+1e-9": constants, "y*1.0000001, relu": relus}


def cases(number, roots, **how):

    def case(name):
        def setup():
            if name not in roots:
                roots.clear()
                roots[name] = CHAINS[name](number)

        def run(n):
            backward = roots[name].backward
            for _ in range(n):
                backward(**how)

        return Case(run, setup)

    return {name: case(name) for name in CHAINS}


def mingrad():
    from mingrad.engine import Variable, collect, tape_info

    roots = {}

    def tape(n):
        roots.clear()
        collect()
        before = tape_info()
        root = operands(Variable)
        collect()
        after = tape_info()
        del root
        return dict(nodes=after.nodes, bytes=after.bytes, capacity=after.capacity, before=before.nodes)

    return dict(cases(Variable, roots), tape=Case(tape))


def micrograd():
    if sys.version_info < (3, 11):
        raise Missing("its recursion would overflow the C stack before Python 3.11")
    from micrograd.engine import Value

    sys.setrecursionlimit(10 * NODES)
    return cases(Value, {})


def torch():
    import torch

    torch.set_num_threads(1)
    return cases(lambda value: torch.tensor(value, dtype=torch.float64, requires_grad=True), {}, retain_graph=True)


FORMS = {"mingrad": Form(mingrad), "micrograd": Form(micrograd), "torch": Form(torch)}


def measure(bench):
    slowest = None
    with bench.workers(__name__, FORMS) as workers:
        for case in CHAINS:
            found = bench.time_rows(workers, case, per=NODES)
            if "mingrad" in found:
                slowest = max(slowest or 0.0, found["mingrad"].cpu / NODES * 1e9)
        tape = workers["mingrad"].ask("tape")["value"] if "mingrad" in workers else None
    bench.target("backward, ns a node, slowest of the chains above", slowest, 5.0, "ns")
    if tape:
        bench.row("tape", "bytes / capacity", tape["bytes"] / tape["capacity"], "bytes")
        bench.row("tape", "bytes / nodes in use", tape["bytes"] / tape["nodes"], "bytes")
        bench.note(f"tape with the chain on it: {tape}")
    bench.target("bytes of tape a node (of its room)", tape and tape["bytes"] / tape["capacity"], 48.0, "bytes")
