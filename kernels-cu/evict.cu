/* SPDX-License-Identifier: Apache-2.0 */
/* Evict family on CUDA: score, mean, mass, select, compact.  EXACT but for mass. */
#include "common.cuh"
#include "../lib/kernel/evict.h"

#define LANES 256u /* threads of a block; all kernels here have as many */
#define SHELL extern "C" __global__ void __launch_bounds__(256)

/* Group g of row t of a tile; behind the row's end zeros (raw rows), or the padding as it is stored. */
AKV_FN void evict_group(float *x, const akv_u8 *tile, akv_u32 format, akv_u32 order, akv_u32 tokens, akv_u32 dim,
                        akv_u32 t, akv_u32 g)
{
    akv_u8 code[32];
    if (akv_format_blocks(format)) {
        akv_block_load(tile, format, dim, t, g, x);
        return;
    }
    if (akv_format_raw(format) || order == AKV_ORDER_QUAD) {
        for (akv_u32 i = 0u; i < 32u; i++)
            x[i] = g * 32u + i < dim || !akv_format_raw(format)
                       ? akv_as_f32(akv_tile_bits(tile, format, order, tokens, dim, t, g * 32u + i))
                       : 0.0f;
        return;
    }
    float unit = akv_code_unit(format, akv_scale_get(tile, format, order, tokens, dim, t, g * 32u / akv_scale_width(format)));
    akv_row_get(tile, format, tokens, dim, t, g, code);
    for (akv_u32 i = 0u; i < 32u; i++)
        x[i] = akv_code_value(format, code[i], unit);
}
/* sum(x, x) and sum(x, w) of evict.h; returns whether x holds a NaN. */
AKV_FN akv_u32 evict_sums(const akv_u8 *tile, akv_u32 format, akv_u32 order, akv_u32 tokens, akv_u32 dim, akv_u32 t,
                          const akv_u8 *weights, akv_u64 weight, akv_u32 weighted, float *sums)
{
    float x[32], kk[32], kw[32];
    akv_u32 nan = 0u;
    for (akv_u32 i = 0u; i < 32u; i++)
        kk[i] = kw[i] = 0.0f;
    for (akv_u32 g = 0u; g < akv_padded_dim(dim) / 32u; g++) {
        evict_group(x, tile, format, order, tokens, dim, t, g);
        for (akv_u32 i = 0u; i < 32u; i++) {
            float a = akv_level(akv_as_u32(x[i])), w = 0.0f;
            nan |= akv_is_nan(akv_as_u32(x[i]));
            if (weighted && g * 32u + i < dim)
                w = akv_level(akv_load_u32(weights + 4u * (weight + g * 32u + i)));
            kk[i] = AKV_FMA(a, a, kk[i]);
            kw[i] = AKV_FMA(a, w, kw[i]);
        }
    }
    sums[0] = akv_lane_sum(kk);
    sums[1] = akv_lane_sum(kw);
    return nan;
}
AKV_FN akv_u32 table_entry(const akv_cu_args &a, unsigned arg, akv_u32 block)
{
    return ((const akv_u32 *)a.arg[arg])[block];
}

