# derive.pxi: derivatives beside backward(): walks between any inputs and roots, down for adjoints, up for tangents, both for
# second derivatives; as numbers, or recorded, so that they can be differentiated again. Also the backward passes that
# sweep.pxi does not do: those that record, and those on which functions of the user are called (hooks, nodes that were computed
# outside, detect_anomaly). Formulas are in formulas.pxi.
#
# A walk looks at the nodes that some root depends on and that depend on some input. An input is where a walk ends, leaf or
# not. What a walk computes stands in arrays of its own, so a walk that fails leaves everything as it was. While one is at work
# no node moves (tape.held), whatever Python code runs in between, other walks included; and other threads' walks, wherever a
# container is made, since up to Python 3.11 that may collect garbage: there `walk` is set again.

cdef struct Walk:
    uint32_t low, top    # first and last node looked at
    uint32_t count       # how many these are; 0: no root depends on an input
    uint64_t* on         # [words] nodes of the walk, inputs included; all zero while no walk uses it
    uint64_t* input      # [words] inputs; the same
    size_t words         # capacity of both
    Item* item           # [items] adjoints or tangents, by node - low
    Item* part           # [parts] of the operands of one row
    double* slope        # [parts] partials of one row
    double* number       # [numbers] the same as item, several directions side by side
    double* second       # [seconds] adjoints and their tangents
    size_t items, parts, numbers, seconds
    uint32_t size        # nodes that there was made room for
    bint beyond          # some root depends on a leaf that asks for a gradient and is no input
    bint watched         # functions of the user are called: it has hooks, or nodes that were computed outside
    bint anomaly         # in detect_anomaly()
    bint profiled        # it is a pass of a block of profile()
    Walk* next           # the spare one behind it, or the one that goes on after it

cdef class ProgramCall  # program.pxi

cdef Walk* walk = NULL   # the one at work
cdef Walk* spare = NULL  # ended; their arrays are used again

cdef enum:
    LARGE = 1 << 18  # numbers that the spare walks may keep memory for
    # where walks end: also at all leaves that ask for a gradient; at all leaves, and whether these have been written since
    # makes no difference
    TO_INPUTS, TO_LEAVES, TO_ANYTHING, TO_RECORD

cdef inline bint on_walk(uint32_t i) noexcept nogil:
    return is_set(walk.on, i)

cdef inline bint is_input(uint32_t i) noexcept nogil:
    return is_set(walk.input, i)

cdef inline bint has_walk(uint32_t i) noexcept nogil:
    """on_walk() for a node that may be above the walk, or none."""
    return walk.count and i <= walk.top and on_walk(i)

cdef inline bint passes(uint32_t i) noexcept nogil:
    """Is node i on the walk and no end of it?"""
    return on_walk(i) and not is_input(i)

cdef inline bint next_down(uint32_t* i, bint ends) noexcept nogil:
    """The highest node of the walk below *i, inputs included or not; False if there is none. *i is above walk.low."""
    cdef uint32_t w = (i[0] - 1) >> 6
    cdef uint64_t bits = walk.on[w] & ~<uint64_t>0 >> (63 - ((i[0] - 1) & 63))
    if not ends:
        bits &= ~walk.input[w]
    if bits:
        i[0] = bits_next(bits, i[0])
        return True
    while not bits:
        if w == walk.low >> 6:
            return False
        w -= 1
        bits = walk.on[w] if ends else walk.on[w] & ~walk.input[w]
    i[0] = (w << 6) + bits_highest(bits)
    return True

cdef inline bint next_up(uint32_t* i, bint ends) noexcept nogil:
    """The lowest node of the walk from *i on, inputs included or not; False if there is none."""
    cdef uint32_t w = i[0] >> 6
    cdef uint64_t bits
    if i[0] > walk.top or not walk.count:
        return False
    bits = (walk.on[w] if ends else walk.on[w] & ~walk.input[w]) & ~<uint64_t>0 << (i[0] & 63)
    if (bits >> (i[0] & 63)) & 1:
        return True
    while not bits:
        if w == walk.top >> 6:
            return False
        w += 1
        bits = walk.on[w] if ends else walk.on[w] & ~walk.input[w]
    i[0] = (w << 6) + bits_lowest(bits)
    return True

cdef inline uint32_t root_at(list roots, uint32_t k) noexcept:
    """The node of a root; NO_NODE for a number, on which nothing depends."""
    cdef object root = roots[k]
    return (<Variable>root).number if is_variable(<PyObject*>root) else NO_NODE

cdef inline bint leads_on(row_t* row) noexcept nogil:
    """Is an operand on the walk?"""
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j
    if shape == SHAPE_A or shape == SHAPE_AB:
        return on_walk(row.a) or (shape == SHAPE_AB and on_walk(row.b))
    for j in range(operand_count(row)):
        if on_walk(operand_at(row, j)):
            return True
    return False

cdef inline void put_on_walk(uint32_t i) noexcept nogil:
    """Put an operand on the walk."""
    if i >= walk.low:
        walk.on[i >> 6] |= <uint64_t>1 << (i & 63)
    else:
        walk.beyond |= tape.row[i].flags & ROW_REQUIRES

cdef inline void put_run_on_walk(uint32_t first, uint32_t count) noexcept nogil:
    cdef uint32_t w, end = first + count
    for w in range(first >> 6, (end >> 6) + 1 if count else 0):
        walk.on[w] |= run_bits(w, first, end)

cdef inline void leave_walk(uint32_t i) noexcept nogil:
    walk.on[i >> 6] &= ~(<uint64_t>1 << (i & 63))

cdef int find_walk(list roots, list inputs, int ends, bint prune, uint64_t* size, uint32_t* parts, uint32_t* culprit) except -1:
    """Set up the walk: from the roots down, and with prune up again to leave out what leads to no input. *size: how many nodes
    its items make at most (with prune); *parts: the longest row. *culprit: a leaf that was written after a node of the walk had
    used it, or NO_NODE."""
    cdef uint32_t i, j, k, lowest
    cdef unsigned shape
    cdef size_t words, h
    cdef row_t* row
    culprit[0] = NO_NODE
    size[0] = len(roots)
    parts[0] = 2  # of a row of two operands, which is not looked at below
    walk.beyond = walk.watched = False
    walk.anomaly = thread_mode.anomaly
    walk.count = 0
    walk.low, walk.top = NO_NODE if ends == TO_INPUTS else 0, 0
    for v in inputs:
        walk.low = min(walk.low, (<Variable>v).number)
    for k in range(<uint32_t>len(roots)):
        i = root_at(roots, k)
        if i != NO_NODE:
            walk.top = max(walk.top, i)
    if walk.top < walk.low:
        for k in range(<uint32_t>len(roots)):
            i = root_at(roots, k)
            walk.beyond |= i != NO_NODE and tape.row[i].flags & ROW_REQUIRES
        walk.low, walk.top = 1, 0
        return 0
    words = (walk.top >> 6) + 1
    if words > walk.words:
        words = words * 3 // 2
        resize(<void**>&walk.on, words, sizeof(uint64_t))
        resize(<void**>&walk.input, words, sizeof(uint64_t))
        memset(walk.on + walk.words, 0, (words - walk.words) * sizeof(uint64_t))
        memset(walk.input + walk.words, 0, (words - walk.words) * sizeof(uint64_t))
        walk.words = words
    walk.count = walk.top - walk.low + 1
    for v in inputs:
        i = (<Variable>v).number
        if i <= walk.top:
            walk.input[i >> 6] |= <uint64_t>1 << (i & 63)
    for k in range(<uint32_t>len(roots)):
        i = root_at(roots, k)
        if i != NO_NODE:
            put_on_walk(i)
    i = lowest = walk.top + 1
    while i > walk.low and next_down(&i, False):
        lowest = i
        row = tape.row + i
        if row.op == OP_LEAF:
            if ends == TO_INPUTS:
                walk.beyond |= row.flags & ROW_REQUIRES
            elif ends >= TO_ANYTHING or row.flags & ROW_REQUIRES:
                walk.input[i >> 6] |= <uint64_t>1 << (i & 63)
            else:
                leave_walk(i)
            continue
        if i < tape.last_write and ends != TO_RECORD and is_stale(i, row, culprit):
            return 0
        shape = op_shape[row.op]
        if shape == SHAPE_A or shape == SHAPE_AB:
            put_on_walk(row.a)
            if shape == SHAPE_AB:
                put_on_walk(row.b)
            continue
        walk.watched |= row.op == OP_CUSTOM
        parts[0] = max(parts[0], operand_count(row))
        if shape == SHAPE_AFFINE and row.a >= walk.low and row.b >= walk.low:
            put_run_on_walk(row.a, row.c + op_bias(row.op))
            put_run_on_walk(row.b, row.c)
            continue
        for j in range(operand_count(row)):
            put_on_walk(operand_at(row, j))
    if ends != TO_INPUTS:  # what lies below is not reached
        walk.low = lowest
        walk.count = walk.top - walk.low + 1
    i = walk.low
    while prune and next_up(&i, False):
        if leads_on(tape.row + i):
            size[0] += row_size(tape.row + i)
        else:
            leave_walk(i)
        i += 1
    for h in range(tape.note[NOTE_HOOKS].n):
        walk.watched |= has_walk(tape.note[NOTE_HOOKS].item[h].node)
    return 0

