/* SPDX-License-Identifier: Apache-2.0 */
/* Attend on packed codes with AVX2: as with AVX-512, 8 tokens (values: 8 dimensions) a vector.
 *
 * I8 and N5 have 16-bit queries and weights, multiplied in pairs (vpmaddwd): fewer bits would add
 * too much to their error.  The other formats have 8-bit ones (vpmaddubsw), whose pair sums must
 * fit in 16 bits: keys + 128 are at most 255, so two query codes that meet in a pair are at most
 * 128 together; values are at most 127, weights too. */
#include "k_attend.h"
#include <immintrin.h>

#define ALWAYS       static inline __attribute__((always_inline))
#define SHIFT(n)     ((int)(n))
#define WIDE(format) ((format) == AKV_I8 || (format) == AKV_N5)
#define WORDS        160u /* of a row, at most 144, and what a column of 4 reads beyond */
#define V128(p)      _mm_loadu_si128((const __m128i *)(const void *)(p))
#define V256(p)      _mm256_loadu_si256((const __m256i *)(const void *)(p))

/* Codebooks: entry i is that of the low bits of i.  Keys + 128, values as they are. */
struct tables {
    __m256i low, high; /* high (N5): with the bit of the second plane set */
};
ALWAYS struct tables tables_of(const uint32_t format, const int32_t bias)
{
    const __m256i add = _mm256_set1_epi8((char)bias);
    __m128i low = _mm_setzero_si128(), high = low;
    struct tables t;
    if (format == AKV_N5) {
        low = _mm_setr_epi8(-127, -105, -90, -79, -70, -61, -54, -47, -41, -35, -29, -24, -18, -13,
                            -8, -3);
        high = _mm_setr_epi8(3, 8, 13, 18, 24, 29, 35, 41, 47, 54, 61, 70, 79, 90, 105, 127);
    } else if (format == AKV_N4) {
        low = _mm_setr_epi8(-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127);
    } else if (format == AKV_N3) {
        low = _mm_setr_epi8(-127, -79, -45, -14, 14, 45, 79, 127, -127, -79, -45, -14, 14, 45, 79,
                            127);
    } else if (format == AKV_N2) {
        low = _mm_setr_epi8(-127, -38, 38, 127, -127, -38, 38, 127, -127, -38, 38, 127, -127, -38,
                            38, 127);
    }
    t.low = _mm256_add_epi8(_mm256_broadcastsi128_si256(low), add);
    t.high = _mm256_add_epi8(_mm256_broadcastsi128_si256(high), add);
    return t;
}
ALWAYS __m256i has_bits(__m256i x, __m256i bits) /* bytes: all ones where all bits are set */
{
    return _mm256_cmpeq_epi8(_mm256_and_si256(x, bits), bits);
}
ALWAYS void widen(__m256i x, __m256i out[2]) /* bytes 0, 2 and 1, 3 of each lane as 16-bit pairs */
{
    out[0] = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
    out[1] = _mm256_srai_epi16(x, 8);
}

