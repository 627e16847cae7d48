/* SPDX-License-Identifier: Apache-2.0 */
/* anykv: the key/value cache of transformer inference as a C library.
 *
 * The library stores the attention keys and values of running sequences in paged, quantised blocks,
 * attends over them without unpacking, shares prefixes between sequences and keeps a byte budget.
 * Stored bytes are the same on every device.
 *
 * How a program uses it, in order:
 *
 *     context   anykv_context_create     allocator, log, list of devices
 *     device    anykv_device_open        "auto", "cpu", or a name from `anykv devices`
 *     layout    anykv_layout_create      what the model's rows look like, layer by layer
 *     cache     anykv_cache_create       the pool of blocks under one byte budget
 *     sequence  anykv_seq_create         one request
 *     step      anykv_step_begin/end     one forward pass over a batch of sequences
 *
 * `anykv_codec` turns rows into packed bytes without a cache.
 *
 * Rules that hold for every call.  Functions return ANYKV_OK (0) or a negative anykv_status, and then
 * anykv_error_detail() says, for the calling thread, what failed: the field and the limit.  After a
 * failure nothing has changed, unless the comment says otherwise.  Output parameters come last, end in
 * _out and are written on success only.  Destroy and close functions accept NULL.  No call prints,
 * exits, forks, installs signal handlers or changes the floating-point environment.
 *
 * Thread classes: *free*: any thread, any time.  *object*: one thread at a time for that object,
 * different objects in parallel.  *setup*: no other call on the context meanwhile.
 *
 * Option structs begin with their size; make them with the initialiser macro, which holds the defaults.
 * A zero in a field means zero unless its comment says "0: …".  After fork() only destroy is legal. */
#ifndef ANYKV_H
#define ANYKV_H
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) || !defined(__GNUC__)
#define ANYKV_API
#else
#define ANYKV_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ANYKV_VERSION_MAJOR 0
#define ANYKV_VERSION_MINOR 1
#define ANYKV_VERSION_PATCH 0

/* ------------------------------------------------------------------------------------------------ */
/* Status codes.  One list gives the enum, the names and the texts. */

#define ANYKV_STATUS_LIST(X)                                                                       \
    X(OK, 0, "success")                                                                            \
    X(E_ARG, -1, "invalid argument")                                                               \
    X(E_SHAPE, -2, "shape, dtype or stride does not fit")                                          \
    X(E_MEMORY, -3, "out of host memory")                                                          \
    X(E_BUDGET, -4, "byte budget exhausted and nothing can be freed")                              \
    X(E_DEVICE, -5, "device failure")                                                              \
    X(E_UNSUPPORTED, -6, "not supported by this device or build")                                  \
    X(E_NOT_FOUND, -7, "no such device or object")                                                 \
    X(E_BUSY, -8, "object is in use")                                                              \
    X(E_STATE, -9, "call is not legal in this state")                                              \
    X(E_TIMEOUT, -10, "time-out")                                                                  \
    X(E_DATA, -11, "damaged or foreign data")                                                      \
    X(E_IO, -12, "input or output failed")                                                         \
    X(E_DEAD, -13, "object was lost to a device failure")                                          \
    X(E_INTERNAL, -14, "internal error, please report")

typedef enum anykv_status {
#define ANYKV_STATUS_ENUM(name, value, text) ANYKV_##name = value,
    ANYKV_STATUS_LIST(ANYKV_STATUS_ENUM)
#undef ANYKV_STATUS_ENUM
} anykv_status;

/* "ANYKV_E_BUDGET" and "byte budget exhausted …"; static strings.  Thread: free. */
ANYKV_API const char *anykv_status_name(anykv_status status);
ANYKV_API const char *anykv_status_text(anykv_status status);

/* Detail of the last failure on the calling thread, "" if there was none; valid until the next anykv
 * call on this thread.  Thread: free. */
ANYKV_API const char *anykv_error_detail(void);

/* Version as "0.1.0", and whether a feature is built in: "opencl", "cuda", "avx2", "avx512", "neon",
 * 1 yes, 0 no or unknown name.  Thread: free. */
ANYKV_API const char *anykv_version(void);
ANYKV_API int anykv_feature(const char *name);

/* ------------------------------------------------------------------------------------------------ */
/* Kinds of numbers.  Values are stored in data and never reused. */

typedef enum anykv_format {
    ANYKV_F32 = 1,  /* raw bits, never touched */
    ANYKV_F16 = 2,
    ANYKV_BF16 = 3,
    ANYKV_I8 = 4,   /* int8 codes, one fp16 scale for each 128 elements: 8.125 bits an element */
    ANYKV_N6 = 5,   /* uniform int6, fp16 scale for each 64: 6.25 */
    ANYKV_N5 = 6,   /* Gaussian codebooks, 8-bit scale for each 32: 5.25 */
    ANYKV_N4 = 7,   /* 4.25 */
    ANYKV_N3 = 8,   /* 3.25 */
    ANYKV_N2 = 9,   /* 2.25 */
    ANYKV_E4M3 = 10, /* OCP E4M3 codes, one fp16 scale for a row: 8 + 16/head_dim */
    /* ggml's blocks of 32 elements, byte for byte. */
    ANYKV_Q8_0 = 11,  /* 8.5 */
    ANYKV_Q5_1 = 12,  /* 6.0 */
    ANYKV_Q5_0 = 13,  /* 5.5 */
    ANYKV_Q4_1 = 14,  /* 5.0 */
    ANYKV_Q4_0 = 15,  /* 4.5 */
    ANYKV_IQ4_NL = 16, /* 4.5 */
    ANYKV_E4M3G = 17   /* OCP E4M3 codes under scales that the layout gives, one for each head: 8.0 */
} anykv_format;
typedef anykv_format anykv_dtype; /* of rows: ANYKV_F32, ANYKV_F16, ANYKV_BF16 */

typedef enum anykv_transform {
    ANYKV_TRANSFORM_NONE = 0,
    ANYKV_TRANSFORM_ROTATE = 1, /* block-diagonal Hadamard; the default of quantised formats */
    ANYKV_TRANSFORM_CENTRE = 2, /* keys: the calibration's mean, turned to each position, is taken off
                                 * before the rotation */
    ANYKV_TRANSFORM_MATRIX = 3  /* the mean (keys), then the calibration's matrix */
} anykv_transform;

/* Which elements of a key the rotary embedding turns together: pair i is (2i, 2i+1), or
 * (i, i + rope_pairs). */
typedef enum anykv_rope {
    ANYKV_ROPE_INTERLEAVED = 0,
    ANYKV_ROPE_HALF = 1
} anykv_rope;

/* "N4", and the format of a name (any case); ANYKV_E_ARG for an unknown one.  Thread: free. */
ANYKV_API const char *anykv_format_name(anykv_format format);
ANYKV_API anykv_status anykv_format_parse(const char *name, anykv_format *format_out);
/* "q4" → N4, N4; "I8/N4" → I8, N4; "F16" → F16, F16.  Profiles: lossless (BF16,
 * BF16) q8 q6 q5 q4 q3 q2.  Thread: free. */
ANYKV_API anykv_status anykv_format_pair_parse(const char *name, anykv_format *k_out,
                                               anykv_format *v_out);
/* Bits an element takes in a row of head_dim elements, scales included; 0.0 for an unknown format. */
ANYKV_API double anykv_format_bits(anykv_format format, uint32_t head_dim);

/* ------------------------------------------------------------------------------------------------ */
/* Context: allocator, log, list of devices. */

typedef struct anykv_context anykv_context;

typedef enum anykv_log_level {
    ANYKV_LOG_ERROR = 0,
    ANYKV_LOG_WARNING = 1,
    ANYKV_LOG_INFO = 2,
    ANYKV_LOG_DEBUG = 3
} anykv_log_level;

typedef struct anykv_context_options {
    size_t size;
    /* Host memory.  Both or none.  alloc returns memory aligned to `align` (a power of two, at most
     * 64) or NULL; free gets the same size.  Called from any thread. */
    void *(*alloc)(void *user, size_t bytes, size_t align);
    void (*free)(void *user, void *memory, size_t bytes);
    void *alloc_user;
    /* Messages up to log_level; called from any thread, must not call anykv. */
    void (*log)(void *user, int level, const char *message);
    void *log_user;
    int log_level;
} anykv_context_options;
#define ANYKV_CONTEXT_OPTIONS_INIT                                                                 \
    {                                                                                              \
        sizeof(anykv_context_options), NULL, NULL, NULL, NULL, NULL, ANYKV_LOG_WARNING             \
    }

/* The last 64 failures of all threads that had the context at hand, oldest first; taken out.
 * count_in_out: capacity, then the number; lost_out: overwritten before they were drained.
 * Thread: free. */
typedef struct anykv_error_record {
    uint64_t sequence_number; /* of a context, from 1 */
    uint64_t time_ns;         /* monotonic clock */
    anykv_status status;
    char text[236];
} anykv_error_record;
ANYKV_API anykv_status anykv_context_errors(anykv_context *context, anykv_error_record *records,
                                            uint32_t *count_in_out, uint64_t *lost_out);

/* Makes a context; options may be NULL.  E_ARG: one of alloc and free alone, log_level out of range;
 * E_MEMORY.  Thread: free. */
ANYKV_API anykv_status anykv_context_create(const anykv_context_options *options,
                                            anykv_context **context_out);
/* Everything made from the context must have been destroyed before.  Thread: setup. */
ANYKV_API void anykv_context_destroy(anykv_context *context);

/* ------------------------------------------------------------------------------------------------ */
/* Devices. */

typedef struct anykv_device anykv_device;

