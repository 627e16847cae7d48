/* SPDX-License-Identifier: Apache-2.0 */
/* Scale search and codebook indices of groups in 512-bit vectors, by table.
 *
 * Indices: a scale is d = M * 2^q with M = 8 … 15.  In units of 2^(q-8), an exact multiplication,
 * thresholds are the integers (c_j + c_j+1) * M, and a number t stands for its place among them as
 * floor(t) + ceil(t), which is twice t, rounded to an odd integer unless t is one.  A bucket of 256
 * of these (128 for N5) holds at most one threshold, so that one table entry for each M (index of
 * the bucket's first number * 256, plus what carries into the index from the threshold on) gives
 * the index by one addition.
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
    _Alignas(64) uint16_t entry[4][8][128]; /* by format - N5, M - 8, bucket modulo 64 or 128 */
    /* sum and difference of the two levels that a bucket touches; by format - N5, shift * 8 +
     * mantissa - 8, bucket */
    _Alignas(64) int16_t sum[4][32][64];
    _Alignas(64) int16_t gap[4][32][64];
};
static struct w_tables w_table;
static atomic_int w_state; /* 0 none, 1 in the making, 2 ready */

/* Index of t with 2*t rounded to odd = twice. */
static int w_index(uint32_t format, int mantissa, int twice)
{
    int levels = (int)akv_levels(format), p = 0, a = twice < 0 ? -twice : twice;
    for (int j = 0; j + 1 < levels; j++) {
        int t = 2 * mantissa * (akv_codebook[levels - 2 + j] + akv_codebook[levels - 1 + j]);
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
        int width = f == AKV_N5 ? 128 : 256, count = 16384 / width;
        for (int i = 0; i < 8 * count; i++) {
            int m = 8 + i / count, b = i % count - count / 2, cut = 1;
            int first = w_index(f, m, width * b);
            while (cut < width && w_index(f, m, width * b + cut) == first)
                cut++;
            w_table.entry[f - AKV_N5][m - 8][b & (count - 1)] =
                (uint16_t)((first + 1) * 256 - (width * b + cut));
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

/* Reciprocals of d/256 for the uniform formats; for the others 2^(8-q), and in *lo as an integer
 * where the entries of M stand. */
X_INLINE __m256 w_factors(__m256 d, uint32_t format, __m256 *lo)
{
    if (!akv_format_codebook(format))
        return x_factors(d, format, lo);
    __m256i bits = _mm256_castps_si256(d);
    __m256i mantissa = _mm256_and_si256(_mm256_srli_epi32(bits, 20), _mm256_set1_epi32(7));
    *lo = _mm256_castsi256_ps(_mm256_slli_epi32(mantissa, 7));
    bits = _mm256_and_si256(bits, _mm256_set1_epi32(0x7F800000));
    return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_set1_epi32((int)(257u << 23)), bits));
}
/* Indices * 256 and more of the 32 values of a group. */
X_INLINE __m512i w_indices(const float *x, float factor, const uint16_t *entry, uint32_t format)
{
    const __m512i words =
        _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                         24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512 magic = _mm512_set1_ps(0x1.8p23f); /* a sum's low bits are the integer's */
    __m512 f = _mm512_set1_ps(factor);
    __m512i twice[2];

    X_UNROLL(2)
    for (int k = 0; k < 2; k++) {
        __m512 v = _mm512_loadu_ps(x + 16 * k);
        /* all but the negative ones above -2^-24, which count as 0 */
        __mmask16 keep =
            _mm512_cmpge_epi32_mask(_mm512_castps_si512(v), _mm512_set1_epi32((int)0xB3800000u));
        __m512 floor = _mm512_maskz_fmadd_round_ps(keep, v, f, magic,
                                                   _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        __m512 ceil = _mm512_maskz_fmadd_round_ps(keep, v, f, magic,
                                                  _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
        twice[k] = _mm512_add_epi32(_mm512_castps_si512(floor), _mm512_castps_si512(ceil));
    }
    __m512i w = _mm512_permutex2var_epi16(twice[0], words, twice[1]);
    w = _mm512_max_epi16(_mm512_min_epi16(w, _mm512_set1_epi16(8191)), _mm512_set1_epi16(-8192));
    __m512i bucket = _mm512_srai_epi16(w, format == AKV_N5 ? 7 : 8);
    __m512i first =
        _mm512_permutex2var_epi16(_mm512_load_si512(entry), bucket, _mm512_load_si512(entry + 32));
    if (format == AKV_N5)
        first =
            _mm512_mask_mov_epi16(first, _mm512_movepi16_mask(w),
                                  _mm512_permutex2var_epi16(_mm512_load_si512(entry + 64), bucket,
                                                            _mm512_load_si512(entry + 96)));
    return _mm512_add_epi16(w, first);
}
/* Codes of `groups` groups of a row. */
X_INLINE void w_codebook(const float *x, const float *factor, const float *place, uint32_t groups,
                         uint32_t format, uint8_t *code)
{
    const __m512i bytes = _mm512_set_epi8(
        127, 125, 123, 121, 119, 117, 115, 113, 111, 109, 107, 105, 103, 101, 99, 97, 95, 93, 91,
        89, 87, 85, 83, 81, 79, 77, 75, 73, 71, 69, 67, 65, 63, 61, 59, 57, 55, 53, 51, 49, 47, 45,
        43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const uint16_t *entry = w_table.entry[format - AKV_N5][0];

    for (uint32_t g = 0; g < groups; g += 2u) {
        __m512i a = w_indices(x + 32u * g, factor[g], entry + akv_as_u32(place[g]), format);
        if (g + 1u < groups) {
            __m512i b = w_indices(x + 32u * g + 32u, factor[g + 1u],
                                  entry + akv_as_u32(place[g + 1u]), format);
            _mm512_storeu_si512(code + 32u * g, _mm512_permutex2var_epi8(a, bytes, b));
        } else {
            a = _mm512_permutexvar_epi8(bytes, a);
            _mm256_storeu_si256((void *)(code + 32u * g), _mm512_castsi512_si256(a));
        }
    }
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
/* Candidates of two groups, 8 lanes each. */
struct w_pair {
    _Alignas(64) uint32_t scale[16];
    _Alignas(64) uint32_t row[16]; /* where their levels stand in a table */
    __mmask16 same;                /* as the candidate before: its error is not less */
};
X_INLINE void w_candidates(const uint32_t amax[2], uint32_t format, struct w_pair *pair)
{
    const __m512i previous = _mm512_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6, 8, 8, 9, 10, 11, 12, 13, 14);
    __m512i both =
        _mm512_inserti64x4(_mm512_set1_epi32((int)amax[0]), _mm256_set1_epi32((int)amax[1]), 1);
    __m512 ratio = _mm512_castpd_ps(_mm512_broadcast_f64x4(
        _mm256_loadu_pd((const double *)(const void *)akv_candidate[format - AKV_N5])));
    __m512i s = _mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(both), ratio));
    /* as x_ue5m3, of normal numbers */
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(s, 20), _mm512_set1_epi32(1));
    s = _mm512_add_epi32(s, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFFF - 0x38000000)));
    s = _mm512_srli_epi32(s, 20);
    pair->same = _mm512_cmpeq_epi32_mask(s, _mm512_permutexvar_epi32(previous, s)) & 0xFEFE;
    _mm512_store_si512(pair->scale, s);
    __m512i lowest = _mm512_slli_epi32(_mm512_srli_epi32(both, 23), 3);
    s = _mm512_sub_epi32(_mm512_add_epi32(s, _mm512_set1_epi32(8 * 114)), lowest);
    _mm512_store_si512(pair->row, _mm512_slli_epi32(s, 6));
}
/* Squared errors of 4 candidates in lanes of 128 bits, to be summed.  The nearest of two levels,
 * lower and upper, is at | |2n - (lower + upper)| - (upper - lower) | / 2; squares of the double
 * order as well, and their sums stay below 2^32: no distance is above 4800 (2^13 * (1 - 127/128 *
 * 0.4174), N2). */
