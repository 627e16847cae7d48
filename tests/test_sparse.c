/* SPDX-License-Identifier: Apache-2.0 */
/* Sparse compression: what is kept and dropped of adversarial rows, bytes, damage, refusals, failures. */
#include "house.h"
#include "compressed.h"
#include <math.h>

enum { TOKENS = 37, HEADS = 3, DIM = 64, N = TOKENS * HEADS * DIM, ALL = 4 * N };

enum kind { ZERO, CONSTANT, OUTLIER, NANS, ONE_CHANNEL, RANDOM, KINDS };

static void fill(uint8_t *rows, uint32_t each, enum kind kind, uint64_t seed)
{
    for (uint32_t i = 0; i < N; i++) {
        const uint32_t r = house_random(&seed);
        const uint32_t value[KINDS] = {0,          0x3F9D3F9Du, i == N / 2 ? 0x7F7F7F7Fu : 0x00010001u,
                                       0x7FC17FC1u, i % DIM == 5 ? r : 0, r};
        memcpy(rows + (size_t)i * each, &value[kind], each);
    }
}

static bool of_axis(anykv_axis axis, const uint8_t *kept, uint32_t t, uint32_t i)
{
    return kept[axis == ANYKV_AXIS_TOKEN ? t : i];
}

/* As slowly as it can be said: a unit is kept unless `keep` others come before it. */
static void naive_kept(const float *scores, uint32_t units, uint32_t keep, uint8_t *kept)
{
    for (uint32_t u = 0; u < units; u++) {
        uint32_t ahead = 0;
        for (uint32_t o = 0; o < units; o++) {
            const bool nu = isnan(scores[u]), no = isnan(scores[o]);
            if (no ? nu && o < u : nu || scores[o] > scores[u] || (scores[o] == scores[u] && o < u))
                ahead++;
        }
        kept[u] = ahead < keep;
    }
}

static void there_and_back(anykv_device *device, anykv_dtype dtype, anykv_axis axis, uint32_t keep, enum kind kind)
{
    static uint8_t x[ALL], back[ALL + 16], packed[ALL];
    const uint32_t each = dtype == ANYKV_F32 ? 4 : 2, units = axis == ANYKV_AXIS_TOKEN ? TOKENS : DIM;
    float scores[HEADS * DIM];
    uint8_t want[HEADS][DIM], kept[DIM];
    uint64_t seed = keep + 7, bytes = 0, exact = 0;
    fill(x, each, kind, 3);
    for (uint32_t i = 0; i < HEADS * units; i++)
        scores[i] = i % 11 == 3 ? NAN : i % 13 == 5 ? -INFINITY : (float)(house_random(&seed) % 9u) - 4.0f;
    const anykv_view from = anykv_view_host(x, dtype, HEADS, DIM), to = anykv_view_host(back, dtype, HEADS, DIM);
    OK(anykv_sparse_bytes(axis, keep, dtype, TOKENS, HEADS, DIM, &exact));
    if (exact > (uint64_t)N * each) {
        REFUSED(ANYKV_E_UNSUPPORTED, "the rows have",
                anykv_sparse_compress(device, axis, keep, scores, &from, TOKENS, HEADS, DIM, packed, sizeof packed,
                                      &bytes));
        return;
    }
    OK(anykv_sparse_compress(device, axis, keep, scores, &from, TOKENS, HEADS, DIM, packed, exact, &bytes));
    cr_expect(bytes == exact);
    const uint64_t elements = (uint64_t)HEADS * keep * (axis == ANYKV_AXIS_TOKEN ? DIM : TOKENS);
    cr_expect(bytes - 64 - HEADS * ((units + 31) / 32 * 4) - elements * each < 16, "every byte is accounted for");
    anykv_compression method;
    anykv_dtype said;
    uint32_t shape[3];
    OK(anykv_compressed_shape(packed, bytes, &method, &said, &shape[0], &shape[1], &shape[2]));
    cr_expect(method == ANYKV_COMPRESS_SPARSE && said == dtype && shape[0] == TOKENS && shape[1] == HEADS &&
              shape[2] == DIM);
    for (uint32_t h = 0; h < HEADS; h++) {
        naive_kept(scores + h * units, units, keep, want[h]);
        OK(anykv_sparse_kept(packed, bytes, h, kept));
        cr_assert(memcmp(kept, want[h], units) == 0, "head %u", h);
    }
    memset(back, 0xA5, sizeof back);
    OK(anykv_decompress(device, packed, bytes, &to, TOKENS, HEADS, DIM));
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t h = 0; h < HEADS; h++)
            for (uint32_t i = 0; i < DIM; i++) {
                const size_t at = ((size_t)(t * HEADS + h) * DIM + i) * each;
                static const uint8_t zero[4];
                cr_assert(memcmp(back + at, of_axis(axis, want[h], t, i) ? x + at : zero, each) == 0,
                          "dtype %d axis %d keep %u kind %d: token %u head %u element %u", (int)dtype, (int)axis, keep,
                          (int)kind, t, h, i);
            }
    cr_expect(back[(size_t)N * each] == 0xA5);
}

