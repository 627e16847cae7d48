/* SPDX-License-Identifier: Apache-2.0 */
/* The rungs of the precision ladder: formats layer by layer, sizes, estimated errors, launches. */
#include "ladder.h"

/* Relative error of attention output that a format causes in keys and in values, the worst layer of
 * both dumps of `anykv eval --layers --sinks 4 --recent 128` (docs/ladder.md), rounded up. */
static const struct {
    uint32_t format;
    float error[2];
} estimates[] = {
    {AKV_I8, {0.0025f, 0.002f}}, {AKV_N6, {0.010f, 0.008f}}, {AKV_N5, {0.020f, 0.018f}},
    {AKV_N4, {0.035f, 0.032f}},  {AKV_N3, {0.080f, 0.060f}}, {AKV_N2, {0.250f, 0.130f}},
};

static float estimate(uint32_t format, uint32_t side)
{
    for (size_t i = 0; i < sizeof estimates / sizeof estimates[0]; i++)
        if (estimates[i].format == format)
            return estimates[i].error[side];
    return 0.0f;
}

/* Bits of 128 elements, scales included: exact, so that formats can be compared. */
static uint32_t format_size(uint32_t format)
{
    return akv_tile_bytes(format, 16, 128);
}

static anykv_status check_rungs(anykv_context *context, const anykv_cache_options *options)
{
    uint32_t before = UINT32_MAX;
    bool ended = false;
    for (uint32_t r = 0; r < AKV_MAX_RUNGS; r++) {
        const uint32_t format = (uint32_t)options->rungs[r];
        if (format == 0) {
            ended = true;
            continue;
        }
        if (ended || estimate(format, 0) == 0.0f)
            return akv_fail(context, ANYKV_E_ARG, "rungs[%u]: %u %s", r, format,
                            ended ? "follows the end of the list"
                                  : "is none of I8, N6, N5, N4, N3, N2");
        if (format_size(format) >= before)
            return akv_fail(context, ANYKV_E_ARG,
                            "rungs[%u]: %s is not smaller than the one before", r,
                            anykv_format_name((anykv_format)format));
        before = format_size(format);
    }
    return ANYKV_OK;
}

static bool within(float value, float from, float to)
{
    return value >= from && value <= to; /* a NaN is not */
}

anykv_status akv_ladder_check(anykv_context *context, const anykv_cache_options *options,
                              uint32_t layers)
{
    if (!within(options->error_budget, 0.0f, 1.0f))
        return akv_fail(context, ANYKV_E_ARG, "error_budget: %g is not between 0 and 1",
                        (double)options->error_budget);
    if (!within(options->high_watermark, 0.0f, 1.0f) ||
        !within(options->low_watermark, 0.0f, options->high_watermark))
        return akv_fail(context, ANYKV_E_ARG,
                        "low_watermark, high_watermark: %g and %g are not shares in this order",
                        (double)options->low_watermark, (double)options->high_watermark);
    if (options->sensitivities != 0 && options->sensitivities != 2 * layers)
        return akv_fail(context, ANYKV_E_ARG,
                        "sensitivities: %u, but %u layers have %u (keys, values)",
                        options->sensitivities, layers, 2 * layers);
    if (options->sensitivities != 0 && !options->sensitivity)
        return akv_fail(context, ANYKV_E_ARG, "sensitivity: NULL with %u sensitivities",
                        options->sensitivities);
    for (uint32_t i = 0; i < options->sensitivities; i++)
        if (!within(options->sensitivity[i], 0.01f, 100.0f))
            return akv_fail(context, ANYKV_E_ARG, "sensitivity[%u]: %g is not between 0.01 and 100",
                            i, (double)options->sensitivity[i]);
    return check_rungs(context, options);
}

/* The smallest format of the list whose estimated error in this layer is not above what the rung's
 * own format causes in an ordinary one; never larger than the layout's format, which is 0 far. */
static uint32_t rung_format(const anykv_cache_options *options, uint32_t r, uint32_t side,
                            uint32_t own, float sensitivity)
{
    const float most = estimate((uint32_t)options->rungs[r], side) * 1.0001f;
    uint32_t best = own;
    for (uint32_t i = 0; i < AKV_MAX_RUNGS && options->rungs[i]; i++) {
        const uint32_t format = (uint32_t)options->rungs[i];
        if (format_size(format) < format_size(best) && estimate(format, side) * sensitivity <= most)
            best = format;
    }
    return best;
}

