/* SPDX-License-Identifier: Apache-2.0 */
/* FIFO: the one that entered first goes first, however often it was used. */
#include "evict.h"

static void fifo_touch(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    (void)evict;
    (void)id;
    (void)tag;
}

static uint64_t fifo_key(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id)
{
    (void)part;
    return evict->entry[id].stamp; /* of its birth */
}

static double fifo_heat(const struct akv_evict *evict, const struct akv_evict_part *part,
                        uint32_t id)
{
    (void)part;
    return (double)evict->entry[id].stamp;
}

const struct akv_policy akv_policy_fifo = {
    .id = ANYKV_POLICY_FIFO,
    .name = "fifo",
    .touch = fifo_touch,
    .key = fifo_key,
    .heat = fifo_heat,
};
