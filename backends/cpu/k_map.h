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
#define q_half_v(p)    _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p)))
#define q_zero_v()     _mm512_setzero_ps()
#define q_set_v(x)     _mm512_set1_ps(x)
#define q_add_v(a, b)  _mm512_add_ps(a, b)
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
    const __m512i a = _mm512_and_si512(bits, mask), tiny = _mm512_set1_epi32((int)AKV_TINY_BITS);
    const __mmask16 kept = _mm512_cmple_epu32_mask(
        _mm512_sub_epi32(a, tiny), _mm512_set1_epi32((int)(0x7F800000u - AKV_TINY_BITS)));
    const __m512i r = _mm512_min_epu32(a, _mm512_set1_epi32((int)AKV_HUGE_BITS));
    /* the sign of bits, the rest of r */
    return _mm512_castsi512_ps(_mm512_maskz_ternarylogic_epi32(kept, r, bits, mask, 0xE4));
}
static inline __m512 q_tiny_v(__m512 x) /* what is below 2^-24 as +0 */
{
    const __m512i a = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF));
    return _mm512_maskz_mov_ps(_mm512_cmpge_epi32_mask(a, _mm512_set1_epi32((int)AKV_TINY_BITS)), x);
}
#define QI             __m512i
#define q_none_v()     _mm512_setzero_si512()
static inline __m512i q_largest_v(__m512i largest, __m512 x)
{
    return _mm512_max_epu32(
        largest, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF)));
}
static inline bool q_wild_v(__m512i largest) /* beyond 2^100, or NaN */
{
    return _mm512_cmpgt_epu32_mask(largest, _mm512_set1_epi32((int)AKV_HUGE_BITS)) != 0;
}
#elif defined(__AVX2__) && defined(__FMA__)
#define QN             8u
#define QV             __m256
#define q_load_v(p)    _mm256_loadu_ps(p)
#define q_store_v(p, v) _mm256_storeu_ps(p, v)
#define q_half_v(p)    _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p)))
#define q_zero_v()     _mm256_setzero_ps()
#define q_set_v(x)     _mm256_set1_ps(x)
#define q_add_v(a, b)  _mm256_add_ps(a, b)
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
static inline __m256 q_tiny_v(__m256 x)
{
    const __m256i a = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF));
    return _mm256_and_ps(
        x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, _mm256_set1_epi32((int)AKV_TINY_BITS - 1))));
}
#define QI             __m256i
#define q_none_v()     _mm256_setzero_si256()
static inline __m256i q_largest_v(__m256i largest, __m256 x)
{
    return _mm256_max_epi32(
        largest, _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF)));
}
static inline bool q_wild_v(__m256i largest)
{
    return _mm256_movemask_epi8(_mm256_cmpgt_epi32(largest, _mm256_set1_epi32((int)AKV_HUGE_BITS))) != 0;
}
#endif

/* What becomes of the components of a turned pair. */
enum q_turned { Q_TURNED_ALONE, Q_TURNED_OFF, Q_TURNED_ON };
static inline float q_turned(float x, float moved, enum q_turned how)
{
    return how == Q_TURNED_ALONE ? moved
           : how == Q_TURNED_OFF ? akv_as_f32(akv_sane(akv_as_u32(x - moved)))
                                 : x + moved;
}
#if defined(QN)
static inline __attribute__((always_inline)) void q_turned_v(float *x, QV moved, const enum q_turned how)
{
    q_store_v(x, how == Q_TURNED_ALONE ? moved
                 : how == Q_TURNED_OFF ? q_sane_v(q_sub_v(q_load_v(x), moved))
                                       : q_add_v(q_load_v(x), moved));
}
#endif
/* Pairs of y that whole vectors hold, turned, into x, or off or onto it; returns how many. */
static inline __attribute__((always_inline)) uint32_t
q_turn_lanes(float *x, const float *y, const float *c, const float *s, uint32_t pairs, bool half,
             const enum q_turned how)
{
    uint32_t i = 0;
#if defined(QN)
    for (; half && i + QN <= pairs; i += QN) {
        const QV vc = q_load_v(c + i), vs = q_load_v(s + i);
        const QV a = q_load_v(y + i), b = q_load_v(y + pairs + i);
        q_turned_v(x + i, q_fms_v(vc, a, q_mul_v(vs, b)), how);
        q_turned_v(x + pairs + i, q_fma_v(vc, b, q_mul_v(vs, a)), how);
    }
    for (; !half && i + QN / 2u <= pairs; i += QN / 2u) {
        const QV v = q_load_v(y + 2u * i), product = q_mul_v(q_twice_v(s + i), q_swap_v(v));
        q_turned_v(x + 2u * i, q_fmaddsub_v(q_twice_v(c + i), v, product), how);
    }
#else
    (void)x, (void)y, (void)c, (void)s, (void)pairs, (void)half, (void)how;
#endif
    return i;
}
/* A row of the caller, or x itself, as f32 made sane; returns what was seen.  Head sizes are multiples of
 * 16. */
