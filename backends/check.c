/* SPDX-License-Identifier: Apache-2.0 */
/* What a launch must satisfy before a backend sees it: parameters in range, spans inside their
 * memory, rows and tiles inside their spans, nothing written that is also read.  What stands in
 * device memory (block tables, step descriptors) cannot be seen from here; the engine makes it. */
#include "check.h"
#include <math.h>

const struct akv_arg_spec akv_arg_specs[AKV_KERNEL_COUNT][AKV_MAX_ARGS] = {
    [AKV_K_ENCODE] = {{"rows", false, false, 1},
                      {"tile", true, false, 16},
                      {"flags", true, false, 4},
                      {"maps", false, true, 16}},
    [AKV_K_DECODE] = {{"tile", false, false, 16},
                      {"rows", true, false, 1},
                      {"maps", false, true, 16}},
    [AKV_K_ROTATE] = {{"rows in", false, false, 4}, {"rows out", true, false, 4}},
    [AKV_K_SEAL] = {{"layers", false, false, 4},
                    {"moves", false, false, 8},
                    {"flags", true, false, 4},
                    {"maps", false, true, 16}},
    [AKV_K_REENCODE] = {{"layers", false, false, 4},
                        {"moves", false, false, 8},
                        {"flags", true, false, 4}},
    [AKV_K_APPEND] = {{"descriptor", false, false, 16},
                      {"k", false, false, 1},
                      {"v", false, false, 1}},
    [AKV_K_GATHER] = {{"table", false, false, 4},
                      {"rows", true, false, 1},
                      {"maps", false, true, 16}},
    [AKV_K_COPY] = {{"moves", false, false, 8}, {"linear", true, true, 16}},
    [AKV_K_SHIFT] = {{"table", false, false, 4},
                     {"flags", true, false, 4},
                     {"maps", false, true, 16},
                     {"phases", false, true, 8}},
    [AKV_K_ATTEND] = {{"descriptor", false, false, 16},
                      {"q", false, false, 1},
                      {"out", true, false, 1},
                      {"lse", true, true, 4},
                      {"mask", false, true, 4},
                      {"sinks", false, true, 4},
                      {"scratch", true, true, 16},
                      {"maps", false, true, 16}},
    [AKV_K_SCORE] = {{"table", false, false, 4}, {"weights", false, true, 4}, {"scores", true, false, 4}},
    [AKV_K_MEAN] = {{"table", false, false, 4}, {"sums", true, false, 4}},
    [AKV_K_MASS] = {{"table", false, false, 4},
                    {"queries", false, false, 4},
                    {"lse", false, false, 4},
                    {"positions", false, false, 4},
                    {"scores", true, false, 4}},
    [AKV_K_SELECT] = {{"scores", false, false, 4}, {"rows", true, false, 4}, {"counts", true, false, 4}},
    [AKV_K_COMPACT] = {{"from", false, false, 4},
                       {"to", false, false, 4},
                       {"rows", false, false, 4},
                       {"counts", false, false, 4}},
    [AKV_K_BX16_COUNT] = {{"rows", false, false, 2}, {"counts", true, false, 4}},
    [AKV_K_BX16_ENCODE] = {{"rows", false, false, 2}, {"packed", true, false, 16}},
    [AKV_K_BX16_DECODE] = {{"packed", false, false, 16},
                           {"rows", true, false, 2},
                           {"damaged", true, false, 4}},
    [AKV_K_RANS_COUNT] = {{"words", false, false, 4}, {"counts", true, false, 4}},
    [AKV_K_RANS_ENCODE] = {{"words", false, false, 4},
                           {"model", false, false, 4},
                           {"packed", true, false, 4},
                           {"scratch", true, false, 4}},
    [AKV_K_RANS_DECODE] = {{"packed", false, false, 4},
                           {"model", false, false, 4},
                           {"words", true, false, 4},
                           {"damaged", true, false, 4}},
    [AKV_K_LOWRANK_PROJECT] = {{"rows", false, false, 2},
                               {"basis", false, false, 4},
                               {"centre", false, true, 2},
                               {"turns", false, true, 8},
                               {"coefficients", true, false, 4}},
    [AKV_K_LOWRANK_READ] = {{"codes", false, false, 4}, {"shifts", false, false, 4}, {"coefficients", true, false, 4}},
    [AKV_K_LOWRANK_ROWS] = {{"sums", false, false, 4},
                            {"centre", false, true, 2},
                            {"turns", false, true, 8},
                            {"rows", true, false, 2}},
    [AKV_K_MULTIPLY] = {{"a", false, false, 4}, {"b", false, false, 4}, {"c", true, false, 4}},
};


/* What a side's transform says, and the record of a map in argument `arg`. */
static anykv_status check_transform(const struct check *check, const char *field, akv_u32 flags,
                                    akv_u32 known, unsigned arg, akv_u32 map)
{
    RETURN_IF(check_flags(check, field, flags, known | AKV_FLAG_ROTATE | AKV_FLAG_MAP));
    if (!(flags & AKV_FLAG_MAP))
        return ANYKV_OK;
    if (flags & AKV_FLAG_ROTATE)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: 0x%x rotates and has a map", check->kernel, field,
                      flags);
    if (map % 16)
        return REFUSE(check, ANYKV_E_ARG, "%s.map: %u is not a multiple of 16", check->kernel, map);
    return check_room(check, arg, (uint64_t)map + sizeof(akv_map));
}

