/* SPDX-License-Identifier: Apache-2.0 */
/* The codec: rows to packed bytes and back, without a cache.
 *
 * Where device memory is host memory the kernels work on the caller's rows and bytes in place;
 * elsewhere both go through device buffers that the codec keeps and lets grow. */
#include "calibration.h"
#include "layout_check.h"
#include "maps.h"
#include "objects.h"

/* A device buffer and a host buffer, each kept at the largest size that was wanted. */
struct buffer {
    struct akv_mem *mem;
    void *host;
    uint64_t host_bytes;
};

struct anykv_codec {
    anykv_device *device;
    anykv_codec_options options;
    struct buffer rows, tile;
    struct akv_mem *maps;  /* means and matrices of its layer and side, or NULL */
    uint32_t heads;        /* that the calibration has from options.head on */
    struct akv_mem *flags; /* where kernels say what they saw, on devices of their own memory */
    uint32_t saw;          /* the same on devices that share the host's */
};

static bool in_place(const anykv_codec *codec)
{
    return codec->device->device->host_window != NULL;
}

/* ---- creation ---- */

static anykv_status check_options(anykv_context *context, const anykv_codec_options *options)
{
    static const uint32_t dims[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};
    if (options->format < ANYKV_F32 || options->format > ANYKV_E4M3G)
        return akv_fail(context, ANYKV_E_ARG, "codec options.format: %d is not a format",
                        (int)options->format);
    if (options->transform < ANYKV_TRANSFORM_NONE || options->transform > ANYKV_TRANSFORM_MATRIX)
        return akv_fail(context, ANYKV_E_ARG, "codec options.transform: %d is not a transform",
                        (int)options->transform);
    if (options->transform >= ANYKV_TRANSFORM_CENTRE && !options->calibration)
        return akv_fail(context, ANYKV_E_ARG, "codec options.calibration: NULL with transform %d",
                        (int)options->transform);
    if (options->side > 1)
        return akv_fail(context, ANYKV_E_ARG,
                        "codec options.side: %u is neither 0 (keys) nor 1 (values)", options->side);
    if (options->transform == ANYKV_TRANSFORM_CENTRE && options->side == 1)
        return akv_fail(context, ANYKV_E_ARG, "codec options.transform: centre is for keys only");
    if (options->scales && options->format != ANYKV_E4M3G)
        return akv_fail(context, ANYKV_E_ARG, "codec options.scales: format %s takes none",
                        anykv_format_name(options->format));
    if (!options->scales != !options->scale_count || options->scale_count > AKV_MAX_HEADS)
        return akv_fail(context, ANYKV_E_ARG, "codec options.scale_count: %u %s scales",
                        options->scale_count, options->scales ? "with" : "without");
    for (uint32_t h = 0; h < options->scale_count; h++)
        if (!akv_scale_fits(options->scales[h]))
            return akv_fail(context, ANYKV_E_ARG,
                            "codec options.scales[%u]: %g is not between 2^-40 and 2^40", h,
                            (double)options->scales[h]);
    if (options->search != 0 && options->search != 1)
        return akv_fail(context, ANYKV_E_ARG, "codec options.search: %d is neither 0 nor 1",
                        options->search);
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        if (dims[i] == options->head_dim)
            return ANYKV_OK;
    return akv_fail(context, ANYKV_E_ARG,
                    "codec options.head_dim: %u is none of 64 80 96 112 128 192 256 512 576",
                    options->head_dim);
}

static akv_encode_params make_params(const anykv_codec *codec, const akv_rows *rows,
                                     uint32_t tokens)
{
    akv_u32 flags = 0, format = (akv_u32)codec->options.format;
    if (!akv_format_raw(format) && codec->maps)
        flags |= AKV_FLAG_MAP;
    else if (!akv_format_raw(format) && codec->options.transform != ANYKV_TRANSFORM_NONE)
        flags |= AKV_FLAG_ROTATE;
    if (akv_format_codebook(format) && codec->options.search)
        flags |= AKV_FLAG_SEARCH;
    akv_encode_params params = {*rows, tokens, codec->options.head_dim,
                                format, flags,  0,
                                codec->options.position};
    return params;
}

