/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a step: append and attend, one launch each for the whole batch. */
#include "cache.h"
#include <math.h>

static anykv_status check_step(anykv_step *step, uint32_t layer)
{
    if (!step || !step->open)
        return akv_fail(NULL, ANYKV_E_ARG, "step: %s", step ? "not open" : "NULL");
    anykv_cache *cache = step->cache;
    if (layer >= cache->layout->count)
        return akv_fail(cache->context, ANYKV_E_ARG, "layer: %u, the layout has %u", layer,
                        cache->layout->count);
    anykv_status status = ANYKV_OK;
    akv_mutex_lock(&cache->lock);
    for (uint32_t i = 0; i < step->n && !status; i++)
        status = akv_seq_alive(step->seqs[i]);
    akv_mutex_unlock(&cache->lock);
    return status;
}

/* The step's descriptor for a layer group. */
static struct akv_span descriptor(const anykv_step *step, uint32_t group)
{
    const anykv_cache *cache = step->cache;
    return akv_fixed_span(cache,
                          step->slot * cache->plan.step_bytes + akv_step_image_at(cache, group),
                          akv_plan_step_bytes(&cache->plan, cache->layout, group));
}

/* Under the lock, so that the slabs stay while the launch names them. */
static anykv_status launch(anykv_cache *cache, struct akv_launch *record, akv_pool_map *map,
                           uint32_t group)
{
    akv_mutex_lock(&cache->lock);
    *map = akv_pool_group_map(&cache->pool, group, cache->slabs);
    struct akv_launch whole;
    akv_launch_init(cache, &whole, record->kernel, record->params);
    memcpy(whole.arg, record->arg, sizeof whole.arg);
    cache->epoch++;
    anykv_status status = akv_kernel_launch(cache->device->queue, &whole);
    akv_mutex_unlock(&cache->lock);
    return status;
}

/* ---- append ---- */

static anykv_status append(anykv_step *step, uint32_t layer, const anykv_view *k,
                           const anykv_view *v)
{
    anykv_cache *cache = step->cache;
    const uint32_t g = cache->layout->places[layer].group;
    const struct akv_group *group = &cache->layout->groups[g];
    akv_append_params params;
    akv_fill_append(&cache->plan, cache->layout, layer, &params);
    struct akv_stage stage = {.cache = cache};
    struct akv_launch record = {.kernel = AKV_K_APPEND, .params = &params};
    record.arg[0] = descriptor(step, g);
    anykv_status status = akv_stage_rows(&stage, "k", k, step->tokens, group->kv_heads,
                                         group->k_dim, false, &record.arg[1], &params.k);
    if (!status)
        status = akv_stage_rows(&stage, "v", v, step->tokens, group->kv_heads, group->v_dim, false,
                                &record.arg[2], &params.v);
    if (status)
        return status;
    status = launch(cache, &record, &params.pool, g);
    return akv_stage_finish(&stage, status);
}

anykv_status anykv_step_append(anykv_step *step, uint32_t layer, const anykv_view *k,
                               const anykv_view *v)
{
    anykv_status status = check_step(step, layer);
    if (status)
        return status;
    anykv_cache *cache = step->cache;
    if (!k || !v)
        return akv_fail(cache->context, ANYKV_E_ARG, "%s: NULL", k ? "v" : "k");
    if (!cache->layout->places[layer].owner)
        return akv_fail(cache->context, ANYKV_E_STATE,
                        "layer: %u reads the rows of layer %u and has none of its own", layer,
                        cache->layout->layers[layer].source);
    if (step->appended[layer])
        return akv_fail(cache->context, ANYKV_E_STATE, "layer: %u was appended already", layer);
    if (step->tokens) {
        const bool host = k->data || v->data; /* device views wait for nobody */
        if (host)
            akv_mutex_lock(&cache->io);
        status = append(step, layer, k, v);
        if (host)
            akv_mutex_unlock(&cache->io);
        if (status)
            return status;
        step->missing--;
    }
    step->appended[layer] = 1;
    return ANYKV_OK;
}

/* ---- attend ---- */