/* ---- rows, tiles, pool ---- */

/* Rows of argument `arg`: dtype, alignment, extent; where they are written, no two share an
 * element. */
static anykv_status check_rows(const struct check *check, unsigned arg, const akv_rows *rows,
                               uint64_t tokens, akv_u32 dim, bool written)
{
    const uint64_t limit = INT64_MAX / 8;
    const char *what = check->launch ? akv_arg_specs[check->launch->kernel][arg].name : "rows";
    RETURN_IF(check_raw(check, "rows.dtype", rows->dtype));
    RETURN_IF(check_heads(check, "rows.heads", rows->heads));
    if (tokens == 0)
        return ANYKV_OK;
    uint64_t heads = rows->heads, elements = dim;
    if ((tokens > 1 && rows->token_stride > limit / 2 / (tokens - 1)) ||
        (heads > 1 && rows->head_stride > limit / 2 / (heads - 1)))
        return REFUSE(check, ANYKV_E_SHAPE, "%s.%s: strides %llu and %llu are too large",
                      check->kernel, what, (unsigned long long)rows->token_stride,
                      (unsigned long long)rows->head_stride);
    uint64_t by_token = (tokens - 1) * rows->token_stride,
             by_head = (heads - 1) * rows->head_stride;
    elements += by_token + by_head;
    if (written &&
        ((tokens > 1 && rows->token_stride < dim) || (heads > 1 && rows->head_stride < dim) ||
         (tokens > 1 && heads > 1 && rows->token_stride < by_head + dim &&
          rows->head_stride < by_token + dim)))
        return REFUSE(check, ANYKV_E_SHAPE,
                      "%s.%s: strides %llu and %llu make written rows overlap", check->kernel, what,
                      (unsigned long long)rows->token_stride,
                      (unsigned long long)rows->head_stride);
    uint64_t each = akv_raw_bytes(rows->dtype);
    if (check->launch && check->launch->arg[arg].offset % each)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: offset is not a multiple of %llu", check->kernel,
                      what, (unsigned long long)each);
    return check_room(check, arg, elements * each);
}

/* Rows in a tile: every index of an element must fit the 32-bit arithmetic of format.h. */
static anykv_status check_tile(const struct check *check, akv_u32 format, uint64_t rows,
                               akv_u32 dim, uint64_t *bytes_out)
{
    if (rows > AKV_MAX_TILE_ELEMENTS / akv_padded_dim(dim))
        return REFUSE(check, ANYKV_E_SHAPE,
                      "%s: %llu rows of %u, a tile has less than 2^29 elements", check->kernel,
                      (unsigned long long)rows, dim);
    *bytes_out = akv_tile_bytes(format, (akv_u32)rows, dim);
    return ANYKV_OK;
}

static anykv_status check_pool(const struct check *check, const akv_pool_map *map)
{
    if (map->slabs == 0 || map->slabs > AKV_MAX_SLABS)
        return REFUSE(check, ANYKV_E_ARG, "%s.pool.slabs: %u is not between 1 and %u",
                      check->kernel, map->slabs, AKV_MAX_SLABS);
    if (map->chunk_bytes == 0 || map->chunk_bytes % 16 || map->chunk_bytes >> 48 ||
        map->chunks_per_slab == 0)
        return REFUSE(check, ANYKV_E_ARG, "%s.pool: %u chunks of %llu bytes in a slab",
                      check->kernel, map->chunks_per_slab, (unsigned long long)map->chunk_bytes);
    for (unsigned k = 0; k < AKV_KINDS; k++) {
        uint64_t bytes = (uint64_t)map->block_bytes[k] * map->blocks_per_chunk[k];
        if (map->block_bytes[k] % 16 || bytes > map->chunk_bytes)
            return REFUSE(check, ANYKV_E_ARG,
                          "%s.pool: kind %u has %u blocks of %u bytes in chunks of %llu",
                          check->kernel, k, map->blocks_per_chunk[k], map->block_bytes[k],
                          (unsigned long long)map->chunk_bytes);
    }
    const struct akv_launch *launch = check->launch;
    if (!launch)
        return ANYKV_OK;
    if (launch->slabs != map->slabs)
        return REFUSE(check, ANYKV_E_ARG, "%s.slabs: %u, the pool map has %u", check->kernel,
                      launch->slabs, map->slabs);
    if (map->chunks_per_slab > (UINT64_C(1) << 56) / map->chunk_bytes)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.pool: a slab is larger than 2^56 bytes",
                      check->kernel);
    for (unsigned i = 0; i < launch->slabs; i++) { /* a pool that grew may have short slabs */
        RETURN_IF(akv_check_span(check->device, "slab", &launch->slab[i]));
        if (launch->slab[i].offset % 16 || launch->slab[i].bytes < map->chunk_bytes)
            return REFUSE(check, ANYKV_E_SHAPE,
                          "%s.slab %u: %llu bytes at offset %llu, the pool map has chunks of %llu, "
                          "%u to a slab",
                          check->kernel, i, (unsigned long long)launch->slab[i].bytes,
                          (unsigned long long)launch->slab[i].offset,
                          (unsigned long long)map->chunk_bytes, map->chunks_per_slab);
    }
    return ANYKV_OK;
}

