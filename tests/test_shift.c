/* SPDX-License-Identifier: Apache-2.0 */
/* Position shift: keys turn by the angles of the move, values and other rows stay, shared blocks are copied. */
#include "maps_case.h"
#include "tools/dump_model.h"

#define HEADS 2u
#define DIM   64u
#define ALL   320u /* positions; 32 of them recent, 16 sinks */

struct lab {
    struct engine engine;
    anykv_calibration *calibration;
    anykv_layer layers[2];
    uint64_t turns[DIM / 2];
};

struct kind {
    anykv_format format, hot;
    anykv_transform k;
    anykv_rope rope;
    uint32_t pairs;
    double error; /* of a key turned once, over its size */
};
static const struct kind kinds[] = {
    {ANYKV_F32, ANYKV_F32, ANYKV_TRANSFORM_NONE, ANYKV_ROPE_INTERLEAVED, 32, 1e-6},
    {ANYKV_BF16, ANYKV_BF16, ANYKV_TRANSFORM_NONE, ANYKV_ROPE_HALF, 20, 4e-3},
    {ANYKV_I8, ANYKV_F16, ANYKV_TRANSFORM_ROTATE, ANYKV_ROPE_HALF, 32, 0.012},
    {ANYKV_N4, ANYKV_F16, ANYKV_TRANSFORM_CENTRE, ANYKV_ROPE_INTERLEAVED, 32, 0.12},
    {ANYKV_I8, ANYKV_F32, ANYKV_TRANSFORM_MATRIX, ANYKV_ROPE_HALF, 24, 0.012},
    {ANYKV_Q8_0, ANYKV_F16, ANYKV_TRANSFORM_NONE, ANYKV_ROPE_INTERLEAVED, 32, 0.012},
    {ANYKV_E4M3G, ANYKV_F16, ANYKV_TRANSFORM_ROTATE, ANYKV_ROPE_HALF, 32, 0.05}};
#define KINDS (sizeof kinds / sizeof kinds[0])

static void start(struct lab *lab, anykv_context *context, anykv_device *device, const struct kind *kind)
{
    memset(lab, 0, sizeof *lab);
    maps_turns(lab->turns, kind->pairs);
    for (uint32_t l = 0; l < 2; l++) {
        lab->layers[l] = engine_layer(HEADS, DIM, 0);
        lab->layers[l].k_format = lab->layers[l].v_format = kind->format;
        lab->layers[l].hot_type = kind->hot;
        lab->layers[l].k_transform = kind->k;
        lab->layers[l].rope = kind->rope;
        lab->layers[l].rope_pairs = kind->pairs;
        lab->layers[l].rope_turns = lab->turns;
    }
    lab->engine.context = context;
    lab->engine.device = device;
    lab->calibration = maps_calibration(context, lab->layers, 2, 5);
    lab->engine.layout = engine_layout_with(context, lab->layers, 2, lab->calibration);
    anykv_cache_options options = engine_options(32u << 20);
    options.max_step_tokens = 512;
    OK(anykv_cache_create(device, lab->engine.layout, &options, &lab->engine.cache));
}
static void stop(struct lab *lab)
{
    anykv_calibration_destroy(lab->calibration);
    engine_stop(&lab->engine);
}

static float *rows_of(const anykv_seq *seq, uint32_t layer, int side, uint32_t first, uint32_t count)
{
    float *rows = malloc((size_t)count * HEADS * DIM * sizeof *rows);
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
    OK(anykv_seq_gather(seq, layer, side, first, count, &view));
    return rows;
}

/* A key turned in double precision. */
static void turn(const struct lab *lab, const struct kind *kind, int64_t delta, const float *key, double *out)
{
    for (uint32_t i = 0; i < DIM; i++)
        out[i] = (double)key[i];
    for (uint32_t i = 0; i < kind->pairs; i++) {
        const uint32_t a = kind->rope == ANYKV_ROPE_HALF ? i : 2 * i;
        const uint32_t b = kind->rope == ANYKV_ROPE_HALF ? i + kind->pairs : 2 * i + 1;
        const double angle =
            (double)(int64_t)((uint64_t)delta * lab->turns[i]) * (6.283185307179586476925 * 0x1p-64);
        out[a] = cos(angle) * (double)key[a] - sin(angle) * (double)key[b];
        out[b] = cos(angle) * (double)key[b] + sin(angle) * (double)key[a];
    }
}

