/* vector.c: the vector functions. See vector.h; the polynomials are in vector_tables.h.
 *
 * Each function is written for one number, without branches, and the loops over it at the end are compiled twice, for any
 * processor and for AVX2; the compiler makes vectors of them. What lets it do so even for the oldest instruction set (SSE2):
 * no look-up, no comparison of integers, no conversion between integers and doubles (adding 1.5 * 2**52 moves a whole number
 * into a double's low bits), choices only between computed values. Where digits would be lost, a number is held as a sum,
 * x + x_low; head() cuts a number to 26 bits, so that products of heads are exact. The methods are the known ones: Cody and
 * Waite's argument reduction, Dekker's and Knuth's exact sums and products, the series of atanh for the logarithm, Shepherd
 * and Laframboise's bounded form of erfc.
 */
#if defined(__GNUC__) && !defined(__clang__)
/* no-trapping-math: what a choice leaves unused may be computed. no-thread-jumps: no extra paths for constants. Both leave
   every value as it is. */
#pragma GCC optimize("O3", "no-trapping-math", "no-thread-jumps")
#endif
#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed" /* a processor without vectors has loops over single numbers */
#endif
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "inline.h"
#include "vector.h"
#include "vector_tables.h"

#define FN static ALWAYS_INLINE

#define SIGN_BIT 0x8000000000000000u
#define EXPONENT_BITS 0x7ff0000000000000u
#define HEAD_BITS 0xfffffffff8000000u
#define ONE_BITS 0x3ff0000000000000u
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdu
#define WHOLE_BITS 0x4330000000000000u /* of 2**52; with n in the low bits it is 2**52 + n */
#define ROUND 0x1.8p52                 /* x + ROUND - ROUND is the whole number next to x, |x| < 2**51 */

FN uint64_t bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

FN double from_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

FN double head(double x) { return from_bits(bits(x) & HEAD_BITS); }
FN double size_of(double x) { return from_bits(bits(x) & ~SIGN_BIT); }
FN double with_sign(double size, double sign) { return from_bits(bits(size) | (bits(sign) & SIGN_BIT)); }
FN double at_most(double x, double top) { return x > top ? top : x; } /* nan stays */

/* Polynomials in t, u = t*t, v = u*u, w = v*v, by halves: the processor can compute the halves side by side. C(i) is the
   coefficient of t**i. */
#define POLY2(C, i, t) (C(i) + C((i) + 1) * (t))
#define POLY3(C, i, t, u) (POLY2(C, i, t) + C((i) + 2) * (u))
#define POLY4(C, i, t, u) (POLY2(C, i, t) + POLY2(C, (i) + 2, t) * (u))
#define POLY6(C, i, t, u, v) (POLY4(C, i, t, u) + POLY2(C, (i) + 4, t) * (v))
#define POLY7(C, i, t, u, v) (POLY4(C, i, t, u) + POLY3(C, (i) + 4, t, u) * (v))
#define POLY8(C, i, t, u, v) (POLY4(C, i, t, u) + POLY4(C, (i) + 4, t, u) * (v))

/* -- exponentials -------------------------------------------------------------------------------------------------- */

/* e**(r + low) - 1 - r, |r| < 0.35. */
FN double exp_rest(double r, double low)
{
#define C(i) v_exp[i]
    double u = r * r, v = u * u;
    return u * (POLY8(C, 0, r, u, v) + POLY2(C, 8, r) * (v * v)) + low;
#undef C
}

/* x + low is k * ln(2) + r + something; e**(r + something) - 1 is r + rest. Returns bits of which the lowest 12 are
   k + bias. |x| < 1400. */
FN uint64_t exp_parts(double x, double low, double bias, double *r, double *rest)
{
    double t = x * V_INV_LN2 + (ROUND + bias), k = t - (ROUND + bias), high = x - k * V_LN2_HIGH;
    low = k * V_LN2_LOW - low;
    *r = high - low;
    *rest = exp_rest(*r, (high - *r) - low);
    return bits(t);
}

/* 1 + r + rest as a sum, |r| < 0.35. */
FN double one_and(double r, double rest, double *low)
{
    double y = 1 + r;
    *low = (r - (y - 1)) + rest;
    return y;
}

