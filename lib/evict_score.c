/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens: scores of a layer's rows on the device. */
#include "evict_run.h"
#include "half.h"
#include <math.h>

/* Orders of floats and their sizes as lib/kernel/evict.h has them. */
#define KEEP 0x7FFFFFFF

anykv_status akv_run_launch(struct akv_evict_run *run, enum akv_kernel_id kernel,
                            const void *params, const struct akv_span *args, uint32_t count)
{
    struct akv_launch record;
    akv_launch_init(run->cache, &record, kernel, params);
    for (uint32_t i = 0; i < count; i++)
        record.arg[i] = args[i];
    return akv_kernel_launch(run->cache->device->queue, &record);
}

anykv_status akv_run_put_from(struct akv_evict_run *run, uint32_t layer)
{
    const uint32_t group = run->cache->layout->places[layer].group;
    for (uint32_t i = 0; i < run->have[group]; i++)
        run->entries[i] = akv_pool_block(&run->cache->pool, akv_run_block(run, group, i))->entry;
    return akv_run_put(run, run->room.from, run->entries, run->have[group] * 4ull);
}

static void fill_tiles(const anykv_cache *cache, uint32_t layer, uint32_t method,
                       akv_score_params *p)
{
    akv_attend_params attend;
    const struct akv_group *group = &cache->layout->groups[cache->layout->places[layer].group];
    akv_fill_attend(&cache->plan, cache->layout, layer, &attend);
    memset(p, 0, sizeof *p);
    p->pool = attend.pool;
    p->tiles = attend.tiles;
    p->kv_heads = group->kv_heads;
    p->k_dim = group->k_dim;
    p->v_dim = group->v_dim;
    p->block_tokens = akv_block_tokens(cache);
    p->method = method;
    p->k_flags = group->rotate[0];
}

void akv_run_fill_score(const struct akv_evict_run *run, uint32_t layer, uint32_t method,
                        akv_score_params *p)
{
    fill_tiles(run->cache, layer, method, p);
    p->pool = akv_pool_group_map(&run->cache->pool, run->cache->layout->places[layer].group,
                                 run->cache->slabs);
    p->blocks = run->have[run->cache->layout->places[layer].group];
    p->rows = p->stride = akv_run_rows(run, layer);
}

static void fill_mass(const akv_score_params *score, uint32_t q_heads, akv_mass_params *p)
{
    memset(p, 0, sizeof *p);
    p->pool = score->pool;
    p->tiles = score->tiles;
    p->kv_heads = score->kv_heads;
    p->q_heads = q_heads;
    p->k_dim = score->k_dim;
    p->block_tokens = score->block_tokens;
    p->blocks = score->blocks;
    p->rows = p->stride = score->rows;
    p->k_flags = score->k_flags;
    p->scale = 1.0f / sqrtf((float)p->k_dim);
}

void akv_run_fill_compact(const akv_score_params *score, uint32_t kind, akv_compact_params *p)
{
    memset(p, 0, sizeof *p);
    p->pool = score->pool;
    p->kv_heads = score->kv_heads;
    p->block_tokens = score->block_tokens;
    p->dim[0] = score->k_dim;
    p->dim[1] = score->v_dim;
    p->format[0] = score->tiles.k_format[kind];
    p->format[1] = score->tiles.v_format[kind];
    p->offset[0] = score->tiles.k_offset[kind];
    p->offset[1] = score->tiles.v_offset[kind];
    p->from_blocks = score->blocks;
    p->stride = score->rows;
}

