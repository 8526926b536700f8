# profile.pxi: profile(): which line of the user recorded each node, what passes swept, what collections took, and which nodes are
# sums that one node could be. All of it is behind tape.profilers: while nobody is inside, nothing of it runs. What people read is
# in mingrad/profiler.py.
#
# Inside, every op goes through safepoint(), which counts the nodes since the last time (settle()) and looks where Python is now.
# Places are a tree, a **site** for each call on the way from the block to the instruction that records: the same instruction
# called from elsewhere is another site. A thread has a root of its own. Counters only grow; a block is what they have grown by, so
# blocks may be inside each other and end in any order. Nodes are counted before they go: pop(), undo() and collect_() ask for it.

cdef extern from "methods.h":
    enum:
        MAX_FRAMES
    int python_stack(PyObject** frames, PyObject** codes, int* wheres, int most, PyObject* last, PyObject* last_code)
    int64_t clock_now()

cdef uint64_t NODE_BYTES = 2 * sizeof(double) + sizeof(row_t) + sizeof(void*)  # of the tape's arrays

cdef extern from *:
    """
    #define NO_SITE 0xFFFFFFFFu
    #define SWEPT 0x80000000u
    """
    const uint32_t NO_SITE, SWEPT

cdef enum:
    FEW_CALLS = 64  # of a site, which are timed one by one; so are later ones if they are LONG on the average
    LONG = 2000     # nanoseconds; other sites are timed when chance says so, for SAMPLE calls each time
    RARE = 100000   # nanoseconds; so long an interval of such a site stands for itself
    SAMPLE = 8      # a power of two
    FEW_PRODUCTS = 3  # a sum of fewer is left alone
    FEW_NUMBERS = 8   # and of fewer numbers: it is written out, no loop

cdef enum:
    SAVE_DOT, SAVE_LINEAR, SAVE_SUM, SAVINGS

cdef size_t OPS = 2 * OP_COUNT

cdef struct Saving:  # sums that end at a site: what they recorded, and what one node each, or each layer's nodes, would
    uint64_t sums, nodes, bytes, fewer_nodes, fewer_bytes

cdef struct ProfileSite:
    PyObject* code       # owned; NULL: the root of a thread
    int where            # see python_place()
    bint ours            # mingrad's own code
    uint32_t parent, root, level
    uint32_t depth       # of its deepest node, since the latest block of the thread began or ended
    uint64_t calls, nodes, swept
    int64_t recording    # nanoseconds
    double backward      # nanoseconds
    uint64_t weight      # contributions of its nodes in the pass that is at work
    uint64_t* ops        # [OPS] nodes by op, then operands that are listed beside them; NULL: none
    Saving saving[SAVINGS]

cdef struct Origin:
    uint32_t site   # NO_SITE: recorded outside
    uint32_t depth  # operations on the longest way from a leaf
    uint32_t call   # which call has recorded it; SWEPT: a pass has been over it

cdef struct Profiled:
    ProfileSite* site
    uint32_t n_sites, sites_capacity
    uint32_t* table     # [mask + 1] sites by parent and place, plus 1; 0: none
    uint32_t mask
    Origin* origin      # [origins] of each node below settled
    size_t origins
    uint32_t settled    # nodes below have been counted
    uint32_t analysed   # and looked at for sums
    uint32_t at         # where the nodes to come are recorded
    uint32_t call
    uint64_t freed      # by collections
    uint64_t unlooked   # nodes that went without being looked at for sums, for want of memory
    int64_t collecting  # nanoseconds

cdef Profiled profiled

cdef class Profiler:
    """The blocks of one thread that are on."""
    cdef uint32_t root
    cdef uint32_t site           # of the op that is at work; NO_SITE: none
    cdef uint32_t found          # of the one that begins
    cdef int64_t since           # when the op at work began
    cdef uint32_t stands_for     # how many ops its time counts for; 0: it is not timed
    cdef uint32_t chance
    cdef int passing             # passes at work
    cdef int64_t passed          # when the outermost of them began
    cdef uint64_t weight         # of that pass, see ProfileSite
    cdef int64_t measured        # nanoseconds of it that calls computed outside have taken
    cdef uint64_t passes
    cdef int64_t backward        # nanoseconds
    cdef PyObject* blocks        # borrowed: the first Profile; NULL: none is on
    cdef dict graphs             # see count_graph()
    cdef PyObject* frame         # where the outermost block begins: compared only, not held
    cdef PyObject* code
    cdef int n_path              # the latest way from there to a site
    cdef uint32_t path[MAX_FRAMES]
    cdef uint64_t op_swept[OP_COUNT]
    cdef uint64_t op_weight[OP_COUNT]
    cdef double op_backward[OP_COUNT]


# -- sites --------------------------------------------------------------------------------------------------------------

