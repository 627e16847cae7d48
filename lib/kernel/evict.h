/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction of tokens: scores of rows, the rows to keep, their way into dense blocks.
 *
 * Values of a row enter as level(x): NaN gives +0, |x| > 2^40 gives ±2^40, |x| < 2^-24 gives +0, so
 * that nothing below depends on the treatment of denormals or overflows.
 *
 * sum(a, b) of two rows of dim elements: lane j = 0 … 31 is the chain of fused multiply-adds over
 * the elements j, j + 32, j + 64 … ascending from +0; then lane j becomes lane j + lane (j + s) for
 * j < s, s = 16, 8, 4, 2, 1, each sum correctly rounded; the result is lane 0.
 *
 * score (class EXACT).  kk = sum(k, k), vv = sum(v, v), kw = sum(k, w), w at its level too;
 * r(x) = akv_inverse_root(x), 0 of 0.
 *     NORM    order(-kk)
 *     AFFINE  order(fma(b, kk * r(kk), kw))
 *     DIFF    order(-(kw * r(kk)))
 *     RATIO   rint(min((vv * r(vv)) * r(kk), 32767) * 65536); kk = 0: 0x7FFF0000, 0 where vv = 0 too
 *     order(x): bits of x as a signed integer with the same order, 0 for |x| < 2^-100.
 *     A row of which k (RATIO: or v) holds a NaN gets 0x7FFFFFFF: it is kept.  A block that is not
 *     held scores 0x80000000.
 *
 * mean (EXACT).  Sum over rows of rint((k_i * r(kk)) * 2^20), integers, so in any order; rows with a
 *     NaN count as 0.
 *
 * mass (BOUNDED).  For every key row j, query i and q head h of the key's group, j <= position(i) and
 *     within the window: p = min(1, e^(s - lse)), s as attend's score; sum of rint(p * 2^20) added to
 *     the row's score, the sum stops at 0x7FFFFFFF (which, for addends >= 0, is order-free).
 *     Against exact arithmetic each addend errs by at most 1 + p * 2^20 * (|s| + |lse| + 8) * 2^-20.
 *
 * select (EXACT).  value(i) = score(i); pool > 1: the sum of the scores of i - pool/2 … i + pool/2
 *     that exist, divided by pool; unit > 1: the sum over the unit's rows divided by unit; SHARED:
 *     the sum of that over heads divided by heads; divisions of 64-bit integers, towards zero.
 *     Candidates are ordered by (value, then the older first, then the lower head); the `keep`
 *     first units stay, unique.  ADAPTIVE: every head's `least` first stay, then over all heads of
 *     the problem the first of the rest up to keep * heads in all.  The kept rows of a head, with
 *     those outside of first … last - 1, are listed ascending.
 *
 * compact (EXACT).  Row j of the destination's blocks is row rows[j] of the source's, codes and
 *     scales bit by bit, j < count; rows from count to the end of the last block that has one are
 *     zero bits, and so is the padding of tiles; blocks behind it are left alone.  rows[j] >= j, so
 *     that with ascending j it can be done in place. */
#ifndef AKV_KERNEL_EVICT_H
#define AKV_KERNEL_EVICT_H
#include "attend.h"
#include "ggml.h"
#include "pack.h"
#include "quant.h"

#define AKV_SELECT_ALL  0xFFFFFFFFFFFFFFFEul
#define AKV_SCORE_KEEP  0x7FFFFFFF
#define AKV_SCORE_GONE  (-0x7FFFFFFF - 1)
#define AKV_LEVEL_HUGE  0x53800000u /* 2^40 */
#define AKV_ORDER_TINY  0x0D800000u /* 2^-100 */
#define AKV_RATIO_MOST  32767.0f
#define AKV_RATIO_UNIT  65536.0f

/* ---- score ---- */
AKV_FN float akv_level(akv_u32 bits)
{
    akv_u32 a = bits & 0x7FFFFFFFu;
    if (a > 0x7F800000u || a < AKV_TINY_BITS)
        return 0.0f;
    return akv_as_f32((bits & 0x80000000u) | (a > AKV_LEVEL_HUGE ? AKV_LEVEL_HUGE : a));
}
AKV_FN akv_u32 akv_is_nan(akv_u32 bits)
{
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? 1u : 0u;
}
/* 1/sqrt(x) for x = 0 (gives 0) or 2^-60 <= x <= 2^100, relative error below 2^-21; the same bits
 * everywhere: an estimate from the exponent, then three steps of Newton in fused arithmetic. */
