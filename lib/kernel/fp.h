/* SPDX-License-Identifier: Apache-2.0 */
/* Floating-point numbers as bits: conversions, sanitising, the 8-bit scale type.  Integer code
 * only, so that every device gives the same bytes whatever its half type, flush mode or flags are.
 *
 * Contract (class EXACT):
 *
 * f32 to f16, bf16: nearest, ties to even; overflow gives Inf; subnormal results are kept; a NaN
 * keeps its sign and leading mantissa bits and becomes quiet.
 *
 * f16, bf16 to f32: exact; an f16 NaN becomes quiet, a bf16 NaN keeps its bits.
 *
 * sane(x): NaN gives +0; |x| > 2^100 gives ±2^100; |x| < 2^-24 gives +0, and so does -0.
 *
 * ue5m3(x), x >= 0: s = 8*E + M stands for 2^(E-15) * (1 + M/8), or M * 2^-17 where E = 0. Nearest,
 *     ties to even, saturated at 0xF7 (61440).  Bits 14:7 of the same number as an f16.
 *
 * e4m3(x) (OCP OFP8 E4M3): sign, four bits of exponent (bias 7), three of mantissa; nearest, ties to
 *     even, saturated at ±448; a NaN gives 0x7F.  Bytes 0x7F and 0xFF read as the NaN 0x7FC00000.
 *
 * divide(a, b), b normal, |quotient| within 2^-100 … 2^100 or a = 0: correctly rounded.  Where the
 *     hardware's division is not (OpenCL), Newton steps with explicit fma: r is made the correctly
 *     rounded 1/b (Markstein: two steps from any guess within 2^-20; a mantissa of all ones is the one
 *     exception and has its own rule), then two residual steps of the quotient. */
#ifndef AKV_KERNEL_FP_H
#define AKV_KERNEL_FP_H
#include "format.h"

#define AKV_TINY_BITS 0x33800000u /* 2^-24 */
#define AKV_HUGE_BITS 0x71800000u /* 2^100 */

/* Little-endian accesses to global memory at byte address p, aligned to the size on GPUs. */
AKV_FN akv_u32 akv_load_u16(const AKV_GLOBAL akv_u8 *p)
{
#if defined(AKV_HOST)
    akv_u16 v;
    memcpy(&v, p, 2);
    return v;
#else
    return *(const AKV_GLOBAL akv_u16 *)p;
#endif
}
AKV_FN akv_u32 akv_load_u32(const AKV_GLOBAL akv_u8 *p)
{
#if defined(AKV_HOST)
    akv_u32 v;
    memcpy(&v, p, 4);
    return v;
#else
    return *(const AKV_GLOBAL akv_u32 *)p;
#endif
}
AKV_FN void akv_store_u16(AKV_GLOBAL akv_u8 *p, akv_u32 v)
{
#if defined(AKV_HOST)
    akv_u16 w = (akv_u16)v;
    memcpy(p, &w, 2);
#else
    *(AKV_GLOBAL akv_u16 *)p = (akv_u16)v;
#endif
}
AKV_FN void akv_store_u32(AKV_GLOBAL akv_u8 *p, akv_u32 v)
{
#if defined(AKV_HOST)
    memcpy(p, &v, 4);
#else
    *(AKV_GLOBAL akv_u32 *)p = v;
#endif
}

