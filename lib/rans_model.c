/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of frequencies for rANS, from counts: integers only, the same on every machine. */
#include "rans.h"
#include <stdlib.h>

#define NEVER   (16u << 8) /* cost of a class that a table lacks, in 1/256 bit */
#define ROUNDS  5u         /* of grouping columns */
#define SYMBOLS 4096u      /* that pay for a table, about */

/* -log2(f/1024) in 1/256 bit: squaring, a bit at a time. */
static uint32_t cost_of(uint32_t f)
{
    if (f == 0)
        return NEVER;
    const uint32_t whole = 31u - (uint32_t)__builtin_clz(f);
    uint64_t y = (uint64_t)f << (31u - whole); /* 1 … 2 in 1.31 */
    uint32_t bits = whole << 8;
    for (uint32_t i = 0; i < 8u; i++) {
        y = y * y >> 31;
        if (y >> 32) {
            y >>= 1;
            bits |= 128u >> i;
        }
    }
    return (AKV_RANS_BITS << 8) - bits;
}

uint32_t akv_rans_choose(const akv_rans_params *shape)
{
    const uint64_t symbols = (uint64_t)akv_rans_steps(shape) * AKV_RANS_LANES;
    const uint64_t columns = (uint64_t)akv_rans_stripes(shape) * AKV_RANS_LANES;
    uint64_t tables = AKV_MIN(symbols / SYMBOLS, columns);
    return tables < 1 ? 1 : tables > AKV_RANS_TABLES ? AKV_RANS_TABLES : (uint32_t)tables;
}

/* Frequencies for counts: those of classes that occur are 1 at least, and two classes have some. */
static void normalise(const uint64_t sum[AKV_RANS_CLASSES], uint32_t classes, uint32_t f[AKV_RANS_CLASSES])
{
    uint64_t all = 0;
    uint32_t given = 0, most = 0, some = 0;
    for (uint32_t c = 0; c < classes; c++)
        all += sum[c];
    for (uint32_t c = 0; c < AKV_RANS_CLASSES; c++) {
        f[c] = c < classes && sum[c] ? (uint32_t)((sum[c] * AKV_RANS_ONE + all / 2) / all) : 0;
        f[c] += c < classes && sum[c] && f[c] == 0;
    }
    for (uint32_t c = 0; c < classes; c++) {
        some += f[c] != 0;
        most = f[c] > f[most] ? c : most;
    }
    if (some < 2)
        f[most ? 0 : 1] = 1;
    for (uint32_t c = 0; c < classes; c++)
        given += f[c];
    f[most] += AKV_RANS_ONE - given; /* less than 16 off, the largest is 64 at least */
}

/* Counts of the columns of each table, and its frequencies. */
static void fit(const akv_rans_params *shape, const uint32_t *counts, const uint64_t *keys,
                uint32_t f[AKV_RANS_TABLES][AKV_RANS_CLASSES])
{
    uint64_t sum[AKV_RANS_TABLES][AKV_RANS_CLASSES] = {{0}};
    for (uint32_t column = 0; column < akv_rans_stripes(shape) * AKV_RANS_LANES; column++)
        for (uint32_t c = 0; c < AKV_RANS_CLASSES; c++)
            sum[keys[column]][c] += counts[column * AKV_RANS_CLASSES + c];
    for (uint32_t t = 0; t < shape->tables; t++)
        normalise(sum[t], akv_rans_classes(shape), f[t]);
}

