/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of entropy-coded symbols: naive bytes, every shape, entropy, damage, failures. */
#include "house.h"
#include "lib/kernel/format.h"
#include "lib/kernel/pack.h"
#include "lib/rans.h"
#include <stdlib.h>

enum { ROOM = 1 << 20 };

/* ---- a segment again, as slowly as it can be said: symbols in rows of 32 lanes to 16-bit numbers ---- */

struct naive {
    uint32_t f[32][16], raw, centre, width; /* frequencies by lane */
};

/* Level, bits and their number of a signed symbol, by search. */
static void naive_class(const struct naive *n, uint32_t symbol, uint32_t *class_, uint32_t *extra, uint32_t *bits)
{
    static const int32_t first[9] = {0, 1, 2, 3, 5, 9, 17, 33, 97}, more[9] = {0, 0, 0, 1, 2, 3, 4, 6, 6};
    if (n->raw != AKV_RANS_SIGNED) {
        *class_ = symbol / (1u << n->raw);
        *extra = n->raw;
        *bits = symbol % (1u << n->raw);
        return;
    }
    int32_t d = (int8_t)(uint8_t)(symbol - n->centre), m = abs(d), level = 8;
    while (m < first[level])
        level--;
    *class_ = level == 8 ? 15 : level == 0 ? 0 : (uint32_t)(2 * level - (d > 0));
    *extra = (uint32_t)more[level];
    *bits = (uint32_t)(level == 8 && d < 0 ? 31 + m - 97 : m - first[level]);
}

static uint32_t naive_segment(const struct naive *n, const uint8_t (*symbol)[32], uint32_t steps, uint32_t *out)
{
    static uint16_t put[32768];
    uint32_t count = 0, tail = 16 / n->width < steps ? 16 / n->width : steps;
    uint64_t x[32];
    for (uint32_t l = 0; l < 32; l++) {
        x[l] = 65536;
        for (uint32_t k = 0; k < tail; k++)
            x[l] += (uint64_t)symbol[steps - tail + k][l] << n->width * k;
    }
    for (uint32_t i = steps - tail; i-- > 0;)
        for (uint32_t l = 32; l-- > 0;) {
            uint32_t class_, extra, bits, below = 0;
            naive_class(n, symbol[i][l], &class_, &extra, &bits);
            const uint64_t f = n->f[l][class_];
            for (uint32_t c = 0; c < class_; c++)
                below += n->f[l][c];
            if (x[l] >= f * (1u << 22) / (1u << extra)) {
                put[count++] = (uint16_t)(x[l] % 65536);
                x[l] /= 65536;
            }
            x[l] = x[l] * (1u << extra) + bits;
            x[l] = x[l] / f * 1024 + x[l] % f + below;
            cr_assert(x[l] >= 65536 && x[l] < 1ull << 32);
        }
    for (uint32_t l = 0; l < 32; l++)
        out[l] = (uint32_t)x[l];
    for (uint32_t i = 0; i < count; i += 2)
        out[32 + i / 2] = put[count - 1 - i] | (i + 1 < count ? (uint32_t)put[count - 2 - i] << 16 : 0);
    return 32 + (count + 1) / 2;
}

static uint32_t naive_check(const uint32_t *word, uint32_t count, uint32_t sum)
{
    for (uint32_t j = 0; j < count; j++) {
        uint32_t a = word[j] + j * 0x9E3779B1u;
        a ^= a >> 16;
        a *= 0x85EBCA6Bu;
        sum += a ^ a >> 13;
    }
    return sum;
}

