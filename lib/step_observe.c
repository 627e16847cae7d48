/* SPDX-License-Identifier: Apache-2.0 */
/* Moments from live steps: the rows that an engine appends and attends with, at their positions. */
#include "cache.h"
#include "moments.h"

/* A view in host memory of the same rows; what had to be copied is in *copy. */
static anykv_status bring(anykv_step *step, const char *what, const anykv_view *view,
                          uint32_t heads, uint32_t dim, anykv_view *host, void **copy)
{
    anykv_device *device = step->cache->device;
    struct akv_span span = {NULL, 0, 0};
    if (!view)
        return ANYKV_OK;
    anykv_status status =
        akv_view_check(device, what, view, step->tokens, heads, dim, false, &span);
    if (status)
        return status;
    *host = *view;
    if (view->data || !span.bytes)
        return ANYKV_OK;
    *copy = akv_alloc(device->context, (size_t)span.bytes, 1);
    if (!*copy)
        return ANYKV_E_MEMORY;
    host->data = *copy;
    host->mem = NULL;
    host->offset = 0;
    status = akv_queue_get(device->queue, *copy, span);
    const anykv_status finished = akv_device_finish(device);
    return status ? status : finished;
}

/* The rows from token `first` of the step on. */
static const anykv_view *behind(const anykv_view *wanted, anykv_view *view, uint32_t first)
{
    if (!wanted)
        return NULL;
    view->data = (uint8_t *)view->data +
                 first * view->token_stride * akv_raw_bytes((akv_u32)view->dtype);
    return view;
}

static anykv_status check_geometry(const anykv_step *step, const anykv_moments *moments)
{
    const anykv_layout *layout = step->cache->layout;
    bool same = moments->count == layout->count;
    for (uint32_t l = 0; same && l < layout->count; l++) {
        const anykv_layer *a = &moments->layers[l], *b = &layout->layers[l];
        same = a->kv_heads == b->kv_heads && a->q_heads == b->q_heads && a->k_dim == b->k_dim &&
               a->v_dim == b->v_dim && a->source == b->source;
    }
    return same ? ANYKV_OK
                : akv_fail(step->cache->context, ANYKV_E_ARG,
                           "moments: of other layers than the cache's layout");
}

anykv_status anykv_step_observe(anykv_step *step, uint32_t layer, const anykv_view *k,
                                const anykv_view *v, const anykv_view *q, anykv_moments *moments)
{
    if (!step || !step->open || !moments)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: %s", moments ? "step" : "moments",
                        step && moments ? "not open" : "NULL");
    anykv_context *context = step->cache->context;
    const anykv_layout *layout = step->cache->layout;
    if (layer >= layout->count)
        return akv_fail(context, ANYKV_E_ARG, "layer: %u, the layout has %u", layer, layout->count);
    anykv_status status = check_geometry(step, moments);
    if (status || !step->tokens)
        return status;
    const anykv_layer *shape = &layout->layers[layer];
    anykv_view rows[3];
    void *copy[3] = {NULL, NULL, NULL};
    memset(rows, 0, sizeof rows);
    status = bring(step, "k", k, shape->kv_heads, shape->k_dim, &rows[0], &copy[0]);
    if (!status)
        status = bring(step, "v", v, shape->kv_heads, shape->v_dim, &rows[1], &copy[1]);
    if (!status)
        status = bring(step, "q", q, shape->q_heads, shape->k_dim, &rows[2], &copy[2]);
    for (uint32_t i = 0, before = 0; i < step->n && !status; i++) {
        status = anykv_moments_add(moments, layer, step->seqs[i]->length + step->seqs[i]->dropped, step->counts[i],
                                   behind(k, &rows[0], before), behind(v, &rows[1], before),
                                   behind(q, &rows[2], before));
        before = step->counts[i];
    }
    for (int i = 0; i < 3; i++)
        akv_free(context, copy[i]);
    return status;
}
