/* SPDX-License-Identifier: Apache-2.0 */
/* Page family on CUDA: append, copy.  EXACT. */
#include "common.cuh"
#include "../lib/kernel/fp.h"

/* append: a thread takes 8 consecutive elements of one row of one new token.  Rows are numbered
 * (token, side, head); the grid is fixed and strides over the tokens that the descriptor names. */
extern "C" __global__ void __launch_bounds__(256) akv_k_append(const __grid_constant__ akv_append_params p, const __grid_constant__ akv_cu_args a)
{
    const akv_step_head *head = (const akv_step_head *)a.arg[0];
    const akv_step_seq *seqs = (const akv_step_seq *)(a.arg[0] + head->seq_offset);
    const akv_u32 *owner = (const akv_u32 *)(a.arg[0] + head->token_offset);
    const akv_u32 *table = (const akv_u32 *)(a.arg[0] + head->table_offset);
    akv_u32 k_pieces = (p.k_dim + 7u) / 8u, v_pieces = (p.v_dim + 7u) / 8u;
    akv_u32 per_k = p.k.heads * k_pieces, per_token = per_k + p.v.heads * v_pieces, tokens = head->block_tokens;
    akv_u64 total = (akv_u64)head->tokens * per_token, step = (akv_u64)gridDim.x * blockDim.x;
    for (akv_u64 w = (akv_u64)blockIdx.x * blockDim.x + threadIdx.x; w < total; w += step) {
        akv_u32 token = (akv_u32)(w / per_token), rest = (akv_u32)(w - (akv_u64)token * per_token);
        bool value = rest >= per_k;
        rest -= value ? per_k : 0u;
        akv_u32 pieces = value ? v_pieces : k_pieces, row_head = rest / pieces;
        akv_u32 first = (rest - row_head * pieces) * 8u, dim = value ? p.v_dim : p.k_dim;
        const akv_rows &rows = value ? p.v : p.k;
        const akv_u8 *src = a.arg[value ? 2 : 1];
        akv_step_seq s = seqs[owner[token]];
        akv_u32 position = s.length + (token - s.first_token);
        akv_u32 entry = table[s.table_first + position / tokens - s.first_block];
        if (entry == AKV_NO_BLOCK)
            continue;
        akv_u8 *dst = akv_cu_at(a, akv_block_address(&p.pool, entry)) + (value ? p.v_offset : p.k_offset) +
                      (akv_u64)row_head * akv_pad16(tokens * dim * akv_raw_bytes(p.hot_type));
        akv_u64 from = token * rows.token_stride + row_head * rows.head_stride + first;
        akv_u64 to = (akv_u64)(position % tokens) * dim + first;
        akv_u32 size = akv_raw_bytes(rows.dtype);
        if (rows.dtype == p.hot_type && first + 8u <= dim &&
            ((((akv_u64)src + from * size) | ((akv_u64)dst + to * size)) & 15u) == 0u) {
            for (akv_u32 i = 0u; i < size / 2u; i++)
                ((uint4 *)(dst + to * size))[i] = ((const uint4 *)(src + from * size))[i];
            continue;
        }
        for (akv_u32 i = 0u; i < 8u && first + i < dim; i++)
            akv_convert_element(dst, to + i, p.hot_type, src, from + i, rows.dtype);
    }
}

/* copy: a thread takes 16 bytes of one run. */
extern "C" __global__ void __launch_bounds__(256) akv_k_copy(const __grid_constant__ akv_copy_params p, const __grid_constant__ akv_cu_args a)
{
    const akv_move *moves = (const akv_move *)a.arg[0];
    akv_u32 pieces = p.bytes / 16u;
    akv_u64 total = (akv_u64)p.moves * pieces, step = (akv_u64)gridDim.x * blockDim.x;
    for (akv_u64 w = (akv_u64)blockIdx.x * blockDim.x + threadIdx.x; w < total; w += step) {
        akv_u32 move = (akv_u32)(w / pieces);
        akv_u64 at = (w - (akv_u64)move * pieces) * 16u;
        akv_move m = moves[move];
        const akv_u8 *src = p.direction == AKV_COPY_LINEAR_POOL ? a.arg[1] + m.src : akv_cu_at(a, m.src);
        akv_u8 *dst = p.direction == AKV_COPY_POOL_LINEAR ? a.arg[1] + m.dst : akv_cu_at(a, m.dst);
        *(uint4 *)(dst + at) = *(const uint4 *)(src + at);
    }
}
