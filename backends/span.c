/* SPDX-License-Identifier: Apache-2.0 */
/* Spans: are they inside their memory, do two of them share a byte. */
#include "backend.h"

anykv_status akv_check_span(struct akv_device *device, const char *what,
                            const struct akv_span *span)
{
    const struct akv_mem *mem = span->mem;
    if (!mem)
        return akv_fail(device->context, ANYKV_E_ARG, "%s: no memory", what);
    if (mem->device != device)
        return akv_fail(device->context, ANYKV_E_ARG, "%s: memory of another device", what);
    if (mem == device->host_window && span->offset == 0 && span->bytes)
        return akv_fail(device->context, ANYKV_E_ARG, "%s: NULL", what);
    if (span->offset > mem->bytes || span->bytes > mem->bytes - span->offset)
        return akv_fail(device->context, ANYKV_E_SHAPE,
                        "%s: %llu bytes at offset %llu, there are %llu", what,
                        (unsigned long long)span->bytes, (unsigned long long)span->offset,
                        (unsigned long long)mem->bytes);
    return ANYKV_OK;
}

/* Host address of a span's start, 0 when the device's memory has none. */
static uint64_t address(struct akv_device *device, const struct akv_span *span)
{
    if (span->mem == device->host_window)
        return span->offset;
    uintptr_t base = (uintptr_t)device->backend->mem_map(span->mem);
    return base ? base + span->offset : 0;
}

bool akv_spans_meet(struct akv_device *device, const struct akv_span *a, const struct akv_span *b)
{
    if (!a->mem || !b->mem || !a->bytes || !b->bytes)
        return false;
    uint64_t x = a->offset, y = b->offset;
    if (a->mem != b->mem) {
        if (!(device->info.caps & AKV_CAP_HOST_MEMORY))
            return false;
        x = address(device, a);
        y = address(device, b);
    }
    return x < y ? y - x < a->bytes : x - y < b->bytes;
}
