/* SPDX-License-Identifier: Apache-2.0 */
/* Attend on packed codes with AVX-512 VNNI and VBMI: 8-bit queries and weights, 32-bit sums.
 * I8 keys have 8 bits themselves: their queries have 15, code = 128 * high + low in two planes.
 *
 * Keys: a strip's code words are transposed, so that a vector holds one word of 16 tokens; four
 * codes of a key meet four of a query in each lane, all queries after one another.  Values: QUAD
 * order is brought to vectors of 16 dimensions with codes of four tokens in each lane; they meet
 * four weights.  A group's 32-bit sums become floats times the scales of keys (values: the scales
 * are in the weights). */
#include "k_attend.h"
#include <immintrin.h>

#define ALWAYS static inline __attribute__((always_inline))
#if defined(__clang__)
#define SHIFT(n) ((unsigned)(n))
#else
#define SHIFT(n) ((int)(n))
#endif
#define WORDS 160u /* of a row, at most 144, and what a column of 4 reads beyond */

/* Codebooks as tables of 64: entry i is that of the low bits of i.  Keys + 128, values as they are.
 */
struct tables {
    __m512i low, high; /* high: with the bit of the second plane set */
};
ALWAYS struct tables tables_of(const uint32_t format, const int32_t bias)
{
    const __m512i add = _mm512_set1_epi8((char)bias);
    struct tables t = {add, add};
    if (format == AKV_N5) {
        t.low = _mm512_broadcast_i32x4(_mm_setr_epi8(-127, -105, -90, -79, -70, -61, -54, -47, -41,
                                                     -35, -29, -24, -18, -13, -8, -3));
        t.high = _mm512_broadcast_i32x4(
            _mm_setr_epi8(3, 8, 13, 18, 24, 29, 35, 41, 47, 54, 61, 70, 79, 90, 105, 127));
    } else if (format == AKV_N4) {
        t.low = _mm512_broadcast_i32x4(
            _mm_setr_epi8(-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127));
    } else if (format == AKV_N3) {
        t.low = _mm512_broadcast_i32x4(_mm_setr_epi8(-127, -79, -45, -14, -127, -79, -45, -14, -127,
                                                     -79, -45, -14, -127, -79, -45, -14));
        t.high = _mm512_broadcast_i32x4(
            _mm_setr_epi8(14, 45, 79, 127, 14, 45, 79, 127, 14, 45, 79, 127, 14, 45, 79, 127));
    } else if (format == AKV_N2) {
        t.low = _mm512_broadcast_i32x4(_mm_setr_epi8(-127, -38, 38, 127, -127, -38, 38, 127, -127,
                                                     -38, 38, 127, -127, -38, 38, 127));
    }
    t.low = _mm512_add_epi8(t.low, add);
    t.high = _mm512_add_epi8(t.high, add);
    return t;
}

