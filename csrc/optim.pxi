# optim.pxi: what an optimiser does to its parameters: steps over their runs on the tape, with the vectors it keeps of
# them, and the clipping of gradients. What a setting means and what each optimiser computes is said in mingrad/optim.py;
# the arithmetic is in kernels_body.h. Read write_leaf() in tape.pxi first.
#
# A step takes all its memory first; the functions without `except`, which change things, come after that.

cimport cython
from libc.math cimport fabs, pow as c_pow, sqrt as c_sqrt

cdef enum:
    VECTORS = 3        # that an optimiser keeps of a group, at most
    SETTINGS_COUNT = 8  # of a step, at most

    # for Group.read() and write(), beside 0, 1, 2 for a vector
    STEPS = -1
    VALUES = -2
    GRADS = -3

    # where a step finds its settings
    LR = 0
    DECAY = 1          # times the value, is added to the gradient
    MAXIMIZE = 2
    MOMENTUM = 3       # SGD's
    DAMPENING = 4
    NESTEROV = 5
    BETA1 = 3          # Adam's
    BETA2 = 4
    ADAM_EPS = 5
    AMSGRAD = 6
    SHRINK = 7         # AdamW's decay: values are multiplied by 1 - lr * it
    ALPHA = 3          # RMSprop's
    RMSPROP_EPS = 4
    RMSPROP_MOMENTUM = 5
    CENTERED = 6

@cython.no_gc_clear  # methods need variables until the end; a cycle is broken elsewhere, in a subclass's __dict__
cdef class Group:
    """Group(variables)\n--\n\nOne parameter group of an optimiser, a tuple of leaves without repetition.

    The collector keeps the order of nodes, and no node gets between two neighbours, so parameters that follow each other
    on the tape do so for good. A run are such parameters that have made the same number of steps and that all ask for a
    gradient or all do not; runs are made again when someone's requires_grad has changed.
    """
    cdef readonly tuple variables
    cdef readonly int kept              # bit k: vector k is in use
    cdef readonly uint32_t runs
    cdef uint32_t* run                  # [runs + 1] where each run starts, in tape order; behind the last: count
    cdef uint32_t* place                # [count] in tape order: where in variables this parameter is
    cdef uint32_t count
    cdef double* steps                  # [count] steps made, in tape order; of a run only the first is up to date
    cdef double* vector[VECTORS]        # [count] in tape order; NULL until used
    cdef double setting[SETTINGS_COUNT]  # of the step that is being made
    cdef uint64_t seen                  # value of `structure` when the runs were made

    def __cinit__(self, tuple variables not None):
        cdef uint32_t count = <uint32_t>len(variables)
        for v in variables:
            if not is_variable(<PyObject*>v) or tape.row[NUMBER(<PyObject*>v)].op != OP_LEAF:
                raise TypeError(f"Group: expected leaf Variables, got {v!r}")
        resize(<void**>&self.place, count, sizeof(uint32_t))
        resize(<void**>&self.steps, count, sizeof(double))
        order_places(variables, self.place)
        resize(<void**>&self.run, count + 1, sizeof(uint32_t))
        memset(self.steps, 0, count * sizeof(double))
        self.variables = variables
        self.count = count
        cut_runs(self)

    def __dealloc__(self):
        cdef int k
        PyMem_RawFree(self.place)
        PyMem_RawFree(self.run)
        PyMem_RawFree(self.steps)
        for k in range(VECTORS):
            PyMem_RawFree(self.vector[k])

    def zero_grad(self):
        """Set every parameter's grad to 0."""
        cdef uint32_t r
        for r in range(self.runs):
            forget_graph_grads(run_node(self, r), run_count(self, r))
            memset(tape.grad + run_node(self, r), 0, run_count(self, r) * sizeof(double))

    def reserve(self, int vectors):
        """Take the memory for the vectors of these bits, so that writing them cannot fail."""
        reserve_vectors(self, vectors)

    def forget(self):
        """No vector is in use any more; a step that needs one starts it from 0."""
        self.kept = 0

    def read(self, int what, into):
        """Fill a buffer of doubles, in the order of variables: vector 0, 1 or 2, steps made (-1), values (-2), or
        gradients (-3; 0 for a parameter that asks for none)."""
        cdef Py_buffer view
        cdef double* out
        cdef uint32_t r, j, i
        refuse_optimizer()
        check_what(what)
        out = doubles(into, &view, self.count, PyBUF_WRITABLE)
        if what < 0 or self.kept >> what & 1:
            for r in range(self.runs):
                i = run_node(self, r) - self.run[r]
                for j in range(self.run[r], self.run[r + 1]):
                    if what == STEPS:
                        out[self.place[j]] = self.steps[self.run[r]]
                    elif what == VALUES:
                        out[self.place[j]] = tape.value[i + j]
                    elif what == GRADS:
                        out[self.place[j]] = tape.grad[i + j] if tape.row[i + j].flags & ROW_REQUIRES else 0
                    else:
                        out[self.place[j]] = self.vector[what][j]
        PyBuffer_Release(&view)

    def write(self, int what, source):
        """The reverse of read(). What asks for no gradient keeps its value and gradient."""
        cdef Py_buffer view
        cdef double* x
        cdef uint32_t r, j, i
        refuse_optimizer()
        check_what(what)
        if what >= 0:
            reserve_vectors(self, 1 << what)
        elif what == VALUES:
            reserve_writes(self.count)
        x = doubles(source, &view, self.count, 0)
        if what != STEPS:
            renew_runs(self)
        for r in range(self.runs):
            i = run_node(self, r) - self.run[r]
            if what < STEPS and not tape.row[i + self.run[r]].flags & ROW_REQUIRES:
                continue
            for j in range(self.run[r], self.run[r + 1]):
                if what == STEPS:
                    self.steps[j] = x[self.place[j]]
                elif what == VALUES:
                    tape.value[i + j] = x[self.place[j]]
                elif what == GRADS:
                    tape.grad[i + j] = x[self.place[j]]
                else:
                    self.vector[what][j] = x[self.place[j]]
            if what == VALUES:
                stamp(i + self.run[r], run_count(self, r))
        if what == STEPS:
            cut_runs(self)
        elif what >= 0:
            self.kept |= 1 << what
        PyBuffer_Release(&view)

