/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products of class BOUNDED on the host. */
#ifndef AKV_DENSE_H
#define AKV_DENSE_H
#include "internal.h"

/* c = a * b, row-major [m][k], [k][n], [m][n] in f32: by a CBLAS if one can be opened, else by our own loops.
 * The same inputs give the same result from run to run with one library. */
void akv_dense_multiply(uint32_t m, uint32_t n, uint32_t k, const float *a, const float *b, float *c);

#endif