static float sensitivity_of(const anykv_cache_options *options, uint32_t layer, uint32_t side)
{
    return options->sensitivities ? options->sensitivity[2 * layer + side] : 1.0f;
}

/* Formats and offsets of a group's layers at rung r; returns the bytes of a block. */
static uint64_t lay_rung(anykv_layout *layout, uint32_t g, uint32_t r, uint32_t above,
                         const anykv_cache_options *options)
{
    const struct akv_group *group = &layout->groups[g];
    const uint32_t kind = AKV_KIND_RUNG + r, tokens = layout->options.block_tokens;
    uint64_t at = 0;
    for (uint32_t l = 0; l < layout->count; l++) {
        struct akv_place *place = &layout->places[l];
        if (!place->owner || place->group != g)
            continue;
        for (uint32_t side = 0; side < 2; side++) {
            /* A raw side of a sealed block is not transformed; it stays as it is. */
            const bool fixed = group->sealable && akv_format_raw(group->format[side]);
            const uint32_t own = place->format[above][side];
            const uint32_t format =
                fixed ? own : rung_format(options, r, side, own, sensitivity_of(options, l, side));
            place->format[kind][side] = format;
            place->offset[kind][side] = (uint32_t)at;
            at += (uint64_t)group->kv_heads *
                  akv_tile_bytes(format, tokens, side == 0 ? group->k_dim : group->v_dim);
        }
    }
    return at;
}

/* Estimated error of the worst layer at the kind, the way down from `above` included. */
static float worst_error(const anykv_layout *layout, uint32_t g, uint32_t kind,
                         const anykv_cache_options *options)
{
    float worst = 0.0f;
    for (uint32_t l = 0; l < layout->count; l++) {
        const struct akv_place *place = &layout->places[l];
        if (!place->owner || place->group != g)
            continue;
        float squares = 0.0f;
        for (uint32_t side = 0; side < 2; side++) {
            uint32_t before = layout->groups[g].format[side];
            for (uint32_t k = AKV_KIND_RUNG; k <= kind; k++) {
                const uint32_t format = place->format[k][side];
                if (format == 0 || format == before)
                    continue;
                const float e = estimate(format, side) * sensitivity_of(options, l, side);
                squares += e * e;
                before = format;
            }
        }
        worst = squares > worst ? squares : worst;
    }
    return sqrtf(worst);
}

static void clear_rung(anykv_layout *layout, uint32_t g, uint32_t kind)
{
    for (uint32_t l = 0; l < layout->count; l++)
        if (layout->places[l].owner && layout->places[l].group == g)
            for (uint32_t side = 0; side < 2; side++)
                layout->places[l].format[kind][side] = layout->places[l].offset[kind][side] = 0;
}

static void lay_group(anykv_layout *layout, uint32_t g, const anykv_cache_options *options)
{
    struct akv_group *group = &layout->groups[g];
    uint32_t above = group->sealable ? AKV_KIND_SEALED : AKV_KIND_HOT;
    for (uint32_t r = 0; r < AKV_MAX_RUNGS && options->rungs[r]; r++) {
        const uint32_t kind = AKV_KIND_RUNG + r;
        const uint64_t bytes = lay_rung(layout, g, r, above, options);
        const float error = worst_error(layout, g, kind, options);
        if (bytes >= group->block_bytes[above] || error > options->error_budget) {
            clear_rung(layout, g, kind);
            continue;
        }
        group->block_bytes[kind] = (uint32_t)bytes;
        group->error[kind] = error;
        above = kind;
    }
}

void akv_ladder_lay(anykv_layout *layout, const anykv_cache_options *options)
{
    if (options->error_budget <= 0.0f)
        return;
    for (uint32_t g = 0; g < layout->group_count; g++) {
        struct akv_group *group = &layout->groups[g];
        lay_group(layout, g, options);
        if (!group->sealable && akv_ladder_below(group, AKV_KIND_HOT))
            akv_layout_transform(layout, g);
    }
    for (uint32_t l = 0; l < layout->count; l++)
        if (!layout->places[l].owner) {
            layout->places[l] = layout->places[layout->layers[l].source];
            layout->places[l].owner = false;
        }
}

