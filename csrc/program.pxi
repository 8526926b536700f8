# program.pxi: recorded programs: a graph copied off the tape, made shorter, put into steps (steps.h), and run again on other
# numbers without Python. Knows no formula and no user code; recording is in record.pxi, what people call in mingrad/program.py.
#
# A program's rows are the tape's, its operands slots: inputs first, then what it captured (Variables from outside, read at each
# call), then the rest in order of creation. A **schedule** is what runs: rows that no result needs are gone, equal ones are one,
# and rows of the same op and depth stand side by side as one step. Each result is computed by the same operation on the same
# operands as when it was recorded, so it has the same bits.
#
# A gradient's schedule has two phases: the results, then the adjoints, written out as values too, in backward()'s order and with
# its formulas, so they have its bits. Derivatives of higher order, and tangents, put the graph on the tape again and leave it to
# derive.pxi.

cdef enum:
    PHASE_RESULT, PHASE_ADJOINT, PHASES

cdef class Program:
    """A recorded graph that runs on other numbers. Made by mingrad.compile and mingrad.record."""
    cdef uint32_t n               # slots
    cdef row_t* row               # [n] operands are slots, lists are in side
    cdef double* value            # [n] of constants
    cdef uint32_t* side           # [n_side]
    cdef size_t n_side
    cdef readonly uint32_t n_inputs
    cdef readonly tuple captured  # Variables; their slots follow the inputs'
    cdef readonly list outputs    # slots, and floats for results that nothing changes
    cdef readonly list guards     # (op, left, right, outcome): slots as ints, floats, right None: a truth value
    cdef Schedule latest          # the one that runs: with adjoints once somebody wanted those
    cdef dict rows_               # schedules for blocks of rows: by the same, and None
    cdef dict gradients           # of results and adjoints: by which inputs and captured Variables are asked for, as bytes

    def __dealloc__(self):
        PyMem_RawFree(self.row)
        PyMem_RawFree(self.value)
        PyMem_RawFree(self.side)

    def __len__(self):
        return self.n

    def rows(self):
        """The rows as a list of tuples (name, operands, number, index, value), operands being slots; see _graph(). value: of a
        constant; None for inputs, captured Variables and results."""
        cdef uint32_t i, j
        cdef row_t* row
        cdef list found = []
        for i in range(self.n):
            row = self.row + i
            number = index = value = None
            if op_number_place[row.op] != NUMBER_NOWHERE:
                number = (0 if op_number_place[row.op] == NUMBER_FIRST else 1, row.constant)
            if op_shape[row.op] == SHAPE_RANGE:
                index = row.b
            if row.op == OP_LEAF and i >= self.n_inputs + len(self.captured):
                value = self.value[i]
            found.append((op_name[row.op].decode(), tuple([self.operand(row, j) for j in range(operand_count(row))]), number, index,
                          value))
        return found

    cdef inline uint32_t operand(self, row_t* row, uint32_t j) noexcept:
        """operand_at() for slots."""
        cdef unsigned shape = op_shape[row.op]
        if shape == SHAPE_A or shape == SHAPE_AB:
            return row.b if j else row.a
        return self.side[row.a + j]


# -- taking a graph off the tape -----------------------------------------------------------------------------------------------

cdef int check_row(uint32_t i, row_t* row, uint32_t base) except -1:
    """Can this row, which is no leaf, be part of a program?"""
    if row.op == OP_CUSTOM:
        raise RecordingError(f"{op_text(i)!r} is computed outside and cannot be part of a compiled function: call it before or "
                             "after, and pass its result as an argument")
    if i < base:
        raise RecordingError(f"{describe(i)} was computed before the function that is being compiled, which would keep that "
                             "value for ever: compute it inside, or pass it as an argument")
    return 0

def _program(Program p not None, list inputs not None, list outputs not None, list guards not None, base=None):
    """Fill the new Program p with the graph between these Variables and outputs (Variables and floats), and return it; base: a
    Variable, where results that are older may not be used (None: the first input)."""
    global walk
    cdef list roots = [x for x in outputs if is_variable(<PyObject*>x)], captured = [], found = []
    cdef uint32_t i, j, k, low, count, slots
    cdef row_t* row
    cdef uint32_t* slot = NULL
    cdef size_t entries = 0
    cdef Walk* mine
    for _, left, right, _ in guards:
        roots += [x for x in (left, right) if is_variable(<PyObject*>x)]
    checked_variables(roots, False)
    checked_variables(inputs, False)
    mine = start_walk(roots, [], TO_ANYTHING, False, False, 0)
    try:
        low = (<Variable>(base if base is not None else inputs[0])).number if base is not None or inputs else 0
        p.n_inputs = len(inputs)
        resize(<void**>&slot, walk.top + 1, sizeof(uint32_t))
        memset(slot, 0xFF, (walk.top + 1) * sizeof(uint32_t))
        for k in range(p.n_inputs):
            i = (<Variable>inputs[k]).number
            if i <= walk.top:
                slot[i] = k
        count = 0
        slots = p.n_inputs
        i = walk.low + walk.count
        while i > walk.low and next_down(&i, True):
            row = tape.row + i
            count += 1
            if row.op == OP_LEAF:
                if slot[i] == NO_NODE and (i < low or row.flags & ROW_REQUIRES or not inputs and tape.handle[i] != NULL):
                    captured.append(take(handle_of(i)))
            else:
                check_row(i, row, low)
                entries += operand_count(row) if op_shape[row.op] != SHAPE_A and op_shape[row.op] != SHAPE_AB else 0
        captured.reverse()
        for v in captured:
            slot[(<Variable>v).number] = slots
            slots += 1
        p.captured = tuple(captured)
        walk = mine
        resize(<void**>&p.row, count + slots + 1, sizeof(row_t))
        resize(<void**>&p.value, count + slots + 1, sizeof(double))
        resize(<void**>&p.side, entries + 1, sizeof(uint32_t))
        for k in range(slots):
            row_set(p.row + k, OP_LEAF, 0, 0, 0, 0)
            p.value[k] = 0
        for i in range(walk.low, walk.low + walk.count):
            if on_walk(i) and slot[i] == NO_NODE:
                copy_row(p, i, slots, slot)
                slot[i] = slots
                slots += 1
        p.n = slots
        p.outputs = [<object>slot[(<Variable>x).number] if is_variable(<PyObject*>x) else x for x in outputs]
        for op, left, right, outcome in guards:
            found.append((op, <object>slot[(<Variable>left).number] if is_variable(<PyObject*>left) else left,
                          <object>slot[(<Variable>right).number] if is_variable(<PyObject*>right) else right, outcome))
        p.guards = found
    finally:
        PyMem_RawFree(slot)
        end_walk(mine)
    return p

cdef void copy_row(Program p, uint32_t i, uint32_t to, uint32_t* slot) noexcept:
    """Node i becomes slot `to`. Ranges become lists."""
    cdef row_t* row = tape.row + i
    cdef row_t* copy = p.row + to
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j
    copy[0] = row[0]
    copy.flags = 0
    p.value[to] = tape.value[i]
    if shape == SHAPE_LEAF:
        copy.a = 0
    elif shape == SHAPE_A or shape == SHAPE_AB:
        copy.a = slot[row.a]
        if shape == SHAPE_AB:
            copy.b = slot[row.b]
    else:
        copy.a = <uint32_t>p.n_side
        for j in range(operand_count(row)):
            p.side[p.n_side + j] = slot[operand_at(row, j)]
        p.n_side += operand_count(row)


# -- putting it on the tape again ------------------------------------------------------------------------------------------------

