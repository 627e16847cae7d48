/* SPDX-License-Identifier: Apache-2.0 */
/* anykv_compress_packed and back: formats, adversarial rows, damage, refusals, failures, entropy of real rows. */
#include "house.h"
#include "lib/kernel/format.h"
#include "lib/rans.h"
#include "tools/safetensors.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 3, DIM = 64, MOST = 1536, BYTES = MOST * HEADS * DIM };
static const anykv_format formats[] = {ANYKV_I8, ANYKV_N6, ANYKV_N5, ANYKV_N4, ANYKV_N3, ANYKV_N2, ANYKV_E4M3};
enum { FORMATS = sizeof formats / sizeof formats[0] };

enum kind { BELL, ZERO, CONSTANT, OUTLIER, NAN_ROWS, CHANNEL, KINDS };
static void fill(float *x, uint32_t tokens, enum kind kind, uint64_t seed)
{
    for (uint32_t i = 0; i < tokens * HEADS * DIM; i++) {
        float sum = 0, spread = 1.0f + (float)(i % DIM % 7), shift = (float)(i % DIM % 5) - 2.0f;
        for (int k = 0; k < 8; k++)
            sum += (float)(house_random(&seed) & 0xFFFFu) * 0x1p-16f - 0.5f;
        x[i] = kind == BELL       ? sum * spread + shift
               : kind == ZERO     ? 0.0f
               : kind == CONSTANT ? 1.5f
               : kind == OUTLIER  ? (i == 777 ? 1e6f : sum)
               : kind == NAN_ROWS ? (i % 97 ? sum : NAN)
                                  : (i % DIM == 5 ? sum * 300.0f : sum);
    }
}

/* Packed bytes of the rows. */
static anykv_packed encode(anykv_device *device, anykv_format format, const anykv_view *view, uint32_t tokens,
                           uint32_t heads, uint32_t dim, uint8_t *data)
{
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    anykv_codec *codec;
    anykv_packed packed = {data, 0, format, tokens, heads, dim};
    options.format = format;
    options.head_dim = dim;
    OK(anykv_codec_create(device, &options, &codec));
    OK(anykv_codec_bytes(codec, (uint64_t)tokens * heads, &packed.bytes));
    OK(anykv_codec_encode(codec, view, tokens, heads, data, packed.bytes, NULL));
    anykv_codec_destroy(codec);
    return packed;
}

Test(compress_packed, packed_rows_come_back)
{
    static float x[BYTES];
    static uint8_t data[2 * BYTES] __attribute__((aligned(16))), back[2 * BYTES + 1] __attribute__((aligned(16)));
    static uint8_t out[2 * BYTES] __attribute__((aligned(16))), other[2 * BYTES + 1];
    static const uint32_t sizes[] = {1, 7, 200, MOST};
    anykv_context *context = house_context();
    for (uint32_t threads = 0; threads <= 2; threads += 2) {
        anykv_device *device = house_device(context, threads);
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
            for (enum kind kind = 0; kind < KINDS; kind++) {
                const uint32_t tokens = sizes[s];
                anykv_view view = anykv_view_host(x, ANYKV_F32, HEADS, DIM);
                fill(x, tokens, kind, 5);
                for (size_t f = 0; f < FORMATS; f++) {
                    anykv_packed from = encode(device, formats[f], &view, tokens, HEADS, DIM, data), to = from;
                    uint64_t bytes = 0, again = 0, bound = 0;
                    OK(anykv_compress_packed_bound(ANYKV_COMPRESS_RANS, formats[f], tokens, HEADS, DIM, &bound));
                    cr_assert(bound == from.bytes);
                    anykv_status status = anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &from, out, bound, &bytes);
                    if (status == ANYKV_E_UNSUPPORTED && tokens <= 7) /* nothing grows */
                        continue;
                    OK(status);
                    cr_expect(bytes <= bound && bytes % 16 == 0);
                    /* The documented effect on rows that say little. */
                    cr_expect(tokens < MOST || (kind != ZERO && kind != CONSTANT) || bytes * 5 < bound || formats[f] == ANYKV_E4M3 ||
                                  formats[f] == ANYKV_I8 || formats[f] == ANYKV_N6 || formats[f] == ANYKV_N5,
                              "kind %d format %d: %llu of %llu", kind, formats[f], (unsigned long long)bytes,
                              (unsigned long long)bound);
                    anykv_compression method;
                    anykv_dtype dtype;
                    uint32_t shape[3];
                    OK(anykv_compressed_shape(out, bytes, &method, &dtype, &shape[0], &shape[1], &shape[2]));
                    cr_expect(method == ANYKV_COMPRESS_RANS && (int)dtype == (int)formats[f] && shape[0] == tokens &&
                              shape[1] == HEADS && shape[2] == DIM);
                    memset(back, 0xA5, sizeof back);
                    to.data = back;
                    OK(anykv_decompress_packed(device, out, bytes, &to));
                    cr_assert(memcmp(data, back, from.bytes) == 0 && back[from.bytes] == 0xA5, "kind %d format %d", kind,
                              formats[f]);
                    to.data = back + 1; /* addresses that no kernel takes, and a result beside no boundary */
                    memmove(back + 1, data, from.bytes);
                    OK(anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &to, other + 1, bytes, &again));
                    cr_assert(again == bytes && memcmp(out, other + 1, bytes) == 0);
                    memset(back, 0, sizeof back);
                    OK(anykv_decompress_packed(device, other + 1, bytes, &to));
                    cr_assert(memcmp(data, back + 1, from.bytes) == 0);
                }
            }
        anykv_device_close(device);
    }
    anykv_context_destroy(context);
}

