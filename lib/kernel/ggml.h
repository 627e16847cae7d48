/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's blocks Q8_0, Q5_1, Q5_0, Q4_1, Q4_0 and IQ4_NL: 32 values of a row in one run of bytes, as
 * the format's public definition and its reference quantisers have them.
 *
 * Contract (class EXACT).  A block: f16 d; f16 m (Q4_1, Q5_1); u32 of fifth bits (Q5_0, Q5_1; bit j is
 * of element j); the codes: Q8_0 32 signed bytes, else 16 bytes, byte j holds the low four bits of
 * element j (bits 3:0) and of element j + 16 (bits 7:4).  Little-endian, 2-byte aligned.
 *
 *   value   Q8_0 d*c; Q4_0 d*(c-8); Q5_0 d*(c-16); Q4_1, Q5_1 fma(d, c, m); IQ4_NL d*v[c].  A NaN is
 *           0x7FC00000.
 *   encode  every operation rounded to f32 by itself, in the order written; elements ascending.
 *     Q8_0         d = amax/127;              c = x*(1/d) to nearest, ties away from 0
 *     Q4_0, Q5_0   d = x0/-8, x0/-16, x0 the first element of the largest magnitude;
 *                  c = min(trunc(x*(1/d) + 8.5), 15), min(trunc(x*(1/d) + 16.5), 31)
 *     Q4_1, Q5_1   d = (max-min)/15, (max-min)/31, m = min;  c = trunc((x-m)*(1/d) + 0.5), Q4_1 <= 15
 *     IQ4_NL       i = 1/(x0/-127);  c = nearest v to x*i, upwards on ties;  w = x*x;
 *                  d = sum((w*v)*x) / sum((w*v)*v);  amax < 1e-15: d = 0 and c = 0
 *     1/d is 0 for d = 0.  Quotients are correctly rounded.  Stored d and m are rounded to f16, never
 *     beyond 65504; amax above 2^30 makes IQ4_NL store d = ±65504. */
#ifndef AKV_KERNEL_GGML_H
#define AKV_KERNEL_GGML_H
#include "pack.h"
#include "quant.h"

AKV_TABLE akv_i8 akv_iq4nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

AKV_FN akv_u32 akv_block_affine(akv_u32 format)
{
    return format == AKV_Q4_1 || format == AKV_Q5_1 ? 1u : 0u;
}
/* Bits of an f16 scale, finite. */
AKV_FN akv_u32 akv_block_half(float d)
{
    akv_u32 h = akv_f16_from_f32(akv_as_u32(d));
    return (h & 0x7FFFu) > 0x7BFFu ? (h & 0x8000u) | 0x7BFFu : h;
}
/* Nearest integer, ties away from 0. */
AKV_FN akv_i32 akv_round_away(float x)
{
    akv_i32 n = AKV_RINT(x);
    float rest = x - (float)n; /* exact */
    if (rest == 0.5f && x > 0.0f)
        return n + 1;
    if (rest == -0.5f && x < 0.0f)
        return n - 1;
    return n;
}
AKV_FN akv_u32 akv_iq4nl_index(float x)
{
    akv_u32 low = 0u, high = 15u, middle;
    if (x <= (float)akv_iq4nl[0])
        return 0u;
    if (x >= (float)akv_iq4nl[15])
        return 15u;
    while (high - low > 1u) {
        middle = (low + high) / 2u;
        if (x < (float)akv_iq4nl[middle])
            high = middle;
        else
            low = middle;
    }
    return x - (float)akv_iq4nl[high - 1u] < (float)akv_iq4nl[high] - x ? high - 1u : high;
}

