/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of seal, 16-bit blocks to packed blocks. */
#include "verify.h"
#include <inttypes.h>
#include <stdio.h>

#define LAYERS 2u /* at most */
#define HEADS  2u

struct seal_case {
    uint32_t format[2], dim[2], flags[2]; /* keys, values */
    uint32_t hot, tokens, blocks, layers, heads;
    uint32_t src[LAYERS][2], dst[LAYERS][2]; /* offsets of head 0's tile */
    uint32_t hot_bytes, packed_bytes;
};

/* Offsets as the engine lays blocks out, but with a gap between tiles of layers. */
static void place(struct seal_case *c)
{
    uint32_t hot = 16, packed = 32;
    for (uint32_t layer = 0; layer < c->layers; layer++)
        for (uint32_t side = 0; side < 2; side++) {
            c->src[layer][side] = hot;
            c->dst[layer][side] = packed;
            hot += c->heads * akv_tile_bytes(c->hot, c->tokens, c->dim[side]) + 16u;
            packed += c->heads * akv_tile_bytes(c->format[side], c->tokens, c->dim[side]) + 16u;
        }
    c->hot_bytes = hot;
    c->packed_bytes = packed;
}

static void explain_seal(const struct verify_launch *launch, uint32_t span, uint64_t offset)
{
    const struct seal_case *c = launch->user;
    const akv_seal_params *params = launch->params;
    if (span < AKV_MAX_ARGS)
        return;
    const akv_move *moves = launch->span[1].data;
    for (uint32_t m = 0; m < params->moves; m++) {
        uint64_t at = AKV_ADDR_OFFSET(moves[m].dst);
        if (AKV_ADDR_SLAB(moves[m].dst) != span - AKV_MAX_ARGS || offset < at ||
            offset >= at + c->packed_bytes)
            continue;
        for (uint32_t i = 0; i < c->layers * 2u * c->heads; i++) {
            uint32_t layer = i / (2u * c->heads), side = i / c->heads % 2u, head = i % c->heads;
            uint32_t each = akv_tile_bytes(c->format[side], c->tokens, c->dim[side]);
            uint64_t tile = at + c->dst[layer][side] + head * each;
            if (offset < tile || offset >= tile + each)
                continue;
            fprintf(stderr,
                    "  move %" PRIu32 ", layer %" PRIu32 ", %s of head %" PRIu32 ", byte %" PRIu64
                    " of a %s tile of %" PRIu32 " rows\n",
                    m, layer, side ? "values" : "keys", head, offset - tile,
                    verify_format_name(c->format[side]), c->tokens);
            return;
        }
    }
}

/* Fills the hot blocks' tiles of one side and writes what they must become. */
static bool fill_side(struct verify *v, const struct seal_case *c, struct verify_pool *pool,
                      uint32_t side, uint64_t seed, uint32_t *saw)
{
    uint32_t dim = c->dim[side], n = c->blocks * c->layers * c->heads * c->tokens, more = 0;
    uint32_t hot_tile = akv_tile_bytes(c->hot, c->tokens, dim);
    uint32_t packed_tile = akv_tile_bytes(c->format[side], c->tokens, dim);
    uint64_t tile_rows = (uint64_t)c->tokens * dim * akv_raw_bytes(c->hot);
    uint8_t *rows = verify_alloc(v, (uint64_t)n * dim * akv_raw_bytes(c->hot));
    uint8_t *all = verify_alloc(v, akv_tile_bytes(c->format[side], n, dim));
    uint8_t *slice = verify_alloc(v, packed_tile), *quad = verify_alloc(v, packed_tile);
    bool good =
        rows && all && slice && quad &&
        verify_rows(v, rows, n, dim, c->format[side], c->flags[side], c->hot, seed) &&
        verify_encode_rows(v, rows, c->hot, n, dim, c->format[side], c->flags[side], all, &more);
    for (uint32_t i = 0; good && i < c->blocks * c->layers * c->heads; i++) {
        uint32_t block = i / (c->layers * c->heads), layer = i / c->heads % c->layers,
                 head = i % c->heads;
        uint64_t src = akv_block_address(&pool->map, pool->entry[0][block]) + c->src[layer][side] +
                       (uint64_t)head * hot_tile;
        uint64_t dst = akv_block_address(&pool->map, pool->entry[1][block]) + c->dst[layer][side] +
                       (uint64_t)head * packed_tile;
        verify_pool_write(pool, src, rows + i * tile_rows, tile_rows, false);
        verify_slice(slice, all, c->format[side], n, dim, i * c->tokens, c->tokens);
        if (side == 1)
            verify_quad(quad, slice, c->format[side], c->tokens, dim);
        verify_pool_write(pool, dst, side == 1 ? quad : slice, packed_tile, true);
    }
    *saw |= more;
    akv_free(v->context, rows);
    akv_free(v->context, all);
    akv_free(v->context, slice);
    akv_free(v->context, quad);
    return good;
}

