/* SPDX-License-Identifier: Apache-2.0 */
/* Prefill attention on the matrix units for blocks of 16 positions: a thread block takes 64 query columns of a
 * kv head and walks over its positions TN at a time; tiles are decoded to halves in shared memory once for all
 * columns.  Packed blocks come first, with queries in their domain; then the sums are turned back and raw
 * blocks follow.  Sequences with few columns are left to the kernel that can split them.  BOUNDED.
 *
 * Halves do not overflow: queries and keys are divided by a power of two a row, which the score gets back;
 * values by a power of two that grows with the tiles and moves the sums along. */
#include "attend.cuh"
#include "mma.cuh"
#include "../lib/kernel/rotate.h"
#include "../lib/kernel/quant.h"
#include "../lib/kernel/pack.h"

#define THREADS   128
#define TILE      64 /* query columns */
#define BOOK_SIZE 64

/* Codebooks as floats, one after the other: N5, N4, N3, N2. */
AKV_FN akv_u32 book_start(akv_u32 format)
{
    return 64u - (64u >> (format - AKV_N5));
}
template <int F> AKV_FN float code_float(akv_u32 code, const float *book)
{
    if (F == AKV_I8)
        return (float)((akv_i32)(code ^ 0x80u) - 128);
    if (F == AKV_N6)
        return (float)((akv_i32)code - 32);
    return book[book_start(F) + code];
}
/* The power of two above x, 1 for what has none. */
AKV_FN float power_above(float x)
{
    return x > 1e-30f && x < 1e30f ? akv_as_f32((akv_as_u32(x) & 0x7F800000u) + (1u << 23)) : 1.0f;
}
AKV_FN uint4 pack_8(const float *x)
{
    return make_uint4(akv_pack_half2(x[0], x[1]), akv_pack_half2(x[2], x[3]), akv_pack_half2(x[4], x[5]),
                      akv_pack_half2(x[6], x[7]));
}

/* Where the runs of a tile stand. */
struct tile_runs {
    const akv_u8 *block[4];
    akv_u32 kind[4], held[4];
};

