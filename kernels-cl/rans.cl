/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the compress family: rANS.
 *
 * Options: AKV_COUNT, AKV_SEGMENTS, AKV_RECORDS, AKV_MOVE, AKV_DECODE choose the kernel.  A work-item is a
 * lane of a segment, AKV_CL_SEGMENTS segments are in a work-group; in the CPU shape one work-item has all
 * lanes of one segment.  count takes AKV_RANS_COUNTED steps of a stripe, move a segment, records all. */
#ifdef AKV_CPU_SHAPE
#define ITEMS 1u
#define OWN   32u /* lanes of a work-item */
#define SUBS  1u  /* segments of a work-group */
#else
#define ITEMS WG
#define OWN   1u
#define SUBS  AKV_CL_SEGMENTS
#endif
#define SUB  ((akv_u32)get_local_id(0) * OWN / 32u)
#define LANE ((akv_u32)get_local_id(0) * OWN % 32u) /* the first of a work-item */

/* Frequencies and what is below them, by table and class; classes that are not begin at the end. */
typedef struct tables {
    ushort frequency[AKV_RANS_TABLES * AKV_RANS_CLASSES], below[AKV_RANS_TABLES * AKV_RANS_CLASSES];
} tables;

static inline void fill_tables(__local tables *to, const akv_rans_params *p, __global const akv_u32 *model)
{
    akv_u32 t, c, classes = akv_rans_classes(p);
    for (t = (akv_u32)get_local_id(0); t < AKV_RANS_TABLES; t += ITEMS) {
        akv_u32 below = 0u;
        for (c = 0u; c < AKV_RANS_CLASSES; c++) {
            akv_u32 f = t < p->tables && c < classes ? akv_rans_frequency(p, model, t, c) : AKV_RANS_ONE;
            to->frequency[t * AKV_RANS_CLASSES + c] = (ushort)f;
            to->below[t * AKV_RANS_CLASSES + c] = (ushort)AKV_MIN(below, AKV_RANS_ONE);
            below += f;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Symbol of a lane that has one. */
static inline akv_u32 symbol_at(const akv_rans_params *p, __global const akv_u32 *words,
                                const akv_rans_place *place, akv_u32 lane)
{
    akv_u32 plane, shift = 0u, symbol = 0u;
    for (plane = 0u; plane < 2u; plane++) {
        akv_u32 bits = p->plane[plane].bits;
        if (bits) {
            akv_u32 word = words[akv_rans_word(p, plane, place) + lane * bits / 32u * p->plane[plane].word];
            symbol |= (word >> (lane * bits & 31u) & ((1u << bits) - 1u)) << shift;
        }
        shift += bits;
    }
    return symbol;
}

/* The words of a step, by the lanes of its segment, from symbols of all of them. */
static inline void put_step(const akv_rans_params *p, __global akv_u32 *words, const akv_rans_place *place,
                            __local const uchar *symbol)
{
    akv_u32 w, i, width = akv_rans_width(p), b0 = p->plane[0].bits;
    for (w = LANE; w < width; w += 32u / OWN) {
        akv_u32 plane = w < b0 ? 0u : 1u, at = plane ? w - b0 : w, bits = p->plane[plane].bits, word = 0u;
        akv_u32 per = 32u / bits, mask = (1u << bits) - 1u;
        if (at * per >= akv_rans_lanes(p, place))
            continue;
        for (i = 0u; i < per; i++)
            word |= ((akv_u32)symbol[at * per + i] >> (plane ? b0 : 0u) & mask) << i * bits;
        words[akv_rans_word(p, plane, place) + at * p->plane[plane].word] = word;
    }
}

/* Words of a segment as they are, between its place and `packed`. */
static inline void raw_segment(const akv_rans_params *p, __global akv_u32 *words, __global akv_u32 *packed,
                               akv_u32 segment, bool back)
{
    akv_u32 i, w, width = akv_rans_width(p), b0 = p->plane[0].bits, n = akv_rans_segment_steps(p, segment);
    akv_rans_place place;
    akv_rans_find(p, segment * akv_rans_each(p), &place);
    for (i = 0u; i < n; i++, akv_rans_next(p, &place))
        for (w = LANE; w < width; w += 32u / OWN) {
            akv_u32 plane = w < b0 ? 0u : 1u, at = plane ? w - b0 : w;
            bool there = at * (32u / p->plane[plane].bits) < akv_rans_lanes(p, &place);
            akv_u32 to = akv_rans_word(p, plane, &place) + at * p->plane[plane].word;
            if (!back)
                packed[i * width + w] = there ? words[to] : 0u;
            else if (there)
                words[to] = packed[i * width + w];
        }
}

/* Bit l: lane l of this segment says yes.  One barrier; step by step, mask is one of three in turn. */
static inline akv_u32 vote(volatile __local akv_u32 *mask, akv_u32 step, akv_u32 own)
{
#ifdef AKV_CPU_SHAPE
    return own;
#else
    volatile __local akv_u32 *all = mask + SUB * 3u;
    if (own)
        atomic_or(&all[step % 3u], own);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (LANE == 0u)
        all[(step + 2u) % 3u] = 0u;
    return all[step % 3u];
#endif
}
static inline void vote_begin(volatile __local akv_u32 *mask)
{
    akv_u32 i;
    for (i = (akv_u32)get_local_id(0); i < SUBS * 3u; i += ITEMS)
        mask[i] = 0u;
    barrier(CLK_LOCAL_MEM_FENCE);
}

#ifdef AKV_COUNT
__kernel SHAPE void akv_k_rans_count(__global const uchar *words, ulong words_at, __global uchar *counts,
                                     ulong counts_at, const akv_rans_params p)
{
    __local akv_u32 own[SUBS * 32u * AKV_RANS_CLASSES];
    akv_u32 each = akv_rans_stripe_steps(&p), parts = (each + AKV_RANS_COUNTED - 1u) / AKV_RANS_COUNTED;
    akv_u32 stripe = (akv_u32)get_group_id(0) / parts, part = (akv_u32)get_group_id(0) % parts, i, l, s;
    akv_u32 end = AKV_MIN(each, (part + 1u) * AKV_RANS_COUNTED);
    for (i = (akv_u32)get_local_id(0); i < SUBS * 32u * AKV_RANS_CLASSES; i += ITEMS)
        own[i] = 0u;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (s = part * AKV_RANS_COUNTED + SUB; s < end; s += SUBS) {
        akv_rans_place place;
        akv_rans_find(&p, stripe * each + s, &place);
        for (l = LANE; l < AKV_MIN(LANE + OWN, akv_rans_lanes(&p, &place)); l++) {
            akv_u32 symbol = symbol_at(&p, (__global const akv_u32 *)(words + words_at), &place, l);
            akv_u32 c = akv_rans_split(p.raw, p.centre, symbol) & 15u;
            own[(SUB * AKV_RANS_CLASSES + c) * 32u + l]++;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = (akv_u32)get_local_id(0); i < 32u * AKV_RANS_CLASSES; i += ITEMS) {
        akv_u32 sum = 0u, sub;
        for (sub = 0u; sub < SUBS; sub++)
            sum += own[(sub * AKV_RANS_CLASSES + i % AKV_RANS_CLASSES) * 32u + i / AKV_RANS_CLASSES];
        if (sum)
            atomic_add((__global akv_u32 *)(counts + counts_at) + stripe * 32u * AKV_RANS_CLASSES + i, sum);
    }
}
#endif

#ifdef AKV_SEGMENTS
/* Segments into their slots; records with their words and what was put. */
__kernel SHAPE void akv_k_rans_segments(__global uchar *words, ulong words_at, __global const uchar *model,
                                        ulong model_at, __global uchar *body, ulong body_at,
                                        __global uchar *scratch, ulong scratch_at, const akv_rans_params p)
{
    __local tables known;
    volatile __local akv_u32 mask[SUBS * 3u];
    __global const akv_u32 *from = (__global const akv_u32 *)(words + words_at);
    __global const akv_u32 *m = (__global const akv_u32 *)(model + model_at);
    akv_u32 segment = (akv_u32)get_group_id(0) * SUBS + SUB, segments = akv_rans_segments(&p), i, k;
    bool there = segment < segments;
    akv_u32 steps = there ? akv_rans_segment_steps(&p, segment) : 0u, width = akv_rans_width(&p);
    akv_u32 tail = akv_rans_tail(&p, steps), room = steps * width, put = 0u, x[OWN], table[OWN], symbol[OWN];
    akv_u32 most = room > 32u ? 2u * (room - 33u) : 0u, stripe = AKV_RANS_MAX;
    bool raw = room <= 32u;
    fill_tables(&known, &p, m);
    vote_begin(mask);
    __global akv_u32 *slot = (__global akv_u32 *)(scratch + scratch_at) +
                             (size_t)(there ? segment : 0u) * akv_rans_each(&p) * width;
    __global ushort *end = (__global ushort *)(slot + room);
    akv_rans_place place;
    akv_rans_find(&p, there ? segment * akv_rans_each(&p) + steps - 1u : 0u, &place);
    for (k = 0u; k < OWN; k++)
        x[k] = table[k] = 0u;
    for (i = 0u; i < tail; i++, akv_rans_previous(&p, &place))
        for (k = 0u; k < OWN; k++)
            x[k] = x[k] << width |
                   (LANE + k < akv_rans_lanes(&p, &place) ? symbol_at(&p, from, &place, LANE + k) : 0u);
    for (k = 0u; k < OWN; k++)
        x[k] |= AKV_RANS_LOW;
    for (i = 0u; i < akv_rans_each(&p); i++) { /* as many barriers for every segment of the group */
        bool active = !raw && i >= tail && i < steps;
        akv_u32 full = 0u, f[OWN], split[OWN];
        if (active && place.stripe != stripe) {
            stripe = place.stripe;
            for (k = 0u; k < OWN; k++)
                table[k] = akv_rans_table(&p, m, stripe * 32u + LANE + k) * AKV_RANS_CLASSES;
        }
        for (k = 0u; k < OWN; k++) {
            symbol[k] = active && LANE + k < akv_rans_lanes(&p, &place);
            if (!symbol[k])
                continue;
            split[k] = akv_rans_split(p.raw, p.centre, symbol_at(&p, from, &place, LANE + k));
            f[k] = AKV_MAX(1u, (akv_u32)known.frequency[table[k] + (split[k] & 15u)]);
            full |= akv_rans_full(x[k], f[k], split[k] >> 4 & 15u) << (LANE + k);
        }
        akv_u32 all = vote(mask, i, full);
        if (!active)
            continue;
        put += popcount(all);
        if (put > most) {
            raw = true;
            continue;
        }
        for (k = 0u; k < OWN; k++) {
            if (!symbol[k])
                continue;
            if (full >> (LANE + k) & 1u) {
                end[-(int)put + (int)popcount(all & ((1u << (LANE + k)) - 1u))] = (ushort)x[k];
                x[k] >>= 16;
            }
            x[k] = akv_rans_push(x[k], f[k], known.below[table[k] + (split[k] & 15u)], split[k] >> 4 & 15u,
                                 split[k] >> 8);
        }
        akv_rans_previous(&p, &place);
    }
    if (!there)
        return;
    if (raw)
        raw_segment(&p, (__global akv_u32 *)(words + words_at), slot, segment, false);
    for (k = 0u; k < OWN && !raw; k++)
        slot[LANE + k] = x[k];
    if (LANE == 0u) {
        __global akv_u32 *record = (__global akv_u32 *)(body + body_at) + segment * 2u;
        record[0] = raw ? room : 32u + (put + 1u) / 2u;
        record[1] = raw ? 0xFFFFFFFFu : put;
    }
}
#endif

#ifdef AKV_RECORDS
/* One work-group: words to their sums, a run of RUN records a work-item at a time. */
#define RUN 16u
__kernel SHAPE void akv_k_rans_records(__global const uchar *words, ulong words_at, __global const uchar *model,
                                       ulong model_at, __global uchar *body, ulong body_at,
                                       __global uchar *scratch, ulong scratch_at, const akv_rans_params p)
{
    __local akv_u32 sums[ITEMS];
    akv_u32 item = (akv_u32)get_local_id(0), segments = akv_rans_segments(&p), base, before = 0u, i;
    __global akv_u32 *records = (__global akv_u32 *)(body + body_at);
    for (base = 0u; base < segments; base += ITEMS * RUN) {
        akv_u32 first = AKV_MIN(base + item * RUN, segments), end = AKV_MIN(first + RUN, segments), sum = 0u, all;
        for (i = first; i < end; i++)
            sum += records[i * 2u];
        sum = before + akv_group_scan(sums, sum, ITEMS, &all);
        for (i = first; i < end; i++)
            records[i * 2u] = sum += records[i * 2u];
        before += all;
    }
}
#endif

#ifdef AKV_MOVE
__kernel SHAPE void akv_k_rans_move(__global const uchar *words, ulong words_at, __global const uchar *model,
                                    ulong model_at, __global uchar *body, ulong body_at,
                                    __global uchar *scratch, ulong scratch_at, const akv_rans_params p)
{
    __local akv_u32 sums[ITEMS];
    akv_u32 segment = (akv_u32)get_group_id(0), item = (akv_u32)get_local_id(0), width = akv_rans_width(&p), j;
    __global akv_u32 *records = (__global akv_u32 *)(body + body_at);
    akv_u32 first = segment ? records[segment * 2u - 2u] : 0u, count = records[segment * 2u] - first;
    akv_u32 put = records[segment * 2u + 1u], room = akv_rans_segment_steps(&p, segment) * width, sum = 0u;
    __global const akv_u32 *slot =
        (__global const akv_u32 *)(scratch + scratch_at) + (size_t)segment * akv_rans_each(&p) * width;
    __global akv_u32 *to = records + akv_rans_segments(&p) * 2u + first;
    bool raw = put == 0xFFFFFFFFu;
    __global const ushort *from = (__global const ushort *)(slot + room) - (raw ? 0u : put);
    for (j = item; j < count; j += ITEMS) {
        akv_u32 word, at = (j - 32u) * 2u;
        if (raw || j < 32u)
            word = slot[j];
        else
            word = from[at] | (at + 1u < put ? (akv_u32)from[at + 1u] << 16 : 0u);
        to[j] = word;
        sum += akv_bx16_mix(word, j);
    }
    barrier(CLK_GLOBAL_MEM_FENCE); /* all have read the record */
    sum = akv_group_sum(sums, sum, ITEMS);
    if (item == 0u)
        records[segment * 2u + 1u] = sum + segment;
}
#endif

#ifdef AKV_DECODE
__kernel SHAPE void akv_k_rans_decode(__global uchar *body, ulong body_at, __global const uchar *model,
                                      ulong model_at, __global uchar *words, ulong words_at,
                                      __global uchar *damaged, ulong damaged_at, const akv_rans_params p)
{
    __local tables known;
    __local akv_u32 sums[ITEMS];
    __local uchar symbols[2u * SUBS * 32u];
    volatile __local akv_u32 mask[SUBS * 3u], bad[SUBS];
    __global const akv_u32 *m = (__global const akv_u32 *)(model + model_at);
    __global const akv_u32 *records = (__global const akv_u32 *)(body + body_at);
    __global akv_u32 *out = (__global akv_u32 *)(words + words_at);
    akv_u32 segment = (akv_u32)get_group_id(0) * SUBS + SUB, segments = akv_rans_segments(&p), i, k;
    bool there = segment < segments;
    akv_u32 steps = there ? akv_rans_segment_steps(&p, segment) : 0u, width = akv_rans_width(&p);
    akv_u32 tail = akv_rans_tail(&p, steps), stripe = AKV_RANS_MAX, got = 0u, sum = 0u, x[OWN], table[OWN];
    akv_u32 first = there && segment ? records[segment * 2u - 2u] : 0u, end = there ? records[segment * 2u] : 0u;
    akv_u32 count = end - first;
    bool good = there && first <= end && end <= p.words && count <= steps * width &&
                (count == steps * width || count >= 32u);
    bool raw = good && count == steps * width, run = good && !raw;
    akv_u32 all = run ? (count - 32u) * 2u : 0u;
    __global akv_u32 *at = (__global akv_u32 *)(body + body_at) + segments * 2u + (good ? first : 0u);
    __global const ushort *stream = (__global const ushort *)(at + 32);
    akv_rans_place place;
    akv_rans_find(&p, there ? segment * akv_rans_each(&p) : 0u, &place);
    if (LANE == 0u)
        bad[SUB] = 0u;
    fill_tables(&known, &p, m);
    vote_begin(mask);
    for (k = 0u; k < OWN; k++) {
        x[k] = run ? at[LANE + k] : 0u;
        table[k] = 0u;
    }
    for (i = 0u; i < akv_rans_each(&p); i++) {
        __local uchar *symbol = symbols + ((i & 1u) * SUBS + SUB) * 32u;
        bool coded = run && i < steps - tail, rest = run && i >= steps - tail && i < steps;
        akv_u32 low = 0u;
        if (coded && place.stripe != stripe) {
            stripe = place.stripe;
            for (k = 0u; k < OWN; k++)
                table[k] = akv_rans_table(&p, m, stripe * 32u + LANE + k) * AKV_RANS_CLASSES;
        }
        for (k = 0u; k < OWN; k++) {
            if (rest)
                symbol[LANE + k] = (uchar)(x[k] >> width * (i - (steps - tail)) & ((1u << width) - 1u));
            if (!coded || LANE + k >= akv_rans_lanes(&p, &place))
                continue;
            akv_u32 slot = x[k] & (AKV_RANS_ONE - 1u), c = 0u, jump, extra;
            for (jump = 8u; jump; jump >>= 1)
                c += known.below[table[k] + c + jump] <= slot ? jump : 0u;
            x[k] = known.frequency[table[k] + c] * (x[k] >> AKV_RANS_BITS) + slot - known.below[table[k] + c];
            extra = akv_rans_extra(p.raw, c);
            symbol[LANE + k] = (uchar)akv_rans_join(p.raw, p.centre, c, x[k] & ((1u << extra) - 1u));
            x[k] >>= extra;
            low |= (akv_u32)(x[k] < AKV_RANS_LOW) << (LANE + k);
        }
        akv_u32 wanted = vote(mask, i, low);
        for (k = 0u; k < OWN; k++)
            if (low >> (LANE + k) & 1u) {
                akv_u32 from = got + popcount(wanted & ((1u << (LANE + k)) - 1u));
                if (from < all)
                    x[k] = x[k] << 16 | stream[from];
            }
        got = AKV_MIN(all, got + popcount(wanted));
        if (coded || rest) {
            put_step(&p, out, &place, symbol);
            akv_rans_next(&p, &place);
        }
    }
    if (raw)
        raw_segment(&p, out, at, segment, true);
    for (k = 0u; k < OWN; k++)
        if (there && (!good || (run && (x[k] >> 16 != 1u || (got + 1u) / 2u != all / 2u))))
            atomic_or(&bad[SUB], 1u);
    for (i = LANE; good && i < count; i += 32u / OWN)
        sum += akv_bx16_mix(at[i], i);
    sum = akv_group_sum(sums, sum, 32u / OWN);
    if (there && LANE == 0u && (bad[SUB] || sum + segment != records[segment * 2u + 1u]))
        *(__global akv_u32 *)(damaged + damaged_at) = 1u;
}
#endif
