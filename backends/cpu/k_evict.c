/* SPDX-License-Identifier: Apache-2.0 */
/* CPU kernels of the evict family: score (reference), mean, mass, select, compact. */
#include "k_evict.h"
#define q_get_rows s_get_rows
#define q_get_quad s_get_quad
#define q_convert  s_convert

static int e_sums(const float *x, const float *w, uint32_t dp, float sums[2])
{
    float kk[32] = {0}, kw[32] = {0};
    uint32_t nan = 0;
    for (uint32_t i = 0; i < dp; i++) {
        const uint32_t bits = akv_as_u32(x[i]);
        const float a = akv_level(bits);
        nan |= akv_is_nan(bits);
        kk[i & 31u] = AKV_FMA(a, a, kk[i & 31u]);
        if (w)
            kw[i & 31u] = AKV_FMA(a, w[i], kw[i & 31u]);
    }
    sums[0] = akv_lane_sum(kk);
    sums[1] = akv_lane_sum(kw);
    return nan != 0;
}

#include "k_evict_body.h"

/* Keys of a head in a block, or NULL where the block is not held. */
static const uint8_t *key_tile(const struct akv_cpu_args *args, const akv_pool_map *pool,
                               const akv_tile_map *tiles, uint32_t b, uint32_t head,
                               uint32_t tokens, uint32_t dim, uint32_t *format_out)
{
    const uint32_t entry = ((const uint32_t *)(const void *)args->arg[0])[b], kind = entry >> 28;
    if (entry == AKV_NO_BLOCK)
        return NULL;
    *format_out = tiles->k_format[kind];
    return akv_cpu_at(args, akv_block_address(pool, entry)) + tiles->k_offset[kind] +
           (uint64_t)head * akv_tile_bytes(*format_out, tokens, dim);
}

/* ---- mean: an item is one head of one part ---- */
static uint64_t mean_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_mean_params *p = args->params;
    (void)phase;
    return (uint64_t)p->kv_heads * ((p->rows + AKV_MEAN_ROWS - 1u) / AKV_MEAN_ROWS);
}

static void mean_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_mean_params *p = args->params;
    const uint32_t dim = p->k_dim, tokens = p->block_tokens;
    _Alignas(64) float work[AKV_MAX_HEAD_DIM];
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        const uint32_t part = (uint32_t)(item / p->kv_heads), head = (uint32_t)(item % p->kv_heads);
        const uint32_t end = AKV_MIN(p->rows, (part + 1u) * AKV_MEAN_ROWS);
        int32_t *sums[2];
        for (uint32_t s = 0; s < 2u; s++) {
            sums[s] = (int32_t *)(void *)args->arg[1] + (((uint64_t)part * 2u + s) * p->kv_heads + head) * dim;
            memset(sums[s], 0, dim * sizeof(int32_t));
        }
        for (uint32_t r = part * AKV_MEAN_ROWS; r < end; r++) {
            uint32_t format;
            const uint8_t *tile = key_tile(args, &p->pool, &p->tiles, r / tokens, head, tokens, dim, &format);
            float kk[2];
            if (!tile)
                continue;
            const float *row = e_decode(tile, format, AKV_ORDER_ROW, tokens, dim, r % tokens, work);
            if (e_sums(row, NULL, akv_padded_dim(dim), kk))
                continue;
            int32_t *sum = sums[akv_score_side(format, p->k_flags)];
            const float inverse = akv_inverse_root(kk[0]);
            for (uint32_t i = 0; i < dim; i++)
                sum[i] += AKV_RINT(akv_level(akv_as_u32(row[i])) * inverse * AKV_MEAN_UNIT);
        }
    }
}

/* ---- mass: an item is one head of one block ---- */
static uint64_t mass_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_mass_params *p = args->params;
    (void)phase;
    return (uint64_t)p->kv_heads * ((p->rows + p->block_tokens - 1u) / p->block_tokens);
}

static uint64_t row_mass(const struct akv_cpu_args *args, const akv_mass_params *p, uint32_t side,
                         uint32_t head, uint32_t row, const float *key)
{
    const float *queries = (const float *)(const void *)args->arg[1];
    const float *lse = (const float *)(const void *)args->arg[2];
    const uint32_t *position = (const uint32_t *)(const void *)args->arg[3];
    const uint32_t group = p->q_heads / p->kv_heads;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->queries; i++) {
        if (row > position[i] || row < akv_attend_first(position[i], p->window))
            continue;
        for (uint32_t h = head * group; h < (head + 1u) * group; h++) {
            const float *q = queries + (((uint64_t)side * p->queries + i) * p->q_heads + h) * p->k_dim;
            float lane[16] = {0};
            for (uint32_t j = 0; j < p->k_dim; j++)
                lane[j & 15u] += q[j] * key[j];
            for (uint32_t s = 8; s > 0; s /= 2)
                for (uint32_t j = 0; j < s; j++)
                    lane[j] += lane[j + s];
            sum += (uint64_t)(uint32_t)akv_mass_of(lane[0], p->scale, p->cap,
                                                   lse[(uint64_t)i * p->q_heads + h]);
        }
    }
    return sum;
}

