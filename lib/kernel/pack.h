/* SPDX-License-Identifier: Apache-2.0 */
/* Codes and scales in and out of tiles, in the two orders of format.h.
 *
 * Contract (class EXACT, integers).  A group is 32 stored codes (one byte each) of one row, in
 * element order; a unit is 32 stored codes of 8 dimensions of a quad of tokens, element (dim % 8)*4
 * + token % 4. The low bits of a code stand in plane 0, the rest in plane 1.  A group or unit owns
 * whole words, so threads never share one.  Padding bytes of a tile are zero: the owner of the last
 * row writes them. Tiles are aligned to 4 bytes at least. */
#ifndef AKV_KERNEL_PACK_H
#define AKV_KERNEL_PACK_H
#include "fp.h"

/* Word w (0 <= w < bits) of 32 codes in a plane of `bits`, of the code bits from `shift` up. */
AKV_FN akv_u32 akv_plane_word(const akv_u8 *code, akv_u32 bits, akv_u32 shift, akv_u32 w)
{
    akv_u32 per = 32u / bits, mask = (1u << bits) - 1u, word = 0u, i;
    AKV_UNROLL
    for (i = 0u; i < per; i++)
        word |= (((akv_u32)code[w * per + i] >> shift) & mask) << (i * bits);
    return word;
}
/* ORs a word back into the codes. */
AKV_FN void akv_plane_spread(akv_u8 *code, akv_u32 bits, akv_u32 shift, akv_u32 w, akv_u32 word)
{
    akv_u32 per = 32u / bits, mask = (1u << bits) - 1u, i;
    AKV_UNROLL
    for (i = 0u; i < per; i++)
        code[w * per + i] = (akv_u8)(code[w * per + i] | (((word >> (i * bits)) & mask) << shift));
}
/* Number of the first word of group g of row t in a plane (ROW), and the distance to the next. */
AKV_FN akv_u32 akv_row_word(akv_u32 bits, akv_u32 dim, akv_u32 t, akv_u32 g)
{
    akv_u32 groups = akv_padded_dim(dim) / 32u;
    return t * groups * bits + (bits == 8u ? g * 8u : g);
}
AKV_FN akv_u32 akv_row_step(akv_u32 bits, akv_u32 dim)
{
    return bits == 8u ? 1u : akv_padded_dim(dim) / 32u;
}
/* Number of the first word of unit u (dimension / 8) of quad q (token / 4) (QUAD); its words
 * follow. */
AKV_FN akv_u32 akv_quad_word(akv_u32 bits, akv_u32 tokens, akv_u32 q, akv_u32 u)
{
    return (u * (tokens >> 2) + q) * bits;
}

AKV_FN void akv_plane_put(AKV_GLOBAL akv_u8 *plane, akv_u32 bits, akv_u32 shift, akv_u32 word,
                          akv_u32 step, const akv_u8 *code)
{
    akv_u32 w;
    AKV_UNROLL
    for (w = 0u; w < bits; w++)
        akv_store_u32(plane + 4u * (word + w * step), akv_plane_word(code, bits, shift, w));
}
AKV_FN void akv_plane_get(const AKV_GLOBAL akv_u8 *plane, akv_u32 bits, akv_u32 shift, akv_u32 word,
                          akv_u32 step, akv_u8 *code)
{
    akv_u32 w;
    AKV_UNROLL
    for (w = 0u; w < bits; w++)
        akv_plane_spread(code, bits, shift, w, akv_load_u32(plane + 4u * (word + w * step)));
}