cdef list inline_program(Program p, list leaves):
    """Record the program's graph on these Variables and floats, for inputs and captured. Returns its outputs: Variables, and
    floats for results that nothing changes."""
    cdef uint32_t* node = NULL
    cdef row_t* row
    cdef uint32_t i, longest = 1
    cdef list found = []
    for i in range(p.n):
        longest = max(longest, operand_count(p.row + i))
    resize(<void**>&node, p.n + 1, sizeof(uint32_t))
    try:
        room_for(2 * <size_t>p.n, p.n_side)  # an affine row may become two
        reserve_scratch(longest + 1)
        for i in range(p.n):
            row = p.row + i
            if i < <uint32_t>len(leaves) and is_variable(<PyObject*>leaves[i]):
                node[i] = (<Variable>leaves[i]).number
                continue
            if row.op == OP_LEAF:
                push_leaf(<double>leaves[i] if i < <uint32_t>len(leaves) else p.value[i], False)
            else:
                push_row(p, row, node)
            node[i] = tape.n - 1
        for slot in p.outputs:
            found.append(slot if type(slot) is float else take(handle_of(node[<uint32_t>slot])))
    finally:
        PyMem_RawFree(node)
    return found

cdef void push_row(Program p, row_t* row, uint32_t* node) noexcept:
    """Record one row; node: of each slot so far. There is room."""
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j, count = operand_count(row), n = row.c, op = row.op
    cdef double y
    cdef uint32_t at = <uint32_t>tape.n_side
    if shape == SHAPE_A:
        push(op, ROW_REQUIRES, node[row.a], 0, 0, op_value1(op, tape.value[node[row.a]], row.constant))
        tape.row[tape.n - 1].constant = row.constant
        return
    if shape == SHAPE_AB:
        if op == OP_SOFTMAX:
            for j in range(p.row[row.b].c):
                tape.scratch[j] = tape.value[node[p.side[p.row[row.b].a + j]]]
            y = value_softmax(tape.value[node[row.a]], k_max(tape.scratch, p.row[row.b].c), tape.value[node[row.b]])
        else:
            y = op_value2(op, tape.value[node[row.a]], tape.value[node[row.b]])
        push(op, ROW_REQUIRES, node[row.a], node[row.b], 0, y)
        return
    for j in range(count):
        tape.side[at + j] = node[p.side[row.a + j]]
        tape.scratch[j] = tape.value[tape.side[at + j]]
    tape.n_side += count
    if shape == SHAPE_RANGE:
        push(op, ROW_REQUIRES | ROW_SCATTERED, at, row.b, n, op_value_n(op, tape.scratch, n, row.b))
        return
    y = kernels.dot(tape.scratch, tape.scratch + n, n)
    if shape == SHAPE_AFFINE and op_bias(op):  # weights and inputs that are no runs: a dot, and a sum with the bias
        push(OP_DOT, ROW_REQUIRES | ROW_SCATTERED, at, 0, n, y)
        push(OP_ADD, ROW_REQUIRES, tape.n - 1, tape.side[at + 2 * n], 0, y + tape.value[tape.side[at + 2 * n]])
        tape.n_side -= 1
        return
    push(OP_DOT, ROW_REQUIRES | ROW_SCATTERED, at, 0, n, y)


# -- the schedule --------------------------------------------------------------------------------------------------------------------
#
# In four passes: what the results need, from the last slot to the first; each such row as a value, where equal rows are one
# value, numbers are values like others and what only needs numbers is computed now; how deep each value is; and, depth by
# depth, values of one op side by side as a step, in the order of their first operands, so that these tend to stand side by side
# too.

cdef struct Made:  # a value of a schedule that is being made
    uint16_t op        # OP_LEAF: an input, a captured one, a seed, a number
    uint8_t kind       # STEP_...
    uint8_t phase      # PHASES: nothing needs it
    uint32_t a, b, c   # operands, among the values (as steps have them); of a range a: its list in `list`
    uint32_t k, i, n   # of a range: the row's index; which operand; how many operands (of each range)
    uint32_t depth
    uint32_t uses      # how many values have it for an operand, and whether it is asked for
    uint32_t place     # where it stands
    double number      # of a number

cdef struct Maker:
    Made* made      # [capacity]
    uint32_t n, capacity
    uint32_t* table # [mask + 1] values by what they are, plus 1; 0: none
    uint32_t mask
    uint32_t* list  # [list_capacity] operands of ranges
    uint32_t n_list, list_capacity
    uint32_t fixed  # inputs, captured and seeds
    uint32_t* of    # [slots] the value of each slot
    uint32_t* adjoint # [slots] the adjoint of each slot so far; NO_NODE: 0

cdef struct Sorted:
    uint64_t first, second
    uint32_t made

cdef extern from "stdlib.h":
    void qsort(void*, size_t, size_t, int (*compare)(const void*, const void*) noexcept nogil) nogil

cdef int compare_sorted(const void* x, const void* y) noexcept nogil:
    cdef const Sorted* p = <const Sorted*>x
    cdef const Sorted* q = <const Sorted*>y
    if p.first != q.first:
        return -1 if p.first < q.first else 1
    return -1 if p.second < q.second else 1 if p.second > q.second else 0

cdef class Schedule:
    """How a program runs: its steps, and where each value stands."""
    cdef step_t* step             # [n_steps]
    cdef size_t n_steps
    cdef size_t n_results         # steps of the first phase
    cdef uint32_t* index          # operands that are listed
    cdef size_t n_index
    cdef double* start            # [n_values] the numbers in their places
    cdef uint32_t n_values
    cdef uint32_t* place          # [slots] where each slot's value stands; NO_NODE: nowhere
    cdef uint32_t* seed           # [results] where the adjoints of results stand
    cdef uint32_t* adjoint        # [inputs and captured] where their adjoints stand; NO_NODE: not asked for
    cdef size_t room              # operands of the longest range
    cdef uint32_t* room_for_lists # while it is made: operands of one step
    cdef uint32_t n_fixed         # for rows: registers of leaves
    cdef double** spare           # [n_spare] buffers of values for runs to come
    cdef size_t n_spare, spare_capacity

    def __dealloc__(self):
        cdef size_t k
        for k in range(self.n_spare):
            PyMem_RawFree(self.spare[k])
        PyMem_RawFree(self.spare)
        PyMem_RawFree(self.step)
        PyMem_RawFree(self.index)
        PyMem_RawFree(self.start)
        PyMem_RawFree(self.place)
        PyMem_RawFree(self.seed)
        PyMem_RawFree(self.adjoint)
        PyMem_RawFree(self.room_for_lists)

    cdef double* take(self) except NULL:
        """A buffer of values with the numbers in it."""
        cdef double* v = NULL
        if self.n_spare:
            self.n_spare -= 1
            return self.spare[self.n_spare]
        if self.spare_capacity < 8:
            resize(<void**>&self.spare, 8, sizeof(void*))
            self.spare_capacity = 8
        resize(<void**>&v, self.n_values + 2 * self.room + 1, sizeof(double))
        memcpy(v, self.start, self.n_values * sizeof(double))
        return v

    cdef void give_back(self, double* v) noexcept:
        if v == NULL:
            return
        if self.n_spare < self.spare_capacity:
            self.spare[self.n_spare] = v
            self.n_spare += 1
        else:
            PyMem_RawFree(v)

    cdef bint run(self, double* v, int phase) noexcept nogil:
        """Run one phase. Returns whether some value of an op that can fail is not finite (results only)."""
        if phase == PHASE_RESULT:
            return kernels.run_steps(self.step, self.n_results, v, self.index, v + self.n_values, 1)
        return kernels.run_steps(self.step + self.n_results, self.n_steps - self.n_results, v, self.index, v + self.n_values, 0)

cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ x >> 32) * <uint64_t>0xD6E8FEB86659FD93
    return x ^ x >> 29

cdef int reserve_made(Maker* m, uint32_t more, uint32_t entries) except -1:
    """Room for so many values more, and entries of `list`."""
    cdef uint32_t k, at
    if m.n_list + entries > m.list_capacity:
        resize(<void**>&m.list, 2 * (m.n_list + entries), sizeof(uint32_t))
        m.list_capacity = 2 * (m.n_list + entries)
    if m.n + more <= m.capacity:
        return 0
    resize(<void**>&m.made, 2 * (m.n + more), sizeof(Made))
    m.capacity = 2 * (m.n + more)
    k = 16
    while k < 2 * m.capacity:
        k *= 2
    resize(<void**>&m.table, k, sizeof(uint32_t))
    memset(m.table, 0, k * sizeof(uint32_t))
    m.mask = k - 1
    for k in range(m.n):
        if m.made[k].op != OP_LEAF or k >= m.fixed:
            at = <uint32_t>(hash_of(m, m.made + k) & m.mask)
            while m.table[at]:
                at = (at + 1) & m.mask
            m.table[at] = k + 1
    return 0

cdef uint64_t hash_of(Maker* m, Made* x) noexcept nogil:
    cdef uint64_t bits
    cdef uint32_t j
    memcpy(&bits, &x.number, 8)
    bits = mix(bits ^ (<uint64_t>x.kind << 60 | <uint64_t>x.op << 40 | <uint64_t>x.k << 20 | x.i))
    if is_listed(x):
        for j in range(list_size(x)):
            bits = mix(bits ^ m.list[x.a + j])
        return mix(bits ^ (<uint64_t>x.c << 32 | x.b))
    return mix(bits ^ mix(<uint64_t>x.a << 32 | x.b) ^ x.c)

cdef inline bint is_listed(Made* x) noexcept nogil:
    """Are its operands a list?"""
    return (x.kind == STEP_VALUE or x.kind == STEP_AUX) and op_shape[x.op] >= SHAPE_RANGE

cdef inline uint32_t list_size(Made* x) noexcept nogil:
    return x.n if op_shape[x.op] == SHAPE_RANGE else 2 * x.n

cdef bint is_equal(Maker* m, Made* x, Made* y) noexcept nogil:
    if x.op != y.op or x.kind != y.kind or x.k != y.k or x.i != y.i or x.n != y.n or x.b != y.b or x.c != y.c \
            or memcmp(&x.number, &y.number, 8) != 0:
        return False
    return memcmp(m.list + x.a, m.list + y.a, list_size(x) * sizeof(uint32_t)) == 0 if is_listed(x) else x.a == y.a

cdef uint32_t make(Maker* m, Made x) noexcept nogil:
    """The value x, or an equal one if there is one. There is room. A list is the last one; where it is not needed it is taken
    back."""
    cdef uint32_t at = <uint32_t>(hash_of(m, &x) & m.mask)
    while m.table[at]:
        if is_equal(m, &x, m.made + m.table[at] - 1):
            if is_listed(&x) and x.a + list_size(&x) == m.n_list and x.a != m.made[m.table[at] - 1].a:
                m.n_list = x.a
            return m.table[at] - 1
        at = (at + 1) & m.mask
    m.table[at] = m.n + 1
    return append(m, x)

cdef uint32_t append(Maker* m, Made x) noexcept nogil:
    x.phase = PHASES
    x.depth = x.uses = 0
    x.place = NO_NODE
    m.made[m.n] = x
    m.n += 1
    return m.n - 1

cdef inline Made value_of(unsigned op, uint32_t a, uint32_t b, uint32_t c) noexcept nogil:
    return Made(op, STEP_VALUE, PHASES, a, b, c, 0, 0, 0, 0, 0, NO_NODE, 0)

cdef inline bint is_number(Maker* m, uint32_t x) noexcept nogil:
    return m.made[x].op == OP_LEAF and x >= m.fixed

cdef inline bint is_this(Maker* m, uint32_t x, double number) noexcept nogil:
    """Is value x this number, sign of zero included?"""
    return is_number(m, x) and memcmp(&m.made[x].number, &number, 8) == 0

cdef uint32_t make_number(Maker* m, double number) noexcept nogil:
    cdef Made x = value_of(OP_LEAF, 0, 0, 0)
    x.number = number
    return make(m, x)

cdef uint32_t make_one(Maker* m, unsigned op, uint32_t x) noexcept nogil:
    cdef double y
    if op == OP_COPY or op == OP_STOP:
        return x
    if op == OP_NEG and m.made[x].op == OP_NEG and m.made[x].kind == STEP_VALUE:
        return m.made[x].a
    if is_number(m, x):
        y = op_value1(op, m.made[x].number, 0)
        if isfinite(y):
            return make_number(m, y)
    return make(m, value_of(op, x, 0, 0))

cdef uint32_t make_two(Maker* m, unsigned op, uint32_t x, uint32_t y) noexcept nogil:
    """Only what keeps the bits: 1 * x, x / 1, x - 0, x + -0, x ** 1, and -1 * x as a change of sign."""
    cdef double z
    if is_number(m, x) and is_number(m, y):
        z = op_value2(op, m.made[x].number, m.made[y].number)
        if isfinite(z):
            return make_number(m, z)
    if op == OP_MUL:
        if is_this(m, x, 1):
            return y
        if is_this(m, y, 1):
            return x
        if is_this(m, x, -1):
            return make_one(m, OP_NEG, y)
        if is_this(m, y, -1):
            return make_one(m, OP_NEG, x)
    elif (op == OP_DIV or op == OP_POW) and is_this(m, y, 1):
        return x
    elif op == OP_SUB and is_this(m, y, 0.0) or op == OP_ADD and is_this(m, y, -0.0):
        return x
    elif op == OP_ADD and is_this(m, x, -0.0):
        return y
    if (op == OP_ADD or op == OP_MUL) and x > y:  # one order for both
        x, y = y, x
    return make(m, value_of(op, x, y, 0))

cdef uint32_t make_row(Maker* m, Program p, row_t* row) noexcept nogil:
    """The value of a row."""
    cdef unsigned shape = op_shape[row.op], op = row.op
    cdef uint32_t* of = m.of
    cdef Made x
    if shape == SHAPE_A:
        if op_number_place[op] == NUMBER_SECOND:
            return make_two(m, op - NUMBER_SECOND, of[row.a], make_number(m, row.constant))
        if op_number_place[op] == NUMBER_FIRST:
            return make_two(m, op - NUMBER_FIRST, make_number(m, row.constant), of[row.a])
        return make_one(m, op, of[row.a])
    if op == OP_SOFTMAX:  # its maximum: of what the sum of exponentials is of
        x = make_list(m, p, p.row + row.b, OP_MAX)
        return make(m, value_of(op, of[row.a], of[row.b], make(m, x)))
    if shape == SHAPE_AB:
        return make_two(m, op, of[row.a], of[row.b])
    x = make_list(m, p, row, op if shape == SHAPE_RANGE else OP_AFFINE if shape == SHAPE_AFFINE and op_bias(op) else OP_DOT)
    if shape == SHAPE_AFFINE and op_bias(op):
        x.c = of[p.side[row.a + 2 * row.c]]
    return make(m, x)

cdef Made make_list(Maker* m, Program p, row_t* row, unsigned op) noexcept nogil:
    """A value of op over the operands of a row (without a bias)."""
    cdef Made x = value_of(op, m.n_list, 0, 0)
    cdef uint32_t j
    x.n = row.c
    x.k = row.b if op_shape[row.op] == SHAPE_RANGE else 0
    for j in range(list_size(&x)):
        m.list[m.n_list] = m.of[p.side[row.a + j]]
        m.n_list += 1
    return x


