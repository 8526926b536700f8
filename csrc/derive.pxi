# derive.pxi: the op table's derivative formulas as nodes. The sweeps of sweep.pxi compute with these formulas as C; here the
# same texts are parsed once and recorded, so that adjoints and tangents can be differentiated again, to any order. There is
# no second formula: what a helper function of the table means in terms of ops is in the table too (MEANS in ops.def).
#
# An item is a number or a node. Arithmetic on items folds numbers and what a number makes trivial (1 * x, 0 + x), so a graph
# of adjoints has few nodes more than a person would write. A number times 0 is 0 only where the number is finite.

cdef object ast = None  # Python's module, imported for the first derivative

cdef enum:
    # kinds of expressions
    EX_NUMBER, EX_NAME, EX_ONE, EX_TWO, EX_WHERE, EX_LESS, EX_LESS_EQUAL, EX_EQUAL

    # names in formulas
    NAME_A, NAME_B, NAME_Y, NAME_X, NAME_N, NAME_I, NAME_K, NAME_AUX, NAME_M, NAME_XK, NAMES

cdef struct Item:
    uint32_t node    # NO_NODE: a number
    double value

cdef struct Expr:
    int kind
    unsigned op      # opcode, or which name
    double number
    int x, y, z      # operands, places in `exprs`; where: condition, then, otherwise

cdef Expr* exprs = NULL
cdef int n_exprs = 0, exprs_capacity = 0

# Of each opcode: the place of its formulas in exprs, and how many nodes they make at most.
cdef int formula_a[OP_COUNT]
cdef int formula_b[OP_COUNT]
cdef int formula_aux[OP_COUNT]  # -1: a number, op_aux()
cdef uint32_t formula_size[OP_COUNT]
cdef bint formulas_ready = False

cdef dict NAMED = {"a": NAME_A, "b": NAME_B, "y": NAME_Y, "x": NAME_X, "n": NAME_N, "i": NAME_I, "k": NAME_K, "aux": NAME_AUX,
                   "m": NAME_M}
cdef dict CONSTANTS = {"LN2": LN2, "INV_LN2": INV_LN2, "INV_LN10": INV_LN10, "SQRT1_2": SQRT1_2, "INV_SQRT_2PI": INV_SQRT_2PI,
                       "TWO_INV_SQRTPI": TWO_INV_SQRTPI}
cdef dict MEANINGS = {op_meanings[k].function.decode(): (op_meanings[k].parameters.decode(), op_meanings[k].meaning.decode())
                      for k in range(OP_MEANING_COUNT)}
cdef dict ARITHMETIC = {"Add": OP_ADD, "Sub": OP_SUB, "Mult": OP_MUL, "Div": OP_DIV}


# -- parsing -------------------------------------------------------------------------------------------------------------------

cdef int add_expr(int kind, unsigned op, double number, int x, int y, int z) except -1:
    global exprs_capacity, n_exprs
    if n_exprs == exprs_capacity:
        resize(<void**>&exprs, 2 * exprs_capacity + 256, sizeof(Expr))
        exprs_capacity = 2 * exprs_capacity + 256
    exprs[n_exprs] = Expr(kind, op, number, x, y, z)
    n_exprs += 1
    return n_exprs - 1

