/* ops.h: what follows from the op table: opcodes, shapes, names, values, partials, errors.
 *
 * Knows no tape and no Python. Every function is pure. The formulas are in ops.def; here are only their expansion
 * and the few functions that the formulas call and libm lacks.
 */
#ifndef MINGRAD_OPS_H
#define MINGRAD_OPS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "inline.h"
#include "kernels.h"

/* -- opcodes and shapes ---------------------------------------------------------------------------------------- */

/* A binary op has three codes: both operands are nodes, b is a number (VC), a is a number (CV). */
enum {
    OP_LEAF,
#define UNARY(ID, ...) OP_##ID,
#define BINARY(ID, ...) OP_##ID, OP_##ID##_VC, OP_##ID##_CV,
#define NARY(ID, ...) OP_##ID,
#define LINKED(ID, ...) OP_##ID,
#include "ops.def"
    OP_DOT,      /* sum_i p_i * q_i over two ranges of equal length */
    OP_AFFINE,   /* w[n] + sum_i w_i * x_i: a run of n weights and their bias, a run of n inputs */
    OP_AFFINE_C, /* the same where the inputs ask for no gradient */
    OP_LINEAR,   /* affine without bias: a run of n weights */
    OP_LINEAR_C,
    OP_CUSTOM, /* computed outside, from a range; which of the call's results is the row's index (derive.pxi) */
    OP_COUNT
};

/* What a row's fields mean, and so how to walk over its operands. */
enum {
    SHAPE_LEAF,  /* no operands */
    SHAPE_A,     /* one node; a number beside it for VC and CV */
    SHAPE_AB,    /* two nodes */
    SHAPE_RANGE, /* n nodes */
    SHAPE_PAIR,  /* two ranges of n nodes */
    SHAPE_AFFINE /* a run of n + 1 (without bias: n) and a run of n */
};

static const uint8_t op_shape[OP_COUNT] = {
    SHAPE_LEAF,
#define UNARY(...) SHAPE_A,
#define BINARY(...) SHAPE_AB, SHAPE_A, SHAPE_A,
#define NARY(...) SHAPE_RANGE,
#define LINKED(...) SHAPE_AB,
#include "ops.def"
    SHAPE_PAIR, SHAPE_AFFINE, SHAPE_AFFINE, SHAPE_AFFINE, SHAPE_AFFINE, SHAPE_RANGE,
};

/* The name people see (`_op`, drawings, errors), and for VC and CV rows which operand the number is. */
static const char *const op_symbol[OP_COUNT] = {
    "",
#define UNARY(ID, name, alias, symbol, ...) symbol,
#define BINARY(ID, name, alias, symbol, ...) symbol, symbol, symbol,
#define NARY(ID, name, symbol, ...) symbol,
#define LINKED(ID, name, symbol, ...) symbol,
#include "ops.def"
    "dot", "affine", "affine", "linear", "linear", "custom",
};

/* The name by which it is called. */
static const char *const op_name[OP_COUNT] = {
    "leaf",
#define UNARY(ID, name, ...) #name,
#define BINARY(ID, name, ...) #name, #name, #name,
#define NARY(ID, name, ...) #name,
#define LINKED(ID, name, ...) #name,
#include "ops.def"
    "dot",  "affine", "affine", "linear", "linear", "custom",
};

enum { NUMBER_NOWHERE, NUMBER_SECOND, NUMBER_FIRST };

static const uint8_t op_number_place[OP_COUNT] = {
    0,
#define UNARY(...) 0,
#define BINARY(...) 0, NUMBER_SECOND, NUMBER_FIRST,
#define NARY(...) 0,
#define LINKED(...) 0,
#include "ops.def"
    0, 0, 0, 0, 0, 0,
};

/* Does a SHAPE_AFFINE row have a bias behind its weights? 1 or 0: so many weights more. */
static inline uint32_t op_bias(unsigned op) { return op < OP_LINEAR; }

/* The table's own texts, for documentation, tests and (later) the recorded adjoint. */
typedef struct {
    int op;
    const char *kind, *name, *alias, *symbol, *value, *da, *db, *errors, *aux;
} op_text_t;

