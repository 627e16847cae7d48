/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts: every field refused with its name, all errors at once, groups, geometry, identity. */
#include "engine.h"

static anykv_layout_options good_options(void)
{
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    options.weights = "weights";
    options.weights_bytes = 7;
    return options;
}

static void digest_of(const anykv_layer *layers, uint32_t count,
                      const anykv_layout_options *options, uint8_t digest[32])
{
    anykv_context *context = house_context();
    anykv_layout *layout;
    OK(anykv_layout_create(context, layers, count, options, &layout));
    OK(anykv_layout_identity(layout, digest));
    anykv_layout_destroy(layout);
    anykv_context_destroy(context);
}

/* Sets one field of the second of two layers, and expects a refusal that names it. */
#define LAYER_REFUSED(text, ...)                                                                   \
    do {                                                                                           \
        anykv_layer layers[2] = {engine_layer(2, 64, 0), engine_layer(2, 64, 0)};                  \
        anykv_layer *layer = &layers[1];                                                           \
        __VA_ARGS__;                                                                               \
        const anykv_layout_options options = good_options();                                       \
        char list[512];                                                                            \
        REFUSED(ANYKV_E_ARG, text, anykv_layout_check(layers, 2, &options, list, sizeof list));    \
        cr_expect(strstr(list, text), "the list \"%s\" lacks \"%s\"", list, text);                 \
    } while (0)

Test(layout, each_field_of_a_layer)
{
    const uint64_t turns[64] = {1};
    LAYER_REFUSED("layers[1].kv_heads: 0", layer->kv_heads = 0);
    LAYER_REFUSED("layers[1].kv_heads: 1025", layer->kv_heads = 1025);
    LAYER_REFUSED("layers[1].q_heads: 0", layer->q_heads = 0);
    LAYER_REFUSED("layers[1].q_heads: 3 is not a multiple", layer->q_heads = 3);
    LAYER_REFUSED("layers[1].q_heads", layer->q_heads = UINT32_MAX);
    LAYER_REFUSED("layers[1].k_dim: 1 ", layer->k_dim = 1);
    LAYER_REFUSED("layers[1].k_dim: 63 ", layer->k_dim = 63);
    LAYER_REFUSED("layers[1].v_dim: 4096", layer->v_dim = 4096);
    LAYER_REFUSED("layers[1].v_dim: 0", layer->v_dim = 0);
    LAYER_REFUSED("layers[1].window", layer->window = 0x80000000u);
    LAYER_REFUSED("layers[1].k_format: 0", layer->k_format = (anykv_format)0);
    LAYER_REFUSED("layers[1].v_format: 18", layer->v_format = (anykv_format)18);
    LAYER_REFUSED("layers[1].hot_type: 4", layer->hot_type = (anykv_dtype)4);
    LAYER_REFUSED("layers[1].k_transform: 2", layer->k_transform = (anykv_transform)2);
    LAYER_REFUSED("layers[1].v_transform: -1", layer->v_transform = (anykv_transform)-1);
    LAYER_REFUSED("layers[1].rope_pairs: 33", layer->rope_pairs = 33; layer->rope_turns = turns);
    LAYER_REFUSED("layers[1].rope_turns: NULL", layer->rope_pairs = 32);
    LAYER_REFUSED("layers[1].source: 1 is not an earlier", layer->source = 1);
    LAYER_REFUSED("layers[1].source: 7 is not an earlier", layer->source = 7);
    LAYER_REFUSED("layers[1].source: heads", layer->source = 0; layer->kv_heads = 1);
    static const float good[2] = {0.25f, 3.0f}, other[2] = {0.25f, 2.0f}, zero[2] = {1.0f, 0.0f};
    static const float large[2] = {0x1p41f, 1.0f};
    LAYER_REFUSED("layers[1].k_scales: format N4 takes none", layer->k_scales = good);
    LAYER_REFUSED("layers[1].v_scales[1]: 0 is not", layer->v_format = ANYKV_E4M3G;
                  layer->v_scales = zero);
    LAYER_REFUSED("layers[1].k_scales[0]: 2.19902e+12", layer->k_format = ANYKV_E4M3G;
                  layer->k_scales = large);
    LAYER_REFUSED("layers[1].source: heads", layer->source = 0;
                  layers[0].k_format = layer->k_format = ANYKV_E4M3G; layer->k_scales = good;
                  layers[0].k_scales = other);
    LAYER_REFUSED("layers[1].window: 0 sees further", layer->source = 0; layers[0].window = 64);
}