cdef int parse(object node, dict names, dict codes) except -1:
    """The place in exprs of a formula's syntax tree. names: what its names stand for, numbers and places; codes: of ops."""
    if isinstance(node, ast.Constant):
        return add_expr(EX_NUMBER, 0, node.value, -1, -1, -1)
    if isinstance(node, ast.Name):
        if node.id in names:
            return names[node.id]
        if node.id in CONSTANTS:
            return add_expr(EX_NUMBER, 0, CONSTANTS[node.id], -1, -1, -1)
        return add_expr(EX_NAME, NAMED[node.id], 0, -1, -1, -1)
    if isinstance(node, ast.Subscript):
        return add_expr(EX_NAME, NAME_XK, 0, -1, -1, -1)
    if isinstance(node, ast.UnaryOp):
        return add_expr(EX_ONE, OP_NEG, 0, parse(node.operand, names, codes), -1, -1)
    if isinstance(node, ast.BinOp):
        return add_expr(EX_TWO, ARITHMETIC[type(node.op).__name__], 0, parse(node.left, names, codes),
                        parse(node.right, names, codes), -1)
    if isinstance(node, ast.Compare):
        x, y = parse(node.left, names, codes), parse(node.comparators[0], names, codes)
        order = type(node.ops[0])
        if order in (ast.Gt, ast.GtE):
            x, y = y, x
        return add_expr(EX_EQUAL if order is ast.Eq else EX_LESS if order in (ast.Lt, ast.Gt) else EX_LESS_EQUAL, 0, 0, x, y, -1)
    function, arguments = node.func.id, [parse(x, names, codes) for x in node.args]
    if function == "where":
        return add_expr(EX_WHERE, 0, 0, arguments[0], arguments[1], arguments[2])
    if function in MEANINGS:
        parameters, text = MEANINGS[function]
        return parse(ast.parse(text, mode="eval").body, dict(zip(parameters.split(", "), arguments)), codes)
    return add_expr(EX_ONE if len(arguments) == 1 else EX_TWO, codes[function], 0, arguments[0],
                    arguments[1] if len(arguments) == 2 else -1, -1)

cdef uint32_t expr_size(int e) noexcept:
    """How many nodes an expression makes at most."""
    cdef Expr* expr = exprs + e
    if expr.kind == EX_ONE:
        return 1 + expr_size(expr.x)
    if expr.kind == EX_TWO:
        return 1 + expr_size(expr.x) + expr_size(expr.y)
    if expr.kind == EX_WHERE:
        return max(expr_size(expr.y), expr_size(expr.z))
    return 0

cdef int formula(str text, dict codes) except -1:
    return parse(ast.parse(text.strip(), mode="eval").body, {}, codes)

cdef int prepare_formulas() except -1:
    """Parse the table's formulas, once."""
    global ast, formulas_ready
    cdef int k, op, form
    if formulas_ready:
        return 0
    from importlib import import_module
    ast = import_module("ast")
    codes = {}
    for k in range(OP_TEXT_COUNT):
        codes[op_texts[k].name.decode().lstrip("_")] = op_texts[k].op
        if op_texts[k].alias[0]:
            codes[op_texts[k].alias.decode()] = op_texts[k].op
    for k in range(OP_TEXT_COUNT):
        op = op_texts[k].op
        formula_a[op] = formula(op_texts[k].da.decode(), codes)
        formula_b[op] = formula(op_texts[k].db.decode(), codes) if op_texts[k].db[0] else -1
        aux = op_texts[k].aux.decode()
        formula_aux[op] = formula(aux.replace("k_logsumexp(xs, n)", "y + xs[k]"), codes) if "xs[k]" in aux else -1
        formula_size[op] = 4 + expr_size(formula_a[op]) + (expr_size(formula_b[op]) if formula_b[op] >= 0 else 0)
        if op_texts[k].kind == b"binary":  # the forms with a number follow
            for form in (NUMBER_SECOND, NUMBER_FIRST):
                formula_a[op + form] = formula_a[op] if form == NUMBER_SECOND else formula_b[op]
                formula_size[op + form] = formula_size[op]
    formulas_ready = True
    return 0


# -- arithmetic on items -------------------------------------------------------------------------------------------------------

cdef inline Item number_item(double value) noexcept nogil:
    return Item(NO_NODE, value)

cdef inline Item node_item(uint32_t i) noexcept nogil:
    """A node; one that asks for no gradient counts as its number."""
    return Item(i if tape.row[i].flags & ROW_REQUIRES else NO_NODE, tape.value[i])

cdef Item item_one(unsigned op, Item x) noexcept nogil:
    cdef double y = op_value1(op, x.value, 0)
    if x.node == NO_NODE:
        return number_item(y)
    push(op, ROW_REQUIRES, x.node, 0, 0, y)
    return Item(tape.n - 1, y)

