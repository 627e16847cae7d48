/* SPDX-License-Identifier: Apache-2.0 */
/* Scalar encode, decode, rotate, seal and gather: the reference of every other device. */
#include "k_quant_scalar.h"
#define q_quantise s_quantise
#define q_put_rows s_put_rows
#define q_put_quad s_put_quad
#define q_get_rows s_get_rows
#define q_get_quad s_get_quad
#define q_store    s_store
#define q_convert  s_convert
#include "k_quant_body.h"

/* ---- rotate: an item is a row of dense f32 ---- */
static uint64_t rotate_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_rotate_params *p = args->params;
    (void)phase;
    return p->rows;
}

static void rotate_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    const akv_rotate_params *p = args->params;
    float row[AKV_MAX_HEAD_DIM];
    size_t bytes = (size_t)p->dim * 4u;
    (void)phase;

    for (uint64_t r = first; r < first + count; r++) {
        if (p->flags & AKV_FLAG_ROTATE) {
            s_load(args->arg[0] + r * bytes, AKV_F32, p->dim, 1, row);
        } else {
            memcpy(row, args->arg[0] + r * bytes, bytes);
            akv_rotate_read(row, p->dim);
        }
        memcpy(args->arg[1] + r * bytes, row, bytes);
    }
}

const struct akv_cpu_kernel akv_cpu_encode_scalar = {1, q_rows_items, q_encode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_decode_scalar = {1, q_rows_items, q_decode_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_rotate_scalar = {1, rotate_items, rotate_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_seal_scalar = {1, q_seal_items, q_seal_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_gather_scalar = {1, q_gather_items, q_gather_run, NULL, NULL};
const struct akv_cpu_kernel akv_cpu_reencode_scalar = {1, q_reencode_items, q_reencode_run, NULL,
                                                       NULL};
const struct akv_cpu_kernel akv_cpu_shift_scalar = {1, q_shift_items, q_shift_run, NULL, NULL};