/* ---- queries ---- */
static void make_codes(struct akv_attend_work *work, enum akv_query_order order)
{
    /* Element that stands at place i of a group; see the keys below. */
    static const uint8_t from[AKV_QUERY_ORDERS][32] = {
        {0,  2,  1,  3,  4,  6,  5,  7,  8,  10, 9,  11, 12, 14, 13, 15,
         16, 18, 17, 19, 20, 22, 21, 23, 24, 26, 25, 27, 28, 30, 29, 31},
        {0,  2,  4,  6,  1,  3,  5,  7,  8,  10, 12, 14, 9,  11, 13, 15,
         16, 18, 20, 22, 17, 19, 21, 23, 24, 26, 28, 30, 25, 27, 29, 31},
        {0,  4,  8,  12, 1,  5,  9,  13, 2,  6,  10, 14, 3,  7,  11, 15,
         16, 20, 24, 28, 17, 21, 25, 29, 18, 22, 26, 30, 19, 23, 27, 31},
        {0,  4,  2,  6,  1,  5,  3,  7,  8,  12, 10, 14, 9,  13, 11, 15,
         16, 20, 18, 22, 17, 21, 19, 23, 24, 28, 26, 30, 25, 29, 27, 31}};
    struct akv_query_codes *codes = &work->codes[order];
    const uint32_t groups = work->k_pad / 32u;
    const bool wide = order == AKV_QUERY_BYTE || order == AKV_QUERY_WIDE;
    codes->usable = true;
    for (uint32_t n = 0; n < work->rows * groups; n++) {
        const float *q = work->q[1] + (size_t)n * 32u, limit = wide ? 32000.0f : 127.0f;
        float most = 1e-30f, inverse;
        int32_t sum = 0;
        for (uint32_t i = 0; i < 32; i += 2) {
            float a = fabsf(q[from[order][i]]), b = fabsf(q[from[order][i + 1]]);
            float x = wide ? (a > b ? a : b) : a + b;
            codes->usable = codes->usable && x < 1e30f; /* false for NaN */
            most = x > most ? x : most;
        }
        if (!codes->usable)
            break;
        inverse = limit / most;
        for (uint32_t i = 0; i < 32; i++) {
            int32_t code = _mm_cvtss_si32(_mm_set_ss(q[from[order][i]] * inverse));
            sum += code;
            if (wide)
                ((int16_t *)(void *)codes->code)[n * 32u + i] = (int16_t)code;
            else
                codes->code[n * 32u + i] = (int8_t)code;
        }
        codes->scale[n] = most / limit;
        codes->bias[n] = wide ? 0 : -128 * sum;
    }
    codes->ready = true;
}

/* ---- keys ---- */
/* Words of 8 rows, `step` bytes apart: vector w holds word w of all rows. */
ALWAYS void transpose(const uint8_t *rows, uint32_t step, uint32_t words, __m256i *out)
{
    for (uint32_t w = 0; w < words; w += 4) {
        __m256i x[4];
        UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const uint8_t *p = rows + (size_t)i * step + 4u * w;
            x[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(V128(p)), V128(p + 4u * step), 1);
        }
        __m256i a = _mm256_unpacklo_epi32(x[0], x[1]), b = _mm256_unpackhi_epi32(x[0], x[1]);
        __m256i c = _mm256_unpacklo_epi32(x[2], x[3]), d = _mm256_unpackhi_epi32(x[2], x[3]);
        _mm256_store_si256(out + w, _mm256_unpacklo_epi64(a, c));
        _mm256_store_si256(out + w + 1, _mm256_unpackhi_epi64(a, c));
        _mm256_store_si256(out + w + 2, _mm256_unpacklo_epi64(b, d));
        _mm256_store_si256(out + w + 3, _mm256_unpackhi_epi64(b, d));
    }
}
ALWAYS __m256 ue5m3(__m256i bytes) /* in 32-bit lanes; over 128 */
{
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(bytes, 20)),
                         _mm256_set1_ps(0x1p105f));
}
/* Scale n of 8 tokens from `t` on, as the factor of an integer code; plane: the strip's scales. */
ALWAYS __m256 key_scale(const uint32_t format, const uint8_t *plane, uint32_t count, uint32_t t,
                        uint32_t n)
{
    if (format == AKV_I8) {
        if (count == 1u)
            return _mm256_cvtph_ps(V128(plane + 2u * t));
        _Alignas(32) float unit[8];
        for (uint32_t i = 0; i < 8; i++)
            unit[i] =
                akv_as_f32(akv_f32_from_f16(akv_load_u16(plane + 2u * ((t + i) * count + n))));
        return _mm256_load_ps(unit);
    }
    const uint8_t *p = plane + (size_t)t * count;
    if (count == 4u)
        return ue5m3(_mm256_and_si256(_mm256_srl_epi32(V256(p), _mm_cvtsi32_si128((int)(8u * n))),
                                      _mm256_set1_epi32(255)));
    /* The byte and the three before it, which are of the tile too. */
    __m256i index = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                       _mm256_set1_epi32((int)count));
    __m256i x = _mm256_i32gather_epi32((const int *)(const void *)(p + n - 3), index, 1);
    return ue5m3(_mm256_srli_epi32(x, 24));
}

/* Codes of group g: x[n] holds 4 elements of 8 tokens, those of places 4n … 4n+3 of a query; for
 * codebooks other than N5 + 128. */
