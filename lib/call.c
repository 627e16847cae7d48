/* SPDX-License-Identifier: Apache-2.0 */
/* What the last call on this thread did, as differences of the cache's counters. */
#include "cache.h"

static _Thread_local anykv_call_info last;

void akv_call_begin(const anykv_cache *cache, struct akv_call *call, const char *name)
{
    call->name = name;
    call->start_ns = akv_now_ns();
    call->before = cache->count;
}

void akv_call_end(const anykv_cache *cache, const struct akv_call *call, anykv_status status)
{
    const anykv_stats *now = &cache->count, *before = &call->before;
    memset(&last, 0, sizeof last);
    last.size = sizeof last;
    last.call = call->name;
    last.status = status;
    last.duration_ns = akv_now_ns() - call->start_ns;
    last.blocks_reused = now->blocks_reused - before->blocks_reused;
    last.blocks_new = now->blocks_new - before->blocks_new;
    last.bytes_new = now->bytes_new - before->bytes_new;
    last.blocks_named = now->blocks_named - before->blocks_named;
    last.blocks_sealed = now->blocks_sealed - before->blocks_sealed;
    last.blocks_evicted = now->blocks_evicted - before->blocks_evicted;
    last.bytes_evicted = now->evicted_bytes - before->evicted_bytes;
    last.blocks_lowered = now->blocks_lowered - before->blocks_lowered;
    last.bytes_lowered = now->lowered_bytes - before->lowered_bytes;
    last.blocks_moved = now->blocks_moved - before->blocks_moved;
    for (uint32_t m = 0; m < ANYKV_COMPRESS_METHODS; m++)
        last.blocks_read_back += now->compressed[m].blocks_read_back - before->compressed[m].blocks_read_back;
}

void akv_call_matched(uint64_t asked, uint64_t matched)
{
    last.tokens_asked = asked;
    last.tokens_matched = matched;
}

void akv_call_looked(const char *name, uint64_t start_ns, uint64_t asked, uint64_t matched)
{
    memset(&last, 0, sizeof last);
    last.size = sizeof last;
    last.call = name;
    last.status = ANYKV_OK;
    last.duration_ns = akv_now_ns() - start_ns;
    akv_call_matched(asked, matched);
}

anykv_status anykv_call_info_last(anykv_call_info *info_out)
{
    if (!info_out)
        return akv_fail(NULL, ANYKV_E_ARG, "info_out: NULL");
    const size_t size = info_out->size;
    if (size < sizeof size || size > sizeof *info_out)
        return akv_fail(NULL, ANYKV_E_ARG,
                        "info_out.size: %zu is not between %zu and %zu (set it first)", size,
                        sizeof size, sizeof *info_out);
    anykv_call_info info = last;
    info.size = size;
    memcpy(info_out, &info, size);
    return ANYKV_OK;
}
