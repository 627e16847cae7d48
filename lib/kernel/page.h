/* SPDX-License-Identifier: Apache-2.0 */
/* Page kernels: where a new row of a step goes, and which bytes a copy moves.
 *
 * Contract (class EXACT): append writes each new token's row into the sequence's kind-0 block,
 * converted to the hot type by the integer code of fp.h (equal types copy bits, NaN included); copy
 * moves bytes. Nothing else of a block is written.  A token whose block is not in the table is
 * skipped. */
#ifndef AKV_KERNEL_PAGE_H
#define AKV_KERNEL_PAGE_H
#include "fp.h"
#include "params.h"

#define AKV_NO_ADDRESS 0xFFFFFFFFFFFFFFFFul

/* Table entry of new token `token` (counted over the step); row_out: its row in the block. */
AKV_FN akv_u32 akv_page_entry(const AKV_GLOBAL akv_u8 *descriptor, akv_u32 token, akv_u32 *row_out)
{
    const AKV_GLOBAL akv_step_head *head = (const AKV_GLOBAL akv_step_head *)descriptor;
    akv_u32 number = akv_load_u32(descriptor + head->token_offset + token * 4u);
    const AKV_GLOBAL akv_step_seq *seq =
        (const AKV_GLOBAL akv_step_seq *)(descriptor + head->seq_offset) + number;
    akv_u32 position = seq->length + (token - seq->first_token);
    akv_u32 slot = position / head->block_tokens - seq->first_block;
    *row_out = position % head->block_tokens;
    if (slot >= seq->table_count)
        return AKV_NO_BLOCK;
    return akv_load_u32(descriptor + head->table_offset + (seq->table_first + slot) * 4u);
}

/* Pool address of row `row` of `head`'s tile of raw rows in the block that `entry` names. */
AKV_FN akv_u64 akv_page_row(const akv_pool_map *pool, akv_u32 entry, akv_u32 offset, akv_u32 type,
                            akv_u32 block_tokens, akv_u32 dim, akv_u32 head, akv_u32 row)
{
    return akv_block_address(pool, entry) + offset +
           head * akv_tile_bytes(type, block_tokens, dim) + row * dim * akv_raw_bytes(type);
}

/* Index of the first element of row (token, head) in the caller's rows. */
AKV_FN akv_u64 akv_page_source(const akv_rows *rows, akv_u32 token, akv_u32 head)
{
    return token * rows->token_stride + head * rows->head_stride;
}

#endif
