/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of flat configurations: YAML subset and JSON. */
#include "config_read.h"

struct reader {
    anykv_context *context;
    const char *at, *end;
    uint32_t line;
    struct akv_config_text *out;
};

static anykv_status wrong(const struct reader *reader, const char *what)
{
    return akv_fail(reader->context, ANYKV_E_DATA, "line %u: %s", reader->line, what);
}

static anykv_status copy(const struct reader *reader, const char *what, const char *from, size_t n,
                         char *to, size_t room)
{
    if (n >= room)
        return wrong(reader, what);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)from[i] < 0x20 || from[i] == 0x7F)
            return wrong(reader, "a control character");
    memcpy(to, from, n);
    to[n] = '\0';
    return ANYKV_OK;
}

static anykv_status add(struct reader *reader, const char *name, size_t name_bytes,
                        const char *value, size_t value_bytes)
{
    struct akv_config_text *out = reader->out;
    if (out->count == AKV_CONFIG_FIELDS)
        return wrong(reader, "more fields than any configuration has");
    char *to = out->field[out->count].name;
    anykv_status status =
        copy(reader, "the name is too long", name, name_bytes, to, ANYKV_CONFIG_NAME);
    if (!status)
        status = copy(reader, "the value is too long", value, value_bytes,
                      out->field[out->count].value, ANYKV_CONFIG_VALUE);
    for (uint32_t i = 0; i < out->count && !status; i++)
        if (strcmp(out->field[i].name, to) == 0)
            status = wrong(reader, "the name occurs twice");
    if (!status)
        out->count++;
    return status;
}

/* ---- YAML ---- */

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

/* The scalar of a line: [from, to) without its comment and spaces; quotes are taken off. */
static anykv_status scalar(const struct reader *reader, const char **from, const char **to)
{
    const char *at = *from, *end = *to;
    while (at < end && *at == ' ')
        at++;
    if (at < end && (*at == '"' || *at == '\'')) {
        const char quote = *at++;
        const char *close = at;
        while (close < end && *close != quote && *close != '\\')
            close++;
        if (close == end || *close == '\\')
            return wrong(reader, close == end ? "a quote is not closed" : "escapes are not read");
        for (const char *rest = close + 1; rest < end && *rest != '#'; rest++)
            if (*rest != ' ')
                return wrong(reader, "text behind a quoted value");
        *from = at;
        *to = close;
        return ANYKV_OK;
    }
    const char *stop = at;
    while (stop < end && !(*stop == '#' && (stop == at || stop[-1] == ' ')))
        stop++;
    while (stop > at && stop[-1] == ' ')
        stop--;
    if (at < stop && strchr("[{&*!|>%@`,-?:", *at) &&
        !(*at == '-' && stop - at > 1 && at[1] != ' '))
        return wrong(reader, "only plain and quoted scalars are read");
    *from = at;
    *to = stop;
    return ANYKV_OK;
}

static anykv_status yaml_line(struct reader *reader, const char *from, const char *to,
                              size_t *indent, bool *section)
{
    const char *at = from;
    while (at < to && *at == ' ')
        at++;
    if (at == to || *at == '#')
        return ANYKV_OK;
    if (*at == '\t')
        return wrong(reader, "a tab as indentation");
    const size_t depth = (size_t)(at - from);
    const char *name = at;
    while (at < to && name_char(*at))
        at++;
    if (at == name || at == to || *at != ':' || (at + 1 < to && at[1] != ' '))
        return wrong(reader, "neither `name: value` nor `section:`");
    const char *value = at + 1, *end = to;
    const size_t name_bytes = (size_t)(at - name);
    anykv_status status = scalar(reader, &value, &end);
    if (status)
        return status;
    if (value == end && !*section && reader->out->count == 0 && depth == 0) {
        *section = true;
        return ANYKV_OK;
    }
    if (*indent == SIZE_MAX)
        *indent = depth;
    if (depth != *indent || (*section && depth == 0))
        return wrong(reader, "the indentation differs from the lines before");
    return add(reader, name, name_bytes, value, (size_t)(end - value));
}

