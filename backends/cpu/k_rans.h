/* SPDX-License-Identifier: Apache-2.0 */
/* What the instruction sets share of rANS: the phases around the segments, and steps one symbol at
 * a time. */
#ifndef AKV_CPU_RANS_H
#define AKV_CPU_RANS_H
#include "../../lib/kernel/rans.h"
#include "cpu.h"

/* Tables of a launch, by table and class. */
struct akv_rans_tables {
    uint16_t frequency[AKV_RANS_TABLES][AKV_RANS_CLASSES], below[AKV_RANS_TABLES][AKV_RANS_CLASSES];
};
void akv_rans_read_tables(const akv_rans_params *p, const uint8_t *model,
                          struct akv_rans_tables *tables);

/* A segment's states and what was put, in `slot` of `room` words: states first, what was put at the
 * end. Returns how many u16 were put, or AKV_RANS_RAW where they would not take less than `room`
 * words. */
#define AKV_RANS_RAW 0xFFFFFFFFu
typedef akv_u32 akv_rans_encoder(const struct akv_cpu_args *args,
                                 const struct akv_rans_tables *tables, akv_u32 segment,
                                 uint8_t *slot, akv_u32 room);
/* Symbols of a segment of `words` words; false where states do not end as they must. */
typedef bool akv_rans_decoder(const struct akv_cpu_args *args, const struct akv_rans_tables *tables,
                              akv_u32 segment, const uint8_t *from, akv_u32 words);
/* The same of two segments at once, whose chains of states run side by side; good: as above, of
 * each. */
struct akv_rans_part {
    akv_u32 segment, words;
    const uint8_t *from;
};
typedef void akv_rans_pair_decoder(const struct akv_cpu_args *args,
                                   const struct akv_rans_tables *tables,
                                   const struct akv_rans_part part[2], bool good[2]);
struct akv_rans_slot {
    akv_u32 segment, room;
    uint8_t *slot;
};
typedef void akv_rans_pair_encoder(const struct akv_cpu_args *args,
                                   const struct akv_rans_tables *tables,
                                   const struct akv_rans_slot slot[2], akv_u32 put[2]);
/* A segment's check over its words. */
typedef akv_u32 akv_rans_checker(const uint8_t *words, akv_u32 count, akv_u32 segment);
/* Adds to counts those of steps first … end-1, which are of one stripe. */
typedef void akv_rans_counter(const struct akv_cpu_args *args, akv_u32 first, akv_u32 end,
                              akv_u32 counts[AKV_RANS_LANES][AKV_RANS_CLASSES]);

akv_rans_encoder akv_rans_encode_plain;
akv_rans_decoder akv_rans_decode_plain;
akv_rans_counter akv_rans_count_plain;
akv_rans_checker akv_rans_check_plain;

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
void akv_rans_encode_run(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count, akv_rans_encoder *encoder, akv_rans_pair_encoder *pair,
                         akv_rans_checker *checker);
/* pair: NULL where there is none. */
void akv_rans_decode_run(const struct akv_cpu_args *args, uint64_t first, uint64_t count,
                         akv_rans_decoder *decoder, akv_rans_pair_decoder *pair,
                         akv_rans_checker *checker);

#endif
