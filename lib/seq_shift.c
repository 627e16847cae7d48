/* SPDX-License-Identifier: Apache-2.0 */
/* Position shift: blocks of a sequence take other positions, and their keys are turned to them.
 *
 * Blocks that the sequence alone holds and that have no name are turned in place; of the others it turns
 * copies.  Values do not know their position.  All blocks of a group turn by the same angles, so one
 * launch serves those of one kind and layer. */
#include "seq.h"

struct shift {
    anykv_cache *cache;
    anykv_seq *seq;
    uint32_t first, end, to; /* blocks; where the first one goes */
    uint32_t length;         /* positions afterwards */
    uint64_t turns;          /* positions by which keys turn, modulo 2^64 */
    uint32_t *ids;           /* [groups][end - first]: the blocks afterwards, AKV_NO_ID: none */
    bool touched;            /* rows of the sequence's own blocks may have changed */
};

static uint32_t count_of(const struct shift *shift)
{
    return shift->end - shift->first;
}
static uint32_t *ids_of(const struct shift *shift, uint32_t group)
{
    return shift->ids + (size_t)group * count_of(shift);
}

/* ---- may it be done ---- */

static anykv_status check_range(struct shift *shift, uint64_t first, uint64_t count, int64_t delta)
{
    const anykv_cache *cache = shift->cache;
    const anykv_seq *seq = shift->seq;
    const uint32_t size = akv_block_tokens(cache);
    const uint64_t far = delta < 0 ? 0 - (uint64_t)delta : (uint64_t)delta;
    if (seq->kept_rows)
        return akv_fail(cache->context, ANYKV_E_STATE,
                        "seq: tokens were evicted from it; its rows cannot be shifted");
    if (first > seq->length || count > seq->length - first)
        return akv_fail(cache->context, ANYKV_E_ARG,
                        "first, count: %llu and %llu go beyond the %u positions",
                        (unsigned long long)first, (unsigned long long)count, seq->length);
    const bool tail = first + count == seq->length;
    if (first % size || far % size || (count % size && !tail))
        return akv_fail(cache->context, ANYKV_E_ARG,
                        "first, count, delta: %llu, %llu and %lld are not multiples of block_tokens, "
                        "%u",
                        (unsigned long long)first, (unsigned long long)count, (long long)delta, size);
    const uint64_t most = cache->plan.options.max_seq_tokens;
    if (delta < 0 ? far > first : far > most || first + count > most - far)
        return akv_fail(cache->context, ANYKV_E_ARG,
                        "delta: positions %llu to %llu cannot move by %lld, they are 0 to %llu",
                        (unsigned long long)first, (unsigned long long)(first + count),
                        (long long)delta, (unsigned long long)most);
    const uint64_t to = delta < 0 ? first - far : first + far;
    shift->first = (uint32_t)(first / size);
    shift->end = akv_blocks_for(cache, (uint32_t)(first + count));
    shift->to = (uint32_t)(to / size);
    shift->length = tail || to + count > seq->length ? (uint32_t)(to + count) : seq->length;
    shift->turns = (uint64_t)delta;
    return ANYKV_OK;
}

static anykv_status check_rows(const struct shift *shift)
{
    const anykv_cache *cache = shift->cache;
    const anykv_layout *layout = cache->layout;
    const uint32_t size = akv_block_tokens(cache), held = akv_blocks_for(cache, shift->seq->length);
    for (uint32_t l = 0; l < layout->count; l++)
        if (layout->places[l].owner && layout->layers[l].rope_pairs == 0)
            return akv_fail(cache->context, ANYKV_E_UNSUPPORTED,
                            "layers[%u].rope_pairs: 0, keys without rotary embedding cannot be "
                            "shifted",
                            l);
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t i = shift->to; i < shift->to + count_of(shift) && i < held; i++)
            if ((i < shift->first || i >= shift->end) && akv_seq_table(shift->seq, g)[i] != AKV_NO_ID)
                return akv_fail(cache->context, ANYKV_E_STATE,
                                "delta: positions %u to %u hold rows; remove them first", i * size,
                                i * size + size - 1);
    return ANYKV_OK;
}

/* ---- destination ---- */

