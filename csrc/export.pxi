# export.pxi: a schedule (schedule.pxi) as Python sees it, to be written out as source text, and the text of the functions that such
# sources need beside libm. The writing is mingrad/export.py's.

include "portable_text.pxi"  # PORTABLE: the text of portable.h, put there by setup.py

cdef dict KIND_NAMES = {STEP_VALUE: "value", STEP_SLOPE_A: "slope_a", STEP_SLOPE_B: "slope_b", STEP_AUX: "aux",
                        STEP_SLOPE_N: "slope_n", STEP_CHAIN: "chain", STEP_HELPER: "helper"}
cdef dict WHERE_NAMES = {WHERE_RUN: "run", WHERE_SAME: "same", WHERE_LISTED: "listed", WHERE_RUNS: "runs", WHERE_NONE: "none"}

cdef object place_seen(Schedule schedule, object x):
    return x if type(x) is not int else schedule.place[<uint32_t>x]

def _schedule(Program p not None, bint gradient):
    """A schedule of the program, with gradient also of the adjoints of all inputs and captured Variables for its one result, as a
    dict. Places are numbers of values.

    steps: tuples (kind, name of the op or helper function, n, y, (a, b, c), (where each of them is), run, (their strides), k, i,
    count), see steps.h. n_results: how many steps compute results, those behind them adjoints. index: operands that are listed,
    array('I'). start: all values, with the numbers in their places, array('d'). inputs, captured: places. outputs: places, and
    floats for results that nothing changes. guards: (op, left, right, outcome) with places and floats, right None: a truth value.
    seed: where the result's adjoint goes; None without adjoints, or where nothing changes the result. adjoints: places, of inputs
    and then captured. room: operands of the longest range."""
    from array import array
    cdef uint32_t k, fixed = p.n_inputs + <uint32_t>len(p.captured)
    cdef size_t j
    cdef step_t* s
    cdef list roots = [x for x in p.outputs if type(x) is not float], steps = []
    cdef Schedule schedule = make_schedule(p, b"\1" * (fixed + len(roots)) if gradient else None)
    for j in range(schedule.n_steps):
        s = schedule.step + j
        steps.append((KIND_NAMES[s.kind], step_name(s), s.n, s.y, (s.a, s.b, s.c),
                      (WHERE_NAMES[s.a_where], WHERE_NAMES[s.b_where], WHERE_NAMES[s.c_where]), s.run,
                      (s.a_stride, s.b_stride, s.c_stride), s.k, s.i, s.count))
    index, start = array("I"), array("d")
    index.frombytes((<char*>schedule.index)[:schedule.n_index * sizeof(uint32_t)])
    start.frombytes((<char*>schedule.start)[:schedule.n_values * sizeof(double)])
    return {
        "steps": steps, "n_results": schedule.n_results, "index": index, "start": start,
        "inputs": [schedule.place[k] for k in range(p.n_inputs)],
        "captured": [schedule.place[k] for k in range(p.n_inputs, fixed)],
        "outputs": [place_seen(schedule, x) for x in p.outputs],
        "guards": [(op, place_seen(schedule, left), place_seen(schedule, right), outcome) for op, left, right, outcome in p.guards],
        "seed": schedule.seed[0] if gradient and roots else None,
        "adjoints": [schedule.adjoint[k] for k in range(fixed)] if gradient else None,
        "room": schedule.room,
    }

def _portable():
    """The text of portable.h."""
    return PORTABLE
