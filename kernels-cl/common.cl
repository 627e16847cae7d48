/* SPDX-License-Identifier: Apache-2.0 */
/* What the shells share: slabs as arguments, a row in one work-item, a row as groups of work-items.
 *
 * Options of a build: AKV_CPU_SHAPE; AKV_FORMAT, AKV_DIM where they are fixed; AKV_MANY_SLABS;
 * AKV_TWO_KINDS where no other kind than 0 and 1 has a format; AKV_SCRUB; AKV_ODD (for tests). */

#define WG            AKV_CL_WG /* one work-item for each 32 elements of a few rows */
#ifdef AKV_MAP
#define ROWS_PER_ITEM ((akv_u32)AKV_CL_MAP_ROWS)
#else
#define ROWS_PER_ITEM ((akv_u32)AKV_CL_ROWS)
#endif
#define COPY_PIECE    ((akv_u32)AKV_CL_PIECE)

#ifdef AKV_DIM
#define DIM_OR(runtime) AKV_DIM
#define ROW_MAX         ((AKV_DIM + 31) / 32 * 32)
#else
#define DIM_OR(runtime) (runtime)
#define ROW_MAX         576
#endif
/* The format of a quantised tile: where a program was built for one, that one. */
#ifdef AKV_FORMAT
#define FORMAT_OR(runtime) AKV_FORMAT
#else
#define FORMAT_OR(runtime) (runtime)
#endif
/* A value by kind of block: compilers keep parameters in registers where the index is fixed. */
#ifdef AKV_TWO_KINDS
#define BY_KIND(array, kind) ((kind) ? (array)[1] : (array)[0])
#else
#define BY_KIND(array, kind) ((array)[kind])
#endif

#ifdef AKV_CPU_SHAPE
#define SHAPE __attribute__((reqd_work_group_size(1, 1, 1)))
#else
#define SHAPE __attribute__((reqd_work_group_size(WG, 1, 1)))
#endif

/* By all work-items of a group; sums: one for each.  The sum of x over `span` neighbours, a power of 2, in the
 * first of them. */
