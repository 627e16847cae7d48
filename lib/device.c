/* SPDX-License-Identifier: Apache-2.0 */
/* Public devices, device memory and events. */
#include "objects.h"
#include <stdio.h>

struct anykv_event {
    anykv_device *device;
    struct akv_event *event;
};

/* ---- the list of devices ---- */

/* The list is made once and never changes; it lives as long as the context. */
static anykv_status list(anykv_context *context, const struct akv_device_info **devices_out,
                         uint32_t *count_out)
{
    anykv_status status = ANYKV_OK;
    akv_mutex_lock(&context->lock);
    if (!context->devices)
        status = akv_devices_list(context, &context->devices, &context->device_count);
    if (!status) {
        *devices_out = context->devices;
        *count_out = context->device_count;
    }
    akv_mutex_unlock(&context->lock);
    return status;
}

static void text(char *into, size_t bytes, const char *from)
{
    snprintf(into, bytes, "%s", from ? from : "");
}

/* Copies info into the caller's struct, which may be of an older, shorter kind. */
static anykv_status publish(anykv_context *context, const struct akv_device_info *info,
                            uint32_t index, anykv_device_info *info_out)
{
    size_t size = info_out->size;
    if (size < sizeof size || size > sizeof *info_out)
        return akv_fail(context, ANYKV_E_ARG,
                        "info_out.size: %zu is not between %zu and %zu (set it first)", size,
                        sizeof size, sizeof *info_out);
    anykv_device_info whole = ANYKV_DEVICE_INFO_INIT;
    whole.size = size;
    whole.index = index;
    text(whole.backend, sizeof whole.backend, info->backend);
    text(whole.name, sizeof whole.name, info->name);
    text(whole.vendor, sizeof whole.vendor, info->vendor);
    text(whole.driver, sizeof whole.driver, info->driver);
    text(whole.uuid, sizeof whole.uuid, info->uuid);
    text(whole.isa, sizeof whole.isa, info->isa);
    text(whole.reason, sizeof whole.reason, info->reason);
    whole.bytes_total = info->bytes_total;
    whole.bytes_free = info->bytes_free;
    whole.usable = info->usable;
    memcpy(info_out, &whole, size);
    return ANYKV_OK;
}

anykv_status anykv_device_count(anykv_context *context, uint32_t *count_out)
{
    if (!context || !count_out)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", context ? "count_out" : "context");
    const struct akv_device_info *devices;
    return list(context, &devices, count_out);
}

anykv_status anykv_device_query(anykv_context *context, uint32_t index, anykv_device_info *info_out)
{
    if (!context || !info_out)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", context ? "info_out" : "context");
    const struct akv_device_info *devices;
    uint32_t count;
    anykv_status status = list(context, &devices, &count);
    if (status)
        return status;
    if (index >= count)
        return akv_fail(context, ANYKV_E_NOT_FOUND, "device: index %u, there are %u", index, count);
    return publish(context, &devices[index], index, info_out);
}

/* ---- open, close, describe, wait ---- */

anykv_status anykv_device_open(anykv_context *context, const char *name,
                               const anykv_device_options *options, anykv_device **device_out)
{
    if (!context || !name || !device_out)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL",
                        !context ? "context"
                        : !name  ? "name"
                                 : "device_out");
    anykv_device_options checked = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_status status = akv_options(context, "device options", &checked, sizeof checked, options);
    if (status)
        return status;
    anykv_device *device = akv_alloc(context, 1, sizeof *device);
    if (!device)
        return ANYKV_E_MEMORY;
    device->context = context;
    status = akv_mutex_init(context, &device->lock);
    if (status)
        goto free_device;
    status = akv_device_open(context, name, &checked, &device->device);
    if (status)
        goto destroy_lock;
    status = akv_queue_create(device->device, akv_native_queue(device->device, &checked),
                              &device->queue);
    if (status)
        goto close_device;
    *device_out = device;
    return ANYKV_OK;
close_device:
    akv_device_close(device->device);
destroy_lock:
    akv_mutex_destroy(&device->lock);
free_device:
    akv_free(context, device);
    return status;
}

void anykv_device_close(anykv_device *device)
{
    if (!device)
        return;
    akv_queue_destroy(device->queue);
    akv_device_close(device->device);
    akv_mutex_destroy(&device->lock);
    akv_free(device->context, device);
}

anykv_status anykv_device_describe(anykv_device *device, anykv_device_info *info_out)
{
    if (!device || !info_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", device ? "info_out" : "device");
    struct akv_device_info info = device->device->info;
    anykv_status status = akv_device_memory(device->device, &info.bytes_total, &info.bytes_free);
    if (status)
        return status;
    const struct akv_device_info *devices;
    uint32_t count, index = 0;
    status = list(device->context, &devices, &count);
    if (status)
        return status;
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(devices[i].backend, info.backend) == 0 && devices[i].index == info.index)
            index = i;
    return publish(device->context, &info, index, info_out);
}

anykv_status akv_device_await(anykv_device *device, uint64_t timeout_ns,
                              struct akv_device_waits *waits_out)
{
    akv_mutex_lock(&device->lock);
    device->waiting++;
    akv_mutex_unlock(&device->lock);
    anykv_status status = akv_queue_wait(device->queue, timeout_ns);
    akv_mutex_lock(&device->lock);
    device->waiting--;
    if (status && status != ANYKV_E_TIMEOUT) {
        device->failures++;
        device->failure = status;
    }
    *waits_out = (struct akv_device_waits){device->failures, device->failure, device->waiting == 0};
    akv_mutex_unlock(&device->lock);
    return status;
}

