/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of packed rows to floats with 256-bit vectors, for attend where it does not work on the
 * codes themselves: the precise mode, N6, queries that are not finite. */
#ifndef AKV_K_ATTEND_DECODE_H
#define AKV_K_ATTEND_DECODE_H
#include "k_attend.h"
#include <immintrin.h>

#define DECODE static inline __attribute__((always_inline))

/* Codebooks as floats, padded to 8: of N2, N3 the whole, of N4, N5 the positive half. */
struct decode_tables {
    __m256 low, high;
};
DECODE struct decode_tables decode_tables_of(uint32_t format)
{
    _Alignas(32) float entry[16] = {0};
    if (format == AKV_N2 || format == AKV_N3)
        for (uint32_t i = 0; i < 2u * akv_levels(format); i++)
            entry[i] = (float)akv_codebook_entry(format, i);
    if (format == AKV_N4 || format == AKV_N5)
        for (uint32_t i = 0; i < akv_levels(format); i++)
            entry[i] = (float)akv_codebook_entry(format, akv_levels(format) + i);
    struct decode_tables t = {_mm256_load_ps(entry), _mm256_load_ps(entry + 8)};
    return t;
}
DECODE __m256i word_at(const uint8_t *p, uint32_t n)
{
    return _mm256_set1_epi32((int)akv_load_u32(p + 4u * (size_t)n));
}
/* Integers of elements 8n … 8n+7 of a group or unit, whose words stand `step` words apart in the
 * planes (I8: whose bytes begin at p). */
DECODE __m256 decode_8(const uint32_t format, const uint8_t *p, const uint8_t *p1, uint32_t step,
                       uint32_t n, const struct decode_tables *t)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i pair_shift =
        _mm256_slli_epi32(_mm256_add_epi32(lane, _mm256_set1_epi32((int)(n % 2u * 8u))), 1);
    if (format == AKV_I8)
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8u * n))));
    if (format == AKV_N2 || format == AKV_N3) {
        __m256i x = _mm256_and_si256(_mm256_srlv_epi32(word_at(p, n / 2u * step), pair_shift),
                                     _mm256_set1_epi32(3));
        if (format == AKV_N3) {
            __m256i b = _mm256_srlv_epi32(word_at(p1, 0),
                                          _mm256_add_epi32(lane, _mm256_set1_epi32((int)(8u * n))));
            x = _mm256_or_si256(x, _mm256_and_si256(_mm256_slli_epi32(b, 2), _mm256_set1_epi32(4)));
        }
        return _mm256_permutevar8x32_ps(t->low, x);
    }
    __m256i x = _mm256_and_si256(
        _mm256_srlv_epi32(word_at(p, n * step), _mm256_slli_epi32(lane, 2)), _mm256_set1_epi32(15));
    if (format == AKV_N6) {
        __m256i b = _mm256_and_si256(_mm256_srlv_epi32(word_at(p1, n / 2u * step), pair_shift),
                                     _mm256_set1_epi32(3));
        return _mm256_cvtepi32_ps(
            _mm256_sub_epi32(_mm256_or_si256(x, _mm256_slli_epi32(b, 4)), _mm256_set1_epi32(32)));
    }
    if (format == AKV_N4) { /* 8 … 15 are positive, 7 … 0 their mirror */
        __m256i negative = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), x);
        __m256 y = _mm256_permutevar8x32_ps(t->low, _mm256_xor_si256(x, negative));
        return _mm256_xor_ps(y,
                             _mm256_and_ps(_mm256_castsi256_ps(negative), _mm256_set1_ps(-0.0f)));
    }
    /* N5: with the bit set positive, otherwise the mirror */
    __m256i b =
        _mm256_srlv_epi32(word_at(p1, 0), _mm256_add_epi32(lane, _mm256_set1_epi32((int)(8u * n))));
    __m256i negative =
        _mm256_sub_epi32(_mm256_and_si256(b, _mm256_set1_epi32(1)), _mm256_set1_epi32(1));
    x = _mm256_xor_si256(x, negative);
    __m256 y =
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(t->low, x), _mm256_permutevar8x32_ps(t->high, x),
                         _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
    return _mm256_xor_ps(y, _mm256_and_ps(_mm256_castsi256_ps(negative), _mm256_set1_ps(-0.0f)));
}

