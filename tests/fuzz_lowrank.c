/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: low-rank data, damaged or made up.  An input is a selector and the bytes; with an odd selector
 * digest and checks are made right first, so that the stream of codes is reached. */
#include "fuzz_rows.h"

enum { HEADS = 2, DIM = 64, MANY = 272, FEW = 24 };

static anykv_calibration *calibration;
static float rows[MANY * HEADS * DIM];

static void begin(void)
{
    anykv_calibrate_options bases = ANYKV_CALIBRATE_OPTIONS_INIT;
    anykv_layer layer = ANYKV_LAYER_INIT;
    anykv_context *context;
    anykv_moments *moments;
    uint32_t state = 1;
    if (calibration)
        return;
    for (uint32_t i = 0; i < MANY * HEADS * DIM; i++)
        rows[i] = (float)(int32_t)fuzz_random(&state) * 0x1p-31f / (float)(1 + i % DIM);
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
    layer.kv_heads = layer.q_heads = HEADS;
    layer.k_dim = layer.v_dim = DIM;
    bases.bases = 1;
    FUZZ_REQUIRE(anykv_context_create(NULL, &context) == ANYKV_OK);
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
    FUZZ_REQUIRE(anykv_lowrank_compress(fuzz_device(), &options, &view, FEW, HEADS, DIM, out + 1, capacity - 1, &bytes) ==
                 ANYKV_OK);
    return 1 + (size_t)bytes;
}

/* Header, digest and both checks as a writer would have made them. */
static void mend(uint8_t *packed, uint64_t bytes)
{
    const uint64_t front = (uint64_t)ANYKV_COMPRESS_HEADER + 32 + HEADS * DIM;
    if (bytes >= front) {
        FUZZ_REQUIRE(anykv_calibration_digest(calibration, packed + ANYKV_COMPRESS_HEADER) == ANYKV_OK);
        const uint32_t sum =
            compressed_sum(packed + ANYKV_COMPRESS_HEADER, (front - ANYKV_COMPRESS_HEADER) / 4, UINT64_MAX);
        memcpy(packed + 48, &sum, 4);
    }
    compressed_seal(packed, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_shape s;
    if (size < 1 || size > MOST)
        return 0;
    begin();
    const size_t bytes = size - 1;
    uint8_t *packed = fuzz_rest(data, size);
    if ((data[0] & 1u) && bytes >= ANYKV_COMPRESS_HEADER)
        mend(packed, bytes);
    if (fuzz_header(packed, bytes, ANYKV_COMPRESS_LOWRANK, &s) && (uint64_t)s.tokens * s.heads * s.dim <= MOST * 16u) {
        float *back = malloc((size_t)s.tokens * s.heads * s.dim * (s.dtype == ANYKV_F32 ? 4 : 2)); /* exactly */
        FUZZ_REQUIRE(back);
        const anykv_view view = anykv_view_host(back, s.dtype, s.heads, s.dim);
        const anykv_status status =
            anykv_lowrank_decompress(fuzz_device(), calibration, packed, bytes, &view, s.tokens, s.heads, s.dim);
        FUZZ_REQUIRE(status == ANYKV_OK || status == ANYKV_E_DATA || status == ANYKV_E_SHAPE);
        FUZZ_REQUIRE(status == ANYKV_OK || anykv_error_detail()[0]);
        free(back);
    }
    free(packed);
    return 0;
}
