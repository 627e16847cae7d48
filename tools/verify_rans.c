/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of rANS.  Bodies come from the scalar reference, which tests/test_rans.c holds against
 * naive code; decoding is compared with the symbols themselves. */
#include "verify.h"
#include "../lib/kernel/format.h"
#include "../lib/rans.h"
#include <inttypes.h>

/* Where the symbols stand: codes as a codec leaves them and as blocks have them, scales, a matrix. */
enum place { PLACE_MIXED, PLACE_ROWS, PLACE_QUADS, PLACE_SCALES, PLACE_MATRIX, PLACES };
static const char *const place_names[PLACES] = {"mixed", "rows", "quads", "scales", "matrix"};
/* What they are. */
enum run { RUN_REAL, RUN_ZERO, RUN_CONSTANT, RUN_OUTLIER, RUN_RANDOM, RUN_TWO, RUN_COLUMNS, RUNS };
static const char *const run_names[RUNS] = {"real", "zero", "constant", "outlier", "random", "two", "columns"};

struct rans_data {
    akv_rans_params params;
    uint64_t words_bytes, body_bytes, model_bytes;
    uint8_t *words, *before, *body, *initial; /* before: what decoding finds; initial: what encoding does */
    uint32_t *counts, *model;
    uint64_t *keys;
};

static bool shape_of(struct rans_data *d, uint32_t format, enum place place, uint32_t size)
{
    static const uint32_t dims[] = {64, 96, 128, 80};
    const uint32_t dim = dims[size % 4u], rows = 1u + size;
    akv_rans_params *p = &d->params;
    switch (place) {
    case PLACE_MIXED:
        d->words_bytes = akv_tile_bytes(format, rows * 2u, dim);
        return akv_rans_codes(p, format, AKV_ORDER_ROW, dim, rows * 2u, 2, 1, true);
    case PLACE_ROWS:
    case PLACE_QUADS:
        d->words_bytes = (uint64_t)akv_tile_bytes(format, 16, dim) * 2u * (rows / 16u + 1u);
        return akv_rans_codes(p, format, place == PLACE_QUADS ? AKV_ORDER_QUAD : AKV_ORDER_ROW, dim, 16, 2,
                              2u * (rows / 16u + 1u), false);
    case PLACE_SCALES:
        d->words_bytes = (uint64_t)akv_tile_bytes(format, 16, dim) * (rows / 4u + 1u);
        return akv_rans_scales(p, format, dim, 16, 1, rows / 4u + 1u, false);
    default:
        d->words_bytes = (uint64_t)rows * 64u;
        return akv_rans_matrix(p, rows, 64, true);
    }
}

static uint32_t symbol_of(const akv_rans_params *p, enum run run, uint32_t column, uint64_t step, uint64_t r)
{
    const uint32_t width = akv_rans_width(p), mask = (1u << width) - 1u;
    const uint32_t bell = (uint32_t)__builtin_popcountll(r & 0x7FFF) << width >> 4; /* 0 … 15 sixteenths */
    switch (run) {
    case RUN_REAL:
        return (bell + (uint32_t)(r >> 40) % (mask / 8u + 1u)) & mask;
    case RUN_ZERO:
        return 0;
    case RUN_CONSTANT:
        return mask;
    case RUN_OUTLIER:
        return step == 17 && column == 3 ? mask / 2u : 1;
    case RUN_TWO:
        return r >> 58 ? 1u : mask;
    case RUN_COLUMNS:
        return (bell / (1u + column % 5u) + column) & mask;
    default:
        return (uint32_t)r & mask;
    }
}

/* Symbols to words, a lane at a time. */
static void fill_words(struct rans_data *d, enum run run, uint64_t seed)
{
    const akv_rans_params *p = &d->params;
    uint32_t *words = (uint32_t *)(void *)d->words, *before = (uint32_t *)(void *)d->before;
    for (uint64_t i = 0; i < d->words_bytes / 4u; i++)
        words[i] = before[i] = (uint32_t)verify_random(&seed);
    for (uint32_t step = 0; step < akv_rans_steps(p); step++) {
        akv_rans_place place;
        akv_rans_find(p, step, &place);
        for (uint32_t l = 0; l < akv_rans_lanes(p, &place); l++) {
            uint32_t symbol = symbol_of(p, run, place.stripe * 32u + l, step, verify_random(&seed));
            for (uint32_t i = 0; i < 2u; i++) {
                const uint32_t bits = p->plane[i].bits, mask = (1u << bits) - 1u;
                if (bits == 0)
                    continue;
                const uint32_t at = akv_rans_word(p, i, &place) + l * bits / 32u * p->plane[i].word;
                words[at] = (words[at] & ~(mask << (l * bits & 31u))) | (symbol & mask) << (l * bits & 31u);
                before[at] = ~words[at];
                symbol >>= bits;
            }
        }
    }
}

