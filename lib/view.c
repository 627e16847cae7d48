/* SPDX-License-Identifier: Apache-2.0 */
/* Views: the caller's rows checked and turned into spans. */
#include "objects.h"

/* Bytes from the first to the last element; false when they do not fit in 63 bits. */
static bool extent(const anykv_view *view, uint32_t tokens, uint32_t heads, uint32_t dim,
                   uint64_t *bytes_out)
{
    const uint64_t limit = INT64_MAX;
    uint64_t each = akv_raw_bytes((akv_u32)view->dtype), elements = dim;
    if (tokens > 1 && view->token_stride > limit / 8 / (tokens - 1))
        return false;
    if (heads > 1 && view->head_stride > limit / 8 / (heads - 1))
        return false;
    elements += (tokens - 1) * view->token_stride + (heads - 1) * view->head_stride;
    if (elements > limit / each)
        return false;
    *bytes_out = elements * each;
    return true;
}

/* Do two of the rows share an element?  Rows are nested one way or the other, or refused. */
static bool rows_meet(uint64_t token_stride, uint64_t head_stride, uint32_t tokens, uint32_t heads,
                      uint32_t dim)
{
    if (tokens > 1 && token_stride < dim)
        return true;
    if (heads > 1 && head_stride < dim)
        return true;
    if (tokens == 1 || heads == 1)
        return false;
    bool heads_inside = token_stride >= (heads - 1) * head_stride + dim;
    bool tokens_inside = head_stride >= (tokens - 1) * token_stride + dim;
    return !heads_inside && !tokens_inside;
}

/* What every view must satisfy; bytes_out: from the first element to the last, 0 for no rows. */
static anykv_status check_form(anykv_context *context, const char *what, const anykv_view *view,
                               uint32_t tokens, uint32_t heads, uint32_t dim, uint64_t *bytes_out)
{
    *bytes_out = 0;
    if (!view)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", what);
    if (view->dtype < ANYKV_F32 || view->dtype > ANYKV_BF16)
        return akv_fail(context, ANYKV_E_ARG, "%s.dtype: %d is none of F32, F16, BF16", what,
                        (int)view->dtype);
    if (view->data && view->mem)
        return akv_fail(context, ANYKV_E_ARG, "%s: both data and mem are set", what);
    if (!view->data && view->offset && !view->mem)
        return akv_fail(context, ANYKV_E_ARG, "%s: an offset without mem", what);
    if (tokens == 0 || heads == 0 || dim == 0)
        return ANYKV_OK;
    if (!view->data && !view->mem)
        return akv_fail(context, ANYKV_E_ARG, "%s: neither data nor mem is set", what);
    if (!extent(view, tokens, heads, dim, bytes_out))
        return akv_fail(
            context, ANYKV_E_SHAPE, "%s: strides %llu and %llu do not fit in the address space",
            what, (unsigned long long)view->token_stride, (unsigned long long)view->head_stride);
    return ANYKV_OK;
}

static anykv_status check_data(anykv_context *context, const char *what, const anykv_view *view,
                               uint64_t bytes)
{
    const uint64_t each = akv_raw_bytes((akv_u32)view->dtype);
    if (view->offset)
        return akv_fail(context, ANYKV_E_ARG, "%s: data with an offset", what);
    uintptr_t address = (uintptr_t)view->data;
    if (address % each)
        return akv_fail(context, ANYKV_E_ARG, "%s.data: not aligned to %llu bytes", what,
                        (unsigned long long)each);
    if (bytes > UINTPTR_MAX - address)
        return akv_fail(context, ANYKV_E_SHAPE, "%s: rows end beyond the address space", what);
    return ANYKV_OK;
}

anykv_status akv_view_check_host(anykv_context *context, const char *what, const anykv_view *view,
                                 uint32_t tokens, uint32_t heads, uint32_t dim)
{
    uint64_t bytes;
    anykv_status status = check_form(context, what, view, tokens, heads, dim, &bytes);
    if (!status && view->mem)
        status = akv_fail(context, ANYKV_E_ARG, "%s.mem: host memory is needed", what);
    return status || !bytes ? status : check_data(context, what, view, bytes);
}

anykv_status akv_view_check(anykv_device *device, const char *what, const anykv_view *view,
                            uint32_t tokens, uint32_t heads, uint32_t dim, bool write,
                            struct akv_span *span_out)
{
    anykv_context *context = device->context;
    uint64_t bytes;
    anykv_status status = check_form(context, what, view, tokens, heads, dim, &bytes);
    if (status)
        return status;
    if (!bytes) {
        *span_out = (struct akv_span){NULL, 0, 0};
        return ANYKV_OK;
    }
    if (write && rows_meet(view->token_stride, view->head_stride, tokens, heads, dim))
        return akv_fail(context, ANYKV_E_SHAPE,
                        "%s: strides %llu and %llu make written rows of %u elements overlap", what,
                        (unsigned long long)view->token_stride,
                        (unsigned long long)view->head_stride, dim);
    if (view->mem) {
        const uint64_t each = akv_raw_bytes((akv_u32)view->dtype);
        if (view->mem->device != device)
            return akv_fail(context, ANYKV_E_ARG, "%s.mem: belongs to another device", what);
        if (view->offset % each)
            return akv_fail(context, ANYKV_E_ARG, "%s.offset: %llu is not a multiple of %llu", what,
                            (unsigned long long)view->offset, (unsigned long long)each);
        uint64_t have = view->mem->mem->bytes;
        if (view->offset > have || bytes > have - view->offset)
            return akv_fail(context, ANYKV_E_SHAPE,
                            "%s: %llu bytes at offset %llu, the memory has %llu", what,
                            (unsigned long long)bytes, (unsigned long long)view->offset,
                            (unsigned long long)have);
        *span_out = (struct akv_span){view->mem->mem, view->offset, bytes};
        return ANYKV_OK;
    }
    status = check_data(context, what, view, bytes);
    if (!status)
        *span_out = akv_host_span(device->device, view->data, bytes);
    return status;
}

bool akv_view_dense(const anykv_view *view, uint32_t heads, uint32_t dim)
{
    return view->head_stride == dim && view->token_stride == (uint64_t)heads * dim;
}

/* Address of row (t, h) of a host view. */
static uint8_t *row_at(const anykv_view *view, uint32_t t, uint32_t h)
{
    return (uint8_t *)view->data +
           (t * view->token_stride + h * view->head_stride) * akv_raw_bytes((akv_u32)view->dtype);
}

void akv_view_pack(const anykv_view *view, uint32_t tokens, uint32_t heads, uint32_t dim,
                   void *dense)
{
    size_t row = (size_t)dim * akv_raw_bytes((akv_u32)view->dtype);
    uint8_t *to = dense;
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t h = 0; h < heads; h++, to += row)
            memcpy(to, row_at(view, t, h), row);
}

void akv_view_unpack(const anykv_view *view, uint32_t tokens, uint32_t heads, uint32_t dim,
                     const void *dense)
{
    size_t row = (size_t)dim * akv_raw_bytes((akv_u32)view->dtype);
    const uint8_t *from = dense;
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t h = 0; h < heads; h++, from += row)
            memcpy(row_at(view, t, h), from, row);
}