Test(sparse, keeps_what_scores_say_and_drops_to_zero)
{
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    for (int dtype = ANYKV_F32; dtype <= ANYKV_BF16; dtype++)
        for (int axis = 0; axis < 2; axis++)
            for (int kind = 0; kind < KINDS; kind++) {
                const uint32_t keeps[] = {1, 2, 18, axis ? DIM - 1 : TOKENS - 1, axis ? DIM : TOKENS};
                for (size_t k = 0; k < sizeof keeps / sizeof keeps[0]; k++)
                    there_and_back(device, (anykv_dtype)dtype, (anykv_axis)axis, keeps[k], (enum kind)kind);
            }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(sparse, one_token_and_one_channel_of_rows_with_gaps)
{
    float x[4 * 32], back[4 * 32], scores[2] = {1.0f, 2.0f};
    uint8_t packed[512];
    uint64_t bytes;
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    for (uint32_t i = 0; i < 128; i++)
        x[i] = (float)i;
    anykv_view from = anykv_view_host(x, ANYKV_F32, 1, 1), to = anykv_view_host(back, ANYKV_F32, 1, 1);
    REFUSED(ANYKV_E_UNSUPPORTED, "the rows have", /* one element has no room for a header */
            anykv_sparse_compress(device, ANYKV_AXIS_TOKEN, 1, scores, &from, 1, 1, 1, packed, sizeof packed, &bytes));
    from = anykv_view_host(x, ANYKV_F32, 1, 20); /* as many bytes as the rows have */
    OK(anykv_sparse_compress(device, ANYKV_AXIS_TOKEN, 1, scores, &from, 2, 1, 20, packed, 160, &bytes));
    cr_expect(bytes == 160);
    from = anykv_view_host(x, ANYKV_F32, 2, 32);
    to = anykv_view_host(back, ANYKV_F32, 2, 32);
    from.token_stride = to.token_stride = 32; /* two tokens of one head with the row of another between them */
    from.head_stride = to.head_stride = 64;
    memset(back, 0x5A, sizeof back);
    float four[4] = {1.0f, 2.0f, 4.0f, 3.0f};
    OK(anykv_sparse_compress(device, ANYKV_AXIS_TOKEN, 1, four, &from, 2, 2, 32, packed, sizeof packed, &bytes));
    OK(anykv_decompress(device, packed, bytes, &to, 2, 2, 32));
    for (uint32_t i = 0; i < 128; i++)
        cr_expect(back[i] == (i / 32 == 1 || i / 32 == 2 ? x[i] : 0.0f), "element %u is %g", i, (double)back[i]);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* The checks of body and header. */
static void mend(uint8_t *packed, uint64_t bytes)
{
    const uint32_t sum = compressed_sum(packed + ANYKV_COMPRESS_HEADER, (bytes - ANYKV_COMPRESS_HEADER) / 4, UINT64_MAX);
    memcpy(packed + 44, &sum, 4);
    compressed_seal(packed, bytes);
}

Test(sparse, damage_is_found)
{
    static uint16_t x[N], back[N];
    static uint8_t packed[2 * N];
    float scores[HEADS * TOKENS];
    uint64_t bytes;
    uint8_t kept[TOKENS];
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    fill((uint8_t *)x, 2, RANDOM, 5);
    for (uint32_t i = 0; i < HEADS * TOKENS; i++)
        scores[i] = (float)(i * 7 % 31);
    const anykv_view from = anykv_view_host(x, ANYKV_BF16, HEADS, DIM), to = anykv_view_host(back, ANYKV_BF16, HEADS, DIM);
    OK(anykv_sparse_compress(device, ANYKV_AXIS_TOKEN, 3, scores, &from, TOKENS, HEADS, DIM, packed, sizeof packed,
                             &bytes));
    for (uint64_t bit = 0; bit < bytes * 8; bit++) {
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert(anykv_decompress(device, packed, bytes, &to, TOKENS, HEADS, DIM) == ANYKV_E_DATA, "bit %llu",
                  (unsigned long long)bit);
        cr_assert(anykv_sparse_kept(packed, bytes, 0, kept) == ANYKV_E_DATA);
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (uint64_t cut = 0; cut < bytes; cut++)
        REFUSED(ANYKV_E_DATA, "compressed rows", anykv_decompress(device, packed, cut, &to, TOKENS, HEADS, DIM));
    /* A list of a head that names too many of its 37 tokens, or others, with checks that are right. */
    static const struct {
        uint32_t inside, beyond;
    } lists[] = {{3, 0}, {4, 0}, {2, 0}, {3, 1}, {2, 1}, {0, 3}};
    for (uint32_t h = 0; h < HEADS; h++)
        for (uint32_t i = 0; i < sizeof lists / sizeof *lists; i++) {
            uint8_t *list = packed + ANYKV_COMPRESS_HEADER + h * 8, as_was[8];
            memcpy(as_was, list, sizeof as_was);
            memset(list, 0, 8);
            list[0] = (uint8_t)((1u << lists[i].inside) - 1u);
            list[7] = (uint8_t)((1u << lists[i].beyond) - 1u);
            mend(packed, bytes);
            const anykv_status want = i ? ANYKV_E_DATA : ANYKV_OK;
            cr_expect(anykv_decompress(device, packed, bytes, &to, TOKENS, HEADS, DIM) == want, "head %u, %u", h, i);
            cr_expect(anykv_sparse_kept(packed, bytes, 0, kept) == want, "head %u, %u", h, i);
            memcpy(list, as_was, sizeof as_was);
        }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(sparse, refusals)
{
    static uint16_t x[N];
    static uint8_t packed[2 * N];
    static const float scores[HEADS * DIM];
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_view view = anykv_view_host(x, ANYKV_F16, HEADS, DIM);
    uint64_t bytes = 0, needed;
    uint8_t kept[TOKENS];
    OK(anykv_sparse_bytes(ANYKV_AXIS_TOKEN, 9, ANYKV_F16, TOKENS, HEADS, DIM, &needed));
    REFUSED(ANYKV_E_ARG, "axis", anykv_sparse_bytes((anykv_axis)2, 1, ANYKV_F16, 1, 1, 1, &bytes));
    REFUSED(ANYKV_E_ARG, "not within 1 to 37", anykv_sparse_bytes(ANYKV_AXIS_TOKEN, 38, ANYKV_F16, 37, 1, 1, &bytes));
    REFUSED(ANYKV_E_ARG, "not within 1 to 64", anykv_sparse_bytes(ANYKV_AXIS_CHANNEL, 0, ANYKV_F16, 37, 1, 64, &bytes));
    REFUSED(ANYKV_E_SHAPE, "2^30",
            anykv_sparse_bytes(ANYKV_AXIS_TOKEN, 1, ANYKV_F16, 1u << 16, 1u << 16, 1, &bytes));
    REFUSED(ANYKV_E_SHAPE, "0 heads", anykv_sparse_bytes(ANYKV_AXIS_TOKEN, 1, ANYKV_F16, 1, 0, 1, &bytes));
    REFUSED(ANYKV_E_ARG, "NULL",
            anykv_sparse_compress(device, ANYKV_AXIS_TOKEN, 1, NULL, &view, TOKENS, HEADS, DIM, packed, sizeof packed,
                                  &bytes));
    REFUSED(ANYKV_E_SHAPE, "capacity",
            anykv_sparse_compress(device, ANYKV_AXIS_TOKEN, 9, scores, &view, TOKENS, HEADS, DIM, packed, needed - 1,
                                  &bytes));
    REFUSED(ANYKV_E_ARG, "anykv_sparse_compress",
            anykv_compress(device, ANYKV_COMPRESS_SPARSE, &view, TOKENS, HEADS, DIM, packed, sizeof packed, &bytes));
    cr_expect(bytes == 0);
    OK(anykv_sparse_compress(device, ANYKV_AXIS_TOKEN, 9, scores, &view, TOKENS, HEADS, DIM, packed, sizeof packed,
                             &bytes));
    REFUSED(ANYKV_E_SHAPE, "head: 3", anykv_sparse_kept(packed, bytes, 3, kept));
    view.dtype = ANYKV_BF16;
    REFUSED(ANYKV_E_SHAPE, "the data has", anykv_decompress(device, packed, bytes, &view, TOKENS, HEADS, DIM));
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Rows in device memory, so that everything is allocated and moved. */
static anykv_status scenario(void)
{
    static uint16_t x[N];
    static uint8_t packed[2 * N];
    static const float scores[HEADS * DIM];
    anykv_context *context = NULL;
    anykv_device *device = NULL;
    anykv_mem *mem = NULL;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = 0;
    uint64_t bytes;
    anykv_view view = anykv_view_host(NULL, ANYKV_BF16, HEADS, DIM);
    anykv_status status = anykv_context_create(NULL, &context);
    if (!status)
        status = anykv_device_open(context, "cpu", &options, &device);
    if (!status)
        status = anykv_mem_create(device, sizeof x, &mem);
    if (!status)
        status = anykv_mem_put(mem, 0, x, sizeof x);
    view.mem = mem;
    if (!status)
        status = anykv_sparse_compress(device, ANYKV_AXIS_CHANNEL, 5, scores, &view, TOKENS, HEADS, DIM, packed,
                                       sizeof packed, &bytes);
    if (!status)
        status = anykv_decompress(device, packed, bytes, &view, TOKENS, HEADS, DIM);
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(sparse, survives_every_failure)
{
    house_fail_allocations("sparse", scenario);
    house_fail_backend("sparse", scenario);
}
