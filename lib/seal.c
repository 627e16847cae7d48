/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing: whole 16-bit blocks that left the recent window become packed ones, in place of
 * themselves.
 *
 * The block keeps its id, its references and its name; only its place changes.  A shared block is
 * sealed when the sequence that ends its step wants it, no open step uses it and no sequence ends
 * inside it; otherwise a later step end does it. */
#include "cache.h"

static uint32_t seal_begin(const anykv_seq *seq, uint32_t group)
{
    const uint32_t sinks = akv_blocks_for(seq->cache, seq->cache->plan.options.sinks);
    return seq->sealed[group] > sinks ? seq->sealed[group] : sinks;
}

uint32_t akv_seal_count(const anykv_seq *seq, uint32_t group, uint32_t length, uint32_t serial)
{
    const anykv_cache *cache = seq->cache;
    const struct akv_group *g = &cache->layout->groups[group];
    if (!g->sealable)
        return 0;
    const uint32_t end = akv_recent_block(cache, length), held = akv_blocks_for(cache, seq->length);
    uint32_t count = 0;
    for (uint32_t i = seal_begin(seq, group); i < end; i++) {
        if (i >= held) { /* made by this step */
            count += end - i;
            break;
        }
        const uint32_t id = akv_seq_table(seq, group)[i];
        if (id == AKV_NO_ID)
            continue;
        struct akv_block *block = akv_pool_block(&cache->pool, id);
        if (akv_block_kind(block) != AKV_KIND_HOT || block->mark == serial)
            continue;
        block->mark = serial;
        count++;
    }
    /* However many tokens are accepted, no more than a window's blocks are left to seal. */
    const uint32_t most = g->window / akv_block_tokens(cache) + 2;
    return g->window && count > most ? most : count;
}

static anykv_status flush(anykv_cache *cache, uint32_t group, uint32_t count)
{
    anykv_status status = akv_enqueue_seal(cache, group, count);
    for (uint32_t i = 0; status && i < count; i++)
        akv_cache_release(cache, cache->move_to[i]);
    if (status || count == 0)
        return status;
    const uint64_t epoch = ++cache->epoch;
    cache->sealed_since_wait = true;
    for (uint32_t i = 0; i < count; i++) {
        struct akv_block *block = akv_pool_block(&cache->pool, cache->move_from[i]);
        block->epoch = epoch;
        akv_pool_swap(&cache->pool, cache->move_from[i], cache->move_to[i]);
        akv_cache_show(cache, cache->move_from[i]);
        akv_pool_release(&cache->pool, cache->move_to[i]);
    }
    cache->count.blocks_sealed += count;
    return ANYKV_OK;
}

static anykv_status seal_group(anykv_step *step, uint32_t group)
{
    anykv_cache *cache = step->cache;
    struct akv_id_list *spare = &step->spare[group];
    const uint32_t taken = step->serial + 1; /* mark of blocks that are on the list already */
    uint32_t count = 0;
    for (uint32_t s = 0; s < step->n; s++) {
        anykv_seq *seq = step->seqs[s];
        const uint32_t end = akv_recent_block(cache, seq->length);
        const uint32_t visible = akv_first_visible(cache, group, seq->length);
        uint32_t i = seal_begin(seq, group);
        bool all = true; /* nothing below i is left */
        for (i = i > visible ? i : visible; i < end; i++) {
            const uint32_t id = akv_seq_table(seq, group)[i];
            struct akv_block *block = id == AKV_NO_ID ? NULL : akv_pool_block(&cache->pool, id);
            if (block && akv_block_kind(block) == AKV_KIND_HOT && block->mark != taken) {
                akv_steps_lock(cache);
                if (block->locks || block->holds || spare->count == 0) {
                    all = false;
                    continue;
                }
                block->mark = taken;
                cache->move_from[count] = id;
                cache->move_to[count] = spare->id[--spare->count];
                const struct akv_block *to = akv_pool_block(&cache->pool, cache->move_to[count]);
                akv_pool_set_tenant(&cache->pool, cache->move_to[count], seq->tenant);
                cache->moves[count].src = akv_pool_address(&cache->pool, group, block->entry);
                cache->moves[count].dst = akv_pool_address(&cache->pool, group, to->entry);
                cache->moves[count].position = i * akv_block_tokens(cache);
                if (++count == AKV_MOVES) {
                    anykv_status status = flush(cache, group, count);
                    if (status)
                        return status;
                    count = 0;
                }
            }
            if (all)
                seq->sealed[group] = i + 1;
        }
    }
    return flush(cache, group, count);
}

anykv_status akv_seal_step(anykv_step *step)
{
    anykv_status status = ANYKV_OK;
    for (uint32_t g = 0; g < step->cache->layout->group_count && !status; g++)
        if (step->cache->layout->groups[g].sealable)
            status = seal_group(step, g);
    return status;
}
