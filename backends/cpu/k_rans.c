/* SPDX-License-Identifier: Apache-2.0 */
/* CPU kernels of the compress family: rANS.  An item is a segment, of count a stripe.  Encoding
 * takes three phases: segments into their slots of the scratch, the sum of their words in order,
 * segments to the body. */
#include "k_rans.h"

static akv_u32 load32(const uint8_t *words, akv_u32 i)
{
    akv_u32 value;
    memcpy(&value, words + (size_t)i * 4u, 4);
    return value;
}

static void store32(uint8_t *words, akv_u32 i, akv_u32 value)
{
    memcpy(words + (size_t)i * 4u, &value, 4);
}

/* ---- steps ---- */

void akv_rans_get(const akv_rans_params *p, const uint8_t *words, const akv_rans_place *place,
                  uint8_t symbol[AKV_RANS_LANES])
{
    const akv_u32 lanes = akv_rans_lanes(p, place);
    memset(symbol, 0, AKV_RANS_LANES);
    for (akv_u32 plane = 0, shift = 0; plane < 2u; shift += p->plane[plane++].bits) {
        const akv_u32 bits = p->plane[plane].bits, per = bits ? 32u / bits : 0,
                      mask = (1u << bits) - 1u;
        const akv_u32 at = akv_rans_word(p, plane, place);
        for (akv_u32 w = 0; w < bits && w * per < lanes; w++) {
            const akv_u32 word = load32(words, at + w * p->plane[plane].word);
            for (akv_u32 i = 0; i < per && w * per + i < lanes; i++)
                symbol[w * per + i] |= (uint8_t)((word >> i * bits & mask) << shift);
        }
    }
}

void akv_rans_put(const akv_rans_params *p, uint8_t *words, const akv_rans_place *place,
                  const uint8_t symbol[AKV_RANS_LANES])
{
    const akv_u32 lanes = akv_rans_lanes(p, place);
    for (akv_u32 plane = 0, shift = 0; plane < 2u; shift += p->plane[plane++].bits) {
        const akv_u32 bits = p->plane[plane].bits, per = bits ? 32u / bits : 0,
                      mask = (1u << bits) - 1u;
        const akv_u32 at = akv_rans_word(p, plane, place);
        for (akv_u32 w = 0; w < bits && w * per < lanes; w++) {
            akv_u32 word = 0;
            for (akv_u32 i = 0; i < per; i++)
                word |= ((akv_u32)symbol[w * per + i] >> shift & mask) << i * bits;
            store32(words, at + w * p->plane[plane].word, word);
        }
    }
}

/* Words of a segment as they are, to `out` or, where `back`, from `in`. */
static void copy_raw(const akv_rans_params *p, uint8_t *words, akv_u32 segment, const uint8_t *in,
                     uint8_t *out)
{
    akv_rans_place place;
    akv_rans_find(p, segment * akv_rans_each(p), &place);
    akv_u32 n = akv_rans_segment_steps(p, segment), at = 0;
    for (akv_u32 i = 0; i < n; i++, akv_rans_next(p, &place))
        for (akv_u32 plane = 0; plane < 2u; plane++) {
            const akv_u32 base = akv_rans_word(p, plane, &place);
            for (akv_u32 w = 0; w < p->plane[plane].bits; w++, at++) {
                const bool there = w * (32u / p->plane[plane].bits) < akv_rans_lanes(p, &place);
                const akv_u32 to = base + w * p->plane[plane].word;
                if (out)
                    store32(out, at, there ? load32(words, to) : 0);
                else if (there)
                    store32(words, to, load32(in, at));
            }
        }
}

void akv_rans_read_tables(const akv_rans_params *p, const uint8_t *model,
                          struct akv_rans_tables *tables)
{
    const akv_u32 classes = akv_rans_classes(p);
    memset(tables, 0, sizeof *tables);
    for (akv_u32 t = 0; t < p->tables; t++)
        for (akv_u32 c = 0, below = 0; c < AKV_RANS_CLASSES; c++) {
            const akv_u32 f =
                c < classes ? akv_rans_frequency(p, (const akv_u32 *)(const void *)model, t, c)
                            : AKV_RANS_ONE;
            tables->frequency[t][c] = (uint16_t)f;
            tables->below[t][c] = (uint16_t)AKV_MIN(below, AKV_RANS_ONE);
            below += f;
        }
}

/* ---- count ---- */

uint64_t akv_rans_count_items(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)phase;
    const akv_rans_params *p = args->params;
    return akv_rans_steps(p) ? akv_rans_stripes(p) : 0;
}

