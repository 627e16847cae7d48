/* SPDX-License-Identifier: Apache-2.0 */
/* examples/llama on a small model that the suite writes itself: tensor types, tokenizer, forward
 * pass. */
#include "examples/llama/model.h"
#include "examples/llama/dense.h"
#include "examples/llama/tokenizer.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WIDTH = 256, FEED = 512, HEADS = 4, KV_HEADS = 2, DIM = 64, LAYERS = 2, VOCABULARY = 300 };

static char path[64];
static struct gguf file;
static struct model model;
static struct machine machine;

static void make_path(void)
{
    snprintf(path, sizeof path, "anykv-llama.%ld.tmp", (long)getpid());
}
static void remove_path(void)
{
    model_close(&model);
    machine_close(&machine);
    gguf_close(&file);
    unlink(path);
}
TestSuite(llama, .init = make_path, .fini = remove_path);

/* ---- writing a model ---- */

static FILE *out;
static uint64_t state = 1, offset;

static uint32_t draw(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}
static void number(uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        fputc((int)(value >> (8 * i) & 255), out);
}
static void text(const char *value)
{
    number(strlen(value), 8);
    fputs(value, out);
}
static void key_text(const char *name, const char *value)
{
    text(name);
    number(GGUF_STRING, 4);
    text(value);
}
static void key_u32(const char *name, uint32_t value)
{
    text(name);
    number(GGUF_U32, 4);
    number(value, 4);
}
static void key_f32(const char *name, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    text(name);
    number(GGUF_F32, 4);
    number(bits, 4);
}

static uint32_t row_bytes(uint32_t type, uint32_t columns)
{
    switch (type) {
    case 0:
        return 4 * columns;
    case 2:
        return columns / 32 * 18;
    case 3:
        return columns / 32 * 20;
    case 8:
        return columns / 32 * 34;
    case 14:
        return columns / 256 * 210;
    default:
        return 2 * columns;
    }
}
struct made {
    char name[40];
    uint32_t type, columns, rows;
};
static struct made made[16 * LAYERS + 8];
static uint32_t made_count;
static void tensor(const char *name, uint32_t layer, uint32_t type, uint32_t columns, uint32_t rows)
{
    struct made *m = &made[made_count++];
    snprintf(m->name, sizeof m->name, name, layer);
    m->type = type, m->columns = columns, m->rows = rows;
    text(m->name);
    number(rows ? 2 : 1, 4);
    number(columns, 8);
    if (rows)
        number(rows, 8);
    number(type, 4);
    number(offset, 8);
    offset += ((uint64_t)row_bytes(type, columns) * (rows ? rows : 1) + 31) / 32 * 32;
}

/* Random bytes whose scales are small numbers. */
static void tensor_data(const struct made *m)
{
    uint64_t bytes = (uint64_t)row_bytes(m->type, m->columns) * (m->rows ? m->rows : 1), unit,
             scale_at;
    unit = row_bytes(m->type, m->type == 14 ? 256 : 32), scale_at = m->type == 14 ? 208 : 0;
    for (uint64_t i = 0; i < bytes; i++) {
        uint64_t at = i % unit;
        if (m->type == 0) /* norms near 1, else small */
            fputc(i % 4 == 3 ? 0x3f : i % 4 == 2 ? 0x80 : 0, out);
        else if (m->type == 1 || m->type == 30)
            fputc(i % 2 == 0 ? (int)(draw() & 255)
                             : (int)((m->type == 1 ? 0x28 : 0x3d) | (draw() & 128)),
                  out);
        else if (at == scale_at + 1 || (m->type == 3 && at == 3))
            fputc(m->type == 14 ? 0x04 : 0x18, out);
        else
            fputc((int)(draw() & 255), out);
    }
    for (; bytes % 32; bytes++)
        fputc(0, out);
}

enum fault {
    SOUND,
    NO_NORM,
    FOREIGN_TENSOR,
    WRONG_SHAPE,
    WRONG_TYPE,
    ODD_HEADS,
    OTHER_KIND,
    SEPARATE
};