ALWAYS void key_codes(const uint32_t format, const __m256i *word, const __m256i *bit,
                      uint32_t groups, uint32_t g, const struct tables *table, __m256i x[8])
{
    const __m256i nibble = _mm256_set1_epi8(15), pair = _mm256_set1_epi8(3);
    if (format == AKV_N4 || format == AKV_N5) {
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            __m256i w = word[j * groups + g], h = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
            w = _mm256_and_si256(w, nibble);
            x[2 * j] = _mm256_shuffle_epi8(table->low, w);
            x[2 * j + 1] = _mm256_shuffle_epi8(table->low, h);
            if (format == AKV_N5) { /* byte j of the bits: elements 8j … 8j+7 */
                __m256i b = _mm256_shuffle_epi8(
                    bit[g],
                    _mm256_add_epi8(_mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C, 0,
                                                      0x04040404, 0x08080808, 0x0C0C0C0C),
                                    _mm256_set1_epi8((char)j)));
                x[2 * j] = _mm256_blendv_epi8(x[2 * j], _mm256_shuffle_epi8(table->high, w),
                                              has_bits(b, _mm256_set1_epi32(0x40100401)));
                x[2 * j + 1] = _mm256_blendv_epi8(x[2 * j + 1], _mm256_shuffle_epi8(table->high, h),
                                                  has_bits(b, _mm256_set1_epi32((int)0x80200802)));
            }
        }
        return;
    }
    UNROLL
    for (uint32_t j = 0; j < 2; j++) {
        __m256i w = word[j * groups + g], b = _mm256_setzero_si256();
        if (format == AKV_N3) /* bytes 2j, 2j, 2j+1, 2j+1: elements 16j + 4m + k */
            b = _mm256_shuffle_epi8(
                bit[g],
                _mm256_add_epi8(_mm256_setr_epi32(0x01010000, 0x05050404, 0x09090808, 0x0D0D0C0C,
                                                  0x01010000, 0x05050404, 0x09090808, 0x0D0D0C0C),
                                _mm256_set1_epi8((char)(2 * j))));
        UNROLL
        for (uint32_t k = 0; k < 4; k++) {
            __m256i y = _mm256_and_si256(_mm256_srli_epi16(w, SHIFT(2 * k)), pair);
            if (format == AKV_N3)
                y = _mm256_or_si256(
                    y, _mm256_and_si256(has_bits(b, _mm256_set1_epi32((int)(0x10011001u << k))),
                                        _mm256_set1_epi8(4)));
            x[4 * j + k] = _mm256_shuffle_epi8(table->low, y);
        }
    }
}

