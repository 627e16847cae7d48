/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the evict family: score, mean, mass, select, compact.
 *
 * Options: AKV_SCORE, AKV_MEAN, AKV_MASS, AKV_SELECT, AKV_COMPACT choose the kernel.  LANES work-items
 * of a group share its work: WG in the GPU shape, one in the CPU shape. */
#ifdef AKV_CPU_SHAPE
#define LANES 1u
#else
#define LANES WG
#endif

#if defined(AKV_SCORE) || defined(AKV_MEAN) || defined(AKV_MASS)
/* Group g of row t of a tile, zeros behind the row's end. */
static inline void evict_group(float *x, __global const uchar *tile, akv_u32 format, akv_u32 order,
                               akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 g)
{
    akv_u32 i;
    if (!akv_format_raw(format)) {
        load_group(x, tile, format, order, tokens, dim, t, g);
        return;
    }
    for (i = 0u; i < 32u; i++)
        x[i] = g * 32u + i < dim ? akv_as_f32(akv_load_bits(tile, (akv_u64)t * dim + g * 32u + i, format)) : 0.0f;
}
/* sum(x, x) and sum(x, w) of evict.h; returns whether x holds a NaN. */
static inline akv_u32 evict_sums(__global const uchar *tile, akv_u32 format, akv_u32 order, akv_u32 tokens,
                                 akv_u32 dim, akv_u32 t, __global const uchar *weights, akv_u64 weight,
                                 akv_u32 weighted, float *sums)
{
    float x[32], kk[32], kw[32];
    akv_u32 i, g, nan = 0u;
    for (i = 0u; i < 32u; i++)
        kk[i] = kw[i] = 0.0f;
    for (g = 0u; g < akv_padded_dim(dim) / 32u; g++) {
        evict_group(x, tile, format, order, tokens, dim, t, g);
        for (i = 0u; i < 32u; i++) {
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
#endif

#ifdef AKV_SCORE
/* A work-item takes a row; rows are numbered head by head. */
static inline akv_i32 score_row(const akv_score_params *p, akv_u32 entry, akv_u32 head, akv_u32 t,
                                __global const uchar *weights, SLABS)
{
    akv_u32 kind = entry >> 28, tokens = p->block_tokens, weighted, nan;
    float k[2], v[2] = {0.0f, 0.0f}, b = 0.0f;
    if (entry == AKV_NO_BLOCK)
        return AKV_SCORE_GONE;
    akv_u32 kf = BY_KIND(p->tiles.k_format, kind), vf = BY_KIND(p->tiles.v_format, kind);
    __global const uchar *block = slab_at(block_at(&p->pool, entry), SLAB_NAMES);
    weighted = p->method == AKV_SCORE_AFFINE || p->method == AKV_SCORE_DIFF;
    nan = evict_sums(block + BY_KIND(p->tiles.k_offset, kind) + (akv_u64)head * akv_tile_bytes(kf, tokens, p->k_dim),
                     kf, AKV_ORDER_ROW, tokens, p->k_dim, t, weights,
                     ((akv_u64)head * 2u + akv_score_side(kf, p->k_flags)) * p->k_dim, weighted, k);
    if (p->method == AKV_SCORE_RATIO)
        nan |= evict_sums(block + BY_KIND(p->tiles.v_offset, kind) +
                              (akv_u64)head * akv_tile_bytes(vf, tokens, p->v_dim),
                          vf, AKV_ORDER_QUAD, tokens, p->v_dim, t, weights, 0u, 0u, v);
    if (weighted)
        b = akv_level(akv_load_u32(weights + 4u * ((akv_u64)p->kv_heads * 2u * p->k_dim + head)));
    return nan ? AKV_SCORE_KEEP : akv_score_of(p->method, k[0], v[0], k[1], b);
}

__kernel SHAPE void akv_k_score(__global const uchar *table, ulong table_at, __global const uchar *weights,
                                ulong weights_at, __global uchar *scores, ulong scores_at,
                                const akv_score_params p, SLABS)
{
    __global akv_i32 *out = (__global akv_i32 *)(scores + scores_at);
    akv_u64 count = (akv_u64)p.kv_heads * p.rows, r;
#ifdef AKV_CPU_SHAPE
    akv_u64 first = (akv_u64)get_group_id(0) * ROWS_PER_ITEM, end = AKV_MIN(first + ROWS_PER_ITEM, count);
#else
    akv_u64 first = get_global_id(0), end = AKV_MIN(first + 1u, count);
#endif
    for (r = first; r < end; r++) {
        akv_u32 head = (akv_u32)(r / p.rows), row = (akv_u32)(r % p.rows);
        akv_u32 entry = akv_load_u32(table + table_at + row / p.block_tokens * 4u);
        out[(akv_u64)head * p.stride + row] =
            score_row(&p, entry, head, row % p.block_tokens, weights + weights_at, SLAB_NAMES);
    }
}
#endif

#ifdef AKV_MEAN
/* A work-group takes one head of one part: its work-items take a row each for the norms, then their
 * elements of those rows. */
__kernel SHAPE void akv_k_mean(__global const uchar *table, ulong table_at, __global uchar *sums, ulong sums_at,
                               const akv_mean_params p, SLABS)
{
    __local float inverse[LANES];
    akv_u32 lane = (akv_u32)get_local_id(0), part = (akv_u32)get_group_id(0) / p.kv_heads;
    akv_u32 head = (akv_u32)get_group_id(0) % p.kv_heads, dim = p.k_dim, tokens = p.block_tokens, i, r, base;
    akv_u32 end = AKV_MIN(p.rows, (part + 1u) * AKV_MEAN_ROWS);
    __global akv_i32 *out[2];
    float kk[2];
    table += table_at;
    for (i = 0u; i < 2u; i++)
        out[i] = (__global akv_i32 *)(sums + sums_at) + (((akv_u64)part * 2u + i) * p.kv_heads + head) * dim;
    for (i = lane; i < dim; i += LANES)
        out[0][i] = out[1][i] = 0;
    for (base = part * AKV_MEAN_ROWS; base < end; base += LANES) {
        r = base + lane;
        akv_u32 entry = r < end ? akv_load_u32(table + r / tokens * 4u) : AKV_NO_BLOCK;
        inverse[lane] = 0.0f;
        if (entry != AKV_NO_BLOCK) {
            akv_u32 format = BY_KIND(p.tiles.k_format, entry >> 28);
            __global const uchar *tile = slab_at(block_at(&p.pool, entry), SLAB_NAMES) +
                                         BY_KIND(p.tiles.k_offset, entry >> 28) +
                                         (akv_u64)head * akv_tile_bytes(format, tokens, dim);
            if (!evict_sums(tile, format, AKV_ORDER_ROW, tokens, dim, r % tokens, table, 0u, 0u, kk))
                inverse[lane] = akv_inverse_root(kk[0]);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (r = base; r < AKV_MIN(base + LANES, end); r++) {
            entry = akv_load_u32(table + r / tokens * 4u);
            if (inverse[r - base] == 0.0f)
                continue;
            akv_u32 format = BY_KIND(p.tiles.k_format, entry >> 28);
            __global const uchar *tile = slab_at(block_at(&p.pool, entry), SLAB_NAMES) +
                                         BY_KIND(p.tiles.k_offset, entry >> 28) +
                                         (akv_u64)head * akv_tile_bytes(format, tokens, dim);
            akv_u32 side = akv_score_side(format, p.k_flags);
            for (i = lane; i < dim; i += LANES)
                out[side][i] += AKV_RINT(akv_level(akv_tile_bits(tile, format, AKV_ORDER_ROW, tokens, dim,
                                                                 r % tokens, i)) *
                                         inverse[r - base] * AKV_MEAN_UNIT);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}
#endif

#ifdef AKV_MASS
/* A work-item takes a row; rows are numbered head by head. */
__kernel SHAPE void akv_k_mass(__global const uchar *table, ulong table_at, __global const uchar *queries,
                               ulong queries_at, __global const uchar *lse, ulong lse_at,
                               __global const uchar *positions, ulong positions_at, __global uchar *scores,
                               ulong scores_at, const akv_mass_params p, SLABS)
{
    akv_u64 count = (akv_u64)p.kv_heads * p.rows, r;
    akv_u32 dim = p.k_dim, tokens = p.block_tokens, group = p.q_heads / p.kv_heads, g, i, h, j;
    __global const float *logs = (__global const float *)(lse + lse_at);
    __global const akv_u32 *position = (__global const akv_u32 *)(positions + positions_at);
#ifdef AKV_CPU_SHAPE
    akv_u64 first = (akv_u64)get_group_id(0) * ROWS_PER_ITEM, end = AKV_MIN(first + ROWS_PER_ITEM, count);
#else
    akv_u64 first = get_global_id(0), end = AKV_MIN(first + 1u, count);
#endif
    for (r = first; r < end; r++) {
        akv_u32 head = (akv_u32)(r / p.rows), row = (akv_u32)(r % p.rows);
        akv_u32 entry = akv_load_u32(table + table_at + row / tokens * 4u);
        if (entry == AKV_NO_BLOCK)
            continue;
        akv_u32 format = BY_KIND(p.tiles.k_format, entry >> 28), side = akv_score_side(format, p.k_flags);
        __global const uchar *tile = slab_at(block_at(&p.pool, entry), SLAB_NAMES) +
                                     BY_KIND(p.tiles.k_offset, entry >> 28) +
                                     (akv_u64)head * akv_tile_bytes(format, tokens, dim);
        float key[ROW_MAX];
        akv_u64 sum = 0u;
        for (g = 0u; g < akv_padded_dim(dim) / 32u; g++)
            evict_group(key + g * 32u, tile, format, AKV_ORDER_ROW, tokens, dim, row % tokens, g);
        for (i = 0u; i < p.queries; i++) {
            if (row > position[i] || row < akv_attend_first(position[i], p.window))
                continue;
            for (h = head * group; h < (head + 1u) * group; h++) {
                __global const float *q = (__global const float *)(queries + queries_at) +
                                          (((akv_u64)side * p.queries + i) * p.q_heads + h) * dim;
                float product[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                for (j = 0u; j < dim; j += 4u) {
                    product[0] += q[j] * key[j];
                    product[1] += q[j + 1u] * key[j + 1u];
                    product[2] += q[j + 2u] * key[j + 2u];
                    product[3] += q[j + 3u] * key[j + 3u];
                }
                sum += (akv_u64)(akv_u32)akv_mass_of((product[0] + product[1]) + (product[2] + product[3]),
                                                     p.scale, p.cap, logs[(akv_u64)i * p.q_heads + h]);
            }
        }
        __global akv_i32 *out = (__global akv_i32 *)(scores + scores_at) + (akv_u64)head * p.stride + row;
        *out = akv_mass_add(*out, sum);
    }
}
#endif

#ifdef AKV_SELECT
/* A work-group takes a problem, or a head where heads do not compete. */
__kernel SHAPE void akv_k_select(__global const uchar *scores, ulong scores_at, __global uchar *rows, ulong rows_at,
                                 __global uchar *counts, ulong counts_at, const akv_select_params p)
{
    __local akv_u32 bins[256], found[2];
    __local akv_u64 from[AKV_SELECT_HEADS];
    akv_u32 lane = (akv_u32)get_local_id(0), item = (akv_u32)get_group_id(0), units = akv_select_units(&p);
    akv_u32 many = p.flags & AKV_SELECT_ADAPTIVE, problem = many ? item : item / p.heads;
    akv_u32 head = many ? 0u : item % p.heads, heads = many ? p.heads : 1u, h, i, round;
    akv_u32 keep = AKV_MIN(p.keep, units), sure = many ? AKV_MIN(p.least, keep) : keep, end = head + heads;
    __global const akv_i32 *in =
        (__global const akv_i32 *)(scores + scores_at) + (akv_u64)problem * p.heads * p.stride;
    for (h = head + lane; h < head + heads; h += LANES)
        from[h] = AKV_SELECT_ALL;
    barrier(CLK_LOCAL_MEM_FENCE);
    /* Every head's sure keys, then (round == end) what all heads compete for: the key of which `want`
     * are at or above it among those below the head's `from`, eight bits at a time. */
    for (round = sure ? head : end; round < end + (keep > sure ? 1u : 0u); round++) {
        akv_u32 low = round == end ? head : round, high = round == end ? end : round + 1u, shift;
        akv_u32 want = round == end ? (keep - sure) * heads : sure;
        akv_u64 prefix = 0u;
        for (shift = 64u; shift > 0u;) {
            shift -= 8u;
            for (i = lane; i < 256u; i += LANES)
                bins[i] = 0u;
            barrier(CLK_LOCAL_MEM_FENCE);
            for (h = low; h < high; h++)
                for (i = lane; i < units; i += LANES) {
                    akv_u64 key = akv_select_key(&p, in, h, i);
                    if (key < from[h] && (shift == 56u || key >> (shift + 8u) == prefix))
                        atomic_inc(&bins[(akv_u32)(key >> shift) & 255u]);
                }
            barrier(CLK_LOCAL_MEM_FENCE);
            if (lane == 0u) {
                akv_u32 bin = 255u, left = want;
                while (bin && bins[bin] < left)
                    left -= bins[bin--];
                found[0] = bin;
                found[1] = left;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            prefix = prefix << 8 | found[0];
            want = found[1];
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        if (lane == 0u) /* want: how many of the keys equal to prefix are meant */
            for (h = low; h < high; h++) {
                bool equal = prefix < from[h] && akv_select_key(&p, in, h, akv_select_unit(prefix)) == prefix;
                akv_u64 mine = equal && want ? prefix : prefix + 1u;
                from[h] = AKV_MIN(from[h], mine);
                want -= equal && want ? 1u : 0u;
            }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    for (h = head; h < head + heads; h++) {
        akv_u64 list = (akv_u64)problem * p.heads + h;
        __global akv_u32 *kept = (__global akv_u32 *)(rows + rows_at) + list * p.stride;
        akv_u32 n = p.first, base;
        for (i = lane; i < p.first; i += LANES)
            kept[i] = i;
        for (base = 0u; base < units; base += LANES) {
            akv_u32 u = base + lane, before = 0u, all = 0u;
            bins[lane] = u < units && akv_select_key(&p, in, h, u) >= from[h] ? 1u : 0u;
            barrier(CLK_LOCAL_MEM_FENCE);
            for (i = 0u; i < LANES; i++) {
                before += i < lane ? bins[i] : 0u;
                all += bins[i];
            }
            for (i = 0u; bins[lane] && i < p.unit; i++)
                kept[n + before * p.unit + i] = p.first + u * p.unit + i;
            n += all * p.unit;
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        for (i = p.last + lane; i < p.rows; i += LANES)
            kept[n + i - p.last] = i;
        if (lane == 0u)
            ((__global akv_u32 *)(counts + counts_at))[list] = n + p.rows - p.last;
    }
}
#endif

#ifdef AKV_COMPACT
/* Bytes [at, at + width) of every row of a block, rows `bytes` apart from `plane` on: a work-item's
 * column.  to: tile of block b. */
#define SOURCE(j)                                                                                  \
    (slab_at(block_at(&p.pool, akv_load_u32(from + row[j] / tokens * 4u)), SLAB_NAMES) + offset +  \
     (akv_u64)head * tile)

__kernel SHAPE void akv_k_compact(__global const uchar *from, ulong from_at, __global const uchar *to, ulong to_at,
                                  __global const uchar *rows, ulong rows_at, __global const uchar *counts,
                                  ulong counts_at, const akv_compact_params p, SLABS)
{
    akv_u32 lane = (akv_u32)get_local_id(0), tokens = p.block_tokens;
    akv_u32 head = (akv_u32)get_group_id(0) % p.kv_heads, side = (akv_u32)get_group_id(0) / p.kv_heads;
    akv_u32 format = p.format[side], dim = p.dim[side], offset = p.offset[side];
    akv_u32 tile = akv_tile_bytes(format, tokens, dim), raw = akv_row_bytes(format, dim);
    akv_u32 count = akv_load_u32(counts + counts_at + head * 4u);
    __global const akv_u32 *row = (__global const akv_u32 *)(rows + rows_at) + (akv_u64)head * p.stride;
    akv_u32 used = (count + tokens - 1u) / tokens, first = p.in_place ? 0u : (akv_u32)get_group_id(1);
    akv_u32 last = p.in_place ? used : AKV_MIN(first + 1u, used), dp = akv_padded_dim(dim);
    akv_u32 b0 = raw ? 0u : akv_format_plane0(format), b1 = raw ? 0u : akv_format_plane1(format);
    /* Words of a row, or of a quad, in the planes, then scales of a row; or pairs of bytes of a row. */
    akv_u32 words0 = raw ? raw / 2u : side ? dp / 8u * b0 : dp / 32u * b0;
    akv_u32 words1 = raw ? 0u : side ? dp / 8u * b1 : dp / 32u * b1, c, b, j, k;
    akv_u32 scales = raw ? 0u : akv_scale_count(format, dim);
    from += from_at;
    to += to_at;
    for (c = lane; c < words0 + words1 + scales; c += LANES)
        for (b = first; b < last; b++) {
            akv_u32 second = c >= words0 ? 1u : 0u, word = second ? c - words0 : c;
            akv_u32 bits = second ? b1 : b0, words = second ? words1 : words0;
            akv_u32 plane = second ? akv_plane1_offset(format, tokens, dim) : 0u;
            __global uchar *out = slab_at(block_at(&p.pool, akv_load_u32(to + b * 4u)), SLAB_NAMES) + offset +
                                  (akv_u64)head * tile;
            if (c >= words0 + words1) {
                akv_u32 s = c - words0 - words1, order = side ? AKV_ORDER_QUAD : AKV_ORDER_ROW;
                for (k = 0u, j = b * tokens; k < tokens; k++, j++)
                    akv_scale_put(out, format, order, tokens, dim, k, s,
                                  j < count ? akv_scale_get(SOURCE(j), format, order, tokens, dim, row[j] % tokens, s) : 0u);
            } else if (raw) {
                for (k = 0u, j = b * tokens; k < tokens; k++, j++)
                    akv_store_u16(out + k * raw + c * 2u,
                                  j < count ? akv_load_u16(SOURCE(j) + row[j] % tokens * raw + c * 2u) : 0u);
            } else if (side == 0u) {
                for (k = 0u, j = b * tokens; k < tokens; k++, j++)
                    akv_store_u32(out + plane + 4u * (k * words + word),
                                  j < count ? akv_load_u32(SOURCE(j) + plane + 4u * (row[j] % tokens * words + word)) : 0u);
            } else {
                akv_u32 mask = akv_quad_mask(bits), u = word / bits, w = word % bits, q;
                for (q = 0u; q < tokens / 4u; q++) {
                    akv_u32 made = 0u;
                    for (k = 0u; k < 4u; k++) {
                        j = b * tokens + q * 4u + k;
                        if (j < count) {
                            akv_u32 t = row[j] % tokens;
                            made |= (akv_load_u32(SOURCE(j) + plane + 4u * (akv_quad_word(bits, tokens, t >> 2, u) + w)) >>
                                         bits * (t & 3u) & mask) << bits * k;
                        }
                    }
                    akv_store_u32(out + plane + 4u * (akv_quad_word(bits, tokens, q, u) + w), made);
                }
            }
        }
    for (b = first + lane; b < last; b += LANES)
        akv_tile_padding(slab_at(block_at(&p.pool, akv_load_u32(to + b * 4u)), SLAB_NAMES) + offset +
                             (akv_u64)head * tile,
                         format, tokens, dim);
}
#endif
