/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of the CUDA backend: images, entry points, the shape of each launch. */
#include "cuda.h"
#include "../../lib/kernel/rans.h"
#include <stdio.h>

#define WARPS 4u /* of a thread block of the quantize family */

static const char *format_stem(uint32_t format)
{
    switch (format) {
    case AKV_I8:
        return "i8";
    case AKV_N6:
        return "n6";
    case AKV_N5:
        return "n5";
    case AKV_N4:
        return "n4";
    case AKV_N3:
        return "n3";
    case AKV_N2:
        return "n2";
    case AKV_E4M3:
        return "e4m3";
    case AKV_E4M3G:
        return "e4m3g";
    case AKV_Q8_0:
        return "q8_0";
    case AKV_Q5_1:
        return "q5_1";
    case AKV_Q5_0:
        return "q5_0";
    case AKV_Q4_1:
        return "q4_1";
    case AKV_Q4_0:
        return "q4_0";
    case AKV_IQ4_NL:
        return "iq4_nl";
    default:
        return "raw";
    }
}

/* Launches with a map have kernels of their own, unless the format is raw. */
static const char *map_stem(uint32_t format, uint32_t flags)
{
    return (flags & AKV_FLAG_MAP) && !akv_format_raw(format) ? "_map" : "";
}

/* Thread blocks of a family kernel whose warps take whole rows of 32-element groups, 32 groups each. */
static uint64_t row_blocks(uint64_t rows, uint32_t dim)
{
    uint32_t per = WARPS * (32u / (akv_padded_dim(dim) / 32u));
    return (rows + per - 1u) / per;
}
/* The same of rows of [tokens][heads]; with a map a warp's rows may have to be of one head. */
static uint64_t head_blocks(uint32_t tokens, uint32_t heads, uint32_t dim, bool map)
{
    uint32_t per = 32u / (akv_padded_dim(dim) / 32u);
    if (!map)
        return row_blocks((uint64_t)tokens * heads, dim);
    return (((uint64_t)tokens + per - 1u) / per * heads + WARPS - 1u) / WARPS;
}
/* Thread blocks of a kernel that strides over its work: enough to fill the card. */
static uint64_t stride_blocks(const struct akv_cuda_device *device, uint64_t items)
{
    uint64_t most = (uint64_t)device->sm_count * 16u, blocks = (items + 255u) / 256u;
    return blocks < most ? (blocks ? blocks : 1u) : most;
}

static void codec_call(struct akv_cuda_device *device, const char *op, const akv_encode_params *p,
                       struct akv_cuda_call *call)
{
    uint64_t rows = (uint64_t)p->tokens * p->rows.heads;
    bool raw = akv_format_raw(p->format), encode = op[0] == 'e';
    bool search = encode && akv_format_codebook(p->format) && (p->flags & AKV_FLAG_SEARCH);
    snprintf(call->name, sizeof call->name, "akv_k_%s_%s%s%s", op, format_stem(p->format), search ? "_search" : "",
             map_stem(p->format, p->flags));
    call->image = AKV_IMAGE_QUANT;
    call->threads = raw ? 256u : WARPS * 32u;
    call->grid[0] = raw ? stride_blocks(device, rows * p->dim)
                        : head_blocks(p->tokens, p->rows.heads, p->dim, p->flags & AKV_FLAG_MAP);
}

static void seal_call(const akv_seal_params *p, bool value, struct akv_cuda_call *call)
{
    uint32_t format = value ? p->v_format : p->k_format, flags = value ? p->v_flags : p->k_flags;
    snprintf(call->name, sizeof call->name, "akv_k_seal_%c_%s%s%s", value ? 'v' : 'k', format_stem(format),
             akv_format_codebook(format) && (flags & AKV_FLAG_SEARCH) ? "_search" : "", map_stem(format, flags));
    call->image = AKV_IMAGE_QUANT_BLOCKS;
    call->threads = WARPS * 32u;
    call->grid[0] = (uint64_t)p->moves * p->layers * p->kv_heads;
}

static void reencode_call(const akv_reencode_params *p, bool value, struct akv_cuda_call *call)
{
    uint32_t format = value ? p->v_format : p->k_format, source = value ? p->v_source : p->k_source;
    uint32_t flags = value ? p->v_flags : p->k_flags;
    bool search = format != source && akv_format_codebook(format) && (flags & AKV_FLAG_SEARCH);
    snprintf(call->name, sizeof call->name, "akv_k_reencode_%c_%s%s", value ? 'v' : 'k',
             format == source ? "same" : format_stem(format), search ? "_search" : "");
    call->image = AKV_IMAGE_QUANT_BLOCKS;
    call->threads = WARPS * 32u;
    call->grid[0] = (uint64_t)p->moves * p->layers * p->kv_heads;
}

