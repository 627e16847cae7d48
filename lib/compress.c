/* SPDX-License-Identifier: Apache-2.0 */
/* Compression of rows: a header of 64 bytes, then the body that the kernels of the method make. */
#include "compress.h"
#include "kernel/bx16.h"
#include "lowrank.h"
#include "sparse.h"
#include "objects.h"

uint32_t akv_compress_check(const struct akv_compress_header *header)
{
    uint32_t word[ANYKV_COMPRESS_HEADER / 4], sum = 0;
    memcpy(word, header, sizeof word);
    for (uint32_t j = 0; j < sizeof word / sizeof word[0]; j++)
        sum += j == offsetof(struct akv_compress_header, check) / 4 ? 0 : akv_bx16_mix(word[j], j);
    return sum;
}

anykv_status akv_compress_header_read(anykv_context *context, const void *packed, uint64_t bytes,
                                      struct akv_compress_header *header)
{
    if (bytes < sizeof *header)
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: %llu bytes, the header has %u",
                        (unsigned long long)bytes, ANYKV_COMPRESS_HEADER);
    memcpy(header, packed, sizeof *header);
    if (memcmp(header->magic, "AKVC", 4) != 0)
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: they do not begin with AKVC");
    if (header->check != akv_compress_check(header))
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: the header is damaged");
    return ANYKV_OK;
}

static anykv_status check_shape(anykv_context *context, anykv_compression method, anykv_dtype dtype,
                                uint32_t tokens, uint32_t heads, uint32_t dim, uint32_t *elements_out)
{
    if (method == ANYKV_COMPRESS_LOWRANK)
        return akv_fail(context, ANYKV_E_ARG, "compress method: low rank takes a calibration, anykv_lowrank_compress "
                                              "has it");
    if (method == ANYKV_COMPRESS_SPARSE)
        return akv_fail(context, ANYKV_E_ARG, "compress method: sparse takes scores, anykv_sparse_compress has them");
    if (method == ANYKV_COMPRESS_RANS)
        return akv_fail(context, ANYKV_E_UNSUPPORTED,
                        "compress method: rANS takes packed rows, anykv_compress_packed has them");
    if (method != ANYKV_COMPRESS_BX16)
        return akv_fail(context, ANYKV_E_ARG, "compress method: %d is not a method", (int)method);
    if (dtype != ANYKV_BF16)
        return akv_fail(context, ANYKV_E_UNSUPPORTED, "compress rows.dtype: %d, BX16 takes BF16 only", (int)dtype);
    if (tokens == 0 || heads == 0 || dim == 0)
        return akv_fail(context, ANYKV_E_SHAPE, "compress: %u tokens of %u heads of %u elements", tokens, heads,
                        dim);
    if (heads > AKV_BX16_MAX / dim || tokens > AKV_BX16_MAX / (heads * dim))
        return akv_fail(context, ANYKV_E_SHAPE,
                        "compress: %u tokens of %u heads of %u elements are more than 2^30 elements", tokens,
                        heads, dim);
    *elements_out = tokens * heads * dim;
    return ANYKV_OK;
}

/* ---- what a call stages ---- */

struct job {
    anykv_device *device;
    const anykv_view *view;
    uint32_t tokens, heads, dim;
    akv_bx16_params params;
    struct akv_span rows, body, words; /* words: counts, or the word that says damaged */
    struct akv_mem *mem[3];
    void *host;     /* dense rows of a view that is not */
    bool body_away; /* the body is in mem[1] */
};

static bool in_place(const struct job *job)
{
    return job->device->device->host_window != NULL;
}

static anykv_status job_mem(struct job *job, uint32_t which, uint64_t bytes, struct akv_span *span_out)
{
    anykv_status status = akv_mem_alloc(job->device->device, bytes, AKV_MEM_DEVICE, &job->mem[which]);
    if (!status)
        *span_out = (struct akv_span){job->mem[which], 0, bytes};
    return status;
}

static void job_free(struct job *job)
{
    for (uint32_t i = 0; i < 3; i++)
        akv_mem_free(job->mem[i]);
    akv_free(job->device->context, job->host);
}

