/* SPDX-License-Identifier: Apache-2.0 */
/* What launches of the compress family must satisfy. */
#include "../lib/kernel/lowrank.h"
#include "../lib/kernel/rans.h"
#include "check.h"

anykv_status akv_check_bx16(struct check *check, enum akv_kernel_id kernel, const akv_bx16_params *p)
{
    const bool count = kernel == AKV_K_BX16_COUNT, decode = kernel == AKV_K_BX16_DECODE;
    if (p->elements > AKV_BX16_MAX)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.elements: %u are more than 2^30", check->kernel, p->elements);
    check->empty = p->elements == 0;
    if (check->empty)
        return ANYKV_OK;
    RETURN_IF(check_room(check, decode, (uint64_t)p->elements * 2));
    if (count)
        return check_room(check, 1, 256 * 4);
    if (p->escapes > p->elements)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.escapes: %u of %u elements", check->kernel, p->escapes,
                      p->elements);
    for (unsigned i = 1; i < 16; i++)
        if (akv_bx16_entry(p, i - 1) >= akv_bx16_entry(p, i))
            return REFUSE(check, ANYKV_E_ARG, "%s.table: entry %u is not above the one before", check->kernel, i);
    RETURN_IF(check_room(check, !decode, akv_bx16_bytes(p->elements, p->escapes)));
    return decode ? check_room(check, 2, 4) : ANYKV_OK;
}

/* Symbols in range, and every word of a step inside argument `arg`. */
static anykv_status check_symbols(struct check *check, unsigned arg, const akv_rans_params *p)
{
    static const akv_u32 known[][3] = {{2, 0, 0}, {2, 1, 0}, {4, 0, 0}, {4, 1, 1}, {4, 2, 2}, {8, 0, 4},
                                       {8, 0, AKV_RANS_SIGNED}};
    const uint64_t tiles = p->tiles, stripes = (uint64_t)p->heads * p->groups, steps = tiles * p->tile_steps;
    unsigned width = 0;
    while (width < 7 && (p->plane[0].bits != known[width][0] || p->plane[1].bits != known[width][1] ||
                         p->raw != known[width][2]))
        width++;
    if (width == 7)
        return REFUSE(check, ANYKV_E_ARG, "%s.plane: %u and %u bits, %u of them raw, are of no format", check->kernel,
                      p->plane[0].bits, p->plane[1].bits, p->raw);
    if (p->centre > 255)
        return REFUSE(check, ANYKV_E_ARG, "%s.centre: %u is more than 255", check->kernel, p->centre);
    if (p->last != 32 && p->last != 16)
        return REFUSE(check, ANYKV_E_ARG, "%s.last: %u is neither 16 nor 32", check->kernel, p->last);
    if (tiles > AKV_RANS_MAX || p->tile_steps > AKV_RANS_MAX || p->heads > AKV_RANS_MAX || p->groups > AKV_RANS_MAX ||
        steps > AKV_RANS_MAX || stripes > AKV_RANS_MAX || steps * stripes > AKV_RANS_MAX)
        return REFUSE(check, ANYKV_E_SHAPE, "%s: %llu steps of %llu stripes are more than 2^25", check->kernel,
                      (unsigned long long)steps, (unsigned long long)stripes);
    check->empty = steps * stripes == 0;
    for (unsigned i = 0; i < 2 && !check->empty; i++) {
        const akv_rans_plane *plane = &p->plane[i];
        const uint64_t words = plane->at + (tiles - 1) * plane->tile + (uint64_t)(p->tile_steps - 1) * plane->step +
                               (uint64_t)(p->heads - 1) * plane->head + (uint64_t)(p->groups - 1) * plane->group +
                               (uint64_t)(plane->bits - 1) * plane->word + 1;
        if (plane->bits == 0)
            continue;
        if (words > UINT32_MAX)
            return REFUSE(check, ANYKV_E_SHAPE, "%s.plane: %llu words are more than 2^32", check->kernel,
                          (unsigned long long)words);
        /* The last word of a tile's last step may have no symbols and not be there. */
        RETURN_IF(check_room(check, arg, words * 4 - (p->last == 16 ? (uint64_t)plane->bits / 2 * plane->word * 4 : 0)));
    }
    return ANYKV_OK;
}

anykv_status akv_check_rans(struct check *check, enum akv_kernel_id kernel, const akv_rans_params *p)
{
    const bool decode = kernel == AKV_K_RANS_DECODE;
    RETURN_IF(check_symbols(check, decode ? 2 : 0, p));
    if (check->empty)
        return ANYKV_OK;
    if (kernel == AKV_K_RANS_COUNT)
        return check_room(check, 1, (uint64_t)akv_rans_stripes(p) * AKV_RANS_LANES * AKV_RANS_CLASSES * 4);
    if (p->tables == 0 || p->tables > AKV_RANS_TABLES)
        return REFUSE(check, ANYKV_E_ARG, "%s.tables: %u is not between 1 and 16", check->kernel, p->tables);
    RETURN_IF(check_room(check, 1, (uint64_t)akv_rans_model_words(p) * 4));
    if (!decode) {
        RETURN_IF(check_room(check, 2, akv_rans_body_most(p)));
        return check_room(check, 3, akv_rans_body_most(p));
    }
    if (p->words > akv_rans_body_most(p) / 4)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.words: %u are more than the symbols take", check->kernel, p->words);
    RETURN_IF(check_room(check, 0, ((uint64_t)akv_rans_segments(p) * 2 + p->words) * 4));
    return check_room(check, 3, 4);
}

