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
/* The grid is heads by sides, blocks of the destination where it is not in place, and parts of a tile's columns
 * (AKV_CL_COMPACT_PARTS of them, then the scales).  Rows are moved in batches of EACH items a work-item: what a
 * batch reads is not behind what it writes, and later batches read nothing of that. */
#define EACH 4u
#define ROWS   0u /* items are columns of `width` bytes of rows of `bytes` bytes */
#define QUADS  1u /* `width` bytes of a unit of 8 dimensions of a quad in a plane of `bits` */
#define SCALES 2u /* four scales of a row */
typedef struct part {
    akv_u32 what, plane, width, bytes, bits;
    akv_u32 low, wide; /* first column or unit; items of a row, of a unit */
    akv_u32 items;     /* of a block; those of a column have ascending rows */
} part;
typedef struct head_rows {
    __global const uchar *from, *to; /* tables */
    __global const akv_u32 *row;     /* of the source, of each of `count` rows */
    akv_u32 count, tokens, format, dim, order, first;
    akv_u64 tile; /* of my head, in a block */
} head_rows;

static inline __global uchar *tile_of(const akv_pool_map *pool, const head_rows *h, __global const uchar *table,
                                      akv_u32 block, SLABS)
{
    return slab_at(block_at(pool, akv_load_u32(table + block * 4u)), SLAB_NAMES) + h->tile;
}
static inline uint4 load_item(__global const uchar *from, akv_u32 width)
{
    uint4 v = 0u;
    if (width == 16u)
        return *(__global const uint4 *)from;
    v.x = width == 2u ? akv_load_u16(from) : akv_load_u32(from);
    if (width == 8u)
        v.y = akv_load_u32(from + 4u);
    return v;
}
static inline void store_item(__global uchar *to, akv_u32 width, uint4 v)
{
    if (width == 16u) {
        *(__global uint4 *)to = v;
        return;
    }
    if (width == 2u)
        akv_store_u16(to, v.x);
    else
        akv_store_u32(to, v.x);
    if (width == 8u)
        akv_store_u32(to + 4u, v.y);
}
static inline uint4 read_quad(const akv_pool_map *pool, const head_rows *h, const part *p, akv_u32 block, akv_u32 item,
                              SLABS)
{
    akv_u32 pieces = p->bits * 4u / p->width, q = item % p->wide / pieces, u = p->low + item / p->wide, k;
    uint4 made = 0u, mask = akv_quad_mask(p->bits);
    for (k = 0u; k < 4u; k++) {
        akv_u32 j = block * h->tokens + q * 4u + k;
        if (j < h->count) {
            akv_u32 t = h->row[j] % h->tokens;
            __global const uchar *from = tile_of(pool, h, h->from, h->row[j] / h->tokens, SLAB_NAMES) + p->plane +
                                         4u * akv_quad_word(p->bits, h->tokens, t >> 2, u) + item % pieces * p->width;
            made |= (load_item(from, p->width) >> p->bits * (t & 3u) & mask) << p->bits * k;
        }
    }
    return made;
}
static inline uint4 read_item(const akv_pool_map *pool, const head_rows *h, const part *p, akv_u32 block, akv_u32 item,
                              SLABS)
{
    akv_u32 j = block * h->tokens + item / p->wide, column = item % p->wide, t;
    akv_u32 all = akv_scale_count(h->format, h->dim);
    uint4 v = 0u;
    if (p->what == QUADS)
        return read_quad(pool, h, p, block, item, SLAB_NAMES);
    if (j >= h->count)
        return v;
    __global const uchar *from = tile_of(pool, h, h->from, h->row[j] / h->tokens, SLAB_NAMES);
    t = h->row[j] % h->tokens;
    if (p->what == ROWS)
        return load_item(from + p->plane + t * p->bytes + (p->low + column) * p->width, p->width);
    v.x = akv_scale_get(from, h->format, h->order, h->tokens, h->dim, t, column * 4u);
    if (column * 4u + 1u < all)
        v.y = akv_scale_get(from, h->format, h->order, h->tokens, h->dim, t, column * 4u + 1u);
    if (column * 4u + 2u < all)
        v.z = akv_scale_get(from, h->format, h->order, h->tokens, h->dim, t, column * 4u + 2u);
    if (column * 4u + 3u < all)
        v.w = akv_scale_get(from, h->format, h->order, h->tokens, h->dim, t, column * 4u + 3u);
    return v;
}
static inline void write_item(const akv_pool_map *pool, const head_rows *h, const part *p, akv_u32 block, akv_u32 item,
                              uint4 v, SLABS)
{
    akv_u32 t = item / p->wide, column = item % p->wide, all = akv_scale_count(h->format, h->dim);
    __global uchar *to = tile_of(pool, h, h->to, block, SLAB_NAMES);
    if (p->what == QUADS) {
        store_item(to + p->plane + (p->low * p->wide + item) * p->width, p->width, v);
        return;
    }
    if (p->what == ROWS) {
        store_item(to + p->plane + t * p->bytes + (p->low + column) * p->width, p->width, v);
        return;
    }
    akv_scale_put(to, h->format, h->order, h->tokens, h->dim, t, column * 4u, v.x);
    if (column * 4u + 1u < all)
        akv_scale_put(to, h->format, h->order, h->tokens, h->dim, t, column * 4u + 1u, v.y);
    if (column * 4u + 2u < all)
        akv_scale_put(to, h->format, h->order, h->tokens, h->dim, t, column * 4u + 2u, v.z);
    if (column * 4u + 3u < all)
        akv_scale_put(to, h->format, h->order, h->tokens, h->dim, t, column * 4u + 3u, v.w);
}
static inline void move_items(const akv_pool_map *pool, const head_rows *h, const part *p, akv_u32 blocks, SLABS)
{
    akv_u32 lane = (akv_u32)get_local_id(0), total = blocks * p->items, base, i;
    for (base = 0u; base < total; base += LANES * EACH) {
        uint4 v[EACH];
        AKV_UNROLL
        for (i = 0u; i < EACH; i++) {
            akv_u32 item = base + i * LANES + lane;
            if (item < total)
                v[i] = read_item(pool, h, p, h->first + item / p->items, item % p->items, SLAB_NAMES);
        }
        barrier(CLK_GLOBAL_MEM_FENCE);
        AKV_UNROLL
        for (i = 0u; i < EACH; i++) {
            akv_u32 item = base + i * LANES + lane;
            if (item < total)
                write_item(pool, h, p, h->first + item / p->items, item % p->items, v[i], SLAB_NAMES);
        }
    }
}
/* My columns of a plane of rows; my units of a QUAD plane; the scales. */
static inline part rows_part(akv_u32 plane, akv_u32 bytes, akv_u32 tokens)
{
    part p = {ROWS, plane, bytes % 16u == 0u ? 16u : bytes % 4u == 0u ? 4u : 2u, bytes, 0u, 0u, 0u, 0u};
    akv_u32 mine = (akv_u32)get_group_id(2), columns = bytes / p.width;
    p.low = columns * mine / AKV_CL_COMPACT_PARTS;
    p.wide = columns * (mine + 1u) / AKV_CL_COMPACT_PARTS - p.low;
    p.items = tokens * p.wide;
    return p;
}
static inline part quads_part(akv_u32 plane, akv_u32 bits, akv_u32 units, akv_u32 tokens)
{
    part p = {QUADS, plane, AKV_MIN(bits, 4u) * 4u, 0u, bits, 0u, tokens / 4u * (bits == 8u ? 2u : 1u), 0u};
    akv_u32 mine = (akv_u32)get_group_id(2);
    p.low = units * mine / AKV_CL_COMPACT_PARTS;
    p.items = (units * (mine + 1u) / AKV_CL_COMPACT_PARTS - p.low) * p.wide;
    return p;
}
static inline part scales_part(akv_u32 format, akv_u32 dim, akv_u32 tokens)
{
    part p = {SCALES, 0u, 0u, 0u, 0u, 0u, (akv_scale_count(format, dim) + 3u) / 4u, 0u};
    p.items = tokens * p.wide;
    return p;
}