# adjoints, written out

cdef void give_adjoint(Maker* m, uint32_t slot, uint32_t contribution) noexcept nogil:
    """Add to the adjoint of a slot, in backward()'s order; but the sum does not begin with 0, so -0 may stay -0."""
    m.adjoint[slot] = contribution if m.adjoint[slot] == NO_NODE else make_two(m, OP_ADD, m.adjoint[slot], contribution)

cdef uint32_t expand(Maker* m, int e, uint32_t a, uint32_t b, uint32_t y) noexcept nogil:
    """A partial's formula as values of ops; NO_NODE where it takes the formula's own C: a choice that numbers do not settle, or
    a helper function."""
    cdef Expr* expr = exprs + e
    cdef Expr* test
    cdef uint32_t p, q
    while expr.kind == EX_WHERE and not expr.meaning:
        test = exprs + expr.x
        p = expand(m, test.x, a, b, y)
        q = expand(m, test.y, a, b, y)
        if p == NO_NODE or q == NO_NODE or not is_number(m, p) or not is_number(m, q):
            return NO_NODE
        expr = exprs + (expr.y if holds(test.kind, m.made[p].number, m.made[q].number) else expr.z)
    if expr.meaning or expr.kind == EX_WHERE:
        return NO_NODE
    if expr.kind == EX_NUMBER:
        return make_number(m, expr.number)
    if expr.kind == EX_NAME:
        return a if expr.op == NAME_A else b if expr.op == NAME_B else y if expr.op == NAME_Y else NO_NODE
    p = expand(m, expr.x, a, b, y)
    if expr.kind == EX_ONE:
        return NO_NODE if p == NO_NODE else make_one(m, expr.op, p)
    q = expand(m, expr.y, a, b, y)
    return NO_NODE if p == NO_NODE or q == NO_NODE else make_two(m, expr.op, p, q)

cdef uint32_t make_slope(Maker* m, unsigned op, bint second, uint32_t a, uint32_t b, uint32_t y) noexcept nogil:
    """The partial of y = op of a and b by one of them."""
    cdef Made x
    cdef uint32_t found = expand(m, formula_b[op] if second else formula_a[op], a, b, y)
    if found != NO_NODE:
        return found
    x = value_of(op, a, b, y)
    x.kind = STEP_SLOPE_B if second else STEP_SLOPE_A
    return make(m, x)

cdef void adjoint_of_row(Maker* m, Program p, uint32_t slot, uint8_t* active) noexcept nogil:
    """Contributions of a slot to its operands."""
    cdef row_t* row = p.row + slot
    cdef unsigned op = row.op, shape = op_shape[op], place = op_number_place[op]
    cdef uint32_t* of = m.of
    cdef uint32_t adjoint = m.adjoint[slot], y = of[slot], j, n = row.c, left, right, q
    cdef uint32_t* list = p.side + row.a
    cdef Made x
    if shape == SHAPE_A:
        if op == OP_STOP or not active[row.a]:
            return
        if place == NUMBER_FIRST:
            q = make_slope(m, op - place, True, make_number(m, row.constant), of[row.a], y)
        else:
            q = make_slope(m, op - place, False, of[row.a], make_number(m, row.constant) if place else of[row.a], y)
        give_adjoint(m, row.a, make_two(m, OP_MUL, adjoint, q))
    elif shape == SHAPE_AB:
        if active[row.a]:
            give_adjoint(m, row.a, make_two(m, OP_MUL, adjoint, make_slope(m, op, False, of[row.a], of[row.b], y)))
        if active[row.b]:
            give_adjoint(m, row.b, make_two(m, OP_MUL, adjoint, make_slope(m, op, True, of[row.a], of[row.b], y)))
    elif op == OP_PROD:  # back_prod()
        right = m.n_list
        m.list[right + n - 1] = make_number(m, 1)
        for j in range(n - 1, 0, -1):
            m.list[right + j - 1] = make_two(m, OP_MUL, m.list[right + j], of[list[j]])
        left = make_number(m, 1)
        for j in range(n):
            if active[list[j]]:
                give_adjoint(m, list[j], make_two(m, OP_MUL, adjoint, make_two(m, OP_MUL, left, m.list[right + j])))
            left = make_two(m, OP_MUL, left, of[list[j]])
    elif shape == SHAPE_RANGE:
        x = make_list(m, p, row, op)
        x.kind = STEP_AUX
        x.c = y
        q = make(m, x)
        for j in range(n):
            if active[list[j]]:
                if op == OP_SUM:
                    left = make_number(m, 1)
                elif op == OP_MEAN:
                    left = make_number(m, 1.0 / n)
                else:
                    x = value_of(op, of[list[j]], y, q)
                    x.kind = STEP_SLOPE_N
                    x.i = j
                    x.k = row.b
                    x.n = n
                    left = make(m, x)
                give_adjoint(m, list[j], make_two(m, OP_MUL, adjoint, left))
    else:
        for j in range(n):
            if active[list[j]]:
                give_adjoint(m, list[j], make_two(m, OP_MUL, adjoint, of[list[n + j]]))
            if active[list[n + j]]:
                give_adjoint(m, list[n + j], make_two(m, OP_MUL, adjoint, of[list[j]]))
        if shape == SHAPE_AFFINE and op_bias(op) and active[list[2 * n]]:
            give_adjoint(m, list[2 * n], adjoint)


# what is needed, how deep it is, and where it stands

cdef void need_value(Maker* m, uint32_t x, unsigned phase) noexcept nogil:
    m.made[x].uses += 1
    if phase < m.made[x].phase:
        m.made[x].phase = phase

cdef inline int operands_of_made(Made* made) noexcept nogil:
    """How many operands it has beside a list."""
    cdef unsigned shape = op_shape[made.op]
    if made.kind != STEP_VALUE:
        return 1 if made.kind == STEP_AUX else 3  # the value
    return 1 if shape == SHAPE_A or made.op == OP_AFFINE else 3 if made.op == OP_SOFTMAX else 2 if shape == SHAPE_AB else 0

cdef inline uint32_t operand_of_made(Made* made, int j) noexcept nogil:
    if made.kind == STEP_AUX or made.op == OP_AFFINE:
        return made.c
    return made.a if j == 0 else made.b if j == 1 else made.c

cdef void need_operands(Maker* m, Made* made) noexcept nogil:
    cdef uint32_t j
    if made.op == OP_LEAF:
        return
    for j in range(<uint32_t>operands_of_made(made)):
        need_value(m, operand_of_made(made, j), made.phase)
    if is_listed(made):
        for j in range(list_size(made)):
            need_value(m, m.list[made.a + j], made.phase)

cdef inline uint32_t depth_of(Maker* m, uint32_t x, unsigned phase) noexcept nogil:
    """How deep a value must be at least that needs x; what an earlier phase computes is there."""
    return m.made[x].depth + 1 if m.made[x].phase == phase and m.made[x].op != OP_LEAF else 1

cdef void fuse_product(Maker* m, Made* made) noexcept nogil:
    """A sum with a product that nothing else needs becomes one value: c + a * b, rounded twice as before."""
    cdef uint32_t product
    if made.op != OP_ADD or made.kind != STEP_VALUE or made.phase == PHASES:
        return
    product = made.b
    if not is_own_product(m, product, made.phase):
        product = made.a
        if not is_own_product(m, product, made.phase):
            return
    made.op = OP_MUL
    made.kind = STEP_MULADD
    made.c = made.a if product == made.b else made.b
    made.a, made.b = m.made[product].a, m.made[product].b
    m.made[product].phase = PHASES

