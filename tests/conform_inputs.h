/* SPDX-License-Identifier: Apache-2.0 */
/* Adversarial rows for conformance tests: the same rows for the same seed on every machine. */
#ifndef AKV_CONFORM_INPUTS_H
#define AKV_CONFORM_INPUTS_H
#include <stdint.h>

/* Random data reveals neither contraction nor a wrong tie rule; these do. */
enum akv_input_kind {
    AKV_INPUT_GAUSSIAN,
    AKV_INPUT_TIES,        /* levels, exact ties between codes, and the neighbours of both */
    AKV_INPUT_DENORMALS,   /* around 2^-24 and below 2^-126 */
    AKV_INPUT_INFINITIES,  /* Gaussian with infinities */
    AKV_INPUT_NANS,        /* Gaussian with NaN of all payloads */
    AKV_INPUT_EQUAL,       /* one value all over a group, with either sign */
    AKV_INPUT_ONE_HOT,     /* a single value that is not zero in a group */
    AKV_INPUT_ZEROS,       /* +0 and -0 */
    AKV_INPUT_BITS,        /* random bits */
    AKV_INPUT_EXPONENTS,   /* random exponents from 2^-30 to 2^40 */
    AKV_INPUT_OUTLIER,     /* Gaussian with one value of up to 1e30 */
    AKV_INPUT_SCALE_SMALL, /* scales near the subnormal end of their type */
    AKV_INPUT_SCALE_LARGE, /* scales near the saturated end */
    AKV_INPUT_INTEGERS,    /* small integers: sums and halves are ties too */
    AKV_INPUT_KINDS
};
const char *akv_input_name(uint32_t kind);

/* Row number `row` of a kind, dim values.  format: AKV_I8 … AKV_N2, for whose scales and ties the
 * row is made.  rotated: ties and scales are meant for the rotated row, so the inverse rotation is
 * applied. */
void akv_input_row(uint64_t seed, uint32_t kind, uint64_t row, uint32_t format, int rotated,
                   uint32_t dim, float *out);

/* Dense rows first … first + rows - 1 in a dtype; row r is of kind r % AKV_INPUT_KINDS. */
void akv_input_rows(uint64_t seed, uint32_t format, int rotated, uint32_t dtype, uint64_t first,
                    uint64_t rows, uint32_t dim, void *out);

/* The generator behind it: a hash of (seed, counter) with 64 good bits. */
uint64_t akv_input_random(uint64_t seed, uint64_t counter);

#endif
