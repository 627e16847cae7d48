/* SPDX-License-Identifier: Apache-2.0 */
/* The byte budget: blocks in and out, eviction, relocation, and changing the budget. */
#include "cache.h"

/* ---- one block ---- */

uint32_t akv_cache_alloc(anykv_cache *cache, uint32_t group, uint32_t kind, uint64_t tenant,
                         anykv_status *status_out)
{
    bool scrub;
    const uint32_t id = akv_pool_alloc(&cache->pool, group, kind, tenant, &scrub);
    *status_out = ANYKV_OK;
    if (id != AKV_NO_ID)
        akv_pool_set_part(&cache->pool, id, akv_tenant_part(cache, tenant));
    if (id == AKV_NO_ID)
        *status_out = akv_fail(cache->context, ANYKV_E_INTERNAL, "pool: reserved room is gone");
    else {
        cache->count.blocks_new++;
        cache->count.bytes_new += cache->pool.class_[AKV_CLASS(group, kind)].block_bytes;
    }
    if (!*status_out && scrub && (*status_out = akv_enqueue_scrub(cache, id)) != ANYKV_OK) {
        /* Whose bytes stand there is no longer known. */
        akv_pool_set_tenant(&cache->pool, id, AKV_TENANT_MIXED);
        akv_pool_release(&cache->pool, id);
    }
    return *status_out ? AKV_NO_ID : id;
}

static void unloose(anykv_cache *cache, struct akv_block *block)
{
    if (!block->loose)
        return;
    if (block->prev != AKV_NO_ID)
        cache->pool.blocks[block->prev].next = block->next;
    else
        cache->loose_first = block->next;
    if (block->next != AKV_NO_ID)
        cache->pool.blocks[block->next].prev = block->prev;
    else
        cache->loose_last = block->prev;
    block->prev = block->next = AKV_NO_ID;
    block->loose = false;
}

static void make_loose(anykv_cache *cache, uint32_t id)
{
    struct akv_block *block = &cache->pool.blocks[id];
    if (block->loose)
        return;
    block->prev = cache->loose_last;
    block->next = AKV_NO_ID;
    if (cache->loose_last != AKV_NO_ID)
        cache->pool.blocks[cache->loose_last].next = id;
    else
        cache->loose_first = id;
    cache->loose_last = id;
    block->loose = true;
}

/* A block that only its node holds can be evicted: with the node while that is idle, alone (loose)
 * while others use the node without the block, as when it fell behind their window. */
void akv_cache_settle(anykv_cache *cache, uint32_t id)
{
    struct akv_block *block = akv_pool_block(&cache->pool, id);
    if (block->refs == 1 && block->node != AKV_NO_ID)
        block->least = UINT8_MAX; /* only its node is left */
    if (block->refs != 1 || block->node == AKV_NO_ID || cache->prefix.nodes[block->node].pins) {
        unloose(cache, block);
        akv_pool_set_idle(&cache->pool, id, false);
        return;
    }
    if (akv_prefix_busy(&cache->prefix, block->node))
        make_loose(cache, id);
    else if (cache->layout->groups[block->group].window == 0)
        unloose(cache, block); /* the chain below it needs it; its node's turn decides */
    akv_pool_set_idle(&cache->pool, id, true);
}

void akv_cache_on_idle(void *user, uint32_t node, bool idle)
{
    anykv_cache *cache = user;
    (void)idle;
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t id = akv_prefix_blocks(&cache->prefix, node)[g];
        if (id != AKV_NO_ID)
            akv_cache_settle(cache, id);
    }
}

void akv_cache_acquire_idle(anykv_cache *cache, uint32_t id)
{
    akv_pool_acquire(&cache->pool, id);
    akv_cache_settle(cache, id);
}

void akv_cache_release_last(anykv_cache *cache, uint32_t id)
{
    if (!akv_pool_release(&cache->pool, id))
        akv_cache_settle(cache, id);
}

void akv_cache_show(anykv_cache *cache, uint32_t id)
{
    const struct akv_block *block = akv_pool_block(&cache->pool, id);
    if (block->node != AKV_NO_ID)
        akv_find_show(&cache->prefix.find, block->node, block->group, akv_block_rows(block));
}

