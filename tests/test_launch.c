/* SPDX-License-Identifier: Apache-2.0 */
/* Launches: one good launch of every kernel, and each thing that can be wrong with it, one at a
 * time. */
#include "../lib/kernel/rans.h"
#include "house.h"
#include <math.h>

enum { DIM = 64, TOKENS = 4, HEADS = 2, BLOCK = 16, CHUNK = 1 << 16, SLABS = 2, ROOM = 1 << 20 };

union params {
    akv_encode_params encode;
    akv_rotate_params rotate;
    akv_seal_params seal;
    akv_append_params append;
    akv_gather_params gather;
    akv_copy_params copy;
    akv_attend_params attend;
    akv_reencode_params reencode;
    akv_shift_params shift;
    akv_score_params score;
    akv_mass_params mass;
    akv_select_params select;
    akv_compact_params compact;
    akv_bx16_params bx16;
    akv_rans_params rans;
    akv_lowrank_params lowrank;
    akv_multiply_params multiply;
};

struct lab {
    anykv_context *context;
    anykv_device *device;
    struct akv_mem *slab[SLABS];
    struct akv_mem *room; /* arguments are cut from it one after the other */
    uint64_t used;
    union params params;
    struct akv_launch launch;
};

static struct akv_span cut(struct lab *lab, uint64_t bytes)
{
    struct akv_span span = {lab->room, lab->used, bytes};
    lab->used += (bytes + 255) & ~(uint64_t)255;
    cr_assert(lab->used <= ROOM);
    return span;
}

static akv_pool_map pool_map(void)
{
    akv_pool_map map = {.chunk_bytes = CHUNK, .chunks_per_slab = 2, .slabs = SLABS};
    map.block_bytes[0] = 2 * HEADS * BLOCK * DIM * 2;
    map.blocks_per_chunk[0] = CHUNK / map.block_bytes[0];
    map.block_bytes[1] = 2 * HEADS * akv_tile_bytes(AKV_N4, BLOCK, DIM);
    map.blocks_per_chunk[1] = CHUNK / map.block_bytes[1];
    return map;
}

static akv_rows dense(akv_u32 dtype, akv_u32 heads)
{
    akv_rows rows = {(akv_u64)heads * DIM, DIM, dtype, heads};
    return rows;
}

/* One sequence whose TOKENS new tokens go to block 0. */
static void put_descriptor(struct lab *lab, struct akv_span span)
{
    struct {
        akv_step_head head;
        akv_step_seq seq;
        akv_u32 token[TOKENS], table[4];
    } step = {.head = {.sequences = 1,
                       .tokens = TOKENS,
                       .block_tokens = BLOCK,
                       .table_entries = 1,
                       .max_tokens = TOKENS}};
    step.head.seq_offset = (akv_u32)((char *)&step.seq - (char *)&step);
    step.head.token_offset = (akv_u32)((char *)step.token - (char *)&step);
    step.head.table_offset = (akv_u32)((char *)step.table - (char *)&step);
    step.seq.tokens = TOKENS;
    step.seq.table_count = 1;
    span.bytes = sizeof step;
    OK(akv_queue_put(lab->device->queue, span, &step));
}

static void seal_base(struct lab *lab)
{
    akv_u32 raw = akv_tile_bytes(AKV_F16, BLOCK, DIM), packed = akv_tile_bytes(AKV_N4, BLOCK, DIM);
    lab->params.seal = (akv_seal_params){.pool = pool_map(),
                                         .moves = 1,
                                         .layers = 1,
                                         .kv_heads = HEADS,
                                         .block_tokens = BLOCK,
                                         .k_dim = DIM,
                                         .v_dim = DIM,
                                         .hot_type = AKV_F16,
                                         .k_format = AKV_N4,
                                         .v_format = AKV_N4,
                                         .k_flags = AKV_FLAG_ROTATE,
                                         .v_flags = AKV_FLAG_SEARCH};
    akv_seal_layer layer = {0, HEADS * raw, 0, HEADS * packed, 0, 0};
    akv_move move = {0, CHUNK, 0, 0};
    lab->launch.arg[0] = cut(lab, sizeof layer);
    lab->launch.arg[1] = cut(lab, sizeof move);
    lab->launch.arg[2] = cut(lab, 4);
    OK(akv_queue_put(lab->device->queue, lab->launch.arg[0], &layer));
    OK(akv_queue_put(lab->device->queue, lab->launch.arg[1], &move));
}

static void reencode_base(struct lab *lab)
{
    akv_u32 from = akv_tile_bytes(AKV_N4, BLOCK, DIM), to = akv_tile_bytes(AKV_N2, BLOCK, DIM);
    lab->params.reencode = (akv_reencode_params){.pool = pool_map(),
                                                 .moves = 1,
                                                 .layers = 1,
                                                 .kv_heads = HEADS,
                                                 .block_tokens = BLOCK,
                                                 .k_dim = DIM,
                                                 .v_dim = DIM,
                                                 .k_source = AKV_N4,
                                                 .v_source = AKV_N4,
                                                 .k_format = AKV_N2,
                                                 .v_format = AKV_N4,
                                                 .k_flags = AKV_FLAG_SEARCH};
    akv_seal_layer layer = {.src_v = HEADS * from, .dst_v = HEADS * to};
    akv_move move = {.dst = CHUNK};
    lab->launch.arg[0] = cut(lab, sizeof layer);
    lab->launch.arg[1] = cut(lab, sizeof move);
    lab->launch.arg[2] = cut(lab, 4);
    OK(akv_queue_put(lab->device->queue, lab->launch.arg[0], &layer));
    OK(akv_queue_put(lab->device->queue, lab->launch.arg[1], &move));
}

static void attend_base(struct lab *lab)
{
    akv_u32 raw = akv_tile_bytes(AKV_F16, BLOCK, DIM), packed = akv_tile_bytes(AKV_N4, BLOCK, DIM);
    akv_attend_params *p = &lab->params.attend;
    *p = (akv_attend_params){.pool = pool_map(),
                             .kv_heads = HEADS,
                             .q_heads = 2 * HEADS,
                             .k_dim = DIM,
                             .v_dim = DIM,
                             .scale = 0.125f,
                             .max_tokens = TOKENS,
                             .max_sequences = 1,
                             .max_length = 64};
    p->q = p->out = dense(AKV_F32, 2 * HEADS);
    p->tiles.k_format[0] = p->tiles.v_format[0] = AKV_F16;
    p->tiles.v_offset[0] = HEADS * raw;
    p->tiles.k_format[1] = p->tiles.v_format[1] = AKV_N4;
    p->tiles.v_offset[1] = HEADS * packed;
    struct akv_check check;
    akv_kernel_check(lab->device->device, AKV_K_ATTEND, p, &check);
    cr_assert(check.supported, "%s: %s", check.reason, anykv_error_detail());
    cr_assert(check.class_ == AKV_CLASS_BOUNDED);
    lab->launch.arg[0] = cut(lab, 1024);
    put_descriptor(lab, lab->launch.arg[0]);
    lab->launch.arg[1] = cut(lab, TOKENS * 2 * HEADS * DIM * 4);
    lab->launch.arg[2] = cut(lab, TOKENS * 2 * HEADS * DIM * 4);
    lab->launch.arg[6] = cut(lab, check.scratch_bytes + 16);
    lab->launch.arg[6].bytes = check.scratch_bytes;
}

