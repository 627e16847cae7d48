/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU shape's encoder in vectors of 16: the arithmetic of fp.h, rotate.h and quant.h, lane by lane, with
 * the same roundings, hence the same bytes.  Head sizes are multiples of 16, scales span 32 and more. */
#if defined(AKV_CPU_SHAPE) && defined(AKV_VECTORS)
#define VECTORS          (ROW_MAX / 16)
#define ROW_VALUES(name) float16 name[VECTORS]
#define ROW_CODES(name)  uchar16 name[VECTORS]
/* A call would pass vectors through memory. */
#define LANES            static inline __attribute__((always_inline))
/* Lanes p of v, a lane each, p < 16.  LLVM makes one instruction of subscripts, which are no OpenCL C but Clang's
 * (vpermd), and of what PoCL has for shuffle() a load for each lane. */
#define LANES_OF(v, p) v[p.s0], v[p.s1], v[p.s2], v[p.s3], v[p.s4], v[p.s5], v[p.s6], v[p.s7]
LANES uint16 picked(uint16 v, uint16 p)
{
#if defined(__AVX512F__)
    return (uint16)(LANES_OF(v, p.lo), LANES_OF(v, p.hi));
#elif defined(__AVX2__)
    const uint16 q = p & 7u;
    const uint8 a = v.lo, b = v.hi, q0 = q.lo, q1 = q.hi;
    return p > 7u ? (uint16)(LANES_OF(b, q0), LANES_OF(b, q1)) : (uint16)(LANES_OF(a, q0), LANES_OF(a, q1));
#else
    return shuffle(v, p);
#endif
}
static inline akv_u32 largest(uint16 v)
{
    uint8 a = max(v.lo, v.hi);
    uint4 b = max(a.lo, a.hi);
    uint2 c = max(b.lo, b.hi);
    return max(c.x, c.y);
}
/* Sane lanes, unless a magnitude is beyond 2^100: largest ones are kept in *top. */
LANES float16 calm_lanes(uint16 bits, uint16 *top)
{
    uint16 a = bits & 0x7FFFFFFFu;
    *top = max(*top, a);
    return as_float16(a < AKV_TINY_BITS ? (uint16)0u : bits);
}
/* Makes the calm lanes of a row sane. */
static inline akv_u32 sane_row(float16 *x, akv_u32 count, uint16 top)
{
    akv_u32 saw = 0u, i;
    if (largest(top) <= AKV_HUGE_BITS)
        return 0u;
    for (i = 0u; i < count; i++) {
        uint16 bits = as_uint16(x[i]), a = bits & 0x7FFFFFFFu;
        int16 nan = a > 0x7F800000u, huge = a > AKV_HUGE_BITS;
        saw |= (any(nan) ? AKV_SAW_NAN : 0u) | (any(huge & ~nan) ? AKV_SAW_HUGE : 0u);
        bits = (bits & 0x80000000u) | min(a, (uint16)AKV_HUGE_BITS);
        x[i] = as_float16(bits & ~as_uint16(nan));
    }
    return saw;
}
/* Sane values of a row, rotated or not, padded with zeros. */
static inline akv_u32 read_row(float16 *x, __global const uchar *base, akv_u64 first, akv_u32 dtype,
                               akv_u32 dim, akv_u32 flags)
{
    akv_u32 count = dim / 16u, saw, i;
    uint16 top = 0u;
    if (dtype == AKV_F32)
        for (i = 0u; i < count; i++)
            x[i] = calm_lanes(vload16(i, (__global const uint *)(base + first * 4u)), &top);
    else if (dtype == AKV_F16)
        for (i = 0u; i < count; i++)
            x[i] = calm_lanes(half_lanes(convert_uint16(vload16(i, (__global const ushort *)(base + first * 2u)))),
                              &top);
    else
        for (i = 0u; i < count; i++)
            x[i] = calm_lanes(convert_uint16(vload16(i, (__global const ushort *)(base + first * 2u))) << 16, &top);
    saw = sane_row(x, count, top);
    if (flags & AKV_FLAG_ROTATE) {
        float factor = akv_rotate_store_factor(dim);
        stages_of(x, dim);
        top = 0u;
        for (i = 0u; i < count; i++)
            x[i] = calm_lanes(as_uint16(x[i] * factor), &top);
        sane_row(x, count, top);
    }
    for (i = count; i < akv_padded_dim(dim) / 16u; i++)
        x[i] = 0.0f;
    return saw;
}
/* The same of a decoded row. */
static inline akv_u32 take_row(float16 *x, const float *row, akv_u32 dim)
{
    akv_u32 count = dim / 16u, i;
    uint16 top = 0u;
    for (i = 0u; i < count; i++)
        x[i] = calm_lanes(as_uint16(vload16(i, row)), &top);
    for (i = count; i < akv_padded_dim(dim) / 16u; i++)
        x[i] = 0.0f;
    return sane_row(x, count, top);
}
/* Nearest integer, ties to even, |x| < 2^22: the sum rounds at the units. */
LANES int16 nearest(float16 x)
{
    return as_int16(x + 0x1.8p23f) - 0x4B400000;
}
/* akv_ue5m3_from_f32 and akv_f32_from_ue5m3. */
LANES uint8 scale_lanes(float8 x)
{
    uint8 bits = as_uint8(x), large = (bits - 0x38000000u + 0x7FFFFu + ((bits >> 20) & 1u)) >> 20;
    uint8 small = as_uint8(x * 0x1p17f + 0x1.8p23f) - 0x4B400000u;
    return bits >= 0x38800000u ? min(large, (uint8)0xF7u) : small;
}
LANES float8 value_lanes(uint8 s)
{
    return s < 8u ? convert_float8(as_int8(s)) * 0x1p-17f : as_float8((s << 20) + 0x38000000u);
}
/* Distances to the nearest level, of either sign.  twice: 2n; sum, gap: of each level and the next one.  Levels 2j
 * and 2j + 1 are a pair; of the pairs a half is left each time, and of the last one the nearer level is
 * ||2n - sum| - gap| / 2 away. */