void akv_node_give(anykv_cache *cache, uint32_t node, uint32_t group, uint32_t id)
{
    struct akv_block *block = akv_pool_block(&cache->pool, id);
    assert(block->node == AKV_NO_ID && akv_prefix_blocks(&cache->prefix, node)[group] == AKV_NO_ID);
    block->node = node;
    akv_prefix_blocks(&cache->prefix, node)[group] = id;
    akv_cache_show(cache, id);
    akv_cache_acquire(cache, id);
}

void akv_node_take(anykv_cache *cache, uint32_t node, uint32_t group)
{
    uint32_t *blocks = akv_prefix_blocks(&cache->prefix, node);
    const uint32_t id = blocks[group];
    if (id == AKV_NO_ID)
        return;
    struct akv_block *block = akv_pool_block(&cache->pool, id);
    unloose(cache, block);
    akv_pool_set_idle(&cache->pool, id, false);
    akv_find_show(&cache->prefix.find, node, group, AKV_KIND_NONE);
    block->node = AKV_NO_ID;
    blocks[group] = AKV_NO_ID;
    akv_pool_release(&cache->pool, id);
}

/* ---- eviction ---- */

static void count_evicted(anykv_cache *cache, uint32_t id)
{
    const struct akv_block *block = akv_pool_block(&cache->pool, id);
    cache->count.blocks_evicted++;
    if (block->refs == 1)
        cache->count.evicted_bytes += akv_pool_block_bytes(&cache->pool, block);
}

void akv_cache_evict(anykv_cache *cache, uint32_t node)
{
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        if (akv_prefix_blocks(&cache->prefix, node)[g] != AKV_NO_ID)
            count_evicted(cache, akv_prefix_blocks(&cache->prefix, node)[g]);
        akv_node_take(cache, node, g);
    }
    if (!cache->prefix.nodes[node].withdrawn)
        akv_cache_event(cache, ANYKV_BLOCK_REMOVED, node, 0, NULL);
    akv_prefix_remove(&cache->prefix, node);
    akv_explain(cache, "evicted the cached block that policy %s puts first",
                akv_evict_reason(&cache->prefix.evict, node));
}

/* Evicts one loose block, or the policy's next node; false: everything is in use. */
static bool evict_one(anykv_cache *cache)
{
    if (cache->loose_first != AKV_NO_ID) {
        const struct akv_block *block = &cache->pool.blocks[cache->loose_first];
        count_evicted(cache, cache->loose_first);
        akv_node_take(cache, block->node, block->group);
        akv_explain(cache, "evicted a cached block behind the windows of its users");
        return true;
    }
    akv_tenants_spare(cache, cache->asking);
    const uint32_t node = akv_prefix_victim(&cache->prefix);
    if (node == AKV_NO_ID)
        return false;
    akv_cache_evict(cache, node);
    return true;
}

/* ---- relocation ---- */

/* Moves the blocks of a chunk elsewhere; emptied_out: whether it has none left. */
static anykv_status empty_chunk(anykv_cache *cache, uint32_t chunk, bool *emptied_out)
{
    const uint32_t class_index = cache->pool.chunks[chunk].class_;
    const uint32_t group = class_index / AKV_POOL_KINDS, kind = class_index % AKV_POOL_KINDS;
    *emptied_out = false;
    while (cache->pool.chunks[chunk].class_ == class_index) {
        const uint32_t count = akv_pool_plan_moves(&cache->pool, chunk, AKV_MOVES, cache->moves,
                                                   cache->move_from, cache->move_to);
        if (count == 0)
            return ANYKV_OK;
        anykv_status status = akv_enqueue_copy(cache, group, kind, count);
        if (status) {
            akv_pool_undo_moves(&cache->pool, cache->move_to, count);
            return status;
        }
        const uint64_t epoch = ++cache->epoch;
        for (uint32_t i = 0; i < count; i++) {
            struct akv_block *block = &cache->pool.blocks[cache->move_from[i]];
            if (block->page) /* the block is lost with any of its pages */
                block = &cache->pool.blocks[block->position];
            if (block->epoch < epoch)
                block->epoch = epoch;
        }
        akv_pool_commit_moves(&cache->pool, cache->move_from, cache->move_to, count);
        cache->count.blocks_moved += count;
    }
    *emptied_out = true;
    return ANYKV_OK;
}

