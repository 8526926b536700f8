/* lock.h: threads without a GIL. The core is written for one thread at a time; where Python has no GIL, one lock of the core's
 * own stands in for it. Here are that lock, the doors that take it, and references to Variables that another thread may be
 * letting go of. With a GIL all of it is nothing. What is a door, and why the lock is what it is: csrc/README.md. */
#ifndef MINGRAD_LOCK_H
#define MINGRAD_LOCK_H

#include <Python.h>
#include "inline.h"

#if defined(Py_GIL_DISABLED)
#define FREE_THREADED 1

static PyObject mg_lock; /* no object: what is used of it is the mutex */
static int mg_dropped;   /* something waits for mg_release_dropped() */

static int mg_release_dropped(void *unused); /* in tape.pxi; may run code */

/* Has this thread the lock? It has while one of its critical sections is the lock's, and that one and those begun since
   are active: CPython suspends all of a thread's sections where it waits or detaches, and takes the latest up again first. */
static inline int mg_is_inside(void)
{
    uintptr_t tagged = PyThreadState_GetUnchecked()->critical_section;
    while (tagged != 0 && !(tagged & 1)) {
        PyCriticalSection *section = (PyCriticalSection *)(tagged & ~(uintptr_t)3);
        if (section->_cs_mutex == &mg_lock.ob_mutex) return 1;
        tagged = section->_cs_prev;
    }
    return 0;
}

/* A door: what Python calls. It takes the lock unless the thread has it, since taking a section's lock again would suspend that
   section, and let other threads in where numbers of nodes are in flight. */
#define DOOR(type, call)                                          \
    {                                                             \
        PyCriticalSection section;                                \
        int inside = mg_is_inside();                              \
        type result;                                              \
        if (!inside) PyCriticalSection_Begin(&section, &mg_lock); \
        result = call;                                            \
        if (!inside) mg_leave(&section);                          \
        return result;                                            \
    }
#define DOOR_VOID(call)                                           \
    {                                                             \
        PyCriticalSection section;                                \
        int inside = mg_is_inside();                              \
        if (!inside) PyCriticalSection_Begin(&section, &mg_lock); \
        call;                                                     \
        if (!inside) mg_leave(&section);                          \
    }

static inline void mg_note_dropped(int waits) { mg_dropped = waits; }
static NEVER_INLINE void mg_let_go(void);

static inline void mg_leave(PyCriticalSection *section)
{
    int dropped = mg_dropped;
    PyCriticalSection_End(section);
    if (dropped) mg_let_go();
}

static NEVER_INLINE void mg_let_go(void) { DOOR_VOID(mg_release_dropped(NULL)); }

/* The tape knows each node's living Variable without holding it. Another thread may have let go of the last reference and wait
   at the door of dealloc(): then there is no reference to be had any more. mg_known: before others can see a new Variable.
   mg_try_ref: a new reference, or NULL. */
#if PY_VERSION_HEX >= 0x030E0000
static inline void mg_known(PyObject *self) { PyUnstable_EnableTryIncRef(self); }
static inline PyObject *mg_try_ref(PyObject *self) { return PyUnstable_TryIncRef(self) ? self : NULL; }
#else /* the same, of what 3.13's headers have */
static inline void mg_known(PyObject *self) { self->ob_ref_shared |= _Py_REF_MAYBE_WEAKREF; }
static inline PyObject *mg_try_ref(PyObject *self)
{
    Py_ssize_t shared;
    if (_Py_IsOwnedByCurrentThread(self)) {
        Py_INCREF(self);
        return self;
    }
    shared = _Py_atomic_load_ssize_relaxed(&self->ob_ref_shared);
    while (shared != 0 && shared != _Py_REF_MERGED)
        if (_Py_atomic_compare_exchange_ssize(&self->ob_ref_shared, &shared, shared + (1 << _Py_REF_SHARED_SHIFT))) return self;
    return NULL;
}
#endif

#else
#define FREE_THREADED 0
#define DOOR(type, call) return call
#define DOOR_VOID(call) call
static inline void mg_note_dropped(int waits) { (void)waits; }
static inline void mg_known(PyObject *self) { (void)self; }
static inline PyObject *mg_try_ref(PyObject *self) { return Py_NewRef(self); }
#endif

#endif
