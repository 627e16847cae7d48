/* SPDX-License-Identifier: Apache-2.0 */
/* One row or quad at a time in 256-bit vectors: the same bytes as k_quant_scalar.h.
 *
 * Why the same: sums and products are the same correctly rounded operations on the same operands;
 * x * 1 + y in one fused step is the sum; codes come from the exact quotient test of quant.h, ties
 * decided by where the quotient is an integer; the search counts in the same integers.  Values
 * beyond 2^90, saturated scales and other rarities go to the scalar code. */
#ifndef AKV_K_QUANT_X86_H
#define AKV_K_QUANT_X86_H
#include "k_quant_scalar.h"
#include <immintrin.h>

#define X_INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define X_UNROLL(n) /* clang unrolls short loops by itself, and warns where it cannot */
#else
#define X_PRAGMA(x) _Pragma(#x)
#define X_UNROLL(n) X_PRAGMA(GCC unroll n)
#endif

/* A call with the constant FORMAT in place of `format`, one of I8 … N2: compiled once for each. */
#define X_FORMAT_CASE(which, ...) \
    case which: { \
        enum { FORMAT = which }; \
        __VA_ARGS__; \
        break; \
    }
#define X_BY_FORMAT(format, ...) \
    switch (format) { \
        X_FORMAT_CASE(AKV_I8, __VA_ARGS__) \
        X_FORMAT_CASE(AKV_N6, __VA_ARGS__) \
        X_FORMAT_CASE(AKV_N5, __VA_ARGS__) \
        X_FORMAT_CASE(AKV_N4, __VA_ARGS__) \
        X_FORMAT_CASE(AKV_N3, __VA_ARGS__) \
        X_FORMAT_CASE(AKV_N2, __VA_ARGS__) \
    }

/* Hides from the compiler that a pointer leads to constants. */
#define X_OPAQUE(pointer) __asm__("" : "+r"(pointer))
/* The same for a pointer to an array that was just written, so that it is read from memory:
 * compilers would rather take a vector apart with shuffles. */
#define X_STORED(pointer, array) __asm__("" : "+r"(pointer) : "m"(array))

#define X_LARGE_BITS 0x6C800000u /* 2^90: below it, no rotation can reach 2^100 */
#define X_SMALL_BITS                                                                               \
    0x3A800000u /* 2^-10: under such a maximum, 2^-24 is like 0 but for its sign                   \
                 */

/* ---- rows that are quantised together ---- */

