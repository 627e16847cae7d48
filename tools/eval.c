/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval`: what formats do to a real model's attention. */
#include "device_option.h"
#include "dump_model.h"
#include "eval_budget.h"
#include "eval_cold.h"
#include "eval_compress.h"
#include "eval_pareto.h"
#include "eval_evict.h"
#include "eval_reference.h"
#include "eval_variant.h"
#include "kernel/format.h"
#include "progress.h"
#include "report.h"
#include "tools.h"
#include <inttypes.h>
#include <math.h>
#include <strings.h>

#define PAIRS    AKV_LIST_MAX
#define VARIANTS 64u

/* Every distinct way of a side through a format is gone once a layer. */
struct variants {
    uint32_t count;
    struct akv_eval_variant item[VARIANTS];
};
struct eval {
    struct akv_tool tool;
    struct akv_dump dump;
    struct akv_dump_model model;
    anykv_calibration *calibration; /* --calibration, or NULL */
    bool own_mean;                  /* centre without one: the mean of the file's first tokens */
    struct akv_progress progress;
    struct variants k, v;
    uint32_t pairs;
    struct akv_eval_pair pair[PAIRS];
    uint32_t methods;
    struct akv_eval_method method[AKV_LIST_MAX]; /* --compress */
    uint32_t first; /* position of the first query that counts */
    uint32_t sinks, recent;
    bool search, layers, json;
    enum akv_eval_scales scales;
    const char *pareto;
    struct akv_report *report;
    /* Sums over layers, one for each pair. */
    struct akv_eval_result sum[PAIRS];
    double sqnr_k[PAIRS], sqnr_v[PAIRS], bits[PAIRS];
};
/* One layer's rows as double, exact and after each variant. */
struct rows {
    double *q, *k, *v;
    double *k_variant[VARIANTS], *v_variant[VARIANTS];
    uint8_t *kept[VARIANTS]; /* of key variants that leave tokens out */
    double sqnr_k[VARIANTS], sqnr_v[VARIANTS], k_bits[VARIANTS], v_bits[VARIANTS];
};

static const struct akv_column columns[] = {
    {"k", "K", 0},
    {"v", "V", 0},
    {"transform", "transform", 0},
    {"bits", "bits", 3},
    {"layer", "layer", 0},
    {"sqnr_k_db", "SQNR K dB", 2},
    {"sqnr_v_db", "SQNR V dB", 2},
    {"attention_tv", "attention TV", 4},
    {"output_error", "output error", 4},
    {"output_error_999", "99.9 %", 4},
    {"top1", NULL, 0},
    {NULL, "top-1 %", 1},
    {"method", NULL, 0},
    {"bytes", "bytes", 0},
    {"search", NULL, 0},
    {"scales", NULL, 0},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- options ---- */

static const char *const mixed_pairs[] = {"I8/N4", "N5/N4", "N3/N2"};
static const char *const default_pairs[] = {"q8", "q6", "q5", "q4", "q3", "q2"};

/* Names that the command's interface reserves and that this version does not compute. */
static bool known_elsewhere(const char *name)
{
    static const char *const names[] = {"BX16"};
    size_t length = strcspn(name, "/");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if ((strlen(names[i]) == length && strncasecmp(names[i], name, length) == 0) ||
            (name[length] == '/' && strcasecmp(names[i], name + length + 1) == 0))
            return true;
    return false;
}

static int add_variant(struct variants *variants, struct akv_eval_variant variant, uint32_t *number)
{
    if (variant.kivi != 0 || variant.method != NULL || variant.format <= ANYKV_BF16)
        variant.transform = ANYKV_TRANSFORM_NONE;
    for (uint32_t i = 0; i < variants->count; i++) {
        const struct akv_eval_variant *known = &variants->item[i];
        if (known->format == variant.format && known->kivi == variant.kivi && known->method == variant.method &&
            known->transform == variant.transform) {
            *number = i;
            return AKV_CLI_GO;
        }
    }
    if (variants->count == VARIANTS)
        return akv_cli_wrong("eval", "--formats: more than %u formats and transforms", VARIANTS);
    *number = variants->count;
    variants->item[variants->count++] = variant;
    return AKV_CLI_GO;
}

static int add_sides(struct eval *eval, struct akv_eval_variant k, struct akv_eval_variant v)
{
    if (eval->pairs == PAIRS)
        return akv_cli_wrong("eval", "--formats: more than %u rows", PAIRS);
    struct akv_eval_pair *pair = &eval->pair[eval->pairs];
    int go = add_variant(&eval->k, k, &pair->k);
    if (go == AKV_CLI_GO)
        go = add_variant(&eval->v, v, &pair->v);
    for (uint32_t i = 0; i < eval->pairs && go == AKV_CLI_GO; i++)
        if (eval->pair[i].k == pair->k && eval->pair[i].v == pair->v)
            return go; /* what no transform changes has one row */
    eval->pairs += go == AKV_CLI_GO;
    return go;
}

static int add_pair(struct eval *eval, const char *name, anykv_transform transform)
{
    struct akv_eval_variant k = {ANYKV_F32, 0, transform, NULL}, v = k;
    if (strcasecmp(name, "KIVI4") == 0 || strcasecmp(name, "KIVI2") == 0) {
        k.kivi = v.kivi = name[4] == '4' ? 4 : 2;
    } else if (anykv_format_pair_parse(name, &k.format, &v.format) != ANYKV_OK) {
        if (anykv_format_parse(name, &k.format) != ANYKV_OK)
            return akv_cli_wrong("eval", "--formats: %s \"%s\"",
                                 known_elsewhere(name) ? "this version does not have the format"
                                                       : "unknown format or pair",
                                 name);
        v.format = k.format;
    }
    return add_sides(eval, k, v);
}

/* Every format with itself, the mixed profiles, the peers. */
static int add_all(struct eval *eval, anykv_transform transform)
{
    int go = AKV_CLI_GO;
    for (int format = ANYKV_F16; format < AKV_FORMATS && go == AKV_CLI_GO; format++)
        go = add_pair(eval, anykv_format_name((anykv_format)format), transform);
    for (size_t i = 0; i < sizeof mixed_pairs / sizeof mixed_pairs[0] && go == AKV_CLI_GO; i++)
        go = add_pair(eval, mixed_pairs[i], transform);
    if (go == AKV_CLI_GO)
        go = add_pair(eval, "KIVI4", transform);
    return go == AKV_CLI_GO ? add_pair(eval, "KIVI2", transform) : go;
}

static int add_pairs(struct eval *eval, const struct akv_text_list *formats,
                     anykv_transform transform)
{
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < formats->count && go == AKV_CLI_GO; i++)
        go = strcmp(formats->item[i], "all") == 0 ? add_all(eval, transform)
                                                  : add_pair(eval, formats->item[i], transform);
    return go;
}

static int add_methods(struct eval *eval, const struct akv_text_list *methods)
{
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < methods->count && go == AKV_CLI_GO; i++) {
        const struct akv_eval_variant side = {ANYKV_F32, 0, ANYKV_TRANSFORM_NONE, &eval->method[i]};
        go = akv_eval_method_parse(methods->item[i], &eval->method[i]);
        if (go == AKV_CLI_GO)
            go = add_sides(eval, side, side);
        eval->methods++;
    }
    return go;
}

static const char *const scale_names[] = {"one", "tensor", "head"}; /* enum akv_eval_scales */
static const char *const transform_names[] = {"none", "rotate", "centre", "matrix", "auto"};

static int choose(struct eval *eval, const struct akv_text_list *formats,
                  const struct akv_text_list *transforms, bool calibration)
{
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < transforms->count && go == AKV_CLI_GO; i++) {
        const char *name = transforms->item[i];
        int transform = 0;
        while (transform <= (int)AKV_EVAL_AUTO && strcmp(name, transform_names[transform]) != 0)
            transform++;
        if (transform > (int)AKV_EVAL_AUTO)
            return akv_cli_wrong("eval", "--transforms: unknown transform \"%s\"", name);
        if (transform == (int)ANYKV_TRANSFORM_MATRIX && !calibration)
            return akv_cli_wrong("eval", "--transforms: matrix needs --calibration FILE");
        if (transform == (int)AKV_EVAL_AUTO && !calibration)
            transform = ANYKV_TRANSFORM_ROTATE;
        eval->own_mean |= transform == (int)ANYKV_TRANSFORM_CENTRE && !calibration;
        go = add_pairs(eval, formats, (anykv_transform)transform);
    }
    return go;
}

/* ---- one layer ---- */

static anykv_status check_finite(const struct eval *eval, uint32_t layer, const char *side,
                                 const double *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (rows[i] - rows[i] != 0.0)
            return akv_fail(NULL, ANYKV_E_DATA, "layers.%" PRIu32 ".%s: element %zu is not finite",
                            eval->dump.layer[layer], side, i);
    return ANYKV_OK;
}

/* Signal to error in dB over the tokens that are encoded for every query; NaN where there is no
 * error. */
static double sqnr(const struct eval *eval, const double *exact, const double *stored)
{
    const struct akv_dump *dump = &eval->dump;
    size_t row = (size_t)dump->kv_heads * dump->head_dim;
    uint32_t first = eval->sinks,
             last = dump->tokens > eval->recent ? dump->tokens - eval->recent : 0;
    double signal = 0.0, noise = 0.0;
    for (size_t i = first * row; i < last * row; i++) {
        signal += exact[i] * exact[i];
        noise += (stored[i] - exact[i]) * (stored[i] - exact[i]);
    }
    return noise > 0.0 && signal > 0.0 ? 10.0 * log10(signal / noise) : (double)NAN;
}

static anykv_status exact_rows(const void *rows, anykv_dtype dtype, size_t count, double **out)
{
    *out = akv_alloc(NULL, count, sizeof **out);
    if (*out == NULL)
        return ANYKV_E_MEMORY;
    akv_rows_to_double(rows, dtype, count, *out);
    return ANYKV_OK;
}

/* Where a method scores by queries, it sees the first half of them and the others count. */
static anykv_status cut(struct eval *eval)
{
    const struct akv_dump *dump = &eval->dump;
    eval->first = dump->q_first;
    for (uint32_t i = 0; i < eval->methods; i++)
        if (akv_eval_method_scores(&eval->method[i]))
            eval->first = dump->q_first + (dump->tokens - dump->q_first) / 2;
    if (eval->first == dump->q_first)
        return ANYKV_OK;
    for (uint32_t i = 0; i < dump->layers; i++)
        if (dump->window[i])
            return akv_fail(NULL, ANYKV_E_UNSUPPORTED,
                            "layers.%" PRIu32 ": it has a window; dropping tokens takes layers without",
                            dump->layer[i]);
    return ANYKV_OK;
}

static anykv_status prepare(const struct eval *eval, uint32_t layer,
                            const anykv_calibration *calibration, struct rows *rows)
{
    const struct akv_dump *dump = &eval->dump;
    size_t row = (size_t)dump->kv_heads * dump->head_dim, count = row * dump->tokens;
    size_t q_count = (size_t)(dump->tokens - dump->q_first) * dump->q_heads * dump->head_dim;
    struct akv_dump_layer raw;
    anykv_status status = akv_dump_load(dump, layer, &raw);
    if (status == ANYKV_OK)
        status = exact_rows(raw.k, raw.k_dtype, count, &rows->k);
    if (status == ANYKV_OK)
        status = exact_rows(raw.v, raw.v_dtype, count, &rows->v);
    if (status == ANYKV_OK)
        status = exact_rows(raw.q, raw.q_dtype, q_count, &rows->q);
    if (status == ANYKV_OK)
        status = check_finite(eval, layer, "k", rows->k, count);
    if (status == ANYKV_OK)
        status = check_finite(eval, layer, "v", rows->v, count);
    if (status == ANYKV_OK)
        status = check_finite(eval, layer, "q", rows->q, q_count);
    const struct akv_evict_layer seen = {dump->tokens, dump->q_first, eval->first, dump->q_heads, dump->kv_heads,
                                         dump->head_dim, dump->scale, rows->q, rows->k, rows->v,
                                         &eval->model.layers[dump->layer[layer]], dump->layer[layer], NULL};
    struct akv_eval_rows k = {.device = eval->tool.device,
                              .calibration = calibration,
                              .data = raw.k,
                              .exact = rows->k,
                              .dtype = raw.k_dtype,
                              .layer = dump->layer[layer],
                              .side = 0,
                              .tokens = dump->tokens,
                              .heads = dump->kv_heads,
                              .dim = dump->head_dim,
                              .search = eval->search,
                              .seen = &seen,
                              .scales = eval->scales};
    struct akv_eval_rows v = k;
    v.data = raw.v;
    v.exact = rows->v;
    v.dtype = raw.v_dtype;
    v.side = 1;
    for (uint32_t i = 0; i < eval->k.count && status == ANYKV_OK; i++) {
        status = akv_eval_pass(&k, &eval->k.item[i], &rows->k_variant[i], &rows->k_bits[i],
                               &rows->kept[i]);
        if (status == ANYKV_OK)
            rows->sqnr_k[i] = sqnr(eval, rows->k, rows->k_variant[i]);
    }
    for (uint32_t i = 0; i < eval->v.count && status == ANYKV_OK; i++) {
        status = akv_eval_pass(&v, &eval->v.item[i], &rows->v_variant[i], &rows->v_bits[i], NULL);
        if (status == ANYKV_OK)
            rows->sqnr_v[i] = sqnr(eval, rows->v, rows->v_variant[i]);
    }
    akv_dump_free(&raw);
    return status;
}

static void free_rows(struct rows *rows)
{
    akv_free(NULL, rows->q);
    akv_free(NULL, rows->k);
    akv_free(NULL, rows->v);
    for (uint32_t i = 0; i < VARIANTS; i++) {
        akv_free(NULL, rows->k_variant[i]);
        akv_free(NULL, rows->kept[i]);
        akv_free(NULL, rows->v_variant[i]);
    }
}

/* Bits an element of this file takes on average, K and V together, 16-bit tokens included. */
static double bits(const struct eval *eval, const struct rows *rows, uint32_t pair)
{
    double tokens = (double)eval->dump.tokens, sum = 0.0;
    double hot = (double)eval->sinks + (double)eval->recent;
    const uint32_t number[2] = {eval->pair[pair].k, eval->pair[pair].v};
    const struct akv_eval_variant *sides[2] = {&eval->k.item[number[0]], &eval->v.item[number[1]]};
    const double own[2] = {rows->k_bits[number[0]], rows->v_bits[number[1]]};
    if (hot > tokens)
        hot = tokens;
    for (int side = 0; side < 2; side++) {
        const bool raw = !sides[side]->method && !sides[side]->kivi && sides[side]->format <= ANYKV_BF16;
        sum += (hot * (raw ? own[side] : 16.0) + (tokens - hot) * own[side]) / tokens;
    }
    return sum / 2.0;
}

/* Of a pair whose sides differ (a raw format has no transform), the one that does more. */
static const char *transform_of(const struct eval *eval, uint32_t pair)
{
    const anykv_transform k = eval->k.item[eval->pair[pair].k].transform;
    const anykv_transform v = eval->v.item[eval->pair[pair].v].transform;
    return transform_names[k > v ? k : v];
}

static void add_row(const struct eval *eval, uint32_t pair, const char *layer, uint32_t number,
                    const struct akv_eval_result *result, double sqnr_k, double sqnr_v, double pair_bits)
{
    const struct akv_dump *dump = &eval->dump;
    const double elements = 2.0 * dump->tokens * dump->kv_heads * dump->head_dim;
    const struct akv_eval_variant *k = &eval->k.item[eval->pair[pair].k];
    const struct akv_eval_variant *v = &eval->v.item[eval->pair[pair].v];
    struct akv_value row[COLUMNS] = {
        akv_text(akv_eval_format_name(k)),
        akv_text(akv_eval_format_name(v)),
        akv_text(transform_of(eval, pair)),
        akv_real(pair_bits),
        layer != NULL ? akv_text(layer) : akv_whole(number),
        akv_real(sqnr_k),
        akv_real(sqnr_v),
        akv_real(result->attention_tv),
        akv_real(result->output_error),
        akv_real(result->output_error_999),
        akv_real(result->top1),
        akv_real(result->top1 * 100.0),
        akv_text(k->method != NULL ? k->method->name : NULL),
        akv_whole((uint64_t)llrint(pair_bits / 8.0 * elements * (layer != NULL ? dump->layers : 1))),
        akv_bool(eval->search),
        akv_text(k->format == ANYKV_E4M3G || v->format == ANYKV_E4M3G ? scale_names[eval->scales] : NULL),
    };
    akv_report_row(eval->report, row);
}

static void add_layer(struct eval *eval, uint32_t layer, const struct rows *rows,
                      const struct akv_eval_result *result)
{
    for (uint32_t n = 0; n < eval->pairs; n++) {
        double k = rows->sqnr_k[eval->pair[n].k], v = rows->sqnr_v[eval->pair[n].v];
        const double mean = bits(eval, rows, n);
        eval->sum[n].attention_tv += result[n].attention_tv;
        eval->sum[n].output_error += result[n].output_error;
        eval->sum[n].output_error_999 += result[n].output_error_999;
        eval->sum[n].top1 += result[n].top1;
        eval->sqnr_k[n] += k;
        eval->sqnr_v[n] += v;
        eval->bits[n] += mean;
        if (eval->layers)
            add_row(eval, n, NULL, eval->dump.layer[layer], &result[n], k, v, mean);
    }
}

/* The mean of the file's own first tokens. */
static anykv_status own_mean(const struct eval *eval, uint32_t layer,
                             anykv_calibration **calibration_out)
{
    anykv_moments *moments = NULL;
    anykv_calibrate_options options = ANYKV_CALIBRATE_OPTIONS_INIT;
    options.most = ANYKV_TRANSFORM_CENTRE;
    anykv_status status = anykv_moments_create(eval->tool.context, eval->model.layers,
                                               eval->model.count, &moments);
    if (status == ANYKV_OK)
        status = akv_dump_add_moments(&eval->dump, layer, AKV_EVAL_OWN_TOKENS, false, moments);
    if (status == ANYKV_OK)
        status = anykv_moments_solve(moments, &options, calibration_out);
    anykv_moments_destroy(moments);
    return status;
}

static anykv_status one_layer(struct eval *eval, uint32_t layer)
{
    const struct akv_dump *dump = &eval->dump;
    struct rows rows;
    struct akv_eval_result result[PAIRS];
    const double *k[VARIANTS], *v[VARIANTS];
    const uint8_t *kept[VARIANTS];
    memset(&rows, 0, sizeof rows);
    anykv_calibration *own = NULL;
    anykv_status status = eval->own_mean ? own_mean(eval, layer, &own) : ANYKV_OK;
    if (status == ANYKV_OK)
        status = prepare(eval, layer, own != NULL ? own : eval->calibration, &rows);
    for (uint32_t i = 0; i < VARIANTS; i++) {
        k[i] = rows.k_variant[i];
        v[i] = rows.v_variant[i];
        kept[i] = rows.kept[i];
    }
    const struct akv_eval_problem problem = {
        .tokens = dump->tokens,
        .q_first = eval->first,
        .q_heads = dump->q_heads,
        .kv_heads = dump->kv_heads,
        .dim = dump->head_dim,
        .window = dump->window[layer],
        .sinks = eval->sinks,
        .recent = eval->recent,
        .scale = dump->scale,
        .q = rows.q + (size_t)(eval->first - dump->q_first) * dump->q_heads * dump->head_dim,
        .k = rows.k,
        .v = rows.v,
        .k_variants = eval->k.count,
        .v_variants = eval->v.count,
        .k_variant = k,
        .v_variant = v,
        .kept = kept,
        .pairs = eval->pairs,
        .pair = eval->pair,
    };
    if (status == ANYKV_OK)
        status = akv_eval_compare(&problem, akv_cpu_count(), result);
    if (status == ANYKV_OK)
        add_layer(eval, layer, &rows, result);
    free_rows(&rows);
    anykv_calibration_destroy(own);
    return status;
}

/* The means as points of a drawing of bits against error. */
static anykv_status draw(const struct eval *eval)
{
    struct akv_pareto_point points[PAIRS];
    for (uint32_t n = 0; n < eval->pairs; n++) {
        const struct akv_eval_variant *k = &eval->k.item[eval->pair[n].k];
        const struct akv_eval_variant *v = &eval->v.item[eval->pair[n].v];
        struct akv_pareto_point *point = &points[n];
        const char *name = akv_eval_format_name(k);
        const bool one = k->kivi != 0 || k->method != NULL;
        snprintf(point->name, sizeof point->name, "%s%s%s", name, one ? "" : "/",
                 one ? "" : akv_eval_format_name(v));
        point->series = k->kivi != 0 ? "peer" : k->method != NULL ? "compress" : transform_of(eval, n);
        point->bits = eval->bits[n] / eval->dump.layers;
        point->attention_tv = eval->sum[n].attention_tv / eval->dump.layers;
        point->output_error = eval->sum[n].output_error / eval->dump.layers;
    }
    char title[300];
    snprintf(title, sizeof title, "%s, %" PRIu32 " tokens, %" PRIu32 " sinks, %" PRIu32 " recent",
             eval->dump.model != NULL ? eval->dump.model : "a model", eval->dump.tokens,
             eval->sinks, eval->recent);
    return akv_pareto_draw(eval->pareto, title, points, eval->pairs);
}

static anykv_status all_layers(struct eval *eval)
{
    anykv_status status = ANYKV_OK;
    eval->report = akv_report_begin(stdout, eval->json, columns, COLUMNS);
    if (eval->report == NULL)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&eval->progress, "eval", eval->dump.layers);
    for (uint32_t layer = 0; layer < eval->dump.layers && status == ANYKV_OK; layer++) {
        akv_progress_step(&eval->progress, layer, NULL);
        status = one_layer(eval, layer);
    }
    akv_progress_end(&eval->progress);
    double share = 1.0 / eval->dump.layers;
    for (uint32_t n = 0; n < eval->pairs && status == ANYKV_OK; n++) {
        struct akv_eval_result mean = eval->sum[n];
        mean.attention_tv *= share;
        mean.output_error *= share;
        mean.output_error_999 *= share;
        mean.top1 *= share;
        add_row(eval, n, "all", 0, &mean, eval->sqnr_k[n] * share, eval->sqnr_v[n] * share,
                eval->bits[n] * share);
    }
    if (status == ANYKV_OK && eval->pareto != NULL)
        status = draw(eval);
    anykv_status end = akv_report_end(eval->report);
    return status != ANYKV_OK ? status : end;
}

/* The dump's model, and that the calibration was made for it. */
static anykv_status open_model(struct eval *eval)
{
    const anykv_calibration *calibration = eval->calibration;
    uint32_t least = 0;
    if (calibration != NULL)
        least = calibration->layers[calibration->count - 1].number + 1;
    anykv_status status = akv_dump_model_open(&eval->model, &eval->dump, least);
    if (status != ANYKV_OK || calibration == NULL)
        return status;
    if (calibration->model[0] != '\0' && eval->dump.model != NULL &&
        strncmp(calibration->model, eval->dump.model, sizeof calibration->model - 1) != 0)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "calibration of another model: it was made for \"%s\", the file is of \"%s\"",
                        calibration->model, eval->dump.model);
    return akv_calibration_fits(calibration, eval->model.layers, eval->model.count, NULL, 0);
}

static int run(struct eval *eval, const char *path, const char *device, const char *calibration)
{
    int go = akv_tool_open(&eval->tool, "eval", device, NULL);
    if (go != AKV_CLI_GO)
        return go;
    anykv_status status = ANYKV_OK;
    if (calibration != NULL)
        status = anykv_calibration_load(eval->tool.context, calibration, &eval->calibration);
    if (status != ANYKV_OK)
        return akv_cli_status("eval", calibration, status);
    status = akv_dump_open(&eval->dump, path);
    if (status == ANYKV_OK)
        status = open_model(eval);
    if (status == ANYKV_OK)
        status = cut(eval);
    if (status == ANYKV_OK && !eval->json)
        printf("%s: %s, %" PRIu32 " tokens, %" PRIu32 " layers, %" PRIu32 " query and %" PRIu32
               " kv heads of %" PRIu32 ", on %s\n\n",
               path, eval->dump.model != NULL ? eval->dump.model : "a model", eval->dump.tokens,
               eval->dump.layers, eval->dump.q_heads, eval->dump.kv_heads, eval->dump.head_dim,
               eval->tool.info.name);
    if (status == ANYKV_OK)
        status = all_layers(eval);
    return status == ANYKV_OK ? AKV_EXIT_GOOD : akv_cli_status("eval", path, status);
}

#define UNSET UINT64_MAX /* of an option whose default depends on others */

static int run_budget(const char *path, const char *device, uint32_t percent, uint32_t sinks,
                      uint32_t recent, bool layers, bool json)
{
    struct akv_tool tool = {0};
    const int go = akv_tool_open(&tool, "eval", device, NULL);
    if (go != AKV_CLI_GO)
        return go;
    bool good = false;
    const anykv_status status =
        akv_eval_budget(&tool, path, percent, sinks, recent, layers, json, &good);
    const int code = status ? akv_cli_status("eval", path, status)
                     : good ? AKV_EXIT_GOOD
                            : AKV_EXIT_FAILED;
    akv_tool_close(&tool);
    return code;
}

static int run_cold(const char *path, const char *device, bool json)
{
    struct akv_tool tool = {0};
    const int go = akv_tool_open(&tool, "eval", device, NULL);
    if (go != AKV_CLI_GO)
        return go;
    bool good = false;
    const anykv_status status = akv_eval_cold(&tool, path, json, &good);
    const int code = status ? akv_cli_status("eval", path, status)
                     : good ? AKV_EXIT_GOOD
                            : AKV_EXIT_FAILED;
    akv_tool_close(&tool);
    return code;
}

int akv_tool_eval(int argc, char **argv)
{
    static struct akv_text_list formats, transforms, evict, keep, compress;
    const char *device = "auto", *path = NULL, *calibration = NULL, *pareto = NULL;
    uint64_t sinks = UNSET, recent = UNSET, budget = 0;
    const char *scales = "one";
    uint32_t scale_kind = 0;
    bool json = false, layers = false, no_search = false, cold = false;
    const struct akv_cli_option options[] = {
        {"formats", AKV_CLI_TEXT_LIST, &formats, 0, 0, "LIST",
         "K/V pairs, formats or profiles: I8/N4,N4,q5, or all\n"
         "(KIVI4 and KIVI2, the peers, among them; default: the profiles\nq8,q6,q5,q4,q3,q2)"},
        {"transforms", AKV_CLI_TEXT_LIST, &transforms, 0, 0, "LIST",
         "none, rotate, centre (mean and rotation), matrix (mean and matrix,\n"
         "needs --calibration) or auto (default: auto, what a cache with the\n"
         "calibration does; without one: rotate)"},
        {"calibration", AKV_CLI_TEXT, &calibration, 0, 0, "FILE",
         "what `anykv calibrate` wrote; without one, centre takes the mean of\n"
         "the file's first 512 tokens, leaving out 4"},
        {"sinks", AKV_CLI_U64, &sinks, 0, 1u << 30, "N",
         "the first N tokens enter at 16 bit (default: 0)"},
        {"recent", AKV_CLI_U64, &recent, 0, 1u << 30, "N",
         "the N tokens up to each query enter at 16 bit (default: 0)"},
        {"no-search", AKV_CLI_FLAG, &no_search, 0, 0, NULL,
         "N5 to N2 without the search of scales that a cache does"},
        {"scales", AKV_CLI_TEXT, &scales, 0, 0, "KIND",
         "of E4M3G: one, or a share of the longest of the file's first 512 rows,\n"
         "one for the tensor or one for each head (default: one)"},
        {"layers", AKV_CLI_FLAG, &layers, 0, 0, NULL, "a row for each layer, too"},
        {"pareto", AKV_CLI_TEXT, &pareto, 0, 0, "FILE.svg", "draw bits against error"},
        {"evict", AKV_CLI_TEXT_LIST, &evict, 0, 0, "LIST",
         "token policies instead of formats: streaming, h2o, snapkv, tova, knorm,\n"
         "keydiff, paged, affine, expected, oracle, scores:FILE, or all.  With\n"
         "METHOD:adaptive the heads of a layer share the budget, with :apart in whole\n"
         "blocks of 16 as the engine does, with :across the heads of all layers.\n"
         "Scores see the first half of FILE's queries, errors are those of the\n"
         "second; --sinks and --recent (here 4 and 32) tokens always stay"},
        {"keep", AKV_CLI_TEXT_LIST, &keep, 0, 0, "LIST",
         "shares of the tokens that stay (default: 0.75,0.5,0.25)"},
        {"budget", AKV_CLI_U64, &budget, 1, 100, "PERCENT",
         "compare the precision ladder with eviction in a cache of that share\n"
         "of the file's F16 bytes (--sinks and --recent: here 4 and 128)"},
        {"compress", AKV_CLI_TEXT_LIST, &compress, 0, 0, "LIST",
         "ways of compressing, METHOD[:PARAMETER], beside the formats: bx16 (rows\n"
         "rounded to BF16, then bit for bit), sparse:SHARE (of the tokens, by the\n"
         "attention of the last 64 queries seen), channels:SHARE, lowrank:KEYS[/VALUES]\n"
         "(steps; values thrice the keys'; needs a calibration with bases).  With sparse\n"
         "and channels, scores see the first half of FILE's queries and errors are those of the second"},
        {"cold", AKV_CLI_FLAG, &cold, 0, 0, NULL,
         "compress the blocks of a cache with the file's rows in BF16 in place and\n"
         "read them back: bytes and times"},
        AKV_DEVICE_OPTION(device),
        AKV_JSON_OPTION(json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        "eval",
        "[OPTION]... FILE",
        "Sends the keys and values of FILE through the library's formats and compares attention "
        "with\n"
        "exact attention in double precision: mean total variation of the weights, mean and 99.9 "
        "%\n"
        "relative error of the output, and how often the most attended token stays the same.  "
        "\"all\" is\n"
        "the mean over layers.\n"
        "\n"
        "FILE is safetensors with F16, BF16 or F32 tensors layers.N.k and layers.N.v "
        "[tokens][kv_heads]\n"
        "[head_dim] and layers.N.q [tokens - q_first][q_heads][head_dim]; its __metadata__ names "
        "tokens,\n"
        "q_first, q_heads, kv_heads, head_dim, scale, layers, and, where there are local layers,\n"
        "sliding_window and global_layers; for centre and matrix also rope (interleaved or half), "
        "rope_base,\n"
        "rope_dim and rope_base_sliding.",
        "anykv eval model.safetensors --formats I8,N4,I8/N4 --sinks 4 --recent 128\n"
        "anykv eval text.safetensors --formats N4 --compress bx16,sparse:0.5\n"
        "anykv eval text.safetensors --formats all --calibration model.anykvcal --pareto out.svg",
        options,
        1,
        1};
    formats.count = transforms.count = evict.count = keep.count = compress.count = 0;
    int go = akv_cli_parse(&cli, argc, argv, &path, NULL);
    if (go != AKV_CLI_GO)
        return go;
    if (compress.count != 0 && (evict.count != 0 || budget != 0))
        return akv_cli_wrong("eval", "--compress: not with --evict or --budget");
    if (cold && (evict.count != 0 || budget != 0 || compress.count != 0))
        return akv_cli_wrong("eval", "--cold: not with --evict, --budget or --compress");
    if (cold)
        return run_cold(path, device, json);
    while (scale_kind < 3 && strcmp(scales, scale_names[scale_kind]) != 0)
        scale_kind++;
    if (scale_kind == 3)
        return akv_cli_wrong("eval", "--scales: \"%s\" is none of one, tensor, head", scales);
    if (no_search && (evict.count != 0 || budget != 0))
        return akv_cli_wrong("eval", "--no-search: not with --evict or --budget");
    if (evict.count != 0)
        return akv_eval_evict(path, &evict, &keep, (uint32_t)(sinks == UNSET ? 4 : sinks),
                              (uint32_t)(recent == UNSET ? 32 : recent), layers, json);
    if (keep.count != 0)
        return akv_cli_wrong("eval", "--keep: needs --evict");
    if (budget != 0)
        return run_budget(path, device, (uint32_t)budget, (uint32_t)(sinks == UNSET ? 4 : sinks),
                          (uint32_t)(recent == UNSET ? 128 : recent), layers, json);
    sinks = sinks == UNSET ? 0 : sinks;
    recent = recent == UNSET ? 0 : recent;
    if (transforms.count == 0)
        snprintf(transforms.item[transforms.count++], AKV_ITEM_MAX, "auto");
    if (formats.count == 0)
        for (size_t i = 0; i < sizeof default_pairs / sizeof default_pairs[0]; i++)
            snprintf(formats.item[formats.count++], AKV_ITEM_MAX, "%s", default_pairs[i]);
    struct eval *eval = akv_alloc(NULL, 1, sizeof *eval);
    if (eval == NULL)
        return akv_cli_status("eval", "memory", ANYKV_E_MEMORY);
    eval->sinks = (uint32_t)sinks;
    eval->recent = (uint32_t)recent;
    eval->search = !no_search;
    eval->scales = (enum akv_eval_scales)scale_kind;
    eval->layers = layers;
    eval->json = json;
    eval->pareto = pareto;
    go = choose(eval, &formats, &transforms, calibration != NULL);
    if (go == AKV_CLI_GO)
        go = add_methods(eval, &compress);
    if (go == AKV_CLI_GO) {
        go = run(eval, path, device, calibration);
        anykv_calibration_destroy(eval->calibration);
        akv_dump_model_close(&eval->model);
        akv_dump_close(&eval->dump);
        akv_tool_close(&eval->tool);
    }
    akv_free(NULL, eval);
    return go;
}
