/* SPDX-License-Identifier: Apache-2.0 */
/* The scalar kernels of the evict family against naive code: sums in double precision, a sort,
 * single elements. */
#include <criterion/criterion.h>
#include "../backends/cpu/cpu.h"
#include "../backends/cpu/device.h"
#include "../lib/kernel/evict.h"
#include <math.h>
#include <stdlib.h>

static void run(const struct akv_cpu_kernel *kernel, const struct akv_cpu_args *args)
{
    kernel->run(args, 0, 0, kernel->items(args, 0));
}

static uint32_t random_u32(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* ---- select ---- */

struct candidate {
    int64_t value;
    uint32_t unit, head;
};

static int before(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    if (x->unit != y->unit)
        return x->unit < y->unit ? -1 : 1;
    return x->head < y->head ? -1 : x->head > y->head;
}

static int64_t naive_value(const akv_select_params *p, const int32_t *scores, uint32_t head,
                           uint32_t unit)
{
    int64_t sum = 0, shared = 0;
    if (p->flags & AKV_SELECT_SHARED) {
        akv_select_params own = *p;
        own.flags = 0;
        for (uint32_t h = 0; h < p->heads; h++)
            shared += naive_value(&own, scores, h, unit);
        return shared / p->heads;
    }
    if (p->pool > 1) {
        for (int64_t d = -(int64_t)(p->pool / 2); d <= p->pool / 2; d++) {
            int64_t r = (int64_t)p->first + unit + d;
            if (r >= 0 && r < p->rows)
                sum += scores[head * p->stride + r];
        }
        return sum / p->pool;
    }
    for (uint32_t i = 0; i < p->unit; i++)
        sum += scores[head * p->stride + p->first + unit * p->unit + i];
    return sum / p->unit;
}

#define MOST 4000u

static void naive_select(const akv_select_params *p, const int32_t *scores, uint8_t *kept)
{
    static struct candidate all[3 * MOST];
    const uint32_t units = (p->last - p->first) / p->unit, keep = p->keep < units ? p->keep : units;
    const uint32_t least = p->least < keep ? p->least : keep;
    static uint8_t sure[3 * MOST];
    memset(kept, 0, 3 * MOST);
    memset(sure, 0, sizeof sure);
    for (uint32_t h = 0; h < p->heads; h++) {
        for (uint32_t u = 0; u < units; u++)
            all[u] = (struct candidate){naive_value(p, scores, h, u), u, h};
        qsort(all, units, sizeof *all, before);
        const uint32_t own = p->flags & AKV_SELECT_ADAPTIVE ? least : keep;
        for (uint32_t i = 0; i < own; i++)
            sure[h * MOST + all[i].unit] = 1;
    }
    if (p->flags & AKV_SELECT_ADAPTIVE) {
        uint32_t n = 0;
        for (uint32_t h = 0; h < p->heads; h++)
            for (uint32_t u = 0; u < units; u++)
                if (!sure[h * MOST + u])
                    all[n++] = (struct candidate){naive_value(p, scores, h, u), u, h};
        qsort(all, n, sizeof *all, before);
        for (uint32_t i = 0; i < (keep - least) * p->heads; i++)
            sure[all[i].head * MOST + all[i].unit] = 1;
    }
    for (uint32_t h = 0; h < p->heads; h++)
        for (uint32_t r = 0; r < p->rows; r++)
            kept[h * MOST + r] =
                r < p->first || r >= p->last || sure[h * MOST + (r - p->first) / p->unit];
}

Test(evict, select_is_a_sort)
{
    static int32_t scores[3 * MOST];
    static uint32_t rows[3 * MOST];
    static uint8_t want[3 * MOST];
    uint64_t state = 7;
    for (uint32_t n = 0; n < 300; n++) {
        akv_select_params p = {1, 3, 1, 0, 0, 0, 1, 1, 0, 0, n % 3u, 0};
        uint32_t counts[3], spread = 1u + (random_u32(&state) >> random_u32(&state) % 31u);
        p.unit = n % 5u == 4u ? 16u : 1u;
        p.pool = n % 7u == 3u && p.unit == 1u ? 5u : 1u;
        p.rows = 4u + random_u32(&state) % (n % 10u ? 300u : 3000u);
        p.stride = p.rows + n % 4u;
        p.first = random_u32(&state) % (p.rows / 4u + 1u);
        p.last = p.first +
                 (p.rows - p.first - random_u32(&state) % (p.rows / 4u + 1u)) / p.unit * p.unit;
        p.keep = random_u32(&state) % ((p.last - p.first) / p.unit + 2u);
        p.least = random_u32(&state) % (p.keep + 1u);
        for (uint32_t i = 0; i < 3u * p.stride; i++) {
            uint32_t r = random_u32(&state);
            scores[i] = r % 50u == 0   ? AKV_SCORE_KEEP
                        : r % 51u == 0 ? AKV_SCORE_GONE
                                       : (int32_t)(r % spread) - (int32_t)(spread / 2u);
        }
        struct akv_cpu_args args = {.params = &p, .workers = 1};
        args.arg[0] = (uint8_t *)scores;
        args.arg[1] = (uint8_t *)rows;
        args.arg[2] = (uint8_t *)counts;
        run(&akv_cpu_select_scalar, &args);
        naive_select(&p, scores, want);
        for (uint32_t h = 0; h < 3; h++) {
            uint32_t at = 0;
            for (uint32_t r = 0; r < p.rows; r++)
                if (want[h * MOST + r]) {
                    cr_assert(at < counts[h] && rows[h * p.stride + at] == r,
                              "case %u, head %u: row %u is missing", n, h, r);
                    at++;
                }
            cr_assert_eq(at, counts[h], "case %u, head %u: %u rows, expected %u", n, h, counts[h],
                         at);
        }
    }
}

/* ---- compact ---- */

#define BLOCKS 5u
#define TOKENS 32u

static void compact_format(uint32_t format, uint32_t dim, uint32_t in_place)
{
    static uint8_t slab[2][2 * BLOCKS * 2 * 2 * (TOKENS * AKV_MAX_HEAD_DIM * 4 + 64)];
    const uint32_t tile = akv_tile_bytes(format, TOKENS, dim), block = 4 * tile,
                   row = akv_row_bytes(format, dim);
    uint32_t from[BLOCKS] = {3, 0, 4, 1, 2}, to[BLOCKS], rows[2 * BLOCKS * TOKENS] = {0},
             counts[2] = {0, 0};
    uint64_t state = format * 1000u + dim;
    akv_compact_params p;
    memset(&p, 0, sizeof p);
    p.pool.chunk_bytes = block;
    p.pool.chunks_per_slab = 2 * BLOCKS;
    p.pool.slabs = 1;
    p.pool.block_bytes[0] = block;
    p.pool.blocks_per_chunk[0] = 1;
    p.kv_heads = 2;
    p.block_tokens = TOKENS;
    p.dim[0] = p.dim[1] = dim;
    p.format[0] = p.format[1] = format;
    p.offset[1] = 2 * tile;
    p.from_blocks = p.to_blocks = BLOCKS;
    p.stride = BLOCKS * TOKENS;
    p.in_place = in_place;
    for (uint32_t i = 0; i < BLOCKS; i++)
        to[i] = in_place ? from[i] : BLOCKS + i;
    for (uint32_t i = 0; i < 2 * BLOCKS * block; i++)
        slab[0][i] = slab[1][i] = (uint8_t)random_u32(&state);
    for (uint32_t r = 0; r < BLOCKS * TOKENS; r++)
        for (uint32_t h = 0; h < 2; h++)
            if (random_u32(&state) % 3u <= h)
                rows[h * p.stride + counts[h]++] = r;
    struct akv_cpu_args args = {.params = &p, .workers = 1};
    args.arg[0] = (uint8_t *)from;
    args.arg[1] = (uint8_t *)to;
    args.arg[2] = (uint8_t *)rows;
    args.arg[3] = (uint8_t *)counts;
    args.slab[0] = slab[1];
    run(&akv_cpu_compact_scalar, &args);
    for (uint32_t side = 0; side < 2; side++)
        for (uint32_t h = 0; h < 2; h++)
            for (uint32_t j = 0; j < (counts[h] + TOKENS - 1) / TOKENS * TOKENS; j++) {
                const uint32_t at = side * 2 * tile + h * tile, source = rows[h * p.stride + j],
                               s = source % TOKENS, t = j % TOKENS;
                const uint8_t *old = slab[0] + from[source / TOKENS] * block + at,
                              *now = slab[1] + to[j / TOKENS] * block + at;
                const bool there = j < counts[h];
                if (row) {
                    for (uint32_t i = 0; i < row; i++)
                        cr_assert_eq(now[t * row + i], there ? old[s * row + i] : 0);
                    continue;
                }
                for (uint32_t i = 0; i < akv_padded_dim(dim); i++) {
                    const uint32_t want =
                        there ? akv_code_get(old, format, side, TOKENS, dim, s, i) : 0;
                    cr_assert_eq(akv_code_get(now, format, side, TOKENS, dim, t, i), want,
                                 "format %u, side %u, row %u, element %u", format, side, j, i);
                }
                for (uint32_t i = 0; akv_scale_bytes(format) && i < akv_scale_count(format, dim);
                     i++)
                    cr_assert_eq(akv_scale_get(now, format, side, TOKENS, dim, t, i),
                                 there ? akv_scale_get(old, format, side, TOKENS, dim, s, i) : 0);
            }
}

Test(evict, compact_moves_single_elements)
{
    static const uint32_t dims[] = {64, 80, 128, 576};
    for (uint32_t format = AKV_F32; format < AKV_FORMATS; format++)
        for (uint32_t i = 0; i < 8; i++)
            compact_format(format, dims[i / 2], i % 2);
}

/* ---- score ---- */

/* Against the definition in double precision, on F32 rows. */
Test(evict, score_is_what_it_says)
{
    enum { dim = 80, tokens = 16 };
    static float tiles[2][tokens * dim], weights[2 * dim + 1];
    uint64_t state = 3;
    uint32_t table = 0;
    int32_t out[4][tokens];
    akv_score_params p;
    memset(&p, 0, sizeof p);
    p.pool.chunk_bytes = sizeof tiles;
    p.pool.chunks_per_slab = p.pool.slabs = p.pool.blocks_per_chunk[0] = 1;
    p.pool.block_bytes[0] = sizeof tiles;
    p.tiles.k_format[0] = p.tiles.v_format[0] = AKV_F32;
    p.tiles.v_offset[0] = sizeof tiles[0];
    p.kv_heads = p.blocks = 1;
    p.k_dim = p.v_dim = dim;
    p.block_tokens = p.rows = p.stride = tokens;
    for (uint32_t i = 0; i < tokens * dim; i++)
        for (uint32_t side = 0; side < 2; side++)
            tiles[side][i] = (float)((int)(random_u32(&state) % 2000u) - 1000) / 100.0f;
    for (uint32_t i = 0; i < 2 * dim + 1; i++)
        weights[i] = (float)((int)(random_u32(&state) % 200u) - 100) / 100.0f;
    tiles[0][5 * dim + 3] = NAN;
    memset(tiles[0] + 6 * dim, 0, dim * sizeof(float));
    struct akv_cpu_args args = {.params = &p, .workers = 1};
    args.arg[0] = (uint8_t *)&table;
    args.arg[1] = (uint8_t *)weights;
    args.slab[0] = (uint8_t *)tiles;
    for (p.method = 0; p.method < 4; p.method++) {
        args.arg[2] = (uint8_t *)out[p.method];
        run(&akv_cpu_score_scalar, &args);
    }
    for (uint32_t t = 0; t < tokens; t++) {
        double kk = 0, vv = 0, kw = 0, got;
        for (uint32_t i = 0; i < dim; i++) {
            kk += (double)tiles[0][t * dim + i] * (double)tiles[0][t * dim + i];
            vv += (double)tiles[1][t * dim + i] * (double)tiles[1][t * dim + i];
            kw += (double)tiles[0][t * dim + i] * (double)weights[i];
        }
        const double want[4] = {-kk, kw + (double)weights[2 * dim] * sqrt(kk),
                                kk > 0 ? -kw / sqrt(kk) : 0, sqrt(vv / kk)};
        for (uint32_t m = 0; m < 4; m++) {
            uint32_t bits = (uint32_t)out[m][t];
            if (t == 5) {
                cr_assert_eq(out[m][t], AKV_SCORE_KEEP);
                continue;
            }
            if (t == 6 && m == 3) {
                cr_assert_eq(out[m][t], 0x7FFF0000);
                continue;
            }
            bits = out[m][t] < 0 ? bits ^ 0x7FFFFFFFu : bits;
            got = m == 3 ? out[m][t] / 65536.0 : (double)akv_as_f32(bits);
            cr_assert(fabs(got - want[m]) <= 1e-5 * (1.0 + fabs(want[m]) + (m == 1 ? sqrt(kk) : 0)),
                      "method %u, row %u: %g, not %g", m, t, got, want[m]);
        }
    }
    /* The order of scores is that of the numbers. */
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t u = 0; u < tokens; u++) {
            float a = weights[t], b = weights[u];
            cr_assert_eq(akv_score_order(a) < akv_score_order(b), a < b);
        }
}

