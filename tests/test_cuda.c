/* SPDX-License-Identifier: Apache-2.0 */
/* The host side of the CUDA backend on a fake driver: absent and refused devices, contexts, memory, queues,
 * events. */
#include "house.h"
#if defined(AKV_WITH_CUDA)
#include "cuda_rig.h"

/* ---- no device, and why ---- */

static void expect_absent(const char *reason)
{
    anykv_context *context = house_context();
    struct akv_device_info info;
    struct akv_device *opened;
    uint32_t count = 0;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    OK(akv_backend_cuda.probe(context, 1, &info, &count));
    cr_expect(count >= 1 && !info.usable && strstr(info.reason, reason), "\"%s\" does not say \"%s\"",
              info.reason, reason);
    REFUSED(ANYKV_E_DEVICE, reason, akv_device_open(context, "cuda", &options, &opened));
    anykv_device *device;
    OK(anykv_device_open(context, "cpu", NULL, &device));
    anykv_device_close(device);
    anykv_context_destroy(context);
    cr_expect(akv_alloc_live() == 0);
}

Test(cuda, absent_library)
{
    setenv("ANYKV_CUDA_LIBRARY", "/nonexistent/libcuda.so.1", 1);
    expect_absent("cannot open /nonexistent/libcuda.so.1");
}
Test(cuda, library_without_functions)
{
    setenv("ANYKV_CUDA_LIBRARY", "libm.so.6", 1);
    expect_absent("too old: it lacks cuInit");
}
Test(cuda, driver_that_does_not_start)
{
    rig_use_fake();
    setenv("FAKE_CUDA", "broken", 1);
    expect_absent("does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)");
}
Test(cuda, driver_without_devices)
{
    rig_use_fake();
    setenv("FAKE_CUDA", "none", 1);
    expect_absent("knows no device");
}
Test(cuda, card_that_is_too_old)
{
    rig_use_fake();
    setenv("FAKE_CUDA", "old", 1);
    expect_absent("compute capability 7.0");
}

/* ---- opening, and whose context ---- */

Test(cuda, description)
{
    struct rig rig = rig_set_up();
    const struct akv_device_info *info = &rig.device->info;
    uint64_t total = 0, unused = 0;
    cr_expect_str_eq(info->name, "Fake card 0");
    cr_expect_str_eq(info->isa, "sm_90");
    cr_expect_str_eq(info->driver, "CUDA 13.0");
    cr_expect_str_eq(info->uuid, "a0a0a0a0-a0a0-a0a0-a0a0-a0a0a0a0a0a0");
    cr_expect(info->caps & AKV_CAP_GPU);
    OK(akv_device_memory(rig.device, &total, &unused));
    cr_expect(total == 1u << 30 && unused < total);
    rig_tear_down(&rig);
}

/* Nothing current: the primary context, retained once and given back. */
Test(cuda, primary_context)
{
    struct rig rig = rig_set_up();
    struct fake_cuda_state s;
    rig.fake->state(&s);
    cr_expect(s.retained == 1 && s.contexts == 1 && s.stack == 0);
    rig_tear_down(&rig);
    rig.fake->state(&s);
    cr_expect(s.contexts == 0);
}

static void use_once(struct rig *rig)
{
    uint32_t sent = 0x12345678u, got = 0;
    struct akv_mem *mem;
    struct akv_event *event;
    bool done = false;
    OK(akv_mem_alloc(rig->device, 64, AKV_MEM_DEVICE, &mem));
    OK(akv_event_create(rig->device, &event));
    OK(akv_queue_put(rig->queue, (struct akv_span){mem, 4, 4}, &sent));
    OK(akv_event_record(event, rig->queue));
    OK(akv_queue_get(rig->queue, &got, (struct akv_span){mem, 4, 4}));
    OK(akv_queue_wait(rig->queue, UINT64_MAX));
    OK(akv_event_query(event, &done));
    cr_expect(done && got == sent);
    akv_event_destroy(event);
    akv_mem_free(mem);
}