/* Root of the mean square difference of keys from what they should have become, over their size. */
static double turned_error(const struct lab *lab, const struct kind *kind, int64_t delta, const float *before,
                           const float *after, uint32_t rows)
{
    double error = 0.0, size = 0.0;
    for (uint32_t r = 0; r < rows; r++) {
        double want[DIM];
        turn(lab, kind, delta, before + (size_t)r * DIM, want);
        for (uint32_t i = 0; i < DIM; i++) {
            error += pow((double)after[(size_t)r * DIM + i] - want[i], 2.0);
            size += want[i] * want[i];
        }
    }
    return sqrt(error / size);
}

/* A hole of 96 positions behind the first 48 is closed. */
static void check_shift(anykv_context *context, anykv_device *device, const struct kind *kind, const char *what)
{
    struct lab lab;
    start(&lab, context, device, kind);
    anykv_seq *seq = engine_seq(lab.engine.cache), *fork;
    engine_run(seq, 0, ALL - 7);
    OK(anykv_seq_fork(seq, &fork));
    float *before[2][2], *first[2];
    for (uint32_t l = 0; l < 2; l++) {
        first[l] = rows_of(seq, l, 0, 0, 48);
        for (int side = 0; side < 2; side++)
            before[l][side] = rows_of(seq, l, side, 144, ALL - 7 - 144);
    }
    OK(anykv_seq_remove(seq, 48, 96));
    OK(anykv_seq_shift(seq, 144, ALL - 7 - 144, -96));
    cr_assert(engine_length(seq) == ALL - 7 - 96);
    const uint32_t rows = (ALL - 7 - 144) * HEADS;
    for (uint32_t l = 0; l < 2; l++) {
        float *keys = rows_of(seq, l, 0, 48, ALL - 7 - 144), *values = rows_of(seq, l, 1, 48, ALL - 7 - 144);
        float *untouched = rows_of(seq, l, 0, 0, 48), *other = rows_of(fork, l, 0, 144, ALL - 7 - 144);
        const double error = turned_error(&lab, kind, -96, before[l][0], keys, rows);
        cr_expect(error < kind->error && error > 0.0, "%s, %s: error %g, allowed %g", what,
                  anykv_format_name(kind->format), error, kind->error);
        cr_expect(memcmp(values, before[l][1], (size_t)rows * DIM * 4) == 0, "%s: values", what);
        cr_expect(memcmp(untouched, first[l], 48 * HEADS * DIM * 4) == 0, "%s: rows before", what);
        cr_expect(memcmp(other, before[l][0], (size_t)rows * DIM * 4) == 0, "%s: the fork's rows", what);
        free(keys), free(values), free(untouched), free(other);
        free(first[l]), free(before[l][0]), free(before[l][1]);
    }
    engine_run(seq, 7000, 20); /* it goes on behind its new end */
    cr_expect(engine_length(seq) == ALL - 7 - 96 + 20);
    uint32_t tokens[ALL];
    uint64_t matched;
    for (uint32_t i = 0; i < ALL; i++)
        tokens[i] = i;
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PUBLIC;
    OK(anykv_cache_lookup(lab.engine.cache, &options, tokens, ALL - 7, &matched));
    cr_expect(matched == (ALL - 8) / 16 * 16, "%s: the names stay with the old rows", what);
    audit(lab.engine.cache, "shift");
    anykv_seq_destroy(seq);
    anykv_seq_destroy(fork);
    stop(&lab);
}

Test(shift, keys_turn_and_the_rest_stays)
{
    static const uint32_t masks[] = {0, ANYKV_ISA_AVX2, ANYKV_ISA_ALL};
    for (size_t m = 0; m < 3; m++)
        for (size_t k = 0; k < KINDS; k++) {
            anykv_context *context = house_context();
            anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
            anykv_device *device;
            options.threads = 0;
            options.isa_mask = masks[m];
            OK(anykv_device_open(context, "cpu", &options, &device));
            check_shift(context, device, &kinds[k], m == 0 ? "portable" : m == 1 ? "AVX2" : "best");
        }
}

