/* SPDX-License-Identifier: Apache-2.0 */
/* anykv_compress and back: naive bytes, adversarial rows, damage, refusals, failures. */
#include "house.h"
#include "compressed.h"
#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 3, DIM = 64, MOST = 70000 };

/* ---- the format again, as slowly as it can be said ---- */

static uint32_t naive_check(const uint16_t *x, uint32_t m, uint32_t piece)
{
    uint32_t sum = piece;
    for (uint32_t j = 0; 2 * j < m; j++) {
        uint32_t a = x[2 * j] + (2 * j + 1 < m ? (uint32_t)x[2 * j + 1] * 65536u : 0u);
        a += j * 0x9E3779B1u;
        a ^= a >> 16;
        a *= 0x85EBCA6Bu;
        sum += a ^ (a >> 13);
    }
    return sum;
}

static void pad(uint8_t *out, uint64_t *at)
{
    while (*at % 16)
        out[(*at)++] = 0;
}

static uint64_t naive(const uint16_t *x, uint32_t tokens, uint32_t heads, uint32_t dim, uint8_t *out)
{
    uint32_t n = tokens * heads * dim, counts[256] = {0}, rank[256], index[256], escapes = 0, used = 0;
    uint64_t at = 64, escape_at;
    memset(out, 0, 64);
    for (uint32_t i = 0; i < n; i++)
        counts[x[i] >> 7 & 255]++;
    for (uint32_t e = 0; e < 256; e++) {
        rank[e] = 0;
        for (uint32_t o = 0; o < 256; o++)
            rank[e] += counts[o] > counts[e] || (counts[o] == counts[e] && o < e);
    }
    for (uint32_t e = 0; e < 256; e++) {
        index[e] = rank[e] < 16 ? used : 99;
        if (rank[e] < 16)
            out[40 + used++] = (uint8_t)e;
        else
            escapes += counts[e];
    }
    for (uint32_t p = 0, before = 0; p * 1024 < n; p++, at += 8) {
        uint32_t m = n - p * 1024 < 1024 ? n - p * 1024 : 1024, check = naive_check(x + p * 1024, m, p);
        memcpy(out + at, &before, 4);
        memcpy(out + at + 4, &check, 4);
        for (uint32_t i = 0; i < m; i++)
            before += index[x[p * 1024 + i] >> 7 & 255] == 99;
    }
    pad(out, &at);
    for (uint32_t p = 0; p * 1024 < n; p++) {
        uint32_t m = n - p * 1024 < 1024 ? n - p * 1024 : 1024;
        for (uint32_t i = 0; i < m; i++)
            out[at++] = (uint8_t)((x[p * 1024 + i] & 127) + (x[p * 1024 + i] >> 15) * 128);
        pad(out, &at);
        for (uint32_t i = 0; i < m; i += 2) {
            uint32_t a = index[x[p * 1024 + i] >> 7 & 255];
            uint32_t b = i + 1 < m ? index[x[p * 1024 + i + 1] >> 7 & 255] : 0;
            out[at++] = (uint8_t)((a == 99 ? 0 : a) + (b == 99 ? 0 : b) * 16);
        }
        pad(out, &at);
    }
    escape_at = at;
    for (uint32_t i = 0; i < n; i++)
        if (index[x[i] >> 7 & 255] == 99) {
            uint32_t escape = i % 1024 + (x[i] >> 7 & 255u) * 65536u;
            memcpy(out + at, &escape, 4);
            at += 4;
        }
    pad(out, &at);
    cr_assert(at == (escape_at + escapes * 4 + 15) / 16 * 16);
    const uint32_t words[] = {1, ANYKV_BF16, tokens, heads, dim, escapes};
    memcpy(out + 4, words, sizeof words);
    compressed_seal(out, at);
    return at;
}

/* ---- rows ---- */

enum kind { REAL, ZERO, CONSTANT, OUTLIER, NANS, SIGNED, DENORMAL, PATTERNS, RANDOM, CHANNEL, KINDS };

static void fill(uint16_t *x, uint32_t n, enum kind kind, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t r = house_random(&seed), low = r & 0x807Fu, e = 127 - (uint32_t)__builtin_ctz(house_random(&seed) | 1u << 24);
        const uint32_t value[KINDS] = {low | e << 7,
                                       0,
                                       0x3F9D,
                                       i == n / 2 ? 0x7F7Fu : low | 120u << 7,
                                       r >> 27 ? low | e << 7 : low | 0x7F80u,
                                       r & 0x8000u,
                                       low,
                                       i,
                                       r,
                                       i % DIM == 5 ? low | 140u << 7 : low | (118u + r % 5u) << 7};
        x[i] = (uint16_t)value[kind];
    }
}

static anykv_status pack(anykv_device *device, const uint16_t *x, uint32_t tokens, uint8_t *packed, uint64_t *bytes)
{
    anykv_view view = anykv_view_host(x, ANYKV_BF16, HEADS, DIM);
    uint64_t bound;
    OK(anykv_compress_bound(ANYKV_COMPRESS_BX16, ANYKV_BF16, tokens, HEADS, DIM, &bound));
    cr_expect(bound == (uint64_t)tokens * HEADS * DIM * 2);
    return anykv_compress(device, ANYKV_COMPRESS_BX16, &view, tokens, HEADS, DIM, packed, bound, bytes);
}

