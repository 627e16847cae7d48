/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's queue: order, asynchrony, events between queues, hand-out of work, floating-point
 * modes. */
#include "backends/cpu/device.h"
#include "backends/cpu/kat.h"
#include "house.h"
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* ---- a kernel of our own in place of ROTATE, so that tests decide when it ends ---- */

static atomic_int gate_open, gate_reached;
static struct akv_cpu_kernel own; /* what ROTATE is replaced by */

static uint64_t one_item(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)args, (void)phase;
    return 1;
}

static void wait_at_gate(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count)
{
    (void)args, (void)phase, (void)first, (void)count;
    atomic_store(&gate_reached, 1);
    while (!atomic_load(&gate_open))
        sched_yield();
}

struct rig {
    anykv_context *context;
    anykv_device *device;
    struct akv_queue *queue;
    _Alignas(64) float in[16], out[16];
};

static void set_up(struct rig *rig, uint32_t threads)
{
    memset(rig, 0, sizeof *rig);
    rig->context = house_context();
    rig->device = house_device(rig->context, threads);
    rig->queue = rig->device->queue;
    akv_cpu_device_of(rig->device->device)->kernel[AKV_K_ROTATE] = &own;
    atomic_store(&gate_open, 0);
    atomic_store(&gate_reached, 0);
}

static void tear_down(struct rig *rig)
{
    anykv_device_close(rig->device);
    anykv_context_destroy(rig->context);
}

static anykv_status launch_on(struct rig *rig, struct akv_queue *queue)
{
    akv_rotate_params params = {1, 16, 0, 0};
    struct akv_launch launch = {.kernel = AKV_K_ROTATE, .params = &params};
    launch.arg[0] = akv_host_span(rig->device->device, rig->in, sizeof rig->in);
    launch.arg[1] = akv_host_span(rig->device->device, rig->out, sizeof rig->out);
    return akv_kernel_launch(queue, &launch);
}

static void block(struct rig *rig, struct akv_queue *queue)
{
    own = (struct akv_cpu_kernel){1, one_item, wait_at_gate, NULL, NULL};
    OK(launch_on(rig, queue));
}

/* ---- asynchrony ---- */

Test(queue, calls_return_before_the_work_is_done)
{
    struct rig rig;
    static uint8_t from[4096], to[4096];
    for (uint32_t threads = 1; threads <= 3; threads++) {
        set_up(&rig, threads);
        struct akv_mem *mem;
        struct akv_event *event;
        OK(akv_mem_alloc(rig.device->device, sizeof from, AKV_MEM_DEVICE, &mem));
        OK(akv_event_create(rig.device->device, &event));
        struct akv_span span = {mem, 0, sizeof from};
        block(&rig, rig.queue);
        memset(from, 1, sizeof from);
        OK(akv_queue_put(rig.queue, span, from));
        memset(from, 2, sizeof from); /* the put has read it */
        OK(akv_queue_get(rig.queue, to, span));
        OK(akv_event_record(event, rig.queue));
        bool done = true;
        OK(akv_event_query(event, &done));
        cr_expect(!done, "an event passed a kernel that runs");
        int fd = akv_event_fd(event);
        REFUSED(ANYKV_E_TIMEOUT, "queue", akv_queue_wait(rig.queue, 0));
        uint64_t start = akv_now_ns();
        REFUSED(ANYKV_E_TIMEOUT, "queue", akv_queue_wait(rig.queue, 2000000));
        cr_expect(akv_now_ns() - start >= 2000000, "a time-out came early");
        REFUSED(ANYKV_E_TIMEOUT, "event", akv_event_wait(event, 0));
        REFUSED(ANYKV_E_TIMEOUT, "event", akv_event_wait(event, 2000000));
        uint64_t ns;
        REFUSED(ANYKV_E_STATE, "elapsed", akv_event_elapsed(event, event, &ns));
        cr_expect(to[0] == 0, "a get overtook a kernel");
        atomic_store(&gate_open, 1);
        OK(akv_event_wait(event, UINT64_MAX));
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        cr_expect(to[0] == 1 && to[4095] == 1, "the put's bytes are those of the call");
        uint64_t value = 0;
        cr_expect(read(fd, &value, sizeof value) == 8 && value == 1);
        /* Recorded again: not readable until it passes again. */
        atomic_store(&gate_open, 0);
        atomic_store(&gate_reached, 0);
        block(&rig, rig.queue);
        OK(akv_event_record(event, rig.queue));
        cr_expect(read(fd, &value, sizeof value) == -1, "readable before it passed again");
        atomic_store(&gate_open, 1);
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        cr_expect(read(fd, &value, sizeof value) == 8);
        OK(akv_event_elapsed(event, event, &ns));
        cr_expect(ns == 0);
        akv_event_destroy(event);
        akv_mem_free(mem);
        memset(to, 0, sizeof to);
        tear_down(&rig);
    }
}

