# variable.pxi: the Variable type, what Python's operators and our functions do with it, and thread modes. Knows which op
# an operator is, not what it computes. The hottest slots of the type are set by hand (methods.h); what each choice saves
# is measured in csrc/README.md. Read tape.pxi first. Objects are handled as PyObject*: casts to `object` would count
# references on every line.

import operator
import sys

cdef extern from "Python.h":
    bint PyFloat_CheckExact(PyObject*)
    bint PyFloat_Check(PyObject*)
    bint PyLong_Check(PyObject*)
    bint PyLong_CheckExact(PyObject*)
    double PyFloat_AS_DOUBLE(PyObject*)
    PyObject* PyFloat_FromDouble(double) except NULL
    double PyLong_AsDouble(PyObject*) except? -1.0
    double PyFloat_AsDouble(PyObject*) except? -1.0
    PyTypeObject* Py_TYPE(PyObject*)
    void Py_SET_REFCNT(PyObject*, Py_ssize_t)
    PyObject* Py_NewRef(PyObject*)
    void PyObject_ClearWeakRefs(PyObject*)
    PyObject* PyObject_RichCompare(PyObject*, PyObject*, int) except NULL
    PyObject* Py_NotImplemented
    PyObject* Py_True
    PyObject* Py_False
    bint PyObject_TypeCheck(PyObject*, PyTypeObject*)
    PyObject* PyTuple_GET_ITEM(PyObject*, Py_ssize_t)
    Py_ssize_t PyTuple_GET_SIZE(PyObject*)
    PyObject* PyList_New(Py_ssize_t) except NULL
    void PyList_SET_ITEM(PyObject*, Py_ssize_t, PyObject*)
    Py_ssize_t PyVectorcall_NARGS(size_t)

cdef extern from *:
    """
    static PyObject *mg_alloc(PyTypeObject *type) { return type->tp_alloc(type, 0); }
    static void mg_free(PyObject *self) { Py_TYPE(self)->tp_free(self); }
    /* Give back what mg_alloc gave, before it became a Variable. */
    static void mg_discard(PyObject *self)
    {
        PyTypeObject *type = Py_TYPE(self);
        if (PyType_IS_GC(type)) PyObject_GC_UnTrack(self);
        type->tp_free(self);
        if (type->tp_flags & Py_TPFLAGS_HEAPTYPE) Py_DECREF(type);
    }
    /* Is x an int that a double holds exactly? *number is that double. */
    static inline int mg_small_int(PyObject *x, double *number)
    {
        int overflow;
        long long value;
        if (!PyLong_CheckExact(x)) return 0;
        value = PyLong_AsLongLongAndOverflow(x, &overflow);
        *number = (double)value;
        return !overflow && -(1LL << 53) <= value && value <= 1LL << 53;
    }
    """
    PyObject* mg_alloc(PyTypeObject*) except NULL
    void mg_free(PyObject*)
    void mg_discard(PyObject*)
    bint small_int "mg_small_int"(PyObject*, double*)

cdef extern from "methods.h":
    void set_slots(PyTypeObject*)
    void sign_operators(PyTypeObject*)
    int add_methods(PyTypeObject*, object) except -1

cdef uint64_t structure = 1  # grows when something that a layer's plan relies on has changed (layers.pxi)

cdef void structure_changed() noexcept:
    global structure
    structure += 1

cdef class VariableList  # sequences.pxi

cdef PyTypeObject* VARIABLE  # = Variable; set below, where the type exists


# -- handles: making and losing Variables --------------------------------------------------------------------------------

# Without a GIL node 0 is nobody's: the number of Variables that are dying while another thread has their nodes. What a subclass
# does with such a one in its __del__ reads nan.
cdef enum:
    NOWHERE = 0

cdef PyObject* freelist[FREELIST_SIZE + 1]
cdef int freelist_count = 0

cdef PyObject* alloc_handle() except NULL:
    """A Variable without a node yet, from the allocator."""
    count_allocation()
    return mg_alloc(VARIABLE)

cdef inline PyObject* new_handle(uint32_t number) except NULL:
    """A new Variable for a node that has none."""
    global freelist_count, living
    cdef PyObject* self
    if freelist_count:
        freelist_count -= 1
        self = freelist[freelist_count]
        Py_SET_REFCNT(self, 1)
    else:
        self = alloc_handle()
    mg_known(self)
    SET_NUMBER(self, number)
    tape.handle[number] = self
    if DEBUG_BUILD:
        living += 1
    return self

cdef PyObject* handle_of(uint32_t number) except NULL:
    """The Variable of a node: the living one, or a new one."""
    global living
    cdef PyObject* self = tape.handle[number]
    cdef PyObject* other
    if not FREE_THREADED and self != NULL:
        return Py_NewRef(self)
    if self != NULL:
        self = mg_try_ref(self)
        if self != NULL:
            return self
        self = tape.handle[number]
        other = new_handle(number)
        SET_NUMBER(self, NOWHERE)  # it is dying at the door of dealloc(), in another thread
        if DEBUG_BUILD:
            living -= 1
        return other
    return new_handle(number)

cdef inline void dealloc "mg_dealloc"(PyObject* self) noexcept:
    global freelist_count, living
    cdef uint32_t number = NUMBER(self)
    if FREE_THREADED and tape.handle[number] != self:  # see handle_of()
        if WEAKREFS(self) != NULL:
            PyObject_ClearWeakRefs(self)
        mg_free(self)
        return
    tape.handle[number] = NULL
    if DEBUG_BUILD:
        living -= 1
    if number + 1 == tape.n:
        if tape.n_notes == 0 and number > tape.young_start and number > tape.last_write \
                and tape.handle[number - 1] != NULL and not tape.row[number].flags & ROW_SCATTERED:
            tape.n = number  # pop(), where it drops one plain node: the temporary of an expression
            tape.removed += 1
            if DEBUG_BUILD:
                overwrite(number, number + 1)
        elif number >= tape.last_write:
            pop()
        elif tape.note[NOTE_CALL].n:
            let_call_go(number)
    elif tape.note[NOTE_CALL].n:
        let_call_go(number)
    if WEAKREFS(self) != NULL:
        PyObject_ClearWeakRefs(self)  # runs callbacks; self has no node any more
    if Py_TYPE(self) is VARIABLE and freelist_count < FREELIST_SIZE:
        freelist[freelist_count] = self
        freelist_count += 1
    else:
        mg_free(self)

cdef PyObject* new_variable "mg_new"(PyTypeObject* type) except NULL:
    """Variable.__new__: a leaf of value 0, so that no Variable is ever without a node."""
    global living
    cdef PyObject* self = mg_alloc(type)  # first: for a subclass it may run any code
    try:
        ready(1)
    except BaseException:
        mg_discard(self)
        raise
    push_leaf(0, True)
    mg_known(self)
    SET_NUMBER(self, tape.n - 1)
    tape.handle[tape.n - 1] = self
    if DEBUG_BUILD:
        living += 1
    return self