Test(compress, bytes_are_the_naive_ones_and_rows_come_back)
{
    static uint16_t x[MOST], back[MOST];
    static uint8_t packed[MOST * 2 + 16] __attribute__((aligned(16))), want[MOST * 6 + 4096]; /* all escape */
    static const uint32_t sizes[] = {1, 2, 5, 6, 64, 345};
    anykv_context *context = house_context();
    for (uint32_t threads = 0; threads <= 2; threads += 2) {
        anykv_device *device = house_device(context, threads);
        for (int kind = 0; kind < KINDS; kind++)
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                uint32_t tokens = sizes[s], n = tokens * HEADS * DIM;
                uint64_t bytes = 0, wanted;
                fill(x, n, (enum kind)kind, 7 + s);
                wanted = naive(x, tokens, HEADS, DIM, want);
                anykv_status status = pack(device, x, tokens, packed, &bytes);
                if (wanted > 2ull * n) { /* the documented effect: nothing grows */
                    cr_expect(status == ANYKV_E_UNSUPPORTED && bytes == 0, "kind %d, %u tokens", kind, tokens);
                    continue;
                }
                OK(status);
                cr_assert(bytes == wanted && memcmp(packed, want, bytes) == 0, "kind %d, %u tokens", kind, tokens);
                cr_expect(tokens < 64 || kind >= PATTERNS - 1 || 2.0 * n / (double)bytes > 1.30, "kind %d: %llu bytes",
                          kind, (unsigned long long)bytes);
                anykv_compression method;
                anykv_dtype dtype;
                uint32_t shape[3];
                OK(anykv_compressed_shape(packed, bytes, &method, &dtype, &shape[0], &shape[1], &shape[2]));
                cr_expect(method == ANYKV_COMPRESS_BX16 && dtype == ANYKV_BF16 && shape[0] == tokens &&
                          shape[1] == HEADS && shape[2] == DIM);
                memset(back, 0xA5, sizeof back);
                anykv_view to = anykv_view_host(back, ANYKV_BF16, HEADS, DIM);
                OK(anykv_decompress(device, packed, bytes, &to, tokens, HEADS, DIM));
                cr_expect(memcmp(x, back, 2ull * n) == 0 && back[n] == 0xA5A5u, "kind %d, %u tokens", kind, tokens);
            }
        anykv_device_close(device);
    }
    anykv_context_destroy(context);
}

