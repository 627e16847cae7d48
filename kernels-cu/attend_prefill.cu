/* SPDX-License-Identifier: Apache-2.0 */
/* Prefill attention on the matrix units for blocks of 16 positions: a thread block takes TILE query columns of a
 * kv head and walks over its positions TN at a time, which stand as halves in shared memory.  What comes next is
 * copied while a tile is worked on: raw rows to where the tile after is read, packed ones to where they are decoded
 * from.  Packed blocks come first, with queries in their domain; then the sums are turned back and raw blocks
 * follow.  Sequences with few columns are left to the kernel that can split them.  BOUNDED.
 *
 * Halves do not overflow: queries are divided by a power of two a row, which the score gets back; keys and
 * values by one a tile (prefill_tiles.cuh), which for values grows with the tiles and moves the sums along. */
#include "attend.cuh"
#include "mma.cuh"
#include "prefill_tiles.cuh"
#include "../lib/kernel/rotate.h"

#define WARPS   4
#define THREADS (WARPS * 32)

/* MT: tiles of 16 columns of a warp. */
template <int G, int MT, int TN> struct prefill_shape {
    static constexpr int dim = 32 * G, columns = WARPS * 16 * MT, runs = TN / 16;
    static constexpr int stage = 2 * TN * dim; /* halves */
    static constexpr int tile = 16 * dim + 32 * ((G + 3) / 4); /* bytes: no format's is larger than I8's */
    static_assert(runs * 2 * tile <= stage * 2, "the packed tiles of a stage fit into one of halves");
};

/* The blocks of 32 runs of 16 positions from `base` on, one a lane. */
struct run_window {
    akv_i32 base; /* run number of lane 0 */
    const akv_u8 *block;
    akv_u32 kind, packed, raw; /* packed, raw: lanes that hold such a block */
    AKV_MEMBER void load(const attend_work &w, const akv_attend_params &p, const akv_cu_args &a, akv_i32 first,
                         akv_i32 begin, akv_i32 end)
    {
        akv_i32 at = (first + (akv_i32)(threadIdx.x & 31u)) * 16;
        akv_u32 entry = AKV_NO_BLOCK;
        if (at + 15 >= begin && at < end)
            entry = w.table[(akv_u32)at / 16u - w.seq.first_block];
        bool held = entry != AKV_NO_BLOCK;
        base = first;
        kind = held ? entry >> 28 : 0u;
        block = held ? akv_cu_at(a, akv_block_address(&p.pool, entry)) : nullptr;
        bool is_raw = held && akv_format_raw(p.tiles.k_format[kind]);
        raw = __ballot_sync(0xFFFFFFFFu, is_raw);
        packed = __ballot_sync(0xFFFFFFFFu, held && !is_raw);
    }
};

/* A loaded element as a float, and a float stored; for cards without the kernels below, of no use. */
[[maybe_unused]] AKV_FN float float_of(akv_u32 bits, akv_u32 dtype)
{
    if (dtype == AKV_F16)
        return __half2float(__ushort_as_half((unsigned short)bits));
    return akv_as_f32(dtype == AKV_F32 ? bits : akv_f32_from_bf16(bits));
}
[[maybe_unused]] AKV_FN void store_float(akv_u8 *base, akv_u64 index, akv_u32 dtype, float x)
{
    if (dtype == AKV_F16)
        akv_store_u16(base + index * 2u, __half_as_ushort(__float2half_rn(x)));
    else
        akv_store_bits(base, index, dtype, akv_as_u32(x));
}

/* Queries of a pass to halves, each row divided by norm; what is left of scale times log2(e) is in them, too.  A warp
 * has the loads of several rows on their way at a time. */
