/* SPDX-License-Identifier: Apache-2.0 */
/* What the policies for comparison share: blocks in lists, and a request's way through them. */
#ifndef AKV_TOOLS_REPLAY_LISTS_H
#define AKV_TOOLS_REPLAY_LISTS_H
#include "replay.h"

#define AKV_RIVAL_LISTS 4u
#define AKV_RIVAL_NONE  0xFFFFFFFFu

struct akv_rival_list {
    uint32_t newest, oldest;
    uint64_t count;
};
struct akv_rival_block {
    uint32_t newer, older;
    uint32_t children; /* cached ones */
    uint32_t busy;     /* request that uses it, + 1 */
    uint8_t list;      /* + 1; 0: in none */
    uint8_t freq;
    bool cached;
};
struct akv_rival {
    const struct akv_trace *trace;
    uint64_t capacity, cached;
    uint32_t request; /* + 1 */
    struct akv_rival_block *block;
    struct akv_rival_list list[AKV_RIVAL_LISTS];
    double target; /* ARC's p */
    /* Makes room for a block that is not cached: chooses a victim, which leaves its list. */
    uint32_t (*victim)(struct akv_rival *rival, uint32_t id);
    /* The request uses the block, which was cached before (hit) or has just come in. */
    void (*use)(struct akv_rival *rival, uint32_t id, bool hit);
};

anykv_status akv_rival_run(struct akv_rival *rival, struct akv_replay_run *run);
void akv_rival_push(struct akv_rival *rival, uint32_t list, uint32_t id); /* as the newest */
void akv_rival_take(struct akv_rival *rival, uint32_t id);                /* out of its list */
/* The oldest of a list that nobody uses and that has no cached child, or AKV_RIVAL_NONE. */
uint32_t akv_rival_oldest(const struct akv_rival *rival, uint32_t list);

#endif