/* One block of F16 rows, all of which are scored, selected among, or moved to a second block. */
static void evict_base(struct lab *lab, enum akv_kernel_id kernel)
{
    struct akv_span *arg = lab->launch.arg;
    akv_u32 raw = akv_tile_bytes(AKV_F16, BLOCK, DIM);
    akv_tile_map tiles = {.k_format = {AKV_F16, AKV_N4}, .v_format = {AKV_F16, AKV_N4}};
    tiles.v_offset[0] = HEADS * raw;
    tiles.v_offset[1] = HEADS * akv_tile_bytes(AKV_N4, BLOCK, DIM);
    if (kernel == AKV_K_SCORE || kernel == AKV_K_MEAN) {
        lab->params.score = (akv_score_params){.pool = pool_map(),
                                               .tiles = tiles,
                                               .kv_heads = HEADS,
                                               .k_dim = DIM,
                                               .v_dim = DIM,
                                               .block_tokens = BLOCK,
                                               .blocks = 1,
                                               .rows = BLOCK,
                                               .stride = BLOCK,
                                               .method = AKV_SCORE_AFFINE};
        arg[0] = cut(lab, 4);
        arg[1] = cut(lab, (2 * HEADS * DIM + (kernel == AKV_K_SCORE ? HEADS : 0)) * 4);
        if (kernel == AKV_K_SCORE)
            arg[2] = cut(lab, HEADS * BLOCK * 4);
    } else if (kernel == AKV_K_MASS) {
        lab->params.mass = (akv_mass_params){.pool = pool_map(),
                                             .tiles = tiles,
                                             .kv_heads = HEADS,
                                             .q_heads = HEADS,
                                             .k_dim = DIM,
                                             .block_tokens = BLOCK,
                                             .blocks = 1,
                                             .rows = BLOCK,
                                             .stride = BLOCK,
                                             .queries = 1,
                                             .scale = 0.125f};
        arg[0] = cut(lab, 4);
        arg[1] = cut(lab, 2 * HEADS * DIM * 4);
        arg[2] = cut(lab, HEADS * 4);
        arg[3] = cut(lab, 4);
        arg[4] = cut(lab, HEADS * BLOCK * 4);
    } else if (kernel == AKV_K_SELECT) {
        lab->params.select = (akv_select_params){.problems = 1,
                                                 .heads = HEADS,
                                                 .rows = BLOCK,
                                                 .stride = BLOCK,
                                                 .first = 2,
                                                 .last = BLOCK - 2,
                                                 .unit = 1,
                                                 .pool = 1,
                                                 .keep = 3};
        arg[0] = cut(lab, HEADS * BLOCK * 4);
        arg[1] = cut(lab, HEADS * BLOCK * 4);
        arg[2] = cut(lab, HEADS * 4);
    } else {
        lab->params.compact = (akv_compact_params){.pool = pool_map(),
                                                   .kv_heads = HEADS,
                                                   .block_tokens = BLOCK,
                                                   .dim = {DIM, DIM},
                                                   .format = {AKV_F16, AKV_F16},
                                                   .offset = {0, HEADS * raw},
                                                   .from_blocks = 1,
                                                   .to_blocks = 1,
                                                   .stride = BLOCK,
                                                   .in_place = 1};
        arg[0] = cut(lab, 4);
        arg[1] = cut(lab, 4);
        arg[2] = cut(lab, HEADS * BLOCK * 4);
        arg[3] = cut(lab, HEADS * 4);
    }
}

