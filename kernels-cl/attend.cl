/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the attend family: one part of a sequence for a few query rows, and the merging of parts.
 *
 * A query row is (new token, q head); a tile is AKV_ROWS rows of one kv head.  The grid is (tiles times
 * parts, kv heads, sequences); where the parts begin and how they are walked follows from the sequence
 * alone.  Results of parts go to scratch, [sequence][slot][q head]: m, l, sums; a sequence of one part
 * is finished at once.  Options: AKV_ATTEND, AKV_ATTEND_ONE (attend_one.cl), AKV_COMBINE choose the kernel;
 * AKV_NOT_ONE: sequences with one new token are left to attend_one; AKV_ROWS; GPU shape: AKV_KDIM,
 * AKV_VDIM, and K0, K1, V0, V1 where only kinds 0 and 1 have formats. */
#if defined(FP_FAST_FMAF) || defined(__NV_CL_C_VERSION)
#define MULTIPLY_ADD(a, b, c) fma((a), (b), (c))
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif
#define RUN 16u /* positions that always lie in one block */
#ifdef AKV_ROWS
#define R AKV_ROWS
#endif

/* One sequence of the step, and how it is cut. */
typedef struct cut {
    akv_u32 number, length, count, first_token;
    akv_u32 total, each, parts; /* positions; of a part; how many parts */
    akv_u32 repeat;             /* q heads of a kv head */
} cut;

static inline cut cut_of(__global const uchar *step, const akv_attend_params *p, akv_u32 number,
                         akv_u32 least, akv_u32 most)
{
    __global const akv_step_head *head = (__global const akv_step_head *)step;
    __global const akv_step_seq *seq = (__global const akv_step_seq *)(step + head->seq_offset) + number;
    cut c;
    c.number = number;
    c.length = seq->length;
    c.count = seq->tokens;
    c.first_token = seq->first_token;
    c.total = c.length + c.count;
    c.each = akv_attend_part(c.total, c.count, least, most);
    c.parts = (c.total + c.each - 1u) / c.each;
    c.repeat = p->q_heads / p->kv_heads;
    return c;
}
/* Result of a part: floats of (new token, q head, part) in scratch. */
static inline __global float *slot_of(__global uchar *scratch, const akv_attend_params *p, const cut *c,
                                      akv_u32 token, akv_u32 head, akv_u32 part, akv_u32 slots)
{
    akv_u64 slot = (akv_u64)c->number * slots + token * c->parts + part;
    return (__global float *)scratch + (slot * p->q_heads + head) * (2u + p->v_dim);
}
/* Score of new token i at a position it can see, from the product of scaled query and key. */
static inline float score_of(float x, const akv_attend_params *p, const cut *c, __global const uchar *mask,
                             akv_u32 i, akv_u32 position)
{
    float s = akv_attend_score(x, p->cap);
    if ((p->flags & AKV_ATTEND_MASK) && position >= c->length) {
        akv_u64 at = (akv_u64)(c->first_token + i) * p->mask_stride + (position - c->length);
        s = s + akv_as_f32(akv_load_u32(mask + at * 4u));
        s = s > 0x1p125f ? 0x1p125f : s == s ? s : akv_minus_infinity(); /* a NaN forbids */
    }
    return s;
}
/* The sink joins the sum; returns the factor of the sums of values. */
static inline float finish(akv_softmax *all, const akv_attend_params *p, __global const uchar *sinks,
                           akv_u32 head)
{
    float keep = all->l > 0.0f ? 1.0f : 0.0f;
    if (p->flags & AKV_ATTEND_SINKS)
        keep *= akv_softmax_merge(all, akv_as_f32(akv_load_u32(sinks + head * 4u)), 1.0f).keep;
    return all->l > 0.0f ? keep / all->l : 0.0f;
}
static inline void store_lse(const akv_softmax *all, const akv_attend_params *p, __global uchar *lse,
                             akv_u32 token, akv_u32 head)
{
    if (p->flags & AKV_ATTEND_LSE)
        akv_store_u32(lse + ((akv_u64)token * p->q_heads + head) * 4u, akv_as_u32(akv_softmax_lse(*all)));
}
/* Entry of the block that holds a position; AKV_NO_BLOCK: not held, or of a kind without format. */
static inline akv_u32 entry_of(__global const uchar *step, const akv_attend_params *p, akv_u32 number,
                               akv_u32 position)
{
    __global const akv_step_head *head = (__global const akv_step_head *)step;
    __global const akv_step_seq *seq = (__global const akv_step_seq *)(step + head->seq_offset) + number;
    akv_u32 slot = position / head->block_tokens - seq->first_block, entry;
    if (slot >= seq->table_count)
        return AKV_NO_BLOCK;
    entry = akv_load_u32(step + head->table_offset + (seq->table_first + slot) * 4u);
    if (entry == AKV_NO_BLOCK || BY_KIND(p->tiles.k_format, entry >> 28) == 0u)
        return AKV_NO_BLOCK;
    return entry;
}

