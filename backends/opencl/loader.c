/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the OpenCL loader library at run time; its absence is a reason, never a failure to start.
 */
#include "cl.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
#define AKV_CL(field, name) {#name, offsetof(struct akv_cl, field)},
#include "functions.def"
#undef AKV_CL
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct akv_cl table; /* guarded by `once` */
static char failure[200];   /* guarded by `once`; empty: loaded */

/* The library stays open for the life of the process: several drivers crash when they are closed.
 */
static void load(void)
{
    const char *path = getenv("ANYKV_OPENCL_LIBRARY");
    if (!path || !*path)
        path = "libOpenCL.so.1";
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(failure, sizeof failure, "no OpenCL: cannot open %.120s", path);
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address) {
            snprintf(failure, sizeof failure, "OpenCL library %.80s is older than 1.2: it lacks %s",
                     path, symbols[i].name);
            dlclose(library);
            return;
        }
        memcpy((char *)&table + symbols[i].offset, &address, sizeof address);
    }
}

const struct akv_cl *akv_cl_load(char *reason, size_t reason_bytes)
{
    pthread_once(&once, load);
    if (!failure[0])
        return &table;
    snprintf(reason, reason_bytes, "%s", failure);
    return NULL;
}
