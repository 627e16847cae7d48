/* SPDX-License-Identifier: Apache-2.0 */
/* Low rank on the CPU, compiled once for each instruction set.  An item is LOW_TOKENS tokens: of
 * one head, but of read of all; of multiply it is LOW_TOKENS rows of one product, or everything
 * where a CBLAS has it.
 *
 * An instruction set defines LOW_LANES and, on values of LOW_LANES floats, low_v, low_mask,
 * low_lanes (the first n), low_zero, low_load (0 where the mask is off), low_store, low_fma (x *
 * all lanes a + c); or nothing of this. */
#ifndef AKV_K_LOWRANK_BODY_H
#define AKV_K_LOWRANK_BODY_H
#include "../../lib/kernel/lowrank.h"
#include "cpu.h"
#include "dense.h"
#include "k_rope.h"

#define LOW_UNROLL _Pragma("GCC unroll 4")
#define LOW_TOKENS 64u
#define LOW_STRIP  1024u /* columns whose steps are at hand */

/* ---- products: a fused chain over k ascending, from +0 ---- */

#ifdef LOW_LANES
static inline __attribute__((always_inline)) void low_tile(const uint32_t rows, uint32_t k,
                                                           const float *a, size_t lda,
                                                           const float *b, size_t ldb, float *c,
                                                           size_t ldc, uint32_t n)
{
    const low_mask first = low_lanes(n), second = low_lanes(n > LOW_LANES ? n - LOW_LANES : 0);
    low_v s0[4], s1[4];
    LOW_UNROLL for (uint32_t r = 0; r < rows; r++)
        s0[r] = s1[r] = low_zero();
    for (uint32_t l = 0; l < k; l++, b += ldb) {
        const low_v x = low_load(b, first), y = low_load(b + LOW_LANES, second);
        LOW_UNROLL for (uint32_t r = 0; r < rows; r++) {
            s0[r] = low_fma(x, a[r * lda + l], s0[r]);
            s1[r] = low_fma(y, a[r * lda + l], s1[r]);
        }
    }
    LOW_UNROLL for (uint32_t r = 0; r < rows; r++) {
        low_store(c + r * ldc, first, s0[r]);
        low_store(c + r * ldc + LOW_LANES, second, s1[r]);
    }
}

static void low_product(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t lda,
                        const float *b, size_t ldb, float *c, size_t ldc)
{
    for (uint32_t j = 0; j < n; j += 2u * LOW_LANES) {
        const uint32_t left = AKV_MIN(n - j, 2u * LOW_LANES);
        uint32_t i = 0;
        for (; i + 4u <= m; i += 4u)
            low_tile(4, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, left);
        for (; i < m; i++)
            low_tile(1, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc, left);
    }
}
#else
static void low_product(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t lda,
                        const float *b, size_t ldb, float *c, size_t ldc)
{
    for (size_t i = 0; i < m; i++) {
        float *to = c + i * ldc;
        memset(to, 0, n * sizeof *to);
        for (size_t l = 0; l < k; l++)
            for (size_t j = 0; j < n; j++)
                to[j] = AKV_FMA(b[l * ldb + j], a[i * lda + l], to[j]);
    }
}
#endif

/* ---- what project and rows share ---- */

static uint64_t low_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_lowrank_params *p = args->params;
    (void)phase;
    return ((uint64_t)p->tokens + LOW_TOKENS - 1u) / LOW_TOKENS * p->heads;
}

struct low_head {
    uint32_t head, token, end;
    float centre[AKV_MAX_HEAD_DIM];
};
static void low_begin(const akv_lowrank_params *p, const uint8_t *centre, uint64_t item,
                      struct low_head *at)
{
    at->head = (uint32_t)(item % p->heads);
    at->token = (uint32_t)(item / p->heads) * LOW_TOKENS;
    at->end = AKV_MIN(p->tokens - at->token, LOW_TOKENS) + at->token;
    for (uint32_t i = 0; i < p->dim; i++)
        at->centre[i] = centre ? akv_as_f32(akv_f32_from_f16(
                                     akv_load_u16(centre + 2u * ((size_t)at->head * p->dim + i))))
                               : 0.0f;
}

/* Turns a row by a position, or back. */
static void low_turn(const akv_lowrank_params *p, const uint8_t *turns, uint32_t position,
                     bool back, float *x)
{
    float c[AKV_MAX_HEAD_DIM / 2], s[AKV_MAX_HEAD_DIM / 2];
    uint32_t a, b;
    for (uint32_t u = rope_lanes(c, s, turns, p->pairs, position); u < p->pairs; u++) {
        uint64_t frequency;
        memcpy(&frequency, turns + 8u * (size_t)u, sizeof frequency);
        const akv_turn turn = akv_rope_at(frequency, position);
        c[u] = turn.c;
        s[u] = turn.s;
    }
    for (uint32_t u = 0; u < p->pairs; u++) {
        const akv_turn turn = {c[u], back ? -s[u] : s[u]};
        akv_lowrank_unit(p, u, &a, &b);
        const float first = akv_rope_first(turn, x[a], x[b]),
                    second = akv_rope_second(turn, x[a], x[b]);
        x[a] = first;
        x[b] = second;
    }
}

/* ---- project ---- */

