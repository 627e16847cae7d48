/* SPDX-License-Identifier: Apache-2.0 */
/* Attend on the CPU: the walk over parts, blocks and strips, and the portable operations. */
#include "k_attend_mean.h"

/* Parts of one sequence on this backend (akv_attend_part). */
#define LEAST_PART 1024u
#define MOST_PARTS 16u

/* ---- the launch ---- */
struct launch {
    const struct akv_cpu_args *args;
    const akv_attend_params *p;
    const akv_step_head *head;
    const akv_step_seq *seq;
    const uint32_t *table;
    uint32_t group;                                  /* q heads of a kv head */
    uint32_t tile_rows;                              /* rows of a piece */
    uint32_t stride;                                 /* floats of a partial result */
    uint32_t k_bytes[AKV_KINDS], v_bytes[AKV_KINDS]; /* of a tile */
    uint32_t ahead;                                  /* blocks that are asked for in advance */
};
/* The caches are asked for what comes this many bytes later, and at most this many blocks. */
#define AHEAD_BYTES  16384u
#define AHEAD_BLOCKS 15u
static uint32_t partial_floats(const akv_attend_params *p)
{
    return akv_padded_dim(p->v_dim) + 16u; /* m, l, then the sums on a line of their own */
}
static struct launch launch_of(const struct akv_cpu_args *args)
{
    const akv_attend_params *p = args->params;
    uint32_t pad = akv_padded_dim(AKV_MAX(p->k_dim, p->v_dim)), rows = AKV_WORK_FLOATS / pad;
    struct launch l;
    l.args = args;
    l.p = p;
    l.head = (const akv_step_head *)(const void *)args->arg[0];
    l.seq = (const akv_step_seq *)(const void *)(args->arg[0] + l.head->seq_offset);
    l.table = (const uint32_t *)(const void *)(args->arg[0] + l.head->table_offset);
    l.group = p->q_heads / p->kv_heads;
    l.tile_rows = AKV_MIN(rows & ~7u, AKV_WORK_ROWS);
    l.stride = partial_floats(p);
    l.ahead = 1;
    for (uint32_t kind = 0; kind < AKV_KINDS; kind++) {
        l.k_bytes[kind] = l.v_bytes[kind] = 0;
        if (p->tiles.k_format[kind] == 0)
            continue;
        l.k_bytes[kind] = akv_tile_bytes(p->tiles.k_format[kind], l.head->block_tokens, p->k_dim);
        l.v_bytes[kind] = akv_tile_bytes(p->tiles.v_format[kind], l.head->block_tokens, p->v_dim);
        uint32_t blocks = AHEAD_BYTES / (l.k_bytes[kind] + l.v_bytes[kind]) + 1u;
        l.ahead = AKV_MAX(l.ahead, AKV_MIN(blocks, AHEAD_BLOCKS));
    }
    return l;
}

/* How one sequence is cut. */
struct cut {
    uint32_t part, parts, tiles; /* positions of a part; parts; row tiles */
};
static struct cut cut_of(const struct launch *l, const akv_step_seq *seq)
{
    uint32_t total = seq->length + seq->tokens;
    struct cut c = {0, 0, 0};
    if (seq->tokens == 0)
        return c;
    c.part = akv_attend_part(total, seq->tokens, LEAST_PART, MOST_PARTS);
    c.parts = (total + c.part - 1u) / c.part;
    c.tiles = (uint32_t)(((uint64_t)seq->tokens * l->group + l->tile_rows - 1u) / l->tile_rows);
    return c;
}

uint64_t akv_attend_scratch(const void *params)
{
    const akv_attend_params *p = params;
    uint64_t parts = ((uint64_t)p->max_length + p->max_tokens) / LEAST_PART + 1u;
    uint64_t by_parts = p->max_tokens * AKV_MIN(parts, (uint64_t)MOST_PARTS);
    uint64_t rows = (uint64_t)p->max_tokens + (uint64_t)MOST_PARTS * p->max_sequences;
    return AKV_MIN(by_parts, rows) * p->q_heads * partial_floats(p) * sizeof(float);
}

