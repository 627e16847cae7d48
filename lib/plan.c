/* SPDX-License-Identifier: Apache-2.0 */
/* Exact bytes of a cache before it is made: fixed memory, chunks, slabs. */
#include "cache.h"
#include "maps.h"
#include "evict_tokens.h"

#define CHUNK_BLOCKS 32u    /* largest blocks in a chunk at most, in pools of few chunks */
#define CHUNKS_MANY  65536u /* more chunks would only cost bookkeeping */
#define CANDIDATES   4096u  /* chunk sizes tried at most */

static uint64_t round_up(uint64_t bytes, uint64_t align)
{
    return (bytes + align - 1) / align * align;
}

static anykv_status check_options(anykv_context *context, const anykv_cache_options *options)
{
    if (options->max_sequences < 1 || options->max_sequences > 4096)
        return akv_fail(context, ANYKV_E_ARG, "max_sequences: %u is not between 1 and 4096",
                        options->max_sequences);
    if (options->max_step_tokens < 1 || options->max_step_tokens > 1u << 20)
        return akv_fail(context, ANYKV_E_ARG, "max_step_tokens: %u is not between 1 and %u",
                        options->max_step_tokens, 1u << 20);
    if (options->max_seq_tokens < 1 || options->max_seq_tokens > 1u << 28)
        return akv_fail(context, ANYKV_E_ARG, "max_seq_tokens: %u is not between 1 and %u",
                        options->max_seq_tokens, 1u << 28);
    if (options->sinks > 1u << 28 || options->recent > 1u << 28)
        return akv_fail(context, ANYKV_E_ARG, "%s: %u is above %u",
                        options->sinks > 1u << 28 ? "sinks" : "recent",
                        options->sinks > 1u << 28 ? options->sinks : options->recent, 1u << 28);
    if (!akv_policy_find(options->policy))
        return akv_fail(context, ANYKV_E_ARG, "policy: %d is none of the known policies",
                        (int)options->policy);
    if ((options->policy == ANYKV_POLICY_CALLER) != (options->score != NULL))
        return akv_fail(context, ANYKV_E_ARG, "score: %s",
                        options->score ? "only ANYKV_POLICY_CALLER has one"
                                       : "NULL with ANYKV_POLICY_CALLER");
    if (options->events > 1u << 20)
        return akv_fail(context, ANYKV_E_ARG, "events: %u is above %u", options->events, 1u << 20);
    if (options->flags & ~(ANYKV_CACHE_PRECISE | ANYKV_CACHE_EVICT_TOKENS | ANYKV_CACHE_COMPRESS |
                           ANYKV_CACHE_COMPRESS_CACHED))
        return akv_fail(context, ANYKV_E_ARG, "flags: 0x%x has unknown bits", options->flags);
    return ANYKV_OK;
}

/* ---- fixed memory ---- */

/* Most table entries of all sequences of a step in a group. */
static uint64_t table_entries(const struct akv_plan *plan, const anykv_layout *layout,
                              uint32_t group)
{
    const uint64_t tokens = layout->options.block_tokens, window = layout->groups[group].window;
    const uint64_t sequences = plan->options.max_sequences;
    const uint64_t all = sequences * plan->max_blocks;
    if (window == 0)
        return all;
    const uint64_t behind =
        sequences * (window / tokens + 4) + plan->options.max_step_tokens / tokens;
    return behind < all ? behind : all;
}

uint64_t akv_plan_step_bytes(const struct akv_plan *plan, const anykv_layout *layout,
                             uint32_t group)
{
    return sizeof(akv_step_head) + (uint64_t)plan->options.max_sequences * sizeof(akv_step_seq) +
           round_up((uint64_t)plan->options.max_step_tokens * 4, 16) +
           round_up(table_entries(plan, layout, group) * 4, 16);
}

/* Host rows of the largest call: append, attend or a piece of gather. */
static uint64_t staging_need(const struct akv_plan *plan, const anykv_layout *layout,
                             uint64_t align)
{
    const uint64_t tokens = plan->options.max_step_tokens;
    const uint64_t rows = (uint64_t)AKV_GATHER_BLOCKS * layout->options.block_tokens;
    uint64_t most = 0;
    for (uint32_t l = 0; l < layout->count; l++) {
        const anykv_layer *layer = &layout->layers[l];
        const uint64_t dims = (uint64_t)layer->k_dim + layer->v_dim;
        const uint64_t wide = layer->k_dim > layer->v_dim ? layer->k_dim : layer->v_dim;
        const uint64_t append = tokens * layer->kv_heads * dims * 4;
        const uint64_t attend =
            tokens * layer->q_heads * (dims + 1) * 4 + tokens * tokens * 4 + layer->q_heads * 4;
        const uint64_t gather = rows * layer->kv_heads * wide * 4;
        most = append > most ? append : most;
        most = attend > most ? attend : most;
        most = gather > most ? gather : most;
    }
    return round_up(most + 8 * align, align);
}

