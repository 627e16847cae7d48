/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of the CUDA backend: ordered transfers and waiting. */
#include "cuda.h"
#include <time.h>

anykv_status akv_cuda_queue_create(struct akv_device *base, void *native, struct akv_queue **queue_out)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base;
    struct akv_cuda_queue *queue = akv_alloc(base->context, 1, sizeof *queue);
    if (!queue)
        return ANYKV_E_MEMORY;
    queue->base.device = base;
    CUresult code = AKV_CU_OK;
    uint32_t events = 0;
    anykv_status status = akv_mutex_init(base->context, &queue->lock);
    if (status)
        goto undo_alloc;
    status = akv_cuda_enter(device);
    if (status)
        goto undo_mutex;
    queue->stream = native;
    if (!native) {
        code = device->cu->stream_create(&queue->stream, AKV_CU_STREAM_NON_BLOCKING);
        if (code)
            goto undo_enter;
        queue->owned = true;
    }
    for (; events < AKV_CUDA_STAGES; events++) {
        code = device->cu->event_create(&queue->ring_event[events], AKV_CU_EVENT_DEFAULT);
        if (code)
            goto undo_events;
    }
    void *ring = NULL;
    code = device->cu->host_alloc(&ring, AKV_CUDA_STAGES * AKV_CUDA_STAGE_BYTES, AKV_CU_HOST_PORTABLE);
    if (code)
        goto undo_events;
    queue->ring = ring;
    code = device->cu->memory_alloc(&queue->counters, AKV_CUDA_COUNTERS * sizeof(uint32_t));
    if (code)
        goto undo_ring;
    code = device->cu->fill8(queue->counters, 0, AKV_CUDA_COUNTERS * sizeof(uint32_t), queue->stream);
    if (code)
        goto undo_counters;
    akv_cuda_leave(device);
    *queue_out = &queue->base;
    return ANYKV_OK;
undo_counters:
    device->cu->memory_free(queue->counters);
undo_ring:
    device->cu->host_free(queue->ring);
undo_events:
    while (events > 0)
        device->cu->event_destroy(queue->ring_event[--events]);
    if (queue->owned)
        device->cu->stream_destroy(queue->stream);
undo_enter:
    akv_cuda_leave(device);
    status = akv_cuda_fail(device, code, "stream");
undo_mutex:
    akv_mutex_destroy(&queue->lock);
undo_alloc:
    akv_free(base->context, queue);
    return status;
}

void akv_cuda_queue_destroy(struct akv_queue *base)
{
    struct akv_cuda_queue *queue = (struct akv_cuda_queue *)base;
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    if (akv_cuda_enter(device) == ANYKV_OK) {
        device->cu->stream_wait(queue->stream);
        for (uint32_t i = 0; i < AKV_CUDA_STAGES; i++)
            device->cu->event_destroy(queue->ring_event[i]);
        device->cu->host_free(queue->ring);
        device->cu->memory_free(queue->counters);
        if (queue->owned)
            device->cu->stream_destroy(queue->stream);
        akv_cuda_leave(device);
    }
    akv_mutex_destroy(&queue->lock);
    akv_free(device->base.context, queue);
}

/* The source goes through the pinned ring piece by piece, so it has been read when the call returns and
 * the transfer itself is asynchronous.  Caller holds the queue's lock and the context. */
static CUresult put_staged(struct akv_cuda_queue *queue, CUdeviceptr dst, const uint8_t *src, uint64_t bytes)
{
    const struct akv_cu *cu = ((struct akv_cuda_device *)queue->base.device)->cu;
    while (bytes > 0) {
        uint32_t slot = queue->ring_next;
        size_t piece = bytes < AKV_CUDA_STAGE_BYTES ? (size_t)bytes : AKV_CUDA_STAGE_BYTES;
        uint8_t *stage = queue->ring + (size_t)slot * AKV_CUDA_STAGE_BYTES;
        CUresult code = queue->ring_used[slot] ? cu->event_wait(queue->ring_event[slot]) : AKV_CU_OK;
        if (code)
            return code;
        memcpy(stage, src, piece);
        code = cu->host_to_device(dst, stage, piece, queue->stream);
        if (!code)
            code = cu->event_record(queue->ring_event[slot], queue->stream);
        if (code)
            return code;
        queue->ring_used[slot] = true;
        queue->ring_next = (slot + 1u) % AKV_CUDA_STAGES;
        dst += piece;
        src += piece;
        bytes -= piece;
    }
    return AKV_CU_OK;
}

anykv_status akv_cuda_put(struct akv_queue *base, struct akv_span dst, const void *src)
{
    struct akv_cuda_queue *queue = (struct akv_cuda_queue *)base;
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    akv_mutex_lock(&queue->lock);
    CUresult code = put_staged(queue, akv_cuda_address(dst), src, dst.bytes);
    akv_mutex_unlock(&queue->lock);
    akv_cuda_leave(device);
    return code ? akv_cuda_fail(device, code, "put") : ANYKV_OK;
}

anykv_status akv_cuda_get(struct akv_queue *base, void *dst, struct akv_span src)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code = device->cu->device_to_host(dst, akv_cuda_address(src), src.bytes,
                                               ((struct akv_cuda_queue *)base)->stream);
    akv_cuda_leave(device);
    return code ? akv_cuda_fail(device, code, "get") : ANYKV_OK;
}

anykv_status akv_cuda_copy(struct akv_queue *base, struct akv_span dst, struct akv_span src)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code = device->cu->copy_any(akv_cuda_address(dst), akv_cuda_address(src), src.bytes,
                                         ((struct akv_cuda_queue *)base)->stream);
    akv_cuda_leave(device);
    return code ? akv_cuda_fail(device, code, "copy") : ANYKV_OK;
}

anykv_status akv_cuda_fill(struct akv_queue *base, struct akv_span dst, uint8_t value)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code =
        device->cu->fill8(akv_cuda_address(dst), value, dst.bytes, ((struct akv_cuda_queue *)base)->stream);
    akv_cuda_leave(device);
    return code ? akv_cuda_fail(device, code, "fill") : ANYKV_OK;
}

anykv_status akv_cuda_flush(struct akv_queue *queue)
{
    (void)queue; /* a stream starts its work by itself */
    return ANYKV_OK;
}

anykv_status akv_cuda_wait(struct akv_queue *base, uint64_t timeout_ns)
{
    struct akv_cuda_queue *queue = (struct akv_cuda_queue *)base;
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    const struct timespec pause = {0, 20000};
    uint64_t start = akv_now_ns();
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code;
    for (;;) {
        code = timeout_ns == UINT64_MAX ? device->cu->stream_wait(queue->stream)
                                        : device->cu->stream_query(queue->stream);
        if (code != AKV_CU_NOT_READY || akv_now_ns() - start >= timeout_ns)
            break;
        nanosleep(&pause, NULL);
    }
    akv_cuda_leave(device);
    if (code == AKV_CU_NOT_READY)
        return akv_fail(base->device->context, ANYKV_E_TIMEOUT, "wait: queue not empty after %llu ns",
                        (unsigned long long)timeout_ns);
    return code ? akv_cuda_fail(device, code, "earlier asynchronous work") : ANYKV_OK;
}
