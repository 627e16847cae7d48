/* SPDX-License-Identifier: Apache-2.0 */
/* An OpenCL library for tests of error paths, built as a module: it hands every call to the real
 * loader, fails the n-th call from now when told to, and lets a device look like one that must be
 * refused.
 *
 * The tests load it by ANYKV_OPENCL_LIBRARY.  FAKE_OPENCL, read at each question, is one of
 * "embedded", "old", "compilerless", "big-endian", "away", "everything", "empty", "refusing";
 * unset: the truth. */
#define CL_TARGET_OPENCL_VERSION 120
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef void CL_CALLBACK build_callback(cl_program program, void *user);
typedef void CL_CALLBACK event_callback(cl_event event, cl_int status, void *user);
typedef void CL_CALLBACK context_callback(const char *text, const void *data, size_t bytes,
                                          void *user);

static atomic_uint_fast64_t calls, fail_at, lost_waits;
static atomic_int fail_code;
static atomic_bool for_good, lost, mute;

/* The n-th call from now returns `code` and does nothing; 0 switches off. */
EXPORT void fake_opencl_fail_at(uint64_t n, int code)
{
    atomic_store(&fail_code, code);
    atomic_store(&calls, 0);
    atomic_store(&for_good, 0);
    atomic_store(&lost, 0);
    atomic_store(&mute, 0);
    atomic_store(&lost_waits, 0);
    atomic_store(&fail_at, n);
}
/* The n-th call from now returns `code`, and the device is lost: every later call but the releases
 * returns CL_INVALID_COMMAND_QUEUE, and callbacks never come.  fake_opencl_fail_at ends it. */
EXPORT void fake_opencl_lose_at(uint64_t n, int code)
{
    fake_opencl_fail_at(n, code);
    atomic_store(&for_good, n != 0);
    atomic_store(&mute, n != 0);
}
/* Waits for the lost device: there a driver may hang. */
EXPORT uint64_t fake_opencl_lost_waits(void)
{
    return atomic_load(&lost_waits);
}
/* Calls since. */
EXPORT uint64_t fake_opencl_calls(void)
{
    return atomic_load(&calls);
}

static cl_int failing(void)
{
    uint64_t number = atomic_fetch_add(&calls, 1) + 1;
    if (atomic_load(&lost))
        return CL_INVALID_COMMAND_QUEUE;
    if (number != atomic_load(&fail_at))
        return CL_SUCCESS;
    atomic_store(&lost, atomic_load(&for_good));
    return atomic_load(&fail_code);
}
/* Of calls that wait for the device. */
static cl_int failing_wait(void)
{
    if (atomic_load(&lost))
        atomic_fetch_add(&lost_waits, 1);
    return failing();
}
/* Of calls that release: nothing is lost by them. */
static cl_int failing_release(void)
{
    return atomic_load(&lost) ? CL_SUCCESS : failing();
}

static void *real(const char *name)
{
    static void *library;
    if (!library)
        library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    void *address = library ? dlsym(library, name) : NULL;
    if (!address)
        abort(); /* the tests ask first whether there is a real one */
    return address;
}

static int pose(const char *what)
{
    const char *now = getenv("FAKE_OPENCL");
    return now && strcmp(now, what) == 0;
}

/* Replaces an answer of the device; got is what the caller has. */
static cl_int answer(const void *value, size_t bytes, size_t room, void *into, size_t *got)
{
    if (into && room < bytes)
        return CL_INVALID_VALUE;
    if (into)
        memcpy(into, value, bytes);
    if (got)
        *got = bytes;
    return CL_SUCCESS;
}

EXPORT cl_int clGetDeviceInfo(cl_device_id d, cl_device_info what, size_t bytes, void *value,
                              size_t *got)
{
    static const char embedded[] = "EMBEDDED_PROFILE", old[] = "OpenCL 1.1 fake";
    const cl_bool no = CL_FALSE;
    const cl_device_type everything =
        CL_DEVICE_TYPE_CPU | CL_DEVICE_TYPE_GPU | CL_DEVICE_TYPE_ACCELERATOR;
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    if (what == CL_DEVICE_PROFILE && pose("embedded"))
        return answer(embedded, sizeof embedded, bytes, value, got);
    if (what == CL_DEVICE_VERSION && pose("old"))
        return answer(old, sizeof old, bytes, value, got);
    if ((what == CL_DEVICE_COMPILER_AVAILABLE && pose("compilerless")) ||
        (what == CL_DEVICE_ENDIAN_LITTLE && pose("big-endian")) ||
        (what == CL_DEVICE_AVAILABLE && pose("away")))
        return answer(&no, sizeof no, bytes, value, got);
    if (what == CL_DEVICE_TYPE && pose("everything"))
        return answer(&everything, sizeof everything, bytes, value, got);
    cl_int (*call)(cl_device_id, cl_device_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetDeviceInfo");
    return call(d, what, bytes, value, got);
}

EXPORT cl_int clGetPlatformIDs(cl_uint n, cl_platform_id *ids, cl_uint *count)
{
    if (pose("empty")) {
        if (count)
            *count = 0;
        return CL_SUCCESS;
    }
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_uint, cl_platform_id *, cl_uint *);
    *(void **)&call = real("clGetPlatformIDs");
    return call(n, ids, count);
}