cdef int64_t new_site(uint32_t parent, PyObject* code, int where, bint ours) except -1:
    cdef uint32_t k = profiled.n_sites
    cdef ProfileSite* site
    if k == profiled.sites_capacity:
        resize(<void**>&profiled.site, 2 * <size_t>k + 64, sizeof(ProfileSite))
        profiled.sites_capacity = 2 * k + 64
    site = profiled.site + k
    memset(site, 0, sizeof(ProfileSite))
    site.code, site.where, site.ours, site.parent = code, where, ours, parent
    site.root = k if code == NULL else profiled.site[parent].root
    site.level = 0 if code == NULL else profiled.site[parent].level + 1
    if code != NULL:
        Py_INCREF_(code)
    profiled.n_sites = k + 1
    return k

cdef inline uint32_t site_hash(uint32_t parent, PyObject* code, int where) noexcept:
    return <uint32_t>(mix(mix(<uint64_t>parent << 32 | <uint32_t>where) ^ <uint64_t><size_t>code) >> 32)

cdef int64_t site_of(uint32_t parent, PyObject* frame, PyObject* code, int where) except -1:
    """The site of a place that was come to from another one."""
    cdef uint32_t at, k, mask
    cdef uint32_t* old = profiled.table
    cdef ProfileSite* site
    if 2 * <size_t>profiled.n_sites >= profiled.mask:
        mask = 4 * profiled.mask + 3 if profiled.mask else 255
        profiled.table = NULL
        try:
            resize(<void**>&profiled.table, <size_t>mask + 1, sizeof(uint32_t))
        except MemoryError:
            profiled.table = old
            raise
        PyMem_RawFree(old)
        memset(profiled.table, 0, (<size_t>mask + 1) * sizeof(uint32_t))
        profiled.mask = mask
        for k in range(profiled.n_sites):
            site = profiled.site + k
            if site.code != NULL:
                at = site_hash(site.parent, site.code, site.where) & mask
                while profiled.table[at]:
                    at = (at + 1) & mask
                profiled.table[at] = k + 1
    at = site_hash(parent, code, where) & profiled.mask
    while profiled.table[at]:
        k = profiled.table[at] - 1
        site = profiled.site + k
        if site.parent == parent and site.code == code and site.where == where:
            return k
        at = (at + 1) & profiled.mask
    k = <uint32_t>new_site(parent, code, where, is_ours(<object>frame))
    profiled.table[at] = k + 1
    return k

cdef int64_t find_site(Profiler p) except -1:
    """Where the thread's Python code is. Frames beyond the MAX_FRAMES innermost are left out."""
    cdef PyObject* frames[MAX_FRAMES]
    cdef PyObject* codes[MAX_FRAMES]
    cdef int wheres[MAX_FRAMES]
    cdef int n = python_stack(frames, codes, wheres, MAX_FRAMES, p.frame, p.code), k = 0
    cdef uint32_t at = p.root
    cdef ProfileSite* site
    while k < n and k < p.n_path:
        site = profiled.site + p.path[k]
        if site.code != codes[n - 1 - k] or site.where != wheres[n - 1 - k]:
            break
        at = p.path[k]
        k += 1
    p.n_path = k
    for k in range(k, n):
        at = p.path[k] = <uint32_t>site_of(at, frames[n - 1 - k], codes[n - 1 - k], wheres[n - 1 - k])
        p.n_path = k + 1
    site = profiled.site + at
    if site.ops == NULL:
        resize(<void**>&site.ops, OPS, sizeof(uint64_t))
        memset(site.ops, 0, OPS * sizeof(uint64_t))
    return at


# -- recording ----------------------------------------------------------------------------------------------------------

cdef inline Profiler profiler_here():
    """This thread's, if a block of it is on."""
    if thread_mode.profiler == NULL or (<Profiler>thread_mode.profiler).blocks == NULL:
        return None
    return <Profiler>thread_mode.profiler

cdef inline uint32_t depth_at(uint32_t i, row_t* row) noexcept:
    cdef unsigned shape = op_shape[row.op]
    cdef Origin* origin = profiled.origin
    cdef uint32_t j, depth = 0
    if shape == SHAPE_LEAF:
        return 0
    if shape == SHAPE_A:
        return origin[row.a].depth + 1
    if shape == SHAPE_AB:
        return max(origin[row.a].depth, origin[row.b].depth) + 1
    if shape == SHAPE_AFFINE:  # weights are leaves, and the rows of a block have the same inputs
        if row.flags >= ROW_BLOCK and (row - 1).b == row.b:
            return origin[i - 1].depth
        for j in range(row.c):
            depth = max(depth, origin[row.b + j].depth)
        return depth + 1
    for j in range(operand_count(row)):
        depth = max(depth, origin[operand_at(row, j)].depth)
    return depth + 1

