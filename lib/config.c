/* SPDX-License-Identifier: Apache-2.0 */
/* Importer of the field names of the engine that anykv replaces: every field is accepted, mapped to
 * something else, or refused, by name. */
#include "config_read.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct import {
    anykv_config *config;
    const struct akv_config_text *text;
    anykv_config_field *field; /* the one being judged */
    const char *value;
};

static void judge(struct import *import, anykv_verdict verdict, const char *format, ...)
    AKV_PRINTF(3, 4);
static void judge(struct import *import, anykv_verdict verdict, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(import->field->note, sizeof import->field->note, format, arguments);
    va_end(arguments);
    import->field->verdict = verdict;
}

/* ---- values ---- */

static bool same(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        const char x = *a >= 'A' && *a <= 'Z' ? (char)(*a + 32) : *a;
        if (x != *b)
            return false;
    }
    return *a == *b;
}

static bool whole(struct import *import, uint64_t least, uint64_t most, uint64_t *out)
{
    char *end;
    const unsigned long long n = strtoull(import->value, &end, 10);
    if (import->value[0] >= '0' && import->value[0] <= '9' && *end == '\0' && n >= least &&
        n <= most) {
        *out = n;
        return true;
    }
    judge(import, ANYKV_REFUSED, "a whole number from %llu to %llu is expected",
          (unsigned long long)least, (unsigned long long)most);
    return false;
}

/* Digits with one point; the locale plays no part. */
static bool share(struct import *import, double *out)
{
    double value = 0, unit = 1;
    bool point = false, some = false;
    for (const char *c = import->value; *c; c++) {
        if (*c == '.' && !point) {
            point = true;
        } else if (*c >= '0' && *c <= '9' && unit > 1e-15) {
            some = true;
            unit = point ? unit / 10 : unit;
            value = point ? value + (*c - '0') * unit : value * 10 + (*c - '0');
        } else {
            some = false;
            break;
        }
    }
    if (some && value > 0 && value <= 1) {
        *out = value;
        return true;
    }
    judge(import, ANYKV_REFUSED, "a number above 0 and up to 1 is expected");
    return false;
}

/* 1 yes, 0 no, -1 refused. */
static int word(struct import *import)
{
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (int i = 0; i < 3; i++) {
        if (same(import->value, yes[i]))
            return 1;
        if (same(import->value, no[i]))
            return 0;
    }
    judge(import, ANYKV_REFUSED, "true or false is expected");
    return -1;
}

/* Another field's word; `otherwise` where it is not given. */
static bool other_is(const struct import *import, const char *name, bool otherwise)
{
    for (uint32_t i = 0; i < import->text->count; i++)
        if (strcmp(import->text->field[i].name, name) == 0)
            return same(import->text->field[i].value, "true") ||
                   same(import->text->field[i].value, "yes") ||
                   same(import->text->field[i].value, "on");
    return otherwise;
}

/* ---- fields ---- */

static void num_heads(struct import *import)
{
    uint64_t n;
    if (!whole(import, 1, 1024, &n))
        return;
    import->config->layer.kv_heads = import->config->layer.q_heads = (uint32_t)n;
    judge(import, ANYKV_MAPPED, "layer.kv_heads and q_heads; set q_heads for grouped queries");
}

static void head_dim(struct import *import)
{
    uint64_t n;
    if (!whole(import, 1, 576, &n))
        return;
    static const uint32_t sizes[] = {64, 80, 96, 112, 128, 192, 256, 512, 576};
    bool known = false;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        known = known || sizes[i] == n;
    if (!known) {
        judge(import, ANYKV_REFUSED, "none of 64, 80, 96, 112, 128, 192, 256, 512, 576");
        return;
    }
    import->config->layer.k_dim = import->config->layer.v_dim = (uint32_t)n;
    judge(import, ANYKV_ACCEPTED, "layer.k_dim, layer.v_dim");
}

static void max_tokens(struct import *import)
{
    uint64_t n;
    if (!whole(import, 1, 1u << 28, &n))
        return;
    import->config->options.max_seq_tokens = (uint32_t)n;
    judge(import, ANYKV_ACCEPTED, "options.max_seq_tokens");
}

static void block_size(struct import *import)
{
    uint64_t n;
    if (!whole(import, 1, 65536, &n))
        return;
    if (n < 16 || n > 256 || (n & (n - 1))) {
        judge(import, ANYKV_REFUSED, "none of 16, 32, 64, 128, 256");
        return;
    }
    import->config->block_tokens = (uint32_t)n;
    judge(import, ANYKV_ACCEPTED, "layout options.block_tokens");
}

