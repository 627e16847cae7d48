/* SPDX-License-Identifier: Apache-2.0 */
/* From a kernel's parameters to the programs that run it: source, build options, entry. */
#include "cl.h"
#include "../../lib/kernel/attend.h"
#include <stdarg.h>
#include <stdio.h>

/* Head sizes that get programs of their own where that pays; the others share one that reads its
 * size at run time. */
static bool common_dim(uint32_t dim)
{
    return dim == 64 || dim == 128 || dim == 256;
}

static void add(struct akv_cl_plan *plan, const char *format, ...) AKV_PRINTF(2, 3);
static void add(struct akv_cl_plan *plan, const char *format, ...)
{
    size_t at = strlen(plan->options);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(plan->options + at, sizeof plan->options - at, format, arguments);
    va_end(arguments);
    assert(length > 0 && (size_t)length < sizeof plan->options - at);
    (void)length;
}

static void begin(struct akv_cl_plan *plan, const char *source, const char *entry,
                  const char *option)
{
    plan->source = source;
    plan->entry = entry;
    plan->pass = AKV_CL_PASS_KEYS;
    plan->options[0] = '\0';
    add(plan, "-D%s", option);
}

static void add_dim(struct akv_cl_plan *plan, uint32_t dim)
{
    if (common_dim(dim))
        add(plan, " -DAKV_DIM=%u", dim);
}

/* A driver takes about a second for a program of this family, so there are few: the GPU shape,
 * whose loops are over groups of 32, gains nothing from a fixed head size, the CPU shape a tenth;
 * launches with maps and block formats are rare. */
static void add_format(const struct akv_cl_device *device, struct akv_cl_plan *plan,
                       uint32_t format, uint32_t dim, uint32_t flags)
{
    add(plan, " -DAKV_FORMAT=%u", format);
    if (akv_format_raw(format))
        return;
    if (device->shape == AKV_CL_SHAPE_CPU && dim <= 128 && !(flags & AKV_FLAG_MAP) &&
        !akv_format_blocks(format))
        add_dim(plan, dim);
    if (akv_format_codebook(format) && (flags & AKV_FLAG_SEARCH))
        add(plan, " -DAKV_SEARCH");
}

static void add_pool(struct akv_cl_plan *plan, const akv_pool_map *pool)
{
    if (pool->slabs > 1)
        add(plan, " -DAKV_MANY_SLABS");
}

/* The one quantised format among the kinds, 0: none, AKV_FORMATS: several. */
static uint32_t only_format(const akv_u32 *formats)
{
    uint32_t only = 0;
    for (unsigned k = 0; k < AKV_KINDS; k++)
        if (formats[k] && !akv_format_raw(formats[k]))
            only = only == 0 || only == formats[k] ? formats[k] : AKV_FORMATS;
    return only;
}

/* No kind beyond 1 has a format. */
static bool two_kinds(const akv_u32 *formats)
{
    for (unsigned k = 2; k < AKV_KINDS; k++)
        if (formats[k])
            return false;
    return true;
}

static void add_map(struct akv_cl_plan *plan, uint32_t flags)
{
    if (flags & AKV_FLAG_MAP)
        add(plan, " -DAKV_MAP");
}

static void plan_seal(const struct akv_cl_device *device, const akv_seal_params *p, uint32_t side,
                      struct akv_cl_plan *plan)
{
    begin(plan, "quant", "akv_k_seal", "AKV_SEAL");
    add_format(device, plan, side ? p->v_format : p->k_format, side ? p->v_dim : p->k_dim,
               side ? p->v_flags : p->k_flags);
    if (side) {
        plan->pass = AKV_CL_PASS_VALUES;
        add(plan, " -DAKV_QUAD");
    }
    add_map(plan, side ? p->v_flags : p->k_flags);
    add_pool(plan, &p->pool);
}

/* One program serves all sources and head sizes: there would be too many, and it runs rarely.
 * Without AKV_FORMAT it copies. */
