/* portable.h: functions that the formulas of ops.def call, in C99 that needs nothing but libm: what Python's float and math
 * compute where that differs from libm's function of the same name, so that mingrad's values equal Python's to the bit; what
 * libm lacks; values of ops over n numbers. Knows no tape, no op, no Python.
 *
 * The core compiles each part once (special.c, kernels.c), and its text is in the core too (setup.py makes portable_text.pxi of
 * it), so that a program's C file has what it needs of it, and its Python source a translation (mingrad/export.py). So here
 * are only functions and tables whose names begin with mg_ or k_, each a piece of text without an empty line in it, with
 * one between pieces and what a piece needs above it. Of libm a function is named only where the core and the export mean
 * the same.
 */

#ifdef PORTABLE_TREE
#undef PORTABLE_TREE

/* Joins the lanes of a sum; see kernels.h. */
static inline double k_join(const double *s) { return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])); }

/* Sum of x[0..n) by the tree of kernels.h. */
static inline double k_sum(const double *x, size_t n)
{
    double s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    size_t i;
    if (n <= 2) return n == 0 ? 0 : n == 1 ? x[0] : x[0] + x[1];
    for (i = 0; i < n && i < 8; i++) s[i] = x[i];
    for (i = 8; i < n; i++) s[i & 7] += x[i];
    return k_join(s);
}

/* Sum of x[i] * y[i] by the same tree. */
static inline double k_dot(const double *x, const double *y, size_t n)
{
    double s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    size_t i;
    if (n <= 2) return n == 0 ? 0 : n == 1 ? x[0] * y[0] : x[0] * y[0] + x[1] * y[1];
    for (i = 0; i < n && i < 8; i++) s[i] = x[i] * y[i];
    for (i = 8; i < n; i++) s[i & 7] += x[i] * y[i];
    return k_join(s);
}

#endif

#ifdef PORTABLE_RANGES
#undef PORTABLE_RANGES

double k_mean(const double *x, size_t n) { return k_sum(x, n) / (double)n; }

double k_prod(const double *x, size_t n)
{
    double p = 1;
    size_t i;
    for (i = 0; i < n; i++) p *= x[i];
    return p;
}

double k_max(const double *x, size_t n)
{
    double m = -INFINITY;
    size_t i;
    for (i = 0; i < n; i++) {
        if (isnan(x[i])) return x[i];
        if (x[i] > m || i == 0) m = x[i];
    }
    return m;
}

double k_min(const double *x, size_t n)
{
    double m = INFINITY;
    size_t i;
    for (i = 0; i < n; i++) {
        if (isnan(x[i])) return x[i];
        if (x[i] < m || i == 0) m = x[i];
    }
    return m;
}

double k_count(const double *x, size_t n, double v)
{
    double count = 0;
    size_t i;
    for (i = 0; i < n; i++) count += x[i] == v;
    return count;
}

double k_sumexp(const double *x, size_t n)
{
    double m = k_max(x, n), s = 0;
    size_t i;
    for (i = 0; i < n; i++) s += exp(x[i] - m);
    return s;
}

double k_logsumexp(const double *x, size_t n)
{
    double m = k_max(x, n), s = 0;
    size_t i, at = 0;
    if (!isfinite(m)) return m; /* inf, -inf or nan decides alone */
    while (x[at] != m) at++;
    for (i = 0; i < n; i++)
        if (i != at) s += exp(x[i] - m);
    return m + log1p(s); /* the largest term is 1 exactly: log1p keeps a small rest */
}

double k_cross_entropy(const double *x, size_t n, size_t k)
{
    double m = k_max(x, n), s = 0;
    size_t i, at = k; /* the place of the largest: k itself where it is one, so that the difference is 0 exactly */
    if (!isfinite(m)) return m - x[k];
    if (x[k] != m)
        for (at = 0; x[at] != m;) at++;
    for (i = 0; i < n; i++)
        if (i != at) s += exp(x[i] - m);
    return (m - x[k]) + log1p(s);
}

