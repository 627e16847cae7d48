/* SPDX-License-Identifier: Apache-2.0 */
/* From moments to a calibration: means, balanced matrices, the choice per layer and head.
 *
 * With Sk the second moment of centred keys and Sq that of the queries, 1 % of the mean of its diagonal
 * added to each, Sk = Lk*Lk^T, Sq = Lq*Lq^T and Lq^T*Lk = U*S*V^T, the matrix is
 * T = S^-1/2 * U^T * Lq^T: then T*Sk*T^T = T^-T*Sq*T^-1 = S, so every component matters as much as it
 * spreads.  The normalised Hadamard behind it gives all of them the same spread.
 *
 * A matrix is chosen for keys by queries that it was not fitted to: one made of the first half of them
 * is judged by the second half; the one that is kept is made of all. */
#include "calibration.h"
#include "half.h"
#include "kernel/format.h"
#include "linalg.h"
#include "moments.h"
#include <float.h>

#define LEAST_POSITIONS 256u
#define ADDED           0.01 /* of the mean of the diagonal */

/* Scratch of the largest layer. */
struct scratch {
    double *sk, *sq, *m, *t; /* [dim][dim]; m also holds key_trig times the mean's matrix */
    double *kept;            /* [dim][dim], sk while a matrix is judged */
    double *s, *mean;        /* [dim] */
};

static anykv_status fail_head(const anykv_moments *moments, uint32_t l, uint32_t head,
                              const char *side, const char *what)
{
    return akv_fail(moments->context, ANYKV_E_DATA, "moments of layer %u, %s head %u: %s", l, side,
                    head, what);
}

static double trace(const double *a, uint32_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += a[i * n + i];
    return sum;
}

/* A symmetric sum, kept as its lower triangle, as the mean over `count`. */
static void mean_square(const double *sum, double count, uint32_t n, double *out)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            out[i * n + j] = out[j * n + i] = sum[i * n + j] / count;
}

static anykv_status check_square(const anykv_moments *moments, uint32_t l, uint32_t head,
                                 const char *side, const double *a, uint32_t n)
{
    for (size_t i = 0; i < (size_t)n * n; i++)
        if (!(fabs(a[i]) <= DBL_MAX))
            return fail_head(moments, l, head, side, "not finite");
    if (!(trace(a, n) > 0.0))
        return fail_head(moments, l, head, side, "all zero");
    return ANYKV_OK;
}

/* ---- the mean ---- */

/* Mean of the keys turned back to position 0. */
static void mean_of_keys(const anykv_layer *layer, const double *key_trig, double count,
                         double *mean)
{
    const size_t pairs = layer->rope_pairs, trig = 2 * pairs + 1;
    for (size_t i = 0; i < layer->k_dim; i++)
        mean[i] = key_trig[i * trig + 2 * pairs] / count;
    for (uint32_t i = 0; i < pairs; i++) {
        uint32_t a, b;
        akv_rope_pair(layer, i, &a, &b);
        const double *ka = key_trig + a * trig, *kb = key_trig + b * trig;
        mean[a] = (ka[i] + kb[pairs + i]) / count;
        mean[b] = (kb[i] - ka[pairs + i]) / count;
    }
}

static void round_mean(double *mean, uint32_t dim, uint16_t *mu)
{
    for (size_t i = 0; i < dim; i++) {
        mu[i] = akv_half_bits(mean[i]);
        mean[i] = akv_half_value(mu[i]);
    }
}

/* The mean turned to a position is N * trig; N has at most two elements a row, at these columns. */
struct turned {
    uint32_t column[2];
    double factor[2];
};
static struct turned turned_row(const anykv_layer *layer, const double *mean, uint32_t row)
{
    const uint32_t pairs = layer->rope_pairs;
    const bool half = layer->rope == ANYKV_ROPE_HALF;
    if (row >= 2 * pairs)
        return (struct turned){{2 * pairs, 2 * pairs}, {mean[row], 0.0}};
    const uint32_t i = half ? row % pairs : row / 2;
    const bool second = half ? row >= pairs : row % 2;
    uint32_t a, b;
    akv_rope_pair(layer, i, &a, &b);
    return second ? (struct turned){{i, pairs + i}, {mean[b], mean[a]}}
                  : (struct turned){{i, pairs + i}, {mean[a], -mean[b]}};
}