cdef int reserve_vectors(Group self, int vectors) except -1:
    cdef int k
    for k in range(VECTORS):
        if vectors >> k & 1 and self.vector[k] == NULL:
            resize(<void**>&self.vector[k], self.count, sizeof(double))
    return 0

cdef int refuse_optimizer() except -1:
    """Raise where a function is recorded."""
    if is_recording():
        refuse_while_recording("gradients were read or written", "call optimisers outside, and clip gradients there")
    return 0

cdef int check_what(int what) except -1:
    if not GRADS <= what < VECTORS:
        raise ValueError(f"expected what from {<int>GRADS} to {VECTORS - 1}, got {what}")
    return 0

cdef double* doubles(object x, Py_buffer* view, size_t count, int flags) except NULL:
    """The elements of a contiguous buffer of count doubles. The caller releases the view."""
    PyObject_GetBuffer(x, view, PyBUF_ND | PyBUF_FORMAT | flags)
    if view.format == NULL or view.format[0] != c"d" or view.len != <Py_ssize_t>(count * sizeof(double)):
        PyBuffer_Release(view)
        raise ValueError(f"expected a buffer of {count} doubles, got {x!r}")
    return <double*>view.buf


# -- runs ----------------------------------------------------------------------------------------------------------------------

cdef inline uint32_t node_at(Group self, uint32_t j) noexcept:
    """The node of the parameter at place j of the tape order."""
    return NUMBER(PyTuple_GET_ITEM(<PyObject*>self.variables, self.place[j]))

cdef inline uint32_t run_node(Group self, uint32_t r) noexcept:
    return node_at(self, self.run[r])

cdef inline uint32_t run_count(Group self, uint32_t r) noexcept:
    return self.run[r + 1] - self.run[r]

cdef int order_places(tuple variables, uint32_t* place) except -1:
    """Fill place with the indices of variables in the order of their nodes."""
    cdef uint32_t k, count = <uint32_t>len(variables)
    cdef bint ordered = True
    for k in range(count):  # all at once: lists take memory, which may start any code, which may move nodes
        place[k] = NUMBER(PyTuple_GET_ITEM(<PyObject*>variables, k))
        ordered = ordered and (k == 0 or place[k] > place[k - 1])
    if not ordered:
        nodes = [place[k] for k in range(count)]
        for k, index in enumerate(sorted(range(count), key=nodes.__getitem__)):
            place[k] = index
        return 0
    for k in range(count):
        place[k] = k
    return 0

