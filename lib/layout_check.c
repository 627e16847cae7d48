/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of a layout: every field, every error in one pass. */
#include "layout_check.h"
#include <stdarg.h>
#include <stdio.h>

struct report {
    char *text; /* may be NULL */
    size_t capacity, used;
    uint32_t errors;
    char first[200];
};

AKV_PRINTF(2, 3) static void say(struct report *report, const char *format, ...)
{
    char line[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (report->errors++ == 0)
        memcpy(report->first, line, sizeof line);
    if (!report->text || report->used + 1 >= report->capacity)
        return;
    const int wrote = snprintf(report->text + report->used, report->capacity - report->used, "%s%s",
                               report->errors > 1 ? "\n" : "", line);
    const size_t room = report->capacity - report->used - 1;
    report->used += wrote < 0 ? 0 : (size_t)wrote < room ? (size_t)wrote : room;
}

bool akv_dim_known(uint32_t dim)
{
    static const uint32_t dims[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        if (dims[i] == dim)
            return true;
    return false;
}

static void check_dim(struct report *report, uint32_t l, const char *field, uint32_t dim)
{
    if (!akv_dim_known(dim))
        say(report, "layers[%u].%s: %u is none of 64, 80, 96, 112, 128, 192, 256, 512, 576", l,
            field, dim);
}

static void check_format(struct report *report, uint32_t l, const char *field, anykv_format format)
{
    if (format < ANYKV_F32 || format > ANYKV_E4M3G)
        say(report, "layers[%u].%s: %d is none of the formats %d to %d", l, field, (int)format,
            (int)ANYKV_F32, (int)ANYKV_E4M3G);
}

static void check_transform(struct report *report, uint32_t l, const char *field, uint32_t side,
                            anykv_transform transform, const anykv_layout_options *options)
{
    if (transform >= ANYKV_TRANSFORM_CENTRE && transform <= ANYKV_TRANSFORM_MATRIX) {
        if (side == 1 && transform == ANYKV_TRANSFORM_CENTRE)
            say(report, "layers[%u].%s: 2 (centre) is for keys only", l, field);
        else if (!options->calibration)
            say(report, "layers[%u].%s: %d needs options.calibration", l, field, (int)transform);
        return;
    }
    if (transform != ANYKV_TRANSFORM_NONE && transform != ANYKV_TRANSFORM_ROTATE)
        say(report, "layers[%u].%s: %d is none of 0 (none) to 3 (matrix)", l, field,
            (int)transform);
}

bool akv_scale_fits(float scale)
{
    return scale >= 0x1p-40f && scale <= 0x1p40f; /* not a NaN either */
}

static void check_scales(struct report *report, uint32_t l, const char *field, anykv_format format,
                         const float *scales, uint32_t heads)
{
    if (scales && format != ANYKV_E4M3G)
        say(report, "layers[%u].%s: format %s takes none", l, field, anykv_format_name(format));
    for (uint32_t h = 0; scales && h < heads; h++)
        if (!akv_scale_fits(scales[h])) {
            say(report, "layers[%u].%s[%u]: %g is not between 2^-40 and 2^40", l, field, h,
                (double)scales[h]);
            return;
        }
}

static bool turns_equal(const anykv_layer *a, const anykv_layer *b)
{
    if (a->rope_pairs != b->rope_pairs || (a->rope_pairs && a->rope != b->rope))
        return false;
    return a->rope_pairs == 0 || (a->rope_turns && b->rope_turns &&
                                  memcmp(a->rope_turns, b->rope_turns,
                                         (size_t)a->rope_pairs * sizeof *a->rope_turns) == 0);
}

bool akv_layer_same_rows(const anykv_layer *a, const anykv_layer *b)
{
    return a->kv_heads == b->kv_heads && a->k_dim == b->k_dim && a->v_dim == b->v_dim &&
           a->k_format == b->k_format && a->v_format == b->v_format && a->hot_type == b->hot_type &&
           a->k_transform == b->k_transform && a->v_transform == b->v_transform &&
           !a->k_scales == !b->k_scales && !a->v_scales == !b->v_scales &&
           turns_equal(a, b);
}

/* Where there are some on both sides. */
static bool scales_equal(const float *a, const float *b, uint32_t heads)
{
    return !a || !b || memcmp(a, b, heads * sizeof *a) == 0;
}

static void check_source(struct report *report, const anykv_layer *layers, uint32_t l)
{
    const anykv_layer *layer = &layers[l];
    if (layer->source == ANYKV_OWN_ROWS)
        return;
    if (layer->source >= l) {
        say(report, "layers[%u].source: %u is not an earlier layer", l, layer->source);
        return;
    }
    const anykv_layer *source = &layers[layer->source];
    if (source->source != ANYKV_OWN_ROWS)
        say(report, "layers[%u].source: layer %u owns no rows itself", l, layer->source);
    if (!akv_layer_same_rows(layer, source) ||
        !scales_equal(layer->k_scales, source->k_scales, layer->kv_heads) ||
        !scales_equal(layer->v_scales, source->v_scales, layer->kv_heads))
        say(report,
            "layers[%u].source: heads, sizes, formats, transforms, scales or rotary pairs differ "
            "from layer %u's",
            l, layer->source);
    if (source->window && (layer->window == 0 || layer->window > source->window))
        say(report, "layers[%u].window: %u sees further than the %u tokens that layer %u keeps", l,
            layer->window, source->window, layer->source);
}

static void check_layer(struct report *report, const anykv_layer *layers, uint32_t l,
                        const anykv_layout_options *options)
{
    const anykv_layer *layer = &layers[l];
    const bool kv_heads_fit = layer->kv_heads >= 1 && layer->kv_heads <= AKV_LAYER_HEADS;
    if (!kv_heads_fit)
        say(report, "layers[%u].kv_heads: %u is not between 1 and %u", l, layer->kv_heads,
            AKV_LAYER_HEADS);
    if (layer->q_heads < 1 || layer->q_heads > AKV_LAYER_HEADS)
        say(report, "layers[%u].q_heads: %u is not between 1 and %u", l, layer->q_heads,
            AKV_LAYER_HEADS);
    else if (kv_heads_fit && layer->q_heads % layer->kv_heads != 0)
        say(report, "layers[%u].q_heads: %u is not a multiple of kv_heads, %u", l, layer->q_heads,
            layer->kv_heads);
    check_dim(report, l, "k_dim", layer->k_dim);
    check_dim(report, l, "v_dim", layer->v_dim);
    if (layer->window > 0x7FFFFFFFu)
        say(report, "layers[%u].window: %u is above %u", l, layer->window, 0x7FFFFFFFu);
    check_format(report, l, "k_format", layer->k_format);
    check_format(report, l, "v_format", layer->v_format);
    if (layer->hot_type < ANYKV_F32 || layer->hot_type > ANYKV_BF16)
        say(report, "layers[%u].hot_type: %d is none of F32, F16, BF16", l, (int)layer->hot_type);
    check_transform(report, l, "k_transform", 0, layer->k_transform, options);
    check_transform(report, l, "v_transform", 1, layer->v_transform, options);
    if (kv_heads_fit) {
        check_scales(report, l, "k_scales", layer->k_format, layer->k_scales, layer->kv_heads);
        check_scales(report, l, "v_scales", layer->v_format, layer->v_scales, layer->kv_heads);
    }
    if (layer->rope_pairs > layer->k_dim / 2)
        say(report, "layers[%u].rope_pairs: %u is more than half of k_dim, %u", l,
            layer->rope_pairs, layer->k_dim);
    else if (layer->rope != ANYKV_ROPE_INTERLEAVED && layer->rope != ANYKV_ROPE_HALF)
        say(report, "layers[%u].rope: %d is neither 0 (interleaved) nor 1 (half)", l,
            (int)layer->rope);
    else if (layer->rope_pairs && !layer->rope_turns)
        say(report, "layers[%u].rope_turns: NULL with %u rope_pairs", l, layer->rope_pairs);
    check_source(report, layers, l);
}

/* All layers of a group stand in one block; offsets in it are 32-bit. */
static void check_block_bytes(struct report *report, const anykv_layer *layers, uint32_t count,
                              uint32_t block_tokens)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < count; l++)
        bytes += (uint64_t)block_tokens * layers[l].kv_heads *
                 ((uint64_t)layers[l].k_dim + layers[l].v_dim) * 4;
    if (bytes > 0x7FFFFFFFu)
        say(report, "block_tokens: %u tokens of all layers may take %llu bytes, the limit is %u",
            block_tokens, (unsigned long long)bytes, 0x7FFFFFFFu);
}

