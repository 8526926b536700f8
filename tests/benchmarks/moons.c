/* One training step of the moons demo by hand: what the work costs without any engine.
 *
 * The network is 2-16-16-1 with relu, the loss the SVM max-margin loss over all points plus L2;
 * the same step as notebook() in moons.py. Not general: sizes are constants, so that the compiler
 * keeps a layer in registers. Inside, a weight matrix is stored with the outputs innermost, which
 * makes every inner loop 16 independent sums and needs no reordering of floating point.
 */
#include <string.h>

enum { IN = 2, H = 16, W1 = 0, W2 = H * (IN + 1), W3 = W2 + H * (H + 1), COUNT = W3 + H + 1 };

typedef struct {
    double w1[IN][H], b1[H];
    double w2[H][H], b2[H]; /* [input][output] */
    double w3[H], b3;
} net;

/* From and to the order of parameters(): unit by unit, each unit's weights and then its bias. */
static void load(net *p, const double *w)
{
    for (int o = 0; o < H; o++) {
        for (int i = 0; i < IN; i++) p->w1[i][o] = w[W1 + o * (IN + 1) + i];
        p->b1[o] = w[W1 + o * (IN + 1) + IN];
        for (int i = 0; i < H; i++) p->w2[i][o] = w[W2 + o * (H + 1) + i];
        p->b2[o] = w[W2 + o * (H + 1) + H];
        p->w3[o] = w[W3 + o];
    }
    p->b3 = w[W3 + H];
}

static void store(const net *p, double *w)
{
    for (int o = 0; o < H; o++) {
        for (int i = 0; i < IN; i++) w[W1 + o * (IN + 1) + i] = p->w1[i][o];
        w[W1 + o * (IN + 1) + IN] = p->b1[o];
        for (int i = 0; i < H; i++) w[W2 + o * (H + 1) + i] = p->w2[i][o];
        w[W2 + o * (H + 1) + H] = p->b2[o];
        w[W3 + o] = p->w3[o];
    }
    w[W3 + H] = p->b3;
}

/* Forward, loss, accuracy, gradient (into g, without the L2 term). Returns the data loss. */
static double gradient(const net *p, net *g, const double *x, const double *y, int points,
                       int *right)
{
    double total = 0.0, turned[H][H]; /* w2 as [output][input] */
    memset(g, 0, sizeof *g);
    for (int o = 0; o < H; o++)
        for (int i = 0; i < H; i++) turned[o][i] = p->w2[i][o];
    *right = 0;
    for (int n = 0; n < points; n++, x += IN) {
        double h1[H], h2[H], d1[H] = {0.0}, d2[H], score = p->b3;
        for (int o = 0; o < H; o++) h1[o] = p->b1[o];
        for (int i = 0; i < IN; i++)
            for (int o = 0; o < H; o++) h1[o] += p->w1[i][o] * x[i];
        for (int o = 0; o < H; o++) h1[o] = h1[o] > 0.0 ? h1[o] : 0.0;
        for (int o = 0; o < H; o++) h2[o] = p->b2[o];
        for (int i = 0; i < H; i++)
            for (int o = 0; o < H; o++) h2[o] += p->w2[i][o] * h1[i];
        for (int o = 0; o < H; o++) h2[o] = h2[o] > 0.0 ? h2[o] : 0.0;
        for (int o = 0; o < H; o++) score += p->w3[o] * h2[o];

        double margin = 1.0 - y[n] * score;
        *right += (y[n] > 0.0) == (score > 0.0);
        if (!(margin > 0.0)) continue;
        total += margin;

        double d = -y[n] / points;
        g->b3 += d;
        for (int o = 0; o < H; o++) {
            g->w3[o] += d * h2[o];
            d2[o] = h2[o] > 0.0 ? d * p->w3[o] : 0.0;
            g->b2[o] += d2[o];
        }
        for (int i = 0; i < H; i++)
            for (int o = 0; o < H; o++) g->w2[i][o] += d2[o] * h1[i];
        for (int o = 0; o < H; o++)
            for (int i = 0; i < H; i++) d1[i] += d2[o] * turned[o][i];
        for (int i = 0; i < H; i++) {
            d1[i] = h1[i] > 0.0 ? d1[i] : 0.0;
            g->b1[i] += d1[i];
        }
        for (int i = 0; i < IN; i++)
            for (int o = 0; o < H; o++) g->w1[i][o] += d1[o] * x[i];
    }
    return total / points;
}

/* Train from the weights `start` for n steps, beginning again after every 100 as the schedule
 * does. losses: room for n losses, or NULL. Returns the last accuracy. */
double moons_train(const double *start, double *weights, const double *x, const double *y,
                   int points, long n, double *losses)
{
    net p, g;
    int right = 0;
    for (long step = 0; step < n; step++) {
        int k = (int)(step % 100);
        if (k == 0) load(&p, start);
        double loss = gradient(&p, &g, x, y, points, &right), squares = 0.0;
        double *w = (double *)&p, *dw = (double *)&g, rate = 1.0 - 0.9 * k / 100;
        for (int i = 0; i < COUNT; i++) {
            squares += w[i] * w[i];
            w[i] -= rate * (dw[i] + 2e-4 * w[i]);
        }
        if (losses) losses[step] = loss + 1e-4 * squares;
    }
    store(&p, weights);
    return (double)right / points;
}
