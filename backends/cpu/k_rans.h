/* SPDX-License-Identifier: Apache-2.0 */
/* What the instruction sets share of rANS: the phases around the segments, and steps one symbol at a time. */
#ifndef AKV_CPU_RANS_H
#define AKV_CPU_RANS_H
#include "../../lib/kernel/rans.h"
#include "cpu.h"

/* Tables of a launch, by table and class. */
struct akv_rans_tables {
    uint16_t frequency[AKV_RANS_TABLES][AKV_RANS_CLASSES], below[AKV_RANS_TABLES][AKV_RANS_CLASSES];
};
void akv_rans_read_tables(const akv_rans_params *p, const uint8_t *model, struct akv_rans_tables *tables);

/* A segment's states and what was put, in `slot` of `room` words: states first, what was put at the end.
 * Returns how many u16 were put, or AKV_RANS_RAW where they would not take less than `room` words. */
#define AKV_RANS_RAW 0xFFFFFFFFu
typedef akv_u32 akv_rans_encoder(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                                 akv_u32 segment, uint8_t *slot, akv_u32 room);
/* Symbols of a segment of `words` words; false where states do not end as they must. */
typedef bool akv_rans_decoder(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                              akv_u32 segment, const uint8_t *from, akv_u32 words);
/* Adds to counts those of steps first … end-1, which are of one stripe. */
typedef void akv_rans_counter(const struct akv_cpu_args *args, akv_u32 first, akv_u32 end,
                              akv_u32 counts[AKV_RANS_LANES][AKV_RANS_CLASSES]);

akv_rans_encoder akv_rans_encode_plain;
akv_rans_decoder akv_rans_decode_plain;
akv_rans_counter akv_rans_count_plain;

/* Symbols of a step, and back; lanes without one get 0, and theirs are not written. */
void akv_rans_get(const akv_rans_params *p, const uint8_t *words, const akv_rans_place *place,
                  uint8_t symbol[AKV_RANS_LANES]);
void akv_rans_put(const akv_rans_params *p, uint8_t *words, const akv_rans_place *place,
                  const uint8_t symbol[AKV_RANS_LANES]);

uint64_t akv_rans_count_items(const struct akv_cpu_args *args, uint32_t phase);
uint64_t akv_rans_encode_items(const struct akv_cpu_args *args, uint32_t phase);
uint64_t akv_rans_decode_items(const struct akv_cpu_args *args, uint32_t phase);
void akv_rans_count_run(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                        akv_rans_counter *counter);
void akv_rans_encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first, uint64_t count,
                         akv_rans_encoder *encoder);
void akv_rans_decode_run(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                         akv_rans_decoder *decoder);

#endif