typedef struct anykv_device_info {
    size_t size;
    uint32_t index;       /* what anykv_device_open takes as a decimal string */
    char backend[16];     /* "cpu", "opencl", "cuda" */
    char name[128], vendor[128], driver[128], uuid[40], isa[32];
    uint64_t bytes_total; /* 0: unknown */
    uint64_t bytes_free;
    int usable;           /* 1, or 0 and the reason */
    char reason[256];
} anykv_device_info;
#define ANYKV_DEVICE_INFO_INIT                                                                     \
    {                                                                                              \
        sizeof(anykv_device_info), 0, "", "", "", "", "", "", 0, 0, 0, ""                          \
    }

/* How many devices there are, usable or not, one entry for a backend that has none; and one of them.
 * The list is made at the first call.  E_NOT_FOUND: index beyond it.  Thread: free. */
ANYKV_API anykv_status anykv_device_count(anykv_context *context, uint32_t *count_out);
ANYKV_API anykv_status anykv_device_query(anykv_context *context, uint32_t index,
                                          anykv_device_info *info_out);

/* Instruction sets that the CPU backend may use. */
#define ANYKV_ISA_AVX2   1u
#define ANYKV_ISA_AVX512 2u
#define ANYKV_ISA_NEON   4u
#define ANYKV_ISA_ALL    0xFFFFFFFFu
#define ANYKV_THREADS_ALL 0xFFFFFFFFu

typedef struct anykv_device_options {
    size_t size;
    uint32_t threads;   /* CPU: worker threads; 0: run inline in the calling thread */
    uint32_t isa_mask;  /* CPU: ANYKV_ISA_* that may be used; 0: portable code only */
    void *cuda_context; /* CUcontext of the caller, or NULL */
    void *cuda_stream;  /* CUstream of the caller, or NULL */
    void *cl_context;   /* cl_context of the caller, or NULL */
    void *cl_device;    /* cl_device_id within it */
    void *cl_queue;     /* cl_command_queue of the caller (in order), or NULL */
} anykv_device_options;
#define ANYKV_DEVICE_OPTIONS_INIT                                                                  \
    {                                                                                              \
        sizeof(anykv_device_options), ANYKV_THREADS_ALL, ANYKV_ISA_ALL, NULL, NULL, NULL, NULL,    \
            NULL                                                                                   \
    }

/* Opens a device: "auto" (ANYKV_DEVICE from the environment if set, else the first usable GPU, else
 * the CPU; never a CPU under OpenCL), a backend's name, a device's name or uuid, or its index.
 * On the CPU a call that waits may do the work it waits for itself.
 * E_NOT_FOUND: no such device; E_DEVICE: it is there but refused, with the reason.  Thread: free. */
ANYKV_API anykv_status anykv_device_open(anykv_context *context, const char *name,
                                         const anykv_device_options *options,
                                         anykv_device **device_out);
ANYKV_API void anykv_device_close(anykv_device *device);
ANYKV_API anykv_status anykv_device_describe(anykv_device *device, anykv_device_info *info_out);
/* Waits until the device's queue is empty.  UINT64_MAX waits for ever.  E_TIMEOUT; E_DEVICE: an earlier
 * asynchronous call failed; caches of the device are told as well.  Thread: free.
 *
 * A device that its driver gives up (a fault in a kernel, a card that fell off its bus) is lost: the call
 * that learns of it returns E_DEVICE, every later one that needs the device E_DEAD, without a wait.  Its
 * caches' rows are gone; destroying and closing still work and do not wait for it.  Opening the device
 * anew is a fresh attempt. */
ANYKV_API anykv_status anykv_device_wait(anykv_device *device, uint64_t timeout_ns);

/* Device memory, for rows that live on the device.  adopt wraps memory of the caller (CPU: a pointer;
 * CUDA: a CUdeviceptr; OpenCL: a cl_mem), which must outlive the object.  put returns when src has been
 * read; get when dst is complete.  E_SHAPE: beyond the end.  Thread: free. */
typedef struct anykv_mem anykv_mem;
ANYKV_API anykv_status anykv_mem_create(anykv_device *device, uint64_t bytes, anykv_mem **mem_out);
ANYKV_API anykv_status anykv_mem_adopt(anykv_device *device, void *native, uint64_t bytes,
                                       anykv_mem **mem_out);
ANYKV_API void anykv_mem_destroy(anykv_mem *mem);
ANYKV_API anykv_status anykv_mem_put(anykv_mem *mem, uint64_t offset, const void *src, uint64_t bytes);
ANYKV_API anykv_status anykv_mem_get(anykv_mem *mem, uint64_t offset, void *dst, uint64_t bytes);

/* A point in the device's queue.  Thread: free. */
typedef struct anykv_event anykv_event;
ANYKV_API anykv_status anykv_event_record(anykv_device *device, anykv_event **event_out);
ANYKV_API anykv_status anykv_event_query(anykv_event *event, int *done_out);
ANYKV_API anykv_status anykv_event_wait(anykv_event *event, uint64_t timeout_ns);
/* A descriptor that polls readable once the event has passed, owned by the event; -1: none. */
ANYKV_API int anykv_event_fd(anykv_event *event);
ANYKV_API void anykv_event_destroy(anykv_event *event);

/* ------------------------------------------------------------------------------------------------ */
/* Views: how a caller hands rows over.  Shape [tokens][heads][head_dim] is implied by the call; element
 * (t, h, i) stands t*token_stride + h*head_stride + i elements behind data (host memory), or behind
 * byte `offset` of mem (device memory; data is NULL).  Host views are complete when the call returns;
 * device views are ordered on the device's queue and must live until then. */
typedef struct anykv_view {
    void *data;
    anykv_mem *mem;
    uint64_t offset;       /* bytes, a multiple of the element size */
    anykv_dtype dtype;
    uint64_t token_stride; /* elements */
    uint64_t head_stride;
} anykv_view;

/* A dense view of host rows. */
static inline anykv_view anykv_view_host(const void *data, anykv_dtype dtype, uint32_t heads,
                                         uint32_t head_dim)
{
    anykv_view view;
    view.data = (void *)(uintptr_t)data;
    view.mem = NULL;
    view.offset = 0;
    view.dtype = dtype;
    view.token_stride = (uint64_t)heads * head_dim;
    view.head_stride = head_dim;
    return view;
}

typedef struct anykv_calibration anykv_calibration; /* see there */

/* ------------------------------------------------------------------------------------------------ */
/* Codec: rows ↔ packed bytes, without a cache. */

typedef struct anykv_codec anykv_codec;

typedef struct anykv_codec_options {
    size_t size;
    anykv_format format;
    anykv_transform transform; /* quantised formats only */
    uint32_t head_dim;         /* 64, 80, 96, 112, 128, 192, 256, 512 or 576 */
    int search;                /* scale search of N5 … N2; decoding is the same */
    /* CENTRE and MATRIX: where the means and matrices are, and which rows these are.  As in a layout, no
     * more is done than the calibration has.  Must outlive the codec. */
    const anykv_calibration *calibration;
    uint32_t layer;            /* its number in the model */
    uint32_t side;             /* 0 keys, 1 values */
    uint32_t head;             /* kv head of the first of a call's heads; the others follow */
    uint32_t position;         /* of a call's first token; the others follow */
    /* E4M3G: what a stored number is multiplied by, of the call's heads, 2^-40 … 2^40; NULL: 1 for any number
     * of heads.  Read by create. */
    const float *scales;
    uint32_t scale_count;      /* heads that a call has at most; 0 with NULL */
} anykv_codec_options;
#define ANYKV_CODEC_OPTIONS_INIT                                                                   \
    {                                                                                              \
        sizeof(anykv_codec_options), ANYKV_N4, ANYKV_TRANSFORM_ROTATE, 128, 1, NULL, 0, 0, 0, 0,   \
            NULL, 0                                                                                \
    }

/* E_ARG: an option out of range; E_DATA: the calibration has other heads or sizes.  E_UNSUPPORTED: the
 * device lacks the kernel.  Thread: free. */
ANYKV_API anykv_status anykv_codec_create(anykv_device *device, const anykv_codec_options *options,
                                          anykv_codec **codec_out);
ANYKV_API void anykv_codec_destroy(anykv_codec *codec);
/* Position of the next calls' first token (CENTRE, MATRIX).  Thread: object. */
ANYKV_API anykv_status anykv_codec_set_position(anykv_codec *codec, uint32_t position);
/* Packed bytes of `rows` rows (one tile in ROW order, docs/format.md).  E_SHAPE: 2^29 elements or more,
 * each row rounded up to a multiple of 32.  Thread: free. */
ANYKV_API anykv_status anykv_codec_bytes(const anykv_codec *codec, uint64_t rows, uint64_t *bytes_out);
/* Encodes [tokens][heads] rows into packed (host memory) of exactly anykv_codec_bytes(tokens*heads)
 * bytes; row t*heads + h is row (t, h).  saw_out may be NULL: bit 0 a NaN became 0, bit 1 a value beyond
 * 2^100 was clamped.  E_ARG, E_SHAPE: nothing written; E_DEVICE: packed undefined.  Thread: object. */
ANYKV_API anykv_status anykv_codec_encode(anykv_codec *codec, const anykv_view *rows, uint32_t tokens,
                                          uint32_t heads, void *packed, uint64_t bytes,
                                          uint32_t *saw_out);
ANYKV_API anykv_status anykv_codec_decode(anykv_codec *codec, const void *packed, uint64_t bytes,
                                          uint32_t tokens, uint32_t heads, const anykv_view *rows);

/* ------------------------------------------------------------------------------------------------ */
/* Compression: rows to fewer bytes for storage and transport, and back, shape and dtype kept.  A method
 * that cannot save refuses; it never grows. */