/* Host address of the dense rows, NULL where they are in device memory. */
static void *dense_rows(const struct job *job)
{
    return job->host ? job->host : job->view->data;
}

/* rows: where kernels find or leave dense rows. */
static anykv_status job_rows(struct job *job, bool write)
{
    const uint64_t bytes = (uint64_t)job->params.elements * 2u;
    anykv_context *context = job->device->context;
    anykv_status status = akv_view_check(job->device, "compress rows", job->view, job->tokens, job->heads, job->dim,
                                         write, &job->rows);
    if (status)
        return status;
    const bool dense = akv_view_dense(job->view, job->heads, job->dim);
    if (job->view->mem)
        return dense ? ANYKV_OK
                     : akv_fail(context, ANYKV_E_SHAPE, "compress rows: strides %llu and %llu in device memory, "
                                                        "dense rows are needed there",
                                (unsigned long long)job->view->token_stride,
                                (unsigned long long)job->view->head_stride);
    if (!dense) {
        job->host = akv_alloc(context, (size_t)bytes, 1);
        if (!job->host)
            return ANYKV_E_MEMORY;
        if (!write)
            akv_view_pack(job->view, job->tokens, job->heads, job->dim, job->host);
    }
    if (in_place(job))
        job->rows = akv_host_span(job->device->device, dense_rows(job), bytes);
    else
        status = job_mem(job, 0, bytes, &job->rows);
    if (!status && !write && !in_place(job))
        status = akv_queue_put(job->device->queue, job->rows, dense_rows(job));
    return status;
}

static anykv_status job_body(struct job *job, const uint8_t *body)
{
    const uint64_t bytes = akv_bx16_bytes(job->params.elements, job->params.escapes);
    job->body_away = !in_place(job) || (uintptr_t)body % 16;
    if (job->body_away)
        return job_mem(job, 1, bytes, &job->body);
    job->body = akv_host_span(job->device->device, body, bytes);
    return ANYKV_OK;
}

/* Zeroed words, and the launch's result in them when it has finished. */
static anykv_status job_run(struct job *job, const struct akv_launch *launch, uint32_t *words)
{
    struct akv_queue *queue = job->device->queue;
    anykv_status status = job->words.mem ? akv_queue_fill(queue, job->words, 0) : ANYKV_OK;
    if (!status)
        status = akv_kernel_launch(queue, launch);
    if (!status && job->words.mem)
        status = akv_queue_get(queue, words, job->words);
    return status;
}

/* ---- compress ---- */

anykv_status anykv_compress_bound(anykv_compression method, anykv_dtype dtype, uint32_t tokens,
                                  uint32_t heads, uint32_t head_dim, uint64_t *bytes_out)
{
    uint32_t elements;
    if (!bytes_out)
        return akv_fail(NULL, ANYKV_E_ARG, "bytes_out: NULL");
    anykv_status status = check_shape(NULL, method, dtype, tokens, heads, head_dim, &elements);
    if (!status)
        *bytes_out = (uint64_t)elements * 2u;
    return status;
}

/* How often each exponent occurs, in place of `params`' table and number of escapes. */
static anykv_status count(struct job *job)
{
    uint32_t counts[256];
    anykv_status status = job_mem(job, 2, sizeof counts, &job->words);
    if (status)
        return status;
    struct akv_launch launch = {.kernel = AKV_K_BX16_COUNT, .params = &job->params};
    launch.arg[0] = job->rows;
    launch.arg[1] = job->words;
    status = job_run(job, &launch, counts);
    anykv_status finished = akv_device_finish(job->device);
    if (status || finished)
        return status ? status : finished;
    job->params.escapes = akv_bx16_choose(counts, job->params.table);
    return ANYKV_OK;
}