cdef inline bint is_own_product(Maker* m, uint32_t x, unsigned phase) noexcept nogil:
    return m.made[x].op == OP_MUL and m.made[x].kind == STEP_VALUE and m.made[x].uses == 1 and m.made[x].phase == phase

cdef void find_depth(Maker* m, Made* made) noexcept nogil:
    cdef uint32_t j, depth = 1
    for j in range(<uint32_t>operands_of_made(made)):
        depth = max(depth, depth_of(m, operand_of_made(made, j), made.phase))
    if is_listed(made):
        for j in range(list_size(made)):
            depth = max(depth, depth_of(m, m.list[made.a + j], made.phase))
    made.depth = depth

cdef Schedule make_schedule(Program p, bytes wanted, bint rows=False):
    """The schedule that computes a program's results and what its guards compare, and with wanted also adjoints: a byte for each
    input and captured Variable, 0 where nobody asks for its own, and one for each result, 0 where it has none. rows: one value a step, for blocks of rows."""
    cdef Schedule schedule = Schedule()
    cdef Maker m
    cdef uint8_t* live = NULL
    cdef uint8_t* active = NULL
    cdef uint32_t* begin = NULL
    cdef Sorted* sorted_ = NULL
    cdef uint32_t i, j, seed
    cdef uint32_t deepest[2]
    cdef row_t* row
    cdef list roots = [x for x in p.outputs if type(x) is not float], slots
    slots = roots + [x for _, left, right, _ in p.guards for x in (left, right) if type(x) is int]
    memset(&m, 0, sizeof(Maker))
    prepare_formulas()
    try:
        resize(<void**>&live, p.n + 1, 1)
        resize(<void**>&active, p.n + 1, 1)
        resize(<void**>&m.of, p.n + 1, sizeof(uint32_t))
        resize(<void**>&m.adjoint, p.n + 1, sizeof(uint32_t))
        resize(<void**>&schedule.place, p.n + 1, sizeof(uint32_t))
        memset(live, 0, p.n + 1)
        memset(active, 0, p.n + 1)
        memset(m.adjoint, 0xFF, (p.n + 1) * sizeof(uint32_t))
        for slot in slots:
            live[<uint32_t>slot] = 1
        i = p.n
        while i:
            i -= 1
            row = p.row + i
            if op_can_fail(row.op) and not rows:  # it must raise whether or not a result needs it
                live[i] = 1
            if live[i]:
                for j in range(operand_count(row)):
                    live[p.operand(row, j)] = 1
        m.fixed = p.n_inputs + <uint32_t>len(p.captured) + (<uint32_t>len(roots) if wanted is not None else 0)
        reserve_made(&m, m.fixed + 1, 1)
        for i in range(m.fixed):
            append(&m, value_of(OP_LEAF, i, 0, 0))
        for i in range(p.n):
            row = p.row + i
            if i < p.n_inputs + <uint32_t>len(p.captured):
                m.of[i] = i
            elif live[i]:
                reserve_made(&m, 4, 2 * operand_count(row) + (p.row[row.b].c if row.op == OP_SOFTMAX else 0))
                m.of[i] = make_number(&m, p.value[i]) if row.op == OP_LEAF else make_row(&m, p, row)
        if wanted is not None:
            for i in range(p.n):
                row = p.row + i
                if i < p.n_inputs + <uint32_t>len(p.captured):
                    active[i] = wanted[i] != 0
                elif live[i] and row.op != OP_STOP:
                    for j in range(operand_count(row)):
                        active[i] |= active[p.operand(row, j)]
            seed = p.n_inputs + <uint32_t>len(p.captured)
            for slot in roots:
                if wanted[seed]:
                    reserve_made(&m, 4, 0)
                    give_adjoint(&m, slot, seed)
                seed += 1
            i = p.n
            while i:
                i -= 1
                row = p.row + i
                if live[i] and active[i] and m.adjoint[i] != NO_NODE and row.op != OP_LEAF:
                    reserve_made(&m, 2 * formula_size[row.op] + 8 * operand_count(row) + 16, 2 * operand_count(row) + 2)
                    adjoint_of_row(&m, p, i, active)
            for i in range(p.n_inputs + <uint32_t>len(p.captured)):
                if active[i] and m.adjoint[i] == NO_NODE:
                    reserve_made(&m, 1, 0)
                    m.adjoint[i] = make_number(&m, 0)
        for slot in slots:
            need_value(&m, m.of[<uint32_t>slot], PHASE_RESULT)
        for i in range(p.n if not rows else 0):
            if op_can_fail(p.row[i].op):
                need_value(&m, m.of[i], PHASE_RESULT)
        for i in range(p.n_inputs + <uint32_t>len(p.captured)):
            if active[i]:
                need_value(&m, m.adjoint[i], PHASE_ADJOINT)
        for i in range(m.fixed):
            need_value(&m, i, PHASE_RESULT)
        with nogil:
            i = m.n
            while i:
                i -= 1
                if m.made[i].phase != PHASES:
                    need_operands(&m, m.made + i)
            for i in range(m.n):
                fuse_product(&m, m.made + i)
            deepest[0] = deepest[1] = 0
            for i in range(m.n):
                if m.made[i].phase != PHASES and m.made[i].op != OP_LEAF:
                    find_depth(&m, m.made + i)
                    deepest[m.made[i].phase] = max(deepest[m.made[i].phase], m.made[i].depth)
        if rows:
            resize(<void**>&begin, m.n + 1, sizeof(uint32_t))
            memset(begin, 0, (m.n + 1) * sizeof(uint32_t))
            for slot in slots:
                begin[m.of[<uint32_t>slot]] = NO_NODE
            for i in range(p.n_inputs + <uint32_t>len(p.captured)):
                if active[i]:
                    begin[m.adjoint[i]] = NO_NODE
            emit_rows(schedule, &m, begin)
        else:
            resize(<void**>&begin, deepest[0] + deepest[1] + 2, sizeof(uint32_t))
            resize(<void**>&sorted_, m.n + 1, sizeof(Sorted))
            emit_steps(schedule, &m, deepest[0], deepest[1], begin, sorted_)
        resize(<void**>&schedule.start, schedule.n_values + 1, sizeof(double))
        memset(schedule.start, 0, schedule.n_values * sizeof(double))
        for i in range(m.n):
            if m.made[i].op == OP_LEAF and i >= m.fixed and m.made[i].place != NO_NODE:
                schedule.start[m.made[i].place] = m.made[i].number
        for i in range(p.n):
            schedule.place[i] = m.made[m.of[i]].place if i < p.n_inputs + <uint32_t>len(p.captured) or live[i] else NO_NODE
        if wanted is not None:
            resize(<void**>&schedule.adjoint, m.fixed + 1, sizeof(uint32_t))
            resize(<void**>&schedule.seed, len(roots) + 1, sizeof(uint32_t))
            for i in range(<uint32_t>len(roots)):
                schedule.seed[i] = m.made[p.n_inputs + <uint32_t>len(p.captured) + i].place
            for i in range(p.n_inputs + <uint32_t>len(p.captured)):
                schedule.adjoint[i] = m.made[m.adjoint[i]].place if active[i] else NO_NODE
    finally:
        PyMem_RawFree(live)
        PyMem_RawFree(active)
        PyMem_RawFree(begin)
        PyMem_RawFree(sorted_)
        PyMem_RawFree(m.made)
        PyMem_RawFree(m.table)
        PyMem_RawFree(m.list)
        PyMem_RawFree(m.of)
        PyMem_RawFree(m.adjoint)
    return schedule

