/* SPDX-License-Identifier: Apache-2.0 */
/* Packed tiles of 16 positions decoded to halves in shared memory: rows of positions, 16-byte pieces of a row
 * exchanged by its number (piece ^ row % 8).  A value is its code times unit / tile unit, the tile unit a power
 * of two above every unit of the positions decoded together, so that halves neither overflow nor vanish. */
#ifndef AKV_PREFILL_TILES_CUH
#define AKV_PREFILL_TILES_CUH
#include "attend.cuh"
#include "mma.cuh"
#include "../lib/kernel/format.h"
#include "../lib/kernel/quant.h"
#include "../lib/kernel/pack.h"

/* Where piece i of a row of dim halves stands, in halves. */
template <int G> AKV_FN akv_u32 piece_at(akv_u32 row, akv_u32 i)
{
    return row * (32u * G) + ((i ^ (row & 7u)) * 8u);
}
/* The power of two above x, 1 for what has none. */
AKV_FN float power_above(float x)
{
    return x > 1e-30f && x < 1e30f ? akv_as_f32((akv_as_u32(x) & 0x7F800000u) + (1u << 23)) : 1.0f;
}

/* Eight codes of two bits, one a nibble; eight nibbles, one a byte of two words. */
AKV_FN akv_u32 spread_pairs(akv_u32 x)
{
    x = akv_prmt(x, 0u, 0x4140);
    x = (x | (x << 4)) & 0x0F0F0F0Fu;
    return (x | (x << 2)) & 0x33333333u;
}
AKV_FN akv_u32 spread_bits(akv_u32 x)
{
    x = (x | (x << 12)) & 0x000F000Fu;
    x = (x | (x << 6)) & 0x03030303u;
    return (x | (x << 3)) & 0x11111111u;
}
AKV_FN void nibble_bytes(akv_u32 w, akv_u32 *u)
{
    akv_u32 even = w & 0x0F0F0F0Fu, odd = (w >> 4) & 0x0F0F0F0Fu;
    u[0] = akv_prmt(even, odd, 0x5140);
    u[1] = akv_prmt(even, odd, 0x7362);
}
/* 0xFF where bit 3 of a nibble is set, a byte a nibble. */
AKV_FN void nibble_masks(akv_u32 w, akv_u32 *mask)
{
    akv_u32 left = w << 4;
    mask[0] = akv_prmt(w, left, 0x9D8C);
    mask[1] = akv_prmt(w, left, 0xBFAE);
}
/* Eight codes as integers plus 128, four bytes a word.  lo: their plane 0 from bit 0 on, hi: their plane 1. */
template <int F> AKV_FN void code_bytes(akv_u32 lo, akv_u32 hi, akv_u32 *u)
{
    if constexpr (F == AKV_N6) {
        akv_u32 high[2];
        nibble_bytes(lo, u);
        nibble_bytes(spread_pairs(hi), high);
        u[0] = (u[0] | (high[0] << 4)) + 0x60606060u;
        u[1] = (u[1] | (high[1] << 4)) + 0x60606060u;
    } else if constexpr (F == AKV_N5 || F == AKV_N4) {
        akv_u32 w = lo, upper[2], x = 0u;
        if constexpr (F == AKV_N5) { /* plane 1 is the sign; codes of the negative half are mirrored */
            x = spread_bits(~hi & 0xFFu);
            w ^= x * 15u;
        }
        akv_u32 index = w & 0x77777777u;
        nibble_masks(w, upper);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            akv_u32 a, b, at = index >> (16 * i);
            if constexpr (F == AKV_N4) { /* -127 -96 -75 -58 -44 -31 -18 -6, then their mirror image */
                a = akv_prmt(0x46352001u, 0x7A6E6154u, at);
                b = akv_prmt(0xAC9F9286u, 0xFFE0CBBAu, at);
                u[i] = (a & ~upper[i]) | (b & upper[i]);
            } else { /* 3 8 13 18 24 29 35 41, 47 54 61 70 79 90 105 127 */
                a = akv_prmt(0x120D0803u, 0x29231D18u, at);
                b = akv_prmt(0x463D362Fu, 0x7F695A4Fu, at);
                u[i] = (a & ~upper[i]) | (b & upper[i]);
            }
        }
        if constexpr (F == AKV_N5) { /* 128 + m, or 128 - m = ~(127 + m): no byte carries */
            akv_u32 sign[2];
            nibble_masks(x << 3, sign);
            u[0] = (u[0] + 0x80808080u - (sign[0] & 0x01010101u)) ^ sign[0];
            u[1] = (u[1] + 0x80808080u - (sign[1] & 0x01010101u)) ^ sign[1];
        }
    } else {
        akv_u32 index = spread_pairs(lo & 0xFFFFu);
        if constexpr (F == AKV_N3) { /* -127 -79 -45 -14 14 45 79 127 */
            index |= spread_bits(hi & 0xFFu) << 2;
            u[0] = akv_prmt(0x72533101u, 0xFFCFAD8Eu, index);
            u[1] = akv_prmt(0x72533101u, 0xFFCFAD8Eu, index >> 16);
        } else { /* -127 -38 38 127 */
            u[0] = akv_prmt(0xFFA65A01u, 0u, index);
            u[1] = akv_prmt(0xFFA65A01u, 0u, index >> 16);
        }
    }
}
/* Four such bytes as two pairs of halves, the integers themselves. */
AKV_FN void biased_halves(akv_u32 u, akv_u32 *h)
{
    h[0] = akv_hsub2(akv_prmt(u, 0x64646464u, 0x4140), 0x64806480u); /* 1024 + 128 + c - 1152 */
    h[1] = akv_hsub2(akv_prmt(u, 0x64646464u, 0x4342), 0x64806480u);
}