double k_mean_square(const double *x, size_t n) { return k_dot(x, x, n) / (double)n; }

double k_norm(const double *x, size_t n)
{
    double big = 0, s = 0, scale;
    int exponent, infinite = 0, nan = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        infinite |= isinf(x[i]);
        nan |= isnan(x[i]);
        if (fabs(x[i]) > big) big = fabs(x[i]);
    }
    if (infinite) return INFINITY;
    if (nan) return NAN;
    if (big == 0) return 0;
    frexp(big, &exponent); /* a power of two scales without rounding */
    scale = ldexp(1, exponent < -1021 ? 1021 : -exponent);
    for (i = 0; i < n; i++) s += (x[i] * scale) * (x[i] * scale);
    return sqrt(s) / scale;
}

#endif

#ifdef PORTABLE_EXACT
#undef PORTABLE_EXACT

/* What x*x has beyond its rounded value, exactly, by Veltkamp's split (|x| < 2**500). */
static inline double mg_square_rest(double x)
{
    double t = x * 134217729.0, h = t - (t - x), l = x - h;
    return ((h * h - x * x) + 2 * h * l) + l * l;
}

/* What x*y has beyond its rounded value, exactly (no overflow: |x|, |y| < 2**500). */
static inline double mg_product_rest(double x, double y)
{
    double t = x * 134217729.0, h = t - (t - x), l = x - h;
    double u = y * 134217729.0, k = u - (u - y), m = y - k;
    return ((h * k - x * y) + h * m + l * k) + l * m;
}

#endif

#ifdef PORTABLE_SPECIAL
#undef PORTABLE_SPECIAL

/* -- as Python's float and math do ------------------------------------------------------------------------------- */

/* float.__pow__ follows C99 Annex F, which old C libraries do not; where Python turns complex this gives nan. */
double mg_power(double a, double b)
{
    if (b == 0 || a == 1) return 1;
    if (isnan(a)) return a;
    if (isnan(b)) return b;
    if (a == -1 && isinf(b)) return 1;
    return pow(a, b);
}

/* a - b*floor(a/b), with the sign of b, as float.__mod__. */
double mg_mod(double a, double b)
{
    double r = fmod(a, b);
    if (b == 0) return NAN;
    if (r == 0) return copysign(0, b);
    return (b < 0) != (r < 0) ? r + b : r;
}

/* float.__floordiv__: the quotient is rounded to the integer that divmod's remainder belongs to. */
double mg_floordiv(double a, double b)
{
    double r, quotient, whole;
    if (b == 0) return a / b;
    r = fmod(a, b);
    quotient = (a - r) / b;
    if (r != 0 && (b < 0) != (r < 0)) quotient -= 1;
    if (quotient == 0) return copysign(0, a / b);
    whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1 : whole;
}

/* sqrt(a*a + b*b) with one correction step on the exact residual: correctly rounded but for near ties, as math.hypot. */
double mg_hypot(double a, double b)
{
    double big = fabs(a), small = fabs(b), p, q, s, e, h;
    int exponent;
    if (isinf(a) || isinf(b)) return INFINITY;
    if (isnan(a) || isnan(b)) return NAN;
    if (big < small) {
        double t = big;
        big = small;
        small = t;
    }
    if (small == 0) return big;
    frexp(big, &exponent);
    big = ldexp(big, -exponent);
    small = ldexp(small, -exponent);
    p = big * big;
    q = small * small;
    s = p + q;
    e = (q - (s - p)) + (mg_square_rest(big) + mg_square_rest(small));
    h = sqrt(s + e);
    h += (((s - h * h) - mg_square_rest(h)) + e) / (2 * h);
    return ldexp(h, exponent);
}

