# schedule.pxi: how a program runs: its rows made into values, values into steps (steps.h). Knows rows and the op table; where a
# program comes from and what its results become is in program.pxi.
#
# In five passes: what the results need, from the last slot to the first; each such row as a value, where equal rows are one
# value, numbers are values like others and what only needs numbers is computed now; sums of products in a row, and sums, as one
# value each, a chain; how deep each value is; and, depth by depth, values of one op side by side as a step, in the order of
# their operands, so that these tend to stand side by side too. Loops over scalars become the kernels that a person would have
# written: elementwise maps, products of matrices and vectors.

cdef struct Made:  # a value of a schedule that is being made
    uint16_t op        # OP_LEAF: an input, a captured one, a seed, a number
    uint8_t kind       # STEP_...
    uint32_t a, b, c   # operands, among the values (as steps have them); of a range a: its list in `list`; of a number: its bits
    uint32_t k, i, n   # of a range: the row's index; which operand; how many operands (of each range). Chain: n links

cdef struct Term:   # adjoint * slope, slope NO_NODE: 1
    uint32_t adjoint, slope
    uint32_t next  # of the same sum; NO_NODE: none

cdef struct Maker:
    Made* made      # [capacity]
    uint32_t n, capacity
    uint64_t* table  # [mask + 1] values by what they are: half of the hash, and the value plus 1; 0: none
    uint32_t mask, n_table
    uint32_t* list  # [list_capacity] operands of ranges
    uint32_t n_list, list_capacity
    uint32_t fixed  # inputs, captured and seeds
    uint32_t one    # the number 1
    uint32_t slot   # what is made now is about this one
    uint32_t* source  # [capacity] the slot that each value is about
    uint32_t n_shared
    uint32_t shared[8]  # see Schedule
    bint fast       # rounding may differ: see Program
    uint32_t* of    # [slots] the value of each slot
    Term* term      # [term_capacity] of sums that will be adjoints
    uint32_t n_terms, term_capacity
    uint32_t* first  # [slots] of each slot's adjoint the first term, NO_NODE: none
    uint32_t* last  # [slots] and the last one
    uint32_t* adjoint  # [slots] the adjoint itself, once there are no more terms to come
    uint8_t* phase  # [n] of each value: when it is needed first; PHASES: never
    uint8_t* uses   # [n] how many values have it for an operand, and whether it is asked for; up to 255
    uint32_t* depth  # [n]
    uint32_t* place  # [n] where it stands

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

cdef size_t fresh_bytes = 0  # of buffers that were new, since collect_calls()

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
    cdef uint32_t* room_for_lists  # while it is made: operands of values that may become one step
    cdef uint32_t* room_for_steps  # and of one step
    cdef uint32_t n_fixed         # for rows: registers of leaves
    cdef size_t n_common          # for rows: the first steps, whose values are the same in all rows
    cdef bint fast                # steps may use vector.h's functions
    cdef uint32_t* source         # [n_steps] which slot the first value of a step is about
    cdef list shared              # slots of sums that are no part of a longer one, since others need them too (the first few)
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
        PyMem_RawFree(self.source)

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
        global fresh_bytes
        fresh_bytes += self.n_values * sizeof(double)
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
            return kernels.run_steps(self.step, self.n_results, v, self.index, v + self.n_values, 1, self.fast)
        return kernels.run_steps(self.step + self.n_results, self.n_steps - self.n_results, v, self.index, v + self.n_values, 0,
                                 self.fast)

    cdef bint run_apart(self, double* v, int phase) noexcept:
        """run() on numbers that nobody else knows: without a GIL not behind the core's lock, if it takes long enough."""
        if FREE_THREADED and self.n_values >= 1024:
            with nogil:
                return self.run(v, phase)
        return self.run(v, phase)

cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ x >> 32) * <uint64_t>0xD6E8FEB86659FD93
    return x ^ x >> 29

cdef inline int reserve_made(Maker* m, size_t more, size_t entries) except -1:
    """Room for so many values more, and entries of `list`."""
    if m.n_list + entries <= m.list_capacity and m.n + more <= m.capacity and m.n_table + more <= m.mask // 4 * 3:
        return 0
    return grow_made(m, more, entries)

