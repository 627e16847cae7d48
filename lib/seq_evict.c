/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens inside a sequence: the region, the rows that stay, their way into dense
 * blocks.
 *
 * The region is a run of whole blocks of one kind between the sinks and the recent tokens.  Of
 * every layer and kv head of a layer group as many of its rows stay, a number of whole blocks, so
 * the kernels of attention see a shorter sequence and nothing else: seq->length counts rows from
 * here on, seq->dropped says how many positions are gone, seq->kept has the positions of the
 * region's rows.  Where groups keep different numbers of blocks (ANYKV_EVICT_ADAPTIVE) seq->length
 * counts those of the group that keeps most; in the others' tables blocks are missing at the
 * region's end, as after a removal, and their rows have the position AKV_NO_ROW.  Rows move in
 * place where the sequence alone holds the blocks and they have no name, into fresh blocks
 * otherwise.
 *
 * Layers with a window lose nothing: what they see are recent tokens, so their blocks of the region
 * are gone already, and the later ones get lower numbers. */
#include "evict_run.h"
#include <math.h>

/* Do blocks of a group go or get other numbers? */
static bool changes(const struct akv_evict_run *run, uint32_t group)
{
    const uint32_t have = run->have[group];
    return akv_run_evicts(run, group) && have &&
           (run->stay[group] < have || akv_run_numbers(run, group)[have - 1] != have - 1);
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

/* ---- checks ---- */

static anykv_status check_policy(const struct akv_evict_run *run)
{
    anykv_context *context = run->cache->context;
    const anykv_evict_params *p = &run->params;
    if (p->policy < ANYKV_TOKENS_WINDOW || p->policy > ANYKV_TOKENS_SCORES)
        return akv_fail(context, ANYKV_E_ARG, "policy: %d is none of the known policies",
                        (int)p->policy);
    if (p->flags & ~(ANYKV_EVICT_SHARED | ANYKV_EVICT_ADAPTIVE))
        return akv_fail(context, ANYKV_E_ARG, "flags: 0x%x has unknown bits", p->flags);
    if ((p->flags & ANYKV_EVICT_ADAPTIVE) && p->policy == ANYKV_TOKENS_WINDOW)
        return akv_fail(context, ANYKV_E_ARG,
                        "flags: ANYKV_EVICT_ADAPTIVE, but ANYKV_TOKENS_WINDOW has no scores");
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
        return akv_fail(context, ANYKV_E_ARG,
                        "q, lse, queries: ANYKV_TOKENS_MASS needs them, of 1 to %u tokens",
                        run->seq->length);
    if (!isfinite(p->scale) || !isfinite(p->cap) || p->cap < 0.0f)
        return akv_fail(context, ANYKV_E_ARG, "scale, cap: %g and %g", (double)p->scale,
                        (double)p->cap);
    for (uint32_t l = 0; p->policy == ANYKV_TOKENS_MASS && l < run->cache->layout->count; l++)
        if (akv_run_evicts(run, run->cache->layout->places[l].group) &&
            (p->q[l].dtype < ANYKV_F32 || p->q[l].dtype > ANYKV_BF16 || !p->q[l].data))
            return akv_fail(context, ANYKV_E_ARG, "q[%u]: no rows in host memory", l);
    return ANYKV_OK;
}

/* A mean of keys follows the rotary embedding, by the numbers of rows: they cannot move. */
static anykv_status check_layers(const struct akv_evict_run *run)
{
    const anykv_layout *layout = run->cache->layout;
    bool any = false;
    for (uint32_t l = 0; l < layout->count; l++) {
        const struct akv_group *group = akv_run_group(run, l);
        any = any || akv_run_evicts_layer(run, l);
        const uint32_t alike = first_layer(layout, layout->places[l].group);
        if (akv_run_adaptive(run) && run->params.share && akv_run_evicts_layer(run, l) &&
            run->params.share[l] != run->params.share[alike])
            return akv_fail(run->cache->context, ANYKV_E_ARG,
                            "share[%u]: layer %u has its rows in the same blocks and another share "
                            "(ANYKV_LAYOUT_APART)",
                            l, alike);
        if (group->rotate[0] & AKV_FLAG_MAP)
            return akv_fail(
                run->cache->context, ANYKV_E_UNSUPPORTED,
                "layers[%u].k_transform: the keys' mean or matrix goes by their rows' numbers, "
                "which an eviction changes",
                l);
        if (run->params.policy == ANYKV_TOKENS_RATIO && akv_run_evicts_layer(run, l) &&
            (group->rotate[1] & AKV_FLAG_MAP))
            return akv_fail(
                run->cache->context, ANYKV_E_UNSUPPORTED,
                "layers[%u].v_transform: ANYKV_TOKENS_RATIO takes plain and rotated values", l);
    }
    if (!any)
        return akv_fail(run->cache->context, ANYKV_E_UNSUPPORTED,
                        "layers: all have a window; tokens are evicted from layers without one");
    return ANYKV_OK;
}

/* Did an earlier eviction leave this missing block out?  Others were removed. */
static bool left_out(const struct akv_evict_run *run, uint32_t group, uint32_t block)
{
    const anykv_seq *seq = run->seq;
    const uint32_t row = block * akv_block_tokens(run->cache);
    if (row < seq->kept_first || row >= seq->kept_first + seq->kept_rows)
        return false;
    const uint32_t head =
        akv_heads_before(run->cache->layout, first_layer(run->cache->layout, group));
    return seq->kept[(uint64_t)head * seq->kept_rows + row - seq->kept_first] == AKV_NO_ROW;
}

/* Lists a group's blocks from run->first on and ends the region where one is missing or of another
 * kind. */
static void list_blocks(struct akv_evict_run *run, uint32_t group)
{
    const anykv_seq *seq = run->seq;
    const uint32_t *table = akv_seq_table(seq, group);
    uint32_t *number = akv_run_numbers(run, group), kind = 0, n = 0;
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
static void find_region(struct akv_evict_run *run)
{
    const anykv_cache *cache = run->cache;
    const anykv_seq *seq = run->seq;
    const uint32_t size = akv_block_tokens(cache), groups = cache->layout->group_count;
    uint32_t exempt = run->params.recent;
    const uint32_t sinks = run->params.sinks > cache->plan.options.sinks
                               ? run->params.sinks
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
        if (akv_run_evicts(run, g))
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
        while (*have && akv_run_numbers(run, g)[*have - 1] >=
                            blocks) /* a later group ended the region earlier */
            --*have;
        run->stay[g] = *have < run->share ? *have : run->share;
    }
}

static bool evicts_any(const struct akv_evict_run *run)
{
    bool any = false;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        any = any || run->stay[g] < run->have[g];
    return any;
}

/* ---- destination ---- */

static bool exclusive(const struct akv_evict_run *run)
{
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        for (uint32_t i = 0; i < run->have[g] && changes(run, g); i++) {
            const struct akv_block *block =
                akv_pool_block(&run->cache->pool, akv_run_block(run, g, i));
            if (block->refs != 1 || block->node != AKV_NO_ID || block->locks || block->holds)
                return false;
        }
    return true;
}

static void release_fresh(struct akv_evict_run *run)
{
    for (uint32_t i = 0;
         run->to && !run->in_place && i < run->cache->layout->group_count * run->keep; i++)
        if (run->to[i] != AKV_NO_ID) {
            akv_cache_release(run->cache, run->to[i]);
            run->to[i] = AKV_NO_ID;
        }
}

static anykv_status make_destination(struct akv_evict_run *run)
{
    anykv_cache *cache = run->cache;
    const uint32_t groups = cache->layout->group_count;
    anykv_status status = ANYKV_OK;
    run->in_place = exclusive(run);
    for (uint32_t i = 0; i < groups * run->keep; i++) {
        const uint32_t g = i / run->keep;
        const bool own = run->in_place && changes(run, g) && i % run->keep < run->stay[g];
        run->to[i] = own ? akv_run_block(run, g, i % run->keep) : AKV_NO_ID;
    }
    if (run->in_place)
        return ANYKV_OK;
    memset(cache->need, 0, (size_t)groups * AKV_POOL_KINDS * sizeof *cache->need);
    akv_tenants_need_none(cache);
    for (uint32_t g = 0; g < groups; g++)
        if (changes(run, g)) {
            const uint32_t class_ = AKV_CLASS(g, akv_run_kind(run, g));
            cache->need[class_] = run->stay[g];
            cache->tenant[run->seq->part].need +=
                run->stay[g] * cache->pool.class_[class_].block_bytes;
        }
    status = akv_tenants_admit(cache, (uint64_t)1 << run->seq->part | 1u);
    if (!status)
        status = akv_cache_make_room(cache, cache->need);
    if (!status) /* room may have been made of the region's own blocks */
        for (uint32_t g = 0; g < groups; g++)
            for (uint32_t i = 1; i < run->have[g] && akv_run_evicts(run, g); i++)
                if (akv_block_kind(akv_pool_block(&cache->pool, akv_run_block(run, g, i))) !=
                    akv_run_kind(run, g))
                    return akv_fail(
                        cache->context, ANYKV_E_STATE,
                        "seq: some of its blocks stepped down while room was made; call again");
    for (uint32_t i = 0; i < groups * run->keep && !status; i++)
        if (changes(run, i / run->keep) && i % run->keep < run->stay[i / run->keep])
            run->to[i] = akv_cache_alloc(cache, i / run->keep, akv_run_kind(run, i / run->keep),
                                         run->seq->tenant, &status);
    if (status)
        release_fresh(run);
    return status;
}

/* ---- selection and moves of a layer ---- */

static anykv_status put_to(struct akv_evict_run *run, uint32_t layer)
{
    const uint32_t group = run->cache->layout->places[layer].group;
    for (uint32_t i = 0; i < run->stay[group]; i++)
        run->entries[i] = akv_pool_block(&run->cache->pool, run->to[group * run->keep + i])->entry;
    return akv_run_put(run, run->room.to, run->entries, run->stay[group] * 4ull);
}

static anykv_status select_rows(struct akv_evict_run *run, uint32_t layer)
{
    const uint32_t heads = akv_run_group(run, layer)->kv_heads, size = akv_block_tokens(run->cache);
    const uint32_t rows = akv_run_rows(run, layer), unit = akv_run_unit(run);
    const uint32_t keep = run->stay[run->cache->layout->places[layer].group] * size;
    akv_select_params p = {1,           heads, rows, rows, 0, rows, unit, akv_run_pool(run),
                           keep / unit, 0,     0,    0};
    if (run->params.policy == ANYKV_TOKENS_WINDOW) { /* the newest: known without scores */
        uint32_t *list = run->rows_in;
        anykv_status status = ANYKV_OK;
        for (uint32_t i = 0; i < keep; i++)
            list[i] = rows - keep + i;
        for (uint32_t h = 0; h < heads && !status; h++)
            status = akv_run_put(run, run->room.rows + (uint64_t)h * rows * 4, list, keep * 4ull);
        for (uint32_t h = 0; h < heads; h++)
            list[h] = keep;
        return status ? status : akv_run_put(run, run->room.counts, list, heads * 4ull);
    }
    if (run->params.flags & ANYKV_EVICT_SHARED)
        p.flags = AKV_SELECT_SHARED;
    const struct akv_span args[3] = {
        akv_run_span(run, run->room.scores, (uint64_t)heads * rows * 4),
        akv_run_span(run, run->room.rows, (uint64_t)heads * rows * 4),
        akv_run_span(run, run->room.counts, heads * 4ull)};
    return akv_run_launch(run, AKV_K_SELECT, &p, args, 3);
}

static anykv_status compact(struct akv_evict_run *run, uint32_t layer)
{
    const uint32_t g = run->cache->layout->places[layer].group, kind = akv_run_kind(run, g);
    akv_score_params tiles;
    akv_run_fill_score(run, layer, AKV_SCORE_NORM, &tiles);
    akv_compact_params p;
    akv_run_fill_compact(&tiles, kind, &p);
    p.to_blocks = run->stay[g];
    p.in_place = run->in_place;
    const struct akv_span args[4] = {
        akv_run_span(run, run->room.from, p.from_blocks * 4ull),
        akv_run_span(run, run->room.to, p.to_blocks * 4ull),
        akv_run_span(run, run->room.rows, (uint64_t)p.kv_heads * p.stride * 4),
        akv_run_span(run, run->room.counts, p.kv_heads * 4ull)};
    anykv_status status = put_to(run, layer);
    run->touched = true;
    return status ? status : akv_run_launch(run, AKV_K_COMPACT, &p, args, 4);
}

static anykv_status evict_layer(struct akv_evict_run *run, uint32_t layer)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t size = akv_block_tokens(run->cache), g = layout->places[layer].group;
    const uint32_t kept = run->keep * size, heads = akv_layer_heads(layout, layer),
                   rows = akv_run_rows(run, layer);
    uint32_t *list = run->lists + (uint64_t)akv_heads_before(layout, layer) * kept;
    if (!changes(run, g)) {
        /* All that is there stays; a layer with a window has none of these rows, its newest get the
         * numbers. */
        const uint32_t from = akv_run_evicts(run, g) ? 0 : (run->end - run->first) * size - kept;
        for (uint32_t i = 0; i < heads * kept; i++)
            list[i] = from + i % kept;
        return ANYKV_OK;
    }
    anykv_status status = akv_run_put_from(run, layer);
    if (!status && akv_run_adaptive(run)) {
        const int32_t *scores = run->scores;
        for (uint32_t l = 0; l < layer; l++)
            scores += akv_run_scored(run, l) ? akv_run_scores_count(run, l) : 0;
        status = akv_run_put(run, run->room.scores, scores, akv_run_scores_count(run, layer) * 4);
    } else if (!status && run->params.policy != ANYKV_TOKENS_WINDOW) {
        status = akv_run_score(run, layer);
    }
    if (!status)
        status = select_rows(run, layer);
    for (uint32_t h = 0; h < heads && !status; h++)
        status = akv_queue_get(
            run->cache->device->queue, list + (uint64_t)h * kept,
            akv_run_span(run, run->room.rows + (uint64_t)h * rows * 4, run->stay[g] * size * 4ull));
    return status ? status : compact(run, layer);
}

