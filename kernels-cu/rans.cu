/* SPDX-License-Identifier: Apache-2.0 */
/* Compress family on CUDA: rANS.  EXACT.
 *
 * A warp takes a segment, a thread a lane of it; WARPS segments are in a thread block, of decode
 * DECODERS, which share a table of all slots.  count takes AKV_RANS_COUNTED steps of a stripe, move
 * a segment, records all.  The coders are made for each width of symbols that formats have: bits of
 * the planes, and of raw.  backends/cuda/kernel.c has the same numbers. */
#include "sums.cuh"
#include "../lib/kernel/rans.h"

#define THREADS  128u
#define WARPS    4u
#define DECODERS 8u
#define RUN      16u
#define SHELL    extern "C" __global__ void __launch_bounds__(128)
#define ALL      0xFFFFFFFFu
#define PITCH                                                                                      \
    17u /* words from table to table: lanes with the same class of other tables meet other banks   \
         */

struct tables {
    akv_u32 frequency[AKV_RANS_TABLES * PITCH]; /* below in the upper half */
};

AKV_FN void fill_tables(tables *to, const akv_rans_params *p, const akv_u32 *model)
{
    akv_u32 t = threadIdx.x, c, classes = akv_rans_classes(p);
    if (t < AKV_RANS_TABLES) {
        akv_u32 below = 0u;
        for (c = 0u; c < AKV_RANS_CLASSES; c++) {
            akv_u32 f =
                t < p->tables && c < classes ? akv_rans_frequency(p, model, t, c) : AKV_RANS_ONE;
            to->frequency[t * PITCH + c] = f | AKV_MIN(below, AKV_RANS_ONE) << 16;
            below += f;
        }
    }
    __syncthreads();
}

/* x / f for f below 1024, from floor(2^32 / f) or, for 1, the most: at most one too small. */
AKV_FN akv_u32 reciprocal(akv_u32 f)
{
    return f < 2u ? ALL : (akv_u32)(0x100000000ull / f);
}
AKV_FN akv_u32 push(akv_u32 x, akv_u32 f, akv_u32 by, akv_u32 below, akv_u32 extra, akv_u32 bits)
{
    x = x << extra | bits;
    akv_u32 q = (akv_u32)((akv_u64)x * by >> 32), rest = x - q * f;
    if (rest >= f) {
        q++;
        rest -= f;
    }
    return (q << AKV_RANS_BITS) + rest + below;
}

/* The words of symbols of `bits` bits, one of each lane: lanes of a word all have it. */
template <akv_u32 BITS> AKV_FN akv_u32 join_lanes(akv_u32 symbol, akv_u32 lane)
{
    akv_u32 i, word;
    if (BITS == 1u)
        return __ballot_sync(ALL, (symbol & 1u) != 0u);
    word = (symbol & ((1u << BITS) - 1u)) << BITS * (lane % (32u / BITS));
#pragma unroll
    for (i = 1u; i < 32u / BITS; i <<= 1)
        word |= __shfl_xor_sync(ALL, word, i);
    return word;
}

