/* SPDX-License-Identifier: Apache-2.0 */
/* One row or quad at a time in 256-bit vectors: the same bytes as k_quant_scalar.h.
 *
 * Why the same: sums and products are the same correctly rounded operations on the same operands;
 * x * 1 + y in one fused step is the sum; codes come from the exact quotient test of quant.h, ties
 * decided by where the quotient is an integer; the search counts in the same integers.  Values beyond
 * 2^90, saturated scales and other rarities go to the scalar code. */
#ifndef AKV_K_QUANT_X86_H
#define AKV_K_QUANT_X86_H
#include "k_quant_scalar.h"
#include <immintrin.h>

#define X_INLINE static inline __attribute__((always_inline))

#define X_LARGE_BITS 0x6C800000u /* 2^90: below it, no rotation can reach 2^100 */

/* ---- rows in and out ---- */

/* Eight elements as f32 bits. */
X_INLINE __m256 x_load8(const uint8_t *src, uint32_t i, uint32_t dtype)
{
    if (dtype == AKV_F32)
        return _mm256_loadu_ps((const float *)(const void *)(src + 4u * i));
    __m128i h = _mm_loadu_si128((const void *)(src + 2u * i));
    if (dtype == AKV_F16)
        return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
X_INLINE void x_store8(uint8_t *dst, uint32_t i, uint32_t dtype, __m256 v)
{
    if (dtype == AKV_F32) {
        _mm256_storeu_ps((float *)(void *)(dst + 4u * i), v);
        return;
    }
    if (dtype == AKV_F16) {
        _mm_storeu_si128((void *)(dst + 2u * i), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
        return;
    }
    __m256i u = _mm256_castps_si256(v), upper = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i round = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    round = _mm256_blendv_epi8(_mm256_srli_epi32(round, 16),
                               _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
    round = _mm256_permute4x64_epi64(_mm256_packus_epi32(round, round), 0x08);
    _mm_storeu_si128((void *)(dst + 2u * i), _mm256_castsi256_si128(round));
}

X_INLINE uint32_t x_max8(__m256i v) /* largest of eight non-negative */
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}
X_INLINE __m256i x_abs(__m256 v)
{
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFFFFFF));
}
/* v, with what is below 2^-24 as +0; a is x_abs(v). */
X_INLINE __m256 x_tiny(__m256 v, __m256i a)
{
    __m256i keep = _mm256_cmpgt_epi32(a, _mm256_set1_epi32((int)AKV_TINY_BITS - 1));
    return _mm256_and_ps(v, _mm256_castsi256_ps(keep));
}
/* Sane values of a row, unless the returned largest magnitude is beyond X_LARGE_BITS. */
X_INLINE uint32_t x_load_type(const uint8_t *src, uint32_t dtype, uint32_t dim, float *row)
{
    __m256i largest = _mm256_setzero_si256();

    for (uint32_t i = 0; i < dim; i += 8u) {
        __m256 v = x_load8(src, i, dtype);
        __m256i a = x_abs(v);
        largest = _mm256_max_epi32(largest, a);
        _mm256_store_ps(row + i, x_tiny(v, a));
    }
    for (uint32_t i = dim; i < akv_padded_dim(dim); i += 8u)
        _mm256_store_ps(row + i, _mm256_setzero_ps());
    return x_max8(largest);
}
static uint32_t x_load(const uint8_t *src, uint32_t dtype, uint32_t dim, float *row)
{
    if (dtype == AKV_F32)
        return x_load_type(src, AKV_F32, dim, row);
    if (dtype == AKV_F16)
        return x_load_type(src, AKV_F16, dim, row);
    return x_load_type(src, AKV_BF16, dim, row);
}

/* ---- rotation ---- */

