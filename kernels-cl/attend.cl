/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the attend family: one part of a sequence for a few query rows, and the merging of parts.
 *
 * A query row is (new token, q head); a tile is AKV_ROWS rows of one kv head.  The grid is (tiles times
 * parts, kv heads, sequences); where the parts begin and how they are walked follows from the sequence
 * alone.  Results of parts go to scratch, [sequence][slot][q head]: m, l, sums; a sequence of one part
 * is finished at once.  Options: AKV_ATTEND, AKV_COMBINE choose the kernel; AKV_ROWS; GPU shape: AKV_KDIM,
 * AKV_VDIM, and K0, K1, V0, V1 where only kinds 0 and 1 have formats. */
#ifdef FP_FAST_FMAF
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
                                  ulong scratch_at, const akv_attend_params p, uint least, uint most,
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
                                 ulong scratch_at, const akv_attend_params p, uint least, uint most,
                                 uint slots, SLABS)
{
    float query[2][R][AKV_MAX_HEAD_DIM], sum[2][R][AKV_MAX_HEAD_DIM], x[4 * AKV_MAX_HEAD_DIM];
    float s[R][RUN];
    akv_softmax all[R];
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
            akv_rotate_read(query[1][r], p.k_dim);
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
                s[r][t] = seen ? score_of(product(query[side][r], x, p.k_dim), &p, &c, mask, i, at)
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
            akv_rotate_read(sum[1][r], p.v_dim);
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
