/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of score over blocks, once for each instruction set.
 *
 * The including file defines before, as static functions: q_get_rows, q_get_quad, q_convert (as
 * k_quant_body.h has them) and
 *
 * e_sums(x, w, dp, sums): sums[0] = sum(x, x), sums[1] = sum(x, w) of evict.h; x [dp] as decoded (its
 *     level is taken inside), w [dp] levelled, both zero behind the row's end, or w NULL: sums[1] is 0;
 *     returns whether x has a NaN. */
#ifndef AKV_K_EVICT_BODY_H
#define AKV_K_EVICT_BODY_H
#include "k_evict.h"

struct e_row {
    _Alignas(64) float weight[AKV_MAX_HEAD_DIM];
    _Alignas(64) float row[4 * AKV_CODE_STRIDE];
    float kk[256];
};

/* Row t of a tile, decoded and padded with zeros. */
static const float *e_decode(const uint8_t *tile, uint32_t format, uint32_t order, uint32_t tokens,
                             uint32_t dim, uint32_t t, float *rows)
{
    if (akv_format_raw(format)) {
        q_convert((uint8_t *)rows, AKV_F32, tile + (uint64_t)t * dim * akv_raw_bytes(format), format,
                  dim);
        for (uint32_t i = dim; i < akv_padded_dim(dim); i++)
            rows[i] = 0.0f;
        return rows;
    }
    if (format > AKV_N2 && (order == AKV_ORDER_ROW || akv_format_blocks(format))) { /* no vectors */
        s_get_row(tile, format, tokens, dim, t, rows);
        return rows;
    }
    if (order == AKV_ORDER_ROW) {
        q_get_rows(tile, format, tokens, dim, t, 1, rows, 0);
        return rows;
    }
    if (t % 4u == 0 && format > AKV_N2)
        s_get_quad(tile, format, tokens, dim, t / 4u, rows);
    else if (t % 4u == 0)
        q_get_quad(tile, format, tokens, dim, t / 4u, rows);
    return rows + t % 4u * AKV_CODE_STRIDE;
}

/* Row t of a tile of keys of which `count` are read one after the other; packed ones are decoded several
 * at a time. */
static const float *e_key(const uint8_t *tile, uint32_t format, uint32_t tokens, uint32_t dim, uint32_t t,
                          uint32_t count, struct e_row *work)
{
    const uint32_t dp = akv_padded_dim(dim), room = sizeof work->row / sizeof work->row[0] / dp;
    const uint32_t at = t % room;
    if (format > AKV_N2 || akv_format_raw(format))
        return e_decode(tile, format, AKV_ORDER_ROW, tokens, dim, t, work->row);
    if (at == 0)
        q_get_rows(tile, format, tokens, dim, t, AKV_MIN(room, count - t), work->row, dp);
    return work->row + at * dp;
}

/* Keys of a head of a block, or NULL where there are none. */
static const uint8_t *e_keys(const struct akv_cpu_args *args, uint32_t b, uint32_t head)
{
    const akv_score_params *p = args->params;
    const uint32_t entry = b < p->blocks ? ((const uint32_t *)(const void *)args->arg[0])[b] : AKV_NO_BLOCK;
    if (entry == AKV_NO_BLOCK)
        return NULL;
    return akv_cpu_at(args, akv_block_address(&p->pool, entry)) + p->tiles.k_offset[entry >> 28] +
           (uint64_t)head * akv_tile_bytes(p->tiles.k_format[entry >> 28], p->block_tokens, p->k_dim);
}

/* `next`: the keys that are read after these, or NULL. */
static void e_score_block(const struct akv_cpu_args *args, uint32_t b, uint32_t head,
                          uint32_t count, int32_t *out, const uint8_t *next, struct e_row *work)
{
    const akv_score_params *p = args->params;
    const uint32_t entry = ((const uint32_t *)(const void *)args->arg[0])[b], kind = entry >> 28;
    if (entry == AKV_NO_BLOCK) {
        for (uint32_t t = 0; t < count; t++)
            out[t] = AKV_SCORE_GONE;
        return;
    }
    const uint32_t dp = akv_padded_dim(p->k_dim), tokens = p->block_tokens;
    const uint32_t kf = p->tiles.k_format[kind], vf = p->tiles.v_format[kind];
    const uint8_t *block = akv_cpu_at(args, akv_block_address(&p->pool, entry));
    const uint8_t *k = block + p->tiles.k_offset[kind] + (uint64_t)head * akv_tile_bytes(kf, tokens, p->k_dim);
    const uint8_t *v = block + p->tiles.v_offset[kind] + (uint64_t)head * akv_tile_bytes(vf, tokens, p->v_dim);
    const uint32_t row = (uint32_t)(akv_tile_bytes(kf, tokens, p->k_dim) / tokens);
    const bool weighted = p->method == AKV_SCORE_AFFINE || p->method == AKV_SCORE_DIFF;
    const float *weight = weighted ? work->weight : NULL;
    const float bias = weighted ? e_weights(args, p, head, akv_score_side(kf, p->k_flags), work->weight) : 0.0f;
    for (uint32_t t = 0; t < count; t++) {
        float sums[2];
        int nan;
        for (uint32_t i = 0; next && i < row; i += 64u)
            __builtin_prefetch(next + (uint64_t)t * row + i);
#if defined(E_SUMS_F16)
        if (kf == AKV_F16 && p->k_dim == dp)
            nan = E_SUMS_F16(k + (uint64_t)t * dp * 2u, weight, dp, sums);
        else
#endif
            nan = e_sums(e_key(k, kf, tokens, p->k_dim, t, count, work), weight, dp, sums);
        work->kk[t] = sums[0];
        out[t] = nan ? AKV_SCORE_KEEP : akv_score_of(p->method, sums[0], 0.0f, sums[1], bias);
    }
    for (uint32_t t = 0; p->method == AKV_SCORE_RATIO && t < count; t++) {
        const float *x = e_decode(v, vf, AKV_ORDER_QUAD, tokens, p->v_dim, t, work->row);
        float sums[2];
        int nan = e_sums(x, NULL, akv_padded_dim(p->v_dim), sums);
        if (out[t] != AKV_SCORE_KEEP)
            out[t] = nan ? AKV_SCORE_KEEP : akv_score_of(p->method, work->kk[t], sums[0], 0.0f, 0.0f);
    }
}

/* An item is one head of one block. */
static void e_score_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                        uint64_t count)
{
    const akv_score_params *p = args->params;
    struct e_row work;
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        uint32_t b = (uint32_t)(item / p->kv_heads), head = (uint32_t)(item % p->kv_heads);
        uint32_t row = b * p->block_tokens, left = p->rows - row;
        int32_t *out = (int32_t *)(void *)args->arg[2] + (uint64_t)head * p->stride + row;
        const bool last = head + 1u == p->kv_heads;
        const uint8_t *next = e_keys(args, last ? b + 1u : b, last ? 0u : head + 1u);
        e_score_block(args, b, head, AKV_MIN(left, p->block_tokens), out, next, &work);
    }
}

#endif
