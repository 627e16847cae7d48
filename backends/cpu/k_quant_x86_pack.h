/* SPDX-License-Identifier: Apache-2.0 */
/* Codes and scales in and out of tiles in 256-bit vectors: pack.h, 32 codes at a time. */
#ifndef AKV_K_QUANT_X86_PACK_H
#define AKV_K_QUANT_X86_PACK_H
#include "k_quant_x86.h"

/* ---- 32 codes (bytes) to the words of a plane and back ---- */

X_INLINE __m128i x_nibbles(__m256i code, int wider) /* low four bits of each: 4 words */
{
    __m256i pairs = _mm256_maddubs_epi16(
        wider ? _mm256_and_si256(code, _mm256_set1_epi8(15)) : code, _mm256_set1_epi16(0x1001));
    pairs = _mm256_packus_epi16(pairs, pairs);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08));
}
X_INLINE uint64_t x_crumbs(__m256i code) /* low two bits of each: 2 words, the first one low */
{
    __m256i quads = _mm256_maddubs_epi16(_mm256_and_si256(code, _mm256_set1_epi8(3)),
                                         _mm256_set1_epi16(0x0401));
    quads = _mm256_madd_epi16(quads, _mm256_set1_epi32(0x00100001));
    quads = _mm256_packus_epi32(quads, quads);
    quads = _mm256_packus_epi16(quads, quads);
    return (uint32_t)_mm256_extract_epi32(quads, 0) |
           (uint64_t)(uint32_t)_mm256_extract_epi32(quads, 4) << 32;
}
X_INLINE uint32_t x_bit(__m256i code, int bit) /* one bit of each: 1 word */
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(code, 7 - bit));
}
X_INLINE __m256i x_shifted(__m256i code,
                           int bits) /* code >> bits, bits of the neighbour masked later */
{
    return _mm256_srli_epi16(code, bits);
}

/* 16 bytes to 32 nibbles, low one first. */
X_INLINE __m256i x_from_nibbles(__m128i words)
{
    const __m128i mask = _mm_set1_epi8(15);
    __m128i lo = _mm_and_si128(words, mask), hi = _mm_and_si128(_mm_srli_epi16(words, 4), mask);
    return _mm256_set_m128i(_mm_unpackhi_epi8(lo, hi), _mm_unpacklo_epi8(lo, hi));
}
X_INLINE __m256i x_from_crumbs(uint64_t words)
{
    const __m128i nibble = _mm_set1_epi8(15), crumb = _mm_set1_epi8(3);
    __m128i w = _mm_cvtsi64_si128((long long)words);
    w = _mm_unpacklo_epi8(_mm_and_si128(w, nibble), _mm_and_si128(_mm_srli_epi16(w, 4), nibble));
    __m128i lo = _mm_and_si128(w, crumb), hi = _mm_and_si128(_mm_srli_epi16(w, 2), crumb);
    return _mm256_set_m128i(_mm_unpackhi_epi8(lo, hi), _mm_unpacklo_epi8(lo, hi));
}
X_INLINE __m256i x_from_bits(uint32_t word, int value) /* value where the bit is set */
{
    const __m256i byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                          2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
    __m256i w = _mm256_shuffle_epi8(_mm256_set1_epi32((int)word), byte);
    w = _mm256_cmpeq_epi8(_mm256_and_si256(w, bit), bit);
    return _mm256_and_si256(w, _mm256_set1_epi8((char)value));
}
X_INLINE void x_transpose4(__m128i w[4])
{
    __m128i a = _mm_unpacklo_epi32(w[0], w[1]), b = _mm_unpacklo_epi32(w[2], w[3]);
    __m128i c = _mm_unpackhi_epi32(w[0], w[1]), d = _mm_unpackhi_epi32(w[2], w[3]);
    w[0] = _mm_unpacklo_epi64(a, b);
    w[1] = _mm_unpackhi_epi64(a, b);
    w[2] = _mm_unpacklo_epi64(c, d);
    w[3] = _mm_unpackhi_epi64(c, d);
}
X_INLINE __m256i x_load_code(const uint8_t *code)
{
    return _mm256_loadu_si256((const void *)code);
}
X_INLINE void x_put32(uint8_t *at, uint32_t word)
{
    memcpy(at, &word, 4);
}
X_INLINE uint32_t x_get32(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
}

/* ---- ROW order; row is the plane's first byte of the row ---- */