Test(layout, a_source_owns_rows_itself)
{
    anykv_layer layers[3] = {engine_layer(2, 64, 0), engine_layer(2, 64, 0),
                             engine_layer(2, 64, 0)};
    layers[1].source = 0;
    layers[2].source = 1;
    const anykv_layout_options options = good_options();
    REFUSED(ANYKV_E_ARG, "layer 1 owns no rows", anykv_layout_check(layers, 3, &options, NULL, 0));
}

Test(layout, options)
{
    const anykv_layer layer = engine_layer(2, 64, 0);
    anykv_layout_options options = good_options();
    OK(anykv_layout_check(&layer, 1, &options, NULL, 0));
    options.block_tokens = 24;
    REFUSED(ANYKV_E_ARG, "block_tokens: 24", anykv_layout_check(&layer, 1, &options, NULL, 0));
    options = good_options();
    options.weights = NULL;
    REFUSED(ANYKV_E_ARG, "weights: NULL", anykv_layout_check(&layer, 1, &options, NULL, 0));
    options = good_options();
    options.weights_bytes = 257;
    REFUSED(ANYKV_E_ARG, "weights_bytes: 257", anykv_layout_check(&layer, 1, &options, NULL, 0));
    options = good_options();
    options.shards = 0;
    REFUSED(ANYKV_E_ARG, "shards: 0", anykv_layout_check(&layer, 1, &options, NULL, 0));
    options.shards = 2;
    options.shard = 2;
    REFUSED(ANYKV_E_ARG, "shard: 2", anykv_layout_check(&layer, 1, &options, NULL, 0));
    options = good_options();
    REFUSED(ANYKV_E_ARG, "count: 0", anykv_layout_check(&layer, 0, &options, NULL, 0));
    REFUSED(ANYKV_E_ARG, "count: 1025", anykv_layout_check(&layer, 1025, &options, NULL, 0));
    REFUSED(ANYKV_E_ARG, "layers: NULL", anykv_layout_check(NULL, 1, &options, NULL, 0));
    REFUSED(ANYKV_E_ARG, "weights: NULL", anykv_layout_check(&layer, 1, NULL, NULL, 0));
    options.size = 3;
    REFUSED(ANYKV_E_ARG, "size", anykv_layout_check(&layer, 1, &options, NULL, 0));
}

Test(layout, all_errors_at_once)
{
    anykv_layer layers[2] = {engine_layer(2, 64, 0), engine_layer(2, 64, 0)};
    layers[0].k_dim = 65;
    layers[1].v_format = (anykv_format)99;
    layers[1].q_heads = 5;
    anykv_layout_options options = good_options();
    options.block_tokens = 0;
    char text[1024];
    REFUSED(ANYKV_E_ARG, "block_tokens",
            anykv_layout_check(layers, 2, &options, text, sizeof text));
    uint32_t lines = 1;
    for (const char *c = text; *c; c++)
        lines += *c == '\n';
    cr_expect(lines == 4, "%u lines: %s", lines, text);
    cr_expect(strstr(text, "layers[0].k_dim") && strstr(text, "layers[1].v_format") &&
                  strstr(text, "layers[1].q_heads"),
              "%s", text);
    /* A short buffer is filled and terminated, never overrun. */
    for (size_t size = 0; size < 80; size++) {
        memset(text, 'x', sizeof text);
        anykv_layout_check(layers, 2, &options, text, size);
        cr_expect(size == 0 ? text[0] == 'x' : memchr(text, 0, size) != NULL, "size %zu", size);
        cr_expect(text[size] == 'x', "size %zu: overrun", size);
    }
}

