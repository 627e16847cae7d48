/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of reencode, packed blocks to packed blocks of another kind. */
#include "verify.h"
#include <inttypes.h>
#include <stdio.h>

#define LAYERS 2u /* at most */
#define HEADS  2u

struct reencode_case {
    uint32_t source[2], format[2], dim[2], flags[2]; /* keys, values */
    uint32_t tokens, blocks, layers, heads;
    uint32_t src[LAYERS][2], dst[LAYERS][2]; /* offsets of head 0's tile */
    uint32_t src_bytes, dst_bytes;
};

/* Offsets as the engine lays blocks out, but with a gap between tiles of layers. */
static void place(struct reencode_case *c)
{
    uint32_t src = 48, dst = 16;
    for (uint32_t layer = 0; layer < c->layers; layer++)
        for (uint32_t side = 0; side < 2; side++) {
            c->src[layer][side] = src;
            c->dst[layer][side] = dst;
            src += c->heads * akv_tile_bytes(c->source[side], c->tokens, c->dim[side]) + 16u;
            dst += c->heads * akv_tile_bytes(c->format[side], c->tokens, c->dim[side]) + 16u;
        }
    c->src_bytes = src;
    c->dst_bytes = dst;
}

static void explain_reencode(const struct verify_launch *launch, uint32_t span, uint64_t offset)
{
    const struct reencode_case *c = launch->user;
    const akv_reencode_params *params = launch->params;
    if (span < AKV_MAX_ARGS)
        return;
    const akv_move *moves = launch->span[1].data;
    for (uint32_t i = 0; i < params->moves * c->layers * 2u * c->heads; i++) {
        uint32_t head = i % c->heads, side = i / c->heads % 2u;
        uint32_t layer = i / c->heads / 2u % c->layers, m = i / c->heads / 2u / c->layers;
        uint32_t each = akv_tile_bytes(c->format[side], c->tokens, c->dim[side]);
        uint64_t tile = AKV_ADDR_OFFSET(moves[m].dst) + c->dst[layer][side] + head * each;
        if (AKV_ADDR_SLAB(moves[m].dst) != span - AKV_MAX_ARGS || offset < tile ||
            offset >= tile + each)
            continue;
        fprintf(stderr,
                "  move %" PRIu32 ", layer %" PRIu32 ", %s of head %" PRIu32 ", byte %" PRIu64
                " of a %s tile of %" PRIu32 " rows made from %s\n",
                m, layer, side ? "values" : "keys", head, offset - tile,
                verify_format_name(c->format[side]), c->tokens,
                verify_format_name(c->source[side]));
        return;
    }
}

/* n rows in the source format: arbitrary codes and scales, or what the encoder makes. */
static bool make_source(struct verify *v, const struct reencode_case *c, uint32_t side, uint32_t n,
                        float *rows, void *tile, uint64_t seed)
{
    uint32_t source = c->source[side], dim = c->dim[side];
    if (seed % 3 != 0 && !akv_format_raw(source)) {
        verify_random_tile(tile, source, n, dim, &seed);
        return true;
    }
    return verify_rows(v, rows, n, dim, c->format[side], 0, AKV_F32, seed) &&
           verify_encode_rows(v, rows, AKV_F32, n, dim, source, seed % 2 ? AKV_FLAG_SEARCH : 0u,
                              tile, NULL);
}

/* The same rows in the destination format: the source's own bytes, or decoded and encoded. */
static bool make_result(struct verify *v, const struct reencode_case *c, uint32_t side, uint32_t n,
                        float *rows, const void *from, void *to, uint32_t *saw)
{
    uint32_t source = c->source[side], format = c->format[side], dim = c->dim[side], more = 0;
    if (source == format) {
        memcpy(to, from, akv_tile_bytes(format, n, dim));
        return true;
    }
    bool good = verify_decode_rows(v, from, n, dim, source, 0, AKV_F32, rows) &&
                verify_encode_rows(v, rows, AKV_F32, n, dim, format, c->flags[side], to, &more);
    *saw |= more;
    return good;
}

static void write_tile(struct verify_pool *pool, uint64_t address, const void *tile,
                       uint32_t format, uint32_t n, uint32_t dim, uint32_t first, uint32_t tokens,
                       uint32_t side, uint8_t *scratch, bool only_after)
{
    uint32_t bytes = akv_tile_bytes(format, tokens, dim);
    verify_slice(scratch, tile, format, n, dim, first, tokens);
    if (side == 1)
        verify_quad(scratch + bytes, scratch, format, tokens, dim);
    verify_pool_write(pool, address, scratch + (side == 1 ? bytes : 0), bytes, only_after);
}

