/* SPDX-License-Identifier: Apache-2.0 */
/* Policies on request traces of other kinds than the published ones: against the rules simulated
 * once more, and what the default promises against all others. */
#include "evict_reference.h"
#include "house.h"
#include "lib/evict.h"
#include "tools/replay.h"
#include "tools/replay_optimum.h"
#include <stdio.h>
#include <stdlib.h>

struct maker {
    FILE *file;
    uint64_t random;
    uint32_t next_id;
    double ms;
};

static uint32_t below(struct maker *m, uint32_t end)
{
    return house_random(&m->random) % end;
}

/* 1 … end, small numbers more often: density 1/x. */
static uint32_t skewed(struct maker *m, uint32_t end)
{
    uint32_t x = end;
    while (x > 1 && below(m, 4) != 0)
        x = x * 3 / 5;
    return 1 + below(m, x < 1 ? 1 : x);
}

static void request(struct maker *m, const uint32_t *id, uint32_t count, bool partial)
{
    fprintf(m->file, "{\"timestamp\":%.0f,\"input_length\":%u,\"output_length\":1,\"hash_ids\":[",
            m->ms, count * 512 - (partial ? 100 : 0));
    for (uint32_t i = 0; i < count; i++)
        fprintf(m->file, "%s%u", i ? "," : "", id[i]);
    fprintf(m->file, "]}\n");
}

/* Conversations that take turns: a few hot system prompts, each turn adds blocks, popular ones come
 * back sooner. */
static void zipf_turns(struct maker *m)
{
    enum { SESSIONS = 400, DEPTH = 40 };
    static uint32_t id[SESSIONS][DEPTH], length[SESSIONS];
    memset(length, 0, sizeof length);
    for (uint32_t r = 0; r < 4000; r++) {
        const uint32_t s = skewed(m, SESSIONS) - 1;
        uint32_t *path = id[s];
        m->ms += below(m, 1000);
        if (length[s] == 0 || length[s] + 4 > DEPTH) { /* a new one under one of five prompts */
            const uint32_t prompt = below(m, 5);
            for (length[s] = 0; length[s] < 4; length[s]++)
                path[length[s]] = 1 + prompt * 4 + length[s];
        }
        for (uint32_t more = 1 + below(m, 3); more > 0; more--)
            path[length[s]++] = m->next_id++;
        request(m, path, length[s], below(m, 2));
        if (below(m, 2)) /* its partial block does not come again */
            length[s]--;
    }
}

/* Agents: few deep sessions, each with a request every few seconds until it is done. */
static void deep_sessions(struct maker *m)
{
    enum { SESSIONS = 12, DEPTH = 120 };
    static uint32_t id[SESSIONS][DEPTH], length[SESSIONS];
    memset(length, 0, sizeof length);
    for (uint32_t r = 0; r < 3000; r++) {
        const uint32_t s = below(m, SESSIONS);
        m->ms += below(m, 3000);
        if (length[s] == 0 || length[s] + 3 > DEPTH || below(m, 60) == 0)
            for (length[s] = 0; length[s] < 6; length[s]++)
                id[s][length[s]] = 1 + length[s];
        for (uint32_t more = 1 + below(m, 2); more > 0; more--)
            id[s][length[s]++] = m->next_id++;
        request(m, id[s], length[s], false);
    }
}

/* Conversations among many requests that never come back, some of them long. */
static void scan(struct maker *m)
{
    enum { SESSIONS = 60, DEPTH = 30 };
    static uint32_t id[SESSIONS][DEPTH], length[SESSIONS], once[64];
    memset(length, 0, sizeof length);
    for (uint32_t r = 0; r < 4000; r++) {
        m->ms += below(m, 500);
        if (below(m, 3)) {
            const uint32_t count = 1 + below(m, below(m, 20) ? 12 : 60);
            for (uint32_t i = 0; i < count; i++)
                once[i] = m->next_id++;
            request(m, once, count, true);
            continue;
        }
        const uint32_t s = below(m, SESSIONS);
        if (length[s] + 2 > DEPTH)
            length[s] = 0;
        for (uint32_t more = 1 + below(m, 2); more > 0; more--)
            id[s][length[s]++] = m->next_id++;
        request(m, id[s], length[s], false);
    }
}

static const struct {
    const char *name;
    void (*make)(struct maker *m);
} makers[] = {{"zipf turns", zipf_turns}, {"deep sessions", deep_sessions}, {"scan", scan}};
#define MAKERS (sizeof makers / sizeof makers[0])

