/* SPDX-License-Identifier: Apache-2.0 */
/* The static list of backends, and which device a name means. */
#include "backend.h"
#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 1024u
#define FIRST_GUESS 16u /* devices of one backend before the list has to grow */

extern const struct akv_backend akv_backend_cpu;
#if defined(AKV_WITH_OPENCL)
extern const struct akv_backend akv_backend_opencl;
#endif
#if defined(AKV_WITH_CUDA)
extern const struct akv_backend akv_backend_cuda;
#endif

/* Names of all backends there can be, for a clear answer when one is not built in. */
static const char *const known_names[] = {"cpu", "opencl", "cuda"};

struct devices {
    struct akv_device_info *info;
    uint32_t count;
};

static const struct akv_backend *backend_named(const char *name, size_t length)
{
    for (size_t i = 0; akv_backends[i]; i++)
        if (strlen(akv_backends[i]->name) == length &&
            memcmp(akv_backends[i]->name, name, length) == 0)
            return akv_backends[i];
    return NULL;
}

/* Appends the devices of one backend. */
static anykv_status probe(anykv_context *context, const struct akv_backend *backend,
                          struct devices *devices)
{
    uint32_t capacity = FIRST_GUESS;
    for (;;) {
        struct akv_device_info *info =
            akv_alloc(context, (size_t)devices->count + capacity, sizeof *info);
        if (!info)
            return ANYKV_E_MEMORY;
        uint32_t count = 0;
        anykv_status status = backend->probe(context, capacity, info + devices->count, &count);
        if (status || count > capacity) {
            akv_free(context, info);
            if (status)
                return status;
            capacity = count;
            continue;
        }
        for (uint32_t i = 0; i < count; i++)
            info[devices->count + i].backend = backend->name;
        if (devices->count)
            memcpy(info, devices->info, devices->count * sizeof *info);
        akv_free(context, devices->info);
        devices->info = info;
        devices->count += count;
        return ANYKV_OK;
    }
}

/* The devices of one backend, or of all. */
static anykv_status probe_all(anykv_context *context, const struct akv_backend *only,
                              struct devices *devices_out)
{
    struct devices devices = {NULL, 0};
    for (size_t i = 0; akv_backends[i]; i++) {
        if (only && akv_backends[i] != only)
            continue;
        anykv_status status = probe(context, akv_backends[i], &devices);
        if (status) {
            akv_free(context, devices.info);
            return status;
        }
    }
    *devices_out = devices;
    return ANYKV_OK;
}

anykv_status akv_devices_list(anykv_context *context, struct akv_device_info **infos_out,
                              uint32_t *count_out)
{
    struct devices devices;
    anykv_status status = probe_all(context, NULL, &devices);
    if (status)
        return status;
    *infos_out = devices.info;
    *count_out = devices.count;
    return ANYKV_OK;
}

void *akv_native_queue(const struct akv_device *device, const anykv_device_options *options)
{
    if (strcmp(device->backend->name, "cuda") == 0)
        return options->cuda_stream;
    if (strcmp(device->backend->name, "opencl") == 0)
        return options->cl_queue;
    return NULL;
}

static anykv_status open_info(anykv_context *context, const struct akv_device_info *info,
                              const anykv_device_options *options, struct akv_device **device_out)
{
    if (!info->usable)
        return akv_fail(context, ANYKV_E_DEVICE, "device: %s \"%s\" is not usable: %s",
                        info->backend, info->name, info->reason);
    const struct akv_backend *backend = backend_named(info->backend, strlen(info->backend));
    assert(backend && backend->abi == AKV_BACKEND_ABI);
    anykv_status status = akv_fault_hit(context, "open");
    return status ? status : backend->open(context, info->index, options, device_out);
}

/* The first usable GPU, dedicated runtimes before OpenCL, else the CPU. */
static anykv_status open_auto(anykv_context *context, const struct devices *devices,
                              const anykv_device_options *options, struct akv_device **device_out)
{
    size_t backends = 0;
    while (akv_backends[backends])
        backends++;
    while (backends-- > 0)
        for (uint32_t i = 0; i < devices->count; i++) {
            const struct akv_device_info *info = &devices->info[i];
            if (strcmp(info->backend, akv_backends[backends]->name) != 0 || !info->usable ||
                !(info->caps & AKV_CAP_GPU) || info->is_cpu_opencl)
                continue;
            anykv_status status = open_info(context, info, options, device_out);
            if (status == ANYKV_OK || status == ANYKV_E_MEMORY)
                return status;
            akv_log(context, ANYKV_LOG_WARNING, "device auto: %s \"%s\" is passed over: %s",
                    info->backend, info->name, anykv_error_detail());
        }
    for (uint32_t i = 0; i < devices->count; i++)
        if (strcmp(devices->info[i].backend, "cpu") == 0)
            return open_info(context, &devices->info[i], options, device_out);
    return akv_fail(context, ANYKV_E_NOT_FOUND, "device auto: there is no device");
}

