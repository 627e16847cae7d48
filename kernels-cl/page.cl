/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the page family: append, gather, copy.
 *
 * Options: AKV_APPEND, AKV_GATHER, AKV_COPY choose the kernel, AKV_QUAD the order of gathered tiles,
 * AKV_RAW_ONLY says that no quantised tile is gathered. */
#define CHUNK 8u /* elements that a work-item appends at a time; rows are multiples of 16 */

#ifdef AKV_QUAD
#define ORDER AKV_ORDER_QUAD
#else
#define ORDER AKV_ORDER_ROW
#endif

#ifdef AKV_APPEND
/* Elements [begin, begin + count) of a row of the caller, to a row of a 16-bit block. */
static inline void append_part(__global uchar *row, akv_u32 hot_type, __global const uchar *rows,
                               akv_u64 from, akv_u32 dtype, akv_u32 begin, akv_u32 count, akv_u32 fast)
{
    akv_u32 bytes = akv_raw_bytes(hot_type), i;
    if (fast && hot_type == dtype) {
        __global const uint4 *src = (__global const uint4 *)(rows + (from + begin) * bytes);
        __global uint4 *dst = (__global uint4 *)(row + begin * bytes);
        for (i = 0u; i < count * bytes / 16u; i++)
            dst[i] = src[i];
        return;
    }
    copy_row(row, 0u, hot_type, rows, from, dtype, begin, count);
}

