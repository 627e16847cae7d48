/* SPDX-License-Identifier: Apache-2.0 */
/* anykv_codec_*: bad input, round trips through every kind of view, threads and instruction sets.
 */
#include "house.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const uint32_t dims[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};

/* Relative error (norm) that a Gaussian row may have at most, a little above the published SQNR. */
static double worst(anykv_format format)
{
    static const double decibels[] = {0,    140, 66, 48, 43, 31.5, 26.6, 21.2, 15.0,
                                      9.0,  30.5, 44, 28, 26, 20.5, 20,  20, 30};
    _Static_assert(sizeof decibels / sizeof *decibels == ANYKV_E4M3G + 1, "a format has no bound");
    return pow(10.0, -decibels[format] / 20.0);
}

static float gaussian(uint64_t *seed)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += house_random(seed) / 2147483648.0;
    return (float)(sum - 6.0);
}

static anykv_codec *make(anykv_device *device, anykv_format format, uint32_t dim,
                         anykv_transform how)
{
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    options.format = format;
    options.head_dim = dim;
    options.transform = how;
    anykv_codec *codec;
    OK(anykv_codec_create(device, &options, &codec));
    return codec;
}

/* ---- round trips ---- */

Test(codec_api, round_trips)
{
    enum { TOKENS = 5, HEADS = 3, ROWS = TOKENS * HEADS };
    static float rows[ROWS * 576], back[ROWS * 576];
    anykv_context *context = house_context();
    for (uint32_t threads = 0; threads <= 2; threads++) {
        anykv_device *device = house_device(context, threads);
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
            for (anykv_format format = ANYKV_F32; format <= ANYKV_E4M3G; format++)
                for (int how = 0; how < 2; how++) {
                    uint32_t dim = dims[d], saw = 9;
                    uint64_t seed = dim + format, bytes;
                    for (uint32_t i = 0; i < ROWS * dim; i++)
                        rows[i] = gaussian(&seed);
                    anykv_codec *codec = make(device, format, dim, (anykv_transform)how);
                    OK(anykv_codec_bytes(codec, ROWS, &bytes));
                    cr_expect(fabs((double)bytes * 8 / ROWS / dim -
                                   anykv_format_bits(format, dim)) < 3.0 * 16 * 8 / ROWS / dim);
                    uint8_t *packed = malloc(bytes + 1);
                    packed[bytes] = 0xA5;
                    anykv_view from = anykv_view_host(rows, ANYKV_F32, HEADS, dim);
                    anykv_view to = anykv_view_host(back, ANYKV_F32, HEADS, dim);
                    OK(anykv_codec_encode(codec, &from, TOKENS, HEADS, packed, bytes, &saw));
                    OK(anykv_codec_decode(codec, packed, bytes, TOKENS, HEADS, &to));
                    cr_expect(saw == 0 && packed[bytes] == 0xA5);
                    double error = 0, norm = 0;
                    for (uint32_t i = 0; i < ROWS * dim; i++) {
                        error += ((double)rows[i] - back[i]) * ((double)rows[i] - back[i]);
                        norm += (double)rows[i] * rows[i];
                    }
                    cr_expect(sqrt(error / norm) <= worst(format), "%s, %u, transform %d: error %g",
                              anykv_format_name(format), dim, how, sqrt(error / norm));
                    free(packed);
                    anykv_codec_destroy(codec);
                }
        anykv_device_close(device);
    }
    anykv_context_destroy(context);
}

/* The same rows through strided, transposed, unaligned, device and adopted views give the same
 * bytes, and a decode writes its rows and nothing between them. */
