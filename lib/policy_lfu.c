/* SPDX-License-Identifier: Apache-2.0 */
/* Aged LFU: the least frequently used goes first, the least recently used of equals.  Counts age by
 * LFU-DA (Arlitt and others, 2000): a touch gives count + level, where the level is that of the
 * last one that went, so that an old count does not outweigh new ones for ever. */
#include "evict.h"

/* 24 bits of count + level, 32 bits of time in units of 16 touches.  The level rises by about one
 * while the cache's content is replaced once. */
#define RANK_MAX    0xFFFFFFu
#define STAMP_SHIFT 4
#define COUNT_MAX   1000.0f

struct lfu {
    uint32_t level;
};

static void lfu_touch(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    struct akv_evict_entry *e = &evict->entry[id];
    const struct lfu *lfu = evict->part[e->part]->state;
    (void)tag;
    if (e->v < COUNT_MAX)
        e->v += 1.0f;
    const uint32_t rank = lfu->level + (uint32_t)e->v;
    e->word = rank < RANK_MAX ? rank : RANK_MAX;
    e->stamp = evict->stamp;
}

static void lfu_renew(struct akv_evict *evict, uint32_t id)
{
    evict->entry[id].stamp = evict->stamp;
}

static uint64_t lfu_key(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id)
{
    (void)part;
    const struct akv_evict_entry *e = &evict->entry[id];
    return (uint64_t)e->word << 32 | (e->stamp >> STAMP_SHIFT & 0xFFFFFFFFu);
}

static void lfu_went(struct akv_evict *evict, uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    struct lfu *lfu = evict->part[e->part]->state;
    if (e->word > lfu->level)
        lfu->level = e->word;
}

static double lfu_heat(const struct akv_evict *evict, const struct akv_evict_part *part,
                       uint32_t id)
{
    const struct lfu *lfu = part->state;
    return (double)evict->entry[id].word - (double)lfu->level;
}

const struct akv_policy akv_policy_lfu = {
    .id = ANYKV_POLICY_LFU,
    .name = "lfu",
    .state_bytes = sizeof(struct lfu),
    .touch = lfu_touch,
    .renew = lfu_renew,
    .key = lfu_key,
    .went = lfu_went,
    .heat = lfu_heat,
};
