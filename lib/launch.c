/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's launches: parameter structs from the layout, and the ones that move whole blocks. */
#include "cache.h"
#include "cold.h"

akv_pool_map akv_plan_map(const struct akv_plan *plan, const anykv_layout *layout, uint32_t group)
{
    akv_pool_map map;
    memset(&map, 0, sizeof map);
    map.chunk_bytes = plan->chunk_bytes;
    map.chunks_per_slab = plan->chunks_per_slab;
    map.slabs = 1;
    for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++) {
        const uint32_t bytes = layout->groups[group].block_bytes[kind];
        map.block_bytes[kind] = bytes;
        map.blocks_per_chunk[kind] = bytes ? (uint32_t)(plan->chunk_bytes / bytes) : 0;
    }
    return map;
}

void akv_launch_init(const anykv_cache *cache, struct akv_launch *launch, enum akv_kernel_id kernel,
                     const void *params)
{
    memset(launch, 0, sizeof *launch);
    launch->kernel = kernel;
    launch->params = params;
    launch->slabs = cache->slabs;
    for (uint32_t s = 0; s < cache->slabs; s++)
        launch->slab[s] = (struct akv_span){cache->slab[s], 0, cache->slab_bytes[s]};
}

/* Dense rows, as a default for checks. */
static akv_rows plain_rows(uint32_t heads, uint32_t dim)
{
    akv_rows rows = {(akv_u64)heads * dim, dim, AKV_F32, heads};
    return rows;
}

void akv_fill_append(const struct akv_plan *plan, const anykv_layout *layout, uint32_t layer,
                     akv_append_params *params)
{
    const struct akv_place *place = &layout->places[layer];
    const struct akv_group *group = &layout->groups[place->group];
    memset(params, 0, sizeof *params);
    params->pool = akv_plan_map(plan, layout, place->group);
    params->k = plain_rows(group->kv_heads, group->k_dim);
    params->v = plain_rows(group->kv_heads, group->v_dim);
    params->k_dim = group->k_dim;
    params->v_dim = group->v_dim;
    params->k_offset = place->offset[AKV_KIND_HOT][0];
    params->v_offset = place->offset[AKV_KIND_HOT][1];
    params->hot_type = group->hot_type;
    params->max_tokens = plan->options.max_step_tokens;
}

void akv_fill_attend(const struct akv_plan *plan, const anykv_layout *layout, uint32_t layer,
                     akv_attend_params *params)
{
    const struct akv_place *place = &layout->places[layer];
    const struct akv_group *group = &layout->groups[place->group];
    memset(params, 0, sizeof *params);
    params->pool = akv_plan_map(plan, layout, place->group);
    for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++) {
        if (group->block_bytes[kind] == 0)
            continue;
        params->tiles.k_offset[kind] = place->offset[kind][0];
        params->tiles.v_offset[kind] = place->offset[kind][1];
        params->tiles.k_format[kind] = place->format[kind][0];
        params->tiles.v_format[kind] = place->format[kind][1];
    }
    params->kv_heads = group->kv_heads;
    params->q_heads = layout->layers[layer].q_heads;
    params->k_dim = group->k_dim;
    params->v_dim = group->v_dim;
    params->q = plain_rows(params->q_heads, group->k_dim);
    params->out = plain_rows(params->q_heads, group->v_dim);
    params->k_flags = group->rotate[0];
    params->v_flags = group->rotate[1];
    params->k_map = place->map[0];
    params->v_map = place->map[1];
    params->flags = plan->options.flags & ANYKV_CACHE_PRECISE ? AKV_ATTEND_PRECISE : 0;
    params->window = layout->layers[layer].window;
    params->scale = 1.0f / sqrtf((float)group->k_dim);
    params->max_tokens = plan->options.max_step_tokens;
    params->max_sequences = plan->options.max_sequences;
    params->max_length = plan->options.max_seq_tokens;
}

bool akv_attend_two_kinds(akv_attend_params *params)
{
    bool more = false;
    for (uint32_t kind = AKV_KIND_RUNG; kind < AKV_POOL_KINDS; kind++) {
        more = more || params->tiles.k_format[kind];
        params->tiles.k_format[kind] = params->tiles.v_format[kind] = 0;
    }
    return more;
}

static uint32_t search_flag(uint32_t format)
{
    return akv_format_codebook(format) ? AKV_FLAG_SEARCH : 0;
}

static uint32_t seal_flags(const struct akv_group *group, uint32_t side)
{
    return group->rotate[side] | search_flag(group->format[side]);
}

void akv_fill_seal(const anykv_layout *layout, uint32_t group_index, akv_seal_params *params)
{
    const struct akv_group *group = &layout->groups[group_index];
    memset(params, 0, sizeof *params);
    params->layers = group->layers;
    params->kv_heads = group->kv_heads;
    params->block_tokens = layout->options.block_tokens;
    params->k_dim = group->k_dim;
    params->v_dim = group->v_dim;
    params->hot_type = group->hot_type;
    params->k_format = group->format[0];
    params->v_format = group->format[1];
    params->k_flags = seal_flags(group, 0);
    params->v_flags = seal_flags(group, 1);
}

