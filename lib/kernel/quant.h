/* SPDX-License-Identifier: Apache-2.0 */
/* Scales and codes of the quantised formats, for private arrays of sane values (fp.h).
 *
 * Contract (class EXACT); docs/format.md has the tables.  amax = max |x| over the elements of one
 * scale, as integer maximum of bits.  NaN cannot occur: values are sane.
 *
 * I8, N6: d = min(f16(amax * C), 65504), C = f32(1/127), f32(1/31), an f32 product rounded to f16.
 *     code = integer nearest to x/d in real arithmetic, ties to even, clamped to ±127, ±31; 0 if d
 * = 0. Stored: I8 the byte, N6 code + 32.  Value: d * code, exact in f32.
 *
 * E4M3: d = min(f16(amax * f32(1/448)), 65504), one for a row.  code = e4m3 number nearest to x/d in
 *     real arithmetic, ties to the even byte, ±448 at most; +0 for 0 and if d = 0.  Value: d * code,
 *     exact in f32, +0 for 0; a NaN code reads as 0x7FC00000.
 *
 * E4M3G: the same with d = 1, which is not stored; what a scale shall do is done before (map.h).
 *
 * N5 … N2: d = ue5m3(amax * B[m]), B[m] = f32(r_m * 128/127); m = 0 without search.
 *     code = index of the value nearest to x among d*c/128, c ascending over the codebook, in real
 *     arithmetic, ties to the even index; the first positive index if d = 0, which reads as +0.
 *     Value: d * c / 128, exact in f32 and in f16.
 *
 * Search: e = exponent of amax, n_i = rint(|x_i| * 2^(12-e)), d = M * 2^q with an integer M < 16;
 *     level r_j = M * c_j * 2^(q+5-e) over the positive codebook, rounded half up where the shift
 * is to the right, 0 for shifts beyond 31; error = sum over i of min over j of (n_i - r_j)^2, which
 * fits 32 bits.  The least error wins, the least m on ties. */
#ifndef AKV_KERNEL_QUANT_H
#define AKV_KERNEL_QUANT_H
#include "fp.h"

#define AKV_CANDIDATES 8u
#define AKV_INVERSE_I8 0x1.020408p-7f /* 1/127 and 1/31 in f32 */
#define AKV_INVERSE_N6 0x1.08421p-5f
#define AKV_INVERSE_E4M3 0x1.24924ap-9f /* 1/448 */

/* Positive halves of the codebooks (Gaussian Lloyd-Max), N2, N3, N4, N5: a format with L positive
 * levels starts at L - 2. */
AKV_TABLE akv_u8 akv_codebook[30] = {38, 127,                                               /* N2 */
                                     14, 45,  79, 127,                                      /* N3 */
                                     6,  18,  31, 44,  58, 75, 96, 127,                     /* N4 */
                                     3,  8,   13, 18,  24, 29, 35, 41,  47, 54, 61, 70, 79, /* N5 */
                                     90, 105, 127};

/* r_m * 128 / 127 in f32: N5, N4, N3, N2. */
AKV_TABLE float akv_candidate[4][8] = {
    {0x1.020408p+0f, 0x1.f48cfp-1f, 0x1.e511d2p-1f, 0x1.d596b2p-1f, 0x1.c61b94p-1f, 0x1.b6a074p-1f,
     0x1.09c198p+0f, 0x1.a72554p-1f},
    {0x1.020408p+0f, 0x1.ef63e6p-1f, 0x1.dabfbcp-1f, 0x1.c61b94p-1f, 0x1.b1776ap-1f, 0x1.9cd34p-1f,
     0x1.882f16p-1f, 0x1.738aecp-1f},
    {0x1.020408p+0f, 0x1.e511d2p-1f, 0x1.c61b94p-1f, 0x1.a72554p-1f, 0x1.882f16p-1f, 0x1.6938d8p-1f,
     0x1.4a429ap-1f, 0x1.2b4c5cp-1f},
    {0x1.020408p+0f, 0x1.dabfbcp-1f, 0x1.b1776ap-1f, 0x1.882f16p-1f, 0x1.5ee6c4p-1f, 0x1.359e7p-1f,
     0x1.0c561cp-1f, 0x1.c61b94p-2f}};

