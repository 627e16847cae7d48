/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens inside a sequence: scores, the rows that stay, their way into dense blocks.
 *
 * The region is a run of whole blocks of one kind between the sinks and the recent tokens.  Of every
 * layer and kv head as many of its rows stay, a number of whole blocks, so the kernels of attention
 * see a shorter sequence and nothing else: seq->length counts rows from here on, seq->dropped says how
 * many positions are gone, seq->kept has the positions of the region's rows.  Rows move in place where
 * the sequence alone holds the blocks and they have no name, into fresh blocks otherwise.
 *
 * Layers with a window lose nothing: what they see are recent tokens, so their blocks of the region are
 * gone already, and the later ones get lower numbers. */
#include "evict_tokens.h"
#include "half.h"
#include "seq.h"
#include <math.h>

/* Orders of floats and their sizes as lib/kernel/evict.h has them. */
#define KEEP 0x7FFFFFFF
#define ROOT2 1.41421356237309515

struct run {
    anykv_cache *cache;
    anykv_seq *seq;
    anykv_evict_params params;
    struct akv_evict_room room;
    uint32_t first, end; /* blocks of the region */
    uint32_t keep;       /* how many of them stay */
    uint32_t rows;       /* of the region */
    bool in_place, touched;
    uint32_t *lists;     /* [all kv heads of all layers][keep rows]: rows of the region that stay */
    uint32_t *to;        /* [groups][keep]: destination blocks */
    uint32_t *entries;   /* [blocks] */
    int32_t *sums;       /* KEYDIFF: mean's sums, layer after layer */
    void *rows_in;       /* host rows on their way */
    uint32_t *positions; /* the sequence's next `kept`, and its first row */
    uint32_t kept_first;
};

static uint32_t layer_heads(const anykv_layout *layout, uint32_t layer)
{
    return layout->places[layer].owner ? layout->groups[layout->places[layer].group].kv_heads : 0;
}
static uint32_t heads_before(const anykv_layout *layout, uint32_t layer)
{
    uint32_t heads = 0;
    for (uint32_t l = 0; l < layer; l++)
        heads += layer_heads(layout, l);
    return heads;
}
static const struct akv_group *group_of(const struct run *run, uint32_t layer)
{
    return &run->cache->layout->groups[run->cache->layout->places[layer].group];
}

static bool evicts(const struct run *run, uint32_t group)
{
    return run->cache->layout->groups[group].window == 0;
}
static bool evicts_layer(const struct run *run, uint32_t layer)
{
    const struct akv_place *place = &run->cache->layout->places[layer];
    return place->owner && evicts(run, place->group);
}

/* ---- the fixed room ---- */

static uint64_t take(uint64_t *at, uint64_t bytes)
{
    const uint64_t here = *at;
    *at += (bytes + 63) & ~UINT64_C(63);
    return here;
}

struct akv_evict_room akv_evict_room(const struct akv_plan *plan, const anykv_layout *layout)
{
    struct akv_evict_room room;
    uint64_t at = 0, heads = 0, q_heads = 0, dim = 0;
    const uint64_t rows = (uint64_t)plan->max_blocks * layout->options.block_tokens;
    for (uint32_t l = 0; l < layout->count; l++) {
        const struct akv_group *group = &layout->groups[layout->places[l].group];
        heads = group->kv_heads > heads ? group->kv_heads : heads;
        q_heads = layout->layers[l].q_heads > q_heads ? layout->layers[l].q_heads : q_heads;
        dim = group->k_dim > dim ? group->k_dim : dim;
    }
    room.from = take(&at, plan->max_blocks * 4ull);
    room.to = take(&at, plan->max_blocks * 4ull);
    room.weights = take(&at, (2 * dim + 1) * heads * 4);
    room.scores = take(&at, heads * rows * 4);
    room.rows = take(&at, heads * rows * 4);
    room.counts = take(&at, heads * 4);
    room.sums = take(&at, (rows / AKV_MEAN_ROWS + 1) * 2 * heads * dim * 4);
    room.queries = take(&at, 2ull * AKV_EVICT_QUERIES * q_heads * dim * 4);
    room.lse = take(&at, (uint64_t)AKV_EVICT_QUERIES * q_heads * 4);
    room.positions = take(&at, AKV_EVICT_QUERIES * 4ull);
    room.bytes = at;
    return room;
}

static struct akv_span span(const struct run *run, uint64_t at, uint64_t bytes)
{
    return akv_fixed_span(run->cache, run->cache->plan.evict_at + at, bytes);
}
static anykv_status put(const struct run *run, uint64_t at, const void *bytes, uint64_t count)
{
    return akv_queue_put(run->cache->device->queue, span(run, at, count), bytes);
}

/* ---- checks ---- */