/* ---- score and mass on every instruction set ---- */

/* The kernel of a level, or NULL where the machine or the level has none. */
static const struct akv_cpu_kernel *at_level(uint32_t level, enum akv_kernel_id kernel)
{
    return akv_cpu_isa_levels(ANYKV_ISA_ALL) >> level & 1u ? akv_cpu_kernels[level][kernel] : NULL;
}

/* Random codes under every scale; plain rows now and then hold what levels change, one row has
 * nothing else. */
static void fill_tile(uint8_t *tile, uint32_t format, uint32_t dim, uint64_t *state)
{
    static const uint32_t special[] = {0x7FC00000u, 0xFF800000u, 0x80000000u, 0x00000001u,
                                       0x33800000u, 0xB37FFFFFu, 0x53800000u, 0x53800001u};
    const uint32_t bytes = akv_tile_bytes(format, 16, dim);
    for (uint32_t i = 0; i < bytes; i++)
        tile[i] = (uint8_t)random_u32(state);
    if (akv_format_raw(format)) {
        for (uint32_t i = 0; i < 16 * dim; i++) {
            const uint32_t r = random_u32(state), t = i / dim;
            uint32_t bits = (r & 0x7FFFFFu) | (112u + (r >> 23) % 24u) << 23 | (i & 1u) << 31;
            if (r % 500u == 0)
                bits = special[1 + i % 7u];
            if (t >= 8)
                bits = i % dim == 3 * t ? special[t - 8] : 0;
            akv_store_bits(tile, i, format, bits);
        }
        return;
    }
    if (akv_format_e4m3(format))
        for (uint32_t i = 0; i < 16 * dim; i++)
            tile[i] = (uint8_t)((tile[i] & 0x7Fu) == 0x7Fu ? 0 : tile[i]);
    uint8_t *scales = tile + akv_scale_offset(format, 16, dim);
    for (uint32_t i = 0; akv_scale_bytes(format) && i < 16 * akv_scale_count(format, dim); i++)
        if (akv_format_codebook(format))
            scales[i] = (uint8_t)(i * 7u % 248u);
        else
            scales[2 * i + 1] &= 0x3Fu;
}