static inline akv_u32 akv_group_sum(__local akv_u32 *sums, akv_u32 x, akv_u32 span)
{
    akv_u32 item = (akv_u32)get_local_id(0), i;
    sums[item] = x;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = span / 2u; i; i >>= 1) {
        if (item % span < i)
            sums[item] += sums[item + i];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return sums[item];
}
/* The sum of x of the work-items before this one, of `items` in the group, a power of 2, and of all. */
static inline akv_u32 akv_group_scan(__local akv_u32 *sums, akv_u32 x, akv_u32 items, akv_u32 *all)
{
    akv_u32 item = (akv_u32)get_local_id(0), sum = x, i;
    for (i = 1u; i < items; i <<= 1) {
        sums[item] = sum;
        barrier(CLK_LOCAL_MEM_FENCE);
        sum += item >= i ? sums[item - i] : 0u;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    sums[item] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    *all = sums[items - 1u];
    barrier(CLK_LOCAL_MEM_FENCE);
    return sum - x;
}

/* The pool: one slab, or up to eight of which the address names one.  Each is a buffer and the offset
 * in it. */
#ifdef AKV_MANY_SLABS
#define SLABS                                                                                      \
    __global uchar *slab0, ulong slab0_at, __global uchar *slab1, ulong slab1_at,                  \
        __global uchar *slab2, ulong slab2_at, __global uchar *slab3, ulong slab3_at,              \
        __global uchar *slab4, ulong slab4_at, __global uchar *slab5, ulong slab5_at,              \
        __global uchar *slab6, ulong slab6_at, __global uchar *slab7, ulong slab7_at
#define SLAB_NAMES                                                                                 \
    slab0, slab0_at, slab1, slab1_at, slab2, slab2_at, slab3, slab3_at, slab4, slab4_at, slab5,    \
        slab5_at, slab6, slab6_at, slab7, slab7_at
static inline __global uchar *slab_at(akv_u64 address, SLABS)
{
    akv_u64 offset = AKV_ADDR_OFFSET(address);
    switch (AKV_ADDR_SLAB(address)) {
    case 0u:
        return slab0 + slab0_at + offset;
    case 1u:
        return slab1 + slab1_at + offset;
    case 2u:
        return slab2 + slab2_at + offset;
    case 3u:
        return slab3 + slab3_at + offset;
    case 4u:
        return slab4 + slab4_at + offset;
    case 5u:
        return slab5 + slab5_at + offset;
    case 6u:
        return slab6 + slab6_at + offset;
    default:
        return slab7 + slab7_at + offset;
    }
}
#else
#define SLABS      __global uchar *slab0, ulong slab0_at
#define SLAB_NAMES slab0, slab0_at
static inline __global uchar *slab_at(akv_u64 address, SLABS)
{
    return slab0 + slab0_at + AKV_ADDR_OFFSET(address);
}
#endif

/* akv_block_address with BY_KIND. */
static inline akv_u64 block_at(const akv_pool_map *map, akv_u32 entry)
{
    akv_u32 kind = entry >> 28, index = entry & 0x0FFFFFFFu, per = BY_KIND(map->blocks_per_chunk, kind);
    akv_u32 chunk = index / per;
    return ((akv_u64)(chunk / map->chunks_per_slab) << 56) |
           ((akv_u64)(chunk % map->chunks_per_slab) * map->chunk_bytes +
            (akv_u64)(index % per) * BY_KIND(map->block_bytes, kind));
}

/* ---- count elements from global memory as sane values; returns the AKV_SAW_* flags ---- */
static inline akv_u32 load_sane(float *x, __global const uchar *base, akv_u64 first, akv_u32 dtype,
                                akv_u32 count)
{
    akv_u32 saw = 0u, i;
    if (dtype == AKV_F32) {
        for (i = 0u; i < count; i++) {
            akv_u32 bits = akv_load_u32(base + (first + i) * 4u);
            saw |= akv_saw(bits);
            x[i] = akv_as_f32(akv_sane(bits));
        }
    } else if (dtype == AKV_F16) {
        for (i = 0u; i < count; i++) {
            akv_u32 bits = akv_f32_from_f16(akv_load_u16(base + (first + i) * 2u));
            saw |= akv_saw(bits);
            x[i] = akv_as_f32(akv_sane(bits));
        }
    } else {
        for (i = 0u; i < count; i++) {
            akv_u32 bits = akv_f32_from_bf16(akv_load_u16(base + (first + i) * 2u));
            saw |= akv_saw(bits);
            x[i] = akv_as_f32(akv_sane(bits));
        }
    }
    return saw;
}
static inline void store_row(const float *x, __global uchar *base, akv_u64 first, akv_u32 dtype,
                             akv_u32 count)
{
    akv_u32 i;
    if (dtype == AKV_F32)
        for (i = 0u; i < count; i++)
            akv_store_u32(base + (first + i) * 4u, akv_as_u32(x[i]));
    else if (dtype == AKV_F16)
        for (i = 0u; i < count; i++)
            akv_store_u16(base + (first + i) * 2u, akv_f16_from_f32(akv_as_u32(x[i])));
    else
        for (i = 0u; i < count; i++)
            akv_store_u16(base + (first + i) * 2u, akv_bf16_from_f32(akv_as_u32(x[i])));
}
/* Raw rows: dtype to dtype, one element after the other. */
static inline void copy_row(__global uchar *dst, akv_u64 dst_first, akv_u32 dst_type,
                            __global const uchar *src, akv_u64 src_first, akv_u32 src_type, akv_u32 first,
                            akv_u32 count)
{
    akv_u32 i;
    for (i = first; i < first + count; i++)
        akv_convert_element(dst, dst_first + i, dst_type, src, src_first + i, src_type);
}
/* Codes of group g of row t of a QUAD tile: 8 dimensions out of each of four units. */
static inline void quad_codes(__global const uchar *plane, akv_u32 bits, akv_u32 shift, akv_u32 tokens,
                              akv_u32 t, akv_u32 g, akv_u8 *code)
{
    akv_u32 u, i, mask = (1u << bits) - 1u;
    AKV_UNROLL
    for (u = 0u; u < 4u; u++) {
        __global const uchar *unit = plane + 4u * akv_quad_word(bits, tokens, t >> 2, g * 4u + u);
        AKV_UNROLL
        for (i = 0u; i < 8u; i++) {
            akv_u32 at = i * 4u * bits; /* bits of four tokens never cross a word */
            akv_u32 word = akv_load_u32(unit + 4u * (at / 32u));
            code[u * 8u + i] |= (akv_u8)(((word >> (at % 32u + (t & 3u) * bits)) & mask) << shift);
        }
    }
}
/* Codes of group g of row t of a tile that has planes; returns the unit of their values. */
static inline float load_codes(akv_u8 *code, __global const uchar *tile, akv_u32 format, akv_u32 order,
                               akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 g)
{
    akv_u32 i, j, b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    akv_u32 scale = akv_scale_get(tile, format, order, tokens, dim, t, g * 32u / akv_scale_width(format));
    if (order == AKV_ORDER_ROW && b0 == 8u) {
        __global const uint4 *from = (__global const uint4 *)(tile + t * akv_padded_dim(dim) + g * 32u);
        uint8 v = (uint8)(from[0], from[1]);
        akv_u32 w[8];
        vstore8(v, 0, w);
        AKV_UNROLL
        for (i = 0u; i < 8u; i++)
            AKV_UNROLL
            for (j = 0u; j < 4u; j++)
                code[i * 4u + j] = (akv_u8)(w[i] >> (j * 8u));
    } else if (order == AKV_ORDER_ROW) {
        akv_row_get(tile, format, tokens, dim, t, g, code);
    } else {
        AKV_UNROLL
        for (i = 0u; i < 32u; i++)
            code[i] = 0;
        quad_codes(tile, b0, 0u, tokens, t, g, code);
        if (b1)
            quad_codes(tile + akv_plane1_offset(format, tokens, dim), b1, b0, tokens, t, g, code);
    }
    return akv_code_unit(format, scale);
}
/* Values of group g of row t of a tile. */
static inline void load_group(float *x, __global const uchar *tile, akv_u32 format, akv_u32 order,
                              akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 g)
{
    akv_u8 code[32];
    akv_u32 i;
    if (akv_format_blocks(format)) {
        akv_block_load(tile, format, dim, t, g, x);
        return;
    }
    float unit = load_codes(code, tile, format, order, tokens, dim, t, g);
#ifdef AKV_CPU_SHAPE
    if (akv_format_codebook(format)) { /* every value once, then look-ups */
        float value[32];
        for (i = 0u; i < 2u * akv_levels(format); i++)
            value[i] = akv_code_value(format, i, unit);
        for (i = 0u; i < 32u; i++)
            x[i] = value[code[i]];
        return;
    }
#endif
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = akv_code_value(format, code[i], unit);
}

#ifdef AKV_CPU_SHAPE
/* ---- CPU shape: conversion of f16 and the rotation of rotate.h in vectors of 16 ---- */
/* Bits of f32 lanes; a NaN stays one, zeros keep their sign.  A subnormal half
 * a * 2^-24 is the exact difference of two normal floats. */
static inline uint16 half_lanes(uint16 h)
{
    uint16 a = h & 0x7FFFu, bits = (a << 13) + 0x38000000u;
    uint16 small = as_uint16(as_float16((a << 13) + 0x38800000u) - 0x1p-14f);
    bits = select(bits, bits + 0x38000000u, a >= 0x7C00u);
    bits = select(bits, small, a < 0x400u);
    return bits | (h & 0x8000u) << 16;
}
/* Stages 1, 2, 4, 8 within a vector: the other lane of each pair, plus or minus mine. */
static inline float16 stages_inside(float16 v)
{
    const uint s = 0x80000000u;
    v = v.s1032547698badcfe + as_float16(as_uint16(v) ^ (uint16)(0, s, 0, s, 0, s, 0, s, 0, s, 0, s, 0, s, 0, s));
    v = v.s23016745ab89efcd + as_float16(as_uint16(v) ^ (uint16)(0, 0, s, s, 0, 0, s, s, 0, 0, s, s, 0, 0, s, s));
    v = v.s45670123cdef89ab + as_float16(as_uint16(v) ^ (uint16)(0, 0, 0, 0, s, s, s, s, 0, 0, 0, 0, s, s, s, s));
    return v.s89abcdef01234567 + as_float16(as_uint16(v) ^ (uint16)(0, 0, 0, 0, 0, 0, 0, 0, s, s, s, s, s, s, s, s));
}
/* All stages of a row, without the factor. */
static inline void stages_of(float16 *x, akv_u32 dim)
{
    akv_u32 count = dim / 16u, n = akv_rotate_block(dim) / 16u, i, j, stride;
    for (i = 0u; i < count; i++)
        x[i] = stages_inside(x[i]);
    for (stride = 1u; stride < n; stride *= 2u)
        for (i = 0u; i < count; i += 2u * stride)
            for (j = i; j < i + stride; j++) {
                float16 a = x[j], b = x[j + stride];
                x[j] = a + b;
                x[j + stride] = a - b;
            }
}
/* akv_rotate_read. */
static inline void rotate_back(float *row, akv_u32 dim)
{
    float16 x[ROW_MAX / 16];
    akv_u32 i;
    for (i = 0u; i < dim / 16u; i++)
        x[i] = vload16(i, row);
    stages_of(x, dim);
    for (i = 0u; i < dim / 16u; i++)
        vstore16(x[i] * akv_rotate_read_factor(dim), i, row);
}
#else
/* ---- GPU shape.  A work-item owns group `group` of row `row` of the work-group; partners of one row
 * exchange through local memory, element-major, so that neighbours touch neighbouring banks. ---- */
/* Floats of a work-item in local memory, exchanged at a time: a whole group (16 KiB of a work-group), or half
 * of one. */
#if defined(AKV_MAP) || defined(AKV_ENCODE) || defined(AKV_DECODE) || defined(AKV_SHIFT)
#define SWAP 32
#else
#define SWAP 16
#endif
/* With maps, MAP_PITCH floats a work-item (mean_group), then two numbers of each. */
#define MAP_PITCH 36u
#ifdef AKV_MAP
#define ROOM (MAP_PITCH * WG + 2 * WG)
#else
#define ROOM (SWAP * WG)
#endif
/* That memory, `swap`.  It is used in pieces of 16 bytes too, which a GPU takes at multiples of 16 bytes only,
 * while an array of floats may begin at any multiple of 4.  AKV_ODD (for tests): it begins as low behind a float
 * as its alignment allows. */
#define IN_PIECES __attribute__((aligned(16)))
#ifdef AKV_ODD
typedef struct odd_room {
    float before;
    float room[ROOM] IN_PIECES;
} odd_room;
#define SWAP_ROOM                                                                                  \
    __local float swap_room[sizeof(odd_room) / 4] __attribute__((aligned(16)));                    \
    __local float *const swap = swap_room + sizeof(odd_room) / 4 - ROOM;
#else
#define SWAP_ROOM __local float swap[ROOM] IN_PIECES;
#endif

typedef struct place {
    akv_u32 item;   /* local id */
    akv_u32 groups; /* of a row */
    akv_u32 rows;   /* in a work-group */
    akv_u32 row, group;
    bool active;
} place;

/* quad: rows are taken in fours. */
static inline place place_of(akv_u32 dim, bool quad)
{
    place at;
    at.item = (akv_u32)get_local_id(0);
    at.groups = akv_padded_dim(dim) / 32u;
    at.rows = quad ? WG / at.groups & ~3u : WG / at.groups;
    at.row = at.item / at.groups;
    at.group = at.item % at.groups;
    at.active = at.row < at.rows;
    return at;
}
/* All stages of the rotation over a row's groups, without the factor. */
static inline void rotate_groups(float *x, const place *at, akv_u32 dim, __local float *swap)
{
    akv_u32 n = akv_rotate_block(dim), stride, part, i;
    if (n > 1u)
        akv_rotate_stage(x, 32u, 1u);
    if (n > 2u)
        akv_rotate_stage(x, 32u, 2u);
    if (n > 4u)
        akv_rotate_stage(x, 32u, 4u);
    if (n > 8u)
        akv_rotate_stage(x, 32u, 8u);
    if (n > 16u)
        akv_rotate_stage(x, 32u, 16u);
    for (stride = 1u; stride < n / 32u; stride *= 2u) {
        akv_u32 other = at->active ? at->item - at->group + (at->group ^ stride) : at->item;
        AKV_UNROLL
        for (part = 0u; part < 32u; part += SWAP) {
            AKV_UNROLL
            for (i = 0u; i < SWAP; i++)
                swap[i * WG + at->item] = x[part + i];
            barrier(CLK_LOCAL_MEM_FENCE);
            AKV_UNROLL
            for (i = 0u; i < SWAP; i++)
                x[part + i] = akv_rotate_pair(x[part + i], swap[i * WG + other], at->group, stride);
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    }
}
/* Largest amax of the groups that share a scale with mine. */
static inline akv_u32 share_amax(akv_u32 amax, const place *at, akv_u32 format, __local float *swap)
{
    akv_u32 width = akv_scale_width(format) / 32u, first = at->group / width * width, i;
    if (width == 1u)
        return amax;
    swap[at->item] = akv_as_f32(amax);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (at->active)
        for (i = first; i < AKV_MIN(first + width, at->groups); i++)
            amax = AKV_MAX(amax, akv_as_u32(swap[at->item - at->group + i]));
    barrier(CLK_LOCAL_MEM_FENCE);
    return amax;
}
/* Leaves nothing of the rows in local memory, for devices that hand it to the next kernel as it is. */
static inline void scrub(__local float *swap, akv_u32 item)
{
#ifdef AKV_SCRUB
    akv_u32 i;
    barrier(CLK_LOCAL_MEM_FENCE);
    AKV_UNROLL
    for (i = 0u; i < SWAP; i++)
        swap[i * WG + item] = 0.0f;
#endif
}
/* Bits of an f16 as bits of an f32, without branches; a NaN stays one.  A subnormal half a * 2^-24 is the exact
 * difference of two normal floats. */
static inline akv_u32 half_bits(akv_u32 h)
{
#ifdef __NV_CL_C_VERSION
    float x;
    ushort bits = (ushort)h;
    __asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return akv_as_u32(x);
#else
    akv_u32 a = h & 0x7FFFu, bits = (a << 13) + 0x38000000u;
    akv_u32 small = akv_as_u32(akv_as_f32((a << 13) + 0x38800000u) - 0x1p-14f);
    bits = a >= 0x7C00u ? bits + 0x38000000u : bits;
    return (a < 0x400u ? small : bits) | (h & 0x8000u) << 16;
#endif
}
static inline akv_u32 tiny_to_zero(akv_u32 bits)
{
    return (bits & 0x7FFFFFFFu) < AKV_TINY_BITS ? 0u : bits;
}
/* ---- the 128 groups of a work-group by way of local memory, so that neighbours touch neighbouring bytes of
 * global memory.  Piece c (16 bytes) of group g stands at g * 8 + (c ^ g % 8): eight neighbours, with one group or
 * with one piece of eight groups, use all banks. ---- */
static inline akv_u32 piece_at(akv_u32 group, akv_u32 piece)
{
    return group * 8u + (piece ^ (group & 7u));
}
/* Have all rows of the work-group whole groups, in memory that takes wide loads?  first: its first row. */
static inline bool all_there(const place *at, akv_u32 first, akv_u32 count, akv_u32 dim, akv_u32 wide)
{
    return wide && dim == at->groups * 32u && first + at->rows <= count;
}
/* Four elements of group `group` of the work-group: their index in the caller's rows. */
static inline akv_u64 fours_at(const place *at, const akv_rows *rows, akv_u32 first, akv_u32 group)
{
    akv_u32 r = first + group / at->groups, e = group % at->groups * 32u + (at->item & 7u) * 4u;
    if (rows->token_stride == rows->heads * rows->head_stride)
        return r * rows->head_stride + e;
    return akv_page_source(rows, r / rows->heads, r % rows->heads) + e;
}
/* All groups into local memory, as sane values; returns what was seen of any group. */
static inline akv_u32 stage_all(const place *at, __global const uchar *base, const akv_rows *rows, akv_u32 first,
                                __local uint4 *pieces)
{
    akv_u32 saw = 0u, top = 0u, group = at->item / 8u, piece = at->item & 7u, k;
    uint4 v[8];
    AKV_UNROLL
    for (k = 0u; k < 8u; k++) { /* groups beyond the last row: the last one once more */
        akv_u64 from = fours_at(at, rows, first, AKV_MIN(k * (WG / 8u) + group, at->rows * at->groups - 1u));
        if (rows->dtype == AKV_F32)
            v[k] = *(__global const uint4 *)(base + from * 4u);
        else
            v[k].xy = *(__global const uint2 *)(base + from * 2u);
    }
    if (rows->dtype != AKV_F32) {
        AKV_UNROLL
        for (k = 0u; k < 8u; k++) {
            uint2 two = v[k].xy;
            v[k] = (uint4)(two.x << 16, two.x & 0xFFFF0000u, two.y << 16, two.y & 0xFFFF0000u);
            if (rows->dtype == AKV_F16)
                v[k] = (uint4)(half_bits(v[k].x >> 16), half_bits(v[k].y >> 16), half_bits(v[k].z >> 16),
                               half_bits(v[k].w >> 16));
        }
    }
    AKV_UNROLL
    for (k = 0u; k < 8u; k++) {
        uint4 a = v[k] & 0x7FFFFFFFu;
        top = max(top, max(max(a.x, a.y), max(a.z, a.w)));
        pieces[piece_at(k * (WG / 8u) + group, piece)] =
            (uint4)(tiny_to_zero(v[k].x), tiny_to_zero(v[k].y), tiny_to_zero(v[k].z), tiny_to_zero(v[k].w));
    }
    if (top > AKV_HUGE_BITS) /* rare */
        for (k = 0u; k < 8u; k++) {
            __local uint4 *mine = pieces + piece_at(k * (WG / 8u) + group, piece);
            uint4 w = *mine;
            saw |= akv_saw(w.x) | akv_saw(w.y) | akv_saw(w.z) | akv_saw(w.w);
            *mine = (uint4)(akv_sane(w.x), akv_sane(w.y), akv_sane(w.z), akv_sane(w.w));
        }
    return saw;
}
/* Element i of my group in local memory. */
#define STAGED(i) ((__local akv_u32 *)pieces)[piece_at(at->item, (i) >> 2) * 4u + ((i) & 3u)]
/* My group of a row as sane values, zeros behind them.  at_row: where the row begins. */
static inline akv_u32 load_rows(float *x, const place *at, bool mine, bool all, __global const uchar *base,
                                const akv_rows *rows, akv_u32 first, akv_u64 at_row, akv_u32 dim,
                                __local float *swap)
{
    __local uint4 *pieces = (__local uint4 *)swap;
    akv_u32 saw = 0u, i, begin = at->group * 32u;
    if (all)
        saw = stage_all(at, base, rows, first, pieces);
    else
        for (i = 0u; i < 32u; i++) {
            akv_u32 bits = 0u;
            if (mine && begin + i < dim)
                bits = akv_load_bits(base, at_row + begin + i, rows->dtype);
            saw |= akv_saw(bits);
            STAGED(i) = akv_sane(bits);
        }
    barrier(CLK_LOCAL_MEM_FENCE);
    AKV_UNROLL
    for (i = 0u; i < 8u; i++) {
        uint4 w = pieces[piece_at(at->item, i)];
        x[i * 4u] = akv_as_f32(w.x);
        x[i * 4u + 1u] = akv_as_f32(w.y);
        x[i * 4u + 2u] = akv_as_f32(w.z);
        x[i * 4u + 3u] = akv_as_f32(w.w);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return saw;
}
/* My group of a row back. */
static inline void store_rows(const float *x, const place *at, bool mine, bool all, __global uchar *base,
                              const akv_rows *rows, akv_u32 first, akv_u64 at_row, akv_u32 dim,
                              __local float *swap)
{
    __local uint4 *pieces = (__local uint4 *)swap;
    akv_u32 group = at->item / 8u, piece = at->item & 7u, begin = at->group * 32u, k;
    AKV_UNROLL
    for (k = 0u; k < 8u; k++)
        pieces[piece_at(at->item, k)] = (uint4)(akv_as_u32(x[k * 4u]), akv_as_u32(x[k * 4u + 1u]),
                                                akv_as_u32(x[k * 4u + 2u]), akv_as_u32(x[k * 4u + 3u]));
    barrier(CLK_LOCAL_MEM_FENCE);
    if (!all && mine)
        for (k = 0u; k < AKV_MIN(32u, dim - begin); k++)
            akv_store_bits(base, at_row + begin + k, rows->dtype, STAGED(k));
    for (; all && group < at->rows * at->groups; group += WG / 8u) {
        uint4 v = pieces[piece_at(group, piece)];
        akv_u64 to = fours_at(at, rows, first, group);
        if (rows->dtype == AKV_F32)
            *(__global uint4 *)(base + to * 4u) = v;
        else if (rows->dtype == AKV_F16)
            *(__global uint2 *)(base + to * 2u) =
                (uint2)(akv_f16_from_f32(v.x) | akv_f16_from_f32(v.y) << 16,
                        akv_f16_from_f32(v.z) | akv_f16_from_f32(v.w) << 16);
        else
            *(__global uint2 *)(base + to * 2u) =
                (uint2)(akv_bf16_from_f32(v.x) | akv_bf16_from_f32(v.y) << 16,
                        akv_bf16_from_f32(v.z) | akv_bf16_from_f32(v.w) << 16);
    }
}
/* A plane of the work-group's codes in a ROW tile, of which mine are row t.  all: its rows, consecutive there,
 * hence consecutive words; else my own row. */
static inline void put_plane(__global uchar *plane, akv_u32 bits, akv_u32 shift, akv_u32 dim, akv_u32 t,
                             const place *at, bool mine, bool all, const akv_u8 *code, __local float *swap)
{
    __local akv_u32 *words = (__local akv_u32 *)swap;
    __local uint4 *pieces = (__local uint4 *)swap;
    akv_u32 to = akv_row_word(bits, dim, t, at->group), total = at->rows * at->groups * bits, w;
    akv_u32 own = akv_row_word(bits, dim, at->row, at->group), step = akv_row_step(bits, dim);
    uint4 low = 0u, high = 0u;
    if (bits == 8u) {
        low = (uint4)(akv_plane_word(code, 8u, 0u, 0u), akv_plane_word(code, 8u, 0u, 1u),
                      akv_plane_word(code, 8u, 0u, 2u), akv_plane_word(code, 8u, 0u, 3u));
        high = (uint4)(akv_plane_word(code, 8u, 0u, 4u), akv_plane_word(code, 8u, 0u, 5u),
                       akv_plane_word(code, 8u, 0u, 6u), akv_plane_word(code, 8u, 0u, 7u));
        if (!all) { /* my words are neighbours: nothing to exchange */
            __global uint4 *row = (__global uint4 *)(plane + 4u * to);
            if (mine) {
                row[0] = low;
                row[1] = high;
            }
            return;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE); /* local memory is read out */
    if (at->active && bits == 8u) {
        pieces[own / 4u] = low;
        pieces[own / 4u + 1u] = high;
    } else if (at->active) {
        AKV_UNROLL
        for (w = 0u; w < bits; w++)
            words[own + w * step] = akv_plane_word(code, bits, shift, w);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const akv_u32 begin = akv_row_word(bits, dim, t - at->row, 0u);
    if (all && ((begin | total) & 3u) == 0u) {
        __global uint4 *first = (__global uint4 *)plane + begin / 4u;
        for (w = at->item; w < total / 4u; w += WG)
            first[w] = pieces[w];
    } else if (mine) {
        for (w = 0u; w < bits; w++)
            akv_store_u32(plane + 4u * (to + w * step), words[own + w * step]);
    }
}
/* A work-item's column of local memory: loops over it may be loops, where a private array must be unrolled. */
#define COLUMN(i) swap[(i) * WG + item]
#if SWAP == 32
static inline void park(const float *x, __local float *swap, akv_u32 item)
{
    akv_u32 i;
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        COLUMN(i) = x[i];
}
static inline void fetch(float *x, __local const float *swap, akv_u32 item)
{
    akv_u32 i;
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        x[i] = COLUMN(i);
}
#endif
/* Elements of my group that exist (the last group of a row may be short), as sane values; zeros
 * behind them.  wide: rows and their groups begin at multiples of 16 bytes. */
static inline akv_u32 load_mine(float *x, __global const uchar *base, akv_u64 first, akv_u32 dtype,
                                akv_u32 count, akv_u32 wide, __local float *swap, akv_u32 item)
{
    akv_u32 saw = 0u, i, j;
    if (count == 32u && wide && dtype == AKV_F32) {
        __global const uint4 *from = (__global const uint4 *)(base + first * 4u);
        AKV_UNROLL
        for (i = 0u; i < 8u; i++) {
            uint4 v = from[i];
            saw |= akv_saw(v.x) | akv_saw(v.y) | akv_saw(v.z) | akv_saw(v.w);
            x[i * 4u] = akv_as_f32(akv_sane(v.x));
            x[i * 4u + 1u] = akv_as_f32(akv_sane(v.y));
            x[i * 4u + 2u] = akv_as_f32(akv_sane(v.z));
            x[i * 4u + 3u] = akv_as_f32(akv_sane(v.w));
        }
        return saw;
    }
    if (count == 32u && wide) {
        __global const uint4 *from = (__global const uint4 *)(base + first * 2u);
        AKV_UNROLL
        for (i = 0u; i < 4u; i++) {
            uint4 v = from[i];
            akv_u32 w[4];
            w[0] = v.x;
            w[1] = v.y;
            w[2] = v.z;
            w[3] = v.w;
            AKV_UNROLL
            for (j = 0u; j < 4u; j++) {
                akv_u32 low = w[j] & 0xFFFFu, high = w[j] >> 16;
                low = dtype == AKV_F16 ? half_bits(low) : akv_f32_from_bf16(low);
                high = dtype == AKV_F16 ? half_bits(high) : akv_f32_from_bf16(high);
                saw |= akv_saw(low) | akv_saw(high);
                x[i * 8u + j * 2u] = akv_as_f32(akv_sane(low));
                x[i * 8u + j * 2u + 1u] = akv_as_f32(akv_sane(high));
            }
        }
        return saw;
    }
#if SWAP == 32
    for (i = 0u; i < 32u; i++) {
        akv_u32 bits = i < count ? akv_load_bits(base, first + i, dtype) : 0u;
        saw |= akv_saw(bits);
        COLUMN(i) = akv_as_f32(akv_sane(bits));
    }
    fetch(x, swap, item);
#else
    AKV_UNROLL
    for (i = 0u; i < 32u; i++) {
        akv_u32 bits = i < count ? akv_load_bits(base, first + i, dtype) : 0u;
        saw |= akv_saw(bits);
        x[i] = akv_as_f32(akv_sane(bits));
    }
#endif
    return saw;
}
static inline void store_mine(const float *x, __global uchar *base, akv_u64 first, akv_u32 dtype,
                              akv_u32 count, akv_u32 wide, __local float *swap, akv_u32 item)
{
    akv_u32 i, j;
    if (count == 32u && wide && dtype == AKV_F32) {
        __global uint4 *to = (__global uint4 *)(base + first * 4u);
        AKV_UNROLL
        for (i = 0u; i < 8u; i++)
            to[i] = (uint4)(akv_as_u32(x[i * 4u]), akv_as_u32(x[i * 4u + 1u]),
                            akv_as_u32(x[i * 4u + 2u]), akv_as_u32(x[i * 4u + 3u]));
        return;
    }
    if (count == 32u && wide) {
        __global uint4 *to = (__global uint4 *)(base + first * 2u);
        AKV_UNROLL
        for (i = 0u; i < 4u; i++) {
            akv_u32 w[4];
            AKV_UNROLL
            for (j = 0u; j < 4u; j++) {
                akv_u32 low = akv_as_u32(x[i * 8u + j * 2u]), high = akv_as_u32(x[i * 8u + j * 2u + 1u]);
                low = dtype == AKV_F16 ? akv_f16_from_f32(low) : akv_bf16_from_f32(low);
                high = dtype == AKV_F16 ? akv_f16_from_f32(high) : akv_bf16_from_f32(high);
                w[j] = low | high << 16;
            }
            to[i] = (uint4)(w[0], w[1], w[2], w[3]);
        }
        return;
    }
#if SWAP == 32
    park(x, swap, item);
    for (i = 0u; i < count; i++)
        akv_store_bits(base, first + i, dtype, akv_as_u32(COLUMN(i)));
#else
    AKV_UNROLL
    for (i = 0u; i < 32u; i++)
        if (i < count)
            akv_store_bits(base, first + i, dtype, akv_as_u32(x[i]));
#endif
}
#endif
