/* SPDX-License-Identifier: Apache-2.0 */
/* The scalar kernels of the evict family against naive code: sums in double precision, a sort, single
 * elements. */
#include <criterion/criterion.h>
#include "../backends/cpu/cpu.h"
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

static int64_t naive_value(const akv_select_params *p, const int32_t *scores, uint32_t head, uint32_t unit)
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
            kept[h * MOST + r] = r < p->first || r >= p->last || sure[h * MOST + (r - p->first) / p->unit];
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
        p.last = p.first + (p.rows - p.first - random_u32(&state) % (p.rows / 4u + 1u)) / p.unit * p.unit;
        p.keep = random_u32(&state) % ((p.last - p.first) / p.unit + 2u);
        p.least = random_u32(&state) % (p.keep + 1u);
        for (uint32_t i = 0; i < 3u * p.stride; i++) {
            uint32_t r = random_u32(&state);
            scores[i] = r % 50u == 0 ? AKV_SCORE_KEEP : r % 51u == 0 ? AKV_SCORE_GONE : (int32_t)(r % spread) - (int32_t)(spread / 2u);
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
                    cr_assert(at < counts[h] && rows[h * p.stride + at] == r, "case %u, head %u: row %u is missing", n, h, r);
                    at++;
                }
            cr_assert_eq(at, counts[h], "case %u, head %u: %u rows, expected %u", n, h, counts[h], at);
        }
    }
}
