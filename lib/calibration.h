/* SPDX-License-Identifier: Apache-2.0 */
/* Calibrations as the engine sees them. */
#ifndef AKV_CALIBRATION_H
#define AKV_CALIBRATION_H
#include "internal.h"
#include <stdatomic.h>

/* What was chosen for a head, and the mean square errors predicted; negative: not known.  That of a
 * keys' matrix is of queries that it was not fitted to. */
struct akv_prediction {
    uint32_t transform;
    double rotate, centre, matrix;
};

/* One side of a layer.  The transform is the most that one of its heads chose; a head that chose less
 * has a mean of zeros, or the normalised Hadamard for its matrix. */
struct akv_calibration_side {
    uint32_t transform; /* ANYKV_TRANSFORM_ROTATE, CENTRE (keys), MATRIX */
    uint32_t dim;
    /* Keys with CENTRE or MATRIX, else NULL: f16 mean of the keys before rotary embedding,
     * [kv_heads][dim]. */
    uint16_t *mu;
    /* With MATRIX, else NULL.  f16 [kv_heads][dim][dim]: stored component j = sum over i of
     * matrix[j][i] * x[i], x the centred row; the Hadamard is in it. */
    uint16_t *matrix;
    /* Its inverse transpose W, [kv_heads][dim][dim]: q.x = (W q).y for keys; a value comes back as
     * x[i] = sum over j of W[j][i] * y[j]. */
    float *inverse;
    struct akv_prediction *head; /* [kv_heads] */
    /* With bases, else NULL; of keys before rotary embedding, less `centre`.  f16 basis [kv_heads][dim][dim]:
     * coefficient j = sum over i of basis[j][i] * x[i], the most important first; x[i] = sum over j of
     * expand[j][i] * coefficient j, plus centre[i].  centre: keys only, f16 [kv_heads][dim]. */
    uint16_t *basis, *centre;
    float *expand;
};

struct akv_calibration_layer {
    uint32_t number; /* in the model */
    uint32_t kv_heads;
    uint32_t rope_pairs, rope; /* enum anykv_rope */
    uint64_t *turns;           /* [rope_pairs], as in anykv_layer */
    struct akv_calibration_side side[2]; /* keys, values */
};

struct anykv_calibration {
    anykv_context *context;
    atomic_uint holds;
    akv_digest digest;
    uint32_t count;
    struct akv_calibration_layer *layers; /* ascending by number */
    bool bases;
    uint32_t weights_bytes;               /* 0: of any model of this geometry */
    uint8_t weights[256];
    char model[256];
};

/* The record of a layer of the model; NULL: it has none, so the layer's rows are rotated. */
const struct akv_calibration_layer *akv_calibration_find(const anykv_calibration *calibration,
                                                         uint32_t number);
/* E_DATA, naming the field, unless the calibration was made for these weights (both stated and
 * different) and for layers of this geometry. */
anykv_status akv_calibration_fits(const anykv_calibration *calibration, const anykv_layer *layers,
                                  uint32_t count, const void *weights, uint32_t weights_bytes);
/* One more hold, which anykv_calibration_destroy drops. */
const anykv_calibration *akv_calibration_hold(const anykv_calibration *calibration);

/* The bytes of its file (calibration_file.c). */
size_t akv_calibration_bytes(const anykv_calibration *calibration);

/* ---- making one: allocate, fill the arrays, finish ---- */

/* An empty one with room for `count` layer records, held once. */
anykv_status akv_calibration_create(anykv_context *context, uint32_t count,
                                    anykv_calibration **calibration_out);
/* Allocates a record's arrays, from its kv_heads, rope_pairs and the sides' dim and transform. */
anykv_status akv_calibration_room(anykv_calibration *calibration, struct akv_calibration_layer *layer);
/* Checks the arrays' numbers, computes inverses and digest.  E_DATA names the field. */
anykv_status akv_calibration_finish(anykv_calibration *calibration);

#endif