Test(compress, strided_rows_and_unaligned_bytes)
{
    enum { TOKENS = 40, N = TOKENS * HEADS * DIM };
    static uint16_t x[N], wide[TOKENS * HEADS * (DIM + 8)], back[TOKENS * HEADS * (DIM + 8)];
    static uint8_t packed[2 * N + 16] __attribute__((aligned(16))), other[2 * N + 16] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    uint64_t bytes, again;
    fill(x, N, REAL, 3);
    for (uint32_t h = 0; h < HEADS; h++) /* [heads][tokens] with gaps */
        for (uint32_t t = 0; t < TOKENS; t++)
            memcpy(wide + (h * TOKENS + t) * (DIM + 8), x + (t * HEADS + h) * DIM, DIM * 2);
    OK(pack(device, x, TOKENS, packed, &bytes));
    anykv_view view = anykv_view_host(wide, ANYKV_BF16, HEADS, DIM);
    view.token_stride = DIM + 8;
    view.head_stride = TOKENS * (DIM + 8);
    OK(anykv_compress(device, ANYKV_COMPRESS_BX16, &view, TOKENS, HEADS, DIM, other + 1, bytes, &again));
    cr_expect(again == bytes && memcmp(packed, other + 1, bytes) == 0);
    view.data = back;
    OK(anykv_decompress(device, other + 1, bytes, &view, TOKENS, HEADS, DIM));
    cr_expect(memcmp(wide, back, sizeof wide) == 0, "gaps stay as they were");
    anykv_device_close(device);
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

Test(compress, golden)
{
    enum { TOKENS = 64, N = TOKENS * HEADS * DIM };
    static uint16_t x[N];
    static uint8_t packed[2 * N] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    uint64_t bytes = 0;
    fill(x, N, REAL, 11);
    OK(pack(device, x, TOKENS, packed, &bytes));
    cr_expect(fnv(packed, bytes) == UINT64_C(0x3687B4D948338D0B), "0x%016llX", (unsigned long long)fnv(packed, bytes));
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Every bit of the header and of every record, and many others: never other rows. */
Test(compress, damage_is_found)
{
    enum { TOKENS = 12, N = TOKENS * HEADS * DIM };
    static uint16_t x[N], back[N];
    static uint8_t packed[2 * N] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_view view = anykv_view_host(back, ANYKV_BF16, HEADS, DIM);
    uint64_t bytes, found = 0, same = 0;
    fill(x, N, REAL, 11);
    x[100] = 0x0001, x[2000] = 0x7FC1;
    OK(pack(device, x, TOKENS, packed, &bytes));
    for (uint64_t bit = 0; bit < bytes * 8; bit++) {
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        anykv_status status = anykv_decompress(device, packed, bytes, &view, TOKENS, HEADS, DIM);
        cr_assert(status == ANYKV_E_DATA || (status == ANYKV_OK && memcmp(x, back, sizeof x) == 0),
                  "bit %llu: %s", (unsigned long long)bit, anykv_status_name(status));
        found += status == ANYKV_E_DATA;
        same += status == ANYKV_OK;
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    /* What may change unseen is padding, and the index under an escape. */
    cr_expect(found > bytes * 8 - 700 && same > 0, "%llu found, %llu without effect", (unsigned long long)found,
              (unsigned long long)same);
    for (uint64_t cut = 0; cut < bytes; cut += 7)
        REFUSED(ANYKV_E_DATA, "compressed rows", anykv_decompress(device, packed, cut, &view, TOKENS, HEADS, DIM));
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(compress, refusals)
{
    enum { TOKENS = 8, N = TOKENS * HEADS * DIM };
    static uint16_t x[N];
    static uint8_t packed[2 * N] __attribute__((aligned(16)));
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_view view = anykv_view_host(x, ANYKV_BF16, HEADS, DIM), half = view;
    uint64_t bytes = 0;
    half.dtype = ANYKV_F16;
    REFUSED(ANYKV_E_ARG, "method", anykv_compress_bound((anykv_compression)9, ANYKV_BF16, 1, 1, 1, &bytes));
    REFUSED(ANYKV_E_SHAPE, "2^30", anykv_compress_bound(ANYKV_COMPRESS_BX16, ANYKV_BF16, 1u << 30, 2, 1, &bytes));
    REFUSED(ANYKV_E_SHAPE, "2^30",
            anykv_compress_bound(ANYKV_COMPRESS_BX16, ANYKV_BF16, 1, 1u << 16, 1u << 16, &bytes));
    REFUSED(ANYKV_E_SHAPE, "0 tokens", anykv_compress_bound(ANYKV_COMPRESS_BX16, ANYKV_BF16, 0, 1, 1, &bytes));
    REFUSED(ANYKV_E_UNSUPPORTED, "BF16 only",
            anykv_compress(device, ANYKV_COMPRESS_BX16, &half, TOKENS, HEADS, DIM, packed, sizeof packed, &bytes));
    fill(x, N, RANDOM, 5);
    REFUSED(ANYKV_E_UNSUPPORTED, "escapes",
            anykv_compress(device, ANYKV_COMPRESS_BX16, &view, TOKENS, HEADS, DIM, packed, sizeof packed, &bytes));
    fill(x, N, REAL, 5);
    REFUSED(ANYKV_E_SHAPE, "capacity",
            anykv_compress(device, ANYKV_COMPRESS_BX16, &view, TOKENS, HEADS, DIM, packed, 2000, &bytes));
    REFUSED(ANYKV_E_ARG, "NULL",
            anykv_compress(device, ANYKV_COMPRESS_BX16, NULL, TOKENS, HEADS, DIM, packed, sizeof packed, &bytes));
    cr_expect(bytes == 0);
    OK(pack(device, x, TOKENS, packed, &bytes));
    REFUSED(ANYKV_E_SHAPE, "the data has", anykv_decompress(device, packed, bytes, &view, TOKENS, DIM, HEADS));
    REFUSED(ANYKV_E_SHAPE, "the data has", anykv_decompress(device, packed, bytes, &half, TOKENS, HEADS, DIM));
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Strided rows and unaligned bytes, so that everything is allocated. */
static anykv_status scenario(void)
{
    enum { TOKENS = 9, N = TOKENS * HEADS * DIM };
    static uint16_t x[2 * N], back[2 * N];
    static uint8_t packed[2 * N + 16] __attribute__((aligned(16)));
    anykv_context *context = NULL;
    anykv_device *device = NULL;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = 0;
    fill(x, 2 * N, REAL, 9);
    anykv_view from = anykv_view_host(x, ANYKV_BF16, HEADS, DIM), to = anykv_view_host(back, ANYKV_BF16, HEADS, DIM);
    from.token_stride = to.token_stride = 2 * HEADS * DIM;
    uint64_t bytes;
    anykv_status status = anykv_context_create(NULL, &context);
    if (!status)
        status = anykv_device_open(context, "cpu", &options, &device);
    if (!status)
        status = anykv_compress(device, ANYKV_COMPRESS_BX16, &from, TOKENS, HEADS, DIM, packed + 1, 2 * N, &bytes);
    if (!status)
        status = anykv_decompress(device, packed + 1, bytes, &to, TOKENS, HEADS, DIM);
    for (uint32_t t = 0; t < TOKENS && !status; t++)
        cr_expect(memcmp(x + t * from.token_stride, back + t * to.token_stride, HEADS * DIM * 2) == 0);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(compress, survives_every_failure)
{
    house_fail_allocations("compress", scenario);
    house_fail_backend("compress", scenario);
}