/* sk, the mean of k*k^T, becomes that of centred keys: - X*N^T - N*X^T + N*T*N^T. */
static void take_mean_off(const anykv_layer *layer, const struct akv_layer_moments *sums,
                          const double *key_trig, const double *mean, double *sk)
{
    const size_t dim = layer->k_dim, trig = 2 * (size_t)layer->rope_pairs + 1;
    const double count = (double)sums->keys;
    for (uint32_t i = 0; i < dim; i++)
        for (uint32_t j = 0; j <= i; j++) {
            const struct turned a = turned_row(layer, mean, i), b = turned_row(layer, mean, j);
            double change = 0.0;
            for (int n = 0; n < 2; n++) {
                change -= key_trig[i * trig + b.column[n]] * b.factor[n];
                change -= key_trig[j * trig + a.column[n]] * a.factor[n];
                for (int m = 0; m < 2; m++) {
                    const uint32_t row = a.column[n], column = b.column[m];
                    const size_t place = row >= column ? row * trig + column : column * trig + row;
                    change += a.factor[n] * sums->trig[place] * b.factor[m];
                }
            }
            sk[i * dim + j] += change / count;
            sk[j * dim + i] = sk[i * dim + j];
        }
}

/* ---- the matrix ---- */

static bool factor(double *a, uint32_t n)
{
    const double more = ADDED * trace(a, n) / n;
    for (size_t i = 0; i < n; i++)
        a[i * n + i] += more;
    return akv_cholesky(a, n);
}

/* m = Lq^T * Lk. */
static void multiply_factors(const double *lq, const double *lk, uint32_t n, double *m)
{
    memset(m, 0, (size_t)n * n * sizeof *m);
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i <= k; i++) {
            const double x = lq[k * n + i];
            for (size_t j = 0; j <= k; j++)
                m[i * n + j] += x * lk[k * n + j];
        }
}

static void transpose(const double *a, uint32_t n, double *out)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            out[j * n + i] = a[i * n + j];
}

/* Rows of t dealt round-robin over the Hadamard's blocks, the most important first, then multiplied
 * by the normalised Hadamard of each block. */
static void fold_hadamard(const double *t, uint32_t n, double *out)
{
    const uint32_t block = akv_rotate_block(n), blocks = n / block;
    for (uint32_t c = 0; c < n; c++)
        memcpy(out + (size_t)(c % blocks * block + c / blocks) * n, t + (size_t)c * n,
               n * sizeof *t);
    for (uint32_t stride = 1; stride < block; stride *= 2)
        for (uint32_t row = 0; row < n; row++) {
            if (row & stride)
                continue;
            double *a = out + (size_t)row * n, *b = a + (size_t)stride * n;
            for (uint32_t i = 0; i < n; i++) {
                const double x = a[i], y = b[i];
                a[i] = x + y;
                b[i] = x - y;
            }
        }
    const double norm = 1.0 / sqrt((double)block);
    for (size_t i = 0; i < (size_t)n * n; i++)
        out[i] *= norm;
}

/* As f16 times a power of two (which changes no code) that keeps the keys' size, or makes it fit. */
static anykv_status store_matrix(const anykv_moments *moments, uint32_t l, uint32_t head,
                                 const char *side, const double *t, uint32_t n, double gain,
                                 uint16_t *matrix)
{
    double largest = 0.0;
    for (size_t i = 0; i < (size_t)n * n; i++)
        largest = fmax(largest, fabs(t[i]));
    if (!(largest > 0.0 && largest <= DBL_MAX && gain > 0.0 && gain <= DBL_MAX))
        return fail_head(moments, l, head, side, "the matrix is not finite");
    int power = -(int)lrint(log2(gain));
    while (ldexp(largest, power) > AKV_HALF_MAX / 2)
        power--;
    for (size_t i = 0; i < (size_t)n * n; i++)
        matrix[i] = akv_half_bits(ldexp(t[i], power));
    return ANYKV_OK;
}

