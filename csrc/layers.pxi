# layers.pxi: dense layers as runs of nodes. mingrad/nn.py says what a neuron, a layer and an MLP compute; here is the same
# mathematics for models whose weights lie on the tape in order, layer by layer, without a Python object per hidden node.
#
# A plan is such a model's layout. It is made when a model is first called, and made again after anything it relies on has
# changed: the lists and attributes of neurons and layers are watched (Watched, WatchedList), and a change of one that a
# plan has looked at raises `structure`, the number every call compares. A model that fits no plan (a subclass, a replaced
# or shared weight) is called the general way, by its Python method forward().

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object, object, PyObject*) except -1
    int PyErr_CheckSignals() except -1

cdef class WatchedList(list):
    """WatchedList(values=())\n--\n\nA list that a layer keeps its weights or neurons in. It is used like any list; it notices when
    it is changed."""
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

    def append(self, value, /):
        self.changed()
        list.append(self, value)

    def extend(self, values, /):
        self.changed()
        list.extend(self, values)

    def insert(self, index, value, /):
        self.changed()
        list.insert(self, index, value)

    def pop(self, index=-1, /):
        value = self[index]  # list.pop would come back here: Cython's shortcut calls the method by name
        del self[index]
        return value

    def remove(self, value, /):
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


cdef struct Stage:   # one dense layer of a plan
    uint32_t inputs, outputs
    uint32_t bias    # 1 if each row of weights is followed by a bias, else 0
    uint32_t op      # the activation's opcode; OP_LEAF: none
    uint32_t flags   # of its affine rows
    double setting   # the number beside the activation's operand, where its opcode has one

cdef class Plan:
    """Where a stack of dense layers lies on the tape, and how to run it."""
    cdef list first        # of each layer: the Variable of its first weight
    cdef list parameters   # every weight and bias, in the order of named_parameters()
    cdef Stage* stage
    cdef int depth
    cdef uint32_t inputs
    cdef uint32_t width    # outputs of the last layer
    cdef uint32_t nodes    # recorded by one forward pass
    cdef bint vector       # gives a VariableList, as Linear does; else a Variable for one output and a list for several
    cdef bint trainable    # some parameter asks for a gradient

    def __dealloc__(self):
        PyMem_RawFree(self.stage)

cdef class Watched:
    """Watched()\n--\n\nBase of Neuron, Layer and MLP: calls go through a plan where there is one; attributes are watched."""
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
        cdef Stage* stage
        if self.seen != structure:
            make_plan(self)
        if self.plan is None:
            return False
        for k in range(self.plan.depth):
            stage = self.plan.stage + k
            forget_graph_grads((<Variable>self.plan.first[k]).number, stage.outputs * (stage.inputs + stage.bias))
            memset(tape.grad + (<Variable>self.plan.first[k]).number, 0,
                   stage.outputs * (stage.inputs + stage.bias) * sizeof(double))
        return True

cdef uint32_t activation_op(str name, double* setting) except? OP_LEAF:
    """Opcode of an activation by name: a public unary op, or one with a setting at its default. OP_LEAF if it is none."""
    setting[0] = SETTINGS.get(name, 0.0)
    return ACTIVATIONS.get(name, OP_LEAF)

cdef dict ACTIVATIONS = {op_texts[k].name.decode(): op_texts[k].op for k in range(OP_TEXT_COUNT)
                         if op_texts[k].kind == b"unary" and not op_texts[k].name.startswith(b"_")}
ACTIVATIONS["elu"] = OP_ELU + NUMBER_SECOND
ACTIVATIONS["leaky_relu"] = OP_LEAKY_RELU + NUMBER_SECOND

def _is_activation(name):
    """Whether this is the name of an activation: a unary op, elu or leaky_relu."""
    cdef double setting
    return isinstance(name, str) and activation_op(name, &setting) != OP_LEAF

cdef int make_plan(Watched model) except -1:
    """Look at the model's layout and make its plan, or none."""
    model.plan = None
    model.seen = structure
    stages = model._stages()
    if stages:
        watch(model)
        model.plan = plan_of(stages)
        if model.plan is not None:
            model.plan.vector = model._vector
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

cdef tuple stage_of(object stage):
    """A dense layer as (rows of weights, list of biases or None, activation's name, its setting or None); None if this is
    none. stage: that tuple, or a list of neurons."""
    if type(stage) is tuple:
        rows, biases = stage[:2]
        return stage if type(rows) is WatchedList and (biases is None or type(biases) is WatchedList) else None
    if type(stage) is not WatchedList or not stage:
        return None
    activation = None
    for neuron in stage:
        chosen = neuron.activation if neuron.nonlin else "linear"
        if neuron is stage[0]:
            activation = chosen
        if not isinstance(chosen, str) or chosen != activation:
            return None
    return [neuron.w for neuron in stage], [neuron.b for neuron in stage], activation, None

