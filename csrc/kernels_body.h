/* kernels_body.h: the kernels that exist once per instruction set. kernels.c includes this file with TARGET (a function
 * attribute), KERNEL(name) (the name with a suffix) and KERNEL_NAME defined. The summation tree is in kernels.h. */

/* Terms 0 to 7 open the lanes, whole blocks of eight follow through vectors, the rest goes into the lanes one by one.
   LOAD_TERMS(i) is a vector of four terms from i on, TERM(i) one. */
#ifdef __GNUC__
#define TREE(LOAD_TERMS, TERM)                                                \
    double lane[8] = {0, 0, 0, 0, 0, 0, 0, 0};                                \
    size_t i = 0, k;                                                          \
    if (n >= 8) {                                                             \
        v4 lo = LOAD_TERMS(0), hi = LOAD_TERMS(4);                            \
        for (i = 8; i + 8 <= n; i += 8) {                                     \
            lo += LOAD_TERMS(i);                                              \
            hi += LOAD_TERMS(i + 4);                                          \
        }                                                                     \
        if (i == n) {                                                         \
            v4 s = lo + hi;                                                   \
            return (s[0] + s[2]) + (s[1] + s[3]);                             \
        }                                                                     \
        STORE(lane, lo);                                                      \
        STORE(lane + 4, hi);                                                  \
        for (k = 0; i < n; i++, k++) lane[k] += TERM(i);                      \
    } else {                                                                  \
        if (n <= 2) return n == 0 ? 0 : n == 1 ? TERM(0) : TERM(0) + TERM(1); \
        for (; i < n; i++) lane[i] = TERM(i);                                 \
    }                                                                         \
    return k_join(lane);

static TARGET double KERNEL(sum)(const double *x, size_t n)
{
#define TERM(i) x[i]
#define TERMS(i) LOAD(x + (i))
    TREE(TERMS, TERM)
#undef TERM
#undef TERMS
}

static TARGET inline double KERNEL(dot_inline)(const double *x, const double *y, size_t n)
{
#define TERM(i) x[i] * y[i]
#define TERMS(i) LOAD(x + (i)) * LOAD(y + (i))
    TREE(TERMS, TERM)
#undef TERM
#undef TERMS
}
#else
static TARGET double KERNEL(sum)(const double *x, size_t n) { return plain_sum(x, n); }

static TARGET inline double KERNEL(dot_inline)(const double *x, const double *y, size_t n) { return plain_dot(x, y, n); }
#endif

static TARGET double KERNEL(dot)(const double *x, const double *y, size_t n) { return KERNEL(dot_inline)(x, y, n); }

static TARGET inline void KERNEL(axpy_inline)(double *y, double a, const double *x, size_t n)
{
    size_t i = 0;
#ifdef __GNUC__
    for (; i + 4 <= n; i += 4) STORE(y + i, LOAD(y + i) + a * LOAD(x + i));
#endif
    for (; i < n; i++) y[i] += a * x[i];
}

static TARGET void KERNEL(axpy)(double *y, double a, const double *x, size_t n) { KERNEL(axpy_inline)(y, a, x, n); }

static TARGET void KERNEL(affine)(double *y, const double *w, const double *x, size_t n, size_t bias, size_t rows)
{
    size_t j;
    for (j = 0; j < rows; j++, w += n + bias) {
        double sum = KERNEL(dot_inline)(w, x, n);
        y[j] = bias ? w[n] + sum : sum;
    }
}

/* One sample: each row is one update. */
static TARGET void KERNEL(affine_back_w1)(double *gw, const double *gy, const double *x, size_t n, size_t bias, size_t rows)
{
    size_t j;
    for (j = 0; j < rows; j++, gw += n + bias) {
        KERNEL(axpy_inline)(gw, gy[j], x, n);
        if (bias) gw[n] += gy[j];
    }
}