cdef Walk* start_walk(list roots, list inputs, int ends, bint record, bint prune, uint32_t directions) except NULL:
    """find_walk(), and room for its results: as nodes (record) or as so many numbers for each node. Every walk ends with
    end_walk(). Raises RuntimeError for a stale graph."""
    global walk, spare
    cdef uint64_t size, collections
    cdef uint32_t parts, culprit
    cdef size_t count
    cdef Walk* mine = NULL
    prepare_formulas()
    if spare == NULL:
        resize(<void**>&mine, 1, sizeof(Walk))
        memset(mine, 0, sizeof(Walk))
    else:
        mine = spare
        spare = mine.next
    mine.next = walk
    mine.profiled = False
    walk = mine
    hold(1)
    try:
        find_walk(roots, inputs, ends, prune, &size, &parts, &culprit)
        if culprit != NO_NODE:
            refuse_stale(culprit, "backward()" if ends == TO_LEAVES else "taking derivatives")
        count = walk.count
        reserve_scratch(2 * <size_t>parts + 2)
        if parts > walk.parts:
            resize(<void**>&walk.part, parts, sizeof(Item))
            resize(<void**>&walk.slope, parts, sizeof(double))
            walk.parts = parts
        walk.size = 0
        if record:
            if count > walk.items:
                resize(<void**>&walk.item, count, sizeof(Item))
                walk.items = count
            if size >= MAX_NODES:
                raise MemoryError(f"mingrad: {size} nodes of derivatives do not fit on the tape")
            walk.size = <uint32_t>size
            collections = tape.collections
            hold(-1)
            try:
                room_for_walk()
            finally:
                hold(1)
            if tape.collections != collections:  # nodes have moved
                clear_walk()
                find_walk(roots, inputs, ends, prune, &size, &parts, &culprit)
        else:
            reserve_numbers(&walk.number, &walk.numbers, count * directions)
        if tape.profilers and ends < TO_ANYTHING:
            begin_walk(mine)
    except BaseException:
        end_walk(mine)
        raise
    return mine

cdef int room_for_walk() except -1:
    """For all that the walk may still record; in a recording that may be lists of operands too (range_names())."""
    room_for(walk.size, walk.size if tape.recorders else 0)
    return 0

cdef int reserve_numbers(double** array, size_t* capacity, size_t count) except -1:
    if count > capacity[0]:
        resize(<void**>array, count, sizeof(double))
        capacity[0] = count
    return 0

cdef void clear_walk() noexcept:
    cdef size_t low = walk.low >> 6, words = (walk.top >> 6) + 1 - low
    if walk.count:
        memset(walk.on + low, 0, words * sizeof(uint64_t))
        memset(walk.input + low, 0, words * sizeof(uint64_t))
    walk.count = 0

cdef void end_walk(Walk* mine) noexcept:
    global walk, spare
    walk = mine
    if mine.profiled:
        end_profiled_walk()
    clear_walk()
    if mine.items + mine.numbers + mine.seconds > LARGE:
        PyMem_RawFree(mine.item)
        PyMem_RawFree(mine.number)
        PyMem_RawFree(mine.second)
        mine.item, mine.number, mine.second = NULL, NULL, NULL
        mine.items = mine.numbers = mine.seconds = 0
    walk = mine.next
    mine.next = spare
    spare = mine
    hold(-1)
    pop()

cdef inline void hold(int more) noexcept:
    """From 1 on no node moves or goes: what a walk has recorded has no handle yet."""
    tape.held += more
    tape.n_notes += more  # dealloc() looks at this one only

cdef object outside(Walk* mine, object function, object x, object y, int count):
    """Call a function of the user with x, or x and y, in the middle of a walk, which goes on afterwards."""
    global walk
    cdef uint64_t writes = tape.writes
    try:
        found = function(x) if count == 1 else function(x, y)
    finally:
        walk = mine
    room_for_walk()  # it may have recorded something
    if tape.writes != writes:
        refuse_written()
    return found

cdef int refuse_written() except -1:
    """Raise RuntimeError if a leaf that the walk needs was written since it began."""
    cdef uint32_t i = walk.top + 1, culprit
    while walk.count and i > walk.low and next_down(&i, False):
        if is_stale(i, tape.row + i, &culprit):
            raise RuntimeError(f"data of {describe(culprit)} was written by a hook or a custom rule while a pass that depends on "
                               "it was at work; write it after the pass")
    return 0


# -- adjoints and tangents as nodes --------------------------------------------------------------------------------------------

cdef inline void give_item(uint32_t i, Item contribution) noexcept nogil:
    walk.item[i - walk.low] = item_two(OP_ADD, walk.item[i - walk.low], contribution)

cdef void adjoint_prod(row_t* row, Item adjoint) noexcept nogil:
    """Each operand's partial is the product of all the others, from the left times from the right."""
    cdef uint32_t j, k, n = row.c
    cdef Item left = number_item(1)
    walk.part[n - 1] = number_item(1)
    for j in range(n - 1, 0, -1):
        walk.part[j - 1] = item_two(OP_MUL, walk.part[j], node_item(range_item(row, row.a, j)))
    for j in range(n):
        k = range_item(row, row.a, j)
        if on_walk(k):
            give_item(k, item_two(OP_MUL, adjoint, item_two(OP_MUL, left, walk.part[j])))
        left = item_two(OP_MUL, left, node_item(k))

cdef void adjoint_row(uint32_t i, row_t* row, Item adjoint) noexcept nogil:
    """Contributions of one row to its operands, recorded."""
    cdef Item names[NAMES]
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j, p, q, n = row.c
    if shape == SHAPE_A or shape == SHAPE_AB:
        row_names(i, row, names)
        if on_walk(row.a):
            give_item(row.a, item_two(OP_MUL, adjoint, item_of(formula_a[row.op], names)))
        if shape == SHAPE_AB and on_walk(row.b):
            give_item(row.b, item_two(OP_MUL, adjoint, item_of(formula_b[row.op], names)))
    elif row.op == OP_PROD:
        adjoint_prod(row, adjoint)
    elif shape == SHAPE_RANGE:
        range_names(i, row, names)
        for j in range(n):
            p = range_item(row, row.a, j)
            if on_walk(p):
                names[NAME_X] = node_item(p)
                names[NAME_I] = number_item(j)
                give_item(p, item_two(OP_MUL, adjoint, item_of(formula_a[row.op], names)))
    elif shape == SHAPE_PAIR or shape == SHAPE_AFFINE:
        for j in range(n):
            pair_at(row, j, &p, &q)
            if on_walk(p):
                give_item(p, item_two(OP_MUL, adjoint, node_item(q)))
            if on_walk(q):
                give_item(q, item_two(OP_MUL, adjoint, node_item(p)))
        if shape == SHAPE_AFFINE and op_bias(row.op) and on_walk(row.a + n):
            give_item(row.a + n, adjoint)

cdef inline void pair_at(row_t* row, uint32_t j, uint32_t* p, uint32_t* q) noexcept nogil:
    """The j-th pair of factors of a dot or affine row."""
    if op_shape[row.op] == SHAPE_AFFINE:
        p[0], q[0] = row.a + j, row.b + j
    else:
        p[0], q[0] = range_item(row, row.a, j), range_item(row, second_start(row), j)