/* A matrix of two stripes, 40 bytes wide of which the second stripe's columns are wilder. */
static void fill_matrix(uint8_t *x, uint32_t rows, uint32_t columns, uint32_t kind, uint64_t seed)
{
    for (uint32_t i = 0; i < rows * columns; i++) {
        uint32_t r = house_random(&seed), column = i % columns;
        int32_t small = (int32_t)__builtin_popcount(r & 0xFFFFu) - 8;
        switch (kind) {
        case 0: x[i] = (uint8_t)(small * (1 + (int32_t)column / 8)); break;
        case 1: x[i] = (uint8_t)r; break;
        case 2: x[i] = 0; break;
        case 3: x[i] = i == rows * columns / 2 ? 0x80 : 0; break;
        case 4: x[i] = (uint8_t)i; break;
        case 5: x[i] = column % 7 == 3 ? (uint8_t)(r % 255) : 1; break;
        default: x[i] = r & 64 ? (uint8_t)small : 0; break;
        }
    }
}
enum { KINDS = 7 };

Test(rans, bytes_are_the_naive_ones)
{
    enum { COLUMNS = 64 };
    static const uint32_t sizes[] = {1, 2, 3, 70, 512, 513, 1300};
    static uint8_t x[1300 * COLUMNS] __attribute__((aligned(16))), back[sizeof x] __attribute__((aligned(16)));
    static uint8_t out[ROOM] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    for (uint32_t mode = 0; mode < 2; mode++)
        for (uint32_t kind = 0; kind < KINDS; kind++)
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                const uint32_t rows = sizes[s];
                const uint64_t bytes = (uint64_t)rows * COLUMNS;
                akv_rans_params p;
                uint64_t made = 0, took = 0;
                fill_matrix(x, rows, COLUMNS, kind, 3 + s);
                cr_assert(akv_rans_matrix(&p, rows, COLUMNS, mode == 0));
                OK(akv_rans_pack_host(device, &p, x, bytes, out, ROOM, &made));
                cr_assert(made <= akv_rans_most(&p) && made % 16 == 0);
                const uint32_t *word = (const uint32_t *)(const void *)out;
                p.tables = word[2] & 255;
                cr_assert(word[0] == made && word[3] == rows * 2 && word[2] >> 8 == p.raw);
                const uint32_t *model = word + 4, *record = model + akv_rans_model_words(&p);
                const uint32_t segments = (rows * 2 + 1023) / 1024, *body = record + 2 * segments;
                cr_assert(word[1] == naive_check(word, 1, 0) + naive_check(word, (uint32_t)(body - word), 0) -
                                         naive_check(word, 2, 0));
                for (uint32_t g = 0; g < segments; g++) {
                    static uint8_t symbol[1024][32];
                    static uint32_t want[20000];
                    const uint32_t first = g * 1024, steps = rows * 2 - first < 1024 ? rows * 2 - first : 1024;
                    uint32_t count = 0;
                    bool one = true;
                    struct naive n = {.raw = p.raw, .width = 8};
                    for (uint32_t i = 0; i < steps; i++) {
                        const uint32_t stripe = (first + i) / rows, row = (first + i) % rows;
                        memcpy(symbol[i], x + row * COLUMNS + stripe * 32, 32);
                        one = one && stripe == first / rows;
                    }
                    for (uint32_t l = 0; l < 32; l++)
                        for (uint32_t c = 0; c < 16; c++)
                            n.f[l][c] = akv_rans_frequency(&p, model, akv_rans_table(&p, model, first / rows * 32 + l), c);
                    const uint32_t from = g ? record[2 * g - 2] : 0, words = record[2 * g] - from;
                    cr_assert(record[2 * g + 1] == naive_check(body + from, words, g));
                    if (!one) /* tables change inside: what comes back is compared below */
                        continue;
                    count = naive_segment(&n, (const uint8_t(*)[32])symbol, steps, want);
                    if (count >= steps * 8)
                        cr_assert(words == steps * 8 && memcmp(body + from, symbol, words * 4) == 0);
                    else
                        cr_assert(words == count && memcmp(body + from, want, words * 4) == 0, "mode %u kind %u rows %u", mode,
                                  kind, rows);
                }
                memset(back, 0xA5, sizeof back);
                OK(akv_rans_unpack_host(device, &p, out, made, back, bytes, &took));
                cr_assert(took == made && memcmp(x, back, bytes) == 0, "mode %u kind %u rows %u", mode, kind, rows);
                cr_expect(mode || kind != 2 || made < 1024 + rows, "zeros take %llu", (unsigned long long)made);
            }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* ---- tiles of every format, order and size ---- */