/* Largest unit of row t of a tile. */
AKV_FN float largest_unit(const akv_u8 *tile, akv_u32 format, akv_u32 order, akv_u32 dim, akv_u32 t)
{
    float top = 0.0f;
    for (akv_u32 s = 0u; s < akv_scale_count(format, dim); s++)
        top = fmaxf(top, akv_code_unit(format, akv_scale_get(tile, format, order, 16u, dim, t, s)));
    return top;
}
/* One group of 32 elements of key t, divided by a power of two, to halves. */
template <int F, int G> AKV_FN void key_group(half *to, const akv_u8 *tile, akv_u32 t, akv_u32 g, float inverse,
                                              const float *book)
{
    constexpr akv_u32 dim = 32 * G;
    const akv_u32 b1 = akv_format_plane1(F);
    float unit = akv_code_unit(F, akv_scale_get(tile, F, AKV_ORDER_ROW, 16u, dim, t, g * 32u / akv_scale_width(F))) *
                 inverse;
    if (F == AKV_I8) {
        const uint2 *from = (const uint2 *)(tile + t * dim + g * 32u);
#pragma unroll
        for (akv_u32 j = 0u; j < 4u; j++) {
            uint2 w = from[j];
            float x[8];
#pragma unroll
            for (akv_u32 i = 0u; i < 4u; i++) {
                x[i] = code_float<F>(w.x >> (i * 8u) & 255u, book) * unit;
                x[i + 4u] = code_float<F>(w.y >> (i * 8u) & 255u, book) * unit;
            }
            *(uint4 *)(to + j * 8u) = pack_8(x);
        }
        return;
    }
    const akv_u8 *high_plane = tile + akv_plane1_offset(F, 16u, dim);
#pragma unroll
    for (akv_u32 j = 0u; j < 4u; j++) {
        akv_u32 low = akv_format_plane0(F) == 4u
                          ? akv_load_u32(tile + 4u * (t * G * 4u + j * G + g))
                          : akv_load_u32(tile + 4u * (t * G * 2u + j / 2u * G + g)) >> (j % 2u * 16u);
        akv_u32 high = b1 == 0u   ? 0u
                       : b1 == 1u ? akv_load_u32(high_plane + 4u * (t * G + g)) >> (j * 8u)
                                  : akv_load_u32(high_plane + 4u * (t * G * 2u + j / 2u * G + g)) >> (j % 2u * 16u);
        float x[8];
#pragma unroll
        for (akv_u32 i = 0u; i < 8u; i++) {
            akv_u32 code = low >> (i * akv_format_plane0(F)) & ((1u << akv_format_plane0(F)) - 1u);
            if (b1)
                code |= (high >> (i * b1) & ((1u << b1) - 1u)) << akv_format_plane0(F);
            x[i] = code_float<F>(code, book) * unit;
        }
        *(uint4 *)(to + j * 8u) = pack_8(x);
    }
}
/* Unit u (8 dimensions) of quad q of values, to halves in four rows. */
template <int F, int G> AKV_FN void value_unit(half *to, akv_u32 pitch, const akv_u8 *tile, akv_u32 q, akv_u32 u,
                                               float inverse, const float *book)
{
    constexpr akv_u32 dim = 32 * G;
    const akv_u32 b0 = akv_format_plane0(F), b1 = akv_format_plane1(F);
    akv_u32 low[8], high[2];
#pragma unroll
    for (akv_u32 i = 0u; i < b0; i++)
        low[i] = akv_load_u32(tile + 4u * (akv_quad_word(b0, 16u, q, u) + i));
#pragma unroll
    for (akv_u32 i = 0u; i < b1; i++)
        high[i] = akv_load_u32(tile + akv_plane1_offset(F, 16u, dim) + 4u * (akv_quad_word(b1, 16u, q, u) + i));
#pragma unroll
    for (akv_u32 n = 0u; n < 4u; n++) {
        float unit = akv_code_unit(F, akv_scale_get(tile, F, AKV_ORDER_QUAD, 16u, dim, q * 4u + n,
                                                    u * 8u / akv_scale_width(F))) *
                     inverse;
        float x[8];
#pragma unroll
        for (akv_u32 i = 0u; i < 8u; i++) {
            const akv_u32 e = i * 4u + n;
            akv_u32 code = low[e * b0 / 32u] >> (e * b0 % 32u) & ((1u << b0) - 1u);
            if (b1)
                code |= (high[e * b1 / 32u] >> (e * b1 % 32u) & ((1u << b1) - 1u)) << b0;
            x[i] = code_float<F>(code, book) * unit;
        }
        *(uint4 *)(to + n * pitch) = pack_8(x);
    }
}
template <int F, int G, int TN>
AKV_FN void keys_of(half *k, const tile_runs &runs, const akv_attend_params &p, akv_u32 head, akv_u32 format,
                    const float *k_unit, const float *book)
{
    constexpr akv_u32 dim = 32 * G, pitch = dim + 8;
    for (akv_u32 e = threadIdx.x; e < TN * G; e += THREADS) {
        akv_u32 row = e / G, g = e % G, run = row / 16u;
        if (runs.held[run] && p.tiles.k_format[runs.kind[run]] == format)
            key_group<F, G>(k + row * pitch + g * 32u,
                            runs.block[run] + p.tiles.k_offset[runs.kind[run]] + head * akv_tile_bytes(F, 16u, dim),
                            row % 16u, g, 1.0f / k_unit[row], book);
    }
}
template <int F, int G, int TN>
AKV_FN void values_of(half *v, const tile_runs &runs, const akv_attend_params &p, akv_u32 head, akv_u32 format,
                      float inverse, const float *book)
{
    constexpr akv_u32 dim = 32 * G, pitch = dim + 8;
    for (akv_u32 e = threadIdx.x; e < TN * G; e += THREADS) { /* TN / 4 quads of 4 G units */
        akv_u32 run = e / (16u * G), q = e / (4u * G) % 4u, u = e % (4u * G);
        if (runs.held[run] && p.tiles.v_format[runs.kind[run]] == format)
            value_unit<F, G>(v + (run * 16u + q * 4u) * pitch + u * 8u, pitch,
                             runs.block[run] + p.tiles.v_offset[runs.kind[run]] +
                                 head * akv_tile_bytes(F, 16u, dim),
                             q, u, inverse, book);
    }
}
#define EACH_FORMAT(X) X(AKV_I8) X(AKV_N6) X(AKV_N5) X(AKV_N4) X(AKV_N3) X(AKV_N2)

