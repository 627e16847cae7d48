/* SPDX-License-Identifier: Apache-2.0 */
/* Attend kernels of every ISA level against double precision over the decoded rows, and the bounds
 * of docs/attention.md. */
#include "attend_case.h"
#include "../lib/kernel/fp.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "../tools/dump.h"

/* Published bounds, relative to the size of the output (docs/attention.md). */
#define PRECISE_BOUND 4e-6
#define FAST_BOUND    0.02
#define I8_BOUND      4e-4 /* nothing below 8 bits */

static const char *const level_names[3] = {"scalar", "avx2", "avx512"};
static const char *const format_names[AKV_FORMATS] = {"",   "F32", "F16", "BF16", "I8",
                                                      "N6", "N5",  "N4",  "N3",   "N2"};

static void describe(const struct attend_case *c, uint32_t level, char text[200])
{
    snprintf(text, 200, "%s %s/%s dims %u/%u heads %ux%u block %u length %u+%u flags %u seed %llu",
             level_names[level], format_names[c->k_format[c->kinds - 1u]],
             format_names[c->v_format[c->kinds - 1u]], c->k_dim, c->v_dim, c->kv_heads, c->group,
             c->block_tokens, c->length[0], c->count[0], c->flags, (unsigned long long)c->seed);
}

/* Runs a built case on all levels, precise and fast, and compares output and log-sum-exp. */
static void check(struct attend_case *c, double precise_bound, double fast_bound)
{
    char text[200];
    size_t outputs = (size_t)c->tokens * c->params.q_heads;
    attend_case_reference(c);
    for (uint32_t level = 0; level < 3; level++) {
        const struct akv_cpu_kernel *kernel = attend_case_kernel(level);
        if (!kernel)
            continue;
        describe(c, level, text);
        cr_assert_null(kernel->refuse(&c->params), "%s", text);
        cr_assert_eq(kernel->scratch(&c->params), c->scratch_bytes, "%s", text);
        for (uint32_t fast = 0; fast < 2; fast++) {
            c->params.flags = c->flags | AKV_ATTEND_LSE | (fast ? 0u : AKV_ATTEND_PRECISE);
            memset(c->out, 0xA5, outputs * c->v_dim * akv_raw_bytes(c->dtype));
            memset(c->lse, 0xA5, outputs * sizeof(float));
            attend_case_run(c, kernel, 3, false);
            double error = attend_case_error(c), bound = fast ? fast_bound : precise_bound;
            cr_expect(error <= bound, "%s %s: error %g above %g", text, fast ? "fast" : "precise",
                      error, bound);
            for (size_t i = 0; i < outputs; i++) {
                double is = (double)c->lse[i], want = c->want_lse[i];
                double limit =
                    (fast ? 0.1 : 2e-5) * (1.0 + fabs(want)) * (c->spread > 1 ? c->spread : 1);
                cr_expect(isinf(want) ? is == want : fabs(is - want) <= limit,
                          "%s %s: lse %zu is %g, not %g", text, fast ? "fast" : "precise", i, is,
                          want);
            }
        }
    }
}
static void check_case(struct attend_case *c)
{
    bool fine = true;
    for (uint32_t n = 0; n < c->kinds; n++)
        fine &= c->k_format[n] <= AKV_N6 && c->v_format[n] <= AKV_N6;
    attend_case_build(c);
    check(c, PRECISE_BOUND, fine ? I8_BOUND : FAST_BOUND);
    attend_case_free(c);
}

Test(attend, every_pair_of_formats)
{
    for (uint32_t k = AKV_F32; k < AKV_FORMATS; k++)
        for (uint32_t v = AKV_F32; v < AKV_FORMATS; v++) {
            struct attend_case c;
            attend_case_default(&c);
            c.k_format[1] = k;
            c.v_format[1] = v;
            c.seed = k * 16u + v;
            check_case(&c);
        }
}

