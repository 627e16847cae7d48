/* SPDX-License-Identifier: Apache-2.0 */
/* How attend is cut up for the card, and which of its kernels runs. */
#include "cuda.h"
#include <stdio.h>

#define COLUMNS     8u /* queries of a kv head in a thread block */
#define SPLIT_TILES 2u /* column tiles of a sequence that may be split */
#define LONGEST     8192u
#define CONTROL     2048u
#define DECODE_SHARED (226u * 1024u)

/* Declared maxima and the card give the plan, so that results do not depend on what else is in a step. */
static void plan_attend(const struct akv_cuda_device *device, const akv_attend_params *p,
                        struct akv_cuda_plan *plan)
{
    uint64_t units = (uint64_t)p->max_sequences * p->kv_heads, sms = (uint64_t)device->sm_count;
    plan->spread = units >= sms ? 1u : (uint32_t)((sms + units / 4u) / units);
    plan->longest = LONGEST;
    uint32_t most = (uint32_t)(((uint64_t)p->max_length + LONGEST - 1u) / LONGEST);
    plan->splits = most > plan->spread ? most : plan->spread;
    plan->part_offset = (uint32_t)(units * SPLIT_TILES * plan->splits * (2u * COLUMNS * sizeof(float)));
}

static uint32_t general_shared(const akv_attend_params *p)
{
    uint32_t larger = p->k_dim > p->v_dim ? p->k_dim : p->v_dim;
    uint32_t means = akv_params_map(AKV_K_ATTEND, p) ? 2u * COLUMNS * p->k_dim : 0u;
    return (COLUMNS * p->k_dim + 2u * COLUMNS * p->v_dim + 16u * (larger + 1u) + means) * (uint32_t)sizeof(float);
}

void akv_cuda_attend_check(struct akv_cuda_device *device, const akv_attend_params *p,
                           struct akv_check *check_out)
{
    struct akv_cuda_plan plan;
    uint64_t units = (uint64_t)p->max_sequences * p->kv_heads * SPLIT_TILES;
    plan_attend(device, p, &plan);
    bool mixed = false; /* raw rows that would have to be brought to the stored domain */
    for (uint32_t kind = 1; kind < AKV_KINDS; kind++)
        mixed |= p->tiles.k_format[kind] != 0 &&
                 (((p->k_flags & AKV_FLAG_MAP) && akv_format_raw(p->tiles.k_format[kind])) ||
                  ((p->v_flags & AKV_FLAG_MAP) && akv_format_raw(p->tiles.v_format[kind])));
    if (mixed) {
        check_out->supported = false;
        check_out->reason = "attend: a raw format beside means and matrices on the same side";
    } else if (general_shared(p) + 4096u > (uint32_t)device->shared_optin) {
        check_out->supported = false;
        check_out->reason = "attend: head size too large for this device's shared memory";
    } else if (units > AKV_CUDA_COUNTERS ||
               units * plan.splits * (2u * COLUMNS * sizeof(float)) > UINT32_MAX) {
        check_out->supported = false;
        check_out->reason = "attend: max_sequences times kv heads is beyond 131072";
    }
    check_out->class_ = AKV_CLASS_BOUNDED;
    check_out->scratch_bytes = plan.part_offset + units * plan.splits * COLUMNS * p->v_dim * sizeof(float);
}

/* Kernels for the formats and sizes that matter for speed, with their warps: of rows that are rotated or as they
 * are (attend_decode.cu), and of rows with a map (attend_mapped.cu).  Queries and weights enter the matrix units
 * as f16, so that a precise launch does without them. */
static const struct {
    uint32_t k, v, dim; /* k 0: raw rows only */
    uint32_t warps, mapped;
    const char *name;
} fast[] = {
    {0, 0, 64, 16, 0, "f16_64"},
    {0, 0, 128, 8, 0, "f16_128"},
    {0, 0, 256, 4, 0, "f16_256"},
    {AKV_I8, AKV_I8, 64, 16, 16, "i8_i8_64"},
    {AKV_I8, AKV_I8, 128, 16, 14, "i8_i8_128"},
    {AKV_I8, AKV_I8, 256, 8, 6, "i8_i8_256"},
    {AKV_I8, AKV_N4, 64, 16, 16, "i8_n4_64"},
    {AKV_I8, AKV_N4, 128, 15, 11, "i8_n4_128"},
    {AKV_I8, AKV_N4, 256, 6, 5, "i8_n4_256"},
    {AKV_N5, AKV_N4, 64, 16, 16, "n5_n4_64"},
    {AKV_N5, AKV_N4, 128, 15, 14, "n5_n4_128"},
    {AKV_N5, AKV_N4, 256, 6, 6, "n5_n4_256"},
    {AKV_N4, AKV_N4, 64, 16, 16, "n4_n4_64"},
    {AKV_N4, AKV_N4, 128, 16, 16, "n4_n4_128"},
    {AKV_N4, AKV_N4, 256, 7, 7, "n4_n4_256"},
    {AKV_N3, AKV_N3, 64, 16, 16, "n3_n3_64"},
    {AKV_N3, AKV_N3, 128, 16, 16, "n3_n3_128"},
    {AKV_N3, AKV_N3, 256, 8, 8, "n3_n3_256"},
    {AKV_N3, AKV_N2, 64, 16, 16, "n3_n2_64"},
    {AKV_N3, AKV_N2, 128, 16, 16, "n3_n2_128"},
    {AKV_N3, AKV_N2, 256, 8, 8, "n3_n2_256"},
    {AKV_N5, AKV_N5, 64, 16, 16, "n5_n5_64"},
    {AKV_N5, AKV_N5, 128, 13, 13, "n5_n5_128"},
    {AKV_N5, AKV_N5, 256, 5, 5, "n5_n5_256"},
    {AKV_N2, AKV_N2, 64, 16, 16, "n2_n2_64"},
    {AKV_N2, AKV_N2, 128, 16, 16, "n2_n2_128"},
    {AKV_N2, AKV_N2, 256, 7, 7, "n2_n2_256"},
};