cdef void settle_profile() noexcept:
    """Count the nodes since the last time."""
    cdef uint32_t i
    cdef ProfileSite* site
    cdef row_t* row
    cdef Origin* origin
    if profiled.settled >= tape.n:
        return
    site = NULL if profiled.at == NO_SITE else profiled.site + profiled.at
    profiled.call = (profiled.call + 1) & ~<uint32_t>SWEPT
    for i in range(profiled.settled, tape.n):
        row = tape.row + i
        origin = profiled.origin + i
        origin.site, origin.call = profiled.at, profiled.call
        origin.depth = depth_at(i, row)
        if site != NULL:
            site.ops[row.op] += 1
            site.depth = max(site.depth, origin.depth)
            if row.flags & ROW_SCATTERED:
                site.ops[OP_COUNT + row.op] += operand_count(row)
    if site != NULL:
        site.nodes += tape.n - profiled.settled
        site.calls += 1
    profiled.settled = tape.n

cdef void profile_pop(uint32_t n) noexcept:
    """In pop(): nodes from n on go. They may be nobody's operands but each other's."""
    settle_profile()
    look_for_sums(max(n, profiled.analysed), tape.n)
    profiled.settled = n
    profiled.analysed = min(profiled.analysed, n)

cdef void profile_undo(uint32_t n) noexcept:
    """In undo(): nodes from n on are taken back. What has been counted of them has not been recorded after all."""
    cdef uint32_t i
    cdef ProfileSite* site
    for i in range(n, profiled.settled):
        if profiled.origin[i].site != NO_SITE:
            site = profiled.site + profiled.origin[i].site
            site.nodes -= 1
            site.ops[tape.row[i].op] -= 1
            if tape.row[i].flags & ROW_SCATTERED:
                site.ops[OP_COUNT + tape.row[i].op] -= operand_count(tape.row + i)
    profiled.settled = min(profiled.settled, n)
    profiled.analysed = min(profiled.analysed, n)

cdef int64_t profile_collection(uint32_t start) noexcept:
    """In collect_(), before anything moves. Returns the time."""
    settle_profile()
    look_for_sums(max(start, profiled.analysed), tape.n)
    return clock_now()

cdef void profile_slide(uint32_t start, uint32_t n, uint32_t end) noexcept:
    """In collect_(), while marks and ranks are there: what is known of nodes follows them."""
    cdef uint32_t i = next_node(start, n, True) if n > start else n
    while i < n:
        profiled.origin[moved(i, start)] = profiled.origin[i]
        i = next_node(i + 1, n, True) if i + 1 < n else n
    profiled.settled = profiled.analysed = end
    profiled.freed += n - end

cdef void profile_collected(int64_t begun) noexcept:
    profiled.collecting += clock_now() - begun
    leave_out(begun)

cdef void leave_out(int64_t begun) noexcept:
    """The time since then belongs to no op and no pass of this thread."""
    cdef Profiler p = profiler_here()
    if p is not None:
        begun = clock_now() - begun
        p.since += begun
        p.passed += begun

cdef void stop_clock(Profiler p) noexcept:
    """The op that is at work ends here."""
    cdef int64_t time
    if p.site != NO_SITE and not p.passing and p.stands_for:
        time = clock_now() - p.since
        profiled.site[p.site].recording += time if time > RARE else p.stands_for * time
    p.site = NO_SITE

cdef int profile_point() except -1:
    """At the beginning of safepoint(): the op that is at work ends, and another begins. Making frames' objects may run any code."""
    cdef Profiler p = profiler_here()
    settle_profile()
    profiled.at = NO_SITE
    if p is not None:
        stop_clock(p)
        p.found = <uint32_t>find_site(p)
    return 0

cdef int begin_op() except -1:
    """At the end of safepoint(), when there is room for the nodes to come."""
    cdef Profiler p = profiler_here()
    cdef ProfileSite* site
    if profiled.origins < tape.capacity:
        resize(<void**>&profiled.origin, tape.capacity, sizeof(Origin))
        profiled.origins = tape.capacity
    if p is not None:
        profiled.at = p.site = p.found
        p.stands_for = 1
        site = profiled.site + p.site
        if site.calls >= FEW_CALLS and site.recording < LONG * <int64_t>site.calls:
            p.chance = p.chance * 1664525 + 1013904223
            p.stands_for = 0 if p.chance >> 16 & (SAMPLE - 1) else SAMPLE
        if p.stands_for:
            p.since = clock_now()
    return 0


# -- passes -------------------------------------------------------------------------------------------------------------

cdef struct Graph:  # what a pass has been over for the first time
    uint64_t hash, nodes, listed, calls
    uint32_t leaves, lowest, highest  # operands of a compiled function that would do the same
    uint32_t common, first, call

