/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices (map.h) on rows that a warp holds in its stage: row r of `count` is row number
 * origin.number + r * origin.step of [tokens][heads]. */
#ifndef AKV_MAP_CUH
#define AKV_MAP_CUH
#include "../lib/kernel/map.h"

struct akv_cu_origin {
    const akv_u8 *maps;
    akv_u32 map, head, heads, position, number;
    akv_u32 step; /* 1, or `heads`: all rows are of one head */
};
AKV_FN float *stage_element(float *s, akv_u32 groups, akv_u32 r, akv_u32 i)
{
    return s + (r * groups + (i >> 5)) * PITCH + (i & 31u);
}
/* Head and position of row 0, then of the row behind. */
struct map_place {
    akv_u32 head, position;
};
AKV_FN map_place place_of(const akv_cu_origin &o)
{
    return {o.number % o.heads, o.position + o.number / o.heads};
}
AKV_FN void place_next(map_place &at, const akv_cu_origin &o)
{
    at.head += o.step;
    if (at.head >= o.heads) {
        at.head -= o.heads;
        at.position++;
    }
}

/* Four numbers of a row of a matrix: f16 of the storing side, f32 of the inverse. */
template <bool STORING> AKV_FN float4 four_of(const akv_u8 *row)
{
    if (!STORING)
        return *(const float4 *)row;
    uint2 v = *(const uint2 *)row;
    return make_float4(akv_as_f32(half_bits(v.x & 0xFFFFu)), akv_as_f32(half_bits(v.x >> 16)),
                       akv_as_f32(half_bits(v.y & 0xFFFFu)), akv_as_f32(half_bits(v.y >> 16)));
}
/* All rows times the dim * dim matrix at byte `at`, matrix rows ascending, in place.  A lane has four neighbouring
 * columns out of every 128 of R rows; where a row is short, parts of the warp have rows of their own.  R rows
 * of K * 128 columns at a time.  DIM: dim where it is known, else 0. */
