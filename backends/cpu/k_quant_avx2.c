/* SPDX-License-Identifier: Apache-2.0 */
/* Encode, decode, seal and gather with AVX2. */
#include "k_quant_x86_codes.h"
#include "k_quant_x86_pack.h"
#define X_READY()     1
#define X_ROTATE_LOAD x_rotate_load
#define X_AMAX        x_amax
#define X_UNIFORM     x_uniform
#define X_FACTORS     x_factors
#define X_SEARCH      x_search
#define X_CODEBOOK    x_codebook
#include "k_quant_x86_batch.h"
#define q_put_rows x_put_rows
#define q_get_rows x_get_rows
#define q_store    x_store
#define q_convert  x_convert
#include "k_quant_body.h"

const struct akv_cpu_kernel akv_cpu_encode_avx2 = {1, q_rows_items, q_encode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_decode_avx2 = {1, q_rows_items, q_decode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_seal_avx2 = {1, q_seal_items, q_seal_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_gather_avx2 = {1, q_gather_items, q_gather_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_reencode_avx2 = {1, q_reencode_items, q_reencode_run, NULL,
                                                     NULL};
const struct akv_cpu_kernel akv_cpu_shift_avx2 = {1, q_shift_items, q_shift_run, NULL, NULL};