/* ---- queries ---- */
static void make_codes(struct akv_attend_work *work, enum akv_query_order order)
{
    /* Byte i of a group in the order of each unpacking; see the keys below. */
    static const uint8_t from[AKV_QUERY_PAIR + 1][32] = {
        {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
         16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31},
        {0,  2,  4,  6,  1,  3,  5,  7,  8,  10, 12, 14, 9,  11, 13, 15,
         16, 18, 20, 22, 17, 19, 21, 23, 24, 26, 28, 30, 25, 27, 29, 31},
        {0,  4,  8,  12, 1,  5,  9,  13, 2,  6,  10, 14, 3,  7,  11, 15,
         16, 20, 24, 28, 17, 21, 25, 29, 18, 22, 26, 30, 19, 23, 27, 31}};
    struct akv_query_codes *codes = &work->codes[order];
    const uint32_t groups = work->k_pad / 32u;
    const __m256i permute = _mm256_loadu_si256((const __m256i *)(const void *)from[order]);
    const float limit = order == AKV_QUERY_BYTE ? 16256.0f : 127.0f;
    float largest = 0.0f;
    for (uint32_t n = 0; n < work->rows * groups; n++) {
        const float *q = work->q[1] + (size_t)n * 32u;
        __m512 a = _mm512_load_ps(q), b = _mm512_load_ps(q + 16);
        float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        bool finite =
            _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(1e30f), _CMP_LT_OQ) == 0xFFFF &&
            _mm512_cmp_ps_mask(_mm512_abs_ps(b), _mm512_set1_ps(1e30f), _CMP_LT_OQ) == 0xFFFF;
        largest = finite ? largest : 1.0f;
        most = finite && most > 1e-30f ? most : 1.0f;
        __m512 inverse = _mm512_set1_ps(limit / most);
        __m512i x = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
        __m512i y = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
        codes->scale[n] = most / limit;
        codes->bias[n] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(x, y));
        if (order == AKV_QUERY_BYTE) {
            __m512i u = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(64)), 7);
            __m512i w = _mm512_srai_epi32(_mm512_add_epi32(y, _mm512_set1_epi32(64)), 7);
            int8_t *high = codes->code + AKV_WORK_FLOATS + n * 32u;
            x = _mm512_sub_epi32(x, _mm512_slli_epi32(u, 7));
            y = _mm512_sub_epi32(y, _mm512_slli_epi32(w, 7));
            _mm_store_si128((__m128i *)(void *)high, _mm512_cvtepi32_epi8(u));
            _mm_store_si128((__m128i *)(void *)(high + 16), _mm512_cvtepi32_epi8(w));
        }
        __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(y), _mm512_cvtepi32_epi8(x));
        _mm256_storeu_si256((__m256i *)(void *)(codes->code + n * 32u),
                            _mm256_permutexvar_epi8(permute, bytes));
    }
    codes->usable = largest == 0.0f;
    codes->ready = true;
}

/* ---- what both sides need ---- */
/* 4 x 4 words within each quarter: x[i] holds words w … w+3 of rows i, i+4, i+8, i+12. */
ALWAYS void turn_words(const __m512i x[4], __m512i *out)
{
    __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
    __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
    _mm512_store_si512(out, _mm512_unpacklo_epi64(a, c));
    _mm512_store_si512(out + 1, _mm512_unpackhi_epi64(a, c));
    _mm512_store_si512(out + 2, _mm512_unpacklo_epi64(b, d));
    _mm512_store_si512(out + 3, _mm512_unpackhi_epi64(b, d));
}
/* Words of 16 rows, `step` bytes apart: vector w holds word w of all rows. */
ALWAYS void transpose(const uint8_t *rows, uint32_t step, uint32_t words, __m512i *out)
{
    uint32_t w = 0;
    for (; w + 16u <= words; w += 16) { /* y[c][i]: words w + 4c … of rows i, i+4, i+8, i+12 */
        __m512i y[4][4];
        UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const uint8_t *p = rows + (size_t)i * step + 4u * w;
            __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 4u * step);
            __m512i c = _mm512_loadu_si512(p + 8u * step), d = _mm512_loadu_si512(p + 12u * step);
            __m512i ab = _mm512_shuffle_i32x4(a, b, 0x44), cd = _mm512_shuffle_i32x4(c, d, 0x44);
            y[0][i] = _mm512_shuffle_i32x4(ab, cd, 0x88);
            y[1][i] = _mm512_shuffle_i32x4(ab, cd, 0xDD);
            ab = _mm512_shuffle_i32x4(a, b, 0xEE);
            cd = _mm512_shuffle_i32x4(c, d, 0xEE);
            y[2][i] = _mm512_shuffle_i32x4(ab, cd, 0x88);
            y[3][i] = _mm512_shuffle_i32x4(ab, cd, 0xDD);
        }
        UNROLL
        for (uint32_t i = 0; i < 4; i++)
            turn_words(y[i], out + w + 4u * i);
    }
    for (; w < words; w += 4) {
        __m512i x[4];
        UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const uint8_t *p = rows + (size_t)i * step + 4u * w;
            __m512i a = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
            a = _mm512_inserti32x4(
                a, _mm_loadu_si128((const __m128i *)(const void *)(p + 4u * step)), 1);
            a = _mm512_inserti32x4(
                a, _mm_loadu_si128((const __m128i *)(const void *)(p + 8u * step)), 2);
            x[i] = _mm512_inserti32x4(
                a, _mm_loadu_si128((const __m128i *)(const void *)(p + 12u * step)), 3);
        }
        turn_words(x, out + w);
    }
}

