/* SPDX-License-Identifier: Apache-2.0 */
/* Entropy coding of small symbols: 32 interleaved static rANS coders, integers only.
 *
 * Input.  Symbols of 1 to 8 bits stand in words of 32 bits in one or two planes, as the codes of tiles do
 * (format.h): 32 symbols, one for each lane, are a step; bits of plane 0 are the low ones.  tile_steps
 * steps are a tile, `tiles` tiles a stripe, heads*groups stripes are all.  Step i of tile t of stripe
 * head*groups + group has word w of a plane at word at + t*tile + i*step + head*head_step + group*group_step
 * + w*word_step, and its symbol of lane l at bit (l*bits)%32 of word l*bits/32.  In the last step of a
 * tile only the first `last` lanes have a symbol.  A lane of a stripe is a column; steps are numbered
 * stripe by stripe.
 *
 * Model.  A symbol is a class below 16 and 0 to 6 bits that are stored as they are:
 *     raw < AKV_RANS_SIGNED   class = symbol >> raw, its low `raw` bits as they are (bits - raw <= 4)
 *     raw = AKV_RANS_SIGNED   8 bits, d = symbol - centre modulo 256 in -128 … 127, m = |d|: level 0, 1, 2: m
 *             itself; 3 … 6: m in 2^(level-2)+1 … 2^(level-1), level-2 bits: m less the first of these;
 *             7: m in 33 … 96, 6 bits: m - 33.  class 0 is level 0, class 2*level-1 d > 0, 2*level d < 0.
 *             class 15: m > 96, 6 bits: d - 97, or for d < 0: m - 66
 * A table has a frequency for each class, in units of 1/1024, none of 1024, together 1024; a column has one
 * of `tables` tables.  Tables are u32 [tables][words], three frequencies of 10 bits in a word, padded to 16
 * bytes; behind them the map: four bits a column, column c in bits 4(c mod 8) of word c/8.
 *
 * Coder.  Segments of 4096 steps of symbols of 2 bits, 2048 of 3 or 4, 1024 of more, the last with what is
 * left.  State x of a lane: 2^16 <= x < 2^32.  The
 * last floor(16/bits) steps of a segment are in the states that the encoder starts with: 2^16 + the sum of
 * symbol << bits*k, k = 0 for the first of these steps, 0 where a lane has no symbol.  Then from the step
 * before to the first, from lane 31 to lane 0: with frequency f, c the sum of those of lower classes, n bits
 * b: if x >= f << (22-n), put x & 0xFFFF in front of what was put before and x >>= 16; x = x << n | b;
 * x = (x / f) << 10 | (x mod f) + c.  The decoder does the reverse.  A segment is its 32 states, then the
 * u16 put, filled up with zero to words; where this is not less than its words as they are, the segment
 * is those: of each step plane 0's, then plane 1's, words of lanes without symbols 0.
 *
 * The body is a record for each segment, u32 end of it in words from the end of the records, u32 check, and
 * then the segments.  check: segment number + sum over its words j of akv_bx16_mix(word, j), modulo 2^32.
 *
 * A decoder of any bytes writes the symbols' words and nothing else, reads inside the body only, and says
 * "damaged" where ends are not ascending or not in the body, a check differs, or states do not end in
 * 2^16 … 2^17-1 with all that was put used up. */
#ifndef AKV_KERNEL_RANS_H
#define AKV_KERNEL_RANS_H
#include "bx16.h"

#define AKV_RANS_LANES   32u
#define AKV_RANS_COUNTED 1024u /* steps that a group of a device counts together */
#define AKV_RANS_BITS    10u
#define AKV_RANS_ONE     1024u
#define AKV_RANS_LOW     0x10000u
#define AKV_RANS_CLASSES 16u
#define AKV_RANS_TABLES  16u
#define AKV_RANS_SIGNED  8u
#define AKV_RANS_MAX     0x02000000u /* steps in all: 2^30 symbols */

/* ---- geometry ---- */

AKV_FN akv_u32 akv_rans_stripe_steps(const akv_rans_params *p)
{
    return p->tiles * p->tile_steps;
}
AKV_FN akv_u32 akv_rans_stripes(const akv_rans_params *p)
{
    return p->heads * p->groups;
}
AKV_FN akv_u32 akv_rans_steps(const akv_rans_params *p)
{
    return akv_rans_stripes(p) * akv_rans_stripe_steps(p);
}
/* Bits of a symbol, which are words of a step, too. */
AKV_FN akv_u32 akv_rans_width(const akv_rans_params *p)
{
    return p->plane[0].bits + p->plane[1].bits;
}
/* Steps of a segment but the last. */
AKV_FN akv_u32 akv_rans_each(const akv_rans_params *p)
{
    akv_u32 width = akv_rans_width(p);
    return width <= 2u ? 4096u : width <= 4u ? 2048u : 1024u;
}
AKV_FN akv_u32 akv_rans_segments(const akv_rans_params *p)
{
    return (akv_rans_steps(p) + akv_rans_each(p) - 1u) / akv_rans_each(p);
}
AKV_FN akv_u32 akv_rans_segment_steps(const akv_rans_params *p, akv_u32 segment)
{
    return AKV_MIN(akv_rans_each(p), akv_rans_steps(p) - segment * akv_rans_each(p));
}
AKV_FN akv_u32 akv_rans_tail(const akv_rans_params *p, akv_u32 steps)
{
    return AKV_MIN(16u / akv_rans_width(p), steps);
}
AKV_FN akv_u32 akv_rans_classes(const akv_rans_params *p)
{
    return p->raw == AKV_RANS_SIGNED ? 16u : 1u << (akv_rans_width(p) - p->raw);
}
AKV_FN akv_u32 akv_rans_table_words(const akv_rans_params *p)
{
    return (akv_rans_classes(p) + 2u) / 3u;
}
/* Words of the model: where the map begins, all. */
AKV_FN akv_u32 akv_rans_map_at(const akv_rans_params *p)
{
    return (p->tables * akv_rans_table_words(p) + 3u) & ~3u;
}
AKV_FN akv_u32 akv_rans_model_words(const akv_rans_params *p)
{
    return akv_rans_map_at(p) + akv_rans_stripes(p) * 4u;
}
/* Most bytes of a body: every segment as it is. */
AKV_FN akv_u64 akv_rans_body_most(const akv_rans_params *p)
{
    return (akv_u64)akv_rans_segments(p) * 8u + (akv_u64)akv_rans_steps(p) * akv_rans_width(p) * 4u;
}