cdef inline PyObject* record "mg_record"(uint32_t op, uint32_t flags, uint32_t a, uint32_t b, uint32_t c, double value) except NULL:
    """Append a node and return its new handle. The caller has been through ready(). On MemoryError the tape is as before."""
    cdef uint32_t n = tape.n
    cdef PyObject* self = new_handle(n)
    fill(n, op, flags, a, b, c, value)
    tape.n = n + 1
    return self

cdef inline PyObject* record_leaf(double value, bint requires) except NULL:
    return record(OP_LEAF, requires, tape.n, 0, 0, value)

cdef inline PyObject* record_number(uint32_t op, uint32_t a, double number, double value) except NULL:
    """record() for a row of one node and a number."""
    cdef PyObject* self = record(op, ROW_REQUIRES, a, 0, 0, value)
    tape.row[tape.n - 1].constant = number
    return self


# -- numbers: what counts as one -------------------------------------------------------------------------------------------

cdef inline bint is_variable(PyObject* x) noexcept:
    return Py_TYPE(x) is VARIABLE or PyObject_TypeCheck(x, VARIABLE)

cdef tuple numpy_numbers = ()  # NumPy's scalar types, once NumPy has been seen
cdef type numpy_times
cdef type numpy_latest = None  # the one seen last

cdef bint is_numpy_number(object x) except -1:
    global numpy_numbers, numpy_times, numpy_latest
    if type(x) is numpy_latest:
        return True
    if not numpy_numbers:
        numpy = sys.modules.get("numpy")
        if numpy is None or not hasattr(numpy, "bool_"):
            return False
        numpy_numbers = (numpy.floating, numpy.integer, numpy.bool_)
        numpy_times = numpy.timedelta64  # an integer to NumPy
    if not isinstance(x, numpy_numbers) or isinstance(x, numpy_times):
        return False
    numpy_latest = type(x)
    return True

cdef inline int as_number(PyObject* x, double* number) except -1:
    """1 and *number if x is a real number (int, bool, float, NumPy scalar), 0 if it is not. OverflowError for an int too
    large for a float."""
    if PyFloat_Check(x):
        number[0] = PyFloat_AS_DOUBLE(x)
        return 1
    if PyLong_Check(x):
        number[0] = PyLong_AsDouble(x)
        return 1
    if is_numpy_number(<object>x):
        number[0] = PyFloat_AsDouble(x)
        return 1
    return 0

cdef str type_name(PyObject* x):
    return type(<object>x).__name__

cdef str cure(object x):
    """How to make an operand of a refused type acceptable."""
    if isinstance(x, complex) or type_name(<PyObject*>x).startswith("complex"):
        return "mingrad works on real numbers: take .real, .imag or abs() first"
    if isinstance(x, (list, tuple)):
        return "work element by element, or use mingrad.sum, mingrad.dot and the like"
    if isinstance(x, Variable):
        return "a number is needed here: take its .data"
    if hasattr(x, "item"):
        return "convert it to a float first, for instance with .item()"
    return "convert it to a float first"

cdef int to_number(object x, str what, double* number) except -1:
    """*number = x, or TypeError that says what it is for."""
    if not as_number(<PyObject*>x, number):
        raise TypeError(f"{what}: expected a real number (int, float, NumPy scalar), got {type_name(<PyObject*>x)}; {cure(x)}")
    return 0

cdef bint is_array(object x) except -1:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(x, getattr(numpy, "ndarray", ()))


# -- operations ----------------------------------------------------------------------------------------------------------------

cdef object float_text(double x):
    return repr(x)

cdef bint is_error(unsigned op, double a, double b, double y) noexcept nogil:
    """The value y is not finite: is that an error for these operands, and one that errstate has not switched off?"""
    cdef int error = op_error(op, a, b, y)
    cdef int kind = ERROR_DIVISION if error == ERROR_VALUE and y - y != y - y and y == y else error  # a pole is a division
    return error != ERROR_NONE and not thread_mode.ignore >> kind & 1

cdef bint is_refused(unsigned op, double a, double b, double y) noexcept nogil:
    """Will refuse() raise? In detect_anomaly() that is also what the op makes nan, or infinite of finite operands."""
    return is_error(op, a, b, y) or thread_mode.anomaly and (y != y or isfinite(a) and isfinite(b))

cdef int refuse(unsigned op, double a, double b, double y, bint binary) except -1:
    """Raise what Python's float or math raises for these operands, if is_refused()."""
    cdef int error = op_error(op, a, b, y)
    if not is_refused(op, a, b, y):
        return 0
    if is_recording():
        (<Recording>thread_mode.recording).raised = True
    cdef str what = call_text(op, [float_text(a), float_text(b)] if binary else [float_text(a)])
    if not is_error(op, a, b, y):
        raise FloatingPointError(f"detect_anomaly: {what} is {y!r}{line_text(user_line())}")
    cdef str ieee = f"; with mingrad.errstate(all='ignore') the result is {float_text(y)}"
    if error == ERROR_DIVISION:
        raise ZeroDivisionError(f"{what}: division by zero{ieee}")
    if error == ERROR_OVERFLOW:
        raise OverflowError(f"{what}: result too large for a float{ieee}")
    raise ValueError(f"{what}: outside the function's domain{ieee}")

cdef inline bint takes_part(uint32_t i) noexcept:
    """Is what is computed from node i to be recorded? While a function is recorded that is so for constants from outside too: a
    later call may find another number there."""
    return tape.row[i].flags & ROW_REQUIRES or tape.recorders and thread_mode.recording != NULL \
        and i < (<Recording>thread_mode.recording).base

cdef inline PyObject* unary "mg_unary"(unsigned op, PyObject* x) except NULL:
    """A unary op on a Variable (recorded) or a number (computed)."""
    cdef double a, y
    cdef uint32_t i
    cdef int off = 0
    if Py_TYPE(x) is not VARIABLE and not PyObject_TypeCheck(x, VARIABLE):
        return unary_number(op, x)
    if tape.n >= tape.limit:
        off = safepoint(1)
    i = NUMBER(x)
    a = tape.value[i]
    y = op_value1(op, a, 0)
    if not isfinite(y):
        refuse(op, a, a, y, False)
    if off or not takes_part(i):
        return record_leaf(y, False)
    return record(op, ROW_REQUIRES, i, 0, 0, y)

cdef PyObject* unary_number(unsigned op, PyObject* x) except NULL:
    cdef double a, y
    to_number(<object>x, f"mingrad.{op_name[op].decode()}", &a)
    y = op_value1(op, a, 0)
    if not isfinite(y):
        refuse(op, a, a, y, False)
    return PyFloat_FromDouble(y)

