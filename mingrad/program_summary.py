"""Program.summary(): what the optimiser (csrc/schedule.pxi) has made of a recording, as text for people."""

from itertools import groupby
from os.path import basename

from . import _core
from .program import _count, _nest, _operands

_VALUE, _SLOPE_A, _SLOPE_B, _AUX, _SLOPE_N, _CHAIN, _HELPER = range(7)  # kinds of steps: csrc/steps.h
_LISTED = 2
_NARROW = 4  # a step of fewer results than that leaves most of a vector unused


def summarize(program, lines=True):
    """lines=False: without the lines of the code, for which the function is called once more."""
    steps, n_results, shared, row_bytes, number_bytes, step_bytes = _core._summary(program)
    lines = _Lines(program, lines)
    gradient = len(steps) - n_results
    text = [
        f"{program.name}: {len(program):,} rows recorded, {_count(len(steps), 'step')}"
        + (f" ({n_results:,} for results, {gradient:,} for the gradient)" if gradient else ""),
        _operands(program),
        f"{row_bytes:,} bytes recorded; {number_bytes:,} bytes of numbers for each run, {step_bytes:,} of steps and lists",
    ]
    for title, part in (("results", steps[:n_results]), ("gradient", steps[n_results:])):
        if part:
            text += ["", title, *_table(part, lines)]
    stopped = [
        *_stops(steps, lines),
        *(f"a sum that others need too is no part of a longer one{lines.at(slot)}" for slot in shared),
    ]
    if stopped:
        text += ["", "what stopped a fusion", *(f"  {line}" for line in dict.fromkeys(stopped))]
    return "\n".join(text)


class _Lines:
    """Where slots come from, in the user's code."""

    def __init__(self, program, wanted):
        self.program = None
        compiled = wanted and program.compiled and program.compiled()
        if not compiled or _core._is_recording():
            return
        numbers = iter(program.numbers)
        args, kwargs = (_nest(key, numbers) for key in program.keys)
        try:
            again = compiled._record(args, kwargs, program.numbers, lines=True)
        except MemoryError:
            raise
        except Exception:  # it is the function's, which went well when it was recorded: then there are no lines
            return
        if again is not None and _core._same_rows(program, again):
            self.program = again

    def at(self, slot):
        place = self.program and _core._place(self.program, slot)
        return f"  {basename(place[0])}:{place[1]} in {place[2]}" if place else ""


def _table(steps, lines):
    """A line for each stretch of steps of one kind and source line."""
    rows = []
    for (name, where), group in groupby(steps, lambda step: (_name(step), lines.at(step[5]))):
        group = list(group)
        results = sum(step[2] for step in group)
        rows.append((name, f"{len(group):,} x" if len(group) > 1 else "", f"{results:,}", where))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    return [f"  {row[0]:{widths[0]}}  {row[1]:>{widths[1]}} {row[2]:>{widths[2]}}{row[3]}".rstrip() for row in rows]


def _name(step):
    op, kind, results, links, _, _ = step
    if kind == _CHAIN and links == 0:
        return "copies side by side"
    if kind == _CHAIN:
        what = "product" if op == "mul" else "number"
        return f"{what}s" if links == 1 else f"sums of {links:,} {what}s"
    if kind in (_SLOPE_A, _SLOPE_B, _SLOPE_N):
        return f"slope of {op.lstrip('_')}"
    if kind == _AUX:
        return f"for slopes of {op}"
    return f"{op.lstrip('_')} of {links:,}" if links else op.lstrip("_")


def _stops(steps, lines):
    """What keeps steps narrow, or makes them fetch operands one by one: what costs most first, and no more than eight of it."""
    found = sorted(_all_stops(steps, lines), reverse=True)
    return [text for _, text in found[:8]]


def _all_stops(steps, lines):
    for (name, where), group in groupby(steps, lambda step: (_name(step), lines.at(step[5]))):
        group = list(group)
        results = max(step[2] for step in group)
        if len(group) >= 3 and results < _NARROW:
            yield len(group), f"{len(group):,} steps of {name} with {results} at a time: each needs what comes before{where}"
    for step in steps:
        numbers = step[2] * max(step[3], 1)
        if step[2] >= _NARROW and numbers >= 64 and _LISTED in step[4][: 1 if step[1] == _VALUE else 3]:
            yield (
                numbers,
                f"{_name(step)}, {step[2]:,} results: operands stand apart and are fetched one by one{lines.at(step[5])}",
            )
