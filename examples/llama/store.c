/* SPDX-License-Identifier: Apache-2.0 */
/* Where the keys and values live. */
#include "store.h"
#include "dense.h"
#include "model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int machine_open(struct machine *machine, const char *device, uint32_t threads,
                 const char *calibration)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
    memset(machine, 0, sizeof *machine);
    if (threads) /* 0 workers: the calling thread does the work */
        options.threads = threads == 1 ? 0 : threads;
    if (check(anykv_context_create(NULL, &machine->context), "context") != 0 ||
        check(anykv_device_open(machine->context, device, &options, &machine->device),
              "--device") != 0 ||
        check(anykv_device_describe(machine->device, &info), "device") != 0 ||
        (calibration &&
         check(anykv_calibration_load(machine->context, calibration, &machine->calibration),
               "--calibration") != 0)) {
        machine_close(machine);
        return -1;
    }
    (void)snprintf(machine->device_name, sizeof machine->device_name, "%s: %s", info.backend,
                   info.name);
    return 0;
}

void machine_close(struct machine *machine)
{
    anykv_calibration_destroy(machine->calibration);
    anykv_device_close(machine->device);
    anykv_context_destroy(machine->context);
    memset(machine, 0, sizeof *machine);
}

/* ---- the anykv cache
 * -------------------------------------------------------------------------------- */

/* All layers of these models have one shape.  Where heads keep different numbers of tokens each kv
 * head is a layer of its own, with its query heads and its own blocks. */
static int make_layout(struct store *s, const struct machine *machine,
                       const struct store_options *options)
{
    const struct model *m = s->model;
    uint32_t pairs = m->rope_dim / 2, split = s->apart ? m->kv_heads : 1, count = m->layers * split;
    anykv_layer *layers = grab(count, sizeof *layers);
    uint64_t *turns = grab(pairs, sizeof *turns);
    int status = layers && turns ? 0 : -1;
    for (uint32_t i = 0; status == 0 && i < pairs; i++)
        turns[i] = (uint64_t)(m->frequencies[i] / 6.283185307179586 * 0x1p64);
    for (uint32_t i = 0; status == 0 && i < count; i++) {
        anykv_layer layer = ANYKV_LAYER_INIT;
        layer.kv_heads = m->kv_heads / split;
        layer.q_heads = m->heads / split;
        layer.k_dim = layer.v_dim = m->head_dim;
        layer.k_format = s->k;
        layer.v_format = s->v;
        layer.hot_type = options->exact                             ? ANYKV_F32
                         : s->k == ANYKV_BF16 && s->v == ANYKV_BF16 ? ANYKV_BF16
                                                                    : ANYKV_F16;
        layer.k_transform = options->transform;
        layer.v_transform = options->transform == ANYKV_TRANSFORM_CENTRE ? ANYKV_TRANSFORM_ROTATE
                                                                         : options->transform;
        layer.rope_pairs = pairs;
        layer.rope = ANYKV_ROPE_INTERLEAVED;
        layer.rope_turns = turns;
        layers[i] = layer;
    }
    anykv_layout_options names = ANYKV_LAYOUT_OPTIONS_INIT;
    names.calibration = machine->calibration;
    names.weights = m->identity;
    names.weights_bytes = sizeof m->identity;
    names.flags = s->apart ? ANYKV_LAYOUT_APART : 0;
    if (status == 0)
        status = check(anykv_layout_create(machine->context, layers, count, &names, &s->layout),
                       "layout");
    free(layers);
    free(turns);
    return status;
}

