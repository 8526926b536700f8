/* steps_body.h: running steps (steps.h), once per instruction set: included by kernels.c as kernels_body.h is. */

/* The operands first to first + n of a step, side by side: where they stand, or gathered into room. */
static TARGET inline const double *KERNEL(operands)(double *room, const double *v, const uint32_t *index, int where,
                                                    uint32_t at, uint32_t first, uint32_t n)
{
    uint32_t i;
    if (where == WHERE_RUN) return v + at + first;
    if (where == WHERE_SAME) {
        double x = v[at];
        for (i = 0; i < n; i++) room[i] = x;
        return room;
    }
    index += at + first;
    for (i = 0; i < n; i++) room[i] = v[index[i]];
    return room;
}

/* n results of a chain side by side: y = c + sum of a * b over the links, b NULL: of a, c NULL: without c. Link k has its operands
   from v[ia[k] * scale] and v[ib[k] * scale] on. Sixteen sums at a time stay in registers over all links. */
static TARGET inline void KERNEL(chain_run)(double *RESTRICT y, const double *c, ptrdiff_t sc, const double *v, size_t scale,
                                            const uint32_t *ia, ptrdiff_t sa, const uint32_t *ib, ptrdiff_t sb, uint32_t links,
                                            uint32_t n)
{
    uint32_t i = 0, j, k, m;
#ifdef __GNUC__
    // clang-format off: operators as macro arguments
#define FOUR(x, p, s)                                                                         \
    {                                                                                         \
        const double *p_ = p;                                                                 \
        if ((s) == 1) x = LOAD(p_);                                                           \
        else if ((s) == 0) x = (v4){*p_, *p_, *p_, *p_};                                      \
        else x = (v4){p_[0], p_[s], p_[2 * (s)], p_[3 * (s)]};                                \
    }
#define PRODUCTS(width, sa, sb, operation)                                                    \
    for (j = 0; j < width; j++) {                                                             \
        FOUR(x, v + ia[k] * scale + (i + 4 * j) * (sa), sa)                                   \
        FOUR(z, v + ib[k] * scale + (i + 4 * j) * (sb), sb)                                   \
        sum[j] operation x * z;                                                               \
    }
#define SUMS(width, sa, sb)                                                                   \
    for (; i + 4 * width <= n; i += 4 * width) {                                              \
        v4 sum[width], x, z;                                                                  \
        k = 0;                                                                                \
        if (c) {                                                                              \
            for (j = 0; j < width; j++) FOUR(sum[j], c + (i + 4 * j) * sc, sc)                \
        } else {                                                                              \
            PRODUCTS(width, sa, sb, =)                                                        \
            k = 1;                                                                            \
        }                                                                                     \
        if (ib) {                                                                             \
            for (; k < links; k++) PRODUCTS(width, sa, sb, +=)                                \
        } else {                                                                              \
            for (; k < links; k++)                                                            \
                for (j = 0; j < width; j++) { FOUR(x, v + ia[k] * scale + (i + 4 * j) * (sa), sa) sum[j] += x; } \
        }                                                                                     \
        for (j = 0; j < width; j++) STORE(y + i + 4 * j, sum[j]);                             \
    }
#define EACH(sa, sb) { SUMS(4, sa, sb) SUMS(1, sa, sb) }
    if (sa == 0 && sb == 1) EACH((ptrdiff_t)0, (ptrdiff_t)1)
    else if (sa == 1 && sb == 0) EACH((ptrdiff_t)1, (ptrdiff_t)0)
    else if (sa == 1 && sb == 1) EACH((ptrdiff_t)1, (ptrdiff_t)1)
    else if (sa == 0) EACH((ptrdiff_t)0, sb)
    else if (sb == 0) EACH(sa, (ptrdiff_t)0)
    else EACH(sa, sb)
    // clang-format on
#undef EACH
#undef SUMS
#undef PRODUCTS
#undef FOUR
#endif
    for (; i < n; i += m) {
        double s[4];
        m = n - i < 4 ? n - i : 4;
        for (j = 0; j < m; j++) s[j] = c ? c[(i + j) * sc] : v[ia[0] * scale + (i + j) * sa] * v[ib[0] * scale + (i + j) * sb];
        for (k = !c; k < links; k++) {
            const double *a = v + ia[k] * scale + i * sa, *b = ib ? v + ib[k] * scale + i * sb : NULL;
            for (j = 0; j < m; j++) s[j] += b ? a[j * sa] * b[j * sb] : a[j * sa];
        }
        for (j = 0; j < m; j++) y[i + j] = s[j];
    }
}

