/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices (map.h) on rows that a warp holds in its stage: row r of `count` is row number
 * origin.number + r of [tokens][heads].  Not inlined, so that launches without them keep their registers. */
#ifndef AKV_MAP_CUH
#define AKV_MAP_CUH
#include "../lib/kernel/map.h"

struct akv_cu_origin {
    const akv_u8 *maps;
    akv_u32 map, head, heads, position, number;
};
AKV_FN float *stage_element(float *s, akv_u32 groups, akv_u32 r, akv_u32 i)
{
    return s + (r * groups + (i >> 5)) * PITCH + (i & 31u);
}
/* Row r times a dim * dim matrix at byte `at`, rows ascending, in place. */
template <bool STORING> AKV_FN void stage_multiply(float *s, const akv_u8 *at, akv_u32 dim, akv_u32 r)
{
    akv_u32 lane = threadIdx.x & 31u, groups = akv_padded_dim(dim) / 32u;
    float y[AKV_MAX_HEAD_DIM / 32u];
#pragma unroll
    for (int g = 0; g < (int)(AKV_MAX_HEAD_DIM / 32u); g++)
        y[g] = 0.0f;
    for (akv_u32 k = 0u; k < dim; k++) {
        float v = *stage_element(s, groups, r, k);
        const akv_u8 *row = at + (akv_u64)k * dim * (STORING ? 2u : 4u);
#pragma unroll
        for (int g = 0; g < (int)(AKV_MAX_HEAD_DIM / 32u); g++) {
            akv_u32 j = (akv_u32)g * 32u + lane;
            if (j < dim)
                y[g] = AKV_FMA(v,
                               akv_as_f32(STORING ? akv_f32_from_f16(akv_load_u16(row + j * 2u))
                                                  : akv_load_u32(row + j * 4u)),
                               y[g]);
        }
    }
    __syncwarp();
#pragma unroll
    for (int g = 0; g < (int)(AKV_MAX_HEAD_DIM / 32u); g++) {
        akv_u32 j = (akv_u32)g * 32u + lane;
        if (j < dim)
            *stage_element(s, groups, r, j) = STORING ? akv_as_f32(akv_sane(akv_as_u32(y[g]))) : y[g];
    }
    __syncwarp();
}

/* Sane rows to what is rotated (where akv_map_rotates) and quantised. */
static __device__ __noinline__ void map_store(float *s, akv_cu_origin o, akv_u32 dim, akv_u32 count)
{
    const akv_map *map = akv_map_at(o.maps, o.map);
    akv_u32 lane = threadIdx.x & 31u, groups = akv_padded_dim(dim) / 32u;
    for (akv_u32 r = 0u; r < count; r++) {
        akv_u32 head = o.head + (o.number + r) % o.heads, position = o.position + (o.number + r) / o.heads;
        if (map->mean)
            for (akv_u32 i = lane; i < dim; i += 32u) {
                float *x = stage_element(s, groups, r, i);
                *x = akv_as_f32(akv_sane(akv_as_u32(*x - akv_map_mean(o.maps, map, head, dim, position, i))));
            }
        __syncwarp();
        if (map->scales) {
            float scale = akv_map_scale(o.maps, map, head, 0u);
            for (akv_u32 i = lane; i < dim; i += 32u) {
                float *x = stage_element(s, groups, r, i);
                *x = akv_as_f32(akv_sane(akv_as_u32(*x * scale)));
            }
            __syncwarp();
        }
        if (map->transform == AKV_TRANSFORM_MATRIX)
            stage_multiply<true>(s, o.maps + akv_map_matrix_row(map, head, dim, 0u), dim, r);
    }
}
/* Decoded rows, rotated back where akv_map_rotates, to what they were.  lanes: bit r * groups of those that
 * are packed. */
static __device__ __noinline__ void map_back(float *s, akv_cu_origin o, akv_u32 dim, akv_u32 count, akv_u32 lanes)
{
    const akv_map *map = akv_map_at(o.maps, o.map);
    akv_u32 lane = threadIdx.x & 31u, groups = akv_padded_dim(dim) / 32u;
    for (akv_u32 r = 0u; r < count; r++) {
        akv_u32 head = o.head + (o.number + r) % o.heads, position = o.position + (o.number + r) / o.heads;
        if (!(lanes >> (r * groups) & 1u))
            continue;
        if (map->transform == AKV_TRANSFORM_MATRIX)
            stage_multiply<false>(s, o.maps + akv_map_inverse_row(map, head, dim, 0u), dim, r);
        if (map->scales) {
            float scale = akv_map_scale(o.maps, map, head, 1u);
            for (akv_u32 i = lane; i < dim; i += 32u) {
                float *x = stage_element(s, groups, r, i);
                *x = *x * scale;
            }
        }
        if (map->mean)
            for (akv_u32 i = lane; i < dim; i += 32u) {
                float *x = stage_element(s, groups, r, i);
                *x = *x + akv_map_mean(o.maps, map, head, dim, position, i);
            }
        __syncwarp();
    }
}

#endif