cdef void weigh(Profiler p, uint32_t i, Graph* graph) noexcept:
    """The pass that begins sweeps node i; nodes come from the top down."""
    cdef row_t* row = tape.row + i
    cdef Origin* origin = profiled.origin + i
    cdef uint32_t site = origin.site, operands = operand_count(row)
    if row.op == OP_LEAF:
        if row.flags & ROW_REQUIRES:
            graph.highest = max(graph.highest, i)
            graph.lowest = i
            graph.leaves += 1
        return
    if site == NO_SITE or profiled.site[site].root != p.root:
        site = p.root
    profiled.site[site].swept += 1
    profiled.site[site].weight += operands
    p.op_swept[row.op] += 1
    p.op_weight[row.op] += operands
    p.weight += operands
    if site == p.root or origin.call & SWEPT:
        return
    if graph.nodes == 0:
        graph.first = site
        graph.common = profiled.site[site].parent
    graph.hash = mix(graph.hash ^ (<uint64_t>row.op << 32 | operands))
    graph.nodes += 1
    graph.listed += operands if row.flags & ROW_SCATTERED else 0
    graph.calls += origin.call != graph.call or graph.nodes == 1
    graph.call = origin.call
    origin.call |= SWEPT
    site = profiled.site[site].parent  # its function's call: it is an instruction itself, or before Python 3.11 a line
    while graph.common != site:
        if profiled.site[graph.common].level > profiled.site[site].level:
            graph.common = profiled.site[graph.common].parent
        else:
            site = profiled.site[site].parent

cdef int begin_pass(Profiler p, Variable root, Walk* mine) except -1:
    """Before a pass from root, or that of a walk: count what it will sweep."""
    global walk
    cdef Graph graph
    cdef uint32_t i, w, site
    settle_profile()
    stop_clock(p)
    site = <uint32_t>find_site(p)
    memset(&graph, 0, sizeof(Graph))
    if mine != NULL:
        walk = mine
        i = walk.top + 1
        while walk.count and i > walk.low and next_down(&i, True):
            if not is_input(i) or tape.row[i].op == OP_LEAF:
                weigh(p, i, &graph)
    else:
        mark(root.number, 0)
        w = (root.number >> 6) + 1
        while w:
            w -= 1
            while tape.pending[w]:
                i = (w << 6) + bits_highest(tape.pending[w])
                tape.pending[w] &= ~(<uint64_t>1 << (i & 63))
                mark_operands(tape.row + i, 0)
                weigh(p, i, &graph)
    p.passes += 1
    p.passing += 1
    try:
        count_graph(p, site, &graph)
        walk = mine if mine != NULL else walk
    except BaseException:
        end_pass(p)
        raise
    if p.passing == 1:
        p.measured = 0
        p.passed = clock_now()
    return 0

cdef int begin_walk(Walk* mine) except -1:
    """The walk of a transform is a pass; one that backward() has begun is part of that pass."""
    cdef Profiler p = profiler_here()
    if p is not None and not p.passing:
        begin_pass(p, None, mine)
        mine.profiled = True
    return 0

cdef void end_profiled_walk() noexcept:
    cdef Profiler p = profiler_here()
    if p is not None and p.passing:
        end_pass(p)

cdef int pass_of(Variable root, object seed, double number, bint create_graph) except -1:
    """run_backward() while a block is on."""
    cdef Profiler p = profiler_here()
    if p is None:
        return run_backward(root, seed, number, create_graph)
    begin_pass(p, root, NULL)
    try:
        run_backward(root, seed, number, create_graph)
    finally:
        end_pass(p)
    return 0

cdef int count_graph(Profiler p, uint32_t site, Graph* graph) except -1:
    """Passes from one place over the same operations in the same order, none of which another pass has been over:
    {(site, hash, nodes): [passes, calls, bytes, bytes of a compiled function's node, common, first]}."""
    cdef list known
    if graph.nodes < 2:
        return 0
    key = (site, graph.hash, graph.nodes)
    known = p.graphs.get(key)
    if known is None:
        run = not graph.leaves or graph.highest - graph.lowest == graph.leaves - 1
        known = p.graphs[key] = [0, graph.calls, NODE_BYTES * graph.nodes + 4 * graph.listed,
                                 NODE_BYTES + (0 if run else 4 * graph.leaves), graph.common, graph.first]
    known[0] += 1
    return 0

cdef void end_pass(Profiler p) noexcept:
    """Its time goes to sites and ops by how many contributions their nodes gave."""
    cdef int64_t now = clock_now(), time = now - p.passed
    cdef double share
    cdef uint32_t k
    cdef int op
    p.passing -= 1
    if p.passing or p.blocks == NULL:
        return
    p.backward += time
    share = <double>max(time - p.measured, <int64_t>0) / max(p.weight, <uint64_t>1)
    for k in range(profiled.n_sites):
        if profiled.site[k].weight and profiled.site[k].root == p.root:
            profiled.site[k].backward += share * profiled.site[k].weight
            profiled.site[k].weight = 0
    for op in range(OP_COUNT):
        p.op_backward[op] += share * p.op_weight[op]
        p.op_weight[op] = 0
    p.weight = 0
    p.site = NO_SITE

cdef inline int64_t call_begun() noexcept:
    return clock_now() if tape.profilers else 0

cdef void call_done(uint32_t i, int64_t begun) noexcept:
    """In a pass the call that node i is a result of has been computed: its time is the node's own."""
    cdef Profiler p = profiler_here() if tape.profilers else None
    cdef uint32_t site
    if p is None or not p.passing or i >= profiled.settled:
        return
    begun = clock_now() - begun
    site = profiled.origin[i].site
    if site == NO_SITE or profiled.site[site].root != p.root:
        site = p.root
    p.measured += begun
    profiled.site[site].backward += begun
    p.op_backward[OP_CUSTOM] += begun


