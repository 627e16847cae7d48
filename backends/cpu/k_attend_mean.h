/* SPDX-License-Identifier: Apache-2.0 */
/* What scores regain of the keys' mean, 256 positions at a time; compiled for each instruction set,
 * because portable code calls a function for every fma of the angles. */
#ifndef AKV_K_ATTEND_MEAN_H
#define AKV_K_ATTEND_MEAN_H
#include "k_attend.h"
#include "k_rope.h"

/* Angles of the pairs at the first of the 256 positions that hold `position`, zeros behind them up to a
 * multiple of 16; false: `about` stands there already. */
static inline bool attend_angles(struct akv_attend_work *work, uint32_t position, float *c, float *s)
{
    const akv_map *map = work->k_mean;
    const uint32_t origin = position / AKV_ABOUT * AKV_ABOUT;
    if (work->origin == origin)
        return false;
    work->origin = origin;
    rope_angles(c, s, work->maps, map, origin);
    for (uint32_t i = map->pairs; i < ((map->pairs + 15u) & ~15u); i++)
        c[i] = s[i] = 0.0f;
    return true;
}
/* Steps of the strip at `position` from there: cosines; sines stand `*pad_out` floats behind. */
static inline const float *attend_steps(const struct akv_attend_work *work, uint32_t position,
                                        uint32_t *pad_out)
{
    const akv_map *map = work->k_mean;
    const float *steps = (const float *)(const void *)(work->maps + map->steps);
    *pad_out = (map->pairs + 15u) & ~15u;
    return steps + (size_t)(position % AKV_ABOUT / AKV_STRIP) * 2u * *pad_out;
}

#endif