/* Several: sums stay in registers over all samples, sixteen of one row at a time; where a row is short, four rows at a time. */
static TARGET void KERNEL(affine_back_w)(double *gw, const double *gy, const double *x, size_t n, size_t bias, size_t rows,
                                         size_t samples)
{
    size_t i = 0, j, k, stride = n + bias;
    if (samples == 1) {
        KERNEL(affine_back_w1)(gw, gy, x, n, bias, rows);
        return;
    }
#ifdef __GNUC__
    for (; i + 16 <= n; i += 16)
        for (j = 0; j < rows; j++) {
            double *row = gw + j * stride + i;
            v4 s0 = LOAD(row), s1 = LOAD(row + 4), s2 = LOAD(row + 8), s3 = LOAD(row + 12);
            for (k = samples; k-- > 0;) {
                double g = gy[k * rows + j];
                const double *xk = x + k * n + i;
                s0 += g * LOAD(xk);
                s1 += g * LOAD(xk + 4);
                s2 += g * LOAD(xk + 8);
                s3 += g * LOAD(xk + 12);
            }
            STORE(row, s0);
            STORE(row + 4, s1);
            STORE(row + 8, s2);
            STORE(row + 12, s3);
        }
#endif
    for (; i < stride; i++) { /* what is left of each row; behind the weights the bias, whose input is 1 */
        j = 0;
#ifdef __GNUC__
        for (; j + 4 <= rows; j += 4) {
            double *at = gw + j * stride + i;
            v4 s = {at[0], at[stride], at[2 * stride], at[3 * stride]};
            if (i < n)
                for (k = samples; k-- > 0;) s += x[k * n + i] * LOAD(gy + k * rows + j);
            else
                for (k = samples; k-- > 0;) s += LOAD(gy + k * rows + j);
            at[0] = s[0];
            at[stride] = s[1];
            at[2 * stride] = s[2];
            at[3 * stride] = s[3];
        }
#endif
        for (; j < rows; j++) {
            double s = gw[j * stride + i];
            for (k = samples; k-- > 0;) s += i < n ? gy[k * rows + j] * x[k * n + i] : gy[k * rows + j];
            gw[j * stride + i] = s;
        }
    }
}

static TARGET void KERNEL(affine_back_x)(double *gx, const double *gy, const double *w, size_t n, size_t bias, size_t rows)
{
    size_t i = 0, j, stride = n + bias;
#ifdef __GNUC__
    for (; i + 16 <= n; i += 16) { /* sixteen sums at a time stay in registers over all rows */
        const double *row = w + rows * stride + i;
        v4 s0 = LOAD(gx + i), s1 = LOAD(gx + i + 4), s2 = LOAD(gx + i + 8), s3 = LOAD(gx + i + 12);
        for (j = rows; j-- > 0;) {
            double g = gy[j];
            row -= stride;
            s0 += g * LOAD(row);
            s1 += g * LOAD(row + 4);
            s2 += g * LOAD(row + 8);
            s3 += g * LOAD(row + 12);
        }
        STORE(gx + i, s0);
        STORE(gx + i + 4, s1);
        STORE(gx + i + 8, s2);
        STORE(gx + i + 12, s3);
    }
#endif
    if (i < n)
        for (j = rows; j-- > 0;) KERNEL(axpy_inline)(gx + i, gy[j], w + j * stride + i, n - i);
}

/* The loops below are for the compiler to vectorise: a vector of v4 has no square root. Conditions on what is the same for
   all i it takes out of the loop. */

static TARGET void KERNEL(combine)(double *RESTRICT y, double a, const double *RESTRICT x, double b, const double *RESTRICT z,
                                   size_t n)
{
    size_t i;
    if (b == 0)
        for (i = 0; i < n; i++) y[i] = a * x[i];
    else
        for (i = 0; i < n; i++) y[i] = a * x[i] + b * z[i];
}

