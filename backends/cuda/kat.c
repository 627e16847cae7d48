/* SPDX-License-Identifier: Apache-2.0 */
/* Known-answer test of a CUDA device, run when it is opened. */
#include "cuda.h"
#include "../known.h"

struct rig {
    struct akv_queue *queue;
    struct akv_mem *rows, *tile, *flags;
};

static anykv_status answer(const struct rig *rig, uint32_t format, uint64_t *hash_out)
{
    float rows[AKV_KNOWN_ROWS * AKV_KNOWN_DIM], back[AKV_KNOWN_ROWS * AKV_KNOWN_DIM];
    uint8_t tile[AKV_KNOWN_TILE];
    akv_encode_params params = akv_known_params(format);
    struct akv_span all_rows = {rig->rows, 0, sizeof rows}, all_tile = {rig->tile, 0, sizeof tile};
    struct akv_launch encode = {.kernel = AKV_K_ENCODE,
                                .params = &params,
                                .arg = {all_rows, all_tile, {rig->flags, 0, sizeof(uint32_t)}}};
    struct akv_launch decode = {.kernel = AKV_K_DECODE, .params = &params, .arg = {all_tile, all_rows}};
    akv_known_rows(rows);
    anykv_status status = akv_cuda_put(rig->queue, all_rows, rows);
    if (!status)
        status = akv_cuda_fill(rig->queue, all_tile, 0);
    if (!status)
        status = akv_cuda_launch(rig->queue, &encode);
    if (!status)
        status = akv_cuda_launch(rig->queue, &decode);
    if (!status)
        status = akv_cuda_get(rig->queue, tile, all_tile);
    if (!status)
        status = akv_cuda_get(rig->queue, back, all_rows);
    anykv_status waited = akv_cuda_wait(rig->queue, UINT64_MAX); /* nothing may write behind us */
    if (!status)
        status = waited;
    if (!status)
        *hash_out = akv_known_hash(tile, back);
    return status;
}

anykv_status akv_cuda_kat(struct akv_cuda_device *device)
{
    struct akv_device *base = &device->base;
    struct rig rig = {NULL, NULL, NULL, NULL};
    anykv_status status = akv_cuda_queue_create(base, NULL, &rig.queue);
    if (!status)
        status = akv_cuda_mem_alloc(base, AKV_KNOWN_ROWS * AKV_KNOWN_DIM * sizeof(float), AKV_MEM_DEVICE,
                                    &rig.rows);
    if (!status)
        status = akv_cuda_mem_alloc(base, AKV_KNOWN_TILE, AKV_MEM_DEVICE, &rig.tile);
    if (!status)
        status = akv_cuda_mem_alloc(base, sizeof(uint32_t), AKV_MEM_DEVICE, &rig.flags);
    for (size_t i = 0; i < sizeof akv_known / sizeof akv_known[0] && !status; i++) {
        uint64_t hash = 0;
        status = answer(&rig, akv_known[i].format, &hash);
        if (!status && hash != akv_known[i].hash)
            status = akv_known_fail(base, "cuda", akv_known[i].format, hash, akv_known[i].hash);
    }
    if (rig.flags)
        akv_cuda_mem_free(rig.flags);
    if (rig.tile)
        akv_cuda_mem_free(rig.tile);
    if (rig.rows)
        akv_cuda_mem_free(rig.rows);
    if (rig.queue)
        akv_cuda_queue_destroy(rig.queue);
    return status;
}