static anykv_status check_policy(const struct run *run)
{
    anykv_context *context = run->cache->context;
    const anykv_evict_params *p = &run->params;
    if (p->policy < ANYKV_TOKENS_WINDOW || p->policy > ANYKV_TOKENS_SCORES)
        return akv_fail(context, ANYKV_E_ARG, "policy: %d is none of the known policies", (int)p->policy);
    if (p->flags & ~ANYKV_EVICT_SHARED)
        return akv_fail(context, ANYKV_E_ARG, "flags: 0x%x has unknown bits", p->flags);
    if (p->recent < AKV_EVICT_RECENT)
        return akv_fail(context, ANYKV_E_ARG, "recent: %u; the last %u tokens at least always stay",
                        p->recent, AKV_EVICT_RECENT);
    if (p->pool > 255 || (p->pool && p->pool % 2 == 0))
        return akv_fail(context, ANYKV_E_ARG, "pool: %u is even or above 255", p->pool);
    if (p->policy == ANYKV_TOKENS_AFFINE && !p->weights)
        return akv_fail(context, ANYKV_E_ARG, "weights: NULL with ANYKV_TOKENS_AFFINE");
    if (p->policy == ANYKV_TOKENS_SCORES && !p->scores)
        return akv_fail(context, ANYKV_E_ARG, "scores: NULL with ANYKV_TOKENS_SCORES");
    if (p->policy == ANYKV_TOKENS_MASS &&
        (!p->q || !p->lse || p->queries == 0 || p->queries > run->seq->length))
        return akv_fail(context, ANYKV_E_ARG, "q, lse, queries: ANYKV_TOKENS_MASS needs them, of 1 to %u tokens",
                        run->seq->length);
    if (!isfinite(p->scale) || !isfinite(p->cap) || p->cap < 0.0f)
        return akv_fail(context, ANYKV_E_ARG, "scale, cap: %g and %g", (double)p->scale, (double)p->cap);
    for (uint32_t l = 0; p->policy == ANYKV_TOKENS_MASS && l < run->cache->layout->count; l++)
        if (evicts(run, run->cache->layout->places[l].group) &&
            (p->q[l].dtype < ANYKV_F32 || p->q[l].dtype > ANYKV_BF16 || !p->q[l].data))
            return akv_fail(context, ANYKV_E_ARG, "q[%u]: no rows in host memory", l);
    return ANYKV_OK;
}

/* A mean of keys follows the rotary embedding, by the numbers of rows: they cannot move. */
static anykv_status check_layers(const struct run *run)
{
    const anykv_layout *layout = run->cache->layout;
    bool any = false;
    for (uint32_t l = 0; l < layout->count; l++) {
        const struct akv_group *group = group_of(run, l);
        any = any || evicts_layer(run, l);
        if (group->rotate[0] & AKV_FLAG_MAP)
            return akv_fail(run->cache->context, ANYKV_E_UNSUPPORTED,
                            "layers[%u].k_transform: the keys' mean or matrix goes by their rows' numbers, "
                            "which an eviction changes", l);
        if (run->params.policy == ANYKV_TOKENS_RATIO && evicts_layer(run, l) && (group->rotate[1] & AKV_FLAG_MAP))
            return akv_fail(run->cache->context, ANYKV_E_UNSUPPORTED,
                            "layers[%u].v_transform: ANYKV_TOKENS_RATIO takes plain and rotated values", l);
    }
    if (!any)
        return akv_fail(run->cache->context, ANYKV_E_UNSUPPORTED,
                        "layers: all have a window; tokens are evicted from layers without one");
    return ANYKV_OK;
}

/* Which blocks are candidates, and how many of them stay. */
static void find_region(struct run *run)
{
    const anykv_cache *cache = run->cache;
    const anykv_seq *seq = run->seq;
    const uint32_t size = akv_block_tokens(cache);
    uint32_t exempt = run->params.recent;
    const uint32_t sinks = run->params.sinks > cache->plan.options.sinks ? run->params.sinks
                                                                         : cache->plan.options.sinks;
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t window = cache->layout->groups[g].window;
        exempt = window > exempt ? window : exempt;
    }
    run->first = run->end = akv_blocks_for(cache, sinks);
    if (seq->length <= exempt || (seq->length - exempt) / size <= run->first)
        return;
    run->end = (seq->length - exempt) / size;
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t *table = akv_seq_table(seq, g);
        for (uint32_t b = run->first; b < run->end && evicts(run, g); b++)
            if (table[b] == AKV_NO_ID || akv_block_kind(akv_pool_block(&cache->pool, table[b])) !=
                                             akv_block_kind(akv_pool_block(&cache->pool, table[run->first])))
                run->end = b;
    }
    /* What an earlier eviction left lies before the recent tokens, or there is nothing to do. */
    if (run->end <= run->first || seq->kept_first + seq->kept_rows > run->end * size)
        run->end = run->first;
    run->rows = (run->end - run->first) * size;
    const uint64_t fixed = seq->length - run->rows, keep = run->params.keep > fixed ? run->params.keep - fixed : 0;
    run->keep = keep >= run->rows ? run->end - run->first : (uint32_t)((keep + size - 1) / size);
}