/* 2**k, |k| < 1023, for a t with k + ONCE in its low bits. */
#define ONCE 1023
FN double power_of_2(uint64_t t) { return from_bits(t << 52); }

/* y * 2**k, |k| < 2046, for a t with k + TWICE in its low bits: two factors, of which only the second may round. */
#define TWICE 2046
FN double scale(double y, uint64_t t)
{
    uint64_t half = t >> 1;
    return y * power_of_2(half) * power_of_2(t - half);
}

/* The same for -1150 < k <= 0 and k + BELOW: the first factor is 2**128 too large. */
#define BELOW (ONCE + 128)
FN double scale_down(double y, uint64_t t) { return y * power_of_2(t) * 0x1p-128; }

/* e**(x + low), |x| < 1400. */
FN double exp_of(double x, double low)
{
    double r, rest, y;
    uint64_t t = exp_parts(x, low, TWICE, &r, &rest);
    y = one_and(r, rest, &low);
    return scale(y + low, t);
}

/* The same for -790 < x <= 0. */
FN double exp_below(double x, double low)
{
    double r, rest, y;
    uint64_t t = exp_parts(x, low, BELOW, &r, &rest);
    y = one_and(r, rest, &low);
    return scale_down(y + low, t);
}

FN double one_exp(double x)
{
    x = at_most(x, 710);
    return exp_of(x < -746 ? -746 : x, 0);
}

FN double one_exp2(double x)
{
    double t, r, high, low, rest;
    x = at_most(x, 1025);
    x = x < -1076 ? -1076 : x;
    t = x + (ROUND + TWICE);
    r = x - (t - (ROUND + TWICE));
    high = head(r) * V_LN2_HALF;
    low = (r - head(r)) * V_LN2_HALF + r * V_LN2_REST;
    r = high + low;
    rest = exp_rest(r, (high - r) + low);
    r = one_and(r, rest, &low);
    return scale(r + low, bits(t));
}

/* Half of it is computed, or 2**k would overflow before the result does. */
FN double one_expm1(double a)
{
    double x = at_most(a, 710), r, rest, half, y, sum, low;
    x = x < -40 ? -40 : x;
    half = power_of_2(exp_parts(x, 0, ONCE - 1, &r, &rest));
    y = half - 0.5;
    low = (half - y) - 0.5;
    r *= half;
    sum = y + r;
    low += (r - (sum - y)) + half * rest;
    return size_of(a) < 0x1p-54 ? a : 2 * (sum + low);
}

/* -- logarithms ---------------------------------------------------------------------------------------------------- */

/* x = 2**k * (1 + f), 1 + f between sqrt(1/2) and sqrt(2). x > 0. */
FN double log_parts(double x, double *f)
{
    int small = x < DBL_MIN;
    uint64_t u = bits(small ? x * 0x1p54 : x), e = u + (ONE_BITS - SQRT_HALF_BITS);
    *f = from_bits(u - (e & EXPONENT_BITS) + ONE_BITS) - 1;
    return from_bits((e >> 52) | WHOLE_BITS) - (small ? 0x1p52 + 1023 + 54 : 0x1p52 + 1023);
}

/* log(1 + f) - f + half for half = f*f/2. */
FN double log_rest(double f, double half)
{
#define C(i) v_log[i]
    double s = f / (2 + f), t = s * s, u = t * t;
    return s * (half + t * POLY7(C, 0, t, u, u * u));
#undef C
}

/* log(x * (1 - less)), less about 2**-53. */
FN double log_of(double x, double less)
{
    double f, k = log_parts(x, &f), half = 0.5 * f * f, rest = log_rest(f, half);
    return k * V_LN2_HIGH - ((half - (rest + (k * V_LN2_LOW - less))) - f);
}

/* y, unless x (plus something else) has no finite logarithm. */
FN double log_or_special(double x, double y)
{
    double special = x == 0 ? -INFINITY : NAN;
    y = x < INFINITY ? y : x;
    return x > 0 ? y : special;
}

FN double one_log(double x) { return log_or_special(x, log_of(x, 0)); }

