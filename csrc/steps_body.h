/* steps_body.h: running steps (steps.h), once per instruction set: included by kernels.c as kernels_body.h is. */

/* The operands first to first + n of a step, side by side: where they stand, or gathered into room. */
static TARGET inline const double *KERNEL(operands)(double *room, const double *v, const uint32_t *index, int where, uint32_t at,
                                                    uint32_t first, uint32_t n)
{
    uint32_t i;
    if (where == WHERE_RUN) return v + at + first;
    if (where == WHERE_SAME) {
        for (i = 0; i < n; i++) room[i] = v[at];
        return room;
    }
    index += at + first;
    for (i = 0; i < n; i++) room[i] = v[index[i]];
    return room;
}

/* A run of c + a * b, where c may be y itself; without c, of a * b. Sums of products are made of these. */
static TARGET inline void KERNEL(product_run)(double *RESTRICT y, const double *RESTRICT a, ptrdiff_t sa, const double *RESTRICT b,
                                              ptrdiff_t sb, const double *c, ptrdiff_t sc, ptrdiff_t n)
{
    ptrdiff_t i;
    const double a0 = *a, b0 = *b;
#define EACH(x, z)                                                              \
    {                                                                           \
        if (c == y) for (i = 0; i < n; i++) y[i] = y[i] + (x) * (z);            \
        else if (c == NULL) for (i = 0; i < n; i++) y[i] = (x) * (z);           \
        else for (i = 0; i < n; i++) y[i] = c[i * sc] + (x) * (z);              \
    }
    if (sa == 0 && sb == 1) EACH(a0, b[i])
    else if (sa == 1 && sb == 0) EACH(a[i], b0)
    else if (sa == 1 && sb == 1) EACH(a[i], b[i])
    else if (sa == 0) EACH(a0, b[i * sb])
    else if (sb == 0) EACH(a[i * sa], b0)
    else EACH(a[i * sa], b[i * sb])
#undef EACH
}

static TARGET void KERNEL(products)(const step_t *s, double *v, const uint32_t *index)
{
    uint32_t first, r = 0;
    int runs = s->a_where == WHERE_RUNS;
    for (first = 0; first < s->n; first += runs ? s->run : s->n, r++) {
        const double *c = s->kind == STEP_MULADD ? v + (runs ? index[s->c + r] : s->c) : NULL;
        KERNEL(product_run)(v + s->y + first, v + (runs ? index[s->a + r] : s->a), s->a_stride, v + (runs ? index[s->b + r] : s->b),
                            s->b_stride, c, s->c_stride, runs ? s->run : s->n);
    }
}

/* y[0..n) = op of a[0..n) and b[0..n). */
static TARGET void KERNEL(step_block)(unsigned op, double *RESTRICT y, const double *a, const double *b, uint32_t n)
{
    uint32_t i;
    switch (op) {
#define UNARY(ID, name, ...) case OP_##ID: for (i = 0; i < n; i++) y[i] = value_##name(a[i]); return;
#define BINARY(ID, name, ...) case OP_##ID: for (i = 0; i < n; i++) y[i] = value_##name(a[i], b[i]); return;
#include "ops.def"
    }
}

/* The same for partials; c: the ops' values. */
static TARGET void KERNEL(step_slopes)(unsigned op, int second, double *RESTRICT p, const double *as, const double *bs,
                                       const double *ys, uint32_t n)
{
    uint32_t i;
#define EACH(slope) for (i = 0; i < n; i++) { double a = as[i], b = bs[i], y = ys[i]; (void)a; (void)b; (void)y; p[i] = slope; } return;
    switch (op) {
#define UNARY(ID, name, alias, symbol, y_, da, ...) case OP_##ID: EACH(da)
#define BINARY(ID, name, alias, symbol, y_, da, db, ...) case OP_##ID: if (second) { EACH(db) } else { EACH(da) }
#define LINKED(ID, name, symbol, y_, da, db) case OP_##ID: if (second) { EACH(db) } else { EACH(da) }
#include "ops.def"
    }
#undef EACH
}