static anykv_status read_yaml(struct reader *reader)
{
    size_t indent = SIZE_MAX;
    bool section = false;
    anykv_status status = ANYKV_OK;
    while (reader->at < reader->end && !status) {
        reader->line++;
        const char *from = reader->at;
        const char *stop = memchr(from, '\n', (size_t)(reader->end - from));
        const char *to = stop ? stop : reader->end;
        reader->at = stop ? stop + 1 : reader->end;
        if (to > from && to[-1] == '\r')
            to--;
        status = yaml_line(reader, from, to, &indent, &section);
    }
    return status;
}

/* ---- JSON ---- */

static char skip(struct reader *reader)
{
    while (reader->at < reader->end && strchr(" \t\r\n", *reader->at) && *reader->at) {
        reader->line += *reader->at == '\n';
        reader->at++;
    }
    return reader->at < reader->end ? *reader->at : '\0';
}

static anykv_status text(struct reader *reader, const char **from, size_t *bytes)
{
    if (skip(reader) != '"')
        return wrong(reader, "a string is expected");
    *from = ++reader->at;
    while (reader->at < reader->end && *reader->at != '"' && *reader->at != '\\')
        reader->at++;
    if (reader->at == reader->end || *reader->at == '\\')
        return wrong(reader, "a string is not closed, or has an escape");
    *bytes = (size_t)(reader->at++ - *from);
    return ANYKV_OK;
}

static anykv_status json_object(struct reader *reader, uint32_t depth);

static anykv_status json_member(struct reader *reader, uint32_t depth)
{
    const char *name, *value;
    size_t name_bytes, value_bytes;
    anykv_status status = text(reader, &name, &name_bytes);
    if (status)
        return status;
    if (skip(reader) != ':')
        return wrong(reader, "a colon is expected");
    reader->at++;
    const char c = skip(reader);
    if (c == '{' && depth == 0)
        return json_object(reader, 1);
    if (c == '"') {
        status = text(reader, &value, &value_bytes);
    } else {
        value = reader->at;
        while (reader->at < reader->end && (name_char(*reader->at) || *reader->at == '+'))
            reader->at++;
        value_bytes = (size_t)(reader->at - value);
        if (value_bytes == 0)
            status = wrong(reader, "only strings, numbers and words are read");
    }
    return status ? status : add(reader, name, name_bytes, value, value_bytes);
}

static anykv_status json_object(struct reader *reader, uint32_t depth)
{
    reader->at++; /* the brace */
    if (skip(reader) == '}') {
        reader->at++;
        return ANYKV_OK;
    }
    for (;;) {
        anykv_status status = json_member(reader, depth);
        if (status)
            return status;
        const char c = skip(reader);
        reader->at++;
        if (c == '}')
            return ANYKV_OK;
        if (c != ',')
            return wrong(reader, "a comma or a closing brace is expected");
    }
}

anykv_status akv_config_read(anykv_context *context, const char *given, size_t bytes,
                             struct akv_config_text *out)
{
    struct reader reader = {context, given, given + bytes, 0, out};
    memset(out, 0, sizeof *out);
    if (bytes > AKV_CONFIG_BYTES)
        return akv_fail(context, ANYKV_E_DATA, "bytes: %zu is above %u", bytes, AKV_CONFIG_BYTES);
    if (memchr(given, '\0', bytes))
        return akv_fail(context, ANYKV_E_DATA, "text: a NUL stands in it");
    if (skip(&reader) != '{') {
        reader.at = given;
        reader.line = 0;
        return read_yaml(&reader);
    }
    reader.line++;
    anykv_status status = json_object(&reader, 0);
    if (!status && skip(&reader) != '\0')
        status = wrong(&reader, "text behind the object");
    return status;
}
