# hooks.pxi: what a user and a test may see of the tape and set of the core, and the module's initialisation.

from collections import namedtuple

TapeInfo = namedtuple("TapeInfo", "nodes live handles recorded collections full_collections capacity bytes")
TapeInfo.__doc__ = """Counters of the tape, see tape_info().

nodes: on the tape now, dead ones not yet collected included. live: those that a living Variable can reach. handles: living
Variables. recorded: nodes ever recorded. collections: of the young part and full ones together. full_collections: of the
whole tape. capacity: nodes there is room for. bytes: memory of the tape's arrays."""

def tape_info():
    """Counters of the tape as a named tuple; see TapeInfo for the fields. Looks at every node, so it is for
    people and tests, not for inner loops.

    >>> import mingrad
    >>> info = mingrad.tape_info()
    >>> info.live <= info.nodes <= info.capacity
    True
    """
    cdef uint32_t i, live = 0, handles = 0
    cdef size_t w, words = tape.capacity // 64 + 1
    cdef int kind
    if tape.capacity:
        mark_live(0)
        for w in range(words):
            live += bits_count(tape.pending[w])
        memset(tape.pending, 0, words * sizeof(uint64_t))
    for i in range(tape.n):
        handles += tape.handle[i] != NULL
    nbytes = tape.capacity * NODE_BYTES
    if tape.capacity:
        nbytes += words * (2 * sizeof(uint64_t) + sizeof(uint32_t)) + (words // 64 + 1) * 2 * sizeof(uint64_t)
    nbytes += tape.side_capacity * sizeof(uint32_t) + tape.written_capacity * sizeof(uint32_t)
    nbytes += tape.scratch_capacity * sizeof(double) + tape.dropped_capacity * sizeof(void*)
    for kind in range(NOTE_KINDS):
        nbytes += tape.note[kind].capacity * sizeof(Note)
    return TapeInfo(tape.n, live, handles, tape.removed + tape.n, tape.collections, tape.full_collections, tape.capacity, nbytes)

def collect():
    """Run a full collection now and give unused memory back; returns the number of nodes dropped. Never needed
    for correctness: the tape collects by itself.

    >>> import mingrad
    >>> mingrad.collect() >= 0
    True
    """
    cdef uint32_t before = tape.n
    if tape.capacity and not tape.held:
        collect_(0)
        shrink()
    return before - tape.n

def _stress(young=None, growth=None):
    """Tests: young nodes between collections (1: collect at every recording call) and by how many nodes the arrays grow
    (1: at every node; 0: geometrically). Returns the previous (young, growth)."""
    was = (tape.young_size, tape.growth)
    if young is not None:
        tape.young_size = young
    if growth is not None:
        tape.growth = growth
    tape.limit = 0
    return was

def _check():
    """Tests: AssertionError unless the tape is in order (check.pxi). Returns whether this is a debug build, which looks by
    itself."""
    check_tape()
    return bool(DEBUG_BUILD)

def _fail_allocation(long n):
    """Tests: let the n-th allocation of the core from now on (0: the next) fail; -1: none. Returns whether one has failed
    on purpose since the last call."""
    global fail_countdown, fail_triggered, freelist_count
    was = fail_triggered
    fail_countdown = n
    fail_triggered = False
    while n >= 0 and freelist_count:  # new Variables must be allocations too
        freelist_count -= 1
        mg_free(freelist[freelist_count])
    return bool(was)

def _simd(level=None):
    """Name of the kernel set in use, 'base' or 'avx2'; with a name, use that one. Both give the same bits."""
    if level is not None:
        if not isinstance(level, str) or kernels_select(level.encode()) < 0:
            raise ValueError(f"expected 'base' or 'avx2' (if this processor has it), got {level!r}")
    return kernels.name.decode()

cdef extern from *:
    """
    #define MG_TEXT_(x) #x
    #define MG_TEXT(x) MG_TEXT_(x)
    #if defined(__clang__)
    #define MG_COMPILER "Clang " __clang_version__
    #elif defined(__GNUC__)
    #define MG_COMPILER "GCC " __VERSION__
    #elif defined(_MSC_VER)
    #define MG_COMPILER "MSVC " MG_TEXT(_MSC_FULL_VER)
    #else
    #define MG_COMPILER "an unknown compiler"
    #endif
    """
    const char* MG_COMPILER

def _compiler():
    """Name and version of the C compiler that has made the core."""
    return MG_COMPILER.decode().strip()

def _vector(bytes name, bytearray z, bytearray x, bytearray y, int repeat):
    """Tests: a vector function (vector.h) of the doubles in x, b'pow' of those in x and y, into z, which may be one of them,
    `repeat` times."""
    cdef double *out = <double*><char*>z
    cdef double *first = <double*><char*>x
    cdef double *second = <double*><char*>y
    cdef const vector_entry_t *entry = vector_table
    cdef const char *wanted = name
    cdef bint power = strcmp(wanted, b"pow") == 0
    cdef size_t n = len(x) // sizeof(double)
    while entry.name != NULL and strcmp(entry.name, wanted) != 0:
        entry += 1
    if entry.name == NULL and not power or len(z) != len(x) or len(y) != len(x):
        raise ValueError("expected a name of vector.h and buffers of one size")
    for _ in range(repeat):
        if power:
            vec_pow(out, first, second, n)
        else:
            entry.function(out, first, n)

def _ops():
    """The op table as texts: a list of dicts with keys name, alias, symbol, kind, value, da, db, domain, aux."""
    cdef int k
    return [{"name": op_texts[k].name.decode(), "alias": op_texts[k].alias.decode(), "symbol": op_texts[k].symbol.decode(),
             "kind": op_texts[k].kind.decode(), "value": op_texts[k].value.decode(), "da": op_texts[k].da.decode(),
             "db": op_texts[k].db.decode(), "domain": op_texts[k].errors.decode(), "aux": op_texts[k].aux.decode()}
            for k in range(OP_TEXT_COUNT)]

def _meanings():
    """What functions and constants in the table's texts are, if they are no ops: {name: (parameters, text)}; the parameters
    of a function are joined by ', ', a constant has none."""
    return {**{name: (parameters, text) for name, (_, parameters, text) in MEANINGS.items()},
            **{name: ("", repr(value)) for name, value in CONSTANTS.items()}}

kernels_select(NULL)
set_slots(VARIABLE)
sign_operators(VARIABLE)
sign_operators(<PyTypeObject*>VariableList)
add_methods(VARIABLE, globals())
cdef object nobody = Variable(NAN, False) if FREE_THREADED else None  # holds node NOWHERE
