/* SPDX-License-Identifier: Apache-2.0 */
/* Scores of token policies in double precision, from what is known when a prompt has been read. */
#include "eval_evict.h"
#include <math.h>

#define WINDOW 64u  /* SnapKV: queries */
#define POOL   5u   /* SnapKV: neighbours */
#define FUTURE 512u /* expected attention: positions to come */
#define BLOCK  16u  /* PagedEviction: tokens */

static const double *key(const struct akv_evict_layer *l, uint32_t t, uint32_t head)
{
    return l->k + ((size_t)t * l->kv_heads + head) * l->dim;
}
static const double *value(const struct akv_evict_layer *l, uint32_t t, uint32_t head)
{
    return l->v + ((size_t)t * l->kv_heads + head) * l->dim;
}
static const double *query(const struct akv_evict_layer *l, uint32_t t, uint32_t head)
{
    return l->q + ((size_t)(t - l->q_first) * l->q_heads + head) * l->dim;
}
static double dot(const double *a, const double *b, uint32_t count)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Adds the attention of the queries of positions [from, to) to the scores of their kv heads. */
static anykv_status add_mass(const struct akv_evict_layer *l, uint32_t from, uint32_t to, double *scores)
{
    const uint32_t group = l->q_heads / l->kv_heads;
    double *weight = akv_alloc(NULL, l->cut, sizeof *weight);
    if (weight == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t p = from; p < to; p++)
        for (uint32_t h = 0; h < l->q_heads; h++) {
            double most = -INFINITY, sum = 0.0;
            for (uint32_t t = 0; t <= p; t++) {
                weight[t] = l->scale * dot(query(l, p, h), key(l, t, h / group), l->dim);
                most = weight[t] > most ? weight[t] : most;
            }
            for (uint32_t t = 0; t <= p; t++)
                sum += weight[t] = exp(weight[t] - most);
            for (uint32_t t = 0; t <= p; t++)
                scores[(size_t)(h / group) * l->cut + t] += weight[t] / sum;
        }
    akv_free(NULL, weight);
    return ANYKV_OK;
}

static anykv_status score_h2o(const struct akv_evict_layer *l, double *scores)
{
    return add_mass(l, l->q_first, l->cut, scores);
}

static anykv_status score_tova(const struct akv_evict_layer *l, double *scores)
{
    anykv_status status = add_mass(l, l->cut - 1, l->cut, scores);
    for (uint32_t t = 0; t < l->cut && status == ANYKV_OK; t++) {
        for (uint32_t h = 1; h < l->kv_heads; h++)
            scores[t] += scores[(size_t)h * l->cut + t];
        for (uint32_t h = 1; h < l->kv_heads; h++)
            scores[(size_t)h * l->cut + t] = scores[t];
    }
    return status;
}

static anykv_status score_snapkv(const struct akv_evict_layer *l, double *scores)
{
    const uint32_t first = l->cut - l->q_first > WINDOW ? l->cut - WINDOW : l->q_first;
    double *mass = akv_alloc(NULL, (size_t)l->kv_heads * l->cut, sizeof *mass);
    anykv_status status = mass == NULL ? ANYKV_E_MEMORY : add_mass(l, first, l->cut, mass);
    for (uint32_t h = 0; h < l->kv_heads && status == ANYKV_OK; h++)
        for (uint32_t t = 0; t < l->cut; t++)
            for (uint32_t i = t < POOL / 2 ? 0 : t - POOL / 2; i <= t + POOL / 2 && i < l->cut; i++)
                scores[(size_t)h * l->cut + t] += mass[(size_t)h * l->cut + i];
    akv_free(NULL, mass);
    return status;
}

static anykv_status score_streaming(const struct akv_evict_layer *l, double *scores)
{
    for (uint32_t h = 0; h < l->kv_heads; h++)
        for (uint32_t t = 0; t < l->cut; t++)
            scores[(size_t)h * l->cut + t] = t;
    return ANYKV_OK;
}

static anykv_status score_knorm(const struct akv_evict_layer *l, double *scores)
{
    for (uint32_t h = 0; h < l->kv_heads; h++)
        for (uint32_t t = 0; t < l->cut; t++)
            scores[(size_t)h * l->cut + t] = -sqrt(dot(key(l, t, h), key(l, t, h), l->dim));
    return ANYKV_OK;
}

static anykv_status score_keydiff(const struct akv_evict_layer *l, double *scores)
{
    double *mean = akv_alloc(NULL, l->dim, sizeof *mean);
    if (mean == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t h = 0; h < l->kv_heads; h++) {
        memset(mean, 0, l->dim * sizeof *mean);
        for (uint32_t t = 0; t < l->cut; t++)
            for (uint32_t i = 0; i < l->dim; i++)
                mean[i] += key(l, t, h)[i] / (sqrt(dot(key(l, t, h), key(l, t, h), l->dim)) + 1e-30);
        for (uint32_t t = 0; t < l->cut; t++)
            scores[(size_t)h * l->cut + t] = -dot(key(l, t, h), mean, l->dim) /
                                             (sqrt(dot(key(l, t, h), key(l, t, h), l->dim)) + 1e-30);
    }
    akv_free(NULL, mean);
    return ANYKV_OK;
}

