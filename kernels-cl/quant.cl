/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the quantize family: encode, decode, rotate, seal.
 *
 * CPU shape: a work-item takes ROWS_PER_ITEM rows, one after the other.  GPU shape: a work-item takes
 * one group of 32 elements.  Options: AKV_ENCODE, AKV_DECODE, AKV_ROTATION, AKV_SEAL, AKV_REENCODE, AKV_SHIFT choose
 * the kernel, AKV_SEARCH the scale search, AKV_QUAD the order of the tiles that seal and reencode write. */
#ifdef AKV_SEARCH
#define SEARCH 1u
#else
#define SEARCH 0u
#endif
#ifdef AKV_QUAD
#define ORDER AKV_ORDER_QUAD
#else
#define ORDER AKV_ORDER_ROW
#endif

#ifdef AKV_MAP
#define ORIGIN     , const origin *o
#define PASS(name) , name
#else
#define ORIGIN
#define PASS(name)
#endif

#ifdef AKV_CPU_SHAPE
/* A row as it is quantised. */
#ifdef AKV_MAP
#define READ_ROW(saw, x, base, first, dtype, dim, flags, o)                                            \
    {                                                                                                  \
        float row_[ROW_MAX];                                                                           \
        saw |= map_store(row_, base, first, dtype, dim, o);                                            \
        take_row(x, row_, dim);                                                                        \
    }
#else
#define READ_ROW(saw, x, base, first, dtype, dim, flags, o)                                            \
    saw |= read_row(x, base, first, dtype, dim, flags);
#endif

/* Row t of a ROW tile. */
static inline akv_u32 write_row(__global const uchar *base, akv_u64 first, akv_u32 dtype, akv_u32 format,
                                akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 flags,
                                __global uchar *tile ORIGIN)
{
    ROW_VALUES(x);
    ROW_CODES(code);
    akv_u32 saw = 0u;
    if (akv_format_raw(format)) {
        copy_row(tile, (akv_u64)t * dim, format, base, first, dtype, 0u, dim);
    } else {
        READ_ROW(saw, x, base, first, dtype, dim, flags, o)
        if (akv_format_blocks(format)) {
            put_blocks(x, format, dim, t, tile);
        } else {
            encode_row(x, format, AKV_ORDER_ROW, SEARCH, tokens, dim, t, tile, code);
            put_row(tile, format, tokens, dim, t, code);
        }
    }
    if (t + 1u == tokens)
        akv_tile_padding(tile, format, tokens, dim);
    return saw;
}
/* Unit u of a quad from the codes of its four rows. */
static inline void put_unit(__global uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim, akv_u32 q,
                            akv_u32 u, const akv_u8 *a, const akv_u8 *b, const akv_u8 *c, const akv_u8 *d)
{
    akv_u8 unit[32];
    akv_u32 i;
    for (i = 0u; i < 8u; i++) {
        unit[i * 4u] = a[u * 8u + i];
        unit[i * 4u + 1u] = b[u * 8u + i];
        unit[i * 4u + 2u] = c[u * 8u + i];
        unit[i * 4u + 3u] = d[u * 8u + i];
    }
    akv_quad_put(tile, format, tokens, dim, q, u, unit);
}
#else
/* My group of a sane row, rotated or not, in place. */
static inline void turn_group(float *x, const place *at, akv_u32 dim, akv_u32 flags, __local float *swap)
{
    akv_u32 i;
    if (flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_store_factor(dim);
        rotate_groups(x, at, dim, swap);
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] * factor)));
    }
}
/* My group of a row that is to be stored, rotated or not. */
static inline akv_u32 read_group(float *x, const place *at, bool mine, __global const uchar *base,
                                 akv_u64 first, akv_u32 dtype, akv_u32 dim, akv_u32 flags, akv_u32 wide,
                                 __local float *swap ORIGIN)
{
    akv_u32 saw = 0u, i, begin = at->group * 32u, count = AKV_MIN(32u, dim - begin);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = 0.0f;
    if (mine)
        saw = load_mine(x, base, first + begin, dtype, count, wide, swap, at->item);
#ifdef AKV_MAP
    barrier(CLK_LOCAL_MEM_FENCE); /* local memory is read out */
    map_group_store(x, at, mine, dim, o, swap);
#else
    turn_group(x, at, dim, flags, swap);
#endif
    return saw;
}
/* My group of row t of a tile, encoded in its order.  all: all_there, of rows that are consecutive in a ROW tile
 * at a multiple of 16 bytes. */