/* One group of 32 elements of key t to its pieces of row `row`. */
template <int F, int G>
AKV_FN void key_group(half *to, akv_u32 row, const akv_u8 *tile, akv_u32 t, akv_u32 g, float inverse)
{
    constexpr akv_u32 dim = 32 * G;
    float f = akv_code_unit(F, akv_scale_get(tile, F, AKV_ORDER_ROW, 16u, dim, t, g * 32u / akv_scale_width(F)));
    akv_u32 unit = akv_pack_half2(f * inverse, f * inverse), low[8], high[2] = {0u, 0u};
    const akv_u32 b0 = akv_format_plane0(F), b1 = akv_format_plane1(F);
    if constexpr (F == AKV_I8) {
        uint4 x = *(const uint4 *)(tile + t * dim + g * 32u), y = *(const uint4 *)(tile + t * dim + g * 32u + 16u);
        low[0] = x.x, low[1] = x.y, low[2] = x.z, low[3] = x.w;
        low[4] = y.x, low[5] = y.y, low[6] = y.z, low[7] = y.w;
    } else {
        const akv_u8 *high_plane = tile + akv_plane1_offset(F, 16u, dim);
#pragma unroll
        for (akv_u32 i = 0u; i < b0; i++)
            low[i] = akv_load_u32(tile + 4u * (t * G * b0 + i * G + g));
#pragma unroll
        for (akv_u32 i = 0u; i < b1; i++)
            high[i] = akv_load_u32(high_plane + 4u * (t * G * b1 + i * G + g));
    }
#pragma unroll
    for (akv_u32 j = 0u; j < 4u; j++) {
        akv_u32 u[2], h[4];
        if constexpr (F == AKV_I8)
            u[0] = low[2 * j] ^ 0x80808080u, u[1] = low[2 * j + 1] ^ 0x80808080u;
        else
            code_bytes<F>(b0 == 4u ? low[j] : low[j / 2] >> (16 * (j & 1)),
                          b1 == 2u ? high[j / 2] >> (16 * (j & 1)) : high[0] >> (8 * j), u);
        biased_halves(u[0], h);
        biased_halves(u[1], h + 2);
        *(uint4 *)(to + piece_at<G>(row, g * 4u + j)) = make_uint4(akv_hmul2(h[0], unit), akv_hmul2(h[1], unit),
                                                                  akv_hmul2(h[2], unit), akv_hmul2(h[3], unit));
    }
}
/* Unit v (8 dimensions) of quad q of values to a piece of four rows from `row` on. */
template <int F, int G>
AKV_FN void value_unit(half *to, akv_u32 row, const akv_u8 *tile, akv_u32 q, akv_u32 v, float inverse)
{
    constexpr akv_u32 dim = 32 * G;
    const akv_u32 b0 = akv_format_plane0(F), b1 = akv_format_plane1(F);
    akv_u32 low[8], high[2] = {0u, 0u}, piece[4][4], unit[2];
    const akv_u8 *words = tile + 4u * akv_quad_word(b0, 16u, q, v);
    if constexpr (F == AKV_I8) {
        uint4 x = *(const uint4 *)words, y = *(const uint4 *)(words + 16);
        low[0] = x.x, low[1] = x.y, low[2] = x.z, low[3] = x.w;
        low[4] = y.x, low[5] = y.y, low[6] = y.z, low[7] = y.w;
    } else if constexpr (F == AKV_N6 || F == AKV_N5 || F == AKV_N4) {
        uint4 x = *(const uint4 *)words;
        low[0] = x.x, low[1] = x.y, low[2] = x.z, low[3] = x.w;
    } else {
        uint2 x = *(const uint2 *)words;
        low[0] = x.x, low[1] = x.y;
    }
#pragma unroll
    for (akv_u32 i = 0u; i < b1; i++)
        high[i] = akv_load_u32(tile + akv_plane1_offset(F, 16u, dim) + 4u * (akv_quad_word(b1, 16u, q, v) + i));
    {
        float f[4];
#pragma unroll
        for (akv_u32 n = 0u; n < 4u; n++)
            f[n] = inverse * akv_code_unit(F, akv_scale_get(tile, F, AKV_ORDER_QUAD, 16u, dim, q * 4u + n,
                                                            v * 8u / akv_scale_width(F)));
        unit[0] = akv_pack_half2(f[0], f[1]), unit[1] = akv_pack_half2(f[2], f[3]);
    }
#pragma unroll
    for (akv_u32 i = 0u; i < 4u; i++) { /* dimensions 2i and 2i + 1, four rows each */
        akv_u32 u[2], h[4];
        if constexpr (F == AKV_I8)
            u[0] = low[2 * i] ^ 0x80808080u, u[1] = low[2 * i + 1] ^ 0x80808080u;
        else
            code_bytes<F>(b0 == 4u ? low[i] : low[i / 2] >> (16 * (i & 1)),
                          b1 == 2u ? high[i / 2] >> (16 * (i & 1)) : high[0] >> (8 * i), u);
        biased_halves(u[0], h);
        biased_halves(u[1], h + 2);
#pragma unroll
        for (int n = 0; n < 4; n++)
            h[n] = akv_hmul2(h[n], unit[n & 1]);
        piece[0][i] = akv_prmt(h[0], h[2], 0x5410), piece[1][i] = akv_prmt(h[0], h[2], 0x7632);
        piece[2][i] = akv_prmt(h[1], h[3], 0x5410), piece[3][i] = akv_prmt(h[1], h[3], 0x7632);
    }
#pragma unroll
    for (akv_u32 n = 0u; n < 4u; n++)
        *(uint4 *)(to + piece_at<G>(row + n, v)) = make_uint4(piece[n][0], piece[n][1], piece[n][2], piece[n][3]);
}

/* The largest scale of a tile as its unit: `lanes` lanes from lane `first` on share the tile. */
AKV_FN uint2 scale_words(const akv_u8 *tile, akv_u32 format, akv_u32 dim, akv_u32 i, akv_u32 lanes)
{
    const akv_u32 *at = (const akv_u32 *)(tile + akv_scale_offset(format, 16u, dim));
    akv_u32 words = akv_pad16(16u * akv_scale_count(format, dim) * akv_scale_bytes(format)) / 4u;
    return make_uint2(i < words ? at[i] : 0u, i + lanes < words ? at[i + lanes] : 0u);
}
AKV_FN float largest_unit(uint2 w, akv_u32 format)
{
    if (akv_scale_bytes(format) == 2u)
        return akv_code_unit(format, max(max(w.x & 0xFFFFu, w.x >> 16), max(w.y & 0xFFFFu, w.y >> 16)));
    akv_u32 top = max(max(w.x & 255u, w.x >> 8 & 255u), max(w.x >> 16 & 255u, w.x >> 24));
    akv_u32 other = max(max(w.y & 255u, w.y >> 8 & 255u), max(w.y >> 16 & 255u, w.y >> 24));
    return akv_code_unit(format, max(top, other));
}

#endif