cdef Item tangent_row(uint32_t i, row_t* row) noexcept nogil:
    """The tangent of one row, recorded."""
    cdef Item names[NAMES]
    cdef Item sum = number_item(0), left
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j, p, q, n = row.c
    if shape == SHAPE_A or shape == SHAPE_AB:
        row_names(i, row, names)
        if on_walk(row.a):
            sum = item_two(OP_MUL, item_of(formula_a[row.op], names), walk.item[row.a - walk.low])
        if shape == SHAPE_AB and on_walk(row.b):
            sum = item_two(OP_ADD, sum, item_two(OP_MUL, item_of(formula_b[row.op], names), walk.item[row.b - walk.low]))
        return sum
    if row.op == OP_PROD:
        left = number_item(1)  # of the operands so far; sum is its tangent
        for j in range(n):
            p = range_item(row, row.a, j)
            sum = item_two(OP_MUL, sum, node_item(p))
            if on_walk(p):
                sum = item_two(OP_ADD, sum, item_two(OP_MUL, left, walk.item[p - walk.low]))
            left = item_two(OP_MUL, left, node_item(p))
        return sum
    if shape == SHAPE_RANGE:
        range_names(i, row, names)
        for j in range(n):
            p = range_item(row, row.a, j)
            if on_walk(p):
                names[NAME_X] = node_item(p)
                names[NAME_I] = number_item(j)
                sum = item_two(OP_ADD, sum, item_two(OP_MUL, item_of(formula_a[row.op], names), walk.item[p - walk.low]))
        return sum
    if shape == SHAPE_AFFINE and op_bias(row.op) and on_walk(row.a + n):
        sum = walk.item[row.a + n - walk.low]
    for j in range(n):
        pair_at(row, j, &p, &q)
        if on_walk(p):
            sum = item_two(OP_ADD, sum, item_two(OP_MUL, walk.item[p - walk.low], node_item(q)))
        if on_walk(q):
            sum = item_two(OP_ADD, sum, item_two(OP_MUL, node_item(p), walk.item[q - walk.low]))
    return sum

cdef Item given_item(object x) except *:
    """A seed, or what a function of the user gave: a Variable or a float."""
    return node_item((<Variable>x).number) if is_variable(<PyObject*>x) else number_item(x)

cdef object item_object(Item item):
    return item.value if item.node == NO_NODE else take(handle_of(item.node))

cdef list checked_seeds(list seeds, size_t count, str what):
    """Seeds as floats and Variables. Anything else is refused before a walk begins."""
    cdef double number
    cdef list found = []
    if <size_t>len(seeds) != count:
        raise ValueError(f"{what}: expected {count} seeds, got {len(seeds)}")
    for seed in seeds:
        if is_variable(<PyObject*>seed):
            found.append(seed)
        else:
            to_number(seed, what, &number)
            found.append(number)
    return found

cdef int checked_variables(list variables, bint numbers) except -1:
    for v in variables:
        if not is_variable(<PyObject*>v) and not (numbers and isinstance(v, (int, float))):
            raise TypeError(f"expected Variables, got {type_name(<PyObject*>v)}")
    return 0

cdef list items_of(list variables, uint32_t before):
    """The items of these Variables (or numbers: 0.0) as floats and Variables, none of which is older than node `before`."""
    global walk
    cdef Walk* mine = walk
    cdef list outputs = []
    cdef uint32_t i, k
    walk = mine
    for k in range(<uint32_t>len(variables)):
        i = root_at(variables, k)
        outputs.append(own_object(walk.item[i - walk.low], before) if has_walk(i) else 0.0)
    return outputs

cdef object own_object(Item item, uint32_t before):
    """item_object(); where that would be a Variable that somebody has, a copy: its label and its life are its own."""
    found = item_object(item)
    if item.node < before:
        ready(1)
        found = take(record(OP_COPY, ROW_REQUIRES, item.node, 0, 0, item.value))
    return found

cdef int walk_down(list roots, list seeds, bint hooked=True) except -1:
    """Fill in the adjoints of the walk, as items."""
    cdef uint32_t i, k
    if not walk.count:
        return 0
    i = walk.low
    while next_up(&i, True):
        walk.item[i - walk.low] = number_item(0)
        i += 1
    for k in range(<uint32_t>len(roots)):
        i = root_at(roots, k)
        if has_walk(i):
            give_item(i, given_item(seeds[k]))
    i = walk.top + 1
    while i > walk.low and next_down(&i, walk.watched):
        if walk.watched:
            if hooked or not is_input(i):
                run_hooks(i, True)
            if is_input(i):
                continue
        if tape.row[i].op == OP_CUSTOM:
            i = <uint32_t>adjoint_call(i, True)
        else:
            adjoint_row(i, tape.row + i, walk.item[i - walk.low])
        if walk.anomaly:
            check_adjoints(i, NULL, 1)
    return 0

cdef void keep_tape(uint32_t before, size_t side_before) noexcept:
    """A walk has failed: take back what it recorded, unless a function of the user may hold some of it."""
    if not walk.watched:
        undo(min(tape.n, before), side_before)

def _adjoints(list roots not None, list seeds not None, list inputs not None):
    """The adjoints of inputs for these seeds at the roots, recorded: a list of Variables and floats, in the order of inputs. An
    input that the roots do not depend on has 0.0. Roots may be numbers, here and below."""
    return adjoints_of(roots, seeds, inputs, True)

cdef list adjoints_of(list roots, list seeds, list inputs, bint hooked):
    """_adjoints(). hooked: call the hooks of inputs; not within another walk, which comes by the inputs and calls them itself."""
    global walk
    checked_variables(roots, True)
    checked_variables(inputs, False)
    seeds = checked_seeds(seeds, len(roots), "adjoints")
    cdef Walk* mine = start_walk(roots, inputs, TO_INPUTS, True, True, 0)
    cdef uint32_t before = tape.n
    cdef size_t side_before = tape.n_side
    cdef list outputs = None
    try:
        walk_down(roots, seeds, hooked)
        if tape.recorders:
            take_choices()
            walk = mine
        outputs = items_of(inputs, before)
    finally:
        if outputs is None:
            keep_tape(before, side_before)
        end_walk(mine)
    return outputs

def _tangents(list roots not None, list inputs not None, list seeds not None):
    """The tangents of roots for these tangents of inputs, recorded: a list of Variables and floats, in the order of roots."""
    global walk
    checked_variables(roots, True)
    checked_variables(inputs, False)
    seeds = checked_seeds(seeds, len(inputs), "tangents")
    cdef Walk* mine = start_walk(roots, inputs, TO_INPUTS, True, True, 0)
    cdef uint32_t before = tape.n, i, k
    cdef size_t side_before = tape.n_side
    cdef list outputs = None
    try:
        for k in range(<uint32_t>len(inputs)):
            i = (<Variable>inputs[k]).number
            if has_walk(i):
                walk.item[i - walk.low] = given_item(seeds[k])
        i = walk.low
        while next_up(&i, False):
            if tape.row[i].op == OP_CUSTOM:
                i = <uint32_t>tangent_call(i, True, 1)
            else:
                walk.item[i - walk.low] = tangent_row(i, tape.row + i)
            if walk.anomaly:
                check_tangents(i, 0)
            i += 1
        if tape.recorders:
            take_choices()
            walk = mine
        outputs = items_of(roots, before)
    finally:
        if outputs is None:
            keep_tape(before, side_before)
        end_walk(mine)
    return outputs


# -- adjoints and tangents as numbers ------------------------------------------------------------------------------------------

cdef void partials(uint32_t i, row_t* row, double* slope) noexcept nogil:
    """The partials of a row by its operands, in operand_at()'s order."""
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j, n = row.c
    cdef double left = 1, aux, y = tape.value[i]
    if shape == SHAPE_A:
        slope[0] = op_slope1(row.op, tape.value[row.a], row.constant, y)
    elif shape == SHAPE_AB:
        op_slopes(row.op, tape.value[row.a], tape.value[row.b], y, slope, slope + 1)
    elif row.op == OP_PROD:
        slope[n - 1] = 1
        for j in range(n - 1, 0, -1):
            slope[j - 1] = slope[j] * tape.value[range_item(row, row.a, j)]
        for j in range(n):
            slope[j] *= left
            left *= tape.value[range_item(row, row.a, j)]
    elif shape == SHAPE_RANGE:
        for j in range(n):
            tape.scratch[j] = tape.value[range_item(row, row.a, j)]
        aux = op_aux(row.op, tape.scratch, n, row.b, y)
        for j in range(n):
            slope[j] = op_slope_n(row.op, tape.scratch[j], j, y, n, row.b, aux)
    elif shape == SHAPE_AFFINE:
        for j in range(n):
            slope[j] = tape.value[row.a + j]
            slope[n + j] = tape.value[row.b + j]
        if op_bias(row.op):
            slope[2 * n] = 1
    else:
        for j in range(n):
            slope[j] = tape.value[range_item(row, second_start(row), j)]
            slope[n + j] = tape.value[range_item(row, row.a, j)]

