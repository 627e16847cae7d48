/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices of the fast decode kernels (lib/kernel/map.h): what scores regain of the keys' mean, and
 * queries and sums times an inverse.
 *
 * A query times the mean turned to position p is, over the pairs i of the rotary embedding with frequencies f_i,
 *     sum_i x_i cos(t f_i) + y_i sin(t f_i),   t = p - z,
 * where (x, y) is the query, conj-multiplied with the mean, turned to z.  A warp's tiles come in runs of 2, 4 or 8
 * that follow each other, and z is the middle of a run, half way between two positions: (x, y) is turned there once
 * for a run, and the two tiles as far before as behind z share one product of the matrix units each with a table
 * of cosines and one of sines, which all runs share: the sum is one's, the difference the other's, last
 * position first.  Where at most half of the columns are live, the others are the same queries turned on to the
 * middle of the run's second half, so that a product serves four tiles.  A warp keeps the run's products in shared
 * memory, where the scores of its tiles begin. */
#ifndef AKV_ATTEND_MAP_CUH
#define AKV_ATTEND_MAP_CUH
#include "attend.cuh"
#include "mma.cuh"
#include "../lib/kernel/map.h"

AKV_FN float2 load_float2(unsigned at)
{
    uint2 v = akv_lds2(at);
    return make_float2(akv_as_f32(v.x), akv_as_f32(v.y));
}
AKV_FN float4 load_float4(unsigned at)
{
    uint4 v = akv_lds4(at);
    return make_float4(akv_as_f32(v.x), akv_as_f32(v.y), akv_as_f32(v.z), akv_as_f32(v.w));
}

template <int G> struct mean_shape {
    static constexpr int distances = 2; /* of tiles from the middle */
    static constexpr int table_bytes = distances * 2 * G * 512, turn_bytes = 16 * G * 8;
    static constexpr int run_bytes = 2048; /* of products: 16 positions of 8 tiles and 4 columns, or half and twice */
    static_assert(2 * 16 * G * 4 <= run_bytes, "a run's angles fit where its products come");
};
/* How the tiles of a warp come in runs. */
struct mean_runs {
    akv_u32 shift, half; /* 1 << shift tiles are a run; half: 1 << half of them share a middle */
    AKV_MEMBER bool paired() const { return half < shift; }
    /* Products in shared memory are [tile][row][columns]: bytes of a tile, and where row r of columns 2c and 2c + 1
     * stands in it; row r + 8 half a tile further. */
    AKV_MEMBER unsigned tile_bytes() const { return paired() ? 256u : 512u; }
    AKV_MEMBER unsigned row_at(akv_u32 r, akv_u32 c) const { return paired() ? r * 16u + (c & 1u) * 8u : r * 32u + c * 8u; }
};

/* Cosine and sine of a pair half a position behind `position`; turn 0 gives (1, 0). */
AKV_FN float2 angle_of(akv_u64 phase)
{
    float2 y;
    akv_sincos((float)(akv_i32)(phase >> 32) * (6.283185307179586f * 0x1p-32f), &y.y, &y.x);
    return y;
}
AKV_FN float2 angle_behind(akv_u64 turn, akv_u32 position)
{
    return angle_of((akv_u64)position * turn + (turn >> 1));
}

/* A head's mean, a pair a thread.  Loads start long before they are waited for: those of the map, then those of
 * what it points to. */
template <int G> struct mean_loads {
    akv_u32 pairs, rope, mean, turns, m0, m1;
    akv_u64 turn;
    AKV_MEMBER void look(const akv_map *map)
    {
        pairs = rope = mean = turns = 0u;
        if (map && threadIdx.x < 16u * G)
            pairs = map->pairs, rope = map->rope, mean = map->mean, turns = map->turns;
    }
    AKV_MEMBER void start(const akv_u8 *maps, akv_u32 head)
    {
        akv_u32 i = threadIdx.x, at = mean + head * (32u * G) * 2u;
        bool half = rope == AKV_ROPE_HALF;
        turn = 0u, m0 = m1 = 0u;
        if (mean && i < pairs) {
            turn = ((const akv_u64 *)(maps + turns))[i];
            m0 = akv_load_u16(maps + at + (half ? i : 2u * i) * 2u);
            m1 = akv_load_u16(maps + at + (half ? i + pairs : 2u * i + 1u) * 2u);
        }
    }
    /* Frequencies and means of the pairs, 0 behind them. */
    AKV_MEMBER void finish(akv_u64 *to_turns, float2 *to_means) const
    {
        if (threadIdx.x < 16u * G) {
            to_turns[threadIdx.x] = turn;
            to_means[threadIdx.x] = make_float2(akv_as_f32(akv_f32_from_f16(m0)), akv_as_f32(akv_f32_from_f16(m1)));
        }
    }
};