static void make(struct lab *lab, enum akv_kernel_id kernel)
{
    akv_u32 tile = akv_tile_bytes(AKV_N4, TOKENS * HEADS, DIM);
    lab->used = 0;
    OK(akv_queue_fill(lab->device->queue, (struct akv_span){lab->room, 0, ROOM / 8}, 0));
    memset(&lab->params, 0, sizeof lab->params);
    lab->launch = (struct akv_launch){.kernel = kernel, .params = &lab->params};
    struct akv_span *arg = lab->launch.arg;
    for (unsigned i = 0; i < SLABS; i++)
        lab->launch.slab[i] = (struct akv_span){lab->slab[i], 0, 2 * CHUNK};
    switch (kernel) {
    case AKV_K_ENCODE:
    case AKV_K_DECODE:
        lab->params.encode =
            (akv_encode_params){dense(AKV_F16, HEADS), TOKENS, DIM, AKV_N4, AKV_FLAG_ROTATE, 0, 0};
        arg[kernel == AKV_K_DECODE] = cut(lab, TOKENS * HEADS * DIM * 2);
        arg[kernel == AKV_K_ENCODE] = cut(lab, tile);
        if (kernel == AKV_K_ENCODE)
            arg[2] = cut(lab, 4);
        break;
    case AKV_K_ROTATE:
        lab->params.rotate = (akv_rotate_params){3, DIM, AKV_FLAG_ROTATE, 0};
        arg[0] = cut(lab, 3 * DIM * 4);
        arg[1] = cut(lab, 3 * DIM * 4);
        break;
    case AKV_K_SEAL:
        seal_base(lab);
        break;
    case AKV_K_APPEND:
        lab->params.append = (akv_append_params){.pool = pool_map(),
                                                 .k_dim = DIM,
                                                 .v_dim = DIM,
                                                 .hot_type = AKV_F16,
                                                 .max_tokens = TOKENS};
        lab->params.append.k = lab->params.append.v = dense(AKV_F32, HEADS);
        lab->params.append.v_offset = HEADS * BLOCK * DIM * 2;
        arg[0] = cut(lab, 1024);
        put_descriptor(lab, arg[0]);
        arg[1] = cut(lab, TOKENS * HEADS * DIM * 4);
        arg[2] = cut(lab, TOKENS * HEADS * DIM * 4);
        break;
    case AKV_K_GATHER:
        lab->params.gather = (akv_gather_params){.pool = pool_map(),
                                                 .dim = DIM,
                                                 .blocks = 2,
                                                 .block_tokens = BLOCK,
                                                 .first_row = 3,
                                                 .tokens = 20};
        lab->params.gather.rows = dense(AKV_F32, HEADS);
        lab->params.gather.format[0] = AKV_F16;
        lab->params.gather.format[1] = AKV_N4;
        arg[0] = cut(lab, 8);
        arg[1] = cut(lab, 20 * HEADS * DIM * 4);
        break;
    case AKV_K_COPY:
        lab->params.copy = (akv_copy_params){
            .pool = pool_map(), .moves = 1, .bytes = 4096, .direction = AKV_COPY_POOL_LINEAR};
        arg[0] = cut(lab, sizeof(akv_move));
        arg[1] = cut(lab, 4096);
        break;
    case AKV_K_ATTEND:
        attend_base(lab);
        break;
    case AKV_K_REENCODE:
        reencode_base(lab);
        break;
    case AKV_K_SHIFT:
        lab->params.shift = (akv_shift_params){.pool = pool_map(),
                                               .blocks = 1,
                                               .kind = 0,
                                               .format = AKV_F16,
                                               .kv_heads = HEADS,
                                               .block_tokens = BLOCK,
                                               .dim = DIM,
                                               .pairs = DIM / 2};
        arg[0] = cut(lab, 4); /* zeros: the first block of kind 0 */
        arg[1] = cut(lab, 4);
        arg[3] = cut(lab, DIM / 2 * 8);
        break;
    case AKV_K_SCORE:
    case AKV_K_MEAN:
    case AKV_K_MASS:
    case AKV_K_SELECT:
    case AKV_K_COMPACT:
        evict_base(lab, kernel);
        break;
    case AKV_K_BX16_COUNT:
    case AKV_K_BX16_ENCODE:
    case AKV_K_BX16_DECODE: /* zeros: their exponent is the table's first */
        lab->params.bx16 = (akv_bx16_params){
            .elements = 1100, .table = {0x03020100, 0x07060504, 0x0B0A0908, 0x0F0E0D0C}};
        arg[kernel == AKV_K_BX16_DECODE] = cut(lab, 1100 * 2);
        arg[kernel != AKV_K_BX16_DECODE] =
            cut(lab, kernel == AKV_K_BX16_COUNT ? 256 * 4 : akv_bx16_bytes(1100, 0));
        if (kernel == AKV_K_BX16_DECODE)
            arg[2] = cut(lab, 4);
        break;
    case AKV_K_RANS_COUNT:
    case AKV_K_RANS_ENCODE:
    case AKV_K_RANS_DECODE: { /* zeros: a body of one segment that is damaged, a table without frequencies */
        lab->params.rans = (akv_rans_params){.plane = {{.bits = 4, .tile = 512, .step = 8, .group = 1, .word = 2}},
                                             .heads = 1, .groups = 2, .tiles = 2, .tile_steps = 64, .last = 32,
                                             .tables = 3, .words = 40};
        const uint64_t most = akv_rans_body_most(&lab->params.rans), words = 1024 * 4;
        const bool decode = kernel == AKV_K_RANS_DECODE;
        arg[decode ? 2 : 0] = cut(lab, words);
        if (kernel == AKV_K_RANS_COUNT) {
            arg[1] = cut(lab, 64 * 16 * 4);
            break;
        }
        arg[1] = cut(lab, akv_rans_model_words(&lab->params.rans) * 4);
        arg[decode ? 0 : 2] = cut(lab, decode ? 42 * 4 : most);
        arg[3] = cut(lab, decode ? 4 : most);
        break;
    }
    case AKV_K_LOWRANK_PROJECT:
    case AKV_K_LOWRANK_READ:
    case AKV_K_LOWRANK_ROWS: { /* keys, of which some components are in pairs */
        lab->params.lowrank = (akv_lowrank_params){.tokens = TOKENS, .heads = HEADS, .dim = DIM, .dtype = AKV_F16,
                                                   .columns = HEADS * DIM + 3, .pairs = 8, .rope = AKV_ROPE_HALF};
        const uint64_t wide = HEADS * DIM;
        const bool project = kernel == AKV_K_LOWRANK_PROJECT;
        if (kernel == AKV_K_LOWRANK_READ) {
            arg[0] = cut(lab, TOKENS * (wide + 3));
            arg[1] = cut(lab, wide);
            arg[2] = cut(lab, TOKENS * wide * 4);
            break;
        }
        arg[0] = cut(lab, TOKENS * wide * (project ? 2 : 4));
        arg[1] = cut(lab, project ? wide * DIM * 4 : wide * 2);
        arg[2] = cut(lab, project ? wide * 2 : 8 * 8);
        arg[3] = cut(lab, project ? 8 * 8 : TOKENS * wide * 2);
        if (project)
            arg[4] = cut(lab, TOKENS * wide * 4);
        break;
    }
    case AKV_K_MULTIPLY: /* two products side by side */
        lab->params.multiply = (akv_multiply_params){.m = 5, .n = 7, .k = 3, .batch = 2, .lda = 6, .ldb = 7, .ldc = 14,
                                                     .a_step = 3, .b_step = 21, .c_step = 7};
        arg[0] = cut(lab, 5 * 6 * 4);
        arg[1] = cut(lab, 2 * 21 * 4);
        arg[2] = cut(lab, 5 * 14 * 4);
        break;
    case AKV_KERNEL_COUNT:
        break;
    }
    bool pooled = kernel == AKV_K_SHIFT || (kernel >= AKV_K_SEAL && kernel != AKV_K_SELECT && kernel < AKV_K_BX16_COUNT);
    lab->launch.slabs = pooled ? SLABS : 0;
}

static void set_up(struct lab *lab, uint32_t threads)
{
    memset(lab, 0, sizeof *lab);
    lab->context = house_context();
    lab->device = house_device(lab->context, threads);
    struct akv_device *device = lab->device->device;
    for (unsigned i = 0; i < SLABS; i++)
        OK(akv_mem_alloc(device, 2 * CHUNK, AKV_MEM_DEVICE, &lab->slab[i]));
    OK(akv_mem_alloc(device, ROOM, AKV_MEM_DEVICE, &lab->room));
}

static void tear_down(struct lab *lab)
{
    OK(akv_queue_wait(lab->device->queue, UINT64_MAX));
    for (unsigned i = 0; i < SLABS; i++)
        akv_mem_free(lab->slab[i]);
    akv_mem_free(lab->room);
    anykv_device_close(lab->device);
    anykv_context_destroy(lab->context);
}

static const enum akv_kernel_id all[] = {AKV_K_ENCODE, AKV_K_DECODE, AKV_K_ROTATE, AKV_K_SEAL,
                                         AKV_K_APPEND, AKV_K_GATHER, AKV_K_COPY,   AKV_K_ATTEND,
                                         AKV_K_SHIFT, AKV_K_REENCODE, AKV_K_SCORE, AKV_K_MEAN, AKV_K_MASS,
                                         AKV_K_SELECT, AKV_K_COMPACT, AKV_K_BX16_COUNT,
                                         AKV_K_BX16_ENCODE, AKV_K_BX16_DECODE,
                                         AKV_K_RANS_COUNT, AKV_K_RANS_ENCODE, AKV_K_RANS_DECODE,
                                         AKV_K_LOWRANK_PROJECT, AKV_K_LOWRANK_READ, AKV_K_LOWRANK_ROWS,
                                         AKV_K_MULTIPLY};
_Static_assert(sizeof all / sizeof all[0] == AKV_KERNEL_COUNT, "every kernel has a good launch");

Test(launch, good_ones_run)
{
    struct lab lab;
    for (uint32_t threads = 0; threads <= 2; threads++) {
        set_up(&lab, threads);
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            make(&lab, all[i]);
            OK(akv_kernel_prepare(lab.device->device, all[i], &lab.params));
            OK(akv_kernel_launch(lab.device->queue, &lab.launch));
            OK(akv_queue_wait(lab.device->queue, UINT64_MAX));
        }
        tear_down(&lab);
    }
}

/* ---- one parameter field wrong ---- */

#define FIELD(kernel, type, field, value, code, text)                                              \
    {                                                                                              \
        AKV_K_##kernel, offsetof(type, field), sizeof(((type *)0)->field), value, code, text       \
    }