template <bool STORING, int R, int K, akv_u32 DIM>
AKV_FN void stage_multiply_by(float *s, const akv_u8 *at, akv_u32 dim, akv_u32 count)
{
    constexpr akv_u32 size = STORING ? 2u : 4u;
    if (DIM)
        dim = DIM;
    akv_u32 lane = threadIdx.x & 31u, groups = akv_padded_dim(dim) / 32u, pitch = groups * PITCH;
    akv_u32 lanes = K > 1 || dim > 64u ? 32u : dim > 32u ? 16u : 8u, mine = lane / lanes * R;
    akv_u32 column = lane % lanes * 4u;
    for (akv_u32 first = mine; first - mine < count; first += 32u / lanes * R) {
        float4 y[K][R];
        akv_u32 begin = AKV_MIN(first, count - 1u), behind[R]; /* the last row stands for those behind it */
        const float *x = s + begin * pitch;
        const akv_u8 *row[K];
#pragma unroll
        for (int r = 0; r < R; r++) /* where R rows are always there, they are whatever they are */
            behind[r] = DIM ? r * pitch : AKV_MIN(begin + r, count - 1u) * pitch - begin * pitch;
#pragma unroll
        for (int c = 0; c < K; c++) {
            row[c] = at + AKV_MIN(c * 128u + column, dim - 4u) * size;
#pragma unroll
            for (int r = 0; r < R; r++)
                y[c][r] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
#pragma unroll 1
        for (akv_u32 k = 0u; k < dim; k += 4u) {
#pragma unroll
            for (int c = 0; c < K; c++) {
                float4 m[4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    m[i] = four_of<STORING>(row[c] + i * dim * size);
                row[c] += 4u * dim * size;
#pragma unroll
                for (int r = 0; r < R; r++) {
                    float4 v = *(const float4 *)(x + behind[r]), &to = y[c][r];
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        float one = i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
                        to.x = AKV_FMA(one, m[i].x, to.x);
                        to.y = AKV_FMA(one, m[i].y, to.y);
                        to.z = AKV_FMA(one, m[i].z, to.z);
                        to.w = AKV_FMA(one, m[i].w, to.w);
                    }
                }
            }
            x += (k & 31u) == 28u ? 4 + PITCH - 32 : 4;
        }
        __syncwarp();
#pragma unroll
        for (int c = 0; c < K; c++)
#pragma unroll
            for (int r = 0; r < R; r++) {
                akv_u32 j = c * 128u + column;
                float4 v = y[c][r];
                if (STORING)
                    v = make_float4(akv_as_f32(akv_sane(akv_as_u32(v.x))), akv_as_f32(akv_sane(akv_as_u32(v.y))),
                                    akv_as_f32(akv_sane(akv_as_u32(v.z))), akv_as_f32(akv_sane(akv_as_u32(v.w))));
                if (first + r < count && j < dim)
                    *(float4 *)(stage_element(s, groups, first + r, j)) = v;
            }
        __syncwarp();
    }
}
template <bool STORING>
AKV_FN void stage_multiply(float *s, const akv_u8 *at, akv_u32 dim, akv_u32 count)
{
    if (dim == 128u)
        stage_multiply_by<STORING, 8, 1, 128u>(s, at, dim, count);
    else if (dim <= 128u)
        stage_multiply_by<STORING, 8, 1, 0u>(s, at, dim, count);
    else if (dim <= 256u)
        stage_multiply_by<STORING, 4, 2, 0u>(s, at, dim, count);
    else
        stage_multiply_by<STORING, 1, AKV_MAX_HEAD_DIM / 128 + 1, 0u>(s, at, dim, count);
}

/* A component without or with its mean, which is finite: no sum of a sane value and a mean is beyond 2^100. */
template <bool STORING> AKV_FN void mean_off(float *x, float mean)
{
    *x = STORING ? tiny_to_zero(akv_as_u32(*x - mean)) : *x + mean;
}
/* The heads' means, off or on.  A lane has pairs, or components that are none, of all rows.  lanes: see map_back. */
template <bool STORING>
AKV_FN void stage_mean(float *s, const akv_map *map, const akv_cu_origin &o, akv_u32 dim, akv_u32 count,
                       akv_u32 lanes)
{
    akv_u32 groups = akv_padded_dim(dim) / 32u, pitch = groups * PITCH, pairs = map->pairs;
    bool half = map->rope == AKV_ROPE_HALF, one = o.heads == 1u || o.step > 1u; /* all rows are of one head */
    const map_place begin = place_of(o);
    for (akv_u32 u = threadIdx.x & 31u; u < dim - pairs; u += 32u) {
        bool paired = u < pairs;
        akv_u32 i = !paired ? u + pairs : half ? u : 2u * u, j = !paired ? i : half ? u + pairs : i + 1u;
        float *x = stage_element(s, groups, 0u, i), *y = stage_element(s, groups, 0u, j);
        const akv_u8 *mean = o.maps + map->mean + (akv_u64)(o.head + begin.head) * dim * 2u;
        akv_u64 turns = paired ? akv_map_turns(o.maps, map, u) : 0u;
        float a = akv_as_f32(half_bits(akv_load_u16(mean + i * 2u)));
        float b = akv_as_f32(half_bits(akv_load_u16(mean + j * 2u)));
        if (paired && one) {
#pragma unroll 2
            for (akv_u32 r = 0u; r < count; r++, x += pitch, y += pitch) {
                akv_turn turn = akv_rope_at(turns, begin.position + r);
                if (lanes >> (r * groups) & 1u) {
                    mean_off<STORING>(x, akv_rope_first(turn, a, b));
                    mean_off<STORING>(y, akv_rope_second(turn, a, b));
                }
            }
            continue;
        }
        akv_turn turn = akv_rope_at(turns, begin.position);
        map_place at = begin;
        for (akv_u32 r = 0u; r < count; r++, x += pitch, y += pitch) {
            if (lanes >> (r * groups) & 1u) {
                mean_off<STORING>(x, paired ? akv_rope_first(turn, a, b) : a);
                if (paired)
                    mean_off<STORING>(y, akv_rope_second(turn, a, b));
            }
            akv_u32 position = at.position;
            place_next(at, o);
            mean = o.maps + map->mean + (akv_u64)(o.head + at.head) * dim * 2u;
            a = akv_as_f32(half_bits(akv_load_u16(mean + i * 2u)));
            b = akv_as_f32(half_bits(akv_load_u16(mean + j * 2u)));
            if (at.position != position)
                turn = akv_rope_at(turns, at.position);
        }
    }
    __syncwarp();
}
AKV_FN void stage_scale(float *s, const akv_map *map, const akv_cu_origin &o, akv_u32 dim, akv_u32 count, akv_u32 part)
{
    akv_u32 groups = akv_padded_dim(dim) / 32u;
    map_place at = place_of(o);
    for (akv_u32 r = 0u; r < count; r++, place_next(at, o)) {
        float scale = akv_map_scale(o.maps, map, o.head + at.head, part);
        for (akv_u32 i = threadIdx.x & 31u; i < dim; i += 32u) {
            float *x = stage_element(s, groups, r, i), y = *x * scale;
            *x = part ? y : akv_as_f32(akv_sane(akv_as_u32(y)));
        }
    }
    __syncwarp();
}

/* Sane rows to what is rotated (where akv_map_rotates) and quantised.  With a matrix they are of one head. */
AKV_FN void map_store(float *s, akv_cu_origin o, akv_u32 dim, akv_u32 count)
{
    const akv_map *map = akv_map_at(o.maps, o.map);
    if (map->mean)
        stage_mean<true>(s, map, o, dim, count, ~0u);
    if (map->scales)
        stage_scale(s, map, o, dim, count, 0u);
    if (map->transform == AKV_TRANSFORM_MATRIX)
        stage_multiply<true>(s, o.maps + akv_map_matrix_row(map, o.head + place_of(o).head, dim, 0u), dim, count);
}
/* Decoded rows, rotated back where akv_map_rotates, to what they were.  lanes: bit r * groups of those that
 * are packed; the others hold zeros. */
AKV_FN void map_back(float *s, akv_cu_origin o, akv_u32 dim, akv_u32 count, akv_u32 lanes)
{
    const akv_map *map = akv_map_at(o.maps, o.map);
    if (map->transform == AKV_TRANSFORM_MATRIX)
        stage_multiply<false>(s, o.maps + akv_map_inverse_row(map, o.head + place_of(o).head, dim, 0u), dim, count);
    if (map->scales)
        stage_scale(s, map, o, dim, count, 1u);
    if (map->mean)
        stage_mean<false>(s, map, o, dim, count, lanes);
}

#endif
