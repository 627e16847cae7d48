/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products on OpenCL: by CLBlast, by one that fails, without one. */
#include "house.h"
#if defined(AKV_WITH_OPENCL)
#include "opencl_rig.h"
#include "dense_case.h"

static unsigned warned;
static void listen_to(void *user, int level, const char *message)
{
    (void)user;
    warned += level == ANYKV_LOG_WARNING && strstr(message, "our own kernel") != NULL;
}

/* Two products, which must be of the same bits. */
static void twice(void)
{
    static float c[2][DENSE_M * DENSE_LINE];
    anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
    options.log = listen_to;
    OK(anykv_context_create(&options, &context));
    OK(rig_open(context, &device));
    OK(akv_queue_create(device, NULL, &queue));
    for (int i = 0; i < 2; i++)
        OK(dense_product(device, queue, c[i]));
    cr_expect(memcmp(c[0], c[1], sizeof c[0]) == 0);
    akv_queue_destroy(queue);
    akv_device_close(device);
    anykv_context_destroy(context);
}

Test(opencl_dense, by_the_library)
{
    rig_need_device();
    unsetenv("ANYKV_CLBLAST_LIBRARY");
    if (strncmp(anykv_dense_library("opencl"), "libclblast", 10) != 0)
        cr_skip_test("CLBlast is not installed");
    twice();
    twice(); /* a device that was closed takes nothing of the next one's away */
    cr_expect(warned == 0);
}

Test(opencl_dense, none)
{
    rig_need_device();
    setenv("ANYKV_CLBLAST_LIBRARY", "none", 1);
    cr_expect(strcmp(anykv_dense_library("opencl"), "own kernel") == 0);
    twice();
    cr_expect(warned == 0);
}

/* With another OpenCL library it would get handles that are not its own. */
Test(opencl_dense, not_beside_another_opencl)
{
    rig_need_device();
    unsetenv("ANYKV_CLBLAST_LIBRARY");
    setenv("ANYKV_OPENCL_LIBRARY", "libOpenCL.so.1", 1);
    cr_expect(strcmp(anykv_dense_library("opencl"), "own kernel") == 0);
}

Test(opencl_dense, not_the_right_library)
{
    rig_need_device();
    setenv("ANYKV_CLBLAST_LIBRARY", "libm.so.6", 1);
    cr_expect(strcmp(anykv_dense_library("opencl"), "own kernel") == 0);
    twice();
}

/* It is asked once, warned about once, and our own kernel gives the result. */
Test(opencl_dense, a_library_that_fails)
{
    const uint64_t *calls, *handles;
    rig_need_device();
    setenv("ANYKV_CLBLAST_LIBRARY", dense_fake(&calls, &handles), 1);
    twice();
    cr_expect(*calls == 1 && warned == 1, "%u calls, %u warnings", (unsigned)*calls, warned);
}
#endif