/* `heads` tiles at `offset` lie inside a block of kind k. */
static anykv_status check_in_block(const struct check *check, const akv_pool_map *map, unsigned k,
                                   const char *field, akv_u32 offset, akv_u32 format, akv_u32 heads,
                                   akv_u32 tokens, akv_u32 dim)
{
    uint64_t bytes = (uint64_t)heads * akv_tile_bytes(format, tokens, dim);
    if (map->blocks_per_chunk[k] == 0 || offset % 16 || offset > map->block_bytes[k] ||
        bytes > map->block_bytes[k] - offset)
        return REFUSE(check, ANYKV_E_SHAPE,
                      "%s.%s: %u tiles at %u do not lie in a block of kind %u (%u bytes)",
                      check->kernel, field, heads, offset, k, map->block_bytes[k]);
    return ANYKV_OK;
}

/* ---- kernel by kernel ---- */

static anykv_status check_encode(struct check *check, const akv_encode_params *p, bool decode)
{
    const akv_u32 known = decode ? AKV_FLAG_SEARCH : AKV_FLAG_SEARCH | (15u << AKV_FLAG_PLANT_SHIFT);
    uint64_t bytes = 0;
    RETURN_IF(check_dim(check, "dim", p->dim));
    RETURN_IF(check_format(check, "format", p->format));
    RETURN_IF(check_transform(check, "flags", p->flags, known, decode ? 2 : 3, p->map));
    RETURN_IF(check_rows(check, decode ? 1 : 0, &p->rows, p->tokens, p->dim, decode));
    RETURN_IF(check_tile(check, p->format, (uint64_t)p->tokens * p->rows.heads, p->dim, &bytes));
    RETURN_IF(check_room(check, decode ? 0 : 1, bytes));
    check->empty = p->tokens == 0;
    return decode ? ANYKV_OK : check_room(check, 2, 4);
}

static anykv_status check_rotate(struct check *check, const akv_rotate_params *p)
{
    RETURN_IF(check_dim(check, "dim", p->dim));
    RETURN_IF(check_flags(check, "flags", p->flags, AKV_FLAG_ROTATE));
    uint64_t bytes = (uint64_t)p->rows * p->dim * 4;
    RETURN_IF(check_room(check, 0, bytes));
    RETURN_IF(check_room(check, 1, bytes));
    check->empty = p->rows == 0;
    return ANYKV_OK;
}

static anykv_status check_seal(struct check *check, const akv_seal_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_heads(check, "kv_heads", p->kv_heads));
    RETURN_IF(check_block_tokens(check, p->block_tokens));
    RETURN_IF(check_dim(check, "k_dim", p->k_dim));
    RETURN_IF(check_dim(check, "v_dim", p->v_dim));
    RETURN_IF(check_raw(check, "hot_type", p->hot_type));
    RETURN_IF(check_format(check, "k_format", p->k_format));
    RETURN_IF(check_format(check, "v_format", p->v_format));
    /* Where the layers' maps stand is on the device. */
    RETURN_IF(check_transform(check, "k_flags", p->k_flags, AKV_FLAG_SEARCH, 3, 0));
    RETURN_IF(check_transform(check, "v_flags", p->v_flags, AKV_FLAG_SEARCH, 3, 0));
    RETURN_IF(check_room(check, 0, (uint64_t)p->layers * sizeof(akv_seal_layer)));
    RETURN_IF(check_room(check, 1, (uint64_t)p->moves * sizeof(akv_move)));
    check->empty = p->moves == 0 || p->layers == 0;
    return check_room(check, 2, 4);
}

static anykv_status check_reencode(struct check *check, const akv_reencode_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_heads(check, "kv_heads", p->kv_heads));
    RETURN_IF(check_block_tokens(check, p->block_tokens));
    RETURN_IF(check_dim(check, "k_dim", p->k_dim));
    RETURN_IF(check_dim(check, "v_dim", p->v_dim));
    RETURN_IF(check_format(check, "k_source", p->k_source));
    RETURN_IF(check_format(check, "v_source", p->v_source));
    RETURN_IF(check_format(check, "k_format", p->k_format));
    RETURN_IF(check_format(check, "v_format", p->v_format));
    if ((akv_format_raw(p->k_format) && p->k_format != p->k_source) ||
        (akv_format_raw(p->v_format) && p->v_format != p->v_source))
        return REFUSE(check, ANYKV_E_ARG,
                      "reencode: from %u/%u to %u/%u, a raw format comes from itself only",
                      p->k_source, p->v_source, p->k_format, p->v_format);
    RETURN_IF(check_flags(check, "k_flags", p->k_flags, AKV_FLAG_SEARCH));
    RETURN_IF(check_flags(check, "v_flags", p->v_flags, AKV_FLAG_SEARCH));
    RETURN_IF(check_room(check, 0, (uint64_t)p->layers * sizeof(akv_seal_layer)));
    RETURN_IF(check_room(check, 1, (uint64_t)p->moves * sizeof(akv_move)));
    check->empty = p->moves == 0 || p->layers == 0;
    return check_room(check, 2, 4);
}

