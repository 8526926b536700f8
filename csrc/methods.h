/* methods.h: the Python methods and functions that follow from the op table, with their docstrings. The work is done by
 * three functions of variable.pxi; nothing here knows how. */
#ifndef MINGRAD_METHODS_H
#define MINGRAD_METHODS_H

#include <Python.h>
#include <frameobject.h> /* Python 3.10 has PyFrame_GetBack there */
#include "ops.h"
#include "tape.h"

/* In variable.pxi. Each returns a new reference, or NULL with an exception set. */
static ALWAYS_INLINE PyObject *mg_unary(unsigned op, PyObject *x);               /* x: Variable or number */
static ALWAYS_INLINE PyObject *mg_binary(unsigned op, PyObject *l, PyObject *r); /* operator slots: NotImplemented allowed */
static ALWAYS_INLINE PyObject *mg_record(uint32_t op, uint32_t flags, uint32_t a, uint32_t b, uint32_t c, double value);
static PyObject *mg_binary_call(unsigned op, PyObject **args, Py_ssize_t n_args);
static PyObject *mg_nary_call(unsigned op, PyObject **args, Py_ssize_t n_args);

/* Docstrings begin with the function's name and one of these, which Python shows as its signature. */
#define METHOD_SIGNATURE_1 "($self, /)\n--\n\n"
#define METHOD_SIGNATURE_2 "($self, other, /)\n--\n\n"
#define FUNCTION_SIGNATURE_1 "(x, /)\n--\n\n"
/* math.atan2 takes y first; max and min also take their operands one by one */
#define FUNCTION_TEXT_2(ID, name, text) (OP_##ID == OP_ATAN2 ? name "(y, x, /)\n--\n\n" text : name "(x, y, /)\n--\n\n" text)
#define FUNCTION_TEXT_N(ID, name, text) \
    (OP_##ID == OP_MAX || OP_##ID == OP_MIN ? name "(xs, /, *more)\n--\n\n" text : name "(xs, /)\n--\n\n" text)

// clang-format off: docstrings as they are read
#define UNARY_TEXT(name, y, da, example, result)                                             \
    #name ": value `" #y "`, derivative `" #da "` (a: the operand, y: the value).\n\n"       \
    "A number gives a float, a Variable a Variable. Raises what Python's math raises for the same number.\n\n" \
    ">>> import mingrad\n>>> mingrad." example "\n" result "\n"
#define BINARY_TEXT(name, y, da, db, example, result)                                        \
    #name ": value `" #y "`, derivatives `" #da "` and `" #db "` (a, b: the operands, y: the value).\n\n" \
    "Numbers give a float, otherwise a Variable.\n\n"                                        \
    ">>> import mingrad\n>>> mingrad." example "\n" result "\n"
#define NARY_TEXT(name, dx, example, result)                                                 \
    #name " over a sequence of Variables and numbers, as one node; derivative for operand x `" #dx "`\n" \
    "(y: the value, n: how many, aux: see ops.def; prod: the product of the others).\n\n"    \
    "Only numbers give a float. An empty sequence raises ValueError where it has no value.\n\n" \
    ">>> import mingrad\n>>> mingrad." example "\n" result "\n"

// clang-format on

/* methods and functions of one operand */
#define UNARY(ID, name, ...)                                         \
    static PyObject *method_##name(PyObject *self, PyObject *unused) \
    {                                                                \
        (void)unused;                                                \
        DOOR(PyObject *, mg_unary(OP_##ID, self));                   \
    }                                                                \
    static PyObject *function_##name(PyObject *module, PyObject *x)  \
    {                                                                \
        (void)module;                                                \
        DOOR(PyObject *, mg_unary(OP_##ID, x));                      \
    }
#define BINARY_OPERATOR(...)
#define BINARY_PARAMETER(...)
#define BINARY_LOSS(...)
#define BINARY_FUNCTION(ID, name)                                                           \
    static PyObject *method_##name(PyObject *self, PyObject *other)                         \
    {                                                                                       \
        PyObject *args[2] = {self, other};                                                  \
        DOOR(PyObject *, mg_binary_call(OP_##ID, args, 2));                                 \
    }                                                                                       \
    static PyObject *function_##name(PyObject *module, PyObject *const *args, Py_ssize_t n) \
    {                                                                                       \
        (void)module;                                                                       \
        DOOR(PyObject *, mg_binary_call(OP_##ID, (PyObject **)args, n));                    \
    }
#define BINARY(ID, name, alias, symbol, y, da, db, errors, kind, ...) BINARY_##kind(ID, name)
#define NARY(ID, name, ...)                                                                 \
    static PyObject *function_##name(PyObject *module, PyObject *const *args, Py_ssize_t n) \
    {                                                                                       \
        (void)module;                                                                       \
        DOOR(PyObject *, mg_nary_call(OP_##ID, (PyObject **)args, n));                      \
    }
#include "ops.def"
#undef BINARY_FUNCTION

static PyMethodDef op_methods[] = {
#define UNARY(ID, name, alias, symbol, y, da, errors, example, result) \
    {#name, method_##name, METH_NOARGS, #name METHOD_SIGNATURE_1 UNARY_TEXT(name, y, da, example, result)},
#define BINARY_FUNCTION(ID, name, y, da, db, example, result) \
    {#name, method_##name, METH_O, #name METHOD_SIGNATURE_2 BINARY_TEXT(name, y, da, db, example, result)},
#define BINARY(ID, name, alias, symbol, y, da, db, errors, kind, example, result) \
    BINARY_##kind(ID, name, y, da, db, example, result)
#include "ops.def"
#undef BINARY_FUNCTION
/* The same under NumPy's names, for np.arctan(object_array) and the like. Rows without alias repeat their own name, which is
   there already (add_methods()). */
#define ALIAS_NAME(name, alias) sizeof alias > 1 ? alias : #name
#define ALIAS_OF(name) "Same as " #name ", under NumPy's name."
#define ALIAS_TEXT(name, alias, signature) sizeof alias > 1 ? alias signature ALIAS_OF(name) : NULL
#define UNARY(ID, name, alias, symbol, y, da, errors, example, result) \
    {ALIAS_NAME(name, alias), method_##name, METH_NOARGS, ALIAS_TEXT(name, alias, METHOD_SIGNATURE_1)},
#define BINARY_FUNCTION(ID, name, alias) \
    {ALIAS_NAME(name, alias), method_##name, METH_O, ALIAS_TEXT(name, alias, METHOD_SIGNATURE_2)},
#define BINARY(ID, name, alias, symbol, y, da, db, errors, kind, ...) BINARY_##kind(ID, name, alias)
#include "ops.def"
#undef BINARY_FUNCTION
    {NULL, NULL, 0, NULL},
};

static PyMethodDef op_functions[] = {
#define UNARY(ID, name, alias, symbol, y, da, errors, example, result) \
    {#name, function_##name, METH_O, #name FUNCTION_SIGNATURE_1 UNARY_TEXT(name, y, da, example, result)},
#define BINARY_FUNCTION(ID, name, alias, y, da, db, example, result)     \
    {#name, (PyCFunction)(void (*)(void))function_##name, METH_FASTCALL, \
     FUNCTION_TEXT_2(ID, #name, BINARY_TEXT(name, y, da, db, example, result))},
#define BINARY(ID, name, alias, symbol, y, da, db, errors, kind, example, result) \
    BINARY_##kind(ID, name, alias, y, da, db, example, result)
#define NARY(ID, name, symbol, kernel, aux, dx, example, result)         \
    {#name, (PyCFunction)(void (*)(void))function_##name, METH_FASTCALL, \
     FUNCTION_TEXT_N(ID, #name, NARY_TEXT(name, dx, example, result))},
#include "ops.def"
#undef BINARY_FUNCTION
/* NumPy's names again */
#define UNARY(ID, name, alias, symbol, y, da, errors, example, result) \
    {ALIAS_NAME(name, alias), function_##name, METH_O, ALIAS_TEXT(name, alias, FUNCTION_SIGNATURE_1)},
#define BINARY_FUNCTION(ID, name, alias)                                                   \
    {ALIAS_NAME(name, alias), (PyCFunction)(void (*)(void))function_##name, METH_FASTCALL, \
     sizeof alias > 1 ? FUNCTION_TEXT_2(ID, alias, ALIAS_OF(name)) : NULL},
#define BINARY(ID, name, alias, symbol, y, da, db, errors, kind, ...) BINARY_##kind(ID, name, alias)
#include "ops.def"
#undef BINARY_FUNCTION
#undef BINARY_OPERATOR
#undef BINARY_PARAMETER
#undef BINARY_LOSS
    {NULL, NULL, 0, NULL},
};

/* -- slots set by hand ------------------------------------------------------------------------------------------- */

/* More of variable.pxi. */
static PyObject *mg_new(PyTypeObject *type);
static PyObject *mg_construct(PyObject **args, size_t n_args, PyObject *names);
static ALWAYS_INLINE void mg_dealloc(PyObject *self);
static ALWAYS_INLINE PyObject *mg_compare(PyObject *self, PyObject *other, int op);

#define BINARY_SLOT(name, OP) \
    static PyObject *slot_##name(PyObject *l, PyObject *r) { DOOR(PyObject *, mg_binary(OP, l, r)); }
BINARY_SLOT(add, OP_ADD)
BINARY_SLOT(subtract, OP_SUB)
BINARY_SLOT(multiply, OP_MUL)
BINARY_SLOT(true_divide, OP_DIV)
static ternaryfunc generated_power;
static PyObject *slot_power(PyObject *l, PyObject *r, PyObject *modulus)
{
    DOOR(PyObject *, modulus == Py_None ? mg_binary(OP_POW, l, r) : generated_power(l, r, modulus));
}
static PyObject *slot_negative(PyObject *x) { DOOR(PyObject *, mg_unary(OP_NEG, x)); }
static PyObject *slot_absolute(PyObject *x) { DOOR(PyObject *, mg_unary(OP_ABS, x)); }
static PyObject *slot_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    (void)args;
    (void)names;
    DOOR(PyObject *, mg_new(type));
}
static PyObject *slot_call(PyObject *type, PyObject *const *args, size_t n_args, PyObject *names)
{
    (void)type;
    DOOR(PyObject *, mg_construct((PyObject **)args, n_args, names));
}
/* Where the thread's Python code is: a new reference to the innermost frame's code, and in *where its instruction, or before
   Python 3.11 minus its line. NULL: no Python code. */
static int frame_place(PyFrameObject *frame)
{
#if PY_VERSION_HEX >= 0x030B0000
    return PyFrame_GetLasti(frame);
#else
    return -PyFrame_GetLineNumber(frame);
#endif
}
static PyObject *python_place(int *where)
{
    PyFrameObject *frame = PyEval_GetFrame();
    if (frame == NULL) return NULL;
    *where = frame_place(frame);
    return (PyObject *)PyFrame_GetCode(frame);
}

/* The same of all frames from the innermost out to `last`, which runs last_code, but of `most` at most; the result is how many.
   The references are borrowed: what runs stays alive. wheres may be NULL. */
enum { MAX_FRAMES = 128 };
static int python_stack(PyObject **frames, PyObject **codes, int *wheres, int most, PyObject *last, PyObject *last_code)
{
    PyFrameObject *frame = PyEval_GetFrame(), *back;
    int n = 0, ended;
    Py_XINCREF(frame);
    while (frame != NULL && n < most) {
        frames[n] = (PyObject *)frame;
        codes[n] = (PyObject *)PyFrame_GetCode(frame);
        Py_DECREF(codes[n]);
        if (wheres != NULL) wheres[n] = frame_place(frame);
        ended = frames[n] == last && codes[n] == last_code;
        n++;
        back = ended ? NULL : PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return n;
}

/* Nanoseconds of a clock that only goes forward: that of time.perf_counter(). */
static int64_t clock_now(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyTime_t now;
    return PyTime_PerfCounterRaw(&now) < 0 ? 0 : now;
#else
    return _PyTime_GetPerfCounter();
#endif
}

static int line_of_place(PyObject *code, int where)
{
    return where < 0 ? -where : PyCode_Addr2Line((PyCodeObject *)code, where);
}

static void slot_dealloc(PyObject *self) { DOOR_VOID(mg_dealloc(self)); }
static PyObject *slot_compare(PyObject *self, PyObject *other, int op) { DOOR(PyObject *, mg_compare(self, other, op)); }

/* The generated slots stay reachable as Variable.__add__ and so on, and do the same more slowly. */
static void set_slots(PyTypeObject *type)
{
    type->tp_as_number->nb_add = slot_add;
    type->tp_as_number->nb_subtract = slot_subtract;
    type->tp_as_number->nb_multiply = slot_multiply;
    type->tp_as_number->nb_true_divide = slot_true_divide;
    generated_power = type->tp_as_number->nb_power;
    type->tp_as_number->nb_power = slot_power;
    type->tp_as_number->nb_negative = slot_negative;
    type->tp_as_number->nb_absolute = slot_absolute;
    type->tp_richcompare = slot_compare;
    type->tp_new = slot_new;
    type->tp_vectorcall = slot_call;
    type->tp_dealloc = slot_dealloc;
    PyType_Modified(type);
}

/* Give the operators that Cython makes (__add__ and so on, without a docstring) a signature to show. */
static void sign_operators(PyTypeObject *type)
{
    static const char *const texts[] = {
#define OPERATOR(name) "__" #name "__($self, other, /)\n--\n\n"
        OPERATOR(add),      OPERATOR(sub), OPERATOR(mul),   OPERATOR(truediv),
        OPERATOR(floordiv), OPERATOR(mod), OPERATOR(divmod)
#undef OPERATOR
    };
    PyMethodDef *def;
    for (def = type->tp_methods; def->ml_name; def++) {
        size_t length = strlen(def->ml_name), i;
        for (i = 0; i < sizeof texts / sizeof *texts; i++) {
            if (strncmp(texts[i], def->ml_name, length) == 0 && texts[i][length] == '(') def->ml_doc = texts[i];
        }
    }
}

/* Add the table's methods to the type and its functions to the module's dict, each name once. */
static int add_methods(PyTypeObject *type, PyObject *module_dict)
{
    PyMethodDef *def;
    PyObject *name = PyUnicode_FromString("mingrad"), *item;
    if (name == NULL) return -1;
    for (def = op_methods; def->ml_name; def++) {
        if (def->ml_name[0] == '_' || PyDict_GetItemString(type->tp_dict, def->ml_name)) continue;
        item = PyDescr_NewMethod(type, def);
        if (item == NULL || PyDict_SetItemString(type->tp_dict, def->ml_name, item) < 0) return -1;
        Py_DECREF(item);
    }
    for (def = op_functions; def->ml_name; def++) {
        if (def->ml_name[0] == '_' || PyDict_GetItemString(module_dict, def->ml_name)) continue;
        item = PyCFunction_NewEx(def, NULL, name);
        if (item == NULL || PyDict_SetItemString(module_dict, def->ml_name, item) < 0) return -1;
        Py_DECREF(item);
    }
    Py_DECREF(name);
    PyType_Modified(type);
    return 0;
}

#endif