anykv_status akv_evict_prepare(anykv_cache *cache)
{
    struct akv_device *device = cache->device->device;
    const akv_select_params select = {1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0};
    const akv_rotate_params rotate = {1, cache->layout->groups[0].k_dim, 0, 0};
    anykv_status status = akv_kernel_prepare(device, AKV_K_SELECT, &select);
    if (!status)
        status = akv_kernel_prepare(device, AKV_K_ROTATE, &rotate);
    for (uint32_t l = 0; l < cache->layout->count && !status; l++) {
        akv_score_params score;
        akv_mass_params mass;
        akv_compact_params compact;
        if (!cache->layout->places[l].owner)
            continue;
        fill_tiles(cache, l, AKV_SCORE_NORM, &score);
        fill_mass(&score, cache->layout->layers[l].q_heads, &mass);
        akv_run_fill_compact(&score, AKV_KIND_HOT, &compact);
        status = akv_kernel_prepare(device, AKV_K_SCORE, &score);
        if (!status)
            status = akv_kernel_prepare(device, AKV_K_MEAN, &score);
        if (!status)
            status = akv_kernel_prepare(device, AKV_K_MASS, &mass);
        if (!status)
            status = akv_kernel_prepare(device, AKV_K_COMPACT, &compact);
    }
    return status;
}

uint64_t akv_run_sums_count(const struct akv_evict_run *run, uint32_t layer)
{
    const uint32_t rows = akv_run_rows(run, layer);
    return (uint64_t)(rows / AKV_MEAN_ROWS + (rows % AKV_MEAN_ROWS != 0)) * 2 *
           akv_layer_heads(run->cache->layout, layer) * akv_run_group(run, layer)->k_dim;
}

/* KEYDIFF's first half: the sums of all layers come to the host. */
anykv_status akv_run_fetch_sums(struct akv_evict_run *run)
{
    anykv_status status = ANYKV_OK;
    int32_t *sums = run->sums;
    for (uint32_t l = 0; l < run->cache->layout->count && !status; l++) {
        akv_mean_params p;
        if (!akv_run_scored(run, l))
            continue;
        akv_run_fill_score(run, l, AKV_SCORE_NORM, &p);
        const uint64_t count = akv_run_sums_count(run, l);
        const struct akv_span args[2] = {akv_run_span(run, run->room.from, p.blocks * 4ull),
                                         akv_run_span(run, run->room.sums, count * 4)};
        status = akv_run_put_from(run, l);
        if (!status)
            status = akv_run_launch(run, AKV_K_MEAN, &p, args, 2);
        if (!status)
            status = akv_queue_get(run->cache->device->queue, sums, args[1]);
        sums += count;
    }
    return status;
}

/* Directions as weights: all of the region's rows are of one kind, so both copies may be the same.
 */
static anykv_status put_mean(struct akv_evict_run *run, uint32_t layer, const akv_score_params *p)
{
    const int32_t *sums = run->sums;
    float *weights = run->rows_in;
    const uint64_t per = (uint64_t)p->kv_heads * p->k_dim;
    for (uint32_t l = 0; l < layer; l++)
        sums += akv_run_scored(run, l) ? akv_run_sums_count(run, l) : 0;
    for (uint64_t i = 0; i < per; i++) {
        int64_t sum = 0;
        for (uint64_t part = 0; part < akv_run_sums_count(run, layer) / per; part++)
            sum += sums[part * per + i];
        const uint64_t at = i / p->k_dim * 2 * p->k_dim + i % p->k_dim;
        weights[at] = weights[at + p->k_dim] = (float)((double)sum / ((double)p->rows * 1048576.0));
    }
    memset(weights + 2 * per, 0, p->kv_heads * sizeof *weights);
    return akv_run_put(run, run->room.weights, weights, (2 * per + p->kv_heads) * 4);
}

/* `count` dense rows of `dim`, put at `at`, as stored rows want to meet them: to at + bytes. */
static anykv_status turn(struct akv_evict_run *run, uint64_t at, uint64_t rows, uint32_t dim,
                         bool rotated)
{
    const uint64_t bytes = rows * dim * 4;
    const akv_rotate_params p = {(akv_u32)rows, dim, 0, 0};
    const struct akv_span args[2] = {akv_run_span(run, at, bytes),
                                     akv_run_span(run, at + bytes, bytes)};
    return rotated ? akv_run_launch(run, AKV_K_ROTATE, &p, args, 2)
                   : akv_run_put(run, at + bytes, run->rows_in, bytes);
}