anykv_status akv_cache_pack(anykv_cache *cache, bool *emptied_out)
{
    const uint32_t chunk = akv_pool_sparse_chunk(&cache->pool, NULL);
    *emptied_out = false;
    return chunk == AKV_NO_ID ? ANYKV_OK : empty_chunk(cache, chunk, emptied_out);
}

/* Lower precision before anything is dropped.  freed_out: whether something was found. */
static anykv_status lower_or_evict(anykv_cache *cache, const uint32_t *need, uint32_t limit,
                                   bool *freed_out)
{
    uint32_t lowered = 0;
    anykv_status status = ANYKV_OK;
    bool emptied = true; /* the steps down need a place to go to */
    while (!status && emptied && cache->pool.free_chunks < cache->pool.reserve)
        status = akv_cache_pack(cache, &emptied);
    if (!status)
        status = akv_lower_blocks(cache, need, limit, AKV_MOVES, &lowered);
    *freed_out = !status && (lowered || evict_one(cache));
    if (!status && !*freed_out && cache->ladder.skip) { /* look again before giving up */
        cache->ladder.skip = 0;
        status = akv_lower_blocks(cache, need, limit, AKV_MOVES, &lowered);
        *freed_out = lowered != 0;
    }
    return status;
}

/* Says what is needed, what is there and what whole chunks cost: blocks of one kind and layer group
 * share chunks only with each other. */
static anykv_status refuse(anykv_cache *cache, const uint32_t *need)
{
    const struct akv_pool *pool = &cache->pool;
    const unsigned long long bytes = akv_pool_need_bytes(pool, need);
    const unsigned long long held = akv_pool_held_bytes(pool);
    const unsigned long long total = pool->present * pool->chunk_bytes;
    const uint64_t chunks = akv_pool_least_chunks(pool, need, true);
    const uint64_t least = cache->ladder.on ? akv_lower_least(cache, need) : chunks;
    const unsigned long long unusable = chunks * pool->chunk_bytes - bytes - held;
    const unsigned long long more =
        (least > pool->present ? least - pool->present : 1) * pool->chunk_bytes;
    cache->count.budget_refusals++;
    akv_explain(cache,
                "refused a step: its blocks take %llu bytes, blocks in use %llu, whole chunks of "
                "%llu waste %llu; the pool has %llu, %llu more would do",
                bytes, held, (unsigned long long)pool->chunk_bytes, unusable, total, more);
    return akv_fail(cache->context, ANYKV_E_BUDGET,
                    "budget_bytes: the step needs %llu bytes of blocks, blocks in use take %llu "
                    "and whole chunks of %llu bytes waste %llu: more than the pool's %llu; %llu "
                    "more would do",
                    bytes, held, (unsigned long long)pool->chunk_bytes, unusable, total, more);
}

/* Would need[] fit into so many chunks if all that may go went? */
static bool can_fit(anykv_cache *cache, const uint32_t *need, uint32_t chunks)
{
    return akv_pool_could_fit(&cache->pool, need, true, chunks) ||
           (cache->ladder.on && akv_lower_least(cache, need) <= chunks);
}

/* The same, with all leases that are over ended before the answer is no. */
static bool could_fit(anykv_cache *cache, const uint32_t *need, uint32_t chunks)
{
    return can_fit(cache, need, chunks) ||
           (akv_prefix_end_terms(&cache->prefix) && can_fit(cache, need, chunks));
}

anykv_status akv_cache_make_room(anykv_cache *cache, const uint32_t *need)
{
    struct akv_pool *pool = &cache->pool;
    if (akv_pool_fits(pool, need))
        return ANYKV_OK;
    akv_steps_lock(cache);
    if (!could_fit(cache, need, pool->present))
        return refuse(cache, need);
    while (!akv_pool_could_fit(pool, need, false, pool->present)) {
        bool freed;
        anykv_status status = lower_or_evict(cache, need, pool->present, &freed);
        if (status)
            return status;
        if (!freed)
            return refuse(cache, need);
    }
    while (!akv_pool_fits(pool, need)) {
        const uint32_t chunk = akv_pool_sparse_chunk(pool, need);
        bool emptied = false;
        if (chunk != AKV_NO_ID) {
            anykv_status status = empty_chunk(cache, chunk, &emptied);
            if (status)
                return status;
        }
        if (!emptied && !evict_one(cache))
            return refuse(cache, need);
    }
    return ANYKV_OK;
}

