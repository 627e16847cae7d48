/* SPDX-License-Identifier: Apache-2.0 */
/* check, prepare, launch: kernel objects of a queue, their arguments, their grids. */
#include "cl.h"
#include "../../kernels-cl/shape.h"
#include "../../lib/kernel/rans.h"
#include <stdio.h>

/* Every kernel: its parameters by value, up to 8 spans, up to 8 slabs, a few numbers; OpenCL grants
 * 1024 bytes. */
#define AKV_KERNEL(ID, family, name, class_, arguments)                                            \
    _Static_assert(sizeof(akv_##name##_params) + 16 * (arguments) + 16 * AKV_MAX_SLABS + 16 <=     \
                       1024,                                                                       \
                   #name " has too many bytes of parameters for OpenCL");
#include "../../lib/kernel/kernels.def"
#undef AKV_KERNEL

void akv_cl_kernel_check(struct akv_device *base, enum akv_kernel_id kernel, const void *params,
                         struct akv_check *check_out)
{
    check_out->supported = true;
    check_out->class_ = akv_kernels[kernel].class_;
    check_out->scratch_bytes = 0;
    check_out->reason = NULL;
    if (kernel == AKV_K_ATTEND) {
        const akv_attend_params *p = params;
        struct akv_cl_attend shape = akv_cl_attend_shape(akv_cl_device(base), p);
        check_out->scratch_bytes = (uint64_t)shape.slots * shape.slot_bytes * p->max_sequences;
    }
}

anykv_status akv_cl_kernel_prepare(struct akv_device *base, enum akv_kernel_id kernel,
                                   const void *params)
{
    struct akv_cl_plan plans[AKV_CL_PLANS];
    uint32_t count = akv_cl_plans(akv_cl_device(base), kernel, params, plans);
    for (uint32_t i = 0; i < count; i++) {
        struct akv_cl_program *program;
        anykv_status status =
            akv_cl_program(akv_cl_device(base), plans[i].source, plans[i].options, &program);
        if (status != ANYKV_OK)
            return status;
    }
    return ANYKV_OK;
}

/* ---- arguments ---- */

struct binder {
    const struct akv_cl *cl;
    cl_kernel kernel;
    cl_uint next;
    cl_int code;
};

static void bind(struct binder *binder, size_t bytes, const void *value)
{
    if (binder->code == CL_SUCCESS)
        binder->code = binder->cl->set_arg(binder->kernel, binder->next++, bytes, value);
}

static void bind_u32(struct binder *binder, uint32_t value)
{
    bind(binder, sizeof value, &value);
}

/* The buffer, and the offset in it.  An absent span binds `instead`, which the kernel leaves alone.
 */
static void bind_span(struct binder *binder, const struct akv_span *span,
                      const struct akv_span *instead)
{
    const struct akv_span *bound = span->mem ? span : instead;
    cl_ulong offset = bound->offset;
    bind(binder, sizeof(cl_mem), &akv_cl_mem(bound->mem)->buffer);
    bind(binder, sizeof offset, &offset);
}

/* All eight slabs where there are several: absent ones repeat the first and are never named. */
static void bind_slabs(struct binder *binder, const struct akv_launch *launch,
                       const akv_pool_map *pool)
{
    uint32_t count = pool->slabs > 1 ? AKV_MAX_SLABS : 1;
    for (uint32_t i = 0; i < count; i++)
        bind_span(binder, &launch->slab[i < launch->slabs ? i : 0], &launch->slab[0]);
}

/* Rows whose every group begins at a multiple of 16 bytes. */
static uint32_t wide(const struct akv_span *span, const akv_rows *rows)
{
    uint64_t each = akv_raw_bytes(rows->dtype);
    return ((span->offset | rows->token_stride * each | rows->head_stride * each) & 15u) == 0;
}

/* Kernel object of this queue.  Caller holds the queue's lock. */
static anykv_status find_kernel(struct akv_cl_device *device, struct akv_cl_queue *queue,
                                const struct akv_cl_program *program, const char *entry,
                                cl_kernel *kernel_out)
{
    for (struct akv_cl_kernel *known = queue->kernels; known; known = known->next)
        if (known->program == program) {
            *kernel_out = known->kernel;
            return ANYKV_OK;
        }
    struct akv_cl_kernel *fresh = akv_alloc(device->base.context, 1, sizeof *fresh);
    if (!fresh)
        return ANYKV_E_MEMORY;
    cl_int code;
    fresh->kernel = device->cl->create_kernel(program->program, entry, &code);
    if (code != CL_SUCCESS) {
        akv_free(device->base.context, fresh);
        return akv_cl_device_fail(device, AKV_CL_CALL, entry, code);
    }
    fresh->program = program;
    fresh->next = queue->kernels;
    queue->kernels = fresh;
    *kernel_out = fresh->kernel;
    return ANYKV_OK;
}

/* ---- one kernel each: arguments after the spans, grid in work-groups ---- */

struct grid {
    uint64_t groups[3];
};

static uint64_t row_groups(const struct akv_cl_device *device, uint64_t rows, uint32_t dim,
                           uint32_t flags, bool quad)
{
    uint32_t each = flags & AKV_FLAG_MAP ? AKV_CL_MAP_ROWS : AKV_CL_ROWS;
    if (device->shape == AKV_CL_SHAPE_GPU) {
        each = AKV_CL_WG / (akv_padded_dim(dim) / 32u);
        each = quad ? each & ~3u : each;
    }
    return (rows + each - 1) / each;
}

static struct grid attend_grid(const struct akv_cl_attend *shape, const akv_attend_params *p, bool one)
{
    uint32_t repeat = p->q_heads / p->kv_heads;
    uint64_t most = 0;
    uint32_t tokens = p->bound_seq_tokens ? p->bound_seq_tokens : p->max_tokens;
    uint64_t length = p->bound_length ? p->bound_length : (uint64_t)p->max_length + p->max_tokens;
    uint32_t sequences = p->bound_sequences ? p->bound_sequences : p->max_sequences;
    if (one) {
        uint64_t parts = AKV_MIN((uint64_t)shape->most, length / shape->least + 1u);
        return (struct grid){
            {(repeat + shape->one - 1) / shape->one * parts, p->kv_heads, sequences}};
    }
    /* Tiles of query rows times parts, for the worst number of new tokens up to the bound. */
    for (uint32_t count = 1; count <= AKV_MIN(tokens, shape->most); count++) {
        uint64_t parts = AKV_MIN((uint64_t)shape->most / count, length / shape->least + 1u);
        uint64_t tiles = ((uint64_t)count * repeat + shape->rows - 1) / shape->rows;
        most = AKV_MAX(most, tiles * AKV_MAX(parts, 1u));
    }
    most = AKV_MAX(most, ((uint64_t)tokens * repeat + shape->rows - 1) / shape->rows);
    return (struct grid){{most, p->kv_heads, sequences}};
}

static anykv_status bind_rest(const struct akv_cl_device *device, const struct akv_launch *launch,
                              enum akv_cl_pass pass, struct binder *binder, struct grid *grid)
{
    const struct akv_span *arg = launch->arg;
    bind(binder, akv_kernels[launch->kernel].params_bytes, launch->params);
    switch (launch->kernel) {
    case AKV_K_ENCODE:
    case AKV_K_DECODE: {
        const akv_encode_params *p = launch->params;
        bind_u32(binder, wide(&arg[launch->kernel == AKV_K_DECODE], &p->rows));
        grid->groups[0] = row_groups(device, (uint64_t)p->tokens * p->rows.heads, p->dim, p->flags, false);
        return ANYKV_OK;
    }
    case AKV_K_ROTATE: {
        const akv_rotate_params *p = launch->params;
        grid->groups[0] = row_groups(device, p->rows, p->dim, 0, false);
        return ANYKV_OK;
    }
    case AKV_K_SEAL: {
        const akv_seal_params *p = launch->params;
        bind_u32(binder, pass == AKV_CL_PASS_VALUES);
        bind_u32(binder, 1);
        grid->groups[0] =
            row_groups(device, (uint64_t)p->moves * p->layers * p->kv_heads * p->block_tokens,
                       pass == AKV_CL_PASS_VALUES ? p->v_dim : p->k_dim,
                       pass == AKV_CL_PASS_VALUES ? p->v_flags : p->k_flags,
                       pass == AKV_CL_PASS_VALUES);
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_REENCODE: {
        const akv_reencode_params *p = launch->params;
        bind_u32(binder, pass == AKV_CL_PASS_VALUES);
        grid->groups[0] =
            row_groups(device, (uint64_t)p->moves * p->layers * p->kv_heads * p->block_tokens,
                       pass == AKV_CL_PASS_VALUES ? p->v_dim : p->k_dim, 0,
                       pass == AKV_CL_PASS_VALUES);
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_SHIFT: {
        const akv_shift_params *p = launch->params;
        grid->groups[0] =
            row_groups(device, (uint64_t)p->blocks * p->kv_heads * p->block_tokens, p->dim, p->flags, false);
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_APPEND: {
        const akv_append_params *p = launch->params;
        bind_u32(binder, wide(&arg[1], &p->k) & wide(&arg[2], &p->v));
        grid->groups[0] = p->max_tokens;
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_GATHER: {
        const akv_gather_params *p = launch->params;
        bind_u32(binder, wide(&arg[1], &p->rows));
        grid->groups[0] = row_groups(device, (uint64_t)p->tokens * p->rows.heads, p->dim, p->flags, false);
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_COPY: {
        const akv_copy_params *p = launch->params;
        grid->groups[0] = (p->bytes + (uint64_t)AKV_CL_PIECE - 1) / AKV_CL_PIECE;
        grid->groups[1] = p->moves;
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_ATTEND: {
        const akv_attend_params *p = launch->params;
        struct akv_cl_attend shape = akv_cl_attend_shape(device, p);
        bind_u32(binder, shape.least);
        bind_u32(binder, shape.most);
        bind_u32(binder, shape.slots);
        if (pass != AKV_CL_PASS_COMBINE) {
            *grid = attend_grid(&shape, p, pass == AKV_CL_PASS_ONE);
            bind_slabs(binder, launch, &p->pool);
            return ANYKV_OK;
        }
        uint32_t tokens =
            AKV_MIN(p->max_tokens, (p->bound_seq_tokens ? p->bound_seq_tokens : p->max_tokens));
        /* Only sequences of several parts are combined, and those have few new tokens. */
        grid->groups[0] = AKV_MIN(tokens, shape.most / 2u);
        grid->groups[1] = p->q_heads;
        grid->groups[2] = p->bound_sequences ? p->bound_sequences : p->max_sequences;
        return ANYKV_OK;
    }
    case AKV_K_SCORE:
    case AKV_K_MEAN: {
        const akv_score_params *p = launch->params;
        uint64_t each = device->shape == AKV_CL_SHAPE_GPU ? AKV_CL_WG : AKV_CL_ROWS;
        grid->groups[0] = launch->kernel == AKV_K_MEAN
                              ? (p->rows + (uint64_t)AKV_MEAN_ROWS - 1) / AKV_MEAN_ROWS * p->kv_heads
                              : ((uint64_t)p->rows * p->kv_heads + each - 1) / each;
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_MASS: {
        const akv_mass_params *p = launch->params;
        uint64_t each = device->shape == AKV_CL_SHAPE_GPU ? AKV_CL_WG : AKV_CL_ROWS;
        grid->groups[0] = ((uint64_t)p->rows * p->kv_heads + each - 1) / each;
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_SELECT: {
        const akv_select_params *p = launch->params;
        grid->groups[0] = (uint64_t)p->problems * (p->flags & AKV_SELECT_ADAPTIVE ? 1 : p->heads);
        return ANYKV_OK;
    }
    case AKV_K_COMPACT: {
        const akv_compact_params *p = launch->params;
        grid->groups[0] = 2u * (uint64_t)p->kv_heads;
        grid->groups[1] = p->in_place ? 1 : p->to_blocks;
        grid->groups[2] = AKV_CL_COMPACT_PARTS + 1u;
        bind_slabs(binder, launch, &p->pool);
        return ANYKV_OK;
    }
    case AKV_K_BX16_COUNT:
    case AKV_K_BX16_ENCODE:
    case AKV_K_BX16_DECODE: {
        const akv_bx16_params *p = launch->params;
        uint32_t pieces = akv_bx16_pieces(p->elements);
        grid->groups[0] = pass == AKV_CL_PASS_RECORDS  ? 1u
                          : pass == AKV_CL_PASS_PIECES ? pieces
                                                       : (pieces + AKV_CL_COUNT_PIECES - 1u) / AKV_CL_COUNT_PIECES;
        return ANYKV_OK;
    }
    case AKV_K_RANS_COUNT:
    case AKV_K_RANS_ENCODE:
    case AKV_K_RANS_DECODE: {
        const akv_rans_params *p = launch->params;
        const uint32_t each = device->shape == AKV_CL_SHAPE_GPU ? AKV_CL_SEGMENTS : 1u;
        const uint32_t parts = (akv_rans_stripe_steps(p) + AKV_RANS_COUNTED - 1u) / AKV_RANS_COUNTED;
        grid->groups[0] = pass == AKV_CL_PASS_RECORDS  ? 1u
                          : pass == AKV_CL_PASS_PIECES ? akv_rans_segments(p)
                          : pass == AKV_CL_PASS_LANES  ? (akv_rans_segments(p) + each - 1u) / each
                                                       : (uint64_t)akv_rans_stripes(p) * parts;
        return ANYKV_OK;
    }
    case AKV_K_LOWRANK_PROJECT: {
        const akv_lowrank_params *p = launch->params;
        bind_u32(binder, arg[2].mem != NULL);
        grid->groups[0] = ((uint64_t)p->tokens + AKV_CL_LOW_ROWS - 1) / AKV_CL_LOW_ROWS * p->heads;
        return ANYKV_OK;
    }
    case AKV_K_LOWRANK_READ:
    case AKV_K_LOWRANK_ROWS: {
        const akv_lowrank_params *p = launch->params;
        const bool rows = launch->kernel == AKV_K_LOWRANK_ROWS;
        if (rows)
            bind_u32(binder, arg[1].mem != NULL);
        grid->groups[0] = ((uint64_t)p->tokens * p->heads * (rows ? p->dim - p->pairs : p->dim) + AKV_CL_LOW_UNITS - 1) /
                          AKV_CL_LOW_UNITS;
        return ANYKV_OK;
    }
    case AKV_K_MULTIPLY: {
        const akv_multiply_params *p = launch->params;
        const uint32_t each = device->shape == AKV_CL_SHAPE_GPU ? AKV_CL_WG : AKV_CL_LOW_COLUMNS;
        grid->groups[0] = ((uint64_t)p->n + each - 1) / each;
        grid->groups[1] = ((uint64_t)p->m + AKV_CL_LOW_ROWS - 1) / AKV_CL_LOW_ROWS;
        grid->groups[2] = p->batch;
        return ANYKV_OK;
    }
    case AKV_KERNEL_COUNT:
        break;
    }
    return akv_fail(device->base.context, ANYKV_E_INTERNAL, "launch.kernel: %d",
                    (int)launch->kernel);
}

/* One pass: binds and enqueues.  Caller holds the queue's lock. */
static anykv_status run_pass(struct akv_cl_device *device, struct akv_cl_queue *queue,
                             const struct akv_launch *launch, const struct akv_cl_plan *plan,
                             const struct akv_cl_program *program)
{
    const char *entry = plan->entry;
    struct binder binder = {device->cl, NULL, 0, CL_SUCCESS};
    struct grid grid = {{1, 1, 1}};
    anykv_status status = find_kernel(device, queue, program, entry, &binder.kernel);
    if (status != ANYKV_OK)
        return status;
    for (uint32_t i = 0; i < akv_kernels[launch->kernel].arguments; i++)
        bind_span(&binder, &launch->arg[i], &launch->arg[0]);
    status = bind_rest(device, launch, plan->pass, &binder, &grid);
    if (status != ANYKV_OK)
        return status;
    if (binder.code != CL_SUCCESS)
        return akv_fail(device->base.context, ANYKV_E_DEVICE, "%s: argument %u: %s (%d)", entry,
                        binder.next - 1, akv_cl_error_name(binder.code), binder.code);
    size_t local[3] = {device->shape == AKV_CL_SHAPE_GPU ? AKV_CL_WG : 1, 1, 1};
    size_t global[3] = {(size_t)grid.groups[0] * local[0], (size_t)grid.groups[1],
                        (size_t)grid.groups[2]};
    cl_int code = device->cl->enqueue_kernel(queue->queue, binder.kernel, 3, NULL, global, local, 0,
                                             NULL, NULL);
    return code == CL_SUCCESS ? ANYKV_OK : akv_cl_device_fail(device, AKV_CL_CALL, entry, code);
}

/* Pinned memory stays mapped for the host, so a kernel must not have it. */
static anykv_status refuse_pinned(const struct akv_launch *launch, anykv_context *context)
{
    for (uint32_t i = 0; i < akv_kernels[launch->kernel].arguments; i++)
        if (launch->arg[i].mem && akv_cl_mem(launch->arg[i].mem)->map)
            return akv_fail(context, ANYKV_E_ARG,
                            "launch.arg %u: pinned memory is mapped by the host", i);
    return ANYKV_OK;
}

/* The general pass of an attention in which every sequence has one new token and another pass takes
 * those. */
static bool idle_pass(const struct akv_launch *launch, const struct akv_cl_plan *plans, uint32_t i)
{
    return plans[i].pass == AKV_CL_PASS_ROWS && plans[i + 1].pass == AKV_CL_PASS_ONE &&
           ((const akv_attend_params *)launch->params)->bound_seq_tokens == 1u;
}

anykv_status akv_cl_kernel_launch(struct akv_queue *base, const struct akv_launch *launch)
{
    struct akv_cl_queue *queue = akv_cl_queue(base);
    struct akv_cl_device *device = akv_cl_device(base->device);
    struct akv_cl_plan plans[AKV_CL_PLANS + 1] = {{0}};
    struct akv_cl_program *programs[AKV_CL_PLANS];
    anykv_status status = refuse_pinned(launch, device->base.context);
    if (status == ANYKV_OK && launch->kernel == AKV_K_MULTIPLY) {
        akv_mutex_lock(&queue->lock);
        const bool done = akv_cl_dense_multiply(device, queue, launch);
        akv_mutex_unlock(&queue->lock);
        if (done)
            return ANYKV_OK;
    }
    uint32_t count = akv_cl_plans(device, launch->kernel, launch->params, plans);
    for (uint32_t i = 0; i < count && status == ANYKV_OK; i++)
        status = akv_cl_program(device, plans[i].source, plans[i].options, &programs[i]);
    if (status != ANYKV_OK)
        return status;
    akv_mutex_lock(&queue->lock);
    for (uint32_t i = 0; i < count && status == ANYKV_OK; i++)
        if (!idle_pass(launch, plans, i))
            status = run_pass(device, queue, launch, &plans[i], programs[i]);
    akv_mutex_unlock(&queue->lock);
    return status;
}
