/* SPDX-License-Identifier: Apache-2.0 */
/* The OpenCL backend: absent and refused devices, memory, queues, events, the caller's own objects.
 */
#include "house.h"
#if defined(AKV_WITH_OPENCL)
#include "opencl_rig.h"
#include "backends/cpu/cpu.h"
#include <poll.h>

Test(opencl, absent_library)
{
    setenv("ANYKV_OPENCL_LIBRARY", "/nonexistent/libOpenCL.so", 1);
    anykv_context *context = house_context();
    struct akv_device_info info;
    uint32_t count = 0;
    OK(akv_backend_opencl.probe(context, 1, &info, &count));
    cr_expect(count == 1 && !info.usable);
    cr_expect(strstr(info.reason, "/nonexistent/libOpenCL.so"), "%s", info.reason);
    anykv_device *device;
    REFUSED(ANYKV_E_DEVICE, "no OpenCL", anykv_device_open(context, "opencl", NULL, &device));
    OK(anykv_device_open(context, "auto", NULL, &device));
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(opencl, library_without_functions)
{
    setenv("ANYKV_OPENCL_LIBRARY", "libm.so.6", 1);
    anykv_context *context = house_context();
    struct akv_device *device;
    REFUSED(ANYKV_E_DEVICE, "lacks clGetPlatformIDs", rig_open(context, &device));
    anykv_context_destroy(context);
}

Test(opencl, refused_devices)
{
    static const struct {
        const char *pose, *reason;
    } cases[] = {
        {"embedded", "profile"},         {"old", "OpenCL 1.2 is needed"},
        {"compilerless", "no compiler"}, {"big-endian", "big-endian"},
        {"away", "not available"},       {"empty", "no OpenCL platform"},
    };
    rig_use_fake();
    rig_need_device();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("FAKE_OPENCL", cases[i].pose, 1);
        anykv_context *context = house_context();
        struct akv_device *device;
        REFUSED(ANYKV_E_DEVICE, cases[i].reason, rig_open(context, &device));
        anykv_context_destroy(context);
    }
}

Test(opencl, everything_is_no_gpu)
{
    rig_use_fake();
    setenv("FAKE_OPENCL", "everything", 1);
    anykv_context *context = house_context();
    struct akv_device_info info;
    uint32_t count = 0;
    OK(akv_backend_opencl.probe(context, 1, &info, &count));
    if (count && info.usable) {
        cr_expect(!(info.caps & AKV_CAP_GPU) && info.is_cpu_opencl);
        cr_expect(strstr(info.isa, "many types"), "%s", info.isa);
        anykv_device *device;
        anykv_device_info about = ANYKV_DEVICE_INFO_INIT;
        OK(anykv_device_open(context, "auto", NULL, &device));
        OK(anykv_device_describe(device, &about));
        cr_expect(strcmp(about.backend, "opencl") != 0);
        anykv_device_close(device);
    }
    anykv_context_destroy(context);
}

Test(opencl, shape_with_nonsense)
{
    rig_need_device();
    setenv("ANYKV_OPENCL_SHAPE", "round", 1);
    anykv_context *context = house_context();
    struct akv_device *device;
    REFUSED(ANYKV_E_ARG, "ANYKV_OPENCL_SHAPE", rig_open(context, &device));
    anykv_context_destroy(context);
}