/* Bytes never change: FNV-1a of what fixed input becomes. */
static uint64_t fnv(const uint8_t *bytes, uint64_t count)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (uint64_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3u;
    return hash;
}

Test(compress_packed, golden)
{
    static const uint64_t golden[FORMATS] = {
        UINT64_C(0x6FA15F27AF547959), UINT64_C(0x91CFCE2624BE065D), UINT64_C(0xB7D065F0673F797A),
        UINT64_C(0x4F3F83714BB0FA93), UINT64_C(0x4B00244F250F4BB4), UINT64_C(0x239527A5E8000B6D),
        UINT64_C(0xB02E61B3A9990A19)};
    static float x[200 * HEADS * DIM];
    static uint8_t data[BYTES] __attribute__((aligned(16))), out[BYTES] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_view view = anykv_view_host(x, ANYKV_F32, HEADS, DIM);
    fill(x, 200, BELL, 11);
    for (size_t f = 0; f < FORMATS; f++) {
        uint64_t bytes = 0;
        anykv_packed packed = encode(device, formats[f], &view, 200, HEADS, DIM, data);
        OK(anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, out, sizeof out, &bytes));
        cr_expect(fnv(out, bytes) == golden[f], "%s: 0x%016llX", anykv_format_name(formats[f]),
                  (unsigned long long)fnv(out, bytes));
    }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Every bit of the heads, many others, every length: an error, or what was. */
