/* SPDX-License-Identifier: Apache-2.0 */
/* A device that its driver gives up: every call says so, nothing waits for it, nothing of it is
 * served. */
#include "engine.h"
#if defined(AKV_WITH_OPENCL)
#include "opencl_rig.h"

static const struct {
    int code;
    uint64_t waits; /* that may be made once the device is gone, because the code says too little */
} losses[] = {{CL_DEVICE_NOT_AVAILABLE, 0}, {CL_OUT_OF_RESOURCES, 1}, {-9999, 0}};
#define LOSSES (sizeof losses / sizeof losses[0])

static struct rig_fake fake;

static void begin(void)
{
    fake = rig_use_fake();
    rig_need_device();
    rig_cache_folder();
    setenv("ANYKV_OPENCL_SHAPE", "cpu", 1); /* the shape that every device builds quickly */
    setenv("ANYKV_TEST_DEVICE", "opencl", 1);
}

/* ---- the backend ---- */

static uint8_t bytes[3 << 20], back[256]; /* a lost device's reads may land after all */

struct bench {
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
    struct akv_mem *mem, *pinned;
    struct akv_event *event;
};

static void bench_open(struct bench *bench)
{
    bench->context = house_context();
    OK(rig_open(bench->context, &bench->device));
    OK(akv_queue_create(bench->device, NULL, &bench->queue));
    OK(akv_mem_alloc(bench->device, sizeof bytes, AKV_MEM_DEVICE, &bench->mem));
    OK(akv_mem_alloc(bench->device, sizeof back, AKV_MEM_PINNED, &bench->pinned));
    OK(akv_event_create(bench->device, &bench->event));
    OK(akv_event_record(bench->event, bench->queue));
    cr_assert(akv_event_fd(bench->event) >= 0);
}

static void bench_close(struct bench *bench)
{
    akv_event_destroy(bench->event);
    akv_mem_free(bench->pinned);
    akv_mem_free(bench->mem);
    akv_queue_destroy(bench->queue);
    akv_device_close(bench->device);
    anykv_context_destroy(bench->context);
}

static anykv_status use(struct bench *bench)
{
    const struct akv_span all = {bench->mem, 0, sizeof bytes}, some = {bench->mem, 64, sizeof back};
    struct akv_mem *more = NULL;
    bool done;
    anykv_status status = akv_queue_put(bench->queue, all, bytes);
    if (!status)
        status = akv_mem_alloc(bench->device, 100, AKV_MEM_PINNED, &more);
    if (!status)
        status = akv_queue_fill(bench->queue, some, 7);
    if (!status)
        status = akv_queue_copy(bench->queue, (struct akv_span){bench->pinned, 0, 64},
                                (struct akv_span){bench->mem, 0, 64});
    if (!status)
        status = akv_event_record(bench->event, bench->queue);
    if (!status)
        status = akv_event_await(bench->event, bench->queue);
    if (!status)
        status = akv_queue_get(bench->queue, back, some);
    if (!status)
        status = akv_queue_flush(bench->queue);
    if (!status)
        status = akv_event_query(bench->event, &done);
    if (!status)
        status = akv_event_wait(bench->event, UINT64_MAX);
    if (!status)
        status = akv_queue_wait(bench->queue, UINT64_MAX);
    akv_mem_free(more);
    return status;
}

/* Every call of the table that is no destruction. */
static void expect_lost(struct bench *bench)
{
    const struct akv_span some = {bench->mem, 0, 16}, other = {bench->mem, 32, 16};
    struct akv_queue *queue;
    struct akv_event *event;
    struct akv_mem *mem;
    uint64_t a, b;
    bool done;
    REFUSED(ANYKV_E_DEAD, "is lost", akv_device_memory(bench->device, &a, &b));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_mem_alloc(bench->device, 16, AKV_MEM_DEVICE, &mem));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_mem_adopt(bench->device, bytes, 16, &mem));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_queue_create(bench->device, NULL, &queue));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_queue_put(bench->queue, some, bytes));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_queue_get(bench->queue, back, some));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_queue_copy(bench->queue, some, other));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_queue_fill(bench->queue, some, 1));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_queue_flush(bench->queue));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_queue_wait(bench->queue, UINT64_MAX));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_event_create(bench->device, &event));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_event_record(bench->event, bench->queue));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_event_await(bench->event, bench->queue));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_event_query(bench->event, &done));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_event_wait(bench->event, UINT64_MAX));
    REFUSED(ANYKV_E_DEAD, "is lost", akv_event_elapsed(bench->event, bench->event, &a));
}

Test(opencl_lost, by_each_call_of_a_queue, .timeout = 300)
{
    begin();
    struct bench bench;
    bench_open(&bench);
    fake.fail_at(0, 0);
    OK(use(&bench));
    const uint64_t sites = fake.calls();
    bench_close(&bench);
    cr_assert(sites > 10, "%llu", (unsigned long long)sites);
    uint64_t noticed = 0;
    for (size_t c = 0; c < LOSSES; c++)
        for (uint64_t n = 1; n <= sites; n++) {
            bench_open(&bench);
            fake.lose_at(n, losses[c].code);
            anykv_status status = use(&bench);
            cr_expect(status == ANYKV_E_DEVICE || status == ANYKV_E_DEAD ||
                          status == ANYKV_E_MEMORY || status == ANYKV_OK,
                      "call %llu: %s", (unsigned long long)n, anykv_status_name(status));
            if (!akv_device_is_lost(bench.device)) /* by a call whose failure is no news or ambiguous */
                cr_expect(akv_queue_wait(bench.queue, UINT64_MAX) == ANYKV_E_DEVICE);
            noticed += status == ANYKV_E_DEVICE;
            cr_assert(akv_device_is_lost(bench.device), "call %llu", (unsigned long long)n);
            expect_lost(&bench);
            bench_close(&bench);
            cr_expect(fake.lost_waits() <= losses[c].waits, "call %llu: %llu waits",
                      (unsigned long long)n, (unsigned long long)fake.lost_waits());
            fake.fail_at(0, 0);
        }
    cr_expect(noticed > sites * 2, "%llu of %llu", (unsigned long long)noticed,
              (unsigned long long)sites * LOSSES);
}

