/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of means and matrices, in encode, decode, seal and gather.  What must come out is what
 * the portable CPU kernel makes of the same launch; tests/test_maps.c holds that against the contract. */
#include "../lib/maps.h"
#include "verify.h"
#include <inttypes.h>

#define TOKENS 16u
#define HEADS  3u
#define BLOCKS 3u
#define LAYERS 2u

struct maps_case {
    uint32_t format, dim, dtype, search;
    uint8_t *maps; /* records: keys and values of each layer */
    uint64_t bytes;
    uint64_t state;
};

/* ---- constants ---- */

static uint16_t random_half(uint64_t *state, uint32_t exponents)
{
    uint32_t r = verify_below(state, 0x8000u * 2u), e = 14u - verify_below(state, exponents);
    return (uint16_t)((r & 0x83FFu) | e << 10);
}

static bool make_maps(struct verify *v, struct maps_case *c, uint32_t variant)
{
    uint64_t turns[AKV_MAX_HEAD_DIM / 2];
    const uint32_t dim = c->dim;
    const uint64_t row = HEADS * (uint64_t)dim;
    uint16_t *mean = verify_alloc(v, row * 2), *matrix = verify_alloc(v, row * dim * 2);
    float *inverse = verify_alloc(v, row * dim * 4);
    bool good = mean && matrix && inverse;
    for (uint32_t i = 0; i < dim / 2; i++)
        turns[i] = verify_random(&c->state);
    for (uint64_t i = 0; good && i < row; i++)
        mean[i] = random_half(&c->state, 6);
    for (uint64_t i = 0; good && i < row * dim; i++) {
        matrix[i] = random_half(&c->state, 8);
        inverse[i] = akv_as_f32((verify_below(&c->state, 1u << 23) | 0x3D000000u) ^
                                verify_below(&c->state, 2) << 31);
    }
    float scales[HEADS];
    const bool scaled = c->format == AKV_E4M3G || variant % 4 == 1;
    for (uint32_t h = 0; h < HEADS; h++)
        scales[h] = akv_as_f32((119u + verify_below(&c->state, 16)) << 23 |
                               verify_below(&c->state, 1u << 23));
    struct akv_maps maps;
    for (uint32_t write = 0; good && write < 2; write++) {
        akv_maps_begin(&maps, write ? c->maps : NULL, 2 * LAYERS);
        for (uint32_t n = 0; n < 2 * LAYERS; n++) {
            const bool key = n % 2 == 0, has_matrix = (n / 2 + variant) % 2;
            struct akv_maps_side side = {
                .transform = has_matrix ? AKV_TRANSFORM_MATRIX
                             : key      ? AKV_TRANSFORM_CENTRE
                             : scaled   ? AKV_TRANSFORM_NONE
                                        : AKV_TRANSFORM_ROTATE,
                .heads = HEADS,
                .dim = dim,
                .pairs = key ? (variant % 3 == 2 ? dim / 4 : variant % 7 == 6 ? 0 : dim / 2) : 0,
                .rope = variant / 2 % 2,
                .turns = turns,
                .mean = key ? mean : NULL,
                .matrix = has_matrix ? matrix : NULL,
                .inverse = has_matrix ? inverse : NULL,
                .scales = scaled ? scales : NULL};
            akv_maps_add(&maps, n, &side);
        }
        c->bytes = maps.bytes;
        if (!write)
            good = (c->maps = verify_alloc(v, c->bytes)) != NULL;
    }
    akv_free(v->context, mean);
    akv_free(v->context, matrix);
    akv_free(v->context, inverse);
    return good;
}

/* ---- one launch: first on the reference, then on all targets ---- */

static void compare(struct verify *v, uint64_t elements, struct verify_launch *launch)
{
    struct verify_launch first = *launch, shape[VERIFY_SHAPES];
    bool good = true;
    for (uint32_t s = 0; s < VERIFY_SPANS; s++)
        if (first.span[s].expect) {
            first.span[s].expect = verify_any;
            first.result[s] = verify_alloc(v, first.span[s].bytes);
            good = good && first.result[s];
        }
    good = good && verify_reference(v, v->kernel, &first);
    for (uint32_t s = 0; s < VERIFY_SPANS; s++)
        if (first.result[s])
            launch->span[s].expect = first.result[s];
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++)
        shape[s] = *launch;
    if (good)
        verify_compare(v, elements, shape);
    for (uint32_t s = 0; s < VERIFY_SPANS; s++)
        akv_free(v->context, first.result[s]);
}