X_INLINE void x_row_put_nibbles(uint8_t *row, uint32_t groups, const uint8_t *code, int wider)
{
    uint32_t g = 0;
    for (; g + 4u <= groups; g += 4u) {
        __m128i w[4];
        X_UNROLL(4)
        for (uint32_t k = 0; k < 4u; k++)
            w[k] = x_nibbles(x_load_code(code + 32u * (g + k)), wider);
        x_transpose4(w);
        X_UNROLL(4)
        for (uint32_t j = 0; j < 4u; j++)
            _mm_storeu_si128((void *)(row + 4u * (j * groups + g)), w[j]);
    }
    for (; g < groups; g++) {
        _Alignas(16) uint32_t w[4];
        _mm_store_si128((void *)w, x_nibbles(x_load_code(code + 32u * g), wider));
        for (uint32_t j = 0; j < 4u; j++)
            x_put32(row + 4u * (j * groups + g), w[j]);
    }
}
X_INLINE void x_row_put_crumbs(uint8_t *row, uint32_t groups, const uint8_t *code, int shift)
{
    for (uint32_t g = 0; g < groups; g++) {
        uint64_t w = x_crumbs(x_shifted(x_load_code(code + 32u * g), shift));
        x_put32(row + 4u * g, (uint32_t)w);
        x_put32(row + 4u * (groups + g), (uint32_t)(w >> 32));
    }
}
X_INLINE void x_row_put_bits(uint8_t *row, uint32_t groups, const uint8_t *code, int bit)
{
    for (uint32_t g = 0; g < groups; g++)
        x_put32(row + 4u * g, x_bit(x_load_code(code + 32u * g), bit));
}
/* Nibbles of groups g … g+3 (as many as there are), 16 bytes each. */
X_INLINE void x_row_get_nibbles(const uint8_t *row, uint32_t groups, uint32_t g, __m128i w[4])
{
    if (g + 4u <= groups) {
        X_UNROLL(4)
        for (uint32_t j = 0; j < 4u; j++)
            w[j] = _mm_loadu_si128((const void *)(row + 4u * (j * groups + g)));
        x_transpose4(w);
        return;
    }
    for (uint32_t k = 0; g + k < groups; k++) {
        const uint8_t *at = row + 4u * (g + k);
        w[k] = _mm_setr_epi32((int)x_get32(at), (int)x_get32(at + 4u * groups),
                              (int)x_get32(at + 8u * groups), (int)x_get32(at + 12u * groups));
    }
}
X_INLINE uint64_t x_row_get_crumbs(const uint8_t *row, uint32_t groups, uint32_t g)
{
    return x_get32(row + 4u * g) | (uint64_t)x_get32(row + 4u * (groups + g)) << 32;
}

X_INLINE void x_put_rows_size(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                              uint32_t t, uint32_t rows, const struct q_work *work)
{
    uint32_t groups = akv_padded_dim(dim) / 32u, scales = akv_scale_count(format, dim);
    uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    uint8_t *row0 = tile + (size_t)t * groups * b0 * 4u;
    uint8_t *row1 = tile + akv_plane1_offset(format, tokens, dim) + (size_t)t * groups * b1 * 4u;
    uint8_t *at =
        tile + akv_scale_offset(format, tokens, dim) + (size_t)t * scales * akv_scale_bytes(format);

    for (uint32_t k = 0; k < rows; k++) {
        const uint8_t *code = work->code + k * AKV_CODE_STRIDE;
        const uint16_t *scale = work->scale + k * AKV_SCALE_STRIDE;
        if (b0 == 8u)
            for (uint32_t i = 0; i < groups * 32u; i += 32u)
                _mm256_storeu_si256((void *)(row0 + i), x_load_code(code + i));
        else if (b0 == 4u)
            x_row_put_nibbles(row0, groups, code, b1 != 0u);
        else
            x_row_put_crumbs(row0, groups, code, 0);
        if (b1 == 2u)
            x_row_put_crumbs(row1, groups, code, (int)b0);
        else if (b1 == 1u)
            x_row_put_bits(row1, groups, code, (int)b0);
        if (akv_format_codebook(format)) {
            uint32_t s = 0;
            for (; s + 4u <= scales; s += 4u) {
                __m128i four = _mm_loadl_epi64((const void *)(scale + s));
                x_put32(at + s, (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(four, four)));
            }
            for (; s < scales; s++)
                at[s] = (uint8_t)scale[s];
            at += scales;
        } else {
            for (uint32_t s = 0; s < scales; s++)
                akv_store_u16(at + 2u * s, scale[s]);
            at += 2u * scales;
        }
        row0 += groups * b0 * 4u;
        row1 += groups * b1 * 4u;
    }
}
X_INLINE void x_put_rows_format(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                                uint32_t t, uint32_t rows, const struct q_work *work)
{
    if (dim == 128u)
        x_put_rows_size(tile, format, tokens, 128u, t, rows, work);
    else
        x_put_rows_size(tile, format, tokens, dim, t, rows, work);
}
static inline void x_put_rows(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                              uint32_t t, uint32_t rows, const struct q_work *work)
{
    X_BY_FORMAT(format, x_put_rows_format(tile, FORMAT, tokens, dim, t, rows, work));
}

