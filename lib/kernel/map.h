/* SPDX-License-Identifier: Apache-2.0 */
/* Transforms with constants of their own: a mean that follows the rotary embedding, a matrix.
 *
 * Contract (class EXACT).  Row x of a head at position p, sane (fp.h); T = map.transform.
 *
 * m_i(p): component i of the head's mean, turned to p: a pair of the rotary embedding by rope.h,
 *     other components as they are; 0 for all without a mean.
 *
 * Storing: x_i = sane(x_i - m_i(p)) where there is a mean, x_i = sane(x_i * scale(h, 0)) where there are
 *     scales; then nothing (NONE), akv_rotate_store
 *     (ROTATE, CENTRE), or y_j = sane(fma chain of matrix(i, j) * x_i over i ascending from +0).
 *
 * Reading back: akv_rotate_read, or x_i = fma chain of inverse(j, i) * y_j over j ascending from +0;
 *     then x_i = x_i * scale(h, 1) where there are scales, x_i = x_i + m_i(p) where there is a mean.
 *
 * Nothing here is subnormal: matrix and mean are f16, entries of the inverse below 2^-60 are 0, scales
 * are within 2^-40 .. 2^40. */
#ifndef AKV_KERNEL_MAP_H
#define AKV_KERNEL_MAP_H
#include "fp.h"
#include "params.h"
#include "rope.h"

/* Component i belongs to which pair, as its first or second, with which other component. */
typedef struct akv_pair_place {
    akv_u32 pair, first, second; /* components of the pair */
    akv_u32 paired;              /* 0: it is not turned */
} akv_pair_place;
AKV_FN akv_pair_place akv_pair_of(akv_u32 pairs, akv_u32 rope, akv_u32 i)
{
    akv_pair_place at;
    at.paired = i < 2u * pairs ? 1u : 0u;
    at.pair = rope == AKV_ROPE_HALF ? (i < pairs ? i : i - pairs) : i >> 1;
    at.first = rope == AKV_ROPE_HALF ? at.pair : at.pair * 2u;
    at.second = rope == AKV_ROPE_HALF ? at.pair + pairs : at.pair * 2u + 1u;
    return at;
}

AKV_FN const AKV_GLOBAL akv_map *akv_map_at(const AKV_GLOBAL akv_u8 *maps, akv_u32 offset)
{
    return (const AKV_GLOBAL akv_map *)(maps + offset);
}
AKV_FN float akv_map_f16(const AKV_GLOBAL akv_u8 *maps, akv_u32 offset, akv_u32 index)
{
    return akv_as_f32(akv_f32_from_f16(akv_load_u16(maps + offset + index * 2u)));
}
AKV_FN akv_u64 akv_map_turns(const AKV_GLOBAL akv_u8 *maps, const AKV_GLOBAL akv_map *map,
                             akv_u32 pair)
{
    const AKV_GLOBAL akv_u8 *at = maps + map->turns + pair * 8u;
    return (akv_u64)akv_load_u32(at + 4u) << 32 | akv_load_u32(at);
}
/* m_i(position) of a head. */
AKV_FN float akv_map_mean(const AKV_GLOBAL akv_u8 *maps, const AKV_GLOBAL akv_map *map,
                          akv_u32 head, akv_u32 dim, akv_u32 position, akv_u32 i)
{
    akv_pair_place at = akv_pair_of(map->pairs, map->rope, i);
    akv_turn turn;
    float a, b;
    if (!at.paired)
        return akv_map_f16(maps, map->mean, head * dim + i);
    turn = akv_rope_at(akv_map_turns(maps, map, at.pair), position);
    a = akv_map_f16(maps, map->mean, head * dim + at.first);
    b = akv_map_f16(maps, map->mean, head * dim + at.second);
    return i == at.first ? akv_rope_first(turn, a, b) : akv_rope_second(turn, a, b);
}
/* How far a pair turns, of shift's list. */
AKV_FN akv_u64 akv_shift_phase(const AKV_GLOBAL akv_u8 *phases, akv_u32 pair)
{
    return (akv_u64)akv_load_u32(phases + pair * 8u + 4u) << 32 | akv_load_u32(phases + pair * 8u);
}
/* Does the map rotate, and does it have a matrix? */
AKV_FN akv_u32 akv_map_rotates(const AKV_GLOBAL akv_map *map)
{
    return map->transform == AKV_TRANSFORM_ROTATE || map->transform == AKV_TRANSFORM_CENTRE ? 1u
                                                                                            : 0u;
}
/* scale(head, part): part 0 of storing, 1 of reading. */
AKV_FN float akv_map_scale(const AKV_GLOBAL akv_u8 *maps, const AKV_GLOBAL akv_map *map,
                           akv_u32 head, akv_u32 part)
{
    return map->scales ? akv_as_f32(akv_load_u32(maps + map->scales + (head * 2u + part) * 4u)) : 1.0f;
}
/* Byte offset of row `row` of a head's matrix, and of its inverse. */
AKV_FN akv_u32 akv_map_matrix_row(const AKV_GLOBAL akv_map *map, akv_u32 head, akv_u32 dim,
                                  akv_u32 row)
{
    return map->matrix + (head * dim + row) * dim * 2u;
}
AKV_FN akv_u32 akv_map_inverse_row(const AKV_GLOBAL akv_map *map, akv_u32 head, akv_u32 dim,
                                   akv_u32 row)
{
    return map->inverse + (head * dim + row) * dim * 4u;
}

#endif