static void codec_case(struct verify *v, struct maps_case *c, uint32_t side)
{
    const uint32_t rows = TOKENS * HEADS, tile_bytes = akv_tile_bytes(c->format, rows, c->dim);
    const bool encode = v->kernel == AKV_K_ENCODE;
    const uint64_t bytes = (uint64_t)rows * c->dim * akv_raw_bytes(c->dtype);
    static const uint32_t none = 0;
    uint8_t *dense = verify_alloc(v, bytes), *tile = verify_alloc(v, tile_bytes);
    akv_encode_params params = {{HEADS * c->dim, c->dim, c->dtype, HEADS},
                                TOKENS,
                                c->dim,
                                c->format,
                                AKV_FLAG_MAP | (encode ? c->search : 0u),
                                side * (uint32_t)sizeof(akv_map),
                                (uint32_t)verify_random(&c->state)};
    struct verify_launch launch = {.params = &params};
    bool good = dense && tile;
    if (good && encode)
        good = verify_rows(v, dense, rows, c->dim, c->format, 0, c->dtype, c->state);
    else if (good)
        verify_random_tile(tile, c->format, rows, c->dim, &c->state);
    launch.span[0] = encode ? (struct verify_span){dense, NULL, bytes}
                            : (struct verify_span){tile, NULL, tile_bytes};
    launch.span[1] = (struct verify_span){NULL, verify_any, encode ? tile_bytes : bytes};
    if (encode)
        launch.span[2] = (struct verify_span){&none, verify_any, sizeof none};
    launch.span[encode ? 3 : 2] = (struct verify_span){c->maps, NULL, c->bytes};
    if (good)
        compare(v, (uint64_t)rows * c->dim, &launch);
    akv_free(v->context, dense);
    akv_free(v->context, tile);
}

/* Blocks of two layers: 16-bit ones, and packed ones of the format on both sides. */
struct maps_blocks {
    struct verify_pool pool;
    uint32_t offset[2][LAYERS][2]; /* [kind][layer][side] */
    uint32_t tile[2];              /* [kind] */
    uint32_t bytes[2];
};

static bool make_blocks(struct verify *v, struct maps_case *c, struct maps_blocks *b)
{
    for (uint32_t kind = 0; kind < 2; kind++) {
        b->tile[kind] = akv_tile_bytes(kind ? c->format : c->dtype, TOKENS, c->dim);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t side = 0; side < 2; side++) {
                b->offset[kind][layer][side] = b->bytes[kind];
                b->bytes[kind] += HEADS * b->tile[kind];
            }
    }
    const uint32_t count[2] = {BLOCKS, BLOCKS};
    uint8_t *tile = verify_alloc(v, b->tile[0] + b->tile[1]);
    uint8_t *quad = verify_alloc(v, b->tile[1]);
    bool good = tile && quad && verify_pool_create(v, &b->pool, 2, b->bytes, count, &c->state);
    for (uint32_t n = 0; good && n < BLOCKS * LAYERS * 2 * HEADS; n++) {
        const uint32_t block = n / (LAYERS * 2 * HEADS), layer = n / (2 * HEADS) % LAYERS,
                       side = n / HEADS % 2, head = n % HEADS;
        for (uint32_t kind = 0; good && kind < 2; kind++) {
            const uint64_t at = akv_block_address(&b->pool.map, b->pool.entry[kind][block]) +
                                b->offset[kind][layer][side] + head * b->tile[kind];
            if (kind == 0) {
                good = verify_rows(v, tile, TOKENS, c->dim, c->format, 0, c->dtype,
                                   verify_mix(c->state, n));
            } else {
                verify_random_tile(tile, c->format, TOKENS, c->dim, &c->state);
                verify_quad(quad, tile, c->format, TOKENS, c->dim);
            }
            verify_pool_write(&b->pool, at, kind && side ? quad : tile, b->tile[kind], false);
        }
    }
    akv_free(v->context, tile);
    akv_free(v->context, quad);
    return good;
}

