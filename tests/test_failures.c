/* SPDX-License-Identifier: Apache-2.0 */
/* Steps when things fail: each allocation, each backend call, late device failures; and threads. */
#include "steps.h"
#include <pthread.h>

/* ---- failures ---- */

static uint64_t policy_number = ANYKV_POLICY_ADAPTIVE - ANYKV_POLICY_LRU;

/* Everything once: create, match, steps with a fork, eviction, relocation; the first failure. */
static anykv_status everything(void)
{
    anykv_context *context;
    anykv_device *device = NULL;
    anykv_layout *layout = NULL;
    anykv_cache *cache = NULL;
    anykv_seq *seq = NULL, *copy = NULL;
    anykv_step *step = NULL;
    uint64_t seeds[100], matched;
    uint32_t tokens[100];
    seeds_for(seeds, 0, 100);
    for (uint32_t i = 0; i < 100; i++)
        tokens[i] = i;
    anykv_status status = anykv_context_create(NULL, &context);
    if (status)
        return status;
    anykv_device_options device_options = ANYKV_DEVICE_OPTIONS_INIT;
    device_options.threads = 0;
    const anykv_layer layers[2] = {engine_layer(1, 64, 0), engine_layer(1, 64, 40)};
    anykv_layout_options layout_options = ANYKV_LAYOUT_OPTIONS_INIT;
    layout_options.weights = "w";
    layout_options.weights_bytes = 1;
    anykv_cache_options options = engine_options(engine_budget(1u << 20));
    engine_policy(&options, policy_number);
    anykv_tenant_options tenant = ANYKV_TENANT_OPTIONS_INIT; /* the public sequences */
    tenant.guaranteed_bytes = 1000;
    const anykv_seq_options identity = {sizeof identity, ANYKV_SEQ_PUBLIC, NULL, 0, NULL, 0, 0};
    status = anykv_device_open(context, engine_device_name(), &device_options, &device);
    if (!status)
        status = anykv_layout_create(context, layers, 2, &layout_options, &layout);
    if (!status)
        status = anykv_cache_create(device, layout, &options, &cache);
    if (!status)
        status = anykv_cache_set_tenant(cache, &tenant);
    if (!status)
        status = anykv_seq_create(cache, &identity, &seq);
    if (!status)
        status = anykv_seq_retain(seq, 0, 40, 50, 100.0);
    for (uint32_t round = 0; round < 2 && !status; round++) {
        const uint32_t count = round == 0 ? 90 : 3;
        status = anykv_step_begin(cache, &seq, &count, 1, &step);
        if (!status) {
            status = engine_append(step, seeds);
            float out[100 * 2 * 64];
            if (!status)
                status = attend_layer(step, 0, NULL, out);
            if (status)
                anykv_step_cancel(step);
            else
                status = anykv_step_end(step, NULL, tokens);
        }
        if (!status && round == 0)
            status = anykv_seq_fork(seq, &copy);
    }
    anykv_seq_destroy(seq);
    seq = NULL;
    if (!status)
        status = anykv_seq_create(cache, &identity, &seq);
    if (!status)
        status = anykv_seq_match(seq, tokens, 90, &matched);
    float rows[64];
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
    if (!status)
        status = anykv_seq_gather(copy, 0, 0, 20, 1, &view);
    if (!status)
        status = anykv_cache_set_budget(cache, engine_budget(700u << 10));
    if (!status)
        status = anykv_cache_set_budget(cache, engine_budget(1u << 20));
    if (!status)
        status = anykv_cache_wait(cache, UINT64_MAX);
    if (cache) {
        akv_alloc_fail_at(0, false);
        audit(cache, "after a failure");
    }
    anykv_seq_destroy(seq);
    anykv_seq_destroy(copy);
    anykv_cache_destroy(cache);
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

static void fail_each_allocation(void)
{
    engine_keep_device();
    OK(everything()); /* lists that live as long as the process, programs on disk */
    const uint64_t live = akv_alloc_live();
    uint64_t sites = 0;
    for (int repeat = 0; repeat < 2; repeat++)
        for (uint64_t n = 1; n < 5000; n++) {
            akv_alloc_fail_at(n, repeat);
            const anykv_status status = everything();
            akv_alloc_fail_at(0, false);
            cr_assert(akv_alloc_live() == live, "allocation %llu failed and %lld leaked",
                      (unsigned long long)n, (long long)(akv_alloc_live() - live));
            if (status == ANYKV_OK) {
                sites = n - 1;
                break;
            }
            cr_assert(status == ANYKV_E_MEMORY, "allocation %llu: %s", (unsigned long long)n,
                      anykv_status_name(status));
        }
    fprintf(stderr, "# %llu allocations\n", (unsigned long long)sites);
    cr_expect(sites > 30, "only %llu allocations were reached", (unsigned long long)sites);
}

Test(step, each_allocation_fails_once, .timeout = 120)
{
    fail_each_allocation();
}

Test(step, each_allocation_fails_once_with_callers_scores, .timeout = 120)
{
    if (!engine_on_processor())
        cr_skip_test("policies ask no device");
    policy_number = ANYKV_POLICY_CALLER - ANYKV_POLICY_LRU;
    fail_each_allocation();
    policy_number = ANYKV_POLICY_ADAPTIVE - ANYKV_POLICY_LRU;
}

Test(step, each_allocation_fails_once_with_gittins, .timeout = 120)
{
    if (!engine_on_processor())
        cr_skip_test("policies ask no device");
    policy_number = ANYKV_POLICY_GITTINS - ANYKV_POLICY_LRU;
    fail_each_allocation();
    policy_number = ANYKV_POLICY_ADAPTIVE - ANYKV_POLICY_LRU;
}

Test(step, each_backend_call_fails_once, .timeout = 240)
{
    static const anykv_status codes[] = {ANYKV_E_DEVICE, ANYKV_E_MEMORY, ANYKV_E_DEAD};
    engine_keep_device();
    OK(everything()); /* lists that live as long as the process */
    const uint64_t live = akv_alloc_live();
    akv_fault_at(0, ANYKV_OK, false);
    OK(everything());
    const uint64_t sites = akv_fault_count();
    uint64_t refused = 0, again = 0;
    for (uint64_t n = 1; n <= sites; n++)
        for (int how = 0; how < 6; how++) {
            akv_fault_at(n, codes[how / 2], how % 2);
            const anykv_status status = everything();
            akv_fault_at(0, ANYKV_OK, false);
            /* Only the last wait, of destroy, has nobody to tell; device memory that is refused is
             * asked for once more. */
            again += how == 2 && status == ANYKV_OK && n != sites;
            cr_assert(status == codes[how / 2] || status == ANYKV_E_DEAD ||
                          (status == ANYKV_OK && (how == 2 || how % 2 || n == sites)),
                      "backend call %llu of %llu, way %d: %s", (unsigned long long)n,
                      (unsigned long long)sites, how, anykv_status_name(status));
            cr_assert(akv_alloc_live() == live, "backend call %llu failed and leaked",
                      (unsigned long long)n);
            refused += status != ANYKV_OK;
        }
    fprintf(stderr, "# %llu backend calls, %llu of %llu failures were reported\n",
            (unsigned long long)sites, (unsigned long long)refused, (unsigned long long)sites * 6);
    cr_expect(refused > sites * 4);
    cr_expect(again >= 1 && again <= 8, "%llu allocations were tried again",
              (unsigned long long)again);
}

Test(step, a_late_failure_kills_what_it_may_have_hit)
{
    start(0, 32);
    anykv_seq *safe = engine_seq(engine.cache), *hit = engine_seq(engine.cache);
    engine_run(safe, 100, 40);
    OK(anykv_cache_wait(engine.cache, UINT64_MAX));
    engine_run(hit, 100,
               16); /* host views wait, but the step's end seals nothing: done by the wait */
    anykv_step *step = begin_one(hit, 20);
    uint64_t seeds[20];
    seeds_for(seeds, 16, 20);
    akv_fault_at(1, ANYKV_E_DEVICE, true);
    REFUSED(ANYKV_E_DEVICE, "late fault", engine_append(step, seeds));
    akv_fault_at(0, ANYKV_OK, false);
    uint64_t length;
    REFUSED(ANYKV_E_DEAD, "destroy it", anykv_seq_length(hit, &length));
    REFUSED(ANYKV_E_DEVICE, "device failure", anykv_step_end(step, NULL, NULL));
    REFUSED(ANYKV_E_DEAD, "destroy it", anykv_seq_trim(hit, 0));
    const uint32_t one = 1;
    REFUSED(ANYKV_E_DEAD, "destroy it", anykv_step_begin(engine.cache, &hit, &one, 1, &step));
    cr_expect(engine_length(safe) == 40);
    REFUSED(ANYKV_E_DEVICE, "failure since", anykv_cache_wait(engine.cache, UINT64_MAX));
    OK(anykv_cache_wait(engine.cache, UINT64_MAX)); /* once */
    engine_run(safe, 140, 5);
    anykv_seq_destroy(hit);
    anykv_seq_destroy(safe);
    stop();
}

Test(step, a_failure_that_another_wait_was_told_of_is_seen)
{
    for (int closing = 0; closing < 2; closing++) {
        start(0, 32);
        anykv_seq *safe = engine_seq(engine.cache), *hit = engine_seq(engine.cache);
        anykv_cache *other = NULL;
        const anykv_cache_options options = engine_options(8u << 20);
        OK(anykv_cache_create(engine.device, engine.layout, &options, &other));
        engine_run(safe, 100, 40);
        OK(anykv_cache_wait(engine.cache, UINT64_MAX));
        engine_run(hit, 100, 40); /* its last write is not waited for */
        akv_fault_at(1, ANYKV_E_DEVICE, true);
        if (closing)
            anykv_cache_destroy(other);
        else
            REFUSED(ANYKV_E_DEVICE, "late fault", anykv_device_wait(engine.device, UINT64_MAX));
        akv_fault_at(0, ANYKV_OK, false);
        OK(anykv_device_wait(engine.device, UINT64_MAX));
        REFUSED(ANYKV_E_DEVICE, "another wait", anykv_cache_wait(engine.cache, UINT64_MAX));
        uint64_t length;
        REFUSED(ANYKV_E_DEAD, "destroy it", anykv_seq_length(hit, &length));
        cr_expect(engine_length(safe) == 40);
        OK(anykv_cache_wait(engine.cache, UINT64_MAX)); /* once */
        if (!closing) {
            REFUSED(ANYKV_E_DEVICE, "another wait", anykv_cache_wait(other, UINT64_MAX));
            OK(anykv_cache_wait(other, UINT64_MAX));
            anykv_cache_destroy(other);
        }
        anykv_seq_destroy(hit);
        anykv_seq_destroy(safe);
        stop();
    }
}

Test(step, names_of_lost_rows_are_withdrawn)
{
    start(0, 1000);
    anykv_seq *seq = engine_seq(engine.cache), *other = engine_seq(engine.cache);
    engine_run(seq, 100,
               40); /* its last write is not waited for: mark_written after the last wait */
    akv_fault_at(1, ANYKV_E_DEVICE, true);
    anykv_status status = anykv_cache_wait(engine.cache, UINT64_MAX);
    akv_fault_at(0, ANYKV_OK, false);
    cr_expect(status == ANYKV_E_DEVICE, "%s", anykv_status_name(status));
    uint64_t length, matched;
    REFUSED(ANYKV_E_DEAD, "destroy it", anykv_seq_length(seq, &length));
    uint32_t tokens[40];
    for (uint32_t i = 0; i < 40; i++)
        tokens[i] = 100 + i;
    OK(anykv_seq_match(other, tokens, 40, &matched));
    cr_expect(matched == 0, "%llu tokens of a lost write matched", (unsigned long long)matched);
    anykv_seq_destroy(seq);
    anykv_seq_destroy(other);
    OK(anykv_cache_trim_memory(engine.cache));
    cr_expect(engine_stats(engine.cache).used_bytes == engine_stats(engine.cache).fixed_bytes);
    stop();
}

/* ---- threads ---- */

static void *run_thread(void *argument)
{
    const uint32_t which = (uint32_t)(uintptr_t)argument;
    for (uint32_t round = 0; round < 20; round++) {
        anykv_seq *seq = engine_seq(engine.cache), *copy;
        uint32_t tokens[64];
        for (uint32_t i = 0; i < 64; i++)
            tokens[i] = (which + round) % 3 * 1000 + i;
        uint64_t matched;
        OK(anykv_seq_match(seq, tokens, 64, &matched));
        for (uint32_t at = (uint32_t)matched; at < 64; at += 16)
            engine_run(seq, tokens[at], 16);
        OK(anykv_seq_fork(seq, &copy));
        engine_run(copy, 5000 + which, 1);
        float rows[64 * 64], want[64];
        const anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, 64);
        OK(anykv_seq_gather(copy, 0, 0, 0, 64, &view));
        const uint64_t seed = engine_chain(0, tokens[0]);
        engine_rows(&seed, 1, 0, 0, 1, 64, want);
        cr_assert(memcmp(rows, want, sizeof want) == 0, "thread %u round %u", which, round);
        anykv_seq_destroy(copy);
        anykv_seq_destroy(seq);
        if (round % 7 == which)
            OK(anykv_cache_trim_memory(engine.cache));
    }
    return NULL;
}

