/* SPDX-License-Identifier: Apache-2.0 */
/* shift: keys of a block turned to other positions in place, around the loops of k_quant_body.h.  An item
 * is the tile of one kv head. */
#ifndef AKV_K_SHIFT_H
#define AKV_K_SHIFT_H

static uint64_t q_shift_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_shift_params *p = args->params;
    (void)phase;
    return (uint64_t)p->blocks * p->kv_heads;
}

/* One row as it was appended (but for its mean), turned. */
static uint32_t q_shift_row(const akv_shift_params *p, float *x, const float *c, const float *s)
{
    const bool half = p->rope == AKV_ROPE_HALF;
    for (uint32_t i = q_turn_lanes(x, x, c, s, p->pairs, half, Q_TURNED_ALONE); i < p->pairs; i++) {
        const uint32_t first = half ? i : 2u * i, second = half ? i + p->pairs : 2u * i + 1u;
        const akv_turn turn = {c[i], s[i]};
        const float a = x[first], b = x[second];
        x[first] = akv_rope_first(turn, a, b);
        x[second] = akv_rope_second(turn, a, b);
    }
    return q_row_sane(x, (const uint8_t *)x, p->dim);
}

static uint32_t q_shift_tile(const akv_shift_params *p, uint8_t *tile, const float *c, const float *s,
                             struct q_maps *maps, struct q_work *work)
{
    _Alignas(64) float decoded[4 * AKV_CODE_STRIDE], straight[4 * AKV_CODE_STRIDE];
    const uint32_t dim = p->dim, raw = akv_format_raw(p->format);
    const bool matrix = maps->maps && maps->map->transform == AKV_TRANSFORM_MATRIX;
    const uint32_t flags = q_maps_flags(maps, p->flags), size = akv_raw_bytes(p->format) * dim;
    uint32_t saw = 0;
    for (uint32_t t = 0; t < p->block_tokens; t += 4u) {
        const uint8_t *rows[4];
        float *x = matrix ? straight : decoded;
        q_read_four(tile, p->format, AKV_ORDER_ROW, p->block_tokens, dim, t, decoded);
        if (matrix)
            q_chain_back(straight, decoded,
                         maps->maps + akv_map_inverse_row(maps->map, maps->head, dim, 0), dim, 4u);
        for (uint32_t k = 0; k < 4u; k++, x += AKV_CODE_STRIDE) {
            if (raw)
                saw |= q_row_sane(x, (const uint8_t *)x, dim);
            else if (flags & AKV_FLAG_ROTATE)
                q_store(x, 1, dim, AKV_F32, (uint8_t *)x);
            q_shift_row(p, x, c, s);
            rows[k] = (const uint8_t *)x;
            if (raw)
                q_convert(tile + (uint64_t)(t + k) * size, p->format, rows[k], AKV_F32, dim);
        }
        if (raw)
            continue;
        if (matrix) {
            q_chain(decoded, straight, maps->maps + akv_map_matrix_row(maps->map, maps->head, dim, 0),
                    dim, 4u);
            for (uint32_t k = 0; k < 4u; k++)
                rows[k] = (const uint8_t *)(decoded + k * AKV_CODE_STRIDE);
        }
        q_quantise(work, rows, 4u, AKV_F32, dim, flags, p->format);
        q_put_rows(tile, p->format, p->block_tokens, dim, t, 4u, work);
    }
    return saw;
}

static void q_shift_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_shift_params *p = args->params;
    const uint32_t *table = (const void *)args->arg[0];
    float c[AKV_MAX_HEAD_DIM / 2u], s[AKV_MAX_HEAD_DIM / 2u];
    uint32_t saw = 0;
    struct q_work work;
    struct q_maps maps;
    (void)phase;
    q_maps_init(&maps);
    for (uint32_t i = 0; i < p->pairs; i++) {
        const akv_turn turn = akv_rope_turn(akv_shift_phase(args->arg[3], i));
        c[i] = turn.c;
        s[i] = turn.s;
    }
    for (uint64_t item = first; item < first + count; item++) {
        const uint32_t entry = table[item / p->kv_heads], head = (uint32_t)(item % p->kv_heads);
        if (entry == AKV_NO_BLOCK || entry >> 28 != p->kind)
            continue;
        q_maps_use(&maps, args->arg[2], p->map, p->flags, p->dim, head);
        saw |= q_shift_tile(p,
                            akv_cpu_at(args, akv_block_address(&p->pool, entry)) + p->offset +
                                (uint64_t)head * akv_tile_bytes(p->format, p->block_tokens, p->dim),
                            c, s, &maps, &work);
    }
    q_report(args->arg[1], saw);
}

#endif