/* Means and matrices to the device; a layer that the calibration does not have is rotated. */
static anykv_status make_maps(anykv_codec *codec)
{
    const anykv_codec_options *options = &codec->options;
    anykv_context *context = codec->device->context;
    struct akv_maps_side side;
    struct akv_maps maps;
    const bool found = options->transform >= ANYKV_TRANSFORM_CENTRE &&
                       akv_calibration_find(options->calibration, options->layer);
    codec->heads = options->scales ? options->scale_count : UINT32_MAX;
    if (!found && !options->scales)
        return ANYKV_OK;
    akv_maps_calibrated(options->calibration, options->layer, options->side, options->transform,
                        &side);
    if (!found) {
        side.dim = options->head_dim;
        side.heads = options->head + options->scale_count;
    }
    if (side.dim != options->head_dim)
        return akv_fail(context, ANYKV_E_DATA,
                        "codec options.head_dim: %u, the calibration's layer %u has %u",
                        options->head_dim, options->layer, side.dim);
    if (options->head >= side.heads)
        return akv_fail(context, ANYKV_E_DATA,
                        "codec options.head: %u, the calibration's layer %u has %u heads",
                        options->head, options->layer, side.heads);
    const size_t row = (size_t)options->head * side.dim;
    side.heads = AKV_MIN(side.heads - options->head, codec->heads);
    side.scales = options->scales;
    side.mean = side.mean ? side.mean + row : NULL;
    side.matrix = side.matrix ? side.matrix + row * side.dim : NULL;
    side.inverse = side.inverse ? side.inverse + row * side.dim : NULL;
    codec->heads = side.heads;
    akv_maps_begin(&maps, NULL, 1);
    akv_maps_add(&maps, 0, &side);
    uint8_t *image = akv_alloc(context, maps.bytes, 1);
    if (!image)
        return ANYKV_E_MEMORY;
    akv_maps_begin(&maps, image, 1);
    akv_maps_add(&maps, 0, &side);
    anykv_status status =
        akv_mem_alloc(codec->device->device, maps.bytes, AKV_MEM_DEVICE, &codec->maps);
    if (!status)
        status = akv_queue_put(codec->device->queue,
                               (struct akv_span){codec->maps, 0, maps.bytes}, image);
    akv_free(context, image);
    return status;
}

anykv_status anykv_codec_set_position(anykv_codec *codec, uint32_t position)
{
    if (!codec)
        return akv_fail(NULL, ANYKV_E_ARG, "codec: NULL");
    codec->options.position = position;
    return ANYKV_OK;
}