cdef int grow_made(Maker* m, size_t more, size_t entries) except -1:
    cdef uint32_t k, at, size
    cdef uint64_t* old = m.table
    if m.n_list + entries > m.list_capacity:
        resize(<void**>&m.list, m.n_list + entries + m.n_list // 2, sizeof(uint32_t))
        m.list_capacity = <uint32_t>(m.n_list + entries + m.n_list // 2)
    if m.n + more > m.capacity:
        if m.n + more >= 1 << 30:
            raise MemoryError("mingrad: expected a program of less than 2**30 values")
        resize(<void**>&m.made, m.n + more + m.n // 2, sizeof(Made))
        resize(<void**>&m.source, m.n + more + m.n // 2, sizeof(uint32_t))
        m.capacity = <uint32_t>(m.n + more + m.n // 2)
    if m.table == NULL or m.n_table + more > m.mask // 4 * 3:
        size = 64
        while m.n_table + more > size // 4 * 3:
            size *= 2
        m.table = NULL
        try:
            resize(<void**>&m.table, size, sizeof(uint64_t))
            memset(m.table, 0, size * sizeof(uint64_t))
            size, m.mask = m.mask, size - 1
            if old != NULL:
                for k in range(size + 1):
                    if old[k]:
                        at = <uint32_t>(old[k] >> 32) & m.mask
                        while m.table[at]:
                            at = (at + 1) & m.mask
                        m.table[at] = old[k]
        except MemoryError:
            PyMem_RawFree(m.table)
            m.table = old
            raise
        PyMem_RawFree(old)
    return 0

cdef int reserve_terms(Maker* m, uint32_t more) except -1:
    if m.n_terms + more > m.term_capacity:
        resize(<void**>&m.term, 2 * <size_t>(m.n_terms + more), sizeof(Term))
        m.term_capacity = 2 * (m.n_terms + more)
    return 0

cdef uint64_t hash_of(Maker* m, Made* x) noexcept nogil:
    cdef uint64_t bits = <uint64_t>x.kind << 60 | <uint64_t>x.op << 40 | <uint64_t>x.k << 20 | x.i
    cdef uint32_t j
    if is_listed(x):
        for j in range(list_size(x)):
            bits = mix(bits ^ m.list[x.a + j])
        return mix(bits ^ (<uint64_t>x.c << 32 | x.b))
    return mix(bits ^ mix(<uint64_t>x.a << 32 | x.b) ^ x.c)

cdef inline bint is_listed(Made* x) noexcept nogil:
    """Are its operands a list?"""
    return x.kind == STEP_CHAIN or (x.kind == STEP_VALUE or x.kind == STEP_AUX) and op_shape[x.op] >= SHAPE_RANGE

cdef inline uint32_t list_size(Made* x) noexcept nogil:
    return x.n if op_shape[x.op] == SHAPE_RANGE or x.op == OP_ADD else 2 * x.n

cdef bint is_equal(Maker* m, Made* x, Made* y) noexcept nogil:
    if x.op != y.op or x.kind != y.kind or x.k != y.k or x.i != y.i or x.n != y.n or x.b != y.b or x.c != y.c:
        return False
    return memcmp(m.list + x.a, m.list + y.a, list_size(x) * sizeof(uint32_t)) == 0 if is_listed(x) else x.a == y.a

cdef uint32_t make(Maker* m, Made x) noexcept nogil:
    """The value x, or an equal one if there is one. There is room. A list is the last one; where it is not needed it is taken
    back."""
    cdef uint64_t bits = hash_of(m, &x)
    cdef uint32_t at = <uint32_t>(bits >> 32) & m.mask, old
    while m.table[at]:
        old = <uint32_t>m.table[at] - 1
        if m.table[at] >> 32 == bits >> 32 and is_equal(m, &x, m.made + old):
            if is_listed(&x) and x.a + list_size(&x) == m.n_list and x.a != m.made[old].a:
                m.n_list = x.a
            return old
        at = (at + 1) & m.mask
    m.table[at] = bits >> 32 << 32 | (m.n + 1)
    m.n_table += 1
    return append(m, x)

cdef uint32_t append(Maker* m, Made x) noexcept nogil:
    m.made[m.n] = x
    m.source[m.n] = m.slot
    m.n += 1
    return m.n - 1

cdef inline Made value_of(unsigned op, uint32_t a, uint32_t b, uint32_t c) noexcept nogil:
    return Made(op, STEP_VALUE, a, b, c, 0, 0, 0)

cdef inline bint is_number(Maker* m, uint32_t x) noexcept nogil:
    return m.made[x].op == OP_LEAF and x >= m.fixed

cdef inline double number_of(Maker* m, uint32_t x) noexcept nogil:
    cdef double number
    memcpy(&number, &m.made[x].a, 8)
    return number

cdef inline bint is_this(Maker* m, uint32_t x, double number) noexcept nogil:
    """Is value x this number, sign of zero included?"""
    return is_number(m, x) and memcmp(&m.made[x].a, &number, 8) == 0

cdef uint32_t make_number(Maker* m, double number) noexcept nogil:
    cdef Made x = value_of(OP_LEAF, 0, 0, 0)
    memcpy(&x.a, &number, 8)
    return make(m, x)

cdef uint32_t make_one(Maker* m, unsigned op, uint32_t x) noexcept nogil:
    cdef double y
    if op == OP_COPY or op == OP_STOP:
        return x
    if op == OP_NEG and m.made[x].op == OP_NEG and m.made[x].kind == STEP_VALUE:
        return m.made[x].a
    if is_number(m, x):
        y = op_value1(op, number_of(m, x), 0)
        if isfinite(y):
            return make_number(m, y)
    return make(m, value_of(op, x, 0, 0))

cdef inline bint is_power_of_two(double x) noexcept nogil:
    cdef int exponent
    return isnormal(x) and fabs(frexp(x, &exponent)) == 0.5

cdef uint32_t make_two(Maker* m, unsigned op, uint32_t x, uint32_t y) noexcept nogil:
    """Only what keeps the bits: 1 * x, x / 1, x - 0, x + -0, x ** 1, -1 * x as a change of sign, x / 2 as a product; if the program
    is fast also every quotient by a number as a product, and small powers as products and roots."""
    cdef double z
    if is_number(m, x) and is_number(m, y):
        z = op_value2(op, number_of(m, x), number_of(m, y))
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
    elif op == OP_DIV and is_number(m, y):
        z = 1 / number_of(m, y)
        if m.fast and isnormal(z) or is_power_of_two(z):
            return make_two(m, OP_MUL, x, make_number(m, z))
    elif op == OP_POW and m.fast and is_number(m, y):
        z = number_of(m, y)
        if z == 2 or z == 3 or z == 4:
            y = make_two(m, OP_MUL, x, x)
            return y if z == 2 else make_two(m, OP_MUL, y, x if z == 3 else y)
        if z == -1:
            return make_two(m, OP_DIV, make_number(m, 1), x)
        if z == 0.5:
            return make_one(m, OP_SQRT, x)
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

cdef void give_adjoint(Maker* m, uint32_t slot, uint32_t adjoint, uint32_t slope) noexcept nogil:
    """One more term of a slot's adjoint: adjoint * slope (NO_NODE: 1). There is room."""
    cdef uint32_t k = m.n_terms
    if slope != NO_NODE:
        if is_this(m, adjoint, 1):
            adjoint, slope = slope, NO_NODE
        elif is_number(m, slope):
            if is_this(m, slope, 1) or is_this(m, slope, -1) or is_number(m, adjoint):
                adjoint, slope = make_two(m, OP_MUL, adjoint, slope), NO_NODE
    m.term[k] = Term(adjoint, slope, NO_NODE)
    if m.first[slot] == NO_NODE:
        m.first[slot] = k
    else:
        m.term[m.last[slot]].next = k
    m.last[slot] = k
    m.n_terms += 1

cdef int add_terms(Maker* m, uint32_t slot) except -1:
    """The adjoint of a slot from its terms, in backward()'s order; but the sum does not begin with 0, so -0 may stay -0."""
    cdef uint32_t first = m.first[slot], k, n = 0, j
    cdef bint products = False
    cdef Made x
    k = first
    while k != NO_NODE:
        products |= m.term[k].slope != NO_NODE
        n += 1
        k = m.term[k].next
    reserve_made(m, 1, 2 * <size_t>n + 1)
    m.adjoint[slot] = m.term[first].adjoint
    if n == 1 and products:
        m.adjoint[slot] = append(m, value_of(OP_MUL, m.term[first].adjoint, m.term[first].slope, 0))
    elif n == 2 and not products:
        m.adjoint[slot] = append(m, value_of(OP_ADD, m.term[first].adjoint, m.term[m.term[first].next].adjoint, 0))
    elif n > 1:
        x = value_of(OP_ADD, m.n_list, 0, NO_NODE)
        x.kind = STEP_CHAIN
        if m.term[first].slope == NO_NODE:
            x.c = m.term[first].adjoint
            first = m.term[first].next
            n -= 1
        x.n = n
        for j in range(n):
            m.list[x.a + j] = m.term[first].adjoint
            m.list[x.a + n + j] = m.term[first].slope
            first = m.term[first].next
        if products:
            as_products(m, &x)
        m.n_list += list_size(&x) + 1
        m.adjoint[slot] = append(m, x)
    return 0

cdef void as_products(Maker* m, Made* chain) noexcept nogil:
    """Make a chain whose list has the links' operands, NO_NODE for a second one that is none, a chain of products: 1 times what
    was no product."""
    cdef uint32_t k
    chain.op = OP_MUL
    for k in range(chain.a + chain.n, chain.a + 2 * chain.n):
        if m.list[k] == NO_NODE:
            m.list[k] = m.one

cdef uint32_t expand(Maker* m, int e, uint32_t* names) noexcept nogil:
    """A formula as values of ops; names: what its names stand for. NO_NODE where it takes the formula's own C: a choice that
    numbers do not settle, or a helper function of several operands."""
    cdef Expr* expr = exprs + e
    cdef Expr* test
    cdef uint32_t p, q
    cdef Made x
    while expr.kind == EX_WHERE and not expr.meaning:
        test = exprs + expr.x
        p = expand(m, test.x, names)
        q = expand(m, test.y, names)
        if p == NO_NODE or q == NO_NODE or not is_number(m, p) or not is_number(m, q):
            return NO_NODE
        expr = exprs + (expr.y if holds(test.kind, number_of(m, p), number_of(m, q)) else expr.z)
    if expr.meaning:
        p = expand(m, expr.argument, names) if expr.argument >= 0 else NO_NODE
        if p == NO_NODE:
            return NO_NODE
        x = value_of(OP_COUNT, p, 0, 0)
        x.kind = STEP_HELPER
        x.k = expr.meaning - 1
        return make(m, x)
    if expr.kind == EX_NUMBER:
        return make_number(m, expr.number)
    if expr.kind == EX_NAME:
        return names[expr.op]
    p = expand(m, expr.x, names)
    if expr.kind == EX_ONE:
        return NO_NODE if p == NO_NODE else make_one(m, expr.op, p)
    q = expand(m, expr.y, names)
    return NO_NODE if p == NO_NODE or q == NO_NODE else make_two(m, expr.op, p, q)

cdef uint32_t make_slope(Maker* m, unsigned op, bint second, uint32_t a, uint32_t b, uint32_t y) noexcept nogil:
    """The partial of y = op of a and b by one of them."""
    cdef Made x
    cdef uint32_t names[NAMES]
    cdef uint32_t found
    cdef Expr* expr = exprs + (formula_b[op] if second else formula_a[op])
    if expr.kind == EX_NAME:  # as in products
        return a if expr.op == NAME_A else b if expr.op == NAME_B else y
    memset(names, 0xFF, sizeof(names))
    names[NAME_A], names[NAME_B], names[NAME_Y] = a, b, y
    found = expand(m, formula_b[op] if second else formula_a[op], names)
    if found != NO_NODE:
        return found
    x = value_of(op, a, b, y)
    x.kind = STEP_SLOPE_B if second else STEP_SLOPE_A
    return make(m, x)

cdef uint32_t make_range_slope(Maker* m, row_t* row, uint32_t j, uint32_t operand, uint32_t y, uint32_t aux) noexcept nogil:
    """The partial of y = a row over a range by its operand number j."""
    cdef Made x
    cdef uint32_t names[NAMES]
    cdef uint32_t found
    memset(names, 0xFF, sizeof(names))
    names[NAME_X], names[NAME_Y], names[NAME_AUX] = operand, y, aux
    names[NAME_N], names[NAME_I], names[NAME_K] = make_number(m, row.c), make_number(m, j), make_number(m, row.b)
    found = expand(m, formula_a[row.op], names)
    if found != NO_NODE:
        return found
    x = value_of(row.op, operand, y, aux)
    x.kind = STEP_SLOPE_N
    x.i, x.k, x.n = j, row.b, row.c
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
        give_adjoint(m, row.a, adjoint, q)
    elif shape == SHAPE_AB:
        if active[row.a]:
            give_adjoint(m, row.a, adjoint, make_slope(m, op, False, of[row.a], of[row.b], y))
        if active[row.b]:
            give_adjoint(m, row.b, adjoint, make_slope(m, op, True, of[row.a], of[row.b], y))
    elif op == OP_PROD:  # back_prod()
        right = m.n_list
        m.list[right + n - 1] = make_number(m, 1)
        for j in range(n - 1, 0, -1):
            m.list[right + j - 1] = make_two(m, OP_MUL, m.list[right + j], of[list[j]])
        left = make_number(m, 1)
        for j in range(n):
            if active[list[j]]:
                give_adjoint(m, list[j], adjoint, make_two(m, OP_MUL, left, m.list[right + j]))
            left = make_two(m, OP_MUL, left, of[list[j]])
    elif shape == SHAPE_RANGE:
        x = make_list(m, p, row, op)
        x.kind = STEP_AUX
        x.c = y
        q = make(m, x)
        for j in range(n):
            if active[list[j]]:
                give_adjoint(m, list[j], adjoint, make_range_slope(m, row, j, of[list[j]], y, q))
    else:
        for j in range(n):
            if active[list[j]]:
                give_adjoint(m, list[j], adjoint, of[list[n + j]])
            if active[list[n + j]]:
                give_adjoint(m, list[n + j], adjoint, of[list[j]])
        if shape == SHAPE_AFFINE and op_bias(op) and active[list[2 * n]]:
            give_adjoint(m, list[2 * n], adjoint, NO_NODE)


# what is needed, how deep it is, and where it stands

cdef void need_value(Maker* m, uint32_t x, unsigned phase) noexcept nogil:
    m.uses[x] += m.uses[x] < 255
    if phase < m.phase[x]:
        m.phase[x] = phase

cdef inline int operands_of_made(Made* made) noexcept nogil:
    """How many operands it has beside a list."""
    cdef unsigned shape
    if made.kind == STEP_CHAIN:
        return made.c != NO_NODE
    if made.kind == STEP_HELPER or made.kind == STEP_AUX:
        return 1
    if made.kind != STEP_VALUE:
        return 3
    shape = op_shape[made.op]
    return 1 if shape == SHAPE_A or made.op == OP_AFFINE else 3 if made.op == OP_SOFTMAX else 2 if shape == SHAPE_AB else 0

cdef inline uint32_t operand_of_made(Made* made, int j) noexcept nogil:
    if made.kind == STEP_AUX or made.kind == STEP_CHAIN or made.op == OP_AFFINE:
        return made.c
    return made.a if j == 0 else made.b if j == 1 else made.c

cdef void need_operands(Maker* m, uint32_t x) noexcept nogil:
    cdef Made* made = m.made + x
    cdef uint32_t j, phase = m.phase[x]
    if made.op == OP_LEAF:
        return
    for j in range(<uint32_t>operands_of_made(made)):
        need_value(m, operand_of_made(made, j), phase)
    if is_listed(made):
        for j in range(list_size(made)):
            need_value(m, m.list[made.a + j], phase)

cdef inline uint32_t depth_of(Maker* m, uint32_t x, unsigned phase) noexcept nogil:
    """How deep a value must be at least that needs x; what an earlier phase computes is there."""
    return m.depth[x] + 1 if m.phase[x] == phase else 1

cdef inline bint is_own(Maker* m, uint32_t x, unsigned op, unsigned phase) noexcept nogil:
    """Is x a value of this op that nothing else needs?"""
    return m.uses[x] == 1 and m.phase[x] == phase and m.made[x].op == op and m.made[x].kind == STEP_VALUE

cdef uint32_t link_of(Maker* m, uint32_t x, uint32_t* rest) noexcept nogil:
    """Of a sum x: what it adds to the rest. A product of its own, if there is one; then what is no sum of its own."""
    cdef Made* made = m.made + x
    cdef unsigned phase = m.phase[x]
    if not is_own(m, made.b, OP_MUL, phase) and (is_own(m, made.a, OP_MUL, phase) or not is_own(m, made.a, OP_ADD, phase)
                                                 and is_own(m, made.b, OP_ADD, phase)):
        rest[0] = made.b
        return made.a
    rest[0] = made.a
    return made.b

cdef void note_shared(Maker* m, uint32_t x, unsigned phase) noexcept nogil:
    """A chain ends at x. If that is a sum, others need it too."""
    if m.made[x].op == OP_ADD and m.made[x].kind == STEP_VALUE and m.phase[x] == phase and m.uses[x] > 1 and m.n_shared < 8:
        m.shared[m.n_shared] = m.source[x]
        m.n_shared += 1

cdef int make_chains(Maker* m) except -1:
    """Sums in a row whose partial sums nothing else needs become one value each: c + a * b + a' * b' + ..., or c + a + a' + ...,
    rounded at each operation as before."""
    cdef uint32_t i, at, link, rest, k, links
    cdef size_t sums = 0
    cdef bint products
    cdef uint32_t* list
    cdef Made* made
    for i in range(m.n):
        sums += m.made[i].op == OP_ADD
    reserve_made(m, 0, 5 * sums)
    i = m.n
    while i:
        i -= 1
        made = m.made + i
        if made.op != OP_ADD or made.kind != STEP_VALUE or m.phase[i] == PHASES:
            continue
        products = False
        list = m.list + m.n_list
        links, at = 0, i
        while True:
            list[links] = link_of(m, at, &rest)
            products |= is_own(m, list[links], OP_MUL, m.phase[i])
            links += 1
            if at != i:
                m.phase[at] = PHASES
            at = rest
            if not is_own(m, at, OP_ADD, m.phase[i]):
                break
        note_shared(m, at, m.phase[i])
        note_shared(m, list[links - 1], m.phase[i])
        if links == 1 and not products:
            continue
        if is_own(m, at, OP_MUL, m.phase[i]):
            list[links] = at
            links += 1
            at = NO_NODE
            products = True
        for k in range(links // 2):
            list[k], list[links - 1 - k] = list[links - 1 - k], list[k]
        for k in range(links if products else 0):
            link = list[k]
            list[links + k] = NO_NODE
            if is_own(m, link, OP_MUL, m.phase[i]):
                list[k], list[links + k] = m.made[link].a, m.made[link].b
                m.phase[link] = PHASES
        made.a, made.b, made.c, made.n = m.n_list, 0, at, links
        made.kind = STEP_CHAIN
        if products:
            as_products(m, made)
        m.n_list += list_size(made) + 1
    return 0

cdef void find_depth(Maker* m, uint32_t x) noexcept nogil:
    cdef Made* made = m.made + x
    cdef uint32_t j, depth = 1
    cdef unsigned phase = m.phase[x]
    for j in range(<uint32_t>operands_of_made(made)):
        depth = max(depth, depth_of(m, operand_of_made(made, j), phase))
    if is_listed(made):
        for j in range(list_size(made)):
            depth = max(depth, depth_of(m, m.list[made.a + j], phase))
    m.depth[x] = depth

cdef Schedule make_schedule(Program p, bytes wanted, bint rows=False):
    """The schedule that computes a program's results and what its guards compare, and with wanted also adjoints: a byte for each
    input and captured Variable, 0 where nobody asks for its own, and one for each result, 0 where it has none. rows: one value a
    step, for blocks of rows."""
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
    m.fast = schedule.fast = p.fast
    prepare_formulas()
    try:
        resize(<void**>&live, p.n + 1, 1)
        resize(<void**>&active, p.n + 1, 1)
        resize(<void**>&m.of, p.n + 1, sizeof(uint32_t))
        if wanted is not None:
            resize(<void**>&m.adjoint, p.n + 1, sizeof(uint32_t))
            resize(<void**>&m.first, p.n + 1, sizeof(uint32_t))
            resize(<void**>&m.last, p.n + 1, sizeof(uint32_t))
            memset(m.first, 0xFF, (p.n + 1) * sizeof(uint32_t))
        resize(<void**>&schedule.place, p.n + 1, sizeof(uint32_t))
        memset(live, 0, p.n + 1)
        memset(active, 0, p.n + 1)
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
        reserve_made(&m, m.fixed + <size_t>p.n + (p.n // 2 if wanted is not None else 0) + 1, p.n_side + 1)
        for i in range(m.fixed):
            append(&m, value_of(OP_LEAF, i, 0, 0))
        m.one = make_number(&m, 1)
        for i in range(p.n):
            row = p.row + i
            m.slot = i
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
                    reserve_terms(&m, 1)
                    give_adjoint(&m, slot, seed, NO_NODE)
                seed += 1
            i = p.n
            while i:
                i -= 1
                row = p.row + i
                m.slot = i
                if live[i] and active[i] and m.first[i] != NO_NODE and row.op != OP_LEAF:
                    add_terms(&m, i)
                    j = operand_count(row)
                    reserve_terms(&m, j)
                    reserve_made(&m, (<size_t>j + 2) * (formula_size[row.op] + 4) + 16, 2 * <size_t>j + 2)
                    adjoint_of_row(&m, p, i, active)
            for i in range(p.n_inputs + <uint32_t>len(p.captured)):
                if active[i] and m.first[i] != NO_NODE:
                    add_terms(&m, i)
                elif active[i]:
                    reserve_made(&m, 1, 0)
                    m.adjoint[i] = make_number(&m, 0)
        resize(<void**>&m.phase, m.n, 1)
        resize(<void**>&m.uses, m.n, 1)
        resize(<void**>&m.depth, m.n, sizeof(uint32_t))
        resize(<void**>&m.place, m.n, sizeof(uint32_t))
        memset(m.phase, PHASES, m.n)
        memset(m.uses, 0, m.n)
        memset(m.depth, 0, m.n * sizeof(uint32_t))  # leaves stay so
        memset(m.place, 0xFF, m.n * sizeof(uint32_t))
        for slot in slots:
            need_value(&m, m.of[<uint32_t>slot], PHASE_RESULT)
        for i in range(p.n if not rows else 0):
            if op_can_fail(p.row[i].op):
                need_value(&m, m.of[i], PHASE_RESULT)
        for i in range(p.n_inputs + <uint32_t>len(p.captured)):
            if active[i]:
                need_value(&m, m.adjoint[i], PHASE_ADJOINT)
        for i in range(m.fixed + 1):
            need_value(&m, i, PHASE_RESULT)
        with nogil:
            i = m.n
            while i:
                i -= 1
                if m.phase[i] != PHASES:
                    need_operands(&m, i)
        make_chains(&m)
        schedule.shared = [m.shared[i] for i in range(m.n_shared)]
        with nogil:
            deepest[0] = deepest[1] = 0
            for i in range(m.n):
                if m.phase[i] != PHASES and m.made[i].op != OP_LEAF:
                    find_depth(&m, i)
                    deepest[m.phase[i]] = max(deepest[m.phase[i]], m.depth[i])
        if rows:
            resize(<void**>&begin, m.n + 1, sizeof(uint32_t))
            memset(begin, 0, (m.n + 1) * sizeof(uint32_t))
            for slot in slots:
                begin[m.of[<uint32_t>slot]] = NO_NODE
            for i in range(p.n_inputs + <uint32_t>len(p.captured)):
                if active[i]:
                    begin[m.adjoint[i]] = NO_NODE
            emit_rows(schedule, &m, begin, p.n_inputs, p.n_inputs + <uint32_t>len(p.captured))
        else:
            resize(<void**>&begin, deepest[0] + deepest[1] + 2, sizeof(uint32_t))
            resize(<void**>&sorted_, m.n + 1, sizeof(Sorted))
            emit_steps(schedule, &m, deepest[0], deepest[1], begin, sorted_)
        resize(<void**>&schedule.start, schedule.n_values + 1, sizeof(double))
        memset(schedule.start, 0, schedule.n_values * sizeof(double))
        for i in range(m.n):
            if m.made[i].op == OP_LEAF and i >= m.fixed and m.place[i] != NO_NODE:
                schedule.start[m.place[i]] = number_of(&m, i)
        for i in range(p.n):
            schedule.place[i] = m.place[m.of[i]] if i < p.n_inputs + <uint32_t>len(p.captured) or live[i] else NO_NODE
        if wanted is not None:
            resize(<void**>&schedule.adjoint, m.fixed + 1, sizeof(uint32_t))
            resize(<void**>&schedule.seed, len(roots) + 1, sizeof(uint32_t))
            for i in range(<uint32_t>len(roots)):
                schedule.seed[i] = m.place[p.n_inputs + <uint32_t>len(p.captured) + i]
            for i in range(p.n_inputs + <uint32_t>len(p.captured)):
                schedule.adjoint[i] = m.place[m.adjoint[i]] if active[i] else NO_NODE
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
        PyMem_RawFree(m.term)
        PyMem_RawFree(m.source)
        PyMem_RawFree(m.first)
        PyMem_RawFree(m.last)
        PyMem_RawFree(m.phase)
        PyMem_RawFree(m.uses)
        PyMem_RawFree(m.depth)
        PyMem_RawFree(m.place)
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
        if m.phase[i] == PHASES or made.op == OP_LEAF:
            continue
        begin[level_of(m, i, depth0) + 1] += 1
        count += 1
        entries += 3
        if is_listed(made):
            entries += list_size(made)
            if made.kind != STEP_CHAIN or m.fast:
                schedule.room = max(schedule.room, <size_t>list_size(made))
    for level in range(levels):
        begin[level + 1] += begin[level]
    resize(<void**>&schedule.step, count + 1, sizeof(step_t))
    resize(<void**>&schedule.source, count + 1, sizeof(uint32_t))
    resize(<void**>&schedule.room_for_lists, entries + 3 * count, sizeof(uint32_t))
    schedule.room_for_steps = schedule.room_for_lists + entries
    resize(<void**>&schedule.index, entries, sizeof(uint32_t))
    for i in range(m.n):
        made = m.made + i
        if m.phase[i] != PHASES and made.op != OP_LEAF:
            level = level_of(m, i, depth0)
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
            if m.phase[i] != PHASES:
                place_of(schedule, m, i)  # what no step needs, but someone asks for
    return 0

cdef uint32_t place_of(Schedule schedule, Maker* m, uint32_t x) noexcept nogil:
    """Where a value stands. A leaf gets its place when the first step asks for it, so that leaves stand in the order of use."""
    if m.place[x] == NO_NODE:
        m.place[x] = schedule.n_values
        schedule.n_values += 1
    return m.place[x]

cdef inline uint64_t order_of(Maker* m, uint32_t x) noexcept nogil:
    """By place; leaves that have none yet come last, by number."""
    return m.place[x] if m.place[x] != NO_NODE else <uint64_t>1 << 31 | x

cdef int emit_rows(Schedule schedule, Maker* m, uint32_t* last, uint32_t captured, uint32_t seeds) except -1:
    """Steps for blocks of rows: one value each, in order of creation. What only numbers and captured Variables decide comes
    first, of either phase: it is computed once. Places are registers, one number a row; leaves and what is computed once keep
    theirs, others give theirs up after their last use. last: NO_NODE for values that are asked for, else 0. captured, seeds:
    where these begin."""
    cdef uint32_t i, j, k, position = 0, n_free = 0
    cdef int phase
    cdef Made* made
    cdef step_t* step
    cdef size_t entries = 1
    for i in range(m.n):
        made = m.made + i
        if m.phase[i] != PHASES and made.op == OP_LEAF:
            place_of(schedule, m, i)
            m.depth[i] = i < captured or seeds <= i < m.fixed  # 0 from here on: the same in all rows
        elif m.phase[i] != PHASES:
            position += 1
            m.depth[i] = 0
            for j in range(made_operands(made)):
                m.depth[i] |= m.depth[made_operand(m, made, j)]
            if m.depth[i] == 0:
                last[i] = NO_NODE
            if is_listed(made):
                entries += list_size(made)
                schedule.room = max(schedule.room, <size_t>list_size(made))
    schedule.n_fixed = schedule.n_values
    resize(<void**>&schedule.step, position + 1, sizeof(step_t))
    resize(<void**>&schedule.source, position + 1, sizeof(uint32_t))
    resize(<void**>&schedule.index, entries, sizeof(uint32_t))
    resize(<void**>&schedule.room_for_lists, position + 1, sizeof(uint32_t))  # registers that are free
    position = 0
    for phase in range(-1, PHASES):
        for i in range(m.n):
            made = m.made + i
            if is_in_part(m, i, phase):
                position += 1
                for j in range(made_operands(made)):
                    k = made_operand(m, made, j)
                    if last[k] != NO_NODE:
                        last[k] = position
    position = 0
    for phase in range(-1, PHASES):
        for i in range(m.n):
            made = m.made + i
            if not is_in_part(m, i, phase):
                continue
            position += 1
            step = new_step(schedule, m, made, 1)
            if n_free:
                n_free -= 1
                m.place[i] = schedule.room_for_lists[n_free]
            else:
                place_of(schedule, m, i)
            step.y = m.place[i]
            if is_listed(made):
                step.n = made.n
                step.a = <uint32_t>schedule.n_index
                step.b = step.a + made.n
                if made.kind == STEP_CHAIN and made.c == NO_NODE:
                    step.c_where = WHERE_NONE
                for j in range(list_size(made)):
                    schedule.index[schedule.n_index] = m.place[m.list[made.a + j]]
                    schedule.n_index += 1
                if operands_of_made(made):
                    step.c = m.place[made.c]
            else:
                step.a = m.place[made.a]
                if operands_of_made(made) > 1:
                    step.b = m.place[made.b]
                if operands_of_made(made) > 2:
                    step.c = m.place[made.c]
            for j in range(made_operands(made)):
                k = made_operand(m, made, j)
                if last[k] == position and m.made[k].op != OP_LEAF:
                    last[k] = 0  # it may be an operand twice
                    schedule.room_for_lists[n_free] = m.place[k]
                    n_free += 1
        if phase == -1:
            schedule.n_common = schedule.n_steps
        elif phase == PHASE_RESULT:
            schedule.n_results = schedule.n_steps
    return 0

cdef inline bint is_in_part(Maker* m, uint32_t i, int phase) noexcept nogil:
    """Of steps for rows: is this value of this phase, or (-1) of what is computed once?"""
    return m.made[i].op != OP_LEAF and m.phase[i] != PHASES and (m.phase[i] == phase if m.depth[i] else phase == -1)

cdef inline uint32_t made_operands(Made* made) noexcept nogil:
    """How many operands it has, a list's included."""
    return <uint32_t>operands_of_made(made) + (list_size(made) if is_listed(made) else 0)

cdef inline uint32_t made_operand(Maker* m, Made* made, uint32_t j) noexcept nogil:
    cdef uint32_t n = <uint32_t>operands_of_made(made)
    return operand_of_made(made, j) if j < n else m.list[made.a + (j - n)]

cdef inline uint32_t level_of(Maker* m, uint32_t x, uint32_t depth0) noexcept nogil:
    return m.depth[x] - 1 + (depth0 if m.phase[x] == PHASE_ADJOINT else 0)

cdef inline bint is_wide_made(Made* made) noexcept nogil:
    """May it stand in one step with others of its op?"""
    cdef unsigned shape = op_shape[made.op] if made.kind == STEP_VALUE else 0
    return made.kind == STEP_SLOPE_A or made.kind == STEP_SLOPE_B or made.kind == STEP_CHAIN or made.kind == STEP_HELPER \
        or made.kind == STEP_VALUE and (shape == SHAPE_A or shape == SHAPE_AB and made.op != OP_SOFTMAX)

cdef inline bint same_step(Maker* m, uint32_t x, uint32_t y) noexcept nogil:
    """May values x and y of one depth stand in one step?"""
    cdef Made* p = m.made + x
    cdef Made* q = m.made + y
    return p.kind == q.kind and p.op == q.op and is_wide_made(p) and p.k == q.k \
        and (p.kind != STEP_CHAIN or p.n == q.n and (p.c == NO_NODE) == (q.c == NO_NODE))

cdef void emit_level(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t count) noexcept nogil:
    """The steps of values that do not need each other."""
    cdef uint32_t k, n, first = 0
    cdef Made* made
    for k in range(count):
        made = m.made + sorted_[k].made
        sorted_[k].first = <uint64_t>made.kind << 60 | <uint64_t>made.op << 48
        if made.kind == STEP_CHAIN:
            sorted_[k].first |= <uint64_t>min(made.n, 0xFFFF) << 32 | (made.c == NO_NODE)
        elif made.kind == STEP_HELPER:
            sorted_[k].first |= made.k
        sorted_[k].second = sorted_[k].made
    sort_values(sorted_, count)
    while first < count:
        n = 1
        while first + n < count and same_step(m, sorted_[first].made, sorted_[first + n].made):
            n += 1
        made = m.made + sorted_[first].made
        if m.fast and n < 4 and made.kind == STEP_CHAIN and made.n >= 16:
            for k in range(first, first + n):
                as_range(m, m.made + sorted_[k].made)
                emit_step(schedule, m, sorted_ + k, 1)
        elif made.kind == STEP_CHAIN or made.kind == STEP_VALUE and made.op == OP_MUL and n > 1:
            emit_chains(schedule, m, sorted_ + first, n)
        else:
            emit_wide(schedule, m, sorted_ + first, n)
        first += n

cdef void as_range(Maker* m, Made* made) noexcept nogil:
    """Make a chain a dot or a sum, whose terms are added in another order, several at a time."""
    made.kind = STEP_VALUE
    if made.op == OP_MUL:
        made.op = OP_DOT if made.c == NO_NODE else OP_AFFINE
    else:
        made.op = OP_SUM
        m.list[made.a + made.n] = made.c
        made.n += 1

cdef void sort_values(Sorted* sorted_, uint32_t count) noexcept nogil:
    """Sort; what is in order already, as it mostly is, costs one look."""
    cdef uint32_t k
    for k in range(1, count):
        if compare_sorted(sorted_ + k - 1, sorted_ + k) > 0:
            qsort(sorted_, count, sizeof(Sorted), compare_sorted)
            return

cdef inline uint32_t operand_for_order(Maker* m, Made* made, int which) noexcept nogil:
    """Operand a (0), b (1) or c (2); of a chain its first link's. Itself where it has none."""
    if made.kind == STEP_CHAIN:
        return made.c if which == 2 else m.list[made.a] if which == 0 or made.op == OP_ADD else m.list[made.a + made.n]
    return made.a if which == 0 or operands_of_made(made) < 2 else made.b

cdef void order_by(Maker* m, Sorted* sorted_, uint32_t n, int first, int second) noexcept nogil:
    """Put values of one step into the order of these operands' places, then of creation."""
    cdef uint32_t k
    cdef Made* made
    for k in range(n):
        made = m.made + sorted_[k].made
        sorted_[k].first = order_of(m, operand_for_order(m, made, first)) << 32 | order_of(m, operand_for_order(m, made, second))
        sorted_[k].second = sorted_[k].made
    sort_values(sorted_, n)

cdef str step_name(step_t* step):
    """The op's name, or the helper function's."""
    return (op_meanings[step.k].function if step.kind == STEP_HELPER else op_name[step.op]).decode()

cdef step_t* new_step(Schedule schedule, Maker* m, Made* made, uint32_t n) noexcept nogil:
    cdef step_t* step = schedule.step + schedule.n_steps
    schedule.source[schedule.n_steps] = m.source[made - m.made]
    schedule.n_steps += 1
    memset(step, 0, sizeof(step_t))
    step.op = made.op
    step.kind = made.kind
    step.n = n
    step.k = made.k
    step.i = made.i
    step.count = made.n
    return step

cdef void emit_wide(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t n) noexcept nogil:
    """Values of one op: a step for each stretch in which every operand stands side by side or is the same, and for what lies
    between."""
    cdef uint32_t first = 0, plain = 0, length, most, j, k, count = <uint32_t>operands_of_made(m.made + sorted_[0].made)
    cdef uint32_t* list = schedule.room_for_lists
    cdef int64_t stride
    if n == 1:
        emit_step(schedule, m, sorted_, 1)
        return
    order_by(m, sorted_, n, 0, 1)
    for j in range(count):
        for k in range(n):
            schedule.room_for_lists[j * n + k] = place_of(schedule, m, operand_of_made(m.made + sorted_[k].made, j))
    while first < n:
        most = 4
        while True:  # twice as far each time, so that no look goes far in vain
            most = min(2 * most, n - first)
            length = most
            for j in range(count if most > 1 else 0):
                list = schedule.room_for_lists + j * n
                stride = <int64_t>list[first + 1] - list[first]
                length = even_run(list, first, length if stride == 0 or stride == 1 else 1, stride)
            if length < most or most == n - first:
                break
        if length >= 16:
            if plain < first:
                emit_step(schedule, m, sorted_ + plain, first - plain)
            emit_step(schedule, m, sorted_ + first, length)
            plain = first + length
        first += length
    if plain < n:
        emit_step(schedule, m, sorted_ + plain, n - plain)

cdef void emit_step(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t n) noexcept nogil:
    """One step: places for its operands that are leaves, and for its results."""
    cdef Made* made = m.made + sorted_[0].made
    cdef uint32_t k, j, count = <uint32_t>operands_of_made(made)
    cdef uint32_t* list[3]
    cdef step_t* step = new_step(schedule, m, made, n)
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
        step.y = m.place[sorted_[0].made] = schedule.n_values
        schedule.n_values += 1
        return
    for j in range(3):
        list[j] = schedule.room_for_steps + j * n
        for k in range(n if j < count else 0):
            list[j][k] = place_of(schedule, m, operand_of_made(m.made + sorted_[k].made, j))
    step.a = close_list(schedule, list[0], n, &step.a_where, &step.a_stride)
    if count > 1:
        step.b = close_list(schedule, list[1], n, &step.b_where, &step.b_stride)
    if count > 2:
        step.c = close_list(schedule, list[2], n, &step.c_where, &step.c_stride)
    step.y = schedule.n_values
    schedule.n_values += n
    for k in range(n):
        m.place[sorted_[k].made] = step.y + k

cdef void emit_chains(Schedule schedule, Maker* m, Sorted* sorted_, uint32_t n) noexcept nogil:
    """Chains, or products: a step for each stretch that goes by equal runs, and for what lies between."""
    cdef Made* made = m.made + sorted_[0].made
    cdef Chains chains
    cdef uint32_t first = 0, plain = 0, run, length, i, k, x
    cdef uint32_t* list = schedule.room_for_lists
    memset(&chains, 0, sizeof(Chains))  # strides too: export.pxi shows those of steps that use none
    chains.m, chains.n, chains.start = m, n, made.kind == STEP_CHAIN and made.c != NO_NODE
    chains.links = made.n if made.kind == STEP_CHAIN else 1
    chains.products = made.op == OP_MUL
    chains.sorted_ = sorted_
    find_order(m, &chains)
    chains.operand[0] = list
    chains.operand[1] = list + (n if chains.start else 0)
    chains.operand[2] = chains.operand[1] + <size_t>n * chains.links
    if chains.start:
        for i in range(n):
            chains.operand[0][i] = place_of(schedule, m, m.made[sorted_[i].made].c)
    for k in range(chains.links):  # leaves that get their places here stand side by side in each link
        for i in range(n):
            made = m.made + sorted_[i].made
            chains.operand[1][<size_t>k * n + i] = place_of(schedule, m, m.list[made.a + k] if made.kind == STEP_CHAIN else made.a)
        if chains.products:
            for i in range(n):
                made = m.made + sorted_[i].made
                x = m.list[made.a + made.n + k] if made.kind == STEP_CHAIN else made.b
                chains.operand[2][<size_t>k * n + i] = place_of(schedule, m, x)
    while first < n:
        length = stretch_at(&chains, first, &run)
        if length:
            if plain < first:
                emit_stretch(schedule, &chains, plain, first - plain, 0)
            emit_stretch(schedule, &chains, first, length, run)
            plain = first + length
        first += max(length, run)
    if plain < n:
        emit_stretch(schedule, &chains, plain, n - plain, 0)

cdef struct Chains:  # that become steps
    Maker* m
    Sorted* sorted_
    uint32_t n, links
    bint start, products
    uint32_t* operand[3]  # places of c [n], of a and b [links][n]
    int64_t stride[3]

cdef void find_order(Maker* m, Chains* chains) noexcept nogil:
    """Sort the chains by their operands, of which one or another comes first, so that they go by long runs."""
    cdef int which = 3 if chains.start else 2 if chains.products else 1, best = 0
    cdef uint32_t score, most = 0
    while which and chains.n > 1:
        which -= 1
        order_by(m, chains.sorted_, chains.n, which, which == 0)
        score = smoothness(m, chains)
        if score > most:
            best, most = which, score
        if score + chains.n // 8 >= (chains.n - 1) * (2 if chains.products else 1):  # the others need not be tried
            return
    if chains.n > 1 and best:
        order_by(m, chains.sorted_, chains.n, best, 0)

cdef uint32_t smoothness(Maker* m, Chains* chains) noexcept nogil:
    """How often operands of the first link stand behind those of the chain before, or are the same."""
    cdef uint32_t i, x, y, score = 0
    cdef int which
    cdef int64_t delta
    for which in range(2 if chains.products else 1):
        y = operand_for_order(m, m.made + chains.sorted_[0].made, which)
        for i in range(1, chains.n):
            x, y = y, operand_for_order(m, m.made + chains.sorted_[i].made, which)
            delta = <int64_t>order_of(m, y) - <int64_t>order_of(m, x)
            score += delta == 0 or delta == 1 or m.place[y] == NO_NODE and m.place[x] == NO_NODE
    return score

cdef uint32_t stretch_at(Chains* chains, uint32_t first, uint32_t* run) noexcept nogil:
    """How many of the chains from first on go by runs of *run, with a stride of each operand; 0 for runs below 4."""
    cdef uint32_t j, k, n = chains.n, start = first, most = 2
    cdef uint32_t* list
    run[0] = n - first
    if run[0] < 4:
        return 0
    while True:  # as in emit_wide()
        most = min(2 * most, n - first)
        run[0] = most
        for j in range(0 if chains.start else 1, 3 if chains.products else 2):
            list = chains.operand[j]
            chains.stride[j] = <int64_t>list[first + 1] - list[first]
            for k in range(chains.links if j else 1):
                run[0] = even_run(list + <size_t>k * n, first, run[0], chains.stride[j])
        if run[0] < most or most == n - first:
            break
    if run[0] < 4:
        return 0
    while start + 2 * run[0] <= n:
        start += run[0]
        for j in range(0 if chains.start else 1, 3 if chains.products else 2):
            for k in range(chains.links if j else 1):
                if even_run(chains.operand[j] + <size_t>k * n, start, run[0], chains.stride[j]) < run[0]:
                    return start - first
    return start + run[0] - first

cdef inline uint32_t even_run(uint32_t* list, uint32_t first, uint32_t most, int64_t stride) noexcept nogil:
    """How many places from first on go by this stride, at most so many."""
    cdef uint32_t k = 1
    while k < most and <int64_t>list[first + k] - list[first + k - 1] == stride:
        k += 1
    return k

cdef void emit_stretch(Schedule schedule, Chains* chains, uint32_t first, uint32_t n, uint32_t run) noexcept nogil:
    """One step of chains; run 0: their operands are anywhere."""
    cdef Made* made = chains.m.made + chains.sorted_[first].made
    cdef uint32_t i, k, links = chains.links
    cdef uint32_t copied[3]
    cdef bint alone = n == 1 and links == 1
    cdef step_t* step
    for i in range(1, 3 if chains.products else 2):
        copied[i] = line_up(schedule, chains, i, first, n, run)
    step = new_step(schedule, chains.m, made, n)
    step.kind = STEP_CHAIN
    step.count = links
    step.run = run
    step.a_where = WHERE_RUN if alone and chains.start else WHERE_RUNS if run else WHERE_LISTED
    step.a_stride, step.b_stride, step.c_stride = <int32_t>chains.stride[1], <int32_t>chains.stride[2], <int32_t>chains.stride[0]
    step.b_where = step.c_where = step.a_where
    if step.a_where == WHERE_RUN:
        step.c, step.a, step.b = chains.operand[0][first], chains.operand[1][first], chains.operand[2][first]
    else:
        if chains.start:
            step.c = write_places(schedule, chains.operand[0], chains.n, 1, first, n, run)
        else:
            step.c_where = WHERE_NONE
        for i in range(1, 3 if chains.products else 2):
            k = <uint32_t>schedule.n_index
            if copied[i] == NO_NODE:
                write_places(schedule, chains.operand[i], chains.n, links, first, n, run)
            else:
                write_copied(schedule, copied[i], links, n, run)
            if i == 1:
                step.a = k
                step.a_stride = 1 if copied[i] != NO_NODE else step.a_stride
            else:
                step.b = k
                step.b_stride = 1 if copied[i] != NO_NODE else step.b_stride
    step.y = schedule.n_values
    schedule.n_values += n
    for i in range(n):
        chains.m.place[chains.sorted_[first + i].made] = step.y + i

cdef uint32_t line_up(Schedule schedule, Chains* chains, int which, uint32_t first, uint32_t n, uint32_t run) noexcept nogil:
    """Where an operand goes by a stride, and all runs have the same: copy it side by side once, as a step of its own. Returns
    where the copies begin; NO_NODE: no need."""
    cdef uint32_t i, k, x, begin = schedule.n_values
    cdef uint32_t* list = chains.operand[which]
    cdef step_t* step
    if run == 0 or run == n or chains.stride[which] == 0 or chains.stride[which] == 1:
        return NO_NODE
    i = first + run
    while i < first + n:
        for k in range(chains.links):
            if list[<size_t>k * chains.n + i] != list[<size_t>k * chains.n + first]:
                return NO_NODE
        i += run
    step = new_step(schedule, chains.m, chains.m.made + chains.sorted_[first].made, chains.links * run)
    step.op, step.kind, step.count, step.run = OP_ADD, STEP_CHAIN, 0, run
    step.a_where = step.b_where = step.c_where = WHERE_RUNS
    step.c_stride = <int32_t>chains.stride[which]
    step.c = <uint32_t>schedule.n_index
    for k in range(chains.links):
        schedule.index[schedule.n_index] = list[<size_t>k * chains.n + first]
        schedule.n_index += 1
    step.y = begin
    schedule.n_values += chains.links * run
    return begin

cdef void write_copied(Schedule schedule, uint32_t begin, uint32_t links, uint32_t n, uint32_t run) noexcept nogil:
    """write_places() for what line_up() has copied."""
    cdef uint32_t i, k
    for i in range(n // run):
        for k in range(links):
            schedule.index[schedule.n_index] = begin + k * run
            schedule.n_index += 1

cdef uint32_t write_places(Schedule schedule, uint32_t* list, uint32_t n, uint32_t links, uint32_t first, uint32_t count,
                           uint32_t run) noexcept nogil:
    """Of each run, or each result, the places of its links' operands. Returns where that begins in index."""
    cdef uint32_t at = <uint32_t>schedule.n_index, i, k
    i = first
    while i < first + count:
        for k in range(links):
            schedule.index[schedule.n_index] = list[<size_t>k * n + i]
            schedule.n_index += 1
        i += run if run else 1
    return at

cdef bint goes_up(uint32_t* list, uint32_t n) noexcept nogil:
    cdef uint32_t k
    for k in range(1, n):
        if list[k] != list[k - 1] + 1:
            return False
    return True

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