static void *open_later(void *argument)
{
    (void)argument;
    usleep(20000);
    atomic_store(&gate_open, 1);
    return NULL;
}

/* More commands than the ring holds, and more staged bytes than there is room for: the caller
 * waits, and order and bytes stay right. */
Test(queue, back_pressure)
{
    enum { COMMANDS = 1000, BYTES = 16384 };
    struct rig rig;
    set_up(&rig, 2);
    struct akv_mem *mem;
    OK(akv_mem_alloc(rig.device->device, BYTES, AKV_MEM_DEVICE, &mem));
    static uint32_t seen[COMMANDS], value[BYTES / 4];
    block(&rig, rig.queue);
    akv_thread opener;
    OK(akv_thread_start(NULL, &opener, open_later, NULL));
    for (uint32_t i = 0; i < COMMANDS; i++) {
        value[BYTES / 4 - 1] = i;
        uint64_t bytes = i % 3 ? 4 : BYTES;
        OK(akv_queue_put(rig.queue, (struct akv_span){mem, BYTES - bytes, bytes},
                         (uint8_t *)value + BYTES - bytes));
        OK(akv_queue_get(rig.queue, &seen[i], (struct akv_span){mem, BYTES - 4, 4}));
    }
    OK(akv_queue_wait(rig.queue, UINT64_MAX));
    for (uint32_t i = 0; i < COMMANDS; i++)
        cr_assert(seen[i] == i, "get %u saw put %u", i, seen[i]);
    akv_thread_join(&opener);
    akv_mem_free(mem);
    tear_down(&rig);
}

/* Destroying the queue, freeing memory and destroying an event wait for what is enqueued. */
Test(queue, destroy_waits)
{
    struct rig rig;
    set_up(&rig, 2);
    struct akv_queue *second;
    struct akv_mem *mem;
    struct akv_event *event;
    OK(akv_queue_create(rig.device->device, NULL, &second));
    OK(akv_mem_alloc(rig.device->device, 1 << 20, AKV_MEM_PINNED, &mem));
    cr_expect(akv_mem_map(mem) && !akv_mem_map(rig.device->device->host_window));
    OK(akv_event_create(rig.device->device, &event));
    block(&rig, second);
    OK(akv_queue_fill(second, (struct akv_span){mem, 0, 1 << 20}, 9));
    OK(akv_event_record(event, second));
    akv_thread opener;
    OK(akv_thread_start(NULL, &opener, open_later, NULL));
    akv_mem_free(mem);
    akv_event_destroy(event);
    akv_queue_destroy(second);
    cr_expect(atomic_load(&gate_open) == 1);
    akv_thread_join(&opener);
    tear_down(&rig);
}

/* ---- order across queues ---- */

