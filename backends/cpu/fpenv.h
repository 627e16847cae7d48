/* SPDX-License-Identifier: Apache-2.0 */
/* The floating-point environment under which kernels run (R13): round to nearest, no flush, nothing
 * trapped.  enter saves the thread's own, leave brings it back, sticky flags included. */
#ifndef AKV_CPU_FPENV_H
#define AKV_CPU_FPENV_H
#include <sched.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(__SSE2__)
#include <xmmintrin.h>
typedef unsigned int akv_fp_state;
static inline akv_fp_state akv_fp_enter(void)
{
    akv_fp_state saved = _mm_getcsr();
    _mm_setcsr(0x1F80u);
    return saved;
}
static inline void akv_fp_leave(akv_fp_state saved)
{
    _mm_setcsr(saved);
}
#elif defined(__aarch64__)
typedef struct {
    uint64_t control, status;
} akv_fp_state;
static inline akv_fp_state akv_fp_enter(void)
{
    akv_fp_state saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved.control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(saved.status));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return saved;
}
static inline void akv_fp_leave(akv_fp_state saved)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(saved.control));
    __asm__ volatile("msr fpsr, %0" : : "r"(saved.status));
}
#else
#include <fenv.h>
typedef fenv_t akv_fp_state;
static inline akv_fp_state akv_fp_enter(void)
{
    akv_fp_state saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void akv_fp_leave(akv_fp_state saved)
{
    fesetenv(&saved);
}
#endif

/* A short rest inside a loop that spins. */
static inline void akv_cpu_pause(void)
{
#if defined(__x86_64__) || defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The same for a loop that waits on another thread, which may need this very core. */
static inline void akv_cpu_rest(unsigned spin)
{
    if (spin % 32 == 31)
        sched_yield();
    else
        akv_cpu_pause();
}

#endif
