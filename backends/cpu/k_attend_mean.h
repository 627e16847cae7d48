/* SPDX-License-Identifier: Apache-2.0 */
/* What scores regain of the keys' mean, 256 positions at a time; compiled for each instruction set,
 * because portable code calls a function for every fma of the angles. */
#ifndef AKV_K_ATTEND_MEAN_H
#define AKV_K_ATTEND_MEAN_H
#include "k_attend.h"
#include "k_rope.h"

/* Products of query row r with the mean m, of the pairs from `from` on. */
static inline void attend_meet(struct akv_attend_work *work, const float *m, uint32_t r,
                               uint32_t from)
{
    const akv_map *map = work->k_mean;
    const float *q = work->q[0] + (size_t)r * work->k_pad;
    float *a = work->conj + (size_t)r * work->k_pad, *b = a + work->k_pad / 2u;
    for (uint32_t i = from; i < map->pairs; i++) {
        uint32_t first = map->rope == AKV_ROPE_HALF ? i : 2u * i;
        uint32_t second = map->rope == AKV_ROPE_HALF ? i + map->pairs : 2u * i + 1u;
        a[i] = q[first] * m[first] + q[second] * m[second];
        b[i] = q[second] * m[first] - q[first] * m[second];
    }
    for (uint32_t i = map->pairs; i < work->k_pad / 2u; i++)
        a[i] = b[i] = 0.0f;
    work->rest[r] = 0.0f;
    for (uint32_t i = 2u * map->pairs; i < work->k_dim; i++)
        work->rest[r] += q[i] * m[i];
}

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
