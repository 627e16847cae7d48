/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: compressed rows, damaged or made up.  An input is a selector and the bytes; with an odd
 * selector the header's check is made right first, so that what lies behind it is reached. */
#include "fuzz_rows.h"

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    static const uint32_t tokens[] = {1, 3, 9, 40};
    static uint16_t rows[40 * 2 * 64];
    if (index >= 8 || capacity < 1 + sizeof rows)
        return 0;
    uint32_t n = tokens[index / 2] * 2 * 64, state = index + 1;
    for (uint32_t i = 0; i < n; i++) {
        (void)fuzz_random(&state);
        rows[i] = (uint16_t)((state >> 8 & 0x807Fu) | (110u + (state >> 27)) << 7);
    }
    anykv_view view = anykv_view_host(rows, ANYKV_BF16, 2, 64);
    uint64_t bytes = 0;
    out[0] = (uint8_t)(index & 1u);
    if (anykv_compress(fuzz_device(), ANYKV_COMPRESS_BX16, &view, tokens[index / 2], 2, 64, out + 1, capacity - 1,
                       &bytes) != ANYKV_OK)
        return 1;
    return 1 + (size_t)bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_shape s;
    if (size < 1 || size > MOST)
        return 0;
    const size_t bytes = size - 1;
    uint8_t *packed = fuzz_rest(data, size);
    if ((data[0] & 1u) && bytes >= ANYKV_COMPRESS_HEADER)
        compressed_seal(packed, bytes);
    if (fuzz_header(packed, bytes, ANYKV_COMPRESS_BX16, &s)) {
        const size_t n = (size_t)s.tokens * s.heads * s.dim;
        FUZZ_REQUIRE(s.dtype == ANYKV_BF16 && n <= bytes);
        uint8_t *rows = malloc(n * 2u); /* exactly: a write beyond is seen */
        uint8_t *again = malloc(bytes);
        FUZZ_REQUIRE(rows && again);
        anykv_view view = anykv_view_host(rows, s.dtype, s.heads, s.dim);
        anykv_status status = anykv_decompress(fuzz_device(), packed, bytes, &view, s.tokens, s.heads, s.dim);
        FUZZ_REQUIRE(status == ANYKV_OK || status == ANYKV_E_DATA);
        uint64_t made = 0;
        if (status == ANYKV_OK) /* what it holds goes again, unless it does not pay */
            status = anykv_compress(fuzz_device(), s.method, &view, s.tokens, s.heads, s.dim, again, bytes, &made);
        FUZZ_REQUIRE(status == ANYKV_OK || anykv_error_detail()[0]);
        FUZZ_REQUIRE(status != ANYKV_OK || made <= bytes);
        free(rows);
        free(again);
    }
    free(packed);
    return 0;
}
