/* SPDX-License-Identifier: Apache-2.0 */
/* What scores regain of the keys' mean, in integers of 16 bits with AVX-512 VNNI: where the scores
 * themselves come from integer kernels, that is exact enough.  64 positions at a time, because a
 * code that is spread over a register then serves four strips. */
#ifndef AKV_K_ATTEND_MEAN_AVX512_H
#define AKV_K_ATTEND_MEAN_AVX512_H
#include "k_attend_simd.h"

ALWAYS __mmask16 first_of(uint32_t count)
{
    return (__mmask16)(count < 16u ? (1u << count) - 1u : 0xFFFFu);
}
/* The scale of each row's codes for the 256 positions in hand: no code beyond 16 bits, no sum
 * beyond 32 (a pair adds its size at most, however it is turned). */
static void code_scales(struct akv_attend_work *work)
{
    const uint32_t half = work->k_pad / 2u, fast = work->k_mean->slow;
    const bool slow = fast < work->k_mean->pairs;
    work->scaled = work->origin;
    work->scalable = true;
    for (uint32_t r = 0; r < work->rows; r++) {
        const float *a = work->about + (size_t)r * work->k_pad;
        __m512 sum = _mm512_setzero_ps(), most = sum;
        for (uint32_t i = 0; i < fast; i += 16u) {
            const __m512 x = _mm512_loadu_ps(a + i), y = _mm512_loadu_ps(a + half + i);
            const __m512 size = _mm512_maskz_sqrt_ps(first_of(fast - i),
                                                     _mm512_fmadd_ps(x, x, _mm512_mul_ps(y, y)));
            sum = _mm512_add_ps(sum, size);
            most = _mm512_max_ps(most, size);
        }
        if (slow) {
            const __m512 size = _mm512_abs_ps(_mm512_loadu_ps(work->waves[r]));
            sum = _mm512_add_ps(sum, size);
            most = _mm512_max_ps(most, size);
        }
        const float total = _mm512_reduce_add_ps(sum), top = _mm512_reduce_max_ps(most);
        if (!(total < 1e15f)) /* squares have overflowed, or soon */
            work->scalable = false;
        work->code_scale[r] =
            AKV_MIN(65200.0f / AKV_MAX(total, 1e-15f), 32700.0f / AKV_MAX(top, 1e-15f));
        const __m512 scale = _mm512_set1_ps(work->code_scale[r]);
        float *to = work->scaled_about + (size_t)r * work->k_pad;
        for (uint32_t i = 0; i < fast; i += 16u) {
            _mm512_storeu_ps(to + i, _mm512_mul_ps(scale, _mm512_loadu_ps(a + i)));
            _mm512_storeu_ps(to + half + i, _mm512_mul_ps(scale, _mm512_loadu_ps(a + half + i)));
        }
    }
}
/* Codes of 16 bits: x in the lower halves, y in the upper ones. */
ALWAYS __m512i pair_codes(__m512 x, __m512 y)
{
    const __m512i a = _mm512_cvtps_epi32(x), b = _mm512_cvtps_epi32(y);
    return _mm512_mask_blend_epi16(0xAAAAAAAAu, a, _mm512_slli_epi32(b, 16));
}
#define CODE_ROW (AKV_MAX_HEAD_DIM / 2u + 16u) /* pairs, and 8 pairs of degrees */
#define QUARTERS (AKV_MAP_SPAN / 16u)
/* GCC 12 copies the sums of a loop around each vpdpwssd; that a value goes through here keeps it
 * where it is. */
