/* SPDX-License-Identifier: Apache-2.0 */
/* Compression of packed rows: the header, a stream of the codes and one of the scales (rans.h). */
#include "compress.h"
#include "kernel/format.h"
#include "rans.h"

static anykv_status check_packed(anykv_context *context, anykv_compression method, uint32_t format, uint32_t tokens,
                                 uint32_t heads, uint32_t dim, uint64_t *bytes_out)
{
    if (method != ANYKV_COMPRESS_RANS)
        return akv_fail(context, method == ANYKV_COMPRESS_BX16 || method == ANYKV_COMPRESS_SPARSE ? ANYKV_E_UNSUPPORTED
                                                                                                   : ANYKV_E_ARG,
                        "compress method: %d does not take packed rows", (int)method);
    if (format < ANYKV_I8 || format > ANYKV_E4M3)
        return akv_fail(context, ANYKV_E_UNSUPPORTED, "compress packed.format: %u, rANS takes I8, N6 … N2 and E4M3",
                        format);
    if (tokens == 0 || heads == 0 || dim == 0 || dim % 16 || dim > AKV_MAX_HEAD_DIM || heads > AKV_MAX_HEADS ||
        tokens > AKV_MAX_TILE_ELEMENTS / (heads * akv_padded_dim(dim)))
        return akv_fail(context, ANYKV_E_SHAPE,
                        "compress packed: %u tokens of %u heads of %u elements, rows are multiples of 16 up to %u and a "
                        "tile has less than 2^29 elements",
                        tokens, heads, dim, AKV_MAX_HEAD_DIM);
    *bytes_out = akv_tile_bytes(format, tokens * heads, dim);
    return ANYKV_OK;
}

static anykv_status check_struct(anykv_context *context, anykv_compression method, const anykv_packed *packed)
{
    uint64_t bytes;
    anykv_status status = check_packed(context, method, (uint32_t)packed->format, packed->tokens, packed->heads,
                                       packed->head_dim, &bytes);
    if (!status && !packed->data)
        status = akv_fail(context, ANYKV_E_ARG, "compress packed.data: NULL");
    if (!status && packed->bytes != bytes)
        status = akv_fail(context, ANYKV_E_SHAPE, "compress packed.bytes: %llu, the rows have %llu",
                          (unsigned long long)packed->bytes, (unsigned long long)bytes);
    return status;
}

static void shapes_of(uint32_t format, uint32_t rows, uint32_t heads, uint32_t dim, akv_rans_params shape[2])
{
    akv_rans_codes(&shape[0], format, AKV_ORDER_ROW, dim, rows, heads, 1, true);
    akv_rans_scales(&shape[1], format, dim, rows, heads, 1, true);
}

/* Bytes between the planes of codes and behind them, which neither stream has: where they are zero, 0. */
static uint8_t padding(uint8_t *data, const anykv_packed *packed, bool clear)
{
    const uint32_t format = (uint32_t)packed->format, rows = packed->tokens * packed->heads, dim = packed->head_dim;
    const uint32_t elements = rows * akv_padded_dim(dim), plane1 = akv_plane1_offset(format, rows, dim);
    const uint32_t from[2] = {elements / 8u * akv_format_plane0(format),
                              plane1 + elements / 8u * akv_format_plane1(format)};
    const uint32_t end[2] = {plane1, akv_scale_offset(format, rows, dim)};
    uint8_t found = 0;
    for (uint32_t i = 0; i < 2u; i++)
        for (uint32_t at = from[i]; at < end[i]; at++) {
            found |= data[at];
            if (clear)
                data[at] = 0;
        }
    return found;
}

anykv_status anykv_compress_packed_bound(anykv_compression method, anykv_format format, uint32_t tokens,
                                         uint32_t heads, uint32_t head_dim, uint64_t *bytes_out)
{
    if (!bytes_out)
        return akv_fail(NULL, ANYKV_E_ARG, "bytes_out: NULL");
    return check_packed(NULL, method, (uint32_t)format, tokens, heads, head_dim, bytes_out);
}

/* Both streams one after the other; E_SHAPE where `room` is not enough. */
static anykv_status pack(anykv_device *device, const anykv_packed *packed, uint8_t *out, uint64_t room, uint64_t *bytes_out)
{
    akv_rans_params shape[2];
    uint64_t at = 0, made = 0;
    shapes_of((uint32_t)packed->format, packed->tokens * packed->heads, packed->heads, packed->head_dim, shape);
    for (uint32_t i = 0; i < 2u; i++) {
        anykv_status status =
            akv_rans_pack_host(device, &shape[i], packed->data, packed->bytes, out + at, room - at, &made);
        if (status)
            return status;
        at += made;
    }
    *bytes_out = at;
    return ANYKV_OK;
}