/* Scales of a strip: bytes of up to 8 scales a token in two registers, or decoded one by one. */
struct scales {
    __m512i low, high, first; /* first: byte (I8: half) number of scale 0 of each token */
    const uint8_t *tile;
    uint32_t format, order, dim, tokens, at;
    bool few;
    uint32_t stride; /* between the scales of a token */
};
/* A multiple of 16 bytes, at most 64, and no byte more: a masked load would wait for a line of
 * which it takes nothing. */
ALWAYS __m512i load_bytes(const uint8_t *p, uint32_t bytes)
{
    __m512i x = _mm512_setzero_si512();
    if (bytes == 64u)
        return _mm512_loadu_si512(p);
    if (bytes >= 32u)
        x = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)p));
    if (bytes & 16u) {
        __m128i y = _mm_loadu_si128((const __m128i *)(const void *)(p + (bytes & 32u)));
        x = bytes & 32u ? _mm512_inserti32x4(x, y, 2) : _mm512_zextsi128_si512(y);
    }
    return x;
}
ALWAYS struct scales scales_of(const struct akv_attend_work *work, const uint8_t *tile,
                               const uint32_t format, const uint32_t order, uint32_t dim,
                               uint32_t at)
{
    struct scales s;
    const __m512i t = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const uint32_t count = akv_scale_count(format, dim),
                   bytes = akv_scale_bytes(format) * 16u * count;
    const uint8_t *plane = tile + akv_scale_offset(format, work->block_tokens, dim) +
                           (size_t)at * count * akv_scale_bytes(format);
    s.tile = tile;
    s.format = format;
    s.order = order;
    s.dim = dim;
    s.tokens = work->block_tokens;
    s.at = at;
    s.few = bytes <= 128u;
    s.stride = order == AKV_ORDER_QUAD ? 4u : 1u;
    s.low = s.high = _mm512_setzero_si512();
    if (s.few) {
        s.low = load_bytes(plane, AKV_MIN(bytes, 64u));
        s.high = load_bytes(plane + 64, AKV_MAX(bytes, 64u) - 64u);
    }
    const __m512i c = _mm512_set1_epi32((int)count);
    if (order == AKV_ORDER_QUAD) /* (t / 4) * count * 4 + t % 4 */
        s.first =
            _mm512_add_epi32(_mm512_slli_epi32(_mm512_mullo_epi32(_mm512_srli_epi32(t, 2), c), 2),
                             _mm512_and_si512(t, _mm512_set1_epi32(3)));
    else
        s.first = _mm512_mullo_epi32(t, c);
    return s;
}
/* Scale n of 16 tokens, as the factor of an integer code. */
ALWAYS __m512 scale_at(const struct scales *s, const uint32_t format, uint32_t n)
{
    if (!s->few) {
        _Alignas(64) float unit[16];
        for (uint32_t t = 0; t < 16; t++)
            unit[t] = akv_code_unit(
                format, akv_scale_get(s->tile, format, s->order, s->tokens, s->dim, s->at + t, n));
        return _mm512_load_ps(unit);
    }
    __m512i index = _mm512_add_epi32(s->first, _mm512_set1_epi32((int)(n * s->stride)));
    if (format == AKV_I8) {
        __m512i x = _mm512_permutex2var_epi16(s->low, index, s->high);
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
    }
    __m512i x = _mm512_maskz_permutex2var_epi8(0x1111111111111111u, s->low, index, s->high);
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 20)), _mm512_set1_ps(0x1p105f));
}

