/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval`: what formats do to a real model's attention. */
#include "device_option.h"
#include "dump.h"
#include "eval_reference.h"
#include "progress.h"
#include "report.h"
#include "tools.h"
#include <inttypes.h>
#include <math.h>
#include <strings.h>

#define PAIRS    AKV_LIST_MAX
#define VARIANTS 32u

/* One side's way through a format; every distinct one is encoded once a layer. */
struct variant {
    anykv_format format;
    anykv_transform transform;
};
struct variants {
    uint32_t count;
    struct variant item[VARIANTS];
};
struct eval {
    struct akv_tool tool;
    struct akv_dump dump;
    struct akv_progress progress;
    struct variants k, v;
    uint32_t pairs;
    struct akv_eval_pair pair[PAIRS];
    uint32_t sinks, recent;
    bool layers, json;
    struct akv_report *report;
    /* Sums over layers, one for each pair. */
    struct akv_eval_result sum[PAIRS];
    double sqnr_k[PAIRS], sqnr_v[PAIRS];
};
/* One layer's rows as double, exact and after each variant. */
struct rows {
    double *q, *k, *v;
    double *k_variant[VARIANTS], *v_variant[VARIANTS];
    double sqnr_k[VARIANTS], sqnr_v[VARIANTS];
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
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- options ---- */

static const char *const all_pairs[] = {"F16/F16", "I8/I8", "N6/N6", "I8/N4", "N5/N5",
                                        "N5/N4",   "N4/N4", "N3/N3", "N3/N2", "N2/N2"};
static const char *const default_pairs[] = {"q8", "q6", "q5", "q4", "q3", "q2"};

/* Names that the command's interface reserves and that this version does not compute. */
static bool known_elsewhere(const char *name)
{
    static const char *const names[] = {"KIVI4", "KIVI2",  "Q8_0", "Q5_1", "Q5_0",    "Q4_1",
                                        "Q4_0",  "IQ4_NL", "E4M3", "BX16", "lossless"};
    size_t length = strcspn(name, "/");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if ((strlen(names[i]) == length && strncasecmp(names[i], name, length) == 0) ||
            (name[length] == '/' && strcasecmp(names[i], name + length + 1) == 0))
            return true;
    return false;
}

static uint32_t add_variant(struct variants *variants, anykv_format format,
                            anykv_transform transform)
{
    if (format <= ANYKV_BF16)
        transform = ANYKV_TRANSFORM_NONE;
    for (uint32_t i = 0; i < variants->count; i++)
        if (variants->item[i].format == format && variants->item[i].transform == transform)
            return i;
    variants->item[variants->count].format = format;
    variants->item[variants->count].transform = transform;
    return variants->count++; /* 9 formats, 2 transforms: always room */
}

static int add_pair(struct eval *eval, const char *name, anykv_transform transform)
{
    anykv_format k, v;
    if (anykv_format_pair_parse(name, &k, &v) != ANYKV_OK) {
        if (anykv_format_parse(name, &k) != ANYKV_OK)
            return akv_cli_wrong("eval", "--formats: %s \"%s\"",
                                 known_elsewhere(name) ? "this version does not have the format"
                                                       : "unknown format or pair",
                                 name);
        v = k;
    }
    if (eval->pairs == PAIRS)
        return akv_cli_wrong("eval", "--formats: more than %u rows", PAIRS);
    eval->pair[eval->pairs].k = add_variant(&eval->k, k, transform);
    eval->pair[eval->pairs].v = add_variant(&eval->v, v, transform);
    eval->pairs++;
    return AKV_CLI_GO;
}

static int add_pairs(struct eval *eval, const struct akv_text_list *formats,
                     anykv_transform transform)
{
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < formats->count && go == AKV_CLI_GO; i++) {
        if (strcmp(formats->item[i], "all") != 0) {
            go = add_pair(eval, formats->item[i], transform);
            continue;
        }
        for (size_t n = 0; n < sizeof all_pairs / sizeof all_pairs[0] && go == AKV_CLI_GO; n++)
            go = add_pair(eval, all_pairs[n], transform);
    }
    return go;
}

static int choose(struct eval *eval, const struct akv_text_list *formats,
                  const struct akv_text_list *transforms)
{
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < transforms->count && go == AKV_CLI_GO; i++) {
        const char *name = transforms->item[i];
        if (strcmp(name, "rotate") == 0 || strcmp(name, "auto") == 0)
            go = add_pairs(eval, formats, ANYKV_TRANSFORM_ROTATE);
        else if (strcmp(name, "none") == 0)
            go = add_pairs(eval, formats, ANYKV_TRANSFORM_NONE);
        else if (strcmp(name, "centre") == 0 || strcmp(name, "matrix") == 0)
            go = akv_cli_wrong("eval", "--transforms: this version does not have \"%s\"", name);
        else
            go = akv_cli_wrong("eval", "--transforms: unknown transform \"%s\"", name);
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

/* rows of the file → packed → f32 → double, through the library's codec on the device. */
static anykv_status pass(const struct eval *eval, struct variant variant, const void *rows,
                         anykv_dtype dtype, double **stored_out)
{
    const struct akv_dump *dump = &eval->dump;
    size_t count = (size_t)dump->tokens * dump->kv_heads * dump->head_dim;
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    anykv_codec *codec = NULL;
    uint64_t bytes = 0;
    options.format = variant.format;
    options.transform = variant.transform;
    options.head_dim = dump->head_dim;
    anykv_status status = anykv_codec_create(eval->tool.device, &options, &codec);
    if (status == ANYKV_OK)
        status = anykv_codec_bytes(codec, (uint64_t)dump->tokens * dump->kv_heads, &bytes);
    if (status != ANYKV_OK) {
        anykv_codec_destroy(codec);
        return status;
    }
    void *packed = akv_alloc(NULL, (size_t)bytes, 1);
    float *floats = akv_alloc(NULL, count, sizeof *floats);
    *stored_out = akv_alloc(NULL, count, sizeof **stored_out);
    status = packed == NULL || floats == NULL || *stored_out == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
    anykv_view in = anykv_view_host(rows, dtype, dump->kv_heads, dump->head_dim);
    anykv_view out = anykv_view_host(floats, ANYKV_F32, dump->kv_heads, dump->head_dim);
    if (status == ANYKV_OK)
        status = anykv_codec_encode(codec, &in, dump->tokens, dump->kv_heads, packed, bytes, NULL);
    if (status == ANYKV_OK)
        status = anykv_codec_decode(codec, packed, bytes, dump->tokens, dump->kv_heads, &out);
    if (status == ANYKV_OK)
        akv_rows_to_double(floats, ANYKV_F32, count, *stored_out);
    akv_free(NULL, packed);
    akv_free(NULL, floats);
    anykv_codec_destroy(codec);
    return status;
}

static anykv_status exact_rows(const void *rows, anykv_dtype dtype, size_t count, double **out)
{
    *out = akv_alloc(NULL, count, sizeof **out);
    if (*out == NULL)
        return ANYKV_E_MEMORY;
    akv_rows_to_double(rows, dtype, count, *out);
    return ANYKV_OK;
}

static anykv_status prepare(const struct eval *eval, uint32_t layer, struct rows *rows)
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
    for (uint32_t i = 0; i < eval->k.count && status == ANYKV_OK; i++) {
        status = pass(eval, eval->k.item[i], raw.k, raw.k_dtype, &rows->k_variant[i]);
        if (status == ANYKV_OK)
            rows->sqnr_k[i] = sqnr(eval, rows->k, rows->k_variant[i]);
    }
    for (uint32_t i = 0; i < eval->v.count && status == ANYKV_OK; i++) {
        status = pass(eval, eval->v.item[i], raw.v, raw.v_dtype, &rows->v_variant[i]);
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
        akv_free(NULL, rows->v_variant[i]);
    }
}

/* Bits an element of this file takes on average, K and V together, 16-bit tokens included. */
static double bits(const struct eval *eval, uint32_t pair)
{
    double tokens = (double)eval->dump.tokens, sum = 0.0;
    double hot = (double)eval->sinks + (double)eval->recent;
    anykv_format formats[2] = {eval->k.item[eval->pair[pair].k].format,
                               eval->v.item[eval->pair[pair].v].format};
    if (hot > tokens)
        hot = tokens;
    for (int side = 0; side < 2; side++) {
        double own = anykv_format_bits(formats[side], eval->dump.head_dim);
        double exact = formats[side] <= ANYKV_BF16 ? own : 16.0;
        sum += (hot * exact + (tokens - hot) * own) / tokens;
    }
    return sum / 2.0;
}

static void add_row(const struct eval *eval, uint32_t pair, const char *layer, uint32_t number,
                    const struct akv_eval_result *result, double sqnr_k, double sqnr_v)
{
    struct variant k = eval->k.item[eval->pair[pair].k], v = eval->v.item[eval->pair[pair].v];
    bool rotated = k.transform == ANYKV_TRANSFORM_ROTATE || v.transform == ANYKV_TRANSFORM_ROTATE;
    struct akv_value row[COLUMNS] = {
        akv_text(anykv_format_name(k.format)),
        akv_text(anykv_format_name(v.format)),
        akv_text(rotated ? "rotate" : "none"),
        akv_real(bits(eval, pair)),
        layer != NULL ? akv_text(layer) : akv_whole(number),
        akv_real(sqnr_k),
        akv_real(sqnr_v),
        akv_real(result->attention_tv),
        akv_real(result->output_error),
        akv_real(result->output_error_999),
        akv_real(result->top1),
        akv_real(result->top1 * 100.0),
    };
    akv_report_row(eval->report, row);
}

static void add_layer(struct eval *eval, uint32_t layer, const struct rows *rows,
                      const struct akv_eval_result *result)
{
    for (uint32_t n = 0; n < eval->pairs; n++) {
        double k = rows->sqnr_k[eval->pair[n].k], v = rows->sqnr_v[eval->pair[n].v];
        eval->sum[n].attention_tv += result[n].attention_tv;
        eval->sum[n].output_error += result[n].output_error;
        eval->sum[n].output_error_999 += result[n].output_error_999;
        eval->sum[n].top1 += result[n].top1;
        eval->sqnr_k[n] += k;
        eval->sqnr_v[n] += v;
        if (eval->layers)
            add_row(eval, n, NULL, eval->dump.layer[layer], &result[n], k, v);
    }
}

static anykv_status one_layer(struct eval *eval, uint32_t layer)
{
    const struct akv_dump *dump = &eval->dump;
    struct rows rows;
    struct akv_eval_result result[PAIRS];
    const double *k[VARIANTS], *v[VARIANTS];
    memset(&rows, 0, sizeof rows);
    anykv_status status = prepare(eval, layer, &rows);
    for (uint32_t i = 0; i < VARIANTS; i++) {
        k[i] = rows.k_variant[i];
        v[i] = rows.v_variant[i];
    }
    const struct akv_eval_problem problem = {
        .tokens = dump->tokens,
        .q_first = dump->q_first,
        .q_heads = dump->q_heads,
        .kv_heads = dump->kv_heads,
        .dim = dump->head_dim,
        .window = dump->window[layer],
        .sinks = eval->sinks,
        .recent = eval->recent,
        .scale = dump->scale,
        .q = rows.q,
        .k = rows.k,
        .v = rows.v,
        .k_variants = eval->k.count,
        .v_variants = eval->v.count,
        .k_variant = k,
        .v_variant = v,
        .pairs = eval->pairs,
        .pair = eval->pair,
    };
    if (status == ANYKV_OK)
        status = akv_eval_compare(&problem, akv_cpu_count(), result);
    if (status == ANYKV_OK)
        add_layer(eval, layer, &rows, result);
    free_rows(&rows);
    return status;
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
        add_row(eval, n, "all", 0, &mean, eval->sqnr_k[n] * share, eval->sqnr_v[n] * share);
    }
    anykv_status end = akv_report_end(eval->report);
    return status != ANYKV_OK ? status : end;
}

static int run(struct eval *eval, const char *path, const char *device)
{
    int go = akv_tool_open(&eval->tool, "eval", device, NULL);
    if (go != AKV_CLI_GO)
        return go;
    anykv_status status = akv_dump_open(&eval->dump, path);
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

int akv_tool_eval(int argc, char **argv)
{
    static struct akv_text_list formats, transforms;
    const char *device = "auto", *path = NULL, *later[3] = {NULL, NULL, NULL};
    uint64_t sinks = 0, recent = 0;
    bool json = false, layers = false;
    const struct akv_cli_option options[] = {
        {"formats", AKV_CLI_TEXT_LIST, &formats, 0, 0, "LIST",
         "K/V pairs, formats or profiles: I8/N4,N4,q5, or all\n"
         "(formats F32 F16 BF16 I8 N6 N5 N4 N3 N2; default: the profiles\nq8,q6,q5,q4,q3,q2)"},
        {"transforms", AKV_CLI_TEXT_LIST, &transforms, 0, 0, "LIST",
         "none, rotate or auto (default: auto, which is rotate here)"},
        {"sinks", AKV_CLI_U64, &sinks, 0, 1u << 30, "N",
         "the first N tokens enter at 16 bit (default: 0)"},
        {"recent", AKV_CLI_U64, &recent, 0, 1u << 30, "N",
         "the N tokens up to each query enter at 16 bit (default: 0)"},
        {"layers", AKV_CLI_FLAG, &layers, 0, 0, NULL, "a row for each layer, too"},
        {"calibration", AKV_CLI_TEXT, &later[0], 0, 0, "FILE", NULL},
        {"pareto", AKV_CLI_TEXT, &later[1], 0, 0, "FILE", NULL},
        {"compress", AKV_CLI_TEXT, &later[2], 0, 0, "METHOD", NULL},
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
        "sliding_window and global_layers.",
        "anykv eval model.safetensors --formats I8,N4,I8/N4 --sinks 4 --recent 128",
        options,
        1,
        1};
    formats.count = transforms.count = 0;
    int go = akv_cli_parse(&cli, argc, argv, &path, NULL);
    if (go != AKV_CLI_GO)
        return go;
    for (int i = 0; i < 3; i++)
        if (later[i] != NULL)
            return akv_cli_wrong("eval", "--%s: this version does not have it",
                                 i == 0   ? "calibration"
                                 : i == 1 ? "pareto"
                                          : "compress");
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
    eval->layers = layers;
    eval->json = json;
    go = choose(eval, &formats, &transforms);
    if (go == AKV_CLI_GO) {
        go = run(eval, path, device);
        akv_dump_close(&eval->dump);
        akv_tool_close(&eval->tool);
    }
    akv_free(NULL, eval);
    return go;
}