Test(compress_packed, damage_is_found)
{
    enum { TOKENS = 120 };
    static float x[TOKENS * HEADS * DIM];
    static uint8_t data[BYTES] __attribute__((aligned(16))), back[BYTES] __attribute__((aligned(16)));
    static uint8_t out[BYTES] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_view view = anykv_view_host(x, ANYKV_F32, HEADS, DIM);
    fill(x, TOKENS, BELL, 3);
    for (size_t f = 2; f < 5; f++) {
        anykv_packed from = encode(device, formats[f], &view, TOKENS, HEADS, DIM, data), to = from;
        uint64_t bytes, found = 0, same = 0;
        to.data = back;
        OK(anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &from, out, from.bytes, &bytes));
        for (uint64_t bit = 0; bit < bytes * 8; bit += bit < 1200 * 8 ? 1 : 13) {
            out[bit / 8] ^= (uint8_t)(1u << bit % 8);
            anykv_status status = anykv_decompress_packed(device, out, bytes, &to);
            cr_assert(status == ANYKV_E_DATA || status == ANYKV_E_SHAPE ||
                          (status == ANYKV_OK && memcmp(data, back, from.bytes) == 0),
                      "bit %llu: %s", (unsigned long long)bit, anykv_status_name(status));
            found += status != ANYKV_OK;
            same += status == ANYKV_OK;
            out[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        cr_expect(found > 10000 && same < 40, "%llu found, %llu without effect", (unsigned long long)found,
                  (unsigned long long)same); /* padding behind the streams */
        for (uint64_t cut = 0; cut < bytes; cut += 11)
            REFUSED(ANYKV_E_DATA, "compressed rows", anykv_decompress_packed(device, out, cut, &to));
    }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(compress_packed, refusals)
{
    enum { TOKENS = 200 };
    static float x[TOKENS * HEADS * DIM];
    static uint8_t data[BYTES] __attribute__((aligned(16))), out[BYTES] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_view view = anykv_view_host(x, ANYKV_F32, HEADS, DIM);
    uint64_t bytes = 0;
    REFUSED(ANYKV_E_ARG, "method", anykv_compress_packed_bound((anykv_compression)9, ANYKV_N4, 1, 1, 64, &bytes));
    REFUSED(ANYKV_E_UNSUPPORTED, "packed rows", anykv_compress_packed_bound(ANYKV_COMPRESS_BX16, ANYKV_N4, 1, 1, 64, &bytes));
    REFUSED(ANYKV_E_UNSUPPORTED, "packed rows", anykv_compress_bound(ANYKV_COMPRESS_RANS, ANYKV_BF16, 1, 1, 64, &bytes));
    REFUSED(ANYKV_E_UNSUPPORTED, "format", anykv_compress_packed_bound(ANYKV_COMPRESS_RANS, ANYKV_F16, 1, 1, 64, &bytes));
    REFUSED(ANYKV_E_UNSUPPORTED, "format", anykv_compress_packed_bound(ANYKV_COMPRESS_RANS, ANYKV_Q4_0, 1, 1, 64, &bytes));
    REFUSED(ANYKV_E_SHAPE, "2^29", anykv_compress_packed_bound(ANYKV_COMPRESS_RANS, ANYKV_N4, 1u << 23, 1, 64, &bytes));
    REFUSED(ANYKV_E_SHAPE, "multiples", anykv_compress_packed_bound(ANYKV_COMPRESS_RANS, ANYKV_N4, 1, 1, 65, &bytes));
    fill(x, TOKENS, BELL, 3);
    anykv_packed packed = encode(device, ANYKV_N3, &view, TOKENS, HEADS, DIM, data), other = packed;
    REFUSED(ANYKV_E_SHAPE, "capacity", anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, out, 100, &bytes));
    REFUSED(ANYKV_E_ARG, "NULL", anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, NULL, 100, &bytes));
    other.data = NULL;
    REFUSED(ANYKV_E_ARG, "packed.data", anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &other, out, 100, &bytes));
    other = packed;
    other.bytes -= 16;
    REFUSED(ANYKV_E_SHAPE, "packed.bytes", anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &other, out, 100, &bytes));
    cr_expect(bytes == 0);
    for (uint32_t i = 0; i < sizeof out; i++)
        out[i] = data[i];
    uint64_t seed = 1; /* all codes as likely: nothing to save */
    for (uint32_t i = 0; i < packed.bytes; i++)
        data[i] = (uint8_t)house_random(&seed);
    REFUSED(ANYKV_E_UNSUPPORTED, "the packed rows have",
            anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, out, sizeof out, &bytes));
    packed = encode(device, ANYKV_N3, &view, TOKENS, HEADS, DIM, data);
    OK(anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, out, sizeof out, &bytes));
    anykv_view rows = anykv_view_host(x, ANYKV_F32, HEADS, DIM);
    REFUSED(ANYKV_E_SHAPE, "the data has", anykv_decompress(device, out, bytes, &rows, TOKENS, HEADS, DIM));
    other = encode(device, ANYKV_N4, &view, TOKENS, HEADS, DIM, data);
    REFUSED(ANYKV_E_SHAPE, "the data has", anykv_decompress_packed(device, out, bytes, &other));
    anykv_view one = anykv_view_host(x, ANYKV_F32, 1, DIM); /* an odd number of rows leaves padding */
    packed = encode(device, ANYKV_N3, &one, 3, 1, DIM, data);
    data[3 * DIM * 3 / 8] = 1;
    REFUSED(ANYKV_E_ARG, "not zero", anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, out, sizeof out, &bytes));
    anykv_device_close(device);
    anykv_context_destroy(context);
}