/* Without a budget: what all sequences can need at their longest, and room for the hot tail. */
static int make_cache(struct store *s, anykv_device *device, const struct store_options *options)
{
    anykv_cache_options cache = ANYKV_CACHE_OPTIONS_INIT;
    cache.sinks = options->sinks;
    cache.recent = options->recent;
    cache.max_sequences = options->sequences;
    cache.max_step_tokens = options->step_tokens;
    cache.max_seq_tokens = options->tokens;
    cache.budget_bytes = options->budget;
    cache.error_budget = options->exact ? 0.0f : options->error_budget;
    cache.flags = options->exact ? ANYKV_CACHE_PRECISE : 0;
    if (options->eviction)
        cache.flags |= ANYKV_CACHE_EVICT_TOKENS;
    if (options->budget == 0) {
        anykv_estimate need = ANYKV_ESTIMATE_INIT;
        if (check(anykv_cache_estimate(device, s->layout, &cache, &need), "estimate") != 0)
            return -1;
        uint64_t blocks = options->tokens / 16 + 4;
        uint64_t block = need.hot_block_bytes + need.sealed_block_bytes;
        cache.budget_bytes = need.minimum_bytes + (uint64_t)options->sequences * blocks * block;
        if (options->budget_share > 0.0) {
            double f16 =
                (double)store_f16_bytes(s->model, (uint64_t)options->sequences * options->tokens);
            cache.budget_bytes = need.fixed_bytes + (uint64_t)(options->budget_share * f16);
        }
    }
    return check(anykv_cache_create(device, s->layout, &cache, &s->cache), "cache");
}

static int open_eviction(struct store *s)
{
    const struct model *m = s->model;
    const uint64_t rows = (uint64_t)m->layers * EVICT_QUERIES * m->heads;
    if (s->eviction->policy != ANYKV_TOKENS_MASS)
        return 0;
    s->queries = grab(rows * m->head_dim, sizeof(float));
    s->lse = grab(rows, sizeof(float));
    return s->queries && s->lse ? 0 : -1;
}

static int open_plain(struct store *s, const struct store_options *options)
{
    const struct model *m = s->model;
    s->plain_tokens = options->tokens;
    s->plain =
        grab(UINT64_C(2) * m->layers * m->kv_heads * m->head_dim * s->plain_tokens, sizeof(float));
    uint64_t group = m->heads / m->kv_heads;
    s->scores =
        grab(options->step_tokens * group * (s->plain_tokens + 2 * m->head_dim), sizeof(float));
    return s->plain && s->scores ? 0 : -1;
}

int store_open(struct store *s, const struct machine *machine, const struct model *model,
               const struct store_options *options)
{
    memset(s, 0, sizeof *s);
    s->model = model;
    int status;
    if (strcmp(options->formats, "plain") == 0) {
        (void)snprintf(s->name, sizeof s->name, "plain F32");
        status = open_plain(s, options);
    } else {
        status = check(anykv_format_pair_parse(options->formats, &s->k, &s->v), "--kv");
        s->eviction = options->eviction;
        s->apart = s->eviction && s->eviction->share != SHARE_EQUAL;
        (void)snprintf(s->name, sizeof s->name, "%s/%s%s%s", anykv_format_name(s->k),
                       anykv_format_name(s->v), s->eviction ? " " : "",
                       s->eviction ? s->eviction->name : "");
        if (status == 0)
            status = make_layout(s, machine, options);
        if (status == 0 && s->eviction)
            status = open_eviction(s);
        if (status == 0)
            status = make_cache(s, machine->device, options);
    }
    if (status != 0)
        store_close(s);
    return status;
}

void store_close(struct store *s)
{
    store_cancel(s);
    anykv_cache_destroy(s->cache);
    anykv_layout_destroy(s->layout);
    free(s->plain);
    free(s->scores);
    free(s->queries);
    free(s->lse);
    memset(s, 0, sizeof *s);
}

anykv_seq *store_sequence(struct store *s, int shared)
{
    anykv_seq *seq = NULL;
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = shared ? ANYKV_SEQ_PUBLIC : ANYKV_SEQ_PRIVATE;
    return check(anykv_seq_create(s->cache, &options, &seq), "sequence") == 0 ? seq : NULL;
}