/* What one device loaded serves all that are open on its context, whoever goes first. */
Test(cuda, devices_share_their_code)
{
    struct rig rig = rig_set_up();
    struct fake_cuda_state one, two;
    rig.fake->state(&one);
    struct rig second = {.fake = rig.fake, .context = house_context()};
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    OK(akv_device_open(second.context, "cuda", &options, &second.device));
    OK(akv_queue_create(second.device, NULL, &second.queue));
    rig.fake->state(&two);
    cr_expect(one.modules > 0 && two.modules == one.modules && two.retained == 2);
    cr_expect(((struct akv_cuda_device *)rig.device)->code == ((struct akv_cuda_device *)second.device)->code);
    akv_queue_destroy(rig.queue);
    akv_device_close(rig.device);
    anykv_context_destroy(rig.context);
    rig.fake->state(&two);
    cr_expect(two.modules == one.modules && two.retained == 1);
    use_once(&second);
    struct rig third = {.fake = rig.fake, .context = house_context()}; /* its known answers run that code */
    OK(akv_device_open(third.context, "cuda", &options, &third.device));
    akv_device_close(third.device);
    anykv_context_destroy(third.context);
    rig_tear_down(&second);
}

/* An application of the runtime interface has a context current all the time: it is used where it is of
 * this device, and stands as before after every call. */
Test(cuda, current_context)
{
    for (int other = 0; other < 2; other++) {
        const struct fake_cuda *fake = rig_use_fake();
        char reason[200];
        const struct akv_cu *cu = akv_cu_load(reason, sizeof reason);
        cr_assert(cu, "%s", reason);
        CUcontext mine = fake->context(other), now = NULL;
        cr_assert(cu->context_push(mine) == AKV_CU_OK);
        struct rig rig = rig_set_up();
        struct fake_cuda_state s;
        fake->state(&s);
        cr_expect(s.stack == 1 && s.retained == (uint64_t)other);
        cr_expect((((struct akv_cuda_device *)rig.device)->context == mine) == !other);
        use_once(&rig);
        cr_expect(cu->context_current(&now) == AKV_CU_OK && now == mine);
        akv_queue_destroy(rig.queue);
        akv_device_close(rig.device);
        anykv_context_destroy(rig.context);
        cr_expect(cu->context_current(&now) == AKV_CU_OK && now == mine);
        fake->state(&s);
        cr_expect(s.stack == 1 && s.contexts == 1 && s.retained == 0, "the application's context lives on");
        cr_expect(cu->context_pop(&now) == AKV_CU_OK && now == mine);
        rig_expect_clean(fake, "with a current context");
        fake->context_free(mine);
    }
}

/* The caller's context and stream: used, never destroyed, in order with the caller's own work. */
Test(cuda, adopted_context_and_stream)
{
    const struct fake_cuda *fake = rig_use_fake();
    char reason[200];
    const struct akv_cu *cu = akv_cu_load(reason, sizeof reason);
    cr_assert(cu, "%s", reason);
    CUcontext mine = fake->context(0), strange = fake->context(1), now;
    CUstream stream;
    CUdeviceptr buffer;
    anykv_context *context = house_context();
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_device *device;
    anykv_mem *mem;
    cr_assert(cu->context_push(mine) == AKV_CU_OK && cu->stream_create(&stream, 0) == AKV_CU_OK &&
              cu->memory_alloc(&buffer, 4096) == AKV_CU_OK && cu->context_pop(&now) == AKV_CU_OK);
    fake->defer(1);
    options.cuda_stream = stream;
    options.cuda_context = strange;
    REFUSED(ANYKV_E_ARG, "another device", anykv_device_open(context, "cuda", &options, &device));
    options.cuda_context = mine;
    OK(anykv_device_open(context, "cuda", &options, &device));
    cr_expect(((struct akv_cuda_queue *)device->queue)->stream == stream);
    OK(anykv_mem_adopt(device, (void *)(uintptr_t)buffer, 4096, &mem));
    uint32_t sent = 0x12345678u, got = 0;
    OK(anykv_mem_put(mem, 8, &sent, sizeof sent));
    cr_assert(cu->context_push(mine) == AKV_CU_OK);
    cr_assert(cu->device_to_host(&got, buffer + 8, sizeof got, stream) == AKV_CU_OK);
    cr_assert(cu->stream_wait(stream) == AKV_CU_OK);
    cr_expect(got == sent, "the caller's stream sees what ours wrote, in order");
    cr_assert(cu->context_pop(&now) == AKV_CU_OK && now == mine);
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    anykv_context_destroy(context);
    struct fake_cuda_state s;
    fake->state(&s);
    cr_expect(s.contexts == 2 && s.streams == 1 && s.device_memory == 1 && s.pinned_memory == 0 &&
                  s.events == 0 && s.modules == 0 && s.retained == 0 && s.stack == 0,
              "exactly the caller's objects are left");
    cr_assert(cu->context_push(mine) == AKV_CU_OK && cu->stream_destroy(stream) == AKV_CU_OK &&
              cu->memory_free(buffer) == AKV_CU_OK && cu->context_pop(&now) == AKV_CU_OK);
    fake->context_free(mine);
    fake->context_free(strange);
    rig_expect_clean(fake, "with the caller's objects");
}