static void cache_strategy(struct import *import)
{
    static const struct {
        const char *name;
        anykv_policy policy;
    } policies[] = {
        {"lru", ANYKV_POLICY_LRU},
        {"lfu", ANYKV_POLICY_LFU},
        {"adaptive", ANYKV_POLICY_ADAPTIVE},
    };
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
        if (same(import->value, policies[i].name)) {
            import->config->options.policy = policies[i].policy;
            judge(import, ANYKV_ACCEPTED, "options.policy");
            return;
        }
    if (same(import->value, "paged"))
        judge(import, ANYKV_MAPPED,
              "always so: blocks in tables; options.policy stays the default");
    else if (same(import->value, "compressed") || same(import->value, "quantized"))
        judge(import, ANYKV_MAPPED, "always so: packed blocks; options.policy stays the default");
    else
        judge(import, ANYKV_REFUSED, "none of lru, lfu, adaptive, paged, compressed, quantized");
}

/* The mode was set before the other fields (import); this only judges. */
static void cache_mode(struct import *import)
{
    anykv_mode mode;
    if (anykv_mode_parse(import->value, &mode))
        judge(import, ANYKV_REFUSED, "none of inference, training, bulk, streaming, interactive");
    else
        judge(import, ANYKV_ACCEPTED, "anykv_cache_options_mode");
}

static void set_ladder(struct import *import, const char *what)
{
    if (import->config->mode == ANYKV_MODE_TRAINING) {
        judge(import, ANYKV_REFUSED, "mode training is exact");
        return;
    }
    if (import->config->options.error_budget <= 0.0f)
        import->config->options.error_budget = 0.06f;
    judge(import, ANYKV_MAPPED, "%s", what);
}

static void use_compression(struct import *import)
{
    const int on = word(import);
    if (on == 1)
        set_ladder(import, "the precision ladder (error_budget): blocks step down under pressure");
    else if (on == 0)
        judge(import, ANYKV_ACCEPTED, "nothing to do");
}

/* The list of rungs ends at the format whose share of 16 bit comes nearest. */
static void compression_ratio(struct import *import)
{
    double kept;
    if (!share(import, &kept))
        return;
    if (!other_is(import, "use_compression", false)) {
        judge(import, ANYKV_ACCEPTED, "no effect: use_compression is off");
        return;
    }
    anykv_format *rungs = import->config->options.rungs;
    const double bits[3] = {8.125, 4.25, 2.25};
    uint32_t count = 1;
    while (count < 3 && bits[count - 1] + bits[count] > kept * 32.0)
        count++;
    for (uint32_t i = count; i < 4; i++)
        rungs[i] = (anykv_format)0;
    /* What the way down to the last rung is estimated to cost; keep mode training exact. */
    static const float error[3] = {0.004f, 0.06f, 0.35f};
    if (import->config->options.error_budget > 0.0f || import->config->mode != ANYKV_MODE_TRAINING)
        import->config->options.error_budget = error[count - 1];
    judge(import, ANYKV_MAPPED, "options.rungs end at %s, options.error_budget %.3f",
          anykv_format_name(rungs[count - 1]), (double)import->config->options.error_budget);
}

static void compression_method(struct import *import)
{
    if (!other_is(import, "use_compression", false))
        judge(import, ANYKV_ACCEPTED, "no effect: use_compression is off");
    else
        judge(import, ANYKV_REFUSED, "this version has no %s; the precision ladder stands in",
              import->value);
}

static void use_quantization(struct import *import)
{
    const int on = word(import);
    if (on == 1)
        judge(import, ANYKV_ACCEPTED, "layer.k_format, v_format of quantization_bits");
    else if (on == 0)
        judge(import, ANYKV_ACCEPTED, "layer.k_format, v_format stay dtype");
}

static void quantization_bits(struct import *import)
{
    uint64_t bits;
    if (!whole(import, 1, 32, &bits))
        return;
    if (bits != 4 && bits != 8 && bits != 16) {
        judge(import, ANYKV_REFUSED, "none of 4, 8, 16");
        return;
    }
    if (!other_is(import, "use_quantization", false)) {
        judge(import, ANYKV_ACCEPTED, "no effect: use_quantization is off");
        return;
    }
    if (bits == 16) {
        judge(import, ANYKV_ACCEPTED, "layer.k_format, v_format stay dtype");
        return;
    }
    import->config->layer.k_format = import->config->layer.v_format =
        bits == 4 ? ANYKV_N4 : ANYKV_I8;
    judge(import, ANYKV_MAPPED, "layer.k_format, v_format %s", bits == 4 ? "N4" : "I8");
}