/* Bits of an f32 to bits of an f16. */
AKV_FN akv_u32 akv_f16_from_f32(akv_u32 x)
{
    akv_u32 sign = (x >> 16) & 0x8000u, a = x & 0x7FFFFFFFu;
    if (a > 0x7F800000u)
        return sign | 0x7E00u | ((a >> 13) & 0x3FFu);
    if (a >= 0x477FF000u) /* 65520 and more */
        return sign | 0x7C00u;
    if (a < 0x38800000u) { /* below 2^-14: a multiple of 2^-24 */
        akv_u32 shift = 126u - (a >> 23), m = (a & 0x7FFFFFu) | 0x800000u, rest, tie;
        if (a <= 0x33000000u) /* 2^-25 is a tie between 0 and 2^-24 */
            return sign;
        rest = m & ((1u << shift) - 1u);
        tie = 1u << (shift - 1u);
        m >>= shift;
        return sign | (m + ((rest > tie || (rest == tie && (m & 1u))) ? 1u : 0u));
    }
    return sign | ((a - 0x38000000u + 0xFFFu + ((a >> 13) & 1u)) >> 13);
}
/* Bits of an f16 to bits of an f32. */
AKV_FN akv_u32 akv_f32_from_f16(akv_u32 h)
{
    akv_u32 sign = (h & 0x8000u) << 16, a = h & 0x7FFFu, shift;
    if (a == 0u)
        return sign;
    if (a >= 0x7C00u)
        return sign | 0x7F800000u | ((a & 0x3FFu) << 13) | (a > 0x7C00u ? 0x400000u : 0u);
    if (a < 0x400u) { /* subnormal: a * 2^-24 */
        shift = AKV_CLZ(a) - 8u;
        return sign | (((a << shift) & 0x7FFFFFu) + ((126u - shift) << 23));
    }
    return sign | ((a << 13) + 0x38000000u);
}
AKV_FN akv_u32 akv_bf16_from_f32(akv_u32 x)
{
    if ((x & 0x7FFFFFFFu) > 0x7F800000u)
        return (x >> 16) | 0x40u;
    return (x + 0x7FFFu + ((x >> 16) & 1u)) >> 16;
}
AKV_FN akv_u32 akv_f32_from_bf16(akv_u32 h)
{
    return h << 16;
}

/* Element `index` of memory of a dtype, as bits of an f32; and back. */
AKV_FN akv_u32 akv_load_bits(const AKV_GLOBAL akv_u8 *base, akv_u64 index, akv_u32 dtype)
{
    if (dtype == AKV_F32)
        return akv_load_u32(base + index * 4u);
    return dtype == AKV_F16 ? akv_f32_from_f16(akv_load_u16(base + index * 2u))
                            : akv_f32_from_bf16(akv_load_u16(base + index * 2u));
}
AKV_FN void akv_store_bits(AKV_GLOBAL akv_u8 *base, akv_u64 index, akv_u32 dtype, akv_u32 bits)
{
    if (dtype == AKV_F32)
        akv_store_u32(base + index * 4u, bits);
    else
        akv_store_u16(base + index * 2u,
                      dtype == AKV_F16 ? akv_f16_from_f32(bits) : akv_bf16_from_f32(bits));
}
/* One element from one dtype to another: the same dtype copies bits, NaN included. */
AKV_FN void akv_convert_element(AKV_GLOBAL akv_u8 *dst, akv_u64 dst_index, akv_u32 dst_type,
                                const AKV_GLOBAL akv_u8 *src, akv_u64 src_index, akv_u32 src_type)
{
    if (dst_type != src_type)
        akv_store_bits(dst, dst_index, dst_type, akv_load_bits(src, src_index, src_type));
    else if (dst_type == AKV_F32)
        akv_store_u32(dst + dst_index * 4u, akv_load_u32(src + src_index * 4u));
    else
        akv_store_u16(dst + dst_index * 2u, akv_load_u16(src + src_index * 2u));
}

AKV_FN akv_u32 akv_sane(akv_u32 x)
{
    akv_u32 a = x & 0x7FFFFFFFu;
    if (a > 0x7F800000u || a < AKV_TINY_BITS)
        return 0u;
    return (x & 0x80000000u) | (a > AKV_HUGE_BITS ? AKV_HUGE_BITS : a);
}
/* What akv_sane did that is worth a flag: AKV_SAW_NAN (1), AKV_SAW_HUGE (2) or 0. */
AKV_FN akv_u32 akv_saw(akv_u32 x)
{
    akv_u32 a = x & 0x7FFFFFFFu;
    return a > 0x7F800000u ? 1u : a > AKV_HUGE_BITS ? 2u : 0u;
}