/* Positive levels of a codebook format: N5 16, N4 8, N3 4, N2 2. */
AKV_FN akv_u32 akv_levels(akv_u32 format)
{
    return 16u >> (format - AKV_N5);
}
/* Codebook entry of an index. */
AKV_FN akv_i32 akv_codebook_entry(akv_u32 format, akv_u32 index)
{
    akv_u32 levels = akv_levels(format);
    if (index >= levels)
        return (akv_i32)akv_codebook[index - 2u]; /* (levels - 2) + (index - levels) */
    return -(akv_i32)akv_codebook[2u * levels - 3u - index];
}

/* Bits of the largest magnitude of count private values; at least `amax`, so that calls chain. */
AKV_FN akv_u32 akv_amax(const float *x, akv_u32 count, akv_u32 amax)
{
    akv_u32 i, a;
    AKV_UNROLL
    for (i = 0u; i < count; i++) {
        a = akv_as_u32(x[i]) & 0x7FFFFFFFu;
        amax = a > amax ? a : amax;
    }
    return amax;
}

/* ---- I8, N6 ---- */
AKV_FN akv_u32 akv_uniform_scale(akv_u32 amax, akv_u32 format) /* f16 bits */
{
    float inverse = format == AKV_I8     ? AKV_INVERSE_I8
                    : format == AKV_E4M3 ? AKV_INVERSE_E4M3
                                         : AKV_INVERSE_N6;
    akv_u32 h = akv_f16_from_f32(akv_as_u32(akv_as_f32(amax) * inverse));
    if (format == AKV_E4M3G)
        return 0x3C00u;
    return h > 0x7BFFu ? 0x7BFFu : h;
}
/* 1/d in two parts, relative error of the sum below 2^-38.  hi may come from any division or
 * estimate with a relative error up to 2^-20: the codes below do not depend on it. */
typedef struct akv_reciprocal {
    float hi, lo;
} akv_reciprocal;
AKV_FN akv_reciprocal akv_reciprocal_of(float d) /* 0 of 0 */
{
    akv_reciprocal r;
    r.hi = 0.0f;
    r.lo = 0.0f;
    if (d > 0.0f) {
        r.hi = 1.0f / d;
        r.lo = AKV_FMA(-r.hi, d, 1.0f) * r.hi;
    }
    return r;
}
/* Nearest integer of x/d, ties to even, clamped to ±limit (127 or 31).
 * Why it is exact: let h be a half-integer up to limit; y = h*d has at most 19 significant bits and
 * is an f32.  Where x = y, the fused sum is h*(1 + 2^-38) before its rounding, hence h.  Elsewhere
 * |x - y| is at least the distance of neighbouring f32 at y, and x/d stands off h by more than (1 +
 * 2^-11) times half the distance of neighbouring f32 at h, so that its rounding cannot reach h. */
AKV_FN akv_i32 akv_uniform_code(float x, akv_reciprocal r, float limit)
{
    float t = AKV_FMA(x, r.hi, x * r.lo);
    t = t > limit ? limit : t;
    t = t < -limit ? -limit : t;
    return AKV_RINT(t);
}

/* Nearest e4m3 number of x/d, ties to the even byte.  A tie is a number of at most five significant
 * bits, so the reasoning of akv_uniform_code holds: t is on the right side of it, or is it. */
AKV_FN akv_u32 akv_e4m3_code(float x, akv_reciprocal r)
{
    float t = AKV_FMA(x, r.hi, x * r.lo);
    return t == 0.0f ? 0u : akv_e4m3_from_f32(akv_as_u32(t));
}

