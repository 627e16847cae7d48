/* SPDX-License-Identifier: Apache-2.0 */
/* Decode attention on the matrix units for blocks of 16 positions: up to 8 query columns of a kv head a
 * thread block, packed tiles decoded inline in the stored domain, one K and V load for all columns.
 * Packed tiles come by bulk copies into a ring a warp (sm_90), raw f16 tiles by 16-byte copies.
 * Each warp takes every NW-th run of tiles of its split and works on its own; results meet at the end.  Runs are
 * one tile, longer where scores regain the keys' mean (attend_map.cuh).  What comes before and behind the loop over
 * tiles runs once: there, barriers and the size of the code cost more than arithmetic.  BOUNDED. */
#ifndef AKV_ATTEND_DECODE_CUH
#define AKV_ATTEND_DECODE_CUH
#include "attend.cuh"
#include "attend_map.cuh"
#include "readers.cuh"
#include "../lib/kernel/rotate.h"

#define MAX_SHARED (226 * 1024)

/* Shared memory of a thread block. */
template <class K, class V, int G, int NW, int STAGES, bool MAP> struct decode_shape {
    static constexpr int dim = 32 * G, warps = NW, stages = STAGES;
    typedef mean_shape<G> mean;
    static constexpr bool packed = K::bytes != 0, table = K::table || V::table, two = K::two || V::two;
    static constexpr int stage_bytes = packed ? K::bytes + V::bytes : 2 * RawF16<G>::bytes;
    static constexpr int warp_bytes = STAGES * stage_bytes;
    static constexpr int rows_bytes = COLUMNS * dim * 4;
    static constexpr int control_bytes = 2048;
    static constexpr int meet_pitch = dim + 4; /* eight lanes' four floats in two rows do not share banks */
    static constexpr int meet_bytes = NW * COLUMNS * (meet_pitch + 2) * 4;
    static constexpr int mean_bytes = MAP ? mean::table_bytes + mean::turn_bytes + NW * mean::run_bytes : 0;
    /* Shared memory given starts between 1 and 2 KiB; the table at 64 KiB parts the rings. */
    static constexpr int rows_end = 2048 + control_bytes + 3 * rows_bytes, first = rows_end + mean_bytes;
    static constexpr int below = first > (int)TABLE_BYTES ? -1 : ((int)TABLE_BYTES - first) / warp_bytes;
    static constexpr int end = 1024 + MAX_SHARED, above = 2 * (int)TABLE_BYTES;
    /* Raw tiles come when everything behind the rows is free again. */
    static constexpr int raw_stages = AKV_MIN(4, (end - rows_end) / (NW * 2 * RawF16<G>::bytes));
    static_assert(raw_stages >= 1 && raw_stages <= STAGES, "a ring holds raw tiles, and control their numbers");
    static_assert(!table || below >= 0, "the mean fits");
    static_assert(!table || above + (NW - below) * warp_bytes <= end, "the rings fit");
    static_assert(!table || above + meet_bytes <= end, "the warps have a place to meet");
    static_assert(table || first + NW * warp_bytes <= end, "the rings fit");
    static_assert(table || rows_end + meet_bytes <= end, "the warps have a place to meet");
};
struct NoKey {
    static constexpr int format = 0, bytes = 0;
    static constexpr bool table = false, two = false;
};
typedef NoKey NoValue;

/* The tiles of one class (raw or packed) that a warp takes, 32 table entries at a time. */
struct tile_walk {
    akv_u32 first, count, base, mask; /* first: tile of its first run */
    akv_u32 end, shift;                      /* MAP: tiles of a run, as a shift; a run may reach past the end */
    const akv_u8 *block;  /* of this lane's entry, an offset further */
    akv_u32 kind, number; /* and its tile */
    bool other;           /* this lane saw an entry of the other class */
    template <int NW, bool MAP> AKV_MEMBER akv_u32 tile(akv_u32 i) /* number of the i-th tile of the warp */
    {
        return MAP ? first + (NW * (i >> shift) << shift) + (i & ((1u << shift) - 1u)) : first + NW * i;
    }
    template <bool RAW, int NW, bool MAP>
    AKV_MEMBER int next(const attend_work &w, const akv_attend_params &p, const akv_cu_args &a, akv_u32 lane,
                        akv_u32 offset)
    {
        while (mask == 0u) {
            if (base >= count)
                return -1;
            akv_u32 i = base + lane, entry = AKV_NO_BLOCK;
            number = tile<NW, MAP>(i);
            if (i < count && (!MAP || number < end))
                entry = w.table[number - w.seq.first_block];
            kind = entry >> 28;
            bool held = entry != AKV_NO_BLOCK, mine = held && (p.tiles.k_format[kind] == AKV_F16) == RAW;
            other |= held && !mine;
            if (mine)
                block = akv_cu_at(a, akv_block_address(&p.pool, entry)) + offset;
            mask = __ballot_sync(0xFFFFFFFFu, mine);
            base += 32u;
        }
        int owner = __ffs((int)mask) - 1;
        mask &= mask - 1u;
        return owner;
    }
};