/* Stages 1, 2, 4 inside a vector: lane = ±lane + partner. */
X_INLINE __m256 x_stages_124(__m256 v)
{
    const __m256 s1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 s2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 s4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    v = _mm256_fmadd_ps(v, s1, _mm256_permute_ps(v, 0xB1));
    v = _mm256_fmadd_ps(v, s2, _mm256_permute_ps(v, 0x4E));
    return _mm256_fmadd_ps(v, s4, _mm256_permute2f128_ps(v, v, 0x01));
}
#define X_BUTTERFLY(a, b)                                                                          \
    do {                                                                                           \
        __m256 sum_ = _mm256_add_ps(a, b);                                                         \
        b = _mm256_sub_ps(a, b);                                                                   \
        a = sum_;                                                                                  \
    } while (0)
X_INLINE __m256 x_scaled(__m256 v, __m256 factor, int sane)
{
    v = _mm256_mul_ps(v, factor);
    return sane ? x_tiny(v, x_abs(v)) : v;
}
/* Stages 1 … 4*count of 8*count elements, count = 2, 4, 8; the factor if these are all stages. */
X_INLINE void x_rotate_part(float *x, int count, int last, __m256 factor, int sane)
{
    __m256 v[8];

    for (int i = 0; i < count; i++)
        v[i] = x_stages_124(_mm256_loadu_ps(x + 8 * i));
    for (int s = 1; s < count; s *= 2)
        for (int i = 0; i < count; i++)
            if ((i & s) == 0)
                X_BUTTERFLY(v[i], v[i + s]);
    for (int i = 0; i < count; i++)
        _mm256_storeu_ps(x + 8 * i, last ? x_scaled(v[i], factor, sane) : v[i]);
}
X_INLINE void x_rotate_with(float *row, uint32_t dim, float factor, int sane)
{
    uint32_t n = akv_rotate_block(dim);
    __m256 f = _mm256_set1_ps(factor);

    if (n == 16u) {
        for (uint32_t i = 0; i < dim; i += 16u)
            x_rotate_part(row + i, 2, 1, f, sane);
        return;
    }
    if (n == 32u) {
        for (uint32_t i = 0; i < dim; i += 32u)
            x_rotate_part(row + i, 4, 1, f, sane);
        return;
    }
    if (n == 64u) {
        for (uint32_t i = 0; i < dim; i += 64u)
            x_rotate_part(row + i, 8, 1, f, sane);
        return;
    }
    for (uint32_t i = 0; i < dim; i += 64u)
        x_rotate_part(row + i, 8, 0, f, sane);
    for (uint32_t s = 64u; s < n; s *= 2u) {
        int last = 2u * s == n;
        for (uint32_t i = 0; i < dim; i += 2u * s)
            for (uint32_t j = i; j < i + s; j += 8u) {
                __m256 a = _mm256_loadu_ps(row + j), b = _mm256_loadu_ps(row + j + s);
                X_BUTTERFLY(a, b);
                _mm256_storeu_ps(row + j, last ? x_scaled(a, f, sane) : a);
                _mm256_storeu_ps(row + j + s, last ? x_scaled(b, f, sane) : b);
            }
    }
}
static void x_rotate_store(float *row, uint32_t dim)
{
    x_rotate_with(row, dim, akv_rotate_store_factor(dim), 1);
}
static void x_rotate_read(float *row, uint32_t dim)
{
    x_rotate_with(row, dim, akv_rotate_read_factor(dim), 0);
}

static void q_store(float *row, int back, uint32_t dim, uint32_t dtype, uint8_t *dst)
{
    if (back)
        x_rotate_read(row, dim);
    if ((uint8_t *)row == dst)
        return;
    if (dtype == AKV_F32)
        memcpy(dst, row, (size_t)dim * 4u);
    else if (dtype == AKV_F16)
        for (uint32_t i = 0; i < dim; i += 8u)
            x_store8(dst, i, AKV_F16, _mm256_loadu_ps(row + i));
    else
        for (uint32_t i = 0; i < dim; i += 8u)
            x_store8(dst, i, AKV_BF16, _mm256_loadu_ps(row + i));
}

static void q_convert(uint8_t *dst, uint32_t dst_type, const uint8_t *src, uint32_t src_type,
                      uint32_t dim)
{
    if (dst_type == src_type)
        memcpy(dst, src, (size_t)dim * akv_raw_bytes(dst_type));
    else
        for (uint32_t i = 0; i < dim; i += 8u)
            x_store8(dst, i, dst_type, x_load8(src, i, src_type));
}