/* The embedded digests are those of the scalar reference. */
Test(opencl, known_answers_are_the_cpu_s)
{
    static uint8_t tile[8 * 64 * 4], maps[AKV_CL_KNOWN_MAPS];
    struct akv_cl_known known;
    uint32_t mapped = 0;
    akv_cl_known_maps(maps);
    for (uint32_t i = 0; akv_cl_known_case(i, &known); i++) {
        uint32_t rows[8 * 64], saw = 0;
        char text[65];
        struct akv_cpu_args args = {.params = &known.params, .workers = 1};
        akv_cl_known_rows(rows);
        args.arg[0] = (uint8_t *)rows;
        args.arg[1] = tile;
        args.arg[2] = (uint8_t *)&saw;
        args.arg[3] = maps;
        akv_cpu_encode_scalar.run(&args, 0, 0, akv_cpu_encode_scalar.items(&args, 0));
        args.arg[0] = tile;
        args.arg[1] = (uint8_t *)rows;
        args.arg[2] = maps;
        akv_cpu_decode_scalar.run(&args, 0, 0, akv_cpu_decode_scalar.items(&args, 0));
        akv_sha256 state;
        akv_sha256_init(&state);
        akv_sha256_update(&state, tile, akv_tile_bytes(known.params.format, 8, 64));
        akv_sha256_update(&state, rows, sizeof rows);
        akv_digest digest = akv_sha256_final(&state);
        for (size_t b = 0; b < sizeof digest.byte; b++)
            snprintf(text + 2 * b, 3, "%02x", digest.byte[b]);
        cr_expect_str_eq(known.digest, text, "%s: %s", known.name, text);
        cr_expect(saw == (AKV_SAW_NAN | AKV_SAW_HUGE));
        mapped += (known.params.flags & AKV_FLAG_MAP) != 0;
    }
    cr_expect(mapped == 2);
}

struct rig {
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
};
static struct rig set_up(void)
{
    struct rig rig = {.context = house_context()};
    rig_need_device();
    OK(rig_open(rig.context, &rig.device));
    OK(akv_queue_create(rig.device, NULL, &rig.queue));
    return rig;
}
static void tear_down(struct rig *rig)
{
    akv_queue_destroy(rig->queue);
    akv_device_close(rig->device);
    anykv_context_destroy(rig->context);
    cr_expect(akv_alloc_live() == 0, "%llu allocations are left",
              (unsigned long long)akv_alloc_live());
}

Test(opencl, transfers)
{
    enum { BYTES = 9 * 1024 * 1024 + 13 }; /* more than the staging ring, and ragged */
    struct rig rig = set_up();
    struct akv_mem *mem, *other, *pinned;
    uint8_t *from = malloc(BYTES), *to = malloc(BYTES);
    uint64_t state = 7;
    cr_assert(from && to);
    for (size_t i = 0; i < BYTES; i++)
        from[i] = (uint8_t)house_random(&state);
    OK(akv_mem_alloc(rig.device, BYTES, AKV_MEM_DEVICE, &mem));
    OK(akv_mem_alloc(rig.device, BYTES, AKV_MEM_DEVICE, &other));
    OK(akv_mem_alloc(rig.device, 4096, AKV_MEM_PINNED, &pinned));
    cr_expect(akv_mem_map(pinned) && !akv_mem_map(mem));
    OK(akv_queue_get(rig.queue, to, (struct akv_span){mem, 0, BYTES}));
    OK(akv_queue_wait(rig.queue, UINT64_MAX));
    for (size_t i = 0; i < BYTES; i++)
        cr_assert(to[i] == 0, "new memory has byte %zu set", i);
    /* Many small transfers, then the rest: pieces of the ring are reused while they are read. */
    for (uint64_t at = 0; at < 3000; at += 3)
        OK(akv_queue_put(rig.queue, (struct akv_span){mem, at, 3}, from + at));
    OK(akv_queue_put(rig.queue, (struct akv_span){mem, 3000, BYTES - 3000}, from + 3000));
    OK(akv_queue_copy(rig.queue, (struct akv_span){other, 0, BYTES},
                      (struct akv_span){mem, 0, BYTES}));
    OK(akv_queue_fill(rig.queue, (struct akv_span){mem, 1, BYTES - 1}, 0xAB));
    OK(akv_queue_get(rig.queue, to, (struct akv_span){other, 0, BYTES}));
    OK(akv_queue_wait(rig.queue, UINT64_MAX));
    cr_expect(memcmp(from, to, BYTES) == 0);
    OK(akv_queue_get(rig.queue, to, (struct akv_span){mem, 0, BYTES}));
    OK(akv_queue_wait(rig.queue, UINT64_MAX));
    cr_expect(to[0] == from[0] && to[1] == 0xAB && to[BYTES - 1] == 0xAB);
    /* Pinned memory on either side. */
    OK(akv_queue_copy(rig.queue, (struct akv_span){pinned, 16, 100},
                      (struct akv_span){other, 50, 100}));
    OK(akv_queue_copy(rig.queue, (struct akv_span){mem, 5, 100},
                      (struct akv_span){pinned, 16, 100}));
    OK(akv_queue_copy(rig.queue, (struct akv_span){pinned, 200, 100},
                      (struct akv_span){pinned, 16, 100}));
    OK(akv_queue_get(rig.queue, to, (struct akv_span){mem, 5, 100}));
    OK(akv_queue_wait(rig.queue, UINT64_MAX));
    cr_expect(memcmp(to, from + 50, 100) == 0);
    cr_expect(memcmp((uint8_t *)akv_mem_map(pinned) + 200, from + 50, 100) == 0);
    akv_mem_free(pinned);
    akv_mem_free(other);
    akv_mem_free(mem);
    free(from);
    free(to);
    tear_down(&rig);
}