/* ---- destination ---- */

static bool exclusive(const struct run *run)
{
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        for (uint32_t b = run->first; b < run->end && evicts(run, g); b++) {
            const struct akv_block *block =
                akv_pool_block(&run->cache->pool, akv_seq_table(run->seq, g)[b]);
            if (block->refs != 1 || block->node != AKV_NO_ID || block->locks || block->holds)
                return false;
        }
    return true;
}

static void release_fresh(struct run *run)
{
    for (uint32_t i = 0; !run->in_place && i < run->cache->layout->group_count * run->keep; i++)
        if (run->to[i] != AKV_NO_ID) {
            akv_cache_release(run->cache, run->to[i]);
            run->to[i] = AKV_NO_ID;
        }
}

static uint32_t region_kind(const struct run *run, uint32_t group)
{
    return akv_block_kind(
        akv_pool_block(&run->cache->pool, akv_seq_table(run->seq, group)[run->first]));
}

static anykv_status make_destination(struct run *run)
{
    anykv_cache *cache = run->cache;
    const uint32_t groups = cache->layout->group_count;
    anykv_status status = ANYKV_OK;
    run->in_place = exclusive(run);
    for (uint32_t i = 0; i < groups * run->keep; i++)
        run->to[i] = run->in_place ? akv_seq_table(run->seq, i / run->keep)[run->first + i % run->keep] : AKV_NO_ID;
    if (run->in_place)
        return ANYKV_OK;
    memset(cache->need, 0, (size_t)groups * AKV_POOL_KINDS * sizeof *cache->need);
    akv_tenants_need_none(cache);
    for (uint32_t g = 0; g < groups; g++)
        if (evicts(run, g)) {
            const uint32_t class_ = AKV_CLASS(g, region_kind(run, g));
            cache->need[class_] = run->keep;
            cache->tenant[run->seq->part].need += run->keep * cache->pool.class_[class_].block_bytes;
        }
    status = akv_tenants_admit(cache, (uint64_t)1 << run->seq->part | 1u);
    if (!status)
        status = akv_cache_make_room(cache, cache->need);
    if (!status) /* room may have been made of the region's own blocks */
        for (uint32_t g = 0; g < groups; g++)
            for (uint32_t b = run->first + 1; b < run->end && evicts(run, g); b++)
                if (akv_block_kind(akv_pool_block(&cache->pool, akv_seq_table(run->seq, g)[b])) != region_kind(run, g))
                    return akv_fail(cache->context, ANYKV_E_STATE,
                                    "seq: some of its blocks stepped down while room was made; call again");
    for (uint32_t i = 0; i < groups * run->keep && !status; i++)
        if (evicts(run, i / run->keep))
            run->to[i] = akv_cache_alloc(cache, i / run->keep, region_kind(run, i / run->keep), run->seq->tenant, &status);
    if (status)
        release_fresh(run);
    return status;
}

/* ---- scores of a layer ---- */

static anykv_status launch(struct run *run, enum akv_kernel_id kernel, const void *params,
                           const struct akv_span *args, uint32_t count)
{
    struct akv_launch record;
    akv_launch_init(run->cache, &record, kernel, params);
    for (uint32_t i = 0; i < count; i++)
        record.arg[i] = args[i];
    return akv_kernel_launch(run->cache->device->queue, &record);
}

static anykv_status put_table(struct run *run, uint32_t layer)
{
    const uint32_t group = run->cache->layout->places[layer].group, blocks = run->end - run->first;
    const uint32_t *table = akv_seq_table(run->seq, group);
    for (uint32_t b = 0; b < blocks; b++)
        run->entries[b] = akv_pool_block(&run->cache->pool, table[run->first + b])->entry;
    anykv_status status = put(run, run->room.from, run->entries, blocks * 4ull);
    for (uint32_t b = 0; b < run->keep; b++)
        run->entries[b] = akv_pool_block(&run->cache->pool, run->to[group * run->keep + b])->entry;
    return status ? status : put(run, run->room.to, run->entries, run->keep * 4ull);
}

static void fill_tiles(const anykv_cache *cache, uint32_t layer, uint32_t method, akv_score_params *p)
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

