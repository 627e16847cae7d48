/* SPDX-License-Identifier: Apache-2.0 */
/* The model behind a dump: its layers as the library takes them, and moments of its rows. */
#include "dump_model.h"
#include "cli.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

struct rope {
    anykv_rope style;
    uint32_t pairs;
    double base, base_sliding;
};

static anykv_status read_base(const struct akv_dump *dump, const char *key, double *base)
{
    const char *text = akv_safetensors_meta(dump->file, key);
    char *end = NULL;
    if (text == NULL)
        return ANYKV_OK;
    *base = strtod(text, &end);
    if (end == text || *end != '\0' || !(*base > 1.0 && *base < 1e12))
        return akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"%s\" is \"%s\", not within 1 … 1e12",
                        key, text);
    return ANYKV_OK;
}

static anykv_status read_rope(const struct akv_dump *dump, struct rope *rope)
{
    const char *style = akv_safetensors_meta(dump->file, "rope");
    const char *dim = akv_safetensors_meta(dump->file, "rope_dim");
    uint64_t elements = dump->head_dim;
    *rope = (struct rope){ANYKV_ROPE_INTERLEAVED, 0, 10000.0, 0.0};
    if (style == NULL || strcmp(style, "none") == 0)
        return ANYKV_OK;
    if (strcmp(style, "interleaved") != 0 && strcmp(style, "half") != 0)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "__metadata__: \"rope\" is \"%s\", neither interleaved nor half nor none",
                        style);
    if (strcmp(style, "half") == 0)
        rope->style = ANYKV_ROPE_HALF;
    if (dim != NULL && (!akv_cli_u64(dim, &elements) || elements > dump->head_dim || elements % 2))
        return akv_fail(NULL, ANYKV_E_DATA,
                        "__metadata__: \"rope_dim\" is \"%s\", not an even number up to %" PRIu32,
                        dim, dump->head_dim);
    rope->pairs = (uint32_t)elements / 2;
    anykv_status status = read_base(dump, "rope_base", &rope->base);
    rope->base_sliding = rope->base;
    return status == ANYKV_OK ? read_base(dump, "rope_base_sliding", &rope->base_sliding) : status;
}

static void make_turns(uint64_t *turns, uint32_t pairs, double base)
{
    for (uint32_t i = 0; i < pairs; i++) {
        const double radians = pow(base, -(double)i / pairs);
        turns[i] = (uint64_t)(radians / 6.283185307179586476925 * 0x1p64);
    }
}

anykv_status akv_dump_model_open(struct akv_dump_model *model, const struct akv_dump *dump,
                                 uint32_t least)
{
    struct rope rope;
    memset(model, 0, sizeof *model);
    anykv_status status = read_rope(dump, &rope);
    if (status != ANYKV_OK)
        return status;
    model->count = dump->layer[dump->layers - 1] + 1;
    if (model->count < least)
        model->count = least;
    model->layers = akv_alloc(NULL, model->count, sizeof *model->layers);
    model->turns = akv_alloc(NULL, 2 * (size_t)rope.pairs + 1, sizeof *model->turns);
    if (model->layers == NULL || model->turns == NULL)
        return ANYKV_E_MEMORY;
    make_turns(model->turns, rope.pairs, rope.base);
    make_turns(model->turns + rope.pairs, rope.pairs, rope.base_sliding);
    for (uint32_t l = 0, next = 0; l < model->count; l++) {
        anykv_layer layer = ANYKV_LAYER_INIT;
        const bool here = dump->layer[next] == l;
        layer.kv_heads = dump->kv_heads;
        layer.q_heads = dump->q_heads;
        layer.k_dim = layer.v_dim = dump->head_dim;
        layer.window = here ? dump->window[next] : 0;
        layer.rope = rope.style;
        layer.rope_pairs = rope.pairs;
        if (rope.pairs)
            layer.rope_turns = layer.window != 0 ? model->turns + rope.pairs : model->turns;
        model->layers[l] = layer;
        next += here && next + 1 < dump->layers;
    }
    return ANYKV_OK;
}

void akv_dump_model_close(struct akv_dump_model *model)
{
    akv_free(NULL, model->layers);
    akv_free(NULL, model->turns);
    memset(model, 0, sizeof *model);
}

anykv_status akv_dump_model_same(const struct akv_dump_model *a, const struct akv_dump_model *b)
{
    if (a->count != b->count)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "__metadata__: \"layers\" end at %" PRIu32 ", those of the first file at %" PRIu32,
                        b->count - 1, a->count - 1);
    for (uint32_t l = 0; l < a->count; l++) {
        const anykv_layer *x = &a->layers[l], *y = &b->layers[l];
        const char *field = x->kv_heads != y->kv_heads       ? "kv_heads"
                            : x->q_heads != y->q_heads       ? "q_heads"
                            : x->k_dim != y->k_dim           ? "head_dim"
                            : x->rope_pairs != y->rope_pairs ? "rope_dim"
                            : x->rope != y->rope             ? "rope"
                                                             : NULL;
        if (field == NULL && x->rope_pairs != 0 &&
            memcmp(x->rope_turns, y->rope_turns, x->rope_pairs * sizeof *x->rope_turns) != 0)
            field = "rope_base";
        if (field != NULL)
            return akv_fail(NULL, ANYKV_E_DATA,
                            "__metadata__: \"%s\" differs from that of the first file", field);
    }
    return ANYKV_OK;
}

anykv_status akv_dump_add_moments(const struct akv_dump *dump, uint32_t index, uint32_t tokens,
                                  bool queries, anykv_moments *moments)
{
    struct akv_dump_layer rows;
    anykv_status status = akv_dump_load(dump, index, &rows);
    const uint32_t count = tokens < dump->tokens ? tokens : dump->tokens;
    const anykv_view k = anykv_view_host(rows.k, rows.k_dtype, dump->kv_heads, dump->head_dim);
    const anykv_view v = anykv_view_host(rows.v, rows.v_dtype, dump->kv_heads, dump->head_dim);
    const anykv_view q = anykv_view_host(rows.q, rows.q_dtype, dump->q_heads, dump->head_dim);
    if (status == ANYKV_OK)
        status = anykv_moments_add(moments, dump->layer[index], 0, count, &k, &v, NULL);
    if (status == ANYKV_OK && queries && count > dump->q_first)
        status = anykv_moments_add(moments, dump->layer[index], dump->q_first,
                                   count - dump->q_first, NULL, NULL, &q);
    akv_dump_free(&rows);
    return status;
}
