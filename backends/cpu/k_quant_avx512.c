/* SPDX-License-Identifier: Apache-2.0 */
/* Encode, decode, seal and gather with AVX-512. */
#include "k_quant_x512.h"
#include "k_quant_x512_rows.h"
#define X_READY       w_ready
#define X_ROTATE_LOAD w_rotate_load
#define X_AMAX        w_amax
#define X_UNIFORM     w_uniform
#define X_FACTORS     w_factors
#define X_SEARCH      w_search
#define X_CODEBOOK    w_codebook
#include "k_quant_x86_batch.h"
#define q_put_rows w_put_rows
#define q_get_rows w_get_rows
#define q_store    w_store
#define q_convert  w_convert
#include "k_quant_body.h"

const struct akv_cpu_kernel akv_cpu_encode_avx512 = {1, q_rows_items, q_encode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_decode_avx512 = {1, q_rows_items, q_decode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_seal_avx512 = {1, q_seal_items, q_seal_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_gather_avx512 = {1, q_gather_items, q_gather_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_reencode_avx512 = {1, q_reencode_items, q_reencode_run, NULL,
                                                       NULL};
const struct akv_cpu_kernel akv_cpu_shift_avx512 = {1, q_shift_items, q_shift_run, NULL, NULL};