/* t = T, from sk and sq, which are used up; sum_out receives tr S. */
static anykv_status fit(const anykv_moments *moments, uint32_t l, uint32_t head, const char *side,
                        uint32_t n, struct scratch *work, double *sum_out)
{
    if (!factor(work->sk, n) || !factor(work->sq, n))
        return fail_head(moments, l, head, side, "not positive definite after the addition");
    multiply_factors(work->sq, work->sk, n, work->m);
    transpose(work->sq, n, work->t);
    if (!akv_orthogonalise(work->m, work->t, work->s, n))
        return fail_head(moments, l, head, side, "the singular values do not converge");
    *sum_out = 0.0;
    for (size_t i = 0; i < n; i++) {
        *sum_out += work->s[i];
        if (!(work->s[i] > 0.0))
            return fail_head(moments, l, head, side, "a singular value is zero");
        for (size_t j = 0; j < n; j++)
            work->t[i * n + j] /= sqrt(work->s[i]);
    }
    return ANYKV_OK;
}

/* sk and sq are used up.  error_out: (tr S / dim)^2. */
static anykv_status balance(const anykv_moments *moments, uint32_t l, uint32_t head,
                            const char *side, uint32_t n, struct scratch *work, double *error_out,
                            uint16_t *matrix)
{
    const double before = trace(work->sk, n);
    double sum;
    anykv_status status = fit(moments, l, head, side, n, work, &sum);
    if (status)
        return status;
    *error_out = sum / n * (sum / n);
    fold_hadamard(work->t, n, work->m);
    return store_matrix(moments, l, head, side, work->m, n, sqrt(sum / before), matrix);
}

/* The mean square of the queries of one half, or with half 2 of all. */
static anykv_status queries_of(const anykv_moments *moments, uint32_t l, uint32_t head,
                               uint32_t half, double *out)
{
    const anykv_layer *layer = &moments->layers[l];
    const struct akv_layer_moments *sums = &moments->sums[l];
    const uint32_t dim = layer->k_dim, group = layer->q_heads / layer->kv_heads;
    const size_t square = (size_t)dim * dim;
    const double *first = sums->query + head * square, *second = first + layer->kv_heads * square;
    const uint64_t counts[3] = {sums->queries - sums->judges, sums->judges, sums->queries};
    const double count = (double)(counts[half] * group);
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j <= i; j++) {
            const size_t n = i * dim + j;
            const double sum = half == 2 ? first[n] + second[n] : half ? second[n] : first[n];
            out[n] = out[j * dim + i] = sum / count;
        }
    return check_square(moments, l, head, half == 2 ? "q" : "half of q", out, dim);
}

/* What a matrix leaves of the error of rows that are only rotated and centred, sk, for queries that
 * it was not fitted to: tr(T * Sk * T^T) * tr(T^-T * Sq * T^-1) / (tr Sk * tr Sq).  sk stays. */
static anykv_status judge(const anykv_moments *moments, uint32_t l, uint32_t head,
                          struct scratch *work, double *share_out)
{
    const uint32_t n = moments->layers[l].k_dim;
    const size_t bytes = (size_t)n * n * sizeof *work->sk;
    const double before = trace(work->sk, n);
    double sum, seen = 0.0;
    memcpy(work->kept, work->sk, bytes);
    anykv_status status = queries_of(moments, l, head, 0, work->sq);
    if (!status)
        status = fit(moments, l, head, "k", n, work, &sum);
    for (size_t i = 0; i < (size_t)n * n && !status; i++) /* S is of sk and the addition */
        sum -= ADDED * before / n * work->t[i] * work->t[i];
    if (!status && !akv_invert(work->t, work->m, n))
        status = fail_head(moments, l, head, "k", "the matrix has no inverse");
    if (!status)
        status = queries_of(moments, l, head, 1, work->sq);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double product = 0.0;
            for (size_t c = 0; c < n; c++)
                product += work->m[i * n + c] * work->m[j * n + c];
            seen += (i == j ? 1.0 : 2.0) * product * work->sq[i * n + j];
        }
    *share_out = sum * seen / (before * trace(work->sq, n));
    memcpy(work->sk, work->kept, bytes);
    return ANYKV_OK;
}

/* What a head that is only rotated has where its layer has matrices. */
static void plain_hadamard(uint32_t n, struct scratch *work, uint16_t *matrix)
{
    memset(work->t, 0, (size_t)n * n * sizeof *work->t);
    for (size_t i = 0; i < n; i++)
        work->t[i * n + i] = 1.0;
    fold_hadamard(work->t, n, work->m);
    for (size_t i = 0; i < (size_t)n * n; i++)
        matrix[i] = akv_half_bits(work->m[i]);
}

/* ---- one side of a layer ---- */

/* Everything that could be chosen for a head: mean and matrix are made into the side's arrays, which
 * have room for the most that is allowed. */
