# program.pxi: recorded programs: a graph copied off the tape and run again on other numbers without Python. Knows no formula and
# no user code; recording is in record.pxi, how a program runs in schedule.pxi, what people call in mingrad/program.py.
#
# A program's rows are the tape's, its operands slots: inputs first, then what it captured (Variables from outside, read at each
# call), then the rest in order of creation. A **schedule** is what runs. Each result is computed by the same operation on the same
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
    cdef double* value            # [n] at the recording; 0 for inputs and captured Variables
    cdef uint32_t* side           # [n_side]
    cdef size_t n_side
    cdef readonly uint32_t n_inputs
    cdef readonly tuple captured  # Variables; their slots follow the inputs'
    cdef readonly list outputs    # slots, and floats for results that nothing changes
    cdef public bint fast         # results may be rounded otherwise than eager ones: see compile()
    cdef readonly list guards     # (op, left, right, outcome): slots as ints, floats, right None: a truth value
    cdef Schedule latest          # the one that runs: with adjoints once somebody wanted those
    cdef dict rows_               # schedules for blocks of rows: by the same, and None
    cdef dict gradients           # of results and adjoints: by which inputs and captured Variables are asked for, as bytes
    cdef dict roles               # see roles_of()
    cdef uint32_t* site           # [n] of each slot the place in the user's code, in places; NULL: not known
    cdef list places              # (code, where), see python_place()

    def __dealloc__(self):
        PyMem_RawFree(self.row)
        PyMem_RawFree(self.value)
        PyMem_RawFree(self.side)
        PyMem_RawFree(self.site)

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
        raise RecordingError(outside_text(op_text(i)))
    if i < base:
        raise RecordingError(f"{describe(i)} was computed before the function that is being compiled, which would keep that "
                             "value for ever: compute it inside, or pass it as an argument")
    return 0

def _program(Program p not None, list inputs not None, list outputs not None, list guards not None, base=None):
    """Fill the new Program p with the graph between these Variables and outputs (Variables and floats), and return it; base: a
    Variable, where results that are older may not be used (None: the first input)."""
    global walk
    cdef list roots = [x for x in outputs if is_variable(<PyObject*>x)], captured = [], found = []
    cdef Recording recording = None
    cdef uint32_t i, j, k, low, count, slots
    cdef row_t* row
    cdef uint32_t* slot = NULL
    cdef size_t entries = 0
    cdef Walk* mine
    for _, left, right, _ in guards:
        roots += [x for x in (left, right) if is_variable(<PyObject*>x)]
    if thread_mode.recording != NULL:
        recording = <Recording>thread_mode.recording
        if recording.refusal is not None:
            raise RecordingError(recording.refusal)
    checked_variables(roots, False)
    checked_variables(inputs, False)
    mine = start_walk(roots, [], TO_ANYTHING if inputs or base is not None else TO_RECORD, False, False, 0)
    try:
        failing = recording.failing() if recording is not None else []
        if failing:  # that no result needs: they must raise all the same
            end_walk(mine)
            mine = NULL
            mine = start_walk(roots + failing, [], TO_ANYTHING, False, False, 0)
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
            if base is None and get_note(NOTE_HOOKS, i) != NULL:
                raise RuntimeError(hook_text(i))
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
        if recording is not None and recording.lines:
            resize(<void**>&p.site, count + slots + 1, sizeof(uint32_t))
            memset(p.site, 0xFF, (count + slots + 1) * sizeof(uint32_t))
        for i in range(walk.low, walk.low + walk.count):
            if on_walk(i) and slot[i] == NO_NODE:
                copy_row(p, i, slots, slot)
                slot[i] = slots
                if p.site != NULL:
                    p.site[slots] = i  # for now
                slots += 1
        if p.site != NULL:
            find_places(p, recording, slots)
        p.n = slots
        p.outputs = [<object>slot[(<Variable>x).number] if is_variable(<PyObject*>x) else x for x in outputs]
        for op, left, right, outcome in guards:
            found.append((op, <object>slot[(<Variable>left).number] if is_variable(<PyObject*>left) else left,
                          <object>slot[(<Variable>right).number] if is_variable(<PyObject*>right) else right, outcome))
        p.guards = found
    finally:
        PyMem_RawFree(slot)
        if mine != NULL:
            end_walk(mine)
    return p