static anykv_status encode(struct job *job, uint8_t *packed, uint64_t bytes)
{
    anykv_status status = job_body(job, packed + ANYKV_COMPRESS_HEADER);
    if (status)
        return status;
    struct akv_launch launch = {.kernel = AKV_K_BX16_ENCODE, .params = &job->params};
    launch.arg[0] = job->rows;
    launch.arg[1] = job->body;
    status = akv_kernel_launch(job->device->queue, &launch);
    if (!status && job->body_away)
        status = akv_queue_get(job->device->queue, packed + ANYKV_COMPRESS_HEADER, job->body);
    anykv_status finished = akv_device_finish(job->device);
    if (status || finished)
        return status ? status : finished;
    struct akv_compress_header header = {{'A', 'K', 'V', 'C'}, ANYKV_COMPRESS_BX16, ANYKV_BF16, job->tokens, job->heads,
                            job->dim, job->params.escapes, 0, bytes, {0}, 0};
    memcpy(header.table, job->params.table, sizeof header.table);
    header.check = akv_compress_check(&header);
    memcpy(packed, &header, sizeof header);
    return ANYKV_OK;
}

anykv_status anykv_compress(anykv_device *device, anykv_compression method, const anykv_view *rows,
                            uint32_t tokens, uint32_t heads, uint32_t head_dim, void *packed,
                            uint64_t capacity, uint64_t *bytes_out)
{
    if (!device || !rows || !packed || !bytes_out)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device   ? "device"
                        : !rows   ? "rows"
                        : !packed ? "packed"
                                  : "bytes_out");
    struct job job = {.device = device, .view = rows, .tokens = tokens, .heads = heads, .dim = head_dim};
    anykv_status status =
        check_shape(device->context, method, rows->dtype, tokens, heads, head_dim, &job.params.elements);
    if (!status)
        status = job_rows(&job, false);
    if (!status)
        status = count(&job);
    const uint64_t plain = (uint64_t)job.params.elements * 2u;
    uint64_t bytes = status ? 0 : ANYKV_COMPRESS_HEADER + akv_bx16_bytes(job.params.elements, job.params.escapes);
    if (bytes > plain)
        status = akv_fail(device->context, ANYKV_E_UNSUPPORTED,
                          "compress: BX16 takes %llu bytes (%u escapes), the rows have %llu",
                          (unsigned long long)bytes, job.params.escapes, (unsigned long long)plain);
    else if (bytes > capacity)
        status = akv_fail(device->context, ANYKV_E_SHAPE, "compress capacity: %llu, %llu bytes are needed",
                          (unsigned long long)capacity, (unsigned long long)bytes);
    if (!status)
        status = encode(&job, packed, bytes);
    if (!status)
        *bytes_out = bytes;
    job_free(&job);
    return status;
}

/* ---- decompress ---- */

static anykv_status read_header(anykv_context *context, const void *packed, uint64_t bytes,
                                struct akv_compress_header *header)
{
    uint32_t elements;
    anykv_status status = akv_compress_header_read(context, packed, bytes, header);
    if (status)
        return status;
    if (header->method == ANYKV_COMPRESS_SPARSE)
        return akv_sparse_check(context, header, bytes);
    if (header->method == ANYKV_COMPRESS_RANS)
        return akv_packed_check(context, header, bytes);
    if (header->method == ANYKV_COMPRESS_LOWRANK)
        return akv_lowrank_check(context, header, bytes);
    if (header->method > INT32_MAX || header->dtype > INT32_MAX || header->zero != 0 ||
        check_shape(context, (anykv_compression)header->method, (anykv_dtype)header->dtype, header->tokens,
                    header->heads, header->dim, &elements) != ANYKV_OK)
        return akv_fail(context, ANYKV_E_DATA,
                        "compressed rows: method %u of %u tokens, %u heads, %u elements of dtype %u is unknown",
                        header->method, header->tokens, header->heads, header->dim, header->dtype);
    const akv_bx16_params params = {elements, header->escapes,
                                    {header->table[0], header->table[1], header->table[2], header->table[3]}};
    for (uint32_t i = 1; i < 16; i++)
        if (akv_bx16_entry(&params, i - 1) >= akv_bx16_entry(&params, i))
            return akv_fail(context, ANYKV_E_DATA, "compressed rows: entry %u of the table is not above the one before",
                            i);
    if (header->escapes > elements || header->bytes != bytes ||
        bytes != ANYKV_COMPRESS_HEADER + akv_bx16_bytes(elements, header->escapes))
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: %llu bytes, the header says %llu with %u escapes",
                        (unsigned long long)bytes, (unsigned long long)header->bytes, header->escapes);
    return ANYKV_OK;
}

