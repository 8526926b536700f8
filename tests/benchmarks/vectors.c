/* Errors and speeds of the vector functions (csrc/vector.h), beside libm's. Built and run by vectors.py.
 *
 * vectors BLOCKS: one line for each function: name, worst error in ulp, its operand (for pow two), ns with base,
 * with AVX2 (as with base, where there is none) and of libm. An ulp is that of the true value, which libquadmath
 * gives with 113 bits, and 5e-324 for subnormal ones. BLOCKS times 1024 operands each are drawn from all doubles that
 * have a finite value, from the whole of their range, from two ranges in the function's row, and for angles from what
 * is next to multiples of pi/4.
 */
#include <math.h>
#include <quadmath.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "vector.h"

#define N 1024
#define LEVELS 2

typedef __float128 quad;

static quad q_exp2(quad x) { return powq(2, x); }
static quad q_sigmoid(quad x) { return 1 / (1 + expq(-x)); }
static quad q_softplus(quad x) { return x > 0 ? x + log1pq(expq(-x)) : log1pq(expq(x)); }
static quad q_gauss(quad x) { return expq(-x * x); }
static quad q_normal_cdf(quad x) { return erfcq(-x * M_SQRT1_2q) / 2; }
static quad q_normal_pdf(quad x) { return expq(-x * x / 2) / sqrtq(2 * M_PIq); }

/* The functions that C has not, from those that it has. */
static double m_sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double m_softplus(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }
static double m_gauss(double x) { return exp(-x * x); }
static double m_normal_cdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
static double m_normal_pdf(double x) { return exp(-0.5 * x * x) * 0.3989422804014327; }

typedef struct {
    const char *name;
    quad (*exact)(quad);
    double (*libm)(double);
    double range[8]; /* pairs: where values are finite and not 0, then where to look closely; the last for the speed */
} function_t;

static const function_t functions[] = {
    {"exp", expq, exp, {-745.2, 709.8, -1, 1, -0.36, 0.36, -10, 10}},
    {"exp2", q_exp2, exp2, {-1075, 1024, -1, 1, -0.5, 0.5, -10, 10}},
    {"expm1", expm1q, expm1, {-50, 709.8, -1, 1, 0.3, 0.4, -3, 3}},
    {"log", logq, log, {0, 1.7e308, 0.5, 2, 0.9, 1.1, 0.1, 20}},
    {"log2", log2q, log2, {0, 1.7e308, 0.5, 2, 0.9, 1.1, 0.1, 20}},
    {"log10", log10q, log10, {0, 1.7e308, 0.5, 2, 0.9, 1.1, 0.1, 20}},
    {"log1p", log1pq, log1p, {-1, 1.7e308, -0.5, 1, -0.1, 0.1, -0.5, 3}},
    {"sqrt", sqrtq, sqrt, {0, 1.7e308, 0.5, 2, 1, 1.1, 0, 4}},
    {"cbrt", cbrtq, cbrt, {-1e308, 1e308, 0.5, 2, 1, 8, -3, 9}},
    {"sin", sinq, sin, {-25735, 25735, -4, 4, -0.8, 0.8, -10, 10}},
    {"cos", cosq, cos, {-25735, 25735, -4, 4, -0.8, 0.8, -10, 10}},
    {"tan", tanq, tan, {-25735, 25735, -4, 4, -0.8, 0.8, -10, 10}},
    {"sinh", sinhq, sinh, {-711, 711, -1.5, 1.5, 0.9, 1.1, -3, 3}},
    {"cosh", coshq, cosh, {-711, 711, -1.5, 1.5, -0.5, 0.5, -3, 3}},
    {"tanh", tanhq, tanh, {-20, 20, -1, 1, 0.6, 0.7, -2, 2}},
    {"sigmoid", q_sigmoid, m_sigmoid, {-745, 40, -5, 5, -1, 1, -5, 5}},
    {"softplus", q_softplus, m_softplus, {-745, 50, -5, 5, -2, 1, -5, 5}},
    {"erf", erfq, erf, {-6, 6, -1.2, 1.2, 0.9, 1.1, -3, 3}},
    {"erfc", erfcq, erfc, {-6, 27.3, -1.2, 1.2, 20, 24, -3, 5}},
    {"gauss", q_gauss, m_gauss, {-27.3, 27.3, -1.2, 1.2, 1, 5, -3, 3}},
    {"normal_cdf", q_normal_cdf, m_normal_cdf, {-38.5, 9, -2, 2, -2, -1, -4, 4}},
    {"normal_pdf", q_normal_pdf, m_normal_pdf, {-38.5, 38.5, -1.2, 1.2, 1, 5, -4, 4}},
};

static double x[N], y[N], got[LEVELS][N];

static uint64_t random_bits(void)
{
    static uint64_t state = 88172645463325252u; /* xorshift64* (Vigna) */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1du;
}

static double between(double low, double high) { return low + (high - low) * (double)(random_bits() >> 11) * 0x1p-53; }

