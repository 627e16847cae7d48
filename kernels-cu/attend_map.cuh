/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices of the fast decode kernels (lib/kernel/map.h): what scores regain of the keys' mean, and
 * queries and sums times an inverse.
 *
 * A query times the mean turned to position p is, over the pairs i of the rotary embedding with frequencies f_i,
 *     sum_i x_i cos(t f_i) + y_i sin(t f_i),   t = p - z,
 * where (x, y) is the query, conj-multiplied with the mean, turned to z.  A warp's tiles come in runs of 2, 4 or 8
 * that follow each other.  z is the middle of a run, half way between two positions: (x, y) is turned there once
 * for a run, and the two tiles as far before as behind z share one product of the matrix units each with a table
 * of cosines and one of sines, which all runs share: the sum is one's, the difference the other's, last
 * position first. */
#ifndef AKV_ATTEND_MAP_CUH
#define AKV_ATTEND_MAP_CUH
#include "attend.cuh"
#include "mma.cuh"
#include "../lib/kernel/map.h"

template <int G> struct mean_shape {
    static constexpr int longest = G == 8 ? 4 : 8; /* run, in tiles */
    static constexpr int quads = 4 * G; /* of pairs: 4 e … 4 e + 3 are operands of step e / 4 in lanes e % 4 */
    static constexpr int table_bytes = longest / 2 * 2 * G * 512, angle_bytes = 2 * 16 * G * 4;
};

/* Frequencies of the pairs. */
struct mean_turns {
    const akv_u64 *at;
    akv_u32 pairs;
};
/* Cosine and sine of a pair half a position behind `position`; (1, 0) behind the pairs. */
AKV_FN float2 angle_behind(const mean_turns &turns, akv_u32 pair, akv_u32 position)
{
    float2 y = make_float2(1.0f, 0.0f);
    if (pair < turns.pairs) {
        akv_u64 turn = turns.at[pair], phase = (akv_u64)position * turn + (turn >> 1);
        akv_sincos((float)(akv_i32)(phase >> 32) * (6.283185307179586f * 0x1p-32f), &y.y, &y.x);
    }
    return y;
}

/* The tables in the order of operands: [distance of a tile][cosines, sines][step][lane]; rows are the tile's
 * positions 4 (r / 2) + r % 2 and two further. */
template <int G> AKV_FN void fill_angles(uint4 *table, const mean_turns &turns)
{
    for (akv_u32 e = threadIdx.x; e < mean_shape<G>::longest / 2u * G * 32u; e += blockDim.x) {
        akv_u32 lane = e & 31u, r = lane >> 2, step = (e >> 5) % G, v = (e >> 5) / G;
        akv_u32 at = 16u * v + 4u * (r >> 1) + (r & 1u), pair = (4u * step + (lane & 3u)) * 4u, x[4], y[4];
#pragma unroll
        for (akv_u32 j = 0u; j < 4u; j++) {
            float2 a = angle_behind(turns, pair + (j >> 1) * 2u, at + (j & 1u) * 2u);
            float2 b = angle_behind(turns, pair + (j >> 1) * 2u + 1u, at + (j & 1u) * 2u);
            x[j] = akv_pack_half2(a.x, b.x);
            y[j] = akv_pack_half2(a.y, b.y);
        }
        table[(v * 2u * G + step) * 32u + lane] = make_uint4(x[0], x[1], x[2], x[3]);
        table[((v * 2u + 1u) * G + step) * 32u + lane] = make_uint4(y[0], y[1], y[2], y[3]);
    }
}

/* Queries of shared memory [8][dim] times the mean, as for position 0: met [x, y][8][quads]; quads of odd columns
 * are exchanged so that columns side by side do not share banks. */
