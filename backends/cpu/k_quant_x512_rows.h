/* SPDX-License-Identifier: Apache-2.0 */
/* Rows in and out in 512-bit vectors: the same bytes as k_quant_x86.h and k_quant_x86_pack.h.
 *
 * Values of codebook formats come from a table of the codebook times the scale, held in one or two
 * registers; what carries the code may have other bits above those that the permutation reads. */
#ifndef AKV_K_QUANT_X512_ROWS_H
#define AKV_K_QUANT_X512_ROWS_H
#include "k_quant_x86_pack.h"

/* ---- rows in and out ---- */

/* Sixteen elements as f32. */
X_INLINE __m512 w_load16(const uint8_t *src, uint32_t i, uint32_t dtype)
{
    if (dtype == AKV_F32)
        return _mm512_loadu_ps(src + 4u * i);
    __m256i h = _mm256_loadu_si256((const void *)(src + 2u * i));
    if (dtype == AKV_F16)
        return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
X_INLINE void w_store16(uint8_t *dst, uint32_t i, uint32_t dtype, __m512 v)
{
    __m256i h;
    if (dtype == AKV_F32) {
        _mm512_storeu_ps(dst + 4u * i, v);
        return;
    }
    if (dtype == AKV_F16) {
        h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
    } else {
        __m512i u = _mm512_castps_si512(v), upper = _mm512_srli_epi32(u, 16);
        __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        __m512i round = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        round = _mm512_srli_epi32(round, 16);
        round = _mm512_mask_or_epi32(round, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), upper,
                                     _mm512_set1_epi32(0x40));
        h = _mm512_cvtepi32_epi16(round);
    }
    _mm256_storeu_si256((void *)(dst + 2u * i), h);
}
X_INLINE void w_convert_type(uint8_t *dst, uint32_t dst_type, const uint8_t *src, uint32_t src_type,
                             uint32_t dim)
{
    X_UNROLL(4)
    for (uint32_t i = 0; i < dim; i += 16u)
        w_store16(dst, i, dst_type, w_load16(src, i, src_type));
}
static void w_convert(uint8_t *dst, uint32_t dst_type, const uint8_t *src, uint32_t src_type,
                      uint32_t dim)
{
    if (dst_type == src_type)
        memcpy(dst, src, (size_t)dim * akv_raw_bytes(dst_type));
    else if (src_type == AKV_F32 && dst_type == AKV_F16)
        w_convert_type(dst, AKV_F16, src, AKV_F32, dim);
    else if (src_type == AKV_F32)
        w_convert_type(dst, AKV_BF16, src, AKV_F32, dim);
    else if (src_type == AKV_F16 && dst_type == AKV_F32)
        w_convert_type(dst, AKV_F32, src, AKV_F16, dim);
    else if (src_type == AKV_F16)
        w_convert_type(dst, AKV_BF16, src, AKV_F16, dim);
    else if (dst_type == AKV_F32)
        w_convert_type(dst, AKV_F32, src, AKV_BF16, dim);
    else
        w_convert_type(dst, AKV_F16, src, AKV_BF16, dim);
}

/* ---- rotation ---- */

/* Stages 1, 2, 4, 8 inside a vector: lane = ±lane + partner. */
X_INLINE __m512 w_stages_1248(__m512 v)
{
    const __m512 s1 = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);
    const __m512 s2 = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);
    const __m512 s4 = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
    const __m512 s8 = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
    v = _mm512_fmadd_ps(v, s1, _mm512_permute_ps(v, 0xB1));
    v = _mm512_fmadd_ps(v, s2, _mm512_permute_ps(v, 0x4E));
    v = _mm512_fmadd_ps(v, s4, _mm512_shuffle_f32x4(v, v, 0xB1));
    return _mm512_fmadd_ps(v, s8, _mm512_shuffle_f32x4(v, v, 0x4E));
}
/* All stages of a block of 16*count elements, count = 1 … 16, and the factor.  Storing starts from
 * rows of the caller, sane and with their largest magnitude in *largest; reading back from decoded
 * values. */