cdef inline PyObject* binary "mg_binary"(unsigned op, PyObject* l, PyObject* r) except NULL:
    """A binary operator, at least one operand a Variable. The two cases that programs are made of are here."""
    cdef double a, b, y
    cdef uint32_t i, j
    if Py_TYPE(l) is VARIABLE:
        if Py_TYPE(r) is VARIABLE:
            if tape.n >= tape.limit:
                return binary_any(op, l, r)
            i = NUMBER(l)
            j = NUMBER(r)
            a = tape.value[i]
            b = tape.value[j]
            y = op_value2(op, a, b)
            if isfinite(y) and (tape.row[i].flags | tape.row[j].flags) & ROW_REQUIRES:
                return record(op, ROW_REQUIRES, i, j, 0, y)
        elif PyFloat_CheckExact(r) or small_int(r, &b):
            if PyFloat_CheckExact(r):
                b = PyFloat_AS_DOUBLE(r)
            elif op == OP_ADD and b == 0:
                return binary_any(op, l, r)
            if tape.n >= tape.limit:
                return binary_any(op, l, r)
            i = NUMBER(l)
            a = tape.value[i]
            y = op_value2(op, a, b)
            if isfinite(y) and tape.row[i].flags & ROW_REQUIRES:
                return record_number(op + NUMBER_SECOND, i, b, y)
    elif Py_TYPE(r) is VARIABLE and tape.n < tape.limit and (PyFloat_CheckExact(l) or small_int(l, &a)):
        if PyFloat_CheckExact(l):
            a = PyFloat_AS_DOUBLE(l)
        elif op == OP_ADD and a == 0:
            return binary_any(op, l, r)
        i = NUMBER(r)
        b = tape.value[i]
        y = op_value2(op, a, b)
        if isfinite(y) and tape.row[i].flags & ROW_REQUIRES:
            return record_number(op + NUMBER_FIRST, i, a, y)
    return binary_any(op, l, r)

cdef PyObject* binary_any(unsigned op, PyObject* l, PyObject* r) except NULL:
    """A binary op on any operands: Variables, numbers, arrays; NotImplemented for types unknown to us."""
    cdef double a = 0, b = 0, y
    cdef bint l_node = is_variable(l), r_node = is_variable(r)
    cdef bint requires = False
    cdef int off
    cdef uint32_t i = 0, j = 0
    if not l_node and not as_number(l, &a):
        return foreign(op, l, r, l)
    if not r_node and not as_number(r, &b):
        return foreign(op, l, r, r)
    off = ready(1)  # after as_number, which may run code
    if l_node:
        i = NUMBER(l)
        a = tape.value[i]
        requires = takes_part(i)
    if r_node:
        j = NUMBER(r)
        b = tape.value[j]
        requires |= takes_part(j)
    # sum() starts with the int 0: an interior node, whose data nobody can write, is its own sum with it (unless another run makes
    # it -0)
    if op == OP_ADD and not is_recording() and requires and not off and l_node != r_node and (b if l_node else a) == 0 \
            and not signbit(b if l_node else a) and not PyFloat_CheckExact(r if l_node else l):
        if l_node and tape.row[i].op != OP_LEAF and not (a == 0 and signbit(a)):
            return Py_NewRef(l)
        if r_node and tape.row[j].op != OP_LEAF and not (b == 0 and signbit(b)):
            return Py_NewRef(r)
    y = op_value2(op, a, b)
    if not isfinite(y):
        refuse(op, a, b, y, True)
    if not l_node and not r_node:
        return PyFloat_FromDouble(y)
    if off or not requires:
        return record_leaf(y, False)
    if not r_node:
        return record_number(op + NUMBER_SECOND, i, b, y)
    if not l_node:
        return record_number(op + NUMBER_FIRST, j, a, y)
    return record(op, ROW_REQUIRES, i, j, 0, y)

cdef PyObject* foreign(unsigned op, PyObject* l, PyObject* r, PyObject* culprit) except NULL:
    """An operand is no number: an array is taken element by element, what cannot be meant is refused with its name, and
    any other type gets its chance through NotImplemented."""
    cdef object x = <object>culprit
    if is_array(x):
        answer = sys.modules["numpy"].frompyfunc(element_function(op), 2, 1)(<object>l, <object>r)
        return Py_NewRef(<PyObject*>answer)
    name = type(x).__name__
    if type(x) in (type(None), str, bytes, complex, list, tuple, dict, set) or type(x).__module__ == "numpy" \
            or name in ("Decimal", "Fraction"):
        raise TypeError(f"unsupported operand types for {op_symbol[op].decode()}: {type_name(l)} and {type_name(r)}; {cure(x)}")
    return Py_NewRef(Py_NotImplemented)

cdef object element_function(unsigned op):
    """What an array does with two of its elements: Python's operator, so that each type gets its turn."""
    function = {OP_ADD: operator.add, OP_SUB: operator.sub, OP_MUL: operator.mul, OP_DIV: operator.truediv,
                OP_FLOORDIV: operator.floordiv, OP_MOD: operator.mod, OP_POW: operator.pow}.get(op)
    return function or (lambda x, y: call_binary(op, x, y))

cdef object call_binary(unsigned op, object x, object y):
    """A binary op by name, on objects."""
    cdef PyObject* args[2]
    args[0] = <PyObject*>x
    args[1] = <PyObject*>y
    return take(binary_call(op, args, 2))

cdef PyObject* binary_call "mg_binary_call"(unsigned op, PyObject** args, Py_ssize_t n_args) except NULL:
    """A binary op called by name: mingrad.hypot(x, y), v.hypot(w)."""
    cdef PyObject* y
    if n_args != 2:
        raise TypeError(f"mingrad.{op_name[op].decode()}: expected 2 operands, got {n_args}")
    y = binary_any(op, args[0], args[1])
    if y is Py_NotImplemented:
        raise TypeError(f"mingrad.{op_name[op].decode()}: expected real numbers or Variables, "
                        f"got {type_name(args[0])} and {type_name(args[1])}")
    return y

cdef object take(PyObject* owned):
    """The object behind a new reference."""
    cdef object x = <object>owned
    Py_DECREF_(owned)
    return x

cdef double number_or_value(PyObject* x) noexcept:
    """x has been checked: a Variable or a float."""
    return tape.value[NUMBER(x)] if is_variable(x) else PyFloat_AS_DOUBLE(x)

cdef tuple operands(object xs, str what):
    """The Variables of a sequence and its numbers as floats."""
    cdef list items
    cdef double number
    cdef Py_ssize_t i
    if type(xs) is VariableList:
        return tuple((<VariableList>xs).items)
    if isinstance(xs, (Variable, int, float, str, bytes, set, frozenset)):  # a set's order changes from run to run
        raise TypeError(f"{what}: expected a sequence of Variables and numbers, got {type_name(<PyObject*>xs)}")
    try:
        items = list(xs)
    except TypeError:
        raise TypeError(f"{what}: expected a sequence of Variables and numbers, got {type_name(<PyObject*>xs)}") from None
    for i in range(len(items)):
        x = items[i]
        if not is_variable(<PyObject*>x):
            if not as_number(<PyObject*>x, &number):
                to_number(x, f"{what}, element {i}", &number)  # refuses
            items[i] = number
    return tuple(items)

cdef bint any_requires(tuple items):
    for x in items:
        if is_variable(<PyObject*>x) and takes_part(NUMBER(<PyObject*>x)):
            return True
    return False

cdef bint any_variable(tuple items):
    for x in items:
        if is_variable(<PyObject*>x):
            return True
    return False

