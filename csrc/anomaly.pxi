# anomaly.pxi: detect_anomaly(): where each node was recorded, and the error for the first op that makes inf or nan. All of it is
# behind thread_mode.anomaly and tape.anomaly_threads: while nobody is inside, nothing of it runs.
#
# Inside, every op goes through safepoint(), which notes the user's line (one note where the line changes) and looks at the
# nodes recorded since the last time; an op of one or two operands is looked at before it is recorded (refuse() in variable.pxi).

cdef bint is_ours(object frame) except -1:
    """Does it run mingrad's own code? The examples of its docstrings are not that."""
    module = str(frame.f_globals.get("__name__", ""))
    return (module == "mingrad" or module.startswith("mingrad.")) and not module.startswith("mingrad.examples") \
        and not frame.f_code.co_filename.startswith("<doctest ")

cdef object user_line():
    """(file, line, function, thread) of the innermost frame that is not mingrad's own."""
    frame = sys._getframe(0)
    while frame is not None:
        if not is_ours(frame):
            return (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, PyThread_get_thread_ident())
        frame = frame.f_back
    return None

cdef int note_line() except -1:
    """Where the nodes to come are recorded; in a thread outside detect_anomaly(), nowhere. Raises FloatingPointError for the
    nodes since the last call."""
    cdef Notes* notes = &tape.note[NOTE_LINE]
    if thread_mode.anomaly:
        check_recorded()
    line = user_line() if thread_mode.anomaly else None
    if notes.n == 0 or <object>notes.item[notes.n - 1].object != line:
        set_note(NOTE_LINE, tape.n, <PyObject*>line)
    return 0

cdef int check_recorded() except -1:
    """Look at what this thread has recorded since the last time. tape.checked stays before what another one has to look at."""
    cdef uint32_t i = tape.checked, culprit = NO_NODE
    cdef Notes* notes = &tape.note[NOTE_LINE]
    cdef size_t k = note_place(NOTE_LINE, i + 1)
    cdef bint mine, others = False
    cdef unsigned long thread = PyThread_get_thread_ident()
    while i < tape.n:
        while k < notes.n and notes.item[k].node <= i:
            k += 1
        line = <object>notes.item[k - 1].object if k else None
        mine = line is not None and <unsigned long>line[3] == thread
        others |= line is not None and not mine
        if mine and culprit == NO_NODE and tape.row[i].op != OP_LEAF and is_made(i):
            culprit = i
        i += 1
        if not others:
            tape.checked = i
    if culprit != NO_NODE:
        tape.checked = max(tape.checked, culprit + 1)
        raise FloatingPointError(f"detect_anomaly: {row_text(culprit)} is {tape.value[culprit]!r}{origin(culprit)}")
    return 0

cdef int refuse_range(unsigned op, double* xs, uint32_t n, double y) except -1:
    """In detect_anomaly(): the value y of an op over numbers xs, of which nothing is recorded."""
    cdef uint32_t k
    cdef bint infinite = False
    if isfinite(y):
        return 0
    for k in range(n):
        infinite |= not isfinite(xs[k])
    if y != y or not infinite:
        numbers = [float_text(xs[k]) for k in range(min(n, 6))] + (["..."] if n > 6 else [])
        raise FloatingPointError(f"detect_anomaly: {call_text(op, numbers)} is {y!r}{line_text(user_line())}")
    return 0

cdef bint is_made(uint32_t i) noexcept:
    """Is node i nan, or infinite where its operands are not?"""
    cdef row_t* row = tape.row + i
    cdef uint32_t j
    if isfinite(tape.value[i]):
        return False
    if tape.value[i] != tape.value[i]:
        return True
    if op_number_place[row.op] != NUMBER_NOWHERE and not isfinite(row.constant):
        return False
    for j in range(operand_count(row)):
        if not isfinite(tape.value[operand_at(row, j)]):
            return False
    return True

cdef str line_text(object line):
    if line is None:
        return ""
    from linecache import getline
    text = getline(line[0], line[1]).strip()
    return f"\n  recorded at {line[0]}:{line[1]}, in {line[2]}" + (f"\n    {text}" if text else "")

cdef str origin(uint32_t i):
    """Where node i was recorded, as text."""
    cdef size_t k = note_place(NOTE_LINE, i + 1)
    line = <object>tape.note[NOTE_LINE].item[k - 1].object if k else None
    return line_text(line) or "\n  recorded outside detect_anomaly(); record it inside to see the line"

cdef str row_text(uint32_t i):
    """A node as an expression in numbers; of many operands the first few."""
    cdef row_t* row = tape.row + i
    cdef list numbers = []
    cdef uint32_t j, count = operand_count(row)
    for j in range(min(count, 6)):
        numbers.append(float_text(tape.value[operand_at(row, j)]))
    if op_number_place[row.op] != NUMBER_NOWHERE:
        numbers.insert(0 if op_number_place[row.op] == NUMBER_FIRST else 1, float_text(row.constant))
    if count > 6:
        numbers.append("...")
    return f"{op_text(i)}({', '.join(numbers)})" if row.op == OP_CUSTOM else call_text(row.op, numbers)

cdef int check_adjoints(uint32_t i, double* adjoints, uint32_t stride) except -1:
    """After node i gave its contributions: are its operands' adjoints finite? adjoints: those of the walk as numbers, stride for
    each node; NULL: as items."""
    cdef row_t* row = tape.row + i
    cdef uint32_t j, k, s
    cdef double adjoint
    for j in range(operand_count(row)):
        k = operand_at(row, j)
        if on_walk(k):
            for s in range(stride):
                adjoint = walk.item[k - walk.low].value if adjoints == NULL else adjoints[(k - walk.low) * stride + s]
                if not isfinite(adjoint):
                    raise FloatingPointError(
                        f"detect_anomaly: backward of {row_text(i)} = {tape.value[i]!r}: the adjoint of its operand "
                        f"{tape.value[k]!r} is {adjoint!r}{origin(i)}")
    return 0

cdef int check_tangents(uint32_t i, uint32_t directions) except -1:
    """Are the tangents of node i finite? directions: how many there are as numbers; 0: as item."""
    cdef uint32_t k
    cdef double tangent
    for k in range(max(directions, 1)):
        tangent = tangent_of(i, directions)[k] if directions else walk.item[i - walk.low].value
        if not isfinite(tangent):
            raise FloatingPointError(f"detect_anomaly: forward mode of {row_text(i)} = {tape.value[i]!r}: its tangent is "
                                     f"{tangent!r}{origin(i)}")
    return 0

cdef bint switch_anomaly(bint on) except? True:
    """Switch detect_anomaly() on or off for this thread. Returns what it was."""
    cdef bint was = thread_mode.anomaly
    if on == was:
        return was
    if on and not tape.anomaly_threads:
        tape.checked = tape.n
    tape.anomaly_threads += 1 if on else -1
    thread_mode.anomaly = on
    tape.limit = 0
    if not on and tape.note[NOTE_LINE].n:
        set_note(NOTE_LINE, tape.n, <PyObject*>None)  # what follows was recorded elsewhere
    return was

def _set_anomaly(bint on):
    """Switch detect_anomaly() on or off for this thread. Returns what it was."""
    return switch_anomaly(on)