cdef Plan plan_of(list stages):
    """The plan for these layers; None if they do not fit each other or are not laid out in order on the tape."""
    cdef Plan plan = Plan.__new__(Plan)
    cdef Stage* stage
    cdef int k
    plan.depth = len(stages)
    plan.first = []
    plan.parameters = []
    plan.nodes = 0
    plan.trainable = False
    resize(<void**>&plan.stage, plan.depth, sizeof(Stage))
    for k in range(plan.depth):
        layer = stage_of(stages[k])
        if layer is None:
            return None
        rows, biases, activation, setting = layer
        stage = plan.stage + k
        stage.op = OP_LEAF
        stage.setting = 0
        if activation != "linear":
            stage.op = activation_op(activation, &stage.setting)
            if stage.op == OP_LEAF:
                return None
            if setting is not None:
                stage.setting = setting
        if not rows or type(rows[0]) is not WatchedList or not rows[0]:
            return None
        stage.inputs = len(rows[0])
        stage.outputs = len(rows)
        stage.bias = biases is not None
        if k and (stage - 1).outputs != stage.inputs or biases is not None and len(biases) != len(rows):
            return None
        laid = []  # as they must lie on the tape: each row, its bias behind it
        for j, row in enumerate(rows):
            if type(row) is not WatchedList or <uint32_t>len(row) != stage.inputs:
                return None
            laid += row
            if biases is not None:
                laid.append(biases[j])
        if not in_order(plan, stage, laid):
            return None
        if type(stages[k]) is tuple:
            for row in rows:
                plan.parameters += row
            plan.parameters += biases or ()
        else:
            plan.parameters += laid
        plan.first.append(laid[0])
        plan.nodes += stage.outputs * (1 if stage.op == OP_LEAF else 2)
    plan.parameters = list(dict.fromkeys(plan.parameters))  # a layer may be there twice
    plan.inputs = plan.stage[0].inputs
    plan.width = plan.stage[plan.depth - 1].outputs
    return plan

cdef bint in_order(Plan plan, Stage* stage, list laid) except -1:
    """A layer's parameters are leaves that follow each other on the tape."""
    cdef uint32_t at, start = 0, j = 0
    stage.flags = ROW_REQUIRES
    for x in laid:
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
            stage.flags |= ROW_FROZEN
        j += 1
    return True


# -- a forward pass -------------------------------------------------------------------------------------------------------------
#
# Several samples are recorded layer by layer: the affine nodes of all samples, then their activations. So activations are one
# block over all samples, and a layer's weights stay in the processor's cache.

cdef enum:
    BATCH_NODES = 16384  # recorded at most between two looks for Ctrl-C, but one sample at least

cdef void push_layer(Stage* stage, uint32_t w, uint32_t x, bint x_requires, uint32_t rows) noexcept:
    """Record one layer on the inputs from x on, those of each sample behind those of the one before: runs of affine nodes
    and, with an activation, a run of those."""
    cdef uint32_t inputs = stage.inputs, outputs = stage.outputs, op = stage.op, n = tape.n, r, at
    cdef uint32_t affine = (OP_AFFINE if x_requires else OP_AFFINE_C) if stage.bias else OP_LINEAR if x_requires else OP_LINEAR_C
    for r in range(rows):
        at = n + r * outputs
        kernels.affine(tape.value + at, tape.value + w, tape.value + x, inputs, stage.bias, outputs)
        row_set_block(tape.row + at, affine, stage.flags, w, inputs + stage.bias, x, inputs, outputs)
        x += inputs
    outputs *= rows
    if op != OP_LEAF:
        op_block_value(op, tape.value + n + outputs, tape.value + n, stage.setting, outputs)
        row_set_block(tape.row + n + outputs, op, ROW_REQUIRES, n, 1, 0, 0, outputs)
        if stage.setting:
            for r in range(outputs):
                tape.row[n + outputs + r].constant = stage.setting
        outputs *= 2
    memset(tape.grad + n, 0, outputs * sizeof(double))
    memset(tape.handle + n, 0, outputs * sizeof(void*))
    tape.n = n + outputs

cdef inline double* refused(uint32_t op, double setting, double* x, double* y, uint32_t count) noexcept:
    """The first of these values y of an activation of x that is an error, as for a single Variable; NULL if none is."""
    cdef uint32_t j
    if op_can_fail(op):
        for j in range(count):
            if not isfinite(y[j]) and is_refused(op, x[j], setting, y[j]):
                return y + j
    return NULL