/* ---- transfers, events, waiting ---- */

Test(cuda, transfers)
{
    enum { BYTES = 5 * 1024 * 1024 + 13 }; /* more than the staging ring, and ragged */
    uint8_t *from = malloc(BYTES), *to = malloc(BYTES), *stage = malloc(BYTES);
    uint64_t state = 7;
    cr_assert(from && to && stage);
    for (size_t i = 0; i < BYTES; i++)
        from[i] = (uint8_t)house_random(&state);
    for (int defer = 0; defer < 2; defer++) {
        struct rig rig = rig_set_up();
        struct akv_mem *mem, *other, *pinned;
        rig.fake->defer(defer);
        OK(akv_mem_alloc(rig.device, BYTES, AKV_MEM_DEVICE, &mem));
        OK(akv_mem_alloc(rig.device, BYTES, AKV_MEM_DEVICE, &other));
        OK(akv_mem_alloc(rig.device, 4096, AKV_MEM_PINNED, &pinned));
        cr_expect(akv_mem_map(pinned) && !akv_mem_map(mem));
        /* The source has been read on return; a stage is not overwritten while a copy reads it. */
        memcpy(stage, from, BYTES);
        for (uint64_t at = 0; at < 3000; at += 3)
            OK(akv_queue_put(rig.queue, (struct akv_span){mem, at, 3}, stage + at));
        OK(akv_queue_put(rig.queue, (struct akv_span){mem, 3000, BYTES - 3000}, stage + 3000));
        memset(stage, 0, BYTES);
        OK(akv_queue_copy(rig.queue, (struct akv_span){other, 0, BYTES}, (struct akv_span){mem, 0, BYTES}));
        OK(akv_queue_fill(rig.queue, (struct akv_span){mem, 1, BYTES - 1}, 0xAB));
        OK(akv_queue_get(rig.queue, to, (struct akv_span){other, 0, BYTES}));
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        cr_expect(memcmp(from, to, BYTES) == 0, "defer %d", defer);
        OK(akv_queue_get(rig.queue, to, (struct akv_span){mem, 0, BYTES}));
        OK(akv_queue_wait(rig.queue, 10000000000u)); /* by asking again and again */
        cr_expect(to[0] == from[0] && to[1] == 0xAB && to[BYTES - 1] == 0xAB);
        OK(akv_queue_copy(rig.queue, (struct akv_span){pinned, 16, 100}, (struct akv_span){other, 50, 100}));
        OK(akv_queue_copy(rig.queue, (struct akv_span){mem, 5, 100}, (struct akv_span){pinned, 16, 100}));
        OK(akv_queue_get(rig.queue, to, (struct akv_span){mem, 5, 100}));
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        cr_expect(memcmp(to, from + 50, 100) == 0);
        cr_expect(memcmp((uint8_t *)akv_mem_map(pinned) + 16, from + 50, 100) == 0);
        akv_mem_free(pinned);
        akv_mem_free(other);
        akv_mem_free(mem);
        rig_tear_down(&rig);
    }
    free(from);
    free(to);
    free(stage);
}

Test(cuda, memory_that_is_not_there)
{
    struct rig rig = rig_set_up();
    struct akv_mem *mem;
    REFUSED(ANYKV_E_MEMORY, "out of memory",
            akv_cuda_mem_alloc(rig.device, UINT64_C(2) << 30, AKV_MEM_DEVICE, &mem));
    REFUSED(ANYKV_E_MEMORY, "pinned memory",
            akv_cuda_mem_alloc(rig.device, UINT64_C(2) << 30, AKV_MEM_PINNED, &mem));
    rig_tear_down(&rig);
}