anykv_status anykv_cache_trim_memory(anykv_cache *cache)
{
    if (!cache)
        return akv_fail(NULL, ANYKV_E_ARG, "cache: NULL");
    const anykv_status status = akv_cache_rate(cache, UINT64_MAX);
    if (status)
        return status;
    akv_cache_enter(cache);
    struct akv_call call;
    akv_call_begin(cache, &call, "anykv_cache_trim_memory");
    const bool some = cache->prefix.count != 0;
    cache->asking = UINT64_MAX; /* the caller asks for all */
    while (evict_one(cache))
        continue;
    if (some && cache->prefix.count == 0)
        akv_cache_event(cache, ANYKV_ALL_BLOCKS_CLEARED, AKV_NO_ID, 0, NULL);
    akv_call_end(cache, &call, ANYKV_OK);
    akv_mutex_unlock(&cache->lock);
    return ANYKV_OK;
}

/* ---- changing the budget ---- */

static uint32_t slab_chunks(const anykv_cache *cache, uint32_t slab)
{
    return (uint32_t)(cache->slab_bytes[slab] / cache->plan.chunk_bytes);
}

/* Adds whole slabs as far as the budget allows; io and lock are held. */
static anykv_status grow_pool(anykv_cache *cache, uint64_t chunks)
{
    const uint32_t old_slabs = cache->slabs;
    anykv_status status = ANYKV_OK;
    while (cache->pool.present < chunks && cache->slabs < AKV_MAX_SLABS && !status) {
        const uint32_t slab = cache->slabs;
        uint64_t more = chunks - cache->pool.present;
        if (more > cache->plan.chunks_per_slab)
            more = cache->plan.chunks_per_slab;
        const uint64_t bytes = more * cache->plan.chunk_bytes;
        status = akv_mem_alloc(cache->device->device, bytes, AKV_MEM_DEVICE, &cache->slab[slab]);
        if (status)
            break;
        status = akv_pool_add_slab(&cache->pool, slab, (uint32_t)more);
        if (status) {
            akv_mem_free(cache->slab[slab]);
            cache->slab[slab] = NULL;
            break;
        }
        cache->slab_bytes[slab] = bytes;
        cache->slabs++;
    }
    while (status && cache->slabs > old_slabs) {
        const uint32_t slab = --cache->slabs;
        akv_pool_drop_slab(&cache->pool, slab);
        akv_mem_free(cache->slab[slab]);
        cache->slab[slab] = NULL;
        cache->slab_bytes[slab] = 0;
    }
    return status;
}