cdef void cut_runs(Group self) noexcept:
    """Make the runs, for steps that are up to date everywhere."""
    cdef uint32_t j, node, before = 0
    self.runs = 0
    for j in range(self.count):
        node = node_at(self, j)
        if j == 0 or node != before + 1 or self.steps[j] != self.steps[j - 1] \
                or (tape.row[node].flags ^ tape.row[before].flags) & ROW_REQUIRES:
            self.run[self.runs] = j
            self.runs += 1
        before = node
    self.run[self.runs] = self.count
    self.seen = structure

cdef void renew_runs(Group self) noexcept:
    """Make the runs again if someone's requires_grad may have changed."""
    cdef uint32_t r, j
    if self.seen == structure:
        return
    for r in range(self.runs):
        for j in range(self.run[r], self.run[r + 1]):
            self.steps[j] = self.steps[self.run[r]]
    cut_runs(self)

cdef void stamp(uint32_t first, uint32_t count) noexcept:
    """What write_leaf() notes, for consecutive leaves. The caller has been through reserve_writes()."""
    cdef row_t* row = tape.row + first
    cdef uint32_t k, n = tape.n, old = 0
    if first < tape.young_start:
        old = min(count, tape.young_start - first)
    for k in range(count):
        row[k].a = n
        if k < old and not row[k].flags & ROW_WRITTEN:
            row[k].flags |= ROW_WRITTEN
            tape.written[tape.n_written] = first + k
            tape.n_written += 1
    tape.last_write = n
    tape.writes += 1


# -- steps ---------------------------------------------------------------------------------------------------------------------

cdef int take_settings(Group self, tuple settings) except -1:
    cdef Py_ssize_t k
    if len(settings) > SETTINGS_COUNT:
        raise ValueError(f"expected at most {<int>SETTINGS_COUNT} settings, got {len(settings)}")
    for k in range(len(settings)):
        self.setting[k] = settings[k]
    return 0

cdef int make_step(list groups, list settings, void (*step)(Group) noexcept, int (*vectors)(double*) noexcept) except -1:
    """One step of all groups, with these settings for each. Whatever it raises, nothing has changed."""
    cdef size_t count = 0
    cdef Group group
    refuse_optimizer()
    for group, chosen in zip(groups, settings):
        take_settings(group, chosen)
        reserve_vectors(group, vectors(group.setting))
        reserve_scratch(group.count)
        count += group.count
    reserve_writes(count)
    for group in groups:
        renew_runs(group)
        start_vectors(group, vectors(group.setting))
        step(group)
    return 0

cdef void start_vectors(Group self, int needed) noexcept:
    cdef int k
    for k in range(VECTORS):
        if needed >> k & 1 and not self.kept >> k & 1:
            memset(self.vector[k], 0, self.count * sizeof(double))
    self.kept |= needed

cdef double* descent(Group self, uint32_t i, uint32_t count) noexcept:
    """The gradients to go against, of the leaves from i on: as they are, or in scratch."""
    cdef double sign = -1 if self.setting[MAXIMIZE] else 1
    if sign == 1 and self.setting[DECAY] == 0:
        return tape.grad + i
    kernels.combine(tape.scratch, sign, tape.grad + i, self.setting[DECAY], tape.value + i, count)
    return tape.scratch

cdef inline bint is_frozen(uint32_t i) noexcept:
    return not tape.row[i].flags & ROW_REQUIRES

cdef int sgd_vectors(double* s) noexcept:
    return s[MOMENTUM] != 0

