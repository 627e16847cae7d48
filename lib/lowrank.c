/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank compression: coefficients of rows in a calibration's bases, quantised with one step and
 * entropy coded, so that a component has the bits that its spread needs, and hardly any where it
 * has less than a step.
 *
 * The device projects, entropy codes and brings back; the host chooses shifts and rounds.  The
 * body: digest of the calibration (32 bytes); u8 shift of each head's components, zeros to 16
 * bytes; the codes, a matrix of int8 [tokens][heads*dim, zeros to 32], as a stream of rans.h.  In
 * the header `escapes` is the step's bits, table[0] the layer and in bit 31 the side, table[1] the
 * position of the first token, table[2] the sum of mix(word j, j) over digest and shifts. */
#include "lowrank.h"
#include "calibration.h"
#include "kernel/lowrank.h"
#include "rans.h"

#define CHUNK (1u << 22) /* elements whose coefficients are in device memory at a time */

/* What a call keeps on the device. */
enum { ROWS, MATRIX, CENTRE, TURNS, COEFFICIENTS, SUMS, CODES, SHIFTS, MEMORIES };

/* One call's rows, whichever way they go. */
struct work {
    anykv_device *device;
    const struct akv_calibration_layer *layer;
    const struct akv_calibration_side *side;
    uint32_t tokens, heads, dim, columns, position;
    float step;
    akv_rans_params shape;
    uint64_t head_bytes; /* header, digest, shifts */
    const anykv_view *view;
    uint8_t *dense; /* rows of a view in host memory that is not */
    struct akv_mem *mem[MEMORIES];
    struct akv_span span[MEMORIES];
    akv_lowrank_params params;
    /* compress, on the host */
    float *basis;   /* [heads][i][j] */
    float *y;       /* [tokens][heads*dim] */
    float *largest; /* [3][heads*dim]: of a column, and 2^-shift in two factors */
    int8_t *codes;  /* [tokens][columns] */
};

/* ---- checks ---- */

static anykv_status check_shape(anykv_context *context, uint32_t dtype, uint32_t tokens,
                                uint32_t heads, uint32_t dim, float step, struct work *work)
{
    if (dtype < ANYKV_F32 || dtype > ANYKV_BF16)
        return akv_fail(context, ANYKV_E_ARG, "lowrank rows.dtype: %u is none of F32, F16, BF16",
                        dtype);
    if (tokens == 0 || heads == 0 || dim == 0)
        return akv_fail(context, ANYKV_E_SHAPE, "lowrank: %u tokens of %u heads of %u elements",
                        tokens, heads, dim);
    if (!(step >= 0x1p-20f && step <= 0x1p20f))
        return akv_fail(context, ANYKV_E_ARG, "lowrank step: %g, not within 2^-20 to 2^20",
                        (double)step);
    const uint64_t columns = ((uint64_t)heads * dim + 31u) & ~31ull;
    if (columns > 1u << 20 || !akv_rans_matrix(&work->shape, tokens, (uint32_t)columns, true))
        return akv_fail(context, ANYKV_E_SHAPE,
                        "lowrank: %u tokens of %u heads of %u elements are more than 2^30", tokens,
                        heads, dim);
    work->tokens = tokens;
    work->heads = heads;
    work->dim = dim;
    work->columns = (uint32_t)columns;
    work->step = step;
    work->head_bytes = ANYKV_COMPRESS_HEADER + 32u + ((uint64_t)heads * dim + 15u) / 16u * 16u;
    return ANYKV_OK;
}

