/* SPDX-License-Identifier: Apache-2.0 */
/* Programs: built from the embedded sources or loaded from the cache on disk, once a device. */
#include "cl.h"
#include <stdio.h>

#define MAX_LOG     16384u
#define MAX_DEVICES 32u /* of a caller's context */

/* Added to every build.  Warnings of drivers go to the build log. */
#define COMMON_OPTIONS "-cl-std=CL1.2"

static const struct akv_cl_source *find_source(const char *name)
{
    for (const struct akv_cl_source *source = akv_cl_sources; source->name; source++)
        if (!strcmp(source->name, name))
            return source;
    return NULL;
}

static akv_digest program_key(const struct akv_cl_device *device,
                              const struct akv_cl_source *source, const char *options)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, "anykv program 1", 16);
    akv_sha256_update(&state, device->identity, strlen(device->identity) + 1);
    akv_sha256_update(&state, options, strlen(options) + 1);
    akv_sha256_u64(&state, source->bytes);
    akv_sha256_update(&state, source->text, source->bytes);
    return akv_sha256_final(&state);
}

/* Records the driver's build log in the detail. */
static anykv_status fail_build(struct akv_cl_device *device, cl_program program, const char *key,
                               cl_int code)
{
    anykv_context *context = device->base.context;
    size_t bytes = 0;
    char *log = akv_alloc(context, MAX_LOG, 1);
    if (!log)
        return ANYKV_E_MEMORY;
    /* A log longer than the buffer is an error of the call: then the first part is lost to us. */
    if (device->cl->build_info(program, device->place.device, CL_PROGRAM_BUILD_LOG, MAX_LOG - 1,
                               log, &bytes) != CL_SUCCESS)
        snprintf(log, MAX_LOG, "build log of %zu bytes is not available", bytes);
    akv_log(context, ANYKV_LOG_ERROR, "opencl: build of %s: %s", key, log);
    anykv_status status =
        akv_fail(context, code == CL_OUT_OF_HOST_MEMORY ? ANYKV_E_MEMORY : ANYKV_E_DEVICE,
                 "program %.80s: %s (%d): %.400s", key, akv_cl_error_name(code), code, log);
    akv_free(context, log);
    return status;
}

static anykv_status from_source(struct akv_cl_device *device, const struct akv_cl_source *source,
                                const char *options, const char *key, cl_program *program_out)
{
    const struct akv_cl *cl = device->cl;
    const char *text = source->text;
    size_t bytes = source->bytes;
    cl_int code;
    cl_program program = cl->program_from_source(device->context, 1, &text, &bytes, &code);
    if (code != CL_SUCCESS)
        return akv_cl_device_fail(device, AKV_CL_CALL, "clCreateProgramWithSource", code);
    code = cl->build_program(program, 1, &device->place.device, options, NULL, NULL);
    if (code != CL_SUCCESS) {
        anykv_status status = fail_build(device, program, key, code);
        (void)cl->release_program(program);
        return status;
    }
    *program_out = program;
    return ANYKV_OK;
}

/* NULL: the driver does not take the binary (any more). */
static cl_program from_binary(struct akv_cl_device *device, const uint8_t *binary, size_t bytes,
                              const char *options)
{
    const struct akv_cl *cl = device->cl;
    cl_int code, binary_code = CL_SUCCESS;
    cl_program program = cl->program_from_binary(device->context, 1, &device->place.device, &bytes,
                                                 &binary, &binary_code, &code);
    if (code != CL_SUCCESS)
        return NULL;
    if (binary_code == CL_SUCCESS &&
        cl->build_program(program, 1, &device->place.device, options, NULL, NULL) == CL_SUCCESS)
        return program;
    (void)cl->release_program(program);
    return NULL;
}

/* Stores the binary of our device; a program of a caller's context may have others beside it. */
static void store(struct akv_cl_device *device, cl_program program, const akv_digest *key)
{
    const struct akv_cl *cl = device->cl;
    cl_device_id devices[MAX_DEVICES];
    size_t sizes[MAX_DEVICES] = {0}, got = 0;
    unsigned char *binaries[MAX_DEVICES] = {NULL};
    if (cl->program_info(program, CL_PROGRAM_DEVICES, sizeof devices, devices, &got) != CL_SUCCESS)
        return;
    size_t count = got / sizeof *devices, mine = 0;
    while (mine < count && devices[mine] != device->place.device)
        mine++;
    if (mine == count || cl->program_info(program, CL_PROGRAM_BINARY_SIZES, count * sizeof *sizes,
                                          sizes, NULL) != CL_SUCCESS)
        return;
    if (!sizes[mine])
        return;
    binaries[mine] = akv_alloc(device->base.context, 1, sizes[mine]);
    if (!binaries[mine])
        return;
    if (cl->program_info(program, CL_PROGRAM_BINARIES, count * sizeof *binaries, binaries, NULL) ==
        CL_SUCCESS)
        akv_cl_cache_write(device->base.context, key, binaries[mine], sizes[mine]);
    akv_free(device->base.context, binaries[mine]);
}

