/* SPDX-License-Identifier: Apache-2.0 */
/* The strict JSON reader, and that the writer's lines are read back. */
#include "tools/json.h"
#include <criterion/criterion.h>

static bool whole(const char *text)
{
    struct akv_json_reader reader;
    akv_json_open(&reader, text, strlen(text));
    return akv_json_skip(&reader) && akv_json_finish(&reader);
}

Test(json, accepts)
{
    static const char *const texts[] = {
        "null",
        "true",
        " false ",
        "0",
        "-0.5e-3",
        "1E+9",
        "\"\"",
        "\"a\\u00e9\\ud83d\\ude00\\n\"",
        "[]",
        "{}",
        "[1,[2,{\"a\":[]}],3]",
        "{\"a\" : 1 , \"b\" : [ ] }\r\n",
        "\"\xc3\xa9\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        cr_expect(whole(texts[i]), "refused: %s", texts[i]);
}

Test(json, refuses)
{
    static const char *const texts[] = {
        "",
        "nul",
        "tru",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "0x10",
        "NaN",
        "Infinity",
        "\"a",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\\u0000\"",
        "\"\xff\"",
        "\"\xc0\xaf\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xe2\x82\"",
        "[1 2]",
        "[1,]",
        "[,1]",
        "[1",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "1 2",
        "[1]]",
        "{'a':1}",
        "[1}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        cr_expect(!(whole(texts[i])), "accepted: %s", texts[i]);
}

Test(json, depth_is_bounded)
{
    char text[2 * AKV_JSON_DEPTH + 3];
    for (int depth = AKV_JSON_DEPTH; depth <= AKV_JSON_DEPTH + 1; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        text[2 * depth] = '\0';
        cr_expect(whole(text) == (depth == AKV_JSON_DEPTH), "depth %d", depth);
    }
}

static bool number(const char *text, uint64_t *value)
{
    struct akv_json_reader reader;
    akv_json_open(&reader, text, strlen(text));
    return akv_json_read_u64(&reader, value) && akv_json_finish(&reader);
}

Test(json, whole_numbers)
{
    uint64_t value = 7;
    cr_expect(number("18446744073709551615", &value) && value == UINT64_MAX);
    value = 7;
    cr_expect(!(number("18446744073709551616", &value)));
    cr_expect(!(number("-1", &value)));
    cr_expect(!(number("1.0", &value)));
    cr_expect(!(number("1e3", &value)));
    cr_expect(value == 7, "written on failure: %llu", (unsigned long long)value);
}

Test(json, text_too_long_is_an_error)
{
    char text[4];
    struct akv_json_reader reader;
    akv_json_open(&reader, "\"abc\"", 5);
    cr_expect(akv_json_read_text(&reader, text, sizeof text));
    cr_expect_str_eq(text, "abc");
    akv_json_open(&reader, "\"abcd\"", 6);
    cr_expect(!(akv_json_read_text(&reader, text, sizeof text)));
    cr_expect_str_eq(reader.error, "a string is too long");
}

Test(json, after_an_error_nothing_is_read)
{
    struct akv_json_reader reader;
    uint64_t value = 1;
    akv_json_open(&reader, "[x, 2]", 6);
    cr_expect(akv_json_enter_array(&reader) && akv_json_next_item(&reader));
    cr_expect(!(akv_json_read_u64(&reader, &value)));
    cr_expect(!(akv_json_next_item(&reader)) && !(akv_json_skip(&reader)));
    cr_expect(value == 1 && reader.error != NULL);
}

Test(json, writer_is_read_back)
{
    char line[512], key[32], text[64];
    struct akv_json_line out;
    struct akv_json_reader in;
    FILE *file = fmemopen(line, sizeof line, "w");
    double real = 0.0;
    uint64_t big = 0;
    akv_json_begin(&out, file);
    akv_json_text(&out, "text", "a \"quoted\" \\ line\n\x01 \xc3\xa9");
    akv_json_u64(&out, "big", UINT64_MAX);
    akv_json_real(&out, "real", 0.0078125);
    akv_json_real(&out, "none", 1.0 / 0.0);
    akv_json_bool(&out, "yes", true);
    akv_json_null(&out, "null");
    akv_json_end(&out);
    fclose(file);
    akv_json_open(&in, line, strlen(line));
    cr_assert(akv_json_enter_object(&in));
    cr_assert(akv_json_next_key(&in, key, sizeof key) &&
              akv_json_read_text(&in, text, sizeof text));
    cr_expect_str_eq(text, "a \"quoted\" \\ line\n\x01 \xc3\xa9");
    cr_assert(akv_json_next_key(&in, key, sizeof key) && akv_json_read_u64(&in, &big));
    cr_expect(big == UINT64_MAX);
    cr_assert(akv_json_next_key(&in, key, sizeof key) && akv_json_read_real(&in, &real));
    cr_expect(real == 0.0078125);
    for (int i = 0; i < 3; i++)
        cr_assert(akv_json_next_key(&in, key, sizeof key) && akv_json_skip(&in));
    cr_expect(!(akv_json_next_key(&in, key, sizeof key)) && akv_json_finish(&in), "%s", line);
    cr_expect(strstr(line, "\"none\": null, \"yes\": true, \"null\": null}\n") != NULL, "%s", line);
}
