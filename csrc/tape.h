/* tape.h: what the tape is made of, in C because a row has a union and a mode belongs to a thread. See tape.pxi. */
#ifndef MINGRAD_TAPE_H
#define MINGRAD_TAPE_H

#include <Python.h>
#include <stdint.h>
#include <string.h>
#include "inline.h"
#include "lock.h"

/* A build that looks for errors of the core (MINGRAD_BUILD=debug, setup.py): it collects in every safepoint, its arrays have
   no room to spare, what is gone is overwritten, invariants are checked (check.pxi). */
#ifdef MINGRAD_DEBUG
#define DEBUG_BUILD 1
#define YOUNG_SIZE 1u
#define FIRST_CAPACITY 1u
#else
#define DEBUG_BUILD 0
/* 131,072 nodes (5 MB) fit a last-level cache, and most graphs die within them; figures in csrc/README.md. */
#define YOUNG_SIZE 131072u
#define FIRST_CAPACITY 4096u
#endif
#define MAX_NODES 0xFFFFFF00u
#define NO_NODE 0xFFFFFFFFu

enum {
    ROW_REQUIRES = 1,  /* asks for a gradient */
    ROW_SCATTERED = 2, /* a range's operands are listed in the side array, else they are consecutive nodes */
    ROW_WRITTEN = 4,   /* an old leaf that is in tape.written */
    ROW_FROZEN = 8,    /* an affine row, one of whose layer's weights asks for no gradient */
    /* The bits from here on: how many rows just below belong to the same block, that is to the same layer's affine rows
       or activations, each with its first operand one place (one row of weights) before the next one's. */
    ROW_BLOCK = 16
};
#define BLOCK_SIZE 4096u /* rows of a block at most: the flags have 12 bits for the count */

/* One node's operation, 16 bytes. What the fields hold depends on the op's shape:
 *
 *   SHAPE_LEAF    a: number of nodes when its data was last written; held: the sum of earlier passes during a sweep
 *   SHAPE_A       a: operand; constant: the number beside it, for VC and CV
 *   SHAPE_AB      a, b: operands
 *   SHAPE_RANGE   a: first operand, or where the list begins in the side array; b: the op's index; c: how many
 *   SHAPE_PAIR    a, b: the same for each range (scattered: b's list follows a's); c: how many in each
 *   SHAPE_AFFINE  a: first weight; b: first input; c: how many inputs (and weights, their bias not counted)
 */
typedef struct {
    uint16_t op, flags;
    uint32_t a;
    union {
        struct {
            uint32_t b, c;
        };
        double constant;
        double held;
    };
} row_t;

/* A Variable as C sees it; variable.pxi declares the same fields and checks the size. */
typedef struct {
    PyObject_HEAD
    uint32_t number; /* its node */
    PyObject *weakrefs;
} variable_t;

#define NUMBER(object) (((variable_t *)(object))->number)
#define SET_NUMBER(object, i) (((variable_t *)(object))->number = (i))
#define WEAKREFS(object) (((variable_t *)(object))->weakrefs)

/* What one thread has switched off or on: recording (no_grad), which float errors are raised (errstate), detect_anomaly, a
   recording, profile(). */
typedef struct {
    int no_grad;         /* 1 inside no_grad() */
    int ignore;          /* bits 1 << ERROR_... */
    int anomaly;         /* 1 inside detect_anomaly() */
    PyObject *recording; /* the Recording that is on (record.pxi), borrowed; NULL: none */
    PyObject *profiler;  /* the thread's Profiler (profile.pxi), owned; NULL: none */
} thread_mode_t;

#if defined(_MSC_VER)
static __declspec(thread) thread_mode_t thread_mode;
#else
static __thread thread_mode_t thread_mode;
#endif

/* A Variable taken from the free list is initialised by its reference count alone; where Python tracks more of an
   object than that, or a tool looks for the use of dead objects, there is no free list. */