static void fill_score(const struct run *run, uint32_t layer, uint32_t method, akv_score_params *p)
{
    fill_tiles(run->cache, layer, method, p);
    p->pool = akv_pool_group_map(&run->cache->pool, run->cache->layout->places[layer].group, run->cache->slabs);
    p->blocks = run->end - run->first;
    p->rows = p->stride = run->rows;
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

static void fill_compact(const akv_score_params *score, uint32_t kind, akv_compact_params *p)
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
        fill_compact(&score, AKV_KIND_HOT, &compact);
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

static uint64_t sums_count(const struct run *run, uint32_t layer)
{
    return (uint64_t)(run->rows / AKV_MEAN_ROWS + (run->rows % AKV_MEAN_ROWS != 0)) * 2 *
           layer_heads(run->cache->layout, layer) * group_of(run, layer)->k_dim;
}

/* KEYDIFF's first half: the sums of all layers come to the host. */
static anykv_status fetch_sums(struct run *run)
{
    anykv_status status = ANYKV_OK;
    int32_t *sums = run->sums;
    for (uint32_t l = 0; l < run->cache->layout->count && !status; l++) {
        akv_mean_params p;
        if (!evicts_layer(run, l))
            continue;
        fill_score(run, l, AKV_SCORE_NORM, &p);
        const uint64_t count = sums_count(run, l);
        const struct akv_span args[2] = {span(run, run->room.from, p.blocks * 4ull), span(run, run->room.sums, count * 4)};
        status = put_table(run, l);
        if (!status)
            status = launch(run, AKV_K_MEAN, &p, args, 2);
        if (!status)
            status = akv_queue_get(run->cache->device->queue, sums, args[1]);
        sums += count;
    }
    return status;
}

/* Directions as weights: all of the region's rows are of one kind, so both copies may be the same. */
static anykv_status put_mean(struct run *run, uint32_t layer, const akv_score_params *p)
{
    const int32_t *sums = run->sums;
    float *weights = run->rows_in;
    const uint64_t per = (uint64_t)p->kv_heads * p->k_dim;
    for (uint32_t l = 0; l < layer; l++)
        sums += evicts_layer(run, l) ? sums_count(run, l) : 0;
    for (uint64_t i = 0; i < per; i++) {
        int64_t sum = 0;
        for (uint64_t part = 0; part < sums_count(run, layer) / per; part++)
            sum += sums[part * per + i];
        const uint64_t at = i / p->k_dim * 2 * p->k_dim + i % p->k_dim;
        weights[at] = weights[at + p->k_dim] = (float)((double)sum / ((double)run->rows * 1048576.0));
    }
    memset(weights + 2 * per, 0, p->kv_heads * sizeof *weights);
    return put(run, run->room.weights, weights, (2 * per + p->kv_heads) * 4);
}

/* `count` dense rows of `dim`, put at `at`, as stored rows want to meet them: to at + bytes. */
static anykv_status turn(struct run *run, uint64_t at, uint64_t rows, uint32_t dim, bool rotated)
{
    const uint64_t bytes = rows * dim * 4;
    const akv_rotate_params p = {(akv_u32)rows, dim, 0, 0};
    const struct akv_span args[2] = {span(run, at, bytes), span(run, at + bytes, bytes)};
    return rotated ? launch(run, AKV_K_ROTATE, &p, args, 2)
                   : put(run, at + bytes, run->rows_in, bytes);
}

static anykv_status put_weights(struct run *run, uint32_t layer, const akv_score_params *p)
{
    const uint32_t before = heads_before(run->cache->layout, layer), dim = p->k_dim;
    float *both = run->rows_in;
    uint64_t skip = 0;
    for (uint32_t l = 0; l < layer; l++)
        skip += (uint64_t)layer_heads(run->cache->layout, l) * group_of(run, l)->k_dim;
    /* Turned through the device's own kernel, then laid side by side. */
    const uint64_t bytes = (uint64_t)p->kv_heads * dim * 4;
    memcpy(both, run->params.weights + skip, bytes);
    anykv_status status = put(run, run->room.queries, both, bytes);
    if (!status)
        status = turn(run, run->room.queries, p->kv_heads, dim, p->k_flags & AKV_FLAG_ROTATE);
    for (uint32_t h = 0; h < p->kv_heads && !status; h++)
        for (uint32_t side = 0; side < 2 && !status; side++)
            status = akv_queue_copy(run->cache->device->queue,
                                    span(run, run->room.weights + (h * 2ull + side) * dim * 4, dim * 4ull),
                                    span(run, run->room.queries + side * bytes + (uint64_t)h * dim * 4, dim * 4ull));
    memset(both, 0, p->kv_heads * sizeof *both);
    if (run->params.bias)
        memcpy(both, run->params.bias + before, p->kv_heads * sizeof *both);
    return status ? status : put(run, run->room.weights + 2 * bytes, both, p->kv_heads * 4ull);
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

static anykv_status mass(struct run *run, uint32_t layer, const akv_score_params *score)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t q_heads = layout->layers[layer].q_heads, dim = score->k_dim, all = run->params.queries;
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
    anykv_status status = akv_queue_fill(run->cache->device->queue, span(run, run->room.scores, score_bytes), 0);
    for (uint32_t done = 0; done < all && !status; done += p.queries) {
        float *rows = run->rows_in;
        p.queries = all - done < AKV_EVICT_QUERIES ? all - done : AKV_EVICT_QUERIES;
        const uint64_t bytes = (uint64_t)p.queries * q_heads * dim * 4;
        for (uint32_t i = 0; i < p.queries; i++) {
            /* Row numbers of the region; a query before it sees none of it. */
            const uint32_t row = run->seq->length - all + done + i, first = run->first * score->block_tokens;
            positions[i] = row - first;
            for (uint32_t h = 0; h < q_heads; h++)
                for (uint32_t j = 0; j < dim; j++)
                    *rows++ = row < first ? 0.0f : element(view, (done + i) * view->token_stride + h * view->head_stride + j);
            if (row < first)
                positions[i] = 0;
        }
        status = put(run, run->room.queries, run->rows_in, bytes);
        if (!status)
            status = turn(run, run->room.queries, (uint64_t)p.queries * q_heads, dim, p.k_flags & AKV_FLAG_ROTATE);
        if (!status)
            status = put(run, run->room.lse, lse + (uint64_t)done * q_heads, (uint64_t)p.queries * q_heads * 4);
        if (!status)
            status = put(run, run->room.positions, positions, p.queries * 4ull);
        const struct akv_span args[5] = {
            span(run, run->room.from, p.blocks * 4ull), span(run, run->room.queries, 2 * bytes),
            span(run, run->room.lse, (uint64_t)p.queries * q_heads * 4),
            span(run, run->room.positions, p.queries * 4ull), span(run, run->room.scores, score_bytes)};
        if (!status)
            status = launch(run, AKV_K_MASS, &p, args, 5);
    }
    return status;
}

/* The caller's numbers in the kernels' order of integers: NaN stays. */
static anykv_status given_scores(struct run *run, uint32_t layer, const akv_score_params *p)
{
    const uint32_t first = run->first * p->block_tokens, before = heads_before(run->cache->layout, layer);
    int32_t *out = run->rows_in;
    anykv_status status = ANYKV_OK;
    for (uint32_t h = 0; h < p->kv_heads && !status; h++) {
        const float *in = run->params.scores + (uint64_t)(before + h) * run->seq->length + first;
        for (uint32_t r = 0; r < p->rows; r++) {
            uint32_t bits;
            memcpy(&bits, &in[r], 4);
            out[r] = isnan(in[r]) ? KEEP : in[r] == 0.0f ? 0 : (int32_t)(bits >> 31 ? bits ^ 0x7FFFFFFFu : bits);
        }
        status = put(run, run->room.scores + (uint64_t)h * p->stride * 4, out, p->rows * 4ull);
    }
    return status;
}

static anykv_status score(struct run *run, uint32_t layer)
{
    static const uint32_t methods[] = {0, 0, AKV_SCORE_NORM, AKV_SCORE_DIFF, AKV_SCORE_RATIO, AKV_SCORE_AFFINE, 0, 0};
    const anykv_token_policy policy = run->params.policy;
    akv_score_params p;
    fill_score(run, layer, methods[policy], &p);
    const uint64_t weights = (2ull * p.k_dim + 1) * p.kv_heads * 4;
    const struct akv_span args[3] = {span(run, run->room.from, p.blocks * 4ull), span(run, run->room.weights, weights),
                                     span(run, run->room.scores, (uint64_t)p.kv_heads * p.stride * 4)};
    anykv_status status = ANYKV_OK;
    if (policy == ANYKV_TOKENS_MASS)
        return mass(run, layer, &p);
    if (policy == ANYKV_TOKENS_SCORES)
        return given_scores(run, layer, &p);
    if (policy == ANYKV_TOKENS_KEYDIFF)
        status = put_mean(run, layer, &p);
    if (policy == ANYKV_TOKENS_AFFINE)
        status = put_weights(run, layer, &p);
    return status ? status : launch(run, AKV_K_SCORE, &p, args, 3);
}

/* ---- selection and moves of a layer ---- */

static anykv_status select_rows(struct run *run, uint32_t layer)
{
    const uint32_t heads = group_of(run, layer)->kv_heads, size = akv_block_tokens(run->cache);
    const uint32_t unit = run->params.policy == ANYKV_TOKENS_RATIO ? size : 1;
    akv_select_params p = {1, heads, run->rows, run->rows, 0, run->rows, unit, 1, run->keep * size / unit, 0, 0, 0};
    if (run->params.policy == ANYKV_TOKENS_WINDOW) { /* the newest: known without scores */
        uint32_t *list = run->rows_in;
        anykv_status status = ANYKV_OK;
        for (uint32_t i = 0; i < run->keep * size; i++)
            list[i] = run->rows - run->keep * size + i;
        for (uint32_t h = 0; h < heads && !status; h++)
            status = put(run, run->room.rows + (uint64_t)h * run->rows * 4, list, run->keep * size * 4ull);
        for (uint32_t h = 0; h < heads; h++)
            list[h] = run->keep * size;
        return status ? status : put(run, run->room.counts, list, heads * 4ull);
    }
    if (run->params.policy == ANYKV_TOKENS_MASS && run->params.pool)
        p.pool = run->params.pool;
    if (run->params.flags & ANYKV_EVICT_SHARED)
        p.flags = AKV_SELECT_SHARED;
    const struct akv_span args[3] = {span(run, run->room.scores, (uint64_t)heads * run->rows * 4),
                                     span(run, run->room.rows, (uint64_t)heads * run->rows * 4),
                                     span(run, run->room.counts, heads * 4ull)};
    return launch(run, AKV_K_SELECT, &p, args, 3);
}

static anykv_status compact(struct run *run, uint32_t layer)
{
    const uint32_t g = run->cache->layout->places[layer].group, kind = region_kind(run, g);
    akv_score_params tiles;
    fill_score(run, layer, AKV_SCORE_NORM, &tiles);
    akv_compact_params p;
    fill_compact(&tiles, kind, &p);
    p.to_blocks = run->keep;
    p.stride = run->rows;
    p.in_place = run->in_place;
    const struct akv_span args[4] = {span(run, run->room.from, p.from_blocks * 4ull), span(run, run->room.to, p.to_blocks * 4ull),
                                     span(run, run->room.rows, (uint64_t)p.kv_heads * run->rows * 4),
                                     span(run, run->room.counts, p.kv_heads * 4ull)};
    run->touched = true;
    return launch(run, AKV_K_COMPACT, &p, args, 4);
}

static anykv_status evict_layer(struct run *run, uint32_t layer)
{
    const uint32_t kept = run->keep * akv_block_tokens(run->cache);
    if (!evicts_layer(run, layer)) { /* it has no row of the region; the newest have the numbers */
        uint32_t *list = run->lists + (uint64_t)heads_before(run->cache->layout, layer) * kept;
        for (uint32_t i = 0; i < layer_heads(run->cache->layout, layer) * kept; i++)
            list[i] = run->rows - kept + i % kept;
        return ANYKV_OK;
    }
    anykv_status status = put_table(run, layer);
    if (!status && run->params.policy != ANYKV_TOKENS_WINDOW)
        status = score(run, layer);
    if (!status)
        status = select_rows(run, layer);
    for (uint32_t h = 0; h < layer_heads(run->cache->layout, layer) && !status; h++)
        status = akv_queue_get(run->cache->device->queue,
                               run->lists + (uint64_t)(heads_before(run->cache->layout, layer) + h) * kept,
                               span(run, run->room.rows + (uint64_t)h * run->rows * 4, kept * 4ull));
    return status ? status : compact(run, layer);
}

/* ---- tables and positions afterwards ---- */

static void commit(struct run *run)
{
    anykv_cache *cache = run->cache;
    anykv_seq *seq = run->seq;
    const uint32_t held = akv_blocks_for(cache, seq->length), gone = run->end - run->first - run->keep;
    const uint64_t epoch = ++cache->epoch;
    if (seq->node_count > run->first)
        akv_seq_drop_nodes(seq, run->first);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        uint32_t *table = akv_seq_table(seq, g);
        akv_seq_drop_blocks(seq, g, run->in_place ? run->first + run->keep : run->first, run->end);
        for (uint32_t b = 0; b < run->keep && evicts(run, g); b++) {
            table[run->first + b] = run->to[g * run->keep + b];
            struct akv_block *block = akv_pool_block(&cache->pool, table[run->first + b]);
            block->epoch = epoch;
            block->position = run->first + b;
            block->least = seq->rungs;
        }
        memmove(table + run->first + run->keep, table + run->end, (held - run->end) * sizeof *table);
        for (uint32_t b = held - gone; b < held; b++)
            table[b] = AKV_NO_ID;
        if (seq->first[g] >= run->end)
            seq->first[g] -= gone;
        if (seq->sealed[g] >= run->end)
            seq->sealed[g] -= gone;
        else if (seq->sealed[g] > run->first)
            seq->sealed[g] = run->first;
    }
    seq->closed = true;
    seq->kept = run->positions;
    seq->kept_rows = (run->first + run->keep) * akv_block_tokens(cache) - run->kept_first;
    seq->kept_first = run->kept_first;
    seq->length -= gone * akv_block_tokens(cache);
    seq->dropped += gone * akv_block_tokens(cache);
    if (seq->named > run->first * akv_block_tokens(cache))
        seq->named = run->first * akv_block_tokens(cache);
    cache->count.tokens_evicted += gone * akv_block_tokens(cache);
}