FN double one_log1p(double x)
{
    double y = 1 + x;
    y = log_or_special(y, log_of(y, ((y - 1) - x) / y)); /* what rounding 1 + x has added is taken off */
    return size_of(x) < 0x1p-54 ? x : y;
}

/* log(x) times 1/ln(2) or 1/ln(10) = a + b, where k * (c + d) stands for the exponent. */
FN double log_in_base(double x, double a, double b, double c, double d)
{
    double f, k = log_parts(x, &f), half = 0.5 * f * f, rest = log_rest(f, half);
    double high = head(f - half), low = ((f - high) - half) + rest, whole = k * c, y;
    low = (d == 0 ? (low + high) * b : (low + high) * b + k * d) + low * a;
    high *= a;
    y = whole + high;
    return log_or_special(x, y + (low + ((whole - y) + high)));
}

FN double one_log2(double x) { return log_in_base(x, V_INV_LN2_A, V_INV_LN2_B, 1, 0); }
FN double one_log10(double x) { return log_in_base(x, V_INV_LN10_A, V_INV_LN10_B, V_LOG10_2_A, V_LOG10_2_B); }

/* -- powers and roots ---------------------------------------------------------------------------------------------- */

FN double one_sqrt(double x) { return sqrt(x); }

/* A polynomial gives 25 bits of the root of the mantissa, one step of Halley's the rest. */
FN double one_cbrt(double x)
{
#define C(i) v_cbrt[i]
    double size = size_of(x), k, t, i, a, y, z, b;
    int small = size < DBL_MIN;
    uint64_t u = bits(small ? size * 0x1p54 : size);
    a = from_bits((u & ~EXPONENT_BITS) | ONE_BITS);
    k = from_bits((u >> 52) | WHOLE_BITS) - (small ? 0x1p52 + 1023 + 54 : 0x1p52 + 1023);
    t = k * (1 / 3.0) + (ROUND + ONCE);
    i = k - 3 * (t - (ROUND + ONCE)); /* -1, 0 or 1 */
    z = a - 1;
    b = z * z;
    y = POLY8(C, 0, z, b, b * b);
    y *= i > 0 ? V_CBRT2 : i < 0 ? 0.5 * V_CBRT4 : 1;
    a *= i > 0 ? 2 : i < 0 ? 0.5 : 1;
    y = head(y);
    b = a / (y * y);
    y += y * ((b - y) / (y + y + b));
    y = with_sign(y * power_of_2(bits(t)), x);
    y = size > 0 ? y : x;
    return size < INFINITY ? y : x;
#undef C
}

/* log(|x|) as a sum with an error of 2**-64: for s = f / (2 + f) it is k * log(2) + 2 * (s + s**3 * (1/3 + ...)). */
FN double pow_first(double x, double *l_low)
{
#define C(i) v_log_rest[i]
    double f, k = log_parts(size_of(x), &f), m = 1 + f, g = m + 1, inverse = 1 / g, s, s_low, z, z_low, p, q, rest;
    double sum, low;
    g = head(g);
    s = head(f * inverse);
    s_low = ((f - s * g) - s * (m - (g - 1))) * inverse;
    z = s * s;
    z_low = s_low * (s + (s + s_low));
    p = z + z_low;
    q = p * p;
    rest = V_THIRD_B + p * POLY8(C, 0, p, q, q * q);
    q = head(V_THIRD_A + rest);
    rest += V_THIRD_A - q;
    p = head(z);
    z_low += z - p;
    z = p * q;
    z_low = p * rest + z_low * (q + rest); /* z + z_low: z * (1/3 + ...) */
    p = head(z);
    z_low += z - p;
    low = s_low + (s * z_low + s_low * (p + z_low));
    z = s * p;
    p = k * V_LN2_HIGH;
    sum = p + 2 * s;
    low = 2 * low + k * V_LN2_LOW + (2 * s - (sum - p));
    p = sum + 2 * z;
    low += 2 * z - (p - sum);
    q = head(p);
    *l_low = low + (p - q);
    return q;
#undef C
}

