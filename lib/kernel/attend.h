/* SPDX-License-Identifier: Apache-2.0 */
/* Attention: which key a query sees, how a sequence is split, how scores become weights.
 *
 * Contract (class BOUNDED; docs/attention.md gives the bounds).  Sequence of `length` positions
 * before the step and `count` new tokens; new token i has position p = length + i.
 *   visible(p)  keys j with first(p) <= j < end(i), whose block is held:
 *               first(p) = max(0, p - window + 1), window 0: 0;
 *               end(i) = p + 1, or length + count when bidirectional or with a mask.
 *   s_j   = cap(scale * q.k_j) + mask(i, j - length) for new tokens j; cap(x) = x without a cap,
 *           else cap * tanh(x / cap).  |scale * q.k_j| is clamped to 1e37.
 *   m     = max_j s_j,  l = sum_j e^(s_j - m) + e^(sink - m),  out = sum_j e^(s_j - m) v_j / l,
 *   lse   = m + ln l.  No visible key: out = 0, and lse = sink, -inf without one.
 * Stored rows may be rotated: the query is then turned with akv_rotate_read (which moves the
 * factor of the product along), the sum of the stored values is turned back with it.
 *
 * A part of the keys gives (m, l, sum); parts are merged in ascending order of positions:
 *   M = max m_i,  l = sum_i l_i e^(m_i - M),  sum = sum_i sum_i e^(m_i - M).
 * Where the parts begin depends on the sequence's own length and count alone. */
#ifndef AKV_KERNEL_ATTEND_H
#define AKV_KERNEL_ATTEND_H
#include "params.h"

#define AKV_ATTEND_CLAMP 1e37f
#define AKV_LOG2E        0x1.715476p+0f

#if defined(AKV_OPENCL)
#define AKV_LOG(x) log(x)
#else
#define AKV_LOG(x) logf(x)
#endif

AKV_FN float akv_minus_infinity(void)
{
    return akv_as_f32(0xFF800000u);
}

/* 2^x for x <= 127, relative error below 2.5e-7; 0 for x < -126 and for -inf.  n = nearest integer
 * of x, then a polynomial of x - n in -0.5 .. 0.5 (minimax, constant term 1). */
#define AKV_EXP2_C1 0x1.62e42ap-1f
#define AKV_EXP2_C2 0x1.ebf9bcp-3f
#define AKV_EXP2_C3 0x1.c6b752p-5f
#define AKV_EXP2_C4 0x1.3cea88p-7f
#define AKV_EXP2_C5 0x1.5bba12p-10f
AKV_FN float akv_exp2(float x)
{
    akv_i32 n;
    float f, y;
    if (!(x >= -126.0f))
        return 0.0f;
    n = AKV_RINT(x);
    f = x - (float)n;
    y = AKV_EXP2_C5 * f + AKV_EXP2_C4;
    y = y * f + AKV_EXP2_C3;
    y = y * f + AKV_EXP2_C2;
    y = y * f + AKV_EXP2_C1;
    y = y * f + 1.0f;
    return y * akv_as_f32((akv_u32)(n + 127) << 23);
}
/* e^x for x <= 0. */
AKV_FN float akv_exp(float x)
{
    return akv_exp2(x * AKV_LOG2E);
}
/* cap * tanh(x / cap), cap > 0. */
AKV_FN float akv_soft_cap(float x, float cap)
{
    float a = x < 0.0f ? -x : x, t = akv_exp2(a * (-2.0f * AKV_LOG2E / cap));
    float y = cap * ((1.0f - t) / (1.0f + t));
    return x < 0.0f ? -y : y;
}
/* Score of a product scale * q.k, before the mask. */
AKV_FN float akv_attend_score(float x, float cap)
{
    x = x > AKV_ATTEND_CLAMP ? AKV_ATTEND_CLAMP : x;
    x = x < -AKV_ATTEND_CLAMP ? -AKV_ATTEND_CLAMP : x;
    return cap > 0.0f ? akv_soft_cap(x, cap) : x;
}

/* First position that a query at `position` sees, and one past the last for new token i. */
AKV_FN akv_u32 akv_attend_first(akv_u32 position, akv_u32 window)
{
    return window == 0u || position < window ? 0u : position - window + 1u;
}
AKV_FN akv_u32 akv_attend_end(akv_u32 length, akv_u32 count, akv_u32 i, akv_u32 flags)
{
    return length + (flags & (AKV_ATTEND_BIDIRECTIONAL | AKV_ATTEND_MASK) ? count : i + 1u);
}

/* Positions of one part: `total` = length + count; at least `least` positions a part, at most
 * `most` parts for one new token, fewer for more, one from `most` new tokens up.  A multiple of
 * 256, so of every block size. */
AKV_FN akv_u32 akv_attend_part(akv_u32 total, akv_u32 count, akv_u32 least, akv_u32 most)
{
    akv_u32 parts = count >= most ? 1u : most / (count ? count : 1u), each = total / parts + 1u;
    each = each < least ? least : each;
    return (each + 255u) & ~255u;
}

/* Running (m, l) of a softmax: takes in a part with maximum m and sum l.  The sums of values are
 * to be multiplied by the factors: what was there by keep, what comes by take. */
typedef struct akv_softmax {
    float m, l;
} akv_softmax;
typedef struct akv_softmax_factors {
    float keep, take;
} akv_softmax_factors;
AKV_FN akv_softmax akv_softmax_empty(void)
{
    akv_softmax s;
    s.m = akv_minus_infinity();
    s.l = 0.0f;
    return s;
}
AKV_FN akv_softmax_factors akv_softmax_between(float m, float part_m)
{
    akv_softmax_factors f;
    f.keep = m >= part_m ? 1.0f : akv_exp(m - part_m);
    f.take = part_m >= m ? 1.0f : akv_exp(part_m - m);
    if (!(part_m > akv_minus_infinity())) { /* nothing comes */
        f.keep = 1.0f;
        f.take = 0.0f;
    }
    return f;
}
AKV_FN akv_softmax_factors akv_softmax_merge(akv_softmax *s, float part_m, float part_l)
{
    akv_softmax_factors f = akv_softmax_between(s->m, part_m);
    s->l = s->l * f.keep + part_l * f.take;
    s->m = part_m > s->m ? part_m : s->m;
    return f;
}
AKV_FN float akv_softmax_lse(akv_softmax s)
{
    return s.l > 0.0f ? s.m + AKV_LOG(s.l) : akv_minus_infinity();
}

#endif
