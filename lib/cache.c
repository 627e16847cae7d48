/* SPDX-License-Identifier: Apache-2.0 */
/* Caches: making and destroying them. */
#include "cache.h"
#include "maps.h"
#include "evict_tokens.h"
#include <stdarg.h>
#include <stdio.h>

void akv_explain(anykv_cache *cache, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    akv_mutex_lock(&cache->reason_lock);
    vsnprintf(cache->reason, sizeof cache->reason, format, arguments);
    akv_mutex_unlock(&cache->reason_lock);
    va_end(arguments);
}

void akv_cache_enter(anykv_cache *cache)
{
    akv_cache_enter_short(cache);
    akv_prefix_catch_up(&cache->prefix);
}

void akv_cache_enter_short(anykv_cache *cache)
{
    const anykv_cache_options *options = &cache->plan.options;
    const double now =
        options->clock ? options->clock(options->clock_user) : (double)akv_now_ns() * 1e-9;
    akv_mutex_lock(&cache->lock);
    akv_prefix_clock(&cache->prefix, now);
}

anykv_status akv_device_short(anykv_cache *cache, uint64_t bytes)
{
    uint64_t total = 0, left = 0;
    char why[160];
    snprintf(why, sizeof why, "%s", anykv_error_detail());
    (void)akv_device_memory(cache->device->device, &total, &left);
    return akv_fail(cache->context, ANYKV_E_MEMORY,
                    "budget_bytes: %llu bytes of device memory were refused twice; %llu of the "
                    "device's %llu are free (%s)",
                    (unsigned long long)bytes, (unsigned long long)left,
                    (unsigned long long)total, why);
}

/* ---- parts, each undone by anykv_cache_destroy however far it came ---- */

/* Device memory.  Refused for want of it, the call is made once more when the queue is empty: what
 * was freed may still have been in use. */
static anykv_status device_memory(anykv_cache *cache, uint64_t bytes, enum akv_mem_kind kind,
                                  struct akv_mem **mem_out)
{
    struct akv_device *device = cache->device->device;
    anykv_status status = akv_mem_alloc(device, bytes, kind, mem_out);
    if (status != ANYKV_E_MEMORY)
        return status;
    (void)akv_queue_wait(cache->device->queue, UINT64_MAX);
    cache->count.device_retries++;
    status = akv_mem_alloc(device, bytes, kind, mem_out);
    return status == ANYKV_E_MEMORY ? akv_device_short(cache, bytes) : status;
}

static anykv_status make_pool(anykv_cache *cache)
{
    const anykv_layout *layout = cache->layout;
    const struct akv_plan *plan = &cache->plan;
    const uint32_t classes = layout->group_count * AKV_POOL_KINDS;
    uint32_t *block_bytes = akv_alloc(cache->context, classes, sizeof *block_bytes);
    if (!block_bytes)
        return ANYKV_E_MEMORY;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++)
            block_bytes[AKV_CLASS(g, kind)] = layout->groups[g].block_bytes[kind];
    const struct akv_pool_shape shape = {plan->chunk_bytes, plan->chunks_per_slab,
                                         layout->group_count, block_bytes};
    anykv_status status = akv_pool_init(&cache->pool, cache->context, &shape);
    akv_free(cache->context, block_bytes);
    if (status)
        return status;
    cache->pool.reserve = plan->reserve_chunks;
    for (uint32_t left = plan->chunks, slab = 0; left; slab++) {
        const uint32_t chunks = left < plan->chunks_per_slab ? left : plan->chunks_per_slab;
        const uint64_t bytes = chunks * plan->chunk_bytes;
        status = device_memory(cache, bytes, AKV_MEM_DEVICE, &cache->slab[slab]);
        if (status)
            return status;
        cache->slab_bytes[slab] = bytes;
        cache->slabs = slab + 1;
        status = akv_pool_add_slab(&cache->pool, slab, chunks);
        if (status)
            return status;
        left -= chunks;
    }
    return ANYKV_OK;
}

static anykv_status make_step(anykv_cache *cache, uint32_t slot)
{
    struct anykv_step *step = &cache->steps[slot];
    const uint32_t sequences = cache->plan.options.max_sequences,
                   groups = cache->layout->group_count;
    step->cache = cache;
    step->slot = slot;
    step->seqs = akv_alloc(cache->context, sequences, sizeof(anykv_seq *));
    step->counts = akv_alloc(cache->context, sequences, sizeof *step->counts);
    step->old_tails =
        akv_alloc(cache->context, (size_t)sequences * groups, sizeof *step->old_tails);
    step->spare = akv_alloc(cache->context, groups, sizeof *step->spare);
    step->kinds = akv_alloc(cache->context, groups, sizeof *step->kinds);
    step->appended = akv_alloc(cache->context, cache->layout->count, 1);
    step->image = akv_alloc(cache->context, cache->plan.step_bytes, 1);
    if (!step->seqs || !step->counts || !step->old_tails || !step->spare || !step->kinds ||
        !step->appended || !step->image)
        return ANYKV_E_MEMORY;
    return ANYKV_OK;
}