# -- sums that one node could be ----------------------------------------------------------------------------------------
#
# What the optimiser of recorded programs makes chains of (make_chains() in schedule.pxi) is looked for on the tape: sums in a row
# whose partial sums nobody else needs. Its values are here the nodes from `first` on, node first + k as value k + 1; behind them
# what a sum adds that is none of these. Operands of products are no values, since it does not look at them: the node, or IS_NUMBER
# and the product itself.

cdef extern from *:
    """
    #define IS_NUMBER 0x80000000u
    """
    const uint32_t IS_NUMBER

cdef void look_for_sums(uint32_t first, uint32_t end) noexcept:
    """Count sums among these nodes by site. No other node uses their partial sums any more, or yet."""
    cdef Maker m
    cdef uint32_t i, sums = 0
    cdef int64_t begun
    for i in range(first, end):
        sums += is_op(tape.row[i].op, OP_ADD)
    if sums < FEW_PRODUCTS - 1:
        return
    if PyErr_Occurred() != NULL or end >= IS_NUMBER:  # Variables die while an error is on its way
        profiled.unlooked += end - first
        return
    begun = clock_now()
    memset(&m, 0, sizeof(Maker))
    try:
        find_sums(&m, first, end, sums)
    except MemoryError:
        profiled.unlooked += end - first
    PyMem_RawFree(m.made)
    PyMem_RawFree(m.source)
    PyMem_RawFree(m.table)
    PyMem_RawFree(m.list)
    PyMem_RawFree(m.phase)
    PyMem_RawFree(m.uses)
    leave_out(begun)

cdef inline bint is_op(unsigned op, unsigned base) noexcept nogil:
    """Is it this binary op, of two nodes or of a node and a number?"""
    return base <= op and op <= base + NUMBER_FIRST

cdef int find_sums(Maker* m, uint32_t first, uint32_t end, uint32_t sums) except -1:
    cdef uint32_t i, j, group = 0, outputs = 0, most = end - first + 1 + 2 * sums
    cdef row_t* row
    cdef Made* made
    resize(<void**>&m.made, most, sizeof(Made))
    resize(<void**>&m.source, most, sizeof(uint32_t))
    resize(<void**>&m.phase, most, 1)
    resize(<void**>&m.uses, most, 1)
    memset(m.phase, PHASE_RESULT, most)
    memset(m.uses, 0, most)
    m.capacity = most
    m.one = NO_NODE
    m.n = end - first + 1
    m.made[0] = value_of(OP_LEAF, 0, 0, 0)
    for i in range(first, end):
        row = tape.row + i
        made = m.made + (i - first + 1)
        m.source[i - first + 1] = i
        made[0] = value_of(OP_LEAF, 0, 0, 0)
        if is_op(row.op, OP_ADD):
            made.op = OP_ADD
            made.a = term_value(m, first, row, 0)
            made.b = term_value(m, first, row, 1)
        elif is_op(row.op, OP_MUL):
            made.op = OP_MUL
            made.a = factor(i, row, 0)
            made.b = factor(i, row, 1)
        if op_shape[row.op] == SHAPE_AFFINE:  # of a layer's rows only what one of them reads beside its weights
            for j in range(row.c if row.flags < ROW_BLOCK else 0):
                use_value(m, first, row.b + j)
        else:
            for j in range(operand_count(row)):
                use_value(m, first, operand_at(row, j))
    make_chains(m)
    for i in range(1, end - first + 1):
        if m.made[i].kind != STEP_CHAIN or m.phase[i] == PHASES or profiled.origin[m.source[i]].site == NO_SITE:
            continue
        count_sum(m, i)
        if group and not are_one_layer(m, group, i):
            count_layer(m, group, outputs)
            group = outputs = 0
        group = group or i
        outputs += 1
    if group:
        count_layer(m, group, outputs)
    return 0

cdef inline void use_value(Maker* m, uint32_t first, uint32_t i) noexcept:
    if i >= first:
        m.uses[i - first + 1] += m.uses[i - first + 1] < 255

cdef inline bint is_number_at(row_t* row, int place) noexcept:
    """Is the operand at this place, 0 or 1, the number in the row?"""
    return op_shape[row.op] == SHAPE_A and (place == 0) == (op_number_place[row.op] == NUMBER_FIRST)

cdef inline uint32_t term_value(Maker* m, uint32_t first, row_t* row, int place) noexcept:
    cdef uint32_t node = row.b if place and op_shape[row.op] == SHAPE_AB else row.a
    if is_number_at(row, place):
        node = IS_NUMBER
    elif node >= first:
        return node - first + 1
    m.made[m.n] = value_of(OP_LEAF, 0, 0, 0)
    m.source[m.n] = node
    m.n += 1
    return m.n - 1