/* Codes of group g of row t of a tile of `tokens` rows in ROW order. */
AKV_FN void akv_row_put(AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim,
                        akv_u32 t, akv_u32 g, const akv_u8 *code)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    akv_plane_put(tile, b0, 0u, akv_row_word(b0, dim, t, g), akv_row_step(b0, dim), code);
    if (b1)
        akv_plane_put(tile + akv_plane1_offset(format, tokens, dim), b1, b0,
                      akv_row_word(b1, dim, t, g), akv_row_step(b1, dim), code);
}
AKV_FN void akv_row_get(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim,
                        akv_u32 t, akv_u32 g, akv_u8 *code)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), i;
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        code[i] = 0;
    akv_plane_get(tile, b0, 0u, akv_row_word(b0, dim, t, g), akv_row_step(b0, dim), code);
    if (b1)
        akv_plane_get(tile + akv_plane1_offset(format, tokens, dim), b1, b0,
                      akv_row_word(b1, dim, t, g), akv_row_step(b1, dim), code);
}
/* Codes of unit u of quad q of a tile of `tokens` rows in QUAD order. */
AKV_FN void akv_quad_put(AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim,
                         akv_u32 q, akv_u32 u, const akv_u8 *code)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    akv_plane_put(tile, b0, 0u, akv_quad_word(b0, tokens, q, u), 1u, code);
    if (b1)
        akv_plane_put(tile + akv_plane1_offset(format, tokens, dim), b1, b0,
                      akv_quad_word(b1, tokens, q, u), 1u, code);
}
AKV_FN void akv_quad_get(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim,
                         akv_u32 q, akv_u32 u, akv_u8 *code)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), i;
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        code[i] = 0;
    akv_plane_get(tile, b0, 0u, akv_quad_word(b0, tokens, q, u), 1u, code);
    if (b1)
        akv_plane_get(tile + akv_plane1_offset(format, tokens, dim), b1, b0,
                      akv_quad_word(b1, tokens, q, u), 1u, code);
}

#define AKV_SCALE_ONE 0x3C00u /* 1 as an f16 */
/* Scale s of row t: stored integer (f16 bits or ue5m3 byte). */
AKV_FN void akv_scale_put(AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 order, akv_u32 tokens,
                          akv_u32 dim, akv_u32 t, akv_u32 s, akv_u32 scale)
{
    akv_u32 index = akv_scale_index(order, akv_scale_count(format, dim), t, s);
    AKV_GLOBAL akv_u8 *plane = tile + akv_scale_offset(format, tokens, dim);
    if (akv_scale_bytes(format) == 2u)
        akv_store_u16(plane + 2u * index, scale);
    else if (akv_scale_bytes(format) == 1u)
        plane[index] = (akv_u8)scale;
}
AKV_FN akv_u32 akv_scale_get(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 order,
                             akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 s)
{
    akv_u32 index = akv_scale_index(order, akv_scale_count(format, dim), t, s);
    const AKV_GLOBAL akv_u8 *plane = tile + akv_scale_offset(format, tokens, dim);
    if (akv_scale_bytes(format) == 0u)
        return AKV_SCALE_ONE;
    return akv_scale_bytes(format) == 2u ? akv_load_u16(plane + 2u * index) : (akv_u32)plane[index];
}
/* One stored code, for readers that pick single elements. */
AKV_FN akv_u32 akv_code_get(const AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 order,
                            akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 i)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    akv_u32 code = akv_load_u32(tile + 4u * akv_code_word(order, b0, tokens, dim, t, i));
    code = (code >> akv_code_bit(order, b0, t, i)) & ((1u << b0) - 1u);
    if (b1) {
        akv_u32 high = akv_load_u32(tile + akv_plane1_offset(format, tokens, dim) +
                                    4u * akv_code_word(order, b1, tokens, dim, t, i));
        code |= ((high >> akv_code_bit(order, b1, t, i)) & ((1u << b1) - 1u)) << b0;
    }
    return code;
}
/* Zeroes the bytes between the planes and behind the last. */
AKV_FN void akv_tile_padding(AKV_GLOBAL akv_u8 *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim)
{
    akv_u32 i, dp = akv_padded_dim(dim), end = akv_tile_bytes(format, tokens, dim);
    if (akv_format_raw(format)) {
        for (i = tokens * dim * akv_raw_bytes(format); i < end; i++)
            tile[i] = 0;
        return;
    }
    if (akv_format_blocks(format)) {
        for (i = tokens * (dp / 32u) * akv_block_bytes(format); i < end; i++)
            tile[i] = 0;
        return;
    }
    for (i = tokens * dp * akv_format_plane0(format) / 8u;
         i < akv_plane1_offset(format, tokens, dim); i++)
        tile[i] = 0;
    for (i = akv_plane1_offset(format, tokens, dim) + tokens * dp * akv_format_plane1(format) / 8u;
         i < akv_scale_offset(format, tokens, dim); i++)
        tile[i] = 0;
    for (i = akv_scale_offset(format, tokens, dim) +
             tokens * akv_scale_count(format, dim) * akv_scale_bytes(format);
         i < end; i++)
        tile[i] = 0;
}

#endif