static void lock_blocks(const struct shift *shift, bool lock)
{
    struct akv_pool *pool = &shift->cache->pool;
    for (uint32_t g = 0; g < shift->cache->layout->group_count; g++)
        for (uint32_t i = shift->first; i < shift->end; i++) {
            const uint32_t id = akv_seq_table(shift->seq, g)[i];
            if (id != AKV_NO_ID && lock)
                akv_pool_lock(pool, id);
            else if (id != AKV_NO_ID)
                akv_pool_unlock(pool, id);
        }
}

static void release_copies(const struct shift *shift)
{
    for (uint32_t g = 0; g < shift->cache->layout->group_count; g++)
        for (uint32_t i = 0; i < count_of(shift); i++)
            if (ids_of(shift, g)[i] != AKV_NO_ID &&
                ids_of(shift, g)[i] != akv_seq_table(shift->seq, g)[shift->first + i])
                akv_cache_release(shift->cache, ids_of(shift, g)[i]);
}

/* Own blocks stay; the others get a fresh one of their kind. */
static anykv_status make_destination(struct shift *shift)
{
    anykv_cache *cache = shift->cache;
    const uint32_t groups = cache->layout->group_count;
    bool any = false;
    memset(cache->need, 0, (size_t)groups * AKV_POOL_KINDS * sizeof *cache->need);
    for (uint32_t g = 0; g < groups; g++)
        for (uint32_t i = 0; i < count_of(shift); i++) {
            const uint32_t id = akv_seq_table(shift->seq, g)[shift->first + i];
            ids_of(shift, g)[i] = AKV_NO_ID;
            if (id == AKV_NO_ID)
                continue;
            const struct akv_block *block = akv_pool_block(&cache->pool, id);
            if (block->refs == 1 && block->node == AKV_NO_ID && !block->locks && !block->holds) {
                ids_of(shift, g)[i] = id;
                continue;
            }
            cache->need[AKV_CLASS(g, akv_block_kind(block))]++;
            any = true;
        }
    if (!any)
        return ANYKV_OK;
    lock_blocks(shift, true); /* while room is made nobody moves or lowers them */
    anykv_status status = akv_cache_make_room(cache, cache->need);
    lock_blocks(shift, false);
    for (uint32_t g = 0; g < groups && !status; g++)
        for (uint32_t i = 0; i < count_of(shift) && !status; i++) {
            const uint32_t id = akv_seq_table(shift->seq, g)[shift->first + i];
            if (id != AKV_NO_ID && ids_of(shift, g)[i] == AKV_NO_ID)
                ids_of(shift, g)[i] =
                    akv_cache_alloc(cache, g, akv_block_kind(akv_pool_block(&cache->pool, id)),
                                    shift->seq->tenant, &status);
        }
    if (status)
        release_copies(shift);
    return status;
}

/* ---- rows ---- */

static anykv_status copy_kind(const struct shift *shift, uint32_t group, uint32_t kind)
{
    anykv_cache *cache = shift->cache;
    anykv_status status = ANYKV_OK;
    uint32_t moves = 0;
    for (uint32_t i = 0; i < count_of(shift) && !status; i++) {
        const uint32_t from = akv_seq_table(shift->seq, group)[shift->first + i];
        const uint32_t to = ids_of(shift, group)[i];
        if (to == AKV_NO_ID || to == from || akv_block_kind(akv_pool_block(&cache->pool, from)) != kind)
            continue;
        cache->moves[moves].src =
            akv_pool_address(&cache->pool, group, akv_pool_block(&cache->pool, from)->entry);
        cache->moves[moves].dst =
            akv_pool_address(&cache->pool, group, akv_pool_block(&cache->pool, to)->entry);
        if (++moves == AKV_MOVES) {
            status = akv_enqueue_copy(cache, group, kind, moves);
            moves = 0;
        }
    }
    return status ? status : akv_enqueue_copy(cache, group, kind, moves);
}