__kernel SHAPE void akv_k_compact(__global const uchar *from, ulong from_at, __global const uchar *to, ulong to_at,
                                  __global const uchar *rows, ulong rows_at, __global const uchar *counts,
                                  ulong counts_at, const akv_compact_params p, SLABS)
{
    akv_u32 tokens = p.block_tokens, b, used, last;
    akv_u32 head = (akv_u32)get_group_id(0) % p.kv_heads, side = (akv_u32)get_group_id(0) / p.kv_heads;
    akv_u32 format = p.format[side], dim = p.dim[side], raw = akv_row_bytes(format, dim), dp = akv_padded_dim(dim);
    head_rows h = {from + from_at, to + to_at,
                   (__global const akv_u32 *)(rows + rows_at) + (akv_u64)head * p.stride,
                   akv_load_u32(counts + counts_at + head * 4u), tokens, format, dim,
                   side ? AKV_ORDER_QUAD : AKV_ORDER_ROW, p.in_place ? 0u : (akv_u32)get_group_id(1),
                   p.offset[side] + (akv_u64)head * akv_tile_bytes(format, tokens, dim)};
    used = (h.count + tokens - 1u) / tokens;
    last = p.in_place ? used : AKV_MIN(h.first + 1u, used);
    if (h.first >= last)
        return;
    if ((akv_u32)get_group_id(2) < AKV_CL_COMPACT_PARTS) {
        akv_u32 b0 = raw ? 0u : akv_format_plane0(format), b1 = raw ? 0u : akv_format_plane1(format);
        part mine = raw         ? rows_part(0u, raw, tokens)
                    : side == 0u ? rows_part(0u, dp / 8u * b0, tokens)
                                 : quads_part(0u, b0, dp / 8u, tokens);
        move_items(&p.pool, &h, &mine, last - h.first, SLAB_NAMES);
        if (b1) {
            akv_u32 plane = akv_plane1_offset(format, tokens, dim);
            mine = side == 0u ? rows_part(plane, dp / 8u * b1, tokens) : quads_part(plane, b1, dp / 8u, tokens);
            move_items(&p.pool, &h, &mine, last - h.first, SLAB_NAMES);
        }
        return;
    }
    if (!raw && akv_scale_count(format, dim)) {
        const part mine = scales_part(format, dim, tokens);
        move_items(&p.pool, &h, &mine, last - h.first, SLAB_NAMES);
    }
    for (b = h.first + (akv_u32)get_local_id(0); b < last; b += LANES)
        akv_tile_padding(tile_of(&p.pool, &h, h.to, b, SLAB_NAMES), format, tokens, dim);
}
#endif
