/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of compressed rows, for tests that make or change the data themselves. */
#ifndef TESTS_COMPRESSED_H
#define TESTS_COMPRESSED_H
#include "lib/kernel/bx16.h"
#include <anykv.h>
#include <string.h>

/* Of 32-bit words from 0 on; the word that holds the check itself is passed over. */
static inline uint32_t compressed_sum(const uint8_t *at, uint64_t words, uint64_t skip)
{
    uint32_t sum = 0;
    for (uint64_t j = 0; j < words; j++) {
        uint32_t word;
        memcpy(&word, at + 4 * j, 4);
        sum += j == skip ? 0 : akv_bx16_mix(word, (uint32_t)j);
    }
    return sum;
}

/* Makes magic number, size and check of a header right. */
static inline void compressed_seal(uint8_t *packed, uint64_t bytes)
{
    memcpy(packed, "AKVC", 4);
    memcpy(packed + 32, &bytes, 8);
    const uint32_t sum = compressed_sum(packed, ANYKV_COMPRESS_HEADER / 4, 7);
    memcpy(packed + 28, &sum, 4);
}

#endif
