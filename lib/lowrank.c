/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank compression: coefficients of rows in a calibration's bases, quantised with one step and entropy
 * coded, so that a component has the bits that its spread needs, and hardly any where it has less than a step.
 *
 * Projection and reconstruction are done by the host, the codes' entropy coding by the device.  The body:
 * digest of the calibration (32 bytes); u8 shift of each head's components, zeros to 16 bytes; the codes, a
 * matrix of int8 [tokens][heads*dim, zeros to 32], as a stream of rans.h.  In the header `escapes` is the
 * step's bits, table[0] the layer and in bit 31 the side, table[1] the position of the first token, table[2]
 * the sum of mix(word j, j) over digest and shifts. */
#include "lowrank.h"
#include "calibration.h"
#include "dense.h"
#include "kernel/lowrank.h"
#include "rans.h"
#include <float.h>

#define ROWS 256u /* that are expanded at a time */
#define MOST_DIM 576u /* head size that a calibration can have */

/* One call's rows, whichever way they go. */
struct work {
    anykv_device *device;
    const struct akv_calibration_layer *layer;
    const struct akv_calibration_side *side;
    uint32_t tokens, heads, dim, columns, position;
    float step;
    akv_rans_params shape;
    uint64_t head_bytes; /* header, digest, shifts */
    struct akv_span span; /* rows in device memory, and their copy */
    uint8_t *copy;
    const anykv_view *view;
    int8_t *codes; /* [tokens][columns] */
    float *y;      /* [tokens][dim] of a head */
    float *x;      /* [ROWS][dim] */
};

/* ---- checks ---- */

static anykv_status check_shape(anykv_context *context, uint32_t dtype, uint32_t tokens, uint32_t heads, uint32_t dim,
                                float step, struct work *work)
{
    if (dtype < ANYKV_F32 || dtype > ANYKV_BF16)
        return akv_fail(context, ANYKV_E_ARG, "lowrank rows.dtype: %u is none of F32, F16, BF16", dtype);
    if (tokens == 0 || heads == 0 || dim == 0)
        return akv_fail(context, ANYKV_E_SHAPE, "lowrank: %u tokens of %u heads of %u elements", tokens, heads, dim);
    if (!(step >= 0x1p-20f && step <= 0x1p20f))
        return akv_fail(context, ANYKV_E_ARG, "lowrank step: %g, not within 2^-20 to 2^20", (double)step);
    const uint64_t columns = ((uint64_t)heads * dim + 31u) & ~31ull;
    if (columns > 1u << 20 || !akv_rans_matrix(&work->shape, tokens, (uint32_t)columns, true))
        return akv_fail(context, ANYKV_E_SHAPE, "lowrank: %u tokens of %u heads of %u elements are more than 2^30",
                        tokens, heads, dim);
    work->tokens = tokens;
    work->heads = heads;
    work->dim = dim;
    work->columns = (uint32_t)columns;
    work->step = step;
    work->head_bytes = ANYKV_COMPRESS_HEADER + 32u + ((uint64_t)heads * dim + 15u) / 16u * 16u;
    return ANYKV_OK;
}

static anykv_status find_bases(anykv_context *context, const anykv_calibration *calibration, uint32_t number,
                               uint32_t side, struct work *work)
{
    if (!calibration->bases)
        return akv_fail(context, ANYKV_E_DATA, "lowrank calibration: it has no bases");
    work->layer = akv_calibration_find(calibration, number);
    if (!work->layer)
        return akv_fail(context, ANYKV_E_DATA, "lowrank layer: the calibration lacks %u", number);
    work->side = &work->layer->side[side];
    if (work->layer->kv_heads != work->heads || work->side->dim != work->dim)
        return akv_fail(context, ANYKV_E_SHAPE, "lowrank: %u heads of %u elements, the calibration's layer %u has %u of %u",
                        work->heads, work->dim, number, work->layer->kv_heads, work->side->dim);
    return ANYKV_OK;
}

