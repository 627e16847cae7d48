/* SPDX-License-Identifier: Apache-2.0 */
/* Entropy coding of small symbols (kernel/rans.h) for the engine's files: shapes, and streams that hold
 * model and body.  A stream is u32 bytes of all (a multiple of 16), u32 check, u32 tables | raw << 8 |
 * centre << 16, u32 steps; model; body; zeros to 16 bytes.  check: sum of akv_bx16_mix(word j, j) over the
 * words j before the segments but its own; segments have their own checks. */
#ifndef AKV_RANS_H
#define AKV_RANS_H
#include "kernel/rans.h"
#include "objects.h"

#define AKV_RANS_HEAD   16u
#define AKV_RANS_MEDIAN 256u /* centre: the median of the symbols; the stream says which */

/* Codes of packed tiles, and their scales.  rows: of a tile; heads: whose columns differ.  mixed: one tile in
 * which row r is of head r mod heads, as a codec writes them; else tile t is of head t mod heads, as in
 * blocks.  False: a format without planes, or more than 2^30 symbols. */
bool akv_rans_codes(akv_rans_params *shape, uint32_t format, uint32_t order, uint32_t dim, uint32_t rows,
                    uint32_t heads, uint32_t tiles, bool mixed);
bool akv_rans_scales(akv_rans_params *shape, uint32_t format, uint32_t dim, uint32_t rows, uint32_t heads,
                     uint32_t tiles, bool mixed);
/* A dense matrix of int8, columns a multiple of 32: small numbers are cheap, each column has its own spread
 * of them.  signed_: numbers around 0 of which 0 is the commonest; else bytes with 4 bits as they are. */
bool akv_rans_matrix(akv_rans_params *shape, uint32_t rows, uint32_t columns, bool signed_);

/* The most bytes that a stream takes: those of the symbols and what is said of them. */
uint64_t akv_rans_most(const akv_rans_params *shape);
/* Symbols, in words of `words` (of the device's memory, or of host memory where it can see that), to a stream
 * in host memory.  E_SHAPE: it takes more than capacity, nothing written.  Waits for the device. */
anykv_status akv_rans_pack(anykv_device *device, const akv_rans_params *shape, struct akv_span words,
                           uint8_t *out, uint64_t capacity, uint64_t *bytes_out);
/* The way back; at most `bytes` are read, bytes_out is what the stream took.  E_DATA: damaged. */
anykv_status akv_rans_unpack(anykv_device *device, const akv_rans_params *shape, const uint8_t *in,
                             uint64_t bytes, struct akv_span words, uint64_t *bytes_out);
/* The same with host memory on every device; bytes: of the words. */
anykv_status akv_rans_pack_host(anykv_device *device, const akv_rans_params *shape, const void *words,
                                uint64_t bytes, uint8_t *out, uint64_t capacity, uint64_t *bytes_out);
anykv_status akv_rans_unpack_host(anykv_device *device, const akv_rans_params *shape, const uint8_t *in,
                                  uint64_t bytes, void *words, uint64_t words_bytes, uint64_t *bytes_out);

/* rans_model.c: tables and map for counts [columns][16] into model (akv_rans_model_words of shape with its
 * `tables`); keys: room for `columns` u64.  Tables are the means of groups of columns, so chosen that
 * columns take few bits. */
uint32_t akv_rans_choose(const akv_rans_params *shape); /* how many tables pay */
void akv_rans_model(const akv_rans_params *shape, const uint32_t *counts, uint64_t *keys, uint32_t *model);
/* Whether decoders may be given it. */
bool akv_rans_model_valid(const akv_rans_params *shape, const uint32_t *model);
/* Bits that the model needs for such counts, in 1/256. */
uint64_t akv_rans_model_bits(const akv_rans_params *shape, const uint32_t *counts, const uint32_t *model);

#endif
