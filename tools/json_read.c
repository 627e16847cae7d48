/* SPDX-License-Identifier: Apache-2.0 */
/* Strict reader of JSON text: a cursor with checked sizes and bounded depth. */
#include "json.h"
#include <stdlib.h>
#include <string.h>

void akv_json_open(struct akv_json_reader *reader, const char *text, size_t bytes)
{
    memset(reader, 0, sizeof *reader);
    reader->start = reader->at = text;
    reader->end = text + bytes;
}

bool akv_json_fail(struct akv_json_reader *reader, const char *error)
{
    if (reader->error == NULL)
        reader->error = error;
    return false;
}

/* The next character that is no white space, or NUL at the end. */
static char peek(struct akv_json_reader *reader)
{
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\t' ||
                                        *reader->at == '\n' || *reader->at == '\r'))
        reader->at++;
    return reader->at < reader->end ? *reader->at : '\0';
}

static bool enter(struct akv_json_reader *reader, char open, const char *error)
{
    if (reader->error != NULL)
        return false;
    if (peek(reader) != open)
        return akv_json_fail(reader, error);
    if (reader->depth == AKV_JSON_DEPTH)
        return akv_json_fail(reader, "nested too deeply");
    reader->at++;
    reader->depth++;
    reader->first = true;
    return true;
}

bool akv_json_enter_object(struct akv_json_reader *reader)
{
    return enter(reader, '{', "an object is expected");
}

bool akv_json_enter_array(struct akv_json_reader *reader)
{
    return enter(reader, '[', "an array is expected");
}

/* Comma or the closing bracket; true: another one follows. */
static bool next(struct akv_json_reader *reader, char close)
{
    if (reader->error != NULL)
        return false;
    char c = peek(reader);
    if (c == close) {
        reader->at++;
        reader->depth--;
        reader->first = false; /* the container around has had at least this value */
        return false;
    }
    if (!reader->first) {
        if (c != ',')
            return akv_json_fail(reader, "a comma or the closing bracket is expected");
        reader->at++;
    }
    reader->first = false;
    return true;
}

bool akv_json_next_key(struct akv_json_reader *reader, char *key, size_t key_bytes)
{
    if (!next(reader, '}') || !akv_json_read_text(reader, key, key_bytes))
        return false;
    if (peek(reader) != ':')
        return akv_json_fail(reader, "a colon is expected");
    reader->at++;
    return true;
}

bool akv_json_next_item(struct akv_json_reader *reader)
{
    return next(reader, ']');
}

static bool hex4(struct akv_json_reader *reader, uint32_t *code_out)
{
    uint32_t code = 0;
    if (reader->end - reader->at < 4)
        return akv_json_fail(reader, "a \\u escape is cut off");
    for (int i = 0; i < 4; i++) {
        char c = *reader->at++;
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (uint32_t)(c - 'a') + 10u;
        else if (c >= 'A' && c <= 'F')
            digit = (uint32_t)(c - 'A') + 10u;
        else
            return akv_json_fail(reader, "a \\u escape is not hexadecimal");
        code = code * 16u + digit;
    }
    *code_out = code;
    return true;
}

/* Writes one code point; bytes taken, or 0 when it does not fit. */
static size_t put_utf8(uint32_t code, char *out, size_t room)
{
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    if (n > room)
        return 0;
    for (size_t i = n; i-- > 1; code >>= 6)
        out[i] = (char)(0x80u | (code & 0x3Fu));
    out[0] = (char)(lead[n] | code);
    return n;
}

static bool read_escape(struct akv_json_reader *reader, uint32_t *code_out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (reader->at == reader->end)
        return akv_json_fail(reader, "a string is not closed");
    char c = *reader->at++;
    if (c != 'u') {
        const char *found = c == '\0' ? NULL : strchr(from, c);
        if (found == NULL)
            return akv_json_fail(reader, "an unknown escape");
        *code_out = (uint32_t)to[found - from];
        return true;
    }
    uint32_t code, low;
    if (!hex4(reader, &code))
        return false;
    if (code >= 0xDC00 && code <= 0xDFFF)
        return akv_json_fail(reader, "a surrogate stands alone");
    if (code >= 0xD800 && code <= 0xDBFF) {
        if (reader->end - reader->at < 2 || reader->at[0] != '\\' || reader->at[1] != 'u')
            return akv_json_fail(reader, "a surrogate stands alone");
        reader->at += 2;
        if (!hex4(reader, &low))
            return false;
        if (low < 0xDC00 || low > 0xDFFF)
            return akv_json_fail(reader, "a surrogate stands alone");
        code = 0x10000u + ((code - 0xD800u) << 10) + (low - 0xDC00u);
    }
    if (code == 0)
        return akv_json_fail(reader, "a NUL in a string");
    *code_out = code;
    return true;
}