cdef int push_operands(tuple items, uint32_t* start, bint* run) except -1:
    """Bring operands onto the tape: numbers become leaves. *run and *start say where they stand if their nodes follow
    each other; otherwise their numbers are appended to the side array. There is room for len(items) nodes and entries."""
    cdef uint32_t first = 0, i, k = 0
    cdef size_t base = tape.n_side
    run[0] = True
    for x in items:
        if is_variable(<PyObject*>x):
            i = NUMBER(<PyObject*>x)
        else:
            i = tape.n
            push_leaf(PyFloat_AS_DOUBLE(<PyObject*>x), False)
        if k == 0:
            first = i
        elif i != first + k:
            run[0] = False
        tape.side[base + k] = i
        k += 1
    if run[0]:
        start[0] = first
    else:
        start[0] = <uint32_t>base
        tape.n_side = base + k
    return 0

cdef int room_for(size_t nodes, size_t entries) except -1:
    """ready() for many nodes and entries of the side array."""
    if nodes >= MAX_NODES or tape.n_side + entries >= MAX_NODES:
        raise MemoryError(f"mingrad: {nodes} operands do not fit on the tape")
    cdef int off = ready(<uint32_t>nodes)
    reserve_side(entries)
    return off

cdef void undo(uint32_t n, size_t n_side) noexcept:
    """Take back what was pushed since the tape had n nodes (none of them has a handle)."""
    if tape.n_notes:  # of handles that died while a walk was at work, whose nodes stayed
        if tape.profilers:
            profile_undo(n)
        pop_notes(n)
    tape.n = n
    tape.n_side = n_side

cdef PyObject* nary(unsigned op, object xs) except NULL:
    """sum, mean, prod, max, min, logsumexp, norm of a sequence, as one node."""
    cdef str what = "mingrad." + op_name[op].decode()
    cdef tuple items = operands(xs, what)
    cdef size_t n = len(items), k
    cdef uint32_t start, before
    cdef size_t side_before
    cdef bint run
    cdef double y
    cdef int off
    if n == 0 and op not in (OP_SUM, OP_PROD, OP_NORM):
        raise ValueError(f"{what}: expected at least one operand, got an empty sequence")
    if n == 0 or not any_variable(items):
        reserve_scratch(n)
        for k in range(n):
            tape.scratch[k] = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(<PyObject*>items, k))
        y = op_value_n(op, tape.scratch, <uint32_t>n, 0)
        if thread_mode.anomaly:
            refuse_range(op, tape.scratch, <uint32_t>n, y)
        return PyFloat_FromDouble(y)
    off = room_for(n + 1, n)
    for k in range(n):
        tape.scratch[k] = number_or_value(PyTuple_GET_ITEM(<PyObject*>items, k))
    y = op_value_n(op, tape.scratch, <uint32_t>n, 0)
    if off or not any_requires(items):
        if thread_mode.anomaly:
            refuse_range(op, tape.scratch, <uint32_t>n, y)
        return record_leaf(y, False)
    before = tape.n
    side_before = tape.n_side
    push_operands(items, &start, &run)
    try:
        return record(op, ROW_REQUIRES | (0 if run else ROW_SCATTERED), start, 0, <uint32_t>n, y)
    except MemoryError:
        undo(before, side_before)
        raise

cdef PyObject* nary_call "mg_nary_call"(unsigned op, PyObject** args, Py_ssize_t n_args) except NULL:
    """mingrad.sum(xs); mingrad.max(xs) or mingrad.max(x, y, ...) as the builtins."""
    cdef Py_ssize_t k
    if n_args == 1:
        return nary(op, <object>args[0])
    if n_args == 0 or op not in (OP_MAX, OP_MIN):
        raise TypeError(f"mingrad.{op_name[op].decode()}: expected one sequence, got {n_args} arguments")
    return nary(op, tuple([<object>args[k] for k in range(n_args)]))

def dot(xs, ys, /):
    """Sum of x*y over two sequences of equal length n >= 0 of Variables and numbers, as one node.

    y = sum_i x_i y_i; dy/dx_i = y_i; dy/dy_i = x_i. The order of the sum is fixed (csrc/kernels.h). Only numbers give a
    float. Raises ValueError if the lengths differ.

    >>> import mingrad
    >>> mingrad.dot([mingrad.Variable(1.0), 2.0], [3.0, 4.0]).data
    11.0
    """
    cdef tuple p = operands(xs, "mingrad.dot"), q = operands(ys, "mingrad.dot")
    cdef size_t n = len(p), k, side_before
    cdef uint32_t before, p_start, q_start
    cdef bint p_run, q_run
    cdef double y
    cdef int off
    cdef uint32_t flags = ROW_REQUIRES
    if n != <size_t>len(q):
        raise ValueError(f"mingrad.dot: expected sequences of equal length, got {n} and {len(q)}")
    off = room_for(2 * n + 1, 4 * n)
    for k in range(n):
        tape.scratch[k] = number_or_value(PyTuple_GET_ITEM(<PyObject*>p, k))
        tape.scratch[n + k] = number_or_value(PyTuple_GET_ITEM(<PyObject*>q, k))
    y = kernels.dot(tape.scratch, tape.scratch + n, n)
    if thread_mode.anomaly:
        refuse_range(OP_DOT, tape.scratch, <uint32_t>(2 * n), y)
    if not any_variable(p) and not any_variable(q):
        return y
    if off or not (any_requires(p) or any_requires(q)):
        return take(record_leaf(y, False))
    before = tape.n
    side_before = tape.n_side
    push_operands(p, &p_start, &p_run)
    push_operands(q, &q_start, &q_run)
    if not (p_run and q_run):  # both lists, one behind the other
        tape.n_side = side_before
        flags |= ROW_SCATTERED
        list_operands(p, before)
        list_operands(q, before + count_numbers(p))
        p_start = <uint32_t>side_before
        q_start = 0
    try:
        return take(record(OP_DOT, flags, p_start, q_start, <uint32_t>n, y))
    except MemoryError:
        undo(before, side_before)
        raise

cdef uint32_t count_numbers(tuple items):
    cdef uint32_t count = 0
    for x in items:
        count += not is_variable(<PyObject*>x)
    return count

cdef int list_operands(tuple items, uint32_t next_leaf) except -1:
    """Append the operands' numbers to the side array; the leaves that push_operands made for numbers begin at next_leaf."""
    for x in items:
        if is_variable(<PyObject*>x):
            tape.side[tape.n_side] = NUMBER(<PyObject*>x)
        else:
            tape.side[tape.n_side] = next_leaf
            next_leaf += 1
        tape.n_side += 1
    return 0

