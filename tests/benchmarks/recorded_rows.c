/* Price and 5 first Greeks of many European calls by hand, a row at a time: what the work costs
 * with the functions of libm.
 *
 * The same formulas as black_scholes() in derivatives_models.py. Columns in, columns out: S, K, r,
 * sigma and T; the price and its derivatives by these.
 */
#include <math.h>

static const double HALF_ROOT = 0.70710678118654752440; /* sqrt(1/2) */
static const double DENSITY = 0.39894228040143267794;   /* 1/sqrt(2 pi) */

/* Forward, and the chain rule backward through each line of it. */
void greeks_by_sweeps(const double *const *in, double *const *out, long n)
{
    for (long i = 0; i < n; i++) {
        double S = in[0][i], K = in[1][i], r = in[2][i], sigma = in[3][i], T = in[4][i];
        double root = sqrt(T), spread = sigma * root;
        double drift = r + 0.5 * sigma * sigma;
        double d1 = (log(S / K) + drift * T) / spread, d2 = d1 - spread;
        double n1 = 0.5 * (1.0 + erf(d1 * HALF_ROOT)), n2 = 0.5 * (1.0 + erf(d2 * HALF_ROOT));
        double discount = exp(-r * T);
        out[0][i] = S * n1 - K * discount * n2;

        double n1_bar = S, n2_bar = -K * discount, discount_bar = -K * n2;
        double d2_bar = n2_bar * DENSITY * exp(-0.5 * d2 * d2);
        double d1_bar = n1_bar * DENSITY * exp(-0.5 * d1 * d1) + d2_bar;
        double above_bar = d1_bar / spread, spread_bar = -d2_bar - above_bar * d1;
        double drift_bar = above_bar * T;
        out[1][i] = n1 + above_bar / S;
        out[2][i] = -discount * n2 - above_bar / K;
        out[3][i] = drift_bar - discount_bar * discount * T;
        out[4][i] = drift_bar * sigma + spread_bar * root;
        out[5][i] = above_bar * drift - discount_bar * discount * r
                    + spread_bar * sigma * 0.5 / root;
    }
}

/* The textbook's formulas, which know that S * density(d1) is K * discount * density(d2). */
void greeks_in_closed_form(const double *const *in, double *const *out, long n)
{
    for (long i = 0; i < n; i++) {
        double S = in[0][i], K = in[1][i], r = in[2][i], sigma = in[3][i], T = in[4][i];
        double root = sqrt(T), spread = sigma * root;
        double d1 = (log(S / K) + (r + 0.5 * sigma * sigma) * T) / spread, d2 = d1 - spread;
        double n1 = 0.5 * (1.0 + erf(d1 * HALF_ROOT)), n2 = 0.5 * (1.0 + erf(d2 * HALF_ROOT));
        double discount = exp(-r * T), owed = K * discount * n2;
        double share = S * DENSITY * exp(-0.5 * d1 * d1);
        out[0][i] = S * n1 - owed;
        out[1][i] = n1;
        out[2][i] = -discount * n2;
        out[3][i] = T * owed;
        out[4][i] = share * root;
        out[5][i] = share * sigma / (2.0 * root) + r * owed;
    }
}