static void mass_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_mass_params *p = args->params;
    const uint32_t tokens = p->block_tokens;
    _Alignas(64) float work[AKV_MAX_HEAD_DIM];
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        const uint32_t b = (uint32_t)(item / p->kv_heads), head = (uint32_t)(item % p->kv_heads);
        uint32_t format;
        const uint8_t *tile = key_tile(args, &p->pool, &p->tiles, b, head, tokens, p->k_dim, &format);
        int32_t *out = (int32_t *)(void *)args->arg[4] + (uint64_t)head * p->stride;
        for (uint32_t r = b * tokens; tile && r < AKV_MIN(p->rows, (b + 1u) * tokens); r++) {
            const float *key = e_decode(tile, format, AKV_ORDER_ROW, tokens, p->k_dim, r % tokens, work);
            out[r] = akv_mass_add(out[r], row_mass(args, p, akv_score_side(format, p->k_flags), head, r, key));
        }
    }
}

/* ---- select: an item is one problem, or one head where heads do not meet ---- */
static bool together(const akv_select_params *p)
{
    return p->flags & AKV_SELECT_ADAPTIVE;
}

static uint64_t select_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_select_params *p = args->params;
    (void)phase;
    return together(p) ? p->problems : (uint64_t)p->problems * p->heads;
}

/* The key of which `want` keys (at least one) are at or above it, among keys below limit[head]. */
static uint64_t nth_key(const akv_select_params *p, const int32_t *scores, uint32_t head,
                        uint32_t heads, const uint64_t *limit, uint64_t want, uint64_t *rest_out)
{
    const uint32_t units = akv_select_units(p);
    uint64_t prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        uint64_t bins[256] = {0};
        for (uint32_t h = head; h < head + heads; h++)
            for (uint32_t u = 0; u < units; u++) {
                const uint64_t key = akv_select_key(p, scores, h, u);
                if (key < limit[h] && (shift == 56 || key >> (shift + 8) == prefix))
                    bins[key >> shift & 255u]++;
            }
        uint32_t bin = 255;
        while (bin && bins[bin] < want)
            want -= bins[bin--];
        prefix = prefix << 8 | bin;
    }
    *rest_out = want; /* how many of the equal ones, of several heads, are wanted */
    return prefix;
}

static void list_rows(const struct akv_cpu_args *args, const akv_select_params *p, uint64_t problem,
                      uint32_t head, uint64_t from)
{
    const int32_t *scores = (const int32_t *)(const void *)args->arg[0] + problem * p->heads * p->stride;
    uint32_t *kept = (uint32_t *)(void *)args->arg[1] + (problem * p->heads + head) * p->stride, n = 0;
    for (uint32_t r = 0; r < p->first; r++)
        kept[n++] = r;
    for (uint32_t u = 0; u < akv_select_units(p); u++)
        if (akv_select_key(p, scores, head, u) >= from)
            for (uint32_t i = 0; i < p->unit; i++)
                kept[n++] = p->first + u * p->unit + i;
    for (uint32_t r = p->last; r < p->rows; r++)
        kept[n++] = r;
    ((uint32_t *)(void *)args->arg[2])[problem * p->heads + head] = n;
}

static void select_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_select_params *p = args->params;
    const uint32_t units = akv_select_units(p), keep = AKV_MIN(p->keep, units);
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        const uint64_t problem = together(p) ? item : item / p->heads;
        const int32_t *scores = (const int32_t *)(const void *)args->arg[0] + problem * p->heads * p->stride;
        const uint32_t head = together(p) ? 0 : (uint32_t)(item % p->heads), heads = together(p) ? p->heads : 1;
        const uint32_t sure = together(p) ? AKV_MIN(p->least, keep) : keep;
        uint64_t from[AKV_SELECT_HEADS], rest;
        for (uint32_t h = head; h < head + heads; h++)
            from[h] = AKV_SELECT_ALL;
        for (uint32_t h = head; sure && h < head + heads; h++)
            from[h] = nth_key(p, scores, h, 1, from, sure, &rest);
        if (keep > sure) { /* the heads compete for what is left */
            const uint64_t key = nth_key(p, scores, head, heads, from, (uint64_t)(keep - sure) * heads, &rest);
            for (uint32_t h = head; h < head + heads; h++) {
                const bool equal = key < from[h] && akv_select_key(p, scores, h, akv_select_unit(key)) == key;
                from[h] = AKV_MIN(from[h], equal && rest ? key : key + 1u);
                rest -= equal && rest;
            }
        }
        for (uint32_t h = head; h < head + heads; h++)
            list_rows(args, p, problem, h, from[h]);
    }
}

