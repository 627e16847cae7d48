/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on CUDA for every format, size and parameter: tiles are decoded to floats in shared memory.
 * The formats and sizes that matter for speed have kernels of their own (attend_decode.cu).  BOUNDED. */
#include "attend.cuh"
#include "../lib/kernel/map.h"
#include "../lib/kernel/rotate.h"
#include "../lib/kernel/quant.h"
#include "../lib/kernel/pack.h"
#include "../lib/kernel/ggml.h"

#define THREADS 128
#define ROWS    16 /* positions decoded at a time */

/* Rows [t, t + ROWS) of a tile as floats. */
AKV_FN void decode_rows(const akv_u8 *tile, akv_u32 format, akv_u32 order, akv_u32 tokens, akv_u32 dim,
                        akv_u32 t, float *x, akv_u32 pitch)
{
    if (akv_format_raw(format)) {
        for (akv_u32 e = threadIdx.x; e < ROWS * dim; e += THREADS) {
            akv_u32 row = e / dim, i = e - row * dim;
            x[row * pitch + i] = akv_as_f32(akv_load_bits(tile, (akv_u64)(t + row) * dim + i, format));
        }
        return;
    }
    for (akv_u32 e = threadIdx.x; e < ROWS * dim; e += THREADS) {
        akv_u32 row = e / dim, i = e - row * dim;
        x[row * pitch + i] = akv_tile_value(tile, format, order, tokens, dim, t + row, i);
    }
}

/* y = W x of COLUMNS rows (FORWARD), or x W, with the rows of an inverse; y is other memory. */
template <bool FORWARD> AKV_FN void multiply_shared(float *y, const float *x, const float *w, akv_u32 dim)
{
    for (akv_u32 e = threadIdx.x; e < COLUMNS * dim; e += THREADS) {
        akv_u32 c = e / dim, i = e - c * dim;
        float sum = 0.0f;
        for (akv_u32 k = 0u; k < dim; k++)
            sum += x[c * dim + k] * (FORWARD ? w[(akv_u64)i * dim + k] : w[(akv_u64)k * dim + i]);
        y[e] = sum;
    }
    __syncthreads();
}
/* Queries times their head's mean, pair by pair: [8][pairs][2], first with cosines, then with sines. */
AKV_FN void meet_mean(float *met, float *rest, const float *q, const akv_u8 *maps, const akv_map *map,
                      akv_u32 head, akv_u32 dim)
{
    akv_u32 mean = map->mean + head * dim * 2u, pairs = map->pairs, half = map->rope == AKV_ROPE_HALF;
    for (akv_u32 e = threadIdx.x; e < COLUMNS * pairs; e += THREADS) {
        akv_u32 c = e / pairs, i = e - c * pairs;
        akv_u32 first = half ? i : 2u * i, second = half ? i + pairs : 2u * i + 1u;
        float m0 = akv_map_f16(maps, mean, first), m1 = akv_map_f16(maps, mean, second);
        float q0 = q[c * dim + first], q1 = q[c * dim + second];
        met[2u * e] = q0 * m0 + q1 * m1;
        met[2u * e + 1u] = q1 * m0 - q0 * m1;
    }
    if (threadIdx.x < COLUMNS) {
        float sum = 0.0f;
        for (akv_u32 i = 2u * pairs; i < dim; i++)
            sum += q[threadIdx.x * dim + i] * akv_map_f16(maps, mean, i);
        rest[threadIdx.x] = sum;
    }
    __syncthreads();
}

/* Shared memory: q [8][k_dim], o [8][v_dim], o of the packed pass [8][v_dim], rows [16][pitch]; with maps the
 * queries' products with the mean, and the same turned to a run, [8][k_dim] each. */