static void free_step(anykv_cache *cache, struct anykv_step *step)
{
    for (uint32_t g = 0; step->spare && g < cache->layout->group_count; g++)
        akv_free(cache->context, step->spare[g].id);
    akv_free(cache->context, step->seqs);
    akv_free(cache->context, step->counts);
    akv_free(cache->context, step->old_tails);
    akv_free(cache->context, step->spare);
    akv_free(cache->context, step->kinds);
    akv_free(cache->context, step->appended);
    akv_free(cache->context, step->image);
}

/* Means, matrices and angles. */
static anykv_status fill_maps(anykv_cache *cache)
{
    const uint64_t bytes = cache->plan.maps_bytes;
    if (bytes == 0)
        return ANYKV_OK;
    uint8_t *image = akv_alloc(cache->context, bytes, 1);
    if (!image)
        return ANYKV_E_MEMORY;
    akv_maps_of_layout(cache->layout, image);
    anykv_status status = akv_queue_put(cache->device->queue, akv_maps_span(cache), image);
    akv_free(cache->context, image);
    return status;
}

/* The lists of tiles that every seal reads, and the sticky flags. */
static anykv_status fill_fixed(anykv_cache *cache)
{
    const anykv_layout *layout = cache->layout;
    akv_seal_layer *layers = akv_alloc(cache->context, layout->count, sizeof *layers);
    if (!layers)
        return ANYKV_E_MEMORY;
    uint32_t count = 0;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t l = 0; l < layout->count; l++) {
            const struct akv_place *place = &layout->places[l];
            if (!place->owner || place->group != g)
                continue;
            akv_layout_tiles(layout, l, AKV_KIND_HOT, AKV_KIND_SEALED, &layers[count++]);
        }
    anykv_status status =
        akv_queue_put(cache->device->queue,
                      akv_fixed_span(cache, cache->plan.seal_at, count * sizeof *layers), layers);
    akv_free(cache->context, layers);
    if (!status)
        status = akv_queue_fill(cache->device->queue,
                                akv_fixed_span(cache, cache->plan.flags_at, 16), 0);
    return status;
}

/* The lists of tiles that the steps down read. */
static anykv_status fill_ladder(anykv_cache *cache)
{
    const uint32_t count = akv_ladder_tiles(cache->layout);
    if (count == 0)
        return ANYKV_OK;
    akv_seal_layer *tiles = akv_alloc(cache->context, count, sizeof *tiles);
    if (!tiles)
        return ANYKV_E_MEMORY;
    anykv_status status = akv_ladder_plan(cache->layout, &cache->ladder, tiles);
    if (!status)
        status = akv_queue_put(cache->device->queue,
                               akv_fixed_span(cache, cache->plan.lower_at, count * sizeof *tiles),
                               tiles);
    akv_free(cache->context, tiles);
    return status ? status : akv_lower_prepare(cache);
}

static anykv_status prepare_kernels(anykv_cache *cache)
{
    struct akv_device *device = cache->device->device;
    const anykv_layout *layout = cache->layout;
    anykv_status status = ANYKV_OK;
    for (uint32_t l = 0; l < layout->count && !status; l++) {
        akv_attend_params attend;
        akv_fill_attend(&cache->plan, layout, l, &attend);
        status = akv_kernel_prepare(device, AKV_K_ATTEND, &attend);
        if (!status && akv_attend_two_kinds(&attend))
            status = akv_kernel_prepare(device, AKV_K_ATTEND, &attend);
        if (!layout->places[l].owner)
            continue;
        akv_append_params append;
        akv_fill_append(&cache->plan, layout, l, &append);
        if (!status)
            status = akv_kernel_prepare(device, AKV_K_APPEND, &append);
        for (uint32_t side = 0; side < 2 && !status; side++) {
            akv_gather_params gather;
            akv_fill_gather(layout, l, side, &gather);
            gather.pool = akv_plan_map(&cache->plan, layout, layout->places[l].group);
            status = akv_kernel_prepare(device, AKV_K_GATHER, &gather);
        }
    }
    for (uint32_t g = 0; g < layout->group_count && !status; g++) {
        akv_copy_params copy;
        memset(&copy, 0, sizeof copy);
        copy.pool = akv_plan_map(&cache->plan, layout, g);
        copy.bytes = copy.pool.block_bytes[0];
        status = akv_kernel_prepare(device, AKV_K_COPY, &copy);
        if (status || !layout->groups[g].sealable)
            continue;
        akv_seal_params seal;
        akv_fill_seal(layout, g, &seal);
        seal.pool = copy.pool;
        status = akv_kernel_prepare(device, AKV_K_SEAL, &seal);
    }
    return status;
}

