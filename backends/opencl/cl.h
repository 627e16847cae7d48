/* SPDX-License-Identifier: Apache-2.0 */
/* What the OpenCL backend's files share: the loaded functions and the records behind the handles.
 */
#ifndef AKV_CL_H
#define AKV_CL_H
#define CL_TARGET_OPENCL_VERSION 120
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include "../backend.h"
#include <CL/cl.h>

extern const struct akv_backend akv_backend_opencl; /* device.c */

/* ---- loader.c ---- */
struct akv_cl {
#define AKV_CL(field, name) __typeof__(name) *field;
#include "functions.def"
#undef AKV_CL
};
/* The loaded table, or NULL with the reason.  Loaded once; ANYKV_OPENCL_LIBRARY overrides
 * libOpenCL.so.1. */
const struct akv_cl *akv_cl_load(char *reason, size_t reason_bytes);

/* ---- errors.c ---- */
const char *akv_cl_error_name(cl_int code);
/* Records "what: CL_…" and returns ANYKV_E_MEMORY where memory ran out, else ANYKV_E_DEVICE. */
anykv_status akv_cl_fail(anykv_context *context, const char *what, cl_int code);
struct akv_cl_device;
/* The same of an open device, which some codes lose. */
enum akv_cl_moment { AKV_CL_CALL, AKV_CL_WAIT };
anykv_status akv_cl_device_fail(struct akv_cl_device *device, enum akv_cl_moment moment,
                                const char *what, cl_int code);

/* ---- probe.c ---- */
struct akv_cl_place {
    cl_platform_id platform;
    cl_device_id device;
};
bool akv_cl_has_extension(const struct akv_cl *cl, cl_device_id device, const char *name);
anykv_status akv_cl_probe(anykv_context *context, uint32_t capacity, struct akv_device_info *infos,
                          uint32_t *count_out);
/* The device with this number in the order of the probe. */
anykv_status akv_cl_find(anykv_context *context, const struct akv_cl *cl, uint32_t index,
                         struct akv_cl_place *place_out);
/* Number of a device; E_NOT_FOUND when no platform lists it. */
anykv_status akv_cl_index_of(anykv_context *context, const struct akv_cl *cl, cl_device_id device,
                             uint32_t *index_out);
void akv_cl_describe(const struct akv_cl *cl, const struct akv_cl_place *place,
                     struct akv_device_info *info);
/* A text property, always terminated, "" when the device does not answer. */
void akv_cl_device_text(const struct akv_cl *cl, cl_device_id device, cl_device_info what,
                        char *text, size_t text_bytes);
void akv_cl_platform_text(const struct akv_cl *cl, cl_platform_id platform, cl_platform_info what,
                          char *text, size_t text_bytes);

/* ---- device.c ---- */
/* How work is cut: GPU shape, a work-group for a few rows with local memory; CPU shape, a work-item
 * for each row and no barrier. */
enum akv_cl_shape { AKV_CL_SHAPE_GPU, AKV_CL_SHAPE_CPU };

struct akv_cl_program;
struct akv_cl_device {
    struct akv_device base;
    const struct akv_cl *cl;
    struct akv_cl_place place;
    cl_context context;        /* retained where it is the caller's */
    cl_command_queue internal; /* mapping and filling of new memory; guarded by `lock` */
    enum akv_cl_shape shape;
    cl_uint units;    /* compute units */
    bool odd;         /* for tests: local memory begins as low as its alignment allows */
    bool vectors;     /* a processor: the CPU shape may use vectors of 16 */
    bool denormals;   /* float arithmetic keeps them */
    bool nv_options;  /* the compiler takes NVIDIA's options */
    bool dots;        /* integer products of bytes by an instruction, and local memory for them */
    bool short_loops; /* a work-item's loops end after 65,535 turns in all, and nothing says so */
    bool scrub;       /* local memory is overwritten before a kernel ends */
    atomic_int dense; /* AKV_CL_DENSE_*: what became of CLBlast here */
    akv_mutex lock;   /* guards programs and internal; never held while a program is built */
    struct akv_cl_program *programs;
    char identity[64]; /* hexadecimal digest of platform, device and driver */
};
static inline struct akv_cl_device *akv_cl_device(struct akv_device *device)
{
    return (struct akv_cl_device *)device;
}

