/* SPDX-License-Identifier: Apache-2.0 */
/* The caller's scores of blocks that could go (ANYKV_POLICY_CALLER). */
#include "cache.h"

#define BATCH AKV_COLDEST

struct batch {
    uint32_t count, rated; /* without a score, and with one */
    uint32_t node[BATCH];
    uint64_t stamp[BATCH]; /* of the node's last use: another one makes a score void */
    anykv_candidate candidate[BATCH];
    float score[BATCH];
};

static void describe(const anykv_cache *cache, uint32_t node, anykv_candidate *candidate)
{
    const struct akv_evict *evict = &cache->prefix.evict;
    const struct akv_node *n = &cache->prefix.nodes[node];
    memset(candidate, 0, sizeof *candidate);
    const akv_digest key = akv_find_key(&cache->prefix.find, node);
    memcpy(candidate->key, key.byte, sizeof candidate->key);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t id = akv_prefix_blocks(&cache->prefix, node)[g];
        if (id != AKV_NO_ID)
            candidate->bytes += akv_pool_block_bytes(&cache->pool, &cache->pool.blocks[id]);
    }
    const double age = akv_evict_age(evict, node);
    candidate->idle_seconds = age > 0.0 ? age : 0.0;
    candidate->tokens = akv_block_tokens(cache);
    candidate->first_position = n->depth * candidate->tokens;
    candidate->children_seen = n->fan_out;
    candidate->priority = evict->entry[node].band;
}

/* Candidates that go first and have no score, as far as `wanted` and the batch reach. */
static void collect(anykv_cache *cache, uint64_t wanted, struct batch *batch)
{
    struct akv_evict *evict = &cache->prefix.evict;
    uint32_t ids[BATCH];
    batch->count = batch->rated = 0;
    if (cache->pool.free_chunks / cache->layout->group_count > wanted)
        return; /* nothing will have to go */
    for (uint32_t p = 0; p < evict->parts; p++) {
        const uint32_t count = akv_evict_coldest(evict, p, BATCH, ids);
        for (uint32_t i = 0; i < count; i++) {
            if (evict->entry[ids[i]].flags & AKV_EVICT_RATED) {
                batch->rated++;
                continue;
            }
            if (batch->count == BATCH)
                return;
            batch->node[batch->count] = ids[i];
            batch->stamp[batch->count] = evict->entry[ids[i]].stamp;
            describe(cache, ids[i], &batch->candidate[batch->count++]);
        }
    }
    if (batch->rated >= wanted)
        batch->count = 0;
}

static void store(anykv_cache *cache, const struct batch *batch)
{
    struct akv_evict *evict = &cache->prefix.evict;
    for (uint32_t i = 0; i < batch->count; i++) {
        const uint32_t node = batch->node[i];
        if (cache->prefix.nodes[node].used && evict->entry[node].stamp == batch->stamp[i])
            akv_evict_rate(evict, node, batch->score[i]);
    }
}

anykv_status akv_cache_rate(anykv_cache *cache, uint64_t wanted)
{
    const anykv_cache_options *options = &cache->plan.options;
    if (options->policy != ANYKV_POLICY_CALLER || wanted == 0)
        return ANYKV_OK;
    struct batch *batch = akv_alloc(cache->context, 1, sizeof *batch);
    if (!batch)
        return ANYKV_E_MEMORY;
    for (;;) {
        akv_cache_enter(cache);
        collect(cache, wanted, batch);
        akv_mutex_unlock(&cache->lock);
        if (batch->count == 0)
            break;
        options->score(options->score_user, batch->candidate, batch->count, batch->score);
        akv_mutex_lock(&cache->lock);
        store(cache, batch);
        akv_mutex_unlock(&cache->lock);
        if (batch->rated + batch->count >= BATCH || batch->count < BATCH)
            break; /* the first batch's worth has scores, or every candidate has */
    }
    akv_free(cache->context, batch);
    return ANYKV_OK;
}
