/* SPDX-License-Identifier: Apache-2.0 */
/* Sparse compression: of each head the tokens, or the channels, that the caller scores highest.
 *
 * Everything is done by the host, so bytes do not depend on the device.  The body: for each head a list of
 * what is kept, a bit for each unit (token or channel) in words of 32; then head by head the kept elements,
 * rows for tokens, of each token the kept channels; zeros to 16 bytes.  In the header `escapes` is how many
 * units a head keeps, table[0] the axis, table[1] the sum of mix(word j, j) over the body. */
#include "sparse.h"
#include "kernel/bx16.h"
#include <stdlib.h>

/* What the numbers of a body are, from its shape. */
struct shape {
    uint32_t tokens, heads, dim, keep;
    bool channels;
    uint32_t each;  /* bytes of an element */
    uint32_t units, words; /* of a head; of its list */
    uint64_t bytes; /* header and body */
};

static anykv_status check_shape(anykv_context *context, uint32_t axis, uint32_t keep, uint32_t dtype, uint32_t tokens,
                                uint32_t heads, uint32_t dim, struct shape *shape)
{
    if (axis > ANYKV_AXIS_CHANNEL)
        return akv_fail(context, ANYKV_E_ARG, "sparse axis: %u is neither tokens nor channels", axis);
    if (dtype < ANYKV_F32 || dtype > ANYKV_BF16)
        return akv_fail(context, ANYKV_E_ARG, "sparse rows.dtype: %u is none of F32, F16, BF16", dtype);
    if (tokens == 0 || heads == 0 || dim == 0)
        return akv_fail(context, ANYKV_E_SHAPE, "sparse: %u tokens of %u heads of %u elements", tokens, heads, dim);
    if (heads > AKV_BX16_MAX / dim || tokens > AKV_BX16_MAX / (heads * dim))
        return akv_fail(context, ANYKV_E_SHAPE, "sparse: %u tokens of %u heads of %u elements are more than 2^30",
                        tokens, heads, dim);
    shape->tokens = tokens;
    shape->heads = heads;
    shape->dim = dim;
    shape->keep = keep;
    shape->channels = axis == ANYKV_AXIS_CHANNEL;
    shape->each = akv_raw_bytes(dtype);
    shape->units = shape->channels ? dim : tokens;
    shape->words = (shape->units + 31u) / 32u;
    if (keep == 0 || keep > shape->units)
        return akv_fail(context, ANYKV_E_ARG, "sparse keep: %u, not within 1 to %u", keep, shape->units);
    const uint64_t body = (uint64_t)heads * shape->words * 4u +
                          (uint64_t)heads * keep * (shape->channels ? tokens : dim) * shape->each;
    shape->bytes = ANYKV_COMPRESS_HEADER + (body + 15u) / 16u * 16u;
    return ANYKV_OK;
}

anykv_status anykv_sparse_bytes(anykv_axis axis, uint32_t keep, anykv_dtype dtype, uint32_t tokens, uint32_t heads,
                                uint32_t head_dim, uint64_t *bytes_out)
{
    struct shape shape;
    if (!bytes_out)
        return akv_fail(NULL, ANYKV_E_ARG, "bytes_out: NULL");
    anykv_status status = check_shape(NULL, (uint32_t)axis, keep, (uint32_t)dtype, tokens, heads, head_dim, &shape);
    if (!status)
        *bytes_out = shape.bytes;
    return status;
}

static uint32_t body_check(const uint8_t *packed, uint64_t bytes)
{
    uint32_t sum = 0;
    for (uint64_t j = 0; j < (bytes - ANYKV_COMPRESS_HEADER) / 4u; j++) {
        uint32_t word;
        memcpy(&word, packed + ANYKV_COMPRESS_HEADER + 4u * j, 4);
        sum += akv_bx16_mix(word, (uint32_t)j);
    }
    return sum;
}

/* ---- lists ---- */

static bool listed(const uint8_t *list, uint32_t unit)
{
    return ((uint32_t)list[unit / 8u] >> (unit & 7u) & 1u) != 0;
}

static uint8_t *list_of(const struct shape *shape, const uint8_t *packed, uint32_t head)
{
    return (uint8_t *)(uintptr_t)packed + ANYKV_COMPRESS_HEADER + (uint64_t)head * shape->words * 4u;
}

struct candidate {
    float score;
    uint32_t unit;
};