cdef inline uint32_t factor(uint32_t i, row_t* row, int place) noexcept:
    return IS_NUMBER | i if is_number_at(row, place) else row.b if place and op_shape[row.op] == SHAPE_AB else row.a

cdef inline bint same_factor(uint32_t p, uint32_t q) noexcept:
    return p == q or p & q & IS_NUMBER and memcmp(&tape.row[p ^ IS_NUMBER].constant, &tape.row[q ^ IS_NUMBER].constant, 8) == 0

cdef bint same_factors(uint32_t* p, uint32_t* q, uint32_t n) noexcept:
    cdef uint32_t k
    for k in range(n):
        if not same_factor(p[k], q[k]):
            return False
    return True

cdef bint are_consecutive(uint32_t* factors, uint32_t* others, uint32_t n) noexcept:
    """Would these be consecutive nodes as operands of one node? Numbers are put there, one behind the other. others: what each is
    multiplied by; NO_NODE: it is no factor."""
    cdef uint32_t k, count = 0, start = 0
    for k in range(n):
        if others[k] == NO_NODE:
            continue
        start = start if count else factors[k]
        if (factors[k] ^ start) & IS_NUMBER or not start & IS_NUMBER and factors[k] != start + count:
            return False
        count += 1
    return True

cdef uint32_t plain_links(Maker* m, Made* chain) noexcept:
    """How many of its links are no products."""
    cdef uint32_t k, count = 0
    for k in range(chain.n if chain.op == OP_MUL else 0):
        count += m.list[chain.a + chain.n + k] == m.one
    return count

cdef uint32_t sum_nodes(Maker* m, Made* chain) noexcept:
    """How many nodes it was."""
    cdef uint32_t sums = chain.n - (chain.c == NO_NODE)
    return sums + chain.n - plain_links(m, chain) if chain.op == OP_MUL else sums

cdef void count_sum(Maker* m, uint32_t i) noexcept:
    cdef Made* chain = m.made + i
    cdef uint32_t* p = m.list + chain.a
    cdef uint32_t n = chain.n, plain = plain_links(m, chain), nodes = sum_nodes(m, chain), numbers = 0, k
    cdef bint run
    if n - plain < (FEW_PRODUCTS if chain.op == OP_MUL else FEW_NUMBERS - 1):
        return
    if chain.op == OP_MUL:
        for k in range(n):
            if p[n + k] != m.one:
                numbers += ((p[k] | p[n + k]) & IS_NUMBER) != 0
        run = are_consecutive(p, p + n, n) and are_consecutive(p + n, p + n, n)
        add_saving(m, i, SAVE_DOT, 1, nodes, 1 + plain + (chain.c != NO_NODE) + numbers, 0 if run else 2 * (n - plain))
        return
    run = True
    for k in range(n):
        numbers += m.source[p[k]] == IS_NUMBER
        run = run and m.source[p[k]] == m.source[chain.c] + k + 1
    numbers += m.source[chain.c] == IS_NUMBER
    add_saving(m, i, SAVE_SUM, 1, nodes, 1 + numbers, 0 if run and not numbers else n + 1)

cdef void add_saving(Maker* m, uint32_t i, int kind, uint32_t sums, uint64_t nodes, uint64_t fewer, uint64_t listed) noexcept:
    cdef Saving* saving = profiled.site[profiled.origin[m.source[i]].site].saving + kind
    if fewer >= nodes:
        return
    saving.sums += sums
    saving.nodes += nodes
    saving.bytes += NODE_BYTES * nodes
    saving.fewer_nodes += fewer
    saving.fewer_bytes += NODE_BYTES * fewer + 4 * listed

cdef uint32_t* inputs_of(Maker* m, Made* x, Made* y) noexcept:
    """What two sums both multiply; NULL: nothing, or they are the same sum."""
    cdef bint first = same_factors(m.list + x.a, m.list + y.a, x.n)
    if first == same_factors(m.list + x.a + x.n, m.list + y.a + y.n, x.n):
        return NULL
    return m.list + x.a if first else m.list + x.a + x.n

cdef bint are_one_layer(Maker* m, uint32_t i, uint32_t j) noexcept:
    """Are these sums of one place that multiply the same inputs?"""
    cdef Made* x = m.made + i
    cdef Made* y = m.made + j
    return x.op == OP_MUL and y.op == OP_MUL and x.n == y.n and (x.c == NO_NODE) == (y.c == NO_NODE) \
        and profiled.origin[m.source[i]].site == profiled.origin[m.source[j]].site \
        and not plain_links(m, x) and not plain_links(m, y) and inputs_of(m, x, y) != NULL

cdef void count_layer(Maker* m, uint32_t i, uint32_t outputs) noexcept:
    """So many sums, the first of which is i, multiply the same inputs."""
    cdef Made* chain = m.made + i
    cdef uint32_t* inputs
    cdef uint32_t j = i + 1
    if outputs < 2 or chain.n < 2:
        return
    while m.made[j].kind != STEP_CHAIN or m.phase[j] == PHASES or profiled.origin[m.source[j]].site == NO_SITE:
        j += 1
    inputs = inputs_of(m, chain, m.made + j)
    add_saving(m, i, SAVE_LINEAR, outputs, outputs * <uint64_t>sum_nodes(m, chain),
               outputs + (0 if are_consecutive(inputs, inputs, chain.n) and not inputs[0] & IS_NUMBER else chain.n), 0)