/* One result of an op over a range, or softmax's. room: for all its operands. */
static TARGET void KERNEL(step_range)(const step_t *s, double *v, const uint32_t *index, double *room)
{
    const double *a, *b;
    if (s->kind == STEP_SLOPE_N) {
        v[s->y] = op_slope_n(s->op, v[s->a], s->i, v[s->b], s->count, s->k, v[s->c]);
        return;
    }
    if (s->op == OP_SOFTMAX) {
        v[s->y] = value_softmax(v[s->a], v[s->c], v[s->b]);
        return;
    }
    a = KERNEL(operands)(room, v, index, s->a_where, s->a, 0, s->n);
    if (s->op == OP_DOT || s->op == OP_AFFINE) {
        b = KERNEL(operands)(room + s->n, v, index, s->b_where, s->b, 0, s->n);
        v[s->y] = KERNEL(dot)(a, b, s->n);
        if (s->op == OP_AFFINE) v[s->y] = v[s->c] + v[s->y];
        return;
    }
    v[s->y] = s->kind == STEP_AUX ? op_aux(s->op, a, s->n, s->k, v[s->c]) : op_value_n(s->op, a, s->n, s->k);
}

/* Is this a step of several results side by side? */
static TARGET inline int KERNEL(is_wide)(const step_t *s)
{
    return s->kind == STEP_SLOPE_A || s->kind == STEP_SLOPE_B || s->kind == STEP_MULADD ||
           (s->kind == STEP_VALUE && (op_shape[s->op] == SHAPE_A || (op_shape[s->op] == SHAPE_AB && s->op != OP_SOFTMAX)));
}

/* Run the steps on v. room: as many doubles as the longest range has operands (of a pair: both). Returns whether some value of
   an op that can fail is not finite; with check 0 nobody looks. */
static TARGET int KERNEL(run_steps)(const step_t *s, size_t count, double *v, const uint32_t *index, double *room, int check)
{
    double ta[STEP_CHUNK], tb[STEP_CHUNK], tc[STEP_CHUNK], bad = 0;
    const step_t *end = s + count;
    for (; s < end; s++) {
        uint32_t first, n, i;
        int wide = KERNEL(is_wide)(s);
        if (!wide) {
            KERNEL(step_range)(s, v, index, room);
        } else if (s->kind == STEP_MULADD || (s->op == OP_MUL && s->kind == STEP_VALUE && s->n > 1 && s->a_where != WHERE_LISTED && s->b_where != WHERE_LISTED)) {
            if (s->a_where != WHERE_LISTED && s->b_where != WHERE_LISTED && s->c_where != WHERE_LISTED) {
                KERNEL(products)(s, v, index);
            } else {
                for (i = 0; i < s->n; i++)
                    v[s->y + i] = v[s->c_where == WHERE_LISTED ? index[s->c + i] : s->c + s->c_stride * i] +
                                  v[s->a_where == WHERE_LISTED ? index[s->a + i] : s->a + s->a_stride * i] *
                                  v[s->b_where == WHERE_LISTED ? index[s->b + i] : s->b + s->b_stride * i];
            }
        } else if (s->n == 1 && s->kind == STEP_VALUE) {
            double a = v[s->a];
            v[s->y] = op_shape[s->op] == SHAPE_A ? op_value1(s->op, a, 0) : op_value2(s->op, a, v[s->b]);
        } else {
            for (first = 0; first < s->n; first += n) {
                const double *a, *b = NULL;
                n = s->n - first < STEP_CHUNK ? s->n - first : STEP_CHUNK;
                a = KERNEL(operands)(ta, v, index, s->a_where, s->a, first, n);
                if (s->kind != STEP_VALUE || op_shape[s->op] == SHAPE_AB)
                    b = KERNEL(operands)(tb, v, index, s->b_where, s->b, first, n);
                if (s->kind == STEP_VALUE)
                    KERNEL(step_block)(s->op, v + s->y + first, a, b, n);
                else
                    KERNEL(step_slopes)(s->op, s->kind == STEP_SLOPE_B, v + s->y + first, a, b,
                                        KERNEL(operands)(tc, v, index, s->c_where, s->c, first, n), n);
            }
        }
        if (check && op_can_fail(s->op)) {
            n = wide ? s->n : 1;
            for (i = 0; i < n; i++) bad += v[s->y + i] - v[s->y + i];
        }
    }
    return bad != 0;
}

