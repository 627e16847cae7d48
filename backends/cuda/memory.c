/* SPDX-License-Identifier: Apache-2.0 */
/* Device and pinned memory of the CUDA backend. */
#include "cuda.h"

static anykv_status wrap(struct akv_cuda_device *device, uint64_t bytes, struct akv_cuda_mem **mem_out)
{
    struct akv_cuda_mem *mem = akv_alloc(device->base.context, 1, sizeof *mem);
    if (!mem)
        return ANYKV_E_MEMORY;
    mem->base.device = &device->base;
    mem->base.bytes = bytes;
    *mem_out = mem;
    return ANYKV_OK;
}

anykv_status akv_cuda_mem_alloc(struct akv_device *base, uint64_t bytes, enum akv_mem_kind kind,
                                struct akv_mem **mem_out)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base;
    struct akv_cuda_mem *mem;
    anykv_status status = wrap(device, bytes, &mem);
    if (status)
        return status;
    status = akv_cuda_enter(device);
    if (status)
        goto undo_wrap;
    CUresult code;
    if (kind == AKV_MEM_PINNED) {
        code = device->cu->host_alloc(&mem->host, bytes, AKV_CU_HOST_PORTABLE);
        mem->pointer = (CUdeviceptr)(uintptr_t)mem->host; /* unified addressing: valid on the device */
    } else {
        code = device->cu->memory_alloc(&mem->pointer, bytes);
    }
    akv_cuda_leave(device);
    if (code) {
        status = akv_cuda_fail(device, code, kind == AKV_MEM_PINNED ? "pinned memory" : "device memory");
        goto undo_wrap;
    }
    mem->owned = true;
    *mem_out = &mem->base;
    return ANYKV_OK;
undo_wrap:
    akv_free(base->context, mem);
    return status;
}

anykv_status akv_cuda_mem_adopt(struct akv_device *base, void *native, uint64_t bytes,
                                struct akv_mem **mem_out)
{
    struct akv_cuda_mem *mem;
    anykv_status status = wrap((struct akv_cuda_device *)base, bytes, &mem);
    if (status)
        return status;
    mem->pointer = (CUdeviceptr)(uintptr_t)native;
    *mem_out = &mem->base;
    return ANYKV_OK;
}

void akv_cuda_mem_free(struct akv_mem *base)
{
    struct akv_cuda_mem *mem = (struct akv_cuda_mem *)base;
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    if (mem->owned && akv_cuda_enter(device) == ANYKV_OK) {
        if (mem->host)
            device->cu->host_free(mem->host);
        else
            device->cu->memory_free(mem->pointer);
        akv_cuda_leave(device);
    }
    akv_free(device->base.context, mem);
}

void *akv_cuda_mem_map(struct akv_mem *base)
{
    return ((struct akv_cuda_mem *)base)->host;
}