static anykv_status check_shift(struct check *check, const akv_shift_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_heads(check, "kv_heads", p->kv_heads));
    RETURN_IF(check_block_tokens(check, p->block_tokens));
    RETURN_IF(check_dim(check, "dim", p->dim));
    RETURN_IF(check_format(check, "format", p->format));
    if (p->kind >= AKV_KINDS)
        return REFUSE(check, ANYKV_E_ARG, "shift.kind: %u is not below %u", p->kind, AKV_KINDS);
    if (akv_format_raw(p->format))
        RETURN_IF(check_flags(check, "flags", p->flags, 0));
    RETURN_IF(check_transform(check, "flags", p->flags, AKV_FLAG_SEARCH, 2, p->map));
    if (p->pairs > p->dim / 2)
        return REFUSE(check, ANYKV_E_ARG, "shift.pairs: %u is more than half of dim, %u", p->pairs,
                      p->dim);
    if (p->rope > AKV_ROPE_HALF)
        return REFUSE(check, ANYKV_E_ARG, "shift.rope: %u is neither 0 nor 1", p->rope);
    if (p->blocks > UINT32_MAX / 256u / p->kv_heads)
        return REFUSE(check, ANYKV_E_SHAPE, "shift.blocks: %u are too many", p->blocks);
    RETURN_IF(check_in_block(check, &p->pool, p->kind, "offset", p->offset, p->format, p->kv_heads,
                             p->block_tokens, p->dim));
    RETURN_IF(check_room(check, 0, (uint64_t)p->blocks * 4));
    RETURN_IF(check_room(check, 3, (uint64_t)p->pairs * 8));
    check->empty = p->blocks == 0;
    return check_room(check, 1, 4);
}

static anykv_status check_append(struct check *check, const akv_append_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_dim(check, "k_dim", p->k_dim));
    RETURN_IF(check_dim(check, "v_dim", p->v_dim));
    RETURN_IF(check_raw(check, "hot_type", p->hot_type));
    RETURN_IF(check_room(check, 0, sizeof(akv_step_head)));
    /* How many tokens there are stands in the descriptor; one row at least must be there. */
    RETURN_IF(check_rows(check, 1, &p->k, 1, p->k_dim, false));
    RETURN_IF(check_rows(check, 2, &p->v, 1, p->v_dim, false));
    if (p->k.heads != p->v.heads)
        return REFUSE(check, ANYKV_E_ARG, "append: %u heads of k, %u of v", p->k.heads, p->v.heads);
    RETURN_IF(check_in_block(check, &p->pool, 0, "k_offset", p->k_offset, p->hot_type, p->k.heads,
                             16, p->k_dim));
    RETURN_IF(check_in_block(check, &p->pool, 0, "v_offset", p->v_offset, p->hot_type, p->v.heads,
                             16, p->v_dim));
    check->empty = p->max_tokens == 0;
    return ANYKV_OK;
}

static anykv_status check_gather(struct check *check, const akv_gather_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_dim(check, "dim", p->dim));
    RETURN_IF(check_block_tokens(check, p->block_tokens));
    RETURN_IF(check_transform(check, "flags", p->flags, 0, 2, p->map));
    if (p->order != AKV_ORDER_ROW && p->order != AKV_ORDER_QUAD)
        return REFUSE(check, ANYKV_E_ARG, "gather.order: %u is not an order", p->order);
    RETURN_IF(check_rows(check, 1, &p->rows, p->tokens, p->dim, true));
    for (unsigned k = 0; k < AKV_KINDS; k++) {
        if (p->format[k] == 0)
            continue;
        RETURN_IF(check_format(check, "format", p->format[k]));
        RETURN_IF(check_in_block(check, &p->pool, k, "offset", p->offset[k], p->format[k],
                                 p->rows.heads, p->block_tokens, p->dim));
    }
    uint64_t have = (uint64_t)p->blocks * p->block_tokens;
    if (p->tokens && (p->first_row >= p->block_tokens || (uint64_t)p->first_row + p->tokens > have))
        return REFUSE(check, ANYKV_E_SHAPE, "gather: rows %u to %llu of %u blocks of %u",
                      p->first_row, (unsigned long long)p->first_row + p->tokens, p->blocks,
                      p->block_tokens);
    check->empty = p->tokens == 0;
    return check_room(check, 0, (uint64_t)p->blocks * 4);
}

static anykv_status check_copy(struct check *check, const akv_copy_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    if (p->bytes == 0 || p->bytes % 16)
        return REFUSE(check, ANYKV_E_ARG, "copy.bytes: %u is not a multiple of 16", p->bytes);
    if (p->direction > AKV_COPY_LINEAR_POOL)
        return REFUSE(check, ANYKV_E_ARG, "copy.direction: %u is unknown", p->direction);
    check->empty = p->moves == 0;
    RETURN_IF(check_room(check, 0, (uint64_t)p->moves * sizeof(akv_move)));
    if (p->direction == AKV_COPY_POOL_POOL)
        return ANYKV_OK;
    return check_room(check, 1, p->moves ? p->bytes : 0);
}