template <int G> AKV_FN akv_u32 met_at(akv_u32 part, akv_u32 column, akv_u32 e)
{
    return (part * COLUMNS + column) * (4u * G) + (e ^ (column & 1u) * 4u);
}
template <int G>
AKV_FN void meet_means(float *met, const float *q, const akv_u8 *maps, const akv_map *map, akv_u32 head)
{
    constexpr akv_u32 dim = 32 * G, pairs = 16 * G;
    akv_u32 mean = map->mean + head * dim * 2u, half = map->rope == AKV_ROPE_HALF;
    for (akv_u32 e = threadIdx.x; e < COLUMNS * pairs; e += blockDim.x) {
        akv_u32 c = e / pairs, i = e % pairs, first = half ? i : 2u * i, second = half ? i + map->pairs : 2u * i + 1u;
        float x = 0.0f, y = 0.0f;
        if (i < map->pairs) {
            float m0 = akv_map_f16(maps, mean, first), m1 = akv_map_f16(maps, mean, second);
            float q0 = q[c * dim + first], q1 = q[c * dim + second];
            x = q0 * m0 + q1 * m1;
            y = q1 * m0 - q0 * m1;
        }
        met[met_at<G>(0u, c, i / 4u) * 4u + i % 4u] = x;
        met[met_at<G>(1u, c, i / 4u) * 4u + i % 4u] = y;
    }
}
/* A warp divides a column of met by a power of two that keeps halves in range, which it returns. */
template <int G> AKV_FN float scale_met(float *met, akv_u32 column)
{
    akv_u32 lane = threadIdx.x & 31u;
    float *x = met + column * (16u * G), *y = x + COLUMNS * (16u * G), top = 0.0f;
    for (akv_u32 e = lane; e < 16u * G; e += 32u)
        top = fmaxf(top, fmaxf(fabsf(x[e]), fabsf(y[e])));
    for (int i = 16; i > 0; i /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, i));
    float norm = power_below(top), f = 1.0f / norm;
    for (akv_u32 e = lane; e < 16u * G; e += 32u) {
        x[e] *= f;
        y[e] *= f;
    }
    return norm;
}
/* The product with components that do not turn, by a warp. */
AKV_FN float still_product(const float *q, const akv_u8 *maps, const akv_map *map, akv_u32 head, akv_u32 dim)
{
    float sum = 0.0f;
    for (akv_u32 i = 2u * map->pairs + (threadIdx.x & 31u); i < dim; i += 32u)
        sum += q[i] * akv_map_f16(maps, map->mean + head * dim * 2u, i);
    for (int i = 16; i > 0; i /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, i);
    return sum;
}

/* Tiles of a run for each of `warps` warps that share `tiles` of them, as a shift: long ones where that leaves
 * no warp with much more than its share. */
AKV_FN akv_u32 run_shift(akv_u32 tiles, akv_u32 warps, akv_u32 longest)
{
    akv_u32 shift = longest == 8u ? 3u : 2u, share = (tiles + warps - 1u) / warps;
    for (; shift > 1u; shift--) {
        akv_u32 rest = tiles % (warps << shift), most = (tiles / (warps << shift) << shift) + AKV_MIN(rest, 1u << shift);
        if (most * 16u <= share * 17u)
            break;
    }
    return shift;
}

/* Adds products to scores; units: factors of columns 2c and 2c + 1, and what stays. */
AKV_FN void add_mean(float *s, const float *product, float4 units)
{
    s[0] += product[0] * units.x + units.z, s[1] += product[1] * units.y + units.w;
    s[2] += product[2] * units.x + units.z, s[3] += product[3] * units.y + units.w;
}