DECODE void decode_key_rows(struct akv_attend_work *work, const uint8_t *tile,
                            const uint32_t format, uint32_t dim, uint32_t first, uint32_t tokens)
{
    const uint32_t pad = akv_padded_dim(dim), groups = pad / 32u, width = akv_scale_width(format);
    const uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    const uint8_t *plane1 = tile + akv_plane1_offset(format, work->block_tokens, dim);
    const struct decode_tables tables = decode_tables_of(format);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t g = 0; g < groups; g++) {
            uint32_t scale = akv_scale_get(tile, format, AKV_ORDER_ROW, work->block_tokens, dim,
                                           first + t, g * 32u / width);
            __m256 unit = _mm256_set1_ps(akv_code_unit(format, scale));
            const uint8_t *p = tile + 4u * (size_t)akv_row_word(b0, dim, first + t, g);
            const uint8_t *p1 =
                plane1 + (b1 ? 4u * (size_t)akv_row_word(b1, dim, first + t, g) : 0u);
            float *to = work->tile + (size_t)t * pad + g * 32u;
            for (uint32_t n = 0; n < 4; n++)
                _mm256_store_ps(to + 8u * n,
                                _mm256_mul_ps(unit, decode_8(format, p, p1, groups, n, &tables)));
        }
}
DECODE void decode_value_rows(struct akv_attend_work *work, const uint8_t *tile,
                              const uint32_t format, uint32_t dim, uint32_t first, uint32_t tokens)
{
    const uint32_t pad = akv_padded_dim(dim), width = akv_scale_width(format);
    const uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    const uint8_t *plane1 = tile + akv_plane1_offset(format, work->block_tokens, dim);
    const struct decode_tables tables = decode_tables_of(format);
    for (uint32_t t = 0; t < tokens; t += 4) {
        uint32_t q = (first + t) / 4u;
        __m256 unit = _mm256_setzero_ps();
        for (uint32_t u = 0; u < pad / 8u; u++) {
            if (u * 8u % width == 0) {
                float x[4];
                for (uint32_t n = 0; n < 4; n++)
                    x[n] = akv_code_unit(format, akv_scale_get(tile, format, AKV_ORDER_QUAD,
                                                               work->block_tokens, dim,
                                                               first + t + n, u * 8u / width));
                unit = _mm256_setr_ps(x[0], x[1], x[2], x[3], x[0], x[1], x[2], x[3]);
            }
            const uint8_t *p = tile + 4u * (size_t)akv_quad_word(b0, work->block_tokens, q, u);
            const uint8_t *p1 =
                plane1 + (b1 ? 4u * (size_t)akv_quad_word(b1, work->block_tokens, q, u) : 0u);
            __m256 a[4];
            UNROLL
            for (uint32_t n = 0; n < 4; n++) /* dimensions 2n, 2n + 1 of 4 tokens */
                a[n] = _mm256_mul_ps(unit, decode_8(format, p, p1, 1, n, &tables));
            __m256 d0 = _mm256_permute2f128_ps(a[0], a[2], 0x20);
            __m256 d1 = _mm256_permute2f128_ps(a[0], a[2], 0x31);
            __m256 d2 = _mm256_permute2f128_ps(a[1], a[3], 0x20);
            __m256 d3 = _mm256_permute2f128_ps(a[1], a[3], 0x31);
            __m256 lo01 = _mm256_unpacklo_ps(d0, d1), hi01 = _mm256_unpackhi_ps(d0, d1);
            __m256 lo23 = _mm256_unpacklo_ps(d2, d3), hi23 = _mm256_unpackhi_ps(d2, d3);
            float *to = work->tile + (size_t)t * pad + u * 8u;
            _mm256_store_ps(to, _mm256_shuffle_ps(lo01, lo23, 0x44));
            _mm256_store_ps(to + pad, _mm256_shuffle_ps(lo01, lo23, 0xEE));
            _mm256_store_ps(to + 2u * pad, _mm256_shuffle_ps(hi01, hi23, 0x44));
            _mm256_store_ps(to + 3u * pad, _mm256_shuffle_ps(hi01, hi23, 0xEE));
        }
    }
}

DECODE void decode_packed_as(struct akv_attend_work *work, const uint8_t *tile,
                             const uint32_t format, uint32_t order, uint32_t dim, uint32_t first,
                             uint32_t tokens)
{
    if (order == AKV_ORDER_ROW)
        decode_key_rows(work, tile, format, dim, first, tokens);
    else
        decode_value_rows(work, tile, format, dim, first, tokens);
}
/* As akv_attend_decode, for quantised formats. */
static void decode_packed(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                          uint32_t order, uint32_t dim, uint32_t first, uint32_t tokens)
{
    if (format == AKV_I8)
        decode_packed_as(work, tile, AKV_I8, order, dim, first, tokens);
    else if (format == AKV_N6)
        decode_packed_as(work, tile, AKV_N6, order, dim, first, tokens);
    else if (format == AKV_N5)
        decode_packed_as(work, tile, AKV_N5, order, dim, first, tokens);
    else if (format == AKV_N4)
        decode_packed_as(work, tile, AKV_N4, order, dim, first, tokens);
    else if (format == AKV_N3)
        decode_packed_as(work, tile, AKV_N3, order, dim, first, tokens);
    else
        decode_packed_as(work, tile, AKV_N2, order, dim, first, tokens);
}

#endif