/* The first words of a step's planes; stripes and tiles change rarely. */
template <akv_u32 B0, akv_u32 B1> struct cursor {
    akv_rans_place place;
    akv_u32 at[2];
    AKV_MEMBER void find(const akv_rans_params &p, akv_u32 step)
    {
        akv_rans_find(&p, step, &place);
        set(p);
    }
    AKV_MEMBER void set(const akv_rans_params &p)
    {
        at[0] = akv_rans_word(&p, 0u, &place);
        at[1] = B1 ? akv_rans_word(&p, 1u, &place) : 0u;
    }
    AKV_MEMBER void next(const akv_rans_params &p)
    {
        if (place.step + 1u < p.tile_steps) {
            place.step++;
            at[0] += p.plane[0].step;
            at[1] += B1 ? p.plane[1].step : 0u;
        } else {
            akv_rans_next(&p, &place);
            set(p);
        }
    }
    AKV_MEMBER void previous(const akv_rans_params &p)
    {
        if (place.step > 0u) {
            place.step--;
            at[0] -= p.plane[0].step;
            at[1] -= B1 ? p.plane[1].step : 0u;
        } else {
            akv_rans_previous(&p, &place);
            set(p);
        }
    }
    AKV_MEMBER akv_u32 symbol(const akv_rans_params &p, const akv_u32 *words, akv_u32 lane) const
    {
        akv_u32 word = words[at[0] + lane * B0 / 32u * p.plane[0].word];
        akv_u32 result = word >> (lane * B0 & 31u) & ((1u << B0) - 1u);
        if (B1) {
            word = words[at[1] + lane * B1 / 32u * p.plane[1].word];
            result |= (word >> (lane * B1 & 31u) & ((1u << B1) - 1u)) << B0;
        }
        return result;
    }
    /* By all lanes of the warp, of which each has its symbol. */
    AKV_MEMBER void put(const akv_rans_params &p, akv_u32 *words, akv_u32 lane,
                        akv_u32 symbol) const
    {
        const akv_u32 per0 = 32u / B0, per1 = B1 ? 32u / (B1 ? B1 : 1u) : 32u;
        akv_u32 word = join_lanes<B0>(symbol, lane), lanes = akv_rans_lanes(&p, &place);
        if (lane % per0 == 0u && lane < lanes)
            words[at[0] + lane / per0 * p.plane[0].word] = word;
        if (B1) {
            word = join_lanes < B1 ? B1 : 1u > (symbol >> B0, lane);
            if (lane % per1 == 0u && lane < lanes)
                words[at[1] + lane / per1 * p.plane[1].word] = word;
        }
    }
};

/* Words of a segment as they are, between their place and `packed`. */
AKV_FN void raw_segment(const akv_rans_params *p, akv_u32 *words, akv_u32 *packed, akv_u32 segment,
                        akv_u32 lane, bool back)
{
    akv_u32 i, width = akv_rans_width(p), b0 = p->plane[0].bits,
               n = akv_rans_segment_steps(p, segment);
    for (i = lane; i < n * width; i += 32u) {
        akv_u32 w = i % width, plane = w < b0 ? 0u : 1u, at = plane ? w - b0 : w;
        akv_rans_place place;
        akv_rans_find(p, segment * akv_rans_each(p) + i / width, &place);
        bool there = at * (32u / p->plane[plane].bits) < akv_rans_lanes(p, &place);
        akv_u32 to = akv_rans_word(p, plane, &place) + at * p->plane[plane].word;
        if (!back)
            packed[i] = there ? words[to] : 0u;
        else if (there)
            words[to] = packed[i];
    }
}

SHELL akv_k_rans_count(const __grid_constant__ akv_rans_params p,
                       const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 own[WARPS * AKV_RANS_CLASSES * 32u];
    akv_u32 each = akv_rans_stripe_steps(&p),
            parts = (each + AKV_RANS_COUNTED - 1u) / AKV_RANS_COUNTED, i, s;
    akv_u32 stripe = blockIdx.x / parts, part = blockIdx.x % parts, warp = threadIdx.x / 32u,
            lane = threadIdx.x % 32u;
    akv_u32 from = part * AKV_RANS_COUNTED + warp * (AKV_RANS_COUNTED / WARPS), plane, first[2];
    akv_u32 end = AKV_MIN(each, from + AKV_RANS_COUNTED / WARPS);
    const akv_u32 *words = (const akv_u32 *)a.arg[0];
    akv_rans_place place;
    for (i = threadIdx.x; i < WARPS * AKV_RANS_CLASSES * 32u; i += THREADS)
        own[i] = 0u;
    __syncthreads();
    akv_rans_find(&p, stripe * each + AKV_MIN(from, each - 1u), &place);
#pragma unroll
    for (plane = 0u; plane < 2u; plane++) /* of this lane, in step 0 of tile 0 */
        first[plane] = p.plane[plane].at + stripe / p.groups * p.plane[plane].head +
                       stripe % p.groups * p.plane[plane].group +
                       lane * p.plane[plane].bits / 32u * p.plane[plane].word;
    for (s = from; s < end; s++, akv_rans_next(&p, &place)) {
        akv_u32 shift = 0u, symbol = 0u;
        if (lane >= akv_rans_lanes(&p, &place))
            continue;
#pragma unroll
        for (plane = 0u; plane < 2u; plane++) {
            akv_u32 bits = p.plane[plane].bits;
            if (bits) {
                akv_u32 word = words[first[plane] + place.tile * p.plane[plane].tile +
                                     place.step * p.plane[plane].step];
                symbol |= (word >> (lane * bits & 31u) & ((1u << bits) - 1u)) << shift;
            }
            shift += bits;
        }
        own[(warp * AKV_RANS_CLASSES + (akv_rans_split(p.raw, p.centre, symbol) & 15u)) * 32u +
            lane]++;
    }
    __syncthreads();
    for (i = threadIdx.x; i < 32u * AKV_RANS_CLASSES; i += THREADS) {
        akv_u32 sum = 0u, w;
        for (w = 0u; w < WARPS; w++)
            sum += own[(w * AKV_RANS_CLASSES + i % AKV_RANS_CLASSES) * 32u + i / AKV_RANS_CLASSES];
        if (sum)
            atomicAdd((akv_u32 *)a.arg[1] + stripe * 32u * AKV_RANS_CLASSES + i, sum);
    }
}

