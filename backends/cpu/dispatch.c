/* SPDX-License-Identifier: Apache-2.0 */
/* Which kernel runs on this processor: the table by instruction set, and the choice at run time. */
#include "device.h"
#if defined(AKV_HAVE_AVX2) || defined(AKV_HAVE_AVX512)
#include <cpuid.h>

/* clang 14's __builtin_cpu_supports does not know "f16c". */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

uint32_t akv_cpu_isa_levels(uint32_t isa_mask)
{
    uint32_t levels = 1u << AKV_ISA_SCALAR;
    (void)isa_mask;
#if defined(AKV_HAVE_AVX2) || defined(AKV_HAVE_AVX512)
    __builtin_cpu_init();
#endif
#if defined(AKV_HAVE_AVX2)
    if ((isa_mask & ANYKV_ISA_AVX2) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma") && has_f16c() && __builtin_cpu_supports("bmi2"))
        levels |= 1u << AKV_ISA_AVX2;
#endif
#if defined(AKV_HAVE_AVX512)
    if ((isa_mask & ANYKV_ISA_AVX512) && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma") && has_f16c())
        levels |= 1u << AKV_ISA_AVX512;
#endif
#if defined(AKV_HAVE_NEON)
    if (isa_mask & ANYKV_ISA_NEON)
        levels |= 1u << AKV_ISA_NEON;
#endif
    return levels;
}

const char *akv_cpu_isa_name(uint32_t levels)
{
    static const char *const names[AKV_ISA_COUNT] = {"scalar", "avx2", "avx512", "neon"};
    unsigned level = AKV_ISA_COUNT - 1;
    while (!(levels >> level & 1))
        level--;
    return names[level];
}

void akv_cpu_select(struct akv_cpu_device *device, uint32_t levels)
{
    for (unsigned k = 0; k < AKV_KERNEL_COUNT; k++)
        for (unsigned level = 0; level < AKV_ISA_COUNT; level++)
            if ((levels >> level & 1) && akv_cpu_kernels[level][k])
                device->kernel[k] = akv_cpu_kernels[level][k];
}

const struct akv_cpu_kernel *const akv_cpu_kernels[AKV_ISA_COUNT][AKV_KERNEL_COUNT] = {
    [AKV_ISA_SCALAR] =
        {
            [AKV_K_ENCODE] = &akv_cpu_encode_scalar,
            [AKV_K_DECODE] = &akv_cpu_decode_scalar,
            [AKV_K_ROTATE] = &akv_cpu_rotate_scalar,
            [AKV_K_SEAL] = &akv_cpu_seal_scalar,
            [AKV_K_APPEND] = &akv_cpu_append_scalar,
            [AKV_K_GATHER] = &akv_cpu_gather_scalar,
            [AKV_K_COPY] = &akv_cpu_copy_scalar,
            [AKV_K_ATTEND] = &akv_cpu_attend_scalar,
            [AKV_K_REENCODE] = &akv_cpu_reencode_scalar,
            [AKV_K_SHIFT] = &akv_cpu_shift_scalar,
            [AKV_K_SCORE] = &akv_cpu_score_scalar,
            [AKV_K_MEAN] = &akv_cpu_mean_scalar,
            [AKV_K_MASS] = &akv_cpu_mass_scalar,
            [AKV_K_SELECT] = &akv_cpu_select_scalar,
            [AKV_K_COMPACT] = &akv_cpu_compact_scalar,
            [AKV_K_BX16_COUNT] = &akv_cpu_bx16_count_scalar,
            [AKV_K_BX16_ENCODE] = &akv_cpu_bx16_encode_scalar,
            [AKV_K_BX16_DECODE] = &akv_cpu_bx16_decode_scalar,
            [AKV_K_RANS_COUNT] = &akv_cpu_rans_count_scalar,
            [AKV_K_RANS_ENCODE] = &akv_cpu_rans_encode_scalar,
            [AKV_K_RANS_DECODE] = &akv_cpu_rans_decode_scalar,
            [AKV_K_LOWRANK_PROJECT] = &akv_cpu_lowrank_project_scalar,
            [AKV_K_LOWRANK_READ] = &akv_cpu_lowrank_read_scalar,
            [AKV_K_LOWRANK_ROWS] = &akv_cpu_lowrank_rows_scalar,
            [AKV_K_MULTIPLY] = &akv_cpu_multiply_scalar,
        },
#if defined(AKV_HAVE_AVX2)
    [AKV_ISA_AVX2] =
        {
            [AKV_K_ENCODE] = &akv_cpu_encode_avx2,
            [AKV_K_DECODE] = &akv_cpu_decode_avx2,
            [AKV_K_SEAL] = &akv_cpu_seal_avx2,
            [AKV_K_GATHER] = &akv_cpu_gather_avx2,
            [AKV_K_ATTEND] = &akv_cpu_attend_avx2,
            [AKV_K_REENCODE] = &akv_cpu_reencode_avx2,
            [AKV_K_SHIFT] = &akv_cpu_shift_avx2,
            [AKV_K_SCORE] = &akv_cpu_score_avx2,
            [AKV_K_MASS] = &akv_cpu_mass_avx2,
            [AKV_K_BX16_COUNT] = &akv_cpu_bx16_count_avx2,
            [AKV_K_BX16_ENCODE] = &akv_cpu_bx16_encode_avx2,
            [AKV_K_BX16_DECODE] = &akv_cpu_bx16_decode_avx2,
            [AKV_K_LOWRANK_PROJECT] = &akv_cpu_lowrank_project_avx2,
            [AKV_K_LOWRANK_READ] = &akv_cpu_lowrank_read_avx2,
            [AKV_K_LOWRANK_ROWS] = &akv_cpu_lowrank_rows_avx2,
            [AKV_K_MULTIPLY] = &akv_cpu_multiply_avx2,
        },
#endif
#if defined(AKV_HAVE_AVX512)
    [AKV_ISA_AVX512] =
        {
            [AKV_K_ENCODE] = &akv_cpu_encode_avx512,
            [AKV_K_DECODE] = &akv_cpu_decode_avx512,
            [AKV_K_SEAL] = &akv_cpu_seal_avx512,
            [AKV_K_GATHER] = &akv_cpu_gather_avx512,
            [AKV_K_ATTEND] = &akv_cpu_attend_avx512,
            [AKV_K_REENCODE] = &akv_cpu_reencode_avx512,
            [AKV_K_SHIFT] = &akv_cpu_shift_avx512,
            [AKV_K_SCORE] = &akv_cpu_score_avx512,
            [AKV_K_MASS] = &akv_cpu_mass_avx512,
            [AKV_K_BX16_COUNT] = &akv_cpu_bx16_count_avx512,
            [AKV_K_BX16_ENCODE] = &akv_cpu_bx16_encode_avx512,
            [AKV_K_RANS_COUNT] = &akv_cpu_rans_count_avx512,
            [AKV_K_RANS_ENCODE] = &akv_cpu_rans_encode_avx512,
            [AKV_K_RANS_DECODE] = &akv_cpu_rans_decode_avx512,
            [AKV_K_LOWRANK_PROJECT] = &akv_cpu_lowrank_project_avx512,
            [AKV_K_LOWRANK_READ] = &akv_cpu_lowrank_read_avx512,
            [AKV_K_LOWRANK_ROWS] = &akv_cpu_lowrank_rows_avx512,
            [AKV_K_MULTIPLY] = &akv_cpu_multiply_avx512,
        },
#endif
};