uint64_t akv_device_failures(anykv_device *device)
{
    akv_mutex_lock(&device->lock);
    const uint64_t failures = device->failures;
    akv_mutex_unlock(&device->lock);
    return failures;
}

anykv_status anykv_device_wait(anykv_device *device, uint64_t timeout_ns)
{
    struct akv_device_waits waits;
    if (!device)
        return akv_fail(NULL, ANYKV_E_ARG, "device: NULL");
    return akv_device_await(device, timeout_ns, &waits);
}

anykv_status akv_device_finish(anykv_device *device)
{
    struct akv_device_waits waits;
    anykv_status status = akv_device_await(device, UINT64_MAX, &waits);
    if (status)
        (void)akv_device_await(device, UINT64_MAX, &waits);
    return status;
}

/* ---- device memory ---- */

static anykv_status make_mem(anykv_device *device, void *native, bool adopt, uint64_t bytes,
                             anykv_mem **mem_out)
{
    if (!device || !mem_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", device ? "mem_out" : "device");
    anykv_mem *mem = akv_alloc(device->context, 1, sizeof *mem);
    if (!mem)
        return ANYKV_E_MEMORY;
    mem->device = device;
    anykv_status status = adopt ? akv_mem_adopt(device->device, native, bytes, &mem->mem)
                                : akv_mem_alloc(device->device, bytes, AKV_MEM_DEVICE, &mem->mem);
    if (status) {
        akv_free(device->context, mem);
        return status;
    }
    *mem_out = mem;
    return ANYKV_OK;
}

anykv_status anykv_mem_create(anykv_device *device, uint64_t bytes, anykv_mem **mem_out)
{
    return make_mem(device, NULL, false, bytes, mem_out);
}

anykv_status anykv_mem_adopt(anykv_device *device, void *native, uint64_t bytes,
                             anykv_mem **mem_out)
{
    return make_mem(device, native, true, bytes, mem_out);
}

void anykv_mem_destroy(anykv_mem *mem)
{
    if (!mem)
        return;
    akv_mem_free(mem->mem);
    akv_free(mem->device->context, mem);
}

static anykv_status check_range(const anykv_mem *mem, uint64_t offset, uint64_t bytes)
{
    if (offset > mem->mem->bytes || bytes > mem->mem->bytes - offset)
        return akv_fail(mem->device->context, ANYKV_E_SHAPE,
                        "mem: %llu bytes at offset %llu, it has %llu", (unsigned long long)bytes,
                        (unsigned long long)offset, (unsigned long long)mem->mem->bytes);
    return ANYKV_OK;
}

anykv_status anykv_mem_put(anykv_mem *mem, uint64_t offset, const void *src, uint64_t bytes)
{
    if (!mem || (!src && bytes))
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", mem ? "src" : "mem");
    anykv_status status = check_range(mem, offset, bytes);
    if (status || !bytes)
        return status;
    return akv_queue_put(mem->device->queue, (struct akv_span){mem->mem, offset, bytes}, src);
}

anykv_status anykv_mem_get(anykv_mem *mem, uint64_t offset, void *dst, uint64_t bytes)
{
    if (!mem || (!dst && bytes))
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", mem ? "dst" : "mem");
    anykv_status status = check_range(mem, offset, bytes);
    if (status || !bytes)
        return status;
    status = akv_queue_get(mem->device->queue, dst, (struct akv_span){mem->mem, offset, bytes});
    return status ? status : akv_device_finish(mem->device);
}

/* ---- events ---- */

anykv_status anykv_event_record(anykv_device *device, anykv_event **event_out)
{
    if (!device || !event_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", device ? "event_out" : "device");
    anykv_event *event = akv_alloc(device->context, 1, sizeof *event);
    if (!event)
        return ANYKV_E_MEMORY;
    event->device = device;
    anykv_status status = akv_event_create(device->device, &event->event);
    if (status)
        goto free_event;
    status = akv_event_record(event->event, device->queue);
    if (!status)
        status = akv_queue_flush(device->queue);
    if (status)
        goto destroy_event;
    *event_out = event;
    return ANYKV_OK;
destroy_event:
    akv_event_destroy(event->event);
free_event:
    akv_free(device->context, event);
    return status;
}

anykv_status anykv_event_query(anykv_event *event, int *done_out)
{
    if (!event || !done_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", event ? "done_out" : "event");
    bool done;
    anykv_status status = akv_event_query(event->event, &done);
    if (!status)
        *done_out = done;
    return status;
}

anykv_status anykv_event_wait(anykv_event *event, uint64_t timeout_ns)
{
    if (!event)
        return akv_fail(NULL, ANYKV_E_ARG, "event: NULL");
    return akv_event_wait(event->event, timeout_ns);
}

int anykv_event_fd(anykv_event *event)
{
    return event ? akv_event_fd(event->event) : -1;
}

void anykv_event_destroy(anykv_event *event)
{
    if (!event)
        return;
    akv_event_destroy(event->event);
    akv_free(event->device->context, event);
}

/* ---- libraries ---- */

const char *anykv_dense_library(const char *backend)
{
    for (const struct akv_backend *const *b = akv_backends; backend && *b; b++)
        if (strcmp((*b)->name, backend) == 0 && (*b)->dense)
            return (*b)->dense();
    return NULL;
}
