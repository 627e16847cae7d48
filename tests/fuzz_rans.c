/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: compressed packed rows, damaged or made up.  An input is a selector and the bytes; with an odd
 * selector the checks of the header and of the streams' heads are made right first, so that what lies behind
 * them is reached. */
#include "fuzz_rows.h"
#include "lib/rans.h"

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
        (void)fuzz_random(&state);
        data[i] = (uint8_t)(state >> 30 ? 0x11u * (state >> 28 & 1u) : state >> 16);
    }
    uint64_t bytes = 0;
    out[0] = (uint8_t)(index & 1u);
    if (anykv_compress_packed(fuzz_device(), ANYKV_COMPRESS_RANS, &packed, out + 1, capacity - 1, &bytes) != ANYKV_OK)
        return 1;
    return 1 + (size_t)bytes;
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
    const uint32_t sum = compressed_sum(at, words, 1);
    memcpy(at + 4, &sum, 4);
    return head[0];
}

static void mend_all(uint8_t *in, uint64_t bytes)
{
    akv_rans_params codes, scales;
    uint32_t method = ANYKV_COMPRESS_RANS, field[4]; /* format, tokens, heads, elements */
    memcpy(in + 4, &method, 4);
    compressed_seal(in, bytes);
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
    struct fuzz_shape s;
    if (size < 1 || size > MOST)
        return 0;
    const size_t bytes = size - 1;
    uint8_t *in = fuzz_rest(data, size);
    if ((data[0] & 1u) && bytes >= ANYKV_COMPRESS_HEADER)
        mend_all(in, bytes);
    if (fuzz_header(in, bytes, ANYKV_COMPRESS_RANS, &s)) {
        anykv_packed packed = {NULL, 0, (anykv_format)s.dtype, s.tokens, s.heads, s.dim};
        FUZZ_REQUIRE(anykv_compress_packed_bound(s.method, packed.format, s.tokens, s.heads, s.dim, &packed.bytes) ==
                     ANYKV_OK);
        if (packed.bytes <= 1u << 24) {
            packed.data = malloc(packed.bytes); /* exactly: a write beyond is seen */
            uint8_t *again = malloc(packed.bytes);
            uint64_t made = 0;
            FUZZ_REQUIRE(packed.data && again);
            memset(packed.data, 0, packed.bytes);
            anykv_status status = anykv_decompress_packed(fuzz_device(), in, bytes, &packed);
            FUZZ_REQUIRE(status == ANYKV_OK || (status == ANYKV_E_DATA && anykv_error_detail()[0]));
            if (status == ANYKV_OK) /* whatever it holds can be compressed again, unless it does not pay */
                status = anykv_compress_packed(fuzz_device(), s.method, &packed, again, packed.bytes, &made);
            FUZZ_REQUIRE(status == ANYKV_OK || status == ANYKV_E_DATA || status == ANYKV_E_UNSUPPORTED);
            FUZZ_REQUIRE(made <= packed.bytes);
            free(packed.data);
            free(again);
        }
    }
    free(in);
    return 0;
}