/* ---- memory.c ---- */
struct akv_cl_mem {
    struct akv_mem base;
    cl_mem buffer;
    uint8_t *map; /* pinned memory stays mapped for its whole life */
};
static inline struct akv_cl_mem *akv_cl_mem(struct akv_mem *mem)
{
    return (struct akv_cl_mem *)mem;
}
anykv_status akv_cl_mem_alloc(struct akv_device *device, uint64_t bytes, enum akv_mem_kind kind,
                              struct akv_mem **mem_out);
anykv_status akv_cl_mem_adopt(struct akv_device *device, void *native, uint64_t bytes,
                              struct akv_mem **mem_out);
void akv_cl_mem_free(struct akv_mem *mem);
void *akv_cl_mem_map(struct akv_mem *mem);

/* ---- queue.c ---- */
#define AKV_CL_STAGES 4u /* pieces of a queue's staging memory */

struct akv_cl_kernel;
struct akv_cl_queue {
    struct akv_queue base;
    cl_command_queue queue;
    bool profiled;
    akv_mutex lock; /* guards everything below, and keeps the order of calls */
    struct akv_cl_kernel
        *kernels;          /* kernel objects belong to one queue, hence to one thread at a time */
    struct akv_mem *stage; /* pinned; AKV_CL_STAGES pieces, made at the first put */
    cl_event stage_busy[AKV_CL_STAGES]; /* last transfer out of a full piece */
    uint64_t stage_at;                  /* next free byte of the ring */
};
static inline struct akv_cl_queue *akv_cl_queue(struct akv_queue *queue)
{
    return (struct akv_cl_queue *)queue;
}
anykv_status akv_cl_queue_create(struct akv_device *device, void *native,
                                 struct akv_queue **queue_out);
void akv_cl_queue_destroy(struct akv_queue *queue);
anykv_status akv_cl_queue_put(struct akv_queue *queue, struct akv_span dst, const void *src);
anykv_status akv_cl_queue_get(struct akv_queue *queue, void *dst, struct akv_span src);
anykv_status akv_cl_queue_copy(struct akv_queue *queue, struct akv_span dst, struct akv_span src);
anykv_status akv_cl_queue_fill(struct akv_queue *queue, struct akv_span dst, uint8_t value);
anykv_status akv_cl_queue_flush(struct akv_queue *queue);
anykv_status akv_cl_queue_wait(struct akv_queue *queue, uint64_t timeout_ns);

