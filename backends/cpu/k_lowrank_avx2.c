/* SPDX-License-Identifier: Apache-2.0 */
/* Low rank and dense products with AVX2: 4 rows by 16 columns at a time. */
#include <immintrin.h>
#include <stdint.h>

#define LOW_LANES 8u
typedef __m256 low_v;
typedef __m256i low_mask;

static inline low_mask low_lanes(uint32_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 8u ? n : 8u)), lane);
}
static inline low_v low_zero(void)
{
    return _mm256_setzero_ps();
}
static inline low_v low_load(const float *from, low_mask mask)
{
    return _mm256_maskload_ps(from, mask);
}
static inline void low_store(float *to, low_mask mask, low_v x)
{
    _mm256_maskstore_ps(to, mask, x);
}
static inline low_v low_fma(low_v x, float a, low_v c)
{
    return _mm256_fmadd_ps(x, _mm256_set1_ps(a), c);
}
static inline void low_store_f16(uint8_t *to, const float *from)
{
    _mm_storeu_si128((__m128i *)(void *)to,
                     _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT));
}

#include "k_lowrank_body.h"

LOW_KERNELS(avx2)
