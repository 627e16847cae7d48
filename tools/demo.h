/* SPDX-License-Identifier: Apache-2.0 */
/* What the sections of `anykv demo` share: a real dump in memory with its exact outputs. */
#ifndef AKV_TOOLS_DEMO_H
#define AKV_TOOLS_DEMO_H
#include "device_option.h"
#include "dump.h"
#include "report.h"

#define AKV_DEMO_LAYERS 16u

struct akv_demo {
    struct akv_tool tool;
    struct akv_dump dump;
    struct akv_dump_layer layer[AKV_DEMO_LAYERS];
    double *exact[AKV_DEMO_LAYERS]; /* outputs in double precision [queries][q_heads][head_dim] */
    uint32_t *ids;                  /* tokens */
    bool json;
};

struct akv_demo_cache {
    anykv_layout *layout;
    anykv_cache *cache;
    anykv_estimate estimate;
};
/* A cache for the dump's layers in these formats whose budget is what `sequences` sequences of all
 * the dump's tokens take; flags: ANYKV_CACHE_*. */
anykv_status akv_demo_open_cache(struct akv_demo *demo, anykv_format k, anykv_format v,
                                 uint32_t sequences, uint32_t flags, struct akv_demo_cache *out);
void akv_demo_close_cache(struct akv_demo_cache *cache);

/* One step: rows of positions first … first+count-1 of the dump go to the end of seq under these
 * token ids; where `errors` is given, their queries are attended and the relative errors of every
 * layer and head are added behind error_count (positions must be q_first or later).  The times are
 * added up. */
struct akv_demo_times {
    uint64_t append_ns, attend_ns;
};
anykv_status akv_demo_step(struct akv_demo *demo, anykv_cache *cache, anykv_seq *seq,
                           uint32_t first, uint32_t count, const uint32_t *ids, double *errors,
                           size_t *error_count, struct akv_demo_times *times);

/* The sections; each prints its table or lines. */
anykv_status akv_demo_pages(struct akv_demo *demo);
anykv_status akv_demo_share(struct akv_demo *demo);

#endif