static const struct wrong_field {
    enum akv_kernel_id kernel;
    size_t offset, bytes;
    uint64_t value;
    anykv_status code;
    const char *text;
} wrong_fields[] = {
    FIELD(ENCODE, akv_encode_params, dim, 0, ANYKV_E_ARG, "encode.dim"),
    FIELD(ENCODE, akv_encode_params, dim, 63, ANYKV_E_ARG, "encode.dim"),
    FIELD(ENCODE, akv_encode_params, dim, 592, ANYKV_E_ARG, "encode.dim"),
    FIELD(ENCODE, akv_encode_params, dim, 4096, ANYKV_E_ARG, "encode.dim"),
    FIELD(ENCODE, akv_encode_params, dim, UINT32_MAX, ANYKV_E_ARG, "encode.dim"),
    FIELD(ENCODE, akv_encode_params, dim, 128, ANYKV_E_SHAPE, "encode.rows"),
    FIELD(ENCODE, akv_encode_params, format, 0, ANYKV_E_ARG, "encode.format"),
    FIELD(ENCODE, akv_encode_params, format, AKV_FORMATS, ANYKV_E_ARG, "encode.format"),
    FIELD(ENCODE, akv_encode_params, format, AKV_I8, ANYKV_E_SHAPE, "encode.tile"),
    FIELD(ENCODE, akv_encode_params, flags, 8, ANYKV_E_ARG, "encode.flags"),
    FIELD(ENCODE, akv_encode_params, flags, 1u << 20, ANYKV_E_ARG, "encode.flags"),
    FIELD(ENCODE, akv_encode_params, tokens, TOKENS + 1, ANYKV_E_SHAPE, "encode.rows"),
    FIELD(ENCODE, akv_encode_params, tokens, UINT32_MAX, ANYKV_E_SHAPE, "encode"),
    FIELD(ENCODE, akv_encode_params, rows.dtype, 0, ANYKV_E_ARG, "dtype"),
    FIELD(ENCODE, akv_encode_params, rows.dtype, AKV_I8, ANYKV_E_ARG, "dtype"),
    FIELD(ENCODE, akv_encode_params, rows.dtype, AKV_F32, ANYKV_E_SHAPE, "encode.rows"),
    FIELD(ENCODE, akv_encode_params, rows.heads, 0, ANYKV_E_ARG, "heads"),
    FIELD(ENCODE, akv_encode_params, rows.heads, HEADS + 1, ANYKV_E_SHAPE, "encode.rows"),
    FIELD(ENCODE, akv_encode_params, rows.heads, UINT32_MAX, ANYKV_E_ARG, "heads"),
    FIELD(ENCODE, akv_encode_params, rows.token_stride, 2 * DIM + 1, ANYKV_E_SHAPE, "encode.rows"),
    FIELD(ENCODE, akv_encode_params, rows.token_stride, UINT64_MAX, ANYKV_E_SHAPE, "strides"),
    FIELD(ENCODE, akv_encode_params, rows.token_stride, UINT64_MAX / 3 + 1, ANYKV_E_SHAPE,
          "strides"),
    FIELD(ENCODE, akv_encode_params, rows.head_stride, UINT64_MAX, ANYKV_E_SHAPE, "strides"),
    FIELD(ENCODE, akv_encode_params, rows.head_stride, (uint64_t)1 << 63, ANYKV_E_SHAPE, "strides"),
    FIELD(DECODE, akv_decode_params, rows.token_stride, DIM, ANYKV_E_SHAPE, "overlap"),
    FIELD(DECODE, akv_decode_params, rows.token_stride, 0, ANYKV_E_SHAPE, "overlap"),
    FIELD(DECODE, akv_decode_params, rows.head_stride, DIM - 1, ANYKV_E_SHAPE, "overlap"),
    FIELD(DECODE, akv_decode_params, rows.head_stride, 0, ANYKV_E_SHAPE, "overlap"),
    FIELD(DECODE, akv_decode_params, flags, 1u << 16, ANYKV_E_ARG, "decode.flags"),
    FIELD(DECODE, akv_decode_params, format, AKV_N5, ANYKV_E_SHAPE, "decode.tile"),
    FIELD(DECODE, akv_decode_params, format, UINT32_MAX, ANYKV_E_ARG, "decode.format"),
    FIELD(ROTATE, akv_rotate_params, rows, 4, ANYKV_E_SHAPE, "rotate.rows"),
    FIELD(ROTATE, akv_rotate_params, rows, UINT32_MAX, ANYKV_E_SHAPE, "rotate.rows"),
    FIELD(ROTATE, akv_rotate_params, dim, 8, ANYKV_E_ARG, "rotate.dim"),
    FIELD(ROTATE, akv_rotate_params, flags, 2, ANYKV_E_ARG, "rotate.flags"),
    FIELD(SEAL, akv_seal_params, pool.slabs, 0, ANYKV_E_ARG, "pool.slabs"),
    FIELD(SEAL, akv_seal_params, pool.slabs, 9, ANYKV_E_ARG, "pool.slabs"),
    FIELD(SEAL, akv_seal_params, pool.slabs, 1, ANYKV_E_ARG, "seal.slabs"),
    FIELD(SEAL, akv_seal_params, pool.chunk_bytes, 0, ANYKV_E_ARG, "seal.pool"),
    FIELD(SEAL, akv_seal_params, pool.chunk_bytes, CHUNK - 8, ANYKV_E_ARG, "seal.pool"),
    FIELD(SEAL, akv_seal_params, pool.chunk_bytes, 2 * CHUNK + 16, ANYKV_E_SHAPE, "slab 0"),
    FIELD(SEAL, akv_seal_params, pool.chunk_bytes, 16, ANYKV_E_ARG, "kind 0"),
    FIELD(SEAL, akv_seal_params, pool.chunk_bytes, UINT64_MAX - 15, ANYKV_E_ARG, "seal.pool"),
    FIELD(SEAL, akv_seal_params, pool.chunks_per_slab, 0, ANYKV_E_ARG, "seal.pool"),
    FIELD(SEAL, akv_seal_params, pool.chunk_bytes, (uint64_t)1 << 47, ANYKV_E_SHAPE, "slab 0"),
    FIELD(SEAL, akv_seal_params, pool.block_bytes[0], 8, ANYKV_E_ARG, "kind 0"),
    FIELD(SEAL, akv_seal_params, pool.block_bytes[15], CHUNK, ANYKV_OK, ""),
    FIELD(SEAL, akv_seal_params, pool.blocks_per_chunk[1], UINT32_MAX, ANYKV_E_ARG, "kind 1"),
    FIELD(SEAL, akv_seal_params, moves, 2, ANYKV_E_SHAPE, "seal.moves"),
    FIELD(SEAL, akv_seal_params, moves, UINT32_MAX, ANYKV_E_SHAPE, "seal.moves"),
    FIELD(SEAL, akv_seal_params, layers, 2, ANYKV_E_SHAPE, "seal.layers"),
    FIELD(SEAL, akv_seal_params, kv_heads, 0, ANYKV_E_ARG, "kv_heads"),
    FIELD(SEAL, akv_seal_params, block_tokens, 24, ANYKV_E_ARG, "block_tokens"),
    FIELD(SEAL, akv_seal_params, block_tokens, 8, ANYKV_E_ARG, "block_tokens"),
    FIELD(SEAL, akv_seal_params, block_tokens, 512, ANYKV_E_ARG, "block_tokens"),
    FIELD(SEAL, akv_seal_params, k_dim, 0, ANYKV_E_ARG, "k_dim"),
    FIELD(SEAL, akv_seal_params, v_dim, 600, ANYKV_E_ARG, "v_dim"),
    FIELD(SEAL, akv_seal_params, hot_type, AKV_I8, ANYKV_E_ARG, "hot_type"),
    FIELD(SEAL, akv_seal_params, k_format, 0, ANYKV_E_ARG, "k_format"),
    FIELD(SEAL, akv_seal_params, v_format, AKV_FORMATS, ANYKV_E_ARG, "v_format"),
    FIELD(SEAL, akv_seal_params, k_flags, 8, ANYKV_E_ARG, "k_flags"),
    FIELD(SEAL, akv_seal_params, v_flags, 1u << 16, ANYKV_E_ARG, "v_flags"),
    FIELD(SHIFT, akv_shift_params, pool.slabs, 9, ANYKV_E_ARG, "pool.slabs"),
    FIELD(SHIFT, akv_shift_params, blocks, 2, ANYKV_E_SHAPE, "shift.table"),
    FIELD(SHIFT, akv_shift_params, blocks, UINT32_MAX, ANYKV_E_SHAPE, "shift.blocks"),
    FIELD(SHIFT, akv_shift_params, kind, 16, ANYKV_E_ARG, "shift.kind"),
    FIELD(SHIFT, akv_shift_params, format, 0, ANYKV_E_ARG, "format"),
    FIELD(SHIFT, akv_shift_params, offset, UINT32_MAX, ANYKV_E_SHAPE, "offset"),
    FIELD(SHIFT, akv_shift_params, kv_heads, 0, ANYKV_E_ARG, "kv_heads"),
    FIELD(SHIFT, akv_shift_params, block_tokens, 24, ANYKV_E_ARG, "block_tokens"),
    FIELD(SHIFT, akv_shift_params, dim, 600, ANYKV_E_ARG, "dim"),
    FIELD(SHIFT, akv_shift_params, flags, AKV_FLAG_ROTATE, ANYKV_E_ARG, "flags"),
    FIELD(SHIFT, akv_shift_params, pairs, DIM / 2 + 1, ANYKV_E_ARG, "shift.pairs"),
    FIELD(SHIFT, akv_shift_params, rope, 2, ANYKV_E_ARG, "shift.rope"),
    FIELD(REENCODE, akv_reencode_params, pool.slabs, 9, ANYKV_E_ARG, "pool.slabs"),
    FIELD(REENCODE, akv_reencode_params, moves, 2, ANYKV_E_SHAPE, "reencode.moves"),
    FIELD(REENCODE, akv_reencode_params, layers, 2, ANYKV_E_SHAPE, "reencode.layers"),
    FIELD(REENCODE, akv_reencode_params, kv_heads, 0, ANYKV_E_ARG, "kv_heads"),
    FIELD(REENCODE, akv_reencode_params, block_tokens, 24, ANYKV_E_ARG, "block_tokens"),
    FIELD(REENCODE, akv_reencode_params, k_dim, 0, ANYKV_E_ARG, "k_dim"),
    FIELD(REENCODE, akv_reencode_params, v_dim, 600, ANYKV_E_ARG, "v_dim"),
    FIELD(REENCODE, akv_reencode_params, k_source, 0, ANYKV_E_ARG, "k_source"),
    FIELD(REENCODE, akv_reencode_params, v_source, UINT32_MAX, ANYKV_E_ARG, "v_source"),
    FIELD(REENCODE, akv_reencode_params, k_format, 0, ANYKV_E_ARG, "k_format"),
    FIELD(REENCODE, akv_reencode_params, k_format, AKV_F16, ANYKV_E_ARG, "comes from itself"),
    FIELD(REENCODE, akv_reencode_params, v_format, AKV_BF16, ANYKV_E_ARG, "comes from itself"),
    FIELD(REENCODE, akv_reencode_params, v_source, AKV_F16, ANYKV_OK, ""),
    FIELD(REENCODE, akv_reencode_params, k_flags, AKV_FLAG_ROTATE, ANYKV_E_ARG, "k_flags"),
    FIELD(REENCODE, akv_reencode_params, v_flags, 4, ANYKV_E_ARG, "v_flags"),
    FIELD(APPEND, akv_append_params, k_dim, 1, ANYKV_E_ARG, "k_dim"),
    FIELD(APPEND, akv_append_params, v_dim, 63, ANYKV_E_ARG, "v_dim"),
    FIELD(APPEND, akv_append_params, hot_type, 9, ANYKV_E_ARG, "hot_type"),
    FIELD(APPEND, akv_append_params, hot_type, AKV_F32, ANYKV_E_SHAPE, "v_offset"),
    FIELD(APPEND, akv_append_params, k.heads, 1, ANYKV_E_ARG, "heads of k"),
    FIELD(APPEND, akv_append_params, k.dtype, 7, ANYKV_E_ARG, "dtype"),
    FIELD(APPEND, akv_append_params, k_offset, 8, ANYKV_E_SHAPE, "k_offset"),
    FIELD(APPEND, akv_append_params, v_offset, UINT32_MAX, ANYKV_E_SHAPE, "v_offset"),
    FIELD(APPEND, akv_append_params, v_offset, 2 * HEADS * BLOCK * DIM * 2, ANYKV_E_SHAPE,
          "v_offset"),
    FIELD(APPEND, akv_append_params, pool.blocks_per_chunk[0], 0, ANYKV_E_SHAPE, "kind 0"),
    FIELD(GATHER, akv_gather_params, dim, 17, ANYKV_E_ARG, "dim"),
    FIELD(GATHER, akv_gather_params, order, 2, ANYKV_E_ARG, "order"),
    FIELD(GATHER, akv_gather_params, flags, 2, ANYKV_E_ARG, "flags"),
    FIELD(GATHER, akv_gather_params, block_tokens, 0, ANYKV_E_ARG, "block_tokens"),
    FIELD(GATHER, akv_gather_params, block_tokens, 64, ANYKV_E_SHAPE, "kind"),
    FIELD(GATHER, akv_gather_params, blocks, 3, ANYKV_E_SHAPE, "gather.table"),
    FIELD(GATHER, akv_gather_params, blocks, 1, ANYKV_E_SHAPE, "1 blocks"),
    FIELD(GATHER, akv_gather_params, first_row, BLOCK, ANYKV_E_SHAPE, "rows"),
    FIELD(GATHER, akv_gather_params, first_row, UINT32_MAX, ANYKV_E_SHAPE, "rows"),
    FIELD(GATHER, akv_gather_params, tokens, 21, ANYKV_E_SHAPE, "gather.rows"),
    FIELD(GATHER, akv_gather_params, tokens, UINT32_MAX, ANYKV_E_SHAPE, "gather"),
    FIELD(GATHER, akv_gather_params, format[1], AKV_FORMATS, ANYKV_E_ARG, "format"),
    FIELD(GATHER, akv_gather_params, format[5], AKV_N4, ANYKV_E_SHAPE, "kind 5"),
    FIELD(GATHER, akv_gather_params, offset[1], UINT32_MAX, ANYKV_E_SHAPE, "kind 1"),
    FIELD(GATHER, akv_gather_params, rows.head_stride, DIM / 2, ANYKV_E_SHAPE, "overlap"),
    FIELD(COPY, akv_copy_params, bytes, 0, ANYKV_E_ARG, "copy.bytes"),
    FIELD(COPY, akv_copy_params, bytes, 4088, ANYKV_E_ARG, "copy.bytes"),
    FIELD(COPY, akv_copy_params, bytes, 4112, ANYKV_E_SHAPE, "copy.linear"),
    FIELD(COPY, akv_copy_params, direction, 3, ANYKV_E_ARG, "direction"),
    FIELD(COPY, akv_copy_params, moves, 2, ANYKV_E_SHAPE, "copy.moves"),
    FIELD(RANS_COUNT, akv_rans_params, plane[0].bits, 3, ANYKV_E_ARG, "rans_count.plane"),
    FIELD(RANS_COUNT, akv_rans_params, plane[1].bits, 4, ANYKV_E_ARG, "rans_count.plane"),
    FIELD(RANS_COUNT, akv_rans_params, raw, 1, ANYKV_E_ARG, "rans_count.plane"),
    FIELD(RANS_COUNT, akv_rans_params, centre, 256, ANYKV_E_ARG, "centre"),
    FIELD(RANS_COUNT, akv_rans_params, last, 8, ANYKV_E_ARG, "last"),
    FIELD(RANS_COUNT, akv_rans_params, heads, 2, ANYKV_E_SHAPE, "rans_count.counts"),
    FIELD(RANS_COUNT, akv_rans_params, tiles, 3, ANYKV_E_SHAPE, "rans_count.words"),
    FIELD(RANS_COUNT, akv_rans_params, tile_steps, UINT32_MAX, ANYKV_E_SHAPE, "2^25"),
    FIELD(RANS_COUNT, akv_rans_params, groups, UINT32_MAX, ANYKV_E_SHAPE, "2^25"),
    FIELD(RANS_COUNT, akv_rans_params, plane[0].at, UINT32_MAX, ANYKV_E_SHAPE, "2^32"),
    FIELD(RANS_COUNT, akv_rans_params, plane[0].word, 1024, ANYKV_E_SHAPE, "rans_count.words"),
    FIELD(RANS_ENCODE, akv_rans_params, tables, 0, ANYKV_E_ARG, "tables"),
    FIELD(RANS_ENCODE, akv_rans_params, tables, 17, ANYKV_E_ARG, "tables"),
    FIELD(RANS_ENCODE, akv_rans_params, tables, 16, ANYKV_E_SHAPE, "rans_encode.model"),
    FIELD(RANS_ENCODE, akv_rans_params, heads, 2, ANYKV_E_SHAPE, "rans_encode"),
    FIELD(RANS_DECODE, akv_rans_params, words, 41, ANYKV_E_SHAPE, "rans_decode.packed"),
    FIELD(RANS_DECODE, akv_rans_params, words, UINT32_MAX, ANYKV_E_SHAPE, "rans_decode.words"),
    FIELD(RANS_DECODE, akv_rans_params, plane[0].step, 64, ANYKV_E_SHAPE, "rans_decode.words"),
    FIELD(LOWRANK_PROJECT, akv_lowrank_params, dim, 40, ANYKV_E_ARG, "lowrank_project.dim"),
    FIELD(LOWRANK_PROJECT, akv_lowrank_params, dim, DIM * 2, ANYKV_E_SHAPE, "lowrank_project.coefficients"),
    FIELD(LOWRANK_PROJECT, akv_lowrank_params, heads, 0, ANYKV_E_ARG, "heads"),
    FIELD(LOWRANK_PROJECT, akv_lowrank_params, dtype, AKV_N4, ANYKV_E_ARG, "dtype"),
    FIELD(LOWRANK_PROJECT, akv_lowrank_params, dtype, AKV_F32, ANYKV_E_SHAPE, "lowrank_project.rows"),
    FIELD(LOWRANK_PROJECT, akv_lowrank_params, pairs, 9, ANYKV_E_SHAPE, "lowrank_project.turns"),
    FIELD(LOWRANK_PROJECT, akv_lowrank_params, tokens, UINT32_MAX, ANYKV_E_SHAPE, "2^30"),
    FIELD(LOWRANK_READ, akv_lowrank_params, columns, HEADS * DIM - 1, ANYKV_E_SHAPE, "lowrank_read.columns"),
    FIELD(LOWRANK_READ, akv_lowrank_params, columns, HEADS * DIM + 4, ANYKV_E_SHAPE, "lowrank_read.codes"),
    FIELD(LOWRANK_READ, akv_lowrank_params, tokens, TOKENS + 1, ANYKV_E_SHAPE, "lowrank_read.coefficients"),
    FIELD(LOWRANK_ROWS, akv_lowrank_params, pairs, DIM / 2 + 1, ANYKV_E_ARG, "lowrank_rows.pairs"),
    FIELD(LOWRANK_ROWS, akv_lowrank_params, rope, 2, ANYKV_E_ARG, "lowrank_rows.pairs"),
    FIELD(LOWRANK_ROWS, akv_lowrank_params, heads, HEADS + 1, ANYKV_E_SHAPE, "lowrank_rows.sums"),
    FIELD(MULTIPLY, akv_multiply_params, m, 6, ANYKV_E_SHAPE, "multiply.a"),
    FIELD(MULTIPLY, akv_multiply_params, k, 0, ANYKV_E_SHAPE, "multiply.a"),
    FIELD(MULTIPLY, akv_multiply_params, k, 7, ANYKV_E_SHAPE, "multiply.a"),
    FIELD(MULTIPLY, akv_multiply_params, n, 8, ANYKV_E_SHAPE, "multiply.b"),
    FIELD(MULTIPLY, akv_multiply_params, batch, 3, ANYKV_E_SHAPE, "multiply.a"),
    FIELD(MULTIPLY, akv_multiply_params, batch, 65536, ANYKV_E_SHAPE, "65536 products"),
    FIELD(MULTIPLY, akv_multiply_params, ldc, 0x80000000u, ANYKV_E_SHAPE, "multiply"),
    FIELD(MULTIPLY, akv_multiply_params, b_step, 22, ANYKV_E_SHAPE, "multiply.b"),
    FIELD(MULTIPLY, akv_multiply_params, b_step, UINT64_MAX, ANYKV_E_SHAPE, "multiply.b"),
    FIELD(MULTIPLY, akv_multiply_params, c_step, 6, ANYKV_E_ARG, "c_step"),
    FIELD(MULTIPLY, akv_multiply_params, ldc, 13, ANYKV_E_ARG, "c_step"), /* the second product is in the next row */
    FIELD(ATTEND, akv_attend_params, kv_heads, 0, ANYKV_E_ARG, "kv_heads"),
    FIELD(ATTEND, akv_attend_params, kv_heads, 3, ANYKV_E_ARG, "q heads"),
    FIELD(ATTEND, akv_attend_params, q_heads, 6, ANYKV_E_ARG, "q heads"),
    FIELD(ATTEND, akv_attend_params, q.heads, 2, ANYKV_E_ARG, "q heads"),
    FIELD(ATTEND, akv_attend_params, out.heads, 2, ANYKV_E_ARG, "q heads"),
    FIELD(ATTEND, akv_attend_params, k_dim, 24, ANYKV_E_ARG, "k_dim"),
    FIELD(ATTEND, akv_attend_params, v_dim, 1024, ANYKV_E_ARG, "v_dim"),
    FIELD(ATTEND, akv_attend_params, k_flags, 2, ANYKV_E_ARG, "k_flags"),
    FIELD(ATTEND, akv_attend_params, v_flags, 8, ANYKV_E_ARG, "v_flags"),
    FIELD(ATTEND, akv_attend_params, v_flags, AKV_FLAG_MAP, ANYKV_E_ARG, "attend.maps"),
    FIELD(ATTEND, akv_attend_params, v_flags, AKV_FLAG_MAP | 1, ANYKV_E_ARG, "v_flags"),
    FIELD(ATTEND, akv_attend_params, flags, 32, ANYKV_E_ARG, "attend.flags"),
    FIELD(ATTEND, akv_attend_params, flags, AKV_ATTEND_LSE, ANYKV_E_ARG, "attend.lse"),
    FIELD(ATTEND, akv_attend_params, flags, AKV_ATTEND_MASK, ANYKV_E_ARG, "attend.mask"),
    FIELD(ATTEND, akv_attend_params, flags, AKV_ATTEND_SINKS, ANYKV_E_ARG, "attend.sinks"),
    FIELD(ATTEND, akv_attend_params, scale, 0x7FC00000, ANYKV_E_ARG, "scale"),
    FIELD(ATTEND, akv_attend_params, scale, 0x7F800000, ANYKV_E_ARG, "scale"),
    FIELD(ATTEND, akv_attend_params, cap, 0xBF800000, ANYKV_E_ARG, "cap"),
    FIELD(ATTEND, akv_attend_params, cap, 0x7F800000, ANYKV_E_ARG, "cap"),
    FIELD(ATTEND, akv_attend_params, max_tokens, 0, ANYKV_E_ARG, "maxima"),
    FIELD(ATTEND, akv_attend_params, max_sequences, 0, ANYKV_E_ARG, "maxima"),
    FIELD(ATTEND, akv_attend_params, max_length, 0, ANYKV_E_ARG, "maxima"),
    FIELD(ATTEND, akv_attend_params, bound_length, 65, ANYKV_E_ARG, "bounds"),
    FIELD(ATTEND, akv_attend_params, bound_sequences, 2, ANYKV_E_ARG, "bounds"),
    FIELD(ATTEND, akv_attend_params, bound_seq_tokens, TOKENS + 1, ANYKV_E_ARG, "bounds"),
    FIELD(ATTEND, akv_attend_params, tiles.k_format[0], AKV_FORMATS, ANYKV_E_ARG, "k_format"),
    FIELD(ATTEND, akv_attend_params, tiles.v_format[1], 0, ANYKV_E_ARG, "v_format"),
    FIELD(ATTEND, akv_attend_params, tiles.k_offset[1], 8, ANYKV_E_SHAPE, "k_offset"),
    FIELD(ATTEND, akv_attend_params, tiles.v_offset[0], UINT32_MAX - 15, ANYKV_E_SHAPE, "v_offset"),
    FIELD(ATTEND, akv_attend_params, out.head_stride, 1, ANYKV_E_SHAPE, "overlap"),
    FIELD(ATTEND, akv_attend_params, q.token_stride, UINT64_MAX, ANYKV_OK, ""),
};