static void make(size_t which, struct akv_trace *trace)
{
    char path[] = "policy-trace-XXXXXX";
    const int file = mkstemp(path);
    cr_assert(file >= 0, "no temporary file");
    struct maker m = {fdopen(file, "w"), 20260101 + which, 1000, 0.0};
    makers[which].make(&m);
    fclose(m.file);
    const anykv_status status = akv_trace_load(path, 512, trace);
    remove(path);
    cr_assert(status == ANYKV_OK, "%s: %s", makers[which].name, anykv_error_detail());
}

static double percent(const struct akv_trace *trace, uint64_t hits)
{
    return 100.0 * (double)hits / (double)trace->blocks;
}

static double library(const struct akv_trace *trace, uint32_t capacity, anykv_policy policy,
                      bool done)
{
    struct akv_replay_run run;
    struct akv_progress progress;
    akv_progress_begin(&progress, "replay", trace->requests);
    OK(akv_replay_policy(trace, capacity, policy, done, &progress, &run));
    akv_progress_end(&progress);
    return percent(trace, run.hits);
}

static const uint32_t capacities[] = {100, 300, 1000};

Test(policy_trace, as_simulated, .timeout = 300)
{
    for (size_t which = 0; which < MAKERS; which++) {
        struct akv_trace trace;
        make(which, &trace);
        for (int c = 0; c < 3; c++)
            for (int variant = 0; variant < 3; variant++) {
                const bool adaptive = variant > 0, done = variant > 1;
                const double here =
                    library(&trace, capacities[c],
                            adaptive ? ANYKV_POLICY_ADAPTIVE : ANYKV_POLICY_LRU, done);
                const double there =
                    percent(&trace, reference_hits(&trace, capacities[c], adaptive, done));
                printf("# %s, %u blocks, %s%s: %.2f %%, simulated %.2f %%\n", makers[which].name,
                       capacities[c], adaptive ? "adaptive" : "lru", done ? " with done" : "", here,
                       there);
                cr_expect(here > there - 0.5 && here < there + 0.5,
                          "%s, %u blocks, variant %d: %.2f %%, simulated %.2f %%",
                          makers[which].name, capacities[c], variant, here, there);
            }
        akv_trace_free(&trace);
    }
}

Test(policy_trace, the_default_is_never_far_behind, .timeout = 300)
{
    const anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    for (size_t which = 0; which < MAKERS; which++) {
        struct akv_trace trace;
        make(which, &trace);
        for (int c = 0; c < 3; c++) {
            uint64_t best = 0;
            struct akv_replay_run run;
            const double mine = library(&trace, capacities[c], options.policy, false);
            OK(akv_replay_optimum(&trace, capacities[c], &best));
            printf("# %s, %u blocks: default %.2f %%, optimum %.2f %%", makers[which].name,
                   capacities[c], mine, percent(&trace, best));
            for (int id = ANYKV_POLICY_LRU; id <= ANYKV_POLICY_CALLER + 1; id++) {
                double other;
                if (id == ANYKV_POLICY_CALLER)
                    OK(akv_replay_arc(&trace, capacities[c], &run));
                else if (id > ANYKV_POLICY_CALLER)
                    OK(akv_replay_s3fifo(&trace, capacities[c], &run));
                other = id >= ANYKV_POLICY_CALLER
                            ? percent(&trace, run.hits)
                            : library(&trace, capacities[c], (anykv_policy)id, false);
                const char *name = id == ANYKV_POLICY_CALLER ? "arc"
                                   : id > ANYKV_POLICY_CALLER
                                       ? "s3fifo"
                                       : akv_policy_find((anykv_policy)id)->name;
                printf(", %s %.2f", name, other);
                cr_expect(other <= percent(&trace, best) + 1e-9, "%s is above the optimum", name);
                /* GITTINS learns that blocks used twice come back however late, as they do in
                 * "scan"; a half-life forgets them: the one case of more than 2 points. */
                const double behind =
                    id == ANYKV_POLICY_GITTINS && makers[which].make == scan ? 5.0 : 2.0;
                cr_expect(mine >= other - behind, "%s, %u blocks: %.2f %%, %s %.2f %%",
                          makers[which].name, capacities[c], mine, name, other);
                if (id == ANYKV_POLICY_LRU)
                    cr_expect(mine >= other - 0.5, "%s, %u blocks: %.2f %%, leaf-LRU %.2f %%",
                              makers[which].name, capacities[c], mine, other);
            }
            printf("\n");
        }
        akv_trace_free(&trace);
    }
}
