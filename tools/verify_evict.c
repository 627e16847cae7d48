/* SPDX-License-Identifier: Apache-2.0 */
/* verify: the cases of the evict family.  What they must write comes from the scalar reference, which
 * tests/test_evict_kernels.c holds against naive code; mass is compared with double precision. */
#include "verify.h"
#include "../lib/kernel/evict.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define HEADS 3u

/* Keys and values of a few blocks of two kinds, plain and in a format, and a table of them with a
 * hole. */
struct evict_data {
    struct verify_pool pool;
    akv_tile_map tiles;
    uint32_t k_dim, v_dim, tokens, blocks, format[2]; /* of keys and values in kind 1 */
    uint32_t raw;
    uint32_t *table;
};

/* Most values usual, a few special. */
static void fill_raw(uint8_t *tile, uint32_t format, uint32_t count, uint64_t *state)
{
    static const uint32_t special[] = {0x7FC00000u, 0x7F800000u, 0xFF800000u, 0x80000000u,
                                       0x00000001u, 0x33800000u, 0x337FFFFFu, 0x7F7FFFFFu};
    for (uint32_t i = 0; i < count; i++) {
        uint64_t r = verify_random(state);
        uint32_t bits = (uint32_t)(r & 0x807FFFFFu) | (uint32_t)(112u + (r >> 32) % 24u) << 23;
        if ((r >> 40) % 2000u == 0)
            bits = special[r >> 56 & 7u];
        akv_store_bits(tile, i, format, bits);
    }
}

static void fill_tile(struct evict_data *d, uint32_t kind, uint32_t side, uint8_t *row_tile,
                      uint8_t *tile, uint64_t *state)
{
    uint32_t format = side ? d->tiles.v_format[kind] : d->tiles.k_format[kind];
    uint32_t dim = side ? d->v_dim : d->k_dim, bytes = akv_tile_bytes(format, d->tokens, dim);
    if (akv_format_raw(format)) {
        memset(tile, 0, bytes);
        fill_raw(tile, format, d->tokens * dim, state);
        return;
    }
    verify_random_tile(row_tile, format, d->tokens, dim, state);
    akv_tile_padding(row_tile, format, d->tokens, dim);
    if (side)
        verify_quad(tile, row_tile, format, d->tokens, dim);
    else
        memcpy(tile, row_tile, bytes);
}

static bool data_create(struct verify *v, struct evict_data *d, bool hole, uint64_t *state)
{
    uint32_t bytes[2], count[2] = {d->blocks / 3u, 0}, largest = 0;
    count[1] = d->blocks - count[0];
    for (uint32_t k = 0; k < 2; k++) {
        d->tiles.k_format[k] = k ? d->format[0] : d->raw;
        d->tiles.v_format[k] = k ? d->format[1] : d->raw;
        uint32_t tile[2] = {akv_tile_bytes(d->tiles.k_format[k], d->tokens, d->k_dim),
                            akv_tile_bytes(d->tiles.v_format[k], d->tokens, d->v_dim)};
        d->tiles.k_offset[k] = 16u * (k + 1u);
        d->tiles.v_offset[k] = d->tiles.k_offset[k] + HEADS * tile[0] + 16u;
        bytes[k] = d->tiles.v_offset[k] + HEADS * tile[1];
        largest = AKV_MAX(largest, AKV_MAX(tile[0], tile[1]));
    }
    bool good = verify_pool_create(v, &d->pool, 2, bytes, count, state);
    uint8_t *row_tile = verify_alloc(v, largest), *tile = verify_alloc(v, largest);
    d->table = verify_alloc(v, d->blocks * sizeof *d->table);
    good = good && row_tile && tile && d->table;
    for (uint32_t k = 0, b = 0; good && k < 2; k++)
        for (uint32_t i = 0; i < count[k]; i++, b++) {
            uint64_t address = akv_block_address(&d->pool.map, d->pool.entry[k][i]);
            d->table[b] = d->pool.entry[k][i];
            for (uint32_t h = 0; h < HEADS; h++)
                for (uint32_t side = 0; side < 2; side++) {
                    uint32_t size = akv_tile_bytes(side ? d->tiles.v_format[k] : d->tiles.k_format[k],
                                                   d->tokens, side ? d->v_dim : d->k_dim);
                    fill_tile(d, k, side, row_tile, tile, state);
                    verify_pool_write(&d->pool,
                                      address + (side ? d->tiles.v_offset[k] : d->tiles.k_offset[k]) +
                                          (uint64_t)h * size,
                                      tile, size, false);
                }
        }
    if (good)
        verify_shuffle(d->table, d->blocks, state);
    if (good && hole)
        d->table[d->blocks / 2u] = AKV_NO_BLOCK;
    akv_free(v->context, row_tile);
    akv_free(v->context, tile);
    return good;
}

