/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA devices: enumeration, opening, contexts, and driver errors as statuses. */
#include "cuda.h"
#include <stdio.h>

/* Errors after which the driver answers the same to every call in the context, and what it answers once
 * the context is gone. */
static bool means_loss(CUresult code)
{
    switch (code) {
    case 4:   /* DEINITIALIZED */
    case 46:  /* DEVICE_UNAVAILABLE */
    case 201: /* INVALID_CONTEXT */
    case 214: /* ECC_UNCORRECTABLE */
    case 220: /* NVLINK_UNCORRECTABLE */
    case 226: /* CONTAINED */
    case 700: /* ILLEGAL_ADDRESS */
    case 702: /* LAUNCH_TIMEOUT */
    case 709: /* CONTEXT_IS_DESTROYED */
    case 710: /* ASSERT */
    case 714: /* HARDWARE_STACK_ERROR */
    case 715: /* ILLEGAL_INSTRUCTION */
    case 716: /* MISALIGNED_ADDRESS */
    case 717: /* INVALID_ADDRESS_SPACE */
    case 718: /* INVALID_PC */
    case 719: /* LAUNCH_FAILED */
    case 721: /* TENSOR_MEMORY_LEAK */
        return true;
    default:
        return false;
    }
}

anykv_status akv_cuda_fail(struct akv_cuda_device *device, CUresult code, const char *what)
{
    const char *name = NULL, *text = NULL;
    device->cu->error_name(code, &name);
    device->cu->error_string(code, &text);
    if (means_loss(code)) {
        if (device->code)
            atomic_store(&device->code->lost, true);
        akv_device_lose(&device->base, name ? name : what);
    }
    return akv_fail(device->base.context, code == AKV_CU_OUT_OF_MEMORY ? ANYKV_E_MEMORY : ANYKV_E_DEVICE,
                    "cuda: %s: %s (%s, %d)", what, text ? text : "unknown error", name ? name : "?", code);
}

anykv_status akv_cuda_enter(struct akv_cuda_device *device)
{
    CUresult code = device->cu->context_push(device->context);
    return code ? akv_cuda_fail(device, code, "context") : ANYKV_OK;
}

void akv_cuda_leave(struct akv_cuda_device *device)
{
    CUcontext popped;
    device->cu->context_pop(&popped);
}

static void describe(const struct akv_cu *cu, CUdevice device, uint32_t index, struct akv_device_info *info)
{
    struct akv_cu_uuid uuid;
    int major = 0, minor = 0;
    size_t bytes = 0;
    memset(info, 0, sizeof *info);
    info->backend = "cuda";
    info->index = index;
    info->caps = AKV_CAP_GPU;
    info->align = 256;
    snprintf(info->vendor, sizeof info->vendor, "NVIDIA");
    snprintf(info->driver, sizeof info->driver, "CUDA %d.%d", cu->version / 1000, cu->version % 1000 / 10);
    cu->device_name(info->name, (int)sizeof info->name, device);
    CUresult code = cu->device_attribute(&major, AKV_CU_ATTR_MAJOR, device);
    if (!code)
        code = cu->device_attribute(&minor, AKV_CU_ATTR_MINOR, device);
    if (!code)
        code = cu->device_memory(&bytes, device);
    snprintf(info->isa, sizeof info->isa, "sm_%d%d", major, minor);
    info->bytes_total = bytes;
    info->max_alloc = bytes;
    if (cu->device_uuid(&uuid, device) == AKV_CU_OK)
        for (int i = 0, at = 0; i < 16; i++)
            at += snprintf(info->uuid + at, sizeof info->uuid - (size_t)at,
                           i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid.bytes[i]);
    info->usable = !code && major * 10 + minor >= 75;
    if (code)
        snprintf(info->reason, sizeof info->reason, "the driver does not describe the device (error %d)", code);
    else if (!info->usable)
        snprintf(info->reason, sizeof info->reason, "compute capability %d.%d: 7.5 or newer is needed",
                 major, minor);
}

anykv_status akv_cuda_probe(anykv_context *context, uint32_t capacity, struct akv_device_info *infos,
                            uint32_t *count_out)
{
    char reason[200];
    int count = 0;
    (void)context;
    const struct akv_cu *cu = akv_cu_load(reason, sizeof reason);
    if (cu && (cu->device_count(&count) != AKV_CU_OK || count < 1))
        snprintf(reason, sizeof reason, "the CUDA driver knows no device");
    if (count < 1) {
        *count_out = 1;
        if (capacity > 0) {
            memset(infos, 0, sizeof *infos);
            infos->backend = "cuda";
            snprintf(infos->reason, sizeof infos->reason, "%s", reason);
        }
        return ANYKV_OK;
    }
    *count_out = (uint32_t)count;
    for (uint32_t i = 0; i < (uint32_t)count && i < capacity; i++) {
        CUdevice device = (CUdevice)i;
        (void)cu->device_get(&device, (int)i); /* opening it tells a failure */
        describe(cu, device, i, &infos[i]);
    }
    return ANYKV_OK;
}

