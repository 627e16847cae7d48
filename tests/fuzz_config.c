/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: the importer of configurations, YAML and JSON. */
#include "fuzz.h"
#include <anykv.h>
#include <string.h>

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    static const char *const seeds[] = {
        "# comment\nkv_cache:\n  num_heads: 16\n  head_dim: 128\n  dtype: \"torch.float16\"\n"
        "  cache_mode: inference  # or another\n  compression_ratio: 0.3\n"
        "  use_compression: true\n  quantization_bits: 8\n  gc_threshold: 0.8\n",
        "{\"kv_cache\": {\"max_tokens\": 512, \"dtype\": \"float32\", \"enable_gc\": true,\n"
        "\"max_memory_mb\": 100}}",
    };
    if (index >= sizeof seeds / sizeof seeds[0] || strlen(seeds[index]) > capacity)
        return 0;
    memcpy(out, seeds[index], strlen(seeds[index]));
    return strlen(seeds[index]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static anykv_config_field fields[64];
    anykv_config config = ANYKV_CONFIG_INIT;
    uint32_t count = 64;
    const char *text = size ? (const char *)data : "";
    if (anykv_config_import(NULL, text, size, &config, fields, &count) != ANYKV_OK) {
        FUZZ_REQUIRE(anykv_error_detail()[0] != '\0' && config.accepted == 0);
        return 0;
    }
    FUZZ_REQUIRE(count <= 64 && config.accepted + config.mapped + config.refused == count);
    for (uint32_t i = 0; i < count; i++) {
        FUZZ_REQUIRE(memchr(fields[i].name, '\0', sizeof fields[i].name) != NULL);
        FUZZ_REQUIRE(memchr(fields[i].value, '\0', sizeof fields[i].value) != NULL);
        FUZZ_REQUIRE(memchr(fields[i].note, '\0', sizeof fields[i].note) != NULL);
        FUZZ_REQUIRE(fields[i].verdict >= ANYKV_ACCEPTED && fields[i].verdict <= ANYKV_REFUSED);
    }
    FUZZ_REQUIRE(config.options.error_budget >= 0.0f && config.options.error_budget <= 1.0f);
    FUZZ_REQUIRE(config.options.low_watermark <= config.options.high_watermark);
    FUZZ_REQUIRE(config.options.high_watermark <= 1.0f);
    return 0;
}
