/* kernels_body.h: the kernels that exist once per instruction set. kernels.c includes this file with TARGET (a function
 * attribute), KERNEL(name) (the name with a suffix) and KERNEL_NAME defined. The summation tree is in kernels.h. */

static TARGET inline double KERNEL(join)(const double *s)
{
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* Terms 0 to 7 open the lanes, whole blocks of eight follow through vectors, the rest goes into the lanes one by one.
   LOAD_TERMS(i) is a vector of four terms from i on, TERM(i) one. */
#ifdef __GNUC__
#define TREE(LOAD_TERMS, TERM)                                                      \
    double lane[8] = {0, 0, 0, 0, 0, 0, 0, 0};                                      \
    size_t i = 0, k;                                                                \
    if (n >= 8) {                                                                   \
        v4 lo = LOAD_TERMS(0), hi = LOAD_TERMS(4);                                  \
        for (i = 8; i + 8 <= n; i += 8) { lo += LOAD_TERMS(i); hi += LOAD_TERMS(i + 4); } \
        if (i == n) {                                                               \
            v4 s = lo + hi;                                                         \
            return (s[0] + s[2]) + (s[1] + s[3]);                                   \
        }                                                                           \
        STORE(lane, lo);                                                            \
        STORE(lane + 4, hi);                                                        \
        for (k = 0; i < n; i++, k++) lane[k] += TERM(i);                            \
    } else {                                                                        \
        if (n <= 2) return n == 0 ? 0 : n == 1 ? TERM(0) : TERM(0) + TERM(1);       \
        for (; i < n; i++) lane[i] = TERM(i);                                       \
    }                                                                               \
    return KERNEL(join)(lane);
#else
#define TREE(LOAD_TERMS, TERM)                                                      \
    double lane[8] = {0, 0, 0, 0, 0, 0, 0, 0};                                      \
    size_t i;                                                                       \
    if (n <= 2) return n == 0 ? 0 : n == 1 ? TERM(0) : TERM(0) + TERM(1);           \
    for (i = 0; i < n && i < 8; i++) lane[i] = TERM(i);                             \
    for (; i < n; i++) lane[i & 7] += TERM(i);                                      \
    return KERNEL(join)(lane);
#endif

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

static TARGET double KERNEL(dot)(const double *x, const double *y, size_t n)
{
    return KERNEL(dot_inline)(x, y, n);
}

static TARGET inline void KERNEL(axpy_inline)(double *y, double a, const double *x, size_t n)
{
    size_t i = 0;
#ifdef __GNUC__
    for (; i + 4 <= n; i += 4) STORE(y + i, LOAD(y + i) + a * LOAD(x + i));
#endif
    for (; i < n; i++) y[i] += a * x[i];
}

static TARGET void KERNEL(axpy)(double *y, double a, const double *x, size_t n)
{
    KERNEL(axpy_inline)(y, a, x, n);
}

static TARGET void KERNEL(affine)(double *y, const double *w, const double *x, size_t n, size_t rows)
{
    size_t j;
    for (j = 0; j < rows; j++, w += n + 1) y[j] = w[n] + KERNEL(dot_inline)(w, x, n);
}

/* Columns [from, from + 16) of affine_back: what all rows share stays in registers. */
#ifdef __GNUC__
static TARGET inline void KERNEL(affine_back_16)(double *gw, double *gx, const double *gy, const double *w,
                                                 const double *x, size_t stride, size_t rows)
{
    v4 x0 = LOAD(x), x1 = LOAD(x + 4), x2 = LOAD(x + 8), x3 = LOAD(x + 12);
    v4 s0 = LOAD(gx), s1 = LOAD(gx + 4), s2 = LOAD(gx + 8), s3 = LOAD(gx + 12);
    size_t j = rows;
    gw += rows * stride;
    w += rows * stride;
    while (j-- > 0) {
        double g = gy[j];
        gw -= stride;
        w -= stride;
        STORE(gw, LOAD(gw) + g * x0);
        STORE(gw + 4, LOAD(gw + 4) + g * x1);
        STORE(gw + 8, LOAD(gw + 8) + g * x2);
        STORE(gw + 12, LOAD(gw + 12) + g * x3);
        s0 += g * LOAD(w);
        s1 += g * LOAD(w + 4);
        s2 += g * LOAD(w + 8);
        s3 += g * LOAD(w + 12);
    }
    STORE(gx, s0);
    STORE(gx + 4, s1);
    STORE(gx + 8, s2);
    STORE(gx + 12, s3);
}
#endif

static TARGET void KERNEL(affine_back)(double *gw, double *gx, const double *gy, const double *w, const double *x,
                                       size_t n, size_t rows)
{
    size_t i = 0, k, j = rows, stride = n + 1;
#ifdef __GNUC__
    if (gx) /* the runs must not overlap, or registers would hide what the other wrote */
        for (; i + 16 <= n && (gx + n <= gw || gx >= gw + rows * stride); i += 16)
            KERNEL(affine_back_16)(gw + i, gx + i, gy, w + i, x + i, stride, rows);
#endif
    gw += rows * stride;
    w += rows * stride;
    while (j-- > 0) {
        double g = gy[j];
        gw -= stride;
        w -= stride;
        gw[n] += g;
        if (i == n) continue;
        KERNEL(axpy_inline)(gw + i, g, x + i, n - i);
        if (gx)
            for (k = i; k < n; k++) gx[k] += g * w[k];
    }
}

static const kernel_set_t KERNEL(set) = {
    KERNEL_NAME, KERNEL(sum), KERNEL(dot), KERNEL(axpy), KERNEL(affine), KERNEL(affine_back),
};

#undef TREE