static int find_fast(const struct akv_cuda_device *device, const akv_attend_params *p)
{
    const akv_tile_map *t = &p->tiles;
    if (!device->decode || (uint32_t)device->shared_optin < DECODE_SHARED + 1024u || p->block_tokens != 16u ||
        p->k_dim != p->v_dim || (p->flags & (AKV_ATTEND_MASK | AKV_ATTEND_PRECISE)) ||
        t->k_format[0] != AKV_F16 || t->v_format[0] != AKV_F16)
        return -1;
    for (uint32_t kind = 2; kind < AKV_KINDS; kind++)
        if (t->k_format[kind])
            return -1;
    bool raw = t->k_format[1] == AKV_F16 && t->v_format[1] == AKV_F16;
    uint32_t k = raw ? 0u : t->k_format[1], v = raw ? 0u : t->v_format[1];
    for (int i = 0; i < (int)(sizeof fast / sizeof *fast); i++)
        if (fast[i].k == k && fast[i].v == v && fast[i].dim == p->k_dim)
            return i;
    return -1;
}

/* Queries of a thread block of attend_prefill.cu. */
static uint32_t prefill_columns(uint32_t dim)
{
    return dim == 256 ? 64u : 128u;
}

/* Bytes of shared memory of the prefill kernel, 0 where it does not apply: queries, and two stages of keys and
 * values as halves; sums of floats lie over them. */
static uint32_t prefill_shared(const struct akv_cuda_device *device, const akv_attend_params *p)
{
    const akv_tile_map *t = &p->tiles;
    uint32_t dim = p->k_dim, tile = dim == 256 ? 32u : 64u, columns = prefill_columns(dim);
    if (!device->prefill || p->block_tokens != 16u || p->v_dim != dim ||
        (dim != 64 && dim != 128 && dim != 256) ||
        (p->flags & (AKV_ATTEND_MASK | AKV_ATTEND_PRECISE)) ||
        ((p->k_flags | p->v_flags) & AKV_FLAG_MAP) || t->k_format[0] != AKV_F16 ||
        (uint64_t)p->max_tokens * (p->q_heads / p->kv_heads) > 65535u * (uint64_t)columns) /* thread blocks in y */
        return 0;
    for (uint32_t kind = 0; kind < AKV_KINDS; kind++) {
        uint32_t k = t->k_format[kind], v = t->v_format[kind];
        bool packed = k >= AKV_I8 && k <= AKV_N2 && v >= AKV_I8 && v <= AKV_N2;
        if (k && !packed && (k != AKV_F16 || v != AKV_F16))
            return 0;
    }
    uint32_t halves = (columns + 4u * tile) * dim * 2u, sums = columns * dim * 4u;
    uint32_t bytes = halves > sums ? halves : sums;
    return bytes + 3072u <= (uint32_t)device->shared_optin ? bytes : 0; /* and 2 KiB that do not move */
}

uint32_t akv_cuda_attend_calls(struct akv_cuda_device *device, const akv_attend_params *p,
                               struct akv_cuda_plan *plan, struct akv_cuda_call *calls)
{
    uint32_t group = p->q_heads / p->kv_heads;
    uint32_t tokens = p->bound_seq_tokens ? p->bound_seq_tokens : p->max_tokens;
    uint32_t sequences = p->bound_sequences ? p->bound_sequences : p->max_sequences;
    uint64_t columns = (uint64_t)tokens * group, few = columns;
    uint32_t prefill = prefill_shared(device, p);
    int i = find_fast(device, p);
    plan_attend(device, p, plan);
    plan->most_columns = prefill ? SPLIT_TILES * COLUMNS : 0;
    if (plan->most_columns && few > plan->most_columns)
        few = plan->most_columns;
    calls[0].extra = plan;
    calls[0].counters = true;
    calls[0].grid[0] = (few + COLUMNS - 1u) / COLUMNS * plan->splits;
    calls[0].grid[1] = p->kv_heads;
    calls[0].grid[2] = sequences;
    if (i >= 0) {
        bool map = fast[i].k && akv_params_map(AKV_K_ATTEND, p); /* raw rows are as they came */
        calls[0].image = map ? AKV_IMAGE_ATTEND_MAPPED : AKV_IMAGE_ATTEND_DECODE;
        snprintf(calls[0].name, sizeof calls[0].name, "akv_k_attend_%s%s", map ? "map_" : "", fast[i].name);
        calls[0].threads = (map ? fast[i].mapped : fast[i].warps) * 32u;
        calls[0].shared = DECODE_SHARED;
    } else {
        calls[0].image = AKV_IMAGE_ATTEND;
        snprintf(calls[0].name, sizeof calls[0].name, "akv_k_attend");
        calls[0].threads = 128;
        calls[0].shared = general_shared(p);
    }
    if (!prefill || columns <= plan->most_columns)
        return 1;
    calls[1] = calls[0];
    calls[1].image = AKV_IMAGE_ATTEND_PREFILL;
    snprintf(calls[1].name, sizeof calls[1].name, "akv_k_prefill_%u", p->k_dim / 32u);
    calls[1].grid[0] = p->kv_heads;
    calls[1].grid[1] = (uint32_t)((columns + prefill_columns(p->k_dim) - 1u) / prefill_columns(p->k_dim));
    calls[1].threads = 128;
    calls[1].shared = prefill;
    return 2;
}