cdef void give_run(uint32_t first, uint32_t count, double adjoint, double* slope) noexcept nogil:
    """Contributions to consecutive operands."""
    cdef uint32_t w, j, end = first + count
    cdef bint all = count > 0
    for w in range(first >> 6, (end >> 6) + 1 if count else 0):
        all &= (run_bits(w, first, end) & ~walk.on[w]) == 0
    if all:
        kernels.axpy(walk.number + (first - walk.low), adjoint, slope, count)
        return
    for j in range(count):
        if on_walk(first + j):
            walk.number[first + j - walk.low] += adjoint * slope[j]

cdef inline void adjoint_numbers(uint32_t i, row_t* row, uint64_t* on, double* number, uint32_t low) noexcept nogil:
    """Contributions of one row to its operands. on, number, low: the walk's."""
    cdef uint32_t j, k, p, q
    cdef double adjoint = number[i - low], pa, pb
    cdef unsigned shape = op_shape[row.op]
    if shape == SHAPE_A:
        if is_set(on, row.a):
            number[row.a - low] += adjoint * op_slope1(row.op, tape.value[row.a], row.constant, tape.value[i])
        return
    if shape == SHAPE_AB:
        op_slopes(row.op, tape.value[row.a], tape.value[row.b], tape.value[i], &pa, &pb)
        if is_set(on, row.a):
            number[row.a - low] += adjoint * pa
        if is_set(on, row.b):
            number[row.b - low] += adjoint * pb
        return
    if shape == SHAPE_PAIR and row.flags & ROW_SCATTERED:  # in back_pair()'s order
        for j in range(row.c):
            pair_at(row, j, &p, &q)
            if is_set(on, p):
                number[p - low] += adjoint * tape.value[q]
            if is_set(on, q):
                number[q - low] += adjoint * tape.value[p]
        return
    if shape == SHAPE_AFFINE or shape == SHAPE_PAIR:
        give_run(row.a, row.c, adjoint, tape.value + row.b)
        give_run(row.b, row.c, adjoint, tape.value + row.a)
        if shape == SHAPE_AFFINE and op_bias(row.op) and is_set(on, row.a + row.c):
            number[row.a + row.c - low] += adjoint
        return
    partials(i, row, walk.slope)
    for j in range(operand_count(row)):
        k = operand_at(row, j)
        if is_set(on, k):
            number[k - low] += adjoint * walk.slope[j]

cdef inline void add_tangent(double* t, double slope, uint32_t operand, uint32_t directions) noexcept nogil:
    cdef uint32_t k
    cdef double* given
    if on_walk(operand):
        given = walk.number + <size_t>(operand - walk.low) * directions
        for k in range(directions):
            t[k] += slope * given[k]

cdef void tangent_numbers(uint32_t i, row_t* row, uint32_t directions) noexcept nogil:
    """Tangents of one row in all directions."""
    cdef uint32_t j
    cdef double* t = walk.number + <size_t>(i - walk.low) * directions
    cdef double pa, pb
    cdef unsigned shape = op_shape[row.op]
    memset(t, 0, directions * sizeof(double))
    if shape == SHAPE_A:
        add_tangent(t, op_slope1(row.op, tape.value[row.a], row.constant, tape.value[i]), row.a, directions)
    elif shape == SHAPE_AB:
        op_slopes(row.op, tape.value[row.a], tape.value[row.b], tape.value[i], &pa, &pb)
        add_tangent(t, pa, row.a, directions)
        add_tangent(t, pb, row.b, directions)
    else:
        partials(i, row, walk.slope)
        for j in range(operand_count(row)):
            add_tangent(t, walk.slope[j], operand_at(row, j), directions)

cdef int adjoint_walk(list roots, list seeds) except -1:
    """Fill in the adjoints of the walk, as numbers."""
    cdef uint32_t i, k
    cdef row_t* row
    if not walk.count:
        return 0
    i = walk.low
    while next_up(&i, True):
        walk.number[i - walk.low] = 0
        i += 1
    for k in range(<uint32_t>len(roots)):
        i = root_at(roots, k)
        if has_walk(i):
            walk.number[i - walk.low] += <double>seeds[k]
    i = walk.top + 1
    while i > walk.low and next_down(&i, walk.watched):
        if walk.watched:
            run_hooks(i, False)
            if is_input(i):
                continue
        row = tape.row + i  # not before: a hook may have made the tape grow
        if row.op == OP_CUSTOM:
            i = <uint32_t>adjoint_call(i, False)
        else:
            adjoint_numbers(i, row, walk.on, walk.number, walk.low)
        if walk.anomaly:
            check_adjoints(i, walk.number, 1)
    return 0

def _adjoint_values(list roots not None, list seeds not None, list inputs not None):
    """The adjoints of inputs for these seeds (floats) at the roots, as a list of floats. Nothing is recorded, no grad changes.
    None if they would lose a gradient: the roots depend on other leaves that ask for one, and no_grad() is not on."""
    checked_variables(roots, True)
    checked_variables(inputs, False)
    seeds = checked_seeds(seeds, len(roots), "adjoints")
    cdef Walk* mine = start_walk(roots, inputs, TO_INPUTS, False, False, 1)
    cdef uint32_t i
    cdef list outputs = []
    try:
        if walk.beyond and not thread_mode.no_grad:
            return None
        adjoint_walk(roots, seeds)
        for v in inputs:
            i = (<Variable>v).number
            outputs.append(walk.number[i - walk.low] if has_walk(i) else 0.0)
    finally:
        end_walk(mine)
    return outputs

cdef enum:
    BLOCK = 8  # directions that are swept side by side, one cache line a node

