# rows.pxi: a program (program.pxi) run on many rows of numbers at once. Threads, groups and results are in mingrad/rows.py.
#
# A block of rows goes through each step together, a register holding one number for each row. Rows whose comparisons come out
# otherwise than recorded are left for another program; those of inputs are looked at before the steps run. The GIL is not held
# meanwhile, but for a look at signals now and then.
#
# Rows stand by themselves (_map_rows), or in sequences, where each begins with what the one before has ended with (Scan): then all
# sequences go through their first rows together, then through their second rows, and so on.

cdef extern from *:
    ctypedef char volatile_char "volatile char"  # another thread writes it

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    MOST_ROWS = 256  # in a block
    MOST_KEPT = 1 << 23  # numbers that are kept for the way back

cdef struct Column:
    char* at           # of row 0; NULL: one number for all rows, or nothing
    Py_ssize_t stride  # bytes from row to row
    double number

cdef class Columns:
    """Columns(columns, writable)\n--\n\nBuffers of doubles, one number a row; any stride. A float: one number for all rows; None:
    nothing."""
    cdef Py_buffer* view
    cdef Column* column
    cdef int n

    def __cinit__(self, list columns not None, bint writable):
        cdef int flags = PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0)
        cdef Py_buffer* view
        cdef Column* column
        resize(<void**>&self.view, len(columns) + 1, sizeof(Py_buffer))
        resize(<void**>&self.column, len(columns) + 1, sizeof(Column))
        for x in columns:
            view = self.view + self.n
            column = self.column + self.n
            memset(view, 0, sizeof(Py_buffer))
            memset(column, 0, sizeof(Column))
            self.n += 1
            if type(x) is float:
                column.number = x
            elif x is not None:
                PyObject_GetBuffer(x, view, flags)
                if view.ndim != 1 or view.itemsize != 8 or view.format[0] != 100:  # 'd'
                    raise TypeError("rows: expected columns of float64")
                column.at = <char*>view.buf
                column.stride = view.strides[0]

    def __dealloc__(self):
        cdef int k
        for k in range(self.n):
            PyBuffer_Release(self.view + k)
        PyMem_RawFree(self.view)
        PyMem_RawFree(self.column)

    cdef int check(self, int count, size_t rows, int n_states=0, size_t more=0) except -1:
        """Are there so many columns, each with so many rows, those of states with some more?"""
        cdef int k
        if self.n != count:
            raise ValueError(f"rows: expected {count} columns, got {self.n}")
        for k in range(count):
            if self.column[k].at != NULL and <size_t>self.view[k].shape[0] < rows + (more if k < n_states else 0):
                raise ValueError(f"rows: expected columns of at least {rows} numbers, got {self.view[k].shape[0]}")
        return 0

cdef inline double number_at(const Column* column, size_t row) noexcept nogil:
    return column.number if column.at == NULL else (<double*>(column.at + <Py_ssize_t>row * column.stride))[0]

cdef struct Rows:  # that stand in columns
    const size_t* row   # [n]
    uint32_t n
    bint run            # do they follow each other?

cdef inline Rows rows_at(const size_t* row, uint32_t n) noexcept nogil:
    cdef Rows rows
    cdef uint32_t i = 1
    while i < n and row[i] == row[0] + i:
        i += 1
    rows.row, rows.n, rows.run = row, n, i == n
    return rows

cdef inline void gather(double* to, const Column* column, const Rows* rows) noexcept nogil:
    cdef uint32_t i
    if rows.run and column.stride == 8:
        memcpy(to, column.at + rows.row[0] * 8, rows.n * sizeof(double))
        return
    for i in range(rows.n):
        to[i] = (<double*>(column.at + <Py_ssize_t>rows.row[i] * column.stride))[0]

cdef inline void scatter(const Column* column, const double* x, const Rows* rows, const uint8_t* ok) noexcept nogil:
    """ok: which rows are written, or NULL."""
    cdef uint32_t i
    if ok == NULL and rows.run and column.stride == 8:
        memcpy(column.at + rows.row[0] * 8, x, rows.n * sizeof(double))
        return
    for i in range(rows.n):
        if ok == NULL or ok[i]:
            (<double*>(column.at + <Py_ssize_t>rows.row[i] * column.stride))[0] = x[i]