# -- blocks -------------------------------------------------------------------------------------------------------------

cdef class Profile:
    """Profile()\n--\n\nWhat mingrad.profile() does to the core: in `with Profile() as p:` what this thread does is counted; at the
    end p._add() is called with it."""
    cdef PyObject* profiler  # owned; NULL: it is not on
    cdef PyObject* next      # borrowed: the thread's block that is on beside it
    cdef ProfileSite* before        # [n_before] counters when it began
    cdef uint64_t* ops       # [n_before * OPS] the same
    cdef uint32_t n_before
    cdef dict depths         # {site: greatest depth} of the parts that are over
    cdef dict graphs         # {key: passes} when it began
    cdef tuple numbers

    def __dealloc__(self):
        if self.profiler != NULL:
            end_block(self)
        PyMem_RawFree(self.before)
        PyMem_RawFree(self.ops)

    def __enter__(self):
        cdef Profiler p
        if self.profiler != NULL:
            raise RuntimeError("profile: this block is on already; a block inside it needs a profile() of its own")
        if is_recording():
            refuse_while_recording("profile()", "a program would not repeat it; profile the calls of the compiled function")
        if not tape.profilers:
            begin_profile()
        try:
            p = profiler_here()
            if p is None:
                p = Profiler()
                p.root = <uint32_t>new_site(0, NULL, 0, False)
                p.site = p.found = NO_SITE
                p.graphs = {}
                python_stack(&p.frame, &p.code, NULL, 1, NULL, NULL)
            end_part(p)
            take_counters(self, p)
        except BaseException:
            if not tape.profilers:
                end_profile()
            raise
        if p.blocks == NULL:
            tape.profilers += 1
            tape.n_notes += 1  # dealloc() looks at this one only
            tape.limit = 0
            set_profiler(<PyObject*>p)
        self.profiler = Py_NewRef(<PyObject*>p)
        self.next = p.blocks
        p.blocks = <PyObject*>self
        return self

    def _running(self):
        """Is it on?"""
        return self.profiler != NULL

    def __exit__(self, *exc_info):
        if self.profiler == NULL:
            raise RuntimeError("profile: left more often than entered")
        cdef Profiler p = <Profiler>self.profiler
        try:
            end_part(p)
            data = block_data(self, p)
        finally:
            end_block(self)
        self._add(*data)

cdef void set_profiler(PyObject* p) noexcept:
    cdef PyObject* old = thread_mode.profiler
    thread_mode.profiler = NULL if p == NULL else Py_NewRef(p)
    if old != NULL:
        Py_DECREF_(old)

cdef int begin_profile() except -1:
    """The first block of all: nodes that are there were recorded outside."""
    cdef uint32_t i
    memset(&profiled, 0, sizeof(Profiled))
    resize(<void**>&profiled.origin, tape.capacity, sizeof(Origin))
    profiled.origins = tape.capacity
    for i in range(tape.n):
        profiled.origin[i].site, profiled.origin[i].call = NO_SITE, 0
        profiled.origin[i].depth = depth_at(i, tape.row + i)
    profiled.settled = profiled.analysed = tape.n
    profiled.at = NO_SITE
    return 0

cdef void end_profile() noexcept:
    """The last block of all is over."""
    cdef Profiled old = profiled
    cdef uint32_t k
    memset(&profiled, 0, sizeof(Profiled))
    PyMem_RawFree(old.table)
    PyMem_RawFree(old.origin)
    for k in range(old.n_sites):
        PyMem_RawFree(old.site[k].ops)
        if old.site[k].code != NULL:
            Py_DECREF_(old.site[k].code)  # may run code, which may begin anew
    PyMem_RawFree(old.site)

cdef int end_part(Profiler p) except -1:
    """A block of this thread begins or ends: what was done so far is another part."""
    cdef uint32_t k
    cdef PyObject* block = p.blocks
    settle_profile()
    profiled.at = NO_SITE
    stop_clock(p)
    look_for_sums(profiled.analysed, tape.n)
    profiled.analysed = tape.n
    while block != NULL:
        for k in range(profiled.n_sites):
            if profiled.site[k].root == p.root and profiled.site[k].depth:
                (<Profile>block).depths[k] = max((<Profile>block).depths.get(k, 0), profiled.site[k].depth)
        block = (<Profile>block).next
    for k in range(profiled.n_sites):
        if profiled.site[k].root == p.root:
            profiled.site[k].depth = 0
    return 0

