/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of mass, once for each instruction set: M_WIDTH keys side by side, M_ROWS query rows at once.
 *
 * The including file has e_decode (k_evict_body.h) and defines before:
 *
 * m_scores(key, query, dim, out): out[r][t] = sum over j of query[r][j] * key[j][t] for M_ROWS rows;
 * m_add(score, scale, lse, sum): adds rint(min(1, e^(scale * score - lse)) * 2^20) to sum, M_WIDTH lanes,
 *     without a soft cap. */
#ifndef AKV_K_EVICT_MASS_H
#define AKV_K_EVICT_MASS_H
#include "k_evict.h"

#define M_ROWS 8u
#define M_MOST 1024u /* addends of 2^20 that a u32 takes, and some to spare */

static uint64_t m_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_mass_params *p = args->params;
    (void)phase;
    return (uint64_t)p->kv_heads * ((p->rows + p->block_tokens - 1u) / p->block_tokens);
}

/* Keys first … first + M_WIDTH - 1 of a tile, turned: [dim][M_WIDTH]. */
static void m_keys(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t first,
                   struct e_row *work, float *key)
{
    for (uint32_t t = 0; t < M_WIDTH; t++) {
        const float *row = e_decode(tile, format, AKV_ORDER_ROW, tokens, dim, first + t, work->row);
        for (uint32_t j = 0; j < dim; j++)
            key[j * M_WIDTH + t] = row[j];
    }
}

struct m_strip {
    const struct akv_cpu_args *args;
    const float *key; /* [dim][M_WIDTH] */
    uint32_t side, head, row; /* row: of the first key */
    uint64_t sum[M_WIDTH];
};

/* Adds a row's mass to the lanes that its query sees; some says whether any does, all whether all do. */
static void m_row(struct m_strip *s, uint32_t query, uint32_t head, float *score, uint32_t *sum)
{
    const akv_mass_params *p = s->args->params;
    const uint32_t last = ((const uint32_t *)(const void *)s->args->arg[3])[query];
    const uint32_t first = akv_attend_first(last, p->window);
    const float lse = ((const float *)(const void *)s->args->arg[2])[(uint64_t)query * p->q_heads + head];
    if (p->cap == 0.0f && first <= s->row && last >= s->row + M_WIDTH - 1u) {
        m_add(score, p->scale, lse, sum);
        return;
    }
    for (uint32_t t = 0; t < M_WIDTH; t++)
        if (s->row + t >= first && s->row + t <= last)
            sum[t] += (uint32_t)akv_mass_of(score[t], p->scale, p->cap, lse);
}

/* All queries of a strip of keys. */
static void m_strip_sums(struct m_strip *s)
{
    const akv_mass_params *p = s->args->params;
    const float *queries = (const float *)(const void *)s->args->arg[1];
    const uint32_t *position = (const uint32_t *)(const void *)s->args->arg[3];
    const uint32_t group = p->q_heads / p->kv_heads, rows = p->queries * group;
    _Alignas(64) float score[M_ROWS][M_WIDTH];
    _Alignas(64) uint32_t sum[M_WIDTH] = {0};
    memset(s->sum, 0, sizeof s->sum);
    for (uint32_t r = 0, added = 0; r < rows; r += M_ROWS) {
        const float *query[M_ROWS];
        const uint32_t count = AKV_MIN(M_ROWS, rows - r);
        bool some = false;
        for (uint32_t u = 0; u < M_ROWS; u++) {
            const uint32_t n = r + (u < count ? u : 0), i = n / group, h = s->head * group + n % group;
            query[u] = queries + (((uint64_t)s->side * p->queries + i) * p->q_heads + h) * p->k_dim;
            some = some || (s->row <= position[i] &&
                            s->row + M_WIDTH > akv_attend_first(position[i], p->window));
        }
        if (!some)
            continue;
        m_scores(s->key, query, p->k_dim, score);
        for (uint32_t u = 0; u < count; u++)
            m_row(s, (r + u) / group, s->head * group + (r + u) % group, score[u], sum);
        added += count;
        if (added + M_ROWS <= M_MOST && r + M_ROWS < rows)
            continue;
        for (uint32_t t = 0; t < M_WIDTH; t++) {
            s->sum[t] += sum[t];
            sum[t] = 0;
        }
        added = 0;
    }
    for (uint32_t t = 0; t < M_WIDTH; t++) /* where the last rows were skipped */
        s->sum[t] += sum[t];
}

/* An item is one head of one block; blocks are whole strips. */
static void m_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_mass_params *p = args->params;
    const uint32_t tokens = p->block_tokens, dim = p->k_dim;
    float *key = args->work; /* [dim][M_WIDTH] */
    struct e_row work;
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        const uint32_t b = (uint32_t)(item / p->kv_heads), head = (uint32_t)(item % p->kv_heads);
        const uint32_t entry = ((const uint32_t *)(const void *)args->arg[0])[b], kind = entry >> 28;
        if (entry == AKV_NO_BLOCK)
            continue;
        const uint32_t format = p->tiles.k_format[kind], end = AKV_MIN(p->rows - b * tokens, tokens);
        const uint8_t *tile = akv_cpu_at(args, akv_block_address(&p->pool, entry)) + p->tiles.k_offset[kind] +
                              (uint64_t)head * akv_tile_bytes(format, tokens, dim);
        int32_t *out = (int32_t *)(void *)args->arg[4] + (uint64_t)head * p->stride + b * tokens;
        struct m_strip s = {.args = args, .key = key, .side = akv_score_side(format, p->k_flags), .head = head};
        for (uint32_t t = 0; t < end; t += M_WIDTH) {
            m_keys(tile, format, tokens, dim, t, &work, key);
            s.row = b * tokens + t;
            m_strip_sums(&s);
            for (uint32_t k = 0; k < M_WIDTH && t + k < end; k++)
                out[t + k] = akv_mass_add(out[t + k], s.sum[k]);
        }
    }
}

#endif