static uint32_t front_check(const uint8_t *packed, uint64_t head_bytes)
{
    uint32_t sum = 0;
    for (uint32_t j = 0; j < (head_bytes - ANYKV_COMPRESS_HEADER) / 4u; j++)
        sum += akv_bx16_mix(akv_load_u32(packed + ANYKV_COMPRESS_HEADER + 4u * j), j);
    return sum;
}

/* ---- rows ---- */

static anykv_status open_rows(struct work *work, const anykv_view *view, bool write)
{
    anykv_context *context = work->device->context;
    work->view = view;
    anykv_status status = akv_view_check(work->device, "lowrank rows", view, work->tokens, work->heads, work->dim, write,
                                         &work->span);
    if (!status && view->mem && !akv_view_dense(view, work->heads, work->dim))
        status = akv_fail(context, ANYKV_E_SHAPE, "lowrank rows: strides %llu and %llu in device memory, dense rows "
                                                  "are needed there",
                          (unsigned long long)view->token_stride, (unsigned long long)view->head_stride);
    if (status)
        return status;
    work->codes = akv_alloc(context, (size_t)work->tokens * work->columns, 1);
    work->y = akv_alloc(context, (size_t)work->tokens * work->dim, sizeof *work->y);
    work->x = akv_alloc(context, (size_t)ROWS * work->dim, sizeof *work->x);
    if (view->mem)
        work->copy = akv_alloc(context, (size_t)work->span.bytes, 1);
    if (!work->codes || !work->y || !work->x || (view->mem && !work->copy))
        return ANYKV_E_MEMORY;
    if (!view->mem || write)
        return ANYKV_OK;
    status = akv_queue_get(work->device->queue, work->copy, work->span);
    const anykv_status finished = akv_device_finish(work->device);
    return status ? status : finished;
}

static void close_rows(struct work *work)
{
    akv_free(work->device->context, work->codes);
    akv_free(work->device->context, work->y);
    akv_free(work->device->context, work->x);
    akv_free(work->device->context, work->copy);
}

static uint8_t *row_at(const struct work *work, uint32_t t, uint32_t h)
{
    uint8_t *base = work->copy ? work->copy : work->view->data;
    return base + (t * work->view->token_stride + h * work->view->head_stride) * akv_raw_bytes((akv_u32)work->view->dtype);
}

/* Turns a row by its position, or back. */
static void turn(const struct work *work, uint32_t position, bool back, float *x)
{
    const uint32_t pairs = work->layer->rope_pairs;
    for (uint32_t i = 0; i < pairs; i++) {
        const bool half = work->layer->rope == ANYKV_ROPE_HALF;
        const uint32_t a = half ? i : 2 * i, b = half ? i + pairs : 2 * i + 1;
        akv_turn by = akv_rope_at(work->layer->turns[i], position);
        by.s = back ? -by.s : by.s;
        const float first = akv_rope_first(by, x[a], x[b]), second = akv_rope_second(by, x[a], x[b]);
        x[a] = first;
        x[b] = second;
    }
}

static float half_at(const uint16_t *halves, size_t index)
{
    return akv_as_f32(akv_f32_from_f16(halves[index]));
}

/* ---- there ---- */

/* Coefficients of all rows of a head; basis turned, so that a component is a lane. */
static void project(const struct work *work, uint32_t head, const float *basis)
{
    const uint32_t dim = work->dim;
    float *x = work->x;
    for (uint32_t t = 0; t < work->tokens; t++) {
        const uint8_t *row = row_at(work, t, head);
        float *y = work->y + (size_t)t * dim;
        for (uint32_t i = 0; i < dim; i++)
            x[i] = akv_as_f32(akv_sane(akv_load_bits(row, i, (akv_u32)work->view->dtype)));
        if (work->side->centre) {
            turn(work, work->position + t, true, x);
            for (uint32_t i = 0; i < dim; i++)
                x[i] = akv_as_f32(akv_sane(akv_as_u32(x[i] - half_at(work->side->centre, (size_t)head * dim + i))));
        }
        memset(y, 0, dim * sizeof *y);
        for (size_t i = 0; i < dim; i++)
            for (uint32_t j = 0; j < dim; j++)
                y[j] = AKV_FMA(basis[i * dim + j], x[i], y[j]);
    }
}

