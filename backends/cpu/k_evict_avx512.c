/* SPDX-License-Identifier: Apache-2.0 */
/* Score and mass with AVX-512. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "k_quant_x512.h"
#include "k_quant_x512_rows.h"
#define q_get_rows w_get_rows
#define q_convert w_convert
#include "k_evict.h"

/* akv_level of 16 lanes; nan gets a bit for each lane that held one. */
static inline __m512 e_level(__m512 x, __mmask16 *nan)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i bits = _mm512_castps_si512(x), a = _mm512_and_si512(bits, magnitude);
    __mmask16 bad = _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(0x7F800000));
    __mmask16 keep = _mm512_cmpge_epi32_mask(a, _mm512_set1_epi32((int)AKV_TINY_BITS));
    a = _mm512_min_epi32(a, _mm512_set1_epi32((int)AKV_LEVEL_HUGE));
    bits = _mm512_or_si512(_mm512_andnot_si512(magnitude, bits), a);
    *nan |= bad;
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32((__mmask16)(keep & ~bad), bits));
}

static inline float e_tree(__m512 low, __m512 high)
{
    __m512 s = _mm512_add_ps(low, high);
    __m256 e = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static int e_sums_levelled(const float *x, const float *w, uint32_t dp, float sums[2])
{
    __m512 kk0 = _mm512_setzero_ps(), kk1 = kk0, kw0 = kk0, kw1 = kk0;
    __mmask16 nan = 0;
    for (uint32_t i = 0; i < dp; i += 32u) {
        __m512 a = e_level(_mm512_loadu_ps(x + i), &nan);
        __m512 b = e_level(_mm512_loadu_ps(x + i + 16), &nan);
        kk0 = _mm512_fmadd_ps(a, a, kk0);
        kk1 = _mm512_fmadd_ps(b, b, kk1);
        if (w) {
            kw0 = _mm512_fmadd_ps(a, _mm512_loadu_ps(w + i), kw0);
            kw1 = _mm512_fmadd_ps(b, _mm512_loadu_ps(w + i + 16), kw1);
        }
    }
    sums[0] = e_tree(kk0, kk1);
    sums[1] = w ? e_tree(kw0, kw1) : 0.0f;
    return nan != 0;
}

/* Levels are taken only in a row where one differs from its element: but for zeros, whose sign no sum
 * here shows, all magnitudes of the others are looked at together. */
static int e_sums(const float *x, const float *w, uint32_t dp, float sums[2])
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF), one = _mm512_set1_epi32(1);
    __m512i most = _mm512_setzero_si512(), least = _mm512_set1_epi32(-1); /* least: less 1, zeros wrap */
    __m512 kk0 = _mm512_setzero_ps(), kk1 = kk0, kw0 = kk0, kw1 = kk0;
    for (uint32_t i = 0; i < dp; i += 32u) {
        const __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
        const __m512i m = _mm512_and_si512(_mm512_castps_si512(a), magnitude);
        const __m512i n = _mm512_and_si512(_mm512_castps_si512(b), magnitude);
        most = _mm512_max_epu32(most, _mm512_max_epu32(m, n));
        least = _mm512_min_epu32(least, _mm512_min_epu32(_mm512_sub_epi32(m, one), _mm512_sub_epi32(n, one)));
        kk0 = _mm512_fmadd_ps(a, a, kk0);
        kk1 = _mm512_fmadd_ps(b, b, kk1);
        if (w) {
            kw0 = _mm512_fmadd_ps(a, _mm512_loadu_ps(w + i), kw0);
            kw1 = _mm512_fmadd_ps(b, _mm512_loadu_ps(w + i + 16), kw1);
        }
    }
    if (_mm512_cmpgt_epu32_mask(most, _mm512_set1_epi32((int)AKV_LEVEL_HUGE)) |
        _mm512_cmplt_epu32_mask(least, _mm512_set1_epi32((int)(AKV_TINY_BITS - 1u))))
        return e_sums_levelled(x, w, dp, sums);
    sums[0] = e_tree(kk0, kk1);
    sums[1] = w ? e_tree(kw0, kw1) : 0.0f;
    return 0;
}