static const op_text_t op_texts[] = {
#define UNARY(ID, name, alias, symbol, y, da, errors, ...) {OP_##ID, "unary", #name, alias, symbol, #y, #da, "", #errors, ""},
#define BINARY(ID, name, alias, symbol, y, da, db, errors, ...) \
    {OP_##ID, "binary", #name, alias, symbol, #y, #da, #db, #errors, ""},
#define NARY(ID, name, symbol, y, aux, dx, ...) {OP_##ID, "nary", #name, "", symbol, #y, #dx, "", "NONE", #aux},
#define LINKED(ID, name, symbol, y, da, db) {OP_##ID, "linked", #name, "", symbol, #y, #da, #db, "NONE", ""},
#include "ops.def"
};

typedef struct {
    const char *function, *parameters, *meaning;
} meaning_t;

static const meaning_t op_meanings[] = {
#define MEANS(function, parameters, meaning) {#function, parameters, #meaning},
#include "ops.def"
};
enum { OP_MEANING_COUNT = sizeof op_meanings / sizeof *op_meanings };
enum { OP_TEXT_COUNT = sizeof op_texts / sizeof *op_texts };

/* -- functions that the formulas call ---------------------------------------------------------------------------- */

#define where(condition, then, otherwise) ((condition) ? (then) : (otherwise))

static const double LN2 = 0x1.62e42fefa39efp-1;
static const double INV_LN2 = 0x1.71547652b82fep+0;
static const double INV_LN10 = 0x1.bcb7b1526e50ep-2;
static const double SQRT1_2 = 0x1.6a09e667f3bcdp-1;
static const double INV_SQRT_2PI = 0x1.9884533d43651p-2;
static const double TWO_INV_SQRTPI = 0x1.20dd750429b6dp+0;

/* Defined in special.c: what Python's float and math compute where that is not libm's function of the same name,
   so that values agree with Python to the bit. */
double mg_power(double a, double b);
double mg_mod(double a, double b);
double mg_floordiv(double a, double b);
double mg_hypot(double a, double b);
double mg_lgamma(double a);
/* And what libm lacks. */
double mg_digamma(double a);
double mg_trigamma(double a);
double mg_polygamma(double a, double n); /* the n-th derivative of digamma, n = 1, 2, ... */
double mg_gauss(double a);               /* exp(-a*a), a*a taken exactly */
double mg_normal_cdf(double a);          /* erfc(-a / sqrt(2)) / 2 */
double mg_normal_pdf(double a);          /* exp(-a*a / 2) / sqrt(2*pi) */
/* Partials that need more care than one expression gives them; y is the op's value. */
double mg_power_slope(double a, double b, double y); /* b * a**(b - 1) */
double mg_hypot_slope(double a, double b, double y); /* a / y, 0 at the origin */
double mg_atan2_slope(double a, double b);           /* a / (a*a + b*b), 0 at the origin */

#define PORTABLE_EXACT
#include "portable.h"

/* Is pow(a, 2) surely y, which is a * a? Yes where |pow's error| is at most 0.514 units in the last place (so glibc and
   musl for such a; older ones round correctly) and a * a is not within 1/32 of a unit of the middle between two doubles. */
static inline int is_power_2(double a, double y)
{
#if (defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))) || defined(__EMSCRIPTEN__)
    double half;
    uint64_t bits;
    memcpy(&bits, &y, sizeof bits);
    bits = (bits - 1) & 0x7FF0000000000000u; /* the binade; of a power of two the lower one */
    memcpy(&half, &bits, sizeof half);
    half *= 0x1p-53;
    return (fabs(mg_square_rest(a)) <= 0.96875 * half) & (y > 0x1p-64) & (y < 0x1p64);
#else
    (void)a, (void)y;
    return 0;
#endif
}

static inline double power(double a, double b) { return b == 2 && is_power_2(a, a * a) ? a * a : mg_power(a, b); }

/* Names as the formulas spell them. */
#define mod mg_mod
#define floordiv mg_floordiv
#define hypot mg_hypot
#define lgamma mg_lgamma
#define digamma mg_digamma
#define trigamma mg_trigamma
#define polygamma mg_polygamma
#define gauss mg_gauss
#define normal_cdf mg_normal_cdf
#define normal_pdf mg_normal_pdf
#define power_slope mg_power_slope
#define hypot_slope mg_hypot_slope
#define atan2_slope mg_atan2_slope
#define sigmoid value_sigmoid
#define square value_square
#define sign value_sign

static inline double value_sigmoid(double a);
static inline double value_square(double a);
static inline double value_sign(double a);

/* Of each meaning its function, where that has one operand. */
typedef double (*helper_t)(double);
static const helper_t op_helpers[] = {
#define MEANS(...) NULL,
#define MEANS1(function, meaning) function,
#include "ops.def"
};

/* -- values ------------------------------------------------------------------------------------------------------ */

#define UNARY(ID, name, alias, symbol, y, ...) \
    static inline double value_##name(double a) { return y; }
#define BINARY(ID, name, alias, symbol, y, ...) \
    static inline double value_##name(double a, double b) { return y; }
#define LINKED(ID, name, symbol, y, ...) \
    static inline double value##name(double a, double m, double b) { return y; }
#include "ops.def"

// clang-format off: below, an op is a line

/* Value of a SHAPE_A row: operand x and, for VC and CV, the number c. */
static inline double op_value1(unsigned op, double x, double c)
{
    switch (op) {
#define UNARY(ID, name, ...) case OP_##ID: return value_##name(x);
#define BINARY(ID, name, ...) \
    case OP_##ID##_VC: return value_##name(x, c); \
    case OP_##ID##_CV: return value_##name(c, x);
#include "ops.def"
    default: return NAN;
    }
}

/* Value of a SHAPE_AB row (not LINKED, whose value needs its partner's aux). */
static inline double op_value2(unsigned op, double a, double b)
{
    switch (op) {
#define BINARY(ID, name, ...) case OP_##ID: return value_##name(a, b);
#include "ops.def"
    default: return NAN;
    }
}

/* Value of a SHAPE_RANGE row with index k over xs[0..n). */
static inline double op_value_n(unsigned op, const double *xs, uint32_t n, uint32_t k)
{
    (void)k;
    switch (op) {
#define NARY(ID, name, symbol, y, ...) case OP_##ID: return y;
#include "ops.def"
    default: return NAN;
    }
}

/* The one number per node that a SHAPE_RANGE row's partials need beside x, y, n and k. */
static inline double op_aux(unsigned op, const double *xs, uint32_t n, uint32_t k, double y)
{
    (void)xs; (void)n; (void)k; (void)y;
    switch (op) {
#define NARY(ID, name, symbol, value, aux, ...) case OP_##ID: return aux;
#include "ops.def"
    default: return 0;
    }
}

/* -- partials ---------------------------------------------------------------------------------------------------- */

/* Partial of a SHAPE_RANGE row at its operand number i, of value x. */
static inline double op_slope_n(unsigned op, double x, uint32_t i, double y, double n, uint32_t k, double aux)
{
    (void)x; (void)i; (void)y; (void)n; (void)k; (void)aux;
    switch (op) {
#define NARY(ID, name, symbol, value, aux_, dx, ...) case OP_##ID: return dx;
#include "ops.def"
    default: return NAN;
    }
}

/* Partial of a SHAPE_A row at operand x, number c, value y. */
static ALWAYS_INLINE double op_slope1(unsigned op, double x, double c, double y)
{
    double a, b;
    (void)y;
    switch (op) {
#define UNARY(ID, name, alias, symbol, y_, da, ...) case OP_##ID: a = x; (void)a; return da;
#define BINARY(ID, name, alias, symbol, y_, da, db, ...) \
    case OP_##ID##_VC: a = x; b = c; (void)a; (void)b; return da; \
    case OP_##ID##_CV: a = c; b = x; (void)a; (void)b; return db;
#include "ops.def"
    default: return NAN;
    }
}

/* Both partials of a SHAPE_AB row. */
static ALWAYS_INLINE void op_slopes(unsigned op, double a, double b, double y, double *pa, double *pb)
{
    (void)a; (void)b; (void)y;
    switch (op) {
#define BINARY(ID, name, alias, symbol, y_, da, db, ...) case OP_##ID: *pa = da; *pb = db; return;
#define LINKED(ID, name, symbol, y_, da, db) case OP_##ID: *pa = da; *pb = db; return;
#include "ops.def"
    default: *pa = *pb = NAN;
    }
}

/* -- blocks: n rows of one SHAPE_A op over consecutive operands -------------------------------------------------- */

static inline VECTORISED void op_block_value(unsigned op, double *y, const double *x, double c, size_t n)
{
    size_t i;
    (void)c;
    switch (op) {
#define UNARY(ID, name, ...) case OP_##ID: for (i = 0; i < n; i++) y[i] = value_##name(x[i]); return;
#define BINARY(ID, name, ...) case OP_##ID##_VC: for (i = 0; i < n; i++) y[i] = value_##name(x[i], c); return;
#include "ops.def"
    }
}

/* gx[i] += gy[i] * partial */
static inline VECTORISED void op_block_back(unsigned op, double *gx, const double *gy, const double *xs, double c,
                                            const double *ys, size_t n)
{
    size_t i;
    switch (op) {
#define UNARY(ID, name, alias, symbol, y_, da, ...) \
    case OP_##ID: \
        for (i = 0; i < n; i++) { double a = xs[i], y = ys[i]; (void)a; (void)y; gx[i] += gy[i] * (da); } \
        return;
#define BINARY(ID, name, alias, symbol, y_, da, ...) \
    case OP_##ID##_VC: \
        for (i = 0; i < n; i++) { double a = xs[i], b = c, y = ys[i]; (void)a; (void)b; (void)y; gx[i] += gy[i] * (da); } \
        return;
#include "ops.def"
    }
}

// clang-format on

/* -- errors ------------------------------------------------------------------------------------------------------ */

enum { ERROR_NONE, ERROR_VALUE, ERROR_OVERFLOW, ERROR_DIVISION };

enum { ERRORS_NONE, ERRORS_MATH, ERRORS_GROW, ERRORS_DIVIDE, ERRORS_RECIPROCAL, ERRORS_POWER, ERRORS_GAMMA };

static const uint8_t op_errors[OP_COUNT] = {
    0,
#define UNARY(ID, name, alias, symbol, y, da, errors, ...) ERRORS_##errors,
#define BINARY(ID, name, alias, symbol, y, da, db, errors, ...) ERRORS_##errors, ERRORS_##errors, ERRORS_##errors,
#define NARY(...) 0,
#define LINKED(...) 0,
#include "ops.def"
    0, 0, 0, 0, 0, 0,
};

/* Can a value of this op be an error? */
static inline int op_can_fail(unsigned op) { return op_errors[op] != ERRORS_NONE; }

/* Which exception Python's float or math raises where this op's value y is not finite. For one operand b is a. */
static inline int op_error(unsigned op, double a, double b, double y)
{
    int operands_finite = isfinite(a) && isfinite(b);
    int operands_nan = isnan(a) || isnan(b);
    switch (op_errors[op]) {
    case ERRORS_DIVIDE:     return b == 0 ? ERROR_DIVISION : ERROR_NONE;
    case ERRORS_RECIPROCAL: return a == 0 ? ERROR_DIVISION : ERROR_NONE;
    case ERRORS_POWER:
        if (a == 0 && b < 0 && isfinite(b)) return ERROR_DIVISION;
        if (isnan(y)) return operands_nan ? ERROR_NONE : ERROR_VALUE;
        return operands_finite ? ERROR_OVERFLOW : ERROR_NONE;
    case ERRORS_MATH:
        if (isnan(y)) return operands_nan ? ERROR_NONE : ERROR_VALUE;
        return operands_finite ? ERROR_VALUE : ERROR_NONE;
    case ERRORS_GROW:
        if (isnan(y)) return operands_nan ? ERROR_NONE : ERROR_VALUE;
        return operands_finite ? ERROR_OVERFLOW : ERROR_NONE;
    case ERRORS_GAMMA:
        if (isnan(y)) return operands_nan ? ERROR_NONE : ERROR_VALUE;
        if (!operands_finite) return ERROR_NONE;
        return a <= 0 && a == floor(a) ? ERROR_VALUE : ERROR_OVERFLOW;
    default: return ERROR_NONE;
    }
}

#ifndef OPS_NAMES /* who expands formulas too (kernels.c) keeps their names */
#undef mod
#undef floordiv
#undef hypot
#undef lgamma
#undef digamma
#undef trigamma
#undef polygamma
#undef gauss
#undef sigmoid
#undef square
#undef sign
#undef where
#endif

#endif