anykv_status anykv_compress_packed(anykv_device *device, anykv_compression method, const anykv_packed *packed,
                                   void *out, uint64_t capacity, uint64_t *bytes_out)
{
    if (!device || !packed || !out || !bytes_out)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device   ? "device"
                        : !packed ? "packed"
                        : !out    ? "out"
                                  : "bytes_out");
    anykv_context *context = device->context;
    anykv_status status = check_struct(context, method, packed);
    if (status)
        return status;
    if (padding(packed->data, packed, false))
        return akv_fail(context, ANYKV_E_ARG, "compress packed.data: bytes between planes are not zero");
    /* Apart from `out`, which stays as it is where the bytes do not fit. */
    akv_rans_params shape[2];
    shapes_of((uint32_t)packed->format, packed->tokens * packed->heads, packed->heads, packed->head_dim, shape);
    const uint64_t most = akv_rans_most(&shape[0]) + akv_rans_most(&shape[1]);
    uint8_t *body = akv_alloc(context, (size_t)most, 1);
    uint64_t bytes = 0;
    if (!body)
        return ANYKV_E_MEMORY;
    status = pack(device, packed, body, most, &bytes);
    bytes += ANYKV_COMPRESS_HEADER;
    if (!status && bytes > packed->bytes)
        status = akv_fail(context, ANYKV_E_UNSUPPORTED, "compress: rANS takes %llu bytes, the packed rows have %llu",
                          (unsigned long long)bytes, (unsigned long long)packed->bytes);
    else if (!status && bytes > capacity)
        status = akv_fail(context, ANYKV_E_SHAPE, "compress capacity: %llu, %llu bytes are needed",
                          (unsigned long long)capacity, (unsigned long long)bytes);
    if (!status) {
        struct akv_compress_header header = {{'A', 'K', 'V', 'C'}, ANYKV_COMPRESS_RANS, (uint32_t)packed->format,
                                             packed->tokens, packed->heads, packed->head_dim, 0, 0, bytes, {0}, 0};
        header.check = akv_compress_check(&header);
        memcpy(out, &header, sizeof header);
        memcpy((uint8_t *)out + sizeof header, body, bytes - sizeof header);
        *bytes_out = bytes;
    }
    akv_free(context, body);
    return status;
}

anykv_status akv_packed_check(anykv_context *context, const struct akv_compress_header *header, uint64_t bytes)
{
    uint64_t plain;
    if (header->bytes != bytes || header->escapes || header->table[0] || header->table[1] || header->table[2] ||
        header->table[3] || header->zero ||
        check_packed(context, ANYKV_COMPRESS_RANS, header->dtype, header->tokens, header->heads, header->dim, &plain) ||
        bytes > plain)
        return akv_fail(context, ANYKV_E_DATA,
                        "compressed rows: %llu bytes, the header says %llu of %u tokens, %u heads, %u elements of format %u",
                        (unsigned long long)bytes, (unsigned long long)header->bytes, header->tokens, header->heads,
                        header->dim, header->dtype);
    return ANYKV_OK;
}

anykv_status anykv_decompress_packed(anykv_device *device, const void *in, uint64_t bytes, const anykv_packed *packed)
{
    struct akv_compress_header header;
    if (!device || !in || !packed)
        return akv_fail(device ? device->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !device ? "device"
                        : !in   ? "in"
                                : "packed");
    anykv_context *context = device->context;
    anykv_status status = akv_compress_header_read(context, in, bytes, &header);
    if (!status && header.method != ANYKV_COMPRESS_RANS)
        return akv_fail(context, ANYKV_E_SHAPE, "decompress: the data has rows, anykv_decompress brings them back");
    if (!status)
        status = akv_packed_check(context, &header, bytes);
    if (!status)
        status = check_struct(context, ANYKV_COMPRESS_RANS, packed);
    if (status)
        return status;
    if (packed->tokens != header.tokens || packed->heads != header.heads || packed->head_dim != header.dim ||
        (uint32_t)packed->format != header.dtype)
        return akv_fail(context, ANYKV_E_SHAPE,
                        "decompress: %u tokens of %u heads of %u elements of format %d, the data has %u of %u of %u of %u",
                        packed->tokens, packed->heads, packed->head_dim, (int)packed->format, header.tokens, header.heads,
                        header.dim, header.dtype);
    akv_rans_params shape[2];
    const uint8_t *at = (const uint8_t *)in + ANYKV_COMPRESS_HEADER;
    uint64_t left = bytes - ANYKV_COMPRESS_HEADER, took = 0;
    shapes_of(header.dtype, header.tokens * header.heads, header.heads, header.dim, shape);
    padding(packed->data, packed, true);
    for (uint32_t i = 0; i < 2u && !status; i++) {
        status = akv_rans_unpack_host(device, &shape[i], at, left, packed->data, packed->bytes, &took);
        at += status ? 0 : took;
        left -= status ? 0 : took;
    }
    if (!status && left != 0)
        status = akv_fail(context, ANYKV_E_DATA, "compressed rows: %llu bytes behind the scales",
                          (unsigned long long)left);
    return status;
}