static TARGET void KERNEL(sgd)(double *RESTRICT p, double *RESTRICT b, const double *RESTRICT g, double keep, double gain,
                               double ahead, double rate, size_t n)
{
    size_t i;
    if (ahead == 0)
        for (i = 0; i < n; i++) {
            b[i] = keep * b[i] + gain * g[i];
            p[i] -= rate * b[i];
        }
    else
        for (i = 0; i < n; i++) {
            b[i] = keep * b[i] + gain * g[i];
            p[i] -= rate * (g[i] + ahead * b[i]);
        }
}

/* From a to b by the part w, counted from the nearer end: exact for w = 1 and, once infinite, nan as in PyTorch. */
static TARGET inline double KERNEL(lerp)(double a, double b, double w)
{
    return w < 0.5 ? a + w * (b - a) : b - (1 - w) * (b - a);
}

static TARGET void KERNEL(adam)(double *RESTRICT p, double *RESTRICT m, double *RESTRICT v, double *RESTRICT top,
                                const double *RESTRICT g, const adam_t *s, size_t n)
{
    const double keep = s->keep, rate = s->rate, scale = s->scale, eps = s->eps;
    const double w1 = 1 - s->beta1, beta2 = s->beta2, w2 = 1 - s->beta2;
    size_t i;
    if (top == NULL)
        for (i = 0; i < n; i++) {
            m[i] = KERNEL(lerp)(m[i], g[i], w1);
            v[i] = beta2 * v[i] + w2 * g[i] * g[i];
            p[i] = p[i] * keep - rate * m[i] / (sqrt(v[i]) * scale + eps);
        }
    else
        for (i = 0; i < n; i++) {
            m[i] = KERNEL(lerp)(m[i], g[i], w1);
            v[i] = beta2 * v[i] + w2 * g[i] * g[i];
            top[i] = v[i] <= top[i] ? top[i] : v[i]; /* nan stays */
            p[i] = p[i] * keep - rate * m[i] / (sqrt(top[i]) * scale + eps);
        }
}

static TARGET inline double KERNEL(centered)(double v, double m)
{
    double w = v - m * m;
    return w < 0 ? 0 : w;
}

static TARGET void KERNEL(rmsprop)(double *RESTRICT p, double *RESTRICT v, double *RESTRICT m, double *RESTRICT b,
                                   const double *RESTRICT g, const rmsprop_t *s, size_t n)
{
    const double rate = s->rate, alpha = s->alpha, w = 1 - s->alpha, eps = s->eps, momentum = s->momentum;
    size_t i;
#define SECOND v[i] = alpha * v[i] + w * g[i] * g[i]
#define FIRST m[i] = KERNEL(lerp)(m[i], g[i], w)
#define PLAIN (sqrt(v[i]) + eps)
#define CENTERED (sqrt(KERNEL(centered)(v[i], m[i])) + eps)
    if (m == NULL && b == NULL)
        for (i = 0; i < n; i++) {
            SECOND;
            p[i] -= rate * g[i] / PLAIN;
        }
    else if (b == NULL)
        for (i = 0; i < n; i++) {
            SECOND;
            FIRST;
            p[i] -= rate * g[i] / CENTERED;
        }
    else if (m == NULL)
        for (i = 0; i < n; i++) {
            SECOND;
            b[i] = momentum * b[i] + g[i] / PLAIN;
            p[i] -= rate * b[i];
        }
    else
        for (i = 0; i < n; i++) {
            SECOND;
            FIRST;
            b[i] = momentum * b[i] + g[i] / CENTERED;
            p[i] -= rate * b[i];
        }
#undef SECOND
#undef FIRST
#undef PLAIN
#undef CENTERED
}

#include "steps_body.h"

static const kernel_set_t KERNEL(set) = {
    KERNEL_NAME,           KERNEL(sum),           KERNEL(dot),      KERNEL(axpy), KERNEL(affine),
    KERNEL(affine_back_w), KERNEL(affine_back_x), KERNEL(combine),  KERNEL(sgd),  KERNEL(adam),
    KERNEL(rmsprop),       KERNEL(run_steps),     KERNEL(run_rows),
};

#undef TREE