void akv_fill_gather(const anykv_layout *layout, uint32_t layer, uint32_t side,
                     akv_gather_params *params)
{
    const struct akv_place *place = &layout->places[layer];
    const struct akv_group *group = &layout->groups[place->group];
    memset(params, 0, sizeof *params);
    for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++) {
        if (group->block_bytes[kind] == 0)
            continue;
        params->offset[kind] = place->offset[kind][side];
        params->format[kind] = place->format[kind][side];
    }
    params->order = side == 0 ? AKV_ORDER_ROW : AKV_ORDER_QUAD;
    params->flags = group->rotate[side];
    params->map = place->map[side];
    params->dim = side == 0 ? group->k_dim : group->v_dim;
    params->block_tokens = layout->options.block_tokens;
    params->rows = plain_rows(group->kv_heads, params->dim);
}

/* ---- whole blocks ---- */

static anykv_status put_moves(anykv_cache *cache, uint32_t count)
{
    const struct akv_span span =
        akv_fixed_span(cache, cache->plan.moves_at, (uint64_t)count * sizeof cache->moves[0]);
    return akv_queue_put(cache->device->queue, span, cache->moves);
}

anykv_status akv_enqueue_copy(anykv_cache *cache, uint32_t group, uint32_t kind, uint32_t count)
{
    if (count == 0)
        return ANYKV_OK;
    assert(count <= AKV_MOVES);
    anykv_status status = put_moves(cache, count);
    if (status)
        return status;
    akv_copy_params params;
    memset(&params, 0, sizeof params);
    params.pool = akv_pool_group_map(&cache->pool, group, cache->slabs);
    params.moves = count;
    params.bytes = params.pool.block_bytes[kind];
    params.direction = AKV_COPY_POOL_POOL;
    struct akv_launch launch;
    akv_launch_init(cache, &launch, AKV_K_COPY, &params);
    launch.arg[0] =
        akv_fixed_span(cache, cache->plan.moves_at, (uint64_t)count * sizeof cache->moves[0]);
    return akv_kernel_launch(cache->device->queue, &launch);
}

anykv_status akv_enqueue_seal(anykv_cache *cache, uint32_t group, uint32_t count)
{
    if (count == 0)
        return ANYKV_OK;
    assert(count <= AKV_MOVES);
    anykv_status status = put_moves(cache, count);
    if (status)
        return status;
    akv_seal_params params;
    akv_fill_seal(cache->layout, group, &params);
    params.pool = akv_pool_group_map(&cache->pool, group, cache->slabs);
    params.moves = count;
    uint64_t before = 0;
    for (uint32_t g = 0; g < group; g++)
        before += cache->layout->groups[g].layers;
    struct akv_launch launch;
    akv_launch_init(cache, &launch, AKV_K_SEAL, &params);
    launch.arg[0] = akv_fixed_span(cache, cache->plan.seal_at + before * sizeof(akv_seal_layer),
                                   (uint64_t)params.layers * sizeof(akv_seal_layer));
    launch.arg[1] =
        akv_fixed_span(cache, cache->plan.moves_at, (uint64_t)count * sizeof cache->moves[0]);
    launch.arg[2] = akv_fixed_span(cache, cache->plan.flags_at, 4);
    launch.arg[3] = akv_maps_span(cache);
    return akv_kernel_launch(cache->device->queue, &launch);
}

anykv_status akv_enqueue_pages(anykv_cache *cache, uint32_t group, const uint32_t *pages, uint32_t count,
                               uint32_t direction)
{
    const struct akv_cold_room room = akv_cold_room(cache->layout);
    const bool to_pool = direction == AKV_COPY_LINEAR_POOL;
    akv_copy_params params;
    memset(&params, 0, sizeof params);
    params.pool = akv_pool_group_map(&cache->pool, group, cache->slabs);
    params.moves = count;
    params.bytes = params.pool.block_bytes[AKV_KIND_COLD];
    params.direction = direction;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t linear = (uint64_t)i * params.bytes;
        const uint64_t page = akv_pool_address(&cache->pool, group, akv_pool_block(&cache->pool, pages[i])->entry);
        cache->moves[i] = (akv_move){to_pool ? linear : page, to_pool ? page : linear, 0, 0};
    }
    anykv_status status = put_moves(cache, count);
    if (status)
        return status;
    struct akv_launch launch;
    akv_launch_init(cache, &launch, AKV_K_COPY, &params);
    launch.arg[0] = akv_fixed_span(cache, cache->plan.moves_at, (uint64_t)count * sizeof cache->moves[0]);
    launch.arg[1] = akv_cold_span(cache, room.body, (uint64_t)count * params.bytes);
    return akv_kernel_launch(cache->device->queue, &launch);
}

/* ---- the precision ladder ---- */

