/* SPDX-License-Identifier: Apache-2.0 */
/* The formats once more, slowly, from docs/format.md: doubles, integers and searches over all
 * codes. */
#ifndef AKV_CODEC_REFERENCE_H
#define AKV_CODEC_REFERENCE_H
#include <stdint.h>

/* The number that f16 bits, a scale byte or a stored code means. */
double ref_half(uint32_t bits);
double ref_ue5m3(uint32_t s);
int ref_levels(uint32_t format, const int **codes_out); /* all codes, ascending; indices 0 … n-1 */

/* Nearest value of the type; x is exact in a double.  Ties to even, f16 saturated at 65504. */
uint32_t ref_to_half(double x, int saturate);
uint32_t ref_to_ue5m3(double x);

/* One row: what the encoder stores.  x: any f32 values.  Returns AKV_SAW_* bits. */
struct ref_row {
    uint32_t scales, padded;
    uint32_t scale[18];
    uint8_t code[576]; /* as stored: I8 byte, N6 code + 32, index */
};
uint32_t ref_encode_row(const float *x, uint32_t dim, uint32_t format, int rotate, int search,
                        struct ref_row *row_out);
/* The values that it reads as. */
void ref_decode_row(const struct ref_row *row, uint32_t dim, uint32_t format, int rotate,
                    float *out);
/* Places a row into a tile, bit by bit. */
void ref_place_row(uint8_t *tile, const struct ref_row *row, uint32_t format, int quad,
                   uint32_t tokens, uint32_t dim, uint32_t t);
/* Butterflies by recursion. */
void ref_hadamard(float *x, uint32_t n);

#endif
