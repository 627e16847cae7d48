/* SPDX-License-Identifier: Apache-2.0 */
/* Mutexes, condition variables, threads and clocks over POSIX. */
#include "internal.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

anykv_status akv_mutex_init(anykv_context *context, akv_mutex *mutex)
{
    pthread_mutexattr_t *how = NULL;
    int error = akv_alloc_refused() ? ENOMEM : 0;
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
    /* What is held is let go soon: to look again a few times costs less than to sleep. */
    pthread_mutexattr_t adaptive;
    if (!error)
        error = pthread_mutexattr_init(&adaptive);
    if (!error) {
        how = &adaptive;
        error = pthread_mutexattr_settype(how, PTHREAD_MUTEX_ADAPTIVE_NP);
    }
#endif
    if (!error)
        error = pthread_mutex_init(&mutex->m, how);
    if (how)
        pthread_mutexattr_destroy(how);
    if (error)
        return akv_fail(context, ANYKV_E_MEMORY, "mutex: %s", strerror(error));
    return ANYKV_OK;
}

void akv_mutex_destroy(akv_mutex *mutex)
{
    pthread_mutex_destroy(&mutex->m);
}

void akv_mutex_lock(akv_mutex *mutex)
{
    int error = pthread_mutex_lock(&mutex->m);
    assert(error == 0);
    (void)error;
}

void akv_mutex_unlock(akv_mutex *mutex)
{
    int error = pthread_mutex_unlock(&mutex->m);
    assert(error == 0);
    (void)error;
}

anykv_status akv_cond_init(anykv_context *context, akv_cond *cond)
{
    pthread_condattr_t attributes;
    int error = akv_alloc_refused() ? ENOMEM : pthread_condattr_init(&attributes);
    if (!error) {
        error = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        if (!error)
            error = pthread_cond_init(&cond->c, &attributes);
        pthread_condattr_destroy(&attributes);
    }
    if (error)
        return akv_fail(context, ANYKV_E_MEMORY, "condition variable: %s", strerror(error));
    return ANYKV_OK;
}

void akv_cond_destroy(akv_cond *cond)
{
    pthread_cond_destroy(&cond->c);
}

void akv_cond_wait(akv_cond *cond, akv_mutex *mutex)
{
    pthread_cond_wait(&cond->c, &mutex->m);
}

bool akv_cond_wait_until(akv_cond *cond, akv_mutex *mutex, uint64_t deadline_ns)
{
    struct timespec deadline = {(time_t)(deadline_ns / 1000000000u),
                                (long)(deadline_ns % 1000000000u)};
    return pthread_cond_timedwait(&cond->c, &mutex->m, &deadline) != ETIMEDOUT;
}

void akv_cond_signal(akv_cond *cond)
{
    pthread_cond_signal(&cond->c);
}

void akv_cond_broadcast(akv_cond *cond)
{
    pthread_cond_broadcast(&cond->c);
}

/* Kernels keep tiles on the stack (a quarter of a megabyte), more than some systems give a thread.
 */
#define STACK_BYTES ((size_t)2 << 20)

static int start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    pthread_attr_t attributes;
    size_t bytes = 0;
    int error = pthread_attr_init(&attributes);
    if (error)
        return error;
    if (pthread_attr_getstacksize(&attributes, &bytes) == 0 && bytes < STACK_BYTES)
        error = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (!error)
        error = pthread_create(thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return error;
}

anykv_status akv_thread_start(anykv_context *context, akv_thread *thread, void *(*run)(void *),
                              void *argument)
{
    /* Signals stay with the caller's threads: its handlers must not run on ours. */
    sigset_t all, before;
    sigfillset(&all);
    int error = akv_alloc_refused() ? ENOMEM : pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!error) {
        error = start(&thread->t, run, argument);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (error)
        return akv_fail(context, ANYKV_E_MEMORY, "thread: %s", strerror(error));
    return ANYKV_OK;
}

void akv_thread_join(akv_thread *thread)
{
    int error = pthread_join(thread->t, NULL);
    assert(error == 0);
    (void)error;
}

uint64_t akv_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t akv_thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint32_t akv_cpu_count(void)
{
    long count = 0;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = CPU_COUNT(&set);
#endif
    if (count < 1)
        count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1u : (uint32_t)count;
}
