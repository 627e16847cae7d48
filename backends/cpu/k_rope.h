/* SPDX-License-Identifier: Apache-2.0 */
/* Angles of all pairs at one position (lib/kernel/rope.h), a lane each; compiled once for each
 * instruction set. */
#ifndef AKV_K_ROPE_H
#define AKV_K_ROPE_H
#include "../../lib/kernel/map.h"
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

/* The rest of a phase fits an int32, whose conversion rounds as the fma of rope.h does. */
#if defined(__AVX512F__)
static inline uint32_t rope_lanes(float *c_out, float *s_out, const uint8_t *turns, uint32_t pairs,
                                  uint32_t position)
{
    const __m512i at = _mm512_set1_epi64((long long)position), eighth = _mm512_set1_epi32(0x20000000);
    const __m512i upper =
        _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const __m512i quarter = _mm512_set1_epi32(0x40000000), sign = _mm512_set1_epi32((int)0x80000000u);
    uint32_t i = 0;
    for (; i + 16u <= pairs; i += 16u) {
        const uint8_t *from = turns + 8u * (size_t)i;
        const __m512i phase = _mm512_permutex2var_epi32(
            _mm512_mullo_epi64(_mm512_loadu_si512(from), at), upper,
            _mm512_mullo_epi64(_mm512_loadu_si512(from + 64), at));
        const __m512i q = _mm512_add_epi32(phase, eighth);
        const __m512i rest = _mm512_and_si512(q, _mm512_set1_epi32(0x3FFFFFFF));
        const __m512 u = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(rest, eighth)),
                                       _mm512_set1_ps(0x1p-29f));
        const __m512 w = _mm512_mul_ps(u, u);
        __m512 s = _mm512_fmadd_ps(_mm512_set1_ps(AKV_SIN_3), w, _mm512_set1_ps(AKV_SIN_2));
        __m512 c = _mm512_fmadd_ps(_mm512_set1_ps(AKV_COS_3), w, _mm512_set1_ps(AKV_COS_2));
        s = _mm512_fmadd_ps(s, w, _mm512_set1_ps(AKV_SIN_1));
        s = _mm512_mul_ps(_mm512_fmadd_ps(s, w, _mm512_set1_ps(AKV_SIN_0)), u);
        c = _mm512_fmadd_ps(c, w, _mm512_set1_ps(AKV_COS_1));
        c = _mm512_fmadd_ps(c, w, _mm512_set1_ps(AKV_COS_0));
        c = _mm512_fmadd_ps(c, w, _mm512_set1_ps(1.0f));
        const __mmask16 odd = _mm512_test_epi32_mask(q, quarter);
        const __m512i c_bits = _mm512_castps_si512(_mm512_mask_blend_ps(odd, c, s));
        const __m512i s_bits = _mm512_castps_si512(_mm512_mask_blend_ps(odd, s, c));
        /* bits ^ (q & sign), one instruction */
        _mm512_storeu_si512(c_out + i, _mm512_ternarylogic_epi32(
                                           c_bits, _mm512_add_epi32(q, quarter), sign, 0x78));
        _mm512_storeu_si512(s_out + i, _mm512_ternarylogic_epi32(s_bits, q, sign, 0x78));
    }
    return i;
}
#elif defined(__AVX2__) && defined(__FMA__)
/* Leading halves of the phases of 8 pairs. */
static inline __m256i rope_phases(const uint8_t *turns, __m256i position)
{
    __m256i half[2];
    for (uint32_t k = 0; k < 2u; k++) {
        const __m256i t = _mm256_loadu_si256((const void *)(turns + 32u * k));
        const __m256i low = _mm256_srli_epi64(_mm256_mul_epu32(t, position), 32);
        const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(t, 32), position);
        half[k] = _mm256_add_epi64(low, high);
    }
    const __m256 mixed =
        _mm256_shuffle_ps(_mm256_castsi256_ps(half[0]), _mm256_castsi256_ps(half[1]), 0x88);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(mixed), 0xD8);
}
static inline uint32_t rope_lanes(float *c_out, float *s_out, const uint8_t *turns, uint32_t pairs,
                                  uint32_t position)
{
    const __m256i at = _mm256_set1_epi64x((long long)position), eighth = _mm256_set1_epi32(0x20000000);
    const __m256i quarter = _mm256_set1_epi32(0x40000000), sign = _mm256_set1_epi32((int)0x80000000u);
    uint32_t i = 0;
    for (; i + 8u <= pairs; i += 8u) {
        const __m256i q = _mm256_add_epi32(rope_phases(turns + 8u * (size_t)i, at), eighth);
        const __m256i rest = _mm256_and_si256(q, _mm256_set1_epi32(0x3FFFFFFF));
        const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(rest, eighth)),
                                       _mm256_set1_ps(0x1p-29f));
        const __m256 w = _mm256_mul_ps(u, u);
        __m256 s = _mm256_fmadd_ps(_mm256_set1_ps(AKV_SIN_3), w, _mm256_set1_ps(AKV_SIN_2));
        __m256 c = _mm256_fmadd_ps(_mm256_set1_ps(AKV_COS_3), w, _mm256_set1_ps(AKV_COS_2));
        s = _mm256_fmadd_ps(s, w, _mm256_set1_ps(AKV_SIN_1));
        s = _mm256_mul_ps(_mm256_fmadd_ps(s, w, _mm256_set1_ps(AKV_SIN_0)), u);
        c = _mm256_fmadd_ps(c, w, _mm256_set1_ps(AKV_COS_1));
        c = _mm256_fmadd_ps(c, w, _mm256_set1_ps(AKV_COS_0));
        c = _mm256_fmadd_ps(c, w, _mm256_set1_ps(1.0f));
        const __m256 odd = _mm256_castsi256_ps(_mm256_slli_epi32(q, 1)); /* by the sign bit */
        const __m256i c_sign = _mm256_and_si256(_mm256_add_epi32(q, quarter), sign);
        const __m256i s_sign = _mm256_and_si256(q, sign);
        _mm256_storeu_ps(c_out + i, _mm256_xor_ps(_mm256_blendv_ps(c, s, odd), _mm256_castsi256_ps(c_sign)));
        _mm256_storeu_ps(s_out + i, _mm256_xor_ps(_mm256_blendv_ps(s, c, odd), _mm256_castsi256_ps(s_sign)));
    }
    return i;
}
#else
static inline uint32_t rope_lanes(float *c_out, float *s_out, const uint8_t *turns, uint32_t pairs,
                                  uint32_t position)
{
    (void)c_out, (void)s_out, (void)turns, (void)pairs, (void)position;
    return 0;
}
#endif

/* Cosines and sines of a map's pairs. */
static inline void rope_angles(float *c, float *s, const uint8_t *maps, const akv_map *map,
                               uint32_t position)
{
    for (uint32_t i = rope_lanes(c, s, maps + map->turns, map->pairs, position); i < map->pairs; i++) {
        akv_turn turn = akv_rope_at(akv_map_turns(maps, map, i), position);
        c[i] = turn.c;
        s[i] = turn.s;
    }
}

#endif