def softmax(xs, /):
    """List of exp(x_i) / sum_j exp(x_j) for a sequence of n >= 1 Variables and numbers.

    One node for each output and one for the sum; the largest operand is subtracted first, so nothing overflows.
    dy_i/dx_j = y_i * ((i == j) - y_j). Only numbers give floats. Raises ValueError for an empty sequence.

    >>> import mingrad
    >>> mingrad.softmax([0.0, 0.0])
    [0.5, 0.5]
    """
    cdef tuple items = operands(xs, "mingrad.softmax")
    cdef size_t n = len(items), k, side_before
    cdef uint32_t before, start, total
    cdef bint run
    cdef double m, s
    cdef int off
    cdef list outputs = []
    if n == 0:
        raise ValueError("mingrad.softmax: expected at least one operand, got an empty sequence")
    off = room_for(2 * n + 1, n)
    for k in range(n):
        tape.scratch[k] = number_or_value(PyTuple_GET_ITEM(<PyObject*>items, k))
    m = k_max(tape.scratch, n)
    s = op_value_n(OP_SUMEXP, tape.scratch, <uint32_t>n, 0)
    if not any_variable(items):
        for k in range(n):
            outputs.append(value_softmax(tape.scratch[k], m, s))
        return outputs
    if off or not any_requires(items):
        for k in range(n):
            outputs.append(take(record_leaf(value_softmax(tape.scratch[k], m, s), False)))
        return outputs
    before = tape.n
    side_before = tape.n_side
    push_operands(items, &start, &run)
    total = tape.n
    push(OP_SUMEXP, ROW_REQUIRES | (0 if run else ROW_SCATTERED), start, 0, <uint32_t>n, s)
    try:
        for k in range(n):
            i = start + k if run else tape.side[start + k]
            outputs.append(take(record(OP_SOFTMAX, ROW_REQUIRES, i, total, 0, value_softmax(tape.value[i], m, s))))
    except MemoryError:
        outputs.clear()  # their handles die, and what they leave on top of the tape goes with them
        undo(min(tape.n, before), min(tape.n_side, side_before))
        raise
    return outputs

def clamp(x, /, min=None, max=None):
    """x, but not below min nor above max (each a number, a Variable or None).

    dy/dx is 1 inside and at a bound, else 0; the bound that holds x gets the derivative 1 where x is beyond it. Where
    min > max the result is max, as in PyTorch. A NaN operand gives NaN.

    >>> import mingrad
    >>> mingrad.clamp(3.0, min=0.0, max=1.0)
    1.0
    """
    if min is None and max is None:
        raise TypeError("mingrad.clamp: expected min, max or both, got neither")
    if min is not None:
        x = call_binary(OP_CLAMP_MIN, x, min)
    if max is not None:
        x = call_binary(OP_CLAMP_MAX, x, max)
    return x

# defaults of the settings of ops that have one (kind PARAMETER in ops.def)
cdef dict SETTINGS = {"leaky_relu": 0.01, "elu": 1.0}

def leaky_relu(x, /, negative_slope=0.01):
    """x if x > 0, else negative_slope * x.

    dy/dx is 1 or negative_slope (the latter at 0, as in PyTorch). A number gives a float, a Variable a Variable.

    >>> import mingrad
    >>> mingrad.leaky_relu(-2.0, negative_slope=0.5)
    -1.0
    """
    return call_binary(OP_LEAKY_RELU, x, negative_slope)

def elu(x, /, alpha=1.0):
    """x if x > 0, else alpha * (exp(x) - 1).

    dy/dx is 1 or alpha * exp(x). A number gives a float, a Variable a Variable.

    >>> import mingrad
    >>> mingrad.elu(0.0)
    0.0
    """
    return call_binary(OP_ELU, x, alpha)

def pow(x, y, /):
    """x ** y for Variables and numbers, as the operator."""
    return call_binary(OP_POW, x, y)


# -- comparison: by value; == is identity, so that Variables live in sets and dicts --------------------------------------------

cdef inline PyObject* compare "mg_compare"(PyObject* self, PyObject* other, int op) except NULL:
    cdef double a = tape.value[NUMBER(self)], b
    cdef bint answer
    if op == Py_EQ or op == Py_NE:
        if is_recording() and not is_variable(other) and (PyFloat_Check(other) or PyLong_Check(other)):
            refuse_while_recording("== or != with a number", "Variables are equal by identity, so it would not be by value; use <= "
                                   "and >=, or pass an int, which is part of the recording's key")
        return Py_NewRef(Py_NotImplemented)
    if is_variable(other):
        b = tape.value[NUMBER(other)]
    elif PyFloat_CheckExact(other):
        b = PyFloat_AS_DOUBLE(other)
    elif not small_int(other, &b):
        return compare_any(a, other, op)
    answer = a < b if op == Py_LT else a <= b if op == Py_LE else a > b if op == Py_GT else a >= b
    if is_recording():
        note_guard(op, <object>self, <object>other if is_variable(other) else b, answer)
    return Py_NewRef(Py_True if answer else Py_False)

cdef PyObject* compare_any(double a, PyObject* other, int op) except NULL:
    """Against an int as float does, which is exact at any size; against an array element by element."""
    cdef object x = a
    if is_recording():
        refuse_while_recording(f"comparison with {type_name(other)}", "compare with a float")
    if PyLong_Check(other) or PyFloat_Check(other) or is_numpy_number(<object>other) or is_array(<object>other):
        return PyObject_RichCompare(<PyObject*>x, other, op)
    return Py_NewRef(Py_NotImplemented)


# -- the type --------------------------------------------------------------------------------------------------------------------

cdef double check_data(object data) except? -1:
    cdef double value
    to_number(data, "Variable", &value)
    return value