static anykv_status attend_scratch(anykv_device *device, const anykv_layout *layout,
                                   struct akv_plan *plan)
{
    for (uint32_t l = 0; l < layout->count; l++) {
        akv_attend_params params;
        akv_fill_attend(plan, layout, l, &params);
        const uint32_t plain = params.flags;
        for (uint32_t variant = 0; variant < 4; variant++) {
            params.flags =
                plain | (variant % 2 ? AKV_ATTEND_MASK | AKV_ATTEND_SINKS | AKV_ATTEND_LSE : 0);
            if (variant == 2 && !akv_attend_two_kinds(&params))
                break;
            struct akv_check check;
            akv_kernel_check(device->device, AKV_K_ATTEND, &params, &check);
            if (!check.supported)
                return akv_fail(device->context, ANYKV_E_UNSUPPORTED, "layers[%u]: attend: %s", l,
                                check.reason ? check.reason : "refused by the device");
            if (check.scratch_bytes > plan->scratch_bytes)
                plan->scratch_bytes = check.scratch_bytes;
        }
    }
    return ANYKV_OK;
}

static uint64_t alignment(const anykv_device *device)
{
    const uint64_t align = device->device->info.align;
    return align > 256 ? align : 256;
}

uint64_t akv_step_image_at(const anykv_cache *cache, uint32_t group)
{
    uint64_t at = 0;
    for (uint32_t g = 0; g < group; g++)
        at +=
            round_up(akv_plan_step_bytes(&cache->plan, cache->layout, g), alignment(cache->device));
    return at;
}

static anykv_status place_fixed(anykv_device *device, const anykv_layout *layout,
                                struct akv_plan *plan)
{
    const struct akv_device_info *info = &device->device->info;
    const uint64_t align = alignment(device);
    uint64_t seal_layers = 0;
    for (uint32_t g = 0; g < layout->group_count; g++) {
        const uint64_t bytes = akv_plan_step_bytes(plan, layout, g);
        if (bytes > UINT32_MAX)
            return akv_fail(
                device->context, ANYKV_E_ARG,
                "max_sequences: block tables of %u sequences of %u tokens take %llu bytes, "
                "the limit is %u",
                plan->options.max_sequences, plan->options.max_seq_tokens,
                (unsigned long long)bytes, UINT32_MAX);
        plan->step_bytes += round_up(bytes, align);
        seal_layers += layout->groups[g].layers;
    }
    anykv_status status = attend_scratch(device, layout, plan);
    if (status)
        return status;
    plan->maps_bytes = akv_maps_of_layout(layout, NULL);
    if (plan->maps_bytes > UINT32_MAX)
        return akv_fail(
            device->context, ANYKV_E_ARG,
            "calibration: the layout's means and matrices take %llu bytes, the limit is %u",
            (unsigned long long)plan->maps_bytes, UINT32_MAX);
    plan->staged = !(info->caps & AKV_CAP_HOST_MEMORY);
    plan->staging_bytes = plan->staged ? staging_need(plan, layout, align) : 0;
    uint64_t at = AKV_OPEN_STEPS * plan->step_bytes;
    plan->moves_at = at;
    at += round_up(AKV_MOVES * sizeof(akv_move), align);
    plan->seal_at = at;
    at += round_up(seal_layers * sizeof(akv_seal_layer), align);
    plan->lower_at = at;
    at += round_up(akv_ladder_tiles(layout) * sizeof(akv_seal_layer), align);
    plan->gather_at = at;
    at += round_up(AKV_GATHER_BLOCKS * 4, align);
    plan->flags_at = at;
    at += align;
    plan->shift_at = at;
    at += round_up(AKV_MAX_HEAD_DIM / 2 * 8, align);
    plan->maps_at = at;
    at += round_up(plan->maps_bytes, align);
    plan->evict_at = at;
    if (plan->options.flags & ANYKV_CACHE_EVICT_TOKENS)
        at += round_up(akv_evict_room(plan, layout).bytes, align);
    plan->cold_at = at;
    if (plan->options.flags & ANYKV_CACHE_COMPRESS)
        at += round_up(akv_cold_room(layout).bytes, align);
    plan->scratch_at = at;
    at += round_up(plan->scratch_bytes, align);
    plan->staging_at = at;
    at += plan->staging_bytes;
    plan->device_bytes = at;
    plan->fixed_bytes = at + plan->staging_bytes;
    if (info->max_alloc && at > info->max_alloc)
        return akv_fail(
            device->context, ANYKV_E_UNSUPPORTED,
            "max_step_tokens, max_sequences: %llu fixed bytes, the device allocates at most "
            "%llu at once",
            (unsigned long long)at, (unsigned long long)info->max_alloc);
    return ANYKV_OK;
}