/* ---- codes ---- */

X_INLINE uint32_t x_amax(const float *x, uint32_t count)
{
    __m256i m = x_abs(_mm256_load_ps(x));
    for (uint32_t i = 8u; i < count; i += 8u)
        m = _mm256_max_epi32(m, x_abs(_mm256_load_ps(x + i)));
    return x_max8(m);
}
/* Four vectors of int32 to 32 bytes in order, saturated. */
X_INLINE __m256i x_bytes(__m256i a, __m256i b, __m256i c, __m256i d, int is_unsigned)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
    ab = is_unsigned ? _mm256_packus_epi16(ab, cd) : _mm256_packs_epi16(ab, cd);
    return _mm256_permutevar8x32_epi32(ab, order);
}

/* One scale's worth of I8 or N6. */
X_INLINE uint32_t x_uniform(const float *x, uint32_t count, uint32_t format, uint8_t *code)
{
    uint32_t h = akv_uniform_scale(x_amax(x, count), format);
    akv_reciprocal r = akv_reciprocal_of(akv_as_f32(akv_f32_from_f16(h)));
    __m256 hi = _mm256_set1_ps(r.hi), lo = _mm256_set1_ps(r.lo);

    if (h == 0x7BFFu) {
        for (uint32_t i = 0; i < count; i += 32u)
            akv_group_codes(x + i, h, format, code + i);
        return h;
    }
    for (uint32_t i = 0; i < count; i += 32u) {
        __m256i q[4];
        for (int k = 0; k < 4; k++) {
            __m256 v = _mm256_load_ps(x + i + 8 * k);
            q[k] = _mm256_cvtps_epi32(_mm256_fmadd_ps(v, hi, _mm256_mul_ps(v, lo)));
        }
        __m256i c = x_bytes(q[0], q[1], q[2], q[3], 0);
        if (format == AKV_I8) {
            c = _mm256_max_epi8(c, _mm256_set1_epi8(-127));
        } else {
            c = _mm256_max_epi8(c, _mm256_set1_epi8(-31));
            c = _mm256_min_epi8(c, _mm256_set1_epi8(31));
            c = _mm256_add_epi8(c, _mm256_set1_epi8(32));
        }
        _mm256_storeu_si256((void *)(code + i), c);
    }
    return h;
}

/* Scale bytes of the eight candidates. */
X_INLINE __m256i x_candidates(uint32_t amax, uint32_t format)
{
    __m256 x = _mm256_mul_ps(_mm256_set1_ps(akv_as_f32(amax)),
                             _mm256_loadu_ps(akv_candidate[format - AKV_N5]));
    __m256i u = _mm256_castps_si256(x), odd, s, small;
    odd = _mm256_and_si256(_mm256_srli_epi32(u, 20), _mm256_set1_epi32(1));
    s = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFFF - 0x38000000)));
    s = _mm256_min_epi32(_mm256_srai_epi32(s, 20), _mm256_set1_epi32(0xF7));
    /* below 2^-14: the sum with 64 is rounded to a multiple of 2^-17 */
    small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(x, _mm256_set1_ps(64.0f))),
                             _mm256_set1_epi32(0x42800000));
    return _mm256_blendv_epi8(s, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(0x38800000), u));
}
X_INLINE uint32_t x_sum8(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(s);
}
X_INLINE __m256i x_distance(__m256i n, __m256i r)
{
    return _mm256_abs_epi16(_mm256_sub_epi16(n, r));
}
/* Least distance of 16 numbers to 2, 4, 8 or 16 ascending levels.  Whoever is not above the middle of
 * the two middle levels has its nearest level in the lower half. */
