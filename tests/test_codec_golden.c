/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes that must never change, the worked block of docs/format.md, and planted faults. */
#include <criterion/criterion.h>
#include "../backends/cpu/device.h"
#include "../lib/kernel/fp.h"
#include "conform_inputs.h"
#include <stdio.h>
#include <stdlib.h>

static const uint32_t dims[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};
#define DIMS (sizeof dims / sizeof *dims)
static const char *const names[] = {"", "F32", "F16", "BF16", "I8", "N6", "N5", "N4", "N3", "N2",
                                    "E4M3", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL", "E4M3G"};

#define GUARD 64u
#define FILL  0xC5

static void run(const struct akv_cpu_kernel *kernel, const struct akv_cpu_args *args)
{
    kernel->run(args, 0, 0, kernel->items(args, 0));
}

struct buffer {
    uint8_t *bytes;
    size_t size;
};
static struct buffer filled(size_t size)
{
    struct buffer b = {malloc(size + GUARD), size};
    cr_assert_not_null(b.bytes);
    memset(b.bytes, FILL, size + GUARD);
    return b;
}
static int guarded(struct buffer b)
{
    for (size_t i = 0; i < GUARD; i++)
        if (b.bytes[b.size + i] != FILL)
            return 0;
    return 1;
}

static akv_encode_params dense(uint32_t tokens, uint32_t heads, uint32_t dim, uint32_t dtype,
                               uint32_t format, uint32_t flags)
{
    akv_encode_params p = {{(uint64_t)heads * dim, dim, dtype, heads}, tokens, dim, format, flags,
                           0, 0};
    return p;
}
static void encode(const struct akv_cpu_kernel *kernel, const akv_encode_params *p, void *rows,
                   uint8_t *tile)
{
    struct akv_cpu_args args = {.params = p, .arg = {rows, tile, NULL}};
    run(kernel, &args);
}

/* ---- golden bytes ---- */

struct golden {
    uint32_t format, flags, dim;
    const char *keys, *values; /* SHA-256 of tiles in ROW and in QUAD order */
};
static const struct golden golden[] = {
#include "golden/codec.inc"
};

static void hex(akv_digest digest, char text[65])
{
    for (int i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", digest.byte[i]);
}
static void digest_of(uint32_t format, uint32_t flags, uint32_t dim, char keys[65], char values[65])
{
    uint32_t rows = 4u * AKV_INPUT_KINDS; /* 56 */
    akv_encode_params p = dense(rows, 1, dim, AKV_F32, format, flags);
    struct buffer row = filled(akv_tile_bytes(format, rows, dim)), quad = filled(row.size);
    struct buffer in = filled((size_t)rows * dim * 4u);
    akv_sha256 k, v;
    akv_input_rows(UINT64_C(0x616E796B76), format, flags & 1u, AKV_F32, 0, rows, dim, in.bytes);
    encode(&akv_cpu_encode_scalar, &p, in.bytes, row.bytes);

    akv_seal_layer layer = {0, 0, 0, 0, 0, 0};
    akv_move move = {0, UINT64_C(1) << 56, 0, 0};
    akv_seal_params s = {.moves = 1,
                         .layers = 1,
                         .kv_heads = 1,
                         .block_tokens = rows,
                         .k_dim = dim,
                         .v_dim = dim,
                         .hot_type = AKV_F32,
                         .k_format = format,
                         .v_format = format,
                         .k_flags = flags,
                         .v_flags = flags};
    struct akv_cpu_args args = {.params = &s,
                                .arg = {(uint8_t *)&layer, (uint8_t *)&move, NULL},
                                .slab = {in.bytes, quad.bytes}};
    akv_cpu_seal_scalar.run(&args, 0, 1, 1); /* item 1: values */

    akv_sha256_init(&k);
    akv_sha256_update(&k, row.bytes, row.size);
    hex(akv_sha256_final(&k), keys);
    akv_sha256_init(&v);
    akv_sha256_update(&v, quad.bytes, quad.size);
    hex(akv_sha256_final(&v), values);
    free(row.bytes);
    free(quad.bytes);
    free(in.bytes);
}

/* With ANYKV_GOLDEN_WRITE=file the list is written instead: only when the format itself changes. */
Test(codec_golden, golden_bytes)
{
    const char *path = getenv("ANYKV_GOLDEN_WRITE");
    FILE *file = path ? fopen(path, "w") : NULL;
    size_t count = 0;
    for (uint32_t format = AKV_I8; format < AKV_FORMATS; format++)
        for (uint32_t flags = 0; flags < (akv_format_codebook(format) ? 4u : 2u); flags++)
            for (size_t d = 0; d < DIMS; d++, count++) {
                char keys[65], values[65];
                digest_of(format, flags, dims[d], keys, values);
                if (file) {
                    fprintf(file, "    {AKV_%s, %u, %u,\n     \"%s\",\n     \"%s\"},\n",
                            names[format], flags, dims[d], keys, values);
                    continue;
                }
                cr_assert_lt(count, sizeof golden / sizeof *golden);
                const struct golden *g = &golden[count];
                cr_assert(g->format == format && g->flags == flags && g->dim == dims[d],
                          "the list is out of order");
                cr_assert_str_eq(keys, g->keys, "%s flags %u dim %u, ROW: %s", names[format], flags,
                                 dims[d], keys);
                cr_assert_str_eq(values, g->values, "%s flags %u dim %u, QUAD: %s", names[format],
                                 flags, dims[d], values);
            }
    if (file)
        fclose(file);
    else
        cr_assert_eq(count, sizeof golden / sizeof *golden);
}

/* The block that docs/format.md shows byte by byte. */
Test(codec_golden, worked_block_of_the_document)
{
    uint8_t hot[2 * 16 * 64 * 2], block[1088];
    char text[65];
    for (uint32_t t = 0; t < 16u; t++)
        for (uint32_t i = 0; i < 64u; i++) {
            float key = (float)((int)((7u * i + 5u * t) % 23u) - 11) / 8.0f;
            float value = (float)((int)((5u * i + 3u * t) % 19u) - 9) / 16.0f;
            akv_store_bits(hot, t * 64u + i, AKV_F16, akv_as_u32(key));
            akv_store_bits(hot + 2048, t * 64u + i, AKV_F16, akv_as_u32(value));
        }
    akv_seal_layer layer = {0, 2048, 0, 544, 0, 0};
    akv_move move = {0, UINT64_C(1) << 56, 0, 0};
    akv_seal_params p = {.moves = 1,
                         .layers = 1,
                         .kv_heads = 1,
                         .block_tokens = 16,
                         .k_dim = 64,
                         .v_dim = 64,
                         .hot_type = AKV_F16,
                         .k_format = AKV_N4,
                         .v_format = AKV_N4,
                         .k_flags = AKV_FLAG_ROTATE | AKV_FLAG_SEARCH,
                         .v_flags = AKV_FLAG_ROTATE | AKV_FLAG_SEARCH};
    struct akv_cpu_args args = {
        .params = &p, .arg = {(uint8_t *)&layer, (uint8_t *)&move, NULL}, .slab = {hot, block}};
    run(&akv_cpu_seal_scalar, &args);
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, block, sizeof block);
    hex(akv_sha256_final(&state), text);
    cr_assert_str_eq(text, "d8bfd122fe70e470b12e6f4098c6450a9da6f11eba35eb59d7b567ac98268658");
}

/* ---- planted faults ---- */

Test(codec_golden, planted_faults_are_faults)
{
    for (uint32_t format = AKV_I8; format <= AKV_N2; format++)
        for (uint32_t plant = 0; plant <= 4u; plant++) {
            uint32_t tokens = 4u * AKV_INPUT_KINDS, dim = 128, heads = 2, rows = tokens * heads;
            akv_encode_params p = dense(tokens, heads, dim, AKV_F32, format, 0), q = p;
            struct buffer in = filled((size_t)rows * 160u * 4u);
            struct buffer a = filled(akv_tile_bytes(format, rows, dim)), b = filled(a.size);
            p.rows.token_stride = 320;
            p.rows.head_stride = 160;
            q = p;
            q.flags |= plant << AKV_FLAG_PLANT_SHIFT;
            for (uint32_t r = 0; r < rows; r++)
                akv_input_rows(9, format, 0, AKV_F32, r, 1, dim, in.bytes + (size_t)r * 640u);
            encode(&akv_cpu_encode_scalar, &p, in.bytes, a.bytes);
            encode(&akv_cpu_encode_planted, &q, in.bytes, b.bytes);
            int same = !memcmp(a.bytes, b.bytes, a.size);
            if (plant == 0)
                cr_assert(same && guarded(b), "%s without a fault", names[format]);
            else if (plant == 3u)
                cr_assert(same && !guarded(b), "%s store beyond the end", names[format]);
            else
                cr_assert(!same && guarded(b), "%s fault %u does not show", names[format], plant);
            free(in.bytes);
            free(a.bytes);
            free(b.bytes);
        }
}
