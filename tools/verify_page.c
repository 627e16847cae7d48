/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of gather and copy.  append: verify_append.c. */
#include "verify.h"
#include <inttypes.h>
#include <stdio.h>

#define HEADS 2u

/* ---- gather ---- */

struct gather_case {
    uint32_t format[3]; /* of the kinds: hot, the row's format, another one */
    uint32_t offset[3], bytes[3], count[3];
    uint32_t order, dim, dtype, flags, tokens, blocks, wanted_rows;
};

static void explain_gather(const struct verify_launch *launch, uint32_t span, uint64_t offset)
{
    const akv_gather_params *params = launch->params;
    if (span != 1)
        return;
    uint64_t element = offset / akv_raw_bytes(params->rows.dtype);
    const uint32_t *table = launch->span[0].data;
    uint64_t row = element / params->rows.token_stride; /* tokens are the outer dimension here */
    uint64_t block = (row + params->first_row) / params->block_tokens;
    fprintf(stderr, "  output row %" PRIu64 ", element %" PRIu64 " behind its start", row,
            element % params->rows.token_stride);
    if (block < params->blocks)
        fprintf(stderr, "; block %" PRIu64 ", format %s", block,
                verify_format_name(params->format[table[block] >> 28]));
    fprintf(stderr, "\n");
}

/* Makes `count` blocks of a kind: every head's tile of arbitrary codes, and the rows they decode
 * to, written to rows[block of the table][token][head][dim] for the blocks of this kind. */
static bool fill_kind(struct verify *v, const struct gather_case *c, struct verify_pool *pool,
                      uint32_t kind, const uint32_t *table, uint8_t *rows, uint64_t seed)
{
    uint32_t format = c->format[kind], n = c->count[kind] * HEADS * c->tokens;
    uint32_t tile_bytes = akv_tile_bytes(format, c->tokens, c->dim);
    uint64_t row_bytes = (uint64_t)c->dim * akv_raw_bytes(c->dtype);
    uint32_t flags = kind == 0 ? 0u : c->flags;
    if (n == 0)
        return true;
    uint8_t *all = verify_alloc(v, akv_tile_bytes(format, n, c->dim));
    uint8_t *decoded = verify_alloc(v, n * row_bytes);
    uint8_t *slice = verify_alloc(v, tile_bytes), *quad = verify_alloc(v, tile_bytes);
    bool good = all && decoded && slice && quad;
    if (good) {
        verify_random_tile(all, format, n, c->dim, &seed);
        good = verify_decode_rows(v, all, n, c->dim, format, flags, c->dtype, decoded);
    }
    for (uint32_t b = 0, made = 0; good && b < c->blocks; b++) {
        if (table[b] >> 28 != kind)
            continue;
        for (uint32_t h = 0; h < HEADS; h++, made++) {
            uint64_t at = akv_block_address(&pool->map, table[b]) + c->offset[kind] +
                          (uint64_t)h * tile_bytes;
            verify_slice(slice, all, format, n, c->dim, made * c->tokens, c->tokens);
            if (c->order == AKV_ORDER_QUAD)
                verify_quad(quad, slice, format, c->tokens, c->dim);
            verify_pool_write(pool, at, c->order == AKV_ORDER_QUAD ? quad : slice, tile_bytes,
                              false);
            for (uint32_t t = 0; t < c->tokens; t++)
                memcpy(rows + (((uint64_t)b * c->tokens + t) * HEADS + h) * row_bytes,
                       decoded + ((uint64_t)made * c->tokens + t) * row_bytes, row_bytes);
        }
    }
    akv_free(v->context, all);
    akv_free(v->context, decoded);
    akv_free(v->context, slice);
    akv_free(v->context, quad);
    return good;
}