/* ---- values ---- */

/* Stored codes to the integers they stand for. */
X_INLINE __m256i x_integers(__m256i code, uint32_t format)
{
    if (format == AKV_I8)
        return code;
    if (format == AKV_N6)
        return _mm256_sub_epi8(code, _mm256_set1_epi8(32));
    if (format == AKV_N5) {
        const __m256i upper = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(3, 8, 13, 18, 24, 29, 35, 41, 47, 54, 61, 70, 79, 90, 105, 127));
        const __m256i lower = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            -127, -105, -90, -79, -70, -61, -54, -47, -41, -35, -29, -24, -18, -13, -8, -3));
        __m256i nibble = _mm256_and_si256(code, _mm256_set1_epi8(15));
        return _mm256_blendv_epi8(_mm256_shuffle_epi8(lower, nibble),
                                  _mm256_shuffle_epi8(upper, nibble), _mm256_slli_epi16(code, 3));
    }
    const __m128i n4 =
        _mm_setr_epi8(-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127);
    const __m128i n3 = _mm_setr_epi8(-127, -79, -45, -14, 14, 45, 79, 127, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m128i n2 = _mm_setr_epi8(-127, -38, 38, 127, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    __m128i table = format == AKV_N4 ? n4 : format == AKV_N3 ? n3 : n2;
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), code);
}
/* Eight integers (low half of v) times a factor. */
X_INLINE __m256 x_value8(__m128i v, __m256 unit)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)), unit);
}
X_INLINE void x_values(__m256i code, uint32_t format, float unit, float *out)
{
    __m256i v = x_integers(code, format);
    __m128i lo = _mm256_castsi256_si128(v), hi = _mm256_extracti128_si256(v, 1);
    __m256 u = _mm256_set1_ps(unit);

    _mm256_storeu_ps(out, x_value8(lo, u));
    _mm256_storeu_ps(out + 8, x_value8(_mm_srli_si128(lo, 8), u));
    _mm256_storeu_ps(out + 16, x_value8(hi, u));
    _mm256_storeu_ps(out + 24, x_value8(_mm_srli_si128(hi, 8), u));
}
/* d / 128 of every scale byte. */
#define X_UNIT(s)                                                                                  \
    ((s) < 8 ? (float)(s)*0x1p-24f : (float)(8 + ((s)&7)) * (float)(1u << ((s) >> 3)) * 0x1p-25f)
#define X_UNIT4(s)  X_UNIT(s), X_UNIT((s) + 1), X_UNIT((s) + 2), X_UNIT((s) + 3)
#define X_UNIT16(s) X_UNIT4(s), X_UNIT4((s) + 4), X_UNIT4((s) + 8), X_UNIT4((s) + 12)
#define X_UNIT64(s) X_UNIT16(s), X_UNIT16((s) + 16), X_UNIT16((s) + 32), X_UNIT16((s) + 48)
static const float x_units[256] = {X_UNIT64(0), X_UNIT64(64), X_UNIT64(128), X_UNIT64(192)};

