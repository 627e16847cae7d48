/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of results: an aligned table for people, or JSON lines, from the same values. */
#ifndef AKV_TOOLS_REPORT_H
#define AKV_TOOLS_REPORT_H
#include "internal.h"
#include <stdio.h>

enum akv_value_kind {
    AKV_VALUE_NONE,
    AKV_VALUE_TEXT,
    AKV_VALUE_U64,
    AKV_VALUE_REAL,
    AKV_VALUE_BOOL
};
struct akv_value {
    enum akv_value_kind kind;
    const char *text; /* read during the call only */
    uint64_t u64;
    double real;
};
static inline struct akv_value akv_none(void) /* JSON: null; table: "-" */
{
    struct akv_value value = {AKV_VALUE_NONE, NULL, 0, 0.0};
    return value;
}
static inline struct akv_value akv_text(const char *text) /* NULL: none */
{
    struct akv_value value = {text ? AKV_VALUE_TEXT : AKV_VALUE_NONE, text, 0, 0.0};
    return value;
}
static inline struct akv_value akv_whole(uint64_t number)
{
    struct akv_value value = {AKV_VALUE_U64, NULL, number, 0.0};
    return value;
}
static inline struct akv_value akv_real(double number) /* not finite: none */
{
    struct akv_value value = {AKV_VALUE_REAL, NULL, 0, number};
    return value;
}
static inline struct akv_value akv_bool(bool yes) /* table: yes, no */
{
    struct akv_value value = {AKV_VALUE_BOOL, NULL, yes, 0.0};
    return value;
}

struct akv_column {
    const char *field; /* JSON name; NULL: table only */
    const char *title; /* table heading; NULL: JSON only */
    int digits; /* of reals in the table, behind the point; negative: -digits significant ones */
};

struct akv_report;
/* columns must outlive the report.  json: rows are printed as they come, one object a line;
 * otherwise the table is printed by akv_report_end.  NULL: out of memory (recorded). */
struct akv_report *akv_report_begin(FILE *out, bool json, const struct akv_column *columns,
                                    uint32_t count);
/* values: as many as there are columns. */
void akv_report_row(struct akv_report *report, const struct akv_value *values);
/* Prints the table so far and starts a new one under another title (NULL: none); nothing under
 * JSON. */
void akv_report_section(struct akv_report *report, const char *title);
/* Prints what is left and frees the report.  Out of memory in between, or E_IO, is reported here.
 */
anykv_status akv_report_end(struct akv_report *report);

#endif