static bool reference_body(struct verify *v, struct rans_data *d)
{
    struct verify_launch launch;
    memset(&launch, 0, sizeof launch);
    launch.params = &d->params;
    launch.span[0] = (struct verify_span){d->words, NULL, d->words_bytes};
    launch.span[1] = (struct verify_span){d->model, NULL, d->model_bytes};
    launch.span[2] = (struct verify_span){d->initial, verify_any, d->body_bytes};
    launch.span[3] = (struct verify_span){NULL, verify_any, d->body_bytes};
    launch.result[2] = d->body;
    return verify_reference(v, AKV_K_RANS_ENCODE, &launch);
}

static void count_columns(struct rans_data *d)
{
    const akv_rans_params *p = &d->params;
    const uint32_t *words = (const uint32_t *)(const void *)d->words;
    for (uint32_t step = 0; step < akv_rans_steps(p); step++) {
        akv_rans_place place;
        akv_rans_find(p, step, &place);
        for (uint32_t l = 0; l < akv_rans_lanes(p, &place); l++) {
            uint32_t symbol = 0, shift = 0;
            for (uint32_t i = 0; i < 2u; shift += p->plane[i++].bits)
                if (p->plane[i].bits)
                    symbol |= (words[akv_rans_word(p, i, &place) + l * p->plane[i].bits / 32u * p->plane[i].word] >>
                                   (l * p->plane[i].bits & 31u) &
                               ((1u << p->plane[i].bits) - 1u))
                              << shift;
            d->counts[(place.stripe * 32u + l) * AKV_RANS_CLASSES + (akv_rans_split(p->raw, p->centre, symbol) & 15u)]++;
        }
    }
}

static bool data_create(struct verify *v, struct rans_data *d, enum run run, uint64_t seed)
{
    akv_rans_params *p = &d->params;
    const uint64_t columns = akv_rans_stripes(p) * 32ull;
    p->centre = p->centre == AKV_RANS_MEDIAN ? (uint32_t)(seed & 255u) : p->centre;
    p->tables = akv_rans_choose(p);
    d->model_bytes = akv_rans_model_words(p) * 4ull;
    d->body_bytes = akv_rans_body_most(p);
    d->words = verify_alloc(v, d->words_bytes);
    d->before = verify_alloc(v, d->words_bytes);
    d->counts = verify_alloc(v, columns * AKV_RANS_CLASSES * 4u);
    d->keys = verify_alloc(v, columns * 8u);
    d->model = verify_alloc(v, d->model_bytes);
    d->body = verify_alloc(v, d->body_bytes);
    d->initial = verify_alloc(v, d->body_bytes);
    if (!d->words || !d->before || !d->counts || !d->keys || !d->model || !d->body || !d->initial)
        return false;
    fill_words(d, run, seed);
    count_columns(d);
    akv_rans_model(p, d->counts, d->keys, d->model);
    memset(d->initial, 0x5A, d->body_bytes);
    if (!reference_body(v, d))
        return false;
    memcpy(&p->words, d->body + (akv_rans_segments(p) - 1ull) * 8u, 4);
    return true;
}

static void data_destroy(struct verify *v, struct rans_data *d)
{
    void *all[] = {d->words, d->before, d->counts, d->keys, d->model, d->body, d->initial};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        akv_free(v->context, all[i]);
}

static void count_case(struct verify *v, struct rans_data *d, uint64_t elements)
{
    const uint64_t bytes = akv_rans_stripes(&d->params) * 32ull * AKV_RANS_CLASSES * 4u;
    uint32_t *before = verify_alloc(v, bytes);
    struct verify_launch shape[VERIFY_SHAPES];
    memset(shape, 0, sizeof shape);
    if (!before)
        return;
    for (uint64_t i = 0; i < bytes / 4u; i++) {
        before[i] = (uint32_t)i * 3u;
        d->counts[i] += before[i];
    }
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        shape[s].params = &d->params;
        shape[s].span[0] = (struct verify_span){d->words, NULL, d->words_bytes};
        shape[s].span[1] = (struct verify_span){before, d->counts, bytes};
    }
    verify_compare(v, elements, shape);
    akv_free(v->context, before);
}