/* Position of row r of kv head `head` of all. */
static uint32_t position(const anykv_seq *seq, uint32_t head, uint32_t r)
{
    if (r < seq->kept_first)
        return r;
    return r < seq->kept_first + seq->kept_rows ? seq->kept[(uint64_t)head * seq->kept_rows + r - seq->kept_first]
                                                : r + seq->dropped;
}

/* The sequence's list of positions after the rows in `lists` stayed of what it was before. */
static void write_positions(const struct run *run, const anykv_seq *before)
{
    const uint32_t heads = heads_before(run->cache->layout, run->cache->layout->count);
    const uint32_t first = run->seq->kept_first, rows = run->seq->kept_rows;
    const uint32_t size = akv_block_tokens(run->cache), from = run->first * size, kept = run->keep * size;
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t i = 0; i < rows; i++) {
            const uint32_t r = first + i;
            const uint32_t old = r < from          ? r
                                 : r < from + kept ? from + run->lists[(uint64_t)h * kept + r - from]
                                                   : r + run->rows - kept;
            run->seq->kept[(uint64_t)h * rows + i] = position(before, h, old);
        }
}

anykv_status akv_seq_rows_of(const anykv_seq *seq, uint64_t first, uint64_t count, const char *what,
                             uint32_t *row_out)
{
    const uint64_t end = seq->kept_first + seq->kept_rows;
    if (seq->kept_rows == 0 || first + count <= seq->kept_first) {
        *row_out = (uint32_t)first;
        return ANYKV_OK;
    }
    if (first < end + seq->dropped)
        return akv_fail(seq->cache->context, ANYKV_E_NOT_FOUND,
                        "%s: tokens were evicted between positions %u and %llu", what, seq->kept_first,
                        (unsigned long long)(end + seq->dropped));
    *row_out = (uint32_t)(first - seq->dropped);
    return ANYKV_OK;
}

