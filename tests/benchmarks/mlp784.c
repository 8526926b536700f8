/* MLP 784-50-10 by hand, one sample: forward, loss (the sum of the squared outputs) and backward.
 *
 * Weights and gradients are in the order of parameters(): unit by unit, each unit's weights and
 * then its bias. Gradients are added to what is there, as every engine does. A dot product keeps
 * eight sums at once, so that the compiler can use SIMD without reordering floating point. Units
 * that are switched off are not skipped: the same arithmetic as in the other forms.
 */
enum { IN = 784, H = 50, OUT = 10, SUMS = 8 };

static double dot(const double *restrict a, const double *restrict b, int n)
{
    double s[SUMS] = {0.0}, total = 0.0;
    int i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (int j = 0; j < SUMS; j++) s[j] += a[i + j] * b[i + j];
    for (; i < n; i++) total += a[i] * b[i];
    for (int j = 0; j < SUMS; j++) total += s[j];
    return total;
}

static void add_scaled(double *restrict to, const double *restrict from, double factor, int n)
{
    for (int i = 0; i < n; i++) to[i] += factor * from[i];
}

/* n times forward and backward; the gradients are added up in grad. Returns the loss. */
double mlp784(const double *restrict weights, double *restrict grad, const double *restrict x,
              long n)
{
    const double *second = weights + H * (IN + 1);
    double *grad2 = grad + H * (IN + 1);
    double loss = 0.0;
    while (n-- > 0) {
        double h[H], dh[H] = {0.0};
        for (int o = 0; o < H; o++) {
            const double *w = weights + o * (IN + 1);
            double z = dot(w, x, IN) + w[IN];
            h[o] = z > 0.0 ? z : 0.0;
        }
        loss = 0.0;
        for (int o = 0; o < OUT; o++) {
            const double *w = second + o * (H + 1);
            double *g = grad2 + o * (H + 1);
            double y = dot(w, h, H) + w[H];
            loss += y * y;
            add_scaled(g, h, 2.0 * y, H);
            g[H] += 2.0 * y;
            add_scaled(dh, w, 2.0 * y, H);
        }
        for (int o = 0; o < H; o++) {
            double *g = grad + o * (IN + 1), d = h[o] > 0.0 ? dh[o] : 0.0;
            add_scaled(g, x, d, IN);
            g[IN] += d;
        }
    }
    return loss;
}