static bool known_format(uint32_t format)
{
    return format < AKV_FORMATS;
}
const char *akv_attend_refuse(const void *params)
{
    const akv_attend_params *p = params;
    if (p->kv_heads == 0 || p->q_heads == 0 || p->q_heads % p->kv_heads != 0)
        return "attend: q_heads is not a multiple of kv_heads";
    if (p->k_dim == 0 || p->k_dim > AKV_MAX_HEAD_DIM || p->k_dim % 8u != 0 || p->v_dim == 0 ||
        p->v_dim > AKV_MAX_HEAD_DIM || p->v_dim % 8u != 0)
        return "attend: a head size is not a multiple of 8 up to 576";
    for (uint32_t kind = 0; kind < AKV_KINDS; kind++)
        if (!known_format(p->tiles.k_format[kind]) || !known_format(p->tiles.v_format[kind]))
            return "attend: unknown format";
    return NULL;
}

uint64_t akv_attend_items(const struct akv_cpu_args *args, uint32_t phase)
{
    struct launch l = launch_of(args);
    uint64_t items = 0;
    for (uint32_t i = 0; i < l.head->sequences; i++) {
        const akv_step_seq *seq = &l.seq[i];
        struct cut c = cut_of(&l, seq);
        items += phase == 0 ? (uint64_t)c.parts * c.tiles * l.p->kv_heads
                            : (uint64_t)seq->tokens * l.p->q_heads;
    }
    return items;
}

/* Where the partial result of (token of the sequence, q head, part) stands; base: partials of the
 * sequences before. */
static float *partial_at(const struct launch *l, uint64_t base, uint32_t token, uint32_t q_head,
                         uint32_t parts, uint32_t part)
{
    uint64_t n = base + ((uint64_t)token * l->p->q_heads + q_head) * parts + part;
    return (float *)(void *)l->args->arg[6] + n * l->stride;
}

/* ---- phase 0: one piece ---- */
struct piece {
    const akv_step_seq *seq;
    uint64_t base;
    uint32_t parts, part, kv_head;
    uint32_t begin, end; /* positions of the part */
    uint32_t first_row;  /* row = token * group + q head within the group */
};
static uint32_t row_token(const struct launch *l, const struct piece *piece, uint32_t row)
{
    return (piece->first_row + row) / l->group;
}

/* How the stored rows of one side differ: rotated, or by a matrix (its inverse), or neither; and by a
 * scale. */
static const float *side_map(const struct launch *l, uint32_t flags, uint32_t map, uint32_t head,
                             uint32_t dim, bool *rotate_out, float *scale_out)
{
    *rotate_out = (flags & AKV_FLAG_ROTATE) != 0;
    *scale_out = 1.0f;
    if (!(flags & AKV_FLAG_MAP))
        return NULL;
    const akv_map *m = akv_map_at(l->args->arg[7], map);
    *rotate_out = akv_map_rotates(m);
    *scale_out = akv_map_scale(l->args->arg[7], m, head, 1);
    if (m->transform != AKV_TRANSFORM_MATRIX)
        return NULL;
    return (const float *)(const void *)(l->args->arg[7] + akv_map_inverse_row(m, head, dim, 0));
}
static void load_queries(const struct launch *l, const struct piece *piece,
                         struct akv_attend_work *work, const struct akv_attend_ops *ops)
{
    const akv_rows *q = &l->p->q;
    bool rotate;
    float scale;
    const float *matrix =
        side_map(l, l->p->k_flags, l->p->k_map, piece->kv_head, work->k_dim, &rotate, &scale);
    work->maps = l->args->arg[7];
    work->k_mean = l->p->k_flags & AKV_FLAG_MAP ? akv_map_at(work->maps, l->p->k_map) : NULL;
    if (work->k_mean && work->k_mean->mean == 0)
        work->k_mean = NULL;
    work->origin = work->span = work->scaled = UINT32_MAX;
    for (uint32_t r = 0; r < work->rows; r++) {
        uint32_t token = piece->seq->first_token + row_token(l, piece, r);
        uint32_t head = piece->kv_head * l->group + (piece->first_row + r) % l->group;
        uint64_t at = token * q->token_stride + head * q->head_stride;
        float *raw = work->q[0] + (size_t)r * work->k_pad;
        float *turned = work->q[1] + (size_t)r * work->k_pad;
        if (q->dtype == AKV_F32)
            memcpy(raw, l->args->arg[1] + at * sizeof(float), work->k_dim * sizeof(float));
        else
            for (uint32_t i = 0; i < work->k_dim; i++)
                raw[i] = akv_as_f32(akv_load_bits(l->args->arg[1], at + i, q->dtype));
        for (uint32_t i = 0; i < work->k_dim; i++)
            raw[i] *= l->p->scale;
        if (matrix) {
            ops->forward(turned, raw, matrix, work->k_dim);
        } else {
            memcpy(turned, raw, work->k_dim * sizeof(float));
            if (rotate)
                ops->turn(turned, work->k_dim);
        }
        for (uint32_t i = 0; scale != 1.0f && i < work->k_dim; i++)
            turned[i] *= scale;
        for (uint32_t i = work->k_dim; i < work->k_pad; i++)
            raw[i] = turned[i] = 0.0f;
    }
    if (work->k_mean)
        ops->meet(work,
                  work->maps + work->k_mean->mean + (size_t)piece->kv_head * work->k_dim * 2u);
}

