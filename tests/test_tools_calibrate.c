/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv calibrate` and `eval` on a dump with one kv head of 256, head norms, constant channels, local
 * layers and a rotary embedding over half of the row, made here: no such model's rows are at hand. */
#include "tools/json.h"
#include "tools/tools.h"
#include <criterion/criterion.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define TOKENS  600u
#define Q_FIRST 150u
#define Q_HEADS 2u
#define DIM     256u
#define PAIRS   64u
#define WINDOW  128u

static char path[64], other[64], answer[64], calibration[64];

static void make_paths(void)
{
    const long id = (long)getpid();
    snprintf(path, sizeof path, "anykv-cal.%ld.safetensors", id);
    snprintf(other, sizeof other, "anykv-cal.%ld.other", id);
    snprintf(answer, sizeof answer, "anykv-cal.%ld.json", id);
    snprintf(calibration, sizeof calibration, "anykv-cal.%ld.anykvcal", id);
}
static void remove_paths(void)
{
    unlink(path);
    unlink(other);
    unlink(answer);
    unlink(calibration);
}
TestSuite(calibrate, .init = make_paths, .fini = remove_paths, .timeout = 300);

static double normal(uint64_t *state)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(uint32_t)(*state >> 32) / 4294967296.0;
    }
    return sum;
}

/* A row of unit size in spread that falls by channel, plus a mean, then the norm, then turned. */
static void make_row(float *row, uint32_t position, double base, const double *mean, double fall,
                     uint64_t *state)
{
    double x[DIM], squares = 0.0;
    for (uint32_t i = 0; i < DIM; i++) {
        x[i] = mean[i] + exp(-fall * i) * normal(state);
        squares += x[i] * x[i];
    }
    for (uint32_t i = 0; i < DIM; i++)
        x[i] *= 16.0 / sqrt(squares);
    x[DIM - 1] = 0.5; /* constant, as in some models */
    for (uint32_t i = 0; i < PAIRS; i++) {
        const double angle = position * pow(base, -(double)i / PAIRS);
        const double a = x[i], b = x[i + PAIRS];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + PAIRS] = a * sin(angle) + b * cos(angle);
    }
    for (uint32_t i = 0; i < DIM; i++)
        row[i] = (float)x[i];
}

static void make_rows(FILE *file, char side, double base, uint64_t *state)
{
    double mean[DIM];
    uint64_t fixed = (uint64_t)side; /* the means do not depend on the text */
    float row[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        mean[i] = side == 'v' ? 0.0 : (side == 'k' ? 2.0 : 0.1) * normal(&fixed);
    for (uint32_t t = side == 'q' ? Q_FIRST : 0; t < TOKENS; t++)
        for (uint32_t h = 0; h < (side == 'q' ? Q_HEADS : 1); h++) {
            make_row(row, t, base, mean, side == 'k' ? 0.015 : side == 'q' ? -0.015 : 0.0, state);
            fwrite(row, sizeof row, 1, file);
        }
}

/* Layers 2 (local) and 5 (global). */
static void write_dump(const char *name, uint64_t text, const char *model, const char *base)
{
    char header[4096];
    uint64_t offset = 0;
    int used = snprintf(header, sizeof header,
                        "{\"__metadata__\":{\"model\":\"%s\",\"tokens\":\"%u\",\"q_first\":\"%u\","
                        "\"q_heads\":\"%u\",\"kv_heads\":\"1\",\"head_dim\":\"%u\",\"scale\":\"0.0625\","
                        "\"layers\":\"2,5\",\"rope\":\"half\",\"rope_dim\":\"%u\",\"rope_base\":\"%s\","
                        "\"rope_base_sliding\":\"1000\",\"sliding_window\":\"%u\",\"global_layers\":\"5\"}",
                        model, TOKENS, Q_FIRST, Q_HEADS, DIM, 2 * PAIRS, base, WINDOW);
    for (uint32_t layer = 2; layer <= 5; layer += 3)
        for (const char *side = "kvq"; *side; side++) {
            const uint32_t tokens = *side == 'q' ? TOKENS - Q_FIRST : TOKENS;
            const uint32_t heads = *side == 'q' ? Q_HEADS : 1;
            const uint64_t bytes = 4ull * tokens * heads * DIM;
            used += snprintf(header + used, sizeof header - (size_t)used,
                             ",\"layers.%u.%c\":{\"dtype\":\"F32\",\"shape\":[%u,%u,%u],\"data_offsets\":["
                             "%" PRIu64 ",%" PRIu64 "]}",
                             layer, *side, tokens, heads, DIM, offset, offset + bytes);
            offset += bytes;
        }
    used += snprintf(header + used, sizeof header - (size_t)used, "}");
    const uint64_t length = (uint64_t)used;
    FILE *file = fopen(name, "wb");
    cr_assert(file != NULL);
    fwrite(&length, 8, 1, file);
    fputs(header, file);
    uint64_t state = text;
    for (uint32_t layer = 2; layer <= 5; layer += 3)
        for (const char *side = "kvq"; *side; side++)
            make_rows(file, *side, layer == 2 ? 1000.0 : 10000.0, &state);
    cr_assert(fclose(file) == 0);
}

static int calibrate(const char *from)
{
    char *arguments[] = {"calibrate", (char *)(uintptr_t)from, "-o", calibration, "--json"};
    cr_assert(freopen(answer, "wb", stdout) != NULL);
    const int status = akv_tool_calibrate(5, arguments);
    fflush(stdout);
    return status;
}

static int eval(const char *file, const char *transform)
{
    char *arguments[] = {"eval", "--json", "--layers", "--device", "cpu", "--formats", "N4", "--transforms",
                         (char *)(uintptr_t)transform, "--calibration", calibration, "--sinks", "4",
                         (char *)(uintptr_t)file};
    cr_assert(freopen(answer, "wb", stdout) != NULL);
    const int status = akv_tool_eval(14, arguments);
    fflush(stdout);
    return status;
}

/* A number of the answer's line that has `where` in it. */
static double number(const char *where, const char *wanted)
{
    char line[1024], key[64];
    double value = (double)NAN;
    FILE *file = fopen(answer, "rb");
    cr_assert(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        struct akv_json_reader json;
        if (strstr(line, where) == NULL)
            continue;
        akv_json_open(&json, line, strlen(line));
        cr_assert(akv_json_enter_object(&json));
        while (akv_json_next_key(&json, key, sizeof key))
            if (strcmp(key, wanted) == 0)
                akv_json_read_real(&json, &value);
            else
                akv_json_skip(&json);
    }
    fclose(file);
    return value;
}

Test(calibrate, one_head_of_256_and_local_layers)
{
    write_dump(path, 1, "made up", "10000");
    write_dump(other, 2, "made up", "10000");
    cr_assert(calibrate(path) == 0);
    for (int layer = 2; layer <= 5; layer += 3) {
        char where[40];
        snprintf(where, sizeof where, "\"layer\": %d, \"side\": \"k\"", layer);
        const double rotate = number(where, "predicted_error_rotate");
        const double centre = number(where, "predicted_error_centre");
        const double matrix = number(where, "predicted_error_matrix");
        cr_expect(matrix < 0.8 * centre && centre < 0.5 * rotate, "layer %d: %g %g %g", layer, rotate,
                  centre, matrix);
    }
    static const char *const transforms[] = {"rotate", "centre", "matrix", "auto"};
    double tv[4][2];
    for (int i = 0; i < 4; i++) {
        cr_assert(eval(other, transforms[i]) == 0, "%s", transforms[i]);
        tv[i][0] = number("\"layer\": 2,", "attention_tv");
        tv[i][1] = number("\"layer\": 5,", "attention_tv");
    }
    for (int layer = 0; layer < 2; layer++) {
        cr_expect(tv[1][layer] < 0.6 * tv[0][layer] && tv[2][layer] < 0.9 * tv[1][layer],
                  "layer number %d: rotate %g, centre %g, matrix %g", layer, tv[0][layer], tv[1][layer],
                  tv[2][layer]);
        cr_expect(tv[3][layer] == tv[2][layer], "auto is not what was chosen");
    }
}

Test(calibrate, another_model)
{
    write_dump(path, 1, "made up", "10000");
    cr_assert(calibrate(path) == 0);
    write_dump(other, 2, "made up as well", "10000");
    cr_expect(eval(other, "auto") == 1, "another model's name was accepted");
    write_dump(other, 2, "made up", "500000");
    cr_expect(eval(other, "auto") == 1, "another rotary base was accepted");
    char *both[] = {"calibrate", path, other, "-o", calibration};
    cr_expect(akv_tool_calibrate(5, both) == 1, "two models in one calibration");
    write_dump(other, 2, "made up", "none");
    cr_expect(eval(other, "auto") == 1, "a rotary base that is no number was accepted");
}
