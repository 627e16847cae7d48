/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: the reader of request traces. */
#include "../tools/trace.h"
#include "fuzz.h"
#include <string.h>

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    static const char *const seeds[] = {
        "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": [0, 1, 2]}\n"
        "{\"timestamp\": 10, \"input_length\": 1536, \"output_length\": 5, \"hash_ids\": [0, 1, 3]}\n"
        "{\"timestamp\": 10, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [0]}\n",
        "{\"timestamp\":27000,\"input_length\":512,\"output_length\":1,\"hash_ids\":[4294967296],"
        "\"more\":{\"a\":[true,null,-1.5e3,\"\\u00e9\"]}}\n\n",
    };
    if (index >= sizeof seeds / sizeof seeds[0] || strlen(seeds[index]) > capacity)
        return 0;
    memcpy(out, seeds[index], strlen(seeds[index]));
    return strlen(seeds[index]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct akv_trace trace;
    if (akv_trace_load(akv_fuzz_file(data, size), 512, &trace) == ANYKV_OK) {
        FUZZ_REQUIRE(trace.blocks <= size && trace.ids <= trace.blocks);
        for (uint32_t r = 0; r < trace.requests; r++) {
            FUZZ_REQUIRE(trace.first[r] <= trace.first[r + 1]);
            FUZZ_REQUIRE(r == 0 || trace.seconds[r] >= trace.seconds[r - 1]);
            for (uint64_t i = trace.first[r]; i < trace.first[r + 1]; i++) {
                FUZZ_REQUIRE(trace.id[i] < trace.ids);
                FUZZ_REQUIRE(trace.again[i] == AKV_NEVER ||
                             (trace.again[i] > r && trace.again[i] < trace.requests));
                FUZZ_REQUIRE(trace.depth[trace.id[i]] == i - trace.first[r]);
            }
        }
    } else {
        FUZZ_REQUIRE(anykv_error_detail()[0] != '\0');
    }
    akv_trace_free(&trace);
    return 0;
}
