/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv calibrate`: from dumps of a model's rows to the calibration of its layouts. */
#include "device_option.h"
#include "dump_model.h"
#include "progress.h"
#include "report.h"
#include "tools.h"
#include <inttypes.h>

struct calibrate {
    struct akv_tool tool;
    struct akv_progress progress;
    struct akv_dump_model first; /* of the first file; the others must agree with it */
    anykv_moments *moments;
    char model[256];
    uint32_t files;
    const char *const *path;
    const char *at; /* the file that a failure is about */
    bool json;
};

static const struct akv_column columns[] = {
    {"layer", "layer", 0},
    {"side", "side", 0},
    {"head", "head", 0},
    {"transform", "transform", 0},
    {"predicted_error_rotate", "rotate", -4},
    {"predicted_error_centre", "centre", -4},
    {"predicted_error_matrix", "matrix", -4},
    {NULL, "chosen / rotate", 3},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

static const char *transform_name(anykv_transform transform)
{
    static const char *const names[] = {"none", "rotate", "centre", "matrix"};
    return names[transform];
}

static anykv_status add_file(struct calibrate *calibrate, uint32_t number)
{
    struct akv_dump dump;
    struct akv_dump_model model;
    memset(&model, 0, sizeof model);
    anykv_status status = akv_dump_open(&dump, calibrate->path[number]);
    if (status == ANYKV_OK)
        status = akv_dump_model_open(&model, &dump, 0);
    if (status == ANYKV_OK && number > 0)
        status = akv_dump_model_same(&calibrate->first, &model);
    if (status == ANYKV_OK && number == 0) {
        if (dump.model != NULL)
            snprintf(calibrate->model, sizeof calibrate->model, "%s", dump.model);
        status = anykv_moments_create(calibrate->tool.context, model.layers, model.count,
                                      &calibrate->moments);
    } else if (status == ANYKV_OK && dump.model != NULL &&
               strncmp(calibrate->model, dump.model, sizeof calibrate->model - 1) != 0) {
        status = akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"model\" is \"%s\", of the first file \"%s\"",
                          dump.model, calibrate->model);
    }
    calibrate->progress.total = calibrate->files * (uint64_t)dump.layers;
    for (uint32_t i = 0; i < dump.layers && status == ANYKV_OK; i++) {
        akv_progress_step(&calibrate->progress, number * (uint64_t)dump.layers + i, NULL);
        status = akv_dump_add_moments(&dump, i, dump.tokens, true, calibrate->moments);
    }
    akv_dump_close(&dump);
    if (number == 0)
        calibrate->first = model;
    else
        akv_dump_model_close(&model);
    return status;
}

static anykv_status gather(struct calibrate *calibrate)
{
    anykv_status status = ANYKV_OK;
    akv_progress_begin(&calibrate->progress, "calibrate", 0);
    for (uint32_t i = 0; i < calibrate->files && status == ANYKV_OK; i++) {
        calibrate->at = calibrate->path[i];
        status = add_file(calibrate, i);
    }
    akv_progress_end(&calibrate->progress);
    return status;
}

static void add_row(struct akv_report *report, const anykv_calibration_info *info, uint32_t side,
                    uint32_t head)
{
    const double chosen = info->transform == ANYKV_TRANSFORM_MATRIX   ? info->matrix
                          : info->transform == ANYKV_TRANSFORM_CENTRE ? info->centre
                                                                      : info->rotate;
    const struct akv_value row[COLUMNS] = {
        akv_whole(info->number), akv_text(side == 0 ? "k" : "v"),
        akv_whole(head),         akv_text(transform_name(info->transform)),
        akv_real(info->rotate),  akv_real(info->centre),
        akv_real(info->matrix),  akv_real(chosen / info->rotate),
    };
    akv_report_row(report, row);
}

static anykv_status print(const struct calibrate *calibrate, const anykv_calibration *calibration)
{
    struct akv_report *report = akv_report_begin(stdout, calibrate->json, columns, COLUMNS);
    if (report == NULL)
        return ANYKV_E_MEMORY;
    anykv_calibration_info info = ANYKV_CALIBRATION_INFO_INIT;
    anykv_status status = anykv_calibration_describe(calibration, 0, 0, 0, &info);
    const uint32_t layers = info.layers;
    for (uint32_t l = 0; l < layers && status == ANYKV_OK; l++)
        for (uint32_t side = 0; side < 2 && status == ANYKV_OK; side++) {
            uint32_t heads = 1;
            for (uint32_t h = 0; h < heads && status == ANYKV_OK; h++) {
                status = anykv_calibration_describe(calibration, l, side, h, &info);
                heads = info.kv_heads;
                if (status == ANYKV_OK)
                    add_row(report, &info, side, h);
            }
        }
    anykv_status end = akv_report_end(report);
    return status != ANYKV_OK ? status : end;
}

static anykv_status finish(struct calibrate *calibrate, const anykv_calibrate_options *options,
                           const char *output)
{
    anykv_calibration *calibration = NULL;
    anykv_status status = anykv_moments_solve(calibrate->moments, options, &calibration);
    if (status == ANYKV_OK)
        status = anykv_calibration_save(calibration, output);
    if (status == ANYKV_OK)
        status = print(calibrate, calibration);
    size_t bytes = 0;
    uint8_t digest[32];
    if (status == ANYKV_OK)
        status = anykv_calibration_write(calibration, NULL, &bytes);
    if (status == ANYKV_OK)
        status = anykv_calibration_digest(calibration, digest);
    if (status == ANYKV_OK && !calibrate->json) {
        printf("\n%s: %zu bytes, of %s, digest ", output, bytes,
               calibrate->model[0] != '\0' ? calibrate->model : "a model without a name");
        for (int i = 0; i < 32; i++)
            printf("%02x", digest[i]);
        putchar('\n');
    }
    anykv_calibration_destroy(calibration);
    return status;
}

static int choose(const char *name, bool values, anykv_transform *transform)
{
    const char *option = values ? "values" : "keys";
    for (int t = ANYKV_TRANSFORM_ROTATE; t <= ANYKV_TRANSFORM_MATRIX; t++)
        if (strcmp(name, transform_name((anykv_transform)t)) == 0 &&
            !(values && t == ANYKV_TRANSFORM_CENTRE)) {
            *transform = (anykv_transform)t;
            return AKV_CLI_GO;
        }
    return akv_cli_wrong("calibrate", "--%s: \"%s\" is %s", option, name,
                         values ? "neither rotate nor matrix" : "none of rotate, centre, matrix");
}

int akv_tool_calibrate(int argc, char **argv)
{
    const char *device = NULL, *output = NULL, *keys = "matrix", *values = "rotate";
    const char *weights = NULL, *path[AKV_LIST_MAX];
    uint32_t files = 0;
    bool json = false, bases = false;
    const struct akv_cli_option options[] = {
        {"output", AKV_CLI_TEXT, &output, 0, 0, "FILE", "the calibration's file; also -o"},
        {"keys", AKV_CLI_TEXT, &keys, 0, 0, "TRANSFORM",
         "the most that may be chosen for keys: rotate, centre or matrix\n"
         "(default: matrix, which needs 256 positions of queries)"},
        {"values", AKV_CLI_TEXT, &values, 0, 0, "TRANSFORM",
         "the same for values: rotate or matrix (default: rotate)"},
        {"bases", AKV_CLI_FLAG, &bases, 0, 0, NULL,
         "also the bases of low-rank compression, which need 256 positions of\n"
         "queries and values"},
        {"weights", AKV_CLI_TEXT, &weights, 0, 0, "TEXT",
         "what the layouts' weights field says, if it must be just these weights\n"
         "(default: any model of this geometry)"},
        {"device", AKV_CLI_TEXT, &device, 0, 0, "NAME",
         "checked to be there; calibrating runs on the host"},
        AKV_JSON_OPTION(json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        "calibrate",
        "[OPTION]... FILE... -o FILE",
        "Gathers the moments of a model's keys, values and queries from files as `anykv eval` reads "
        "them,\n"
        "chooses for each layer and head the transform that predicts the least error, and writes the\n"
        "calibration for layouts of that model.  The table shows the choice and the predicted mean "
        "square\n"
        "errors of q.k (of an element, for values) for a format of unit noise.",
        "anykv calibrate prose.safetensors code.safetensors -o model.anykvcal\n"
        "anykv eval text.safetensors --calibration model.anykvcal --sinks 4 --recent 128",
        options,
        1,
        AKV_LIST_MAX};
    int go = akv_cli_parse(&cli, argc, argv, path, &files);
    if (go != AKV_CLI_GO)
        return go;
    anykv_calibrate_options wanted = ANYKV_CALIBRATE_OPTIONS_INIT;
    go = choose(keys, false, &wanted.most);
    if (go == AKV_CLI_GO)
        go = choose(values, true, &wanted.most_values);
    if (go == AKV_CLI_GO && output == NULL)
        go = akv_cli_wrong("calibrate", "-o FILE is missing");
    if (go == AKV_CLI_GO && weights != NULL && strlen(weights) > 256)
        go = akv_cli_wrong("calibrate", "--weights: more than 256 characters");
    if (go != AKV_CLI_GO)
        return go;
    struct calibrate calibrate = {.files = files, .path = path, .json = json};
    go = device != NULL ? akv_tool_open(&calibrate.tool, "calibrate", device, NULL)
                        : akv_tool_context(&calibrate.tool, "calibrate");
    if (go != AKV_CLI_GO)
        return go;
    anykv_status status = gather(&calibrate);
    wanted.weights = weights;
    wanted.weights_bytes = weights != NULL ? (uint32_t)strlen(weights) : 0;
    wanted.model = calibrate.model;
    wanted.bases = bases;
    if (status == ANYKV_OK)
        calibrate.at = output;
    if (status == ANYKV_OK)
        status = finish(&calibrate, &wanted, output);
    go = status == ANYKV_OK ? AKV_EXIT_GOOD : akv_cli_status("calibrate", calibrate.at, status);
    anykv_moments_destroy(calibrate.moments);
    akv_dump_model_close(&calibrate.first);
    akv_tool_close(&calibrate.tool);
    return go;
}