/* Own blocks turn in place; there and back again is nearly nothing for raw rows. */
Test(shift, in_place_there_and_back)
{
    struct lab lab;
    anykv_context *context = house_context();
    start(&lab, context, house_device(context, 0), &kinds[0]);
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PRIVATE;
    anykv_seq *seq;
    OK(anykv_seq_create(lab.engine.cache, &options, &seq));
    engine_run(seq, 0, 100);
    const anykv_stats held = engine_stats(lab.engine.cache);
    float *before = rows_of(seq, 1, 0, 0, 100);
    OK(anykv_seq_shift(seq, 32, 68, 640));
    cr_assert(engine_length(seq) == 740);
    float *far = rows_of(seq, 1, 0, 672, 68);
    cr_expect(turned_error(&lab, &kinds[0], 640, before + 32 * HEADS * DIM, far, 68 * HEADS) < 1e-6);
    OK(anykv_seq_shift(seq, 672, 68, -640));
    cr_assert(engine_length(seq) == 100);
    float *after = rows_of(seq, 1, 0, 0, 100);
    for (uint32_t i = 0; i < 100 * HEADS * DIM; i++)
        cr_assert(fabsf(after[i] - before[i]) < 1e-5f * 16.0f, "element %u", i);
    const anykv_stats now = engine_stats(lab.engine.cache);
    cr_expect(now.used_bytes == held.used_bytes, "no copies");
    audit(lab.engine.cache, "shift");
    free(before), free(far), free(after);
    anykv_seq_destroy(seq);
    stop(&lab);
}

Test(shift, refusals)
{
    struct lab lab;
    anykv_context *context = house_context();
    start(&lab, context, house_device(context, 0), &kinds[3]);
    anykv_seq *seq = engine_seq(lab.engine.cache);
    engine_run(seq, 0, 100);
    REFUSED(ANYKV_E_ARG, "seq: NULL", anykv_seq_shift(NULL, 0, 16, 16));
    REFUSED(ANYKV_E_ARG, "go beyond the 100", anykv_seq_shift(seq, 96, 5, 16));
    REFUSED(ANYKV_E_ARG, "go beyond the 100", anykv_seq_shift(seq, UINT64_MAX, 16, 16));
    REFUSED(ANYKV_E_ARG, "go beyond the 100", anykv_seq_shift(seq, 16, UINT64_MAX, 16));
    REFUSED(ANYKV_E_ARG, "not multiples", anykv_seq_shift(seq, 8, 16, 16));
    REFUSED(ANYKV_E_ARG, "not multiples", anykv_seq_shift(seq, 16, 17, 16));
    REFUSED(ANYKV_E_ARG, "not multiples", anykv_seq_shift(seq, 16, 84, 8));
    REFUSED(ANYKV_E_ARG, "cannot move", anykv_seq_shift(seq, 16, 84, -32));
    REFUSED(ANYKV_E_ARG, "cannot move", anykv_seq_shift(seq, 16, 84, INT64_MIN));
    REFUSED(ANYKV_E_ARG, "cannot move", anykv_seq_shift(seq, 16, 84, 1024));
    REFUSED(ANYKV_E_STATE, "positions 0 to 15 hold rows", anykv_seq_shift(seq, 16, 84, -16));
    REFUSED(ANYKV_E_STATE, "positions 48 to 63 hold rows", anykv_seq_shift(seq, 16, 32, 32));
    OK(anykv_seq_shift(seq, 16, 0, 16));
    OK(anykv_seq_shift(seq, 16, 16, 0));
    const uint32_t one = 1;
    anykv_step *step;
    OK(anykv_step_begin(lab.engine.cache, &seq, &one, 1, &step));
    REFUSED(ANYKV_E_STATE, "open step", anykv_seq_shift(seq, 16, 84, 16));
    anykv_step_cancel(step);
    anykv_seq_destroy(seq);
    stop(&lab);

    struct engine engine;
    const anykv_layer layer = engine_layer(HEADS, DIM, 0);
    const anykv_cache_options options = engine_options(16u << 20);
    engine_start(&engine, &layer, 1, &options, 0);
    seq = engine_seq(engine.cache);
    engine_run(seq, 0, 100);
    REFUSED(ANYKV_E_UNSUPPORTED, "layers[0].rope_pairs: 0", anykv_seq_shift(seq, 16, 84, 16));
    anykv_seq_destroy(seq);
    engine_stop(&engine);
}

