/* SPDX-License-Identifier: Apache-2.0 */
/* Compress family on CUDA: rANS.  EXACT.
 *
 * A warp takes a segment, a thread a lane of it; WARPS segments are in a thread block, of decode
 * DECODERS, which share a table of all slots.  count takes AKV_RANS_COUNTED steps of a stripe, move
 * a segment, records all.  What reads or writes symbols is made for each width that formats have: bits of
 * the planes, and of raw.  backends/cuda/kernel.c has the same numbers.
 *
 * A word holds symbols of several lanes and one step, a lane needs those of several steps: so many steps as a
 * word of plane 0 has symbols are a batch, whose words the lanes hold, one each, and exchange. */
#include "sums.cuh"
#include "../lib/kernel/rans.h"

#define THREADS  128u
#define WARPS    4u
#define DECODERS 16u
#define RING     256u /* u16 of the stream that a warp of decode keeps: what four steps may take, and 64 */
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

/* ---- words of steps, and symbols of lanes ---- */

/* Lane w*P + s has word w of step s, element e of it being of lane w*P + e, P = 32/BITS: afterwards lane w*P + e
 * has those of all steps, element s being of step s; and back.  By all lanes of the warp. */
template <akv_u32 BITS> AKV_FN akv_u32 exchange(akv_u32 v, akv_u32 lane)
{
    const akv_u32 masks[5] = {0x55555555u, 0x33333333u, 0x0F0F0F0Fu, 0x00FF00FFu, 0x0000FFFFu};
    akv_u32 i;
#pragma unroll
    for (i = 0u; i < 5u; i++) {
        const akv_u32 shift = 1u << i, step = shift / BITS; /* bits, and lanes */
        if (step > 0u) {
            const bool upper = (lane & step) != 0u;
            const akv_u32 keep = upper ? ~masks[i] : masks[i], by = upper ? 32u - shift : shift;
            const akv_u32 other = __shfl_xor_sync(ALL, v, step);
            v = (v & keep) | ((other << by | other >> (32u - by)) & ~keep);
        }
    }
    return v;
}

/* Where this lane's word of a batch is: word lane/P of step lane%P. */
template <akv_u32 PLANE, akv_u32 BITS> struct batch_word {
    akv_rans_place place;
    akv_u32 at;
    AKV_MEMBER void set(const akv_rans_params &p, akv_u32 lane)
    {
        at = akv_rans_word(&p, PLANE, &place) + lane / (32u / BITS) * p.plane[PLANE].word;
    }
    AKV_MEMBER void find(const akv_rans_params &p, akv_u32 step, akv_u32 lane)
    {
        akv_rans_find(&p, step + lane % (32u / BITS), &place);
        set(p, lane);
    }
    AKV_MEMBER void next(const akv_rans_params &p, akv_u32 steps, akv_u32 lane)
    {
        place.step += steps;
        at += steps * p.plane[PLANE].step;
        if (place.step < p.tile_steps)
            return;
        for (; place.step >= p.tile_steps; place.step -= p.tile_steps)
            if (++place.tile >= p.tiles) {
                place.tile = 0u;
                place.stripe++;
            }
        set(p, lane);
    }
    AKV_MEMBER void previous(const akv_rans_params &p, akv_u32 steps, akv_u32 lane)
    {
        if (place.step >= steps) {
            place.step -= steps;
            at -= steps * p.plane[PLANE].step;
            return;
        }
        for (; place.step < steps; place.step += p.tile_steps)
            if (place.tile-- == 0u) {
                place.tile = p.tiles - 1u;
                place.stripe--;
            }
        place.step -= steps;
        set(p, lane);
    }
    /* Whether it is one of the first n steps', and has a symbol. */
    AKV_MEMBER bool there(const akv_rans_params &p, akv_u32 n, akv_u32 lane) const
    {
        const akv_u32 per = 32u / BITS;
        return lane % per < n && lane / per * per < akv_rans_lanes(&p, &place);
    }
};

/* The words of both planes in a batch; each lane's symbols come and go in `bits` of plane 0 and plane 1, the first
 * step's lowest. */
