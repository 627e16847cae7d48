/* SPDX-License-Identifier: Apache-2.0 */
/* LRU: the least recently used goes first. */
#include "evict.h"

static void lru_touch(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    (void)tag;
    evict->entry[id].stamp = evict->stamp;
}

static void lru_renew(struct akv_evict *evict, uint32_t id)
{
    evict->entry[id].stamp = evict->stamp;
}

static uint64_t lru_key(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id)
{
    (void)part;
    return evict->entry[id].stamp;
}

static double lru_heat(const struct akv_evict *evict, const struct akv_evict_part *part,
                       uint32_t id)
{
    (void)part;
    return (double)evict->entry[id].stamp;
}

const struct akv_policy akv_policy_lru = {
    .id = ANYKV_POLICY_LRU,
    .name = "lru",
    .touch = lru_touch,
    .renew = lru_renew,
    .key = lru_key,
    .heat = lru_heat,
};
