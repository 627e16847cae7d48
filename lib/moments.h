/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over a model's keys, values and queries, from which a calibration is solved. */
#ifndef AKV_MOMENTS_H
#define AKV_MOMENTS_H
#include "internal.h"

/* The trigonometric vector of position p has 2 * rope_pairs + 1 elements: cos of every pair's angle,
 * sin of every pair's angle, 1.  A mean turned to position p is linear in it, so one pass over the
 * rows is enough although the mean is not known before its end. */
struct akv_layer_moments {
    uint64_t keys, values, queries; /* positions added; queries of all layers that read these rows */
    uint64_t judges;                /* queries of the second half */
    double *trig;     /* [t][t], of the positions of keys, shared by the heads */
    double *key_plain; /* the same of keys before rotary embedding */
    double *key;      /* [kv_heads][k_dim][k_dim], sum of k * k^T */
    double *key_trig; /* [kv_heads][k_dim][t], sum of k * trig^T */
    double *query;    /* [half][kv_heads][k_dim][k_dim], sum over the q heads of the group */
    double *value;    /* [kv_heads][v_dim][v_dim] */
};

struct anykv_moments {
    anykv_context *context;
    anykv_layer *layers; /* copies; rope_turns point into turns */
    uint64_t *turns;
    uint32_t count;
    struct akv_layer_moments *sums; /* [count]; arrays are made when rows first come */
    double *row, *angle;            /* of the largest layer: a row, a trigonometric vector */
};

/* Queries are dealt to two halves in runs of this many positions, as they come: neighbours are alike. */
#define AKV_HALF_RUN 64u

/* Elements of pair i of a layer's keys. */
static inline void akv_rope_pair(const anykv_layer *layer, uint32_t i, uint32_t *a, uint32_t *b)
{
    *a = layer->rope == ANYKV_ROPE_HALF ? i : 2 * i;
    *b = layer->rope == ANYKV_ROPE_HALF ? i + layer->rope_pairs : 2 * i + 1;
}

#endif
