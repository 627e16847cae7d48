/* SPDX-License-Identifier: Apache-2.0 */
/* Writer of JSON lines. */
#include "json.h"
#include <inttypes.h>

void akv_json_quote(FILE *out, const char *text)
{
    fputc('"', out);
    for (const char *at = text; *at != '\0'; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", out);
        else if (c < 0x20 || c == 0x7f)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static void name_member(struct akv_json_line *line, const char *name)
{
    fputs(line->some ? ", " : "", line->out);
    line->some = true;
    akv_json_quote(line->out, name);
    fputs(": ", line->out);
}

void akv_json_begin(struct akv_json_line *line, FILE *out)
{
    line->out = out;
    line->some = false;
    fputc('{', out);
}

void akv_json_text(struct akv_json_line *line, const char *name, const char *value)
{
    name_member(line, name);
    if (value == NULL)
        fputs("null", line->out);
    else
        akv_json_quote(line->out, value);
}

void akv_json_u64(struct akv_json_line *line, const char *name, uint64_t value)
{
    name_member(line, name);
    fprintf(line->out, "%" PRIu64, value);
}

void akv_json_real(struct akv_json_line *line, const char *name, double value)
{
    name_member(line, name);
    if (value - value != 0.0)
        fputs("null", line->out);
    else
        fprintf(line->out, "%.9g", value);
}

void akv_json_bool(struct akv_json_line *line, const char *name, bool value)
{
    name_member(line, name);
    fputs(value ? "true" : "false", line->out);
}

void akv_json_null(struct akv_json_line *line, const char *name)
{
    name_member(line, name);
    fputs("null", line->out);
}

void akv_json_end(struct akv_json_line *line)
{
    fputs("}\n", line->out);
}
