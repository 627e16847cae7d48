/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts: layer groups, block geometry, identity. */
#include "layout.h"
#include "calibration.h"
#include "layout_check.h"

static bool same_group(const anykv_layer *a, const anykv_layer *b)
{
    return a->window == b->window && akv_layer_same_rows(a, b);
}

static uint32_t format_of(const struct akv_group *group, uint32_t kind, uint32_t side)
{
    return kind == 0 ? group->hot_type : group->format[side];
}

static uint32_t flags_of(anykv_transform transform, const float *scales)
{
    return scales                                ? AKV_FLAG_MAP
           : transform == ANYKV_TRANSFORM_NONE   ? 0
           : transform == ANYKV_TRANSFORM_ROTATE ? AKV_FLAG_ROTATE
                                                 : AKV_FLAG_MAP;
}

/* Numbers the records of the layers whose transforms have constants. */
static void place_maps(anykv_layout *layout)
{
    layout->map_count = 0;
    for (uint32_t l = 0; l < layout->count; l++) {
        struct akv_place *place = &layout->places[l];
        for (uint32_t side = 0; side < 2; side++)
            if (!place->owner)
                place->map[side] = layout->places[layout->layers[l].source].map[side];
            else if (layout->groups[place->group].rotate[side] & AKV_FLAG_MAP)
                place->map[side] = layout->map_count++ * (uint32_t)sizeof(akv_map);
    }
}

/* Group record of a layer, without its number of layers. */
static void describe_group(struct akv_group *group, const anykv_layer *layer, uint32_t block_tokens)
{
    group->window = layer->window;
    group->kv_heads = layer->kv_heads;
    group->k_dim = layer->k_dim;
    group->v_dim = layer->v_dim;
    group->format[0] = (uint32_t)layer->k_format;
    group->format[1] = (uint32_t)layer->v_format;
    group->hot_type = (uint32_t)layer->hot_type;
    if (!akv_format_raw(group->format[0]))
        group->rotate[0] = flags_of(layer->k_transform, layer->k_scales);
    if (!akv_format_raw(group->format[1]))
        group->rotate[1] = flags_of(layer->v_transform, layer->v_scales);
    group->sealable = group->format[0] != group->hot_type || group->format[1] != group->hot_type;
    for (uint32_t kind = 0; kind < 2; kind++) {
        for (uint32_t side = 0; side < 2; side++)
            group->tile_bytes[kind][side] =
                akv_tile_bytes(format_of(group, kind, side), block_tokens,
                               side == 0 ? group->k_dim : group->v_dim);
        group->layer_bytes[kind] =
            group->kv_heads * (group->tile_bytes[kind][0] + group->tile_bytes[kind][1]);
    }
}

static void make_groups(anykv_layout *layout)
{
    for (uint32_t l = 0; l < layout->count; l++) {
        const anykv_layer *layer = &layout->layers[l];
        struct akv_place *place = &layout->places[l];
        if (layer->source != ANYKV_OWN_ROWS) {
            *place = layout->places[layer->source];
            place->owner = false;
            continue;
        }
        uint32_t g = layout->group_count;
        const bool apart = layout->options.flags & ANYKV_LAYOUT_APART;
        for (uint32_t m = 0; m < l && g == layout->group_count && !apart; m++)
            if (layout->places[m].owner && same_group(&layout->layers[m], layer))
                g = layout->places[m].group;
        struct akv_group *group = &layout->groups[g];
        if (g == layout->group_count) {
            layout->group_count++;
            describe_group(group, layer, layout->options.block_tokens);
        }
        place->owner = true;
        place->group = g;
        for (uint32_t kind = 0; kind < 2; kind++) {
            place->offset[kind][0] = group->layers * group->layer_bytes[kind];
            place->offset[kind][1] =
                place->offset[kind][0] + group->kv_heads * group->tile_bytes[kind][0];
            for (uint32_t side = 0; side < 2 && (kind == 0 || group->sealable); side++)
                place->format[kind][side] = format_of(group, kind, side);
        }
        group->layers++;
    }
    place_maps(layout);
    for (uint32_t g = 0; g < layout->group_count; g++) {
        struct akv_group *group = &layout->groups[g];
        group->block_bytes[0] = group->layers * group->layer_bytes[0];
        group->block_bytes[1] = group->sealable ? group->layers * group->layer_bytes[1] : 0;
    }
}

void akv_layout_transform(anykv_layout *layout, uint32_t g)
{
    for (uint32_t l = 0; l < layout->count; l++) {
        const anykv_layer *layer = &layout->layers[l];
        if (!layout->places[l].owner || layout->places[l].group != g)
            continue;
        layout->groups[g].rotate[0] = flags_of(layer->k_transform, NULL);
        layout->groups[g].rotate[1] = flags_of(layer->v_transform, NULL);
        break; /* the group's layers are alike */
    }
    place_maps(layout);
}

void akv_layout_tiles(const anykv_layout *layout, uint32_t layer, uint32_t from, uint32_t to,
                      akv_seal_layer *tiles)
{
    const struct akv_place *place = &layout->places[layer];
    memset(tiles, 0, sizeof *tiles);
    tiles->src_k = place->offset[from][0];
    tiles->src_v = place->offset[from][1];
    tiles->dst_k = place->offset[to][0];
    tiles->dst_v = place->offset[to][1];
    tiles->k_map = place->map[0];
    tiles->v_map = place->map[1];
}

