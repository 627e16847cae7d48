/* SPDX-License-Identifier: Apache-2.0 */
/* Scale search and codebook indices of one group in 256-bit vectors. */
#ifndef AKV_K_QUANT_X86_CODES_H
#define AKV_K_QUANT_X86_CODES_H
#include "k_quant_x86.h"

/* The eight candidates of a group: scale bytes, mantissas and left shifts of their levels. */
struct x_candidates {
    __m256i scale, mantissa, shift;
    uint32_t
        first; /* bit m: candidate m differs from the one before; equal ones have equal errors */
};
X_INLINE struct x_candidates x_candidates_of(uint32_t amax, uint32_t format)
{
    const __m256i previous = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6);
    struct x_candidates c;
    __m256i s = x_ue5m3(_mm256_mul_ps(_mm256_set1_ps(akv_as_f32(amax)),
                                      _mm256_loadu_ps(akv_candidate[format - AKV_N5])));
    __m256i normal = _mm256_cmpgt_epi32(s, _mm256_set1_epi32(7));
    __m256i same = _mm256_cmpeq_epi32(s, _mm256_permutevar8x32_epi32(s, previous));
    __m256i e = _mm256_max_epi32(_mm256_srli_epi32(s, 3), _mm256_set1_epi32(1));
    c.scale = s;
    c.mantissa = _mm256_or_si256(_mm256_and_si256(s, _mm256_set1_epi32(7)),
                                 _mm256_and_si256(normal, _mm256_set1_epi32(8)));
    c.shift = _mm256_add_epi32(e, _mm256_set1_epi32(114 - (int)(amax >> 23)));
    c.first = 1u | (~(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(same)) & 0xFFu);
    return c;
}
/* Sums of the lanes of eight vectors. */
X_INLINE __m256i x_sum_eight(const __m256i *v)
{
    __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                            _mm256_permute2x128_si256(a, b, 0x31));
}
/* Scale of the least error, the lowest candidate on ties, of those that were computed. */
X_INLINE uint32_t x_best(const struct x_candidates *c, const __m256i *partial)
{
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    _Alignas(32) uint32_t scale[8];
    __m256i error = x_sum_eight(partial);
    __m256i done = _mm256_and_si256(_mm256_set1_epi32((int)c->first), bit);
    error = _mm256_or_si256(error, _mm256_cmpeq_epi32(done, _mm256_setzero_si256()));
    __m128i least =
        _mm_min_epu32(_mm256_castsi256_si128(error), _mm256_extracti128_si256(error, 1));
    least = _mm_min_epu32(least, _mm_shuffle_epi32(least, 0x4E));
    least = _mm_min_epu32(least, _mm_shuffle_epi32(least, 0xB1));
    __m256i is_least = _mm256_cmpeq_epi32(error, _mm256_broadcastd_epi32(least));
    _mm256_store_si256((void *)scale, c->scale);
    return scale[__builtin_ctz((uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(is_least)))];
}
X_INLINE __m256i x_distance(__m256i n, __m256i r)
{
    return _mm256_abs_epi16(_mm256_sub_epi16(n, r));
}
/* Least distance of 16 numbers to 2, 4, 8 or 16 ascending levels.  Whoever is not above the middle
 * of the two middle levels has its nearest level in the lower half. */
X_INLINE __m256i x_least(__m256i n, const __m256i *r, int levels)
{
    __m256i near[8];
    int half = levels / 2;
    if (levels >= 8) {
        __m256i middle = _mm256_srli_epi16(_mm256_add_epi16(r[half - 1], r[half]), 1);
        __m256i upper = _mm256_cmpgt_epi16(n, middle);
        X_UNROLL(8)
        for (int j = 0; j < half; j++)
            near[j] = _mm256_blendv_epi8(r[j], r[j + half], upper);
        if (levels == 16)
            return x_least(n, near, 8);
        r = near;
        levels = half;
    }
    __m256i least = x_distance(n, r[0]);
    X_UNROLL(4)
    for (int j = 1; j < levels; j++)
        least = _mm256_min_epi16(least, x_distance(n, r[j]));
    return least;
}
/* Numbers are below 2^13 + 1, levels below 2^14.2 (127 * d / 128 in units of 2^-12 of the exponent
 * of amax; d is below 2.1 * amax, or subnormal with amax at least 2^-18), so that 16 bits hold
 * them; the sum of 32 squares of distances to the nearest level stays below 2^32.  Saturated
 * scales, whose levels would shift right, and 0 are left to the scalar code. */