/* score: a thread takes a row; rows are numbered head by head. */
AKV_FN akv_i32 score_row(const akv_score_params &p, const akv_cu_args &a, akv_u32 entry, akv_u32 head, akv_u32 t)
{
    akv_u32 kind = entry >> 28, tokens = p.block_tokens, weighted, nan;
    float k[2], v[2] = {0.0f, 0.0f}, b = 0.0f;
    if (entry == AKV_NO_BLOCK)
        return AKV_SCORE_GONE;
    akv_u32 kf = p.tiles.k_format[kind], vf = p.tiles.v_format[kind];
    const akv_u8 *block = akv_cu_at(a, akv_block_address(&p.pool, entry));
    weighted = p.method == AKV_SCORE_AFFINE || p.method == AKV_SCORE_DIFF;
    nan = evict_sums(block + p.tiles.k_offset[kind] + (akv_u64)head * akv_tile_bytes(kf, tokens, p.k_dim), kf,
                     AKV_ORDER_ROW, tokens, p.k_dim, t, a.arg[1],
                     ((akv_u64)head * 2u + akv_score_side(kf, p.k_flags)) * p.k_dim, weighted, k);
    if (p.method == AKV_SCORE_RATIO)
        nan |= evict_sums(block + p.tiles.v_offset[kind] + (akv_u64)head * akv_tile_bytes(vf, tokens, p.v_dim), vf,
                          AKV_ORDER_QUAD, tokens, p.v_dim, t, a.arg[1], 0u, 0u, v);
    if (weighted)
        b = akv_level(akv_load_u32(a.arg[1] + 4u * ((akv_u64)p.kv_heads * 2u * p.k_dim + head)));
    return nan ? AKV_SCORE_KEEP : akv_score_of(p.method, k[0], v[0], k[1], b);
}

SHELL akv_k_score(const __grid_constant__ akv_score_params p, const __grid_constant__ akv_cu_args a)
{
    akv_i32 *out = (akv_i32 *)a.arg[2];
    akv_u64 r = (akv_u64)blockIdx.x * LANES + threadIdx.x;
    if (r >= (akv_u64)p.kv_heads * p.rows)
        return;
    akv_u32 head = (akv_u32)(r / p.rows), row = (akv_u32)(r % p.rows);
    out[(akv_u64)head * p.stride + row] =
        score_row(p, a, table_entry(a, 0, row / p.block_tokens), head, row % p.block_tokens);
}

/* mean: a thread block takes one head of one part: its threads take a row each for the norms, then their
 * elements of those rows. */
SHELL akv_k_mean(const __grid_constant__ akv_mean_params p, const __grid_constant__ akv_cu_args a)
{
    __shared__ float inverse[LANES];
    akv_u32 lane = threadIdx.x, part = blockIdx.x / p.kv_heads, head = blockIdx.x % p.kv_heads, dim = p.k_dim;
    akv_u32 tokens = p.block_tokens, end = AKV_MIN(p.rows, (part + 1u) * AKV_MEAN_ROWS);
    akv_i32 *out[2];
    float kk[2];
    for (akv_u32 i = 0u; i < 2u; i++)
        out[i] = (akv_i32 *)a.arg[1] + (((akv_u64)part * 2u + i) * p.kv_heads + head) * dim;
    for (akv_u32 i = lane; i < dim; i += LANES)
        out[0][i] = out[1][i] = 0;
    for (akv_u32 base = part * AKV_MEAN_ROWS; base < end; base += LANES) {
        akv_u32 r = base + lane, entry = r < end ? table_entry(a, 0, r / tokens) : AKV_NO_BLOCK;
        inverse[lane] = 0.0f;
        if (entry != AKV_NO_BLOCK) {
            akv_u32 format = p.tiles.k_format[entry >> 28];
            const akv_u8 *tile = akv_cu_at(a, akv_block_address(&p.pool, entry)) + p.tiles.k_offset[entry >> 28] +
                                 (akv_u64)head * akv_tile_bytes(format, tokens, dim);
            if (!evict_sums(tile, format, AKV_ORDER_ROW, tokens, dim, r % tokens, NULL, 0u, 0u, kk))
                inverse[lane] = akv_inverse_root(kk[0]);
        }
        __syncthreads();
        for (r = base; r < AKV_MIN(base + LANES, end); r++) {
            entry = table_entry(a, 0, r / tokens);
            if (inverse[r - base] == 0.0f)
                continue;
            akv_u32 format = p.tiles.k_format[entry >> 28];
            const akv_u8 *tile = akv_cu_at(a, akv_block_address(&p.pool, entry)) + p.tiles.k_offset[entry >> 28] +
                                 (akv_u64)head * akv_tile_bytes(format, tokens, dim);
            akv_u32 side = akv_score_side(format, p.k_flags);
            for (akv_u32 i = lane; i < dim; i += LANES)
                out[side][i] += AKV_RINT(akv_level(akv_tile_bits(tile, format, AKV_ORDER_ROW, tokens, dim, r % tokens, i)) *
                                         inverse[r - base] * AKV_MEAN_UNIT);
        }
        __syncthreads();
    }
}