static void plan_reencode(const akv_reencode_params *p, uint32_t side, struct akv_cl_plan *plan)
{
    const uint32_t format = side ? p->v_format : p->k_format;
    begin(plan, "quant", "akv_k_reencode", "AKV_REENCODE");
    if (format != (side ? p->v_source : p->k_source)) {
        add(plan, " -DAKV_FORMAT=%u", format);
        if (akv_format_codebook(format) && ((side ? p->v_flags : p->k_flags) & AKV_FLAG_SEARCH))
            add(plan, " -DAKV_SEARCH");
    }
    if (side) {
        plan->pass = AKV_CL_PASS_VALUES;
        add(plan, " -DAKV_QUAD");
    }
    add_pool(plan, &p->pool);
}

static void plan_gather(const akv_gather_params *p, struct akv_cl_plan *plan)
{
    uint32_t only = only_format(p->format);
    begin(plan, "page", "akv_k_gather", "AKV_GATHER");
    if (only == 0)
        add(plan, " -DAKV_RAW_ONLY");
    else if (only < AKV_FORMATS)
        add(plan, " -DAKV_FORMAT=%u", only);
    add_dim(plan, p->dim);
    if (p->order == AKV_ORDER_QUAD)
        add(plan, " -DAKV_QUAD");
    if (two_kinds(p->format))
        add(plan, " -DAKV_TWO_KINDS");
    if (only != 0)
        add_map(plan, p->flags);
    add_pool(plan, &p->pool);
}

/* Work is split along a sequence into parts of at least LEAST positions, at most MOST of them, from
 * the sequence's own numbers alone (akv_attend_part). */
#define GPU_LEAST 1024u
#define GPU_MOST  64u
#define CPU_LEAST 1024u
#define CPU_MOST  8u
/* Where loops are short, parts are, however many that makes: a work-item turns up to 40 times a position
 * (head size 576; 16 times at 128). */
#define SHORT_LEAST 512u
#define SHORT_MOST  (1u << 30)

/* Formats whose codes stand for integers of 8 bits. */
static bool byte_codes(uint32_t format)
{
    return format == AKV_I8 || akv_format_codebook(format);
}

/* Does attend_one, where it runs, take integer products? */
static bool dot_rows(const struct akv_cl_device *device, const akv_attend_params *p)
{
    return device->dots && p->k_dim == p->v_dim && byte_codes(p->tiles.k_format[1]) &&
           byte_codes(p->tiles.v_format[1]) && !(p->flags & AKV_ATTEND_PRECISE);
}

/* Query rows of a work-group of attend_one, 0 where the general kernel takes every sequence. */
static uint32_t one_rows(const akv_attend_params *p, bool dot)
{
    const akv_tile_map *t = &p->tiles;
    if (!common_dim(p->k_dim) || !common_dim(p->v_dim) || !two_kinds(t->k_format) ||
        !two_kinds(t->v_format) || (p->flags & AKV_ATTEND_MASK) ||
        (!dot && ((p->k_flags | p->v_flags) & AKV_FLAG_MAP)))
        return 0;
    for (unsigned kind = 0; kind < 2; kind++)
        if (t->k_format[kind] == AKV_F32 || t->v_format[kind] == AKV_F32 ||
            t->k_format[kind] > AKV_N2 || t->v_format[kind] > AKV_N2)
            return 0;
    uint32_t repeat = p->q_heads / p->kv_heads, most = AKV_MAX(p->k_dim, p->v_dim) > 128 ? 2 : 4;
    return repeat == 1 ? 1 : repeat == 2 ? 2 : most;
}

struct akv_cl_attend akv_cl_attend_shape(const struct akv_cl_device *device,
                                         const akv_attend_params *p)
{
    struct akv_cl_attend shape;
    bool gpu = device->shape == AKV_CL_SHAPE_GPU;
    uint32_t widest = AKV_MAX(p->k_dim, p->v_dim);
    shape.least = device->short_loops ? SHORT_LEAST : gpu ? GPU_LEAST : CPU_LEAST;
    shape.most = device->short_loops ? SHORT_MOST : gpu ? GPU_MOST : CPU_MOST;
    shape.dot = gpu && dot_rows(device, p);
    shape.one = gpu ? one_rows(p, shape.dot) : 0;
    shape.rows = !gpu || widest <= 128 ? 4 : widest <= 256 ? 2 : 1;
    uint64_t longest = (uint64_t)p->max_length + p->max_tokens;
    uint64_t parts = AKV_MIN((uint64_t)shape.most, longest / shape.least + 1u);
    shape.slots =
        longest > shape.least ? (uint32_t)AKV_MIN((uint64_t)shape.most, parts * p->max_tokens) : 0;
    shape.slot_bytes = (2u + p->v_dim) * 4u * p->q_heads;
    return shape;
}

