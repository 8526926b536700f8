/* special.c: compiles the functions of portable.h that are not hot, once. Start reading there. */
#include <math.h>
#include "ops.h"
#define PORTABLE_SPECIAL
#include "portable.h"