X_INLINE uint32_t x_search_format(const float *x, uint32_t amax, uint32_t format)
{
    int levels = (int)akv_levels(format);
    struct x_candidates c = x_candidates_of(amax, format);
    _Alignas(32) int32_t level[16][8];
    __m256 unit = _mm256_set1_ps(akv_as_f32((266u - (amax >> 23)) << 23));
    __m256i n[2], partial[8];

    X_UNROLL(16)
    for (int j = 0; j < levels; j++) {
        __m256i r = _mm256_mullo_epi16(c.mantissa, _mm256_set1_epi32(akv_codebook[levels - 2 + j]));
        _mm256_store_si256((void *)level[j], _mm256_sllv_epi32(r, c.shift));
    }
    X_UNROLL(2)
    for (int k = 0; k < 2; k++) {
        __m256 lo = _mm256_castsi256_ps(x_abs(_mm256_loadu_ps(x + 16 * k)));
        __m256 hi = _mm256_castsi256_ps(x_abs(_mm256_loadu_ps(x + 16 * k + 8)));
        n[k] = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(lo, unit)),
                                  _mm256_cvtps_epi32(_mm256_mul_ps(hi, unit)));
    }
    X_UNROLL(8)
    for (int m = 0; m < 8; m++)
        partial[m] = _mm256_setzero_si256();
    for (uint32_t todo = c.first; todo != 0; todo &= todo - 1u) {
        uint32_t m = (uint32_t)__builtin_ctz(todo);
        __m256i r[16];
        X_UNROLL(16)
        for (int j = 0; j < levels; j++)
            r[j] = _mm256_set1_epi16((short)level[j][m]);
        __m256i a = x_least(n[0], r, levels), b = x_least(n[1], r, levels);
        partial[m] = _mm256_add_epi32(_mm256_madd_epi16(a, a), _mm256_madd_epi16(b, b));
    }
    return x_best(&c, partial);
}
static uint32_t x_search_rare(const float *x, uint32_t amax, uint32_t format)
{
    float sane[32];
    for (int i = 0; i < 32; i++)
        sane[i] = akv_as_f32(akv_sane(akv_as_u32(x[i])));
    return akv_search_scale(sane, amax, format);
}
X_INLINE int x_search_is_rare(uint32_t amax)
{
    return amax == 0u || amax >= 0x47000000u; /* 2^15 */
}
static uint32_t x_search_n5(const float *x, uint32_t amax)
{
    return x_search_is_rare(amax) ? x_search_rare(x, amax, AKV_N5)
                                  : x_search_format(x, amax, AKV_N5);
}
static uint32_t x_search_n4(const float *x, uint32_t amax)
{
    return x_search_is_rare(amax) ? x_search_rare(x, amax, AKV_N4)
                                  : x_search_format(x, amax, AKV_N4);
}
static uint32_t x_search_n3(const float *x, uint32_t amax)
{
    return x_search_is_rare(amax) ? x_search_rare(x, amax, AKV_N3)
                                  : x_search_format(x, amax, AKV_N3);
}
static uint32_t x_search_n2(const float *x, uint32_t amax)
{
    return x_search_is_rare(amax) ? x_search_rare(x, amax, AKV_N2)
                                  : x_search_format(x, amax, AKV_N2);
}
X_INLINE void x_search(struct x_batch *b, uint32_t format)
{
    for (uint32_t i = 0; i < b->rows * b->scales; i++) {
        const float *x = b->at[i / b->scales] + i % b->scales * 32u;
        b->scale[i] = format == AKV_N5   ? x_search_n5(x, b->amax[i])
                      : format == AKV_N4 ? x_search_n4(x, b->amax[i])
                      : format == AKV_N3 ? x_search_n3(x, b->amax[i])
                                         : x_search_n2(x, b->amax[i]);
    }
}

/* c_j + c_j+1 - 1 - 128 of every format, as akv_codebook starts them, spread over a vector:
 * compilers would rather build such constants from general registers, three instructions each. */
