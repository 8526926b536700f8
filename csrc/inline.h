/* inline.h: what is asked of the C compiler: forced inlining for the few functions that every recorded operation or every
 * backward step runs through, vector code for loops over contiguous numbers. */
#ifndef MINGRAD_INLINE_H
#define MINGRAD_INLINE_H

/* Loops over contiguous numbers are worth more code than the rest is: GCC vectorises those of unknown length only so. */
#if defined(__GNUC__) && !defined(__clang__)
#define VECTORISED __attribute__((optimize("O3")))
#else
#define VECTORISED
#endif

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#else
#define ALWAYS_INLINE inline
#define NEVER_INLINE
#endif

#endif
