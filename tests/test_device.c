/* SPDX-License-Identifier: Apache-2.0 */
/* Public devices, device memory and events on the CPU. */
#include "house.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- finding and opening ---- */

Test(device, list)
{
    anykv_context *context = house_context();
    uint32_t count, again;
    OK(anykv_device_count(context, &count));
    OK(anykv_device_count(context, &again));
    cr_expect(count >= 1 && count == again);
    for (uint32_t i = 0; i < count; i++) {
        anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
        OK(anykv_device_query(context, i, &info));
        cr_expect(info.index == i && info.backend[0]);
        cr_expect(info.usable == (info.reason[0] == '\0'), "%s: usable %d, reason \"%s\"",
                  info.backend, info.usable, info.reason);
    }
    anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
    OK(anykv_device_query(context, 0, &info));
    cr_expect_str_eq(info.backend, "cpu");
    cr_expect(info.name[0] && info.isa[0] && info.bytes_total > info.bytes_free);
    strcpy(info.name, "untouched");
    REFUSED(ANYKV_E_NOT_FOUND, "index", anykv_device_query(context, count, &info));
    REFUSED(ANYKV_E_NOT_FOUND, "index", anykv_device_query(context, UINT32_MAX, &info));
    static const size_t sizes[] = {0, 7, SIZE_MAX, sizeof info + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        info.size = sizes[i];
        REFUSED(ANYKV_E_ARG, "size", anykv_device_query(context, 0, &info));
    }
    cr_expect_str_eq(info.name, "untouched");
    info.size = offsetof(anykv_device_info, name);
    OK(anykv_device_query(context, 0, &info));
    cr_expect_str_eq(info.name, "untouched", "a short struct was written beyond its end");
    REFUSED(ANYKV_E_ARG, "context", anykv_device_count(NULL, &count));
    REFUSED(ANYKV_E_ARG, "count_out", anykv_device_count(context, NULL));
    REFUSED(ANYKV_E_ARG, "context", anykv_device_query(NULL, 0, &info));
    REFUSED(ANYKV_E_ARG, "info_out", anykv_device_query(context, 0, NULL));
    anykv_context_destroy(context);
}

static void expect_opens(anykv_context *context, const char *name, const char *backend)
{
    anykv_device *device;
    OK(anykv_device_open(context, name, NULL, &device));
    anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
    OK(anykv_device_describe(device, &info));
    cr_expect_str_eq(info.backend, backend, "\"%s\" opened %s", name, info.backend);
    anykv_device_close(device);
}

Test(device, names)
{
    unsetenv("ANYKV_DEVICE");
    anykv_context *context = house_context();
    anykv_device *device = NULL;
    anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
    OK(anykv_device_query(context, 0, &info));
    expect_opens(context, "cpu", "cpu");
    expect_opens(context, "cpu:0", "cpu");
    expect_opens(context, "0", "cpu");
    expect_opens(context, info.name, "cpu");
    OK(anykv_device_open(context, "auto", NULL, &device));
    anykv_device_close(device);
    device = NULL;
    REFUSED(ANYKV_E_NOT_FOUND, "no such device",
            anykv_device_open(context, "cpu:1", NULL, &device));
    REFUSED(ANYKV_E_NOT_FOUND, "not an index", anykv_device_open(context, "cpu:", NULL, &device));
    REFUSED(ANYKV_E_NOT_FOUND, "not an index", anykv_device_open(context, "cpu:x", NULL, &device));
    static const char *const unknown[] = {
        "", "CPU", "cpu ", "nonsense", "99999", "-1", ":", "4294967296", "18446744073709551616"};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        REFUSED(ANYKV_E_NOT_FOUND, "device", anykv_device_open(context, unknown[i], NULL, &device));
    if (!anykv_feature("cuda"))
        REFUSED(ANYKV_E_NOT_FOUND, "does not have the backend",
                anykv_device_open(context, "cuda", NULL, &device));
    if (!anykv_feature("opencl"))
        REFUSED(ANYKV_E_NOT_FOUND, "does not have the backend",
                anykv_device_open(context, "opencl", NULL, &device));
    cr_expect_null(device, "a failure wrote the output");
    anykv_context_destroy(context);
}

/* A backend that is built in but has nothing usable says why. */
Test(device, unusable_backend_gives_its_reason)
{
    anykv_context *context = house_context();
    uint32_t count;
    OK(anykv_device_count(context, &count));
    for (uint32_t i = 0; i < count; i++) {
        anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
        OK(anykv_device_query(context, i, &info));
        if (info.usable)
            continue;
        char index[16];
        snprintf(index, sizeof index, "%u", i);
        anykv_device *device;
        REFUSED(ANYKV_E_DEVICE, info.reason, anykv_device_open(context, index, NULL, &device));
    }
    anykv_context_destroy(context);
}