/* ---- keys ---- */
/* Codes + 128 of group g: x[n] holds 4 elements of 16 tokens, those of bytes 4n … 4n+3 of a query.
 */
ALWAYS void key_codes(const uint32_t format, const __m512i *word, const __m512i *bit,
                      uint32_t groups, uint32_t g, const struct tables *table, __m512i x[8])
{
    if (format == AKV_I8) {
        UNROLL
        for (uint32_t n = 0; n < 8; n++)
            x[n] = _mm512_xor_si512(word[g * 8u + n], _mm512_set1_epi8((char)0x80));
    } else if (format == AKV_N4 || format == AKV_N5) {
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            __m512i w = word[j * groups + g], h = _mm512_srli_epi16(w, 4);
            x[2 * j] = _mm512_permutexvar_epi8(w, table->low);
            x[2 * j + 1] = _mm512_permutexvar_epi8(h, table->low);
            if (format == AKV_N5) { /* byte j of the bits: elements 8j … 8j+7 */
                __m512i b = _mm512_shuffle_epi8(
                    bit[g],
                    _mm512_add_epi8(_mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0),
                                    _mm512_set1_epi8((char)j)));
                __mmask64 even = _mm512_test_epi8_mask(b, _mm512_set1_epi32(0x40100401));
                __mmask64 odd = _mm512_test_epi8_mask(b, _mm512_set1_epi32((int)0x80200802));
                x[2 * j] = _mm512_mask_permutexvar_epi8(x[2 * j], even, w, table->high);
                x[2 * j + 1] = _mm512_mask_permutexvar_epi8(x[2 * j + 1], odd, h, table->high);
            }
        }
    } else {
        UNROLL
        for (uint32_t j = 0; j < 2; j++) {
            __m512i w = word[j * groups + g], b = _mm512_setzero_si512();
            if (format == AKV_N3) /* bytes 2j, 2j, 2j+1, 2j+1: elements 16j + 4m + k */
                b = _mm512_shuffle_epi8(bit[g],
                                        _mm512_add_epi8(_mm512_set4_epi32(0x0D0D0C0C, 0x09090808,
                                                                          0x05050404, 0x01010000),
                                                        _mm512_set1_epi8((char)(2 * j))));
            UNROLL
            for (uint32_t k = 0; k < 4; k++) {
                __m512i y = _mm512_srli_epi16(w, SHIFT(2 * k));
                x[4 * j + k] = _mm512_permutexvar_epi8(y, table->low);
                if (format == AKV_N3) {
                    __mmask64 set =
                        _mm512_test_epi8_mask(b, _mm512_set1_epi32((int)(0x10011001u << k)));
                    x[4 * j + k] = _mm512_mask_permutexvar_epi8(x[4 * j + k], set, y, table->high);
                }
            }
        }
    }
}

ALWAYS void code_scores(struct akv_attend_work *work, const struct akv_strip *strip,
                        const uint32_t format, const enum akv_query_order order)
{
    const struct akv_query_codes *codes = &work->codes[order];
    const uint32_t groups = work->k_pad / 32u, b0 = akv_format_plane0(format),
                   b1 = akv_format_plane1(format);
    const struct tables table = tables_of(format, 128);
    struct scales scales =
        scales_of(work, strip->k, format, AKV_ORDER_ROW, work->k_dim, strip->first);
    __m512i word[WORDS], bit[32];
    transpose(strip->k + (size_t)strip->first * groups * b0 * 4u, groups * b0 * 4u, groups * b0,
              word);
    if (b1)
        transpose(strip->k + akv_plane1_offset(format, work->block_tokens, work->k_dim) +
                      (size_t)strip->first * groups * 4u,
                  groups * 4u, groups, bit);
    for (uint32_t g = 0; g < groups; g++) {
        __m512 unit = scale_at(&scales, format, format == AKV_I8 ? g / 4u : g);
        __m512i x[8];
        key_codes(format, word, bit, groups, g, &table, x);
        akv_attend_ask(work, b0 + b1 + 1u);
        for (uint32_t r = 0; r < work->rows; r++) {
            const size_t n = (size_t)r * groups + g;
            const int32_t *q = (const int32_t *)(const void *)(codes->code + n * 32u);
            __m512i sum = _mm512_set1_epi32(codes->bias[n]);
            UNROLL
            for (uint32_t i = 0; i < 8; i++)
                sum = _mm512_dpbusd_epi32(sum, x[i], _mm512_set1_epi32(q[i]));
            if (format == AKV_I8) {
                __m512i high = _mm512_setzero_si512();
                UNROLL
                for (uint32_t i = 0; i < 8; i++)
                    high = _mm512_dpbusd_epi32(high, x[i],
                                               _mm512_set1_epi32(q[AKV_WORK_FLOATS / 4u + i]));
                sum = _mm512_add_epi32(sum, _mm512_slli_epi32(high, 7));
            }
            __m512 before = g == 0 ? _mm512_setzero_ps() : _mm512_load_ps(work->s[r] + work->at);
            _mm512_store_ps(work->s[r] + work->at,
                            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                                            _mm512_mul_ps(unit, _mm512_set1_ps(codes->scale[n])),
                                            before));
        }
    }
}

