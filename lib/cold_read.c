/* SPDX-License-Identifier: Apache-2.0 */
/* Reading compressed blocks back: before a step, gather or eviction of tokens uses a sequence's rows.
 *
 * Up to AKV_COLD_BATCH blocks get new places, which evicts and lowers as any need of room does; their pages
 * are put together and decoded there; and only when the wait has shown that no check differed do they
 * take those places.  So a failure leaves every block as it was. */
#include "cold.h"
#include "cache.h"

struct thaw {
    anykv_cache *cache;
    uint32_t id[AKV_COLD_BATCH], to[AKV_COLD_BATCH];
    uint32_t damaged[AKV_COLD_BATCH];
    uint32_t count, taken; /* blocks, and new places for them */
};

bool akv_cold_any(const anykv_cache *cache, const anykv_seq *const *seqs, const uint32_t *counts, uint32_t n)
{
    if (cache->pool.cold_blocks == 0)
        return false;
    for (uint32_t s = 0; s < n; s++)
        for (uint32_t g = 0; (!counts || counts[s]) && g < cache->layout->group_count; g++)
            for (uint32_t i = 0; i < seqs[s]->table_capacity; i++) {
                const uint32_t id = akv_seq_table(seqs[s], g)[i];
                if (id != AKV_NO_ID && cache->pool.blocks[id].method)
                    return true;
            }
    return false;
}

static void collect(struct thaw *run, const anykv_seq *const *seqs, const uint32_t *counts, uint32_t n,
                    uint32_t from, uint32_t to)
{
    anykv_cache *cache = run->cache;
    cache->serial += 2;
    run->count = 0;
    for (uint32_t s = 0; s < n; s++)
        for (uint32_t g = 0; (!counts || counts[s]) && g < cache->layout->group_count; g++)
            for (uint32_t i = from; i < to && i < seqs[s]->table_capacity; i++) {
                const uint32_t id = akv_seq_table(seqs[s], g)[i];
                struct akv_block *block = id == AKV_NO_ID ? NULL : akv_pool_block(&cache->pool, id);
                if (!block || !block->method || block->mark == cache->serial)
                    continue;
                block->mark = cache->serial;
                run->id[run->count++] = id;
                if (run->count == AKV_COLD_BATCH)
                    return;
            }
}

/* Room for the blocks' rows, within the budget and their tenants' limits. */
static anykv_status make_room(struct thaw *run)
{
    anykv_cache *cache = run->cache;
    uint64_t asking = 1;
    memset(cache->need, 0, cache->pool.classes * sizeof *cache->need);
    akv_tenants_need_none(cache);
    for (uint32_t i = 0; i < run->count; i++) {
        const struct akv_block *block = akv_pool_block(&cache->pool, run->id[i]);
        const uint32_t class_index = AKV_CLASS(block->group, block->plain_kind);
        cache->need[class_index]++;
        cache->tenant[block->part].need +=
            cache->pool.class_[class_index].block_bytes - akv_pool_block_bytes(&cache->pool, block);
        asking |= (uint64_t)1 << block->part;
    }
    anykv_status status = akv_tenants_admit(cache, asking);
    return status ? status : akv_cache_make_room(cache, cache->need);
}

static anykv_status take_places(struct thaw *run)
{
    anykv_cache *cache = run->cache;
    for (; run->taken < run->count; run->taken++) {
        const uint32_t id = run->id[run->taken];
        const struct akv_block *block = akv_pool_block(&cache->pool, id);
        anykv_status status;
        const uint32_t to = akv_cache_alloc(cache, block->group, block->plain_kind,
                                            akv_pool_tenant(&cache->pool, id), &status);
        if (status)
            return status;
        akv_pool_set_part(&cache->pool, to, akv_pool_block(&cache->pool, id)->part);
        akv_pool_lock(&cache->pool, to); /* nobody lowers it */
        run->to[run->taken] = to;
    }
    return ANYKV_OK;
}