X_INLINE void w_rotate_block(const uint8_t *from, uint32_t dtype, int storing, float *to, int count,
                             __m512 factor, __m512i *largest)
{
    __m512 v[16];

    X_UNROLL(16)
    for (int i = 0; i < count; i++) {
        v[i] = w_load16(from, 16u * (uint32_t)i, dtype);
        if (storing) {
            __m512i a = _mm512_castps_si512(_mm512_abs_ps(v[i]));
            *largest = _mm512_max_epi32(*largest, a);
            v[i] = _mm512_maskz_mov_ps(
                _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32((int)AKV_TINY_BITS - 1)), v[i]);
        }
        v[i] = w_stages_1248(v[i]);
    }
    X_UNROLL(4)
    for (int s = 1; s < count; s *= 2)
        X_UNROLL(16)
    for (int i = 0; i < count; i++)
        if ((i & s) == 0) {
            __m512 a = v[i], b = v[i + s];
            v[i] = _mm512_add_ps(a, b);
            v[i + s] = _mm512_sub_ps(a, b);
        }
    X_UNROLL(16)
    for (int i = 0; i < count; i++)
        _mm512_storeu_ps(to + 16 * i, _mm512_mul_ps(v[i], factor));
}
X_INLINE __m512i w_rotate_count(const uint8_t *from, uint32_t dtype, int storing, float *row,
                                uint32_t dim, int count, __m512 factor)
{
    __m512i largest = _mm512_setzero_si512();
    uint32_t block = 16u * (uint32_t)count;
    for (uint32_t i = 0; i < dim; i += block)
        w_rotate_block(from + i * akv_raw_bytes(dtype), dtype, storing, row + i, count, factor,
                       &largest);
    return largest;
}
X_INLINE __m256i w_rotate_type(const uint8_t *from, uint32_t dtype, int storing, float *row,
                               uint32_t dim, float factor)
{
    __m512 f = _mm512_set1_ps(factor);
    __m512i m;

    switch (akv_rotate_block(dim)) {
    case 16:
        m = w_rotate_count(from, dtype, storing, row, dim, 1, f);
        break;
    case 32:
        m = w_rotate_count(from, dtype, storing, row, dim, 2, f);
        break;
    case 64:
        m = w_rotate_count(from, dtype, storing, row, dim, 4, f);
        break;
    case 128:
        m = w_rotate_count(from, dtype, storing, row, dim, 8, f);
        break;
    case 256:
        m = w_rotate_count(from, dtype, storing, row, dim, 16, f);
        break;
    default:
        return x_rotate_type(from, dtype, storing, row, dim, factor);
    }
    return _mm256_max_epi32(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1));
}
/* As x_rotate_load. */
static __m256i w_rotate_load(const uint8_t *src, uint32_t dtype, uint32_t dim, float *row)
{
    float factor = akv_rotate_store_factor(dim);

    for (uint32_t i = dim; i < akv_padded_dim(dim); i += 16u)
        _mm512_storeu_ps(row + i, _mm512_setzero_ps());
    if (dtype == AKV_F32)
        return w_rotate_type(src, AKV_F32, 1, row, dim, factor);
    if (dtype == AKV_F16)
        return w_rotate_type(src, AKV_F16, 1, row, dim, factor);
    return w_rotate_type(src, AKV_BF16, 1, row, dim, factor);
}
static void w_store(float *row, int back, uint32_t dim, uint32_t dtype, uint8_t *dst)
{
    if (back)
        w_rotate_type((const uint8_t *)row, AKV_F32, 0, row, dim, akv_rotate_read_factor(dim));
    if ((uint8_t *)row != dst)
        w_convert(dst, dtype, (const uint8_t *)row, AKV_F32, dim);
}

/* ---- codes of I8 and N6 ---- */

