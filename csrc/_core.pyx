# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=False, freethreading_compatible=True, c_api_binop_methods=True, auto_pickle=False, autotestdict=False
# cython: embedsignature=True, embedsignature.format=clinic
# _core.pyx: the compiled module mingrad._core. One module made of the parts below, in the order in which they may use
# each other, so that the C compiler can inline across them. Here are only the declarations they share.
# c_api_binop_methods: as in C, one function gets both operands in order, whichever is the Variable.
# embedsignature: functions show their parameters to inspect and to editors, and docstrings need not; of a class its docstring's
# first line does, up to the `--`.
# binding=False: unbound calls such as Variable.relu(1.5) must check the type of self.
# freethreading_compatible: threads may run without a GIL; lock.h and csrc/README.md say what makes that true.

from cpython.buffer cimport PyObject_CheckBuffer, PyObject_GetBuffer, PyBuffer_Release, PyBUF_FORMAT, PyBUF_ND, PyBUF_RECORDS_RO, \
    PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.object cimport PyObject, PyTypeObject, Py_EQ, Py_NE, Py_LT, Py_LE, Py_GT, Py_GE
from libc.math cimport INFINITY, NAN, fabs, frexp, isfinite, isnormal, signbit
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset, memmove, memcpy, memcmp, strcmp

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    void* PyMem_RawRealloc(void*, size_t) nogil
    void PyMem_RawFree(void*) nogil
    Py_ssize_t Py_REFCNT(PyObject*)
    void Py_INCREF_ "Py_INCREF"(PyObject*)
    void Py_DECREF_ "Py_DECREF"(PyObject*)
    PyObject* PyErr_Occurred()
    int Py_AddPendingCall(int (*function)(void*) noexcept, void*)
    void fatal "Py_FatalError"(const char*)

cdef extern from "lock.h":
    enum:
        FREE_THREADED
    void mg_note_dropped(bint)
    void mg_known(PyObject*)
    PyObject* mg_try_ref(PyObject*)

cdef extern from "tape.h":
    enum:
        ROW_REQUIRES, ROW_SCATTERED, ROW_WRITTEN, ROW_FROZEN, ROW_BLOCK, FREELIST_SIZE, DEBUG_BUILD
    const uint32_t YOUNG_SIZE, FIRST_CAPACITY, MAX_NODES, NO_NODE, BLOCK_SIZE
    ctypedef struct row_t:
        uint16_t op, flags
        uint32_t a, b, c
        double constant, held
    ctypedef struct thread_mode_t:
        int no_grad, ignore, anomaly
        PyObject* recording
        PyObject* profiler
    thread_mode_t thread_mode
    void give_pages_back() nogil
    uint32_t NUMBER(PyObject*) nogil
    void SET_NUMBER(PyObject*, uint32_t) nogil
    PyObject* WEAKREFS(PyObject*) nogil
    int bits_highest(uint64_t) nogil
    uint32_t bits_next(uint64_t, uint32_t) nogil
    uint64_t handle_bits(PyObject**, uint32_t) nogil
    void row_set(row_t*, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t) nogil
    void row_set_block(row_t*, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t) nogil
    bint row_follows(const row_t*, const row_t*, uint32_t) nogil
    int bits_lowest(uint64_t) nogil
    uint32_t bits_count(uint64_t) nogil

cdef extern from "kernels.h":
    ctypedef struct adam_t:
        double keep, rate, beta1, beta2, scale, eps
    ctypedef struct rmsprop_t:
        double rate, alpha, eps, momentum
    enum:
        WHERE_RUN, WHERE_SAME, WHERE_LISTED, WHERE_RUNS, WHERE_NONE
        STEP_VALUE, STEP_SLOPE_A, STEP_SLOPE_B, STEP_AUX, STEP_SLOPE_N, STEP_CHAIN, STEP_HELPER
    ctypedef struct step_t:
        uint16_t op
        uint8_t kind, a_where, b_where, c_where
        uint32_t n, y, a, b, c, run, k, i, count
        int32_t a_stride, b_stride, c_stride
    ctypedef struct kernel_set_t:
        const char* name
        double (*sum)(const double*, size_t) noexcept nogil
        double (*dot)(const double*, const double*, size_t) noexcept nogil
        void (*axpy)(double*, double, const double*, size_t) noexcept nogil
        void (*affine)(double*, const double*, const double*, size_t, size_t, size_t) noexcept nogil
        void (*affine_back_w)(double*, const double*, const double*, size_t, size_t, size_t, size_t) noexcept nogil
        void (*affine_back_x)(double*, const double*, const double*, size_t, size_t, size_t) noexcept nogil
        void (*combine)(double*, double, const double*, double, const double*, size_t) noexcept nogil
        void (*sgd)(double*, double*, const double*, double, double, double, double, size_t) noexcept nogil
        void (*adam)(double*, double*, double*, double*, const double*, const adam_t*, size_t) noexcept nogil
        void (*run_rows)(const step_t*, size_t, double*, const uint32_t*, double*, uint32_t, uint32_t, int) noexcept nogil
        int (*run_steps)(const step_t*, size_t, double*, const uint32_t*, double*, int, int) noexcept nogil
        void (*rmsprop)(double*, double*, double*, double*, const double*, const rmsprop_t*, size_t) noexcept nogil
    const kernel_set_t* kernels
    int kernels_select(const char*) nogil
    double k_max(const double*, size_t) nogil
    double k_norm(const double*, size_t) nogil

