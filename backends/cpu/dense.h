/* SPDX-License-Identifier: Apache-2.0 */
/* A CBLAS for dense products of class BOUNDED, opened at run time. */
#ifndef AKV_CPU_DENSE_H
#define AKV_CPU_DENSE_H
#include "../backend.h"

/* Is there one?  The first call looks for it. */
bool akv_cpu_sgemm(void);
/* A multiply by it. */
void akv_cpu_sgemm_batch(const akv_multiply_params *p, const float *a, const float *b, float *c);
/* Its file name, or "own loops". */
const char *akv_cpu_dense(void);

#endif
