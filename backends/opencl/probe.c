/* SPDX-License-Identifier: Apache-2.0 */
/* Lists platforms and devices, and says of each whether it can carry the kernels. */
#include "cl.h"
#include <stdio.h>

#define MAX_PLATFORMS 16u
#define MAX_DEVICES   32u /* of one platform */

/* cl_khr_device_uuid, and AMD's free-memory query (KiB of the whole, then of the largest piece). */
#define DEVICE_UUID_KHR 0x106Au
#define DEVICE_FREE_AMD 0x4039u
#define UUID_BYTES      16u

/* What every kernel of ours may rely on. */
#define MIN_PARAMETER_BYTES 1024u
#define MIN_LOCAL_BYTES     16384u
#define MIN_GROUP           128u

static void trim_copy(char *text, size_t text_bytes, const char *from)
{
    while (*from == ' ')
        from++;
    snprintf(text, text_bytes, "%s", from);
    size_t length = strlen(text);
    while (length && text[length - 1] == ' ')
        text[--length] = '\0';
}

void akv_cl_device_text(const struct akv_cl *cl, cl_device_id device, cl_device_info what,
                        char *text, size_t text_bytes)
{
    char buffer[1024] = "";
    if (cl->device_info(device, what, sizeof buffer - 1, buffer, NULL) != CL_SUCCESS)
        buffer[0] = '\0';
    trim_copy(text, text_bytes, buffer);
}

void akv_cl_platform_text(const struct akv_cl *cl, cl_platform_id platform, cl_platform_info what,
                          char *text, size_t text_bytes)
{
    char buffer[1024] = "";
    if (cl->platform_info(platform, what, sizeof buffer - 1, buffer, NULL) != CL_SUCCESS)
        buffer[0] = '\0';
    trim_copy(text, text_bytes, buffer);
}

static uint64_t number(const struct akv_cl *cl, cl_device_id device, cl_device_info what,
                       size_t bytes)
{
    uint64_t value = 0; /* little-endian hosts only: a short answer fills the low bytes */
    if (cl->device_info(device, what, bytes, &value, NULL) != CL_SUCCESS)
        return 0;
    return value;
}