static inline uint32_t q_row_sane(float *x, const uint8_t *from, uint32_t dim)
{
    uint32_t saw = 0, i = 0;
#if defined(QN)
    QI largest = q_none_v();
    for (; i < dim; i += QN) {
        const QV v = q_load_v((const void *)(from + 4u * i));
        largest = q_largest_v(largest, v);
        q_store_v(x + i, q_tiny_v(v));
    }
    if (AKV_UNLIKELY(q_wild_v(largest)))
        i = 0, from = (const uint8_t *)x;
#endif
    for (; i < dim; i++) {
        const uint32_t bits = akv_load_u32(from + 4u * i);
        saw |= akv_saw(bits);
        x[i] = akv_as_f32(akv_sane(bits));
    }
    return saw;
}
static inline void q_row_times(float *x, float scale, bool sane, uint32_t dim)
{
    uint32_t i = 0;
#if defined(QN)
    for (; i < dim; i += QN) {
        const QV v = q_mul_v(q_load_v(x + i), q_set_v(scale));
        q_store_v(x + i, sane ? q_sane_v(v) : v);
    }
#endif
    for (; i < dim; i++)
        x[i] = sane ? akv_as_f32(akv_sane(akv_as_u32(x[i] * scale))) : x[i] * scale;
}

/* The mean turned to a position, off or onto a row. */
static inline __attribute__((always_inline)) void q_row_mean(struct q_maps *w, float *x, uint32_t position,
                                                             const enum q_turned how)
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
    for (uint32_t i = q_turn_lanes(x, w->mean, c, s, pairs, half != 0, how); i < pairs; i++) {
        const akv_turn turn = {c[i], s[i]};
        const float a = w->mean[i * step], b = w->mean[i * step + other];
        x[i * step] = q_turned(x[i * step], akv_rope_first(turn, a, b), how);
        x[i * step + other] = q_turned(x[i * step + other], akv_rope_second(turn, a, b), how);
    }
    for (uint32_t i = 2u * pairs; i < w->dim; i++)
        x[i] = q_turned(x[i], w->mean[i], how);
}

/* ---- matrices: y[j] = sum over i of x[i] * m(i, j), one fma chain for each j, for some rows; half: m is
 * f16, else f32; sane: y is made so. ---- */

#if defined(QN)
/* Columns from j on, `vectors` of them at a time, while they are there; returns the next.  The sums stay in
 * registers: eight or more of them, because a multiply-add takes four cycles and two begin in one. */