cdef void sgd(Group self) noexcept:
    cdef double* s = self.setting
    cdef double* g
    cdef uint32_t r, i, j, n
    cdef bint first
    for r in range(self.runs):
        i = run_node(self, r)
        if is_frozen(i):
            continue
        n = run_count(self, r)
        j = self.run[r]
        g = descent(self, i, n)
        if s[MOMENTUM] == 0:
            kernels.axpy(tape.value + i, -s[LR], g, n)
        else:
            first = self.steps[j] == 0  # the buffer begins with the first gradient, undamped
            if first:
                memset(self.vector[0] + j, 0, n * sizeof(double))
            kernels.sgd(tape.value + i, self.vector[0] + j, g, s[MOMENTUM], 1 if first else 1 - s[DAMPENING],
                        s[MOMENTUM] if s[NESTEROV] else 0, s[LR], n)
            self.steps[j] += 1
        stamp(i, n)

cdef int adam_vectors(double* s) noexcept:
    return 7 if s[AMSGRAD] else 3

cdef void adam(Group self) noexcept:
    cdef double* s = self.setting
    cdef uint32_t r, i, j, n
    cdef double known = 0  # the number of steps that a's rate and scale are for
    cdef adam_t a
    a.keep = 1 - s[LR] * s[SHRINK]
    a.beta1 = s[BETA1]
    a.beta2 = s[BETA2]
    a.eps = s[ADAM_EPS]
    for r in range(self.runs):
        i = run_node(self, r)
        if is_frozen(i):
            continue
        n = run_count(self, r)
        j = self.run[r]
        self.steps[j] += 1
        if self.steps[j] != known:
            known = self.steps[j]
            a.rate = s[LR] / (1 - c_pow(s[BETA1], known))
            a.scale = 1 / c_sqrt(1 - c_pow(s[BETA2], known))
        kernels.adam(tape.value + i, self.vector[0] + j, self.vector[1] + j, self.vector[2] + j if s[AMSGRAD] else NULL,
                     descent(self, i, n), &a, n)
        stamp(i, n)

cdef int rmsprop_vectors(double* s) noexcept:
    return 1 | (2 if s[CENTERED] else 0) | (4 if s[RMSPROP_MOMENTUM] else 0)

cdef void rmsprop(Group self) noexcept:
    cdef double* s = self.setting
    cdef uint32_t r, i, j, n
    cdef rmsprop_t a
    a.rate = s[LR]
    a.alpha = s[ALPHA]
    a.eps = s[RMSPROP_EPS]
    a.momentum = s[RMSPROP_MOMENTUM]
    for r in range(self.runs):
        i = run_node(self, r)
        if is_frozen(i):
            continue
        n = run_count(self, r)
        j = self.run[r]
        self.steps[j] += 1
        kernels.rmsprop(tape.value + i, self.vector[0] + j, self.vector[1] + j if s[CENTERED] else NULL,
                        self.vector[2] + j if s[RMSPROP_MOMENTUM] else NULL, descent(self, i, n), &a, n)
        stamp(i, n)

def _sgd(list groups not None, list settings not None):
    """One step: settings of a group are lr, weight decay, maximize, momentum, dampening, nesterov."""
    make_step(groups, settings, sgd, sgd_vectors)

def _adam(list groups not None, list settings not None):
    """One step: lr, weight decay (in the gradient), maximize, two betas, eps, amsgrad, decoupled weight decay."""
    make_step(groups, settings, adam, adam_vectors)

def _rmsprop(list groups not None, list settings not None):
    """One step: lr, weight decay, maximize, alpha, eps, momentum, centered."""
    make_step(groups, settings, rmsprop, rmsprop_vectors)


# -- for mingrad/optim.py: its arguments, gradients of any Variables, vectors -------------------------------------------------

cdef int NESTED_AT_MOST = 16  # sequences in sequences; one that contains itself ends here

def _variables(params, str what not None):
    """The Variables of an iterable and of iterables in it (rows, a VariableList), in order, as a tuple."""
    cdef list found = []
    add_variables(params, found, what, 0)
    return tuple(found)

cdef int add_variables(object x, list found, str what, int depth) except -1:
    cdef str advice
    if is_variable(<PyObject*>x):
        found.append(x)
        return 0
    items = variables_in(x) if depth < NESTED_AT_MOST else None
    if items is not None:
        for item in items:
            add_variables(item, found, what, depth + 1)
        return 0
    if hasattr(x, "parameters"):
        advice = "pass its parameters()"
    elif isinstance(x, dict):
        advice = "pass its values()"
    elif isinstance(x, (set, frozenset)):
        advice = "its order changes from run to run: pass a list"
    elif depth == NESTED_AT_MOST:
        advice = f"nested more than {NESTED_AT_MOST} deep"
    else:
        advice = "make it one with mingrad.Variable(number)"
    raise TypeError(f"{what}: expected Variables, or sequences of them, got {type_name(<PyObject*>x)}; {advice}")

