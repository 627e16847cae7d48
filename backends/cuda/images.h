/* SPDX-License-Identifier: Apache-2.0 */
/* The embedded device images (fatbins), one a .cu file. */
#ifndef AKV_CUDA_IMAGES_H
#define AKV_CUDA_IMAGES_H

enum akv_cuda_image {
    AKV_IMAGE_QUANT,
    AKV_IMAGE_QUANT_BLOCKS,
    AKV_IMAGE_PAGE,
    AKV_IMAGE_ATTEND,
    AKV_IMAGE_ATTEND_DECODE, /* sm_90 and newer only */
    AKV_IMAGE_ATTEND_MAPPED, /* the same */
    AKV_IMAGE_ATTEND_PREFILL, /* sm_80 and newer only */
    AKV_IMAGE_EVICT,
    AKV_IMAGE_COMPRESS,
    AKV_IMAGE_RANS,
    AKV_IMAGE_LOWRANK,
    AKV_IMAGES
};
const void *akv_cuda_image(enum akv_cuda_image image);

#endif
