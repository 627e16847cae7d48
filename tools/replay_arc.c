/* SPDX-License-Identifier: Apache-2.0 */
/* ARC (Megiddo and Modha, 2003), for comparison: blocks used once and more often in two lists whose
 * sizes follow the ghosts of each. */
#include "replay_lists.h"

enum { ONCE, OFTEN, ONCE_GHOSTS, OFTEN_GHOSTS };

static double at_least_one(double ratio)
{
    return ratio > 1.0 ? ratio : 1.0;
}

static void forget_oldest(struct akv_rival *rival, uint32_t list)
{
    if (rival->list[list].oldest != AKV_RIVAL_NONE)
        akv_rival_take(rival, rival->list[list].oldest);
}

static uint32_t arc_victim(struct akv_rival *rival, uint32_t id)
{
    const double capacity = (double)rival->capacity;
    const double once = (double)rival->list[ONCE_GHOSTS].count,
                 often = (double)rival->list[OFTEN_GHOSTS].count;
    const uint32_t ghost = rival->block[id].list;
    bool remember = true;
    if (ghost == ONCE_GHOSTS + 1) {
        const double more = rival->target + at_least_one(often / once);
        rival->target = more < capacity ? more : capacity;
    } else if (ghost == OFTEN_GHOSTS + 1) {
        const double less = rival->target - at_least_one(once / often);
        rival->target = less > 0.0 ? less : 0.0;
    } else if (rival->list[ONCE].count + rival->list[ONCE_GHOSTS].count >= rival->capacity) {
        if (rival->list[ONCE].count < rival->capacity)
            forget_oldest(rival, ONCE_GHOSTS);
        else
            remember = false;
    } else if (rival->list[OFTEN_GHOSTS].count + rival->list[ONCE_GHOSTS].count >= rival->capacity)
        forget_oldest(rival, OFTEN_GHOSTS);
    const double now = (double)rival->list[ONCE].count;
    uint32_t list =
        now > 0.0 && (now > rival->target || (ghost == OFTEN_GHOSTS + 1 && now == rival->target))
            ? ONCE
            : OFTEN;
    uint32_t victim = akv_rival_oldest(rival, list);
    if (victim == AKV_RIVAL_NONE) {
        list = list == ONCE ? OFTEN : ONCE;
        victim = akv_rival_oldest(rival, list);
    }
    akv_rival_take(rival, victim);
    if (remember)
        akv_rival_push(rival, list == ONCE ? ONCE_GHOSTS : OFTEN_GHOSTS, victim);
    return victim;
}

static void arc_use(struct akv_rival *rival, uint32_t id, bool hit)
{
    const bool again = hit || rival->block[id].list != 0; /* cached before, or a ghost */
    akv_rival_take(rival, id);
    akv_rival_push(rival, again ? OFTEN : ONCE, id);
}

anykv_status akv_replay_arc(const struct akv_trace *trace, uint64_t capacity,
                            struct akv_replay_run *run)
{
    struct akv_rival rival = {.trace = trace, .capacity = capacity};
    rival.victim = arc_victim;
    rival.use = arc_use;
    return akv_rival_run(&rival, run);
}