/* As x_amax. */
X_INLINE __m256i w_amax(const float *x, uint32_t count)
{
    __m512i m = _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x)));
    m = _mm512_max_epi32(m, _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + 16))));
    X_UNROLL(4)
    for (uint32_t i = 32u; i < count; i += 32u) {
        X_UNROLL(2)
        for (uint32_t k = 0; k < 32u; k += 16u)
            m = _mm512_max_epi32(m, _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + i + k))));
    }
    return _mm256_max_epi32(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1));
}
X_INLINE __m512i w_rounded(const float *x, __m512 hi, __m512 lo)
{
    __m512 v = _mm512_loadu_ps(x);
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(v, hi, _mm512_mul_ps(v, lo)));
}
/* As x_uniform, for `count` values, a multiple of 32. */
X_INLINE void w_uniform(const float *x, float r_hi, float r_lo, uint32_t format, uint32_t count,
                        uint8_t *code)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i limit = _mm512_set1_epi8(format == AKV_I8 ? 127 : 31);
    __m512 hi = _mm512_set1_ps(r_hi), lo = _mm512_set1_ps(r_lo);

    X_UNROLL(2)
    for (uint32_t i = 0; i < count; i += 64u) {
        int whole = i + 64u <= count;
        __m512i a = _mm512_packs_epi32(w_rounded(x + i, hi, lo), w_rounded(x + i + 16, hi, lo));
        __m512i b =
            whole ? _mm512_packs_epi32(w_rounded(x + i + 32, hi, lo), w_rounded(x + i + 48, hi, lo))
                  : _mm512_setzero_si512();
        __m512i c = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b));
        c = _mm512_max_epi8(c, _mm512_sub_epi8(_mm512_setzero_si512(), limit));
        if (format != AKV_I8)
            c = _mm512_add_epi8(_mm512_min_epi8(c, limit), _mm512_set1_epi8(32));
        if (whole)
            _mm512_storeu_si512(code + i, c);
        else
            _mm256_storeu_si256((void *)(code + i), _mm512_castsi512_si256(c));
    }
}

/* ---- codes to tiles, rows of four groups ---- */