#if defined(Py_TRACE_REFS) || defined(Py_REF_DEBUG) || defined(Py_GIL_DISABLED) || DEBUG_BUILD || defined(__SANITIZE_ADDRESS__)
#define FREELIST_SIZE 0
#else
#define FREELIST_SIZE 1024
#endif

/* -- bits: sets of node numbers, 64 to a word -------------------------------------------------------------------- */

#if defined(_MSC_VER)
#include <intrin.h>
static inline int bits_highest(uint64_t word)
{
    unsigned long i;
    _BitScanReverse64(&i, word);
    return (int)i;
}
static inline int bits_lowest(uint64_t word)
{
    unsigned long i;
    _BitScanForward64(&i, word);
    return (int)i;
}
#else
static inline int bits_highest(uint64_t word) { return 63 - __builtin_clzll(word); }
static inline int bits_lowest(uint64_t word) { return __builtin_ctzll(word); }
#endif

/* The highest node below i of a word that holds no higher ones. Mostly it is i - 1: said by a branch, which the processor
   predicts, so that it reads that node's row before the word is known. */
static ALWAYS_INLINE uint32_t bits_next(uint64_t word, uint32_t i)
{
    if (word >> ((i - 1) & 63) == 1) return i - 1;
#if defined(__GNUC__)
    __asm__ volatile(""); /* or the two ways become one conditional move */
#endif
    return ((i - 1) & ~63u) + (uint32_t)bits_highest(word);
}

static inline uint32_t bits_count(uint64_t w)
{
    w -= (w >> 1) & 0x5555555555555555u;
    w = (w & 0x3333333333333333u) + ((w >> 2) & 0x3333333333333333u);
    return (uint32_t)((((w + (w >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u) >> 56);
}

/* Bit i of the result: handle[i] is not NULL; n <= 64. Layers leave long stretches without handles. */
static inline uint64_t handle_bits(PyObject *const *handle, uint32_t n)
{
    uint64_t bits = 0;
    uint32_t i = 0, k;
    for (; i + 8 <= n; i += 8) {
        uintptr_t any = 0;
        for (k = 0; k < 8; k++) any |= (uintptr_t)handle[i + k];
        if (any)
            for (k = 0; k < 8; k++) bits |= (uint64_t)(handle[i + k] != NULL) << (i + k);
    }
    for (; i < n; i++) bits |= (uint64_t)(handle[i] != NULL) << i;
    return bits;
}

static inline void row_set(row_t *row, uint32_t op, uint32_t flags, uint32_t a, uint32_t b, uint32_t c)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ /* two stores instead of five */
    uint64_t head = op | flags << 16 | (uint64_t)a << 32, rest = b | (uint64_t)c << 32;
    memcpy(row, &head, 8);
    memcpy(&row->b, &rest, 8);
#else
    row->op = (uint16_t)op;
    row->flags = (uint16_t)flags;
    row->a = a;
    row->b = b;
    row->c = c;
#endif
}

/* A block: count rows whose first operands are step apart. */
static inline void row_set_block(row_t *row, uint32_t op, uint32_t flags, uint32_t a, uint32_t step, uint32_t b, uint32_t c,
                                 uint32_t count)
{
    uint32_t j;
    for (j = 0; j < count; j++, a += step) row_set(row + j, op, flags + ROW_BLOCK * (j % BLOCK_SIZE), a, b, c);
}

/* Is q the row of a block that comes after p? step: by how much first operands differ. */
static inline int row_follows(const row_t *q, const row_t *p, uint32_t step)
{
    return q->op == p->op && q->a == p->a + step && memcmp(&q->b, &p->b, 8) == 0;
}

/* Let the system have the pages that free() left in the heap. glibc puts arrays of up to 32 MB there once such arrays have
   been freed before, and keeps what a smaller realloc sets free. */
#if defined(__GLIBC__)
#include <malloc.h>
static inline void give_pages_back(void) { malloc_trim(0); }
#else
static inline void give_pages_back(void) {}
#endif

/* In tape.pxi; rare, and inlined it would cost every dealloc its registers. */
static NEVER_INLINE void mg_pop(void);

#endif