/* sin(pi*x) for x >= 0, exact at the integers. */
static double mg_sin_pi(double x)
{
    double r = fmod(x, 2.0);
    static const double pi = 3.141592653589793;
    switch ((int)round(2.0 * r)) {
    case 0:  return sin(pi * r);
    case 1:  return cos(pi * (r - 0.5));
    case 2:  return sin(pi * (1.0 - r));
    case 3:  return -cos(pi * (r - 1.5));
    default: return sin(pi * (r - 2.0));
    }
}

/* Lanczos' approximation with g = 6.0246..., N = 13 (coefficients: Boost.Math, lanczos13m53), as math.lgamma takes it. */
static const double mg_lanczos_g = 6.024680040776729583740234375;
static const double mg_lanczos_top[13] = {
    23531376880.410759688572007674451636754734846804940, 42919803642.649098768957899047001988850926355848959,
    35711959237.355668049440185451547166705960488635843, 17921034426.037209699919755754458931112671403265390,
    6039542586.3520280050642916443072979210699388420708, 1439720407.3117216736632230727949123939715485786372,
    248874557.86205415651146038641322942321632125127801, 31426415.585400194380614231628318205362874684987640,
    2876370.6289353724412254090516208496135991145378768, 186056.26539522349504029498971604569928220784236328,
    8071.6720023658162106380029022722506138218516325024, 210.82427775157934587250973392071336271166969580291,
    2.5066282746310002701649081771338373386264310793408};
static const double mg_lanczos_bottom[13] = {0,       39916800, 120543840, 150917976, 105258076, 45995730, 13339535,
                                             2637558, 357423,   32670,     1925,      66,        1};

static double mg_lanczos_ratio(double x)
{
    double top = 0, bottom = 0;
    int i;
    if (x < 5)
        for (i = 12; i >= 0; i--) {
            top = top * x + mg_lanczos_top[i];
            bottom = bottom * x + mg_lanczos_bottom[i];
        }
    else /* in powers of 1/x, or the powers would overflow */
        for (i = 0; i < 13; i++) {
            top = top / x + mg_lanczos_top[i];
            bottom = bottom / x + mg_lanczos_bottom[i];
        }
    return top / bottom;
}

/* log |gamma(a)|; at a pole inf. */
double mg_lgamma(double a)
{
    static const double log_pi = 1.144729885849400174143427351353058711647;
    double x = fabs(a), r;
    if (isnan(a)) return a;
    if (isinf(a)) return INFINITY;
    if (a == floor(a) && a <= 2) return a <= 0 ? INFINITY : 0;
    if (x < 1e-20) return -log(x);
    r = log(mg_lanczos_ratio(x)) - mg_lanczos_g;
    r += (x - 0.5) * (log(x + mg_lanczos_g - 0.5) - 1);
    if (a < 0) r = log_pi - log(fabs(mg_sin_pi(x))) - log(x) - r;
    return r;
}

/* -- what libm lacks --------------------------------------------------------------------------------------------- */

/* exp(-a*a): a is split so that the rounding of a*a, which exp would magnify a*a times, is put back. */
double mg_gauss(double a)
{
    if (!(fabs(a) < 28)) return isnan(a) ? a : 0;
    return exp(-(a * a)) * (1 - mg_square_rest(a));
}

/* pi / tan(pi*x) reduced to |r| <= 1/2, where it is exact to the last bits. */
static double mg_pi_cot_pi(double x)
{
    static const double pi = 3.141592653589793;
    double r = x - round(x);
    return fabs(r) == 0.5 ? 0 : pi / tan(pi * r);
}