#ifdef AKV_COMBINE
/* A work-group merges the parts of one (new token, q head) in ascending order. */
__kernel SHAPE void akv_k_combine(__global const uchar *step, ulong step_at, __global const uchar *q,
                                  ulong q_at, __global uchar *out, ulong out_at, __global uchar *lse,
                                  ulong lse_at, __global const uchar *mask, ulong mask_at,
                                  __global const uchar *sinks, ulong sinks_at, __global uchar *scratch,
                                  ulong scratch_at, __global const uchar *maps, ulong maps_at,
                                  const akv_attend_params p, uint least, uint most,
                                  uint slots)
{
    akv_u32 i = (akv_u32)get_group_id(0), head = (akv_u32)get_group_id(1), part, d;
    akv_u32 number = (akv_u32)get_group_id(2);
    step += step_at;
    if (number >= ((__global const akv_step_head *)step)->sequences)
        return;
    const cut c = cut_of(step, &p, number, least, most);
    if (i >= c.count || c.parts < 2u)
        return;
    akv_u32 first = akv_attend_first(c.length + i, p.window) / c.each;
    akv_u32 last = (akv_attend_end(c.length, c.count, i, p.flags) - 1u) / c.each;
    akv_softmax all = akv_softmax_empty();
    for (part = first; part <= last; part++) {
        __global float *from = slot_of(scratch + scratch_at, &p, &c, i, head, part, slots);
        akv_softmax_merge(&all, from[0], from[1]);
    }
    akv_softmax total = all;
    float factor = finish(&total, &p, sinks + sinks_at, head);
    akv_u64 to = akv_page_source(&p.out, c.first_token + i, head);
    for (d = (akv_u32)get_local_id(0); d < p.v_dim; d += (akv_u32)get_local_size(0)) {
        float sum = 0.0f;
        for (part = first; part <= last; part++) {
            __global float *from = slot_of(scratch + scratch_at, &p, &c, i, head, part, slots);
            float take = akv_exp(from[0] - all.m);
            sum += take > 0.0f ? take * from[2u + d] : 0.0f;
        }
        akv_store_bits(out + out_at, to + d, p.out.dtype, akv_as_u32(sum * factor));
    }
    if (get_local_id(0) == 0u)
        store_lse(&total, &p, lse + lse_at, c.first_token + i, head);
}
#endif

#if defined(AKV_ATTEND) && defined(AKV_MAP)
static inline akv_u32 first_of(__global const akv_map *map, akv_u32 pair)
{
    return map->rope == AKV_ROPE_HALF ? pair : pair * 2u;
}
static inline akv_u32 second_of(__global const akv_map *map, akv_u32 pair)
{
    return map->rope == AKV_ROPE_HALF ? pair + map->pairs : pair * 2u + 1u;
}
/* One product of a query with its head's mean, pair by pair: x goes with cosines, y with sines. */
static inline float2 meet_pair(__global const uchar *maps, __global const akv_map *map, akv_u32 mean,
                               akv_u32 pair, float first, float second)
{
    float a = akv_map_f16(maps, mean, first_of(map, pair)), b = akv_map_f16(maps, mean, second_of(map, pair));
    return (float2)(first * a + second * b, second * a - first * b);
}
/* The same turned to a position. */
static inline float2 turn_pair(float2 met, akv_turn turn)
{
    return (float2)(met.x * turn.c + met.y * turn.s, met.y * turn.c - met.x * turn.s);
}
/* What a turned pair adds t positions later. */
static inline float add_pair(float sum, float2 turned, __global const float *table, akv_u32 pair, akv_u32 t)
{
    sum = MULTIPLY_ADD(turned.x, table[pair * 32u + t], sum);
    return MULTIPLY_ADD(turned.y, table[pair * 32u + 16u + t], sum);
}
#endif

#if defined(AKV_ATTEND) && defined(AKV_CPU_SHAPE)
/* ---- CPU shape: a work-item does everything, run after run of 16 positions ---- */
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

#if (defined(AKV_ATTEND) || defined(AKV_ATTEND_ONE)) && !defined(AKV_CPU_SHAPE)
/* ---- GPU shape.  A chunk is T positions.  For scores, a work-item multiplies one slice of KE dimensions
 * of a key with all query rows; the products meet in local memory.  For values, a work-item owns one
 * slice of VE dimensions of the sums and takes every VL-th quad of positions. ---- */