/* sum(a, b) of evict.h. */
static float naive_sum(const float *a, const float *b, uint32_t dim)
{
    float lane[32] = {0};
    for (uint32_t i = 0; i < dim; i++)
        lane[i % 32u] = fmaf(a[i], b[i], lane[i % 32u]);
    return akv_lane_sum(lane);
}

/* Levels of a row; returns whether it holds a NaN. */
static bool naive_row(const uint8_t *tile, uint32_t format, uint32_t order, uint32_t dim,
                      uint32_t t, float *row)
{
    bool nan = false;
    for (uint32_t i = 0; i < dim; i++) {
        const uint32_t bits = akv_tile_bits(tile, format, order, 16, dim, t, i);
        row[i] = akv_level(bits);
        nan = nan || akv_is_nan(bits);
    }
    return nan;
}

static void score_format(uint32_t format, uint32_t dim)
{
    enum { heads = 2, most = 256, scores = 3 * 16 };
    static uint8_t slab[2 * 2 * heads * 16 * most * 4];
    static float weights[heads * (2 * most + 1)];
    static int32_t out[heads * scores];
    const uint32_t tile = akv_tile_bytes(format, 16, dim), block = 2 * heads * tile,
                   table[3] = {1, AKV_NO_BLOCK, 0};
    uint64_t state = format * 1000u + dim;
    akv_score_params p;
    memset(&p, 0, sizeof p);
    p.pool.chunk_bytes = 2 * block;
    p.pool.chunks_per_slab = p.pool.slabs = 1;
    p.pool.blocks_per_chunk[0] = 2;
    p.pool.block_bytes[0] = block;
    p.tiles.k_format[0] = p.tiles.v_format[0] = format;
    p.tiles.v_offset[0] = heads * tile;
    p.kv_heads = heads;
    p.k_dim = p.v_dim = dim;
    p.block_tokens = 16;
    p.blocks = 3;
    p.rows = scores - 5;
    p.stride = scores;
    for (uint32_t i = 0; i < 4 * heads; i++)
        fill_tile(slab + i * tile, format, dim, &state);
    for (uint32_t i = 0; i < heads * (2 * dim + 1); i++)
        weights[i] = (float)((int)(random_u32(&state) % 2000u) - 1000) / 100.0f;
    struct akv_cpu_args args = {.params = &p, .workers = 1};
    args.arg[0] = (uint8_t *)(uintptr_t)table;
    args.arg[1] = (uint8_t *)weights;
    args.arg[2] = (uint8_t *)out;
    args.slab[0] = slab;
    for (uint32_t level = 0; level < AKV_ISA_COUNT; level++)
        for (p.method = 0; p.method < AKV_SCORE_METHODS && at_level(level, AKV_K_SCORE);
             p.method++) {
            memset(out, 0x55, sizeof out);
            run(at_level(level, AKV_K_SCORE), &args);
            for (uint32_t h = 0; h < heads; h++)
                for (uint32_t r = 0; r < scores; r++) {
                    float k[most], v[most];
                    int32_t want = AKV_SCORE_GONE;
                    if (r >= p.rows)
                        want = 0x55555555;
                    else if (table[r / 16] != AKV_NO_BLOCK) {
                        const uint8_t *keys = slab + table[r / 16] * block + h * tile;
                        bool nan = naive_row(keys, format, AKV_ORDER_ROW, dim, r % 16, k);
                        if (p.method == AKV_SCORE_RATIO)
                            nan |= naive_row(keys + heads * tile, format, AKV_ORDER_QUAD, dim,
                                             r % 16, v);
                        want =
                            nan ? AKV_SCORE_KEEP
                                : akv_score_of(p.method, naive_sum(k, k, dim), naive_sum(v, v, dim),
                                               naive_sum(k, weights + h * 2 * dim, dim),
                                               weights[heads * 2 * dim + h]);
                    }
                    cr_assert_eq(
                        out[h * scores + r], want,
                        "format %u, dim %u, level %u, method %u, head %u, row %u: %d, not %d",
                        format, dim, level, p.method, h, r, out[h * scores + r], want);
                }
        }
}