static void data_destroy(struct verify *v, struct evict_data *d)
{
    akv_free(v->context, d->table);
    verify_pool_destroy(v, &d->pool);
}

/* Runs the launch on the reference and takes what it wrote as what must be written: span `out` of
 * the arguments, or the slabs. */
static void against_reference(struct verify *v, enum akv_kernel_id kernel, uint64_t elements,
                              const struct verify_launch shape[VERIFY_SHAPES], uint32_t outs,
                              const uint32_t *out)
{
    struct verify_launch known[VERIFY_SHAPES];
    uint8_t *bytes[VERIFY_SHAPES][VERIFY_SPANS] = {{NULL}};
    bool good = true;
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        struct verify_launch launch = shape[s];
        known[s] = shape[s];
        for (uint32_t i = 0; i < outs && good; i++) {
            bytes[s][i] = verify_alloc(v, shape[s].span[out[i]].bytes);
            launch.span[out[i]].expect = verify_any;
            launch.result[out[i]] = bytes[s][i];
            known[s].span[out[i]].expect = bytes[s][i];
            good = bytes[s][i] != NULL;
        }
        good = good && verify_reference(v, kernel, &launch);
    }
    if (good)
        verify_compare(v, elements, known);
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++)
        for (uint32_t i = 0; i < outs; i++)
            akv_free(v->context, bytes[s][i]);
}

/* ---- score, mean ---- */

static void score_case(struct verify *v, struct evict_data *d, uint32_t method, bool rotate,
                       uint64_t elements, uint64_t seed)
{
    uint64_t weights_bytes = ((uint64_t)d->k_dim * 2u + 1u) * HEADS * 4u;
    bool mean = v->kernel == AKV_K_MEAN, good = data_create(v, d, true, &seed);
    float *weights = verify_alloc(v, weights_bytes);
    akv_score_params params[VERIFY_SHAPES];
    struct verify_launch shape[VERIFY_SHAPES];
    memset(params, 0, sizeof params);
    memset(shape, 0, sizeof shape);
    for (uint32_t i = 0; weights && i < weights_bytes / 4u; i++)
        weights[i] = (float)((int32_t)(verify_random(&seed) >> 40) - 8388608) * 0x1p-21f;
    for (uint32_t s = 0; s < VERIFY_SHAPES && good && weights; s++) {
        akv_score_params *p = &params[s];
        p->pool = d->pool.map;
        p->tiles = d->tiles;
        p->kv_heads = HEADS;
        p->k_dim = d->k_dim;
        p->v_dim = d->v_dim;
        p->block_tokens = d->tokens;
        p->blocks = d->blocks;
        p->rows = d->blocks * d->tokens - (uint32_t)(seed % d->tokens);
        p->stride = p->rows + s * 5u;
        p->method = method;
        p->k_flags = rotate ? AKV_FLAG_ROTATE : 0u;
        shape[s].params = p;
        shape[s].span[0] = (struct verify_span){d->table, NULL, d->blocks * sizeof *d->table};
        if (!mean)
            shape[s].span[1] = (struct verify_span){weights, NULL, weights_bytes};
        shape[s].span[mean ? 1 : 2] = (struct verify_span){
            NULL, NULL,
            mean ? (uint64_t)(p->rows + AKV_MEAN_ROWS - 1u) / AKV_MEAN_ROWS * 2u * HEADS * d->k_dim * 4u
                 : (uint64_t)HEADS * p->stride * 4u};
        verify_pool_bind(&d->pool, &shape[s]);
    }
    const uint32_t out = mean ? 1u : 2u;
    if (good && weights)
        against_reference(v, v->kernel, elements, shape, 1, &out);
    akv_free(v->context, weights);
    data_destroy(v, d);
}

