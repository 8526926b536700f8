# layers.pxi: dense layers as runs of nodes. mingrad/nn.py says what a neuron, a layer and an MLP compute; here is the same
# mathematics for models whose weights lie on the tape in order, layer by layer, without a Python object per hidden node.
#
# A plan is such a model's layout. It is made when a model is first called, and made again after anything it relies on has
# changed: the lists and attributes of neurons and layers are watched (Watched, WatchedList), and a change of one that a
# plan has looked at raises `structure`, the number every call compares. A model that fits no plan (a subclass, a replaced
# or shared weight) is called the general way, by its Python method forward().

from cpython.buffer cimport PyObject_CheckBuffer, PyObject_GetBuffer, PyBuffer_Release, PyBUF_STRIDES, PyBUF_FORMAT, \
    PyBUF_RECORDS_RO

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object, object, PyObject*) except -1
    int PyErr_CheckSignals() except -1

cdef class WatchedList(list):
    """A list that a layer keeps its weights or neurons in. It is used like any list; it notices when it is changed."""
    cdef bint in_plan

    cdef inline void changed(self):
        if self.in_plan:
            structure_changed()
            self.in_plan = False

    def __setitem__(self, key, value):
        self.changed()
        list.__setitem__(self, key, value)

    def __delitem__(self, key):
        self.changed()
        list.__delitem__(self, key)

    def __iadd__(self, values):
        self.changed()
        list.extend(self, values)
        return self

    def __imul__(self, count):
        self.changed()
        list.__setitem__(self, slice(None), list(self) * count)
        return self

    def append(self, value):
        self.changed()
        list.append(self, value)

    def extend(self, values):
        self.changed()
        list.extend(self, values)

    def insert(self, index, value):
        self.changed()
        list.insert(self, index, value)

    def pop(self, index=-1):
        value = self[index]  # list.pop would come back here: Cython's shortcut calls the method by name
        del self[index]
        return value

    def remove(self, value):
        self.changed()
        list.remove(self, value)

    def clear(self):
        self.changed()
        list.clear(self)

    def reverse(self):
        self.changed()
        list.reverse(self)

    def sort(self, *, key=None, reverse=False):
        self.changed()
        list.sort(self, key=key, reverse=reverse)

    def __init__(self, values=()):
        self.changed()
        list.__init__(self, values)

    def __reduce__(self):
        return WatchedList, (), None, iter(self)


cdef class Plan:
    """Where a stack of dense layers lies on the tape, and how to run it."""
    cdef list first        # of each layer: the Variable of its first weight
    cdef list parameters   # every weight and bias, in order
    cdef uint32_t* shape   # of each layer: inputs, outputs, activation's opcode (OP_LEAF: none), its affine rows' flags
    cdef double* setting   # of each layer: the number beside the activation's operand, where its opcode has one
    cdef int depth
    cdef uint32_t nodes    # recorded by one forward pass
    cdef uint32_t widest
    cdef bint trainable    # some parameter asks for a gradient

    def __dealloc__(self):
        PyMem_RawFree(self.shape)
        PyMem_RawFree(self.setting)

cdef class Watched:
    """Base of Neuron, Layer and MLP: calls go through a plan where there is one; attributes are watched."""
    cdef Plan plan
    cdef uint64_t seen   # value of `structure` when plan was made
    cdef bint in_plan

    def __setattr__(self, name, value):
        if self.in_plan:
            structure_changed()
            self.in_plan = False
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, name):
        if self.in_plan:
            structure_changed()
            self.in_plan = False
        PyObject_GenericSetAttr(self, name, NULL)

    def __call__(self, x):
        if self.seen != structure:
            make_plan(self)
        if self.plan is None:
            return general(self, x)
        return run_plan(self.plan, x)

    def __getstate__(self):
        return vars(self)  # a copy makes its own plan

    def _parameters(self):
        """The parameters of a planned model as a new list; None without a plan."""
        if self.seen != structure:
            make_plan(self)
        return None if self.plan is None else list(self.plan.parameters)

    def _zero_grad(self):
        """Zero the gradients of a planned model; False without a plan."""
        cdef int k
        cdef uint32_t* shape
        if self.seen != structure:
            make_plan(self)
        if self.plan is None:
            return False
        for k in range(self.plan.depth):
            shape = self.plan.shape + 4 * k
            memset(tape.grad + (<Variable>self.plan.first[k]).number, 0, shape[1] * (shape[0] + 1) * sizeof(double))
        return True