/* The CPU shape has one program for all; the GPU shape keeps rows in registers, so that head sizes
 * are fixed, and formats too for the common sizes. */
static uint32_t plan_attend(const struct akv_cl_device *device, const akv_attend_params *p,
                            struct akv_cl_plan *plans)
{
    const akv_tile_map *tiles = &p->tiles;
    struct akv_cl_attend shape = akv_cl_attend_shape(device, p);
    uint32_t count = 0;
    for (uint32_t one = 0; one <= (shape.one ? 1u : 0u); one++) {
        struct akv_cl_plan *plan = &plans[count++];
        begin(plan, "attend", one ? "akv_k_attend_one" : "akv_k_attend",
              one ? "AKV_ATTEND_ONE" : "AKV_ATTEND");
        plan->pass = one ? AKV_CL_PASS_ONE : AKV_CL_PASS_ROWS;
        add(plan, " -DAKV_ROWS=%u", one ? shape.one : shape.rows);
        if (!one && shape.one)
            add(plan, " -DAKV_NOT_ONE");
        if (one && shape.dot)
            add(plan, " -DAKV_DOT");
        if (one && p->block_tokens == 16)
            add(plan, " -DAKV_TOKENS=16");
        if (one && device->nv_options)
            add(plan, " -cl-nv-maxrregcount=128");
        add_map(plan, p->k_flags | p->v_flags);
        add_pool(plan, &p->pool);
        if (device->shape == AKV_CL_SHAPE_CPU)
            continue;
        add(plan, " -DAKV_KDIM=%u -DAKV_VDIM=%u", p->k_dim, p->v_dim);
        if (common_dim(p->k_dim) && common_dim(p->v_dim) && two_kinds(tiles->k_format))
            add(plan, " -DAKV_TWO_KINDS -DK0=%u -DK1=%u -DV0=%u -DV1=%u", tiles->k_format[0],
                tiles->k_format[1], tiles->v_format[0], tiles->v_format[1]);
    }
    if (shape.slots) {
        begin(&plans[count], "attend", "akv_k_combine", "AKV_COMBINE");
        plans[count++].pass = AKV_CL_PASS_COMBINE;
    }
    return count;
}

static void plan_evict(const char *entry, const char *option, const akv_pool_map *pool,
                       const akv_tile_map *tiles, struct akv_cl_plan *plan)
{
    begin(plan, "evict", entry, option);
    if (pool)
        add_pool(plan, pool);
    if (tiles && two_kinds(tiles->k_format))
        add(plan, " -DAKV_TWO_KINDS");
}