/* Low four bits of the codes: bytes of the words j of groups 0 … 3, then the next j. */
X_INLINE __m512i w_nibbles(__m512i a, __m512i b, int wider)
{
    const __m512i bytes = _mm512_set_epi8(
        126, 124, 122, 120, 94, 92, 90, 88, 62, 60, 58, 56, 30, 28, 26, 24, /* word 3 of all */
        118, 116, 114, 112, 86, 84, 82, 80, 54, 52, 50, 48, 22, 20, 18, 16, /* 2 */
        110, 108, 106, 104, 78, 76, 74, 72, 46, 44, 42, 40, 14, 12, 10, 8,  /* 1 */
        102, 100, 98, 96, 70, 68, 66, 64, 38, 36, 34, 32, 6, 4, 2, 0);      /* 0 */
    const __m512i pair = _mm512_set1_epi16(0x1001);
    if (wider) {
        a = _mm512_and_si512(a, _mm512_set1_epi8(15));
        b = _mm512_and_si512(b, _mm512_set1_epi8(15));
    }
    return _mm512_permutex2var_epi8(_mm512_maddubs_epi16(a, pair), bytes,
                                    _mm512_maddubs_epi16(b, pair));
}
/* Two bits of the codes from bit `shift` on: the same for two words. */
X_INLINE __m256i w_crumbs(__m512i a, __m512i b, int shift)
{
    const __m512i bytes =
        _mm512_set_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                        0, 0, 0, 0, 0, 0, 0,                                                /* */
                        124, 120, 116, 112, 92, 88, 84, 80, 60, 56, 52, 48, 28, 24, 20, 16, /* 1 */
                        108, 104, 100, 96, 76, 72, 68, 64, 44, 40, 36, 32, 12, 8, 4, 0);    /* 0 */
    const __m512i mask = _mm512_set1_epi8(3), pair = _mm512_set1_epi16(0x0401);
    const __m512i quad = _mm512_set1_epi32(0x00100001);
    a = _mm512_and_si512(_mm512_srli_epi16(a, shift), mask);
    b = _mm512_and_si512(_mm512_srli_epi16(b, shift), mask);
    a = _mm512_madd_epi16(_mm512_maddubs_epi16(a, pair), quad);
    b = _mm512_madd_epi16(_mm512_maddubs_epi16(b, pair), quad);
    return _mm512_castsi512_si256(_mm512_permutex2var_epi8(a, bytes, b));
}
X_INLINE void w_put_bit(uint8_t *row, __m512i code, int bit)
{
    uint64_t w = _mm512_movepi8_mask(_mm512_slli_epi16(code, 7 - bit));
    memcpy(row, &w, 8);
}
X_INLINE void w_put_rows_format(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                                uint32_t t, uint32_t rows, const struct q_work *work)
{
    uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    uint32_t scales = akv_scale_count(format, 128u);
    uint8_t *row0 = tile + (size_t)t * b0 * 16u;
    uint8_t *row1 = tile + akv_plane1_offset(format, tokens, dim) + (size_t)t * b1 * 16u;
    uint8_t *at =
        tile + akv_scale_offset(format, tokens, dim) + (size_t)t * scales * akv_scale_bytes(format);

    for (uint32_t k = 0; k < rows; k++) {
        const uint16_t *scale = work->scale + k * AKV_SCALE_STRIDE;
        __m512i a = _mm512_loadu_si512(work->code + k * AKV_CODE_STRIDE);
        __m512i b = _mm512_loadu_si512(work->code + k * AKV_CODE_STRIDE + 64);
        if (b0 == 8u) {
            _mm512_storeu_si512(row0, a);
            _mm512_storeu_si512(row0 + 64, b);
        } else if (b0 == 4u) {
            _mm512_storeu_si512(row0, w_nibbles(a, b, b1 != 0u));
        } else {
            _mm256_storeu_si256((void *)row0, w_crumbs(a, b, 0));
        }
        if (b1 == 2u) {
            _mm256_storeu_si256((void *)row1, w_crumbs(a, b, (int)b0));
        } else if (b1 == 1u) {
            w_put_bit(row1, a, (int)b0);
            w_put_bit(row1 + 8, b, (int)b0);
        }
        if (akv_format_codebook(format)) {
            __m128i four = _mm_loadl_epi64((const void *)scale);
            x_put32(at, (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(four, four)));
        } else {
            for (uint32_t s = 0; s < scales; s++)
                akv_store_u16(at + 2u * s, scale[s]);
        }
        row0 += b0 * 16u;
        row1 += b1 * 16u;
        at += scales * akv_scale_bytes(format);
    }
}
static void w_put_rows(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t t,
                       uint32_t rows, const struct q_work *work)
{
    if (akv_padded_dim(dim) == 128u)
        X_BY_FORMAT(format, w_put_rows_format(tile, FORMAT, tokens, dim, t, rows, work))
    else
        x_put_rows(tile, format, tokens, dim, t, rows, work);
}

/* ---- values ---- */