/* ---- the cache ---- */

static anykv_status step_and_gather(struct engine *engine, anykv_seq *seq, float *rows)
{
    static uint64_t seeds[40];
    static uint32_t tokens[40];
    static float q[40 * 2 * 64], out[40 * 2 * 64];
    const uint32_t count = 40;
    const anykv_view q_view = anykv_view_host(q, ANYKV_F32, 2, 64),
                     o_view = anykv_view_host(out, ANYKV_F32, 2, 64),
                     r_view = anykv_view_host(rows, ANYKV_F32, 1, 64);
    anykv_step *step;
    anykv_status status = anykv_step_begin(engine->cache, &seq, &count, 1, &step);
    if (!status) {
        status = engine_append(step, seeds);
        if (!status)
            status = anykv_step_attend(step, 0, &q_view, NULL, &o_view);
        if (status)
            anykv_step_cancel(step);
        else
            status = anykv_step_end(step, NULL, tokens);
    }
    if (!status)
        status = anykv_seq_gather(seq, 0, 0, 0, 80, &r_view);
    if (!status)
        status = anykv_cache_wait(engine->cache, UINT64_MAX);
    return status;
}

/* What was there before is a miss now, and everything ends. */
static void expect_nothing(struct engine *engine, anykv_seq *seq, float *rows)
{
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
    anykv_seq_options public = ANYKV_SEQ_OPTIONS_INIT;
    public.flags = ANYKV_SEQ_PUBLIC;
    uint32_t tokens[64];
    uint64_t length, matched = 1;
    anykv_cache *other;
    anykv_event *event;
    const anykv_cache_options options = engine_options(16u << 20);
    for (uint32_t i = 0; i < 64; i++)
        tokens[i] = 100 + i;
    cr_expect(anykv_cache_wait(engine->cache, UINT64_MAX) != ANYKV_OK);
    REFUSED(ANYKV_E_DEAD, "lost", anykv_cache_wait(engine->cache, UINT64_MAX));
    REFUSED(ANYKV_E_DEAD, "lost", anykv_device_wait(engine->device, UINT64_MAX));
    REFUSED(ANYKV_E_DEAD, "lost", anykv_event_record(engine->device, &event));
    REFUSED(ANYKV_E_DEAD, "destroy it", anykv_seq_length(seq, &length));
    rows[0] = 77;
    cr_expect(anykv_seq_gather(seq, 0, 0, 0, 80, &view) == ANYKV_E_DEAD && rows[0] == 77);
    OK(anykv_cache_lookup(engine->cache, &public, tokens, 64, &matched));
    cr_expect(matched == 0, "%llu tokens of a lost device", (unsigned long long)matched);
    REFUSED(ANYKV_E_DEAD, "lost",
            anykv_cache_create(engine->device, engine->layout, &options, &other));
    audit(engine->cache, "after the loss");
}

Test(opencl_lost, by_each_call_of_a_step, .timeout = 600)
{
    static float rows[80 * 64];
    begin();
    const anykv_layer layer = engine_layer(1, 64, 0);
    const anykv_cache_options options = engine_options(16u << 20);
    uint64_t sites = 0;
    for (uint64_t n = 0, round = 0; n <= sites; n += round++ ? 2 : 0) {
        const uint64_t live = akv_alloc_live();
        struct engine engine;
        engine_start(&engine, &layer, 1, &options, 0);
        anykv_seq *seq = engine_seq(engine.cache);
        engine_run(seq, 100, 64);
        OK(anykv_cache_wait(engine.cache, UINT64_MAX)); /* clean: only the loss takes these rows */
        fake.lose_at(n, losses[round % LOSSES].code);
        const anykv_status status = step_and_gather(&engine, seq, rows);
        if (n == 0) {
            OK(status);
            sites = fake.calls();
        } else {
            cr_expect(status == ANYKV_E_DEVICE || status == ANYKV_E_DEAD || status == ANYKV_OK ||
                          status == ANYKV_E_MEMORY,
                      "call %llu: %s", (unsigned long long)n, anykv_status_name(status));
            expect_nothing(&engine, seq, rows);
        }
        anykv_seq_destroy(seq);
        engine_stop(&engine);
        cr_expect(fake.lost_waits() <= losses[round % LOSSES].waits, "call %llu: %llu waits",
                  (unsigned long long)n, (unsigned long long)fake.lost_waits());
        fake.fail_at(0, 0);
        cr_expect(akv_alloc_live() == live, "call %llu leaks", (unsigned long long)n);
    }
    cr_expect(sites > 30, "%llu calls", (unsigned long long)sites);
}

#else
Test(opencl_lost, not_built)
{
    cr_skip_test("this build has no OpenCL backend");
}
#endif