/* Online softmax of a warp and its sums. */
template <int G> struct warp_state {
    float o[2 * G][4], m[2], l[2];
    AKV_MEMBER void clear()
    {
#pragma unroll
        for (int n = 0; n < 2 * G; n++)
            o[n][0] = o[n][1] = o[n][2] = o[n][3] = 0.0f;
        m[0] = m[1] = NO_SCORE;
        l[0] = l[1] = 0.0f;
    }
    /* Raises the maximum when a score exceeds it by more than 4 (a factor 16 that halves hold easily). */
    AKV_MEMBER void raise(float x0, float x1)
    {
        if (!__any_sync(0xFFFFFFFFu, x0 > m[0] + 4.0f || x1 > m[1] + 4.0f))
            return;
#pragma unroll
        for (int i = 4; i < 32; i *= 2) {
            x0 = fmaxf(x0, __shfl_xor_sync(0xFFFFFFFFu, x0, i));
            x1 = fmaxf(x1, __shfl_xor_sync(0xFFFFFFFFu, x1, i));
        }
        float n0 = fmaxf(m[0], x0), n1 = fmaxf(m[1], x1), f0 = akv_exp2(m[0] - n0), f1 = akv_exp2(m[1] - n1);
        m[0] = n0, m[1] = n1, l[0] *= f0, l[1] *= f1;
#pragma unroll
        for (int n = 0; n < 2 * G; n++)
            o[n][0] *= f0, o[n][1] *= f1, o[n][2] *= f0, o[n][3] *= f1;
    }
};

/* What a lane knows of its two columns. */
struct lane_columns {
    float norm[2];      /* what the query was divided by */
    akv_i32 lo[2], hi[2];
    akv_i32 all_lo, all_hi; /* every column sees [all_lo, all_hi] */
};

/* Products of one tile to scores in powers of two; positions pos0 and pos1 are those of rows r, r + 8. */
AKV_FN void tile_scores(const akv_attend_params &p, const lane_columns &k, float *s, akv_i32 tile, akv_i32 pos0,
                        akv_i32 pos1)
{
    if (p.cap > 0.0f) {
        s[0] = finish_score(p, s[0] * k.norm[0]), s[1] = finish_score(p, s[1] * k.norm[1]);
        s[2] = finish_score(p, s[2] * k.norm[0]), s[3] = finish_score(p, s[3] * k.norm[1]);
    } else {
        float f0 = k.norm[0] * (p.scale * LOG2E), f1 = k.norm[1] * (p.scale * LOG2E);
        s[0] *= f0, s[1] *= f1, s[2] *= f0, s[3] *= f1;
    }
    if (tile < k.all_lo || tile + 15 > k.all_hi) {
        if (pos0 < k.lo[0] || pos0 > k.hi[0])
            s[0] = -INFINITY;
        if (pos0 < k.lo[1] || pos0 > k.hi[1])
            s[1] = -INFINITY;
        if (pos1 < k.lo[0] || pos1 > k.hi[0])
            s[2] = -INFINITY;
        if (pos1 < k.lo[1] || pos1 > k.hi[1])
            s[3] = -INFINITY;
    }
}

/* Queries of a thread block to floats in shared memory.  Loads start long before they are waited for.  TWICE: where
 * at most four columns are live, the other four are the same queries. */