X_INLINE float x_unit(const uint8_t *scales, uint32_t format, uint32_t index)
{
    if (akv_format_codebook(format))
        return x_units[scales[index]];
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)akv_load_u16(scales + 2u * index))));
}
/* One row; groups and format are constants where this is inlined for the usual sizes. */
X_INLINE void x_get_row_groups(const uint8_t *row0, const uint8_t *row1, const uint8_t *scales,
                               uint32_t format, uint32_t groups, float *out)
{
    uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    __m128i w[4];

    X_UNROLL(8)
    for (uint32_t g = 0; g < groups; g++) {
        float unit = x_unit(scales, format, g * 32u / akv_scale_width(format));
        __m256i code;
        if (b0 == 4u && g % 4u == 0)
            x_row_get_nibbles(row0, groups, g, w);
        code = b0 == 8u   ? x_load_code(row0 + 32u * g)
               : b0 == 4u ? x_from_nibbles(w[g % 4u])
                          : x_from_crumbs(x_row_get_crumbs(row0, groups, g));
        if (b1 == 2u)
            code = _mm256_or_si256(
                code, _mm256_slli_epi16(x_from_crumbs(x_row_get_crumbs(row1, groups, g)), 4));
        if (b1 == 1u)
            code = _mm256_or_si256(code, x_from_bits(x_get32(row1 + 4u * g), 1 << b0));
        x_values(code, format, unit, out + 32u * g);
    }
}
/* Where row t of a tile in ROW order stands in its planes. */
struct x_row {
    const uint8_t *plane0, *plane1, *scales;
    size_t bytes0, bytes1, scale_bytes; /* of a row */
};
X_INLINE struct x_row x_row_of(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                               uint32_t t)
{
    uint32_t dp = akv_padded_dim(dim);
    struct x_row r = {tile,
                      tile + akv_plane1_offset(format, tokens, dim),
                      tile + akv_scale_offset(format, tokens, dim),
                      dp * akv_format_plane0(format) / 8u,
                      dp * akv_format_plane1(format) / 8u,
                      akv_scale_count(format, dim) * akv_scale_bytes(format)};
    r.plane0 += t * r.bytes0;
    r.plane1 += t * r.bytes1;
    r.scales += t * r.scale_bytes;
    return r;
}
X_INLINE void x_row_next(struct x_row *r)
{
    r->plane0 += r->bytes0;
    r->plane1 += r->bytes1;
    r->scales += r->scale_bytes;
}
X_INLINE void x_get_rows_format(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                                uint32_t t, uint32_t rows, float *out, size_t stride)
{
    uint32_t dp = akv_padded_dim(dim), width = akv_scale_width(format);
    struct x_row r = x_row_of(tile, format, tokens, dim, t);

    for (; rows != 0; rows--, out += stride, x_row_next(&r)) {
        if (dp == 128u)
            x_get_row_groups(r.plane0, r.plane1, r.scales, format, 4u, out);
        else if (dp == 64u)
            x_get_row_groups(r.plane0, r.plane1, r.scales, format, 2u, out);
        else
            x_get_row_groups(r.plane0, r.plane1, r.scales, format, dp / 32u, out);
        for (uint32_t s = 0; s * width < dp; s++) /* an integer times 0 is +0 */
            if (AKV_UNLIKELY(x_unit(r.scales, format, s) == 0.0f))
                memset(out + s * width, 0, 4u * AKV_MIN(width, dp - s * width));
    }
}
static inline void x_get_rows(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                              uint32_t t, uint32_t rows, float *out, size_t stride)
{
    X_BY_FORMAT(format, x_get_rows_format(tile, FORMAT, tokens, dim, t, rows, out, stride));
}

/* ---- QUAD order ---- */

