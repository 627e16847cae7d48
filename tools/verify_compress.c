/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of the compress family.  Bodies come from the scalar reference, which
 * tests/test_compress.c holds against naive code; decoding is compared with the rows themselves. */
#include "verify.h"
#include "../lib/kernel/bx16.h"
#include <inttypes.h>

/* What runs are made of. */
enum run { RUN_REAL, RUN_ZERO, RUN_CONSTANT, RUN_OUTLIER, RUN_NAN, RUN_SIGNED, RUN_DENORMAL, RUN_PATTERNS,
           RUN_RANDOM, RUN_CHANNEL, RUN_SPREAD, RUN_DRIFT, RUNS };
static const char *const run_names[RUNS] = {"real",     "zero",     "constant", "outlier", "nan",   "signed",
                                            "denormal", "patterns", "random",   "channel", "spread", "drift"};

static uint16_t element(enum run run, uint32_t i, uint64_t r)
{
    const uint32_t low = (uint32_t)r & 0x807Fu; /* any sign and mantissa */
    switch (run) {
    case RUN_REAL: /* exponents around 2^-1, rarer downwards, a few far away */
        return (uint16_t)(low | (127u - (uint32_t)__builtin_ctzll(r >> 32 | 1ull << 31) % 24u) << 7);
    case RUN_ZERO:
        return 0;
    case RUN_CONSTANT:
        return 0x3F9Du;
    case RUN_OUTLIER:
        return i == 777u ? 0x7F7Fu : (uint16_t)(low | 120u << 7);
    case RUN_NAN:
        return r >> 60 == 0 ? (uint16_t)(low | 0x7F80u) : (uint16_t)(low | (110u + (r >> 32) % 20u) << 7);
    case RUN_SIGNED:
        return r >> 63 ? 0x8000u : 0;
    case RUN_DENORMAL:
        return (uint16_t)low;
    case RUN_PATTERNS:
        return (uint16_t)i;
    case RUN_CHANNEL:
        return i % 64u == 5u ? (uint16_t)(low | 140u << 7) : (uint16_t)(low | (118u + (r >> 32) % 5u) << 7);
    case RUN_SPREAD: /* 16 exponents that are no neighbours, and a few others */
        return (uint16_t)(low | ((r >> 32) % 16u * 7u + (r >> 58 == 0)) << 7);
    case RUN_DRIFT: /* each piece has exponents of its own, as layers have */
        return (uint16_t)(low | (90u + i / AKV_BX16_PIECE % 7u * 11u + (r >> 32) % 12u) << 7);
    default:
        return (uint16_t)r;
    }
}

struct run_data {
    akv_bx16_params params;
    uint16_t *rows;
    uint8_t *body;
    uint64_t bytes;
    uint32_t counts[256];
};

static bool reference_body(struct verify *v, struct run_data *d)
{
    struct verify_launch launch;
    memset(&launch, 0, sizeof launch);
    launch.params = &d->params;
    launch.span[0] = (struct verify_span){d->rows, NULL, (uint64_t)d->params.elements * 2u};
    launch.span[1] = (struct verify_span){NULL, verify_any, d->bytes};
    launch.result[1] = d->body;
    return verify_reference(v, AKV_K_BX16_ENCODE, &launch);
}

static bool data_create(struct verify *v, struct run_data *d, enum run run, uint32_t n, uint64_t seed)
{
    memset(d, 0, sizeof *d);
    d->params.elements = n;
    d->rows = verify_alloc(v, (uint64_t)n * 2u);
    if (!d->rows)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        d->rows[i] = element(run, i, verify_random(&seed));
        d->counts[akv_bx16_exponent(d->rows[i])]++;
    }
    d->params.escapes = akv_bx16_choose(d->counts, d->params.table);
    d->bytes = akv_bx16_bytes(n, d->params.escapes);
    d->body = verify_alloc(v, d->bytes);
    return d->body && reference_body(v, d);
}

static void data_destroy(struct verify *v, struct run_data *d)
{
    akv_free(v->context, d->rows);
    akv_free(v->context, d->body);
}

