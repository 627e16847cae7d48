/* SPDX-License-Identifier: Apache-2.0 */
/* Many threads on one cache: steps, lookups, matches, forks, hints, statistics, evictions. */
#include "engine.h"
#include <stdatomic.h>
#include <unistd.h>

#define THREADS 64u
#define SEQS    3u

static struct engine engine;
static atomic_uint steps, matches, refusals, attends, evictions;

struct worker {
    akv_thread thread;
    uint32_t number;
    uint32_t rounds;
    uint64_t random;
    anykv_seq *seqs[SEQS];
    char failure[200]; /* "" if none: assertions belong to the main thread */
};

static bool expect(struct worker *worker, const char *what, anykv_status status, bool may_refuse)
{
    if (status == ANYKV_OK)
        return true;
    /* Four steps may be open, and the budget is small. */
    if (may_refuse && (status == ANYKV_E_BUSY || status == ANYKV_E_BUDGET))
        atomic_fetch_add(&refusals, 1);
    else if (!worker->failure[0])
        snprintf(worker->failure, sizeof worker->failure, "thread %u: %s: %s", worker->number, what,
                 anykv_error_detail());
    return false;
}

/* Threads share the tokens of four chains. */
static void tokens_of(const struct worker *worker, uint32_t first, uint32_t count, uint32_t *tokens)
{
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = worker->number % 4 * 10000 + first + i;
}

static void begin(struct worker *worker, uint32_t which)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    uint32_t tokens[200];
    uint64_t matched;
    options.flags = ANYKV_SEQ_PUBLIC;
    tokens_of(worker, 0, 200, tokens);
    if (!expect(worker, "create", anykv_seq_create(engine.cache, &options, &worker->seqs[which]),
                false))
        return;
    if (expect(worker, "match", anykv_seq_match(worker->seqs[which], tokens, 200, &matched), false))
        atomic_fetch_add(&matches, matched != 0);
}

static void attend(struct worker *worker, anykv_step *open, uint32_t count)
{
    float q[8 * 2 * 64], out[8 * 2 * 64];
    for (uint32_t i = 0; i < count * 2 * 64; i++)
        q[i] = (float)(i % 7) - 3.0f;
    const anykv_view q_view = anykv_view_host(q, ANYKV_F32, 2, 64);
    const anykv_view out_view = anykv_view_host(out, ANYKV_F32, 2, 64);
    if (!expect(worker, "attend", anykv_step_attend(open, 0, &q_view, NULL, &out_view), false))
        return;
    atomic_fetch_add(&attends, 1);
    for (uint32_t i = 0; i < count * 2 * 64; i++)
        if (!(out[i] >= -20.0f && out[i] <= 20.0f) && !worker->failure[0]) /* the rows: 16 */
            snprintf(worker->failure, sizeof worker->failure, "thread %u: attend gave %g",
                     worker->number, (double)out[i]);
}

static void evict_tokens(struct worker *worker, anykv_seq *seq)
{
    anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
    params.policy = ANYKV_TOKENS_KNORM;
    params.keep = 64;
    params.recent = 32;
    if (expect(worker, "evict_tokens", anykv_seq_evict_tokens(seq, &params), true))
        atomic_fetch_add(&evictions, 1);
}

/* A snapshot adds up whatever goes on meanwhile. */
static void check_stats(struct worker *worker, const anykv_stats *stats)
{
    const uint64_t parts =
        stats->fixed_bytes + stats->hot_bytes + stats->sealed_bytes + stats->fragmentation_bytes;
    if (worker->failure[0])
        return;
    if (stats->used_bytes > stats->budget_bytes || stats->used_bytes != parts)
        snprintf(worker->failure, sizeof worker->failure, "%llu bytes of %llu, the parts are %llu",
                 (unsigned long long)stats->used_bytes, (unsigned long long)stats->budget_bytes,
                 (unsigned long long)parts);
    if (stats->hit_tokens > stats->lookup_tokens ||
        stats->cached_blocks > stats->hot_blocks + stats->sealed_blocks)
        snprintf(worker->failure, sizeof worker->failure, "%llu hits of %llu, %llu cached",
                 (unsigned long long)stats->hit_tokens, (unsigned long long)stats->lookup_tokens,
                 (unsigned long long)stats->cached_blocks);
}

