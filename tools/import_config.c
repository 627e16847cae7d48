/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv import-config`: what becomes of a configuration of the engine that anykv replaces. */
#include "cli.h"
#include "report.h"
#include "tools.h"
#include <errno.h>

#define FIELDS 64u
#define BYTES  65537u /* one more than a configuration may have */

static const struct akv_column columns[] = {
    {"field", "field", 0},
    {"value", "value", 0},
    {"verdict", "verdict", 0},
    {"note", "what becomes of it", 0},
};

static anykv_status read_file(const char *path, char *text, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return akv_fail(NULL, errno == ENOENT ? ANYKV_E_NOT_FOUND : ANYKV_E_IO, "%s: %s", path,
                        strerror(errno));
    *bytes = fread(text, 1, BYTES, file);
    const bool bad = ferror(file);
    fclose(file);
    return bad ? akv_fail(NULL, ANYKV_E_IO, "%s: reading failed", path) : ANYKV_OK;
}

static anykv_status print(const anykv_config_field *fields, uint32_t count, bool json)
{
    static const char *const verdicts[] = {"", "accepted", "mapped", "refused"};
    struct akv_report *report = akv_report_begin(stdout, json, columns, 4);
    if (!report)
        return ANYKV_E_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        const struct akv_value row[4] = {akv_text(fields[i].name), akv_text(fields[i].value),
                                         akv_text(verdicts[fields[i].verdict]),
                                         akv_text(fields[i].note)};
        akv_report_row(report, row);
    }
    return akv_report_end(report);
}

static void summary(const anykv_config *config)
{
    printf("\n%u accepted, %u mapped, %u refused.  Rows: %u kv heads of %u, %s, sealed as %s; "
           "blocks of %u tokens.\nCache: %llu bytes, sequences of %u tokens, error budget %.3f, "
           "watermarks %.2f and %.2f.\n",
           config->accepted, config->mapped, config->refused, config->layer.kv_heads,
           config->layer.k_dim, anykv_format_name(config->layer.hot_type),
           anykv_format_name(config->layer.k_format), config->block_tokens,
           (unsigned long long)config->options.budget_bytes, config->options.max_seq_tokens,
           (double)config->options.error_budget, (double)config->options.high_watermark,
           (double)config->options.low_watermark);
}

int akv_tool_import_config(int argc, char **argv)
{
    bool json = false;
    const char *path = NULL;
    const struct akv_cli_option options[] = {
        {"json", AKV_CLI_FLAG, &json, 0, 0, NULL, "print JSON lines instead of a table"},
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        "import-config",
        "[OPTION]... FILE",
        "Reads a configuration of the engine that anykv replaces, flat YAML or JSON, and says of "
        "every\n"
        "field whether it is accepted, what it is mapped to, or why it is refused.  The exit "
        "status is 1\n"
        "if a field is refused.",
        "anykv import-config kv_cache.yaml",
        options,
        1,
        1};
    const int go = akv_cli_parse(&cli, argc, argv, &path, NULL);
    if (go != AKV_CLI_GO)
        return go;
    char *text = akv_alloc(NULL, BYTES, 1);
    anykv_config_field *fields = akv_alloc(NULL, FIELDS, sizeof *fields);
    anykv_config config = ANYKV_CONFIG_INIT;
    size_t bytes = 0;
    uint32_t count = FIELDS;
    anykv_status status = text && fields ? read_file(path, text, &bytes) : ANYKV_E_MEMORY;
    if (!status)
        status = anykv_config_import(NULL, text, bytes, &config, fields, &count);
    if (!status)
        status = print(fields, count, json);
    if (!status && !json)
        summary(&config);
    akv_free(NULL, text);
    akv_free(NULL, fields);
    if (status)
        return akv_cli_status("import-config", path, status);
    return config.refused ? AKV_EXIT_FAILED : AKV_EXIT_GOOD;
}