X_INLINE __m512i w_errors(__m512i twice, __m512i bucket, const uint32_t *row, uint32_t format)
{
    const int16_t *sums = w_table.sum[format - AKV_N5][0], *gaps = w_table.gap[format - AKV_N5][0];
    __m512i square[4];

    X_UNROLL(4)
    for (int m = 0; m < 4; m++) {
        size_t at = row[m];
        __m512i d = _mm512_abs_epi16(_mm512_sub_epi16(twice, w_level(sums + at, bucket, format)));
        d = _mm512_sub_epi16(d, w_level(gaps + at, bucket, format));
        square[m] = _mm512_madd_epi16(d, d);
    }
    return w_sum_quad(square);
}
X_INLINE void w_search_pair(const float *const x[2], const uint32_t amax[2], uint32_t format,
                            const struct w_pair *pair, uint32_t *const scale[2])
{
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
        quad[2 * g] = w_errors(n, bucket, pair->row + 8 * g, format);
        quad[2 * g + 1] = w_errors(n, bucket, pair->row + 8 * g + 4, format);
    }
    __m512i error = w_sum_lanes(w_sum_lanes(quad[0], quad[1]), w_sum_lanes(quad[2], quad[3]));
    error = _mm512_mask_set1_epi32(error, pair->same, -1);
    __m512i least = _mm512_min_epu32(error, _mm512_shuffle_i32x4(error, error, 0xB1));
    least = _mm512_min_epu32(least, _mm512_shuffle_epi32(least, 0x4E));
    least = _mm512_min_epu32(least, _mm512_shuffle_epi32(least, 0xB1));
    uint32_t best = _mm512_cmpeq_epi32_mask(error, least);
    *scale[1] = pair->scale[8 + __builtin_ctz(best >> 8)];
    *scale[0] = pair->scale[__builtin_ctz(best)]; /* last: a group alone is twice in its pair */
}
/* Amax from 2^-12 to 2^15 has only candidates that are normal and not saturated, and shifts of
 * 0 … 3; other rows are left to x_search. */
X_INLINE void w_search(struct x_batch *b, uint32_t format)
{
    uint32_t count = b->rows * b->scales, pairs = (count + 1u) / 2u;
    struct w_pair pair[X_SCALES / 2];

    if (AKV_UNLIKELY(b->least < 0x39800000u || b->most >= 0x47000000u)) {
        x_search(b, format);
        return;
    }
    for (uint32_t p = 0; p < pairs; p++)
        w_candidates(b->amax + 2u * p, format, &pair[p]);
    for (uint32_t p = 0; p < pairs; p++) {
        uint32_t g = 2u * p, h = AKV_MIN(g + 1u, count - 1u);
        const float *const x[2] = {b->at[g / b->scales] + g % b->scales * 32u,
                                   b->at[h / b->scales] + h % b->scales * 32u};
        const uint32_t amax[2] = {b->amax[g], b->amax[h]};
        uint32_t *const scale[2] = {b->scale + g, b->scale + h};
        w_search_pair(x, amax, format, &pair[p], scale);
    }
}

#endif