Test(opencl, memory_that_is_not_there)
{
    struct rig rig = set_up();
    struct akv_mem *mem;
    cr_expect(akv_mem_alloc(rig.device, UINT64_MAX / 2, AKV_MEM_DEVICE, &mem) != ANYKV_OK);
    cr_expect(strstr(anykv_error_detail(), "bytes"), "%s", anykv_error_detail());
    REFUSED(ANYKV_E_MEMORY, "bytes of device memory",
            akv_cl_mem_alloc(rig.device, UINT64_MAX - 3, AKV_MEM_DEVICE, &mem));
    uint64_t total, unused;
    OK(akv_device_memory(rig.device, &total, &unused));
    cr_expect(total > 0);
    tear_down(&rig);
}

Test(opencl, events)
{
    struct rig rig = set_up();
    struct akv_queue *second;
    struct akv_event *from, *to, *never;
    struct akv_mem *mem;
    bool done = false;
    uint64_t ns = UINT64_MAX;
    OK(akv_queue_create(rig.device, NULL, &second));
    OK(akv_mem_alloc(rig.device, 1 << 20, AKV_MEM_DEVICE, &mem));
    OK(akv_event_create(rig.device, &from));
    OK(akv_event_create(rig.device, &to));
    OK(akv_event_create(rig.device, &never));
    OK(akv_event_query(never, &done));
    cr_expect(done, "an event that was never recorded has passed");
    OK(akv_event_wait(never, 0));
    OK(akv_event_record(from, rig.queue));
    OK(akv_queue_fill(rig.queue, (struct akv_span){mem, 0, 1 << 20}, 1));
    OK(akv_event_record(to, rig.queue));
    OK(akv_event_await(to, second));
    OK(akv_queue_wait(second, UINT64_MAX));
    OK(akv_event_query(to, &done));
    cr_expect(done);
    OK(akv_event_elapsed(from, to, &ns));
    cr_expect(ns < 60000000000u, "%llu ns", (unsigned long long)ns);
    struct pollfd wait = {akv_event_fd(to), POLLIN, 0};
    cr_expect(wait.fd >= 0 && akv_event_fd(to) == wait.fd);
    cr_expect(poll(&wait, 1, 10000) == 1, "the descriptor of a passed event is readable");
    OK(akv_event_record(to, rig.queue)); /* again, descriptor and all */
    cr_expect(poll(&wait, 1, 10000) == 1);
    anykv_status status = akv_event_wait(to, 0);
    cr_expect(status == ANYKV_OK || status == ANYKV_E_TIMEOUT);
    OK(akv_event_wait(to, 10000000000u));
    OK(akv_queue_wait(rig.queue, 10000000000u));
    REFUSED(ANYKV_E_UNSUPPORTED, "never recorded", akv_event_elapsed(from, never, &ns));
    akv_event_destroy(never);
    akv_event_destroy(to);
    akv_event_destroy(from);
    akv_mem_free(mem);
    akv_queue_destroy(second);
    tear_down(&rig);
}

