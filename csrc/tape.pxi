# tape.pxi: the tape: its arrays, recording a node, and the collector. Knows no op's formula; it knows shapes (ops.h)
# because it must find operands. The model is drawn in csrc/README.md. Next: sweep.pxi.
#
# Invariants, true whenever no function of this file is running:
#   - an operand's number is smaller than the number of the node that uses it;
#   - handle[i] is NULL or the one Variable whose number is i;
#   - pending and reached (bitmaps) are all zero;
#   - nodes below young_start have survived a collection.

# What a few nodes have beside their row, by kind.
cdef enum:
    NOTE_LABEL  # a str
    NOTE_HOOKS  # a dict of functions that a sweep calls with the node's adjoint (derive.pxi)
    NOTE_CALL   # of a node that was computed outside: the object that knows its derivative (derive.pxi)
    NOTE_LINE   # (file, line, function) where this node and those after it were recorded, or None (anomaly.pxi)
    NOTE_KINDS

cdef struct Note:
    uint32_t node
    PyObject* object  # owned

cdef struct Notes:
    Note* item    # [capacity] ordered by node
    size_t n
    size_t capacity

cdef struct Tape:
    uint32_t n            # nodes on the tape
    uint32_t limit        # recording a node at n >= limit goes through safepoint() first
    uint32_t capacity     # nodes the arrays have room for
    uint32_t young_start  # first node of the young part
    uint32_t last_write   # highest "number of nodes" at which any leaf was written
    uint32_t old_live     # nodes that the last full collection left

    double* value         # [capacity]
    double* grad          # [capacity] adjoints
    row_t* row            # [capacity]
    PyObject** handle     # [capacity] borrowed: a Variable unregisters itself when it dies

    uint64_t* pending     # [capacity / 64] interior nodes that a sweep has reached and not yet left
    uint64_t* reached     # [capacity / 64] leaves that a sweep has reached
    uint64_t* pending_top  # [capacity / 4096] one bit per word of pending that may be non-zero
    uint64_t* reached_top  # [capacity / 4096] the same for reached
    uint32_t* rank        # [capacity / 64] live nodes before each word, while a collection runs

    uint32_t* side        # [side_capacity] operand numbers of scattered ranges, in order of their nodes
    size_t n_side
    size_t young_side     # where the young part's lists begin
    size_t side_capacity

    uint32_t* written     # [written_capacity] old leaves written since the last collection
    size_t n_written
    size_t written_capacity

    Notes note[NOTE_KINDS]
    size_t n_notes        # of all kinds; and one for each walk at work and each thread inside profile()

    PyObject** dropped    # [dropped_capacity] owned: what notes of nodes that are gone held, to be released
    size_t n_dropped
    size_t dropped_capacity
    bint release_asked    # the interpreter will call release_dropped(); False if its queue was full: the next drop asks again
    bint releasing        # release_dropped() is at work, and will see what is dropped meanwhile

    double* scratch       # [scratch_capacity] operand values of one n-ary node; never smaller than any node's count
    size_t scratch_capacity

    uint32_t young_size   # nodes that may be recorded between two collections
    uint32_t growth       # 0: grow geometrically; k: by k nodes (tests)
    int held              # above 0 no node moves or goes: a walk is at work (derive.pxi)
    int no_grad_threads   # threads inside no_grad()
    int anomaly_threads   # threads inside detect_anomaly()
    int recorders         # recordings that are on (record.pxi)
    int profilers         # threads inside profile()
    uint64_t writes       # of leaves, ever
    uint32_t checked      # nodes below have been looked at by detect_anomaly()
    uint64_t removed      # nodes recorded and gone
    uint64_t collections
    uint64_t full_collections

cdef Tape tape
tape.young_size = YOUNG_SIZE


# -- memory ------------------------------------------------------------------------------------------------------

cdef long fail_countdown = -1  # tests: allocations until one fails on purpose; -1: never
cdef bint fail_triggered = False

cdef int count_allocation() except -1:
    """Every allocation of the core comes through here first, so that a test can let any of them fail."""
    global fail_countdown, fail_triggered
    if fail_countdown >= 0:
        fail_countdown -= 1
        if fail_countdown < 0:
            fail_triggered = True
            raise MemoryError("mingrad: no memory (a test asked for this failure)")
    return 0

