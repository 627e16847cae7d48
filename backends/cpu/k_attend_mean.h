/* SPDX-License-Identifier: Apache-2.0 */
/* What scores regain of the keys' mean, 256 positions at a time; compiled for each instruction set,
 * because portable code calls a function for every fma of the angles. */
#ifndef AKV_K_ATTEND_MEAN_H
#define AKV_K_ATTEND_MEAN_H
#include "k_attend.h"

/* Turns conj to the 256 positions that hold `position`, if that is not done. */
static inline void attend_about(struct akv_attend_work *work, uint32_t position)
{
    const akv_map *map = work->k_mean;
    const uint32_t origin = position / AKV_ABOUT * AKV_ABOUT, half = work->k_pad / 2u;
    float c[AKV_MAX_HEAD_DIM / 2u], s[AKV_MAX_HEAD_DIM / 2u];
    if (work->origin == origin)
        return;
    work->origin = origin;
    for (uint32_t i = 0; i < map->pairs; i++) {
        akv_turn turn = akv_rope_at(akv_map_turns(work->maps, map, i), origin);
        c[i] = turn.c;
        s[i] = turn.s;
    }
    for (uint32_t r = 0; r < work->rows; r++) {
        const float *a = work->conj + (size_t)r * work->k_pad, *b = a + half;
        float *to = work->about + (size_t)r * work->k_pad;
        memset(to, 0, work->k_pad * sizeof(float));
        for (uint32_t i = 0; i < map->pairs; i++) {
            to[i] = a[i] * c[i] + b[i] * s[i];
            to[half + i] = b[i] * c[i] - a[i] * s[i];
        }
    }
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
