/* SPDX-License-Identifier: Apache-2.0 */
/* CPU kernels of the page family: append and copy.  An item of append is one new token, an item of
 * copy a run of COPY_PIECE bytes of one move. */
#include "cpu.h"
#include "../../lib/kernel/page.h"

#define COPY_PIECE 65536u

static uint64_t append_items(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)phase;
    const akv_step_head *head = (const akv_step_head *)(const void *)args->arg[0];
    return head->tokens;
}

static void append_row(uint8_t *dst, akv_u32 dst_type, const uint8_t *src, uint64_t index,
                       akv_u32 src_type, akv_u32 dim)
{
    if (dst_type == src_type) {
        size_t each = akv_raw_bytes(src_type);
        memcpy(dst, src + index * each, dim * each);
        return;
    }
    for (akv_u32 i = 0; i < dim; i++)
        akv_convert_element(dst, i, dst_type, src, index + i, src_type);
}

static void append_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                       uint64_t count)
{
    (void)phase;
    const akv_append_params *p = args->params;
    const akv_step_head *step = (const akv_step_head *)(const void *)args->arg[0];
    for (uint64_t i = first; i < first + count; i++) {
        akv_u32 token = (akv_u32)i, row;
        akv_u32 entry = akv_page_entry(args->arg[0], token, &row);
        if (entry == AKV_NO_BLOCK)
            continue;
        for (akv_u32 h = 0; h < p->k.heads; h++) {
            uint8_t *k = akv_cpu_at(args, akv_page_row(&p->pool, entry, p->k_offset, p->hot_type,
                                                       step->block_tokens, p->k_dim, h, row));
            uint8_t *v = akv_cpu_at(args, akv_page_row(&p->pool, entry, p->v_offset, p->hot_type,
                                                       step->block_tokens, p->v_dim, h, row));
            append_row(k, p->hot_type, args->arg[1], akv_page_source(&p->k, token, h), p->k.dtype,
                       p->k_dim);
            append_row(v, p->hot_type, args->arg[2], akv_page_source(&p->v, token, h), p->v.dtype,
                       p->v_dim);
        }
    }
}

static akv_u32 copy_pieces(const akv_copy_params *p)
{
    return p->bytes / COPY_PIECE + (p->bytes % COPY_PIECE != 0);
}

static uint64_t copy_items(const struct akv_cpu_args *args, uint32_t phase)
{
    (void)phase;
    const akv_copy_params *p = args->params;
    return (uint64_t)p->moves * copy_pieces(p);
}

static void copy_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                     uint64_t count)
{
    (void)phase;
    const akv_copy_params *p = args->params;
    akv_u32 pieces = copy_pieces(p);
    for (uint64_t i = first; i < first + count; i++) {
        akv_move move;
        memcpy(&move, args->arg[0] + i / pieces * sizeof move, sizeof move);
        const uint8_t *src = p->direction == AKV_COPY_LINEAR_POOL ? args->arg[1] + move.src
                                                                  : akv_cpu_at(args, move.src);
        uint8_t *dst = p->direction == AKV_COPY_POOL_LINEAR ? args->arg[1] + move.dst
                                                            : akv_cpu_at(args, move.dst);
        akv_u32 start = (akv_u32)(i % pieces) * COPY_PIECE;
        akv_u32 bytes = AKV_MIN(COPY_PIECE, p->bytes - start);
        memcpy(dst + start, src + start, bytes);
    }
}

const struct akv_cpu_kernel akv_cpu_append_scalar = {
    .phases = 1,
    .items = append_items,
    .run = append_run,
};

const struct akv_cpu_kernel akv_cpu_copy_scalar = {
    .phases = 1,
    .items = copy_items,
    .run = copy_run,
};
