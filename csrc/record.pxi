# record.pxi: a function of the user runs once, so that its graph can become a program (program.pxi). Meanwhile what plain
# Python asks of Variables is written down or refused: a comparison and a truth value decide which way the function went, so
# they become guards; a number read off a Variable (.data, .grad) would be frozen into the program without a word, so that is an
# error, and so are writes to Variables from outside, which a program would not repeat. What the function does with an error is
# its own matter: a refusal that it has caught is raised at the end, and where an op has raised there is no program at all.
#
# While a recording is on, no node moves or goes (hold()), and every op of every thread goes through safepoint(), so that it is
# known which nodes are the recording's.

cdef struct Site:
    uint32_t node
    int where          # see python_place()
    PyObject* code

cdef extern from "methods.h":
    PyObject* python_place(int*)
    int line_of_place(PyObject*, int)

cdef class Recording:
    """Recording(lines=False)\n--\n\nIn `with Recording() as recording:` what this thread does is recorded; the graph is on the tape
    until the end. lines: also where in the user's code each node comes from, which takes five times as long."""
    cdef uint32_t base       # nodes from here on are the recording's
    cdef readonly list guards  # (op, left, right, outcome): Variables and floats; op: Py_LT ...; right None: a truth value
    cdef readonly bint raised  # an op has raised what Python's floats raise, whether or not the function went on
    cdef str refusal         # the first thing that was refused; None: nothing
    cdef list stretches      # of nodes that this thread has recorded: where they begin and end, by turns
    cdef Site* site          # [n_sites] by node: where in the user's code the nodes from there on come from
    cdef size_t n_sites, sites_capacity
    cdef bint on, lines

    def __cinit__(self, bint lines=False):
        self.lines = lines

    def __enter__(self):
        if thread_mode.recording != NULL:
            raise RuntimeError("a recording is on already")
        self.guards = []
        self.stretches = []
        ready(1)
        hold(1)
        tape.recorders += 1
        tape.limit = 0
        self.base = tape.n
        self.on = True
        thread_mode.recording = <PyObject*>self
        return self

    def __dealloc__(self):
        cdef size_t k
        for k in range(self.n_sites):
            Py_DECREF_(self.site[k].code)
        PyMem_RawFree(self.site)

    cdef int note_site(self) except -1:
        """The nodes from here on come from where Python is now."""
        cdef Site* last = NULL
        cdef int where = 0
        cdef PyObject* code = python_place(&where)
        if code == NULL:
            return 0
        if self.n_sites:
            last = self.site + self.n_sites - 1
        if last != NULL and last.code == code and last.where == where:
            Py_DECREF_(code)
            return 0
        if last != NULL and last.node == tape.n:  # nothing was recorded there
            Py_DECREF_(last.code)
            self.n_sites -= 1
        if self.n_sites == self.sites_capacity:
            try:
                resize(<void**>&self.site, 2 * self.n_sites + 64, sizeof(Site))
            except MemoryError:
                Py_DECREF_(code)
                raise
            self.sites_capacity = 2 * self.n_sites + 64
        self.site[self.n_sites] = Site(tape.n, where, code)
        self.n_sites += 1
        return 0

    cdef list failing(self):
        """Variables of the nodes so far that are not on the walk, of ops that can fail."""
        cdef uint32_t i, start, end
        cdef list found = []
        change_recorder()
        for start, end in zip(self.stretches[::2], self.stretches[1::2] + [tape.n]):
            for i in range(start, end):
                if op_can_fail(tape.row[i].op) and not has_walk(i):
                    found.append(take(handle_of(i)))
        return found

    def __exit__(self, *exc_info):
        if self.on:
            self.on = False
            thread_mode.recording = NULL
            forget_recorder(self)
            tape.recorders -= 1
            tape.limit = 0
            self.guards = None
            hold(-1)
            pop()

    def inputs(self, list values not None):
        """New Variables for these numbers, which the recording takes for its inputs."""
        cdef list found = []
        cdef double number
        for x in values:
            to_number(x, "recording", &number)
            ready(1)
            found.append(take(record_leaf(number, True)))
        return found

cdef PyObject* recorder = NULL  # the Recording (borrowed) of the thread that has come through safepoint() last; NULL: it has none

cdef int change_recorder() except -1:
    """The nodes from here on are this thread's."""
    global recorder
    if recorder != thread_mode.recording:
        if recorder != NULL:
            (<Recording>recorder).stretches.append(tape.n)
        recorder = thread_mode.recording
        if recorder != NULL:
            (<Recording>recorder).stretches.append(tape.n)
    if recorder != NULL and (<Recording>recorder).lines:
        (<Recording>recorder).note_site()
    return 0