Test(device, environment)
{
    anykv_context *context = house_context();
    anykv_device *device;
    setenv("ANYKV_DEVICE", "cpu", 1);
    expect_opens(context, "auto", "cpu");
    setenv("ANYKV_DEVICE", "0", 1);
    expect_opens(context, "auto", "cpu");
    setenv("ANYKV_DEVICE", "", 1);
    OK(anykv_device_open(context, "auto", NULL, &device));
    anykv_device_close(device);
    setenv("ANYKV_DEVICE", "auto", 1);
    OK(anykv_device_open(context, "auto", NULL, &device));
    anykv_device_close(device);
    setenv("ANYKV_DEVICE", "\033[31m nonsense %s%n", 1);
    REFUSED(ANYKV_E_NOT_FOUND, "ANYKV_DEVICE", anykv_device_open(context, "auto", NULL, &device));
    expect_opens(context, "cpu", "cpu");
    anykv_context_destroy(context);
}

Test(device, options)
{
    anykv_context *context = house_context();
    anykv_device *device;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    REFUSED(ANYKV_E_ARG, "context", anykv_device_open(NULL, "cpu", NULL, &device));
    REFUSED(ANYKV_E_ARG, "name", anykv_device_open(context, NULL, NULL, &device));
    REFUSED(ANYKV_E_ARG, "device_out", anykv_device_open(context, "cpu", NULL, NULL));
    options.threads = 1025;
    REFUSED(ANYKV_E_ARG, "threads", anykv_device_open(context, "cpu", &options, &device));
    options.threads = 0xFFFFFFFEu;
    REFUSED(ANYKV_E_ARG, "threads", anykv_device_open(context, "cpu", &options, &device));
    options.threads = 1;
    options.isa_mask = 1u << 30;
    REFUSED(ANYKV_E_ARG, "isa_mask", anykv_device_open(context, "cpu", &options, &device));
    options.isa_mask = 0;
    options.size = 3;
    REFUSED(ANYKV_E_ARG, "size", anykv_device_open(context, "cpu", &options, &device));
    options.size = sizeof options;
    OK(anykv_device_open(context, "cpu", &options, &device));
    anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
    OK(anykv_device_describe(device, &info));
    cr_expect_str_eq(info.isa, "scalar", "mask 0 is portable code");
    REFUSED(ANYKV_E_ARG, "device", anykv_device_describe(NULL, &info));
    REFUSED(ANYKV_E_ARG, "info_out", anykv_device_describe(device, NULL));
    REFUSED(ANYKV_E_ARG, "device", anykv_device_wait(NULL, 0));
    OK(anykv_device_wait(device, 0));
    anykv_device_close(device);
    anykv_device_close(NULL);
    anykv_context_destroy(context);
}

/* ---- memory ---- */

Test(mem, bad_sizes_and_ranges)
{
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 1);
    anykv_mem *mem = NULL;
    uint8_t bytes[64] = {0};
    REFUSED(ANYKV_E_ARG, "device", anykv_mem_create(NULL, 1, &mem));
    REFUSED(ANYKV_E_ARG, "mem_out", anykv_mem_create(device, 1, NULL));
    REFUSED(ANYKV_E_ARG, "bytes", anykv_mem_create(device, 0, &mem));
    REFUSED(ANYKV_E_BUDGET, "at most", anykv_mem_create(device, UINT64_MAX, &mem));
    REFUSED(ANYKV_E_BUDGET, "at most", anykv_mem_create(device, (uint64_t)1 << 60, &mem));
    REFUSED(ANYKV_E_ARG, "native", anykv_mem_adopt(device, NULL, 1, &mem));
    REFUSED(ANYKV_E_ARG, "bytes", anykv_mem_adopt(device, bytes, 0, &mem));
    REFUSED(ANYKV_E_SHAPE, "address space", anykv_mem_adopt(device, bytes, UINT64_MAX, &mem));
    cr_expect_null(mem);
    OK(anykv_mem_create(device, 100, &mem));
    static const struct {
        uint64_t offset, bytes;
    } wrong[] = {{0, 101},
                 {100, 1},
                 {101, 0},
                 {1, 100},
                 {UINT64_MAX, 1},
                 {UINT64_MAX, 2},
                 {1, UINT64_MAX},
                 {UINT64_MAX, UINT64_MAX},
                 {64, UINT64_MAX - 63}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        REFUSED(ANYKV_E_SHAPE, "it has 100",
                anykv_mem_put(mem, wrong[i].offset, bytes, wrong[i].bytes));
        REFUSED(ANYKV_E_SHAPE, "it has 100",
                anykv_mem_get(mem, wrong[i].offset, bytes, wrong[i].bytes));
    }
    REFUSED(ANYKV_E_ARG, "mem", anykv_mem_put(NULL, 0, bytes, 1));
    REFUSED(ANYKV_E_ARG, "mem", anykv_mem_get(NULL, 0, bytes, 1));
    REFUSED(ANYKV_E_ARG, "src", anykv_mem_put(mem, 0, NULL, 1));
    REFUSED(ANYKV_E_ARG, "dst", anykv_mem_get(mem, 0, NULL, 1));
    OK(anykv_mem_put(mem, 100, NULL, 0));
    OK(anykv_mem_get(mem, 0, NULL, 0));
    OK(anykv_mem_get(mem, 36, bytes, 64));
    for (int i = 0; i < 64; i++)
        cr_expect(bytes[i] == 0, "new memory is zero");
    anykv_mem_destroy(mem);
    anykv_mem_destroy(NULL);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Random puts and gets of all sizes against a shadow. */
