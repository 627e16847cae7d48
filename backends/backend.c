/* SPDX-License-Identifier: Apache-2.0 */
/* The checked wrappers: every call into a backend passes here once, and so does fault injection. */
#include "backend.h"
#include "check.h"

const struct akv_kernel_info akv_kernels[AKV_KERNEL_COUNT] = {
#define AKV_KERNEL(ID, family, name, class_, arguments)                                            \
    {#name, #family, AKV_CLASS_##class_, arguments, sizeof(akv_##name##_params)},
#include "../lib/kernel/kernels.def"
#undef AKV_KERNEL
};

/* Kernel parameters are one layout in three languages: no hidden padding at the end. */
#define AKV_KERNEL(ID, family, name, class_, arguments)                                            \
    _Static_assert(sizeof(akv_##name##_params) % 8 == 0, #name " parameters fill whole words");    \
    _Static_assert((arguments) <= AKV_MAX_ARGS, #name " has too many arguments");
#include "../lib/kernel/kernels.def"
#undef AKV_KERNEL

static anykv_status null_argument(const char *what)
{
    return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", what);
}

/* Before a call of the backend: is the device there, is a fault due? */
static anykv_status enter(struct akv_device *device, const char *call)
{
    if (AKV_UNLIKELY(akv_device_is_lost(device)))
        return akv_device_lost(device, call);
    anykv_status status = akv_fault_hit(device->context, call);
    if (AKV_UNLIKELY(status == ANYKV_E_DEAD))
        akv_device_lose(device, "injected fault");
    return status;
}

/* After a wait that the backend succeeded in: is a late fault due? */
static anykv_status after_wait(struct akv_device *device)
{
    anykv_status status = akv_fault_take(device->context);
    if (AKV_UNLIKELY(status == ANYKV_E_DEAD))
        akv_device_lose(device, "injected late fault");
    return status;
}

/* ---- device ---- */

void akv_device_close(struct akv_device *device)
{
    if (device)
        device->backend->close(device);
}

anykv_status akv_device_memory(struct akv_device *device, uint64_t *total_out, uint64_t *free_out)
{
    if (!device || !total_out || !free_out)
        return null_argument(!device ? "device" : !total_out ? "total_out" : "free_out");
    RETURN_IF(enter(device, "memory_info"));
    return device->backend->memory_info(device, total_out, free_out);
}

/* ---- memory ---- */

anykv_status akv_mem_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                           struct akv_mem **mem_out)
{
    if (!device || !mem_out)
        return null_argument(device ? "mem_out" : "device");
    if (kind != AKV_MEM_DEVICE && kind != AKV_MEM_PINNED)
        return akv_fail(device->context, ANYKV_E_ARG, "mem_alloc.kind: %d is unknown", (int)kind);
    if (bytes == 0)
        return akv_fail(device->context, ANYKV_E_ARG, "mem_alloc.bytes: 0");
    if (bytes > device->info.max_alloc)
        return akv_fail(device->context, ANYKV_E_BUDGET,
                        "mem_alloc.bytes: %llu, the device allocates at most %llu at once",
                        (unsigned long long)bytes, (unsigned long long)device->info.max_alloc);
    RETURN_IF(enter(device, "mem_alloc"));
    return device->backend->mem_alloc(device, bytes, kind, mem_out);
}

anykv_status akv_mem_adopt(struct akv_device *device, void *native, uint64_t bytes,
                           struct akv_mem **mem_out)
{
    if (!device || !mem_out || !native)
        return null_argument(!device ? "device" : !native ? "native" : "mem_out");
    if (bytes == 0)
        return akv_fail(device->context, ANYKV_E_ARG, "mem_adopt.bytes: 0");
    if ((device->info.caps & AKV_CAP_HOST_MEMORY) && bytes > UINTPTR_MAX - (uintptr_t)native)
        return akv_fail(device->context, ANYKV_E_SHAPE,
                        "mem_adopt.bytes: %llu end beyond the address space",
                        (unsigned long long)bytes);
    RETURN_IF(enter(device, "mem_adopt"));
    return device->backend->mem_adopt(device, native, bytes, mem_out);
}

void akv_mem_free(struct akv_mem *mem)
{
    if (mem && mem != mem->device->host_window)
        mem->device->backend->mem_free(mem);
}

void *akv_mem_map(struct akv_mem *mem)
{
    return mem && mem != mem->device->host_window ? mem->device->backend->mem_map(mem) : NULL;
}

/* ---- queue ---- */

anykv_status akv_queue_create(struct akv_device *device, void *native, struct akv_queue **queue_out)
{
    if (!device || !queue_out)
        return null_argument(device ? "queue_out" : "device");
    RETURN_IF(enter(device, "queue_create"));
    return device->backend->queue_create(device, native, queue_out);
}

void akv_queue_destroy(struct akv_queue *queue)
{
    if (queue)
        queue->device->backend->queue_destroy(queue);
}

/* Does host memory meet a span?  Only devices whose memory is host memory can tell. */
static bool host_meets(struct akv_device *device, const void *host, const struct akv_span *span)
{
    if (!(device->info.caps & AKV_CAP_HOST_MEMORY))
        return false;
    struct akv_span other = akv_host_span(device, host, span->bytes);
    return akv_spans_meet(device, &other, span);
}

anykv_status akv_queue_put(struct akv_queue *queue, struct akv_span dst, const void *src)
{
    if (!queue || (!src && dst.bytes))
        return null_argument(queue ? "put.src" : "queue");
    RETURN_IF(akv_check_span(queue->device, "put.dst", &dst));
    if (dst.bytes == 0)
        return ANYKV_OK;
    if (host_meets(queue->device, src, &dst))
        return akv_fail(queue->device->context, ANYKV_E_ARG, "put: src and dst overlap");
    RETURN_IF(enter(queue->device, "put"));
    return queue->device->backend->put(queue, dst, src);
}

anykv_status akv_queue_get(struct akv_queue *queue, void *dst, struct akv_span src)
{
    if (!queue || (!dst && src.bytes))
        return null_argument(queue ? "get.dst" : "queue");
    RETURN_IF(akv_check_span(queue->device, "get.src", &src));
    if (src.bytes == 0)
        return ANYKV_OK;
    if (host_meets(queue->device, dst, &src))
        return akv_fail(queue->device->context, ANYKV_E_ARG, "get: src and dst overlap");
    RETURN_IF(enter(queue->device, "get"));
    return queue->device->backend->get(queue, dst, src);
}

anykv_status akv_queue_copy(struct akv_queue *queue, struct akv_span dst, struct akv_span src)
{
    if (!queue)
        return null_argument("queue");
    struct akv_device *device = queue->device;
    RETURN_IF(akv_check_span(device, "copy.dst", &dst));
    RETURN_IF(akv_check_span(device, "copy.src", &src));
    if (dst.bytes != src.bytes)
        return akv_fail(device->context, ANYKV_E_SHAPE, "copy: src has %llu bytes, dst %llu",
                        (unsigned long long)src.bytes, (unsigned long long)dst.bytes);
    if (dst.bytes == 0)
        return ANYKV_OK;
    if (akv_spans_meet(device, &dst, &src))
        return akv_fail(device->context, ANYKV_E_ARG, "copy: src and dst overlap");
    RETURN_IF(enter(device, "copy"));
    return device->backend->copy(queue, dst, src);
}

anykv_status akv_queue_fill(struct akv_queue *queue, struct akv_span dst, uint8_t value)
{
    if (!queue)
        return null_argument("queue");
    RETURN_IF(akv_check_span(queue->device, "fill.dst", &dst));
    if (dst.bytes == 0)
        return ANYKV_OK;
    RETURN_IF(enter(queue->device, "fill"));
    return queue->device->backend->fill(queue, dst, value);
}

anykv_status akv_queue_flush(struct akv_queue *queue)
{
    if (!queue)
        return null_argument("queue");
    RETURN_IF(enter(queue->device, "flush"));
    return queue->device->backend->flush(queue);
}

anykv_status akv_queue_wait(struct akv_queue *queue, uint64_t timeout_ns)
{
    if (!queue)
        return null_argument("queue");
    RETURN_IF(enter(queue->device, "wait"));
    RETURN_IF(queue->device->backend->wait(queue, timeout_ns));
    return after_wait(queue->device);
}

/* ---- events ---- */

anykv_status akv_event_create(struct akv_device *device, struct akv_event **event_out)
{
    if (!device || !event_out)
        return null_argument(device ? "event_out" : "device");
    RETURN_IF(enter(device, "event_create"));
    return device->backend->event_create(device, event_out);
}

void akv_event_destroy(struct akv_event *event)
{
    if (event)
        event->device->backend->event_destroy(event);
}

static anykv_status check_pair(const struct akv_event *event, const struct akv_queue *queue)
{
    if (!event || !queue)
        return null_argument(event ? "queue" : "event");
    if (event->device != queue->device)
        return akv_fail(event->device->context, ANYKV_E_ARG,
                        "event: belongs to another device than the queue");
    return ANYKV_OK;
}

anykv_status akv_event_record(struct akv_event *event, struct akv_queue *queue)
{
    RETURN_IF(check_pair(event, queue));
    RETURN_IF(enter(event->device, "event_record"));
    return event->device->backend->event_record(event, queue);
}

anykv_status akv_event_await(struct akv_event *event, struct akv_queue *queue)
{
    RETURN_IF(check_pair(event, queue));
    RETURN_IF(enter(event->device, "event_await"));
    return event->device->backend->event_await(event, queue);
}

anykv_status akv_event_query(struct akv_event *event, bool *done_out)
{
    if (!event || !done_out)
        return null_argument(event ? "done_out" : "event");
    RETURN_IF(enter(event->device, "event_query"));
    return event->device->backend->event_query(event, done_out);
}

anykv_status akv_event_wait(struct akv_event *event, uint64_t timeout_ns)
{
    if (!event)
        return null_argument("event");
    RETURN_IF(enter(event->device, "event_wait"));
    RETURN_IF(event->device->backend->event_wait(event, timeout_ns));
    return after_wait(event->device);
}

int akv_event_fd(struct akv_event *event)
{
    return event ? event->device->backend->event_fd(event) : -1;
}

anykv_status akv_event_elapsed(struct akv_event *from, struct akv_event *to, uint64_t *ns_out)
{
    if (!from || !to || !ns_out)
        return null_argument(!from ? "from" : !to ? "to" : "ns_out");
    if (from->device != to->device)
        return akv_fail(from->device->context, ANYKV_E_ARG, "elapsed: events of two devices");
    RETURN_IF(enter(from->device, "elapsed"));
    return from->device->backend->elapsed(from, to, ns_out);
}

/* ---- kernels ---- */

void akv_kernel_check(struct akv_device *device, enum akv_kernel_id kernel, const void *params,
                      struct akv_check *check_out)
{
    bool empty;
    *check_out = (struct akv_check){false, AKV_CLASS_EXACT, 0, NULL};
    if ((unsigned)kernel >= AKV_KERNEL_COUNT) {
        check_out->reason = "no such kernel";
        return;
    }
    check_out->class_ = akv_kernels[kernel].class_;
    if (akv_check_params(device, kernel, params, &empty) != ANYKV_OK) {
        check_out->reason = "parameters out of range";
        return;
    }
    device->backend->check(device, kernel, params, check_out);
}

anykv_status akv_kernel_prepare(struct akv_device *device, enum akv_kernel_id kernel,
                                const void *params)
{
    if (!device || !params)
        return null_argument(device ? "params" : "device");
    bool empty;
    RETURN_IF(akv_check_params(device, kernel, params, &empty));
    RETURN_IF(enter(device, "prepare"));
    return device->backend->prepare(device, kernel, params);
}

anykv_status akv_kernel_launch(struct akv_queue *queue, const struct akv_launch *launch)
{
    if (!queue || !launch)
        return null_argument(queue ? "launch" : "queue");
    bool empty = false;
    RETURN_IF(akv_check_launch(queue->device, launch, &empty));
    if (empty)
        return ANYKV_OK;
    RETURN_IF(enter(queue->device, "launch"));
    return queue->device->backend->launch(queue, launch);
}