Test(attend, head_sizes_and_groups)
{
    static const uint32_t dims[9] = {64, 80, 96, 112, 128, 192, 256, 512, 576};
    static const uint32_t groups[6] = {1, 3, 4, 8, 7, 20}, blocks[5] = {16, 32, 64, 128, 256};
    for (uint32_t d = 0; d < 9; d++)
        for (uint32_t g = 0; g < 6; g++) {
            struct attend_case c;
            attend_case_default(&c);
            c.k_dim = dims[d];
            c.v_dim = g % 2 ? dims[(d + 4u) % 9u] : dims[d];
            c.group = groups[g];
            c.block_tokens = blocks[(d + g) % 5u];
            c.kinds = 4;
            c.k_format[1] = AKV_I8 + (d + g) % 6u;
            c.v_format[1] = AKV_I8 + (d + g) / 2u % 6u;
            c.k_format[2] = AKV_I8 + (d + 2u * g + 1u) % 6u;
            c.v_format[2] = AKV_I8 + (d + 3u * g + 2u) % 6u;
            c.k_format[3] = c.v_format[3] = g % 2 ? AKV_BF16 : AKV_F32;
            c.length[0] = 700;
            c.slabs = 1 + g % 2;
            c.rotate = d % 3 != 2;
            c.seed = d * 16u + g;
            check_case(&c);
        }
}

Test(attend, features)
{
    for (uint32_t n = 0; n < 64; n++) {
        struct attend_case c;
        attend_case_default(&c);
        c.k_format[1] = AKV_I8 + n % 6u;
        c.v_format[1] = AKV_I8 + n / 6u % 6u;
        c.k_format[0] = c.v_format[0] = AKV_F32 + n % 3u;
        c.seqs = 5;
        const uint32_t length[5] = {37, 0, 1203, 96, 64}, count[5] = {1, 21, 3, 0, 64};
        memcpy(c.length, length, sizeof length);
        memcpy(c.count, count, sizeof count);
        c.flags = (n & 1u ? AKV_ATTEND_BIDIRECTIONAL : 0u) | (n & 2u ? AKV_ATTEND_MASK : 0u) |
                  (n & 4u ? AKV_ATTEND_SINKS : 0u);
        c.window = n & 8u ? 40u + n : 0u;
        c.cap = n & 16u ? 3.0f : 0.0f;
        c.remove_every = n & 32u ? 3u : 0u;
        c.gone = n % 5u == 4u ? 2u : 0u;
        c.k_dim = 64;
        c.v_dim = n % 3u ? 64 : 128;
        c.group = 1 + n % 4u;
        c.block_tokens = n % 2u ? 16 : 32;
        c.seed = n + 1u;
        check_case(&c);
    }
}

Test(attend, output_types)
{
    for (uint32_t type = AKV_F16; type <= AKV_BF16; type++) {
        struct attend_case c;
        attend_case_default(&c);
        c.dtype = type;
        attend_case_build(&c);
        check(&c, type == AKV_F16 ? 5e-4 : 4e-3, FAST_BOUND);
        attend_case_free(&c);
    }
}

/* Queries of 16 bits with strides, output with strides: the same numbers at other places. */
Test(attend, strides)
{
    for (uint32_t level = 0; level < 3; level++) {
        const struct akv_cpu_kernel *kernel = attend_case_kernel(level);
        if (!kernel)
            continue;
        struct attend_case c;
        attend_case_default(&c);
        c.count[0] = 3;
        attend_case_build(&c);
        size_t heads = c.params.q_heads, n = c.tokens * heads * c.k_dim;
        uint16_t *q = calloc(n * 4u, 2);
        float *out = calloc(n * 4u, 4);
        for (size_t i = 0; i < n; i++) { /* [head][token][dim + 5] */
            size_t token = i / c.k_dim / heads, head = i / c.k_dim % heads, e = i % c.k_dim;
            q[(head * c.tokens + token) * (c.k_dim + 5u) + e] =
                (uint16_t)akv_bf16_from_f32(akv_as_u32(c.q[i]));
            c.q[i] = akv_as_f32(akv_f32_from_bf16(akv_bf16_from_f32(akv_as_u32(c.q[i]))));
        }
        attend_case_run(&c, kernel, 1, false);
        c.params.q = (akv_rows){c.k_dim + 5u, c.tokens * (c.k_dim + 5u), AKV_BF16, (akv_u32)heads};
        c.params.out = (akv_rows){2u * c.v_dim * heads, 2u * c.v_dim, AKV_F32, (akv_u32)heads};
        c.args.arg[1] = (uint8_t *)q;
        c.args.arg[2] = (uint8_t *)out;
        attend_case_run(&c, kernel, 1, false);
        for (size_t i = 0; i < c.tokens * heads; i++)
            for (uint32_t e = 0; e < 2u * c.v_dim; e++)
                cr_assert_eq(out[i * 2u * c.v_dim + e],
                             e < c.v_dim ? attend_case_out(&c, i * c.v_dim + e) : 0.0f,
                             "%s row %zu", level_names[level], i);
        free(q);
        free(out);
        attend_case_free(&c);
    }
}

