/* kernels.c: the two kernel sets, the choice between them, and the n-ary values. See kernels.h. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3") /* see VECTORISED in inline.h */
#endif
#include <math.h>
#include <string.h>
#define OPS_NAMES
#include "kernels.h"
#include "ops.h"
#include "vector.h"

#ifdef __GNUC__
typedef double v4 __attribute__((vector_size(32), aligned(8), may_alias));
#define LOAD(p) (*(const v4 *)(p))
#define STORE(p, v) (*(v4 *)(p) = (v))
#endif
#define RESTRICT __restrict /* GCC, Clang and MSVC know it by this name */

/* What vector.h has for ops and for helper functions of one operand; NULL: nothing. Filled in by kernels_select. */
typedef void (*vector_t)(double *y, const double *x, size_t n);
static vector_t op_vector[OP_COUNT], helper_vector[OP_MEANING_COUNT];

static void find_vectors(void)
{
    const vector_entry_t *entry;
    unsigned op, k;
    for (entry = vector_table; entry->name; entry++) {
        for (op = 0; op < OP_COUNT; op++)
            if (op_shape[op] == SHAPE_A && strcmp(op_name[op], entry->name) == 0) op_vector[op] = entry->function;
        for (k = 0; k < OP_MEANING_COUNT; k++)
            if (strcmp(op_meanings[k].function, entry->name) == 0) helper_vector[k] = entry->function;
    }
}

/* The tree without vectors. */
#define k_sum plain_sum
#define k_dot plain_dot
#define PORTABLE_TREE
#include "portable.h"
#undef k_sum
#undef k_dot

#define TARGET
#define KERNEL(name) name##_base
#define KERNEL_NAME "base"
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#pragma GCC push_options
#pragma GCC optimize("O2,tree-vectorize,vect-cost-model=dynamic") /* for processors before 2013: less code */
#include "kernels_body.h"
#pragma GCC pop_options
#else
#include "kernels_body.h"
#endif
#undef TARGET
#undef KERNEL
#undef KERNEL_NAME

#if defined(__GNUC__) && defined(__x86_64__)
#define HAVE_AVX2
#define TARGET __attribute__((target("avx2"))) /* never fma: its single rounding would change bits */
#define KERNEL(name) name##_avx2
#define KERNEL_NAME "avx2"
#include "kernels_body.h"
#include <cpuid.h>

/* The processor has AVX2 and the system saves its registers. (__builtin_cpu_supports answers 0 under zig cc.) */
static int has_avx2(void)
{
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (3u << 27)) != (3u << 27)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 6) != 6) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 5 & 1);
}
#endif

const kernel_set_t *kernels = &set_base;

int kernels_select(const char *name)
{
    find_vectors();
#ifdef HAVE_AVX2
    if ((name == NULL || strcmp(name, "avx2") == 0) && has_avx2()) {
        kernels = &set_avx2;
        vec_select(1);
        return 0;
    }
#endif
    if (name == NULL || strcmp(name, "base") == 0) {
        kernels = &set_base;
        vec_select(0);
        return 0;
    }
    return -1;
}

double k_sum(const double *x, size_t n) { return kernels->sum(x, n); }

double k_dot(const double *x, const double *y, size_t n) { return kernels->dot(x, y, n); }

#define PORTABLE_RANGES
#include "portable.h"