/* x**y from l + l_low = log(|x|), l a head, |y| < 2**51. */
FN double pow_second(double x, double y, double l, double l_low)
{
    double high = head(y), p = high * l, low = high * l_low + (y - high) * (l + l_low), q, t = y + ROUND;
    p = x == 0 ? -with_sign(1000, y) : p;
    q = at_most(p, 710);
    q = q < -746 ? -746 : q;
    low = q == p ? low : 0;
    p = exp_of(q, low);
    q = p * from_bits(ONE_BITS | (bits(x) & (bits(t) << 63))); /* negative if x is and y is odd */
    p = x < 0 ? NAN : p;
    p = t - ROUND == y ? q : p;
    return y == 0 ? 1 : p;
}

/* -- trigonometry -------------------------------------------------------------------------------------------------- */

/* x = q * pi/2 + r + low, 0 <= x <= 25735; returns t with q in its low bits. */
FN uint64_t quarter(double x, double *r, double *low)
{
    double t = x * V_TWO_PI + ROUND, q = t - ROUND, a = x - q * V_PI_2_A, b = q * V_PI_2_B, d;
    *r = a - b;
    d = *r - a;
    *low = ((a - (*r - d)) - (b + d)) - q * V_PI_2_C;
    return bits(t);
}

/* sin and cos of r + low as sums; the first parts are r and the result. */
FN double sin_cos(double r, double low, double *sin_low, double *cos_low)
{
    double z = r * r, u = z * z, v = u * u, half = 0.5 * z, w = 1 - half;
#define C(i) v_sin[i]
    *sin_low = r * z * POLY6(C, 0, z, u, v) + low * w;
#undef C
#define C(i) v_cos[i]
    *cos_low = ((1 - w) - half) + (u * POLY6(C, 0, z, u, v) - r * low);
#undef C
    return w;
}

FN double choose(uint64_t odd, double even_value, double odd_value)
{
    uint64_t mask = 0 - (odd & 1);
    return from_bits((bits(even_value) & ~mask) | (bits(odd_value) & mask));
}

FN double one_sin(double x)
{
    double r, low, s, c, w;
    uint64_t q = quarter(size_of(x), &r, &low);
    w = sin_cos(r, low, &s, &c);
    return from_bits(bits(choose(q, r + s, w + c)) ^ ((q & 2) << 62) ^ (bits(x) & SIGN_BIT));
}

FN double one_cos(double x)
{
    double r, low, s, c, w;
    uint64_t q = quarter(size_of(x), &r, &low);
    w = sin_cos(r, low, &s, &c);
    return from_bits(bits(choose(q, w + c, r + s)) ^ (((q + 1) & 2) << 62));
}

/* (a + a_low) / (b + b_low): from a first quotient, cut, the exact remainder is divided. */
FN double divide(double a, double a_low, double b, double b_low)
{
    double inverse = 1 / b, cut = head(b), q = head(a * inverse);
    return q + (((a - q * cut) - q * (b - cut)) + (a_low - q * b_low)) * inverse;
}

FN double one_tan(double x)
{
    double r, low, s, c, w, v;
    uint64_t q = quarter(size_of(x), &r, &low);
    w = sin_cos(r, low, &s, &c);
    v = r + s;
    s -= v - r;
    r = w + c;
    c -= r - w;
    w = divide(choose(q, v, r), choose(q, s, c), choose(q, r, v), choose(q, c, s));
    return from_bits(bits(w) ^ ((q & 1) << 63) ^ (bits(x) & SIGN_BIT));
}

/* -- hyperbolic functions ------------------------------------------------------------------------------------------ */

/* e**x / 2 as a sum, 0 <= x < 711. */
FN double half_exp(double x, double *low)
{
    double r, rest, y, p = power_of_2(exp_parts(x, 0, ONCE - 4, &r, &rest));
    y = one_and(r, rest, low);
    *low = *low * p * 8;
    return y * p * 8;
}

FN double one_sinh(double x)
{
#define C(i) v_sinh[i]
    double size = size_of(x), z = size * size, u = z * z, small = size + size * (z * POLY7(C, 0, z, u, u * u));
    double low, e = half_exp(at_most(size, 711), &low);
    return with_sign(size < 1 ? small : (e - 0.25 / (e + low)) + low, x);
#undef C
}