Test(codec_api, views)
{
    enum { TOKENS = 6, HEADS = 4, DIM = 80, ROWS = TOKENS * HEADS, ROOM = 4 * ROWS * DIM };
    static uint16_t dense[ROWS * DIM], wide[ROOM], got[ROOM], expected[ROWS * DIM];
    uint64_t seed = 5, bytes;
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 2);
    for (int i = 0; i < ROWS * DIM; i++) /* f16 between 2^-7 and 2^8 */
        dense[i] =
            (uint16_t)((house_random(&seed) & 0x83FF) | (8 + house_random(&seed) % 15) << 10);
    static const struct {
        uint64_t token, head;
    } strides[] = {{HEADS * DIM, DIM},
                   {HEADS * DIM + 7, DIM},
                   {2 * HEADS * DIM, DIM + 3},
                   {DIM, TOKENS * DIM},
                   {DIM + 1, 2 * TOKENS * DIM}};
    for (anykv_format format = ANYKV_F32; format <= ANYKV_E4M3G; format++) {
        anykv_codec *codec = make(device, format, DIM, ANYKV_TRANSFORM_ROTATE);
        OK(anykv_codec_bytes(codec, ROWS, &bytes));
        uint8_t *reference = aligned_alloc(64, (bytes + 63) & ~(uint64_t)63),
                *packed = malloc(bytes + 64);
        anykv_view view = anykv_view_host(dense, ANYKV_F16, HEADS, DIM);
        OK(anykv_codec_encode(codec, &view, TOKENS, HEADS, reference, bytes, NULL));
        view.data = expected;
        OK(anykv_codec_decode(codec, reference, bytes, TOKENS, HEADS, &view));
        for (size_t s = 0; s < sizeof strides / sizeof strides[0]; s++)
            for (int where = 0; where < 3; where++) {
                memset(wide, 0x5A, sizeof wide);
                for (uint64_t t = 0; t < TOKENS; t++)
                    for (uint64_t h = 0; h < HEADS; h++)
                        memcpy(wide + t * strides[s].token + h * strides[s].head,
                               dense + (t * HEADS + h) * DIM, DIM * 2);
                anykv_mem *mem = NULL;
                view = (anykv_view){wide, NULL, 0, ANYKV_F16, strides[s].token, strides[s].head};
                if (where) {
                    OK(where == 1 ? anykv_mem_create(device, sizeof wide + 2, &mem)
                                  : anykv_mem_adopt(device, got, sizeof got, &mem));
                    OK(anykv_mem_put(mem, where == 1 ? 2 : 0, wide, sizeof wide));
                    view.data = NULL;
                    view.mem = mem;
                    view.offset = where == 1 ? 2 : 0;
                }
                uint8_t *odd = packed + (s + (size_t)where) % 5;
                OK(anykv_codec_encode(codec, &view, TOKENS, HEADS, odd, bytes, NULL));
                cr_expect(memcmp(odd, reference, bytes) == 0,
                          "%s, strides %zu, place %d: bytes differ", anykv_format_name(format), s,
                          where);
                memset(wide, 0x5A, sizeof wide);
                if (where)
                    OK(anykv_mem_put(mem, view.offset, wide, sizeof wide));
                OK(anykv_codec_decode(codec, odd, bytes, TOKENS, HEADS, &view));
                if (where)
                    OK(anykv_mem_get(mem, view.offset, wide, sizeof wide));
                for (uint64_t t = 0; t < TOKENS; t++)
                    for (uint64_t h = 0; h < HEADS; h++) {
                        uint16_t *row = wide + t * strides[s].token + h * strides[s].head;
                        cr_expect(memcmp(row, expected + (t * HEADS + h) * DIM, DIM * 2) == 0,
                                  "%s, strides %zu, place %d: row (%d, %d)",
                                  anykv_format_name(format), s, where, (int)t, (int)h);
                        memset(row, 0x5A, DIM * 2);
                    }
                for (int i = 0; i < ROOM; i++)
                    cr_assert(wide[i] == 0x5A5A,
                              "%s, strides %zu, place %d: a decode wrote between rows",
                              anykv_format_name(format), s, where);
                anykv_mem_destroy(mem);
            }
        /* A stride of zero reads one row many times. */
        view = (anykv_view){dense, NULL, 0, ANYKV_F16, 0, 0};
        OK(anykv_codec_encode(codec, &view, TOKENS, HEADS, packed, bytes, NULL));
        free(reference);
        free(packed);
        anykv_codec_destroy(codec);
    }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Raw formats keep every bit, NaN and negative zero included. */
