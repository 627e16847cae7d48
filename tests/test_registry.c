/* SPDX-License-Identifier: Apache-2.0 */
/* Which device a name means, with backends that are made up: the registry's own text is compiled
 * here against them. */
#include "house.h"
#include <stdlib.h>

#undef AKV_WITH_OPENCL
#undef AKV_WITH_CUDA
#define AKV_WITH_OPENCL    1
#define AKV_WITH_CUDA      1
#define akv_backends       fake_backends
#define akv_backend_cpu    fake_cpu
#define akv_backend_opencl fake_opencl
#define akv_backend_cuda   fake_cuda
#define akv_devices_list   fake_devices_list
#define akv_native_queue   fake_native_queue
#define akv_device_open    fake_device_open
anykv_status fake_devices_list(anykv_context *context, struct akv_device_info **infos_out,
                               uint32_t *count_out);
void *fake_native_queue(const struct akv_device *device, const anykv_device_options *options);
anykv_status fake_device_open(anykv_context *context, const char *name,
                              const anykv_device_options *options, struct akv_device **device_out);
extern const struct akv_backend *const fake_backends[];
#include "backends/registry.c"

/* ---- backends that open nothing but say which device was meant ---- */

static struct akv_device_info fakes[3][40];
static uint32_t fake_count[3];
static anykv_status probe_result, open_result;
static unsigned probes[3];
static struct akv_device opened;

static anykv_status fake_probe(unsigned which, uint32_t capacity, struct akv_device_info *infos,
                               uint32_t *count_out)
{
    probes[which]++;
    if (probe_result)
        return akv_fail(NULL, probe_result, "the probe fails");
    for (uint32_t i = 0; i < fake_count[which] && i < capacity; i++)
        infos[i] = fakes[which][i];
    *count_out = fake_count[which];
    return ANYKV_OK;
}

static anykv_status fake_open(const struct akv_backend *backend, uint32_t index,
                              struct akv_device **device_out)
{
    if (open_result && strcmp(backend->name, "cpu") != 0)
        return akv_fail(NULL, open_result, "it does not open");
    opened.backend = backend;
    opened.info.index = index;
    *device_out = &opened;
    return ANYKV_OK;
}