/* The same of a row of f16, dim a multiple of 32, without a row of floats in between.  A finite f16
 * is its own level (the least is 2^-24; -0 counts as +0 does, since no sum here can be -0), so levels
 * are taken only in a row that holds an infinity or a NaN. */
static int e_sums_f16(const uint8_t *x, const float *w, uint32_t dim, float sums[2])
{
    const __m512i magnitude = _mm512_set1_epi16(0x7FFF), most = _mm512_set1_epi16(0x7BFF);
    __m512 kk0 = _mm512_setzero_ps(), kk1 = kk0, kw0 = kk0, kw1 = kk0;
    __mmask32 odd = 0;
    for (uint32_t i = 0; i < dim; i += 32u) {
        const __m512i bits = _mm512_loadu_si512(x + 2u * i);
        const __m512 a = _mm512_cvtph_ps(_mm512_castsi512_si256(bits));
        const __m512 b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1));
        odd |= _mm512_cmpgt_epi16_mask(_mm512_and_si512(bits, magnitude), most);
        kk0 = _mm512_fmadd_ps(a, a, kk0);
        kk1 = _mm512_fmadd_ps(b, b, kk1);
        if (w) {
            kw0 = _mm512_fmadd_ps(a, _mm512_loadu_ps(w + i), kw0);
            kw1 = _mm512_fmadd_ps(b, _mm512_loadu_ps(w + i + 16), kw1);
        }
    }
    if (odd) {
        _Alignas(64) float row[AKV_MAX_HEAD_DIM];
        for (uint32_t i = 0; i < dim; i += 16u)
            _mm512_store_ps(row + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(x + 2u * i))));
        return e_sums_levelled(row, w, dim, sums);
    }
    sums[0] = e_tree(kk0, kk1);
    sums[1] = w ? e_tree(kw0, kw1) : 0.0f;
    return 0;
}
#define E_SUMS_F16 e_sums_f16

#include "k_evict_body.h"

#define M_WIDTH 16u

static inline void m_scores(const float *key, const float *const query[8], uint32_t dim, float (*out)[M_WIDTH])
{
    __m512 sum[8];
    for (int r = 0; r < 8; r++)
        sum[r] = _mm512_setzero_ps();
    for (uint32_t j = 0; j < dim; j++) {
        const __m512 k = _mm512_load_ps(key + j * M_WIDTH);
        for (int r = 0; r < 8; r++)
            sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(query[r][j]), k, sum[r]);
    }
    for (int r = 0; r < 8; r++)
        _mm512_store_ps(out[r], sum[r]);
}

static inline void m_add(const float *score, float scale, float lse, uint32_t *sum)
{
    /* A NaN comes out of min as its second operand: it counts as the largest score. */
    __m512 s = _mm512_mul_ps(_mm512_load_ps(score), _mm512_set1_ps(scale));
    s = _mm512_min_ps(_mm512_max_ps(s, _mm512_set1_ps(-AKV_ATTEND_CLAMP)), _mm512_set1_ps(AKV_ATTEND_CLAMP));
    s = _mm512_min_ps(_mm512_sub_ps(s, _mm512_set1_ps(lse)), _mm512_setzero_ps());
    const __m512 x = _mm512_mul_ps(s, _mm512_set1_ps(AKV_LOG2E));
    const __mmask16 seen = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    const __m512i n = _mm512_maskz_cvtps_epi32(seen, x);
    const __m512 f = _mm512_sub_ps(x, _mm512_cvtepi32_ps(n));
    __m512 y = _mm512_fmadd_ps(_mm512_set1_ps(AKV_EXP2_C5), f, _mm512_set1_ps(AKV_EXP2_C4));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(AKV_EXP2_C3));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(AKV_EXP2_C2));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(AKV_EXP2_C1));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    y = _mm512_mul_ps(_mm512_scalef_ps(y, _mm512_cvtepi32_ps(n)), _mm512_set1_ps(AKV_MASS_UNIT));
    const __m512i units = _mm512_maskz_cvtps_epi32(seen, y);
    _mm512_store_si512(sum, _mm512_add_epi32(_mm512_load_si512(sum), units));
}
#include "k_evict_mass.h"

const struct akv_cpu_kernel akv_cpu_mass_avx512 = {1, m_items, m_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_score_avx512 = {1, e_score_items, e_score_run, NULL, NULL};