static void rows_cases(struct verify *v, uint32_t format, uint32_t methods)
{
    uint32_t rotates = akv_format_raw(format) ? 1u : 2u, variant = 0;
    for (uint32_t n = 0; n < VERIFY_DIMS; n++)
        for (uint32_t m = 0; m < methods * rotates; m++, variant++) {
            struct evict_data d = {.k_dim = verify_dims[n], .v_dim = verify_dims[(n + m) % VERIFY_DIMS]};
            d.tokens = verify_block_tokens(variant);
            d.format[0] = d.format[1] = format;
            d.raw = AKV_F32 + variant % 3u;
            uint64_t want = verify_share(v, VERIFY_DIMS * methods * rotates);
            uint64_t block = (uint64_t)HEADS * d.tokens * d.k_dim;
            uint64_t blocks = (want + block - 1) / block + 3u, most = (1u << 21) / block + 3u;
            if (v->kernel == AKV_K_MEAN && variant % 4u == 0) /* two parts */
                blocks = AKV_MAX(blocks, 1100u / d.tokens);
            for (uint32_t chunk = 0; blocks; chunk++) {
                d.blocks = (uint32_t)AKV_MIN(blocks, most);
                blocks = blocks > most ? AKV_MAX(blocks - most, 3u) : 0;
                if (verify_case(v, d.blocks * block, "d%" PRIu32 "-d%" PRIu32 "-m%" PRIu32 "%s-t%" PRIu32 "-%" PRIu32,
                                d.k_dim, d.v_dim, m % methods, m / methods ? "-rotate" : "", d.tokens, chunk))
                    score_case(v, &d, m % methods, m / methods, d.blocks * block,
                               verify_mix(v->seed, 9000u + variant + 1000u * chunk));
            }
        }
}

void verify_score(struct verify *v, uint32_t format)
{
    rows_cases(v, format, AKV_SCORE_METHODS);
}

void verify_mean(struct verify *v, uint32_t format)
{
    rows_cases(v, format, 1);
}

/* ---- mass ---- */

#define QUERIES 5u
#define GROUP   2u

