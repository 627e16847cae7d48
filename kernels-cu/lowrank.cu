/* SPDX-License-Identifier: Apache-2.0 */
/* Compress family on CUDA: low rank, and dense products where no library does them.
 *
 * A thread block of project takes LOW rows of a head, of multiply LOW rows and LANES columns, of
 * the others UNITS elements or pairs; backends/cuda/kernel.c has the same numbers. */
#include "common.cuh"
#include "../lib/kernel/lowrank.h"

#define LANES 128u
#define LOW   8u
#define UNITS 1024u
#define SHELL extern "C" __global__ void __launch_bounds__(128)

AKV_FN float centre_at(const akv_u8 *centre, akv_u32 i)
{
    return centre ? akv_as_f32(akv_f32_from_f16(akv_load_u16(centre + 2u * i))) : 0.0f;
}

/* Coefficients: a thread has column after column of LOW rows, whose elements are in shared memory.
 */
SHELL akv_k_lowrank_project(const __grid_constant__ akv_lowrank_params p,
                            const __grid_constant__ akv_cu_args s)
{
    __shared__ float x[LOW * AKV_MAX_HEAD_DIM];
    akv_u32 lane = threadIdx.x, head = blockIdx.x % p.heads;
    akv_u32 first = blockIdx.x / p.heads * LOW, units = p.dim - p.pairs, u, r, j, i;
    akv_u32 count = AKV_MIN(LOW, p.tokens - first);
    size_t wide = (size_t)p.heads * p.dim;
    const akv_u8 *rows = s.arg[0], *centre = s.arg[2];
    const akv_u64 *turn_of = (const akv_u64 *)s.arg[3];
    for (u = lane; u < LOW * units; u += LANES) {
        akv_u32 a, b;
        r = u / units;
        akv_lowrank_unit(&p, u % units, &a, &b);
        float first_ = 0.0f, second = 0.0f;
        if (r < count) {
            size_t start = (first + r) * wide + (size_t)head * p.dim;
            first_ = akv_as_f32(akv_sane(akv_load_bits(rows, start + a, p.dtype)));
            second = akv_as_f32(akv_sane(akv_load_bits(rows, start + b, p.dtype)));
        }
        if (a != b) {
            akv_turn turn = akv_rope_at(turn_of[u % units], p.position + first + r);
            turn.s = -turn.s;
            float turned = akv_rope_first(turn, first_, second);
            second = akv_rope_second(turn, first_, second);
            first_ = turned;
        }
        x[r * p.dim + b] = akv_lowrank_before(second, centre_at(centre, head * p.dim + b));
        x[r * p.dim + a] = akv_lowrank_before(first_, centre_at(centre, head * p.dim + a));
    }
    __syncthreads();
    const float *from = (const float *)s.arg[1] + (size_t)head * p.dim * p.dim;
    float *to = (float *)s.arg[4] + first * wide + (size_t)head * p.dim;
    for (j = lane; j < p.dim; j += LANES) {
        float y[LOW];
#pragma unroll
        for (r = 0u; r < LOW; r++)
            y[r] = 0.0f;
        for (i = 0u; i < p.dim; i++) {
            float each = from[i * p.dim + j];
#pragma unroll
            for (r = 0u; r < LOW; r++)
                y[r] = AKV_FMA(each, x[r * p.dim + i], y[r]);
        }
#pragma unroll
        for (r = 0u; r < LOW; r++)
            if (r < count)
                to[r * wide + j] = y[r];
    }
}

SHELL akv_k_lowrank_read(const __grid_constant__ akv_lowrank_params p,
                         const __grid_constant__ akv_cu_args s)
{
    akv_u32 wide = p.heads * p.dim, i = blockIdx.x * UNITS + threadIdx.x;
    akv_u32 end = AKV_MIN((blockIdx.x + 1u) * UNITS, p.tokens * wide);
    for (; i < end; i += LANES) {
        akv_u32 column = i % wide;
        akv_i8 code = (akv_i8)s.arg[0][(size_t)(i / wide) * p.columns + column];
        ((float *)s.arg[2])[i] =
            (float)code * akv_lowrank_more(akv_as_f32(p.step), s.arg[1][column]);
    }
}

SHELL akv_k_lowrank_rows(const __grid_constant__ akv_lowrank_params p,
                         const __grid_constant__ akv_cu_args s)
{
    akv_u32 units = p.dim - p.pairs, i = blockIdx.x * UNITS + threadIdx.x;
    akv_u32 end = AKV_MIN((blockIdx.x + 1u) * UNITS, p.tokens * p.heads * units);
    const float *from = (const float *)s.arg[0];
    const akv_u64 *turn_of = (const akv_u64 *)s.arg[2];
    for (; i < end; i += LANES) {
        akv_u32 row = i / units, head = row % p.heads, a, b;
        size_t start = (size_t)row * p.dim;
        akv_lowrank_unit(&p, i % units, &a, &b);
        float first = akv_lowrank_after(from[start + a], centre_at(s.arg[1], head * p.dim + a));
        float second = akv_lowrank_after(from[start + b], centre_at(s.arg[1], head * p.dim + b));
        if (a != b) {
            akv_turn turn = akv_rope_at(turn_of[i % units], p.position + row / p.heads);
            float turned = akv_rope_first(turn, first, second);
            second = akv_rope_second(turn, first, second);
            first = turned;
            akv_store_bits(s.arg[3], start + b, p.dtype, akv_as_u32(second));
        }
        akv_store_bits(s.arg[3], start + a, p.dtype, akv_as_u32(first));
    }
}

/* blockIdx.x: a block of rows, within it one of columns; y: a product. */
SHELL akv_k_multiply(const __grid_constant__ akv_multiply_params p,
                     const __grid_constant__ akv_cu_args s)
{
    akv_u32 blocks = (p.n + LANES - 1u) / LANES, row = blockIdx.x / blocks * LOW, l, r;
    akv_u32 column = blockIdx.x % blocks * LANES + threadIdx.x;
    const float *a = (const float *)s.arg[0] + blockIdx.y * p.a_step + (size_t)row * p.lda;
    const float *b = (const float *)s.arg[1] + blockIdx.y * p.b_step;
    float *c = (float *)s.arg[2] + blockIdx.y * p.c_step + (size_t)row * p.ldc, sum[LOW];
    akv_u32 count = AKV_MIN(LOW, p.m - row);
    if (column >= p.n)
        return;
#pragma unroll
    for (r = 0u; r < LOW; r++)
        sum[r] = 0.0f;
    for (l = 0u; l < p.k; l++) {
        float each = b[l * (size_t)p.ldb + column];
#pragma unroll
        for (r = 0u; r < LOW; r++) /* rows behind the end are the last one again */
            sum[r] = AKV_FMA(each, a[AKV_MIN(r, count - 1u) * (size_t)p.lda + l], sum[r]);
    }
#pragma unroll
    for (r = 0u; r < LOW; r++)
        if (r < count)
            c[r * (size_t)p.ldc + column] = sum[r];
}