template <int dim, int NW, bool TWICE> struct query_loads {
    static constexpr int each = (COLUMNS * dim + NW * 32 - 1) / (NW * 32);
    akv_u32 x[each];
    AKV_MEMBER void start(const akv_attend_params &p, const akv_cu_args &a, const attend_work &w)
    {
        akv_u32 group = p.q_heads / p.kv_heads;
        bool wide = p.q.dtype == AKV_F32;
#pragma unroll
        for (int i = 0; i < each; i++) {
            akv_u32 e = i * (NW * 32) + threadIdx.x, own = e / dim;
            if (TWICE && w.columns <= COLUMNS / 2u)
                own %= COLUMNS / 2u;
            akv_u32 column = w.tile * COLUMNS + own;
            akv_u32 token = w.seq.first_token + column / group, head = w.head * group + column % group;
            akv_u64 at = row_element(p.q, token, head) + e % dim;
            x[i] = 0u;
            if (own < w.columns && wide)
                x[i] = akv_load_u32(a.arg[1] + at * 4u);
            if (own < w.columns && !wide)
                x[i] = akv_load_u16(a.arg[1] + at * 2u);
        }
    }
    AKV_MEMBER void finish(const akv_attend_params &p, float *q) const
    {
#pragma unroll
        for (int i = 0; i < each; i++) {
            akv_u32 e = i * (NW * 32) + threadIdx.x, bits = x[i];
            if (p.q.dtype != AKV_F32)
                bits = p.q.dtype == AKV_F16 ? akv_f32_from_f16(bits) : akv_f32_from_bf16(bits);
            if (e < COLUMNS * dim)
                q[e] = akv_as_f32(bits);
        }
    }
};

/* A query row of shared memory as operands, halves of it times inverse, by a warp: [group][lane % 4] of four words
 * in the column's row of `place`, which the row itself may be.  Odd columns' are 64 bytes further, so that lanes
 * do not share banks. */
template <class K, int G> AKV_FN void store_operands(float *place, const float *row, float inverse, akv_u32 column)
{
    unsigned x[G / 2], *to = (unsigned *)place + column * (32u * G) + (column & 1u) * 16u;
    akv_u32 lane = threadIdx.x & 31u, c = lane / 4u % 4u, j = lane % 4u;
#pragma unroll
    for (int i = 0; i < G / 2; i++) {
        akv_u32 g = 2u * i + lane / 16u;
        x[i] = akv_pack_half2(row[K::q_dim(g, c, 2u * j)] * inverse, row[K::q_dim(g, c, 2u * j + 1u)] * inverse);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < G / 2; i++)
        to[32u * i + lane] = x[i];
}
template <int G> AKV_FN void load_operands(const float *place, unsigned (*q)[4], akv_u32 r, akv_u32 c)
{
    unsigned at = akv_shared(place) + r * (128u * G) + (r & 1u) * 64u + c * 16u;
#pragma unroll
    for (int g = 0; g < G; g++) {
        uint4 x = akv_lds4(at + g * 64u);
        q[g][0] = x.x, q[g][1] = x.y, q[g][2] = x.z, q[g][3] = x.w;
    }
}
template <int G> AKV_FN float row_top(const float *x)
{
    float top = 0.0f;
#pragma unroll
    for (int g = 0; g < G; g++)
        top = fmaxf(top, fabsf(x[g]));
    return warp_max(top);
}