void akv_rans_count_plain(const struct akv_cpu_args *args, akv_u32 first, akv_u32 end,
                          akv_u32 counts[AKV_RANS_LANES][AKV_RANS_CLASSES])
{
    const akv_rans_params *p = args->params;
    akv_rans_place place;
    akv_rans_find(p, first, &place);
    for (akv_u32 i = first; i < end; i++, akv_rans_next(p, &place)) {
        uint8_t symbol[AKV_RANS_LANES];
        akv_rans_get(p, args->arg[0], &place, symbol);
        for (akv_u32 l = 0; l < akv_rans_lanes(p, &place); l++)
            counts[l][akv_rans_split(p->raw, p->centre, symbol[l]) & 15u]++;
    }
}

void akv_rans_count_run(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                        akv_rans_counter *counter)
{
    const akv_rans_params *p = args->params;
    const akv_u32 each = akv_rans_stripe_steps(p);
    for (akv_u32 stripe = (akv_u32)first; stripe < first + count; stripe++) {
        akv_u32 counts[AKV_RANS_LANES][AKV_RANS_CLASSES] = {{0}};
        counter(args, stripe * each, (stripe + 1u) * each, counts);
        for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
            for (akv_u32 c = 0; c < AKV_RANS_CLASSES; c++) {
                const akv_u32 at = (stripe * AKV_RANS_LANES + l) * AKV_RANS_CLASSES + c;
                store32(args->arg[1], at, load32(args->arg[1], at) + counts[l][c]);
            }
    }
}

/* ---- encode ---- */

akv_u32 akv_rans_encode_plain(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                              akv_u32 segment, uint8_t *slot, akv_u32 room)
{
    const akv_rans_params *p = args->params;
    const akv_u32 first = segment * akv_rans_each(p), steps = akv_rans_segment_steps(p, segment);
    const akv_u32 tail = akv_rans_tail(p, steps), width = akv_rans_width(p);
    akv_u32 x[AKV_RANS_LANES], put = 0, stripe = AKV_RANS_MAX;
    uint8_t symbol[AKV_RANS_LANES], table[AKV_RANS_LANES];
    akv_rans_place place;
    akv_rans_find(p, first + steps - 1u, &place);
    if (room <= AKV_RANS_LANES)
        return AKV_RANS_RAW;
    const akv_u32 most = 2u * (room - 1u - AKV_RANS_LANES);
    for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
        x[l] = 0;
    for (akv_u32 i = 0; i < tail; i++, akv_rans_previous(p, &place)) {
        akv_rans_get(p, args->arg[0], &place, symbol);
        for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
            x[l] = x[l] << width | symbol[l];
    }
    for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
        x[l] |= AKV_RANS_LOW;
    for (akv_u32 i = tail; i < steps; i++, akv_rans_previous(p, &place)) {
        if (place.stripe != stripe) {
            stripe = place.stripe;
            for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
                table[l] = (uint8_t)akv_rans_table(p, (const akv_u32 *)(const void *)args->arg[1],
                                                   stripe * AKV_RANS_LANES + l);
        }
        akv_rans_get(p, args->arg[0], &place, symbol);
        for (akv_u32 l = akv_rans_lanes(p, &place); l-- > 0;) {
            const akv_u32 split = akv_rans_split(p->raw, p->centre, symbol[l]),
                          extra = split >> 4 & 15u;
            const akv_u32 f = AKV_MAX(1u, (akv_u32)tables->frequency[table[l]][split & 15u]);
            if (akv_rans_full(x[l], f, extra)) {
                if (put == most)
                    return AKV_RANS_RAW;
                put++;
                const uint16_t low = (uint16_t)x[l];
                memcpy(slot + (size_t)room * 4u - put * 2u, &low, 2);
                x[l] >>= 16;
            }
            x[l] = akv_rans_push(x[l], f, tables->below[table[l]][split & 15u], extra, split >> 8);
        }
    }
    memcpy(slot, x, sizeof x);
    return put;
}

uint64_t akv_rans_encode_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_rans_params *p = args->params;
    return phase == 1 ? 1 : akv_rans_segments(p);
}

/* A slot has room for a segment as it is. */
static struct akv_rans_slot slot_of(const struct akv_cpu_args *args, akv_u32 segment)
{
    const akv_rans_params *p = args->params;
    return (struct akv_rans_slot){segment, akv_rans_segment_steps(p, segment) * akv_rans_width(p),
                                  args->arg[3] +
                                      (size_t)segment * akv_rans_each(p) * akv_rans_width(p) * 4u};
}