cdef int find_places(Program p, Recording recording, uint32_t slots) except -1:
    """Of each slot, whose node is in p.site, the place in the user's code."""
    cdef uint32_t i
    cdef size_t k = 0, last = <size_t>-1
    cdef dict numbers = {}
    p.places = []
    for i in range(slots):
        if p.site[i] == NO_NODE:
            continue
        while k + 1 < recording.n_sites and recording.site[k + 1].node <= p.site[i]:
            k += 1
        if k >= recording.n_sites or recording.site[k].node > p.site[i]:
            p.site[i] = NO_NODE
            continue
        if k != last:
            place = <object>recording.site[k].code, recording.site[k].where
            number = numbers.setdefault(place, len(p.places))
            if <size_t>number == <size_t>len(p.places):
                p.places.append(place)
            last = k
        p.site[i] = <uint32_t>number
    return 0

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


# -- running it --------------------------------------------------------------------------------------------------------------------

cdef class ProgramCall:
    """One run of a program: its numbers, and what the nodes of its results know of it (see _custom())."""
    cdef readonly Program program
    cdef Schedule schedule          # None: the recording itself was the run
    cdef double* v                  # values of the run; without schedule of the leaves alone
    cdef uint32_t* operand          # [n_operands] of each operand of the nodes: which input or captured Variable it is
    cdef uint32_t n_operands
    cdef readonly Py_ssize_t count  # results that are no floats
    cdef bint ran                   # the values are those of the captured Variables (replay.pxi)
    cdef readonly str name

    def __dealloc__(self):
        if self.schedule is not None:
            self.schedule.give_back(self.v)
        else:
            PyMem_RawFree(self.v)
        PyMem_RawFree(self.operand)

    cdef inline double leaf(self, uint32_t k) noexcept:
        """The number of an input or captured Variable."""
        return self.v[k if self.schedule is None else self.schedule.place[k]]

    def vjp(self, list cotangents, list operands):
        """See _custom()."""
        cdef uint32_t k
        cdef list found = []
        if operands is not None:
            return adjoints_of(self.on_tape(operands), [0.0 if x is None else x for x in cotangents], operands, False)
        if self.schedule is None:
            operands = self.leaves()
            results = [x for x, seed in zip(self.on_tape(operands), cotangents) if seed is not None]
            return _adjoint_values(results, [x for x in cotangents if x is not None], operands)
        self.pull(cotangents)
        for k in range(self.n_operands):
            found.append(self.adjoint_at(k))
        return found

    cdef inline double adjoint_at(self, uint32_t k) noexcept:
        """After pull(): the adjoint of operand k."""
        return self.v[self.schedule.adjoint[self.operand[k]]]

    def jvp(self, list tangents, list operands):
        """See _custom()."""
        if operands is not None:
            return _tangents(self.on_tape(operands), operands, tangents)
        operands = self.leaves()
        return _tangent_values(self.on_tape(operands), operands, [tangents])[0]

    cdef list leaves(self):
        """New Variables with the operands' numbers."""
        cdef uint32_t k
        cdef list found = []
        for k in range(self.n_operands):
            ready(1)
            found.append(take(record_leaf(self.leaf(self.operand[k]), True)))
        return found

    cdef list on_tape(self, list operands):
        """The graph of this run as nodes; operands in their places, the run's numbers in the others. Returns the results that
        are nodes."""
        cdef list leaves = []
        cdef uint32_t k
        for k in range(self.program.n_inputs + <uint32_t>len(self.program.captured)):
            leaves.append(self.leaf(k))
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