/* 32 sane values to codes (one byte each); returns d's f16 bits, m's in bits 31:16. */
AKV_FN akv_u32 akv_block_quantise(const float *x, akv_u32 format, akv_u8 *code)
{
    float amax = 0.0f, first = 0.0f, least = x[0], most = x[0], d, id;
    akv_u32 i;
    akv_i32 c;
    for (i = 0u; i < 32u; i++) {
        float a = x[i] < 0.0f ? -x[i] : x[i];
        if (a > amax) {
            amax = a;
            first = x[i];
        }
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    if (format == AKV_Q8_0) {
        d = akv_divide(amax, 127.0f);
        id = d != 0.0f ? akv_divide(1.0f, d) : 0.0f;
        for (i = 0u; i < 32u; i++)
            code[i] = (akv_u8)(akv_round_away(x[i] * id) & 255);
        return akv_block_half(d);
    }
    if (format == AKV_Q4_0 || format == AKV_Q5_0) {
        float middle = format == AKV_Q4_0 ? 8.5f : 16.5f;
        akv_i32 top = format == AKV_Q4_0 ? 15 : 31;
        d = first * (format == AKV_Q4_0 ? -0.125f : -0.0625f); /* exact */
        id = d != 0.0f ? akv_divide(1.0f, d) : 0.0f;
        for (i = 0u; i < 32u; i++) {
            float t = x[i] * id;
            c = (akv_i32)(t + middle);
            code[i] = (akv_u8)(c > top ? top : c);
        }
        return akv_block_half(d);
    }
    if (akv_block_affine(format)) {
        akv_i32 top = format == AKV_Q4_1 ? 15 : 31;
        d = akv_divide(most - least, (float)top);
        id = d != 0.0f ? akv_divide(1.0f, d) : 0.0f;
        for (i = 0u; i < 32u; i++) {
            float t = (x[i] - least) * id;
            c = (akv_i32)(t + 0.5f);
            code[i] = (akv_u8)(c > top ? top : c);
        }
        return akv_block_half(d) | akv_block_half(least) << 16;
    }
    /* IQ4_NL */
    for (i = 0u; i < 32u; i++)
        code[i] = 0;
    if (amax < 1e-15f)
        return 0u;
    id = akv_divide(1.0f, akv_divide(first, -127.0f));
    d = 0.0f;
    most = 0.0f; /* the sums, from here on */
    least = 0.0f;
    for (i = 0u; i < 32u; i++) {
        float v, w = x[i] * x[i], wv;
        code[i] = (akv_u8)akv_iq4nl_index(x[i] * id);
        v = (float)akv_iq4nl[code[i]];
        wv = w * v;
        most = most + wv * x[i];
        least = least + wv * v;
    }
    if (amax > 0x1p30f)
        return first > 0.0f ? 0xFBFFu : 0x7BFFu;
    return akv_block_half(akv_divide(most, least));
}

AKV_FN akv_u32 akv_block_at(akv_u32 format, akv_u32 dim, akv_u32 t, akv_u32 g)
{
    return (t * (akv_padded_dim(dim) / 32u) + g) * akv_block_bytes(format);
}
/* Where the codes begin in a block. */
AKV_FN akv_u32 akv_block_codes_at(akv_u32 format)
{
    return format == AKV_Q5_1 ? 8u : format == AKV_Q5_0 ? 6u : format == AKV_Q4_1 ? 4u : 2u;
}
AKV_FN void akv_block_put(AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 dim, akv_u32 t, akv_u32 g,
                          const akv_u8 *code, akv_u32 scales)
{
    AKV_GLOBAL akv_u8 *at = tile + akv_block_at(format, dim, t, g);
    akv_u32 i, codes = akv_block_codes_at(format), fifth = 0u;
    akv_store_u16(at, scales & 0xFFFFu);
    if (akv_block_affine(format))
        akv_store_u16(at + 2, scales >> 16);
    if (format == AKV_Q8_0) {
        for (i = 0u; i < 32u; i += 2u)
            akv_store_u16(at + 2u + i, (akv_u32)code[i] | (akv_u32)code[i + 1u] << 8);
        return;
    }
    for (i = 0u; i < 32u; i++)
        fifth |= (((akv_u32)code[i] >> 4) & 1u) << i;
    if (format == AKV_Q5_0 || format == AKV_Q5_1) {
        akv_store_u16(at + codes - 4u, fifth & 0xFFFFu);
        akv_store_u16(at + codes - 2u, fifth >> 16);
    }
    for (i = 0u; i < 16u; i += 2u)
        akv_store_u16(at + codes + i,
                      (code[i] & 15u) | (code[i + 16u] & 15u) << 4 |
                          ((code[i + 1u] & 15u) | (code[i + 17u] & 15u) << 4) << 8);
}
/* Element e of a block. */
AKV_FN float akv_block_element(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 dim, akv_u32 t,
                               akv_u32 g, akv_u32 e)
{
    const AKV_GLOBAL akv_u8 *at = tile + akv_block_at(format, dim, t, g);
    akv_u32 codes = akv_block_codes_at(format), code, bits;
    float d = akv_as_f32(akv_f32_from_f16(akv_load_u16(at))), c;
    if (format == AKV_Q8_0) {
        c = (float)((akv_i32)((akv_u32)at[2u + e] ^ 0x80u) - 128);
    } else {
        code = ((akv_u32)at[codes + (e & 15u)] >> (e & 16u ? 4u : 0u)) & 15u;
        if (format == AKV_Q5_0 || format == AKV_Q5_1)
            code |= (((akv_u32)at[codes - 4u + (e >> 3)] >> (e & 7u)) & 1u) << 4;
        c = format == AKV_IQ4_NL ? (float)akv_iq4nl[code]
                                 : (float)((akv_i32)code - (format == AKV_Q4_0   ? 8
                                                            : format == AKV_Q5_0 ? 16
                                                                                 : 0));
    }
    if (akv_block_affine(format))
        d = AKV_FMA(d, c, akv_as_f32(akv_f32_from_f16(akv_load_u16(at + 2))));
    else
        d = d * c;
    bits = akv_as_u32(d);
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? akv_as_f32(0x7FC00000u) : d;
}
AKV_FN void akv_block_load(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 dim, akv_u32 t,
                           akv_u32 g, float *x)
{
    akv_u32 e;
    for (e = 0u; e < 32u; e++)
        x[e] = akv_block_element(tile, format, dim, t, g, e);
}

/* ---- any quantised tile ---- */
/* Element i of row t. */
AKV_FN float akv_tile_value(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 order,
                            akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 i)
{
    akv_u32 scale;
    if (akv_format_blocks(format))
        return akv_block_element(tile, format, dim, t, i >> 5, i & 31u);
    scale = akv_scale_get(tile, format, order, tokens, dim, t, i / akv_scale_width(format));
    return akv_code_value(format, akv_code_get(tile, format, order, tokens, dim, t, i),
                          akv_code_unit(format, scale));
}

#endif