template <akv_u32 B0, akv_u32 B1> struct batch {
    enum : akv_u32 { STEPS = 32u / B0, BITS1 = B1 ? B1 : 1u };
    batch_word<0u, B0> low;
    batch_word<1u, BITS1> high;
    AKV_MEMBER void find(const akv_rans_params &p, akv_u32 step, akv_u32 lane)
    {
        low.find(p, step, lane);
        if (B1)
            high.find(p, step, lane);
    }
    AKV_MEMBER void next(const akv_rans_params &p, akv_u32 lane)
    {
        low.next(p, STEPS, lane);
        if (B1)
            high.next(p, STEPS, lane);
    }
    AKV_MEMBER void previous(const akv_rans_params &p, akv_u32 lane)
    {
        low.previous(p, STEPS, lane);
        if (B1)
            high.previous(p, STEPS, lane);
    }
    /* Of n steps; as they are in memory. */
    AKV_MEMBER void load(const akv_rans_params &p, const akv_u32 *words, akv_u32 n, akv_u32 lane,
                         akv_u32 raw[2]) const
    {
        raw[0] = low.there(p, n, lane) ? words[low.at] : 0u;
        raw[1] = B1 && high.there(p, n, lane) ? words[high.at] : 0u;
    }
    AKV_MEMBER void store(const akv_rans_params &p, akv_u32 *words, akv_u32 n, akv_u32 lane,
                          const akv_u32 bits[2]) const
    {
        const akv_u32 word = exchange<B0>(bits[0], lane);
        if (low.there(p, n, lane))
            words[low.at] = word;
        if (B1) {
            const akv_u32 other = exchange<BITS1>(bits[1], lane);
            if (high.there(p, n, lane))
                words[high.at] = other;
        }
    }
};

/* ---- the coder of a lane ---- */

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

/* ---- count ---- */

/* Classes of a lane whose symbols have 2 bits or 3, by masks of whole words. */
struct tally {
    akv_u32 steps, low[3], high[4]; /* with bit 0, bit 1, both; those of them with bit 2, and all with bit 2 */
    AKV_MEMBER void add(akv_u32 n, akv_u32 w, akv_u32 third)
    {
        const akv_u32 mask = 0x55555555u, one = w & mask, two = w >> 1 & mask;
        steps += n;
        low[0] += (akv_u32)__popc(one);
        low[1] += (akv_u32)__popc(two);
        low[2] += (akv_u32)__popc(one & two);
        third = (third | third << 8) & 0x00FF00FFu;
        third = (third | third << 4) & 0x0F0F0F0Fu;
        third = (third | third << 2) & 0x33333333u;
        third = (third | third << 1) & mask;
        high[0] += (akv_u32)__popc(one & third);
        high[1] += (akv_u32)__popc(two & third);
        high[2] += (akv_u32)__popc(one & two & third);
        high[3] += (akv_u32)__popc(third);
    }
    AKV_MEMBER void put(akv_u32 *mine) const
    {
        const akv_u32 four = high[3] - high[0] - high[1] + high[2];
        mine[7u * 32u] = high[2];
        mine[6u * 32u] = high[1] - high[2];
        mine[5u * 32u] = high[0] - high[2];
        mine[4u * 32u] = four;
        mine[3u * 32u] = low[2] - high[2];
        mine[2u * 32u] = low[1] - low[2] - high[1] + high[2];
        mine[1u * 32u] = low[0] - low[2] - high[0] + high[2];
        mine[0] = steps - low[0] - low[1] + low[2] - four;
    }
};

