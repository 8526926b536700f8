# sequences.pxi: work over sequences of Variables, element by element, with the loop in the core: VariableList (the 1-D tensor
# of scalar code written for PyTorch), activations, norms, attention, losses. What a loss's term or an activation computes is
# in ops.def. Dense layers are in layers.pxi. Read variable.pxi first, above all what it says of numbers in flight: while
# node numbers are in C variables or new nodes have no handles, no container may be made, because that may run any code.

# -- VariableList --------------------------------------------------------------------------------------------------------------

cdef class VariableList:
    """VariableList(values)\n--\n\nA sequence of n Variables that scalar code written for 1-D PyTorch tensors can use.

    values: an iterable of Variables, kept as they are, and of numbers, which become constants. It has a length, is indexed,
    sliced (to a VariableList) and iterated over; arithmetic is element by element, with another sequence of n or with one
    Variable or number. It cannot be changed, but its Variables can: `.clamp_`, `.copy_`. See also :func:`tensor`.

    Raises TypeError for what is no sequence of Variables and numbers.

    >>> import mingrad
    >>> w = mingrad.tensor([1.0, 2.0], requires_grad=True)
    >>> loss = (w * [3.0, 4.0]).sum()
    >>> loss.backward()
    >>> loss.data, w.grad
    (11.0, [3.0, 4.0])
    """
    cdef list items

    __array_ufunc__ = None  # a NumPy array on the left leaves the operation to us

    def __cinit__(self):
        self.items = []

    def __init__(self, values):
        self.items = list(as_variables(values, "VariableList").items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return list_of(self.items[index])
        return self.items[index]

    def __iter__(self):
        return iter(self.items)

    def __contains__(self, x):
        return x in self.items

    def __reversed__(self):
        return reversed(self.items)

    def __repr__(self):
        return f"VariableList({self.tolist()!r})"

    def _repr_html_(self):
        """Its Variables as a table, for notebooks."""
        from mingrad.visualize.reprs import variables
        return variables(self)

    def __reduce__(self):
        return VariableList, (list(self.items),)

    # what it holds

    def tolist(self):
        """The values as a list of n floats."""
        if is_recording():
            for v in self.items:
                refuse_reading(v, "the numbers")
        return [tape.value[(<Variable>v).number] for v in self.items]

    @property
    def data(self):
        """The values as a list of n floats. Writing it sets those of leaves: one number for all or a sequence of n."""
        return self.tolist()

    @data.setter
    def data(self, values):
        values = self._floats(values, "VariableList.data")
        reserve_writes(len(self.items))
        for v in self.items:
            if tape.row[(<Variable>v).number].op != OP_LEAF:
                (<Variable>v).data = 0.0  # refuses
        for v, value in zip(self.items, values):
            (<Variable>v).data = value

    @property
    def grad(self):
        """The gradients as a list of n floats (after backward(create_graph=True): Variables). Can be written: one number for
        all, or a sequence of n."""
        if has_graph_grads() or is_recording():
            return [v.grad for v in self.items]
        return [tape.grad[(<Variable>v).number] for v in self.items]

    @grad.setter
    def grad(self, values):
        for v, value in zip(self.items, self._floats(values, "VariableList.grad")):
            forget_graph_grads((<Variable>v).number, 1)
            tape.grad[(<Variable>v).number] = value

    @property
    def requires_grad(self):
        """Whether any of its Variables asks for a gradient. Writing it sets that of all."""
        cdef Py_ssize_t k
        for k in range(len(self.items)):
            if tape.row[NUMBER(list_items(self.items)[k])].flags & ROW_REQUIRES:
                return True
        return False

    @requires_grad.setter
    def requires_grad(self, value):
        value = bool(value)
        for v in self.items:
            if tape.row[(<Variable>v).number].op != OP_LEAF:
                v.requires_grad = value  # refuses where it must, before anything has changed
        for v in self.items:
            v.requires_grad = value

    @property
    def shape(self):
        """(n,)"""
        return (len(self.items),)

    def _floats(self, values, what):
        """One number for all, or as many as there are Variables, as floats."""
        cdef double number
        if is_single(values):
            values = [values] * len(self.items)
        values = [v.data if is_variable(<PyObject*>v) else v for v in operands(values, what)]
        if len(values) != len(self.items):
            raise ValueError(f"{what}: expected {len(self.items)} numbers, got {len(values)}")
        return values

    def detach(self):
        """A new VariableList of constants with the same values."""
        return list_of([v.detach() for v in self.items])

    def zero_grad(self):
        """Set every grad to 0.0."""
        for v in self.items:
            forget_graph_grads((<Variable>v).number, 1)
            tape.grad[(<Variable>v).number] = 0

    # changes in place, under no_grad() where a gradient is asked for

    def clamp_(self, min=None, max=None):
        """Hold each value between bounds, in place; returns self.

        min, max: a number, a sequence of n of them, or None. Where min > max the result is max. Raises RuntimeError for a
        result, and for a Variable that requires a gradient unless inside no_grad(); ValueError for a sequence of another
        length. Then nothing has changed.

        >>> import mingrad
        >>> w = mingrad.tensor([0.5, 2.0], requires_grad=True)
        >>> with mingrad.no_grad():
        ...     w.clamp_(min=[0.6, 0.0], max=1.0)
        VariableList([0.6, 1.0])
        """
        clamp_in_place(self.items, min, max)
        return self

    def copy_(self, values):
        """Write n numbers (or the values of n Variables) in place; returns self. Raises as clamp_."""
        write_in_place(self.items, self._floats(values, "copy_"), "copy_")
        return self

    # what it computes

    def clamp(self, min=None, max=None):
        """A new VariableList, each element clamped (see mingrad.clamp); a bound is a number, a
        Variable, None or a sequence of n."""
        if min is None and max is None:
            raise TypeError("VariableList.clamp: expected min, max or both, got neither")
        answer = self
        if min is not None:
            answer = each_binary(OP_CLAMP_MIN, answer, min)
        if max is not None:
            answer = each_binary(OP_CLAMP_MAX, answer, max)
        return answer

    def sum(self):
        """The sum as one node, see mingrad.sum."""
        return take(nary(OP_SUM, self))

    def mean(self):
        """The mean as one node, see mingrad.mean."""
        return take(nary(OP_MEAN, self))

    def __neg__(self):
        return each_unary(OP_NEG, 0, self)

    def __abs__(self):
        return each_unary(OP_ABS, 0, self)

    def __add__(left, right):
        return each_binary(OP_ADD, left, right)

    def __sub__(left, right):
        return each_binary(OP_SUB, left, right)

    def __mul__(left, right):
        return each_binary(OP_MUL, left, right)

    def __truediv__(left, right):
        return each_binary(OP_DIV, left, right)

    def __floordiv__(left, right):
        return each_binary(OP_FLOORDIV, left, right)

    def __mod__(left, right):
        return each_binary(OP_MOD, left, right)

    def __pow__(left, right, modulus):
        if modulus is not None:
            raise TypeError("pow() with a modulus is not defined for Variables")
        return each_binary(OP_POW, left, right)

def tensor(data, requires_grad=False):
    """New leaves with these values, PyTorch's name and default.

    data: a sequence of n numbers or a 1-D buffer gives a VariableList; one number gives a Variable. Values of Variables are
    copied, as in PyTorch. Raises TypeError for what is no number, nested sequences among it.

    >>> import mingrad
    >>> mingrad.tensor([1, 2.5])
    VariableList([1.0, 2.5])
    """
    requires_grad = bool(requires_grad)
    if is_variable(<PyObject*>data):
        data = data.data
    if is_single(data):
        return Variable(data, requires_grad)
    values = operands(data, "mingrad.tensor")
    return list_of([Variable(x.data if is_variable(<PyObject*>x) else x, requires_grad) for x in values])

def stack(variables, /):
    """A VariableList of these Variables and numbers, in order (PyTorch's name); no node is recorded.

    >>> import mingrad
    >>> mingrad.stack([mingrad.Variable(1.0), 2.0]).sum().data
    3.0
    """
    return list_of(list(as_variables(variables, "mingrad.stack").items))


# -- changes in place ----------------------------------------------------------------------------------------------------

cdef double bound_at(object bound, Py_ssize_t k, Py_ssize_t n, str name, double none) except? -1:
    """Bound number k of a clamp: one number for all elements, or a sequence of n of them, Variables counting by their value."""
    cdef double number
    if bound is None:
        return none
    if not is_single(bound):
        if len(bound) != n:
            raise ValueError(f"clamp_: expected {name} to be a number or a sequence of {n}, got {len(bound)} of them")
        bound = bound[k]
    if is_variable(<PyObject*>bound):
        return tape.value[NUMBER(<PyObject*>bound)]
    to_number(bound, f"clamp_: {name}", &number)
    return number

cdef int check_in_place(Variable v, str what) except -1:
    """A leaf that asks for a gradient is only written in place where nothing is recorded, as in PyTorch."""
    if tape.row[v.number].op != OP_LEAF:
        raise RuntimeError(f"{what}: {describe(v.number)} cannot be written: it is a result; write the leaves it was made from")
    if tape.row[v.number].flags & ROW_REQUIRES and not thread_mode.no_grad:
        raise RuntimeError(f"{what}: {describe(v.number)} requires a gradient and cannot be changed in place while operations are "
                           "recorded; do it inside `with mingrad.no_grad():`")
    return 0

cdef int write_in_place(list items, list values, str what) except -1:
    """Write float values into leaves: all or none."""
    cdef Py_ssize_t k
    for v in items:
        check_in_place(v, what)
    reserve_writes(len(items))
    for k in range(len(items)):
        write_leaf((<Variable>items[k]).number, values[k])
    return 0

cdef int clamp_in_place(list items, object lower, object upper) except -1:
    cdef list values = []
    cdef Py_ssize_t k, n = len(items)
    cdef double x, low, high
    if lower is None and upper is None:
        raise TypeError("clamp_: expected min, max or both, got neither")
    for k in range(n):
        low = bound_at(lower, k, n, "min", -INFINITY)
        high = bound_at(upper, k, n, "max", INFINITY)
        x = tape.value[(<Variable>items[k]).number]
        x = op_value2(OP_CLAMP_MAX, op_value2(OP_CLAMP_MIN, x, low), high)
        values.append(x)
    write_in_place(items, values, "clamp_")
    return 0


# -- nodes and handles ---------------------------------------------------------------------------------------------------

cdef VariableList list_of(list items):
    """A VariableList that takes over a list of Variables."""
    cdef VariableList self = VariableList.__new__(VariableList)
    self.items = items
    return self

cdef VariableList as_variables(object xs, str what):
    """xs as a VariableList; numbers become constants. TypeError that says what it is for."""
    if type(xs) is VariableList:
        return <VariableList>xs
    return list_of([x if is_variable(<PyObject*>x) else Variable(x, False) for x in operands(xs, what)])

cdef bint is_run(list items, uint32_t* first):
    """Are these Variables consecutive nodes? *first is the number of the first."""
    cdef Py_ssize_t k
    cdef uint32_t start = NUMBER(list_items(items)[0]) if items else 0
    first[0] = start
    for k in range(len(items)):
        if NUMBER(list_items(items)[k]) != start + k:
            return False
    return True

cdef bint any_takes_part(list items):
    cdef Py_ssize_t k
    for k in range(len(items)):
        if takes_part(NUMBER(list_items(items)[k])):
            return True
    return False

cdef int take_run(uint32_t first, uint32_t count, bint constant, uint32_t before, size_t side_before, list outputs) except -1:
    """Fill outputs, which is empty, with the Variables of the count topmost nodes. constant: only their values stay, as leaves
    in place of everything recorded since the tape had `before` nodes. On MemoryError all that is taken back."""
    cdef uint32_t j
    if constant:
        memmove(tape.value + before, tape.value + first, count * sizeof(double))
        undo(before, side_before)
        first = before
        for j in range(count):
            push_leaf(tape.value[first + j], False)
    try:
        for j in range(first, first + count):
            outputs.append(take(new_handle(j)))
    except MemoryError:
        outputs.clear()
        undo(min(tape.n, before), min(tape.n_side, side_before))
        raise
    return 0


# -- elementwise operations ------------------------------------------------------------------------------------------------

cdef object each_unary(unsigned op, double setting, VariableList xs):
    """A VariableList of one op (with the number beside its operand, where it has one) on each element. Consecutive operands
    make one block."""
    cdef Py_ssize_t n = len(xs.items), k
    cdef uint32_t first, i, j, before, flags
    cdef double x, y
    cdef int off
    cdef bint run
    cdef list outputs = []
    cdef VariableList answer = list_of(outputs)
    off = ready(<uint32_t>n)
    before = tape.n
    run = is_run(xs.items, &first)
    for k in range(n):
        i = NUMBER(list_items(xs.items)[k])
        j = before + <uint32_t>k
        flags = ROW_REQUIRES if takes_part(i) else 0
        if off or not flags:
            push_leaf(op_value1(op, tape.value[i], setting), False)
            run = False
        else:
            push(op, flags + (ROW_BLOCK * (k % BLOCK_SIZE) if run else 0), i, 0, 0, op_value1(op, tape.value[i], setting))
            if op_number_place[op] != NUMBER_NOWHERE:
                tape.row[j].constant = setting
        y = tape.value[j]
        if not isfinite(y) and is_refused(op, tape.value[i], setting, y):
            x = tape.value[i]
            undo(before, tape.n_side)
            refuse(op, x, setting, y, op_number_place[op] != NUMBER_NOWHERE)
    take_run(before, <uint32_t>n, False, before, tape.n_side, outputs)
    return answer

cdef bint is_single(object x) except -1:
    """A Variable or a number, not a sequence of them."""
    return is_variable(<PyObject*>x) or isinstance(x, (int, float)) or is_numpy_number(x)

cdef object each_binary(unsigned op, object l, object r):
    """A VariableList of one op on each pair of elements; a Variable or a number goes with each element of the other. At least
    one is a VariableList. NotImplemented for what is neither."""
    cdef list ls = elements(op, l), rs = elements(op, r), outputs = []
    cdef Py_ssize_t n, k
    cdef PyObject* x = <PyObject*>l
    cdef PyObject* y = <PyObject*>r
    if ls is None and not is_single(l) or rs is None and not is_single(r):
        return NotImplemented
    n = len(rs) if ls is None else len(ls)
    if ls is not None and rs is not None and len(rs) != n:
        raise ValueError(f"VariableList {op_symbol[op].decode()}: expected two sequences of equal length, got {n} and {len(rs)}")
    for k in range(n):
        if ls is not None:
            x = list_items(ls)[k]
        if rs is not None:
            y = list_items(rs)[k]
        outputs.append(take(binary(op, x, y)))
    return list_of(outputs)

cdef list elements(unsigned op, object x):
    """The items of an operand of an elementwise operation in a list that nobody else changes; None if it is no sequence."""
    if type(x) is VariableList:
        return (<VariableList>x).items
    if isinstance(x, (VariableList, list, tuple)) or is_array(x):
        return list(operands(x, f"VariableList {op_symbol[op].decode()}"))
    return None

def _activate(str name, xs, setting=None):
    """An activation by name on each element; setting: the number beside the operand, for those that have one."""
    cdef double default
    cdef unsigned op = activation_op(name, &default)
    return each_unary(op, default if setting is None else setting, as_variables(xs, name))

def _softmax_list(xs):
    return list_of(softmax(as_variables(xs, "softmax").items))

def _rms_norm(xs, weight, double eps):
    """x_i / sqrt(mean(x**2) + eps), times weight_i."""
    cdef VariableList x = as_variables(xs, "RMSNorm")
    y = each_binary(OP_MUL, x, (take(nary(OP_MEAN_SQUARE, x)) + eps) ** -0.5)
    return y if weight is None else each_binary(OP_MUL, y, weight)

def _layer_norm(xs, weight, bias, double eps):
    """(x_i - mean(x)) / sqrt(variance(x) + eps), times weight_i, plus bias_i."""
    cdef VariableList x = as_variables(xs, "LayerNorm")
    y = each_binary(OP_SUB, x, take(nary(OP_MEAN, x)))
    y = each_binary(OP_MUL, y, (take(nary(OP_MEAN_SQUARE, y)) + eps) ** -0.5)
    if weight is not None:
        y = each_binary(OP_MUL, y, weight)
    return y if bias is None else each_binary(OP_ADD, y, bias)


# -- losses ----------------------------------------------------------------------------------------------------------------------

cdef enum:
    REDUCE_NONE, REDUCE_SUM, REDUCE_MEAN, REDUCE_ONE  # the last: there is one term, and it is the loss

cdef int reduction_code(str loss, object reduction) except -1:
    if reduction == "mean":
        return REDUCE_MEAN
    if reduction == "sum":
        return REDUCE_SUM
    if reduction == "none":
        return REDUCE_NONE
    raise ValueError(f"{loss}: expected reduction to be 'mean', 'sum' or 'none', got {reduction!r}")

cdef bint is_rows(object x) except -1:
    """A sequence whose items are sequences."""
    if type(x) is VariableList or is_single(x) or isinstance(x, (str, bytes, dict, set, frozenset)):
        return False
    if is_array(x):
        return x.ndim > 1
    try:
        return len(x) > 0 and is_sample(x[0])
    except (TypeError, KeyError):
        return False

cdef int flatten(object x, object like, str loss, list xs, list ys) except -1:
    """Append the items of nested x and like, which must have one shape, to xs and ys."""
    cdef bint rows = is_rows(x)
    if len(x) != len(like):
        raise ValueError(f"{loss}: expected input and target of one shape, got {len(x)} and {len(like)} items")
    for a, b in zip(x, like):
        if rows:
            if is_single(a) or is_single(b):
                raise ValueError(f"{loss}: expected input and target of one shape, got a number where the other has a row")
            flatten(a, b, loss, xs, ys)
        else:
            xs.append(a)
            ys.append(b)
    return 0

cdef tuple loss_items(object x, str what):
    """operands(), at once for what models give."""
    if FREE_THREADED and type(x) is list:  # others may change it meanwhile
        x = tuple(<list>x)
        return x if all_exact(tuple_items(x), len(<tuple>x)) else operands(x, what)
    if type(x) is VariableList:
        x = (<VariableList>x).items
    if type(x) is list and all_exact(list_items(x), len(<list>x)):
        return tuple(<list>x)
    return operands(x, what)

cdef object finish(str loss, int how, uint32_t first, uint32_t count, bint constant, bint number, uint32_t before,
                   size_t side_before, list outputs):
    """The end of a loss: its terms are the count topmost nodes; there is room for one more. number: no Variable came in, so
    floats go out."""
    cdef double y
    cdef uint32_t j
    if how == REDUCE_NONE or how == REDUCE_ONE:
        if number:
            for j in range(count):
                outputs.append(tape.value[first + j])
            undo(before, side_before)
        else:
            take_run(first, count, constant, before, side_before, outputs)
        return outputs[0] if how == REDUCE_ONE else outputs if number else list_of(outputs)
    y = op_value_n(OP_MEAN if how == REDUCE_MEAN else OP_SUM, tape.value + first, count, 0)
    if number:
        undo(before, side_before)
        return y
    push(OP_MEAN if how == REDUCE_MEAN else OP_SUM, ROW_REQUIRES, first, 0, count, y)
    take_run(tape.n - 1, 1, constant, before, side_before, outputs)
    return outputs[0]

cdef int push_term(unsigned op, PyObject* p, PyObject* t, uint32_t before) except -1:
    """Record one term of a loss of prediction p and target t, Variables or floats. There is room. Where the op refuses them
    the tape goes back to `before` nodes."""
    cdef bint p_node = is_variable(p), t_node = is_variable(t)
    cdef uint32_t i = NUMBER(p) if p_node else 0, j = NUMBER(t) if t_node else 0
    cdef double a = tape.value[i] if p_node else PyFloat_AS_DOUBLE(p)
    cdef double b = tape.value[j] if t_node else PyFloat_AS_DOUBLE(t)
    cdef double y = op_value2(op, a, b)
    if not isfinite(y) and is_refused(op, a, b, y):
        undo(before, tape.n_side)
        refuse(op, a, b, y, True)
    p_node = p_node and takes_part(i)
    t_node = t_node and takes_part(j)
    if p_node and t_node:
        push(op, ROW_REQUIRES, i, j, 0, y)
    elif p_node:
        push(op + NUMBER_SECOND, ROW_REQUIRES, i, 0, 0, y)
        tape.row[tape.n - 1].constant = b
    elif t_node:
        push(op + NUMBER_FIRST, ROW_REQUIRES, j, 0, 0, y)
        tape.row[tape.n - 1].constant = a
    else:
        push_leaf(y, False)
    return 0

cdef object term_by_term(str loss, unsigned op, object predictions, object targets, object reduction, double delta=-1):
    """A loss that is a sum of terms, one node each; delta >= 0: each a huber of the difference."""
    cdef int how = reduction_code(loss, reduction)
    cdef bint single, number, constant
    cdef tuple p, t
    cdef list outputs = [], ps, ts
    cdef uint32_t n, k, before, first, place = 0
    cdef size_t side_before
    cdef int off
    single = is_single(predictions)
    if single != is_single(targets):
        raise ValueError(f"{loss}: expected input and target of one shape, got {type(predictions).__name__} and "
                         f"{type(targets).__name__}")
    if single:
        predictions, targets = (predictions,), (targets,)
        how = REDUCE_ONE
    elif is_rows(predictions) or is_rows(targets):
        if is_rows(predictions) != is_rows(targets):
            raise ValueError(f"{loss}: expected input and target of one shape, got "
                             + ("rows and a sequence" if is_rows(predictions) else "a sequence and rows"))
        if how == REDUCE_NONE:
            if len(predictions) != len(targets):
                raise ValueError(f"{loss}: expected input and target of one shape, got {len(predictions)} and {len(targets)} rows")
            return [term_by_term(loss, op, row, like, reduction, delta) for row, like in zip(predictions, targets)]
        ps, ts = [], []
        flatten(predictions, targets, loss, ps, ts)
        predictions, targets = ps, ts
    p = loss_items(predictions, f"{loss}: input")
    t = loss_items(targets, f"{loss}: target")
    n = <uint32_t>len(p)
    if n != <size_t>len(t):
        raise ValueError(f"{loss}: expected input and target of equal length, got {n} and {len(t)}")
    if n == 0:
        raise ValueError(f"{loss}: expected at least one element, got empty input and target")
    number = not any_variable(p) and not any_variable(t)
    off = room_for(2 * n + 1, 0)
    constant = off or not (any_requires(p) or any_requires(t))
    before = first = tape.n
    side_before = tape.n_side
    for k in range(n):
        push_term(op, PyTuple_GET_ITEM(<PyObject*>p, k), PyTuple_GET_ITEM(<PyObject*>t, k), before)
    if delta >= 0:
        first = tape.n
        for k in range(n):
            if not tape.row[before + k].flags & ROW_REQUIRES:
                push_leaf(op_value2(OP_HUBER, tape.value[before + k], delta), False)
                place = 0
                continue
            push(OP_HUBER + NUMBER_SECOND, ROW_REQUIRES + ROW_BLOCK * (place % BLOCK_SIZE), before + k, 0, 0,
                 op_value2(OP_HUBER, tape.value[before + k], delta))
            tape.row[tape.n - 1].constant = delta
            place += 1
    return finish(loss, how, first, n, constant, number, before, side_before, outputs)

def mse_loss(input, target, reduction="mean"):
    """(input - target)**2, averaged, summed or each.

    input, target: sequences of n Variables and numbers, rows of them, or one each; of one shape. reduction: 'mean' (over all
    elements), 'sum', or 'none' (a VariableList, or a list of them for rows). One node for each element and one for the
    reduction; only numbers give a float. Definition: PyTorch's torch.nn.functional.mse_loss.

    Raises ValueError for different shapes, empty sequences and an unknown reduction, TypeError for what is no number.

    >>> from mingrad import nn
    >>> nn.mse_loss([1.0, 3.0], [1.0, 1.0])
    2.0
    """
    return term_by_term("mse_loss", OP_SQUARED_ERROR, input, target, reduction)

def l1_loss(input, target, reduction="mean"):
    """abs(input - target), averaged, summed or each; slope 0 at 0.

    Arguments, result and errors as :func:`mse_loss`. Definition: PyTorch's torch.nn.functional.l1_loss.

    >>> from mingrad import nn
    >>> nn.l1_loss([1.0, 3.0], [1.0, 1.0])
    1.0
    """
    return term_by_term("l1_loss", OP_ABSOLUTE_ERROR, input, target, reduction)

def huber_loss(input, target, reduction="mean", delta=1.0):
    """d**2 / 2 where abs(d) <= delta, else delta * (abs(d) - delta / 2),
    d = input - target; averaged, summed or each.

    delta: a positive number. Arguments, result and errors as :func:`mse_loss`; two nodes for each element. Definition:
    PyTorch's torch.nn.functional.huber_loss.

    >>> from mingrad import nn
    >>> nn.huber_loss([0.5, 3.0], [0.0, 0.0], reduction='sum')
    2.625
    """
    cdef double number
    to_number(delta, "huber_loss: delta", &number)
    if not number > 0 or number == INFINITY:
        raise ValueError(f"huber_loss: expected delta to be a positive finite number, got {delta!r}")
    return term_by_term("huber_loss", OP_SUB, input, target, reduction, number)

def hinge_loss(input, target, reduction="mean"):
    """max(0, 1 - target * input), averaged, summed or each: the max-margin loss of
    support vector machines.

    input: scores; target: -1 or 1 for each (any number is taken as it is). Slope 0 where the margin is just met. Arguments,
    result and errors as :func:`mse_loss`.

    >>> from mingrad import nn
    >>> nn.hinge_loss([0.5, 2.0], [1.0, 1.0])
    0.25
    """
    return term_by_term("hinge_loss", OP_HINGE, input, target, reduction)

def binary_cross_entropy(input, target, reduction="mean"):
    """-(t * log(p) + (1 - t) * log(1 - p)), averaged, summed or each.

    input: probabilities p between 0 and 1; target: t, mostly 0 or 1. As in PyTorch a logarithm counts as -100 at least, and
    the slope (p - t) / (p * (1 - p)) has a denominator of 1e-12 at least: finite numbers at p = 0 and 1. From logits,
    :func:`binary_cross_entropy_with_logits` is exact everywhere. Arguments, result and errors as :func:`mse_loss`;
    ValueError also for p outside [0, 1].

    >>> from mingrad import nn
    >>> nn.binary_cross_entropy([0.5, 0.5], [1.0, 0.0])
    0.6931471805599453
    """
    return term_by_term("binary_cross_entropy", OP_BCE, input, target, reduction)

def binary_cross_entropy_with_logits(input, target, reduction="mean"):
    """Binary cross-entropy of sigmoid(input), in a form that
    neither overflows nor cancels: max(x, 0) - x * t + log(1 + exp(-abs(x))), slope sigmoid(x) - t.

    input: logits x; target: t, mostly 0 or 1. Arguments, result and errors as :func:`mse_loss`.

    >>> from mingrad import nn
    >>> nn.binary_cross_entropy_with_logits([0.0], [1.0])
    0.6931471805599453
    """
    return term_by_term("binary_cross_entropy_with_logits", OP_BCE_LOGITS, input, target, reduction)

cdef uint32_t class_index(object target, Py_ssize_t classes, object sample) except? 0xFFFFFFFF:
    """A class index as a number; sample: which one, for the error's text."""
    where_ = "" if sample is None else f" of sample {sample}"
    if isinstance(target, bool) or not hasattr(type(target), "__index__"):
        raise TypeError(f"cross_entropy: expected target{where_} to be a class index (int), got {type(target).__name__}")
    index = operator.index(target)
    if not 0 <= index < classes:
        raise IndexError(f"cross_entropy: expected target{where_} to be a class index from 0 to {classes - 1}, got {index}")
    return index

def cross_entropy(input, target, reduction="mean"):
    """-log(softmax(input)[target]) of each sample, averaged, summed or each.

    input: the logits of one sample (a sequence of C >= 1 Variables and numbers), or rows of them; target: the sample's class
    index, an int from 0 to C - 1, or one for each row. One node for each sample, computed without overflow; slope for logit
    i: softmax_i - (i == target). Only numbers give a float. Definition: PyTorch's torch.nn.functional.cross_entropy.

    Raises IndexError for an index out of range, ValueError for different numbers of rows and targets, no rows, no logits and
    an unknown reduction, TypeError for what is no number or no int.

    >>> from mingrad import nn
    >>> nn.cross_entropy([0.0, 0.0], 1)
    0.6931471805599453
    """
    cdef int how = reduction_code("cross_entropy", reduction)
    cdef list rows, outputs = []
    cdef tuple items
    cdef uint32_t count, j, k, n, before, start, first
    cdef size_t side_before, total = 0, most = 0
    cdef bint run, single, number = True, constant = True
    cdef double* kept
    cdef double* xs
    cdef double y
    cdef int off
    single = type(input) is VariableList or not is_rows(input)
    if hasattr(input, "__len__") and len(input) == 0:
        raise ValueError("cross_entropy: expected at least one logit or row of logits, got none")
    if not single and not hasattr(target, "__len__"):
        raise ValueError(f"cross_entropy: expected a sequence of {len(input)} class indices, one for each row of logits, got "
                         f"{type(target).__name__}")
    rows = [loss_items(row, "cross_entropy: input") for row in ((input,) if single else input)]
    targets = (target,) if single else list(target)
    if single:
        how = REDUCE_ONE
    if len(rows) != len(targets):
        raise ValueError(f"cross_entropy: expected as many rows of logits as class indices, got {len(rows)} and {len(targets)}")
    if () in rows:
        raise ValueError(f"cross_entropy: expected at least one logit for each sample, got none for sample {rows.index(())}")
    indices = [class_index(targets[k], len(rows[k]), None if single else k) for k in range(<uint32_t>len(rows))]
    count = <uint32_t>len(rows)
    for items in rows:
        number = number and not any_variable(items)
        constant = constant and not any_requires(items)
        total += len(items)
        most = max(most, <size_t>len(items))
    reserve_scratch(2 * count + most)
    off = room_for(total + count + 1, total)
    before = tape.n
    side_before = tape.n_side
    kept = tape.scratch  # of each row: where its operands begin, and whether they are a run
    for k in range(count):
        push_operands(<tuple>rows[k], &start, &run)
        kept[2 * k] = start
        kept[2 * k + 1] = run
    first = tape.n
    xs = tape.scratch + 2 * count
    for k in range(count):
        items = <tuple>rows[k]
        n = <uint32_t>len(items)
        start = <uint32_t>kept[2 * k]
        run = kept[2 * k + 1] != 0
        for j in range(n):
            xs[j] = tape.value[start + j if run else tape.side[start + j]]
        y = op_value_n(OP_CROSS_ENTROPY, xs, n, <uint32_t>indices[k])
        if any_requires(items):
            push(OP_CROSS_ENTROPY, ROW_REQUIRES | (0 if run else ROW_SCATTERED), start, <uint32_t>indices[k], n, y)
        else:
            push_leaf(y, False)
    return finish("cross_entropy", how, first, count, constant or off, number, before, side_before, outputs)


# -- attention -------------------------------------------------------------------------------------------------------------------

cdef list attention_rows(tuple rows, str what, Py_ssize_t length, bint runs):
    """The rows as lists of Variables, of this length (-1: of that of the first). runs: a row that is no run of nodes is copied
    into one."""
    cdef list found = []
    cdef VariableList row
    cdef uint32_t first
    for x in rows:
        row = as_variables(x, what)
        if length == -1:
            length = len(row.items)
        if len(row.items) != length:
            raise ValueError(f"{what}: expected rows of {length}, got one of {len(row.items)}")
        if runs and not is_run(row.items, &first):
            row = each_unary(OP_COPY, 0, row)
        found.append(row.items)
    return found

cdef tuple rows_of(object rows, str what):
    """Rows as a tuple."""
    if is_single(rows) or type(rows) is VariableList or not hasattr(type(rows), "__iter__"):
        raise TypeError(f"{what}: expected rows of Variables and numbers, got {type_name(<PyObject*>rows)}")
    return tuple(rows)

def scaled_dot_product_attention(query, key, value, heads=1):
    """What one position attends to: for each head, the rows of value,
    weighted by softmax(query . key_t / sqrt(d)).

    query: n Variables or numbers; key: T >= 1 rows of n; value: T rows of m; n and m are shared out evenly over heads (d = n /
    heads numbers of query and of each key belong to a head). Gives a VariableList of m. For causal attention with a cache,
    key and value hold the rows of this position and those before it. Formula: Vaswani et al., Attention Is All You Need
    (2017), equation 1; PyTorch's function of this name for one query.

    Raises ValueError where lengths do not fit, TypeError for what is no number.

    >>> from mingrad import nn
    >>> nn.scaled_dot_product_attention([1.0, 0.0], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]).tolist()
    [2.0, 3.0]
    """
    cdef str what = "scaled_dot_product_attention"
    cdef list q, ks, vs, outputs = []
    cdef VariableList answer = list_of(outputs)
    cdef uint32_t rows, n, m, width, h, t, j, at, scores, scaled, total, weights, before, start
    cdef size_t side_before
    cdef bint constant
    cdef double s, biggest, scale
    cdef int off
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise ValueError(f"{what}: expected heads to be a positive int, got {heads!r}")
    q = attention_rows((query,), f"{what}: query", -1, True)[0]
    ks = attention_rows(rows_of(key, f"{what}: key"), f"{what}: key", len(q), True)
    vs = attention_rows(rows_of(value, f"{what}: value"), f"{what}: value", -1, False)
    if not q or not ks or len(ks) != len(vs):
        raise ValueError(f"{what}: expected a query and as many rows of key as of value, at least one, got {len(q)} numbers, "
                         f"{len(ks)} and {len(vs)} rows")
    rows, n, m = len(ks), len(q), len(vs[0])
    if n % heads or m % heads or not m:
        raise ValueError(f"{what}: expected lengths that {heads} heads share evenly, got {n} and {m}")
    width = n // <uint32_t>heads
    scale = 1 / (<double>width) ** 0.5
    constant = not any_takes_part(q)
    for t in range(rows):
        constant = constant and not any_takes_part(<list>ks[t]) and not any_takes_part(<list>vs[t])
    off = room_for((3 * rows + 1) * <size_t>heads + m, 2 * rows * <size_t>m)
    before = tape.n
    side_before = tape.n_side
    for h in range(<uint32_t>heads):
        at = NUMBER(list_items(q)[0]) + h * width
        scores = tape.n
        for t in range(rows):
            j = NUMBER(list_items(<list>ks[t])[0]) + h * width
            push(OP_DOT, ROW_REQUIRES, at, j, width, kernels.dot(tape.value + at, tape.value + j, width))
        scaled = tape.n
        for t in range(rows):
            push(OP_MUL + NUMBER_SECOND, ROW_REQUIRES + ROW_BLOCK * (t % BLOCK_SIZE), scores + t, 0, 0,
                 tape.value[scores + t] * scale)
            tape.row[tape.n - 1].constant = scale
        total = tape.n
        biggest = k_max(tape.value + scaled, rows)
        s = op_value_n(OP_SUMEXP, tape.value + scaled, rows, 0)
        push(OP_SUMEXP, ROW_REQUIRES, scaled, 0, rows, s)
        for t in range(rows):
            push(OP_SOFTMAX, ROW_REQUIRES, scaled + t, total, 0, value_softmax(tape.value[scaled + t], biggest, s))
    width = m // <uint32_t>heads
    for j in range(m):  # at the end, so that the outputs are a run
        weights = before + (j // width) * (3 * rows + 1) + 2 * rows + 1
        start = <uint32_t>tape.n_side
        for t in range(rows):
            tape.side[start + t] = weights + t
            tape.side[start + rows + t] = NUMBER(list_items(<list>vs[t])[j])
            tape.scratch[t] = tape.value[weights + t]
            tape.scratch[rows + t] = tape.value[NUMBER(list_items(<list>vs[t])[j])]
        tape.n_side += 2 * rows
        push(OP_DOT, ROW_REQUIRES | ROW_SCATTERED, start, 0, rows, kernels.dot(tape.scratch, tape.scratch + rows, rows))
    take_run(tape.n - m, m, constant or off, before, side_before, outputs)
    return answer
