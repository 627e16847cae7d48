/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens inside a sequence: scores, the rows that stay, their way into dense blocks.
 *
 * The region is a run of whole blocks of one kind between the sinks and the recent tokens.  Of every
 * layer and kv head of a layer group as many of its rows stay, a number of whole blocks, so the kernels
 * of attention see a shorter sequence and nothing else: seq->length counts rows from here on,
 * seq->dropped says how many positions are gone, seq->kept has the positions of the region's rows.  Where
 * groups keep different numbers of blocks (ANYKV_EVICT_ADAPTIVE) seq->length counts those of the group
 * that keeps most; in the others' tables blocks are missing at the region's end, as after a removal, and
 * their rows have the position NO_ROW.  Rows move in place where the sequence alone holds the blocks and
 * they have no name, into fresh blocks otherwise.
 *
 * Layers with a window lose nothing: what they see are recent tokens, so their blocks of the region are
 * gone already, and the later ones get lower numbers. */
#include "evict_tokens.h"
#include "half.h"
#include "seq.h"
#include <math.h>
#include <stdlib.h>

/* Orders of floats and their sizes as lib/kernel/evict.h has them. */
#define KEEP 0x7FFFFFFF
#define NO_ROW UINT32_MAX
#define SAFE   5u /* ADAPTIVE: every group keeps a fifth of its share */