/* The record gets words, and what was put. */
static void put_record(const struct akv_cpu_args *args, const struct akv_rans_slot *slot,
                       akv_u32 put)
{
    if (put == AKV_RANS_RAW)
        copy_raw(args->params, args->arg[0], slot->segment, NULL, slot->slot);
    store32(args->arg[2], 2u * slot->segment,
            put == AKV_RANS_RAW ? slot->room : AKV_RANS_LANES + (put + 1u) / 2u);
    store32(args->arg[2], 2u * slot->segment + 1u, put);
}

static void fill_slots(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                       akv_rans_encoder *encoder, akv_rans_pair_encoder *pair)
{
    struct akv_rans_tables tables;
    uint64_t segment = first;
    akv_rans_read_tables(args->params, args->arg[1], &tables);
    for (; pair && segment + 2u <= first + count; segment += 2u) {
        const struct akv_rans_slot slot[2] = {slot_of(args, (akv_u32)segment),
                                              slot_of(args, (akv_u32)segment + 1u)};
        akv_u32 put[2];
        pair(args, &tables, slot, put);
        put_record(args, &slot[0], put[0]);
        put_record(args, &slot[1], put[1]);
    }
    for (; segment < first + count; segment++) {
        const struct akv_rans_slot slot = slot_of(args, (akv_u32)segment);
        put_record(args, &slot, encoder(args, &tables, slot.segment, slot.slot, slot.room));
    }
}

static void sum_records(const struct akv_cpu_args *args)
{
    const akv_u32 segments = akv_rans_segments(args->params);
    akv_u32 end = 0;
    for (akv_u32 i = 0; i < segments; i++) {
        end += load32(args->arg[2], 2u * i);
        store32(args->arg[2], 2u * i, end);
    }
}

akv_u32 akv_rans_check_plain(const uint8_t *words, akv_u32 count, akv_u32 segment)
{
    akv_u32 sum = segment;
    for (akv_u32 j = 0; j < count; j++)
        sum += akv_bx16_mix(load32(words, j), j);
    return sum;
}

static void move_slot(const struct akv_cpu_args *args, akv_u32 segment, akv_rans_checker *checker)
{
    const akv_rans_params *p = args->params;
    const akv_u32 room = akv_rans_segment_steps(p, segment) * akv_rans_width(p);
    const uint8_t *slot =
        args->arg[3] + (size_t)segment * akv_rans_each(p) * akv_rans_width(p) * 4u;
    const akv_u32 from = segment ? load32(args->arg[2], 2u * segment - 2u) : 0;
    const akv_u32 words = load32(args->arg[2], 2u * segment) - from,
                  put = load32(args->arg[2], 2u * segment + 1u);
    uint8_t *to = args->arg[2] + ((size_t)akv_rans_segments(p) * 2u + from) * 4u;
    if (put == AKV_RANS_RAW)
        memcpy(to, slot, (size_t)room * 4u);
    else {
        memcpy(to, slot, AKV_RANS_LANES * 4u);
        store32(to, words - 1u, put & 1u ? 0 : load32(to, words - 1u));
        memcpy(to + AKV_RANS_LANES * 4u, slot + (size_t)room * 4u - put * 2u, put * 2u);
    }
    store32(args->arg[2], 2u * segment + 1u, checker(to, words, segment));
}

void akv_rans_encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count, akv_rans_encoder *encoder, akv_rans_pair_encoder *pair,
                         akv_rans_checker *checker)
{
    if (phase == 0)
        fill_slots(args, first, count, encoder, pair);
    else if (phase == 1)
        sum_records(args);
    else
        for (uint64_t segment = first; segment < first + count; segment++)
            move_slot(args, (akv_u32)segment, checker);
}

/* ---- decode ---- */