cdef int emit_steps(Schedule schedule, Maker* m, uint32_t depth0, uint32_t depth1, uint32_t* begin, Sorted* sorted_) except -1:
    """Places for all values that are needed, and the steps."""
    cdef uint32_t i, k, count = 0, level, levels = depth0 + depth1, end, n
    cdef Made* made
    cdef size_t entries = 1
    memset(begin, 0, (levels + 2) * sizeof(uint32_t))
    schedule.n_values = 0
    for i in range(m.n):
        made = m.made + i
        if made.phase == PHASES or made.op == OP_LEAF:
            continue
        begin[level_of(made, depth0) + 1] += 1
        count += 1
        entries += 3
        if is_listed(made):
            entries += list_size(made)
            schedule.room = max(schedule.room, <size_t>list_size(made))
    for level in range(levels):
        begin[level + 1] += begin[level]
    resize(<void**>&schedule.step, count + 1, sizeof(step_t))
    resize(<void**>&schedule.room_for_lists, 3 * count + 3, sizeof(uint32_t))
    resize(<void**>&schedule.index, entries, sizeof(uint32_t))
    for i in range(m.n):
        made = m.made + i
        if made.phase != PHASES and made.op != OP_LEAF:
            level = level_of(made, depth0)
            sorted_[begin[level]].made = i
            begin[level] += 1
    with nogil:
        k = 0
        for level in range(levels):
            if level == depth0:
                schedule.n_results = schedule.n_steps
            end = begin[level]
            emit_level(schedule, m, sorted_ + k, end - k)
            k = end
        if levels == depth0:
            schedule.n_results = schedule.n_steps
        for i in range(m.n):
            if m.made[i].phase != PHASES:
                place_of(schedule, m, i)  # what no step needs, but someone asks for
    return 0

cdef uint32_t place_of(Schedule schedule, Maker* m, uint32_t x) noexcept nogil:
    """Where a value stands. A leaf gets its place when the first step asks for it, so that leaves stand in the order of use."""
    if m.made[x].place == NO_NODE:
        m.made[x].place = schedule.n_values
        schedule.n_values += 1
    return m.made[x].place

cdef inline uint64_t order_of(Maker* m, uint32_t x) noexcept nogil:
    """By place; leaves that have none yet come last, by number."""
    return m.made[x].place if m.made[x].place != NO_NODE else <uint64_t>1 << 31 | x

cdef int emit_rows(Schedule schedule, Maker* m, uint32_t* last) except -1:
    """Steps for blocks of rows: one value each, in order of creation. Places are registers, one number a row; leaves keep theirs,
    others give theirs up after their last use. last: NO_NODE for values that are asked for, else 0."""
    cdef uint32_t i, j, k, position = 0, n_free = 0
    cdef int phase
    cdef Made* made
    cdef step_t* step
    cdef size_t entries = 1
    for i in range(m.n):
        made = m.made + i
        if made.phase != PHASES and made.op == OP_LEAF:
            place_of(schedule, m, i)
        elif made.phase != PHASES:
            position += 1
            if is_listed(made):
                entries += list_size(made)
                schedule.room = max(schedule.room, <size_t>list_size(made))
    schedule.n_fixed = schedule.n_values
    resize(<void**>&schedule.step, position + 1, sizeof(step_t))
    resize(<void**>&schedule.index, entries, sizeof(uint32_t))
    resize(<void**>&schedule.room_for_lists, position + 1, sizeof(uint32_t))  # registers that are free
    position = 0
    for phase in range(PHASES):
        for i in range(m.n):
            made = m.made + i
            if made.phase == phase and made.op != OP_LEAF:
                position += 1
                for j in range(made_operands(made)):
                    k = made_operand(m, made, j)
                    if last[k] != NO_NODE:
                        last[k] = position
    position = 0
    for phase in range(PHASES):
        for i in range(m.n):
            made = m.made + i
            if made.phase != phase or made.op == OP_LEAF:
                continue
            position += 1
            step = new_step(schedule, made, 1)
            if n_free:
                n_free -= 1
                made.place = schedule.room_for_lists[n_free]
            else:
                place_of(schedule, m, i)
            step.y = made.place
            if is_listed(made):
                step.n = made.n
                step.a = <uint32_t>schedule.n_index
                step.b = step.a + made.n
                for j in range(list_size(made)):
                    schedule.index[schedule.n_index] = m.made[m.list[made.a + j]].place
                    schedule.n_index += 1
                if operands_of_made(made):
                    step.c = m.made[made.c].place
            else:
                step.a = m.made[made.a].place
                if operands_of_made(made) > 1:
                    step.b = m.made[made.b].place
                if operands_of_made(made) > 2:
                    step.c = m.made[made.c].place
            for j in range(made_operands(made)):
                k = made_operand(m, made, j)
                if last[k] == position and m.made[k].op != OP_LEAF:
                    last[k] = 0  # it may be an operand twice
                    schedule.room_for_lists[n_free] = m.made[k].place
                    n_free += 1
        if phase == PHASE_RESULT:
            schedule.n_results = schedule.n_steps
    return 0

cdef inline uint32_t made_operands(Made* made) noexcept nogil:
    """How many operands it has, a list's included."""
    return <uint32_t>operands_of_made(made) + (list_size(made) if is_listed(made) else 0)

cdef inline uint32_t made_operand(Maker* m, Made* made, uint32_t j) noexcept nogil:
    cdef uint32_t n = <uint32_t>operands_of_made(made)
    return operand_of_made(made, j) if j < n else m.list[made.a + (j - n)]

cdef inline uint32_t level_of(Made* made, uint32_t depth0) noexcept nogil:
    return made.depth - 1 + (depth0 if made.phase == PHASE_ADJOINT else 0)

cdef inline bint is_wide_made(Made* made) noexcept nogil:
    """May it stand in one step with others of its op?"""
    cdef unsigned shape = op_shape[made.op]
    return made.kind == STEP_SLOPE_A or made.kind == STEP_SLOPE_B or made.kind == STEP_MULADD \
        or made.kind == STEP_VALUE and (shape == SHAPE_A or shape == SHAPE_AB and made.op != OP_SOFTMAX)

cdef void emit_level(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t count) noexcept nogil:
    """The steps of values that do not need each other."""
    cdef uint32_t k, n, first = 0
    cdef Made* made
    for k in range(count):
        made = m.made + sorted_[k].made
        sorted_[k].first = <uint64_t>made.kind << 48 | <uint64_t>made.op << 32
        sorted_[k].second = sorted_[k].made
        if is_wide_made(made):
            sorted_[k].first |= order_of(m, made.c if made.kind == STEP_MULADD else made.a)
            if operands_of_made(made) > 1:
                sorted_[k].second |= order_of(m, made.b) << 32
    if count > 1:
        qsort(sorted_, count, sizeof(Sorted), compare_sorted)
    while first < count:
        made = m.made + sorted_[first].made
        n = 1
        while is_wide_made(made) and first + n < count and sorted_[first + n].first >> 32 == sorted_[first].first >> 32:
            n += 1
        if made.op == OP_MUL and (made.kind == STEP_VALUE or made.kind == STEP_MULADD):
            emit_products(schedule, m, sorted_ + first, n)
        else:
            emit_step(schedule, m, sorted_ + first, n)
        first += n

cdef step_t* new_step(Schedule schedule, Made* made, uint32_t n) noexcept nogil:
    cdef step_t* step = schedule.step + schedule.n_steps
    schedule.n_steps += 1
    memset(step, 0, sizeof(step_t))
    step.op = made.op
    step.kind = made.kind
    step.n = n
    step.k = made.k
    step.i = made.i
    step.count = made.n
    return step