static anykv_status solve_keys(const anykv_moments *moments, uint32_t l, uint32_t head,
                               uint32_t most, struct scratch *work,
                               struct akv_calibration_side *side)
{
    const anykv_layer *layer = &moments->layers[l];
    const struct akv_layer_moments *sums = &moments->sums[l];
    const uint32_t dim = layer->k_dim;
    const size_t square = (size_t)dim * dim, trig = 2 * (size_t)layer->rope_pairs + 1;
    const double *key_trig = sums->key_trig + head * dim * trig;
    struct akv_prediction *chosen = &side->head[head];
    *chosen = (struct akv_prediction){ANYKV_TRANSFORM_ROTATE, -1.0, -1.0, -1.0};
    mean_square(sums->key + head * square, (double)sums->keys, dim, work->sk);
    anykv_status status = check_square(moments, l, head, "k", work->sk, dim);
    if (status)
        return status;
    double queries = dim; /* tr Sq; of unit queries where there are none */
    if (sums->queries) {
        status = queries_of(moments, l, head, 2, work->sq);
        queries = trace(work->sq, dim);
    }
    if (status)
        return status;
    const double scale = queries / ((double)dim * dim);
    chosen->rotate = trace(work->sk, dim) * scale;
    if (most < ANYKV_TRANSFORM_CENTRE)
        return ANYKV_OK;
    mean_of_keys(layer, key_trig, (double)sums->keys, work->mean);
    round_mean(work->mean, dim, side->mu + (size_t)head * dim);
    take_mean_off(layer, sums, key_trig, work->mean, work->sk);
    chosen->centre = trace(work->sk, dim) * scale;
    if (!(chosen->centre >= 0.0 && chosen->centre <= DBL_MAX))
        return fail_head(moments, l, head, "k", "the centred moments are not finite");
    if (chosen->centre < chosen->rotate)
        chosen->transform = ANYKV_TRANSFORM_CENTRE;
    if (most < ANYKV_TRANSFORM_MATRIX)
        return ANYKV_OK;
    double share = 1.0, fitted;
    status = check_square(moments, l, head, "centred k", work->sk, dim);
    if (!status)
        status = judge(moments, l, head, work, &share);
    if (!status)
        status = queries_of(moments, l, head, 2, work->sq);
    if (!status)
        status = balance(moments, l, head, "k", dim, work, &fitted, side->matrix + head * square);
    chosen->matrix = status ? -1.0 : chosen->centre * share;
    if (!status && chosen->matrix < fmin(chosen->centre, chosen->rotate))
        chosen->transform = ANYKV_TRANSFORM_MATRIX;
    return status;
}

/* Values: what matters is the error of an element, as if all queries weighed alike. */
static anykv_status solve_values(const anykv_moments *moments, uint32_t l, uint32_t head,
                                 uint32_t most, struct scratch *work,
                                 struct akv_calibration_side *side)
{
    const struct akv_layer_moments *sums = &moments->sums[l];
    const uint32_t dim = moments->layers[l].v_dim;
    struct akv_prediction *chosen = &side->head[head];
    *chosen = (struct akv_prediction){ANYKV_TRANSFORM_ROTATE, -1.0, -1.0, -1.0};
    if (!sums->values)
        return ANYKV_OK;
    mean_square(sums->value + (size_t)head * dim * dim, (double)sums->values, dim, work->sk);
    anykv_status status = check_square(moments, l, head, "v", work->sk, dim);
    if (status)
        return status;
    chosen->rotate = trace(work->sk, dim) / dim;
    if (most < ANYKV_TRANSFORM_MATRIX)
        return ANYKV_OK;
    memset(work->sq, 0, (size_t)dim * dim * sizeof *work->sq);
    for (size_t i = 0; i < dim; i++)
        work->sq[i * dim + i] = 1.0;
    status = balance(moments, l, head, "v", dim, work, &chosen->matrix,
                     side->matrix + (size_t)head * dim * dim);
    if (!status && chosen->matrix < chosen->rotate)
        chosen->transform = ANYKV_TRANSFORM_MATRIX;
    return status;
}

/* ---- bases for low-rank compression ---- */

#define TURNS 64u /* positions over which queries are averaged */