static void gather_shapes(struct verify *v, const struct gather_case *c,
                          const struct verify_pool *pool, const uint32_t *table,
                          const uint8_t *rows, uint64_t elements, uint64_t seed)
{
    uint32_t first = verify_below(&seed, c->tokens);
    uint32_t tokens = c->blocks * c->tokens - first;
    tokens -= verify_below(&seed, AKV_MIN(tokens, c->tokens));
    uint64_t row_bytes = (uint64_t)HEADS * c->dim * akv_raw_bytes(c->dtype);
    akv_gather_params params[VERIFY_SHAPES] = {0};
    uint8_t *image[VERIFY_SHAPES] = {NULL};
    struct verify_launch shape[VERIFY_SHAPES] = {0};
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        params[s] = (akv_gather_params){.pool = pool->map,
                                        .rows = {HEADS * c->dim, c->dim, c->dtype, HEADS},
                                        .order = c->order,
                                        .flags = c->flags,
                                        .dim = c->dim,
                                        .blocks = c->blocks,
                                        .block_tokens = c->tokens,
                                        .first_row = first,
                                        .tokens = tokens};
        if (s == 1) {
            params[s].rows.head_stride = c->dim + 3u;
            params[s].rows.token_stride = HEADS * (c->dim + 3u) + 5u;
        }
        for (uint32_t k = 0; k < 3; k++) {
            params[s].offset[k] = c->offset[k];
            params[s].format[k] = c->format[k];
        }
        uint64_t extent = verify_extent(&params[s].rows, tokens, c->dim);
        image[s] = verify_alloc(v, extent);
        if (image[s]) {
            verify_fill_pattern(image[s], extent);
            verify_spread(image[s], &params[s].rows, rows + first * row_bytes, tokens, c->dim);
        }
        shape[s].params = &params[s];
        shape[s].span[0] = (struct verify_span){table, NULL, c->blocks * sizeof(uint32_t)};
        shape[s].span[1] = (struct verify_span){NULL, image[s], extent};
        verify_pool_bind(pool, &shape[s]);
        shape[s].explain = explain_gather;
    }
    if (image[0] && image[1])
        verify_compare(v, elements, shape);
    akv_free(v->context, image[0]);
    akv_free(v->context, image[1]);
}

static void gather_case(struct verify *v, struct gather_case *c, uint64_t elements, uint64_t seed)
{
    struct verify_pool pool;
    uint32_t *table = verify_alloc(v, c->blocks * sizeof(uint32_t)), b = 0;
    uint64_t row_bytes = (uint64_t)c->dim * akv_raw_bytes(c->dtype);
    uint8_t *rows = verify_alloc(v, (uint64_t)c->blocks * c->tokens * HEADS * row_bytes);
    bool good = verify_pool_create(v, &pool, 3, c->bytes, c->count, &seed) && table && rows;
    for (uint32_t k = 0; good && k < 3; k++)
        for (uint32_t i = 0; i < c->count[k]; i++)
            table[b++] = pool.entry[k][i];
    if (good)
        verify_shuffle(table, c->blocks, &seed);
    for (uint32_t k = 0; good && k < 3; k++)
        good = fill_kind(v, c, &pool, k, table, rows, verify_mix(seed, k));
    if (good)
        gather_shapes(v, c, &pool, table, rows, elements, seed);
    akv_free(v->context, table);
    akv_free(v->context, rows);
    verify_pool_destroy(v, &pool);
}

void verify_gather(struct verify *v, uint32_t format)
{
    uint32_t rotates = akv_format_raw(format) ? 1 : 2, variant = 0;
    uint32_t combinations = VERIFY_DIMS * 2 * 3 * rotates;
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t i = 0; i < 6 * rotates; i++, variant++) {
            struct gather_case c = {0};
            c.format[0] = AKV_F32 + variant % 3u;
            c.format[1] = format;
            c.format[2] = 1u + (format + variant) % (AKV_FORMATS - 1u);
            c.order = i % 2 ? AKV_ORDER_QUAD : AKV_ORDER_ROW;
            c.dtype = AKV_F32 + i / 2 % 3u;
            c.flags = i / 6 ? AKV_FLAG_ROTATE : 0u;
            c.dim = verify_dims[d];
            c.tokens = verify_block_tokens(variant);
            uint64_t want = verify_share(v, combinations),
                     block = (uint64_t)HEADS * c.tokens * c.dim;
            if (want < block)
                c.tokens = 16, block = HEADS * 16ull * c.dim;
            for (uint32_t k = 0; k < 3; k++) {
                c.offset[k] = 16u * (1u + k);
                c.bytes[k] =
                    c.offset[k] + HEADS * akv_tile_bytes(c.format[k], c.tokens, c.dim) + 16u;
            }
            uint32_t left = (uint32_t)((want + block - 1) / block);
            for (uint32_t chunk = 0; left != 0; chunk++, left -= c.count[1]) {
                c.count[1] = AKV_MIN(left, AKV_MAX(1u, (uint32_t)((1u << 21) / block)));
                c.count[0] = 1 + c.count[1] / 4;
                c.count[2] = 1 + c.count[1] / 5;
                c.blocks = c.count[0] + c.count[1] + c.count[2];
                if (verify_case(
                        v, c.count[1] * block, "d%" PRIu32 "-%s-%s%s-t%" PRIu32 "-%s-%s-%" PRIu32,
                        c.dim, c.order == AKV_ORDER_QUAD ? "values" : "keys",
                        verify_format_name(c.dtype), c.flags & AKV_FLAG_ROTATE ? "-rotate" : "",
                        c.tokens, verify_format_name(c.format[0]), verify_format_name(c.format[2]),
                        chunk))
                    gather_case(v, &c, c.count[1] * block,
                                verify_mix(v->seed, 4000u + variant + 1000u * chunk));
            }
        }
}