#define X_SPREAD(t)                                                                                \
    {                                                                                              \
        (t) - 129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129,         \
            (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129,       \
            (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129, (t)-129,       \
            (t)-129, (t)-129, (t)-129, (t)-129, (t)-129                                            \
    }
#define X_UNUSED                                                                                   \
    {                                                                                              \
        0                                                                                          \
    }
static const int8_t x_threshold[][32] __attribute__((aligned(32))) = {
    X_SPREAD(165), X_UNUSED,      X_SPREAD(59),  X_SPREAD(124), X_SPREAD(206), X_UNUSED,
    X_SPREAD(24),  X_SPREAD(49),  X_SPREAD(75),  X_SPREAD(102), X_SPREAD(133), X_SPREAD(171),
    X_SPREAD(223), X_UNUSED,      X_SPREAD(11),  X_SPREAD(21),  X_SPREAD(31),  X_SPREAD(42),
    X_SPREAD(53),  X_SPREAD(64),  X_SPREAD(76),  X_SPREAD(88),  X_SPREAD(101), X_SPREAD(115),
    X_SPREAD(131), X_SPREAD(149), X_SPREAD(169), X_SPREAD(195), X_SPREAD(232)};

typedef int8_t x_threshold_row[32];
X_INLINE const x_threshold_row *x_threshold_of(uint32_t format)
{
    const x_threshold_row *table = x_threshold + (akv_levels(format) - 2u);
    X_OPAQUE(table);
    return table;
}
/* Codebook indices of 32 values under a scale that is neither 0 nor saturated (else: any indices).
 * In units of d/256 thresholds are integers below 256; the quotient of quant.h compares with them
 * exactly, and ties are where it is an integer.  Values above -2^-24 count as positive: see
 * X_SMALL_BITS. */
X_INLINE void x_indices(const float *x, float r_hi, float r_lo, uint32_t format,
                        const x_threshold_row *threshold, uint8_t *code)
{
    const uint32_t levels = akv_levels(format);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256 hi = _mm256_set1_ps(r_hi), lo = _mm256_set1_ps(r_lo);
    __m256i whole[4], exact[4], sign[4];

    X_UNROLL(4)
    for (int k = 0; k < 4; k++) {
        __m256 v = _mm256_loadu_ps(x + 8 * k);
        __m256 t = _mm256_fmadd_ps(v, hi, _mm256_mul_ps(v, lo));
        whole[k] = _mm256_cvttps_epi32(t);
        exact[k] = _mm256_castps_si256(_mm256_cmp_ps(t, _mm256_cvtepi32_ps(whole[k]), _CMP_EQ_OQ));
        sign[k] = _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_set1_ps(-0x1p-24f), _CMP_LE_OQ));
    }
    __m256i w = _mm256_packus_epi16(_mm256_abs_epi16(_mm256_packs_epi32(whole[0], whole[1])),
                                    _mm256_abs_epi16(_mm256_packs_epi32(whole[2], whole[3])));
    __m256i tie = x_bytes_mixed(exact), negative = x_bytes_mixed(sign); /* 0 or -1 */
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(w, 4), _mm256_set1_epi8(15)), p;
    w = _mm256_xor_si256(w, _mm256_set1_epi8(-128)); /* unsigned order as signed */
    if (format != AKV_N4) {
        __m256i even = _mm256_adds_epi8(w, _mm256_andnot_si256(negative, tie));
        __m256i odd = _mm256_adds_epi8(w, _mm256_and_si256(negative, tie));
        p = _mm256_cmpgt_epi8(even, _mm256_load_si256((const void *)threshold[0]));
        X_UNROLL(15)
        for (uint32_t j = 1; j + 1u < levels; j++)
            p = _mm256_add_epi8(p,
                                _mm256_cmpgt_epi8((j & 1u) ? odd : even,
                                                  _mm256_load_si256((const void *)threshold[j])));
        p = _mm256_sub_epi8(_mm256_setzero_si256(), p);
    } else {
        /* at most one threshold lies in each sixteenth of 0 … 255: how many lie below that, the
         * threshold (as x_threshold; 127: none), -1 where its number is odd */
        const __m256i below = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7));
        const __m256i inside = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(127, 24 - 129, 127, 49 - 129, 75 - 129, 127, 102 - 129, 127, 133 - 129,
                          127, 171 - 129, 127, 127, 223 - 129, 127, 127));
        const __m256i is_odd = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 0, 0, -1, 0, 0, -1, 0, 0, 0, -1, 0, 0, 0, 0, 0));
        __m256i down = _mm256_xor_si256(_mm256_shuffle_epi8(is_odd, high), negative);
        w = _mm256_adds_epi8(w, _mm256_andnot_si256(down, tie));
        p = _mm256_sub_epi8(_mm256_shuffle_epi8(below, high),
                            _mm256_cmpgt_epi8(w, _mm256_shuffle_epi8(inside, high)));
    }
    /* p thresholds lie inside: index levels + p, or levels - 1 - p */
    p = _mm256_xor_si256(p, negative);
    p = _mm256_add_epi8(p, _mm256_set1_epi8((char)levels));
    _mm256_storeu_si256((void *)code, _mm256_permutevar8x32_epi32(p, order));
}
/* Codes of `groups` groups of a row. */
X_INLINE void x_codebook(const float *x, const float *hi, const float *lo, uint32_t groups,
                         uint32_t format, uint8_t *code)
{
    const x_threshold_row *threshold = x_threshold_of(format);
    for (uint32_t g = 0; g < groups; g++)
        x_indices(x + 32u * g, hi[g], lo[g], format, threshold, code + 32u * g);
}

#endif
