/* SPDX-License-Identifier: Apache-2.0 */
/* What the instruction sets share of BX16: the phases around the pieces, and the code of a piece from an
 * element on. */
#ifndef AKV_CPU_COMPRESS_H
#define AKV_CPU_COMPRESS_H
#include "cpu.h"
#include "../../lib/kernel/bx16.h"

#define AKV_BX16_COUNT_PIECES 64u /* pieces that an item of count takes */

void akv_bx16_counts_add(uint8_t *to, const akv_u32 counts[256]); /* other threads add to them, too */

/* Elements [from, m) of a piece: rests and indices; returns the number of escapes. */
typedef akv_u32 akv_bx16_split(const akv_bx16_params *p, const uint8_t *rows, akv_u32 m, uint8_t *rests,
                               uint8_t *indices);
typedef void akv_bx16_merge(const akv_bx16_params *p, const uint8_t *rests, const uint8_t *indices, akv_u32 m,
                            uint8_t *rows);
/* The piece's check without its number. */
typedef akv_u32 akv_bx16_sum(const uint8_t *rows, akv_u32 m);

akv_u32 akv_bx16_split_from(const akv_bx16_params *p, const uint8_t *rows, akv_u32 from, akv_u32 m,
                            uint8_t *rests, uint8_t *indices);
void akv_bx16_merge_from(const akv_bx16_params *p, const uint8_t *rests, const uint8_t *indices, akv_u32 from,
                         akv_u32 m, uint8_t *rows);
akv_u32 akv_bx16_sum_from(const uint8_t *rows, akv_u32 word, akv_u32 m);

uint64_t akv_bx16_encode_items(const struct akv_cpu_args *args, uint32_t phase);
void akv_bx16_encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count,
                         akv_bx16_split *split, akv_bx16_sum *sum);
void akv_bx16_decode_run(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                         akv_bx16_merge *merge, akv_bx16_sum *sum);

#endif