bool akv_rans_decode_plain(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                           akv_u32 segment, const uint8_t *from, akv_u32 words)
{
    const akv_rans_params *p = args->params;
    const akv_u32 first = segment * akv_rans_each(p), steps = akv_rans_segment_steps(p, segment);
    const akv_u32 tail = akv_rans_tail(p, steps), width = akv_rans_width(p);
    const akv_u32 all = (words - AKV_RANS_LANES) * 2u;
    akv_u32 x[AKV_RANS_LANES], got = 0, high = 0, stripe = AKV_RANS_MAX;
    uint8_t symbol[AKV_RANS_LANES] = {0}, table[AKV_RANS_LANES];
    akv_rans_place place;
    akv_rans_find(p, first, &place);
    memcpy(x, from, sizeof x);
    from += AKV_RANS_LANES * 4u;
    for (akv_u32 i = tail; i < steps; i++, akv_rans_next(p, &place)) {
        if (place.stripe != stripe) {
            stripe = place.stripe;
            for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
                table[l] = (uint8_t)akv_rans_table(p, (const akv_u32 *)(const void *)args->arg[1],
                                                   stripe * AKV_RANS_LANES + l);
        }
        for (akv_u32 l = 0; l < akv_rans_lanes(p, &place); l++) {
            const uint16_t *frequency = tables->frequency[table[l]],
                           *below = tables->below[table[l]];
            const akv_u32 slot = x[l] & (AKV_RANS_ONE - 1u);
            akv_u32 c = 0;
            while (c < 15u && below[c + 1u] <= slot)
                c++;
            x[l] = frequency[c] * (x[l] >> AKV_RANS_BITS) + slot - below[c];
            const akv_u32 extra = akv_rans_extra(p->raw, c), bits = x[l] & ((1u << extra) - 1u);
            x[l] >>= extra;
            symbol[l] = (uint8_t)akv_rans_join(p->raw, p->centre, c, bits);
            if (x[l] < AKV_RANS_LOW && got < all) {
                uint16_t low;
                memcpy(&low, from + 2u * got++, 2);
                x[l] = x[l] << 16 | low;
            }
        }
        akv_rans_put(p, args->arg[2], &place, symbol);
    }
    for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
        high |= x[l] >> 16 ^ 1u;
    for (akv_u32 i = 0; i < tail; i++, akv_rans_next(p, &place)) {
        for (akv_u32 l = 0; l < AKV_RANS_LANES; l++)
            symbol[l] = (uint8_t)(x[l] >> width * i & ((1u << width) - 1u));
        akv_rans_put(p, args->arg[2], &place, symbol);
    }
    return high == 0 && (got + 1u) / 2u == all / 2u;
}

uint64_t akv_rans_decode_items(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)phase;
    return akv_rans_segments(args->params);
}

static void say_damaged(const struct akv_cpu_args *args)
{
    __atomic_store_n((akv_u32 *)(void *)args->arg[3], 1u, __ATOMIC_RELAXED);
}

void akv_rans_decode_run(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                         akv_rans_decoder *decoder, akv_rans_pair_decoder *pair,
                         akv_rans_checker *checker)
{
    const akv_rans_params *p = args->params;
    struct akv_rans_tables tables;
    struct akv_rans_part part[2];
    const akv_u32 segments = akv_rans_segments(p);
    akv_u32 waiting = 0;
    akv_rans_read_tables(p, args->arg[1], &tables);
    for (akv_u32 segment = (akv_u32)first; segment < first + count; segment++) {
        const akv_u32 from = segment ? load32(args->arg[0], 2u * segment - 2u) : 0;
        const akv_u32 end = load32(args->arg[0], 2u * segment), words = end - from;
        const akv_u32 raw = akv_rans_segment_steps(p, segment) * akv_rans_width(p);
        const uint8_t *at = args->arg[0] + ((size_t)segments * 2u + from) * 4u;
        bool good[2] = {from <= end && end <= p->words && words <= raw &&
                            (words == raw || words >= AKV_RANS_LANES),
                        true};
        if (good[0] && checker(at, words, segment) != load32(args->arg[0], 2u * segment + 1u))
            say_damaged(args);
        if (good[0] && words == raw)
            copy_raw(p, args->arg[2], segment, at, NULL);
        else if (good[0]) {
            part[waiting++] = (struct akv_rans_part){segment, words, at};
            if (pair && waiting == 1 && segment + 1u < first + count)
                continue;
            if (waiting == 2)
                pair(args, &tables, part, good);
            else
                good[0] = decoder(args, &tables, segment, at, words);
            waiting = 0;
        }
        if (!good[0] || !good[1])
            say_damaged(args);
    }
    if (waiting && !decoder(args, &tables, part[0].segment, part[0].from, part[0].words))
        say_damaged(args);
}

/* ---- kernels ---- */

static void count_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                      uint64_t count)
{
    (void)phase;
    akv_rans_count_run(args, first, count, akv_rans_count_plain);
}

static void encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    akv_rans_encode_run(args, phase, first, count, akv_rans_encode_plain, NULL,
                        akv_rans_check_plain);
}

static void decode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    (void)phase;
    akv_rans_decode_run(args, first, count, akv_rans_decode_plain, NULL, akv_rans_check_plain);
}

const struct akv_cpu_kernel akv_cpu_rans_count_scalar = {1, akv_rans_count_items, count_run, NULL,
                                                         NULL};
const struct akv_cpu_kernel akv_cpu_rans_encode_scalar = {3, akv_rans_encode_items, encode_run,
                                                          NULL, NULL};
const struct akv_cpu_kernel akv_cpu_rans_decode_scalar = {1, akv_rans_decode_items, decode_run,
                                                          NULL, NULL};