#define COMPACT_PARTS 8u /* kernels-cu/evict.cu has the same number */
static void evict_call(struct akv_cuda_call *call, const char *name, uint64_t blocks)
{
    snprintf(call->name, sizeof call->name, "akv_k_%s", name);
    call->image = AKV_IMAGE_EVICT;
    call->threads = 256;
    call->grid[0] = blocks;
}

/* kernels-cu/compress.cu has the same numbers. */
#define BX16_COUNTED   24u /* pieces that a thread block counts at once */
#define BX16_COUNTS    6u  /* thread blocks of count that are on a multiprocessor: 32 KiB of shared memory each */
#define BX16_GROUP     32u /* pieces of a thread block of encode */
#define BX16_ENCODERS  16u /* warps of it */
#define BX16_SEARCHERS 8u  /* groups of a thread block of escapes */

static uint64_t piece_blocks(const akv_bx16_params *p)
{
    return akv_bx16_pieces(p->elements);
}
static uint64_t bx16_count_blocks(const struct akv_cuda_device *device, const akv_bx16_params *p)
{
    const uint64_t most = (uint64_t)device->sm_count * BX16_COUNTS;
    return AKV_MIN(most, (piece_blocks(p) + BX16_COUNTED - 1u) / BX16_COUNTED);
}
static uint64_t bx16_groups(const akv_bx16_params *p, uint32_t each)
{
    return (piece_blocks(p) + BX16_GROUP * each - 1u) / (BX16_GROUP * each);
}

static void compress_call(struct akv_cuda_call *call, const char *name, uint64_t blocks)
{
    snprintf(call->name, sizeof call->name, "akv_k_bx16_%s", name);
    call->image = AKV_IMAGE_COMPRESS;
    call->threads = 128;
    call->grid[0] = blocks;
}

static uint64_t rans_parts(const akv_rans_params *p)
{
    return (akv_rans_stripe_steps(p) + AKV_RANS_COUNTED - 1u) / AKV_RANS_COUNTED;
}

static void rans_call(struct akv_cuda_call *call, const char *name, uint64_t blocks)
{
    snprintf(call->name, sizeof call->name, "akv_k_rans_%s", name);
    call->image = AKV_IMAGE_RANS;
    call->threads = 128;
    call->grid[0] = blocks;
}

/* Made for each width of symbols. */
static void rans_width_call(struct akv_cuda_call *call, const char *name, const akv_rans_params *p, uint64_t blocks)
{
    char full[20];
    snprintf(full, sizeof full, "%.8s_%u_%u_%u", name, p->plane[0].bits & 15u, p->plane[1].bits & 15u, p->raw & 15u);
    rans_call(call, full, blocks);
}
/* A warp takes a segment, `warps` are in a thread block. */
static void rans_coder_call(struct akv_cuda_call *call, const char *name, uint32_t warps, const akv_rans_params *p)
{
    rans_width_call(call, name, p, (akv_rans_segments(p) + warps - 1u) / warps);
    call->threads = warps * 32u;
}

/* With tables in half the memory where a thread block may not have so much. */
static void rans_decode_call(const struct akv_cuda_device *device, struct akv_cuda_call *call, const akv_rans_params *p)
{
    enum { DECODERS = 16, RING_BYTES = 512, FIXED = 2048 }; /* FIXED: what is not asked for here */
    const uint32_t slots = p->tables * AKV_RANS_ONE;
    rans_coder_call(call, "decode", DECODERS, p);
    call->shared = slots * 4u + DECODERS * RING_BYTES;
    if (call->shared + FIXED > (uint32_t)device->shared_optin) {
        strcat(call->name, "_small");
        call->shared = slots * 2u + DECODERS * RING_BYTES;
    }
}

/* kernels-cu/lowrank.cu has the same numbers. */
#define LOW_ROWS  8u
#define LOW_UNITS 1024u
static void lowrank_call(struct akv_cuda_call *call, const char *name, uint64_t blocks)
{
    snprintf(call->name, sizeof call->name, "akv_k_%s", name);
    call->image = AKV_IMAGE_LOWRANK;
    call->threads = 128;
    call->grid[0] = blocks;
}

