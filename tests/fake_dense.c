/* SPDX-License-Identifier: Apache-2.0 */
/* CLBlast and cuBLAS for tests, built as one module: cuBLAS multiplies host memory, as the fake
 * driver's is; CLBlast fails always.  FAKE_DENSE names the function of cuBLAS that fails. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT uint64_t fake_dense_calls, fake_dense_handles; /* products asked for; handles alive */

static int fails(const char *function)
{
    const char *wish = getenv("FAKE_DENSE");
    return wish && strcmp(wish, function) == 0 ? 13 : 0;
}

EXPORT int CLBlastSgemmStridedBatched(void)
{
    fake_dense_calls++;
    return -2039;
}
EXPORT int CLBlastClearCache(void)
{
    return 0;
}

EXPORT int cublasCreate_v2(void **handle)
{
    if (fails("cublasCreate_v2"))
        return 1;
    fake_dense_handles++;
    *handle = &fake_dense_handles;
    return 0;
}
EXPORT int cublasDestroy_v2(void *handle)
{
    fake_dense_handles -= handle == &fake_dense_handles;
    return 0;
}
EXPORT int cublasSetStream_v2(void *handle, void *stream)
{
    return handle == &fake_dense_handles && stream ? fails("cublasSetStream_v2") : 7;
}
EXPORT int cublasSetMathMode(void *handle, int mode)
{
    return handle == &fake_dense_handles && mode == 2 ? fails("cublasSetMathMode") : 7;
}

/* Columns behind columns; what it writes before it fails is wrong. */
EXPORT int cublasSgemmStridedBatched(void *handle, int ta, int tb, int m, int n, int k,
                                     const float *alpha, unsigned long long a_, int lda,
                                     long long a_step, unsigned long long b_, int ldb,
                                     long long b_step, const float *beta, unsigned long long c_,
                                     int ldc, long long c_step, int batch)
{
    const float *a = (const float *)(uintptr_t)a_, *b = (const float *)(uintptr_t)b_;
    float *c = (float *)(uintptr_t)c_;
    const int code = fails("cublasSgemmStridedBatched");
    fake_dense_calls++;
    if (handle != &fake_dense_handles || ta != 0 || tb != 0 || *alpha != 1.0f || *beta != 0.0f)
        return 7;
    for (int q = 0; q < batch; q++)
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                double sum = code;
                for (int l = 0; l < k; l++)
                    sum += (double)a[q * a_step + (long long)l * lda + i] *
                           (double)b[q * b_step + (long long)j * ldb + l];
                c[q * c_step + (long long)j * ldc + i] = (float)sum;
            }
    return code;
}
