/* SPDX-License-Identifier: Apache-2.0 */
/* BX16: runs of bf16 in about three quarters of their bytes, bit for bit.
 *
 * Contract (class EXACT, integers only; bits are never read as numbers, so NaN and -0 are like others):
 * n elements, 1 <= n <= 2^30, are pieces of 1024, the last of m = 1 … 1024.  exponent(x) = bits 14:7,
 * rest(x) = bit 15 in bit 7 and bits 6:0.  The table is the 16 exponents that occur most often in the
 * whole run, of equal counts the lower ones, written in ascending order.  The body, little-endian, is
 *
 *     record [pieces]  u32 number of escapes in earlier pieces, u32 check of the piece
 *     piece  [pieces]  rest of each element, a byte each; then each exponent's index in the table, four
 *                      bits each, element i in bits 4(i mod 2) of byte i/2, escapes 0
 *     escape [all]     u32, by position: position in its piece, exponent << 16; of elements whose
 *                      exponent is not in the table
 *
 * each of records, rests, indices and escapes padded with zeros to 16 bytes.  check: sum over the words
 * j = 0 … ceil(m/2)-1 of two elements (a missing one is 0) of mix(word, j), plus the piece's number, all
 * modulo 2^32; mix(w, j): a = w + j * 0x9E3779B1; a ^= a >> 16; a *= 0x85EBCA6B; a ^ a >> 13.  A change
 * of one word always changes it.
 *
 * A decoder of any bytes writes n elements and nothing else, and says "damaged" where records are not
 * ascending, escapes lie outside their piece or are not ascending, or a check differs. */
#ifndef AKV_KERNEL_BX16_H
#define AKV_KERNEL_BX16_H
#include "fp.h"
#include "params.h"

#define AKV_BX16_PIECE       1024u
#define AKV_BX16_PIECE_BYTES 1536u /* of a full piece: rests and indices */
#define AKV_BX16_MAX         0x40000000u

AKV_FN akv_u32 akv_bx16_pieces(akv_u32 elements)
{
    return (elements + AKV_BX16_PIECE - 1u) / AKV_BX16_PIECE;
}

/* Elements of a piece. */
AKV_FN akv_u32 akv_bx16_length(akv_u32 elements, akv_u32 piece)
{
    return AKV_MIN(AKV_BX16_PIECE, elements - piece * AKV_BX16_PIECE);
}

/* Offsets in the body: a piece, its indices, the escapes, the end. */
AKV_FN akv_u32 akv_bx16_piece_at(akv_u32 elements, akv_u32 piece)
{
    return akv_pad16(akv_bx16_pieces(elements) * 8u) + piece * AKV_BX16_PIECE_BYTES;
}

AKV_FN akv_u32 akv_bx16_indices_at(akv_u32 elements, akv_u32 piece)
{
    return akv_bx16_piece_at(elements, piece) + akv_pad16(akv_bx16_length(elements, piece));
}

AKV_FN akv_u32 akv_bx16_escapes_at(akv_u32 elements)
{
    akv_u32 last = akv_bx16_pieces(elements) - 1u;
    return akv_bx16_indices_at(elements, last) + akv_pad16((akv_bx16_length(elements, last) + 1u) / 2u);
}

AKV_FN akv_u64 akv_bx16_bytes(akv_u32 elements, akv_u32 escapes)
{
    return akv_bx16_escapes_at(elements) + (((akv_u64)escapes * 4u + 15u) & ~(akv_u64)15u);
}

AKV_FN akv_u32 akv_bx16_exponent(akv_u32 bits)
{
    return bits >> 7 & 0xFFu;
}

AKV_FN akv_u32 akv_bx16_rest(akv_u32 bits)
{
    return (bits >> 8 & 0x80u) | (bits & 0x7Fu);
}

AKV_FN akv_u32 akv_bx16_join(akv_u32 rest, akv_u32 exponent)
{
    return (rest & 0x80u) << 8 | exponent << 7 | (rest & 0x7Fu);
}

AKV_FN akv_u32 akv_bx16_mix(akv_u32 word, akv_u32 j)
{
    akv_u32 a = word + j * 0x9E3779B1u;
    a ^= a >> 16;
    a *= 0x85EBCA6Bu;
    return a ^ a >> 13;
}

/* Entry i of the table in the parameters. */
AKV_FN akv_u32 akv_bx16_entry(const akv_bx16_params *p, akv_u32 i)
{
    return p->table[i / 4u] >> 8u * (i & 3u) & 0xFFu;
}

/* Index of an exponent in the table, AKV_BX16_ESCAPE where it has none. */
#define AKV_BX16_ESCAPE 16u
AKV_FN akv_u32 akv_bx16_index(const akv_bx16_params *p, akv_u32 exponent)
{
    akv_u32 i, index = AKV_BX16_ESCAPE;
    for (i = 0u; i < 16u; i++)
        index = akv_bx16_entry(p, i) == exponent ? i : index;
    return index;
}

#ifdef AKV_HOST
/* The table of a run from how often each exponent occurs; returns the number of escapes. */
AKV_FN akv_u32 akv_bx16_choose(const akv_u32 counts[256], akv_u32 table[4])
{
    akv_u8 chosen[256] = {0};
    akv_u32 escapes = 0, at = 0;
    for (akv_u32 k = 0; k < 16u; k++) {
        akv_u32 best = 256u;
        for (akv_u32 e = 0; e < 256u; e++)
            if (!chosen[e] && (best == 256u || counts[e] > counts[best]))
                best = e;
        chosen[best] = 1;
    }
    table[0] = table[1] = table[2] = table[3] = 0;
    for (akv_u32 e = 0; e < 256u; e++) {
        if (chosen[e]) {
            table[at / 4u] |= e << 8u * (at & 3u);
            at++;
        } else
            escapes += counts[e];
    }
    return escapes;
}
#endif

#endif