/* Fills the source tiles of one side and writes what they must become. */
static bool fill_side(struct verify *v, const struct reencode_case *c, struct verify_pool *pool,
                      uint32_t side, uint64_t seed, uint32_t *saw)
{
    uint32_t dim = c->dim[side], n = c->blocks * c->layers * c->heads * c->tokens;
    uint32_t src_tile = akv_tile_bytes(c->source[side], c->tokens, dim);
    uint32_t dst_tile = akv_tile_bytes(c->format[side], c->tokens, dim);
    float *rows = verify_alloc(v, (uint64_t)n * dim * sizeof *rows);
    void *from = verify_alloc(v, akv_tile_bytes(c->source[side], n, dim));
    void *to = verify_alloc(v, akv_tile_bytes(c->format[side], n, dim));
    uint8_t *scratch = verify_alloc(v, 2u * (uint64_t)AKV_MAX(src_tile, dst_tile));
    bool good = rows && from && to && scratch && make_source(v, c, side, n, rows, from, seed) &&
                make_result(v, c, side, n, rows, from, to, saw);
    for (uint32_t i = 0; good && i < c->blocks * c->layers * c->heads; i++) {
        uint32_t block = i / (c->layers * c->heads), layer = i / c->heads % c->layers,
                 head = i % c->heads;
        uint64_t src = akv_block_address(&pool->map, pool->entry[0][block]) + c->src[layer][side] +
                       (uint64_t)head * src_tile;
        uint64_t dst = akv_block_address(&pool->map, pool->entry[1][block]) + c->dst[layer][side] +
                       (uint64_t)head * dst_tile;
        write_tile(pool, src, from, c->source[side], n, dim, i * c->tokens, c->tokens, side,
                   scratch, false);
        write_tile(pool, dst, to, c->format[side], n, dim, i * c->tokens, c->tokens, side, scratch,
                   true);
    }
    akv_free(v->context, rows);
    akv_free(v->context, from);
    akv_free(v->context, to);
    akv_free(v->context, scratch);
    return good;
}

static void reencode_case(struct verify *v, struct reencode_case *c, uint64_t elements,
                          uint64_t seed)
{
    struct verify_pool pool;
    uint32_t bytes[2] = {c->src_bytes, c->dst_bytes}, count[2] = {c->blocks, c->blocks};
    uint32_t marked = 0x40000000u, saw = marked;
    bool good = verify_pool_create(v, &pool, 2, bytes, count, &seed) &&
                fill_side(v, c, &pool, 0, verify_mix(seed, 1), &saw) &&
                fill_side(v, c, &pool, 1, verify_mix(seed, 2), &saw);
    if (good) {
        akv_seal_layer layers[LAYERS];
        for (uint32_t i = 0; i < c->layers; i++)
            layers[i] = (akv_seal_layer){.src_k = c->src[i][0],
                                         .src_v = c->src[i][1],
                                         .dst_k = c->dst[i][0],
                                         .dst_v = c->dst[i][1]};
        akv_reencode_params params = {pool.map,     c->blocks,    c->layers,    c->heads,
                                      c->tokens,    c->dim[0],    c->dim[1],    c->source[0],
                                      c->source[1], c->format[0], c->format[1], c->flags[0],
                                      c->flags[1]};
        struct verify_launch launch = {.params = &params, .explain = explain_reencode, .user = c};
        launch.span[0] = (struct verify_span){layers, NULL, c->layers * sizeof layers[0]};
        launch.span[2] = (struct verify_span){&marked, &saw, sizeof marked};
        verify_moves(v, &pool, &launch, elements);
    }
    verify_pool_destroy(v, &pool);
}

/* Both sides become the format, each from another one; raw formats come from themselves. */
void verify_reencode(struct verify *v, uint32_t format)
{
    uint32_t each = AKV_FORMATS - 1u, combinations = VERIFY_DIMS * each;
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t n = 0; n < each; n++) {
            uint32_t variant = d * each + n;
            struct reencode_case c = {0};
            for (uint32_t side = 0; side < 2; side++) {
                c.format[side] = format;
                c.source[side] = 1u + (n + side * (d + 1u)) % each;
                if (akv_format_raw(format))
                    c.source[side] = format;
                c.flags[side] = (variant / 2 + side) % 2 ? AKV_FLAG_SEARCH : 0u;
            }
            c.dim[0] = verify_dims[d];
            c.dim[1] = verify_dims[n % 2 ? d : (d + variant) % VERIFY_DIMS];
            c.layers = 1u + variant % LAYERS;
            c.heads = 1u + variant / 3u % HEADS;
            c.tokens = verify_block_tokens(variant);
            uint64_t want = verify_share(v, combinations);
            if (want < (uint64_t)c.tokens * c.layers * c.heads * (c.dim[0] + c.dim[1]))
                c.tokens = 16;
            uint32_t per_block = c.layers * c.heads * c.tokens * (c.dim[0] + c.dim[1]);
            uint32_t left = (uint32_t)((want + per_block - 1) / per_block);
            place(&c);
            for (uint32_t chunk = 0; left != 0; chunk++, left -= c.blocks) {
                c.blocks = AKV_MIN(left, AKV_MAX(1u, (1u << 22) / per_block));
                if (verify_case(v, (uint64_t)c.blocks * per_block,
                                "%s-%s-d%" PRIu32 "-d%" PRIu32 "-t%" PRIu32 "-%s-%" PRIu32,
                                verify_format_name(c.source[0]), verify_format_name(c.source[1]),
                                c.dim[0], c.dim[1], c.tokens, c.flags[0] ? "search" : "plain",
                                chunk))
                    reencode_case(v, &c, (uint64_t)c.blocks * per_block,
                                  verify_mix(v->seed, 5000u + variant + 1000u * chunk));
            }
        }
}