/* Scaled queries of a pass to halves, each row divided by norm. */
template <int G>
AKV_FN void load_queries(half *q, float *x, float *norm, const akv_attend_params &p, const akv_cu_args &a,
                         const attend_work &w, bool rotate)
{
    constexpr akv_u32 dim = 32 * G, pitch = dim + 8;
    akv_u32 group = p.q_heads / p.kv_heads, lane = threadIdx.x & 31u;
    for (akv_u32 e = threadIdx.x; e < TILE * dim; e += THREADS) {
        akv_u32 c = e / dim, column = w.tile * COLUMNS + c;
        x[e] = c < w.columns ? load_row(a.arg[1], p.q,
                                        row_element(p.q, w.seq.first_token + column / group,
                                                    w.head * group + column % group) +
                                            e % dim)
                             : 0.0f;
    }
    __syncthreads();
    if (rotate)
        rotate_shared(x, TILE, dim, dim, akv_rotate_read_factor(dim));
    /* x lies over q: every row goes through registers */
    float mine[TILE / 4][G];
#pragma unroll
    for (akv_u32 i = 0u; i < TILE / 4u; i++) {
        akv_u32 row = (threadIdx.x >> 5) * (TILE / 4u) + i;
        float top = 0.0f;
#pragma unroll
        for (akv_u32 g = 0u; g < G; g++) {
            mine[i][g] = x[row * dim + g * 32u + lane];
            top = fmaxf(top, fabsf(mine[i][g]));
        }
        for (int s = 16; s > 0; s /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, s));
        if (lane == 0u)
            norm[row] = power_above(top);
    }
    __syncthreads();
#pragma unroll
    for (akv_u32 i = 0u; i < TILE / 4u; i++) {
        akv_u32 row = (threadIdx.x >> 5) * (TILE / 4u) + i;
        float inverse = 1.0f / norm[row];
#pragma unroll
        for (akv_u32 g = 0u; g < G; g++)
            q[row * pitch + g * 32u + lane] = __float2half_rn(mine[i][g] * inverse);
    }
    __syncthreads();
}