static double any_double(void)
{
    uint64_t u = random_bits();
    double d;
    memcpy(&d, &u, sizeof d);
    return d;
}

static double error(quad exact, double value)
{
    int exponent;
    quad size = fabsq(exact);
    if (isinf(value) || size > 0x1.fffffffffffff8p1023Q) /* what rounds to infinity */
        return isinf(value) && size > 0x1.fffffffffffff8p1023Q ? 0 : INFINITY;
    if (size < 0x1p-1022Q) return (double)(fabsq(exact - value) * 0x1p1000Q * 0x1p74Q);
    frexpq(size, &exponent);
    return (double)ldexpq(fabsq(exact - value), 53 - exponent);
}

static void fill(const function_t *f, int kind)
{
    int i;
    for (i = 0; i < N; i++) {
        const double *range = f->range + 2 * (kind - 1);
        if (kind == 0)
            do x[i] = any_double();
            while (!(x[i] >= f->range[0] && x[i] <= f->range[1]));
        else if (kind == 4) { /* a few steps beside a multiple of pi/4 */
            double c = (double)((quad)(random_bits() % 32767 + 1) * (M_PIq / 4));
            uint64_t u;
            memcpy(&u, &c, sizeof u);
            u += random_bits() % 17 - 8;
            memcpy(&x[i], &u, sizeof u);
        } else
            x[i] = between(range[0], range[1]);
    }
}

static void fill_pow(int kind)
{
    int i;
    for (i = 0; i < N; i++) {
        double base = kind == 0 ? fabs(any_double()) : kind == 1 ? between(0.5, 2) : kind == 2 ? between(0.7, 1.42)
            : kind == 3 ? between(0, 10) : 1 + between(-0.5, 0.5) * exp(between(-30, 0));
        double top = kind == 3 ? 5 : fabs(1076 / log2(base));
        x[i] = base < INFINITY ? base : 2; /* nan too */
        y[i] = between(-1, 1) * (top < 2e15 ? top : 2e15);
        if (i % 8 == 0) { x[i] = -x[i]; y[i] = nearbyint(y[i]); }
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* ns per element: the best of 200 times 40 rounds over 256 elements; level 2 is libm. */
static double speed(const vector_entry_t *entry, double (*libm)(double), int level)
{
    double best = INFINITY;
    int sample, round, i;
    vec_select(level);
    for (sample = 0; sample < 200; sample++) {
        double begin = now(), each;
        for (round = 0; round < 40; round++) {
            if (level < LEVELS) {
                if (entry) entry->function(got[0], x, 256);
                else vec_pow(got[0], x, y, 256);
            } else if (entry)
                for (i = 0; i < 256; i++) got[0][i] = libm(x[i]);
            else
                for (i = 0; i < 256; i++) got[0][i] = pow(x[i], y[i]);
            __asm__ volatile("" : : "r"(got) : "memory");
        }
        each = (now() - begin) / (40 * 256);
        if (each < best) best = each;
    }
    return best;
}

int main(int count, char **words)
{
    long blocks = count > 1 ? atol(words[1]) : 100, b;
    size_t k, rows = sizeof functions / sizeof *functions;
    for (k = 0; k <= rows; k++) {
        const function_t *f = k < rows ? functions + k : NULL;
        const vector_entry_t *entry = vector_table;
        int angle = f && (strcmp(f->name, "sin") == 0 || strcmp(f->name, "cos") == 0 || strcmp(f->name, "tan") == 0);
        int kinds = !f ? 5 : angle ? 5 : 4, level, kind, i;
        double worst = 0, at[2] = {0, 0};
        if (f)
            while (entry->name && strcmp(entry->name, f->name) != 0) entry++;
        else
            entry = NULL;
        for (b = 0; b < blocks * kinds; b++) {
            kind = (int)(b % kinds);
            if (f) fill(f, kind);
            else fill_pow(kind);
            for (level = 0; level < LEVELS; level++) {
                vec_select(level);
                if (f) entry->function(got[level], x, N);
                else vec_pow(got[level], x, y, N);
            }
            if (memcmp(got[0], got[1], sizeof got[0]) != 0) {
                fprintf(stderr, "%s: base and AVX2 differ\n", f ? f->name : "pow");
                return 1;
            }
            for (i = 0; i < N; i++) {
                double e = error(f ? f->exact(x[i]) : powq(x[i], y[i]), got[1][i]);
                if (!(e <= worst)) { worst = e; at[0] = x[i]; at[1] = y[i]; }
            }
        }
        for (i = 0; i < N; i++) {
            double share = (i * 97 % 256 + 0.37) / 256;
            x[i] = f ? f->range[6] + (f->range[7] - f->range[6]) * share : 10 * share;
            y[i] = (i * 31 % 256) / 64.0 - 2;
        }
        printf("%s %.3f %a", f ? f->name : "pow", worst, at[0]);
        if (!f) printf(",%a", at[1]);
        for (level = 0; level <= LEVELS; level++) printf(" %.2f", speed(entry, f ? f->libm : NULL, level));
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