/* What vector.h has for a step; 0: nothing. */
static TARGET int KERNEL(step_vector)(const step_t *s, double *y, const double *a, const double *b, uint32_t n)
{
    uint32_t i;
    if (s->kind == STEP_SLOPE_A && (s->op == OP_ERF || s->op == OP_ERFC)) {
        const double scale = s->op == OP_ERF ? TWO_INV_SQRTPI : -TWO_INV_SQRTPI;
        vec_gauss(y, a, n);
        for (i = 0; i < n; i++) y[i] *= scale;
        return 1;
    }
    if (s->kind != STEP_VALUE) return 0;
    switch (s->op) {
#define VECTOR(ID, name) case OP_##ID: vec_##name(y, a, n); return 1;
    VECTOR(EXP, exp) VECTOR(EXP2, exp2) VECTOR(EXPM1, expm1) VECTOR(LOG, log) VECTOR(LOG2, log2) VECTOR(LOG10, log10)
    VECTOR(LOG1P, log1p) VECTOR(CBRT, cbrt) VECTOR(SIN, sin) VECTOR(COS, cos) VECTOR(TAN, tan) VECTOR(SINH, sinh)
    VECTOR(COSH, cosh) VECTOR(TANH, tanh) VECTOR(SIGMOID, sigmoid) VECTOR(SOFTPLUS, softplus) VECTOR(ERF, erf) VECTOR(ERFC, erfc)
#undef VECTOR
    case OP_POW: vec_pow(y, a, b, n); return 1;
    default: return 0;
    }
}

/* Run steps that compute one value each for n rows; a register of v has room for `block` of them. exact: with libm's functions,
   whose bits eager ops have, instead of vector.h's. */
static TARGET void KERNEL(run_rows)(const step_t *s, size_t count, double *v, const uint32_t *index, double *room, uint32_t block,
                                    uint32_t n, int exact)
{
    const step_t *end = s + count;
    step_t one;
    for (; s < end; s++) {
        double *y = v + (size_t)s->y * block;
        const double *a = v + (size_t)s->a * block, *b = v + (size_t)s->b * block, *c = v + (size_t)s->c * block;
        uint32_t i, j;
        if (!exact && KERNEL(step_vector)(s, y, a, b, n)) continue;
        if (s->kind == STEP_MULADD) {
            for (i = 0; i < n; i++) y[i] = c[i] + a[i] * b[i];
        } else if (s->kind == STEP_SLOPE_A || s->kind == STEP_SLOPE_B) {
            KERNEL(step_slopes)(s->op, s->kind == STEP_SLOPE_B, y, a, b, c, n);
        } else if (KERNEL(is_wide)(s)) {
            KERNEL(step_block)(s->op, y, a, b, n);
        } else if (s->kind == STEP_SLOPE_N) {
            for (i = 0; i < n; i++) y[i] = op_slope_n(s->op, a[i], s->i, b[i], s->count, s->k, c[i]);
        } else if (s->op == OP_SOFTMAX) {
            for (i = 0; i < n; i++) y[i] = value_softmax(a[i], c[i], b[i]);
        } else { /* a range, row by row */
            double *at = room + 2 * s->n;
            uint32_t operands = s->op == OP_DOT || s->op == OP_AFFINE ? 2 * s->n : s->n;
            one = *s;
            one.a_where = one.b_where = WHERE_RUN;
            one.a = 0;
            one.b = s->n;
            one.c = operands;
            one.y = operands + 1;
            for (i = 0; i < n; i++) {
                for (j = 0; j < operands; j++) room[j] = v[(size_t)index[s->a + j] * block + i];
                room[operands] = c[i];
                KERNEL(step_range)(&one, room, index, at);
                y[i] = room[operands + 1];
            }
        }
    }
}
