/* steps.h: how a program runs (schedule.pxi makes it). A step does one op for n results at once: n nodes of the same op that do
 * not need each other, whose values stand one behind the other. Knows ops and numbers; no tape, no Python.
 *
 * Where the operands of the n results are: one behind the other, the same one for all, or anywhere, listed in `index`; or the
 * step goes by runs of equal length, in each of which every operand goes on by a stride of its own: then `index` lists where an
 * operand begins in each run. Of a chain, `index` lists for each run, or each result, the operands of its links one behind the
 * other. Values are those of the eager ops to the bit: the same formulas, the same functions of libm.
 */
#ifndef MINGRAD_STEPS_H
#define MINGRAD_STEPS_H

#include <stddef.h>
#include <stdint.h>

enum { WHERE_RUN, WHERE_SAME, WHERE_LISTED, WHERE_RUNS, WHERE_NONE }; /* NONE: a chain of products that begins with the first */

/* What a step computes of its op: the value, or what a sweep down needs of it. */
enum {
    STEP_VALUE,
    STEP_SLOPE_A, /* the partial by the first operand, from operands a, b and the value c */
    STEP_SLOPE_B, /* by the second */
    STEP_AUX,     /* of an op over a range: the number that all its partials need, from the operands and the value c */
    STEP_SLOPE_N, /* its partial by one operand, from the operand a, the value b and the number c */
    STEP_CHAIN,   /* of mul: c + a * b + a' * b' + ..., `count` products, of add: c + a + a' + ...: from left to right, each
                     operation rounded by itself */
    STEP_HELPER   /* no op: the helper function number k of the table, of a */
};

typedef struct {
    uint16_t op; /* never one with a number beside the operand: numbers are values like others */
    uint8_t kind;
    uint8_t a_where, b_where, c_where;
    uint32_t n;       /* results; of an op over a range: operands (of each range) */
    uint32_t y;       /* first result */
    uint32_t a, b, c; /* operands: the first one, or where the list begins in index; affine: c is the bias */
    uint32_t run;     /* WHERE_RUNS: how long the runs are */
    int32_t a_stride, b_stride, c_stride; /* and how operands go on in them */
    uint32_t k, i, count; /* of an op over a range: its index; STEP_SLOPE_N: of how many operands which one; chains: links */
} step_t;

#define STEP_CHUNK 256 /* results that are computed at a time, so that listed operands are gathered into the L1 cache */

#endif