/* Each allocation and each device call fails once: unchanged, or dead. */
static void every_failure(bool shared, int how)
{
    uint64_t sites = 0;
    for (uint64_t at = 0; at <= sites; at++) {
        struct lab lab;
        anykv_context *context = house_context();
        start(&lab, context, house_device(context, 0), &kinds[3]);
        anykv_seq *seq = engine_seq(lab.engine.cache), *fork = NULL;
        engine_run(seq, 0, 200);
        if (shared)
            OK(anykv_seq_fork(seq, &fork));
        OK(anykv_seq_remove(seq, 48, 48));
        OK(anykv_cache_wait(lab.engine.cache, UINT64_MAX));
        float *before = rows_of(seq, 0, 0, 96, 104);
        if (how == 0)
            akv_alloc_fail_at(at, false);
        else
            akv_fault_at(at, ANYKV_E_DEVICE, how == 2);
        const anykv_status status = anykv_seq_shift(seq, 96, 104, -48);
        if (at == 0)
            sites = how == 0 ? akv_alloc_count() : akv_fault_count();
        akv_alloc_fail_at(0, false);
        akv_fault_at(0, ANYKV_OK, false);
        (void)anykv_cache_wait(lab.engine.cache, UINT64_MAX);
        uint64_t length;
        const anykv_status alive = anykv_seq_length(seq, &length);
        cr_assert(alive == ANYKV_OK || (how && alive == ANYKV_E_DEAD), "site %d, way %d: %s", (int)at, how,
                  anykv_status_name(alive));
        cr_assert(at == 0 ? status == ANYKV_OK : how == 2 || status != ANYKV_OK, "site %d of %d, way %d: %s",
                  (int)at, (int)sites, how, anykv_status_name(status));
        if (alive == ANYKV_OK && status) {
            cr_assert(length == 200);
            float *after = rows_of(seq, 0, 0, 96, 104);
            cr_expect(memcmp(after, before, 104 * HEADS * DIM * 4) == 0, "site %d, way %d: rows", (int)at, how);
            free(after);
        }
        free(before);
        audit(lab.engine.cache, "shift");
        anykv_seq_destroy(seq);
        anykv_seq_destroy(fork);
        stop(&lab);
    }
    cr_expect(sites > 0);
}
Test(shift, every_allocation_fails)
{
    every_failure(true, 0);
    every_failure(false, 0);
}
Test(shift, every_call_fails)
{
    every_failure(true, 1);
    every_failure(false, 1);
    every_failure(false, 2);
}

/* ---- real keys ---- */

/* Steps of 16 positions of one layer's rows. */
static void append_real(anykv_seq *seq, const struct akv_dump *dump, const struct akv_dump_layer *rows, uint32_t tokens)
{
    const uint32_t step_tokens = 16;
    const size_t row = (size_t)dump->kv_heads * dump->head_dim * 2; /* F16 */
    for (uint32_t at = 0; at < tokens; at += step_tokens) {
        anykv_step *step;
        const anykv_view k = anykv_view_host((const uint8_t *)rows->k + at * row, rows->k_dtype, dump->kv_heads,
                                             dump->head_dim);
        const anykv_view v = anykv_view_host((const uint8_t *)rows->v + at * row, rows->v_dtype, dump->kv_heads,
                                             dump->head_dim);
        OK(anykv_step_begin(seq->cache, &seq, &step_tokens, 1, &step));
        OK(anykv_step_append(step, 0, &k, &v));
        OK(anykv_step_end(step, NULL, NULL));
    }
}

