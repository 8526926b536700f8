/* kernels.h: sums, dots, updates and optimisers' steps over contiguous doubles. Knows no tape, no op, no Python.
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
#include "steps.h"

/* What Adam and RMSprop do in one step, as numbers that do not depend on the parameter. lerp(m, g, w) is m + w (g - m). */
typedef struct {
    double keep;         /* p *= keep first: 1, or 1 - lr * weight_decay where that is decoupled */
    double rate;         /* how far to go */
    double beta1, beta2; /* m = lerp(m, g, 1 - beta1); v = beta2 v + (1 - beta2) g g */
    double scale, eps;   /* the divisor: sqrt(v) scale + eps */
} adam_t;

typedef struct {
    double rate, alpha, eps, momentum;
} rmsprop_t;

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

    /* Its adjoint for the weights: gw[j*s + i] += gy[j] * x[i], gw[j*s + n] += gy[j]; of several samples, one's gy and x
       behind the other's, the last sample first. */
    void (*affine_back_w)(double *gw, const double *gy, const double *x, size_t n, size_t bias, size_t rows, size_t samples);

    /* And for the inputs, last row first: gx[i] += gy[j] * w[j*s + i]. */
    void (*affine_back_x)(double *gx, const double *gy, const double *w, size_t n, size_t bias, size_t rows);

    /* y[i] = a * x[i], and where b is not 0: y[i] = a * x[i] + b * z[i]. */
    void (*combine)(double *y, double a, const double *x, double b, const double *z, size_t n);

    /* Optimisers' steps on parameters p with gradients g. Nothing overlaps.
       sgd: b = keep b + gain g; p -= rate (ahead is 0 ? b : g + ahead b). */
    void (*sgd)(double *p, double *b, const double *g, double keep, double gain, double ahead, double rate, size_t n);

    /* Adam, with top not NULL AMSGrad: top is the largest v so far and stands in its place in the divisor. */
    void (*adam)(double *p, double *m, double *v, double *top, const double *g, const adam_t *s, size_t n);

    /* v = alpha v + (1 - alpha) g g; q = g / (sqrt(v) + eps). With m not NULL centered: m = lerp(m, g, 1 - alpha), and
       v - m m stands for v, or 0 where rounding made it negative. With b not NULL: b = momentum b + q stands for q.
       p -= rate q. */
    void (*rmsprop)(double *p, double *v, double *m, double *b, const double *g, const rmsprop_t *s, size_t n);

    /* Run a program's steps on its values v; steps_body.h. */
    int (*run_steps)(const step_t *s, size_t count, double *v, const uint32_t *index, double *room, int check, int fast);
    void (*run_rows)(const step_t *s, size_t count, double *v, const uint32_t *index, double *room, uint32_t block, uint32_t n,
                     int exact);
} kernel_set_t;

extern const kernel_set_t *kernels;

/* Use the named set, or with NULL the best that this processor has. Returns 0, or -1 if it has not got it. */
int kernels_select(const char *name);

/* n-ary values, one per NARY row of ops.def, most of them in portable.h. Empty ranges are the caller's to refuse where they
   have no value. */
double k_sum(const double *x, size_t n);
double k_dot(const double *x, const double *y, size_t n);
double k_mean(const double *x, size_t n);
double k_prod(const double *x, size_t n); /* left to right */
double k_max(const double *x, size_t n);  /* nan if any is */
double k_min(const double *x, size_t n);
double k_logsumexp(const double *x, size_t n);
double k_sumexp(const double *x, size_t n); /* sum of exp(x - max) */
double k_norm(const double *x, size_t n);   /* Euclidean, scaled against overflow */
double k_mean_square(const double *x, size_t n);
double k_cross_entropy(const double *x, size_t n, size_t k); /* logsumexp - x[k] */
double k_count(const double *x, size_t n, double v);         /* how many equal v */

#endif
