/* SPDX-License-Identifier: Apache-2.0 */
/* Transforms with constants (map.h) around the loops of k_quant_body.h: rows before they are
 * quantised, values after they are decoded.  Compiled once for each instruction set; vectors run
 * over components, so every component is the chain that the contract gives. */
#ifndef AKV_K_MAP_H
#define AKV_K_MAP_H
#include "k_quant_scalar.h"
#include "k_rope.h"
/* Before a loop over vectors that must become registers. */
#if defined(__GNUC__) && !defined(__clang__)
#define Q_UNROLL _Pragma("GCC unroll 8")
#elif defined(__clang__)
#define Q_UNROLL _Pragma("clang loop unroll(full)")
#else
#define Q_UNROLL
#endif

#define Q_TURNS 16u /* positions whose angles are kept: those of a tile, for all heads and layers */

struct q_maps {
    const uint8_t *maps; /* NULL: no map */
    const akv_map *map;
    uint32_t dim, head;
    _Alignas(64) float row[Q_ROWS * AKV_CODE_STRIDE];
    float mean[AKV_MAX_HEAD_DIM];  /* of the head in hand, as f32 */
    float moved[AKV_MAX_HEAD_DIM]; /* turned to a position */
    const uint8_t *mean_of;        /* where the head in hand has its own */
    const uint8_t *turns_of[Q_TURNS];
    uint32_t position[Q_TURNS];
    float c[Q_TURNS][AKV_MAX_HEAD_DIM / 2u], s[Q_TURNS][AKV_MAX_HEAD_DIM / 2u];
};

static inline void q_maps_init(struct q_maps *w)
{
    w->maps = NULL;
    w->mean_of = NULL;
    memset(w->turns_of, 0, sizeof w->turns_of);
}
/* A head of a layer's side takes over; flags without AKV_FLAG_MAP: none. */
static inline void q_maps_use(struct q_maps *w, const uint8_t *maps, uint32_t map, uint32_t flags,
                              uint32_t dim, uint32_t head)
{
    w->maps = flags & AKV_FLAG_MAP ? maps : NULL;
    if (!w->maps)
        return;
    w->map = akv_map_at(maps, map);
    w->dim = dim;
    w->head = head;
    const uint8_t *mean = maps + w->map->mean + (size_t)head * dim * 2u;
    if (w->map->mean == 0 || mean == w->mean_of)
        return;
    for (uint32_t i = 0; i < dim; i++)
        w->mean[i] = akv_map_f16(mean, 0, i);
    w->mean_of = mean;
}
/* Flags of q_quantise for rows that went through q_maps_store. */
static inline uint32_t q_maps_flags(const struct q_maps *w, uint32_t flags)
{
    if (!w->maps)
        return flags;
    return (flags & ~AKV_FLAG_MAP) | (akv_map_rotates(w->map) ? AKV_FLAG_ROTATE : 0u);
}

/* ---- vectors of a row ---- */