/* Taylor coefficients of digamma about its positive root (computed with 60 digits), in rising powers from the first. */
static const double mg_digamma_root_hi = 0x1.762d86356be3fp+0, mg_digamma_root_lo = 0x1.b86a722197829p-54;
static const double mg_digamma_taylor[40] = {
    0x1.ef72bc8ee38acp-1,   -0x1.c563b54aa1a35p-2,  0x1.08b4294d50381p-2,   -0x1.4fc1317257da8p-3,  0x1.b9a5b6370f3abp-4,
    -0x1.27baba261cc2cp-4,  0x1.8fce02b239ca7p-5,   -0x1.0fa7ec36a7d8fp-5,  0x1.723d6807edcc0p-6,   -0x1.f970508e1b6a2p-7,
    0x1.5955caaa962f3p-7,   -0x1.d828079282eb8p-8,  0x1.42e1acf81d8dcp-8,   -0x1.b9afc7cee8a14p-9,  0x1.2e23345f79aafp-9,
    -0x1.9d626f71d1f7ap-10, 0x1.1acebbd761089p-10,  -0x1.82f6345c65b35p-11, 0x1.08bdae1a261d4p-11,  -0x1.6a3fddea11304p-12,
    0x1.efacab6fb8985p-13,  -0x1.531f5dc5eb563p-13, 0x1.d0080f810fab5p-14,  -0x1.3d7972688af67p-14, 0x1.b2691182c5c34p-15,
    -0x1.29357f7d6cb86p-15, 0x1.96ae4a8e32b49p-16,  -0x1.163cc7373be8bp-16, 0x1.7cb8b3916fd29p-17,  -0x1.047a1894e0fdep-17,
    0x1.646b54f410bdfp-18,  -0x1.e7b34a5b78a3cp-19, 0x1.4dab173747443p-19,  -0x1.c891c9fca61dep-20, 0x1.385e9fcb1c6a8p-20,
    -0x1.ab6cff79188aap-21, 0x1.246e3329dab55p-21,  -0x1.902471b2c8ebdp-22, 0x1.11c399dbd8e73p-22,  -0x1.7699ba6292b3ep-23};

/* d/da log |gamma(a)|. On [1, 2] the series about the root keeps the digits that a difference would lose there; the
   recurrence digamma(x + 1) = digamma(x) + 1/x leads to it; from 10 on the asymptotic series (DLMF 5.11.2). */
double mg_digamma(double a)
{
    double x = a, sum = 0, t, u;
    int k;
    if (isnan(a)) return a;
    if (a == 0) return copysign(INFINITY, -a);
    if (isinf(a)) return a > 0 ? a : NAN;
    if (a < 0) return a == floor(a) ? NAN : mg_digamma(1 - a) - mg_pi_cot_pi(a);
    if (x >= 10) {
        u = 1 / (x * x);
        t = 1 / 132.0 - u * (691 / 32760.0 - u * (1 / 12.0 - u * (3617 / 8160.0)));
        t = u * (1 / 12.0 - u * (1 / 120.0 - u * (1 / 252.0 - u * (1 / 240.0 - u * t))));
        return log(x) - 0.5 / x - t;
    }
    while (x > 2) {
        x -= 1;
        sum += 1 / x;
    }
    if (x < 1) {
        sum -= 1 / x;
        x += 1;
    }
    t = (x - mg_digamma_root_hi) - mg_digamma_root_lo;
    u = 0;
    for (k = 39; k >= 0; k--) u = (u + mg_digamma_taylor[k]) * t;
    return sum + u;
}

/* d/da digamma(a): recurrence up to 10, then the asymptotic series (DLMF 5.15.8); all terms have one sign. */
double mg_trigamma(double a)
{
    static const double pi = 3.141592653589793;
    double x = a, sum = 0, u, s;
    if (isnan(a)) return a;
    if (isinf(a)) return a > 0 ? 0 : NAN;
    if (a <= 0) {
        if (a == floor(a)) return INFINITY;
        s = pi / mg_sin_pi(-a);
        return s * s - mg_trigamma(1 - a);
    }
    while (x < 10) {
        sum += 1 / (x * x);
        x += 1;
    }
    u = 1 / (x * x);
    s = 5 / 66.0 - u * (691 / 2730.0 - u * (7 / 6.0 - u * (3617 / 510.0)));
    s = 1 / 6.0 - u * (1 / 30.0 - u * (1 / 42.0 - u * (1 / 30.0 - u * s)));
    return sum + (1 / x + u * 0.5 + u / x * s);
}

