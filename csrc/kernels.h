/* kernels.h: sums, dots and updates over contiguous doubles. Knows no tape, no op, no Python.
 *
 * Every sum follows one fixed tree, whatever the instruction set, so all builds give the same bits:
 *
 *   term i goes to lane i mod 8; a lane adds its terms from left to right, beginning with its first;
 *   the lanes are joined as ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7)); lanes without a term are left out of
 *   the count by being 0. Up to 2 terms this is Python's order.
 *
 * The kernels named in kernel_set_t exist twice (kernels_body.h: baseline and AVX2, no fused multiply-add in either);
 * `kernels` points at the set in use, chosen once by kernels_select.
 */
#ifndef MINGRAD_KERNELS_H
#define MINGRAD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; /* "base" or "avx2" */

    /* Sum of x[0..n). */
    double (*sum)(const double *x, size_t n);

    /* Sum of x[i] * y[i]. */
    double (*dot)(const double *x, const double *y, size_t n);

    /* y[i] += a * x[i]. */
    void (*axpy)(double *y, double a, const double *x, size_t n);

    /* A layer: y[j] = w[j*s + n] + dot(w + j*s, x) for j < rows, s = n + bias. Row j's bias follows its n weights; where
       bias is 0 (else 1) there is none. */
    void (*affine)(double *y, const double *w, const double *x, size_t n, size_t bias, size_t rows);

    /* Its adjoint for the weights: gw[j*s + i] += gy[j] * x[i], gw[j*s + n] += gy[j]. */
    void (*affine_back_w)(double *gw, const double *gy, const double *x, size_t n, size_t bias, size_t rows);

    /* And for the inputs, last row first: gx[i] += gy[j] * w[j*s + i]. */
    void (*affine_back_x)(double *gx, const double *gy, const double *w, size_t n, size_t bias, size_t rows);
} kernel_set_t;

extern const kernel_set_t *kernels;

/* Use the named set, or with NULL the best that this processor has. Returns 0, or -1 if it has not got it. */
int kernels_select(const char *name);

/* n-ary values, one per NARY row of ops.def. Empty ranges are the caller's to refuse where they have no value. */
double k_sum(const double *x, size_t n);
double k_mean(const double *x, size_t n);
double k_prod(const double *x, size_t n);   /* left to right */
double k_max(const double *x, size_t n);    /* nan if any is */
double k_min(const double *x, size_t n);
double k_logsumexp(const double *x, size_t n);
double k_sumexp(const double *x, size_t n); /* sum of exp(x - max) */
double k_norm(const double *x, size_t n);   /* Euclidean, scaled against overflow */
double k_mean_square(const double *x, size_t n);
double k_cross_entropy(const double *x, size_t n, size_t k); /* logsumexp - x[k] */
double k_count(const double *x, size_t n, double v); /* how many equal v */

#endif
