/* SPDX-License-Identifier: Apache-2.0 */
/* The checked wrappers: every bad argument of memory, queue, event and registry calls; fault
 * injection. */
#include "house.h"
#include <stdlib.h>

struct rig {
    anykv_context *context;
    anykv_device *one, *two; /* two devices, so that their objects can be mixed up */
    struct akv_device *device;
    struct akv_queue *queue;
    struct akv_mem *mem, *foreign;
};

enum { MEM_BYTES = 4096 };

static struct rig set_up(uint32_t threads)
{
    struct rig rig = {.context = house_context()};
    rig.one = house_device(rig.context, threads);
    rig.two = house_device(rig.context, 0);
    rig.device = rig.one->device;
    rig.queue = rig.one->queue;
    OK(akv_mem_alloc(rig.device, MEM_BYTES, AKV_MEM_DEVICE, &rig.mem));
    OK(akv_mem_alloc(rig.two->device, MEM_BYTES, AKV_MEM_DEVICE, &rig.foreign));
    return rig;
}

static void tear_down(struct rig *rig)
{
    akv_fault_at(0, ANYKV_OK, false);
    akv_mem_free(rig->mem);
    akv_mem_free(rig->foreign);
    anykv_device_close(rig->one);
    anykv_device_close(rig->two);
    anykv_context_destroy(rig->context);
    cr_expect(akv_alloc_live() == 0, "%llu allocations are left",
              (unsigned long long)akv_alloc_live());
}

Test(backend, the_kernel_list)
{
    cr_expect(AKV_KERNEL_COUNT >= 8);
    for (unsigned k = 0; k < AKV_KERNEL_COUNT; k++) {
        cr_expect(akv_kernels[k].name[0] && akv_kernels[k].family[0]);
        cr_expect(akv_kernels[k].arguments >= 1 && akv_kernels[k].arguments <= AKV_MAX_ARGS);
        cr_expect(akv_kernels[k].params_bytes % 8 == 0);
        for (unsigned j = 0; j < k; j++)
            cr_expect(strcmp(akv_kernels[j].name, akv_kernels[k].name) != 0);
    }
    for (size_t i = 0; akv_backends[i]; i++)
        cr_expect(akv_backends[i]->abi == AKV_BACKEND_ABI && akv_backends[i]->name[0]);
}