cdef class Variable:
    """Variable(data, requires_grad=True, label="")\n--\n\nA number that remembers where it came from.

    data: a real number (int, float, bool, NumPy scalar). requires_grad: False for a constant. label: a name for drawings
    and error messages. Arithmetic on Variables records a graph; `backward()` on a result fills `grad` of everything it
    was made from. The value and errors of each operation are those of Python's float and math for the same numbers.

    Raises TypeError for what is not a real number, OverflowError for an int too large for a float.

    >>> from mingrad import Variable
    >>> x, y = Variable(2.0), Variable(3.0)
    >>> z = x**2 + y
    >>> z.backward()
    >>> z, x.grad, y.grad
    (Variable(data=7.0, grad=1.0), 4.0, 1.0)
    """
    cdef uint32_t number
    cdef object __weakref__

    __array_priority__ = 1000.0  # a NumPy scalar or array on the left leaves the operation to us

    def __init__(self, data, requires_grad=True, label=""):
        cdef double value = check_data(data)
        cdef row_t* row = tape.row + self.number
        if row.op != OP_LEAF:
            raise RuntimeError(f"Variable.__init__ on the result of {self._op!r}: make a new Variable instead")
        if not isinstance(label, str):
            raise TypeError(f"Variable: expected label to be a str, got {type(label).__name__}")
        requires_grad = bool(requires_grad)
        if label:
            label = "".join((label,))  # an exact str
        row = tape.row + self.number
        write_leaf(self.number, value)
        if label or tape.note[NOTE_LABEL].n:
            set_label(self.number, label)
        tape.grad[self.number] = 0
        if requires_grad != bool(row.flags & ROW_REQUIRES):
            row.flags ^= ROW_REQUIRES
            structure_changed()

    # what it holds

    @property
    def data(self):
        """The value, a float. Can be written on a leaf; graphs recorded before are then refused by backward()."""
        if is_recording():
            refuse_reading(self, ".data")
        return tape.value[self.number]

    @data.setter
    def data(self, value):
        cdef double number
        if tape.row[self.number].op != OP_LEAF:
            raise RuntimeError(f"data of {describe(self.number)} cannot be written: it is a result; write the leaves it was "
                               "made from and compute it again, or detach() it")
        if PyFloat_CheckExact(<PyObject*>value):
            number = PyFloat_AS_DOUBLE(<PyObject*>value)
        else:
            to_number(value, "Variable.data", &number)
        write_leaf(self.number, number)

    @data.deleter
    def data(self):
        raise AttributeError("data of a Variable cannot be deleted")

    @property
    def grad(self):
        """The adjoint, a float: on a leaf the sum of all backward passes since zero_grad(), inside a graph that of the
        latest pass; 0.0 before the first. Can be written. After backward(create_graph=True) a Variable instead, which can be
        differentiated again."""
        if is_recording():
            refuse_while_recording(".grad was read", "use mingrad.grad inside, or read it outside")
        if has_graph_grads():
            gradient = graph_grad(self)
            if gradient is not None:
                return gradient
        return tape.grad[self.number]

    @grad.setter
    def grad(self, value):
        cdef double number
        to_number(value, "Variable.grad", &number)
        forget_graph_grads(self.number, 1)
        tape.grad[self.number] = number

    @grad.deleter
    def grad(self):
        raise AttributeError("grad of a Variable cannot be deleted; write 0.0 or call zero_grad()")

    @property
    def label(self):
        """A name for drawings and error messages; "" if it has none."""
        return get_label(self.number)

    @label.setter
    def label(self, text):
        if not isinstance(text, str):
            raise TypeError(f"Variable.label: expected a str, got {type(text).__name__}")
        if is_recording():
            refuse_writing(self.number)
        set_label(self.number, "".join((text,)))  # an exact str

    @label.deleter
    def label(self):
        raise AttributeError("label of a Variable cannot be deleted; write ''")

    @property
    def requires_grad(self):
        """Whether backward() gives it a gradient. Can be written on a leaf, before it is used."""
        return bool(tape.row[self.number].flags & ROW_REQUIRES)

    @requires_grad.setter
    def requires_grad(self, value):
        cdef row_t* row
        cdef bint wanted = bool(value)
        row = tape.row + self.number
        if row.op != OP_LEAF:
            if not wanted:
                raise RuntimeError(f"requires_grad of {describe(self.number)} cannot be switched off: it is a result; "
                                   "detach() it instead")
            return
        if wanted != bool(row.flags & ROW_REQUIRES):
            write_leaf(self.number, tape.value[self.number])  # graphs recorded before used it the other way
            row.flags = row.flags & ~ROW_REQUIRES | <int>wanted
            structure_changed()

    @requires_grad.deleter
    def requires_grad(self):
        raise AttributeError("requires_grad of a Variable cannot be deleted")

    @property
    def is_leaf(self):
        """True if it is not the result of a recorded operation."""
        return tape.row[self.number].op == OP_LEAF

    @property
    def _prev(self):
        """Its operands as a tuple of Variables, in order; a number among them appears as a new constant Variable (not
        the exponent of `**`, which is part of `_op`, as in micrograd)."""
        return tuple(operands_of(self))

    @property
    def _op(self):
        """What made it: '+', '*', '**2', 'ReLU', 'tanh', ...; '' for a leaf."""
        return op_text(self.number)

    # what it does

    def backward(self, gradient=1.0, create_graph=False):
        """Add gradient * d self / d leaf to grad of every leaf this depends on.

        gradient: a number, the adjoint to start from. create_graph: record the pass, so that grad of leaves and interior
        Variables becomes a Variable that can be differentiated again (then gradient may be a Variable too). A later pass
        without it makes them numbers again. Interior nodes get the adjoint of this pass. Raises RuntimeError if
        this needs no gradient, or if a leaf was written after it had been used (run the forward pass again); then no grad
        of a leaf has changed, and neither if a hook (register_hook) or a custom rule raises.

        >>> from mingrad import Variable
        >>> x = Variable(2.0)
        >>> (x**3).backward(create_graph=True)
        >>> slope = x.grad
        >>> x.zero_grad()
        >>> slope.backward()
        >>> slope.data, x.grad
        (12.0, 12.0)
        """
        cdef double seed = 0
        if is_recording():
            refuse_while_recording("backward()", "use mingrad.grad inside, or call backward() on the result outside")
        if PyFloat_CheckExact(<PyObject*>gradient):
            seed = PyFloat_AS_DOUBLE(<PyObject*>gradient)
        elif not (create_graph and is_variable(<PyObject*>gradient)):
            to_number(gradient, "backward(gradient=...)", &seed)
            gradient = seed
        if not tape.row[self.number].flags & ROW_REQUIRES:
            raise RuntimeError(f"backward() on {self!r}, which requires no gradient: it was made with requires_grad=False, by "
                               "detach(), inside no_grad(), or from such Variables only")
        if thread_mode.anomaly:
            check_recorded()
        if tape.profilers:
            pass_of(self, gradient, seed, create_graph)
        else:
            run_backward(self, gradient, seed, create_graph)

    def register_hook(self, hook):
        """Call hook(adjoint) in every later backward pass, when the adjoint of this node is final; returns
        an object whose remove() ends that.

        adjoint: a float; a Variable where the pass is recorded. The hook may return a number (or such a Variable) to go on
        with instead, or None. Hooks are called in the order of their registration. They belong to the node, live as long
        as it does, and take part in reverse mode only; one that refers to its own Variable keeps the graph alive until it is
        removed. A hook that raises ends the pass, and every grad is as before.
        Raises RuntimeError if this requires no gradient, TypeError for a hook that cannot be called.

        >>> from mingrad import Variable
        >>> x = Variable(3.0)
        >>> y = x * 2
        >>> handle = y.register_hook(lambda adjoint: min(adjoint, 1.0))
        >>> (y * y).backward()
        >>> y.grad, x.grad
        (1.0, 2.0)
        >>> handle.remove()
        """
        cdef dict hooks
        if not callable(hook):
            raise TypeError(f"register_hook: expected a function of the adjoint, got {type_name(<PyObject*>hook)}")
        if is_recording():
            refuse_while_recording("register_hook()", "a program has no nodes to hook; hook its arguments or its result")
        if not tape.row[self.number].flags & ROW_REQUIRES:
            raise RuntimeError(f"register_hook on {self!r}, which requires no gradient: no pass will reach it")
        if get_note(NOTE_HOOKS, self.number) == NULL:
            hooks = {}
            set_note(NOTE_HOOKS, self.number, <PyObject*>hooks)
        else:
            hooks = <dict>get_note(NOTE_HOOKS, self.number)
        global last_hook
        last_hook += 1
        hooks[last_hook] = hook
        return HookHandle(hooks, last_hook)

    def backward_steps(self):
        """The backward pass one addition at a time: `for node, contribution in v.backward_steps()`. No grad
        changes. See mingrad.steps.backward_steps."""
        from mingrad.steps import backward_steps
        return backward_steps(self)

    def zero_grad(self):
        """Set grad to 0.0."""
        forget_graph_grads(self.number, 1)
        tape.grad[self.number] = 0

    def item(self):
        """The value, a float (PyTorch's name for data)."""
        if is_recording():
            refuse_reading(self, ".item()")
        return tape.value[self.number]

    def detach(self):
        """A new constant Variable with the same value; gradients stop there."""
        if is_recording():
            return take(unary(OP_STOP, <PyObject*>self))  # a constant for derivatives, not for later calls
        ready(1)
        return take(record_leaf(tape.value[self.number], False))

    def clamp(self, min=None, max=None):
        """See mingrad.clamp."""
        return clamp(self, min, max)

    def clamp_(self, min=None, max=None):
        """Hold the value between bounds (numbers), in place; returns self. For leaves: raises
        RuntimeError for a result, and for a Variable that requires a gradient unless inside no_grad(), as in PyTorch."""
        clamp_in_place([self], min, max)
        return self

    def leaky_relu(self, negative_slope=0.01):
        """See mingrad.leaky_relu."""
        return leaky_relu(self, negative_slope)

    def elu(self, alpha=1.0):
        """See mingrad.elu."""
        return elu(self, alpha)

    def pow(self, exponent):
        """self ** exponent."""
        return pow(self, exponent)

    # Python's protocols

    def __repr__(self):
        refuse_reading(self, "the text")
        return f"{type(self).__name__}(data={tape.value[self.number]!r}, grad={tape.grad[self.number]!r})"

    def _repr_svg_(self):
        """The graph as a notebook shows it; None where _repr_html_ has something. See mingrad.visualize.reprs."""
        from mingrad.visualize.reprs import variable
        return variable(self)[0]

    def _repr_html_(self):
        """A summary of the graph as a notebook shows it; None where _repr_svg_ has something."""
        from mingrad.visualize.reprs import variable
        return variable(self)[1]

    def __format__(self, spec):
        if not spec:
            return repr(self)
        refuse_reading(self, "the text")
        return format(tape.value[self.number], spec)

    def __bool__(self):
        cdef bint outcome = tape.value[self.number] != 0
        if is_recording():
            note_guard(Py_NE, self, None, outcome)
        return outcome

    def __hash__(self):
        return <Py_ssize_t>(<size_t><PyObject*>self >> 4)

    def __richcmp__(self, other, int op):
        return take(compare(<PyObject*>self, <PyObject*>other, op))

    def __float__(self):
        refuse_reading(self, "the number (for float())")
        raise TypeError("float() would leave the graph and lose the gradient: use .data for the number, mingrad.exp(v) and "
                        "its like instead of math.exp(v)")

    def __int__(self):
        refuse_reading(self, "the number (for int())")
        raise TypeError("int() would leave the graph and lose the gradient: use int(v.data)")

    def __complex__(self):
        refuse_reading(self, "the number (for complex())")
        raise TypeError("complex() would leave the graph and lose the gradient: use complex(v.data)")

    def __round__(self, digits=None):
        refuse_reading(self, "the number (for round())")
        raise TypeError("round() would leave the graph and lose the gradient: use round(v.data), or v.floor() and v.ceil()")

    def __trunc__(self):
        refuse_reading(self, "the number (for trunc())")
        raise TypeError("trunc() would leave the graph and lose the gradient: use math.trunc(v.data), or v.floor()")

    def __floor__(self):
        return take(unary(OP_FLOOR, <PyObject*>self))

    def __ceil__(self):
        return take(unary(OP_CEIL, <PyObject*>self))

    def __reduce__(self):
        if tape.row[self.number].op != OP_LEAF:
            raise TypeError(f"{describe(self.number)} is part of a graph and cannot be copied or pickled; detach() it first")
        state = getattr(self, "__dict__", None)
        slots = {}
        for kind in type(self).__mro__:
            names = kind.__dict__.get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if name not in ("__dict__", "__weakref__") and hasattr(self, name):
                    slots[name] = getattr(self, name)
        arguments = (type(self), self.data, tape.grad[self.number], self.requires_grad, self.label)
        if slots:
            return _rebuild, arguments, (state, slots)
        return (_rebuild, arguments, state) if state else (_rebuild, arguments)

    def __neg__(self):
        return take(unary(OP_NEG, <PyObject*>self))

    def __pos__(self):
        return self

    def __abs__(self):
        return take(unary(OP_ABS, <PyObject*>self))

    def __add__(left, right):
        return take(binary_any(OP_ADD, <PyObject*>left, <PyObject*>right))

    def __sub__(left, right):
        return take(binary_any(OP_SUB, <PyObject*>left, <PyObject*>right))

    def __mul__(left, right):
        return take(binary_any(OP_MUL, <PyObject*>left, <PyObject*>right))

    def __truediv__(left, right):
        return take(binary_any(OP_DIV, <PyObject*>left, <PyObject*>right))

    def __floordiv__(left, right):
        return take(binary_any(OP_FLOORDIV, <PyObject*>left, <PyObject*>right))

    def __mod__(left, right):
        return take(binary_any(OP_MOD, <PyObject*>left, <PyObject*>right))

    def __divmod__(left, right):
        quotient = take(binary_any(OP_FLOORDIV, <PyObject*>left, <PyObject*>right))
        if quotient is NotImplemented:
            return NotImplemented
        return quotient, take(binary_any(OP_MOD, <PyObject*>left, <PyObject*>right))

    def __pow__(left, right, modulus):
        if modulus is not None:
            raise TypeError("pow() with a modulus is not defined for Variables")
        return take(binary_any(OP_POW, <PyObject*>left, <PyObject*>right))