/* One UTF-8 sequence of the input, checked: no overlong form, no surrogate, at most U+10FFFF. */
static bool read_utf8(struct akv_json_reader *reader, uint32_t *code_out)
{
    unsigned char c = (unsigned char)*reader->at++;
    static const uint32_t least[4] = {0, 0x80, 0x800, 0x10000};
    uint32_t more = c < 0x80 ? 0u : (c & 0xE0) == 0xC0 ? 1u : (c & 0xF0) == 0xE0 ? 2u : 3u;
    uint32_t code = c;
    if (c < 0x20)
        return akv_json_fail(reader, "a control character in a string");
    if (more > 0) {
        if (c < 0xC0 || c > 0xF7 || reader->end - reader->at < (ptrdiff_t)more)
            return akv_json_fail(reader, "a string is not UTF-8");
        code = c & (0x3Fu >> more);
        for (uint32_t i = 0; i < more; i++) {
            unsigned char follow = (unsigned char)*reader->at++;
            if ((follow & 0xC0) != 0x80)
                return akv_json_fail(reader, "a string is not UTF-8");
            code = (code << 6) | (follow & 0x3Fu);
        }
        if (code < least[more] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
            return akv_json_fail(reader, "a string is not UTF-8");
    }
    *code_out = code;
    return true;
}

/* text NULL: only checked. */
static bool read_string(struct akv_json_reader *reader, char *text, size_t bytes)
{
    size_t used = 0;
    if (reader->error != NULL)
        return false;
    if (peek(reader) != '"')
        return akv_json_fail(reader, "a string is expected");
    reader->at++;
    for (;;) {
        uint32_t code;
        if (reader->at == reader->end)
            return akv_json_fail(reader, "a string is not closed");
        if (*reader->at == '"')
            break;
        if (*reader->at == '\\') {
            reader->at++;
            if (!read_escape(reader, &code))
                return false;
        } else if (!read_utf8(reader, &code)) {
            return false;
        }
        if (text != NULL) {
            size_t n = put_utf8(code, text + used, bytes - 1 - used);
            if (n == 0)
                return akv_json_fail(reader, "a string is too long");
            used += n;
        }
    }
    reader->at++;
    if (text != NULL)
        text[used] = '\0';
    return true;
}

bool akv_json_read_text(struct akv_json_reader *reader, char *text, size_t bytes)
{
    return read_string(reader, text, bytes);
}

static bool digit_at(const struct akv_json_reader *reader)
{
    return reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9';
}

/* Checks the grammar of a number and leaves the cursor behind it. */
static bool scan_number(struct akv_json_reader *reader, const char **start_out, bool *whole_out)
{
    if (reader->error != NULL)
        return false;
    peek(reader);
    *start_out = reader->at;
    *whole_out = true;
    if (reader->at < reader->end && *reader->at == '-') {
        reader->at++;
        *whole_out = false;
    }
    if (!digit_at(reader))
        return akv_json_fail(reader, "a number is expected");
    bool zero = *reader->at++ == '0';
    if (zero && digit_at(reader))
        return akv_json_fail(reader, "a number begins with 0");
    while (digit_at(reader))
        reader->at++;
    if (reader->at < reader->end && *reader->at == '.') {
        *whole_out = false;
        reader->at++;
        if (!digit_at(reader))
            return akv_json_fail(reader, "a digit is expected behind the point");
        while (digit_at(reader))
            reader->at++;
    }
    if (reader->at < reader->end && (*reader->at == 'e' || *reader->at == 'E')) {
        *whole_out = false;
        reader->at++;
        if (reader->at < reader->end && (*reader->at == '+' || *reader->at == '-'))
            reader->at++;
        if (!digit_at(reader))
            return akv_json_fail(reader, "a digit is expected in the exponent");
        while (digit_at(reader))
            reader->at++;
    }
    return true;
}

bool akv_json_read_u64(struct akv_json_reader *reader, uint64_t *value_out)
{
    const char *start;
    bool whole;
    uint64_t value = 0;
    if (!scan_number(reader, &start, &whole))
        return false;
    if (!whole)
        return akv_json_fail(reader, "a whole number is expected, not negative");
    for (const char *at = start; at < reader->at; at++) {
        uint64_t digit = (uint64_t)(*at - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return akv_json_fail(reader, "a number is beyond 2^64 - 1");
        value = value * 10 + digit;
    }
    *value_out = value;
    return true;
}

bool akv_json_read_real(struct akv_json_reader *reader, double *value_out)
{
    const char *start;
    char text[64];
    bool whole;
    if (!scan_number(reader, &start, &whole))
        return false;
    size_t length = (size_t)(reader->at - start);
    if (length >= sizeof text)
        return akv_json_fail(reader, "a number has more than 63 characters");
    memcpy(text, start, length);
    text[length] = '\0';
    double value = strtod(text, NULL);
    if (value - value != 0.0)
        return akv_json_fail(reader, "a number is too large");
    *value_out = value;
    return true;
}

static bool skip_word(struct akv_json_reader *reader, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, word, length) != 0)
        return akv_json_fail(reader, "a value is expected");
    reader->at += length;
    return true;
}

/* Recursion is bounded by AKV_JSON_DEPTH. */
bool akv_json_skip(struct akv_json_reader *reader)
{
    const char *start;
    bool whole;
    if (reader->error != NULL)
        return false;
    switch (peek(reader)) {
    case '"':
        return read_string(reader, NULL, 0);
    case 't':
        return skip_word(reader, "true");
    case 'f':
        return skip_word(reader, "false");
    case 'n':
        return skip_word(reader, "null");
    case '[':
        if (!akv_json_enter_array(reader))
            return false;
        while (akv_json_next_item(reader))
            if (!akv_json_skip(reader))
                return false;
        return reader->error == NULL;
    case '{':
        if (!akv_json_enter_object(reader))
            return false;
        while (next(reader, '}')) {
            if (!read_string(reader, NULL, 0))
                return false;
            if (peek(reader) != ':')
                return akv_json_fail(reader, "a colon is expected");
            reader->at++;
            if (!akv_json_skip(reader))
                return false;
        }
        return reader->error == NULL;
    default:
        return scan_number(reader, &start, &whole);
    }
}

bool akv_json_finish(struct akv_json_reader *reader)
{
    if (reader->error != NULL)
        return false;
    peek(reader);
    if (reader->at != reader->end)
        return akv_json_fail(reader, "something follows the end");
    return true;
}