/* From 16 bit it is sealing, in other formats; from there on the codes are encoded again in the
 * domain in which they are stored. */
static void fill_run(const anykv_cache *cache, uint32_t group_index, uint32_t from,
                     const struct akv_rung_run *run, uint32_t moves, akv_seal_params *seal,
                     akv_reencode_params *reencode)
{
    const struct akv_group *group = &cache->layout->groups[group_index];
    if (from == AKV_KIND_HOT) {
        akv_fill_seal(cache->layout, group_index, seal);
        seal->pool = akv_pool_group_map(&cache->pool, group_index, cache->slabs);
        seal->moves = moves;
        seal->layers = run->count;
        seal->k_format = run->format[0];
        seal->v_format = run->format[1];
        seal->k_flags = akv_format_raw(run->format[0])
                            ? 0
                            : group->rotate[0] | search_flag(run->format[0]);
        seal->v_flags = akv_format_raw(run->format[1])
                            ? 0
                            : group->rotate[1] | search_flag(run->format[1]);
        return;
    }
    memset(reencode, 0, sizeof *reencode);
    reencode->pool = akv_pool_group_map(&cache->pool, group_index, cache->slabs);
    reencode->moves = moves;
    reencode->layers = run->count;
    reencode->kv_heads = group->kv_heads;
    reencode->block_tokens = cache->layout->options.block_tokens;
    reencode->k_dim = group->k_dim;
    reencode->v_dim = group->v_dim;
    reencode->k_source = run->source[0];
    reencode->v_source = run->source[1];
    reencode->k_format = run->format[0];
    reencode->v_format = run->format[1];
    reencode->k_flags = search_flag(run->format[0]);
    reencode->v_flags = search_flag(run->format[1]);
}

anykv_status akv_lower_prepare(anykv_cache *cache)
{
    struct akv_device *device = cache->device->device;
    for (uint32_t c = 0; c < cache->pool.classes; c++) {
        const uint32_t group = c / AKV_POOL_KINDS, from = c % AKV_POOL_KINDS;
        const enum akv_kernel_id kernel = from == AKV_KIND_HOT ? AKV_K_SEAL : AKV_K_REENCODE;
        for (uint32_t r = 0; r < cache->ladder.step[c].count; r++) {
            const struct akv_rung_run *run = &cache->ladder.run[cache->ladder.step[c].first + r];
            akv_seal_params seal;
            akv_reencode_params reencode;
            struct akv_check check;
            fill_run(cache, group, from, run, 1, &seal, &reencode);
            const void *params = kernel == AKV_K_SEAL ? (void *)&seal : (void *)&reencode;
            akv_kernel_check(device, kernel, params, &check);
            if (!check.supported)
                return akv_fail(cache->context, ANYKV_E_UNSUPPORTED,
                                "rungs: layer group %u from kind %u: %s", group, from,
                                check.reason ? check.reason : "refused by the device");
            anykv_status status = akv_kernel_prepare(device, kernel, params);
            if (status)
                return status;
        }
    }
    return ANYKV_OK;
}

anykv_status akv_enqueue_lower(anykv_cache *cache, uint32_t group, uint32_t from, uint32_t count)
{
    const struct akv_rung_step *step = &cache->ladder.step[AKV_CLASS(group, from)];
    anykv_status status = put_moves(cache, count);
    for (uint32_t r = 0; r < step->count && !status; r++) {
        const struct akv_rung_run *run = &cache->ladder.run[step->first + r];
        akv_seal_params seal;
        akv_reencode_params reencode;
        fill_run(cache, group, from, run, count, &seal, &reencode);
        struct akv_launch launch;
        if (from == AKV_KIND_HOT)
            akv_launch_init(cache, &launch, AKV_K_SEAL, &seal);
        else
            akv_launch_init(cache, &launch, AKV_K_REENCODE, &reencode);
        launch.arg[0] = akv_fixed_span(
            cache, cache->plan.lower_at + (uint64_t)run->first * sizeof(akv_seal_layer),
            (uint64_t)run->count * sizeof(akv_seal_layer));
        launch.arg[1] =
            akv_fixed_span(cache, cache->plan.moves_at, (uint64_t)count * sizeof cache->moves[0]);
        launch.arg[2] = akv_fixed_span(cache, cache->plan.flags_at, 4);
        if (from == AKV_KIND_HOT)
            launch.arg[3] = akv_maps_span(cache);
        status = akv_kernel_launch(cache->device->queue, &launch);
    }
    return status;
}

anykv_status akv_enqueue_scrub(anykv_cache *cache, uint32_t id)
{
    const struct akv_block *block = akv_pool_block(&cache->pool, id);
    const uint64_t address = akv_pool_address(&cache->pool, block->group, block->entry);
    const struct akv_span span = {cache->slab[AKV_ADDR_SLAB(address)], AKV_ADDR_OFFSET(address),
                                  cache->pool.class_[akv_pool_class_of(block)].block_bytes};
    return akv_queue_fill(cache->device->queue, span, 0);
}