cdef int forward_from(Plan plan, uint32_t x, bint x_requires, uint32_t rows, uint32_t before, list outputs) except -1:
    """Run the plan on samples whose inputs stand on the tape from x on; append the outputs' Variables. There is room. before:
    what the tape goes back to if an activation refuses its operand or a handle gets no memory. outputs is made before: a list
    made only here could start Python's cyclic collector, and that any code, while the new nodes have no handles."""
    cdef int k
    cdef uint32_t j, count
    cdef Stage* stage
    cdef double* wrong
    cdef double operand, value
    cdef Py_ssize_t had = len(outputs)
    for k in range(plan.depth):
        stage = plan.stage + k
        push_layer(stage, (<Variable>plan.first[k]).number, x, x_requires, rows)
        count = rows * stage.outputs
        x = tape.n - count
        x_requires = True
        wrong = refused(stage.op, stage.setting, tape.value + x - count, tape.value + x, count)
        if wrong != NULL:
            value, operand = wrong[0], (wrong - count)[0]
            undo(before, tape.n_side)
            refuse(stage.op, operand, operand, value, False)
    try:
        for j in range(x, tape.n):
            outputs.append(take(new_handle(j)))
    except BaseException:
        del outputs[had:]
        undo(min(tape.n, before), tape.n_side)
        raise
    return 0

cdef int forward_unrecorded(Plan plan, double* x, uint32_t rows, double* y, list outputs) except -1:
    """The values alone, as constants: inside no_grad(), or where nothing asks for a gradient. x: the samples, in scratch; y:
    room for plan.nodes numbers, there too. The tape has room for the outputs."""
    cdef int k
    cdef uint32_t j, r
    cdef Stage* stage
    cdef double* a
    cdef double* z
    cdef double* wrong
    for r in range(rows):
        a = x + r * plan.inputs
        z = y
        for k in range(plan.depth):
            stage = plan.stage + k
            kernels.affine(z, tape.value + (<Variable>plan.first[k]).number, a, stage.inputs, stage.bias, stage.outputs)
            a = z
            z += stage.outputs
            if stage.op != OP_LEAF:
                op_block_value(stage.op, z, a, stage.setting, stage.outputs)
                wrong = refused(stage.op, stage.setting, a, z, stage.outputs)
                if wrong != NULL:
                    refuse(stage.op, (wrong - stage.outputs)[0], (wrong - stage.outputs)[0], wrong[0], False)
                a = z
                z += stage.outputs
        for j in range(plan.width):
            outputs.append(take(record_leaf(a[j], False)))
    return 0

cdef int forward_numbers(Plan plan, uint32_t rows, list outputs) except -1:
    """Samples of plain numbers, in scratch, with room for plan.nodes numbers behind them."""
    cdef uint32_t count = rows * plan.inputs, j, x
    cdef int off = ready(count + rows * plan.nodes)
    if off or not (plan.trainable or is_recording()):
        return forward_unrecorded(plan, tape.scratch, rows, tape.scratch + count, outputs)
    x = tape.n
    for j in range(count):
        push_leaf(tape.scratch[j], False)
    return forward_from(plan, x, False, rows, x, outputs)

cdef int forward_items(Plan plan, PyObject** items, Py_ssize_t count, list outputs) except -1:
    """One sample as Variables and floats. items stay alive and unchanged: the caller holds them."""
    cdef uint32_t inputs = plan.inputs, first = 0, x, before
    cdef Py_ssize_t k, nodes = 0
    cdef bint run = True, requires = False
    cdef int off
    if count != inputs:
        raise ValueError(f"expected {inputs} inputs, got {count}")
    for k in range(count):
        if is_variable(items[k]):
            x = NUMBER(items[k])
            if k == 0:
                first = x
            run = run and x == first + k
            nodes += 1
            requires |= takes_part(x)
        else:
            run = False
    reserve_scratch(inputs + plan.nodes)
    off = ready(inputs + plan.nodes)
    if off or nodes == 0 or not (plan.trainable or requires or is_recording()):
        for k in range(count):
            tape.scratch[k] = number_or_value(items[k])
        if nodes == 0:
            return forward_numbers(plan, 1, outputs)
        return forward_unrecorded(plan, tape.scratch, 1, tape.scratch + inputs, outputs)
    before = tape.n
    if run:
        return forward_from(plan, NUMBER(items[0]), requires, 1, before, outputs)
    for k in range(count):  # bring them into one run
        if not is_variable(items[k]):
            push_leaf(PyFloat_AS_DOUBLE(items[k]), False)
            continue
        x = NUMBER(items[k])
        if takes_part(x):
            push(OP_COPY, ROW_REQUIRES, x, 0, 0, tape.value[x])
        else:
            push_leaf(tape.value[x], False)
    return forward_from(plan, before, requires, 1, before, outputs)