static void against_shadow(uint32_t threads, bool adopt)
{
    enum { BYTES = 3 << 20 };
    uint64_t seed = 42 + threads;
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, threads);
    uint8_t *shadow = calloc(1, BYTES), *buffer = malloc(BYTES), *own = calloc(1, BYTES);
    anykv_mem *mem;
    OK(adopt ? anykv_mem_adopt(device, own, BYTES, &mem) : anykv_mem_create(device, BYTES, &mem));
    for (int i = 0; i < 400; i++) {
        uint32_t limit = 1u << (house_random(&seed) % 22), bytes = 1 + house_random(&seed) % limit;
        uint32_t offset = house_random(&seed) % (BYTES - bytes + 1);
        if (house_random(&seed) % 3) {
            memset(buffer, (int)house_random(&seed), bytes);
            buffer[bytes / 2] ^= 0x55;
            memcpy(shadow + offset, buffer, bytes);
            OK(anykv_mem_put(mem, offset, buffer, bytes));
            memset(buffer, 0, bytes); /* src has been read */
        } else {
            OK(anykv_mem_get(mem, offset, buffer, bytes));
            cr_assert(memcmp(buffer, shadow + offset, bytes) == 0,
                      "threads %u, operation %d: %u bytes at %u", threads, i, bytes, offset);
        }
    }
    OK(anykv_device_wait(device, UINT64_MAX));
    if (adopt)
        cr_expect(memcmp(own, shadow, BYTES) == 0, "adopted memory is the caller's");
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    anykv_context_destroy(context);
    free(shadow);
    free(buffer);
    free(own);
}

Test(mem, puts_and_gets_in_order)
{
    for (uint32_t threads = 0; threads <= 4; threads++)
        against_shadow(threads, threads % 2);
    against_shadow(0, true);
}

/* ---- events ---- */

static bool readable(int fd, int timeout_ms)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    return poll(&entry, 1, timeout_ms) == 1;
}

Test(event, record_query_wait_poll)
{
    static uint8_t bytes[1 << 20];
    for (uint32_t threads = 0; threads <= 2; threads++) {
        anykv_context *context = house_context();
        anykv_device *device = house_device(context, threads);
        anykv_mem *mem;
        OK(anykv_mem_create(device, sizeof bytes, &mem));
        OK(anykv_mem_put(mem, 0, bytes, sizeof bytes));
        anykv_event *event;
        OK(anykv_event_record(device, &event));
        int fd = anykv_event_fd(event);
        cr_expect(fd >= 0 && fd == anykv_event_fd(event));
        cr_expect(readable(fd, 60000), "threads %u: the descriptor stays silent", threads);
        cr_expect(readable(fd, 0), "it stays readable");
        int done = 0;
        OK(anykv_event_query(event, &done));
        cr_expect(done == 1);
        OK(anykv_event_wait(event, 0));
        OK(anykv_event_wait(event, UINT64_MAX));
        anykv_event_destroy(event);
        OK(anykv_event_record(device, &event));
        OK(anykv_event_wait(event, UINT64_MAX));
        cr_expect(readable(anykv_event_fd(event), 0), "asked for after it passed");
        anykv_event_destroy(event);
        OK(anykv_event_record(device, &event));
        anykv_event_destroy(event); /* perhaps before it passed */
        anykv_mem_destroy(mem);
        anykv_device_close(device);
        anykv_context_destroy(context);
    }
}

