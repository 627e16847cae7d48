/* SPDX-License-Identifier: Apache-2.0 */
/* What the quantize family shares on CUDA: rows staged, rotated and quantised by a warp.
 *
 * A warp works on 32 groups of 32 elements at a time: R = 32 / G whole rows of G groups, staged in
 * shared memory for coalesced access; lane l owns group l % G of row l / G. */
#ifndef AKV_QUANT_CUH
#define AKV_QUANT_CUH
#include "common.cuh"
#include <cuda_fp16.h>
#include "../lib/kernel/fp.h"
#include "../lib/kernel/rotate.h"
#include "../lib/kernel/quant.h"
#include "../lib/kernel/pack.h"
#include "../lib/kernel/ggml.h"

#define WARPS 4
#define PITCH 36 /* floats between groups in shared memory: 16 bytes of each lane hit different banks */

struct alignas(16) stage {
    float x[32 * PITCH];
};
/* Bits of an f16 as bits of an f32: the conversion of the hardware is exact and keeps subnormals. */
AKV_FN akv_u32 half_bits(akv_u32 h)
{
    return akv_as_u32(__half2float(__ushort_as_half((unsigned short)h)));
}
AKV_FN float tiny_to_zero(akv_u32 bits)
{
    return fabsf(akv_as_f32(bits)) < akv_as_f32(AKV_TINY_BITS) ? 0.0f : akv_as_f32(bits);
}
#include "map.cuh"
#include "code_steps.cuh"

/* The group of 32 that a lane holds, out of the stage and back. */
AKV_FN void take_group(float *x, const float *stage)
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float4 v = ((const float4 *)(stage + (threadIdx.x & 31u) * PITCH))[i];
        x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
    }
}
AKV_FN void leave_group(float *stage, const float *x)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        ((float4 *)(stage + (threadIdx.x & 31u) * PITCH))[i] =
            make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
}
/* Four values into the stage, sane; the flags are worked out only when a value is beyond 2^100 or NaN. */
AKV_FN akv_u32 put_four(float *y, akv_u32 b0, akv_u32 b1, akv_u32 b2, akv_u32 b3)
{
    akv_u32 a0 = b0 & 0x7FFFFFFFu, a1 = b1 & 0x7FFFFFFFu, a2 = b2 & 0x7FFFFFFFu, a3 = b3 & 0x7FFFFFFFu;
    if (max(max(a0, a1), max(a2, a3)) > AKV_HUGE_BITS) {
        *(float4 *)y = make_float4(akv_as_f32(akv_sane(b0)), akv_as_f32(akv_sane(b1)), akv_as_f32(akv_sane(b2)),
                                   akv_as_f32(akv_sane(b3)));
        return akv_saw(b0) | akv_saw(b1) | akv_saw(b2) | akv_saw(b3);
    }
    *(float4 *)y = make_float4(akv_as_f32(a0 < AKV_TINY_BITS ? 0u : b0), akv_as_f32(a1 < AKV_TINY_BITS ? 0u : b1),
                               akv_as_f32(a2 < AKV_TINY_BITS ? 0u : b2), akv_as_f32(a3 < AKV_TINY_BITS ? 0u : b3));
    return 0u;
}
/* Four values of 16 bits as f32. */
AKV_FN uint4 widen_four(uint2 v, akv_u32 dtype)
{
    if (dtype == AKV_BF16)
        return make_uint4(v.x << 16, v.x & 0xFFFF0000u, v.y << 16, v.y & 0xFFFF0000u);
    return make_uint4(half_bits(v.x & 0xFFFFu), half_bits(v.x >> 16), half_bits(v.y & 0xFFFFu), half_bits(v.y >> 16));
}

/* Rows that fill the stage, of a power of two of elements: all loads are under way before the first is
 * used.  together: they follow each other.  False, and nothing done, where a value is beyond 2^100 or NaN. */