/* Where the warps' sums meet: rows [warp][8], then maxima and sums of weights [warp][8]. */
template <class V, int G, int NW>
AKV_FN void store_sums(const warp_state<G> &state, float *meet, akv_u32 warp, akv_u32 r, akv_u32 c, akv_u32 columns)
{
    constexpr int pitch = 32 * G + 4;
    float *tops = meet + NW * COLUMNS * pitch, *sums = tops + NW * COLUMNS, l0 = state.l[0], l1 = state.l[1];
#pragma unroll
    for (int i = 4; i < 32; i *= 2) {
        l0 += __shfl_xor_sync(0xFFFFFFFFu, l0, i);
        l1 += __shfl_xor_sync(0xFFFFFFFFu, l1, i);
    }
    if (2u * c >= columns)
        return;
    float *first = meet + (warp * COLUMNS + 2u * c) * pitch, *second = first + pitch;
#pragma unroll
    for (int n = 0; n < 2 * G; n += V::together ? 2 : 1) {
        akv_u32 at = V::o_dim(n, r, 0), high = V::o_dim(n, r, 1);
        if constexpr (V::together) {
            const float *x = state.o[n], *y = state.o[n + 1];
            *(float4 *)(first + at) = make_float4(x[0], x[2], y[0], y[2]);
            *(float4 *)(second + at) = make_float4(x[1], x[3], y[1], y[3]);
        } else {
            first[at] = state.o[n][0], first[high] = state.o[n][2];
            second[at] = state.o[n][1], second[high] = state.o[n][3];
        }
    }
    if (r == 0u) {
        tops[warp * COLUMNS + 2u * c] = state.m[0], tops[warp * COLUMNS + 2u * c + 1u] = state.m[1];
        sums[warp * COLUMNS + 2u * c] = l0, sums[warp * COLUMNS + 2u * c + 1u] = l1;
    }
}
/* One row of them by a warp: element 32 g + lane in x[g]. */
template <int G, int NW> AKV_FN void gather_sums(const float *meet, akv_u32 column, float *x, float *m, float *l)
{
    constexpr int pitch = 32 * G + 4;
    const float *tops = meet + NW * COLUMNS * pitch, *sums = tops + NW * COLUMNS;
    akv_u32 lane = threadIdx.x & 31u, at = lane < NW ? lane * COLUMNS + column : 0u;
    float own = lane < NW ? tops[at] : NO_SCORE, top = warp_max(own), f = akv_exp2(own - top), sum = 0.0f;
    float part = lane < NW ? f * sums[at] : 0.0f;
#pragma unroll
    for (int g = 0; g < G; g++)
        x[g] = 0.0f;
#pragma unroll
    for (int w = 0; w < NW; w++) {
        float factor = __shfl_sync(0xFFFFFFFFu, f, w);
        sum += __shfl_sync(0xFFFFFFFFu, part, w);
#pragma unroll
        for (int g = 0; g < G; g++)
            x[g] += factor * meet[(w * COLUMNS + column) * pitch + 32u * g + lane];
    }
    *m = top, *l = sum;
}