Test(queue, await_orders_two_queues)
{
    struct rig rig;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        set_up(&rig, threads);
        struct akv_queue *second;
        struct akv_event *event;
        uint32_t from = 5, to = 0;
        OK(akv_queue_create(rig.device->device, NULL, &second));
        OK(akv_event_create(rig.device->device, &event));
        OK(akv_event_await(event, second)); /* never recorded: passes */
        OK(akv_queue_wait(second, UINT64_MAX));
        block(&rig, rig.queue);
        OK(akv_queue_copy(rig.queue, akv_host_span(rig.device->device, &to, 4),
                          akv_host_span(rig.device->device, &from, 4)));
        OK(akv_event_record(event, rig.queue));
        OK(akv_event_await(event, second));
        uint32_t seen = 0;
        OK(akv_queue_get(second, &seen, akv_host_span(rig.device->device, &to, 4)));
        REFUSED(ANYKV_E_TIMEOUT, "queue", akv_queue_wait(second, 3000000));
        cr_expect(seen == 0, "the second queue did not wait");
        atomic_store(&gate_open, 1);
        OK(akv_queue_wait(second, UINT64_MAX));
        cr_expect(seen == 5);
        akv_event_destroy(event);
        akv_queue_destroy(second);
        tear_down(&rig);
    }
}

/* Random commands against the same done at once. */
Test(queue, random_commands_in_order)
{
    enum { BYTES = 1 << 20, COMMANDS = 1500 };
    uint8_t *shadow = malloc(BYTES), *source = malloc(BYTES), *got = malloc(BYTES);
    for (uint32_t threads = 0; threads <= 4; threads += threads == 2 ? 2 : 1) {
        uint64_t seed = 7 + threads;
        struct rig rig;
        struct akv_mem *mem;
        set_up(&rig, threads);
        OK(akv_mem_alloc(rig.device->device, BYTES, AKV_MEM_DEVICE, &mem));
        memset(shadow, 0, BYTES);
        for (uint32_t i = 0; i < BYTES; i++)
            source[i] = (uint8_t)house_random(&seed);
        for (int i = 0; i < COMMANDS; i++) {
            uint32_t half = BYTES / 2, bytes = 1 + house_random(&seed) % (i % 50 ? 2000 : half - 1);
            uint32_t a = house_random(&seed) % (half - bytes);
            uint32_t b = half + house_random(&seed) % (half - bytes);
            switch (house_random(&seed) % 3) {
            case 0:
                OK(akv_queue_put(rig.queue, (struct akv_span){mem, a, bytes}, source + b));
                memcpy(shadow + a, source + b, bytes);
                break;
            case 1:
                OK(akv_queue_copy(rig.queue, (struct akv_span){mem, b, bytes},
                                  (struct akv_span){mem, a, bytes}));
                memcpy(shadow + b, shadow + a, bytes);
                break;
            default:
                OK(akv_queue_fill(rig.queue, (struct akv_span){mem, b, bytes}, (uint8_t)i));
                memset(shadow + b, i & 255, bytes);
            }
        }
        OK(akv_queue_get(rig.queue, got, (struct akv_span){mem, 0, BYTES}));
        OK(akv_queue_flush(rig.queue));
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        for (uint32_t i = 0; i < BYTES; i++)
            cr_assert(got[i] == shadow[i], "threads %u: byte %u", threads, i);
        akv_mem_free(mem);
        tear_down(&rig);
    }
    free(shadow);
    free(source);
    free(got);
}

/* Several threads enqueue at once; each one's commands stay in its order. */
struct producer {
    struct rig *rig;
    struct akv_mem *mem;
    uint64_t offset;
    bool wrong;
};

static void *produce(void *argument)
{
    struct producer *producer = argument;
    for (uint32_t i = 1; i <= 300; i++) {
        struct akv_span span = {producer->mem, producer->offset, 4};
        uint32_t seen = 0;
        if (akv_queue_put(producer->rig->queue, span, &i) ||
            akv_queue_get(producer->rig->queue, &seen, span) ||
            akv_queue_wait(producer->rig->queue, UINT64_MAX) || seen != i)
            producer->wrong = true;
    }
    return NULL;
}