/* What the contract gives, and by how much a device may be off, for every row. */
static bool mass_expected(struct verify *v, const struct evict_data *d, const akv_mass_params *p,
                          const float *queries, const float *lse, const uint32_t *position,
                          const int32_t *before, double *want, double *bound)
{
    float *row = verify_alloc(v, d->k_dim * sizeof *row);
    for (uint32_t h = 0; row && h < HEADS; h++)
        for (uint32_t r = 0; r < p->rows; r++) {
            uint32_t entry = d->table[r / d->tokens];
            double sum = before[h * p->stride + r], off = 0.0;
            if (entry != AKV_NO_BLOCK) {
                uint32_t kind = entry >> 28, format = d->tiles.k_format[kind];
                uint64_t address = akv_block_address(&d->pool.map, entry) + d->tiles.k_offset[kind] +
                                   (uint64_t)h * akv_tile_bytes(format, d->tokens, d->k_dim);
                const uint8_t *tile = d->pool.before[AKV_ADDR_SLAB(address)] + AKV_ADDR_OFFSET(address);
                for (uint32_t i = 0; i < d->k_dim; i++)
                    row[i] = akv_as_f32(akv_tile_bits(tile, format, AKV_ORDER_ROW, d->tokens, d->k_dim,
                                                      r % d->tokens, i));
                for (uint32_t i = 0; i < QUERIES * GROUP; i++) {
                    uint32_t query = i / GROUP, head = h * GROUP + i % GROUP;
                    uint64_t at = ((uint64_t)akv_score_side(format, p->k_flags) * QUERIES + query) * p->q_heads + head;
                    double s = 0.0, size = 0.0;
                    if (r > position[query] || r < akv_attend_first(position[query], p->window))
                        continue;
                    for (uint32_t j = 0; j < d->k_dim; j++) {
                        s += (double)queries[at * d->k_dim + j] * (double)row[j];
                        size += fabs((double)queries[at * d->k_dim + j] * (double)row[j]);
                    }
                    s *= (double)p->scale;
                    size *= (double)p->scale;
                    if (p->cap > 0.0f) {
                        s = (double)p->cap * tanh(s / (double)p->cap);
                        size += (double)p->cap;
                    }
                    double l = (double)lse[query * p->q_heads + head];
                    double mass = exp(fmin(s - l, 0.0)) * 0x1p20;
                    sum += mass;
                    off += 1.0 + mass * ((size + fabs(l)) * d->k_dim + 8.0) * 0x1p-24;
                }
            }
            want[h * p->stride + r] = fmin(sum, 2147483647.0);
            bound[h * p->stride + r] = off;
        }
    akv_free(v->context, row);
    return row != NULL;
}

static void mass_run(struct verify *v, const struct verify_launch *launch, const akv_mass_params *p,
                     const double *want, const double *bound, uint64_t elements)
{
    int32_t *got[VERIFY_SHAPES];
    uint64_t bytes = launch->span[4].bytes;
    got[0] = verify_alloc(v, bytes);
    got[1] = verify_alloc(v, bytes);
    for (uint32_t t = 0; t < v->targets && got[0] && got[1]; t++) {
        struct verify_row *row = &v->row[t];
        if (!verify_target_runs(v, t, p))
            continue;
        uint64_t start = akv_now_ns();
        for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
            struct verify_launch call = *launch;
            uint64_t differ = 0;
            call.span[4].expect = verify_any;
            call.result[4] = got[s];
            anykv_status status =
                verify_launch_on(v, &v->target[t].side[s], s, &v->target[t], v->kernel, &call, true, &differ);
            if (status != ANYKV_OK)
                verify_failed(v, t, "%s: %s", anykv_status_name(status), anykv_error_detail());
            row->differ += differ;
            for (uint32_t i = 0; i < HEADS * p->stride && status == ANYKV_OK; i++) {
                double off = fabs((double)got[s][i] - want[i]);
                if (i % p->stride < p->rows && off > bound[i])
                    verify_failed(v, t, "head %" PRIu32 ", row %" PRIu32 ": %" PRId32 ", expected %.1f within %.1f",
                                  i / p->stride, i % p->stride, got[s][i], want[i], bound[i]);
                if (i % p->stride < p->rows && bound[i] > 0.0)
                    row->max_error = fmax(row->max_error, off / bound[i]);
            }
        }
        if (memcmp(got[0], got[1], bytes) != 0)
            verify_failed(v, t, "other bits with other threads");
        row->cases++;
        row->elements += elements;
        row->nanoseconds += akv_now_ns() - start;
    }
    akv_free(v->context, got[0]);
    akv_free(v->context, got[1]);
}