#define CALLS 3u /* that a launch takes, at most */
static uint32_t make_calls(struct akv_cuda_device *device, enum akv_kernel_id kernel, const void *params,
                           struct akv_cuda_plan *plan, struct akv_cuda_call *calls)
{
    memset(calls, 0, CALLS * sizeof *calls);
    for (uint32_t i = 0; i < CALLS; i++)
        calls[i].grid[0] = calls[i].grid[1] = calls[i].grid[2] = 1;
    switch (kernel) {
    case AKV_K_ENCODE:
        codec_call(device, "encode", params, calls);
        return 1;
    case AKV_K_DECODE:
        codec_call(device, "decode", params, calls);
        return 1;
    case AKV_K_ROTATE: {
        const akv_rotate_params *p = params;
        snprintf(calls->name, sizeof calls->name, "akv_k_rotate");
        calls->image = AKV_IMAGE_QUANT;
        calls->threads = WARPS * 32u;
        calls->grid[0] = row_blocks(p->rows, p->dim);
        return 1;
    }
    case AKV_K_SEAL:
        seal_call(params, false, &calls[0]);
        seal_call(params, true, &calls[1]);
        return 2;
    case AKV_K_SHIFT: {
        const akv_shift_params *p = params;
        bool search = akv_format_codebook(p->format) && (p->flags & AKV_FLAG_SEARCH);
        snprintf(calls->name, sizeof calls->name, "akv_k_shift_%s%s%s", format_stem(p->format),
                 search ? "_search" : "", map_stem(p->format, p->flags));
        calls->image = AKV_IMAGE_QUANT_BLOCKS;
        calls->threads = WARPS * 32u;
        calls->grid[0] = (uint64_t)p->blocks * p->kv_heads;
        return 1;
    }
    case AKV_K_REENCODE:
        reencode_call(params, false, &calls[0]);
        reencode_call(params, true, &calls[1]);
        return 2;
    case AKV_K_APPEND: {
        const akv_append_params *p = params;
        snprintf(calls->name, sizeof calls->name, "akv_k_append");
        calls->image = AKV_IMAGE_PAGE;
        calls->threads = 256;
        calls->grid[0] = stride_blocks(
            device, (uint64_t)p->max_tokens * (p->k.heads * ((p->k_dim + 7u) / 8u) + p->v.heads * ((p->v_dim + 7u) / 8u)));
        return 1;
    }
    case AKV_K_GATHER: {
        const akv_gather_params *p = params;
        snprintf(calls->name, sizeof calls->name, "akv_k_gather%s", p->flags & AKV_FLAG_MAP ? "_map" : "");
        calls->image = AKV_IMAGE_QUANT;
        calls->threads = WARPS * 32u;
        calls->grid[0] = head_blocks(p->tokens, p->rows.heads, p->dim, p->flags & AKV_FLAG_MAP);
        return 1;
    }
    case AKV_K_COPY: {
        const akv_copy_params *p = params;
        snprintf(calls->name, sizeof calls->name, "akv_k_copy");
        calls->image = AKV_IMAGE_PAGE;
        calls->threads = 256;
        calls->grid[0] = stride_blocks(device, (uint64_t)p->moves * (p->bytes / 16u));
        return 1;
    }
    case AKV_K_ATTEND:
        return akv_cuda_attend_calls(device, params, plan, calls);
    case AKV_K_SCORE:
    case AKV_K_MEAN: {
        const akv_score_params *p = params;
        bool mean = kernel == AKV_K_MEAN;
        evict_call(calls, mean ? "mean" : "score",
                   mean ? (p->rows + (uint64_t)AKV_MEAN_ROWS - 1u) / AKV_MEAN_ROWS * p->kv_heads
                        : ((uint64_t)p->rows * p->kv_heads + 255u) / 256u);
        return 1;
    }
    case AKV_K_MASS: {
        const akv_mass_params *p = params;
        evict_call(calls, "mass", ((uint64_t)p->rows * p->kv_heads + 255u) / 256u);
        return 1;
    }
    case AKV_K_SELECT: {
        const akv_select_params *p = params;
        evict_call(calls, "select", (uint64_t)p->problems * (p->flags & AKV_SELECT_ADAPTIVE ? 1u : p->heads));
        return 1;
    }
    case AKV_K_COMPACT: {
        const akv_compact_params *p = params;
        evict_call(calls, "compact", 2u * (uint64_t)p->kv_heads * (p->in_place ? 1u : p->to_blocks));
        calls->grid[1] = COMPACT_PARTS + 1u;
        return 1;
    }
    case AKV_K_BX16_COUNT:
        compress_call(calls, "count", bx16_count_blocks(device, params));
        return 1;
    case AKV_K_BX16_ENCODE:
        compress_call(&calls[0], "pieces", bx16_groups(params, 1));
        calls[0].threads = BX16_ENCODERS * 32u;
        compress_call(&calls[1], "records", 1);
        calls[1].threads = 1024;
        compress_call(&calls[2], "escapes", bx16_groups(params, BX16_SEARCHERS));
        calls[2].threads = BX16_SEARCHERS * 32u;
        return 3;
    case AKV_K_BX16_DECODE:
        compress_call(calls, "decode", piece_blocks(params));
        return 1;
    case AKV_K_RANS_COUNT:
        rans_width_call(calls, "count", params, akv_rans_stripes(params) * rans_parts(params));
        return 1;
    case AKV_K_RANS_ENCODE:
        rans_coder_call(&calls[0], "segments", 4, params);
        rans_call(&calls[1], "records", 1);
        calls[1].threads = 1024;
        rans_call(&calls[2], "move", akv_rans_segments(params));
        return 3;
    case AKV_K_RANS_DECODE:
        rans_decode_call(device, calls, params);
        return 1;
    case AKV_K_LOWRANK_PROJECT: {
        const akv_lowrank_params *p = params;
        lowrank_call(calls, "lowrank_project", ((uint64_t)p->tokens + LOW_ROWS - 1u) / LOW_ROWS * p->heads);
        return 1;
    }
    case AKV_K_LOWRANK_READ:
    case AKV_K_LOWRANK_ROWS: {
        const akv_lowrank_params *p = params;
        const bool rows = kernel == AKV_K_LOWRANK_ROWS;
        const uint64_t units = (uint64_t)p->tokens * p->heads * (rows ? p->dim - p->pairs : p->dim);
        lowrank_call(calls, rows ? "lowrank_rows" : "lowrank_read", (units + LOW_UNITS - 1u) / LOW_UNITS);
        return 1;
    }
    case AKV_K_MULTIPLY: {
        const akv_multiply_params *p = params;
        lowrank_call(calls, "multiply",
                     ((uint64_t)p->m + LOW_ROWS - 1u) / LOW_ROWS * (((uint64_t)p->n + 127u) / 128u));
        calls->grid[1] = p->batch;
        return 1;
    }
    default:
        return 0;
    }
}