/* Empties slabs from number `keep` on; lock is held. */
static anykv_status empty_slabs(anykv_cache *cache, uint32_t keep, uint32_t keep_chunks)
{
    struct akv_pool *pool = &cache->pool;
    const uint32_t first = keep * cache->plan.chunks_per_slab;
    memset(cache->need, 0, pool->classes * sizeof *cache->need);
    akv_steps_lock(cache);
    for (uint32_t c = first; c < pool->chunk_count; c++)
        if (pool->chunks[c].class_ < pool->classes && pool->chunks[c].locked)
            return akv_fail(cache->context, ANYKV_E_BUSY,
                            "budget_bytes: an open step uses blocks in the part to be freed");
    if (!could_fit(cache, cache->need, keep_chunks))
        return akv_fail(
            cache->context, ANYKV_E_BUDGET,
            "budget_bytes: sequences hold more than the %llu bytes of blocks that would be "
            "left",
            (unsigned long long)(keep_chunks * cache->plan.chunk_bytes));
    for (uint32_t s = keep; s < cache->slabs; s++)
        akv_pool_doom_slab(pool, s, true);
    anykv_status status = ANYKV_OK;
    bool freed = true;
    while (freed && !status && !akv_pool_could_fit(pool, cache->need, false, keep_chunks))
        status = lower_or_evict(cache, cache->need, keep_chunks, &freed);
    for (uint32_t c = first; c < pool->chunk_count && !status;) {
        bool emptied = true;
        if (pool->chunks[c].class_ < pool->classes)
            status = empty_chunk(cache, c, &emptied);
        if (emptied) {
            c++;
            continue;
        }
        /* No place in its class and no free chunk: empty a chunk of another class first. */
        const uint32_t sparse = akv_pool_sparse_chunk(pool, cache->need);
        emptied = false;
        if (!status && sparse != AKV_NO_ID)
            status = empty_chunk(cache, sparse, &emptied);
        if (!status && !emptied && !evict_one(cache))
            status = akv_fail(cache->context, ANYKV_E_BUDGET,
                              "budget_bytes: the blocks in use cannot be moved together");
    }
    for (uint32_t s = keep; status && s < cache->slabs; s++)
        akv_pool_doom_slab(pool, s, false);
    return status;
}

anykv_status anykv_cache_set_budget(anykv_cache *cache, uint64_t budget_bytes)
{
    if (!cache)
        return akv_fail(NULL, ANYKV_E_ARG, "cache: NULL");
    const struct akv_plan *plan = &cache->plan;
    const uint64_t room = budget_bytes > plan->fixed_bytes ? budget_bytes - plan->fixed_bytes : 0;
    const uint64_t chunks = room / plan->chunk_bytes;
    anykv_status status = akv_cache_rate(cache, UINT64_MAX);
    if (status)
        return status;
    akv_mutex_lock(&cache->io);
    akv_cache_enter(cache);
    cache->asking = UINT64_MAX;
    struct akv_call call;
    akv_call_begin(cache, &call, "anykv_cache_set_budget");
    uint32_t keep = 0, keep_chunks = 0;
    while (keep < cache->slabs && keep_chunks + slab_chunks(cache, keep) <= chunks)
        keep_chunks += slab_chunks(cache, keep++);
    const bool shrink = keep < cache->slabs;
    if (keep_chunks < plan->minimum_chunks)
        status =
            akv_fail(cache->context, ANYKV_E_BUDGET,
                     "budget_bytes: %llu is too low; the pool gives memory back in parts of %llu "
                     "bytes and needs %llu at least",
                     (unsigned long long)budget_bytes, (unsigned long long)cache->slab_bytes[0],
                     (unsigned long long)(plan->fixed_bytes + cache->slab_bytes[0]));
    else if (shrink)
        status = empty_slabs(cache, keep, keep_chunks);
    else
        status = grow_pool(cache, chunks);
    if (status == ANYKV_E_MEMORY && !shrink) {
        /* Once more when the queue is empty: what was freed may still have been in use. */
        akv_mutex_unlock(&cache->lock);
        (void)akv_cache_drain(cache, UINT64_MAX);
        akv_mutex_lock(&cache->lock);
        cache->count.device_retries++;
        status = grow_pool(cache, chunks);
        if (status == ANYKV_E_MEMORY)
            status =
                akv_device_short(cache, (chunks - cache->pool.present) * cache->plan.chunk_bytes);
    }
    if (!status)
        cache->budget_bytes = budget_bytes;
    akv_call_end(cache, &call, status);
    akv_mutex_unlock(&cache->lock);
    if (!status && shrink) {
        /* The doomed slabs are out of use; their memory goes when nothing reads it any more.  A
         * device failure is kept for anykv_cache_wait. */
        (void)akv_cache_drain(cache, UINT64_MAX);
        akv_mutex_lock(&cache->lock);
        while (cache->slabs > keep) {
            const uint32_t slab = --cache->slabs;
            akv_pool_drop_slab(&cache->pool, slab);
            akv_mem_free(cache->slab[slab]);
            cache->slab[slab] = NULL;
            cache->slab_bytes[slab] = 0;
        }
        akv_mutex_unlock(&cache->lock);
    }
    akv_mutex_unlock(&cache->io);
    return status;
}
