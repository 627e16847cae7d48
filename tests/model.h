/* SPDX-License-Identifier: Apache-2.0 */
/* A naive cache that keeps what a sequence should hold, and the comparison of the real one with it.
 */
#ifndef TESTS_MODEL_H
#define TESTS_MODEL_H
#include "engine.h"

#define MODEL_SEQS   10u
#define MODEL_TOKENS 512u
#define MODEL_GROUPS 4u

struct model_seq {
    anykv_seq *seq;    /* NULL: unused */
    uint64_t salt;     /* of the rows: what root and tenant stand for */
    uint32_t identity; /* 0 public, 1 and 2 tenants, 3 private */
    uint32_t length, named;
    uint32_t tokens[MODEL_TOKENS];
    uint64_t seeds[MODEL_TOKENS];
    bool removed[MODEL_TOKENS / 16];
    uint32_t first[MODEL_GROUPS]; /* blocks below may be gone */
    bool closed;
    bool own; /* never shared anything: its precision is predictable */
    bool in_step;
};

/* A name that was published: chain of tokens, and groups whose block came with it. */
struct model_name {
    uint64_t chain; /* seed of the block's last position: salt and all tokens before */
    uint32_t block;
    bool group[MODEL_GROUPS];
};

struct model {
    struct engine engine;
    uint64_t random;
    bool tight;  /* the budget is too small: names may be gone */
    bool faults; /* operations may fail */
    bool cold;   /* blocks are compressed */
    struct model_seq seqs[MODEL_SEQS];
    struct model_name *names;
    uint32_t name_count, name_capacity;
    uint32_t depth;      /* steps that are open around the operation */
    uint64_t counts[16]; /* of operations that succeeded, for the report */
};

static inline uint32_t model_below(struct model *model, uint32_t n)
{
    return house_random(&model->random) % n;
}

/* ---- names ---- */

static inline struct model_name *model_find(struct model *model, uint64_t chain, uint32_t block)
{
    for (uint32_t i = 0; i < model->name_count; i++)
        if (model->names[i].chain == chain && model->names[i].block == block)
            return &model->names[i];
    return NULL;
}

/* The sequence names its whole blocks up to `named`; it holds blocks from first[g] on. */
static inline void model_publish(struct model *model, struct model_seq *seq, uint32_t from)
{
    const uint32_t groups = model->engine.layout->group_count;
    for (uint32_t b = from / 16; b < seq->named / 16; b++) {
        const uint64_t chain = seq->seeds[b * 16 + 15];
        struct model_name *name = model_find(model, chain, b);
        if (!name) {
            if (model->name_count == model->name_capacity) {
                model->name_capacity = model->name_capacity ? model->name_capacity * 2 : 256;
                model->names = realloc(model->names, model->name_capacity * sizeof *model->names);
            }
            name = &model->names[model->name_count++];
            memset(name, 0, sizeof *name);
            name->chain = chain;
            name->block = b;
        }
        for (uint32_t g = 0; g < groups; g++)
            if (b >= seq->first[g])
                name->group[g] = true;
    }
}

static inline uint32_t model_visible(const struct model *model, uint32_t group, uint32_t length)
{
    const uint32_t window = model->engine.layout->groups[group].window;
    return window == 0 || length < window ? 0 : (length - window + 1) / 16;
}

static inline void model_slide(struct model *model, struct model_seq *seq)
{
    for (uint32_t g = 0; g < model->engine.layout->group_count; g++)
        if (model_visible(model, g, seq->length) > seq->first[g])
            seq->first[g] = model_visible(model, g, seq->length);
}

/* Longest match of tokens whose rows have these seeds, if nothing was ever evicted. */
static inline uint32_t model_match(struct model *model, const uint64_t *seeds, uint32_t count)
{
    const uint32_t asked = count ? (count - 1) / 16 : 0;
    uint32_t best = 0;
    for (uint32_t n = 1; n <= asked; n++) {
        const struct model_name *last = model_find(model, seeds[n * 16 - 1], n - 1);
        if (!last)
            break;
        bool served = true, global = true;
        for (uint32_t g = 0; g < model->engine.layout->group_count; g++) {
            if (model->engine.layout->groups[g].window == 0)
                global = global && last->group[g];
            for (uint32_t b = model_visible(model, g, n * 16); b < n; b++)
                served = served && model_find(model, seeds[b * 16 + 15], b)->group[g];
        }
        if (!global)
            break;
        if (served)
            best = n;
    }
    return best * 16;
}

/* ---- comparing rows ---- */

/* What decoding of an encoded row gives, by the codec. */
static inline void model_coded(struct model *model, uint32_t layer, uint32_t side, uint32_t first,
                               float *rows, uint32_t tokens)
{
    const anykv_layout *layout = model->engine.layout;
    const struct akv_group *group = &layout->groups[layout->places[layer].group];
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    options.format = (anykv_format)group->format[side];
    options.transform = side ? layout->layers[layer].v_transform : layout->layers[layer].k_transform;
    options.calibration = layout->options.calibration;
    options.layer = layer;
    options.side = side;
    options.position = first;
    options.head_dim = side ? group->v_dim : group->k_dim;
    anykv_codec *codec;
    OK(anykv_codec_create(model->engine.device, &options, &codec));
    uint64_t bytes;
    OK(anykv_codec_bytes(codec, (uint64_t)tokens * group->kv_heads, &bytes));
    void *packed = calloc(1, bytes);
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, group->kv_heads, options.head_dim);
    OK(anykv_codec_encode(codec, &view, tokens, group->kv_heads, packed, bytes, NULL));
    OK(anykv_codec_decode(codec, packed, bytes, tokens, group->kv_heads, &view));
    anykv_codec_destroy(codec);
    free(packed);
}