/* ---- copy ---- */

static void copy_case(struct verify *v, uint32_t direction, uint32_t bytes, uint32_t moves,
                      uint64_t seed)
{
    struct verify_pool pool;
    uint32_t both = direction == AKV_COPY_POOL_POOL ? 2u : 1u;
    uint32_t count = moves * both;
    bool good = verify_pool_create(v, &pool, 1, &bytes, &count, &seed);
    uint64_t linear_bytes = (uint64_t)bytes * moves + 16;
    uint8_t *before = verify_alloc(v, linear_bytes), *after = verify_alloc(v, linear_bytes);
    akv_move *list = verify_alloc(v, moves * sizeof *list);
    uint32_t *order = verify_alloc(v, moves * sizeof *order);
    if (good && before && after && list && order) {
        for (uint32_t s = 0; s < pool.map.slabs; s++)
            for (uint64_t i = 0; i < pool.slab_bytes; i++)
                pool.before[s][i] = pool.after[s][i] = (uint8_t)(verify_random(&seed) >> 32);
        for (uint64_t i = 0; i < linear_bytes; i++)
            before[i] = after[i] = (uint8_t)(verify_random(&seed) >> 32);
        for (uint32_t m = 0; m < moves; m++)
            order[m] = m;
        verify_shuffle(order, moves, &seed);
        for (uint32_t m = 0; m < moves; m++) {
            uint64_t a = akv_block_address(&pool.map, pool.entry[0][m]),
                     line = 16 + (uint64_t)order[m] * bytes;
            const uint8_t *block = pool.before[AKV_ADDR_SLAB(a)] + AKV_ADDR_OFFSET(a);
            list[m].src = direction == AKV_COPY_LINEAR_POOL ? line : a;
            list[m].dst = direction == AKV_COPY_POOL_LINEAR ? line : a;
            if (direction == AKV_COPY_POOL_POOL)
                list[m].dst = akv_block_address(&pool.map, pool.entry[0][moves + m]);
            if (direction == AKV_COPY_POOL_LINEAR)
                memcpy(after + line, block, bytes);
            else
                verify_pool_write(&pool, list[m].dst,
                                  direction == AKV_COPY_POOL_POOL ? block : before + line, bytes,
                                  true);
        }
        akv_copy_params params = {pool.map, moves, bytes, direction, 0};
        struct verify_launch launch = {.params = &params};
        launch.span[0] = (struct verify_span){list, NULL, moves * sizeof *list};
        if (direction != AKV_COPY_POOL_POOL)
            launch.span[1] = (struct verify_span){before, after, linear_bytes};
        verify_pool_bind(&pool, &launch);
        struct verify_launch shape[VERIFY_SHAPES] = {launch, launch};
        verify_compare(v, (uint64_t)moves * bytes, shape);
    }
    akv_free(v->context, before);
    akv_free(v->context, after);
    akv_free(v->context, list);
    akv_free(v->context, order);
    verify_pool_destroy(v, &pool);
}

void verify_copy(struct verify *v, uint32_t format)
{
    static const uint32_t sizes[] = {16, 48, 272, 4096, 18448, 65552};
    static const char *const directions[] = {"pool-pool", "pool-linear", "linear-pool"};
    (void)format;
    for (uint32_t i = 0; i < 6; i++)
        for (uint32_t direction = 0; direction < 3; direction++) {
            uint64_t want = verify_share(v, 18);
            uint32_t left = (uint32_t)((want + sizes[i] - 1) / sizes[i]), moves;
            for (uint32_t chunk = 0; left != 0; chunk++, left -= moves) {
                moves = AKV_MIN(left, AKV_MAX(1u, (1u << 21) / sizes[i]));
                if (verify_case(v, (uint64_t)moves * sizes[i], "%s-%" PRIu32 "-%" PRIu32,
                                directions[direction], sizes[i], chunk))
                    copy_case(v, direction, sizes[i], moves,
                              verify_mix(v->seed, 5000u + 3u * i + direction + 100u * chunk));
            }
        }
}