ALWAYS void code_scores(struct akv_attend_work *work, const struct akv_strip *strip,
                        const uint32_t format, const enum akv_query_order order)
{
    const struct akv_query_codes *codes = &work->codes[order];
    const uint32_t groups = work->k_pad / 32u, b0 = akv_format_plane0(format),
                   b1 = akv_format_plane1(format), count = akv_scale_count(format, work->k_dim);
    const struct tables table = tables_of(format, WIDE(format) ? 0 : 128);
    const __m256i ones = _mm256_set1_epi16(1);
    const uint8_t *plane = strip->k + akv_scale_offset(format, work->block_tokens, work->k_dim) +
                           (size_t)strip->first * count * akv_scale_bytes(format);
    const uint8_t *rows = strip->k + (size_t)strip->first * groups * b0 * 4u;
    const uint8_t *bits = strip->k + akv_plane1_offset(format, work->block_tokens, work->k_dim) +
                          (size_t)strip->first * groups * 4u;
    __m256i word[WORDS], bit[32];
    for (uint32_t t = 0; t < AKV_STRIP; t += 8) {
        transpose(rows + (size_t)t * groups * b0 * 4u, groups * b0 * 4u, groups * b0, word);
        if (b1)
            transpose(bits + (size_t)t * groups * 4u, groups * 4u, groups, bit);
        for (uint32_t g = 0; g < groups; g++) {
            __m256 unit = key_scale(format, plane, count, t, format == AKV_I8 ? g / 4u : g);
            __m256i x[16];
            akv_attend_ask(work, (b0 + b1) / 2u + 1u);
            if (format == AKV_I8)
                UNROLL
            for (uint32_t i = 0; i < 8; i++)
                widen(word[g * 8u + i], x + 2 * i);
            else key_codes(format, word, bit, groups, g, &table, x);
            if (format == AKV_N5)
                UNROLL
            for (uint32_t i = 8; i > 0; i--)
                widen(x[i - 1], x + 2 * i - 2);
            for (uint32_t r = 0; r < work->rows; r++) {
                const size_t n = (size_t)r * groups + g;
                __m256i sum = _mm256_set1_epi32(codes->bias[n]), more = _mm256_setzero_si256();
                if (WIDE(format)) {
                    const int32_t *q = (const int32_t *)(const void *)codes->code + n * 16u;
                    UNROLL
                    for (uint32_t i = 0; i < 16; i += 2) {
                        sum =
                            _mm256_add_epi32(sum, _mm256_madd_epi16(x[i], _mm256_set1_epi32(q[i])));
                        more = _mm256_add_epi32(
                            more, _mm256_madd_epi16(x[i + 1], _mm256_set1_epi32(q[i + 1])));
                    }
                } else {
                    const int32_t *q = (const int32_t *)(const void *)codes->code + n * 8u;
                    UNROLL
                    for (uint32_t i = 0; i < 8; i += 2) {
                        __m256i a = _mm256_maddubs_epi16(x[i], _mm256_set1_epi32(q[i]));
                        __m256i b = _mm256_maddubs_epi16(x[i + 1], _mm256_set1_epi32(q[i + 1]));
                        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, ones));
                        more = _mm256_add_epi32(more, _mm256_madd_epi16(b, ones));
                    }
                }
                sum = _mm256_add_epi32(sum, more);
                __m256 before =
                    g == 0 ? _mm256_setzero_ps() : _mm256_load_ps(work->s[r] + work->at + t);
                _mm256_store_ps(
                    work->s[r] + work->at + t,
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum),
                                    _mm256_mul_ps(unit, _mm256_set1_ps(codes->scale[n])), before));
            }
        }
    }
}

bool akv_attend_code_scores_avx2(struct akv_attend_work *work, const struct akv_strip *strip)
{
    uint32_t format = strip->k_format;
    enum akv_query_order order = format == AKV_I8   ? AKV_QUERY_BYTE
                                 : format == AKV_N5 ? AKV_QUERY_WIDE
                                 : format >= AKV_N3 ? AKV_QUERY_PAIR
                                                    : AKV_QUERY_NIBBLE;
    if (format == AKV_N6 || format > AKV_N2 || (work->params->flags & AKV_ATTEND_PRECISE))
        return false;
    if (!work->codes[order].ready)
        make_codes(work, order);
    if (!work->codes[order].usable)
        return false;
    if (format == AKV_I8)
        code_scores(work, strip, AKV_I8, AKV_QUERY_BYTE);
    else if (format == AKV_N5)
        code_scores(work, strip, AKV_N5, AKV_QUERY_WIDE);
    else if (format == AKV_N4)
        code_scores(work, strip, AKV_N4, AKV_QUERY_NIBBLE);
    else if (format == AKV_N3)
        code_scores(work, strip, AKV_N3, AKV_QUERY_PAIR);
    else
        code_scores(work, strip, AKV_N2, AKV_QUERY_PAIR);
    return true;
}