#define FAKE(name_, which)                                                                         \
    static anykv_status probe_##name_(anykv_context *context, uint32_t capacity,                   \
                                      struct akv_device_info *infos, uint32_t *count_out)          \
    {                                                                                              \
        (void)context;                                                                             \
        return fake_probe(which, capacity, infos, count_out);                                      \
    }                                                                                              \
    static anykv_status open_##name_(anykv_context *context, uint32_t index,                       \
                                     const anykv_device_options *options,                          \
                                     struct akv_device **device_out)                               \
    {                                                                                              \
        (void)context, (void)options;                                                              \
        return fake_open(&fake_##name_, index, device_out);                                        \
    }                                                                                              \
    const struct akv_backend fake_##name_ = {                                                      \
        .abi = AKV_BACKEND_ABI, .name = #name_, .probe = probe_##name_, .open = open_##name_}
FAKE(cpu, 0);
FAKE(opencl, 1);
FAKE(cuda, 2);

static void add(unsigned which, const char *name, const char *uuid, uint32_t caps, bool usable,
                bool cpu_opencl)
{
    struct akv_device_info *info = &fakes[which][fake_count[which]];
    *info = (struct akv_device_info){
        .index = fake_count[which]++, .caps = caps, .usable = usable, .is_cpu_opencl = cpu_opencl};
    snprintf(info->name, sizeof info->name, "%s", name);
    snprintf(info->uuid, sizeof info->uuid, "%s", uuid);
    if (!usable)
        snprintf(info->reason, sizeof info->reason, "%s is asleep", name);
}

static anykv_context *start(void)
{
    unsetenv("ANYKV_DEVICE");
    memset(fake_count, 0, sizeof fake_count);
    memset(probes, 0, sizeof probes);
    probe_result = open_result = ANYKV_OK;
    add(0, "Processor", "", AKV_CAP_HOST_MEMORY, true, false);
    return house_context();
}

static void expect(anykv_context *context, const char *name, const char *backend, uint32_t index)
{
    struct akv_device *device;
    OK(akv_device_open(context, name, NULL, &device));
    cr_expect(strcmp(device->backend->name, backend) == 0 && device->info.index == index,
              "\"%s\" opened %s:%u, not %s:%u", name, device->backend->name, device->info.index,
              backend, index);
}

static void finish(anykv_context *context)
{
    anykv_context_destroy(context);
    cr_expect(akv_alloc_live() == 0, "%llu allocations are left",
              (unsigned long long)akv_alloc_live());
}

/* ---- auto ---- */

Test(registry, auto_takes_the_first_usable_gpu)
{
    anykv_context *context = start();
    expect(context, "auto", "cpu", 0);
    add(1, "Portable", "", 0, true, true);
    expect(context, "auto", "cpu", 0); /* never a CPU under OpenCL */
    add(1, "Accelerator", "", 0, true, false);
    expect(context, "auto", "cpu", 0); /* nor what is no GPU */
    add(1, "Broken GPU", "", AKV_CAP_GPU, false, false);
    expect(context, "auto", "cpu", 0);
    add(1, "Good GPU", "", AKV_CAP_GPU, true, false);
    expect(context, "auto", "opencl", 3);
    add(2, "Sleeping GPU", "", AKV_CAP_GPU, false, false);
    expect(context, "auto", "opencl", 3);
    add(2, "Best GPU", "", AKV_CAP_GPU, true, false);
    expect(context, "auto", "cuda", 1);
    open_result = ANYKV_E_DEVICE; /* one that does not open is passed over */
    expect(context, "auto", "cpu", 0);
    open_result = ANYKV_E_MEMORY; /* but this is no matter of the device */
    struct akv_device *device;
    REFUSED(ANYKV_E_MEMORY, "not open", akv_device_open(context, "auto", NULL, &device));
    finish(context);
}

Test(registry, environment)
{
    anykv_context *context = start();
    struct akv_device *device;
    add(1, "Portable", "", 0, true, true);
    add(2, "GPU", "", AKV_CAP_GPU, true, false);
    setenv("ANYKV_DEVICE", "opencl", 1);
    expect(context, "auto", "opencl", 0);
    expect(context, "cuda", "cuda", 0); /* only "auto" asks the environment */
    setenv("ANYKV_DEVICE", "cpu", 1);
    expect(context, "auto", "cpu", 0);
    setenv("ANYKV_DEVICE", "", 1);
    expect(context, "auto", "cuda", 0);
    setenv("ANYKV_DEVICE", "auto", 1);
    expect(context, "auto", "cuda", 0);
    setenv("ANYKV_DEVICE", "cuda", 1);
    open_result = ANYKV_E_DEVICE; /* an explicit wish that fails is an error */
    REFUSED(ANYKV_E_DEVICE, "not open", akv_device_open(context, "auto", NULL, &device));
    setenv("ANYKV_DEVICE", "nonsense", 1);
    REFUSED(ANYKV_E_NOT_FOUND, "ANYKV_DEVICE: \"nonsense\"",
            akv_device_open(context, "auto", NULL, &device));
    finish(context);
}

/* ---- names ---- */

Test(registry, names)
{
    anykv_context *context = start();
    struct akv_device *device;
    add(1, "Portable", "", 0, true, true);
    add(1, "Twin", "uuid-a", AKV_CAP_GPU, false, false);
    add(1, "Twin", "uuid-b", AKV_CAP_GPU, true, false);
    add(2, "Twin", "uuid-c", AKV_CAP_GPU, true, false);
    add(2, "7", "", AKV_CAP_GPU, true, false);
    expect(context, "cpu", "cpu", 0);
    cr_expect(probes[1] == 0 && probes[2] == 0, "\"cpu\" asked the other runtimes");
    expect(context, "opencl", "opencl", 2); /* its first usable GPU */
    expect(context, "opencl:0", "opencl", 0);
    expect(context, "Portable", "opencl", 0);
    expect(context, "Twin", "opencl", 2); /* the first usable of equal names */
    expect(context, "uuid-c", "cuda", 0);
    expect(context, "0", "cpu", 0);
    expect(context, "3", "opencl", 2); /* of the whole list */
    expect(context, "4", "cuda", 0);
    expect(context, "7", "cuda", 1); /* a name comes before an index */
    REFUSED(ANYKV_E_DEVICE, "Twin is asleep", akv_device_open(context, "2", NULL, &device));
    REFUSED(ANYKV_E_DEVICE, "Twin is asleep", akv_device_open(context, "uuid-a", NULL, &device));
    REFUSED(ANYKV_E_DEVICE, "Twin is asleep", akv_device_open(context, "opencl:1", NULL, &device));
    REFUSED(ANYKV_E_NOT_FOUND, "\"6\"", akv_device_open(context, "6", NULL, &device));
    REFUSED(ANYKV_E_NOT_FOUND, "no such device", akv_device_open(context, "cuda:2", NULL, &device));
    REFUSED(ANYKV_E_NOT_FOUND, "not an index", akv_device_open(context, "cuda:-1", NULL, &device));
    REFUSED(ANYKV_E_NOT_FOUND, "\"twin\"", akv_device_open(context, "twin", NULL, &device));
    finish(context);
}

Test(registry, a_backend_without_usable_devices_gives_the_reason)
{
    anykv_context *context = start();
    struct akv_device *device;
    add(2, "Sleeping GPU", "", AKV_CAP_GPU, false, false);
    REFUSED(ANYKV_E_DEVICE, "Sleeping GPU is asleep",
            akv_device_open(context, "cuda", NULL, &device));
    REFUSED(ANYKV_E_NOT_FOUND, "no such device", akv_device_open(context, "opencl", NULL, &device));
    finish(context);
}

/* More devices than the first guess, and what the options name for each backend. */
Test(registry, long_lists_and_native_queues)
{
    anykv_context *context = start();
    char name[16];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "GPU %d", i);
        add(1, name, "", AKV_CAP_GPU, i == 39, false);
    }
    expect(context, "GPU 39", "opencl", 39);
    expect(context, "40", "opencl", 39);
    struct akv_device_info *infos = NULL;
    uint32_t count = 0;
    OK(akv_devices_list(context, &infos, &count));
    cr_expect(count == 41 && strcmp(infos[0].backend, "cpu") == 0 && infos[40].index == 39);
    akv_free(context, infos);
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    int stream, queue;
    options.cuda_stream = &stream;
    options.cl_queue = &queue;
    opened.backend = &fake_cuda;
    cr_expect(akv_native_queue(&opened, &options) == &stream);
    opened.backend = &fake_opencl;
    cr_expect(akv_native_queue(&opened, &options) == &queue);
    opened.backend = &fake_cpu;
    cr_expect_null(akv_native_queue(&opened, &options));
    finish(context);
}

Test(registry, a_failing_probe)
{
    anykv_context *context = start();
    struct akv_device *device;
    struct akv_device_info *infos;
    uint32_t count;
    probe_result = ANYKV_E_MEMORY;
    REFUSED(ANYKV_E_MEMORY, "probe", akv_device_open(context, "auto", NULL, &device));
    REFUSED(ANYKV_E_MEMORY, "probe", akv_devices_list(context, &infos, &count));
    probe_result = ANYKV_OK;
    for (uint64_t n = 1; n <= 3; n++) {
        akv_alloc_fail_at(n, false);
        REFUSED(ANYKV_E_MEMORY, "memory", akv_devices_list(context, &infos, &count));
    }
    akv_alloc_fail_at(0, false);
    expect(context, "auto", "cpu", 0);
    finish(context);
}