/* ---- event.c ---- */
anykv_status akv_cl_event_create(struct akv_device *device, struct akv_event **event_out);
void akv_cl_event_destroy(struct akv_event *event);
anykv_status akv_cl_event_record(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_cl_event_await(struct akv_event *event, struct akv_queue *queue);
anykv_status akv_cl_event_query(struct akv_event *event, bool *done_out);
anykv_status akv_cl_event_wait(struct akv_event *event, uint64_t timeout_ns);
int akv_cl_event_fd(struct akv_event *event);
anykv_status akv_cl_event_elapsed(struct akv_event *from, struct akv_event *to, uint64_t *ns_out);
/* Waits for a cl_event; UINT64_MAX: for ever.  `what` names it in the detail of a failure. */
anykv_status akv_cl_await(struct akv_cl_device *device, cl_event event, const char *what,
                          uint64_t timeout_ns);

/* ---- program.c ---- */
/* Embedded sources (sources.c, written by embed.sh). */
struct akv_cl_source {
    const char *name; /* "quant", "page", "attend" */
    const char *text;
    size_t bytes;
};
extern const struct akv_cl_source akv_cl_sources[];
/* A built program of a device, kept until the device closes. */
struct akv_cl_program {
    struct akv_cl_program *next;
    cl_program program;
    char key[280]; /* source name and options */
};
/* Finds or builds the program of `source` with `options`. */
anykv_status akv_cl_program(struct akv_cl_device *device, const char *source, const char *options,
                            struct akv_cl_program **program_out);
void akv_cl_programs_free(struct akv_cl_device *device);

/* ---- cache.c: the cache of built programs on disk ---- */
/* Reads the binary stored under key, NULL when there is none that is whole; E_MEMORY is the only
 * failure.  Free with akv_free. */
anykv_status akv_cl_cache_read(anykv_context *context, const akv_digest *key, uint8_t **binary_out,
                               size_t *bytes_out);
/* Stores it; a failure is only logged. */
void akv_cl_cache_write(anykv_context *context, const akv_digest *key, const uint8_t *binary,
                        size_t bytes);

/* ---- plan.c ---- */
#define AKV_CL_PLANS 3u /* passes of a kernel, at most */
enum akv_cl_pass {
    AKV_CL_PASS_KEYS = 0, /* of seal */
    AKV_CL_PASS_VALUES = 1,
    AKV_CL_PASS_ROWS = 2, /* of attend: any number of new tokens */
    AKV_CL_PASS_ONE = 3,  /* sequences with one new token */
    AKV_CL_PASS_COMBINE = 4,
    AKV_CL_PASS_PIECES = 5,  /* of the compress family: a piece each */
    AKV_CL_PASS_RECORDS = 6, /* one work-group */
    AKV_CL_PASS_LANES = 7,   /* segments by lanes */
};
struct akv_cl_plan {
    const char *source, *entry; /* static */
    enum akv_cl_pass pass;
    char options[256];
};
/* The programs of a kernel, in the order of its passes. */
uint32_t akv_cl_plans(const struct akv_cl_device *device, enum akv_kernel_id kernel,
                      const void *params, struct akv_cl_plan plans[AKV_CL_PLANS]);
/* How attention is split: parts (akv_attend_part), query rows of a work-group, scratch. */
struct akv_cl_attend {
    uint32_t least, most;
    uint32_t rows;
    uint32_t one;        /* query rows of attend_one, 0: it does not run */
    bool dot;            /* attend_one with integer products */
    uint32_t slots;      /* of a sequence, for results of parts; 0: no sequence has two parts */
    uint32_t slot_bytes; /* all query heads */
};
struct akv_cl_attend akv_cl_attend_shape(const struct akv_cl_device *device,
                                         const akv_attend_params *p);

/* ---- kernels.c ---- */
struct akv_cl_kernel {
    struct akv_cl_kernel *next;
    const struct akv_cl_program *program; /* has one entry */
    cl_kernel kernel;
};
void akv_cl_kernel_check(struct akv_device *device, enum akv_kernel_id kernel, const void *params,
                         struct akv_check *check_out);
anykv_status akv_cl_kernel_prepare(struct akv_device *device, enum akv_kernel_id kernel,
                                   const void *params);
anykv_status akv_cl_kernel_launch(struct akv_queue *queue, const struct akv_launch *launch);

/* ---- dense.c ---- */
enum { AKV_CL_DENSE_UNUSED, AKV_CL_DENSE_USED, AKV_CL_DENSE_FAILED };
/* The library's file name, or "own kernel". */
const char *akv_cl_dense(void);
/* A multiply by it; false: our own kernel must do it.  Caller holds the queue's lock. */
bool akv_cl_dense_multiply(struct akv_cl_device *device, struct akv_cl_queue *queue,
                           const struct akv_launch *launch);
void akv_cl_dense_close(struct akv_cl_device *device);

/* ---- kat.c ---- */
/* Known-answer test: encodes and decodes embedded rows and compares bytes.  E_DEVICE with the
 * reason. */
anykv_status akv_cl_known_answers(struct akv_cl_device *device);
/* Bits of the 8 rows of 64 that it encodes. */
void akv_cl_known_rows(uint32_t rows[8 * 64]);
/* The maps of its cases with AKV_FLAG_MAP. */
#define AKV_CL_KNOWN_MAPS 49808u
void akv_cl_known_maps(uint8_t maps[AKV_CL_KNOWN_MAPS]);
/* Case `number`; false behind the last. */
struct akv_cl_known {
    const char *name, *digest; /* hexadecimal SHA-256 of tile and decoded rows */
    akv_encode_params params;
};
bool akv_cl_known_case(uint32_t number, struct akv_cl_known *known_out);

#endif