typedef enum anykv_compression {
    ANYKV_COMPRESS_BX16 = 1, /* BF16 rows, bit for bit: 12.1 bits an element on real rows (docs/format.md) */
    ANYKV_COMPRESS_RANS = 2,   /* packed rows, entropy-coded: anykv_compress_packed */
    ANYKV_COMPRESS_LOWRANK = 3, /* coefficients in a calibration's bases: anykv_lowrank_compress */
    ANYKV_COMPRESS_SPARSE = 4 /* some tokens or channels of each head: anykv_sparse_compress */
} anykv_compression;

#define ANYKV_COMPRESS_HEADER 64u /* bytes before what the method writes */

/* The most bytes that compressing rows of this shape can take: those of the rows.  E_ARG: no such method;
 * E_UNSUPPORTED: a dtype that the method does not take (BX16: BF16 only); E_SHAPE: no elements, or more
 * than 2^30.  Thread: free. */
ANYKV_API anykv_status anykv_compress_bound(anykv_compression method, anykv_dtype dtype, uint32_t tokens,
                                            uint32_t heads, uint32_t head_dim, uint64_t *bytes_out);
/* Compresses [tokens][heads][head_dim] rows into packed (host memory of `capacity` bytes, apart from the
 * rows; aligned to 16 bytes it is written in place on devices of host memory).  Any head_dim; rows in
 * device memory must be dense.  The same rows give the same bytes on every device.  As
 * anykv_compress_bound; E_UNSUPPORTED also: the bytes would be more than the rows'; E_SHAPE also: more than
 * capacity; nothing written.  E_MEMORY, E_BUDGET; E_DEVICE: packed undefined.  Thread: free. */
ANYKV_API anykv_status anykv_compress(anykv_device *device, anykv_compression method, const anykv_view *rows,
                                      uint32_t tokens, uint32_t heads, uint32_t head_dim, void *packed,
                                      uint64_t capacity, uint64_t *bytes_out);
/* What compressed bytes hold; of RANS, dtype_out is the anykv_format.  E_DATA: the header is damaged or
 * foreign, or the bytes are not all there.
 * Thread: free. */
ANYKV_API anykv_status anykv_compressed_shape(const void *packed, uint64_t bytes, anykv_compression *method_out,
                                              anykv_dtype *dtype_out, uint32_t *tokens_out,
                                              uint32_t *heads_out, uint32_t *head_dim_out);
/* The way back, to rows of exactly the shape and dtype that the bytes hold (else E_SHAPE, nothing
 * written).  E_DATA: damaged, found by checks of every piece; rows are undefined then, as after E_DEVICE.
 * Thread: free. */
ANYKV_API anykv_status anykv_decompress(anykv_device *device, const void *packed, uint64_t bytes,
                                        const anykv_view *rows, uint32_t tokens, uint32_t heads,
                                        uint32_t head_dim);

/* Packed rows as anykv_codec_encode makes them: [tokens][heads] in one tile, host memory. */
typedef struct anykv_packed {
    void *data;
    uint64_t bytes; /* exactly anykv_codec_bytes(tokens*heads) */
    anykv_format format;
    uint32_t tokens, heads, head_dim;
} anykv_packed;

/* RANS, for packed rows: the same three calls.  The codes of each column of each head, and the scales, are
 * entropy-coded, lossless; on real keys I8 takes 7.3 bits an element, N4 3.5, N2 1.5, on values 7.7, 3.9,
 * 1.9 (docs/format.md).  bytes_out: those of the packed rows, which no result exceeds.  E_ARG: no such method; E_UNSUPPORTED: another
 * method, or a format other than I8, N6 … N2, E4M3; E_SHAPE: a shape that no codec has.  Thread: free. */
ANYKV_API anykv_status anykv_compress_packed_bound(anykv_compression method, anykv_format format, uint32_t tokens,
                                                   uint32_t heads, uint32_t head_dim, uint64_t *bytes_out);
/* Into out (host memory of `capacity` bytes, apart from the rows).  The same on every device.  E_ARG also:
 * bytes between planes are not zero; E_UNSUPPORTED also: it would not save (a few dozen tokens do not);
 * E_SHAPE also: packed->bytes are not those of the rows, or more than capacity are needed; nothing written.
 * E_MEMORY, E_BUDGET, E_DEVICE.  Thread: free. */
ANYKV_API anykv_status anykv_compress_packed(anykv_device *device, anykv_compression method,
                                             const anykv_packed *packed, void *out, uint64_t capacity,
                                             uint64_t *bytes_out);
/* The way back, into packed->data of exactly the shape and format that the bytes hold (else E_SHAPE, nothing
 * written).  E_DATA: damaged, found by checks of every piece; packed->data is undefined then, as after
 * E_DEVICE.  Thread: free. */
ANYKV_API anykv_status anykv_decompress_packed(anykv_device *device, const void *in, uint64_t bytes,
                                               const anykv_packed *packed);

/* What sparse compression keeps or drops as one. */
typedef enum anykv_axis { ANYKV_AXIS_TOKEN = 0, ANYKV_AXIS_CHANNEL = 1 } anykv_axis;

/* The bytes that keeping `keep` tokens, or channels, of every head takes; exact.  E_ARG: axis, dtype, keep
 * not within 1 to their number; E_SHAPE: no elements, or more than 2^30.  Thread: free. */
ANYKV_API anykv_status anykv_sparse_bytes(anykv_axis axis, uint32_t keep, anykv_dtype dtype, uint32_t tokens,
                                          uint32_t heads, uint32_t head_dim, uint64_t *bytes_out);
/* Keeps of every head the `keep` tokens, or channels, with the largest scores, bit for bit; of equal scores
 * the earlier, NaN last.  scores: host, [heads][tokens] or [heads][head_dim].  Rows, packed and failures as
 * for anykv_compress; any dtype.  anykv_decompress brings the rows back, those that were dropped, or their
 * channels, as +0.  A zero key is not an absent one: who drops tokens leaves them out of attention by
 * anykv_sparse_kept.  Thread: free. */
ANYKV_API anykv_status anykv_sparse_compress(anykv_device *device, anykv_axis axis, uint32_t keep,
                                             const float *scores, const anykv_view *rows, uint32_t tokens,
                                             uint32_t heads, uint32_t head_dim, void *packed,
                                             uint64_t capacity, uint64_t *bytes_out);
/* What a head kept: kept_out [tokens] or [head_dim], 1 or 0 each.  E_DATA: damaged, or not sparse; E_SHAPE:
 * no such head; nothing written.  Thread: free. */
ANYKV_API anykv_status anykv_sparse_kept(const void *packed, uint64_t bytes, uint32_t head,
                                         uint8_t *kept_out);

/* ------------------------------------------------------------------------------------------------ */
/* Layout: geometry and meaning of rows, layer by layer. */

typedef struct anykv_layout anykv_layout;

#define ANYKV_OWN_ROWS 0xFFFFFFFFu

typedef struct anykv_layer {
    uint32_t kv_heads, q_heads; /* q_heads a multiple of kv_heads */
    uint32_t k_dim, v_dim;      /* head sizes */
    uint32_t window;            /* sliding window in tokens; 0: global */
    uint32_t source;            /* earlier layer whose rows this layer reads, or ANYKV_OWN_ROWS */
    anykv_format k_format, v_format;
    anykv_dtype hot_type;       /* of the newest rows: ANYKV_F16, ANYKV_BF16, ANYKV_F32 */
    /* Of quantised formats.  CENTRE (keys only) and MATRIX need the options' calibration. */
    anykv_transform k_transform, v_transform;
    uint32_t rope_pairs;        /* rotary pairs; 0: none */
    const uint64_t *rope_turns; /* frequency of each pair, in 2^-64 turns a position; copied */
    anykv_rope rope;            /* how elements are paired; for a calibration's mean and anykv_seq_shift */
    /* E4M3G: what a stored number is multiplied by, [kv_heads], 2^-40 … 2^40; equal ones are a scale of the
     * whole side.  NULL: 1.  Copied.  Rows are scaled before they are rotated or multiplied. */
    const float *k_scales, *v_scales;
} anykv_layer;
#define ANYKV_LAYER_INIT                                                                           \
    {                                                                                              \
        1, 1, 128, 128, 0, ANYKV_OWN_ROWS, ANYKV_N4, ANYKV_N4, ANYKV_F16, ANYKV_TRANSFORM_ROTATE,  \
            ANYKV_TRANSFORM_ROTATE, 0, NULL, ANYKV_ROPE_INTERLEAVED, NULL, NULL                    \
    }

/* Blocks hold the rows of one layer, not of all layers that are alike: evictions of tokens can then keep
 * more of one than of another (ANYKV_EVICT_ADAPTIVE).  Blocks are smaller and more, and where one launch
 * went over all layers there is one for each. */
#define ANYKV_LAYOUT_APART 1u

typedef struct anykv_layout_options {
    size_t size;
    uint32_t block_tokens;    /* positions in a block: 16, 32, 64, 128 or 256 */
    const void *weights;      /* digest of the weights or any token of the caller that names them */
    uint32_t weights_bytes;   /* 1 … 256 */
    uint32_t shard, shards;   /* this process's part of the model: shard of shards */
    /* For layers with CENTRE or MATRIX; what it has for a layer and side is done up to what the layer
     * asks, and a layer that it does not have is rotated.  Held until the layout and the caches made
     * with it are gone.  Not part of the identity: rows mean the same. */
    const anykv_calibration *calibration;
    uint32_t flags; /* ANYKV_LAYOUT_*; not part of the identity either */
} anykv_layout_options;
#define ANYKV_LAYOUT_OPTIONS_INIT                                                                  \
    {                                                                                              \
        sizeof(anykv_layout_options), 16, NULL, 0, 0, 1, NULL, 0                                   \
    }

/* Writes every error of a layout, a line each, into text (at most text_bytes, always terminated);
 * E_ARG if there is any, with the first one as the detail.  text may be NULL.  Thread: free. */