static void write_model(enum fault fault)
{
    static const char hex[] = "0123456789abcdef";
    uint32_t tensors =
        9 * LAYERS + 2 + (fault == FOREIGN_TENSOR) + (fault == SEPARATE) - (fault == NO_NORM);
    made_count = 0, offset = 0, state = 1;
    out = fopen(path, "wb");
    cr_assert(out != NULL);
    fputs("GGUF", out);
    number(3, 4);
    number(tensors, 8);
    number(15, 8);
    key_text("general.architecture", fault == OTHER_KIND ? "mamba" : "llama");
    key_u32("llama.block_count", LAYERS);
    key_u32("llama.embedding_length", WIDTH);
    key_u32("llama.feed_forward_length", FEED);
    key_u32("llama.attention.head_count", HEADS);
    key_u32("llama.attention.head_count_kv", fault == ODD_HEADS ? 3 : KV_HEADS);
    key_u32("llama.context_length", 512);
    key_f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    key_f32("llama.rope.freq_base", 10000.0f);
    key_u32("general.alignment", 32);
    key_text("tokenizer.ggml.model", "gpt2");
    key_text("tokenizer.ggml.pre", "smollm");
    key_u32("tokenizer.ggml.eos_token_id", 0);
    text("tokenizer.ggml.tokens"); /* the printable bytes, a space, a line, two words, then fillers
                                    */
    number(GGUF_ARRAY, 4), number(GGUF_STRING, 4), number(VOCABULARY, 8);
    for (uint32_t i = 0; i < VOCABULARY; i++) {
        char name[8] = {(char)('!' + (char)i), 0};
        if (i >= 94)
            snprintf(name, sizeof name, "~~%c%c", hex[i / 16 % 16], hex[i % 16]);
        text(i == 94   ? "\xc4\xa0"
             : i == 95 ? "\xc4\x8a"
             : i == 96 ? "he"
             : i == 97 ? "\xc4\xa0h"
             : i == 98 ? "\xc4\xa0\xc4\xa0"
             : i > 255 ? "~x"
                       : name);
    }
    text("tokenizer.ggml.merges");
    number(GGUF_ARRAY, 4), number(GGUF_STRING, 4), number(3, 8);
    text("h e"), text("\xc4\xa0 h"), text("\xc4\xa0 \xc4\xa0");
    tensor("token_embd.weight", 0, 8, WIDTH, VOCABULARY);
    for (uint32_t l = 0; l < LAYERS; l++) {
        tensor("blk.%u.attn_norm.weight", l, 0, WIDTH, 0);
        tensor("blk.%u.attn_q.weight", l, fault == WRONG_TYPE ? 12 : 1, WIDTH, HEADS * DIM);
        tensor("blk.%u.attn_k.weight", l, 2, WIDTH,
               KV_HEADS * DIM + (fault == WRONG_SHAPE ? 32 : 0));
        tensor("blk.%u.attn_v.weight", l, 3, WIDTH, KV_HEADS * DIM);
        tensor("blk.%u.attn_output.weight", l, 8, HEADS * DIM, WIDTH);
        tensor("blk.%u.ffn_norm.weight", l, 0, WIDTH, 0);
        tensor("blk.%u.ffn_gate.weight", l, 14, WIDTH, FEED);
        tensor("blk.%u.ffn_up.weight", l, 30, WIDTH, FEED);
        tensor("blk.%u.ffn_down.weight", l, 14, FEED, WIDTH);
    }
    if (fault != NO_NORM)
        tensor("output_norm.weight", 0, 0, WIDTH, 0);
    if (fault == FOREIGN_TENSOR)
        tensor("blk.0.attn_q.bias", 0, 0, WIDTH, 0);
    if (fault == SEPARATE)
        tensor("output.weight", 0, 8, WIDTH, VOCABULARY);
    while (ftell(out) % 32)
        fputc(0, out);
    for (uint32_t i = 0; i < made_count; i++)
        tensor_data(&made[i]);
    cr_assert(fclose(out) == 0);
}