static anykv_status check_params(const anykv_step *step, const anykv_attend_params *params)
{
    anykv_context *context = step->cache->context;
    if (params->flags & ~ANYKV_ATTEND_BIDIRECTIONAL)
        return akv_fail(context, ANYKV_E_ARG, "flags: 0x%x has unknown bits", params->flags);
    if (!isfinite(params->scale))
        return akv_fail(context, ANYKV_E_ARG, "scale: %g is not finite", (double)params->scale);
    if (!isfinite(params->cap) || params->cap < 0.0f)
        return akv_fail(context, ANYKV_E_ARG, "cap: %g is not zero or positive",
                        (double)params->cap);
    if (params->window != ANYKV_WINDOW_NONE && params->window > 0x7FFFFFFFu)
        return akv_fail(context, ANYKV_E_ARG, "window: %u is above %u", params->window,
                        0x7FFFFFFFu);
    if (params->mask && params->mask_stride < step->most_tokens)
        return akv_fail(context, ANYKV_E_SHAPE, "mask_stride: %llu, a sequence has %u new tokens",
                        (unsigned long long)params->mask_stride, step->most_tokens);
    if (params->mask && params->mask_stride > UINT32_MAX)
        return akv_fail(context, ANYKV_E_SHAPE, "mask_stride: %llu is above %u",
                        (unsigned long long)params->mask_stride, UINT32_MAX);
    if (!params->mask && params->mask_stride)
        return akv_fail(context, ANYKV_E_ARG, "mask: NULL with a mask_stride of %llu",
                        (unsigned long long)params->mask_stride);
    return ANYKV_OK;
}

/* The mask's rows, dense where they are staged: only the columns that the step has. */
static anykv_status stage_mask(const anykv_step *step, struct akv_stage *stage,
                               const anykv_attend_params *given, struct akv_span *span,
                               uint32_t *stride_out)
{
    const anykv_cache *cache = step->cache;
    if (!cache->plan.staged) {
        *stride_out = (uint32_t)given->mask_stride;
        return akv_stage_bytes(stage, given->mask,
                               ((step->tokens - 1) * given->mask_stride + step->most_tokens) *
                                   sizeof(float),
                               false, span);
    }
    *stride_out = step->most_tokens;
    const anykv_view view = {
        (void *)(uintptr_t)given->mask, NULL, 0, ANYKV_F32, given->mask_stride, step->most_tokens};
    akv_rows rows;
    return akv_stage_rows(stage, "mask", &view, step->tokens, 1, step->most_tokens, false, span,
                          &rows);
}

static anykv_status attend(anykv_step *step, uint32_t layer, const anykv_view *q,
                           const anykv_attend_params *given, const anykv_view *out)
{
    anykv_cache *cache = step->cache;
    const uint32_t g = cache->layout->places[layer].group;
    akv_attend_params params;
    akv_fill_attend(&cache->plan, cache->layout, layer, &params);
    if (given->scale != 0.0f)
        params.scale = given->scale;
    params.cap = given->cap;
    for (uint32_t i = 0; given->window && given->window != ANYKV_WINDOW_NONE && i < step->n; i++)
        if (step->seqs[i]->kept_rows)
            return akv_fail(cache->context, ANYKV_E_UNSUPPORTED,
                            "window: tokens were evicted from sequence %u of the step", i);
    if (given->window)
        params.window = given->window == ANYKV_WINDOW_NONE ? 0 : given->window;
    params.flags |= (given->flags & ANYKV_ATTEND_BIDIRECTIONAL ? AKV_ATTEND_BIDIRECTIONAL : 0) |
                    (given->mask ? AKV_ATTEND_MASK : 0) | (given->sinks ? AKV_ATTEND_SINKS : 0) |
                    (given->lse ? AKV_ATTEND_LSE : 0);
    /* Without blocks of the lower rungs the kernels for two kinds do. */
    for (uint32_t kind = AKV_KIND_RUNG; kind < AKV_POOL_KINDS; kind++)
        if (!(step->kinds[g] >> kind & 1u))
            params.tiles.k_format[kind] = params.tiles.v_format[kind] = 0;
    params.bound_sequences = step->n;
    params.bound_seq_tokens = step->most_tokens;
    params.bound_length = step->longest;
    struct akv_stage stage = {.cache = cache};
    struct akv_launch record = {.kernel = AKV_K_ATTEND, .params = &params};
    record.arg[0] = descriptor(step, g);
    record.arg[7] = akv_maps_span(cache);
    if (cache->plan.scratch_bytes)
        record.arg[6] = akv_fixed_span(cache, cache->plan.scratch_at, cache->plan.scratch_bytes);
    anykv_status status = akv_stage_rows(&stage, "q", q, step->tokens, params.q_heads, params.k_dim,
                                         false, &record.arg[1], &params.q);
    if (!status)
        status = akv_stage_rows(&stage, "out", out, step->tokens, params.q_heads, params.v_dim,
                                true, &record.arg[2], &params.out);
    if (!status && given->lse)
        status = akv_stage_bytes(&stage, given->lse,
                                 (uint64_t)step->tokens * params.q_heads * sizeof(float), true,
                                 &record.arg[3]);
    if (!status && given->mask)
        status = stage_mask(step, &stage, given, &record.arg[4], &params.mask_stride);
    if (!status && given->sinks)
        status = akv_stage_bytes(&stage, given->sinks, params.q_heads * sizeof(float), false,
                                 &record.arg[5]);
    if (status)
        return status;
    status = launch(cache, &record, &params.pool, g);
    return akv_stage_finish(&stage, status);
}