anykv_status anykv_compressed_shape(const void *packed, uint64_t bytes, anykv_compression *method_out,
                                    anykv_dtype *dtype_out, uint32_t *tokens_out, uint32_t *heads_out,
                                    uint32_t *head_dim_out)
{
    struct akv_compress_header header;
    if (!packed || !method_out || !dtype_out || !tokens_out || !heads_out || !head_dim_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", packed ? "an output" : "packed");
    anykv_status status = read_header(NULL, packed, bytes, &header);
    if (status)
        return status;
    *method_out = (anykv_compression)header.method;
    *dtype_out = (anykv_dtype)header.dtype;
    *tokens_out = header.tokens;
    *heads_out = header.heads;
    *head_dim_out = header.dim;
    return ANYKV_OK;
}

static anykv_status decode(struct job *job, const uint8_t *body)
{
    uint32_t damaged = 0;
    struct akv_queue *queue = job->device->queue;
    anykv_status status = job_rows(job, true);
    if (!status)
        status = job_body(job, body);
    if (!status)
        status = job_mem(job, 2, sizeof damaged, &job->words);
    if (!status && job->body_away)
        status = akv_queue_put(queue, job->body, body);
    struct akv_launch launch = {.kernel = AKV_K_BX16_DECODE, .params = &job->params};
    launch.arg[0] = job->body;
    launch.arg[1] = job->rows;
    launch.arg[2] = job->words;
    if (!status)
        status = job_run(job, &launch, &damaged);
    if (!status && !job->view->mem && !in_place(job))
        status = akv_queue_get(queue, dense_rows(job), job->rows);
    anykv_status finished = akv_device_finish(job->device);
    if (status || finished)
        return status ? status : finished;
    if (damaged)
        return akv_fail(job->device->context, ANYKV_E_DATA, "compressed rows: a piece is damaged");
    if (job->host)
        akv_view_unpack(job->view, job->tokens, job->heads, job->dim, job->host);
    return ANYKV_OK;
}

anykv_status anykv_decompress(anykv_device *device, const void *packed, uint64_t bytes,
                              const anykv_view *rows, uint32_t tokens, uint32_t heads, uint32_t head_dim)
{
    struct akv_compress_header header;
    if (!device || !packed || !rows)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device   ? "device"
                        : !packed ? "packed"
                                  : "rows");
    anykv_status status = read_header(device->context, packed, bytes, &header);
    if (status)
        return status;
    if (tokens != header.tokens || heads != header.heads || head_dim != header.dim ||
        (uint32_t)rows->dtype != header.dtype)
        return akv_fail(device->context, ANYKV_E_SHAPE,
                        "decompress: %u tokens of %u heads of %u elements of dtype %d, the data has %u of %u of %u of %u",
                        tokens, heads, head_dim, (int)rows->dtype, header.tokens, header.heads, header.dim,
                        header.dtype);
    if (header.method == ANYKV_COMPRESS_LOWRANK)
        return akv_fail(device->context, ANYKV_E_ARG,
                        "decompress: low rank takes a calibration, anykv_lowrank_decompress has it");
    if (header.method == ANYKV_COMPRESS_SPARSE)
        return akv_sparse_decompress(device, &header, packed, bytes, rows);
    struct job job = {.device = device, .view = rows, .tokens = tokens, .heads = heads, .dim = head_dim};
    job.params.elements = tokens * heads * head_dim;
    job.params.escapes = header.escapes;
    memcpy(job.params.table, header.table, sizeof header.table);
    status = decode(&job, (const uint8_t *)packed + ANYKV_COMPRESS_HEADER);
    job_free(&job);
    return status;
}