extern "C" __global__ void __launch_bounds__(THREADS)
    akv_k_attend(const __grid_constant__ akv_attend_params p, const __grid_constant__ akv_cu_args a,
                 const __grid_constant__ akv_cu_plan plan, akv_u32 *counters)
{
    extern __shared__ float memory[];
    __shared__ float score[ROWS][COLUMNS], m[COLUMNS], l[COLUMNS], m_packed[COLUMNS], l_packed[COLUMNS],
        rescale[COLUMNS], rest[COLUMNS];
    attend_work w;
    if (!find_sequence(a, plan, w) || !find_part(p, plan, w))
        return;
    akv_u32 tokens = ((const akv_step_head *)a.arg[0])->block_tokens, group = p.q_heads / p.kv_heads;
    akv_u32 pitch = AKV_MAX(p.k_dim, p.v_dim) + 1u;
    float *q = memory, *o = q + COLUMNS * p.k_dim, *o_packed = o + COLUMNS * p.v_dim;
    float *rows = o_packed + COLUMNS * p.v_dim;
    float *met = rows + ROWS * pitch, *turned = met + COLUMNS * p.k_dim;
    const akv_u8 *maps = a.arg[7];
    const akv_map *k_map = p.k_flags & AKV_FLAG_MAP ? akv_map_at(maps, p.k_map) : 0;
    const akv_map *v_map = p.v_flags & AKV_FLAG_MAP ? akv_map_at(maps, p.v_map) : 0;
    for (int pass = 0; pass < 2; pass++) { /* packed rows first, then raw ones */
        for (akv_u32 e = threadIdx.x; e < COLUMNS * p.k_dim; e += THREADS) {
            akv_u32 c = e / p.k_dim, column = w.tile * COLUMNS + c;
            q[e] = c < w.columns ? load_row(a.arg[1], p.q,
                                            row_element(p.q, w.seq.first_token + column / group,
                                                        w.head * group + column % group) +
                                                (e - c * p.k_dim))
                                 : 0.0f;
        }
        for (akv_u32 e = threadIdx.x; e < COLUMNS * p.v_dim; e += THREADS)
            o[e] = 0.0f;
        if (threadIdx.x < COLUMNS) {
            m[threadIdx.x] = NO_SCORE;
            l[threadIdx.x] = 0.0f;
        }
        __syncthreads();
        if (pass == 0 && (p.k_flags & AKV_FLAG_ROTATE))
            rotate_shared(q, COLUMNS, p.k_dim, akv_rotate_block(p.k_dim), akv_rotate_read_factor(p.k_dim));
        bool mean = pass == 0 && k_map && k_map->mean;
        if (mean)
            meet_mean(met, rest, q, maps, k_map, w.head, p.k_dim);
        if (pass == 0 && k_map && akv_map_rotates(k_map))
            rotate_shared(q, COLUMNS, p.k_dim, akv_rotate_block(p.k_dim), akv_rotate_read_factor(p.k_dim));
        if (pass == 0 && k_map && k_map->transform == AKV_TRANSFORM_MATRIX) {
            multiply_shared<true>(turned, q, (const float *)(maps + akv_map_inverse_row(k_map, w.head, p.k_dim, 0u)),
                                  p.k_dim);
            for (akv_u32 e = threadIdx.x; e < COLUMNS * p.k_dim; e += THREADS)
                q[e] = turned[e];
            __syncthreads();
        }
        if (pass == 0 && k_map && k_map->scales) {
            for (akv_u32 e = threadIdx.x; e < COLUMNS * p.k_dim; e += THREADS)
                q[e] *= akv_map_scale(maps, k_map, w.head, 1u);
            __syncthreads();
        }
        for (akv_u32 at = w.first / ROWS * ROWS; at < w.last; at += ROWS) {
            akv_u32 entry = w.table[at / tokens - w.seq.first_block], kind = entry >> 28;
            if (entry == AKV_NO_BLOCK)
                continue;
            akv_u32 kf = p.tiles.k_format[kind], vf = p.tiles.v_format[kind];
            /* a kind with one raw and one packed side is read in both passes: side by side below */
            bool k_raw = akv_format_raw(kf), v_raw = akv_format_raw(vf);
            if ((kind == 0u) != (pass == 1))
                continue;
            const akv_u8 *block = akv_cu_at(a, akv_block_address(&p.pool, entry));
            decode_rows(block + p.tiles.k_offset[kind] + w.head * akv_tile_bytes(kf, tokens, p.k_dim), kf,
                        AKV_ORDER_ROW, tokens, p.k_dim, at % tokens, rows, pitch);
            for (akv_u32 e = threadIdx.x; mean && e < COLUMNS * k_map->pairs; e += THREADS) {
                akv_turn turn = akv_rope_at(akv_map_turns(maps, k_map, e % k_map->pairs), at);
                turned[2u * e] = met[2u * e] * turn.c + met[2u * e + 1u] * turn.s;
                turned[2u * e + 1u] = met[2u * e + 1u] * turn.c - met[2u * e] * turn.s;
            }
            __syncthreads();
            if (kind != 0u && k_raw && (p.k_flags & AKV_FLAG_ROTATE)) /* to the rotated domain */
                for (akv_u32 r = 0u; r < ROWS; r++)
                    rotate_shared(rows + r * pitch, 1u, p.k_dim, akv_rotate_block(p.k_dim),
                                  akv_rotate_store_factor(p.k_dim));
            {
                akv_u32 r = threadIdx.x / COLUMNS, c = threadIdx.x % COLUMNS;
                akv_i32 lo, hi, position = (akv_i32)(at + r);
                bool live = c < w.columns && column_range(p, w.seq, w.tile * COLUMNS + c, &lo, &hi);
                float part[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
                for (akv_u32 i = 0u; i < p.k_dim; i += 8u) /* head sizes are multiples of 16 */
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        part[j] += q[c * p.k_dim + i + j] * rows[r * pitch + i + j];
                float dot = ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
                if (mean) {
                    const float *angles = (const float *)(maps + k_map->table), *x = turned + c * k_map->pairs * 2u;
                    float sum = rest[c];
                    for (akv_u32 i = 0u; i < k_map->pairs; i++)
                        sum += x[2u * i] * angles[i * 32u + r] + x[2u * i + 1u] * angles[i * 32u + 16u + r];
                    dot += sum;
                }
                score[r][c] = live && position >= lo && position <= hi
                                  ? finish_score(p, dot) +
                                        mask_bias(p, a, w.seq, w.tile * COLUMNS + c, (akv_u32)position)
                                  : akv_as_f32(0xFF800000u);
            }
            __syncthreads();
            if (threadIdx.x < COLUMNS) {
                akv_u32 c = threadIdx.x;
                float top = m[c], sum = 0.0f;
                for (int r = 0; r < ROWS; r++)
                    top = fmaxf(top, score[r][c]);
                for (int r = 0; r < ROWS; r++) {
                    score[r][c] = exp2f(score[r][c] - top);
                    sum += score[r][c];
                }
                rescale[c] = exp2f(m[c] - top);
                l[c] = l[c] * rescale[c] + sum;
                m[c] = top;
            }
            decode_rows(block + p.tiles.v_offset[kind] + w.head * akv_tile_bytes(vf, tokens, p.v_dim), vf,
                        AKV_ORDER_QUAD, tokens, p.v_dim, at % tokens, rows, pitch);
            __syncthreads();
            if (kind != 0u && v_raw && (p.v_flags & AKV_FLAG_ROTATE))
                for (akv_u32 r = 0u; r < ROWS; r++)
                    rotate_shared(rows + r * pitch, 1u, p.v_dim, akv_rotate_block(p.v_dim),
                                  akv_rotate_store_factor(p.v_dim));
            for (akv_u32 e = threadIdx.x; e < w.columns * p.v_dim; e += THREADS) {
                akv_u32 c = e / p.v_dim, d = e - c * p.v_dim;
                float sum = o[e] * rescale[c];
                for (int r = 0; r < ROWS; r++) /* a hidden row may hold anything, NaN included */
                    sum += score[r][c] != 0.0f ? score[r][c] * rows[r * pitch + d] : 0.0f;
                o[e] = sum;
            }
            __syncthreads();
        }
        if (pass == 0) {
            if (p.v_flags & AKV_FLAG_ROTATE)
                rotate_shared(o, COLUMNS, p.v_dim, akv_rotate_block(p.v_dim), akv_rotate_read_factor(p.v_dim));
            if (v_map && akv_map_rotates(v_map))
                rotate_shared(o, COLUMNS, p.v_dim, akv_rotate_block(p.v_dim), akv_rotate_read_factor(p.v_dim));
            if (v_map && v_map->transform == AKV_TRANSFORM_MATRIX) {
                multiply_shared<false>(o_packed, o,
                                       (const float *)(maps + akv_map_inverse_row(v_map, w.head, p.v_dim, 0u)),
                                       p.v_dim);
                for (akv_u32 e = threadIdx.x; e < COLUMNS * p.v_dim; e += THREADS)
                    o[e] = o_packed[e];
                __syncthreads();
            }
            float v_scale = v_map ? akv_map_scale(maps, v_map, w.head, 1u) : 1.0f;
            for (akv_u32 e = threadIdx.x; e < COLUMNS * p.v_dim; e += THREADS)
                o_packed[e] = o[e] * v_scale;
            if (threadIdx.x < COLUMNS) {
                m_packed[threadIdx.x] = m[threadIdx.x];
                l_packed[threadIdx.x] = l[threadIdx.x];
            }
            __syncthreads();
        }
    }
    for (akv_u32 e = threadIdx.x; e < w.columns * p.v_dim; e += THREADS) {
        akv_u32 c = e / p.v_dim;
        float top = fmaxf(m[c], m_packed[c]);
        o[e] = o[e] * exp2f(m[c] - top) + o_packed[e] * exp2f(m_packed[c] - top);
    }
    __syncthreads();
    if (threadIdx.x < COLUMNS) {
        akv_u32 c = threadIdx.x;
        float top = fmaxf(m[c], m_packed[c]);
        l[c] = l[c] * exp2f(m[c] - top) + l_packed[c] * exp2f(m_packed[c] - top);
        m[c] = top;
    }
    __syncthreads();
    finish_split(p, a, plan, w, o, m, l, counters);
}