/* ---- chunks ---- */

/* Largest share of a chunk of that many bytes that a class leaves unused, in 1/65536. */
static uint64_t waste_of(const anykv_layout *layout, uint64_t chunk)
{
    uint64_t most = 0;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++) {
            const uint64_t block = layout->groups[g].block_bytes[kind];
            const uint64_t waste = block ? chunk % block * 65536 / chunk : 0;
            most = waste > most ? waste : most;
        }
    return most;
}

static uint64_t largest_block(const anykv_layout *layout)
{
    uint64_t block = 0;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++)
            if (layout->groups[g].block_bytes[kind] > block)
                block = layout->groups[g].block_bytes[kind];
    return block;
}

/* What a chunk size is expected to cost a pool of `room` bytes, in 1/65536: what does not divide in
 * the worst class, half a chunk for each class's last one, and what is left of the room. */
static uint64_t loss_of(const anykv_layout *layout, uint64_t room, uint64_t chunk, uint64_t classes)
{
    return waste_of(layout, chunk) + classes * chunk * 32768 / room + room % chunk * 65536 / room;
}

/* The multiple of some class's block that costs least and leaves room for the fewest chunks that a
 * pool can work with; at most `most` bytes. */
static uint64_t choose_chunk(const anykv_layout *layout, uint64_t room, uint32_t minimum_chunks,
                             uint64_t most)
{
    const uint64_t largest = largest_block(layout);
    if (room / largest <= minimum_chunks)
        return largest;
    uint64_t classes = 0, best = largest;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++)
            classes += layout->groups[g].block_bytes[kind] != 0;
    uint64_t best_loss = loss_of(layout, room, largest, classes);
    if (most > room / minimum_chunks)
        most = room / minimum_chunks;
    if (most > largest * CHUNK_BLOCKS)
        most = largest * CHUNK_BLOCKS;
    const uint64_t tries = CANDIDATES / classes + 1;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++) {
            const uint64_t block = layout->groups[g].block_bytes[kind];
            uint64_t chunk = block ? (largest + block - 1) / block * block : most + 1;
            for (uint64_t n = 0; n < tries && chunk <= most; n++, chunk += block) {
                const uint64_t loss = loss_of(layout, room, chunk, classes);
                if (loss < best_loss || (loss == best_loss && chunk < best)) {
                    best = chunk;
                    best_loss = loss;
                }
            }
        }
    while (room / best > CHUNKS_MANY)
        best *= 2;
    return best;
}

static void place_chunks(anykv_device *device, const anykv_layout *layout, uint64_t room,
                         struct akv_plan *plan)
{
    const uint64_t max_alloc =
        device->device->info.max_alloc ? device->device->info.max_alloc : UINT64_MAX;
    uint64_t chunks = room / plan->chunk_bytes, per_slab = chunks < 8 ? chunks : (chunks + 3) / 4;
    if (per_slab > max_alloc / plan->chunk_bytes)
        per_slab = max_alloc / plan->chunk_bytes;
    if (chunks > per_slab * AKV_MAX_SLABS)
        chunks = per_slab * AKV_MAX_SLABS;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++) {
            const uint64_t block = layout->groups[g].block_bytes[kind];
            const uint64_t most = block ? 0x0FFFFFFFu / (plan->chunk_bytes / block) : UINT32_MAX;
            chunks = chunks < most ? chunks : most;
        }
    plan->chunks = (uint32_t)chunks;
    plan->chunks_per_slab = per_slab ? (uint32_t)per_slab : 1;
}

static anykv_status check_kernels(anykv_device *device, const anykv_layout *layout,
                                  const struct akv_plan *plan)
{
    struct akv_check check;
    for (uint32_t l = 0; l < layout->count; l++) {
        akv_append_params append;
        akv_fill_append(plan, layout, l, &append);
        akv_kernel_check(device->device, AKV_K_APPEND, &append, &check);
        if (!check.supported)
            return akv_fail(device->context, ANYKV_E_UNSUPPORTED, "layers[%u]: append: %s", l,
                            check.reason ? check.reason : "refused by the device");
    }
    for (uint32_t g = 0; g < layout->group_count; g++) {
        if (!layout->groups[g].sealable)
            continue;
        akv_seal_params seal;
        akv_fill_seal(layout, g, &seal);
        seal.pool = akv_plan_map(plan, layout, g);
        akv_kernel_check(device->device, AKV_K_SEAL, &seal, &check);
        if (!check.supported)
            return akv_fail(device->context, ANYKV_E_UNSUPPORTED, "layer group %u: seal: %s", g,
                            check.reason ? check.reason : "refused by the device");
    }
    return ANYKV_OK;
}