/* Word `word` of group g where it covers 16 elements, or two words for 8 each. */
X_INLINE __m512i w_words(const uint8_t *row, uint32_t groups, uint32_t g, uint32_t word, int two)
{
    __m512i w = _mm512_set1_epi32((int)x_get32(row + 4u * (word * groups + g)));
    if (two)
        w = _mm512_mask_set1_epi32(w, 0xFF00, (int)x_get32(row + 4u * ((word + 1u) * groups + g)));
    return w;
}
/* Codes of half h of group g, with rubbish above their bits. */
X_INLINE __m512i w_codes(const uint8_t *row0, const uint8_t *row1, uint32_t format, uint32_t groups,
                         uint32_t g, uint32_t h)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    __m512i code, more;

    if (b0 == 4u)
        code =
            _mm512_srlv_epi32(w_words(row0, groups, g, 2u * h, 1),
                              _mm512_slli_epi32(_mm512_and_si512(lane, _mm512_set1_epi32(7)), 2));
    else
        code = _mm512_srlv_epi32(w_words(row0, groups, g, h, 0), _mm512_slli_epi32(lane, 1));
    if (b1 == 0u)
        return code;
    /* bits of plane 1 turned to where they belong */
    if (b1 == 2u)
        more = _mm512_rorv_epi32(
            w_words(row1, groups, g, h, 0),
            _mm512_sub_epi32(_mm512_slli_epi32(lane, 1), _mm512_set1_epi32((int)b0)));
    else
        more =
            _mm512_rorv_epi32(w_words(row1, groups, g, 0u, 0),
                              _mm512_add_epi32(lane, _mm512_set1_epi32((int)(16u * h) - (int)b0)));
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)(((1u << b1) - 1u) << b0)), more, code,
                                     0xCA); /* first ? … : … */
}
/* Integers of the codes 16*from … 16*from+15 of a codebook format, repeated above the last. */
X_INLINE __m512 w_integers(uint32_t format, uint32_t from)
{
    if (format == AKV_N5)
        return from == 0
                   ? _mm512_setr_ps(-127, -105, -90, -79, -70, -61, -54, -47, -41, -35, -29, -24,
                                    -18, -13, -8, -3)
                   : _mm512_setr_ps(3, 8, 13, 18, 24, 29, 35, 41, 47, 54, 61, 70, 79, 90, 105, 127);
    if (format == AKV_N4)
        return _mm512_setr_ps(-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96,
                              127);
    if (format == AKV_N3)
        return _mm512_setr_ps(-127, -79, -45, -14, 14, 45, 79, 127, -127, -79, -45, -14, 14, 45, 79,
                              127);
    return _mm512_setr_ps(-127, -38, 38, 127, -127, -38, 38, 127, -127, -38, 38, 127, -127, -38, 38,
                          127);
}
/* Group g of a row.  The sums with +0 turn the -0 of a scale of 0 into +0. */
X_INLINE void w_group_values(const uint8_t *row0, const uint8_t *row1, uint32_t format,
                             uint32_t groups, uint32_t g, float unit, float *out)
{
    const __m512 zero = _mm512_setzero_ps();
    __m512 u = _mm512_set1_ps(unit), low = zero, high = zero;

    if (akv_format_codebook(format))
        low = _mm512_fmadd_ps(w_integers(format, 0), u, zero);
    if (format == AKV_N5)
        high = _mm512_fmadd_ps(w_integers(format, 1), u, zero);
    X_UNROLL(2)
    for (uint32_t h = 0; h < 2u; h++) {
        __m512 v;
        if (format == AKV_I8) {
            __m128i c = _mm_loadu_si128((const void *)(row0 + 32u * g + 16u * h));
            v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(c)), u, zero);
        } else {
            __m512i code = w_codes(row0, row1, format, groups, g, h);
            if (format == AKV_N6) {
                code = _mm512_and_si512(code, _mm512_set1_epi32(63));
                code = _mm512_sub_epi32(code, _mm512_set1_epi32(32));
                v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), u, zero);
            } else if (format == AKV_N5) {
                v = _mm512_permutex2var_ps(low, code, high);
            } else {
                v = _mm512_permutexvar_ps(code, low);
            }
        }
        _mm512_storeu_ps(out + 16u * h, v);
    }
}
X_INLINE void w_get_row_groups(const uint8_t *row0, const uint8_t *row1, const uint8_t *scales,
                               uint32_t format, uint32_t groups, float *out)
{
    X_UNROLL(4)
    for (uint32_t g = 0; g < groups; g++)
        w_group_values(row0, row1, format, groups, g,
                       x_unit(scales, format, g * 32u / akv_scale_width(format)), out + 32u * g);
}
X_INLINE void w_get_rows_format(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                                uint32_t t, uint32_t rows, float *out, size_t stride)
{
    uint32_t groups = akv_padded_dim(dim) / 32u;
    struct x_row r = x_row_of(tile, format, tokens, dim, t);

    if (groups == 4u)
        for (; rows != 0; rows--, out += stride, x_row_next(&r))
            w_get_row_groups(r.plane0, r.plane1, r.scales, format, 4u, out);
    else
        for (; rows != 0; rows--, out += stride, x_row_next(&r))
            w_get_row_groups(r.plane0, r.plane1, r.scales, format, groups, out);
}
static void w_get_rows(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                       uint32_t t, uint32_t rows, float *out, size_t stride)
{
    X_BY_FORMAT(format, w_get_rows_format(tile, FORMAT, tokens, dim, t, rows, out, stride));
}

#endif