Test(event, bad_arguments)
{
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 1);
    anykv_event *event = NULL;
    int done;
    REFUSED(ANYKV_E_ARG, "device", anykv_event_record(NULL, &event));
    REFUSED(ANYKV_E_ARG, "event_out", anykv_event_record(device, NULL));
    cr_expect_null(event);
    REFUSED(ANYKV_E_ARG, "event", anykv_event_query(NULL, &done));
    REFUSED(ANYKV_E_ARG, "event", anykv_event_wait(NULL, 0));
    cr_expect(anykv_event_fd(NULL) == -1);
    anykv_event_destroy(NULL);
    OK(anykv_event_record(device, &event));
    REFUSED(ANYKV_E_ARG, "done_out", anykv_event_query(event, NULL));
    anykv_event_destroy(event);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* ---- failures ---- */

/* Everything this file is about, once; returns the first failure and always cleans up. */
static anykv_status scenario(void)
{
    anykv_context *context = NULL;
    anykv_device *device = NULL;
    anykv_mem *mem = NULL, *adopted = NULL;
    anykv_event *event = NULL;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = 2;
    uint8_t own[256] = {0}, in[100], out[100] = {0};
    memset(in, 7, sizeof in);
    anykv_status status = anykv_context_create(NULL, &context);
    if (!status)
        status = anykv_device_open(context, "cpu", &options, &device);
    anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
    if (!status)
        status = anykv_device_describe(device, &info);
    if (!status)
        status = anykv_mem_create(device, sizeof own, &mem);
    if (!status)
        status = anykv_mem_adopt(device, own, sizeof own, &adopted);
    if (!status)
        status = anykv_mem_put(mem, 1, in, sizeof in);
    if (!status)
        status = anykv_mem_put(adopted, 1, in, sizeof in);
    if (!status)
        status = anykv_event_record(device, &event);
    if (!status)
        status = anykv_event_wait(event, UINT64_MAX);
    int done = 0;
    if (!status)
        status = anykv_event_query(event, &done);
    if (!status)
        status = anykv_mem_get(mem, 1, out, sizeof out);
    if (!status)
        status = anykv_device_wait(device, UINT64_MAX);
    if (!status)
        cr_expect(memcmp(in, out, sizeof in) == 0 && own[1] == 7 && done);
    anykv_event_destroy(event);
    anykv_mem_destroy(adopted);
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(device, every_allocation_fails_once)
{
    house_fail_allocations("device", scenario);
}

Test(device, every_backend_call_fails_once)
{
    house_fail_backend("device", scenario);
}

/* In a child of fork() only destroying is legal, and it must not wait for threads that are not
 * there. */
Test(device, destroyed_after_fork)
{
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 3);
    anykv_mem *mem;
    anykv_event *event;
    uint8_t bytes[100] = {0};
    OK(anykv_mem_create(device, 1 << 22, &mem));
    OK(anykv_mem_put(mem, 0, bytes, sizeof bytes));
    OK(anykv_event_record(device, &event));
    pid_t child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        alarm(20);
        anykv_event_destroy(event);
        anykv_mem_destroy(mem);
        anykv_device_close(device);
        anykv_context_destroy(context);
        _exit(7);
    }
    int code;
    cr_assert(waitpid(child, &code, 0) == child);
    cr_expect(WIFEXITED(code) && WEXITSTATUS(code) == 7, "the child ended with %d", code);
    OK(anykv_mem_get(mem, 0, bytes, sizeof bytes));
    anykv_event_destroy(event);
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

static unsigned count_threads(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    unsigned threads = 0;
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Threads: %u", &threads) == 1)
            break;
    if (status)
        fclose(status);
    return threads;
}

/* No thread is left when a device is closed (a joined one may stay in the count for a moment). */
Test(device, closes_without_a_thread_left)
{
    anykv_context *context = house_context();
    anykv_device_close(
        house_device(context, 1)); /* a sanitizer starts its own thread with the first */
    unsigned before = count_threads();
    if (before == 0)
        cr_skip_test("no /proc to count threads in");
    for (int i = 0; i < 20; i++)
        anykv_device_close(house_device(context, 4));
    anykv_context_destroy(context);
    uint64_t start = akv_now_ns();
    while (count_threads() > before && akv_now_ns() - start < 5000000000u)
        usleep(1000);
    cr_expect(count_threads() == before, "%u threads, %u before", count_threads(), before);
}
