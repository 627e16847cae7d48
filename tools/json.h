/* SPDX-License-Identifier: Apache-2.0 */
/* JSON: a writer for JSON lines and a strict reader for headers and trace lines of others. */
#ifndef AKV_TOOLS_JSON_H
#define AKV_TOOLS_JSON_H
#include "internal.h"
#include <stdio.h>

/* ---- writer: one object a line, flat ---- */
struct akv_json_line {
    FILE *out;
    bool some; /* a member has been written */
};
void akv_json_begin(struct akv_json_line *line, FILE *out);
void akv_json_text(struct akv_json_line *line, const char *name,
                   const char *value); /* NULL: null */
void akv_json_u64(struct akv_json_line *line, const char *name, uint64_t value);
void akv_json_real(struct akv_json_line *line, const char *name,
                   double value); /* not finite: null */
void akv_json_bool(struct akv_json_line *line, const char *name, bool value);
void akv_json_null(struct akv_json_line *line, const char *name);
void akv_json_end(struct akv_json_line *line);
/* A string with quotes and escapes. */
void akv_json_quote(FILE *out, const char *text);

/* ---- reader: a cursor over one text.  After the first error every call returns false. ---- */
#define AKV_JSON_DEPTH 32
struct akv_json_reader {
    const char *start, *at, *end;
    uint32_t depth;
    bool first;        /* no member or item of the innermost container was read yet */
    const char *error; /* static text; NULL: none */
};
void akv_json_open(struct akv_json_reader *reader, const char *text, size_t bytes);
/* Enters an object or array; then key or item until it returns false with error NULL. */
bool akv_json_enter_object(struct akv_json_reader *reader);
bool akv_json_enter_array(struct akv_json_reader *reader);
bool akv_json_next_key(struct akv_json_reader *reader, char *key, size_t key_bytes);
bool akv_json_next_item(struct akv_json_reader *reader);
/* Values.  Strings are UTF-8, terminated; too long for `bytes` is an error, so is a NUL inside. */
bool akv_json_read_text(struct akv_json_reader *reader, char *text, size_t bytes);
bool akv_json_read_u64(struct akv_json_reader *reader,
                       uint64_t *value_out); /* no sign, point, exponent */
bool akv_json_read_real(struct akv_json_reader *reader, double *value_out);
bool akv_json_skip(struct akv_json_reader *reader);   /* any value */
bool akv_json_finish(struct akv_json_reader *reader); /* only white space is left */
bool akv_json_fail(struct akv_json_reader *reader, const char *error); /* false */
static inline size_t akv_json_offset(const struct akv_json_reader *reader)
{
    return (size_t)(reader->at - reader->start);
}

#endif
