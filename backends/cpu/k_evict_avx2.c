/* SPDX-License-Identifier: Apache-2.0 */
/* Score and mass with AVX2. */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "k_quant_x86_codes.h"
#include "k_quant_x86_pack.h"
#define q_get_rows x_get_rows
#define q_convert x_convert
#include "k_evict.h"

/* akv_level of 8 lanes; nan gets all bits of a lane that held one. */
static inline __m256 e_level(__m256 x, __m256i *nan)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i bits = _mm256_castps_si256(x), a = _mm256_and_si256(bits, magnitude);
    __m256i bad = _mm256_cmpgt_epi32(a, _mm256_set1_epi32(0x7F800000));
    __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)AKV_TINY_BITS), a);
    a = _mm256_min_epi32(a, _mm256_set1_epi32((int)AKV_LEVEL_HUGE));
    bits = _mm256_or_si256(_mm256_andnot_si256(magnitude, bits), a);
    *nan = _mm256_or_si256(*nan, bad);
    return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_or_si256(bad, small), bits));
}

static inline float e_tree(const __m256 lane[4])
{
    __m256 e = _mm256_add_ps(_mm256_add_ps(lane[0], lane[2]), _mm256_add_ps(lane[1], lane[3]));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

static int e_sums(const float *x, const float *w, uint32_t dp, float sums[2])
{
    __m256 kk[4], kw[4];
    __m256i nan = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++)
        kk[j] = kw[j] = _mm256_setzero_ps();
    for (uint32_t i = 0; i < dp; i += 32u)
        for (int j = 0; j < 4; j++) {
            __m256 a = e_level(_mm256_loadu_ps(x + i + 8 * j), &nan);
            kk[j] = _mm256_fmadd_ps(a, a, kk[j]);
            if (w)
                kw[j] = _mm256_fmadd_ps(a, _mm256_loadu_ps(w + i + 8 * j), kw[j]);
        }
    sums[0] = e_tree(kk);
    sums[1] = w ? e_tree(kw) : 0.0f;
    return _mm256_movemask_epi8(nan) != 0;
}

#include "k_evict_body.h"

#define M_WIDTH 8u

static inline void m_scores(const float *key, const float *const query[8], uint32_t dim, float (*out)[M_WIDTH])
{
    __m256 sum[8];
    for (int r = 0; r < 8; r++)
        sum[r] = _mm256_setzero_ps();
    for (uint32_t j = 0; j < dim; j++) {
        const __m256 k = _mm256_load_ps(key + j * M_WIDTH);
        for (int r = 0; r < 8; r++)
            sum[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(query[r] + j), k, sum[r]);
    }
    for (int r = 0; r < 8; r++)
        _mm256_store_ps(out[r], sum[r]);
}

static inline void m_add(const float *score, float scale, float lse, uint32_t *sum)
{
    /* A NaN comes out of min as its second operand: it counts as the largest score. */
    __m256 s = _mm256_mul_ps(_mm256_load_ps(score), _mm256_set1_ps(scale));
    s = _mm256_min_ps(_mm256_max_ps(s, _mm256_set1_ps(-AKV_ATTEND_CLAMP)), _mm256_set1_ps(AKV_ATTEND_CLAMP));
    s = _mm256_min_ps(_mm256_sub_ps(s, _mm256_set1_ps(lse)), _mm256_setzero_ps());
    __m256 x = _mm256_mul_ps(s, _mm256_set1_ps(AKV_LOG2E));
    const __m256 seen = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    x = _mm256_and_ps(x, seen);
    const __m256i n = _mm256_cvtps_epi32(x);
    const __m256 f = _mm256_sub_ps(x, _mm256_cvtepi32_ps(n));
    __m256 y = _mm256_fmadd_ps(_mm256_set1_ps(AKV_EXP2_C5), f, _mm256_set1_ps(AKV_EXP2_C4));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(AKV_EXP2_C3));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(AKV_EXP2_C2));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(AKV_EXP2_C1));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23);
    y = _mm256_mul_ps(_mm256_mul_ps(y, _mm256_castsi256_ps(power)), _mm256_set1_ps(AKV_MASS_UNIT));
    const __m256i units = _mm256_cvtps_epi32(_mm256_and_ps(y, seen));
    _mm256_store_si256((__m256i *)(void *)sum, _mm256_add_epi32(_mm256_load_si256((const __m256i *)(const void *)sum), units));
}
#include "k_evict_mass.h"

const struct akv_cpu_kernel akv_cpu_mass_avx2 = {1, m_items, m_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_score_avx2 = {1, e_score_items, e_score_run, NULL, NULL};