/* ---- N5, N4, N3, N2 ---- */
AKV_FN akv_u32 akv_codebook_scale(akv_u32 amax, akv_u32 format, akv_u32 m) /* ue5m3 */
{
    return akv_ue5m3_from_f32(akv_as_u32(akv_as_f32(amax) * akv_candidate[format - AKV_N5][m]));
}
/* Level M*c of scale byte s in units of 2^(e-12), e + 127 = exponent. */
AKV_FN akv_i32 akv_search_level(akv_u32 s, akv_u32 c, akv_u32 exponent)
{
    akv_u32 m = s < 8u ? s : 8u + (s & 7u);
    akv_i32 q = s < 8u ? -17 : (akv_i32)(s >> 3) - 18, shift = q + 5 + 127 - (akv_i32)exponent;
    if (shift >= 0)
        return (akv_i32)((m * c) << shift);
    if (shift < -31)
        return 0;
    return (akv_i32)(((m * c) + (1u << (-shift - 1))) >> -shift);
}
/* Scale byte of a group of 32 by scale search. */
AKV_FN akv_u32 akv_search_scale(const float *x, akv_u32 amax, akv_u32 format)
{
    akv_u32 levels = akv_levels(format), exponent = amax >> 23, best = 0u, best_error = 0xFFFFFFFFu;
    akv_u32 previous = 256u, m, s, i, j;
    akv_i32 n[32], r[16];
    float unit = akv_as_f32((266u - exponent) << 23); /* 2^(12-e) */
    if (amax == 0u)
        return 0u;
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        n[i] = AKV_RINT(akv_as_f32(akv_as_u32(x[i]) & 0x7FFFFFFFu) * unit);
    for (m = 0u; m < AKV_CANDIDATES; m++) {
        akv_u32 error = 0u;
        s = akv_codebook_scale(amax, format, m);
        if (s == previous) /* the same scale has the same error, which is not less */
            continue;
        previous = s;
        AKV_UNROLL
        for (j = 0u; j < levels; j++)
            r[j] = akv_search_level(s, akv_codebook[levels - 2u + j], exponent);
        AKV_UNROLL
        for (i = 0u; i < 32u; i++) {
            akv_i32 least = 0x7FFFFFFF;
            AKV_UNROLL
            for (j = 0u; j < levels; j++) {
                akv_i32 distance = n[i] > r[j] ? n[i] - r[j] : r[j] - n[i];
                least = distance < least ? distance : least;
            }
            error += (akv_u32)least * (akv_u32)least;
        }
        if (error < best_error) {
            best_error = error;
            best = s;
        }
    }
    return best;
}
/* Is z beyond the middle one of 2 * n - 1 thresholds?  The n - 1 on its side are left. */
AKV_FN akv_u32 akv_halve(akv_u32 *left, akv_u32 n, akv_u32 z)
{
    akv_u32 up = z > left[n - 1u] ? 1u : 0u, j;
    AKV_UNROLL
    for (j = 0u; j + 1u < n; j++)
        left[j] = up ? left[n + j] : left[j];
    return up;
}
/* Codes of 32 values.  A threshold T_j = (c_j + c_j+1) * d / 256 is exact in f32.  A tie goes to the even
 * index: up from an odd j for x >= 0, up from an even j for x < 0.  z = 2 * bits of |x| + sign has both:
 * z > 2 * T is |x| > T for x >= 0 and |x| >= T for x < 0, and with the lowest bit turned the other way
 * round.  Halving the thresholds meets odd j in all steps but the last. */
