/* SPDX-License-Identifier: Apache-2.0 */
/* Compress family on CUDA: rANS.  EXACT.
 *
 * A warp takes a segment, a thread a lane of it, WARPS segments are in a thread block.  count takes
 * AKV_RANS_COUNTED steps of a stripe, move a segment, records all.  The coders are made for each width of
 * symbols that formats have: bits of the planes, and of raw. */
#include "common.cuh"
#include "../lib/kernel/rans.h"

#define THREADS 128u
#define WARPS   4u /* backends/cuda/kernel.c has the same number */
#define RUN     16u
#define SHELL   extern "C" __global__ void __launch_bounds__(128)
#define ALL     0xFFFFFFFFu

struct tables {
    akv_u32 frequency[AKV_RANS_TABLES * AKV_RANS_CLASSES]; /* below in the upper half */
};

AKV_FN void fill_tables(tables *to, const akv_rans_params *p, const akv_u32 *model)
{
    akv_u32 t, c, classes = akv_rans_classes(p);
    for (t = threadIdx.x; t < AKV_RANS_TABLES; t += THREADS) {
        akv_u32 below = 0u;
        for (c = 0u; c < AKV_RANS_CLASSES; c++) {
            akv_u32 f = t < p->tables && c < classes ? akv_rans_frequency(p, model, t, c) : AKV_RANS_ONE;
            to->frequency[t * AKV_RANS_CLASSES + c] = f | AKV_MIN(below, AKV_RANS_ONE) << 16;
            below += f;
        }
    }
    __syncthreads();
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
    /* By the lanes of the warp, from symbols of all of them. */
    AKV_MEMBER void put(const akv_rans_params &p, akv_u32 *words, akv_u32 lane, const akv_u8 *symbol) const
    {
        akv_u32 i, word = 0u;
        if (lane < B0 && lane * (32u / B0) < akv_rans_lanes(&p, &place)) {
#pragma unroll
            for (i = 0u; i < 32u / B0; i++)
                word |= (symbol[lane * (32u / B0) + i] & ((1u << B0) - 1u)) << i * B0;
            words[at[0] + lane * p.plane[0].word] = word;
        } else if (B1 && lane >= B0 && lane < B0 + B1) {
            const akv_u32 per = B1 ? 32u / (B1 ? B1 : 1u) : 0u, w = lane - B0;
            if (w * per < akv_rans_lanes(&p, &place)) {
#pragma unroll
                for (i = 0u; i < per; i++)
                    word |= ((akv_u32)symbol[w * per + i] >> B0 & ((1u << B1) - 1u)) << i * B1;
                words[at[1] + w * p.plane[1].word] = word;
            }
        }
    }
};

