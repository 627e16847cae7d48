/* SPDX-License-Identifier: Apache-2.0 */
/* Shell of the attend family, CPU shape: a work-item does everything, run after run of 16 positions.
 * Options: those of attend.cl. */
#if defined(AKV_ATTEND) && defined(AKV_CPU_SHAPE)
static inline void raw_row(float *x, __global const uchar *tile, akv_u32 format, akv_u32 dim, akv_u32 t)
{
    akv_u32 i;
    if (format == AKV_F32)
        for (i = 0u; i < dim; i++)
            x[i] = akv_as_f32(akv_load_u32(tile + (t * dim + i) * 4u));
    else if (format == AKV_F16)
        for (i = 0u; i < dim; i++)
            x[i] = akv_as_f32(akv_f32_from_f16(akv_load_u16(tile + (t * dim + i) * 2u)));
    else
        for (i = 0u; i < dim; i++)
            x[i] = akv_as_f32(akv_f32_from_bf16(akv_load_u16(tile + (t * dim + i) * 2u)));
}
/* Rows t .. t + 3 of a tile of values, 576 floats apart. */
static inline void value_rows(float *x, __global const uchar *tile, akv_u32 format, akv_u32 tokens,
                              akv_u32 dim, akv_u32 t)
{
    akv_u32 u, i;
    akv_u8 code[32];
    float unit[4];
    if (akv_format_raw(format)) {
        for (i = 0u; i < 4u; i++)
            raw_row(x + i * AKV_MAX_HEAD_DIM, tile, format, dim, t + i);
        return;
    }
    if (akv_format_blocks(format)) {
        for (i = 0u; i < 4u; i++)
            for (u = 0u; u < akv_padded_dim(dim) / 32u; u++)
                akv_block_load(tile, format, dim, t + i, u, x + i * AKV_MAX_HEAD_DIM + u * 32u);
        return;
    }
    for (u = 0u; u < akv_padded_dim(dim) / 8u; u++) {
        akv_quad_get(tile, format, tokens, dim, t >> 2, u, code);
        for (i = 0u; i < 4u; i++)
            unit[i] = akv_code_unit(format, akv_scale_get(tile, format, AKV_ORDER_QUAD, tokens, dim, t + i,
                                                          u * 8u / akv_scale_width(format)));
        for (i = 0u; i < 32u; i++)
            x[(i & 3u) * AKV_MAX_HEAD_DIM + u * 8u + (i >> 2)] =
                akv_code_value(format, code[i], unit[i & 3u]);
    }
}
/* Eight running sums, folded in a fixed order: compilers may keep them in one vector. */
static inline float product(const float *a, const float *b, akv_u32 dim)
{
    float sum[8];
    akv_u32 i, j;
    for (j = 0u; j < 8u; j++)
        sum[j] = 0.0f;
    for (i = 0u; i < dim; i += 8u)
        for (j = 0u; j < 8u; j++)
            sum[j] = MULTIPLY_ADD(a[i + j], b[i + j], sum[j]);
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

__kernel SHAPE void akv_k_attend(__global const uchar *step, ulong step_at, __global const uchar *q,
                                 ulong q_at, __global uchar *out, ulong out_at, __global uchar *lse,
                                 ulong lse_at, __global const uchar *mask, ulong mask_at,
                                 __global const uchar *sinks, ulong sinks_at, __global uchar *scratch,
                                 ulong scratch_at, __global const uchar *maps, ulong maps_at,
                                  const akv_attend_params p, uint least, uint most,
                                 uint slots, SLABS)
{
    float query[2][R][AKV_MAX_HEAD_DIM], sum[2][R][AKV_MAX_HEAD_DIM], x[4 * AKV_MAX_HEAD_DIM];
    float s[R][RUN];
    akv_softmax all[R];
#ifdef AKV_MAP
    float2 met[R][AKV_MAX_HEAD_DIM / 2];
    float rest[R], regain[R][RUN];
    maps += maps_at;
    __global const akv_map *k_map = akv_map_at(maps, p.k_map), *v_map = akv_map_at(maps, p.v_map);
    const bool has_mean = (p.k_flags & AKV_FLAG_MAP) && k_map->mean;
    __global const float *angles = (__global const float *)(maps + (has_mean ? k_map->table : 0u));
#endif
    akv_u32 number = (akv_u32)get_group_id(2), kv = (akv_u32)get_group_id(1), r, d, t, run;
    step += step_at;
    mask += mask_at;
    if (number >= ((__global const akv_step_head *)step)->sequences)
        return;
    const cut c = cut_of(step, &p, number, least, most);
    akv_u32 tokens = ((__global const akv_step_head *)step)->block_tokens;
    akv_u32 rows = c.count * c.repeat, part, first_row, begin, end;
    if (c.count == 0u || (akv_u32)get_group_id(0) / c.parts * R >= rows)
        return;
    part = (akv_u32)get_group_id(0) % c.parts;
    first_row = (akv_u32)get_group_id(0) / c.parts * R;
    rows = AKV_MIN(rows - first_row, (akv_u32)R);
    for (r = 0u; r < rows; r++) {
        akv_u32 i = (first_row + r) / c.repeat, head = kv * c.repeat + (first_row + r) % c.repeat;
        akv_u64 from = akv_page_source(&p.q, c.first_token + i, head);
        for (d = 0u; d < p.k_dim; d++) {
            query[0][r][d] = akv_as_f32(akv_load_bits(q + q_at, from + d, p.q.dtype)) * p.scale;
            query[1][r][d] = query[0][r][d];
        }
        if (p.k_flags & AKV_FLAG_ROTATE)
            rotate_back(query[1][r], p.k_dim);
#ifdef AKV_MAP
        if ((p.k_flags & AKV_FLAG_MAP) && akv_map_rotates(k_map))
            rotate_back(query[1][r], p.k_dim);
        if ((p.k_flags & AKV_FLAG_MAP) && k_map->transform == AKV_TRANSFORM_MATRIX)
            for (d = 0u; d < p.k_dim; d++) {
                __global const float *row =
                    (__global const float *)(maps + akv_map_inverse_row(k_map, kv, p.k_dim, d));
                float y = 0.0f;
                for (t = 0u; t < p.k_dim; t++)
                    y = MULTIPLY_ADD(row[t], query[0][r][t], y);
                query[1][r][d] = y;
            }
        if ((p.k_flags & AKV_FLAG_MAP) && k_map->scales)
            for (d = 0u; d < p.k_dim; d++)
                query[1][r][d] *= akv_map_scale(maps, k_map, kv, 1u);
        if (has_mean) {
            akv_u32 mean = k_map->mean + kv * p.k_dim * 2u;
            for (d = 0u; d < k_map->pairs; d++)
                met[r][d] = meet_pair(maps, k_map, mean, d, query[0][r][first_of(k_map, d)],
                                      query[0][r][second_of(k_map, d)]);
            rest[r] = 0.0f;
            for (d = 2u * k_map->pairs; d < p.k_dim; d++)
                rest[r] += query[0][r][d] * akv_map_f16(maps, mean, d);
        }
#endif
        for (d = 0u; d < p.v_dim; d++)
            sum[0][r][d] = sum[1][r][d] = 0.0f;
        all[r] = akv_softmax_empty();
    }
    begin = akv_attend_first(c.length + first_row / c.repeat, p.window);
    end = akv_attend_end(c.length, c.count, (first_row + rows - 1u) / c.repeat, p.flags);
    begin = AKV_MAX(begin, part * c.each);
    end = AKV_MIN(end, (part + 1u) * c.each);
    for (run = begin / RUN; run * RUN < end; run++) {
        akv_u32 position = run * RUN, entry = entry_of(step, &p, number, position), kind, format;
        if (entry == AKV_NO_BLOCK)
            continue;
        kind = entry >> 28;
        akv_u32 t0 = position % tokens, side;
        __global const uchar *block = slab_at(block_at(&p.pool, entry), SLAB_NAMES);
        format = BY_KIND(p.tiles.k_format, kind);
        __global const uchar *tile = block + BY_KIND(p.tiles.k_offset, kind) +
                                     kv * akv_tile_bytes(format, tokens, p.k_dim);
        side = akv_format_raw(format) ? 0u : 1u;
#ifdef AKV_MAP
        for (r = 0u; r < rows; r++)
            for (t = 0u; t < RUN; t++)
                regain[r][t] = has_mean && side ? rest[r] : 0.0f;
        for (d = 0u; has_mean && side && d < k_map->pairs; d++) {
            akv_turn turn = akv_rope_at(akv_map_turns(maps, k_map, d), position);
            for (r = 0u; r < rows; r++) {
                float2 turned = turn_pair(met[r][d], turn);
                for (t = 0u; t < RUN; t++)
                    regain[r][t] = add_pair(regain[r][t], turned, angles, d, t);
            }
        }
#endif
        for (t = 0u; t < RUN; t++) {
            akv_u32 at = position + t;
            if (at < begin || at >= end) {
                for (r = 0u; r < rows; r++)
                    s[r][t] = akv_minus_infinity();
                continue;
            }
            if (side == 0u)
                raw_row(x, tile, format, p.k_dim, t0 + t);
            else
                for (d = 0u; d < akv_padded_dim(p.k_dim) / 32u; d++)
                    load_group(x + d * 32u, tile, format, AKV_ORDER_ROW, tokens, p.k_dim, t0 + t, d);
            for (r = 0u; r < rows; r++) {
                akv_u32 i = (first_row + r) / c.repeat;
                bool seen = at >= akv_attend_first(c.length + i, p.window) &&
                            at < akv_attend_end(c.length, c.count, i, p.flags);
                float dot = product(query[side][r], x, p.k_dim);
#ifdef AKV_MAP
                dot += regain[r][t];
#endif
                s[r][t] = seen ? score_of(dot, &p, &c, mask, i, at)
                               : akv_minus_infinity();
            }
        }
        format = BY_KIND(p.tiles.v_format, kind);
        tile = block + BY_KIND(p.tiles.v_offset, kind) + kv * akv_tile_bytes(format, tokens, p.v_dim);
        side = akv_format_raw(format) ? 0u : 1u;
        for (r = 0u; r < rows; r++) {
            float m = all[r].m, keep;
            for (t = 0u; t < RUN; t++)
                m = s[r][t] > m ? s[r][t] : m;
            keep = all[r].m >= m ? 1.0f : akv_exp(all[r].m - m);
            all[r].m = m;
            all[r].l *= keep;
            for (t = 0u; t < RUN; t++) {
                s[r][t] = akv_exp(s[r][t] - m);
                all[r].l += s[r][t];
            }
            if (keep != 1.0f)
                for (d = 0u; d < p.v_dim; d++) {
                    sum[0][r][d] *= keep;
                    sum[1][r][d] *= keep;
                }
        }
        for (t = 0u; t < RUN; t += 4u) {
            akv_u32 n;
            if (position + t >= end || position + t + 4u <= begin)
                continue;
            value_rows(x, tile, format, tokens, p.v_dim, t0 + t);
            for (r = 0u; r < rows; r++)
                for (n = 0u; n < 4u; n++)
                    if (s[r][t + n] != 0.0f) /* rows that are not seen may hold anything */
                        for (d = 0u; d < p.v_dim; d++)
                            sum[side][r][d] = MULTIPLY_ADD(s[r][t + n], x[n * AKV_MAX_HEAD_DIM + d],
                                                           sum[side][r][d]);
        }
    }
    for (r = 0u; r < rows; r++) {
        akv_u32 i = (first_row + r) / c.repeat, head = kv * c.repeat + (first_row + r) % c.repeat;
        if (p.v_flags & AKV_FLAG_ROTATE)
            rotate_back(sum[1][r], p.v_dim);
#ifdef AKV_MAP
        if ((p.v_flags & AKV_FLAG_MAP) && v_map->scales)
            for (d = 0u; d < p.v_dim; d++)
                sum[1][r][d] *= akv_map_scale(maps, v_map, kv, 1u);
        if ((p.v_flags & AKV_FLAG_MAP) && akv_map_rotates(v_map))
            rotate_back(sum[1][r], p.v_dim);
        if ((p.v_flags & AKV_FLAG_MAP) && v_map->transform == AKV_TRANSFORM_MATRIX)
            for (t = 0u; t < p.v_dim; t++) {
                __global const float *row =
                    (__global const float *)(maps + akv_map_inverse_row(v_map, kv, p.v_dim, t));
                for (d = 0u; d < p.v_dim; d++)
                    sum[0][r][d] = MULTIPLY_ADD(sum[1][r][t], row[d], sum[0][r][d]);
            }
        if ((p.v_flags & AKV_FLAG_MAP) && v_map->transform == AKV_TRANSFORM_MATRIX)
            for (d = 0u; d < p.v_dim; d++)
                sum[1][r][d] = 0.0f;
#endif
        if (c.parts > 1u) {
            __global float *to = slot_of(scratch + scratch_at, &p, &c, i, head, part, slots);
            to[0] = all[r].m;
            to[1] = all[r].l;
            for (d = 0u; d < p.v_dim; d++)
                to[2u + d] = sum[0][r][d] + sum[1][r][d];
        } else {
            float factor = finish(&all[r], &p, sinks + sinks_at, head);
            akv_u64 to = akv_page_source(&p.out, c.first_token + i, head);
            for (d = 0u; d < p.v_dim; d++)
                akv_store_bits(out + out_at, to + d, p.out.dtype,
                               akv_as_u32((sum[0][r][d] + sum[1][r][d]) * factor));
            store_lse(&all[r], &p, lse + lse_at, c.first_token + i, head);
        }
    }
}
#endif