anykv_status anykv_step_attend(anykv_step *step, uint32_t layer, const anykv_view *q,
                               const anykv_attend_params *params, const anykv_view *out)
{
    anykv_status status = check_step(step, layer);
    if (status)
        return status;
    anykv_cache *cache = step->cache;
    if (!q || !out)
        return akv_fail(cache->context, ANYKV_E_ARG, "%s: NULL", q ? "out" : "q");
    anykv_attend_params given = ANYKV_ATTEND_PARAMS_INIT;
    status = akv_options(cache->context, "attend params", &given, sizeof given, params);
    if (!status)
        status = check_params(step, &given);
    if (status)
        return status;
    const anykv_layer *record = &cache->layout->layers[layer];
    const uint32_t rows = record->source == ANYKV_OWN_ROWS ? layer : record->source;
    if (step->tokens && !step->appended[rows])
        return akv_fail(cache->context, ANYKV_E_STATE,
                        "layer: the new rows of layer %u are not appended", rows);
    if (step->tokens == 0)
        return ANYKV_OK;
    const bool host = q->data || out->data || given.mask || given.sinks || given.lse;
    if (host)
        akv_mutex_lock(&cache->io);
    status = attend(step, layer, q, &given, out);
    if (host)
        akv_mutex_unlock(&cache->io);
    if (status)
        return status;
    akv_mutex_lock(&cache->lock);
    for (uint32_t i = 0; i < step->n; i++)
        cache->count.tokens_attended += step->counts[i];
    akv_mutex_unlock(&cache->lock);
    return ANYKV_OK;
}

/* ---- calls that a recording of the device's queue makes ---- */

static uint64_t mix(uint64_t hash, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

/* Everything of a launch's record that is neither the caller's nor the same for all steps. */
static uint64_t recording(const anykv_step *step)
{
    const anykv_cache *cache = step->cache;
    const uint32_t numbers[] = {step->slot, step->n, step->most_tokens, cache->slabs};
    uint64_t hash = mix(0xCBF29CE484222325u, numbers, sizeof numbers);
    hash = mix(hash, cache->slab, cache->slabs * sizeof *cache->slab);
    hash = mix(hash, cache->slab_bytes, cache->slabs * sizeof *cache->slab_bytes);
    for (uint32_t g = 0; g < cache->layout->group_count; g++) {
        const uint32_t rungs = step->kinds[g] >> AKV_KIND_RUNG;
        hash = mix(hash, &rungs, sizeof rungs);
    }
    return hash ? hash : 1;
}

uint64_t anykv_step_recording(const anykv_step *step)
{
    if (!step || !step->open)
        return 0;
    akv_mutex_lock(&step->cache->lock);
    const uint64_t number = recording(step);
    akv_mutex_unlock(&step->cache->lock);
    return number;
}

anykv_status anykv_step_replayed(anykv_step *step, uint64_t number)
{
    anykv_status status = check_step(step, 0);
    if (status)
        return status;
    anykv_cache *cache = step->cache;
    for (uint32_t l = 0; l < cache->layout->count; l++)
        if (step->appended[l])
            return akv_fail(cache->context, ANYKV_E_STATE, "layer: %u was appended already", l);
    akv_mutex_lock(&cache->lock);
    if (number != recording(step))
        status = akv_fail(cache->context, ANYKV_E_STATE,
                          "recording: of a step with other launches than this one's");
    for (uint32_t l = 0; l < cache->layout->count && !status; l++) {
        step->appended[l] = cache->layout->places[l].owner;
        cache->count.tokens_attended += step->tokens;
    }
    if (!status) {
        step->missing = 0;
        cache->epoch++;
    }
    akv_mutex_unlock(&cache->lock);
    return status;
}
