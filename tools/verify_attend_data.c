/* SPDX-License-Identifier: Apache-2.0 */
/* verify: keys, values, queries, masks and blocks of one case of attention. */
#include "verify_attend.h"
#include <math.h>

/* Standard normal, from two uniforms (Box and Muller). */
static float normal(uint64_t *state)
{
    double u = ((double)(verify_random(state) >> 11) + 0.5) * 0x1p-53;
    double w = (double)(verify_random(state) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * w));
}

/* Rows as a model makes them: a few large channels in the keys. */
static void fill_rows(const struct attend_case *c, uint32_t side, float *rows, uint32_t n,
                      uint64_t *state)
{
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t i = 0; i < c->dim[side]; i++)
            rows[(uint64_t)r * c->dim[side] + i] =
                normal(state) * (side == 0 && i % 29 == 3 ? 4.0f : 1.0f) +
                (i % 7 == 1 ? 0.5f : 0.0f);
}

/* Which blocks are packed, hot or not held.  New tokens' blocks are hot. */
static void deal_blocks(struct attend_case *c, const struct verify_pool *pool, uint64_t *state)
{
    uint32_t hot = 0, packed = 0, lowered = 0;
    for (uint32_t s = 0; s < c->sequences; s++)
        for (uint32_t b = 0; b < attend_blocks_of(c, s); b++) {
            uint32_t *entry = &c->entry[c->first_block[s] + b], dice = verify_below(state, 16);
            if (b >= c->length[s] / c->block_tokens || dice < 3)
                *entry = pool->entry[0][hot++];
            else if (c->holes && dice < 6)
                *entry = AKV_NO_BLOCK;
            else if (c->lower && dice % 2)
                *entry = pool->entry[2][lowered++];
            else
                *entry = pool->entry[1][packed++];
        }
}

/* Rows of block b behind the end of its sequence: what a block holds there is nobody's. */
static uint32_t rows_used(const struct attend_case *c, uint32_t block)
{
    uint32_t s = 0;
    while (s + 1 < c->sequences && c->first_block[s + 1] <= block)
        s++;
    uint32_t start = (block - c->first_block[s]) * c->block_tokens;
    uint32_t left = c->length[s] + c->count[s] - start;
    return AKV_MIN(left, c->block_tokens);
}

static void write_tiles(const struct attend_case *c, struct verify_pool *pool, uint32_t side,
                        const uint32_t *offset, uint8_t *const all[ATTEND_KINDS], uint8_t *tile,
                        uint8_t *quad)
{
    uint32_t n = c->blocks * c->kv_heads * c->block_tokens, dim = c->dim[side];
    for (uint32_t b = 0; b < c->blocks; b++) {
        if (c->entry[b] == AKV_NO_BLOCK)
            continue;
        uint32_t kind = c->entry[b] >> 28, format = attend_format(c, kind, side);
        uint32_t bytes = akv_tile_bytes(format, c->block_tokens, dim);
        for (uint32_t h = 0; h < c->kv_heads; h++) {
            uint32_t first = (b * c->kv_heads + h) * c->block_tokens;
            if (c->map && kind)
                memcpy(tile, all[kind] + ((uint64_t)b * c->kv_heads + h) * bytes, bytes);
            else
                verify_slice(tile, all[kind], format, n, dim, first, c->block_tokens);
            if (kind == 0) {
                uint64_t used = (uint64_t)rows_used(c, b) * dim * akv_raw_bytes(format);
                memset(tile + used, 0xFF, bytes - used);
            }
            verify_quad(quad, tile, format, c->block_tokens, dim);
            verify_pool_write(pool,
                              akv_block_address(&pool->map, c->entry[b]) + offset[kind] + h * bytes,
                              side ? quad : tile, bytes, false);
        }
    }
}

/* Encodes the rows of one side both ways and keeps of each block what its kind decodes to. */
static bool make_side(struct verify *v, struct attend_case *c, struct verify_pool *pool,
                      uint32_t side, const uint32_t *offset, uint64_t *state)
{
    uint32_t n = c->blocks * c->kv_heads * c->block_tokens, dim = c->dim[side];
    uint64_t row_floats = (uint64_t)c->kv_heads * c->block_tokens * dim;
    uint8_t *all[ATTEND_KINDS] = {NULL, NULL, NULL},
            *tile = verify_alloc(v, 4ull * c->block_tokens * (dim + 32) + 64);
    uint8_t *quad = verify_alloc(v, 4ull * c->block_tokens * (dim + 32) + 64);
    float *rows = verify_alloc(v, 4ull * n * dim), *decoded = verify_alloc(v, 4ull * n * dim);
    c->row[side] = verify_alloc(v, 4ull * n * dim);
    bool good = tile && quad && rows && decoded && c->row[side];
    if (good)
        fill_rows(c, side, rows, n, state);
    for (uint32_t kind = 0; good && kind < attend_kinds(c); kind++) {
        const uint32_t format = attend_format(c, kind, side), flags = kind ? c->rotate[side] : 0;
        const bool map = c->map && kind;
        all[kind] = verify_alloc(v, map ? (uint64_t)akv_tile_bytes(format, c->block_tokens, dim) * c->blocks * c->kv_heads
                                        : akv_tile_bytes(format, n, dim));
        good = all[kind] != NULL;
        if (good && map)
            good = attend_map_rows(v, c, side, format, rows, all[kind], decoded);
        else if (good)
            good = verify_encode_rows(v, rows, AKV_F32, n, dim, format, flags, all[kind], NULL) &&
                   verify_decode_rows(v, all[kind], n, dim, format, flags, AKV_F32, decoded);
        for (uint32_t b = 0; good && b < c->blocks; b++)
            if (c->entry[b] != AKV_NO_BLOCK && c->entry[b] >> 28 == kind)
                memcpy(c->row[side] + b * row_floats, decoded + b * row_floats, 4 * row_floats);
    }
    if (good)
        write_tiles(c, pool, side, offset, all, tile, quad);
    akv_free(v->context, tile);
    akv_free(v->context, quad);
    akv_free(v->context, rows);
    akv_free(v->context, decoded);
    for (uint32_t kind = 0; kind < ATTEND_KINDS; kind++)
        akv_free(v->context, all[kind]);
    return good;
}

