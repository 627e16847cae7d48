/* SPDX-License-Identifier: Apache-2.0 */
/* Scale search and codebook indices of one group in 512-bit vectors, by table.
 *
 * Indices: twice the quotient t of quant.h, rounded to an odd integer unless t is an integer, is
 * floor(t) + ceil(t).  A bucket of 16 of these holds at most one threshold, so that one table entry
 * (index of the bucket's first number * 1024, plus what carries into the index from the threshold
 * on) gives the index by one addition.
 *
 * Search: a bucket of 256 numbers (128 for N5) touches at most two levels as the nearest ones; a
 * table names them for each mantissa and shift. */
#ifndef AKV_K_QUANT_X512_H
#define AKV_K_QUANT_X512_H
#include "k_quant_x86_codes.h"
#include <stdatomic.h>
#include <stdlib.h>

/* ---- tables, made by whoever comes first; meanwhile the scalar code serves the others ---- */

struct w_tables {
    _Alignas(64) uint16_t entry[4][64];      /* by format - N5, bucket + 64 * (bucket < 0) */
    _Alignas(64) int16_t lower[4][4][8][64]; /* by format - N5, shift, mantissa - 8, bucket */
    _Alignas(64) int16_t upper[4][4][8][64];
};
static struct w_tables w_table;
static atomic_int w_state; /* 0 none, 1 in the making, 2 ready */

/* Index of t with 2*t rounded to odd = twice. */
static int w_index(uint32_t format, int twice)
{
    int levels = (int)akv_levels(format), p = 0, a = twice < 0 ? -twice : twice;
    for (int j = 0; j + 1 < levels; j++) {
        int t = 2 * (akv_codebook[levels - 2 + j] + akv_codebook[levels - 1 + j]);
        p += (twice < 0) == ((j & 1) == 0) ? a >= t : a > t;
    }
    return twice < 0 ? levels - 1 - p : levels + p;
}
static int w_nearest(uint32_t format, int n, int mantissa, int shift)
{
    int levels = (int)akv_levels(format), best = 0;
    for (int j = 0; j < levels; j++) {
        int r = akv_codebook[levels - 2 + j] * mantissa << shift;
        if (j == 0 || abs(n - r) < abs(n - best))
            best = r;
    }
    return best;
}
static void w_make_tables(void)
{
    for (uint32_t f = AKV_N5; f <= AKV_N2; f++) {
        int width = f == AKV_N5 ? 128 : 256;
        for (int b = -32; b < 32; b++) {
            int first = w_index(f, 16 * b), cut = 1;
            while (cut < 16 && w_index(f, 16 * b + cut) == first)
                cut++;
            w_table.entry[f - AKV_N5][b & 63] =
                (uint16_t)(first * 1024 + (cut < 16 ? 1024 - (16 * b + cut) : 512 - 16 * b));
        }
        for (int i = 0; i < 4 * 8 * 64; i++) {
            int shift = i >> 9, mantissa = 8 + (i >> 6 & 7), b = i & 63;
            int last = b == 8192 / width - 1 ? 8192 : width * b + width - 1;
            w_table.lower[f - AKV_N5][shift][mantissa - 8][b] =
                (int16_t)w_nearest(f, width * b, mantissa, shift);
            w_table.upper[f - AKV_N5][shift][mantissa - 8][b] =
                (int16_t)w_nearest(f, last, mantissa, shift);
        }
    }
}
/* True once the tables are there; the first caller makes them. */
static int w_ready(void)
{
    int none = 0;
    if (AKV_LIKELY(atomic_load_explicit(&w_state, memory_order_acquire) == 2))
        return 1;
    if (!atomic_compare_exchange_strong(&w_state, &none, 1))
        return 0;
    w_make_tables();
    atomic_store_explicit(&w_state, 2, memory_order_release);
    return 1;
}

/* ---- indices ---- */