static anykv_status score_paged(const struct akv_evict_layer *l, double *scores)
{
    for (uint32_t h = 0; h < l->kv_heads; h++)
        for (uint32_t t = 0; t < l->cut; t++)
            scores[(size_t)h * l->cut + t] = sqrt(dot(value(l, t, h), value(l, t, h), l->dim) /
                                                  (dot(key(l, t, h), key(l, t, h), l->dim) + 1e-30));
    return ANYKV_OK;
}

/* ---- from the queries' moments ---- */

/* Elements of pair i, and its angle at a position. */
static void pair_of(const anykv_layer *model, uint32_t i, uint32_t *a, uint32_t *b)
{
    *a = model->rope == ANYKV_ROPE_HALF ? i : 2 * i;
    *b = model->rope == ANYKV_ROPE_HALF ? i + model->rope_pairs : 2 * i + 1;
}
static double angle(const anykv_layer *model, uint32_t i, int64_t position)
{
    const uint64_t turns = model->rope_turns[i] * (uint64_t)position; /* modulo whole turns */
    return (double)(int64_t)turns * 0x1p-64 * 6.283185307179586;
}
static void turn(const anykv_layer *model, int64_t position, const double *x, uint32_t dim, double *y)
{
    memcpy(y, x, dim * sizeof *y);
    for (uint32_t i = 0; i < model->rope_pairs; i++) {
        uint32_t a, b;
        pair_of(model, i, &a, &b);
        const double c = cos(angle(model, i, position)), s = sin(angle(model, i, position));
        y[a] = x[a] * c - x[b] * s;
        y[b] = x[a] * s + x[b] * c;
    }
}

/* Mean over the queries to come of a q head: the mean of the known ones before rotary embedding,
 * turned to each of the next FUTURE positions; cov [dim][dim] (or NULL): their covariance, the same. */
static void expect_query(const struct akv_evict_layer *l, uint32_t head, double *mean, double *cov,
                         double *work)
{
    const uint32_t dim = l->dim, n = l->cut - l->q_first;
    double *plain = work, *turned = work + dim;
    memset(plain, 0, dim * sizeof *plain);
    for (uint32_t p = l->q_first; p < l->cut; p++) {
        turn(l->model, -(int64_t)p, query(l, p, head), dim, turned);
        for (uint32_t i = 0; i < dim; i++)
            plain[i] += turned[i] / n;
    }
    memset(mean, 0, dim * sizeof *mean);
    for (uint32_t f = 0; f < FUTURE; f++) {
        turn(l->model, (int64_t)l->cut + f, plain, dim, turned);
        for (uint32_t i = 0; i < dim; i++)
            mean[i] += turned[i] / FUTURE;
    }
    if (cov == NULL)
        return;
    /* Of the known queries moved to the middle of what comes: turning a query by the distance. */
    memset(cov, 0, (size_t)dim * dim * sizeof *cov);
    for (uint32_t p = l->q_first; p < l->cut; p++) {
        turn(l->model, (int64_t)l->cut + FUTURE / 2 - p, query(l, p, head), dim, turned);
        double *centre = work + 2 * (size_t)dim;
        turn(l->model, (int64_t)l->cut + FUTURE / 2, plain, dim, centre);
        for (uint32_t i = 0; i < dim; i++)
            for (uint32_t j = 0; j <= i; j++)
                cov[(size_t)i * dim + j] += (turned[i] - centre[i]) * (turned[j] - centre[j]) / n;
    }
    for (uint32_t i = 0; i < dim; i++)
        for (uint32_t j = 0; j < i; j++)
            cov[(size_t)j * dim + i] = cov[(size_t)i * dim + j];
}

/* Expected attention: mean over the group of softmax(scale mean.k + scale^2 k'cov k / 2), times |v|. */
static anykv_status score_expected(const struct akv_evict_layer *l, double *scores)
{
    const uint32_t dim = l->dim, group = l->q_heads / l->kv_heads;
    double *room = akv_alloc(NULL, (size_t)dim * dim + 4 * (size_t)dim + l->cut, sizeof *room);
    if (room == NULL)
        return ANYKV_E_MEMORY;
    double *cov = room, *mean = cov + (size_t)dim * dim, *work = mean + dim, *weight = work + 3 * (size_t)dim;
    for (uint32_t h = 0; h < l->q_heads; h++) {
        double most = -INFINITY, sum = 0.0;
        expect_query(l, h, mean, cov, work);
        for (uint32_t t = 0; t < l->cut; t++) {
            const double *k = key(l, t, h / group);
            double spread = 0.0;
            for (uint32_t i = 0; i < dim; i++)
                spread += k[i] * dot(cov + (size_t)i * dim, k, dim);
            weight[t] = l->scale * dot(mean, k, dim) + 0.5 * l->scale * l->scale * spread;
            most = weight[t] > most ? weight[t] : most;
        }
        for (uint32_t t = 0; t < l->cut; t++)
            sum += weight[t] = exp(weight[t] - most);
        for (uint32_t t = 0; t < l->cut; t++)
            scores[(size_t)(h / group) * l->cut + t] += weight[t] / sum;
    }
    for (uint32_t h = 0; h < l->kv_heads; h++)
        for (uint32_t t = 0; t < l->cut; t++)
            scores[(size_t)h * l->cut + t] =
                (scores[(size_t)h * l->cut + t] / group + 1e-3 / l->cut) *
                sqrt(dot(value(l, t, h), value(l, t, h), dim));
    akv_free(NULL, room);
    return ANYKV_OK;
}

