# exchange.pxi: a program (program.pxi) as bytes and back, and one that runs node by node. Knows no file and no structure of
# arguments: those are mingrad/program_file.py's.
#
# Bytes may come from anybody: what is read is a program that _program() could have made, or a ValueError. All that the rest of
# the core takes for granted about a program is checked here, in one pass over the rows, and before anything is allocated it is
# known that the bytes are as many as the counts say. Integers and doubles are little-endian:
#
#   counts   u32 each: slots, inputs, captured Variables, entries of lists, outputs, guards
#   rows     16 bytes for each slot: u16 op (its place in the list of op names), u16 flags (1: a captured Variable that asks for
#            a gradient), u32 a, and a double (a leaf's value, the number beside an operand) or u32 b, u32 c: as in row_t
#            (tape.h), but where an op's list begins follows from the lists before. What an op does not use is 0.
#   lists    u32 each, slots
#   outputs  16 bytes each, an item: u32 kind (ITEM_...), u32 slot, double number
#   guards   40 bytes each: u32 comparison, u32 outcome, two items
#
# Inputs have rows too, so that whatever a program takes in memory is a few times what it takes as bytes.

cdef extern from "ops.h":
    enum: OP_POLYGAMMA

cdef enum:
    COUNTS_BYTES = 24
    ROW_BYTES = 16
    ITEM_BYTES = 16
    GUARD_BYTES = 40
    ITEM_NUMBER = 0
    ITEM_SLOT = 1
    ITEM_NOTHING = 2
    MOST_ORDER = 1000  # of polygamma: from 171 on it is infinite, and it takes as many rounds

cdef tuple COMPARISONS = ("<", "<=", "==", "!=", ">", ">=")  # by Py_LT ... Py_GE

