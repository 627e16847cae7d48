/* SPDX-License-Identifier: Apache-2.0 */
/* What the CUDA suites share: the fake driver, whose kernels are the scalar code of the CPU backend. */
#ifndef TESTS_CUDA_RIG_H
#define TESTS_CUDA_RIG_H
#include "house.h"
#include "fake_cuda.h"
#include "backends/cpu/cpu.h"
#include "backends/cpu/fpenv.h"
#include "backends/cuda/cuda.h"
#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Kernel of an entry point, and what follows its name ("" or "_..."). */
static inline enum akv_kernel_id rig_kernel(const char *name, const char **rest_out)
{
    for (int k = 0; k < AKV_KERNEL_COUNT; k++) {
        size_t length = strlen(akv_kernels[k].name);
        const char *rest = name + 6 + length;
        if (strncmp(name, "akv_k_", 6) == 0 && strncmp(name + 6, akv_kernels[k].name, length) == 0 &&
            (*rest == 0 || *rest == '_')) {
            *rest_out = rest;
            return (enum akv_kernel_id)k;
        }
    }
    static const struct {
        const char *stem;
        enum akv_kernel_id kernel;
    } parts[] = {{"prefill_", AKV_K_ATTEND},          {"bx16_pieces", AKV_K_BX16_ENCODE},
                 {"bx16_records", AKV_K_BX16_ENCODE}, {"bx16_escapes", AKV_K_BX16_ENCODE},
                 {"rans_segments", AKV_K_RANS_ENCODE}, {"rans_records", AKV_K_RANS_ENCODE},
                 {"rans_move", AKV_K_RANS_ENCODE}};
    *rest_out = name;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strncmp(name, "akv_k_", 6) == 0 && strncmp(name + 6, parts[i].stem, strlen(parts[i].stem)) == 0)
            return parts[i].kernel;
    return AKV_KERNEL_COUNT;
}

static inline uint32_t rig_sizes(const char *name, size_t bytes[FAKE_CUDA_PARAMS])
{
    const char *rest;
    enum akv_kernel_id kernel = rig_kernel(name, &rest);
    if (kernel == AKV_KERNEL_COUNT)
        return 0;
    bytes[0] = akv_kernels[kernel].params_bytes;
    bytes[1] = sizeof(struct akv_cuda_args);
    bytes[2] = sizeof(struct akv_cuda_plan);
    bytes[3] = sizeof(CUdeviceptr);
    return kernel == AKV_K_ATTEND ? 4 : 2;
}

/* The name must say what the parameters say. */
static inline void rig_check_stem(const char *name, const char *rest, uint32_t format, bool search, bool map)
{
    char want[40] = "_raw";
    if (!akv_format_raw(format)) {
        snprintf(want, sizeof want, "_%s%s%s", anykv_format_name((anykv_format)format), search ? "_search" : "",
                 map ? "_map" : "");
        for (char *c = want; *c; c++)
            *c = (char)tolower((unsigned char)*c);
    }
    cr_expect(strcmp(rest, want) == 0, "%s for format %s", name, want);
}