static inline __attribute__((always_inline)) uint32_t
q_chain_part(float *y, const float *x, const uint8_t *m, const bool half, const bool sane, uint32_t dim,
             const uint32_t rows, const uint32_t vectors, uint32_t j, uint32_t end)
{
    const size_t size = half ? 2u : 4u;
    for (; j + vectors * QN <= end; j += vectors * QN) {
        QV sum[8][8];
        Q_UNROLL for (uint32_t k = 0; k < rows; k++)
            Q_UNROLL for (uint32_t v = 0; v < vectors; v++)
                sum[k][v] = q_zero_v();
        for (uint32_t i = 0; i < dim; i++) {
            const uint8_t *at = m + ((size_t)i * dim + j) * size;
            QV column[8];
            Q_UNROLL for (uint32_t v = 0; v < vectors; v++)
                column[v] = half ? q_half_v(at + v * QN * 2u) : q_load_v((const void *)(at + v * QN * 4u));
            Q_UNROLL for (uint32_t k = 0; k < rows; k++) {
                const QV row = q_set_v(x[k * AKV_CODE_STRIDE + i]);
                Q_UNROLL for (uint32_t v = 0; v < vectors; v++)
                    sum[k][v] = q_fma_v(row, column[v], sum[k][v]);
            }
        }
        Q_UNROLL for (uint32_t k = 0; k < rows; k++)
            Q_UNROLL for (uint32_t v = 0; v < vectors; v++)
                q_store_v(y + k * AKV_CODE_STRIDE + j + v * QN, sane ? q_sane_v(sum[k][v]) : sum[k][v]);
    }
    return j;
}
#if defined(__AVX512F__)
#define Q_CHAIN_ROWS 8u
#else
#define Q_CHAIN_ROWS 4u
#endif
/* Head sizes are multiples of 16. */
static inline __attribute__((always_inline)) void
q_chain_rows(float *y, const float *x, const uint8_t *m, const bool half, const bool sane, uint32_t dim,
             const uint32_t rows)
{
    uint32_t j = 0;
#if defined(__AVX512F__)
    j = q_chain_part(y, x, m, half, sane, dim, rows, rows == 1u ? 8u : 16u / rows, j, dim);
    if (rows < 8u)
        j = q_chain_part(y, x, m, half, sane, dim, rows, 2u, j, dim);
    q_chain_part(y, x, m, half, sane, dim, rows, 1u, j, dim);
#else
    const uint32_t pairs = dim / QN * 2u % 3u; /* what is left by threes: an even number of vectors */
    j = q_chain_part(y, x, m, half, sane, dim, rows, rows == 1u ? 8u : 3u, j, dim - pairs * 2u * QN);
    q_chain_part(y, x, m, half, sane, dim, rows, 2u, j, dim);
#endif
}
#else
#define Q_CHAIN_ROWS 1u
static inline void q_chain_rows(float *y, const float *x, const uint8_t *m, const bool half,
                                const bool sane, uint32_t dim, const uint32_t rows)
{
    const size_t size = half ? 2u : 4u;
    (void)rows;
    for (uint32_t j = 0; j < dim; j++) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < dim; i++) {
            const uint8_t *at = m + ((size_t)i * dim + j) * size;
            float element = half ? akv_map_f16(at, 0, 0) : akv_as_f32(akv_load_u32(at));
            sum = AKV_FMA(x[i], element, sum);
        }
        y[j] = sane ? akv_as_f32(akv_sane(akv_as_u32(sum))) : sum;
    }
}
#endif

#define Q_CHAIN_WHILE(count, ...) \
    for (; rows >= count; rows -= count, x += count * AKV_CODE_STRIDE, y += count * AKV_CODE_STRIDE) \
        q_chain_rows(y, x, __VA_ARGS__, dim, count);
/* By a head's matrix, or by its inverse. */
static void q_chain(float *y, const float *x, const uint8_t *matrix, uint32_t dim, uint32_t rows)
{
    Q_CHAIN_WHILE(Q_CHAIN_ROWS, matrix, true, true)
#if defined(QN)
    Q_CHAIN_WHILE(4u, matrix, true, true)
    Q_CHAIN_WHILE(1u, matrix, true, true)
#endif
}
static void q_chain_back(float *y, const float *x, const uint8_t *inverse, uint32_t dim, uint32_t rows)
{
    Q_CHAIN_WHILE(Q_CHAIN_ROWS, inverse, false, false)
#if defined(QN)
    Q_CHAIN_WHILE(4u, inverse, false, false)
    Q_CHAIN_WHILE(1u, inverse, false, false)
#endif
}

/* Rows of the caller at successive positions, as f32 rows that q_quantise takes with
 * q_maps_flags; returns what was seen. */
static inline uint32_t q_maps_store(struct q_maps *w, struct q_work *work, const uint8_t **src,
                                    uint32_t rows, uint32_t dtype, uint32_t position)
{
    const uint32_t dim = w->dim, matrix = w->map->transform == AKV_TRANSFORM_MATRIX;
    const float scale = akv_map_scale(w->maps, w->map, w->head, 0);
    uint32_t saw = 0;
    for (uint32_t k = 0; k < rows; k++) {
        float *x = (matrix ? work->value : w->row) + k * AKV_CODE_STRIDE;
        const uint8_t *from = dtype == AKV_F32 ? src[k] : (const uint8_t *)x;
        if (dtype != AKV_F32)
            q_convert((uint8_t *)x, AKV_F32, src[k], dtype, dim);
        saw |= q_row_sane(x, from, dim);
        if (w->map->mean)
            q_row_mean(w, x, position + k, Q_TURNED_OFF);
        if (w->map->scales)
            q_row_times(x, scale, true, dim);
        src[k] = (const uint8_t *)(w->row + k * AKV_CODE_STRIDE);
    }
    if (matrix)
        q_chain(w->row, work->value, w->maps + akv_map_matrix_row(w->map, w->head, dim, 0), dim, rows);
    return saw;
}

#endif
