# sweep.pxi: backward: one walk down the numbers from a root. Knows shapes, not formulas: those are in ops.def.
# Creation order is a topological order, so there is no sort and no recursion. Read tape.pxi first.
#
# Two bitmaps say where the walk stands. `pending` holds the interior nodes reached and not yet left: the walk takes
# the highest, clears it and reaches its operands, until none is left; its cost follows the reached graph, not the tape
# (a second bitmap, one bit per word, skips the gaps). `reached` holds what is settled at the end, so that a pass either
# counts as a whole or not at all: the leaves, where only then the pass's adjoint is added to what earlier passes left; and
# the affine nodes, which only then give their weights' share, straight into the weights' grad. A layer's weights are many,
# and looking at each of them to reach and to settle it would cost more than the arithmetic.

cdef inline void set_pending(uint32_t i) noexcept nogil:
    if tape.pending[i >> 6] == 0:
        tape.pending_top[i >> 12] |= <uint64_t>1 << ((i >> 6) & 63)
    tape.pending[i >> 6] |= <uint64_t>1 << (i & 63)

cdef inline void open_leaf(uint32_t i) noexcept nogil:
    tape.reached[i >> 6] |= <uint64_t>1 << (i & 63)
    tape.reached_top[i >> 12] |= <uint64_t>1 << ((i >> 6) & 63)
    tape.row[i].held = tape.grad[i]
    tape.grad[i] = 0

cdef inline void reach(uint32_t i) noexcept nogil:
    """Node i gets a contribution: if it is the pass's first, its adjoint starts from 0."""
    if tape.row[i].op == OP_LEAF:
        if not is_set(tape.reached, i):
            open_leaf(i)
    elif not is_marked(i):
        set_pending(i)
        tape.grad[i] = 0

cdef void reach_run(uint32_t first, uint32_t count) noexcept nogil:
    """reach() for consecutive nodes; where all have been reached, a look at each word."""
    cdef uint32_t w, end = first + count
    cdef uint64_t fresh
    if not count:
        return
    for w in range(first >> 6, (end >> 6) + 1):
        fresh = run_bits(w, first, end) & ~(tape.pending[w] | tape.reached[w])
        if fresh:
            reach_bits(w, fresh)