static void open_model(enum fault fault)
{
    write_model(fault);
    cr_assert(gguf_open(&file, path) == 0, "%s", failure());
    cr_assert(model_open(&model, &file, 64) == 0, "%s", failure());
    cr_assert(machine_open(&machine, "cpu", 2, NULL) == 0, "%s", failure());
}

/* ---- tests ---- */

Test(llama, decodes_every_tensor_type)
{
    /* One block each; what it must decode to is written out from the definition of the type. */
    uint8_t bytes[210];
    float row[256];
    struct gguf_tensor t = {.columns = 32, .rows = 1, .at = bytes};
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(37 * i + 11);
    bytes[0] = 0x00, bytes[1] = 0x38; /* 0.5 */
    t.type = 2, t.row_bytes = 18;
    gguf_row(&t, 0, row);
    cr_expect(row[0] == 0.5f * (float)((bytes[2] & 15) - 8) &&
              row[31] == 0.5f * (float)((bytes[17] >> 4) - 8));
    bytes[2] = 0x00, bytes[3] = 0xbc; /* -1 */
    t.type = 3, t.row_bytes = 20;
    gguf_row(&t, 0, row);
    cr_expect(row[1] == 0.5f * (float)(bytes[5] & 15) - 1.0f &&
              row[16] == 0.5f * (float)(bytes[4] >> 4) - 1.0f);
    t.type = 8, t.row_bytes = 34;
    gguf_row(&t, 0, row);
    cr_expect(row[0] == 0.5f * (float)(int8_t)bytes[2] &&
              row[31] == 0.5f * (float)(int8_t)bytes[33]);
    t.type = 1, t.row_bytes = 64;
    gguf_row(&t, 0, row);
    cr_expect(row[0] == 0.5f && row[1] == -1.0f);
    bytes[4] = 0x01, bytes[5] = 0x80, bytes[6] = 0x00, bytes[7] = 0xfc;
    gguf_row(&t, 0, row);
    cr_expect(row[2] == -0x1p-24f && isinf(row[3]));
    t.type = 30;
    gguf_row(&t, 0, row);
    cr_expect(row[0] == 0x1p-15f); /* 0x3800 as the upper half of a float */
    /* Q6_K: element 37 of the first half: low nibble of byte 37, bits 2 and 3 of high byte 5, scale
     * 2; element 128 + 101: high nibble of byte 64 + 37, bits 6 and 7 of high byte 32 + 5, scale 8
     * + 6. */
    bytes[208] = 0x00, bytes[209] = 0x38;
    t.type = 14, t.columns = 256, t.row_bytes = 210;
    gguf_row(&t, 0, row);
    int a = ((bytes[37] & 15) | (bytes[128 + 5] >> 2 & 3) << 4) - 32;
    int b = ((bytes[64 + 37] >> 4) | (bytes[128 + 32 + 5] >> 6 & 3) << 4) - 32;
    cr_expect(row[37] == 0.5f * (float)((int8_t)bytes[192 + 2] * a));
    cr_expect(row[128 + 101] == 0.5f * (float)((int8_t)bytes[192 + 14] * b));
}

