/* SPDX-License-Identifier: Apache-2.0 */
/* What the CPU backend's files share: how a kernel is written for it, and the dispatch table. */
#ifndef AKV_CPU_H
#define AKV_CPU_H
#include "../backend.h"

/* A launch with its spans resolved to host addresses. */
struct akv_cpu_args {
    const void *params;               /* akv_<name>_params */
    uint8_t *arg[AKV_MAX_ARGS];       /* NULL where absent */
    uint64_t arg_bytes[AKV_MAX_ARGS];
    uint8_t *slab[AKV_MAX_SLABS];
    uint32_t workers;                 /* that share this launch; results must not depend on it */
    /* AKV_CPU_WORK_BYTES of this worker alone, aligned to 64, for what is too large for a stack. */
    void *work;
};

/* Working memory of a worker; what needs more has no room in a worker. */
#define AKV_CPU_WORK_BYTES ((size_t)384 << 10)

/* A kernel is up to 3 phases; a phase is `items` independent pieces of work that any number of threads
 * take in any order (the queue hands out small ranges); a barrier stands between phases.  No phase
 * allocates.  The floating-point environment is R13's (nearest, no flush) while `run` is called. */
struct akv_cpu_kernel {
    uint32_t phases;
    uint64_t (*items)(const struct akv_cpu_args *args, uint32_t phase);
    void (*run)(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count);
    /* attend: bytes of scratch for the declared maxima in params, or NULL for none. */
    uint64_t (*scratch)(const void *params);
    /* Would it run?  NULL: always.  Returns NULL, or the reason why not as static text. */
    const char *(*refuse)(const void *params);
};

enum akv_isa { AKV_ISA_SCALAR, AKV_ISA_AVX2, AKV_ISA_AVX512, AKV_ISA_NEON, AKV_ISA_COUNT };

/* dispatch.c: entry of a kernel at an ISA level, NULL where that level has no override of its own.  A
 * device uses, for each kernel, the highest level that the processor has and the mask allows; SCALAR
 * always exists and is the reference. */
extern const struct akv_cpu_kernel *const akv_cpu_kernels[AKV_ISA_COUNT][AKV_KERNEL_COUNT];

/* Address of pool address a (slab and offset). */
static inline uint8_t *akv_cpu_at(const struct akv_cpu_args *args, uint64_t a)
{
    return args->slab[AKV_ADDR_SLAB(a)] + AKV_ADDR_OFFSET(a);
}

/* Entries by file: k_quant.c, k_quant_avx2.c, k_quant_avx512.c (encode, decode, rotate, seal, gather,
 * reencode),
 * k_page.c (append, copy), k_attend.c, k_attend_avx2.c, k_attend_avx512.c, k_evict.c,
 * k_evict_avx2.c, k_evict_avx512.c (score, mass), k_compress.c, k_compress_avx2.c,
 * k_compress_avx512.c (count, encode), k_rans.c, k_rans_avx512.c,
 * k_lowrank*.c (project, read, rows, multiply). */
extern const struct akv_cpu_kernel akv_cpu_encode_scalar, akv_cpu_decode_scalar, akv_cpu_rotate_scalar,
    akv_cpu_seal_scalar, akv_cpu_gather_scalar, akv_cpu_append_scalar, akv_cpu_copy_scalar,
    akv_cpu_attend_scalar, akv_cpu_reencode_scalar, akv_cpu_shift_scalar, akv_cpu_score_scalar, akv_cpu_mean_scalar,
    akv_cpu_mass_scalar, akv_cpu_select_scalar, akv_cpu_compact_scalar,
    akv_cpu_bx16_count_scalar, akv_cpu_bx16_encode_scalar, akv_cpu_bx16_decode_scalar,
    akv_cpu_rans_count_scalar, akv_cpu_rans_encode_scalar, akv_cpu_rans_decode_scalar, akv_cpu_lowrank_project_scalar,
    akv_cpu_lowrank_read_scalar, akv_cpu_lowrank_rows_scalar, akv_cpu_multiply_scalar;
/* k_quant_plant.c, linked by tests and the tool only: encode with a fault in bits 16..19 of its flags. */
extern const struct akv_cpu_kernel akv_cpu_encode_planted;
#if defined(AKV_HAVE_AVX2)
extern const struct akv_cpu_kernel akv_cpu_encode_avx2, akv_cpu_decode_avx2, akv_cpu_seal_avx2,
    akv_cpu_gather_avx2, akv_cpu_attend_avx2, akv_cpu_reencode_avx2, akv_cpu_shift_avx2, akv_cpu_score_avx2,
    akv_cpu_mass_avx2, akv_cpu_bx16_count_avx2, akv_cpu_bx16_encode_avx2, akv_cpu_bx16_decode_avx2,
    akv_cpu_lowrank_project_avx2, akv_cpu_lowrank_read_avx2, akv_cpu_lowrank_rows_avx2, akv_cpu_multiply_avx2;
#endif
#if defined(AKV_HAVE_AVX512)
extern const struct akv_cpu_kernel akv_cpu_encode_avx512, akv_cpu_decode_avx512, akv_cpu_seal_avx512,
    akv_cpu_gather_avx512, akv_cpu_attend_avx512, akv_cpu_reencode_avx512, akv_cpu_shift_avx512, akv_cpu_score_avx512,
    akv_cpu_mass_avx512, akv_cpu_bx16_count_avx512, akv_cpu_bx16_encode_avx512, akv_cpu_rans_count_avx512,
    akv_cpu_rans_encode_avx512, akv_cpu_rans_decode_avx512, akv_cpu_lowrank_project_avx512, akv_cpu_lowrank_read_avx512,
    akv_cpu_lowrank_rows_avx512, akv_cpu_multiply_avx512;
#endif
#if defined(AKV_HAVE_NEON)
extern const struct akv_cpu_kernel akv_cpu_attend_neon;
#endif

#endif