/* Segments into their slots; records with their words and what was put. */
template <akv_u32 B0, akv_u32 B1, akv_u32 RAW>
AKV_FN void segments(const akv_rans_params &p, const akv_cu_args &a)
{
    __shared__ tables known;
    __shared__ akv_u32 reciprocals[AKV_RANS_TABLES * PITCH];
    const akv_u32 width = B0 + B1, lane = threadIdx.x % 32u,
                  segment = blockIdx.x * WARPS + threadIdx.x / 32u;
    const akv_u32 *m = (const akv_u32 *)a.arg[1];
    akv_u32 *words = (akv_u32 *)a.arg[0];
    akv_u32 i;
    fill_tables(&known, &p, m);
    for (i = threadIdx.x; i < AKV_RANS_TABLES * AKV_RANS_CLASSES; i += THREADS) {
        akv_u32 at = i / AKV_RANS_CLASSES * PITCH + i % AKV_RANS_CLASSES;
        reciprocals[at] = reciprocal(known.frequency[at] & 0xFFFFu);
    }
    __syncthreads();
    if (segment >= akv_rans_segments(&p))
        return;
    akv_u32 steps = akv_rans_segment_steps(&p, segment), tail = AKV_MIN(16u / width, steps),
            room = steps * width;
    akv_u32 most = room > 32u ? 2u * (room - 33u) : 0u, put = 0u, stripe = ALL, table = 0u, x = 0u;
    bool raw = room <= 32u;
    akv_u32 *slot = (akv_u32 *)a.arg[3] + (size_t)segment * akv_rans_each(&p) * width;
    akv_u16 *end = (akv_u16 *)(slot + room);
    cursor<B0, B1> at;
    at.find(p, segment * akv_rans_each(&p) + steps - 1u);
    for (i = 0u; i < tail; i++, at.previous(p))
        x = x << width | (lane < akv_rans_lanes(&p, &at.place) ? at.symbol(p, words, lane) : 0u);
    x |= AKV_RANS_LOW;
    for (i = tail; i < steps && !raw; i++, at.previous(p)) {
        bool active = lane < akv_rans_lanes(&p, &at.place), full = false;
        akv_u32 split = 0u, known_ = 1u, f = 1u, by = ALL;
        if (at.place.stripe != stripe) {
            stripe = at.place.stripe;
            table = akv_rans_table(&p, m, stripe * 32u + lane) * PITCH;
        }
        if (active) {
            split = akv_rans_split(RAW, p.centre, at.symbol(p, words, lane));
            known_ = known.frequency[table + (split & 15u)];
            f = AKV_MAX(1u, known_ & 0xFFFFu);
            by = reciprocals[table + (split & 15u)];
            full = akv_rans_full(x, f, split >> 4 & 15u);
        }
        akv_u32 all = __ballot_sync(ALL, full);
        put += __popc(all);
        raw = put > most;
        if (raw || !active)
            continue;
        if (full) {
            end[-(int)put + __popc(all & ((1u << lane) - 1u))] = (akv_u16)x;
            x >>= 16;
        }
        x = push(x, f, by, known_ >> 16, split >> 4 & 15u, split >> 8);
    }
    if (raw)
        raw_segment(&p, words, slot, segment, lane, false);
    else
        slot[lane] = x;
    if (lane == 0u) {
        akv_u32 *record = (akv_u32 *)a.arg[2] + segment * 2u;
        record[0] = raw ? room : 32u + (put + 1u) / 2u;
        record[1] = raw ? ALL : put;
    }
}