static anykv_status make(struct akv_cl_device *device, const struct akv_cl_source *source,
                         const char *options, const char *key, cl_program *program_out)
{
    akv_digest digest = program_key(device, source, options);
    size_t bytes = 0;
    uint8_t *binary;
    anykv_status status = akv_cl_cache_read(device->base.context, &digest, &binary, &bytes);
    if (status)
        return status;
    if (binary) {
        *program_out = from_binary(device, binary, bytes, options);
        akv_free(device->base.context, binary);
        if (*program_out)
            return ANYKV_OK;
        akv_log(device->base.context, ANYKV_LOG_INFO,
                "opencl: the driver refuses its cached program");
    }
    uint64_t from = akv_now_ns();
    status = from_source(device, source, options, key, program_out);
    if (status != ANYKV_OK)
        return status;
    akv_log(device->base.context, ANYKV_LOG_INFO, "opencl: built %s in %llu ms", key,
            (unsigned long long)((akv_now_ns() - from) / 1000000u));
    store(device, *program_out, &digest);
    return ANYKV_OK;
}

/* Caller holds the device's lock. */
static struct akv_cl_program *known(struct akv_cl_device *device, const char *key)
{
    struct akv_cl_program *program = device->programs;
    while (program && strcmp(program->key, key))
        program = program->next;
    return program;
}

anykv_status akv_cl_program(struct akv_cl_device *device, const char *source_name,
                            const char *options, struct akv_cl_program **program_out)
{
    anykv_context *context = device->base.context;
    char all[384];
    struct akv_cl_program *fresh;
    const struct akv_cl_source *source = find_source(source_name);
    assert(source);
    int length = snprintf(
        all, sizeof all, COMMON_OPTIONS " %s%s%s%s",
        device->shape != AKV_CL_SHAPE_CPU ? device->odd       ? "-DAKV_UNROLL= -DAKV_ODD "
                                            : device->vectors ? "-DAKV_UNROLL= "
                                                              : "" /* for tests */
        : device->vectors                 ? "-DAKV_CPU_SHAPE -DAKV_VECTORS "
                                          : "-DAKV_CPU_SHAPE ",
        device->scrub ? "-DAKV_SCRUB " : "", device->denormals ? "-DAKV_DENORMALS " : "", options);
    assert(length > 0 && (size_t)length < sizeof all);
    (void)length;
    char key[sizeof fresh->key];
    length = snprintf(key, sizeof key, "%s %s", source_name, options);
    assert(length > 0 && (size_t)length < sizeof key);
    akv_mutex_lock(&device->lock);
    *program_out = known(device, key);
    akv_mutex_unlock(&device->lock);
    if (*program_out)
        return ANYKV_OK;
    fresh = akv_alloc(context, 1, sizeof *fresh);
    if (!fresh)
        return ANYKV_E_MEMORY;
    memcpy(fresh->key, key, sizeof key);
    anykv_status status = make(device, source, all, key, &fresh->program);
    if (status != ANYKV_OK) {
        akv_free(context, fresh);
        return status;
    }
    akv_mutex_lock(&device->lock);
    struct akv_cl_program *other = known(device, key); /* another thread may have been faster */
    if (!other) {
        fresh->next = device->programs;
        device->programs = fresh;
    }
    akv_mutex_unlock(&device->lock);
    if (other) {
        (void)device->cl->release_program(fresh->program);
        akv_free(context, fresh);
    }
    *program_out = other ? other : fresh;
    return ANYKV_OK;
}

void akv_cl_programs_free(struct akv_cl_device *device)
{
    while (device->programs) {
        struct akv_cl_program *program = device->programs;
        device->programs = program->next;
        (void)device->cl->release_program(program->program);
        akv_free(device->base.context, program);
    }
}
