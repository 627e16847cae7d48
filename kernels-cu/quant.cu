/* SPDX-License-Identifier: Apache-2.0 */
/* Quantize family on CUDA: encode, decode, rotate, seal, reencode, gather.  EXACT: built with -fmad=false.
 *
 * A warp works on 32 groups of 32 elements at a time: R = 32 / G whole rows of G groups, staged in
 * shared memory for coalesced access; lane l owns group l % G of row l / G. */
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
 * used.  False, and nothing done, where a value is beyond 2^100 or NaN. */
template <class A>
AKV_FN bool stage_all(stage &s, const akv_u8 *base, akv_u32 dtype, akv_u32 dim, A address)
{
    akv_u32 lane = threadIdx.x & 31u, shift = 31u - AKV_CLZ(dim);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    uint4 v[8];
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
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (dtype != AKV_F32)
            v[k] = widen_four(make_uint2(v[k].x, v[k].y), dtype);
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
 * are +0.  address(row): element index of the row's start.  Returns what was seen. */
template <class A>
AKV_FN akv_u32 stage_rows(stage &s, const akv_u8 *base, akv_u32 dtype, akv_u32 dim, akv_u32 rows, A address,
                          bool vector)
{
    akv_u32 lane = threadIdx.x & 31u, dp = akv_padded_dim(dim), saw = 0u;
    if (vector && rows * dim == 1024u && (dim & (dim - 1u)) == 0u && stage_all(s, base, dtype, dim, address))
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

/* Rotates the rows that the lanes hold group by group.  Strides of 32 and more go between lanes; a
 * rotation block never crosses a row, so lane ^ (stride / 32) is in the same row. */
AKV_FN void rotate_groups(float *x, akv_u32 dim, akv_u32 lane)
{
    akv_u32 n = akv_rotate_block(dim);
#pragma unroll
    for (akv_u32 stride = 1u; stride < 32u; stride *= 2u)
        if (stride < n)
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

/* Rows that a warp takes of `tokens` of `heads`: first + r * step of them, r < count.  by_head: of one head, for
 * matrices; neighbours have the same head then. */
struct warp_rows {
    akv_u32 first, step, count;
};
AKV_FN warp_rows rows_of_warp(akv_u32 tokens, akv_u32 heads, akv_u32 per, bool by_head)
{
    akv_u32 warp = blockIdx.x * WARPS + (threadIdx.x >> 5), runs = (tokens + per - 1u) / per;
    if (!by_head) {
        akv_u32 rows = tokens * heads, first = AKV_MIN(warp * per, rows);
        return {first, 1u, AKV_MIN(per, rows - first)};
    }
    akv_u32 head = warp / runs, token = warp % runs * per;
    return {token * heads + head, heads, head < heads ? AKV_MIN(per, tokens - token) : 0u};
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

/* One of N thresholds as a polynomial in what log2(N) comparisons gave, 0 or 1, the first one's deciding most: its
 * coefficients from the thresholds, in place, and its value. */
template <int N> AKV_FN void to_polynomial(float *c)
{
    if constexpr (N > 1) {
#pragma unroll
        for (int k = 0; k < N / 2; k++)
            c[k + N / 2] -= c[k];
        to_polynomial<N / 2>(c);
        to_polynomial<N / 2>(c + N / 2);
    }
}
template <int N> AKV_FN float polynomial(const float *c, const float *up)
{
    if constexpr (N == 1)
        return c[0];
    else
        return AKV_FMA(up[0], polynomial<N / 2>(c + N / 2, up + 1), polynomial<N / 2>(c, up + 1));
}
template <int L, int N> AKV_FN void step_thresholds(float *c, float unit)
{
#pragma unroll
    for (int k = 0; k < N; k++) {
        int j = L / N / 2 - 1 + k * (L / N);
        c[k] = (float)(akv_codebook[L - 2 + j] + akv_codebook[L - 1 + j]) * unit;
    }
    to_polynomial<N>(c);
}
/* Codes of a group as akv_codebook_codes has them, for processors that multiply twice as fast as they compare and
 * select.  Thresholds and coefficients are multiples of d / 256 of at most 13 bits: no step rounds. */
template <int F> AKV_FN void codebook_codes(const float *x, akv_u32 scale, akv_u8 *code)
{
    constexpr int L = 16 >> (F - AKV_N5);
    constexpr akv_u32 bits = F == AKV_N5 ? 5u : F == AKV_N4 ? 4u : F == AKV_N3 ? 3u : 2u, all = 2u * L - 1u;
    constexpr akv_u32 ones = 1u | 1u << bits | 1u << 2u * bits | 1u << 3u * bits;
    float unit = akv_f32_from_ue5m3(scale) * 0x1p-8f, c1[1], c2[2], c4[4], c8[8];
    step_thresholds<L, 1>(c1, unit);
    if constexpr (L > 2)
        step_thresholds<L, 2>(c2, unit);
    if constexpr (L > 4)
        step_thresholds<L, 4>(c4, unit);
    if constexpr (L > 8)
        step_thresholds<L, 8>(c8, unit);
#pragma unroll
    for (int first = 0; first < 32; first += 4) {
        /* 2^23 and four codes, each twice: all + 1 + 2 p for x >= 0, all - 1 - 2 p below, p thresholds passed. */
        float sum = akv_as_f32(0x4B000000u + ones * all);
#pragma unroll
        for (int i = first; i < first + 4; i++) {
            /* The last step is at an even threshold, which a tie passes below zero only, the others are at odd ones,
             * where it passes from zero up: one bit more or less of |x| says so. */
            akv_u32 a = akv_as_u32(x[i]) & 0x7FFFFFFFu, negative = akv_as_u32(x[i]) >> 31;
            float more = akv_as_f32(a + negative), less = akv_as_f32(a - negative), up[4], passed = 0.0f;
            if constexpr (L > 2)
                passed = up[0] = less >= c1[0] ? 1.0f : 0.0f;
            else
                passed = more > c1[0] ? 1.0f : 0.0f;
            if constexpr (L > 4) {
                up[1] = less >= polynomial<2>(c2, up) ? 1.0f : 0.0f;
                passed = AKV_FMA(passed, 2.0f, up[1]);
            }
            if constexpr (L > 8) {
                up[2] = less >= polynomial<4>(c4, up) ? 1.0f : 0.0f;
                passed = AKV_FMA(passed, 2.0f, up[2]);
            }
            if constexpr (L > 2) {
                float last = polynomial<L / 2>(L > 8 ? c8 : L > 4 ? c4 : c2, up);
                passed = AKV_FMA(passed, 2.0f, more > last ? 1.0f : 0.0f);
            }
            sum = AKV_FMA(AKV_FMA(passed, 2.0f, 1.0f),
                          copysignf(akv_as_f32((127u + bits * (i - first)) << 23), x[i]), sum);
        }
        akv_u32 four = scale ? akv_as_u32(sum) : ones * (all + 1u);
#pragma unroll
        for (int i = 0; i < 4; i++)
            code[first + i] = (akv_u8)(four >> (bits * i + 1u) & all);
    }
}

/* Scale (of a block format both of them) and codes of the group that this lane holds; x is sane. */
template <int F, bool SEARCH>
AKV_FN akv_u32 quantise_group(float *x, akv_u32 dim, akv_u32 rotate, akv_u32 lane, akv_u8 *code)
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
    if constexpr (F >= AKV_N5 && F <= AKV_N2)
        codebook_codes<F>(x, scale, code);
    else
        akv_group_codes(x, scale, F, code);
    return scale;
}

AKV_FN bool rows_vector(const akv_u8 *base, const akv_rows &rows, akv_u32 dim)
{
    return (((akv_u64)base | rows.token_stride * 4u | rows.head_stride * 4u | dim * 4u) & 15u) == 0u;
}

/* One plane of the codes of 32 groups, a whole number of rows from `first` on, which are consecutive bytes:
 * by way of the stage, so that stores are whole.  row, g: of the group that this lane holds. */
template <akv_u32 BITS>
AKV_FN void put_plane(akv_u8 *plane, float *stage, akv_u32 shift, akv_u32 dim, akv_u32 first, akv_u32 row, akv_u32 g,
                      const akv_u8 *code)
{
    akv_u32 *words = (akv_u32 *)stage, lane = threadIdx.x & 31u;
    __syncwarp(); /* the stage is read out */
    if (BITS == 8u) {
#pragma unroll
        for (int w = 0; w < 2; w++)
            ((uint4 *)words)[lane * 2u + w] =
                make_uint4(akv_plane_word(code, 8u, shift, 4 * w), akv_plane_word(code, 8u, shift, 4 * w + 1),
                           akv_plane_word(code, 8u, shift, 4 * w + 2), akv_plane_word(code, 8u, shift, 4 * w + 3));
    } else {
#pragma unroll
        for (akv_u32 w = 0u; w < BITS; w++)
            words[akv_row_word(BITS, dim, row, g) + w * akv_row_step(BITS, dim)] =
                akv_plane_word(code, BITS, shift, w);
    }
    __syncwarp();
    uint4 *to = (uint4 *)(plane + 4u * akv_row_word(BITS, dim, first, 0u));
#pragma unroll
    for (akv_u32 i = lane; i < 8u * BITS; i += 32u)
        to[i] = ((const uint4 *)words)[i];
}

/* MAP: the launch has an akv_map.  Kernels of their own, so that the others keep their registers. */
template <int F, bool SEARCH, bool MAP> AKV_FN void encode(const akv_encode_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, heads = p.rows.heads;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = groups_into(32u, groups), rows = p.tokens * heads;
    if (blockIdx.x == 0u && threadIdx.x == 0u)
        akv_tile_padding(a.arg[1], F, rows, p.dim);
    const akv_map *map = MAP ? akv_map_at(a.arg[3], p.map) : 0;
    warp_rows mine = rows_of_warp(p.tokens, heads, per, MAP && map->transform == AKV_TRANSFORM_MATRIX);
    akv_u32 first = mine.first, count = mine.count;
    if (count == 0u)
        return;
    bool dense = p.rows.token_stride == heads * p.rows.head_stride;
    akv_u32 saw = stage_rows(
        stages[warp], a.arg[0], p.rows.dtype, p.dim, count,
        [&](akv_u32 row) {
            akv_u32 r = first + row * mine.step;
            if (dense)
                return r * p.rows.head_stride;
            akv_u32 token = r / heads;
            return token * p.rows.token_stride + (r - token * heads) * p.rows.head_stride;
        },
        rows_vector(a.arg[0], p.rows, p.dim));
    akv_u32 row = groups_into(lane, groups), g = lane - row * groups, rotate = p.flags & AKV_FLAG_ROTATE;
    if (MAP) {
        map_store(stages[warp].x, {a.arg[3], p.map, 0u, heads, p.position, first, mine.step}, p.dim, count);
        rotate = akv_map_rotates(map);
    }
    float x[32];
    take_group(x, stages[warp].x);
    if (row >= count) /* never written */
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = 0.0f;
    akv_u8 code[32];
    akv_u32 scale = quantise_group<F, SEARCH>(x, p.dim, rotate, lane, code);
    if (akv_format_blocks(F)) {
        if (row < count)
            akv_block_put(a.arg[1], F, p.dim, first + row * mine.step, g, code, scale);
    } else {
        if (count * groups == 32u && mine.step == 1u && ((akv_u64)a.arg[1] & 15u) == 0u) {
            constexpr bool bytes = F == AKV_I8 || F == AKV_E4M3 || F == AKV_E4M3G;
            constexpr akv_u32 b0 = bytes ? 8u : F == AKV_N3 || F == AKV_N2 ? 2u : 4u;
            constexpr akv_u32 b1 = F == AKV_N6 ? 2u : F == AKV_N5 || F == AKV_N3 ? 1u : 0u;
            put_plane<b0>(a.arg[1], stages[warp].x, 0u, p.dim, first, row, g, code);
            if constexpr (b1 != 0u)
                put_plane<b1>(a.arg[1] + akv_plane1_offset(F, rows, p.dim), stages[warp].x, b0, p.dim, first, row, g,
                              code);
        } else if (row < count) {
            akv_row_put(a.arg[1], F, rows, p.dim, first + row * mine.step, g, code);
        }
        akv_u32 width = akv_scale_width(F) / 32u;
        if (row < count && g % width == 0u)
            akv_scale_put(a.arg[1], F, AKV_ORDER_ROW, rows, p.dim, first + row * mine.step, g / width, scale);
    }
    if (saw)
        atomicOr((akv_u32 *)a.arg[2], saw);
}

template <int F, bool MAP> AKV_FN void decode(const akv_decode_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, heads = p.rows.heads;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = groups_into(32u, groups), rows = p.tokens * heads;
    const akv_map *map = MAP ? akv_map_at(a.arg[2], p.map) : 0;
    warp_rows mine = rows_of_warp(p.tokens, heads, per, MAP && map->transform == AKV_TRANSFORM_MATRIX);
    akv_u32 first = mine.first, count = mine.count, row = groups_into(lane, groups), g = lane - row * groups;
    if (count == 0u)
        return;
    float x[32], unit = 0.0f;
    akv_u8 code[32];
#pragma unroll
    for (int i = 0; i < 32; i++) {
        x[i] = 0.0f;
        code[i] = 0;
    }
    if (row < count && akv_format_blocks(F)) {
        akv_block_load(a.arg[0], F, p.dim, first + row * mine.step, g, x);
    } else if (row < count) {
        akv_row_get(a.arg[0], F, rows, p.dim, first + row * mine.step, g, code);
        unit = akv_code_unit(F, akv_scale_get(a.arg[0], F, AKV_ORDER_ROW, rows, p.dim, first + row * mine.step,
                                              g / (akv_scale_width(F) / 32u)));
        if (!akv_format_codebook(F)) {
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = akv_code_value(F, code[i], unit);
        }
    }
    if (akv_format_codebook(F)) { /* entry l of the codebook is lane l's; -6 * 0 is +0 too */
        float entry = (float)akv_code_integer(F, AKV_MIN(lane, 2u * akv_levels(F) - 1u));
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = AKV_FMA(__shfl_sync(0xFFFFFFFFu, entry, code[i]), unit, 0.0f);
    }
    if (MAP ? akv_map_rotates(map) : p.flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_read_factor(p.dim);
        rotate_groups(x, p.dim, lane);
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = x[i] * factor;
    }
    leave_group(stages[warp].x, x);
    __syncwarp();
    if (MAP)
        map_back(stages[warp].x, {a.arg[2], p.map, 0u, heads, p.position, first, mine.step}, p.dim, count, ~0u);
    bool vector = rows_vector(a.arg[1], p.rows, p.dim);
    for (akv_u32 r = 0u; r < count; r++) {
        akv_u32 number = first + r * mine.step, token = number / heads;
        akv_u64 at = token * p.rows.token_stride + (number - token * heads) * p.rows.head_stride;
        const float *y = stages[warp].x + r * groups * PITCH;
        if (vector && p.rows.dtype == AKV_F32) {
            for (akv_u32 i = lane * 4u; i < p.dim; i += 128u) {
                *(float4 *)(a.arg[1] + (at + i) * 4u) = *(const float4 *)(y + (i >> 5) * PITCH + (i & 31u));
            }
        } else {
            for (akv_u32 i = lane; i < p.dim; i += 32u)
                akv_store_bits(a.arg[1], at + i, p.rows.dtype, akv_as_u32(y[(i >> 5) * PITCH + (i & 31u)]));
        }
    }
}

/* Raw formats: element by element, bits kept where the dtype is the same. */
template <bool ENCODE> AKV_FN void raw_rows(const akv_encode_params &p, const akv_cu_args &a)
{
    akv_u64 rows = (akv_u64)p.tokens * p.rows.heads, total = rows * p.dim;
    akv_u64 step = (akv_u64)gridDim.x * blockDim.x;
    if (ENCODE && blockIdx.x == 0u && threadIdx.x == 0u)
        akv_tile_padding(a.arg[1], p.format, (akv_u32)rows, p.dim);
    for (akv_u64 e = (akv_u64)blockIdx.x * blockDim.x + threadIdx.x; e < total; e += step) {
        akv_u64 row = e / p.dim, token = row / p.rows.heads;
        akv_u64 at = token * p.rows.token_stride + (row - token * p.rows.heads) * p.rows.head_stride +
                     (e - row * p.dim);
        if (ENCODE)
            akv_convert_element(a.arg[1], e, p.format, a.arg[0], at, p.rows.dtype);
        else
            akv_convert_element(a.arg[1], at, p.rows.dtype, a.arg[0], e, p.format);
    }
}

#define ENCODE(name, F, SEARCH, MAP)                                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                           \
        akv_k_encode_##name(const __grid_constant__ akv_encode_params p, const __grid_constant__ akv_cu_args a) \
    {                                                                                                  \
        encode<F, SEARCH, MAP>(p, a);                                                                  \
    }
#define DECODE(name, F, MAP)                                                                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                           \
        akv_k_decode_##name(const __grid_constant__ akv_decode_params p, const __grid_constant__ akv_cu_args a) \
    {                                                                                                  \
        decode<F, MAP>(p, a);                                                                          \
    }
#define CODEC(name, F)                                                                                 \
    ENCODE(name, F, false, false)                                                                      \
    ENCODE(name##_map, F, false, true)                                                                 \
    DECODE(name, F, false)                                                                             \
    DECODE(name##_map, F, true)
#define CODEC_SEARCH(name, F)                                                                          \
    ENCODE(name##_search, F, true, false)                                                              \
    ENCODE(name##_search_map, F, true, true)
CODEC(i8, AKV_I8)
CODEC(n6, AKV_N6)
CODEC(n5, AKV_N5)
CODEC(n4, AKV_N4)
CODEC(n3, AKV_N3)
CODEC(n2, AKV_N2)
CODEC(e4m3, AKV_E4M3)
CODEC(e4m3g, AKV_E4M3G)
CODEC(q8_0, AKV_Q8_0)
CODEC(q5_1, AKV_Q5_1)
CODEC(q5_0, AKV_Q5_0)
CODEC(q4_1, AKV_Q4_1)
CODEC(q4_0, AKV_Q4_0)
CODEC(iq4_nl, AKV_IQ4_NL)
CODEC_SEARCH(n5, AKV_N5)
CODEC_SEARCH(n4, AKV_N4)
CODEC_SEARCH(n3, AKV_N3)
CODEC_SEARCH(n2, AKV_N2)

extern "C" __global__ void __launch_bounds__(256) akv_k_encode_raw(const __grid_constant__ akv_encode_params p,
                                                                   const __grid_constant__ akv_cu_args a)
{
    raw_rows<true>(p, a);
}
extern "C" __global__ void __launch_bounds__(256) akv_k_decode_raw(const __grid_constant__ akv_decode_params p,
                                                                   const __grid_constant__ akv_cu_args a)
{
    raw_rows<false>(p, a);
}

/* rotate: dense f32 rows; a warp takes R rows. */
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_rotate(const __grid_constant__ akv_rotate_params p,
                                                                      const __grid_constant__ akv_cu_args a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = 32u / groups;
    akv_u32 first = (blockIdx.x * WARPS + warp) * per;
    if (first >= p.rows)
        return;
    akv_u32 count = AKV_MIN(per, p.rows - first), forward = p.flags & AKV_FLAG_ROTATE;
    float *s = stages[warp].x;
    for (akv_u32 r = 0u; r < count; r++)
        for (akv_u32 i = lane; i < groups * 32u; i += 32u) {
            akv_u32 bits = i < p.dim ? akv_load_bits(a.arg[0], (akv_u64)(first + r) * p.dim + i, AKV_F32) : 0u;
            s[(r * groups + (i >> 5)) * PITCH + (i & 31u)] = akv_as_f32(forward ? akv_sane(bits) : bits);
        }
    __syncwarp();
    float x[32], factor = forward ? akv_rotate_store_factor(p.dim) : akv_rotate_read_factor(p.dim);
    take_group(x, s);
    if (lane / groups >= count) /* never written */
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = 0.0f;
    rotate_groups(x, p.dim, lane);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 32; i++)
        x[i] = forward ? akv_as_f32(akv_sane(akv_as_u32(x[i] * factor))) : x[i] * factor;
    leave_group(s, x);
    __syncwarp();
    for (akv_u32 r = 0u; r < count; r++)
        for (akv_u32 i = lane; i < p.dim; i += 32u)
            akv_store_u32(a.arg[1] + ((akv_u64)(first + r) * p.dim + i) * 4u,
                          akv_as_u32(s[(r * groups + (i >> 5)) * PITCH + (i & 31u)]));
}

/* Codes and scale of group g of row `base` + `at` of a tile; QUAD codes go to `codes`, see put_quads. */
template <int F>
AKV_FN void put_group(akv_u8 *dst, akv_u32 tokens, akv_u32 dim, akv_u32 order, akv_u32 base, akv_u32 at, akv_u32 g,
                      const akv_u8 *code, akv_u32 scale, akv_u8 *codes)
{
    akv_u32 width = akv_scale_width(F) / 32u, dp = akv_padded_dim(dim);
    if (akv_format_blocks(F)) {
        akv_block_put(dst, F, dim, base + at, g, code, scale);
        return;
    }
    if (order == AKV_ORDER_ROW) {
        akv_row_put(dst, F, tokens, dim, base + at, g, code);
    } else {
#pragma unroll
        for (int w = 0; w < 8; w++)
            *(akv_u32 *)(codes + at * dp + g * 32u + 4u * w) = akv_plane_word(code, 8u, 0u, w);
    }
    if (g % width == 0u)
        akv_scale_put(dst, F, order, tokens, dim, base + at, g / width, scale);
}
/* The codes of 16 rows to their quads. */
template <int F> AKV_FN void put_quads(akv_u8 *dst, akv_u32 tokens, akv_u32 dim, akv_u32 base, const akv_u8 *codes)
{
    akv_u32 dp = akv_padded_dim(dim);
    __syncthreads();
    for (akv_u32 w = threadIdx.x; w < dp / 8u * 4u; w += blockDim.x) {
        akv_u32 unit = w >> 2, quad = w & 3u;
        akv_u8 code[32];
#pragma unroll
        for (int e = 0; e < 32; e++)
            code[e] = codes[(quad * 4u + (e & 3)) * dp + unit * 8u + (e >> 2)];
        akv_quad_put(dst, F, tokens, dim, base / 4u + quad, unit, code);
    }
    __syncthreads();
}

/* seal: a thread block takes one tile (move, layer, kv head) of one side, 16 rows at a time. */
template <int F, bool SEARCH, bool MAP>
AKV_FN void seal_tile(const akv_u8 *src, akv_u8 *dst, akv_u32 hot, akv_u32 tokens, akv_u32 dim,
                      akv_u32 rotate, akv_u32 order, akv_u32 *flags, stage *stages, akv_u8 *codes,
                      akv_cu_origin origin)
{
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
    akv_u32 groups = akv_padded_dim(dim) / 32u, per = 32u / groups, saw = 0u;
    for (akv_u32 base = 0u; base < tokens; base += 16u) {
        for (akv_u32 at = warp * per; at < 16u; at += WARPS * per) {
            akv_u32 first = base + at, count = AKV_MIN(per, 16u - at);
            saw |= stage_rows(
                stages[warp], src, hot, dim, count,
                [&](akv_u32 row) { return (akv_u64)(first + row) * dim; }, (dim & 7u) == 0u);
            if (MAP) {
                origin.number = first;
                map_store(stages[warp].x, origin, dim, count);
            }
            akv_u32 row = lane / groups, g = lane % groups;
            float x[32];
            take_group(x, stages[warp].x);
            if (row >= count) /* never written */
#pragma unroll
                for (int i = 0; i < 32; i++)
                    x[i] = 0.0f;
            __syncwarp();
            akv_u8 code[32];
            akv_u32 scale = quantise_group<F, SEARCH>(x, dim, rotate, lane, code);
            if (row < count)
                put_group<F>(dst, tokens, dim, order, base, at + row, g, code, scale, codes);
        }
        if (order == AKV_ORDER_QUAD && !akv_format_blocks(F))
            put_quads<F>(dst, tokens, dim, base, codes);
    }
    if (threadIdx.x == 0u)
        akv_tile_padding(dst, F, tokens, dim);
    if (saw)
        atomicOr(flags, saw);
}

/* Blocks: x = (move * layers + layer) * kv_heads + head.  One launch a side. */
template <int F, bool SEARCH, int SIDE, bool MAP> AKV_FN void seal(const akv_seal_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    __shared__ alignas(16) akv_u8 codes[16 * AKV_MAX_HEAD_DIM];
    akv_u32 head = blockIdx.x % p.kv_heads, rest = blockIdx.x / p.kv_heads;
    akv_u32 layer = rest % p.layers, move = rest / p.layers;
    akv_move m = ((const akv_move *)a.arg[1])[move];
    akv_seal_layer l = ((const akv_seal_layer *)a.arg[0])[layer];
    akv_u32 dim = SIDE ? p.v_dim : p.k_dim;
    const akv_u8 *src = akv_cu_at(a, m.src) + (SIDE ? l.src_v : l.src_k) +
                        head * akv_tile_bytes(p.hot_type, p.block_tokens, dim);
    akv_u8 *dst = akv_cu_at(a, m.dst) + (SIDE ? l.dst_v : l.dst_k) + head * akv_tile_bytes(F, p.block_tokens, dim);
    akv_u32 flags = SIDE ? p.v_flags : p.k_flags, rotate = flags & AKV_FLAG_ROTATE;
    akv_cu_origin origin = {0, SIDE ? l.v_map : l.k_map, head, 1u, m.position, 0u, 1u};
    if (MAP) {
        origin.maps = a.arg[3];
        rotate = akv_map_rotates(akv_map_at(origin.maps, origin.map));
    }
    seal_tile<F, SEARCH, MAP>(src, dst, p.hot_type, p.block_tokens, dim, rotate, SIDE ? AKV_ORDER_QUAD : AKV_ORDER_ROW,
                         (akv_u32 *)a.arg[2], stages, codes, origin);
}
template <int SIDE> AKV_FN void seal_raw(const akv_seal_params &p, const akv_cu_args &a)
{
    akv_u32 head = blockIdx.x % p.kv_heads, rest = blockIdx.x / p.kv_heads;
    akv_u32 layer = rest % p.layers, move = rest / p.layers;
    akv_move m = ((const akv_move *)a.arg[1])[move];
    akv_seal_layer l = ((const akv_seal_layer *)a.arg[0])[layer];
    akv_u32 dim = SIDE ? p.v_dim : p.k_dim, format = SIDE ? p.v_format : p.k_format;
    const akv_u8 *src = akv_cu_at(a, m.src) + (SIDE ? l.src_v : l.src_k) +
                        head * akv_tile_bytes(p.hot_type, p.block_tokens, dim);
    akv_u8 *dst =
        akv_cu_at(a, m.dst) + (SIDE ? l.dst_v : l.dst_k) + head * akv_tile_bytes(format, p.block_tokens, dim);
    for (akv_u32 e = threadIdx.x; e < p.block_tokens * dim; e += blockDim.x)
        akv_convert_element(dst, e, format, src, e, p.hot_type);
    if (threadIdx.x == 0u)
        akv_tile_padding(dst, format, p.block_tokens, dim);
}
#define SEAL_SIDE(name, F, SEARCH, SIDE, MAP)                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                           \
        akv_k_seal_##name(const __grid_constant__ akv_seal_params p, const __grid_constant__ akv_cu_args a) \
    {                                                                                                  \
        seal<F, SEARCH, SIDE, MAP>(p, a);                                                              \
    }
#define SEAL(name, F, SEARCH)                                                                          \
    SEAL_SIDE(k_##name, F, SEARCH, 0, false)                                                           \
    SEAL_SIDE(k_##name##_map, F, SEARCH, 0, true)                                                      \
    SEAL_SIDE(v_##name, F, SEARCH, 1, false)                                                           \
    SEAL_SIDE(v_##name##_map, F, SEARCH, 1, true)
SEAL(i8, AKV_I8, false)
SEAL(n6, AKV_N6, false)
SEAL(n5, AKV_N5, false)
SEAL(n4, AKV_N4, false)
SEAL(n3, AKV_N3, false)
SEAL(n2, AKV_N2, false)
SEAL(e4m3, AKV_E4M3, false)
SEAL(e4m3g, AKV_E4M3G, false)
SEAL(q8_0, AKV_Q8_0, false)
SEAL(q5_1, AKV_Q5_1, false)
SEAL(q5_0, AKV_Q5_0, false)
SEAL(q4_1, AKV_Q4_1, false)
SEAL(q4_0, AKV_Q4_0, false)
SEAL(iq4_nl, AKV_IQ4_NL, false)
SEAL(n5_search, AKV_N5, true)
SEAL(n4_search, AKV_N4, true)
SEAL(n3_search, AKV_N3, true)
SEAL(n2_search, AKV_N2, true)
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_seal_k_raw(const __grid_constant__ akv_seal_params p,
                                                                          const __grid_constant__ akv_cu_args a)
{
    seal_raw<0>(p, a);
}
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_seal_v_raw(const __grid_constant__ akv_seal_params p,
                                                                          const __grid_constant__ akv_cu_args a)
{
    seal_raw<1>(p, a);
}

/* reencode: thread blocks as for seal; the source format is known at run time only. */
template <int F, bool SEARCH>
AKV_FN void reencode_tile(const akv_u8 *src, akv_u8 *dst, akv_u32 source, akv_u32 tokens, akv_u32 dim,
                          akv_u32 order, akv_u32 *flags, akv_u8 *codes)
{
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, saw = 0u;
    akv_u32 groups = akv_padded_dim(dim) / 32u, per = 32u / groups, row = lane / groups, g = lane % groups;
    for (akv_u32 base = 0u; base < tokens; base += 16u) {
        for (akv_u32 at = warp * per; at < 16u; at += WARPS * per) {
            akv_u32 t = base + at + row, count = AKV_MIN(per, 16u - at), begin = g * 32u;
            float x[32];
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = 0.0f;
            if (row < count) {
                akv_u32 raw = akv_format_raw(source);
                for (int i = 0; i < 32; i++) {
                    akv_u32 bits = 0u;
                    if (begin + i < dim)
                        bits = raw ? akv_load_bits(src, (akv_u64)t * dim + begin + i, source)
                                   : akv_as_u32(akv_tile_value(src, source, order, tokens, dim, t, begin + i));
                    saw |= akv_saw(bits);
                    x[i] = akv_as_f32(akv_sane(bits));
                }
            }
            akv_u8 code[32];
            akv_u32 scale = quantise_group<F, SEARCH>(x, dim, 0u, lane, code);
            if (row < count)
                put_group<F>(dst, tokens, dim, order, base, at + row, g, code, scale, codes);
        }
        if (order == AKV_ORDER_QUAD && !akv_format_blocks(F))
            put_quads<F>(dst, tokens, dim, base, codes);
    }
    if (threadIdx.x == 0u)
        akv_tile_padding(dst, F, tokens, dim);
    if (saw)
        atomicOr(flags, saw);
}
/* The tiles of this thread block: one source, one destination. */
template <int SIDE>
AKV_FN void reencode_place(const akv_reencode_params &p, const akv_cu_args &a, const akv_u8 **src, akv_u8 **dst)
{
    akv_u32 head = blockIdx.x % p.kv_heads, rest = blockIdx.x / p.kv_heads;
    akv_move m = ((const akv_move *)a.arg[1])[rest / p.layers];
    akv_seal_layer l = ((const akv_seal_layer *)a.arg[0])[rest % p.layers];
    akv_u32 dim = SIDE ? p.v_dim : p.k_dim;
    *src = akv_cu_at(a, m.src) + (SIDE ? l.src_v : l.src_k) +
           head * akv_tile_bytes(SIDE ? p.v_source : p.k_source, p.block_tokens, dim);
    *dst = akv_cu_at(a, m.dst) + (SIDE ? l.dst_v : l.dst_k) +
           head * akv_tile_bytes(SIDE ? p.v_format : p.k_format, p.block_tokens, dim);
}
template <int F, bool SEARCH, int SIDE> AKV_FN void reencode(const akv_reencode_params &p, const akv_cu_args &a)
{
    __shared__ alignas(16) akv_u8 codes[16 * AKV_MAX_HEAD_DIM];
    const akv_u8 *src;
    akv_u8 *dst;
    reencode_place<SIDE>(p, a, &src, &dst);
    reencode_tile<F, SEARCH>(src, dst, SIDE ? p.v_source : p.k_source, p.block_tokens, SIDE ? p.v_dim : p.k_dim,
                             SIDE ? AKV_ORDER_QUAD : AKV_ORDER_ROW, (akv_u32 *)a.arg[2], codes);
}
/* A side whose formats are the same. */
template <int SIDE> AKV_FN void reencode_same(const akv_reencode_params &p, const akv_cu_args &a)
{
    const akv_u8 *src;
    akv_u8 *dst;
    reencode_place<SIDE>(p, a, &src, &dst);
    akv_u32 bytes = akv_tile_bytes(SIDE ? p.v_format : p.k_format, p.block_tokens, SIDE ? p.v_dim : p.k_dim);
    for (akv_u32 i = threadIdx.x; i < bytes / 16u; i += blockDim.x)
        ((uint4 *)dst)[i] = ((const uint4 *)src)[i];
}
#define REENCODE_SIDE(name, side, call)                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_reencode_##side##_##name(           \
        const __grid_constant__ akv_reencode_params p, const __grid_constant__ akv_cu_args a)          \
    {                                                                                                  \
        call(p, a);                                                                                    \
    }
#define REENCODE(name, F, SEARCH)                                                                      \
    REENCODE_SIDE(name, k, (reencode<F, SEARCH, 0>))                                                   \
    REENCODE_SIDE(name, v, (reencode<F, SEARCH, 1>))
REENCODE(i8, AKV_I8, false)
REENCODE(n6, AKV_N6, false)
REENCODE(n5, AKV_N5, false)
REENCODE(n4, AKV_N4, false)
REENCODE(n3, AKV_N3, false)
REENCODE(n2, AKV_N2, false)
REENCODE(e4m3, AKV_E4M3, false)
REENCODE(e4m3g, AKV_E4M3G, false)
REENCODE(q8_0, AKV_Q8_0, false)
REENCODE(q5_1, AKV_Q5_1, false)
REENCODE(q5_0, AKV_Q5_0, false)
REENCODE(q4_1, AKV_Q4_1, false)
REENCODE(q4_0, AKV_Q4_0, false)
REENCODE(iq4_nl, AKV_IQ4_NL, false)
REENCODE(n5_search, AKV_N5, true)
REENCODE(n4_search, AKV_N4, true)
REENCODE(n3_search, AKV_N3, true)
REENCODE(n2_search, AKV_N2, true)
REENCODE_SIDE(same, k, (reencode_same<0>))
REENCODE_SIDE(same, v, (reencode_same<1>))

/* shift: a thread block takes the tile of one (block, kv head), a warp R rows at a time, in place: all lanes
 * of a row have read it before one writes.  F: AKV_F32 stands for the raw formats. */
template <int F, bool SEARCH, bool MAP> AKV_FN void shift(const akv_shift_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, saw = 0u, dim = p.dim;
    akv_u32 groups = akv_padded_dim(dim) / 32u, per = 32u / groups, row = lane / groups, g = lane % groups;
    akv_u32 head = blockIdx.x % p.kv_heads, entry = ((const akv_u32 *)a.arg[0])[blockIdx.x / p.kv_heads];
    if (entry == AKV_NO_BLOCK || entry >> 28 != p.kind)
        return;
    akv_u32 raw = akv_format_raw(F), format = raw ? p.format : (akv_u32)F, rotate = p.flags & AKV_FLAG_ROTATE;
    akv_u8 *tile = akv_cu_at(a, akv_block_address(&p.pool, entry)) + p.offset +
                   (akv_u64)head * akv_tile_bytes(format, p.block_tokens, dim);
    const akv_map *map = MAP ? akv_map_at(a.arg[2], p.map) : 0;
    bool matrix = MAP && map->transform == AKV_TRANSFORM_MATRIX;
    if (MAP)
        rotate = akv_map_rotates(map);
    float *s = stages[warp].x;
    for (akv_u32 at = warp * per; at < p.block_tokens; at += WARPS * per) {
        akv_u32 count = AKV_MIN(per, p.block_tokens - at);
        float x[32];
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = 0.0f;
        for (akv_u32 i = 0u; row < count && i < 32u && g * 32u + i < dim; i++) {
            akv_u32 bits = raw ? akv_load_bits(tile, (akv_u64)(at + row) * dim + g * 32u + i, format)
                               : akv_as_u32(akv_tile_value(tile, format, AKV_ORDER_ROW, p.block_tokens, dim, at + row,
                                                           g * 32u + i));
            if (raw) {
                saw |= akv_saw(bits);
                bits = akv_sane(bits);
            }
            x[i] = akv_as_f32(bits);
        }
        if (!raw && rotate) {
            float factor = akv_rotate_read_factor(dim);
            rotate_groups(x, dim, lane);
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = x[i] * factor;
        }
#pragma unroll
        for (int i = 0; i < 32; i++)
            s[lane * PITCH + i] = x[i];
        __syncwarp();
        if (matrix)
            stage_multiply<false>(s, a.arg[2] + akv_map_inverse_row(map, head, dim, 0u), dim, count);
        for (akv_u32 r = 0u; r < count; r++) {
            for (akv_u32 i = lane; i < p.pairs; i += 32u) {
                akv_turn turn = akv_rope_turn(akv_shift_phase(a.arg[3], i));
                float *u = stage_element(s, groups, r, p.rope == AKV_ROPE_HALF ? i : 2u * i);
                float *v = stage_element(s, groups, r, p.rope == AKV_ROPE_HALF ? i + p.pairs : 2u * i + 1u);
                float first = akv_rope_first(turn, *u, *v), second = akv_rope_second(turn, *u, *v);
                *u = first;
                *v = second;
            }
            __syncwarp();
            for (akv_u32 i = lane; i < dim; i += 32u) {
                float *y = stage_element(s, groups, r, i);
                *y = akv_as_f32(akv_sane(akv_as_u32(*y)));
                if (raw)
                    akv_store_bits(tile, (akv_u64)(at + r) * dim + i, format, akv_as_u32(*y));
            }
            __syncwarp();
        }
        if (matrix)
            stage_multiply<true>(s, a.arg[2] + akv_map_matrix_row(map, head, dim, 0u), dim, count);
        if (!raw) {
#pragma unroll
            for (int i = 0; i < 32; i++)
                x[i] = row < count && g * 32u + i < dim ? s[lane * PITCH + i] : 0.0f;
            __syncwarp();
            akv_u8 code[32];
            akv_u32 scale = quantise_group<F, SEARCH>(x, dim, rotate, lane, code);
            if (row < count)
                put_group<F>(tile, p.block_tokens, dim, AKV_ORDER_ROW, 0u, at + row, g, code, scale, (akv_u8 *)0);
        }
    }
    if (saw)
        atomicOr((akv_u32 *)a.arg[1], saw);
}
#define SHIFT_MAP(name, F, SEARCH, MAP)                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_shift_##name(                       \
        const __grid_constant__ akv_shift_params p, const __grid_constant__ akv_cu_args a)             \
    {                                                                                                  \
        shift<F, SEARCH, MAP>(p, a);                                                                   \
    }
#define SHIFT(name, F, SEARCH)                                                                         \
    SHIFT_MAP(name, F, SEARCH, false)                                                                  \
    SHIFT_MAP(name##_map, F, SEARCH, true)
SHIFT_MAP(raw, AKV_F32, false, false)
SHIFT(i8, AKV_I8, false)
SHIFT(n6, AKV_N6, false)
SHIFT(n5, AKV_N5, false)
SHIFT(n4, AKV_N4, false)
SHIFT(n3, AKV_N3, false)
SHIFT(n2, AKV_N2, false)
SHIFT(e4m3, AKV_E4M3, false)
SHIFT(e4m3g, AKV_E4M3G, false)
SHIFT(q8_0, AKV_Q8_0, false)
SHIFT(q5_1, AKV_Q5_1, false)
SHIFT(q5_0, AKV_Q5_0, false)
SHIFT(q4_1, AKV_Q4_1, false)
SHIFT(q4_0, AKV_Q4_0, false)
SHIFT(iq4_nl, AKV_IQ4_NL, false)
SHIFT(n5_search, AKV_N5, true)
SHIFT(n4_search, AKV_N4, true)
SHIFT(n3_search, AKV_N3, true)
SHIFT(n2_search, AKV_N2, true)

/* gather: a warp takes R (row, head) pairs; lane l holds group l % G of pair l / G. */
template <bool MAP> AKV_FN void gather(const akv_gather_params &p, const akv_cu_args &a)
{
    __shared__ stage stages[WARPS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u;
    akv_u32 groups = akv_padded_dim(p.dim) / 32u, per = 32u / groups, row = lane / groups, g = lane % groups;
    const akv_map *map = MAP ? akv_map_at(a.arg[2], p.map) : 0;
    warp_rows mine = rows_of_warp(p.tokens, p.rows.heads, per, MAP && map->transform == AKV_TRANSFORM_MATRIX);
    akv_u32 first = mine.first, count = mine.count;
    if (count == 0u)
        return;
    akv_u32 format = 0u, held = 0u;
    const akv_u8 *tile = 0;
    float x[32];
#pragma unroll
    for (int i = 0; i < 32; i++)
        x[i] = 0.0f;
    akv_u32 t = 0u;
    if (row < count) {
        akv_u32 number = first + row * mine.step, token = number / p.rows.heads, head = number % p.rows.heads;
        akv_u32 at = token + p.first_row, entry = ((const akv_u32 *)a.arg[0])[at / p.block_tokens];
        t = at % p.block_tokens;
        if (entry != AKV_NO_BLOCK) {
            held = 1u;
            format = p.format[entry >> 28];
            tile = akv_cu_at(a, akv_block_address(&p.pool, entry)) + p.offset[entry >> 28] +
                   head * akv_tile_bytes(format, p.block_tokens, p.dim);
        }
    }
    akv_u32 raw = held && akv_format_raw(format), packed = held && !raw;
    if (packed) {
        for (int i = 0; i < 32; i++)
            x[i] = akv_tile_value(tile, format, p.order, p.block_tokens, p.dim, t, g * 32u + i);
    }
    if (MAP ? akv_map_rotates(map) : p.flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_read_factor(p.dim);
        rotate_groups(x, p.dim, lane);
#pragma unroll
        for (int i = 0; i < 32; i++)
            x[i] = x[i] * factor;
    }
    leave_group(stages[warp].x, x);
    __syncwarp();
    akv_u32 lanes = __ballot_sync(0xFFFFFFFFu, packed != 0u);
    if (MAP)
        map_back(stages[warp].x, {a.arg[2], p.map, 0u, p.rows.heads, p.position + p.first_row, first, mine.step}, p.dim,
                 count, lanes);
    for (akv_u32 r = 0u; r < count; r++) {
        akv_u32 owner = r * groups, is_raw = __shfl_sync(0xFFFFFFFFu, raw, owner);
        akv_u32 from = __shfl_sync(0xFFFFFFFFu, format, owner), row_t = __shfl_sync(0xFFFFFFFFu, t, owner);
        const akv_u8 *source = (const akv_u8 *)__shfl_sync(0xFFFFFFFFu, (akv_u64)tile, owner);
        akv_u32 number = first + r * mine.step, token = number / p.rows.heads;
        akv_u64 at = token * p.rows.token_stride + (number - token * p.rows.heads) * p.rows.head_stride;
        const float *y = stages[warp].x + owner * PITCH;
        for (akv_u32 i = lane; i < p.dim; i += 32u) {
            if (is_raw)
                akv_convert_element(a.arg[1], at + i, p.rows.dtype, source, (akv_u64)row_t * p.dim + i, from);
            else
                akv_store_bits(a.arg[1], at + i, p.rows.dtype, akv_as_u32(y[(i >> 5) * PITCH + (i & 31u)]));
        }
    }
}
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_gather(const __grid_constant__ akv_gather_params p,
                                                                      const __grid_constant__ akv_cu_args a)
{
    gather<false>(p, a);
}
extern "C" __global__ void __launch_bounds__(WARPS * 32) akv_k_gather_map(const __grid_constant__ akv_gather_params p,
                                                                          const __grid_constant__ akv_cu_args a)
{
    gather<true>(p, a);
}