template <akv_u32 B0, akv_u32 B1, akv_u32 RAW>
AKV_FN void count(const akv_rans_params &p, const akv_cu_args &a)
{
    __shared__ akv_u32 own[WARPS * AKV_RANS_CLASSES * 32u];
    const akv_u32 each = akv_rans_stripe_steps(&p),
                  parts = (each + AKV_RANS_COUNTED - 1u) / AKV_RANS_COUNTED;
    const akv_u32 stripe = blockIdx.x / parts, part = blockIdx.x % parts,
                  warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
    const akv_u32 from = part * AKV_RANS_COUNTED + warp * (AKV_RANS_COUNTED / WARPS);
    const akv_u32 end = AKV_MIN(each, from + AKV_RANS_COUNTED / WARPS);
    const bool masks = B0 == 2u && p.last == 32u;
    akv_u32 *mine = own + warp * AKV_RANS_CLASSES * 32u + lane;
    akv_u32 i, s, n, raw[2], next[2] = {0u, 0u};
    tally sums = {0u, {0u, 0u, 0u}, {0u, 0u, 0u, 0u}};
    batch<B0, B1> at;
    for (i = threadIdx.x; i < WARPS * AKV_RANS_CLASSES * 32u; i += THREADS)
        own[i] = 0u;
    __syncthreads();
    if (from < end) {
        at.find(p, stripe * each + from, lane);
        at.load(p, (const akv_u32 *)a.arg[0], AKV_MIN((akv_u32)at.STEPS, end - from), lane, next);
        for (s = from; s < end; s += n) {
            n = AKV_MIN((akv_u32)at.STEPS, end - s);
            raw[0] = exchange<B0>(next[0], lane);
            raw[1] = B1 ? exchange<at.BITS1>(next[1], lane) : 0u;
            if (s + n < end) {
                at.next(p, lane);
                at.load(p, (const akv_u32 *)a.arg[0], AKV_MIN((akv_u32)at.STEPS, end - s - n), lane, next);
            }
            if (masks) /* of steps that are not there, words are 0 */
                sums.add(n, raw[0], raw[1]);
            else if (n == at.STEPS && p.last == 32u) {
#pragma unroll
                for (i = 0u; i < at.STEPS; i++) {
                    const akv_u32 symbol = (raw[0] >> i * B0 & ((1u << B0) - 1u)) |
                                           (B1 ? raw[1] >> i * B1 & ((1u << B1) - 1u) : 0u) << B0;
                    mine[(akv_rans_split(RAW, p.centre, symbol) & 15u) * 32u]++;
                }
            } else
                for (i = 0u; i < n; i++) {
                    const akv_u32 symbol = (raw[0] >> i * B0 & ((1u << B0) - 1u)) |
                                           (B1 ? raw[1] >> i * B1 & ((1u << B1) - 1u) : 0u) << B0;
                    if (lane < p.last || (s + i + 1u) % p.tile_steps != 0u)
                        mine[(akv_rans_split(RAW, p.centre, symbol) & 15u) * 32u]++;
                }
        }
        if (masks)
            sums.put(mine);
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

/* ---- encode ---- */

/* The states of a warp's segment on their way, and where the u16 that leave them go. */
struct coder {
    akv_u16 *end;
    akv_u32 x, put, most, earlier; /* earlier: a mask of the lanes before this one */
    /* A symbol of this lane, where it is active; row: of its table. */
    template <akv_u32 RAW>
    AKV_MEMBER void code(const akv_rans_params &p, const uint2 *row, akv_u32 symbol, bool active)
    {
        const akv_u32 split = akv_rans_split(RAW, p.centre, symbol), extra = split >> 4 & 15u;
        const uint2 pair = row[split & 15u];
        const akv_u32 f = pair.x & 0xFFFFu;
        const bool full = active && akv_rans_full(x, f, extra);
        const akv_u32 all = __ballot_sync(ALL, full);
        put += (akv_u32)__popc(all);
        const akv_u32 before = put - (akv_u32)__popc(all & earlier);
        if (full && before <= most) /* what does not fit will not be read */
            *(end - before) = (akv_u16)x;
        x = full ? x >> 16 : x;
        if (active)
            x = push(x, f, pair.y, pair.x >> 16, extra, split >> 8);
    }
};

/* Segments into their slots; records with their words and what was put. */
template <akv_u32 B0, akv_u32 B1, akv_u32 RAW>
AKV_FN void segments(const akv_rans_params &p, const akv_cu_args &a)
{
    __shared__ tables known;
    __shared__ uint2 pairs[AKV_RANS_TABLES * PITCH]; /* frequency and below, reciprocal */
    const akv_u32 width = B0 + B1, lane = threadIdx.x % 32u,
                  segment = blockIdx.x * WARPS + threadIdx.x / 32u;
    const akv_u32 *m = (const akv_u32 *)a.arg[1];
    akv_u32 *words = (akv_u32 *)a.arg[0];
    akv_u32 i;
    fill_tables(&known, &p, m);
    for (i = threadIdx.x; i < AKV_RANS_TABLES * AKV_RANS_CLASSES; i += THREADS) {
        akv_u32 at = i / AKV_RANS_CLASSES * PITCH + i % AKV_RANS_CLASSES, f = known.frequency[at];
        f = f & 0xFFFFu ? f : f | 1u;
        pairs[at] = make_uint2(f, reciprocal(f & 0xFFFFu));
    }
    __syncthreads();
    if (segment >= akv_rans_segments(&p))
        return;
    const akv_u32 steps = akv_rans_segment_steps(&p, segment),
                  coded = steps - AKV_MIN(16u / width, steps), room = steps * width,
                  first = segment * akv_rans_each(&p), each = akv_rans_stripe_steps(&p);
    akv_u32 from, next[2], stripe = (first + steps - 1u) / each,
                  left = (first + steps - 1u) % each + 1u; /* of the stripe's steps, this one's too */
    bool raw = room <= 32u;
    akv_u32 *slot = (akv_u32 *)a.arg[3] + (size_t)first * width;
    const uint2 *row = pairs + akv_rans_table(&p, m, stripe * 32u + lane) * PITCH;
    coder c = {(akv_u16 *)(slot + room), 0u, 0u, raw ? 0u : 2u * (room - 33u), (1u << lane) - 1u};
    batch<B0, B1> at;
    from = (steps - 1u) / at.STEPS * at.STEPS; /* of the batch */
    at.find(p, first + from, lane);
    at.load(p, words, steps - from, lane, next);
    while (!raw) {
        const akv_u32 n = AKV_MIN((akv_u32)at.STEPS, steps - from);
        const akv_u32 low = exchange<B0>(next[0], lane),
                      high = B1 ? exchange<at.BITS1>(next[1], lane) : 0u;
        if (from > 0u) {
            at.previous(p, lane);
            at.load(p, words, at.STEPS, lane, next);
        }
        if (from + at.STEPS <= coded && left >= at.STEPS && p.last == 32u) { /* nearly all */
#pragma unroll
            for (i = at.STEPS; i-- > 0u;)
                c.code<RAW>(p, row,
                            (low >> i * B0 & ((1u << B0) - 1u)) |
                                (B1 ? high >> i * B1 & ((1u << B1) - 1u) : 0u) << B0,
                            true);
            left -= at.STEPS;
        } else
            for (i = n; i-- > 0u; left--) {
                const akv_u32 symbol = (low >> i * B0 & ((1u << B0) - 1u)) |
                                       (B1 ? high >> i * B1 & ((1u << B1) - 1u) : 0u) << B0;
                if (left == 0u) {
                    left = each;
                    row = pairs + akv_rans_table(&p, m, --stripe * 32u + lane) * PITCH;
                }
                const bool active = lane < p.last || left % p.tile_steps != 0u;
                if (from + i < coded)
                    c.code<RAW>(p, row, symbol, active);
                else
                    c.x = c.x << width | (active ? symbol : 0u) |
                          (from + i == coded ? AKV_RANS_LOW : 0u);
            }
        if (left == 0u && from > 0u) {
            left = each;
            row = pairs + akv_rans_table(&p, m, --stripe * 32u + lane) * PITCH;
        }
        raw = c.put > c.most;
        if (from == 0u)
            break;
        from -= at.STEPS;
    }
    if (raw) {
        __syncwarp(); /* what other lanes put lies where this writes */
        raw_segment(&p, words, slot, segment, lane, false);
    } else
        slot[lane] = c.x;
    if (lane == 0u) {
        akv_u32 *record = (akv_u32 *)a.arg[2] + segment * 2u;
        record[0] = raw ? room : 32u + (c.put + 1u) / 2u;
        record[1] = raw ? ALL : c.put;
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

/* ---- decode ---- */

/* What a warp reads of its segment's stream, 64 u16 ahead of what it has in its ring; sums the words up. */
struct stream {
    const akv_u32 *words;
    akv_u16 *ring;
    akv_u32 count, filled, got, next, sum; /* words; u16 in the ring so far, and out; the word that comes next */
    AKV_MEMBER void fetch(akv_u32 lane)
    {
        const akv_u32 at = filled / 2u + lane;
        next = 0u;
        if (at < count)
            next = words[at];
    }
    AKV_MEMBER void fill(akv_u32 lane)
    {
        const akv_u32 at = filled / 2u + lane;
        ((akv_u32 *)ring)[at % (RING / 2u)] = next;
        sum += at < count ? akv_bx16_mix(next, at + 32u) : 0u;
        filled += 64u;
        __syncwarp();
        fetch(lane);
    }
    /* States below 2^16 take the next u16 in the order of lanes.  Behind the end there is anything: `got` tells. */
    AKV_MEMBER akv_u32 refill(akv_u32 x, bool low, akv_u32 earlier)
    {
        const akv_u32 wanted = __ballot_sync(ALL, low);
        const akv_u32 mine = got + (akv_u32)__popc(wanted & earlier), more = ring[mine % RING];
        got += (akv_u32)__popc(wanted);
        return low ? x << 16 | more : x;
    }
};

/* What decoding asks of a table for each slot: slot less the class's first one, class from bit 10 on, frequency from
 * bit 22 on.  SMALL: without the frequency, in half of the memory. */
template <bool SMALL> struct slot_table {
    const akv_u32 *memory, *frequency;
    akv_u32 at, row;
    AKV_MEMBER void choose(akv_u32 table) /* one that is not there: the host lets none pass */
    {
        at = table * AKV_RANS_ONE;
        row = table * PITCH;
    }
    AKV_MEMBER akv_u32 entry(akv_u32 x) const
    {
        if (!SMALL)
            return (memory + at)[x & (AKV_RANS_ONE - 1u)];
        const akv_u32 low = ((const akv_u16 *)memory + at)[x & (AKV_RANS_ONE - 1u)];
        return low | frequency[row + (low >> 10)] << 22;
    }
};

/* A symbol out of a state. */
template <akv_u32 RAW, bool SMALL>
AKV_FN akv_u32 pop(const akv_rans_params &p, const slot_table<SMALL> &slots, akv_u32 *x)
{
    const akv_u32 entry = slots.entry(*x), c = entry >> 10 & 15u;
    const akv_u32 extra = akv_rans_extra(RAW, c);
    *x = (entry >> 22) * (*x >> AKV_RANS_BITS) + (entry & (AKV_RANS_ONE - 1u));
    const akv_u32 symbol = akv_rans_join(RAW, p.centre, c, *x & ((1u << extra) - 1u));
    *x >>= extra;
    return symbol;
}

template <akv_u32 B0, akv_u32 B1, akv_u32 RAW, bool SMALL>
AKV_FN void decode(const akv_rans_params &p, const akv_cu_args &a)
{
    extern __shared__ akv_u32 memory[]; /* of each table its slots, then each warp's ring */
    __shared__ tables known;
    const akv_u32 width = B0 + B1, lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
    const akv_u32 segment = blockIdx.x * DECODERS + warp, count_all = akv_rans_segments(&p);
    const akv_u32 *m = (const akv_u32 *)a.arg[1];
    const akv_u32 *records = (const akv_u32 *)a.arg[0];
    akv_u32 *words = (akv_u32 *)a.arg[2];
    akv_u32 i;
    fill_tables(&known, &p, m);
    for (i = threadIdx.x; i < p.tables * AKV_RANS_ONE; i += DECODERS * 32u) {
        akv_u32 t = i / AKV_RANS_ONE * PITCH, slot = i % AKV_RANS_ONE, c = 0u, jump;
#pragma unroll
        for (jump = 8u; jump; jump >>= 1)
            c += known.frequency[t + c + jump] >> 16 <= slot ? jump : 0u;
        jump = (slot - (known.frequency[t + c] >> 16)) | c << 10;
        if (SMALL)
            ((akv_u16 *)memory)[i] = (akv_u16)jump;
        else
            memory[i] = jump | known.frequency[t + c] << 22;
    }
    __syncthreads();
    if (segment >= count_all)
        return;
    const akv_u32 steps = akv_rans_segment_steps(&p, segment),
                  coded = steps - AKV_MIN(16u / width, steps);
    const akv_u32 begin = segment ? records[segment * 2u - 2u] : 0u, end = records[segment * 2u],
                  count = end - begin;
    akv_u32 sum = 0u;
    bool good = begin <= end && end <= p.words && count <= steps * width &&
                (count == steps * width || count >= 32u);
    akv_u32 *from = (akv_u32 *)a.arg[0] + count_all * 2u + (good ? begin : 0u);
    if (good && count == steps * width) {
        raw_segment(&p, words, from, segment, lane, true);
        for (i = lane; i < count; i += 32u)
            sum += akv_bx16_mix(from[i], i);
    } else if (good) {
        const akv_u32 first = segment * akv_rans_each(&p), all = (count - 32u) * 2u,
                      each = akv_rans_stripe_steps(&p), earlier = (1u << lane) - 1u;
        akv_u32 x = from[lane], s, n, stripe = first / each,
                left = each - first % each; /* of the stripe's steps, this one's too */
        stream in = {from + 32,
                     (akv_u16 *)(memory + p.tables * AKV_RANS_ONE / (SMALL ? 2u : 1u)) + warp * RING,
                     count - 32u, 0u, 0u, 0u, akv_bx16_mix(x, lane)};
        batch<B0, B1> at;
        in.fetch(lane);
        at.find(p, first, lane);
        slot_table<SMALL> slots = {memory, known.frequency, 0u, 0u};
        slots.choose(akv_rans_table(&p, m, stripe * 32u + lane));
        for (s = 0u; s < steps; s += n) {
            akv_u32 bits[2] = {0u, 0u};
            n = AKV_MIN((akv_u32)at.STEPS, steps - s);
            if (s + at.STEPS <= coded && left >= at.STEPS && p.last == 32u) { /* nearly all */
#pragma unroll 1
                for (i = 0u; i < at.STEPS; i += 4u) {
                    while (in.filled - in.got < 4u * 32u)
                        in.fill(lane);
                    akv_u32 k;
#pragma unroll
                    for (k = 0u; k < 4u; k++) {
                        const akv_u32 symbol = pop<RAW, SMALL>(p, slots, &x);
                        x = in.refill(x, x < AKV_RANS_LOW, earlier);
                        bits[0] = bits[0] >> B0 | symbol << (32u - B0);
                        bits[1] = B1 ? bits[1] >> B1 | symbol >> B0 << (32u - at.BITS1) : 0u;
                    }
                }
                left -= at.STEPS;
            } else
                for (i = 0u; i < n; i++, left--) {
                    akv_u32 symbol = 0u;
                    if (left == 0u) {
                        left = each;
                        slots.choose(akv_rans_table(&p, m, ++stripe * 32u + lane));
                    }
                    if (s + i < coded) {
                        const bool active = lane < p.last || (left - 1u) % p.tile_steps != 0u;
                        while (in.filled - in.got < 32u)
                            in.fill(lane);
                        if (active)
                            symbol = pop<RAW, SMALL>(p, slots, &x);
                        x = in.refill(x, active && x < AKV_RANS_LOW, earlier);
                    } else
                        symbol = x >> width * (s + i - coded) & ((1u << width) - 1u);
                    bits[0] = bits[0] >> B0 | symbol << (32u - B0);
                    bits[1] = B1 ? bits[1] >> B1 | symbol >> B0 << (32u - at.BITS1) : 0u;
                }
            if (left == 0u && s + n < steps) {
                left = each;
                slots.choose(akv_rans_table(&p, m, ++stripe * 32u + lane));
            }
            bits[0] >>= 32u - n * B0;
            bits[1] >>= B1 ? 32u - n * at.BITS1 : 0u;
            at.store(p, words, n, lane, bits);
            at.next(p, lane);
        }
        good = x >> 16 == 1u && (in.got + 1u) / 2u == all / 2u;
        sum = in.sum;
        for (i = in.filled / 2u + lane; i < in.count; i += 32u) /* what nobody took */
            sum += akv_bx16_mix(in.words[i], i + 32u);
    }
    sum = warp_sum(sum);
    if (!__all_sync(ALL, good) || sum + segment != records[segment * 2u + 1u])
        *(akv_u32 *)a.arg[3] = 1u;
}

#define CODERS(name, b0, b1, raw)                                                                  \
    SHELL akv_k_rans_count_##name(const __grid_constant__ akv_rans_params p,                       \
                                  const __grid_constant__ akv_cu_args a)                           \
    {                                                                                              \
        count<b0, b1, raw>(p, a);                                                                  \
    }                                                                                              \
    SHELL akv_k_rans_segments_##name(const __grid_constant__ akv_rans_params p,                    \
                                     const __grid_constant__ akv_cu_args a)                        \
    {                                                                                              \
        segments<b0, b1, raw>(p, a);                                                               \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(512) akv_k_rans_decode_##name(                    \
        const __grid_constant__ akv_rans_params p, const __grid_constant__ akv_cu_args a)          \
    {                                                                                              \
        decode<b0, b1, raw, false>(p, a);                                                          \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(512) akv_k_rans_decode_##name##_small(            \
        const __grid_constant__ akv_rans_params p, const __grid_constant__ akv_cu_args a)          \
    {                                                                                              \
        decode<b0, b1, raw, true>(p, a);                                                           \
    }
CODERS(2_0_0, 2u, 0u, 0u)
CODERS(2_1_0, 2u, 1u, 0u)
CODERS(4_0_0, 4u, 0u, 0u)
CODERS(4_1_1, 4u, 1u, 1u)
CODERS(4_2_2, 4u, 2u, 2u)
CODERS(8_0_4, 8u, 0u, 4u)
CODERS(8_0_8, 8u, 0u, AKV_RANS_SIGNED)
