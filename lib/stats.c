/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics of a cache, and the reason of its last eviction, miss or refusal. */
#include "cache.h"
#include <stdio.h>

static void count_blocks(const anykv_cache *cache, anykv_stats *stats)
{
    const struct akv_pool *pool = &cache->pool;
    for (uint32_t c = 0; c < pool->classes; c++) {
        const struct akv_pool_class *class_ = &pool->class_[c];
        const uint64_t bytes = class_->used * class_->block_bytes;
        if (c % AKV_POOL_KINDS == AKV_KIND_COLD)
            continue;
        const uint32_t kind = c % AKV_POOL_KINDS, rung = kind - AKV_KIND_RUNG;
        *(kind == AKV_KIND_HOT      ? &stats->hot_blocks
          : kind == AKV_KIND_SEALED ? &stats->sealed_blocks
                                    : &stats->rung_blocks[rung]) += class_->used;
        *(kind == AKV_KIND_HOT      ? &stats->hot_bytes
          : kind == AKV_KIND_SEALED ? &stats->sealed_bytes
                                    : &stats->rung_bytes[rung]) += bytes;
        stats->cached_blocks += class_->idle;
    }
    stats->cached_blocks += pool->cold_idle;
    for (uint32_t method = 1; method < AKV_METHODS; method++) {
        anykv_method_stats *cold = &stats->compressed[method - 1];
        cold->blocks = pool->cold[method].blocks;
        cold->bytes = pool->cold[method].bytes;
        cold->plain_bytes = pool->cold[method].plain_bytes;
        stats->compressed_blocks += cold->blocks;
        stats->compressed_bytes += cold->bytes;
    }
}

anykv_status anykv_cache_stats(anykv_cache *cache, anykv_stats *stats_out)
{
    if (!cache || !stats_out)
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        cache ? "stats_out" : "cache");
    const size_t size = stats_out->size;
    if (size < sizeof size || size > sizeof *stats_out)
        return akv_fail(cache->context, ANYKV_E_ARG,
                        "stats_out.size: %zu is not between %zu and %zu (set it first)", size,
                        sizeof size, sizeof *stats_out);
    uint64_t total = 0, left = 0;
    if (size > offsetof(anykv_stats, device_bytes_total))
        (void)akv_device_memory(cache->device->device, &total, &left);
    akv_mutex_lock(&cache->lock);
    anykv_stats stats = cache->count;
    akv_lookups_count(cache, &stats);
    stats.device_bytes_total = total;
    stats.device_bytes_free = left;
    akv_mutex_lock(&cache->list_lock);
    stats.sequences = cache->sequences;
    akv_mutex_unlock(&cache->list_lock);
    stats.size = size;
    stats.budget_bytes = cache->budget_bytes;
    stats.fixed_bytes = cache->plan.fixed_bytes;
    stats.chunk_bytes = cache->plan.chunk_bytes;
    stats.used_bytes = stats.fixed_bytes + akv_pool_used_bytes(&cache->pool);
    stats.peak_bytes = stats.fixed_bytes + cache->pool.used_bytes_peak;
    count_blocks(cache, &stats);
    stats.fragmentation_bytes = akv_pool_used_bytes(&cache->pool) - stats.hot_bytes -
                                stats.sealed_bytes - stats.rung_bytes[0] - stats.rung_bytes[1] -
                                stats.rung_bytes[2] - stats.rung_bytes[3] - stats.compressed_bytes;
    for (uint32_t slab = 0; slab < cache->slabs; slab++)
        stats.pool_bytes += cache->slab_bytes[slab];
    stats.host_bytes = atomic_load_explicit(&cache->context->host_bytes, memory_order_relaxed);
    stats.saw = cache->saw;
    if (cache->layout->options.calibration)
        (void)anykv_calibration_digest(cache->layout->options.calibration, stats.calibration);
    akv_mutex_unlock(&cache->lock);
    memcpy(stats_out, &stats, size);
    return ANYKV_OK;
}

anykv_status anykv_cache_explain(anykv_cache *cache, char *text, size_t text_bytes)
{
    if (!cache || !text || !text_bytes)
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s",
                        !cache  ? "cache: NULL"
                        : !text ? "text: NULL"
                                : "text_bytes: 0");
    akv_mutex_lock(&cache->reason_lock);
    snprintf(text, text_bytes, "%s", cache->reason);
    akv_mutex_unlock(&cache->reason_lock);
    return ANYKV_OK;
}
