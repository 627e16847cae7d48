/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: the safetensors reader, and the reader of dumps on top of it. */
#include "../tools/dump.h"
#include "fuzz.h"
#include <string.h>

static size_t with_header(const char *header, size_t data_bytes, uint8_t *out, size_t capacity)
{
    size_t bytes = strlen(header);
    if (8 + bytes + data_bytes > capacity)
        return 0;
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)((uint64_t)bytes >> (8 * i));
    memcpy(out + 8, header, bytes);
    memset(out + 8 + bytes, 1, data_bytes);
    return 8 + bytes + data_bytes;
}

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    switch (index) {
    case 0:
        return with_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                           "\"b\":{\"dtype\":\"I32\",\"shape\":[4],\"data_offsets\":[24,40]}}",
                           40, out, capacity);
    case 1:
        return with_header(
            "{\"__metadata__\":{\"model\":\"m\",\"license\":\"l\",\"text\":\"t\",\"layers\":\"0\","
            "\"q_heads\":\"2\",\"kv_heads\":\"1\",\"head_dim\":\"64\",\"tokens\":\"2\",\"q_first\":\"1\","
            "\"scale\":\"0.125\",\"rope\":\"half\",\"rope_base\":\"10000\",\"rope_dim\":\"64\"},"
            "\"tokens\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"layers.0.k\":{\"dtype\":\"F16\",\"shape\":[2,1,64],\"data_offsets\":[8,264]},"
            "\"layers.0.v\":{\"dtype\":\"F16\",\"shape\":[2,1,64],\"data_offsets\":[264,520]},"
            "\"layers.0.q\":{\"dtype\":\"F16\",\"shape\":[1,2,64],\"data_offsets\":[520,776]}}",
            776, out, capacity);
    default:
        return 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = akv_fuzz_file(data, size);
    struct akv_safetensors *file = NULL;
    if (akv_safetensors_open(path, &file) == ANYKV_OK) {
        uint64_t total = 0;
        for (uint32_t i = 0; i < akv_safetensors_count(file); i++) {
            const struct akv_tensor *tensor = akv_safetensors_at(file, i);
            FUZZ_REQUIRE(tensor->bytes <= size && tensor->rank <= AKV_TENSOR_RANK);
            FUZZ_REQUIRE(akv_safetensors_find(file, tensor->name) != NULL);
            total += tensor->bytes;
            void *rows = malloc(tensor->bytes ? (size_t)tensor->bytes : 1);
            FUZZ_REQUIRE(rows && akv_safetensors_read(file, tensor, rows) == ANYKV_OK);
            free(rows);
        }
        FUZZ_REQUIRE(total <= size);
        (void)akv_safetensors_meta(file, "model");
        akv_safetensors_close(file);
    } else {
        FUZZ_REQUIRE(anykv_error_detail()[0] != '\0');
    }

    struct akv_dump dump;
    if (akv_dump_open(&dump, path) == ANYKV_OK) {
        FUZZ_REQUIRE(dump.q_first <= dump.tokens && dump.tokens <= size && dump.layers <= AKV_DUMP_LAYERS);
        uint32_t *ids = calloc((size_t)dump.tokens + 1, sizeof *ids);
        FUZZ_REQUIRE(ids);
        (void)akv_dump_tokens(&dump, ids);
        free(ids);
        for (uint32_t i = 0; i < dump.layers && i < 4; i++) {
            struct akv_dump_layer layer;
            FUZZ_REQUIRE(akv_dump_load(&dump, i, &layer) == ANYKV_OK);
            akv_dump_free(&layer);
        }
    }
    akv_dump_close(&dump);
    return 0;
}
