/* SPDX-License-Identifier: Apache-2.0 */
/* Driver of the fuzz targets in make check: the seeds, then mutations of them and random bytes from a
 * fixed generator.  With libFuzzer (ANYKV_LIBFUZZER) only the seeds and the file are provided. */
#include "fuzz.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEED_BYTES 65536u

const char *akv_fuzz_file(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    FUZZ_REQUIRE(fd >= 0 && ftruncate(fd, 0) == 0);
    FUZZ_REQUIRE(pwrite(fd, data, size, 0) == (ssize_t)size);
    return path;
}

/* libFuzzer starts from files: ANYKV_FUZZ_SEEDS names the directory to write them to. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static uint8_t seed[SEED_BYTES];
    const char *directory = getenv("ANYKV_FUZZ_SEEDS");
    size_t size;
    (void)argc, (void)argv;
    for (unsigned i = 0; directory && (size = akv_fuzz_seed(i, seed, sizeof seed)) != 0; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/seed-%u", directory, i);
        FILE *file = fopen(path, "wb");
        FUZZ_REQUIRE(file && fwrite(seed, 1, size, file) == size && fclose(file) == 0);
    }
    return 0;
}

#if !defined(ANYKV_LIBFUZZER)
static uint64_t state = 1;
static uint32_t draw(uint32_t limit)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % limit);
}

/* One to eight small changes: a bit, a byte, a digit, a copied run, a cut. */
static size_t mutate(uint8_t *data, size_t size)
{
    for (uint32_t changes = 1 + draw(8); changes > 0 && size > 0; changes--) {
        uint32_t at = draw((uint32_t)size), run = 1 + draw(16), from = draw((uint32_t)size);
        switch (draw(6)) {
        case 0:
            data[at] ^= (uint8_t)(1u << draw(8));
            break;
        case 1:
            data[at] = (uint8_t)draw(256);
            break;
        case 2:
            data[at] = (uint8_t)("0123456789-.eE\"{}[]:,")[draw(21)];
            break;
        case 3:
            for (uint32_t i = 0; i < run && at + i < size && from + i < size; i++)
                data[at + i] = data[from + i];
            break;
        case 4:
            memset(data + at, draw(2) ? 0xff : 0, at + run <= size ? run : size - at);
            break;
        default:
            if (draw(4) == 0)
                size = at;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    static uint8_t input[SEED_BYTES];
    unsigned seeds = 0, rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 2000, runs = 0;
    size_t size;
    LLVMFuzzerInitialize(&argc, &argv);
    for (; (size = akv_fuzz_seed(seeds, input, sizeof input)) != 0; seeds++, runs++)
        LLVMFuzzerTestOneInput(input, size);
    for (unsigned i = 0; i < rounds; i++, runs++) {
        if (seeds != 0 && i % 4 != 3) {
            size = mutate(input, akv_fuzz_seed(i % seeds, input, sizeof input));
        } else {
            size = draw(512);
            for (size_t j = 0; j < size; j++)
                input[j] = (uint8_t)draw(256);
        }
        LLVMFuzzerTestOneInput(input, size);
    }
    printf("ok 1 - %u inputs\n1..1\n", runs);
    return 0;
}
#endif