/* mass: a thread takes a row; rows are numbered head by head.  The key is decoded into local memory. */
SHELL akv_k_mass(const __grid_constant__ akv_mass_params p, const __grid_constant__ akv_cu_args a)
{
    const akv_u32 *position = (const akv_u32 *)a.arg[3];
    const float *logs = (const float *)a.arg[2];
    akv_u64 r = (akv_u64)blockIdx.x * LANES + threadIdx.x, sum = 0u;
    akv_u32 dim = p.k_dim, tokens = p.block_tokens, group = p.q_heads / p.kv_heads;
    float key[AKV_MAX_HEAD_DIM];
    if (r >= (akv_u64)p.kv_heads * p.rows)
        return;
    akv_u32 head = (akv_u32)(r / p.rows), row = (akv_u32)(r % p.rows), entry = table_entry(a, 0, row / tokens);
    if (entry == AKV_NO_BLOCK)
        return;
    akv_u32 format = p.tiles.k_format[entry >> 28], side = akv_score_side(format, p.k_flags);
    const akv_u8 *tile = akv_cu_at(a, akv_block_address(&p.pool, entry)) + p.tiles.k_offset[entry >> 28] +
                         (akv_u64)head * akv_tile_bytes(format, tokens, dim);
    for (akv_u32 g = 0u; g < akv_padded_dim(dim) / 32u; g++)
        evict_group(key + g * 32u, tile, format, AKV_ORDER_ROW, tokens, dim, row % tokens, g);
    for (akv_u32 i = 0u; i < p.queries; i++) {
        if (row > position[i] || row < akv_attend_first(position[i], p.window))
            continue;
        for (akv_u32 h = head * group; h < (head + 1u) * group; h++) {
            const float *q = (const float *)a.arg[1] + (((akv_u64)side * p.queries + i) * p.q_heads + h) * dim;
            float product[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            for (akv_u32 j = 0u; j < dim; j += 4u)
                for (akv_u32 k = 0u; k < 4u; k++)
                    product[k] += q[j + k] * key[j + k];
            sum += (akv_u64)(akv_u32)akv_mass_of((product[0] + product[1]) + (product[2] + product[3]), p.scale, p.cap,
                                                 logs[(akv_u64)i * p.q_heads + h]);
        }
    }
    akv_i32 *out = (akv_i32 *)a.arg[4] + (akv_u64)head * p.stride + row;
    *out = akv_mass_add(*out, sum);
}

/* select: a thread block takes a problem, or a head where heads do not compete. */
SHELL akv_k_select(const __grid_constant__ akv_select_params p, const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 bins[256], found[2];
    __shared__ akv_u64 from[AKV_SELECT_HEADS];
    akv_u32 lane = threadIdx.x, item = blockIdx.x, units = akv_select_units(&p);
    bool many = (p.flags & AKV_SELECT_ADAPTIVE) != 0u;
    akv_u32 problem = many ? item : item / p.heads, head = many ? 0u : item % p.heads, heads = many ? p.heads : 1u;
    akv_u32 keep = AKV_MIN(p.keep, units), sure = many ? AKV_MIN(p.least, keep) : keep, end = head + heads;
    const akv_i32 *in = (const akv_i32 *)a.arg[0] + (akv_u64)problem * p.heads * p.stride;
    for (akv_u32 h = head + lane; h < head + heads; h += LANES)
        from[h] = AKV_SELECT_ALL;
    __syncthreads();
    /* Every head's sure keys, then (round == end) what all heads compete for: the key of which `want`
     * are at or above it among those below the head's `from`, eight bits at a time. */
    for (akv_u32 round = sure ? head : end; round < end + (keep > sure ? 1u : 0u); round++) {
        akv_u32 low = round == end ? head : round, high = round == end ? end : round + 1u;
        akv_u32 want = round == end ? (keep - sure) * heads : sure;
        akv_u64 prefix = 0u;
        for (akv_u32 shift = 64u; shift > 0u;) {
            shift -= 8u;
            for (akv_u32 i = lane; i < 256u; i += LANES)
                bins[i] = 0u;
            __syncthreads();
            for (akv_u32 h = low; h < high; h++)
                for (akv_u32 i = lane; i < units; i += LANES) {
                    akv_u64 key = akv_select_key(&p, in, h, i);
                    if (key < from[h] && (shift == 56u || key >> (shift + 8u) == prefix))
                        atomicAdd(&bins[(akv_u32)(key >> shift) & 255u], 1u);
                }
            __syncthreads();
            if (lane == 0u) {
                akv_u32 bin = 255u, left = want;
                while (bin && bins[bin] < left)
                    left -= bins[bin--];
                found[0] = bin;
                found[1] = left;
            }
            __syncthreads();
            prefix = prefix << 8 | found[0];
            want = found[1];
            __syncthreads();
        }
        if (lane == 0u) /* want: how many of the keys equal to prefix are meant */
            for (akv_u32 h = low; h < high; h++) {
                bool equal = prefix < from[h] && akv_select_key(&p, in, h, akv_select_unit(prefix)) == prefix;
                akv_u64 mine = equal && want ? prefix : prefix + 1u;
                from[h] = AKV_MIN(from[h], mine);
                want -= equal && want ? 1u : 0u;
            }
        __syncthreads();
    }
    for (akv_u32 h = head; h < head + heads; h++) {
        akv_u64 list = (akv_u64)problem * p.heads + h;
        akv_u32 *kept = (akv_u32 *)a.arg[1] + list * p.stride, n = p.first;
        for (akv_u32 i = lane; i < p.first; i += LANES)
            kept[i] = i;
        for (akv_u32 base = 0u; base < units; base += LANES) {
            akv_u32 u = base + lane, before = 0u, all = 0u;
            bins[lane] = u < units && akv_select_key(&p, in, h, u) >= from[h] ? 1u : 0u;
            __syncthreads();
            for (akv_u32 i = 0u; i < LANES; i++) {
                before += i < lane ? bins[i] : 0u;
                all += bins[i];
            }
            for (akv_u32 i = 0u; bins[lane] && i < p.unit; i++)
                kept[n + before * p.unit + i] = p.first + u * p.unit + i;
            n += all * p.unit;
            __syncthreads();
        }
        for (akv_u32 i = p.last + lane; i < p.rows; i += LANES)
            kept[n + i - p.last] = i;
        if (lane == 0u)
            ((akv_u32 *)a.arg[2])[list] = n + p.rows - p.last;
    }
}

/* compact: blockIdx.x is head, then side, then block of the destination where it is not in place; blockIdx.y is a
 * part of a tile's columns (COMPACT_PARTS of them, then the scales).  Rows are moved in batches: what a batch
 * reads is not behind what it writes, and later batches read nothing of that. */
#define COMPACT_PARTS 8u /* backends/cuda/kernel.c has the same number */
#define COMPACT_EACH  4 /* items of a thread in a batch */
struct compact_side {
    const akv_compact_params &p;
    const akv_cu_args &a;
    const akv_u32 *row; /* of the source, of each of `count` rows */
    akv_u32 count, tokens;
    akv_u64 tile; /* of my head, in a block */
    akv_u32 first, blocks; /* of the destination */

    AKV_MEMBER const akv_u8 *source(akv_u32 block) const
    {
        return akv_cu_at(a, akv_block_address(&p.pool, table_entry(a, 0, block))) + tile;
    }
    AKV_MEMBER akv_u8 *target(akv_u32 block) const
    {
        return akv_cu_at(a, akv_block_address(&p.pool, table_entry(a, 1, first + block))) + tile;
    }
    /* Items of all blocks, `each` a block; a column's rows ascend. */
    template <class T, class Read, class Write> AKV_MEMBER void move(akv_u32 each, Read read, Write write) const
    {
        akv_u32 total = blocks * each;
        for (akv_u32 base = threadIdx.x; base - threadIdx.x < total; base += LANES * COMPACT_EACH) {
            T v[COMPACT_EACH];
#pragma unroll
            for (int i = 0; i < COMPACT_EACH; i++) {
                akv_u32 item = base + i * LANES;
                if (item < total)
                    v[i] = read(item / each, item % each);
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < COMPACT_EACH; i++) {
                akv_u32 item = base + i * LANES;
                if (item < total)
                    write(item / each, item % each, v[i]);
            }
        }
    }
    /* Columns [low, high), each a T, of rows of `bytes` from byte `plane` of a tile on. */
    template <class T> AKV_MEMBER void rows(akv_u32 plane, akv_u32 bytes, akv_u32 low, akv_u32 high) const
    {
        akv_u32 wide = high - low;
        move<T>(
            tokens * wide,
            [&](akv_u32 b, akv_u32 item) {
                akv_u32 j = (first + b) * tokens + item / wide;
                if (j >= count)
                    return T();
                akv_u32 from = row[j];
                return ((const T *)(source(from / tokens) + plane + from % tokens * bytes))[low + item % wide];
            },
            [&](akv_u32 b, akv_u32 item, T v) {
                ((T *)(target(b) + plane + item / wide * bytes))[low + item % wide] = v;
            });
    }
    AKV_MEMBER void rows_part(akv_u32 plane, akv_u32 bytes) const
    {
        akv_u32 width = bytes % 16u == 0u ? 16u : bytes % 4u == 0u ? 4u : 2u, columns = bytes / width;
        akv_u32 low = columns * blockIdx.y / COMPACT_PARTS, high = columns * (blockIdx.y + 1u) / COMPACT_PARTS;
        if (low == high)
            return;
        if (width == 16u)
            rows<uint4>(plane, bytes, low, high);
        else if (width == 4u)
            rows<akv_u32>(plane, bytes, low, high);
        else
            rows<akv_u16>(plane, bytes, low, high);
    }
    /* My units of 8 dimensions of a QUAD plane, W words of a quad at a time. */
    template <int W> AKV_MEMBER void quads(akv_u32 plane, akv_u32 bits, akv_u32 units) const
    {
        struct words {
            akv_u32 w[W];
        };
        akv_u32 low = units * blockIdx.y / COMPACT_PARTS, high = units * (blockIdx.y + 1u) / COMPACT_PARTS;
        akv_u32 pieces = bits / W, wide = tokens / 4u * pieces, mask = akv_quad_mask(bits);
        if (low == high)
            return;
        move<words>(
            (high - low) * wide,
            [&](akv_u32 b, akv_u32 item) {
                words made = {};
                akv_u32 q = item % wide / pieces, u = low + item / wide, piece = item % pieces;
                for (akv_u32 k = 0u; k < 4u; k++) {
                    akv_u32 j = (first + b) * tokens + q * 4u + k;
                    if (j >= count)
                        break;
                    akv_u32 t = row[j] % tokens;
                    const akv_u8 *from = source(row[j] / tokens) + plane +
                                         4u * (akv_quad_word(bits, tokens, t >> 2, u) + piece * W);
#pragma unroll
                    for (int w = 0; w < W; w++)
                        made.w[w] |= (akv_load_u32(from + 4 * w) >> bits * (t & 3u) & mask) << bits * k;
                }
                return made;
            },
            [&](akv_u32 b, akv_u32 item, words v) {
                akv_u8 *to = target(b) + plane + 4u * (low * wide * W + item * W);
#pragma unroll
                for (int w = 0; w < W; w++)
                    akv_store_u32(to + 4 * w, v.w[w]);
            });
    }
    AKV_MEMBER void quads_part(akv_u32 plane, akv_u32 bits, akv_u32 units) const
    {
        if (bits >= 4u)
            quads<4>(plane, bits, units);
        else if (bits == 2u)
            quads<2>(plane, bits, units);
        else if (bits == 1u)
            quads<1>(plane, bits, units);
    }
    /* Four scales of a row at a time. */
    AKV_MEMBER void scales(akv_u32 format, akv_u32 dim, akv_u32 order) const
    {
        akv_u32 all = akv_scale_count(format, dim), fours = (all + 3u) / 4u;
        move<uint4>(
            tokens * fours,
            [&](akv_u32 b, akv_u32 item) {
                akv_u32 j = (first + b) * tokens + item / fours, s = item % fours * 4u, v[4] = {};
                if (j < count) {
                    const akv_u8 *from = source(row[j] / tokens);
#pragma unroll
                    for (akv_u32 i = 0u; i < 4u; i++)
                        if (s + i < all)
                            v[i] = akv_scale_get(from, format, order, tokens, dim, row[j] % tokens, s + i);
                }
                return make_uint4(v[0], v[1], v[2], v[3]);
            },
            [&](akv_u32 b, akv_u32 item, uint4 four) {
                akv_u32 s = item % fours * 4u, v[4] = {four.x, four.y, four.z, four.w};
                akv_u8 *to = target(b);
#pragma unroll
                for (akv_u32 i = 0u; i < 4u; i++)
                    if (s + i < all)
                        akv_scale_put(to, format, order, tokens, dim, item / fours, s + i, v[i]);
            });
    }
};
SHELL akv_k_compact(const __grid_constant__ akv_compact_params p, const __grid_constant__ akv_cu_args a)
{
    akv_u32 head = blockIdx.x % p.kv_heads, side = blockIdx.x / p.kv_heads & 1u, tokens = p.block_tokens;
    akv_u32 format = p.format[side], dim = p.dim[side], raw = akv_row_bytes(format, dim), dp = akv_padded_dim(dim);
    akv_u32 count = table_entry(a, 3, head), used = (count + tokens - 1u) / tokens;
    akv_u32 first = p.in_place ? 0u : blockIdx.x / p.kv_heads / 2u;
    akv_u32 last = p.in_place ? used : AKV_MIN(first + 1u, used);
    akv_u64 tile = p.offset[side] + (akv_u64)head * akv_tile_bytes(format, tokens, dim);
    if (first >= last)
        return;
    const compact_side c = {p, a, (const akv_u32 *)a.arg[2] + (akv_u64)head * p.stride, count, tokens, tile, first,
                            last - first};
    if (blockIdx.y < COMPACT_PARTS) {
        akv_u32 b0 = raw ? 0u : akv_format_plane0(format), b1 = raw ? 0u : akv_format_plane1(format);
        akv_u32 plane1 = raw ? 0u : akv_plane1_offset(format, tokens, dim);
        if (raw) {
            c.rows_part(0u, raw);
        } else if (side == 0u) {
            c.rows_part(0u, dp / 8u * b0);
            c.rows_part(plane1, dp / 8u * b1);
        } else {
            c.quads_part(0u, b0, dp / 8u);
            c.quads_part(plane1, b1, dp / 8u);
        }
        return;
    }
    if (!raw && akv_scale_count(format, dim))
        c.scales(format, dim, side ? AKV_ORDER_QUAD : AKV_ORDER_ROW);
    for (akv_u32 b = threadIdx.x; b < last - first; b += LANES)
        akv_tile_padding(c.target(b), format, tokens, dim);
}
