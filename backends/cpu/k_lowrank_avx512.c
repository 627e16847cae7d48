/* SPDX-License-Identifier: Apache-2.0 */
/* Low rank and dense products with AVX-512: 4 rows by 32 columns at a time. */
#include <immintrin.h>
#include <stdint.h>

#define LOW_LANES 16u
typedef __m512 low_v;
typedef __mmask16 low_mask;

static inline low_mask low_lanes(uint32_t n)
{
    return (low_mask)(n >= 16u ? 0xFFFFu : (1u << n) - 1u);
}
static inline low_v low_zero(void)
{
    return _mm512_setzero_ps();
}
static inline low_v low_load(const float *from, low_mask mask)
{
    return _mm512_maskz_loadu_ps(mask, from);
}
static inline void low_store(float *to, low_mask mask, low_v x)
{
    _mm512_mask_storeu_ps(to, mask, x);
}
static inline low_v low_fma(low_v x, float a, low_v c)
{
    return _mm512_fmadd_ps(x, _mm512_set1_ps(a), c);
}
static inline void low_store_f16(uint8_t *to, const float *from)
{
    _mm256_storeu_si256(
        (__m256i *)(void *)to,
        _mm512_cvtps_ph(_mm512_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

#include "k_lowrank_body.h"

LOW_KERNELS(avx512)