Test(queue, many_producers)
{
    for (uint32_t threads = 0; threads <= 2; threads++) {
        struct rig rig;
        struct akv_mem *mem;
        akv_thread thread[4];
        struct producer producer[4];
        set_up(&rig, threads);
        OK(akv_mem_alloc(rig.device->device, 4096, AKV_MEM_DEVICE, &mem));
        for (unsigned i = 0; i < 4; i++) {
            producer[i] = (struct producer){&rig, mem, i * 64, false};
            OK(akv_thread_start(NULL, &thread[i], produce, &producer[i]));
        }
        for (unsigned i = 0; i < 4; i++) {
            akv_thread_join(&thread[i]);
            cr_expect(!producer[i].wrong, "threads %u, producer %u", threads, i);
        }
        akv_mem_free(mem);
        tear_down(&rig);
    }
}

/* Once it is made, a queue allocates nothing: every call works while every allocation fails. */
Test(queue, nothing_is_allocated_by_commands)
{
    for (uint32_t threads = 0; threads <= 2; threads++) {
        struct rig rig;
        struct akv_mem *mem;
        struct akv_event *event;
        static uint8_t bytes[1 << 18], back[100];
        set_up(&rig, threads);
        own = (struct akv_cpu_kernel){1, one_item, wait_at_gate, NULL, NULL};
        atomic_store(&gate_open, 1);
        OK(akv_mem_alloc(rig.device->device, sizeof bytes, AKV_MEM_DEVICE, &mem));
        OK(akv_event_create(rig.device->device, &event));
        struct akv_span all = {mem, 0, sizeof bytes}, few = {mem, 0, 100};
        akv_alloc_fail_at(1, true);
        for (int i = 0; i < 300; i++) {
            OK(launch_on(&rig, rig.queue));
            OK(akv_queue_put(rig.queue, i % 50 ? few : all, bytes));
            OK(akv_queue_fill(rig.queue, few, 1));
            OK(akv_queue_copy(rig.queue, few, (struct akv_span){mem, 4096, 100}));
            OK(akv_event_record(event, rig.queue));
            OK(akv_event_await(event, rig.queue));
            OK(akv_queue_get(rig.queue, back, few));
        }
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        OK(akv_event_wait(event, UINT64_MAX));
        cr_expect(akv_alloc_count() == 0, "threads %u: %llu allocations", threads,
                  (unsigned long long)akv_alloc_count());
        akv_alloc_fail_at(0, false);
        akv_event_destroy(event);
        akv_mem_free(mem);
        tear_down(&rig);
    }
}

/* ---- hand-out of work ---- */

enum { MOST_ITEMS = 100000 };
static atomic_uchar visits[2][MOST_ITEMS];
static atomic_uint wrong_order;
static uint64_t item_count, item_cost;

static uint64_t counted_items(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)args, (void)phase;
    return item_count;
}

static void counting_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count)
{
    (void)args;
    for (uint64_t i = first; i < first + count; i++) {
        for (volatile uint64_t spin = 0; spin < item_cost; spin++) {
        }
        /* A barrier stands between phases: the mirror item of the phase before is done. */
        if (phase && !atomic_load(&visits[0][item_count - 1 - i]))
            atomic_fetch_add(&wrong_order, 1);
        atomic_fetch_add(&visits[phase][i], 1);
    }
}

Test(queue, every_item_once_and_phases_apart)
{
    static const uint64_t counts[] = {0, 1, 2, 3, 7, 64, 1000, MOST_ITEMS};
    for (uint32_t threads = 0; threads <= 4; threads++) {
        struct rig rig;
        set_up(&rig, threads);
        own = (struct akv_cpu_kernel){2, counted_items, counting_run, NULL, NULL};
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
            for (int costly = 0; costly < 2; costly++) {
                memset((void *)visits, 0, sizeof visits);
                item_count = counts[c];
                item_cost = costly ? (counts[c] < 100 ? 20000 : 20) : 0;
                OK(launch_on(&rig, rig.queue));
                OK(akv_queue_wait(rig.queue, UINT64_MAX));
                for (uint64_t i = 0; i < counts[c]; i++)
                    cr_assert(atomic_load(&visits[0][i]) == 1 && atomic_load(&visits[1][i]) == 1,
                              "threads %u: item %llu of %llu", threads, (unsigned long long)i,
                              (unsigned long long)counts[c]);
                cr_assert(atomic_load(&wrong_order) == 0, "threads %u: phases overlap", threads);
            }
        tear_down(&rig);
    }
}

