/* SPDX-License-Identifier: Apache-2.0 */
/* Policies on request traces of other kinds than the published ones: against the rules simulated
 * once more, and what the default promises against all others. */
#include "evict_reference.h"
#include "house.h"
#include "lib/evict.h"
#include "made_traces.h"
#include "tools/replay.h"
#include "tools/replay_optimum.h"
#include <stdio.h>

static double percent(const struct akv_trace *trace, uint64_t hits)
{
    return 100.0 * (double)hits / (double)trace->blocks;
}

static double library(const struct akv_trace *trace, uint32_t capacity, anykv_policy policy,
                      bool done, uint64_t *changes_out)
{
    struct akv_replay_run run;
    struct akv_progress progress;
    akv_progress_begin(&progress, "replay", trace->requests);
    OK(akv_replay_policy(trace, capacity, policy, done, &progress, &run));
    akv_progress_end(&progress);
    *changes_out = run.changes;
    return percent(trace, run.hits);
}

static const uint32_t capacities[] = {100, 300, 1000};

/* Where ADAPTIVE changes to another rule it may be better than its first one, and hardly worse:
 * what it finds out costs something, most with done hints, which its miniature caches know less of.
 */
Test(policy_trace, as_simulated, .timeout = 300)
{
    for (uint32_t which = 0; which < made_trace_count; which++) {
        struct akv_trace trace;
        made_trace_load(which, &trace);
        for (int c = 0; c < 3; c++)
            for (int variant = 0; variant < 3; variant++) {
                const bool adaptive = variant > 0, done = variant > 1;
                uint64_t changes;
                const double here =
                    library(&trace, capacities[c],
                            adaptive ? ANYKV_POLICY_ADAPTIVE : ANYKV_POLICY_LRU, done, &changes);
                const double there =
                    percent(&trace, reference_hits(&trace, capacities[c], adaptive, done));
                printf("# %s, %u blocks, %s%s: %.2f %%, simulated %.2f %%, %llu changes of rule\n",
                       made_traces[which].name, capacities[c], adaptive ? "adaptive" : "lru",
                       done ? " with done" : "", here, there, (unsigned long long)changes);
                cr_expect(changes ? here > there - 1.0 : here > there - 0.5 && here < there + 0.5,
                          "%s, %u blocks, variant %d: %.2f %%, simulated %.2f %%",
                          made_traces[which].name, capacities[c], variant, here, there);
            }
        akv_trace_free(&trace);
    }
}

/* The library's policies and those for comparison. */
static const char *rival(const struct akv_trace *trace, uint32_t capacity, int id, double *share)
{
    struct akv_replay_run run;
    uint64_t changes;
    if (id < ANYKV_POLICY_CALLER) {
        *share = library(trace, capacity, (anykv_policy)id, false, &changes);
        return akv_policy_find((anykv_policy)id)->name;
    }
    if (id == ANYKV_POLICY_CALLER)
        OK(akv_replay_arc(trace, capacity, &run));
    else
        OK(akv_replay_s3fifo(trace, capacity, &run));
    *share = percent(trace, run.hits);
    return id == ANYKV_POLICY_CALLER ? "arc" : "s3fifo";
}

Test(policy_trace, the_default_is_never_far_behind, .timeout = 300)
{
    const anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    for (uint32_t which = 0; which < made_trace_count; which++) {
        struct akv_trace trace;
        made_trace_load(which, &trace);
        for (int c = 0; c < 3; c++) {
            uint64_t best = 0, changes;
            const double mine = library(&trace, capacities[c], options.policy, false, &changes);
            OK(akv_replay_optimum(&trace, capacities[c], &best));
            printf("# %s, %u blocks: default %.2f %%, optimum %.2f %%", made_traces[which].name,
                   capacities[c], mine, percent(&trace, best));
            for (int id = ANYKV_POLICY_LRU; id <= ANYKV_POLICY_CALLER + 1; id++) {
                double other;
                const char *name = rival(&trace, capacities[c], id, &other);
                printf(", %s %.2f", name, other);
                cr_expect(other <= percent(&trace, best) + 1e-9, "%s is above the optimum", name);
                cr_expect(mine >= other - 2.0, "%s, %u blocks: %.2f %%, %s %.2f %%",
                          made_traces[which].name, capacities[c], mine, name, other);
                if (id == ANYKV_POLICY_LRU)
                    cr_expect(mine >= other - 0.5, "%s, %u blocks: %.2f %%, leaf-LRU %.2f %%",
                              made_traces[which].name, capacities[c], mine, other);
            }
            printf("\n");
        }
        akv_trace_free(&trace);
    }
}