/* What a warp knows of the mean: (x, y) of its run as operands. */
template <int G> struct warp_mean {
    unsigned x[G][2], y[G][2];
    akv_u32 run; /* that they are turned to */
    /* angles: 2 * 16 G floats of this warp; position: the last before the middle */
    AKV_MEMBER void turn(const float4 *met, float *angles, const mean_turns &turns, akv_u32 position, akv_u32 lane)
    {
        __syncwarp();
#pragma unroll
        for (akv_u32 e = 0u; e < (G + 1u) / 2u; e++) {
            akv_u32 pair = 32u * e + lane;
            if (pair < 16u * G) {
                float2 a = angle_behind(turns, pair, position);
                angles[pair] = a.x;
                angles[16u * G + pair] = a.y;
            }
        }
        __syncwarp();
#pragma unroll
        for (akv_u32 k = 0u; k < G; k++) {
            akv_u32 e = 4u * k + (lane & 3u);
            float4 c = ((const float4 *)angles)[e], s = ((const float4 *)angles)[4u * G + e];
            float4 u = met[met_at<G>(0u, lane >> 2, e)], v = met[met_at<G>(1u, lane >> 2, e)];
            x[k][0] = akv_pack_half2(u.x * c.x + v.x * s.x, u.y * c.y + v.y * s.y);
            x[k][1] = akv_pack_half2(u.z * c.z + v.z * s.z, u.w * c.w + v.w * s.w);
            y[k][0] = akv_pack_half2(v.x * c.x - u.x * s.x, v.y * c.y - u.y * s.y);
            y[k][1] = akv_pack_half2(v.z * c.z - u.z * s.z, v.w * c.w - u.w * s.w);
        }
    }
    /* Products of the tiles at distance v before and behind the middle. */
    AKV_MEMBER void products(float *before, float *behind, unsigned table, akv_u32 v, akv_u32 lane)
    {
        float even[4] = {0.0f, 0.0f, 0.0f, 0.0f}, odd[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        unsigned at = table + (v * (2u * G) * 32u + lane) * 16u;
#pragma unroll
        for (akv_u32 k = 0u; k < G; k++) {
            uint4 a = akv_lds4_table(at + k * 512u), b = akv_lds4_table(at + (G + k) * 512u);
            akv_mma(even, a.x, a.y, a.z, a.w, x[k][0], x[k][1]);
            akv_mma(odd, b.x, b.y, b.z, b.w, y[k][0], y[k][1]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) { /* row 15 - r of positions is row 7 - r, other half, of the matrix */
            behind[i] = even[i] + odd[i];
            before[i ^ 2] = __shfl_xor_sync(0xFFFFFFFFu, even[i] - odd[i], 28);
        }
    }
    /* Adds to the scores of one or two tiles what they regain; number: which tiles. */
    AKV_MEMBER void add(float (*s)[4], const akv_u32 *number, bool two, akv_u32 first_tile, akv_u32 shift,
                        const float4 *met, float *angles, const mean_turns &turns, unsigned table, const float4 *units,
                        akv_u32 lane)
    {
        akv_u32 half = 1u << shift >> 1, sides = 2u * half - 1u;
        akv_u32 n0 = number[0] - first_tile, n1 = number[1] - first_tile;
        bool pair = two && (n0 ^ n1) == sides && !(n0 & half); /* numbers of a pair complement each other */
#pragma unroll 1
        for (int t = 0;; t++) {
            float before[4], behind[4];
            akv_u32 n = t ? n1 : n0, u = n & sides, v = u < half ? half - 1u - u : u - half;
            if (n >> shift != run) {
                run = n >> shift;
                turn(met, angles, turns, (first_tile + (run << shift) + half) * 16u - 1u, lane);
            }
            products(before, behind, table, v, lane);
            float4 f = units[lane & 3u];
            if (pair) {
                add_mean(s[0], before, f);
                add_mean(s[1], behind, f);
                return;
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                before[i] = u < half ? before[i] : behind[i];
            if (t == 1) {
                add_mean(s[1], before, f);
                return;
            }
            add_mean(s[0], before, f);
            if (!two)
                return;
        }
    }
};
/* y = W x of 8 rows of shared memory, W the inverse [dim][dim] of a head; y is other memory.  A warp takes rows
 * of W, eight on their way at a time, a lane a part of them. */
template <int G, int NW> AKV_FN void multiply_queries(float *y, const float *x, const float *w)
{
    constexpr akv_u32 dim = 32 * G, each = G < 4 ? G : 4; /* floats of a lane in a run */
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
#pragma unroll 1
    for (akv_u32 first = warp; first < dim; first += 8u * NW) {
        float a[8][G];
#pragma unroll
        for (akv_u32 row = 0u; row < 8u; row++)
#pragma unroll
            for (akv_u32 j = 0u; j < (akv_u32)G; j++)
                a[row][j] = first + row * NW < dim
                                ? w[(akv_u64)(first + row * NW) * dim + each * (lane + j / each * 32u) + j % each]
                                : 0.0f;
#pragma unroll
        for (akv_u32 row = 0u; row < 8u; row++) {
            float part[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (akv_u32 j = 0u; j < (akv_u32)G; j++)
#pragma unroll
                for (akv_u32 c = 0u; c < 8u; c++)
                    part[c] += a[row][j] * x[c * dim + each * (lane + j / each * 32u) + j % each];
#pragma unroll
            for (akv_u32 n = 4u; n > 0u; n /= 2u) /* lanes halve the columns among them: 16, 8, 4 apart */
#pragma unroll
                for (akv_u32 j = 0u; j < n; j++) {
                    bool upper = lane & n * 4u;
                    float give = upper ? part[j] : part[j + n], keep = upper ? part[j + n] : part[j];
                    part[j] = keep + __shfl_xor_sync(0xFFFFFFFFu, give, (int)(n * 4u));
                }
            part[0] += __shfl_xor_sync(0xFFFFFFFFu, part[0], 2);
            part[0] += __shfl_xor_sync(0xFFFFFFFFu, part[0], 1);
            if ((lane & 3u) == 0u && first + row * NW < dim)
                y[(lane >> 2) * dim + first + row * NW] = part[0];
        }
    }
    __syncthreads();
}
/* o = o W of 8 rows in place.  scratch: 8 * dim floats for each part of the rows of W. */
template <int G, int NW> AKV_FN void multiply_sums(float *o, const float *w, float *scratch)
{
    constexpr akv_u32 dim = 32 * G, parts = NW * 32 >= dim ? NW * 32 / dim : 1u, each = (dim + parts - 1u) / parts;
    for (akv_u32 e = threadIdx.x; e < parts * dim; e += NW * 32) {
        akv_u32 part = e / dim, i = e % dim, first = part * each, last = AKV_MIN(first + each, dim);
        float sum[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 32 /* their loads are on their way together */
        for (akv_u32 k = first; k < last; k++) {
            float a = w[(akv_u64)k * dim + i];
#pragma unroll
            for (akv_u32 c = 0u; c < 8u; c++)
                sum[c] += o[c * dim + k] * a;
        }
#pragma unroll
        for (akv_u32 c = 0u; c < 8u; c++)
            scratch[(part * 8u + c) * dim + i] = sum[c];
    }
    __syncthreads();
    for (akv_u32 e = threadIdx.x; e < 8u * dim; e += NW * 32) {
        float sum = 0.0f;
        for (akv_u32 part = 0u; part < parts; part++)
            sum += scratch[part * 8u * dim + e];
        o[e] = sum;
    }
    __syncthreads();
}

#endif
