/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a device: its context, ours or the caller's, its shape, its known-answer test. */
#include "cl.h"
#include <stdio.h>
#include <stdlib.h>

static void identify(struct akv_cl_device *device)
{
    static const cl_device_info device_texts[] = {CL_DEVICE_NAME, CL_DEVICE_VENDOR,
                                                  CL_DEVICE_VERSION, CL_DRIVER_VERSION,
                                                  CL_DEVICE_OPENCL_C_VERSION};
    static const cl_platform_info platform_texts[] = {CL_PLATFORM_NAME, CL_PLATFORM_VERSION};
    char text[256];
    akv_sha256 state;
    akv_sha256_init(&state);
    for (size_t i = 0; i < sizeof device_texts / sizeof *device_texts; i++) {
        akv_cl_device_text(device->cl, device->place.device, device_texts[i], text, sizeof text);
        akv_sha256_update(&state, text, strlen(text) + 1);
    }
    for (size_t i = 0; i < sizeof platform_texts / sizeof *platform_texts; i++) {
        akv_cl_platform_text(device->cl, device->place.platform, platform_texts[i], text,
                             sizeof text);
        akv_sha256_update(&state, text, strlen(text) + 1);
    }
    akv_digest digest = akv_sha256_final(&state);
    for (size_t i = 0; i + 1 < sizeof device->identity / 2; i++)
        snprintf(device->identity + 2 * i, 3, "%02x", digest.byte[i]);
}

/* Queries of cl_nv_device_attribute_query. */
#define CAPABILITY_MAJOR_NV 0x4000u
#define CAPABILITY_MINOR_NV 0x4001u
#define DOT_LOCAL_BYTES     49152u /* what attend_one with integer products and means may need */

/* NVIDIA's GPUs multiply bytes from compute capability 6.1 on; elsewhere an extension says so. */
static bool has_dots(const struct akv_cl_device *device)
{
    const struct akv_cl *cl = device->cl;
    cl_device_id id = device->place.device;
    cl_ulong local = 0;
    cl_uint major = 0, minor = 0;
    if (cl->device_info(id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof local, &local, NULL) != CL_SUCCESS ||
        local < DOT_LOCAL_BYTES)
        return false;
    if (!akv_cl_has_extension(cl, id, "cl_nv_device_attribute_query"))
        return akv_cl_has_extension(cl, id, "cl_khr_integer_dot_product");
    return cl->device_info(id, CAPABILITY_MAJOR_NV, sizeof major, &major, NULL) == CL_SUCCESS &&
           cl->device_info(id, CAPABILITY_MINOR_NV, sizeof minor, &minor, NULL) == CL_SUCCESS &&
           major * 10u + minor >= 61u;
}

/* A GPU takes the GPU shape, so does what cannot loop for long, everything else the CPU shape;
 * ANYKV_OPENCL_SHAPE=gpu or cpu overrides, so that both can be tested on one machine; odd is the GPU shape with local memory that
 * begins as low as its alignment allows (AKV_ODD in kernels-cl/common.cl), dot the GPU shape with
 * integer products whatever the device has. */
static anykv_status choose_shape(struct akv_cl_device *device)
{
    const char *wish = getenv("ANYKV_OPENCL_SHAPE");
    device->shape = device->base.info.caps & AKV_CAP_GPU || device->short_loops ? AKV_CL_SHAPE_GPU
                                                                                : AKV_CL_SHAPE_CPU;
    if (!wish || !*wish)
        return ANYKV_OK;
    device->odd = strcmp(wish, "odd") == 0;
    device->dots = device->dots || strcmp(wish, "dot") == 0;
    if (strcmp(wish, "gpu") != 0 && strcmp(wish, "cpu") != 0 && strcmp(wish, "dot") != 0 &&
        !device->odd)
        return akv_fail(device->base.context, ANYKV_E_ARG,
                        "ANYKV_OPENCL_SHAPE: \"%.20s\" is none of gpu, cpu", wish);
    device->shape = wish[0] == 'c' ? AKV_CL_SHAPE_CPU : AKV_CL_SHAPE_GPU;
    return ANYKV_OK;
}

