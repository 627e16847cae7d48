/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices of the fast decode kernels (lib/kernel/map.h): what scores regain of the keys' mean, and
 * queries and sums times an inverse.
 *
 * A query times the mean turned to position p is, over the pairs i of the rotary embedding with frequencies f_i,
 *     sum_i x_i cos(t f_i) + y_i sin(t f_i),   t = p - z,
 * where (x, y) is the query, conj-multiplied with the mean, turned to z.  A warp's tiles come in runs of 2, 4 or 8
 * that follow each other; the z of a run are the middles of its pairs of tiles, half way between two positions.  For
 * the matrix units the turned (x, y) of 4 columns and 4 middles, or of 8 and 2, are rows, and the cosines and sines
 * of 16 distances, one table for all, are columns: the sum of both products is the tile's behind the middle, the
 * difference that before it, last position first.  A warp keeps the run's products in shared memory, where the
 * scores of its tiles begin. */
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

template <int G> struct mean_shape {
    static constexpr int table_bytes = G * 1024, turn_bytes = 16 * G * 8;
    static constexpr int run_bytes = 2048; /* of products: 16 positions of 8 tiles and 4 columns, or half and twice */
    static_assert(2 * G * 64 <= run_bytes, "a run's angles fit where its products come");
    static_assert(16 * G * 8 <= run_bytes, "and the mean before them");
};
/* How the tiles of a warp come in runs. */
struct mean_runs {
    akv_u32 shift, few; /* 1 << shift tiles are a run; few: at most four columns are live */
    /* Products in shared memory are [tile][position][columns].  Of few columns every second pair of tiles has
     * neighbouring positions swapped, so that stores of two pairs do not share banks. */
    AKV_MEMBER unsigned tile_bytes() const { return few ? 256u : 512u; }
    AKV_MEMBER unsigned place(akv_u32 tile, akv_u32 position, akv_u32 column) const
    {
        return few ? tile * 256u + (position ^ (tile >> 1 & 1u)) * 16u + (column & 3u) * 4u
                   : tile * 512u + position * 32u + column * 4u;
    }
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

/* The table in the order of operands: [step][half of a tile][lane] of two words of cosines and two of sines, columns
 * are positions in order.  By `threads` threads. */
template <int G> AKV_FN void fill_angles(uint4 *table, const akv_u64 *turns, akv_u32 thread, akv_u32 threads)
{
    for (akv_u32 e = thread; e < 2u * G * 32u; e += threads) {
        akv_u32 lane = e & 31u, at = (e >> 5 & 1u) * 8u + (lane >> 2), pair = ((e >> 6) * 4u + (lane & 3u)) * 4u;
        float2 x[4];
#pragma unroll
        for (akv_u32 j = 0u; j < 4u; j++)
            x[j] = angle_behind(turns[pair + j], at);
        table[e] = make_uint4(akv_pack_half2(x[0].x, x[1].x), akv_pack_half2(x[2].x, x[3].x),
                              akv_pack_half2(x[0].y, x[1].y), akv_pack_half2(x[2].y, x[3].y));
    }
}

/* A column's query of shared memory times the mean, as for position 0, by a warp; of few columns the last four are
 * turned on to the next middle.  It is divided by a power of two that keeps halves in range, which is returned, and
 * stored as lanes take it: [step][column][lane % 4] of four halves of x and four of y. */
template <int G>
AKV_FN float meet_mean(unsigned short *met, const float *q, const float2 *means, const akv_map *map,
                       const akv_u64 *turns, const mean_runs &runs, akv_u32 column)
{
    constexpr int each = G / 2;
    bool half = map->rope == AKV_ROPE_HALF, on = runs.few && column >= COLUMNS / 2u;
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
            float2 a = angle_of(32u * turns[i]);
            float u = x[e];
            x[e] = u * a.x + y[e] * a.y;
            y[e] = y[e] * a.x - u * a.y;
        }
        top = fmaxf(top, fmaxf(fabsf(x[e]), fabsf(y[e])));
    }
    float norm = power_below(warp_max(top)), f = 1.0f / norm;