cdef object variables_in(object x):
    """An iterator over x, or None where x is nothing that Variables come in, in order."""
    if isinstance(x, (str, bytes, dict, set, frozenset)) or hasattr(x, "parameters"):
        return None
    try:
        return iter(x)
    except TypeError:
        return None

def _number(x, str what not None, double low, double high):
    """x as a float if it is a finite number, not below low and below high; else an error that says what it is for."""
    cdef double number
    cdef str wanted
    to_number(x, what, &number)
    if isfinite(number) and low <= number < high:
        return number
    wanted = "a finite number" if high == INFINITY else "a number"
    if low != -INFINITY:
        wanted += f" not below {number_text(low)}"
    if high != INFINITY:
        wanted += f" and below {number_text(high)}"
    raise ValueError(f"{what}: expected {wanted}, got {number_text(number)}")

cdef double norm_of(const double* x, size_t n, double p) noexcept:
    """The p-norm, p > 0 or infinite; nan if any element is."""
    cdef double big = 0, total = 0
    cdef size_t k
    for k in range(n):
        if x[k] != x[k]:
            return NAN
        big = max(big, fabs(x[k]))
    if p == 2:
        return k_norm(x, n)
    if p == INFINITY or big == 0 or big == INFINITY:
        return big
    for k in range(n):
        total += fabs(x[k]) if p == 1 else c_pow(fabs(x[k]) / big, p)
    return total if p == 1 else big * c_pow(total, 1 / p)

def _grad_norm(tuple variables not None, double p):
    """The p-norm of the Variables' gradients."""
    refuse_optimizer()
    cdef size_t k, n = len(variables)
    reserve_scratch(n)
    for k in range(n):
        tape.scratch[k] = tape.grad[(<Variable?>variables[k]).number]
    return norm_of(tape.scratch, n, p)

def _scale_grads(tuple variables not None, double factor):
    """Multiply every gradient by factor."""
    refuse_optimizer()
    for v in variables:
        tape.grad[(<Variable?>v).number] *= factor

def _clamp_grads(tuple variables not None, double bound):
    """Bring every gradient to between -bound and bound; nan stays."""
    refuse_optimizer()
    cdef double* grad
    for v in variables:
        grad = tape.grad + (<Variable?>v).number
        if grad[0] > bound:
            grad[0] = bound
        elif grad[0] < -bound:
            grad[0] = -bound

def _vector_norm(x, double p):
    """The p-norm of a buffer of doubles."""
    cdef Py_buffer view
    cdef size_t n = len(x)
    cdef double answer = norm_of(doubles(x, &view, n, 0), n, p)
    PyBuffer_Release(&view)
    return answer

def _vector_dot(x, y):
    """Sum of x*y over two buffers of doubles, in the order of kernels.h."""
    cdef Py_buffer view_x, view_y
    cdef size_t n = len(x)
    cdef double* a = doubles(x, &view_x, n, 0)
    cdef double answer
    try:
        answer = kernels.dot(a, doubles(y, &view_y, n, 0), n)
        PyBuffer_Release(&view_y)
    finally:
        PyBuffer_Release(&view_x)
    return answer

def _vector_add(y, double a, x):
    """y += a * x, for two buffers of doubles."""
    cdef Py_buffer view_x, view_y
    cdef size_t n = len(y)
    cdef double* to = doubles(y, &view_y, n, PyBUF_WRITABLE)
    try:
        kernels.axpy(to, a, doubles(x, &view_x, n, 0), n)
        PyBuffer_Release(&view_x)
    finally:
        PyBuffer_Release(&view_y)

def _vector_scale(y, double a):
    """y *= a, for a buffer of doubles."""
    cdef Py_buffer view
    cdef size_t k, n = len(y)
    cdef double* to = doubles(y, &view, n, PyBUF_WRITABLE)
    for k in range(n):
        to[k] *= a
    PyBuffer_Release(&view)
