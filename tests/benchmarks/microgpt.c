/* Loss and gradient of microgpt by hand: what the work costs without any engine.
 *
 * The network of mingrad/examples/microgpt.py with 27 tokens. Not general: sizes are constants, so
 * that the compiler unrolls. A matrix is stored row by row, a row for each result, as there. Rows
 * serve the backward pass as they are; for the forward pass they are turned once for each name,
 * which makes every inner loop independent sums and needs no reordering of floating point.
 */
#include <math.h>
#include <string.h>

enum { TOKENS = 27, BLOCK = 16, W = 16, HEADS = 4, SIZE = W / HEADS, WIDE = 4 * W };
static const double EPSILON = 1e-5;

typedef struct { /* the weights, or their gradient; in the order of parameters() */
    double token[TOKENS][W], position[BLOCK][W];
    double query[W][W], key[W][W], value[W][W], join[W][W];
    double widen[WIDE][W], narrow[W][WIDE], output[TOKENS][W];
} net;

typedef struct { /* the matrices as [input][result] */
    double query[W][W], key[W][W], value[W][W], join[W][W];
    double widen[W][WIDE], narrow[WIDE][W], output[W][TOKENS];
} turned;

typedef struct { /* what backward needs of one letter; n are normed x, s their factors */
    double n1[W], s1, query[W], key[W], value[W], share[HEADS][BLOCK], found[W];
    double n2[W], s2, hidden[WIDE], n3[W], s3, chance[TOKENS];
} letter;

static inline void turn(int rows, int columns, const double *w, double *t)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) t[c * rows + r] = w[r * columns + c];
}

/* y = w x, with w turned */
static inline void linear(int rows, int columns, const double *t, const double *x, double *y)
{
    for (int r = 0; r < rows; r++) y[r] = 0.0;
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) y[r] += t[c * rows + r] * x[c];
}

/* Given dy, add to the gradients of w and x. */
static inline void linear_back(int rows, int columns, const double *w, double *dw, const double *x,
                               double *dx, const double *dy)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            dw[r * columns + c] += dy[r] * x[c];
            dx[c] += dy[r] * w[r * columns + c];
        }
}

/* n = x * s; returns s = 1 / sqrt(mean of squares + epsilon) */
static inline double norm(const double *x, double *n)
{
    double squares = 0.0;
    for (int i = 0; i < W; i++) squares += x[i] * x[i];
    double s = 1.0 / sqrt(squares / W + EPSILON);
    for (int i = 0; i < W; i++) n[i] = x[i] * s;
    return s;
}

/* Given dn, add to the gradient of x. */
static inline void norm_back(const double *n, double s, const double *dn, double *dx)
{
    double along = 0.0;
    for (int i = 0; i < W; i++) along += dn[i] * n[i];
    along /= W;
    for (int i = 0; i < W; i++) dx[i] += s * (dn[i] - along * n[i]);
}

