/* SPDX-License-Identifier: Apache-2.0 */
/* Events of the CUDA backend. */
#include "cuda.h"
#include <time.h>

anykv_status akv_cuda_event_create(struct akv_device *base, struct akv_event **event_out)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base;
    struct akv_cuda_event *event = akv_alloc(base->context, 1, sizeof *event);
    if (!event)
        return ANYKV_E_MEMORY;
    event->base.device = base;
    anykv_status status = akv_cuda_enter(device);
    if (status == ANYKV_OK) {
        CUresult code = device->cu->event_create(&event->event, AKV_CU_EVENT_DEFAULT);
        akv_cuda_leave(device);
        if (code)
            status = akv_cuda_fail(device, code, "event");
    }
    if (status) {
        akv_free(base->context, event);
        return status;
    }
    *event_out = &event->base;
    return ANYKV_OK;
}

void akv_cuda_event_destroy(struct akv_event *base)
{
    struct akv_cuda_event *event = (struct akv_cuda_event *)base;
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    if (akv_cuda_enter(device) == ANYKV_OK) {
        device->cu->event_destroy(event->event);
        akv_cuda_leave(device);
    }
    akv_free(base->device->context, event);
}

anykv_status akv_cuda_event_record(struct akv_event *base, struct akv_queue *queue)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code = device->cu->event_record(((struct akv_cuda_event *)base)->event,
                                             ((struct akv_cuda_queue *)queue)->stream);
    akv_cuda_leave(device);
    return code ? akv_cuda_fail(device, code, "event record") : ANYKV_OK;
}

anykv_status akv_cuda_event_await(struct akv_event *base, struct akv_queue *queue)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code = device->cu->stream_await(((struct akv_cuda_queue *)queue)->stream,
                                             ((struct akv_cuda_event *)base)->event, 0);
    akv_cuda_leave(device);
    return code ? akv_cuda_fail(device, code, "event await") : ANYKV_OK;
}

anykv_status akv_cuda_event_query(struct akv_event *base, bool *done_out)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code = device->cu->event_query(((struct akv_cuda_event *)base)->event);
    akv_cuda_leave(device);
    if (code && code != AKV_CU_NOT_READY)
        return akv_cuda_fail(device, code, "event query");
    *done_out = code == AKV_CU_OK;
    return ANYKV_OK;
}

anykv_status akv_cuda_event_wait(struct akv_event *base, uint64_t timeout_ns)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    if (timeout_ns == UINT64_MAX) {
        anykv_status status = akv_cuda_enter(device);
        if (status)
            return status;
        CUresult code = device->cu->event_wait(((struct akv_cuda_event *)base)->event);
        akv_cuda_leave(device);
        return code ? akv_cuda_fail(device, code, "event wait") : ANYKV_OK;
    }
    const struct timespec pause = {0, 20000};
    uint64_t start = akv_now_ns();
    for (;;) {
        bool done = false;
        anykv_status status = akv_cuda_event_query(base, &done);
        if (status || done)
            return status;
        if (akv_now_ns() - start >= timeout_ns)
            return akv_fail(base->device->context, ANYKV_E_TIMEOUT, "event: not passed in %llu ns",
                            (unsigned long long)timeout_ns);
        nanosleep(&pause, NULL);
    }
}

int akv_cuda_event_fd(struct akv_event *event)
{
    (void)event;
    return -1;
}

anykv_status akv_cuda_elapsed(struct akv_event *from, struct akv_event *to, uint64_t *ns_out)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)from->device;
    float ms = 0.0f;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code = device->cu->event_elapsed(&ms, ((struct akv_cuda_event *)from)->event,
                                              ((struct akv_cuda_event *)to)->event);
    akv_cuda_leave(device);
    if (code)
        return akv_cuda_fail(device, code, "event elapsed");
    *ns_out = (uint64_t)((double)ms * 1e6);
    return ANYKV_OK;
}
