/* SPDX-License-Identifier: Apache-2.0 */
/* What the suites of steps share: a cache with two layer groups, and steps half done. */
#ifndef TESTS_STEPS_H
#define TESTS_STEPS_H
#include "engine.h"
#include <math.h>

static struct engine engine;

static inline void start_at(uint32_t threads, uint32_t recent, bool staged)
{
    anykv_layer layers[2] = {engine_layer(1, 64, 0), engine_layer(2, 64, 40)};
    anykv_cache_options options = engine_options(8u << 20);
    options.recent = recent;
    engine_start_at(&engine, layers, 2, &options, threads, staged);
}

static inline void start(uint32_t threads, uint32_t recent)
{
    start_at(threads, recent, false);
}

static inline void stop(void)
{
    audit(engine.cache, "at the end");
    engine_stop(&engine);
}

/* A step of one sequence that is open: descriptor made, nothing appended. */
static inline anykv_step *begin_one(anykv_seq *seq, uint32_t count)
{
    anykv_step *step;
    OK(anykv_step_begin(engine.cache, &seq, &count, 1, &step));
    return step;
}

static inline void seeds_for(uint64_t *seeds, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        seeds[i] = engine_chain(first + i, 100 + first + i);
}

static inline anykv_status attend_layer(anykv_step *step, uint32_t layer,
                                        const anykv_attend_params *params, float *out)
{
    const anykv_layer *record = &step->cache->layout->layers[layer];
    const size_t count = (size_t)step->tokens * record->q_heads * record->k_dim;
    float *q = malloc((count + 1) * sizeof *q);
    for (size_t i = 0; i < count; i++)
        q[i] = (float)((int)(i * 2654435761u >> 20 & 63) - 32) / 256.0f;
    const anykv_view q_view = anykv_view_host(q, ANYKV_F32, record->q_heads, record->k_dim);
    const anykv_view o_view = anykv_view_host(out, ANYKV_F32, record->q_heads, record->v_dim);
    const anykv_status status = anykv_step_attend(step, layer, &q_view, params, &o_view);
    free(q);
    return status;
}

#endif