cdef Item item_two(unsigned op, Item x, Item y) noexcept nogil:
    cdef double value = x.value * y.value if op == OP_MUL else x.value + y.value if op == OP_ADD \
        else op_value2(op, x.value, y.value)
    cdef bint x_number = x.node == NO_NODE, y_number = y.node == NO_NODE
    if x_number and y_number:
        return number_item(value)
    if op == OP_MUL:
        if (x_number and x.value == 0 or y_number and y.value == 0) and isfinite(x.value) and isfinite(y.value):
            return number_item(0)
        if x_number and x.value == 1:
            return y
        if y_number and y.value == 1:
            return x
        if x_number and x.value == -1:
            return item_one(OP_NEG, y)
        if y_number and y.value == -1:
            return item_one(OP_NEG, x)
    elif op == OP_ADD:
        if x_number and x.value == 0:
            return y
        if y_number and y.value == 0:
            return x
    elif op == OP_SUB:
        if y_number and y.value == 0:
            return x
        if x_number and x.value == 0:
            return item_one(OP_NEG, y)
    elif op == OP_DIV:
        if y_number and y.value == 1:
            return x
        if x_number and x.value == 0 and isfinite(y.value) and y.value != 0:
            return number_item(0)
    elif op == OP_POW and y_number and y.value == 1:
        return x
    if y_number:
        push(op + NUMBER_SECOND, ROW_REQUIRES, x.node, 0, 0, value)
        tape.row[tape.n - 1].constant = y.value
    elif x_number:
        push(op + NUMBER_FIRST, ROW_REQUIRES, y.node, 0, 0, value)
        tape.row[tape.n - 1].constant = x.value
    else:
        push(op, ROW_REQUIRES, x.node, y.node, 0, value)
    return Item(tape.n - 1, value)

cdef bint item_holds(int e, Item* names) noexcept nogil:
    """A condition, decided by values."""
    cdef Expr* expr = exprs + e
    cdef double x = item_value(expr.x, names), y = item_value(expr.y, names)
    return x < y if expr.kind == EX_LESS else x <= y if expr.kind == EX_LESS_EQUAL else x == y

cdef double item_value(int e, Item* names) noexcept nogil:
    """An expression's value alone; nothing is recorded."""
    cdef Expr* expr = exprs + e
    if expr.kind == EX_NUMBER:
        return expr.number
    if expr.kind == EX_NAME:
        return names[expr.op].value
    if expr.kind == EX_ONE:
        return op_value1(expr.op, item_value(expr.x, names), 0)
    if expr.kind == EX_TWO:
        return op_value2(expr.op, item_value(expr.x, names), item_value(expr.y, names))
    return item_value(expr.y if item_holds(expr.x, names) else expr.z, names)

cdef Item item_of(int e, Item* names) noexcept nogil:
    """An expression as an item, its nodes recorded. names: what each name stands for. There is room."""
    cdef Expr* expr = exprs + e
    if expr.kind == EX_NUMBER:
        return number_item(expr.number)
    if expr.kind == EX_NAME:
        return names[expr.op]
    if expr.kind == EX_ONE:
        return item_one(expr.op, item_of(expr.x, names))
    if expr.kind == EX_TWO:
        return item_two(expr.op, item_of(expr.x, names), item_of(expr.y, names))
    return item_of(expr.y if item_holds(expr.x, names) else expr.z, names)


# -- partials of rows ----------------------------------------------------------------------------------------------------------

cdef void row_names(uint32_t i, row_t* row, Item* names) noexcept nogil:
    """What a, b, y (and for LINKED m) stand for in the formulas of a SHAPE_A or SHAPE_AB row."""
    names[NAME_Y] = node_item(i)
    names[NAME_A] = node_item(row.a)
    if op_number_place[row.op] == NUMBER_FIRST:
        names[NAME_B] = names[NAME_A]
        names[NAME_A] = number_item(row.constant)
    elif op_number_place[row.op] == NUMBER_SECOND:
        names[NAME_B] = number_item(row.constant)
    elif op_shape[row.op] == SHAPE_AB:
        names[NAME_B] = node_item(row.b)

cdef void range_names(uint32_t i, row_t* row, Item* names) noexcept nogil:
    """What y, n, k, xs[k], aux stand for in the formula of a SHAPE_RANGE row; x and i change from operand to operand.
    scratch has room for the operands."""
    cdef uint32_t j
    for j in range(row.c):
        tape.scratch[j] = tape.value[range_item(row, row.a, j)]
    names[NAME_Y] = node_item(i)
    names[NAME_N] = number_item(row.c)
    names[NAME_K] = number_item(row.b)
    names[NAME_XK] = node_item(range_item(row, row.a, row.b)) if row.b < row.c else number_item(NAN)
    if formula_aux[row.op] >= 0:
        names[NAME_AUX] = item_of(formula_aux[row.op], names)
    else:
        names[NAME_AUX] = number_item(op_aux(row.op, tape.scratch, row.c, row.b, tape.value[i]))