FN double one_cosh(double x)
{
    double low, e = half_exp(at_most(size_of(x), 711), &low);
    return (e + 0.25 / (e + low)) + low;
}

/* 1 - 2 / (e**2x + 1), below 0.625 x + x * z * P(z) / (1 + z * Q(z)). */
FN double one_tanh(double x)
{
    double size = size_of(x), z = size * size, u = z * z, r, rest, e, a, b;
    int small = size < 0.625;
    uint64_t t = exp_parts(2 * at_most(size, 22), 0, ONCE, &r, &rest);
#define C(i) v_tanh_above[i]
    a = size * (z * POLY3(C, 0, z, u));
#undef C
#define C(i) v_tanh_below[i]
    b = 1 + z * POLY3(C, 0, z, u);
#undef C
    e = (1 + (r + rest)) * power_of_2(t);
    a = small ? a : -2;
    b = small ? b : 1 + e;
    return with_sign((small ? size : 1) + a / b, x);
}

FN double one_sigmoid(double x)
{
    double e = exp_below(-at_most(size_of(x), 746), 0), d = 1 + e;
    return divide(x < 0 ? e : 1, 0, d, (1 - d) + e);
}

/* max(x, 0) + log(1 + e), e = exp(-|x|). */
FN double softplus_first(double x) { return exp_below(-at_most(size_of(x), 746), 0); }

FN double softplus_second(double x, double e)
{
    double y = 1 + e;
    return (x > 0 ? x : 0) + log_of(y, ((y - 1) - e) / y);
}

/* -- error functions and the normal distribution -------------------------------------------------------------------- */

/* -x*x as a sum. */
FN double minus_square(double x, double *low)
{
    double h = head(x), l = x - h, y = x * x;
    *low = ((y - h * h) - 2 * h * l) - l * l;
    return -y;
}

/* Below 1 a polynomial, above it 1 - exp(-x*x) * P / (1 + 2*x): each coefficient is chosen before it is used. */
FN double one_erf(double x)
{
#define C(i) (small ? v_erf_small[i] : v_erf_large[i])
    double size = at_most(size_of(x), 6), z = size * size, t, u, v, p, r, rest;
    int small = size < 1;
    uint64_t k = exp_parts(-z, 0, ONCE, &r, &rest);
    t = small ? z : (size - 3) / (size + 3);
    u = t * t;
    v = u * u;
    p = POLY8(C, 0, t, u, v) + POLY4(C, 8, t, u) * (v * v);
    r = (1 + (r + rest)) * power_of_2(k);
    return with_sign(small ? size + size * p : 1 - r * p / (1 + 2 * size), x);
#undef C
}

/* exp(z + z_low) * F(x) / (d + d_low), where F is erfc(x) * exp(x*x) * (1 + 2*x) for x >= 0. */
FN double erfc_tail(double x, double z, double z_low, double d, double d_low)
{
#define C(i) v_erfc[i]
    double w = x / (x + 3.75), q = 2 * w - 1, u = q * q, v = u * u, r, rest, e, low, f, g;
    uint64_t t = exp_parts(z, z_low, BELOW, &r, &rest);
    g = POLY8(C, 0, q, u, v) + (v * v) * (POLY8(C, 8, q, u, v) + (v * v) * POLY7(C, 16, q, u, v));
    w *= g;
    f = head(1 + w);
    w += 1 - f;
    r = one_and(r, rest, &low);
    e = head(r + low);
    low += r - e;
    return scale_down(divide(e * f, e * w + low * (f + w), d, d_low), t);
#undef C
}

FN double one_erfc(double x)
{
    double size = at_most(size_of(x), 28), z, low, d = 1 + 2 * size, y;
    z = minus_square(size, &low);
    y = erfc_tail(size, z, low, d, (1 - d) + 2 * size);
    return x < 0 ? 2 - y : y;
}