bool akv_attend_code_scores_avx512(struct akv_attend_work *work, const struct akv_strip *strip)
{
    uint32_t format = strip->k_format;
    enum akv_query_order order = format == AKV_I8   ? AKV_QUERY_BYTE
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
        code_scores(work, strip, AKV_N5, AKV_QUERY_NIBBLE);
    else if (format == AKV_N4)
        code_scores(work, strip, AKV_N4, AKV_QUERY_NIBBLE);
    else if (format == AKV_N3)
        code_scores(work, strip, AKV_N3, AKV_QUERY_PAIR);
    else
        code_scores(work, strip, AKV_N2, AKV_QUERY_PAIR);
    return true;
}

/* ---- values ---- */
/* Which token's weight stands in byte i of the 16 that y[0] … y[3] meet. */
ALWAYS __m128i weight_order(const uint32_t format)
{
    if (format == AKV_I8)
        return _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (format == AKV_N4 || format == AKV_N5)
        return _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    return _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}
/* Index vectors of value_codes, for dimension d = 0 … 15 of two units: 16-bit words of quads 0 and
 * 1; bytes of quads 0 … 3; bytes of the bits of quads 0, 0, 1, 1 and 0, 1, 2, 3. */
#define EIGHT(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define PAIR(e)  e, 8 + e,
#define PAIR2(e) 32 + e, 40 + e,
#define BYTE(e)  e, 8 + e, 16 + e, 24 + e,
#define BYTE2(e) 32 + e, 40 + e, 48 + e, 56 + e,
#define BIT5(e)  e / 2, e / 2, 4 + e / 2, 4 + e / 2,
#define BIT52(e) 16 + e / 2, 16 + e / 2, 20 + e / 2, 20 + e / 2,
#define BIT3(e)  e / 2, 4 + e / 2, 8 + e / 2, 12 + e / 2,
#define BIT32(e) 16 + e / 2, 20 + e / 2, 24 + e / 2, 28 + e / 2,
static const _Alignas(64) uint16_t pair_index[32] = {EIGHT(PAIR) EIGHT(PAIR2)};
static const _Alignas(64) uint8_t byte_index[64] = {EIGHT(BYTE) EIGHT(BYTE2)};
static const _Alignas(64) uint8_t bit5_index[64] = {EIGHT(BIT5) EIGHT(BIT52)};
static const _Alignas(64) uint8_t bit3_index[64] = {EIGHT(BIT3) EIGHT(BIT32)};
struct value_index {
    __m512i pairs, bytes, bits;
    __m512i even, odd; /* bit of the token within the byte, odd dimensions in the upper nibble */
};
ALWAYS struct value_index value_index_of(const uint32_t format)
{
    struct value_index v;
    v.pairs = _mm512_load_si512(pair_index);
    v.bytes = _mm512_load_si512(byte_index);
    v.bits = _mm512_load_si512(format == AKV_N5 ? bit5_index : bit3_index);
    v.even = _mm512_set1_epi64(format == AKV_N5 ? 0x4010401004010401 : 0x1010101001010101);
    v.odd = _mm512_set1_epi64((long long)0x8020802008020802u);
    return v;
}
ALWAYS __m512i two_units(const uint8_t *p, uint32_t apart) /* 32 bytes each */
{
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)p)),
        _mm256_loadu_si256((const __m256i *)(const void *)(p + apart)), 1);
}
ALWAYS __m512i two_bits(const uint8_t *p, uint32_t apart) /* 16 bytes each */
{
    return _mm512_castsi256_si512(
        _mm256_set_m128i(_mm_loadu_si128((const __m128i *)(const void *)(p + apart)),
                         _mm_loadu_si128((const __m128i *)(const void *)p)));
}
/* Codes of 16 dimensions, units u and u + 1: a lane of y[n] holds one dimension of four tokens. */
ALWAYS void value_codes(const uint32_t format, const uint8_t *p, const uint8_t *bit, uint32_t quads,
                        const struct value_index *v, const struct tables *table, __m512i y[4])
{
    if (format == AKV_I8) { /* p: 32 bytes a quad; y[n]: quad n */
        UNROLL
        for (uint32_t n = 0; n < 4; n += 2) {
            __m512i a = _mm512_loadu_si512(p + n * 32u);
            __m512i b = _mm512_loadu_si512(p + (size_t)quads * 32u + n * 32u);
            y[n] = _mm512_shuffle_i64x2(a, b, 0x44);
            y[n + 1] = _mm512_shuffle_i64x2(a, b, 0xEE);
        }
    } else if (format == AKV_N4 || format == AKV_N5) { /* 16 bytes a quad, 2 bytes a dimension */
        __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + (size_t)quads * 16u);
        __m512i set = _mm512_setzero_si512();
        if (format == AKV_N5)
            set = two_bits(bit, quads * 4u);
        UNROLL
        for (uint32_t n = 0; n < 4; n += 2) { /* quads n and n + 1: even, then odd tokens */
            __m512i index = _mm512_add_epi16(v->pairs, _mm512_set1_epi16((short)(n * 8u)));
            __m512i w = _mm512_permutex2var_epi16(a, index, b), h = _mm512_srli_epi16(w, 4);
            y[n] = _mm512_permutexvar_epi8(w, table->low);
            y[n + 1] = _mm512_permutexvar_epi8(h, table->low);
            if (format == AKV_N5) {
                index = _mm512_add_epi8(v->bits, _mm512_set1_epi8((char)(n * 4u)));
                __m512i s = _mm512_permutexvar_epi8(index, set);
                y[n] = _mm512_mask_permutexvar_epi8(y[n], _mm512_test_epi8_mask(s, v->even), w,
                                                    table->high);
                y[n + 1] = _mm512_mask_permutexvar_epi8(y[n + 1], _mm512_test_epi8_mask(s, v->odd),
                                                        h, table->high);
            }
        }
    } else { /* 8 bytes a quad, 1 byte a dimension: token k of each quad */
        __m512i w = _mm512_permutexvar_epi8(v->bytes, two_units(p, quads * 8u));
        __m512i s = _mm512_setzero_si512();
        if (format == AKV_N3)
            s = _mm512_permutexvar_epi8(v->bits, two_bits(bit, quads * 4u));
        UNROLL
        for (uint32_t k = 0; k < 4; k++) {
            __m512i h = _mm512_srli_epi16(w, SHIFT(2 * k));
            y[k] = _mm512_permutexvar_epi8(h, table->low);
            if (format == AKV_N3)
                y[k] = _mm512_mask_permutexvar_epi8(
                    y[k], _mm512_test_epi8_mask(s, _mm512_slli_epi16(v->even, SHIFT(k))), h,
                    table->high);
        }
    }
}