#if defined(__AVX512F__)
#define QN             16u
#define QV             __m512
#define q_load_v(p)    _mm512_loadu_ps(p)
#define q_store_v(p, v) _mm512_storeu_ps(p, v)
#define q_set_v(x)     _mm512_set1_ps(x)
#define q_sub_v(a, b)  _mm512_sub_ps(a, b)
#define q_mul_v(a, b)  _mm512_mul_ps(a, b)
#define q_fma_v(a, b, c)    _mm512_fmadd_ps(a, b, c)
#define q_fms_v(a, b, c)    _mm512_fmsub_ps(a, b, c)
#define q_fmaddsub_v(a, b, c) _mm512_fmaddsub_ps(a, b, c)
#define q_swap_v(a)    _mm512_permute_ps(a, 0xB1)
static inline __m512 q_twice_v(const float *p) /* p[0], p[0], p[1], p[1] … */
{
    const __m512i index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
static inline __m512 q_sane_v(__m512 x)
{
    const __m512i bits = _mm512_castps_si512(x), mask = _mm512_set1_epi32(0x7FFFFFFF);
    const __m512i a = _mm512_and_si512(bits, mask);
    const __m512i r = _mm512_or_si512(_mm512_min_epu32(a, _mm512_set1_epi32((int)AKV_HUGE_BITS)),
                                      _mm512_andnot_si512(mask, bits));
    const __mmask16 kept = _mm512_cmpge_epu32_mask(a, _mm512_set1_epi32((int)AKV_TINY_BITS)) &
                           _mm512_cmple_epu32_mask(a, _mm512_set1_epi32(0x7F800000));
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(kept, r));
}
static inline bool q_wild_v(__m512 x) /* beyond 2^100, or NaN */
{
    const __m512i a = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF));
    return _mm512_cmpgt_epu32_mask(a, _mm512_set1_epi32((int)AKV_HUGE_BITS)) != 0;
}
#elif defined(__AVX2__) && defined(__FMA__)
#define QN             8u
#define QV             __m256
#define q_load_v(p)    _mm256_loadu_ps(p)
#define q_store_v(p, v) _mm256_storeu_ps(p, v)
#define q_set_v(x)     _mm256_set1_ps(x)
#define q_sub_v(a, b)  _mm256_sub_ps(a, b)
#define q_mul_v(a, b)  _mm256_mul_ps(a, b)
#define q_fma_v(a, b, c)    _mm256_fmadd_ps(a, b, c)
#define q_fms_v(a, b, c)    _mm256_fmsub_ps(a, b, c)
#define q_fmaddsub_v(a, b, c) _mm256_fmaddsub_ps(a, b, c)
#define q_swap_v(a)    _mm256_permute_ps(a, 0xB1)
static inline __m256 q_twice_v(const float *p)
{
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)),
                                    _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
static inline __m256 q_sane_v(__m256 x)
{
    const __m256i bits = _mm256_castps_si256(x), mask = _mm256_set1_epi32(0x7FFFFFFF);
    const __m256i a = _mm256_and_si256(bits, mask);
    const __m256i r = _mm256_or_si256(_mm256_min_epu32(a, _mm256_set1_epi32((int)AKV_HUGE_BITS)),
                                      _mm256_andnot_si256(mask, bits));
    const __m256i kept = _mm256_and_si256(_mm256_cmpgt_epi32(a, _mm256_set1_epi32((int)AKV_TINY_BITS - 1)),
                                          _mm256_cmpgt_epi32(_mm256_set1_epi32(0x7F800001), a));
    return _mm256_castsi256_ps(_mm256_and_si256(kept, r));
}
static inline bool q_wild_v(__m256 x)
{
    const __m256i a = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF));
    return _mm256_movemask_epi8(_mm256_cmpgt_epi32(a, _mm256_set1_epi32((int)AKV_HUGE_BITS))) != 0;
}
#endif

/* Pairs that whole vectors hold, turned; returns how many. */
static inline uint32_t q_turn_lanes(float *moved, const float *mean, const float *c, const float *s,
                                    uint32_t pairs, bool half)
{
    uint32_t i = 0;
#if defined(QN)
    for (; half && i + QN <= pairs; i += QN) {
        const QV vc = q_load_v(c + i), vs = q_load_v(s + i);
        const QV a = q_load_v(mean + i), b = q_load_v(mean + pairs + i);
        q_store_v(moved + i, q_fms_v(vc, a, q_mul_v(vs, b)));
        q_store_v(moved + pairs + i, q_fma_v(vc, b, q_mul_v(vs, a)));
    }
    for (; !half && i + QN / 2u <= pairs; i += QN / 2u) {
        const QV m = q_load_v(mean + 2u * i), product = q_mul_v(q_twice_v(s + i), q_swap_v(m));
        q_store_v(moved + 2u * i, q_fmaddsub_v(q_twice_v(c + i), m, product));
    }
#else
    (void)moved, (void)mean, (void)c, (void)s, (void)pairs, (void)half;
#endif
    return i;
}
/* A row of f32 made sane; returns what was seen.  Head sizes are multiples of 16. */
static inline uint32_t q_row_sane(float *x, uint32_t dim)
{
    uint32_t saw = 0, i = 0;
#if defined(QN)
    bool wild = false;
    for (; i < dim; i += QN)
        wild |= q_wild_v(q_load_v(x + i));
    for (i = 0; wild && i < dim; i++)
        saw |= akv_saw(akv_as_u32(x[i]));
    for (i = 0; i < dim; i += QN)
        q_store_v(x + i, q_sane_v(q_load_v(x + i)));
#endif
    for (; i < dim; i++) {
        saw |= akv_saw(akv_as_u32(x[i]));
        x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i])));
    }
    return saw;
}
static inline void q_row_minus(float *x, const float *m, uint32_t dim)
{
    uint32_t i = 0;
#if defined(QN)
    for (; i < dim; i += QN)
        q_store_v(x + i, q_sane_v(q_sub_v(q_load_v(x + i), q_load_v(m + i))));
#endif
    for (; i < dim; i++)
        x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] - m[i])));
}
static inline void q_row_times(float *x, float scale, uint32_t dim)
{
    uint32_t i = 0;
#if defined(QN)
    for (; i < dim; i += QN)
        q_store_v(x + i, q_sane_v(q_mul_v(q_load_v(x + i), q_set_v(scale))));
#endif
    for (; i < dim; i++)
        x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] * scale)));
}

