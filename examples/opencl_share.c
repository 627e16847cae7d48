/* SPDX-License-Identifier: Apache-2.0 */
/* One OpenCL queue for the caller's kernels and anykv's: rows are made by a kernel of the caller,
 * packed and unpacked by anykv, and compared by the caller, without a wait between them. */
#define CL_TARGET_OPENCL_VERSION 120
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>
#include <anykv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 1024, DIM = 128, COUNT = ROWS * DIM };

static const char *const program_text =
    "__kernel void make(__global float *x)\n"
    "{\n"
    "    size_t i = get_global_id(0);\n"
    "    x[i] = sin(0.37f * (float)(i % 1009)) * (1.0f + (float)(i % 7));\n"
    "}\n"
    "__kernel void compare(__global const float *x, __global float *y)\n"
    "{\n"
    "    size_t i = get_global_id(0);\n"
    "    y[i] = (x[i] - y[i]) * (x[i] - y[i]);\n"
    "}\n";

static void check(anykv_status status, const char *what)
{
    if (status != ANYKV_OK) {
        fprintf(stderr, "%s: %s (%s)\n", what, anykv_status_text(status), anykv_error_detail());
        exit(1);
    }
}
static void check_cl(cl_int code, const char *what)
{
    if (code != CL_SUCCESS) {
        fprintf(stderr, "%s: OpenCL error %d\n", what, code);
        exit(1);
    }
}

static void run(cl_command_queue queue, cl_program program, const char *name, cl_mem first,
                cl_mem second)
{
    size_t items = COUNT;
    cl_int code;
    cl_kernel kernel = clCreateKernel(program, name, &code);
    check_cl(code, name);
    check_cl(clSetKernelArg(kernel, 0, sizeof first, &first), name);
    if (second)
        check_cl(clSetKernelArg(kernel, 1, sizeof second, &second), name);
    check_cl(clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &items, NULL, 0, NULL, NULL), name);
    clReleaseKernel(kernel);
}

int main(void)
{
    static float errors[COUNT], rows[COUNT];
    cl_platform_id platform;
    cl_device_id chosen;
    cl_int code;
    if (clGetPlatformIDs(1, &platform, NULL) != CL_SUCCESS ||
        clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &chosen, NULL) != CL_SUCCESS) {
        puts("there is no OpenCL device");
        return 77;
    }
    /* What an application has anyway: a context, a queue, a program, two buffers. */
    cl_context mine = clCreateContext(NULL, 1, &chosen, NULL, NULL, &code);
    check_cl(code, "context");
    cl_command_queue queue = clCreateCommandQueue(mine, chosen, 0, &code);
    check_cl(code, "queue");
    cl_program program =
        clCreateProgramWithSource(mine, 1, (const char **)&program_text, NULL, &code);
    check_cl(code, "program");
    check_cl(clBuildProgram(program, 1, &chosen, "", NULL, NULL), "build");
    cl_mem x = clCreateBuffer(mine, CL_MEM_READ_WRITE, sizeof rows, NULL, &code);
    check_cl(code, "buffer");
    cl_mem y = clCreateBuffer(mine, CL_MEM_READ_WRITE, sizeof rows, NULL, &code);
    check_cl(code, "buffer");

    /* anykv works in that context and on that queue. */
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.cl_context = mine;
    options.cl_device = chosen;
    options.cl_queue = queue;
    anykv_context *context;
    anykv_device *device;
    anykv_mem *from, *to;
    anykv_codec *codec;
    anykv_codec_options format = ANYKV_CODEC_OPTIONS_INIT;
    format.format = ANYKV_I8;
    format.head_dim = DIM;
    check(anykv_context_create(NULL, &context), "context");
    check(anykv_device_open(context, "opencl", &options, &device), "device");
    check(anykv_mem_adopt(device, x, sizeof rows, &from), "buffer");
    check(anykv_mem_adopt(device, y, sizeof rows, &to), "buffer");
    check(anykv_codec_create(device, &format, &codec), "codec");

    /* The caller's kernel, anykv's two, the caller's: one queue keeps their order. */
    uint64_t bytes;
    check(anykv_codec_bytes(codec, ROWS, &bytes), "size");
    void *packed = malloc(bytes);
    if (!packed)
        return 1;
    anykv_view view = {NULL, from, 0, ANYKV_F32, DIM, DIM},
               back = {NULL, to, 0, ANYKV_F32, DIM, DIM};
    run(queue, program, "make", x, NULL);
    check(anykv_codec_encode(codec, &view, ROWS, 1, packed, bytes, NULL), "encode");
    check(anykv_codec_decode(codec, packed, bytes, ROWS, 1, &back), "decode");
    run(queue, program, "compare", x, y);
    check_cl(clEnqueueReadBuffer(queue, x, CL_FALSE, 0, sizeof rows, rows, 0, NULL, NULL), "read");
    check_cl(clEnqueueReadBuffer(queue, y, CL_TRUE, 0, sizeof errors, errors, 0, NULL, NULL),
             "read");

    double signal = 0.0, noise = 0.0;
    for (int i = 0; i < COUNT; i++) {
        signal += (double)rows[i] * (double)rows[i];
        noise += (double)errors[i];
    }
    printf("%d rows, %llu bytes packed, signal to noise %.1f dB\n", ROWS, (unsigned long long)bytes,
           10.0 * log10(signal / noise));

    free(packed);
    anykv_codec_destroy(codec);
    anykv_mem_destroy(to);
    anykv_mem_destroy(from);
    anykv_device_close(device);
    anykv_context_destroy(context);
    clReleaseMemObject(y);
    clReleaseMemObject(x);
    clReleaseProgram(program);
    clReleaseCommandQueue(queue);
    clReleaseContext(mine);
    return signal / noise > 1000.0 ? 0 : 1;
}