cdef bint backward_program(uint32_t root, double seed) except -1:
    """backward() of a program's only result whose operands are leaves, as in training: nothing to walk over. False: it is
    something else, or must be refused, and nothing has happened."""
    cdef row_t row = tape.row[root]
    cdef uint32_t j, k, culprit
    cdef ProgramCall call
    if row.op != OP_CUSTOM or tape.note[NOTE_HOOKS].n or thread_mode.anomaly or has_graph_grads() or is_stale(root, &row, &culprit):
        return False
    known = <object>get_note(NOTE_CALL, root)
    if type(known) is not ProgramCall or (<ProgramCall>known).count != 1 or (<ProgramCall>known).schedule is None:
        return False
    for j in range(row.c):
        k = range_item(&row, row.a, j)
        if tape.row[k].op != OP_LEAF or not tape.row[k].flags & ROW_REQUIRES:
            return False
    call = known
    hold(1)
    try:
        call.pull([seed])
        for j in range(row.c):
            tape.grad[range_item(&row, row.a, j)] += call.adjoint_at(j)
        tape.grad[root] = seed
    finally:
        hold(-1)
    return True

cdef Schedule latest_schedule(Program p):
    if p.latest is None:
        p.latest = make_schedule(p, None)
    return p.latest

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

cdef extern from "Python.h":
    object PyBytes_FromStringAndSize(const char*, Py_ssize_t)

cdef enum:
    IS_VARIABLE = 1, IS_ACTIVE = 2, IS_NUMBER_OR_VARIABLE = 4  # kinds of values: floats are 0; active: it asks for a gradient

cdef inline int kind_of(object x) noexcept:
    """The kind of an input."""
    if not is_variable(<PyObject*>x):
        return 0
    return IS_VARIABLE | IS_ACTIVE if tape.row[(<Variable>x).number].flags & ROW_REQUIRES else IS_VARIABLE

cdef tuple roles_of(Program p, bytes kinds):
    """For a run with inputs and captured Variables of these kinds (a byte each): the kinds of results that the function itself
    would give (0 for one that is an input or captured itself), and which inputs and captured Variables their gradients go to, as
    bytes."""
    cdef uint32_t i, j, fixed = <uint32_t>len(kinds)
    cdef unsigned shape
    cdef row_t* row
    cdef bytearray kind, needed
    cdef uint8_t* k
    cdef uint8_t* need
    if p.roles is None or len(p.roles) > 64:
        p.roles = {}
    found = p.roles.get(kinds)
    if found is not None:
        return found
    kind, needed = bytearray(p.n), bytearray(p.n)
    k, need = <uint8_t*><char*>kind, <uint8_t*><char*>needed
    memcpy(k, <char*>kinds, fixed)
    for i in range(fixed, p.n):
        row = p.row + i
        shape = op_shape[row.op]
        if row.op == OP_LEAF:
            k[i] = IS_NUMBER_OR_VARIABLE
            continue
        for j in range(operand_count(row)):
            k[i] |= k[p.operand(row, j)]
        if k[i] & IS_NUMBER_OR_VARIABLE and row.op != OP_SOFTMAX and (shape == SHAPE_A or shape == SHAPE_AB):
            k[i] |= IS_VARIABLE  # such ops have numbers in the row
        k[i] &= IS_VARIABLE if row.op == OP_STOP else IS_VARIABLE | IS_ACTIVE
    results = bytearray(len(p.outputs))
    for j, slot in enumerate(p.outputs):
        if type(slot) is not float and <uint32_t>slot >= fixed:
            results[j] = IS_VARIABLE if k[<uint32_t>slot] & IS_NUMBER_OR_VARIABLE else k[<uint32_t>slot]
            need[<uint32_t>slot] |= results[j] & IS_ACTIVE
    i = p.n
    while i > fixed:
        i -= 1
        row = p.row + i
        for j in range(operand_count(row) if need[i] and row.op != OP_STOP else 0):
            need[p.operand(row, j)] |= k[p.operand(row, j)] & IS_ACTIVE
    found = p.roles[kinds] = bytes(results), bytes(needed[:fixed])
    return found