/* The new tokens are the first dimension of the grid. */
__kernel SHAPE void akv_k_append(__global const uchar *step, ulong step_at, __global const uchar *k,
                                 ulong k_at, __global const uchar *v, ulong v_at,
                                 const akv_append_params p, uint fast, SLABS)
{
    akv_u32 token = (akv_u32)get_group_id(0), i, t;
    step += step_at;
    __global const akv_step_head *head = (__global const akv_step_head *)step;
    if (token >= head->tokens)
        return;
    akv_u32 tokens = head->block_tokens, entry = akv_page_entry(step, token, &t);
    akv_u32 k_count = p.k.heads * p.k_dim, v_count = p.v.heads * p.v_dim;
    if (entry == AKV_NO_BLOCK)
        return;
#ifdef AKV_CPU_SHAPE
    for (i = 0u; i < k_count + v_count; i += i < k_count ? p.k_dim : p.v_dim) {
        akv_u32 count = i < k_count ? p.k_dim : p.v_dim;
#else
    for (i = (akv_u32)get_local_id(0) * CHUNK; i < k_count + v_count; i += WG * CHUNK) {
        akv_u32 count = CHUNK;
#endif
        bool key = i < k_count;
        akv_u32 dim = key ? p.k_dim : p.v_dim, at = key ? i : i - k_count, h = at / dim;
        akv_u64 row = akv_page_row(&p.pool, entry, key ? p.k_offset : p.v_offset, p.hot_type, tokens, dim,
                                   h, t);
        akv_u64 from = key ? akv_page_source(&p.k, token, h) : akv_page_source(&p.v, token, h);
        append_part(slab_at(row, SLAB_NAMES), p.hot_type, key ? k + k_at : v + v_at, from,
                    key ? p.k.dtype : p.v.dtype, at % dim, count, fast);
    }
}
#endif

#ifdef AKV_GATHER
/* Rows are numbered head by head, so that neighbours read one tile. */
typedef struct gather_row {
    akv_u32 number, head; /* of the row that is written */
    akv_u32 t;            /* of the row in its tile */
    akv_u32 format;       /* 0: the block is not held */
    akv_u64 to;           /* first element in the caller's rows */
} gather_row;

static inline gather_row find_row(const akv_gather_params *p, __global const uchar *table, akv_u32 r,
                                  akv_u32 *entry)
{
    gather_row row;
    row.number = r % p->tokens;
    row.head = r / p->tokens;
    row.t = (row.number + p->first_row) % p->block_tokens;
    row.to = akv_page_source(&p->rows, row.number, row.head);
    *entry = akv_load_u32(table + (row.number + p->first_row) / p->block_tokens * 4u);
    row.format = *entry == AKV_NO_BLOCK ? 0u : BY_KIND(p->format, *entry >> 28);
    return row;
}

__kernel SHAPE void akv_k_gather(__global const uchar *table, ulong table_at, __global uchar *rows,
                                 ulong rows_at, __global const uchar *maps, ulong maps_at,
                                 const akv_gather_params p, uint wide, SLABS)
{
    akv_u32 dim = DIM_OR(p.dim), count = p.tokens * p.rows.heads, entry, i;
    table += table_at;
    rows += rows_at;
#ifdef AKV_CPU_SHAPE
    akv_u32 first = (akv_u32)get_group_id(0) * ROWS_PER_ITEM, r;
    for (r = first; r < AKV_MIN(first + ROWS_PER_ITEM, count); r++) {
        gather_row row = find_row(&p, table, r, &entry);
        if (row.format == 0u) {
            for (i = 0u; i < dim; i++)
                akv_store_bits(rows, row.to + i, p.rows.dtype, 0u);
            continue;
        }
        __global const uchar *tile = slab_at(block_at(&p.pool, entry), SLAB_NAMES) +
                                     BY_KIND(p.offset, entry >> 28) +
                                     row.head * akv_tile_bytes(row.format, p.block_tokens, dim);
        if (akv_format_raw(row.format)) {
            copy_row(rows, row.to, p.rows.dtype, tile, (akv_u64)row.t * dim, row.format, 0u, dim);
            continue;
        }
#ifndef AKV_RAW_ONLY
        float x[ROW_MAX];
        for (i = 0u; i < akv_padded_dim(dim) / 32u; i++)
            load_group(x + i * 32u, tile, FORMAT_OR(row.format), ORDER, p.block_tokens, dim, row.t, i);
#ifdef AKV_MAP
        const origin o = origin_of(maps + maps_at, p.map, row.head, p.position + p.first_row + row.number);
        map_back(x, dim, &o);
#endif
        if (p.flags & AKV_FLAG_ROTATE)
            rotate_back(x, dim);
        store_row(x, rows, row.to, p.rows.dtype, dim);
#endif
    }
#else
    const place at = place_of(dim, false);
    akv_u32 r = (akv_u32)get_group_id(0) * at.rows + at.row, begin = at.group * 32u;
    akv_u32 length = AKV_MIN(32u, dim - begin);
    bool mine = at.active && r < count, stored = false;
    float x[32];
    gather_row row = find_row(&p, table, AKV_MIN(r, count - 1u), &entry);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = 0.0f;
    if (mine && row.format != 0u) {
        __global const uchar *tile = slab_at(block_at(&p.pool, entry), SLAB_NAMES) +
                                     BY_KIND(p.offset, entry >> 28) +
                                     row.head * akv_tile_bytes(row.format, p.block_tokens, dim);
        stored = akv_format_raw(row.format);
        if (stored && wide && row.format == p.rows.dtype && length == 32u) {
            akv_u32 bytes = akv_raw_bytes(row.format);
            __global const uint4 *src =
                (__global const uint4 *)(tile + ((akv_u64)row.t * dim + begin) * bytes);
            __global uint4 *dst = (__global uint4 *)(rows + (row.to + begin) * bytes);
            for (i = 0u; i < 2u * bytes; i++)
                dst[i] = src[i];
        } else if (stored) {
            copy_row(rows, row.to, p.rows.dtype, tile, (akv_u64)row.t * dim, row.format, begin, length);
        }
#ifndef AKV_RAW_ONLY
        else
            load_group(x, tile, FORMAT_OR(row.format), ORDER, p.block_tokens, dim, row.t, at.group);
#endif
    }
#ifdef AKV_RAW_ONLY
    __local float swap[1]; /* not used */
#else
    SWAP_ROOM
#ifdef AKV_MAP
    const origin o = origin_of(maps + maps_at, p.map, row.head, p.position + p.first_row + row.number);
    map_group_back(x, &at, mine && row.format != 0u && !stored, dim, &o, swap);
#endif
    if (p.flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_read_factor(dim);
        rotate_groups(x, &at, dim, swap);
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            x[i] = x[i] * factor;
    }
#endif
    if (mine && !stored)
        store_mine(x, rows, row.to + begin, p.rows.dtype, length, wide, swap, at.item);
#ifndef AKV_RAW_ONLY
    scrub(swap, at.item);
#endif
#endif
}
#endif

#ifdef AKV_COPY
/* The grid is pieces of a run by moves: a work-group copies one piece. */
__kernel SHAPE void akv_k_copy(__global const uchar *moves, ulong moves_at, __global uchar *linear,
                               ulong linear_at, const akv_copy_params p, SLABS)
{
    __global const akv_move *move = (__global const akv_move *)(moves + moves_at) + get_group_id(1);
    __global uchar *src = p.direction == AKV_COPY_LINEAR_POOL ? linear + linear_at + move->src
                                                              : slab_at(move->src, SLAB_NAMES);
    __global uchar *dst = p.direction == AKV_COPY_POOL_LINEAR ? linear + linear_at + move->dst
                                                              : slab_at(move->dst, SLAB_NAMES);
    __global const uint4 *from = (__global const uint4 *)src;
    __global uint4 *to = (__global uint4 *)dst;
    akv_u32 i, begin = (akv_u32)get_group_id(0) * COPY_PIECE, end = AKV_MIN(begin + COPY_PIECE, p.bytes);
    for (i = begin / 16u + (akv_u32)get_local_id(0); i < end / 16u; i += (akv_u32)get_local_size(0))
        to[i] = from[i];
}
#endif
