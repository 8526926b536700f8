# check.pxi: the tape's invariants (tape.pxi), looked at one by one. Tests ask for it by _core._check(); a debug build
# (MINGRAD_BUILD=debug, setup.py) does so by itself, before every recording call: see debug_point().

cdef int check_node(uint32_t i, size_t* side, size_t* written) except -1:
    """Raise AssertionError unless row i is well made. *side: where the next list in the side array may begin at the earliest."""
    cdef row_t* row = tape.row + i
    cdef unsigned shape
    cdef uint32_t j, count, bias, place = row.flags // ROW_BLOCK
    cdef bint before = True
    if row.op >= OP_COUNT:
        raise AssertionError(f"node {i}: there is no op {row.op}")
    shape = op_shape[row.op]
    count = operand_count(row)
    if row.flags & ROW_SCATTERED:
        if shape != SHAPE_RANGE and shape != SHAPE_PAIR:
            raise AssertionError(f"node {i}: a list of operands for {op_name[row.op].decode()}")
        if row.a < side[0] or i >= tape.young_start and row.a < tape.young_side:
            raise AssertionError(f"node {i}: its list begins at {row.a}, below the end of the one before, {side[0]}, "
                                 f"or of the old ones, {tape.young_side}")
        side[0] = <size_t>row.a + count
        if side[0] > (tape.n_side if i >= tape.young_start else tape.young_side):
            raise AssertionError(f"node {i}: its list ends at {side[0]} of {tape.n_side}, old ones {tape.young_side}")
    if shape == SHAPE_AFFINE:  # many: by their ends
        bias = op_bias(row.op)
        before = <uint64_t>row.a + row.c + bias <= i and <uint64_t>row.b + row.c <= i
    elif shape != SHAPE_LEAF and count and not row.flags & ROW_SCATTERED and shape != SHAPE_A and shape != SHAPE_AB:
        before = <uint64_t>row.a + row.c <= i and (shape != SHAPE_PAIR or <uint64_t>row.b + row.c <= i)
    else:
        for j in range(count):
            before = before and operand_at(row, j) < i
    if not before:
        raise AssertionError(f"node {i}: an operand of {op_name[row.op].decode()} is not older")
    if (shape == SHAPE_RANGE or shape == SHAPE_PAIR) and row.flags & ROW_SCATTERED and count > tape.scratch_capacity:
        raise AssertionError(f"node {i}: {count} operands, room for the values of {tape.scratch_capacity}")
    if shape == SHAPE_LEAF and row.a > max(i, tape.last_write):
        raise AssertionError(f"node {i}: written at {row.a}, after the latest write of all, {tape.last_write}")
    if row.flags & ROW_WRITTEN:
        written[0] += 1
        if shape != SHAPE_LEAF or i >= tape.young_start:
            raise AssertionError(f"node {i}: in the list of written old leaves")
    if place and (i == 0 or (row - 1).flags // ROW_BLOCK != place - 1
                  or not row_follows(row, row - 1, row.c + op_bias(row.op) if shape == SHAPE_AFFINE else 1)):
        raise AssertionError(f"node {i}: row {place} of a block, but it does not follow the row below")
    return 0

cdef int check_handle(uint32_t i) except -1:
    cdef PyObject* handle = tape.handle[i]
    if not is_variable(handle):  # a pointer to something dead may end the process here
        raise AssertionError(f"node {i}: its handle is no Variable")
    if NUMBER(handle) != i or Py_REFCNT(handle) <= 0 and not FREE_THREADED:
        raise AssertionError(f"node {i}: its handle has the number {NUMBER(handle)}, references {Py_REFCNT(handle)}")
    return 0