/* A backend's first usable device, GPUs first; its first one (with the reason) when none is usable.
 */
static const struct akv_device_info *first_of(const struct devices *devices, const char *backend)
{
    const struct akv_device_info *best = NULL;
    for (uint32_t i = 0; i < devices->count; i++) {
        const struct akv_device_info *info = &devices->info[i];
        if (strcmp(info->backend, backend) != 0)
            continue;
        bool gpu = info->usable && (info->caps & AKV_CAP_GPU);
        bool best_gpu = best && best->usable && (best->caps & AKV_CAP_GPU);
        if (!best || (info->usable && !best->usable) || (gpu && !best_gpu))
            best = info;
    }
    return best;
}

static bool decimal(const char *text, uint32_t *value_out)
{
    uint64_t value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > UINT32_MAX)
            return false;
    }
    *value_out = (uint32_t)value;
    return true;
}

/* uuid or name, a usable one before one that is not; then the index in the whole list. */
static const struct akv_device_info *find(const struct devices *devices, const char *name)
{
    const struct akv_device_info *found = NULL;
    for (uint32_t i = 0; i < devices->count; i++) {
        const struct akv_device_info *info = &devices->info[i];
        bool same = (info->uuid[0] && strcmp(info->uuid, name) == 0) ||
                    (info->name[0] && strcmp(info->name, name) == 0);
        if (same && (!found || (!found->usable && info->usable)))
            found = info;
    }
    uint32_t index;
    if (!found && decimal(name, &index) && index < devices->count)
        found = &devices->info[index];
    return found;
}

/* Options that some backend would otherwise have to doubt. */
static anykv_status check_options(anykv_context *context, const anykv_device_options *options)
{
    if (options->threads > MAX_THREADS && options->threads != ANYKV_THREADS_ALL)
        return akv_fail(context, ANYKV_E_ARG, "device options.threads: %u is beyond %u",
                        options->threads, MAX_THREADS);
    const uint32_t known = ANYKV_ISA_AVX2 | ANYKV_ISA_AVX512 | ANYKV_ISA_NEON;
    if (options->isa_mask != ANYKV_ISA_ALL && (options->isa_mask & ~known))
        return akv_fail(context, ANYKV_E_ARG, "device options.isa_mask: 0x%x has unknown bits",
                        options->isa_mask);
    return ANYKV_OK;
}

anykv_status akv_device_open(anykv_context *context, const char *name,
                             const anykv_device_options *options, struct akv_device **device_out)
{
    anykv_device_options defaults = ANYKV_DEVICE_OPTIONS_INIT;
    if (!options)
        options = &defaults;
    anykv_status status = check_options(context, options);
    if (status)
        return status;
    const char *origin = "device";
    bool automatic = strcmp(name, "auto") == 0;
    if (automatic) {
        const char *wish = getenv("ANYKV_DEVICE");
        if (wish && *wish && strcmp(wish, "auto") != 0) {
            name = wish;
            origin = "ANYKV_DEVICE";
            automatic = false;
        }
    }
    /* A backend's name, alone or before ":index", saves asking the other runtimes. */
    const char *colon = strchr(name, ':');
    size_t length = colon ? (size_t)(colon - name) : strlen(name);
    const struct akv_backend *backend = automatic ? NULL : backend_named(name, length);
    uint32_t index = 0;
    if (colon && !(backend && decimal(colon + 1, &index)))
        backend = NULL;
    struct devices devices;
    status = probe_all(context, backend, &devices);
    if (status)
        return status;
    if (automatic) {
        status = open_auto(context, &devices, options, device_out);
        akv_free(context, devices.info);
        return status;
    }
    const struct akv_device_info *found = NULL;
    if (backend && colon)
        found = index < devices.count ? &devices.info[index] : NULL;
    else if (backend)
        found = first_of(&devices, backend->name);
    else
        found = find(&devices, name);
    if (found) {
        status = open_info(context, found, options, device_out);
    } else {
        const char *why = "no backend, device name, uuid or index of `anykv devices`";
        for (size_t i = 0; !backend && i < sizeof known_names / sizeof known_names[0]; i++)
            if (strlen(known_names[i]) == length && memcmp(known_names[i], name, length) == 0)
                why = backend_named(name, length) ? "not an index of a device of this backend"
                                                  : "this build does not have the backend";
        if (backend)
            why = "the backend has no such device";
        status = akv_fail(context, ANYKV_E_NOT_FOUND, "%s: \"%.64s\": %s", origin, name, why);
    }
    akv_free(context, devices.info);
    return status;
}

const struct akv_backend *const akv_backends[] = {
    &akv_backend_cpu,
#if defined(AKV_WITH_OPENCL)
    &akv_backend_opencl,
#endif
#if defined(AKV_WITH_CUDA)
    &akv_backend_cuda,
#endif
    NULL,
};