/* The tiles of a block for one kv head. */
struct tiles {
    bool held;
    const uint8_t *k, *v;
    uint32_t k_format, v_format, k_bytes, v_bytes;
};
static void find_tiles(const struct launch *l, const struct piece *piece, uint32_t block,
                       struct tiles *out)
{
    const akv_step_seq *seq = piece->seq;
    const akv_tile_map *map = &l->p->tiles;
    out->held = false;
    if (block < seq->first_block || block - seq->first_block >= seq->table_count)
        return;
    uint32_t entry = l->table[seq->table_first + (block - seq->first_block)], kind = entry >> 28;
    if (entry == AKV_NO_BLOCK || map->k_format[kind] == 0)
        return;
    const uint8_t *at = akv_cpu_at(l->args, akv_block_address(&l->p->pool, entry));
    out->held = true;
    out->k_format = map->k_format[kind];
    out->v_format = map->v_format[kind];
    out->k_bytes = l->k_bytes[kind];
    out->v_bytes = l->v_bytes[kind];
    out->k = at + map->k_offset[kind] + (size_t)piece->kv_head * out->k_bytes;
    out->v = at + map->v_offset[kind] + (size_t)piece->kv_head * out->v_bytes;
}

/* Tiles that are coming, and the share n of `of` that one strip asks the caches for. */
struct ahead {
    const struct tiles *tiles;
    uint32_t n, of;
};
static void ask_for(struct akv_attend_work *work, const struct ahead *ahead, const uint8_t *tile,
                    uint32_t bytes)
{
    work->ask = work->ask_end = NULL;
    if (ahead->tiles->held) {
        work->ask = tile + (uint64_t)bytes * ahead->n / ahead->of;
        work->ask_end = tile + (uint64_t)bytes * (ahead->n + 1u) / ahead->of;
    }
}

/* Forbids what row r may not see, and adds the mask, for the strip at `position`. */
static void apply_visibility(const struct launch *l, const struct piece *piece,
                             struct akv_attend_work *work, uint32_t position, uint32_t tokens)
{
    const akv_step_seq *seq = piece->seq;
    const float *mask =
        l->p->flags & AKV_ATTEND_MASK ? (const float *)(const void *)l->args->arg[4] : NULL;
    for (uint32_t r = 0; r < work->rows; r++) {
        uint32_t i = row_token(l, piece, r);
        uint32_t first = akv_attend_first(seq->length + i, l->p->window);
        uint32_t end = akv_attend_end(seq->length, seq->tokens, i, l->p->flags);
        float *s = work->s[r] + work->at;
        for (uint32_t t = 0; t < AKV_STRIP; t++) {
            uint32_t j = position + t;
            if (t >= tokens || j < first || j >= end)
                s[t] = akv_minus_infinity();
            else if (mask && j >= seq->length) {
                float b =
                    mask[(uint64_t)(seq->first_token + i) * l->p->mask_stride + (j - seq->length)];
                float x = s[t] + b; /* a NaN forbids, +inf is a very large score */
                s[t] = x > 0x1p125f ? 0x1p125f : x == x ? x : akv_minus_infinity();
            }
        }
    }
}

