"""The process that does one form of one workload: `python worker.py MODULE FORM`.

Started by timing.Worker, not by hand. Reads lines of JSON [case, n] from the standard input and
answers each with one line {"wall", "cpu", "value"}. A process per form keeps the peers apart: no
form pays for another's objects in Python's cyclic collector, for its threads or its memory.
"""

import gc
import importlib
import json
import os
import sys
import time

from timing import PEAK, Missing, resident_peak


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the answers

    def answer(**what):
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    module, name = sys.argv[1:]
    form = importlib.import_module(module).FORMS[name]
    try:
        cases = form.prepare()
    except (ImportError, Missing) as error:
        answer(missing=str(error))
        return
    gc.collect()
    if not form.gc:
        gc.disable()
    answer(ready=True)
    for line in sys.stdin:
        case, n = json.loads(line)
        if case == PEAK:  # every form knows it
            answer(wall=0.0, cpu=0.0, value=resident_peak())
            continue
        case = cases[case]
        if not form.gc:
            gc.collect()  # the garbage of the last sample, outside of the timing
        if case.setup is not None:
            case.setup()
        cpu = time.process_time()
        wall = time.perf_counter()
        value = case.run(n)
        wall = time.perf_counter() - wall
        cpu = time.process_time() - cpu
        answer(wall=wall, cpu=cpu, value=value)


if __name__ == "__main__":
    main()
