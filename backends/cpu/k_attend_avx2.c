/* SPDX-License-Identifier: Apache-2.0 */
/* Attend with AVX2, FMA and F16C. */
#include "k_attend.h"
#include <immintrin.h>

#define V                __m256
#define VN               8u
#define VT               2u /* tokens of a block of scores */
#define VC               2u /* vectors of a block of sums */
#define V_SET(x)         _mm256_set1_ps(x)
#define V_LOAD(p)        _mm256_loadu_ps(p)
#define V_STORE(p, x)    _mm256_storeu_ps(p, x)
#define V_ADD(a, b)      _mm256_add_ps(a, b)
#define V_SUB(a, b)      _mm256_sub_ps(a, b)
#define V_MUL(a, b)      _mm256_mul_ps(a, b)
#define V_DIV(a, b)      _mm256_div_ps(a, b)
#define V_FMA(a, b, c)   _mm256_fmadd_ps(a, b, c)
#define V_MAX(a, b)      _mm256_max_ps(a, b)
#define V_MIN(a, b)      _mm256_min_ps(a, b)
#define V_ABS(a)         _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define V_COPYSIGN(a, s) _mm256_or_ps(a, _mm256_and_ps(s, _mm256_set1_ps(-0.0f)))
#define V_ROUND(a)       _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define V_SCALE2(a, n)                                                                             \
    _mm256_castsi256_ps(                                                                           \
        _mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)))
#define V_IF_GE(a, b, x) _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ), x)
#define V_ANY_GT(a, b)   (_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0)
#define V_HMAX(a)        hmax(a)
#define V_HSUM(a)        hsum(a)
#define V_LOAD_F16(p)    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define V_LOAD_BF16(p)                                                                             \
    _mm256_castsi256_ps(_mm256_slli_epi32(                                                         \
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))
#define V_TURN(x)                    turn(x)
#define V_REDUCE(sum, s, r, t, rows) reduce(sum, s, r, t, rows)

static inline __attribute__((always_inline)) float hmax(__m256 a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
static inline __attribute__((always_inline)) float hsum(__m256 a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
/* Stages 1, 2, 4 of the rotation within a vector: (a, b) to (a + b, a - b). */
static inline __attribute__((always_inline)) __m256 turn(__m256 x)
{
    x = _mm256_fmadd_ps(_mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), x, _mm256_permute_ps(x, 0xB1));
    x = _mm256_fmadd_ps(_mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1), x, _mm256_permute_ps(x, 0x4E));
    return _mm256_fmadd_ps(_mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), x,
                           _mm256_permute2f128_ps(x, x, 0x01));
}
/* Sums of the elements of up to 4 x 2 vectors to s[r + row][t + token]. */
static inline __attribute__((always_inline)) void
reduce(__m256 sum[4][2], float (*s)[AKV_SPAN], unsigned r, unsigned t, const unsigned rows)
{
    __m256 x[4];
    UNROLL
    for (unsigned a = 0; a < 4; a++) /* t0 t1 t0 t1 in both halves */
        x[a] = _mm256_add_ps(_mm256_unpacklo_ps(sum[a][0], sum[a][1]),
                             _mm256_unpackhi_ps(sum[a][0], sum[a][1]));
    __m256 p =
        _mm256_add_ps(_mm256_shuffle_ps(x[0], x[1], 0x44), _mm256_shuffle_ps(x[0], x[1], 0xEE));
    __m256 q =
        _mm256_add_ps(_mm256_shuffle_ps(x[2], x[3], 0x44), _mm256_shuffle_ps(x[2], x[3], 0xEE));
    __m128 u = _mm_add_ps(_mm256_castps256_ps128(p), _mm256_extractf128_ps(p, 1));
    __m128 w = _mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1));
    _mm_storel_pi((__m64 *)(void *)&s[r][t], u);
    if (rows > 1)
        _mm_storeh_pi((__m64 *)(void *)&s[r + 1][t], u);
    if (rows > 2)
        _mm_storel_pi((__m64 *)(void *)&s[r + 2][t], w);
    if (rows > 3)
        _mm_storeh_pi((__m64 *)(void *)&s[r + 3][t], w);
}
#include "k_attend_simd.h"

static bool direct_scores(struct akv_attend_work *work, const struct akv_strip *strip)
{
    return akv_format_raw(strip->k_format) ? raw_scores(work, strip)
                                           : akv_attend_code_scores_avx2(work, strip);
}
static bool direct_values(struct akv_attend_work *work, const struct akv_strip *strip)
{
    return akv_format_raw(strip->v_format) ? raw_values(work, strip)
                                           : akv_attend_code_values_avx2(work, strip);
}

static const struct akv_attend_ops ops = {simd_decode,  simd_scores, simd_shape,    simd_softmax,
                                          simd_values,  simd_turn,   simd_meet,     simd_regain,
                                          simd_forward, simd_back,   direct_scores, direct_values};

static void run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    akv_attend_run(&ops, args, phase, first, count);
}

const struct akv_cpu_kernel akv_cpu_attend_avx2 = {2, akv_attend_items, run, akv_attend_scratch,
                                                   akv_attend_refuse};