static void count_case(struct verify *v, struct run_data *d)
{
    uint32_t before[256], after[256];
    struct verify_launch shape[VERIFY_SHAPES];
    memset(shape, 0, sizeof shape);
    for (uint32_t e = 0; e < 256; e++) {
        before[e] = e * 3u;
        after[e] = before[e] + d->counts[e];
    }
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        shape[s].params = &d->params;
        shape[s].span[0] = (struct verify_span){d->rows, NULL, (uint64_t)d->params.elements * 2u};
        shape[s].span[1] = (struct verify_span){before, after, sizeof before};
    }
    verify_compare(v, d->params.elements, shape);
}

static void encode_case(struct verify *v, struct run_data *d)
{
    struct verify_launch shape[VERIFY_SHAPES];
    memset(shape, 0, sizeof shape);
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        shape[s].params = &d->params;
        shape[s].span[0] = (struct verify_span){d->rows, NULL, (uint64_t)d->params.elements * 2u};
        shape[s].span[1] = (struct verify_span){NULL, d->body, d->bytes};
    }
    verify_compare(v, d->params.elements, shape);
}

/* The second shape's body has one bit turned, where that must be seen. */
static void decode_case(struct verify *v, struct run_data *d, uint64_t seed)
{
    static const uint32_t fine = 0, damaged = 1;
    const uint32_t n = d->params.elements, pieces = akv_bx16_pieces(n);
    uint8_t *other = verify_alloc(v, d->bytes);
    struct verify_launch shape[VERIFY_SHAPES];
    memset(shape, 0, sizeof shape);
    if (!other)
        return;
    memcpy(other, d->body, d->bytes);
    uint32_t piece = verify_below(&seed, pieces), byte = verify_below(&seed, akv_bx16_length(n, piece));
    uint64_t at = akv_bx16_piece_at(n, piece) + byte; /* a rest */
    if (verify_below(&seed, 3) == 0)
        at = (uint64_t)piece * 8u + 4u + verify_below(&seed, 4); /* a check */
    else if (d->params.escapes && verify_below(&seed, 2))
        at = akv_bx16_escapes_at(n) + 4u * (uint64_t)verify_below(&seed, d->params.escapes) + verify_below(&seed, 4);
    other[at] ^= (uint8_t)(1u << verify_below(&seed, 8));
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        shape[s].params = &d->params;
        shape[s].span[0] = (struct verify_span){s ? other : d->body, NULL, d->bytes};
        shape[s].span[1] = (struct verify_span){NULL, s ? (const void *)verify_any : d->rows, (uint64_t)n * 2u};
        shape[s].span[2] = (struct verify_span){&fine, s ? &damaged : &fine, 4u};
    }
    verify_compare(v, n, shape);
    akv_free(v->context, other);
}

void verify_bx16(struct verify *v, uint32_t format)
{
    static const uint32_t sizes[] = {1, 2, 15, 64, 192, 1023, 1024, 1025, 4097, 65536, 70001};
    const uint32_t variants = sizeof sizes / sizeof sizes[0];
    uint64_t want = verify_share(v, RUNS), done[RUNS] = {0};
    (void)format;
    for (uint32_t run = 0; run < RUNS; run++)
        for (uint32_t round = 0; round < variants || done[run] < want; round++) {
            uint64_t seed = verify_mix(v->seed, 9800u + run * 1000u + round);
            uint32_t n = round < variants ? sizes[round] : 65536u + (uint32_t)(seed % 500000u);
            struct run_data d;
            done[run] += n;
            if (!verify_case(v, n, "%s-%" PRIu32 "-%" PRIu32, run_names[run], n, round))
                continue;
            if (data_create(v, &d, (enum run)run, n, seed)) {
                if (v->kernel == AKV_K_BX16_COUNT)
                    count_case(v, &d);
                else if (v->kernel == AKV_K_BX16_ENCODE)
                    encode_case(v, &d);
                else
                    decode_case(v, &d, seed);
            }
            data_destroy(v, &d);
        }
}