LANES int16 distance_lanes(int16 twice, int16 sum, int16 gap, akv_u32 levels)
{
    uint16 p = 0u;
    if (levels > 8u)
        p = twice > sum.s7 ? p + 8u : p;
    if (levels > 4u)
        p = twice > as_int16(picked(as_uint16(sum.s3456789abcdeffff), p)) ? p + 4u : p;
    if (levels > 2u)
        p = twice > as_int16(picked(as_uint16(sum.s123456789abcdeff), p)) ? p + 2u : p;
    twice -= as_int16(picked(as_uint16(sum), p));
    return (max(twice, -twice) - as_int16(picked(as_uint16(gap), p))) >> 1;
}
/* akv_search_scale of at most FOUR groups, of which scale[] holds the amax.  Loop by loop, for long chains of dependent
 * vectors fill a processor's schedulers. */
#define FOUR 4u
static inline void search_groups(const float16 *x, akv_u32 groups, akv_u32 format, akv_u32 *scale)
{
    const akv_u32 levels = akv_levels(format);
    const float16 book = convert_float16(vload16(0, akv_codebook + levels - 2u)); /* 16 from any of them on are there */
    akv_u32 wanted[FOUR * 8 + 1], of[FOUR * 8 + 1], part[FOUR * 8 * 4], error[FOUR * 8], count = 0u, g, m, i;
    akv_u64 least[FOUR]; /* error, candidate, scale */
    float step[FOUR * 8 + 1];
    int16 twice[FOUR * 2], sum[FOUR * 8], gap[FOUR * 8];
    for (g = 0u; g < groups; g++) {
        const akv_u32 amax = scale[g];
        const float unit = amax == 0u ? 0.0f : akv_as_f32((266u - (amax >> 23)) << 23); /* 2^(12-e) */
        const uint8 s = scale_lanes(akv_as_f32(amax) * vload8(format - AKV_N5, akv_candidate[0]));
        akv_u32 each[8];
        float value[8];
        akv_u64 seen = 0u;
        vstore8(s, 0, each);
        vstore8(value_lanes(s) * (0x1p-7f * unit), 0, value);
        /* The same scale has the same error, which is not less; all are within 16. */
        _Pragma("unroll")
        for (m = 0u; m < AKV_CANDIDATES; m++) {
            akv_u64 bit = (akv_u64)1u << (each[m] & 63u);
            wanted[count] = each[m];
            step[count] = value[m];
            of[count] = g;
            count += seen & bit ? 0u : 1u;
            seen |= bit;
        }
        twice[2u * g] = nearest(fabs(x[2u * g]) * unit) << 1;
        twice[2u * g + 1u] = nearest(fabs(x[2u * g + 1u]) * unit) << 1;
        least[g] = ~(akv_u64)0u;
    }
    for (i = 0u; i < count; i++) {
        /* akv_search_level of all levels, at most 2^14: a scale is at most twice the amax that it was made of.  The
         * product is exact, and the sum where it matters: below 2^-2 it cannot come to 1. */
        const int16 r = convert_int16(book * step[i] + 0.5f), next = r.s123456789abcdeff;
        sum[i] = r + next;
        gap[i] = next - r;
    }
    for (i = 0u; i < count; i++) {
        const int16 a = distance_lanes(twice[2u * of[i]], sum[i], gap[i], levels);
        const int16 b = distance_lanes(twice[2u * of[i] + 1u], sum[i], gap[i], levels);
        const uint16 squares = as_uint16(a * a + b * b);
        const uint8 eight = squares.lo + squares.hi;
        vstore4(eight.lo + eight.hi, i, part);
    }
    for (i = 0u; i < count; i += 4u) {
        const uint16 four = vload16(i / 4u, part);
        const uint8 two = four.even + four.odd;
        vstore4(two.even + two.odd, i / 4u, error);
    }
    for (i = 0u; i < count; i++)
        least[of[i]] = min(least[of[i]], (akv_u64)error[i] << 32 | i << 8 | wanted[i]);
    for (g = 0u; g < groups; g++)
        scale[g] = (akv_u32)least[g] & 0xFFu;
}
/* akv_codebook_codes, half a group: of the thresholds a half is left each time.  threshold: as thresholds_of. */
LANES uchar16 codebook_lanes(float16 x, akv_u32 scale, akv_u32 levels, uint16 threshold)
{
    const uint16 z = rotate(as_uint16(x), (uint16)1u), odd = z ^ 1u;
    uint16 p = 0u;
    if (levels > 8u)
        p = odd > threshold.s7 ? p + 8u : p;
    if (levels > 4u)
        p = odd > picked(threshold.s3456789abcdeffff, p) ? p + 4u : p;
    if (levels > 2u)
        p = odd > picked(threshold.s123456789abcdeff, p) ? p + 2u : p;
    /* Not p + 1 and p: of the zero extension of truth values that LLVM makes of it, Oclgrind 21.10 makes 255. */
    p = (z > picked(threshold, p) ? p : p - 1u) + levels + 1u;
    return convert_uchar16(p ^ (as_uint16(as_int16(x) >> 31) & (scale == 0u ? 0u : 2u * levels - 1u)));
}
/* The thresholds of a scale; none is below one where the scale is 0. */
LANES uint16 thresholds_of(akv_u32 scale, akv_u32 format)
{
    const uint16 book = convert_uint16(vload16(0, akv_codebook + akv_levels(format) - 2u)); /* in the table */
    const float unit = akv_f32_from_ue5m3(scale) * 0x1p-8f;
    return as_uint16(convert_float16(book + book.s123456789abcdeff) * unit) << 1 | (scale == 0u ? 0xFFFFFFFFu : 0u);
}
/* akv_group_codes of the other formats, 16 elements. */
LANES uchar16 uniform_lanes(float16 x, akv_u32 scale, akv_u32 format)
{
    akv_reciprocal r = akv_reciprocal_of(akv_scale_value(format, scale));
    float16 t = fma(x, (float16)r.hi, x * r.lo);
    float limit = format == AKV_I8 ? 127.0f : 31.0f;
    akv_u32 j;
    if (akv_format_e4m3(format)) {
        float v[16];
        akv_u8 c[16];
        vstore16(t, 0, v);
        for (j = 0u; j < 16u; j++)
            c[j] = v[j] == 0.0f ? 0 : (akv_u8)akv_e4m3_from_f32(akv_as_u32(v[j]));
        return vload16(0, c);
    }
    return convert_uchar16(as_uint16(nearest(clamp(t, -limit, limit)) + (format == AKV_I8 ? 0 : 32)) & 255u);
}
/* Codes of a row, 32 for each group; its scales go to the tile. */
static inline void encode_row(const float16 *x, akv_u32 format, akv_u32 order, akv_u32 search,
                              akv_u32 tokens, akv_u32 dim, akv_u32 t, __global uchar *tile, uchar16 *code)
{
    akv_u32 count = akv_padded_dim(dim) / 16u, width = akv_scale_width(format) / 16u, s, i;
    akv_u32 scale[VECTORS / 2];
    for (s = 0u; s < akv_scale_count(format, dim); s++) {
        akv_u32 first = s * width, end = AKV_MIN(first + width, count);
        uint16 a = 0u;
        for (i = first; i < end; i++)
            a = max(a, as_uint16(x[i]) & 0x7FFFFFFFu);
        scale[s] = largest(a);
        if (!akv_format_codebook(format))
            scale[s] = akv_uniform_scale(scale[s], format);
        else if (!search)
            scale[s] = akv_codebook_scale(scale[s], format, 0u);
    }
    if (akv_format_codebook(format) && search)
        for (s = 0u; s < count / 2u; s += FOUR)
            search_groups(x + 2u * s, AKV_MIN(FOUR, count / 2u - s), format, scale + s);
    for (s = 0u; s < akv_scale_count(format, dim); s++) {
        akv_u32 first = s * width, end = AKV_MIN(first + width, count);
        akv_scale_put(tile, format, order, tokens, dim, t, s, scale[s]);
        if (akv_format_codebook(format)) {
            const uint16 threshold = thresholds_of(scale[s], format);
            code[first] = codebook_lanes(x[first], scale[s], akv_levels(format), threshold);
            code[first + 1u] = codebook_lanes(x[first + 1u], scale[s], akv_levels(format), threshold);
        } else {
            for (i = first; i < end; i++)
                code[i] = uniform_lanes(x[i], scale[s], format);
        }
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