/* One thread block: words to their sums, a run of RUN records a thread at a time. */
extern "C" __global__ void __launch_bounds__(1024)
    akv_k_rans_records(const __grid_constant__ akv_rans_params p,
                       const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 warps[32];
    akv_u32 count = akv_rans_segments(&p), base, before = 0u, all, i;
    akv_u32 *records = (akv_u32 *)a.arg[2];
    for (base = 0u; base < count; base += 1024u * RUN) {
        akv_u32 first = AKV_MIN(base + threadIdx.x * RUN, count), end = AKV_MIN(first + RUN, count),
                sum = 0u;
        for (i = first; i < end; i++)
            sum += records[i * 2u];
        sum = before + block_scan(sum, warps, &all);
        for (i = first; i < end; i++)
            records[i * 2u] = sum += records[i * 2u];
        before += all;
        __syncthreads();
    }
}

SHELL akv_k_rans_move(const __grid_constant__ akv_rans_params p,
                      const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 warps[WARPS];
    akv_u32 segment = blockIdx.x, item = threadIdx.x, width = akv_rans_width(&p), sum = 0u, j;
    akv_u32 *records = (akv_u32 *)a.arg[2];
    akv_u32 first = segment ? records[segment * 2u - 2u] : 0u,
            count = records[segment * 2u] - first;
    akv_u32 put = records[segment * 2u + 1u], room = akv_rans_segment_steps(&p, segment) * width;
    const akv_u32 *slot = (const akv_u32 *)a.arg[3] + (size_t)segment * akv_rans_each(&p) * width;
    akv_u32 *to = records + akv_rans_segments(&p) * 2u + first;
    bool raw = put == ALL;
    const akv_u16 *from = (const akv_u16 *)(slot + room) - (raw ? 0u : put);
    for (j = item; j < count; j += THREADS) {
        akv_u32 word, at = (j - 32u) * 2u;
        if (raw || j < 32u)
            word = slot[j];
        else
            word = from[at] | (at + 1u < put ? (akv_u32)from[at + 1u] << 16 : 0u);
        to[j] = word;
        sum += akv_bx16_mix(word, j);
    }
    sum = block_sum(sum, warps, THREADS);
    if (item == 0u)
        records[segment * 2u + 1u] = sum + segment;
}