/* The tables in the order of operands: [distance of a tile][cosines, sines][step][lane]; rows are the tile's
 * positions 4 (r / 2) + r % 2 and two further.  By `threads` threads. */
template <int G> AKV_FN void fill_angles(uint4 *table, const akv_u64 *turns, akv_u32 thread, akv_u32 threads)
{
    for (akv_u32 e = thread; e < mean_shape<G>::distances * G * 32u; e += threads) {
        akv_u32 lane = e & 31u, r = lane >> 2, step = (e >> 5) % G, v = (e >> 5) / G;
        akv_u32 at = 16u * v + 4u * (r >> 1) + (r & 1u), pair = (4u * step + (lane & 3u)) * 4u, x[4], y[4];
#pragma unroll
        for (akv_u32 j = 0u; j < 4u; j++) {
            float2 a = angle_behind(turns[pair + (j >> 1) * 2u], at + (j & 1u) * 2u);
            float2 b = angle_behind(turns[pair + (j >> 1) * 2u + 1u], at + (j & 1u) * 2u);
            x[j] = akv_pack_half2(a.x, b.x);
            y[j] = akv_pack_half2(a.y, b.y);
        }
        table[(v * 2u * G + step) * 32u + lane] = make_uint4(x[0], x[1], x[2], x[3]);
        table[((v * 2u + 1u) * G + step) * 32u + lane] = make_uint4(y[0], y[1], y[2], y[3]);
    }
}

/* Where a pair of a column stands among the queries times the mean, [x, y][step][lane][4]: as lanes take them. */
template <int G> AKV_FN akv_u32 met_at(akv_u32 part, akv_u32 column, akv_u32 pair)
{
    return ((part * G + pair / 16u) * 32u + column * 4u + pair / 4u % 4u) * 4u + pair % 4u;
}
/* A column's query of shared memory times the mean, as for position 0, by a warp; turned on to half a run further
 * where that is wanted.  It is divided by a power of two that keeps halves in range, which is returned. */