#define KD AKV_KDIM
#define VD AKV_VDIM
#if AKV_KDIM <= 128
#define KE 8
#elif AKV_KDIM <= 256
#define KE 16
#else
#define KE 32
#endif
#if AKV_VDIM <= 128
#define VE 8
#elif AKV_VDIM <= 256
#define VE 16
#else
#define VE 32
#endif
#define KS ((KD + KE - 1) / KE) /* slices of a row */
#define VS ((VD + VE - 1) / VE)
#define KL (WG / KS) /* positions, or quads of them, at a time */
#define VL (WG / VS)
#if KS <= 8 && VS <= 8
#define T 64
#else
#define T 32
#endif
#define RUNS     (T / 16)
#define BATCH    8 /* runs that are looked up at a time; a multiple of RUNS */
#define SCORES   ((R * T + WG - 1) / WG) /* scores of a work-item */
#define PARTIALS (R * T * (KS + 1))      /* one more: neighbours use different banks */
#ifdef AKV_MAP
#define LEAST    (RUNS * R * KD > 2 * R * VD ? RUNS * R * KD : 2 * R * VD)
#else
#define LEAST    (R * VD)
#endif
#define SHARED   (PARTIALS > LEAST ? PARTIALS : LEAST)

/* Formats of kinds 0 and 1 are known to the compiler where the build says so. */
#ifdef AKV_TWO_KINDS
#define K_FORMAT(kind) ((kind) ? K1 : K0)
#define V_FORMAT(kind) ((kind) ? V1 : V0)
#else
#define K_FORMAT(kind) (p.tiles.k_format[kind])
#define V_FORMAT(kind) (p.tiles.v_format[kind])
#endif
#define HELD   0x80000000u
#define TURNED (AKV_FLAG_ROTATE | AKV_FLAG_MAP)