static anykv_status check_attend_tiles(struct check *check, const akv_attend_params *p)
{
    bool any = false;
    for (unsigned k = 0; k < AKV_KINDS; k++) {
        if (p->tiles.k_format[k] == 0)
            continue;
        any = true;
        RETURN_IF(check_format(check, "tiles.k_format", p->tiles.k_format[k]));
        RETURN_IF(check_format(check, "tiles.v_format", p->tiles.v_format[k]));
        RETURN_IF(check_in_block(check, &p->pool, k, "tiles.k_offset", p->tiles.k_offset[k],
                                 p->tiles.k_format[k], p->kv_heads, 16, p->k_dim));
        RETURN_IF(check_in_block(check, &p->pool, k, "tiles.v_offset", p->tiles.v_offset[k],
                                 p->tiles.v_format[k], p->kv_heads, 16, p->v_dim));
    }
    if (!any)
        return REFUSE(check, ANYKV_E_ARG, "attend.tiles: no kind has a format");
    return ANYKV_OK;
}

/* Arguments that a flag asks for. */
static anykv_status check_attend_args(struct check *check, const akv_attend_params *p)
{
    static const struct {
        akv_u32 flag;
        unsigned arg;
    } wanted[] = {{AKV_ATTEND_LSE, 3}, {AKV_ATTEND_MASK, 4}, {AKV_ATTEND_SINKS, 5}};
    if (!check->launch)
        return ANYKV_OK;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if ((p->flags & wanted[i].flag) && !check->launch->arg[wanted[i].arg].mem)
            return REFUSE(check, ANYKV_E_ARG, "attend.%s: no memory, the flags ask for it",
                          akv_arg_specs[AKV_K_ATTEND][wanted[i].arg].name);
    if (p->flags & AKV_ATTEND_LSE)
        RETURN_IF(check_room(check, 3, (uint64_t)p->q_heads * 4));
    if (p->flags & AKV_ATTEND_SINKS)
        RETURN_IF(check_room(check, 5, (uint64_t)p->q_heads * 4));
    struct akv_check need = {true, AKV_CLASS_BOUNDED, 0, NULL};
    check->device->backend->check(check->device, AKV_K_ATTEND, p, &need);
    if (!need.supported)
        return REFUSE(check, ANYKV_E_UNSUPPORTED, "attend: %s", need.reason);
    return check_room(check, 6, need.scratch_bytes);
}

static anykv_status check_attend(struct check *check, const akv_attend_params *p)
{
    const akv_u32 known = AKV_ATTEND_BIDIRECTIONAL | AKV_ATTEND_MASK | AKV_ATTEND_SINKS |
                          AKV_ATTEND_LSE | AKV_ATTEND_PRECISE;
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_heads(check, "kv_heads", p->kv_heads));
    RETURN_IF(check_heads(check, "q_heads", p->q_heads));
    RETURN_IF(check_dim(check, "k_dim", p->k_dim));
    RETURN_IF(check_dim(check, "v_dim", p->v_dim));
    RETURN_IF(check_transform(check, "k_flags", p->k_flags, 0, 7, p->k_map));
    RETURN_IF(check_transform(check, "v_flags", p->v_flags, 0, 7, p->v_map));
    RETURN_IF(check_flags(check, "flags", p->flags, known));
    if (p->q_heads % p->kv_heads || p->q.heads != p->q_heads || p->out.heads != p->q_heads)
        return REFUSE(check, ANYKV_E_ARG, "attend: %u q heads, %u kv heads, views of %u and %u",
                      p->q_heads, p->kv_heads, p->q.heads, p->out.heads);
    if (!isfinite(p->scale) || !isfinite(p->cap) || p->cap < 0.0f)
        return REFUSE(check, ANYKV_E_ARG, "attend: scale %g, cap %g", (double)p->scale,
                      (double)p->cap);
    if (p->max_tokens == 0 || p->max_sequences == 0 || p->max_length == 0)
        return REFUSE(check, ANYKV_E_ARG,
                      "attend: declared maxima %u tokens, %u sequences, %u long", p->max_tokens,
                      p->max_sequences, p->max_length);
    if (p->bound_sequences > p->max_sequences || p->bound_seq_tokens > p->max_tokens ||
        p->bound_length > p->max_length)
        return REFUSE(check, ANYKV_E_ARG, "attend: bounds %u, %u, %u beyond the declared maxima",
                      p->bound_sequences, p->bound_seq_tokens, p->bound_length);
    RETURN_IF(check_attend_tiles(check, p));
    if (check->launch)
        RETURN_IF(check_room(check, 0, sizeof(akv_step_head)));
    RETURN_IF(check_rows(check, 1, &p->q, 1, p->k_dim, false));
    RETURN_IF(check_rows(check, 2, &p->out, 1, p->v_dim, true));
    return check_attend_args(check, p);
}

/* ---- evict family ---- */