typedef uint16_t w_entry;
static inline const w_entry *w_codebook_table(uint32_t format)
{
    return w_table.entry[format - AKV_N5];
}
X_INLINE void w_codebook(const float *x, float r_hi, float r_lo, uint32_t format,
                         const w_entry *entry, uint8_t *code)
{
    const __m512i words =
        _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                         24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512 hi = _mm512_set1_ps(r_hi), lo = _mm512_set1_ps(r_lo);
    __m512i twice[2];
    (void)format;

    X_UNROLL(2)
    for (int k = 0; k < 2; k++) {
        __m512 v = _mm512_loadu_ps(x + 16 * k);
        /* all but the negative ones above -2^-24, which count as 0 */
        __mmask16 keep =
            _mm512_cmpge_epi32_mask(_mm512_castps_si512(v), _mm512_set1_epi32((int)0xB3800000u));
        __m512 t = _mm512_maskz_fmadd_ps(keep, v, hi, _mm512_mul_ps(v, lo));
        twice[k] = _mm512_add_epi32(
            _mm512_cvt_roundps_epi32(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC),
            _mm512_cvt_roundps_epi32(t, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
    }
    __m512i w = _mm512_permutex2var_epi16(twice[0], words, twice[1]);
    w = _mm512_max_epi16(_mm512_min_epi16(w, _mm512_set1_epi16(511)), _mm512_set1_epi16(-511));
    __m512i first = _mm512_permutex2var_epi16(_mm512_load_si512(entry), _mm512_srai_epi16(w, 4),
                                              _mm512_load_si512(entry + 32));
    w = _mm512_srli_epi16(_mm512_add_epi16(w, first), 10);
    _mm256_storeu_si256((void *)code, _mm512_cvtepi16_epi8(w));
}

/* ---- search ---- */

X_INLINE __m512i w_level(const int16_t *table, __m512i bucket, uint32_t format)
{
    __m512i low = _mm512_load_si512(table);
    if (format != AKV_N5)
        return _mm512_permutexvar_epi16(bucket, low);
    return _mm512_permutex2var_epi16(low, bucket, _mm512_load_si512(table + 32));
}
X_INLINE uint32_t w_search_format(const float *x, uint32_t amax, uint32_t format)
{
    struct x_candidates c = x_candidates_of(amax, format);
    __m512 unit = _mm512_set1_ps(akv_as_f32((266u - (amax >> 23)) << 23));
    __m512i n[2], sums, bucket;
    __m256i partial[8];
    _Alignas(32) uint32_t row[8];

    X_UNROLL(2)
    for (int k = 0; k < 2; k++)
        n[k] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_abs_ps(_mm512_loadu_ps(x + 16 * k)), unit));
    n[0] = _mm512_packs_epi32(n[0], n[1]);
    bucket = _mm512_srli_epi16(n[0], format == AKV_N5 ? 7 : 8);
    bucket = _mm512_min_epi16(bucket, _mm512_set1_epi16(format == AKV_N5 ? 63 : 31));
    _mm256_store_si256((void *)row,
                       _mm256_add_epi32(_mm256_slli_epi32(c.shift, 3),
                                        _mm256_sub_epi32(c.mantissa, _mm256_set1_epi32(8))));
    X_UNROLL(8)
    for (int m = 0; m < 8; m++) {
        const int16_t *lower = w_table.lower[format - AKV_N5][0][0] + 64u * row[m];
        const int16_t *upper = w_table.upper[format - AKV_N5][0][0] + 64u * row[m];
        __m512i a = _mm512_abs_epi16(_mm512_sub_epi16(n[0], w_level(lower, bucket, format)));
        __m512i b = _mm512_abs_epi16(_mm512_sub_epi16(n[0], w_level(upper, bucket, format)));
        a = _mm512_min_epi16(a, b);
        sums = _mm512_madd_epi16(a, a);
        partial[m] =
            _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    }
    return x_best(&c, partial);
}
/* Amax from 2^-12 to 2^15: every candidate is normal and not saturated, every shift is 0 … 3. */
X_INLINE uint32_t w_search(const float *x, uint32_t amax, uint32_t format)
{
    if (AKV_UNLIKELY(amax < 0x39800000u || amax >= 0x47000000u))
        return x_search(x, amax, format);
    return format == AKV_N5   ? w_search_format(x, amax, AKV_N5)
           : format == AKV_N4 ? w_search_format(x, amax, AKV_N4)
           : format == AKV_N3 ? w_search_format(x, amax, AKV_N3)
                              : w_search_format(x, amax, AKV_N2);
}

#endif