/* Vendors whose GPUs hand local memory to the next kernel as it was left (CVE-2023-4969: AMD,
 * Apple, Qualcomm, Imagination); NVIDIA, Intel and CPUs are known not to. */
static bool leaks_local_memory(const struct akv_device_info *info)
{
    return (info->caps & AKV_CAP_GPU) && !strstr(info->vendor, "NVIDIA") &&
           !strstr(info->vendor, "Intel");
}

static anykv_status adopt_context(struct akv_cl_device *device, const anykv_device_options *options)
{
    const struct akv_cl *cl = device->cl;
    anykv_context *context = device->base.context;
    cl_device_id members[64];
    size_t bytes = 0;
    if (!options->cl_device)
        return akv_fail(context, ANYKV_E_ARG, "cl_device: NULL beside a cl_context");
    cl_int code =
        cl->context_info(options->cl_context, CL_CONTEXT_DEVICES, sizeof members, members, &bytes);
    if (code != CL_SUCCESS)
        return akv_fail(context, ANYKV_E_ARG, "cl_context: %s (%d)", akv_cl_error_name(code), code);
    size_t at = 0, count = bytes / sizeof *members;
    while (at < count && members[at] != (cl_device_id)options->cl_device)
        at++;
    if (at == count)
        return akv_fail(context, ANYKV_E_ARG, "cl_device: is not in the cl_context");
    code = cl->retain_context(options->cl_context);
    if (code != CL_SUCCESS)
        return akv_cl_fail(context, "cl_context: clRetainContext", code);
    device->context = options->cl_context;
    return ANYKV_OK;
}

static anykv_status make_context(struct akv_cl_device *device)
{
    const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                                (cl_context_properties)device->place.platform, 0};
    cl_int code;
    device->context =
        device->cl->create_context(properties, 1, &device->place.device, NULL, NULL, &code);
    return code == CL_SUCCESS ? ANYKV_OK
                              : akv_cl_fail(device->base.context, "clCreateContext", code);
}

static anykv_status find_place(struct akv_cl_device *device, uint32_t index,
                               const anykv_device_options *options)
{
    anykv_context *context = device->base.context;
    if (options->cl_queue && !options->cl_context)
        return akv_fail(context, ANYKV_E_ARG, "cl_queue: given without its cl_context");
    if (options->cl_device) { /* the caller's choice stands above the number */
        anykv_status status = akv_cl_index_of(context, device->cl, options->cl_device, &index);
        if (status != ANYKV_OK)
            return status;
    }
    device->base.info.index = index;
    return akv_cl_find(context, device->cl, index, &device->place);
}

static anykv_status judge(struct akv_cl_device *device)
{
    struct akv_device_info *info = &device->base.info;
    cl_uint units = 1;
    akv_cl_describe(device->cl, &device->place, info);
    if (!info->usable)
        return akv_fail(device->base.context, ANYKV_E_DEVICE, "device: %s is not usable: %s",
                        info->name, info->reason);
    if (device->cl->device_info(device->place.device, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units,
                                &units, NULL) != CL_SUCCESS)
        units = 1;
    device->units = units;
    cl_device_type type = 0;
    device->vectors = device->cl->device_info(device->place.device, CL_DEVICE_TYPE, sizeof type,
                                              &type, NULL) == CL_SUCCESS &&
                      (type & CL_DEVICE_TYPE_CPU);
    cl_device_fp_config floats = 0;
    device->denormals = device->cl->device_info(device->place.device, CL_DEVICE_SINGLE_FP_CONFIG,
                                                sizeof floats, &floats, NULL) == CL_SUCCESS &&
                        (floats & CL_FP_DENORM);
    device->nv_options =
        akv_cl_has_extension(device->cl, device->place.device, "cl_nv_compiler_options");
    device->scrub = leaks_local_memory(info);
    device->dots = has_dots(device);
    device->short_loops = strstr(info->name, "llvmpipe") != NULL;
    identify(device);
    return choose_shape(device);
}

