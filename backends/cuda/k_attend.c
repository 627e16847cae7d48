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

/* Kernels for the formats and sizes that matter for speed; queries and weights enter the matrix units as
 * f16, so that a precise launch does without them. */
static const struct {
    uint32_t k, v, dim, warps; /* k 0: raw rows only */
    const char *name;
} fast[] = {
    {0, 0, 64, 16, "f16_64"},
    {0, 0, 128, 8, "f16_128"},
    {0, 0, 256, 4, "f16_256"},
    {AKV_I8, AKV_I8, 64, 16, "i8_i8_64"},
    {AKV_I8, AKV_I8, 128, 16, "i8_i8_128"},
    {AKV_I8, AKV_I8, 256, 8, "i8_i8_256"},
    {AKV_I8, AKV_N4, 64, 16, "i8_n4_64"},
    {AKV_I8, AKV_N4, 128, 15, "i8_n4_128"},
    {AKV_I8, AKV_N4, 256, 6, "i8_n4_256"},
    {AKV_N5, AKV_N4, 64, 16, "n5_n4_64"},
    {AKV_N5, AKV_N4, 128, 15, "n5_n4_128"},
    {AKV_N5, AKV_N4, 256, 6, "n5_n4_256"},
    {AKV_N4, AKV_N4, 64, 16, "n4_n4_64"},
    {AKV_N4, AKV_N4, 128, 16, "n4_n4_128"},
    {AKV_N4, AKV_N4, 256, 7, "n4_n4_256"},
    {AKV_N3, AKV_N3, 64, 16, "n3_n3_64"},
    {AKV_N3, AKV_N3, 128, 16, "n3_n3_128"},
    {AKV_N3, AKV_N3, 256, 8, "n3_n3_256"},
    {AKV_N3, AKV_N2, 64, 16, "n3_n2_64"},
    {AKV_N3, AKV_N2, 128, 16, "n3_n2_128"},
    {AKV_N3, AKV_N2, 256, 8, "n3_n2_256"},
    {AKV_N5, AKV_N5, 64, 16, "n5_n5_64"},
    {AKV_N5, AKV_N5, 128, 13, "n5_n5_128"},
    {AKV_N5, AKV_N5, 256, 5, "n5_n5_256"},
    {AKV_N2, AKV_N2, 64, 16, "n2_n2_64"},
    {AKV_N2, AKV_N2, 128, 16, "n2_n2_128"},
    {AKV_N2, AKV_N2, 256, 8, "n2_n2_256"},
};

static int find_fast(const struct akv_cuda_device *device, const akv_attend_params *p)
{
    const akv_tile_map *t = &p->tiles;
    if (!device->decode || (uint32_t)device->shared_optin < DECODE_SHARED + 1024u || p->block_tokens != 16u ||
        p->k_dim != p->v_dim || (p->flags & (AKV_ATTEND_MASK | AKV_ATTEND_PRECISE)) ||
        akv_params_map(AKV_K_ATTEND, p) ||
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

void akv_cuda_attend_call(struct akv_cuda_device *device, const akv_attend_params *p,
                          struct akv_cuda_plan *plan, struct akv_cuda_call *call)
{
    uint32_t group = p->q_heads / p->kv_heads;
    uint32_t tokens = p->bound_seq_tokens ? p->bound_seq_tokens : p->max_tokens;
    uint32_t sequences = p->bound_sequences ? p->bound_sequences : p->max_sequences;
    uint64_t tiles = ((uint64_t)tokens * group + COLUMNS - 1u) / COLUMNS;
    int i = find_fast(device, p);
    plan_attend(device, p, plan);
    call->extra = plan;
    call->counters = true;
    call->grid[0] = tiles * plan->splits;
    call->grid[1] = p->kv_heads;
    call->grid[2] = sequences;
    if (i >= 0) {
        call->image = AKV_IMAGE_ATTEND_DECODE;
        snprintf(call->name, sizeof call->name, "akv_k_attend_%s", fast[i].name);
        call->threads = fast[i].warps * 32u;
        call->shared = DECODE_SHARED;
    } else {
        call->image = AKV_IMAGE_ATTEND;
        snprintf(call->name, sizeof call->name, "akv_k_attend");
        call->threads = 128;
        call->shared = general_shared(p);
    }
}
