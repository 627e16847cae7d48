/* SPDX-License-Identifier: Apache-2.0 */
/* Runs of `anykv replay`: a trace through a policy at one capacity. */
#ifndef AKV_TOOLS_REPLAY_H
#define AKV_TOOLS_REPLAY_H
#include "progress.h"
#include "trace.h"

struct akv_replay_run {
    uint64_t hits, evictions;
    uint64_t changes;                        /* of rule, by ADAPTIVE */
    uint64_t touches, touch_ns, eviction_ns; /* touches 0: not timed */
};

/* The library's own: prefix index, pool and policy. */
anykv_status akv_replay_policy(const struct akv_trace *trace, uint64_t capacity,
                               anykv_policy policy, bool done_hints, struct akv_progress *progress,
                               struct akv_replay_run *run);
/* For comparison only; leaves before parents here too. */
anykv_status akv_replay_arc(const struct akv_trace *trace, uint64_t capacity,
                            struct akv_replay_run *run);
anykv_status akv_replay_s3fifo(const struct akv_trace *trace, uint64_t capacity,
                               struct akv_replay_run *run);

/* Curves of hit share over capacity. */
struct akv_curve {
    const char *name;
    double *share; /* [points] */
};
anykv_status akv_replay_svg(const char *path, const char *title, const uint64_t *blocks,
                            uint32_t points, const struct akv_curve *curves, uint32_t count);

#endif
