# rows.pxi: a program (program.pxi) run on many rows of numbers at once. Threads, groups and results are in mingrad/rows.py.
#
# A block of rows goes through each step together, a register holding one number for each row. Rows whose comparisons come out
# otherwise than recorded are left for another program. The GIL is not held meanwhile.

cdef struct Guard:
    int op
    uint32_t a, b    # registers; NO_NODE: a number
    double x, y
    bint outcome

cdef Schedule row_schedule(Program p, bytes wanted):
    if p.rows_ is None:
        p.rows_ = {}
    found = p.rows_.get(wanted)
    if found is None:
        found = p.rows_[wanted] = make_schedule(p, wanted, True)
    return found

cdef class Columns:
    """Buffers of doubles, one number a row; any stride."""
    cdef Py_buffer* view
    cdef int n

    def __cinit__(self, list columns not None, bint writable):
        cdef int flags = PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0)
        resize(<void**>&self.view, len(columns) + 1, sizeof(Py_buffer))
        for x in columns:
            if isinstance(x, float) or x is None:  # one number for all rows; nothing
                memset(self.view + self.n, 0, sizeof(Py_buffer))
                self.n += 1
                continue
            PyObject_GetBuffer(x, self.view + self.n, flags)
            self.n += 1
            if self.view[self.n - 1].ndim != 1 or self.view[self.n - 1].itemsize != 8 or self.view[self.n - 1].format[0] != 100:  # 'd'
                raise TypeError("rows: expected columns of float64")

    def __dealloc__(self):
        cdef int k
        for k in range(self.n):
            if self.view[k].buf != NULL:
                PyBuffer_Release(self.view + k)
        PyMem_RawFree(self.view)

    cdef inline double* at(self, int k, size_t row) noexcept nogil:
        return <double*>(<char*>self.view[k].buf + <Py_ssize_t>row * self.view[k].strides[0])

    cdef inline bint has(self, int k) noexcept nogil:
        return self.view[k].buf != NULL

    cdef int check(self, size_t rows) except -1:
        cdef int k
        for k in range(self.n):
            if self.has(k) and <size_t>self.view[k].shape[0] < rows:
                raise ValueError(f"rows: expected columns of at least {rows} numbers, got {self.view[k].shape[0]}")
        return 0