/* The larger score, then the earlier; what is no number comes last. */
static int before(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    const bool nx = x->score != x->score, ny = y->score != y->score;
    if (nx != ny)
        return nx ? 1 : -1;
    if (!nx && x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->unit < y->unit ? -1 : 1;
}

static void choose(const struct shape *shape, const float *scores, struct candidate *all, uint8_t *packed)
{
    for (uint32_t h = 0; h < shape->heads; h++) {
        uint8_t *list = list_of(shape, packed, h);
        for (uint32_t u = 0; u < shape->units; u++)
            all[u] = (struct candidate){scores[(size_t)h * shape->units + u], u};
        qsort(all, shape->units, sizeof *all, before);
        for (uint32_t u = 0; u < shape->keep; u++)
            list[all[u].unit / 8u] |= (uint8_t)(1u << (all[u].unit & 7u));
    }
}

/* ---- rows ---- */

/* Host rows: the caller's, or a dense copy of device memory. */
struct rows {
    uint8_t *data;
    uint64_t token_stride, head_stride; /* bytes */
    void *copy;
    struct akv_span span;
};

static anykv_status get_rows(anykv_device *device, const anykv_view *view, const struct shape *shape, bool write,
                             struct rows *rows)
{
    memset(rows, 0, sizeof *rows);
    anykv_status status = akv_view_check(device, "sparse rows", view, shape->tokens, shape->heads, shape->dim, write,
                                         &rows->span);
    if (status)
        return status;
    rows->data = view->data;
    rows->token_stride = view->token_stride * shape->each;
    rows->head_stride = view->head_stride * shape->each;
    if (!view->mem)
        return ANYKV_OK;
    if (!akv_view_dense(view, shape->heads, shape->dim))
        return akv_fail(device->context, ANYKV_E_SHAPE, "sparse rows: strides %llu and %llu in device memory, dense "
                                                        "rows are needed there",
                        (unsigned long long)view->token_stride, (unsigned long long)view->head_stride);
    rows->copy = akv_alloc(device->context, (size_t)rows->span.bytes, 1);
    if (!rows->copy)
        return ANYKV_E_MEMORY;
    rows->data = rows->copy;
    if (write)
        return ANYKV_OK;
    status = akv_queue_get(device->queue, rows->copy, rows->span);
    const anykv_status finished = akv_device_finish(device);
    return status ? status : finished;
}

static anykv_status put_rows(anykv_device *device, struct rows *rows)
{
    if (!rows->copy)
        return ANYKV_OK;
    const anykv_status status = akv_queue_put(device->queue, rows->span, rows->copy);
    const anykv_status finished = akv_device_finish(device);
    return status ? status : finished;
}

/* Between rows and the kept elements, in their order; what is not kept is zeroed on the way back. */
static void move(const struct shape *shape, const struct rows *rows, uint8_t *packed, bool pack)
{
    uint8_t *at = list_of(shape, packed, shape->heads);
    const size_t row = (size_t)shape->dim * shape->each, each = shape->each;
    for (uint32_t h = 0; h < shape->heads; h++) {
        const uint8_t *list = list_of(shape, packed, h);
        for (uint32_t t = 0; t < shape->tokens; t++) {
            uint8_t *from = rows->data + t * rows->token_stride + h * rows->head_stride;
            if (!pack)
                memset(from, 0, row);
            if (!shape->channels && listed(list, t)) {
                memcpy(pack ? at : from, pack ? from : at, row);
                at += row;
            }
            for (uint32_t i = 0; shape->channels && i < shape->dim; i++)
                if (listed(list, i)) {
                    memcpy(pack ? at : from + i * each, pack ? from + i * each : at, each);
                    at += each;
                }
        }
    }
}

/* ---- there ---- */

static anykv_status pack(anykv_device *device, const struct shape *shape, const float *scores, const anykv_view *view,
                         uint32_t axis, uint8_t *packed)
{
    struct rows rows;
    struct candidate *all = akv_alloc(device->context, shape->units, sizeof *all);
    anykv_status status = all ? ANYKV_OK : ANYKV_E_MEMORY;
    rows.copy = NULL;
    if (!status)
        status = get_rows(device, view, shape, false, &rows);
    if (!status) {
        struct akv_compress_header header = {{'A', 'K', 'V', 'C'}, ANYKV_COMPRESS_SPARSE, (uint32_t)view->dtype,
                                             shape->tokens, shape->heads, shape->dim, shape->keep, 0,
                                             shape->bytes, {axis, 0, 0, 0}, 0};
        memset(packed, 0, (size_t)shape->bytes);
        choose(shape, scores, all, packed);
        move(shape, &rows, packed, true);
        header.table[1] = body_check(packed, shape->bytes);
        header.check = akv_compress_check(&header);
        memcpy(packed, &header, sizeof header);
    }
    akv_free(device->context, rows.copy);
    akv_free(device->context, all);
    return status;
}

anykv_status anykv_sparse_compress(anykv_device *device, anykv_axis axis, uint32_t keep, const float *scores,
                                   const anykv_view *rows, uint32_t tokens, uint32_t heads, uint32_t head_dim,
                                   void *packed, uint64_t capacity, uint64_t *bytes_out)
{
    struct shape shape;
    if (!device || !scores || !rows || !packed || !bytes_out)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device   ? "device"
                        : !scores ? "scores"
                        : !rows   ? "rows"
                        : !packed ? "packed"
                                  : "bytes_out");
    anykv_context *context = device->context;
    anykv_status status =
        check_shape(context, (uint32_t)axis, keep, (uint32_t)rows->dtype, tokens, heads, head_dim, &shape);
    if (status)
        return status;
    const uint64_t plain = (uint64_t)tokens * heads * head_dim * shape.each;
    if (shape.bytes > plain)
        return akv_fail(context, ANYKV_E_UNSUPPORTED, "sparse: %u of %u kept take %llu bytes, the rows have %llu", keep,
                        shape.units, (unsigned long long)shape.bytes, (unsigned long long)plain);
    if (shape.bytes > capacity)
        return akv_fail(context, ANYKV_E_SHAPE, "sparse capacity: %llu, %llu bytes are needed",
                        (unsigned long long)capacity, (unsigned long long)shape.bytes);
    status = pack(device, &shape, scores, rows, (uint32_t)axis, packed);
    if (!status)
        *bytes_out = shape.bytes;
    return status;
}

