/* SPDX-License-Identifier: Apache-2.0 */
/* KIVI, a peer that eval computes for comparison (Liu et al., 2024): asymmetric uniform codes with an
 * f16 scale and minimum for each 32 elements, keys per channel over 32 tokens, values per token. */
#ifndef AKV_TOOLS_EVAL_KIVI_H
#define AKV_TOOLS_EVAL_KIVI_H
#include "internal.h"

#define AKV_KIVI_GROUP 32u

/* Bits an element takes, scale and minimum included. */
double akv_kivi_bits(uint32_t code_bits);
/* What rows [tokens][heads][dim] become: groups of tokens for keys, of channels for values, counted
 * from the first; the last may be shorter. */
void akv_kivi_pass(const double *rows, uint32_t tokens, uint32_t heads, uint32_t dim,
                   uint32_t code_bits, bool keys, double *stored);

#endif