/* Correctly rounded 1/b from a guess, b > 0. */
AKV_FN float akv_reciprocal_by_fma(float b, float guess)
{
    float r = AKV_FMA(AKV_FMA(-b, guess, 1.0f), guess, guess);
    akv_u32 bits = akv_as_u32(b);
    r = AKV_FMA(AKV_FMA(-b, r, 1.0f), r, r);
    if ((bits & 0x7FFFFFu) == 0x7FFFFFu) /* (2 - 2^-23) * 2^e: 2^-(e+1) and one step up */
        r = akv_as_f32(((253u - (bits >> 23)) << 23) + 1u);
    return r;
}
AKV_FN float akv_divide_by_fma(float a, float b, float guess)
{
    float sign = b < 0.0f ? -1.0f : 1.0f, q, r;
    if (a == 0.0f)
        return 0.0f;
    b = b * sign;
    a = a * sign;
    r = akv_reciprocal_by_fma(b, guess * sign);
    q = a * r;
    q = AKV_FMA(AKV_FMA(-b, q, a), r, q);
    return AKV_FMA(AKV_FMA(-b, q, a), r, q);
}
AKV_FN float akv_divide(float a, float b)
{
#if defined(AKV_HOST)
    return a == 0.0f ? 0.0f : a / b;
#else
    return akv_divide_by_fma(a, b, 1.0f / b);
#endif
}

/* Bits of an f32 to an e4m3 byte, and back. */
AKV_FN akv_u32 akv_e4m3_from_f32(akv_u32 x)
{
    akv_u32 sign = (x >> 24) & 0x80u, a = x & 0x7FFFFFFFu, m, shift, rest, tie;
    if (a > 0x7F800000u)
        return 0x7Fu;
    if (a >= 0x3C800000u) { /* 2^-6 */
        if (a > 0x43E00000u) /* 448 */
            return sign | 0x7Eu;
        return sign | ((a - 0x3C000000u + 0x7FFFFu + ((a >> 20) & 1u)) >> 20);
    }
    if (a <= 0x3A800000u) /* 2^-10 is a tie between 0 and 2^-9 */
        return sign;
    shift = 141u - (a >> 23);
    m = (a & 0x7FFFFFu) | 0x800000u;
    rest = m & ((1u << shift) - 1u);
    tie = 1u << (shift - 1u);
    m >>= shift;
    return sign | (m + ((rest > tie || (rest == tie && (m & 1u))) ? 1u : 0u));
}
AKV_FN akv_u32 akv_f32_from_e4m3(akv_u32 c)
{
    akv_u32 sign = (c & 0x80u) << 24, a = c & 0x7Fu;
    if (a == 0x7Fu)
        return 0x7FC00000u;
    if (a < 8u)
        return sign | akv_as_u32((float)(akv_i32)a * 0x1p-9f);
    return sign | ((a << 20) + 0x3C000000u);
}

/* Bits of a non-negative f32 to a scale byte, and back to bits of an f32.  Bytes above 0xF7 are
 * never written; they read as the numbers that the formula gives. */
AKV_FN akv_u32 akv_ue5m3_from_f32(akv_u32 x)
{
    akv_u32 m, shift, rest, tie;
    if (x >= 0x38800000u) { /* 2^-14 */
        m = (x - 0x38000000u + 0x7FFFFu + ((x >> 20) & 1u)) >> 20;
        return m > 0xF7u ? 0xF7u : m;
    }
    if (x <= 0x36800000u) /* 2^-18 is a tie between 0 and 2^-17 */
        return 0u;
    shift = 133u - (x >> 23);
    m = (x & 0x7FFFFFu) | 0x800000u;
    rest = m & ((1u << shift) - 1u);
    tie = 1u << (shift - 1u);
    m >>= shift;
    return m + ((rest > tie || (rest == tie && (m & 1u))) ? 1u : 0u);
}
AKV_FN float akv_f32_from_ue5m3(akv_u32 s)
{
    if (s < 8u)
        return (float)(akv_i32)s * 0x1p-17f;
    return akv_as_f32((s << 20) + 0x38000000u);
}

#endif