uint32_t akv_cl_plans(const struct akv_cl_device *device, enum akv_kernel_id kernel,
                      const void *params, struct akv_cl_plan plans[AKV_CL_PLANS])
{
    const akv_encode_params *encode = params;
    const akv_append_params *append = params;
    const akv_shift_params *shift = params;
    const akv_copy_params *copy = params;
    const akv_score_params *score = params;
    const akv_mass_params *mass = params;
    const akv_compact_params *compact = params;
    switch (kernel) {
    case AKV_K_ENCODE:
        begin(plans, "quant", "akv_k_encode", "AKV_ENCODE");
        add_format(device, plans, encode->format, encode->dim, encode->flags);
        add_map(plans, encode->flags);
        return 1;
    case AKV_K_DECODE:
        begin(plans, "quant", "akv_k_decode", "AKV_DECODE");
        add_format(device, plans, encode->format, encode->dim, encode->flags & AKV_FLAG_MAP);
        add_map(plans, encode->flags);
        return 1;
    case AKV_K_ROTATE:
        begin(plans, "quant", "akv_k_rotate", "AKV_ROTATION");
        return 1;
    case AKV_K_SEAL:
        plan_seal(device, params, 0, &plans[0]);
        plan_seal(device, params, 1, &plans[1]);
        return 2;
    case AKV_K_SHIFT:
        begin(plans, "quant", "akv_k_shift", "AKV_SHIFT");
        add_format(device, plans, shift->format, shift->dim, shift->flags);
        add_map(plans, shift->flags);
        add_pool(plans, &shift->pool);
        return 1;
    case AKV_K_REENCODE:
        plan_reencode(params, 0, &plans[0]);
        plan_reencode(params, 1, &plans[1]);
        return 2;
    case AKV_K_APPEND:
        begin(plans, "page", "akv_k_append", "AKV_APPEND");
        add_pool(plans, &append->pool);
        return 1;
    case AKV_K_GATHER:
        plan_gather(params, plans);
        return 1;
    case AKV_K_COPY:
        begin(plans, "page", "akv_k_copy", "AKV_COPY");
        add_pool(plans, &copy->pool);
        return 1;
    case AKV_K_ATTEND:
        return plan_attend(device, params, plans);
    case AKV_K_SCORE:
        plan_evict("akv_k_score", "AKV_SCORE", &score->pool, &score->tiles, plans);
        return 1;
    case AKV_K_MEAN:
        plan_evict("akv_k_mean", "AKV_MEAN", &score->pool, &score->tiles, plans);
        return 1;
    case AKV_K_MASS:
        plan_evict("akv_k_mass", "AKV_MASS", &mass->pool, &mass->tiles, plans);
        add_dim(plans, mass->k_dim);
        return 1;
    case AKV_K_SELECT:
        plan_evict("akv_k_select", "AKV_SELECT", NULL, NULL, plans);
        return 1;
    case AKV_K_COMPACT:
        plan_evict("akv_k_compact", "AKV_COMPACT", &compact->pool, NULL, plans);
        return 1;
    case AKV_K_BX16_COUNT:
        begin(plans, "compress", "akv_k_bx16_count", "AKV_COUNT");
        return 1;
    case AKV_K_BX16_ENCODE:
        begin(&plans[0], "compress", "akv_k_bx16_pieces", "AKV_PIECES");
        begin(&plans[1], "compress", "akv_k_bx16_records", "AKV_RECORDS");
        begin(&plans[2], "compress", "akv_k_bx16_escapes", "AKV_ESCAPES");
        plans[0].pass = plans[2].pass = AKV_CL_PASS_PIECES;
        plans[1].pass = AKV_CL_PASS_RECORDS;
        return 3;
    case AKV_K_BX16_DECODE:
        begin(plans, "compress", "akv_k_bx16_decode", "AKV_MERGE");
        plans->pass = AKV_CL_PASS_PIECES;
        return 1;
    case AKV_K_RANS_COUNT:
        begin(plans, "rans", "akv_k_rans_count", "AKV_COUNT");
        return 1;
    case AKV_K_RANS_ENCODE:
        begin(&plans[0], "rans", "akv_k_rans_segments", "AKV_SEGMENTS");
        begin(&plans[1], "rans", "akv_k_rans_records", "AKV_RECORDS");
        begin(&plans[2], "rans", "akv_k_rans_move", "AKV_MOVE");
        plans[0].pass = AKV_CL_PASS_LANES;
        plans[1].pass = AKV_CL_PASS_RECORDS;
        plans[2].pass = AKV_CL_PASS_PIECES;
        return 3;
    case AKV_K_RANS_DECODE:
        begin(plans, "rans", "akv_k_rans_decode", "AKV_DECODE");
        plans->pass = AKV_CL_PASS_LANES;
        return 1;
    case AKV_K_LOWRANK_PROJECT:
        begin(plans, "lowrank", "akv_k_lowrank_project", "AKV_PROJECT");
        return 1;
    case AKV_K_LOWRANK_READ:
        begin(plans, "lowrank", "akv_k_lowrank_read", "AKV_READ");
        return 1;
    case AKV_K_LOWRANK_ROWS:
        begin(plans, "lowrank", "akv_k_lowrank_rows", "AKV_ROWS_OUT");
        return 1;
    case AKV_K_MULTIPLY:
        begin(plans, "lowrank", "akv_k_multiply", "AKV_MULTIPLY");
        return 1;
    case AKV_KERNEL_COUNT:
        break;
    }
    return 0;
}