/* Strips whose scores stand in work->s and whose values are to be added. */
struct pending {
    uint32_t count;
    struct akv_strip strip[AKV_SPAN / AKV_STRIP];
    struct ahead ahead[AKV_SPAN / AKV_STRIP];
};
static void score_strip(const struct akv_attend_ops *ops, const struct launch *l,
                        const struct piece *piece, struct akv_attend_work *work,
                        const struct akv_strip *strip, const struct ahead *ahead, uint32_t position)
{
    uint32_t domain = akv_format_raw(strip->k_format) ? 0u : 1u;
    ask_for(work, ahead, ahead->tiles->k, ahead->tiles->k_bytes);
    const bool direct = ops->direct_scores && ops->direct_scores(work, strip);
    if (!direct) {
        ops->decode(work, strip->k, strip->k_format, AKV_ORDER_ROW, work->k_dim, strip->first,
                    strip->tokens);
        ops->scores(work, domain, strip->tokens);
    }
    akv_attend_ask(work, UINT32_MAX);
    work->more = NULL;
    if (domain == 1u && work->k_mean)
        ops->regain(work, position, direct);
    ops->shape(work);
    if (strip->careful)
        apply_visibility(l, piece, work, position, strip->tokens);
}
static void finish_pending(const struct akv_attend_ops *ops, struct akv_attend_work *work,
                           struct pending *pending)
{
    if (pending->count == 0)
        return;
    for (uint32_t r = 0; r < work->rows; r++)
        for (uint32_t t = pending->count * AKV_STRIP; t < AKV_SPAN; t++)
            work->s[r][t] = akv_minus_infinity();
    ops->softmax(work);
    for (uint32_t n = 0; n < pending->count; n++) {
        const struct akv_strip *strip = &pending->strip[n];
        const struct ahead *ahead = &pending->ahead[n];
        uint32_t domain = akv_format_raw(strip->v_format) ? 0u : 1u;
        work->at = n * AKV_STRIP;
        work->factor = work->factors[n];
        work->used[domain] = true;
        ask_for(work, ahead, ahead->tiles->v, ahead->tiles->v_bytes);
        if (!(ops->direct_values && ops->direct_values(work, strip))) {
            ops->decode(work, strip->v, strip->v_format, AKV_ORDER_QUAD, work->v_dim, strip->first,
                        strip->tokens);
            ops->values(work, domain, strip);
        }
        akv_attend_ask(work, UINT32_MAX);
    }
    pending->count = 0;
}