/* Each column to the table that it takes fewest bits with, of equal ones the first. */
static void assign(const akv_rans_params *shape, const uint32_t *counts, uint64_t *keys,
                   uint32_t f[AKV_RANS_TABLES][AKV_RANS_CLASSES])
{
    uint32_t cost[AKV_RANS_TABLES][AKV_RANS_CLASSES];
    for (uint32_t t = 0; t < shape->tables; t++)
        for (uint32_t c = 0; c < AKV_RANS_CLASSES; c++)
            cost[t][c] = cost_of(f[t][c]);
    for (uint32_t column = 0; column < akv_rans_stripes(shape) * AKV_RANS_LANES; column++) {
        const uint32_t *count = counts + (size_t)column * AKV_RANS_CLASSES;
        uint64_t least = UINT64_MAX;
        for (uint32_t t = 0; t < shape->tables; t++) {
            uint64_t bits = 0;
            for (uint32_t c = 0; c < AKV_RANS_CLASSES; c++)
                bits += (uint64_t)count[c] * cost[t][c];
            if (bits < least) {
                least = bits;
                keys[column] = t;
            }
        }
    }
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Columns in the order of their mean classes, as many for each table; ties by number. */
static void begin(const akv_rans_params *shape, const uint32_t *counts, uint64_t *keys)
{
    const uint32_t columns = akv_rans_stripes(shape) * AKV_RANS_LANES;
    /* Bytes are numbers in two's complement: the upper half are the negative ones. */
    const uint32_t flip = shape->raw < AKV_RANS_SIGNED && akv_rans_width(shape) == 8u ? 8u : 0u;
    for (uint32_t column = 0; column < columns; column++) {
        uint64_t all = 0, sum = 0;
        for (uint32_t c = 0; c < AKV_RANS_CLASSES; c++) {
            all += counts[column * AKV_RANS_CLASSES + c];
            sum += (uint64_t)counts[column * AKV_RANS_CLASSES + c] * (c ^ flip);
        }
        keys[column] = (all ? (sum << 20) / all : 0) << 32 | column;
    }
    qsort(keys, columns, sizeof *keys, compare);
    /* In place: the number of the table into the upper half of the key whose column it is. */
    for (uint32_t i = 0; i < columns; i++)
        keys[i] &= UINT32_MAX;
    for (uint32_t i = 0; i < columns; i++)
        keys[keys[i] & UINT32_MAX] |= (uint64_t)((uint64_t)i * shape->tables / columns) << 32;
    for (uint32_t i = 0; i < columns; i++)
        keys[i] >>= 32;
}

void akv_rans_model(const akv_rans_params *shape, const uint32_t *counts, uint64_t *keys, uint32_t *model)
{
    const uint32_t words = akv_rans_table_words(shape), classes = akv_rans_classes(shape);
    const uint32_t columns = akv_rans_stripes(shape) * AKV_RANS_LANES;
    uint32_t f[AKV_RANS_TABLES][AKV_RANS_CLASSES];
    begin(shape, counts, keys);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        fit(shape, counts, keys, f);
        assign(shape, counts, keys, f);
    }
    fit(shape, counts, keys, f);
    memset(model, 0, (size_t)akv_rans_model_words(shape) * 4u);
    for (uint32_t t = 0; t < shape->tables; t++)
        for (uint32_t c = 0; c < classes; c++)
            model[t * words + c / 3u] |= f[t][c] << 10u * (c % 3u);
    for (uint32_t column = 0; column < columns; column++)
        model[akv_rans_map_at(shape) + column / 8u] |= (uint32_t)keys[column] << 4u * (column & 7u);
}

bool akv_rans_model_valid(const akv_rans_params *shape, const uint32_t *model)
{
    for (uint32_t t = 0; t < shape->tables; t++) {
        uint32_t sum = 0;
        for (uint32_t c = 0; c < akv_rans_classes(shape); c++)
            sum += akv_rans_frequency(shape, model, t, c);
        if (sum != AKV_RANS_ONE)
            return false;
    }
    for (uint32_t column = 0; column < akv_rans_stripes(shape) * AKV_RANS_LANES; column++)
        if (akv_rans_table(shape, model, column) >= shape->tables)
            return false;
    return true;
}

uint64_t akv_rans_model_bits(const akv_rans_params *shape, const uint32_t *counts, const uint32_t *model)
{
    uint64_t bits = 0;
    for (uint32_t column = 0; column < akv_rans_stripes(shape) * AKV_RANS_LANES; column++) {
        const uint32_t table = akv_rans_table(shape, model, column);
        for (uint32_t c = 0; c < akv_rans_classes(shape); c++)
            bits += (uint64_t)counts[column * AKV_RANS_CLASSES + c] *
                    (cost_of(akv_rans_frequency(shape, model, table, c)) + (akv_rans_extra(shape->raw, c) << 8));
    }
    return bits;
}