Test(launch, one_parameter_wrong)
{
    struct lab lab;
    set_up(&lab, 0);
    for (size_t i = 0; i < sizeof wrong_fields / sizeof wrong_fields[0]; i++) {
        const struct wrong_field *wrong = &wrong_fields[i];
        make(&lab, wrong->kernel);
        memcpy((char *)&lab.params + wrong->offset, &wrong->value, wrong->bytes);
        /* The maximum strides of an attend are only followed where there are tokens for them. */
        if (wrong->code == ANYKV_OK) {
            bool empty;
            OK(akv_check_params(lab.device->device, wrong->kernel, &lab.params, &empty));
            continue;
        }
        anykv_status status = akv_kernel_launch(lab.device->queue, &lab.launch);
        cr_expect(status == wrong->code && strstr(anykv_error_detail(), wrong->text),
                  "case %zu (%s, value %llx): %s: \"%s\", not %s about \"%s\"", i,
                  akv_kernels[wrong->kernel].name, (unsigned long long)wrong->value,
                  anykv_status_name(status), anykv_error_detail(), anykv_status_name(wrong->code),
                  wrong->text);
    }
    tear_down(&lab);
}

/* ---- one argument wrong ---- */

Test(launch, one_argument_wrong)
{
    struct lab lab;
    set_up(&lab, 0);
    anykv_device *other = house_device(lab.context, 0);
    struct akv_mem *foreign;
    OK(akv_mem_alloc(other->device, ROOM, AKV_MEM_DEVICE, &foreign));
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
        for (unsigned a = 0; a < akv_kernels[all[k]].arguments; a++) {
            make(&lab, all[k]);
            if (!lab.launch.arg[a].mem)
                continue;
            bool optional = all[k] == AKV_K_ATTEND && a == 6 && lab.launch.arg[a].bytes == 0;
            struct akv_span good = lab.launch.arg[a];
            struct akv_span *arg = &lab.launch.arg[a];
            arg->mem = foreign;
            REFUSED(ANYKV_E_ARG, "another device",
                    akv_kernel_launch(lab.device->queue, &lab.launch));
            *arg = good;
            arg->offset = ROOM;
            REFUSED(ANYKV_E_SHAPE, "there are", akv_kernel_launch(lab.device->queue, &lab.launch));
            arg->offset = UINT64_MAX;
            REFUSED(ANYKV_E_SHAPE, "there are", akv_kernel_launch(lab.device->queue, &lab.launch));
            *arg = good;
            arg->bytes = UINT64_MAX;
            REFUSED(ANYKV_E_SHAPE, "there are", akv_kernel_launch(lab.device->queue, &lab.launch));
            *arg = good;
            arg->offset += 1;
            REFUSED(ANYKV_E_ARG, "not a multiple",
                    akv_kernel_launch(lab.device->queue, &lab.launch));
            *arg = good;
            /* One byte short; the descriptor's need is only its head, rows of a step at least one.
             */
            if (!((all[k] == AKV_K_APPEND || all[k] == AKV_K_ATTEND) && a <= 2) && !optional) {
                arg->bytes -= 1;
                REFUSED(ANYKV_E_SHAPE, "are needed",
                        akv_kernel_launch(lab.device->queue, &lab.launch));
            } else if (!optional) {
                arg->bytes = 3;
                REFUSED(ANYKV_E_SHAPE, "are needed",
                        akv_kernel_launch(lab.device->queue, &lab.launch));
            }
            *arg = good;
            arg->mem = NULL;
            if (all[k] == AKV_K_ATTEND && a == 6) {
                /* scratch may be absent only when none is needed */
                anykv_status status = akv_kernel_launch(lab.device->queue, &lab.launch);
                cr_expect(status != ANYKV_OK || good.bytes == 0, "attend ran without scratch");
            } else if ((all[k] == AKV_K_LOWRANK_PROJECT && a == 2) || (all[k] == AKV_K_LOWRANK_ROWS && a == 1)) {
                OK(akv_kernel_launch(lab.device->queue, &lab.launch)); /* no centre */
                OK(akv_queue_wait(lab.device->queue, UINT64_MAX));
            } else {
                anykv_status status = akv_kernel_launch(lab.device->queue, &lab.launch);
                cr_expect(status == ANYKV_E_ARG || status == ANYKV_E_SHAPE, "%s.%u absent: %s",
                          akv_kernels[all[k]].name, a, anykv_status_name(status));
            }
        }
    }
    akv_mem_free(foreign);
    anykv_device_close(other);
    tear_down(&lab);
}

