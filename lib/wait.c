/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for the device, and what a device failure takes with it.
 *
 * Every enqueued write of pool blocks has an epoch, and each block keeps that of its last one;
 * blocks of an open step count as being written.  A wait that succeeds makes all epochs before it
 * clean.  A wait that fails, or that finds that another one of the device has failed since the last
 * here, loses every block whose epoch is not clean: the sequences that hold one are dead, and the
 * names of such blocks are withdrawn.  Of a lost device no block is clean. */
#include "cache.h"

static bool lost(const anykv_cache *cache, uint32_t id)
{
    return id != AKV_NO_ID && cache->pool.blocks[id].epoch > cache->clean_epoch;
}

/* Takes a node that may name bad rows out of the index. */
static void withdraw_lost(anykv_cache *cache, uint32_t node)
{
    const uint32_t *blocks = akv_prefix_blocks(&cache->prefix, node);
    for (uint32_t g = 0; g < cache->layout->group_count; g++)
        if (lost(cache, blocks[g]) && !cache->prefix.nodes[node].withdrawn) {
            akv_cache_event(cache, ANYKV_BLOCK_REMOVED, node, 0, NULL);
            akv_prefix_withdraw(&cache->prefix, node);
        }
}

void akv_seq_kill(anykv_seq *seq)
{
    if (seq->dead)
        return;
    seq->dead = true;
    for (uint32_t i = 0; i < seq->node_count; i++)
        withdraw_lost(seq->cache, seq->nodes[i]);
    akv_log(seq->cache->context, ANYKV_LOG_WARNING,
            "a device failure hit a sequence of %u tokens; it is dead", seq->length);
}

anykv_status akv_seq_alive(const anykv_seq *seq)
{
    if (!seq->dead)
        return ANYKV_OK;
    return akv_fail(seq->cache->context, ANYKV_E_DEAD,
                    "sequence: a device failure hit its rows; destroy it");
}

/* Under lock. */
static void mark_lost(anykv_cache *cache)
{
    const bool gone = akv_device_is_lost(cache->device->device);
    if (gone)
        cache->clean_epoch = 0;
    for (anykv_seq *seq = cache->seqs; seq; seq = seq->next) {
        bool hit = false;
        for (uint32_t g = 0; g < cache->layout->group_count && !hit; g++)
            for (uint32_t i = 0; i < seq->table_capacity && !hit; i++)
                hit = lost(cache, akv_seq_table(seq, g)[i]);
        if (hit)
            akv_seq_kill(seq);
    }
    for (uint32_t node = 0; node < cache->prefix.capacity; node++)
        if (cache->prefix.nodes[node].used)
            withdraw_lost(cache, node);
    cache->clean_epoch = gone ? 0 : cache->epoch;
}

anykv_status akv_cache_drain(anykv_cache *cache, uint64_t timeout_ns)
{
    akv_mutex_lock(&cache->lock);
    const uint64_t epoch = cache->epoch;
    const bool sealed = cache->sealed_since_wait;
    akv_mutex_unlock(&cache->lock);
    anykv_status status = ANYKV_OK;
    if (sealed) /* what the quantising kernels saw comes along with a wait that is made anyway */
        status = akv_queue_get(cache->device->queue, &cache->saw_read,
                               akv_fixed_span(cache, cache->plan.flags_at, sizeof cache->saw_read));
    struct akv_device_waits waits = {0};
    if (!status)
        status = akv_device_await(cache->device, timeout_ns, &waits);
    if (status == ANYKV_E_TIMEOUT)
        return status;
    const bool told = !status && waits.failures != cache->device_failures;
    if (told)
        status = akv_fail(cache->context, waits.failure,
                          "device: another wait was told of a failure since the last one here");
    if (status) {
        /* The failed wait may have left work behind that still reads the caller's memory. */
        char detail[256];
        strncpy(detail, anykv_error_detail(), sizeof detail - 1);
        detail[sizeof detail - 1] = '\0';
        (void)akv_device_await(cache->device, UINT64_MAX, &waits);
        cache->device_failures = waits.failures;
        akv_fail(cache->context, status, "%s", detail);
    }
    akv_mutex_lock(&cache->lock);
    if (status) {
        cache->failure = status;
        mark_lost(cache);
        akv_explain(cache, "a device failure: sequences with unfinished writes are dead");
    } else {
        if (epoch > cache->clean_epoch && waits.alone)
            cache->clean_epoch = epoch;
        if (sealed)
            cache->saw |= cache->saw_read;
        if (cache->epoch == epoch)
            cache->sealed_since_wait = false;
    }
    akv_mutex_unlock(&cache->lock);
    return status;
}

anykv_status anykv_cache_wait(anykv_cache *cache, uint64_t timeout_ns)
{
    if (!cache)
        return akv_fail(NULL, ANYKV_E_ARG, "cache: NULL");
    akv_mutex_lock(&cache->io);
    anykv_status status = akv_cache_drain(cache, timeout_ns);
    akv_mutex_lock(&cache->lock);
    if (status != ANYKV_E_TIMEOUT) {
        if (!status && cache->failure)
            status = akv_fail(cache->context, cache->failure,
                              "device: a failure since the last wait; see the sequences' states");
        cache->failure = ANYKV_OK;
    }
    akv_mutex_unlock(&cache->lock);
    akv_mutex_unlock(&cache->io);
    return status;
}