static anykv_status make_parts(anykv_cache *cache)
{
    anykv_context *context = cache->context;
    anykv_status status = akv_prefix_init(&cache->prefix, context, cache->layout->group_count,
                                          cache->plan.options.policy);
    cache->prefix.on_idle = akv_cache_on_idle;
    cache->prefix.user = cache;
    if (!status) {
        cache->need =
            akv_alloc(context, cache->layout->group_count * AKV_POOL_KINDS, sizeof *cache->need);
        status = cache->need ? ANYKV_OK : ANYKV_E_MEMORY;
    }
    if (!status)
        status = akv_events_init(&cache->events, context, cache->plan.options.events,
                                 akv_block_tokens(cache));
    for (uint32_t slot = 0; slot < AKV_OPEN_STEPS && !status; slot++)
        status = make_step(cache, slot);
    if (!status)
        status = device_memory(cache, cache->plan.device_bytes, AKV_MEM_DEVICE, &cache->fixed);
    if (!status && cache->plan.staged)
        status = device_memory(cache, cache->plan.staging_bytes, AKV_MEM_PINNED, &cache->pinned);
    if (!status)
        status = make_pool(cache);
    if (!status)
        status = prepare_kernels(cache);
    if (!status && (cache->plan.options.flags & ANYKV_CACHE_EVICT_TOKENS))
        status = akv_evict_prepare(cache);
    if (!status && cache->plan.options.token_policy)
        status = akv_evict_fits(cache, (anykv_token_policy)cache->plan.options.token_policy);
    if (!status && (cache->plan.options.flags & ANYKV_CACHE_COMPRESS))
        status = akv_cold_prepare(cache);
    if (!status)
        status = fill_fixed(cache);
    if (!status)
        status = fill_ladder(cache);
    if (!status)
        status = fill_maps(cache);
    return status;
}

anykv_status anykv_cache_create(anykv_device *device, const anykv_layout *layout,
                                const anykv_cache_options *options, anykv_cache **cache_out)
{
    if (!device || !layout || !cache_out)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device   ? "device"
                        : !layout ? "layout"
                                  : "cache_out");
    anykv_context *context = device->context;
    anykv_cache *cache = akv_alloc(context, 1, sizeof *cache);
    if (!cache)
        return ANYKV_E_MEMORY;
    cache->context = context;
    cache->device = device;
    cache->device_failures = akv_device_failures(device);
    cache->loose_first = cache->loose_last = AKV_NO_ID;
    cache->tenants = 1;
    anykv_status status = akv_layout_copy(layout, &cache->layout);
    if (status)
        goto free_cache;
    status = akv_plan_make(device, cache->layout, options, &cache->plan);
    if (status)
        goto free_layout;
    const struct akv_plan *plan = &cache->plan;
    cache->budget_bytes = plan->options.budget_bytes;
    if (plan->chunks < plan->minimum_chunks) {
        status = akv_fail(context, ANYKV_E_BUDGET,
                          "budget_bytes: %llu is below the minimum of %llu: %llu fixed and a pool "
                          "of %u chunks",
                          (unsigned long long)cache->budget_bytes,
                          (unsigned long long)akv_plan_minimum(plan, layout),
                          (unsigned long long)plan->fixed_bytes, plan->minimum_chunks);
        goto free_layout;
    }
    status = akv_mutex_init(context, &cache->io);
    if (status)
        goto free_layout;
    status = akv_mutex_init(context, &cache->lock);
    if (status)
        goto destroy_io;
    status = akv_mutex_init(context, &cache->reason_lock);
    if (status)
        goto destroy_lock;
    status = akv_mutex_init(context, &cache->list_lock);
    if (status)
        goto destroy_reason;
    status = make_parts(cache);
    if (status) {
        anykv_cache_destroy(cache);
        return status;
    }
    *cache_out = cache;
    return ANYKV_OK;
destroy_reason:
    akv_mutex_destroy(&cache->reason_lock);
destroy_lock:
    akv_mutex_destroy(&cache->lock);
destroy_io:
    akv_mutex_destroy(&cache->io);
free_layout:
    anykv_layout_destroy(cache->layout);
free_cache:
    akv_free(context, cache);
    return status;
}

void anykv_cache_destroy(anykv_cache *cache)
{
    if (!cache)
        return;
    if (cache->fixed) /* its memory must not go while kernels use it */
        (void)akv_device_finish(cache->device);
    for (uint32_t slot = 0; slot < AKV_OPEN_STEPS; slot++)
        anykv_step_cancel(&cache->steps[slot]);
    while (cache->seqs) /* forgotten ones go too, their handles with them */
        akv_seq_free(cache->seqs);
    for (uint32_t slot = 0; slot < AKV_OPEN_STEPS; slot++)
        free_step(cache, &cache->steps[slot]);
    for (uint32_t s = 0; s < AKV_MAX_SLABS; s++)
        if (cache->slab[s])
            akv_mem_free(cache->slab[s]);
    if (cache->pinned)
        akv_mem_free(cache->pinned);
    if (cache->fixed)
        akv_mem_free(cache->fixed);
    akv_pool_finish(&cache->pool);
    akv_ladder_finish(cache->context, &cache->ladder);
    akv_cold_finish(cache);
    akv_events_finish(&cache->events, cache->context);
    akv_prefix_finish(&cache->prefix);
    akv_free(cache->context, cache->need);
    akv_mutex_destroy(&cache->list_lock);
    akv_mutex_destroy(&cache->reason_lock);
    akv_mutex_destroy(&cache->lock);
    akv_mutex_destroy(&cache->io);
    anykv_layout_destroy(cache->layout);
    akv_free(cache->context, cache);
}
