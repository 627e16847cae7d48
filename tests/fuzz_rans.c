/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: compressed packed rows, damaged or made up.  An input is a selector and the bytes; with an odd
 * selector the checks of the header and of the streams' heads are made right first, so that what lies behind
 * them is reached. */
#include "fuzz.h"
#include "lib/rans.h"
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
    static const anykv_format formats[] = {ANYKV_I8, ANYKV_N5, ANYKV_N3, ANYKV_N2};
    static uint8_t data[MOST];
    const uint32_t tokens = index & 1u ? 200 : 700;
    if (index >= 8)
        return 0;
    anykv_packed packed = {data, 0, formats[index / 2], tokens, 1, 64};
    FUZZ_REQUIRE(anykv_compress_packed_bound(ANYKV_COMPRESS_RANS, packed.format, tokens, 1, 64, &packed.bytes) == ANYKV_OK);
    FUZZ_REQUIRE(packed.bytes <= sizeof data);
    uint32_t state = index + 1;
    for (uint64_t i = 0; i < packed.bytes; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (uint8_t)(state >> 30 ? 0x11u * (state >> 28 & 1u) : state >> 16);
    }
    uint64_t bytes = 0;
    out[0] = (uint8_t)(index & 1u);
    if (anykv_compress_packed(device(), ANYKV_COMPRESS_RANS, &packed, out + 1, capacity - 1, &bytes) != ANYKV_OK)
        return 1;
    return 1 + (size_t)bytes;
}

static uint32_t sum_of(const uint8_t *at, uint64_t words, uint64_t skip)
{
    uint32_t sum = 0;
    for (uint64_t j = 0; j < words; j++) {
        uint32_t word;
        memcpy(&word, at + 4 * j, 4);
        sum += j == skip ? 0 : akv_bx16_mix(word, (uint32_t)j);
    }
    return sum;
}

/* The check of a stream of this shape; returns its bytes, or 0 where there is none. */
static uint64_t mend(const akv_rans_params *shape, uint8_t *at, uint64_t bytes)
{
    akv_rans_params p = *shape;
    uint32_t head[4];
    if (bytes < sizeof head)
        return 0;
    memcpy(head, at, sizeof head);
    p.tables = head[2] & 0xFFu;
    const uint64_t words = 4 + akv_rans_model_words(&p) + 2ull * akv_rans_segments(&p);
    if (words * 4 > bytes || head[0] > bytes)
        return 0;
    const uint32_t sum = sum_of(at, words, 1);
    memcpy(at + 4, &sum, 4);
    return head[0];
}

static void mend_all(uint8_t *in, uint64_t bytes)
{
    akv_rans_params codes, scales;
    uint32_t method = ANYKV_COMPRESS_RANS, field[4]; /* format, tokens, heads, elements */
    memcpy(in, "AKVC", 4);
    memcpy(in + 4, &method, 4);
    memcpy(in + 32, &bytes, 8);
    const uint32_t sum = sum_of(in, 16, 7);
    memcpy(in + 28, &sum, 4);
    memcpy(field, in + 8, sizeof field);
    uint64_t plain;
    if (anykv_compress_packed_bound(ANYKV_COMPRESS_RANS, (anykv_format)field[0], field[1], field[2], field[3], &plain) ||
        !akv_rans_codes(&codes, field[0], 0, field[3], field[1] * field[2], field[2], 1, true) ||
        !akv_rans_scales(&scales, field[0], field[3], field[1] * field[2], field[2], 1, true))
        return;
    uint64_t at = ANYKV_COMPRESS_HEADER + mend(&codes, in + ANYKV_COMPRESS_HEADER, bytes - ANYKV_COMPRESS_HEADER);
    if (at < bytes)
        mend(&scales, in + at, bytes - at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    anykv_compression method;
    anykv_dtype dtype;
    uint32_t tokens, heads, dim;
    if (size < 1 || size > MOST)
        return 0;
    const size_t bytes = size - 1;
    uint8_t *in = malloc(bytes ? bytes : 1);
    FUZZ_REQUIRE(in);
    memcpy(in, data + 1, bytes);
    if ((data[0] & 1u) && bytes >= ANYKV_COMPRESS_HEADER)
        mend_all(in, bytes);
    anykv_status status = anykv_compressed_shape(in, bytes, &method, &dtype, &tokens, &heads, &dim);
    FUZZ_REQUIRE(status == ANYKV_OK || (status == ANYKV_E_DATA && anykv_error_detail()[0]));
    if (status == ANYKV_OK && method == ANYKV_COMPRESS_RANS) {
        anykv_packed packed = {NULL, 0, (anykv_format)dtype, tokens, heads, dim};
        FUZZ_REQUIRE(anykv_compress_packed_bound(method, packed.format, tokens, heads, dim, &packed.bytes) == ANYKV_OK);
        if (packed.bytes <= 1u << 24) {
            packed.data = malloc(packed.bytes); /* exactly: a write beyond is seen */
            uint8_t *again = malloc(packed.bytes);
            uint64_t made = 0;
            FUZZ_REQUIRE(packed.data && again);
            memset(packed.data, 0, packed.bytes);
            status = anykv_decompress_packed(device(), in, bytes, &packed);
            FUZZ_REQUIRE(status == ANYKV_OK || (status == ANYKV_E_DATA && anykv_error_detail()[0]));
            if (status == ANYKV_OK) /* whatever it holds can be compressed again, unless it does not pay */
                status = anykv_compress_packed(device(), method, &packed, again, packed.bytes, &made);
            FUZZ_REQUIRE(status == ANYKV_OK || status == ANYKV_E_DATA || status == ANYKV_E_UNSUPPORTED);
            FUZZ_REQUIRE(made <= packed.bytes);
            free(packed.data);
            free(again);
        }
    }
    free(in);
    return 0;
}