static void encode_case(struct verify *v, struct rans_data *d, uint64_t elements)
{
    struct verify_launch shape[VERIFY_SHAPES];
    memset(shape, 0, sizeof shape);
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        shape[s].params = &d->params;
        shape[s].span[0] = (struct verify_span){d->words, NULL, d->words_bytes};
        shape[s].span[1] = (struct verify_span){d->model, NULL, d->model_bytes};
        shape[s].span[2] = (struct verify_span){d->initial, d->body, d->body_bytes};
        shape[s].span[3] = (struct verify_span){NULL, verify_any, d->body_bytes};
    }
    verify_compare(v, elements, shape);
}

/* What decoding leaves: the symbols, and between them what was there. */
static void expected(struct rans_data *d, uint8_t *to)
{
    const akv_rans_params *p = &d->params;
    memcpy(to, d->before, d->words_bytes);
    for (uint32_t step = 0; step < akv_rans_steps(p); step++) {
        akv_rans_place place;
        akv_rans_find(p, step, &place);
        for (uint32_t i = 0; i < 2u; i++)
            for (uint32_t w = 0; w < p->plane[i].bits; w++)
                if (w * (32u / p->plane[i].bits) < akv_rans_lanes(p, &place)) {
                    const uint64_t at = (akv_rans_word(p, i, &place) + (uint64_t)w * p->plane[i].word) * 4u;
                    memcpy(to + at, d->words + at, 4);
                }
    }
}

/* The second shape's body has one bit turned. */
static void decode_case(struct verify *v, struct rans_data *d, uint64_t elements, uint64_t seed)
{
    static const uint32_t fine = 0, damaged = 1;
    const uint64_t bytes = (akv_rans_segments(&d->params) * 2ull + d->params.words) * 4u;
    uint8_t *other = verify_alloc(v, bytes), *want = verify_alloc(v, d->words_bytes);
    struct verify_launch shape[VERIFY_SHAPES];
    memset(shape, 0, sizeof shape);
    if (other && want) {
        expected(d, want);
        memcpy(other, d->body, bytes);
        other[verify_random(&seed) % bytes] ^= (uint8_t)(1u << verify_below(&seed, 8));
        for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
            shape[s].params = &d->params;
            shape[s].span[0] = (struct verify_span){s ? other : d->body, NULL, bytes};
            shape[s].span[1] = (struct verify_span){d->model, NULL, d->model_bytes};
            shape[s].span[2] = (struct verify_span){d->before, s ? (const void *)verify_any : want, d->words_bytes};
            shape[s].span[3] = (struct verify_span){&fine, s ? &damaged : &fine, 4u};
        }
        verify_compare(v, elements, shape);
    }
    akv_free(v->context, other);
    akv_free(v->context, want);
}

void verify_rans(struct verify *v, uint32_t format)
{
    static const uint32_t sizes[] = {0, 1, 30, 260, 2100};
    const uint32_t variants = sizeof sizes / sizeof sizes[0], cases = RUNS * PLACES;
    const uint64_t want = verify_share(v, cases);
    for (uint32_t number = 0; number < cases; number++) {
        const enum run run = (enum run)(number / PLACES);
        const enum place place = (enum place)(number % PLACES);
        uint64_t done = 0;
        for (uint32_t round = 0; round < variants || done < want; round++) {
            const uint32_t size = sizes[round < variants ? round : variants - 1u];
            uint64_t seed = verify_mix(v->seed, 7100u + (format * cases + number) * 1000u + round);
            struct rans_data d = {0};
            shape_of(&d, format, place, size);
            const uint64_t elements = akv_rans_steps(&d.params) * 32ull;
            done += elements;
            if (round >= 2u && round < variants && !verify_wanted(v, number * variants + round))
                continue;
            if (!verify_case(v, elements, "%s-%s-%" PRIu32 "-%" PRIu32, place_names[place], run_names[run], size, round))
                continue;
            if (data_create(v, &d, run, seed)) {
                if (v->kernel == AKV_K_RANS_COUNT)
                    count_case(v, &d, elements);
                else if (v->kernel == AKV_K_RANS_ENCODE)
                    encode_case(v, &d, elements);
                else
                    decode_case(v, &d, elements, seed);
            }
            data_destroy(v, &d);
        }
    }
}