template <class A>
AKV_FN bool stage_all(stage &s, const akv_u8 *base, akv_u32 dtype, akv_u32 dim, A address, bool together)
{
    akv_u32 lane = threadIdx.x & 31u, shift = 31u - AKV_CLZ(dim);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    uint4 v[8];
    if (together) {
        akv_u64 at = (akv_u64)address(0u) + lane * 4u;
        if (dtype == AKV_F32) {
#pragma unroll
            for (int k = 0; k < 8; k++)
                v[k] = *(const uint4 *)(base + at * 4u + k * 512);
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++) {
                uint2 two = *(const uint2 *)(base + at * 2u + k * 256);
                v[k].x = two.x, v[k].y = two.y;
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < 8; k++) {
            akv_u32 e = k * 128u + lane * 4u;
            akv_u64 at = address(e >> shift) + (e & (dim - 1u));
            if (dtype == AKV_F32) {
                v[k] = *(const uint4 *)(base + at * 4u);
            } else {
                uint2 two = *(const uint2 *)(base + at * 2u);
                v[k].x = two.x, v[k].y = two.y;
            }
        }
    }
    if (dtype != AKV_F32)
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = widen_four(make_uint2(v[k].x, v[k].y), dtype);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        /* 2^28 times what is beyond 2^100 is infinite, and sums of that are infinite or NaN. */
        sum.x = AKV_FMA(akv_as_f32(v[k].x), 0x1p28f, sum.x);
        sum.y = AKV_FMA(akv_as_f32(v[k].y), 0x1p28f, sum.y);
        sum.z = AKV_FMA(akv_as_f32(v[k].z), 0x1p28f, sum.z);
        sum.w = AKV_FMA(akv_as_f32(v[k].w), 0x1p28f, sum.w);
    }
    if (__any_sync(0xFFFFFFFFu, !(fabsf(sum.x) + fabsf(sum.y) + fabsf(sum.z) + fabsf(sum.w) <= 0x1.FFFFFEp127f)))
        return false;
#pragma unroll
    for (int k = 0; k < 8; k++)
        *(float4 *)(s.x + (k * 4u + lane / 8u) * PITCH + lane % 8u * 4u) =
            make_float4(tiny_to_zero(v[k].x), tiny_to_zero(v[k].y), tiny_to_zero(v[k].z), tiny_to_zero(v[k].w));
    __syncwarp();
    return true;
}

/* Copies rows [first, first + rows) of the caller's memory into the stage, sanitised; elements beyond dim
 * and groups beyond the rows are +0.  address(row): element index of the row's start.  together: see stage_all.  Returns
 * what was seen. */
template <class A>
AKV_FN akv_u32 stage_rows(stage &s, const akv_u8 *base, akv_u32 dtype, akv_u32 dim, akv_u32 rows, A address,
                          bool vector, bool together)
{
    akv_u32 lane = threadIdx.x & 31u, dp = akv_padded_dim(dim), saw = 0u;
    if (vector && rows * dim == 1024u && (dim & (dim - 1u)) == 0u && stage_all(s, base, dtype, dim, address, together))
        return 0u;
    for (akv_u32 row = 0u; row < rows; row++) {
        akv_u64 at = address(row);
        float *x = s.x + row * (dp / 32u) * PITCH;
        if (vector && dtype == AKV_F32) {
            for (akv_u32 i = lane * 4u; i < dim; i += 128u) {
                uint4 v = *(const uint4 *)(base + (at + i) * 4u);
                saw |= put_four(x + (i >> 5) * PITCH + (i & 31u), v.x, v.y, v.z, v.w);
            }
        } else if (vector) {
            for (akv_u32 i = lane * 4u; i < dim; i += 128u) {
                uint4 v = widen_four(*(const uint2 *)(base + (at + i) * 2u), dtype);
                saw |= put_four(x + (i >> 5) * PITCH + (i & 31u), v.x, v.y, v.z, v.w);
            }
        } else {
            for (akv_u32 i = lane; i < dim; i += 32u) {
                akv_u32 bits = akv_load_bits(base, at + i, dtype);
                saw |= akv_saw(bits);
                x[(i >> 5) * PITCH + (i & 31u)] = akv_as_f32(akv_sane(bits));
            }
        }
        for (akv_u32 i = dim + lane; i < dp; i += 32u)
            x[(i >> 5) * PITCH + (i & 31u)] = 0.0f;
    }
    for (akv_u32 i = rows * (dp / 32u) * PITCH + lane; i < 32u * PITCH; i += 32u)
        s.x[i] = 0.0f;
    __syncwarp();
    return saw;
}

