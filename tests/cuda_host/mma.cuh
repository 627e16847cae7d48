/* SPDX-License-Identifier: Apache-2.0 */
/* In place of kernels-cu/mma.cuh (instructions.cc). */
#ifndef AKV_MMA_CUH
#define AKV_MMA_CUH
#include "cuda_host.h"

unsigned akv_prmt(unsigned a, unsigned b, unsigned s);
unsigned akv_shared(const void *p);
unsigned akv_lds1(unsigned a);
unsigned akv_lds_table(unsigned a);
unsigned akv_lds_u16(unsigned a);
uint2 akv_lds2(unsigned a);
uint4 akv_lds4(unsigned a);
uint4 akv_lds4_table(unsigned a);
void akv_sts1(unsigned a, float x);
void akv_sincos(float x, float *s, float *c);
void akv_ldmatrix4(unsigned *d, unsigned a);
void akv_ldmatrix4_trans(unsigned *d, unsigned a);
void akv_mma(float *d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1);
unsigned akv_transpose8x8(unsigned x);
float akv_exp2(float x);
unsigned akv_hmul2(unsigned a, unsigned b);
unsigned akv_hsub2(unsigned a, unsigned b);
unsigned akv_hfma2(unsigned a, unsigned b, unsigned c);
float2 akv_half2_floats(unsigned a);
unsigned akv_pack_half2(float a, float b);
void akv_bar_init(unsigned bar, int count);
void akv_bar_expect(unsigned bar, unsigned bytes);
void akv_bar_wait(unsigned bar, unsigned parity);
void akv_bar_fence(void);
void akv_bulk(unsigned dst, const void *src, unsigned bytes, unsigned bar);
void akv_copy16(unsigned dst, const void *src);
void akv_copy_commit(void);
void cu_copy_wait(int left);
template <int N> static inline void akv_copy_wait(void)
{
    cu_copy_wait(N);
}

#endif
