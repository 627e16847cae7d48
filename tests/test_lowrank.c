/* SPDX-License-Identifier: Apache-2.0 */
/* Low-rank compression: error of coefficients, adversarial rows, damage, refusals, failures, both products. */
#include "house.h"
#include "backends/cpu/cpu.h"
#include "backends/cpu/device.h"
#include "lib/calibration.h"
#include "lib/half.h"
#include "lib/kernel/lowrank.h"
#include <math.h>
#include <stdlib.h>

enum { TOKENS = 64, HEADS = 2, DIM = 64, LAYER = 3, N = TOKENS * HEADS * DIM, ROOM = 4 * N + 4096 };

/* Keys and values of rank 12 with a mean, from positions 0 on. */
static float element(uint32_t side, uint32_t t, uint32_t h, uint32_t i)
{
    double sum = side ? 0.0 : 0.3 * cos(i * 1.7 + h);
    for (uint32_t r = 0; r < 12; r++)
        sum += sin(0.37 * (r + 1) * t + h + side) * cos(0.9 * r * i + 0.2 * i * i + h) / (1.0 + r);
    return (float)sum;
}

static anykv_calibration *calibrate(anykv_context *context, bool bases)
{
    enum { MANY = 320 };
    uint64_t turns[DIM / 2];
    anykv_layer layers[LAYER + 1];
    anykv_moments *moments;
    anykv_calibration *calibration;
    float *rows = calloc((size_t)MANY * HEADS * DIM, sizeof *rows);
    const anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
    cr_assert(rows);
    for (uint32_t i = 0; i < DIM / 2; i++)
        turns[i] = (uint64_t)(ldexp(pow(10000.0, -2.0 * i / DIM) / 6.283185307179586, 64));
    for (uint32_t l = 0; l <= LAYER; l++) {
        const anykv_layer blank = ANYKV_LAYER_INIT;
        layers[l] = blank;
        layers[l].kv_heads = layers[l].q_heads = HEADS;
        layers[l].k_dim = layers[l].v_dim = DIM;
        layers[l].rope_pairs = DIM / 2;
        layers[l].rope_turns = turns;
        layers[l].rope = ANYKV_ROPE_HALF;
    }
    OK(anykv_moments_create(context, layers, LAYER + 1, &moments));
    for (uint32_t side = 0; side < 2; side++) {
        for (uint32_t n = 0; n < MANY * HEADS * DIM; n++)
            rows[n] = element(side, n / (HEADS * DIM), n / DIM % HEADS, n % DIM);
        OK(anykv_moments_add(moments, LAYER, 0, MANY, side ? NULL : &view, side ? &view : NULL, side ? NULL : &view));
    }
    anykv_calibrate_options options = ANYKV_CALIBRATE_OPTIONS_INIT;
    options.bases = bases;
    OK(anykv_moments_solve(moments, &options, &calibration));
    anykv_moments_destroy(moments);
    free(rows);
    return calibration;
}

static anykv_lowrank_options options_of(const anykv_calibration *calibration, uint32_t side, float step)
{
    anykv_lowrank_options options = ANYKV_LOWRANK_OPTIONS_INIT;
    options.calibration = calibration;
    options.layer = LAYER;
    options.side = side;
    options.step = step;
    options.position = 5;
    return options;
}

enum kind { REAL, ZERO, CONSTANT, OUTLIER, NANS, CHANNEL, HUGE_ROWS, RANDOM, KINDS };

static void fill(float *x, uint32_t side, uint32_t n, enum kind kind)
{
    uint64_t seed = kind + 1;
    for (uint32_t i = 0; i < n; i++) {
        const float real = element(side, i / (HEADS * DIM) + 5, i / DIM % HEADS, i % DIM);
        const float noise = (float)(int32_t)(house_random(&seed) << 1) * 0x1p-30f;
        const float value[KINDS] = {real,  0.0f, 1.25f, i == n / 2 ? 1e20f : real, i % 5 == 0 ? NAN : real,
                                    i % DIM == 7 ? real : 0.0f, i % 3 ? INFINITY : -3e38f, noise};
        x[i] = value[kind];
    }
}

