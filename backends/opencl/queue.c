/* SPDX-License-Identifier: Apache-2.0 */
/* In-order queues: transfers through pinned staging memory, waiting with a time-out. */
#include "cl.h"
#include <stdio.h>

#define STAGE_BYTES ((uint64_t)1 << 20) /* of one of the AKV_CL_STAGES pieces */
#define STAGE_ALIGN 64u

static anykv_status check_native(struct akv_cl_device *device, cl_command_queue native,
                                 bool *profiled)
{
    const struct akv_cl *cl = device->cl;
    anykv_context *context = device->base.context;
    cl_context owner = NULL;
    cl_device_id target = NULL;
    cl_command_queue_properties properties = 0;
    cl_int code = cl->queue_info(native, CL_QUEUE_CONTEXT, sizeof owner, &owner, NULL);
    if (code == CL_SUCCESS)
        code = cl->queue_info(native, CL_QUEUE_DEVICE, sizeof target, &target, NULL);
    if (code == CL_SUCCESS)
        code = cl->queue_info(native, CL_QUEUE_PROPERTIES, sizeof properties, &properties, NULL);
    if (code != CL_SUCCESS)
        return akv_fail(context, ANYKV_E_ARG, "cl_queue: not a cl_command_queue: %s (%d)",
                        akv_cl_error_name(code), code);
    if (owner != device->context)
        return akv_fail(context, ANYKV_E_ARG, "cl_queue: belongs to another cl_context");
    if (target != device->place.device)
        return akv_fail(context, ANYKV_E_ARG, "cl_queue: belongs to another device");
    if (properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE)
        return akv_fail(context, ANYKV_E_ARG, "cl_queue: is out of order, must be in order");
    *profiled = (properties & CL_QUEUE_PROFILING_ENABLE) != 0;
    return ANYKV_OK;
}

anykv_status akv_cl_queue_create(struct akv_device *base, void *native,
                                 struct akv_queue **queue_out)
{
    struct akv_cl_device *device = akv_cl_device(base);
    const struct akv_cl *cl = device->cl;
    struct akv_cl_queue *queue = akv_alloc(base->context, 1, sizeof *queue);
    if (!queue)
        return ANYKV_E_MEMORY;
    cl_int code;
    queue->base.device = base;
    anykv_status status = akv_mutex_init(base->context, &queue->lock);
    if (status != ANYKV_OK)
        goto free_queue;
    if (native) {
        status = check_native(device, native, &queue->profiled);
        if (status != ANYKV_OK)
            goto destroy_lock;
        queue->queue = native;
        code = cl->retain_queue(native);
    } else {
        queue->profiled = true;
        queue->queue = cl->create_queue(device->context, device->place.device,
                                        CL_QUEUE_PROFILING_ENABLE, &code);
    }
    if (code != CL_SUCCESS) {
        status = akv_cl_device_fail(device, AKV_CL_CALL, native ? "cl_queue" : "clCreateCommandQueue", code);
        goto destroy_lock;
    }
    *queue_out = &queue->base;
    return ANYKV_OK;

destroy_lock:
    akv_mutex_destroy(&queue->lock);
free_queue:
    akv_free(base->context, queue);
    return status;
}