template <int G, int TN>
AKV_FN void prefill(const akv_attend_params &p, const akv_cu_args &a, const akv_cu_plan &plan)
{
    constexpr akv_u32 dim = 32 * G, pitch = dim + 8;
    extern __shared__ __align__(128) unsigned char memory[];
    __shared__ float norm[TILE], k_unit[TILE], v_tops[TN / 16], book[BOOK_SIZE]; /* below 1 KiB with `runs` */
    __shared__ tile_runs runs;
    const akv_step_head *h = (const akv_step_head *)a.arg[0];
    akv_u32 group = p.q_heads / p.kv_heads, lane = threadIdx.x & 31u, warp = threadIdx.x >> 5;
    attend_work w;
    w.z = blockIdx.z;
    w.head = blockIdx.y;
    w.split = 0u;
    w.splits = 1u;
    if (w.z >= h->sequences)
        return;
    w.seq = ((const akv_step_seq *)(a.arg[0] + h->seq_offset))[w.z];
    w.table = (const akv_u32 *)(a.arg[0] + h->table_offset) + w.seq.table_first;
    akv_u32 all = w.seq.tokens * group, first = blockIdx.x * TILE;
    if (all <= plan.most_columns || first >= all)
        return;
    w.tile = first / COLUMNS;
    w.columns = AKV_MIN((akv_u32)TILE, all - first);
    half *q = (half *)memory, *k = q + TILE * pitch, *v = k + TN * pitch;
    float *o_rows = (float *)memory; /* over all of it, between the passes and at the end */

    /* Positions that some column sees, and what this lane's rows see. */
    akv_i32 lo[2], hi[2], begin, end, all_lo, all_hi;
    column_range(p, w.seq, first, &begin, &all_hi);
    column_range(p, w.seq, first + w.columns - 1u, &all_lo, &end);
    begin = max(begin, (akv_i32)(w.seq.first_block * 16u));
    end = min(end + 1, (akv_i32)(w.seq.length + w.seq.tokens));
#pragma unroll
    for (int j = 0; j < 2; j++)
        column_range(p, w.seq, first + AKV_MIN(warp * 16u + lane / 4u + 8u * j, w.columns - 1u), &lo[j], &hi[j]);
    if (threadIdx.x < 60u) {
        akv_u32 i = threadIdx.x, format = i < 32u ? AKV_N5 : i < 48u ? AKV_N4 : i < 56u ? AKV_N3 : AKV_N2;
        book[i] = (float)akv_codebook_entry(format, i - book_start(format));
    }

    float o[4 * G][4], m[2] = {NO_SCORE, NO_SCORE}, l[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < 4 * G; n++)
        o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.0f;
    bool any_packed = false;
    float v_unit = 0.0f; /* sums are in these units; 0: nothing yet */

    for (int pass = 0; pass < 2; pass++) {
        bool ready = false; /* queries of this pass are there */
        for (akv_i32 tile = begin / TN * TN; tile < end; tile += TN) {
            bool held = false;
            __syncthreads(); /* the last tile is read out */
            if (threadIdx.x < TN / 16) {
                akv_i32 at = tile + 16 * (akv_i32)threadIdx.x;
                akv_u32 entry = AKV_NO_BLOCK, kind = 0u;
                if (at + 15 >= begin && at < end)
                    entry = w.table[(akv_u32)at / 16u - w.seq.first_block];
                if (entry != AKV_NO_BLOCK) {
                    kind = entry >> 28;
                    held = akv_format_raw(p.tiles.k_format[kind]) == (akv_u32)pass;
                }
                runs.kind[threadIdx.x] = kind;
                runs.held[threadIdx.x] = held;
                runs.block[threadIdx.x] = held ? akv_cu_at(a, akv_block_address(&p.pool, entry)) : nullptr;
            }
            if (!__syncthreads_or((int)held))
                continue;
            if (!ready) {
                if (pass == 1 && any_packed) { /* sums of packed values: back to the caller's domain */
#pragma unroll
                    for (int n = 0; n < 4 * G; n++)
#pragma unroll
                        for (int j = 0; j < 4; j++)
                            o_rows[(warp * 16u + lane / 4u + 8u * (j / 2)) * dim + n * 8u + lane % 4u * 2u + j % 2] =
                                o[n][j] * v_unit;
                    __syncthreads();
                    if (p.v_flags & AKV_FLAG_ROTATE)
                        rotate_shared(o_rows, TILE, dim, dim, akv_rotate_read_factor(dim));
#pragma unroll
                    for (int n = 0; n < 4 * G; n++)
#pragma unroll
                        for (int j = 0; j < 4; j++)
                            o[n][j] =
                                o_rows[(warp * 16u + lane / 4u + 8u * (j / 2)) * dim + n * 8u + lane % 4u * 2u + j % 2];
                    any_packed = false;
                    __syncthreads();
                }
                if (pass == 1)
                    v_unit = 1.0f;
                load_queries<G>(q, o_rows, norm, p, a, w, pass == 0 && (p.k_flags & AKV_FLAG_ROTATE));
                ready = true;
            }
            if (pass == 1) {
                akv_u32 left = (akv_u32)(min(end, (akv_i32)(w.seq.length + w.seq.tokens)) - tile);
                for (akv_u32 e = threadIdx.x; e < TN * 4u * G; e += THREADS) {
                    akv_u32 row = e / (4u * G), piece = e % (4u * G), run = row / 16u;
                    if (runs.held[run] && row < left) {
                        const akv_u8 *block = runs.block[run];
                        akv_u32 kind = runs.kind[run], at = (w.head * 16u + row % 16u) * dim * 2u + piece * 16u;
                        akv_copy16(akv_shared(k + row * pitch + piece * 8u), block + p.tiles.k_offset[kind] + at);
                        akv_copy16(akv_shared(v + row * pitch + piece * 8u), block + p.tiles.v_offset[kind] + at);
                    } else { /* never written: 0 * NaN must not reach the sum */
                        *(uint4 *)(v + row * pitch + piece * 8u) = make_uint4(0u, 0u, 0u, 0u);
                    }
                }
                if (threadIdx.x < TN)
                    k_unit[threadIdx.x] = 1.0f;
                akv_copy_commit();
                akv_copy_wait<0>();
            } else {
                any_packed = true;
                float top = 0.0f;
                if (threadIdx.x < TN) {
                    akv_u32 run = threadIdx.x / 16u, t = threadIdx.x % 16u, kind = runs.kind[run];
                    k_unit[threadIdx.x] = 1.0f;
                    if (runs.held[run]) {
                        akv_u32 kf = p.tiles.k_format[kind], vf = p.tiles.v_format[kind];
                        k_unit[threadIdx.x] = power_above(largest_unit(
                            runs.block[run] + p.tiles.k_offset[kind] + w.head * akv_tile_bytes(kf, 16u, dim), kf,
                            AKV_ORDER_ROW, dim, t));
                        top = largest_unit(runs.block[run] + p.tiles.v_offset[kind] +
                                               w.head * akv_tile_bytes(vf, 16u, dim),
                                           vf, AKV_ORDER_QUAD, dim, t);
                    }
                    for (int s = 8; s > 0; s /= 2)
                        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, s));
                    if (t == 0u)
                        v_tops[run] = top;
                }
                __syncthreads();
                top = 0.0f;
                for (int i = 0; i < TN / 16; i++)
                    top = fmaxf(top, v_tops[i]);
                top = power_above(top);
                if (top > v_unit) {
                    float factor = v_unit / top;
                    v_unit = top;
#pragma unroll
                    for (int n = 0; n < 4 * G; n++)
                        o[n][0] *= factor, o[n][1] *= factor, o[n][2] *= factor, o[n][3] *= factor;
                }
                for (int i = 0; i < TN / 16; i++) { /* formats of the tile's kinds, each once */
                    bool k_new = runs.held[i], v_new = runs.held[i];
                    akv_u32 kf = p.tiles.k_format[runs.kind[i]], vf = p.tiles.v_format[runs.kind[i]];
                    for (int j = 0; j < i; j++) {
                        k_new = k_new && !(runs.held[j] && p.tiles.k_format[runs.kind[j]] == kf);
                        v_new = v_new && !(runs.held[j] && p.tiles.v_format[runs.kind[j]] == vf);
                    }
#define KEYS(F)                                                                                                  \
    if (k_new && kf == F)                                                                                        \
        keys_of<F, G, TN>(k, runs, p, w.head, F, k_unit, book);
#define VALUES(F)                                                                                                \
    if (v_new && vf == F)                                                                                        \
        values_of<F, G, TN>(v, runs, p, w.head, F, 1.0f / v_unit, book);
                    EACH_FORMAT(KEYS)
                    EACH_FORMAT(VALUES)
                }
                for (akv_u32 e = threadIdx.x; e < TN * 4u * G; e += THREADS)
                    if (!runs.held[e / (64u * G)])
                        *(uint4 *)(v + e / (4u * G) * pitch + e % (4u * G) * 8u) = make_uint4(0u, 0u, 0u, 0u);
            }
            __syncthreads();

            /* Scores of 16 rows and TN positions. */
            float s[TN / 8][4];
#pragma unroll
            for (int n = 0; n < TN / 8; n++)
                s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
            for (int i = 0; i < 2 * G; i++) {
                unsigned x[4], y[4];
                akv_ldmatrix4(x, akv_shared(q + (warp * 16u + (lane & 15u)) * pitch + i * 16 + (lane >> 4) * 8u));
#pragma unroll
                for (int n = 0; n < TN / 16; n++) {
                    akv_ldmatrix4(y, akv_shared(k + (n * 16 + (lane & 7u) + (lane >> 4) * 8u) * pitch + i * 16 +
                                                (lane >> 3 & 1u) * 8u));
                    akv_mma(s[2 * n], x[0], x[1], x[2], x[3], y[0], y[1]);
                    akv_mma(s[2 * n + 1], x[0], x[1], x[2], x[3], y[2], y[3]);
                }
            }
            float norms[2] = {norm[warp * 16u + lane / 4u], norm[warp * 16u + lane / 4u + 8u]}, top[2] = {m[0], m[1]};
            bool careful = tile < all_lo || tile + TN - 1 > all_hi || tile < begin || tile + TN > end;
#pragma unroll
            for (int n = 0; n < TN / 8; n++) {
                bool here = runs.held[n / 2];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    akv_i32 position = tile + n * 8 + (akv_i32)(lane % 4u * 2u) + j % 2;
                    float x = finish_score(p, s[n][j] * norms[j / 2] * k_unit[n * 8u + lane % 4u * 2u + j % 2]);
                    if (!here || (careful && (position < lo[j / 2] || position > hi[j / 2])))
                        x = akv_as_f32(0xFF800000u);
                    s[n][j] = x;
                    top[j / 2] = fmaxf(top[j / 2], x);
                }
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                top[j] = fmaxf(top[j], __shfl_xor_sync(0xFFFFFFFFu, top[j], 1));
                top[j] = fmaxf(top[j], __shfl_xor_sync(0xFFFFFFFFu, top[j], 2));
                float factor = akv_exp2(m[j] - top[j]);
                m[j] = top[j];
                l[j] *= factor;
#pragma unroll
                for (int n = 0; n < 4 * G; n++)
                    o[n][2 * j] *= factor, o[n][2 * j + 1] *= factor;
            }
