/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up calibrations: means of a few units, matrices near the identity, frequencies as models have
 * them. */
#ifndef TESTS_MAPS_CASE_H
#define TESTS_MAPS_CASE_H
#include "engine.h"
#include "lib/calibration.h"
#include "lib/half.h"
#include <math.h>

/* Frequencies 10000^(-i/pairs) of a radian a position, in 2^-64 turns. */
static inline void maps_turns(uint64_t *turns, uint32_t pairs)
{
    for (uint32_t i = 0; i < pairs; i++)
        turns[i] = (uint64_t)(pow(10000.0, -(double)i / pairs) / 6.283185307179586 * 0x1p64);
}

static inline double maps_random(uint64_t *state)
{
    return (double)(house_random(state) % 2001) / 1000.0 - 1.0;
}

/* For layers that own their rows, as far as they ask. */
static inline anykv_calibration *maps_calibration(anykv_context *context, const anykv_layer *layers,
                                                  uint32_t count, uint64_t seed)
{
    anykv_calibration *calibration;
    uint32_t number[16], owners = 0;
    for (uint32_t l = 0; l < count; l++)
        if (layers[l].source == ANYKV_OWN_ROWS)
            number[owners++] = l;
    OK(akv_calibration_create(context, owners, &calibration));
    for (uint32_t n = 0; n < owners; n++) {
        const anykv_layer *from = &layers[number[n]];
        struct akv_calibration_layer *layer = &calibration->layers[n];
        layer->number = number[n];
        layer->kv_heads = from->kv_heads;
        layer->rope_pairs = from->rope_pairs;
        layer->rope = (uint32_t)from->rope;
        layer->side[0].dim = from->k_dim;
        layer->side[1].dim = from->v_dim;
        layer->side[0].transform = AKV_MAX((uint32_t)from->k_transform, 1u);
        layer->side[1].transform = AKV_MAX((uint32_t)from->v_transform, 1u);
        OK(akv_calibration_room(calibration, layer));
        if (from->rope_pairs)
            memcpy(layer->turns, from->rope_turns, from->rope_pairs * sizeof *layer->turns);
        for (uint32_t side = 0; side < 2; side++) {
            struct akv_calibration_side *s = &layer->side[side];
            const size_t dim = s->dim;
            for (size_t i = 0; s->mu && i < layer->kv_heads * dim; i++)
                s->mu[i] = akv_half_bits(maps_random(&seed) * 4.0);
            for (size_t i = 0; s->matrix && i < layer->kv_heads * dim * dim; i++)
                s->matrix[i] = akv_half_bits((i / dim % dim == i % dim ? 1.0 : 0.0) +
                                             0.3 * maps_random(&seed) / sqrt((double)dim));
            for (uint32_t h = 0; h < layer->kv_heads; h++)
                s->head[h].transform = s->transform;
        }
    }
    OK(akv_calibration_finish(calibration));
    return calibration;
}

#endif
