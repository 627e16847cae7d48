/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: the GGUF reader of examples/llama, and its tokenizer on what was read. */
#include "../examples/llama/tokenizer.h"
#include "fuzz.h"
#include <string.h>

struct writer {
    uint8_t *at, *end;
};

static void put(struct writer *out, const void *data, size_t bytes)
{
    FUZZ_REQUIRE(bytes <= (size_t)(out->end - out->at));
    if (bytes)
        memcpy(out->at, data, bytes);
    out->at += bytes;
}

static void put_number(struct writer *out, uint64_t value, unsigned bytes)
{
    uint8_t raw[8];
    for (unsigned i = 0; i < 8; i++)
        raw[i] = (uint8_t)(value >> (8 * i));
    put(out, raw, bytes);
}

static void put_text(struct writer *out, const char *text)
{
    put_number(out, strlen(text), 8);
    put(out, text, strlen(text));
}

/* A key that is a text, and one that is an array of texts. */
static void put_key(struct writer *out, const char *name, const char *text)
{
    put_text(out, name);
    put_number(out, GGUF_STRING, 4);
    put_text(out, text);
}

static void put_list(struct writer *out, const char *name, const char *const *texts, uint64_t count)
{
    put_text(out, name);
    put_number(out, GGUF_ARRAY, 4);
    put_number(out, GGUF_STRING, 4);
    put_number(out, count, 8);
    for (uint64_t i = 0; i < count; i++)
        put_text(out, texts[i]);
}

/* Tensors of each type that is read, 256 columns and 2 rows, behind a small tokenizer. */
size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    static const char *const tokens[] = {"a", "b", "c", "ab", "abc", "\xc4\xa0"};
    static const char *const merges[] = {"a b", "ab c"};
    static const struct {
        uint32_t type, row_bytes;
    } types[] = {{0, 1024}, {1, 512}, {2, 144}, {3, 160}, {8, 272}, {14, 210}, {30, 512}};
    struct writer w = {out, out + capacity};
    if (index > 1)
        return 0;
    uint64_t count = index == 0 ? sizeof types / sizeof types[0] : 1, at = 0;
    put(&w, "GGUF", 4);
    put_number(&w, index == 0 ? 3 : 2, 4);
    put_number(&w, count, 8);
    put_number(&w, 6, 8);
    put_key(&w, "tokenizer.ggml.model", "gpt2");
    put_key(&w, "tokenizer.ggml.pre", index == 0 ? "smollm" : "gpt-2");
    put_list(&w, "tokenizer.ggml.tokens", tokens, 6);
    put_list(&w, "tokenizer.ggml.merges", merges, 2);
    put_text(&w, "tokenizer.ggml.eos_token_id");
    put_number(&w, GGUF_U32, 4);
    put_number(&w, 5, 4);
    put_text(&w, "general.alignment");
    put_number(&w, GGUF_U32, 4);
    put_number(&w, 32, 4);
    for (uint64_t i = 0; i < count; i++) {
        char name[2] = {(char)('a' + (char)i), 0};
        put_text(&w, name);
        put_number(&w, 2, 4);
        put_number(&w, 256, 8);
        put_number(&w, 2, 8);
        put_number(&w, types[i].type, 4);
        put_number(&w, at, 8);
        at += (2 * types[i].row_bytes + 31) / 32 * 32;
    }
    while ((w.at - out) % 32)
        put_number(&w, 0, 1);
    for (uint64_t i = 0; i < at; i++)
        put_number(&w, 0x3c * (i % 2), 1);
    return (size_t)(w.at - out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf file;
    if (gguf_open(&file, akv_fuzz_file(data, size)) != 0) {
        FUZZ_REQUIRE(failure()[0] != '\0' && !file.keys && !file.tensors && !file.data);
        return 0;
    }
    for (uint64_t i = 0; i < file.tensor_count; i++) {
        const struct gguf_tensor *tensor = &file.tensors[i];
        char name[1025];
        memcpy(name, tensor->name.data, (size_t)tensor->name.bytes);
        name[tensor->name.bytes] = '\0';
        FUZZ_REQUIRE(tensor->rows >= 1 && tensor->columns >= 1);
        const struct gguf_tensor *found =
            gguf_tensor(&file, name, tensor->columns, tensor->dimensions > 1 ? tensor->rows : 0);
        if (!found)
            continue;
        float *row = malloc((size_t)found->columns * sizeof *row);
        FUZZ_REQUIRE(row);
        gguf_row(found, 0, row);
        gguf_row(found, found->rows - 1, row);
        free(row);
    }
    struct tokenizer tokenizer;
    if (tokenizer_open(&tokenizer, &file) == 0) {
        static const char text[] = "abcab bca\xc3\xa9 12  ";
        uint32_t *ids, count;
        for (size_t bytes = 0; bytes <= sizeof text - 1; bytes++) {
            if (tokenizer_encode(&tokenizer, text, bytes, &ids, &count) != 0)
                continue;
            char back[64];
            size_t at = 0;
            for (uint32_t i = 0; i < count; i++)
                at += tokenizer_decode(&tokenizer, ids[i], back + at, (uint32_t)(sizeof back - at));
            FUZZ_REQUIRE(count <= bytes);
            free(ids);
        }
        /* The input itself as a text. */
        if (tokenizer_encode(&tokenizer, (const char *)data, size < 512 ? size : 512, &ids,
                             &count) == 0)
            free(ids);
        tokenizer_close(&tokenizer);
    }
    gguf_close(&file);
    return 0;
}
