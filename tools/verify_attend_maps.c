/* SPDX-License-Identifier: Apache-2.0 */
/* verify: means and matrices of the cases of attention. */
#include "../lib/half.h"
#include "../lib/maps.h"
#include "verify_attend.h"
#include <math.h>

static double spread(uint64_t *state)
{
    return (double)(verify_random(state) >> 11) * 0x1p-52 - 1.0;
}

/* Records: keys, values; then keys of each head alone, values of each head alone. */
static uint32_t head_record(const struct attend_case *c, uint32_t side, uint32_t head)
{
    return 2 + side * c->kv_heads + head;
}

bool attend_maps(struct verify *v, struct attend_case *c, uint64_t *state)
{
    const uint32_t heads = c->kv_heads, variant = c->map;
    uint64_t turns[AKV_MAX_HEAD_DIM / 2], at[2] = {0, 0};
    uint16_t *mean = verify_alloc(v, (uint64_t)heads * c->dim[0] * 2), *matrix[2] = {NULL, NULL};
    float *inverse[2] = {NULL, NULL};
    bool good = mean != NULL;
    const uint32_t pairs = variant == ATTEND_MAP_PART    ? c->dim[0] / 4
                           : variant == ATTEND_MAP_STILL ? 0
                                                         : c->dim[0] / 2;
    for (uint32_t i = 0; i < pairs; i++)
        turns[i] = (uint64_t)(pow(10000.0, -(double)i / pairs) / 6.283185307179586 * 0x1p64);
    for (uint32_t i = 0; good && i < heads * c->dim[0]; i++)
        mean[i] = akv_half_bits(spread(state) * (i % 13 == 5 ? 6.0 : 1.0));
    for (uint32_t side = 0; side < 2; side++) {
        const uint64_t dim = c->dim[side], n = heads * dim * dim;
        matrix[side] = verify_alloc(v, n * 2);
        inverse[side] = verify_alloc(v, n * 4);
        good = good && matrix[side] && inverse[side];
        for (uint64_t i = 0; good && i < n; i++) {
            const double one = i / dim % dim == i % dim ? 1.0 : 0.0;
            matrix[side][i] = akv_half_bits(one + 0.5 * spread(state) / sqrt((double)dim));
            inverse[side][i] = (float)(one + 0.5 * spread(state) / sqrt((double)dim));
        }
    }
    const uint32_t records = 2 + 2 * heads;
    for (uint32_t write = 0; good && write < 2; write++) {
        struct akv_maps maps;
        akv_maps_begin(&maps, write ? c->maps : NULL, records);
        for (uint32_t n = 0; n < records; n++) {
            const uint32_t side = n < 2 ? n : (n - 2) / heads, head = n < 2 ? 0 : (n - 2) % heads;
            const bool has_matrix = variant == ATTEND_MAP_MATRIX || variant == ATTEND_MAP_PART;
            at[side] = (uint64_t)head * c->dim[side];
            struct akv_maps_side x = {
                .transform = has_matrix ? AKV_TRANSFORM_MATRIX
                             : side     ? AKV_TRANSFORM_ROTATE
                                        : AKV_TRANSFORM_CENTRE,
                .heads = n < 2 ? heads : 1,
                .dim = c->dim[side],
                .pairs = side ? 0 : pairs,
                .rope = variant == ATTEND_MAP_PART ? AKV_ROPE_INTERLEAVED : AKV_ROPE_HALF,
                .turns = turns,
                .mean = side ? NULL : mean + at[0],
                .matrix = has_matrix ? matrix[side] + at[side] * c->dim[side] : NULL,
                .inverse = has_matrix ? inverse[side] + at[side] * c->dim[side] : NULL};
            akv_maps_add(&maps, n, &x);
        }
        c->maps_bytes = maps.bytes;
        if (!write)
            good = (c->maps = verify_alloc(v, c->maps_bytes)) != NULL;
    }
    akv_free(v->context, mean);
    for (uint32_t side = 0; side < 2; side++) {
        akv_free(v->context, matrix[side]);
        akv_free(v->context, inverse[side]);
    }
    return good;
}

bool attend_map_rows(struct verify *v, const struct attend_case *c, uint32_t side, uint32_t format,
                     const float *rows, uint8_t *tiles, float *decoded)
{
    static const uint32_t none = 0;
    const uint32_t tokens = c->block_tokens, dim = c->dim[side],
                   bytes = akv_tile_bytes(format, tokens, dim);
    const uint64_t row_bytes = 4ull * tokens * dim;
    bool good = true;
    for (uint32_t s = 0; s < c->sequences; s++)
        for (uint32_t n = 0; n < attend_blocks_of(c, s) * c->kv_heads && good; n++) {
            const uint64_t tile = (uint64_t)c->first_block[s] * c->kv_heads + n;
            akv_encode_params params = {{dim, dim, AKV_F32, 1},
                                        tokens,
                                        dim,
                                        format,
                                        AKV_FLAG_MAP,
                                        head_record(c, side, n % c->kv_heads) *
                                            (uint32_t)sizeof(akv_map),
                                        n / c->kv_heads * tokens};
            struct verify_launch encode = {.params = &params}, decode = {.params = &params};
            encode.span[0] = (struct verify_span){rows + tile * tokens * dim, NULL, row_bytes};
            encode.span[1] = (struct verify_span){NULL, verify_any, bytes};
            encode.span[2] = (struct verify_span){&none, verify_any, sizeof none};
            encode.span[3] = (struct verify_span){c->maps, NULL, c->maps_bytes};
            encode.result[1] = tiles + tile * bytes;
            decode.span[0] = (struct verify_span){tiles + tile * bytes, NULL, bytes};
            decode.span[1] = (struct verify_span){NULL, verify_any, row_bytes};
            decode.span[2] = encode.span[3];
            decode.result[1] = decoded + tile * tokens * dim;
            good = verify_reference(v, AKV_K_ENCODE, &encode) &&
                   verify_reference(v, AKV_K_DECODE, &decode);
        }
    return good;
}