static void walk(const struct akv_attend_ops *ops, const struct launch *l,
                 const struct piece *piece, struct akv_attend_work *work)
{
    const akv_step_seq *seq = piece->seq;
    uint32_t i0 = row_token(l, piece, 0), i1 = row_token(l, piece, work->rows - 1u);
    uint32_t flags = l->p->flags, total = seq->length + seq->tokens;
    /* Some row sees [some_first, some_end), all rows see [all_first, all_end). */
    uint32_t some_first = akv_attend_first(seq->length + i0, l->p->window);
    uint32_t all_first = akv_attend_first(seq->length + i1, l->p->window);
    uint32_t some_end = akv_attend_end(seq->length, seq->tokens, i1, flags);
    uint32_t all_end =
        flags & AKV_ATTEND_MASK ? seq->length : akv_attend_end(seq->length, seq->tokens, i0, flags);
    uint32_t block_tokens = l->head->block_tokens, strips = block_tokens / AKV_STRIP;
    uint32_t from = AKV_MAX(some_first, piece->begin), to = AKV_MIN(some_end, piece->end);
    if (from >= to)
        return;
    uint32_t last_block = (to - 1u) / block_tokens;
    struct pending pending;
    pending.count = 0;
    const struct tiles none = {false, NULL, NULL, 0, 0, 0, 0};
    struct tiles ring[AHEAD_BLOCKS + 1u]; /* of the blocks from this one on */
    uint32_t found = from / block_tokens;
    for (uint32_t block = found; block <= last_block; block++) {
        const struct tiles *now = &ring[block % (AHEAD_BLOCKS + 1u)], *later = &none;
        for (; found <= last_block && found <= block + l->ahead; found++) {
            later = &ring[found % (AHEAD_BLOCKS + 1u)];
            find_tiles(l, piece, found, &ring[found % (AHEAD_BLOCKS + 1u)]);
        }
        if (!now->held)
            continue;
        struct ahead ahead = {later, 0, strips};
        for (uint32_t n = 0; n < strips; n++) {
            uint32_t position = block * block_tokens + n * AKV_STRIP;
            if (position + AKV_STRIP <= from || position >= to)
                continue;
            struct akv_strip strip = {now->k,        now->v,
                                      now->k_format, now->v_format,
                                      n * AKV_STRIP, AKV_MIN(total - position, AKV_STRIP),
                                      false};
            strip.careful = position < all_first || position + AKV_STRIP > all_end ||
                            position + AKV_STRIP > to || strip.tokens < AKV_STRIP;
            ahead.n = n;
            work->at = pending.count * AKV_STRIP;
            pending.strip[pending.count] = strip;
            pending.ahead[pending.count++] = ahead;
            score_strip(ops, l, piece, work, &strip, &ahead, position);
            if (pending.count == AKV_SPAN / AKV_STRIP)
                finish_pending(ops, work, &pending);
        }
    }
    finish_pending(ops, work, &pending);
}

static void run_piece(const struct akv_attend_ops *ops, const struct launch *l,
                      const struct piece *piece, struct akv_attend_work *work)
{
    work->params = l->p;
    work->k_dim = l->p->k_dim;
    work->v_dim = l->p->v_dim;
    work->k_pad = akv_padded_dim(l->p->k_dim);
    work->v_pad = akv_padded_dim(l->p->v_dim);
    work->block_tokens = l->head->block_tokens;
    uint64_t left = (uint64_t)piece->seq->tokens * l->group - piece->first_row;
    work->rows = left < l->tile_rows ? (uint32_t)left : l->tile_rows;
    for (uint32_t d = 0; d < 2; d++) {
        memset(work->sum[d], 0, (size_t)work->rows * work->v_pad * sizeof(float));
        work->used[d] = false;
    }
    for (uint32_t order = 0; order < AKV_QUERY_ORDERS; order++)
        work->codes[order].ready = false;
    for (uint32_t r = 0; r < AKV_WORK_ROWS; r++) {
        work->m[r] = akv_minus_infinity();
        work->l[r] = 0.0f;
    }
    load_queries(l, piece, work, ops);
    walk(ops, l, piece, work);
    bool rotate;
    float scale;
    const float *matrix =
        side_map(l, l->p->v_flags, l->p->v_map, piece->kv_head, work->v_dim, &rotate, &scale);
    for (uint32_t r = 0; r < work->rows; r++) {
        uint32_t token = row_token(l, piece, r);
        uint32_t head = piece->kv_head * l->group + (piece->first_row + r) % l->group;
        float *out = partial_at(l, piece->base, token, head, piece->parts, piece->part);
        float *raw = work->sum[0] + (size_t)r * work->v_pad;
        float *turned = work->sum[1] + (size_t)r * work->v_pad;
        out[0] = work->m[r];
        out[1] = work->l[r];
        if (work->used[1] && rotate)
            ops->turn(turned, work->v_dim);
        if (work->used[1] && matrix) {
            float whole[AKV_MAX_HEAD_DIM];
            ops->back(whole, turned, matrix, work->v_dim);
            memcpy(turned, whole, work->v_dim * sizeof(float));
        }
        for (uint32_t i = 0; i < work->v_dim; i++)
            out[16u + i] = raw[i] + turned[i] * scale;
    }
}

