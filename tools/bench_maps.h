/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices for measurements: made-up numbers, one record for keys and one for values. */
#ifndef AKV_BENCH_MAPS_H
#define AKV_BENCH_MAPS_H
#include "bench.h"

#define BENCH_MAP_KEYS   0u
#define BENCH_MAP_VALUES ((akv_u32)sizeof(akv_map))

/* AKV_TRANSFORM_* of a name, ANYKV_E_ARG for an unknown one. */
anykv_status bench_transform(const char *name, uint32_t *transform_out);
const char *bench_transform_name(uint32_t transform);
/* Flags of a side whose keys have this transform; values are only rotated, or have a matrix too. */
uint32_t bench_transform_flags(uint32_t transform);
/* The maps of `heads` heads in device memory; none and rotate: NULL. */
anykv_status bench_maps_create(struct bench *b, struct bench_device *device, uint32_t transform,
                               uint32_t heads, uint32_t dim, struct akv_mem **mem_out);

#endif