cdef void find_operands(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t n, uint32_t** list) noexcept nogil:
    """list[j]: where the j-th operands of n values stand; leaves get their places."""
    cdef uint32_t j, k
    for j in range(<uint32_t>operands_of_made(m.made + sorted_[0].made)):
        list[j] = schedule.room_for_lists + j * n
        for k in range(n):
            list[j][k] = place_of(schedule, m, operand_of_made(m.made + sorted_[k].made, j))

cdef void emit_step(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t n) noexcept nogil:
    """One step: places for its operands that are leaves, and for its results."""
    cdef Made* made = m.made + sorted_[0].made
    cdef uint32_t k, j, count = <uint32_t>operands_of_made(made)
    cdef uint32_t* list[3]
    cdef step_t* step = new_step(schedule, made, n)
    if is_listed(made):
        step.n = made.n
        if count:
            step.c = place_of(schedule, m, made.c)
        for j in range(1 if op_shape[made.op] == SHAPE_RANGE else 2):
            list[0] = schedule.index + schedule.n_index
            for k in range(made.n):
                list[0][k] = place_of(schedule, m, m.list[made.a + j * made.n + k])
            if j == 0:
                step.a = close_list(schedule, list[0], made.n, &step.a_where, &step.a_stride)
            else:
                step.b = close_list(schedule, list[0], made.n, &step.b_where, &step.b_stride)
        step.y = made.place = schedule.n_values
        schedule.n_values += 1
        return
    find_operands(schedule, m, sorted_, n, list)
    step.a = close_list(schedule, list[0], n, &step.a_where, &step.a_stride)
    if count > 1:
        step.b = close_list(schedule, list[1], n, &step.b_where, &step.b_stride)
    if count > 2:
        step.c = close_list(schedule, list[2], n, &step.c_where, &step.c_stride)
    step.y = schedule.n_values
    schedule.n_values += n
    for k in range(n):
        m.made[sorted_[k].made].place = step.y + k

cdef void emit_products(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t n) noexcept nogil:
    """a * b or c + a * b: a step for each stretch that goes by equal runs, and for what lies between."""
    cdef uint32_t* list[3]
    cdef uint32_t first = 0, plain = 0, run, length, count = <uint32_t>operands_of_made(m.made + sorted_[0].made)
    find_operands(schedule, m, sorted_, n, list)
    while first < n:
        length = stretch_at(list, count, first, n, &run)
        if length >= 16:
            if plain < first:
                emit_stretch(schedule, m, sorted_, list, plain, first - plain, 0)
            emit_stretch(schedule, m, sorted_, list, first, length, run)
            plain = first + length
        first += max(length, run)
    if plain < n:
        emit_stretch(schedule, m, sorted_, list, plain, n - plain, 0)

cdef uint32_t stretch_at(uint32_t** list, uint32_t count, uint32_t first, uint32_t n, uint32_t* run) noexcept nogil:
    """How many of the operands from first on go by runs of *run with strides of their own; 0 for runs below 4."""
    cdef int64_t stride[3]
    cdef uint32_t j, k, start = first
    run[0] = n - first
    for j in range(count if n - first > 1 else 0):
        stride[j] = <int64_t>list[j][first + 1] - list[j][first]
        k = 2
        while k < run[0] and <int64_t>list[j][first + k] - list[j][first + k - 1] == stride[j]:
            k += 1
        run[0] = min(run[0], k)
    if run[0] < 4:
        return 0
    while start + 2 * run[0] <= n:
        start += run[0]
        for j in range(count):
            for k in range(start + 1, start + run[0]):
                if <int64_t>list[j][k] - list[j][k - 1] != stride[j]:
                    return start - first
    return start + run[0] - first

cdef void emit_stretch(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t** list, uint32_t first, uint32_t n, uint32_t run) noexcept nogil:
    """One step of products; run 0: their operands are anywhere."""
    cdef Made* made = m.made + sorted_[first].made
    cdef uint32_t k, j, count = <uint32_t>operands_of_made(made)
    cdef uint32_t* operands[3]
    cdef step_t* step = new_step(schedule, made, n)
    step.run = run
    for j in range(count):
        operands[j] = list[j] + first
    step.a = close_runs(schedule, operands[0], n, run, &step.a_where, &step.a_stride)
    step.b = close_runs(schedule, operands[1], n, run, &step.b_where, &step.b_stride)
    step.y = schedule.n_values
    if made.kind == STEP_MULADD:
        step.c = close_runs(schedule, operands[2], n, run, &step.c_where, &step.c_stride)
        if goes_up(operands[2], n) and is_used_up(m, sorted_ + first, n):
            step.y = operands[2][0]  # nobody else needs c: the sum grows where it stands
    if step.y == schedule.n_values:
        schedule.n_values += n
    for k in range(n):
        m.made[sorted_[first + k].made].place = step.y + k

cdef bint goes_up(uint32_t* list, uint32_t n) noexcept nogil:
    cdef uint32_t k
    for k in range(1, n):
        if list[k] != list[k - 1] + 1:
            return False
    return True

cdef bint is_used_up(Maker* m, Sorted* sorted_, uint32_t n) noexcept nogil:
    """Does nothing else need the summands c, which the same phase computes?"""
    cdef uint32_t k
    cdef Made* made
    cdef Made* c
    for k in range(n):
        made = m.made + sorted_[k].made
        c = m.made + made.c
        if c.op == OP_LEAF or c.uses != 1 or c.phase != made.phase:
            return False
    return True

cdef uint32_t close_runs(Schedule schedule, uint32_t* list, uint32_t n, uint32_t run, uint8_t* where, int32_t* stride) noexcept nogil:
    """close_list() by runs, where run is not 0."""
    cdef uint32_t first = 0, at = <uint32_t>schedule.n_index
    if run == 0:
        return close_list(schedule, list, n, where, stride)
    where[0] = WHERE_RUNS
    stride[0] = <int32_t>(<int64_t>list[1] - list[0])
    while first < n:
        schedule.index[schedule.n_index] = list[first]
        schedule.n_index += 1
        first += run
    return at

cdef uint32_t close_list(Schedule schedule, uint32_t* list, uint32_t n, uint8_t* where, int32_t* stride) noexcept nogil:
    """How a step names n places, in as few words as it takes."""
    cdef uint32_t k
    cdef bint same = n > 1
    for k in range(1, n):
        same &= list[k] == list[0]
    if same or goes_up(list, n):
        where[0] = WHERE_SAME if same else WHERE_RUN
        stride[0] = not same
        return list[0] if n else 0
    where[0] = WHERE_LISTED
    memmove(schedule.index + schedule.n_index, list, n * sizeof(uint32_t))
    schedule.n_index += n
    return <uint32_t>(schedule.n_index - n)


# -- running it --------------------------------------------------------------------------------------------------------------------