template <akv_u32 B0, akv_u32 B1, akv_u32 RAW>
AKV_FN void decode(const akv_rans_params &p, const akv_cu_args &a)
{
    __shared__ tables known;
    __shared__ akv_u16 slots[AKV_RANS_TABLES * AKV_RANS_ONE]; /* class, and from bit 4 on the slot
                                                                 less its first one */
    const akv_u32 width = B0 + B1, lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
    const akv_u32 segment = blockIdx.x * DECODERS + warp, count_all = akv_rans_segments(&p);
    const akv_u32 *m = (const akv_u32 *)a.arg[1];
    akv_u32 *records = (akv_u32 *)a.arg[0], *words = (akv_u32 *)a.arg[2];
    akv_u32 i;
    fill_tables(&known, &p, m);
    for (i = threadIdx.x; i < p.tables * AKV_RANS_ONE; i += DECODERS * 32u) {
        akv_u32 t = i / AKV_RANS_ONE * PITCH, slot = i % AKV_RANS_ONE, c = 0u, jump;
#pragma unroll
        for (jump = 8u; jump; jump >>= 1)
            c += known.frequency[t + c + jump] >> 16 <= slot ? jump : 0u;
        slots[i] = (akv_u16)(c | (slot - (known.frequency[t + c] >> 16)) << 4);
    }
    __syncthreads();
    if (segment >= count_all)
        return;
    akv_u32 steps = akv_rans_segment_steps(&p, segment), tail = AKV_MIN(16u / width, steps),
            sum = 0u;
    akv_u32 first = segment ? records[segment * 2u - 2u] : 0u, end = records[segment * 2u],
            count = end - first;
    bool good = first <= end && end <= p.words && count <= steps * width &&
                (count == steps * width || count >= 32u);
    akv_u32 *from = records + count_all * 2u + (good ? first : 0u);
    if (good && count == steps * width)
        raw_segment(&p, words, from, segment, lane, true);
    else if (good) {
        akv_u32 x = from[lane], got = 0u, all = (count - 32u) * 2u, stripe = ALL, table = 0u,
                slot_of = 0u;
        const akv_u16 *stream = (const akv_u16 *)(from + 32);
        cursor<B0, B1> at;
        at.find(p, segment * akv_rans_each(&p));
        for (i = 0u; i < steps; i++, at.next(p)) {
            akv_u32 symbol = 0u;
            bool low = false;
            if (i < steps - tail) {
                if (at.place.stripe != stripe) {
                    stripe = at.place.stripe;
                    table = akv_rans_table(&p, m, stripe * 32u + lane);
                    slot_of = table *
                              AKV_RANS_ONE; /* a table that is not there: the host lets none pass */
                    table *= PITCH;
                }
                if (lane < akv_rans_lanes(&p, &at.place)) {
                    akv_u32 slot = slots[slot_of + (x & (AKV_RANS_ONE - 1u))], c = slot & 15u,
                            extra;
                    x = (known.frequency[table + c] & 0xFFFFu) * (x >> AKV_RANS_BITS) + (slot >> 4);
                    extra = akv_rans_extra(RAW, c);
                    symbol = akv_rans_join(RAW, p.centre, c, x & ((1u << extra) - 1u));
                    x >>= extra;
                    low = x < AKV_RANS_LOW;
                }
                akv_u32 wanted = __ballot_sync(ALL, low),
                        mine = got + __popc(wanted & ((1u << lane) - 1u));
                if (low && mine < all)
                    x = x << 16 | stream[mine];
                got = AKV_MIN(all, got + __popc(wanted));
            } else
                symbol = x >> width * (i - (steps - tail)) & ((1u << width) - 1u);
            at.put(p, words, lane, symbol);
        }
        good = x >> 16 == 1u && (got + 1u) / 2u == all / 2u;
    }
    for (i = lane; good && i < count; i += 32u)
        sum += akv_bx16_mix(from[i], i);
    sum = warp_sum(sum);
    if (!__all_sync(ALL, good) || sum + segment != records[segment * 2u + 1u])
        *(akv_u32 *)a.arg[3] = 1u;
}

#define CODERS(name, b0, b1, raw)                                                                  \
    SHELL akv_k_rans_segments_##name(const __grid_constant__ akv_rans_params p,                    \
                                     const __grid_constant__ akv_cu_args a)                        \
    {                                                                                              \
        segments<b0, b1, raw>(p, a);                                                               \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) akv_k_rans_decode_##name(                    \
        const __grid_constant__ akv_rans_params p, const __grid_constant__ akv_cu_args a)          \
    {                                                                                              \
        decode<b0, b1, raw>(p, a);                                                                 \
    }
CODERS(2_0_0, 2u, 0u, 0u)
CODERS(2_1_0, 2u, 1u, 0u)
CODERS(4_0_0, 4u, 0u, 0u)
CODERS(4_1_1, 4u, 1u, 1u)
CODERS(4_2_2, 4u, 2u, 2u)
CODERS(8_0_4, 8u, 0u, 4u)
CODERS(8_0_8, 8u, 0u, AKV_RANS_SIGNED)