int store_evict(struct store *s, anykv_seq *seq, uint64_t keep)
{
    const struct model *m = s->model;
    const uint32_t split = s->apart ? m->kv_heads : 1, count = m->layers * split,
                   heads = m->heads / split;
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    anykv_view *views = grab(count, sizeof *views);
    uint32_t *share = grab(count, sizeof *share);
    if (!views || !share) {
        free(views);
        free(share);
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        const size_t first =
            (size_t)(i / split) * EVICT_QUERIES * m->heads + (size_t)(i % split) * heads;
        share[i] = s->eviction->share == SHARE_ALL ? 0 : i / split;
        if (!s->queries)
            continue;
        views[i] = anykv_view_host(s->queries + first * m->head_dim, ANYKV_F32, heads, m->head_dim);
        views[i].token_stride = (uint64_t)m->heads * m->head_dim;
    }
    params.policy = s->eviction->policy;
    params.flags = s->apart ? ANYKV_EVICT_ADAPTIVE : 0;
    params.keep = keep;
    params.recent = 32;
    params.queries = EVICT_QUERIES;
    params.pool = s->eviction->pool;
    params.q = views;
    params.lse = s->lse;
    params.share = share;
    int status = check(anykv_seq_evict_tokens(seq, &params), "evict");
    free(views);
    free(share);
    return status;
}

/* ---- steps
 * -------------------------------------------------------------------------------------------- */

int store_begin(struct store *s, anykv_seq *const *seqs, const uint32_t *counts, uint32_t n)
{
    double start = seconds();
    int status = 0;
    if (!s->plain) {
        anykv_status begun = anykv_step_begin(s->cache, seqs, counts, n, &s->step);
        s->step_tokens = 0;
        for (uint32_t i = 0; i < n; i++)
            s->step_tokens += counts[i];
        s->refused = begun == ANYKV_E_BUDGET;
        status = check(begun, "step");
    } else if (n != 1 || counts[0] > s->plain_tokens - s->plain_length) {
        status = fail("plain arrays: one sequence of at most %llu tokens",
                      (unsigned long long)s->plain_tokens);
    } else {
        s->plain_count = counts[0];
    }
    s->time += seconds() - start;
    return status;
}

/* Attention over plain arrays, one key/value head after the other through two dense products. */
static void plain_layer(struct store *s, uint32_t layer, const float *q, const float *k,
                        const float *v, float *out)
{
    const struct model *m = s->model;
    size_t dim = m->head_dim, group = m->heads / m->kv_heads, count = s->plain_count;
    size_t length = (size_t)s->plain_length + count, rows = count * group;
    float scale = 1.0f / sqrtf((float)dim);
    float *queries = s->scores, *mixed = queries + rows * dim, *scores = mixed + rows * dim;
    for (size_t h = 0; h < m->kv_heads; h++) {
        float *keys = s->plain + ((2 * (size_t)layer) * m->kv_heads + h) * s->plain_tokens * dim;
        float *values =
            s->plain + ((2 * (size_t)layer + 1) * m->kv_heads + h) * s->plain_tokens * dim;
        for (size_t t = 0; t < count; t++) {
            memcpy(keys + (s->plain_length + t) * dim, k + (t * m->kv_heads + h) * dim,
                   dim * sizeof *keys);
            memcpy(values + (s->plain_length + t) * dim, v + (t * m->kv_heads + h) * dim,
                   dim * sizeof *keys);
            for (size_t i = 0; i < group * dim; i++)
                queries[t * group * dim + i] = q[(t * m->heads + h * group) * dim + i] * scale;
        }
        dense_product(scores, length, queries, dim, keys, dim, rows, length, dim);
        for (size_t r = 0; r < rows; r++) {
            size_t seen = (size_t)s->plain_length + r / group + 1;
            dense_softmax(scores + r * length, seen);
            memset(scores + r * length + seen, 0, (length - seen) * sizeof *scores);
        }
        dense_product_plain(mixed, dim, scores, length, values, dim, rows, dim, length);
        for (size_t t = 0; t < count; t++)
            memcpy(out + (t * m->heads + h * group) * dim, mixed + t * group * dim,
                   group * dim * sizeof *out);
    }
}

/* Room for `count` more among the last EVICT_QUERIES rows of `width`. */
static float *newest(float *rows, size_t count, size_t width)
{
    memmove(rows, rows + count * width, (EVICT_QUERIES - count) * width * sizeof *rows);
    return rows + (EVICT_QUERIES - count) * width;
}