#pragma unroll
            for (int n = 0; n < TN / 8; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    s[n][j] = akv_exp2(s[n][j] - m[j / 2]);
                    l[j / 2] += s[n][j];
                }
            /* Values. */
#pragma unroll
            for (int i = 0; i < TN / 16; i++) {
                unsigned x0 = akv_pack_half2(s[2 * i][0], s[2 * i][1]), x1 = akv_pack_half2(s[2 * i][2], s[2 * i][3]);
                unsigned x2 = akv_pack_half2(s[2 * i + 1][0], s[2 * i + 1][1]);
                unsigned x3 = akv_pack_half2(s[2 * i + 1][2], s[2 * i + 1][3]), y[4];
#pragma unroll
                for (int n = 0; n < 2 * G; n++) {
                    akv_ldmatrix4_trans(
                        y, akv_shared(v + (i * 16 + (lane & 15u)) * pitch + n * 16 + (lane >> 4) * 8u));
                    akv_mma(o[2 * n], x0, x1, x2, x3, y[0], y[1]);
                    akv_mma(o[2 * n + 1], x0, x1, x2, x3, y[2], y[3]);
                }
            }
        }
        if (pass == 0)
            __syncthreads();
    }
    __syncthreads();
    float *m_all = norm, *l_all = k_unit; /* of all columns */
