/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products: a CBLAS opened at run time, or our own loops. */
#include "dense.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111 }; /* cblas.h */
typedef void sgemm_function(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                            const float *b, int ldb, float beta, float *c, int ldc);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static sgemm_function *sgemm; /* guarded by `once`, as is what follows */
static char name[128] = "own loops";

/* The library stays open for the life of the process: it may have threads of its own. */
static bool load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return false;
    void *address = dlsym(library, "cblas_sgemm");
    if (!address) {
        dlclose(library);
        return false;
    }
    memcpy(&sgemm, &address, sizeof sgemm); /* ISO C has no cast from object to function pointer */
    snprintf(name, sizeof name, "%s", path);
    return true;
}

static void find(void)
{
    const char *path = getenv("ANYKV_CBLAS_LIBRARY");
    if (path && *path) {
        if (strcmp(path, "none") != 0)
            load(path);
    } else if (!load("libopenblas.so.0"))
        load("libblas.so.3");
}

const char *anykv_dense_library(void)
{
    pthread_once(&once, find);
    return name;
}

/* Runs of elements of c stay in registers or the first cache; k ascending. */
static void own(uint32_t m, uint32_t n, uint32_t k, const float *a, const float *b, float *c)
{
    for (size_t row = 0; row < m; row++) {
        float *to = c + row * n;
        memset(to, 0, n * sizeof *to);
        for (size_t j = 0; j < k; j++) {
            const float x = a[row * k + j], *from = b + j * n;
            if (x == 0.0f) /* most coefficients of the last components */
                continue;
            for (size_t i = 0; i < n; i++)
                to[i] += x * from[i];
        }
    }
}

void akv_dense_multiply(uint32_t m, uint32_t n, uint32_t k, const float *a, const float *b, float *c)
{
    pthread_once(&once, find);
    if (sgemm)
        sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, (int)m, (int)n, (int)k, 1.0f, a, (int)k, b, (int)n, 0.0f, c,
              (int)n);
    else
        own(m, n, k, a, b, c);
}