cdef int resize(void** array, size_t count, size_t size) except -1:
    """Give *array room for count items. On MemoryError it is exactly as before."""
    cdef void* moved = NULL
    count_allocation()
    if count <= <size_t>-1 // size:
        moved = PyMem_RawRealloc(array[0], count * size if count else 1)
    if moved == NULL:
        raise MemoryError(f"mingrad: no memory for {count} items of {size} bytes on the tape")
    array[0] = moved
    return 0

cdef int set_capacity(uint32_t capacity) except -1:
    """Resize the node arrays. capacity is at least n. On MemoryError what has moved has room for the smaller size."""
    cdef size_t words = capacity // 64 + 1, tops = words // 64 + 1  # node number n, one past the last, has a bit too
    cdef size_t old_words = 0, old_tops = 0
    if tape.capacity:
        old_words = tape.capacity // 64 + 1
        old_tops = old_words // 64 + 1
    if capacity < tape.capacity:  # what fails half-way must already be true
        tape.capacity = capacity
        tape.limit = min(tape.limit, capacity)
    resize(<void**>&tape.value, capacity, sizeof(double))
    resize(<void**>&tape.grad, capacity, sizeof(double))
    resize(<void**>&tape.row, capacity, sizeof(row_t))
    resize(<void**>&tape.handle, capacity, sizeof(void*))
    resize(<void**>&tape.rank, words, sizeof(uint32_t))
    resize(<void**>&tape.pending, words, sizeof(uint64_t))
    resize(<void**>&tape.reached, words, sizeof(uint64_t))
    resize(<void**>&tape.pending_top, tops, sizeof(uint64_t))
    resize(<void**>&tape.reached_top, tops, sizeof(uint64_t))
    if words > old_words:
        memset(tape.pending + old_words, 0, (words - old_words) * sizeof(uint64_t))
        memset(tape.reached + old_words, 0, (words - old_words) * sizeof(uint64_t))
    if tops > old_tops:
        memset(tape.pending_top + old_tops, 0, (tops - old_tops) * sizeof(uint64_t))
        memset(tape.reached_top + old_tops, 0, (tops - old_tops) * sizeof(uint64_t))
    tape.capacity = capacity
    return 0

