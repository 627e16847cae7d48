/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products by a CBLAS opened at run time. */
#include "dense.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111 }; /* cblas.h */
typedef void sgemm_function(int order, int ta, int tb, int m, int n, int k, float alpha,
                            const float *a, int lda, const float *b, int ldb, float beta, float *c,
                            int ldc);

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

bool akv_cpu_sgemm(void)
{
    pthread_once(&once, find);
    return sgemm != NULL;
}

const char *akv_cpu_dense(void)
{
    pthread_once(&once, find);
    return name;
}

void akv_cpu_sgemm_batch(const akv_multiply_params *p, const float *a, const float *b, float *c)
{
    for (uint32_t i = 0; i < p->batch; i++)
        sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, (int)p->m, (int)p->n, (int)p->k, 1.0f,
              a + i * p->a_step, (int)p->lda, b + i * p->b_step, (int)p->ldb, 0.0f,
              c + i * p->c_step, (int)p->ldc);
}
