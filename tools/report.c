/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of results: an aligned table for people, or JSON lines, from the same values. */
#include "report.h"
#include "json.h"
#include "table.h"
#include <inttypes.h>

struct akv_report {
    FILE *out;
    bool json;
    const struct akv_column *columns;
    uint32_t count;
    struct akv_table *table; /* NULL under JSON */
    anykv_status status;     /* the first failure */
};

static void start_table(struct akv_report *report)
{
    uint32_t shown = 0;
    for (uint32_t i = 0; i < report->count; i++)
        shown += report->columns[i].title != NULL;
    report->table = akv_table_create(shown);
    if (report->table == NULL) {
        report->status = ANYKV_E_MEMORY;
        return;
    }
    for (uint32_t i = 0; i < report->count; i++)
        if (report->columns[i].title != NULL)
            akv_table_cell(report->table, "%s", report->columns[i].title);
}

struct akv_report *akv_report_begin(FILE *out, bool json, const struct akv_column *columns,
                                    uint32_t count)
{
    struct akv_report *report = akv_alloc(NULL, 1, sizeof *report);
    if (report == NULL)
        return NULL;
    report->out = out;
    report->json = json;
    report->columns = columns;
    report->count = count;
    if (!json)
        start_table(report);
    return report;
}

static void table_cell(struct akv_table *table, int digits, struct akv_value value)
{
    switch (value.kind) {
    case AKV_VALUE_TEXT:
        akv_table_cell(table, "%s", value.text);
        return;
    case AKV_VALUE_U64:
        akv_table_cell(table, "%" PRIu64, value.u64);
        return;
    case AKV_VALUE_BOOL:
        akv_table_cell(table, "%s", value.u64 ? "yes" : "no");
        return;
    case AKV_VALUE_REAL:
        if (value.real - value.real != 0.0)
            break;
        if (digits < 0)
            akv_table_cell(table, "%.*g", -digits, value.real);
        else
            akv_table_cell(table, "%.*f", digits, value.real);
        return;
    case AKV_VALUE_NONE:
        break;
    }
    akv_table_cell(table, "-");
}

static void json_member(struct akv_json_line *line, const char *name, struct akv_value value)
{
    switch (value.kind) {
    case AKV_VALUE_TEXT:
        akv_json_text(line, name, value.text);
        return;
    case AKV_VALUE_U64:
        akv_json_u64(line, name, value.u64);
        return;
    case AKV_VALUE_BOOL:
        akv_json_bool(line, name, value.u64 != 0);
        return;
    case AKV_VALUE_REAL:
        akv_json_real(line, name, value.real);
        return;
    case AKV_VALUE_NONE:
        akv_json_null(line, name);
        return;
    }
}

void akv_report_row(struct akv_report *report, const struct akv_value *values)
{
    if (report->json) {
        struct akv_json_line line;
        akv_json_begin(&line, report->out);
        for (uint32_t i = 0; i < report->count; i++)
            if (report->columns[i].field != NULL)
                json_member(&line, report->columns[i].field, values[i]);
        akv_json_end(&line);
        fflush(report->out);
        return;
    }
    if (report->table == NULL)
        return;
    for (uint32_t i = 0; i < report->count; i++)
        if (report->columns[i].title != NULL)
            table_cell(report->table, report->columns[i].digits, values[i]);
}

static void print_table(struct akv_report *report)
{
    if (report->table != NULL && akv_table_rows(report->table) > 1) {
        anykv_status status = akv_table_print(report->table, report->out);
        if (report->status == ANYKV_OK)
            report->status = status;
    }
    akv_table_destroy(report->table);
    report->table = NULL;
}

void akv_report_section(struct akv_report *report, const char *title)
{
    if (report->json)
        return;
    print_table(report);
    start_table(report);
    if (title != NULL)
        fprintf(report->out, "\n%s\n", title);
}

anykv_status akv_report_end(struct akv_report *report)
{
    print_table(report);
    anykv_status status = report->status;
    if (fflush(report->out) != 0 && status == ANYKV_OK)
        status = akv_fail(NULL, ANYKV_E_IO, "output: cannot be written");
    akv_free(NULL, report);
    return status;
}