/* Signal to error, in dB, of packed keys that were shifted `shifts` times there and back, against the model's. */
static double real_sqnr(const struct akv_dump *dump, const struct akv_dump_layer *rows, const anykv_layer *model,
                        anykv_format format, uint32_t shifts)
{
    const uint32_t tokens = 512, first = 16, count = 352; /* sealed ones */
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_layer layer = *model;
    layer.k_format = layer.v_format = format;
    anykv_layout *layout = engine_layout(context, &layer, 1);
    anykv_cache_options options = engine_options(64u << 20);
    options.recent = 128;
    options.max_seq_tokens = 2048;
    anykv_cache *cache;
    OK(anykv_cache_create(device, layout, &options, &cache));
    anykv_seq *seq = engine_seq(cache);
    append_real(seq, dump, rows, tokens);
    int64_t moved = 0;
    for (uint32_t s = 0; s < shifts; s++) { /* up by 1024, then back by 80 a time */
        const int64_t delta = s == 0 ? 1024 : -80;
        OK(anykv_seq_shift(seq, (uint64_t)(first + moved), tokens - first, delta));
        moved += delta;
    }
    const size_t n = (size_t)dump->kv_heads * dump->head_dim;
    float *keys = malloc(count * n * sizeof *keys);
    double *exact = malloc(tokens * n * sizeof *exact), signal = 0.0, noise = 0.0;
    const anykv_view view = anykv_view_host(keys, ANYKV_F32, dump->kv_heads, dump->head_dim);
    OK(anykv_seq_gather(seq, 0, 0, (uint64_t)(first + moved), count, &view));
    akv_rows_to_double(rows->k, rows->k_dtype, tokens * n, exact);
    for (size_t r = 0; r < count * dump->kv_heads; r++) {
        const double *key = exact + first * n + r * dump->head_dim;
        const float *got = keys + r * dump->head_dim;
        for (uint32_t i = 0; i < layer.rope_pairs; i++) {
            const bool half = layer.rope == ANYKV_ROPE_HALF;
            const uint32_t a = half ? i : 2 * i, b = half ? i + layer.rope_pairs : 2 * i + 1;
            const double angle = (double)(int64_t)((uint64_t)moved * layer.rope_turns[i]) *
                                 (6.283185307179586476925 * 0x1p-64);
            const double want[2] = {cos(angle) * key[a] - sin(angle) * key[b],
                                    cos(angle) * key[b] + sin(angle) * key[a]};
            signal += want[0] * want[0] + want[1] * want[1];
            noise += pow((double)got[a] - want[0], 2.0) + pow((double)got[b] - want[1], 2.0);
        }
    }
    free(keys), free(exact);
    anykv_seq_destroy(seq);
    anykv_cache_destroy(cache);
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return 10.0 * log10(signal / noise);
}

Test(shift, real_keys)
{
    static const anykv_format formats[] = {ANYKV_F16, ANYKV_I8, ANYKV_N5, ANYKV_N4, ANYKV_N3, ANYKV_Q4_0};
    static const uint32_t shifts[] = {0, 1, 10};
    const char *folder = getenv("ANYKV_TEST_DATA");
    char path[1024];
    struct akv_dump dump;
    struct akv_dump_model model;
    snprintf(path, sizeof path, "%s/smollm2-code.safetensors", folder ? folder : "");
    if (!folder || akv_dump_open(&dump, path) != ANYKV_OK) {
        printf("# skipped: ANYKV_TEST_DATA names no folder with smollm2-code.safetensors\n");
        return;
    }
    OK(akv_dump_model_open(&model, &dump, 0));
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        double mean[3] = {0.0, 0.0, 0.0};
        for (uint32_t l = 0; l < dump.layers; l += 3) {
            struct akv_dump_layer rows;
            OK(akv_dump_load(&dump, l, &rows));
            for (int s = 0; s < 3; s++)
                mean[s] += real_sqnr(&dump, &rows, &model.layers[dump.layer[l]], formats[f], shifts[s]) /
                           ((dump.layers + 2) / 3);
            akv_dump_free(&rows);
        }
        printf("# %s: keys %.2f dB, shifted once %.2f, ten times %.2f\n", anykv_format_name(formats[f]), mean[0],
               mean[1], mean[2]);
        if (formats[f] != ANYKV_F16) { /* one more encoding each time: errors add up like independent ones */
            cr_expect(mean[1] > mean[0] - 3.5, "%s: %g dB after one", anykv_format_name(formats[f]), mean[1]);
            cr_expect(mean[2] > mean[0] - 11.0, "%s: %g dB after ten", anykv_format_name(formats[f]), mean[2]);
        }
    }
    akv_dump_model_close(&model);
    akv_dump_close(&dump);
}

/* The same on a GPU runtime, where there is one. */
static void on_runtime(const char *name)
{
    static const size_t some[] = {2, 3, 4};
    for (size_t k = 0; k < 3; k++) {
        anykv_context *context = house_context();
        anykv_device *device;
        if (anykv_device_open(context, name, NULL, &device) != ANYKV_OK) {
            printf("# skipped: %s\n", anykv_error_detail());
            anykv_context_destroy(context);
            return;
        }
        check_shift(context, device, &kinds[some[k]], name);
    }
}
Test(shift, opencl)
{
    on_runtime("opencl");
}
Test(shift, cuda)
{
    on_runtime("cuda");
}