/* Codebooks as floats, one after the other: N5, N4, N3, N2. */
static inline akv_u32 book_start(akv_u32 format)
{
    return 64u - (64u >> (format - AKV_N5));
}
static inline void fill_books(__local float *book, akv_u32 item)
{
    akv_u32 format = item < 32u ? AKV_N5 : item < 48u ? AKV_N4 : item < 56u ? AKV_N3 : AKV_N2;
    if (item < 60u)
        book[item] = (float)akv_codebook_entry(format, item - book_start(format));
}
static inline float code_float(akv_u32 format, akv_u32 code, __local const float *book)
{
    if (format == AKV_I8)
        return (float)((akv_i32)(code ^ 0x80u) - 128);
    if (format == AKV_N6)
        return (float)((akv_i32)code - 32);
    if (format == AKV_E4M3)
        return akv_as_f32(akv_f32_from_e4m3(code));
    return book[book_start(format) + code];
}
/* Exact, subnormals, infinities and NaN included. */
static inline float half_float(akv_u32 h)
{
#ifdef AKV_DENORMALS
    akv_u32 magnitude = (h & 0x7FFFu) << 13, sign = (h & 0x8000u) << 16;
    float value = akv_as_f32(sign | magnitude) * 0x1p112f;
    return magnitude >= 0x0F800000u ? akv_as_f32(sign | magnitude | 0x7F800000u) : value;
#else
    return akv_as_f32(akv_f32_from_f16(h));
#endif
}
/* 8 elements of a raw row at byte address p, a multiple of 16. */
static inline void raw_8(float *x, __global const uchar *at, akv_u32 format)
{
    uint4 a = *(__global const uint4 *)at, b;
    if (format == AKV_F16) {
        x[0] = half_float(a.x & 0xFFFFu);
        x[1] = half_float(a.x >> 16);
        x[2] = half_float(a.y & 0xFFFFu);
        x[3] = half_float(a.y >> 16);
        x[4] = half_float(a.z & 0xFFFFu);
        x[5] = half_float(a.z >> 16);
        x[6] = half_float(a.w & 0xFFFFu);
        x[7] = half_float(a.w >> 16);
    } else if (format == AKV_BF16) {
        x[0] = akv_as_f32(a.x << 16);
        x[1] = akv_as_f32(a.x & 0xFFFF0000u);
        x[2] = akv_as_f32(a.y << 16);
        x[3] = akv_as_f32(a.y & 0xFFFF0000u);
        x[4] = akv_as_f32(a.z << 16);
        x[5] = akv_as_f32(a.z & 0xFFFF0000u);
        x[6] = akv_as_f32(a.w << 16);
        x[7] = akv_as_f32(a.w & 0xFFFF0000u);
    } else {
        b = *(__global const uint4 *)(at + 16);
        x[0] = akv_as_f32(a.x);
        x[1] = akv_as_f32(a.y);
        x[2] = akv_as_f32(a.z);
        x[3] = akv_as_f32(a.w);
        x[4] = akv_as_f32(b.x);
        x[5] = akv_as_f32(b.y);
        x[6] = akv_as_f32(b.z);
        x[7] = akv_as_f32(b.w);
    }
}
/* Dimensions d .. d + 7 of key t, without its unit. */
static inline void key_8(float *x, __global const uchar *tile, akv_u32 format, akv_u32 tokens, akv_u32 t,
                         akv_u32 d, __local const float *book)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), g = d / 32u, e = d % 32u, i;
    akv_u32 low, high = 0u;
    if (akv_format_blocks(format)) {
        for (i = 0u; i < 8u; i++)
            x[i] = akv_block_element(tile, format, KD, t, g, e + i);
        return;
    }
    if (b0 == 8u) {
        uint2 w = *(__global const uint2 *)(tile + t * akv_padded_dim(KD) + d);
        for (i = 0u; i < 4u; i++) {
            x[i] = code_float(format, (w.x >> (i * 8u)) & 255u, book);
            x[i + 4u] = code_float(format, (w.y >> (i * 8u)) & 255u, book);
        }
        return;
    }
    low = akv_load_u32(tile + 4u * (akv_row_word(b0, KD, t, g) + e * b0 / 32u * akv_row_step(b0, KD))) >>
          (e * b0 % 32u);
    if (b1)
        high = akv_load_u32(tile + akv_plane1_offset(format, tokens, KD) +
                            4u * (akv_row_word(b1, KD, t, g) + e * b1 / 32u * akv_row_step(b1, KD))) >>
               (e * b1 % 32u);
    for (i = 0u; i < 8u; i++) {
        akv_u32 code = (low >> (i * b0)) & ((1u << b0) - 1u);
        if (b1)
            code |= ((high >> (i * b1)) & ((1u << b1) - 1u)) << b0;
        x[i] = code_float(format, code, book);
    }
}
/* The words of a unit of a plane: 8 dimensions of a quad. */
static inline void unit_words(akv_u32 *w, __global const uchar *plane, akv_u32 bits, akv_u32 tokens,
                              akv_u32 quad, akv_u32 u)
{
    __global const uchar *at = plane + 4u * akv_quad_word(bits, tokens, quad, u);
    if (bits == 1u) {
        w[0] = akv_load_u32(at);
    } else if (bits == 2u) {
        uint2 a = *(__global const uint2 *)at;
        w[0] = a.x;
        w[1] = a.y;
    } else {
        uint4 a = *(__global const uint4 *)at;
        w[0] = a.x;
        w[1] = a.y;
        w[2] = a.z;
        w[3] = a.w;
        if (bits == 8u) {
            a = *(__global const uint4 *)(at + 16);
            w[4] = a.x;
            w[5] = a.y;
            w[6] = a.z;
            w[7] = a.w;
        }
    }
}
/* sums of rows += weight * values of unit u of a quad.  weight: R rows of four positions. */
static inline void add_unit(float *sum, const float *weight, __global const uchar *tile, akv_u32 format,
                            akv_u32 tokens, akv_u32 t, akv_u32 u, bool careful, __local const float *book)
{
    akv_u32 b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), low[8], high[2], n, i, r;
    bool blocks = akv_format_blocks(format);
    if (!blocks)
        unit_words(low, tile, b0, tokens, t >> 2, u);
    if (!blocks && b1)
        unit_words(high, tile + akv_plane1_offset(format, tokens, VD), b1, tokens, t >> 2, u);
    for (n = 0u; n < 4u; n++) {
        float unit = blocks ? 1.0f
                            : akv_code_unit(format, akv_scale_get(tile, format, AKV_ORDER_QUAD, tokens, VD, t + n,
                                                                  u * 8u / akv_scale_width(format)));
        float x[8], w[R];
        for (i = 0u; blocks && i < 8u; i++)
            x[i] = akv_block_element(tile, format, VD, t + n, u / 4u, u % 4u * 8u + i);
        for (i = 0u; !blocks && i < 8u; i++) {
            akv_u32 e = i * 4u + n;
            akv_u32 code = (low[e * b0 / 32u] >> (e * b0 % 32u)) & ((1u << b0) - 1u);
            if (b1)
                code |= ((high[e * b1 / 32u] >> (e * b1 % 32u)) & ((1u << b1) - 1u)) << b0;
            x[i] = code_float(format, code, book);
        }
        for (r = 0u; r < R; r++) {
            w[r] = weight[r * 4u + n] * unit;
            if (!careful || weight[r * 4u + n] != 0.0f)
                for (i = 0u; i < 8u; i++)
                    sum[r * VE + i] = MULTIPLY_ADD(w[r], x[i], sum[r * VE + i]);
        }
    }
}
static inline void add_raw(float *sum, const float *weight, __global const uchar *tile, akv_u32 format,
                           akv_u32 t, akv_u32 u, bool careful)
{
    akv_u32 n, i, r;
    float x[4][8];
    for (n = 0u; n < 4u; n++)
        raw_8(x[n], tile + ((t + n) * VD + u * 8u) * akv_raw_bytes(format), format);
    for (n = 0u; n < 4u; n++)
        for (r = 0u; r < R; r++)
            if (!careful || weight[r * 4u + n] != 0.0f)
                for (i = 0u; i < 8u; i++)
                    sum[r * VE + i] = MULTIPLY_ADD(weight[r * 4u + n], x[n][i], sum[r * VE + i]);
}
/* akv_rotate_read of R rows in local memory.  Ends with a barrier. */
static inline void rotate_local(__local float *x, akv_u32 dim, akv_u32 item)
{
    akv_u32 n = akv_rotate_block(dim), stride, i;
    float factor = akv_rotate_read_factor(dim);
    for (stride = 1u; stride < n; stride *= 2u) {
        for (i = item; i < R * dim / 2u; i += WG) {
            akv_u32 j = i / stride * 2u * stride + i % stride;
            float a = x[j], b = x[j + stride];
            x[j] = a + b;
            x[j + stride] = a - b;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    for (i = item; i < R * dim; i += WG)
        x[i] *= factor;
    barrier(CLK_LOCAL_MEM_FENCE);
}

#ifdef AKV_ATTEND
/* Where a run of 16 positions stands. */
typedef struct run {
    akv_u64 block;      /* pool address */
    akv_u32 kind, t0;   /* t0: of its first position in the block */
    akv_u32 type;       /* bit 0: rotated keys, bit 1: rotated values; 4: not held */
} run;
static inline run run_of(akv_u64 block, akv_u32 info)
{
    run x;
    x.block = block;
    x.kind = info & 15u;
    x.t0 = (info >> 8) & 0xFFFFu;
    x.type = info & HELD ? (info >> 4) & 3u : 4u;
    return x;
}

__kernel SHAPE void akv_k_attend(__global const uchar *step, ulong step_at, __global const uchar *q,
                                 ulong q_at, __global uchar *out, ulong out_at, __global uchar *lse,
                                 ulong lse_at, __global const uchar *mask, ulong mask_at,
                                 __global const uchar *sinks, ulong sinks_at, __global uchar *scratch,
                                 ulong scratch_at, __global const uchar *maps, ulong maps_at,
                                  const akv_attend_params p, uint least, uint most,
                                 uint slots, SLABS)
{
    __local float shared[SHARED];      /* products of slices; sums that are handed over */
    __local float query[2 * R * KD];   /* scaled rows as they came, then rotated */
    __local float total[R * VD];       /* sums of finished segments */
    __local float score[R * T], weight[R * T];
    __local float keep[R], top[R], whole_m[R], whole_l[R];
    __local float book[64];
#ifdef AKV_MAP
    __local float met[R * KD], rest[R]; /* products with the mean, pair by pair */
#endif
    __local ulong run_block[BATCH];
    __local uint run_info[BATCH];
    const akv_u32 item = (akv_u32)get_local_id(0), number = (akv_u32)get_group_id(2);
    const akv_u32 kv = (akv_u32)get_group_id(1);
    akv_u32 r, d, i, n;
    step += step_at;
    mask += mask_at;
    if (number >= ((__global const akv_step_head *)step)->sequences)
        return;
    const cut c = cut_of(step, &p, number, least, most);
    const akv_u32 tokens = ((__global const akv_step_head *)step)->block_tokens;
    akv_u32 rows = c.count * c.repeat;
    if (c.count == 0u || (akv_u32)get_group_id(0) / c.parts * R >= rows)
        return;
#ifdef AKV_NOT_ONE
    if (c.count == 1u)
        return;
#endif
    const akv_u32 part = (akv_u32)get_group_id(0) % c.parts;
    const akv_u32 first_row = (akv_u32)get_group_id(0) / c.parts * R;
    rows = AKV_MIN(rows - first_row, (akv_u32)R);

    for (i = item; i < R * KD; i += WG) {
        akv_u32 row = first_row + i / KD, head = kv * c.repeat + row % c.repeat;
        float x = 0.0f;
        if (i / KD < rows)
            x = akv_as_f32(akv_load_bits(
                    q + q_at,
                    akv_page_source(&p.q, c.first_token + row / c.repeat, head) + i % KD, p.q.dtype)) *
                p.scale;
        query[i] = x;
        query[R * KD + i] = x;
    }
    for (i = item; i < R * VD; i += WG)
        total[i] = 0.0f;
    if (item < R) {
        whole_m[item] = akv_minus_infinity();
        whole_l[item] = 0.0f;
        top[item] = akv_minus_infinity();
    }
    fill_books(book, item);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (p.k_flags & AKV_FLAG_ROTATE)
        rotate_local(query + R * KD, KD, item);
#ifdef AKV_MAP
    maps += maps_at;
    __global const akv_map *k_map = akv_map_at(maps, p.k_map), *v_map = akv_map_at(maps, p.v_map);
    const bool has_mean = (p.k_flags & AKV_FLAG_MAP) && k_map->mean;
    __global const float *angles = (__global const float *)(maps + (has_mean ? k_map->table : 0u));
    const akv_u32 pairs = has_mean ? k_map->pairs : 0u;
    float regain[SCORES];
    if ((p.k_flags & AKV_FLAG_MAP) && akv_map_rotates(k_map))
        rotate_local(query + R * KD, KD, item);
    if ((p.k_flags & AKV_FLAG_MAP) && k_map->transform == AKV_TRANSFORM_MATRIX) {
        for (i = item; i < R * KD; i += WG) {
            __global const float *row =
                (__global const float *)(maps + akv_map_inverse_row(k_map, kv, KD, i % KD));
            float y = 0.0f;
            for (d = 0u; d < KD; d++)
                y = MULTIPLY_ADD(row[d], query[i / KD * KD + d], y);
            query[R * KD + i] = y;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (has_mean) {
        akv_u32 mean = k_map->mean + kv * KD * 2u;
        for (i = item; i < R * pairs; i += WG) {
            __local const float *row = query + i / pairs * KD;
            float2 pair = meet_pair(maps, k_map, mean, i % pairs, row[first_of(k_map, i % pairs)],
                                    row[second_of(k_map, i % pairs)]);
            met[i * 2u] = pair.x;
            met[i * 2u + 1u] = pair.y;
        }
        if (item < R) {
            rest[item] = 0.0f;
            for (d = 2u * pairs; d < KD; d++)
                rest[item] += query[item * KD + d] * akv_map_f16(maps, mean, d);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
#endif

    /* Some row sees [begin, end), all rows see [all_begin, all_end). */
    akv_u32 i0 = first_row / c.repeat, i1 = (first_row + rows - 1u) / c.repeat;
    const akv_u32 begin = AKV_MAX(akv_attend_first(c.length + i0, p.window), part * c.each);
    const akv_u32 end = AKV_MIN(akv_attend_end(c.length, c.count, i1, p.flags), (part + 1u) * c.each);
    const akv_u32 all_begin = akv_attend_first(c.length + i1, p.window);
    const akv_u32 all_end = akv_attend_end(c.length, c.count, i0, p.flags);
    const akv_u32 k_slice = item % KS, k_lane = item / KS, v_slice = item % VS, v_lane = item / VS;
    float sum[R * VE], part_l[SCORES], x[KE], mine[R * KE];
    akv_u32 open = 4u, loaded = 2u; /* type of values in `sum`; kind of query in `mine`; none yet */
    for (i = 0u; i < R * VE; i++)
        sum[i] = 0.0f;
    for (i = 0u; i < SCORES; i++)
        part_l[i] = 0.0f;

    akv_u32 chunk, batch = 0xFFFFFFFFu;
    for (chunk = begin / T; chunk * T < end || open < 4u; chunk++) {
        bool last = chunk * T >= end; /* one more turn hands over what is open */
        akv_u32 types = 0u, type, at_run = chunk * RUNS % BATCH;
        if (!last && chunk * RUNS / BATCH != batch) {
            batch = chunk * RUNS / BATCH;
            barrier(CLK_LOCAL_MEM_FENCE); /* the old ones are still read */
            if (item < BATCH) {
                akv_u32 position = (batch * BATCH + item) * RUN, info = 0u;
                akv_u32 entry = position < end && position + RUN > begin
                                    ? entry_of(step, &p, number, position)
                                    : AKV_NO_BLOCK;
                if (entry != AKV_NO_BLOCK) {
                    akv_u32 kind = entry >> 28;
                    info = HELD | kind | position % tokens << 8;
                    info |= akv_format_raw(K_FORMAT(kind)) || !(p.k_flags & TURNED) ? 0u : 16u;
                    info |= akv_format_raw(V_FORMAT(kind)) || !(p.v_flags & TURNED) ? 0u : 32u;
                    run_block[item] = block_at(&p.pool, entry);
                }
                run_info[item] = info;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        for (i = 0u; i < RUNS && !last; i++)
            types |= 1u << run_of(0u, run_info[at_run + i]).type;
        /* The runs of one type at a time; whole bounds where a loop is cut short by the types. */
        for (type = 0u; type < 5u; type++) {
            if (type < 4u && !(types >> type & 1u))
                continue;
            if (type == 4u && !last)
                continue;
            /* What is open belongs to other values, or nothing follows: hand it over. */
            if (open < 4u && (type == 4u || (type & 2u) != open)) {
                for (n = 0u; n < VL; n++) {
                    if (v_lane == n)
                        for (r = 0u; r < R; r++)
                            for (d = 0u; d < VE; d++)
                                if (v_slice * VE + d < VD) {
                                    akv_u32 at = r * VD + v_slice * VE + d;
                                    shared[at] = (n ? shared[at] : 0.0f) + sum[r * VE + d];
                                }
                    barrier(CLK_LOCAL_MEM_FENCE);
                }
                for (i = 0u; i < SCORES; i++)
                    if (item + i * WG < R * T)
                        score[item + i * WG] = part_l[i];
                barrier(CLK_LOCAL_MEM_FENCE);
#ifdef AKV_MAP
                if (open == 2u && (p.v_flags & AKV_FLAG_MAP) &&
                    v_map->transform == AKV_TRANSFORM_MATRIX) {
                    for (i = item; i < R * VD; i += WG) {
                        float y = 0.0f;
                        for (d = 0u; d < VD; d++) {
                            __global const float *row =
                                (__global const float *)(maps + akv_map_inverse_row(v_map, kv, VD, d));
                            y = MULTIPLY_ADD(shared[i / VD * VD + d], row[i % VD], y);
                        }
                        shared[R * VD + i] = y;
                    }
                    barrier(CLK_LOCAL_MEM_FENCE);
                    for (i = item; i < R * VD; i += WG)
                        shared[i] = shared[R * VD + i];
                    barrier(CLK_LOCAL_MEM_FENCE);
                } else if (open == 2u && (!(p.v_flags & AKV_FLAG_MAP) || akv_map_rotates(v_map)))
                    rotate_local(shared, VD, item);
#else
                if (open == 2u)
                    rotate_local(shared, VD, item);
#endif
                for (i = item; i < R * VD; i += WG) {
                    akv_softmax_factors f = akv_softmax_between(whole_m[i / VD], top[i / VD]);
                    total[i] = total[i] * f.keep + (f.take != 0.0f ? shared[i] * f.take : 0.0f);
                }
                barrier(CLK_LOCAL_MEM_FENCE);
                if (item < R) {
                    akv_softmax all;
                    float l = 0.0f;
                    for (i = 0u; i < T; i++)
                        l += score[item * T + i];
                    all.m = whole_m[item];
                    all.l = whole_l[item];
                    akv_softmax_merge(&all, top[item], l);
                    whole_m[item] = all.m;
                    whole_l[item] = all.l;
                    top[item] = akv_minus_infinity();
                }
                for (i = 0u; i < R * VE; i++)
                    sum[i] = 0.0f;
                for (i = 0u; i < SCORES; i++)
                    part_l[i] = 0.0f;
                open = 4u;
                barrier(CLK_LOCAL_MEM_FENCE);
            }
            if (type == 4u)
                continue;
            open = type & 2u;
            if (loaded != (type & 1u)) {
                loaded = type & 1u;
                for (r = 0u; r < R; r++)
                    for (d = 0u; d < KE; d++)
                        mine[r * KE + d] =
                            k_slice * KE + d < KD ? query[(loaded * R + r) * KD + k_slice * KE + d] : 0.0f;
            }
#ifdef AKV_MAP
            /* What scores regain of the mean: queries turned to each run, then to each position. */
            for (i = 0u; i < SCORES; i++)
                regain[i] = 0.0f;
            if (has_mean && (type & 1u)) {
                for (i = item; i < RUNS * R * pairs; i += WG) {
                    akv_u32 row = i / pairs, pair = i % pairs, from = (row % R * pairs + pair) * 2u;
                    float2 turned =
                        turn_pair((float2)(met[from], met[from + 1u]),
                                  akv_rope_at(akv_map_turns(maps, k_map, pair), chunk * T + row / R * RUN));
                    shared[i * 2u] = turned.x;
                    shared[i * 2u + 1u] = turned.y;
                }
                barrier(CLK_LOCAL_MEM_FENCE);
                for (i = 0u; i < SCORES; i++) {
                    akv_u32 at = AKV_MIN(item + i * WG, (akv_u32)(R * T - 1));
                    __local const float *turned = shared + (at % T / RUN * R + at / T) * pairs * 2u;
                    regain[i] = rest[at / T];
                    for (d = 0u; d < pairs; d++)
                        regain[i] = add_pair(regain[i], (float2)(turned[d * 2u], turned[d * 2u + 1u]), angles,
                                             d, at % RUN);
                }
                barrier(CLK_LOCAL_MEM_FENCE);
            }
#endif
            /* Products of slices. */
            for (n = k_lane; n < T && k_lane < KL; n += KL) {
                run at = run_of(run_block[at_run + n / RUN], run_info[at_run + n / RUN]);
                if (at.type != type)
                    continue;
                akv_u32 format = K_FORMAT(at.kind), t = at.t0 + n % RUN;
                __global const uchar *tile = slab_at(at.block, SLAB_NAMES) +
                                             BY_KIND(p.tiles.k_offset, at.kind) +
                                             kv * akv_tile_bytes(format, tokens, KD);
                float unit = 1.0f;
                for (d = 0u; d < KE; d += 8u) {
                    akv_u32 from = k_slice * KE + d;
                    if (from >= KD)
                        for (i = 0u; i < 8u; i++)
                            x[d + i] = 0.0f;
                    else if (akv_format_raw(format))
                        raw_8(x + d, tile + (t * KD + from) * akv_raw_bytes(format), format);
                    else
                        key_8(x + d, tile, format, tokens, t, from, book);
                }
                if (!akv_format_raw(format) && !akv_format_blocks(format))
                    unit = akv_code_unit(format,
                                         akv_scale_get(tile, format, AKV_ORDER_ROW, tokens, KD, t,
                                                       k_slice * KE / akv_scale_width(format)));
                for (r = 0u; r < R; r++) {
                    float dot = 0.0f;
                    for (d = 0u; d < KE; d++)
                        dot = MULTIPLY_ADD(mine[r * KE + d], x[d], dot);
                    shared[(r * T + n) * (KS + 1) + k_slice] = dot * unit;
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            /* Scores. */
            for (i = 0u; i < SCORES; i++) {
                akv_u32 at = item + i * WG, position = chunk * T + at % T;
                float s = akv_minus_infinity();
                if (at < R * T && at / T < rows &&
                    run_of(0u, run_info[at_run + at % T / RUN]).type == type) {
                    akv_u32 token = (first_row + at / T) / c.repeat;
                    if (position >= AKV_MAX(begin, akv_attend_first(c.length + token, p.window)) &&
                        position < AKV_MIN(end, akv_attend_end(c.length, c.count, token, p.flags))) {
                        float product = 0.0f;
                        for (d = 0u; d < KS; d++)
                            product += shared[at * (KS + 1) + d];
#ifdef AKV_MAP
                        product += regain[i];
#endif
                        s = score_of(product, &p, &c, mask, token, position);
                    }
                }
                if (at < R * T)
                    score[at] = s;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            /* Weights. */
            for (i = 0u; i < SCORES; i++) {
                akv_u32 at = item + i * WG;
                if (at < R * T) {
                    float old = top[at / T], m = old, factor;
                    for (d = 0u; d < T; d++)
                        m = score[at / T * T + d] > m ? score[at / T * T + d] : m;
                    factor = old >= m ? 1.0f : akv_exp(old - m);
                    weight[at] = akv_exp(score[at] - m);
                    part_l[i] = part_l[i] * factor + weight[at];
                    if (at % T == 0u)
                        keep[at / T] = factor;
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            if (item < R) { /* not before: all have read the old one */
                float m = top[item];
                for (d = 0u; d < T; d++)
                    m = score[item * T + d] > m ? score[item * T + d] : m;
                top[item] = m;
            }
            /* Values. */
            for (r = 0u; r < R; r++)
                for (d = 0u; d < VE; d++)
                    sum[r * VE + d] *= keep[r];
            bool careful = chunk * T < all_begin || chunk * T + T > all_end || chunk * T < begin ||
                           chunk * T + T > end || (p.flags & AKV_ATTEND_MASK);
            for (n = v_lane * 4u; n < T && v_lane < VL; n += VL * 4u) {
                run at = run_of(run_block[at_run + n / RUN], run_info[at_run + n / RUN]);
                if (at.type != type)
                    continue;
                akv_u32 format = V_FORMAT(at.kind), t = at.t0 + n % RUN;
                __global const uchar *tile = slab_at(at.block, SLAB_NAMES) +
                                             BY_KIND(p.tiles.v_offset, at.kind) +
                                             kv * akv_tile_bytes(format, tokens, VD);
                float w[R * 4];
                for (r = 0u; r < R; r++)
                    for (i = 0u; i < 4u; i++)
                        w[r * 4u + i] = weight[r * T + n + i];
                for (d = 0u; d < VE; d += 8u) {
                    if (v_slice * VE + d >= VD)
                        continue;
                    if (akv_format_raw(format))
                        add_raw(sum + d, w, tile, format, t, (v_slice * VE + d) / 8u, careful);
                    else
                        add_unit(sum + d, w, tile, format, tokens, t, (v_slice * VE + d) / 8u, careful,
                                 book);
                }
            }
        }
    }

    for (i = item; i < R * VD; i += WG) {
        akv_u32 row = first_row + i / VD, token = row / c.repeat, head = kv * c.repeat + row % c.repeat;
        akv_softmax all;
        if (i / VD >= rows)
            continue;
        all.m = whole_m[i / VD];
        all.l = whole_l[i / VD];
        if (c.parts > 1u) {
            __global float *to = slot_of(scratch + scratch_at, &p, &c, token, head, part, slots);
            to[2u + i % VD] = total[i];
            if (i % VD == 0u) {
                to[0] = all.m;
                to[1] = all.l;
            }
        } else {
            float factor = finish(&all, &p, sinks + sinks_at, head);
            akv_u64 to = akv_page_source(&p.out, c.first_token + token, head) + i % VD;
            akv_store_bits(out + out_at, to, p.out.dtype, akv_as_u32(total[i] * factor));
            if (i % VD == 0u)
                store_lse(&all, &p, lse + lse_at, c.first_token + token, head);
        }
    }
#ifdef AKV_SCRUB
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = item; i < SHARED; i += WG)
        shared[i] = 0.0f;
    for (i = item; i < 2 * R * KD; i += WG)
        query[i] = 0.0f;
    for (i = item; i < R * VD; i += WG)
        total[i] = 0.0f;
    for (i = item; i < R * T; i += WG)
        score[i] = weight[i] = 0.0f;
#endif
}
#endif
#endif