cdef extern from "vector.h":
    ctypedef struct vector_entry_t:
        const char* name
        void (*function)(double*, const double*, size_t) noexcept nogil
    const vector_entry_t* vector_table
    void vec_pow(double*, const double*, const double*, size_t) noexcept nogil

cdef extern from "ops.h":
    enum:
        OP_LEAF, OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW, OP_NEG, OP_COPY, OP_STOP, OP_ABS, OP_RELU
        OP_SQRT, OP_FLOOR, OP_CEIL, OP_CLAMP_MIN, OP_CLAMP_MAX, OP_LEAKY_RELU, OP_ELU, OP_MAXIMUM, OP_MINIMUM, OP_SUM
        OP_PROD, OP_MAX, OP_MIN, OP_SQUARED_ERROR, OP_ABSOLUTE_ERROR, OP_HUBER, OP_HINGE, OP_BCE, OP_BCE_LOGITS
        OP_MEAN, OP_NORM, OP_SUMEXP, OP_MEAN_SQUARE, OP_CROSS_ENTROPY, OP_SOFTMAX, OP_DOT
        OP_AFFINE, OP_AFFINE_C, OP_LINEAR, OP_LINEAR_C, OP_CUSTOM, OP_COUNT
        SHAPE_LEAF, SHAPE_A, SHAPE_AB, SHAPE_RANGE, SHAPE_PAIR, SHAPE_AFFINE
        NUMBER_NOWHERE, NUMBER_SECOND, NUMBER_FIRST
        ERROR_NONE, ERROR_VALUE, ERROR_OVERFLOW, ERROR_DIVISION
        OP_TEXT_COUNT, OP_MEANING_COUNT
    ctypedef struct op_text_t:
        int op
        const char *kind
        const char *name
        const char *alias
        const char *symbol
        const char *value
        const char *da
        const char *db
        const char *errors
        const char *aux
    ctypedef struct meaning_t:
        const char *function
        const char *parameters
        const char *meaning
    const meaning_t* op_meanings
    double (**op_helpers)(double) noexcept nogil
    const double LN2, INV_LN2, INV_LN10, SQRT1_2, INV_SQRT_2PI, TWO_INV_SQRTPI
    const op_text_t* op_texts
    const uint8_t* op_shape
    uint32_t op_bias(unsigned) nogil
    const uint8_t* op_number_place
    const char** op_symbol
    const char** op_name
    double op_value1(unsigned, double, double) nogil
    double op_value2(unsigned, double, double) nogil
    double op_value_n(unsigned, const double*, uint32_t, uint32_t) nogil
    double op_aux(unsigned, const double*, uint32_t, uint32_t, double) nogil
    double op_slope1(unsigned, double, double, double) nogil
    void op_slopes(unsigned, double, double, double, double*, double*) nogil
    double op_slope_n(unsigned, double, uint32_t, double, double, uint32_t, double) nogil
    double value_softmax(double, double, double) nogil
    void op_block_value(unsigned, double*, const double*, double, size_t) nogil
    void op_block_back(unsigned, double*, const double*, const double*, double, const double*, size_t) nogil
    bint op_can_fail(unsigned) nogil
    int op_error(unsigned, double, double, double) nogil

include "tape.pxi"
include "sweep.pxi"
include "variable.pxi"
include "sequences.pxi"
include "formulas.pxi"
include "derive.pxi"
include "anomaly.pxi"
include "record.pxi"
include "program.pxi"
include "schedule.pxi"
include "profile.pxi"
include "replay.pxi"
include "exchange.pxi"
include "rows.pxi"
include "export.pxi"
include "layers.pxi"
include "optim.pxi"
include "check.pxi"
include "hooks.pxi"