FN double one_normal_cdf(double x)
{
    double size = at_most(size_of(x), 39), z, z_low, r, d, low, h = head(size), l = size - h, y;
    z = minus_square(size, &z_low);
    r = h * V_SQRT2_A; /* exact */
    low = l * V_SQRT2_A + size * V_SQRT2_B;
    d = 1 + (r + low);
    low += (1 - d) + r;
    y = 0.5 * erfc_tail(size * V_SQRT1_2, 0.5 * z, 0.5 * z_low, d, low);
    return x > 0 ? 1 - y : y;
}

FN double one_gauss(double x)
{
    double low, z = minus_square(at_most(size_of(x), 28), &low);
    return exp_below(z, low);
}

FN double one_normal_pdf(double x)
{
    double z, low, r, rest, e;
    uint64_t t;
    z = minus_square(at_most(size_of(x), 39), &low);
    t = exp_parts(0.5 * z, 0.5 * low, BELOW, &r, &rest);
    r = one_and(r, rest, &low);
    e = head(r + low);
    low += r - e;
    return scale_down(e * V_PDF_A + (e * V_PDF_B + low * (V_PDF_A + V_PDF_B)), t);
}

/* -- loops --------------------------------------------------------------------------------------------------------- */

/* A loop goes over n groups of LANES elements, so that none are left over; z is x or y or overlaps neither. It says whether
   some operand is for libm. Functions of one operand leave y alone. */
typedef uint64_t (*loop_t)(double *z, const double *x, const double *y, size_t n);

#define LANES 4
#define BLOCK 16 /* groups */

#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INDEPENDENT
#endif

/* Not 0 if |x| is limit or more, or nan. */
FN uint64_t beyond(double x, double limit) { return (bits(size_of(x)) + (SIGN_BIT - bits(limit))) & SIGN_BIT; }
FN uint64_t wild_angle(double x) { return beyond(x, 25735); }
FN uint64_t wild_power(double x, double y) { return beyond(x, INFINITY) | beyond(y, 0x1p51); }

#define ONE_LOOP(name, function, WILD)                                                              \
    static TARGET NEVER_INLINE uint64_t name(double *z, const double *x, const double *y, size_t n) \
    {                                                                                               \
        uint64_t wild = 0;                                                                          \
        size_t i;                                                                                   \
        (void)y;                                                                                    \
        INDEPENDENT                                                                                 \
        for (i = 0; i < n * LANES; i++) {                                                           \
            wild |= WILD(x[i]);                                                                     \
            z[i] = function(x[i]);                                                                  \
        }                                                                                           \
        return wild;                                                                                \
    }

/* Two loops, where one would be a chain of steps so long that the processor could not begin the next element meanwhile. */
#define TWO_LOOPS(name, FIRST, SECOND, WILD)                                                        \
    static TARGET NEVER_INLINE uint64_t name(double *z, const double *x, const double *y, size_t n) \
    {                                                                                               \
        double first[2][BLOCK * LANES];                                                             \
        uint64_t wild = 0;                                                                          \
        size_t i, m;                                                                                \
        for (; n; n -= m, x += m * LANES, y += m * LANES, z += m * LANES) {                         \
            m = n < BLOCK ? n : BLOCK;                                                              \
            INDEPENDENT                                                                             \
            for (i = 0; i < m * LANES; i++) {                                                       \
                wild |= WILD(x[i], y[i]);                                                           \
                first[0][i] = FIRST(x[i], &first[1][i]);                                            \
            }                                                                                       \
            INDEPENDENT                                                                             \
            for (i = 0; i < m * LANES; i++) z[i] = SECOND(x[i], y[i], first[0][i], first[1][i]);    \
        }                                                                                           \
        return wild;                                                                                \
    }

#define NEVER(...) 0
#define SOFTPLUS_FIRST(x, b) softplus_first(x)
#define SOFTPLUS_SECOND(x, y, a, b) softplus_second(x, a)

typedef struct {
#define MEMBER(name) loop_t name;
    VECTOR_FUNCTIONS(MEMBER, MEMBER, MEMBER)
    loop_t pow;
} vector_set_t;

#define SET_TWO(name)