/* Words of a segment as they are, between their place and `packed`. */
AKV_FN void raw_segment(const akv_rans_params *p, akv_u32 *words, akv_u32 *packed, akv_u32 segment, akv_u32 lane,
                        bool back)
{
    akv_u32 i, width = akv_rans_width(p), b0 = p->plane[0].bits, n = akv_rans_segment_steps(p, segment);
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

SHELL akv_k_rans_count(const __grid_constant__ akv_rans_params p, const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 own[WARPS * AKV_RANS_CLASSES * 32u];
    akv_u32 each = akv_rans_stripe_steps(&p), parts = (each + AKV_RANS_COUNTED - 1u) / AKV_RANS_COUNTED, i, s;
    akv_u32 stripe = blockIdx.x / parts, part = blockIdx.x % parts, warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
    akv_u32 end = AKV_MIN(each, (part + 1u) * AKV_RANS_COUNTED);
    const akv_u32 *words = (const akv_u32 *)a.arg[0];
    for (i = threadIdx.x; i < WARPS * AKV_RANS_CLASSES * 32u; i += THREADS)
        own[i] = 0u;
    __syncthreads();
    for (s = part * AKV_RANS_COUNTED + warp; s < end; s += WARPS) {
        akv_rans_place place;
        akv_rans_find(&p, stripe * each + s, &place);
        akv_u32 plane, shift = 0u, symbol = 0u;
        if (lane >= akv_rans_lanes(&p, &place))
            continue;
        for (plane = 0u; plane < 2u; plane++) {
            akv_u32 bits = p.plane[plane].bits;
            if (bits) {
                akv_u32 word = words[akv_rans_word(&p, plane, &place) + lane * bits / 32u * p.plane[plane].word];
                symbol |= (word >> (lane * bits & 31u) & ((1u << bits) - 1u)) << shift;
            }
            shift += bits;
        }
        own[(warp * AKV_RANS_CLASSES + (akv_rans_split(p.raw, p.centre, symbol) & 15u)) * 32u + lane]++;
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
    const akv_u32 width = B0 + B1, lane = threadIdx.x % 32u, segment = blockIdx.x * WARPS + threadIdx.x / 32u;
    const akv_u32 *m = (const akv_u32 *)a.arg[1];
    akv_u32 *words = (akv_u32 *)a.arg[0];
    fill_tables(&known, &p, m);
    if (segment >= akv_rans_segments(&p))
        return;
    akv_u32 steps = akv_rans_segment_steps(&p, segment), tail = AKV_MIN(16u / width, steps), room = steps * width;
    akv_u32 most = room > 32u ? 2u * (room - 33u) : 0u, put = 0u, stripe = ALL, table = 0u, x = 0u, i;
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
        akv_u32 split = 0u, known_ = 1u, f = 1u;
        if (at.place.stripe != stripe) {
            stripe = at.place.stripe;
            table = akv_rans_table(&p, m, stripe * 32u + lane) * AKV_RANS_CLASSES;
        }
        if (active) {
            split = akv_rans_split(RAW, p.centre, at.symbol(p, words, lane));
            known_ = known.frequency[table + (split & 15u)];
            f = AKV_MAX(1u, known_ & 0xFFFFu);
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
        x = akv_rans_push(x, f, known_ >> 16, split >> 4 & 15u, split >> 8);
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
SHELL akv_k_rans_records(const __grid_constant__ akv_rans_params p, const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 sums[THREADS];
    akv_u32 item = threadIdx.x, count = akv_rans_segments(&p), base, before = 0u, i;
    akv_u32 *records = (akv_u32 *)a.arg[2];
    for (base = 0u; base < count; base += THREADS * RUN) {
        akv_u32 first = AKV_MIN(base + item * RUN, count), end = AKV_MIN(first + RUN, count), sum = 0u;
        for (i = first; i < end; i++)
            sum += records[i * 2u];
        sums[item] = sum;
        __syncthreads();
        sum = before;
        for (i = 0u; i < THREADS; i++) {
            sum += i < item ? sums[i] : 0u;
            before += sums[i];
        }
        for (i = first; i < end; i++)
            records[i * 2u] = sum += records[i * 2u];
        __syncthreads();
    }
}

SHELL akv_k_rans_move(const __grid_constant__ akv_rans_params p, const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 sums[THREADS];
    akv_u32 segment = blockIdx.x, item = threadIdx.x, width = akv_rans_width(&p), sum = 0u, j;
    akv_u32 *records = (akv_u32 *)a.arg[2];
    akv_u32 first = segment ? records[segment * 2u - 2u] : 0u, count = records[segment * 2u] - first;
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
    sums[item] = sum;
    __syncthreads();
    if (item == 0u) {
        for (j = 1u; j < THREADS; j++)
            sum += sums[j];
        records[segment * 2u + 1u] = sum + segment;
    }
}

template <akv_u32 B0, akv_u32 B1, akv_u32 RAW>
AKV_FN void decode(const akv_rans_params &p, const akv_cu_args &a)
{
    __shared__ tables known;
    __shared__ akv_u8 symbols[WARPS * 2u * 32u];
    const akv_u32 width = B0 + B1, lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
    const akv_u32 segment = blockIdx.x * WARPS + warp, count_all = akv_rans_segments(&p);
    const akv_u32 *m = (const akv_u32 *)a.arg[1];
    akv_u32 *records = (akv_u32 *)a.arg[0], *words = (akv_u32 *)a.arg[2];
    fill_tables(&known, &p, m);
    if (segment >= count_all)
        return;
    akv_u32 steps = akv_rans_segment_steps(&p, segment), tail = AKV_MIN(16u / width, steps), sum = 0u, i;
    akv_u32 first = segment ? records[segment * 2u - 2u] : 0u, end = records[segment * 2u], count = end - first;
    bool good = first <= end && end <= p.words && count <= steps * width && (count == steps * width || count >= 32u);
    akv_u32 *from = records + count_all * 2u + (good ? first : 0u);
    if (good && count == steps * width)
        raw_segment(&p, words, from, segment, lane, true);
    else if (good) {
        akv_u32 x = from[lane], got = 0u, all = (count - 32u) * 2u, stripe = ALL, table = 0u;
        const akv_u16 *stream = (const akv_u16 *)(from + 32);
        cursor<B0, B1> at;
        at.find(p, segment * akv_rans_each(&p));
        for (i = 0u; i < steps; i++, at.next(p)) {
            akv_u8 *symbol = symbols + (warp * 2u + (i & 1u)) * 32u;
            bool low = false;
            if (i < steps - tail) {
                if (at.place.stripe != stripe) {
                    stripe = at.place.stripe;
                    table = akv_rans_table(&p, m, stripe * 32u + lane) * AKV_RANS_CLASSES;
                }
                if (lane < akv_rans_lanes(&p, &at.place)) {
                    akv_u32 slot = x & (AKV_RANS_ONE - 1u), c = 0u, jump, extra, f;
#pragma unroll
                    for (jump = 8u; jump; jump >>= 1)
                        c += known.frequency[table + c + jump] >> 16 <= slot ? jump : 0u;
                    f = known.frequency[table + c];
                    x = (f & 0xFFFFu) * (x >> AKV_RANS_BITS) + slot - (f >> 16);
                    extra = akv_rans_extra(RAW, c);
                    symbol[lane] = (akv_u8)akv_rans_join(RAW, p.centre, c, x & ((1u << extra) - 1u));
                    x >>= extra;
                    low = x < AKV_RANS_LOW;
                }
                akv_u32 wanted = __ballot_sync(ALL, low), mine = got + __popc(wanted & ((1u << lane) - 1u));
                if (low && mine < all)
                    x = x << 16 | stream[mine];
                got = AKV_MIN(all, got + __popc(wanted));
            } else
                symbol[lane] = (akv_u8)(x >> width * (i - (steps - tail)) & ((1u << width) - 1u));
            __syncwarp();
            at.put(p, words, lane, symbol);
        }
        good = x >> 16 == 1u && (got + 1u) / 2u == all / 2u;
    }
    for (i = lane; good && i < count; i += 32u)
        sum += akv_bx16_mix(from[i], i);
    for (i = 16u; i; i >>= 1)
        sum += __shfl_xor_sync(ALL, sum, i);
    if (!__all_sync(ALL, good) || sum + segment != records[segment * 2u + 1u])
        *(akv_u32 *)a.arg[3] = 1u;
}

#define CODERS(name, b0, b1, raw)                                                                                \
    SHELL akv_k_rans_segments_##name(const __grid_constant__ akv_rans_params p,                                  \
                                     const __grid_constant__ akv_cu_args a)                                      \
    {                                                                                                            \
        segments<b0, b1, raw>(p, a);                                                                             \
    }                                                                                                            \
    SHELL akv_k_rans_decode_##name(const __grid_constant__ akv_rans_params p,                                    \
                                   const __grid_constant__ akv_cu_args a)                                        \
    {                                                                                                            \
        decode<b0, b1, raw>(p, a);                                                                               \
    }
CODERS(2_0_0, 2u, 0u, 0u)
CODERS(2_1_0, 2u, 1u, 0u)
CODERS(4_0_0, 4u, 0u, 0u)
CODERS(4_1_1, 4u, 1u, 1u)
CODERS(4_2_2, 4u, 2u, 2u)
CODERS(8_0_4, 8u, 0u, 4u)
CODERS(8_0_8, 8u, 0u, AKV_RANS_SIGNED)