static void mass_case(struct verify *v, struct evict_data *d, bool rotate, uint32_t window, float cap,
                      uint64_t elements, uint64_t seed)
{
    akv_mass_params p;
    struct verify_launch launch;
    memset(&p, 0, sizeof p);
    memset(&launch, 0, sizeof launch);
    bool good = data_create(v, d, true, &seed);
    uint32_t pairs = QUERIES * HEADS * GROUP, rows = d->blocks * d->tokens - (uint32_t)(seed % d->tokens);
    uint64_t lists = (uint64_t)HEADS * rows;
    float *queries = verify_alloc(v, (uint64_t)2u * pairs * d->k_dim * 4u), *lse = verify_alloc(v, pairs * 4u);
    uint32_t position[QUERIES] = {rows - 1, rows / 2, rows / 3, rows + 7, 3};
    int32_t *before = verify_alloc(v, lists * 4u);
    double *want = verify_alloc(v, lists * 8u), *bound = verify_alloc(v, lists * 8u);
    good = good && queries && lse && before && want && bound;
    for (uint32_t i = 0; good && i < 2u * pairs * d->k_dim; i++)
        queries[i] = (float)((int32_t)(verify_random(&seed) >> 40) - 8388608) * 0x1p-27f;
    for (uint32_t i = 0; good && i < pairs; i++)
        lse[i] = (float)(verify_random(&seed) >> 40) * 0x1p-21f;
    for (uint32_t i = 0; good && i < lists; i++)
        before[i] = (int32_t)(verify_random(&seed) >> (i % 100u == 0 ? 33 : 45));
    p.pool = d->pool.map;
    p.tiles = d->tiles;
    p.kv_heads = HEADS;
    p.q_heads = HEADS * GROUP;
    p.k_dim = d->k_dim;
    p.block_tokens = d->tokens;
    p.blocks = d->blocks;
    p.rows = p.stride = rows;
    p.queries = QUERIES;
    p.k_flags = rotate ? AKV_FLAG_ROTATE : 0u;
    p.window = window;
    p.cap = cap;
    p.scale = 1.0f / sqrtf((float)d->k_dim);
    launch.params = &p;
    launch.span[0] = (struct verify_span){d->table, NULL, d->blocks * sizeof *d->table};
    launch.span[1] = (struct verify_span){queries, NULL, (uint64_t)2u * pairs * d->k_dim * 4u};
    launch.span[2] = (struct verify_span){lse, NULL, pairs * 4u};
    launch.span[3] = (struct verify_span){position, NULL, sizeof position};
    launch.span[4] = (struct verify_span){before, NULL, lists * 4u};
    if (good) {
        verify_pool_bind(&d->pool, &launch);
        if (mass_expected(v, d, &p, queries, lse, position, before, want, bound))
            mass_run(v, &launch, &p, want, bound, elements);
    }
    akv_free(v->context, queries);
    akv_free(v->context, lse);
    akv_free(v->context, before);
    akv_free(v->context, want);
    akv_free(v->context, bound);
    data_destroy(v, d);
}

void verify_mass(struct verify *v, uint32_t format)
{
    uint32_t rotates = akv_format_raw(format) ? 1u : 2u, variant = 0;
    for (uint32_t n = 0; n < VERIFY_DIMS; n++)
        for (uint32_t r = 0; r < rotates; r++, variant++) {
            struct evict_data d = {.k_dim = verify_dims[n], .v_dim = verify_dims[n]};
            d.tokens = verify_block_tokens(variant);
            d.format[0] = d.format[1] = format;
            d.raw = AKV_F32; /* special values are score's: here they would hide the others */
            d.blocks = 96u / d.tokens + 3u;
            uint64_t elements = (uint64_t)d.blocks * HEADS * d.tokens * d.k_dim;
            const float cap = variant % 4u == 1u ? 2.0f : 0.0f;
            if (verify_case(v, elements, "d%" PRIu32 "%s%s-t%" PRIu32, d.k_dim, r ? "-rotate" : "", cap > 0.0f ? "-cap" : "",
                            d.tokens))
                mass_case(v, &d, r, variant % 3u ? 0u : 40u, cap, elements, verify_mix(v->seed, 9500u + variant));
        }
}

/* ---- select ---- */