Test(backend, null_everywhere)
{
    struct rig rig = set_up(1);
    struct akv_span span = {rig.mem, 0, 16};
    struct akv_mem *mem;
    struct akv_queue *queue;
    struct akv_event *event;
    uint8_t bytes[16] = {0};
    uint64_t number;
    bool done;
    REFUSED(ANYKV_E_ARG, "device", akv_device_memory(NULL, &number, &number));
    REFUSED(ANYKV_E_ARG, "total_out", akv_device_memory(rig.device, NULL, &number));
    REFUSED(ANYKV_E_ARG, "free_out", akv_device_memory(rig.device, &number, NULL));
    REFUSED(ANYKV_E_ARG, "device", akv_mem_alloc(NULL, 1, AKV_MEM_DEVICE, &mem));
    REFUSED(ANYKV_E_ARG, "mem_out", akv_mem_alloc(rig.device, 1, AKV_MEM_DEVICE, NULL));
    REFUSED(ANYKV_E_ARG, "device", akv_mem_adopt(NULL, bytes, 1, &mem));
    REFUSED(ANYKV_E_ARG, "native", akv_mem_adopt(rig.device, NULL, 1, &mem));
    REFUSED(ANYKV_E_ARG, "mem_out", akv_mem_adopt(rig.device, bytes, 1, NULL));
    REFUSED(ANYKV_E_ARG, "device", akv_queue_create(NULL, NULL, &queue));
    REFUSED(ANYKV_E_ARG, "queue_out", akv_queue_create(rig.device, NULL, NULL));
    REFUSED(ANYKV_E_ARG, "queue", akv_queue_put(NULL, span, bytes));
    REFUSED(ANYKV_E_ARG, "put.src", akv_queue_put(rig.queue, span, NULL));
    REFUSED(ANYKV_E_ARG, "queue", akv_queue_get(NULL, bytes, span));
    REFUSED(ANYKV_E_ARG, "get.dst", akv_queue_get(rig.queue, NULL, span));
    REFUSED(ANYKV_E_ARG, "queue", akv_queue_copy(NULL, span, span));
    REFUSED(ANYKV_E_ARG, "queue", akv_queue_fill(NULL, span, 0));
    REFUSED(ANYKV_E_ARG, "queue", akv_queue_flush(NULL));
    REFUSED(ANYKV_E_ARG, "queue", akv_queue_wait(NULL, 0));
    REFUSED(ANYKV_E_ARG, "device", akv_event_create(NULL, &event));
    REFUSED(ANYKV_E_ARG, "event_out", akv_event_create(rig.device, NULL));
    REFUSED(ANYKV_E_ARG, "event", akv_event_record(NULL, rig.queue));
    REFUSED(ANYKV_E_ARG, "event", akv_event_await(NULL, rig.queue));
    REFUSED(ANYKV_E_ARG, "event", akv_event_query(NULL, &done));
    REFUSED(ANYKV_E_ARG, "event", akv_event_wait(NULL, 0));
    REFUSED(ANYKV_E_ARG, "from", akv_event_elapsed(NULL, NULL, &number));
    REFUSED(ANYKV_E_ARG, "queue", akv_kernel_launch(NULL, NULL));
    REFUSED(ANYKV_E_ARG, "launch", akv_kernel_launch(rig.queue, NULL));
    REFUSED(ANYKV_E_ARG, "device", akv_kernel_prepare(NULL, AKV_K_COPY, bytes));
    REFUSED(ANYKV_E_ARG, "params", akv_kernel_prepare(rig.device, AKV_K_COPY, NULL));
    OK(akv_event_create(rig.device, &event));
    REFUSED(ANYKV_E_ARG, "queue", akv_event_record(event, NULL));
    REFUSED(ANYKV_E_ARG, "done_out", akv_event_query(event, NULL));
    REFUSED(ANYKV_E_ARG, "to", akv_event_elapsed(event, NULL, &number));
    REFUSED(ANYKV_E_ARG, "ns_out", akv_event_elapsed(event, event, NULL));
    cr_expect(akv_event_fd(NULL) == -1);
    akv_event_destroy(event);
    akv_event_destroy(NULL);
    akv_mem_free(NULL);
    akv_queue_destroy(NULL);
    akv_device_close(NULL);
    cr_expect_null(akv_mem_map(NULL));
    struct akv_check check;
    akv_kernel_check(rig.device, AKV_KERNEL_COUNT, bytes, &check);
    cr_expect(!check.supported && check.reason);
    akv_kernel_check(rig.device, AKV_K_COPY, NULL, &check);
    cr_expect(!check.supported && check.reason);
    tear_down(&rig);
}

Test(backend, memory)
{
    struct rig rig = set_up(1);
    struct akv_mem *mem = NULL;
    uint8_t own[64];
    REFUSED(ANYKV_E_ARG, "bytes", akv_mem_alloc(rig.device, 0, AKV_MEM_DEVICE, &mem));
    REFUSED(ANYKV_E_ARG, "kind", akv_mem_alloc(rig.device, 1, (enum akv_mem_kind)7, &mem));
    REFUSED(ANYKV_E_BUDGET, "bytes", akv_mem_alloc(rig.device, UINT64_MAX, AKV_MEM_PINNED, &mem));
    REFUSED(ANYKV_E_ARG, "bytes", akv_mem_adopt(rig.device, own, 0, &mem));
    REFUSED(ANYKV_E_SHAPE, "bytes", akv_mem_adopt(rig.device, own, UINT64_MAX, &mem));
    cr_expect_null(mem);
    static const uint64_t sizes[] = {1, 4095, 4097, (2u << 20) - 1, 2u << 20, (6u << 20) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        OK(akv_mem_alloc(rig.device, sizes[i], AKV_MEM_DEVICE, &mem));
        uint8_t *bytes = akv_mem_map(mem);
        cr_expect(bytes && (uintptr_t)bytes % 64 == 0 && mem->bytes == sizes[i]);
        cr_expect(sizes[i] < (2u << 20) || (uintptr_t)bytes % (2u << 20) == 0,
                  "huge page alignment");
        for (uint64_t b = 0; b < sizes[i]; b += 511)
            cr_assert(bytes[b] == 0, "byte %llu of new memory is set", (unsigned long long)b);
        memset(bytes, 1, sizes[i]);
        akv_mem_free(mem);
    }
    akv_mem_free(rig.device->host_window); /* belongs to the device: nothing happens */
    uint64_t total = 0, unused = 0;
    OK(akv_device_memory(rig.device, &total, &unused));
    cr_expect(total > 0 && unused > 0 && unused <= total);
    tear_down(&rig);
}