/* What is written overlaps something: every pair of arguments, and every argument with a slab. */
Test(launch, overlap)
{
    static const struct {
        enum akv_kernel_id kernel;
        unsigned a, b;
    } pairs[] = {{AKV_K_MULTIPLY, 0, 2}, {AKV_K_MULTIPLY, 1, 2}, {AKV_K_LOWRANK_ROWS, 0, 3},
                 {AKV_K_LOWRANK_READ, 0, 2}, {AKV_K_LOWRANK_PROJECT, 1, 4}, {AKV_K_ENCODE, 0, 1}, {AKV_K_ENCODE, 1, 2}, {AKV_K_ENCODE, 0, 2},
                 {AKV_K_DECODE, 0, 1}, {AKV_K_ROTATE, 0, 1}, {AKV_K_SEAL, 0, 2},
                 {AKV_K_SEAL, 1, 2},   {AKV_K_GATHER, 0, 1}, {AKV_K_COPY, 0, 1},
                 {AKV_K_ATTEND, 0, 2}, {AKV_K_ATTEND, 1, 2}, {AKV_K_ATTEND, 2, 6},
                 {AKV_K_ATTEND, 1, 6}, {AKV_K_REENCODE, 0, 2},
                 {AKV_K_REENCODE, 1, 2}};
    struct lab lab;
    set_up(&lab, 0);
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        make(&lab, pairs[i].kernel);
        struct akv_span *a = &lab.launch.arg[pairs[i].a], *b = &lab.launch.arg[pairs[i].b];
        if (b->bytes == 0)
            continue;
        b->offset = a->offset + (a->bytes > 16 ? (a->bytes - 1) / 16 * 16 : 0);
        REFUSED(ANYKV_E_ARG, "overlap", akv_kernel_launch(lab.device->queue, &lab.launch));
        b->offset = a->offset;
        REFUSED(ANYKV_E_ARG, "overlap", akv_kernel_launch(lab.device->queue, &lab.launch));
    }
    static const struct {
        enum akv_kernel_id kernel;
        unsigned arg;
    } slabs[] = {{AKV_K_SEAL, 0},   {AKV_K_SEAL, 2}, {AKV_K_APPEND, 0}, {AKV_K_APPEND, 1},
                 {AKV_K_GATHER, 1}, {AKV_K_COPY, 1}, {AKV_K_ATTEND, 2}, {AKV_K_ATTEND, 6},
                 {AKV_K_REENCODE, 0}, {AKV_K_REENCODE, 2}};
    for (size_t i = 0; i < sizeof slabs / sizeof slabs[0]; i++) {
        make(&lab, slabs[i].kernel);
        struct akv_span *arg = &lab.launch.arg[slabs[i].arg];
        if (arg->bytes == 0)
            continue;
        lab.launch.slab[1] = (struct akv_span){arg->mem, 0, 2 * CHUNK};
        REFUSED(ANYKV_E_ARG, "overlap", akv_kernel_launch(lab.device->queue, &lab.launch));
    }
    make(&lab, AKV_K_SEAL);
    lab.launch.slab[1] = lab.launch.slab[0];
    REFUSED(ANYKV_E_ARG, "slabs 0 and 1", akv_kernel_launch(lab.device->queue, &lab.launch));
    tear_down(&lab);
}