static void quantise(const struct work *work, uint32_t head, uint8_t *shifts)
{
    const uint32_t dim = work->dim;
    const float inverse = 1.0f / work->step;
    for (uint32_t j = 0; j < dim; j++) {
        float largest = 0.0f;
        for (uint32_t t = 0; t < work->tokens; t++)
            largest = AKV_MAX(largest, fabsf(work->y[(size_t)t * dim + j]));
        const uint32_t shift = akv_lowrank_shift(largest, inverse);
        shifts[(size_t)head * dim + j] = (uint8_t)shift;
        for (uint32_t t = 0; t < work->tokens; t++)
            work->codes[(size_t)t * work->columns + (size_t)head * dim + j] =
                (int8_t)AKV_RINT(akv_lowrank_scaled(work->y[(size_t)t * dim + j], inverse, shift));
    }
}

static anykv_status encode(struct work *work, uint8_t *shifts)
{
    const size_t dim = work->dim, square = dim * dim;
    float *basis = akv_alloc(work->device->context, square, sizeof *basis);
    if (!basis)
        return ANYKV_E_MEMORY;
    for (uint32_t h = 0; h < work->heads; h++) {
        for (size_t i = 0; i < dim; i++)
            for (size_t j = 0; j < dim; j++)
                basis[i * dim + j] = half_at(work->side->basis, h * square + j * dim + i);
        project(work, h, basis);
        quantise(work, h, shifts);
    }
    akv_free(work->device->context, basis);
    return ANYKV_OK;
}

/* What stands before the stream. */
static void front(const struct work *work, const anykv_lowrank_options *options, uint64_t bytes, uint8_t *packed)
{
    struct akv_compress_header header = {{'A', 'K', 'V', 'C'}, ANYKV_COMPRESS_LOWRANK, (uint32_t)work->view->dtype,
                                         work->tokens, work->heads, work->dim, akv_as_u32(work->step), 0, bytes,
                                         {options->layer | options->side << 31, options->position, 0, 0}, 0};
    memcpy(packed + ANYKV_COMPRESS_HEADER, options->calibration->digest.byte, 32);
    header.table[2] = front_check(packed, work->head_bytes);
    header.check = akv_compress_check(&header);
    memcpy(packed, &header, sizeof header);
}

static anykv_status check_options(anykv_context *context, const anykv_lowrank_options *options)
{
    if (!options->calibration)
        return akv_fail(context, ANYKV_E_ARG, "lowrank options.calibration: NULL");
    if (options->side > 1)
        return akv_fail(context, ANYKV_E_ARG, "lowrank options.side: %u is neither 0 (keys) nor 1 (values)",
                        options->side);
    return ANYKV_OK;
}

static anykv_status pack(struct work *work, const anykv_lowrank_options *options, const anykv_view *rows, uint8_t *packed,
                         uint64_t capacity, uint64_t *bytes_out)
{
    const uint64_t plain = (uint64_t)work->tokens * work->heads * work->dim * akv_raw_bytes((akv_u32)rows->dtype);
    const uint64_t room = AKV_MIN(plain, capacity);
    uint64_t bytes = 0;
    if (room <= work->head_bytes)
        return akv_fail(work->device->context, plain <= work->head_bytes ? ANYKV_E_UNSUPPORTED : ANYKV_E_SHAPE,
                        "lowrank: more than %llu bytes, the rows have %llu, the capacity is %llu",
                        (unsigned long long)work->head_bytes, (unsigned long long)plain, (unsigned long long)capacity);
    anykv_status status = open_rows(work, rows, false);
    uint8_t *shifts = packed + ANYKV_COMPRESS_HEADER + 32;
    if (!status) {
        memset(packed, 0, (size_t)work->head_bytes);
        status = encode(work, shifts);
    }
    if (!status)
        status = akv_rans_pack_host(work->device, &work->shape, work->codes, (uint64_t)work->tokens * work->columns,
                                    packed + work->head_bytes, room - work->head_bytes, &bytes);
    if (status == ANYKV_E_SHAPE && plain <= capacity)
        status = akv_fail(work->device->context, ANYKV_E_UNSUPPORTED, "lowrank: it takes more than the rows' %llu bytes",
                          (unsigned long long)plain);
    if (status)
        return status;
    front(work, options, work->head_bytes + bytes, packed);
    *bytes_out = work->head_bytes + bytes;
    return ANYKV_OK;
}