cdef void forget_recorder(Recording recording) noexcept:
    global recorder
    if recorder == <PyObject*>recording:
        recorder = NULL

def _is_recording():
    """Whether this thread records a function for a program."""
    return thread_mode.recording != NULL

cdef inline bint is_recording() noexcept:
    return tape.recorders and thread_mode.recording != NULL

cdef bint is_fixed(Variable v) noexcept:
    """Is v a constant that the function has made, whose value is the same in every call?"""
    cdef row_t* row = tape.row + v.number
    return row.op == OP_LEAF and not row.flags & ROW_REQUIRES and v.number >= (<Recording>thread_mode.recording).base

cdef int note_guard(int op, object left, object right, bint outcome) except -1:
    """A comparison (right None: a truth value) has come out so. Numbers and constants do not come out otherwise in a later run."""
    if is_variable(<PyObject*>left) and not is_fixed(left) or is_variable(<PyObject*>right) and not is_fixed(right):
        (<Recording>thread_mode.recording).guards.append((op, left, right, outcome))
    return 0

cdef struct Choice:  # what a derivative's formula has decided by values
    int op
    Item x, y
    bint outcome

cdef Choice* choices = NULL
cdef size_t n_choices = 0, choices_capacity = 0
cdef bint choices_lost = False

cdef void note_choice(int kind, Item x, Item y, bint outcome) noexcept nogil:
    global choices, n_choices, choices_capacity, choices_lost
    cdef void* moved
    if n_choices == choices_capacity:
        moved = PyMem_RawRealloc(choices, (2 * choices_capacity + 64) * sizeof(Choice))
        if moved == NULL:
            choices_lost = True
            return
        choices = <Choice*>moved
        choices_capacity = 2 * choices_capacity + 64
    choices[n_choices].op = Py_LT if kind == EX_LESS else Py_LE if kind == EX_LESS_EQUAL else Py_EQ
    choices[n_choices].x, choices[n_choices].y = x, y
    choices[n_choices].outcome = outcome
    n_choices += 1

cdef int take_choices() except -1:
    """After a walk that records: its choices become guards of the recording that is on, if one is in this thread."""
    global n_choices, choices_lost
    cdef size_t k, n = n_choices
    cdef list guards
    n_choices = 0
    if thread_mode.recording != NULL:
        if choices_lost:
            raise MemoryError("mingrad: no memory for the guards of a recording")
        guards = (<Recording>thread_mode.recording).guards
        for k in range(n):
            left = item_object(choices[k].x)
            right = item_object(choices[k].y)
            guards.append((choices[k].op, left, right, choices[k].outcome))
    choices_lost = False
    return 0

cdef inline int refuse_reading(Variable v, str what) except -1:
    """Raise for a number that is read off v while a function is recorded, unless it is the same in every call."""
    if is_recording() and not is_fixed(v):
        raise refusal(f"{what} of {describe(v.number)} was read in a function that is being compiled: the number would be the same "
                      "in every later call. Compute with the Variable itself (mingrad.exp, abs, comparisons, "
                      "mingrad.stop_gradient)")
    return 0

cdef int refuse_writing(uint32_t i) except -1:
    """Raise for a write to a node that is older than the recording."""
    if i < (<Recording>thread_mode.recording).base:
        raise refusal(f"{describe(i)} was written in a function that is being compiled: later calls would not repeat it. Write it "
                      "outside")
    return 0

cdef int refuse_while_recording(str what, str cure) except -1:
    raise refusal(f"{what} in a function that is being compiled: {cure}")

cdef object refusal(str text):
    """The error for what a recording cannot repeat, with the user's line."""
    cdef Recording recording = <Recording>thread_mode.recording
    text += user_place()
    if recording.refusal is None:
        recording.refusal = text
    return RecordingError(text)

def _refuse_outside(Variable v not None, str name not None):
    """Raise where a function is recorded in which a function that mingrad cannot look into is called with v."""
    if is_recording() and not is_fixed(v):
        raise refusal(outside_text(name))

cdef str outside_text(str name):
    """The error for a node whose graph is not on the tape."""
    if thread_mode.recording == NULL:
        return (f"{name!r} is computed outside, by a custom or compiled function, and cannot be part of a recorded graph: record "
                "what comes before or after it")
    return (f"{name!r} is computed outside and cannot be part of a compiled function: call it before or after, and pass its result "
            "as an argument")

cdef str user_place():
    """' (file, line 3, in f)' of the user's code."""
    line = user_line()
    return f" ({line[0]}, line {line[1]}, in {line[2]})" if line else ""

class RecordingError(RuntimeError):
    """A function that is being compiled does what a recorded program cannot repeat. The text says what, where, and the cure."""

RecordingError.__module__ = "mingrad"
