/* SPDX-License-Identifier: Apache-2.0 */
/* Dense products on CUDA, on the fake driver: by a fake cuBLAS, by one that fails, without one; and
 * by the real ones where there is a card. */
#include "house.h"
#if defined(AKV_WITH_CUDA)
#include "cuda_rig.h"
#include "dense_case.h"

static unsigned warned;
static void listen_to(void *user, int level, const char *message)
{
    (void)user;
    warned += level == ANYKV_LOG_WARNING && strstr(message, "our own kernel") != NULL;
}

static void twice(void)
{
    static float c[2][DENSE_M * DENSE_LINE];
    anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
    anykv_device_options how = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
    options.log = listen_to;
    OK(anykv_context_create(&options, &context));
    OK(akv_device_open(context, "cuda", &how, &device));
    OK(akv_queue_create(device, NULL, &queue));
    for (int i = 0; i < 2; i++)
        OK(dense_product(device, queue, c[i]));
    cr_expect(memcmp(c[0], c[1], sizeof c[0]) == 0);
    akv_queue_destroy(queue);
    akv_device_close(device);
    anykv_context_destroy(context);
}

/* How often our own kernel ran. */
static uint64_t own(const struct fake_cuda *fake)
{
    const struct fake_cuda_launch *l;
    uint64_t count = 0;
    for (uint64_t i = 0; (l = fake->launch(i)); i++)
        count += strcmp(l->name, "akv_k_multiply") == 0;
    return count;
}

Test(cuda_dense, by_the_library)
{
    const uint64_t *calls, *handles;
    const struct fake_cuda *fake = rig_use_fake();
    setenv("ANYKV_CUBLAS_LIBRARY", dense_fake(&calls, &handles), 1);
    cr_expect(strstr(anykv_dense_library("cuda"), "fake_dense") != NULL);
    fake->reset();
    twice();
    cr_expect(*calls == 2 && own(fake) == 0 && warned == 0 && *handles == 0);
    rig_expect_clean(fake, "by the library");
}

Test(cuda_dense, none)
{
    const struct fake_cuda *fake = rig_use_fake();
    cr_expect(strcmp(anykv_dense_library("cuda"), "own kernel") ==
              0); /* not beside another driver */
    fake->reset();
    twice();
    cr_expect(own(fake) == 2 && warned == 0);
}

/* Whichever function it is: asked once, warned about once, and our own kernel gives the result. */
Test(cuda_dense, a_library_that_fails)
{
    static const char *const functions[] = {"cublasCreate_v2", "cublasSetMathMode",
                                            "cublasSetStream_v2", "cublasSgemmStridedBatched"};
    const uint64_t *calls, *handles;
    const struct fake_cuda *fake = rig_use_fake();
    setenv("ANYKV_CUBLAS_LIBRARY", dense_fake(&calls, &handles), 1);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        setenv("FAKE_DENSE", functions[i], 1);
        fake->reset();
        warned = 0;
        twice();
        cr_expect(own(fake) == 2 && warned == 1 && *handles == 0,
                  "%s: %u of our own, %u warnings, %u handles", functions[i], (unsigned)own(fake),
                  warned, (unsigned)*handles);
        rig_expect_clean(fake, functions[i]);
    }
    cr_expect(*calls == 1);
}

Test(cuda_dense, on_a_card)
{
    anykv_context *context = house_context();
    struct akv_device_info info;
    uint32_t count;
    unsetenv("ANYKV_CUDA_LIBRARY");
    OK(akv_cuda_probe(context, 1, &info, &count));
    anykv_context_destroy(context);
    if (!info.usable)
        cr_skip_test("no CUDA device");
    cr_log_info("dense products: %s", anykv_dense_library("cuda"));
    twice();
    cr_expect(warned == 0);
}
#endif