static void fill_tile(uint8_t *tile, uint32_t format, uint32_t order, uint32_t rows, uint32_t dim, uint64_t seed)
{
    const uint32_t bytes = akv_tile_bytes(format, rows, dim), most = akv_format_plane0(format) + akv_format_plane1(format);
    memset(tile, 0, bytes);
    for (uint32_t t = 0; t < rows; t += order == AKV_ORDER_QUAD ? 4 : 1)
        for (uint32_t g = 0; g < akv_padded_dim(dim) / (order == AKV_ORDER_QUAD ? 8 : 32); g++) {
            akv_u8 code[32];
            for (uint32_t i = 0; i < 32; i++) {
                uint32_t r = house_random(&seed), middle = (uint32_t)__builtin_popcount(r & 0x7FFF) << most >> 4;
                code[i] = (akv_u8)((middle + i % 3) & ((1u << most) - 1));
            }
            if (order == AKV_ORDER_QUAD)
                akv_quad_put(tile, format, rows, dim, t / 4, g, code);
            else
                akv_row_put(tile, format, rows, dim, t, g, code);
        }
    for (uint32_t t = 0; t < rows; t++)
        for (uint32_t s = 0; s < akv_scale_count(format, dim); s++)
            akv_scale_put(tile, format, order, rows, dim, t, s, 0x3A00u >> (akv_scale_bytes(format) == 1 ? 7 : 0) | (house_random(&seed) & 15));
}

Test(rans, tiles_come_back)
{
    static const uint32_t dims[] = {64, 80, 96, 128, 576}, formats[] = {AKV_I8, AKV_N6, AKV_N5, AKV_N4, AKV_N3, AKV_N2, AKV_E4M3};
    static uint8_t tile[ROOM] __attribute__((aligned(16))), back[ROOM] __attribute__((aligned(16)));
    static uint8_t out[2 * ROOM] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
            for (uint32_t how = 0; how < 6; how++) { /* one mixed tile; or blocks, in both orders */
                const uint32_t format = formats[f], dim = dims[d], mixed = how < 2, heads = 3;
                const uint32_t order = how >= 4 ? AKV_ORDER_QUAD : AKV_ORDER_ROW;
                const uint32_t rows = mixed ? (how ? 300 : 3) : how % 2 ? 64 : 16, tiles = mixed ? 1 : how % 2 ? 3 : 12;
                const uint64_t each = akv_tile_bytes(format, rows, dim), bytes = each * tiles;
                akv_rans_params codes, scales;
                uint64_t made = 0, more = 0, took = 0;
                cr_assert(bytes <= ROOM);
                for (uint32_t t = 0; t < tiles; t++)
                    fill_tile(tile + t * each, format, order, rows, dim, 77 + t);
                cr_assert(akv_rans_codes(&codes, format, order, dim, rows, heads, tiles, mixed));
                cr_assert(akv_rans_scales(&scales, format, dim, rows, heads, tiles, mixed));
                OK(akv_rans_pack_host(device, &codes, tile, bytes, out, ROOM, &made));
                OK(akv_rans_pack_host(device, &scales, tile, bytes, out + made, ROOM, &more));
                memset(back, 0, sizeof back);
                OK(akv_rans_unpack_host(device, &codes, out, made + more, back, bytes, &took));
                cr_assert(took == made);
                OK(akv_rans_unpack_host(device, &scales, out + made, more, back, bytes, &took));
                cr_assert(took == more);
                cr_assert(memcmp(tile, back, bytes) == 0, "format %u dim %u how %u", format, dim, how);
                cr_expect(how != 1 || format == AKV_E4M3 || made < bytes * 9 / 10, "format %u dim %u: %llu of %llu", format, dim,
                          (unsigned long long)made, (unsigned long long)bytes);
            }
    anykv_device_close(device);
    anykv_context_destroy(context);
}