static void fill_shift(const struct shift *shift, uint32_t layer, uint32_t kind, akv_shift_params *p)
{
    const anykv_cache *cache = shift->cache;
    const struct akv_place *place = &cache->layout->places[layer];
    const struct akv_group *group = &cache->layout->groups[place->group];
    memset(p, 0, sizeof *p);
    p->pool = akv_pool_group_map(&cache->pool, place->group, cache->slabs);
    p->kind = kind;
    p->format = place->format[kind][0];
    p->offset = place->offset[kind][0];
    p->kv_heads = group->kv_heads;
    p->block_tokens = akv_block_tokens(cache);
    p->dim = group->k_dim;
    if (!akv_format_raw(p->format))
        p->flags = group->rotate[0] | (akv_format_codebook(p->format) ? AKV_FLAG_SEARCH : 0);
    p->map = place->map[0];
    p->pairs = cache->layout->layers[layer].rope_pairs;
    p->rope = (uint32_t)cache->layout->layers[layer].rope;
}

/* Which kinds the blocks of a group are of, as bits. */
static uint32_t kinds_of(const struct shift *shift, uint32_t group)
{
    uint32_t kinds = 0;
    for (uint32_t i = 0; i < count_of(shift); i++)
        if (ids_of(shift, group)[i] != AKV_NO_ID)
            kinds |= 1u << akv_block_kind(akv_pool_block(&shift->cache->pool, ids_of(shift, group)[i]));
    return kinds;
}

static anykv_status put_phases(const struct shift *shift, const anykv_layer *layer)
{
    uint64_t phases[AKV_MAX_HEAD_DIM / 2];
    for (uint32_t i = 0; i < layer->rope_pairs; i++)
        phases[i] = shift->turns * layer->rope_turns[i];
    return akv_queue_put(shift->cache->device->queue,
                         akv_fixed_span(shift->cache, shift->cache->plan.shift_at,
                                        (uint64_t)layer->rope_pairs * sizeof phases[0]),
                         phases);
}

/* All layers of a group, `blocks` blocks whose entries stand in the fixed memory.  dry: only prepares. */
static anykv_status turn_layers(const struct shift *shift, uint32_t group, uint32_t blocks, bool dry)
{
    anykv_cache *cache = shift->cache;
    const uint32_t kinds = kinds_of(shift, group);
    anykv_status status = ANYKV_OK;
    for (uint32_t l = 0; l < cache->layout->count; l++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS && !status; kind++) {
            const struct akv_place *place = &cache->layout->places[l];
            akv_shift_params params;
            struct akv_launch launch;
            if (!place->owner || place->group != group || !(kinds >> kind & 1u))
                continue;
            fill_shift(shift, l, kind, &params);
            params.blocks = blocks;
            if (dry) {
                status = akv_kernel_prepare(cache->device->device, AKV_K_SHIFT, &params);
                continue;
            }
            akv_launch_init(cache, &launch, AKV_K_SHIFT, &params);
            launch.arg[0] = akv_fixed_span(cache, cache->plan.gather_at, (uint64_t)blocks * 4);
            launch.arg[1] = akv_fixed_span(cache, cache->plan.flags_at, 4);
            launch.arg[2] = akv_maps_span(cache);
            launch.arg[3] = akv_fixed_span(cache, cache->plan.shift_at, (uint64_t)params.pairs * 8);
            status = akv_kernel_launch(cache->device->queue, &launch);
        }
    return status;
}

static anykv_status turn_group(struct shift *shift, uint32_t group)
{
    anykv_cache *cache = shift->cache;
    uint32_t l = 0, entries[AKV_GATHER_BLOCKS];
    while (!cache->layout->places[l].owner || cache->layout->places[l].group != group)
        l++;
    anykv_status status = put_phases(shift, &cache->layout->layers[l]); /* the group's layers are alike */
    for (uint32_t kind = 0; kind < AKV_POOL_KINDS && !status; kind++)
        if (kinds_of(shift, group) >> kind & 1u)
            status = copy_kind(shift, group, kind);
    for (uint32_t i = 0; i < count_of(shift) && !status; i += AKV_GATHER_BLOCKS) {
        const uint32_t left = count_of(shift) - i, n = left < AKV_GATHER_BLOCKS ? left : AKV_GATHER_BLOCKS;
        for (uint32_t k = 0; k < n; k++) {
            const uint32_t id = ids_of(shift, group)[i + k];
            entries[k] = id == AKV_NO_ID ? AKV_NO_BLOCK : akv_pool_block(&cache->pool, id)->entry;
        }
        status = akv_queue_put(cache->device->queue,
                               akv_fixed_span(cache, cache->plan.gather_at, (uint64_t)n * 4), entries);
        shift->touched = true;
        if (!status)
            status = turn_layers(shift, group, n, false);
    }
    return status;
}