/* A warp as rows of groups: 2048 over the number of groups, rounded up, divides lanes without a division. */
AKV_TABLE akv_u16 group_share[AKV_MAX_HEAD_DIM / 32u + 1u] = {0,   2048, 1024, 683, 512, 410, 342, 293, 256, 228,
                                                             205, 187,  171,  158, 147, 137, 128, 121, 114};
AKV_FN akv_u32 groups_into(akv_u32 lanes, akv_u32 groups)
{
    return lanes * group_share[groups] >> 11;
}

/* Blocks of less than 32 elements, by way of memory: the others keep their registers. */
static __device__ __noinline__ void rotate_stages(float *x, akv_u32 n)
{
#pragma unroll 1
    for (akv_u32 stride = 1u; stride < n; stride *= 2u)
        akv_rotate_stage(x, 32u, stride);
}
AKV_FN void rotate_short(float *x, akv_u32 n)
{
    float y[32];
#pragma unroll
    for (int i = 0; i < 32; i++)
        y[i] = x[i];
    rotate_stages(y, n);
#pragma unroll
    for (int i = 0; i < 32; i++)
        x[i] = y[i];
}
/* Rotates the rows that the lanes hold group by group.  Strides of 32 and more go between lanes; a
 * rotation block never crosses a row, so lane ^ (stride / 32) is in the same row. */
AKV_FN void rotate_groups(float *x, akv_u32 dim, akv_u32 lane)
{
    akv_u32 n = akv_rotate_block(dim);
    if (n < 32u) {
        rotate_short(x, n);
        return;
    }
#pragma unroll
    for (akv_u32 stride = 1u; stride < 32u; stride *= 2u)
        akv_rotate_stage(x, 32u, stride);
    for (akv_u32 stride = 32u; stride < n; stride *= 2u) {
        akv_u32 groups = akv_padded_dim(dim) / 32u;
        /* akv_rotate_pair, in one instruction */
        float sign = (lane - groups_into(lane, groups) * groups) * 32u & stride ? -1.0f : 1.0f;
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = AKV_FMA(x[i], sign, __shfl_xor_sync(0xFFFFFFFFu, x[i], stride / 32u));
    }
}

/* Largest magnitude of a group without NaN. */
AKV_FN float top_of(const float *x)
{
    float top = 0.0f;
#pragma unroll
    for (int i = 0; i < 32; i++)
        top = fmaxf(top, fabsf(x[i]));
    return top;
}

/* Scale (of a block format both of them) and codes of the group that this lane holds; x is sane.  steps: the table of F,
 * where it has one (code_steps.cuh). */
template <int F, bool SEARCH>
AKV_FN akv_u32 quantise_group(float *x, akv_u32 dim, akv_u32 rotate, akv_u32 lane, const akv_u8 *steps, akv_u8 *code)
{
    akv_u32 groups = akv_padded_dim(dim) / 32u, g = lane - groups_into(lane, groups) * groups;
    if (rotate) {
        float factor = akv_rotate_store_factor(dim);
        rotate_groups(x, dim, lane);
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = x[i] * factor;
        if (top_of(x) > akv_as_f32(AKV_HUGE_BITS)) { /* rare */
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i])));
        }
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = tiny_to_zero(akv_as_u32(x[i]));
    }
    if (akv_format_blocks(F))
        return akv_block_quantise(x, F, code);
    akv_u32 amax = akv_as_u32(top_of(x));
    if (akv_scale_width(F) > 32u) {
        akv_u32 per = akv_scale_width(F) / 32u, first = lane - g + g / per * per, all = amax;
        for (akv_u32 j = 0u; j < per; j++) {
            akv_u32 other = __shfl_sync(0xFFFFFFFFu, amax, AKV_MIN(first + j, lane - g + groups - 1u));
            all = AKV_MAX(all, other);
        }
        amax = all;
    }
    akv_u32 scale = akv_scale_of(x, amax, F, SEARCH ? 1u : 0u);
    if constexpr (by_steps(F))
        codes_by_steps(x, amax, scale, steps, code);
    else
        akv_group_codes(x, scale, F, code);
    return scale;
}

#endif
