/* SPDX-License-Identifier: Apache-2.0 */
/* Embeds the device images that nvcc made; paths are relative to the build folder. */
#include "images.h"

#define IMAGE(name)                                                                                \
    __asm__(".pushsection .rodata\n"                                                               \
            ".balign 64\n"                                                                         \
            ".globl akv_cuda_image_" #name "\n"                                                    \
            ".hidden akv_cuda_image_" #name "\n"                                                   \
            "akv_cuda_image_" #name ":\n"                                                          \
            ".incbin \"kernels-cu/" #name ".fatbin\"\n"                                            \
            ".byte 0\n"                                                                            \
            ".popsection\n");                                                                      \
    extern const unsigned char akv_cuda_image_##name[] __attribute__((visibility("hidden")));

IMAGE(quant)
IMAGE(quant_blocks)
IMAGE(page)
IMAGE(attend)
IMAGE(attend_decode)
IMAGE(attend_mapped)
IMAGE(attend_prefill)
IMAGE(evict)
IMAGE(compress)
IMAGE(rans)
IMAGE(lowrank)

const void *akv_cuda_image(enum akv_cuda_image image)
{
    static const unsigned char *const all[AKV_IMAGES] = {
        [AKV_IMAGE_QUANT] = akv_cuda_image_quant,
        [AKV_IMAGE_QUANT_BLOCKS] = akv_cuda_image_quant_blocks,
        [AKV_IMAGE_PAGE] = akv_cuda_image_page,
        [AKV_IMAGE_ATTEND] = akv_cuda_image_attend,
        [AKV_IMAGE_ATTEND_DECODE] = akv_cuda_image_attend_decode,
        [AKV_IMAGE_ATTEND_MAPPED] = akv_cuda_image_attend_mapped,
        [AKV_IMAGE_ATTEND_PREFILL] = akv_cuda_image_attend_prefill,
        [AKV_IMAGE_EVICT] = akv_cuda_image_evict,
        [AKV_IMAGE_COMPRESS] = akv_cuda_image_compress,
        [AKV_IMAGE_RANS] = akv_cuda_image_rans,
        [AKV_IMAGE_LOWRANK] = akv_cuda_image_lowrank,
    };
    return all[image];
}
