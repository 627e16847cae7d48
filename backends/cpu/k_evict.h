/* SPDX-License-Identifier: Apache-2.0 */
/* What score's instruction sets share on the CPU. */
#ifndef AKV_K_EVICT_H
#define AKV_K_EVICT_H
#include "../../lib/kernel/evict.h"
#include "k_quant_scalar.h"

static inline uint64_t e_score_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_score_params *p = args->params;
    (void)phase;
    return (uint64_t)p->kv_heads * ((p->rows + p->block_tokens - 1u) / p->block_tokens);
}

/* The head's weights at their level, padded; returns its b. */
static inline float e_weights(const struct akv_cpu_args *args, const akv_score_params *p,
                              uint32_t head, uint32_t side, float *weight)
{
    const uint32_t dp = akv_padded_dim(p->k_dim);
    memset(weight, 0, dp * sizeof *weight);
    for (uint32_t i = 0; i < p->k_dim; i++)
        weight[i] = akv_level(akv_load_u32(
            args->arg[1] + 4u * (((uint64_t)head * 2u + side) * p->k_dim + i)));
    return akv_level(
        akv_load_u32(args->arg[1] + 4u * ((uint64_t)p->kv_heads * 2u * p->k_dim + head)));
}

#endif
