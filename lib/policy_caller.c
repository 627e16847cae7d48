/* SPDX-License-Identifier: Apache-2.0 */
/* CALLER: the smallest score of the caller goes first.  Scores are asked for in batches, outside
 * the cache's lock (lib/rate.c); candidates without one go after all that have one, the least
 * recently used first. */
#include "evict.h"

#define UNRATED ((uint64_t)1 << (AKV_KEY_BITS - 1))

/* The score stands in `v`; a touch makes it void. */
static void caller_touch(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    (void)tag;
    evict->entry[id].stamp = evict->stamp;
    evict->entry[id].flags &= (uint8_t)~AKV_EVICT_RATED;
}

static void caller_renew(struct akv_evict *evict, uint32_t id)
{
    caller_touch(evict, id, 0);
}

static uint64_t caller_key(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    (void)part;
    return e->flags & AKV_EVICT_RATED ? akv_policy_real((double)e->v) >> 1 : UNRATED | e->stamp;
}

static double caller_heat(const struct akv_evict *evict, const struct akv_evict_part *part,
                          uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    (void)part;
    return e->flags & AKV_EVICT_RATED ? (double)e->v : 1e29 + (double)e->stamp;
}

const struct akv_policy akv_policy_caller = {
    .id = ANYKV_POLICY_CALLER,
    .name = "caller",
    .touch = caller_touch,
    .renew = caller_renew,
    .key = caller_key,
    .heat = caller_heat,
};