/* ---- compact: an item is one head of one side (in place), or of one block of it ---- */
static uint64_t compact_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_compact_params *p = args->params;
    (void)phase;
    return 2u * (uint64_t)p->kv_heads * (p->in_place ? 1u : p->to_blocks);
}

#define AHEAD 16u /* rows that are fetched before they move: best of 8, 16 and 32 measured */
struct rows {
    const struct akv_cpu_args *args;
    const akv_compact_params *p;
    uint32_t side, head;
    const uint32_t *row; /* the sources */
    uint32_t count;
    uint32_t block; /* whose tile the last source was in */
    const uint8_t *tile;
};

static uint8_t *tile_of(const struct rows *rows, unsigned list, uint32_t block)
{
    const akv_compact_params *p = rows->p;
    const uint32_t entry = ((const uint32_t *)(const void *)rows->args->arg[list])[block];
    return akv_cpu_at(rows->args, akv_block_address(&p->pool, entry)) + p->offset[rows->side] +
           (uint64_t)rows->head * akv_tile_bytes(p->format[rows->side], p->block_tokens, p->dim[rows->side]);
}

/* Tile of row j's source; sources ascend, so it mostly is the last one's. */
static const uint8_t *source_of(struct rows *rows, uint32_t j, uint32_t *t_out)
{
    const uint32_t shift = (uint32_t)__builtin_ctz(rows->p->block_tokens), row = rows->row[j];
    if (row >> shift != rows->block) {
        rows->block = row >> shift;
        rows->tile = tile_of(rows, 0, rows->block);
    }
    *t_out = row & (rows->p->block_tokens - 1u);
    return rows->tile;
}

/* `bytes` of each row, one after the other from `at` in a tile.  The processor's own prefetching stops at
 * the end of a tile and fetches the rows that go, too. */
static void move_rows(struct rows *rows, uint32_t block, uint32_t at, uint32_t bytes)
{
    const uint32_t tokens = rows->p->block_tokens;
    uint8_t *to = tile_of(rows, 1, block) + at;
    struct rows ahead = *rows;
    for (uint32_t t = 0; t < tokens; t++, to += bytes) {
        const uint32_t j = block * tokens + t;
        if (j + AHEAD < rows->count) {
            uint32_t t_ahead;
            const uint8_t *soon = source_of(&ahead, j + AHEAD, &t_ahead) + at;
            for (uint32_t i = 0; i < bytes; i += 64u)
                __builtin_prefetch(soon + (uint64_t)t_ahead * bytes + i);
        }
        if (j >= rows->count) {
            memset(to, 0, bytes);
            continue;
        }
        uint32_t t_from;
        const uint8_t *from = source_of(rows, j, &t_from) + at;
        from += (uint64_t)t_from * bytes;
        if (from != to)
            memcpy(to, from, bytes);
    }
}

/* The sources of a quad, NULL behind the last row. */
struct quad {
    const uint8_t *tile[4];
    uint32_t t[4];
};

static bool quad_of(struct rows *rows, uint32_t j, struct quad *quad)
{
    bool moved = false;
    for (uint32_t k = 0; k < 4u; k++, j++) {
        quad->t[k] = 0;
        quad->tile[k] = j < rows->count ? source_of(rows, j, &quad->t[k]) : NULL;
        moved = moved || j >= rows->count || rows->row[j] != j || !rows->p->in_place;
    }
    return moved;
}