cdef int take_counters(Profile block, Profiler p) except -1:
    cdef uint32_t k
    block.n_before = 0
    resize(<void**>&block.before, profiled.n_sites, sizeof(ProfileSite))
    resize(<void**>&block.ops, profiled.n_sites * OPS, sizeof(uint64_t))
    memset(block.ops, 0, profiled.n_sites * OPS * sizeof(uint64_t))
    memcpy(block.before, profiled.site, profiled.n_sites * sizeof(ProfileSite))
    for k in range(profiled.n_sites):
        if profiled.site[k].ops != NULL:
            memcpy(block.ops + k * OPS, profiled.site[k].ops, OPS * sizeof(uint64_t))
    block.n_before = profiled.n_sites
    block.depths = {}
    block.graphs = {key: known[0] for key, known in p.graphs.items()}
    block.numbers = numbers_of(p)
    return 0

cdef tuple numbers_of(Profiler p):
    cdef int op
    return (clock_now(), p.passes, p.backward, tape.collections, tape.full_collections, profiled.collecting, profiled.freed,
            profiled.unlooked, [p.op_swept[op] for op in range(OP_COUNT)], [p.op_backward[op] for op in range(OP_COUNT)])

cdef void end_block(Profile block) noexcept:
    cdef Profiler p = <Profiler>block.profiler
    cdef PyObject** link = &p.blocks
    while link[0] != <PyObject*>block:
        link = &(<Profile>link[0]).next
    link[0] = block.next
    Py_DECREF_(block.profiler)
    block.profiler = NULL
    if p.blocks != NULL:
        return
    tape.profilers -= 1
    tape.n_notes -= 1
    tape.limit = 0
    profiled.at = NO_SITE
    if thread_mode.profiler == <PyObject*>p:  # else another thread has ended it
        set_profiler(NULL)
    if not tape.profilers:
        end_profile()

cdef tuple block_data(Profile block, Profiler p):
    """(numbers, ops, sites, graphs) by which the thread's counters have grown. numbers: the first of numbers_of(). ops: {name:
    (swept, nanoseconds)}. sites: (stack, calls, nodes, bytes, nanoseconds, swept, nanoseconds of passes, depth, {op: (nodes,
    bytes)}, savings); stack: (file, line, function, mingrad's own) from the outside in; savings: (sums, nodes, bytes, fewer nodes,
    fewer bytes) by kind. graphs: (stack of the pass, passes, nodes, ...), see count_graph()."""
    cdef uint32_t k
    cdef int op, kind
    cdef ProfileSite now, was
    cdef uint64_t* ops
    cdef list stacks = [], sites = [], graphs = [], savings
    cdef tuple numbers = numbers_of(p)
    cdef dict counts, by_op = {}
    cdef uint64_t size, listed
    for k in range(profiled.n_sites):
        now = profiled.site[k]
        if now.code == NULL or now.root != p.root:
            stacks.append(())
        else:
            code = <object>now.code
            stacks.append(stacks[now.parent] + ((code.co_filename, line_of_place(now.code, now.where), code.co_name, now.ours),))
    for k in range(profiled.n_sites):
        now = profiled.site[k]
        if now.root != p.root:
            continue
        memset(&was, 0, sizeof(ProfileSite))
        if k < block.n_before:
            was = block.before[k]
        counts, size = {}, 0
        for op in range(OP_COUNT if now.ops != NULL else 0):
            count, listed = now.ops[op], now.ops[OP_COUNT + op]
            if k < block.n_before:
                ops = block.ops + k * OPS
                count, listed = count - ops[op], listed - ops[OP_COUNT + op]
            if count:
                add_to(counts, op, count, NODE_BYTES * count + 4 * listed)
                size += NODE_BYTES * count + 4 * listed
        savings = []
        for kind in range(SAVINGS):
            x, y = now.saving[kind], was.saving[kind]
            savings.append((x.sums - y.sums, x.nodes - y.nodes, x.bytes - y.bytes, x.fewer_nodes - y.fewer_nodes,
                            x.fewer_bytes - y.fewer_bytes))
        if now.nodes != was.nodes or now.swept != was.swept or now.recording != was.recording or now.backward != was.backward:
            sites.append((stacks[k], now.calls - was.calls, now.nodes - was.nodes, size, now.recording - was.recording,
                          now.swept - was.swept, now.backward - was.backward, block.depths.get(k, 0), counts, savings))
    for key, known in p.graphs.items():
        count = known[0] - block.graphs.get(key, 0)
        if count:
            graphs.append((stacks[key[0]], count, key[2], *known[1:4], stacks[known[4]], stacks[known[5]]))
    for op in range(OP_COUNT):
        if numbers[8][op] != block.numbers[8][op] or numbers[9][op] != block.numbers[9][op]:
            add_to(by_op, op, numbers[8][op] - block.numbers[8][op], numbers[9][op] - block.numbers[9][op])
    return [x - y for x, y in zip(numbers[:8], block.numbers)], by_op, sites, graphs

cdef int add_to(dict counts, int op, object x, object y) except -1:
    """Two numbers more of an op; several codes may have one name."""
    name = op_name[op].decode()
    before = counts.get(name, (0, 0))
    counts[name] = before[0] + x, before[1] + y
    return 0