uint64_t akv_plan_minimum(const struct akv_plan *plan, const anykv_layout *layout)
{
    return plan->fixed_bytes + plan->minimum_chunks * largest_block(layout);
}

anykv_status akv_plan_make(anykv_device *device, anykv_layout *layout,
                           const anykv_cache_options *options, struct akv_plan *plan)
{
    anykv_cache_options checked = ANYKV_CACHE_OPTIONS_INIT;
    memset(plan, 0, sizeof *plan);
    anykv_status status =
        akv_options(device->context, "cache options", &checked, sizeof checked, options);
    if (!status)
        status = check_options(device->context, &checked);
    if (!status)
        status = akv_limit_check(device->context, &checked, layout->options.block_tokens);
    if (!status)
        status = akv_ladder_check(device->context, &checked, layout->count);
    if (status)
        return status;
    if (checked.flags & ANYKV_CACHE_COMPRESS_CACHED)
        checked.flags |= ANYKV_CACHE_COMPRESS;
    akv_ladder_lay(layout, &checked);
    if (checked.flags & ANYKV_CACHE_COMPRESS)
        akv_cold_lay(layout);
    plan->options = checked;
    plan->options.sensitivity = NULL; /* the caller's */
    plan->max_blocks = (checked.max_seq_tokens - 1) / layout->options.block_tokens + 1;
    for (uint32_t g = 0; g < layout->group_count; g++)
        plan->minimum_chunks += layout->groups[g].sealable ? 2 : 1;
    plan->reserve_chunks = akv_ladder_tiles(layout) || checked.flags & ANYKV_CACHE_COMPRESS ? 1 : 0;
    plan->minimum_chunks += plan->reserve_chunks;
    /* The scratch does not depend on the chunks, but its check wants a valid map. */
    plan->chunk_bytes = largest_block(layout);
    plan->chunks_per_slab = 1;
    status = place_fixed(device, layout, plan);
    if (status)
        return status;
    const uint64_t budget = checked.budget_bytes;
    const uint64_t room = budget > plan->fixed_bytes ? budget - plan->fixed_bytes : 0;
    const uint64_t max_alloc = device->device->info.max_alloc;
    plan->chunk_bytes =
        choose_chunk(layout, room, plan->minimum_chunks, max_alloc ? max_alloc : UINT64_MAX);
    place_chunks(device, layout, room, plan);
    return check_kernels(device, layout, plan);
}

anykv_status anykv_cache_estimate(anykv_device *device, const anykv_layout *layout,
                                  const anykv_cache_options *options, anykv_estimate *estimate_out)
{
    if (!device || !layout || !estimate_out)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device   ? "device"
                        : !layout ? "layout"
                                  : "estimate_out");
    const size_t size = estimate_out->size;
    if (size < sizeof size || size > sizeof *estimate_out)
        return akv_fail(device->context, ANYKV_E_ARG,
                        "estimate_out.size: %zu is not between %zu and %zu (set it first)", size,
                        sizeof size, sizeof *estimate_out);
    struct akv_plan plan;
    anykv_layout *copy;
    anykv_status status = akv_layout_copy(layout, &copy);
    if (status)
        return status;
    status = akv_plan_make(device, copy, options, &plan);
    const uint64_t minimum = status ? 0 : akv_plan_minimum(&plan, copy);
    anykv_layout_destroy(copy);
    if (status)
        return status;
    anykv_estimate whole = ANYKV_ESTIMATE_INIT;
    whole.size = size;
    whole.fixed_bytes = plan.fixed_bytes;
    whole.chunk_bytes = plan.chunk_bytes;
    for (uint32_t g = 0; g < layout->group_count; g++) {
        const struct akv_group *group = &layout->groups[g];
        whole.hot_block_bytes += group->block_bytes[AKV_KIND_HOT];
        whole.sealed_block_bytes +=
            group->block_bytes[group->sealable ? AKV_KIND_SEALED : AKV_KIND_HOT];
    }
    whole.minimum_bytes = minimum;
    whole.pool_bytes = plan.chunks * plan.chunk_bytes;
    whole.total_bytes = whole.fixed_bytes + whole.pool_bytes;
    memcpy(estimate_out, &whole, size);
    return ANYKV_OK;
}
