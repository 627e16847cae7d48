/* SPDX-License-Identifier: Apache-2.0 */
/* OpenCL error codes as names, as our status codes, and as the end of a device. */
#include "cl.h"
#include <stdio.h>

const char *akv_cl_error_name(cl_int code)
{
    switch (code) {
#define NAME(x)                                                                                    \
    case x:                                                                                        \
        return #x
        NAME(CL_SUCCESS);
        NAME(CL_DEVICE_NOT_FOUND);
        NAME(CL_DEVICE_NOT_AVAILABLE);
        NAME(CL_COMPILER_NOT_AVAILABLE);
        NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE);
        NAME(CL_OUT_OF_RESOURCES);
        NAME(CL_OUT_OF_HOST_MEMORY);
        NAME(CL_PROFILING_INFO_NOT_AVAILABLE);
        NAME(CL_MEM_COPY_OVERLAP);
        NAME(CL_BUILD_PROGRAM_FAILURE);
        NAME(CL_MAP_FAILURE);
        NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
        NAME(CL_INVALID_VALUE);
        NAME(CL_INVALID_DEVICE_TYPE);
        NAME(CL_INVALID_PLATFORM);
        NAME(CL_INVALID_DEVICE);
        NAME(CL_INVALID_CONTEXT);
        NAME(CL_INVALID_QUEUE_PROPERTIES);
        NAME(CL_INVALID_COMMAND_QUEUE);
        NAME(CL_INVALID_MEM_OBJECT);
        NAME(CL_INVALID_BINARY);
        NAME(CL_INVALID_BUILD_OPTIONS);
        NAME(CL_INVALID_PROGRAM);
        NAME(CL_INVALID_PROGRAM_EXECUTABLE);
        NAME(CL_INVALID_KERNEL_NAME);
        NAME(CL_INVALID_KERNEL_DEFINITION);
        NAME(CL_INVALID_KERNEL);
        NAME(CL_INVALID_ARG_INDEX);
        NAME(CL_INVALID_ARG_VALUE);
        NAME(CL_INVALID_ARG_SIZE);
        NAME(CL_INVALID_KERNEL_ARGS);
        NAME(CL_INVALID_WORK_DIMENSION);
        NAME(CL_INVALID_WORK_GROUP_SIZE);
        NAME(CL_INVALID_WORK_ITEM_SIZE);
        NAME(CL_INVALID_GLOBAL_OFFSET);
        NAME(CL_INVALID_EVENT_WAIT_LIST);
        NAME(CL_INVALID_EVENT);
        NAME(CL_INVALID_OPERATION);
        NAME(CL_INVALID_BUFFER_SIZE);
        NAME(CL_INVALID_GLOBAL_WORK_SIZE);
        NAME(CL_INVALID_PROPERTY);
#undef NAME
    case -1001: /* cl_khr_icd */
        return "CL_PLATFORM_NOT_FOUND_KHR";
    case -9999: /* NVIDIA's illegal read or write */
        return "illegal access on the device";
    default:
        return "unknown OpenCL error";
    }
}

static anykv_status status_of(cl_int code)
{
    return code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_HOST_MEMORY
               ? ANYKV_E_MEMORY
               : ANYKV_E_DEVICE;
}

anykv_status akv_cl_fail(anykv_context *context, const char *what, cl_int code)
{
    return akv_fail(context, status_of(code), "%s: %s (%d)", what, akv_cl_error_name(code), code);
}

/* After a fault, drivers answer that the device is away, that our own queue or context is none, or with
 * a number of their own; from a wait also that resources are out, which in an enqueue may just be one
 * kernel's. */
static bool means_loss(cl_int code, enum akv_cl_moment moment)
{
    switch (code) {
    case CL_DEVICE_NOT_AVAILABLE:
    case CL_INVALID_DEVICE:
    case CL_INVALID_CONTEXT:
    case CL_INVALID_COMMAND_QUEUE:
        return true;
    case CL_OUT_OF_RESOURCES:
        return moment == AKV_CL_WAIT;
    default:
        return code <= -9999;
    }
}

anykv_status akv_cl_device_fail(struct akv_cl_device *device, enum akv_cl_moment moment,
                                const char *what, cl_int code)
{
    char cause[sizeof device->base.lost_to];
    const bool loss = means_loss(code, moment);
    snprintf(cause, sizeof cause, "%s: %s (%d)", what, akv_cl_error_name(code), code);
    if (loss)
        akv_device_lose(&device->base, cause);
    return akv_fail(device->base.context, moment == AKV_CL_WAIT ? ANYKV_E_DEVICE : status_of(code),
                    "%s%s", cause, loss ? "; the device is lost" : "");
}
