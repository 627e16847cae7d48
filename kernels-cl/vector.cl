/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU shape's encoder in vectors of 16: the arithmetic of fp.h, rotate.h and quant.h, lane by lane, with
 * the same roundings, hence the same bytes.  Head sizes are multiples of 16, scales span 32 and more. */
#if defined(AKV_CPU_SHAPE) && defined(AKV_VECTORS)
#define VECTORS          (ROW_MAX / 16)
#define ROW_VALUES(name) float16 name[VECTORS]
#define ROW_CODES(name)  uchar16 name[VECTORS]

/* What the lanes saw, as all-ones masks. */
typedef struct seen {
    int16 nan, huge;
} seen;

static inline float16 sane_lanes(uint16 bits, seen *saw)
{
    uint16 a = bits & 0x7FFFFFFFu;
    int16 nan = a > 0x7F800000u, huge = a > AKV_HUGE_BITS, tiny = a < AKV_TINY_BITS;
    saw->nan |= nan;
    saw->huge |= huge & ~nan;
    bits = (bits & 0x80000000u) | min(a, (uint16)AKV_HUGE_BITS);
    return as_float16(bits & ~as_uint16(nan | tiny));
}
/* Sane values of a row, rotated or not, padded with zeros. */
static inline akv_u32 read_row(float16 *x, __global const uchar *base, akv_u64 first, akv_u32 dtype,
                               akv_u32 dim, akv_u32 flags)
{
    akv_u32 count = dim / 16u, i;
    seen saw, ignored;
    saw.nan = saw.huge = 0;
    if (dtype == AKV_F32)
        for (i = 0u; i < count; i++)
            x[i] = sane_lanes(vload16(i, (__global const uint *)(base + first * 4u)), &saw);
    else if (dtype == AKV_F16)
        for (i = 0u; i < count; i++)
            x[i] = sane_lanes(
                half_lanes(convert_uint16(vload16(i, (__global const ushort *)(base + first * 2u)))), &saw);
    else
        for (i = 0u; i < count; i++)
            x[i] = sane_lanes(
                convert_uint16(vload16(i, (__global const ushort *)(base + first * 2u))) << 16, &saw);
    if (flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_store_factor(dim);
        stages_of(x, dim);
        ignored = saw;
        for (i = 0u; i < count; i++)
            x[i] = sane_lanes(as_uint16(x[i] * factor), &ignored);
    }
    for (i = count; i < akv_padded_dim(dim) / 16u; i++)
        x[i] = 0.0f;
    return (any(saw.nan) ? AKV_SAW_NAN : 0u) | (any(saw.huge) ? AKV_SAW_HUGE : 0u);
}
/* The same of a decoded row. */
static inline akv_u32 take_row(float16 *x, const float *row, akv_u32 dim)
{
    akv_u32 count = dim / 16u, i;
    seen saw;
    saw.nan = saw.huge = 0;
    for (i = 0u; i < count; i++)
        x[i] = sane_lanes(as_uint16(vload16(i, row)), &saw);
    for (i = count; i < akv_padded_dim(dim) / 16u; i++)
        x[i] = 0.0f;
    return (any(saw.nan) ? AKV_SAW_NAN : 0u) | (any(saw.huge) ? AKV_SAW_HUGE : 0u);
}
static inline akv_u32 largest(uint16 v)
{
    uint8 a = max(v.lo, v.hi);
    uint4 b = max(a.lo, a.hi);
    uint2 c = max(b.lo, b.hi);
    return max(c.x, c.y);
}
static inline akv_u32 added(uint16 v)
{
    uint8 a = v.lo + v.hi;
    uint4 b = a.lo + a.hi;
    uint2 c = b.lo + b.hi;
    return c.x + c.y;
}
/* Nearest integer, ties to even, |x| < 2^22: the sum rounds at the units. */
static inline int16 nearest(float16 x)
{
    return as_int16(x + 0x1.8p23f) - 0x4B400000;
}
/* akv_search_level of all levels, a lane each; below 2^15. */
static inline short16 level_lanes(akv_u32 s, uint16 c, akv_u32 exponent)
{
    akv_u32 m = s < 8u ? s : 8u + (s & 7u);
    akv_i32 q = s < 8u ? -17 : (akv_i32)(s >> 3) - 18, shift = q + 5 + 127 - (akv_i32)exponent;
    if (shift >= 0)
        return convert_short16((c * m) << (uint)shift);
    if (shift < -31)
        return 0;
    return convert_short16((c * m + (1u << (-shift - 1))) >> (uint)-shift);
}
/* akv_search_scale. */
static inline akv_u32 search_lanes(float16 x0, float16 x1, akv_u32 amax, akv_u32 format)
{
    akv_u32 levels = akv_levels(format), exponent = amax >> 23, best = 0u, best_error = 0xFFFFFFFFu;
    akv_u32 previous = 256u, m, j;
    float unit = akv_as_f32((266u - exponent) << 23);
    if (amax == 0u)
        return 0u;
    uint16 book = 0u;
    for (j = 0u; j < levels; j++)
        ((akv_u32 *)&book)[j] = akv_codebook[levels - 2u + j];
    short16 n0 = convert_short16(nearest(fabs(x0) * unit)), n1 = convert_short16(nearest(fabs(x1) * unit));
    for (m = 0u; m < AKV_CANDIDATES; m++) {
        akv_u32 s = akv_codebook_scale(amax, format, m), error;
        ushort16 least0 = 0xFFFF, least1 = 0xFFFF;
        if (s == previous)
            continue;
        previous = s;
        short r[16];
        vstore16(level_lanes(s, book, exponent), 0, r);
        for (j = 0u; j < levels; j++) {
            least0 = min(least0, as_ushort16(max(n0 - r[j], r[j] - n0)));
            least1 = min(least1, as_ushort16(max(n1 - r[j], r[j] - n1)));
        }
        uint16 a = convert_uint16(least0), b = convert_uint16(least1);
        error = added(a * a + b * b);
        if (error < best_error) {
            best_error = error;
            best = s;
        }
    }
    return best;
}
/* akv_group_codes, half a group. */
static inline uchar16 code_lanes(float16 x, akv_u32 scale, akv_u32 format, const akv_u32 *threshold)
{
    akv_u32 levels, j;
    akv_i32 kept;
    if (akv_format_e4m3(format)) {
        akv_reciprocal r = akv_reciprocal_of(akv_scale_value(format, scale));
        float v[16];
        akv_u8 c[16];
        vstore16(fma(x, (float16)r.hi, x * r.lo), 0, v);
        for (j = 0u; j < 16u; j++)
            c[j] = v[j] == 0.0f ? 0 : (akv_u8)akv_e4m3_from_f32(akv_as_u32(v[j]));
        return vload16(0, c);
    }
    if (!akv_format_codebook(format)) {
        akv_reciprocal r = akv_reciprocal_of(akv_scale_value(format, scale));
        float limit = format == AKV_I8 ? 127.0f : 31.0f;
        float16 t = fma(x, (float16)r.hi, x * r.lo);
        return convert_uchar16(as_uint16(nearest(clamp(t, -limit, limit)) + (format == AKV_I8 ? 0 : 32)) &
                               255u);
    }
    /* p counts downward: of what clang makes of `p -= a > b`, a zero extension of truth values, Oclgrind
     * 21.10 makes 255 for each. */
    levels = akv_levels(format);
    int16 negative = x < 0.0f, p = 0, code; /* sane values have no -0 */
    uint16 a = as_uint16(x) & 0x7FFFFFFFu;
    uint16 even = a - as_uint16(negative), odd = a + 1u + as_uint16(negative);
    for (j = 0u; j + 1u < levels; j += 2u)
        p += even > threshold[j];
    for (j = 1u; j + 1u < levels; j += 2u)
        p += odd > threshold[j];
    code = select((int16)((int)levels) - p, (int16)((int)levels - 1) + p, negative);
    kept = scale == 0u ? 0 : -1;
    return convert_uchar16((code & kept) | ((int)levels & ~kept));
}
/* Codes of a row, 32 for each group; its scales go to the tile. */
static inline void encode_row(const float16 *x, akv_u32 format, akv_u32 order, akv_u32 search,
                              akv_u32 tokens, akv_u32 dim, akv_u32 t, __global uchar *tile, uchar16 *code)
{
    akv_u32 count = akv_padded_dim(dim) / 16u, width = akv_scale_width(format) / 16u, s, i, j;
    akv_u32 threshold[16];
    for (s = 0u; s < akv_scale_count(format, dim); s++) {
        akv_u32 first = s * width, end = AKV_MIN(first + width, count), amax, scale;
        uint16 a = 0u;
        for (i = first; i < end; i++)
            a = max(a, as_uint16(x[i]) & 0x7FFFFFFFu);
        amax = largest(a);
        if (!akv_format_codebook(format)) {
            scale = akv_uniform_scale(amax, format);
        } else {
            scale = search ? search_lanes(x[first], x[first + 1u], amax, format)
                           : akv_codebook_scale(amax, format, 0u);
            float unit = akv_f32_from_ue5m3(scale) * 0x1p-8f;
            akv_u32 levels = akv_levels(format);
            for (j = 0u; j + 1u < levels; j++)
                threshold[j] = akv_as_u32(
                    (float)(akv_i32)(akv_codebook[levels - 2u + j] + akv_codebook[levels - 1u + j]) * unit);
        }
        akv_scale_put(tile, format, order, tokens, dim, t, s, scale);
        for (i = first; i < end; i++)
            code[i] = code_lanes(x[i], scale, format, threshold);
    }
}
/* The codes of a group as words of a plane: neighbours join until they fill bytes. */
static inline void plane_lanes(__global uchar *plane, akv_u32 bits, akv_u32 shift, akv_u32 word, akv_u32 step,
                               uchar16 low, uchar16 high)
{
    akv_u32 mask = (1u << bits) - 1u, w;
    uchar16 c0 = (low >> (uchar)shift) & (uchar)mask, c1 = (high >> (uchar)shift) & (uchar)mask;
    if (bits == 8u) {
        vstore4(as_uint4(c0), 0, (__global uint *)(plane + 4u * word)); /* step is 1 */
        vstore4(as_uint4(c1), 1, (__global uint *)(plane + 4u * word));
        return;
    }
    uchar16 a = (uchar16)(c0.even, c1.even) | (uchar16)(c0.odd, c1.odd) << (uchar)bits;
    if (bits == 4u) {
        uint4 v = as_uint4(a);
        akv_store_u32(plane + 4u * word, v.x);
        akv_store_u32(plane + 4u * (word + step), v.y);
        akv_store_u32(plane + 4u * (word + 2u * step), v.z);
        akv_store_u32(plane + 4u * (word + 3u * step), v.w);
        return;
    }
    uchar8 b = a.even | a.odd << (uchar)(2u * bits);
    if (bits == 2u) {
        uint2 v = as_uint2(b);
        akv_store_u32(plane + 4u * word, v.x);
        akv_store_u32(plane + 4u * (word + step), v.y);
        return;
    }
    w = as_uint(b.even | b.odd << (uchar)4);
    akv_store_u32(plane + 4u * word, w);
}
static inline void put_row(__global uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim, akv_u32 t,
                           const uchar16 *code)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), g;
    for (g = 0u; g < akv_padded_dim(dim) / 32u; g++) {
        plane_lanes(tile, b0, 0u, akv_row_word(b0, dim, t, g), akv_row_step(b0, dim), code[2u * g],
                    code[2u * g + 1u]);
        if (b1)
            plane_lanes(tile + akv_plane1_offset(format, tokens, dim), b1, b0, akv_row_word(b1, dim, t, g),
                        akv_row_step(b1, dim), code[2u * g], code[2u * g + 1u]);
    }
}
/* A row of a block format; x is as encode_row takes it. */
static inline void put_blocks(const float16 *x, akv_u32 format, akv_u32 dim, akv_u32 t, __global uchar *tile)
{
    akv_u32 g;
    for (g = 0u; g < akv_padded_dim(dim) / 32u; g++) {
        akv_u8 block_code[32];
        float v[32];
        vstore16(x[2u * g], 0, v);
        vstore16(x[2u * g + 1u], 1, v);
        akv_u32 scales = akv_block_quantise(v, format, block_code);
        akv_block_put(tile, format, dim, t, g, block_code, scales);
    }
}
#elif defined(AKV_CPU_SHAPE)
/* The same for devices that are no processors, whose compilers are not known to take such vectors well: one
 * element after the other. */