template <int G>
AKV_FN float meet_mean(float *met, const float *q, const float2 *means, const akv_map *map, const akv_u64 *turns,
                       const mean_runs &runs, akv_u32 column)
{
    constexpr int each = G / 2;
    bool half = map->rope == AKV_ROPE_HALF, on = runs.paired() && column >= COLUMNS / 2u;
    akv_u32 lane = threadIdx.x & 31u;
    float x[each], y[each], top = 0.0f;
#pragma unroll
    for (int e = 0; e < each; e++) {
        akv_u32 i = 32u * e + lane;
        x[e] = y[e] = 0.0f;
        if (i < map->pairs) {
            float first = q[half ? i : 2u * i], second = q[half ? i + map->pairs : 2u * i + 1u];
            float2 m = means[i];
            x[e] = first * m.x + second * m.y;
            y[e] = second * m.x - first * m.y;
        }
        if (on) {
            float2 a = angle_of((16u << runs.half) * turns[i]);
            float u = x[e];
            x[e] = u * a.x + y[e] * a.y;
            y[e] = y[e] * a.x - u * a.y;
        }
        top = fmaxf(top, fmaxf(fabsf(x[e]), fabsf(y[e])));
    }
    float norm = power_below(warp_max(top)), f = 1.0f / norm;
#pragma unroll
    for (int e = 0; e < each; e++) {
        met[met_at<G>(0u, column, 32u * e + lane)] = x[e] * f;
        met[met_at<G>(1u, column, 32u * e + lane)] = y[e] * f;
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

/* Runs for `warps` warps that share `tiles` of them: long ones where that leaves no warp with much more than its
 * share. */
AKV_FN mean_runs choose_runs(akv_u32 tiles, akv_u32 warps, akv_u32 columns)
{
    bool few = columns <= COLUMNS / 2u;
    akv_u32 shift = few ? 3u : 2u, share = (tiles + warps - 1u) / warps;
    for (; shift > 1u; shift--) {
        akv_u32 rest = tiles % (warps << shift), most = (tiles / (warps << shift) << shift) + AKV_MIN(rest, 1u << shift);
        if (most * 16u <= share * 17u)
            break;
    }
    mean_runs runs = {shift, few && shift > 1u ? shift - 1u : shift};
    return runs;
}

/* What scores regain of the mean in a run of a warp, to its shared memory `to`.  position: the last before the
 * (first) middle; units: factors of columns 2c and 2c + 1, and what they get for components that do not turn. */
template <int G>
AKV_FN void regain_run(unsigned to, const mean_runs &runs, unsigned met, const akv_u64 *turns, unsigned table,
                       float4 units, akv_u32 position, akv_u32 lane)
{
    unsigned x[G][2], y[G][2];
    __syncwarp(); /* the products of the run before are read */
#pragma unroll
    for (akv_u32 e = 0u; e < (G + 1u) / 2u; e++) {
        akv_u32 pair = 32u * e + lane;
        if (pair < 16u * G) {
            float2 a = angle_behind(turns[pair], position);
            akv_sts1(to + pair * 4u, a.x);
            akv_sts1(to + (16u * G + pair) * 4u, a.y);
        }
    }
    __syncwarp();
#pragma unroll
    for (akv_u32 k = 0u; k < G; k++) {
        float4 c = load_float4(to + (lane & 3u) * 16u + k * 64u);
        float4 s = load_float4(to + (lane & 3u) * 16u + (G + k) * 64u);
        float4 u = load_float4(met + lane * 16u + k * 512u), v = load_float4(met + lane * 16u + (G + k) * 512u);
        x[k][0] = akv_pack_half2(u.x * c.x + v.x * s.x, u.y * c.y + v.y * s.y);
        x[k][1] = akv_pack_half2(u.z * c.z + v.z * s.z, u.w * c.w + v.w * s.w);
        y[k][0] = akv_pack_half2(v.x * c.x - u.x * s.x, v.y * c.y - u.y * s.y);
        y[k][1] = akv_pack_half2(v.z * c.z - u.z * s.z, v.w * c.w - u.w * s.w);
    }
    __syncwarp();
    akv_u32 r = lane >> 2, c = lane & 3u, middle = 1u << runs.half >> 1;
    unsigned tile = runs.tile_bytes(), behind = to + ((runs.paired() ? (c >> 1) << runs.half : 0u) + middle) * tile;
    unsigned before = behind - tile + runs.row_at(15u - r, c);
    behind += runs.row_at(r, c);
    table += lane * 16u;
#pragma unroll
    for (akv_u32 v = 0u; v < (akv_u32)mean_shape<G>::distances; v++) {
        if (v >= middle)
            break;
        float even[4] = {0.0f, 0.0f, 0.0f, 0.0f}, odd[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (akv_u32 k = 0u; k < G; k++) {
            uint4 a = akv_lds4_table(table + (v * 2u * G + k) * 512u), b = akv_lds4_table(table + (v * 2u * G + G + k) * 512u);
            akv_mma(even, a.x, a.y, a.z, a.w, x[k][0], x[k][1]);
            akv_mma(odd, b.x, b.y, b.z, b.w, y[k][0], y[k][1]);
        }
        /* row 15 - r of positions is row 7 - r, other half, of the matrix */
#pragma unroll
        for (akv_u32 j = 0u; j < 2u; j++) {
            float e0 = even[2u * j] * units.x + units.z, e1 = even[2u * j + 1u] * units.y + units.w;
            float o0 = odd[2u * j] * units.x, o1 = odd[2u * j + 1u] * units.y;
            akv_sts2(behind + j * (tile / 2u), e0 + o0, e1 + o1);
            akv_sts2(before - j * (tile / 2u), e0 - o0, e1 - o1);
        }
        behind += tile;
        before -= tile;
    }
    __syncwarp();
}

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
