/* SPDX-License-Identifier: Apache-2.0 */
/* What the suites of context, device, backend and codec share. */
#ifndef TESTS_HOUSE_H
#define TESTS_HOUSE_H
#include "lib/objects.h"
#include <criterion/criterion.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        anykv_status ok_ = (call);                                                                 \
        cr_assert(ok_ == ANYKV_OK, "%s: %s: %s", #call, anykv_status_name(ok_),                    \
                  anykv_error_detail());                                                           \
    } while (0)

/* The call is refused with this code, and its detail names `text`. */
#define REFUSED(code, text, call)                                                                  \
    do {                                                                                           \
        anykv_status refused_ = (call);                                                            \
        cr_expect(refused_ == (code), "%s: %s, not %s: %s", #call, anykv_status_name(refused_),    \
                  anykv_status_name(code), anykv_error_detail());                                  \
        cr_expect(strstr(anykv_error_detail(), text), "%s: \"%s\" does not say \"%s\"", #call,     \
                  anykv_error_detail(), text);                                                     \
    } while (0)

static inline anykv_context *house_context(void)
{
    anykv_context *context;
    OK(anykv_context_create(NULL, &context));
    return context;
}

static inline anykv_device *house_device(anykv_context *context, uint32_t threads)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = threads;
    anykv_device *device;
    OK(anykv_device_open(context, "cpu", &options, &device));
    return device;
}

/* A small generator with a printed seed. */
static inline uint32_t house_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Runs a scenario that returns its first failure, with each of its allocations failed once, then
 * with each and all later ones: it must end in E_MEMORY or in success, and leak nothing. */
static inline void house_fail_allocations(const char *what, anykv_status (*scenario)(void))
{
    uint64_t live = akv_alloc_live();
    akv_alloc_fail_at(0, false);
    anykv_status status = scenario();
    uint64_t sites = akv_alloc_count();
    cr_assert(status == ANYKV_OK, "%s: %s", what, anykv_error_detail());
    cr_expect(akv_alloc_live() == live, "%s leaks without a failure", what);
    for (int repeat = 0; repeat < 2; repeat++)
        for (uint64_t n = 1; n <= sites; n++) {
            akv_alloc_fail_at(n, repeat);
            status = scenario();
            akv_alloc_fail_at(0, false);
            cr_expect(status == ANYKV_E_MEMORY || (!repeat && status == ANYKV_OK),
                      "%s: allocation %llu of %llu failed, status %s", what, (unsigned long long)n,
                      (unsigned long long)sites, anykv_status_name(status));
            cr_expect(akv_alloc_live() == live,
                      "%s: allocation %llu of %llu failed and %llu leaked", what,
                      (unsigned long long)n, (unsigned long long)sites,
                      (unsigned long long)(akv_alloc_live() - live));
        }
}

/* The same with each backend call failed once: at once and late, with two codes, and with the device
 * lost by it. */
static inline void house_fail_backend(const char *what, anykv_status (*scenario)(void))
{
    static const anykv_status codes[] = {ANYKV_E_DEVICE, ANYKV_E_MEMORY, ANYKV_E_DEAD};
    uint64_t live = akv_alloc_live();
    akv_fault_at(0, ANYKV_OK, false);
    anykv_status status = scenario();
    uint64_t sites = akv_fault_count();
    cr_assert(status == ANYKV_OK, "%s: %s", what, anykv_error_detail());
    for (int late = 0; late < 2; late++)
        for (size_t c = 0; c < 3; c++)
            for (uint64_t n = 1; n <= sites; n++) {
                akv_fault_at(n, codes[c], late);
                status = scenario();
                akv_fault_at(0, ANYKV_OK, false);
                /* Device memory that is refused once is asked for once more. */
                cr_expect(status == codes[c] ||
                              ((late || codes[c] == ANYKV_E_MEMORY) && status == ANYKV_OK),
                          "%s: backend call %llu of %llu failed %s, status %s", what,
                          (unsigned long long)n, (unsigned long long)sites,
                          late ? "late" : "at once", anykv_status_name(status));
                cr_expect(akv_alloc_live() == live, "%s: backend call %llu of %llu leaked", what,
                          (unsigned long long)n, (unsigned long long)sites);
            }
}

#endif