ANYKV_API anykv_status anykv_layout_check(const anykv_layer *layers, uint32_t count,
                                          const anykv_layout_options *options, char *text,
                                          size_t text_bytes);
ANYKV_API anykv_status anykv_layout_create(anykv_context *context, const anykv_layer *layers,
                                           uint32_t count, const anykv_layout_options *options,
                                           anykv_layout **layout_out);
ANYKV_API void anykv_layout_destroy(anykv_layout *layout);
/* SHA-256 identity of the layout (docs/format.md): everything that can change the rows. */
ANYKV_API anykv_status anykv_layout_identity(const anykv_layout *layout, uint8_t digest_out[32]);

/* ------------------------------------------------------------------------------------------------ */
/* Calibration: what is known of a model's keys and queries, so that they lose less in a format.
 *
 * For each layer and kv head it holds the mean of the keys before rotary embedding, and a matrix that
 * balances the spread of keys against the spread of the queries that will meet them.  Moments are
 * gathered from rows of the model, solved once, saved, and given to every layout of that model.  A
 * calibration never changes; layouts share it. */

typedef struct anykv_moments anykv_moments;

/* Moments of layers[0 … count), whose index is the layer's number in the model; geometry, source and
 * rotary pairs are read, formats and transforms are not.  E_ARG as anykv_layout_check.  Thread: free. */
ANYKV_API anykv_status anykv_moments_create(anykv_context *context, const anykv_layer *layers,
                                            uint32_t count, anykv_moments **moments_out);
ANYKV_API void anykv_moments_destroy(anykv_moments *moments);
/* Adds keys (after rotary embedding) and queries of the positions [first, first + tokens) of a text.
 * k: [tokens][kv_heads][k_dim]; q: [tokens][q_heads][k_dim]; v: [tokens][kv_heads][v_dim]; host views,
 * each may be NULL.  Queries of a layer that reads another's rows count for that one.  Keys and values of
 * the first 4 positions are left out: they behave like no others.  E_SHAPE, E_ARG: a view; E_STATE: keys
 * or values of a layer that has none; E_DATA: a row is not finite.  Thread: object. */
ANYKV_API anykv_status anykv_moments_add(anykv_moments *moments, uint32_t layer, uint64_t first,
                                         uint32_t tokens, const anykv_view *k, const anykv_view *v,
                                         const anykv_view *q);

typedef struct anykv_calibrate_options {
    size_t size;
    const void *weights;     /* as the layout names them; NULL: of any model of this geometry */
    uint32_t weights_bytes;  /* 0 … 256 */
    anykv_transform most;    /* the most that may be chosen for keys: ROTATE, CENTRE or MATRIX */
    const char *model;       /* a name for people, at most 255 bytes; NULL: none */
    anykv_transform most_values; /* for values: ROTATE or MATRIX */
    int bases; /* 1: also the bases that low-rank compression needs; 0: none */
} anykv_calibrate_options;
#define ANYKV_CALIBRATE_OPTIONS_INIT                                                               \
    {                                                                                              \
        sizeof(anykv_calibrate_options), NULL, 0, ANYKV_TRANSFORM_MATRIX, NULL,                    \
            ANYKV_TRANSFORM_ROTATE, 0                                                              \
    }

/* Chooses for each layer and head what predicts the least error, and makes the calibration of it.  A
 * matrix of keys is judged by the half of the queries that it was not fitted to (they are dealt in runs
 * of 64 positions, as they were added); the one that is kept is fitted to all.
 * Layers to which nothing was added are left out of it (a layout rotates them).  options may be NULL.
 * E_STATE: no layer has rows, or one has fewer than 256 positions of keys or of queries; E_DATA: the
 * moments of a layer are not finite, all zero, or not positive definite.  Thread: object. */
ANYKV_API anykv_status anykv_moments_solve(const anykv_moments *moments,
                                           const anykv_calibrate_options *options,
                                           anykv_calibration **calibration_out);

/* Reads and writes the file of docs/format.md.  E_DATA names the field that is damaged; E_IO: the file
 * cannot be read or written; E_NOT_FOUND: there is none.  write: bytes_in_out is the capacity, then the
 * size; memory NULL asks for the size; E_SHAPE: too small.  Thread: free. */
ANYKV_API anykv_status anykv_calibration_load(anykv_context *context, const char *path,
                                              anykv_calibration **calibration_out);
ANYKV_API anykv_status anykv_calibration_read(anykv_context *context, const void *memory, size_t bytes,
                                              anykv_calibration **calibration_out);
ANYKV_API anykv_status anykv_calibration_save(const anykv_calibration *calibration, const char *path);
ANYKV_API anykv_status anykv_calibration_write(const anykv_calibration *calibration, void *memory,
                                               size_t *bytes_in_out);
/* Drops the caller's hold; layouts made with it keep theirs.  Thread: free. */
ANYKV_API void anykv_calibration_destroy(anykv_calibration *calibration);
/* SHA-256 of everything that stored rows depend on.  Thread: free. */
ANYKV_API anykv_status anykv_calibration_digest(const anykv_calibration *calibration,
                                                uint8_t digest_out[32]);

/* Low-rank compression: rows as coefficients in the bases of a calibration, quantised with one step and
 * entropy coded; lossy.  The unit of the step is what a coefficient adds to q.k / sqrt(head_dim), root mean
 * square over the calibration's queries; of values, the root mean square of their elements. */
typedef struct anykv_lowrank_options {
    size_t size;
    const anykv_calibration *calibration; /* with bases; its layer has these heads and this head size */
    uint32_t layer;    /* its number in the model */
    uint32_t side;     /* 0 keys (after rotary embedding), 1 values */
    uint32_t position; /* of the first token; tokens follow each other */
    float step;        /* 2^-20 … 2^20 */
} anykv_lowrank_options;
#define ANYKV_LOWRANK_OPTIONS_INIT                                                                 \
    {                                                                                              \
        sizeof(anykv_lowrank_options), NULL, 0, 0, 0, 0.125f                                       \
    }
/* As anykv_compress; any dtype, at most the rows' bytes or E_UNSUPPORTED.  NaN is taken as 0, what is beyond
 * 2^100 as 2^100.  A coefficient comes back within half a step, or, if the largest of its component needs
 * more than 127 of them, within half the least power of two times the step with which it does not.  The
 * same rows give the same bytes on every device.  E_DATA: the calibration has no bases or not this layer.
 * Thread: free. */
ANYKV_API anykv_status anykv_lowrank_compress(anykv_device *device, const anykv_lowrank_options *options,
                                              const anykv_view *rows, uint32_t tokens, uint32_t heads,
                                              uint32_t head_dim, void *packed, uint64_t capacity,
                                              uint64_t *bytes_out);
/* As anykv_decompress, with the calibration that the data was made with (else E_DATA).  Rows are the same
 * from run to run; their last bits depend on the library that multiplies.  Thread: free. */
ANYKV_API anykv_status anykv_lowrank_decompress(anykv_device *device, const anykv_calibration *calibration,
                                                const void *packed, uint64_t bytes, const anykv_view *rows,
                                                uint32_t tokens, uint32_t heads, uint32_t head_dim);
/* What multiplies dense matrices on devices of a backend ("cpu", "opencl", "cuda"): the file name of a CBLAS,
 * of CLBlast, of cuBLAS, opened by the first call or product (OpenBLAS starts threads of its own then); "own
 * loops" or "own kernel" where there is none; NULL: no such backend.  ANYKV_CBLAS_LIBRARY, ANYKV_CLBLAST_LIBRARY
 * and ANYKV_CUBLAS_LIBRARY in the environment name another one, or "none".  Thread: free. */
ANYKV_API const char *anykv_dense_library(const char *backend);

typedef struct anykv_calibration_info {
    size_t size;
    uint32_t layers;   /* how many it has */
    uint32_t number;   /* the layer's number in the model */
    uint32_t kv_heads, k_dim, v_dim, rope_pairs;
    anykv_transform transform;  /* chosen for this head */
    /* Predicted mean square error of q·k for a format of unit noise (values: of an element). */
    double rotate, centre, matrix;
    const char *model; /* lives as long as the calibration; "" unknown */
} anykv_calibration_info;
#define ANYKV_CALIBRATION_INFO_INIT                                                                \
    {                                                                                              \
        sizeof(anykv_calibration_info), 0, 0, 0, 0, 0, 0, ANYKV_TRANSFORM_NONE, 0.0, 0.0, 0.0, ""  \
    }
/* What it says of kv head `head` of the index-th layer it has, side 0 keys, 1 values; centre is not a
 * number for values.  E_NOT_FOUND: beyond the last layer or head.  Thread: free. */
ANYKV_API anykv_status anykv_calibration_describe(const anykv_calibration *calibration, uint32_t index,
                                                  uint32_t side, uint32_t head,
                                                  anykv_calibration_info *info_out);

/* ------------------------------------------------------------------------------------------------ */
/* Cache. */

typedef struct anykv_cache anykv_cache;

typedef enum anykv_policy {
    /* Which cached block goes first when room is needed; of all of them: leaves before parents. */
    ANYKV_POLICY_LRU = 1,      /* least recently used */
    ANYKV_POLICY_LFU = 2,      /* least frequently used; old counts fade */
    ANYKV_POLICY_FIFO = 3,     /* first in, first out */
    ANYKV_POLICY_ADAPTIVE = 4, /* recency and frequency; follows how soon requests come back */
    ANYKV_POLICY_GITTINS = 5,  /* learns how soon blocks of which kind come back */
    ANYKV_POLICY_CALLER = 6    /* the caller's own scores */
} anykv_policy;

