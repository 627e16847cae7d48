/* SPDX-License-Identifier: Apache-2.0 */
/* Fault injection for the checked wrappers: the n-th backend call fails, at once or at the next
 * wait. */
#include "backend.h"
#include <stdatomic.h>

/* Sequentially consistent: tests set them between calls, nothing depends on their cost. */
static atomic_uint_fast64_t counted, failing;
static atomic_int failing_code, late_code;
static atomic_bool failing_late;

void akv_fault_at(uint64_t n, anykv_status code, bool late)
{
    atomic_store(&failing, 0);
    atomic_store(&late_code, ANYKV_OK);
    atomic_store(&counted, 0);
    atomic_store(&failing_code, (int)code);
    atomic_store(&failing_late, late);
    atomic_store(&failing, n);
}

uint64_t akv_fault_count(void)
{
    return atomic_load(&counted);
}

anykv_status akv_fault_hit(anykv_context *context, const char *call)
{
    uint64_t number = atomic_fetch_add(&counted, 1) + 1;
    if (AKV_LIKELY(number != atomic_load(&failing)))
        return ANYKV_OK;
    int code = atomic_load(&failing_code);
    if (atomic_load(&failing_late)) {
        atomic_store(&late_code, code);
        return ANYKV_OK;
    }
    return akv_fail(context, (anykv_status)code, "%s: injected fault at backend call %llu", call,
                    (unsigned long long)number);
}

anykv_status akv_fault_take(anykv_context *context)
{
    if (AKV_LIKELY(atomic_load(&late_code) == ANYKV_OK))
        return ANYKV_OK;
    int code = atomic_exchange(&late_code, ANYKV_OK);
    if (code == ANYKV_OK)
        return ANYKV_OK;
    return akv_fail(context, (anykv_status)code, "wait: injected late fault of an earlier call");
}
