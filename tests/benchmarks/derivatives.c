/* Derivatives by hand of two functions of derivatives_models.py: what the work costs at least.
 *
 * The Hessians are whole matrices, row by row, as most tools give them, although only three
 * diagonals differ from 0. Everything is done `times` times.
 */
#include <math.h>
#include <string.h>

void rosenbrock_gradient(const double *restrict x, double *restrict g, int n, long times)
{
    while (times-- > 0) {
        double carried = 0.0; /* of the term before */
        for (int i = 0; i < n - 1; i++) {
            double rest = x[i + 1] - x[i] * x[i];
            g[i] = carried - 400.0 * x[i] * rest - 2.0 * (1.0 - x[i]);
            carried = 200.0 * rest;
        }
        g[n - 1] = carried;
    }
}

/* The value goes to g[0], the gradient behind it. */
void rosenbrock_both(const double *restrict x, double *restrict g, int n, long times)
{
    while (times-- > 0) {
        double carried = 0.0, total = 0.0;
        for (int i = 0; i < n - 1; i++) {
            double rest = x[i + 1] - x[i] * x[i], above = 1.0 - x[i];
            total += 100.0 * rest * rest + above * above;
            g[i + 1] = carried - 400.0 * x[i] * rest - 2.0 * above;
            carried = 200.0 * rest;
        }
        g[n] = carried;
        g[0] = total;
    }
}

/* The diagonal's and its upper neighbour's element of row i. */
static inline void rosenbrock_row(const double *x, int i, int n, double *diagonal, double *beside)
{
    *diagonal = i > 0 ? 200.0 : 0.0;
    *beside = 0.0;
    if (i < n - 1) {
        *diagonal += 1200.0 * x[i] * x[i] - 400.0 * x[i + 1] + 2.0;
        *beside = -400.0 * x[i];
    }
}

void rosenbrock_hessian(const double *restrict x, double *restrict h, int n, long times)
{
    while (times-- > 0) {
        memset(h, 0, sizeof(double) * n * n);
        for (int i = 0; i < n; i++) {
            double diagonal, beside;
            rosenbrock_row(x, i, n, &diagonal, &beside);
            h[i * n + i] = diagonal;
            if (i < n - 1) h[i * n + i + 1] = h[(i + 1) * n + i] = beside;
        }
    }
}

void rosenbrock_product(const double *restrict x, const double *restrict v, double *restrict y,
                        int n, long times)
{
    while (times-- > 0) {
        double carried = 0.0;
        for (int i = 0; i < n; i++) {
            double diagonal, beside;
            rosenbrock_row(x, i, n, &diagonal, &beside);
            y[i] = carried + diagonal * v[i];
            if (i < n - 1) y[i] += beside * v[i + 1];
            carried = beside * v[i];
        }
    }
}

void chain_hessian(const double *restrict x, double *restrict h, int n, long times)
{
    while (times-- > 0) {
        memset(h, 0, sizeof(double) * n * n);
        for (int i = 0; i < n - 1; i++) {
            double a = x[i], b = x[i + 1], fourth = 12.0 * (a - b) * (a - b);
            double s = sin(a * b), c = cos(a * b);
            h[i * n + i] += fourth - b * b * s;
            h[(i + 1) * n + i + 1] += fourth - a * a * s;
            h[i * n + i + 1] = h[(i + 1) * n + i] = c - a * b * s - fourth;
        }
    }
}
