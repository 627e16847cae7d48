/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv devices`: every device there is, usable or not. */
#include "device_option.h"
#include "report.h"
#include "tools.h"
#include <inttypes.h>

static const struct akv_column columns[] = {
    {"device", "device", 0}, {"backend", "backend", 0}, {"name", "name", 0},
    {"vendor", NULL, 0},     {"driver", "driver", 0},   {"bytes_total", NULL, 0},
    {"bytes_free", NULL, 0}, {NULL, "GiB", 1},          {NULL, "free", 1},
    {"usable", "usable", 0}, {"reason", "remark", 0},   {"isa", "isa", 0},
    {"uuid", NULL, 0},       {"dense", "products", 0},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

static struct akv_value text_or_none(const char *text)
{
    return text[0] == '\0' ? akv_none() : akv_text(text);
}

static struct akv_value bytes_or_none(uint64_t bytes)
{
    return bytes == 0 ? akv_none() : akv_whole(bytes);
}

static struct akv_value gib_or_none(uint64_t bytes)
{
    return bytes == 0 ? akv_none() : akv_real((double)bytes / (1u << 30));
}

static void add_row(struct akv_report *report, const char *label, const anykv_device_info *info)
{
    struct akv_value row[COLUMNS] = {
        akv_text(label),
        akv_text(info->backend),
        text_or_none(info->name),
        text_or_none(info->vendor),
        text_or_none(info->driver),
        bytes_or_none(info->bytes_total),
        bytes_or_none(info->bytes_free),
        gib_or_none(info->bytes_total),
        gib_or_none(info->bytes_free),
        akv_bool(info->usable != 0),
        text_or_none(info->reason),
        text_or_none(info->isa),
        text_or_none(info->uuid),
        info->usable ? akv_text(anykv_dense_library(info->backend)) : akv_none(),
    };
    akv_report_row(report, row);
}

static anykv_status list(struct akv_tool *tool, const char *device, bool json, uint32_t *shown_out)
{
    uint32_t count = 0;
    *shown_out = 0;
    anykv_status status = anykv_device_count(tool->context, &count);
    if (status != ANYKV_OK)
        return status;
    struct akv_report *report = akv_report_begin(stdout, json, columns, COLUMNS);
    if (report == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t i = 0; i < count && status == ANYKV_OK; i++) {
        anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
        char label[16];
        status = anykv_device_query(tool->context, i, &info);
        if (status != ANYKV_OK)
            break;
        akv_tool_label(tool->context, &info, label, sizeof label);
        if (device != NULL && strcmp(device, label) != 0 && strcmp(device, info.backend) != 0 &&
            strcmp(device, info.name) != 0 &&
            (info.uuid[0] == '\0' || strcmp(device, info.uuid) != 0))
            continue;
        add_row(report, label, &info);
        (*shown_out)++;
    }
    anykv_status end = akv_report_end(report);
    return status != ANYKV_OK ? status : end;
}

int akv_tool_devices(int argc, char **argv)
{
    bool json = false;
    const char *device = NULL;
    const struct akv_cli_option options[] = {
        {"device", AKV_CLI_TEXT, &device, 0, 0, "NAME",
         "only this backend or device (default: all); exit status 3 if\nthere is none"},
        AKV_JSON_OPTION(json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        "devices",
        "[OPTION]...",
        "Lists every device of every backend, usable or not; a backend that has none is one line\n"
        "with the reason.  The first column is what --device takes.",
        "anykv devices --json",
        options,
        0,
        0};
    int go = akv_cli_parse(&cli, argc, argv, NULL, NULL);
    if (go != AKV_CLI_GO)
        return go;
    struct akv_tool tool;
    uint32_t shown = 0;
    go = akv_tool_context(&tool, "devices");
    if (go == AKV_CLI_GO) {
        anykv_status status = list(&tool, device, json, &shown);
        if (status != ANYKV_OK)
            go = akv_cli_status("devices", "list", status);
        else if (shown == 0) {
            akv_cli_message("devices", "--device: no device \"%s\"", device ? device : "");
            go = AKV_EXIT_MISSING;
        } else
            go = AKV_EXIT_GOOD;
    }
    akv_tool_close(&tool);
    return go;
}