/* A cached block that could go, as ANYKV_POLICY_CALLER's callback sees it. */
typedef struct anykv_candidate {
    uint8_t key[32];        /* of the block (docs/format.md, "Keys and identity") */
    uint64_t bytes;         /* that its eviction gives back */
    double idle_seconds;    /* since its last use */
    uint32_t first_position, tokens;
    uint32_t children_seen; /* different blocks that ever followed it */
    uint32_t priority;      /* 0 … 100 */
} anykv_candidate;

#define ANYKV_CACHE_PRECISE      1u /* attention without approximations made for speed */
#define ANYKV_CACHE_EVICT_TOKENS 2u /* room for anykv_seq_evict_tokens, part of the budget */
#define ANYKV_CACHE_COMPRESS     4u /* the same for anykv_seq_compress and anykv_cache_compress */
/* The same, and begin compresses cached blocks that cannot step down any further before it evicts any: it
 * waits for the device then.  Losslessly: by BX16 where rows are BF16. */
#define ANYKV_CACHE_COMPRESS_CACHED 8u

typedef struct anykv_cache_options {
    size_t size;
    uint64_t budget_bytes;   /* device bytes the cache may hold, everything included */
    uint32_t sinks;          /* first tokens kept at the hot type, rounded up to whole blocks */
    uint32_t recent;         /* newest tokens kept at the hot type */
    uint32_t max_sequences;  /* in one step */
    uint32_t max_step_tokens; /* new tokens in one step, all sequences together */
    uint32_t max_seq_tokens; /* length of a sequence */
    anykv_policy policy;
    uint32_t flags;          /* ANYKV_CACHE_* */
    /* The policy's time in seconds from any start, not going backwards; NULL: the system's monotonic
     * clock.  Called from any thread, without a lock held; must not call anykv. */
    double (*clock)(void *user);
    void *clock_user;
    /* ANYKV_POLICY_CALLER, else NULL: the score of each candidate; the smallest goes first.  A score
     * stands until the block is used again; candidates without one go after those that have one, the
     * least recently used first; a NaN is the largest.  Called by anykv_step_begin,
     * anykv_cache_set_budget and anykv_cache_trim_memory before they evict, without a lock held, for
     * blocks that had no score; must not call anykv for this cache. */
    void (*score)(void *user, const anykv_candidate *candidates, uint32_t count, float *scores_out);
    void *score_user;
    /* Precision ladder: before a block is dropped, blocks are stored in smaller formats, one rung after
     * the other, as long as the estimated relative error of attention output stays within error_budget
     * in every layer.  0: what the layout says stays. */
    float error_budget;
    anykv_format rungs[4];   /* formats to step down to, larger first, among I8 N6 N5 N4 N3 N2; 0 ends */
    float high_watermark;    /* share of the pool above which blocks step down ahead of need, ... */
    float low_watermark;     /* ... until this share is reached */
    uint32_t ladder_blocks;  /* at most so many at the end of one step; 0: only when room is needed */
    uint32_t sensitivities;  /* 0, or 2 * layers */
    const float *sensitivity; /* [layers][2], keys and values: errors are that many times the ordinary
                               * ones, so that a sensitive layer keeps a larger format on each rung */
    uint32_t events;         /* block events kept for anykv_cache_events; 0: none */
    /* Eviction of tokens by itself: at the end of a step each of its sequences that holds more than
     * token_budget + token_every rows loses tokens, as by anykv_seq_evict_tokens with this policy (one
     * that needs nothing from the caller: WINDOW, KNORM, KEYDIFF, RATIO), these sinks and recent tokens
     * and keep = the budget.  Sets ANYKV_CACHE_EVICT_TOKENS.  The end of such a step waits for the
     * device; where the eviction fails the rows stay, it is logged, and the next step tries again. */
    uint32_t token_policy; /* an anykv_token_policy; 0: none */
    uint32_t token_budget; /* rows of a new sequence, at least sinks + recent and two blocks; 0: any
                            * number, until anykv_seq_limit_tokens */
    uint32_t token_every;  /* a bad score has so many tokens' time to change */
} anykv_cache_options;
#define ANYKV_CACHE_OPTIONS_INIT                                                                   \
    {                                                                                              \
        sizeof(anykv_cache_options), 0, 4, 128, 64, 2048, 131072, ANYKV_POLICY_ADAPTIVE, 0,        \
            NULL, NULL, NULL, NULL, 0.0f, {ANYKV_I8, ANYKV_N4, ANYKV_N2, (anykv_format)0}, 0.90f,  \
            0.88f, 64, 0, NULL, 0, 0, 0, 128                                                       \
    }

/* Ways of use.  What each sets (the other options stay):
 *
 *     mode         sinks recent sequences step tokens  tokens  error budget  watermarks  ladder_blocks
 *     inference        4    128        64        2048  131072          0.06  0.90, 0.88             64
 *     training         4    all        64        2048  131072  0: all exact           -              0
 *     bulk             4     32       256        8192  131072          0.35  0.98, 0.95            256
 *     streaming        4    256        16        2048 1048576          0.35  0.80, 0.70             16
 *     interactive      4    256        16        2048  131072          0.06  0.85, 0.80              8
 *
 * Training keeps all rows at the hot type and sets ANYKV_CACHE_PRECISE; bulk wants the most sequences in
 * a budget; streaming keeps room for what comes; interactive bounds the pause at a step's end. */
typedef enum anykv_mode {
    ANYKV_MODE_INFERENCE = 1,
    ANYKV_MODE_TRAINING = 2,
    ANYKV_MODE_BULK = 3,
    ANYKV_MODE_STREAMING = 4,
    ANYKV_MODE_INTERACTIVE = 5
} anykv_mode;
/* Sets a mode's options in options made by the initialiser macro.  E_ARG: unknown mode, size not set.
 * Thread: free. */
ANYKV_API anykv_status anykv_cache_options_mode(anykv_mode mode, anykv_cache_options *options);
/* The formats of a profile or pair (as anykv_format_pair_parse) for layers; "lossless" sets their hot type to
 * BF16, too, so that no row is ever rounded, and in options (NULL: none) ANYKV_CACHE_COMPRESS_CACHED, so
 * that cached rows take 12.1 bits an element under pressure.  Thread: free. */
ANYKV_API anykv_status anykv_profile_set(const char *name, anykv_layer *layers, uint32_t count,
                                         anykv_cache_options *options);
/* "inference" …; E_ARG for an unknown name.  Thread: free. */
ANYKV_API anykv_status anykv_mode_parse(const char *name, anykv_mode *mode_out);

/* Configurations of the engine that anykv replaces: a flat YAML or JSON text of its 33 field names
 * (max_tokens, cache_strategy, quantization_bits …).  Every field is accepted, mapped to something else
 * or refused, by name; nothing is dropped silently. */
#define ANYKV_CONFIG_NAME  40u
#define ANYKV_CONFIG_VALUE 128u
typedef enum anykv_verdict {
    ANYKV_ACCEPTED = 1,
    ANYKV_MAPPED = 2,
    ANYKV_REFUSED = 3
} anykv_verdict;
typedef struct anykv_config_field {
    char name[ANYKV_CONFIG_NAME];
    char value[ANYKV_CONFIG_VALUE];
    anykv_verdict verdict;
    char note[108]; /* what it became, or why not */
} anykv_config_field;
typedef struct anykv_config {
    size_t size;
    anykv_layer layer;       /* one layer's record; the original has one for all */
    uint32_t block_tokens;   /* for the layout's options */
    uint32_t threads;        /* for the options of a CPU device */
    anykv_mode mode;
    uint32_t accepted, mapped, refused; /* fields */
    anykv_cache_options options;
} anykv_config;
#define ANYKV_CONFIG_INIT                                                                          \
    {                                                                                              \
        sizeof(anykv_config), ANYKV_LAYER_INIT, 16, ANYKV_THREADS_ALL, ANYKV_MODE_INFERENCE, 0, 0, \
            0, ANYKV_CACHE_OPTIONS_INIT                                                            \
    }
/* context may be NULL.  report: a record for each field of the text, in its order; count_in_out: room
 * (64 always do), then their number; E_SHAPE: too little, the need is written.  Refused fields are no
 * failure: config_out->refused counts them.  E_DATA: the text is no such configuration, with the line.
 * Thread: free. */
ANYKV_API anykv_status anykv_config_import(anykv_context *context, const char *text, size_t bytes,
                                           anykv_config *config_out, anykv_config_field *report,
                                           uint32_t *count_in_out);

typedef struct anykv_estimate {
    size_t size;
    uint64_t fixed_bytes;  /* descriptors, scratch, staging: held whatever the pool holds */
    uint64_t chunk_bytes;  /* the pool grows and shrinks in chunks of this size */
    uint64_t hot_block_bytes;    /* all layer groups' 16-bit blocks of block_tokens positions */
    uint64_t sealed_block_bytes; /* all layer groups' packed blocks */
    uint64_t minimum_bytes; /* the least budget_bytes that anykv_cache_create accepts */
    uint64_t pool_bytes;   /* whole chunks that fit into budget_bytes - fixed_bytes */
    uint64_t total_bytes;  /* fixed + pool: what the cache will hold, never more than the budget */
} anykv_estimate;
#define ANYKV_ESTIMATE_INIT                                                                        \
    {                                                                                              \
        sizeof(anykv_estimate), 0, 0, 0, 0, 0, 0, 0                                                \
    }

/* Exact bytes that anykv_cache_create would take; allocates nothing on the device.  Thread: free. */
ANYKV_API anykv_status anykv_cache_estimate(anykv_device *device, const anykv_layout *layout,
                                            const anykv_cache_options *options,
                                            anykv_estimate *estimate_out);
/* Makes the cache and prepares every kernel it will need.  The layout is copied.  E_BUDGET: budget_bytes
 * is below the minimum, which the detail names.  Thread: free. */
