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

#if defined(__clang__)
#define X_UNROLL(n) _Pragma("unroll")
#else
#define X_PRAGMA(x) _Pragma(#x)
#define X_UNROLL(n) X_PRAGMA(GCC unroll n)
#endif

/* Hides from the compiler that a pointer leads to constants. */
#define X_OPAQUE(pointer) __asm__("" : "+r"(pointer))

#define X_LARGE_BITS 0x6C800000u /* 2^90: below it, no rotation can reach 2^100 */
#define X_SMALL_BITS 0x3A800000u /* 2^-10: under such a maximum, 2^-24 is like 0 but for its sign */

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
/* In place: what is below 2^-24 as +0. */
static void x_sane_row(float *row, uint32_t count)
{
    for (uint32_t i = 0; i < count; i += 8u) {
        __m256 v = _mm256_load_ps(row + i);
        _mm256_store_ps(row + i, x_tiny(v, x_abs(v)));
    }
}
/* A row in f32, padded with zeros, without its tiny values if `tiny` is set; returns the largest
 * magnitude of eight lanes. */
X_INLINE __m256i x_load_type(const uint8_t *src, uint32_t dtype, uint32_t dim, int tiny, float *row)
{
    __m256i largest = _mm256_setzero_si256();

    X_UNROLL(4)
    for (uint32_t i = 0; i < dim; i += 8u) {
        __m256 v = x_load8(src, i, dtype);
        if (tiny) {
            __m256i a = x_abs(v);
            largest = _mm256_max_epi32(largest, a);
            v = x_tiny(v, a);
        }
        _mm256_store_ps(row + i, v);
    }
    for (uint32_t i = dim; i < akv_padded_dim(dim); i += 8u)
        _mm256_store_ps(row + i, _mm256_setzero_ps());
    return largest;
}
X_INLINE __m256i x_load(const uint8_t *src, uint32_t dtype, uint32_t dim, int tiny, float *row)
{
    if (dtype == AKV_F32)
        return x_load_type(src, AKV_F32, dim, tiny, row);
    if (dtype == AKV_F16)
        return x_load_type(src, AKV_F16, dim, tiny, row);
    return x_load_type(src, AKV_BF16, dim, tiny, row);
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
/* Stages 1 … 4*count of 8*count elements, count = 2, 4, 8; the factor if these are all stages. */
X_INLINE void x_rotate_part(float *x, int count, int last, __m256 factor)
{
    __m256 v[8];

    X_UNROLL(8)
    for (int i = 0; i < count; i++)
        v[i] = x_stages_124(_mm256_loadu_ps(x + 8 * i));
    X_UNROLL(3)
    for (int s = 1; s < count; s *= 2)
        X_UNROLL(8)
        for (int i = 0; i < count; i++)
            if ((i & s) == 0)
                X_BUTTERFLY(v[i], v[i + s]);
    X_UNROLL(8)
    for (int i = 0; i < count; i++)
        _mm256_storeu_ps(x + 8 * i, last ? _mm256_mul_ps(v[i], factor) : v[i]);
}
static void x_rotate(float *row, uint32_t dim, float factor)
{
    uint32_t n = akv_rotate_block(dim);
    __m256 f = _mm256_set1_ps(factor);

    if (n == 16u) {
        for (uint32_t i = 0; i < dim; i += 16u)
            x_rotate_part(row + i, 2, 1, f);
        return;
    }
    if (n == 32u) {
        for (uint32_t i = 0; i < dim; i += 32u)
            x_rotate_part(row + i, 4, 1, f);
        return;
    }
    if (n == 64u) {
        for (uint32_t i = 0; i < dim; i += 64u)
            x_rotate_part(row + i, 8, 1, f);
        return;
    }
    for (uint32_t i = 0; i < dim; i += 64u)
        x_rotate_part(row + i, 8, 0, f);
    for (uint32_t s = 64u; s < n; s *= 2u) {
        int last = 2u * s == n;
        for (uint32_t i = 0; i < dim; i += 2u * s)
            for (uint32_t j = i; j < i + s; j += 8u) {
                __m256 a = _mm256_loadu_ps(row + j), b = _mm256_loadu_ps(row + j + s);
                X_BUTTERFLY(a, b);
                _mm256_storeu_ps(row + j, last ? _mm256_mul_ps(a, f) : a);
                _mm256_storeu_ps(row + j + s, last ? _mm256_mul_ps(b, f) : b);
            }
    }
}
static void q_store(float *row, int back, uint32_t dim, uint32_t dtype, uint8_t *dst)
{
    if (back)
        x_rotate(row, dim, akv_rotate_read_factor(dim));
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

/* Largest lanes of eight vectors. */
X_INLINE __m256i x_max_pair(__m256i a, __m256i b)
{
    return _mm256_max_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}
X_INLINE __m256i x_max_quad(const __m256i *m)
{
    __m256i a = x_max_pair(m[0], m[1]), b = x_max_pair(m[2], m[3]);
    return _mm256_max_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}
X_INLINE __m256i x_max_eight(const __m256i *m)
{
    __m256i a = x_max_quad(m), b = x_max_quad(m + 4);
    return _mm256_max_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}
/* Lane-wise largest magnitude of count elements, a multiple of 32. */
X_INLINE __m256i x_amax(const float *x, uint32_t count)
{
    __m256i m = _mm256_setzero_si256();
    for (uint32_t i = 0; i < count; i += 32u) {
        X_UNROLL(4)
        for (uint32_t k = 0; k < 32u; k += 8u)
            m = _mm256_max_epi32(m, x_abs(_mm256_loadu_ps(x + i + k)));
    }
    return m;
}
/* Four vectors of int32, saturated, to 32 bytes: dwords in the order 0 2 4 6 1 3 5 7. */
X_INLINE __m256i x_bytes_mixed(const __m256i v[4])
{
    return _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
}

/* Codes of 32 values of I8 or N6 under a scale that is not saturated. */
X_INLINE void x_uniform(const float *x, float r_hi, float r_lo, uint32_t format, uint8_t *code)
{
    __m256 hi = _mm256_set1_ps(r_hi), lo = _mm256_set1_ps(r_lo);
    __m256i q[4];

    X_UNROLL(4)
    for (int k = 0; k < 4; k++) {
        __m256 v = _mm256_loadu_ps(x + 8 * k);
        q[k] = _mm256_cvtps_epi32(_mm256_fmadd_ps(v, hi, _mm256_mul_ps(v, lo)));
    }
    __m256i c = _mm256_permutevar8x32_epi32(x_bytes_mixed(q),
                                            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    if (format == AKV_I8) {
        c = _mm256_max_epi8(c, _mm256_set1_epi8(-127));
    } else {
        c = _mm256_max_epi8(c, _mm256_set1_epi8(-31));
        c = _mm256_min_epi8(c, _mm256_set1_epi8(31));
        c = _mm256_add_epi8(c, _mm256_set1_epi8(32));
    }
    _mm256_storeu_si256((void *)code, c);
}

/* Scale bytes of eight non-negative numbers. */
X_INLINE __m256i x_ue5m3(__m256 x)
{
    __m256i u = _mm256_castps_si256(x), odd, s, small;
    odd = _mm256_and_si256(_mm256_srli_epi32(u, 20), _mm256_set1_epi32(1));
    s = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFFF - 0x38000000)));
    s = _mm256_min_epi32(_mm256_srai_epi32(s, 20), _mm256_set1_epi32(0xF7));
    /* below 2^-14: the sum with 64 is rounded to a multiple of 2^-17 */
    small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(x, _mm256_set1_ps(64.0f))),
                             _mm256_set1_epi32(0x42800000));
    return _mm256_blendv_epi8(s, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(0x38800000), u));
}
/* Eight scale bytes as numbers. */
X_INLINE __m256 x_ue5m3_value(__m256i s)
{
    __m256 small = _mm256_mul_ps(_mm256_cvtepi32_ps(s), _mm256_set1_ps(0x1p-17f));
    __m256i large = _mm256_add_epi32(_mm256_slli_epi32(s, 20), _mm256_set1_epi32(0x38000000));
    __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), s);
    return _mm256_blendv_ps(_mm256_castsi256_ps(large), small, _mm256_castsi256_ps(is_small));
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
        X_UNROLL(8)
        for (int j = 0; j < half; j++)
            near[j] = _mm256_blendv_epi8(r[j], r[j + half], upper);
        if (levels == 16)
            return x_least(n, near, 8);
        r = near;
        levels = half;
    }
    __m256i least = x_distance(n, r[0]);
    X_UNROLL(4)
    for (int j = 1; j < levels; j++)
        least = _mm256_min_epi16(least, x_distance(n, r[j]));
    return least;
}
/* Error of one candidate over the 32 numbers of a group; levels fit 15 bits (see the caller). */
X_INLINE uint32_t x_error(const __m256i *n, uint32_t s, uint32_t format, uint32_t exponent)
{
    int levels = (int)akv_levels(format);
    __m256i r[16];
    X_UNROLL(16)
    for (int j = 0; j < levels; j++)
        r[j] = _mm256_set1_epi16(
            (short)akv_search_level(s, akv_codebook[levels - 2 + j], exponent));
    __m256i a = x_least(n[0], r, levels), b = x_least(n[1], r, levels);
    return x_sum8(_mm256_add_epi32(_mm256_madd_epi16(a, a), _mm256_madd_epi16(b, b)));
}
X_INLINE uint32_t x_search_format(const float *x, uint32_t amax, uint32_t format)
{
    uint32_t exponent = amax >> 23, seen = 0, best = 0, best_error = 0xFFFFFFFFu;
    _Alignas(32) uint32_t candidate[8];
    __m256i n[2];
    __m256 unit = _mm256_set1_ps(akv_as_f32((266u - exponent) << 23));

    _mm256_store_si256((void *)candidate,
                       x_ue5m3(_mm256_mul_ps(_mm256_set1_ps(akv_as_f32(amax)),
                                             _mm256_loadu_ps(akv_candidate[format - AKV_N5]))));
    X_UNROLL(2)
    for (int k = 0; k < 2; k++) {
        __m256 lo = _mm256_castsi256_ps(x_abs(_mm256_loadu_ps(x + 16 * k)));
        __m256 hi = _mm256_castsi256_ps(x_abs(_mm256_loadu_ps(x + 16 * k + 8)));
        n[k] = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(lo, unit)),
                                  _mm256_cvtps_epi32(_mm256_mul_ps(hi, unit)));
    }
    for (int m = 0; m < (int)AKV_CANDIDATES; m++) {
        uint32_t s = candidate[m], bit = 1u << (s & 31u);
        if (seen & bit) /* eight candidates span less than 32 scales */
            continue;
        seen |= bit;
        uint32_t error = x_error(n, s, format, exponent);
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
static uint32_t x_search_n5(const float *x, uint32_t amax)
{
    return amax ? x_search_format(x, amax, AKV_N5) : 0u;
}
static uint32_t x_search_n4(const float *x, uint32_t amax)
{
    return amax ? x_search_format(x, amax, AKV_N4) : 0u;
}
static uint32_t x_search_n3(const float *x, uint32_t amax)
{
    return amax ? x_search_format(x, amax, AKV_N3) : 0u;
}
static uint32_t x_search_n2(const float *x, uint32_t amax)
{
    return amax ? x_search_format(x, amax, AKV_N2) : 0u;
}
X_INLINE uint32_t x_search(const float *x, uint32_t amax, uint32_t format)
{
    return format == AKV_N5   ? x_search_n5(x, amax)
           : format == AKV_N4 ? x_search_n4(x, amax)
           : format == AKV_N3 ? x_search_n3(x, amax)
                              : x_search_n2(x, amax);
}

/* c_j + c_j+1 - 1 - 128 of every format, as akv_codebook starts them, spread over a vector: compilers
 * would rather build such constants from general registers, three instructions each. */
#define X_SPREAD(t)                                                                               \
    {                                                                                              \
        (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129,  \
            (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129,       \
            (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129,       \
            (t)-129, (t)-129, (t)-129, (t)-129                                                     \
    }
#define X_UNUSED {0}
static const int8_t x_threshold[][32] __attribute__((aligned(32))) = {
    X_SPREAD(165), X_UNUSED,   X_SPREAD(59),  X_SPREAD(124), X_SPREAD(206), X_UNUSED,
    X_SPREAD(24),  X_SPREAD(49),  X_SPREAD(75),  X_SPREAD(102), X_SPREAD(133), X_SPREAD(171),
    X_SPREAD(223), X_UNUSED,   X_SPREAD(11),  X_SPREAD(21),  X_SPREAD(31),  X_SPREAD(42),
    X_SPREAD(53),  X_SPREAD(64),  X_SPREAD(76),  X_SPREAD(88),  X_SPREAD(101), X_SPREAD(115),
    X_SPREAD(131), X_SPREAD(149), X_SPREAD(169), X_SPREAD(195), X_SPREAD(232)};

/* Codebook indices of 32 values under a scale that is neither 0 nor saturated (else: any indices).  In units of d/256
 * thresholds are integers below 256; the quotient of quant.h compares with them exactly, and ties are
 * where it is an integer.  Values above -2^-24 count as positive: see X_SMALL_BITS. */
X_INLINE void x_codebook(const float *x, float r_hi, float r_lo, uint32_t format,
                         const int8_t (*threshold)[32], uint8_t *code)
{
    const uint32_t levels = akv_levels(format);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256 hi = _mm256_set1_ps(r_hi), lo = _mm256_set1_ps(r_lo);
    __m256i whole[4], exact[4], sign[4];

    X_UNROLL(4)
    for (int k = 0; k < 4; k++) {
        __m256 v = _mm256_loadu_ps(x + 8 * k);
        __m256 t = _mm256_fmadd_ps(v, hi, _mm256_mul_ps(v, lo));
        whole[k] = _mm256_cvttps_epi32(t);
        exact[k] = _mm256_castps_si256(_mm256_cmp_ps(t, _mm256_cvtepi32_ps(whole[k]), _CMP_EQ_OQ));
        sign[k] = _mm256_castps_si256(
            _mm256_cmp_ps(v, _mm256_set1_ps(-0x1p-24f), _CMP_LE_OQ));
    }
    __m256i w = _mm256_packus_epi16(_mm256_abs_epi16(_mm256_packs_epi32(whole[0], whole[1])),
                                    _mm256_abs_epi16(_mm256_packs_epi32(whole[2], whole[3])));
    __m256i tie = x_bytes_mixed(exact), negative = x_bytes_mixed(sign); /* 0 or -1 */
    w = _mm256_xor_si256(w, _mm256_set1_epi8(-128)); /* unsigned order as signed */
    __m256i even = _mm256_adds_epi8(w, _mm256_andnot_si256(negative, tie));
    __m256i odd = _mm256_adds_epi8(w, _mm256_and_si256(negative, tie)), p = negative;
    X_UNROLL(15)
    for (uint32_t j = 0; j + 1u < levels; j++) {
        __m256i t = _mm256_load_si256((const void *)threshold[j]);
        __m256i above = _mm256_cmpgt_epi8((j & 1u) ? odd : even, t);
        p = j == 0 ? above : _mm256_add_epi8(p, above);
    }
    /* p is minus the count: levels + count, or levels - 1 - count */
    p = _mm256_xor_si256(_mm256_sub_epi8(_mm256_setzero_si256(), p), negative);
    p = _mm256_add_epi8(p, _mm256_set1_epi8((char)levels));
    _mm256_storeu_si256((void *)code, _mm256_permutevar8x32_epi32(p, order));
}

/* ---- up to four rows at once, so that the latency of scales and reciprocals hides ---- */

#define X_SCALES 80 /* 4 rows of 18 groups, rounded up to eights with room to spare */
struct x_batch {
    const float *at[4];         /* the rows, in place or in work */
    uint32_t rows, dp, width;   /* width: elements to a scale */
    uint32_t scales;            /* of a row */
    _Alignas(32) uint32_t amax[X_SCALES]; /* of scale s of row k at k * scales + s */
    _Alignas(32) uint32_t scale[X_SCALES];
    _Alignas(32) float hi[X_SCALES], lo[X_SCALES]; /* reciprocals */
};

/* Largest magnitudes, and the smallest and largest of them. */
X_INLINE uint32_t x_batch_amax(struct x_batch *b, uint32_t *most_out)
{
    uint32_t count = b->rows * b->scales, n = 0;
    __m256i m[X_SCALES], least = _mm256_set1_epi32(0x7FFFFFFF), most = _mm256_setzero_si256();

    for (uint32_t k = 0; k < b->rows; k++)
        for (uint32_t i = 0; i < b->dp; i += b->width)
            m[n++] = x_amax(b->at[k] + i, AKV_MIN(b->width, b->dp - i));
    for (; n % 8u != 0; n++) /* 1 is no special case of anything */
        m[n] = _mm256_set1_epi32(0x3F800000);
    for (n = 0; n < count; n += 8u) {
        __m256i a = x_max_eight(m + n);
        least = _mm256_min_epi32(least, a);
        most = _mm256_max_epi32(most, a);
        _mm256_store_si256((void *)(b->amax + n), a);
    }
    *most_out = x_max8(most);
    __m128i l = _mm_min_epi32(_mm256_castsi256_si128(least), _mm256_extracti128_si256(least, 1));
    l = _mm_min_epi32(l, _mm_shuffle_epi32(l, 0x4E));
    l = _mm_min_epi32(l, _mm_shuffle_epi32(l, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(l);
}
/* Scales, and reciprocals of d or d/256; true if there is a scale of 0 or a saturated one. */
X_INLINE int x_batch_scales(struct x_batch *b, uint32_t format, int search)
{
    uint32_t count = b->rows * b->scales;
    int codebook = akv_format_codebook(format) != 0;
    __m256i rare = _mm256_setzero_si256(), saturated = _mm256_set1_epi32(codebook ? 0xF7 : 0x7BFF);

    if (search && count % 8u != 0)
        _mm256_store_si256((void *)(b->scale + count / 8u * 8u), _mm256_set1_epi32(8));
    for (uint32_t i = 0; search && i < count; i++)
        b->scale[i] = x_search(b->at[i / b->scales] + i % b->scales * 32u, b->amax[i], format);
    for (uint32_t i = 0; i < count; i += 8u) {
        __m256 a = _mm256_castsi256_ps(_mm256_load_si256((const void *)(b->amax + i)));
        __m256 d, hi, lo;
        __m256i s;
        if (codebook) {
            if (search)
                s = _mm256_load_si256((const void *)(b->scale + i));
            else
                s = x_ue5m3(_mm256_mul_ps(a, _mm256_set1_ps(akv_candidate[0][0])));
            d = _mm256_mul_ps(x_ue5m3_value(s), _mm256_set1_ps(0x1p-8f));
        } else {
            float inverse = format == AKV_I8 ? AKV_INVERSE_I8 : AKV_INVERSE_N6;
            __m128i h = _mm256_cvtps_ph(_mm256_mul_ps(a, _mm256_set1_ps(inverse)),
                                        _MM_FROUND_TO_NEAREST_INT);
            h = _mm_min_epi16(h, _mm_set1_epi16(0x7BFF));
            s = _mm256_cvtepu16_epi32(h);
            d = _mm256_cvtph_ps(h);
        }
        hi = _mm256_div_ps(_mm256_set1_ps(1.0f), d);
        lo = _mm256_mul_ps(_mm256_fnmadd_ps(hi, d, _mm256_set1_ps(1.0f)), hi);
        rare = _mm256_or_si256(rare, _mm256_or_si256(_mm256_cmpeq_epi32(s, saturated),
                                                     _mm256_cmpeq_epi32(s, _mm256_setzero_si256())));
        _mm256_store_si256((void *)(b->scale + i), s);
        _mm256_store_ps(b->hi + i, hi);
        _mm256_store_ps(b->lo + i, lo);
    }
    return _mm256_movemask_epi8(rare) != 0;
}
/* Codes under a scale of 0 or a saturated one. */
static void x_rare_codes(const struct x_batch *b, uint32_t format, uint32_t saturated,
                         struct q_work *work)
{
    for (uint32_t n = 0; n < b->rows * b->scales; n++) {
        uint32_t s = b->scale[n], k = n / b->scales, first = n % b->scales * b->width;
        for (uint32_t i = first; i < AKV_MIN(first + b->width, b->dp); i += 32u) {
            float sane[32];
            if (s != 0u && s != saturated)
                break;
            for (uint32_t j = 0; j < 32u; j++)
                sane[j] = akv_as_f32(akv_sane(akv_as_u32(b->at[k][i + j])));
            akv_group_codes(sane, s, format, work->code + k * AKV_CODE_STRIDE + i);
        }
    }
}
X_INLINE void x_batch_codes(const struct x_batch *b, uint32_t format, int rare, struct q_work *work)
{
    uint32_t groups = b->dp / 32u, per = b->width / 32u;
    const float *hi = b->hi, *lo = b->lo;
    const int8_t(*threshold)[32] = x_threshold;

    if (akv_format_codebook(format))
        threshold += akv_levels(format) - 2u;
    X_OPAQUE(threshold);
    for (uint32_t k = 0; k < b->rows; k++) {
        uint8_t *code = work->code + k * AKV_CODE_STRIDE;
        const float *x = b->at[k];
        for (uint32_t s = 0; s < b->scales; s++)
            work->scale[k * AKV_SCALE_STRIDE + s] = (uint16_t)b->scale[k * b->scales + s];
        if (akv_format_codebook(format)) {
            for (uint32_t g = 0; g < groups; g++)
                x_codebook(x + 32u * g, *hi++, *lo++, format, threshold, code + 32u * g);
            continue;
        }
        for (uint32_t g = 0; g < groups; g += per, hi++, lo++)
            for (uint32_t j = g; j < AKV_MIN(g + per, groups); j++)
                x_uniform(x + 32u * j, *hi, *lo, format, code + 32u * j);
    }
    if (AKV_UNLIKELY(rare))
        x_rare_codes(b, format, akv_format_codebook(format) ? 0xF7u : 0x7BFFu, work);
}
/* Values are already in place; false: a magnitude is too large for this code. */
X_INLINE int x_batch_run(struct x_batch *b, uint32_t format, int search, struct q_work *work)
{
    uint32_t most;

    b->width = akv_scale_width(format);
    b->scales = (b->dp + b->width - 1u) / b->width;
    if (AKV_UNLIKELY(x_batch_amax(b, &most) < X_SMALL_BITS)) {
        for (uint32_t k = 0; k < b->rows; k++) {
            float *row = work->value + k * AKV_CODE_STRIDE;
            if (b->at[k] != row)
                memcpy(row, b->at[k], b->dp * 4u);
            x_sane_row(row, b->dp);
            b->at[k] = row;
        }
        x_batch_amax(b, &most);
    }
    if (AKV_UNLIKELY(most > X_LARGE_BITS))
        return 0;
    x_batch_codes(b, format, x_batch_scales(b, format, search), work);
    return 1;
}
static int x_batch_format(struct x_batch *b, uint32_t format, int search, struct q_work *work)
{
    switch (format) {
    case AKV_I8:
        return x_batch_run(b, AKV_I8, 0, work);
    case AKV_N6:
        return x_batch_run(b, AKV_N6, 0, work);
    case AKV_N5:
        return x_batch_run(b, AKV_N5, search, work);
    case AKV_N4:
        return x_batch_run(b, AKV_N4, search, work);
    case AKV_N3:
        return x_batch_run(b, AKV_N3, search, work);
    default:
        return x_batch_run(b, AKV_N2, search, work);
    }
}
static uint32_t q_quantise(struct q_work *work, const uint8_t *const *src, uint32_t rows,
                           uint32_t dtype, uint32_t dim, uint32_t flags, uint32_t format)
{
    int rotate = (flags & AKV_FLAG_ROTATE) != 0, search = (flags & AKV_FLAG_SEARCH) != 0;
    int in_place = dtype == AKV_F32 && dim % 32u == 0 && !rotate;
    struct x_batch b;
    __m256i largest = _mm256_setzero_si256();

    b.rows = rows;
    b.dp = akv_padded_dim(dim);
    for (uint32_t k = 0; k < rows; k++) {
        float *row = work->value + k * AKV_CODE_STRIDE;
        if (in_place && ((uintptr_t)src[k] & 3u) == 0) {
            b.at[k] = (const float *)(const void *)src[k];
            continue;
        }
        b.at[k] = row;
        if (rotate)
            largest = _mm256_max_epi32(largest, x_load(src[k], dtype, dim, 1, row));
        else
            x_load(src[k], dtype, dim, 0, row);
    }
    if (rotate) {
        if (x_max8(largest) > X_LARGE_BITS)
            return s_quantise(work, src, rows, dtype, dim, flags, format);
        for (uint32_t k = 0; k < rows; k++)
            x_rotate(work->value + k * AKV_CODE_STRIDE, dim, akv_rotate_store_factor(dim));
    }
    if (!x_batch_format(&b, format, search, work))
        return s_quantise(work, src, rows, dtype, dim, flags, format);
    return 0;
}

#include "k_quant_x86_pack.h"
#endif