cdef int first_schedule(Program p, list inputs) except -1:
    """The schedule for a first run on these inputs: with adjoints where a backward() can follow, which would want it."""
    cdef list results = [x for x in p.outputs if type(x) is not float]
    cdef bytes needed = roles_of(p, bytes([kind_of(x) for x in inputs + list(p.captured)]))[1]
    if len(results) == 1 and not thread_mode.no_grad and any(needed):
        gradient_schedule(p, needed + b"\1")
    else:
        latest_schedule(p)
    return 0

cdef void collect_calls() noexcept:
    """Collect the tape: a result whose Variable has died below others holds the numbers of its run until then, which may be
    many. How often follows what they take and what a look at every node costs."""
    global fresh_bytes
    if not tape.held:
        collect_(0)
        release_dropped(NULL)
        fresh_bytes = 0

def _run(Program p not None, list inputs not None, str name not None, bint recorded=False):
    """Run the program on these Variables and floats (recorded: it has just been recorded on them, so that the recording was the
    run, and steps need only be made when it runs again): a list of its results, floats and Variables as the function itself would
    give them, those that ask for a gradient in an eager graph as one node each. None: a comparison came out otherwise than
    recorded. False: some result of an op that can fail is not finite, so that plain Python may raise."""
    cdef Schedule schedule
    cdef ProgramCall call
    cdef uint32_t k, n = p.n_inputs, fixed = n + <uint32_t>len(p.captured)
    cdef double number
    cdef list found, nodes, values
    cdef bytes kinds = PyBytes_FromStringAndSize(NULL, fixed), results, needed
    cdef char* kind = kinds
    cdef bint active
    if <uint32_t>len(inputs) != n:
        raise ValueError(f"expected {n} inputs, got {len(inputs)}")
    if fresh_bytes > (<size_t>1 << 18) + 64 * <size_t>tape.n:
        collect_calls()
    if p.latest is None and not recorded:
        first_schedule(p, inputs)
    call = ProgramCall()
    call.program = p
    call.name = name
    if recorded:
        resize(<void**>&call.v, fixed + 1, sizeof(double))
    else:
        call.v = p.latest.take()
        call.schedule = schedule = p.latest
    for k in range(fixed):
        x = inputs[k] if k < n else p.captured[k - n]
        kind[k] = kind_of(x)
        if PyFloat_CheckExact(<PyObject*>x):
            number = PyFloat_AS_DOUBLE(<PyObject*>x)
        elif is_variable(<PyObject*>x):
            number = tape.value[(<Variable>x).number]
        else:
            to_number(x, "an input of a program", &number)
        call.v[k if recorded else schedule.place[k]] = number
    if recorded:
        values = [x if type(x) is float else call.v[<uint32_t>x] if <uint32_t>x < fixed else p.value[<uint32_t>x]
                  for x in p.outputs]
    else:
        if schedule.run_apart(call.v, PHASE_RESULT):
            return False if guards_hold(p, schedule, call.v) else None
        if p.guards and not guards_hold(p, schedule, call.v):
            return None
        values = [x if type(x) is float else call.v[schedule.place[<uint32_t>x]] for x in p.outputs]
    results, needed = roles_of(p, kinds)
    found = []
    active = False
    for k in range(<uint32_t>len(values)):
        active |= results[k] & IS_ACTIVE
    if active and not ready(1):
        resize(<void**>&call.operand, fixed + 1, sizeof(uint32_t))
        nodes = []
        for k in range(fixed):
            if needed[k]:
                call.operand[call.n_operands] = k
                call.n_operands += 1
                nodes.append(inputs[k] if k < n else p.captured[k - n])
        found = [x for x, slot in zip(values, p.outputs) if type(slot) is not float]
        call.count = len(found)
        found = _custom(call, nodes, found)  # also of results that are none: their places count
    return as_given(p, inputs, kinds, values, found)

