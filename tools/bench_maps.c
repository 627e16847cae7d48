/* SPDX-License-Identifier: Apache-2.0 */
/* Means and matrices for measurements. */
#include "bench_maps.h"
#include "../lib/maps.h"
#include <math.h>

static const char *const names[] = {"none", "rotate", "centre", "matrix"};

anykv_status bench_transform(const char *name, uint32_t *transform_out)
{
    for (uint32_t t = 0; t < sizeof names / sizeof names[0]; t++)
        if (strcmp(name, names[t]) == 0) {
            *transform_out = t;
            return ANYKV_OK;
        }
    return akv_fail(NULL, ANYKV_E_ARG, "transform: %s is none of none, rotate, centre, matrix",
                    name);
}

const char *bench_transform_name(uint32_t transform)
{
    return names[transform];
}

uint32_t bench_transform_flags(uint32_t transform)
{
    return transform >= AKV_TRANSFORM_CENTRE    ? AKV_FLAG_MAP
           : transform == AKV_TRANSFORM_ROTATE ? AKV_FLAG_ROTATE
                                               : 0u;
}

anykv_status bench_maps_create(struct bench *b, struct bench_device *device, uint32_t transform,
                               uint32_t heads, uint32_t dim, struct akv_mem **mem_out)
{
    uint64_t turns[AKV_MAX_HEAD_DIM / 2];
    const size_t row = (size_t)heads * dim;
    *mem_out = NULL;
    if (transform < AKV_TRANSFORM_CENTRE)
        return ANYKV_OK;
    uint16_t *numbers = akv_alloc(b->context, row * dim, sizeof *numbers);
    float *inverse = akv_alloc(b->context, row * dim, sizeof *inverse);
    uint8_t *image = NULL;
    anykv_status status = numbers && inverse ? ANYKV_OK : ANYKV_E_MEMORY;
    for (uint32_t i = 0; i < dim / 2; i++)
        turns[i] = (uint64_t)(pow(10000.0, -2.0 * i / dim) / 6.283185307179586 * 0x1p64);
    for (size_t i = 0; !status && i < row * dim; i++) {
        numbers[i] = (uint16_t)(0x2C00u + i * 40503u % 1024u);
        inverse[i] = 0.0625f + (float)(i % 1024) * 0x1p-14f;
    }
    struct akv_maps_side key = {transform, heads, dim, dim / 2, AKV_ROPE_HALF, turns, numbers,
                                numbers, inverse, NULL};
    struct akv_maps_side value = key;
    value.mean = NULL;
    value.transform = transform == AKV_TRANSFORM_MATRIX ? transform : AKV_TRANSFORM_ROTATE;
    struct akv_maps maps;
    for (uint32_t write = 0; write < 2 && !status; write++) {
        akv_maps_begin(&maps, image, 2);
        akv_maps_add(&maps, 0, &key);
        akv_maps_add(&maps, 1, &value);
        if (!write && !(image = akv_alloc(b->context, maps.bytes, 1)))
            status = ANYKV_E_MEMORY;
    }
    if (!status)
        status = akv_mem_alloc(device->device, maps.bytes, AKV_MEM_DEVICE, mem_out);
    if (!status)
        status = akv_queue_put(device->queue, (struct akv_span){*mem_out, 0, maps.bytes}, image);
    akv_free(b->context, numbers);
    akv_free(b->context, inverse);
    akv_free(b->context, image);
    return status;
}