/* Where a step is: the first word of a plane, and lanes that have a symbol. */
typedef struct akv_rans_place {
    akv_u32 stripe, tile, step; /* step of the tile */
} akv_rans_place;
AKV_FN void akv_rans_find(const akv_rans_params *p, akv_u32 step, akv_rans_place *place)
{
    akv_u32 each = akv_rans_stripe_steps(p), in = step % each;
    place->stripe = step / each;
    place->tile = in / p->tile_steps;
    place->step = in % p->tile_steps;
}
AKV_FN void akv_rans_next(const akv_rans_params *p, akv_rans_place *place)
{
    if (++place->step < p->tile_steps)
        return;
    place->step = 0u;
    if (++place->tile < p->tiles)
        return;
    place->tile = 0u;
    place->stripe++;
}
AKV_FN void akv_rans_previous(const akv_rans_params *p, akv_rans_place *place)
{
    if (place->step-- > 0u)
        return;
    place->step = p->tile_steps - 1u;
    if (place->tile-- > 0u)
        return;
    place->tile = p->tiles - 1u;
    place->stripe--;
}
AKV_FN akv_u32 akv_rans_word(const akv_rans_params *p, akv_u32 plane, const akv_rans_place *place)
{
    return p->plane[plane].at + place->tile * p->plane[plane].tile + place->step * p->plane[plane].step +
           place->stripe / p->groups * p->plane[plane].head + place->stripe % p->groups * p->plane[plane].group;
}
AKV_FN akv_u32 akv_rans_lanes(const akv_rans_params *p, const akv_rans_place *place)
{
    return place->step + 1u == p->tile_steps ? p->last : AKV_RANS_LANES;
}

/* ---- symbols ---- */

/* class in bits 3:0, number of bits as they are in bits 7:4, those bits from bit 8. */
AKV_FN akv_u32 akv_rans_split(akv_u32 raw, akv_u32 centre, akv_u32 symbol)
{
    akv_u32 d, m, negative, level;
    if (raw < AKV_RANS_SIGNED)
        return (symbol >> raw) | raw << 4 | (symbol & ((1u << raw) - 1u)) << 8;
    d = (symbol - centre) & 0xFFu;
    negative = d >> 7;
    m = negative ? 256u - d : d;
    if (m < 3u)
        return m == 0u ? 0u : 2u * m - 1u + negative;
    if (m > 96u)
        return 15u | 6u << 4 | (negative ? m - 66u : m - 97u) << 8;
    if (m > 32u)
        return (13u + negative) | 6u << 4 | (m - 33u) << 8;
    level = 33u - AKV_CLZ(m - 1u);
    return (2u * level - 1u + negative) | (level - 2u) << 4 | (m - 1u - (1u << (level - 2u))) << 8;
}
/* How many bits as they are go with a class. */
AKV_FN akv_u32 akv_rans_extra(akv_u32 raw, akv_u32 class_)
{
    if (raw < AKV_RANS_SIGNED)
        return raw;
    return class_ < 5u ? 0u : class_ < 13u ? (class_ - 3u) / 2u : 6u;
}
AKV_FN akv_u32 akv_rans_join(akv_u32 raw, akv_u32 centre, akv_u32 class_, akv_u32 bits)
{
    akv_u32 level, m;
    if (raw < AKV_RANS_SIGNED)
        return class_ << raw | bits;
    if (class_ == 15u)
        return (bits < 31u ? centre + 97u + bits : centre - 66u - bits) & 0xFFu;
    level = (class_ + 1u) / 2u;
    m = level < 3u ? level : level == 7u ? 33u + bits : (1u << (level - 2u)) + 1u + bits;
    return (class_ & 1u ? centre + m : centre - m) & 0xFFu;
}

/* ---- model ---- */

AKV_FN akv_u32 akv_rans_frequency(const akv_rans_params *p, const AKV_GLOBAL akv_u32 *model, akv_u32 table,
                                  akv_u32 class_)
{
    return model[table * akv_rans_table_words(p) + class_ / 3u] >> 10u * (class_ % 3u) & 1023u;
}
AKV_FN akv_u32 akv_rans_table(const akv_rans_params *p, const AKV_GLOBAL akv_u32 *model, akv_u32 column)
{
    return model[akv_rans_map_at(p) + column / 8u] >> 4u * (column & 7u) & 15u;
}

/* ---- the coder of a lane ---- */

/* Whether the state must be made smaller first. */
AKV_FN akv_u32 akv_rans_full(akv_u32 x, akv_u32 frequency, akv_u32 extra)
{
    return (x >> (22u - extra)) >= frequency;
}
AKV_FN akv_u32 akv_rans_push(akv_u32 x, akv_u32 frequency, akv_u32 below, akv_u32 extra, akv_u32 bits)
{
    x = x << extra | bits;
    return (x / frequency << AKV_RANS_BITS) + x % frequency + below;
}

#endif