/* ---- values ---- */
/* Scale n of 8 tokens, quads q and q + 1, as the factor of an integer code. */
ALWAYS __m256 value_scale(const uint32_t format, const uint8_t *plane, uint32_t count, uint32_t q,
                          uint32_t n)
{
    if (format == AKV_I8) {
        const uint8_t *p = plane + 8u * (size_t)(q * count + n);
        return _mm256_cvtph_ps(
            _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(const void *)p),
                               _mm_loadl_epi64((const __m128i *)(const void *)(p + 8u * count))));
    }
    const uint8_t *p = plane + 4u * (size_t)(q * count + n);
    __m128i x = _mm_insert_epi32(_mm_cvtsi32_si128((int)akv_load_u32(p)),
                                 (int)akv_load_u32(p + 4u * count), 1);
    return ue5m3(_mm256_cvtepu8_epi32(x));
}
/* Weights of 16 tokens in the order in which the codes of a vector meet them. */
ALWAYS void store_weights(const uint32_t format, __m256 a, __m256 b, uint32_t weight[8])
{
    __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
    if (WIDE(format)) { /* tokens 0 2, 1 3, 4 6, 5 7 …; N5: 0 4, 2 6, 1 5, 3 7 … */
        w = _mm256_permute4x64_epi64(w, 0xD8);
        w = _mm256_shuffle_epi8(
            w, _mm256_broadcastsi128_si256(
                   format == AKV_I8
                       ? _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15)
                       : _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15)));
        _mm256_store_si256((__m256i *)(void *)weight, w);
        return;
    }
    w = _mm256_packs_epi16(w, w);
    __m128i x = _mm_unpacklo_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    x = _mm_shuffle_epi8(
        x, format == AKV_N4 ? _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                            : _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    _mm_store_si128((__m128i *)(void *)weight, x);
}
/* Codes of the 8 dimensions of a unit and 16 tokens: a lane of y[n] holds one dimension. */
ALWAYS void value_codes(const uint32_t format, const uint8_t *p, const uint8_t *bit,
                        const struct tables *table, __m256i y[8])
{
    const __m256i nibble = _mm256_set1_epi8(15), pair = _mm256_set1_epi8(3);
    if (format == AKV_I8) {
        UNROLL
        for (uint32_t q = 0; q < 4; q++)
            widen(V256(p + q * 32u), y + 2 * q);
    } else if (format == AKV_N4 || format == AKV_N5) {
        __m256i set = _mm256_setzero_si256();
        if (format == AKV_N5)
            set = _mm256_broadcastsi128_si256(V128(bit));
        UNROLL
        for (uint32_t n = 0; n < 4; n += 2) /* quads n, n + 1: even, then odd tokens */
        {
            __m128i a = V128(p + n * 16u), b = V128(p + n * 16u + 16u);
            __m256i w = _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
            __m256i h = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
            w = _mm256_and_si256(w, nibble);
            y[n] = _mm256_shuffle_epi8(table->low, w);
            y[n + 1] = _mm256_shuffle_epi8(table->low, h);
            if (format == AKV_N5) { /* byte d / 2 of the quads' bits, upper half for odd d */
                __m256i s = _mm256_shuffle_epi8(
                    set, _mm256_add_epi8(_mm256_setr_epi32(0x04040000, 0x04040000, 0x05050101,
                                                           0x05050101, 0x06060202, 0x06060202,
                                                           0x07070303, 0x07070303),
                                         _mm256_set1_epi8((char)(n * 4u))));
                y[n] = _mm256_blendv_epi8(y[n], _mm256_shuffle_epi8(table->high, w),
                                          has_bits(s, _mm256_set1_epi64x(0x4010401004010401)));
                y[n + 1] = _mm256_blendv_epi8(
                    y[n + 1], _mm256_shuffle_epi8(table->high, h),
                    has_bits(s, _mm256_set1_epi64x((long long)0x8020802008020802u)));
            }
        }
    } else { /* a byte per dimension and quad: token k of each quad */
        __m256i x = _mm256_shuffle_epi8(
            V256(p), _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 0, 8, 1,
                                      9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
        __m128i a = _mm256_castsi256_si128(x), b = _mm256_extracti128_si256(x, 1);
        __m256i w = _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
        __m256i s = _mm256_setzero_si256();
        if (format == AKV_N3)
            s = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(V128(bit)),
                                    _mm256_setr_epi32(0x0C080400, 0x0C080400, 0x0D090501,
                                                      0x0D090501, 0x0E0A0602, 0x0E0A0602,
                                                      0x0F0B0703, 0x0F0B0703));
        UNROLL
        for (uint32_t k = 0; k < 4; k++) {
            __m256i h = _mm256_and_si256(_mm256_srli_epi16(w, SHIFT(2 * k)), pair);
            if (format == AKV_N3) {
                __m256i one = _mm256_set1_epi64x((long long)(0x1010101001010101u << k));
                h = _mm256_or_si256(h, _mm256_and_si256(has_bits(s, one), _mm256_set1_epi8(4)));
            }
            y[k] = _mm256_shuffle_epi8(table->low, h);
        }
    }
}