cdef uint32_t activation_op(str name, double* setting) except? OP_LEAF:
    """Opcode of an activation by name: a public unary op, or one with a setting at its default. OP_LEAF if it is none."""
    cdef int k
    cdef bytes wanted = name.encode()
    setting[0] = 0
    if name in SETTINGS:
        setting[0] = SETTINGS[name]
        return (OP_ELU if name == "elu" else OP_LEAKY_RELU) + NUMBER_SECOND
    for k in range(OP_TEXT_COUNT):
        if op_texts[k].name == wanted and op_texts[k].kind == b"unary" and not name.startswith("_"):
            return op_texts[k].op
    return OP_LEAF

def _is_activation(name):
    """Whether this is the name of an activation: a unary op, elu or leaky_relu."""
    cdef double setting
    return isinstance(name, str) and activation_op(name, &setting) != OP_LEAF

cdef int make_plan(Watched model) except -1:
    """Look at the model's layout and make its plan, or none."""
    model.plan = None
    model.seen = structure
    layers = model._stages()  # lists of neurons, or None
    if layers:
        watch(model)
        model.plan = plan_of(layers)
    return 0

cdef int watch(object part) except -1:
    """A change of this part of a model, or of a part of it, is to be noticed from now on."""
    if isinstance(part, Watched):
        (<Watched>part).in_plan = True
        for child in vars(part).values():
            watch(child)
    elif isinstance(part, WatchedList):
        (<WatchedList>part).in_plan = True
        for child in <WatchedList>part:
            watch(child)
    return 0

cdef Plan plan_of(list layers):
    """The plan for these lists of neurons; None if they are not laid out in order or not shaped like dense layers."""
    cdef Plan plan = Plan.__new__(Plan)
    cdef uint32_t op, inputs = 0, k
    cdef object w, neuron
    plan.depth = len(layers)
    plan.first = []
    plan.parameters = []
    plan.nodes = 0
    plan.widest = 0
    resize(<void**>&plan.shape, 4 * len(layers), sizeof(uint32_t))
    resize(<void**>&plan.setting, len(layers), sizeof(double))
    for k, neurons in enumerate(layers):
        if type(neurons) is not WatchedList or not neurons:
            return None
        activation = None
        for neuron in neurons:
            w = neuron.w
            if type(w) is not WatchedList or not w:
                return None
            chosen = neuron.activation if neuron.nonlin else "linear"
            if neuron is neurons[0]:
                activation = chosen
                inputs = len(w)
                plan.first.append(w[0])
            if not isinstance(chosen, str) or chosen != activation or <uint32_t>len(w) != inputs:
                return None
            plan.parameters.extend(w)
            plan.parameters.append(neuron.b)
        op = OP_LEAF
        if activation != "linear":
            op = activation_op(activation, plan.setting + k)
            if op == OP_LEAF:
                return None
        if k and plan.shape[4 * k - 3] != inputs:
            return None
        plan.shape[4 * k] = inputs
        plan.shape[4 * k + 1] = len(neurons)
        plan.shape[4 * k + 2] = op
        plan.nodes += len(neurons) * (1 if op == OP_LEAF else 2)
        plan.widest = max(plan.widest, <uint32_t>len(neurons))
    if not in_order(plan):
        return None
    return plan

