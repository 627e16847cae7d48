/* SPDX-License-Identifier: Apache-2.0 */
/* Events: points in a queue, their waiting, their descriptors and the time between two. */
#include "cl.h"
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define POLL_FIRST_NS 2000u
#define POLL_LAST_NS  500000u
#define LOST_PATIENCE_NS 200000000u

struct akv_cl_event {
    struct akv_event base;
    akv_mutex lock;  /* guards everything below */
    akv_cond passed; /* pending became 0 */
    cl_event event;  /* NULL: never recorded, counts as passed */
    bool profiled;
    uint32_t pending; /* callbacks that have not run */
    int fd[2];        /* pipe: read end, write end; -1: none was asked for */
};
static struct akv_cl_event *cl_event_of(struct akv_event *event)
{
    return (struct akv_cl_event *)event;
}

/* 1: passed, 0: not yet, negative: an OpenCL error. */
static cl_int state(const struct akv_cl *cl, cl_event event)
{
    cl_int value = CL_QUEUED;
    cl_int code =
        cl->event_info(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof value, &value, NULL);
    if (code != CL_SUCCESS)
        return code;
    return value < 0 ? value : value == CL_COMPLETE;
}

static anykv_status await_for_ever(struct akv_cl_device *device, cl_event event, const char *what)
{
    cl_int code = device->cl->wait_events(1, &event);
    if (code == CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST) {
        cl_int cause = state(device->cl, event);
        code = cause < 0 ? cause : code;
    }
    return code == CL_SUCCESS ? ANYKV_OK : akv_cl_device_fail(device, AKV_CL_WAIT, what, code);
}

anykv_status akv_cl_await(struct akv_cl_device *device, cl_event event, const char *what,
                          uint64_t timeout_ns)
{
    uint64_t now = akv_now_ns();
    if (timeout_ns > UINT64_MAX - now)
        return await_for_ever(device, event, what);
    uint64_t deadline = now + timeout_ns;
    long pause = (long)POLL_FIRST_NS;
    for (;;) {
        cl_int passed = state(device->cl, event);
        if (passed < 0)
            return akv_cl_device_fail(device, AKV_CL_WAIT, what, passed);
        if (akv_device_is_lost(&device->base)) /* another call was told */
            return akv_device_lost(&device->base, what);
        if (passed)
            return ANYKV_OK;
        if (akv_now_ns() >= deadline)
            return akv_fail(device->base.context, ANYKV_E_TIMEOUT, "%s: not done after %llu ns",
                            what, (unsigned long long)timeout_ns);
        struct timespec span = {0, pause};
        (void)nanosleep(&span, NULL);
        pause = AKV_MIN(pause * 2, (long)POLL_LAST_NS);
    }
}

anykv_status akv_cl_event_create(struct akv_device *device, struct akv_event **event_out)
{
    struct akv_cl_event *event = akv_alloc(device->context, 1, sizeof *event);
    if (!event)
        return ANYKV_E_MEMORY;
    event->base.device = device;
    event->fd[0] = event->fd[1] = -1;
    anykv_status status = akv_mutex_init(device->context, &event->lock);
    if (status != ANYKV_OK)
        goto free_event;
    status = akv_cond_init(device->context, &event->passed);
    if (status != ANYKV_OK)
        goto destroy_lock;
    *event_out = &event->base;
    return ANYKV_OK;

destroy_lock:
    akv_mutex_destroy(&event->lock);
free_event:
    akv_free(device->context, event);
    return status;
}