cdef inline void reach_bits(uint32_t w, uint64_t fresh) noexcept nogil:
    """reach() for the nodes of word w whose bits are set in fresh; none of them has been reached."""
    cdef uint32_t i = (w << 6) + bits_lowest(fresh), end = (w << 6) + bits_highest(fresh) + 1
    cdef uint64_t leaves = 0, bits = fresh
    cdef uint32_t rows, j
    if fresh == run_bits(w, i, end):  # one run, as a layer's nodes are; of a block one row is looked at
        while i < end:
            rows = min(tape.row[end - 1].flags // ROW_BLOCK + 1, end - i)
            end -= rows
            if tape.row[end].op == OP_LEAF:
                leaves |= <uint64_t>1 << (end & 63)
                tape.row[end].held = tape.grad[end]
            for j in range(end, end + rows):
                tape.grad[j] = 0
    else:
        while bits:
            i = (w << 6) + bits_lowest(bits)
            if tape.row[i].op == OP_LEAF:
                leaves |= bits & -bits
                tape.row[i].held = tape.grad[i]
            tape.grad[i] = 0
            bits &= bits - 1
    if leaves:
        tape.reached[w] |= leaves
        tape.reached_top[w >> 6] |= <uint64_t>1 << (w & 63)
    if fresh ^ leaves:
        tape.pending[w] |= fresh ^ leaves
        tape.pending_top[w >> 6] |= <uint64_t>1 << (w & 63)

cdef inline uint32_t set_below(uint64_t* bitmap, uint32_t i, uint32_t most) noexcept nogil:
    """How many of the nodes i, i - 1, ... have their bit set before one has not; most at most. Node i has."""
    cdef uint32_t w = i >> 6, count = 0, here = (i & 63) + 1
    cdef uint64_t clear
    while count < most:
        clear = ~bitmap[w] << (64 - here)  # node by node from the top; what is shifted in counts as set
        if clear:
            count += 63 - bits_highest(clear)
            break
        count += here
        if w == 0:
            break
        w -= 1
        here = 64
    return min(count, most)

cdef inline void give(uint32_t i, double contribution) noexcept nogil:
    if not ((tape.pending[i >> 6] | tape.reached[i >> 6]) >> (i & 63)) & 1:  # else there is no need to read its row
        reach(i)
    tape.grad[i] += contribution

cdef inline uint64_t give_near(uint32_t i, double contribution, uint32_t w, uint64_t word) noexcept nogil:
    """give() from the walk's inner loop, which keeps word w of pending in a register; returns it. Most operands of scalar
    code are interior nodes of the same word."""
    cdef uint64_t bit
    if i >> 6 != w:
        give(i, contribution)
        return word
    bit = <uint64_t>1 << (i & 63)
    if word & bit:
        tape.grad[i] += contribution
    elif tape.row[i].op == OP_LEAF:
        give(i, contribution)
        return word
    else:
        tape.grad[i] = 0.0 + contribution
    return word | bit

cdef void back_prod(row_t* row, double adjoint) noexcept nogil:
    """Each operand's partial is the product of all the others, from the left times from the right: no division, so
    zeros and underflow are right. scratch was reserved when the node was recorded."""
    cdef uint32_t j, n = row.c
    cdef double left = 1
    tape.scratch[n - 1] = 1
    for j in range(n - 1, 0, -1):
        tape.scratch[j - 1] = tape.scratch[j] * tape.value[range_item(row, row.a, j)]
    for j in range(n):
        give(range_item(row, row.a, j), adjoint * (left * tape.scratch[j]))
        left *= tape.value[range_item(row, row.a, j)]

cdef void back_range(uint32_t i, row_t* row, double adjoint) noexcept nogil:
    """Contributions of a SHAPE_RANGE node."""
    cdef uint32_t j, k, n = row.c
    cdef double aux, y = tape.value[i]
    cdef double* xs = tape.value + row.a
    if row.op == OP_PROD:
        back_prod(row, adjoint)
        return
    if not row.flags & ROW_SCATTERED:
        reach_run(row.a, n)
        aux = op_aux(row.op, xs, n, row.b, y)
        for j in range(n):
            tape.grad[row.a + j] += adjoint * op_slope_n(row.op, xs[j], j, y, n, row.b, aux)
        return
    for j in range(n):
        tape.scratch[j] = tape.value[range_item(row, row.a, j)]
    aux = op_aux(row.op, tape.scratch, n, row.b, y)
    for j in range(n):
        k = range_item(row, row.a, j)
        give(k, adjoint * op_slope_n(row.op, tape.scratch[j], j, y, n, row.b, aux))

cdef void back_pair(row_t* row, double adjoint) noexcept nogil:
    """Contributions of a dot."""
    cdef uint32_t j, p, q, n = row.c, second = second_start(row)
    if row.flags & ROW_SCATTERED:
        for j in range(n):
            p = tape.side[row.a + j]
            q = tape.side[second + j]
            give(p, adjoint * tape.value[q])
            give(q, adjoint * tape.value[p])
    else:
        reach_run(row.a, n)
        reach_run(second, n)
        kernels.axpy(tape.grad + row.a, adjoint, tape.value + second, n)
        kernels.axpy(tape.grad + second, adjoint, tape.value + row.a, n)

cdef inline uint32_t block_rows(uint32_t i, row_t* row) noexcept nogil:
    """How many nodes from i down are done as one block: those of i's block that are pending. No block reaches below the
    last write, where each node must be looked at by itself (is_stale)."""
    cdef uint32_t most = row.flags // ROW_BLOCK + 1
    if most == 1 or i <= tape.last_write:
        return 1
    return set_below(tape.pending, i, min(most, i - tape.last_write + 1))

cdef uint32_t back_affine(uint32_t i, row_t* row) noexcept nogil:
    """Contributions of an affine node and the rest of its block to their inputs; their weights' wait for settle(). Returns
    how many nodes it did."""
    cdef uint32_t n = row.c, bias = op_bias(row.op), rows = block_rows(i, row), w
    cdef uint32_t low = i - (rows - 1), first = row.a - (rows - 1) * (n + bias)
    if row.op == OP_AFFINE or row.op == OP_LINEAR:
        reach_run(row.b, n)
        kernels.affine_back_x(tape.grad + row.b, tape.grad + low, tape.value + first, n, bias, rows)
    if row.flags & ROW_FROZEN:  # weights that must be looked at one by one
        reach_run(first, rows * (n + bias))
        kernels.affine_back_w(tape.grad + first, tape.grad + low, tape.value + row.b, n, bias, rows, 1)
    else:
        for w in range(low >> 6, (i >> 6) + 1):
            tape.reached[w] |= run_bits(w, low, i + 1)
            tape.reached_top[w >> 6] |= <uint64_t>1 << (w & 63)
    return rows

cdef uint32_t back_block(uint32_t i, row_t* row) noexcept nogil:
    """Contributions of an activation and the rest of its block. Returns how many nodes it did."""
    cdef uint32_t count = block_rows(i, row)
    cdef uint32_t top = i - (count - 1), low = row.a - (count - 1)
    reach_run(low, count)
    op_block_back(row.op, tape.grad + low, tape.grad + top, tape.value + low, row.constant, tape.value + top, count)
    return count

cdef bint is_stale(uint32_t i, row_t* row, uint32_t* culprit) noexcept nogil:
    """Has a leaf that node i used been written since? Then i's value is not that of its operands any more."""
    cdef uint32_t j, k
    for j in range(operand_count(row)):
        k = operand_at(row, j)
        if tape.row[k].op == OP_LEAF and tape.row[k].a > i:
            culprit[0] = k
            return True
    return False

cdef inline bint next_pending(uint32_t* i) noexcept nogil:
    """The highest pending node at or below *i; False if there is none. Summary bits are cleared as they are used up."""
    cdef uint32_t w = i[0] >> 6, t
    cdef uint64_t bits
    if tape.pending[w]:
        i[0] = (w << 6) + bits_highest(tape.pending[w])
        return True
    t = w >> 6
    while True:
        bits = tape.pending_top[t]
        while bits:
            w = (t << 6) + bits_highest(bits)
            if tape.pending[w]:
                tape.pending_top[t] = bits
                i[0] = (w << 6) + bits_highest(tape.pending[w])
                return True
            bits &= ~(<uint64_t>1 << (w & 63))
        tape.pending_top[t] = 0
        if t == 0:
            return False
        t -= 1

cdef uint32_t settle_affine(uint32_t i, bint keep) noexcept nogil:
    """Weights' share of an affine node, the rest of its block, and the blocks below it that are the same layer's for other
    samples. Returns how many nodes it did."""
    cdef row_t* row = tape.row + i
    cdef row_t* next
    cdef uint32_t rows = set_below(tape.reached, i, row.flags // ROW_BLOCK + 1), samples = 1, below
    cdef uint32_t first = row.a - (rows - 1) * (row.c + op_bias(row.op))
    while (samples + 1) * <uint64_t>rows <= i:
        below = i - samples * rows
        next = tape.row + below
        if next.op != row.op or next.a != row.a or next.c != row.c or next.flags != row.flags \
                or <uint64_t>next.b + samples * <uint64_t>row.c != row.b or not is_set(tape.reached, below) \
                or set_below(tape.reached, below, rows) != rows:
            break
        samples += 1
    if keep:
        kernels.affine_back_w(tape.grad + first, tape.grad + i + 1 - samples * rows, tape.value + row.b - (samples - 1) * row.c,
                              row.c, op_bias(row.op), rows, samples)
    return rows * samples

cdef void settle(uint32_t top, bint keep) noexcept nogil:
    """End of a pass: from the top down, affine nodes give their weights' share, and each reached leaf adds the pass's
    adjoint to what it held. keep False: the pass does not count, leaves get back what they held."""
    cdef uint32_t t = top >> 12, w, i, low
    cdef uint64_t tops, bits
    cdef row_t* row
    while True:
        tops = tape.reached_top[t]
        while tops:
            w = (t << 6) + bits_highest(tops)
            tops &= ~(<uint64_t>1 << (w & 63))
            bits = tape.reached[w]
            while bits:
                i = low = (w << 6) + bits_highest(bits)
                row = tape.row + i
                if row.op != OP_LEAF:
                    low = i + 1 - settle_affine(i, keep)
                elif keep and row.flags & ROW_REQUIRES:
                    tape.grad[i] = row.held + tape.grad[i]
                else:
                    tape.grad[i] = row.held
                clear_run(tape.reached, low, i + 1)
                bits = tape.reached[w]
        tape.reached_top[t] = 0
        if t == 0:
            return
        t -= 1

cdef bint backward(uint32_t root, double seed, uint32_t* culprit) noexcept nogil:
    """Add seed * d root / d leaf to the grad of every leaf that root depends on; interior nodes get this pass's adjoint.

    Returns True; or False where a leaf was written after a node that root depends on had used it: then *culprit is that
    leaf and no leaf's grad has changed. Needs no memory.
    """
    cdef uint32_t i = root, w, low
    cdef uint64_t word
    cdef row_t* row
    cdef unsigned shape
    cdef double adjoint, pa, pb
    reach(root)
    tape.grad[root] += seed
    while next_pending(&i):
        w = i >> 6
        word = tape.pending[w]
        i = (w + 1) << 6
        while word:
            i = bits_next(word, i)
            row = tape.row + i
            if i < tape.last_write and is_stale(i, row, culprit):
                while next_pending(&i):
                    tape.pending[i >> 6] = 0
                settle(root, False)
                return False
            shape = op_shape[row.op]
            adjoint = tape.grad[i]
            if shape == SHAPE_AB:
                word &= ~(<uint64_t>1 << (i & 63))
                if row.op == OP_MUL:  # what most nodes are: the table's formulas again, without its switch
                    op_slopes(OP_MUL, tape.value[row.a], tape.value[row.b], tape.value[i], &pa, &pb)
                elif row.op == OP_ADD:
                    op_slopes(OP_ADD, tape.value[row.a], tape.value[row.b], tape.value[i], &pa, &pb)
                else:
                    op_slopes(row.op, tape.value[row.a], tape.value[row.b], tape.value[i], &pa, &pb)
                word = give_near(row.a, adjoint * pa, w, word)
                word = give_near(row.b, adjoint * pb, w, word)
            elif shape == SHAPE_A and row.flags < ROW_BLOCK:
                word &= ~(<uint64_t>1 << (i & 63))
                pa = op_slope1(row.op, tape.value[row.a], row.constant, tape.value[i])
                word = give_near(row.a, adjoint * pa, w, word)
            else:  # these work on the bitmap itself
                tape.pending[w] = word
                low = i
                if shape == SHAPE_A:
                    low = i - (back_block(i, row) - 1)
                elif shape == SHAPE_AFFINE:
                    low = i - (back_affine(i, row) - 1)
                elif shape == SHAPE_RANGE:
                    back_range(i, row, adjoint)
                else:
                    back_pair(row, adjoint)
                clear_run(tape.pending, low, i + 1)
                word = tape.pending[w]
                i = low
        tape.pending[w] = 0
        i = w << 6  # not where a block has ended, which may be below words whose summary bits are still to be cleared
    settle(root, True)
    return True

cdef inline void clear_run(uint64_t* bitmap, uint32_t first, uint32_t end) noexcept nogil:
    cdef uint32_t w
    for w in range(first >> 6, (end >> 6) + 1):
        bitmap[w] &= ~run_bits(w, first, end)