ANYKV_API anykv_status anykv_cache_create(anykv_device *device, const anykv_layout *layout,
                                          const anykv_cache_options *options, anykv_cache **cache_out);
/* Waits for the device.  All sequences must have been destroyed.  Thread: setup. */
ANYKV_API void anykv_cache_destroy(anykv_cache *cache);

/* Compressed blocks, by method. */
#define ANYKV_COMPRESS_METHODS 4u
typedef struct anykv_method_stats {
    uint64_t blocks;             /* held */
    uint64_t bytes, plain_bytes; /* that they take in the pool, and would uncompressed */
    uint64_t blocks_compressed, bytes_saved, blocks_read_back; /* so far */
    uint64_t blocks_ahead;       /* of those compressed, by begins under pressure */
    uint64_t grown;              /* blocks that would not have become smaller */
    uint64_t blocks_damaged;
} anykv_method_stats;

typedef struct anykv_stats {
    size_t size;
    uint64_t budget_bytes, used_bytes, peak_bytes; /* used: fixed bytes and chunks in use */
    uint64_t fixed_bytes, chunk_bytes;
    uint64_t hot_blocks, sealed_blocks;  /* held, by kind */
    uint64_t cached_blocks;   /* of those, referenced by no sequence */
    uint64_t hot_bytes, sealed_bytes;
    uint64_t sequences;
    uint64_t steps, tokens_appended, tokens_attended;
    uint64_t blocks_named, blocks_sealed, blocks_evicted, blocks_copied, blocks_moved;
    uint64_t lookups, lookup_tokens, hit_tokens;
    uint64_t budget_refusals; /* begins that found nothing to free */
    uint32_t saw;             /* sticky: bit 0 a NaN, bit 1 a huge value entered a quantised block; as of
                               * the last call that waited for the device */
    uint32_t reserved;
    /* The precision ladder: blocks on each rung of the options' list, steps down and what they freed,
     * lowered blocks whose rows were computed anew and took their place in the index, and lookups that
     * ended at a block below the precision they accept. */
    uint64_t rung_blocks[4], rung_bytes[4];
    uint64_t blocks_lowered, lowered_bytes, blocks_restored, precision_misses;
    uint64_t blocks_reused;       /* taken from the index by matches */
    uint64_t blocks_new, bytes_new; /* taken from the pool */
    uint64_t evicted_bytes;
    /* Memory: device bytes allocated for blocks; those of chunks in use that no block takes; the
     * device's (0: unknown); host memory of all objects of the context; device allocations that were
     * refused once and tried again after the queue had run empty. */
    uint64_t pool_bytes, fragmentation_bytes;
    uint64_t device_bytes_total, device_bytes_free;
    uint64_t host_bytes;
    uint64_t device_retries;
    uint64_t tokens_evicted; /* of sequences, by anykv_seq_evict_tokens: positions no longer attended */
    uint8_t calibration[32]; /* digest of the calibration that packed blocks were made with; 0: none */
    uint64_t compressed_blocks, compressed_bytes; /* held, by all methods; none of the kinds above */
    anykv_method_stats compressed[ANYKV_COMPRESS_METHODS]; /* [method - 1] */
} anykv_stats;
/* One consistent snapshot; set size first.  Thread: free. */
ANYKV_API anykv_status anykv_cache_stats(anykv_cache *cache, anykv_stats *stats_out);
/* Changes the budget; lowering evicts and compacts at once and gives device memory back in the parts in
 * which it was taken (quarters of the pool), so that what is held never exceeds the budget; raising adds
 * such parts, to about twice the first budget.  E_BUDGET: what is referenced does not fit; E_BUSY: an
 * open step uses blocks that would have to move: no row is lost.  Thread: free. */
ANYKV_API anykv_status anykv_cache_set_budget(anykv_cache *cache, uint64_t budget_bytes);
/* Evicts every block that no sequence references.  Thread: free. */
ANYKV_API anykv_status anykv_cache_trim_memory(anykv_cache *cache);
/* What a tenant's sequences may hold.  Its cached blocks have an order, ghosts and a half-life of their
 * own, so that other tenants' requests do not disturb them. */
typedef struct anykv_tenant_options {
    size_t size;
    const void *tenant;        /* as in anykv_seq_options; no bytes: the public sequences */
    uint32_t tenant_bytes;
    uint64_t guaranteed_bytes; /* of blocks: while it holds no more, others' steps evict none of them */
    uint64_t limit_bytes;      /* of blocks, cached ones included; 0: no limit */
} anykv_tenant_options;
#define ANYKV_TENANT_OPTIONS_INIT                                                                  \
    {                                                                                              \
        sizeof(anykv_tenant_options), NULL, 0, 0, 0                                                \
    }
/* Sets a tenant, or its bytes anew; at most 63.  Holds for sequences made from then on.  A step beyond the
 * limit evicts the tenant's own cached blocks, then fails with E_BUDGET; lowering a limit evicts nothing by
 * itself.  anykv_cache_set_budget and anykv_cache_trim_memory do not spare what is guaranteed.  E_ARG: the
 * tenant, or a limit below the guarantee; E_BUDGET: all guarantees together exceed the pool.
 * Thread: free. */
ANYKV_API anykv_status anykv_cache_set_tenant(anykv_cache *cache, const anykv_tenant_options *options);
/* Bytes of blocks that a tenant's sequences and cached blocks hold.  E_NOT_FOUND: it was not set.
 * Thread: free. */
ANYKV_API anykv_status anykv_cache_tenant_bytes(anykv_cache *cache, const void *tenant,
                                                uint32_t tenant_bytes, uint64_t *bytes_out);
/* Waits for the cache's asynchronous work; a device failure since the last call is returned here once,
 * and the sequences whose rows were not known to be complete are dead (E_DEAD), their names withdrawn.
 * E_TIMEOUT.  Thread: free. */
ANYKV_API anykv_status anykv_cache_wait(anykv_cache *cache, uint64_t timeout_ns);
/* Why the last eviction, step down, miss or refusal happened, as text; always terminated.  Thread:
 * free. */
ANYKV_API anykv_status anykv_cache_explain(anykv_cache *cache, char *text, size_t text_bytes);

/* What happened to named blocks, in the field names of vLLM's KV events; each event is about one block
 * of all layer groups.  LOWERED and RESTORED are our own: one layer group's block changed its kind;
 * COMPRESSED and READ_BACK: it was compressed in place, and its rows came back. */
typedef enum anykv_block_event_type {
    ANYKV_BLOCK_STORED = 1,
    ANYKV_BLOCK_REMOVED = 2,
    ANYKV_ALL_BLOCKS_CLEARED = 3,
    ANYKV_BLOCK_LOWERED = 4,
    ANYKV_BLOCK_RESTORED = 5,
    ANYKV_BLOCK_COMPRESSED = 6,
    ANYKV_BLOCK_READ_BACK = 7
} anykv_block_event_type;
typedef struct anykv_block_event {
    uint64_t sequence_number; /* of a cache, from 1, without gaps */
    uint64_t time_ns;         /* monotonic clock */
    anykv_block_event_type type;
    uint32_t block_size;      /* tokens */
    uint8_t block_hash[32], parent_block_hash[32];
    uint32_t has_parent;
    uint32_t token_count;     /* STORED: block_size ids; else 0 */
    int64_t lora_id;          /* from the sequence's extra bytes; -1: none */
    uint32_t kind;            /* of LOWERED and later ones: of its rows, as in block tables */
    char medium[12];          /* "GPU" or "CPU" */
} anykv_block_event;
/* Takes events out, oldest first.  token_ids (or NULL): [capacity][block_size].  count_in_out: capacity,
 * then the number; lost_out: events overwritten before they were drained.  Thread: free. */
ANYKV_API anykv_status anykv_cache_events(anykv_cache *cache, anykv_block_event *events,
                                          uint32_t *token_ids, uint64_t *count_in_out,
                                          uint64_t *lost_out);
/* The statistics as text for Prometheus (names anykv_…), always terminated; needed_out: bytes with the
 * terminator.  E_SHAPE: text_bytes (not 0) is less; the text is cut.  Thread: free. */
ANYKV_API anykv_status anykv_cache_metrics(anykv_cache *cache, char *text, size_t text_bytes,
                                           size_t *needed_out);

/* What the last step_begin, step_end, match, lookup, set_budget or trim_memory of this thread did. */
typedef struct anykv_call_info {
    size_t size;
    const char *call; /* "anykv_step_begin" …, NULL before the first; static */
    anykv_status status;
    uint64_t duration_ns; /* with the cache's lock held */
    uint64_t tokens_asked, tokens_matched;
    uint64_t blocks_reused, blocks_new, bytes_new;
    uint64_t blocks_named, blocks_sealed;
    uint64_t blocks_evicted, bytes_evicted, blocks_lowered, bytes_lowered, blocks_moved;
    uint64_t blocks_read_back;
} anykv_call_info;
/* Set size first.  Thread: free. */
ANYKV_API anykv_status anykv_call_info_last(anykv_call_info *info_out);

/* What a call compressed, and what it passed over. */
typedef struct anykv_compress_info {
    size_t size;
    uint64_t blocks;             /* compressed by the call; each is of one layer group */
    uint64_t plain_bytes, bytes; /* of the pool that they took, and take now */
    uint64_t busy;    /* passed over: an open step uses the block, or a sequence ends inside it */
    uint64_t foreign; /* stored in a kind that the method does not take */
    uint64_t grown;   /* would not have become smaller */
    uint64_t no_room; /* no place for the compressed bytes, even after packing; nothing is evicted for it */
} anykv_compress_info;
#define ANYKV_COMPRESS_INFO_INIT                                                                   \
    {                                                                                              \
        sizeof(anykv_compress_info), 0, 0, 0, 0, 0, 0, 0                                           \
    }