cdef object shaped(Plan plan, list outputs):
    """One sample's outputs as the model gives them."""
    if plan.vector:
        return list_of(outputs)
    return outputs[0] if plan.width == 1 else outputs

cdef list shaped_rows(Plan plan, list outputs):
    """The same for several samples, their outputs one behind the other."""
    cdef Py_ssize_t k, width = plan.width
    if width == 1 and not plan.vector:
        return outputs
    return [shaped(plan, outputs[k : k + width]) for k in range(0, len(outputs), width)]

cdef object run_plan(Plan plan, object x):
    """Call a planned model on one sample or on rows of samples."""
    cdef list outputs = []
    if FREE_THREADED and type(x) is list:  # others may change it meanwhile
        x = tuple(<list>x)
    if type(x) is VariableList:
        x = (<VariableList>x).items
    if type(x) is list and all_exact(list_items(x), len(<list>x)):
        forward_items(plan, list_items(x), len(<list>x), outputs)
        return shaped(plan, outputs)
    if PyObject_CheckBuffer(x):
        return forward_buffer(plan, x)
    x = samples(x)
    if x and is_sample(x[0]):
        return run_rows(plan, <tuple>x)
    if not all_exact(tuple_items(x), len(<tuple>x)):
        x = operands(x, MODEL)
    forward_items(plan, tuple_items(x), len(<tuple>x), outputs)
    return shaped(plan, outputs)

cdef list run_rows(Plan plan, tuple rows):
    """Call a planned model on each of several samples. Samples of exact floats and ints in lists and tuples are taken many at
    a time; any other comes by itself."""
    cdef list answers = [], outputs
    cdef Py_ssize_t k = 0, begun
    cdef uint32_t most = max(1, BATCH_NODES // (plan.inputs + plan.nodes)), taken
    while k < len(rows):
        PyErr_CheckSignals()  # Ctrl-C
        outputs = []
        reserve_scratch(most * plan.inputs + plan.nodes)
        taken = 0
        while taken < most and k < len(rows) and take_sample(plan, rows[k], tape.scratch + taken * plan.inputs):
            taken += 1
            k += 1
        if taken:
            forward_numbers(plan, taken, outputs)
            answers += shaped_rows(plan, outputs)
        else:
            answers.append(run_plan(plan, rows[k]))
            k += 1
    return answers

cdef bint take_sample(Plan plan, object sample, double* xs) except -1:
    """Copy a sample of exact floats and ints to xs; False if it is not one of those."""
    cdef PyObject** items
    cdef Py_ssize_t k, n
    if FREE_THREADED and type(sample) is list:
        sample = tuple(<list>sample)
    if type(sample) is list:
        items = list_items(sample)
    elif type(sample) is tuple:
        items = tuple_items(sample)
    else:
        return False
    n = len(sample)
    if n != plan.inputs:
        return False
    for k in range(n):
        if PyFloat_CheckExact(items[k]):
            xs[k] = PyFloat_AS_DOUBLE(items[k])
        elif PyLong_CheckExact(items[k]):
            xs[k] = PyLong_AsDouble(items[k])
        else:
            return False
    return True

cdef str MODEL = "a model's input"

cdef object general(Watched model, object x):
    """Call a model without a plan: its forward() for one sample, or for each of several rows."""
    if type(x) is VariableList:
        return model.forward(x)
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
    return isinstance(x, (list, tuple, VariableList)) or (
        PyObject_CheckBuffer(x) and not isinstance(x, (bytes, bytearray)) and not is_numpy_number(x))

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
    cdef uint32_t inputs = plan.inputs
    cdef Py_ssize_t i, j, rows, step, count, done = 0
    cdef bytes form
    cdef list outputs, answers = []
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
        rows = view.shape[0] if view.ndim == 2 else 1
        step = view.strides[0] if view.ndim == 2 else 0
        while done < rows:
            PyErr_CheckSignals()  # Ctrl-C
            outputs = []
            count = min(rows - done, max(1, BATCH_NODES // (inputs + plan.nodes)))
            reserve_scratch(count * inputs + plan.nodes)
            for i in range(count):
                for j in range(inputs):
                    tape.scratch[i * inputs + j] = buffer_item(
                        <char*>view.buf + (done + i) * step + j * view.strides[view.ndim - 1], form[0], view.itemsize)
            forward_numbers(plan, <uint32_t>count, outputs)
            answers += shaped_rows(plan, outputs)
            done += count
    finally:
        PyBuffer_Release(&view)
    return answers if view.ndim == 2 else answers[0]

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