def _map_rows(Program p not None, wanted, list inputs not None, list outputs not None, list gradients not None, sums,
              bytearray status_ not None, size_t start, size_t stop, bint exact):
    """Run the program on the rows from start to stop whose status is 0, and set that to 1 where all comparisons come out as
    recorded. inputs: floats and columns of float64; outputs: a column for each result that is no number; with wanted (bytes,
    as make_schedule's) gradients: a column or None for each input's adjoint, and sums: doubles to which the adjoints of inputs and
    captured Variables are added in the order of rows. exact: see run_rows()."""
    cdef Schedule schedule = row_schedule(p, wanted)
    cdef uint32_t fixed = p.n_inputs + <uint32_t>len(p.captured), k, i, n, block, at
    cdef Columns x = Columns(inputs, False), y = Columns(outputs, True), g = Columns(gradients, True)
    cdef Columns total = Columns([sums], True)
    cdef unsigned char* status = <unsigned char*><char*>status_
    cdef bint adjoints = wanted is not None
    cdef double* v = NULL
    cdef Guard* guard = NULL
    cdef uint32_t* slot = NULL
    cdef size_t* row = NULL
    cdef uint8_t* ok = NULL
    cdef size_t r = start, n_guards = len(p.guards), h
    cdef double a, b
    cdef uint32_t n_outputs = 0
    if <uint32_t>x.n != p.n_inputs or stop > <size_t>len(status_):
        raise ValueError(f"rows: expected {p.n_inputs} inputs and a status for each row")
    x.check(stop)
    y.check(stop)
    g.check(stop)
    total.check(fixed)
    block = min(256, max(16, (16384 // max(schedule.n_values, 1)) // 8 * 8))
    try:
        resize(<void**>&v, (<size_t>schedule.n_values + 1) * block + 4 * schedule.room + 8, sizeof(double))
        resize(<void**>&guard, n_guards + 1, sizeof(Guard))
        resize(<void**>&slot, len(p.outputs) + 1, sizeof(uint32_t))
        resize(<void**>&row, block, sizeof(size_t))
        resize(<void**>&ok, block, 1)
        for h, (op, left, right, outcome) in enumerate(p.guards):
            guard[h].op = op
            guard[h].a = schedule.place[<uint32_t>left] if type(left) is int else NO_NODE
            guard[h].x = 0 if type(left) is int else left
            guard[h].b = schedule.place[<uint32_t>right] if type(right) is int else NO_NODE
            guard[h].y = 0 if type(right) is int or right is None else right
            guard[h].outcome = outcome
        for s in p.outputs:
            if type(s) is not float:
                slot[n_outputs] = schedule.place[<uint32_t>s]
                n_outputs += 1
        if n_outputs != <uint32_t>y.n or adjoints and <uint32_t>g.n != p.n_inputs:
            raise ValueError(f"rows: expected {n_outputs} columns for results and {p.n_inputs} for gradients")
        for k in range(schedule.n_fixed):
            fill_block(v + <size_t>k * block, schedule.start[k], block)
        for k in range(p.n_inputs):
            if not x.has(k):
                fill_block(v + <size_t>schedule.place[k] * block, inputs[k], block)
        for k in range(p.n_inputs, fixed):
            fill_block(v + <size_t>schedule.place[k] * block, tape.value[(<Variable>p.captured[k - p.n_inputs]).number], block)
        for k in range(n_outputs if adjoints else 0):
            fill_block(v + <size_t>schedule.seed[k] * block, 1, block)
        with nogil:
            while r < stop:
                n = 0
                while r < stop and n < block:
                    if status[r] == 0:
                        row[n] = r
                        n += 1
                    r += 1
                if n == 0:
                    break
                for k in range(p.n_inputs):
                    if x.has(k):
                        for i in range(n):
                            v[<size_t>schedule.place[k] * block + i] = x.at(k, row[i])[0]
                kernels.run_rows(schedule.step, schedule.n_results, v, schedule.index, v + (<size_t>schedule.n_values + 1) * block,
                                 block, n, exact)
                for i in range(n):
                    ok[i] = 1
                for h in range(n_guards):
                    for i in range(n):
                        a = guard[h].x if guard[h].a == NO_NODE else v[<size_t>guard[h].a * block + i]
                        b = guard[h].y if guard[h].b == NO_NODE else v[<size_t>guard[h].b * block + i]
                        ok[i] &= compares(guard[h].op, a, b) == guard[h].outcome
                for k in range(n_outputs):
                    for i in range(n):
                        if ok[i]:
                            y.at(k, row[i])[0] = v[<size_t>slot[k] * block + i]
                if adjoints:
                    kernels.run_rows(schedule.step + schedule.n_results, schedule.n_steps - schedule.n_results, v, schedule.index,
                                     v + (<size_t>schedule.n_values + 1) * block, block, n, exact)
                    for k in range(fixed):
                        at = schedule.adjoint[k]
                        if at == NO_NODE:
                            continue
                        if k < p.n_inputs and g.has(k):
                            for i in range(n):
                                if ok[i]:
                                    g.at(k, row[i])[0] = v[<size_t>at * block + i]
                        if total.has(0):
                            for i in range(n):
                                if ok[i]:
                                    total.at(0, k)[0] += v[<size_t>at * block + i]
                for i in range(n):
                    status[row[i]] = ok[i]
    finally:
        PyMem_RawFree(v)
        PyMem_RawFree(guard)
        PyMem_RawFree(slot)
        PyMem_RawFree(row)
        PyMem_RawFree(ok)

cdef void fill_block(double* to, double x, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        to[i] = x