static TARGET void KERNEL(chains)(const step_t *s, double *v, const uint32_t *index)
{
    uint32_t first, r = 0, i, k, links = s->count;
    const uint32_t *ia = index + s->a, *ib = s->op == OP_MUL ? index + s->b : NULL;
    if (s->a_where == WHERE_RUN) { /* one result of one product */
        v[s->y] = v[s->c] + v[s->a] * v[s->b];
    } else if (s->a_where == WHERE_RUNS) {
        for (first = 0; first < s->n; first += s->run, r++, ia += links) {
            KERNEL(chain_run)(v + s->y + first, s->c_where == WHERE_NONE ? NULL : v + index[s->c + r], s->c_stride, v, 1, ia,
                              s->a_stride, ib, s->b_stride, links, s->run);
            if (ib) ib += links;
        }
    } else {
        for (i = 0; i < s->n; i++, ia += links) {
            double sum = s->c_where == WHERE_NONE ? v[ia[0]] * v[ib[0]] : v[index[s->c + i]];
            k = s->c_where == WHERE_NONE;
            if (ib) {
                for (; k < links; k++) sum += v[ia[k]] * v[ib[k]];
                ib += links;
            } else {
                for (; k < links; k++) sum += v[ia[k]];
            }
            v[s->y + i] = sum;
        }
    }
}

/* Whether x[0..n) are all 2. */
static TARGET int KERNEL(all_two)(const double *x, uint32_t n)
{
    double off = 0;
    uint32_t i;
    for (i = 0; i < n; i++) off = x[i] == 2 ? off : 1;
    return off == 0;
}

/* Whether some of x[0..n) is infinite or no number. */
static TARGET int KERNEL(any_not_finite)(const double *x, uint32_t n)
{
    uint64_t found = 0, bits;
    double zero;
    uint32_t i;
    for (i = 0; i < n; i++) {
        zero = x[i] - x[i];
        memcpy(&bits, &zero, sizeof bits);
        found |= bits;
    }
    return found != 0;
}

/* y[0..n) = pow(a[0..n), 2). */
static TARGET void KERNEL(step_squares)(double *RESTRICT y, const double *RESTRICT a, uint32_t n)
{
    double sure[STEP_CHUNK];
    uint32_t i, m;
    for (; n; n -= m, a += m, y += m) {
        m = n < STEP_CHUNK ? n : STEP_CHUNK;
        for (i = 0; i < m; i++) {
            y[i] = a[i] * a[i];
            sure[i] = is_power_2(a[i], y[i]) ? 1 : 0;
        }
        for (i = 0; i < m; i++)
            if (!sure[i]) y[i] = mg_power(a[i], 2);
    }
}

// clang-format off: an op is a line
/* y[0..n) = op of a[0..n) and b[0..n). */
static TARGET void KERNEL(step_block)(unsigned op, double *RESTRICT y, const double *a, const double *b, uint32_t n)
{
    uint32_t i;
    if (op == OP_POW && KERNEL(all_two)(b, n)) { KERNEL(step_squares)(y, a, n); return; }
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
#define LOOP(slope, second) \
    for (i = 0; i < n; i++) { double a = as[i], b = second, y = ys[i]; (void)a; (void)b; (void)y; p[i] = slope; } return;
#define EACH(slope) LOOP(slope, bs[i])
    switch (op) {
#define UNARY(ID, name, alias, symbol, y_, da, ...) case OP_##ID: EACH(da)
#define BINARY(ID, name, alias, symbol, y_, da, db, ...) case OP_##ID: \
    if (OP_##ID == OP_POW && !second && KERNEL(all_two)(bs, n)) { LOOP(da, 2) } else if (second) { EACH(db) } else { EACH(da) }
#define LINKED(ID, name, symbol, y_, da, db) case OP_##ID: if (second) { EACH(db) } else { EACH(da) }
#include "ops.def"
    }
#undef EACH
#undef LOOP
}
// clang-format on

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
    return s->kind == STEP_SLOPE_A || s->kind == STEP_SLOPE_B || s->kind == STEP_CHAIN || s->kind == STEP_HELPER ||
           (s->kind == STEP_VALUE && (op_shape[s->op] == SHAPE_A || (op_shape[s->op] == SHAPE_AB && s->op != OP_SOFTMAX)));
}

