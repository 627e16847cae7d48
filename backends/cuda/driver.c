/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the CUDA driver at run time; its absence is a reason, never a failure to start. */
#include "driver.h"
#include "../../lib/internal.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name;
    size_t offset;
} symbols[] = {
#define AKV_CU(field, name, result, params) {name, offsetof(struct akv_cu, field)},
#include "driver.def"
#undef AKV_CU
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct akv_cu table;    /* guarded by `once` */
static char failure[200];      /* guarded by `once`; empty: loaded */

static void load(void)
{
    const char *path = getenv("ANYKV_CUDA_LIBRARY");
    if (!path || !*path)
        path = "libcuda.so.1";
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(failure, sizeof failure, "no CUDA driver: cannot open %.120s", path);
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address) {
            snprintf(failure, sizeof failure, "CUDA driver too old: it lacks %s", symbols[i].name);
            dlclose(library);
            return;
        }
        memcpy((char *)&table + symbols[i].offset, &address, sizeof address);
    }
    CUresult code = table.init(0);
    if (code == AKV_CU_OK)
        code = table.driver_version(&table.version);
    if (code != AKV_CU_OK) {
        const char *name = NULL;
        table.error_name(code, &name);
        snprintf(failure, sizeof failure, "CUDA driver does not start: %.100s (%d)",
                 name ? name : "unknown error", code);
        dlclose(library);
    }
}

const struct akv_cu *akv_cu_load(char *reason, size_t reason_bytes)
{
    pthread_once(&once, load);
    if (!failure[0])
        return &table;
    snprintf(reason, reason_bytes, "%s", failure);
    return NULL;
}