/* The caller's context, else the current one if it is on this device, else the device's primary. */
static anykv_status choose_context(struct akv_cuda_device *device, const anykv_device_options *options)
{
    CUcontext current = options->cuda_context;
    CUdevice owner = -1;
    CUresult code = AKV_CU_OK;
    if (!current)
        code = device->cu->context_current(&current);
    if (!code && current) {
        code = device->cu->context_push(current);
        if (!code) {
            code = device->cu->context_device(&owner);
            CUcontext popped;
            device->cu->context_pop(&popped);
        }
        if (!code && owner == device->device) {
            device->context = current;
            return ANYKV_OK;
        }
        if (options->cuda_context)
            return code ? akv_cuda_fail(device, code, "cuda_context")
                        : akv_fail(device->base.context, ANYKV_E_ARG,
                                   "cuda_context: belongs to another device than the one opened");
    }
    code = device->cu->primary_retain(&device->context, device->device);
    if (code)
        return akv_cuda_fail(device, code, "primary context");
    device->primary = true;
    return ANYKV_OK;
}

anykv_status akv_cuda_open(anykv_context *context, uint32_t index, const anykv_device_options *options,
                           struct akv_device **device_out)
{
    char reason[200];
    const struct akv_cu *cu = akv_cu_load(reason, sizeof reason);
    if (!cu)
        return akv_fail(context, ANYKV_E_DEVICE, "cuda: %s", reason);
    struct akv_cuda_device *device = akv_alloc(context, 1, sizeof *device);
    if (!device)
        return ANYKV_E_MEMORY;
    device->base.backend = &akv_backend_cuda;
    device->base.context = context;
    device->cu = cu;
    device->user_stream = options->cuda_stream;
    anykv_status status = akv_mutex_init(context, &device->lock);
    if (status)
        goto undo_alloc;
    CUresult code = cu->device_get(&device->device, (int)index);
    if (code) {
        status = akv_cuda_fail(device, code, "device");
        goto undo_mutex;
    }
    describe(cu, device->device, index, &device->base.info);
    if (!device->base.info.usable) {
        status = akv_fail(context, ANYKV_E_DEVICE, "cuda: %s", device->base.info.reason);
        goto undo_mutex;
    }
    code = cu->device_attribute(&device->sm_count, AKV_CU_ATTR_SM_COUNT, device->device);
    if (!code)
        code = cu->device_attribute(&device->shared_optin, AKV_CU_ATTR_SHARED_OPTIN, device->device);
    if (code) {
        status = akv_cuda_fail(device, code, "device attributes");
        goto undo_mutex;
    }
    status = choose_context(device, options);
    if (status)
        goto undo_mutex;
    /* Older devices, and builds without real code for this one, have no fast attention kernels. */
    status = akv_cuda_code_open(device);
    if (!status)
        status = akv_cuda_find_entry(device, AKV_IMAGE_ATTEND_DECODE, "akv_k_attend_f16_128", &device->decode);
    if (!status)
        status = akv_cuda_find_entry(device, AKV_IMAGE_ATTEND_PREFILL, "akv_k_prefill_4", &device->prefill);
    if (!status)
        status = akv_cuda_kat(device);
    if (status) {
        akv_cuda_close(&device->base);
        return status;
    }
    *device_out = &device->base;
    return ANYKV_OK;
undo_mutex:
    akv_mutex_destroy(&device->lock);
undo_alloc:
    akv_free(context, device);
    return status;
}

void akv_cuda_close(struct akv_device *base)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base;
    akv_cuda_dense_close(device);
    akv_cuda_code_close(device);
    if (device->primary)
        device->cu->primary_release(device->device);
    akv_mutex_destroy(&device->lock);
    akv_free(base->context, device);
}

anykv_status akv_cuda_memory_info(struct akv_device *base, uint64_t *total_out, uint64_t *free_out)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base;
    size_t available = 0, total = 0;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    CUresult code = device->cu->memory_info(&available, &total);
    akv_cuda_leave(device);
    if (code)
        return akv_cuda_fail(device, code, "memory info");
    *total_out = total;
    *free_out = available;
    return ANYKV_OK;
}

const struct akv_backend akv_backend_cuda = {
    .abi = AKV_BACKEND_ABI,
    .name = "cuda",
    .probe = akv_cuda_probe,
    .open = akv_cuda_open,
    .close = akv_cuda_close,
    .memory_info = akv_cuda_memory_info,
    .mem_alloc = akv_cuda_mem_alloc,
    .mem_adopt = akv_cuda_mem_adopt,
    .mem_free = akv_cuda_mem_free,
    .mem_map = akv_cuda_mem_map,
    .queue_create = akv_cuda_queue_create,
    .queue_destroy = akv_cuda_queue_destroy,
    .put = akv_cuda_put,
    .get = akv_cuda_get,
    .copy = akv_cuda_copy,
    .fill = akv_cuda_fill,
    .flush = akv_cuda_flush,
    .wait = akv_cuda_wait,
    .event_create = akv_cuda_event_create,
    .event_destroy = akv_cuda_event_destroy,
    .event_record = akv_cuda_event_record,
    .event_await = akv_cuda_event_await,
    .event_query = akv_cuda_event_query,
    .event_wait = akv_cuda_event_wait,
    .event_fd = akv_cuda_event_fd,
    .elapsed = akv_cuda_elapsed,
    .check = akv_cuda_check,
    .prepare = akv_cuda_prepare,
    .launch = akv_cuda_launch,
    .dense = akv_cuda_dense,
};