/* Tiles of the kinds that have a format; values only where v_dim is not 0. */
static anykv_status check_kinds(struct check *check, const akv_pool_map *pool, const akv_tile_map *tiles,
                                akv_u32 heads, akv_u32 tokens, akv_u32 k_dim, akv_u32 v_dim)
{
    for (unsigned k = 0; k < AKV_KINDS; k++) {
        if (tiles->k_format[k] == 0)
            continue;
        RETURN_IF(check_format(check, "tiles.k_format", tiles->k_format[k]));
        RETURN_IF(check_in_block(check, pool, k, "tiles.k_offset", tiles->k_offset[k], tiles->k_format[k],
                                 heads, tokens, k_dim));
        if (v_dim == 0)
            continue;
        RETURN_IF(check_format(check, "tiles.v_format", tiles->v_format[k]));
        RETURN_IF(check_in_block(check, pool, k, "tiles.v_offset", tiles->v_offset[k], tiles->v_format[k],
                                 heads, tokens, v_dim));
    }
    return ANYKV_OK;
}

static anykv_status check_row_range(const struct check *check, akv_u32 blocks, akv_u32 tokens, akv_u32 rows,
                                    akv_u32 stride)
{
    if (rows > (uint64_t)blocks * tokens)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.rows: %u, %u blocks of %u hold less", check->kernel, rows,
                      blocks, tokens);
    if (stride < rows || rows > 0x7FFFFFFFu)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.stride: %u for %u rows", check->kernel, stride, rows);
    return ANYKV_OK;
}

static anykv_status check_score(struct check *check, const akv_score_params *p, bool mean)
{
    const bool ratio = !mean && p->method == AKV_SCORE_RATIO;
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_heads(check, "kv_heads", p->kv_heads));
    RETURN_IF(check_block_tokens(check, p->block_tokens));
    RETURN_IF(check_dim(check, "k_dim", p->k_dim));
    RETURN_IF(check_dim(check, "v_dim", p->v_dim));
    RETURN_IF(check_flags(check, "k_flags", p->k_flags, AKV_FLAG_ROTATE));
    if (p->method >= AKV_SCORE_METHODS)
        return REFUSE(check, ANYKV_E_ARG, "%s.method: %u is unknown", check->kernel, p->method);
    RETURN_IF(check_kinds(check, &p->pool, &p->tiles, p->kv_heads, p->block_tokens, p->k_dim,
                          ratio ? p->v_dim : 0));
    RETURN_IF(check_row_range(check, p->blocks, p->block_tokens, p->rows, p->stride));
    RETURN_IF(check_room(check, 0, (uint64_t)p->blocks * 4));
    check->empty = p->rows == 0;
    if (mean)
        return check_room(check, 1, (p->rows + (uint64_t)AKV_MEAN_ROWS - 1) / AKV_MEAN_ROWS * 2 *
                                        p->kv_heads * p->k_dim * 4);
    if (p->method == AKV_SCORE_AFFINE || p->method == AKV_SCORE_DIFF)
        RETURN_IF(check_room(check, 1, ((uint64_t)p->k_dim * 2 + 1) * p->kv_heads * 4));
    return check_room(check, 2, p->rows ? ((uint64_t)p->kv_heads * p->stride) * 4 : 0);
}

static anykv_status check_mass(struct check *check, const akv_mass_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_heads(check, "kv_heads", p->kv_heads));
    RETURN_IF(check_heads(check, "q_heads", p->q_heads));
    RETURN_IF(check_block_tokens(check, p->block_tokens));
    RETURN_IF(check_dim(check, "k_dim", p->k_dim));
    RETURN_IF(check_flags(check, "k_flags", p->k_flags, AKV_FLAG_ROTATE));
    if (p->q_heads % p->kv_heads)
        return REFUSE(check, ANYKV_E_ARG, "mass: %u q heads, %u kv heads", p->q_heads, p->kv_heads);
    if (!isfinite(p->scale) || !isfinite(p->cap) || p->cap < 0.0f)
        return REFUSE(check, ANYKV_E_ARG, "mass: scale %g, cap %g", (double)p->scale, (double)p->cap);
    RETURN_IF(check_kinds(check, &p->pool, &p->tiles, p->kv_heads, p->block_tokens, p->k_dim, 0));
    RETURN_IF(check_row_range(check, p->blocks, p->block_tokens, p->rows, p->stride));
    RETURN_IF(check_room(check, 0, (uint64_t)p->blocks * 4));
    uint64_t pairs = (uint64_t)p->queries * p->q_heads;
    RETURN_IF(check_room(check, 1, pairs * p->k_dim * 8));
    RETURN_IF(check_room(check, 2, pairs * 4));
    RETURN_IF(check_room(check, 3, (uint64_t)p->queries * 4));
    check->empty = p->rows == 0 || p->queries == 0;
    return check_room(check, 4, check->empty ? 0 : (uint64_t)p->kv_heads * p->stride * 4);
}

