/* SPDX-License-Identifier: Apache-2.0 */
/* S3-FIFO (Yang and others, 2023), for comparison: a small queue for what is new, a main one for
 * what was used again or comes back, and ghosts of what the small one dropped. */
#include "replay_lists.h"

enum { SMALL, MAIN, GHOSTS };

#define SMALL_SHARE 10u /* a tenth of the capacity */
#define FREQ_MAX    3u

static uint32_t drop_from(struct akv_rival *rival, uint32_t list, uint32_t id)
{
    akv_rival_take(rival, id);
    if (list == SMALL) {
        akv_rival_push(rival, GHOSTS, id);
        while (rival->list[GHOSTS].count > rival->capacity - rival->capacity / SMALL_SHARE)
            akv_rival_take(rival, rival->list[GHOSTS].oldest);
    }
    return id;
}

static uint32_t s3fifo_victim(struct akv_rival *rival, uint32_t id)
{
    bool small = rival->list[SMALL].count >= (rival->capacity + SMALL_SHARE - 1) / SMALL_SHARE;
    (void)id;
    for (;;) {
        const uint32_t list = small ? SMALL : MAIN;
        const uint32_t oldest = akv_rival_oldest(rival, list);
        if (oldest == AKV_RIVAL_NONE) {
            small = !small; /* everything else is in use or has children */
            continue;
        }
        struct akv_rival_block *b = &rival->block[oldest];
        if (list == SMALL ? b->freq <= 1 : b->freq == 0)
            return drop_from(rival, list, oldest);
        akv_rival_take(rival, oldest);
        akv_rival_push(rival, MAIN, oldest);
        b->freq = list == SMALL ? 0 : (uint8_t)(b->freq - 1);
        small = rival->list[SMALL].count >= (rival->capacity + SMALL_SHARE - 1) / SMALL_SHARE;
    }
}

static void s3fifo_use(struct akv_rival *rival, uint32_t id, bool hit)
{
    struct akv_rival_block *b = &rival->block[id];
    if (hit) {
        if (b->freq < FREQ_MAX)
            b->freq++;
        return;
    }
    const bool ghost = b->list == GHOSTS + 1;
    akv_rival_take(rival, id);
    akv_rival_push(rival, ghost ? MAIN : SMALL, id);
    b->freq = 0;
}

anykv_status akv_replay_s3fifo(const struct akv_trace *trace, uint64_t capacity,
                               struct akv_replay_run *run)
{
    struct akv_rival rival = {.trace = trace, .capacity = capacity};
    rival.victim = s3fifo_victim;
    rival.use = s3fifo_use;
    return akv_rival_run(&rival, run);
}