cdef int reserve_side(size_t extra) except -1:
    """Room for extra more operand numbers and as many values in scratch."""
    if tape.n_side + extra > tape.side_capacity:
        resize(<void**>&tape.side, (tape.n_side + extra) * 3 // 2, sizeof(uint32_t))
        tape.side_capacity = (tape.n_side + extra) * 3 // 2
    return reserve_scratch(extra)

cdef int reserve_scratch(size_t count) except -1:
    if count > tape.scratch_capacity:
        resize(<void**>&tape.scratch, count * 3 // 2, sizeof(double))
        tape.scratch_capacity = count * 3 // 2
    return 0

cdef int safepoint(uint32_t extra) except -1:
    """Make room for extra nodes; the one place where a collection starts by itself.

    Every number in flight must be held by a handle here: nodes may move. Returns 1 if the calling thread is inside
    no_grad(), else 0. On MemoryError, and on the FloatingPointError of detect_anomaly(), the tape is as before (but may
    have been collected).
    """
    cdef uint64_t need
    cdef uint64_t room
    if tape.profilers:
        profile_point()
    if tape.anomaly_threads:
        note_line()
    if DEBUG_BUILD:
        debug_point()
    need = <uint64_t>tape.n + extra
    if need > <uint64_t>tape.young_start + tape.young_size and tape.n > tape.young_start and not tape.held:
        collect_(tape.young_start)
        if tape.n > 2 * <uint64_t>tape.old_live + tape.young_size:
            collect_(0)
            shrink()
        need = <uint64_t>tape.n + extra
    if need > MAX_NODES:
        raise MemoryError(f"mingrad: the tape holds at most {MAX_NODES} nodes")
    if need > tape.capacity:
        if tape.growth:
            room = need + tape.growth - 1
        else:  # doubling while small, then by an eighth: a large tape is moved by its pages, and 48 bytes a node hold
            room = <uint64_t>tape.capacity + (tape.capacity if tape.capacity < YOUNG_SIZE else tape.capacity // 8)
            # past the end of the young part comes a collection, not a node
            room = min(room, (<uint64_t>tape.young_start + tape.young_size) * 9 // 8)
            room = max(room, need, FIRST_CAPACITY)
        set_capacity(<uint32_t>min(room, MAX_NODES))
    if tape.no_grad_threads or tape.anomaly_threads or tape.recorders or tape.profilers:
        tape.limit = 0
        if tape.profilers:
            begin_op()
        if tape.recorders:
            change_recorder()
        if thread_mode.no_grad and thread_mode.recording != NULL:
            refuse_while_recording("no_grad()", "results would be the same in every later call; use mingrad.stop_gradient")
        return thread_mode.no_grad
    tape.limit = <uint32_t>min(<uint64_t>tape.capacity, max(need, <uint64_t>tape.young_start + tape.young_size))
    return 0

cdef inline int ready(uint32_t extra) except -1:
    """safepoint(), skipped while there is room."""
    return 0 if <uint64_t>tape.n + extra <= tape.limit else safepoint(extra)

cdef void shrink() noexcept:
    """Give memory back after a large graph has died. Failing to is no error."""
    cdef uint32_t want = tape.n + max(tape.n // 8, min(tape.young_size, YOUNG_SIZE))
    if tape.capacity > 3 * <uint64_t>want + FIRST_CAPACITY:
        try:
            set_capacity(want)
        except MemoryError:
            pass
        give_pages_back()
    if tape.side_capacity > 4 * tape.n_side + FIRST_CAPACITY:
        try:
            resize(<void**>&tape.side, 2 * tape.n_side, sizeof(uint32_t))
            tape.side_capacity = 2 * tape.n_side
        except MemoryError:
            pass
    if tape.written_capacity > 4 * tape.n_written + FIRST_CAPACITY:
        try:
            resize(<void**>&tape.written, 2 * tape.n_written + 64, sizeof(uint32_t))
            tape.written_capacity = 2 * tape.n_written + 64
        except MemoryError:
            pass


# -- walking over operands -----------------------------------------------------------------------------------------

cdef inline uint32_t range_item(row_t* row, uint32_t start, uint32_t i) noexcept nogil:
    """Operand i of a range of this row; start is row.a or, for a second range, where that begins."""
    return tape.side[start + i] if row.flags & ROW_SCATTERED else start + i

cdef inline uint32_t second_start(row_t* row) noexcept nogil:
    """Where the second range of a SHAPE_PAIR row begins."""
    return row.a + row.c if row.flags & ROW_SCATTERED else row.b

cdef inline uint32_t operand_count(row_t* row) noexcept nogil:
    cdef unsigned shape = op_shape[row.op]
    if shape == SHAPE_A or shape == SHAPE_AB:
        return 1 if shape == SHAPE_A else 2
    if shape == SHAPE_AFFINE:
        return 2 * row.c + op_bias(row.op)
    return 0 if shape == SHAPE_LEAF else row.c if shape == SHAPE_RANGE else 2 * row.c

cdef inline uint32_t operand_at(row_t* row, uint32_t j) noexcept nogil:
    """Operand j of a row; of an affine row first the inputs, then the weights."""
    cdef unsigned shape = op_shape[row.op]
    if shape == SHAPE_A or shape == SHAPE_AB:
        return row.b if j else row.a
    if shape == SHAPE_AFFINE:
        return row.b + j if j < row.c else row.a + (j - row.c)
    if row.flags & ROW_SCATTERED or j < row.c:
        return range_item(row, row.a, j)
    return row.b + (j - row.c)


# -- the collector ---------------------------------------------------------------------------------------------------
#
# A node is live if its handle is alive or a live node uses it. Users come after operands, so one walk down marks
# everything, and one walk up slides the live nodes over the dead. Only nodes from `start` on are looked at: nothing
# below can refer to them. Live marks borrow the bitmap `pending`.

cdef inline bint is_set(uint64_t* bitmap, uint32_t i) noexcept nogil:
    return (bitmap[i >> 6] >> (i & 63)) & 1

cdef inline bint is_marked(uint32_t i) noexcept nogil:
    return is_set(tape.pending, i)

cdef inline void mark(uint32_t i, uint32_t start) noexcept nogil:
    if i >= start:
        tape.pending[i >> 6] |= <uint64_t>1 << (i & 63)

cdef inline uint64_t run_bits(uint32_t w, uint32_t first, uint32_t end) noexcept nogil:
    """The bits of word w that stand for the nodes from first up to end (not included); some do."""
    cdef uint64_t bits = ~<uint64_t>0
    if w == first >> 6:
        bits &= ~<uint64_t>0 << (first & 63)
    if w == end >> 6:
        bits &= (<uint64_t>1 << (end & 63)) - 1
    return bits

cdef void mark_run(uint32_t first, uint32_t count, uint32_t start) noexcept nogil:
    cdef uint32_t w, end = first + count
    first = max(first, start)
    if first < end:
        for w in range(first >> 6, (end >> 6) + 1):
            tape.pending[w] |= run_bits(w, first, end)

cdef inline void mark_operands(row_t* row, uint32_t start) noexcept nogil:
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j
    if shape == SHAPE_A:
        mark(row.a, start)
    elif shape == SHAPE_AB:
        mark(row.a, start)
        mark(row.b, start)
    elif shape == SHAPE_AFFINE:
        mark_run(row.a, row.c + op_bias(row.op), start)
        mark_run(row.b, row.c, start)
    elif shape != SHAPE_LEAF:
        if row.flags & ROW_SCATTERED:
            for j in range(row.c if shape == SHAPE_RANGE else 2 * row.c):
                mark(tape.side[row.a + j], start)
        else:
            mark_run(row.a, row.c, start)
            if shape == SHAPE_PAIR:
                mark_run(row.b, row.c, start)

cdef void mark_live(uint32_t start) noexcept nogil:
    """Set the bit in pending of every live node from start on."""
    cdef uint32_t w, i, end = tape.n, low
    cdef uint64_t bits
    while end > start:
        w = (end - 1) >> 6
        low = max(w << 6, start)
        tape.pending[w] |= handle_bits(tape.handle + low, end - low) << (low & 63)
        bits = tape.pending[w]
        while bits:  # from the top; an operand in the same word adds a lower bit
            i = bits_highest(bits)
            mark_operands(tape.row + (w << 6) + i, start)
            bits = tape.pending[w] & ((<uint64_t>1 << i) - 1)
        end = low

cdef inline uint32_t moved(uint32_t i, uint32_t start) noexcept nogil:
    """The number after sliding of node i; of a dead one, that of the next live one."""
    if i < start:
        return i
    return tape.rank[i >> 6] + bits_count(tape.pending[i >> 6] & ((<uint64_t>1 << (i & 63)) - 1))

cdef inline uint32_t moved_near(uint32_t i, uint32_t first, uint32_t gap, uint32_t start) noexcept nogil:
    """moved(i) for the operand of a row in the live run that begins at first and goes down by gap; most lie in that run."""
    return i - gap if i >= first else moved(i, start)

cdef inline void slide_row(uint32_t i, uint32_t first, uint32_t gap, uint32_t start) noexcept nogil:
    """Renumber the operands of live node i; its list in the side array moves to the array's new end."""
    cdef row_t* row = tape.row + i
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t k, count
    if shape == SHAPE_LEAF:
        row.a = moved(row.a, start)  # its stamp: any number up to n, which has a place too
    elif shape == SHAPE_A:
        row.a = moved_near(row.a, first, gap, start)
    elif shape == SHAPE_AB or shape == SHAPE_AFFINE:
        row.a = moved_near(row.a, first, gap, start)
        row.b = moved_near(row.b, first, gap, start)
    elif row.flags & ROW_SCATTERED:
        count = row.c if shape == SHAPE_RANGE else 2 * row.c
        for k in range(count):
            tape.side[tape.n_side + k] = moved_near(tape.side[row.a + k], first, gap, start)
        row.a = <uint32_t>tape.n_side
        tape.n_side += count
    else:
        row.a = moved_near(row.a, first, gap, start)
        if shape == SHAPE_PAIR:
            row.b = moved_near(row.b, first, gap, start)

cdef void slide_run(uint32_t first, uint32_t end, uint32_t to, uint32_t start) noexcept nogil:
    """Move the live nodes from first up to end (not included), before and after which are dead ones, down to `to`."""
    cdef uint32_t i, count = end - first
    for i in range(first, end):
        slide_row(i, first, first - to, start)
    if first != to:
        memmove(tape.value + to, tape.value + first, count * sizeof(double))
        memmove(tape.grad + to, tape.grad + first, count * sizeof(double))
        memmove(tape.row + to, tape.row + first, count * sizeof(row_t))
        memmove(tape.handle + to, tape.handle + first, count * sizeof(void*))
        for i in range(to, to + count):
            if tape.handle[i] != NULL:
                SET_NUMBER(tape.handle[i], i)
    i = to
    while i < to + count and tape.row[i].flags >= ROW_BLOCK:  # a block whose lower part may be gone
        join_block(i)
        i += 1

cdef inline uint32_t next_node(uint32_t i, uint32_t end, bint live) noexcept nogil:
    """The first node from i on that is live (or dead); end if there is none before."""
    cdef uint32_t w = i >> 6
    cdef uint64_t flip = 0 if live else ~<uint64_t>0
    cdef uint64_t bits = (tape.pending[w] ^ flip) & (~<uint64_t>0 << (i & 63))
    while not bits:
        w += 1
        if <uint64_t>w << 6 >= end:
            return end
        bits = tape.pending[w] ^ flip
    return min(end, (w << 6) + bits_lowest(bits))

cdef inline void join_block(uint32_t i) noexcept nogil:
    """Node i was in a block; say again where in it, now that nodes below may be gone."""
    cdef row_t* row = tape.row + i
    cdef uint32_t place = 0, step = row.c + op_bias(row.op) if op_shape[row.op] == SHAPE_AFFINE else 1
    if i and row_follows(row, row - 1, step):
        place = ((row - 1).flags // ROW_BLOCK + 1) % BLOCK_SIZE
    row.flags = row.flags % ROW_BLOCK + place * ROW_BLOCK

cdef void collect_(uint32_t start) noexcept:
    """Drop the dead nodes from start on; what is left becomes the old part."""
    cdef uint32_t n = tape.n, i, j, w, first_word = start >> 6, last_word = n >> 6, end
    cdef size_t k
    cdef int64_t begun = profile_collection(start) if tape.profilers else 0
    tape.collections += 1
    tape.full_collections += start == 0
    if n > start:
        mark_live(start)
    j = start
    for w in range(first_word, last_word + 1):
        tape.rank[w] = j
        j += bits_count(tape.pending[w])
    end = j

    for k in range(tape.n_written):  # old leaves, which the walk below does not visit
        i = tape.written[k]
        tape.row[i].flags &= ~ROW_WRITTEN
        if i < start:
            tape.row[i].a = moved(tape.row[i].a, start)
    tape.n_written = 0
    tape.last_write = moved(tape.last_write, start)
    slide_notes(start)
    if tape.profilers:
        profile_slide(start, n, end)
    tape.checked = moved(tape.checked, start)

    tape.n_side = tape.young_side if start else 0
    j = start
    i = next_node(start, n, True)
    while i < n:
        w = next_node(i, n, False)
        slide_run(i, w, j, start)
        j += w - i
        i = next_node(w, n, True)
    memset(tape.pending + first_word, 0, (last_word + 1 - first_word) * sizeof(uint64_t))
    tape.removed += n - end
    tape.n = end
    tape.young_start = end
    tape.young_side = tape.n_side
    tape.limit = 0  # the next safepoint sets it
    if start == 0:
        tape.old_live = end
    if tape.growth or DEBUG_BUILD:
        overwrite(end, n)
    if tape.profilers:
        profile_collected(begun)

cdef void overwrite(uint32_t first, uint32_t end) noexcept nogil:
    """Tests: what is gone must not be used."""
    cdef uint32_t i
    for i in range(first, end):
        tape.value[i] = NAN
        tape.grad[i] = NAN
        tape.handle[i] = NULL
        tape.row[i].op = 0xFFFF

cdef void pop "mg_pop"() noexcept:
    """The handle of the topmost node has died: drop that node and every node below that nothing needs.

    Nothing comes after the top, so it has no user, and a node without user and handle is dead. Nodes below the last
    write stay: numbers below a leaf's stamp mean "recorded before it was written" and must not be used again.
    """
    cdef uint32_t n = tape.n
    cdef uint32_t top = n
    if tape.held:
        return
    while n > tape.last_write and tape.handle[n - 1] == NULL:
        n -= 1
        if tape.row[n].flags & ROW_SCATTERED:
            tape.n_side = tape.row[n].a
    if tape.n_notes:
        if tape.profilers:
            profile_pop(n)
        pop_notes(n)
    tape.checked = min(tape.checked, n)
    tape.removed += top - n
    tape.n = n
    if DEBUG_BUILD:
        overwrite(n, top)
    if n < tape.young_start:
        tape.young_start = n
        tape.young_side = tape.n_side
    if top - n > YOUNG_SIZE and PyErr_Occurred() == NULL:  # one on its way would get lost if shrink() had one of its own
        shrink()


cdef void let_call_go(uint32_t number) noexcept:
    """The handle of a node has died. If that was the one result of a call and nothing recorded since needs it, what the call holds
    (a program's numbers) goes now: in a loop the next call can use the room."""
    cdef PyObject* call
    cdef uint32_t i, j
    if tape.row[number].op != OP_CUSTOM or tape.held or tape.n - number > 64:
        return
    call = get_note(NOTE_CALL, number)
    if call == NULL or number and get_note(NOTE_CALL, number - 1) == call or get_note(NOTE_CALL, number + 1) == call:
        return
    for i in range(number + 1, tape.n):
        for j in range(operand_count(tape.row + i)):
            if operand_at(tape.row + i, j) == number:
                return
    set_note(NOTE_CALL, number, NULL)  # removing cannot fail


# -- recording ---------------------------------------------------------------------------------------------------------

cdef inline void fill(uint32_t i, uint32_t op, uint32_t flags, uint32_t a, uint32_t b, uint32_t c, double value) noexcept nogil:
    """Write node i, all but its handle."""
    row_set(tape.row + i, op, flags, a, b, c)
    tape.value[i] = value
    tape.grad[i] = 0

cdef inline void push(uint32_t op, uint32_t flags, uint32_t a, uint32_t b, uint32_t c, double value) noexcept nogil:
    """Append a node without handle. There is room: the caller has been through ready()."""
    fill(tape.n, op, flags, a, b, c, value)
    tape.handle[tape.n] = NULL
    tape.n += 1

cdef inline void push_leaf(double value, bint requires) noexcept nogil:
    push(OP_LEAF, requires, tape.n, 0, 0, value)

cdef int reserve_writes(size_t count) except -1:
    """Room for that many write_leaf(), which then cannot fail."""
    if tape.n_written + count > tape.written_capacity:
        resize(<void**>&tape.written, 2 * (tape.n_written + count) + 64, sizeof(uint32_t))
        tape.written_capacity = 2 * (tape.n_written + count) + 64
    return 0

cdef int write_leaf(uint32_t i, double value) except -1:
    """Set a leaf's value and note when, unless no node can have used it. On an error nothing has changed."""
    cdef row_t* row = tape.row + i
    if tape.recorders and thread_mode.recording != NULL:
        refuse_writing(i)
    if i + 1 == tape.n:
        tape.value[i] = value
        return 0
    if i < tape.young_start and not row.flags & ROW_WRITTEN:
        reserve_writes(1)
        tape.written[tape.n_written] = i
        tape.n_written += 1
        row.flags |= ROW_WRITTEN
    tape.value[i] = value
    row.a = tape.n
    tape.last_write = tape.n
    tape.writes += 1
    return 0


# -- notes: rare, so beside the tape ---------------------------------------------------------------------------------------

cdef size_t note_place(int kind, uint32_t node) noexcept:
    """Index of the first note of this kind whose node is not below this one."""
    cdef size_t low = 0, high = tape.note[kind].n, middle
    if high and tape.note[kind].item[high - 1].node < node:
        return high
    while low < high:
        middle = (low + high) // 2
        if tape.note[kind].item[middle].node < node:
            low = middle + 1
        else:
            high = middle
    return low

cdef PyObject* get_note(int kind, uint32_t node) noexcept:
    """Borrowed; NULL if the node has none."""
    cdef size_t k = note_place(kind, node)
    if k < tape.note[kind].n and tape.note[kind].item[k].node == node:
        return tape.note[kind].item[k].object
    return NULL

cdef int set_note(int kind, uint32_t node, PyObject* object) except -1:
    """object NULL removes the note. On MemoryError nothing has changed."""
    cdef size_t k = note_place(kind, node)
    cdef Notes* notes = &tape.note[kind]
    cdef bint there = k < notes.n and notes.item[k].node == node
    cdef PyObject* old = NULL
    if there:
        old = notes.item[k].object
    if object != NULL:
        if tape.n_dropped + tape.n_notes >= tape.dropped_capacity:  # dropping cannot fail, of what stands there neither
            resize(<void**>&tape.dropped, 2 * (tape.n_dropped + tape.n_notes) + 16, sizeof(void*))
            tape.dropped_capacity = 2 * (tape.n_dropped + tape.n_notes) + 16
        if not there:
            if notes.n == notes.capacity:
                resize(<void**>&notes.item, 2 * notes.n + 16, sizeof(Note))
                notes.capacity = 2 * notes.n + 16
            memmove(notes.item + k + 1, notes.item + k, (notes.n - k) * sizeof(Note))
            notes.n += 1
            tape.n_notes += 1
            notes.item[k].node = node
        Py_INCREF_(object)
        notes.item[k].object = object
    elif there:
        notes.n -= 1
        tape.n_notes -= 1
        memmove(notes.item + k, notes.item + k + 1, (notes.n - k) * sizeof(Note))
    if old != NULL:
        drop(kind, old)
    return 0

cdef void drop(int kind, PyObject* object) noexcept:
    """Let go of what a note held. What could run code when it dies waits until no function of the core is at work."""
    if not FREE_THREADED and (kind == NOTE_LABEL or kind == NOTE_LINE):  # without a GIL any may let other threads in
        Py_DECREF_(object)  # an exact str, or a tuple of such: runs no code
        return
    tape.dropped[tape.n_dropped] = object
    tape.n_dropped += 1
    if FREE_THREADED:
        mg_note_dropped(True)
    elif not (tape.release_asked or tape.releasing):  # one asked for meanwhile keeps a traced Python 3.11 from going on
        tape.release_asked = Py_AddPendingCall(release_dropped, NULL) == 0

cdef int release_dropped "mg_release_dropped"(void* unused) noexcept:
    """Called by the interpreter between two instructions; without a GIL on the way out of the door behind which it was dropped."""
    cdef PyObject* object
    cdef bint outermost = not tape.releasing
    tape.release_asked = False
    tape.releasing = True
    while tape.n_dropped:
        tape.n_dropped -= 1
        object = tape.dropped[tape.n_dropped]
        Py_DECREF_(object)
    if outermost:
        tape.releasing = False
    mg_note_dropped(False)
    return 0

cdef void pop_notes(uint32_t n) noexcept:
    """Drop the notes of nodes from n on."""
    cdef int kind
    cdef Notes* notes
    for kind in range(NOTE_KINDS):
        notes = &tape.note[kind]
        while notes.n and notes.item[notes.n - 1].node >= n:
            if kind == NOTE_LINE:  # the last one says where what comes next is recorded
                notes.item[notes.n - 1].node = n
                if notes.n == 1 or notes.item[notes.n - 2].node < n:
                    break
                notes.n -= 1
                tape.n_notes -= 1
                drop(kind, notes.item[notes.n - 1].object)
                notes.item[notes.n - 1] = notes.item[notes.n]
                continue
            notes.n -= 1
            tape.n_notes -= 1
            drop(kind, notes.item[notes.n].object)

cdef void slide_notes(uint32_t start) noexcept:
    """In a collection: notes follow their nodes. One about a node and those after it goes on to the next that is live."""
    cdef int kind
    cdef size_t k, kept
    cdef Notes* notes
    cdef Note note
    for kind in range(NOTE_KINDS):
        notes = &tape.note[kind]
        kept = 0
        for k in range(notes.n):
            note = notes.item[k]
            if note.node < start or is_marked(note.node) or kind == NOTE_LINE:
                note.node = moved(note.node, start)
                if kind == NOTE_LINE and kept and notes.item[kept - 1].node == note.node:  # no live node is left between
                    kept -= 1
                    drop(kind, notes.item[kept].object)
                    tape.n_notes -= 1
                notes.item[kept] = note
                kept += 1
            else:
                drop(kind, note.object)
                tape.n_notes -= 1
        notes.n = kept

cdef str get_label(uint32_t node):
    cdef PyObject* text = get_note(NOTE_LABEL, node)
    return "" if text == NULL else <str>text

cdef int set_label(uint32_t node, str text) except -1:
    """text is an exact str; "" removes the label. On MemoryError nothing has changed."""
    return set_note(NOTE_LABEL, node, <PyObject*>text if text else NULL)
