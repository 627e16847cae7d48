/* SPDX-License-Identifier: Apache-2.0 */
/* What a fuzz target offers and may use.  A target is one file that defines LLVMFuzzerTestOneInput and
 * akv_fuzz_seed; libFuzzer drives it (./dev fuzz), or fuzz_main.c on a fixed set of inputs (make check). */
#ifndef AKV_TESTS_FUZZ_H
#define AKV_TESTS_FUZZ_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
/* Writes valid input number `index` and returns its size, 0 behind the last. */
size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity);
/* Path of a file in memory that holds the bytes until the next call. */
const char *akv_fuzz_file(const uint8_t *data, size_t size);

/* A property that must hold for every input. */
#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Takes an input apart; behind its end everything is 0. */
struct fuzz_bytes {
    const uint8_t *at, *end;
};
static inline uint8_t fuzz_u8(struct fuzz_bytes *bytes)
{
    return bytes->at < bytes->end ? *bytes->at++ : 0;
}
static inline uint32_t fuzz_u32(struct fuzz_bytes *bytes)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++)
        value |= (uint32_t)fuzz_u8(bytes) << (8 * i);
    return value;
}
static inline uint64_t fuzz_u64(struct fuzz_bytes *bytes)
{
    uint64_t low = fuzz_u32(bytes);
    return low | (uint64_t)fuzz_u32(bytes) << 32;
}

#endif