bool akv_seq_copy_kept(anykv_seq *copy, const anykv_seq *seq)
{
    const anykv_layout *layout = seq->cache->layout;
    const uint64_t count = (uint64_t)heads_before(layout, layout->count) * seq->kept_rows;
    if (seq->kept_rows == 0)
        return true;
    copy->kept = akv_alloc(seq->cache->context, count, sizeof *copy->kept);
    if (!copy->kept)
        return false;
    memcpy(copy->kept, seq->kept, count * sizeof *copy->kept);
    copy->kept_first = seq->kept_first;
    copy->kept_rows = seq->kept_rows;
    copy->dropped = seq->dropped;
    return true;
}

/* A cut before the region leaves nothing that was evicted. */
void akv_seq_cut_kept(anykv_seq *seq)
{
    if (seq->length <= seq->kept_first)
        seq->kept_rows = seq->dropped = 0;
}

/* ---- the call ---- */

static void free_run(struct run *run)
{
    anykv_context *context = run->cache->context;
    akv_free(context, run->lists);
    akv_free(context, run->to);
    akv_free(context, run->entries);
    akv_free(context, run->sums);
    akv_free(context, run->rows_in);
}

static anykv_status make_run(struct run *run)
{
    anykv_cache *cache = run->cache;
    const anykv_layout *layout = cache->layout;
    const uint64_t kept = (uint64_t)run->keep * akv_block_tokens(cache);
    uint64_t sums = 0;
    const uint64_t rows_bytes = run->room.lse - run->room.queries, list_bytes = run->room.counts - run->room.rows;
    for (uint32_t l = 0; l < layout->count; l++)
        sums += evicts_layer(run, l) ? sums_count(run, l) : 0;
    run->lists = akv_alloc(cache->context, heads_before(layout, layout->count) * kept + 1, 4);
    run->to = akv_alloc(cache->context, (uint64_t)layout->group_count * run->keep + 1, 4);
    run->entries = akv_alloc(cache->context, run->end - run->first, 4);
    run->rows_in = akv_alloc(cache->context, rows_bytes > list_bytes ? rows_bytes : list_bytes, 1);
    if (run->params.policy == ANYKV_TOKENS_KEYDIFF)
        run->sums = akv_alloc(cache->context, sums, 4);
    return run->lists && run->to && run->entries && run->rows_in &&
                   (run->sums || run->params.policy != ANYKV_TOKENS_KEYDIFF)
               ? ANYKV_OK
               : ANYKV_E_MEMORY;
}