VARIABLE = <PyTypeObject*>Variable

cdef int run_backward(Variable root, object gradient, double seed, bint create_graph) except -1:
    """backward(), whose arguments have been looked at; seed: the gradient where that is a number."""
    cdef uint32_t culprit
    if create_graph:
        return backward_recorded(root, gradient)
    if tape.note[NOTE_CALL].n and backward_program(root.number, seed):
        return 0
    if tape.note[NOTE_HOOKS].n or tape.note[NOTE_CALL].n or thread_mode.anomaly or has_graph_grads():
        return backward_watched(root, seed)
    if not backward(root.number, seed, &culprit):
        refuse_stale(culprit, "backward()")
    return 0

cdef PyObject* construct "mg_construct"(PyObject** args, size_t n_args, PyObject* names) except NULL:
    """Variable(...), called without a tuple of arguments."""
    cdef double value
    cdef object self
    if PyVectorcall_NARGS(n_args) == 1 and names == NULL and as_number(args[0], &value):
        if tape.n >= tape.limit:
            safepoint(1)
        return record_leaf(value, True)
    return construct_slowly(args, PyVectorcall_NARGS(n_args), names)

cdef PyObject* construct_slowly(PyObject** args, Py_ssize_t n_args, PyObject* names) except NULL:
    cdef Py_ssize_t k
    cdef object self
    cdef dict keywords = {}
    if names != NULL:
        for k in range(PyTuple_GET_SIZE(names)):
            keywords[<object>PyTuple_GET_ITEM(names, k)] = <object>args[n_args + k]
    self = take(new_variable(VARIABLE))
    (<Variable>self).__init__(*[<object>args[k] for k in range(n_args)], **keywords)
    return Py_NewRef(<PyObject*>self)