ALWAYS float most_of(__m256 a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

ALWAYS void code_values(struct akv_attend_work *work, const struct akv_strip *strip,
                        const uint32_t format)
{
    const uint32_t groups = work->v_pad / 32u, b0 = akv_format_plane0(format),
                   b1 = akv_format_plane1(format), count = akv_scale_count(format, work->v_dim),
                   quads = work->block_tokens / 4u;
    const float limit = WIDE(format) ? 32000.0f : 127.0f;
    const struct tables table = tables_of(format, 0);
    const __m256i ones = _mm256_set1_epi16(1);
    const uint8_t *plane = strip->v + akv_scale_offset(format, work->block_tokens, work->v_dim) +
                           (size_t)strip->first * count * akv_scale_bytes(format);
    const uint8_t *p = strip->v + (size_t)strip->first * b0;
    const uint8_t *bit = strip->v + akv_plane1_offset(format, work->block_tokens, work->v_dim) +
                         (size_t)strip->first;
    _Alignas(32) uint32_t weight[AKV_WORK_ROWS][8];
    float back = 0.0f;
    for (uint32_t g = 0; g < groups; g++) {
        if (format != AKV_I8 || g % 4u == 0) { /* the weights of a scale */
            uint32_t n = format == AKV_I8 ? g / 4u : g;
            __m256 a = value_scale(format, plane, count, 0, n);
            __m256 b = value_scale(format, plane, count, 2, n);
            float most = most_of(_mm256_max_ps(a, b));
            __m256 scale = _mm256_set1_ps(most > 0.0f ? limit / most : 0.0f);
            back = most / limit;
            a = _mm256_mul_ps(a, scale);
            b = _mm256_mul_ps(b, scale);
            for (uint32_t r = 0; r < work->rows; r++)
                store_weights(format, _mm256_mul_ps(_mm256_load_ps(work->s[r] + work->at), a),
                              _mm256_mul_ps(_mm256_load_ps(work->s[r] + work->at + 8), b),
                              weight[r]);
        }
        for (uint32_t u = g * 4u; u < g * 4u + 4u; u++) {
            __m256i y[8];
            value_codes(format, p + (size_t)u * quads * b0 * 4u, bit + (size_t)u * quads * 4u,
                        &table, y);
            if (format == AKV_N5)
                UNROLL
            for (uint32_t n = 4; n > 0; n--)
                widen(y[n - 1], y + 2 * n - 2);
            akv_attend_ask(work, (b0 + b1) / 4u + 1u);
            for (uint32_t r = 0; r < work->rows; r++) {
                __m256i sum = _mm256_setzero_si256(), more = sum;
                if (WIDE(format)) {
                    UNROLL
                    for (uint32_t n = 0; n < 8; n += 2) {
                        sum = _mm256_add_epi32(
                            sum, _mm256_madd_epi16(y[n], _mm256_set1_epi32((int)weight[r][n])));
                        more = _mm256_add_epi32(
                            more,
                            _mm256_madd_epi16(y[n + 1], _mm256_set1_epi32((int)weight[r][n + 1])));
                    }
                } else {
                    UNROLL
                    for (uint32_t n = 0; n < 4; n += 2) {
                        __m256i a =
                            _mm256_maddubs_epi16(_mm256_set1_epi32((int)weight[r][n]), y[n]);
                        __m256i b = _mm256_maddubs_epi16(_mm256_set1_epi32((int)weight[r][n + 1]),
                                                         y[n + 1]);
                        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, ones));
                        more = _mm256_add_epi32(more, _mm256_madd_epi16(b, ones));
                    }
                }
                float *to = work->sum[1] + (size_t)r * work->v_pad + u * 8u;
                _mm256_store_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(sum, more)),
                                                    _mm256_set1_ps(back * work->factor[r]),
                                                    _mm256_load_ps(to)));
            }
        }
    }
}

bool akv_attend_code_values_avx2(struct akv_attend_work *work, const struct akv_strip *strip)
{
    if (strip->v_format == AKV_N6 || strip->v_format > AKV_N2 ||
        (work->params->flags & AKV_ATTEND_PRECISE))
        return false;
    if (strip->v_format == AKV_I8)
        code_values(work, strip, AKV_I8);
    else if (strip->v_format == AKV_N5)
        code_values(work, strip, AKV_N5);
    else if (strip->v_format == AKV_N4)
        code_values(work, strip, AKV_N4);
    else if (strip->v_format == AKV_N3)
        code_values(work, strip, AKV_N3);
    else
        code_values(work, strip, AKV_N2);
    return true;
}