static void select_case(struct verify *v, uint32_t flags, uint32_t unit, uint32_t pool, uint32_t rows,
                        uint64_t seed)
{
    const uint32_t problems = 2, lists = problems * HEADS, out[2] = {1, 2};
    akv_select_params params[VERIFY_SHAPES];
    struct verify_launch shape[VERIFY_SHAPES];
    int32_t *scores[VERIFY_SHAPES] = {NULL};
    uint32_t spread = 1u << verify_below(&seed, 31), first = verify_below(&seed, rows / 4u + 1u);
    uint32_t units = (rows - first - verify_below(&seed, rows / 4u + 1u)) / unit;
    uint32_t keep = verify_below(&seed, units + 2u), least = verify_below(&seed, keep + 1u);
    uint64_t again = seed;
    memset(params, 0, sizeof params);
    memset(shape, 0, sizeof shape);
    for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
        akv_select_params *p = &params[s];
        uint64_t state = again;
        *p = (akv_select_params){problems, HEADS, rows, rows + s * 3u, first, first + units * unit,
                                 unit, pool, keep, least, flags, 0};
        uint64_t bytes = (uint64_t)lists * p->stride * 4u;
        scores[s] = verify_alloc(v, bytes);
        for (uint32_t i = 0; scores[s] && i < lists * p->stride; i++) {
            uint32_t r = (uint32_t)(verify_random(&state) >> 32);
            scores[s][i] = r % 97u == 0 ? AKV_SCORE_KEEP : r % 89u == 0 ? AKV_SCORE_GONE
                                                                        : (int32_t)(r % spread) - (int32_t)(spread / 2u);
        }
        shape[s].params = p;
        shape[s].span[0] = (struct verify_span){scores[s], NULL, bytes};
        shape[s].span[1] = (struct verify_span){NULL, NULL, bytes};
        shape[s].span[2] = (struct verify_span){NULL, NULL, lists * 4u};
    }
    if (scores[0] && scores[1])
        against_reference(v, AKV_K_SELECT, (uint64_t)lists * rows, shape, 2, out);
    akv_free(v->context, scores[0]);
    akv_free(v->context, scores[1]);
}

void verify_select(struct verify *v, uint32_t format)
{
    static const uint32_t units[] = {1, 1, 16, 1, 3}, pools[] = {1, 5, 1, 7, 1};
    uint64_t want = verify_share(v, 45), done = 0;
    (void)format;
    for (uint32_t round = 0; round == 0 || done < want * 45u; round++)
        for (uint32_t flags = 0; flags < 3; flags++)
            for (uint32_t i = 0; i < 5; i++) {
                uint32_t rows = (uint32_t)(verify_mix(v->seed, round * 100u + flags * 10u + i) % 3000u) + 1u;
                rows = AKV_MAX(rows, 4u);
                done += 2u * HEADS * rows;
                if (verify_case(v, (uint64_t)2u * HEADS * rows, "f%" PRIu32 "-u%" PRIu32 "-p%" PRIu32 "-%" PRIu32,
                                flags, units[i], pools[i], round))
                    select_case(v, flags, units[i], pools[i], rows,
                                verify_mix(v->seed, 9600u + round * 100u + flags * 10u + i));
            }
}

/* ---- compact ---- */

