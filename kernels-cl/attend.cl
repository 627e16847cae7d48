/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the attend family: one part of a sequence for a few query rows, and the merging of parts.
 *
 * A query row is (new token, q head); a tile is AKV_ROWS rows of one kv head.  The grid is (tiles times
 * parts, kv heads, sequences); where the parts begin and how they are walked follows from the sequence
 * alone.  Results of parts go to scratch, [sequence][slot][q head]: m, l, sums; a sequence of one part
 * is finished at once.  Options: AKV_ATTEND, AKV_ATTEND_ONE (attend_one.cl), AKV_COMBINE choose the kernel;
 * AKV_NOT_ONE: sequences with one new token are left to attend_one; AKV_DOT: that by integer products
 * (attend_dot.cl); AKV_ROWS; GPU shape: AKV_KDIM,
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
#define PARTS_AHEAD 8u /* parts whose results are loaded together */
/* A work-group merges the parts of one (new token, q head) in ascending order. */
__kernel SHAPE void akv_k_combine(__global const uchar *step, ulong step_at, __global const uchar *q,
                                  ulong q_at, __global uchar *out, ulong out_at, __global uchar *lse,
                                  ulong lse_at, __global const uchar *mask, ulong mask_at,
                                  __global const uchar *sinks, ulong sinks_at, __global uchar *scratch,
                                  ulong scratch_at, __global const uchar *maps, ulong maps_at,
                                  const akv_attend_params p, uint least, uint most,
                                  uint slots)
{
    akv_u32 i = (akv_u32)get_group_id(0), head = (akv_u32)get_group_id(1), part, d, n;
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
    for (part = first; part <= last; part += PARTS_AHEAD) {
        float m[PARTS_AHEAD], l[PARTS_AHEAD];
        AKV_UNROLL
        for (d = 0u; d < PARTS_AHEAD; d++) {
            __global float *from = slot_of(scratch + scratch_at, &p, &c, i, head, AKV_MIN(part + d, last), slots);
            m[d] = part + d <= last ? from[0] : akv_minus_infinity();
            l[d] = from[1];
        }
        float top = all.m;
        AKV_UNROLL
        for (d = 0u; d < PARTS_AHEAD; d++)
            top = AKV_MAX(top, m[d]);
        all.l *= akv_exp(all.m - top);
        AKV_UNROLL
        for (d = 0u; d < PARTS_AHEAD; d++)
            all.l += l[d] * akv_exp(m[d] - top); /* e^NaN is 0: -infinity less itself */
        all.m = top;
    }
    akv_softmax total = all;
    float factor = finish(&total, &p, sinks + sinks_at, head);
    akv_u64 to = akv_page_source(&p.out, c.first_token + i, head);
    for (d = (akv_u32)get_local_id(0); d < p.v_dim; d += (akv_u32)get_local_size(0)) {
        float sum = 0.0f;
        for (part = first; part <= last; part += PARTS_AHEAD) {
            float m[PARTS_AHEAD], x[PARTS_AHEAD];
            AKV_UNROLL
            for (n = 0u; n < PARTS_AHEAD; n++) {
                __global float *from = slot_of(scratch + scratch_at, &p, &c, i, head, AKV_MIN(part + n, last), slots);
                m[n] = part + n <= last ? from[0] : akv_minus_infinity();
                x[n] = from[2u + d];
            }
            AKV_UNROLL
            for (n = 0u; n < PARTS_AHEAD; n++) {
                float take = akv_exp(m[n] - all.m);
                sum += take > 0.0f ? take * x[n] : 0.0f;
            }
        }
        akv_store_bits(out + out_at, to + d, p.out.dtype, akv_as_u32(sum * factor));
    }
    if (get_local_id(0) == 0u)
        store_lse(&total, &p, lse + lse_at, c.first_token + i, head);
}
#endif

#if (defined(AKV_ATTEND) || defined(AKV_ATTEND_ONE)) && defined(AKV_MAP)
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
