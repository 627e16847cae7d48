/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: compressed rows, damaged or made up.  An input is a selector and the bytes; with an odd
 * selector the header's check is made right first, so that what lies behind it is reached. */
#include "fuzz.h"
#include "lib/kernel/bx16.h"
#include <anykv.h>
#include <string.h>

#define MOST 65536u

static anykv_device *device(void)
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

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    static const uint32_t tokens[] = {1, 3, 9, 40};
    static uint16_t rows[40 * 2 * 64];
    if (index >= 8 || capacity < 1 + sizeof rows)
        return 0;
    uint32_t n = tokens[index / 2] * 2 * 64, state = index + 1;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (uint16_t)((state >> 8 & 0x807Fu) | (110u + (state >> 27)) << 7);
    }
    anykv_view view = anykv_view_host(rows, ANYKV_BF16, 2, 64);
    uint64_t bytes = 0;
    out[0] = (uint8_t)(index & 1u);
    if (anykv_compress(device(), ANYKV_COMPRESS_BX16, &view, tokens[index / 2], 2, 64, out + 1, capacity - 1,
                       &bytes) != ANYKV_OK)
        return 1;
    return 1 + (size_t)bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    anykv_compression method;
    anykv_dtype dtype;
    uint32_t tokens, heads, dim;
    if (size < 1 || size > MOST)
        return 0;
    const size_t bytes = size - 1;
    uint8_t *packed = malloc(bytes ? bytes : 1);
    FUZZ_REQUIRE(packed);
    memcpy(packed, data + 1, bytes);
    if ((data[0] & 1u) && bytes >= ANYKV_COMPRESS_HEADER) {
        uint32_t word[16], sum = 0;
        uint64_t all = bytes;
        memcpy(packed, "AKVC", 4);
        memcpy(packed + 32, &all, 8);
        memcpy(word, packed, sizeof word);
        for (uint32_t j = 0; j < 16; j++)
            sum += j == 7 ? 0 : akv_bx16_mix(word[j], j);
        memcpy(packed + 28, &sum, 4);
    }
    anykv_status status = anykv_compressed_shape(packed, bytes, &method, &dtype, &tokens, &heads, &dim);
    FUZZ_REQUIRE(status == ANYKV_OK || (status == ANYKV_E_DATA && anykv_error_detail()[0]));
    if (status == ANYKV_OK) {
        const size_t n = (size_t)tokens * heads * dim;
        if (method != ANYKV_COMPRESS_BX16) { /* other targets */
            free(packed);
            return 0;
        }
        FUZZ_REQUIRE(dtype == ANYKV_BF16 && n <= bytes);
        uint8_t *rows = malloc(n * 2u); /* exactly: a write beyond is seen */
        uint8_t *again = malloc(bytes);
        FUZZ_REQUIRE(rows && again);
        anykv_view view = anykv_view_host(rows, dtype, heads, dim);
        status = anykv_decompress(device(), packed, bytes, &view, tokens, heads, dim);
        FUZZ_REQUIRE(status == ANYKV_OK || status == ANYKV_E_DATA);
        uint64_t made = 0;
        if (status == ANYKV_OK) /* what it holds goes again, unless it does not pay */
            status = anykv_compress(device(), ANYKV_COMPRESS_BX16, &view, tokens, heads, dim, again, bytes, &made);
        FUZZ_REQUIRE(status == ANYKV_OK || anykv_error_detail()[0]);
        FUZZ_REQUIRE(status != ANYKV_OK || made <= bytes);
        free(rows);
        free(again);
    }
    free(packed);
    return 0;
}