anykv_status anykv_lowrank_compress(anykv_device *device, const anykv_lowrank_options *options, const anykv_view *rows,
                                    uint32_t tokens, uint32_t heads, uint32_t head_dim, void *packed, uint64_t capacity,
                                    uint64_t *bytes_out)
{
    if (!device || !options || !rows || !packed || !bytes_out)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device    ? "device"
                        : !options ? "options"
                        : !rows    ? "rows"
                        : !packed  ? "packed"
                                   : "bytes_out");
    anykv_lowrank_options checked = ANYKV_LOWRANK_OPTIONS_INIT;
    struct work work = {.device = device};
    anykv_status status = akv_options(device->context, "lowrank options", &checked, sizeof checked, options);
    if (!status)
        status = check_options(device->context, &checked);
    if (!status)
        status = check_shape(device->context, (uint32_t)rows->dtype, tokens, heads, head_dim, checked.step, &work);
    if (!status)
        status = find_bases(device->context, checked.calibration, checked.layer, checked.side, &work);
    work.position = checked.position;
    if (!status)
        status = pack(&work, &checked, rows, packed, capacity, bytes_out);
    close_rows(&work);
    return status;
}

/* ---- and back ---- */

anykv_status akv_lowrank_check(anykv_context *context, const struct akv_compress_header *header, uint64_t bytes)
{
    struct work work;
    if (header->zero || header->table[3] ||
        check_shape(context, header->dtype, header->tokens, header->heads, header->dim, akv_as_f32(header->escapes),
                    &work) != ANYKV_OK)
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: low rank, step bits %08x, %u tokens, %u heads, %u "
                                               "elements of dtype %u is unknown",
                        header->escapes, header->tokens, header->heads, header->dim, header->dtype);
    if (header->bytes != bytes || bytes < work.head_bytes)
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: %llu bytes, the header says %llu and begins with %llu",
                        (unsigned long long)bytes, (unsigned long long)header->bytes,
                        (unsigned long long)work.head_bytes);
    return ANYKV_OK;
}

/* Rows first … first+count-1 of a head from their codes. */
static void expand(const struct work *work, uint32_t head, uint32_t first, uint32_t count, const uint8_t *shifts)
{
    const uint32_t dim = work->dim;
    const size_t at = (size_t)head * dim;
    float step[MOST_DIM];
    for (uint32_t j = 0; j < dim; j++)
        step[j] = akv_lowrank_more(work->step, shifts[at + j]);
    for (uint32_t t = 0; t < count; t++)
        for (uint32_t j = 0; j < dim; j++)
            work->y[(size_t)t * dim + j] = (float)work->codes[(size_t)(first + t) * work->columns + at + j] * step[j];
    akv_dense_multiply(count, dim, dim, work->y, work->side->expand + at * dim, work->x);
    for (uint32_t t = 0; t < count; t++) {
        float *x = work->x + (size_t)t * dim;
        uint8_t *row = row_at(work, first + t, head);
        for (uint32_t i = 0; work->side->centre && i < dim; i++)
            x[i] += half_at(work->side->centre, at + i);
        if (work->side->centre)
            turn(work, work->position + first + t, false, x);
        for (uint32_t i = 0; i < dim; i++)
            akv_store_bits(row, i, (akv_u32)work->view->dtype, akv_as_u32(x[i]));
    }
}