void akv_cuda_check(struct akv_device *base, enum akv_kernel_id kernel, const void *params,
                    struct akv_check *check_out)
{
    memset(check_out, 0, sizeof *check_out);
    check_out->supported = true;
    check_out->class_ = akv_kernels[kernel].class_;
    if (kernel == AKV_K_ATTEND)
        akv_cuda_attend_check((struct akv_cuda_device *)base, params, check_out);
}

anykv_status akv_cuda_prepare(struct akv_device *base, enum akv_kernel_id kernel, const void *params)
{
    struct akv_cuda_device *device = (struct akv_cuda_device *)base;
    struct akv_cuda_call calls[CALLS];
    struct akv_cuda_plan plan;
    uint32_t count = make_calls(device, kernel, params, &plan, calls);
    for (uint32_t i = 0; i < count; i++) {
        CUfunction function;
        anykv_status status =
            akv_cuda_function(device, calls[i].image, calls[i].name, calls[i].shared, &function);
        if (status)
            return status;
    }
    return ANYKV_OK;
}

anykv_status akv_cuda_launch(struct akv_queue *base, const struct akv_launch *launch)
{
    struct akv_cuda_queue *queue = (struct akv_cuda_queue *)base;
    struct akv_cuda_device *device = (struct akv_cuda_device *)base->device;
    struct akv_cuda_call calls[CALLS];
    struct akv_cuda_plan plan;
    struct akv_cuda_args args = {{0}, {0}};
    for (uint32_t i = 0; i < akv_kernels[launch->kernel].arguments; i++)
        args.arg[i] = akv_cuda_address(launch->arg[i]);
    for (uint32_t i = 0; i < launch->slabs; i++)
        args.slab[i] = akv_cuda_address(launch->slab[i]);
    if (launch->kernel == AKV_K_MULTIPLY && akv_cuda_dense_multiply(device, queue, launch))
        return ANYKV_OK;
    uint32_t count = make_calls(device, launch->kernel, launch->params, &plan, calls);
    for (uint32_t i = 0; i < count; i++) {
        const struct akv_cuda_call *call = &calls[i];
        CUfunction function;
        if (call->grid[0] == 0 || call->grid[1] == 0 || call->grid[2] == 0)
            continue;
        if (call->grid[0] > INT32_MAX || call->grid[1] > 65535u || call->grid[2] > 65535u)
            return akv_fail(base->device->context, ANYKV_E_SHAPE,
                            "%s: a grid of %llu x %llu x %llu thread blocks is beyond the device's limit",
                            call->name, (unsigned long long)call->grid[0],
                            (unsigned long long)call->grid[1], (unsigned long long)call->grid[2]);
        anykv_status status = akv_cuda_function(device, call->image, call->name, call->shared, &function);
        if (status)
            return status;
        void *parameters[4] = {(void *)(uintptr_t)launch->params, &args, (void *)(uintptr_t)call->extra,
                               &queue->counters};
        status = akv_cuda_enter(device);
        if (status)
            return status;
        CUresult code = device->cu->launch(function, (unsigned)call->grid[0], (unsigned)call->grid[1],
                                           (unsigned)call->grid[2], call->threads, 1, 1, call->shared,
                                           queue->stream, parameters, NULL);
        akv_cuda_leave(device);
        if (code)
            return akv_cuda_fail(device, code, call->name);
    }
    return ANYKV_OK;
}