/* Four steps may be open: the others wait for their turn a while, on a slow device, too. */
static anykv_status begin_step(anykv_seq *seq, uint32_t count, anykv_step **open)
{
    anykv_status status = anykv_step_begin(engine.cache, &seq, &count, 1, open);
    for (int i = 0; i < 50 && status == ANYKV_E_BUSY; i++) {
        usleep(1000);
        status = anykv_step_begin(engine.cache, &seq, &count, 1, open);
    }
    return status;
}

static void step(struct worker *worker, anykv_seq *seq)
{
    uint32_t tokens[40];
    uint64_t seeds[40] = {0}, length = 0;
    const uint32_t count = 1 + house_random(&worker->random) % 40;
    anykv_step *open;
    expect(worker, "length", anykv_seq_length(seq, &length), false);
    if (length + count > 500 ||
        !expect(worker, "begin", begin_step(seq, count, &open), true))
        return;
    tokens_of(worker, (uint32_t)length, count, tokens);
    if (house_random(&worker->random) % 8 == 0) {
        anykv_step_cancel(open);
        return;
    }
    expect(worker, "append", engine_append(open, seeds), false);
    if (count <= 8)
        attend(worker, open, count);
    expect(worker, "end", anykv_step_end(open, NULL, tokens), false);
    atomic_fetch_add(&steps, 1);
}

static void hint(struct worker *worker, anykv_seq *seq)
{
    switch (house_random(&worker->random) % 5) {
    case 0:
        expect(worker, "done", anykv_seq_done(seq), false);
        break;
    case 1:
        expect(worker, "retain", anykv_seq_retain(seq, 0, 64, 60, 1e-3), false);
        break;
    case 2:
        expect(worker, "lease", anykv_seq_lease(seq, 1e-3), false);
        break;
    case 3:
        expect(worker, "expect", anykv_seq_expect(seq, 0.1), false);
        break;
    default:
        expect(worker, "pin", anykv_seq_pin(seq, 1), false);
        expect(worker, "unpin", anykv_seq_pin(seq, 0), false);
    }
}

static void look(struct worker *worker)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    uint32_t tokens[200];
    uint64_t matched = 0;
    char text[256];
    options.flags = ANYKV_SEQ_PUBLIC;
    tokens_of(worker, 0, 200, tokens);
    expect(worker, "lookup", anykv_cache_lookup(engine.cache, &options, tokens, 200, &matched),
           false);
    anykv_stats stats = {.size = sizeof stats};
    expect(worker, "stats", anykv_cache_stats(engine.cache, &stats), false);
    check_stats(worker, &stats);
    expect(worker, "explain", anykv_cache_explain(engine.cache, text, sizeof text), false);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (uint32_t round = 0; round < worker->rounds; round++) {
        const uint32_t which = house_random(&worker->random) % SEQS;
        anykv_seq *seq = worker->seqs[which];
        const uint32_t kind = house_random(&worker->random) % 10;
        if (!seq) {
            begin(worker, which);
        } else if (kind == 0) {
            anykv_seq_destroy(seq);
            worker->seqs[which] = NULL;
        } else if (kind == 1) {
            const uint32_t other = (which + 1) % SEQS;
            if (!worker->seqs[other])
                expect(worker, "fork", anykv_seq_fork(seq, &worker->seqs[other]), false);
        } else if (kind == 2) {
            hint(worker, seq);
        } else if (kind == 3 && house_random(&worker->random) % 8 == 0) {
            expect(worker, "trim_memory", anykv_cache_trim_memory(engine.cache), false);
        } else if (kind == 4 && house_random(&worker->random) % 2 == 0) {
            evict_tokens(worker, seq);
        } else if (kind < 6) {
            look(worker);
        } else {
            step(worker, seq);
        }
    }
    for (uint32_t i = 0; i < SEQS; i++)
        anykv_seq_destroy(worker->seqs[i]);
    return NULL;
}

