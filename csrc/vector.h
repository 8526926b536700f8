/* vector.h: exp, log, sin and the like over contiguous doubles. Knows no tape, no op, no Python.
 *
 *   vec_exp(y, x, n)       y[i] = exp(x[i]) for i < n, and so for every name in VECTOR_FUNCTIONS
 *   vec_pow(z, x, y, n)    z[i] = pow(x[i], y[i])
 *
 * The result may take an operand's place; else nothing overlaps. Special values (infinities, nan, signed zeros, poles,
 * overflow, subnormal numbers) are those of C99's Annex F; errno and the floating-point flags mean nothing. Errors are below
 * two units in the last place everywhere, below one for most functions: csrc/README.md has the table. A result's bits depend
 * on the operand only: not on its place, its neighbours, n, or the instruction set. Angles from 25,735 on, and powers with an
 * operand that is infinite or nan or an exponent from 2**51 on, go to libm and have its bits.
 */
#ifndef MINGRAD_VECTOR_H
#define MINGRAD_VECTOR_H

#include <stddef.h>

/* By how they run: in one loop; in one loop, with libm for large angles; in two loops. */
// clang-format off
#define VECTOR_FUNCTIONS(ONE, ANGLE, TWO)                                                                         \
    ONE(exp) ONE(exp2) ONE(expm1) ONE(log) ONE(log2) ONE(log10) ONE(log1p) ONE(sqrt) ONE(cbrt)                    \
    ANGLE(sin) ANGLE(cos) ANGLE(tan) ONE(sinh) ONE(cosh) ONE(tanh) ONE(sigmoid) TWO(softplus)                     \
    ONE(erf) ONE(erfc) ONE(gauss) ONE(normal_cdf) ONE(normal_pdf)
// clang-format on

#define DECLARE(name) void vec_##name(double *y, const double *x, size_t n);
VECTOR_FUNCTIONS(DECLARE, DECLARE, DECLARE)
#undef DECLARE
void vec_pow(double *z, const double *x, const double *y, size_t n);

/* {"exp", vec_exp} and so on for the functions of one operand; the last name is NULL. */
typedef struct {
    const char *name;
    void (*function)(double *y, const double *x, size_t n);
} vector_entry_t;
extern const vector_entry_t vector_table[];

/* Called by kernels_select: loops for AVX2 (1), or for any processor (0). Both give the same bits. */
void vec_select(int avx2);

#endif