static anykv_status open_device(anykv_context *context, uint32_t index,
                                const anykv_device_options *options, struct akv_device **device_out)
{
    char reason[256];
    cl_int code;
    const struct akv_cl *cl = akv_cl_load(reason, sizeof reason);
    if (!cl)
        return akv_fail(context, ANYKV_E_DEVICE, "device: %s", reason);
    struct akv_cl_device *device = akv_alloc(context, 1, sizeof *device);
    if (!device)
        return ANYKV_E_MEMORY;
    device->base.backend = &akv_backend_opencl;
    device->base.context = context;
    device->cl = cl;
    anykv_status status = akv_mutex_init(context, &device->lock);
    if (status != ANYKV_OK)
        goto free_device;
    status = find_place(device, index, options);
    if (status == ANYKV_OK)
        status = judge(device);
    if (status == ANYKV_OK)
        status = options->cl_context ? adopt_context(device, options) : make_context(device);
    if (status != ANYKV_OK)
        goto destroy_lock;
    device->internal = cl->create_queue(device->context, device->place.device, 0, &code);
    if (code != CL_SUCCESS) {
        status = akv_cl_fail(context, "clCreateCommandQueue", code);
        goto release_context;
    }
    status = akv_cl_known_answers(device);
    if (status != ANYKV_OK)
        goto free_programs;
    *device_out = &device->base;
    return ANYKV_OK;

free_programs:
    akv_cl_programs_free(device);
    (void)cl->release_queue(device->internal);
release_context:
    (void)cl->release_context(device->context);
destroy_lock:
    akv_mutex_destroy(&device->lock);
free_device:
    akv_free(context, device);
    return status;
}

static void close_device(struct akv_device *base)
{
    struct akv_cl_device *device = akv_cl_device(base);
    akv_cl_dense_close(device);
    akv_cl_programs_free(device);
    (void)device->cl->release_queue(device->internal);
    (void)device->cl->release_context(device->context);
    akv_mutex_destroy(&device->lock);
    akv_free(base->context, device);
}

static anykv_status memory_info(struct akv_device *base, uint64_t *total_out, uint64_t *free_out)
{
    struct akv_cl_device *device = akv_cl_device(base);
    struct akv_device_info info = {0};
    akv_cl_describe(device->cl, &device->place, &info);
    *total_out = info.bytes_total;
    *free_out = info.bytes_free;
    return ANYKV_OK;
}

const struct akv_backend akv_backend_opencl = {
    .abi = AKV_BACKEND_ABI,
    .name = "opencl",
    .probe = akv_cl_probe,
    .open = open_device,
    .close = close_device,
    .memory_info = memory_info,
    .mem_alloc = akv_cl_mem_alloc,
    .mem_adopt = akv_cl_mem_adopt,
    .mem_free = akv_cl_mem_free,
    .mem_map = akv_cl_mem_map,
    .queue_create = akv_cl_queue_create,
    .queue_destroy = akv_cl_queue_destroy,
    .put = akv_cl_queue_put,
    .get = akv_cl_queue_get,
    .copy = akv_cl_queue_copy,
    .fill = akv_cl_queue_fill,
    .flush = akv_cl_queue_flush,
    .wait = akv_cl_queue_wait,
    .event_create = akv_cl_event_create,
    .event_destroy = akv_cl_event_destroy,
    .event_record = akv_cl_event_record,
    .event_await = akv_cl_event_await,
    .event_query = akv_cl_event_query,
    .event_wait = akv_cl_event_wait,
    .event_fd = akv_cl_event_fd,
    .elapsed = akv_cl_event_elapsed,
    .check = akv_cl_kernel_check,
    .prepare = akv_cl_kernel_prepare,
    .launch = akv_cl_kernel_launch,
    .dense = akv_cl_dense,
};