static anykv_status scenario(void)
{
    enum { TOKENS = 200 };
    static float x[TOKENS * HEADS * DIM];
    static uint8_t data[BYTES + 1], back[BYTES + 1], out[BYTES + 1];
    anykv_context *context = NULL;
    anykv_device *device = NULL;
    anykv_codec *codec = NULL;
    anykv_codec_options codec_options = ANYKV_CODEC_OPTIONS_INIT;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_view view = anykv_view_host(x, ANYKV_F32, HEADS, DIM);
    anykv_packed packed = {data + 1, 0, ANYKV_N5, TOKENS, HEADS, DIM}, to = packed;
    uint64_t bytes = 0;
    options.threads = 0;
    codec_options.format = ANYKV_N5;
    codec_options.head_dim = DIM;
    fill(x, TOKENS, BELL, 3);
    anykv_status status = anykv_context_create(NULL, &context);
    if (!status)
        status = anykv_device_open(context, "cpu", &options, &device);
    if (!status)
        status = anykv_codec_create(device, &codec_options, &codec);
    if (!status)
        status = anykv_codec_bytes(codec, TOKENS * HEADS, &packed.bytes);
    if (!status)
        status = anykv_codec_encode(codec, &view, TOKENS, HEADS, packed.data, packed.bytes, NULL);
    if (!status)
        status = anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, out + 1, BYTES, &bytes);
    to.bytes = packed.bytes;
    to.data = back + 1;
    if (!status)
        status = anykv_decompress_packed(device, out + 1, bytes, &to);
    if (!status)
        cr_expect(memcmp(packed.data, to.data, packed.bytes) == 0);
    anykv_codec_destroy(codec);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(compress_packed, survives_every_failure)
{
    house_fail_allocations("compress_packed", scenario);
    house_fail_backend("compress_packed", scenario);
}

/* ---- real rows: bytes against the entropy of the model ---- */

/* Bits of the codes: what the model's frequencies say, what each column's own would, and those of one table for all. */
static double bits_of(anykv_device *device, const akv_rans_params *shape, const uint8_t *data, const uint32_t *stream,
                      double *column_out)
{
    akv_rans_params p = *shape;
    const uint32_t columns = akv_rans_stripes(shape) * 32;
    uint32_t *counts = calloc(columns, 64);
    double bits = 0;
    (void)device;
    p.tables = stream[2] & 255;
    p.centre = stream[2] >> 16;
    *column_out = 0;
    for (uint32_t step = 0; step < akv_rans_steps(&p); step++) {
        akv_rans_place place;
        akv_rans_find(&p, step, &place);
        for (uint32_t l = 0; l < akv_rans_lanes(&p, &place); l++) {
            uint32_t symbol = 0, shift = 0;
            for (uint32_t i = 0; i < 2; shift += p.plane[i++].bits)
                for (uint32_t b = 0; b < p.plane[i].bits; b++) {
                    const uint32_t at = l * p.plane[i].bits + b, word = akv_rans_word(&p, i, &place) + at / 32 * p.plane[i].word;
                    symbol |= (uint32_t)(data[word * 4 + at % 32 / 8] >> at % 8 & 1) << (shift + b);
                }
            counts[(place.stripe * 32 + l) * 16 + (akv_rans_split(p.raw, p.centre, symbol) & 15)]++;
        }
    }
    for (uint32_t c = 0; c < columns; c++) {
        double all = 0;
        for (uint32_t k = 0; k < 16; k++)
            all += counts[c * 16 + k];
        for (uint32_t k = 0; k < 16; k++)
            if (counts[c * 16 + k]) {
                const double extra = akv_rans_extra(p.raw, k), n = counts[c * 16 + k];
                const double f = akv_rans_frequency(&p, stream + 4, akv_rans_table(&p, stream + 4, c), k);
                bits += n * (10 - log2(f) + extra);
                *column_out += n * (log2(all / n) + extra);
            }
    }
    free(counts);
    return bits;
}

