/* SPDX-License-Identifier: Apache-2.0 */
/* The controller of the precision ladder: which blocks step down, when, and the steps themselves.
 *
 * A block may step down while no open step uses it, it is behind the sinks and outside the recent
 * window of every sequence that holds it, nobody pinned it and all its users accept the next rung.
 * The cheapest goes first: the smallest estimated error after the step, blocks that sequences still
 * attend to counted four times; then the longest unused.  All under the cache's lock. */
#include "cache.h"

#define SCAN        64u /* blocks that looking for candidates may cost a step, on average */
#define LIVE_WEIGHT 4u  /* cached blocks that no sequence attends to are cheaper to lower */

/* ---- which ---- */

/* Marks the blocks in the recent window of a live sequence, and brings what steps leave for later,
 * locks and times of use; returns the mark. */
static uint32_t mark_recent(anykv_cache *cache)
{
    cache->serial += 2;
    akv_steps_lock(cache);
    akv_mutex_lock(&cache->list_lock);
    for (anykv_seq *seq = cache->seqs; seq; seq = seq->next) {
        const uint32_t first = akv_recent_block(cache, seq->length);
        for (uint32_t g = 0; g < cache->layout->group_count; g++) {
            akv_seq_show_use(seq, g, seq->first[g], seq->table_capacity);
            for (uint32_t i = first; i < seq->table_capacity; i++) {
                const uint32_t id = akv_seq_table(seq, g)[i];
                if (id != AKV_NO_ID)
                    akv_pool_block(&cache->pool, id)->mark = cache->serial;
            }
        }
    }
    akv_mutex_unlock(&cache->list_lock);
    return cache->serial;
}

/* The kind below, if the block may go there now; 0: it may not. */
static uint32_t kind_below(const anykv_cache *cache, const struct akv_block *block, uint32_t recent)
{
    const struct akv_group *group = &cache->layout->groups[block->group];
    const uint32_t kind = akv_block_kind(block);
    if (kind == AKV_KIND_COLD || block->locks || block->holds || block->mark == recent ||
        block->position < akv_blocks_for(cache, cache->plan.options.sinks))
        return 0;
    if (block->node != AKV_NO_ID && cache->prefix.nodes[block->node].pins)
        return 0;
    if (kind == AKV_KIND_HOT && group->sealable) /* live ones are sealed by the steps' ends */
        return block->idle ? AKV_KIND_SEALED : 0;
    const uint32_t below = akv_ladder_below(group, kind);
    return below && below - AKV_KIND_SEALED <= block->least ? below : 0;
}

static uint64_t key_of(const anykv_cache *cache, const struct akv_block *block, uint32_t below)
{
    const float error = cache->layout->groups[block->group].error[below];
    const uint64_t cost = (uint64_t)(error * 1e5f) * (block->idle ? 1 : LIVE_WEIGHT);
    const uint64_t position = block->position < 4095 ? block->position : 4095;
    return (cost < 0xFFFFF ? cost : 0xFFFFF) << 44 | (uint64_t)block->used_at << 12 | position;
}

/* The largest key stands first, so that it can be replaced by a smaller one. */
static void sift_down(struct akv_ladder_candidate *heap, uint32_t count, uint32_t at,
                      struct akv_ladder_candidate item)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1].key > heap[child].key)
            child++;
        if (heap[child].key <= item.key)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = item;
}