cdef class ProgramCall:
    """One run of a program: its numbers, and what the nodes of its results know of it (see _custom())."""
    cdef readonly Program program
    cdef Schedule schedule
    cdef double* v                  # values of the run
    cdef uint32_t* operand          # [n_operands] of each operand of the nodes: which input or captured Variable it is
    cdef uint32_t n_operands
    cdef readonly Py_ssize_t count  # results that are nodes
    cdef readonly str name

    def __dealloc__(self):
        if self.schedule is not None:
            self.schedule.give_back(self.v)
        PyMem_RawFree(self.operand)

    def vjp(self, list cotangents, list operands):
        """See _custom()."""
        cdef uint32_t k
        cdef list found = []
        if operands is not None:
            return _adjoints(self.on_tape(operands), [0.0 if x is None else x for x in cotangents], operands)
        self.pull(cotangents)
        for k in range(self.n_operands):
            found.append(self.adjoint_at(k))
        return found

    cdef inline double adjoint_at(self, uint32_t k) noexcept:
        """After pull(): the adjoint of operand k."""
        return self.v[self.schedule.adjoint[self.operand[k]]]

    def jvp(self, list tangents, list operands):
        """See _custom()."""
        cdef uint32_t k
        if operands is not None:
            return _tangents(self.on_tape(operands), operands, tangents)
        operands = []
        for k in range(self.n_operands):
            ready(1)
            operands.append(take(record_leaf(self.v[self.schedule.place[self.operand[k]]], True)))
        return _tangent_values(self.on_tape(operands), operands, [tangents])[0]

    cdef list on_tape(self, list operands):
        """The graph of this run as nodes; operands in their places, the run's numbers in the others. Returns the results that
        are nodes."""
        cdef list leaves = []
        cdef uint32_t k
        for k in range(self.program.n_inputs + <uint32_t>len(self.program.captured)):
            leaves.append(self.v[self.schedule.place[k]])
        for k in range(self.n_operands):
            leaves[self.operand[k]] = operands[k]
        return [x for x in inline_program(self.program, leaves) if is_variable(<PyObject*>x)]

    cdef int pull(self, list cotangents) except -1:
        """Fill in the adjoints for these seeds (floats)."""
        cdef Program p = self.program
        cdef Schedule schedule
        cdef uint32_t k, fixed = p.n_inputs + <uint32_t>len(p.captured)
        cdef double* v
        wanted = bytearray(fixed + self.count)
        for k in range(self.n_operands):
            wanted[self.operand[k]] = 1
        for k in range(<uint32_t>self.count):
            wanted[fixed + k] = cotangents[k] is not None
        schedule = gradient_schedule(p, bytes(wanted))
        if schedule is not self.schedule:
            v = schedule.take()
            for k in range(fixed):
                v[schedule.place[k]] = self.v[self.schedule.place[k]]
            schedule.run(v, PHASE_RESULT)
            self.schedule.give_back(self.v)
            self.schedule, self.v = schedule, v
        for k in range(<uint32_t>self.count):
            if cotangents[k] is not None:  # a result that the pass does not reach
                self.v[schedule.seed[k]] = <double>cotangents[k]
        schedule.run(self.v, PHASE_ADJOINT)
        return 0

cdef Schedule gradient_schedule(Program p, bytes wanted):
    if p.gradients is None:
        p.gradients = {}
    found = p.gradients.get(wanted)
    if found is None:
        found = p.gradients[wanted] = make_schedule(p, wanted)
        p.latest = found
    return found

cdef inline bint compares(int op, double a, double b) noexcept nogil:
    return a < b if op == Py_LT else a <= b if op == Py_LE else a > b if op == Py_GT else a >= b if op == Py_GE \
        else a == b if op == Py_EQ else a != b

cdef bint guards_hold(Program p, Schedule schedule, double* v) except -1:
    """Do all comparisons come out as recorded?"""
    cdef double a, b
    cdef int op
    for op, left, right, outcome in p.guards:
        a = v[schedule.place[<uint32_t>left]] if type(left) is int else <double>left
        b = 0 if right is None else v[schedule.place[<uint32_t>right]] if type(right) is int else <double>right
        if compares(op, a, b) != <bint>outcome:
            return False
    return True

def _run(Program p not None, list inputs not None, str name not None):
    """Run the program on these Variables and floats: a list of its results, floats where no Variable is among inputs and
    captured, else Variables, in an eager graph as one node each. None: a comparison came out otherwise than recorded. False:
    some result of an op that can fail is not finite, so that plain Python may raise."""
    cdef Schedule schedule
    cdef ProgramCall call
    cdef uint32_t k, n = p.n_inputs, fixed = n + <uint32_t>len(p.captured)
    cdef double number
    cdef bint variables = fixed > n, requires = False
    cdef list found, nodes, values
    if <uint32_t>len(inputs) != n:
        raise ValueError(f"expected {n} inputs, got {len(inputs)}")
    if p.latest is None:
        p.latest = make_schedule(p, None)
    schedule = p.latest
    call = ProgramCall()
    call.program = p
    call.name = name
    call.v = schedule.take()
    call.schedule = schedule
    for k in range(n):
        x = inputs[k]
        if PyFloat_CheckExact(<PyObject*>x):
            call.v[schedule.place[k]] = PyFloat_AS_DOUBLE(<PyObject*>x)
        elif is_variable(<PyObject*>x):
            variables = True
            requires |= tape.row[(<Variable>x).number].flags & ROW_REQUIRES
            call.v[schedule.place[k]] = tape.value[(<Variable>x).number]
        else:
            to_number(x, "an input of a program", &number)
            call.v[schedule.place[k]] = number
    for k in range(n, fixed):
        x = p.captured[k - n]
        requires |= tape.row[(<Variable>x).number].flags & ROW_REQUIRES
        call.v[schedule.place[k]] = tape.value[(<Variable>x).number]
    if schedule.run(call.v, PHASE_RESULT):
        return False if guards_hold(p, schedule, call.v) else None
    if p.guards and not guards_hold(p, schedule, call.v):
        return None
    values = [x if type(x) is float else call.v[schedule.place[<uint32_t>x]] for x in p.outputs]
    if not variables:
        return values
    if ready(len(values)) or not requires:
        found = []
        for number in values:
            ready(1)
            found.append(take(record_leaf(number, False)))
        return found
    resize(<void**>&call.operand, fixed + 1, sizeof(uint32_t))
    nodes = []
    for k in range(fixed):
        x = inputs[k] if k < n else p.captured[k - n]
        if is_variable(<PyObject*>x) and tape.row[(<Variable>x).number].flags & ROW_REQUIRES:
            call.operand[call.n_operands] = k
            call.n_operands += 1
            nodes.append(x)
    found = [x for x, slot in zip(values, p.outputs) if type(slot) is not float]
    call.count = len(found)
    found = _custom(call, nodes, found)
    found.reverse()
    values = [Variable(x, False) if type(slot) is float else found.pop() for x, slot in zip(values, p.outputs)]
    return values

def _steps(Program p not None):
    """The steps of the program's latest schedule as tuples (op, kind, n, where, run, strides), for people."""
    cdef size_t k
    cdef step_t* s
    cdef list found = []
    if p.latest is None:
        p.latest = make_schedule(p, None)
    for k in range(p.latest.n_steps):
        s = p.latest.step + k
        found.append((op_name[s.op].decode(), s.kind, s.n, (s.a_where, s.b_where, s.c_where), s.run, (s.a_stride, s.b_stride, s.c_stride), s.y, (s.a, s.b, s.c)))
    return found


# -- arguments -------------------------------------------------------------------------------------------------------------------

cdef object structure_of(object tree, list leaves, object number, object other):
    cdef list parts
    cdef Py_ssize_t k, n
    cdef type kind = type(tree)
    if PyFloat_CheckExact(<PyObject*>tree) or kind is Variable:
        leaves.append(tree)
        return number
    if kind is list:
        n = len(<list>tree)
        for k in range(n):
            x = (<list>tree)[k]
            if not (PyFloat_CheckExact(<PyObject*>x) or Py_TYPE(<PyObject*>x) is VARIABLE):
                break
        else:
            if n:
                leaves.extend(<list>tree)
                return (list, n)
    if kind is list or kind is tuple:
        parts = []
        for x in tree:
            parts.append(structure_of(x, leaves, number, other))
        return (kind, tuple(parts))
    return other(tree, leaves)

def _structure(tree, list leaves not None, number, other):
    """The structure of a nest as something hashable, its floats and Variables appended to leaves: for each of them number, for
    lists and tuples (type, parts), or (list, n) for a list of n of them; for what else there is other(tree, leaves)."""
    return structure_of(tree, leaves, number, other)