/* While the lock is given up nobody moves or lowers the blocks. */
static void hold_blocks(struct run *run, bool hold)
{
    struct akv_pool *pool = &run->cache->pool;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        for (uint32_t i = 0; evicts(run, g) && i < run->end - run->first + (run->in_place ? 0 : run->keep); i++) {
            const uint32_t own = run->first + i, blocks = run->end - run->first;
            const uint32_t id = i < blocks ? akv_seq_table(run->seq, g)[own] : run->to[g * run->keep + i - blocks];
            if (hold)
                akv_pool_lock(pool, id);
            else
                akv_pool_unlock(pool, id);
        }
}

/* Under io and lock, which it gives up and takes again where it waits for the means. */
static anykv_status enqueue(struct run *run)
{
    anykv_cache *cache = run->cache;
    anykv_status status = make_destination(run);
    if (!status && run->params.policy == ANYKV_TOKENS_KEYDIFF) {
        status = fetch_sums(run);
        hold_blocks(run, true);
        akv_mutex_unlock(&cache->lock);
        anykv_status wait = akv_cache_drain(cache, UINT64_MAX);
        akv_mutex_lock(&cache->lock);
        hold_blocks(run, false);
        status = status ? status : wait ? wait : akv_seq_alive(run->seq);
    }
    for (uint32_t l = 0; l < cache->layout->count && !status; l++)
        if (cache->layout->places[l].owner)
            status = evict_layer(run, l);
    if (status && run->touched && run->in_place)
        akv_seq_kill(run->seq); /* rows of some layers moved */
    if (status)
        release_fresh(run);
    else
        commit(run);
    return status;
}