AKV_FN float akv_inverse_root(float x)
{
    float h = 0.5f * x, y = akv_as_f32(0x5F3759DFu - (akv_as_u32(x) >> 1)), e;
    akv_u32 i;
    if (!(x > 0.0f))
        return 0.0f;
    for (i = 0u; i < 3u; i++) {
        e = h * y;
        e = AKV_FMA(-e, y, 0.5f);
        y = AKV_FMA(y, e, y);
    }
    return y;
}
/* Sum of 32 lanes in the order of the contract; the lanes are spoilt. */
AKV_FN float akv_lane_sum(float *lane)
{
    akv_u32 s, j;
    for (s = 16u; s > 0u; s >>= 1)
        for (j = 0u; j < s; j++)
            lane[j] = lane[j] + lane[j + s];
    return lane[0];
}
AKV_FN akv_i32 akv_score_order(float x)
{
    akv_u32 bits = akv_as_u32(x);
    if ((bits & 0x7FFFFFFFu) < AKV_ORDER_TINY)
        return 0;
    return (akv_i32)((bits & 0x80000000u) ? bits ^ 0x7FFFFFFFu : bits);
}
AKV_FN akv_i32 akv_score_of(akv_u32 method, float kk, float vv, float kw, float b)
{
    float x;
    if (method == AKV_SCORE_NORM)
        return akv_score_order(-kk);
    if (method == AKV_SCORE_AFFINE) {
        x = kk * akv_inverse_root(kk);
        return akv_score_order(AKV_FMA(b, x, kw));
    }
    if (method == AKV_SCORE_DIFF) {
        x = kw * akv_inverse_root(kk);
        return akv_score_order(-x);
    }
    if (kk == 0.0f)
        return vv == 0.0f ? 0 : 0x7FFF0000;
    x = vv * akv_inverse_root(vv);
    x = x * akv_inverse_root(kk);
    x = x > AKV_RATIO_MOST ? AKV_RATIO_MOST : x;
    return AKV_RINT(x * AKV_RATIO_UNIT);
}
/* Which of the two copies of weights or queries a kind's rows take: 1 for rotated ones. */
AKV_FN akv_u32 akv_score_side(akv_u32 format, akv_u32 flags)
{
    return !akv_format_raw(format) && (flags & AKV_FLAG_ROTATE) ? 1u : 0u;
}

/* One element of a tile as bits of an f32: for readers that pick single elements. */
AKV_FN akv_u32 akv_tile_bits(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 order,
                             akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 i)
{
    akv_u32 code, scale;
    if (akv_format_raw(format))
        return akv_load_bits(tile, (akv_u64)t * dim + i, format);
    if (akv_format_blocks(format)) {
        float x[32];
        akv_block_load(tile, format, dim, t, i >> 5, x);
        return akv_as_u32(x[i & 31u]);
    }
    code = akv_code_get(tile, format, order, tokens, dim, t, i);
    scale = akv_scale_get(tile, format, order, tokens, dim, t, i / akv_scale_width(format));
    return akv_as_u32(akv_code_value(format, code, akv_code_unit(format, scale)));
}

/* ---- mass ---- */
AKV_FN akv_i32 akv_mass_of(float product, float scale, float cap, float lse)
{
    float s = akv_attend_score(product * scale, cap) - lse;
    s = s < 0.0f ? s : 0.0f;
    return AKV_RINT(akv_exp(s) * AKV_MASS_UNIT);
}
AKV_FN akv_i32 akv_mass_add(akv_i32 score, akv_u64 more)
{
    akv_u64 room = score < 0 ? 0u : (akv_u64)(AKV_SCORE_KEEP - score);
    return more > room ? (score < 0 ? score : AKV_SCORE_KEEP) : (akv_i32)((akv_u32)score + (akv_u32)more);
}

/* ---- select ---- */
/* Value of unit u (number among the candidates) of one head. */
AKV_FN akv_i64 akv_select_own(const akv_select_params *p, const AKV_GLOBAL akv_i32 *scores, akv_u32 u)
{
    akv_u32 begin = p->first + u * p->unit, count = p->unit, i, row;
    akv_i64 sum = 0;
    if (p->unit == 1u && p->pool > 1u) {
        count = p->pool;
        begin -= count >> 1; /* may wrap: such rows do not exist */
    }
    for (i = 0u; i < count; i++) {
        row = begin + i;
        if (row < p->rows)
            sum += scores[row];
    }
    return sum / (akv_i64)count;
}
/* Key of unit u of a head of a problem (scores: of the problem's first head): value, then age; no
 * two of a head are equal, all are below AKV_SELECT_ALL.  The largest keys stay. */
AKV_FN akv_u64 akv_select_key(const akv_select_params *p, const AKV_GLOBAL akv_i32 *scores,
                              akv_u32 head, akv_u32 u)
{
    akv_i64 value = 0;
    akv_u32 h;
    if (p->flags & AKV_SELECT_SHARED) {
        for (h = 0u; h < p->heads; h++)
            value += akv_select_own(p, scores + (akv_u64)h * p->stride, u);
        value = value / (akv_i64)p->heads;
    } else {
        value = akv_select_own(p, scores + (akv_u64)head * p->stride, u);
    }
    return ((akv_u64)((akv_u32)(akv_i32)value ^ 0x80000000u) << 32) | (akv_u64)(0xFFFFFFFDu - u);
}
AKV_FN akv_u32 akv_select_unit(akv_u64 key)
{
    return 0xFFFFFFFDu - (akv_u32)key;
}
AKV_FN akv_u32 akv_select_units(const akv_select_params *p)
{
    return (p->last - p->first) / p->unit;
}

/* ---- compact ---- */
/* Bytes of a row of a tile that is one row after the other; 0: it has planes. */
AKV_FN akv_u32 akv_row_bytes(akv_u32 format, akv_u32 dim)
{
    if (akv_format_raw(format))
        return dim * akv_raw_bytes(format);
    return akv_format_blocks(format) ? akv_padded_dim(dim) / 32u * akv_block_bytes(format) : 0u;
}
/* Bits of one token's elements in every word of a QUAD plane of `bits`: token 0's. */
AKV_FN akv_u32 akv_quad_mask(akv_u32 bits)
{
    return bits == 8u ? 0xFFu : bits == 4u ? 0x000F000Fu : bits == 2u ? 0x03030303u : 0x11111111u;
}

#endif
