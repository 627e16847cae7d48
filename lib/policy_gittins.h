/* SPDX-License-Identifier: Apache-2.0 */
/* What GITTINS learns of a part, for ADAPTIVE, which has it as one of its rules. */
#ifndef AKV_POLICY_GITTINS_H
#define AKV_POLICY_GITTINS_H
#include "evict.h"

#define AKV_GITTINS_AGES    32u
#define AKV_GITTINS_COUNTS  7u
#define AKV_GITTINS_FANS    3u
#define AKV_GITTINS_GAPS    6u
#define AKV_GITTINS_CLASSES (1u + AKV_GITTINS_COUNTS * AKV_GITTINS_FANS * AKV_GITTINS_GAPS)
#define AKV_GITTINS_LISTS   (AKV_GITTINS_CLASSES * AKV_GITTINS_AGES)
#define AKV_GITTINS_WORDS   ((AKV_GITTINS_LISTS + 63u) / 64u)

struct akv_gittins_list {
    uint32_t head, tail;
};
struct akv_gittins_cell {
    float uses, lost; /* uses at this age; blocks no longer followed that had reached it */
};
struct akv_gittins_link { /* of an id */
    uint32_t prev, next;
};
/* First in the part's state of every policy that calls these functions. */
struct akv_gittins {
    struct akv_gittins_list list[AKV_GITTINS_LISTS];
    uint32_t rank[AKV_GITTINS_LISTS], at_rank[AKV_GITTINS_LISTS];
    uint64_t filled[AKV_GITTINS_WORDS]; /* by rank */
    float index[AKV_GITTINS_LISTS];
    struct akv_gittins_cell cell[AKV_GITTINS_CLASSES][AKV_GITTINS_AGES];
    struct akv_ghosts sample;
    uint64_t mask; /* of tags that are in the sample */
    uint32_t requests, turn, calls, rankings;
    double ranked; /* when */
};

/* As struct akv_policy has them. */
anykv_status akv_gittins_open(struct akv_evict *evict, struct akv_evict_part *part);
void akv_gittins_close(struct akv_evict *evict, struct akv_evict_part *part);
void akv_gittins_touch(struct akv_evict *evict, uint32_t id, uint64_t tag);
uint64_t akv_gittins_key(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id);
void akv_gittins_request(struct akv_evict *evict, struct akv_evict_part *part);
void akv_gittins_work(struct akv_evict *evict, struct akv_evict_part *part);
void akv_gittins_enter(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id);
void akv_gittins_leave(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id);
uint32_t akv_gittins_first(struct akv_evict *evict, struct akv_evict_part *part);
uint32_t akv_gittins_coldest(const struct akv_evict *evict, const struct akv_evict_part *part,
                             uint32_t most, uint32_t *ids);

#define AKV_GITTINS_KEPT 0x7FFu /* bits of a ghost's data that these two use */
void akv_gittins_recall(struct akv_evict *evict, uint32_t id, const struct akv_ghost *ghost);
uint32_t akv_gittins_remember(struct akv_evict *evict, uint32_t id);
uint32_t akv_gittins_class(uint32_t word);
/* Of a class at an age in seconds; the smallest goes first. */
float akv_gittins_index(const struct akv_gittins *g, uint32_t class_, double age);

#endif
