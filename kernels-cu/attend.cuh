/* SPDX-License-Identifier: Apache-2.0 */
/* What the attention kernels of every format share: the plan of a launch, which positions a column sees,
 * merging of partial results, and the finish of an output row.
 *
 * Columns: a kv head's queries are numbered token * group + q head within the group; a thread block
 * takes 8 of them (a column tile).  A sequence is cut into splits by its own length and the plan alone, so
 * that its result does not depend on its neighbours; a split's partial result is (m, l, O[8][v_dim]) with
 * scores in powers of two, O not rotated; partials are merged by the thread block that finishes last, in an
 * order that their number alone gives. */
#ifndef AKV_ATTEND_CUH
#define AKV_ATTEND_CUH
#include "common.cuh"
#include "../lib/kernel/fp.h"

#define COLUMNS  8
#define SPLIT_TILES 2u /* a sequence with more column tiles in a step is not split */
#define NO_SCORE (-1e30f) /* running maximum before any score: finite, so that differences are numbers */
#define LOG2E    1.4426950408889634f
#define LN2      0.6931471805599453f

/* Made by the host for a launch (backends/cuda/k_attend.c holds the same struct). */
struct akv_cu_plan {
    akv_u32 splits;       /* of a sequence at most; blockIdx.x = column tile * splits + split */
    akv_u32 spread;       /* splits wanted for any length, to fill the card */
    akv_u32 longest;      /* positions in a split at most */
    akv_u32 part_offset;  /* bytes into the scratch: partial sums behind maxima and row sums */
    akv_u32 most_columns; /* sequences with more are left to attend_prefill.cu; 0: all are taken */
};

/* The part of a sequence that a thread block works on. */
struct attend_work {
    akv_step_seq seq;
    const akv_u32 *table;
    akv_u32 block_tokens, z, head, tile, split, splits;
    akv_u32 columns;     /* live columns of this tile, 1 … 8 */
    akv_u32 first, last; /* positions [first, last) of this split that a live column may see */
};

AKV_FN akv_u32 round_up(akv_u32 x, akv_u32 to)
{
    return (x + to - 1u) / to * to;
}

/* Positions in one split of a sequence of `length` positions with `columns` queries a kv head: a
 * multiple of 256. */
AKV_FN akv_u32 split_positions(const akv_cu_plan &plan, akv_u32 length, akv_u32 columns)
{
    if (columns > SPLIT_TILES * COLUMNS) /* many queries fill the card by themselves */
        return round_up(length, 256u);
    akv_u32 even = round_up((length + plan.spread - 1u) / plan.spread, 256u);
    return AKV_MIN(even, plan.longest);
}

/* Position, and visible range [lo, hi] of a column; false if the column is dead. */
AKV_FN bool column_range(const akv_attend_params &p, const akv_step_seq &s, akv_u32 column, akv_i32 *lo,
                         akv_i32 *hi)
{
    akv_u32 group = p.q_heads / p.kv_heads, token = column / group;
    akv_i32 position = (akv_i32)(s.length + token);
    bool all_new = (p.flags & (AKV_ATTEND_BIDIRECTIONAL | AKV_ATTEND_MASK)) != 0u;
    *hi = all_new ? (akv_i32)(s.length + s.tokens) - 1 : position;
    *lo = p.window ? position - (akv_i32)p.window + 1 : 0;
    return token < s.tokens;
}

/* The thread block's sequence; what is loaded may be waited for later. */
AKV_FN bool find_sequence(const akv_cu_args &a, const akv_cu_plan &plan, attend_work &w)
{
    const akv_step_head *h = (const akv_step_head *)a.arg[0];
    w.z = blockIdx.z;
    w.head = blockIdx.y;
    w.tile = blockIdx.x / plan.splits;
    w.split = blockIdx.x % plan.splits;
    if (w.z >= h->sequences)
        return false;
    w.block_tokens = h->block_tokens;
    w.table = (const akv_u32 *)(a.arg[0] + h->table_offset);
    w.seq = ((const akv_step_seq *)(a.arg[0] + h->seq_offset))[w.z];
    return true;
}
/* Its part of that. */
AKV_FN bool find_part(const akv_attend_params &p, const akv_cu_plan &plan, attend_work &w)
{
    akv_i32 lo, hi, ignored;
    w.table += w.seq.table_first;
    akv_u32 group = p.q_heads / p.kv_heads, all = w.seq.tokens * group, first = w.tile * COLUMNS;
    if (first >= all || (plan.most_columns && all > plan.most_columns))
        return false;
    w.columns = AKV_MIN((akv_u32)COLUMNS, all - first);
    akv_u32 length = w.seq.length + w.seq.tokens, step = split_positions(plan, length, all);
    w.splits = (length + step - 1u) / step;
    if (w.split >= w.splits)
        return false;
    column_range(p, w.seq, first, &lo, &ignored);
    column_range(p, w.seq, first + w.columns - 1u, &ignored, &hi);
    akv_i32 start = (akv_i32)(w.seq.first_block * w.block_tokens);
    w.first = (akv_u32)max(max(lo, start), (akv_i32)(w.split * step));
    w.last = (akv_u32)max(0, min(hi + 1, (akv_i32)AKV_MIN(length, (w.split + 1u) * step)));
    w.last = AKV_MAX(w.last, w.first);
    return true;
}

