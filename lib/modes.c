/* SPDX-License-Identifier: Apache-2.0 */
/* Modes: cache options for five ways of use. */
#include "internal.h"

struct mode {
    anykv_mode id;
    const char *name;
    uint32_t sinks, recent, max_sequences, max_step_tokens, max_seq_tokens, flags;
    float error_budget, high_watermark, low_watermark;
    uint32_t ladder_blocks;
};

/* The header's table of modes; error budgets are those of N4 (0.06) and of N2 (0.35) on the way
 * down from 16 bit. */
static const struct mode modes[] = {
    {ANYKV_MODE_INFERENCE, "inference", 4, 128, 64, 2048, 131072, 0, 0.06f, 0.90f, 0.88f, 64},
    {ANYKV_MODE_TRAINING, "training", 4, 1u << 28, 64, 2048, 131072, ANYKV_CACHE_PRECISE, 0.0f,
     0.90f, 0.88f, 0},
    {ANYKV_MODE_BULK, "bulk", 4, 32, 256, 8192, 131072, 0, 0.35f, 0.98f, 0.95f, 256},
    {ANYKV_MODE_STREAMING, "streaming", 4, 256, 16, 2048, 1u << 20, 0, 0.35f, 0.80f, 0.70f, 16},
    {ANYKV_MODE_INTERACTIVE, "interactive", 4, 256, 16, 2048, 131072, 0, 0.06f, 0.85f, 0.80f, 8},
};

anykv_status anykv_mode_parse(const char *name, anykv_mode *mode_out)
{
    if (!name || !mode_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", name ? "mode_out" : "name");
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(modes[i].name, name) == 0) {
            *mode_out = modes[i].id;
            return ANYKV_OK;
        }
    return akv_fail(NULL, ANYKV_E_ARG,
                    "name: \"%s\" is none of inference, training, bulk, streaming, interactive",
                    name);
}

anykv_status anykv_cache_options_mode(anykv_mode mode, anykv_cache_options *options)
{
    if (!options)
        return akv_fail(NULL, ANYKV_E_ARG, "options: NULL");
    const size_t size = options->size;
    if (size < sizeof size || size > sizeof *options)
        return akv_fail(NULL, ANYKV_E_ARG,
                        "options.size: %zu is not between %zu and %zu (initialise it first)", size,
                        sizeof size, sizeof *options);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        const struct mode *m = &modes[i];
        if (m->id != mode)
            continue;
        anykv_cache_options set = ANYKV_CACHE_OPTIONS_INIT;
        memcpy(&set, options, size);
        set.sinks = m->sinks;
        set.recent = m->recent;
        set.max_sequences = m->max_sequences;
        set.max_step_tokens = m->max_step_tokens;
        set.max_seq_tokens = m->max_seq_tokens;
        set.flags = (set.flags & ~ANYKV_CACHE_PRECISE) | m->flags;
        set.error_budget = m->error_budget;
        set.high_watermark = m->high_watermark;
        set.low_watermark = m->low_watermark;
        set.ladder_blocks = m->ladder_blocks;
        memcpy(options, &set, size);
        return ANYKV_OK;
    }
    return akv_fail(NULL, ANYKV_E_ARG, "mode: %d is none of the modes 1 to 5", (int)mode);
}
