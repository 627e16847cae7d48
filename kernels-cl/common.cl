/* SPDX-License-Identifier: Apache-2.0 */
/* What the shells share: slabs as arguments, a row in one work-item, a row as groups of work-items.
 *
 * Options of a build: AKV_CPU_SHAPE; AKV_FORMAT, AKV_DIM where they are fixed; AKV_MANY_SLABS;
 * AKV_TWO_KINDS where no other kind than 0 and 1 has a format; AKV_SCRUB. */

#define WG            AKV_CL_WG /* one work-item for each 32 elements of a few rows */
#define ROWS_PER_ITEM ((akv_u32)AKV_CL_ROWS)
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
    for (u = 0u; u < 4u; u++) {
        __global const uchar *unit = plane + 4u * akv_quad_word(bits, tokens, t >> 2, g * 4u + u);
        for (i = 0u; i < 8u; i++) {
            akv_u32 at = i * 4u * bits; /* bits of four tokens never cross a word */
            akv_u32 word = akv_load_u32(unit + 4u * (at / 32u));
            code[u * 8u + i] |= (akv_u8)(((word >> (at % 32u + (t & 3u) * bits)) & mask) << shift);
        }
    }
}
/* Values of group g of row t of a tile. */
static inline void load_group(float *x, __global const uchar *tile, akv_u32 format, akv_u32 order,
                              akv_u32 tokens, akv_u32 dim, akv_u32 t, akv_u32 g)
{
    akv_u8 code[32];
    akv_u32 i, j, b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    if (akv_format_blocks(format)) {
        akv_block_load(tile, format, dim, t, g, x);
        return;
    }
    akv_u32 scale = akv_scale_get(tile, format, order, tokens, dim, t, g * 32u / akv_scale_width(format));
    float unit = akv_code_unit(format, scale);
    if (order == AKV_ORDER_ROW && b0 == 8u) {
        __global const uint4 *from = (__global const uint4 *)(tile + t * akv_padded_dim(dim) + g * 32u);
        uint8 v = (uint8)(from[0], from[1]);
        akv_u32 w[8];
        vstore8(v, 0, w);
        for (i = 0u; i < 8u; i++)
            for (j = 0u; j < 4u; j++)
                code[i * 4u + j] = (akv_u8)(w[i] >> (j * 8u));
    } else if (order == AKV_ORDER_ROW) {
        akv_row_get(tile, format, tokens, dim, t, g, code);
    } else {
        for (i = 0u; i < 32u; i++)
            code[i] = 0;
        quad_codes(tile, b0, 0u, tokens, t, g, code);
        if (b1)
            quad_codes(tile + akv_plane1_offset(format, tokens, dim), b1, b0, tokens, t, g, code);
    }
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
    for (i = 0u; i < 32u; i++)
        x[i] = akv_code_value(format, code[i], unit);
}

#ifdef AKV_CPU_SHAPE
/* ---- CPU shape: the rotation of rotate.h in vectors of 16 ---- */
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
#define EXCHANGE 16 /* elements exchanged at a time: 16 * WG * 4 = 8 KiB */

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
        for (part = 0u; part < 32u; part += EXCHANGE) {
            for (i = 0u; i < EXCHANGE; i++)
                swap[i * WG + at->item] = x[part + i];
            barrier(CLK_LOCAL_MEM_FENCE);
            for (i = 0u; i < EXCHANGE; i++)
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
    for (i = 0u; i < EXCHANGE; i++)
        swap[i * WG + item] = 0.0f;
#endif
}
/* Elements of my group that exist (the last group of a row may be short), as sane values; zeros
 * behind them.  wide: rows and their groups begin at multiples of 16 bytes. */
static inline akv_u32 load_mine(float *x, __global const uchar *base, akv_u64 first, akv_u32 dtype,
                                akv_u32 count, akv_u32 wide)
{
    akv_u32 saw = 0u, i, j;
    if (count == 32u && wide && dtype == AKV_F32) {
        __global const uint4 *from = (__global const uint4 *)(base + first * 4u);
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
        for (i = 0u; i < 4u; i++) {
            uint4 v = from[i];
            akv_u32 w[4];
            w[0] = v.x;
            w[1] = v.y;
            w[2] = v.z;
            w[3] = v.w;
            for (j = 0u; j < 4u; j++) {
                akv_u32 low = w[j] & 0xFFFFu, high = w[j] >> 16;
                low = dtype == AKV_F16 ? akv_f32_from_f16(low) : akv_f32_from_bf16(low);
                high = dtype == AKV_F16 ? akv_f32_from_f16(high) : akv_f32_from_bf16(high);
                saw |= akv_saw(low) | akv_saw(high);
                x[i * 8u + j * 2u] = akv_as_f32(akv_sane(low));
                x[i * 8u + j * 2u + 1u] = akv_as_f32(akv_sane(high));
            }
        }
        return saw;
    }
    for (i = 0u; i < 32u; i++) {
        akv_u32 bits = i < count ? akv_load_bits(base, first + i, dtype) : 0u;
        saw |= akv_saw(bits);
        x[i] = akv_as_f32(akv_sane(bits));
    }
    return saw;
}
/* Codes of my group of a ROW tile; bytes in two wide stores. */
static inline void put_mine(__global uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim, akv_u32 t,
                            akv_u32 g, const akv_u8 *code)
{
    akv_u32 i, w[8];
    __global uint4 *to = (__global uint4 *)(tile + t * akv_padded_dim(dim) + g * 32u);
    if (akv_format_plane0(format) != 8u) {
        akv_row_put(tile, format, tokens, dim, t, g, code);
        return;
    }
    for (i = 0u; i < 8u; i++)
        w[i] = akv_plane_word(code, 8u, 0u, i);
    to[0] = (uint4)(w[0], w[1], w[2], w[3]);
    to[1] = (uint4)(w[4], w[5], w[6], w[7]);
}
static inline void store_mine(const float *x, __global uchar *base, akv_u64 first, akv_u32 dtype,
                              akv_u32 count, akv_u32 wide)
{
    akv_u32 i, j;
    if (count == 32u && wide && dtype == AKV_F32) {
        __global uint4 *to = (__global uint4 *)(base + first * 4u);
        for (i = 0u; i < 8u; i++)
            to[i] = (uint4)(akv_as_u32(x[i * 4u]), akv_as_u32(x[i * 4u + 1u]),
                            akv_as_u32(x[i * 4u + 2u]), akv_as_u32(x[i * 4u + 3u]));
        return;
    }
    if (count == 32u && wide) {
        __global uint4 *to = (__global uint4 *)(base + first * 2u);
        for (i = 0u; i < 4u; i++) {
            akv_u32 w[4];
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
    for (i = 0u; i < 32u; i++)
        if (i < count)
            akv_store_bits(base, first + i, dtype, akv_as_u32(x[i]));
}
#endif
