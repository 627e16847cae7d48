/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: the reader of calibrations.  Bytes as they come are stopped by the checksum, so every input
 * is read a second time with a checksum and a size that fit. */
#include "fuzz.h"
#include "../lib/calibration.h"
#include <anykv.h>
#include <string.h>

/* A calibration of two layers, one with means and matrices, one with means, written by the library. */
size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    static const uint64_t turns[3] = {1u << 20, 1u << 10, 1};
    if (index > 2)
        return 0;
    anykv_calibration *calibration;
    FUZZ_REQUIRE(akv_calibration_create(NULL, 2, &calibration) == ANYKV_OK);
    for (uint32_t l = 0; l < 2; l++) {
        struct akv_calibration_layer *layer = &calibration->layers[l];
        layer->number = 3 * l;
        layer->kv_heads = 1 + index;
        layer->rope_pairs = 3;
        layer->rope = index & 1;
        layer->side[0].dim = layer->side[1].dim = 64;
        layer->side[0].transform = l == 0 && index ? ANYKV_TRANSFORM_MATRIX : ANYKV_TRANSFORM_CENTRE;
        layer->side[1].transform = ANYKV_TRANSFORM_ROTATE;
        FUZZ_REQUIRE(akv_calibration_room(calibration, layer) == ANYKV_OK);
        memcpy(layer->turns, turns, sizeof turns);
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            layer->side[0].head[h].transform = layer->side[0].transform;
            layer->side[1].head[h].transform = ANYKV_TRANSFORM_ROTATE;
            for (uint32_t i = 0; i < 64; i++) {
                layer->side[0].mu[h * 64 + i] = (uint16_t)(0x3C00 + i);
                if (layer->side[0].matrix)
                    layer->side[0].matrix[(h * 64 + i) * 64 + i] = 0x3C00; /* the identity */
            }
        }
    }
    calibration->weights_bytes = index;
    memset(calibration->model, 'm', 5 * index);
    FUZZ_REQUIRE(akv_calibration_finish(calibration) == ANYKV_OK);
    size_t bytes = capacity;
    anykv_status status = anykv_calibration_write(calibration, out, &bytes);
    anykv_calibration_destroy(calibration);
    FUZZ_REQUIRE(status == ANYKV_OK);
    return bytes;
}

static bool read_one(anykv_context *context, const uint8_t *data, size_t size)
{
    anykv_calibration *calibration = NULL;
    const anykv_status status = anykv_calibration_read(context, data, size, &calibration);
    if (status != ANYKV_OK) {
        FUZZ_REQUIRE(status == ANYKV_E_DATA && !calibration);
        FUZZ_REQUIRE(strncmp(anykv_error_detail(), "calibration", 11) == 0);
        return false;
    }
    /* What was read is what would be written, and every part of it can be asked for. */
    size_t bytes = size;
    uint8_t *copy = malloc(size);
    FUZZ_REQUIRE(copy && anykv_calibration_write(calibration, copy, &bytes) == ANYKV_OK);
    FUZZ_REQUIRE(bytes == size && memcmp(copy, data, size) == 0);
    free(copy);
    anykv_calibration_info info = ANYKV_CALIBRATION_INFO_INIT;
    FUZZ_REQUIRE(anykv_calibration_describe(calibration, 0, 0, 0, &info) == ANYKV_OK);
    for (uint32_t l = 0; l < info.layers; l++)
        for (uint32_t side = 0; side < 2; side++) {
            FUZZ_REQUIRE(anykv_calibration_describe(calibration, l, side, 0, &info) == ANYKV_OK);
            FUZZ_REQUIRE(akv_calibration_find(calibration, info.number) == &calibration->layers[l]);
        }
    anykv_calibration_destroy(calibration);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static anykv_context *context;
    if (!context)
        FUZZ_REQUIRE(anykv_context_create(NULL, &context) == ANYKV_OK);
    read_one(context, data, size);
    if (size < 96)
        return 0;
    uint8_t *signed_copy = malloc(size);
    FUZZ_REQUIRE(signed_copy);
    memcpy(signed_copy, data, size);
    for (unsigned i = 0; i < 8; i++)
        signed_copy[16 + i] = (uint8_t)((uint64_t)size >> (8 * i));
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, signed_copy, size - 32);
    const akv_digest sum = akv_sha256_final(&state);
    memcpy(signed_copy + size - 32, sum.byte, 32);
    read_one(context, signed_copy, size);
    free(signed_copy);
    return 0;
}