/* Bit for bit, every format, with a block that is not there. */
Test(evict, score_of_every_format)
{
    for (uint32_t format = AKV_F32; format < AKV_FORMATS; format++)
        if (!akv_format_blocks(format)) {
            score_format(format, 64);
            score_format(format, 256);
        }
    score_format(AKV_F32, 80);
    score_format(AKV_F16, 80);
}

Test(evict, inverse_root_is_as_near_as_it_says)
{
    uint64_t state = 11;
    cr_expect(akv_inverse_root(0.0f) == 0.0f);
    for (uint32_t i = 0; i < 200000; i++) {
        const float x = ldexpf(1.0f + (float)random_u32(&state) * 0x1p-31f, (int)(i % 160u) - 60);
        const double error = fabs((double)akv_inverse_root(x) * sqrt((double)x) - 1.0);
        cr_assert(error < 0x1p-21, "%a: off by %g", (double)x, error);
    }
    /* A ratio ends at what its integer takes. */
    cr_expect(akv_score_of(AKV_SCORE_RATIO, 0x1p-40f, 0x1p40f, 0, 0) == 32767 * 65536);
}

/* More addends than 32 bits take, of a mass of 1 each: the sum stops.  And a soft cap. */
Test(evict, mass_of_many_queries)
{
    enum { dim = 64, queries = 600, q_heads = 8, rows = 32 };
    static float tiles[2 * 16 * dim], query[2 * queries * q_heads * dim], lse[queries * q_heads];
    static _Alignas(64) float work[AKV_CPU_WORK_BYTES / 4];
    static uint32_t position[queries];
    static const uint32_t table[2] = {0, 1};
    int32_t out[rows];
    akv_mass_params p;
    memset(&p, 0, sizeof p);
    p.pool.chunk_bytes = sizeof tiles;
    p.pool.chunks_per_slab = p.pool.slabs = 1;
    p.pool.blocks_per_chunk[0] = 2;
    p.pool.block_bytes[0] = sizeof tiles / 2;
    p.tiles.k_format[0] = p.tiles.v_format[0] = AKV_F32;
    p.kv_heads = 1;
    p.q_heads = q_heads;
    p.k_dim = dim;
    p.block_tokens = 16;
    p.blocks = 2;
    p.rows = p.stride = rows;
    p.queries = queries;
    p.scale = 0.125f;
    for (uint32_t i = 0; i < queries; i++)
        position[i] = 100;
    for (uint32_t i = 0; i < 2 * 16 * dim; i++)
        tiles[i] = i % dim == 0 ? 16.0f : 0.0f;
    struct akv_cpu_args args = {.params = &p, .workers = 1, .work = work};
    args.arg[0] = (uint8_t *)(uintptr_t)table;
    args.arg[1] = (uint8_t *)query;
    args.arg[2] = (uint8_t *)lse;
    args.arg[3] = (uint8_t *)position;
    args.arg[4] = (uint8_t *)out;
    args.slab[0] = (uint8_t *)tiles;
    for (uint32_t level = 0; level < AKV_ISA_COUNT; level++)
        for (uint32_t c = 0; c < 3 && at_level(level, AKV_K_MASS); c++) {
            /* Scores: 0; 4; 4 that a cap of 2 makes 2 tanh 2. */
            const double score = c == 0   ? 0.0
                                 : c == 1 ? 4.0
                                          : 2.0 * tanh(2.0),
                         l = c == 0 ? 0.0 : 10.0;
            const double want = fmin(2147483647.0, queries * q_heads * exp(score - l) * 0x1p20);
            p.cap = c == 2 ? 2.0f : 0.0f;
            for (uint32_t i = 0; i < queries * q_heads; i++)
                lse[i] = (float)l;
            for (uint32_t i = 0; i < 2 * queries * q_heads * dim; i++)
                query[i] = c && i % dim == 0 ? 2.0f : 0.0f;
            memset(out, 0, sizeof out);
            run(at_level(level, AKV_K_MASS), &args);
            for (uint32_t r = 0; r < rows; r++)
                cr_assert(fabs(out[r] - want) <= (c ? queries * q_heads + want * 0x1p-16 : 0.0),
                          "level %u, %u, row %u: %d, not %g", level, c, r, out[r], want);
        }
}
