/* SPDX-License-Identifier: Apache-2.0 */
/* Seams that every host file uses: errors, memory, log, checked arithmetic, threads. */
#ifndef AKV_INTERNAL_H
#define AKV_INTERNAL_H
#include "anykv.h"
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define AKV_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define AKV_UNUSED       __attribute__((unused))
#define AKV_LIKELY(x)    __builtin_expect(!!(x), 1)
#define AKV_UNLIKELY(x)  __builtin_expect(!!(x), 0)
#else
#define AKV_PRINTF(f, a)
#define AKV_UNUSED
#define AKV_LIKELY(x)   (x)
#define AKV_UNLIKELY(x) (x)
#endif

/* ---- errors (status.c): records the detail for anykv_error_detail() on this thread, returns code ---- */
anykv_status akv_fail(anykv_context *context, anykv_status code, const char *format, ...) AKV_PRINTF(3, 4);

/* ---- ring of failures (errors.c); context may be NULL ---- */
void akv_error_record(anykv_context *context, anykv_status code, const char *text);

/* ---- log (log.c): levels of enum anykv_log_level; nothing is printed without a callback ---- */
void akv_log(anykv_context *context, int level, const char *format, ...) AKV_PRINTF(3, 4);

/* ---- memory (alloc.c).  Zeroed, 64-byte aligned where bytes >= 64.  NULL with E_MEMORY recorded. ---- */
void *akv_alloc(anykv_context *context, size_t count, size_t each); /* checked product */
void *akv_resize(anykv_context *context, void *memory, size_t old_count, size_t new_count, size_t each);
void akv_free(anykv_context *context, void *memory); /* NULL is fine */
/* Test seam: the n-th allocation from now fails (then `repeat`: all later ones too); 0 switches off.
 * akv_alloc_count() is the number of allocations since the last call of akv_alloc_fail_at. */
void akv_alloc_fail_at(uint64_t n, bool repeat);
uint64_t akv_alloc_count(void);
uint64_t akv_alloc_live(void); /* allocations not yet freed, whole process */
bool akv_alloc_refused(void);  /* counts a site that allocates elsewhere (threads, locks): must it fail? */

/* ---- checked arithmetic: true when the result does not fit ---- */
static inline bool akv_mul_overflows(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > SIZE_MAX / b)
        return true;
    *out = a * b;
    return false;
}
static inline bool akv_add_overflows(size_t a, size_t b, size_t *out)
{
    if (a > SIZE_MAX - b)
        return true;
    *out = a + b;
    return false;
}

/* ---- threads (thread.c): thin wrappers over pthreads, so that one file knows the platform ---- */
#include <pthread.h>
typedef struct akv_mutex {
    pthread_mutex_t m;
} akv_mutex;
typedef struct akv_cond {
    pthread_cond_t c;
} akv_cond;
anykv_status akv_mutex_init(anykv_context *context, akv_mutex *mutex);
void akv_mutex_destroy(akv_mutex *mutex);
void akv_mutex_lock(akv_mutex *mutex);
void akv_mutex_unlock(akv_mutex *mutex);
anykv_status akv_cond_init(anykv_context *context, akv_cond *cond); /* CLOCK_MONOTONIC */
void akv_cond_destroy(akv_cond *cond);
void akv_cond_wait(akv_cond *cond, akv_mutex *mutex);
bool akv_cond_wait_until(akv_cond *cond, akv_mutex *mutex, uint64_t deadline_ns); /* false: timed out */
void akv_cond_signal(akv_cond *cond);
void akv_cond_broadcast(akv_cond *cond);
typedef struct akv_thread {
    pthread_t t;
} akv_thread;
anykv_status akv_thread_start(anykv_context *context, akv_thread *thread, void *(*run)(void *),
                              void *argument); /* all signals blocked in it */
void akv_thread_join(akv_thread *thread);
uint64_t akv_now_ns(void); /* monotonic */
uint64_t akv_thread_ns(void); /* processor time of the calling thread, for measurements */
uint32_t akv_cpu_count(void);

/* ---- hash (hash.c): SHA-256 by nettle ---- */
typedef struct akv_digest {
    uint8_t byte[32];
} akv_digest;
typedef struct akv_sha256 {
    uint64_t opaque[32];
} akv_sha256;
void akv_sha256_init(akv_sha256 *state);
void akv_sha256_update(akv_sha256 *state, const void *data, size_t bytes);
void akv_sha256_u32(akv_sha256 *state, uint32_t value); /* little-endian */
void akv_sha256_u64(akv_sha256 *state, uint64_t value);
akv_digest akv_sha256_final(akv_sha256 *state);

/* Option structs: copies min(size, known) bytes over the defaults, refuses non-zero bytes beyond `known`
 * and a size that cannot hold the size field.  options NULL: defaults.  status.c */
anykv_status akv_options(anykv_context *context, const char *what, void *into, size_t known,
                         const void *options);

#endif