cdef int check_notes() except -1:
    cdef int kind
    cdef size_t k, count = 0
    cdef Notes* notes
    for kind in range(NOTE_KINDS):
        notes = &tape.note[kind]
        count += notes.n
        if notes.n > notes.capacity:
            raise AssertionError(f"notes of kind {kind}: {notes.n}, room for {notes.capacity}")
        for k in range(notes.n):
            if k and notes.item[k].node <= notes.item[k - 1].node:
                raise AssertionError(f"notes of kind {kind}: node {notes.item[k].node} comes after {notes.item[k - 1].node}")
            if notes.item[k].node > tape.n or notes.item[k].node == tape.n and kind != NOTE_LINE:
                raise AssertionError(f"notes of kind {kind}: node {notes.item[k].node} of {tape.n}")
            if notes.item[k].object == NULL or Py_REFCNT(notes.item[k].object) <= 0:
                raise AssertionError(f"notes of kind {kind}: node {notes.item[k].node}'s object is dead")
    if count + tape.held + tape.profilers != tape.n_notes:
        raise AssertionError(f"{count} notes, {tape.held} walks and {tape.profilers} profiles, counted as {tape.n_notes}")
    if tape.n_dropped + count > tape.dropped_capacity:
        raise AssertionError(f"{tape.n_dropped} objects dropped, {count} notes, room for {tape.dropped_capacity}")
    return 0

cdef int check_most(const char* what, size_t count, size_t most) except -1:
    if count > most:
        raise AssertionError(f"{what.decode()}: {count}, more than {most}")
    return 0

cdef int check_tape() except -1:
    """Raise AssertionError for the first invariant that does not hold. To be called where no function of the core is at work, or
    where a collection may be."""
    cdef uint32_t i, handles = 0
    cdef int place
    cdef size_t k, side = 0, written = 0, words = tape.capacity // 64 + 1
    check_most(b"nodes", tape.n, tape.capacity)
    check_most(b"the limit", tape.limit, tape.capacity)
    check_most(b"old nodes", tape.young_start, tape.n)
    check_most(b"the last write", tape.last_write, tape.n)
    check_most(b"nodes looked at", tape.checked, tape.n)
    check_most(b"old operands", tape.young_side, tape.n_side)
    check_most(b"operands", tape.n_side, tape.side_capacity)
    check_most(b"written leaves", tape.n_written, tape.written_capacity)
    for i in range(tape.n):
        check_node(i, &side, &written)
        if tape.handle[i] != NULL:
            handles += 1
            check_handle(i)
    if written != tape.n_written:
        raise AssertionError(f"{written} old leaves are marked as written, {tape.n_written} are listed")
    if DEBUG_BUILD and handles != <uint32_t>living:
        raise AssertionError(f"{living} Variables live, the tape knows {handles}")
    if tape.capacity:
        for k in range(words):
            if tape.pending[k] or tape.reached[k] or tape.pending_top[k >> 6] or tape.reached_top[k >> 6]:
                raise AssertionError(f"marks are left in word {k}: {tape.pending[k]:x} {tape.reached[k]:x}")
    check_notes()
    if not 0 <= freelist_count <= FREELIST_SIZE:
        raise AssertionError(f"{freelist_count} Variables in the free list, room for {FREELIST_SIZE}")
    for place in range(freelist_count):
        if Py_TYPE(freelist[place]) is not VARIABLE or Py_REFCNT(freelist[place]) != 0 or WEAKREFS(freelist[place]) != NULL:
            raise AssertionError(f"place {place} of the free list holds something else than a dead Variable")
    return 0


# -- a debug build ---------------------------------------------------------------------------------------------------------
# All of this is left out by the C compiler elsewhere.

cdef uint64_t debug_credit = 0
cdef int64_t living = 0  # Variables that have a node

cdef void debug_point() noexcept:
    """In a safepoint of a debug build: check the tape, drop what is dead, leave no room to spare. What this looks at is paid for by
    128 nodes a call, so that a small tape is looked at each time and a large one less often; the young part is collected always."""
    global debug_credit, fail_countdown
    cdef long countdown = fail_countdown
    debug_credit += 128
    if debug_credit < tape.n:
        return
    debug_credit = 0
    fail_countdown = -1  # none of this counts as an allocation of the core
    try:
        check_tape()
        if tape.capacity and not tape.held:
            collect_(0)
            set_capacity(tape.n)
    except MemoryError:
        pass
    except AssertionError as error:
        fatal(f"mingrad: {error}".encode())
    fail_countdown = countdown