/* The mean turned to a position, in w->moved. */
static inline void q_turn_mean(struct q_maps *w, uint32_t position)
{
    const akv_map *map = w->map;
    const uint32_t slot = position % Q_TURNS, pairs = map->pairs;
    const uint8_t *turns = w->maps + map->turns;
    float *c = w->c[slot], *s = w->s[slot];
    if (w->turns_of[slot] != turns || w->position[slot] != position) {
        rope_angles(c, s, w->maps, map, position);
        w->turns_of[slot] = turns;
        w->position[slot] = position;
    }
    const uint32_t half = map->rope == AKV_ROPE_HALF;
    const uint32_t step = half ? 1u : 2u, other = half ? pairs : 1u;
    for (uint32_t i = q_turn_lanes(w->moved, w->mean, c, s, pairs, half != 0); i < pairs; i++) {
        akv_turn turn = {c[i], s[i]};
        float a = w->mean[i * step], b = w->mean[i * step + other];
        w->moved[i * step] = akv_rope_first(turn, a, b);
        w->moved[i * step + other] = akv_rope_second(turn, a, b);
    }
    for (uint32_t i = 2u * pairs; i < w->dim; i++)
        w->moved[i] = w->mean[i];
}

#if defined(__AVX512F__)
#define Q_CHAIN_ROWS 8u /* whose sums stay in registers */
#else
#define Q_CHAIN_ROWS 4u
#endif
/* y[j] = sum over i of x[i] * m(i, j), one fma chain for each j, for some rows; half: m is f16, else
 * f32. */
static inline __attribute__((always_inline)) void q_chain_rows(float *y, const float *x,
                                                               const uint8_t *m, const bool half,
                                                               uint32_t dim, const uint32_t rows)
{
    const size_t size = half ? 2u : 4u;
    uint32_t j = 0;
#if defined(__AVX512F__)
    for (; j + 32u <= dim; j += 32u) {
        __m512 sum[Q_ROWS][2];
        Q_UNROLL for (uint32_t k = 0; k < rows; k++)
            sum[k][0] = sum[k][1] = _mm512_setzero_ps();
        for (uint32_t i = 0; i < dim; i++) {
            const uint8_t *at = m + ((size_t)i * dim + j) * size;
            __m512 m0, m1;
            if (half) {
                m0 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)at));
                m1 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(at + 32)));
            } else {
                m0 = _mm512_loadu_ps(at);
                m1 = _mm512_loadu_ps(at + 64);
            }
            Q_UNROLL for (uint32_t k = 0; k < rows; k++) {
                __m512 v = _mm512_set1_ps(x[k * AKV_CODE_STRIDE + i]);
                sum[k][0] = _mm512_fmadd_ps(v, m0, sum[k][0]);
                sum[k][1] = _mm512_fmadd_ps(v, m1, sum[k][1]);
            }
        }
        Q_UNROLL for (uint32_t k = 0; k < rows; k++) {
            _mm512_storeu_ps(y + k * AKV_CODE_STRIDE + j, sum[k][0]);
            _mm512_storeu_ps(y + k * AKV_CODE_STRIDE + j + 16u, sum[k][1]);
        }
    }