static void max_memory_mb(struct import *import)
{
    uint64_t n;
    if (!whole(import, 1, 1u << 30, &n))
        return;
    import->config->options.budget_bytes = n << 20;
    judge(import, ANYKV_ACCEPTED, "options.budget_bytes; a hard limit");
}

static void gc_threshold(struct import *import)
{
    double at;
    if (!share(import, &at))
        return;
    import->config->options.high_watermark = (float)at;
    import->config->options.low_watermark = (float)(at > 0.02 ? at - 0.02 : at);
    judge(import, ANYKV_MAPPED, "options.high_watermark; low_watermark 0.02 below");
}

static void dtype(struct import *import)
{
    const char *name = import->value;
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    const anykv_dtype type = same(name, "float32")    ? ANYKV_F32
                             : same(name, "float16")  ? ANYKV_F16
                             : same(name, "bfloat16") ? ANYKV_BF16
                                                      : (anykv_dtype)0;
    if (type == 0) {
        judge(import, ANYKV_REFUSED, "none of float32, float16, bfloat16");
        return;
    }
    if (import->config->layer.k_format == import->config->layer.hot_type)
        import->config->layer.k_format = import->config->layer.v_format = type;
    import->config->layer.hot_type = type;
    judge(import, ANYKV_ACCEPTED, "layer.hot_type");
}

static void adaptive(struct import *import)
{
    const int on = word(import);
    if (on == 1)
        set_ladder(import, "the precision ladder (error_budget)");
    else if (on == 0)
        judge(import, ANYKV_ACCEPTED, "nothing to do");
}

/* What anykv always does. */
static void always(struct import *import, const char *how)
{
    const int on = word(import);
    if (on == 1)
        judge(import, ANYKV_MAPPED, "always so: %s", how);
    else if (on == 0)
        judge(import, ANYKV_REFUSED, "cannot be switched off: %s", how);
}

static void enable_gc(struct import *import)
{
    always(import, "the budget is hard");
}
static void pin_memory(struct import *import)
{
    always(import, "staging memory is pinned where the device has a use for it");
}
static void non_blocking(struct import *import)
{
    always(import, "calls with device views do not wait");
}
static void tenant_isolation(struct import *import)
{
    always(import, "two tenants share no block");
}

/* What anykv offers without a switch: on is its state, off does not hurt. */
static void offered(struct import *import, const char *how)
{
    if (word(import) >= 0)
        judge(import, ANYKV_MAPPED, "no switch: %s", how);
}

static void monitor_memory(struct import *import)
{
    offered(import, "anykv_cache_stats has the gauges");
}
static void enable_profiling(struct import *import)
{
    offered(import, "anykv_cache_stats and anykv_cache_metrics count always");
}
static void multi_tenant(struct import *import)
{
    offered(import, "every sequence names its tenant, or says that it has none");
}
static void enable_async(struct import *import)
{
    offered(import, "work on device views is asynchronous");
}
static void enable_warmup(struct import *import)
{
    offered(import, "anykv_cache_create prepares every kernel");
}

/* What this version does not have. */
static void missing(struct import *import)
{
    const int on = word(import);
    if (on == 1)
        judge(import, ANYKV_REFUSED, "this version has no such thing");
    else if (on == 0)
        judge(import, ANYKV_ACCEPTED, "nothing to do");
}

static void part_of(struct import *import, const char *name)
{
    if (other_is(import, name, false))
        judge(import, ANYKV_REFUSED, "belongs to %s, which this version does not have", name);
    else
        judge(import, ANYKV_ACCEPTED, "no effect: %s is off", name);
}

static void persistence_path(struct import *import)
{
    part_of(import, "enable_persistence");
}
static void prefetch_size(struct import *import)
{
    part_of(import, "enable_prefetch");
}
static void distributed_backend(struct import *import)
{
    part_of(import, "enable_distributed");
}

static void async_threads(struct import *import)
{
    uint64_t n;
    if (!whole(import, 0, 4096, &n))
        return;
    import->config->threads = (uint32_t)n;
    judge(import, ANYKV_MAPPED, "device options.threads of a CPU device");
}

