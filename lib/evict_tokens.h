/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens: its room in a cache's fixed memory, and what the engine calls of it. */
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
/* Whether the layout's layers take the policy. */
anykv_status akv_evict_fits(anykv_cache *cache, anykv_token_policy policy);
/* anykv_seq_evict_tokens with io and lock held; gives lock up where it waits. */
anykv_status akv_seq_evict(anykv_seq *seq, const anykv_evict_params *params);

/* seq_limit.c: evictions at the end of a step.  The options' checks; whether the step's end will evict
 * tokens, if its sequences keep these many (NULL: all); and the evictions, with io and lock held. */
anykv_status akv_limit_check(anykv_context *context, anykv_cache_options *options, uint32_t block_tokens);
bool akv_limit_due(const anykv_step *step, const uint32_t *accepted);
void akv_limit_apply(anykv_step *step);

#endif