/* Nothing overflows, -inf forbids, and where nothing is visible the output is zero. */
Test(attend, extremes)
{
    static const float spreads[4] = {1e18f, 300.0f, 1e-20f, 0.0f};
    for (uint32_t n = 0; n < 8; n++) {
        struct attend_case c;
        attend_case_default(&c);
        c.spread = spreads[n % 4u];
        c.k_format[0] = c.v_format[0] = AKV_F32;
        c.k_format[1] = c.v_format[1] = n < 4u ? AKV_N4 : AKV_I8;
        c.count[0] = 4;
        c.flags = AKV_ATTEND_MASK | AKV_ATTEND_LSE;
        c.remove_every = n % 2u ? 1u : 0u; /* every block but those of new tokens */
        attend_case_build(&c);
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t j = 0; j < 4; j++)
                c.mask[i * c.params.mask_stride + j] = i == 1 ? -INFINITY : i == 2 ? 3e38f : 0.0f;
        for (uint32_t level = 0; level < 3; level++) {
            const struct akv_cpu_kernel *kernel = attend_case_kernel(level);
            if (!kernel)
                continue;
            attend_case_run(&c, kernel, 2, false);
            for (size_t i = 0; i < c.tokens * c.params.q_heads; i++) {
                /* In the block of the new tokens stand 8 older ones: 200 = 12 * 16 + 8. */
                for (uint32_t e = 0; e < c.v_dim; e++)
                    cr_assert(isfinite(attend_case_out(&c, i * c.v_dim + e)), "%s spread %g",
                              level_names[level], (double)c.spread);
                cr_assert(isfinite(c.lse[i]), "%s spread %g", level_names[level], (double)c.spread);
            }
        }
        attend_case_free(&c);
    }
    for (uint32_t level = 0; level < 3; level++) {
        const struct akv_cpu_kernel *kernel = attend_case_kernel(level);
        struct attend_case c;
        if (!kernel)
            continue;
        attend_case_default(&c);
        c.length[0] = 192; /* the new token begins a block */
        c.remove_every = 1;
        c.flags = AKV_ATTEND_MASK | AKV_ATTEND_LSE;
        attend_case_build(&c);
        c.mask[0] = -INFINITY;
        attend_case_run(&c, kernel, 2, false);
        for (uint32_t i = 0; i < c.params.q_heads; i++) {
            cr_expect(c.lse[i] == -INFINITY, "%s: lse %g", level_names[level], (double)c.lse[i]);
            for (uint32_t e = 0; e < c.v_dim; e++)
                cr_expect(attend_case_out(&c, i * c.v_dim + e) == 0.0f, "%s", level_names[level]);
        }
        attend_case_free(&c);
    }
}

