/* SPDX-License-Identifier: Apache-2.0 */
/* Rows between the caller and the device: host views in place where the device shares host memory,
 * through the staging area elsewhere. */
#include "cache.h"

#define STAGE_ALIGN 256u

static anykv_status take(struct akv_stage *stage, uint64_t bytes, uint64_t *at_out)
{
    const uint64_t at = (stage->used + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
    const uint64_t have = stage->cache->plan.staging_bytes;
    if (at > have || bytes > have - at)
        return akv_fail(stage->cache->context, ANYKV_E_INTERNAL,
                        "staging: %llu bytes at %llu, there are %llu", (unsigned long long)bytes,
                        (unsigned long long)at, (unsigned long long)have);
    stage->used = at + bytes;
    *at_out = at;
    return ANYKV_OK;
}

static uint8_t *pinned_at(const struct akv_stage *stage, uint64_t at)
{
    return (uint8_t *)akv_mem_map(stage->cache->pinned) + at;
}

anykv_status akv_stage_rows(struct akv_stage *stage, const char *what, const anykv_view *view,
                            uint32_t tokens, uint32_t heads, uint32_t dim, bool write,
                            struct akv_span *span_out, akv_rows *rows_out)
{
    anykv_cache *cache = stage->cache;
    anykv_status status =
        akv_view_check(cache->device, what, view, tokens, heads, dim, write, span_out);
    if (status)
        return status;
    *rows_out = akv_view_rows(view, heads);
    if (view->data)
        stage->host = true;
    if (span_out->mem)
        return ANYKV_OK;
    const uint64_t bytes = (uint64_t)tokens * heads * dim * akv_raw_bytes((akv_u32)view->dtype);
    uint64_t at = 0;
    status = take(stage, bytes, &at);
    if (status)
        return status;
    *span_out = akv_fixed_span(cache, cache->plan.staging_at + at, bytes);
    rows_out->token_stride = (uint64_t)heads * dim;
    rows_out->head_stride = dim;
    if (write) {
        stage->out[stage->outs++] =
            (struct akv_stage_out){view, NULL, bytes, tokens, heads, dim, at};
        return ANYKV_OK;
    }
    akv_view_pack(view, tokens, heads, dim, pinned_at(stage, at));
    return akv_queue_put(cache->device->queue, *span_out, pinned_at(stage, at));
}

anykv_status akv_stage_bytes(struct akv_stage *stage, const void *bytes, uint64_t count, bool write,
                             struct akv_span *span_out)
{
    anykv_cache *cache = stage->cache;
    stage->host = true;
    if (!cache->plan.staged) {
        *span_out = akv_host_span(cache->device->device, bytes, count);
        return ANYKV_OK;
    }
    uint64_t at;
    anykv_status status = take(stage, count, &at);
    if (status)
        return status;
    *span_out = akv_fixed_span(cache, cache->plan.staging_at + at, count);
    if (write) {
        stage->out[stage->outs++] =
            (struct akv_stage_out){NULL, (void *)(uintptr_t)bytes, count, 0, 0, 0, at};
        return ANYKV_OK;
    }
    return akv_queue_put(cache->device->queue, *span_out, bytes);
}

anykv_status akv_stage_finish(struct akv_stage *stage, anykv_status status)
{
    anykv_cache *cache = stage->cache;
    if (!stage->host)
        return status;
    for (uint32_t i = 0; i < stage->outs && !status; i++)
        status = akv_queue_get(
            cache->device->queue, pinned_at(stage, stage->out[i].at),
            akv_fixed_span(cache, cache->plan.staging_at + stage->out[i].at, stage->out[i].count));
    if (status) {
        char detail[256];
        strncpy(detail, anykv_error_detail(), sizeof detail - 1);
        detail[sizeof detail - 1] = '\0';
        (void)akv_cache_drain(cache, UINT64_MAX);
        return akv_fail(cache->context, status, "%s", detail);
    }
    status = akv_cache_drain(cache, UINT64_MAX);
    for (uint32_t i = 0; i < stage->outs && !status; i++) {
        const struct akv_stage_out *out = &stage->out[i];
        if (out->view)
            akv_view_unpack(out->view, out->tokens, out->heads, out->dim,
                            pinned_at(stage, out->at));
        else
            memcpy(out->bytes, pinned_at(stage, out->at), out->count);
    }
    return status;
}