X_INLINE __m256i x_least(__m256i n, const __m256i *r, int levels)
{
    __m256i near[8];
    int half = levels / 2;
    if (levels >= 8) {
        __m256i middle = _mm256_srli_epi16(_mm256_add_epi16(r[half - 1], r[half]), 1);
        __m256i upper = _mm256_cmpgt_epi16(n, middle);
        for (int j = 0; j < half; j++)
            near[j] = _mm256_blendv_epi8(r[j], r[j + half], upper);
        if (levels == 16)
            return x_least(n, near, 8);
        r = near;
        levels = half;
    }
    __m256i least = x_distance(n, r[0]);
    for (int j = 1; j < levels; j++)
        least = _mm256_min_epi16(least, x_distance(n, r[j]));
    return least;
}
/* Error of one candidate over the 32 numbers of a group; levels fit 15 bits (see the caller). */
X_INLINE uint32_t x_error(const __m256i *n, uint32_t s, uint32_t format, uint32_t exponent)
{
    int levels = (int)akv_levels(format);
    __m256i r[16];
    for (int j = 0; j < levels; j++)
        r[j] = _mm256_set1_epi16(
            (short)akv_search_level(s, akv_codebook[levels - 2 + j], exponent));
    __m256i a = x_least(n[0], r, levels), b = x_least(n[1], r, levels);
    return x_sum8(_mm256_add_epi32(_mm256_madd_epi16(a, a), _mm256_madd_epi16(b, b)));
}
#ifndef X_ERROR
#define X_ERROR x_error
#endif
X_INLINE uint32_t x_search_format(const float *x, uint32_t amax, uint32_t format)
{
    uint32_t exponent = amax >> 23, seen = 0, best = 0, best_error = 0xFFFFFFFFu;
    _Alignas(32) uint32_t candidate[8];
    __m256i n[2];
    __m256 unit = _mm256_set1_ps(akv_as_f32((266u - exponent) << 23));

    _mm256_store_si256((void *)candidate, x_candidates(amax, format));
    for (int k = 0; k < 2; k++) {
        __m256 lo = _mm256_castsi256_ps(x_abs(_mm256_load_ps(x + 16 * k)));
        __m256 hi = _mm256_castsi256_ps(x_abs(_mm256_load_ps(x + 16 * k + 8)));
        n[k] = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(lo, unit)),
                                  _mm256_cvtps_epi32(_mm256_mul_ps(hi, unit)));
    }
    for (int m = 0; m < (int)AKV_CANDIDATES; m++) {
        uint32_t s = candidate[m], bit = 1u << (s & 31u);
        if (seen & bit) /* eight candidates span less than 32 scales */
            continue;
        seen |= bit;
        uint32_t error = X_ERROR(n, s, format, exponent);
        if (error < best_error) {
            best_error = error;
            best = s;
        }
    }
    return best;
}
/* The largest level is 127 * d / 128 in units of 2^-12 of the exponent of amax, d below 2.1 * amax
 * unless d is subnormal, where amax is at least 2^-18: levels stay below 2^14.2.  Errors of one pair
 * stay below 2^31 because no number is farther than 2^13.1 from its nearest level, sums below 2^32. */
static uint32_t x_search(const float *x, uint32_t amax, uint32_t format)
{
    if (amax == 0u)
        return 0u;
    switch (format) {
    case AKV_N5:
        return x_search_format(x, amax, AKV_N5);
    case AKV_N4:
        return x_search_format(x, amax, AKV_N4);
    case AKV_N3:
        return x_search_format(x, amax, AKV_N3);
    default:
        return x_search_format(x, amax, AKV_N2);
    }
}

/* Codebook indices of a group.  In units of d/256 thresholds are integers below 256; the quotient of
 * quant.h compares with them exactly, and ties are those that are integers. */