static anykv_status put_weights(struct akv_evict_run *run, uint32_t layer,
                                const akv_score_params *p)
{
    const uint32_t before = akv_heads_before(run->cache->layout, layer), dim = p->k_dim;
    float *both = run->rows_in;
    uint64_t skip = 0;
    for (uint32_t l = 0; l < layer; l++)
        skip += (uint64_t)akv_layer_heads(run->cache->layout, l) * akv_run_group(run, l)->k_dim;
    /* Turned through the device's own kernel, then laid side by side. */
    const uint64_t bytes = (uint64_t)p->kv_heads * dim * 4;
    memcpy(both, run->params.weights + skip, bytes);
    anykv_status status = akv_run_put(run, run->room.queries, both, bytes);
    if (!status)
        status = turn(run, run->room.queries, p->kv_heads, dim, p->k_flags & AKV_FLAG_ROTATE);
    for (uint32_t h = 0; h < p->kv_heads && !status; h++)
        for (uint32_t side = 0; side < 2 && !status; side++)
            status = akv_queue_copy(
                run->cache->device->queue,
                akv_run_span(run, run->room.weights + (h * 2ull + side) * dim * 4, dim * 4ull),
                akv_run_span(run, run->room.queries + side * bytes + (uint64_t)h * dim * 4,
                             dim * 4ull));
    memset(both, 0, p->kv_heads * sizeof *both);
    if (run->params.bias)
        memcpy(both, run->params.bias + before, p->kv_heads * sizeof *both);
    return status ? status
                  : akv_run_put(run, run->room.weights + 2 * bytes, both, p->kv_heads * 4ull);
}

static float element(const anykv_view *view, uint64_t index)
{
    uint16_t half;
    if (view->dtype == ANYKV_F32)
        return ((const float *)view->data)[index];
    half = ((const uint16_t *)view->data)[index];
    if (view->dtype == ANYKV_F16)
        return (float)akv_half_value(half);
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Row of the region that a query at a row of the sequence sees last; false: it sees none. */
static bool last_seen(const struct akv_evict_run *run, uint32_t group, uint32_t at,
                      uint32_t *row_out)
{
    const uint32_t size = akv_block_tokens(run->cache), block = at / size - run->first;
    uint32_t before = 0;
    if (at / size < run->first)
        return false;
    while (before < run->have[group] && akv_run_numbers(run, group)[before] < block)
        before++;
    const bool inside = before < run->have[group] && akv_run_numbers(run, group)[before] == block;
    if (inside)
        *row_out = before * size + at % size;
    else if (before) /* behind them all, or in a gap */
        *row_out = before * size - 1;
    return before || inside;
}

static anykv_status mass(struct akv_evict_run *run, uint32_t layer, const akv_score_params *score)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t q_heads = layout->layers[layer].q_heads, dim = score->k_dim,
                   all = run->params.queries;
    const anykv_view *view = &run->params.q[layer];
    const float *lse = run->params.lse;
    const uint64_t score_bytes = (uint64_t)score->kv_heads * score->stride * 4;
    uint32_t positions[AKV_EVICT_QUERIES];
    akv_mass_params p;
    fill_mass(score, q_heads, &p);
    if (run->params.scale != 0.0f)
        p.scale = run->params.scale;
    p.cap = run->params.cap;
    for (uint32_t l = 0; l < layer; l++)
        lse += (uint64_t)all * layout->layers[l].q_heads;
    anykv_status status = akv_queue_fill(run->cache->device->queue,
                                         akv_run_span(run, run->room.scores, score_bytes), 0);
    for (uint32_t done = 0; done < all && !status; done += p.queries) {
        float *rows = run->rows_in;
        p.queries = all - done < AKV_EVICT_QUERIES ? all - done : AKV_EVICT_QUERIES;
        const uint64_t bytes = (uint64_t)p.queries * q_heads * dim * 4;
        for (uint32_t i = 0; i < p.queries; i++) {
            positions[i] = 0;
            const bool sees = last_seen(run, layout->places[layer].group,
                                        run->seq->length - all + done + i, &positions[i]);
            for (uint32_t h = 0; h < q_heads; h++)
                for (uint32_t j = 0; j < dim; j++)
                    *rows++ = sees ? element(view, (done + i) * view->token_stride +
                                                       h * view->head_stride + j)
                                   : 0.0f;
        }
        status = akv_run_put(run, run->room.queries, run->rows_in, bytes);
        if (!status)
            status = turn(run, run->room.queries, (uint64_t)p.queries * q_heads, dim,
                          p.k_flags & AKV_FLAG_ROTATE);
        if (!status)
            status = akv_run_put(run, run->room.lse, lse + (uint64_t)done * q_heads,
                                 (uint64_t)p.queries * q_heads * 4);
        if (!status)
            status = akv_run_put(run, run->room.positions, positions, p.queries * 4ull);
        const struct akv_span args[5] = {
            akv_run_span(run, run->room.from, p.blocks * 4ull),
            akv_run_span(run, run->room.queries, 2 * bytes),
            akv_run_span(run, run->room.lse, (uint64_t)p.queries * q_heads * 4),
            akv_run_span(run, run->room.positions, p.queries * 4ull),
            akv_run_span(run, run->room.scores, score_bytes)};
        if (!status)
            status = akv_run_launch(run, AKV_K_MASS, &p, args, 5);
    }
    return status;
}

