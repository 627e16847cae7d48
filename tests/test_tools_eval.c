/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval` on dumps of other shapes: head size 256, one kv head, local layers, other dtypes. */
#include "tools/json.h"
#include "tools/tools.h"
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#define TOKENS  96u
#define Q_FIRST 64u
#define Q_HEADS 4u
#define LAYERS  2u
#define ROWS    64

static char path[64], answer[64];

static void make_paths(void)
{
    snprintf(path, sizeof path, "anykv-eval.%ld.safetensors", (long)getpid());
    snprintf(answer, sizeof answer, "anykv-eval.%ld.json", (long)getpid());
}
static void remove_paths(void)
{
    unlink(path);
    unlink(answer);
}
TestSuite(eval, .init = make_paths, .fini = remove_paths, .timeout = 300);

static uint32_t random_bits(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* An element between 2^-2 and 2 of either sign; channel 3 is constant, as in some models. */
static void put_element(FILE *file, const char *dtype, uint32_t channel, uint64_t *state)
{
    uint32_t bits = random_bits(state);
    uint32_t exponent = 0x7Du + (bits >> 1) % 3u, fraction = bits >> 9;
    uint32_t word = channel == 3 ? 0x3F800000u : (bits & 1u) << 31 | exponent << 23 | fraction;
    if (strcmp(dtype, "F32") == 0) {
        fwrite(&word, 4, 1, file);
        return;
    }
    uint16_t half = (uint16_t)(word >> 16); /* BF16 */
    if (strcmp(dtype, "F16") == 0)
        half = (uint16_t)((word >> 16 & 0x8000u) | ((word >> 23 & 0xFFu) - 112u) << 10 |
                          (word >> 13 & 0x3FFu));
    fwrite(&half, 2, 1, file);
}

/* A dump of layers 0 and 1 with these shapes and further metadata. */
static void write_dump(uint32_t dim, uint32_t kv_heads, const char *dtype, const char *more)
{
    char header[4096];
    uint64_t state = 99, offset = 0, size = strcmp(dtype, "F32") == 0 ? 4 : 2;
    int used =
        snprintf(header, sizeof header,
                 "{\"__metadata__\":{\"tokens\":\"%u\",\"q_first\":\"%u\",\"q_heads\":\"%u\","
                 "\"kv_heads\":\"%" PRIu32 "\",\"head_dim\":\"%" PRIu32 "\",\"scale\":\"0.0625\","
                 "\"layers\":\"0,1\"%s}",
                 TOKENS, Q_FIRST, Q_HEADS, kv_heads, dim, more);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (const char *side = "kvq"; *side; side++) {
            uint32_t tokens = *side == 'q' ? TOKENS - Q_FIRST : TOKENS;
            uint32_t heads = *side == 'q' ? Q_HEADS : kv_heads;
            uint64_t bytes = size * tokens * heads * dim;
            used += snprintf(header + used, sizeof header - (size_t)used,
                             ",\"layers.%" PRIu32 ".%c\":{\"dtype\":\"%s\",\"shape\":[%u,%u,%u],"
                             "\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                             layer, *side, dtype, tokens, heads, dim, offset, offset + bytes);
            offset += bytes;
        }
    uint64_t length =
        (uint64_t)snprintf(header + used, sizeof header - (size_t)used, "}") + (uint64_t)used;
    FILE *file = fopen(path, "wb");
    cr_assert(file != NULL);
    fwrite(&length, 8, 1, file);
    fputs(header, file);
    for (uint64_t i = 0; i < offset / size; i++)
        put_element(file, dtype, (uint32_t)(i % dim), &state);
    cr_assert(fclose(file) == 0);
}

struct row {
    char k[8], layer[8];
    double bits, tv, error, top1;
};

static uint32_t read_answer(struct row *rows)
{
    char line[1024], key[64];
    uint32_t count = 0;
    FILE *file = fopen(answer, "rb");
    cr_assert(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        struct akv_json_reader json;
        struct row *row = &rows[count++];
        cr_assert(count <= ROWS);
        akv_json_open(&json, line, strlen(line));
        cr_assert(akv_json_enter_object(&json), "%s", line);
        while (akv_json_next_key(&json, key, sizeof key)) {
            uint64_t number;
            if (strcmp(key, "k") == 0)
                akv_json_read_text(&json, row->k, sizeof row->k);
            else if (strcmp(key, "layer") == 0 && strstr(line, "\"layer\": \"all\"") != NULL)
                akv_json_read_text(&json, row->layer, sizeof row->layer);
            else if (strcmp(key, "layer") == 0 && akv_json_read_u64(&json, &number))
                snprintf(row->layer, sizeof row->layer, "%" PRIu64, number);
            else if (strcmp(key, "bits") == 0)
                akv_json_read_real(&json, &row->bits);
            else if (strcmp(key, "attention_tv") == 0)
                akv_json_read_real(&json, &row->tv);
            else if (strcmp(key, "output_error") == 0)
                akv_json_read_real(&json, &row->error);
            else if (strcmp(key, "top1") == 0)
                akv_json_read_real(&json, &row->top1);
            else
                akv_json_skip(&json);
        }
        cr_assert(akv_json_finish(&json), "%s: %s", json.error, line);
    }
    fclose(file);
    return count;
}

/* Runs eval --layers on the dump; returns the exit status, the rows in *rows. */
static int run_eval(const char *formats, struct row *rows, uint32_t *count)
{
    char *arguments[] = {
        "eval", "--json", "--layers", "--device", "cpu", "--formats", (char *)(uintptr_t)formats,
        path};
    memset(rows, 0, ROWS * sizeof *rows);
    cr_assert(freopen(answer, "wb", stdout) != NULL);
    int status = akv_tool_eval(8, arguments);
    fflush(stdout);
    *count = read_answer(rows);
    return status;
}

static const struct row *find(const struct row *rows, uint32_t count, const char *k,
                              const char *layer)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(rows[i].k, k) == 0 && strcmp(rows[i].layer, layer) == 0)
            return &rows[i];
    cr_assert_fail("no row of %s, layer %s", k, layer);
    return NULL;
}

static void shape(uint32_t dim, uint32_t kv_heads, const char *dtype, double i8_bits)
{
    struct row rows[ROWS];
    uint32_t count;
    write_dump(dim, kv_heads, dtype, "");
    cr_assert(run_eval("F32,I8,N6,N4,N2", rows, &count) == 0);
    cr_assert(count == 15, "%u rows", count);
    const struct row *exact = find(rows, count, "F32", "all"), *i8 = find(rows, count, "I8", "all");
    const struct row *n6 = find(rows, count, "N6", "all"), *n4 = find(rows, count, "N4", "all");
    const struct row *n2 = find(rows, count, "N2", "all");
    cr_expect(exact->tv == 0.0 && exact->error == 0.0 && exact->top1 == 1.0,
              "dim %u %s: F32 is not exact", dim, dtype);
    cr_expect(0.0 < i8->error && i8->error < 0.02 && i8->error < n6->error &&
                  n6->error < n4->error && n4->error < n2->error && n2->error < 1.5,
              "dim %u kv_heads %u %s: I8 %g N6 %g N4 %g N2 %g", dim, kv_heads, dtype, i8->error,
              n6->error, n4->error, n2->error);
    cr_expect(i8->bits == i8_bits, "dim %u: %g bits", dim, i8->bits);
}

Test(eval, head_of_256_one_kv_head)
{
    shape(256, 1, "F32", 8.125);
}
Test(eval, head_of_80_bf16)
{
    shape(80, 2, "BF16", 9.8); /* 96 bytes of codes and a scale for 80 elements */
}
Test(eval, head_of_128_one_query_head_each)
{
    shape(128, 4, "F16", 8.125);
}

Test(eval, local_layers_by_metadata)
{
    struct row global[ROWS], local[ROWS];
    uint32_t count, local_count;
    write_dump(64, 1, "F16", "");
    cr_assert(run_eval("N4", global, &count) == 0);
    write_dump(64, 1, "F16", ",\"sliding_window\":\"8\",\"global_layers\":\"1\"");
    cr_assert(run_eval("N4", local, &local_count) == 0 && count == local_count);
    cr_expect(find(global, count, "N4", "1")->tv == find(local, count, "N4", "1")->tv,
              "a global layer changed");
    cr_expect(find(global, count, "N4", "0")->tv != find(local, count, "N4", "0")->tv,
              "the window of a local layer has no effect");
}

Test(eval, head_size_that_the_library_does_not_have)
{
    struct row rows[ROWS];
    uint32_t count;
    write_dump(48, 1, "F16", "");
    cr_expect(run_eval("N4", rows, &count) == 2 && count == 0);
}

/* At 40 % of the F16 bytes of real rows, lower precision costs less than dropping blocks. */
Test(eval, the_ladder_beats_eviction, .timeout = 120)
{
    const char *data = getenv("ANYKV_TEST_DATA");
    if (!data)
        cr_skip_test("ANYKV_TEST_DATA is not set");
    char path[4096], command[] = "eval", budget[] = "--budget", share[] = "40";
    char device[] = "--device", cpu[] = "cpu";
    snprintf(path, sizeof path, "%s/smollm2-code.safetensors", data);
    char *arguments[] = {command, budget, share, device, cpu, path, NULL};
    cr_expect(akv_tool_eval(6, arguments) == 0);
}

/* Blocks of real rows become a quarter smaller and come back bit for bit. */
Test(eval, cold_blocks, .timeout = 120)
{
    const char *data = getenv("ANYKV_TEST_DATA");
    if (!data)
        cr_skip_test("ANYKV_TEST_DATA is not set");
    char path[4096], command[] = "eval", cold[] = "--cold", device[] = "--device", cpu[] = "cpu";
    snprintf(path, sizeof path, "%s/smollm2-code.safetensors", data);
    char *arguments[] = {command, cold, device, cpu, path, NULL};
    cr_expect(akv_tool_eval(5, arguments) == 0);
}
