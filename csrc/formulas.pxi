# formulas.pxi: the op table's derivative formulas as data. The sweeps of sweep.pxi compute with these formulas as C; here the
# same texts are parsed once, so that they can be recorded as nodes, which can be differentiated again, or computed with their
# own derivatives. There is no second formula: what a helper function of the table means in terms of ops is in the table too
# (MEANS in ops.def). Who walks over rows with them is derive.pxi.
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
    int meaning      # 1 + which, where it is what a helper function means (MEANS): C is more careful for first derivatives
    int argument     # then the operand of a function that has one; else -1

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
cdef dict MEANINGS = {op_meanings[k].function.decode(): (k, op_meanings[k].parameters.decode(), op_meanings[k].meaning.decode())
                      for k in range(OP_MEANING_COUNT)}
cdef dict ARITHMETIC = {"Add": OP_ADD, "Sub": OP_SUB, "Mult": OP_MUL, "Div": OP_DIV}


# -- parsing -------------------------------------------------------------------------------------------------------------------

cdef int add_expr(int kind, unsigned op, double number, int x, int y, int z) except -1:
    global exprs_capacity, n_exprs
    if n_exprs == exprs_capacity:
        resize(<void**>&exprs, 2 * exprs_capacity + 256, sizeof(Expr))
        exprs_capacity = 2 * exprs_capacity + 256
    exprs[n_exprs] = Expr(kind, op, number, x, y, z, 0, -1)
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
        x = parse(node.operand, names, codes)
        if exprs[x].kind == EX_NUMBER:
            return add_expr(EX_NUMBER, 0, -exprs[x].number, -1, -1, -1)
        return add_expr(EX_ONE, OP_NEG, 0, x, -1, -1)
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
        k, parameters, text = MEANINGS[function]
        x = parse(ast.parse(text, mode="eval").body, dict(zip(parameters.split(", "), arguments)), codes)
        exprs[x].meaning = k + 1
        exprs[x].argument = arguments[0] if len(arguments) == 1 else -1
        return x
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
        return expr_size(exprs[expr.x].x) + expr_size(exprs[expr.x].y) + max(expr_size(expr.y), expr_size(expr.z))
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
    """A node; one that asks for no gradient counts as its number, but where a program may read it later."""
    return Item(i if tape.row[i].flags & ROW_REQUIRES or tape.recorders else NO_NODE, tape.value[i])

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

cdef inline bint holds(int kind, double x, double y) noexcept nogil:
    return x < y if kind == EX_LESS else x <= y if kind == EX_LESS_EQUAL else x == y

cdef bint item_holds(int e, Item* names) noexcept nogil:
    """A condition, decided by values. What is recorded for a program must be decided again in each run: a guard (record.pxi)."""
    cdef Expr* expr = exprs + e
    cdef Item x, y
    cdef bint outcome = holds(expr.kind, item_value(expr.x, names), item_value(expr.y, names))
    if tape.recorders:
        x = item_of(expr.x, names)
        y = item_of(expr.y, names)
        if x.node != NO_NODE or y.node != NO_NODE:
            note_choice(expr.kind, x, y, outcome)
    return outcome

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
    cdef uint32_t j, start = row.a
    for j in range(row.c):
        tape.scratch[j] = tape.value[range_item(row, row.a, j)]
    names[NAME_Y] = node_item(i)
    names[NAME_N] = number_item(row.c)
    names[NAME_K] = number_item(row.b)
    names[NAME_XK] = node_item(range_item(row, row.a, row.b)) if row.b < row.c else number_item(NAN)
    if formula_aux[row.op] >= 0:
        names[NAME_AUX] = item_of(formula_aux[row.op], names)
    elif row.op == OP_SUMEXP and tape.recorders:  # a number that another run has otherwise
        if row.flags & ROW_SCATTERED:  # a list of its own: the older row may outlive the new one, which takes its list along
            start = <uint32_t>tape.n_side
            for j in range(row.c):
                tape.side[start + j] = tape.side[row.a + j]
            tape.n_side += row.c
        push(OP_MAX, row.flags & (ROW_REQUIRES | ROW_SCATTERED), start, 0, row.c, op_aux(row.op, tape.scratch, row.c, 0, 0))
        names[NAME_AUX] = item_one(OP_STOP, node_item(tape.n - 1))
    else:
        names[NAME_AUX] = number_item(op_aux(row.op, tape.scratch, row.c, row.b, tape.value[i]))

