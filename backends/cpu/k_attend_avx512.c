/* SPDX-License-Identifier: Apache-2.0 */
/* Attend with AVX-512 (F, BW, VL, DQ, VBMI, VNNI). */
#include "k_attend.h"
#include <immintrin.h>

#define V                __m512
#define VN               16u
#define VT               4u /* tokens of a block of scores */
#define VC               4u /* vectors of a block of sums */
#define V_SET(x)         _mm512_set1_ps(x)
#define V_LOAD(p)        _mm512_loadu_ps(p)
#define V_STORE(p, x)    _mm512_storeu_ps(p, x)
#define V_ADD(a, b)      _mm512_add_ps(a, b)
#define V_SUB(a, b)      _mm512_sub_ps(a, b)
#define V_MUL(a, b)      _mm512_mul_ps(a, b)
#define V_DIV(a, b)      _mm512_div_ps(a, b)
#define V_FMA(a, b, c)   _mm512_fmadd_ps(a, b, c)
#define V_MAX(a, b)      _mm512_max_ps(a, b)
#define V_MIN(a, b)      _mm512_min_ps(a, b)
#define V_ABS(a)         _mm512_abs_ps(a)
#define V_COPYSIGN(a, s) _mm512_or_ps(a, _mm512_and_ps(s, _mm512_set1_ps(-0.0f)))
#define V_ROUND(a)       _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define V_SCALE2(a, n)   _mm512_scalef_ps(a, n)
#define V_IF_GE(a, b, x) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), x)
#define V_ANY_GT(a, b)   (_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0)
#define V_HMAX(a)        _mm512_reduce_max_ps(a)
#define V_HSUM(a)        _mm512_reduce_add_ps(a)
#define V_LOAD_F16(p)    _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define V_LOAD_BF16(p)                                                                             \
    _mm512_castsi512_ps(_mm512_slli_epi32(                                                         \
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))
#define V_TURN(x)                    turn(x)
#define V_REDUCE(sum, s, r, t, rows) reduce(sum, s, r, t, rows)

/* Stages 1, 2, 4, 8 of the rotation within a vector: (a, b) to (a + b, a - b). */
static inline __attribute__((always_inline)) __m512 turn(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
    x = _mm512_fmadd_ps(_mm512_mask_mov_ps(one, 0xAAAA, minus), x, _mm512_permute_ps(x, 0xB1));
    x = _mm512_fmadd_ps(_mm512_mask_mov_ps(one, 0xCCCC, minus), x, _mm512_permute_ps(x, 0x4E));
    x = _mm512_fmadd_ps(_mm512_mask_mov_ps(one, 0xF0F0, minus), x,
                        _mm512_shuffle_f32x4(x, x, 0xB1));
    return _mm512_fmadd_ps(_mm512_mask_mov_ps(one, 0xFF00, minus), x,
                           _mm512_shuffle_f32x4(x, x, 0x4E));
}
/* Sums of the elements of up to 4 x 4 vectors to s[r + row][t + token]. */
static inline __attribute__((always_inline)) void
reduce(__m512 sum[4][4], float (*s)[AKV_SPAN], unsigned r, unsigned t, const unsigned rows)
{
    __m512 x[4];
    UNROLL
    for (unsigned b = 0; b < 4; b++) {
        __m512 p = _mm512_add_ps(_mm512_shuffle_f32x4(sum[0][b], sum[2][b], 0x44),
                                 _mm512_shuffle_f32x4(sum[0][b], sum[2][b], 0xEE));
        __m512 q = _mm512_add_ps(_mm512_shuffle_f32x4(sum[1][b], sum[3][b], 0x44),
                                 _mm512_shuffle_f32x4(sum[1][b], sum[3][b], 0xEE));
        x[b] = _mm512_add_ps(_mm512_shuffle_f32x4(p, q, 0x88), _mm512_shuffle_f32x4(p, q, 0xDD));
    }
    __m512 u = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    __m512 w = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    u = _mm512_add_ps(_mm512_shuffle_ps(u, w, 0x44), _mm512_shuffle_ps(u, w, 0xEE));
    _mm_storeu_ps(&s[r][t], _mm512_castps512_ps128(u));
    if (rows > 2)
        _mm_storeu_ps(&s[r + 2][t], _mm512_extractf32x4_ps(u, 1));
    if (rows > 1)
        _mm_storeu_ps(&s[r + 1][t], _mm512_extractf32x4_ps(u, 2));
    if (rows > 3)
        _mm_storeu_ps(&s[r + 3][t], _mm512_extractf32x4_ps(u, 3));
}
#include "k_attend_simd.h"
#include "k_attend_mean_avx512.h"

static bool direct_scores(struct akv_attend_work *work, const struct akv_strip *strip)
{
    return akv_format_raw(strip->k_format) ? raw_scores(work, strip)
                                           : akv_attend_code_scores_avx512(work, strip);
}
static bool direct_values(struct akv_attend_work *work, const struct akv_strip *strip)
{
    return akv_format_raw(strip->v_format) ? raw_values(work, strip)
                                           : akv_attend_code_values_avx512(work, strip);
}

static const struct akv_attend_ops ops = {simd_decode,  simd_scores, simd_shape,    simd_softmax,
                                          simd_values,  simd_turn,   simd_meet,     code_regain,
                                          simd_forward, simd_back,   direct_scores, direct_values};

static void run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    akv_attend_run(&ops, args, phase, first, count);
}

const struct akv_cpu_kernel akv_cpu_attend_avx512 = {2, akv_attend_items, run, akv_attend_scratch,
                                                     akv_attend_refuse};