/* One block of one layer and side: the rows are the caller's, exactly or as the format keeps them.
 */
static inline void model_check_block(struct model *model, struct model_seq *seq, uint32_t layer,
                                     uint32_t side, uint32_t b, uint32_t kind)
{
    const anykv_layout *layout = model->engine.layout;
    const struct akv_group *group = &layout->groups[layout->places[layer].group];
    const uint32_t owner =
        layout->layers[layer].source == ANYKV_OWN_ROWS ? layer : layout->layers[layer].source;
    const uint32_t dim = side ? group->v_dim : group->k_dim, first = b * 16;
    const uint32_t tokens = seq->length - first < 16 ? seq->length - first : 16;
    const size_t count = (size_t)tokens * group->kv_heads * dim;
    float *want = malloc(count * sizeof *want), *have = malloc(count * sizeof *have);
    engine_rows(seq->seeds + first, tokens, owner, (int)side, group->kv_heads, dim, want);
    if (kind == AKV_KIND_SEALED && !akv_format_raw(group->format[side]))
        model_coded(model, owner, side, first, want, tokens);
    const anykv_view view = anykv_view_host(have, ANYKV_F32, group->kv_heads, dim);
    OK(anykv_seq_gather(seq->seq, layer, (int)side, first, tokens, &view));
    if (kind >= AKV_KIND_RUNG) {
        double error = 0, size = 0;
        for (size_t i = 0; i < count; i++) {
            error += ((double)have[i] - (double)want[i]) * ((double)have[i] - (double)want[i]);
            size += (double)want[i] * (double)want[i];
        }
        cr_assert(error <= size * 0.25, "layer %u side %u block %u kind %u is off by %g of %g",
                  layer, side, b, kind, error, size);
        free(want);
        free(have);
        return;
    }
    for (size_t i = 0; i < count; i++)
        cr_assert(have[i] == want[i],
                  "layer %u side %u block %u kind %u element %zu: %.9g instead of %.9g", layer,
                  side, b, kind, i, (double)have[i], (double)want[i]);
    free(want);
    free(have);
}

static inline void model_check_kind(struct model *model, struct model_seq *seq, uint32_t g,
                                    uint32_t b, uint32_t kind)
{
    const anykv_cache_options *options = &model->engine.cache->plan.options;
    if (b * 16 < options->sinks)
        cr_assert(kind == AKV_KIND_HOT, "group %u: sink block %u is sealed", g, b);
    if (seq->own && seq->length < (b + 1) * 16 + options->recent)
        cr_assert(kind == AKV_KIND_HOT, "group %u: recent block %u of %u tokens is sealed", g, b,
                  seq->length);
}

/* The whole of a sequence: length, tables, rows of every layer; `rows` of them in this call. */
static inline void model_check_seq(struct model *model, struct model_seq *seq, uint32_t rows)
{
    const anykv_layout *layout = model->engine.layout;
    cr_assert(engine_length(seq->seq) == seq->length, "length %llu, not %u",
              (unsigned long long)engine_length(seq->seq), seq->length);
    for (uint32_t l = 0; l < layout->count; l++) {
        const uint32_t g = layout->places[l].group;
        uint32_t entries[MODEL_TOKENS / 16];
        uint64_t count = MODEL_TOKENS / 16, first_position;
        const anykv_status status = anykv_seq_table(seq->seq, l, entries, &count, &first_position);
        if (status == ANYKV_E_BUDGET && model->tight && (model->engine.cache->plan.options.flags & ANYKV_CACHE_COMPRESS))
            return; /* no room to read its blocks back */
        OK(status);
        const uint32_t blocks = (seq->length + 15) / 16, first = (uint32_t)first_position / 16;
        cr_assert(first + count == blocks || count == 0, "table of %llu entries from %u",
                  (unsigned long long)count, first);
        cr_assert(first <= model_visible(model, g, seq->length) || blocks == 0,
                  "group %u: blocks below %u are gone, %u is visible", g, first,
                  model_visible(model, g, seq->length));
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t b = first + i;
            if (seq->removed[b]) {
                cr_assert(entries[i] == AKV_NO_BLOCK, "removed block %u is in the table", b);
                continue;
            }
            cr_assert(entries[i] != AKV_NO_BLOCK, "block %u is missing", b);
            model_check_kind(model, seq, g, b, entries[i] >> 28);
            if (model_below(model, 100) < rows)
                for (uint32_t side = 0; side < 2; side++)
                    model_check_block(model, seq, l, side, b, entries[i] >> 28);
        }
    }
}

#endif