template <int G, int TILE>
AKV_FN void load_queries(half *q, float *norm, const akv_attend_params &p, const akv_cu_args &a,
                         const attend_work &w, bool rotate)
{
    constexpr akv_u32 batch = AKV_MIN(32 / G, TILE / WARPS);
    akv_u32 group = p.q_heads / p.kv_heads, lane = threadIdx.x & 31u, dtype = p.q.dtype;
#pragma unroll 1
    for (akv_u32 first = threadIdx.x >> 5; first < (akv_u32)TILE; first += batch * WARPS) {
        akv_u32 bits[batch][G];
#pragma unroll
        for (akv_u32 i = 0u; i < batch; i++) {
            akv_u32 c = first + i * WARPS, column = w.tile * COLUMNS + AKV_MIN(c, w.columns - 1u);
            akv_u64 at = row_element(p.q, w.seq.first_token + column / group, w.head * group + column % group) + lane;
#pragma unroll
            for (akv_u32 g = 0u; g < G; g++)
                bits[i][g] = dtype == AKV_F32 ? akv_load_u32(a.arg[1] + (at + g * 32u) * 4u)
                                              : akv_load_u16(a.arg[1] + (at + g * 32u) * 2u);
        }
#pragma unroll
        for (akv_u32 i = 0u; i < batch; i++) {
            akv_u32 c = first + i * WARPS;
            float x[G], top = 0.0f;
#pragma unroll
            for (akv_u32 g = 0u; g < G; g++) {
                x[g] = c < w.columns ? float_of(bits[i][g], dtype) * (p.scale * LOG2E) : 0.0f;
            }
            if (rotate)
                rotate_lanes<G>(x, akv_rotate_read_factor(32u * G));
#pragma unroll
            for (akv_u32 g = 0u; g < G; g++)
                top = fmaxf(top, fabsf(x[g]));
            for (int s = 16; s > 0; s /= 2)
                top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, s));
            float power = power_above(top), inverse = 1.0f / power;
            if (lane == 0u)
                norm[c] = power;
#pragma unroll
            for (akv_u32 g = 0u; g < G; g++)
                q[piece_at<G>(c, g * 4u + lane / 8u) + lane % 8u] = __float2half_rn(x[g] * inverse);
        }
    }
}

/* Copies of the raw runs of a tile; positions that are not held or never written become 0: 0 * NaN must not
 * reach the sum. */
template <int G, int TN>
AKV_FN void copy_raw(half *k, half *v, const run_window &runs, akv_u32 first, const akv_attend_params &p,
                     akv_u32 head, akv_u32 left)
{
    constexpr akv_u32 rows = THREADS / (4u * G), row_bytes = 64u * G; /* rows of a run at a time: a multiple of 4 */
    akv_u32 row = threadIdx.x / (4u * G), piece = threadIdx.x % (4u * G), from = (head * 16u + row) * row_bytes + piece * 16u;
    unsigned k_to[2], v_to[2]; /* of rows of either parity of four, less the row's own place */
#pragma unroll
    for (akv_u32 i = 0u; i < 2u; i++) {
        akv_u32 to = piece_at<G>(i * 4u + row, piece) - i * 4u * (32u * G);
        k_to[i] = akv_shared(k + to);
        v_to[i] = akv_shared(v + to);
    }
#pragma unroll
    for (akv_u32 run = 0u; run < TN / 16u; run++) {
        akv_u32 kind = __shfl_sync(0xFFFFFFFFu, runs.kind, (int)(first + run));
        const akv_u8 *block = (const akv_u8 *)__shfl_sync(0xFFFFFFFFu, (akv_u64)runs.block, (int)(first + run)) + from;
        bool held = runs.raw >> (first + run) & 1u;
        const akv_u8 *k_from = block + p.tiles.k_offset[kind], *v_from = block + p.tiles.v_offset[kind];
#pragma unroll
        for (akv_u32 i = 0u; i < 16u / rows; i++) {
            akv_u32 at = run * 16u + i * rows, odd = at / 4u % 2u; /* piece_at goes by the row's number mod 8 */
            if (held && at + row < left) {
                akv_copy16(k_to[odd] + at * row_bytes, k_from + i * rows * row_bytes);
                akv_copy16(v_to[odd] + at * row_bytes, v_from + i * rows * row_bytes);
            } else {
                akv_u32 to = piece_at<G>(at + row, piece);
                *(uint4 *)(k + to) = make_uint4(0u, 0u, 0u, 0u);
                *(uint4 *)(v + to) = make_uint4(0u, 0u, 0u, 0u);
            }
        }
    }
}