/* Spans that are wrong for every call that takes one. */
Test(backend, spans)
{
    struct rig rig = set_up(2);
    uint8_t bytes[64] = {0};
    const struct {
        struct akv_span span;
        anykv_status code;
        const char *text;
    } wrong[] = {
        {{NULL, 0, 16}, ANYKV_E_ARG, "no memory"},
        {{rig.foreign, 0, 16}, ANYKV_E_ARG, "another device"},
        {{rig.mem, MEM_BYTES, 1}, ANYKV_E_SHAPE, "there are 4096"},
        {{rig.mem, 0, MEM_BYTES + 1}, ANYKV_E_SHAPE, "there are 4096"},
        {{rig.mem, 1, MEM_BYTES}, ANYKV_E_SHAPE, "there are 4096"},
        {{rig.mem, UINT64_MAX, 2}, ANYKV_E_SHAPE, "there are 4096"},
        {{rig.mem, 2, UINT64_MAX}, ANYKV_E_SHAPE, "there are 4096"},
        {{rig.device->host_window, 0, 16}, ANYKV_E_ARG, "NULL"},
        {{rig.device->host_window, UINT64_MAX - 4, 16}, ANYKV_E_SHAPE, "there are"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct akv_span good = {rig.mem, 0, wrong[i].span.bytes};
        REFUSED(wrong[i].code, wrong[i].text, akv_queue_put(rig.queue, wrong[i].span, bytes));
        REFUSED(wrong[i].code, wrong[i].text, akv_queue_get(rig.queue, bytes, wrong[i].span));
        REFUSED(wrong[i].code, wrong[i].text, akv_queue_fill(rig.queue, wrong[i].span, 1));
        REFUSED(wrong[i].code, wrong[i].text, akv_queue_copy(rig.queue, wrong[i].span, good));
        if (good.bytes <= MEM_BYTES)
            REFUSED(wrong[i].code, wrong[i].text, akv_queue_copy(rig.queue, good, wrong[i].span));
    }
    struct akv_span a = {rig.mem, 0, 64}, b = {rig.mem, 63, 64}, c = {rig.mem, 64, 63};
    REFUSED(ANYKV_E_ARG, "overlap", akv_queue_copy(rig.queue, a, b));
    REFUSED(ANYKV_E_ARG, "overlap", akv_queue_copy(rig.queue, b, a));
    REFUSED(ANYKV_E_ARG, "overlap", akv_queue_copy(rig.queue, a, a));
    REFUSED(ANYKV_E_SHAPE, "bytes", akv_queue_copy(rig.queue, a, c));
    c.bytes = 64;
    OK(akv_queue_copy(rig.queue, a, c));
    uint8_t *inside = akv_mem_map(rig.mem);
    REFUSED(ANYKV_E_ARG, "overlap", akv_queue_put(rig.queue, a, inside + 63));
    REFUSED(ANYKV_E_ARG, "overlap", akv_queue_get(rig.queue, inside + 63, a));
    OK(akv_queue_put(rig.queue, a, inside + 64));
    /* The same bytes under two names: the window and the memory. */
    REFUSED(ANYKV_E_ARG, "overlap",
            akv_queue_copy(rig.queue, a, akv_host_span(rig.device, inside + 10, 64)));
    struct akv_span nothing = {rig.mem, MEM_BYTES, 0};
    OK(akv_queue_put(rig.queue, nothing, NULL));
    OK(akv_queue_get(rig.queue, NULL, nothing));
    OK(akv_queue_fill(rig.queue, nothing, 1));
    OK(akv_queue_copy(rig.queue, nothing, nothing));
    OK(akv_queue_wait(rig.queue, UINT64_MAX));
    for (int i = 0; i < MEM_BYTES; i++)
        cr_assert(inside[i] == 0, "a refused call wrote byte %d", i);
    tear_down(&rig);
}

Test(backend, events_of_another_device)
{
    struct rig rig = set_up(1);
    struct akv_event *event, *other;
    uint64_t ns;
    OK(akv_event_create(rig.device, &event));
    OK(akv_event_create(rig.two->device, &other));
    REFUSED(ANYKV_E_ARG, "another device", akv_event_record(other, rig.queue));
    REFUSED(ANYKV_E_ARG, "another device", akv_event_await(other, rig.queue));
    REFUSED(ANYKV_E_ARG, "two devices", akv_event_elapsed(event, other, &ns));
    REFUSED(ANYKV_E_STATE, "elapsed", akv_event_elapsed(event, event, &ns));
    bool done = false;
    OK(akv_event_query(event, &done));
    cr_expect(done, "an event that was never recorded has nothing to wait for");
    OK(akv_event_wait(event, 0));
    akv_event_destroy(event);
    akv_event_destroy(other);
    tear_down(&rig);
}

/* ---- fault injection ---- */

/* A call that fails at once has not been carried out; one that fails late has. */
Test(fault, early_and_late)
{
    for (uint32_t threads = 0; threads <= 1; threads++) {
        struct rig rig = set_up(threads);
        uint8_t *inside = akv_mem_map(rig.mem), in[16], out[16];
        struct akv_span span = {rig.mem, 0, 16};
        memset(in, 5, sizeof in);
        akv_fault_at(1, ANYKV_E_DEVICE, false);
        REFUSED(ANYKV_E_DEVICE, "injected", akv_queue_put(rig.queue, span, in));
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        cr_expect(inside[0] == 0 && akv_fault_count() == 2);
        akv_fault_at(1, ANYKV_E_DEVICE, true);
        OK(akv_queue_put(rig.queue, span, in));
        OK(akv_queue_get(rig.queue, out, span));
        REFUSED(ANYKV_E_DEVICE, "late", akv_queue_wait(rig.queue, UINT64_MAX));
        cr_expect(inside[0] == 5 && out[15] == 5, "a late failure is one of a call carried out");
        OK(akv_queue_wait(rig.queue, UINT64_MAX)); /* reported once */
        akv_fault_at(2, ANYKV_E_TIMEOUT, false);
        OK(akv_queue_fill(rig.queue, span, 1));
        REFUSED(ANYKV_E_TIMEOUT, "injected", akv_queue_wait(rig.queue, UINT64_MAX));
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        akv_fault_at(1, ANYKV_E_MEMORY, false);
        struct akv_mem *mem = NULL;
        REFUSED(ANYKV_E_MEMORY, "mem_alloc", akv_mem_alloc(rig.device, 64, AKV_MEM_DEVICE, &mem));
        cr_expect_null(mem);
        /* A refused argument is no backend call. */
        akv_fault_at(1, ANYKV_E_DEVICE, false);
        REFUSED(ANYKV_E_SHAPE, "put",
                akv_queue_put(rig.queue, (struct akv_span){rig.mem, 9999, 1}, in));
        cr_expect(akv_fault_count() == 0);
        tear_down(&rig);
    }
}

/* Two queues, events and a copy between them. */
static anykv_status scenario(void)
{
    anykv_context *context = NULL;
    struct akv_device *device = NULL;
    struct akv_queue *first = NULL, *second = NULL;
    struct akv_event *event = NULL;
    struct akv_mem *a = NULL, *b = NULL;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = 2;
    uint32_t value = 77, got = 0;
    anykv_status status = anykv_context_create(NULL, &context);
    if (status)
        return status;
    if (!status)
        status = akv_device_open(context, "cpu", &options, &device);
    if (!status)
        status = akv_queue_create(device, NULL, &first);
    if (!status)
        status = akv_queue_create(device, NULL, &second);
    if (!status)
        status = akv_event_create(device, &event);
    if (!status)
        status = akv_mem_alloc(device, 64, AKV_MEM_DEVICE, &a);
    if (!status)
        status = akv_mem_alloc(device, 64, AKV_MEM_PINNED, &b);
    if (!status)
        status = akv_queue_put(first, (struct akv_span){a, 0, 4}, &value);
    if (!status)
        status = akv_event_record(event, first);
    if (!status)
        status = akv_event_await(event, second);
    if (!status)
        status = akv_queue_copy(second, (struct akv_span){b, 0, 4}, (struct akv_span){a, 0, 4});
    if (!status)
        status = akv_queue_fill(second, (struct akv_span){a, 0, 4}, 0);
    if (!status)
        status = akv_queue_get(second, &got, (struct akv_span){b, 0, 4});
    anykv_status waited = second ? akv_queue_wait(second, UINT64_MAX) : ANYKV_OK;
    if (!status)
        status = waited;
    if (waited) /* an injected failure of the wait itself: wait for what runs */
        (void)akv_queue_wait(second, UINT64_MAX);
    uint64_t ns;
    if (!status)
        status = akv_event_elapsed(event, event, &ns);
    if (!status)
        cr_expect(got == 77);
    akv_event_destroy(event);
    akv_queue_destroy(second);
    akv_queue_destroy(first);
    akv_mem_free(b);
    akv_mem_free(a);
    akv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(fault, every_allocation_fails_once)
{
    house_fail_allocations("two queues", scenario);
}

Test(fault, every_backend_call_fails_once)
{
    house_fail_backend("two queues", scenario);
}