/* ---- the sequence ---- */

static void commit(struct shift *shift)
{
    anykv_cache *cache = shift->cache;
    anykv_seq *seq = shift->seq;
    const uint32_t count = count_of(shift), size = akv_block_tokens(cache);
    const uint32_t lowest = shift->to < shift->first ? shift->to : shift->first;
    const uint64_t epoch = ++cache->epoch;
    const bool tail = seq->tail_held;
    akv_seq_hold_tail(seq, false);
    cache->sealed_since_wait = true;
    if (seq->node_count > lowest)
        akv_seq_drop_nodes(seq, lowest);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        uint32_t *table = akv_seq_table(seq, g);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t id = table[shift->first + i];
            if (id != AKV_NO_ID && id != ids_of(shift, g)[i])
                akv_cache_release(cache, id);
            table[shift->first + i] = AKV_NO_ID;
        }
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t id = ids_of(shift, g)[i];
            table[shift->to + i] = id;
            if (id == AKV_NO_ID)
                continue;
            struct akv_block *block = akv_pool_block(&cache->pool, id);
            block->epoch = epoch;
            block->position = shift->to + i;
            block->least = block->least < seq->rungs ? block->least : seq->rungs;
        }
        if (seq->sealed[g] > lowest)
            seq->sealed[g] = lowest;
        const uint32_t visible = akv_first_visible(cache, g, shift->length);
        if (seq->first[g] > visible)
            seq->first[g] = visible;
    }
    if (seq->named > lowest * size)
        seq->named = lowest * size;
    seq->closed = true;
    seq->length = shift->length;
    if (tail)
        akv_seq_hold_tail(seq, true);
    akv_seq_slide(seq);
}

static anykv_status run(struct shift *shift)
{
    anykv_cache *cache = shift->cache;
    anykv_status status = akv_seq_reserve(shift->seq, (shift->to + count_of(shift)) * akv_block_tokens(cache));
    if (!status)
        status = make_destination(shift);
    if (status)
        return status;
    for (uint32_t g = 0; g < cache->layout->group_count && !status; g++)
        status = turn_layers(shift, g, 1, true);
    for (uint32_t g = 0; g < cache->layout->group_count && !status; g++)
        status = turn_group(shift, g);
    if (!status) {
        commit(shift);
        return ANYKV_OK;
    }
    release_copies(shift);
    if (shift->touched)
        akv_seq_kill(shift->seq); /* rows of some layers have turned */
    return status;
}

anykv_status anykv_seq_shift(anykv_seq *seq, uint64_t first, uint64_t count, int64_t delta)
{
    if (!seq)
        return akv_fail(NULL, ANYKV_E_ARG, "seq: NULL");
    anykv_cache *cache = seq->cache;
    struct shift shift = {.cache = cache, .seq = seq};
    akv_mutex_lock(&cache->io); /* before the cache's own lock: the order of locks */
    anykv_status status = akv_cold_read(cache, (const anykv_seq *const *)&seq, NULL, 1, 0, UINT32_MAX);
    if (!status)
        status = akv_seq_enter(seq, true);
    if (status) {
        akv_mutex_unlock(&cache->io);
        return status;
    }
    status = check_range(&shift, first, count, delta);
    if (!status && count && delta) {
        status = check_rows(&shift);
        if (!status) {
            shift.ids = akv_alloc(cache->context,
                                  (size_t)cache->layout->group_count * count_of(&shift), sizeof *shift.ids);
            status = shift.ids ? run(&shift) : ANYKV_E_MEMORY;
            akv_free(cache->context, shift.ids);
        }
    }
    status = akv_seq_leave(seq, status);
    akv_mutex_unlock(&cache->io);
    return status;
}
