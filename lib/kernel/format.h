/* SPDX-License-Identifier: Apache-2.0 */
/* Storage formats: their numbers, and where every code and scale of a tile stands.
 *
 * A tile is the rows of one (block, layer, side, kv head).  Rows have D elements, padded with zeros
 * (after the transform) to Dp, a multiple of 32; a group is 32 consecutive elements of a padded row;
 * G = Dp / 32.  A quantised tile is its code planes, then its scale plane, each padded to 16 bytes.
 *
 * Two orders exist, because a key is read along its row and a value across rows:
 *
 *   ROW order (keys, and everything that `anykv_codec` writes).  A b-bit plane with b < 8: row t has
 *   G*b words of 32 bits; word j (0 <= j < b) of group g is word j*G + g of the row; element e of the
 *   group stands in word e*b/32 at bit (e*b)%32.  A byte plane (I8): element i of row t is byte
 *   t*Dp + i.  Scales: scale s of row t is number t*S + s.
 *
 *   QUAD order (values).  Four consecutive tokens are a quad.  A unit is 8 consecutive dimensions of
 *   one quad: 32 elements, element e = (dimension % 8)*4 + token % 4, in b words of 32 bits, element e
 *   in word e*b/32 at bit (e*b)%32 (a byte plane: byte e).  Unit u of quad q is number u*Q + q, with
 *   Q = tokens / 4 quads in the tile.  Scales: scale s of token t is number
 *   ((t/4)*S + s)*4 + t%4.
 *
 * Raw formats (F32, F16, BF16) are rows in element order in both cases, D elements, no padding.  A tile
 * of a block format (Q8_0 … IQ4_NL) is row after row of G blocks of 32 elements, scales inside, in both
 * cases; it has no planes. */
#ifndef AKV_KERNEL_FORMAT_H
#define AKV_KERNEL_FORMAT_H
#include "platform.h"

/* Values are part of the public interface (enum anykv_format) and of stored data. */
#define AKV_F32  1
#define AKV_F16  2
#define AKV_BF16 3
#define AKV_I8   4
#define AKV_N6   5
#define AKV_N5   6
#define AKV_N4   7
#define AKV_N3   8
#define AKV_N2   9
#define AKV_E4M3 10
#define AKV_Q8_0 11
#define AKV_Q5_1 12
#define AKV_Q5_0 13
#define AKV_Q4_1 14
#define AKV_Q4_0 15
#define AKV_IQ4_NL 16
#define AKV_E4M3G  17
#define AKV_FORMATS 18 /* one past the last */

#define AKV_ORDER_ROW  0
#define AKV_ORDER_QUAD 1

#define AKV_TRANSFORM_NONE   0
#define AKV_TRANSFORM_ROTATE 1
#define AKV_TRANSFORM_CENTRE 2
#define AKV_TRANSFORM_MATRIX 3

/* Pairs of the rotary embedding: (2i, 2i+1), or (i, i + pairs). */
#define AKV_ROPE_INTERLEAVED 0
#define AKV_ROPE_HALF        1

#define AKV_GROUP        32u
#define AKV_MAX_HEAD_DIM 576u
#define AKV_MAX_HEADS    65536u
#define AKV_KINDS        16u /* block kinds a table entry can name */
#define AKV_MAX_SLABS    8u
#define AKV_MAX_TILE_ELEMENTS 0x1FFFFFFFu /* padded: the number of bits of an I8 tile fits in 32 */
#define AKV_NO_BLOCK     0xFFFFFFFFu /* table entry of a block that is not held */

AKV_FN akv_u32 akv_format_raw(akv_u32 format)
{
    return format <= AKV_BF16 ? 1u : 0u;
}
/* ggml's blocks. */
AKV_FN akv_u32 akv_format_blocks(akv_u32 format)
{
    return format >= AKV_Q8_0 && format <= AKV_IQ4_NL ? 1u : 0u;
}
AKV_FN akv_u32 akv_block_bytes(akv_u32 format)
{
    return format == AKV_Q8_0   ? 34u
           : format == AKV_Q5_1 ? 24u
           : format == AKV_Q5_0 ? 22u
           : format == AKV_Q4_1 ? 20u
                                : 18u;
}
/* Bytes of one element of a raw format or dtype (dtypes share the numbers F32, F16, BF16). */
AKV_FN akv_u32 akv_raw_bytes(akv_u32 format)
{
    return format == AKV_F32 ? 4u : 2u;
}
AKV_FN akv_u32 akv_format_e4m3(akv_u32 format)
{
    return format == AKV_E4M3 || format == AKV_E4M3G ? 1u : 0u;
}
/* Width of the first (widest) code plane and of the second, in bits; 0: there is none.  Not for block
 * formats. */
