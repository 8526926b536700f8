/* inline.h: forced inlining, for the few functions that every recorded operation or every backward step runs through. */
#ifndef MINGRAD_INLINE_H
#define MINGRAD_INLINE_H

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#else
#define ALWAYS_INLINE inline
#define NEVER_INLINE
#endif

#endif