static akv_digest identify(const anykv_layout *layout)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, "anykv1id", 8);
    akv_sha256_u32(&state, layout->options.weights_bytes);
    akv_sha256_update(&state, layout->weights, layout->options.weights_bytes);
    akv_sha256_u32(&state, layout->options.block_tokens);
    akv_sha256_u32(&state, layout->count);
    for (uint32_t l = 0; l < layout->count; l++) {
        const anykv_layer *layer = &layout->layers[l];
        akv_sha256_u32(&state, layer->kv_heads);
        akv_sha256_u32(&state, layer->k_dim);
        akv_sha256_u32(&state, layer->v_dim);
        akv_sha256_u32(&state, layer->window);
        akv_sha256_u32(&state, layer->source);
        akv_sha256_u32(&state, layer->rope_pairs);
        for (uint32_t i = 0; i < layer->rope_pairs; i++)
            akv_sha256_u64(&state, layer->rope_turns[i]);
    }
    akv_sha256_u32(&state, layout->options.shard);
    akv_sha256_u32(&state, layout->options.shards);
    return akv_sha256_final(&state);
}

static const float *copy_scales(float **next, const float *scales, uint32_t heads)
{
    if (!scales)
        return NULL;
    memcpy(*next, scales, heads * sizeof **next);
    *next += heads;
    return *next - heads;
}

static anykv_status copy_layers(anykv_layout *layout, const anykv_layer *layers, uint32_t count)
{
    size_t turns = 0, scales = 0;
    for (uint32_t l = 0; l < count; l++) {
        turns += layers[l].rope_pairs;
        scales += 2 * (size_t)layers[l].kv_heads;
    }
    layout->layers = akv_alloc(layout->context, count, sizeof *layout->layers);
    layout->groups = akv_alloc(layout->context, count, sizeof *layout->groups);
    layout->places = akv_alloc(layout->context, count, sizeof *layout->places);
    layout->turns = akv_alloc(layout->context, turns ? turns : 1, sizeof *layout->turns);
    layout->scales = akv_alloc(layout->context, scales, sizeof *layout->scales);
    if (!layout->layers || !layout->groups || !layout->places || !layout->turns || !layout->scales)
        return ANYKV_E_MEMORY;
    memcpy(layout->layers, layers, count * sizeof *layers);
    layout->count = count;
    uint64_t *next = layout->turns;
    float *scale = layout->scales;
    for (uint32_t l = 0; l < count; l++) {
        const uint32_t pairs = layers[l].rope_pairs;
        if (pairs)
            memcpy(next, layers[l].rope_turns, pairs * sizeof *next);
        layout->layers[l].rope_turns = pairs ? next : NULL;
        next += pairs;
        layout->layers[l].k_scales = copy_scales(&scale, layers[l].k_scales, layers[l].kv_heads);
        layout->layers[l].v_scales = copy_scales(&scale, layers[l].v_scales, layers[l].kv_heads);
    }
    return ANYKV_OK;
}

anykv_status anykv_layout_create(anykv_context *context, const anykv_layer *layers, uint32_t count,
                                 const anykv_layout_options *options, anykv_layout **layout_out)
{
    if (!context || !layout_out)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", context ? "layout_out" : "context");
    anykv_layout_options checked = ANYKV_LAYOUT_OPTIONS_INIT;
    anykv_status status = akv_options(context, "layout options", &checked, sizeof checked, options);
    if (!status)
        status = akv_layout_check(context, layers, count, &checked, NULL, 0);
    if (!status && checked.calibration)
        status = akv_calibration_fits(checked.calibration, layers, count, checked.weights,
                                      checked.weights_bytes);
    if (status)
        return status;
    anykv_layout *layout = akv_alloc(context, 1, sizeof *layout);
    if (!layout)
        return ANYKV_E_MEMORY;
    layout->context = context;
    layout->options = checked;
    memcpy(layout->weights, checked.weights, checked.weights_bytes);
    layout->options.weights = layout->weights;
    if (checked.calibration)
        layout->options.calibration = akv_calibration_hold(checked.calibration);
    status = copy_layers(layout, layers, count);
    if (status) {
        anykv_layout_destroy(layout);
        return status;
    }
    make_groups(layout);
    layout->identity = identify(layout);
    *layout_out = layout;
    return ANYKV_OK;
}

anykv_status akv_layout_copy(const anykv_layout *layout, anykv_layout **copy_out)
{
    return anykv_layout_create(layout->context, layout->layers, layout->count, &layout->options,
                               copy_out);
}

void anykv_layout_destroy(anykv_layout *layout)
{
    if (!layout)
        return;
    akv_free(layout->context, layout->layers);
    akv_free(layout->context, layout->groups);
    akv_free(layout->context, layout->places);
    akv_free(layout->context, layout->turns);
    akv_free(layout->context, layout->scales);
    if (layout->options.calibration) /* this layout's hold */
        anykv_calibration_destroy((anykv_calibration *)(uintptr_t)layout->options.calibration);
    akv_free(layout->context, layout);
}

anykv_status anykv_layout_identity(const anykv_layout *layout, uint8_t digest_out[32])
{
    if (!layout || !digest_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", layout ? "digest_out" : "layout");
    memcpy(digest_out, layout->identity.byte, 32);
    return ANYKV_OK;
}