static void insert(struct akv_ladder *ladder, struct akv_ladder_candidate item)
{
    struct akv_ladder_candidate *heap = ladder->candidate;
    if (ladder->count == AKV_LADDER_CANDIDATES) {
        if (item.key < heap[0].key)
            sift_down(heap, ladder->count, 0, item);
        return;
    }
    uint32_t at = ladder->count++;
    while (at > 0 && heap[(at - 1) / 2].key < item.key) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

/* The cheapest blocks, cheapest first; false: there is none. */
static bool collect(anykv_cache *cache, uint32_t recent)
{
    struct akv_ladder *ladder = &cache->ladder;
    ladder->next = ladder->count = 0;
    ladder->collected = cache->serial;
    for (uint32_t id = 0; id < cache->pool.block_capacity; id++) {
        const struct akv_block *block = &cache->pool.blocks[id];
        const uint32_t below = block->refs ? kind_below(cache, block, recent) : 0;
        if (below)
            insert(ladder, (struct akv_ladder_candidate){key_of(cache, block, below), id});
    }
    for (uint32_t left = ladder->count; left > 1; left--) { /* heap to ascending order */
        const struct akv_ladder_candidate last = ladder->candidate[left - 1];
        ladder->candidate[left - 1] = ladder->candidate[0];
        sift_down(ladder->candidate, left - 1, 0, last);
    }
    return ladder->count != 0;
}

/* ---- the step down ---- */

/* Exchanges the places of the blocks in the lists of moves for the new ones. */
static void commit(anykv_cache *cache, uint32_t kind, uint32_t count)
{
    struct akv_pool *pool = &cache->pool;
    const uint64_t epoch = ++cache->epoch;
    cache->sealed_since_wait = true;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t id = cache->move_from[i];
        struct akv_block *block = akv_pool_block(pool, id);
        const uint32_t before = pool->class_[akv_pool_class_of(block)].block_bytes;
        const bool idle = block->idle;
        akv_pool_set_idle(pool, id, false);
        akv_pool_swap(pool, id, cache->move_to[i]);
        akv_cache_show(cache, id);
        akv_pool_release(pool, cache->move_to[i]);
        akv_pool_set_idle(pool, id, idle);
        if (block->epoch < epoch)
            block->epoch = epoch;
        if (block->node != AKV_NO_ID)
            akv_cache_event(cache, ANYKV_BLOCK_LOWERED, block->node, akv_block_kind(block), NULL);
        cache->count.lowered_bytes += before - pool->class_[akv_pool_class_of(block)].block_bytes;
    }
    cache->count.blocks_lowered += count;
    const struct akv_block *first = akv_pool_block(pool, cache->move_from[0]);
    akv_explain(cache,
                "lowered %u blocks of layer group %u from kind %u to kind %u for room; the "
                "estimated error is %.4f there",
                count, first->group, kind, akv_block_kind(first),
                (double)cache->layout->groups[first->group].error[akv_block_kind(first)]);
}

/* Would need[] fit once `leaving` blocks of a class are gone? */
static bool enough(anykv_cache *cache, const uint32_t *need, uint32_t limit, uint32_t class_index,
                   uint32_t leaving)
{
    struct akv_pool_class *class_ = &cache->pool.class_[class_index];
    class_->used -= leaving;
    const bool fits = akv_pool_could_fit(&cache->pool, need, false, limit);
    class_->used += leaving;
    return fits;
}

anykv_status akv_lower_blocks(anykv_cache *cache, const uint32_t *need, uint32_t limit,
                              uint32_t most, uint32_t *lowered_out)
{
    struct akv_ladder *ladder = &cache->ladder;
    struct akv_pool *pool = &cache->pool;
    *lowered_out = 0;
    if (!ladder->on)
        return ANYKV_OK;
    if (ladder->skip) {
        ladder->skip--;
        return ANYKV_OK;
    }
    const uint32_t recent = mark_recent(cache);
    if ((uint64_t)(cache->serial - ladder->collected) * SCAN > pool->block_capacity)
        ladder->next = ladder->count = 0;
    uint32_t count = 0, group = 0, from = 0, to = 0;
    bool fresh = false, skipped = false;
    while (count < most && count < AKV_MOVES) {
        if (ladder->next == ladder->count) {
            if (fresh || count)
                break;
            fresh = true;
            if (!collect(cache, recent)) {
                ladder->skip = pool->block_capacity / SCAN;
                break;
            }
        }
        const uint32_t id = ladder->candidate[ladder->next].id;
        struct akv_block *block = &pool->blocks[id];
        const uint32_t below = block->refs ? kind_below(cache, block, recent) : 0;
        if (!below) {
            ladder->next++;
            continue;
        }
        if (count && (block->group != group || akv_block_kind(block) != from))
            break;
        if (count && enough(cache, need, limit, AKV_CLASS(group, from), count))
            break;
        ladder->next++;
        if (block->mark == recent + 1) /* chosen already: an id can stand in the list twice */
            continue;
        bool scrub; /* the step overwrites the whole block */
        const uint32_t place =
            akv_pool_alloc(pool, block->group, below, akv_pool_tenant(pool, id), &scrub);
        if (place == AKV_NO_ID) { /* perhaps another candidate's kind has one */
            skipped = true;
            if (count)
                break;
            continue;
        }
        block->mark = recent + 1;
        group = block->group;
        from = akv_block_kind(block);
        to = below;
        cache->move_from[count] = id;
        cache->move_to[count] = place;
        cache->moves[count].src = akv_pool_address(pool, group, block->entry);
        cache->moves[count].dst = akv_pool_address(pool, group, pool->blocks[place].entry);
        cache->moves[count].position = block->position * akv_block_tokens(cache);
        count++;
    }
    if (skipped)
        ladder->next = ladder->count = 0;
    if (count == 0)
        return ANYKV_OK;
    anykv_status status = to == AKV_KIND_SEALED ? akv_enqueue_seal(cache, group, count)
                                                : akv_enqueue_lower(cache, group, from, count);
    if (status) {
        akv_pool_undo_moves(&cache->pool, cache->move_to, count);
        return status;
    }
    commit(cache, from, count);
    *lowered_out = count;
    return ANYKV_OK;
}