/* n results of a step that is no chain, of operands side by side. */
static TARGET inline void KERNEL(run_block)(const step_t *s, double *y, const double *a, const double *b, const double *c,
                                            uint32_t n)
{
    uint32_t i;
    if (s->kind == STEP_HELPER)
        for (i = 0; i < n; i++) y[i] = op_helpers[s->k](a[i]);
    else if (s->kind == STEP_VALUE)
        KERNEL(step_block)(s->op, y, a, b, n);
    else
        KERNEL(step_slopes)(s->op, s->kind == STEP_SLOPE_B, y, a, b, c, n);
}

/* What vector.h has for a step; 0: nothing. */
static TARGET inline int KERNEL(run_vector)(const step_t *s, double *y, const double *a, const double *b, uint32_t n)
{
    vector_t vector = s->kind == STEP_HELPER ? helper_vector[s->k] : s->kind == STEP_VALUE ? op_vector[s->op] : NULL;
    if (vector)
        vector(y, a, n);
    else if (s->kind == STEP_VALUE && s->op == OP_POW && !KERNEL(all_two)(b, n))
        vec_pow(y, a, b, n);
    else
        return 0;
    return 1;
}

/* Run the steps on v. room: as many doubles as the longest range has operands (of a pair: both). Returns whether some value of
   an op that can fail is not finite; with check 0 nobody looks. fast: with vector.h's functions where they pay. */
static TARGET int KERNEL(run_steps)(const step_t *s, size_t count, double *v, const uint32_t *index, double *room, int check,
                                    int fast)
{
    double ta[STEP_CHUNK], tb[STEP_CHUNK], tc[STEP_CHUNK];
    int bad = 0;
    const step_t *end = s + count;
    for (; s < end; s++) {
        uint32_t first, n;
        int wide = KERNEL(is_wide)(s);
        if (!wide) {
            KERNEL(step_range)(s, v, index, room);
        } else if (s->kind == STEP_CHAIN) {
            KERNEL(chains)(s, v, index);
        } else if (s->n == 1 && s->kind == STEP_VALUE) {
            double a = v[s->a];
            v[s->y] = op_shape[s->op] == SHAPE_A ? op_value1(s->op, a, 0) : op_value2(s->op, a, v[s->b]);
        } else {
            for (first = 0; first < s->n; first += n) {
                const double *a, *b = NULL, *c = NULL;
                n = s->n - first < STEP_CHUNK ? s->n - first : STEP_CHUNK;
                a = KERNEL(operands)(ta, v, index, s->a_where, s->a, first, n);
                if (s->kind != STEP_HELPER && (s->kind != STEP_VALUE || op_shape[s->op] == SHAPE_AB))
                    b = KERNEL(operands)(tb, v, index, s->b_where, s->b, first, n);
                if (fast && n > 3 && KERNEL(run_vector)(s, v + s->y + first, a, b, n)) continue;
                if (s->kind == STEP_SLOPE_A || s->kind == STEP_SLOPE_B)
                    c = KERNEL(operands)(tc, v, index, s->c_where, s->c, first, n);
                KERNEL(run_block)(s, v + s->y + first, a, b, c, n);
            }
        }
        if (check && s->kind == STEP_VALUE && op_can_fail(s->op)) bad |= KERNEL(any_not_finite)(v + s->y, wide ? s->n : 1);
    }
    return bad;
}

/* Run steps that compute one value each for n rows; a register of v has room for `block` of them. exact: with libm's functions,
   whose bits eager ops have, instead of vector.h's. */
static TARGET void KERNEL(run_rows)(const step_t *s, size_t count, double *v, const uint32_t *index, double *room,
                                    uint32_t block, uint32_t n, int exact)
{
    const step_t *end = s + count;
    step_t one;
    for (; s < end; s++) {
        double *y = v + (size_t)s->y * block;
        const double *a = v + (size_t)s->a * block, *b = v + (size_t)s->b * block, *c = v + (size_t)s->c * block;
        uint32_t i, j;
        if (!exact && KERNEL(run_vector)(s, y, a, b, n)) continue;
        if (s->kind == STEP_CHAIN) {
            KERNEL(chain_run)(y, s->c_where == WHERE_NONE ? NULL : c, 1, v, block, index + s->a, 1,
                              s->op == OP_MUL ? index + s->b : NULL, 1, s->count, n);
        } else if (KERNEL(is_wide)(s)) {
            KERNEL(run_block)(s, y, a, b, c, n);
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