EXPORT cl_int clGetPlatformInfo(cl_platform_id p, cl_platform_info what, size_t bytes, void *value,
                                size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_platform_id, cl_platform_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetPlatformInfo");
    return call(p, what, bytes, value, got);
}

EXPORT cl_int clGetDeviceIDs(cl_platform_id p, cl_device_type type, cl_uint n, cl_device_id *ids,
                             cl_uint *count)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_platform_id, cl_device_type, cl_uint, cl_device_id *, cl_uint *);
    *(void **)&call = real("clGetDeviceIDs");
    return call(p, type, n, ids, count);
}

EXPORT cl_int clGetContextInfo(cl_context c, cl_context_info what, size_t bytes, void *value,
                               size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_context, cl_context_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetContextInfo");
    return call(c, what, bytes, value, got);
}

EXPORT cl_int clRetainContext(cl_context c)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_context);
    *(void **)&call = real("clRetainContext");
    return call(c);
}

EXPORT cl_int clReleaseContext(cl_context c)
{
    cl_int code = failing_release();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_context);
    *(void **)&call = real("clReleaseContext");
    return call(c);
}

EXPORT cl_int clRetainCommandQueue(cl_command_queue q)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue);
    *(void **)&call = real("clRetainCommandQueue");
    return call(q);
}

EXPORT cl_int clReleaseCommandQueue(cl_command_queue q)
{
    cl_int code = failing_release();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue);
    *(void **)&call = real("clReleaseCommandQueue");
    return call(q);
}

EXPORT cl_int clGetCommandQueueInfo(cl_command_queue q, cl_command_queue_info what, size_t bytes,
                                    void *value, size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_command_queue_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetCommandQueueInfo");
    return call(q, what, bytes, value, got);
}

EXPORT cl_int clRetainMemObject(cl_mem m)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_mem);
    *(void **)&call = real("clRetainMemObject");
    return call(m);
}

EXPORT cl_int clReleaseMemObject(cl_mem m)
{
    cl_int code = failing_release();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_mem);
    *(void **)&call = real("clReleaseMemObject");
    return call(m);
}

EXPORT cl_int clGetMemObjectInfo(cl_mem m, cl_mem_info what, size_t bytes, void *value, size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_mem, cl_mem_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetMemObjectInfo");
    return call(m, what, bytes, value, got);
}

EXPORT cl_int clBuildProgram(cl_program p, cl_uint n, const cl_device_id *ids, const char *options,
                             build_callback *told, void *user)
{
    if (pose("refusing"))
        return CL_BUILD_PROGRAM_FAILURE;
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_program, cl_uint, const cl_device_id *, const char *, build_callback *,
                   void *);
    *(void **)&call = real("clBuildProgram");
    return call(p, n, ids, options, told, user);
}

EXPORT cl_int clGetProgramBuildInfo(cl_program p, cl_device_id d, cl_program_build_info what,
                                    size_t bytes, void *value, size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_program, cl_device_id, cl_program_build_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetProgramBuildInfo");
    return call(p, d, what, bytes, value, got);
}

EXPORT cl_int clGetProgramInfo(cl_program p, cl_program_info what, size_t bytes, void *value,
                               size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_program, cl_program_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetProgramInfo");
    return call(p, what, bytes, value, got);
}

EXPORT cl_int clReleaseProgram(cl_program p)
{
    cl_int code = failing_release();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_program);
    *(void **)&call = real("clReleaseProgram");
    return call(p);
}

EXPORT cl_int clReleaseKernel(cl_kernel k)
{
    cl_int code = failing_release();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_kernel);
    *(void **)&call = real("clReleaseKernel");
    return call(k);
}