bool akv_cl_has_extension(const struct akv_cl *cl, cl_device_id device, const char *name)
{
    char list[8192] = "";
    size_t length = strlen(name);
    if (cl->device_info(device, CL_DEVICE_EXTENSIONS, sizeof list - 1, list, NULL) != CL_SUCCESS)
        return false;
    for (const char *at = list; (at = strstr(at, name)) != NULL; at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

/* Writes why the device is refused, or nothing. */
static void judge(const struct akv_cl *cl, cl_device_id device, char *reason, size_t bytes)
{
    char text[128];
    unsigned major = 0, minor = 0;
    uint64_t value;
    reason[0] = '\0';
    if (!number(cl, device, CL_DEVICE_AVAILABLE, sizeof(cl_bool))) {
        snprintf(reason, bytes, "device is not available");
        return;
    }
    akv_cl_device_text(cl, device, CL_DEVICE_PROFILE, text, sizeof text);
    if (strcmp(text, "FULL_PROFILE")) {
        snprintf(reason, bytes, "profile is %s, FULL_PROFILE is needed",
                 text[0] ? text : "unknown");
        return;
    }
    akv_cl_device_text(cl, device, CL_DEVICE_VERSION, text, sizeof text);
    if (sscanf(text, "OpenCL %u.%u", &major, &minor) != 2 || major * 100u + minor < 102u) {
        snprintf(reason, bytes, "version is \"%.60s\", OpenCL 1.2 is needed", text);
        return;
    }
    if (!number(cl, device, CL_DEVICE_COMPILER_AVAILABLE, sizeof(cl_bool))) {
        snprintf(reason, bytes, "device has no compiler");
        return;
    }
    if (!number(cl, device, CL_DEVICE_ENDIAN_LITTLE, sizeof(cl_bool))) {
        snprintf(reason, bytes, "device is big-endian, stored data is little-endian");
        return;
    }
    if (!(number(cl, device, CL_DEVICE_SINGLE_FP_CONFIG, sizeof(cl_device_fp_config)) &
          CL_FP_ROUND_TO_NEAREST)) {
        snprintf(reason, bytes, "float arithmetic does not round to nearest");
        return;
    }
    value = number(cl, device, CL_DEVICE_MAX_PARAMETER_SIZE, sizeof(size_t));
    if (value < MIN_PARAMETER_BYTES) {
        snprintf(reason, bytes, "kernels take %llu bytes of parameters, %u are needed",
                 (unsigned long long)value, MIN_PARAMETER_BYTES);
        return;
    }
    value = number(cl, device, CL_DEVICE_LOCAL_MEM_SIZE, sizeof(cl_ulong));
    if (value < MIN_LOCAL_BYTES) {
        snprintf(reason, bytes, "local memory is %llu bytes, %u are needed",
                 (unsigned long long)value, MIN_LOCAL_BYTES);
        return;
    }
    value = number(cl, device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof(size_t));
    if (value < MIN_GROUP)
        snprintf(reason, bytes, "work-groups hold %llu items, %u are needed",
                 (unsigned long long)value, MIN_GROUP);
}

static void describe_uuid(const struct akv_cl *cl, cl_device_id device, char *text, size_t bytes)
{
    uint8_t uuid[UUID_BYTES];
    text[0] = '\0';
    if (!akv_cl_has_extension(cl, device, "cl_khr_device_uuid") ||
        cl->device_info(device, DEVICE_UUID_KHR, sizeof uuid, uuid, NULL) != CL_SUCCESS)
        return;
    size_t at = 0;
    for (size_t i = 0; i < UUID_BYTES && at + 4 < bytes; i++)
        at += (size_t)snprintf(text + at, bytes - at,
                               i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
}

void akv_cl_describe(const struct akv_cl *cl, const struct akv_cl_place *place,
                     struct akv_device_info *info)
{
    cl_device_id device = place->device;
    char driver[96], platform[128];
    cl_device_type type = number(cl, device, CL_DEVICE_TYPE, sizeof type);
    info->backend = "opencl";
    akv_cl_device_text(cl, device, CL_DEVICE_NAME, info->name, sizeof info->name);
    akv_cl_device_text(cl, device, CL_DEVICE_VENDOR, info->vendor, sizeof info->vendor);
    akv_cl_device_text(cl, device, CL_DRIVER_VERSION, driver, sizeof driver);
    akv_cl_platform_text(cl, place->platform, CL_PLATFORM_NAME, platform, sizeof platform);
    snprintf(info->driver, sizeof info->driver, "%.70s %.56s", platform, driver);
    describe_uuid(cl, device, info->uuid, sizeof info->uuid);
    const cl_device_type all = CL_DEVICE_TYPE_CPU | CL_DEVICE_TYPE_GPU | CL_DEVICE_TYPE_ACCELERATOR;
    const char *kind = (type & all) == CL_DEVICE_TYPE_GPU           ? "gpu"
                       : (type & all) == CL_DEVICE_TYPE_CPU         ? "cpu"
                       : (type & all) == CL_DEVICE_TYPE_ACCELERATOR ? "accelerator"
                                                                    : "many types";
    snprintf(info->isa, sizeof info->isa, "OpenCL C 1.2, %s", kind);
    if ((type & all) == CL_DEVICE_TYPE_GPU)
        info->caps |= AKV_CAP_GPU;
    info->is_cpu_opencl = (type & CL_DEVICE_TYPE_CPU) != 0;
    info->bytes_total = number(cl, device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(cl_ulong));
    size_t free_kib[2] = {0, 0};
    if (akv_cl_has_extension(cl, device, "cl_amd_device_attribute_query") &&
        cl->device_info(device, DEVICE_FREE_AMD, sizeof free_kib, free_kib, NULL) == CL_SUCCESS)
        info->bytes_free = (uint64_t)free_kib[0] * 1024u;
    info->max_alloc = number(cl, device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(cl_ulong));
    info->align = 16;
    judge(cl, device, info->reason, sizeof info->reason);
    if (!info->reason[0] && !info->max_alloc)
        snprintf(info->reason, sizeof info->reason, "device does not say how much it allocates");
    info->usable = info->reason[0] == '\0';
}

/* Visits the devices in their fixed order until `visit` returns true. */
static anykv_status walk(anykv_context *context, const struct akv_cl *cl,
                         bool (*visit)(void *user, uint32_t index,
                                       const struct akv_cl_place *place),
                         void *user, uint32_t *count_out)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint platform_count = 0;
    *count_out = 0;
    cl_int code = cl->platform_ids(MAX_PLATFORMS, platforms, &platform_count);
    if (code != CL_SUCCESS && code != -1001) /* CL_PLATFORM_NOT_FOUND_KHR: none is installed */
        return akv_cl_fail(context, "clGetPlatformIDs", code);
    if (code != CL_SUCCESS)
        platform_count = 0;
    for (cl_uint p = 0; p < AKV_MIN(platform_count, MAX_PLATFORMS); p++) {
        cl_device_id devices[MAX_DEVICES];
        cl_uint device_count = 0;
        code =
            cl->device_ids(platforms[p], CL_DEVICE_TYPE_ALL, MAX_DEVICES, devices, &device_count);
        if (code != CL_SUCCESS) {
            if (code != CL_DEVICE_NOT_FOUND)
                akv_log(context, ANYKV_LOG_WARNING, "opencl: platform %u: clGetDeviceIDs: %s (%d)",
                        p, akv_cl_error_name(code), code);
            continue;
        }
        for (cl_uint d = 0; d < AKV_MIN(device_count, MAX_DEVICES); d++) {
            struct akv_cl_place place = {platforms[p], devices[d]};
            if (visit(user, (*count_out)++, &place))
                return ANYKV_OK;
        }
    }
    return ANYKV_OK;
}

struct listing {
    const struct akv_cl *cl;
    struct akv_device_info *infos;
    uint32_t capacity;
};

static bool list_one(void *user, uint32_t index, const struct akv_cl_place *place)
{
    struct listing *listing = user;
    if (index < listing->capacity) {
        struct akv_device_info *info = &listing->infos[index];
        memset(info, 0, sizeof *info);
        info->index = index;
        akv_cl_describe(listing->cl, place, info);
    }
    return false;
}

/* One unusable entry that says why there is no device. */
static void none(uint32_t capacity, struct akv_device_info *infos, const char *reason,
                 uint32_t *count_out)
{
    if (capacity) {
        memset(infos, 0, sizeof *infos);
        infos->backend = "opencl";
        snprintf(infos->name, sizeof infos->name, "OpenCL");
        snprintf(infos->reason, sizeof infos->reason, "%s", reason);
    }
    *count_out = 1;
}

anykv_status akv_cl_probe(anykv_context *context, uint32_t capacity, struct akv_device_info *infos,
                          uint32_t *count_out)
{
    char reason[256];
    const struct akv_cl *cl = akv_cl_load(reason, sizeof reason);
    if (!cl) {
        none(capacity, infos, reason, count_out);
        return ANYKV_OK;
    }
    struct listing listing = {cl, infos, capacity};
    uint32_t count = 0;
    if (walk(context, cl, list_one, &listing, &count) != ANYKV_OK)
        none(capacity, infos, anykv_error_detail(), count_out);
    else if (count == 0)
        none(capacity, infos, "no OpenCL platform offers a device", count_out);
    else
        *count_out = count;
    return ANYKV_OK;
}

struct search {
    uint32_t index;      /* wanted number, or */
    cl_device_id device; /* wanted device */
    struct akv_cl_place place;
    bool found;
};

static bool match(void *user, uint32_t index, const struct akv_cl_place *place)
{
    struct search *search = user;
    if (search->device ? place->device != search->device : index != search->index)
        return false;
    search->index = index;
    search->place = *place;
    search->found = true;
    return true;
}

anykv_status akv_cl_find(anykv_context *context, const struct akv_cl *cl, uint32_t index,
                         struct akv_cl_place *place_out)
{
    struct search search = {.index = index};
    uint32_t count;
    anykv_status status = walk(context, cl, match, &search, &count);
    if (status != ANYKV_OK)
        return status;
    if (!search.found)
        return akv_fail(context, ANYKV_E_NOT_FOUND, "device: OpenCL has %u devices, no number %u",
                        count, index);
    *place_out = search.place;
    return ANYKV_OK;
}

anykv_status akv_cl_index_of(anykv_context *context, const struct akv_cl *cl, cl_device_id device,
                             uint32_t *index_out)
{
    struct search search = {.device = device};
    uint32_t count;
    anykv_status status = walk(context, cl, match, &search, &count);
    if (status != ANYKV_OK)
        return status;
    if (!search.found)
        return akv_fail(context, ANYKV_E_NOT_FOUND, "cl_device: no platform lists it");
    *index_out = search.index;
    return ANYKV_OK;
}