cdef uint32_t row_size(row_t* row) noexcept nogil:
    """How many nodes the adjoints or the tangent of a row make at most."""
    cdef unsigned shape = op_shape[row.op]
    if shape == SHAPE_LEAF:
        return 0
    if shape == SHAPE_RANGE:
        return (formula_size[row.op] + 5) * row.c + 8
    if shape == SHAPE_PAIR or shape == SHAPE_AFFINE:
        return 4 * row.c + 4
    return formula_size[row.op] + 4


# -- walks between inputs and roots --------------------------------------------------------------------------------------------
#
# A walk looks at the nodes that some root depends on and that depend on some input. An input is where a walk ends, leaf or
# not. What the walks compute stands in arrays of their own: no grad on the tape changes. From start_walk() on, no Python object
# is made but handles and floats: making others may run a garbage collection, and with it anything, another walk too.

cdef struct Walk:
    uint32_t low, top    # first and last node looked at
    uint32_t count       # how many these are; 0: no root depends on an input
    uint64_t* on         # [words] nodes of the walk, inputs included; bit 0 of word 0 is node low & ~63
    uint64_t* input      # [words] inputs
    size_t words         # capacity of both
    Item* item           # [items] adjoints or tangents, by node - low
    Item* part           # [parts] of the operands of one row
    double* number       # [numbers] the same as item, several directions side by side
    size_t items, parts, numbers
    bint beyond          # some root depends on a leaf that asks for a gradient and is no input

cdef Walk walk

cdef inline bint on_walk(uint32_t i) noexcept nogil:
    return i - walk.low < walk.count and (walk.on[(i >> 6) - (walk.low >> 6)] >> (i & 63)) & 1

cdef inline bint is_input(uint32_t i) noexcept nogil:
    return (walk.input[(i >> 6) - (walk.low >> 6)] >> (i & 63)) & 1

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
        walk.on[(i >> 6) - (walk.low >> 6)] |= <uint64_t>1 << (i & 63)
    else:
        walk.beyond |= tape.row[i].flags & ROW_REQUIRES

cdef inline void leave_walk(uint32_t i) noexcept nogil:
    walk.on[(i >> 6) - (walk.low >> 6)] &= ~(<uint64_t>1 << (i & 63))

cdef int find_walk(list roots, list inputs, bint prune, uint64_t* size, uint32_t* parts, uint32_t* culprit) except -1:
    """Set up the walk: from the roots down, and with prune up again to leave out what leads to no input. *size: how many nodes
    its items make at most (with prune); *parts: the longest row. *culprit: a leaf that was written after a node of the walk had
    used it, or NO_NODE."""
    cdef uint32_t i, j, k, base
    cdef unsigned shape
    cdef size_t words
    cdef row_t* row
    culprit[0] = NO_NODE
    size[0] = 0
    parts[0] = 0
    walk.beyond = False
    walk.low, walk.top = NO_NODE, 0
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
        walk.low, walk.top, walk.count = 1, 0, 0
        return 0
    walk.count = walk.top - walk.low + 1
    base = walk.low >> 6
    words = (walk.top >> 6) - base + 1
    if words > walk.words:
        resize(<void**>&walk.on, words, sizeof(uint64_t))
        resize(<void**>&walk.input, words, sizeof(uint64_t))
        walk.words = words
    memset(walk.on, 0, words * sizeof(uint64_t))
    memset(walk.input, 0, words * sizeof(uint64_t))
    for v in inputs:
        i = (<Variable>v).number
        if i <= walk.top:
            walk.input[(i >> 6) - base] |= <uint64_t>1 << (i & 63)
    for k in range(<uint32_t>len(roots)):
        i = root_at(roots, k)
        if i != NO_NODE:
            put_on_walk(i)
    for i in range(walk.top, walk.low - 1, -1) if walk.low else range(walk.top, -1, -1):
        if not on_walk(i) or is_input(i):
            continue
        row = tape.row + i
        if row.op == OP_LEAF:
            walk.beyond |= row.flags & ROW_REQUIRES
        if i < tape.last_write and is_stale(i, row, culprit):
            return 0
        shape = op_shape[row.op]
        if shape == SHAPE_A or shape == SHAPE_AB:
            put_on_walk(row.a)
            if shape == SHAPE_AB:
                put_on_walk(row.b)
            continue
        parts[0] = max(parts[0], operand_count(row))
        for j in range(operand_count(row)):
            put_on_walk(operand_at(row, j))
    for i in range(walk.low, walk.top + 1) if prune else range(0):
        if not on_walk(i) or is_input(i):
            continue
        if leads_on(tape.row + i):
            size[0] += row_size(tape.row + i)
        else:
            leave_walk(i)
    return 0