#elif defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
    for (; j + 16u <= dim; j += 16u) {
        __m256 sum[4][2];
        Q_UNROLL for (uint32_t k = 0; k < rows; k++)
            sum[k][0] = sum[k][1] = _mm256_setzero_ps();
        for (uint32_t i = 0; i < dim; i++) {
            const uint8_t *at = m + ((size_t)i * dim + j) * size;
            __m256 m0, m1;
            if (half) {
                m0 = _mm256_cvtph_ps(_mm_loadu_si128((const void *)at));
                m1 = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(at + 16)));
            } else {
                m0 = _mm256_loadu_ps((const float *)(const void *)at);
                m1 = _mm256_loadu_ps((const float *)(const void *)(at + 32));
            }
            Q_UNROLL for (uint32_t k = 0; k < rows; k++) {
                __m256 v = _mm256_set1_ps(x[k * AKV_CODE_STRIDE + i]);
                sum[k][0] = _mm256_fmadd_ps(v, m0, sum[k][0]);
                sum[k][1] = _mm256_fmadd_ps(v, m1, sum[k][1]);
            }
        }
        Q_UNROLL for (uint32_t k = 0; k < rows; k++) {
            _mm256_storeu_ps(y + k * AKV_CODE_STRIDE + j, sum[k][0]);
            _mm256_storeu_ps(y + k * AKV_CODE_STRIDE + j + 8u, sum[k][1]);
        }
    }
#endif
    for (; j < dim; j++)
        for (uint32_t k = 0; k < rows; k++) {
            float sum = 0.0f;
            for (uint32_t i = 0; i < dim; i++) {
                const uint8_t *at = m + ((size_t)i * dim + j) * size;
                float element = half ? akv_map_f16(at, 0, 0) : akv_as_f32(akv_load_u32(at));
                sum = AKV_FMA(x[k * AKV_CODE_STRIDE + i], element, sum);
            }
            y[k * AKV_CODE_STRIDE + j] = sum;
        }
}

static void q_chain(float *y, const float *x, const uint8_t *m, bool half, uint32_t dim,
                    uint32_t rows)
{
    for (; rows >= Q_CHAIN_ROWS; rows -= Q_CHAIN_ROWS) {
        if (half)
            q_chain_rows(y, x, m, true, dim, Q_CHAIN_ROWS);
        else
            q_chain_rows(y, x, m, false, dim, Q_CHAIN_ROWS);
        x += Q_CHAIN_ROWS * AKV_CODE_STRIDE;
        y += Q_CHAIN_ROWS * AKV_CODE_STRIDE;
    }
    for (; Q_CHAIN_ROWS > 4u && rows >= 4u; rows -= 4u) { /* a quad of seal */
        if (half)
            q_chain_rows(y, x, m, true, dim, 4u);
        else
            q_chain_rows(y, x, m, false, dim, 4u);
        x += 4u * AKV_CODE_STRIDE;
        y += 4u * AKV_CODE_STRIDE;
    }
    for (; rows > 0; rows--) {
        if (half)
            q_chain_rows(y, x, m, true, dim, 1u);
        else
            q_chain_rows(y, x, m, false, dim, 1u);
        x += AKV_CODE_STRIDE;
        y += AKV_CODE_STRIDE;
    }
}

/* Rows of the caller at their positions, as f32 rows that q_quantise takes with
 * q_maps_flags; returns what was seen. */
static inline uint32_t q_maps_store(struct q_maps *w, struct q_work *work, const uint8_t **src,
                                    uint32_t rows, uint32_t dtype, const uint32_t *position)
{
    const uint32_t dim = w->dim, matrix = w->map->transform == AKV_TRANSFORM_MATRIX;
    const float scale = akv_map_scale(w->maps, w->map, w->head, 0);
    uint32_t saw = 0;
    for (uint32_t k = 0; k < rows; k++) {
        float *x = (matrix ? work->value : w->row) + k * AKV_CODE_STRIDE;
        q_convert((uint8_t *)x, AKV_F32, src[k], dtype, dim);
        saw |= q_row_sane(x, dim);
        if (w->map->mean) {
            q_turn_mean(w, position[k]);
            q_row_minus(x, w->moved, dim);
        }
        if (w->map->scales)
            q_row_times(x, scale, dim);
        src[k] = (const uint8_t *)(w->row + k * AKV_CODE_STRIDE);
    }
    if (!matrix)
        return saw;
    const uint8_t *m = w->maps + akv_map_matrix_row(w->map, w->head, dim, 0);
    q_chain(w->row, work->value, m, true, dim, rows);
    for (uint32_t k = 0; k < rows; k++)
        q_row_sane(w->row + k * AKV_CODE_STRIDE, dim);
    return saw;
}

#endif