/* Objects of the caller, made with the same library as the backend's. */
Test(opencl, adopted_objects)
{
    rig_need_device();
    char reason[256];
    const struct akv_cl *cl = akv_cl_load(reason, sizeof reason);
    struct akv_cl_place place;
    anykv_context *context = house_context();
    cl_int code;
    OK(akv_cl_find(context, cl, 0, &place));
    cl_context mine = cl->create_context(NULL, 1, &place.device, NULL, NULL, &code);
    cl_context strange = cl->create_context(NULL, 1, &place.device, NULL, NULL, &code);
    cl_command_queue queue = cl->create_queue(mine, place.device, 0, &code);
    cl_command_queue loose =
        cl->create_queue(mine, place.device, CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &code);
    cl_mem buffer = cl->create_buffer(mine, CL_MEM_READ_WRITE, 4096, NULL, &code);
    cl_mem foreign = cl->create_buffer(strange, CL_MEM_READ_WRITE, 4096, NULL, &code);
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_device *device;
    anykv_mem *mem;
    options.cl_queue = queue;
    REFUSED(ANYKV_E_ARG, "cl_queue", anykv_device_open(context, "opencl", &options, &device));
    options.cl_context = mine;
    REFUSED(ANYKV_E_ARG, "cl_device", anykv_device_open(context, "opencl", &options, &device));
    options.cl_device = place.device;
    if (loose) { /* devices need not offer such queues */
        options.cl_queue = loose;
        REFUSED(ANYKV_E_ARG, "out of order",
                anykv_device_open(context, "opencl", &options, &device));
    }
    options.cl_queue = queue;
    options.cl_context = strange;
    REFUSED(ANYKV_E_ARG, "another cl_context",
            anykv_device_open(context, "opencl", &options, &device));
    options.cl_context = mine;
    OK(anykv_device_open(context, "opencl", &options, &device));
    REFUSED(ANYKV_E_ARG, "another cl_context", anykv_mem_adopt(device, foreign, 16, &mem));
    REFUSED(ANYKV_E_SHAPE, "4096", anykv_mem_adopt(device, buffer, 4097, &mem));
    OK(anykv_mem_adopt(device, buffer, 4096, &mem));
    uint32_t sent = 0x12345678u, got = 0;
    OK(anykv_mem_put(mem, 8, &sent, sizeof sent));
    cr_expect(cl->enqueue_read(queue, buffer, CL_TRUE, 8, sizeof got, &got, 0, NULL, NULL) ==
              CL_SUCCESS);
    cr_expect(got == sent, "the caller's queue sees what ours wrote, in order");
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    cl->release_buffer(foreign);
    cl->release_buffer(buffer);
    cl->release_queue(loose);
    cl->release_queue(queue);
    cl->release_context(strange);
    cl->release_context(mine);
    anykv_context_destroy(context);
    cr_expect(akv_alloc_live() == 0);
}

/* Both shapes pass the known-answer test on every device. */
Test(opencl, both_shapes_open)
{
    rig_need_device();
    for (int gpu = 0; gpu < 2; gpu++) {
        anykv_context *context = house_context();
        struct akv_device *device;
        setenv("ANYKV_OPENCL_SHAPE", gpu ? "gpu" : "cpu", 1);
        OK(rig_open(context, &device));
        akv_device_close(device);
        anykv_context_destroy(context);
    }
}

#else
Test(opencl, not_built)
{
    cr_skip_test("this build has no OpenCL backend");
}
#endif
