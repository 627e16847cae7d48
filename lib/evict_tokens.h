/* SPDX-License-Identifier: Apache-2.0 */
/* Room that the eviction of tokens takes of a cache's fixed memory. */
#ifndef AKV_EVICT_TOKENS_H
#define AKV_EVICT_TOKENS_H
#include "cache.h"

#define AKV_EVICT_QUERIES 64u /* in one launch of mass */
#define AKV_EVICT_RECENT  32u /* tokens that always stay */

/* Offsets from plan.evict_at. */
struct akv_evict_room {
    uint64_t from, to;  /* block tables */
    uint64_t weights;   /* score */
    uint64_t scores, rows, counts;
    uint64_t sums;      /* mean */
    uint64_t queries, lse, positions; /* mass */
    uint64_t bytes;
};
struct akv_evict_room akv_evict_room(const struct akv_plan *plan, const anykv_layout *layout);
/* Compiles or loads the kernels of an eviction. */
anykv_status akv_evict_prepare(anykv_cache *cache);

#endif