Test(codec_api, raw_formats_keep_bits)
{
    enum { ROWS = 4, DIM = 64 };
    static uint16_t rows[ROWS * DIM], back[ROWS * DIM];
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 1);
    for (int i = 0; i < ROWS * DIM; i++)
        rows[i] = (uint16_t)(i * 257);
    for (anykv_format format = ANYKV_F16; format <= ANYKV_BF16; format++) {
        anykv_codec *codec = make(device, format, DIM, ANYKV_TRANSFORM_ROTATE);
        uint8_t packed[ROWS * DIM * 2];
        uint64_t bytes;
        uint32_t saw = 9;
        OK(anykv_codec_bytes(codec, ROWS, &bytes));
        cr_assert(bytes == sizeof packed);
        anykv_view view = anykv_view_host(rows, format, 1, DIM);
        OK(anykv_codec_encode(codec, &view, ROWS, 1, packed, bytes, &saw));
        cr_expect(saw == 0 && memcmp(packed, rows, sizeof rows) == 0);
        view.data = back;
        OK(anykv_codec_decode(codec, packed, bytes, ROWS, 1, &view));
        cr_expect(memcmp(back, rows, sizeof rows) == 0);
        anykv_codec_destroy(codec);
    }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(codec_api, saw)
{
    enum { DIM = 64 };
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 1);
    anykv_codec *codec = make(device, ANYKV_N4, DIM, ANYKV_TRANSFORM_ROTATE);
    float rows[DIM] = {1.0f}, back[DIM];
    uint8_t packed[256];
    uint64_t bytes;
    uint32_t saw;
    OK(anykv_codec_bytes(codec, 1, &bytes));
    anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, DIM), out = view;
    out.data = back;
    static const struct {
        float value;
        uint32_t saw;
    } cases[] = {{2.0f, 0},   {NAN, 1},   {INFINITY, 2}, {-1e38f, 2},
                 {1e-45f, 0}, {-0.0f, 0}, {1e30f, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rows[7] = cases[i].value;
        OK(anykv_codec_encode(codec, &view, 1, 1, packed, bytes, &saw));
        cr_expect(saw == cases[i].saw, "%g: saw %u", (double)cases[i].value, saw);
        OK(anykv_codec_decode(codec, packed, bytes, 1, 1, &out));
        for (int j = 0; j < DIM; j++)
            cr_expect(isfinite(back[j]), "%g: element %d is %g", (double)cases[i].value, j,
                      (double)back[j]);
    }
    rows[8] = NAN;
    rows[9] = INFINITY;
    OK(anykv_codec_encode(codec, &view, 1, 1, packed, bytes, &saw));
    cr_expect(saw == 3);
    rows[7] = rows[8] = rows[9] = 0.0f;
    OK(anykv_codec_encode(codec, &view, 1, 1, packed, bytes, &saw));
    cr_expect(saw == 0, "not sticky from call to call");
    OK(anykv_codec_encode(codec, &view, 0, 1, packed, 0, &saw));
    cr_expect(saw == 0);
    anykv_codec_destroy(codec);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Every thread count and instruction set gives the bytes of portable code on one thread. */
Test(codec_api, threads_and_instruction_sets)
{
    enum { ROWS = 300, DIM = 96 };
    static const uint32_t masks[] = {0, ANYKV_ISA_AVX2, ANYKV_ISA_AVX512, ANYKV_ISA_ALL};
    static float rows[ROWS * DIM];
    static uint8_t reference[ROWS * DIM * 4], packed[ROWS * DIM * 4];
    uint64_t seed = 11, bytes;
    for (int i = 0; i < ROWS * DIM; i++)
        rows[i] = gaussian(&seed) * (float)(1 << i % 7);
    anykv_context *context = house_context();
    for (anykv_format format = ANYKV_I8; format <= ANYKV_E4M3G; format++)
        for (size_t m = 0; m < sizeof masks / sizeof masks[0]; m++)
            for (uint32_t threads = 0; threads <= 4; threads += 2) {
                anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
                options.isa_mask = masks[m];
                options.threads = threads;
                anykv_device *device;
                OK(anykv_device_open(context, "cpu", &options, &device));
                anykv_codec *codec = make(device, format, DIM, ANYKV_TRANSFORM_ROTATE);
                OK(anykv_codec_bytes(codec, ROWS, &bytes));
                anykv_view view = anykv_view_host(rows, ANYKV_F32, 1, DIM);
                uint8_t *into = m == 0 && threads == 0 ? reference : packed;
                OK(anykv_codec_encode(codec, &view, ROWS, 1, into, bytes, NULL));
                cr_expect(into == reference || memcmp(into, reference, bytes) == 0,
                          "%s, mask %x, threads %u", anykv_format_name(format), masks[m], threads);
                anykv_codec_destroy(codec);
                anykv_device_close(device);
            }
    anykv_context_destroy(context);
}

/* Rows to dense memory and back: what devices with memory of their own get. */
Test(codec_api, packing_of_views)
{
    enum { TOKENS = 3, HEADS = 2, DIM = 64 };
    uint16_t wide[1000], dense[TOKENS * HEADS * DIM], back[1000];
    for (int i = 0; i < 1000; i++)
        wide[i] = (uint16_t)i;
    anykv_view view = {wide, NULL, 0, ANYKV_BF16, 300, 70};
    cr_expect(!akv_view_dense(&view, HEADS, DIM));
    akv_view_pack(&view, TOKENS, HEADS, DIM, dense);
    for (int t = 0; t < TOKENS; t++)
        for (int h = 0; h < HEADS; h++)
            for (int i = 0; i < DIM; i++)
                cr_assert(dense[(t * HEADS + h) * DIM + i] == t * 300 + h * 70 + i);
    memset(back, 0xFF, sizeof back);
    view.data = back;
    akv_view_unpack(&view, TOKENS, HEADS, DIM, dense);
    for (int i = 0; i < 1000; i++) {
        bool inside = i % 300 < 70 + DIM && i % 300 % 70 < DIM && i < 900;
        cr_assert(back[i] == (inside ? i : 0xFFFF), "element %d is %u", i, back[i]);
    }
    view = anykv_view_host(dense, ANYKV_BF16, HEADS, DIM);
    cr_expect(akv_view_dense(&view, HEADS, DIM));
}

/* Every other usable device writes the CPU's bytes and decodes to its rows, through staging. */
Test(codec_api, other_devices)
{
    enum { TOKENS = 7, HEADS = 3, DIM = 80, GAP = 5, ROOM = TOKENS * (HEADS * DIM + GAP) };
    static const anykv_format formats[] = {ANYKV_F16, ANYKV_I8, ANYKV_N6, ANYKV_N4, ANYKV_N2};
    static float rows[ROOM], back[2][ROOM];
    static uint8_t packed[2][ROOM * 4];
    anykv_context *context = house_context();
    anykv_device *cpu = house_device(context, 1);
    uint64_t seed = 21;
    for (int i = 0; i < ROOM; i++)
        rows[i] = gaussian(&seed);
    uint32_t count, others = 0;
    OK(anykv_device_count(context, &count));
    for (uint32_t index = 0; index < count; index++) {
        anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
        OK(anykv_device_query(context, index, &info));
        if (!info.usable || strcmp(info.backend, "cpu") == 0)
            continue;
        others++;
        char name[16];
        snprintf(name, sizeof name, "%u", index);
        anykv_device *device[2] = {cpu, NULL};
        OK(anykv_device_open(context, name, NULL, &device[1]));
        for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
            for (int gap = 0; gap < 2; gap++) {
                uint64_t bytes = 0;
                for (int d = 0; d < 2; d++) {
                    anykv_codec *codec = make(device[d], formats[f], DIM, ANYKV_TRANSFORM_ROTATE);
                    anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
                    view.token_stride += gap ? GAP : 0;
                    OK(anykv_codec_bytes(codec, TOKENS * HEADS, &bytes));
                    OK(anykv_codec_encode(codec, &view, TOKENS, HEADS, packed[d], bytes, NULL));
                    memset(back[d], 0x77, sizeof back[d]);
                    view.data = back[d];
                    OK(anykv_codec_decode(codec, packed[0], bytes, TOKENS, HEADS, &view));
                    anykv_codec_destroy(codec);
                }
                cr_expect(memcmp(packed[0], packed[1], bytes) == 0, "%s, %s, gap %d: packed bytes",
                          info.name, anykv_format_name(formats[f]), gap);
                cr_expect(memcmp(back[0], back[1], sizeof back[0]) == 0, "%s, %s, gap %d: rows",
                          info.name, anykv_format_name(formats[f]), gap);
            }
        anykv_device_close(device[1]);
    }
    anykv_device_close(cpu);
    anykv_context_destroy(context);
    if (others == 0)
        cr_skip_test("there is no other usable device");
}

/* ---- bad input ---- */

Test(codec_api, bad_options)
{
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_codec *codec = NULL;
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    REFUSED(ANYKV_E_ARG, "device", anykv_codec_create(NULL, &options, &codec));
    REFUSED(ANYKV_E_ARG, "codec_out", anykv_codec_create(device, &options, NULL));
    static const uint32_t wrong_dims[] = {0, 1, 32, 63, 65, 100, 511, 1024, 4096, UINT32_MAX};
    for (size_t i = 0; i < sizeof wrong_dims / sizeof wrong_dims[0]; i++) {
        options.head_dim = wrong_dims[i];
        REFUSED(ANYKV_E_ARG, "head_dim", anykv_codec_create(device, &options, &codec));
    }
    options.head_dim = 128;
    static const int wrong_formats[] = {-1, 0, 18, 255, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof wrong_formats / sizeof wrong_formats[0]; i++) {
        options.format = (anykv_format)wrong_formats[i];
        REFUSED(ANYKV_E_ARG, "format", anykv_codec_create(device, &options, &codec));
    }
    options.format = ANYKV_N4;
    options.transform = (anykv_transform)2;
    REFUSED(ANYKV_E_ARG, "transform", anykv_codec_create(device, &options, &codec));
    options.transform = (anykv_transform)-1;
    REFUSED(ANYKV_E_ARG, "transform", anykv_codec_create(device, &options, &codec));
    options.transform = ANYKV_TRANSFORM_NONE;
    static const float scales[2] = {1.0f, -1.0f};
    options.scales = scales;
    options.scale_count = 2;
    REFUSED(ANYKV_E_ARG, "scales: format N4", anykv_codec_create(device, &options, &codec));
    options.format = ANYKV_E4M3G;
    REFUSED(ANYKV_E_ARG, "scales[1]: -1", anykv_codec_create(device, &options, &codec));
    options.scale_count = 0;
    REFUSED(ANYKV_E_ARG, "scale_count: 0 with", anykv_codec_create(device, &options, &codec));
    options.scales = NULL;
    options.scale_count = 1;
    REFUSED(ANYKV_E_ARG, "scale_count: 1 without", anykv_codec_create(device, &options, &codec));
    options.scale_count = 0;
    options.format = ANYKV_N4;
    options.search = 2;
    REFUSED(ANYKV_E_ARG, "search", anykv_codec_create(device, &options, &codec));
    options.search = 0;
    options.size = 0;
    REFUSED(ANYKV_E_ARG, "size", anykv_codec_create(device, &options, &codec));
    options.size = SIZE_MAX;
    REFUSED(ANYKV_E_ARG, "size", anykv_codec_create(device, &options, &codec));
    cr_expect_null(codec);
    anykv_codec_destroy(NULL);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

enum { T = 4, H = 2, D = 64 };

struct bench {
    anykv_context *context;
    anykv_device *device, *other;
    anykv_codec *codec;
    float rows[T * H * D];
    _Alignas(16) uint8_t packed[T * H * D * 4];
    uint64_t bytes;
    anykv_view view;
};

/* Both directions refuse the call and write nothing. */
static void both_refuse(struct bench *bench, anykv_status code, const char *text,
                        const anykv_view *view, uint32_t tokens, uint32_t heads, uint64_t bytes)
{
    uint32_t saw = 99;
    memset(bench->packed, 0xEE, sizeof bench->packed);
    memset(bench->rows, 0x11, sizeof bench->rows);
    REFUSED(code, text,
            anykv_codec_encode(bench->codec, view, tokens, heads, bench->packed, bytes, &saw));
    REFUSED(code, text,
            anykv_codec_decode(bench->codec, bench->packed, bytes, tokens, heads, view));
    OK(anykv_device_wait(bench->device, UINT64_MAX));
    cr_expect(saw == 99, "%s: saw_out was written", text);
    for (size_t i = 0; i < sizeof bench->packed; i++)
        cr_assert(bench->packed[i] == 0xEE, "%s: packed byte %zu was written", text, i);
    for (size_t i = 0; i < sizeof bench->rows; i++)
        cr_assert(((uint8_t *)bench->rows)[i] == 0x11, "%s: a row was written", text);
}

Test(codec_api, bad_calls)
{
    static struct bench b;
    b.context = house_context();
    b.device = house_device(b.context, 1);
    b.other = house_device(b.context, 0);
    b.codec = make(b.device, ANYKV_N4, D, ANYKV_TRANSFORM_ROTATE);
    b.view = anykv_view_host(b.rows, ANYKV_F32, H, D);
    OK(anykv_codec_bytes(b.codec, T * H, &b.bytes));
    uint64_t n = 0, fewer;
    OK(anykv_codec_bytes(b.codec, (T - 1) * H, &fewer));
    REFUSED(ANYKV_E_ARG, "codec", anykv_codec_bytes(NULL, 1, &n));
    REFUSED(ANYKV_E_ARG, "bytes_out", anykv_codec_bytes(b.codec, 1, NULL));
    static const uint64_t counts[] = {((uint64_t)1 << 29) / D, (uint64_t)1 << 32, (uint64_t)1 << 58,
                                      UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        REFUSED(ANYKV_E_SHAPE, "rows", anykv_codec_bytes(b.codec, counts[i], &n));
    cr_expect(n == 0);
    OK(anykv_codec_bytes(b.codec, 0, &n));
    OK(anykv_codec_bytes(b.codec, counts[0] - 1, &n));
    cr_expect(n > (uint64_t)200 << 20);
    REFUSED(ANYKV_E_ARG, "codec", anykv_codec_encode(NULL, &b.view, T, H, b.packed, b.bytes, NULL));
    REFUSED(ANYKV_E_ARG, "codec", anykv_codec_decode(NULL, b.packed, b.bytes, T, H, &b.view));
    REFUSED(ANYKV_E_ARG, "packed", anykv_codec_encode(b.codec, &b.view, T, H, NULL, b.bytes, NULL));
    REFUSED(ANYKV_E_ARG, "packed", anykv_codec_decode(b.codec, NULL, b.bytes, T, H, &b.view));
    both_refuse(&b, ANYKV_E_ARG, "rows", NULL, T, H, b.bytes);
    both_refuse(&b, ANYKV_E_SHAPE, "bytes", &b.view, T, H, b.bytes - 1);
    both_refuse(&b, ANYKV_E_SHAPE, "bytes", &b.view, T, H, b.bytes + 1);
    both_refuse(&b, ANYKV_E_SHAPE, "bytes", &b.view, T, H, 0);
    both_refuse(&b, ANYKV_E_SHAPE, "bytes", &b.view, T, H, UINT64_MAX);
    both_refuse(&b, ANYKV_E_SHAPE, "bytes", &b.view, T - 1, H, b.bytes);
    both_refuse(&b, ANYKV_E_ARG, "heads", &b.view, T, 0, b.bytes);
    both_refuse(&b, ANYKV_E_ARG, "heads", &b.view, T, UINT32_MAX, b.bytes);
    both_refuse(&b, ANYKV_E_SHAPE, "rows", &b.view, UINT32_MAX, 65536, b.bytes);
    both_refuse(&b, ANYKV_E_SHAPE, "rows", &b.view, 1u << 31, H, b.bytes);

    anykv_view view = b.view;
    static const int dtypes[] = {0, -1, ANYKV_I8, ANYKV_N4, 77};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        view.dtype = (anykv_dtype)dtypes[i];
        both_refuse(&b, ANYKV_E_ARG, "dtype", &view, T, H, b.bytes);
    }
    view = b.view;
    view.data = NULL;
    both_refuse(&b, ANYKV_E_ARG, "neither", &view, T, H, b.bytes);
    view = b.view;
    view.data = (uint8_t *)b.rows + 1;
    both_refuse(&b, ANYKV_E_ARG, "aligned", &view, T - 1, H, fewer);
    view = b.view;
    view.offset = 4;
    both_refuse(&b, ANYKV_E_ARG, "offset", &view, T, H, b.bytes);
    static const uint64_t huge[] = {UINT64_MAX, (uint64_t)1 << 63, (uint64_t)1 << 62,
                                    (uint64_t)1 << 61, UINT64_MAX / 3};
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
        view = b.view;
        view.token_stride = huge[i];
        both_refuse(&b, ANYKV_E_SHAPE, "address space", &view, T, H, b.bytes);
        view = b.view;
        view.head_stride = huge[i];
        both_refuse(&b, ANYKV_E_SHAPE, "address space", &view, T, H, b.bytes);
    }

    /* Device views. */
    anykv_mem *mem, *foreign;
    OK(anykv_mem_create(b.device, sizeof b.rows, &mem));
    OK(anykv_mem_create(b.other, sizeof b.rows, &foreign));
    view = b.view;
    view.mem = mem;
    both_refuse(&b, ANYKV_E_ARG, "both", &view, T, H, b.bytes);
    view.data = NULL;
    view.offset = 2;
    both_refuse(&b, ANYKV_E_ARG, "multiple", &view, T - 1, H, fewer);
    view.offset = 4;
    both_refuse(&b, ANYKV_E_SHAPE, "the memory has", &view, T, H, b.bytes);
    view.offset = UINT64_MAX - 3;
    both_refuse(&b, ANYKV_E_SHAPE, "the memory has", &view, T, H, b.bytes);
    view.offset = 0;
    view.token_stride = H * D + 1;
    both_refuse(&b, ANYKV_E_SHAPE, "the memory has", &view, T, H, b.bytes);
    view = b.view;
    view.data = NULL;
    view.mem = foreign;
    both_refuse(&b, ANYKV_E_ARG, "another device", &view, T, H, b.bytes);

    /* Rows that a decode would write twice. */
    static const struct {
        uint64_t token, head;
    } meeting[] = {{0, D}, {D, 0}, {D, D}, {H * D - 1, D}, {H * D, D - 1}, {D + 1, D}};
    for (size_t i = 0; i < sizeof meeting / sizeof meeting[0]; i++) {
        view = b.view;
        view.token_stride = meeting[i].token;
        view.head_stride = meeting[i].head;
        REFUSED(ANYKV_E_SHAPE, "overlap",
                anykv_codec_decode(b.codec, b.packed, b.bytes, T, H, &view));
    }
    /* Packed bytes inside the rows. */
    view = b.view;
    REFUSED(ANYKV_E_ARG, "overlap",
            anykv_codec_encode(b.codec, &view, T, H, b.rows, b.bytes, NULL));
    REFUSED(ANYKV_E_ARG, "overlap", anykv_codec_decode(b.codec, b.rows, b.bytes, T, H, &view));
    anykv_mem_destroy(mem);
    anykv_mem_destroy(foreign);
    anykv_codec_destroy(b.codec);
    anykv_device_close(b.other);
    anykv_device_close(b.device);
    anykv_context_destroy(b.context);
}

/* ---- failures ---- */

static anykv_status scenario(void)
{
    anykv_context *context = NULL;
    anykv_device *device = NULL;
    anykv_codec *codec = NULL;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = 1;
    static float rows[T * H * D], back[T * H * D];
    static uint8_t packed[T * H * D * 4 + 16];
    uint64_t bytes = 0;
    rows[5] = 3.0f;
    anykv_view from = anykv_view_host(rows, ANYKV_F32, H, D),
               to = anykv_view_host(back, ANYKV_F32, H, D);
    anykv_status status = anykv_context_create(NULL, &context);
    if (!status)
        status = anykv_device_open(context, "cpu", &options, &device);
    if (!status)
        status = anykv_codec_create(device, NULL, &codec);
    anykv_codec_destroy(codec);
    codec = NULL;
    anykv_codec_options small = ANYKV_CODEC_OPTIONS_INIT;
    small.head_dim = D;
    if (!status)
        status = anykv_codec_create(device, &small, &codec);
    if (!status)
        status = anykv_codec_bytes(codec, T * H, &bytes);
    for (int odd = 0; odd < 2 && !status;
         odd++) { /* in place, then through the codec's own buffer */
        uint8_t *into = packed + (16 - (uintptr_t)packed % 16) % 16 + odd;
        status = anykv_codec_encode(codec, &from, T, H, into, bytes, NULL);
        if (!status)
            status = anykv_codec_decode(codec, into, bytes, T, H, &to);
    }
    if (!status)
        cr_expect(back[5] > 2.5f && back[5] < 3.5f && back[4 * D] == 0.0f);
    /* After a failure the codec still works, unless the device is lost. */
    if (status && status != ANYKV_E_DEAD && codec) {
        akv_alloc_fail_at(0, false);
        akv_fault_at(0, ANYKV_OK, false);
        uint8_t *into = packed + (16 - (uintptr_t)packed % 16) % 16;
        cr_expect(anykv_codec_bytes(codec, T * H, &bytes) == ANYKV_OK &&
                      anykv_codec_encode(codec, &from, T, H, into, bytes, NULL) == ANYKV_OK &&
                      anykv_codec_decode(codec, into, bytes, T, H, &to) == ANYKV_OK,
                  "a failed call broke the codec: %s", anykv_error_detail());
    }
    anykv_codec_destroy(codec);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(codec_api, every_allocation_fails_once)
{
    house_fail_allocations("codec", scenario);
}

Test(codec_api, every_backend_call_fails_once)
{
    house_fail_backend("codec", scenario);
}
