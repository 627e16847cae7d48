/* SPDX-License-Identifier: Apache-2.0 */
/* The allocator seam: every byte of host memory, the caller's hooks, and failure injection. */
#include "objects.h"
#include <stdatomic.h>
#include <stdlib.h>

#define ALIGN_LARGE                                                                                \
    64u /* from this size on; it is also the largest alignment the hooks are asked for */
#define ALIGN_SMALL 16u
#define MAGIC_LIVE  0x616b764cu
#define MAGIC_FREED 0x66726565u

/* Stands right before the memory that is handed out. */
struct header {
    size_t total; /* bytes taken from the allocator, this header and its padding included */
    uint32_t offset;
    uint32_t magic;
};
_Static_assert(sizeof(struct header) <= ALIGN_SMALL, "the header fits before small memory");

/* Relaxed throughout: they count, they order nothing. */
static atomic_uint_fast64_t counted, failing, live;
static atomic_bool failing_on;

bool akv_alloc_refused(void)
{
    uint64_t number = atomic_fetch_add_explicit(&counted, 1, memory_order_relaxed) + 1;
    uint64_t n = atomic_load_explicit(&failing, memory_order_relaxed);
    return n &&
           (number == n || (number > n && atomic_load_explicit(&failing_on, memory_order_relaxed)));
}

void *akv_alloc(anykv_context *context, size_t count, size_t each)
{
    size_t bytes, total;
    if (akv_mul_overflows(count, each, &bytes) || akv_add_overflows(bytes, ALIGN_LARGE, &total) ||
        total > PTRDIFF_MAX) {
        akv_fail(context, ANYKV_E_MEMORY, "memory: %zu times %zu bytes do not fit in ptrdiff_t",
                 count, each);
        return NULL;
    }
    uint32_t align = bytes >= ALIGN_LARGE ? ALIGN_LARGE : ALIGN_SMALL;
    total = bytes + align;
    void *raw = NULL;
    if (!akv_alloc_refused()) {
        if (context && context->options.alloc)
            raw = context->options.alloc(context->options.alloc_user, total, align);
        else if (posix_memalign(&raw, align, total) != 0)
            raw = NULL;
    }
    if (!raw) {
        akv_fail(context, ANYKV_E_MEMORY, "memory: %zu bytes of host memory refused", bytes);
        return NULL;
    }
    memset(raw, 0, total);
    uint8_t *memory = (uint8_t *)raw + align;
    struct header header = {total, align, MAGIC_LIVE};
    memcpy(memory - sizeof header, &header, sizeof header);
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    if (context)
        atomic_fetch_add_explicit(&context->host_bytes, total, memory_order_relaxed);
    return memory;
}

void *akv_resize(anykv_context *context, void *memory, size_t old_count, size_t new_count,
                 size_t each)
{
    void *larger = akv_alloc(context, new_count, each);
    if (!larger)
        return NULL;
    size_t keep = old_count < new_count ? old_count : new_count;
    if (memory && keep)
        memcpy(larger, memory, keep * each);
    akv_free(context, memory);
    return larger;
}

void akv_free(anykv_context *context, void *memory)
{
    if (!memory)
        return;
    struct header header;
    memcpy(&header, (uint8_t *)memory - sizeof header, sizeof header);
    assert(header.magic == MAGIC_LIVE);
    struct header freed = {0, 0, MAGIC_FREED};
    memcpy((uint8_t *)memory - sizeof freed, &freed, sizeof freed);
    void *raw = (uint8_t *)memory - header.offset;
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    if (context)
        atomic_fetch_sub_explicit(&context->host_bytes, header.total, memory_order_relaxed);
    if (context && context->options.free)
        context->options.free(context->options.alloc_user, raw, header.total);
    else
        free(raw);
}

void akv_alloc_fail_at(uint64_t n, bool repeat)
{
    atomic_store_explicit(&failing, 0, memory_order_relaxed);
    atomic_store_explicit(&counted, 0, memory_order_relaxed);
    atomic_store_explicit(&failing_on, repeat, memory_order_relaxed);
    atomic_store_explicit(&failing, n, memory_order_relaxed);
}

uint64_t akv_alloc_count(void)
{
    return atomic_load_explicit(&counted, memory_order_relaxed);
}

uint64_t akv_alloc_live(void)
{
    return atomic_load_explicit(&live, memory_order_relaxed);
}