/* ---- and back ---- */

anykv_status akv_sparse_check(anykv_context *context, const struct akv_compress_header *header, uint64_t bytes)
{
    struct shape shape;
    if (header->zero || header->table[2] || header->table[3] ||
        check_shape(context, header->table[0], header->escapes, header->dtype, header->tokens, header->heads,
                    header->dim, &shape) != ANYKV_OK)
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: sparse, axis %u, %u kept of %u tokens, %u heads, %u "
                                               "elements of dtype %u is unknown",
                        header->table[0], header->escapes, header->tokens, header->heads, header->dim, header->dtype);
    if (header->bytes != bytes || shape.bytes != bytes)
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: %llu bytes, the header says %llu, %u kept take %llu",
                        (unsigned long long)bytes, (unsigned long long)header->bytes, header->escapes,
                        (unsigned long long)shape.bytes);
    return ANYKV_OK;
}

/* The body: its sum, and lists that name as many units as they must. */
static anykv_status check_body(anykv_context *context, const struct akv_compress_header *header,
                               const uint8_t *packed, uint64_t bytes, struct shape *shape)
{
    anykv_status status = check_shape(context, header->table[0], header->escapes, header->dtype, header->tokens,
                                      header->heads, header->dim, shape);
    if (!status && body_check(packed, bytes) != header->table[1])
        status = akv_fail(context, ANYKV_E_DATA, "compressed rows: the body is damaged");
    for (uint32_t h = 0; h < header->heads && !status; h++) {
        uint32_t count = 0, beyond = 0;
        for (uint32_t u = 0; u < shape->words * 32u; u++)
            *(u < shape->units ? &count : &beyond) += listed(list_of(shape, packed, h), u);
        if (count != shape->keep || beyond)
            status = akv_fail(context, ANYKV_E_DATA, "compressed rows: the list of head %u is damaged", h);
    }
    return status;
}

anykv_status anykv_sparse_kept(const void *packed, uint64_t bytes, uint32_t head, uint8_t *kept_out)
{
    struct akv_compress_header header;
    struct shape shape;
    if (!packed || !kept_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", packed ? "kept_out" : "packed");
    anykv_status status = akv_compress_header_read(NULL, packed, bytes, &header);
    if (!status && header.method != ANYKV_COMPRESS_SPARSE)
        status = akv_fail(NULL, ANYKV_E_DATA, "compressed rows: method %u keeps everything", header.method);
    if (!status)
        status = akv_sparse_check(NULL, &header, bytes);
    if (!status && head >= header.heads)
        status = akv_fail(NULL, ANYKV_E_SHAPE, "head: %u, the data has %u", head, header.heads);
    if (!status)
        status = check_body(NULL, &header, packed, bytes, &shape);
    for (uint32_t u = 0; !status && u < shape.units; u++)
        kept_out[u] = listed(list_of(&shape, packed, head), u);
    return status;
}

anykv_status akv_sparse_decompress(anykv_device *device, const struct akv_compress_header *header, const void *packed,
                                   uint64_t bytes, const anykv_view *view)
{
    struct shape shape;
    struct rows rows;
    anykv_status status = check_body(device->context, header, packed, bytes, &shape);
    rows.copy = NULL;
    if (!status)
        status = get_rows(device, view, &shape, true, &rows);
    if (!status) {
        move(&shape, &rows, (uint8_t *)(uintptr_t)packed, false);
        status = put_rows(device, &rows);
    }
    akv_free(device->context, rows.copy);
    return status;
}
