/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: low-rank data, damaged or made up.  An input is a selector and the bytes; with an odd selector
 * digest and checks are made right first, so that the stream of codes is reached. */
#include "fuzz.h"
#include "lib/kernel/bx16.h"
#include <anykv.h>
#include <string.h>

#define MOST 65536u
enum { HEADS = 2, DIM = 64, MANY = 272, FEW = 24 };

static anykv_context *context;
static anykv_device *device;
static anykv_calibration *calibration;
static float rows[MANY * HEADS * DIM];

static void begin(void)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_calibrate_options bases = ANYKV_CALIBRATE_OPTIONS_INIT;
    anykv_layer layer = ANYKV_LAYER_INIT;
    anykv_moments *moments;
    uint32_t state = 1;
    if (calibration)
        return;
    for (uint32_t i = 0; i < MANY * HEADS * DIM; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (float)(int32_t)state * 0x1p-31f / (float)(1 + i % DIM);
    }
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
    layer.kv_heads = layer.q_heads = HEADS;
    layer.k_dim = layer.v_dim = DIM;
    options.threads = 0;
    bases.bases = 1;
    FUZZ_REQUIRE(anykv_context_create(NULL, &context) == ANYKV_OK);
    FUZZ_REQUIRE(anykv_device_open(context, "cpu", &options, &device) == ANYKV_OK);
    FUZZ_REQUIRE(anykv_moments_create(context, &layer, 1, &moments) == ANYKV_OK);
    FUZZ_REQUIRE(anykv_moments_add(moments, 0, 0, MANY, &view, &view, &view) == ANYKV_OK);
    FUZZ_REQUIRE(anykv_moments_solve(moments, &bases, &calibration) == ANYKV_OK);
    anykv_moments_destroy(moments);
}

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    begin();
    if (index >= 8 || capacity < 1 + 4 * FEW * HEADS * DIM)
        return 0;
    anykv_lowrank_options options = ANYKV_LOWRANK_OPTIONS_INIT;
    options.calibration = calibration;
    options.side = index / 2 & 1u;
    options.step = index & 4u ? 0.01f : 0.1f;
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
    uint64_t bytes = 0;
    out[0] = (uint8_t)(index & 1u);
    FUZZ_REQUIRE(anykv_lowrank_compress(device, &options, &view, FEW, HEADS, DIM, out + 1, capacity - 1, &bytes) ==
                 ANYKV_OK);
    return 1 + (size_t)bytes;
}

/* Header, digest and both checks as a writer would have made them. */
static void mend(uint8_t *packed, uint64_t bytes)
{
    uint32_t word[16], sum = 0;
    uint64_t front = (uint64_t)ANYKV_COMPRESS_HEADER + 32 + HEADS * DIM;
    memcpy(packed, "AKVC", 4);
    memcpy(packed + 32, &bytes, 8);
    if (bytes >= front) {
        uint8_t digest[32];
        FUZZ_REQUIRE(anykv_calibration_digest(calibration, digest) == ANYKV_OK);
        memcpy(packed + ANYKV_COMPRESS_HEADER, digest, sizeof digest);
        for (uint32_t j = 0; j < (front - ANYKV_COMPRESS_HEADER) / 4; j++) {
            uint32_t value;
            memcpy(&value, packed + ANYKV_COMPRESS_HEADER + 4 * j, 4);
            sum += akv_bx16_mix(value, j);
        }
        memcpy(packed + 48, &sum, 4);
    }
    memcpy(word, packed, sizeof word);
    sum = 0;
    for (uint32_t j = 0; j < 16; j++)
        sum += j == 7 ? 0 : akv_bx16_mix(word[j], j);
    memcpy(packed + 28, &sum, 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    anykv_compression method;
    anykv_dtype dtype;
    uint32_t tokens, heads, dim;
    if (size < 1 || size > MOST)
        return 0;
    begin();
    const size_t bytes = size - 1;
    uint8_t *packed = malloc(bytes ? bytes : 1);
    FUZZ_REQUIRE(packed);
    memcpy(packed, data + 1, bytes);
    if ((data[0] & 1u) && bytes >= ANYKV_COMPRESS_HEADER)
        mend(packed, bytes);
    anykv_status status = anykv_compressed_shape(packed, bytes, &method, &dtype, &tokens, &heads, &dim);
    FUZZ_REQUIRE(status == ANYKV_OK || (status == ANYKV_E_DATA && anykv_error_detail()[0]));
    if (status == ANYKV_OK && method == ANYKV_COMPRESS_LOWRANK && (uint64_t)tokens * heads * dim <= MOST * 16u) {
        float *back = malloc((size_t)tokens * heads * dim * (dtype == ANYKV_F32 ? 4 : 2)); /* exactly */
        FUZZ_REQUIRE(back);
        const anykv_view view = anykv_view_host(back, dtype, heads, dim);
        status = anykv_lowrank_decompress(device, calibration, packed, bytes, &view, tokens, heads, dim);
        FUZZ_REQUIRE(status == ANYKV_OK || status == ANYKV_E_DATA || status == ANYKV_E_SHAPE);
        FUZZ_REQUIRE(status == ANYKV_OK || anykv_error_detail()[0]);
        free(back);
    }
    free(packed);
    return 0;
}