Test(layout, blocks_too_large)
{
    anykv_layer layers[8];
    for (int i = 0; i < 8; i++) {
        layers[i] = engine_layer(1024, 576, 0);
        layers[i].q_heads = 1024;
    }
    anykv_layout_options options = good_options();
    options.block_tokens = 256;
    REFUSED(ANYKV_E_ARG, "block_tokens: 256 tokens of all layers",
            anykv_layout_check(layers, 8, &options, NULL, 0));
}

Test(layout, groups_and_geometry)
{
    anykv_layer layers[5] = {engine_layer(2, 64, 0), engine_layer(2, 64, 100),
                             engine_layer(2, 64, 0), engine_layer(2, 64, 0),
                             engine_layer(2, 64, 100)};
    layers[2].q_heads = 8; /* q heads do not make a group */
    layers[3].source = 0;
    anykv_context *context = house_context();
    anykv_layout *layout = engine_layout(context, layers, 5);
    cr_expect(layout->group_count == 2, "%u groups", layout->group_count);
    cr_expect(layout->places[2].group == 0 && layout->places[4].group == 1);
    const struct akv_group *group = &layout->groups[0];
    cr_expect(group->layers == 2 && group->sealable);
    /* 16 tokens of 64 F16 elements; N4: 512 bytes of codes, 32 of scales. */
    cr_expect(group->tile_bytes[0][0] == 2048 && group->tile_bytes[1][0] == 16 * 64 / 2 + 16 * 2,
              "%u %u", group->tile_bytes[0][0], group->tile_bytes[1][0]);
    cr_expect(group->block_bytes[0] == 2 * 2 * 2 * 2048, "%u", group->block_bytes[0]);
    cr_expect(group->block_bytes[1] == 2 * 2 * 2 * group->tile_bytes[1][0]);
    const struct akv_place *second = &layout->places[2];
    cr_expect(second->offset[0][0] == 4 * 2048 && second->offset[0][1] == 6 * 2048);
    cr_expect(!layout->places[3].owner && layout->places[3].offset[0][1] == 2 * 2048);
    anykv_layout_destroy(layout);
    layers[0].k_format = layers[0].v_format = ANYKV_F16; /* equal to the hot type */
    layers[0].k_transform = ANYKV_TRANSFORM_ROTATE;
    layout = engine_layout(context, layers, 1);
    cr_expect(!layout->groups[0].sealable && layout->groups[0].block_bytes[1] == 0);
    cr_expect(layout->groups[0].rotate[0] == 0, "raw formats are not transformed");
    anykv_layout_destroy(layout);
    anykv_context_destroy(context);
}