/* Rows, or with `step` dim columns, of a turned back to position 0. */
static void turn_back(const anykv_layer *layer, uint64_t position, double *a, size_t row, size_t step)
{
    for (uint32_t i = 0; i < layer->rope_pairs; i++) {
        uint32_t first, second;
        akv_rope_pair(layer, i, &first, &second);
        const double angle = (double)(int64_t)(position * layer->rope_turns[i]) * (6.283185307179586476925 * 0x1p-64);
        const double c = cos(angle), s = sin(angle);
        for (size_t n = 0; n < layer->k_dim; n++) {
            double *x = a + first * row + n * step, *y = a + second * row + n * step;
            const double was = *x;
            *x = c * was + s * *y;
            *y = c * *y - s * was;
        }
    }
}

/* sq, the queries' second moment, becomes that of queries as keys before rotary embedding meet them: turned
 * back by the positions of the keys, of which TURNS are taken. */
static void average_queries(const anykv_layer *layer, uint64_t keys, struct scratch *work)
{
    const size_t dim = layer->k_dim, square = dim * dim;
    memcpy(work->kept, work->sq, square * sizeof *work->kept);
    memset(work->sq, 0, square * sizeof *work->sq);
    for (uint64_t n = 0; n < TURNS; n++) {
        memcpy(work->m, work->kept, square * sizeof *work->m);
        turn_back(layer, n * keys / TURNS, work->m, dim, 1);
        turn_back(layer, n * keys / TURNS, work->m, 1, dim);
        for (size_t i = 0; i < square; i++)
            work->sq[i] += work->m[i] / TURNS;
    }
}

/* Second moment of the keys before rotary embedding, less the head's mean as it is stored. */
static void plain_keys(const anykv_moments *moments, uint32_t l, uint32_t head, struct scratch *work,
                       struct akv_calibration_side *side)
{
    const anykv_layer *layer = &moments->layers[l];
    const struct akv_layer_moments *sums = &moments->sums[l];
    const size_t dim = layer->k_dim, trig = 2 * (size_t)layer->rope_pairs + 1;
    const double count = (double)sums->keys;
    mean_square(sums->key_plain + head * dim * dim, count, layer->k_dim, work->sk);
    mean_of_keys(layer, sums->key_trig + head * dim * trig, count, work->mean);
    memcpy(work->s, work->mean, dim * sizeof *work->s);
    round_mean(work->mean, layer->k_dim, side->centre + head * dim);
    for (size_t i = 0; i < dim; i++)
        for (size_t j = 0; j < dim; j++)
            work->sk[i * dim + j] += work->mean[i] * work->mean[j] - work->s[i] * work->mean[j] -
                                     work->mean[i] * work->s[j];
}

/* Coefficients whose errors weigh alike in q.k (an element's error, for values), largest spread first. */
static anykv_status solve_basis(const anykv_moments *moments, uint32_t l, uint32_t head, int s, struct scratch *work,
                                struct akv_calibration_side *side)
{
    const anykv_layer *layer = &moments->layers[l];
    const struct akv_layer_moments *sums = &moments->sums[l];
    const uint32_t dim = side->dim;
    const size_t square = (size_t)dim * dim;
    double sum;
    anykv_status status = ANYKV_OK;
    if (s == 0) {
        plain_keys(moments, l, head, work, side);
        status = queries_of(moments, l, head, 2, work->sq);
        if (!status)
            average_queries(layer, sums->keys, work);
    } else {
        mean_square(sums->value + head * square, (double)sums->values, dim, work->sk);
        memset(work->sq, 0, square * sizeof *work->sq);
        for (size_t i = 0; i < dim; i++)
            work->sq[i * dim + i] = 1.0;
    }
    if (!status)
        status = check_square(moments, l, head, s ? "v" : "k before rotary embedding", work->sk, dim);
    const double unit = s ? sqrt(trace(work->sk, dim) / dim) : sqrt(dim); /* anykv_lowrank_options.step */
    if (!status)
        status = fit(moments, l, head, s ? "v" : "k", dim, work, &sum);
    for (size_t i = 0; i < dim && !status; i++)
        for (size_t j = 0; j < dim; j++)
            work->t[i * dim + j] *= sqrt(work->s[i]) / unit;
    return status ? status
                  : store_matrix(moments, l, head, s ? "v" : "k", work->t, dim, 1.0, side->basis + head * square);
}