static void seal_case(struct verify *v, struct maps_case *c)
{
    static const uint32_t none = 0;
    struct maps_blocks b = {0};
    akv_move moves[BLOCKS] = {{0}};
    akv_seal_layer layers[LAYERS];
    bool good = make_blocks(v, c, &b);
    for (uint32_t i = 0; good && i < BLOCKS; i++) {
        moves[i].src = akv_block_address(&b.pool.map, b.pool.entry[0][i]);
        moves[i].dst = akv_block_address(&b.pool.map, b.pool.entry[1][i]);
        moves[i].position = (uint32_t)verify_random(&c->state) & ~15u;
    }
    for (uint32_t l = 0; l < LAYERS; l++)
        layers[l] = (akv_seal_layer){b.offset[0][l][0],
                                     b.offset[0][l][1],
                                     b.offset[1][l][0],
                                     b.offset[1][l][1],
                                     2 * l * (uint32_t)sizeof(akv_map),
                                     (2 * l + 1) * (uint32_t)sizeof(akv_map)};
    akv_seal_params params = {.pool = b.pool.map,
                              .moves = BLOCKS,
                              .layers = LAYERS,
                              .kv_heads = HEADS,
                              .block_tokens = TOKENS,
                              .k_dim = c->dim,
                              .v_dim = c->dim,
                              .hot_type = c->dtype,
                              .k_format = c->format,
                              .v_format = c->format,
                              .k_flags = AKV_FLAG_MAP | c->search,
                              .v_flags = AKV_FLAG_MAP | c->search};
    struct verify_launch launch = {.params = &params};
    launch.span[0] = (struct verify_span){layers, NULL, sizeof layers};
    launch.span[1] = (struct verify_span){moves, NULL, sizeof moves};
    launch.span[2] = (struct verify_span){&none, verify_any, sizeof none};
    launch.span[3] = (struct verify_span){c->maps, NULL, c->bytes};
    verify_pool_bind(&b.pool, &launch);
    for (uint32_t s = 0; s < launch.slabs; s++)
        launch.span[AKV_MAX_ARGS + s].expect = verify_any;
    if (good)
        compare(v, (uint64_t)BLOCKS * LAYERS * 2 * HEADS * TOKENS * c->dim, &launch);
    verify_pool_destroy(v, &b.pool);
}

static void gather_case(struct verify *v, struct maps_case *c, uint32_t side)
{
    struct maps_blocks b = {0};
    uint32_t table[BLOCKS + 1];
    bool good = make_blocks(v, c, &b);
    for (uint32_t i = 0; good && i < BLOCKS; i++)
        table[i] = b.pool.entry[i % 2 ? 0 : 1][i];
    table[BLOCKS] = AKV_NO_BLOCK;
    akv_gather_params params = {.pool = b.pool.map,
                                .rows = {HEADS * c->dim + 16, c->dim, c->dtype, HEADS},
                                .order = side ? AKV_ORDER_QUAD : AKV_ORDER_ROW,
                                .flags = AKV_FLAG_MAP,
                                .dim = c->dim,
                                .blocks = BLOCKS + 1,
                                .block_tokens = TOKENS,
                                .first_row = 3,
                                .tokens = BLOCKS * TOKENS + 4,
                                .map = side * (uint32_t)sizeof(akv_map),
                                .position = 4000 * TOKENS};
    for (uint32_t kind = 0; kind < 2; kind++) {
        params.offset[kind] = b.offset[kind][0][side];
        params.format[kind] = kind ? c->format : c->dtype;
    }
    struct verify_launch launch = {.params = &params};
    launch.span[0] = (struct verify_span){table, NULL, sizeof table};
    launch.span[1] =
        (struct verify_span){NULL, verify_any, verify_extent(&params.rows, params.tokens, c->dim)};
    launch.span[2] = (struct verify_span){c->maps, NULL, c->bytes};
    verify_pool_bind(&b.pool, &launch);
    if (good)
        compare(v, (uint64_t)params.tokens * HEADS * c->dim, &launch);
    verify_pool_destroy(v, &b.pool);
}