#define ROW_VALUES(name) float name[ROW_MAX]
#define ROW_CODES(name)  akv_u8 name[ROW_MAX]
static inline akv_u32 read_row(float *x, __global const uchar *base, akv_u64 first, akv_u32 dtype,
                               akv_u32 dim, akv_u32 flags)
{
    akv_u32 saw = load_sane(x, base, first, dtype, dim), i;
    if (flags & AKV_FLAG_ROTATE)
        akv_rotate_store(x, dim);
    for (i = dim; i < akv_padded_dim(dim); i++)
        x[i] = 0.0f;
    return saw;
}
static inline akv_u32 take_row(float *x, const float *row, akv_u32 dim)
{
    akv_u32 saw = 0u, i;
    for (i = 0u; i < akv_padded_dim(dim); i++) {
        akv_u32 bits = i < dim ? akv_as_u32(row[i]) : 0u;
        saw |= akv_saw(bits);
        x[i] = akv_as_f32(akv_sane(bits));
    }
    return saw;
}
static inline void encode_row(const float *x, akv_u32 format, akv_u32 order, akv_u32 search, akv_u32 tokens,
                              akv_u32 dim, akv_u32 t, __global uchar *tile, akv_u8 *code)
{
    akv_u32 padded = akv_padded_dim(dim), width = akv_scale_width(format), s, i;
    for (s = 0u; s < akv_scale_count(format, dim); s++) {
        akv_u32 first = s * width, end = AKV_MIN(first + width, padded);
        akv_u32 amax = akv_amax(x + first, end - first, 0u);
        akv_u32 scale = akv_scale_of(x + first, amax, format, search);
        akv_scale_put(tile, format, order, tokens, dim, t, s, scale);
        for (i = first; i < end; i += 32u)
            akv_group_codes(x + i, scale, format, code + i);
    }
}
static inline void put_row(__global uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 dim, akv_u32 t,
                           const akv_u8 *code)
{
    akv_u32 g;
    for (g = 0u; g < akv_padded_dim(dim) / 32u; g++)
        akv_row_put(tile, format, tokens, dim, t, g, code + g * 32u);
}
/* A row of a block format; x is as encode_row takes it. */
static inline void put_blocks(const float *x, akv_u32 format, akv_u32 dim, akv_u32 t, __global uchar *tile)
{
    akv_u32 g;
    for (g = 0u; g < akv_padded_dim(dim) / 32u; g++) {
        akv_u8 block_code[32];
        akv_u32 scales = akv_block_quantise(x + 32u * g, format, block_code);
        akv_block_put(tile, format, dim, t, g, block_code, scales);
    }
}
#endif