static anykv_status check_select(struct check *check, const akv_select_params *p)
{
    if (p->heads == 0 || p->heads > AKV_SELECT_HEADS)
        return REFUSE(check, ANYKV_E_ARG, "select.heads: %u is not between 1 and %u", p->heads,
                      AKV_SELECT_HEADS);
    RETURN_IF(check_flags(check, "flags", p->flags, AKV_SELECT_ADAPTIVE | AKV_SELECT_SHARED));
    if ((p->flags & AKV_SELECT_ADAPTIVE) && (p->flags & AKV_SELECT_SHARED))
        return REFUSE(check, ANYKV_E_ARG, "select.flags: heads share their rows or a budget, not both");
    if (p->first > p->last || p->last > p->rows || p->rows > p->stride || p->rows > 0x7FFFFFFFu)
        return REFUSE(check, ANYKV_E_SHAPE, "select: candidates %u to %u of %u rows, stride %u", p->first,
                      p->last, p->rows, p->stride);
    if (p->unit == 0 || (p->last - p->first) % p->unit)
        return REFUSE(check, ANYKV_E_ARG, "select.unit: %u does not divide %u candidates", p->unit,
                      p->last - p->first);
    if (p->pool % 2 == 0 || p->pool > 255 || (p->pool > 1 && p->unit > 1))
        return REFUSE(check, ANYKV_E_ARG, "select.pool: %u is even, above 255, or joins a unit of %u",
                      p->pool, p->unit);
    uint64_t lists = (uint64_t)p->problems * p->heads, room = lists * p->stride;
    if (lists > 0x7FFFFFFFu || room >> 40 || (uint64_t)p->rows * p->heads > 0x7FFFFFFFu)
        return REFUSE(check, ANYKV_E_SHAPE, "select: %u problems of %u heads", p->problems, p->heads);
    RETURN_IF(check_room(check, 0, room * 4));
    RETURN_IF(check_room(check, 1, room * 4));
    check->empty = lists == 0;
    return check_room(check, 2, lists * 4);
}

static anykv_status check_compact(struct check *check, const akv_compact_params *p)
{
    RETURN_IF(check_pool(check, &p->pool));
    RETURN_IF(check_heads(check, "kv_heads", p->kv_heads));
    RETURN_IF(check_block_tokens(check, p->block_tokens));
    for (unsigned side = 0; side < 2; side++) {
        uint64_t bytes;
        bool inside = false;
        RETURN_IF(check_dim(check, "dim", p->dim[side]));
        RETURN_IF(check_format(check, "format", p->format[side]));
        bytes = (uint64_t)p->kv_heads * akv_tile_bytes(p->format[side], p->block_tokens, p->dim[side]);
        for (unsigned k = 0; k < AKV_KINDS; k++)
            inside = inside || (p->pool.blocks_per_chunk[k] && p->offset[side] <= p->pool.block_bytes[k] &&
                                bytes <= p->pool.block_bytes[k] - p->offset[side]);
        if (!inside || p->offset[side] % 16)
            return REFUSE(check, ANYKV_E_SHAPE, "compact.offset: %u tiles at %u lie in a block of no kind",
                          p->kv_heads, p->offset[side]);
    }
    if (p->in_place > 1 || (p->in_place && p->to_blocks > p->from_blocks))
        return REFUSE(check, ANYKV_E_ARG, "compact: %u blocks become %u in place", p->from_blocks,
                      p->to_blocks);
    RETURN_IF(check_room(check, 0, (uint64_t)p->from_blocks * 4));
    RETURN_IF(check_room(check, 1, (uint64_t)p->to_blocks * 4));
    check->empty = p->to_blocks == 0;
    RETURN_IF(check_room(check, 2, check->empty ? 0 : (uint64_t)p->kv_heads * p->stride * 4));
    return check_room(check, 3, check->empty ? 0 : (uint64_t)p->kv_heads * 4);
}

/* ---- the launch as a whole ---- */

static anykv_status check_kernel(struct check *check, enum akv_kernel_id kernel, const void *params)
{
    switch (kernel) {
    case AKV_K_ENCODE:
        return check_encode(check, params, false);
    case AKV_K_DECODE:
        return check_encode(check, params, true);
    case AKV_K_ROTATE:
        return check_rotate(check, params);
    case AKV_K_SEAL:
        return check_seal(check, params);
    case AKV_K_APPEND:
        return check_append(check, params);
    case AKV_K_GATHER:
        return check_gather(check, params);
    case AKV_K_COPY:
        return check_copy(check, params);
    case AKV_K_ATTEND:
        return check_attend(check, params);
    case AKV_K_REENCODE:
        return check_reencode(check, params);
    case AKV_K_SHIFT:
        return check_shift(check, params);
    case AKV_K_SCORE:
        return check_score(check, params, false);
    case AKV_K_MEAN:
        return check_score(check, params, true);
    case AKV_K_MASS:
        return check_mass(check, params);
    case AKV_K_SELECT:
        return check_select(check, params);
    case AKV_K_COMPACT:
        return check_compact(check, params);
    case AKV_K_BX16_COUNT:
    case AKV_K_BX16_ENCODE:
    case AKV_K_BX16_DECODE:
        return akv_check_bx16(check, kernel, params);
    case AKV_K_RANS_COUNT:
    case AKV_K_RANS_ENCODE:
    case AKV_K_RANS_DECODE:
        return akv_check_rans(check, kernel, params);
    case AKV_K_LOWRANK_PROJECT:
    case AKV_K_LOWRANK_READ:
    case AKV_K_LOWRANK_ROWS:
        return akv_check_lowrank(check, kernel, params);
    case AKV_K_MULTIPLY:
        return akv_check_multiply(check, params);
    case AKV_KERNEL_COUNT:
        break;
    }
    return REFUSE(check, ANYKV_E_INTERNAL, "kernel %d has no check", (int)kernel);
}