static void low_project(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                        uint64_t count)
{
    const akv_lowrank_params *p = args->params;
    const uint32_t dim = p->dim;
    const size_t wide = (size_t)p->heads * dim;
    float *x = args->work; /* [LOW_TOKENS][dim] */
    _Static_assert(LOW_TOKENS * AKV_MAX_HEAD_DIM * sizeof(float) <= AKV_CPU_WORK_BYTES, "rows fit");
    struct low_head at;
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        low_begin(p, args->arg[2], item, &at);
        for (uint32_t t = at.token; t < at.end; t++) {
            float *row = x + (size_t)(t - at.token) * dim;
            for (uint32_t i = 0; i < dim; i++)
                row[i] = akv_as_f32(akv_sane(
                    akv_load_bits(args->arg[0], t * wide + at.head * (size_t)dim + i, p->dtype)));
            low_turn(p, args->arg[3], p->position + t, true, row);
            for (uint32_t i = 0; i < dim; i++)
                row[i] = akv_lowrank_before(row[i], at.centre[i]);
        }
        low_product(at.end - at.token, dim, dim, x, dim,
                    (const float *)(const void *)args->arg[1] + (size_t)at.head * dim * dim, dim,
                    (float *)(void *)args->arg[4] + at.token * wide + (size_t)at.head * dim, wide);
    }
}

/* ---- read ---- */

static uint64_t low_read_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_lowrank_params *p = args->params;
    (void)phase;
    return ((uint64_t)p->tokens + LOW_TOKENS - 1u) / LOW_TOKENS;
}

static void low_read(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                     uint64_t count)
{
    const akv_lowrank_params *p = args->params;
    const uint32_t wide = p->heads * p->dim, from = (uint32_t)first * LOW_TOKENS;
    const uint32_t end = (uint32_t)AKV_MIN((first + count) * LOW_TOKENS, (uint64_t)p->tokens);
    float step[LOW_STRIP];
    (void)phase;
    for (uint32_t strip = 0; strip < wide; strip += LOW_STRIP) {
        const uint32_t n = AKV_MIN(LOW_STRIP, wide - strip);
        for (uint32_t c = 0; c < n; c++)
            step[c] = akv_lowrank_more(akv_as_f32(p->step), args->arg[1][strip + c]);
        for (uint32_t t = from; t < end; t++) {
            const int8_t *codes = (const int8_t *)args->arg[0] + (size_t)t * p->columns + strip;
            float *y = (float *)(void *)args->arg[2] + (size_t)t * wide + strip;
            for (uint32_t c = 0; c < n; c++)
                y[c] = (float)codes[c] * step[c];
        }
    }
}

/* ---- rows ---- */

static void low_rows(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                     uint64_t count)
{
    const akv_lowrank_params *p = args->params;
    const uint32_t dim = p->dim;
    const size_t wide = (size_t)p->heads * dim;
    float row[AKV_MAX_HEAD_DIM];
    struct low_head at;
    (void)phase;
    for (uint64_t item = first; item < first + count; item++) {
        low_begin(p, args->arg[1], item, &at);
        for (uint32_t t = at.token; t < at.end; t++) {
            const size_t start = t * wide + (size_t)at.head * dim;
            const float *sums = (const float *)(const void *)args->arg[0] + start;
            for (uint32_t i = 0; i < dim; i++)
                row[i] = akv_lowrank_after(sums[i], at.centre[i]);
            low_turn(p, args->arg[2], p->position + t, false, row);
            uint32_t i = 0;
#ifdef LOW_LANES
            for (; p->dtype == AKV_F16 && i + LOW_LANES <= dim; i += LOW_LANES)
                low_store_f16(args->arg[3] + 2u * (start + i), row + i);
#endif
            for (; i < dim; i++)
                akv_store_bits(args->arg[3], start + i, p->dtype, akv_as_u32(row[i]));
        }
    }
}

/* ---- multiply ---- */

static uint64_t low_multiply_items(const struct akv_cpu_args *args, uint32_t phase)
{
    const akv_multiply_params *p = args->params;
    (void)phase;
    return akv_cpu_sgemm() ? 1 : ((uint64_t)p->m + LOW_TOKENS - 1u) / LOW_TOKENS * p->batch;
}

static void low_multiply(const struct akv_cpu_args *args, uint32_t phase, uint64_t first,
                         uint64_t count)
{
    const akv_multiply_params *p = args->params;
    const float *a = (const float *)(const void *)args->arg[0],
                *b = (const float *)(const void *)args->arg[1];
    float *c = (float *)(void *)args->arg[2];
    (void)phase;
    if (akv_cpu_sgemm()) {
        akv_cpu_sgemm_batch(p, a, b, c);
        return;
    }
    const uint64_t parts = ((uint64_t)p->m + LOW_TOKENS - 1u) / LOW_TOKENS;
    for (uint64_t item = first; item < first + count; item++) {
        const uint64_t i = item / parts, row = item % parts * LOW_TOKENS;
        low_product((uint32_t)AKV_MIN(LOW_TOKENS, p->m - row), p->n, p->k,
                    a + i * p->a_step + row * p->lda, p->lda, b + i * p->b_step, p->ldb,
                    c + i * p->c_step + row * p->ldc, p->ldc);
    }
}

#define LOW_KERNELS(isa)                                                                           \
    const struct akv_cpu_kernel akv_cpu_lowrank_project_##isa = {1, low_items, low_project, NULL,  \
                                                                 NULL};                            \
    const struct akv_cpu_kernel akv_cpu_lowrank_read_##isa = {1, low_read_items, low_read, NULL,   \
                                                              NULL};                               \
    const struct akv_cpu_kernel akv_cpu_lowrank_rows_##isa = {1, low_items, low_rows, NULL, NULL}; \
    const struct akv_cpu_kernel akv_cpu_multiply_##isa = {1, low_multiply_items, low_multiply,     \
                                                          NULL, NULL};

#endif