static void compact_case(struct verify *v, struct evict_data *d, bool in_place, uint64_t elements,
                         uint64_t seed)
{
    uint32_t from_blocks = 0, to_blocks = 0, rows, longest = 0, counts[HEADS];
    bool good = data_create(v, d, false, &seed);
    uint32_t *from = verify_alloc(v, d->blocks * 4u), *to = verify_alloc(v, d->blocks * 4u), *list = NULL;
    akv_compact_params p;
    struct verify_launch launch;
    memset(&p, 0, sizeof p);
    memset(&launch, 0, sizeof launch);
    good = good && from && to;
    for (uint32_t b = 0; good && b < d->blocks; b++) { /* of kind 1: half are sources, in place all */
        if (d->table[b] >> 28 == 0)
            continue;
        if (in_place || from_blocks == to_blocks)
            from[from_blocks++] = d->table[b];
        else
            to[to_blocks++] = d->table[b];
    }
    rows = from_blocks * d->tokens;
    if (good)
        list = verify_alloc(v, (uint64_t)HEADS * rows * 4u);
    for (uint32_t h = 0; list && h < HEADS; h++) {
        uint32_t share = 1u + verify_below(&seed, 99);
        memset(list + h * rows, 0, rows * 4u);
        counts[h] = 0;
        for (uint32_t r = 0; r < rows; r++)
            if (verify_below(&seed, 100) < share && (in_place || counts[h] < to_blocks * d->tokens))
                list[h * rows + counts[h]++] = r;
        longest = AKV_MAX(longest, counts[h]);
    }
    if (list && in_place) {
        to_blocks = (longest + d->tokens - 1u) / d->tokens;
        memcpy(to, from, to_blocks * 4u);
    }
    if (list && to_blocks) {
        uint32_t out[AKV_MAX_SLABS];
        p = (akv_compact_params){.pool = d->pool.map, .kv_heads = HEADS, .block_tokens = d->tokens,
                                 .dim = {d->k_dim, d->v_dim}, .format = {d->format[0], d->format[1]},
                                 .offset = {d->tiles.k_offset[1], d->tiles.v_offset[1]},
                                 .from_blocks = from_blocks, .to_blocks = to_blocks, .stride = rows,
                                 .in_place = in_place};
        launch.params = &p;
        launch.span[0] = (struct verify_span){from, NULL, from_blocks * 4u};
        launch.span[1] = (struct verify_span){to, NULL, to_blocks * 4u};
        launch.span[2] = (struct verify_span){list, NULL, (uint64_t)HEADS * rows * 4u};
        launch.span[3] = (struct verify_span){counts, NULL, sizeof counts};
        verify_pool_bind(&d->pool, &launch);
        for (uint32_t s = 0; s < launch.slabs; s++)
            out[s] = AKV_MAX_ARGS + s;
        struct verify_launch shape[VERIFY_SHAPES] = {launch, launch};
        against_reference(v, AKV_K_COMPACT, elements, shape, launch.slabs, out);
    }
    akv_free(v->context, from);
    akv_free(v->context, to);
    akv_free(v->context, list);
    data_destroy(v, d);
}

void verify_compact(struct verify *v, uint32_t format)
{
    uint32_t variant = 0;
    for (uint32_t n = 0; n < VERIFY_DIMS; n++)
        for (uint32_t in_place = 0; in_place < 2; in_place++, variant++) {
            struct evict_data d = {.k_dim = verify_dims[n], .v_dim = verify_dims[n]};
            d.tokens = verify_block_tokens(variant);
            d.format[0] = format;
            d.format[1] = variant % 3u ? format : 1u + (format + variant) % (AKV_FORMATS - 1u);
            d.raw = AKV_F16;
            uint64_t want = verify_share(v, VERIFY_DIMS * 2), block = (uint64_t)HEADS * d.tokens * d.k_dim;
            uint64_t blocks = (want + block - 1) / block + 6u, most = (1u << 21) / block + 6u;
            for (uint32_t chunk = 0; blocks; chunk++) {
                d.blocks = (uint32_t)AKV_MIN(blocks, most);
                blocks = blocks > most ? AKV_MAX(blocks - most, 6u) : 0;
                if (verify_case(v, d.blocks * block, "d%" PRIu32 "-%s%s-t%" PRIu32 "-%" PRIu32, d.k_dim,
                                verify_format_name(d.format[1]), in_place ? "-place" : "", d.tokens, chunk))
                    compact_case(v, &d, in_place, d.blocks * block,
                                 verify_mix(v->seed, 9700u + variant + 1000u * chunk));
            }
        }
}