cdef uint64_t last_hook = 0

cdef class HookHandle:
    """HookHandle(hooks, key=None)\n--\n\nWhat register_hook() returns: remove() ends the hook."""
    cdef dict hooks
    cdef object key

    def __init__(self, dict hooks not None, key=None):
        self.hooks = hooks
        self.key = key

    def remove(self):
        """The hook is not called any more. A second call does nothing."""
        cdef size_t k
        cdef Notes* notes = &tape.note[NOTE_HOOKS]
        if self.hooks is None:
            return
        self.hooks.pop(self.key, None)
        if not self.hooks:  # passes over this node need not be watched any more
            for k in range(notes.n):
                if notes.item[k].object is <PyObject*>self.hooks:
                    set_note(NOTE_HOOKS, notes.item[k].node, NULL)
                    break
        self.hooks = None

def _rebuild(kind, data, grad, requires_grad, label):
    """What copy and pickle call: a leaf of this class without running the class's own __init__."""
    self = kind.__new__(kind)
    Variable.__init__(self, data, requires_grad, label)
    self.grad = grad
    return self


# -- reading a graph ---------------------------------------------------------------------------------------------------------

cdef object number_text(double x):
    """As people write it: 2, 0.5."""
    text = repr(x)
    return text.removesuffix(".0")

cdef str op_text(uint32_t i):
    cdef row_t* row = tape.row + i
    cdef str symbol = op_symbol[row.op].decode()
    if row.op == OP_POW + NUMBER_SECOND:
        return symbol + number_text(row.constant)
    if row.op == OP_CROSS_ENTROPY:
        return f"{symbol}[{row.b}]"
    if row.op == OP_CUSTOM:
        return (<object>get_note(NOTE_CALL, i)).name
    return symbol

cdef str describe(uint32_t i):
    """A node for an error message: its label, or what it is."""
    cdef str label = get_label(i), op = op_text(i)
    if label:
        return f"Variable {label!r}"
    if op:
        return f"the result of {op!r} (data={tape.value[i]!r})"
    return f"the leaf Variable(data={tape.value[i]!r})"

cdef int refuse_stale(uint32_t culprit, str purpose) except -1:
    """Raise the error for a graph that used a leaf before it was written."""
    raise RuntimeError(f"data of {describe(culprit)} (or its requires_grad) was written after this graph had used it; run the "
                       f"forward pass again before {purpose}")

cdef str call_text(unsigned op, list numbers):
    """An op on numbers as an expression: 'sqrt(0.0)', '1.0 / 0.0'."""
    cdef str symbol = op_symbol[op].decode()
    if len(numbers) == 2 and not symbol.isidentifier():
        return f"{numbers[0]} {symbol} {numbers[1]}"
    return f"{symbol}({', '.join(numbers)})"

cdef list operands_of(Variable v):
    """Variables of the operands of v's node, in order. The list comes first: making a container may run any code, which may
    move nodes; making a Variable does not."""
    cdef list found = []
    cdef row_t row = tape.row[v.number]
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j
    if shape == SHAPE_A or shape == SHAPE_AB:
        found.append(take(handle_of(row.a)))
    if shape == SHAPE_A and op_number_place[row.op] != NUMBER_NOWHERE and row.op != OP_POW + NUMBER_SECOND:
        ready(1)
        found.insert(1 if op_number_place[row.op] == NUMBER_SECOND else 0, take(record_leaf(row.constant, False)))
    elif shape == SHAPE_AB:
        found.append(take(handle_of(row.b)))
    elif shape == SHAPE_AFFINE:
        for j in range(row.c + op_bias(row.op)):
            found.append(take(handle_of(row.a + j)))
        for j in range(row.c):
            found.append(take(handle_of(row.b + j)))
    elif shape == SHAPE_RANGE or shape == SHAPE_PAIR:
        for j in range(row.c):
            found.append(take(handle_of(range_item(&row, row.a, j))))
        for j in range(row.c if shape == SHAPE_PAIR else 0):
            found.append(take(handle_of(range_item(&row, second_start(&row), j))))
    return found


# -- thread modes --------------------------------------------------------------------------------------------------------------

cdef bint switch_no_grad(bint on) noexcept:
    """Switch recording off (True) or on for this thread. Returns what it was."""
    cdef bint was = thread_mode.no_grad
    if on != was:
        thread_mode.no_grad = on
        tape.no_grad_threads += 1 if on else -1
        tape.limit = 0  # the next operation asks safepoint() whose mode holds
    return was

def _set_no_grad(on):
    """Switch recording off (True) or on for this thread; None: leave it. Returns what it was."""
    return bool(thread_mode.no_grad) if on is None else switch_no_grad(on)

def _ignored_errors():
    """Which float errors this thread does not raise."""
    return thread_mode.ignore

_ERRORS = {"divide": 1 << ERROR_DIVISION, "over": 1 << ERROR_OVERFLOW, "invalid": 1 << ERROR_VALUE}

cdef class Modes:
    """The modes of a thread when a Mode was entered."""
    cdef int no_grad, ignore
    cdef bint anomaly
    cdef Modes under  # those of the Mode's entry before that

cdef class Mode:
    """What the context managers of mingrad.engine do to the thread's modes: by itself nothing. It is compiled because Python looks
    for Ctrl-C whenever a call returns: an __enter__ in Python could end between its change and the block that undoes it. For the
    same reason leaving needs no memory before the modes are what they were."""
    cdef int off               # 1: recording is switched off, 0: on, -1: left as it is
    cdef int raised, ignored   # float errors, bits
    cdef bint anomaly
    cdef Modes before          # for each time that it was entered and not left

    def __cinit__(self, *args, **kwargs):
        self.off = -1

    def _set(self, int off=-1, int raised=0, int ignored=0, bint anomaly=False):
        self.off, self.raised, self.ignored, self.anomaly = off, raised, ignored, anomaly

    def _twin(self):
        """Another one that does the same."""
        cdef Mode twin = type(self).__new__(type(self))
        twin._set(self.off, self.raised, self.ignored, self.anomaly)
        return twin

    def __enter__(self):
        cdef Modes before = Modes.__new__(Modes)
        before.no_grad, before.ignore, before.anomaly = thread_mode.no_grad, thread_mode.ignore, thread_mode.anomaly
        before.under = self.before
        self.before = before
        if self.off >= 0:
            switch_no_grad(self.off)
        thread_mode.ignore = thread_mode.ignore & ~self.raised | self.ignored
        if self.anomaly:
            switch_anomaly(True)
        return self

    def __exit__(self, kind, error, trace):
        cdef Modes before = self.before
        if before is None:
            raise RuntimeError(f"{type(self).__name__}: left more often than entered")
        self.before = before.under
        try:
            if self.anomaly and kind is None and thread_mode.anomaly:
                check_recorded()
        finally:
            if self.off >= 0:
                switch_no_grad(before.no_grad)
            if self.raised | self.ignored:
                thread_mode.ignore = before.ignore
            if self.anomaly:
                switch_anomaly(before.anomaly)