anykv_status akv_check_lowrank(struct check *check, enum akv_kernel_id kernel, const akv_lowrank_params *p)
{
    const bool project = kernel == AKV_K_LOWRANK_PROJECT, read = kernel == AKV_K_LOWRANK_READ;
    RETURN_IF(check_dim(check, "dim", p->dim));
    RETURN_IF(check_heads(check, "heads", p->heads));
    const uint64_t wide = (uint64_t)p->heads * p->dim, each = read ? p->columns : wide;
    if (each < wide)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.columns: %u for %u heads of %u", check->kernel, p->columns, p->heads,
                      p->dim);
    if (p->tokens > AKV_LOWRANK_MAX / each)
        return REFUSE(check, ANYKV_E_SHAPE, "%s: %u tokens of %u heads of %u are more than 2^30 elements", check->kernel,
                      p->tokens, p->heads, p->dim);
    check->empty = p->tokens == 0;
    if (check->empty)
        return ANYKV_OK;
    const uint64_t elements = p->tokens * wide;
    RETURN_IF(check_room(check, project ? 4 : read ? 2 : 0, elements * 4));
    if (read) {
        RETURN_IF(check_room(check, 0, (uint64_t)p->tokens * p->columns));
        return check_room(check, 1, wide);
    }
    RETURN_IF(check_raw(check, "dtype", p->dtype));
    if (p->pairs > p->dim / 2 || p->rope > AKV_ROPE_HALF)
        return REFUSE(check, ANYKV_E_ARG, "%s.pairs: %u of a head of %u, in order %u", check->kernel, p->pairs, p->dim,
                      p->rope);
    const unsigned centre = project ? 2 : 1, rows = project ? 0 : 3;
    if (check->launch && check->launch->arg[rows].offset % akv_raw_bytes(p->dtype))
        return REFUSE(check, ANYKV_E_ARG, "%s.rows: offset %llu is within an element", check->kernel,
                      (unsigned long long)check->launch->arg[rows].offset);
    RETURN_IF(check_room(check, rows, elements * akv_raw_bytes(p->dtype)));
    if (project)
        RETURN_IF(check_room(check, 1, wide * p->dim * 4));
    if (check->launch && check->launch->arg[centre].mem)
        RETURN_IF(check_room(check, centre, wide * 2));
    return check_room(check, centre + 1, (uint64_t)p->pairs * 8);
}

/* Bytes of `batch` matrices of rows x columns, 0 where they are none or too many. */
static uint64_t matrix_bytes(uint64_t rows, uint32_t columns, uint32_t row, uint64_t step, uint32_t batch)
{
    const uint64_t limit = AKV_LOWRANK_MAX * 4ull;
    if (columns == 0 || columns > row || rows > limit / row || step > limit / batch)
        return 0;
    const uint64_t elements = (batch - 1) * step + (rows - 1) * row + columns;
    return elements > limit ? 0 : elements * 4;
}

anykv_status akv_check_multiply(struct check *check, const akv_multiply_params *p)
{
    const uint64_t most = 0x7FFFFFFF;
    check->empty = p->m == 0 || p->n == 0 || p->batch == 0;
    if (check->empty)
        return ANYKV_OK;
    if (p->batch > 65535u || p->lda > most || p->ldb > most || p->ldc > most)
        return REFUSE(check, ANYKV_E_SHAPE, "multiply: %u products, rows of %u, %u, %u elements", p->batch, p->lda,
                      p->ldb, p->ldc);
    const uint64_t bytes[3] = {matrix_bytes(p->m, p->k, p->lda, p->a_step, p->batch),
                               matrix_bytes(p->k, p->n, p->ldb, p->b_step, p->batch),
                               matrix_bytes(p->m, p->n, p->ldc, p->c_step, p->batch)};
    for (unsigned i = 0; i < 3; i++) {
        if (bytes[i] == 0)
            return REFUSE(check, ANYKV_E_SHAPE, "multiply.%s: %u products of %u x %u x %u in rows of %u, %u, %u",
                          akv_arg_specs[AKV_K_MULTIPLY][i].name, p->batch, p->m, p->n, p->k, p->lda, p->ldb, p->ldc);
        RETURN_IF(check_room(check, i, bytes[i]));
    }
    /* Products are done in any order: what they write is apart, products side by side or rows behind rows. */
    if (p->batch > 1 && (p->c_step < p->n || (p->m > 1 && (p->batch - 1) * p->c_step + p->n > p->ldc &&
                                              p->c_step < (uint64_t)(p->m - 1) * p->ldc + p->n)))
        return REFUSE(check, ANYKV_E_ARG, "multiply.c_step: %llu, products of %u x %u in rows of %u meet",
                      (unsigned long long)p->c_step, p->m, p->n, p->ldc);
    return ANYKV_OK;
}