#define TARGET
#define SET_ONE(name) ONE_LOOP(base_##name, one_##name, NEVER)
#define SET_ANGLE(name) ONE_LOOP(base_##name, one_##name, wild_angle)
#define NAME(name) base_##name,
VECTOR_FUNCTIONS(SET_ONE, SET_ANGLE, SET_TWO)
TWO_LOOPS(base_softplus, SOFTPLUS_FIRST, SOFTPLUS_SECOND, NEVER)
TWO_LOOPS(base_pow, pow_first, pow_second, wild_power)
static const vector_set_t set_base = {VECTOR_FUNCTIONS(NAME, NAME, NAME) base_pow};
static const vector_set_t *vectors = &set_base;
#undef TARGET
#undef SET_ONE
#undef SET_ANGLE
#undef NAME

#if defined(__GNUC__) && defined(__x86_64__)
#define TARGET __attribute__((target("avx2"))) /* never fma: its single rounding would change bits */
#define SET_ONE(name) ONE_LOOP(avx2_##name, one_##name, NEVER)
#define SET_ANGLE(name) ONE_LOOP(avx2_##name, one_##name, wild_angle)
#define NAME(name) avx2_##name,
VECTOR_FUNCTIONS(SET_ONE, SET_ANGLE, SET_TWO)
TWO_LOOPS(avx2_softplus, SOFTPLUS_FIRST, SOFTPLUS_SECOND, NEVER)
TWO_LOOPS(avx2_pow, pow_first, pow_second, wild_power)
static const vector_set_t set_avx2 = {VECTOR_FUNCTIONS(NAME, NAME, NAME) avx2_pow};

void vec_select(int avx2) { vectors = avx2 ? &set_avx2 : &set_base; }
#else
void vec_select(int avx2) { (void)avx2; }
#endif

/* -- calls --------------------------------------------------------------------------------------------------------- */

/* n elements; the last that make no whole group are computed in one filled up with ones. */
static uint64_t run(loop_t loop, double *z, const double *x, const double *y, size_t n)
{
    size_t whole = n / LANES * LANES, rest = n - whole;
    uint64_t wild = loop(z, x, y, n / LANES);
    if (rest) {
        double a[LANES] = {1, 1, 1, 1}, b[LANES] = {1, 1, 1, 1};
        memcpy(a, x + whole, rest * sizeof *a);
        memcpy(b, y + whole, rest * sizeof *b);
        wild |= loop(a, a, b, 1);
        memcpy(z + whole, a, rest * sizeof *a);
    }
    return wild;
}

static void run_angle(loop_t loop, double (*libm)(double), double *y, const double *x, size_t n)
{
    double kept[BLOCK * LANES];
    size_t i, m;
    for (; n; n -= m, x += m, y += m) {
        m = n < BLOCK * LANES ? n : BLOCK * LANES;
        memcpy(kept, x, m * sizeof *x);
        if (run(loop, y, x, x, m))
            for (i = 0; i < m; i++)
                if (wild_angle(kept[i])) y[i] = libm(kept[i]);
    }
}

void vec_pow(double *z, const double *x, const double *y, size_t n)
{
    double kept[BLOCK * LANES], exponents[BLOCK * LANES];
    size_t i, m;
    for (; n; n -= m, x += m, y += m, z += m) {
        m = n < BLOCK * LANES ? n : BLOCK * LANES;
        memcpy(kept, x, m * sizeof *x);
        memcpy(exponents, y, m * sizeof *y);
        if (run(vectors->pow, z, x, y, m))
            for (i = 0; i < m; i++)
                if (wild_power(kept[i], exponents[i])) z[i] = pow(kept[i], exponents[i]);
    }
}

#define CALL(name) \
    void vec_##name(double *y, const double *x, size_t n) { run(vectors->name, y, x, x, n); }
#define CALL_ANGLE(name) \
    void vec_##name(double *y, const double *x, size_t n) { run_angle(vectors->name, name, y, x, n); }
VECTOR_FUNCTIONS(CALL, CALL_ANGLE, CALL)

#define ENTRY(name) {#name, vec_##name},
const vector_entry_t vector_table[] = {VECTOR_FUNCTIONS(ENTRY, ENTRY, ENTRY){NULL, NULL}};