/* Where a kind's tiles of a head stand in a block, and how many pieces of 16 bytes they are. */
struct kind_tiles {
    akv_u32 k, v, k_pieces, v_pieces;
};
/* Copies of the packed runs of a tile, keys and values of a run behind one another. */
template <int G, int TN>
AKV_FN void copy_packed(akv_u8 *to, const run_window &runs, akv_u32 first, const kind_tiles *kinds)
{
    constexpr akv_u32 tile = prefill_shape<G, 1, TN>::tile;
#pragma unroll
    for (akv_u32 run = 0u; run < TN / 16u; run++) {
        akv_u32 kind = __shfl_sync(0xFFFFFFFFu, runs.kind, (int)(first + run));
        const akv_u8 *block = (const akv_u8 *)__shfl_sync(0xFFFFFFFFu, (akv_u64)runs.block, (int)(first + run));
        if (!(runs.packed >> (first + run) & 1u))
            continue;
        kind_tiles t = kinds[kind];
#pragma unroll 1
        for (akv_u32 i = threadIdx.x; i < t.k_pieces + t.v_pieces; i += THREADS) {
            bool key = i < t.k_pieces;
            akv_u32 j = key ? i : i - t.k_pieces;
            akv_copy16(akv_shared(to + (2u * run + (key ? 0u : 1u)) * tile + j * 16u),
                       block + (key ? t.k : t.v) + j * 16u);
        }
    }
}

/* Powers of two above the units of the tile's keys (x) and values (y), 1 without any: a lane takes a share of the
 * scales of run lane / (32 / runs). */
template <int G, int TN>
AKV_FN float2 tile_units(const akv_u8 *packed, const run_window &runs, akv_u32 first, const akv_attend_params &p)
{
    constexpr akv_u32 share = 32u * 16u / TN, dim = 32u * G, tile = prefill_shape<G, 1, TN>::tile;
    akv_u32 lane = threadIdx.x & 31u, run = lane / share;
    akv_u32 kind = __shfl_sync(0xFFFFFFFFu, runs.kind, (int)(first + run));
    float k = 0.0f, v = 0.0f;
    if (runs.packed >> (first + run) & 1u) {
        akv_u32 kf = p.tiles.k_format[kind], vf = p.tiles.v_format[kind];
        const akv_u8 *at = packed + 2u * run * tile;
        k = largest_unit(scale_words(at, kf, dim, lane % share, share), kf);
        v = largest_unit(scale_words(at + tile, vf, dim, lane % share, share), vf);
    }
    for (int i = 16; i > 0; i /= 2) {
        k = fmaxf(k, __shfl_xor_sync(0xFFFFFFFFu, k, i));
        v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, i));
    }
    return make_float2(power_above(k), power_above(v));
}