/* The side's transform is the most that a head chose; the others are expressed in it. */
static void settle_side(anykv_context *context, struct akv_calibration_side *side, uint32_t heads,
                        struct scratch *work)
{
    const size_t dim = side->dim;
    side->transform = ANYKV_TRANSFORM_ROTATE;
    for (uint32_t h = 0; h < heads; h++)
        if (side->head[h].transform > side->transform)
            side->transform = side->head[h].transform;
    for (uint32_t h = 0; h < heads; h++) {
        if (side->mu && side->head[h].transform < ANYKV_TRANSFORM_CENTRE)
            memset(side->mu + h * dim, 0, dim * sizeof *side->mu);
        if (side->matrix && side->head[h].transform < ANYKV_TRANSFORM_MATRIX)
            plain_hadamard(side->dim, work, side->matrix + h * dim * dim);
    }
    if (side->transform < ANYKV_TRANSFORM_MATRIX) {
        akv_free(context, side->matrix);
        akv_free(context, side->inverse);
        side->matrix = NULL;
        side->inverse = NULL;
    }
    if (side->transform < ANYKV_TRANSFORM_CENTRE) {
        akv_free(context, side->mu);
        side->mu = NULL;
    }
}

static anykv_status solve_layer(const anykv_moments *moments, uint32_t l,
                                const anykv_calibrate_options *options, struct scratch *work,
                                anykv_calibration *calibration,
                                struct akv_calibration_layer *record)
{
    const anykv_layer *layer = &moments->layers[l];
    record->number = l;
    record->kv_heads = layer->kv_heads;
    record->rope_pairs = layer->rope_pairs;
    record->rope = layer->rope_pairs ? (uint32_t)layer->rope : 0;
    record->side[0].dim = layer->k_dim;
    record->side[1].dim = layer->v_dim;
    record->side[0].transform = (uint32_t)options->most;
    record->side[1].transform =
        moments->sums[l].values ? (uint32_t)options->most_values : ANYKV_TRANSFORM_ROTATE;
    anykv_status status = akv_calibration_room(calibration, record);
    if (status)
        return status;
    if (layer->rope_pairs)
        memcpy(record->turns, layer->rope_turns, layer->rope_pairs * sizeof *record->turns);
    for (uint32_t h = 0; h < layer->kv_heads && !status; h++) {
        status = solve_keys(moments, l, h, record->side[0].transform, work, &record->side[0]);
        if (!status)
            status = solve_values(moments, l, h, record->side[1].transform, work, &record->side[1]);
        for (int s = 0; s < 2 && options->bases && !status; s++)
            status = solve_basis(moments, l, h, s, work, &record->side[s]);
    }
    for (int s = 0; s < 2 && !status; s++)
        settle_side(calibration->context, &record->side[s], record->kv_heads, work);
    return status;
}

/* ---- the whole ---- */

static anykv_status make_scratch(const anykv_moments *moments, struct scratch *work)
{
    anykv_context *context = moments->context;
    size_t n = 1;
    for (uint32_t l = 0; l < moments->count; l++) {
        n = moments->layers[l].k_dim > n ? moments->layers[l].k_dim : n;
        n = moments->layers[l].v_dim > n ? moments->layers[l].v_dim : n;
    }
    work->sk = akv_alloc(context, n * n, sizeof(double));
    work->sq = akv_alloc(context, n * n, sizeof(double));
    work->m = akv_alloc(context, n * n, sizeof(double));
    work->t = akv_alloc(context, n * n, sizeof(double));
    work->kept = akv_alloc(context, n * n, sizeof(double));
    work->s = akv_alloc(context, n, sizeof(double));
    work->mean = akv_alloc(context, n, sizeof(double));
    return work->sk && work->sq && work->m && work->t && work->kept && work->s && work->mean
               ? ANYKV_OK
               : ANYKV_E_MEMORY;
}

static void free_scratch(const anykv_moments *moments, struct scratch *work)
{
    akv_free(moments->context, work->sk);
    akv_free(moments->context, work->sq);
    akv_free(moments->context, work->m);
    akv_free(moments->context, work->t);
    akv_free(moments->context, work->kept);
    akv_free(moments->context, work->s);
    akv_free(moments->context, work->mean);
}