/* Compresses up to most_blocks blocks that no sequence references, the longest unused first.  See
 * anykv_seq_compress.  Thread: free. */
ANYKV_API anykv_status anykv_cache_compress(anykv_cache *cache, anykv_compression method,
                                            uint64_t most_blocks, anykv_compress_info *info_out);

/* ------------------------------------------------------------------------------------------------ */
/* Sequences.  Thread: object (sequence), unless said otherwise. */

typedef struct anykv_seq anykv_seq;

#define ANYKV_SEQ_PUBLIC 1u  /* no tenant: shares blocks with every other public sequence */
#define ANYKV_SEQ_PRIVATE 2u /* names nothing and matches nothing */

typedef struct anykv_seq_options {
    size_t size;
    uint32_t flags;          /* ANYKV_SEQ_PUBLIC, or a tenant */
    const void *tenant;      /* salt of the tenant; two salts share no block */
    uint32_t tenant_bytes;   /* 1 … 256, or 0 with ANYKV_SEQ_PUBLIC or ANYKV_SEQ_PRIVATE */
    const void *extra;       /* further identity, an adapter say */
    uint32_t extra_bytes;    /* 0 … 256 */
    uint32_t rungs;          /* steps of the precision ladder below the layout's formats that it accepts,
                              * in blocks it matches and in its own; 0: none */
} anykv_seq_options;
#define ANYKV_RUNGS_ANY 0xFFFFFFFFu
#define ANYKV_SEQ_OPTIONS_INIT                                                                     \
    {                                                                                              \
        sizeof(anykv_seq_options), 0, NULL, 0, NULL, 0, ANYKV_RUNGS_ANY                            \
    }

/* E_ARG: neither a tenant nor a flag that says there is none. */
ANYKV_API anykv_status anykv_seq_create(anykv_cache *cache, const anykv_seq_options *options,
                                        anykv_seq **seq_out);
/* E_BUSY cannot be returned: a sequence in an open step is destroyed when the step ends. */
ANYKV_API void anykv_seq_destroy(anykv_seq *seq);
ANYKV_API anykv_status anykv_seq_length(const anykv_seq *seq, uint64_t *tokens_out);

/* Longest cached prefix of tokens in whole blocks, at most all but one token; acquires its blocks and
 * sets the length.  Of layers with a window only the blocks that the window still sees are needed.
 * E_STATE: the sequence is not empty. */
ANYKV_API anykv_status anykv_seq_match(anykv_seq *seq, const uint32_t *tokens, uint64_t count,
                                       uint64_t *matched_out);
/* The same question without effects.  Thread: free. */
ANYKV_API anykv_status anykv_cache_lookup(anykv_cache *cache, const anykv_seq_options *options,
                                          const uint32_t *tokens, uint64_t count,
                                          uint64_t *matched_out);
/* Tokens of the positions behind the last named one, for steps that ended without (step_end's tokens
 * are passed over while earlier ones are missing); names their whole blocks.  The first block published
 * under a key stays: a sequence that computed the same tokens keeps its own rows.  E_ARG: more than the
 * sequence has; E_STATE: private, in a step, or after a removal. */
ANYKV_API anykv_status anykv_seq_name(anykv_seq *seq, const uint32_t *tokens, uint64_t count);
/* A copy that shares all whole blocks; a partial last block is copied when one of the two writes.
 * E_STATE: in a step. */
ANYKV_API anykv_status anykv_seq_fork(anykv_seq *seq, anykv_seq **seq_out);
/* Drops positions from `tokens` on.  E_ARG: longer than the sequence; E_STATE: in a step, or the cut
 * falls inside a sealed or removed block whose rows must be kept, or a window would see rows again that
 * were freed (named ones come back while they are cached). */
ANYKV_API anykv_status anykv_seq_trim(anykv_seq *seq, uint64_t tokens);
/* Removes whole blocks [first, first + count) positions (multiples of block_tokens): they are no longer
 * attended; positions of the others stay.  The sequence then names no further blocks. */
ANYKV_API anykv_status anykv_seq_remove(anykv_seq *seq, uint64_t first, uint64_t count);

/* Rows of positions [first, first + count) take the positions [first + delta, …): their keys are turned on by
 * delta (rotary embedding), stored as they were, in place where the sequence alone holds a block, else in a
 * copy; values stay.  All three are multiples of block_tokens, but for a count up to the sequence's end, which
 * then moves with it.  Where they go no rows may be: remove them first; what they leave is as removed.  The
 * sequence then names no further blocks, nor those from the first changed position on.  Keys of quantised
 * formats are decoded and encoded again (docs/quality.md has the error of it).  Rows that a window freed stay
 * gone.  The first call for a format prepares its kernel.
 * E_ARG: positions; E_STATE: in a step, rows are in the way, tokens were evicted; E_UNSUPPORTED: a layer has
 * no rotary pairs; E_MEMORY, E_BUDGET (no room for copies): nothing changed.  E_DEVICE: as long as none of
 * its own blocks was touched nothing changed, else the sequence is dead. */
ANYKV_API anykv_status anykv_seq_shift(anykv_seq *seq, uint64_t first, uint64_t count, int64_t delta);

/* Which tokens of a sequence an eviction keeps: those with the largest score, of equal ones the older,
 * and those whose score is a NaN.  The same on every device, but for MASS, which comes from attention. */
typedef enum anykv_token_policy {
    ANYKV_TOKENS_WINDOW = 1,  /* the newest (sinks and window, StreamingLLM) */
    ANYKV_TOKENS_KNORM = 2,   /* -|k| */
    ANYKV_TOKENS_KEYDIFF = 3, /* minus the cosine of k and the mean of k/|k| */
    ANYKV_TOKENS_RATIO = 4,   /* mean of |v|/|k| over a block: blocks stay or go (PagedEviction) */
    ANYKV_TOKENS_AFFINE = 5,  /* <k, weights> + bias |k| (expected attention, Q-filters) */
    ANYKV_TOKENS_MASS = 6,    /* attention of the last `queries` tokens: TOVA 1, SnapKV 64, H2O more */
    ANYKV_TOKENS_SCORES = 7   /* the caller's */
} anykv_token_policy;

#define ANYKV_EVICT_SHARED 1u /* MASS, RATIO, SCORES: all heads of a layer keep the same tokens, by their
                               * mean score; SCORES then have to be sums worth taking a mean of */
/* What stays is shared out by the scores, in whole blocks: layers whose blocks are apart
 * (ANYKV_LAYOUT_APART) compete for the bytes of `keep` rows of each of them, every one keeps a fifth of
 * its equal share at least.  Not with WINDOW.  A layer of several kv heads keeps as many rows of each of
 * them; for shares by head (AdaKV) every kv head is declared as a layer of its own, with its query heads,
 * and appended and attended with views of that head. */
#define ANYKV_EVICT_ADAPTIVE 2u

typedef struct anykv_evict_params {
    size_t size;
    anykv_token_policy policy;
    uint32_t flags;  /* ANYKV_EVICT_* */
    uint64_t keep;   /* rows to keep in all, of every layer and kv head (ADAPTIVE: on average); rounded
                      * up to whole blocks */
    uint32_t sinks;  /* first tokens that stay, at least the cache's, rounded up to whole blocks */
    uint32_t recent; /* newest tokens that stay, 32 at least */
    /* The rest is host memory, read during the call.  Of layers that read another's rows nothing is
     * read but `q` and `lse`, which have an entry for every layer. */
    const float *weights; /* AFFINE: [layers][kv_heads][k_dim], for keys as appended */
    const float *bias;    /* AFFINE: [layers][kv_heads], or NULL: 0 */
    const float *scores;  /* SCORES: [layers][kv_heads][rows], rows as anykv_seq_kept lists them; room for
                           * those of the head that has most */
    uint32_t queries;     /* MASS: how many tokens, the last ones of the sequence */
    uint32_t pool;        /* MASS: mean over so many neighbours, odd; 0: none */
    const anykv_view *q;  /* MASS: [layers], rows [queries][q_heads][k_dim] */
    const float *lse;     /* MASS: [layers][queries][q_heads], as anykv_step_attend gave it */
    float scale, cap;     /* MASS: as attend's; scale 0: 1/sqrt(k_dim) */
    const uint32_t *share; /* ADAPTIVE: [layers], layers with the same number compete with each other; NULL:
                            * all do */
} anykv_evict_params;
#define ANYKV_EVICT_PARAMS_INIT                                                                    \
    {                                                                                              \
        sizeof(anykv_evict_params), ANYKV_TOKENS_WINDOW, 0, 0, 4, 128, NULL, NULL, NULL, 0, 0,     \
            NULL, NULL, 0.0f, 0.0f, NULL                                                           \
    }

/* Evicts tokens (lossy): between the sinks and the recent ones, from the first block that is stored in
 * another kind on, every layer and kv head keeps its own best rows, and what it frees are whole blocks.
 * Positions stay what they were: anykv_seq_length counts the evicted ones too, the next token has that
 * position, and the keys that stay keep their rotary embedding.  Limits such as max_seq_tokens count the
 * rows that are held.  The sequence then names no further blocks and its evicted part is no one's
 * prefix; blocks that others hold or that have a name are copied, not changed.  Waits for the device.
 * Where there is nothing to evict the call does nothing.  Layers with a window take no part, and the
 * newest tokens that the widest window sees stay in all layers.
 * E_ARG, E_SHAPE, E_STATE (in a step; a cache without ANYKV_CACHE_EVICT_TOKENS), E_MEMORY, E_BUDGET (no
 * room for copies), E_UNSUPPORTED (every layer has a window; keys with a calibration's mean or matrix;
 * RATIO with such values): nothing changed.
 * E_DEVICE: the sequence is dead.  Thread: object. */
