/* SPDX-License-Identifier: Apache-2.0 */
/* Dense arithmetic: products through a CBLAS where configure found one, else loops over all
 * threads. */
#ifndef LLAMA_DENSE_H
#define LLAMA_DENSE_H
#include "common.h"

/* Starts the threads (0: one a processor); dense_stop ends them. */
int dense_start(unsigned threads);
void dense_stop(void);
const char *dense_name(void); /* "CBLAS" or "own loops" */

/* out[rows][n] = a[rows][k] · b[n][k]ᵀ, leading dimensions in floats. */
void dense_product(float *out, size_t ld_out, const float *a, size_t ld_a, const float *b,
                   size_t ld_b, size_t rows, size_t n, size_t k);
/* out[rows][n] = a[rows][k] · b[k][n]. */
void dense_product_plain(float *out, size_t ld_out, const float *a, size_t ld_a, const float *b,
                         size_t ld_b, size_t rows, size_t n, size_t k);
/* out = x / rms(x) * weight, row by row. */
void dense_rms_norm(float *out, const float *x, const float *weight, size_t rows, size_t n,
                    float epsilon);
/* gate = silu(gate) * up */
void dense_swiglu(float *gate, const float *up, size_t n);
/* Softmax of x[0 … n-1] in place. */
void dense_softmax(float *x, size_t n);

#endif