Test(launch, slabs_and_ids)
{
    struct lab lab;
    set_up(&lab, 0);
    struct akv_queue *queue = lab.device->queue;
    make(&lab, AKV_K_COPY);
    lab.launch.kernel = AKV_KERNEL_COUNT;
    REFUSED(ANYKV_E_ARG, "launch.kernel", akv_kernel_launch(queue, &lab.launch));
    lab.launch.kernel = (enum akv_kernel_id)(-1);
    REFUSED(ANYKV_E_ARG, "launch.kernel", akv_kernel_launch(queue, &lab.launch));
    make(&lab, AKV_K_COPY);
    lab.launch.params = NULL;
    REFUSED(ANYKV_E_ARG, "params", akv_kernel_launch(queue, &lab.launch));
    make(&lab, AKV_K_COPY);
    lab.launch.slabs = 9;
    REFUSED(ANYKV_E_ARG, "slabs", akv_kernel_launch(queue, &lab.launch));
    lab.launch.slabs = 1;
    REFUSED(ANYKV_E_ARG, "slabs", akv_kernel_launch(queue, &lab.launch));
    make(&lab, AKV_K_COPY);
    lab.launch.slab[1].mem = NULL;
    REFUSED(ANYKV_E_ARG, "slab", akv_kernel_launch(queue, &lab.launch));
    make(&lab, AKV_K_COPY);
    lab.launch.slab[0].offset = 8;
    lab.launch.slab[0].bytes -= 8;
    REFUSED(ANYKV_E_SHAPE, "slab 0", akv_kernel_launch(queue, &lab.launch));
    make(&lab, AKV_K_COPY);
    lab.launch.slab[0].bytes = lab.launch.slab[1].bytes = CHUNK; /* a pool that grew */
    OK(akv_kernel_launch(queue, &lab.launch));
    lab.launch.slab[0].bytes = CHUNK - 1;
    REFUSED(ANYKV_E_SHAPE, "slab 0", akv_kernel_launch(queue, &lab.launch));
    lab.launch.slab[0].bytes = CHUNK;
    lab.launch.slab[1].bytes = CHUNK - 16;
    REFUSED(ANYKV_E_SHAPE, "slab 1", akv_kernel_launch(queue, &lab.launch));
    tear_down(&lab);
}

/* Nothing to do is done without a backend call. */
Test(launch, empty)
{
    struct lab lab;
    set_up(&lab, 0);
    static const struct {
        enum akv_kernel_id kernel;
        size_t offset;
    } counts[] = {{AKV_K_ENCODE, offsetof(akv_encode_params, tokens)},
                  {AKV_K_DECODE, offsetof(akv_encode_params, tokens)},
                  {AKV_K_ROTATE, offsetof(akv_rotate_params, rows)},
                  {AKV_K_SEAL, offsetof(akv_seal_params, moves)},
                  {AKV_K_SEAL, offsetof(akv_seal_params, layers)},
                  {AKV_K_REENCODE, offsetof(akv_reencode_params, moves)},
                  {AKV_K_GATHER, offsetof(akv_gather_params, tokens)},
                  {AKV_K_COPY, offsetof(akv_copy_params, moves)}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        make(&lab, counts[i].kernel);
        memset((char *)&lab.params + counts[i].offset, 0, 4);
        akv_fault_at(0, ANYKV_OK, false);
        OK(akv_kernel_launch(lab.device->queue, &lab.launch));
        cr_expect(akv_fault_count() == 0, "%s", akv_kernels[counts[i].kernel].name);
    }
    tear_down(&lab);
}