cdef int start_walk(list roots, list inputs, bint record, bint prune, uint32_t directions) except -1:
    """find_walk(), and room for its results: as nodes (record) or as so many numbers for each node. Raises RuntimeError for a
    stale graph."""
    cdef uint64_t size, collections
    cdef uint32_t parts, culprit
    cdef size_t count
    prepare_formulas()
    find_walk(roots, inputs, prune, &size, &parts, &culprit)
    if culprit != NO_NODE:
        raise RuntimeError(f"data of {describe(culprit)} (or its requires_grad) was written after this graph had used "
                           "it; run the forward pass again before taking derivatives")
    count = walk.count
    reserve_scratch(2 * <size_t>parts + 2)
    if record:
        if count > walk.items:
            resize(<void**>&walk.item, count, sizeof(Item))
            walk.items = count
        if parts > walk.parts:
            resize(<void**>&walk.part, parts, sizeof(Item))
            walk.parts = parts
        if size >= MAX_NODES:
            raise MemoryError(f"mingrad: {size} nodes of derivatives do not fit on the tape")
        collections = tape.collections
        ready(<uint32_t>size)
        if tape.collections != collections:  # nodes have moved
            find_walk(roots, inputs, prune, &size, &parts, &culprit)
    elif count * directions > walk.numbers:
        resize(<void**>&walk.number, count * directions, sizeof(double))
        walk.numbers = count * directions
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
    """A seed: a Variable or a number."""
    return node_item((<Variable>x).number) if is_variable(<PyObject*>x) else number_item(x)

cdef int take_items(list variables, uint32_t before, size_t side_before, list outputs) except -1:
    """Append the items of these Variables (or numbers: 0.0) to outputs: floats and Variables."""
    cdef Item item
    cdef uint32_t i, k
    try:
        for k in range(<uint32_t>len(variables)):
            item = number_item(0)
            i = root_at(variables, k)
            if on_walk(i):
                item = walk.item[i - walk.low]
            outputs.append(item.value if item.node == NO_NODE else take(handle_of(item.node)))
    except BaseException:
        outputs.clear()
        undo(min(tape.n, before), side_before)
        raise
    return 0

def _adjoints(list roots not None, list seeds not None, list inputs not None):
    """The adjoints of inputs for these seeds at the roots, recorded: a list of Variables and floats, in the order of inputs. An
    input that the roots do not depend on has 0.0. Roots may be numbers, here and below."""
    cdef uint32_t i, k, before
    cdef list outputs = []
    start_walk(roots, inputs, True, True, 0)
    before = tape.n
    if walk.count:
        for i in range(walk.low, walk.top + 1):
            walk.item[i - walk.low] = number_item(0)
        for k in range(<uint32_t>len(roots)):
            i = root_at(roots, k)
            if on_walk(i):
                give_item(i, given_item(seeds[k]))
        i = walk.top + 1
        while i > walk.low:
            i -= 1
            if on_walk(i) and not is_input(i):
                adjoint_row(i, tape.row + i, walk.item[i - walk.low])
    take_items(inputs, before, tape.n_side, outputs)
    return outputs