cdef uint32_t block_size(size_t directions, size_t numbers) noexcept:
    """How many directions to sweep at once, where each takes so many numbers: at most BLOCK, and what 64 MB hold."""
    cdef size_t most = min(directions, <size_t>BLOCK)
    if numbers:
        most = min(most, (<size_t>1 << 23) // numbers)
    return <uint32_t>max(most, <size_t>1)

cdef int tangent_walk(list inputs, object seeds, size_t first, uint32_t directions) except -1:
    """Fill in the tangents of the walk, as numbers, for the directions from first on. seeds: one list of floats for each
    direction, or None: each input by itself."""
    cdef uint32_t i, j, k
    cdef double* t
    for j in range(<uint32_t>len(inputs)):
        i = (<Variable>inputs[j]).number
        if has_walk(i):
            t = walk.number + <size_t>(i - walk.low) * directions
            for k in range(directions):
                t[k] = (j == first + k) if seeds is None else <double>(<list>(<list>seeds)[first + k])[j]
    i = walk.low
    while next_up(&i, False):
        if tape.row[i].op == OP_CUSTOM:
            i = <uint32_t>tangent_call(i, False, directions)
        else:
            tangent_numbers(i, tape.row + i, directions)
        if walk.anomaly:
            check_tangents(i, directions)
        i += 1
    return 0

cdef object checked_directions(object seeds, list inputs):
    cdef list found = []
    if seeds is None:
        return None
    for direction in <list?>seeds:
        found.append(checked_seeds(<list?>direction, len(inputs), "tangents"))
    return found

def _tangent_values(list roots not None, list inputs not None, list seeds=None):
    """The tangents of roots for several directions at once: seeds has one list of floats for each direction, in the order of
    inputs (None: a direction for each input); the result one list for each direction, in the order of roots. None as for
    _adjoint_values()."""
    checked_variables(roots, True)
    checked_variables(inputs, False)
    seeds = checked_directions(seeds, inputs)
    cdef size_t count = len(inputs) if seeds is None else len(seeds), first = 0
    cdef list outputs = [[] for _ in range(count)]
    cdef Walk* mine = start_walk(roots, inputs, TO_INPUTS, False, True, 0)
    cdef uint32_t i, j, k, directions
    try:
        if walk.beyond and not thread_mode.no_grad:
            return None
        directions = block_size(count, walk.count)
        reserve_numbers(&walk.number, &walk.numbers, <size_t>walk.count * directions)
        while first < count:
            directions = <uint32_t>min(directions, count - first)
            tangent_walk(inputs, seeds, first, directions)
            for j in range(<uint32_t>len(roots)):
                i = root_at(roots, j)
                for k in range(directions):
                    (<list>outputs[first + k]).append(
                        walk.number[<size_t>(i - walk.low) * directions + k] if has_walk(i) else 0.0)
            first += directions
    finally:
        end_walk(mine)
    return outputs


# -- second derivatives as numbers -----------------------------------------------------------------------------------------------
#
# A walk up for tangents, then one down for adjoints and their tangents: a contribution adjoint * partial has the tangent
# adjoint' * partial + adjoint * partial', and partial' follows from what the partial's formula is about.

cdef struct About:
    double* tangent[ABOUTS]  # of the nodes that a partial is about; those in Dual.about are on the walk

cdef void give_second(uint32_t operand, double* mine, Dual* slope, About* about, uint32_t directions) noexcept nogil:
    """Contribution of a row to one operand. mine: the row's adjoint, whether that depends on inputs, and its tangents."""
    cdef double* to = second_of(operand, directions)
    cdef double curve
    cdef double* t
    cdef uint32_t k
    cdef unsigned bits
    cdef int c
    if mine[0] == 0 and not mine[1] and isfinite(slope.value) or slope.value == 0 and not slope.about and isfinite(mine[0]):
        return  # as item_two(): nothing depends on it
    to[0] += mine[0] * slope.value
    if mine[1]:  # else there is no term, and not 0 times what may be infinite
        to[1] = 1
        for k in range(directions):
            to[2 + k] += mine[2 + k] * slope.value
    bits = slope.about
    if bits:
        to[1] = 1
    while bits:
        c = bits_lowest(bits)
        bits &= bits - 1
        curve = mine[0] * slope.d[c]
        t = about.tangent[c]
        for k in range(directions):
            to[2 + k] += curve * t[k]

cdef inline double* second_of(uint32_t i, uint32_t directions) noexcept nogil:
    """A node's adjoint, 1 if that depends on inputs (else 0), and the adjoint's tangents."""
    return walk.second + <size_t>(i - walk.low) * (directions + 2)

cdef inline double* tangent_of(uint32_t i, uint32_t directions) noexcept nogil:
    return walk.number + <size_t>(i - walk.low) * directions

cdef inline void dual_node(Dual* x, int k, uint32_t i) noexcept nogil:
    """An operand in a formula: what it is about, if it is on the walk."""
    if on_walk(i):
        dual_about(x, k, tape.value[i])
    else:
        dual_number(x, tape.value[i])

cdef void dual_names(uint32_t i, row_t* row, Dual* names) noexcept nogil:
    """row_names() for formulas with their own derivatives."""
    dual_about(names + NAME_Y, ABOUT_Y, tape.value[i])
    if op_number_place[row.op] == NUMBER_FIRST:
        dual_number(names + NAME_A, row.constant)
        dual_node(names + NAME_B, ABOUT_A, row.a)
        return
    dual_node(names + NAME_A, ABOUT_A, row.a)
    if op_number_place[row.op] == NUMBER_SECOND:
        dual_number(names + NAME_B, row.constant)
    elif op_shape[row.op] == SHAPE_AB:
        dual_node(names + NAME_B, ABOUT_B, row.b)

cdef void dual_range_names(uint32_t i, row_t* row, Dual* names) noexcept nogil:
    """range_names() for formulas with their own derivatives."""
    cdef uint32_t j
    for j in range(row.c):
        tape.scratch[j] = tape.value[range_item(row, row.a, j)]
    dual_about(names + NAME_Y, ABOUT_Y, tape.value[i])
    dual_number(names + NAME_N, row.c)
    dual_number(names + NAME_K, row.b)
    dual_number(names + NAME_XK, NAN)
    if row.b < row.c:
        dual_node(names + NAME_XK, ABOUT_B, range_item(row, row.a, row.b))
    if formula_aux[row.op] >= 0:
        dual_of(formula_aux[row.op], names, names + NAME_AUX)
    else:
        dual_number(names + NAME_AUX, op_aux(row.op, tape.scratch, row.c, row.b, tape.value[i]))

cdef void dual_slope(row_t* row, uint32_t j, Dual* names, Dual* slope) noexcept nogil:
    """*slope: the partial of a row by its operand j. Not for prod, dot and affine rows."""
    if op_shape[row.op] == SHAPE_RANGE:
        dual_node(names + NAME_X, ABOUT_A, range_item(row, row.a, j))
        dual_number(names + NAME_I, j)
    dual_of(formula_b[row.op] if j and op_shape[row.op] == SHAPE_AB else formula_a[row.op], names, slope)

cdef void second_prod(row_t* row, double* mine, uint32_t directions) noexcept nogil:
    """prod: each partial is the product of all the others, whose tangent goes along from both sides. What depends on no input
    has no tangent, rather than one of 0."""
    cdef uint32_t j, k, p, n = row.c, first = n, last = 0
    cdef double* right = tape.scratch
    cdef double* right_tangent = tape.scratch + n
    cdef double left, left_tangent, x, curve
    cdef double* to
    for j in range(n):
        if on_walk(range_item(row, row.a, j)):
            first = min(first, j)
            last = j
            if directions == 0 and (mine[0] != 0 or mine[1]):
                second_of(range_item(row, row.a, j), 0)[1] = 1
    for k in range(directions):
        right[n - 1], right_tangent[n - 1] = 1, 0
        for j in range(n - 1, 0, -1):
            p = range_item(row, row.a, j)
            x = tape.value[p]
            right[j - 1] = right[j] * x
            right_tangent[j - 1] = right_tangent[j] * x if j < last else 0
            if on_walk(p):
                right_tangent[j - 1] += right[j] * tangent_of(p, directions)[k]
        left, left_tangent = 1, 0
        for j in range(n):
            p = range_item(row, row.a, j)
            x = tape.value[p]
            if on_walk(p):
                to = second_of(p, directions)
                to[1] = mine[0] != 0 or mine[1] or to[1]
                if k == 0:
                    to[0] += mine[0] * (left * right[j])
                if mine[1]:
                    to[2 + k] += mine[2 + k] * (left * right[j])
                curve = left_tangent * right[j] if j > first else 0
                if j < last:
                    curve += left * right_tangent[j]
                if j > first or j < last:
                    to[2 + k] += mine[0] * curve
            left_tangent = left_tangent * x if j > first else 0
            if on_walk(p):
                left_tangent += left * tangent_of(p, directions)[k]
            left *= x

cdef void second_row(uint32_t i, row_t* row, uint32_t directions) noexcept nogil:
    """Contributions of one row: adjoints and their tangents."""
    cdef double* mine = second_of(i, directions)
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j, p, q, n = row.c
    cdef Dual names[NAMES]
    cdef Dual slope
    cdef About about
    if row.op == OP_PROD:
        second_prod(row, mine, directions)
        return
    if shape == SHAPE_PAIR or shape == SHAPE_AFFINE:
        for j in range(operand_count(row)):
            p = operand_at(row, j)
            if not on_walk(p):
                continue
            if j == 2 * n:  # the bias
                dual_number(&slope, 1)
            else:
                q = operand_at(row, j + n if j < n else j - n)
                dual_node(&slope, ABOUT_A, q)
                about.tangent[ABOUT_A] = tangent_of(q, directions)
            give_second(p, mine, &slope, &about, directions)
        return
    about.tangent[ABOUT_Y] = tangent_of(i, directions)
    if shape == SHAPE_RANGE:
        dual_range_names(i, row, names)
        about.tangent[ABOUT_B] = tangent_of(range_item(row, row.a, row.b), directions) if row.b < n else NULL
        for j in range(n):
            p = range_item(row, row.a, j)
            if on_walk(p):
                dual_slope(row, j, names, &slope)
                about.tangent[ABOUT_A] = tangent_of(p, directions)
                give_second(p, mine, &slope, &about, directions)
        return
    about.tangent[ABOUT_A] = tangent_of(row.a, directions)
    about.tangent[ABOUT_B] = tangent_of(row.b, directions)
    if row.op == OP_MUL:  # what many nodes are: its partials without their formulas
        if on_walk(row.a):
            dual_node(&slope, ABOUT_B, row.b)
            give_second(row.a, mine, &slope, &about, directions)
        if on_walk(row.b):
            dual_node(&slope, ABOUT_A, row.a)
            give_second(row.b, mine, &slope, &about, directions)
        return
    if exprs[formula_a[row.op]].kind != EX_NUMBER or shape == SHAPE_AB and exprs[formula_b[row.op]].kind != EX_NUMBER:
        dual_names(i, row, names)
    if on_walk(row.a):
        dual_slope(row, 0, names, &slope)
        give_second(row.a, mine, &slope, &about, directions)
    if shape == SHAPE_AB and on_walk(row.b):
        dual_slope(row, 1, names, &slope)
        give_second(row.b, mine, &slope, &about, directions)

cdef int sweep_second(list roots, uint32_t directions) except -1:
    """Fill in adjoints and their tangents, from the tangents of the nodes. There is one root."""
    cdef uint32_t i
    reserve_numbers(&walk.second, &walk.seconds, <size_t>walk.count * (directions + 2))
    memset(walk.second, 0, <size_t>walk.count * (directions + 2) * sizeof(double))
    i = root_at(roots, 0)
    if has_walk(i):
        second_of(i, directions)[0] = 1
    i = walk.low + walk.count
    while i > walk.low and next_down(&i, False):
        second_row(i, tape.row + i, directions)
        if walk.anomaly:
            check_adjoints(i, walk.second, directions + 2)
    return 0

def _second_values(object root, list inputs not None, list seeds=None):
    """Second derivatives of root times directions: seeds as for _tangent_values(); the result has one list for each direction,
    in the order of inputs. Nothing is recorded. None as for _adjoint_values(), and where a function of the user has a say."""
    cdef list roots = [root]
    checked_variables(roots, True)
    checked_variables(inputs, False)
    seeds = checked_directions(seeds, inputs)
    cdef size_t count = len(inputs) if seeds is None else len(seeds), first = 0
    cdef list outputs = [[] for _ in range(count)]
    cdef Walk* mine = start_walk(roots, inputs, TO_INPUTS, False, True, 0)
    cdef uint32_t i, k, directions
    try:
        if walk.beyond and not thread_mode.no_grad or walk.watched:
            return None
        directions = block_size(count, 2 * <size_t>walk.count)
        reserve_numbers(&walk.number, &walk.numbers, <size_t>walk.count * directions)
        while first < count:
            directions = <uint32_t>min(directions, count - first)
            tangent_walk(inputs, seeds, first, directions)
            sweep_second(roots, directions)
            for v in inputs:
                i = (<Variable>v).number
                for k in range(directions):
                    (<list>outputs[first + k]).append(
                        second_of(i, directions)[2 + k] if has_walk(i) else 0.0)
            first += directions
    finally:
        end_walk(mine)
    return outputs


# -- which derivatives can differ from 0 -----------------------------------------------------------------------------------------

cdef inline uint64_t* set_of(uint64_t* sets, size_t width, uint32_t i) noexcept nogil:
    return sets + (i - walk.low) * width

cdef int find_sets(uint64_t** sets, size_t width, list inputs) except -1:
    """*sets: for each node of the walk the inputs that it depends on. The caller frees it."""
    cdef uint32_t i, j, k
    cdef size_t w
    cdef row_t* row
    resize(<void**>sets, walk.count * width + 1, sizeof(uint64_t))
    memset(sets[0], 0, walk.count * width * sizeof(uint64_t))
    for k in range(<uint32_t>len(inputs)):
        i = (<Variable>inputs[k]).number
        if has_walk(i):
            set_of(sets[0], width, i)[k // 64] |= <uint64_t>1 << (k & 63)
    i = walk.low
    while next_up(&i, False):
        row = tape.row + i
        for j in range(operand_count(row)):
            k = operand_at(row, j)
            if on_walk(k):
                for w in range(width):
                    set_of(sets[0], width, i)[w] |= set_of(sets[0], width, k)[w]
        i += 1
    return 0

cdef list members(uint64_t* set, size_t width):
    """The inputs in a set, as a sorted list of places."""
    cdef list found = []
    cdef size_t w
    cdef uint64_t bits
    for w in range(width):
        bits = set[w]
        while bits:
            found.append(64 * w + bits_lowest(bits))
            bits &= bits - 1
    return found

def _dependence(list roots not None, list inputs not None):
    """For each root the places of the inputs that it depends on, as a sorted list: the pattern of a Jacobian."""
    global walk
    checked_variables(roots, True)
    checked_variables(inputs, False)
    cdef size_t width = (len(inputs) + 63) // 64
    cdef uint32_t i, k
    cdef uint64_t* sets = NULL
    cdef list outputs = []
    cdef Walk* mine = start_walk(roots, inputs, TO_INPUTS, False, True, 0)
    try:
        find_sets(&sets, width, inputs)
        for k in range(<uint32_t>len(roots)):
            i = root_at(roots, k)
            outputs.append(members(set_of(sets, width, i), width) if has_walk(i) else [])
            walk = mine
    finally:
        PyMem_RawFree(sets)
        end_walk(mine)
    return outputs

cdef int64_t join_sets(uint64_t* pattern, uint64_t* rows, uint64_t* columns, size_t width) noexcept nogil:
    """In each of these rows of a Hessian each of these columns can differ from 0, and the reverse. Returns the work done."""
    cdef size_t w, v
    cdef uint64_t bits
    cdef int64_t work = 0
    cdef int turn
    for turn in range(2):
        for w in range(width):
            bits = rows[w]
            while bits:
                for v in range(width):
                    pattern[(64 * w + bits_lowest(bits)) * width + v] |= columns[v]
                bits &= bits - 1
                work += width
        rows, columns = columns, rows
    return work

cdef int64_t join_row(uint64_t* pattern, uint64_t* sets, size_t width, uint32_t i, row_t* row) noexcept nogil:
    """What one row says about which inputs meet in a second derivative. Returns the work done."""
    cdef uint32_t j, p, q, n = row.c
    cdef unsigned shape = op_shape[row.op]
    cdef int64_t work = 1
    cdef Dual names[NAMES]
    cdef Dual slope
    if row.op == OP_PROD:
        return join_sets(pattern, set_of(sets, width, i), set_of(sets, width, i), width)
    if shape == SHAPE_PAIR or shape == SHAPE_AFFINE:
        for j in range(n):
            p, q = operand_at(row, j), operand_at(row, n + j)
            if on_walk(p) and on_walk(q):
                work += join_sets(pattern, set_of(sets, width, p), set_of(sets, width, q), width)
        return work
    if shape == SHAPE_RANGE:
        dual_range_names(i, row, names)
    else:
        dual_names(i, row, names)
    for j in range(operand_count(row)):
        p = operand_at(row, j)
        if not on_walk(p):
            continue
        dual_slope(row, j, names, &slope)
        if slope.about >> ABOUT_Y & 1:
            work += join_sets(pattern, set_of(sets, width, p), set_of(sets, width, i), width)
            continue  # i depends on whatever else the partial is about
        if slope.about >> ABOUT_A & 1:
            q = p if shape == SHAPE_RANGE else row.a
            work += join_sets(pattern, set_of(sets, width, p), set_of(sets, width, q), width)
        if slope.about >> ABOUT_B & 1:
            q = range_item(row, row.a, row.b) if shape == SHAPE_RANGE else row.b
            work += join_sets(pattern, set_of(sets, width, p), set_of(sets, width, q), width)
    return work

def _second_pattern(object root, list inputs not None, int64_t budget):
    """For each input the places of the inputs with which it has a second derivative that can differ from 0, as sorted lists.
    None where that takes more than so many steps (words of sets joined), or as for _second_values()."""
    cdef list roots = [root]
    checked_variables(roots, True)
    checked_variables(inputs, False)
    cdef size_t n = len(inputs), width = (n + 63) // 64
    cdef uint64_t* sets = NULL
    cdef uint64_t* pattern = NULL
    cdef uint32_t i
    cdef size_t k
    cdef list outputs = []
    cdef Walk* mine = start_walk(roots, inputs, TO_INPUTS, False, True, 0)
    try:
        if walk.beyond and not thread_mode.no_grad or walk.watched or <int64_t>(walk.count * width) > budget:
            return None
        find_sets(&sets, width, inputs)
        resize(<void**>&pattern, n * width + 1, sizeof(uint64_t))
        memset(pattern, 0, n * width * sizeof(uint64_t))
        sweep_second(roots, 0)
        i = walk.low
        while next_up(&i, False):
            if second_of(i, 0)[0] != 0 or second_of(i, 0)[1]:
                budget -= join_row(pattern, sets, width, i, tape.row + i)
                if budget < 0:
                    return None
            i += 1
        for k in range(n):
            outputs.append(members(pattern + k * width, width))
    finally:
        PyMem_RawFree(sets)
        PyMem_RawFree(pattern)
        end_walk(mine)
    return outputs


def _groups(list pattern not None):
    """The columns of a symmetric pattern (for each row the places of its columns) in groups that have no row in common: for each
    column the number of its group (-1 for an empty one), and how many groups there are. Longest columns first."""
    cdef size_t n = len(pattern), width = (n + 63) // 64, w, k
    cdef uint64_t* taken = NULL  # the rows of each group, one behind the other; the last is of the column in hand
    cdef uint64_t common
    cdef int64_t groups = 0, g = 0
    cdef list place = [-1] * len(pattern)
    try:
        resize(<void**>&taken, 16 * width + 1, sizeof(uint64_t))
        for column in sorted(range(n), key=lambda c: -len(pattern[c])):
            if not pattern[column]:
                break
            if groups % 16 == 15:
                resize(<void**>&taken, (groups + 17) * width, sizeof(uint64_t))
            memset(taken + groups * width, 0, width * sizeof(uint64_t))
            for row in <list?>pattern[column]:
                k = row
                if k >= n:
                    raise ValueError(f"expected places below {n}, got {row}")
                taken[groups * width + k // 64] |= <uint64_t>1 << (k & 63)
            for g in range(groups + 1):
                common = 0
                for w in range(width if g < groups else 0):
                    common |= taken[g * width + w] & taken[groups * width + w]
                if not common:
                    break
            place[column] = g
            for w in range(width if g < groups else 0):
                taken[g * width + w] |= taken[groups * width + w]
            groups += g == groups
    finally:
        PyMem_RawFree(taken)
    return place, groups


# -- functions of the user in a walk ---------------------------------------------------------------------------------------------

cdef int run_hooks(uint32_t i, bint record) except -1:
    """Give the adjoint of node i, which is final, to its hooks; each may replace it."""
    global walk
    cdef PyObject* hooks = get_note(NOTE_HOOKS, i) if tape.note[NOTE_HOOKS].n else NULL
    cdef Walk* mine = walk
    cdef double number
    if hooks == NULL:
        return 0
    for hook in list((<dict>hooks).values()):
        walk = mine
        if record:
            adjoint = item_object(walk.item[i - walk.low])
            if type(adjoint) is float:
                ready(walk.size + 1)
                adjoint = take(record_leaf(adjoint, False))
        else:
            adjoint = walk.number[i - walk.low]
        found = outside(mine, hook, adjoint, None, 1)
        if found is None:
            continue
        if record and is_variable(<PyObject*>found):
            walk.item[i - walk.low] = given_item(found)
            continue
        if is_variable(<PyObject*>found):
            number = tape.value[(<Variable>found).number]
        else:
            to_number(found, "what a hook of register_hook() returned", &number)
        if record:
            walk.item[i - walk.low] = number_item(number)
        else:
            walk.number[i - walk.low] = number
    return 0

cdef uint32_t call_low(uint32_t i) noexcept:
    """The first node on the tape (and not below the walk) of the call that node i is a result of."""
    cdef PyObject* call = get_note(NOTE_CALL, i)
    while i > walk.low and tape.row[i - 1].op == OP_CUSTOM and get_note(NOTE_CALL, i - 1) == call:
        i -= 1
    return i

cdef uint32_t call_high(uint32_t i) noexcept:
    """The last one (and not above the walk)."""
    cdef PyObject* call = get_note(NOTE_CALL, i)
    while i < walk.top and tape.row[i + 1].op == OP_CUSTOM and get_note(NOTE_CALL, i + 1) == call:
        i += 1
    return i

cdef list call_operands(row_t* row):
    cdef list found = []
    cdef uint32_t j
    for j in range(row.c):
        found.append(take(handle_of(range_item(row, row.a, j))))
    return found

cdef int64_t adjoint_call(uint32_t i, bint record) except -1:
    """Contributions of all results of a call computed outside, the highest of which on the walk is i: their adjoints are final,
    since they do not use each other. Returns the lowest."""
    global walk
    cdef Walk* mine = walk
    cdef uint32_t j, k, low = call_low(i)
    cdef int64_t begun
    cdef object call = <object>get_note(NOTE_CALL, i)
    cdef row_t row = tape.row[i]
    cdef list cotangents = [None if type(call) is ProgramCall else 0.0] * call.count, found, operands_ = None
    walk = mine
    for k in range(i - low + 1):
        j = i - k
        if not passes(j):
            continue
        if j != i:
            run_hooks(j, record)
        cotangents[tape.row[j].b] = item_object(walk.item[j - walk.low]) if record else walk.number[j - walk.low]
    if type(call) is ProgramCall and not record and (<ProgramCall>call).schedule is not None:  # without a list of floats
        begun = call_begun()
        (<ProgramCall>call).pull(cotangents)
        call_done(i, begun)
        walk = mine  # a new schedule is made without the GIL: another thread may be in the midst of a walk by now
        for j in range(row.c):
            k = range_item(&row, row.a, j)
            if on_walk(k):
                walk.number[k - walk.low] += (<ProgramCall>call).adjoint_at(j)
        return low
    if record:
        operands_ = call_operands(&row)
    begun = call_begun()
    found = outside(mine, call.vjp, cotangents, operands_, 2)
    call_done(i, begun)
    for j in range(row.c):
        k = range_item(&row, row.a, j)
        if not on_walk(k):
            continue
        if record:
            give_item(k, given_item(found[j]))
        else:
            walk.number[k - walk.low] += <double>found[j]
    return low

cdef int64_t tangent_call(uint32_t i, bint record, uint32_t directions) except -1:
    """Tangents of all results of a call computed outside, the lowest of which on the walk is i. Returns the highest."""
    global walk
    cdef Walk* mine = walk
    cdef uint32_t j, k, p, high = call_high(i)
    cdef int64_t begun
    cdef object call = <object>get_note(NOTE_CALL, i)
    cdef row_t row = tape.row[i]
    cdef list tangents, found, operands_ = None
    for k in range(directions):
        tangents = []
        walk = mine
        for j in range(row.c):
            p = range_item(&row, row.a, j)
            if not on_walk(p):
                tangents.append(0.0)
            elif record:
                tangents.append(item_object(walk.item[p - walk.low]))
            else:
                tangents.append(tangent_of(p, directions)[k])
        if record:
            operands_ = call_operands(&row)
        begun = call_begun()
        found = outside(mine, call.jvp, tangents, operands_, 2)
        call_done(i, begun)
        for j in range(i, high + 1):
            if not passes(j):
                continue
            if record:
                walk.item[j - walk.low] = given_item(found[tape.row[j].b])
            else:
                tangent_of(j, directions)[k] = <double>found[tape.row[j].b]
    return high

def _custom(object call, list inputs not None, list values not None):
    """Record the results of a call computed outside: one Variable for each of values (floats), all with the same operands.

    call knows its derivatives: count, how many results there are; name; vjp(cotangents, operands) and jvp(tangents, operands)
    give a float for each operand, or for each result, from floats (operands None) or Variables and floats from such (operands:
    Variables)."""
    cdef size_t n = len(inputs), m = len(values), k, side_before
    cdef uint32_t before, start
    cdef bint run
    cdef list outputs = []
    checked_variables(inputs, False)
    values = checked_seeds(values, m, "results")
    release_dropped(NULL)  # the interpreter does so in the main thread only, which may be waiting
    cdef tuple operands_ = tuple(inputs)
    room_for(m, n * m)
    before = tape.n
    side_before = tape.n_side
    try:
        for k in range(m):
            push_operands(operands_, &start, &run)
            outputs.append(take(record(OP_CUSTOM, ROW_REQUIRES | (0 if run else ROW_SCATTERED), start, <uint32_t>k, <uint32_t>n,
                                       <double>values[k])))
            set_note(NOTE_CALL, tape.n - 1, <PyObject*>call)
    except MemoryError:
        outputs.clear()
        undo(min(tape.n, before), min(tape.n_side, side_before))
        raise
    return outputs


# -- backward passes that sweep.pxi does not do ------------------------------------------------------------------------------------

cdef int backward_watched(Variable root, double seed) except -1:
    """backward() on which functions of the user are called. If one raises, every grad is as before."""
    cdef Walk* mine = start_walk([root], [], TO_LEAVES, False, False, 1)
    cdef uint32_t i
    try:
        adjoint_walk([root], [seed])
        if has_graph_grads():
            forget_graph_grads(walk.low, walk.count, True)
        i = walk.low
        while next_up(&i, True):
            settle_number(i, walk.number[i - walk.low])
            i += 1
    finally:
        end_walk(mine)
    return 0

cdef inline void settle_number(uint32_t i, double adjoint) noexcept:
    tape.grad[i] = tape.grad[i] + adjoint if tape.row[i].op == OP_LEAF else adjoint

cdef int backward_recorded(Variable root, object seed) except -1:
    """backward(create_graph=True): adjoints are recorded, and every Variable of the graph gets its own as a Variable."""
    global walk
    cdef uint32_t i, before = 0
    cdef size_t side_before = 0
    cdef bint off = switch_no_grad(False), done = False
    cdef list found = []
    cdef Variable v
    cdef Walk* mine = NULL
    try:
        mine = start_walk([root], [], TO_LEAVES, True, True, 0)
        before = tape.n
        side_before = tape.n_side
        walk_down([root], [seed])
        i = walk.low
        while next_up(&i, True):
            if tape.handle[i] != NULL:
                v = take(handle_of(i))
                adjoint = own_object(walk.item[i - walk.low], before)
                if tape.row[i].op == OP_LEAF:
                    held = graph_grad(v)
                    if held is not None:
                        adjoint = held + adjoint
                    elif tape.grad[i] != 0:
                        adjoint = tape.grad[i] + adjoint
                if type(adjoint) is float:
                    ready(1)
                    adjoint = take(record_leaf(adjoint, False))
                found.append((v, adjoint))
                walk = mine
            i += 1
        keep_graph_grads(found)
        walk = mine
        i = walk.low
        while next_up(&i, True):
            if tape.handle[i] == NULL:
                settle_number(i, walk.item[i - walk.low].value)
            i += 1
        done = True
    finally:
        switch_no_grad(off)
        if mine != NULL:
            if not done:
                found.clear()
                keep_tape(before, side_before)
            end_walk(mine)
    return 0


# -- gradients that are Variables ------------------------------------------------------------------------------------------------
#
# What backward(create_graph=True) gives to a Variable is held by that Variable, not by its node: a gradient's graph uses the
# node, and would keep itself alive. Whatever writes a grad as a number ends that; where it could not say so, the two are compared
# when it is read.

cdef dict graph_grads = {}          # by the Variable's id: (a weak reference to it, its gradient)

cdef extern from "Python.h":
    Py_ssize_t PyDict_GET_SIZE(object)

cdef inline bint has_graph_grads() noexcept:
    return PyDict_GET_SIZE(graph_grads) != 0

def _drop_graph_grad(key, reference):
    """A Variable with a gradient has died."""
    if key in graph_grads and graph_grads[key][0] is reference:
        del graph_grads[key]

cdef int keep_graph_grads(list pairs) except -1:
    from functools import partial
    from weakref import ref
    for v, gradient in pairs:
        key = id(v)
        graph_grads[key] = (ref(v, partial(_drop_graph_grad, key)), gradient)
    for v, gradient in pairs:
        tape.grad[(<Variable>v).number] = tape.value[(<Variable>gradient).number]
    return 0

cdef object graph_grad(Variable v):
    """The gradient of v as a Variable, if it is one."""
    if not has_graph_grads():
        return None
    found = graph_grads.get(id(v))
    if found is None or found[0]() is not v:
        return None
    gradient = found[1]
    if memcmp(&tape.value[(<Variable>gradient).number], &tape.grad[v.number], sizeof(double)) != 0:
        del graph_grads[id(v)]
        return None
    return gradient

cdef int forget_graph_grads(uint32_t first, uint32_t count, bint walked=False) except -1:
    """The gradients of these nodes (walked: those on the walk) are going to be written as numbers, which may be the same ones."""
    global walk
    cdef Walk* mine = walk
    if is_recording():
        refuse_writing(first)
    if not has_graph_grads():
        return 0
    if count == 1 and not walked:
        if tape.handle[first] != NULL:
            graph_grads.pop(<size_t>tape.handle[first], None)
    else:
        for key, (reference, _) in list(graph_grads.items()):
            walk = mine
            v = reference()
            if v is not None and (<Variable>v).number - first < count and (not walked or on_walk((<Variable>v).number)):
                graph_grads.pop(key, None)
    return 0


# -- a graph as data -------------------------------------------------------------------------------------------------------------

def _graph(list roots not None):
    """The graph of these roots as a list of tuples, operands before the nodes that use them:

    (variable, name, operands, number, index, partials): its Variable; the op's name in the table, 'leaf', 'dot', 'affine',
    'linear' or 'custom'; the places in the list of its operands, in order (dot: the first range, then the second; affine and
    linear: inputs, then weights, then the bias if any); (0 or 1, number) where one of two operands is a number, the call of a
    custom row, else None; the row's index (cross_entropy: the class; custom: which result), else None; its partials by the
    operands (custom: empty)."""
    global walk
    checked_variables(roots, True)
    cdef Walk* mine = start_walk(roots, [], TO_ANYTHING, False, False, 0)
    cdef uint32_t i, j
    cdef row_t* row
    cdef dict place = {}
    cdef list found = []
    try:
        i = walk.low
        while next_up(&i, True):
            row = tape.row + i
            number = index = None
            if op_number_place[row.op] != NUMBER_NOWHERE:
                number = (0 if op_number_place[row.op] == NUMBER_FIRST else 1, row.constant)
            if op_shape[row.op] == SHAPE_RANGE:
                index = row.b
            if row.op == OP_CUSTOM:
                number = <object>get_note(NOTE_CALL, i)
            if row.op != OP_LEAF and row.op != OP_CUSTOM:
                partials(i, row, walk.slope)
            place[i] = len(found)
            found.append((take(handle_of(i)), op_name[row.op].decode(),
                          tuple([place[operand_at(row, j)] for j in range(operand_count(row))]), number, index,
                          tuple([walk.slope[j] for j in range(0 if row.op == OP_CUSTOM else operand_count(row))])))
            walk = mine
            i += 1
    finally:
        end_walk(mine)
    return found

cdef inline uint32_t deepest(uint32_t* depth, uint32_t first, uint32_t count) noexcept nogil:
    cdef uint32_t j, most = 0
    for j in range(first, first + count):
        most = max(most, depth[j - walk.low])
    return most

def _census(Variable v not None):
    """What v's graph is made of, for a summary: (nodes, numbers, depth, parameters, constants, ops).

    numbers: operands that are part of a row; depth: operations on the longest way from a leaf; parameters: leaves that ask for a
    gradient, constants: those that do not; ops: {symbol: how many}. One look at each node; a layer's weights are looked at once,
    not again by each of its samples."""
    cdef uint32_t counts[OP_COUNT]
    cdef uint32_t i, j, d, nodes = 0, numbers = 0, parameters = 0, leaves_low = 0, leaves_end = 0, b = 0, c = 0, below = 0
    cdef uint32_t* depth = NULL
    cdef row_t* row
    cdef unsigned shape
    cdef Walk* mine = start_walk([v], [], TO_RECORD, False, False, 0)
    memset(counts, 0, sizeof(counts))
    try:
        resize(<void**>&depth, walk.count, sizeof(uint32_t))
        i = walk.low
        while next_up(&i, True):
            row = tape.row + i
            shape = op_shape[row.op]
            counts[row.op] += 1
            d = 0
            if shape == SHAPE_LEAF:
                parameters += row.flags & ROW_REQUIRES
            elif shape == SHAPE_AFFINE:
                if row.b != b or row.c != c:
                    b, c = row.b, row.c
                    below = deepest(depth, b, c)
                d = below
                j = row.a + row.c + op_bias(row.op)
                if row.a < leaves_low or j > leaves_end:
                    if deepest(depth, row.a, j - row.a):
                        d = max(d, deepest(depth, row.a, j - row.a))
                    elif row.a == leaves_end:
                        leaves_end = j
                    else:
                        leaves_low, leaves_end = row.a, j
            else:
                for j in range(operand_count(row)):
                    d = max(d, depth[operand_at(row, j) - walk.low])
                numbers += op_number_place[row.op] != NUMBER_NOWHERE and row.op != OP_POW + NUMBER_SECOND
            depth[i - walk.low] = d + (shape != SHAPE_LEAF)
            nodes += 1
            i += 1
        d = depth[v.number - walk.low]
    finally:
        PyMem_RawFree(depth)
        end_walk(mine)
    ops = {}
    for j in range(<uint32_t>OP_COUNT):
        if counts[j] and op_shape[j] != SHAPE_LEAF:
            symbol = op_symbol[j].decode()
            ops[symbol] = ops.get(symbol, 0) + counts[j]
    return nodes, numbers, d, parameters, counts[OP_LEAF] - parameters, ops


# -- what autodiff.py calls beside these -------------------------------------------------------------------------------------------

def _inputs(list xs not None):
    """Variables that stand for these numbers and Variables where a function is differentiated: nodes of their own, so that
    what the function has of a Variable otherwise is not taken for its argument."""
    cdef list found = []
    cdef double number
    for x in xs:
        if is_variable(<PyObject*>x) and tape.row[(<Variable>x).number].flags & ROW_REQUIRES:
            found.append(take(unary(OP_COPY, <PyObject*>x)))
            continue
        if is_variable(<PyObject*>x):
            number = tape.value[(<Variable>x).number]
        else:
            to_number(x, "a function's argument", &number)
        ready(1)
        found.append(take(record_leaf(number, True)))
    return found

def _kinds(list xs not None):
    """What a list holds, as bits: 1 a float, 2 an int or bool, 4 a Variable, 8 anything else. Exact types."""
    cdef int kinds = 0
    for x in xs:
        if PyFloat_CheckExact(<PyObject*>x):
            kinds |= 1
        elif Py_TYPE(<PyObject*>x) is VARIABLE:
            kinds |= 4
        elif type(x) is int or type(x) is bool:
            kinds |= 2
        else:
            kinds |= 8
    return kinds
