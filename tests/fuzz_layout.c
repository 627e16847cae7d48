/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: layouts and cache options of arbitrary numbers: refused with a text, or sound. */
#include "fuzz.h"
#include <anykv.h>
#include <string.h>

#define LAYERS 6u

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    /* Bytes of fuzz_u8 and fuzz_u32 in the order in which the target takes them: all "valid". */
    if (index > 3 || capacity < 256)
        return 0;
    memset(out, 0, 256);
    for (unsigned i = 0; i < 256; i++)
        out[i] = (uint8_t)((i * (2 * index + 1)) % 5 == 4 ? 0x40 + index : 0);
    return 256;
}

/* Mostly a sensible value from the list, sometimes anything. */
static uint32_t pick(struct fuzz_bytes *in, const uint32_t *list, uint32_t count)
{
    uint8_t choice = fuzz_u8(in);
    return choice >= 240 ? fuzz_u32(in) : list[choice % count];
}
#define PICK(in, ...)                                                                              \
    pick(in, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static anykv_context *context;
    static anykv_device *device;
    struct fuzz_bytes in = {data, data + size};
    if (!context) {
        anykv_device_options inline_cpu = ANYKV_DEVICE_OPTIONS_INIT;
        inline_cpu.threads = 0;
        FUZZ_REQUIRE(anykv_context_create(NULL, &context) == ANYKV_OK);
        FUZZ_REQUIRE(anykv_device_open(context, "cpu", &inline_cpu, &device) == ANYKV_OK);
    }

    static const uint64_t turns[8] = {1, 2, 3, 4, 5, 6, 7, UINT64_MAX};
    anykv_layer layers[LAYERS];
    uint32_t count = PICK(&in, 1, 2, 3, LAYERS, 0);
    for (uint32_t i = 0; i < LAYERS; i++) {
        anykv_layer layer = ANYKV_LAYER_INIT;
        layer.kv_heads = PICK(&in, 1, 2, 8);
        layer.q_heads = PICK(&in, 8, 16, 1);
        layer.k_dim = PICK(&in, 128, 64, 80, 576);
        layer.v_dim = PICK(&in, 128, 64, 512);
        layer.window = PICK(&in, 0, 1, 100, 4096);
        layer.source = PICK(&in, ANYKV_OWN_ROWS, ANYKV_OWN_ROWS, 0);
        layer.k_format = (anykv_format)(int)PICK(&in, 7, 4, 1, 2, 3, 5, 6, 8, 9);
        layer.v_format = (anykv_format)(int)PICK(&in, 7, 4, 1, 2, 3, 5, 6, 8, 9);
        layer.hot_type = (anykv_format)(int)PICK(&in, 2, 3, 1);
        layer.k_transform = (anykv_transform)(int)PICK(&in, 1, 0);
        layer.v_transform = (anykv_transform)(int)PICK(&in, 1, 0);
        layer.rope_pairs = PICK(&in, 0, 8, 1) % 9;
        layer.rope_turns = layer.rope_pairs && fuzz_u8(&in) < 240 ? turns : NULL;
        layers[i] = layer;
    }
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    options.block_tokens = PICK(&in, 16, 32, 64, 128, 256);
    options.weights = fuzz_u8(&in) < 240 ? "weights" : NULL;
    options.weights_bytes = PICK(&in, 7, 1, 0) % 8;
    options.shards = PICK(&in, 1, 2, 8);
    options.shard = PICK(&in, 0, 1, 7);
    if (count > LAYERS)
        count = LAYERS;

    char text[300], tiny[8];
    memset(text, 'x', sizeof text);
    memset(tiny, 'x', sizeof tiny);
    anykv_status status = anykv_layout_check(layers, count, &options, text, sizeof text);
    FUZZ_REQUIRE(memchr(text, '\0', sizeof text) != NULL);
    FUZZ_REQUIRE(anykv_layout_check(layers, count, &options, tiny, 3) == status);
    FUZZ_REQUIRE(memchr(tiny, '\0', 3) != NULL && tiny[3] == 'x');
    anykv_layout *layout = NULL;
    FUZZ_REQUIRE(anykv_layout_create(context, layers, count, &options, &layout) == status);
    if (status != ANYKV_OK) {
        FUZZ_REQUIRE(layout == NULL && anykv_error_detail()[0] != '\0' && text[0] != '\0');
        return 0;
    }
    uint8_t identity[32];
    FUZZ_REQUIRE(anykv_layout_identity(layout, identity) == ANYKV_OK);

    anykv_cache_options cache = ANYKV_CACHE_OPTIONS_INIT;
    cache.budget_bytes = fuzz_u8(&in) < 200 ? fuzz_u32(&in) : fuzz_u64(&in);
    cache.sinks = PICK(&in, 4, 0, 100);
    cache.recent = PICK(&in, 128, 0, 1);
    cache.max_sequences = PICK(&in, 4, 1, 64);
    cache.max_step_tokens = PICK(&in, 64, 1, 2048);
    cache.max_seq_tokens = PICK(&in, 256, 64, 131072);
    cache.error_budget = (float)PICK(&in, 0, 5, 30, 60, 200) / 100.0f;
    cache.rungs[0] = (anykv_format)(int)PICK(&in, 4, 5, 7, 0);
    cache.rungs[1] = (anykv_format)(int)PICK(&in, 7, 9, 0, 4);
    cache.rungs[2] = (anykv_format)(int)PICK(&in, 9, 0);
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    if (anykv_cache_estimate(device, layout, &cache, &estimate) == ANYKV_OK) {
        FUZZ_REQUIRE(estimate.total_bytes <= cache.budget_bytes || cache.budget_bytes < estimate.minimum_bytes);
        FUZZ_REQUIRE(estimate.fixed_bytes <= estimate.minimum_bytes);
        FUZZ_REQUIRE(estimate.chunk_bytes != 0 && estimate.pool_bytes % estimate.chunk_bytes == 0);
    } else {
        FUZZ_REQUIRE(anykv_error_detail()[0] != '\0');
    }
    anykv_layout_destroy(layout);
    return 0;
}