template <class K, class V, int G, int NW, int STAGES, bool MAP>
AKV_FN void decode(const akv_attend_params &p, const akv_cu_args &a, const akv_cu_plan &plan, akv_u32 *counters)
{
    typedef decode_shape<K, V, G, NW, STAGES, MAP> shape;
    constexpr int dim = shape::dim;
    extern __shared__ __align__(128) unsigned char memory[];
    __shared__ float2 mean_units[COLUMNS]; /* factor, what stays */
    __shared__ float norm[2][COLUMNS], m[COLUMNS], l[COLUMNS], m_packed[COLUMNS], l_packed[COLUMNS];
    akv_u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31u, r = lane >> 2, c = lane & 3u;
    __shared__ akv_map held[2]; /* of keys and of values, zeros without one */
    constexpr akv_u32 map_words = sizeof(akv_map) / 4u;
    static_assert(2 * map_words <= 5 * 32 && 16 * G <= NW * 32, "a thread loads a word or a pair");
    const akv_u8 *maps = a.arg[7];
    mean_loads<G> mean_pairs;
    akv_u32 map_word = 0u;
    if constexpr (MAP) {
        akv_u32 side = threadIdx.x / map_words;
        if (side < 2u && ((side ? p.v_flags : p.k_flags) & AKV_FLAG_MAP))
            map_word = ((const akv_u32 *)(maps + (side ? p.v_map : p.k_map)))[threadIdx.x % map_words];
        mean_pairs.look(p.k_flags & AKV_FLAG_MAP ? akv_map_at(maps, p.k_map) : nullptr);
    }
    attend_work w;
    if (!find_sequence(a, plan, w))
        return;
    if constexpr (MAP)
        mean_pairs.start(maps, w.head);

    /* Memory: control, three sets of rows, what belongs to the mean, then rings; the table at the first multiple
     * of 64 KiB with rings below and above it. */
    unsigned base = akv_shared(memory), table = (base + TABLE_BYTES - 1u) & ~(TABLE_BYTES - 1u);
    if constexpr (shape::table)
        fill_table<shape::two>(memory + (table - base)); /* while the sequence is on its way */
    if (!find_part(p, plan, w))
        return;
    query_loads<dim, NW, MAP> queries;
    queries.start(p, a, w);
    unsigned char *at = memory + shape::control_bytes;
    float *q_raw = (float *)at, *q_stored = q_raw + COLUMNS * dim, *o_packed = q_stored + COLUMNS * dim;
    float *o = q_stored; /* free again when o is written */
    unsigned char *rows_end = at + 3 * shape::rows_bytes, *rings = rows_end + shape::mean_bytes;
    unsigned short *met = (unsigned short *)o_packed; /* until o_packed is written */
    akv_u64 *turns = (akv_u64 *)(rows_end + shape::mean::table_bytes);
    float2 *means = (float2 *)(turns + shape::mean::turn_bytes / 8); /* until products are */
    unsigned products = akv_shared(means) + warp * shape::mean::run_bytes;
    unsigned char *above = rings; /* a run of memory long enough for the warps to meet in */
    unsigned ring;
    if (shape::table) {
        int below = (int)(table - akv_shared(rings)) / shape::warp_bytes;
        above = memory + (table + TABLE_BYTES - base);
        ring = (int)warp < below ? akv_shared(rings) + warp * shape::warp_bytes
                                 : akv_shared(above) + (warp - below) * shape::warp_bytes;
    } else {
        ring = akv_shared(rings) + warp * shape::warp_bytes;
    }
    unsigned bar = base + warp * (STAGES * 8u);
    volatile akv_u32 *tile_of = (volatile akv_u32 *)(memory + 1024) + warp * STAGES;

    tile_walk walk;
    akv_u32 first_tile = w.first / 16u, tiles = w.last == w.first ? 0u : (w.last + 15u) / 16u - first_tile;
    walk.end = first_tile + tiles;
    mean_runs runs = {0u, 0u};
    if constexpr (MAP)
        runs = choose_runs(tiles, NW, w.columns);
    walk.shift = runs.shift;
    walk.first = first_tile + (warp << walk.shift);
    walk.count = walk.first < walk.end
                     ? ((walk.end - walk.first - 1u) / (NW << walk.shift) + 1u) << walk.shift
                     : 0u;
    walk.base = walk.mask = 0u;
    walk.other = false;
    tile_walk raw_walk = walk;

    akv_u32 issued = 0u, put = 0u;
    akv_i32 apart = (akv_i32)(p.tiles.v_offset[1] - p.tiles.k_offset[1]) + (akv_i32)w.head * (V::bytes - K::bytes);
    auto issue = [&]() { /* one packed tile into the ring, by the lane that has its address */
        if constexpr (shape::packed) {
            int owner = walk.next<false, NW, MAP>(w, p, a, lane, p.tiles.k_offset[1] + w.head * K::bytes);
            if (owner < 0)
                return;
            if ((int)lane == owner) {
                tile_of[put] = walk.number;
                unsigned slot = ring + put * shape::stage_bytes;
                akv_bar_expect(bar + 8u * put, shape::stage_bytes);
                akv_bulk(slot, walk.block, K::bytes, bar + 8u * put);
                akv_bulk(slot + K::bytes, walk.block + apart, V::bytes, bar + 8u * put);
            }
            issued++;
            put = put + 1u == STAGES ? 0u : put + 1u;
        }
    };
    if constexpr (shape::packed) {
        if (lane == 0u) {
            for (int s = 0; s < STAGES; s++)
                akv_bar_init(bar + 8u * s, 1);
            akv_bar_fence();
        }
        __syncwarp();
        for (int s = 0; s < STAGES; s++)
            issue();
    }

    /* Queries: as they came, and in the domain of stored keys; norm is a power of two that keeps halves
     * in range. */
    queries.finish(p, q_raw);
    if constexpr (MAP) {
        if (threadIdx.x < 2u * map_words)
            ((akv_u32 *)held)[threadIdx.x] = map_word;
        mean_pairs.finish(turns, means);
    }
    __syncthreads();
    const akv_map *k_map = MAP && (p.k_flags & AKV_FLAG_MAP) ? &held[0] : nullptr;
    const akv_map *v_map = MAP && (p.v_flags & AKV_FLAG_MAP) ? &held[1] : nullptr;
    bool mean = k_map && k_map->mean;
    bool turned = k_map ? akv_map_rotates(k_map) != 0u : (p.k_flags & AKV_FLAG_ROTATE) != 0u;
    const float *q_from = q_raw;
    if constexpr (MAP)
        if (k_map && k_map->transform == AKV_TRANSFORM_MATRIX) {
            multiply_queries<G, NW>(q_stored, q_raw,
                                    (const float *)(maps + akv_map_inverse_row(k_map, w.head, dim, 0u)));
            q_from = q_stored;
        }
    /* A warp does what belongs to a column, the others, where there are, the table of angles. */
    if constexpr (MAP)
        if (mean && (NW <= COLUMNS || warp >= COLUMNS))
            fill_angles<G>((uint4 *)rows_end, turns, threadIdx.x - (NW > COLUMNS ? COLUMNS * 32u : 0u),
                           NW > COLUMNS ? (NW - COLUMNS) * 32u : NW * 32u);
    for (akv_u32 j = warp; j < COLUMNS; j += NW) {
        const float *row = q_raw + j * dim;
        float x[G];
#pragma unroll
        for (int g = 0; g < G; g++)
            x[g] = row[32u * g + lane];
        float raw_norm = power_below(row_top<G>(x));
        if (lane == 0u)
            norm[0][j] = raw_norm;
        if constexpr (!shape::packed)
            store_operands<RawF16<G>, G>(q_stored, row, 1.0f / raw_norm, j);
        if constexpr (shape::packed) {
            float scale = 1.0f;
            if constexpr (MAP)
                if (k_map && k_map->scales)
                    scale = akv_map_scale(maps, k_map, w.head, 1u);
#pragma unroll
            for (int g = 0; g < G; g++)
                x[g] = q_from[j * dim + 32u * g + lane];
            if (turned)
                rotate_lanes<G>(x, akv_rotate_read_factor(dim));
            __syncwarp();
#pragma unroll
            for (int g = 0; g < G; g++)
                q_stored[j * dim + 32u * g + lane] = x[g] *= scale;
            float stored_norm = power_below(row_top<G>(x));
            __syncwarp();
            store_operands<K, G>(q_stored, q_stored + j * dim, 1.0f / stored_norm, j);
            if (lane == 0u)
                norm[1][j] = stored_norm;
            if constexpr (MAP)
                if (mean) { /* in the units of the products with packed keys */
                    float units = meet_mean<G>(met, row, means, k_map, turns, runs, j) / stored_norm;
                    float still = still_product(row, maps, k_map, w.head, dim) / stored_norm;
                    if (lane == 0u)
                        mean_units[j] = make_float2(units, still);
                }
        }
    }
    __syncthreads();

    lane_columns columns;
    {
        akv_i32 ignored;
        column_range(p, w.seq, w.tile * COLUMNS, &ignored, &columns.all_hi);
        column_range(p, w.seq, w.tile * COLUMNS + w.columns - 1u, &columns.all_lo, &ignored);
#pragma unroll
        for (int j = 0; j < 2; j++)
            column_range(p, w.seq, w.tile * COLUMNS + AKV_MIN(2u * c + j, w.columns - 1u), &columns.lo[j],
                         &columns.hi[j]);
        /* a tile reaches past the end of a sequence or of a split's blocks only behind all_hi */
        columns.all_hi = min(columns.all_hi, (akv_i32)(w.seq.length + w.seq.tokens) - 1);
    }
    warp_state<G> state;
    unsigned q[G][4];
    bool any_raw = true;

    if constexpr (shape::packed) {
        load_operands<G>(q_stored, q, r, c);
        columns.norm[0] = norm[1][2u * c], columns.norm[1] = norm[1][2u * c + 1u];
        state.clear();
        unsigned lane_table = table + lane * 4u, take = 0u, parity = 0u;
        akv_u32 done = 0u, row = 4u * (r >> 1) + (r & 1u);
        akv_u32 run = ~0u;
        unsigned lane_products = products + runs.place(0u, row, 2u * c);
        while (done < issued) {
            bool two = done + 1u < issued;
            akv_u32 number[2] = {tile_of[take], tile_of[take + 1u == STAGES ? 0u : take + 1u]};
            if constexpr (MAP)
                if (mean) { /* two tiles of a run, whose products are there */
                    akv_u32 n = (number[0] - first_tile) >> runs.shift;
                    two = two && (number[1] - first_tile) >> runs.shift == n;
                    if (n != run) {
                        run = n;
                        akv_u32 middle = first_tile + (n << runs.shift) + 1u;
                        regain_run<G>(products, runs, akv_shared(met), turns, akv_shared(rows_end),
                                      mean_units[r], middle * 16u - 1u, lane);
                    }
                }
            unsigned slot[2];
            float s[2][4];
#pragma unroll
            for (int t = 0; t < 2; t++) {
                s[t][0] = s[t][1] = s[t][2] = s[t][3] = t ? -INFINITY : 0.0f;
                slot[t] = ring + take * shape::stage_bytes;
                if (t == 0 || two) {
                    akv_i32 tile = (akv_i32)number[t] * 16;
                    s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0.0f;
                    if constexpr (MAP)
                        if (mean) {
                            akv_u32 n = (number[t] - first_tile) & ((1u << runs.shift) - 1u);
                            unsigned at = lane_products ^ (runs.few ? (n >> 1 & 1u) * 16u : 0u);
                            at += n * runs.tile_bytes();
                            float2 x = load_float2(at), y = load_float2(at + runs.tile_bytes() / 8u);
                            s[t][0] = x.x, s[t][1] = x.y, s[t][2] = y.x, s[t][3] = y.y;
                        }
                    akv_bar_wait(bar + 8u * take, parity);
                    K::scores(slot[t], q, s[t], r, c, lane_table);
                    tile_scores(p, columns, s[t], tile, tile + (akv_i32)row, tile + (akv_i32)row + 2);
                    if (++take == STAGES)
                        take = 0u, parity ^= 1u;
                }
            }
            state.raise(fmaxf(fmaxf(s[0][0], s[0][2]), fmaxf(s[1][0], s[1][2])),
                        fmaxf(fmaxf(s[0][1], s[0][3]), fmaxf(s[1][1], s[1][3])));
#pragma unroll
            for (int t = 0; t < 2; t++) {
                if (t == 0 || two) {
                    float p0 = akv_exp2(s[t][0] - state.m[0]), p1 = akv_exp2(s[t][1] - state.m[1]);
                    float p2 = akv_exp2(s[t][2] - state.m[0]), p3 = akv_exp2(s[t][3] - state.m[1]);
                    state.l[0] += p0 + p2, state.l[1] += p1 + p3;
                    V::add(slot[t] + K::bytes, akv_transpose8x8(akv_pack_half2(p0, p1)),
                           akv_transpose8x8(akv_pack_half2(p2, p3)), state.o, r, c, lane_table);
                }
            }
            __syncwarp();
            done += two ? 2u : 1u;
            issue();
            if (two)
                issue();
            __syncwarp(); /* numbers of the tiles */
        }
        any_raw = __syncthreads_or(walk.other); /* and the rings are read out */
        store_sums<V, G, NW>(state, (float *)above, warp, r, c, w.columns);
        __syncthreads();
        for (akv_u32 j = warp; j < w.columns; j += NW) {
            float x[G], top, sum, factor = 1.0f;
            gather_sums<G, NW>((float *)above, j, x, &top, &sum);
            if (v_map ? akv_map_rotates(v_map) != 0u : (p.v_flags & AKV_FLAG_ROTATE) != 0u)
                rotate_lanes<G>(x, akv_rotate_read_factor(dim));
            if constexpr (MAP)
                if (v_map && v_map->scales)
                    factor = akv_map_scale(maps, v_map, w.head, 1u);
#pragma unroll
            for (int g = 0; g < G; g++)
                o_packed[j * dim + 32u * g + lane] = x[g] * factor;
            if (lane == 0u)
                m_packed[j] = top, l_packed[j] = sum;
        }
        __syncthreads();
        if constexpr (MAP)
            if (v_map && v_map->transform == AKV_TRANSFORM_MATRIX)
                multiply_sums<G, NW>(o_packed, (const float *)(maps + akv_map_inverse_row(v_map, w.head, dim, 0u)),
                                     (float *)above);
        if (!any_raw) {
            finish_split(p, a, plan, w, o_packed, m_packed, l_packed, counters);
            return;
        }
    }

    /* Raw rows. */
    if constexpr (shape::packed) {
        for (akv_u32 j = warp; j < COLUMNS; j += NW)
            store_operands<RawF16<G>, G>(q_stored, q_raw + j * dim, 1.0f / norm[0][j], j);
        __syncthreads();
    }
    load_operands<G>(q_stored, q, r, c);
    columns.norm[0] = norm[0][2u * c], columns.norm[1] = norm[0][2u * c + 1u];
    state.clear();
    akv_u32 raw_issued = 0u, raw_done = 0u, raw_put = 0u, raw_take = 0u;
    constexpr int raw_bytes = RawF16<G>::bytes, raw_stages = shape::raw_stages;
    ring = akv_shared(rows_end) + warp * (raw_stages * 2 * raw_bytes);
    auto issue_raw = [&]() {
        int owner = raw_walk.next<true, NW, MAP>(w, p, a, lane, 0u);
        if (owner >= 0) {
            const akv_u8 *block = (const akv_u8 *)__shfl_sync(0xFFFFFFFFu, (akv_u64)raw_walk.block, owner);
            if ((int)lane == owner)
                ((volatile akv_u32 *)tile_of)[raw_put] = raw_walk.number;
            akv_u32 kind = __shfl_sync(0xFFFFFFFFu, raw_walk.kind, owner);
            const akv_u8 *k = block + p.tiles.k_offset[kind] + w.head * raw_bytes;
            const akv_u8 *v = block + p.tiles.v_offset[kind] + w.head * raw_bytes;
            unsigned slot = ring + raw_put * (2 * raw_bytes);
#pragma unroll
            for (int i = 0; i < raw_bytes / 512; i++) {
                unsigned e = i * 32u + lane, line = e / (4 * G), piece = e % (4 * G);
                akv_copy16(slot + RawF16<G>::piece(line, piece), k + e * 16u);
                akv_copy16(slot + raw_bytes + RawF16<G>::piece(line, piece), v + e * 16u);
            }
            raw_issued++;
            raw_put = raw_put + 1u == raw_stages ? 0u : raw_put + 1u;
        }
        akv_copy_commit(); /* an empty group where there is no tile keeps the count simple */
    };
    for (int s = 0; s < raw_stages; s++)
        issue_raw();
    while (raw_done < raw_issued) {
        akv_copy_wait<raw_stages - 1>();
        __syncwarp();
        unsigned slot = ring + raw_take * (2 * raw_bytes);
        akv_i32 tile = (akv_i32)tile_of[raw_take] * 16;
        float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        akv_i32 held = (akv_i32)(w.seq.length + w.seq.tokens) - tile;
        if (held < 16) { /* rows that were never written hold anything; 0 * NaN must not reach the sum */
            for (akv_u32 e = (akv_u32)held * (4 * G) + lane; e < 16u * (4 * G); e += 32u)
                *(uint4 *)(memory + (slot - base) + raw_bytes + RawF16<G>::piece(e / (4 * G), e % (4 * G))) =
                    make_uint4(0u, 0u, 0u, 0u);
            __syncwarp();
        }
        RawF16<G>::scores(slot, q, s, lane);
        tile_scores(p, columns, s, tile, tile + (akv_i32)r, tile + (akv_i32)r + 8);
        state.raise(fmaxf(s[0], s[2]), fmaxf(s[1], s[3]));
        float p0 = akv_exp2(s[0] - state.m[0]), p1 = akv_exp2(s[1] - state.m[1]);
        float p2 = akv_exp2(s[2] - state.m[0]), p3 = akv_exp2(s[3] - state.m[1]);
        state.l[0] += p0 + p2, state.l[1] += p1 + p3;
        RawF16<G>::add(slot + raw_bytes, akv_transpose8x8(akv_pack_half2(p0, p1)),
                       akv_transpose8x8(akv_pack_half2(p2, p3)), state.o, lane);
        __syncwarp();
        raw_done++;
        raw_take = raw_take + 1u == raw_stages ? 0u : raw_take + 1u;
        issue_raw();
    }
    akv_copy_wait<0>();
    __syncthreads(); /* the rings are read out */
    float *meet = (float *)(shape::table ? above : rows_end);
    store_sums<RawF16<G>, G, NW>(state, meet, warp, r, c, w.columns);
    __syncthreads();
    for (akv_u32 j = warp; j < w.columns; j += NW) {
        float x[G], top, sum;
        gather_sums<G, NW>(meet, j, x, &top, &sum);
        if constexpr (shape::packed) {
            float higher = fmaxf(top, m_packed[j]), f = akv_exp2(top - higher), g0 = akv_exp2(m_packed[j] - higher);
            sum = sum * f + l_packed[j] * g0;
            top = higher;
#pragma unroll
            for (int g = 0; g < G; g++)
                x[g] = x[g] * f + o_packed[j * dim + 32u * g + lane] * g0;
        }
#pragma unroll
        for (int g = 0; g < G; g++)
            o[j * dim + 32u * g + lane] = x[g];
        if (lane == 0u)
            m[j] = top, l[j] = sum;
    }
    __syncthreads();
    finish_split(p, a, plan, w, o, m, l, counters);
}

#endif