cdef list as_given(Program p, list inputs, bytes kinds, list values, list nodes):
    """The results as the function itself would give them: floats, an input or captured Variable itself, Variables in the graph,
    constant ones. values: their numbers, in whose place they come. kinds: see roles_of(). nodes: a Variable for each result that
    something changes; empty where nothing is recorded."""
    cdef uint32_t k, n = p.n_inputs, fixed = <uint32_t>len(kinds)
    cdef bytes results = roles_of(p, kinds)[0]
    nodes.reverse()
    for k, slot in enumerate(p.outputs):
        if type(slot) is float:
            continue
        x = nodes.pop() if nodes else None
        if slot < fixed:
            if kinds[<uint32_t>slot]:
                values[k] = inputs[slot] if slot < n else p.captured[slot - n]
        elif x is not None and results[k] & IS_ACTIVE:
            values[k] = x
        elif results[k]:
            ready(1)
            values[k] = take(record_leaf(<double>values[k], False))
    return values

def _gradient(Program p not None, list arguments not None, list gradients not None):
    """The program's one result and its adjoints, as floats, with nothing put on the tape. arguments: floats, lists of floats, and
    contiguous buffers of float64, together its inputs. gradients, of each argument: None, not asked for; a buffer that is filled;
    or 0, and a float or list takes its place. None and False as of _run()."""
    cdef Schedule schedule
    cdef double* v
    cdef Py_buffer view
    cdef Py_ssize_t at = 0, i, n
    cdef uint32_t k, fixed = p.n_inputs + <uint32_t>len(p.captured)
    cdef bytearray wanted = bytearray(fixed + 1)
    wanted[fixed] = True
    if FREE_THREADED:  # others may change a list meanwhile
        arguments = [list(x) if type(x) is list else x for x in arguments]
    for argument, gradient in zip(arguments, gradients):
        n = 1 if type(argument) is float else len(argument)
        if at + n > p.n_inputs:
            break
        if gradient is not None:
            memset(<char*>wanted + at, 1, n)
        at += n
    if at != p.n_inputs or len(arguments) != len(gradients) or len(p.outputs) != 1 or type(p.outputs[0]) is float:
        raise ValueError(f"expected {p.n_inputs} inputs of a program with one result")
    schedule = gradient_schedule(p, bytes(wanted))
    v = schedule.take()
    try:
        at = 0
        for argument in arguments:
            if type(argument) is float:
                v[schedule.place[at]] = argument
                at += 1
            elif type(argument) is list:
                for i in range(len(<list>argument)):
                    v[schedule.place[at]] = (<list>argument)[i]
                    at += 1
            else:
                PyObject_GetBuffer(argument, &view, PyBUF_ND)
                if at + view.len // <Py_ssize_t>sizeof(double) > p.n_inputs:
                    PyBuffer_Release(&view)
                    raise ValueError(f"expected {p.n_inputs} inputs of a program with one result")
                for i in range(view.len // <Py_ssize_t>sizeof(double)):
                    v[schedule.place[at]] = (<double*>view.buf)[i]
                    at += 1
                PyBuffer_Release(&view)
        for k in range(p.n_inputs, fixed):
            v[schedule.place[k]] = tape.value[(<Variable>p.captured[k - p.n_inputs]).number]
        if schedule.run_apart(v, PHASE_RESULT):
            return False if guards_hold(p, schedule, v) else None
        if p.guards and not guards_hold(p, schedule, v):
            return None
        v[schedule.seed[0]] = 1
        schedule.run_apart(v, PHASE_ADJOINT)
        at = 0
        for i in range(len(arguments)):
            argument, gradient = arguments[i], gradients[i]
            n = 1 if type(argument) is float else len(argument)
            if gradient is None:
                pass
            elif type(argument) is float:
                gradients[i] = v[schedule.adjoint[at]]
            elif type(argument) is list:
                gradients[i] = [v[schedule.adjoint[at + k]] for k in range(<uint32_t>n)]
            else:
                PyObject_GetBuffer(gradient, &view, PyBUF_ND | PyBUF_WRITABLE)
                for k in range(<uint32_t>n):
                    (<double*>view.buf)[k] = v[schedule.adjoint[at + k]]
                PyBuffer_Release(&view)
            at += n
        return v[schedule.place[<uint32_t>p.outputs[0]]]
    finally:
        schedule.give_back(v)

def _summary(Program p not None):
    """Of the program's latest schedule, for people: its steps as tuples (op or function, kind, results, links or operands of each,
    where operands are, slot that the first result is about), how many of them compute results, the slots of sums that others need
    too, and bytes: of rows, of numbers, of steps and lists."""
    cdef size_t k
    cdef step_t* s
    cdef Schedule schedule
    cdef list steps = []
    schedule = latest_schedule(p)
    for k in range(schedule.n_steps):
        s = schedule.step + k
        range_ = op_shape[s.op] >= SHAPE_RANGE if s.kind == STEP_VALUE or s.kind == STEP_AUX else False
        steps.append((step_name(s), s.kind, 1 if range_ else s.n, s.n if range_ else s.count, (s.a_where, s.b_where, s.c_where),
                      schedule.source[k]))
    return (steps, schedule.n_results, schedule.shared, p.n * (sizeof(row_t) + sizeof(double)) + p.n_side * sizeof(uint32_t),
            schedule.n_values * sizeof(double), schedule.n_steps * sizeof(step_t) + schedule.n_index * sizeof(uint32_t))

def _same_rows(Program p not None, Program q not None):
    """Do two programs have the same operations on the same slots?"""
    cdef uint32_t i
    if p.n != q.n or p.n_side != q.n_side or p.n_inputs != q.n_inputs or memcmp(p.side, q.side, p.n_side * sizeof(uint32_t)) != 0:
        return False
    for i in range(p.n):
        if p.row[i].op != q.row[i].op or p.row[i].a != q.row[i].a or p.row[i].b != q.row[i].b or p.row[i].c != q.row[i].c:
            return False
    return True

def _place(Program p not None, uint32_t slot):
    """(file, line, function) of the user's code that a slot comes from; None: not known."""
    if p.site == NULL or slot >= p.n or p.site[slot] == NO_NODE:
        return None
    code, where = p.places[p.site[slot]]
    return code.co_filename, line_of_place(<PyObject*>code, where), code.co_name


# -- arguments -------------------------------------------------------------------------------------------------------------------

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char*) except -1
    void Py_LeaveRecursiveCall()

cdef object structure_of(object tree, list leaves, object number, object other):
    cdef list parts
    cdef Py_ssize_t k, n
    cdef type kind = type(tree)
    if PyFloat_CheckExact(<PyObject*>tree) or kind is Variable:
        leaves.append(tree)
        return number
    if kind is list:
        if FREE_THREADED:  # others may change it meanwhile
            tree = list(<list>tree)
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
        Py_EnterRecursiveCall(" in the structure of arguments")
        try:
            for x in tree:
                parts.append(structure_of(x, leaves, number, other))
        finally:
            Py_LeaveRecursiveCall()
        if kind is list and parts and all([x is number for x in parts]):
            return (list, len(parts))
        return (kind, tuple(parts))
    return other(tree, leaves)

def _structure(tree, list leaves not None, number, other):
    """The structure of a nest as something hashable, its floats and Variables appended to leaves: for each of them number, for
    lists and tuples (type, parts), or (list, n) for a list of n of them; for what else there is other(tree, leaves)."""
    return structure_of(tree, leaves, number, other)