static void mix(anykv_policy policy, uint32_t rounds)
{
    static struct worker workers[THREADS];
    const anykv_layer layer = engine_layer(1, 64, 0);
    anykv_cache_options options = engine_options(engine_budget(2u << 20));
    options.recent = 16;
    options.flags |= ANYKV_CACHE_EVICT_TOKENS;
    engine_policy(&options, (uint64_t)policy - ANYKV_POLICY_LRU);
    engine_start(&engine, &layer, 1, &options, 0);
    memset(workers, 0, sizeof workers);
    atomic_store(&steps, 0);
    atomic_store(&matches, 0);
    atomic_store(&refusals, 0);
    atomic_store(&attends, 0);
    atomic_store(&evictions, 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i].number = i;
        workers[i].rounds = rounds;
        workers[i].random = 77 + i;
        OK(akv_thread_start(NULL, &workers[i].thread, work, &workers[i]));
    }
    for (uint32_t i = 0; i < THREADS; i++)
        akv_thread_join(&workers[i].thread);
    for (uint32_t i = 0; i < THREADS; i++)
        cr_expect(!workers[i].failure[0], "%s", workers[i].failure);
    const anykv_stats stats = engine_stats(engine.cache);
    printf("# policy %d: %u steps, %u attended, %u matches, %u refusals, %u evictions of tokens, "
           "%llu blocks evicted\n",
           (int)policy, atomic_load(&steps), atomic_load(&attends), atomic_load(&matches),
           atomic_load(&refusals), atomic_load(&evictions),
           (unsigned long long)stats.blocks_evicted);
    cr_expect(atomic_load(&steps) > THREADS && atomic_load(&matches) > 0);
    cr_expect(atomic_load(&attends) > 0 && atomic_load(&evictions) > 0);
    cr_expect(stats.sequences == 0 && stats.blocks_evicted > 0);
    audit(engine.cache, "after all threads");
    engine_stop(&engine);
}

Test(threads, adaptive, .timeout = 300)
{
    mix(ANYKV_POLICY_ADAPTIVE, 150);
}

Test(threads, gittins, .timeout = 300)
{
    mix(ANYKV_POLICY_GITTINS, 60);
}

Test(threads, caller, .timeout = 300)
{
    mix(ANYKV_POLICY_CALLER, 60);
}

/* A lookup gets its answer while somebody else holds the cache's lock, as long as it likes. */
static void *look_up(void *found)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    uint32_t tokens[65];
    options.flags = ANYKV_SEQ_PUBLIC;
    for (uint32_t i = 0; i < 65; i++)
        tokens[i] = 500 + i;
    if (anykv_cache_lookup(engine.cache, &options, tokens, 65, found))
        *(uint64_t *)found = 0;
    return NULL;
}

Test(threads, lookups_wait_for_nobody, .timeout = 60)
{
    const anykv_layer layer = engine_layer(1, 64, 0);
    const anykv_cache_options options = engine_options(engine_budget(2u << 20));
    engine_start(&engine, &layer, 1, &options, 0);
    anykv_seq *seq = engine_seq(engine.cache);
    engine_run(seq, 500, 64);
    akv_thread thread;
    uint64_t found = 0;
    akv_mutex_lock(&engine.cache->lock);
    OK(akv_thread_start(NULL, &thread, look_up, &found));
    akv_thread_join(&thread); /* never, if it took the lock */
    akv_mutex_unlock(&engine.cache->lock);
    cr_expect(found == 64, "%llu tokens found", (unsigned long long)found);
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}
