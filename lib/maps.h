/* SPDX-License-Identifier: Apache-2.0 */
/* The constants of means and matrices as kernels read them: akv_map records, then what they name. */
#ifndef AKV_MAPS_H
#define AKV_MAPS_H
#include "layout.h"

/* One side of a layer. */
struct akv_maps_side {
    uint32_t transform; /* AKV_TRANSFORM_* */
    uint32_t heads, dim, pairs, rope;
    const uint64_t *turns;  /* [pairs] */
    const uint16_t *mean;   /* f16 [heads][dim], or NULL */
    const uint16_t *matrix; /* MATRIX: as in calibration.h */
    const float *inverse;
    const float *scales; /* [heads], or NULL */
};

#define AKV_MAPS_TURNS 4u /* sets of frequencies that are remembered */
struct akv_maps {
    uint8_t *image; /* NULL: only the size is wanted */
    uint64_t bytes;
    struct {
        const uint64_t *turns;
        akv_map at;
    } known[AKV_MAPS_TURNS];
    uint32_t next;
};

/* Starts a set of `sides` records, the first `sides * sizeof(akv_map)` bytes. */
void akv_maps_begin(struct akv_maps *maps, uint8_t *image, uint32_t sides);
/* Writes record `index` and its constants. */
void akv_maps_add(struct akv_maps *maps, uint32_t index, const struct akv_maps_side *side);

/* What a calibration makes of one side of a layer for which `wanted` was asked: never more than it
 * has.  number: of the layer in the model. */
void akv_maps_calibrated(const anykv_calibration *calibration, uint32_t number, uint32_t side,
                         anykv_transform wanted, struct akv_maps_side *out);
/* The whole layout's, record place.map[side] for each layer; image NULL: the size.  0: none. */
uint64_t akv_maps_of_layout(const anykv_layout *layout, uint8_t *image);

#endif