def _tangents(list roots not None, list inputs not None, list seeds not None):
    """The tangents of roots for these tangents of inputs, recorded: a list of Variables and floats, in the order of roots."""
    cdef uint32_t i, k, before
    cdef list outputs = []
    start_walk(roots, inputs, True, True, 0)
    before = tape.n
    if walk.count:
        for k in range(<uint32_t>len(inputs)):
            i = (<Variable>inputs[k]).number
            if on_walk(i):
                walk.item[i - walk.low] = given_item(seeds[k])
        for i in range(walk.low, walk.top + 1):
            if on_walk(i) and not is_input(i):
                walk.item[i - walk.low] = tangent_row(i, tape.row + i)
    take_items(roots, before, tape.n_side, outputs)
    return outputs


# -- adjoints and tangents as numbers ------------------------------------------------------------------------------------------

cdef void adjoint_numbers(uint32_t i, row_t* row) noexcept nogil:
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j, p, q, n = row.c
    cdef double adjoint = walk.number[i - walk.low], pa, pb, aux, y = tape.value[i]
    if shape == SHAPE_A:
        if on_walk(row.a):
            walk.number[row.a - walk.low] += adjoint * op_slope1(row.op, tape.value[row.a], row.constant, y)
    elif shape == SHAPE_AB:
        op_slopes(row.op, tape.value[row.a], tape.value[row.b], y, &pa, &pb)
        if on_walk(row.a):
            walk.number[row.a - walk.low] += adjoint * pa
        if on_walk(row.b):
            walk.number[row.b - walk.low] += adjoint * pb
    elif shape == SHAPE_RANGE:
        aux = range_slopes(row, y)
        for j in range(n):
            p = range_item(row, row.a, j)
            if on_walk(p):
                walk.number[p - walk.low] += adjoint * slope_at(row, j, y, aux)
    else:
        for j in range(n):
            pair_at(row, j, &p, &q)
            if on_walk(p):
                walk.number[p - walk.low] += adjoint * tape.value[q]
            if on_walk(q):
                walk.number[q - walk.low] += adjoint * tape.value[p]
        if shape == SHAPE_AFFINE and op_bias(row.op) and on_walk(row.a + n):
            walk.number[row.a + n - walk.low] += adjoint

cdef double range_slopes(row_t* row, double y) noexcept nogil:
    """Prepare slope_at() for a SHAPE_RANGE row: operand values in scratch, for prod all partials. Returns aux."""
    cdef uint32_t j, n = row.c
    cdef double left = 1
    for j in range(n):
        tape.scratch[j] = tape.value[range_item(row, row.a, j)]
    if row.op != OP_PROD:
        return op_aux(row.op, tape.scratch, n, row.b, y)
    tape.scratch[2 * n - 1] = 1
    for j in range(n - 1, 0, -1):
        tape.scratch[n + j - 1] = tape.scratch[n + j] * tape.scratch[j]
    for j in range(n):
        tape.scratch[n + j] *= left
        left *= tape.scratch[j]
    return 0

cdef inline double slope_at(row_t* row, uint32_t j, double y, double aux) noexcept nogil:
    if row.op == OP_PROD:
        return tape.scratch[row.c + j]
    return op_slope_n(row.op, tape.scratch[j], j, y, row.c, row.b, aux)

cdef void tangent_numbers(uint32_t i, row_t* row, uint32_t directions) noexcept nogil:
    """Tangents of one row in all directions."""
    cdef unsigned shape = op_shape[row.op]
    cdef uint32_t j, p, q, n = row.c
    cdef double* t = walk.number + <size_t>(i - walk.low) * directions
    cdef double pa, pb, aux, y = tape.value[i]
    memset(t, 0, directions * sizeof(double))
    if shape == SHAPE_A:  # its operand is on the walk, or the row were not
        add_tangent(t, op_slope1(row.op, tape.value[row.a], row.constant, y), row.a, directions)
    elif shape == SHAPE_AB:
        op_slopes(row.op, tape.value[row.a], tape.value[row.b], y, &pa, &pb)
        add_tangent(t, pa, row.a, directions)
        add_tangent(t, pb, row.b, directions)
    elif shape == SHAPE_RANGE:
        aux = range_slopes(row, y)
        for j in range(n):
            add_tangent(t, slope_at(row, j, y, aux), range_item(row, row.a, j), directions)
    else:
        for j in range(n):
            pair_at(row, j, &p, &q)
            add_tangent(t, tape.value[q], p, directions)
            add_tangent(t, tape.value[p], q, directions)
        if shape == SHAPE_AFFINE and op_bias(row.op):
            add_tangent(t, 1, row.a + n, directions)

