/* SPDX-License-Identifier: Apache-2.0 */
/* Device buffers, pinned buffers that stay mapped, and buffers of the caller. */
#include "cl.h"

/* Fills the whole buffer and waits: drivers that allocate at first use then fail here and not in a
 * step, and no bytes of an earlier owner can be read. */
static cl_int touch(struct akv_cl_device *device, cl_mem buffer, uint64_t bytes)
{
    const struct akv_cl *cl = device->cl;
    const uint32_t zero[4] = {0, 0, 0, 0};
    akv_mutex_lock(&device->lock);
    cl_int code =
        cl->enqueue_fill(device->internal, buffer, zero, sizeof zero, 0, bytes, 0, NULL, NULL);
    if (code == CL_SUCCESS)
        code = cl->finish(device->internal);
    akv_mutex_unlock(&device->lock);
    return code;
}

static cl_int map_pinned(struct akv_cl_device *device, struct akv_cl_mem *mem, uint64_t bytes)
{
    cl_int code;
    akv_mutex_lock(&device->lock);
    mem->map = device->cl->enqueue_map(device->internal, mem->buffer, CL_TRUE,
                                       CL_MAP_READ | CL_MAP_WRITE, 0, bytes, 0, NULL, NULL, &code);
    akv_mutex_unlock(&device->lock);
    if (code == CL_SUCCESS && !mem->map)
        code = CL_MAP_FAILURE;
    return code;
}

/* In clCreateBuffer and in the first use of new memory, out of resources means out of memory. */
static anykv_status fail_alloc(struct akv_cl_device *device, uint64_t bytes, cl_int code)
{
    bool memory = code == CL_OUT_OF_RESOURCES || code == CL_MEM_OBJECT_ALLOCATION_FAILURE ||
                  code == CL_OUT_OF_HOST_MEMORY || code == CL_INVALID_BUFFER_SIZE;
    if (!memory)
        return akv_cl_device_fail(device, AKV_CL_CALL, "device memory", code);
    return akv_fail(device->base.context, ANYKV_E_MEMORY,
                    "bytes: %llu bytes of device memory on %s (at most %llu in one piece): %s (%d)",
                    (unsigned long long)bytes, device->base.info.name,
                    (unsigned long long)device->base.info.max_alloc, akv_cl_error_name(code), code);
}

anykv_status akv_cl_mem_alloc(struct akv_device *base, uint64_t bytes, enum akv_mem_kind kind,
                              struct akv_mem **mem_out)
{
    struct akv_cl_device *device = akv_cl_device(base);
    const struct akv_cl *cl = device->cl;
    /* Sizes are rounded up so that 16-byte accesses of a ragged tail stay inside. */
    uint64_t room = (bytes + 15u) & ~(uint64_t)15u;
    if (room < bytes || room > SIZE_MAX || (base->info.max_alloc && bytes > base->info.max_alloc))
        return fail_alloc(device, bytes, CL_INVALID_BUFFER_SIZE);
    struct akv_cl_mem *mem = akv_alloc(base->context, 1, sizeof *mem);
    if (!mem)
        return ANYKV_E_MEMORY;
    cl_mem_flags flags = CL_MEM_READ_WRITE | (kind == AKV_MEM_PINNED ? CL_MEM_ALLOC_HOST_PTR : 0u);
    cl_int code;
    mem->base.device = base;
    mem->base.bytes = bytes;
    mem->buffer = cl->create_buffer(device->context, flags, (size_t)room, NULL, &code);
    if (code != CL_SUCCESS)
        goto free_mem;
    code = touch(device, mem->buffer, room);
    if (code == CL_SUCCESS && kind == AKV_MEM_PINNED)
        code = map_pinned(device, mem, room);
    if (code != CL_SUCCESS)
        goto release_buffer;
    *mem_out = &mem->base;
    return ANYKV_OK;

release_buffer:
    cl->release_buffer(mem->buffer);
free_mem:
    akv_free(base->context, mem);
    return fail_alloc(device, bytes, code);
}

anykv_status akv_cl_mem_adopt(struct akv_device *base, void *native, uint64_t bytes,
                              struct akv_mem **mem_out)
{
    struct akv_cl_device *device = akv_cl_device(base);
    const struct akv_cl *cl = device->cl;
    cl_mem buffer = native;
    cl_context owner = NULL;
    size_t size = 0;
    cl_mem_object_type type = 0;
    cl_int code = cl->buffer_info(buffer, CL_MEM_TYPE, sizeof type, &type, NULL);
    if (code == CL_SUCCESS)
        code = cl->buffer_info(buffer, CL_MEM_SIZE, sizeof size, &size, NULL);
    if (code == CL_SUCCESS)
        code = cl->buffer_info(buffer, CL_MEM_CONTEXT, sizeof owner, &owner, NULL);
    if (code != CL_SUCCESS)
        return akv_fail(base->context, ANYKV_E_ARG, "native: not a cl_mem: %s (%d)",
                        akv_cl_error_name(code), code);
    if (type != CL_MEM_OBJECT_BUFFER)
        return akv_fail(base->context, ANYKV_E_ARG, "native: cl_mem is no buffer");
    if (owner != device->context)
        return akv_fail(base->context, ANYKV_E_ARG, "native: cl_mem belongs to another cl_context");
    if (bytes > size)
        return akv_fail(base->context, ANYKV_E_SHAPE, "bytes: %llu, the cl_mem holds %zu",
                        (unsigned long long)bytes, size);
    struct akv_cl_mem *mem = akv_alloc(base->context, 1, sizeof *mem);
    if (!mem)
        return ANYKV_E_MEMORY;
    code = cl->retain_buffer(buffer);
    if (code != CL_SUCCESS) {
        akv_free(base->context, mem);
        return akv_cl_device_fail(device, AKV_CL_CALL, "native: clRetainMemObject", code);
    }
    mem->base.device = base;
    mem->base.bytes = bytes;
    mem->buffer = buffer;
    *mem_out = &mem->base;
    return ANYKV_OK;
}

void akv_cl_mem_free(struct akv_mem *base)
{
    struct akv_cl_mem *mem = akv_cl_mem(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    const struct akv_cl *cl = device->cl;
    if (mem->map && !akv_device_is_lost(&device->base)) {
        akv_mutex_lock(&device->lock);
        if (cl->enqueue_unmap(device->internal, mem->buffer, mem->map, 0, NULL, NULL) == CL_SUCCESS)
            (void)cl->finish(device->internal); /* nothing can be done about a failure here */
        akv_mutex_unlock(&device->lock);
    }
    (void)cl->release_buffer(mem->buffer);
    akv_free(base->device->context, mem);
}

void *akv_cl_mem_map(struct akv_mem *mem)
{
    return akv_cl_mem(mem)->map;
}