/* ---- when ---- */

/* Chunks that would do if no block were cached and all that may step down had done so. */
uint64_t akv_lower_least(anykv_cache *cache, const uint32_t *need)
{
    struct akv_pool *pool = &cache->pool;
    const uint32_t recent = mark_recent(cache);
    for (uint32_t id = 0; id < pool->block_capacity; id++) {
        struct akv_block *block = &pool->blocks[id];
        if (!block->refs || block->idle)
            continue;
        const struct akv_group *group = &cache->layout->groups[block->group];
        uint32_t last = kind_below(cache, block, recent);
        for (uint32_t k = last; k; k = akv_ladder_below(group, k))
            if (k - AKV_KIND_SEALED <= block->least)
                last = k;
        if (!last)
            continue;
        pool->class_[akv_pool_class_of(block)].used--;
        pool->class_[AKV_CLASS(block->group, last)].used++;
        block->mark = recent + 1;
    }
    const uint64_t least = akv_pool_least_chunks(pool, need, true);
    for (uint32_t id = 0; id < pool->block_capacity; id++) {
        struct akv_block *block = &pool->blocks[id];
        if (!block->refs || block->mark != recent + 1)
            continue;
        const struct akv_group *group = &cache->layout->groups[block->group];
        uint32_t last = 0;
        for (uint32_t k = akv_ladder_below(group, akv_block_kind(block)); k;
             k = akv_ladder_below(group, k))
            if (k - AKV_KIND_SEALED <= block->least)
                last = k;
        pool->class_[akv_pool_class_of(block)].used++;
        pool->class_[AKV_CLASS(block->group, last)].used--;
        block->mark = recent;
    }
    return least;
}

/* Above the high watermark blocks step down at the ends of steps, a few at a time, until the pool
 * is below the low one. */
void akv_lower_ahead(anykv_cache *cache)
{
    struct akv_ladder *ladder = &cache->ladder;
    if (!ladder->on || cache->plan.options.ladder_blocks == 0)
        return;
    const struct akv_pool *pool = &cache->pool;
    const float share =
        ladder->lowering ? cache->plan.options.low_watermark : cache->plan.options.high_watermark;
    const uint32_t low = (uint32_t)(cache->plan.options.low_watermark * (float)pool->present);
    memset(cache->need, 0, pool->classes * sizeof *cache->need);
    ladder->lowering =
        (float)akv_pool_least_chunks(pool, cache->need, false) > share * (float)pool->present;
    uint32_t left = cache->plan.options.ladder_blocks, count = 1;
    anykv_status status = ANYKV_OK;
    while (ladder->lowering && left && count && !status) {
        status = akv_lower_blocks(cache, cache->need, low, left, &count);
        left -= count;
        ladder->lowering = !akv_pool_could_fit(pool, cache->need, false, low);
    }
    if (status) /* nothing changed, and the step's end has done its own work */
        akv_log(cache->context, ANYKV_LOG_WARNING, "precision ladder: %s", anykv_error_detail());
}
