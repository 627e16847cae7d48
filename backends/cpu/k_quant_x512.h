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
    _Alignas(64) uint16_t entry[4][64]; /* by format - N5, bucket + 64 * (bucket < 0) */
    /* sum and difference of the two levels that a bucket touches; by format - N5, shift * 8 +
     * mantissa - 8, bucket */
    _Alignas(64) int16_t sum[4][32][64];
    _Alignas(64) int16_t gap[4][32][64];
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
            int lower = w_nearest(f, width * b, mantissa, shift);
            int upper = w_nearest(f, last, mantissa, shift);
            w_table.sum[f - AKV_N5][i >> 6][b] = (int16_t)(lower + upper);
            w_table.gap[f - AKV_N5][i >> 6][b] = (int16_t)(upper - lower);
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
/* Sums of the lanes of 16 vectors. */
X_INLINE __m512i w_sum_pair(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
X_INLINE __m512i w_sum_quad(const __m512i *v) /* within 128 bits */
{
    __m512i a = w_sum_pair(v[0], v[1]), b = w_sum_pair(v[2], v[3]);
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}
X_INLINE __m512i w_sum_lanes(__m512i a, __m512i b)
{
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
}
/* Candidates of two groups at once, 8 lanes each.  The nearest of two levels, lower and upper, is
 * at | |2n - (lower + upper)| - (upper - lower) | / 2; squares of the double order as well, and
 * their sums stay below 2^32: distances are below 2^13, with most numbers far nearer. */
X_INLINE void w_search_two(const float *const x[2], const uint32_t amax[2], uint32_t format,
                           uint32_t *const scale[2])
{
    const __m512i previous = _mm512_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6, 8, 8, 9, 10, 11, 12, 13, 14);
    const int16_t *sums = w_table.sum[format - AKV_N5][0], *gaps = w_table.gap[format - AKV_N5][0];
    _Alignas(64) uint32_t byte[16], row[16];
    __m512i both =
        _mm512_inserti64x4(_mm512_set1_epi32((int)amax[0]), _mm256_set1_epi32((int)amax[1]), 1);
    __m512 ratio = _mm512_castpd_ps(_mm512_broadcast_f64x4(
        _mm256_loadu_pd((const double *)(const void *)akv_candidate[format - AKV_N5])));
    __m512i s = _mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(both), ratio));
    /* as x_ue5m3, of normal numbers */
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(s, 20), _mm512_set1_epi32(1));
    s = _mm512_add_epi32(s, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFFF - 0x38000000)));
    s = _mm512_srli_epi32(s, 20);
    __mmask16 same = _mm512_cmpeq_epi32_mask(s, _mm512_permutexvar_epi32(previous, s)) & 0xFEFE;
    _mm512_store_si512(byte, s);
    __m512i lowest = _mm512_slli_epi32(_mm512_srli_epi32(both, 23), 3);
    s = _mm512_sub_epi32(_mm512_add_epi32(s, _mm512_set1_epi32(8 * 114)), lowest);
    _mm512_store_si512(row, _mm512_slli_epi32(s, 6));
    const uint32_t *rows = row;
    X_STORED(rows, row);

    __m512i quad[4];
    X_UNROLL(2)
    for (int g = 0; g < 2; g++) {
        __m512 unit = _mm512_set1_ps(akv_as_f32((266u - (amax[g] >> 23)) << 23));
        __m512 lo = _mm512_abs_ps(_mm512_loadu_ps(x[g]));
        __m512 hi = _mm512_abs_ps(_mm512_loadu_ps(x[g] + 16));
        __m512i n = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(lo, unit)),
                                       _mm512_cvtps_epi32(_mm512_mul_ps(hi, unit)));
        __m512i bucket = _mm512_srli_epi16(n, format == AKV_N5 ? 7 : 8);
        bucket = _mm512_min_epi16(bucket, _mm512_set1_epi16(format == AKV_N5 ? 63 : 31));
        n = _mm512_add_epi16(n, n);
        X_UNROLL(2)
        for (int h = 0; h < 2; h++) {
            __m512i square[4];
            X_UNROLL(4)
            for (int m = 0; m < 4; m++) {
                size_t at = rows[8 * g + 4 * h + m];
                __m512i d =
                    _mm512_abs_epi16(_mm512_sub_epi16(n, w_level(sums + at, bucket, format)));
                d = _mm512_sub_epi16(d, w_level(gaps + at, bucket, format));
                square[m] = _mm512_madd_epi16(d, d);
            }
            quad[2 * g + h] = w_sum_quad(square);
        }
    }
    __m512i error = w_sum_lanes(w_sum_lanes(quad[0], quad[1]), w_sum_lanes(quad[2], quad[3]));
    error = _mm512_mask_set1_epi32(error, same, -1);
    __m512i least = _mm512_min_epu32(error, _mm512_shuffle_i32x4(error, error, 0xB1));
    least = _mm512_min_epu32(least, _mm512_shuffle_epi32(least, 0x4E));
    least = _mm512_min_epu32(least, _mm512_shuffle_epi32(least, 0xB1));
    uint32_t best = _mm512_cmpeq_epi32_mask(error, least);
    *scale[0] = byte[__builtin_ctz(best)];
    *scale[1] = byte[8 + __builtin_ctz(best >> 8)];
}
/* Amax from 2^-12 to 2^15: every candidate is normal and not saturated, every shift is 0 … 3. */
X_INLINE int w_search_usual(uint32_t amax)
{
    return amax - 0x39800000u < 0x47000000u - 0x39800000u;
}
/* Scales of `groups` groups of a row. */
X_INLINE void w_search(const float *x, const uint32_t *amax, uint32_t groups, uint32_t format,
                       uint32_t *scale)
{
    for (uint32_t g = 0; g < groups; g += 2u) {
        uint32_t h = AKV_MIN(g + 1u, groups - 1u);
        if (AKV_LIKELY(w_search_usual(amax[g]) & w_search_usual(amax[h]))) {
            const float *const at[2] = {x + 32u * g, x + 32u * h};
            const uint32_t most[2] = {amax[g], amax[h]};
            uint32_t *const to[2] = {scale + g, scale + h};
            w_search_two(at, most, format, to);
        } else {
            x_search(x + 32u * g, amax + g, h + 1u - g, format, scale + g);
        }
    }
}

#endif