/* A NaN that a query may not see leaves no trace: causal neighbours, rows behind the end. */
Test(attend, what_is_forbidden_does_not_touch)
{
    for (uint32_t level = 0; level < 3; level++) {
        const struct akv_cpu_kernel *kernel = attend_case_kernel(level);
        struct attend_case c;
        if (!kernel)
            continue;
        attend_case_default(&c);
        c.kinds = 1;
        c.length[0] = 100;
        c.count[0] = 5;
        attend_case_build(&c);
        attend_case_run(&c, kernel, 1, false);
        size_t four = (size_t)4 * c.params.q_heads * c.v_dim;
        float *before = calloc(four, sizeof(float));
        memcpy(before, c.out, four * sizeof(float));
        const uint32_t *table =
            (const uint32_t *)(const void *)(c.descriptor +
                                             ((const akv_step_head *)(const void *)c.descriptor)
                                                 ->table_offset);
        uint8_t *block = akv_cpu_at(&c.args, akv_block_address(&c.params.pool, table[104 / 16]));
        for (uint32_t h = 0; h < 2 * c.kv_heads; h++) /* row 8 of every tile: the last new token */
            memset(block + h * 16u * 256u + 8u * 256u, 0xFF, 256);
        attend_case_run(&c, kernel, 1, false);
        cr_expect(memcmp(before, c.out, four * sizeof(float)) == 0, "%s", level_names[level]);
        free(before);
        attend_case_free(&c);
    }
}

/* Ranges, order, threads and neighbours in the batch change no byte. */
Test(attend, same_bytes_however_it_is_run)
{
    for (uint32_t level = 0; level < 3; level++) {
        const struct akv_cpu_kernel *kernel = attend_case_kernel(level);
        struct attend_case c;
        if (!kernel)
            continue;
        attend_case_default(&c);
        c.seqs = 4;
        const uint32_t length[4] = {5000, 17, 0, 2600}, count[4] = {1, 0, 90, 2};
        memcpy(c.length, length, sizeof length);
        memcpy(c.count, count, sizeof count);
        c.flags = AKV_ATTEND_LSE;
        attend_case_build(&c);
        size_t bytes = c.tokens * c.params.q_heads * c.v_dim * sizeof(float);
        attend_case_run(&c, kernel, 1, false);
        uint8_t *first = malloc(bytes);
        memcpy(first, c.out, bytes);
        for (uint32_t n = 0; n < 5; n++) {
            memset(c.out, 0, bytes);
            memset(c.args.arg[6], 0x7F, c.scratch_bytes);
            if (n < 2)
                attend_case_run(&c, kernel, 7 - 5 * n, n == 1);
            else
                attend_case_threads(&c, kernel, n);
            cr_expect(memcmp(first, c.out, bytes) == 0, "%s run %u", level_names[level], n);
        }
        /* Sequence 3 alone. */
        akv_step_head *head = (akv_step_head *)(void *)c.descriptor;
        akv_step_seq *seq = (akv_step_seq *)(void *)(c.descriptor + head->seq_offset);
        seq[0] = seq[3];
        head->sequences = 1;
        memset(c.out, 0, bytes);
        attend_case_run(&c, kernel, 1, false);
        size_t row = c.params.q_heads * c.v_dim * sizeof(float);
        cr_expect(memcmp(first + 91 * row, c.out + 91 * row, 2 * row) == 0, "%s",
                  level_names[level]);
        free(first);
        attend_case_free(&c);
    }
}

Test(attend, refusals)
{
    struct attend_case c;
    attend_case_default(&c);
    attend_case_build(&c);
    akv_attend_params p = c.params;
    cr_expect_null(akv_cpu_attend_scalar.refuse(&p));
    p.q_heads = 3;
    cr_expect_not_null(akv_cpu_attend_scalar.refuse(&p));
    p = c.params;
    p.k_dim = 584;
    cr_expect_not_null(akv_cpu_attend_scalar.refuse(&p));
    p = c.params;
    p.tiles.v_format[1] = AKV_FORMATS;
    cr_expect_not_null(akv_cpu_attend_scalar.refuse(&p));
    attend_case_free(&c);
}

/* What the approximations add to the formats' own output error, on real keys, values and queries.
 */
