# replay.pxi: the recorded graph of a Variable run again after its leaves were written: what mingrad.replay.Graph calls. The graph
# is a program without inputs (program.pxi) whose leaves are captured; here they are read, and their gradients added up. Nests and
# what people see are in mingrad/replay.py.

def _record_graph(Program p not None, list outputs not None):
    """Fill the new Program p with the graph of these Variables and floats. Captured are the leaves that ask for a gradient or that
    somebody holds."""
    if is_recording():
        refuse_while_recording("record()", "call it outside, on a graph that plain code has built")
    return _program(p, [], outputs, [])

def _replay(Program p not None, str name not None):
    """A run of p for _replay_forward() and _replay_backward()."""
    cdef ProgramCall call = ProgramCall()
    call.program = p
    call.name = name
    for slot in p.outputs:
        call.count += type(slot) is not float
    resize(<void**>&call.operand, len(p.captured) + 1, sizeof(uint32_t))
    return call

def _replay_forward(ProgramCall call not None):
    """Compute the results of the leaves' data as they are now: a list of floats. Raises what plain Python raises for them."""
    cdef Program p = call.program
    cdef Schedule schedule
    cdef uint32_t k
    refuse_replay("forward()")
    if call.schedule is None:
        call.v = latest_schedule(p).take()
        call.schedule = p.latest
    schedule = call.schedule
    for k in range(<uint32_t>len(p.captured)):
        call.v[schedule.place[k]] = tape.value[(<Variable>p.captured[k]).number]
    call.ran = False
    if schedule.run(call.v, PHASE_RESULT):
        _run_eagerly(p, [], call.name)  # raises what there is to raise
    call.ran = True
    return [x if type(x) is float else call.v[schedule.place[<uint32_t>x]] for x in p.outputs]

def _replay_backward(ProgramCall call not None, list seeds not None):
    """Add to the gradients of the leaves that ask for one, for these adjoints of the results that are no floats. Whatever it
    raises, no gradient has changed."""
    cdef Program p = call.program
    cdef Variable v
    cdef uint32_t k
    refuse_replay("backward()")
    if not call.ran:
        raise RuntimeError("graph.backward() without the numbers of a graph.forward() that went well: call graph.forward() first")
    call.n_operands = 0
    for k in range(<uint32_t>len(p.captured)):
        v = p.captured[k]
        if memcmp(&tape.value[v.number], call.v + call.schedule.place[k], sizeof(double)) != 0:
            raise RuntimeError(f"data of {describe(v.number)} was written after graph.forward() had used it; call graph.forward() "
                               "again before graph.backward()")
        if tape.row[v.number].flags & ROW_REQUIRES:
            if tape.note[NOTE_HOOKS].n and get_note(NOTE_HOOKS, v.number) != NULL:
                raise RuntimeError(hook_text(v.number))
            call.operand[call.n_operands] = k
            call.n_operands += 1
    if not call.n_operands or not call.count:
        raise RuntimeError("graph.backward() of a graph no leaf of which requires a gradient")
    call.pull(checked_seeds(seeds, call.count, "graph.backward(gradient=...)"))
    for k in range(call.n_operands):
        v = p.captured[call.operand[k]]
        add_to_grad(v, call.adjoint_at(k))

cdef str hook_text(uint32_t i):
    return (f"{describe(i)} has a hook (register_hook), which a recorded graph would not call: remove it, or call backward() on "
            "the Variable")

cdef int refuse_replay(str what) except -1:
    if is_recording():
        refuse_while_recording(f"graph.{what}", "call it outside")
    if thread_mode.anomaly:
        raise RuntimeError(f"graph.{what} in detect_anomaly(), which has no operations to look at there: run the code that built "
                           "the graph in it instead")
    return 0