static void warmup_samples(struct import *import)
{
    uint64_t n;
    if (whole(import, 0, UINT32_MAX, &n))
        judge(import, ANYKV_MAPPED, "no counterpart: kernels are prepared, not warmed up");
}

static const struct {
    const char *name;
    void (*take)(struct import *import);
} fields[] = {
    {"num_heads", num_heads},
    {"head_dim", head_dim},
    {"max_tokens", max_tokens},
    {"block_size", block_size},
    {"cache_strategy", cache_strategy},
    {"cache_mode", cache_mode},
    {"use_compression", use_compression},
    {"compression_ratio", compression_ratio},
    {"compression_method", compression_method},
    {"use_quantization", use_quantization},
    {"quantization_bits", quantization_bits},
    {"max_memory_mb", max_memory_mb},
    {"enable_gc", enable_gc},
    {"gc_threshold", gc_threshold},
    {"pin_memory", pin_memory},
    {"non_blocking", non_blocking},
    {"dtype", dtype},
    {"adaptive_compression", adaptive},
    {"adaptive_quantization", adaptive},
    {"monitor_memory", monitor_memory},
    {"enable_persistence", missing},
    {"persistence_path", persistence_path},
    {"enable_prefetch", missing},
    {"prefetch_size", prefetch_size},
    {"enable_profiling", enable_profiling},
    {"enable_distributed", missing},
    {"distributed_backend", distributed_backend},
    {"multi_tenant", multi_tenant},
    {"tenant_isolation", tenant_isolation},
    {"enable_async", enable_async},
    {"async_threads", async_threads},
    {"enable_warmup", enable_warmup},
    {"warmup_samples", warmup_samples},
};

/* ---- the call ---- */

static void start_config(anykv_config *config, const struct akv_config_text *text)
{
    const anykv_config plain = ANYKV_CONFIG_INIT;
    *config = plain;
    config->layer.k_format = config->layer.v_format = ANYKV_F16;
    for (uint32_t i = 0; i < text->count; i++)
        if (strcmp(text->field[i].name, "cache_mode") == 0)
            (void)anykv_mode_parse(text->field[i].value, &config->mode);
    (void)anykv_cache_options_mode(config->mode, &config->options);
}

static void take_field(struct import *import, uint32_t i, anykv_config_field *field)
{
    memset(field, 0, sizeof *field);
    memcpy(field->name, import->text->field[i].name, sizeof field->name);
    memcpy(field->value, import->text->field[i].value, sizeof field->value);
    import->field = field;
    import->value = field->value;
    judge(import, ANYKV_REFUSED, "unknown name");
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++)
        if (strcmp(fields[f].name, field->name) == 0)
            fields[f].take(import);
}

anykv_status anykv_config_import(anykv_context *context, const char *text, size_t bytes,
                                 anykv_config *config_out, anykv_config_field *report,
                                 uint32_t *count_in_out)
{
    if (!text || !config_out || !count_in_out || (!report && *count_in_out))
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL",
                        !text           ? "text"
                        : !config_out   ? "config_out"
                        : !count_in_out ? "count_in_out"
                                        : "report");
    const size_t size = config_out->size;
    if (size < sizeof size || size > sizeof *config_out)
        return akv_fail(context, ANYKV_E_ARG,
                        "config_out.size: %zu is not between %zu and %zu (initialise it first)",
                        size, sizeof size, sizeof *config_out);
    struct akv_config_text *fields_read = akv_alloc(context, 1, sizeof *fields_read);
    if (!fields_read)
        return ANYKV_E_MEMORY;
    anykv_status status = akv_config_read(context, text, bytes, fields_read);
    if (!status && fields_read->count > *count_in_out) {
        *count_in_out = fields_read->count;
        status = akv_fail(context, ANYKV_E_SHAPE, "count_in_out: there are %u fields",
                          fields_read->count);
    }
    if (!status) {
        anykv_config config;
        start_config(&config, fields_read);
        struct import import = {&config, fields_read, NULL, NULL};
        for (uint32_t i = 0; i < fields_read->count; i++) {
            take_field(&import, i, &report[i]);
            config.accepted += report[i].verdict == ANYKV_ACCEPTED;
            config.mapped += report[i].verdict == ANYKV_MAPPED;
            config.refused += report[i].verdict == ANYKV_REFUSED;
        }
        config.size = size;
        *count_in_out = fields_read->count;
        memcpy(config_out, &config, size);
    }
    akv_free(context, fields_read);
    return status;
}