#if defined(__GNUC__) && !defined(__clang__)
#define IN_PLACE(statement, x) ((void)(statement), __extension__({ __asm__("" : "+v"(x)); }))
#else
#define IN_PLACE(statement, x) ((void)(statement))
#endif
/* sum[n] += codes of `count` pairs from x + n * CODE_ROW on, times a table. */
ALWAYS void add_codes(__m512i sum[4][QUARTERS], const int32_t *x, const uint8_t *table,
                      uint32_t count, const uint32_t rows)
{
    for (uint32_t i = 0; i < count; i++, x++, table += AKV_MAP_SPAN * 4u) {
        __m512i t[QUARTERS];
        UNROLL
        for (uint32_t k = 0; k < QUARTERS; k++)
            t[k] = _mm512_loadu_si512(table + 64u * k);
        UNROLL
        for (uint32_t n = 0; n < rows; n++) {
            const __m512i y = _mm512_set1_epi32(x[n * CODE_ROW]);
            UNROLL
            for (uint32_t k = 0; k < QUARTERS; k++)
                IN_PLACE(sum[n][k] = _mm512_dpwssd_epi32(sum[n][k], t[k], y), sum[n][k]);
        }
    }
}
/* regained[r … r + rows) at the AKV_MAP_SPAN positions from `position` on. */
ALWAYS void regain_codes(struct akv_attend_work *work, uint32_t position, uint32_t r,
                         const uint32_t rows)
{
    const akv_map *map = work->k_mean;
    const uint32_t half = work->k_pad / 2u, fast = map->slow, waves = fast < map->pairs ? 8u : 0u;
    const uint8_t *basis = work->maps + map->basis_codes +
                           (size_t)(position % AKV_ABOUT / AKV_MAP_SPAN) * (8u * AKV_MAP_SPAN * 4u);
    _Alignas(64) int32_t code[4][CODE_ROW];
    uint32_t pad;
    const float *c = attend_steps(work, position, &pad), *s = c + pad;
    __m512i sum[4][QUARTERS];
    UNROLL
    for (uint32_t n = 0; n < rows; n++) {
        const float *from = work->scaled_about + (size_t)(r + n) * work->k_pad;
        for (uint32_t i = 0; i < fast; i += 16u) {
            const __m512 vc = _mm512_loadu_ps(c + i), vs = _mm512_loadu_ps(s + i);
            const __m512 a = _mm512_loadu_ps(from + i), b = _mm512_loadu_ps(from + half + i);
            _mm512_store_si512(code[n] + i,
                               pair_codes(_mm512_fmadd_ps(a, vc, _mm512_mul_ps(b, vs)),
                                          _mm512_fmsub_ps(b, vc, _mm512_mul_ps(a, vs))));
        }
        /* Degrees 2k and 2k + 1 already stand side by side. */
        const __m512i wave = _mm512_cvtps_epi32(_mm512_mul_ps(
            _mm512_load_ps(work->waves[r + n]), _mm512_set1_ps(work->code_scale[r + n])));
        _mm256_storeu_si256((__m256i *)(void *)(code[n] + fast), _mm512_cvtepi32_epi16(wave));
        UNROLL
        for (uint32_t k = 0; k < QUARTERS; k++)
            sum[n][k] = _mm512_setzero_si512();
    }
    add_codes(sum, code[0], work->maps + map->table_codes, fast, rows);
    add_codes(sum, code[0] + fast, basis, waves, rows);
    UNROLL
    for (uint32_t n = 0; n < rows; n++) {
        const __m512 back = _mm512_set1_ps(1.0f / (work->code_scale[r + n] * 32767.0f));
        const __m512 rest = _mm512_set1_ps(work->rest[r + n]);
        UNROLL
        for (uint32_t k = 0; k < QUARTERS; k++)
            _mm512_store_ps(work->regained[r + n] + 16u * k,
                            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[n][k]), back, rest));
    }
}
static void code_regain(struct akv_attend_work *work, uint32_t position, bool coarse)
{
    const uint32_t span = position / AKV_MAP_SPAN * AKV_MAP_SPAN;
    if (coarse) {
        simd_about(work, position);
        if (work->scaled != work->origin)
            code_scales(work);
    }
    if (!coarse || !work->scalable) {
        simd_regain(work, position, false);
        return;
    }
    if (work->span != span) {
        uint32_t r = 0;
        work->span = span;
        for (; r + 4u <= work->rows; r += 4)
            regain_codes(work, span, r, 4);
        if (work->rows - r == 3u)
            regain_codes(work, span, r, 3);
        else if (work->rows - r == 2u)
            regain_codes(work, span, r, 2);
        else if (work->rows - r == 1u)
            regain_codes(work, span, r, 1);
    }
    work->more = work->regained[0] + position % AKV_MAP_SPAN;
}

#endif