#pragma unroll
    for (int n = 0; n < 4 * G; n++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            o_rows[(warp * 16u + lane / 4u + 8u * (j / 2)) * dim + n * 8u + lane % 4u * 2u + j % 2] =
                o[n][j] * (v_unit > 0.0f ? v_unit : 1.0f);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        l[j] += __shfl_xor_sync(0xFFFFFFFFu, l[j], 1);
        l[j] += __shfl_xor_sync(0xFFFFFFFFu, l[j], 2);
        if (lane % 4u == 0u) {
            m_all[warp * 16u + lane / 4u + 8u * j] = m[j];
            l_all[warp * 16u + lane / 4u + 8u * j] = l[j];
        }
    }
    __syncthreads();
    if (any_packed && (p.v_flags & AKV_FLAG_ROTATE)) /* no raw block followed */
        rotate_shared(o_rows, TILE, dim, dim, akv_rotate_read_factor(dim));
    write_out(p, a, w, o_rows, m_all, l_all);
}

#define PREFILL(G, TN)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                        \
        akv_k_prefill_##G(const __grid_constant__ akv_attend_params p, const __grid_constant__ akv_cu_args a,    \
                          const __grid_constant__ akv_cu_plan plan, akv_u32 *counters)                           \
    {                                                                                                            \
        (void)counters;                                                                                          \
        prefill<G, TN>(p, a, plan);                                                                              \
    }
/* m16n8k16 and asynchronous copies exist from sm_80 on. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
PREFILL(2, 64)
PREFILL(4, 64)
PREFILL(8, 32)
#endif