/* ---- phase 1: one query ---- */
static void combine(const struct launch *l, const akv_step_seq *seq, uint64_t base, uint32_t parts,
                    uint32_t token, uint32_t head)
{
    const akv_attend_params *p = l->p;
    const float *from = partial_at(l, base, token, head, parts, 0);
    float sum[AKV_MAX_HEAD_DIM], sink = akv_minus_infinity();
    akv_softmax total = akv_softmax_empty();
    memset(sum, 0, p->v_dim * sizeof(float));
    for (uint32_t part = 0; part < parts; part++, from += l->stride) {
        akv_softmax_factors f = akv_softmax_merge(&total, from[0], from[1]);
        if (f.take != 0.0f || f.keep != 1.0f)
            for (uint32_t i = 0; i < p->v_dim; i++)
                sum[i] = sum[i] * f.keep + from[16u + i] * f.take;
    }
    float keep = total.l > 0.0f ? 1.0f : 0.0f;
    if (p->flags & AKV_ATTEND_SINKS) {
        memcpy(&sink, l->args->arg[5] + (size_t)head * sizeof(float), sizeof(float));
        keep *= akv_softmax_merge(&total, sink, 1.0f).keep;
    }
    float inverse = total.l > 0.0f ? keep / total.l : 0.0f;
    uint64_t row = (uint64_t)seq->first_token + token;
    uint64_t at = row * p->out.token_stride + head * p->out.head_stride;
    for (uint32_t i = 0; i < p->v_dim; i++)
        akv_store_bits(l->args->arg[2], at + i, p->out.dtype, akv_as_u32(sum[i] * inverse));
    if (p->flags & AKV_ATTEND_LSE) {
        float lse = akv_softmax_lse(total);
        memcpy(l->args->arg[3] + (row * p->q_heads + head) * sizeof(float), &lse, sizeof(float));
    }
}

/* Walks the sequences to the items [first, first + count) of a phase. */
void akv_attend_run(const struct akv_attend_ops *ops, const struct akv_cpu_args *args,
                    uint32_t phase, uint64_t first, uint64_t count)
{
    struct launch l = launch_of(args);
    uint64_t base = 0, before = 0, last = first + count;
    struct akv_attend_work *work = args->work;
    for (uint32_t s = 0; s < l.head->sequences && before < last; s++) {
        const akv_step_seq *seq = &l.seq[s];
        struct cut c = cut_of(&l, seq);
        uint64_t items = phase == 0 ? (uint64_t)c.parts * c.tiles * l.p->kv_heads
                                    : (uint64_t)seq->tokens * l.p->q_heads;
        uint64_t from = first > before ? first - before : 0;
        for (uint64_t i = from; i < items && before + i < last; i++) {
            if (phase == 0) {
                struct piece piece = {seq, base, c.parts, 0, 0, 0, 0, 0};
                piece.kv_head = (uint32_t)(i % l.p->kv_heads);
                piece.first_row = (uint32_t)(i / l.p->kv_heads % c.tiles) * l.tile_rows;
                piece.part = (uint32_t)(i / l.p->kv_heads / c.tiles);
                piece.begin = piece.part * c.part;
                piece.end = piece.begin + c.part;
                run_piece(ops, &l, &piece, work);
            } else {
                combine(&l, seq, base, c.parts, (uint32_t)(i / l.p->q_heads),
                        (uint32_t)(i % l.p->q_heads));
            }
        }
        before += items;
        base += (uint64_t)seq->tokens * l.p->q_heads * c.parts;
    }
}