static void check_options(struct report *report, const anykv_layout_options *options)
{
    const uint32_t tokens = options->block_tokens;
    if (tokens != 16 && tokens != 32 && tokens != 64 && tokens != 128 && tokens != 256)
        say(report, "block_tokens: %u is none of 16, 32, 64, 128, 256", tokens);
    if (!options->weights)
        say(report, "weights: NULL; a digest or any name of the weights is needed");
    if (options->weights_bytes < 1 || options->weights_bytes > 256)
        say(report, "weights_bytes: %u is not between 1 and 256", options->weights_bytes);
    if (options->flags & ~ANYKV_LAYOUT_APART)
        say(report, "flags: 0x%x has unknown bits", options->flags);
    if (options->shards < 1)
        say(report, "shards: 0; a whole model is 1");
    else if (options->shard >= options->shards)
        say(report, "shard: %u is not below shards, %u", options->shard, options->shards);
}

anykv_status akv_layout_check(anykv_context *context, const anykv_layer *layers, uint32_t count,
                              const anykv_layout_options *options, char *text, size_t text_bytes)
{
    struct report report;
    memset(&report, 0, sizeof report);
    report.text = text_bytes ? text : NULL;
    report.capacity = text_bytes;
    if (report.text)
        report.text[0] = '\0';
    check_options(&report, options);
    if (!layers)
        say(&report, "layers: NULL");
    if (count < 1 || count > AKV_MAX_LAYERS)
        say(&report, "count: %u is not between 1 and %u", count, AKV_MAX_LAYERS);
    else if (layers) {
        for (uint32_t l = 0; l < count; l++)
            check_layer(&report, layers, l, options);
        if (report.errors == 0)
            check_block_bytes(&report, layers, count, options->block_tokens);
    }
    if (report.errors == 0)
        return ANYKV_OK;
    return akv_fail(context, ANYKV_E_ARG, "%s", report.first);
}

anykv_status anykv_layout_check(const anykv_layer *layers, uint32_t count,
                                const anykv_layout_options *options, char *text, size_t text_bytes)
{
    anykv_layout_options checked = ANYKV_LAYOUT_OPTIONS_INIT;
    if (text && text_bytes)
        text[0] = '\0';
    anykv_status status = akv_options(NULL, "layout options", &checked, sizeof checked, options);
    if (status) {
        if (text && text_bytes)
            snprintf(text, text_bytes, "%s", anykv_error_detail());
        return status;
    }
    return akv_layout_check(NULL, layers, count, &checked, text, text_bytes);
}