/* (-1)**(n + 1) n! zeta(n + 1, a): the sum of 1 / (a + k)**(n + 1) up to n + 16, then Euler and Maclaurin's series
   (DLMF 25.11.43). Below -1e6, where that sum is long, nan. */
double mg_polygamma(double a, double n)
{
    /* B(2k) / (2k)! over the one before, so that terms follow from each other */
    static const double ratio[] = {
        1 / 12.0, -1 / 60.0, -1 / 42.0, -1 / 40.0, -5 / 198.0, -691 / 27300.0, -35 / 1382.0, -3617 / 142800.0,
    };
    double x = a, sum = 0, u, term;
    int k;
    if (n == 1) return mg_trigamma(a);
    if (isnan(a) || isnan(n)) return a + n;
    if (isinf(a)) return a > 0 ? 0 : NAN;
    if ((a <= 0 && a == floor(a)) || a < -1e6) return NAN;
    while (x < n + 16) {
        sum += pow(x, -(n + 1));
        x += 1;
    }
    u = pow(x, -(n + 1));
    sum += u * x / n + u * 0.5;
    term = u / x * (n + 1);
    for (k = 0; k < 8; k++) {
        term *= ratio[k];
        sum += term;
        term *= (n + 2 * k + 2) * (n + 2 * k + 3) / (x * x);
    }
    return (fmod(n, 2) == 0 ? -1 : 1) * tgamma(n + 1) * sum;
}

/* The normal distribution's function, erfc(-a/sqrt(2)) / 2. -a/sqrt(2) is taken as a sum hi + lo: erfc magnifies the
   rounding of its operand a*a times, and erfc's derivative puts lo back. */
double mg_normal_cdf(double a)
{
    double hi = -a * SQRT1_2, lo = mg_product_rest(-a, SQRT1_2);
    if (!(fabs(a) < 40)) return isnan(a) ? a : a > 0;
    lo += a * 0x1.bdd3413b26456p-55; /* 1/sqrt(2) = SQRT1_2 - this */
    return 0.5 * (erfc(hi) - TWO_INV_SQRTPI * mg_gauss(hi) * lo);
}

/* exp(-a*a/2) / sqrt(2*pi), a*a taken exactly. */
double mg_normal_pdf(double a)
{
    if (!(fabs(a) < 40)) return isnan(a) ? a : 0;
    return INV_SQRT_2PI * (exp(-0.5 * (a * a)) * (1 - 0.5 * mg_square_rest(a)));
}

/* d/da a**b. Where b - 1 is rounded, the power would magnify that log(a) times: then y / a, unless y has lost bits. */
double mg_power_slope(double a, double b, double y)
{
    double size = fabs(y), less = b - 1, step = less - b;
    int rounded = (b - (less - step)) + (-1 - step) != 0;
    if (rounded && a != 0 && size > 1e-290 && size < 1e290) return b * (y / a);
    return b * mg_power(a, b - 1);
}

/* a / y with y = hypot(a, b); a subnormal y has lost bits, so there both are scaled. 0 at the origin. */
double mg_hypot_slope(double a, double b, double y)
{
    if (y == 0) return 0;
    return y < 1e-290 ? a * 0x1p600 / mg_hypot(a * 0x1p600, b * 0x1p600) : a / y;
}

/* a / (a*a + b*b), 0 at the origin; no step over- or underflows unless the result does. */
double mg_atan2_slope(double a, double b)
{
    double h = mg_hypot(a, b);
    if (h == 0) return 0;
    if (h < 1e-290) {
        h = mg_hypot(a * 0x1p600, b * 0x1p600);
        return a * 0x1p600 / h / h * 0x1p600;
    }
    if (h > 1e300) {
        h = mg_hypot(a * 0.25, b * 0.25);
        return a * 0.25 / h / h * 0.25;
    }
    return a / h / h;
}

#endif