static inline void write_group(const float *x, const place *at, bool mine, bool all, akv_u32 format,
                               akv_u32 tokens, akv_u32 dim, akv_u32 t, __global uchar *tile,
                               __local float *swap)
{
    akv_u8 code[32];
    akv_u32 width = akv_scale_width(format), begin = at->group * 32u;
    if (akv_format_blocks(format)) {
        akv_u32 scales = akv_block_quantise(x, format, code);
        if (mine)
            akv_block_put(tile, format, dim, t, at->group, code, scales);
        scrub(swap, at->item);
        return;
    }
    akv_u32 amax = share_amax(akv_amax(x, 32u, 0u), at, format, swap);
    akv_u32 scale = akv_scale_of(x, amax, format, SEARCH);
    akv_group_codes(x, scale, format, code);
    if (mine && begin % width == 0u)
        akv_scale_put(tile, format, ORDER, tokens, dim, t, begin / width, scale);
#ifdef AKV_QUAD
    /* Four rows of a quad have 4 * groups work-items, and as many units of 8 dimensions. */
    __local uchar *swap_code = (__local uchar *)swap;
    akv_u32 i, u = (at->row & 3u) * at->groups + at->group, quad = at->item - u;
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        swap_code[at->item * 32u + i] = code[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    if (mine) {
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            code[i] = swap_code[(quad + (i & 3u) * at->groups) * 32u + u * 8u + (i >> 2)];
        akv_quad_put(tile, format, tokens, dim, t >> 2, u, code);
    }
#else
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    put_plane(tile, b0, 0u, dim, t, at, mine, all, code, swap);
    if (b1)
        put_plane(tile + akv_plane1_offset(format, tokens, dim), b1, b0, dim, t, at, mine, all, code, swap);
#endif
    scrub(swap, at->item);
}
#endif

#ifdef AKV_ENCODE
__kernel SHAPE void akv_k_encode(__global const uchar *rows, ulong rows_at, __global uchar *packed,
                                 ulong packed_at, __global uchar *flags, ulong flags_at,
                                 __global const uchar *maps, ulong maps_at, const akv_encode_params p,
                                 uint wide)
{
    akv_u32 format = FORMAT_OR(p.format), dim = DIM_OR(p.dim), heads = p.rows.heads;
    akv_u32 count = p.tokens * heads, saw = 0u;
    rows += rows_at;
    packed += packed_at;
#ifdef AKV_CPU_SHAPE
    akv_u32 first = (akv_u32)get_group_id(0) * ROWS_PER_ITEM, r;
    for (r = first; r < AKV_MIN(first + ROWS_PER_ITEM, count); r++) {
#ifdef AKV_MAP
        const origin o = origin_of(maps + maps_at, p.map, r % heads, p.position + r / heads);
#endif
        saw |= write_row(rows, akv_page_source(&p.rows, r / heads, r % heads), p.rows.dtype, format, count, dim,
                         r, p.flags, packed PASS(&o));
    }
#else
    SWAP_ROOM
    const place at = place_of(dim, false);
    float x[32];
    akv_u32 first = (akv_u32)get_group_id(0) * at.rows, r = first + at.row;
    bool mine = at.active && r < count, all = false;
    akv_u64 from = mine ? akv_page_source(&p.rows, r / heads, r % heads) : 0u;
    if (akv_format_raw(format)) {
        if (mine)
            copy_row(packed, (akv_u64)r * dim, format, rows, from, p.rows.dtype, at.group * 32u,
                     AKV_MIN(32u, dim - at.group * 32u));
    } else {
#ifdef AKV_MAP
        const origin o = origin_of(maps + maps_at, p.map, r % heads, p.position + r / heads);
#endif
        all = all_there(&at, first, count, dim, wide);
        saw = load_rows(x, &at, mine, all, rows, &p.rows, first, from, dim, swap);
#ifdef AKV_MAP
        map_group_store(x, &at, mine, dim, &o, swap);
#else
        turn_group(x, &at, dim, p.flags, swap);
#endif
        write_group(x, &at, mine, all, format, count, dim, r, packed, swap);
    }
    if (mine && r + 1u == count && at.group == 0u)
        akv_tile_padding(packed, format, count, dim);
#endif
    if (saw)
        atomic_or((volatile __global uint *)(flags + flags_at), saw);
}
#endif

#ifdef AKV_DECODE
__kernel SHAPE void akv_k_decode(__global const uchar *packed, ulong packed_at, __global uchar *rows,
                                 ulong rows_at, __global const uchar *maps, ulong maps_at,
                                 const akv_decode_params p, uint wide)
{
    akv_u32 format = FORMAT_OR(p.format), dim = DIM_OR(p.dim), heads = p.rows.heads;
    akv_u32 count = p.tokens * heads;
    rows += rows_at;
    packed += packed_at;
#ifdef AKV_CPU_SHAPE
    akv_u32 first = (akv_u32)get_group_id(0) * ROWS_PER_ITEM, r, g;
    float x[ROW_MAX];
    for (r = first; r < AKV_MIN(first + ROWS_PER_ITEM, count); r++) {
        akv_u64 to = akv_page_source(&p.rows, r / heads, r % heads);
        if (akv_format_raw(format)) {
            copy_row(rows, to, p.rows.dtype, packed, (akv_u64)r * dim, format, 0u, dim);
            continue;
        }
        for (g = 0u; g < akv_padded_dim(dim) / 32u; g++)
            load_group(x + g * 32u, packed, format, AKV_ORDER_ROW, count, dim, r, g);
#ifdef AKV_MAP
        const origin o = origin_of(maps + maps_at, p.map, r % heads, p.position + r / heads);
        map_back(x, dim, &o);
#endif
        if (p.flags & AKV_FLAG_ROTATE)
            rotate_back(x, dim);
        store_row(x, rows, to, p.rows.dtype, dim);
    }
#else
    SWAP_ROOM
    const place at = place_of(dim, false);
    float x[32];
    akv_u32 first = (akv_u32)get_group_id(0) * at.rows, r = first + at.row, begin = at.group * 32u, i;
    akv_u32 length = AKV_MIN(32u, dim - begin);
    bool mine = at.active && r < count;
    akv_u64 to = mine ? akv_page_source(&p.rows, r / heads, r % heads) : 0u;
    if (akv_format_raw(format)) {
        if (mine)
            copy_row(rows, to, p.rows.dtype, packed, (akv_u64)r * dim, format, begin, length);
        return;
    }
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = 0.0f;
    if (akv_format_codebook(format)) {
        /* Local memory gives all work-items different entries at once, constant memory one after the other. */
        __local float *book = swap;
        akv_u8 code[32];
        if (at.item < 2u * akv_levels(format))
            book[at.item] = (float)akv_code_integer(format, at.item);
        barrier(CLK_LOCAL_MEM_FENCE);
        if (mine) {
            float unit = load_codes(code, packed, format, AKV_ORDER_ROW, count, dim, r, at.group);
            AKV_UNROLL
            for (i = 0u; i < 32u; i++)
                x[i] = AKV_FMA(book[code[i]], unit, 0.0f); /* -6 * 0 is +0 too */
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    } else if (mine) {
        load_group(x, packed, format, AKV_ORDER_ROW, count, dim, r, at.group);
    }
#ifdef AKV_MAP
    const origin o = origin_of(maps + maps_at, p.map, r % heads, p.position + r / heads);
    map_group_back(x, &at, mine, dim, &o, swap);
#endif
    if (p.flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_read_factor(dim);
        rotate_groups(x, &at, dim, swap);
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            x[i] = x[i] * factor;
    }
    store_rows(x, &at, mine, all_there(&at, first, count, dim, wide), rows, &p.rows, first, to, dim, swap);
    scrub(swap, at.item);
#endif
}
#endif

#ifdef AKV_ROTATION
__kernel SHAPE void akv_k_rotate(__global const uchar *in, ulong in_at, __global uchar *out, ulong out_at,
                                 const akv_rotate_params p)
{
    akv_u32 dim = DIM_OR(p.dim);
    in += in_at;
    out += out_at;
#ifdef AKV_CPU_SHAPE
    akv_u32 first = (akv_u32)get_group_id(0) * ROWS_PER_ITEM, r, i;
    float x[ROW_MAX];
    for (r = first; r < AKV_MIN(first + ROWS_PER_ITEM, p.rows); r++) {
        if (p.flags & AKV_FLAG_ROTATE) {
            load_sane(x, in, (akv_u64)r * dim, AKV_F32, dim);
            akv_rotate_store(x, dim);
        } else {
            for (i = 0u; i < dim; i++)
                x[i] = akv_as_f32(akv_load_u32(in + ((akv_u64)r * dim + i) * 4u));
            rotate_back(x, dim);
        }
        store_row(x, out, (akv_u64)r * dim, AKV_F32, dim);
    }
#else
    SWAP_ROOM
    const place at = place_of(dim, false);
    float x[32];
    akv_u32 r = (akv_u32)get_group_id(0) * at.rows + at.row, begin = at.group * 32u, i;
    akv_u32 length = AKV_MIN(32u, dim - begin);
    bool mine = at.active && r < p.rows;
    akv_u64 from = (akv_u64)r * dim;
    if (p.flags & AKV_FLAG_ROTATE) {
        read_group(x, &at, mine, in, from, AKV_F32, dim, p.flags, 0u, swap);
    } else {
        float factor = akv_rotate_read_factor(dim);
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            x[i] = mine && i < length ? akv_as_f32(akv_load_u32(in + (from + begin + i) * 4u)) : 0.0f;
        rotate_groups(x, &at, dim, swap);
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            x[i] = x[i] * factor;
    }
    if (mine)
        store_mine(x, out, from + begin, AKV_F32, length, 0u, swap, at.item);
    scrub(swap, at.item);
#endif
}
#endif

#ifdef AKV_SEAL
/* One side of every (move, layer, head); rows are numbered through all of their tiles. */
__kernel SHAPE void akv_k_seal(__global const uchar *layers, ulong layers_at, __global const uchar *moves,
                               ulong moves_at, __global uchar *flags, ulong flags_at,
                               __global const uchar *maps, ulong maps_at, const akv_seal_params p, uint side,
                               uint wide, SLABS)
{
    akv_u32 format = FORMAT_OR(side ? p.v_format : p.k_format), tokens = p.block_tokens;
    akv_u32 dim = DIM_OR(side ? p.v_dim : p.k_dim), how = side ? p.v_flags : p.k_flags, saw = 0u;
    akv_u32 count = p.moves * p.layers * p.kv_heads * tokens;
    __global const akv_seal_layer *layer = (__global const akv_seal_layer *)(layers + layers_at);
    __global const akv_move *move = (__global const akv_move *)(moves + moves_at);
#ifdef AKV_CPU_SHAPE
    akv_u32 first = (akv_u32)get_group_id(0) * ROWS_PER_ITEM, end = AKV_MIN(first + ROWS_PER_ITEM, count);
    akv_u32 last = end - 1u;
#else
    SWAP_ROOM
    const place at = place_of(dim, ORDER == AKV_ORDER_QUAD);
    akv_u32 first = (akv_u32)get_group_id(0) * at.rows + at.row, end = count;
    akv_u32 last = AKV_MIN(first - at.row + at.rows, count) - 1u;
#endif
    akv_u32 row = AKV_MIN(first, last); /* work-items without a row look at the work-group's last one */
    akv_u32 tile_number = row / tokens, head = tile_number % p.kv_heads;
    akv_u32 l = tile_number / p.kv_heads % p.layers, m = tile_number / p.kv_heads / p.layers;
    akv_u32 src_at = (side ? layer[l].src_v : layer[l].src_k) +
                     head * akv_tile_bytes(p.hot_type, tokens, dim);
    akv_u32 dst_at = (side ? layer[l].dst_v : layer[l].dst_k) + head * akv_tile_bytes(format, tokens, dim);
    __global const uchar *src = slab_at(move[m].src, SLAB_NAMES) + src_at;
    __global uchar *tile = slab_at(move[m].dst, SLAB_NAMES) + dst_at;
    akv_u32 t = row % tokens;
#ifdef AKV_MAP
    origin o = origin_of(maps + maps_at, side ? layer[l].v_map : layer[l].k_map, head,
                         move[m].position + t);
#ifndef AKV_CPU_SHAPE
    o.one_map = (first - at.row) / tokens / p.kv_heads == last / tokens / p.kv_heads;
#endif
#endif
#ifdef AKV_CPU_SHAPE
    for (; first < end; first += 4u, t += 4u) { /* a run of rows never leaves its tile */
#ifdef AKV_QUAD
        if (!akv_format_raw(format) && !akv_format_blocks(format)) {
            ROW_VALUES(x);
            ROW_CODES(code[4]);
            akv_u32 i;
            for (i = 0u; i < 4u; i++) {
#ifdef AKV_MAP
                o.position = move[m].position + t + i;
#endif
                READ_ROW(saw, x, src, (akv_u64)(t + i) * dim, p.hot_type, dim, how, &o)
                encode_row(x, format, AKV_ORDER_QUAD, SEARCH, tokens, dim, t + i, tile, code[i]);
            }
            for (i = 0u; i < akv_padded_dim(dim) / 8u; i++)
                put_unit(tile, format, tokens, dim, t >> 2, i, (const akv_u8 *)code[0], (const akv_u8 *)code[1],
                         (const akv_u8 *)code[2], (const akv_u8 *)code[3]);
            if (t + 4u == tokens)
                akv_tile_padding(tile, format, tokens, dim);
            continue;
        }
#endif
        akv_u32 r;
        for (r = t; r < t + 4u; r++) {
#ifdef AKV_MAP
            o.position = move[m].position + r;
#endif
            saw |= write_row(src, (akv_u64)r * dim, p.hot_type, format, tokens, dim, r, how, tile PASS(&o));
        }
    }
#else
    float x[32];
    bool mine = at.active && first < end;
    akv_u32 begin = at.group * 32u;
    if (akv_format_raw(format)) {
        if (mine)
            copy_row(tile, (akv_u64)t * dim, format, src, (akv_u64)t * dim, p.hot_type, begin,
                     AKV_MIN(32u, dim - begin));
    } else {
        saw = read_group(x, &at, mine, src, (akv_u64)t * dim, p.hot_type, dim, how, wide, swap PASS(&o));
        write_group(x, &at, mine, false, format, tokens, dim, t, tile, swap);
    }
    if (mine && t + 1u == tokens && at.group == 0u)
        akv_tile_padding(tile, format, tokens, dim);
#endif
    if (saw)
        atomic_or((volatile __global uint *)(flags + flags_at), saw);
}
#endif

#ifdef AKV_REENCODE
/* One side of every (move, layer, head), as seal.  Without AKV_FORMAT the side keeps its format. */
__kernel SHAPE void akv_k_reencode(__global const uchar *layers, ulong layers_at, __global const uchar *moves,
                                   ulong moves_at, __global uchar *flags, ulong flags_at,
                                   const akv_reencode_params p, uint side, SLABS)
{
    akv_u32 format = FORMAT_OR(side ? p.v_format : p.k_format), source = side ? p.v_source : p.k_source;
    akv_u32 tokens = p.block_tokens, dim = DIM_OR(side ? p.v_dim : p.k_dim), saw = 0u, i;
    akv_u32 count = p.moves * p.layers * p.kv_heads * tokens;
    akv_u32 src_each = akv_tile_bytes(source, tokens, dim), dst_each = akv_tile_bytes(format, tokens, dim);
    __global const akv_seal_layer *layer = (__global const akv_seal_layer *)(layers + layers_at);
    __global const akv_move *move = (__global const akv_move *)(moves + moves_at);
#ifdef AKV_CPU_SHAPE
    akv_u32 first = (akv_u32)get_group_id(0) * ROWS_PER_ITEM, end = AKV_MIN(first + ROWS_PER_ITEM, count);
#else
    SWAP_ROOM
    const place at = place_of(dim, ORDER == AKV_ORDER_QUAD);
    akv_u32 first = (akv_u32)get_group_id(0) * at.rows + at.row, end = count;
#endif
    akv_u32 row = AKV_MIN(first, count - 1u), tile_number = row / tokens, head = tile_number % p.kv_heads;
    akv_u32 l = tile_number / p.kv_heads % p.layers, m = tile_number / p.kv_heads / p.layers;
    __global const uchar *src = slab_at(move[m].src, SLAB_NAMES) +
                                (side ? layer[l].src_v : layer[l].src_k) + head * src_each;
    __global uchar *tile = slab_at(move[m].dst, SLAB_NAMES) + (side ? layer[l].dst_v : layer[l].dst_k) +
                           head * dst_each;
    akv_u32 t = row % tokens;
#ifndef AKV_FORMAT /* every work-item of a tile copies its share */
    __global const uint4 *from = (__global const uint4 *)src;
    __global uint4 *to = (__global uint4 *)tile;
#ifdef AKV_CPU_SHAPE
    for (i = t / ROWS_PER_ITEM; i < dst_each / 16u; i += tokens / ROWS_PER_ITEM)
        to[i] = from[i];
#else
    if (at.active && first < end)
        for (i = t * at.groups + at.group; i < dst_each / 16u; i += tokens * at.groups)
            to[i] = from[i];
#endif
#elif defined(AKV_CPU_SHAPE)
    for (; first < end; first += 4u, t += 4u) {
        float value[ROW_MAX];
        ROW_VALUES(x);
        ROW_CODES(code[4]);
        akv_u32 k;
        for (k = 0u; k < 4u; k++) {
            if (akv_format_raw(source))
                for (i = 0u; i < dim; i++)
                    value[i] = akv_as_f32(akv_load_bits(src, (akv_u64)(t + k) * dim + i, source));
            else
                for (i = 0u; i < akv_padded_dim(dim) / 32u; i++)
                    load_group(value + i * 32u, src, source, ORDER, tokens, dim, t + k, i);
            saw |= take_row(x, value, dim);
            if (akv_format_blocks(format)) {
                put_blocks(x, format, dim, t + k, tile);
                continue;
            }
            encode_row(x, format, ORDER, SEARCH, tokens, dim, t + k, tile, code[k]);
#ifndef AKV_QUAD
            put_row(tile, format, tokens, dim, t + k, code[k]);
#endif
        }
#ifdef AKV_QUAD
        for (i = 0u; !akv_format_blocks(format) && i < akv_padded_dim(dim) / 8u; i++)
            put_unit(tile, format, tokens, dim, t >> 2, i, (const akv_u8 *)code[0], (const akv_u8 *)code[1],
                     (const akv_u8 *)code[2], (const akv_u8 *)code[3]);
#endif
        if (t + 4u == tokens)
            akv_tile_padding(tile, format, tokens, dim);
    }
#else
    float x[32];
    bool mine = at.active && first < end;
    akv_u32 begin = at.group * 32u, length = AKV_MIN(32u, dim - begin);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = 0.0f;
    if (mine && akv_format_raw(source)) {
        saw = load_mine(x, src, (akv_u64)t * dim + begin, source, length, 1u, swap, at.item);
    } else if (mine) {
        load_group(x, src, source, ORDER, tokens, dim, t, at.group);
        AKV_UNROLL
        for (i = 0u; i < 32u; i++) {
            akv_u32 bits = i < length ? akv_as_u32(x[i]) : 0u;
            saw |= akv_saw(bits);
            x[i] = akv_as_f32(akv_sane(bits));
        }
    }
    write_group(x, &at, mine, false, format, tokens, dim, t, tile, swap);
    if (mine && t + 1u == tokens && at.group == 0u)
        akv_tile_padding(tile, format, tokens, dim);
#endif
    if (saw)
        atomic_or((volatile __global uint *)(flags + flags_at), saw);
}
#endif

#ifdef AKV_SHIFT
/* An element of my row, from the work-item that has it. */
#define SHIFT_ELEMENT(i) swap[((i) & 31u) * WG + at.item - at.group + ((i) >> 5)]

/* Keys of blocks of one kind, in place; rows are numbered through all tiles of all blocks of the table. */
__kernel SHAPE void akv_k_shift(__global const uchar *table, ulong table_at, __global uchar *flags,
                                ulong flags_at, __global const uchar *maps, ulong maps_at,
                                __global const uchar *phases, ulong phases_at, const akv_shift_params p, SLABS)
{
    akv_u32 format = FORMAT_OR(p.format), dim = DIM_OR(p.dim), tokens = p.block_tokens, saw = 0u, i;
    akv_u32 count = p.blocks * p.kv_heads * tokens;
    phases += phases_at;
#ifdef AKV_CPU_SHAPE
    akv_u32 first = (akv_u32)get_group_id(0) * ROWS_PER_ITEM, end = AKV_MIN(first + ROWS_PER_ITEM, count);
#else
    SWAP_ROOM
    const place at = place_of(dim, false);
    akv_u32 first = (akv_u32)get_group_id(0) * at.rows + at.row;
#endif
    akv_u32 row = AKV_MIN(first, count - 1u), head = row / tokens % p.kv_heads, t = row % tokens;
    akv_u32 entry = ((__global const akv_u32 *)(table + table_at))[row / tokens / p.kv_heads];
    bool held = entry != AKV_NO_BLOCK && entry >> 28 == p.kind;
    __global uchar *tile = slab0;
    if (held)
        tile = slab_at(akv_block_address(&p.pool, entry), SLAB_NAMES) + p.offset +
               head * akv_tile_bytes(format, tokens, dim);
#ifdef AKV_MAP
    const origin o = origin_of(maps + maps_at, p.map, head, 0u);
#endif
#ifdef AKV_CPU_SHAPE
    for (; held && first < end; first++, t++) { /* a run of rows never leaves its tile */
        float x[ROW_MAX];
        if (akv_format_raw(format)) {
            saw |= load_sane(x, tile, (akv_u64)t * dim, format, dim);
        } else {
            for (i = 0u; i < akv_padded_dim(dim) / 32u; i++)
                load_group(x + i * 32u, tile, format, AKV_ORDER_ROW, tokens, dim, t, i);
#ifdef AKV_MAP
            linear_back(x, dim, &o);
#else
            if (p.flags & AKV_FLAG_ROTATE)
                rotate_back(x, dim);
#endif
        }
        for (i = 0u; i < p.pairs; i++) {
            akv_turn turn = akv_rope_turn(akv_shift_phase(phases, i));
            akv_u32 a = p.rope == AKV_ROPE_HALF ? i : 2u * i, b = p.rope == AKV_ROPE_HALF ? i + p.pairs : 2u * i + 1u;
            float u = x[a], v = x[b];
            x[a] = akv_rope_first(turn, u, v);
            x[b] = akv_rope_second(turn, u, v);
        }
        for (i = 0u; i < dim; i++)
            x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i])));
        if (akv_format_raw(format)) {
            store_row(x, tile, (akv_u64)t * dim, format, dim);
            continue;
        }
        float y[ROW_MAX];
        ROW_VALUES(z);
        ROW_CODES(code);
        for (i = 0u; i < dim; i++)
            y[i] = x[i];
