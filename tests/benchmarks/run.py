"""Runs the benchmarks: `python tests/benchmarks/run.py [--only NAME] [--quick] [--json PATH]`.

Prints a table per workload and, at the end, each promised figure beside the measured one. Nothing
fails because it is slow; the exit status is 1 only if a form crashes or two forms of a workload
give different numbers. README.md in this folder says what the lines are.
"""

import argparse
import importlib
import json
import sys

import timing

WORKLOADS = (
    "ops",
    "instructions",
    "neuron",
    "backward",
    "moons",
    "mlp784",
    "chain",
    "memory",
    "footprint",
    "optimisers",
    "digits",
    "microgpt",
    "spaced_repetition",
    "derivatives",
    "recorded",
    "distributed",
)
SCALES = {"s": ((1.0, "s "), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))}


def show(value, unit):
    if value is None:
        return "-"
    for scale, name in SCALES.get(unit, ()):
        if abs(value) >= scale or name == "ns":
            return f"{value / scale:.4g} {name}"
    return f"{value:,.4g} {unit}" if value < 1e4 else f"{value:,.0f} {unit}"


def share(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows):
    """Lines of text for the rows of a workload."""
    lines = [("case", "form", "GC", "measured", "spread", "wall", "ratio")]
    case = None
    for row in rows:
        each = f" / {row['each']}" if "each" in row else ""
        lines.append(
            (
                "" if row["case"] == case else row["case"],
                row["form"],
                {True: "on", False: "off"}.get(row.get("gc"), ""),
                show(row["value"], row["unit"]) + each,
                f"{row['spread']:.0%}" if "spread" in row else "",
                show(row["wall"], row["unit"]) if "wall" in row else "",
                share(row["ratio"]) if row.get("ratio") else "",
            )
        )
        case = row["case"]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()


def summary(targets):
    lines = [("target", "promised", "measured", "met")]
    for target in targets:
        sign = ">=" if target["at_least"] else "<="
        measured = target["measured"]
        lines.append(
            (
                target["text"],
                f"{sign} {target['limit']:,g} {target['unit']}",
                "-" if measured is None else f"{measured:,.4g} {target['unit']}",
                {None: "not measured", True: "yes", False: "NO"}[target["met"]],
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=WORKLOADS,
        metavar="NAME",
        help="one workload (may be repeated): " + ", ".join(WORKLOADS),
    )
    parser.add_argument("--quick", action="store_true", help="few short samples: a rough look")
    parser.add_argument("--json", metavar="PATH", help="write everything to this file too")
    options = parser.parse_args()

    bench = timing.Bench(options.quick)
    environment = timing.environment()
    environment["load"] and print("load average at the start: %.2f" % environment["load"][0])
    print(
        f"Python {environment['python']}, {environment['cpu']}, "
        + ", ".join(f"{name} {version or 'missing'}" for name, version in environment["packages"].items())
    )
    print(
        "Times are CPU time, medians. Spread: between the quartiles of the samples. Ratio: the "
        "line's figure\ndivided by that of mingrad (of its first form in the table)."
    )
    for name in options.only or WORKLOADS:
        bench.workload = name
        module = importlib.import_module(name)
        rows, notes = len(bench.rows), len(bench.notes)
        try:
            module.measure(bench)
        except Exception as error:  # the other workloads are still worth their time
            bench.fail(f"{type(error).__name__}: {error}")
        print(f"\n== {name}: {module.__doc__.splitlines()[0]}")
        for line in table(bench.rows[rows:]):
            print(line)
        for note in bench.notes[notes:]:
            print("  *", note["text"])
        sys.stdout.flush()
    print("\n== promised and measured" + (" (quick: rough)" if options.quick else ""))
    for line in summary(bench.targets):
        print(line)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(
                dict(environment=environment, quick=options.quick, rows=bench.rows, targets=bench.targets, notes=bench.notes),
                file,
                indent=1,
            )
            file.write("\n")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