static bool make_queries(struct verify *v, struct attend_case *c, uint64_t *state)
{
    uint32_t n = c->tokens * c->q_heads, dim = c->dim[0];
    float *wide = verify_alloc(v, 4ull * n * dim);
    c->q = verify_alloc(v, 4ull * n * dim);
    c->q_raw = verify_alloc(v, 4ull * n * dim + 16);
    c->mask = verify_alloc(v, 4ull * c->tokens * c->mask_stride);
    c->sinks = verify_alloc(v, 4ull * c->q_heads);
    bool good = wide && c->q && c->q_raw && c->mask && c->sinks;
    for (uint64_t i = 0; good && i < (uint64_t)n * dim; i++)
        wide[i] = normal(state) * (i / dim % 3 == 0 ? 2.0f : 0.7f);
    good = good && verify_encode_rows(v, wide, AKV_F32, n, dim, c->q_dtype, 0, c->q_raw, NULL) &&
           verify_decode_rows(v, c->q_raw, n, dim, c->q_dtype, 0, AKV_F32, c->q);
    for (uint32_t i = 0; good && i < c->tokens * c->mask_stride; i++)
        c->mask[i] = verify_below(state, 3) == 0 ? -INFINITY : normal(state);
    for (uint32_t h = 0; good && h < c->q_heads; h++)
        c->sinks[h] = normal(state);
    akv_free(v->context, wide);
    return good;
}

bool attend_data(struct verify *v, struct attend_case *c, struct verify_pool *pool,
                 akv_tile_map *tiles)
{
    uint64_t state = c->seed;
    uint32_t bytes[ATTEND_KINDS], offset[2][ATTEND_KINDS];
    c->blocks = 0;
    c->tokens = 0;
    c->mask_stride = 1;
    for (uint32_t s = 0; s < c->sequences; s++) {
        c->first_block[s] = c->blocks;
        c->blocks += attend_blocks_of(c, s);
        c->tokens += c->count[s];
        c->mask_stride = AKV_MAX(c->mask_stride, c->count[s] + 2);
    }
    memset(tiles, 0, sizeof *tiles);
    for (uint32_t kind = 0; kind < attend_kinds(c); kind++) {
        tiles->k_format[kind] = attend_format(c, kind, 0);
        tiles->v_format[kind] = attend_format(c, kind, 1);
        tiles->k_offset[kind] = 32;
        tiles->v_offset[kind] =
            48 + c->kv_heads * akv_tile_bytes(tiles->k_format[kind], c->block_tokens, c->dim[0]);
        bytes[kind] =
            tiles->v_offset[kind] + 16 +
            c->kv_heads * akv_tile_bytes(tiles->v_format[kind], c->block_tokens, c->dim[1]);
        offset[0][kind] = tiles->k_offset[kind];
        offset[1][kind] = tiles->v_offset[kind];
    }
    uint32_t count[ATTEND_KINDS] = {c->blocks, c->blocks, c->blocks};
    bool good = verify_pool_create(v, pool, attend_kinds(c), bytes, count, &state);
    c->entry = verify_alloc(v, c->blocks * sizeof(uint32_t));
    if (!good || !c->entry)
        return false;
    deal_blocks(c, pool, &state);
    if (c->map && !attend_maps(v, c, &state))
        return false;
    return make_side(v, c, pool, 0, offset[0], &state) &&
           make_side(v, c, pool, 1, offset[1], &state) && make_queries(v, c, &state) &&
           attend_reference(v, c);
}

void attend_data_free(struct verify *v, struct attend_case *c, struct verify_pool *pool)
{
    void *const memory[] = {c->entry, c->row[0], c->row[1], c->q,     c->mask, c->sinks,
                            c->q_raw, c->out,    c->lse,    c->worth, c->maps};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        akv_free(v->context, memory[i]);
    verify_pool_destroy(v, pool);
}