AKV_FN akv_u32 akv_format_plane0(akv_u32 format)
{
    return format == AKV_I8 || akv_format_e4m3(format) ? 8u : (format == AKV_N3 || format == AKV_N2) ? 2u : 4u;
}
AKV_FN akv_u32 akv_format_plane1(akv_u32 format)
{
    return format == AKV_N6 ? 2u : (format == AKV_N5 || format == AKV_N3) ? 1u : 0u;
}
/* Formats whose encoder may search for the scale, and whose codes are codebook indices. */
AKV_FN akv_u32 akv_format_codebook(akv_u32 format)
{
    return format >= AKV_N5 && format <= AKV_N2 ? 1u : 0u;
}
AKV_FN akv_u32 akv_padded_dim(akv_u32 dim)
{
    return (dim + 31u) & ~31u;
}
/* Bytes of one scale, and how many scales a row of `dim` elements has; no bytes: it is 1 and not stored. */
AKV_FN akv_u32 akv_scale_bytes(akv_u32 format)
{
    return akv_format_codebook(format) ? 1u : format == AKV_E4M3G ? 0u : 2u;
}
AKV_FN akv_u32 akv_scale_count(akv_u32 format, akv_u32 dim)
{
    akv_u32 dp = akv_padded_dim(dim);
    if (akv_format_raw(format) || akv_format_blocks(format))
        return 0u;
    if (akv_format_e4m3(format))
        return 1u;
    if (format == AKV_I8)
        return (dp + 127u) / 128u;
    if (format == AKV_N6)
        return (dp + 63u) / 64u;
    return dp / 32u;
}
/* Elements that share one scale (the last one of a row may have fewer). */
AKV_FN akv_u32 akv_scale_width(akv_u32 format)
{
    return akv_format_e4m3(format) ? AKV_MAX_HEAD_DIM : format == AKV_I8 ? 128u : format == AKV_N6 ? 64u : 32u;
}
AKV_FN akv_u32 akv_pad16(akv_u32 bytes)
{
    return (bytes + 15u) & ~15u;
}
/* Byte offsets inside a tile of `tokens` rows.  tokens*dim*4 must fit in 32 bits. */
AKV_FN akv_u32 akv_plane1_offset(akv_u32 format, akv_u32 tokens, akv_u32 dim)
{
    return akv_pad16(tokens * akv_padded_dim(dim) * akv_format_plane0(format) / 8u);
}
AKV_FN akv_u32 akv_scale_offset(akv_u32 format, akv_u32 tokens, akv_u32 dim)
{
    return akv_plane1_offset(format, tokens, dim) +
           akv_pad16(tokens * akv_padded_dim(dim) * akv_format_plane1(format) / 8u);
}
AKV_FN akv_u32 akv_tile_bytes(akv_u32 format, akv_u32 tokens, akv_u32 dim)
{
    if (akv_format_raw(format))
        return akv_pad16(tokens * dim * akv_raw_bytes(format));
    if (akv_format_blocks(format))
        return akv_pad16(tokens * (akv_padded_dim(dim) / 32u) * akv_block_bytes(format));
    return akv_scale_offset(format, tokens, dim) +
           akv_pad16(tokens * akv_scale_count(format, dim) * akv_scale_bytes(format));
}

/* Position of a code: word index within its plane, and bit within the word.  `bits` is the plane's
 * width (8, 4, 2, 1), `dim` the unpadded head size, i the element, t the row, tokens the tile's rows
 * (a multiple of 4 in QUAD order). */
AKV_FN akv_u32 akv_code_word(akv_u32 order, akv_u32 bits, akv_u32 tokens, akv_u32 dim, akv_u32 t,
                             akv_u32 i)
{
    akv_u32 groups = akv_padded_dim(dim) / 32u, e = i & 31u, words = groups * bits;
    if (order == AKV_ORDER_QUAD) {
        e = (i & 7u) * 4u + (t & 3u);
        return ((i >> 3) * (tokens >> 2) + (t >> 2)) * bits + e * bits / 32u;
    }
    if (bits == 8u)
        return t * words + i / 4u;
    return t * words + (e * bits / 32u) * groups + (i >> 5);
}
AKV_FN akv_u32 akv_code_bit(akv_u32 order, akv_u32 bits, akv_u32 t, akv_u32 i)
{
    akv_u32 e = order == AKV_ORDER_QUAD ? (i & 7u) * 4u + (t & 3u) : (i & 31u);
    return (e * bits) & 31u;
}
/* Number of a scale within the scale plane. */
AKV_FN akv_u32 akv_scale_index(akv_u32 order, akv_u32 scales, akv_u32 t, akv_u32 s)
{
    if (order == AKV_ORDER_QUAD)
        return ((t >> 2) * scales + s) * 4u + (t & 3u);
    return t * scales + s;
}

/* Hadamard block of a head size: the largest power of two that divides it, at most 512. */
AKV_FN akv_u32 akv_rotate_block(akv_u32 dim)
{
    akv_u32 n = dim & (0u - dim);
    return n > 512u ? 512u : n;
}

#endif
