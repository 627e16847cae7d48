/* SPDX-License-Identifier: Apache-2.0 */
/* What the OpenCL suites share: the real or the fake library, a folder of its own for cached
 * programs. */
#ifndef TESTS_OPENCL_RIG_H
#define TESTS_OPENCL_RIG_H
#include "house.h"
#include "backends/opencl/cl.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* A test that needs a device: skipped without one, failed where ANYKV_REQUIRE_OPENCL says so. */
static inline void rig_need_device(void)
{
    anykv_context *context = house_context();
    struct akv_device_info info[16];
    uint32_t count = 0;
    bool usable = false;
    OK(akv_backend_opencl.probe(context, 16, info, &count));
    for (uint32_t i = 0; i < count && i < 16; i++)
        usable = usable || info[i].usable;
    anykv_context_destroy(context);
    if (usable)
        return;
    const char *require = getenv("ANYKV_REQUIRE_OPENCL");
    cr_assert(!require || !*require || *require == '0', "an OpenCL device is required: %s",
              info[0].reason);
    cr_skip_test("no OpenCL device");
}

/* The path of the fake library, which the build makes beside the tests. */
static inline const char *rig_fake_path(void)
{
    static char path[512];
    const char *top = getenv("top_builddir");
    snprintf(path, sizeof path, "%s/tests/.libs/fake_opencl.so", top ? top : ".");
    if (access(path, R_OK) != 0)
        cr_skip_test("the fake library is not built");
    return path;
}

struct rig_fake {
    void (*fail_at)(uint64_t n, int code);
    uint64_t (*calls)(void);
    void (*lose_at)(uint64_t n, int code);
    uint64_t (*lost_waits)(void);
};
/* From now on in this process the backend loads the fake one. */
static inline struct rig_fake rig_use_fake(void)
{
    struct rig_fake fake;
    void *real = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!real)
        cr_skip_test("no OpenCL library");
    setenv("ANYKV_OPENCL_LIBRARY", rig_fake_path(), 1);
    void *library = dlopen(rig_fake_path(), RTLD_NOW | RTLD_LOCAL);
    cr_assert(library, "%s", dlerror());
    void *symbol = dlsym(library, "fake_opencl_fail_at");
    memcpy(&fake.fail_at, &symbol, sizeof symbol);
    symbol = dlsym(library, "fake_opencl_calls");
    memcpy(&fake.calls, &symbol, sizeof symbol);
    symbol = dlsym(library, "fake_opencl_lose_at");
    memcpy(&fake.lose_at, &symbol, sizeof symbol);
    symbol = dlsym(library, "fake_opencl_lost_waits");
    memcpy(&fake.lost_waits, &symbol, sizeof symbol);
    cr_assert(fake.fail_at && fake.calls && fake.lose_at && fake.lost_waits);
    return fake;
}

/* A fresh folder for the program cache; the caller's driver cache stays as it is. */
static inline const char *rig_cache_folder(void)
{
    static char folder[64];
    snprintf(folder, sizeof folder, "/tmp/anykv-test-XXXXXX");
    cr_assert(mkdtemp(folder), "no folder for the program cache");
    setenv("XDG_CACHE_HOME", folder, 1);
    return folder;
}

/* The first OpenCL device, through the checked wrappers. */
static inline anykv_status rig_open(anykv_context *context, struct akv_device **device_out)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    return akv_device_open(context, "opencl", &options, device_out);
}

#endif