Test(compress_packed, real_rows_take_the_entropy_of_the_model, .timeout = 120)
{
    const char *folder = getenv("ANYKV_TEST_DATA");
    if (!folder)
        cr_skip_test("ANYKV_TEST_DATA is not set");
    static const char *const files[] = {"smollm2-prose", "smollm2-code"};
    static uint16_t rows[BYTES];
    static uint8_t data[BYTES * 2] __attribute__((aligned(16))), out[BYTES * 2] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    for (size_t f = 0; f < FORMATS - 1; f++)
        for (uint32_t side = 0; side < 2; side++) {
            double plain = 0, all = 0, elements = 0, model = 0, columns = 0, streams = 0;
            for (size_t n = 0; n < 2; n++) {
                char path[512];
                struct akv_safetensors *file;
                snprintf(path, sizeof path, "%s/%s.safetensors", folder, files[n]);
                OK(akv_safetensors_open(path, &file));
                for (uint32_t i = 0; i < akv_safetensors_count(file); i++) {
                    const struct akv_tensor *tensor = akv_safetensors_at(file, i);
                    const char *dot = strrchr(tensor->name, '.');
                    if (!dot || strcmp(dot, side ? ".v" : ".k") != 0)
                        continue;
                    const uint32_t tokens = (uint32_t)tensor->shape[0];
                    anykv_view view = anykv_view_host(rows, ANYKV_F16, HEADS, DIM);
                    akv_rans_params shape[2];
                    uint64_t bytes = 0;
                    double column = 0;
                    cr_assert(tokens <= MOST && tensor->shape[1] == HEADS && tensor->shape[2] == DIM);
                    OK(akv_safetensors_read(file, tensor, rows));
                    anykv_packed packed = encode(device, formats[f], &view, tokens, HEADS, DIM, data);
                    OK(anykv_compress_packed(device, ANYKV_COMPRESS_RANS, &packed, out, sizeof out, &bytes));
                    const uint8_t *stream = out + ANYKV_COMPRESS_HEADER;
                    cr_assert(akv_rans_codes(&shape[0], formats[f], AKV_ORDER_ROW, DIM, tokens * HEADS, HEADS, 1, true));
                    model += bits_of(device, &shape[0], data, (const uint32_t *)(const void *)stream, &column);
                    columns += column;
                    shape[0].tables = ((const uint32_t *)(const void *)stream)[2] & 255;
                    uint32_t taken;
                    memcpy(&taken, stream, 4);
                    streams += 8.0 * (taken - AKV_RANS_HEAD - akv_rans_model_words(&shape[0]) * 4);
                    plain += 8.0 * (double)packed.bytes;
                    all += 8.0 * (double)bytes;
                    elements += (double)tokens * HEADS * DIM;
                }
                akv_safetensors_close(file);
            }
            fprintf(stderr, "%s %s: %.3f bits, %.3f compressed, ratio %.3f; codes %.3f, model %.3f (+%.2f %%), columns %.3f\n",
                    anykv_format_name(formats[f]), side ? "V" : "K", plain / elements, all / elements, plain / all,
                    streams / elements, model / elements, 100 * (streams / model - 1), columns / elements);
            cr_expect(streams < model * 1.005, "%s: %.0f bits, the model says %.0f", anykv_format_name(formats[f]), streams,
                      model);
            cr_expect(plain / all > (side ? 1.02 : 1.08), "%s: ratio %.3f", anykv_format_name(formats[f]), plain / all);
        }
    anykv_device_close(device);
    anykv_context_destroy(context);
}