/* ---- portable operations ---- */
static void decode_raw(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                       uint32_t dim, uint32_t first, uint32_t tokens)
{
    uint32_t pad = akv_padded_dim(dim);
    for (uint32_t t = 0; t < tokens; t++) {
        float *row = work->tile + (size_t)t * pad;
        for (uint32_t i = 0; i < dim; i++)
            row[i] = akv_as_f32(akv_load_bits(tile, (uint64_t)(first + t) * dim + i, format));
        for (uint32_t i = dim; i < pad; i++)
            row[i] = 0.0f;
    }
}
static void decode_keys(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                        uint32_t dim, uint32_t first, uint32_t tokens)
{
    uint32_t pad = akv_padded_dim(dim), width = akv_scale_width(format);
    uint8_t code[32];
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t g = 0; g < pad / 32u; g++) {
            uint32_t scale = akv_scale_get(tile, format, AKV_ORDER_ROW, work->block_tokens, dim,
                                           first + t, g * 32u / width);
            float unit = akv_code_unit(format, scale), *to = work->tile + (size_t)t * pad + g * 32u;
            akv_row_get(tile, format, work->block_tokens, dim, first + t, g, code);
            for (uint32_t i = 0; i < 32; i++)
                to[i] = akv_code_value(format, code[i], unit);
        }
}
static void decode_values(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                          uint32_t dim, uint32_t first, uint32_t tokens)
{
    uint32_t pad = akv_padded_dim(dim), width = akv_scale_width(format);
    uint8_t code[32];
    for (uint32_t t = 0; t < tokens; t += 4)
        for (uint32_t u = 0; u < pad / 8u; u++) {
            float unit[4];
            for (uint32_t n = 0; n < 4; n++)
                unit[n] = akv_code_unit(format, akv_scale_get(tile, format, AKV_ORDER_QUAD,
                                                              work->block_tokens, dim,
                                                              first + t + n, u * 8u / width));
            akv_quad_get(tile, format, work->block_tokens, dim, (first + t) / 4u, u, code);
            for (uint32_t i = 0; i < 32; i++)
                work->tile[(size_t)(t + i % 4u) * pad + u * 8u + i / 4u] =
                    akv_code_value(format, code[i], unit[i % 4u]);
        }
}
static void decode_blocks(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                          uint32_t dim, uint32_t first, uint32_t tokens)
{
    uint32_t pad = akv_padded_dim(dim);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t g = 0; g < pad / 32u; g++)
            akv_block_load(tile, format, dim, first + t, g,
                           work->tile + (size_t)t * pad + g * 32u);
}
void akv_attend_decode(struct akv_attend_work *work, const uint8_t *tile, uint32_t format,
                       uint32_t order, uint32_t dim, uint32_t first, uint32_t tokens)
{
    if (akv_format_raw(format))
        decode_raw(work, tile, format, dim, first, tokens);
    else if (akv_format_blocks(format))
        decode_blocks(work, tile, format, dim, first, tokens);
    else if (order == AKV_ORDER_ROW)
        decode_keys(work, tile, format, dim, first, tokens);
    else
        decode_values(work, tile, format, dim, first, tokens);
}

static void scores(struct akv_attend_work *work, uint32_t domain, uint32_t tokens)
{
    for (uint32_t r = 0; r < work->rows; r++)
        for (uint32_t t = 0; t < tokens; t++) {
            const float *q = work->q[domain] + (size_t)r * work->k_pad;
            const float *k = work->tile + (size_t)t * work->k_pad;
            float lane[8] = {0};
            for (uint32_t i = 0; i < work->k_pad; i += 8)
                for (uint32_t n = 0; n < 8; n++)
                    lane[n] += q[i + n] * k[i + n];
            work->s[r][work->at + t] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
                                       ((lane[1] + lane[5]) + (lane[3] + lane[7]));
        }
}
static void shape(struct akv_attend_work *work)
{
    for (uint32_t r = 0; r < work->rows; r++)
        for (uint32_t t = work->at; t < work->at + AKV_STRIP; t++)
            work->s[r][t] = akv_attend_score(work->s[r][t], work->params->cap);
}
static void softmax(struct akv_attend_work *work)
{
    for (uint32_t r = 0; r < work->rows; r++) {
        float *s = work->s[r], most = akv_minus_infinity(), l = 0.0f;
        for (uint32_t t = 0; t < AKV_SPAN; t++)
            most = s[t] > most ? s[t] : most;
        for (uint32_t t = 0; t < AKV_SPAN; t++) {
            s[t] = most > akv_minus_infinity() ? akv_exp(s[t] - most) : 0.0f;
            l += s[t];
        }
        akv_softmax state = {work->m[r], work->l[r]};
        akv_softmax_factors f = akv_softmax_merge(&state, most, l);
        work->m[r] = state.m;
        work->l[r] = state.l;
        work->factors[0][r] = work->factors[1][r] = f.take; /* one maximum for the span */
        for (uint32_t d = 0; d < 2; d++)
            if (work->used[d] && f.keep != 1.0f)
                for (uint32_t i = 0; i < work->v_pad; i++)
                    work->sum[d][(size_t)r * work->v_pad + i] *= f.keep;
    }
}
static void values(struct akv_attend_work *work, uint32_t domain, const struct akv_strip *strip)
{
    for (uint32_t r = 0; r < work->rows; r++) {
        float *sum = work->sum[domain] + (size_t)r * work->v_pad;
        for (uint32_t t = 0; t < strip->tokens; t++) {
            const float *v = work->tile + (size_t)t * work->v_pad;
            float w = work->s[r][work->at + t] * work->factor[r];
            if (w != 0.0f) /* what is forbidden may hold anything */
                for (uint32_t i = 0; i < work->v_pad; i++)
                    sum[i] += w * v[i];
        }
    }
}