void akv_cl_event_destroy(struct akv_event *base)
{
    struct akv_cl_event *event = cl_event_of(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    akv_mutex_lock(&event->lock);
    /* The driver still holds our address; its queue was flushed.  Of a lost device it may never call,
     * or call later: then what it would touch stays. */
    const uint64_t patience = akv_now_ns() + LOST_PATIENCE_NS;
    while (event->pending && !akv_device_is_lost(&device->base))
        (void)akv_cond_wait_until(&event->passed, &event->lock, akv_now_ns() + LOST_PATIENCE_NS);
    while (event->pending && akv_cond_wait_until(&event->passed, &event->lock, patience))
        continue;
    const bool owed = event->pending != 0;
    akv_mutex_unlock(&event->lock);
    if (owed) {
        akv_log(device->base.context, ANYKV_LOG_WARNING,
                "opencl: the driver owes a callback of a lost device; its event is not freed");
        return;
    }
    if (event->event)
        (void)device->cl->release_event(event->event);
    for (int i = 0; i < 2; i++)
        if (event->fd[i] >= 0)
            (void)close(event->fd[i]);
    akv_cond_destroy(&event->passed);
    akv_mutex_destroy(&event->lock);
    akv_free(device->base.context, event);
}

/* Runs on a thread of the driver. */
static void CL_CALLBACK tell_fd(cl_event cl_event_unused, cl_int status, void *user)
{
    struct akv_cl_event *event = user;
    (void)cl_event_unused;
    (void)status;
    akv_mutex_lock(&event->lock);
    if (write(event->fd[1], "", 1) != 1) { /* the pipe is full: it is readable already */
    }
    event->pending--;
    akv_cond_broadcast(&event->passed);
    akv_mutex_unlock(&event->lock);
}

/* Caller holds no lock: a driver may call back at once, on this very thread. */
static anykv_status arm(struct akv_cl_event *event)
{
    struct akv_cl_device *device = akv_cl_device(event->base.device);
    akv_mutex_lock(&event->lock);
    event->pending++;
    akv_mutex_unlock(&event->lock);
    cl_int code = device->cl->event_callback(event->event, CL_COMPLETE, tell_fd, event);
    if (code == CL_SUCCESS)
        return ANYKV_OK;
    akv_mutex_lock(&event->lock);
    event->pending--;
    akv_mutex_unlock(&event->lock);
    return akv_cl_device_fail(device, AKV_CL_CALL, "event: clSetEventCallback", code);
}

anykv_status akv_cl_event_record(struct akv_event *base, struct akv_queue *queue_base)
{
    struct akv_cl_event *event = cl_event_of(base);
    struct akv_cl_queue *queue = akv_cl_queue(queue_base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    const struct akv_cl *cl = device->cl;
    akv_mutex_lock(&event->lock);
    bool busy = event->pending != 0;
    akv_mutex_unlock(&event->lock);
    if (busy)
        return akv_fail(device->base.context, ANYKV_E_BUSY,
                        "event: its descriptor still waits for the earlier point");
    cl_event marker = NULL;
    akv_mutex_lock(&queue->lock);
    cl_int code = cl->enqueue_marker(queue->queue, 0, NULL, &marker);
    if (code == CL_SUCCESS)
        code = cl->flush(queue->queue); /* another queue may wait for it */
    akv_mutex_unlock(&queue->lock);
    if (code != CL_SUCCESS) {
        if (marker)
            (void)cl->release_event(marker);
        return akv_cl_device_fail(device, AKV_CL_CALL, "event: clEnqueueMarkerWithWaitList", code);
    }
    akv_mutex_lock(&event->lock);
    cl_event old = event->event;
    event->event = marker;
    event->profiled = queue->profiled;
    bool watched = event->fd[0] >= 0;
    char drained[16];
    if (watched)
        while (read(event->fd[0], drained, sizeof drained) > 0)
            continue;
    akv_mutex_unlock(&event->lock);
    if (old)
        (void)cl->release_event(old);
    return watched ? arm(event) : ANYKV_OK;
}

anykv_status akv_cl_event_await(struct akv_event *base, struct akv_queue *queue_base)
{
    struct akv_cl_event *event = cl_event_of(base);
    struct akv_cl_queue *queue = akv_cl_queue(queue_base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    if (!event->event)
        return ANYKV_OK;
    akv_mutex_lock(&queue->lock);
    cl_int code = device->cl->enqueue_barrier(queue->queue, 1, &event->event, NULL);
    akv_mutex_unlock(&queue->lock);
    return code == CL_SUCCESS
               ? ANYKV_OK
               : akv_cl_device_fail(device, AKV_CL_CALL, "event: clEnqueueBarrierWithWaitList", code);
}

anykv_status akv_cl_event_query(struct akv_event *base, bool *done_out)
{
    struct akv_cl_event *event = cl_event_of(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    cl_int passed = event->event ? state(device->cl, event->event) : 1;
    if (passed < 0)
        return akv_cl_device_fail(device, AKV_CL_WAIT, "event", passed);
    *done_out = passed != 0;
    return ANYKV_OK;
}

anykv_status akv_cl_event_wait(struct akv_event *base, uint64_t timeout_ns)
{
    struct akv_cl_event *event = cl_event_of(base);
    if (!event->event)
        return ANYKV_OK;
    return akv_cl_await(akv_cl_device(base->device), event->event, "event", timeout_ns);
}

int akv_cl_event_fd(struct akv_event *base)
{
    struct akv_cl_event *event = cl_event_of(base);
    int ends[2];
    if (event->fd[0] >= 0)
        return event->fd[0];
    if (pipe(ends) != 0)
        return -1;
    for (int i = 0; i < 2; i++)
        if (fcntl(ends[i], F_SETFD, FD_CLOEXEC) != 0 || fcntl(ends[i], F_SETFL, O_NONBLOCK) != 0)
            goto close_pipe;
    akv_mutex_lock(&event->lock);
    event->fd[0] = ends[0];
    event->fd[1] = ends[1];
    akv_mutex_unlock(&event->lock);
    if (!event->event) { /* never recorded: passed */
        (void)!write(ends[1], "", 1);
        return ends[0];
    }
    if (arm(event) == ANYKV_OK)
        return ends[0];
    event->fd[0] = event->fd[1] = -1;
close_pipe:
    (void)close(ends[0]);
    (void)close(ends[1]);
    return -1;
}

anykv_status akv_cl_event_elapsed(struct akv_event *from, struct akv_event *to, uint64_t *ns_out)
{
    struct akv_cl_device *device = akv_cl_device(from->device);
    cl_ulong at[2];
    for (int i = 0; i < 2; i++) {
        struct akv_cl_event *event = cl_event_of(i ? to : from);
        if (!event->event || !event->profiled)
            return akv_fail(device->base.context, ANYKV_E_UNSUPPORTED, "event: %s",
                            event->event ? "the caller's queue does not measure time"
                                         : "was never recorded");
        cl_int code = device->cl->event_profile(event->event, CL_PROFILING_COMMAND_END,
                                                sizeof at[i], &at[i], NULL);
        if (code == CL_PROFILING_INFO_NOT_AVAILABLE)
            return akv_fail(device->base.context, ANYKV_E_STATE, "event: has not passed");
        if (code != CL_SUCCESS)
            return akv_cl_device_fail(device, AKV_CL_CALL, "event: clGetEventProfilingInfo", code);
    }
    *ns_out = at[1] > at[0] ? at[1] - at[0] : 0;
    return ANYKV_OK;
}