#pragma unroll
    for (int e = 0; e < each; e++) {
        akv_u32 i = 32u * e + lane;
        unsigned short *to = met + ((i / 16u * COLUMNS + column) * 4u + i / 4u % 4u) * 8u + i % 4u;
        unsigned halves = akv_pack_half2(x[e] * f, y[e] * f);
        to[0] = (unsigned short)halves;
        to[4] = (unsigned short)(halves >> 16);
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
    akv_u32 few = columns <= COLUMNS / 2u, shift = few ? 3u : 2u, share = (tiles + warps - 1u) / warps;
    for (; shift > 1u; shift--) {
        akv_u32 rest = tiles % (warps << shift);
        akv_u32 most = (tiles / (warps << shift) << shift) + AKV_MIN(rest, 1u << shift);
        if (most * 16u <= share * 17u)
            break;
    }
    mean_runs runs = {shift, few};
    return runs;
}

/* What scores regain of the mean in a run of a warp, to its shared memory `to`.  position: the last before the
 * first middle; unit: factor of the products of column lane / 4, and what they get for components that do not
 * turn. */
template <int G>
AKV_FN void regain_run(unsigned to, const mean_runs &runs, unsigned met, const akv_u64 *turns, unsigned table,
                       float2 unit, akv_u32 position, akv_u32 lane)
{
    __syncwarp(); /* the products of the run before are read */
#pragma unroll
    for (akv_u32 e = 0u; e < (G + 3u) / 4u; e++) { /* angles of two middles, two pairs a lane */
        akv_u32 pair = 64u * e + 2u * lane;
        if (pair < 16u * G) {
            akv_u64 t0 = turns[pair], t1 = turns[pair + 1u];
            akv_u64 p0 = position * t0 + (t0 >> 1), p1 = position * t1 + (t1 >> 1);
            unsigned at = to + (pair / 4u) * 16u + (pair & 2u) * 2u;
#pragma unroll
            for (akv_u32 set = 0u; set < 2u; set++) {
                float2 a = angle_of(p0), b = angle_of(p1);
                akv_sts1(at + set * (G * 64u), akv_as_f32(akv_pack_half2(a.x, b.x)));
                akv_sts1(at + set * (G * 64u) + 8u, akv_as_f32(akv_pack_half2(a.y, b.y)));
                p0 += t0 << (runs.few ? 6 : 5), p1 += t1 << (runs.few ? 6 : 5);
            }
        }
    }
    __syncwarp();
    float even[2][4], odd[2][4];
#pragma unroll
    for (akv_u32 n = 0u; n < 2u; n++)
        even[n][0] = even[n][1] = even[n][2] = even[n][3] = odd[n][0] = odd[n][1] = odd[n][2] = odd[n][3] = 0.0f;
#pragma unroll
    for (akv_u32 k = 0u; k < G; k++) {
        uint4 m = akv_lds4_table(met + (k * 32u + lane) * 16u);
        unsigned x[4], y[4], nx = m.x ^ 0x80008000u, ny = m.y ^ 0x80008000u;
#pragma unroll
        for (akv_u32 set = 0u; set < 2u; set++) {
            uint4 a = akv_lds4(to + (set * G + k) * 64u + (lane & 3u) * 16u);
            x[set] = akv_hfma2(m.x, a.x, akv_hmul2(m.z, a.z));
            x[2u + set] = akv_hfma2(m.y, a.y, akv_hmul2(m.w, a.w));
            y[set] = akv_hfma2(m.z, a.x, akv_hmul2(nx, a.z));
            y[2u + set] = akv_hfma2(m.w, a.y, akv_hmul2(ny, a.w));
        }
#pragma unroll
        for (akv_u32 n = 0u; n < 2u; n++) {
            uint4 b = akv_lds4_table(table + ((k * 2u + n) * 32u + lane) * 16u);
            akv_mma(even[n], x[0], x[1], x[2], x[3], b.x, b.y);
            akv_mma(odd[n], y[0], y[1], y[2], y[3], b.z, b.w);
        }
    }
    __syncwarp();
    akv_u32 column = lane >> 2, tile = runs.few ? (lane >> 4) * 2u : 0u, at = (lane & 3u) * 2u;
#pragma unroll
    for (akv_u32 j = 0u; j < 2u; j++) { /* neighbouring positions */
        unsigned behind = to + runs.place(tile + 1u, at + j, column);
        unsigned before = to + runs.place(tile, 15u - at - j, column);
#pragma unroll
        for (akv_u32 n = 0u; n < 2u; n++)
#pragma unroll
            for (akv_u32 set = 0u; set < 2u; set++) {
                float e = even[n][2u * set + j] * unit.x + unit.y, o = odd[n][2u * set + j] * unit.x;
                unsigned tiles = set * 1024u, half = n * (runs.few ? 128u : 256u);
                akv_sts1(behind + tiles + half, e + o);
                akv_sts1(before + tiles - half, e - o);
            }
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