static void tokens_are(const struct tokenizer *t, const char *value, const char *expected)
{
    char got[256] = "";
    uint32_t *ids, count;
    cr_assert(tokenizer_encode(t, value, strlen(value), &ids, &count) == 0, "%s", failure());
    for (uint32_t i = 0; i < count; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%u", i ? " " : "", ids[i]);
    free(ids);
    cr_expect(strcmp(got, expected) == 0, "\"%s\" became %s, not %s", value, got, expected);
}

Test(llama, tokenizes_as_gpt2_does)
{
    struct tokenizer t;
    uint32_t *ids, count;
    write_model(SOUND);
    cr_assert(gguf_open(&file, path) == 0, "%s", failure());
    cr_assert(tokenizer_open(&t, &file) == 0, "%s", failure());
    tokens_are(&t, "", "");
    tokens_are(&t, "he", "96");
    tokens_are(&t, " he", "94 96"); /* the earlier merge goes first */
    tokens_are(&t, " ha", "97 64");
    tokens_are(&t, "  ha", "94 97 64"); /* white space leaves its last character to the word */
    tokens_are(&t, "a  1", "64 98 16"); /* but not to a digit, which stands alone */
    tokens_are(&t, "12", "16 17");
    tokens_are(&t, "a  ", "64 98");
    tokens_are(&t, "a'sb", "64 6 82 65");
    tokens_are(&t, "\n\n he", "95 95 94 96");
    cr_expect(tokenizer_encode(&t, "a\xff", 2, &ids, &count) == -1 &&
              strstr(failure(), "UTF-8 at byte 1"));
    cr_expect(tokenizer_encode(&t, "\xc0\x80", 2, &ids, &count) == -1);
    cr_expect(tokenizer_encode(&t, "\xed\xa0\x80", 3, &ids, &count) == -1);
    cr_expect(tokenizer_encode(&t, "\xe4\xbd", 2, &ids, &count) == -1);
    cr_expect(tokenizer_encode(&t, "\t", 1, &ids, &count) == -1 &&
              strstr(failure(), "no token for byte 0x09"));
    char back[8];
    cr_expect(tokenizer_decode(&t, 97, back, sizeof back) == 2 && memcmp(back, " h", 2) == 0);
    cr_expect(tokenizer_decode(&t, VOCABULARY, back, sizeof back) == 0);
    tokenizer_close(&t);
}

/* Logits of the last of `count` tokens, fed in steps of `step`. */
static float *logits_of(const char *formats, uint32_t count, uint32_t step)
{
    struct store_options options = {.formats = formats,
                                    .sequences = 1,
                                    .tokens = 128,
                                    .step_tokens = 64,
                                    .transform = ANYKV_TRANSFORM_ROTATE,
                                    .sinks = 4,
                                    .recent = 128,
                                    .exact = strcmp(formats, "F32") == 0};
    struct store store, *part = &store;
    uint32_t ids[128], positions[64], last;
    float *logits = calloc(VOCABULARY, sizeof *logits);
    cr_assert(logits && store_open(&store, &machine, &model, &options) == 0, "%s", failure());
    anykv_seq *seq = store.plain ? NULL : store_sequence(&store, 0);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (i * 7 + 3) % VOCABULARY;
    for (uint32_t at = 0; at < count; at += step) {
        uint32_t n = count - at < step ? count - at : step;
        for (uint32_t i = 0; i < n; i++)
            positions[i] = at + i;
        last = n - 1;
        cr_assert(store_begin(&store, &seq, &n, 1) == 0, "%s", failure());
        cr_assert(
            model_forward(&model, ids + at, positions, &part, &n, 1, &last, 1, logits, NULL) == 0,
            "%s", failure());
        cr_assert(store_end(&store, NULL) == 0, "%s", failure());
    }
    anykv_seq_destroy(seq);
    store_close(&store);
    return logits;
}

static double distance(const float *a, const float *b)
{
    double difference = 0, size = 0;
    for (uint32_t i = 0; i < VOCABULARY; i++) {
        difference += fabs((double)a[i] - (double)b[i]);
        size += fabs((double)a[i]);
    }
    return difference / size;
}

Test(llama, cache_and_plain_arrays_agree)
{
    open_model(SOUND);
    dense_start(2);
    float *plain = logits_of("plain", 100, 64), *whole = logits_of("F32", 100, 64);
    float *single = logits_of("F32", 100, 1), *packed = logits_of("N4/N4", 100, 16);
    cr_expect(distance(plain, whole) < 1e-5, "%g", distance(plain, whole));
    cr_expect(distance(plain, single) < 1e-5, "%g", distance(plain, single));
    double error = distance(plain, packed);
    cr_expect(error > 0 && error < 0.1, "%g", error);
    free(plain), free(whole), free(single), free(packed);
    dense_stop();
}

Test(llama, ragged_batch_is_its_parts)
{
    open_model(SEPARATE);
    struct store_options options = {.formats = "F32",
                                    .sequences = 2,
                                    .tokens = 64,
                                    .step_tokens = 64,
                                    .transform = ANYKV_TRANSFORM_ROTATE,
                                    .sinks = 4,
                                    .recent = 128,
                                    .exact = 1};
    struct store store, *part = &store;
    uint32_t ids[50], positions[50], counts[2] = {30, 20}, total = 50, wanted[2] = {29, 49};
    float *both = calloc(2 * VOCABULARY, sizeof *both);
    cr_assert(both && store_open(&store, &machine, &model, &options) == 0, "%s", failure());
    anykv_seq *seqs[2] = {store_sequence(&store, 0), store_sequence(&store, 0)};
    for (uint32_t i = 0; i < 50; i++) {
        positions[i] = i < 30 ? i : i - 30;
        ids[i] = (positions[i] * 7 + 3) % VOCABULARY;
    }
    cr_assert(store_begin(&store, seqs, counts, 2) == 0, "%s", failure());
    cr_assert(model_forward(&model, ids, positions, &part, &total, 1, wanted, 2, both, NULL) == 0);
    cr_assert(store_end(&store, ids) == 0);
    float *first = logits_of("plain", 30, 64), *second = logits_of("plain", 20, 64);
    cr_expect(distance(first, both) < 1e-5 && distance(second, both + VOCABULARY) < 1e-5);
    free(first), free(second), free(both);
    anykv_seq_destroy(seqs[0]), anykv_seq_destroy(seqs[1]);
    store_close(&store);
}

Test(llama, refuses_what_it_would_compute_wrongly)
{
    static const struct {
        enum fault fault;
        const char *text;
    } cases[] = {{NO_NORM, "tensors where a plain llama model"},
                 {FOREIGN_TENSOR, "tensors where a plain llama model"},
                 {WRONG_SHAPE, "attn_k.weight is not 256 x 128"},
                 {WRONG_TYPE, "has type 12"},
                 {ODD_HEADS, "4 heads of 64 over 3"},
                 {OTHER_KIND, "architecture is not llama"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_model(cases[i].fault);
        cr_assert(gguf_open(&file, path) == 0, "%s", failure());
        cr_expect(model_open(&model, &file, 64) == -1 && strstr(failure(), cases[i].text), "%u: %s",
                  (unsigned)i, failure());
        gguf_close(&file);
    }
}

Test(llama, refuses_more_than_there_is_room_for)
{
    open_model(SOUND);
    struct store_options options = {
        .formats = "F16", .sequences = 1, .tokens = 32, .step_tokens = 64};
    struct store store, *part = &store;
    uint32_t ids[65] = {0}, count = 65;
    float logits[1];
    cr_assert(store_open(&store, &machine, &model, &options) == 0, "%s", failure());
    anykv_seq *seq = store_sequence(&store, 0);
    cr_expect(model_forward(&model, ids, ids, &part, &count, 1, NULL, 0, logits, NULL) == -1 &&
              strstr(failure(), "a batch of 65 tokens"));
    count = 33; /* longer than the pool's sequences may be */
    cr_expect(store_begin(&store, &seq, &count, 1) == -1 && strstr(failure(), "max_seq_tokens"),
              "%s", failure());
    count = 1, ids[0] = VOCABULARY;
    cr_expect(model_forward(&model, ids, ids, &part, &count, 1, NULL, 0, logits, NULL) == -1 &&
              strstr(failure(), "beyond the vocabulary"));
    anykv_seq_destroy(seq);
    store_close(&store);
    options.formats = "Q9/N4";
    cr_expect(store_open(&store, &machine, &model, &options) == -1 && strstr(failure(), "Q9"));
    options.formats = "N4", options.budget = 1000;
    cr_expect(store_open(&store, &machine, &model, &options) == -1 &&
              strstr(failure(), "budget_bytes"));
}
