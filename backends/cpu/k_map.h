/* SPDX-License-Identifier: Apache-2.0 */
/* Transforms with constants (map.h) around the loops of k_quant_body.h: rows before they are
 * quantised, values after they are decoded.  Compiled once for each instruction set; vectors run
 * over components, so every component is the chain that the contract gives. */
#ifndef AKV_K_MAP_H
#define AKV_K_MAP_H
#include "../../lib/kernel/map.h"
#include "k_quant_scalar.h"
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__F16C__))
#include <immintrin.h>
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

/* The mean turned to a position, in w->moved. */
static inline void q_turn_mean(struct q_maps *w, uint32_t position)
{
    const akv_map *map = w->map;
    const uint32_t slot = position % Q_TURNS, pairs = map->pairs;
    const uint8_t *turns = w->maps + map->turns;
    float *c = w->c[slot], *s = w->s[slot];
    if (w->turns_of[slot] != turns || w->position[slot] != position) {
        for (uint32_t i = 0; i < pairs; i++) {
            akv_turn turn = akv_rope_at(akv_map_turns(w->maps, map, i), position);
            c[i] = turn.c;
            s[i] = turn.s;
        }
        w->turns_of[slot] = turns;
        w->position[slot] = position;
    }
    const uint32_t half = map->rope == AKV_ROPE_HALF;
    const uint32_t step = half ? 1u : 2u, other = half ? pairs : 1u;
    for (uint32_t i = 0; i < pairs; i++) {
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
        for (uint32_t k = 0; k < rows; k++)
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
            for (uint32_t k = 0; k < rows; k++) {
                __m512 v = _mm512_set1_ps(x[k * AKV_CODE_STRIDE + i]);
                sum[k][0] = _mm512_fmadd_ps(v, m0, sum[k][0]);
                sum[k][1] = _mm512_fmadd_ps(v, m1, sum[k][1]);
            }
        }
        for (uint32_t k = 0; k < rows; k++) {
            _mm512_storeu_ps(y + k * AKV_CODE_STRIDE + j, sum[k][0]);
            _mm512_storeu_ps(y + k * AKV_CODE_STRIDE + j + 16u, sum[k][1]);
        }
    }
#elif defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
    for (; j + 16u <= dim; j += 16u) {
        __m256 sum[4][2];
        for (uint32_t k = 0; k < rows; k++)
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
            for (uint32_t k = 0; k < rows; k++) {
                __m256 v = _mm256_set1_ps(x[k * AKV_CODE_STRIDE + i]);
                sum[k][0] = _mm256_fmadd_ps(v, m0, sum[k][0]);
                sum[k][1] = _mm256_fmadd_ps(v, m1, sum[k][1]);
            }
        }
        for (uint32_t k = 0; k < rows; k++) {
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
        for (uint32_t i = 0; i < dim; i++) {
            uint32_t bits = akv_load_bits(src[k], i, dtype);
            saw |= akv_saw(bits);
            x[i] = akv_as_f32(akv_sane(bits));
        }
        if (w->map->mean) {
            q_turn_mean(w, position[k]);
            for (uint32_t i = 0; i < dim; i++)
                x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] - w->moved[i])));
        }
        for (uint32_t i = 0; w->map->scales && i < dim; i++)
            x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] * scale)));
        src[k] = (const uint8_t *)(w->row + k * AKV_CODE_STRIDE);
    }
    if (!matrix)
        return saw;
    const uint8_t *m = w->maps + akv_map_matrix_row(w->map, w->head, dim, 0);
    q_chain(w->row, work->value, m, true, dim, rows);
    for (uint32_t k = 0; k < rows; k++)
        for (uint32_t i = 0; i < dim; i++) {
            float *y = w->row + k * AKV_CODE_STRIDE + i;
            *y = akv_as_f32(akv_sane(akv_as_u32(*y)));
        }
    return saw;
}

#endif