cdef inline void fill_block(double* to, double x, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        to[i] = x


# -- a program made ready ------------------------------------------------------------------------------------------------------

cdef struct Guard:
    int op
    uint32_t a, b    # registers (of early ones: inputs); NO_NODE: a number
    double x, y
    uint8_t relations  # for which the comparison is true, as relation() has them
    bint outcome

cdef inline uint8_t relation(double a, double b) noexcept nogil:
    """How two numbers stand: 1 less, 2 equal, 4 greater, 8 one is nan. A comparison is a set of these, and takes no branch."""
    return (a < b) | (a == b) << 1 | (a > b) << 2 | ((a != a) | (b != b)) << 3

cdef inline bint holds_now(const Guard* guard, double x, double y) noexcept nogil:
    return (guard.relations & relation(x, y)) != 0

cdef struct Ready:
    const step_t* step
    size_t n_same, n_first, n_steps  # steps for what is the same in all rows, those and the results', all
    const uint32_t* index
    const uint32_t* place        # [fixed] registers of inputs and captured Variables
    const uint32_t* adjoint      # [fixed] of their adjoints; NO_NODE: not asked for. NULL: without adjoints
    const double* start          # [n_leaves] of the first registers: inputs, captured ones, seeds, from n_given on numbers
    uint32_t n_common_values     # the first registers, those of leaves and what is the same in all rows
    uint32_t n_given, n_leaves, n_inputs, fixed, n_values, n_results, block
    Guard* guard                 # [n_guards] common ones, early ones, those of what steps compute
    size_t n_common, n_early, n_guards
    size_t work                  # of a row, in steps
    uint32_t* result             # [n_results] registers; NO_NODE: a number
    double* number               # [n_results] that number
    uint32_t* made               # [n_made] registers in which the steps of results leave values
    uint32_t n_made
    uint32_t* seed               # [n_results] registers of seeds; NO_NODE: none

cdef class RowPlan:
    """A program made ready for blocks of rows."""
    cdef Program program
    cdef Schedule schedule
    cdef Ready plan
    cdef double* spare  # registers for a sweep to come
    cdef uint32_t spare_block, spare_numbers  # of the sweep before

    def __dealloc__(self):
        PyMem_RawFree(self.plan.guard)
        PyMem_RawFree(self.plan.result)
        PyMem_RawFree(self.plan.number)
        PyMem_RawFree(self.plan.made)
        PyMem_RawFree(self.plan.seed)
        PyMem_RawFree(self.spare)

    cdef size_t size(self) noexcept:
        """How many doubles a sweep needs: the registers, one to work in, and room for a range."""
        return (<size_t>self.plan.n_values + 1) * self.plan.block + 4 * self.schedule.room + 8

cdef RowPlan row_plan(Program p, bytes wanted):
    """wanted: see make_schedule(). Made once for each."""
    cdef RowPlan ready_
    cdef Schedule schedule
    cdef Ready* plan
    cdef uint32_t k, seeds = 0
    cdef size_t h
    cdef int kind
    cdef set seen = set()
    if p.rows_ is None:
        p.rows_ = {}
    found = p.rows_.get(wanted)
    if found is not None:
        return found
    ready_ = RowPlan()
    schedule = make_schedule(p, wanted, True)
    ready_.program, ready_.schedule = p, schedule
    plan = &ready_.plan
    plan.step, plan.index = schedule.step, schedule.index
    plan.n_same, plan.n_first, plan.n_steps = schedule.n_common, schedule.n_results, schedule.n_steps
    plan.place, plan.adjoint = schedule.place, schedule.adjoint
    plan.work = schedule.n_steps + schedule.n_index + 1
    plan.start, plan.n_leaves = schedule.start, schedule.n_fixed
    plan.n_common_values = schedule.n_fixed + <uint32_t>schedule.n_common
    plan.n_inputs, plan.fixed = p.n_inputs, p.n_inputs + <uint32_t>len(p.captured)
    plan.n_values, plan.n_results = schedule.n_values, len(p.outputs)
    plan.block = min(MOST_ROWS, max(16, (16384 // max(schedule.n_values, 1)) // 8 * 8))
    resize(<void**>&plan.guard, len(p.guards) + 1, sizeof(Guard))
    resize(<void**>&plan.result, plan.n_results + 1, sizeof(uint32_t))
    resize(<void**>&plan.number, plan.n_results + 1, sizeof(double))
    resize(<void**>&plan.seed, plan.n_results + 1, sizeof(uint32_t))
    for kind in range(3):
        for guard in p.guards:
            if max(kind_of_operand(plan, guard[1]), kind_of_operand(plan, guard[2])) == kind:
                if guard not in seen:
                    add_guard(plan, guard, kind)
                seen.add(guard)
        plan.n_common = plan.n_guards if kind == 0 else plan.n_common
        plan.n_early = plan.n_guards if kind == 1 else plan.n_early
    for k in range(plan.n_results):
        slot = p.outputs[k]
        plan.result[k] = plan.seed[k] = NO_NODE
        if type(slot) is float:
            plan.number[k] = slot
            continue
        plan.result[k] = schedule.place[<uint32_t>slot]
        if wanted is not None:
            plan.seed[k] = schedule.seed[seeds]
            seeds += 1
    plan.n_given = plan.fixed + seeds
    written = {plan.step[h].y for h in range(plan.n_same, plan.n_first)}
    resize(<void**>&plan.made, len(written) + 1, sizeof(uint32_t))
    for register in sorted(written):
        plan.made[plan.n_made] = register
        plan.n_made += 1
    p.rows_[wanted] = ready_
    return ready_

cdef int kind_of_operand(Ready* plan, object slot):
    """Of a guard: 0 for what is the same in all rows (numbers, captured Variables), 1 for inputs, 2 for what steps compute."""
    return 0 if type(slot) is not int or plan.n_inputs <= <uint32_t>slot < plan.fixed else 1 if slot < plan.n_inputs else 2

cdef int add_guard(Ready* plan, tuple found, int kind) except -1:
    cdef Guard* guard = plan.guard + plan.n_guards
    op, left, right, outcome = found
    guard.op, guard.outcome, guard.relations = op, outcome, 0
    for x, y in ((0, 1), (0, 0), (1, 0), (0, NAN)):
        if compares(op, x, y):
            guard.relations |= relation(x, y)
    guard.a = guard.b = NO_NODE
    guard.x = guard.y = 0
    if type(left) is int:
        guard.a = plan.place[<uint32_t>left] if kind == 2 else left
    else:
        guard.x = left
    if type(right) is int:
        guard.b = plan.place[<uint32_t>right] if kind == 2 else right
    elif right is not None:
        guard.y = right
    plan.n_guards += 1
    return 0


# -- a sweep -------------------------------------------------------------------------------------------------------------------

cdef struct Sweep:  # a plan at work on columns
    const Ready* plan
    const Column* x        # inputs
    const Column* y        # results
    const Column* g        # adjoints of inputs
    double* sums           # [fixed] sums of adjoints where g has no column; NULL: none
    uint32_t n_states      # the first inputs and results: states, which stand in their columns by rows of their own
    uint32_t block
    uint32_t filled        # rows for which fill_common() has filled registers
    uint32_t numbers       # and those of numbers, which are the same in the next sweep
    double* v              # registers
    double* captured       # values of captured Variables
    Guard* guard           # [n_guards] the plan's, captured Variables as numbers in the common and early ones
    Rows rows, states      # at work; where the columns of states have them
    uint8_t ok[MOST_ROWS]  # after guard_rows(): which rows' comparisons have come out as recorded
    bint never             # a common one has not
    bint exact, check      # see _map_rows()

cdef class RowSweep:
    """Owner of a sweep and what it needs."""
    cdef RowPlan plan
    cdef Columns x, y, g, sums
    cdef double* own_sums
    cdef Sweep sweep

    cdef int take_sums(self, Columns g) except -1:
        """Get sums of its own, and columns for adjoints."""
        resize(<void**>&self.own_sums, self.plan.plan.fixed + 1, sizeof(double))
        memset(self.own_sums, 0, (self.plan.plan.fixed + 1) * sizeof(double))
        self.g = g
        self.sweep.g, self.sweep.sums = g.column, self.own_sums
        return 0

    cdef int add_sums(self) except -1:
        """Add its own sums to .grad of captured Variables."""
        cdef uint32_t k = self.plan.plan.n_inputs
        for v in self.plan.program.captured:
            add_to_grad(v, self.own_sums[k])
            k += 1
        return 0

    def __dealloc__(self):
        PyMem_RawFree(self.own_sums)
        if self.plan is not None and self.plan.spare == NULL:
            self.plan.spare = self.sweep.v
            self.plan.spare_block, self.plan.spare_numbers = self.sweep.block, self.sweep.numbers
        else:
            PyMem_RawFree(self.sweep.v)
        PyMem_RawFree(self.sweep.captured)
        PyMem_RawFree(self.sweep.guard)

cdef RowSweep row_sweep(RowPlan plan, Columns x, Columns y, Columns g, Columns sums, uint32_t n_states, size_t rows):
    """A sweep, with the present values of captured Variables. g and sums: None for none. rows: how many come at a time."""
    cdef RowSweep owner = RowSweep()
    cdef Sweep* s = &owner.sweep
    cdef Ready* p = &plan.plan
    cdef uint32_t k
    cdef size_t h
    cdef Guard* guard
    owner.x, owner.y, owner.g, owner.sums = x, y, g, sums
    s.plan, s.x, s.y = p, x.column, y.column
    s.g = NULL if g is None else g.column
    s.sums = NULL if sums is None else <double*>sums.column[0].at
    s.n_states = n_states
    s.block = <uint32_t>min(<size_t>p.block, (rows + 31) // 32 * 32)
    s.never = s.exact = s.check = False
    s.filled = s.numbers = 0
    resize(<void**>&s.guard, p.n_guards + 1, sizeof(Guard))
    resize(<void**>&s.captured, p.fixed - p.n_inputs + 1, sizeof(double))
    s.v, plan.spare = plan.spare, NULL
    owner.plan = plan
    if s.v == NULL:
        resize(<void**>&s.v, plan.size(), sizeof(double))
    elif s.block == plan.spare_block:
        s.numbers = plan.spare_numbers
    for k in range(p.fixed - p.n_inputs):
        s.captured[k] = tape.value[(<Variable>plan.program.captured[k]).number]
    memcpy(s.guard, p.guard, p.n_guards * sizeof(Guard))
    for h in range(p.n_early):
        guard = s.guard + h
        if guard.a != NO_NODE and guard.a >= p.n_inputs:
            guard.x = s.captured[guard.a - p.n_inputs]
            guard.a = NO_NODE
        if guard.b != NO_NODE and guard.b >= p.n_inputs:
            guard.y = s.captured[guard.b - p.n_inputs]
            guard.b = NO_NODE
        s.never |= h < p.n_common and holds_now(guard, guard.x, guard.y) != guard.outcome
    return owner

cdef void fill_common(Sweep* s, uint32_t n) noexcept nogil:
    """Fill the registers that have one number for all rows, for n of them."""
    cdef const Ready* p = s.plan
    cdef uint32_t k
    if s.numbers < n:
        for k in range(p.n_given, p.n_leaves):
            fill_block(register_at(s, k) + s.numbers, p.start[k], n - s.numbers)
        s.numbers = n
    for k in range(p.n_inputs):
        if s.x[k].at == NULL:
            fill_more(s, p.place[k], s.x[k].number, n)
    for k in range(p.n_inputs, p.fixed):
        fill_more(s, p.place[k], s.captured[k - p.n_inputs], n)
    for k in range(p.n_results):
        if p.seed[k] != NO_NODE:
            fill_more(s, p.seed[k], 1, n)
    if s.filled == 0:
        run_steps(s, 0, p.n_same, 1)
    for k in range(p.n_same):
        fill_more(s, p.step[k].y, register_at(s, p.step[k].y)[0], n)
    s.filled = n

cdef inline void fill_more(Sweep* s, uint32_t register, double x, uint32_t n) noexcept nogil:
    fill_block(register_at(s, register) + s.filled, x, n - s.filled)

cdef inline double* register_at(Sweep* s, uint32_t register) noexcept nogil:
    return s.v + <size_t>register * s.block

cdef inline bint comes_out(const Sweep* s, const Guard* guard, size_t row, size_t state) noexcept nogil:
    """How does an early comparison come out?"""
    return holds_now(guard, guard.x if guard.a == NO_NODE else number_at(s.x + guard.a, state if guard.a < s.n_states else row),
                     guard.y if guard.b == NO_NODE else number_at(s.x + guard.b, state if guard.b < s.n_states else row))

cdef inline bint fits(const Sweep* s, size_t row, size_t state) noexcept nogil:
    """Do the comparisons of a row's inputs come out as recorded?"""
    cdef size_t h
    for h in range(s.plan.n_common, s.plan.n_early):
        if comes_out(s, s.guard + h, row, state) != s.guard[h].outcome:
            return False
    return True

cdef inline void run_steps(Sweep* s, size_t first, size_t last, uint32_t n) noexcept nogil:
    kernels.run_rows(s.plan.step + first, last - first, s.v, s.plan.index, register_at(s, s.plan.n_values + 1), s.block, n, s.exact)

cdef inline const Rows* rows_in(const Sweep* s, uint32_t k) noexcept nogil:
    """Where the k-th column of inputs or results has the rows."""
    return &s.states if k < s.n_states else &s.rows

cdef void begin_block(Sweep* s, const size_t* row, const size_t* state, uint32_t n) noexcept nogil:
    """Fill registers for n rows that fit, at most s.block. state: their rows in the columns of states. The two are needed until the
    block is done."""
    cdef uint32_t k
    s.rows = rows_at(row, n)
    if s.n_states:
        s.states = rows_at(state, n)
    if s.filled < n:
        fill_common(s, n)
    for k in range(s.plan.n_inputs):
        if s.x[k].at != NULL:
            gather(register_at(s, s.plan.place[k]), s.x + k, rows_in(s, k))

cdef inline void results(Sweep* s, const size_t* row, const size_t* state, uint32_t n) noexcept nogil:
    """Begin a block and compute its results."""
    begin_block(s, row, state, n)
    run_steps(s, s.plan.n_same, s.plan.n_first, n)

cdef bint guard_rows(Sweep* s) noexcept nogil:
    """After results(): find out which rows are ok; are all?"""
    cdef const Guard* guard
    cdef const double* a
    cdef const double* b
    cdef size_t h
    cdef uint32_t i, n = s.rows.n
    cdef double y
    cdef bint all_ = True
    if s.plan.n_guards == s.plan.n_early:
        return True
    memset(s.ok, 1, n)
    for h in range(s.plan.n_early, s.plan.n_guards):
        guard = s.guard + h
        a = register_at(s, guard.a) if guard.a != NO_NODE else NULL
        b = register_at(s, guard.b) if guard.b != NO_NODE else NULL
        for i in range(n):
            y = guard.y if b == NULL else b[i]
            s.ok[i] &= holds_now(guard, guard.x if a == NULL else a[i], y) == guard.outcome
    for i in range(n):
        all_ &= s.ok[i]
    return all_

cdef uint32_t store(Sweep* s, bint all_) noexcept nogil:
    """Write the results of the rows that are ok. Returns the place of the first with a result that is not finite, if somebody
    checks; their number for none."""
    cdef double* y
    cdef uint32_t k, i, n = s.rows.n, good = n
    for k in range(s.plan.n_results):
        if s.plan.result[k] == NO_NODE:
            y = register_at(s, s.plan.n_values)
            fill_block(y, s.plan.number[k], n)
        else:
            y = register_at(s, s.plan.result[k])
        scatter(s.y + k, y, rows_in(s, k), NULL if all_ else s.ok)
        i = 0 if s.check else n
        while i < good:
            if not isfinite(y[i]) and (all_ or s.ok[i]):
                good = i
            i += 1
    return good

cdef void pull(Sweep* s, bint all_) noexcept nogil:
    """After results(): adjoints of the rows that are ok. The seeds of states are in g, where the next row's state stands."""
    cdef uint32_t k, i, at, n = s.rows.n
    cdef double* x
    cdef double* kept = register_at(s, s.plan.n_values)
    cdef Column next_
    for k in range(s.n_states):
        if s.plan.seed[k] != NO_NODE:
            next_ = s.g[k]
            next_.at += next_.stride
            gather(register_at(s, s.plan.seed[k]), &next_, &s.states)
    run_steps(s, s.plan.n_first, s.plan.n_steps, n)
    for k in range(s.plan.fixed):
        at = s.plan.adjoint[k]
        if at == NO_NODE:
            continue
        x = register_at(s, at)
        if k < s.plan.n_inputs and s.g[k].at != NULL:
            scatter(s.g + k, x, rows_in(s, k), NULL if all_ else s.ok)
        elif s.sums != NULL and (at >= s.plan.n_common_values or x[0] != 0):
            for i in range(0 if all_ else n):
                kept[i] = x[i] if s.ok[i] else 0
            s.sums[k] += kernels.sum(x if all_ else kept, n)

cdef inline bint is_due(size_t* done, size_t work) noexcept nogil:
    """Is it time to look at signals, after this work?"""
    done[0] += work
    if done[0] < 1 << 21:
        return False
    done[0] = 0
    return True

def _map_rows(Program p not None, bytes wanted, Columns x not None, Columns y not None, Columns g, Columns sums,
              bytearray status_ not None, size_t start, size_t stop, bint exact, bint check, bytearray halt not None):
    """Run the program on the rows from start to stop whose status is 0, and set that to 1 where all comparisons come out as
    recorded. x: a column or float for each input; y: a column for each result; with wanted (bytes, as make_schedule's) g: a column
    or None for each input's adjoint, and sums: doubles, to which the adjoints of inputs without a column and of captured Variables
    are added. exact: see run_rows(). check: end at the first row with a result that is not finite, and return its number; else the
    result is None. halt: another thread sets its byte to end the sweep."""
    cdef RowPlan plan = row_plan(p, wanted)
    cdef RowSweep owner
    cdef Sweep* s
    cdef unsigned char* status = <unsigned char*><char*>status_
    cdef volatile_char* halted = <volatile_char*><char*>halt
    cdef size_t row[MOST_ROWS]
    cdef size_t r = start, work = 0
    cdef uint32_t n = 0, i, good = 0
    cdef bint all_
    x.check(plan.plan.n_inputs, stop)
    y.check(plan.plan.n_results, stop)
    if stop > <size_t>len(status_) or start > stop:
        raise ValueError("rows: expected a status for each row")
    if wanted is not None:
        g.check(plan.plan.n_inputs, stop)
        if sums is not None:
            sums.check(1, plan.plan.fixed)
    owner = row_sweep(plan, x, y, g, sums, 0, stop - start)
    s = &owner.sweep
    s.exact, s.check = exact, check
    if s.never:
        return None
    with nogil:
        while r < stop and not halted[0]:
            n = 0
            while r < stop and n < s.block:
                if status[r] == 0 and fits(s, r, 0):
                    row[n] = r
                    n += 1
                r += 1
            if n == 0:
                break
            results(s, row, NULL, n)
            all_ = guard_rows(s)
            good = store(s, all_)
            if good < n:
                r = row[good]
                break
            if wanted is not None:
                pull(s, all_)
            for i in range(n):
                status[row[i]] = 1 if all_ else s.ok[i]
            if is_due(&work, n * s.plan.work):
                with gil:
                    PyErr_CheckSignals()
    return r if good < n else None


# -- sequences -----------------------------------------------------------------------------------------------------------------

cdef struct Launch:
    uint32_t program, n  # which one, on how many rows
    size_t kept          # where its registers begin in `kept`; SIZE_MAX: nowhere

cdef class Scan:
    """Scan(x, y, init, lengths, check)\n--\n\nRows in sequences, a row's first results being the next one's first inputs, its
    state. Columns of states have a row more for each sequence: before its first row the state that it begins with.

    A sequence waits for the program that fits its next row. The program that runs next is one for which many wait that have many
    rows left; it takes all of them, and then each waits for its next one. So sequences do not go in step, but many go at a time,
    and long ones do not stay alone at the end."""
    cdef Columns x, y
    cdef SweepList held     # forward()'s latest
    cdef uint32_t n_states
    cdef bint check
    cdef size_t n, rows
    cdef size_t* first      # [n] the first row of each sequence
    cdef size_t* length     # [n]
    cdef size_t* done       # [n] how many of its rows are
    cdef uint32_t* next_    # [n] what waits behind it for the same program; NO_NODE: none
    cdef uint32_t* left     # [n_left] those whose next row none of the first `known` programs fits
    cdef uint32_t n_left, known
    cdef uint32_t* order    # [rows] sequences, a launch's behind the last one's
    cdef Launch* launch     # [n_launches]
    cdef double* kept       # [n_kept] registers of launches
    cdef size_t n_order, n_launches, n_kept, kept_capacity

    def __cinit__(self, Columns x not None, Columns y not None, Columns init not None, list lengths not None, bint check):
        """x and y: for states the same columns, y's from their second row on. init: of each sequence the states it begins with."""
        cdef size_t k
        cdef uint32_t j, n_states = init.n
        self.x, self.y, self.n_states, self.check = x, y, n_states, check
        self.n = len(lengths)
        if self.n >= NO_NODE:
            raise ValueError("rows: too many sequences")
        resize(<void**>&self.first, self.n + 1, sizeof(size_t))
        resize(<void**>&self.length, self.n + 1, sizeof(size_t))
        resize(<void**>&self.done, self.n + 1, sizeof(size_t))
        resize(<void**>&self.next_, self.n + 1, sizeof(uint32_t))
        resize(<void**>&self.left, self.n + 1, sizeof(uint32_t))
        for k in range(self.n):
            self.first[k] = self.rows
            self.length[k] = lengths[k]
            self.done[k] = 0
            self.rows += self.length[k]
            if self.length[k]:
                self.left[self.n_left] = <uint32_t>k
                self.n_left += 1
        resize(<void**>&self.order, self.rows + 1, sizeof(uint32_t))
        resize(<void**>&self.launch, self.rows + 1, sizeof(Launch))
        x.check(x.n, self.rows, n_states, self.n)
        y.check(y.n, self.rows, n_states, self.n - 1)
        init.check(n_states, self.n)
        for j in range(n_states):
            for k in range(self.n):
                self.state_at(j, self.first[k] + k)[0] = number_at(init.column + j, k)

    def __dealloc__(self):
        PyMem_RawFree(self.first)
        PyMem_RawFree(self.length)
        PyMem_RawFree(self.done)
        PyMem_RawFree(self.next_)
        PyMem_RawFree(self.left)
        PyMem_RawFree(self.order)
        PyMem_RawFree(self.launch)
        PyMem_RawFree(self.kept)

    cdef inline double* state_at(self, uint32_t j, size_t row) noexcept nogil:
        """Entry `row` of a state's column."""
        return <double*>(self.y.column[j].at + (<Py_ssize_t>row - 1) * self.y.column[j].stride)

    def last(self, Columns to not None):
        """After forward(): the states that sequences have ended with."""
        cdef size_t k
        cdef uint32_t j
        to.check(self.n_states, self.n)
        for j in range(self.n_states):
            for k in range(self.n):
                (<double*>(to.column[j].at + <Py_ssize_t>k * to.column[j].stride))[0] = \
                    self.state_at(j, self.first[k] + k + self.length[k])[0]

    def numbers(self, uint32_t sequence):
        """The inputs of that sequence's next row."""
        cdef size_t row = self.first[sequence] + self.done[sequence]
        cdef int k
        return [number_at(self.x.column + k, row + (sequence if k < <int>self.n_states else 0)) for k in range(self.x.n)]

    def row(self, uint32_t sequence):
        """The number of that sequence's next row."""
        return self.first[sequence] + self.done[sequence]

    cdef void wait(self, SweepList sweeps, uint32_t sequence, uint32_t k) noexcept nogil:
        """Let a sequence wait for its program, the first from k on that fits."""
        cdef Queue* queue
        cdef double rest = <double>(self.length[sequence] - self.done[sequence])
        cdef size_t row = self.first[sequence] + self.done[sequence]
        if rest == 0:
            return
        k = sweeps.which(row, row + sequence, k)
        if k == NO_NODE:
            self.left[self.n_left] = sequence
            self.n_left += 1
            return
        queue = sweeps.queue + k
        self.next_[sequence] = NO_NODE
        if queue.weight == 0:
            queue.first = sequence
        else:
            self.next_[queue.last] = sequence
        queue.last = sequence
        queue.weight += rest * rest

    cdef uint32_t run(self, SweepList sweeps, uint32_t program, const uint32_t* sequence, uint32_t n) noexcept nogil:
        """Run a program on the next rows of n sequences, and let them wait for their next ones. Returns the place of the first with
        a result that is not finite, if somebody checks; n for none."""
        cdef Sweep* s = sweeps.item[program]
        cdef size_t row[MOST_ROWS]
        cdef size_t state[MOST_ROWS]
        cdef uint32_t i, good, n_ok
        cdef size_t before = self.n_order
        cdef bint all_
        row[0] = state[0] = 0
        for i in range(n):
            row[i] = self.first[sequence[i]] + self.done[sequence[i]]
            state[i] = row[i] + sequence[i]
        results(s, row, state, n)
        all_ = guard_rows(s)
        good = store(s, all_)
        if good < n:
            return good
        for i in range(n):
            if all_ or s.ok[i]:
                self.order[self.n_order] = sequence[i]
                self.n_order += 1
                self.done[sequence[i]] += 1
                self.wait(sweeps, sequence[i], 0)
            else:
                self.wait(sweeps, sequence[i], program + 1)
        n_ok = <uint32_t>(self.n_order - before)
        if n_ok:
            self.note_launch(s, program, n_ok, all_)
        return n

    cdef void note_launch(self, Sweep* s, uint32_t program, uint32_t n, bint all_) noexcept nogil:
        """Write down that the program has computed n rows; keep their registers, if they are all in these and there is room."""
        cdef Launch* launch = self.launch + self.n_launches
        cdef size_t size = <size_t>s.plan.n_made * n, capacity
        cdef uint32_t k
        cdef void* moved
        self.n_launches += 1
        launch.program, launch.n, launch.kept = program, n, <size_t>-1
        if s.plan.adjoint == NULL or not all_ or self.n_kept + size > MOST_KEPT:
            return
        if self.n_kept + size > self.kept_capacity:
            capacity = 2 * (self.n_kept + size)
            moved = PyMem_RawRealloc(self.kept, capacity * sizeof(double))
            if moved == NULL:
                return
            self.kept, self.kept_capacity = <double*>moved, capacity
        launch.kept = self.n_kept
        for k in range(s.plan.n_made):
            memcpy(self.kept + self.n_kept, register_at(s, s.plan.made[k]), n * sizeof(double))
            self.n_kept += n

    cdef void bring_back(self, Sweep* s, const Launch* launch) noexcept nogil:
        """Fill the registers with what note_launch() has kept."""
        cdef uint32_t k
        cdef const double* x = self.kept + launch.kept
        for k in range(s.plan.n_made):
            memcpy(register_at(s, s.plan.made[k]), x, launch.n * sizeof(double))
            x += launch.n

    cdef SweepList sweeps(self, list programs, list wanted):
        """Of each program."""
        cdef SweepList found = SweepList([row_sweep(row_plan(p, asked), self.x, self.y, None, None, self.n_states, self.n)
                                          for p, asked in zip(programs, wanted)])
        cdef uint32_t k
        for k in range(found.n):
            found.item[k].check = self.check
            self.x.check(found.item[k].plan.n_inputs, 0)
            self.y.check(found.item[k].plan.n_results, 0)
        return found

    def forward(self, list programs not None, list wanted not None):
        """Run the programs, of which the first ones are those of the last call, on the rows that are left. wanted: what back() will
        be given, or None for each. Returns (sequence, True) where no program fits the next row of that one, (sequence, False) where
        it has a result that is not finite, if somebody checks, and None when all rows are done."""
        cdef SweepList sweeps = self.sweeps(programs, wanted)
        cdef uint32_t chosen[MOST_ROWS]
        cdef uint32_t k, best, n, waiting, sequence, good = 0, count = self.n_left
        cdef size_t work = 0
        self.held = sweeps
        self.n_left = 0
        n = 0
        for k in range(count):  # what waits again goes to the front of the same list
            self.wait(sweeps, self.left[k], self.known)
        self.known = sweeps.n
        with nogil:
            while sweeps.n and good == n:
                best = 0
                for k in range(sweeps.n):
                    if sweeps.queue[k].weight > sweeps.queue[best].weight:
                        best = k
                if sweeps.queue[best].weight == 0:
                    break
                waiting = sweeps.queue[best].first
                sweeps.queue[best].weight = 0
                while waiting != NO_NODE and good == n:
                    n = 0
                    while waiting != NO_NODE and n < sweeps.item[best].block:
                        chosen[n] = waiting
                        n += 1
                        waiting = self.next_[waiting]
                    good = self.run(sweeps, best, chosen, n)
                    if is_due(&work, n * sweeps.item[best].plan.work):
                        with gil:
                            PyErr_CheckSignals()
        return (chosen[good], False) if good < n else (self.left[0], True) if self.n_left else None

    def exactly(self, list programs not None, list wanted not None, uint32_t k):
        """After forward() has found no program for a row: run number k with libm's functions (see run_rows()) on it. 1: it fits;
        0: it does not; -1: it does, and the result is not finite, if somebody checks."""
        cdef SweepList sweeps = self.sweeps(programs, wanted)
        cdef Sweep* s = sweeps.item[k]
        cdef uint32_t sequence = self.left[0]
        cdef size_t row = self.first[sequence] + self.done[sequence], state = row + sequence
        s.exact = True
        if s.never or not fits(s, row, state):
            return 0
        results(s, &row, &state, 1)
        if not guard_rows(s):
            return 0
        if store(s, True) < 1:
            return -1
        self.order[self.n_order] = sequence
        self.n_order += 1
        self.note_launch(s, k, 1, True)
        self.done[sequence] += 1
        if self.done[sequence] == self.length[sequence]:
            self.n_left -= 1
            memmove(self.left, self.left + 1, self.n_left * sizeof(uint32_t))
        self.known = 0  # its next row is to be looked at from the first program on
        return 1

    def uses(self, uint32_t programs):
        """How many rows each program has computed, as a list."""
        cdef list found = [0] * programs
        cdef size_t k
        for k in range(self.n_launches):
            found[self.launch[k].program] += self.launch[k].n
        return found

    def back(self, Columns g not None):
        """After forward(): adjoints, the last launch's first; those of captured Variables are added to .grad in the end. In g's
        columns of states stand those of the last states; all others are filled in."""
        cdef SweepList sweeps = self.held
        cdef RowSweep owner
        cdef size_t row[MOST_ROWS]
        cdef size_t state[MOST_ROWS]
        cdef size_t work = 0
        cdef uint32_t i, sequence
        cdef Launch* launch
        cdef Sweep* s
        g.check(self.x.n, 0, self.n_states, self.rows + self.n)
        for owner in sweeps.owners:
            if owner.plan.plan.adjoint == NULL:
                raise ValueError("rows: expected forward() to know what is wanted")
            owner.take_sums(g)
        with nogil:
            while self.n_launches:
                self.n_launches -= 1
                launch = self.launch + self.n_launches
                s = sweeps.item[launch.program]
                self.n_order -= launch.n
                for i in range(launch.n):
                    sequence = self.order[self.n_order + i]
                    self.done[sequence] -= 1
                    row[i] = self.first[sequence] + self.done[sequence]
                    state[i] = row[i] + sequence
                begin_block(s, row, state, launch.n)
                if launch.kept == <size_t>-1:
                    run_steps(s, s.plan.n_same, s.plan.n_first, launch.n)
                else:
                    self.bring_back(s, launch)
                pull(s, True)
                if is_due(&work, launch.n * s.plan.work):
                    with gil:
                        PyErr_CheckSignals()
        for owner in sweeps.owners:
            owner.add_sums()

cdef struct Queue:  # of sequences that wait for a program
    uint32_t first, last
    double weight  # sum of the squares of how many rows each still has; 0: none waits

cdef class SweepList:
    """Sweeps of programs, of which the first that fits is to be found for a row: comparisons of inputs that several programs have
    are made once."""
    cdef list owners
    cdef Sweep** item     # [n]
    cdef Queue* queue     # [n]
    cdef Guard* guard     # [n_guards] different ones, 64 at most
    cdef uint64_t* asked  # [n] which of them a program has, as bits
    cdef uint64_t* come   # [n] and how they must come out
    cdef uint32_t n, n_guards

    def __cinit__(self, list owners not None):
        cdef Guard* guard
        cdef size_t h
        cdef uint32_t i
        self.owners = owners
        resize(<void**>&self.item, len(owners) + 1, sizeof(Sweep*))
        resize(<void**>&self.queue, len(owners) + 1, sizeof(Queue))
        resize(<void**>&self.asked, len(owners) + 1, sizeof(uint64_t))
        resize(<void**>&self.come, len(owners) + 1, sizeof(uint64_t))
        resize(<void**>&self.guard, 64, sizeof(Guard))
        for owner in owners:
            self.item[self.n] = &(<RowSweep>owner).sweep
            memset(self.queue + self.n, 0, sizeof(Queue))
            self.asked[self.n] = self.come[self.n] = 0
            for h in range(self.item[self.n].plan.n_common, self.item[self.n].plan.n_early):
                guard = self.item[self.n].guard + h
                i = self.guard_number(guard)
                if i < 64:
                    self.asked[self.n] |= <uint64_t>1 << i
                    self.come[self.n] |= <uint64_t>guard.outcome << i
            self.n += 1

    cdef uint32_t guard_number(self, const Guard* guard) noexcept:
        cdef uint32_t i
        cdef Guard* other
        for i in range(self.n_guards):
            other = self.guard + i
            if other.op == guard.op and other.a == guard.a and other.b == guard.b and other.x == guard.x and other.y == guard.y:
                return i
        if self.n_guards == 64:
            return 64
        self.guard[self.n_guards] = guard[0]
        self.n_guards += 1
        return self.n_guards - 1

    cdef uint32_t which(self, size_t row, size_t state, uint32_t k) noexcept nogil:
        """The first program from k on that fits a row; NO_NODE: none."""
        cdef uint64_t bits = 0
        cdef uint32_t i
        if self.n == 0:
            return NO_NODE
        for i in range(self.n_guards):
            bits |= <uint64_t>comes_out(self.item[0], self.guard + i, row, state) << i
        while k < self.n:
            if bits & self.asked[k] == self.come[k] and not self.item[k].never \
                    and (self.n_guards < 64 or fits(self.item[k], row, state)):
                return k
            k += 1
        return NO_NODE

    def __dealloc__(self):
        PyMem_RawFree(self.item)
        PyMem_RawFree(self.queue)
        PyMem_RawFree(self.guard)
        PyMem_RawFree(self.asked)
        PyMem_RawFree(self.come)


# -- sums ----------------------------------------------------------------------------------------------------------------------

def _add_sums(Columns total not None, Columns part not None):
    """Add a task's sums to those of the tasks before it."""
    total.check(1, part.view[0].shape[0])
    kernels.axpy(<double*>total.column[0].at, 1, <double*>part.column[0].at, part.view[0].shape[0])

def _add_to_grads(variables, Columns sums not None, size_t start):
    """Add sums[0][start], sums[0][start + 1], ... to .grad of those Variables that require one; others are passed over."""
    cdef size_t k = start
    sums.check(1, start + len(variables))
    for v in variables:
        if is_variable(<PyObject*>v):
            add_to_grad(v, number_at(sums.column, k))
        k += 1

cdef inline int add_to_grad(Variable v, double x) except -1:
    if tape.row[v.number].flags & ROW_REQUIRES:
        if has_graph_grads():
            forget_graph_grads(v.number, 1)
        tape.grad[v.number] += x
    return 0

def _row_wanted(Program p not None, list inputs not None, bint sums):
    """What _map_rows takes as wanted: for which inputs, given as booleans; with sums, what captured Variables require."""
    cdef list found = inputs.copy()
    for v in p.captured:
        found.append(sums and tape.row[(<Variable>v).number].flags & ROW_REQUIRES != 0)
    for slot in p.outputs:
        if type(slot) is int:
            found.append(True)
    return bytes(found)


# -- one row -------------------------------------------------------------------------------------------------------------------

def _values_of(Program p not None, list numbers not None):
    """The value of each slot for these inputs, by the eager ops; the captured Variables have their present values."""
    cdef list found = numbers + [tape.value[(<Variable>v).number] for v in p.captured]
    cdef row_t* row
    cdef uint32_t i, j, count
    cdef double* x = NULL
    cdef double y
    if len(numbers) != <Py_ssize_t>p.n_inputs:
        raise ValueError(f"rows: expected {p.n_inputs} inputs, got {len(numbers)}")
    try:
        for i in range(<uint32_t>len(found), p.n):
            row = p.row + i
            count = operand_count(row)
            resize(<void**>&x, count + (p.row[row.b].c if row.op == OP_SOFTMAX else 0) + 1, sizeof(double))
            for j in range(count):
                x[j] = found[p.operand(row, j)]
            if row.op == OP_LEAF:
                y = p.value[i]
            elif op_shape[row.op] == SHAPE_A:
                y = op_value1(row.op, x[0], row.constant)
            elif row.op == OP_SOFTMAX:
                for j in range(p.row[row.b].c):
                    x[2 + j] = found[p.side[p.row[row.b].a + j]]
                y = value_softmax(x[0], k_max(x + 2, p.row[row.b].c), x[1])
            elif op_shape[row.op] == SHAPE_AB:
                y = op_value2(row.op, x[0], x[1])
            elif op_shape[row.op] == SHAPE_RANGE:
                y = op_value_n(row.op, x, row.c, row.b)
            else:
                y = kernels.dot(x, x + row.c, row.c)
                if op_shape[row.op] == SHAPE_AFFINE and op_bias(row.op):
                    y = x[2 * row.c] + y
            found.append(y)
    finally:
        PyMem_RawFree(x)
    return found