void akv_cl_queue_destroy(struct akv_queue *base)
{
    struct akv_cl_queue *queue = akv_cl_queue(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    const struct akv_cl *cl = device->cl;
    if (!akv_device_is_lost(&device->base))
        (void)cl->finish(queue->queue);
    for (uint32_t i = 0; i < AKV_CL_STAGES; i++)
        if (queue->stage_busy[i])
            (void)cl->release_event(queue->stage_busy[i]);
    if (queue->stage)
        akv_cl_mem_free(queue->stage);
    while (queue->kernels) {
        struct akv_cl_kernel *kernel = queue->kernels;
        queue->kernels = kernel->next;
        (void)cl->release_kernel(kernel->kernel);
        akv_free(device->base.context, kernel);
    }
    (void)cl->release_queue(queue->queue);
    akv_mutex_destroy(&queue->lock);
    akv_free(device->base.context, queue);
}

/* Makes room in the staging ring and says where and how much.  Caller holds the lock. */
static anykv_status stage_room(struct akv_cl_device *device, struct akv_cl_queue *queue,
                               uint8_t **place_out, uint64_t *room_out)
{
    if (!queue->stage) {
        anykv_status status = akv_cl_mem_alloc(&device->base, STAGE_BYTES * AKV_CL_STAGES,
                                               AKV_MEM_PINNED, &queue->stage);
        if (status != ANYKV_OK)
            return status;
    }
    uint64_t piece = queue->stage_at / STAGE_BYTES;
    if (queue->stage_at % STAGE_BYTES == 0 && queue->stage_busy[piece]) {
        cl_event busy = queue->stage_busy[piece];
        queue->stage_busy[piece] = NULL;
        anykv_status status = akv_cl_await(device, busy, "put: earlier transfer", UINT64_MAX);
        (void)device->cl->release_event(busy);
        if (status != ANYKV_OK)
            return status;
    }
    *place_out = akv_cl_mem(queue->stage)->map + queue->stage_at;
    *room_out = STAGE_BYTES - queue->stage_at % STAGE_BYTES;
    return ANYKV_OK;
}

anykv_status akv_cl_queue_put(struct akv_queue *base, struct akv_span dst, const void *src)
{
    struct akv_cl_queue *queue = akv_cl_queue(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    struct akv_cl_mem *mem = akv_cl_mem(dst.mem);
    const uint8_t *from = src;
    anykv_status status = ANYKV_OK;
    akv_mutex_lock(&queue->lock);
    for (uint64_t done = 0; done < dst.bytes && status == ANYKV_OK;) {
        uint8_t *place;
        uint64_t room;
        status = stage_room(device, queue, &place, &room);
        if (status != ANYKV_OK)
            break;
        uint64_t bytes = AKV_MIN(room, dst.bytes - done);
        uint64_t taken = (bytes + STAGE_ALIGN - 1u) & ~(uint64_t)(STAGE_ALIGN - 1u);
        uint64_t piece = queue->stage_at / STAGE_BYTES;
        memcpy(place, from + done, bytes);
        cl_int code = device->cl->enqueue_write(queue->queue, mem->buffer, CL_FALSE,
                                                dst.offset + done, bytes, place, 0, NULL,
                                                taken == room ? &queue->stage_busy[piece] : NULL);
        if (code != CL_SUCCESS)
            status = akv_cl_device_fail(device, AKV_CL_CALL, "put: clEnqueueWriteBuffer", code);
        else
            queue->stage_at = (queue->stage_at + taken) % (STAGE_BYTES * AKV_CL_STAGES);
        done += bytes;
    }
    akv_mutex_unlock(&queue->lock);
    return status;
}

anykv_status akv_cl_queue_get(struct akv_queue *base, void *dst, struct akv_span src)
{
    struct akv_cl_queue *queue = akv_cl_queue(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    akv_mutex_lock(&queue->lock);
    cl_int code = device->cl->enqueue_read(queue->queue, akv_cl_mem(src.mem)->buffer, CL_FALSE,
                                           src.offset, src.bytes, dst, 0, NULL, NULL);
    akv_mutex_unlock(&queue->lock);
    return code == CL_SUCCESS ? ANYKV_OK
                              : akv_cl_device_fail(device, AKV_CL_CALL, "get: clEnqueueReadBuffer", code);
}

/* Pinned memory is mapped, so it takes part as a host address; two pinned spans need the queue
 * empty. */
anykv_status akv_cl_queue_copy(struct akv_queue *base, struct akv_span dst, struct akv_span src)
{
    struct akv_cl_queue *queue = akv_cl_queue(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    const struct akv_cl *cl = device->cl;
    struct akv_cl_mem *to = akv_cl_mem(dst.mem), *from = akv_cl_mem(src.mem);
    cl_int code;
    akv_mutex_lock(&queue->lock);
    if (to->map && from->map) {
        code = cl->finish(queue->queue);
        if (code == CL_SUCCESS)
            memcpy(to->map + dst.offset, from->map + src.offset, src.bytes);
    } else if (to->map) {
        code = cl->enqueue_read(queue->queue, from->buffer, CL_FALSE, src.offset, src.bytes,
                                to->map + dst.offset, 0, NULL, NULL);
    } else if (from->map) {
        code = cl->enqueue_write(queue->queue, to->buffer, CL_FALSE, dst.offset, src.bytes,
                                 from->map + src.offset, 0, NULL, NULL);
    } else {
        code = cl->enqueue_copy(queue->queue, from->buffer, to->buffer, src.offset, dst.offset,
                                src.bytes, 0, NULL, NULL);
    }
    akv_mutex_unlock(&queue->lock);
    return code == CL_SUCCESS ? ANYKV_OK : akv_cl_device_fail(device, AKV_CL_CALL, "copy", code);
}

anykv_status akv_cl_queue_fill(struct akv_queue *base, struct akv_span dst, uint8_t value)
{
    struct akv_cl_queue *queue = akv_cl_queue(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    struct akv_cl_mem *mem = akv_cl_mem(dst.mem);
    uint8_t pattern[16];
    size_t width = (dst.offset | dst.bytes) % sizeof pattern ? 1 : sizeof pattern;
    cl_int code;
    memset(pattern, value, sizeof pattern);
    akv_mutex_lock(&queue->lock);
    if (mem->map) {
        code = device->cl->finish(queue->queue);
        if (code == CL_SUCCESS)
            memset(mem->map + dst.offset, value, dst.bytes);
    } else {
        code = device->cl->enqueue_fill(queue->queue, mem->buffer, pattern, width, dst.offset,
                                        dst.bytes, 0, NULL, NULL);
    }
    akv_mutex_unlock(&queue->lock);
    return code == CL_SUCCESS ? ANYKV_OK : akv_cl_device_fail(device, AKV_CL_CALL, "fill", code);
}

anykv_status akv_cl_queue_flush(struct akv_queue *base)
{
    struct akv_cl_device *device = akv_cl_device(base->device);
    cl_int code = device->cl->flush(akv_cl_queue(base)->queue);
    return code == CL_SUCCESS ? ANYKV_OK : akv_cl_device_fail(device, AKV_CL_CALL, "clFlush", code);
}

anykv_status akv_cl_queue_wait(struct akv_queue *base, uint64_t timeout_ns)
{
    struct akv_cl_queue *queue = akv_cl_queue(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    const struct akv_cl *cl = device->cl;
    cl_event marker = NULL;
    akv_mutex_lock(&queue->lock);
    cl_int code = cl->enqueue_marker(queue->queue, 0, NULL, &marker);
    if (code == CL_SUCCESS)
        code = cl->flush(queue->queue);
    akv_mutex_unlock(&queue->lock);
    if (code != CL_SUCCESS) {
        if (marker)
            (void)cl->release_event(marker);
        return akv_cl_device_fail(device, AKV_CL_WAIT, "wait: queue", code);
    }
    anykv_status status = akv_cl_await(device, marker, "wait: queue", timeout_ns);
    (void)cl->release_event(marker);
    return status;
}