static anykv_status check_options(anykv_context *context, const anykv_calibrate_options *options)
{
    if (options->most < ANYKV_TRANSFORM_ROTATE || options->most > ANYKV_TRANSFORM_MATRIX)
        return akv_fail(context, ANYKV_E_ARG,
                        "calibrate options.most: %d is none of rotate, centre, matrix",
                        (int)options->most);
    if (options->most_values != ANYKV_TRANSFORM_ROTATE &&
        options->most_values != ANYKV_TRANSFORM_MATRIX)
        return akv_fail(context, ANYKV_E_ARG,
                        "calibrate options.most_values: %d is neither rotate nor matrix",
                        (int)options->most_values);
    if (options->bases != 0 && options->bases != 1)
        return akv_fail(context, ANYKV_E_ARG, "calibrate options.bases: %d is neither 0 nor 1", options->bases);
    if (options->weights_bytes > 256 || (options->weights_bytes && !options->weights))
        return akv_fail(context, ANYKV_E_ARG, "calibrate options.weights_bytes: %u, %s",
                        options->weights_bytes,
                        options->weights ? "the limit is 256" : "weights is NULL");
    if (options->model && strlen(options->model) > 255)
        return akv_fail(context, ANYKV_E_ARG, "calibrate options.model: longer than 255 bytes");
    return ANYKV_OK;
}

/* Are there rows of the layer, and enough of them? */
static anykv_status check_layer(const anykv_moments *moments, uint32_t l,
                                const anykv_calibrate_options *options, bool *some_out)
{
    const struct akv_layer_moments *sums = &moments->sums[l];
    *some_out = sums->keys || sums->values || sums->queries;
    if (!*some_out)
        return ANYKV_OK;
    if (sums->keys < LEAST_POSITIONS)
        return akv_fail(moments->context, ANYKV_E_STATE,
                        "moments of layer %u: %llu positions of keys, %u are needed", l,
                        (unsigned long long)sums->keys, LEAST_POSITIONS);
    if (options->bases && (sums->queries < LEAST_POSITIONS || sums->values < LEAST_POSITIONS))
        return akv_fail(moments->context, ANYKV_E_STATE,
                        "moments of layer %u: %llu positions of queries and %llu of values, bases need %u", l,
                        (unsigned long long)sums->queries, (unsigned long long)sums->values, LEAST_POSITIONS);
    if (options->most == ANYKV_TRANSFORM_MATRIX && sums->queries < LEAST_POSITIONS)
        return akv_fail(moments->context, ANYKV_E_STATE,
                        "moments of layer %u: %llu positions of queries, a matrix needs %u", l,
                        (unsigned long long)sums->queries, LEAST_POSITIONS);
    return ANYKV_OK;
}

static anykv_status solve(const anykv_moments *moments, const anykv_calibrate_options *options,
                          anykv_calibration *calibration)
{
    struct scratch work = {NULL, NULL, NULL, NULL, NULL, NULL, NULL};
    anykv_status status = make_scratch(moments, &work);
    uint32_t record = 0;
    for (uint32_t l = 0; l < moments->count && !status; l++)
        if (moments->sums[l].keys)
            status = solve_layer(moments, l, options, &work, calibration,
                                 &calibration->layers[record++]);
    free_scratch(moments, &work);
    if (options->weights_bytes)
        memcpy(calibration->weights, options->weights, options->weights_bytes);
    calibration->weights_bytes = options->weights_bytes;
    if (options->model)
        memcpy(calibration->model, options->model, strlen(options->model));
    return status ? status : akv_calibration_finish(calibration);
}

anykv_status anykv_moments_solve(const anykv_moments *moments,
                                 const anykv_calibrate_options *options,
                                 anykv_calibration **calibration_out)
{
    if (!moments || !calibration_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", moments ? "calibration_out" : "moments");
    anykv_context *context = moments->context;
    anykv_calibrate_options checked = ANYKV_CALIBRATE_OPTIONS_INIT;
    anykv_status status =
        akv_options(context, "calibrate options", &checked, sizeof checked, options);
    if (!status)
        status = check_options(context, &checked);
    uint32_t count = 0;
    for (uint32_t l = 0; l < moments->count && !status; l++) {
        bool some;
        status = check_layer(moments, l, &checked, &some);
        count += some;
    }
    if (!status && !count)
        status = akv_fail(context, ANYKV_E_STATE, "moments: no layer has rows");
    anykv_calibration *calibration;
    if (!status)
        status = akv_calibration_create(context, count, &calibration);
    if (status)
        return status;
    calibration->bases = checked.bases != 0;
    status = solve(moments, &checked, calibration);
    if (status) {
        anykv_calibration_destroy(calibration);
        return status;
    }
    *calibration_out = calibration;
    return ANYKV_OK;
}