cdef inline uint32_t get16(const unsigned char* at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8

cdef inline uint32_t get32(const unsigned char* at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24

cdef inline double get_double(const unsigned char* at) noexcept nogil:
    cdef uint64_t bits = get32(at) | <uint64_t>get32(at + 4) << 32
    cdef double x
    memcpy(&x, &bits, 8)
    return x

cdef inline void put16(unsigned char* at, uint32_t x) noexcept nogil:
    at[0] = x & 0xFF
    at[1] = x >> 8 & 0xFF

cdef inline void put32(unsigned char* at, uint32_t x) noexcept nogil:
    put16(at, x)
    put16(at + 2, x >> 16)

cdef inline void put_double(unsigned char* at, double x) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &x, 8)
    put32(at, <uint32_t>bits)
    put32(at + 4, <uint32_t>(bits >> 32))

cdef dict op_numbers():
    """{name: op} of all that a program may have; 'mul', 'mul(a, number)' and 'mul(number, b)' are three."""
    cdef int op
    cdef dict found = {}
    for op in range(OP_COUNT):
        if op != OP_CUSTOM:
            found.setdefault(op_file_name(op), op)  # affine's two, and linear's, are the same here
    return found

cdef str op_file_name(unsigned op):
    cdef unsigned place = op_number_place[op]
    return op_name[op].decode() + ("" if place == NUMBER_NOWHERE else "(a, number)" if place == NUMBER_SECOND else "(number, b)")

def _program_ops():
    """The names of the ops that a program may have, as _program_bytes() gives them."""
    return list(op_numbers())


# -- out -------------------------------------------------------------------------------------------------------------------------

def _program_bytes(Program p not None):
    """The program with its captured Variables' present values: (names of ops, bytes). Raises ValueError for a Program that holds
    none yet."""
    if p.captured is None:
        raise ValueError("expected a recorded program, got an empty Program")
    cdef uint32_t i, j, count, fixed = p.n_inputs + <uint32_t>len(p.captured)
    cdef dict places = {}
    cdef uint16_t place[OP_COUNT]
    cdef row_t* row
    cdef bytearray data = bytearray(COUNTS_BYTES + ROW_BYTES * <size_t>p.n + 4 * p.n_side + ITEM_BYTES * <size_t>len(p.outputs)
                                    + GUARD_BYTES * <size_t>len(p.guards))
    cdef unsigned char* at = <unsigned char*><char*>data
    cdef unsigned char* side = at + COUNTS_BYTES + ROW_BYTES * <size_t>p.n
    memset(place, 0xFF, sizeof(place))
    for i in range(p.n):
        if place[p.row[i].op] == 0xFFFF:
            place[p.row[i].op] = <uint16_t>places.setdefault(op_file_name(p.row[i].op), len(places))
    for number in (p.n, p.n_inputs, len(p.captured), p.n_side, len(p.outputs), len(p.guards)):
        put32(at, number)
        at += 4
    for i in range(p.n):
        row = p.row + i
        put16(at, place[row.op])
        count = operand_count(row)
        if row.op == OP_LEAF:
            if i >= fixed:
                put_double(at + 8, p.value[i])
            elif i >= p.n_inputs:
                j = (<Variable>p.captured[i - p.n_inputs]).number
                put16(at + 2, tape.row[j].flags & ROW_REQUIRES)
                put_double(at + 8, tape.value[j])
        elif op_shape[row.op] == SHAPE_A or op_shape[row.op] == SHAPE_AB:
            put32(at + 4, row.a)
            if op_number_place[row.op] != NUMBER_NOWHERE:
                put_double(at + 8, row.constant)
            elif count == 2:
                put32(at + 8, row.b)
        else:
            put32(at + 8, row.b if op_shape[row.op] == SHAPE_RANGE else 0)
            put32(at + 12, row.c)
            for j in range(count):
                put32(side, p.side[row.a + j])
                side += 4
        at += ROW_BYTES
    at = side
    for x in p.outputs:
        put_item(at, x)
        at += ITEM_BYTES
    for comparison, left, right, outcome in p.guards:
        put32(at, comparison)
        put32(at + 4, <bint>outcome)
        put_item(at + 8, left)
        put_item(at + 8 + ITEM_BYTES, right)
        at += GUARD_BYTES
    return list(places), bytes(data)

cdef int put_item(unsigned char* at, object x) except -1:
    """A slot, a float or None."""
    put32(at, ITEM_NOTHING if x is None else ITEM_SLOT if type(x) is int else ITEM_NUMBER)
    if type(x) is int:
        put32(at + 4, x)
    elif x is not None:
        put_double(at + 8, x)
    return 0


# -- in --------------------------------------------------------------------------------------------------------------------------

def _read_program(Program p not None, list names not None, bytes data not None, size_t start):
    """Fill the new Program p from what _program_bytes() has made, which is data from start on. Its captured are new Variables.
    Raises ValueError for all that is no such program; p is then as it was."""
    cdef dict numbers = op_numbers()
    cdef uint16_t* op_at = NULL
    cdef const unsigned char* at
    cdef uint32_t counts[6]
    cdef uint32_t n, fixed, i, k
    cdef uint64_t size = COUNTS_BYTES, given
    cdef list captured = []
    cdef row_t* rows = NULL
    cdef double* value = NULL
    cdef uint32_t* side = NULL
    if p.captured is not None:
        raise ValueError("expected a new Program, got one that is recorded")
    if start > <size_t>len(data) or len(data) - start < COUNTS_BYTES:
        raise ValueError("expected a program's counts, got less")
    at = <const unsigned char*>data + start
    given = len(data) - start
    for k in range(6):
        counts[k] = get32(at + 4 * k)
    n = counts[0]
    size += ROW_BYTES * <uint64_t>n + 4 * <uint64_t>counts[3]
    size += ITEM_BYTES * <uint64_t>counts[4] + GUARD_BYTES * <uint64_t>counts[5]
    if size != given:
        raise ValueError(f"expected {size} bytes for {n} rows, {counts[3]} entries of lists, {counts[4]} outputs and {counts[5]} "
                         f"guards, got {given}")
    if <uint64_t>counts[1] + counts[2] > n:
        raise ValueError(f"expected at most {n} inputs and captured Variables, got {counts[1]} and {counts[2]}")
    fixed = counts[1] + counts[2]
    try:
        resize(<void**>&op_at, len(names) + 1, sizeof(uint16_t))
        resize(<void**>&rows, <size_t>n + 1, sizeof(row_t))
        resize(<void**>&value, <size_t>n + 1, sizeof(double))
        resize(<void**>&side, <size_t>counts[3] + 1, sizeof(uint32_t))
        for k in range(<uint32_t>len(names)):
            number = numbers.get(names[k])
            if number is None:
                raise ValueError(f"expected the name of an op, got {names[k]!r}")
            op_at[k] = number
        at += COUNTS_BYTES
        read_rows(at, rows, value, n, counts[1], fixed, op_at, <uint32_t>len(names), side, counts[3])
        for i in range(counts[1], fixed):
            ready(1)
            captured.append(take(record_leaf(value[i], get16(at + ROW_BYTES * <size_t>i + 2))))
        at += ROW_BYTES * <size_t>n + 4 * <size_t>counts[3]
        outputs = [read_item(at + ITEM_BYTES * <size_t>k, n, ITEM_SLOT, "output", k) for k in range(counts[4])]
        at += ITEM_BYTES * <size_t>counts[4]
        guards = [read_guard(at + GUARD_BYTES * <size_t>k, n, k) for k in range(counts[5])]
        p.row, p.value, p.side, p.n_side = rows, value, side, counts[3]
        rows, value, side = NULL, NULL, NULL
        p.n, p.n_inputs = n, counts[1]
        p.outputs, p.guards, p.captured = outputs, guards, tuple(captured)
    finally:
        PyMem_RawFree(op_at)
        PyMem_RawFree(rows)
        PyMem_RawFree(value)
        PyMem_RawFree(side)

cdef int read_rows(const unsigned char* at, row_t* rows, double* value, uint32_t n, uint32_t inputs, uint32_t fixed,
                   uint16_t* op_at, uint32_t names, uint32_t* side, uint32_t entries) except -1:
    """All rows with their lists, which stand behind them."""
    cdef const unsigned char* list_at = at + ROW_BYTES * <size_t>n
    cdef uint32_t i, j, a, b, c, op, flags, used = 0
    cdef uint64_t count
    cdef unsigned shape
    cdef row_t* row
    for i in range(n):
        if get16(at) >= names:
            return bad_row(i, f"expected one of {names} ops, got number {get16(at)}")
        op = op_at[get16(at)]
        shape = op_shape[op]
        row = rows + i
        row_set(row, op, 0, 0, 0, 0)
        value[i] = 0
        flags, a, b, c = get16(at + 2), get32(at + 4), get32(at + 8), get32(at + 12)
        if i < fixed and op != OP_LEAF:
            return bad_row(i, f"expected a leaf for an input or a captured Variable, got {op_file_name(op)!r}")
        if flags > 1 or flags == 1 and not inputs <= i < fixed:
            return bad_row(i, f"expected no flags, got {flags}")
        if shape == SHAPE_LEAF:
            if a != 0 or i < inputs and (b != 0 or c != 0):
                return bad_row(i, "expected a leaf without operands and, of an input, without a value")
            value[i] = get_double(at + 8)
        elif shape == SHAPE_A or shape == SHAPE_AB:
            row.a = a
            if a >= i or shape == SHAPE_AB and b >= i:
                return bad_row(i, f"expected operands from the {i} rows before, got {a if a >= i else b}")
            if op_number_place[op] != NUMBER_NOWHERE:
                row.constant = get_double(at + 8)
            elif c != 0 or shape == SHAPE_A and b != 0:
                return bad_row(i, f"expected {1 if shape == SHAPE_A else 2} operands, got more")
            else:
                row.b = b
            if op == OP_SOFTMAX and rows[b].op != OP_SUMEXP:
                return bad_row(i, "expected softmax's second operand to be a sum of exponentials, got "
                               f"{op_file_name(rows[b].op)!r}")
            if op - op_number_place[op] == OP_POLYGAMMA and not is_order(op, row.constant):
                return bad_row(i, f"expected polygamma's order to be a whole number from 1 to {MOST_ORDER}")
        else:
            count = c if shape == SHAPE_RANGE else 2 * <uint64_t>c + (op_bias(op) if shape == SHAPE_AFFINE else 0)
            if count == 0:
                return bad_row(i, f"expected operands for {op_file_name(op)!r}, got none")
            if count > entries - used:
                return bad_row(i, f"expected a list of at most {entries - used} operands, got {count}")
            if a != 0 or (b >= c if op == OP_CROSS_ENTROPY else b != 0):
                return bad_row(i, f"expected an index that {op_file_name(op)!r} has for {c} operands, got {b}")
            row.a, row.b, row.c = used, b, c
            for j in range(<uint32_t>count):
                side[used] = get32(list_at)
                if side[used] >= i:
                    return bad_row(i, f"expected operands from the {i} rows before, got {side[used]}")
                used += 1
                list_at += 4
        at += ROW_BYTES
    if used != entries:
        raise ValueError(f"expected lists of {used} entries, got {entries}")
    return 0

cdef int bad_row(uint32_t i, str problem) except -1:
    raise ValueError(f"row {i}: {problem}")

cdef inline bint is_order(unsigned op, double order) noexcept nogil:
    """Is it what polygamma's second operand can be: such a number?"""
    return op_number_place[op] == NUMBER_SECOND and 1 <= order <= MOST_ORDER and order == <int>order

cdef object read_item(const unsigned char* at, uint32_t n, uint32_t most, str what, uint32_t place):
    """A float, a slot as an int, or None; most: the last kind that is allowed."""
    cdef uint32_t kind = get32(at), slot = get32(at + 4)
    if kind > most:
        raise ValueError(f"{what} {place}: expected a number or a row, got kind {kind}")
    if slot >= n if kind == ITEM_SLOT else slot != 0:
        raise ValueError(f"{what} {place}: expected one of {n} rows, got {slot}")
    if kind == ITEM_NUMBER:
        return get_double(at + 8)
    if get32(at + 8) != 0 or get32(at + 12) != 0:
        raise ValueError(f"{what} {place}: expected a row alone, got a number with it")
    return slot if kind == ITEM_SLOT else None

cdef tuple read_guard(const unsigned char* at, uint32_t n, uint32_t place):
    if get32(at) >= <uint32_t>len(COMPARISONS) or get32(at + 4) > 1:
        raise ValueError(f"guard {place}: expected one of {len(COMPARISONS)} comparisons and an outcome, got {get32(at)} and "
                         f"{get32(at + 4)}")
    return (get32(at), read_item(at + 8, n, ITEM_SLOT, "guard", place),
            read_item(at + 8 + ITEM_BYTES, n, ITEM_NOTHING, "guard", place), bool(get32(at + 4)))


# -- node by node ----------------------------------------------------------------------------------------------------------------

def _run_eagerly(Program p not None, list inputs not None, str name not None):
    """Run the program node by node on the tape, as plain mingrad does: where _run() has found something amiss, to say what, and
    while a recording is on, to become part of it. Results as _run()'s.

    Raises what plain mingrad raises, and RecordingError for a comparison that comes out otherwise than recorded. Where there
    may be both, a comparison comes as early as its operands allow."""
    cdef uint32_t* node = NULL
    cdef row_t* row
    cdef uint32_t i, longest = 1, n = p.n_inputs, fixed = n + <uint32_t>len(p.captured), guard = 0, needed
    cdef double number
    cdef int off = ready(0)
    cdef list leaves = inputs + list(p.captured), found = [], values
    cdef bytearray kinds = bytearray(fixed)
    if <uint32_t>len(inputs) != n:
        raise ValueError(f"expected {n} inputs, got {len(inputs)}")
    for i in range(fixed):
        x = leaves[i]
        kinds[i] = kind_of(x) | (IS_ACTIVE if kind_of(x) and is_recording() else 0)  # a recording has constants as inputs too
        if kinds[i] == 0:
            to_number(x, "an input of a program", &number)
            leaves[i] = number
    for i in range(p.n):
        longest = max(longest, operand_count(p.row + i))
    resize(<void**>&node, <size_t>p.n + 1, sizeof(uint32_t))
    hold(1)
    try:
        reserve_scratch(longest + 1)
        needed = rows_for_guard(p, 0)
        for i in range(p.n):
            while needed <= i:
                check_guard(p, guard, node, name)
                guard += 1
                needed = rows_for_guard(p, guard)
            row = p.row + i
            if i < fixed and is_variable(<PyObject*>leaves[i]):
                node[i] = (<Variable>leaves[i]).number
                continue
            room_for(2, operand_count(row))  # each time: what a comparison says may run code, which may record
            if row.op == OP_LEAF:
                push_leaf(<double>leaves[i] if i < fixed else p.value[i], False)
            else:
                push_row(p, row, node)
                refuse_row(row, node)
            node[i] = tape.n - 1
        for guard in range(guard, <uint32_t>len(p.guards)):
            check_guard(p, guard, node, name)
        values = [slot if type(slot) is float else tape.value[node[<uint32_t>slot]] for slot in p.outputs]
        if not off:
            found = [take(handle_of(node[<uint32_t>slot])) for slot in p.outputs if type(slot) is not float]
    finally:
        PyMem_RawFree(node)
        hold(-1)
        pop()
    return as_given(p, inputs, bytes(kinds), values, found)

cdef int refuse_row(row_t* row, uint32_t* node) except -1:
    """Raise what plain mingrad raises for the row that was recorded last."""
    cdef double y = tape.value[tape.n - 1], a, b
    cdef unsigned shape = op_shape[row.op], place = op_number_place[row.op]
    if isfinite(y) or shape != SHAPE_A and shape != SHAPE_AB or row.op == OP_SOFTMAX:
        return 0
    a = b = tape.value[node[row.a]]
    if place == NUMBER_FIRST:
        a = row.constant
    elif place == NUMBER_SECOND:
        b = row.constant
    elif shape == SHAPE_AB:
        b = tape.value[node[row.b]]
    return refuse(row.op - place, a, b, y, shape == SHAPE_AB or place != NUMBER_NOWHERE)

cdef uint32_t rows_for_guard(Program p, uint32_t k) except? 0:
    """How many rows must be there so that a comparison can be looked at."""
    cdef uint32_t needed = 0
    if k >= <uint32_t>len(p.guards):
        return NO_NODE
    for x in (p.guards[k][1], p.guards[k][2]):
        if type(x) is int:
            needed = max(needed, <uint32_t>x + 1)
    return needed

cdef int check_guard(Program p, uint32_t k, uint32_t* node, str name) except -1:
    """Raise RecordingError if a comparison comes out otherwise than recorded; a recording that is on gets it as its own."""
    op, left, right, outcome = p.guards[k]
    x = guard_operand(left, node)
    y = guard_operand(right, node)
    cdef double a = number_or_value(<PyObject*>x), b = 0 if y is None else number_or_value(<PyObject*>y)
    if compares(op, a, b) == <bint>outcome:
        return note_guard(op, x, y, outcome) if thread_mode.recording != NULL else 0
    if right is None:
        text, numbers = f"bool({slot_text(p, left)})", f"{a!r}"
    else:
        text, numbers = f"{slot_text(p, left)} {COMPARISONS[op]} {slot_text(p, right)}", f"{a!r} and {b!r}"
    raise RecordingError(f"{name}: the comparison {text} (number {k} of the program's guards) came out {not outcome} with "
                         f"{numbers}; a program goes the one way that was recorded: call the compiled function, or use a program "
                         "that was recorded with numbers like these")

cdef object guard_operand(object x, uint32_t* node):
    return take(handle_of(node[<uint32_t>x])) if type(x) is int else x

cdef str slot_text(Program p, object x):
    cdef uint32_t slot, fixed = p.n_inputs + <uint32_t>len(p.captured)
    if type(x) is float:
        return repr(x)
    slot = x
    if slot < p.n_inputs:
        return f"input {slot}"
    if slot < fixed:
        return describe((<Variable>p.captured[slot - p.n_inputs]).number)
    if p.row[slot].op == OP_LEAF:
        return repr(p.value[slot])
    return f"the result of {op_symbol[p.row[slot].op].decode()!r} in row {slot}"