anykv_status anykv_codec_create(anykv_device *device, const anykv_codec_options *options,
                                anykv_codec **codec_out)
{
    if (!device || !codec_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", device ? "codec_out" : "device");
    anykv_context *context = device->context;
    anykv_codec_options checked = ANYKV_CODEC_OPTIONS_INIT;
    anykv_status status = akv_options(context, "codec options", &checked, sizeof checked, options);
    if (!status)
        status = check_options(context, &checked);
    if (status)
        return status;
    anykv_codec *codec = akv_alloc(context, 1, sizeof *codec);
    if (!codec)
        return ANYKV_E_MEMORY;
    codec->device = device;
    codec->options = checked;
    status = make_maps(codec);
    akv_rows rows = {checked.head_dim, checked.head_dim, AKV_F32, 1};
    akv_encode_params params = make_params(codec, &rows, 1);
    if (!status)
        status = akv_kernel_prepare(device->device, AKV_K_ENCODE, &params);
    if (!status)
        status = akv_kernel_prepare(device->device, AKV_K_DECODE, &params);
    if (!status && !in_place(codec))
        status = akv_mem_alloc(device->device, sizeof codec->saw, AKV_MEM_DEVICE, &codec->flags);
    if (status) {
        akv_mem_free(codec->maps);
        akv_free(context, codec);
        return status;
    }
    *codec_out = codec;
    return ANYKV_OK;
}

static void free_buffer(anykv_codec *codec, struct buffer *buffer)
{
    akv_mem_free(buffer->mem);
    akv_free(codec->device->context, buffer->host);
}

void anykv_codec_destroy(anykv_codec *codec)
{
    if (!codec)
        return;
    free_buffer(codec, &codec->rows);
    free_buffer(codec, &codec->tile);
    akv_mem_free(codec->flags);
    akv_mem_free(codec->maps);
    akv_free(codec->device->context, codec);
}

/* ---- buffers ---- */

static anykv_status want_mem(anykv_codec *codec, struct buffer *buffer, uint64_t bytes,
                             struct akv_span *span_out)
{
    if (!buffer->mem || buffer->mem->bytes < bytes) {
        struct akv_mem *mem;
        anykv_status status = akv_mem_alloc(codec->device->device, bytes, AKV_MEM_DEVICE, &mem);
        if (status)
            return status;
        akv_mem_free(buffer->mem);
        buffer->mem = mem;
    }
    *span_out = (struct akv_span){buffer->mem, 0, bytes};
    return ANYKV_OK;
}

static anykv_status want_host(anykv_codec *codec, struct buffer *buffer, uint64_t bytes)
{
    if (buffer->host_bytes >= bytes)
        return ANYKV_OK;
    void *host = akv_alloc(codec->device->context, (size_t)bytes, 1);
    if (!host)
        return ANYKV_E_MEMORY;
    akv_free(codec->device->context, buffer->host);
    buffer->host = host;
    buffer->host_bytes = bytes;
    return ANYKV_OK;
}

/* ---- sizes ---- */

static anykv_status packed_bytes(const anykv_codec *codec, uint64_t rows, uint64_t *bytes_out)
{
    akv_u32 format = (akv_u32)codec->options.format, dim = codec->options.head_dim;
    if (rows > AKV_MAX_TILE_ELEMENTS / akv_padded_dim(dim))
        return akv_fail(codec->device->context, ANYKV_E_SHAPE,
                        "codec rows: %llu of %u elements, less than 2^29 elements fit",
                        (unsigned long long)rows, akv_padded_dim(dim));
    *bytes_out = akv_tile_bytes(format, (akv_u32)rows, dim);
    return ANYKV_OK;
}

anykv_status anykv_codec_bytes(const anykv_codec *codec, uint64_t rows, uint64_t *bytes_out)
{
    if (!codec || !bytes_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", codec ? "bytes_out" : "codec");
    return packed_bytes(codec, rows, bytes_out);
}

/* What encode and decode check alike. */
static anykv_status check_call(const anykv_codec *codec, const anykv_view *rows, const void *packed,
                               uint64_t bytes, uint32_t tokens, uint32_t heads, bool decode,
                               struct akv_span *span_out)
{
    anykv_context *context = codec->device->context;
    if (!rows || !packed)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", !rows ? "rows" : "packed");
    if (heads == 0 || heads > AKV_MAX_HEADS)
        return akv_fail(context, ANYKV_E_ARG, "codec heads: %u is not between 1 and %u", heads,
                        AKV_MAX_HEADS);
    if (heads > codec->heads)
        return akv_fail(context, ANYKV_E_SHAPE,
                        "codec heads: %u, there are maps of %u from head %u on", heads,
                        codec->heads, codec->options.head);
    uint64_t wanted;
    anykv_status status = packed_bytes(codec, (uint64_t)tokens * heads, &wanted);
    if (status)
        return status;
    if (bytes != wanted)
        return akv_fail(context, ANYKV_E_SHAPE, "codec bytes: %llu, %u rows take %llu",
                        (unsigned long long)bytes, tokens * heads, (unsigned long long)wanted);
    return akv_view_check(codec->device, "codec rows", rows, tokens, heads, codec->options.head_dim,
                          decode, span_out);
}

/* Where the packed bytes stand while kernels work on them: in place if they can, else in device
 * memory. staged_out: the caller's bytes are elsewhere. */
static anykv_status tile_span(anykv_codec *codec, const void *packed, uint64_t bytes,
                              struct akv_span *span_out, bool *staged_out)
{
    *staged_out = !in_place(codec) || (uintptr_t)packed % 16;
    if (*staged_out)
        return want_mem(codec, &codec->tile, bytes, span_out);
    *span_out = akv_host_span(codec->device->device, packed, bytes);
    return ANYKV_OK;
}

/* The same for rows.  rows_out: their strides where the kernel finds them. */
static anykv_status rows_span(anykv_codec *codec, const anykv_view *view, uint32_t tokens,
                              uint32_t heads, struct akv_span *span, akv_rows *rows_out,
                              bool *staged_out)
{
    uint32_t dim = codec->options.head_dim;
    *rows_out = akv_view_rows(view, heads);
    *staged_out = !span->mem;
    if (span->mem)
        return ANYKV_OK;
    uint64_t bytes = (uint64_t)tokens * heads * dim * akv_raw_bytes((akv_u32)view->dtype);
    rows_out->token_stride = (uint64_t)heads * dim;
    rows_out->head_stride = dim;
    anykv_status status = ANYKV_OK;
    if (!akv_view_dense(view, heads, dim))
        status = want_host(codec, &codec->rows, bytes);
    return status ? status : want_mem(codec, &codec->rows, bytes, span);
}

static struct akv_span maps_span(const anykv_codec *codec)
{
    const struct akv_span none = {NULL, 0, 0};
    return codec->maps ? (struct akv_span){codec->maps, 0, codec->maps->bytes} : none;
}

/* ---- encode, decode ---- */

anykv_status anykv_codec_encode(anykv_codec *codec, const anykv_view *view, uint32_t tokens,
                                uint32_t heads, void *packed, uint64_t bytes, uint32_t *saw_out)
{
    struct akv_span rows = {NULL, 0, 0}, tile;
    if (!codec)
        return akv_fail(NULL, ANYKV_E_ARG, "codec: NULL");
    anykv_status status = check_call(codec, view, packed, bytes, tokens, heads, false, &rows);
    if (status)
        return status;
    codec->saw = 0;
    if (tokens == 0) {
        if (saw_out)
            *saw_out = 0;
        return ANYKV_OK;
    }
    struct akv_queue *queue = codec->device->queue;
    struct akv_span flags =
        in_place(codec) ? akv_host_span(codec->device->device, &codec->saw, sizeof codec->saw)
                        : (struct akv_span){codec->flags, 0, sizeof codec->saw};
    akv_rows shape;
    bool rows_staged, tile_staged;
    status = tile_span(codec, packed, bytes, &tile, &tile_staged);
    if (!status)
        status = rows_span(codec, view, tokens, heads, &rows, &shape, &rows_staged);
    if (status)
        return status;
    akv_encode_params params = make_params(codec, &shape, tokens);
    struct akv_launch launch = {.kernel = AKV_K_ENCODE, .params = &params};
    launch.arg[0] = rows;
    launch.arg[1] = tile;
    launch.arg[2] = flags;
    launch.arg[3] = maps_span(codec);
    bool dense = akv_view_dense(view, heads, codec->options.head_dim);
    if (rows_staged && !dense)
        akv_view_pack(view, tokens, heads, codec->options.head_dim, codec->rows.host);
    if (rows_staged)
        status = akv_queue_put(queue, rows, dense ? view->data : codec->rows.host);
    if (!status && codec->flags)
        status = akv_queue_fill(queue, flags, 0);
    if (!status)
        status = akv_kernel_launch(queue, &launch);
    if (!status && tile_staged)
        status = akv_queue_get(queue, packed, tile);
    if (!status && codec->flags)
        status = akv_queue_get(queue, &codec->saw, flags);
    anykv_status finished = akv_device_finish(codec->device);
    if (status || finished)
        return status ? status : finished;
    if (saw_out)
        *saw_out = codec->saw;
    return ANYKV_OK;
}

anykv_status anykv_codec_decode(anykv_codec *codec, const void *packed, uint64_t bytes,
                                uint32_t tokens, uint32_t heads, const anykv_view *view)
{
    struct akv_span rows = {NULL, 0, 0}, tile;
    if (!codec)
        return akv_fail(NULL, ANYKV_E_ARG, "codec: NULL");
    anykv_status status = check_call(codec, view, packed, bytes, tokens, heads, true, &rows);
    if (status || tokens == 0)
        return status;
    struct akv_queue *queue = codec->device->queue;
    akv_rows shape;
    bool rows_staged, tile_staged;
    status = tile_span(codec, packed, bytes, &tile, &tile_staged);
    if (!status)
        status = rows_span(codec, view, tokens, heads, &rows, &shape, &rows_staged);
    if (status)
        return status;
    akv_decode_params params = make_params(codec, &shape, tokens);
    struct akv_launch launch = {.kernel = AKV_K_DECODE, .params = &params};
    launch.arg[0] = tile;
    launch.arg[1] = rows;
    launch.arg[2] = maps_span(codec);
    bool dense = akv_view_dense(view, heads, codec->options.head_dim);
    if (tile_staged)
        status = akv_queue_put(queue, tile, packed);
    if (!status)
        status = akv_kernel_launch(queue, &launch);
    if (!status && rows_staged)
        status = akv_queue_get(queue, dense ? view->data : codec->rows.host, rows);
    anykv_status finished = akv_device_finish(codec->device);
    if (status || finished)
        return status ? status : finished;
    if (rows_staged && !dense)
        akv_view_unpack(view, tokens, heads, codec->options.head_dim, codec->rows.host);
    return ANYKV_OK;
}
