/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction policy: which of the candidates goes next.  Knows ids only, so it is used by the cache
 * and, without one, by `anykv replay`. */
#ifndef AKV_EVICT_H
#define AKV_EVICT_H
#include "internal.h"

#define AKV_NO_ID 0xFFFFFFFFu

struct akv_evict;

/* A policy gives every touch a key; among the candidates the smallest key goes first.  Keys stay as
 * they are between touches, so a heap serves every policy. */
struct akv_policy {
    anykv_policy id;
    const char *name; /* lower case, as `anykv replay --policy` takes it */
    uint64_t (*touch)(struct akv_evict *evict, uint32_t id);
};
/* NULL for an unknown one. */
const struct akv_policy *akv_policy_find(anykv_policy id);
const struct akv_policy *akv_policy_parse(const char *name);

/* Keys of touched ids have this bit; demoted ids count from 0 in the order of their demotion, so
 * that they go first, oldest demotion first. */
#define AKV_EVICT_TOUCHED 0x8000000000000000u

struct akv_evict_item {
    uint64_t key;
    uint32_t id;
    uint32_t pad;
};
struct akv_evict {
    anykv_context *context;
    const struct akv_policy *policy;
    uint64_t tick;               /* counts touches */
    uint64_t line;               /* counts demotions */
    uint32_t capacity;           /* ids 0 … capacity-1 */
    uint32_t count;              /* candidates */
    struct akv_evict_item *heap; /* [capacity], four children a node */
    uint32_t *place;             /* [capacity]: position in heap + 1; 0: no candidate */
    uint64_t *key;               /* [capacity]: from the last touch or demotion */
};

anykv_status akv_evict_init(struct akv_evict *evict, anykv_context *context, anykv_policy policy);
void akv_evict_finish(struct akv_evict *evict);
/* Room for ids below `capacity`; E_MEMORY: nothing changed.  No other function allocates. */
anykv_status akv_evict_reserve(struct akv_evict *evict, uint32_t capacity);
/* The id was used now; works for candidates and others. */
void akv_evict_touch(struct akv_evict *evict, uint32_t id);
/* The id will not be used again soon: it goes before all that were touched.  A later touch undoes
 * it. */
void akv_evict_demote(struct akv_evict *evict, uint32_t id);
/* The id becomes a candidate, or stops being one; both may be called again. */
void akv_evict_enter(struct akv_evict *evict, uint32_t id);
void akv_evict_leave(struct akv_evict *evict, uint32_t id);
/* The candidate to go next, AKV_NO_ID if there is none; it stays a candidate. */
static inline uint32_t akv_evict_victim(const struct akv_evict *evict)
{
    return evict->count ? evict->heap[0].id : AKV_NO_ID;
}

#endif