/* Rows of the caller. */
AKV_FN akv_u64 row_element(const akv_rows &rows, akv_u32 token, akv_u32 head)
{
    return (akv_u64)token * rows.token_stride + (akv_u64)head * rows.head_stride;
}
AKV_FN float load_row(const akv_u8 *base, const akv_rows &rows, akv_u64 at)
{
    return akv_as_f32(akv_load_bits(base, at, rows.dtype));
}

/* The power of two not above top, moved so that what is divided by it is below 256; 1 for what has none. */
AKV_FN float power_below(float top)
{
    return top > 1e-30f && top < 1e30f ? akv_as_f32((akv_as_u32(top) & 0x7F800000u) - (7u << 23)) : 1.0f;
}
/* Score in powers of two from a product q.k. */
AKV_FN float finish_score(const akv_attend_params &p, float dot)
{
    float s = dot * p.scale;
    if (p.cap > 0.0f)
        s = p.cap * tanhf(s / p.cap);
    return s * LOG2E;
}
/* Bias of column against position, in powers of two; 0 where no mask applies. */
AKV_FN float mask_bias(const akv_attend_params &p, const akv_cu_args &a, const akv_step_seq &s, akv_u32 column,
                       akv_u32 position)
{
    if (!(p.flags & AKV_ATTEND_MASK) || position < s.length)
        return 0.0f;
    akv_u32 token = s.first_token + column / (p.q_heads / p.kv_heads);
    return ((const float *)a.arg[4])[(akv_u64)token * p.mask_stride + (position - s.length)] * LOG2E;
}

AKV_FN float warp_max(float x)
{
    for (int i = 16; i > 0; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, i));
    return x;
}

/* Writes the rows of a column tile: O of shared memory [columns][v_dim], m and l, everything merged. */
AKV_FN void write_out(const akv_attend_params &p, const akv_cu_args &a, const attend_work &w, const float *o,
                      const float *m, const float *l)
{
    akv_u32 group = p.q_heads / p.kv_heads;
    for (akv_u32 e = threadIdx.x; e < w.columns * p.v_dim; e += blockDim.x) {
        akv_u32 c = e / p.v_dim, d = e - c * p.v_dim, column = w.tile * COLUMNS + c;
        akv_u32 token = w.seq.first_token + column / group, head = w.head * group + column % group;
        float top = m[c], sum = l[c], factor = 1.0f;
        if (p.flags & AKV_ATTEND_SINKS) {
            float sink = ((const float *)a.arg[5])[head] * LOG2E, higher = fmaxf(top, sink);
            factor = exp2f(top - higher);
            sum = sum * factor + exp2f(sink - higher);
            top = higher;
        }
        float y = sum > 0.0f ? o[e] * factor / sum : 0.0f;
        akv_store_bits(a.arg[2], row_element(p.out, token, head) + d, p.out.dtype, akv_as_u32(y));
        if (d == 0u && (p.flags & AKV_ATTEND_LSE))
            ((float *)a.arg[3])[(akv_u64)token * p.q_heads + head] =
                sum > 0.0f ? (top + log2f(sum)) * LN2 : akv_as_f32(0xFF800000u);
    }
}

/* Ends a split whose result stands in shared memory: writes the output when there is one split, else the
 * partial result, and the last thread block of the column tile merges all of them.  o is overwritten. */