AKV_FN void akv_codebook_codes(const float *x, akv_u32 s, akv_u32 format, akv_u8 *code)
{
    akv_u32 levels = AKV_MAX(akv_levels(format), 2u), i, j, t[16]; /* 2 of N2 are the fewest: compilers cannot see it */
    akv_u32 turn = s == 0u ? 0u : 2u * levels - 1u; /* of codes below zero */
    float unit = akv_f32_from_ue5m3(s) * 0x1p-8f;
    AKV_UNROLL
    for (j = 0u; j + 1u < levels; j++) {
        akv_i32 sum = akv_codebook[levels - 2u + j] + akv_codebook[levels - 1u + j];
        t[j] = s == 0u ? 0xFFFFFFFFu : akv_as_u32((float)sum * unit) << 1;
    }
    AKV_UNROLL
    for (i = 0u; i < 32u; i++) {
        akv_u32 bits = akv_as_u32(x[i]), z = akv_rotl1(bits), p = 1u, left[16];
        AKV_UNROLL
        for (j = 0u; j + 1u < levels; j++)
            left[j] = t[j];
        if (levels > 8u)
            p = 2u * p + akv_halve(left, 8u, z ^ 1u);
        if (levels > 4u)
            p = 2u * p + akv_halve(left, 4u, z ^ 1u);
        if (levels > 2u)
            p = 2u * p + akv_halve(left, 2u, z ^ 1u);
        p = 2u * p + akv_halve(left, 1u, z);
        code[i] = (akv_u8)(p ^ ((0u - (bits >> 31)) & turn));
    }
}

/* ---- any quantised format ---- */
/* Stored scale of the elements whose amax is given; x is used by the search only (32 values). */
AKV_FN akv_u32 akv_scale_of(const float *x, akv_u32 amax, akv_u32 format, akv_u32 search)
{
    if (!akv_format_codebook(format))
        return akv_uniform_scale(amax, format);
    return search ? akv_search_scale(x, amax, format) : akv_codebook_scale(amax, format, 0u);
}
/* The scale as a number. */
AKV_FN float akv_scale_value(akv_u32 format, akv_u32 scale)
{
    return akv_format_codebook(format) ? akv_f32_from_ue5m3(scale)
                                       : akv_as_f32(akv_f32_from_f16(scale));
}
/* Stored codes of one group of 32 under a scale. */
AKV_FN void akv_group_codes(const float *x, akv_u32 scale, akv_u32 format, akv_u8 *code)
{
    akv_u32 i;
    if (akv_format_codebook(format)) {
        akv_codebook_codes(x, scale, format, code);
    } else {
        akv_reciprocal r = akv_reciprocal_of(akv_scale_value(format, scale));
        if (akv_format_e4m3(format)) {
            AKV_UNROLL
            for (i = 0u; i < 32u; i++)
                code[i] = (akv_u8)akv_e4m3_code(x[i], r);
            return;
        }
        float limit = format == AKV_I8 ? 127.0f : 31.0f;
        akv_i32 bias = format == AKV_I8 ? 0 : 32;
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            code[i] = (akv_u8)(akv_uniform_code(x[i], r, limit) + bias);
    }
}
/* Integer that a stored code stands for, and the factor that makes it a value: value = integer *
 * unit. */
AKV_FN akv_i32 akv_code_integer(akv_u32 format, akv_u32 code)
{
    if (format == AKV_I8)
        return (akv_i32)(code ^ 0x80u) - 128;
    if (format == AKV_N6)
        return (akv_i32)code - 32;
    return akv_codebook_entry(format, code);
}
AKV_FN float akv_code_unit(akv_u32 format, akv_u32 scale)
{
    float d = akv_scale_value(format, scale);
    return akv_format_codebook(format) ? d * 0x1p-7f : d;
}
AKV_FN float akv_code_value(akv_u32 format, akv_u32 code, float unit)
{
    float value;
    if (akv_format_e4m3(format)) {
        if ((code & 0x7Fu) == 0x7Fu)
            return akv_as_f32(0x7FC00000u);
        value = akv_as_f32(akv_f32_from_e4m3(code)) * unit;
    } else {
        value = (float)akv_code_integer(format, code) * unit;
    }
    return value == 0.0f ? 0.0f : value; /* -6 * 0 is +0 too */
}

#endif