/* A plane of `bits` of quad q; units of `bits` words stand Q quads apart. */
static inline __attribute__((always_inline)) void
move_quad_words(const struct quad *quad, uint8_t *to, uint32_t at, const uint32_t bits, uint32_t tokens,
                uint32_t dim, uint32_t q)
{
    static const uint8_t none[4 * 8];
    const uint32_t mask = akv_quad_mask(bits), units = akv_padded_dim(dim) / 8u, step = tokens / 4u * bits * 4u;
    const uint8_t *from[4];
    uint32_t right[4];
    to += at + q * bits * 4u;
    for (uint32_t k = 0; k < 4u; k++) {
        from[k] = quad->tile[k] ? quad->tile[k] + at + (quad->t[k] >> 2) * bits * 4u : none;
        right[k] = bits * (quad->t[k] & 3u);
    }
    for (uint32_t u = 0; u < units; u++, to += step) {
        uint32_t made[8] = {0};
        for (uint32_t k = 0; k < 4u; k++) {
            uint32_t word[8];
            memcpy(word, from[k], 4u * bits);
            for (uint32_t w = 0; w < bits; w++)
                made[w] |= (word[w] >> right[k] & mask) << (bits * k);
            from[k] += quad->tile[k] ? step : 0;
        }
        memcpy(to, made, 4u * bits);
    }
}

static void move_quad_plane(const struct quad *quad, uint8_t *to, uint32_t at, uint32_t bits,
                            uint32_t tokens, uint32_t dim, uint32_t q)
{
    switch (bits) {
    case 8:
        move_quad_words(quad, to, at, 8, tokens, dim, q);
        return;
    case 4:
        move_quad_words(quad, to, at, 4, tokens, dim, q);
        return;
    case 2:
        move_quad_words(quad, to, at, 2, tokens, dim, q);
        return;
    default:
        move_quad_words(quad, to, at, 1, tokens, dim, q);
        return;
    }
}

static void move_quad_scales(const struct quad *quad, uint8_t *to, uint32_t format, uint32_t tokens,
                             uint32_t dim, uint32_t q)
{
    for (uint32_t s = 0; s < akv_scale_count(format, dim); s++)
        for (uint32_t k = 0; k < 4u; k++)
            akv_scale_put(to, format, AKV_ORDER_QUAD, tokens, dim, q * 4u + k, s,
                          quad->tile[k] ? akv_scale_get(quad->tile[k], format, AKV_ORDER_QUAD, tokens,
                                                        dim, quad->t[k], s)
                                        : 0u);
}

static void compact_block(struct rows *rows, uint32_t block)
{
    const akv_compact_params *p = rows->p;
    const uint32_t format = p->format[rows->side], dim = p->dim[rows->side], tokens = p->block_tokens;
    const uint32_t b0 = akv_format_plane0(format), b1 = akv_format_plane1(format), dp = akv_padded_dim(dim);
    uint8_t *to = tile_of(rows, 1, block);
    if (akv_row_bytes(format, dim)) {
        move_rows(rows, block, 0, akv_row_bytes(format, dim));
    } else if (rows->side == 0) {
        move_rows(rows, block, 0, dp * b0 / 8u);
        move_rows(rows, block, akv_plane1_offset(format, tokens, dim), dp * b1 / 8u);
        move_rows(rows, block, akv_scale_offset(format, tokens, dim),
                  akv_scale_count(format, dim) * akv_scale_bytes(format));
    } else {
        for (uint32_t q = 0; q < tokens / 4u; q++) {
            struct quad quad;
            if (!quad_of(rows, block * tokens + q * 4u, &quad))
                continue;
            move_quad_plane(&quad, to, 0, b0, tokens, dim, q);
            if (b1)
                move_quad_plane(&quad, to, akv_plane1_offset(format, tokens, dim), b1, tokens, dim, q);
            move_quad_scales(&quad, to, format, tokens, dim, q);
        }
    }
    akv_tile_padding(to, format, tokens, dim);
}

static void compact_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count)
{
    const akv_compact_params *p = args->params;
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        struct rows rows = {.args = args, .p = p, .head = (uint32_t)(item % p->kv_heads),
                            .side = (uint32_t)(item / p->kv_heads & 1u), .block = UINT32_MAX};
        rows.row = (const uint32_t *)(const void *)args->arg[2] + (uint64_t)rows.head * p->stride;
        rows.count = ((const uint32_t *)(const void *)args->arg[3])[rows.head];
        const uint32_t used = rows.count / p->block_tokens + (rows.count % p->block_tokens != 0);
        const uint32_t block = (uint32_t)(item / p->kv_heads / 2u);
        for (uint32_t b = p->in_place ? 0 : block; b < used && (p->in_place || b == block); b++)
            compact_block(&rows, b);
    }
}

const struct akv_cpu_kernel akv_cpu_score_scalar = {1, e_score_items, e_score_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_mean_scalar = {1, mean_items, mean_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_mass_scalar = {1, mass_items, mass_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_select_scalar = {1, select_items, select_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_compact_scalar = {1, compact_items, compact_run, NULL, NULL};