static anykv_status find_bases(anykv_context *context, const anykv_calibration *calibration,
                               uint32_t number, uint32_t side, struct work *work)
{
    if (!calibration->bases)
        return akv_fail(context, ANYKV_E_DATA, "lowrank calibration: it has no bases");
    work->layer = akv_calibration_find(calibration, number);
    if (!work->layer)
        return akv_fail(context, ANYKV_E_DATA, "lowrank layer: the calibration lacks %u", number);
    work->side = &work->layer->side[side];
    if (work->layer->kv_heads != work->heads || work->side->dim != work->dim)
        return akv_fail(context, ANYKV_E_SHAPE,
                        "lowrank: %u heads of %u elements, the calibration's layer %u has %u of %u",
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

/* ---- device memory ---- */

/* Is host memory at this address device memory, too? */
static bool seen(const struct work *work, const void *host)
{
    return work->device->device->host_window != NULL && (uintptr_t)host % 8 == 0;
}

static anykv_status make(struct work *work, uint32_t which, uint64_t bytes)
{
    anykv_status status =
        akv_mem_alloc(work->device->device, bytes, AKV_MEM_DEVICE, &work->mem[which]);
    if (!status)
        work->span[which] = (struct akv_span){work->mem[which], 0, bytes};
    return status;
}

/* Host memory that kernels read. */
static anykv_status place(struct work *work, uint32_t which, const void *host, uint64_t bytes)
{
    if (seen(work, host)) {
        work->span[which] = akv_host_span(work->device->device, host, bytes);
        return ANYKV_OK;
    }
    anykv_status status = make(work, which, bytes);
    return status ? status : akv_queue_put(work->device->queue, work->span[which], host);
}

static uint8_t *host_rows(const struct work *work)
{
    return work->dense ? work->dense : work->view->data;
}

/* Rows, centre and turns where kernels find them; checked before anything else is done. */
static anykv_status open_rows(struct work *work, const anykv_view *view, bool write)
{
    anykv_context *context = work->device->context;
    const uint32_t pairs = work->side->centre ? work->layer->rope_pairs : 0;
    const uint64_t wide = (uint64_t)work->heads * work->dim;
    const uint64_t bytes = work->tokens * wide * akv_raw_bytes((akv_u32)view->dtype);
    work->view = view;
    work->params = (akv_lowrank_params){.tokens = work->tokens,
                                        .heads = work->heads,
                                        .dim = work->dim,
                                        .columns = work->columns,
                                        .step = akv_as_u32(work->step),
                                        .dtype = (akv_u32)view->dtype,
                                        .position = work->position,
                                        .pairs = pairs,
                                        .rope = pairs ? work->layer->rope : 0};
    anykv_status status = akv_view_check(work->device, "lowrank rows", view, work->tokens,
                                         work->heads, work->dim, write, &work->span[ROWS]);
    const bool dense = akv_view_dense(view, work->heads, work->dim);
    if (!status && view->mem && !dense)
        status =
            akv_fail(context, ANYKV_E_SHAPE,
                     "lowrank rows: strides %llu and %llu in device memory, dense rows "
                     "are needed there",
                     (unsigned long long)view->token_stride, (unsigned long long)view->head_stride);
    if (!status && !dense) {
        work->dense = akv_alloc(context, (size_t)bytes, 1);
        if (!work->dense)
            return ANYKV_E_MEMORY;
        if (!write)
            akv_view_pack(view, work->tokens, work->heads, work->dim, work->dense);
    }
    if (!status && !view->mem)
        status = write && !seen(work, host_rows(work)) ? make(work, ROWS, bytes)
                                                       : place(work, ROWS, host_rows(work), bytes);
    if (!status && work->side->centre)
        status = place(work, CENTRE, work->side->centre, wide * 2);
    if (!status && pairs)
        status = place(work, TURNS, work->layer->turns, pairs * 8ull);
    return status;
}

/* Nothing may be under way on what is freed; what failed first is reported. */
static anykv_status close_rows(struct work *work, anykv_status status)
{
    anykv_context *context = work->device->context;
    const anykv_status finished = akv_device_finish(work->device);
    for (uint32_t i = 0; i < MEMORIES; i++)
        akv_mem_free(work->mem[i]);
    akv_free(context, work->dense);
    akv_free(context, work->basis);
    akv_free(context, work->y);
    akv_free(context, work->largest);
    akv_free(context, work->codes);
    return status ? status : finished;
}

/* The bytes of so many tokens of [tokens][each] from one on. */
static struct akv_span part(struct akv_span all, uint32_t first, uint32_t tokens, uint64_t each)
{
    return (struct akv_span){all.mem, all.offset + first * each, tokens * each};
}

static uint32_t chunk_of(const struct work *work)
{
    const uint32_t tokens = CHUNK / (work->heads * work->dim);
    return tokens < 1 ? 1 : AKV_MIN(tokens, work->tokens);
}

/* ---- there ---- */

/* The basis turned, so that a component is a lane. */
static void turn_basis(struct work *work)
{
    const size_t dim = work->dim, square = dim * dim;
    for (size_t h = 0; h < work->heads; h++)
        for (size_t i = 0; i < dim; i++)
            for (size_t j = 0; j < dim; j++)
                work->basis[h * square + i * dim + j] =
                    akv_as_f32(akv_f32_from_f16(work->side->basis[h * square + j * dim + i]));
}

/* Coefficients of all rows, in y. */
static anykv_status project(struct work *work)
{
    const uint64_t wide = (uint64_t)work->heads * work->dim, bytes = wide * 4,
                   row = wide * akv_raw_bytes(work->params.dtype);
    const bool here = seen(work, work->y);
    const uint32_t most = here ? work->tokens : chunk_of(work);
    anykv_status status = place(work, MATRIX, work->basis, bytes * work->dim);
    if (!status && here)
        work->span[COEFFICIENTS] =
            akv_host_span(work->device->device, work->y, work->tokens * bytes);
    else if (!status)
        status = make(work, COEFFICIENTS, most * bytes);
    for (uint32_t t = 0; t < work->tokens && !status; t += most) {
        akv_lowrank_params params = work->params;
        params.tokens = AKV_MIN(most, work->tokens - t);
        params.position += t;
        struct akv_launch launch = {.kernel = AKV_K_LOWRANK_PROJECT, .params = &params};
        launch.arg[0] = part(work->span[ROWS], t, params.tokens, row);
        launch.arg[1] = work->span[MATRIX];
        launch.arg[2] = work->span[CENTRE];
        launch.arg[3] = work->span[TURNS];
        launch.arg[4] = part(work->span[COEFFICIENTS], 0, params.tokens, bytes);
        status = akv_kernel_launch(work->device->queue, &launch);
        if (!status && !here)
            status = akv_queue_get(work->device->queue, work->y + t * wide, launch.arg[4]);
    }
    const anykv_status finished = akv_device_finish(work->device);
    return status ? status : finished;
}

/* Shifts, and codes row by row: a column's factors once, in the two products of the contract. */
static void quantise(struct work *work, uint8_t *shifts)
{
    const uint32_t wide = work->heads * work->dim;
    const float inverse = 1.0f / work->step;
    float *less[2] = {work->largest + wide, work->largest + 2 * (size_t)wide};
    memset(work->largest, 0, wide * sizeof *work->largest);
    for (uint32_t t = 0; t < work->tokens; t++)
        for (uint32_t c = 0; c < wide; c++) {
            const float size = fabsf(work->y[(size_t)t * wide + c]);
            work->largest[c] = size > work->largest[c] ? size : work->largest[c];
        }
    for (uint32_t c = 0; c < wide; c++) {
        const uint32_t shift = akv_lowrank_shift(work->largest[c], inverse);
        shifts[c] = (uint8_t)shift;
        less[0][c] = shift > 100u ? 0x1p-100f : 1.0f;
        less[1][c] = akv_lowrank_less(1.0f, shift > 100u ? shift - 100u : shift);
    }
    for (uint32_t t = 0; t < work->tokens; t++)
        for (uint32_t c = 0; c < wide; c++)
            work->codes[(size_t)t * work->columns + c] =
                (int8_t)AKV_RINT(work->y[(size_t)t * wide + c] * inverse * less[0][c] * less[1][c]);
}

static anykv_status encode(struct work *work, uint8_t *shifts)
{
    anykv_context *context = work->device->context;
    const size_t wide = (size_t)work->heads * work->dim;
    work->basis = akv_alloc(context, wide * work->dim, sizeof *work->basis);
    work->y = akv_alloc(context, work->tokens * wide, sizeof *work->y);
    work->largest = akv_alloc(context, 3 * wide, sizeof *work->largest);
    work->codes = akv_alloc(context, (size_t)work->tokens * work->columns, 1);
    if (!work->basis || !work->y || !work->largest || !work->codes)
        return ANYKV_E_MEMORY;
    turn_basis(work);
    anykv_status status = project(work);
    if (!status)
        quantise(work, shifts);
    return status;
}

/* What stands before the stream. */
static void front(const struct work *work, const anykv_lowrank_options *options, uint64_t bytes,
                  uint8_t *packed)
{
    struct akv_compress_header header = {
        {'A', 'K', 'V', 'C'},
        ANYKV_COMPRESS_LOWRANK,
        (uint32_t)work->view->dtype,
        work->tokens,
        work->heads,
        work->dim,
        akv_as_u32(work->step),
        0,
        bytes,
        {options->layer | options->side << 31, options->position, 0, 0},
        0};
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
        return akv_fail(context, ANYKV_E_ARG,
                        "lowrank options.side: %u is neither 0 (keys) nor 1 (values)",
                        options->side);
    return ANYKV_OK;
}

static anykv_status pack(struct work *work, const anykv_lowrank_options *options,
                         const anykv_view *rows, uint8_t *packed, uint64_t capacity,
                         uint64_t *bytes_out)
{
    const uint64_t plain =
        (uint64_t)work->tokens * work->heads * work->dim * akv_raw_bytes((akv_u32)rows->dtype);
    const uint64_t room = AKV_MIN(plain, capacity);
    uint64_t bytes = 0;
    if (room <= work->head_bytes)
        return akv_fail(work->device->context,
                        plain <= work->head_bytes ? ANYKV_E_UNSUPPORTED : ANYKV_E_SHAPE,
                        "lowrank: more than %llu bytes, the rows have %llu, the capacity is %llu",
                        (unsigned long long)work->head_bytes, (unsigned long long)plain,
                        (unsigned long long)capacity);
    anykv_status status = open_rows(work, rows, false);
    uint8_t *shifts = packed + ANYKV_COMPRESS_HEADER + 32;
    if (!status) {
        memset(packed, 0, (size_t)work->head_bytes);
        status = encode(work, shifts);
    }
    if (!status)
        status = akv_rans_pack_host(work->device, &work->shape, work->codes,
                                    (uint64_t)work->tokens * work->columns,
                                    packed + work->head_bytes, room - work->head_bytes, &bytes);
    if (status == ANYKV_E_SHAPE && plain <= capacity)
        status =
            akv_fail(work->device->context, ANYKV_E_UNSUPPORTED,
                     "lowrank: it takes more than the rows' %llu bytes", (unsigned long long)plain);
    if (status)
        return status;
    front(work, options, work->head_bytes + bytes, packed);
    *bytes_out = work->head_bytes + bytes;
    return ANYKV_OK;
}

anykv_status anykv_lowrank_compress(anykv_device *device, const anykv_lowrank_options *options,
                                    const anykv_view *rows, uint32_t tokens, uint32_t heads,
                                    uint32_t head_dim, void *packed, uint64_t capacity,
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
    anykv_status status =
        akv_options(device->context, "lowrank options", &checked, sizeof checked, options);
    if (!status)
        status = check_options(device->context, &checked);
    if (!status)
        status = check_shape(device->context, (uint32_t)rows->dtype, tokens, heads, head_dim,
                             checked.step, &work);
    if (!status)
        status =
            find_bases(device->context, checked.calibration, checked.layer, checked.side, &work);
    work.position = checked.position;
    return status ? status
                  : close_rows(&work, pack(&work, &checked, rows, packed, capacity, bytes_out));
}

/* ---- and back ---- */

anykv_status akv_lowrank_check(anykv_context *context, const struct akv_compress_header *header,
                               uint64_t bytes)
{
    struct work work;
    if (header->zero || header->table[3] ||
        check_shape(context, header->dtype, header->tokens, header->heads, header->dim,
                    akv_as_f32(header->escapes), &work) != ANYKV_OK)
        return akv_fail(context, ANYKV_E_DATA,
                        "compressed rows: low rank, step bits %08x, %u tokens, %u heads, %u "
                        "elements of dtype %u is unknown",
                        header->escapes, header->tokens, header->heads, header->dim, header->dtype);
    if (header->bytes != bytes || bytes < work.head_bytes)
        return akv_fail(context, ANYKV_E_DATA,
                        "compressed rows: %llu bytes, the header says %llu and begins with %llu",
                        (unsigned long long)bytes, (unsigned long long)header->bytes,
                        (unsigned long long)work.head_bytes);
    return ANYKV_OK;
}

/* Codes to rows, chunk by chunk. */
static anykv_status expand(struct work *work)
{
    struct akv_queue *queue = work->device->queue;
    const uint64_t wide = (uint64_t)work->heads * work->dim,
                   square = (uint64_t)work->dim * work->dim;
    const uint64_t row = wide * akv_raw_bytes(work->params.dtype);
    const uint32_t most = chunk_of(work);
    anykv_status status = place(work, MATRIX, work->side->expand, work->heads * square * 4);
    if (!status)
        status = make(work, COEFFICIENTS, most * wide * 4);
    if (!status)
        status = make(work, SUMS, most * wide * 4);
    for (uint32_t t = 0; t < work->tokens && !status; t += most) {
        akv_lowrank_params params = work->params;
        params.tokens = AKV_MIN(most, work->tokens - t);
        params.position += t;
        const akv_multiply_params product = {.m = params.tokens,
                                             .n = work->dim,
                                             .k = work->dim,
                                             .batch = work->heads,
                                             .lda = (uint32_t)wide,
                                             .ldb = work->dim,
                                             .ldc = (uint32_t)wide,
                                             .a_step = work->dim,
                                             .b_step = square,
                                             .c_step = work->dim};
        struct akv_launch launch = {.kernel = AKV_K_LOWRANK_READ, .params = &params};
        launch.arg[0] = part(work->span[CODES], t, params.tokens, work->columns);
        launch.arg[1] = work->span[SHIFTS];
        launch.arg[2] = work->span[COEFFICIENTS];
        status = akv_kernel_launch(queue, &launch);
        struct akv_launch multiply = {.kernel = AKV_K_MULTIPLY, .params = &product};
        multiply.arg[0] = work->span[COEFFICIENTS];
        multiply.arg[1] = work->span[MATRIX];
        multiply.arg[2] = work->span[SUMS];
        if (!status)
            status = akv_kernel_launch(queue, &multiply);
        struct akv_launch rows = {.kernel = AKV_K_LOWRANK_ROWS, .params = &params};
        rows.arg[0] = work->span[SUMS];
        rows.arg[1] = work->span[CENTRE];
        rows.arg[2] = work->span[TURNS];
        rows.arg[3] = part(work->span[ROWS], t, params.tokens, row);
        if (!status)
            status = akv_kernel_launch(queue, &rows);
    }
    return status;
}

/* Rows to where the caller wants them. */
static anykv_status give_rows(struct work *work)
{
    anykv_status status = ANYKV_OK;
    if (work->mem[ROWS])
        status = akv_queue_get(work->device->queue, host_rows(work), work->span[ROWS]);
    const anykv_status finished = akv_device_finish(work->device);
    if (!status && !finished && work->dense)
        akv_view_unpack(work->view, work->tokens, work->heads, work->dim, work->dense);
    return status ? status : finished;
}

static anykv_status unpack(struct work *work, const struct akv_compress_header *header,
                           const uint8_t *packed, const anykv_view *rows)
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
        status = place(work, SHIFTS, shifts, (uint64_t)work->heads * work->dim);
    if (!status)
        status = make(work, CODES, (uint64_t)work->tokens * work->columns);
    if (!status)
        status = akv_rans_unpack(work->device, &work->shape, packed + work->head_bytes, left,
                                 work->span[CODES], &used);
    if (!status && used != left)
        status = akv_fail(context, ANYKV_E_DATA, "compressed rows: %llu bytes behind the codes",
                          (unsigned long long)(left - used));
    if (!status)
        status = expand(work);
    return status ? status : give_rows(work);
}

anykv_status anykv_lowrank_decompress(anykv_device *device, const anykv_calibration *calibration,
                                      const void *packed, uint64_t bytes, const anykv_view *rows,
                                      uint32_t tokens, uint32_t heads, uint32_t head_dim)
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
        status = akv_fail(context, ANYKV_E_DATA, "compressed rows: method %u is not low rank",
                          header.method);
    if (!status)
        status = akv_lowrank_check(context, &header, bytes);
    if (status)
        return status;
    if (memcmp((const uint8_t *)packed + ANYKV_COMPRESS_HEADER, calibration->digest.byte, 32) != 0)
        return akv_fail(context, ANYKV_E_DATA,
                        "lowrank calibration: the data was made with another");
    if (tokens != header.tokens || heads != header.heads || head_dim != header.dim ||
        (uint32_t)rows->dtype != header.dtype)
        return akv_fail(context, ANYKV_E_SHAPE,
                        "lowrank: %u tokens of %u heads of %u elements of dtype %d, the data has "
                        "%u of %u of %u of %u",
                        tokens, heads, head_dim, (int)rows->dtype, header.tokens, header.heads,
                        header.dim, header.dtype);
    status = check_shape(context, header.dtype, tokens, heads, head_dim, akv_as_f32(header.escapes),
                         &work);
    if (!status)
        status = find_bases(context, calibration, header.table[0] & 0x7FFFFFFFu,
                            header.table[0] >> 31, &work);
    work.position = header.table[1];
    return status ? status : close_rows(&work, unpack(&work, &header, packed, rows));
}