static void meet(struct akv_attend_work *work, const uint8_t *mean)
{
    float m[AKV_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < work->k_dim; i++)
        m[i] = akv_map_f16(mean, 0, i);
    for (uint32_t r = 0; r < work->rows; r++)
        attend_meet(work, m, r, 0);
}
/* Never leaves anything to shape. */
static void regain(struct akv_attend_work *work, uint32_t position, bool coarse)
{
    (void)coarse;
    const akv_map *map = work->k_mean;
    const float *table = (const float *)(const void *)(work->maps + map->table);
    const uint32_t half = work->k_pad / 2u;
    uint32_t pad;
    const float *c = attend_steps(work, position, &pad), *s = c + pad;
    float turn_c[AKV_MAX_HEAD_DIM / 2u], turn_s[AKV_MAX_HEAD_DIM / 2u];
    if (attend_angles(work, position, turn_c, turn_s))
        for (uint32_t r = 0; r < work->rows; r++) {
            const float *a = work->conj + (size_t)r * work->k_pad, *b = a + half;
            float *to = work->about + (size_t)r * work->k_pad;
            for (uint32_t i = 0; i < map->pairs; i++) {
                to[i] = a[i] * turn_c[i] + b[i] * turn_s[i];
                to[half + i] = b[i] * turn_c[i] - a[i] * turn_s[i];
            }
        }
    for (uint32_t r = 0; r < work->rows; r++) {
        const float *a = work->about + (size_t)r * work->k_pad, *b = a + half;
        float sum[AKV_STRIP] = {0};
        for (uint32_t i = 0; i < map->pairs; i++) {
            float with_cos = a[i] * c[i] + b[i] * s[i], with_sin = b[i] * c[i] - a[i] * s[i];
            for (uint32_t t = 0; t < AKV_STRIP; t++)
                sum[t] += with_cos * table[i * 32u + t] + with_sin * table[i * 32u + 16u + t];
        }
        for (uint32_t t = 0; t < AKV_STRIP; t++)
            work->s[r][work->at + t] += sum[t] + work->rest[r];
    }
}
static void forward(float *y, const float *x, const float *w, uint32_t dim)
{
    for (uint32_t j = 0; j < dim; j++) {
        float lane[8] = {0};
        for (uint32_t i = 0; i < dim; i += 8)
            for (uint32_t n = 0; n < 8; n++)
                lane[n] += w[(size_t)j * dim + i + n] * x[i + n];
        y[j] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
               ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    }
}
static void back(float *y, const float *x, const float *w, uint32_t dim)
{
    memset(y, 0, dim * sizeof(float));
    for (uint32_t j = 0; j < dim; j++)
        for (uint32_t i = 0; i < dim; i++)
            y[i] += w[(size_t)j * dim + i] * x[j];
}

static const struct akv_attend_ops scalar_ops = {
    akv_attend_decode, scores, shape, softmax, values, akv_rotate_read, meet, regain,
    forward,           back,   NULL,  NULL};

static void run_scalar(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    akv_attend_run(&scalar_ops, args, phase, first, count);
}

const struct akv_cpu_kernel akv_cpu_attend_scalar = {2, akv_attend_items, run_scalar,
                                                     akv_attend_scratch, akv_attend_refuse};