/* ---- floating-point environment (R13) ---- */

#if defined(__SSE2__)
static unsigned seen_csr;

static void look_at_csr(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                        uint64_t count)
{
    (void)args, (void)phase, (void)first, (void)count;
    seen_csr = _mm_getcsr();
}

Test(queue, floating_point_environment)
{
    /* Flush to zero, denormals are zero, round up, and a sticky flag of the caller's. */
    const unsigned odd = 0x1F80u | 0x8000u | 0x0040u | 0x4000u | 0x0004u;
    for (uint32_t threads = 0; threads <= 3; threads++) {
        unsigned before = _mm_getcsr();
        _mm_setcsr(odd);
        struct rig rig;
        set_up(&rig, threads);
        own = (struct akv_cpu_kernel){1, one_item, look_at_csr, NULL, NULL};
        seen_csr = 0;
        OK(launch_on(&rig, rig.queue));
        OK(akv_queue_wait(rig.queue, UINT64_MAX));
        cr_expect((seen_csr & 0xFFC0u) == 0x1F80u, "threads %u: a kernel ran under %04x", threads,
                  seen_csr);
        cr_expect(_mm_getcsr() == odd, "threads %u: the caller's mode became %04x", threads,
                  _mm_getcsr());
        tear_down(&rig);
        _mm_setcsr(before);
    }
}

/* The bytes of an encoder do not depend on the caller's mode. */
Test(queue, bytes_do_not_depend_on_the_callers_mode)
{
    enum { ROWS = 16, DIM = 128 };
    static float rows[ROWS * DIM];
    static uint8_t packed[2][ROWS * DIM * 2];
    uint64_t seed = 3;
    for (int i = 0; i < ROWS * DIM; i++) {
        uint32_t bits = (house_random(&seed) & 0x807FFFFFu) | (100 + house_random(&seed) % 40)
                                                                  << 23;
        memcpy(&rows[i], &bits, 4);
    }
    for (anykv_format format = ANYKV_I8; format <= ANYKV_E4M3G; format++)
        for (uint32_t threads = 0; threads <= 2; threads++)
            for (unsigned mode = 0; mode < 2; mode++) {
                unsigned before = _mm_getcsr();
                anykv_context *context = house_context();
                anykv_device *device = house_device(context, threads);
                anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
                options.format = format;
                anykv_codec *codec;
                OK(anykv_codec_create(device, &options, &codec));
                uint64_t bytes;
                OK(anykv_codec_bytes(codec, ROWS, &bytes));
                anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, DIM);
                _mm_setcsr(mode ? 0x1F80u | 0x8000u | 0x0040u | 0x4000u : 0x1F80u);
                OK(anykv_codec_encode(codec, &view, ROWS, 1, packed[mode], bytes, NULL));
                _mm_setcsr(before);
                cr_expect(mode == 0 || memcmp(packed[0], packed[1], bytes) == 0,
                          "%s, threads %u: bytes depend on the caller's rounding mode",
                          anykv_format_name(format), threads);
                anykv_codec_destroy(codec);
                anykv_device_close(device);
                anykv_context_destroy(context);
            }
}
#endif

/* ---- known-answer test ---- */

static void broken_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    akv_cpu_encode_scalar.run(args, phase, first, count);
    args->arg[1][0] ^= 1;
}

Test(queue, known_answer_test_refuses_a_broken_kernel)
{
    struct rig rig;
    set_up(&rig, 0);
    struct akv_cpu_device *device = akv_cpu_device_of(rig.device->device);
    OK(akv_cpu_kat(device));
    struct akv_cpu_kernel broken = akv_cpu_encode_scalar;
    broken.run = broken_run;
    device->kernel[AKV_K_ENCODE] = &broken;
    REFUSED(ANYKV_E_DEVICE, "known-answer", akv_cpu_kat(device));
    tear_down(&rig);
}