/* ---- tables and positions afterwards ---- */

/* The region's part of a group's table. */
static void commit_group(struct akv_evict_run *run, uint32_t g, uint64_t epoch)
{
    anykv_cache *cache = run->cache;
    uint32_t *table = akv_seq_table(run->seq, g) + run->first;
    if (!akv_run_evicts(run, g))
        akv_seq_drop_blocks(run->seq, g, run->first, run->end);
    for (uint32_t i = run->in_place ? run->stay[g] : 0; i < run->have[g] && changes(run, g); i++)
        akv_seq_drop_blocks(run->seq, g, run->first + akv_run_numbers(run, g)[i],
                            run->first + akv_run_numbers(run, g)[i] + 1);
    for (uint32_t i = 0; i < run->stay[g] && changes(run, g); i++) {
        if (run->in_place)
            table[akv_run_numbers(run, g)[i]] = AKV_NO_ID; /* its new place is no later one */
        table[i] = run->to[g * run->keep + i];
        struct akv_block *block = akv_pool_block(&cache->pool, table[i]);
        block->epoch = epoch;
        block->position = run->first + i;
        block->least = run->seq->rungs;
    }
}

static void commit(struct akv_evict_run *run)
{
    anykv_cache *cache = run->cache;
    anykv_seq *seq = run->seq;
    const uint32_t held = akv_blocks_for(cache, seq->length),
                   gone = run->end - run->first - run->keep;
    const uint64_t epoch = ++cache->epoch;
    uint64_t lost = 0, of = 0;
    if (seq->node_count > run->first)
        akv_seq_drop_nodes(seq, run->first);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        uint32_t *table = akv_seq_table(seq, g);
        commit_group(run, g, epoch);
        memmove(table + run->first + run->keep, table + run->end,
                (held - run->end) * sizeof *table);
        for (uint32_t b = held - gone; b < held; b++)
            table[b] = AKV_NO_ID;
        if (seq->first[g] >= run->end)
            seq->first[g] -= gone;
        if (seq->sealed[g] >= run->end)
            seq->sealed[g] -= gone;
        else if (seq->sealed[g] > run->first)
            seq->sealed[g] = run->first;
        const uint64_t weight =
            (uint64_t)cache->layout->groups[g].layers * cache->layout->groups[g].kv_heads;
        of += akv_run_evicts(run, g) ? weight : 0;
        lost += akv_run_evicts(run, g) ? weight * (run->have[g] - run->stay[g]) : 0;
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

/* Position of row r of kv head `head` of all, or AKV_NO_ROW. */
static uint32_t position(const anykv_seq *seq, uint32_t head, uint32_t r)
{
    if (r < seq->kept_first)
        return r;
    return r < seq->kept_first + seq->kept_rows
               ? seq->kept[(uint64_t)head * seq->kept_rows + r - seq->kept_first]
               : r + seq->dropped;
}

/* Row of the sequence that became row r of the region for a head of the layer, or AKV_NO_ROW. */
static uint32_t old_row(const struct akv_evict_run *run, uint32_t layer, const uint32_t *list,
                        uint32_t r)
{
    const uint32_t size = akv_block_tokens(run->cache), g = run->cache->layout->places[layer].group;
    if (!akv_run_evicts(run, g))
        return run->first * size + list[r];
    if (r >= run->stay[g] * size)
        return AKV_NO_ROW;
    return (run->first + akv_run_numbers(run, g)[list[r] / size]) * size + list[r] % size;
}

/* The sequence's list of positions after the rows in `lists` stayed of what it was before. */
static void write_positions(const struct akv_evict_run *run, const anykv_seq *before)
{
    const anykv_layout *layout = run->cache->layout;
    const uint32_t first = run->seq->kept_first, rows = run->seq->kept_rows;
    const uint32_t size = akv_block_tokens(run->cache), from = run->first * size,
                   kept = run->keep * size;
    uint32_t head = 0;
    for (uint32_t l = 0; l < layout->count; l++)
        for (uint32_t h = 0; h < akv_layer_heads(layout, l); h++, head++)
            for (uint32_t i = 0; i < rows; i++) {
                const uint32_t r = first + i;
                const uint32_t old =
                    r < from ? r : old_row(run, l, run->lists + (uint64_t)head * kept, r - from);
                run->seq->kept[(uint64_t)head * rows + i] =
                    old == AKV_NO_ROW ? AKV_NO_ROW : position(before, head, old);
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
                        "%s: tokens were evicted between positions %u and %llu", what,
                        seq->kept_first, (unsigned long long)(end + seq->dropped));
    *row_out = (uint32_t)(first - seq->dropped);
    return ANYKV_OK;
}

bool akv_seq_copy_kept(anykv_seq *copy, const anykv_seq *seq)
{
    const anykv_layout *layout = seq->cache->layout;
    const uint64_t count = (uint64_t)akv_heads_before(layout, layout->count) * seq->kept_rows;
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

static void free_run(struct akv_evict_run *run)
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
static anykv_status make_counts(struct akv_evict_run *run)
{
    const size_t groups = run->cache->layout->group_count;
    run->numbers = akv_blocks_for(run->cache, run->seq->length);
    run->have =
        akv_alloc(run->cache->context, groups * (2 + (size_t)run->numbers), sizeof *run->have);
    if (!run->have)
        return ANYKV_E_MEMORY;
    run->stay = run->have + groups;
    run->number = run->stay + groups;
    return ANYKV_OK;
}

/* What scoring takes. */
static anykv_status make_run(struct akv_evict_run *run)
{
    anykv_cache *cache = run->cache;
    const anykv_layout *layout = cache->layout;
    uint64_t sums = 0, scores = 0;
    const uint64_t rows_bytes = run->room.lse - run->room.queries,
                   list_bytes = run->room.counts - run->room.rows;
    for (uint32_t l = 0; l < layout->count; l++) {
        sums += akv_run_scored(run, l) ? akv_run_sums_count(run, l) : 0;
        scores += akv_run_scored(run, l) ? akv_run_scores_count(run, l) : 0;
    }
    run->entries = akv_alloc(cache->context, run->end - run->first, 4);
    run->rows_in = akv_alloc(cache->context, rows_bytes > list_bytes ? rows_bytes : list_bytes, 1);
    if (run->params.policy == ANYKV_TOKENS_KEYDIFF)
        run->sums = akv_alloc(cache->context, sums, 4);
    if (akv_run_adaptive(run))
        run->scores = akv_alloc(cache->context, scores, 4);
    return run->entries && run->rows_in &&
                   (run->sums || run->params.policy != ANYKV_TOKENS_KEYDIFF) &&
                   (run->scores || !akv_run_adaptive(run))
               ? ANYKV_OK
               : ANYKV_E_MEMORY;
}

/* What moving takes, once it is known how much stays. */
static anykv_status make_lists(struct akv_evict_run *run)
{
    anykv_cache *cache = run->cache;
    const anykv_layout *layout = cache->layout;
    const uint32_t size = akv_block_tokens(cache), heads = akv_heads_before(layout, layout->count);
    const uint32_t first = run->first * size;
    for (uint32_t g = 0; g < layout->group_count; g++)
        run->keep = run->stay[g] > run->keep ? run->stay[g] : run->keep;
    run->kept_first =
        run->seq->kept_rows && run->seq->kept_first < first ? run->seq->kept_first : first;
    run->lists = akv_alloc(cache->context, (uint64_t)heads * run->keep * size + 1, 4);
    run->to = akv_alloc(cache->context, (uint64_t)layout->group_count * run->keep + 1, 4);
    run->positions = akv_alloc(cache->context,
                               (uint64_t)heads * (first + run->keep * size - run->kept_first) + 1,
                               sizeof *run->positions);
    for (uint32_t i = 0; run->to && i < layout->group_count * run->keep; i++)
        run->to[i] = AKV_NO_ID;
    return run->lists && run->to && run->positions ? ANYKV_OK : ANYKV_E_MEMORY;
}

/* While the lock is given up nobody moves or lowers the blocks. */
static void hold_blocks(struct akv_evict_run *run, bool hold)
{
    struct akv_pool *pool = &run->cache->pool;
    for (uint32_t g = 0; g < run->cache->layout->group_count; g++)
        for (uint32_t i = 0; akv_run_evicts(run, g) && i < run->have[g]; i++) {
            if (hold)
                akv_pool_lock(pool, akv_run_block(run, g, i));
            else
                akv_pool_unlock(pool, akv_run_block(run, g, i));
        }
}

/* Waits for what was enqueued, with the lock given up. */
static anykv_status pause_run(struct akv_evict_run *run, anykv_status status)
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
static anykv_status enqueue(struct akv_evict_run *run)
{
    anykv_cache *cache = run->cache;
    anykv_status status = ANYKV_OK;
    if (run->params.policy == ANYKV_TOKENS_KEYDIFF)
        status = pause_run(run, akv_run_fetch_sums(run));
    if (!status && akv_run_adaptive(run)) {
        status = pause_run(run, akv_run_fetch_scores(run));
        if (!status)
            status = akv_run_share_out(run);
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

static anykv_status evict(struct akv_evict_run *run)
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
    const struct akv_evict_run run = {.cache = cache, .params = {.policy = policy}};
    return check_layers(&run);
}

anykv_status akv_seq_evict(anykv_seq *seq, const anykv_evict_params *params)
{
    anykv_cache *cache = seq->cache;
    struct akv_evict_run run = {.cache = cache, .seq = seq, .params = *params};
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
    anykv_status status =
        akv_options(cache->context, "evict params", &checked, sizeof checked, params);
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

anykv_status anykv_seq_kept(const anykv_seq *seq, uint32_t layer, uint32_t head,
                            uint32_t *positions, uint64_t *count_in_out)
{
    if (seq && (!count_in_out || (!positions && *count_in_out)))
        return akv_fail(seq->cache->context, ANYKV_E_ARG, "%s: NULL",
                        count_in_out ? "positions" : "count_in_out");
    anykv_status status = akv_seq_enter(seq, false);
    if (status)
        return status;
    const anykv_layout *layout = seq->cache->layout;
    if (layer >= layout->count)
        return akv_seq_leave(seq, akv_fail(seq->cache->context, ANYKV_E_ARG,
                                           "layer: %u, the layout has %u", layer, layout->count));
    if (layout->layers[layer].source != ANYKV_OWN_ROWS)
        layer = layout->layers[layer].source;
    const uint64_t capacity = *count_in_out;
    if (head >= akv_layer_heads(layout, layer))
        return akv_seq_leave(seq, akv_fail(seq->cache->context, ANYKV_E_ARG,
                                           "head: %u, the layer has %u", head,
                                           akv_layer_heads(layout, layer)));
    const uint32_t number = akv_heads_before(layout, layer) + head,
                   rows = akv_seq_count_rows(seq, number, seq->length);
    *count_in_out = rows;
    if (capacity < rows)
        status = akv_fail(seq->cache->context, ANYKV_E_SHAPE,
                          "count_in_out: room for %llu positions, there are %u",
                          (unsigned long long)capacity, rows);
    for (uint32_t r = 0, n = 0; r < seq->length && !status; r++)
        if (position(seq, number, r) != AKV_NO_ROW)
            positions[n++] = position(seq, number, r);
    return akv_seq_leave(seq, status);
}