static void seal_case(struct verify *v, struct seal_case *c, uint64_t elements, uint64_t seed)
{
    struct verify_pool pool;
    uint32_t bytes[2] = {c->hot_bytes, c->packed_bytes}, count[2] = {c->blocks, c->blocks};
    uint32_t marked = 0x80000000u, saw = marked;
    bool good = verify_pool_create(v, &pool, 2, bytes, count, &seed) &&
                fill_side(v, c, &pool, 0, verify_mix(seed, 1), &saw) &&
                fill_side(v, c, &pool, 1, verify_mix(seed, 2), &saw);
    if (good) {
        akv_seal_layer layers[LAYERS];
        for (uint32_t i = 0; i < c->layers; i++)
            layers[i] = (akv_seal_layer){c->src[i][0], c->src[i][1], c->dst[i][0], c->dst[i][1],
                                         0,            0};
        akv_seal_params params = {pool.map,    c->blocks,   c->layers, c->heads,     c->tokens,
                                  c->dim[0],   c->dim[1],   c->hot,    c->format[0], c->format[1],
                                  c->flags[0], c->flags[1], 0};
        struct verify_launch launch = {.params = &params, .explain = explain_seal, .user = c};
        launch.span[0] = (struct verify_span){layers, NULL, c->layers * sizeof layers[0]};
        launch.span[2] = (struct verify_span){&marked, &saw, sizeof marked};
        verify_moves(v, &pool, &launch, elements);
    }
    verify_pool_destroy(v, &pool);
}

/* Keys and values both in the format, then each side alone with another format on the other one. */
void verify_seal(struct verify *v, uint32_t format)
{
    uint32_t combinations = VERIFY_DIMS * 3 * 3, variant = 0;
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t hot = AKV_F32; hot <= AKV_BF16; hot++)
            for (uint32_t pair = 0; pair < 3; pair++, variant++) {
                uint32_t other = 1u + (format + variant) % (AKV_FORMATS - 1u);
                struct seal_case c = {0};
                if (!verify_wanted(v, variant + variant / 9 + format))
                    continue;
                c.format[0] = pair == 2 ? other : format;
                c.format[1] = pair == 1 ? other : format;
                c.dim[0] = verify_dims[d];
                c.dim[1] = verify_dims[pair == 0 ? d : (d + variant) % VERIFY_DIMS];
                for (uint32_t side = 0; side < 2; side++) {
                    /* A raw side may come with flags set: they say nothing about it. */
                    c.flags[side] = (variant + side) % 2 ? AKV_FLAG_ROTATE : 0u;
                    c.flags[side] |= (variant / 2 + side) % 2 ? AKV_FLAG_SEARCH : 0u;
                }
                c.hot = hot;
                c.layers = 1u + variant % LAYERS;
                c.heads = 1u + variant / 3u % HEADS;
                c.tokens = verify_block_tokens(variant);
                uint64_t want = verify_share(v, combinations);
                if (want < (uint64_t)c.tokens * c.layers * c.heads * c.dim[0])
                    c.tokens = 16;
                uint32_t per_block = 0;
                for (uint32_t side = 0; side < 2; side++)
                    if (c.format[side] == format)
                        per_block += c.layers * c.heads * c.tokens * c.dim[side];
                if (per_block == 0)
                    continue; /* neither side has the format of this row */
                uint32_t left = (uint32_t)((want + per_block - 1) / per_block);
                place(&c);
                for (uint32_t chunk = 0; left != 0; chunk++, left -= c.blocks) {
                    c.blocks = AKV_MIN(left, AKV_MAX(1u, (1u << 22) / per_block));
                    if (verify_case(v, (uint64_t)c.blocks * per_block,
                                    "%s-%s-%s-d%" PRIu32 "-d%" PRIu32 "-t%" PRIu32 "-%" PRIu32,
                                    verify_format_name(c.format[0]),
                                    verify_format_name(c.format[1]), verify_format_name(hot),
                                    c.dim[0], c.dim[1], c.tokens, chunk))
                        seal_case(v, &c, (uint64_t)c.blocks * per_block,
                                  verify_mix(v->seed, 3000u + variant + 1000u * chunk));
                }
            }
}