cdef bint in_order(Plan plan) except -1:
    """Each layer's parameters are leaves that follow each other on the tape."""
    cdef int k
    cdef uint32_t j, at, start
    cdef size_t p = 0
    plan.trainable = False
    for k in range(plan.depth):
        start = 0
        plan.shape[4 * k + 3] = ROW_REQUIRES
        for j in range((plan.shape[4 * k] + 1) * plan.shape[4 * k + 1]):
            x = plan.parameters[p]
            p += 1
            if not is_variable(<PyObject*>x):
                return False
            at = NUMBER(<PyObject*>x)
            if j == 0:
                start = at
            if at != start + j or tape.row[at].op != OP_LEAF:
                return False
            if tape.row[at].flags & ROW_REQUIRES:
                plan.trainable = True
            else:
                plan.shape[4 * k + 3] |= ROW_FROZEN
    return True


# -- a forward pass -------------------------------------------------------------------------------------------------------------

cdef void push_layer(uint32_t* shape, double setting, uint32_t w, uint32_t x, bint x_requires) noexcept:
    """Record one layer on the inputs from x on: a run of affine nodes and, with an activation, a run of those."""
    cdef uint32_t inputs = shape[0], outputs = shape[1], op = shape[2], n = tape.n, j
    kernels.affine(tape.value + n, tape.value + w, tape.value + x, inputs, outputs)
    row_set_block(tape.row + n, OP_AFFINE if x_requires else OP_AFFINE_C, shape[3], w, inputs + 1, x, inputs, outputs)
    if op != OP_LEAF:
        op_block_value(op, tape.value + n + outputs, tape.value + n, setting, outputs)
        row_set_block(tape.row + n + outputs, op, ROW_REQUIRES, n, 1, 0, 0, outputs)
        if setting:
            for j in range(outputs):
                tape.row[n + outputs + j].constant = setting
        outputs *= 2
    memset(tape.grad + n, 0, outputs * sizeof(double))
    memset(tape.handle + n, 0, outputs * sizeof(void*))
    tape.n = n + outputs

cdef int check_layer(uint32_t op, uint32_t first, uint32_t count) except -1:
    """An activation with a domain raises what it raises for a single Variable."""
    cdef uint32_t j
    for j in range(first, first + count):
        if not isfinite(tape.value[j]):
            refuse(op, tape.value[tape.row[j].a], tape.value[tape.row[j].a], tape.value[j], False)
    return 0

cdef object forward_from(Plan plan, uint32_t x, bint x_requires, uint32_t before, list outputs):
    """Run the plan on inputs that stand on the tape from x on. There is room. before: what the tape goes back to if an
    activation refuses its operand or a handle gets no memory. outputs: an empty list to fill; a list made only here could
    start Python's cyclic collector, and that any code, while the new nodes have no handles."""
    cdef int k
    cdef uint32_t j
    cdef uint32_t* shape = plan.shape
    cdef bint requires = x_requires
    try:
        for k in range(plan.depth):
            shape = plan.shape + 4 * k
            push_layer(shape, plan.setting[k], (<Variable>plan.first[k]).number, x, requires)
            x = tape.n - shape[1]
            requires = True
            if shape[2] != OP_LEAF:
                check_layer(shape[2], x, shape[1])
        if shape[1] == 1:
            return take(new_handle(x))
        for j in range(shape[1]):
            outputs.append(take(new_handle(x + j)))
        return outputs
    except BaseException:
        outputs.clear()
        undo(min(tape.n, before), tape.n_side)
        raise

cdef object forward_unrecorded(Plan plan, double* x, list outputs):
    """The values alone, as constants: inside no_grad(), or where nothing asks for a gradient. x is scratch[0 .. inputs);
    scratch has room for all layers behind it."""
    cdef int k
    cdef uint32_t j
    cdef uint32_t* shape = plan.shape
    cdef double* y = x + shape[0]
    cdef double* z
    for k in range(plan.depth):
        shape = plan.shape + 4 * k
        kernels.affine(y, tape.value + (<Variable>plan.first[k]).number, x, shape[0], shape[1])
        x = y
        if shape[2] != OP_LEAF:
            z = y + shape[1]
            op_block_value(shape[2], z, y, plan.setting[k], shape[1])
            for j in range(shape[1]):
                if not isfinite(z[j]):
                    refuse(shape[2], y[j], y[j], z[j], False)
            x = z
        y = x + shape[1]
    if shape[1] == 1:
        return take(record_leaf(x[0], False))
    for j in range(shape[1]):
        outputs.append(take(record_leaf(x[j], False)))
    return outputs