cdef uint32_t row_size(row_t* row) noexcept nogil:
    """How many nodes the adjoints or the tangent of a row make at most."""
    cdef unsigned shape = op_shape[row.op]
    if shape == SHAPE_LEAF:
        return 0
    if shape == SHAPE_RANGE:
        return (formula_size[row.op] + 5) * row.c + 10
    if shape == SHAPE_PAIR or shape == SHAPE_AFFINE:
        return 4 * row.c + 4
    return formula_size[row.op] + 4


# -- formulas with their own derivatives -----------------------------------------------------------------------------------------
#
# For second derivatives as numbers: what a partial of a row is, and how it changes with what its formula is about, which is at
# most three nodes: a (of a range: the operand), b (of a range: the one at the row's index), y.

cdef enum:
    ABOUT_A, ABOUT_B, ABOUT_Y, ABOUTS

cdef struct Dual:
    double value
    unsigned about     # bit 1 << k: it depends on k
    double d[ABOUTS]   # by each it depends on; the others are not set

cdef inline void dual_number(Dual* x, double value) noexcept nogil:
    x.value = value
    x.about = 0

cdef inline void dual_about(Dual* x, int k, double value) noexcept nogil:
    x.value = value
    x.about = 1 << k
    x.d[k] = 1

cdef void dual_two(unsigned op, Dual* x, Dual* y) noexcept nogil:
    """x becomes x op y."""
    cdef double value = op_value2(op, x.value, y.value), px = 0, py = 0
    cdef int k
    if op == OP_MUL and (x.about == 0 and x.value == 0 and isfinite(y.value) or
                         y.about == 0 and y.value == 0 and isfinite(x.value)):
        x.about = 0  # as item_two(): nothing depends on it
        x.value = value
        return
    if x.about and y.about:
        op_slopes(op, x.value, y.value, value, &px, &py)
    elif x.about:
        px = op_slope1(op + NUMBER_SECOND, x.value, y.value, value)
    elif y.about:
        py = op_slope1(op + NUMBER_FIRST, y.value, x.value, value)
    for k in range(ABOUTS):
        if x.about >> k & 1:
            x.d[k] *= px
            if y.about >> k & 1:
                x.d[k] += py * y.d[k]
        elif y.about >> k & 1:
            x.d[k] = py * y.d[k]
    x.about |= y.about
    x.value = value

cdef void dual_of(int e, Dual* names, Dual* x) noexcept nogil:
    """*x: an expression with its derivatives. names: what each name stands for."""
    cdef Expr* expr = exprs + e
    cdef Dual y
    cdef double slope
    cdef int k
    while expr.kind == EX_WHERE:
        expr = exprs + (expr.y if dual_holds(expr.x, names) else expr.z)
    if expr.kind == EX_NUMBER:
        dual_number(x, expr.number)
    elif expr.kind == EX_NAME:
        x[0] = names[expr.op]
    elif expr.kind == EX_TWO and expr.op == OP_MUL and exprs[expr.x].kind == EX_NUMBER and exprs[expr.y].kind == EX_NAME:
        x[0] = names[exprs[expr.y].op]  # 2 * a, often
        x.value *= exprs[expr.x].number
        for k in range(ABOUTS):
            if x.about >> k & 1:
                x.d[k] *= exprs[expr.x].number
    elif expr.kind == EX_ONE:
        dual_of(expr.x, names, x)
        slope = x.value
        x.value = op_value1(expr.op, slope, 0)
        if x.about:
            slope = op_slope1(expr.op, slope, 0, x.value)
            for k in range(ABOUTS):
                if x.about >> k & 1:
                    x.d[k] *= slope
    else:
        dual_of(expr.x, names, x)
        dual_of(expr.y, names, &y)
        dual_two(expr.op, x, &y)

cdef bint dual_holds(int e, Dual* names) noexcept nogil:
    """A condition, decided by values."""
    cdef Expr* expr = exprs + e
    return holds(expr.kind, dual_value(expr.x, names), dual_value(expr.y, names))

cdef inline double dual_value(int e, Dual* names) noexcept nogil:
    cdef Expr* expr = exprs + e
    cdef Dual x
    if expr.kind == EX_NUMBER:
        return expr.number
    if expr.kind == EX_NAME:
        return names[expr.op].value
    dual_of(e, names, &x)
    return x.value