static anykv_status decode(struct thaw *run, uint32_t i)
{
    anykv_cache *cache = run->cache;
    const struct akv_cold_room room = akv_cold_room(cache->layout);
    const struct akv_block *block = akv_pool_block(&cache->pool, run->id[i]);
    uint32_t pages[AKV_MOVES], count = 0;
    for (uint32_t page = run->id[i]; page != AKV_NO_ID; page = cache->pool.blocks[page].more)
        pages[count++] = page;
    anykv_status status = akv_enqueue_pages(cache, block->group, pages, count, AKV_COPY_POOL_LINEAR);
    if (status)
        return status;
    struct akv_launch launch = {.kernel = AKV_K_BX16_DECODE, .params = &cache->cold.params[run->id[i]]};
    launch.arg[0] = akv_cold_span(cache, room.body, block->packed_bytes);
    launch.arg[1] = akv_block_span(cache, run->to[i]);
    launch.arg[2] = akv_cold_span(cache, room.words + 4ull * i, 4);
    return akv_kernel_launch(cache->device->queue, &launch);
}

static anykv_status enqueue(struct thaw *run)
{
    anykv_cache *cache = run->cache;
    const struct akv_cold_room room = akv_cold_room(cache->layout);
    const struct akv_span words = akv_cold_span(cache, room.words, run->count * 4ull);
    anykv_status status = akv_queue_fill(cache->device->queue, words, 0);
    for (uint32_t i = 0; i < run->count && !status; i++)
        status = decode(run, i);
    return status ? status : akv_queue_get(cache->device->queue, run->damaged, words);
}

/* The block's bytes are not what was written: its name goes, whoever holds it cannot use it. */
static anykv_status give_up(anykv_cache *cache, uint32_t id)
{
    struct akv_block *block = akv_pool_block(&cache->pool, id);
    cache->count.compressed[block->method - 1].blocks_damaged++;
    if (block->node != AKV_NO_ID && !cache->prefix.nodes[block->node].withdrawn) {
        akv_cache_event(cache, ANYKV_BLOCK_REMOVED, block->node, 0, NULL);
        akv_prefix_withdraw(&cache->prefix, block->node);
    }
    akv_explain(cache, "a compressed block is damaged: its name is withdrawn");
    return akv_fail(cache->context, ANYKV_E_DATA, "seq: the compressed block of positions from %u is damaged",
                    block->position * akv_block_tokens(cache));
}

static anykv_status commit(struct thaw *run, anykv_status status)
{
    anykv_cache *cache = run->cache;
    for (uint32_t i = 0; i < run->taken; i++) {
        const uint32_t id = run->id[i], to = run->to[i];
        struct akv_block *block = akv_pool_block(&cache->pool, id);
        akv_pool_unlock(&cache->pool, to);
        if (status || run->damaged[i]) {
            if (status)
                akv_pool_set_tenant(&cache->pool, to, AKV_TENANT_MIXED); /* perhaps not written */
            akv_cache_release(cache, to);
            continue;
        }
        cache->count.compressed[block->method - 1].blocks_read_back++;
        akv_pool_restore(&cache->pool, id, to);
        if (block->node != AKV_NO_ID)
            akv_cache_event(cache, ANYKV_BLOCK_READ_BACK, block->node, akv_block_kind(block), NULL);
    }
    for (uint32_t i = 0; i < run->taken && !status; i++)
        if (run->damaged[i])
            status = give_up(cache, run->id[i]);
    return status;
}

/* One batch, under io and lock; gives the lock up and takes it again for the wait. */
static anykv_status thaw(struct thaw *run)
{
    anykv_cache *cache = run->cache;
    run->taken = 0;
    anykv_status status = make_room(run);
    if (!status)
        status = take_places(run);
    if (!status)
        status = enqueue(run);
    if (run->taken == 0)
        return status;
    akv_mutex_unlock(&cache->lock);
    anykv_status wait = akv_cache_drain(cache, UINT64_MAX); /* even after a failure: the words may be under way */
    akv_mutex_lock(&cache->lock);
    return commit(run, status ? status : wait);
}

anykv_status akv_cold_read(anykv_cache *cache, const anykv_seq *const *seqs, const uint32_t *counts, uint32_t n,
                           uint32_t from, uint32_t to)
{
    struct thaw run = {.cache = cache};
    anykv_status status = ANYKV_OK;
    akv_cache_enter(cache);
    while (!status && akv_cold_any(cache, seqs, counts, n)) {
        collect(&run, seqs, counts, n, from, to);
        if (run.count == 0)
            break;
        status = thaw(&run);
    }
    akv_mutex_unlock(&cache->lock);
    return status;
}
