/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU backend: what the processor is, opening it, and the table. */
#include "dense.h"
#include "device.h"
#include "kat.h"
#include <stdio.h>

/* The value of the first "key : value" line of a file of /proc, or "". */
static void proc_value(const char *path, const char *key, char *into, size_t bytes)
{
    char line[512];
    into[0] = '\0';
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    size_t length = strlen(key);
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, length) != 0 || !strchr("\t :", line[length]))
            continue;
        const char *value = colon + 1 + strspn(colon + 1, " \t");
        snprintf(into, bytes, "%.*s", (int)strcspn(value, "\n"), value);
        break;
    }
    fclose(file);
}

/* Physical memory, and how much of it could be had without paging. */
static void memory(uint64_t *total_out, uint64_t *free_out)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    long pages = sysconf(_SC_PHYS_PAGES);
    char text[64];
    unsigned long long kilobytes = 0;
    *total_out = pages > 0 ? (uint64_t)pages * page : 0;
    proc_value("/proc/meminfo", "MemAvailable", text, sizeof text);
    *free_out = sscanf(text, "%llu", &kilobytes) == 1 ? (uint64_t)kilobytes * 1024u : 0;
}

static void describe(struct akv_device_info *info, uint32_t levels)
{
    *info = (struct akv_device_info){.backend = "cpu", .align = 64, .usable = true};
    info->caps = AKV_CAP_HOST_MEMORY;
    proc_value("/proc/cpuinfo", "model name", info->name, sizeof info->name);
    proc_value("/proc/cpuinfo", "vendor_id", info->vendor, sizeof info->vendor);
    if (!info->name[0])
        snprintf(info->name, sizeof info->name, "CPU");
    snprintf(info->driver, sizeof info->driver, "anykv %s", anykv_version());
    snprintf(info->isa, sizeof info->isa, "%s", akv_cpu_isa_name(levels));
    memory(&info->bytes_total, &info->bytes_free);
    info->max_alloc = info->bytes_total ? info->bytes_total : SIZE_MAX / 2;
}

static anykv_status cpu_probe(anykv_context *context, uint32_t capacity,
                              struct akv_device_info *infos, uint32_t *count_out)
{
    (void)context;
    if (capacity)
        describe(infos, akv_cpu_isa_levels(ANYKV_ISA_ALL));
    *count_out = 1;
    return ANYKV_OK;
}

static anykv_status cpu_open(anykv_context *context, uint32_t index,
                             const anykv_device_options *options, struct akv_device **device_out)
{
    (void)index; /* there is one */
    struct akv_cpu_device *device = akv_alloc(context, 1, sizeof *device);
    if (!device)
        return ANYKV_E_MEMORY;
    uint32_t levels = akv_cpu_isa_levels(options->isa_mask);
    describe(&device->base.info, levels);
    device->base.backend = &akv_backend_cpu;
    device->base.context = context;
    device->base.host_window = &device->window.base;
    device->window.base = (struct akv_mem){&device->base, UINT64_MAX};
    device->threads = options->threads == ANYKV_THREADS_ALL ? akv_cpu_count() : options->threads;
    device->owner = getpid();
    akv_cpu_select(device, levels);
    anykv_status status = akv_cpu_kat(device);
    if (status)
        goto free_device;
    status = akv_mutex_init(context, &device->queues_lock);
    if (status)
        goto free_device;
    status = akv_mutex_init(context, &device->event_lock);
    if (status)
        goto destroy_queues_lock;
    status = akv_cond_init(context, &device->event_cond);
    if (status)
        goto destroy_event_lock;
    *device_out = &device->base;
    return ANYKV_OK;
destroy_event_lock:
    akv_mutex_destroy(&device->event_lock);
destroy_queues_lock:
    akv_mutex_destroy(&device->queues_lock);
free_device:
    akv_free(context, device);
    return status;
}

static void cpu_close(struct akv_device *base)
{
    struct akv_cpu_device *device = akv_cpu_device_of(base);
    if (!akv_cpu_forked(device)) {
        assert(!device->queues);
        akv_cond_destroy(&device->event_cond);
        akv_mutex_destroy(&device->event_lock);
        akv_mutex_destroy(&device->queues_lock);
    }
    akv_free(base->context, device);
}

static anykv_status cpu_memory_info(struct akv_device *device, uint64_t *total_out,
                                    uint64_t *free_out)
{
    (void)device;
    memory(total_out, free_out);
    return ANYKV_OK;
}

static void cpu_check(struct akv_device *device, enum akv_kernel_id id, const void *params,
                      struct akv_check *check_out)
{
    const struct akv_cpu_kernel *kernel = akv_cpu_device_of(device)->kernel[id];
    *check_out = (struct akv_check){true, akv_kernels[id].class_, 0, NULL};
    check_out->reason = !kernel          ? "this build lacks the kernel"
                        : kernel->refuse ? kernel->refuse(params)
                                         : NULL;
    check_out->supported = !check_out->reason;
    if (check_out->supported && kernel->scratch)
        check_out->scratch_bytes = kernel->scratch(params);
}

static anykv_status cpu_prepare(struct akv_device *device, enum akv_kernel_id id,
                                const void *params)
{
    struct akv_check check;
    cpu_check(device, id, params, &check);
    if (!check.supported)
        return akv_fail(device->context, ANYKV_E_UNSUPPORTED, "%s: %s", akv_kernels[id].name,
                        check.reason);
    return ANYKV_OK;
}

const struct akv_backend akv_backend_cpu = {
    .abi = AKV_BACKEND_ABI,
    .name = "cpu",
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .memory_info = cpu_memory_info,
    .mem_alloc = akv_cpu_mem_alloc,
    .mem_adopt = akv_cpu_mem_adopt,
    .mem_free = akv_cpu_mem_free,
    .mem_map = akv_cpu_mem_map,
    .queue_create = akv_cpu_queue_create,
    .queue_destroy = akv_cpu_queue_destroy,
    .put = akv_cpu_queue_put,
    .get = akv_cpu_queue_get,
    .copy = akv_cpu_queue_copy,
    .fill = akv_cpu_queue_fill,
    .flush = akv_cpu_queue_flush,
    .wait = akv_cpu_queue_wait,
    .event_create = akv_cpu_event_create,
    .event_destroy = akv_cpu_event_destroy,
    .event_record = akv_cpu_event_record,
    .event_await = akv_cpu_event_await,
    .event_query = akv_cpu_event_query,
    .event_wait = akv_cpu_event_wait,
    .event_fd = akv_cpu_event_fd,
    .elapsed = akv_cpu_event_elapsed,
    .check = cpu_check,
    .prepare = cpu_prepare,
    .launch = akv_cpu_queue_launch,
    .dense = akv_cpu_dense,
};