AKV_FN void finish_split(const akv_attend_params &p, const akv_cu_args &a, const akv_cu_plan &plan,
                         const attend_work &w, float *o, float *m, float *l, akv_u32 *counters)
{
    if (w.splits == 1u) {
        write_out(p, a, w, o, m, l);
        return;
    }
    __shared__ akv_u32 last;
    akv_u32 unit = (w.z * p.kv_heads + w.head) * SPLIT_TILES + w.tile;
    float *ml = (float *)a.arg[6] + (akv_u64)unit * plan.splits * (2 * COLUMNS);
    float *part = (float *)(a.arg[6] + plan.part_offset) + (akv_u64)unit * plan.splits * (COLUMNS * p.v_dim);
    for (akv_u32 e = threadIdx.x; e < w.columns * p.v_dim; e += blockDim.x)
        __stcg(part + (akv_u64)w.split * (COLUMNS * p.v_dim) + e, o[e]);
    if (threadIdx.x < w.columns) {
        __stcg(ml + w.split * (2 * COLUMNS) + threadIdx.x, m[threadIdx.x]);
        __stcg(ml + w.split * (2 * COLUMNS) + COLUMNS + threadIdx.x, l[threadIdx.x]);
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0u) {
        last = atomicAdd(counters + unit, 1u) == w.splits - 1u;
        if (last)
            counters[unit] = 0u;
    }
    __syncthreads();
    if (!last)
        return;
    __threadfence();
    __syncthreads();
    akv_u32 lane = threadIdx.x & 31u;
    for (akv_u32 c = threadIdx.x >> 5; c < w.columns; c += blockDim.x >> 5) { /* a warp a column */
        float top = NO_SCORE, sum = 0.0f;
        for (akv_u32 s = lane; s < w.splits; s += 32u)
            top = fmaxf(top, __ldcg(ml + s * (2 * COLUMNS) + c));
        top = warp_max(top);
        for (akv_u32 s = lane; s < w.splits; s += 32u)
            sum += exp2f(__ldcg(ml + s * (2 * COLUMNS) + c) - top) * __ldcg(ml + s * (2 * COLUMNS) + COLUMNS + c);
        for (int i = 16; i > 0; i /= 2)
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, i);
        if (lane == 0u)
            m[c] = top, l[c] = sum;
    }
    __syncthreads();
    for (akv_u32 e = threadIdx.x; e < w.columns * p.v_dim; e += blockDim.x) {
        akv_u32 c = e / p.v_dim;
        float sum = 0.0f;
#pragma unroll 8 /* their loads are on their way together */
        for (akv_u32 s = 0u; s < w.splits; s++)
            sum += exp2f(__ldcg(ml + s * (2 * COLUMNS) + c) - m[c]) *
                   __ldcg(part + (akv_u64)s * (COLUMNS * p.v_dim) + e);
        o[e] = sum;
    }
    __syncthreads();
    write_out(p, a, w, o, m, l);
}

/* Rotates rows of shared memory [rows][dim] in place by the whole thread block, times factor. */
AKV_FN void rotate_shared(float *x, akv_u32 rows, akv_u32 dim, akv_u32 block, float factor)
{
    for (akv_u32 stride = 1u; stride < block; stride *= 2u) {
        for (akv_u32 e = threadIdx.x; e < rows * dim / 2u; e += blockDim.x) {
            akv_u32 row = e / (dim / 2u), j = e - row * (dim / 2u);
            float *y = x + row * dim + (j / stride) * 2u * stride + j % stride;
            float u = y[0], v = y[stride];
            y[0] = u + v;
            y[stride] = u - v;
        }
        __syncthreads();
    }
    for (akv_u32 e = threadIdx.x; e < rows * dim; e += blockDim.x)
        x[e] *= factor;
    __syncthreads();
}

/* A row of dim floats, element 32 g + lane in x[g], turned. */
template <int G> AKV_FN void rotate_lanes(float *x, float factor)
{
    akv_u32 lane = threadIdx.x & 31u;
#pragma unroll
    for (akv_u32 s = 1u; s < 32u; s *= 2u)
#pragma unroll
        for (int g = 0; g < G; g++) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, x[g], (int)s);
            x[g] = lane & s ? other - x[g] : x[g] + other;
        }
#pragma unroll
    for (int s = 1; s < G; s *= 2)
#pragma unroll
        for (int g = 0; g < G; g++)
            if (!(g & s)) {
                float u = x[g], v = x[g + s];
                x[g] = u + v;
                x[g + s] = u - v;
            }
#pragma unroll
    for (int g = 0; g < G; g++)
        x[g] *= factor;
}

#endif
