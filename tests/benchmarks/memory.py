"""Resident memory over 200,000 training iterations of the two toy scripts.

An iteration of "z" is z = x**2 + y with its backward; one of "MLP" is one sample of the
MLP(2, [3, 1]) toy. After a warm-up the memory must not move.
"""

from timing import Case, Form, resident

ITERATIONS, WARM_UP = 200_000, 20_000


def mingrad():
    from mingrad.engine import Variable
    from mingrad.nn import MLP

    X = [[2.0, 3.0], [-1.0, -2.0], [1.5, 2.0], [-1.5, -2.5]]
    y = [1.0, -1.0, 1.0, -1.0]
    a, b = Variable(2.0), Variable(3.0)
    mlp = MLP(2, [3, 1])
    learning_rate = 0.01

    def z(n):
        for _ in range(n):
            z = a**2 + b
            a.zero_grad()
            b.zero_grad()
            z.backward()
        return resident()

    def toy(n):
        for _ in range(n // len(X)):
            for xi, yi in zip(X, y):
                y_pred = mlp(xi)
                loss = (y_pred - yi) ** 2
                mlp.zero_grad()
                loss.backward()
                for p in mlp.parameters():
                    p.data -= learning_rate * p.grad
        return resident()

    return {"z": Case(z), "MLP": Case(toy)}


FORMS = {"mingrad": Form(mingrad)}


def measure(bench):
    iterations = ITERATIONS // 10 if bench.quick else ITERATIONS
    growth = None
    for case in ("z", "MLP"):
        with bench.workers(__name__, FORMS) as workers:
            for worker in workers.values():
                first = worker.ask(case, WARM_UP)["value"]
                cpus, seen = [], []
                for _ in range(10):
                    answer = worker.ask(case, iterations // 10)
                    cpus.append(answer["cpu"])
                    seen.append(answer["value"])
                bench.row(case, "mingrad", sum(cpus) / iterations, "s", gc=True, each="iteration")
                if first is None:
                    bench.note("no /proc here: memory not measured")
                    continue
                bench.row(case, "after the warm-up", first, "MB")
                bench.row(case, "largest seen after that", max(seen), "MB")
                bench.row(case, f"after {iterations:,} iterations more", seen[-1], "MB")
                growth = max(growth or 0.0, max(seen) - first)
    bench.target(f"{iterations:,} toy iterations: growth after warm-up", growth, 0.5, "MB")