/* Coefficients in double precision, as the contract says; rows that came back may be beyond 2^100. */
static void naive(const anykv_calibration *calibration, uint32_t side, uint32_t position, uint32_t h, const float *row,
                  double most, double *y)
{
    const struct akv_calibration_layer *layer = akv_calibration_find(calibration, LAYER);
    const struct akv_calibration_side *has = &layer->side[side];
    double x[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        x[i] = isnan(row[i]) ? 0.0 : fmin(fmax((double)row[i], -most), most);
    for (uint32_t i = 0; i < DIM / 2 && side == 0; i++) {
        const double a = (double)(int64_t)(layer->turns[i] * position) * 0x1p-64 * 6.283185307179586;
        const double c = cos(a), s = sin(a), first = x[i], second = x[i + DIM / 2];
        x[i] = c * first + s * second - akv_half_value(has->centre[h * DIM + i]);
        x[i + DIM / 2] = c * second - s * first - akv_half_value(has->centre[h * DIM + i + DIM / 2]);
    }
    for (uint32_t i = 0; i < DIM; i++)
        x[i] = fmin(fmax(x[i], -most), most);
    for (uint32_t j = 0; j < DIM; j++) {
        y[j] = 0.0;
        for (uint32_t i = 0; i < DIM; i++)
            y[j] += akv_half_value(has->basis[(h * DIM + j) * DIM + i]) * x[i];
    }
}

static void there_and_back(anykv_device *device, const anykv_calibration *calibration, uint32_t side, uint32_t tokens,
                           enum kind kind)
{
    static float x[N], back[N + 4];
    static uint8_t packed[ROOM];
    const float step = 0.05f;
    const uint32_t n = tokens * HEADS * DIM;
    const anykv_lowrank_options options = options_of(calibration, side, step);
    const anykv_view from = anykv_view_host(x, ANYKV_F32, HEADS, DIM), to = anykv_view_host(back, ANYKV_F32, HEADS, DIM);
    uint64_t bytes = 0;
    fill(x, side, n, kind);
    anykv_status status = anykv_lowrank_compress(device, &options, &from, tokens, HEADS, DIM, packed, sizeof packed,
                                                 &bytes);
    if (status == ANYKV_E_UNSUPPORTED && tokens == 1) { /* a header is more than a token */
        cr_expect(bytes == 0);
        return;
    }
    OK(status);
    cr_expect(bytes <= 4ull * n, "kind %d", (int)kind);
    anykv_compression method;
    anykv_dtype dtype;
    uint32_t shape[3];
    OK(anykv_compressed_shape(packed, bytes, &method, &dtype, &shape[0], &shape[1], &shape[2]));
    cr_expect(method == ANYKV_COMPRESS_LOWRANK && dtype == ANYKV_F32 && shape[0] == tokens && shape[1] == HEADS &&
              shape[2] == DIM);
    memset(back, 0xA5, sizeof back);
    OK(anykv_lowrank_decompress(device, calibration, packed, bytes, &to, tokens, HEADS, DIM));
    cr_expect(akv_as_u32(back[n]) == 0xA5A5A5A5u);
    for (uint32_t h = 0; h < HEADS; h++) {
        double error[DIM] = {0}, largest[DIM] = {0};
        for (uint32_t t = 0; t < tokens; t++) {
            double want[DIM], have[DIM];
            naive(calibration, side, options.position + t, h, x + (t * HEADS + h) * DIM, 0x1p100, want);
            naive(calibration, side, options.position + t, h, back + (t * HEADS + h) * DIM, 0x1p120, have);
            for (uint32_t j = 0; j < DIM; j++) {
                error[j] = fmax(error[j], fabs(want[j] - have[j]));
                largest[j] = fmax(largest[j], fabs(want[j]));
            }
        }
        double all = 0.0;
        for (uint32_t j = 0; j < DIM; j++)
            all = fmax(all, largest[j]);
        for (uint32_t j = 0; j < DIM; j++) /* half a step, or of one that is wide enough; and f32 through a basis of condition 1e3 */
            cr_expect(error[j] <= fmax(0.5 * (double)step, largest[j] / 127.0) * 1.001 + 1e-3 * (double)step + 5e-4 * all,
                      "side %u kind %d tokens %u head %u component %u: %g, largest %g", side, (int)kind, tokens, h, j,
                      error[j], largest[j]);
    }
    if (kind == REAL && tokens == TOKENS)
        cr_expect(bytes * 5 < 4ull * n, "rank 12 of 64 takes %llu bytes", (unsigned long long)bytes);
}

Test(lowrank, coefficients_come_back_within_the_step)
{
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_calibration *calibration = calibrate(context, true);
    for (uint32_t side = 0; side < 2; side++)
        for (int kind = 0; kind < KINDS; kind++) {
            there_and_back(device, calibration, side, TOKENS, (enum kind)kind);
            there_and_back(device, calibration, side, 1, (enum kind)kind);
        }
    anykv_calibration_destroy(calibration);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(lowrank, bases_survive_their_file)
{
    anykv_context *context = house_context();
    anykv_calibration *calibration = calibrate(context, true), *read;
    size_t bytes = 0;
    uint8_t digest[2][32];
    OK(anykv_calibration_write(calibration, NULL, &bytes));
    uint8_t *memory = malloc(bytes);
    cr_assert(memory);
    OK(anykv_calibration_write(calibration, memory, &bytes));
    OK(anykv_calibration_read(context, memory, bytes, &read));
    OK(anykv_calibration_digest(calibration, digest[0]));
    OK(anykv_calibration_digest(read, digest[1]));
    cr_expect(memcmp(digest[0], digest[1], 32) == 0);
    const size_t square = (size_t)HEADS * DIM * DIM * 2;
    for (int s = 0; s < 2; s++) {
        cr_expect(memcmp(calibration->layers[0].side[s].basis, read->layers[0].side[s].basis, square) == 0);
        cr_expect(memcmp(calibration->layers[0].side[s].expand, read->layers[0].side[s].expand, 2 * square) == 0);
    }
    for (size_t cut = bytes - 2 * square; cut < bytes; cut += 997)
        cr_expect(anykv_calibration_read(context, memory, cut, &read) == ANYKV_E_DATA);
    free(memory);
    anykv_calibration_destroy(calibration);
    anykv_calibration_destroy(read);
    anykv_context_destroy(context);
}

Test(lowrank, damage_is_found)
{
    static float x[N], back[N];
    static uint8_t packed[ROOM];
    uint64_t bytes, same = 0;
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_calibration *calibration = calibrate(context, true);
    const anykv_lowrank_options options = options_of(calibration, 0, 0.1f);
    const anykv_view from = anykv_view_host(x, ANYKV_F32, HEADS, DIM), to = anykv_view_host(back, ANYKV_F32, HEADS, DIM);
    enum { FEW = 8 };
    fill(x, 0, FEW * HEADS * DIM, REAL);
    OK(anykv_lowrank_compress(device, &options, &from, FEW, HEADS, DIM, packed, sizeof packed, &bytes));
    for (uint64_t bit = 0; bit < bytes * 8; bit += 3) {
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
        const anykv_status status = anykv_lowrank_decompress(device, calibration, packed, bytes, &to, FEW, HEADS, DIM);
        cr_assert(status == ANYKV_E_DATA || (status == ANYKV_OK && bit / 8 >= bytes - 16), "bit %llu of %llu: %s",
                  (unsigned long long)bit, (unsigned long long)bytes * 8, anykv_status_name(status));
        same += status == ANYKV_OK; /* padding at the end */
        packed[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_expect(same <= 43);
    for (uint64_t cut = 0; cut < bytes; cut += 3)
        REFUSED(ANYKV_E_DATA, "compressed rows",
                anykv_lowrank_decompress(device, calibration, packed, cut, &to, FEW, HEADS, DIM));
    anykv_calibration_destroy(calibration);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(lowrank, refusals)
{
    static float x[N];
    static uint8_t packed[ROOM];
    uint64_t bytes = 0;
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    anykv_calibration *calibration = calibrate(context, true), *plain = calibrate(context, false);
    const anykv_view view = anykv_view_host(x, ANYKV_F32, HEADS, DIM);
    anykv_lowrank_options options = options_of(plain, 0, 0.1f);
    fill(x, 0, N, REAL);
#define TRY(tokens, heads, room) \
    anykv_lowrank_compress(device, &options, &view, tokens, heads, DIM, packed, room, &bytes)
    REFUSED(ANYKV_E_DATA, "no bases", TRY(TOKENS, HEADS, sizeof packed));
    options.calibration = calibration;
    REFUSED(ANYKV_E_SHAPE, "the calibration's layer 3", TRY(TOKENS, 1, sizeof packed));
    REFUSED(ANYKV_E_SHAPE, "0 tokens", TRY(0, HEADS, sizeof packed));
    options.layer = 1;
    REFUSED(ANYKV_E_DATA, "lacks 1", TRY(TOKENS, HEADS, sizeof packed));
    options.layer = LAYER;
    options.step = 0.0f;
    REFUSED(ANYKV_E_ARG, "step", TRY(TOKENS, HEADS, sizeof packed));
    options.step = 0.1f;
    options.side = 2;
    REFUSED(ANYKV_E_ARG, "side", TRY(TOKENS, HEADS, sizeof packed));
    options.side = 0;
    cr_expect(TRY(TOKENS, HEADS, 1000) == ANYKV_E_SHAPE);
    REFUSED(ANYKV_E_ARG, "anykv_lowrank_compress",
            anykv_compress(device, ANYKV_COMPRESS_LOWRANK, &view, TOKENS, HEADS, DIM, packed, sizeof packed, &bytes));
    cr_expect(bytes == 0);
    OK(TRY(TOKENS, HEADS, sizeof packed));
    REFUSED(ANYKV_E_DATA, "made with another",
            anykv_lowrank_decompress(device, plain, packed, bytes, &view, TOKENS, HEADS, DIM));
    REFUSED(ANYKV_E_ARG, "anykv_lowrank_decompress", anykv_decompress(device, packed, bytes, &view, TOKENS, HEADS, DIM));
    REFUSED(ANYKV_E_SHAPE, "the data has",
            anykv_lowrank_decompress(device, calibration, packed, bytes, &view, TOKENS - 1, HEADS, DIM));
    anykv_calibration_destroy(calibration);
    anykv_calibration_destroy(plain);
    anykv_device_close(device);
    anykv_context_destroy(context);
}

Test(lowrank, product_against_double)
{
    enum { M = 37, K = 80, WIDE = 64 };
    static float a[M * K], b[K * WIDE], c[M * WIDE], first[M * WIDE];
    uint64_t seed = 4;
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 1);
    cr_log_info("dense products: %s", anykv_dense_library("cpu"));
    cr_expect(anykv_dense_library("") == NULL && anykv_dense_library(NULL) == NULL);
    for (uint32_t i = 0; i < M * K; i++)
        a[i] = (float)(int32_t)(house_random(&seed) << 1) * 0x1p-31f;
    for (uint32_t i = 0; i < K * WIDE; i++)
        b[i] = (float)(int32_t)(house_random(&seed) << 1) * 0x1p-31f;
    const akv_multiply_params p = {.m = M, .n = WIDE, .k = K, .batch = 1, .lda = K, .ldb = WIDE, .ldc = WIDE};
    struct akv_launch launch = {.kernel = AKV_K_MULTIPLY, .params = &p};
    launch.arg[0] = akv_host_span(device->device, a, sizeof a);
    launch.arg[1] = akv_host_span(device->device, b, sizeof b);
    launch.arg[2] = akv_host_span(device->device, c, sizeof c);
    for (int round = 0; round < 2; round++) { /* the same bits from run to run */
        OK(akv_kernel_launch(device->queue, &launch));
        OK(akv_queue_wait(device->queue, UINT64_MAX));
        if (round == 0)
            memcpy(first, c, sizeof c);
    }
    cr_expect(memcmp(first, c, sizeof c) == 0);
    for (uint32_t m = 0; m < M; m++)
        for (uint32_t n = 0; n < WIDE; n++) {
            double sum = 0.0, size = 0.0;
            for (uint32_t k = 0; k < K; k++) {
                sum += (double)a[m * K + k] * (double)b[k * WIDE + n];
                size += fabs((double)a[m * K + k] * (double)b[k * WIDE + n]);
            }
            cr_assert(fabs(sum - (double)c[m * WIDE + n]) <= K * 0x1p-24 * size);
        }
    anykv_device_close(device);
    anykv_context_destroy(context);
}

/* Kernels of every instruction set without a library: products between other columns, and more columns of
 * coefficients than are worked on at once. */
static const struct akv_cpu_kernel *at_level(uint32_t level, enum akv_kernel_id kernel)
{
    return akv_cpu_isa_levels(ANYKV_ISA_ALL) >> level & 1u ? akv_cpu_kernels[level][kernel] : NULL;
}
static void run(const struct akv_cpu_kernel *kernel, const struct akv_cpu_args *args)
{
    kernel->run(args, 0, 0, kernel->items(args, 0));
}

Test(lowrank, products_between_other_columns)
{
    enum { M = 71, WIDE = 43, K = 9, BATCH = 3, LDB = WIDE + 2, LDC = BATCH * WIDE + 5 };
    static float a[M * K * BATCH], b[BATCH * K * LDB], c[M * LDC];
    uint64_t seed = 6;
    setenv("ANYKV_CBLAS_LIBRARY", "none", 1);
    for (uint32_t i = 0; i < M * K * BATCH; i++)
        a[i] = (float)(int32_t)(house_random(&seed) << 1) * 0x1p-31f;
    for (uint32_t i = 0; i < BATCH * K * LDB; i++)
        b[i] = (float)(int32_t)(house_random(&seed) << 1) * 0x1p-31f;
    const akv_multiply_params p = {.m = M, .n = WIDE, .k = K, .batch = BATCH, .lda = K * BATCH, .ldb = LDB, .ldc = LDC,
                                   .a_step = K, .b_step = K * LDB, .c_step = WIDE};
    struct akv_cpu_args args = {.params = &p, .workers = 1};
    args.arg[0] = (uint8_t *)a;
    args.arg[1] = (uint8_t *)b;
    args.arg[2] = (uint8_t *)c;
    for (uint32_t level = 0; level < AKV_ISA_COUNT; level++) {
        if (!at_level(level, AKV_K_MULTIPLY))
            continue;
        for (uint32_t i = 0; i < M * LDC; i++)
            c[i] = 77.0f;
        run(at_level(level, AKV_K_MULTIPLY), &args);
        for (uint32_t i = 0; i < M; i++)
            for (uint32_t j = 0; j < LDC; j++) {
                const uint32_t q = j / WIDE;
                double sum = q < BATCH ? 0.0 : 77.0, size = 0.0;
                for (uint32_t l = 0; l < K && q < BATCH; l++) {
                    const double one = (double)a[(i * BATCH + q) * K + l] * (double)b[(q * K + l) * LDB + j % WIDE];
                    sum += one;
                    size += fabs(one);
                }
                cr_assert(fabs(sum - (double)c[i * LDC + j]) <= K * 0x1p-24 * size, "level %u, row %u, column %u: %g, not %g",
                          level, i, j, (double)c[i * LDC + j], sum);
            }
    }
}

Test(lowrank, coefficients_of_many_columns)
{
    enum { MANY = 9, WIDTH = 128, ALL = MANY * WIDTH, COUNT = 70, COLUMNS = ALL + 3 };
    static int8_t codes[COUNT * COLUMNS];
    static uint8_t shifts[ALL];
    static float y[COUNT * ALL];
    uint64_t seed = 8;
    for (uint32_t i = 0; i < COUNT * COLUMNS; i++)
        codes[i] = (int8_t)house_random(&seed);
    for (uint32_t i = 0; i < ALL; i++)
        shifts[i] = (uint8_t)(house_random(&seed) % 7u);
    const akv_lowrank_params p = {.tokens = COUNT, .heads = MANY, .dim = WIDTH, .columns = COLUMNS,
                                  .step = akv_as_u32(0.05f)};
    struct akv_cpu_args args = {.params = &p, .workers = 1};
    args.arg[0] = (uint8_t *)codes;
    args.arg[1] = shifts;
    args.arg[2] = (uint8_t *)y;
    for (uint32_t level = 0; level < AKV_ISA_COUNT; level++) {
        if (!at_level(level, AKV_K_LOWRANK_READ))
            continue;
        memset(y, 0, sizeof y);
        run(at_level(level, AKV_K_LOWRANK_READ), &args);
        for (uint32_t t = 0; t < COUNT; t++)
            for (uint32_t c = 0; c < ALL; c++)
                cr_assert(y[t * ALL + c] == (float)codes[t * COLUMNS + c] * ldexpf(0.05f, shifts[c]),
                          "level %u, token %u, column %u", level, t, c);
    }
}

/* Rows in device memory, so that everything is allocated and moved. */
static anykv_calibration *made;
static anykv_status scenario(void)
{
    static float x[N];
    static uint8_t packed[ROOM];
    anykv_context *context = NULL;
    anykv_device *device = NULL;
    anykv_mem *mem = NULL;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    const anykv_lowrank_options how = options_of(made, 0, 0.1f);
    options.threads = 0;
    uint64_t bytes;
    anykv_view view = anykv_view_host(NULL, ANYKV_F32, HEADS, DIM);
    fill(x, 0, N, REAL);
    anykv_status status = anykv_context_create(NULL, &context);
    if (!status)
        status = anykv_device_open(context, "cpu", &options, &device);
    if (!status)
        status = anykv_mem_create(device, sizeof x, &mem);
    if (!status)
        status = anykv_mem_put(mem, 0, x, sizeof x);
    view.mem = mem;
    if (!status)
        status = anykv_lowrank_compress(device, &how, &view, TOKENS, HEADS, DIM, packed, sizeof packed, &bytes);
    if (!status)
        status = anykv_lowrank_decompress(device, made, packed, bytes, &view, TOKENS, HEADS, DIM);
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return status;
}

Test(lowrank, survives_every_failure)
{
    anykv_context *context = house_context();
    made = calibrate(context, true);
    house_fail_allocations("lowrank", scenario);
    house_fail_backend("lowrank", scenario);
    anykv_calibration_destroy(made);
    anykv_context_destroy(context);
}