X_INLINE void x_codebook(const float *x, uint32_t s, uint32_t format, uint8_t *code)
{
    const uint32_t levels = akv_levels(format);
    akv_reciprocal r = akv_reciprocal_of(akv_f32_from_ue5m3(s) * 0x1p-8f);
    __m256 hi = _mm256_set1_ps(r.hi), lo = _mm256_set1_ps(r.lo);
    __m256i whole[4], exact[4], sign[4];

    for (int k = 0; k < 4; k++) {
        __m256 v = _mm256_load_ps(x + 8 * k), a = _mm256_castsi256_ps(x_abs(v));
        __m256 t = _mm256_fmadd_ps(a, hi, _mm256_mul_ps(a, lo));
        whole[k] = _mm256_cvttps_epi32(t);
        exact[k] = _mm256_castps_si256(_mm256_cmp_ps(t, _mm256_cvtepi32_ps(whole[k]), _CMP_EQ_OQ));
        sign[k] = _mm256_castps_si256(v);
    }
    __m256i w = x_bytes(whole[0], whole[1], whole[2], whole[3], 1);
    __m256i tie = x_bytes(exact[0], exact[1], exact[2], exact[3], 0); /* -1 where an integer */
    __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(),
                                         x_bytes(sign[0], sign[1], sign[2], sign[3], 0));
    w = _mm256_xor_si256(w, _mm256_set1_epi8(-128)); /* unsigned order as signed */
    __m256i even = _mm256_adds_epi8(w, _mm256_andnot_si256(negative, tie));
    __m256i odd = _mm256_adds_epi8(w, _mm256_and_si256(negative, tie)), p = _mm256_setzero_si256();
    for (uint32_t j = 0; j + 1u < levels; j++) {
        int t = akv_codebook[levels - 2u + j] + akv_codebook[levels - 1u + j] - 1 - 128;
        p = _mm256_sub_epi8(p, _mm256_cmpgt_epi8((j & 1u) ? odd : even, _mm256_set1_epi8((char)t)));
    }
    p = _mm256_add_epi8(_mm256_xor_si256(p, negative), _mm256_set1_epi8((char)levels));
    _mm256_storeu_si256((void *)code, p);
}
X_INLINE void x_codebook_row(const float *row, uint32_t dp, uint32_t format, int search,
                             uint8_t *code, uint16_t *scale)
{
    for (uint32_t i = 0; i < dp; i += 32u) {
        uint32_t amax = x_amax(row + i, 32u);
        uint32_t s = search ? x_search(row + i, amax, format) : akv_codebook_scale(amax, format, 0u);
        scale[i / 32u] = (uint16_t)s;
        if (s == 0u || s == 0xF7u)
            akv_codebook_codes(row + i, s, format, code + i);
        else
            x_codebook(row + i, s, format, code + i);
    }
}

static void x_codes(const float *row, uint32_t dp, uint32_t format, uint32_t flags, uint8_t *code,
                    uint16_t *scale)
{
    int search = (flags & AKV_FLAG_SEARCH) != 0;
    switch (format) {
    case AKV_I8:
        for (uint32_t i = 0; i < dp; i += 128u)
            scale[i / 128u] =
                (uint16_t)x_uniform(row + i, AKV_MIN(128u, dp - i), AKV_I8, code + i);
        return;
    case AKV_N6:
        for (uint32_t i = 0; i < dp; i += 64u)
            scale[i / 64u] = (uint16_t)x_uniform(row + i, AKV_MIN(64u, dp - i), AKV_N6, code + i);
        return;
    case AKV_N5:
        x_codebook_row(row, dp, AKV_N5, search, code, scale);
        return;
    case AKV_N4:
        x_codebook_row(row, dp, AKV_N4, search, code, scale);
        return;
    case AKV_N3:
        x_codebook_row(row, dp, AKV_N3, search, code, scale);
        return;
    default:
        x_codebook_row(row, dp, AKV_N2, search, code, scale);
        return;
    }
}
static uint32_t q_quantise(const uint8_t *src, uint32_t dtype, uint32_t dim, uint32_t flags,
                           uint32_t format, uint8_t *code, uint16_t *scale)
{
    _Alignas(64) float row[AKV_MAX_HEAD_DIM];

    if (x_load(src, dtype, dim, row) > X_LARGE_BITS)
        return s_quantise(src, dtype, dim, flags, format, code, scale);
    if (flags & AKV_FLAG_ROTATE)
        x_rotate_store(row, dim);
    x_codes(row, akv_padded_dim(dim), format, flags, code, scale);
    return 0;
}

#include "k_quant_x86_pack.h"
#endif