ALWAYS void code_values(struct akv_attend_work *work, const struct akv_strip *strip,
                        const uint32_t format)
{
    const uint32_t groups = work->v_pad / 32u, b0 = akv_format_plane0(format),
                   b1 = akv_format_plane1(format);
    const uint32_t quads = work->block_tokens / 4u;
    const struct tables table = tables_of(format, 0);
    const struct value_index index = value_index_of(format);
    const __m128i order = weight_order(format);
    struct scales scales =
        scales_of(work, strip->v, format, AKV_ORDER_QUAD, work->v_dim, strip->first);
    const uint8_t *p = strip->v + (size_t)strip->first * b0;
    const uint8_t *bit = strip->v + akv_plane1_offset(format, work->block_tokens, work->v_dim) +
                         (size_t)strip->first;
    /* Weights of I8 values have 16 bits, code = 256 * high + low in two planes. */
    const bool wide = format == AKV_I8;
    const float limit = wide ? 65535.0f : 255.0f;
    _Alignas(64) uint32_t weight[AKV_WORK_ROWS][4], high[AKV_WORK_ROWS][4];
    float back = 0.0f;
    for (uint32_t g = 0; g < groups; g++) {
        if (format != AKV_I8 || g % 4u == 0) { /* the weights of a scale */
            __m512 unit = scale_at(&scales, format, format == AKV_I8 ? g / 4u : g);
            float most = _mm512_reduce_max_ps(unit);
            back = most / limit;
            unit = _mm512_mul_ps(unit, _mm512_set1_ps(most > 0.0f ? limit / most : 0.0f));
            for (uint32_t r = 0; r < work->rows; r++) {
                __m512i w =
                    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(work->s[r] + work->at), unit));
                if (wide) {
                    w = _mm512_min_epu32(w, _mm512_set1_epi32(65535));
                    _mm_store_si128((__m128i *)(void *)weight[r], _mm512_cvtepi32_epi8(w));
                    _mm_store_si128((__m128i *)(void *)high[r],
                                    _mm512_cvtepi32_epi8(_mm512_srli_epi32(w, 8)));
                } else {
                    _mm_store_si128((__m128i *)(void *)weight[r],
                                    _mm_shuffle_epi8(_mm512_cvtusepi32_epi8(w), order));
                }
            }
        }
        __m512i y[2][4];
        UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t u = g * 4u + half * 2u;
            value_codes(format, p + (size_t)u * quads * b0 * 4u, bit + (size_t)u * quads * 4u,
                        quads, &index, &table, y[half]);
        }
        akv_attend_ask(work, b0 + b1 + 1u);
        for (uint32_t r = 0; r < work->rows; r++) {
            __m512i a = _mm512_setzero_si512(), b = a;
            UNROLL
            for (uint32_t n = 0; n < 4; n++) {
                __m512i w = _mm512_set1_epi32((int)weight[r][n]);
                a = _mm512_dpbusd_epi32(a, w, y[0][n]);
                b = _mm512_dpbusd_epi32(b, w, y[1][n]);
            }
            if (wide) {
                __m512i c = _mm512_setzero_si512(), d = c;
                UNROLL
                for (uint32_t n = 0; n < 4; n++) {
                    __m512i w = _mm512_set1_epi32((int)high[r][n]);
                    c = _mm512_dpbusd_epi32(c, w, y[0][n]);
                    d = _mm512_dpbusd_epi32(d, w, y[1][n]);
                }
                a = _mm512_add_epi32(a, _mm512_slli_epi32(c, 8));
                b = _mm512_add_epi32(b, _mm512_slli_epi32(d, 8));
            }
            float *to = work->sum[1] + (size_t)r * work->v_pad + g * 32u;
            __m512 f = _mm512_set1_ps(back * work->factor[r]);
            _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), f, _mm512_load_ps(to)));
            _mm512_store_ps(to + 16,
                            _mm512_fmadd_ps(_mm512_cvtepi32_ps(b), f, _mm512_load_ps(to + 16)));
        }
    }
}

bool akv_attend_code_values_avx512(struct akv_attend_work *work, const struct akv_strip *strip)
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