Test(layout, identity_names_what_changes_rows)
{
    anykv_layer layers[2] = {engine_layer(2, 64, 0), engine_layer(2, 64, 0)};
    uint64_t turns[32] = {5, 6, 7};
    layers[0].rope_pairs = 32;
    layers[0].rope_turns = turns;
    anykv_layout_options options = good_options();
    uint8_t base[32], other[32];
    digest_of(layers, 2, &options, base);
#define SAME(what, change, undo)                                                                   \
    do {                                                                                           \
        change;                                                                                    \
        digest_of(layers, 2, &options, other);                                                     \
        cr_expect(memcmp(base, other, 32) == 0, "%s changed the identity", what);                  \
        undo;                                                                                      \
    } while (0)
#define DIFFERS(what, change, undo)                                                                \
    do {                                                                                           \
        change;                                                                                    \
        digest_of(layers, 2, &options, other);                                                     \
        cr_expect(memcmp(base, other, 32) != 0, "%s did not change the identity", what);           \
        undo;                                                                                      \
    } while (0)
    SAME("nothing", (void)0, (void)0);
    SAME("q_heads", layers[0].q_heads = 8, layers[0].q_heads = 4);
    SAME("format", layers[0].k_format = ANYKV_I8, layers[0].k_format = ANYKV_N4);
    SAME("hot type", layers[0].hot_type = ANYKV_BF16, layers[0].hot_type = ANYKV_F16);
    SAME("transform", layers[0].v_transform = ANYKV_TRANSFORM_NONE,
         layers[0].v_transform = ANYKV_TRANSFORM_ROTATE);
    DIFFERS("kv_heads", layers[1].kv_heads = 1, layers[1].kv_heads = 2);
    DIFFERS("k_dim", layers[1].k_dim = 80, layers[1].k_dim = 64);
    DIFFERS("v_dim", layers[1].v_dim = 80, layers[1].v_dim = 64);
    DIFFERS("window", layers[1].window = 80, layers[1].window = 0);
    DIFFERS("a frequency", turns[1]++, turns[1]--);
    DIFFERS("rope_pairs", layers[0].rope_pairs = 31, layers[0].rope_pairs = 32);
    DIFFERS("block_tokens", options.block_tokens = 32, options.block_tokens = 16);
    DIFFERS("weights", options.weights = "heights", options.weights = "weights");
    DIFFERS("weights_bytes", options.weights_bytes = 6, options.weights_bytes = 7);
    DIFFERS("shards", options.shards = 2, options.shards = 1);
    layers[0].rope_pairs = 0;
    digest_of(layers, 2, &options, base);
    DIFFERS("source", layers[1].source = 0, layers[1].source = ANYKV_OWN_ROWS);
}

/* The bytes that docs/format.md says are hashed, put together by hand. */
Test(layout, identity_by_hand)
{
    const anykv_layer layer = engine_layer(2, 64, 0);
    const anykv_layout_options options = good_options();
    uint8_t digest[32];
    digest_of(&layer, 1, &options, digest);
    const uint32_t numbers[] = {16, 1, 2, 64, 64, 0, ANYKV_OWN_ROWS, 0, 0, 1}, length = 7;
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, "anykv1id", 8);
    akv_sha256_update(&state, &length, 4);
    akv_sha256_update(&state, "weights", 7);
    akv_sha256_update(&state, numbers, sizeof numbers);
    const akv_digest wanted = akv_sha256_final(&state);
    cr_expect_arr_eq(digest, wanted.byte, 32);
}

Test(layout, handles)
{
    anykv_context *context = house_context();
    const anykv_layer layer = engine_layer(1, 64, 0);
    const anykv_layout_options options = good_options();
    anykv_layout *layout = (anykv_layout *)8;
    uint8_t digest[32];
    REFUSED(ANYKV_E_ARG, "context", anykv_layout_create(NULL, &layer, 1, &options, &layout));
    REFUSED(ANYKV_E_ARG, "layout_out", anykv_layout_create(context, &layer, 1, &options, NULL));
    REFUSED(ANYKV_E_ARG, "count", anykv_layout_create(context, &layer, 0, &options, &layout));
    cr_expect(layout == (anykv_layout *)8, "written on failure");
    REFUSED(ANYKV_E_ARG, "layout", anykv_layout_identity(NULL, digest));
    layout = engine_layout(context, &layer, 1);
    REFUSED(ANYKV_E_ARG, "digest_out", anykv_layout_identity(layout, NULL));
    anykv_layout_destroy(layout);
    anykv_layout_destroy(NULL);
    anykv_context_destroy(context);
}

static anykv_status make_one(void)
{
    anykv_context *context;
    anykv_status status = anykv_context_create(NULL, &context);
    if (status)
        return status;
    uint64_t turns[32] = {0};
    anykv_layer layers[2] = {engine_layer(1, 64, 0), engine_layer(1, 64, 9)};
    layers[0].rope_pairs = 32;
    layers[0].rope_turns = turns;
    const anykv_layout_options options = good_options();
    anykv_layout *layout = NULL;
    status = anykv_layout_create(context, layers, 2, &options, &layout);
    anykv_layout_destroy(layout);
    anykv_context_destroy(context);
    return status;
}

Test(layout, failed_allocations)
{
    house_fail_allocations("layout", make_one);
}