EXPORT cl_int clSetKernelArg(cl_kernel k, cl_uint index, size_t bytes, const void *value)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_kernel, cl_uint, size_t, const void *);
    *(void **)&call = real("clSetKernelArg");
    return call(k, index, bytes, value);
}

EXPORT cl_int clGetKernelWorkGroupInfo(cl_kernel k, cl_device_id d, cl_kernel_work_group_info what,
                                       size_t bytes, void *value, size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_kernel, cl_device_id, cl_kernel_work_group_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetKernelWorkGroupInfo");
    return call(k, d, what, bytes, value, got);
}

EXPORT cl_int clEnqueueNDRangeKernel(cl_command_queue q, cl_kernel k, cl_uint dims,
                                     const size_t *offset, const size_t *global,
                                     const size_t *local, cl_uint n, const cl_event *waits,
                                     cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_kernel, cl_uint, const size_t *, const size_t *,
                   const size_t *, cl_uint, const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueNDRangeKernel");
    return call(q, k, dims, offset, global, local, n, waits, event);
}

EXPORT cl_int clEnqueueReadBuffer(cl_command_queue q, cl_mem m, cl_bool block, size_t at,
                                  size_t bytes, void *to, cl_uint n, const cl_event *waits,
                                  cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_mem, cl_bool, size_t, size_t, void *, cl_uint,
                   const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueReadBuffer");
    return call(q, m, block, at, bytes, to, n, waits, event);
}

EXPORT cl_int clEnqueueWriteBuffer(cl_command_queue q, cl_mem m, cl_bool block, size_t at,
                                   size_t bytes, const void *from, cl_uint n, const cl_event *waits,
                                   cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void *, cl_uint,
                   const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueWriteBuffer");
    return call(q, m, block, at, bytes, from, n, waits, event);
}

EXPORT cl_int clEnqueueCopyBuffer(cl_command_queue q, cl_mem from, cl_mem to, size_t from_at,
                                  size_t to_at, size_t bytes, cl_uint n, const cl_event *waits,
                                  cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_mem, cl_mem, size_t, size_t, size_t, cl_uint,
                   const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueCopyBuffer");
    return call(q, from, to, from_at, to_at, bytes, n, waits, event);
}

EXPORT cl_int clEnqueueFillBuffer(cl_command_queue q, cl_mem m, const void *pattern, size_t width,
                                  size_t at, size_t bytes, cl_uint n, const cl_event *waits,
                                  cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_mem, const void *, size_t, size_t, size_t, cl_uint,
                   const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueFillBuffer");
    return call(q, m, pattern, width, at, bytes, n, waits, event);
}

EXPORT cl_int clEnqueueUnmapMemObject(cl_command_queue q, cl_mem m, void *map, cl_uint n,
                                      const cl_event *waits, cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_mem, void *, cl_uint, const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueUnmapMemObject");
    return call(q, m, map, n, waits, event);
}

EXPORT cl_int clEnqueueMarkerWithWaitList(cl_command_queue q, cl_uint n, const cl_event *waits,
                                          cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_uint, const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueMarkerWithWaitList");
    return call(q, n, waits, event);
}

EXPORT cl_int clEnqueueBarrierWithWaitList(cl_command_queue q, cl_uint n, const cl_event *waits,
                                           cl_event *event)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue, cl_uint, const cl_event *, cl_event *);
    *(void **)&call = real("clEnqueueBarrierWithWaitList");
    return call(q, n, waits, event);
}

EXPORT cl_int clFlush(cl_command_queue q)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue);
    *(void **)&call = real("clFlush");
    return call(q);
}

EXPORT cl_int clFinish(cl_command_queue q)
{
    cl_int code = failing_wait();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_command_queue);
    *(void **)&call = real("clFinish");
    return call(q);
}

EXPORT cl_int clWaitForEvents(cl_uint n, const cl_event *events)
{
    cl_int code = failing_wait();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_uint, const cl_event *);
    *(void **)&call = real("clWaitForEvents");
    return call(n, events);
}

EXPORT cl_int clGetEventInfo(cl_event e, cl_event_info what, size_t bytes, void *value, size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_event, cl_event_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetEventInfo");
    return call(e, what, bytes, value, got);
}

EXPORT cl_int clGetEventProfilingInfo(cl_event e, cl_profiling_info what, size_t bytes, void *value,
                                      size_t *got)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_event, cl_profiling_info, size_t, void *, size_t *);
    *(void **)&call = real("clGetEventProfilingInfo");
    return call(e, what, bytes, value, got);
}