cdef object forward_numbers(Plan plan, double* xs, list outputs):
    """One sample of plain numbers, in scratch."""
    cdef uint32_t inputs = plan.shape[0], j, x
    cdef int off = ready(inputs + plan.nodes)
    if off or not plan.trainable:
        return forward_unrecorded(plan, xs, outputs)
    x = tape.n
    for j in range(inputs):
        push_leaf(xs[j], False)
    return forward_from(plan, x, False, x, outputs)

cdef object forward_items(Plan plan, PyObject** items, Py_ssize_t count):
    """One sample as Variables and floats. items stay alive and unchanged: the caller holds them."""
    cdef uint32_t inputs = plan.shape[0], first = 0, x, before
    cdef Py_ssize_t k, nodes = 0
    cdef bint run = True, requires = False
    cdef int off
    cdef list outputs = []
    if count != inputs:
        raise ValueError(f"expected {inputs} inputs, got {count}")
    for k in range(count):
        if is_variable(items[k]):
            x = NUMBER(items[k])
            if k == 0:
                first = x
            run = run and x == first + k
            nodes += 1
            requires |= tape.row[x].flags & ROW_REQUIRES
        else:
            run = False
    reserve_scratch(inputs + plan.nodes)
    off = ready(inputs + plan.nodes)
    if off or nodes == 0 or not (plan.trainable or requires):
        for k in range(count):
            tape.scratch[k] = number_or_value(items[k])
        if nodes == 0:
            return forward_numbers(plan, tape.scratch, outputs)
        return forward_unrecorded(plan, tape.scratch, outputs)
    before = tape.n
    if run:
        return forward_from(plan, NUMBER(items[0]), requires, before, outputs)
    for k in range(count):  # bring them into one run
        if not is_variable(items[k]):
            push_leaf(PyFloat_AS_DOUBLE(items[k]), False)
            continue
        x = NUMBER(items[k])
        if tape.row[x].flags & ROW_REQUIRES:
            push(OP_COPY, ROW_REQUIRES, x, 0, 0, tape.value[x])
        else:
            push_leaf(tape.value[x], False)
    return forward_from(plan, before, requires, before, outputs)

cdef object run_plan(Plan plan, object x):
    """Call a planned model on one sample or on rows of samples."""
    if type(x) is list and all_exact(list_items(x), len(<list>x)):
        return forward_items(plan, list_items(x), len(<list>x))
    if PyObject_CheckBuffer(x):
        return forward_buffer(plan, x)
    x = samples(x)
    if x and is_sample(x[0]):
        return [run_row(plan, sample) for sample in x]
    if not all_exact(tuple_items(x), len(<tuple>x)):
        x = operands(x, MODEL)
    return forward_items(plan, tuple_items(x), len(<tuple>x))

cdef object run_row(Plan plan, object x):
    PyErr_CheckSignals()  # Ctrl-C
    return run_plan(plan, x)

cdef str MODEL = "a model's input"

cdef object general(Watched model, object x):
    """Call a model without a plan: its forward() for one sample, or for each of several rows."""
    if PyObject_CheckBuffer(x) and not isinstance(x, (bytes, bytearray)) and hasattr(x, "tolist"):
        x = x.tolist()
    if type(x) is not list:
        x = samples(x)
    if x and is_sample(x[0]):
        return [general(model, sample) for sample in x]
    return model.forward(x)

cdef tuple samples(object x):
    """The items of a model's argument: inputs, or samples."""
    if not isinstance(x, (Variable, str, bytes, bytearray, int, float, dict, set, frozenset)):
        try:
            return tuple(x)
        except TypeError:
            pass
    raise TypeError(f"{MODEL}: expected a sequence of Variables and numbers, or rows of them, got {type_name(<PyObject*>x)}")