/* In place. Returns log(sum(exp(x))). */
static inline double softmax(double *x, int n)
{
    double largest = x[0], total = 0.0;
    for (int i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    for (int i = 0; i < n; i++) total += x[i] = exp(x[i] - largest);
    for (int i = 0; i < n; i++) x[i] /= total;
    return log(total) + largest;
}

/* Add the gradient of a name's loss to g; returns the loss. tokens: n + 1, n of them to predict. */
static double gradient(const net *p, net *g, const int *tokens, int n)
{
    static turned t;
    static letter letters[BLOCK];
    const double root = sqrt(SIZE);
    double total = 0.0;
    turn(W, W, p->query[0], t.query[0]);
    turn(W, W, p->key[0], t.key[0]);
    turn(W, W, p->value[0], t.value[0]);
    turn(W, W, p->join[0], t.join[0]);
    turn(WIDE, W, p->widen[0], t.widen[0]);
    turn(W, WIDE, p->narrow[0], t.narrow[0]);
    turn(TOKENS, W, p->output[0], t.output[0]);

    for (int k = 0; k < n; k++) {
        letter *a = &letters[k];
        double x[W], y[W];
        for (int i = 0; i < W; i++) x[i] = p->token[tokens[k]][i] + p->position[k][i];
        a->s1 = norm(x, a->n1);
        linear(W, W, t.query[0], a->n1, a->query);
        linear(W, W, t.key[0], a->n1, a->key);
        linear(W, W, t.value[0], a->n1, a->value);
        memset(a->found, 0, sizeof a->found);
        for (int h = 0; h < HEADS; h++) {
            for (int j = 0; j <= k; j++) {
                double fit = 0.0;
                for (int i = h * SIZE; i < (h + 1) * SIZE; i++)
                    fit += a->query[i] * letters[j].key[i];
                a->share[h][j] = fit / root;
            }
            softmax(a->share[h], k + 1);
            for (int j = 0; j <= k; j++)
                for (int i = h * SIZE; i < (h + 1) * SIZE; i++)
                    a->found[i] += a->share[h][j] * letters[j].value[i];
        }
        linear(W, W, t.join[0], a->found, y);
        for (int i = 0; i < W; i++) x[i] += y[i];
        a->s2 = norm(x, a->n2);
        linear(WIDE, W, t.widen[0], a->n2, a->hidden);
        for (int i = 0; i < WIDE; i++) a->hidden[i] = a->hidden[i] > 0.0 ? a->hidden[i] : 0.0;
        linear(W, WIDE, t.narrow[0], a->hidden, y);
        for (int i = 0; i < W; i++) x[i] += y[i];
        a->s3 = norm(x, a->n3);
        linear(TOKENS, W, t.output[0], a->n3, a->chance);
        double logit = a->chance[tokens[k + 1]];
        total += softmax(a->chance, TOKENS) - logit;
    }

    double dkey[BLOCK][W] = {{0.0}}, dvalue[BLOCK][W] = {{0.0}};
    for (int k = n - 1; k >= 0; k--) {
        letter *a = &letters[k];
        double dx[W] = {0.0}, dn1[W] = {0.0}, dn2[W] = {0.0}, dn3[W] = {0.0};
        double dhidden[WIDE] = {0.0}, dfound[W] = {0.0}, dquery[W] = {0.0};
        a->chance[tokens[k + 1]] -= 1.0;
        for (int i = 0; i < TOKENS; i++) a->chance[i] /= n;
        linear_back(TOKENS, W, p->output[0], g->output[0], a->n3, dn3, a->chance);
        norm_back(a->n3, a->s3, dn3, dx);
        linear_back(W, WIDE, p->narrow[0], g->narrow[0], a->hidden, dhidden, dx);
        for (int i = 0; i < WIDE; i++) dhidden[i] = a->hidden[i] > 0.0 ? dhidden[i] : 0.0;
        linear_back(WIDE, W, p->widen[0], g->widen[0], a->n2, dn2, dhidden);
        norm_back(a->n2, a->s2, dn2, dx);
        linear_back(W, W, p->join[0], g->join[0], a->found, dfound, dx);
        for (int h = 0; h < HEADS; h++) {
            double dshare[BLOCK], along = 0.0;
            for (int j = 0; j <= k; j++) {
                dshare[j] = 0.0;
                for (int i = h * SIZE; i < (h + 1) * SIZE; i++) {
                    dshare[j] += dfound[i] * letters[j].value[i];
                    dvalue[j][i] += dfound[i] * a->share[h][j];
                }
                along += dshare[j] * a->share[h][j];
            }
            for (int j = 0; j <= k; j++) {
                double dfit = a->share[h][j] * (dshare[j] - along) / root;
                for (int i = h * SIZE; i < (h + 1) * SIZE; i++) {
                    dquery[i] += dfit * letters[j].key[i];
                    dkey[j][i] += dfit * a->query[i];
                }
            }
        }
        linear_back(W, W, p->query[0], g->query[0], a->n1, dn1, dquery);
        linear_back(W, W, p->key[0], g->key[0], a->n1, dn1, dkey[k]);
        linear_back(W, W, p->value[0], g->value[0], a->n1, dn1, dvalue[k]);
        norm_back(a->n1, a->s1, dn1, dx);
        for (int i = 0; i < W; i++) {
            g->token[tokens[k]][i] += dx[i];
            g->position[k][i] += dx[i];
        }
    }
    return total / n;
}

/* Add the gradients of all names, one after the other, n times over. tokens: one name behind the
 * other; lengths: how many tokens to predict in each. Returns the last loss. */
double microgpt(const double *weights, double *grad, const int *tokens, const int *lengths,
                int names, long n)
{
    double loss = 0.0;
    for (; n > 0; n--) {
        const int *name = tokens;
        for (int i = 0; i < names; name += lengths[i++] + 1)
            loss = gradient((const net *)weights, (net *)grad, name, lengths[i]);
    }
    return loss;
}

/* One step of Adam, the `steps`th, over n parameters. */
void adam(double *weights, const double *grad, double *means, double *squares, long n, int steps,
          double rate, double beta1, double beta2, double epsilon)
{
    const double speed = rate / (1.0 - pow(beta1, steps));
    const double of_root = 1.0 / sqrt(1.0 - pow(beta2, steps));
    for (long i = 0; i < n; i++) {
        means[i] = beta1 * means[i] + (1.0 - beta1) * grad[i];
        squares[i] = beta2 * squares[i] + (1.0 - beta2) * grad[i] * grad[i];
        weights[i] -= speed * means[i] / (sqrt(squares[i]) * of_root + epsilon);
    }
}

/* Training: for each name its gradient and a step of Adam, all names n times over, Adam's first
 * step first. The rest as above. Returns the last loss. */
double microgpt_train(double *weights, double *grad, double *means, double *squares, long count,
                      const int *tokens, const int *lengths, int names, long n, double rate,
                      double beta1, double beta2, double epsilon)
{
    double loss = 0.0;
    int steps = 0;
    for (; n > 0; n--) {
        const int *name = tokens;
        for (int i = 0; i < names; name += lengths[i++] + 1) {
            memset(grad, 0, sizeof(double) * count);
            loss = gradient((const net *)weights, (net *)grad, name, lengths[i]);
            adam(weights, grad, means, squares, count, ++steps, rate, beta1, beta2, epsilon);
        }
    }
    return loss;
}