static void check_dump(const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    struct akv_dump dump;
    cr_assert_eq(akv_dump_open(&dump, path), ANYKV_OK, "%s", path);
    static const uint32_t pairs[8][2] = {{AKV_I8, AKV_I8}, {AKV_N5, AKV_N5}, {AKV_N4, AKV_N4},
                                         {AKV_N3, AKV_N3}, {AKV_N2, AKV_N2}, {AKV_I8, AKV_N4},
                                         {AKV_N5, AKV_N4}, {AKV_N3, AKV_N2}};
    double own[8] = {0}, added[8][3];
    memset(added, 0, sizeof added);
    for (uint32_t index = 0; index < dump.layers; index += 2) {
        struct akv_dump_layer layer;
        cr_assert_eq(akv_dump_load(&dump, index, &layer), ANYKV_OK);
        uint32_t queries = dump.tokens - dump.q_first, width = dump.kv_heads * dump.head_dim;
        size_t n = (size_t)dump.tokens * width;
        size_t qn = (size_t)queries * dump.q_heads * dump.head_dim;
        double *rows[2] = {malloc(n * sizeof(double)), malloc(n * sizeof(double))};
        double *q = malloc(qn * sizeof(double));
        akv_rows_to_double(layer.k, layer.k_dtype, n, rows[0]);
        akv_rows_to_double(layer.v, layer.v_dtype, n, rows[1]);
        akv_rows_to_double(layer.q, layer.q_dtype, qn, q);
        for (uint32_t p = 0; p < 8; p++) {
            struct attend_case c, exact;
            attend_case_default(&c);
            c.kinds = 2;
            c.k_format[0] = c.v_format[0] = AKV_F32;
            c.kv_heads = dump.kv_heads;
            c.group = dump.q_heads / dump.kv_heads;
            c.k_dim = c.v_dim = dump.head_dim;
            c.length[0] = dump.tokens - 16u;
            c.count[0] = 16; /* the last queries; their own rows stay as they are */
            c.hot_first = 16;
            c.hot_last = 0;
            c.scale = (float)dump.scale;
            c.search = 1;
            c.rows_in[0] = rows[0];
            c.rows_in[1] = rows[1];
            c.q_in = q + (size_t)(queries - 16u) * dump.q_heads * dump.head_dim;
            exact = c;
            exact.k_format[1] = exact.v_format[1] = AKV_F32;
            exact.rotate = 0;
            attend_case_build(&exact);
            attend_case_reference(&exact);
            c.k_format[1] = pairs[p][0];
            c.v_format[1] = pairs[p][1];
            attend_case_build(&c);
            c.want = exact.want; /* error against the rows that were never stored */
            c.params.flags = AKV_ATTEND_PRECISE;
            attend_case_run(&c, &akv_cpu_attend_scalar, 1, false);
            double precise = attend_case_error(&c);
            own[p] += precise;
            for (uint32_t level = 0; level < 3; level++) {
                const struct akv_cpu_kernel *kernel = attend_case_kernel(level);
                c.params.flags = 0;
                if (!kernel)
                    continue;
                attend_case_run(&c, kernel, 1, false);
                added[p][level] += attend_case_error(&c) - precise;
            }
            c.want = NULL;
            attend_case_free(&c);
            attend_case_free(&exact);
        }
        free(rows[0]);
        free(rows[1]);
        free(q);
        akv_dump_free(&layer);
    }
    akv_dump_close(&dump);
    for (uint32_t p = 0; p < 8; p++)
        for (uint32_t level = 0; level < 3; level++) {
            double share = added[p][level] / own[p];
            fprintf(stderr, "%s %s/%s %s: own output error %.5f, approximations add %.4f of it\n",
                    name, format_names[pairs[p][0]], format_names[pairs[p][1]], level_names[level],
                    own[p] / ((dump.layers + 1u) / 2u), share);
            cr_expect(share <= 0.05, "%s/%s %s adds %g", format_names[pairs[p][0]],
                      format_names[pairs[p][1]], level_names[level], share);
        }
}
Test(attend, approximations_on_real_data)
{
    const char *folder = getenv("ANYKV_TEST_DATA");
    if (!folder)
        cr_skip_test("ANYKV_TEST_DATA is not set");
    check_dump(folder, "smollm2-code.safetensors");
    check_dump(folder, "smollm2-prose.safetensors");
}
