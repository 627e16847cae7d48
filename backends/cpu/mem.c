/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the CPU device: zeroed pages of its own, or memory of the caller. */
#include "device.h"
#include <errno.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* Maps `bytes` rounded up to pages; large ones start at a huge page, so that all of it can be huge.
 */
static uint8_t *map(size_t bytes, size_t *mapped_out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), align = bytes >= HUGE_PAGE ? HUGE_PAGE : page,
           whole;
    if (bytes > SIZE_MAX - 2 * HUGE_PAGE)
        return NULL;
    size_t rounded = (bytes + page - 1) & ~(page - 1);
    whole = align == page ? rounded : rounded + align;
    void *raw = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    uint8_t *start = raw;
    size_t before = (align - ((uintptr_t)raw & (align - 1))) & (align - 1);
    if (before)
        munmap(start, before);
    start += before;
    if (whole - before > rounded)
        munmap(start + rounded, whole - before - rounded);
#if defined(MADV_HUGEPAGE)
    if (align == HUGE_PAGE)
        madvise(start, rounded, MADV_HUGEPAGE); /* a wish: its refusal changes nothing */
#endif
    *mapped_out = rounded;
    return start;
}

static struct akv_cpu_mem *make(struct akv_device *device, uint64_t bytes)
{
    struct akv_cpu_mem *mem = akv_alloc(device->context, 1, sizeof *mem);
    if (mem) {
        mem->base.device = device;
        mem->base.bytes = bytes;
    }
    return mem;
}

anykv_status akv_cpu_mem_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                               struct akv_mem **mem_out)
{
    (void)kind; /* all of it is host memory */
    struct akv_cpu_mem *mem = make(device, bytes);
    if (!mem)
        return ANYKV_E_MEMORY;
    mem->address = bytes > SIZE_MAX ? NULL : map((size_t)bytes, &mem->mapped);
    if (!mem->address) {
        akv_free(device->context, mem);
        return akv_fail(device->context, ANYKV_E_MEMORY, "memory: %llu bytes of pages refused: %s",
                        (unsigned long long)bytes, strerror(errno));
    }
    *mem_out = &mem->base;
    return ANYKV_OK;
}

anykv_status akv_cpu_mem_adopt(struct akv_device *device, void *native, uint64_t bytes,
                               struct akv_mem **mem_out)
{
    struct akv_cpu_mem *mem = make(device, bytes);
    if (!mem)
        return ANYKV_E_MEMORY;
    mem->address = native;
    *mem_out = &mem->base;
    return ANYKV_OK;
}

void akv_cpu_mem_free(struct akv_mem *base)
{
    struct akv_cpu_mem *mem = (struct akv_cpu_mem *)base;
    /* What is enqueued may still read or write it. */
    akv_cpu_drain(akv_cpu_device_of(base->device));
    if (mem->mapped)
        munmap(mem->address, mem->mapped);
    akv_free(base->device->context, mem);
}

void *akv_cpu_mem_map(struct akv_mem *mem)
{
    return ((struct akv_cpu_mem *)mem)->address;
}