static anykv_status unpack(struct work *work, const struct akv_compress_header *header, const uint8_t *packed,
                           const anykv_view *rows)
{
    anykv_context *context = work->device->context;
    const uint8_t *shifts = packed + ANYKV_COMPRESS_HEADER + 32;
    const uint64_t left = header->bytes - work->head_bytes;
    uint64_t used = 0;
    if (front_check(packed, work->head_bytes) != header->table[2])
        return akv_fail(context, ANYKV_E_DATA, "compressed rows: the shifts are damaged");
    for (uint64_t j = 0; j < work->head_bytes - ANYKV_COMPRESS_HEADER - 32; j++)
        if (shifts[j] > AKV_LOWRANK_SHIFTS)
            return akv_fail(context, ANYKV_E_DATA, "compressed rows: a shift of %u", shifts[j]);
    anykv_status status = open_rows(work, rows, true);
    if (!status)
        status = akv_rans_unpack_host(work->device, &work->shape, packed + work->head_bytes, left, work->codes,
                                      (uint64_t)work->tokens * work->columns, &used);
    if (!status && used != left)
        status = akv_fail(context, ANYKV_E_DATA, "compressed rows: %llu bytes behind the codes",
                          (unsigned long long)(left - used));
    for (uint32_t h = 0; h < work->heads && !status; h++)
        for (uint32_t t = 0; t < work->tokens; t += ROWS)
            expand(work, h, t, AKV_MIN(ROWS, work->tokens - t), shifts);
    if (!status && work->copy) {
        status = akv_queue_put(work->device->queue, work->span, work->copy);
        const anykv_status finished = akv_device_finish(work->device);
        status = status ? status : finished;
    }
    return status;
}

anykv_status anykv_lowrank_decompress(anykv_device *device, const anykv_calibration *calibration, const void *packed,
                                      uint64_t bytes, const anykv_view *rows, uint32_t tokens, uint32_t heads,
                                      uint32_t head_dim)
{
    struct akv_compress_header header;
    if (!device || !calibration || !packed || !rows)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device        ? "device"
                        : !calibration ? "calibration"
                        : !packed      ? "packed"
                                       : "rows");
    anykv_context *context = device->context;
    struct work work = {.device = device};
    anykv_status status = akv_compress_header_read(context, packed, bytes, &header);
    if (!status && header.method != ANYKV_COMPRESS_LOWRANK)
        status = akv_fail(context, ANYKV_E_DATA, "compressed rows: method %u is not low rank", header.method);
    if (!status)
        status = akv_lowrank_check(context, &header, bytes);
    if (status)
        return status;
    if (memcmp((const uint8_t *)packed + ANYKV_COMPRESS_HEADER, calibration->digest.byte, 32) != 0)
        return akv_fail(context, ANYKV_E_DATA, "lowrank calibration: the data was made with another");
    if (tokens != header.tokens || heads != header.heads || head_dim != header.dim ||
        (uint32_t)rows->dtype != header.dtype)
        return akv_fail(context, ANYKV_E_SHAPE,
                        "lowrank: %u tokens of %u heads of %u elements of dtype %d, the data has %u of %u of %u of %u",
                        tokens, heads, head_dim, (int)rows->dtype, header.tokens, header.heads, header.dim,
                        header.dtype);
    status = check_shape(context, header.dtype, tokens, heads, head_dim, akv_as_f32(header.escapes), &work);
    if (!status)
        status = find_bases(context, calibration, header.table[0] & 0x7FFFFFFFu, header.table[0] >> 31, &work);
    work.position = header.table[1];
    if (!status)
        status = unpack(&work, &header, packed, rows);
    close_rows(&work);
    return status;
}