Test(cuda, events)
{
    struct rig rig = rig_set_up();
    struct akv_queue *second;
    struct akv_event *from, *to, *never;
    struct akv_mem *mem;
    bool done = true;
    uint64_t ns = UINT64_MAX;
    OK(akv_queue_create(rig.device, NULL, &second));
    OK(akv_mem_alloc(rig.device, 4096, AKV_MEM_DEVICE, &mem));
    OK(akv_event_create(rig.device, &from));
    OK(akv_event_create(rig.device, &to));
    OK(akv_event_create(rig.device, &never));
    rig.fake->defer(1);
    rig.fake->stall(1);
    OK(akv_event_record(from, rig.queue));
    OK(akv_queue_fill(rig.queue, (struct akv_span){mem, 0, 4096}, 1));
    OK(akv_event_record(to, rig.queue));
    OK(akv_event_await(to, second));
    OK(akv_event_query(to, &done));
    cr_expect(!done);
    REFUSED(ANYKV_E_TIMEOUT, "not passed", akv_event_wait(to, 1000000));
    REFUSED(ANYKV_E_TIMEOUT, "not empty", akv_queue_wait(rig.queue, 1000000));
    cr_expect(akv_event_elapsed(from, to, &ns) != ANYKV_OK);
    rig.fake->stall(0);
    OK(akv_event_wait(from, 10000000000u));
    OK(akv_event_wait(to, UINT64_MAX));
    OK(akv_event_query(to, &done));
    cr_expect(done);
    OK(akv_event_elapsed(from, to, &ns));
    cr_expect(ns < 60000000000u, "%llu ns", (unsigned long long)ns);
    cr_expect(akv_event_elapsed(from, never, &ns) != ANYKV_OK);
    OK(akv_queue_wait(second, UINT64_MAX));
    akv_event_destroy(never);
    akv_event_destroy(to);
    akv_event_destroy(from);
    akv_mem_free(mem);
    akv_queue_destroy(second);
    rig_tear_down(&rig);
}

/* A kernel that goes wrong is known to the next wait, and from then on to every call; closing lets go of
 * everything all the same. */
Test(cuda, failure_of_asynchronous_work)
{
    struct rig rig = rig_set_up();
    struct akv_mem *mem, *more;
    struct akv_event *event;
    uint8_t bytes[64] = {1};
    bool done;
    OK(akv_mem_alloc(rig.device, 64, AKV_MEM_DEVICE, &mem));
    OK(akv_event_create(rig.device, &event));
    const struct akv_span all = {mem, 0, 64};
    OK(akv_queue_fill(rig.queue, all, 1));
    rig.fake->poison(700);
    REFUSED(ANYKV_E_DEVICE, "illegal memory access", akv_queue_wait(rig.queue, UINT64_MAX));
    static const char why[] = "is lost: CUDA_ERROR_ILLEGAL_ADDRESS";
    REFUSED(ANYKV_E_DEAD, why, akv_queue_wait(rig.queue, 1000000));
    REFUSED(ANYKV_E_DEAD, why, akv_queue_put(rig.queue, all, bytes));
    REFUSED(ANYKV_E_DEAD, why, akv_queue_get(rig.queue, bytes, all));
    REFUSED(ANYKV_E_DEAD, why, akv_queue_fill(rig.queue, all, 2));
    REFUSED(ANYKV_E_DEAD, why, akv_mem_alloc(rig.device, 64, AKV_MEM_DEVICE, &more));
    REFUSED(ANYKV_E_DEAD, why, akv_event_record(event, rig.queue));
    REFUSED(ANYKV_E_DEAD, why, akv_event_query(event, &done));
    REFUSED(ANYKV_E_DEAD, why, akv_event_wait(event, UINT64_MAX));
    akv_event_destroy(event);
    akv_mem_free(mem);
    /* Code that is lost serves no other device, whatever the handle of its context. */
    const struct akv_cuda_device *lost = (struct akv_cuda_device *)rig.device;
    struct akv_cuda_device other = {.cu = lost->cu, .context = lost->context};
    OK(akv_cuda_code_open(&other));
    cr_expect(other.code != lost->code);
    akv_cuda_code_close(&other);
    rig_tear_down(&rig);
}

#else
Test(cuda, not_built)
{
    cr_skip_test("this build has no CUDA backend");
}
#endif