cdef inline void add_tangent(double* t, double slope, uint32_t operand, uint32_t directions) noexcept nogil:
    cdef uint32_t k
    cdef double* given
    if on_walk(operand):
        given = walk.number + <size_t>(operand - walk.low) * directions
        for k in range(directions):
            t[k] += slope * given[k]

def _adjoint_values(list roots not None, list seeds not None, list inputs not None):
    """The adjoints of inputs for these seeds (floats) at the roots, as a list of floats. Nothing is recorded, no grad changes.
    None if they would lose a gradient: the roots depend on other leaves that ask for one."""
    cdef uint32_t i, k
    cdef list outputs = []
    start_walk(roots, inputs, False, False, 1)
    if walk.beyond:
        return None
    if walk.count:
        memset(walk.number, 0, walk.count * sizeof(double))
        for k in range(<uint32_t>len(roots)):
            i = root_at(roots, k)
            if on_walk(i):
                walk.number[i - walk.low] += <double>seeds[k]
        i = walk.top + 1
        while i > walk.low:
            i -= 1
            if on_walk(i) and not is_input(i) and tape.row[i].op != OP_LEAF:
                adjoint_numbers(i, tape.row + i)
    for v in inputs:
        i = (<Variable>v).number
        outputs.append(walk.number[i - walk.low] if on_walk(i) else 0.0)
    return outputs

def _tangent_values(list roots not None, list inputs not None, list seeds not None):
    """The tangents of roots for several directions at once: seeds has one list of floats for each direction, in the order of
    inputs; the result one list for each direction, in the order of roots. None as for _adjoint_values()."""
    cdef uint32_t i, j, k, directions = <uint32_t>len(seeds)
    cdef list direction
    cdef list outputs = [[] for _ in range(directions)]
    start_walk(roots, inputs, False, False, directions)
    if walk.beyond:
        return None
    if walk.count:
        for k in range(directions):
            direction = seeds[k]
            for j in range(<uint32_t>len(inputs)):
                i = (<Variable>inputs[j]).number
                if on_walk(i):
                    walk.number[<size_t>(i - walk.low) * directions + k] = <double>direction[j]
        for i in range(walk.low, walk.top + 1):
            if on_walk(i) and not is_input(i):
                if leads_on(tape.row + i):
                    tangent_numbers(i, tape.row + i, directions)
                else:
                    leave_walk(i)
    for j in range(<uint32_t>len(roots)):
        i = root_at(roots, j)
        for k in range(directions):
            (<list>outputs[k]).append(walk.number[<size_t>(i - walk.low) * directions + k] if on_walk(i) else 0.0)
    return outputs

def _dependence(list roots not None, list inputs not None):
    """For each root the places of the inputs that it depends on, as a sorted list: the pattern of a Jacobian."""
    cdef size_t width = (len(inputs) + 63) // 64, count, w
    cdef uint32_t i, j, k
    cdef uint64_t* sets = NULL
    cdef uint64_t bits
    cdef row_t* row
    cdef list outputs = [[] for _ in roots], found
    start_walk(roots, inputs, False, True, 0)
    count = walk.count
    resize(<void**>&sets, count * width + 1, sizeof(uint64_t))
    try:
        memset(sets, 0, count * width * sizeof(uint64_t))
        for k in range(<uint32_t>len(inputs)):
            i = (<Variable>inputs[k]).number
            if on_walk(i):
                sets[(i - walk.low) * width + k // 64] |= <uint64_t>1 << (k & 63)
        if count:
            for i in range(walk.low, walk.top + 1):
                if on_walk(i) and not is_input(i):
                    row = tape.row + i
                    for j in range(operand_count(row)):
                        k = operand_at(row, j)
                        if on_walk(k):
                            for w in range(width):
                                sets[(i - walk.low) * width + w] |= sets[(k - walk.low) * width + w]
        for k in range(<uint32_t>len(roots)):
            i = root_at(roots, k)
            found = outputs[k]
            if on_walk(i):
                for w in range(width):
                    bits = sets[(i - walk.low) * width + w]
                    while bits:
                        found.append(64 * w + bits_lowest(bits))
                        bits &= bits - 1
    finally:
        PyMem_RawFree(sets)
    return outputs

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