/* Packed runs of a tile to halves; what is not held becomes 0. */
template <int F, int G, int TN>
AKV_FN void decode_keys(half *k, const akv_u8 *tile, akv_u32 run, float inverse, akv_u32 i)
{
    key_group<F, G>(k, run * 16u + i / G, tile, i / G, i % G, inverse);
}
template <int F, int G, int TN>
AKV_FN void decode_values(half *v, const akv_u8 *tile, akv_u32 run, float inverse, akv_u32 i)
{
    value_unit<F, G>(v, run * 16u + i / (4u * G) * 4u, tile, i / (4u * G), i % (4u * G), inverse);
}
template <int G, int TN>
AKV_FN void decode_tile(half *k, half *v, const akv_u8 *packed, const run_window &runs, akv_u32 first,
                        const akv_attend_params &p, float k_inverse, float v_inverse)
{
    constexpr akv_u32 each = 16u * G; /* groups of a run's keys, units of its values */
    constexpr akv_u32 tile = prefill_shape<G, 1, TN>::tile;
#pragma unroll 1
    for (akv_u32 e = threadIdx.x; e < TN * G; e += THREADS) {
        akv_u32 run = e / each, i = e % each; /* the same run in a warp, or half of it */
        akv_u32 kind = __shfl_sync(0xFFFFFFFFu, runs.kind, (int)(first + run));
        if (!(runs.packed >> (first + run) & 1u)) {
#pragma unroll
            for (akv_u32 j = 0u; j < 4u; j++) {
                *(uint4 *)(k + piece_at<G>(run * 16u + i / G, i % G * 4u + j)) = make_uint4(0u, 0u, 0u, 0u);
                *(uint4 *)(v + piece_at<G>(run * 16u + i / (4u * G) * 4u + j, i % (4u * G))) =
                    make_uint4(0u, 0u, 0u, 0u);
            }
            continue;
        }
        const akv_u8 *kt = packed + 2u * run * tile, *vt = kt + tile;
#define EACH_FORMAT(X) X(AKV_I8) X(AKV_N6) X(AKV_N5) X(AKV_N4) X(AKV_N3) X(AKV_N2)
#define KEYS(F)                                                                                                  \
    case F:                                                                                                      \
        decode_keys<F, G, TN>(k, kt, run, k_inverse, i);                                                         \
        break;
#define VALUES(F)                                                                                                \
    case F:                                                                                                      \
        decode_values<F, G, TN>(v, vt, run, v_inverse, i);                                                       \
        break;
        switch (p.tiles.k_format[kind]) {
            EACH_FORMAT(KEYS)
        }
        switch (p.tiles.v_format[kind]) {
            EACH_FORMAT(VALUES)
        }
    }
}

/* What a warp keeps of its 16 MT columns; row slots are r, r + 8 of each tile of 16. */
template <int G, int MT> struct prefill_state {
    float o[MT][4 * G][4], m[MT][2], l[MT][2];
};

/* One tile of TN positions: scores, softmax, values. */
template <int G, int MT, int TN>
AKV_FN void work(prefill_state<G, MT> &x, const half *q, const half *k, const half *v, const float *norm, float k_unit,
                 const akv_attend_params &p, const akv_i32 *lo, const akv_i32 *hi, akv_i32 tile, bool careful,
                 akv_u32 held)
{
    akv_u32 lane = threadIdx.x & 31u, base = (threadIdx.x >> 5) * (16u * MT);
    float s[MT][TN / 8][4];
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int n = 0; n < TN / 8; n++)
            s[t][n][0] = s[t][n][1] = s[t][n][2] = s[t][n][3] = 0.0f;