void verify_maps(struct verify *v, uint32_t format)
{
    const uint32_t rows = v->kernel == AKV_K_SEAL ? BLOCKS * LAYERS * 2 * HEADS * TOKENS : TOKENS * HEADS;
    for (uint32_t t = 0; t < v->targets; t++)
        if (v->target[t].planted) /* which knows no maps: its fault must show in the plain cases */
            return;
    for (uint32_t d = 0; d < VERIFY_DIMS && !akv_format_raw(format); d++)
        for (uint32_t variant = d; variant < d + 2; variant++)
            for (uint32_t side = 0; side < (v->kernel == AKV_K_SEAL ? 1u : 2u); side++) {
                struct maps_case c = {.format = format,
                                      .dim = verify_dims[d],
                                      .dtype = 1u + variant % 3u,
                                      .search = variant % 2 && akv_format_codebook(format)
                                                    ? AKV_FLAG_SEARCH
                                                    : 0u};
                if (!verify_wanted(v, d + variant + side + format))
                    continue;
                c.state = verify_mix(v->seed, 7000u + 10u * variant + side);
                if (!verify_case(v, (uint64_t)rows * c.dim, "maps-d%" PRIu32 "-%" PRIu32 "-%s", c.dim,
                                 variant, side ? "values" : "keys"))
                    continue;
                if (make_maps(v, &c, variant)) {
                    if (v->kernel == AKV_K_SEAL)
                        seal_case(v, &c);
                    else if (v->kernel == AKV_K_GATHER)
                        gather_case(v, &c, side);
                    else
                        codec_case(v, &c, side);
                }
                akv_free(v->context, c.maps);
            }
}

/* ---- keys turned to other positions ---- */

static void shift_case(struct verify *v, struct maps_case *c, uint32_t raw, uint32_t variant)
{
    static const uint32_t none = 0, how[] = {AKV_FLAG_MAP, AKV_FLAG_ROTATE, 0};
    struct maps_blocks b = {0};
    uint32_t table[2 * BLOCKS + 1];
    uint64_t phases[AKV_MAX_HEAD_DIM / 2];
    bool good = make_blocks(v, c, &b);
    for (uint32_t i = 0; good && i < 2 * BLOCKS; i++) /* of both kinds, so that some are left alone */
        table[i] = b.pool.entry[i % 2][i / 2];
    table[2 * BLOCKS] = AKV_NO_BLOCK;
    akv_shift_params params = {.pool = b.pool.map,
                               .blocks = 2 * BLOCKS + 1,
                               .kind = raw ? 0 : 1,
                               .format = raw ? c->dtype : c->format,
                               .offset = b.offset[raw ? 0 : 1][1][0],
                               .kv_heads = HEADS,
                               .block_tokens = TOKENS,
                               .dim = c->dim,
                               .flags = raw ? 0 : how[variant % 3] | c->search,
                               .map = 2 * (uint32_t)sizeof(akv_map), /* keys of layer 1 */
                               .pairs = variant % 4 == 3 ? c->dim / 4 : c->dim / 2,
                               .rope = variant / 3 % 2};
    for (uint32_t i = 0; i < params.pairs; i++)
        phases[i] = verify_random(&c->state);
    struct verify_launch launch = {.params = &params};
    launch.span[0] = (struct verify_span){table, NULL, sizeof table};
    launch.span[1] = (struct verify_span){&none, verify_any, sizeof none};
    launch.span[2] = (struct verify_span){c->maps, NULL, c->bytes};
    launch.span[3] = (struct verify_span){phases, NULL, params.pairs * sizeof phases[0]};
    verify_pool_bind(&b.pool, &launch);
    for (uint32_t s = 0; s < launch.slabs; s++)
        launch.span[AKV_MAX_ARGS + s].expect = verify_any;
    if (good)
        compare(v, (uint64_t)BLOCKS * HEADS * TOKENS * c->dim, &launch);
    verify_pool_destroy(v, &b.pool);
}

void verify_shift(struct verify *v, uint32_t format)
{
    for (uint32_t d = 0; d < VERIFY_DIMS; d++)
        for (uint32_t n = 0; n < 3; n++) {
            const uint32_t raw = akv_format_raw(format), variant = 3 * d + n;
            struct maps_case c = {.format = raw ? AKV_N4 : format,
                                  .dim = verify_dims[d],
                                  .dtype = raw ? format : 1u + variant % 3u,
                                  .search = variant / 3 % 2 && akv_format_codebook(format)
                                                ? AKV_FLAG_SEARCH
                                                : 0u};
            if ((raw && n) || !verify_wanted(v, d + n + format))
                continue;
            c.state = verify_mix(v->seed, 9000u + variant);
            if (!verify_case(v, (uint64_t)BLOCKS * HEADS * TOKENS * c.dim, "d%" PRIu32 "-%s-%" PRIu32,
                             c.dim, raw ? "raw" : n == 0 ? "map" : n == 1 ? "rotate" : "plain", variant))
                continue;
            if (make_maps(v, &c, variant))
                shift_case(v, &c, raw, variant);
            akv_free(v->context, c.maps);
        }
}