/* One unit of 32 codes in stored order to its words in both planes. */
X_INLINE void x_unit_put(uint8_t *plane0, uint8_t *plane1, uint32_t format, size_t unit,
                         __m256i code)
{
    uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    if (b0 == 8u) {
        _mm256_storeu_si256((void *)(plane0 + 32u * unit), code);
    } else if (b0 == 4u) {
        _mm_storeu_si128((void *)(plane0 + 16u * unit), x_nibbles(code, b1 != 0u));
    } else {
        uint64_t w = x_crumbs(code);
        memcpy(plane0 + 8u * unit, &w, 8);
    }
    if (b1 == 2u) {
        uint64_t w = x_crumbs(x_shifted(code, 4));
        memcpy(plane1 + 8u * unit, &w, 8);
    } else if (b1 == 1u) {
        x_put32(plane1 + 4u * unit, x_bit(code, (int)b0));
    }
}
static void q_put_quad(uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t q,
                       const struct q_work *work)
{
    const uint8_t *code = work->code;
    const uint16_t *scale = work->scale;
    uint32_t dp = akv_padded_dim(dim), quads = tokens / 4u, scales = akv_scale_count(format, dim);
    uint8_t *plane1 = tile + akv_plane1_offset(format, tokens, dim);
    uint8_t *at = tile + akv_scale_offset(format, tokens, dim);

    for (uint32_t i = 0; i < dp; i += 32u) {
        __m256i r0 = x_load_code(code + i), r1 = x_load_code(code + AKV_CODE_STRIDE + i);
        __m256i r2 = x_load_code(code + 2u * AKV_CODE_STRIDE + i);
        __m256i r3 = x_load_code(code + 3u * AKV_CODE_STRIDE + i);
        __m256i a = _mm256_unpacklo_epi8(r0, r1), b = _mm256_unpacklo_epi8(r2, r3);
        __m256i c = _mm256_unpackhi_epi8(r0, r1), d = _mm256_unpackhi_epi8(r2, r3);
        __m256i d0 = _mm256_unpacklo_epi16(a, b), d4 = _mm256_unpackhi_epi16(a, b);
        __m256i d8 = _mm256_unpacklo_epi16(c, d), d12 = _mm256_unpackhi_epi16(c, d);
        size_t unit = (size_t)(i / 8u) * quads + q;
        x_unit_put(tile, plane1, format, unit, _mm256_permute2x128_si256(d0, d4, 0x20));
        x_unit_put(tile, plane1, format, unit + quads, _mm256_permute2x128_si256(d8, d12, 0x20));
        x_unit_put(tile, plane1, format, unit + 2u * quads,
                   _mm256_permute2x128_si256(d0, d4, 0x31));
        x_unit_put(tile, plane1, format, unit + 3u * quads,
                   _mm256_permute2x128_si256(d8, d12, 0x31));
    }
    for (uint32_t s = 0; s < scales; s++)
        for (uint32_t k = 0; k < 4u; k++) {
            size_t index = ((size_t)q * scales + s) * 4u + k;
            if (akv_format_codebook(format))
                at[index] = (uint8_t)scale[k * AKV_SCALE_STRIDE + s];
            else
                akv_store_u16(at + 2u * index, scale[k * AKV_SCALE_STRIDE + s]);
        }
}

X_INLINE __m256i x_unit_get(const uint8_t *plane0, const uint8_t *plane1, uint32_t format,
                            size_t unit)
{
    uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format);
    __m256i code;
    uint64_t w;

    if (b0 == 8u)
        return x_load_code(plane0 + 32u * unit);
    if (b0 == 4u) {
        code = x_from_nibbles(_mm_loadu_si128((const void *)(plane0 + 16u * unit)));
    } else {
        memcpy(&w, plane0 + 8u * unit, 8);
        code = x_from_crumbs(w);
    }
    if (b1 == 2u) {
        memcpy(&w, plane1 + 8u * unit, 8);
        code = _mm256_or_si256(code, _mm256_slli_epi16(x_from_crumbs(w), 4));
    }
    if (b1 == 1u)
        code = _mm256_or_si256(code, x_from_bits(x_get32(plane1 + 4u * unit), 1 << b0));
    return code;
}
X_INLINE void x_get_quad_format(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                                uint32_t q, float *rows)
{
    const __m256i by_token = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                                              0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    uint32_t dp = akv_padded_dim(dim), quads = tokens / 4u, count = akv_scale_count(format, dim);
    const uint8_t *plane1 = tile + akv_plane1_offset(format, tokens, dim);
    const uint8_t *scales = tile + akv_scale_offset(format, tokens, dim);

    for (uint32_t i = 0; i < dp; i += 8u) {
        __m256i v =
            x_integers(x_unit_get(tile, plane1, format, (size_t)(i / 8u) * quads + q), format);
        v = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v, by_token), order);
        __m128i half[2] = {_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)};
        for (uint32_t k = 0; k < 4u; k++) {
            __m128i eight = k & 1u ? _mm_srli_si128(half[k / 2u], 8) : half[k / 2u];
            float unit = x_unit(scales, format, (q * count + i / akv_scale_width(format)) * 4u + k);
            if (AKV_UNLIKELY(unit == 0.0f))
                eight = _mm_setzero_si128();
            _mm256_storeu_ps(rows + k * AKV_CODE_STRIDE + i, x_value8(eight, _mm256_set1_ps(unit)));
        }
    }
}
static void q_get_quad(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                       uint32_t q, float *rows)
{
    X_BY_FORMAT(format, x_get_quad_format(tile, FORMAT, tokens, dim, q, rows));
}

#endif