struct run {
    anykv_cache *cache;
    anykv_seq *seq;
    anykv_evict_params params;
    struct akv_evict_room room;
    uint32_t first, end; /* blocks of the region */
    uint32_t share;      /* of them, what stays of a group on average */
    uint32_t keep;       /* and at most */
    uint32_t *have;      /* [groups]: how many are there; below, "rows" are theirs, without gaps */
    uint32_t *stay;      /* [groups]: how many stay */
    uint32_t *number;    /* [groups][numbers]: which are there, from 0 for the first */
    uint32_t numbers;    /* blocks of the sequence */
    bool in_place, touched;
    uint32_t *lists;     /* [all kv heads of all layers][keep rows]: rows of the region that stay */
    uint32_t *to;        /* [groups][keep]: destination blocks */
    uint32_t *entries;   /* [blocks] */
    int32_t *sums;       /* KEYDIFF: mean's sums, layer after layer */
    int32_t *scores;     /* ADAPTIVE: of all heads of all layers, layer after layer */
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
static bool adaptive(const struct run *run)
{
    return run->params.flags & ANYKV_EVICT_ADAPTIVE;
}
static uint32_t *numbers(const struct run *run, uint32_t group)
{
    return run->number + (size_t)group * run->numbers;
}
/* Rows of a layer in the region. */
static uint32_t layer_rows(const struct run *run, uint32_t layer)
{
    return run->have[run->cache->layout->places[layer].group] * akv_block_tokens(run->cache);
}
/* Is a layer scored? */
static bool scored(const struct run *run, uint32_t layer)
{
    return evicts_layer(run, layer) && layer_rows(run, layer);
}
/* Do blocks of a group go or get other numbers? */
static bool changes(const struct run *run, uint32_t group)
{
    const uint32_t have = run->have[group];
    return evicts(run, group) && have && (run->stay[group] < have || numbers(run, group)[have - 1] != have - 1);
}
static uint32_t first_layer(const anykv_layout *layout, uint32_t group)
{
    uint32_t layer = 0;
    while (!layout->places[layer].owner || layout->places[layer].group != group)
        layer++;
    return layer;
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
    if (p->flags & ~(ANYKV_EVICT_SHARED | ANYKV_EVICT_ADAPTIVE))
        return akv_fail(context, ANYKV_E_ARG, "flags: 0x%x has unknown bits", p->flags);
    if ((p->flags & ANYKV_EVICT_ADAPTIVE) && p->policy == ANYKV_TOKENS_WINDOW)
        return akv_fail(context, ANYKV_E_ARG, "flags: ANYKV_EVICT_ADAPTIVE, but ANYKV_TOKENS_WINDOW has no scores");
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
        const uint32_t alike = first_layer(layout, layout->places[l].group);
        if (adaptive(run) && run->params.share && evicts_layer(run, l) && run->params.share[l] != run->params.share[alike])
            return akv_fail(run->cache->context, ANYKV_E_ARG,
                            "share[%u]: layer %u has its rows in the same blocks and another share "
                            "(ANYKV_LAYOUT_APART)", l, alike);
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

/* Did an earlier eviction leave this missing block out?  Others were removed. */
static bool left_out(const struct run *run, uint32_t group, uint32_t block)
{
    const anykv_seq *seq = run->seq;
    const uint32_t row = block * akv_block_tokens(run->cache);
    if (row < seq->kept_first || row >= seq->kept_first + seq->kept_rows)
        return false;
    const uint32_t head = heads_before(run->cache->layout, first_layer(run->cache->layout, group));
    return seq->kept[(uint64_t)head * seq->kept_rows + row - seq->kept_first] == NO_ROW;
}

/* Lists a group's blocks from run->first on and ends the region where one is missing or of another kind. */
static void list_blocks(struct run *run, uint32_t group)
{
    const anykv_seq *seq = run->seq;
    const uint32_t *table = akv_seq_table(seq, group);
    uint32_t *number = numbers(run, group), kind = 0, n = 0;
    for (uint32_t b = run->first; b < run->end; b++) {
        if (table[b] == AKV_NO_ID && left_out(run, group, b))
            continue;
        if (table[b] == AKV_NO_ID ||
            (n && akv_block_kind(akv_pool_block(&run->cache->pool, table[b])) != kind)) {
            run->end = b;
            break;
        }
        kind = akv_block_kind(akv_pool_block(&run->cache->pool, table[b]));
        number[n++] = b - run->first;
    }
    run->have[group] = n;
}

/* Which blocks are candidates, and how many of them stay. */
static void find_region(struct run *run)
{
    const anykv_cache *cache = run->cache;
    const anykv_seq *seq = run->seq;
    const uint32_t size = akv_block_tokens(cache), groups = cache->layout->group_count;
    uint32_t exempt = run->params.recent;
    const uint32_t sinks = run->params.sinks > cache->plan.options.sinks ? run->params.sinks
                                                                         : cache->plan.options.sinks;
    for (uint32_t g = 0; g < groups; g++) {
        const uint32_t window = cache->layout->groups[g].window;
        exempt = window > exempt ? window : exempt;
    }
    run->first = run->end = akv_blocks_for(cache, sinks);
    if (seq->length <= exempt || (seq->length - exempt) / size <= run->first)
        return;
    run->end = (seq->length - exempt) / size;
    for (uint32_t g = 0; g < groups; g++)
        if (evicts(run, g))
            list_blocks(run, g);
    /* What an earlier eviction left lies before the recent tokens, or there is nothing to do. */
    if (run->end <= run->first || seq->kept_first + seq->kept_rows > run->end * size)
        run->end = run->first;
    const uint32_t blocks = run->end - run->first;
    const uint64_t fixed = seq->length - (uint64_t)blocks * size;
    const uint64_t keep = run->params.keep > fixed ? run->params.keep - fixed : 0;
    run->share = keep >= (uint64_t)blocks * size ? blocks : (uint32_t)((keep + size - 1) / size);
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t *have = &run->have[g];
        while (*have && numbers(run, g)[*have - 1] >= blocks) /* a later group ended the region earlier */
            --*have;
        run->stay[g] = *have < run->share ? *have : run->share;
    }
}

static bool evicts_any(const struct run *run)
{
    bool any = false;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        any = any || run->stay[g] < run->have[g];
    return any;
}

/* ---- destination ---- */

static uint32_t region_block(const struct run *run, uint32_t group, uint32_t i)
{
    return akv_seq_table(run->seq, group)[run->first + numbers(run, group)[i]];
}

static bool exclusive(const struct run *run)
{
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        for (uint32_t i = 0; i < run->have[g] && changes(run, g); i++) {
            const struct akv_block *block = akv_pool_block(&run->cache->pool, region_block(run, g, i));
            if (block->refs != 1 || block->node != AKV_NO_ID || block->locks || block->holds)
                return false;
        }
    return true;
}

static void release_fresh(struct run *run)
{
    for (uint32_t i = 0; run->to && !run->in_place && i < run->cache->layout->group_count * run->keep; i++)
        if (run->to[i] != AKV_NO_ID) {
            akv_cache_release(run->cache, run->to[i]);
            run->to[i] = AKV_NO_ID;
        }
}

static uint32_t region_kind(const struct run *run, uint32_t group)
{
    return akv_block_kind(akv_pool_block(&run->cache->pool, region_block(run, group, 0)));
}

static anykv_status make_destination(struct run *run)
{
    anykv_cache *cache = run->cache;
    const uint32_t groups = cache->layout->group_count;
    anykv_status status = ANYKV_OK;
    run->in_place = exclusive(run);
    for (uint32_t i = 0; i < groups * run->keep; i++) {
        const uint32_t g = i / run->keep;
        const bool own = run->in_place && changes(run, g) && i % run->keep < run->stay[g];
        run->to[i] = own ? region_block(run, g, i % run->keep) : AKV_NO_ID;
    }
    if (run->in_place)
        return ANYKV_OK;
    memset(cache->need, 0, (size_t)groups * AKV_POOL_KINDS * sizeof *cache->need);
    akv_tenants_need_none(cache);
    for (uint32_t g = 0; g < groups; g++)
        if (changes(run, g)) {
            const uint32_t class_ = AKV_CLASS(g, region_kind(run, g));
            cache->need[class_] = run->stay[g];
            cache->tenant[run->seq->part].need += run->stay[g] * cache->pool.class_[class_].block_bytes;
        }
    status = akv_tenants_admit(cache, (uint64_t)1 << run->seq->part | 1u);
    if (!status)
        status = akv_cache_make_room(cache, cache->need);
    if (!status) /* room may have been made of the region's own blocks */
        for (uint32_t g = 0; g < groups; g++)
            for (uint32_t i = 1; i < run->have[g] && evicts(run, g); i++)
                if (akv_block_kind(akv_pool_block(&cache->pool, region_block(run, g, i))) != region_kind(run, g))
                    return akv_fail(cache->context, ANYKV_E_STATE,
                                    "seq: some of its blocks stepped down while room was made; call again");
    for (uint32_t i = 0; i < groups * run->keep && !status; i++)
        if (changes(run, i / run->keep) && i % run->keep < run->stay[i / run->keep])
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

static anykv_status put_from(struct run *run, uint32_t layer)
{
    const uint32_t group = run->cache->layout->places[layer].group;
    for (uint32_t i = 0; i < run->have[group]; i++)
        run->entries[i] = akv_pool_block(&run->cache->pool, region_block(run, group, i))->entry;
    return put(run, run->room.from, run->entries, run->have[group] * 4ull);
}

static anykv_status put_to(struct run *run, uint32_t layer)
{
    const uint32_t group = run->cache->layout->places[layer].group;
    for (uint32_t i = 0; i < run->stay[group]; i++)
        run->entries[i] = akv_pool_block(&run->cache->pool, run->to[group * run->keep + i])->entry;
    return put(run, run->room.to, run->entries, run->stay[group] * 4ull);
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
    p->blocks = run->have[run->cache->layout->places[layer].group];
    p->rows = p->stride = layer_rows(run, layer);
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
    const uint32_t rows = layer_rows(run, layer);
    return (uint64_t)(rows / AKV_MEAN_ROWS + (rows % AKV_MEAN_ROWS != 0)) * 2 *
           layer_heads(run->cache->layout, layer) * group_of(run, layer)->k_dim;
}

/* KEYDIFF's first half: the sums of all layers come to the host. */
static anykv_status fetch_sums(struct run *run)
{
    anykv_status status = ANYKV_OK;
    int32_t *sums = run->sums;
    for (uint32_t l = 0; l < run->cache->layout->count && !status; l++) {
        akv_mean_params p;
        if (!scored(run, l))
            continue;
        fill_score(run, l, AKV_SCORE_NORM, &p);
        const uint64_t count = sums_count(run, l);
        const struct akv_span args[2] = {span(run, run->room.from, p.blocks * 4ull), span(run, run->room.sums, count * 4)};
        status = put_from(run, l);
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
        sums += scored(run, l) ? sums_count(run, l) : 0;
    for (uint64_t i = 0; i < per; i++) {
        int64_t sum = 0;
        for (uint64_t part = 0; part < sums_count(run, layer) / per; part++)
            sum += sums[part * per + i];
        const uint64_t at = i / p->k_dim * 2 * p->k_dim + i % p->k_dim;
        weights[at] = weights[at + p->k_dim] = (float)((double)sum / ((double)p->rows * 1048576.0));
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

/* Row of the region that a query at a row of the sequence sees last; false: it sees none. */
static bool last_seen(const struct run *run, uint32_t group, uint32_t at, uint32_t *row_out)
{
    const uint32_t size = akv_block_tokens(run->cache), block = at / size - run->first;
    uint32_t before = 0;
    if (at / size < run->first)
        return false;
    while (before < run->have[group] && numbers(run, group)[before] < block)
        before++;
    const bool inside = before < run->have[group] && numbers(run, group)[before] == block;
    if (inside)
        *row_out = before * size + at % size;
    else if (before) /* behind them all, or in a gap */
        *row_out = before * size - 1;
    return before || inside;
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
            positions[i] = 0;
            const bool sees = last_seen(run, layout->places[layer].group, run->seq->length - all + done + i, &positions[i]);
            for (uint32_t h = 0; h < q_heads; h++)
                for (uint32_t j = 0; j < dim; j++)
                    *rows++ = sees ? element(view, (done + i) * view->token_stride + h * view->head_stride + j) : 0.0f;
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

/* Rows of a kv head among the sequence's first `end`, and of the head that has most. */
static uint32_t count_rows(const anykv_seq *seq, uint32_t head, uint32_t end)
{
    uint32_t count = end;
    for (uint32_t i = 0; i < seq->kept_rows && seq->kept_first + i < end; i++)
        count -= seq->kept[(uint64_t)head * seq->kept_rows + i] == NO_ROW;
    return count;
}
static uint32_t most_rows(const anykv_seq *seq)
{
    uint32_t most = 0;
    for (uint32_t h = 0; h < heads_before(seq->cache->layout, seq->cache->layout->count); h++) {
        const uint32_t count = count_rows(seq, h, seq->length);
        most = count > most ? count : most;
    }
    return most;
}

/* The caller's numbers in the kernels' order of integers: NaN stays. */
static anykv_status given_scores(struct run *run, uint32_t layer, const akv_score_params *p)
{
    const uint32_t before = heads_before(run->cache->layout, layer), most = most_rows(run->seq);
    const uint32_t first = count_rows(run->seq, before, run->first * p->block_tokens);
    int32_t *out = run->rows_in;
    anykv_status status = ANYKV_OK;
    for (uint32_t h = 0; h < p->kv_heads && !status; h++) {
        const float *in = run->params.scores + (uint64_t)(before + h) * most + first;
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

static uint32_t unit_of(const struct run *run)
{
    return run->params.policy == ANYKV_TOKENS_RATIO ? akv_block_tokens(run->cache) : 1;
}
static uint32_t pool_of(const struct run *run)
{
    return run->params.policy == ANYKV_TOKENS_MASS && run->params.pool ? run->params.pool : 1;
}

static anykv_status select_rows(struct run *run, uint32_t layer)
{
    const uint32_t heads = group_of(run, layer)->kv_heads, size = akv_block_tokens(run->cache);
    const uint32_t rows = layer_rows(run, layer), unit = unit_of(run);
    const uint32_t keep = run->stay[run->cache->layout->places[layer].group] * size;
    akv_select_params p = {1, heads, rows, rows, 0, rows, unit, pool_of(run), keep / unit, 0, 0, 0};
    if (run->params.policy == ANYKV_TOKENS_WINDOW) { /* the newest: known without scores */
        uint32_t *list = run->rows_in;
        anykv_status status = ANYKV_OK;
        for (uint32_t i = 0; i < keep; i++)
            list[i] = rows - keep + i;
        for (uint32_t h = 0; h < heads && !status; h++)
            status = put(run, run->room.rows + (uint64_t)h * rows * 4, list, keep * 4ull);
        for (uint32_t h = 0; h < heads; h++)
            list[h] = keep;
        return status ? status : put(run, run->room.counts, list, heads * 4ull);
    }
    if (run->params.flags & ANYKV_EVICT_SHARED)
        p.flags = AKV_SELECT_SHARED;
    const struct akv_span args[3] = {span(run, run->room.scores, (uint64_t)heads * rows * 4),
                                     span(run, run->room.rows, (uint64_t)heads * rows * 4),
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
    p.to_blocks = run->stay[g];
    p.in_place = run->in_place;
    const struct akv_span args[4] = {span(run, run->room.from, p.from_blocks * 4ull), span(run, run->room.to, p.to_blocks * 4ull),
                                     span(run, run->room.rows, (uint64_t)p.kv_heads * p.stride * 4),
                                     span(run, run->room.counts, p.kv_heads * 4ull)};
    anykv_status status = put_to(run, layer);
    run->touched = true;
    return status ? status : launch(run, AKV_K_COMPACT, &p, args, 4);
}

static uint64_t scores_count(const struct run *run, uint32_t layer)
{
    return (uint64_t)layer_heads(run->cache->layout, layer) * layer_rows(run, layer);
}

static anykv_status evict_layer(struct run *run, uint32_t layer)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t size = akv_block_tokens(run->cache), g = layout->places[layer].group;
    const uint32_t kept = run->keep * size, heads = layer_heads(layout, layer), rows = layer_rows(run, layer);
    uint32_t *list = run->lists + (uint64_t)heads_before(layout, layer) * kept;
    if (!changes(run, g)) {
        /* All that is there stays; a layer with a window has none of these rows, its newest get the numbers. */
        const uint32_t from = evicts(run, g) ? 0 : (run->end - run->first) * size - kept;
        for (uint32_t i = 0; i < heads * kept; i++)
            list[i] = from + i % kept;
        return ANYKV_OK;
    }
    anykv_status status = put_from(run, layer);
    if (!status && adaptive(run)) {
        const int32_t *scores = run->scores;
        for (uint32_t l = 0; l < layer; l++)
            scores += scored(run, l) ? scores_count(run, l) : 0;
        status = put(run, run->room.scores, scores, scores_count(run, layer) * 4);
    } else if (!status && run->params.policy != ANYKV_TOKENS_WINDOW) {
        status = score(run, layer);
    }
    if (!status)
        status = select_rows(run, layer);
    for (uint32_t h = 0; h < heads && !status; h++)
        status = akv_queue_get(run->cache->device->queue, list + (uint64_t)h * kept,
                               span(run, run->room.rows + (uint64_t)h * rows * 4, run->stay[g] * size * 4ull));
    return status ? status : compact(run, layer);
}

/* ---- shares of the groups (ADAPTIVE) ---- */

static anykv_status fetch_scores(struct run *run)
{
    anykv_status status = ANYKV_OK;
    int32_t *scores = run->scores;
    for (uint32_t l = 0; l < run->cache->layout->count && !status; l++) {
        if (!scored(run, l))
            continue;
        const uint64_t count = scores_count(run, l);
        status = put_from(run, l);
        if (!status)
            status = score(run, l);
        if (!status)
            status = akv_queue_get(run->cache->device->queue, scores, span(run, run->room.scores, count * 4));
        scores += count;
    }
    return status;
}

static int larger_first(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Adds what the k-th block of a head is worth to value[k]: the middle score of the rows that would be
 * in it, the best ones first; values of rows and units are those of select. */
static void add_values(const struct run *run, const int32_t *scores, uint32_t rows, int64_t *value)
{
    const uint32_t size = akv_block_tokens(run->cache), unit = unit_of(run), pool = pool_of(run);
    int32_t *sorted = run->rows_in;
    for (uint32_t u = 0; u < rows / unit; u++) {
        const uint32_t count = unit > 1 ? unit : pool;
        const uint32_t back = unit > 1 ? 0 : pool / 2, begin = u * unit;
        int64_t sum = 0;
        for (uint32_t i = 0; i < count; i++)
            if (begin + i >= back && begin + i - back < rows)
                sum += scores[begin + i - back];
        sorted[u] = (int32_t)(sum / (int64_t)count);
    }
    qsort(sorted, rows / unit, sizeof *sorted, larger_first);
    for (uint32_t k = 0; k < rows / size; k++)
        value[k] += sorted[unit > 1 ? k : k * size + size / 2];
}

struct shares {
    const struct run *run;
    const int64_t *value; /* [groups][blocks of the region], descending */
    uint32_t blocks, set;
    const uint32_t *sets; /* [groups] */
};

static uint64_t bytes_of(const struct run *run, uint32_t group)
{
    return run->cache->layout->groups[group].block_bytes[region_kind(run, group)];
}
static bool in_set(const struct shares *s, uint32_t group)
{
    return evicts(s->run, group) && s->run->have[group] && s->sets[group] == s->set;
}
/* Bytes of a set with the blocks worth `bar` and more, which it leaves in run->stay. */
static uint64_t cost(const struct shares *s, int64_t bar)
{
    const struct run *run = s->run;
    const uint32_t sure = (run->share + SAFE - 1) / SAFE;
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++) {
        const int64_t *value = s->value + (size_t)g * s->blocks;
        if (!in_set(s, g))
            continue;
        uint32_t low = sure < run->have[g] ? sure : run->have[g], high = run->have[g];
        while (low < high) {
            const uint32_t middle = low + (high - low) / 2;
            if (value[middle] >= bar)
                low = middle + 1;
            else
                high = middle;
        }
        run->stay[g] = low;
        bytes += low * bytes_of(run, g);
    }
    return bytes;
}

/* The blocks that are worth most, as many bytes of them as the set's groups would keep with equal shares. */
static void share_set(const struct shares *s)
{
    const struct run *run = s->run;
    int64_t low = INT32_MIN, high = (int64_t)INT32_MAX + 1;
    uint64_t budget = 0;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        budget += in_set(s, g) ? run->share * bytes_of(run, g) : 0;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (cost(s, middle) <= budget)
            high = middle;
        else
            low = middle + 1;
    }
    uint64_t bytes = cost(s, low);
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++) /* of equal ones those of the first groups */
        while (in_set(s, g) && run->stay[g] < run->have[g] &&
               s->value[(size_t)g * s->blocks + run->stay[g]] == low - 1 && bytes + bytes_of(run, g) <= budget) {
            run->stay[g]++;
            bytes += bytes_of(run, g);
        }
}

static anykv_status share_out(struct run *run)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t groups = layout->group_count, blocks = run->end - run->first;
    const int32_t *scores = run->scores;
    int64_t *value = akv_alloc(run->cache->context, (size_t)groups * blocks, sizeof *value);
    uint32_t *sets = akv_alloc(run->cache->context, groups, sizeof *sets);
    anykv_status status = value && sets ? ANYKV_OK : ANYKV_E_MEMORY;
    for (uint32_t l = 0; l < layout->count && !status; l++) {
        const uint32_t g = layout->places[l].group, heads = layer_heads(layout, l), rows = layer_rows(run, l);
        if (!scored(run, l))
            continue;
        sets[g] = run->params.share ? run->params.share[l] : 0;
        for (uint32_t h = 0; h < heads; h++, scores += rows)
            add_values(run, scores, rows, value + (size_t)g * blocks);
    }
    for (uint32_t g = 0; g < groups && !status; g++)
        for (uint32_t k = 0; k < run->have[g] && evicts(run, g); k++)
            value[(size_t)g * blocks + k] /= (int64_t)layout->groups[g].kv_heads * layout->groups[g].layers;
    for (uint32_t g = 0; g < groups && !status; g++) {
        struct shares shares = {run, value, blocks, sets[g], sets};
        bool done = !in_set(&shares, g);
        for (uint32_t before = 0; before < g && !done; before++)
            done = in_set(&shares, before);
        if (!done)
            share_set(&shares);
    }
    akv_free(run->cache->context, value);
    akv_free(run->cache->context, sets);
    return status;
}

/* ---- tables and positions afterwards ---- */

/* The region's part of a group's table. */
static void commit_group(struct run *run, uint32_t g, uint64_t epoch)
{
    anykv_cache *cache = run->cache;
    uint32_t *table = akv_seq_table(run->seq, g) + run->first;
    if (!evicts(run, g))
        akv_seq_drop_blocks(run->seq, g, run->first, run->end);
    for (uint32_t i = run->in_place ? run->stay[g] : 0; i < run->have[g] && changes(run, g); i++)
        akv_seq_drop_blocks(run->seq, g, run->first + numbers(run, g)[i], run->first + numbers(run, g)[i] + 1);
    for (uint32_t i = 0; i < run->stay[g] && changes(run, g); i++) {
        if (run->in_place)
            table[numbers(run, g)[i]] = AKV_NO_ID; /* its new place is no later one */
        table[i] = run->to[g * run->keep + i];
        struct akv_block *block = akv_pool_block(&cache->pool, table[i]);
        block->epoch = epoch;
        block->position = run->first + i;
        block->least = run->seq->rungs;
    }
}

static void commit(struct run *run)
{
    anykv_cache *cache = run->cache;
    anykv_seq *seq = run->seq;
    const uint32_t held = akv_blocks_for(cache, seq->length), gone = run->end - run->first - run->keep;
    const uint64_t epoch = ++cache->epoch;
    uint64_t lost = 0, of = 0;
    if (seq->node_count > run->first)
        akv_seq_drop_nodes(seq, run->first);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        uint32_t *table = akv_seq_table(seq, g);
        commit_group(run, g, epoch);
        memmove(table + run->first + run->keep, table + run->end, (held - run->end) * sizeof *table);
        for (uint32_t b = held - gone; b < held; b++)
            table[b] = AKV_NO_ID;
        if (seq->first[g] >= run->end)
            seq->first[g] -= gone;
        if (seq->sealed[g] >= run->end)
            seq->sealed[g] -= gone;
        else if (seq->sealed[g] > run->first)
            seq->sealed[g] = run->first;
        const uint64_t weight = (uint64_t)cache->layout->groups[g].layers * cache->layout->groups[g].kv_heads;
        of += evicts(run, g) ? weight : 0;
        lost += evicts(run, g) ? weight * (run->have[g] - run->stay[g]) : 0;
    }
    seq->closed = true;
    seq->kept = run->positions;
    seq->kept_rows = (run->first + run->keep) * akv_block_tokens(cache) - run->kept_first;
    seq->kept_first = run->kept_first;
    seq->length -= gone * akv_block_tokens(cache);
    seq->dropped += gone * akv_block_tokens(cache);
    if (seq->named > run->first * akv_block_tokens(cache))
        seq->named = run->first * akv_block_tokens(cache);
    cache->count.tokens_evicted += lost * akv_block_tokens(cache) / of; /* the mean of the heads */
}

/* Position of row r of kv head `head` of all, or NO_ROW. */
static uint32_t position(const anykv_seq *seq, uint32_t head, uint32_t r)
{
    if (r < seq->kept_first)
        return r;
    return r < seq->kept_first + seq->kept_rows ? seq->kept[(uint64_t)head * seq->kept_rows + r - seq->kept_first]
                                                : r + seq->dropped;
}

/* Row of the sequence that became row r of the region for a head of the layer, or NO_ROW. */
static uint32_t old_row(const struct run *run, uint32_t layer, const uint32_t *list, uint32_t r)
{
    const uint32_t size = akv_block_tokens(run->cache), g = run->cache->layout->places[layer].group;
    if (!evicts(run, g))
        return run->first * size + list[r];
    if (r >= run->stay[g] * size)
        return NO_ROW;
    return (run->first + numbers(run, g)[list[r] / size]) * size + list[r] % size;
}

/* The sequence's list of positions after the rows in `lists` stayed of what it was before. */
static void write_positions(const struct run *run, const anykv_seq *before)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t first = run->seq->kept_first, rows = run->seq->kept_rows;
    const uint32_t size = akv_block_tokens(run->cache), from = run->first * size, kept = run->keep * size;
    uint32_t head = 0;
    for (uint32_t l = 0; l < layout->count; l++)
        for (uint32_t h = 0; h < layer_heads(layout, l); h++, head++)
            for (uint32_t i = 0; i < rows; i++) {
                const uint32_t r = first + i;
                const uint32_t old = r < from ? r : old_row(run, l, run->lists + (uint64_t)head * kept, r - from);
                run->seq->kept[(uint64_t)head * rows + i] = old == NO_ROW ? NO_ROW : position(before, head, old);
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
    akv_free(context, run->have);
    akv_free(context, run->lists);
    akv_free(context, run->to);
    akv_free(context, run->entries);
    akv_free(context, run->sums);
    akv_free(context, run->scores);
    akv_free(context, run->rows_in);
}

/* What finding the region takes; stay and number follow have. */
static anykv_status make_counts(struct run *run)
{
    const size_t groups = run->cache->layout->group_count;
    run->numbers = akv_blocks_for(run->cache, run->seq->length);
    run->have = akv_alloc(run->cache->context, groups * (2 + (size_t)run->numbers), sizeof *run->have);
    if (!run->have)
        return ANYKV_E_MEMORY;
    run->stay = run->have + groups;
    run->number = run->stay + groups;
    return ANYKV_OK;
}

/* What scoring takes. */
static anykv_status make_run(struct run *run)
{
    anykv_cache *cache = run->cache;
    const anykv_layout *layout = cache->layout;
    uint64_t sums = 0, scores = 0;
    const uint64_t rows_bytes = run->room.lse - run->room.queries, list_bytes = run->room.counts - run->room.rows;
    for (uint32_t l = 0; l < layout->count; l++) {
        sums += scored(run, l) ? sums_count(run, l) : 0;
        scores += scored(run, l) ? scores_count(run, l) : 0;
    }
    run->entries = akv_alloc(cache->context, run->end - run->first, 4);
    run->rows_in = akv_alloc(cache->context, rows_bytes > list_bytes ? rows_bytes : list_bytes, 1);
    if (run->params.policy == ANYKV_TOKENS_KEYDIFF)
        run->sums = akv_alloc(cache->context, sums, 4);
    if (adaptive(run))
        run->scores = akv_alloc(cache->context, scores, 4);
    return run->entries && run->rows_in && (run->sums || run->params.policy != ANYKV_TOKENS_KEYDIFF) &&
                   (run->scores || !adaptive(run))
               ? ANYKV_OK
               : ANYKV_E_MEMORY;
}

/* What moving takes, once it is known how much stays. */
static anykv_status make_lists(struct run *run)
{
    anykv_cache *cache = run->cache;
    const anykv_layout *layout = cache->layout;
    const uint32_t size = akv_block_tokens(cache), heads = heads_before(layout, layout->count);
    const uint32_t first = run->first * size;
    for (uint32_t g = 0; g < layout->group_count; g++)
        run->keep = run->stay[g] > run->keep ? run->stay[g] : run->keep;
    run->kept_first = run->seq->kept_rows && run->seq->kept_first < first ? run->seq->kept_first : first;
    run->lists = akv_alloc(cache->context, (uint64_t)heads * run->keep * size + 1, 4);
    run->to = akv_alloc(cache->context, (uint64_t)layout->group_count * run->keep + 1, 4);
    run->positions = akv_alloc(cache->context, (uint64_t)heads * (first + run->keep * size - run->kept_first) + 1,
                               sizeof *run->positions);
    for (uint32_t i = 0; run->to && i < layout->group_count * run->keep; i++)
        run->to[i] = AKV_NO_ID;
    return run->lists && run->to && run->positions ? ANYKV_OK : ANYKV_E_MEMORY;
}

/* While the lock is given up nobody moves or lowers the blocks. */
static void hold_blocks(struct run *run, bool hold)
{
    struct akv_pool *pool = &run->cache->pool;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        for (uint32_t i = 0; evicts(run, g) && i < run->have[g]; i++) {
            if (hold)
                akv_pool_lock(pool, region_block(run, g, i));
            else
                akv_pool_unlock(pool, region_block(run, g, i));
        }
}

/* Waits for what was enqueued, with the lock given up. */
static anykv_status pause_run(struct run *run, anykv_status status)
{
    anykv_cache *cache = run->cache;
    hold_blocks(run, true);
    akv_mutex_unlock(&cache->lock);
    const anykv_status wait = akv_cache_drain(cache, UINT64_MAX);
    akv_mutex_lock(&cache->lock);
    hold_blocks(run, false);
    return status ? status : wait ? wait : akv_seq_alive(run->seq);
}

/* Under io and lock, which it gives up and takes again where it waits for means and scores. */
static anykv_status enqueue(struct run *run)
{
    anykv_cache *cache = run->cache;
    anykv_status status = ANYKV_OK;
    if (run->params.policy == ANYKV_TOKENS_KEYDIFF)
        status = pause_run(run, fetch_sums(run));
    if (!status && adaptive(run)) {
        status = pause_run(run, fetch_scores(run));
        if (!status)
            status = share_out(run);
    }
    if (!status)
        status = make_lists(run);
    if (!status)
        status = make_destination(run);
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
    status = make_counts(&run);
    if (status)
        return status;
    run.room = akv_evict_room(&cache->plan, cache->layout);
    find_region(&run);
    if (evicts_any(&run)) {
        status = make_run(&run);
        if (!status)
            status = evict(&run);
    }
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
    const uint32_t number = heads_before(layout, layer) + head, rows = count_rows(seq, number, seq->length);
    *count_in_out = rows;
    if (capacity < rows)
        status = akv_fail(seq->cache->context, ANYKV_E_SHAPE, "count_in_out: room for %llu positions, there are %u",
                          (unsigned long long)capacity, rows);
    for (uint32_t r = 0, n = 0; r < seq->length && !status; r++)
        if (position(seq, number, r) != NO_ROW)
            positions[n++] = position(seq, number, r);
    return akv_seq_leave(seq, status);
}