#ifdef AKV_MAP
        linear_store(y, x, dim, &o);
#else
        if (p.flags & AKV_FLAG_ROTATE)
            akv_rotate_store(y, dim);
#endif
        take_row(z, y, dim);
        if (akv_format_blocks(format)) {
            put_blocks(z, format, dim, t, tile);
        } else {
            encode_row(z, format, AKV_ORDER_ROW, SEARCH, tokens, dim, t, tile, code);
            put_row(tile, format, tokens, dim, t, code);
        }
    }
#else
    float x[32];
    bool mine = at.active && first < count && held;
    akv_u32 begin = at.group * 32u, length = AKV_MIN(32u, dim - begin);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = 0.0f;
    if (mine && akv_format_raw(format))
        saw = load_mine(x, tile, (akv_u64)t * dim + begin, format, length, 0u, swap, at.item);
    else if (mine)
        load_group(x, tile, format, AKV_ORDER_ROW, tokens, dim, t, at.group);
    if (!akv_format_raw(format)) {
#ifdef AKV_MAP
        linear_group_back(x, &at, mine, dim, &o, swap);
#else
        if (p.flags & AKV_FLAG_ROTATE) {
            float factor = akv_rotate_read_factor(dim);
            rotate_groups(x, &at, dim, swap);
            AKV_UNROLL
            for (i = 0u; i < 32u; i++)
                x[i] = x[i] * factor;
        }
#endif
    }
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        swap[i * WG + at.item] = x[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = 0u; mine && i < length; i++) {
        akv_pair_place pair = akv_pair_of(p.pairs, p.rope, begin + i);
        if (pair.paired) {
            akv_turn turn = akv_rope_turn(akv_shift_phase(phases, pair.pair));
            float u = SHIFT_ELEMENT(pair.first), v = SHIFT_ELEMENT(pair.second);
            x[i] = begin + i == pair.first ? akv_rope_first(turn, u, v) : akv_rope_second(turn, u, v);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = i < length ? akv_as_f32(akv_sane(akv_as_u32(x[i]))) : 0.0f;
    if (akv_format_raw(format)) {
        if (mine)
            store_mine(x, tile, (akv_u64)t * dim + begin, format, length, 0u, swap, at.item);
        scrub(swap, at.item);
    } else {
#ifdef AKV_MAP
        linear_group_store(x, &at, mine, dim, &o, swap);
#else
        turn_group(x, &at, dim, p.flags, swap);
#endif
        write_group(x, &at, mine, false, format, tokens, dim, t, tile, swap);
    }
#endif
    if (saw)
        atomic_or((volatile __global uint *)(flags + flags_at), saw);
}
#endif