EXPORT cl_int clSetEventCallback(cl_event e, cl_int type, event_callback *told, void *user)
{
    cl_int code = failing();
    if (code != CL_SUCCESS)
        return code;
    if (atomic_load(&mute))
        return CL_SUCCESS;
    cl_int (*call)(cl_event, cl_int, event_callback *, void *);
    *(void **)&call = real("clSetEventCallback");
    return call(e, type, told, user);
}

EXPORT cl_int clReleaseEvent(cl_event e)
{
    cl_int code = failing_release();
    if (code != CL_SUCCESS)
        return code;
    cl_int (*call)(cl_event);
    *(void **)&call = real("clReleaseEvent");
    return call(e);
}

EXPORT cl_context clCreateContext(const cl_context_properties *props, cl_uint n,
                                  const cl_device_id *ids, context_callback *told, void *user,
                                  cl_int *code)
{
    cl_int failed = failing();
    if (failed != CL_SUCCESS) {
        if (code)
            *code = failed;
        return NULL;
    }
    cl_context (*call)(const cl_context_properties *, cl_uint, const cl_device_id *,
                       context_callback *, void *, cl_int *);
    *(void **)&call = real("clCreateContext");
    return call(props, n, ids, told, user, code);
}

EXPORT cl_command_queue clCreateCommandQueue(cl_context c, cl_device_id d,
                                             cl_command_queue_properties props, cl_int *code)
{
    cl_int failed = failing();
    if (failed != CL_SUCCESS) {
        if (code)
            *code = failed;
        return NULL;
    }
    cl_command_queue (*call)(cl_context, cl_device_id, cl_command_queue_properties, cl_int *);
    *(void **)&call = real("clCreateCommandQueue");
    return call(c, d, props, code);
}

EXPORT cl_mem clCreateBuffer(cl_context c, cl_mem_flags flags, size_t bytes, void *host,
                             cl_int *code)
{
    cl_int failed = failing();
    if (failed != CL_SUCCESS) {
        if (code)
            *code = failed;
        return NULL;
    }
    cl_mem (*call)(cl_context, cl_mem_flags, size_t, void *, cl_int *);
    *(void **)&call = real("clCreateBuffer");
    return call(c, flags, bytes, host, code);
}

EXPORT cl_program clCreateProgramWithSource(cl_context c, cl_uint n, const char **text,
                                            const size_t *bytes, cl_int *code)
{
    cl_int failed = failing();
    if (failed != CL_SUCCESS) {
        if (code)
            *code = failed;
        return NULL;
    }
    cl_program (*call)(cl_context, cl_uint, const char **, const size_t *, cl_int *);
    *(void **)&call = real("clCreateProgramWithSource");
    return call(c, n, text, bytes, code);
}

EXPORT cl_program clCreateProgramWithBinary(cl_context c, cl_uint n, const cl_device_id *ids,
                                            const size_t *bytes, const unsigned char **binary,
                                            cl_int *each, cl_int *code)
{
    cl_int failed = failing();
    if (failed != CL_SUCCESS) {
        if (code)
            *code = failed;
        return NULL;
    }
    cl_program (*call)(cl_context, cl_uint, const cl_device_id *, const size_t *,
                       const unsigned char **, cl_int *, cl_int *);
    *(void **)&call = real("clCreateProgramWithBinary");
    return call(c, n, ids, bytes, binary, each, code);
}

EXPORT cl_kernel clCreateKernel(cl_program p, const char *name, cl_int *code)
{
    cl_int failed = failing();
    if (failed != CL_SUCCESS) {
        if (code)
            *code = failed;
        return NULL;
    }
    cl_kernel (*call)(cl_program, const char *, cl_int *);
    *(void **)&call = real("clCreateKernel");
    return call(p, name, code);
}

EXPORT void *clEnqueueMapBuffer(cl_command_queue q, cl_mem m, cl_bool block, cl_map_flags flags,
                                size_t at, size_t bytes, cl_uint n, const cl_event *waits,
                                cl_event *event, cl_int *code)
{
    cl_int failed = failing();
    if (failed != CL_SUCCESS) {
        if (code)
            *code = failed;
        return NULL;
    }
    void *(*call)(cl_command_queue, cl_mem, cl_bool, cl_map_flags, size_t, size_t, cl_uint,
                  const cl_event *, cl_event *, cl_int *);
    *(void **)&call = real("clEnqueueMapBuffer");
    return call(q, m, block, flags, at, bytes, n, waits, event, code);
}
