/* SPDX-License-Identifier: Apache-2.0 */
/* What a test asks of the fake CUDA driver (fake_cuda.c) behind the driver's own interface. */
#ifndef TESTS_FAKE_CUDA_H
#define TESTS_FAKE_CUDA_H
#include "backends/cuda/driver.h"

#define FAKE_CUDA_PARAMS 4u

struct fake_cuda_launch {
    char name[64];
    unsigned grid[3], block[3], shared;
    CUstream stream;
    void *param[FAKE_CUDA_PARAMS]; /* copies, as the driver makes them at the call */
    uint32_t params;
};
/* What a kernel's name means: the sizes of its parameters (returns their number; 0: no such kernel), and
 * what it does to memory. */
struct fake_cuda_kernels {
    uint32_t (*sizes)(const char *name, size_t bytes[FAKE_CUDA_PARAMS]);
    void (*run)(const struct fake_cuda_launch *launch);
};
struct fake_cuda_state {
    uint64_t contexts, retained, streams, events, modules, device_memory, pinned_memory; /* alive */
    uint64_t lost;     /* objects that were alive when their primary context went */
    uint64_t pending;  /* pieces of asynchronous work not yet done */
    uint64_t launches; /* since the last reset */
    uint64_t stack;    /* contexts pushed on this thread */
    uint64_t misused;  /* calls against the driver's contract */
    char misuse[200];  /* the first of them */
};
struct fake_cuda {
    void (*reset)(void); /* forgets launches, injected failures and misuse; work is done at once */
    void (*kernels)(const struct fake_cuda_kernels *kernels);
    /* The n-th call from now fails with `code`; calls that release something do so all the same, as a driver
     * that reports an earlier failure does.  0: off. */
    void (*fail_at)(uint64_t n, int code);
    uint64_t (*calls)(void);       /* since */
    const char *(*failed)(void);   /* the function that failed, or "" */
    void (*defer)(int on);         /* asynchronous work is done when somebody waits or asks */
    void (*stall)(int on);         /* deferred work is not done by asking */
    void (*poison)(int code);      /* a kernel went wrong: every later call on the context says so; 0: off */
    CUcontext (*context)(CUdevice device); /* a context of the caller's own, not current */
    void (*context_free)(CUcontext context);
    const struct fake_cuda_launch *(*launch)(uint64_t index);
    void (*state)(struct fake_cuda_state *state);
};
typedef const struct fake_cuda *fake_cuda_control(void); /* exported as "fake_cuda" */

#endif