static uint32_t most_rows(const anykv_seq *seq)
{
    uint32_t most = 0;
    for (uint32_t h = 0; h < akv_heads_before(seq->cache->layout, seq->cache->layout->count); h++) {
        const uint32_t count = akv_seq_count_rows(seq, h, seq->length);
        most = count > most ? count : most;
    }
    return most;
}

/* The caller's numbers in the kernels' order of integers: NaN stays. */
static anykv_status given_scores(struct akv_evict_run *run, uint32_t layer,
                                 const akv_score_params *p)
{
    const uint32_t before = akv_heads_before(run->cache->layout, layer), most = most_rows(run->seq);
    const uint32_t first = akv_seq_count_rows(run->seq, before, run->first * p->block_tokens);
    int32_t *out = run->rows_in;
    anykv_status status = ANYKV_OK;
    for (uint32_t h = 0; h < p->kv_heads && !status; h++) {
        const float *in = run->params.scores + (uint64_t)(before + h) * most + first;
        for (uint32_t r = 0; r < p->rows; r++) {
            uint32_t bits;
            memcpy(&bits, &in[r], 4);
            out[r] = isnan(in[r])    ? KEEP
                     : in[r] == 0.0f ? 0
                                     : (int32_t)(bits >> 31 ? bits ^ 0x7FFFFFFFu : bits);
        }
        status =
            akv_run_put(run, run->room.scores + (uint64_t)h * p->stride * 4, out, p->rows * 4ull);
    }
    return status;
}

anykv_status akv_run_score(struct akv_evict_run *run, uint32_t layer)
{
    static const uint32_t methods[] = {
        0, 0, AKV_SCORE_NORM, AKV_SCORE_DIFF, AKV_SCORE_RATIO, AKV_SCORE_AFFINE, 0, 0};
    const anykv_token_policy policy = run->params.policy;
    akv_score_params p;
    akv_run_fill_score(run, layer, methods[policy], &p);
    const uint64_t weights = (2ull * p.k_dim + 1) * p.kv_heads * 4;
    const struct akv_span args[3] = {
        akv_run_span(run, run->room.from, p.blocks * 4ull),
        akv_run_span(run, run->room.weights, weights),
        akv_run_span(run, run->room.scores, (uint64_t)p.kv_heads * p.stride * 4)};
    anykv_status status = ANYKV_OK;
    if (policy == ANYKV_TOKENS_MASS)
        return mass(run, layer, &p);
    if (policy == ANYKV_TOKENS_SCORES)
        return given_scores(run, layer, &p);
    if (policy == ANYKV_TOKENS_KEYDIFF)
        status = put_mean(run, layer, &p);
    if (policy == ANYKV_TOKENS_AFFINE)
        status = put_weights(run, layer, &p);
    return status ? status : akv_run_launch(run, AKV_K_SCORE, &p, args, 3);
}