uint32_t akv_ladder_below(const struct akv_group *group, uint32_t kind)
{
    for (uint32_t k = kind < AKV_KIND_RUNG ? AKV_KIND_RUNG : kind + 1; k < AKV_KIND_COLD; k++)
        if (group->block_bytes[k])
            return k;
    return 0;
}

/* ---- launches ---- */

/* Is there a step down from the kind?  From 16 bit only where nothing is sealed: sealing is the
 * step there. */
static uint32_t step_to(const struct akv_group *group, uint32_t kind)
{
    if (kind >= AKV_KIND_RUNG ? !group->block_bytes[kind]
                              : kind != (group->sealable ? AKV_KIND_SEALED : AKV_KIND_HOT))
        return 0;
    return akv_ladder_below(group, kind);
}

uint32_t akv_ladder_tiles(const anykv_layout *layout)
{
    uint32_t count = 0;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++)
            if (step_to(&layout->groups[g], kind))
                count += layout->groups[g].layers;
    return count;
}

static bool run_matches(const struct akv_rung_run *run, const struct akv_place *place,
                        uint32_t from, uint32_t to)
{
    return run->source[0] == place->format[from][0] && run->source[1] == place->format[from][1] &&
           run->format[0] == place->format[to][0] && run->format[1] == place->format[to][1];
}

/* Lists the layers of one step down, those that change alike next to each other. */
static void plan_step(const anykv_layout *layout, uint32_t g, uint32_t from, uint32_t to,
                      struct akv_ladder *ladder, uint32_t *runs, akv_seal_layer *tiles,
                      uint32_t *count)
{
    struct akv_rung_step *step = &ladder->step[AKV_CLASS(g, from)];
    step->first = *runs;
    for (uint32_t lead = 0; lead < layout->count; lead++) {
        const struct akv_place *place = &layout->places[lead];
        bool listed = !place->owner || place->group != g;
        for (uint32_t r = step->first; r < *runs && !listed; r++)
            listed = run_matches(&ladder->run[r], place, from, to);
        if (listed)
            continue;
        struct akv_rung_run *run = &ladder->run[(*runs)++];
        run->first = *count;
        for (uint32_t side = 0; side < 2; side++) {
            run->source[side] = place->format[from][side];
            run->format[side] = place->format[to][side];
        }
        for (uint32_t l = lead; l < layout->count; l++) {
            const struct akv_place *other = &layout->places[l];
            if (other->owner && other->group == g && run_matches(run, other, from, to))
                akv_layout_tiles(layout, l, from, to, &tiles[(*count)++]);
        }
        run->count = *count - run->first;
    }
    step->count = *runs - step->first;
}

anykv_status akv_ladder_plan(const anykv_layout *layout, struct akv_ladder *ladder,
                             akv_seal_layer *tiles)
{
    const uint32_t most = akv_ladder_tiles(layout);
    ladder->on = most != 0;
    if (!ladder->on)
        return ANYKV_OK;
    ladder->step =
        akv_alloc(layout->context, layout->group_count * AKV_POOL_KINDS, sizeof *ladder->step);
    ladder->run = akv_alloc(layout->context, most, sizeof *ladder->run);
    if (!ladder->step || !ladder->run)
        return ANYKV_E_MEMORY;
    uint32_t runs = 0, count = 0;
    for (uint32_t g = 0; g < layout->group_count; g++)
        for (uint32_t kind = 0; kind < AKV_POOL_KINDS; kind++)
            if (step_to(&layout->groups[g], kind))
                plan_step(layout, g, kind, step_to(&layout->groups[g], kind), ladder, &runs, tiles,
                          &count);
    return ANYKV_OK;
}

void akv_ladder_finish(anykv_context *context, struct akv_ladder *ladder)
{
    akv_free(context, ladder->step);
    akv_free(context, ladder->run);
    ladder->step = NULL;
    ladder->run = NULL;
}