#define X_SCALES (Q_ROWS * AKV_SCALE_STRIDE + 8u) /* with room to round up to eights */
struct x_batch {
    const float *at[Q_ROWS];              /* the rows, in place or in work */
    uint32_t rows, dp, width;             /* width: elements to a scale */
    uint32_t scales;                      /* of a row */
    uint32_t least, most;                 /* of amax */
    _Alignas(32) uint32_t amax[X_SCALES]; /* of scale s of row k at k * scales + s */
    _Alignas(32) uint32_t scale[X_SCALES];
    _Alignas(32) float hi[X_SCALES], lo[X_SCALES]; /* reciprocals */
};

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
/* A row in f32, padded with zeros. */
X_INLINE void x_load_type(const uint8_t *src, uint32_t dtype, uint32_t dim, float *row)
{
    X_UNROLL(4)
    for (uint32_t i = 0; i < dim; i += 8u)
        _mm256_store_ps(row + i, x_load8(src, i, dtype));
    for (uint32_t i = dim; i < akv_padded_dim(dim); i += 8u)
        _mm256_store_ps(row + i, _mm256_setzero_ps());
}
X_INLINE void x_load(const uint8_t *src, uint32_t dtype, uint32_t dim, float *row)
{
    if (dtype == AKV_F32)
        x_load_type(src, AKV_F32, dim, row);
    else if (dtype == AKV_F16)
        x_load_type(src, AKV_F16, dim, row);
    else
        x_load_type(src, AKV_BF16, dim, row);
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
/* Stages 1 … 4*count of 8*count elements from `from` on, count = 2, 4, 8, into x; then the factor
 * if these are all stages.  Storing starts from rows of the caller, sane and with their largest
 * magnitude in *largest; reading back from decoded values. */
X_INLINE void x_rotate_part(const uint8_t *from, uint32_t dtype, int storing, float *x, int count,
                            int last, __m256 factor, __m256i *largest)
{
    __m256 v[8];

    X_UNROLL(8)
    for (int i = 0; i < count; i++) {
        v[i] = x_load8(from, 8u * (uint32_t)i, dtype);
        if (storing) {
            __m256i a = x_abs(v[i]);
            *largest = _mm256_max_epi32(*largest, a);
            v[i] = x_tiny(v[i], a);
        }
        v[i] = x_stages_124(v[i]);
    }
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
X_INLINE __m256i x_rotate_type(const uint8_t *from, uint32_t dtype, int storing, float *row,
                               uint32_t dim, float factor)
{
    uint32_t n = akv_rotate_block(dim), size = akv_raw_bytes(dtype);
    __m256 f = _mm256_set1_ps(factor);
    __m256i largest = _mm256_setzero_si256();

    if (n == 16u) {
        for (uint32_t i = 0; i < dim; i += 16u)
            x_rotate_part(from + i * size, dtype, storing, row + i, 2, 1, f, &largest);
        return largest;
    }
    if (n == 32u) {
        for (uint32_t i = 0; i < dim; i += 32u)
            x_rotate_part(from + i * size, dtype, storing, row + i, 4, 1, f, &largest);
        return largest;
    }
    if (n == 64u) {
        for (uint32_t i = 0; i < dim; i += 64u)
            x_rotate_part(from + i * size, dtype, storing, row + i, 8, 1, f, &largest);
        return largest;
    }
    for (uint32_t i = 0; i < dim; i += 64u)
        x_rotate_part(from + i * size, dtype, storing, row + i, 8, 0, f, &largest);
    for (uint32_t s = 64u; s < n; s *= 2u) {
        int last = 2u * s == n;
        for (uint32_t i = 0; i < dim; i += 2u * s) {
            X_UNROLL(4)
            for (uint32_t j = i; j < i + s; j += 8u) {
                __m256 a = _mm256_loadu_ps(row + j), b = _mm256_loadu_ps(row + j + s);
                X_BUTTERFLY(a, b);
                _mm256_storeu_ps(row + j, last ? _mm256_mul_ps(a, f) : a);
                _mm256_storeu_ps(row + j + s, last ? _mm256_mul_ps(b, f) : b);
            }
        }
    }
    return largest;
}
/* A row of the caller as it is stored, padded, but for values below 2^-24 after the rotation;
 * returns the largest magnitude of eight lanes before it. */
static inline __m256i x_rotate_load(const uint8_t *src, uint32_t dtype, uint32_t dim, float *row)
{
    float factor = akv_rotate_store_factor(dim);

    for (uint32_t i = dim; i < akv_padded_dim(dim); i += 8u)
        _mm256_store_ps(row + i, _mm256_setzero_ps());
    if (dtype == AKV_F32)
        return x_rotate_type(src, AKV_F32, 1, row, dim, factor);
    if (dtype == AKV_F16)
        return x_rotate_type(src, AKV_F16, 1, row, dim, factor);
    return x_rotate_type(src, AKV_BF16, 1, row, dim, factor);
}
static inline void x_rotate_read(float *row, uint32_t dim)
{
    x_rotate_type((const uint8_t *)row, AKV_F32, 0, row, dim, akv_rotate_read_factor(dim));
}

X_INLINE void x_convert_type(uint8_t *dst, uint32_t dst_type, const uint8_t *src, uint32_t src_type,
                             uint32_t dim)
{
    X_UNROLL(4)
    for (uint32_t i = 0; i < dim; i += 8u)
        x_store8(dst, i, dst_type, x_load8(src, i, src_type));
}
static inline void x_convert(uint8_t *dst, uint32_t dst_type, const uint8_t *src, uint32_t src_type,
                             uint32_t dim)
{
    if (dst_type == src_type)
        memcpy(dst, src, (size_t)dim * akv_raw_bytes(dst_type));
    else if (src_type == AKV_F32 && dst_type == AKV_F16)
        x_convert_type(dst, AKV_F16, src, AKV_F32, dim);
    else if (src_type == AKV_F32)
        x_convert_type(dst, AKV_BF16, src, AKV_F32, dim);
    else if (src_type == AKV_F16 && dst_type == AKV_F32)
        x_convert_type(dst, AKV_F32, src, AKV_F16, dim);
    else if (src_type == AKV_F16)
        x_convert_type(dst, AKV_BF16, src, AKV_F16, dim);
    else if (dst_type == AKV_F32)
        x_convert_type(dst, AKV_F32, src, AKV_BF16, dim);
    else
        x_convert_type(dst, AKV_F16, src, AKV_BF16, dim);
}
static inline void x_store(float *row, int back, uint32_t dim, uint32_t dtype, uint8_t *dst)
{
    if (back)
        x_rotate_read(row, dim);
    if ((uint8_t *)row != dst)
        x_convert(dst, dtype, (const uint8_t *)row, AKV_F32, dim);
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

/* 1/d in two parts, as akv_reciprocal_of. */
X_INLINE __m256 x_factors(__m256 d, uint32_t format, __m256 *lo)
{
    __m256 one = _mm256_set1_ps(1.0f), hi = _mm256_div_ps(one, d);
    (void)format;
    *lo = _mm256_mul_ps(_mm256_fnmadd_ps(hi, d, one), hi);
    return hi;
}
/* Codes of `count` values of I8 or N6, a multiple of 32, under a scale that is not saturated. */
X_INLINE void x_uniform(const float *x, float r_hi, float r_lo, uint32_t format, uint32_t count,
                        uint8_t *code)
{
    __m256 hi = _mm256_set1_ps(r_hi), lo = _mm256_set1_ps(r_lo);

    for (uint32_t i = 0; i < count; i += 32u) {
        __m256i q[4];
        X_UNROLL(4)
        for (uint32_t k = 0; k < 4u; k++) {
            __m256 v = _mm256_loadu_ps(x + i + 8u * k);
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
        _mm256_storeu_si256((void *)(code + i), c);
    }
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

#endif
