/* SPDX-License-Identifier: Apache-2.0 */
/* What the fuzz targets of compressed rows share. */
#ifndef AKV_TESTS_FUZZ_ROWS_H
#define AKV_TESTS_FUZZ_ROWS_H
#include "compressed.h"
#include "fuzz.h"
#include <stdbool.h>

#define MOST 65536u /* bytes of an input */

static inline anykv_device *fuzz_device(void)
{
    static anykv_context *context;
    static anykv_device *opened;
    if (!opened) {
        anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
        options.threads = 0;
        FUZZ_REQUIRE(anykv_context_create(NULL, &context) == ANYKV_OK);
        FUZZ_REQUIRE(anykv_device_open(context, "cpu", &options, &opened) == ANYKV_OK);
    }
    return opened;
}

static inline uint32_t fuzz_random(uint32_t *state)
{
    return *state = *state * 1664525u + 1013904223u;
}

/* Bytes of an input behind its selector, in memory of their own: a read beyond them is seen. */
static inline uint8_t *fuzz_rest(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size > 1 ? size - 1 : 1);
    FUZZ_REQUIRE(bytes);
    memcpy(bytes, data + 1, size - 1);
    return bytes;
}

struct fuzz_shape {
    anykv_compression method;
    anykv_dtype dtype;
    uint32_t tokens, heads, dim;
};
/* What the header says; false: it is damaged, or of another method. */
static inline bool fuzz_header(const uint8_t *packed, uint64_t bytes, anykv_compression method,
                               struct fuzz_shape *s)
{
    const anykv_status status = anykv_compressed_shape(packed, bytes, &s->method, &s->dtype,
                                                       &s->tokens, &s->heads, &s->dim);
    FUZZ_REQUIRE(status == ANYKV_OK || (status == ANYKV_E_DATA && anykv_error_detail()[0]));
    return status == ANYKV_OK && s->method == method;
}

#endif
