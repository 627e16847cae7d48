/* SPDX-License-Identifier: Apache-2.0 */
/* Events of the CPU device: points in its queues that can be waited for and polled. */
#include "device.h"
#if defined(__linux__)
#include <sys/eventfd.h>
#endif

static struct akv_cpu_device *device_of(const struct akv_cpu_event *event)
{
    return akv_cpu_device_of(event->base.device);
}

/* Makes the descriptor readable, or not. */
static void set_readable(int fd, bool readable)
{
    uint64_t value = 1;
    ssize_t moved = readable ? write(fd, &value, sizeof value) : read(fd, &value, sizeof value);
    (void)moved; /* an eventfd without blocking: full and empty are both what is wanted */
}

anykv_status akv_cpu_event_create(struct akv_device *device, struct akv_event **event_out)
{
    struct akv_cpu_event *event = akv_alloc(device->context, 1, sizeof *event);
    if (!event)
        return ANYKV_E_MEMORY;
    event->base.device = device;
    event->fd = -1;
    *event_out = &event->base;
    return ANYKV_OK;
}

void akv_cpu_event_destroy(struct akv_event *base)
{
    struct akv_cpu_event *event = (struct akv_cpu_event *)base;
    struct akv_cpu_device *device = device_of(event);
    if (!akv_cpu_forked(device)) {
        akv_mutex_lock(&device->event_lock);
        while (event->users)
            akv_cond_wait(&device->event_cond, &device->event_lock);
        akv_mutex_unlock(&device->event_lock);
    }
    if (event->fd >= 0)
        close(event->fd);
    akv_free(base->device->context, event);
}

anykv_status akv_cpu_event_record(struct akv_event *base, struct akv_queue *queue)
{
    struct akv_cpu_event *event = (struct akv_cpu_event *)base;
    struct akv_cpu_device *device = device_of(event);
    akv_mutex_lock(&device->event_lock);
    event->recorded++;
    event->users++;
    if (event->fd >= 0)
        set_readable(event->fd, false);
    akv_mutex_unlock(&device->event_lock);
    akv_cpu_queue_record(queue, event);
    return ANYKV_OK;
}

anykv_status akv_cpu_event_await(struct akv_event *base, struct akv_queue *queue)
{
    struct akv_cpu_event *event = (struct akv_cpu_event *)base;
    struct akv_cpu_device *device = device_of(event);
    akv_mutex_lock(&device->event_lock);
    uint64_t target = event->recorded;
    bool passed = event->finished >= target;
    if (!passed)
        event->users++;
    akv_mutex_unlock(&device->event_lock);
    if (!passed)
        akv_cpu_queue_await(queue, event, target);
    return ANYKV_OK;
}

void akv_cpu_event_finish(struct akv_cpu_event *event)
{
    struct akv_cpu_device *device = device_of(event);
    akv_mutex_lock(&device->event_lock);
    event->finished++;
    event->finished_ns = akv_now_ns();
    event->users--;
    if (event->fd >= 0 && event->finished == event->recorded)
        set_readable(event->fd, true);
    akv_cond_broadcast(&device->event_cond);
    akv_mutex_unlock(&device->event_lock);
}

void akv_cpu_event_reach(struct akv_cpu_event *event, uint64_t target)
{
    struct akv_cpu_device *device = device_of(event);
    akv_mutex_lock(&device->event_lock);
    while (event->finished < target)
        akv_cond_wait(&device->event_cond, &device->event_lock);
    event->users--;
    akv_cond_broadcast(&device->event_cond);
    akv_mutex_unlock(&device->event_lock);
}

anykv_status akv_cpu_event_query(struct akv_event *base, bool *done_out)
{
    struct akv_cpu_event *event = (struct akv_cpu_event *)base;
    struct akv_cpu_device *device = device_of(event);
    akv_mutex_lock(&device->event_lock);
    *done_out = event->finished == event->recorded;
    akv_mutex_unlock(&device->event_lock);
    return ANYKV_OK;
}

anykv_status akv_cpu_event_wait(struct akv_event *base, uint64_t timeout_ns)
{
    struct akv_cpu_event *event = (struct akv_cpu_event *)base;
    struct akv_cpu_device *device = device_of(event);
    uint64_t deadline = akv_cpu_deadline(timeout_ns);
    bool in_time = true;
    akv_mutex_lock(&device->event_lock);
    uint64_t target = event->recorded;
    while (event->finished < target && in_time) {
        if (deadline == UINT64_MAX)
            akv_cond_wait(&device->event_cond, &device->event_lock);
        else
            in_time = akv_cond_wait_until(&device->event_cond, &device->event_lock, deadline);
    }
    bool done = event->finished >= target;
    akv_mutex_unlock(&device->event_lock);
    if (!done)
        return akv_fail(device->base.context, ANYKV_E_TIMEOUT, "event: not passed after %llu ns",
                        (unsigned long long)timeout_ns);
    return ANYKV_OK;
}

int akv_cpu_event_fd(struct akv_event *base)
{
#if defined(__linux__)
    struct akv_cpu_event *event = (struct akv_cpu_event *)base;
    struct akv_cpu_device *device = device_of(event);
    akv_mutex_lock(&device->event_lock);
    if (event->fd < 0) {
        event->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (event->fd >= 0 && event->finished == event->recorded)
            set_readable(event->fd, true);
    }
    int fd = event->fd;
    akv_mutex_unlock(&device->event_lock);
    return fd;
#else
    (void)base;
    return -1;
#endif
}

anykv_status akv_cpu_event_elapsed(struct akv_event *from_base, struct akv_event *to_base,
                                   uint64_t *ns_out)
{
    struct akv_cpu_event *from = (struct akv_cpu_event *)from_base;
    struct akv_cpu_event *to = (struct akv_cpu_event *)to_base;
    struct akv_cpu_device *device = device_of(from);
    akv_mutex_lock(&device->event_lock);
    bool ready = from->finished && from->finished == from->recorded && to->finished &&
                 to->finished == to->recorded;
    uint64_t start = from->finished_ns, end = to->finished_ns;
    akv_mutex_unlock(&device->event_lock);
    if (!ready)
        return akv_fail(device->base.context, ANYKV_E_STATE, "elapsed: an event has not passed");
    *ns_out = end > start ? end - start : 0;
    return ANYKV_OK;
}