static inline void rig_run(const struct fake_cuda_launch *launch)
{
    const char *rest, *name = launch->name;
    void *const *param = launch->param;
    enum akv_kernel_id id = rig_kernel(name, &rest);
    const struct akv_cpu_kernel *kernel = akv_cpu_kernels[AKV_ISA_SCALAR][id];
    const struct akv_cuda_args *given = param[1];
    struct akv_cpu_args args = {.params = param[0], .workers = 1};
    void *scratch = NULL, *work;
    if (strncmp(name, "akv_k_prefill_", 14) == 0)
        return; /* the launch of attend before it has done the whole */
    if ((id == AKV_K_BX16_ENCODE && strcmp(name, "akv_k_bx16_escapes") != 0) ||
        (id == AKV_K_RANS_ENCODE && strcmp(name, "akv_k_rans_move") != 0))
        return; /* the last launch does it */
    if (id == AKV_K_ENCODE || id == AKV_K_DECODE) {
        const akv_encode_params *p = param[0];
        rig_check_stem(name, rest, p->format,
                       id == AKV_K_ENCODE && akv_format_codebook(p->format) && (p->flags & AKV_FLAG_SEARCH),
                       p->flags & AKV_FLAG_MAP);
    }
    if (id == AKV_K_SEAL) {
        const akv_seal_params *p = param[0];
        bool value = rest[1] == 'v';
        uint32_t format = value ? p->v_format : p->k_format, flags = value ? p->v_flags : p->k_flags;
        rig_check_stem(name, rest + 2, format, akv_format_codebook(format) && (flags & AKV_FLAG_SEARCH),
                       flags & AKV_FLAG_MAP);
    }
    if ((id == AKV_K_SEAL || id == AKV_K_REENCODE) && rest[1] == 'k')
        return; /* the launch for the values does both sides */
    for (uint32_t i = 0; i < akv_kernels[id].arguments; i++) {
        args.arg[i] = (uint8_t *)(uintptr_t)given->arg[i];
        args.arg_bytes[i] = given->arg[i] ? UINT64_MAX : 0;
    }
    for (uint32_t i = 0; i < AKV_MAX_SLABS; i++)
        args.slab[i] = (uint8_t *)(uintptr_t)given->slab[i];
    if (id == AKV_K_ATTEND) { /* its scratch is laid out in another way than the card's */
        scratch = malloc(kernel->scratch(param[0]) + 64);
        cr_assert(scratch);
        args.arg[6] = scratch;
    }
    work = aligned_alloc(64, AKV_CPU_WORK_BYTES);
    cr_assert(work);
    args.work = work;
    akv_fp_state saved = akv_fp_enter();
    for (uint32_t phase = 0; phase < kernel->phases; phase++)
        kernel->run(&args, phase, 0, kernel->items(&args, phase));
    akv_fp_leave(saved);
    free(work);
    free(scratch);
}

/* From now on in this process the backend loads the fake driver. */
static inline const struct fake_cuda *rig_use_fake(void)
{
    static const struct fake_cuda_kernels kernels = {rig_sizes, rig_run};
    static char path[512];
    const char *top = getenv("top_builddir");
    snprintf(path, sizeof path, "%s/tests/.libs/fake_cuda.so", top ? top : ".");
    if (access(path, R_OK) != 0)
        cr_skip_test("the fake driver is not built");
    setenv("ANYKV_CUDA_LIBRARY", path, 1);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert(library, "%s", dlerror());
    void *symbol = dlsym(library, "fake_cuda");
    fake_cuda_control *control;
    cr_assert(symbol);
    memcpy(&control, &symbol, sizeof symbol);
    const struct fake_cuda *fake = control();
    fake->kernels(&kernels);
    fake->reset();
    return fake;
}

/* Nothing of ours is alive, nothing is pushed, nobody broke the driver's contract. */
static inline void rig_expect_clean(const struct fake_cuda *fake, const char *when)
{
    struct fake_cuda_state s;
    fake->state(&s);
    cr_expect(s.misused == 0, "%s: %s", when, s.misuse);
    cr_expect(s.stack == 0, "%s: %llu contexts pushed", when, (unsigned long long)s.stack);
    cr_expect(s.retained == 0, "%s: the primary context is retained", when);
    cr_expect(s.pending == 0, "%s: work is left", when);
    cr_expect(s.lost == 0 && s.streams == 0 && s.events == 0 && s.modules == 0 && s.device_memory == 0 &&
                  s.pinned_memory == 0,
              "%s: left are %llu lost, %llu streams, %llu events, %llu modules, %llu + %llu memory", when,
              (unsigned long long)s.lost, (unsigned long long)s.streams, (unsigned long long)s.events,
              (unsigned long long)s.modules, (unsigned long long)s.device_memory,
              (unsigned long long)s.pinned_memory);
    cr_expect(akv_alloc_live() == 0, "%s: %llu allocations are left", when,
              (unsigned long long)akv_alloc_live());
}

/* A device through the checked wrappers, with a queue. */
struct rig {
    const struct fake_cuda *fake;
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
};
static inline struct rig rig_set_up(void)
{
    struct rig rig = {.fake = rig_use_fake(), .context = house_context()};
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    OK(akv_device_open(rig.context, "cuda", &options, &rig.device));
    OK(akv_queue_create(rig.device, NULL, &rig.queue));
    return rig;
}
static inline void rig_tear_down(struct rig *rig)
{
    akv_queue_destroy(rig->queue);
    akv_device_close(rig->device);
    anykv_context_destroy(rig->context);
    rig_expect_clean(rig->fake, "after closing");
}

#endif