/* Append and attend of one of anykv's layers: kv heads from `head` on, all or one. */
static int cache_layer(struct store *s, uint32_t layer, uint32_t head, const float *q,
                       const float *k, const float *v, float *out)
{
    const struct model *m = s->model;
    const uint32_t split = s->apart ? m->kv_heads : 1, heads = m->heads / split;
    const size_t row = (size_t)m->kv_heads * m->head_dim, q_row = (size_t)m->heads * m->head_dim;
    const size_t at = (size_t)head * m->head_dim, q_at = at * (m->heads / m->kv_heads);
    anykv_attend_params params = ANYKV_ATTEND_PARAMS_INIT;
    anykv_view keys = anykv_view_host(k + at, ANYKV_F32, m->kv_heads / split, m->head_dim);
    anykv_view values = anykv_view_host(v + at, ANYKV_F32, m->kv_heads / split, m->head_dim);
    anykv_view queries = anykv_view_host(q + q_at, ANYKV_F32, heads, m->head_dim);
    anykv_view mixed = anykv_view_host(out + q_at, ANYKV_F32, heads, m->head_dim);
    keys.token_stride = values.token_stride = row;
    queries.token_stride = mixed.token_stride = q_row;
    if (s->lse)
        params.lse = newest(s->lse + ((size_t)layer * m->kv_heads + (s->apart ? head : 0)) *
                                         EVICT_QUERIES * (m->heads / m->kv_heads),
                            s->step_tokens, heads);
    const uint32_t number = layer * split + head;
    int status = check(anykv_step_append(s->step, number, &keys, &values), "append");
    if (status == 0)
        status = check(anykv_step_attend(s->step, number, &queries, &params, &mixed), "attend");
    return status;
}

int store_layer(struct store *s, uint32_t layer, const float *q, const float *k, const float *v,
                float *out)
{
    const struct model *m = s->model;
    double start = seconds();
    int status = 0;
    if (s->plain) {
        plain_layer(s, layer, q, k, v, out);
    } else {
        const size_t width = (size_t)m->heads * m->head_dim;
        if (s->queries)
            memcpy(newest(s->queries + layer * EVICT_QUERIES * width, s->step_tokens, width), q,
                   s->step_tokens * width * sizeof *q);
        for (uint32_t head = 0; status == 0 && head < (s->apart ? m->kv_heads : 1); head++)
            status = cache_layer(s, layer, head, q, k, v, out);
    }
    s->time += seconds() - start;
    return status;
}

int store_end(struct store *s, const uint32_t *tokens)
{
    double start = seconds();
    int status = 0;
    if (s->plain) {
        s->plain_length += s->plain_count;
        s->plain_count = 0;
    } else {
        status = check(anykv_step_end(s->step, NULL, tokens), "end");
        if (status == 0)
            s->step = NULL;
    }
    s->time += seconds() - start;
    return status;
}

void store_cancel(struct store *s)
{
    if (s->step)
        anykv_step_cancel(s->step);
    s->step = NULL;
    s->plain_count = 0;
}

/* ---- figures
 * -------------------------------------------------------------------------------------------- */

uint64_t store_f16_bytes(const struct model *m, uint64_t tokens)
{
    return UINT64_C(2) * 2 * m->layers * m->kv_heads * m->head_dim * tokens;
}

int store_stats(struct store *s, anykv_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats->size = sizeof *stats;
    if (s->plain)
        return fail("plain arrays have no statistics");
    /* What a step gave back counts once its work is done. */
    if (check(anykv_cache_wait(s->cache, UINT64_MAX), "wait") != 0)
        return -1;
    return check(anykv_cache_stats(s->cache, stats), "statistics");
}

uint64_t store_row_bytes(const anykv_stats *stats)
{
    uint64_t bytes = stats->hot_bytes + stats->sealed_bytes;
    for (size_t i = 0; i < sizeof stats->rung_bytes / sizeof stats->rung_bytes[0]; i++)
        bytes += stats->rung_bytes[i];
    return bytes;
}

double store_bits(struct store *s, uint64_t tokens)
{
    anykv_stats stats;
    if (tokens == 0 || store_stats(s, &stats) != 0)
        return 0.0;
    double elements = (double)store_f16_bytes(s->model, tokens) / 2;
    return 8.0 * (double)store_row_bytes(&stats) / elements;
}

double store_bits_limit(const struct store *s)
{
    return 0.5 * (anykv_format_bits(s->k, s->model->head_dim) +
                  anykv_format_bits(s->v, s->model->head_dim));
}