cdef extern from *:
    """
    static PyObject **mg_list_items(PyObject *list) { return ((PyListObject *)list)->ob_item; }
    static PyObject **mg_tuple_items(PyObject *tuple) { return ((PyTupleObject *)tuple)->ob_item; }
    """
    PyObject** list_items "mg_list_items"(object)
    PyObject** tuple_items "mg_tuple_items"(object)

cdef bint is_sample(object x) except -1:
    """Is x a whole sample (True), or one input of a sample?"""
    return isinstance(x, (list, tuple)) or (PyObject_CheckBuffer(x) and not isinstance(x, (bytes, bytearray))
                                            and not is_numpy_number(x))

cdef bint all_exact(PyObject** items, Py_ssize_t count) noexcept:
    """Only Variables and floats: looking at them runs no code."""
    cdef Py_ssize_t k
    for k in range(count):
        if Py_TYPE(items[k]) is not VARIABLE and not PyFloat_CheckExact(items[k]):
            return False
    return True

cdef object forward_buffer(Plan plan, object x):
    """One sample (1-D) or rows of samples (2-D) of float64, float32 or integers, by the buffer protocol."""
    cdef Py_buffer view
    cdef uint32_t inputs = plan.shape[0]
    cdef Py_ssize_t i, j, rows
    cdef bytes form
    cdef list outputs = []
    PyObject_GetBuffer(x, &view, PyBUF_RECORDS_RO)
    try:
        form = view.format if view.format != NULL else b"B"
        if form[:1] in (b"@", b"=", b"<" if sys.byteorder == "little" else b">"):
            form = form[1:]
        if form not in (b"d", b"f", b"b", b"B", b"h", b"H", b"i", b"I", b"l", b"L", b"q", b"Q", b"?") \
                or view.ndim not in (1, 2) or isinstance(x, (bytes, bytearray)):
            if hasattr(x, "tolist") and view.ndim in (1, 2) and form != b"c":
                return run_plan(plan, x.tolist())  # half floats, objects: element by element
            raise TypeError(f"expected a 1-D or 2-D buffer of floats or ints, got {type_name(<PyObject*>x)} with format "
                            f"{form.decode()!r} and {view.ndim} dimensions")
        if view.shape[view.ndim - 1] != inputs:
            raise ValueError(f"expected {inputs} inputs, got {view.shape[view.ndim - 1]}"
                             + (f" in each of {view.shape[0]} rows" if view.ndim == 2 else ""))
        reserve_scratch(inputs + plan.nodes)
        rows = view.shape[0] if view.ndim == 2 else 1
        for i in range(rows):
            PyErr_CheckSignals()  # Ctrl-C
            answer = []
            for j in range(inputs):
                tape.scratch[j] = buffer_item(<char*>view.buf + (i * view.strides[0] if view.ndim == 2 else 0)
                                              + j * view.strides[view.ndim - 1], form[0], view.itemsize)
            outputs.append(forward_numbers(plan, tape.scratch, answer))
    finally:
        PyBuffer_Release(&view)
    return outputs if view.ndim == 2 else outputs[0]

cdef double buffer_item(char* at, char form, Py_ssize_t size) noexcept:
    """One element of a buffer. size tells the widths of 'l' apart."""
    cdef double d
    cdef float f
    cdef int64_t i = 0
    cdef uint64_t u = 0
    if form == c"d":
        memcpy(&d, at, 8)
        return d
    if form == c"f":
        memcpy(&f, at, 4)
        return f
    if LITTLE_ENDIAN:
        memcpy(&u, at, size)
    else:
        memcpy(<char*>&u + 8 - size, at, size)
    if form in (c"b", c"h", c"i", c"l", c"q"):
        i = <int64_t>(u << (64 - 8 * size)) >> (64 - 8 * size)
        return <double>i
    return <double>u

cdef bint LITTLE_ENDIAN = sys.byteorder == "little"