#pragma unroll
    for (int i = 0; i < 2 * G; i++) {
        unsigned a[MT][4], b[4];
#pragma unroll
        for (int t = 0; t < MT; t++)
            akv_ldmatrix4(a[t], akv_shared(q + piece_at<G>(base + t * 16u + (lane & 15u), 2u * i + (lane >> 4))));
#pragma unroll
        for (int n = 0; n < TN / 16; n++) {
            akv_ldmatrix4(b, akv_shared(k + piece_at<G>(n * 16u + (lane & 7u) + (lane >> 4) * 8u,
                                                        2u * i + (lane >> 3 & 1u))));
#pragma unroll
            for (int t = 0; t < MT; t++) {
                akv_mma(s[t][2 * n], a[t][0], a[t][1], a[t][2], a[t][3], b[0], b[1]);
                akv_mma(s[t][2 * n + 1], a[t][0], a[t][1], a[t][2], a[t][3], b[2], b[3]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < MT; t++) {
        float f[2] = {norm[base + t * 16u + lane / 4u] * k_unit, norm[base + t * 16u + lane / 4u + 8u] * k_unit};
        float top[2] = {-INFINITY, -INFINITY};
        if (p.cap > 0.0f) {
#pragma unroll
            for (int n = 0; n < TN / 8; n++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    s[t][n][j] = p.cap * LOG2E * tanhf(s[t][n][j] * f[j / 2] * (LN2 / p.cap));
            f[0] = f[1] = 1.0f;
        }
        if (careful) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                akv_u32 row = base + t * 16u + lane / 4u + 8u * j;
                akv_i32 from = lo[row] - tile - (akv_i32)(lane % 4u * 2u), to = hi[row] - tile - (akv_i32)(lane % 4u * 2u);
#pragma unroll
                for (int n = 0; n < TN / 8; n++) {
                    bool here = held >> (n / 2) & 1u;
                    if (!here || n * 8 < from || n * 8 > to)
                        s[t][n][2 * j] = -INFINITY;
                    if (!here || n * 8 + 1 < from || n * 8 + 1 > to)
                        s[t][n][2 * j + 1] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (int n = 0; n < TN / 8; n++) {
            top[0] = fmaxf(top[0], fmaxf(s[t][n][0], s[t][n][1]));
            top[1] = fmaxf(top[1], fmaxf(s[t][n][2], s[t][n][3]));
        }
        /* the maximum is raised when a score exceeds it by more than 4: a factor 16 that halves hold easily */
        if (__any_sync(0xFFFFFFFFu, top[0] * f[0] > x.m[t][0] + 4.0f || top[1] * f[1] > x.m[t][1] + 4.0f)) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                top[j] = fmaxf(top[j], __shfl_xor_sync(0xFFFFFFFFu, top[j], 1));
                top[j] = fmaxf(top[j], __shfl_xor_sync(0xFFFFFFFFu, top[j], 2));
                float higher = fmaxf(x.m[t][j], top[j] * f[j]), factor = akv_exp2(x.m[t][j] - higher);
                x.m[t][j] = higher;
                x.l[t][j] *= factor;
#pragma unroll
                for (int n = 0; n < 4 * G; n++)
                    x.o[t][n][2 * j] *= factor, x.o[t][n][2 * j + 1] *= factor;
            }
        }
#pragma unroll
        for (int n = 0; n < TN / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[t][n][j] = akv_exp2(__fmaf_rn(s[t][n][j], f[j / 2], -x.m[t][j / 2]));
                x.l[t][j / 2] += s[t][n][j];
            }
    }
#pragma unroll
    for (int i = 0; i < TN / 16; i++) {
        unsigned a[MT][4], b[4];
#pragma unroll
        for (int t = 0; t < MT; t++) {
            a[t][0] = akv_pack_half2(s[t][2 * i][0], s[t][2 * i][1]);
            a[t][1] = akv_pack_half2(s[t][2 * i][2], s[t][2 * i][3]);
            a[t][2] = akv_pack_half2(s[t][2 * i + 1][0], s[t][2 * i + 1][1]);
            a[t][3] = akv_pack_half2(s[t][2 * i + 1][2], s[t][2 * i + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < 2 * G; n++) {
            akv_ldmatrix4_trans(b, akv_shared(v + piece_at<G>(i * 16u + (lane & 15u), 2u * n + (lane >> 4))));
#pragma unroll
            for (int t = 0; t < MT; t++) {
                akv_mma(x.o[t][2 * n], a[t][0], a[t][1], a[t][2], a[t][3], b[0], b[1]);
                akv_mma(x.o[t][2 * n + 1], a[t][0], a[t][1], a[t][2], a[t][3], b[2], b[3]);
            }
        }
    }
}

template <int G, int MT> AKV_FN void scale_sums(prefill_state<G, MT> &x, float factor)
{
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int n = 0; n < 4 * G; n++)
            x.o[t][n][0] *= factor, x.o[t][n][1] *= factor, x.o[t][n][2] *= factor, x.o[t][n][3] *= factor;
}
/* The sums of a warp's columns to rows of shared memory, or back.  A warp's rows are its own. */
template <int G, int MT, bool OUT> AKV_FN void move_sums(prefill_state<G, MT> &x, float *rows)
{
    akv_u32 lane = threadIdx.x & 31u, base = (threadIdx.x >> 5) * (16u * MT);
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int n = 0; n < 4 * G; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float2 *at = (float2 *)(rows + (base + t * 16u + lane / 4u + 8u * j) * (32u * G) + n * 8u + lane % 4u * 2u);
                if (OUT)
                    *at = make_float2(x.o[t][n][2 * j], x.o[t][n][2 * j + 1]);
                else
                    x.o[t][n][2 * j] = at->x, x.o[t][n][2 * j + 1] = at->y;
            }
    __syncwarp();
}
template <int G, int MT> AKV_FN void turn_rows(float *rows)
{
    akv_u32 lane = threadIdx.x & 31u, base = (threadIdx.x >> 5) * (16u * MT);
    for (akv_u32 r = 0u; r < 16u * MT; r++) {
        float y[G], *row = rows + (base + r) * (32u * G);
#pragma unroll
        for (int g = 0; g < G; g++)
            y[g] = row[32 * g + lane];
        rotate_lanes<G>(y, akv_rotate_read_factor(32u * G));
#pragma unroll
        for (int g = 0; g < G; g++)
            row[32 * g + lane] = y[g];
    }
    __syncwarp();
}

/* Sums times `unit` to outputs, and their log-sum-exp. */
template <int G, int MT>
AKV_FN void finish_rows(prefill_state<G, MT> &x, float unit, const akv_attend_params &p, const akv_cu_args &a,
                        const attend_work &w)
{
    akv_u32 lane = threadIdx.x & 31u, base = (threadIdx.x >> 5) * (16u * MT), group = p.q_heads / p.kv_heads;
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            akv_u32 c = base + t * 16u + lane / 4u + 8u * j, column = w.tile * COLUMNS + c;
            akv_u32 token = w.seq.first_token + column / group, head = w.head * group + column % group;
            float top = x.m[t][j], sum = x.l[t][j], factor = unit;
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            if ((p.flags & AKV_ATTEND_SINKS) && c < w.columns) {
                float sink = ((const float *)a.arg[5])[head] * LOG2E, higher = fmaxf(top, sink);
                factor *= exp2f(top - higher);
                sum = sum * exp2f(top - higher) + exp2f(sink - higher);
                top = higher;
            }
            factor = sum > 0.0f ? factor / sum : 0.0f;
#pragma unroll
            for (int n = 0; n < 4 * G; n++)
                x.o[t][n][2 * j] *= factor, x.o[t][n][2 * j + 1] *= factor;
            if ((p.flags & AKV_ATTEND_LSE) && lane % 4u == 0u && c < w.columns)
                ((float *)a.arg[3])[(akv_u64)token * p.q_heads + head] =
                    sum > 0.0f ? (top + log2f(sum)) * LN2 : akv_as_f32(0xFF800000u);
        }
}
/* Writes the rows of a warp's columns. */
template <int G, int MT>
AKV_FN void write_rows(const float *rows, const akv_attend_params &p, const akv_cu_args &a, const attend_work &w)
{
    akv_u32 lane = threadIdx.x & 31u, base = (threadIdx.x >> 5) * (16u * MT), group = p.q_heads / p.kv_heads;
#pragma unroll 2
    for (akv_u32 c = base; c < AKV_MIN(base + 16u * MT, w.columns); c++) {
        akv_u32 column = w.tile * COLUMNS + c;
        akv_u64 at = row_element(p.out, w.seq.first_token + column / group, w.head * group + column % group) + lane;
#pragma unroll
        for (akv_u32 g = 0u; g < G; g++)
            store_float(a.arg[2], at + g * 32u, p.out.dtype, rows[c * (32u * G) + g * 32u + lane]);
    }
}

template <int G, int MT, int TN>
AKV_FN void prefill(const akv_attend_params &p, const akv_cu_args &a, const akv_cu_plan &plan)
{
    typedef prefill_shape<G, MT, TN> shape;
    constexpr int TILE = shape::columns, dim = shape::dim;
    extern __shared__ __align__(128) unsigned char memory[];
    __shared__ float norm[TILE];
    __shared__ akv_i32 lo[TILE], hi[TILE];
    __shared__ kind_tiles kinds[AKV_KINDS];
    const akv_step_head *h = (const akv_step_head *)a.arg[0];
    akv_u32 group = p.q_heads / p.kv_heads, warp = threadIdx.x >> 5;
    attend_work w;
    w.z = blockIdx.z;
    w.head = blockIdx.x;
    w.split = 0u;
    w.splits = 1u;
    if (w.z >= h->sequences)
        return;
    w.seq = ((const akv_step_seq *)(a.arg[0] + h->seq_offset))[w.z];
    w.table = (const akv_u32 *)(a.arg[0] + h->table_offset) + w.seq.table_first;
    /* of all heads the columns with the most positions start first */
    akv_u32 all = w.seq.tokens * group, first = (gridDim.y - 1u - blockIdx.y) * TILE;
    if (all <= plan.most_columns || first >= all)
        return;
    w.tile = first / COLUMNS;
    w.columns = AKV_MIN((akv_u32)TILE, all - first);
    half *q = (half *)memory, *stage = q + TILE * dim;
    akv_u8 *packed = (akv_u8 *)(stage + shape::stage);
    if (threadIdx.x < AKV_KINDS) {
        akv_u32 kf = p.tiles.k_format[threadIdx.x], vf = p.tiles.v_format[threadIdx.x];
        akv_u32 kb = kf ? akv_tile_bytes(kf, 16u, dim) : 0u, vb = vf ? akv_tile_bytes(vf, 16u, dim) : 0u;
        kinds[threadIdx.x] = {p.tiles.k_offset[threadIdx.x] + w.head * kb, p.tiles.v_offset[threadIdx.x] + w.head * vb,
                              kb / 16u, vb / 16u};
    }
    float *rows = (float *)memory; /* over all of it, between the passes and at the end */

    /* Positions that some column sees, and what each row sees. */
    akv_i32 begin, end, all_lo, all_hi;
    column_range(p, w.seq, first, &begin, &all_hi);
    column_range(p, w.seq, first + w.columns - 1u, &all_lo, &end);
    begin = max(begin, (akv_i32)(w.seq.first_block * 16u));
    end = min(end + 1, (akv_i32)(w.seq.length + w.seq.tokens));
    for (akv_u32 c = threadIdx.x; c < (akv_u32)TILE; c += THREADS)
        column_range(p, w.seq, first + AKV_MIN(c, w.columns - 1u), &lo[c], &hi[c]);

    prefill_state<G, MT> x;
#pragma unroll
    for (int t = 0; t < MT; t++) {
        x.m[t][0] = x.m[t][1] = NO_SCORE;
        x.l[t][0] = x.l[t][1] = 0.0f;
    }
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int n = 0; n < 4 * G; n++)
            x.o[t][n][0] = x.o[t][n][1] = x.o[t][n][2] = x.o[t][n][3] = 0.0f;
    bool any_packed = false;
    float v_unit = 0.0f; /* sums are in these units; 0: nothing yet */

    for (akv_u32 pass = 0u; pass < 2u; pass++) {
        run_window runs;
        akv_u32 parity = 0u;
        akv_i32 next = begin / TN * TN; /* first tile not yet looked at */
        runs.base = -64;
        /* the next tile that has runs of this pass, `end` without; its runs start at lane `at` */
        auto seek = [&](akv_u32 &at, akv_u32 &held) {
            for (; next < end; next += TN) {
                if (next / 16 - runs.base >= 32)
                    runs.load(w, p, a, next / 16, begin, end);
                at = (akv_u32)(next / 16 - runs.base);
                held = (pass ? runs.raw : runs.packed) >> at & ((1u << shape::runs) - 1u);
                if (held)
                    return;
            }
        };
        akv_u32 at = 0u, held = 0u;
        auto fetch = [&]() { /* copies of tile `next` */
            half *k = stage + parity * shape::stage;
            if (pass)
                copy_raw<G, TN>(k, k + TN * dim, runs, at, p, w.head, (akv_u32)(end - next));
            else
                copy_packed<G, TN>(packed, runs, at, kinds);
            akv_copy_commit();
        };
        seek(at, held);
        if (next >= end)
            continue;
        __syncthreads(); /* stages and queries of the pass before are read out */
        if (pass && any_packed) { /* sums of packed values: back to the caller's domain */
            scale_sums(x, v_unit);
            if (p.v_flags & AKV_FLAG_ROTATE) {
                move_sums<G, MT, true>(x, rows);
                turn_rows<G, MT>(rows);
                move_sums<G, MT, false>(x, rows);
            }
            any_packed = false;
            __syncthreads();
        }
        if (pass)
            v_unit = 1.0f;
        fetch();
        load_queries<G, TILE>(q, norm, p, a, w, pass == 0u && (p.k_flags & AKV_FLAG_ROTATE));
        while (next < end) {
            half *k = stage + parity * shape::stage, *v = k + TN * dim;
            akv_i32 tile = next;
            akv_u32 here = held;
            float k_unit = 1.0f;
            akv_copy_wait<0>();
            __syncthreads();
            if (pass == 0u) {
                float2 units = tile_units<G, TN>(packed, runs, at, p);
                any_packed = true;
                k_unit = units.x;
                if (units.y > v_unit) {
                    scale_sums(x, v_unit / units.y);
                    v_unit = units.y;
                }
                decode_tile<G, TN>(k, v, packed, runs, at, p, 1.0f / k_unit, 1.0f / v_unit);
                __syncthreads();
            } else {
                parity ^= 1u;
            }
            next += TN;
            seek(at, held);
            if (next < end)
                fetch();
            akv_u32 least = warp * (16u * MT); /* columns of this warp */
            if (least < w.columns && tile <= hi[AKV_MIN(least + 16u * MT, w.columns) - 1u]) {
                bool careful = tile < all_lo || tile + TN - 1 > all_hi || tile < begin || tile + TN > end ||
                               here != (1u << shape::runs) - 1u;
                work<G, MT, TN>(x, q, k, v, norm, k_unit, p, lo, hi, tile, careful, here);
            }
        }
    }
    __syncthreads();
    finish_rows(x, v_unit > 0.0f ? v_unit : 1.0f, p, a, w);
    move_sums<G, MT, true>(x, rows);
    if (any_packed && (p.v_flags & AKV_FLAG_ROTATE)) /* no raw block followed */
        turn_rows<G, MT>(rows);
    write_rows<G, MT>(rows, p, a, w);
}

/* Columns of a thread block and positions of a stage are listed again in backends/cuda/k_attend.c. */
#define PREFILL(G, MT, TN)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                     \
        akv_k_prefill_##G(const __grid_constant__ akv_attend_params p, const __grid_constant__ akv_cu_args a,    \
                          const __grid_constant__ akv_cu_plan plan, akv_u32 *counters)                           \
    {                                                                                                            \
        (void)counters;                                                                                          \
        prefill<G, MT, TN>(p, a, plan);                                                                          \
    }
/* m16n8k16 and asynchronous copies exist from sm_80 on. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
PREFILL(2, 2, 64)
PREFILL(4, 2, 64)
PREFILL(8, 1, 32)
#endif