static bool pool_written(const struct akv_launch *launch)
{
    if (launch->kernel == AKV_K_COPY)
        return ((const akv_copy_params *)launch->params)->direction != AKV_COPY_POOL_LINEAR;
    return launch->kernel == AKV_K_SEAL || launch->kernel == AKV_K_APPEND ||
           launch->kernel == AKV_K_REENCODE || launch->kernel == AKV_K_SHIFT ||
           launch->kernel == AKV_K_COMPACT;
}

static bool arg_written(const struct akv_launch *launch, unsigned arg)
{
    if (launch->kernel == AKV_K_COPY && arg == 1)
        return ((const akv_copy_params *)launch->params)->direction == AKV_COPY_POOL_LINEAR;
    return akv_arg_specs[launch->kernel][arg].written;
}

/* What is written meets nothing else: other arguments, slabs, other slabs. */
static anykv_status check_overlap(const struct check *check)
{
    const struct akv_launch *launch = check->launch;
    uint32_t arguments = akv_kernels[launch->kernel].arguments;
    bool pool = pool_written(launch);
    for (unsigned a = 0; a < arguments; a++) {
        bool written = arg_written(launch, a);
        const char *name = akv_arg_specs[launch->kernel][a].name;
        for (unsigned b = a + 1; b < arguments; b++)
            if ((written || arg_written(launch, b)) &&
                akv_spans_meet(check->device, &launch->arg[a], &launch->arg[b]))
                return REFUSE(check, ANYKV_E_ARG, "%s: %s and %s overlap", check->kernel, name,
                              akv_arg_specs[launch->kernel][b].name);
        for (unsigned s = 0; (written || pool) && s < launch->slabs; s++)
            if (akv_spans_meet(check->device, &launch->arg[a], &launch->slab[s]))
                return REFUSE(check, ANYKV_E_ARG, "%s: %s and slab %u overlap", check->kernel, name,
                              s);
    }
    for (unsigned s = 0; pool && s < launch->slabs; s++)
        for (unsigned t = s + 1; t < launch->slabs; t++)
            if (akv_spans_meet(check->device, &launch->slab[s], &launch->slab[t]))
                return REFUSE(check, ANYKV_E_ARG, "%s: slabs %u and %u overlap", check->kernel, s,
                              t);
    return ANYKV_OK;
}

anykv_status akv_check_params(struct akv_device *device, enum akv_kernel_id kernel,
                              const void *params, bool *empty_out)
{
    if ((unsigned)kernel >= AKV_KERNEL_COUNT)
        return akv_fail(device->context, ANYKV_E_ARG, "launch.kernel: %d is unknown", (int)kernel);
    if (!params)
        return akv_fail(device->context, ANYKV_E_ARG, "%s.params: NULL", akv_kernels[kernel].name);
    struct check check = {device, NULL, akv_kernels[kernel].name, false};
    anykv_status status = check_kernel(&check, kernel, params);
    *empty_out = check.empty;
    return status;
}

anykv_status akv_check_launch(struct akv_device *device, const struct akv_launch *launch,
                              bool *empty_out)
{
    if ((unsigned)launch->kernel >= AKV_KERNEL_COUNT)
        return akv_fail(device->context, ANYKV_E_ARG, "launch.kernel: %d is unknown",
                        (int)launch->kernel);
    const struct akv_kernel_info *kernel = &akv_kernels[launch->kernel];
    if (!launch->params)
        return akv_fail(device->context, ANYKV_E_ARG, "%s.params: NULL", kernel->name);
    if (launch->slabs > AKV_MAX_SLABS)
        return akv_fail(device->context, ANYKV_E_ARG, "%s.slabs: %u is beyond %u", kernel->name,
                        launch->slabs, AKV_MAX_SLABS);
    for (unsigned a = 0; a < kernel->arguments; a++) {
        const struct akv_arg_spec *spec = &akv_arg_specs[launch->kernel][a];
        if (spec->optional && !launch->arg[a].mem)
            continue;
        RETURN_IF(akv_check_span(device, spec->name, &launch->arg[a]));
        if (launch->arg[a].offset % spec->align)
            return akv_fail(device->context, ANYKV_E_ARG,
                            "%s.%s: offset %llu is not a multiple of %u", kernel->name, spec->name,
                            (unsigned long long)launch->arg[a].offset, spec->align);
    }
    struct check check = {device, launch, kernel->name, false};
    RETURN_IF(check_kernel(&check, launch->kernel, launch->params));
    if (!check.empty)
        RETURN_IF(check_overlap(&check));
    *empty_out = check.empty;
    return ANYKV_OK;
}