ANYKV_API anykv_status anykv_seq_evict_tokens(anykv_seq *seq, const anykv_evict_params *params);
/* Sets the rows beyond which the sequence, and its forks from now on, lose tokens at the ends of steps
 * (options.token_policy); 0: none.  E_ARG: less than sinks, recent tokens and two blocks; E_STATE: the
 * cache has no token_policy.  Thread: object. */
ANYKV_API anykv_status anykv_seq_limit_tokens(anykv_seq *seq, uint64_t rows);
/* Positions of the rows that the sequence holds, ascending, for a layer and kv head.
 * count_in_out: room in, number of rows out.  E_SHAPE: room for fewer; the number is written. */
ANYKV_API anykv_status anykv_seq_kept(const anykv_seq *seq, uint32_t layer, uint32_t head,
                                      uint32_t *positions, uint64_t *count_in_out);
/* Hint: will not be continued.  When it is destroyed its blocks go first when memory is short, from the
 * last one up to the first that others use or that more than four different blocks ever followed. */
ANYKV_API anykv_status anykv_seq_done(anykv_seq *seq);
/* Hint: will be continued in about so many seconds of the policy's clock.  From one half-life before that
 * time (or now) until then its named blocks count as just used; undoes done.  E_ARG: not finite or
 * negative. */
ANYKV_API anykv_status anykv_seq_expect(anykv_seq *seq, double seconds);
/* Priority of the blocks of positions [first, first + count) for so many seconds of the policy's clock
 * (infinite: for ever), those named later included: cached blocks of a lower priority go first, the policy
 * decides among equals.  0 … 100, 35 is that of all others.  Where two sequences differ on a block, the
 * higher one counts.  E_ARG: out of range, or eight other ranges of the sequence hold already. */
ANYKV_API anykv_status anykv_seq_retain(anykv_seq *seq, uint64_t first, uint64_t count, uint32_t priority,
                                        double seconds);
/* Keeps the sequence's named blocks, those named later included, from eviction until unpinned, also after
 * it is destroyed: then any sequence that matched them unpins them with pinned 0. */
ANYKV_API anykv_status anykv_seq_pin(anykv_seq *seq, int pinned);
/* The same for so many seconds of the policy's clock, after which it ends by itself; a longer lease
 * extends a shorter one.  E_ARG: not above 0 and finite. */
ANYKV_API anykv_status anykv_seq_lease(anykv_seq *seq, double seconds);

/* Compresses the sequence's blocks that lie wholly in positions [first, first + count) in place, bit for
 * bit, for a sequence that pauses: they keep their names and all who share them; their bytes stand in
 * the same pool, under the same budget.  They are read back by what next uses their rows
 * (anykv_step_begin, anykv_seq_gather, anykv_seq_table, anykv_seq_evict_tokens), which then waits for the
 * device, makes room as for new blocks, and fails as for those, or with E_DATA where bytes were damaged:
 * the block's name is withdrawn and a sequence that holds it cannot go on.  anykv_seq_match,
 * anykv_seq_fork and the rest read nothing back.  info_out may be NULL; set size first; it is written on
 * failure too, as blocks before the one that failed stay compressed.  BX16 takes blocks of BF16 rows.
 * Waits for the device.
 * E_STATE: in a step, the cache was made without ANYKV_CACHE_COMPRESS, or a part only of a sequence from
 * which tokens were evicted; E_ARG: no such method; E_UNSUPPORTED: it is not done in place, or no block
 * of the layout is of a kind that it takes; E_MEMORY; E_DEVICE. */
ANYKV_API anykv_status anykv_seq_compress(anykv_seq *seq, anykv_compression method, uint64_t first,
                                          uint64_t count, anykv_compress_info *info_out);

/* Block tables for a caller's own kernels.  entries: u32 (kind, index; docs/format.md) of a layer
 * group's blocks.  count_in_out: capacity, then the number; E_SHAPE: too small, the need is written. */
ANYKV_API anykv_status anykv_seq_table(const anykv_seq *seq, uint32_t layer, uint32_t *entries,
                                       uint64_t *count_in_out, uint64_t *first_position_out);
/* Rows [first, first + count) of a layer, decoded; side 0 keys, 1 values.  Host views only. */
ANYKV_API anykv_status anykv_seq_gather(const anykv_seq *seq, uint32_t layer, int side, uint64_t first,
                                        uint64_t count, const anykv_view *rows);
/* One block as stored: the bytes of the block that holds `position` in the layer's group, as they stand
 * in the pool.  bytes_in_out: capacity, then the size; kind_out: 0 hot, 1 packed. */
ANYKV_API anykv_status anykv_seq_gather_packed(const anykv_seq *seq, uint32_t layer, uint64_t position,
                                               void *packed, uint64_t *bytes_in_out, uint32_t *kind_out);

/* ------------------------------------------------------------------------------------------------ */
/* Steps: one forward pass over a ragged batch, a transaction.  Thread: object (step). */

typedef struct anykv_step anykv_step;

/* Reserves every block that counts[i] new tokens of seqs[i] can need, for all layers.  counts[i] may
 * be 0.  Compressed blocks of the sequences are read back first, which waits.  E_BUDGET: not enough,
 * with the bytes needed in the detail, nothing changed; E_DATA: a compressed block is damaged; E_BUSY: a sequence
 * is in another step, or four steps of the cache are open; E_SHAPE: beyond max_sequences,
 * max_step_tokens or max_seq_tokens. */
ANYKV_API anykv_status anykv_step_begin(anykv_cache *cache, anykv_seq *const *seqs,
                                        const uint32_t *counts, uint32_t n, anykv_step **step_out);
/* Appends the step's new keys and values of one layer to its sequences.
 * k, v: [tokens of the step][kv_heads][k_dim or v_dim], one sequence after the other.  A layer that
 * reads another layer's rows is not appended (E_STATE); nor is a layer twice. */
ANYKV_API anykv_status anykv_step_append(anykv_step *step, uint32_t layer, const anykv_view *k,
                                         const anykv_view *v);

#define ANYKV_ATTEND_BIDIRECTIONAL 1u /* new tokens see all new tokens of their sequence */
#define ANYKV_WINDOW_NONE 0xFFFFFFFFu

typedef struct anykv_attend_params {
    size_t size;
    uint32_t flags;      /* ANYKV_ATTEND_* */
    float scale;         /* of q·k; 0: 1/sqrt(k_dim) */
    float cap;           /* soft cap: cap*tanh(score/cap); 0: none */
    uint32_t window;     /* 0: the layer's; ANYKV_WINDOW_NONE: none.  Blocks that fell behind the
                          * layer's own window are gone all the same */
    const float *sinks;  /* one logit for each q head, host memory; NULL: none */
    /* Additive bias among the step's own tokens, f32: element (i, j) belongs to new tokens i (of the
     * step) and j (of i's sequence), stride mask_stride floats; -INFINITY forbids.  Replaces the causal
     * rule among new tokens.  Host memory.  NULL: none. */
    const float *mask;
    uint64_t mask_stride;
    float *lse;          /* receives [tokens][q_heads] log-sum-exp, host memory; NULL: no */
} anykv_attend_params;
#define ANYKV_ATTEND_PARAMS_INIT                                                                   \
    {                                                                                              \
        sizeof(anykv_attend_params), 0, 0.0f, 0.0f, 0, NULL, NULL, 0, NULL                         \
    }

/* Attention of the step's tokens over their sequences, the step's own rows included (append first).
 * q: [tokens of the step][q_heads][k_dim]; out: [tokens of the step][q_heads][v_dim].  params NULL:
 * plain causal attention. */
ANYKV_API anykv_status anykv_step_attend(anykv_step *step, uint32_t layer, const anykv_view *q,
                                         const anykv_attend_params *params, const anykv_view *out);
/* A number that names the launches of the step's appends and attends: those of two steps of a cache with the
 * same number, given the same views (in device memory) and params, are the same to the byte.  So a CUDA graph
 * that captured the calls of one step does the work of another, whose begin has filled the descriptor that the
 * kernels read.  It changes with the number of sequences, the most tokens of one, the cache's memory and the
 * kinds of blocks that the step reads.  0: the step is not open. */
ANYKV_API uint64_t anykv_step_recording(const anykv_step *step);
/* Says that a graph captured from a step of this number was launched, on the device's stream, instead of all
 * appends and attends of this one.  E_STATE: the step's number is another, or a layer was appended already:
 * nothing changed. */
ANYKV_API anykv_status anykv_step_replayed(anykv_step *step, uint64_t recording);
/* Ends the step and frees it.  accepted[i] <= counts[i] tokens of sequence i stay (NULL: all).  tokens:
 * ids of all tokens of the step (NULL: given later by anykv_seq_name).  Whole blocks that have left the
 * recent window are sealed.  E_STATE: a layer was not appended; E_ARG: accepted too large: the step
 * stays open.  E_DEVICE: its sequences are dead and the step is gone. */
ANYKV_API anykv_status anykv_step_end(anykv_step *step, const uint32_t *accepted, const uint32_t *tokens);
/* Adds the step's rows of one layer to moments of the same layers, at their sequences' positions: what a
 * running engine does for some steps to make a calibration.  Views as of append and attend, each may be
 * NULL.  Allocates, and waits for device views.  E_DATA: a row is not finite; sequences before its own have
 * been added then.  Thread: object (step and moments). */
ANYKV_API anykv_status anykv_step_observe(anykv_step *step, uint32_t layer, const anykv_view *k,
                                          const anykv_view *v, const anykv_view *q,
                                          anykv_moments *moments);
/* Takes everything back and frees the step. */
ANYKV_API void anykv_step_cancel(anykv_step *step);

#ifdef __cplusplus
}
#endif
#endif