static void *attend_thread(void *argument)
{
    static float out[20 * 2 * 64];
    OK(attend_layer(argument, 0, NULL, out));
    return NULL;
}

/* Inline, a launch runs in its caller; what an attend needs must not stand on that one's stack. */
Test(step, attend_on_a_small_stack)
{
    start(0, 16);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 100, 100);
    anykv_step *step = begin_one(seq, 20);
    uint64_t seeds[20];
    seeds_for(seeds, 100, 20);
    OK(engine_append(step, seeds));
    pthread_attr_t small;
    pthread_t thread;
    cr_assert(pthread_attr_init(&small) == 0);
    cr_assert(pthread_attr_setstacksize(&small, 128 << 10) == 0);
    cr_assert(pthread_create(&thread, &small, attend_thread, step) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&small);
    OK(anykv_step_end(step, NULL, NULL));
    anykv_seq_destroy(seq);
    stop();
}

Test(step, threads_on_different_sequences, .timeout = 120)
{
    start(1, 16);
    pthread_t thread[3];
    for (uintptr_t i = 0; i < 3; i++)
        cr_assert(pthread_create(&thread[i], NULL, run_thread, (void *)i) == 0);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    OK(anykv_cache_trim_memory(engine.cache));
    const anykv_stats stats = engine_stats(engine.cache);
    cr_expect(stats.used_bytes == stats.fixed_bytes && stats.sequences == 0);
    stop();
}