/* The affine form that the kernel has: <k, w>, w the group's mean expected query. */
static anykv_status score_affine(const struct akv_evict_layer *l, double *scores)
{
    const uint32_t group = l->q_heads / l->kv_heads;
    double *mean = akv_alloc(NULL, 4 * (size_t)l->dim, sizeof *mean);
    if (mean == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t h = 0; h < l->q_heads; h++) {
        expect_query(l, h, mean, NULL, mean + l->dim);
        for (uint32_t t = 0; t < l->cut; t++)
            scores[(size_t)(h / group) * l->cut + t] += l->scale * dot(mean, key(l, t, h / group), l->dim);
    }
    akv_free(NULL, mean);
    return ANYKV_OK;
}

/* What cannot be known: the attention of the queries that come. */
static anykv_status score_oracle(const struct akv_evict_layer *l, double *scores)
{
    const uint32_t group = l->q_heads / l->kv_heads;
    double *weight = akv_alloc(NULL, l->tokens, sizeof *weight);
    if (weight == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t p = l->cut; p < l->tokens; p++)
        for (uint32_t h = 0; h < l->q_heads; h++) {
            double most = -INFINITY, sum = 0.0;
            for (uint32_t t = 0; t <= p; t++) {
                weight[t] = l->scale * dot(query(l, p, h), key(l, t, h / group), l->dim);
                most = weight[t] > most ? weight[t] : most;
            }
            for (uint32_t t = 0; t <= p; t++)
                sum += weight[t] = exp(weight[t] - most);
            for (uint32_t t = 0; t < l->cut; t++)
                scores[(size_t)(h / group) * l->cut + t] += weight[t] / sum;
        }
    akv_free(NULL, weight);
    return ANYKV_OK;
}

/* layers.N.scores, F32 [kv_heads][at least cut]. */
static anykv_status score_given(const struct akv_evict_layer *l, double *scores)
{
    char name[64];
    snprintf(name, sizeof name, "layers.%u.scores", (unsigned)l->number);
    const struct akv_tensor *tensor = akv_safetensors_find(l->scores, name);
    if (tensor == NULL || strcmp(tensor->dtype, "F32") != 0 || tensor->rank != 2 ||
        tensor->shape[0] != l->kv_heads || tensor->shape[1] < l->cut)
        return akv_fail(NULL, ANYKV_E_DATA, "scores: no F32 tensor %s [%u][%u or more]", name,
                        (unsigned)l->kv_heads, (unsigned)l->cut);
    float *given = akv_alloc(NULL, (size_t)tensor->bytes, 1);
    anykv_status status = given == NULL ? ANYKV_E_MEMORY : akv_safetensors_read(l->scores, tensor, given);
    for (uint32_t h = 0; h < l->kv_heads && status == ANYKV_OK; h++)
        for (uint32_t t = 0; t < l->cut; t++) {
            const double x = (double)given[(size_t)h * tensor->shape[1] + t];
            scores[(size_t)h * l->cut + t] = isnan(x) ? INFINITY : x;
        }
    akv_free(NULL, given);
    return status;
}

const struct akv_evict_method akv_evict_methods[] = {
    {"streaming", "sinks and the newest (StreamingLLM)", 1, true, score_streaming},
    {"h2o", "accumulated attention of all known queries", 1, false, score_h2o},
    {"snapkv", "attention of the last 64, pooled by 5", 1, false, score_snapkv},
    {"tova", "attention of the last query, heads together", 1, true, score_tova},
    {"knorm", "small keys", 1, false, score_knorm},
    {"keydiff", "keys unlike their mean direction", 1, false, score_keydiff},
    {"paged", "blocks of large |v| / |k| (PagedEviction)", BLOCK, true, score_paged},
    {"affine", "<k, mean of the queries to come>", 1, false, score_affine},
    {"expected", "expected attention, with covariance and |v|", 1, false, score_expected},
    {"oracle", "attention of the later queries: a bound, not a method", 1, false, score_oracle},
    {"scores", "the caller's, scores:FILE.safetensors", 1, false, score_given},
    {NULL, NULL, 0, false, NULL},
};