static anykv_status evict(struct run *run)
{
    anykv_cache *cache = run->cache;
    anykv_seq *seq = run->seq;
    const anykv_seq before = *seq; /* its lists are this call's to free once they are replaced */
    const uint32_t size = akv_block_tokens(cache), first = run->first * size;
    const uint32_t heads = heads_before(cache->layout, cache->layout->count);
    run->kept_first = seq->kept_rows && seq->kept_first < first ? seq->kept_first : first;
    run->positions = akv_alloc(cache->context, (uint64_t)heads * (first + run->keep * size - run->kept_first) + 1,
                               sizeof *run->positions);
    if (!run->positions)
        return ANYKV_E_MEMORY;
    anykv_status status = enqueue(run);
    akv_mutex_unlock(&cache->lock);
    /* Even after a failure: copies to the lists may be under way. */
    anykv_status wait = akv_cache_drain(cache, UINT64_MAX);
    akv_mutex_lock(&cache->lock);
    if (status) {
        akv_free(cache->context, run->positions);
        return status;
    }
    if (!wait) /* else it is dead */
        write_positions(run, &before);
    akv_free(cache->context, before.kept);
    return wait;
}

anykv_status akv_evict_fits(anykv_cache *cache, anykv_token_policy policy)
{
    const struct run run = {.cache = cache, .params = {.policy = policy}};
    return check_layers(&run);
}

anykv_status akv_seq_evict(anykv_seq *seq, const anykv_evict_params *params)
{
    anykv_cache *cache = seq->cache;
    struct run run = {.cache = cache, .seq = seq, .params = *params};
    anykv_status status = check_policy(&run);
    if (!status)
        status = check_layers(&run);
    if (status)
        return status;
    run.room = akv_evict_room(&cache->plan, cache->layout);
    find_region(&run);
    if (run.keep >= run.end - run.first)
        return ANYKV_OK;
    status = make_run(&run);
    if (!status)
        status = evict(&run);
    free_run(&run);
    return status;
}

anykv_status anykv_seq_evict_tokens(anykv_seq *seq, const anykv_evict_params *params)
{
    if (!seq)
        return akv_fail(NULL, ANYKV_E_ARG, "seq: NULL");
    anykv_cache *cache = seq->cache;
    anykv_evict_params checked = ANYKV_EVICT_PARAMS_INIT;
    anykv_status status = akv_options(cache->context, "evict params", &checked, sizeof checked, params);
    if (status)
        return status;
    akv_mutex_lock(&cache->io); /* before the cache's own lock: the order of locks */
    status = akv_cold_read(cache, (const anykv_seq *const *)&seq, NULL, 1, 0, UINT32_MAX);
    if (!status)
        status = akv_seq_enter(seq, true);
    if (!status) {
        if (cache->plan.options.flags & ANYKV_CACHE_EVICT_TOKENS)
            status = akv_seq_evict(seq, &checked);
        else
            status = akv_fail(cache->context, ANYKV_E_STATE,
                              "flags: the cache was made without ANYKV_CACHE_EVICT_TOKENS");
        (void)akv_seq_leave(seq, status);
    }
    akv_mutex_unlock(&cache->io);
    return status;
}

anykv_status anykv_seq_kept(const anykv_seq *seq, uint32_t layer, uint32_t head, uint32_t *positions,
                            uint64_t *count_in_out)
{
    if (seq && (!count_in_out || (!positions && *count_in_out)))
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "%s: NULL", count_in_out ? "positions" : "count_in_out");
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    const anykv_layout *layout = seq->cache->layout;
    if (layer >= layout->count)
        return akv_seq_leave(seq, akv_fail(seq->cache->context, ANYKV_E_ARG, "layer: %u, the layout has %u",
                                           layer, layout->count));
    if (layout->layers[layer].source != ANYKV_OWN_ROWS)
        layer = layout->layers[layer].source;
    const uint64_t capacity = *count_in_out;
    if (head >= layer_heads(layout, layer))
        return akv_seq_leave(seq, akv_fail(seq->cache->context, ANYKV_E_ARG, "head: %u, the layer has %u",
                                           head, layer_heads(layout, layer)));
    *count_in_out = seq->length;
    if (capacity < seq->length)
        status = akv_fail(seq->cache->context, ANYKV_E_SHAPE, "count_in_out: room for %llu positions, there are %u",
                          (unsigned long long)capacity, seq->length);
    for (uint32_t r = 0; r < seq->length && !status; r++)
        positions[r] = position(seq, heads_before(layout, layer) + head, r);
    return akv_seq_leave(seq, status);
}
