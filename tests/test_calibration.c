/* SPDX-License-Identifier: Apache-2.0 */
/* Calibrations: linear algebra, moments, what is solved, the file and its refusals. */
#include "house.h"
#include "lib/calibration.h"
#include "lib/half.h"
#include "lib/linalg.h"
#include <math.h>
#include <unistd.h>

#define DIM     64u
#define HEADS   2u
#define QHEADS  4u
#define TOKENS  600u
#define PAIRS   32u

static void must(anykv_status status, const char *what)
{
    cr_assert(status == ANYKV_OK, "%s: %s", what, anykv_error_detail());
}
#define MUST(call) must(call, #call)

static double normal(uint64_t *state)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++)
        sum += house_random(state) / 2147483648.0;
    return sum;
}

/* ---- linear algebra ---- */

static void random_matrix(double *a, uint32_t n, uint64_t *state)
{
    for (uint32_t i = 0; i < n * n; i++)
        a[i] = normal(state);
}

Test(linalg, invert)
{
    double a[20 * 20], copy[20 * 20], inverse[20 * 20];
    uint64_t state = 1;
    random_matrix(a, 20, &state);
    a[0] = 0.0; /* needs a pivot */
    memcpy(copy, a, sizeof a);
    cr_assert(akv_invert(a, inverse, 20));
    for (uint32_t i = 0; i < 20; i++)
        for (uint32_t j = 0; j < 20; j++) {
            double sum = 0.0;
            for (uint32_t k = 0; k < 20; k++)
                sum += copy[i * 20 + k] * inverse[k * 20 + j];
            cr_expect(fabs(sum - (i == j)) < 1e-10, "element %u, %u: %g", i, j, sum);
        }
    memcpy(copy + 20, copy, 20 * sizeof *copy);
    cr_expect(!akv_invert(copy, inverse, 20), "two equal rows have an inverse");
    copy[3] = (double)NAN;
    cr_expect(!akv_invert(copy, inverse, 20), "a NaN has an inverse");
}

Test(linalg, cholesky)
{
    double m[12 * 12], a[12 * 12], l[12 * 12];
    uint64_t state = 2;
    random_matrix(m, 12, &state);
    for (uint32_t i = 0; i < 12; i++)
        for (uint32_t j = 0; j < 12; j++) {
            a[i * 12 + j] = 0.0;
            for (uint32_t k = 0; k < 12; k++)
                a[i * 12 + j] += m[i * 12 + k] * m[j * 12 + k];
        }
    memcpy(l, a, sizeof a);
    cr_assert(akv_cholesky(l, 12));
    for (uint32_t i = 0; i < 12; i++)
        for (uint32_t j = 0; j < 12; j++) {
            double sum = 0.0;
            for (uint32_t k = 0; k < 12; k++)
                sum += l[i * 12 + k] * l[j * 12 + k];
            cr_expect(fabs(sum - a[i * 12 + j]) < 1e-10);
            cr_expect(j <= i || l[i * 12 + j] == 0.0);
        }
    a[5 * 12 + 5] = -1.0;
    cr_expect(!akv_cholesky(a, 12), "a negative diagonal is positive definite");
}

Test(linalg, orthogonalise)
{
    double m[30 * 30], with[30 * 30], s[30];
    uint64_t state = 3;
    random_matrix(m, 30, &state);
    double squares = 0.0;
    for (uint32_t i = 0; i < 900; i++)
        squares += m[i] * m[i];
    double copy[30 * 30];
    memcpy(copy, m, sizeof m);
    memset(with, 0, sizeof with);
    for (uint32_t i = 0; i < 30; i++)
        with[i * 31] = 1.0;
    cr_assert(akv_orthogonalise(m, with, s, 30));
    double sum = 0.0;
    for (uint32_t i = 0; i < 30; i++) {
        sum += s[i] * s[i];
        cr_expect(i == 0 || s[i] <= s[i - 1], "singular values are not in order");
        for (uint32_t j = 0; j < 30; j++) {
            double rows = 0.0, turned = 0.0, unit = 0.0;
            for (uint32_t k = 0; k < 30; k++) {
                rows += m[i * 30 + k] * m[j * 30 + k];
                unit += with[i * 30 + k] * with[j * 30 + k];
                turned += with[i * 30 + k] * copy[k * 30 + j];
            }
            cr_expect(fabs(rows - (i == j ? s[i] * s[i] : 0.0)) < 1e-9);
            cr_expect(fabs(unit - (i == j)) < 1e-12, "not a rotation");
            cr_expect(fabs(turned - m[i * 30 + j]) < 1e-10, "not the same rotation");
        }
    }
    cr_expect(fabs(sum - squares) < 1e-8 * squares);
}

Test(half, every_number)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        if (!akv_half_finite((uint16_t)bits))
            continue;
        const double value = akv_half_value((uint16_t)bits);
        cr_assert(akv_half_bits(value) == bits, "0x%04x is %g is 0x%04x", bits, value,
                  akv_half_bits(value));
        if ((bits & 0x7FFF) >= 0x7BFF)
            continue;
        /* Half way to the next: the even one of the two; a little further: the next. */
        const double next = akv_half_value((uint16_t)(bits + 1)), middle = (value + next) / 2;
        cr_assert(akv_half_bits(middle) == (bits % 2 ? bits + 1 : bits));
        cr_assert(akv_half_bits(middle + (next - value) * 1e-9) == bits + 1);
        cr_assert(akv_half_bits(middle - (next - value) * 1e-9) == bits);
    }
    cr_expect(akv_half_bits(65519.9) == 0x7BFF && akv_half_bits(65520.0) == 0x7C00);
}

/* ---- rows of a model that does not exist ---- */

struct model {
    anykv_layer layers[2];
    uint64_t turns[PAIRS];
    float mean[HEADS * DIM]; /* before rotary embedding */
    float *k, *v, *q;
};

/* Elements of pair i. */
static void pair_of(const anykv_layer *layer, uint32_t i, uint32_t *a, uint32_t *b)
{
    *a = layer->rope == ANYKV_ROPE_HALF ? i : 2 * i;
    *b = layer->rope == ANYKV_ROPE_HALF ? i + layer->rope_pairs : 2 * i + 1;
}

/* x turned to a position, in double. */
static void turn_row(const anykv_layer *layer, double position, const double *x, double *y)
{
    memcpy(y, x, layer->k_dim * sizeof *y);
    for (uint32_t i = 0; i < layer->rope_pairs; i++) {
        uint32_t a, b;
        pair_of(layer, i, &a, &b);
        const double angle = 6.283185307179586 * position * ((double)layer->rope_turns[i] * 0x1p-64);
        y[a] = x[a] * cos(angle) - x[b] * sin(angle);
        y[b] = x[a] * sin(angle) + x[b] * cos(angle);
    }
}

/* Keys: a mean and noise of very different size by channel, one channel constant; turned.  Values and
 * queries: noise. */
static void make_model(struct model *model, anykv_rope rope, uint32_t pairs)
{
    uint64_t state = 7;
    const anykv_layer init = ANYKV_LAYER_INIT;
    memset(model, 0, sizeof *model);
    for (uint32_t i = 0; i < PAIRS; i++)
        model->turns[i] = (uint64_t)(pow(10000.0, -2.0 * i / DIM) / 6.283185307179586 * 0x1p64);
    model->layers[0] = init;
    model->layers[0].kv_heads = HEADS;
    model->layers[0].q_heads = QHEADS;
    model->layers[0].k_dim = model->layers[0].v_dim = DIM;
    model->layers[0].rope = rope;
    model->layers[0].rope_pairs = pairs;
    model->layers[0].rope_turns = model->turns;
    model->layers[1] = model->layers[0];
    for (uint32_t i = 0; i < HEADS * DIM; i++)
        model->mean[i] = (float)(4.0 * normal(&state));
    model->k = malloc(TOKENS * HEADS * DIM * sizeof(float));
    model->v = malloc(TOKENS * HEADS * DIM * sizeof(float));
    model->q = malloc(TOKENS * QHEADS * DIM * sizeof(float));
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t h = 0; h < HEADS; h++) {
            double x[DIM], y[DIM];
            for (uint32_t i = 0; i < DIM; i++)
                x[i] = (double)model->mean[h * DIM + i] +
                       (i == DIM - 1 ? 0.0 : exp(-0.08 * i) * normal(&state));
            turn_row(&model->layers[0], t, x, y);
            for (uint32_t i = 0; i < DIM; i++) {
                model->k[(t * HEADS + h) * DIM + i] = (float)y[i];
                model->v[(t * HEADS + h) * DIM + i] = (float)normal(&state);
            }
        }
    for (uint32_t i = 0; i < TOKENS * QHEADS * DIM; i++)
        model->q[i] = (float)(exp(0.05 * (i % DIM)) * normal(&state));
}

static void free_model(struct model *model)
{
    free(model->k);
    free(model->v);
    free(model->q);
}

static anykv_moments *gather(anykv_context *context, const struct model *model, uint32_t layer,
                             uint32_t tokens)
{
    anykv_moments *moments = NULL;
    anykv_view k = anykv_view_host(model->k, ANYKV_F32, HEADS, DIM);
    anykv_view v = anykv_view_host(model->v, ANYKV_F32, HEADS, DIM);
    anykv_view q = anykv_view_host(model->q, ANYKV_F32, QHEADS, DIM);
    MUST(anykv_moments_create(context, model->layers, 2, &moments));
    MUST(anykv_moments_add(moments, layer, 0, tokens, &k, &v, &q));
    return moments;
}

static anykv_calibration *solve(anykv_context *context, const struct model *model)
{
    anykv_calibrate_options options = ANYKV_CALIBRATE_OPTIONS_INIT;
    anykv_moments *moments = gather(context, model, 1, TOKENS);
    anykv_calibration *calibration = NULL;
    options.weights = "weights";
    options.weights_bytes = 7;
    options.model = "no model";
    MUST(anykv_moments_solve(moments, &options, &calibration));
    anykv_moments_destroy(moments);
    return calibration;
}

/* Mean of the centred keys' outer product, the slow way. */
static void centred_square(const struct model *model, const struct akv_calibration_side *side,
                           uint32_t head, double *sum)
{
    double mean[DIM], turned[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        mean[i] = akv_half_value(side->mu[head * DIM + i]);
    memset(sum, 0, DIM * DIM * sizeof *sum);
    for (uint32_t t = 4; t < TOKENS; t++) {
        const float *k = model->k + (t * HEADS + head) * DIM;
        turn_row(&model->layers[0], t, mean, turned);
        for (uint32_t i = 0; i < DIM; i++)
            for (uint32_t j = 0; j < DIM; j++)
                sum[i * DIM + j] += ((double)k[i] - turned[i]) * ((double)k[j] - turned[j]) / (TOKENS - 4);
    }
}

static void query_square(const struct model *model, uint32_t head, double *sum)
{
    memset(sum, 0, DIM * DIM * sizeof *sum);
    for (uint32_t n = 0; n < TOKENS * 2; n++) {
        const float *q = model->q + (n / 2 * QHEADS + head * 2 + n % 2) * DIM;
        for (uint32_t i = 0; i < DIM; i++)
            for (uint32_t j = 0; j < DIM; j++)
                sum[i * DIM + j] += (double)q[i] * (double)q[j] / (TOKENS * 2);
    }
}

/* a x b x a^T, element by element of the diagonal. */
static void diagonal_of(const double *t, const double *s, double *out)
{
    for (uint32_t c = 0; c < DIM; c++) {
        out[c] = 0.0;
        for (uint32_t i = 0; i < DIM; i++)
            for (uint32_t j = 0; j < DIM; j++)
                out[c] += t[c * DIM + i] * s[i * DIM + j] * t[c * DIM + j];
    }
}

static void solved(anykv_rope rope, uint32_t pairs)
{
    struct model model;
    anykv_context *context = house_context();
    make_model(&model, rope, pairs);
    anykv_calibration *calibration = solve(context, &model);
    const struct akv_calibration_layer *layer = akv_calibration_find(calibration, 1);
    cr_assert(calibration->count == 1 && layer && !akv_calibration_find(calibration, 0));
    const struct akv_calibration_side *side = &layer->side[0];
    cr_assert(side->transform == ANYKV_TRANSFORM_MATRIX && side->mu && side->matrix);
    cr_expect(layer->side[1].transform == ANYKV_TRANSFORM_ROTATE && !layer->side[1].matrix);
    for (uint32_t h = 0; h < HEADS; h++) {
        double *sk = malloc(DIM * DIM * sizeof *sk), *sq = malloc(DIM * DIM * sizeof *sq);
        double *t = malloc(DIM * DIM * sizeof *t), *w = malloc(DIM * DIM * sizeof *w);
        double dk[DIM], dq[DIM], trace_k = 0.0, trace_q = 0.0;
        for (uint32_t i = 0; i < DIM; i++)
            cr_expect(fabs(akv_half_value(side->mu[h * DIM + i]) - (double)model.mean[h * DIM + i]) < 0.25,
                      "rope %d head %u: mean of channel %u", rope, h, i);
        centred_square(&model, side, h, sk);
        query_square(&model, h, sq);
        for (uint32_t i = 0; i < DIM * DIM; i++) {
            t[i] = akv_half_value(side->matrix[h * DIM * DIM + i]);
            w[i] = (double)side->inverse[h * DIM * DIM + i];
        }
        for (uint32_t i = 0; i < DIM; i++)
            for (uint32_t j = 0; j < DIM; j++) {
                double sum = 0.0;
                for (uint32_t c = 0; c < DIM; c++)
                    sum += w[c * DIM + i] * t[c * DIM + j];
                cr_expect(fabs(sum - (i == j)) < 1e-5, "W^T T at %u, %u is %g", i, j, sum);
            }
        for (uint32_t i = 0; i < DIM; i++) {
            trace_k += sk[i * DIM + i];
            trace_q += sq[i * DIM + i];
        }
        double fitted_k = 0.0, fitted_q = 0.0;
        diagonal_of(t, sk, dk);
        diagonal_of(w, sq, dq);
        for (uint32_t i = 0; i < DIM; i++) {
            fitted_k += dk[i] / DIM;
            fitted_q += dq[i] / DIM;
            sk[i * DIM + i] += 0.01 * trace_k / DIM;
            sq[i * DIM + i] += 0.01 * trace_q / DIM;
        }
        /* Behind the Hadamard every component of keys has one spread, and so have the queries'. */
        diagonal_of(t, sk, dk);
        diagonal_of(w, sq, dq);
        for (uint32_t c = 1; c < DIM; c++)
            cr_expect(fabs(dk[c] / dk[0] - 1.0) < 0.01 && fabs(dq[c] / dq[0] - 1.0) < 0.01,
                      "rope %d head %u: component %u spreads %g and %g, the first %g and %g", rope, h, c,
                      dk[c], dq[c], dk[0], dq[0]);
        const struct akv_prediction *said = &side->head[h];
        cr_expect(fabs(said->centre / (trace_k * trace_q / DIM / DIM) - 1.0) < 1e-6);
        /* Of queries that a matrix was not fitted to: a little more than of those that it was. */
        const double fitted = fitted_k * fitted_q;
        cr_expect(said->matrix > fitted && said->matrix < fitted * 1.1, "predicted %g, fitted %g",
                  said->matrix, fitted);
        cr_expect(said->matrix < 0.5 * said->centre && said->centre < 0.5 * said->rotate);
        free(sk);
        free(sq);
        free(t);
        free(w);
    }
    anykv_calibration_destroy(calibration);
    free_model(&model);
    anykv_context_destroy(context);
}

Test(calibration, solved_interleaved)
{
    solved(ANYKV_ROPE_INTERLEAVED, PAIRS);
}
Test(calibration, solved_half)
{
    solved(ANYKV_ROPE_HALF, PAIRS);
}
Test(calibration, solved_partial)
{
    solved(ANYKV_ROPE_HALF, 12);
    solved(ANYKV_ROPE_INTERLEAVED, 0);
}

/* ---- the file ---- */

static uint8_t *bytes_of(const anykv_calibration *calibration, size_t *bytes)
{
    *bytes = 0;
    MUST(anykv_calibration_write(calibration, NULL, bytes));
    uint8_t *memory = malloc(*bytes);
    MUST(anykv_calibration_write(calibration, memory, bytes));
    return memory;
}

Test(calibration, file_and_back)
{
    struct model model;
    anykv_context *context = house_context();
    make_model(&model, ANYKV_ROPE_INTERLEAVED, PAIRS);
    anykv_calibration *first = solve(context, &model), *again = NULL, *loaded = NULL;
    size_t bytes, more;
    uint8_t *memory = bytes_of(first, &bytes);
    MUST(anykv_calibration_read(context, memory, bytes, &again));
    uint8_t *copy = bytes_of(again, &more);
    cr_expect(bytes == more && memcmp(memory, copy, bytes) == 0, "written twice, it differs");
    cr_expect(memcmp(first->layers[0].side[0].inverse, again->layers[0].side[0].inverse,
                     HEADS * DIM * DIM * sizeof(float)) == 0);
    char path[] = "test_calibration.XXXXXX";
    cr_assert(close(mkstemp(path)) == 0);
    MUST(anykv_calibration_save(first, path));
    MUST(anykv_calibration_load(context, path, &loaded));
    uint8_t a[32], b[32];
    MUST(anykv_calibration_digest(first, a));
    MUST(anykv_calibration_digest(loaded, b));
    cr_expect(memcmp(a, b, 32) == 0);
    unlink(path);
    more = bytes - 1;
    cr_expect(anykv_calibration_write(first, copy, &more) == ANYKV_E_SHAPE && more == bytes);
    anykv_calibration_info info = ANYKV_CALIBRATION_INFO_INIT;
    MUST(anykv_calibration_describe(loaded, 0, 0, 1, &info));
    cr_expect(info.number == 1 && info.layers == 1 && info.kv_heads == HEADS && info.k_dim == DIM &&
              info.rope_pairs == PAIRS && info.transform == ANYKV_TRANSFORM_MATRIX &&
              strcmp(info.model, "no model") == 0);
    cr_expect(anykv_calibration_describe(loaded, 1, 0, 0, &info) == ANYKV_E_NOT_FOUND);
    cr_expect(anykv_calibration_describe(loaded, 0, 0, HEADS, &info) == ANYKV_E_NOT_FOUND);
    cr_expect(anykv_calibration_describe(loaded, 0, 2, 0, &info) == ANYKV_E_ARG);
    free(copy);
    free(memory);
    anykv_calibration_destroy(first);
    anykv_calibration_destroy(again);
    anykv_calibration_destroy(loaded);
    free_model(&model);
    anykv_context_destroy(context);
}

static void sign(uint8_t *memory, size_t bytes)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, memory, bytes - 32);
    const akv_digest sum = akv_sha256_final(&state);
    memcpy(memory + bytes - 32, sum.byte, 32);
}

static void refused(anykv_context *context, const uint8_t *memory, size_t bytes, const char *field)
{
    anykv_calibration *calibration = NULL;
    cr_expect(anykv_calibration_read(context, memory, bytes, &calibration) == ANYKV_E_DATA && !calibration,
              "%s: accepted", field);
    cr_expect(strstr(anykv_error_detail(), field), "%s: \"%s\"", field, anykv_error_detail());
}

/* `bytes` changed at `offset`, with a checksum that fits. */
static void changed(anykv_context *context, const uint8_t *memory, size_t bytes, size_t offset,
                    const void *change, size_t count, const char *field)
{
    uint8_t *copy = malloc(bytes);
    memcpy(copy, memory, bytes);
    memcpy(copy + offset, change, count);
    sign(copy, bytes);
    refused(context, copy, bytes, field);
    free(copy);
}

Test(calibration, damaged_files)
{
    struct model model;
    anykv_context *context = house_context();
    make_model(&model, ANYKV_ROPE_INTERLEAVED, PAIRS);
    anykv_calibration *calibration = solve(context, &model);
    size_t bytes;
    uint8_t *memory = bytes_of(calibration, &bytes), *copy = malloc(bytes);
    for (size_t i = 0; i < bytes; i += 97) {
        memcpy(copy, memory, bytes);
        copy[i] ^= 1u << i % 8;
        anykv_calibration *none = NULL;
        cr_expect(anykv_calibration_read(context, copy, bytes, &none) == ANYKV_E_DATA, "byte %zu", i);
    }
    for (size_t i = 0; i < bytes; i += i < 200 ? 1 : 1009) {
        anykv_calibration *none = NULL;
        cr_expect(anykv_calibration_read(context, memory, i, &none) == ANYKV_E_DATA, "%zu bytes", i);
    }
    static const uint8_t ff[8] = {255, 255, 255, 255, 255, 255, 255, 127}, zero[8], three = 3;
    const size_t record = 64 + 8 + 8, heads = record + 32 + PAIRS * 8;
    const size_t mu = heads + HEADS * 32, matrix = mu + HEADS * DIM * 2;
    changed(context, memory, bytes, 0, ff, 1, "magic");
    changed(context, memory, bytes, 8, &three, 1, "version");
    changed(context, memory, bytes, 12, zero, 4, "layers");
    changed(context, memory, bytes, 12, ff, 4, "layers");
    changed(context, memory, bytes, 12, &three, 1, "cut off");
    changed(context, memory, bytes, 16, ff, 8, "bytes");
    changed(context, memory, bytes, 24, ff, 4, "model_bytes");
    changed(context, memory, bytes, 28, ff, 4, "weights_bytes");
    changed(context, memory, bytes, 32, zero, 8, "digest");
    changed(context, memory, bytes, record, ff, 4, "number");
    changed(context, memory, bytes, record + 4, zero, 4, "kv_heads");
    changed(context, memory, bytes, record + 8, &three, 1, "k_dim");
    changed(context, memory, bytes, record + 12, &three, 1, "v_dim");
    changed(context, memory, bytes, record + 16, ff, 4, "rope_pairs");
    changed(context, memory, bytes, record + 20, &three, 1, "rope");
    changed(context, memory, bytes, record + 24, zero, 1, "k_transform");
    changed(context, memory, bytes, record + 28, zero, 1, "v_transform");
    changed(context, memory, bytes, record + 28, &(uint8_t){2}, 1, "v_transform");
    changed(context, memory, bytes, heads, ff, 8, "transform of a head");
    changed(context, memory, bytes, heads + 8, ff, 8, "predicted error");
    changed(context, memory, bytes, mu + 10, ff, 2, "mean of k, element 5");
    changed(context, memory, bytes, matrix + 2, ff, 2, "matrix of k, element 1");
    memcpy(copy, memory, bytes);
    memset(copy + matrix, 0, DIM * 2); /* a row of zeros */
    sign(copy, bytes);
    refused(context, copy, bytes, "no inverse");
    free(copy);
    free(memory);
    anykv_calibration_destroy(calibration);
    free_model(&model);
    anykv_context_destroy(context);
}

Test(calibration, files_that_are_not_there)
{
    anykv_context *context = house_context();
    anykv_calibration *calibration = NULL;
    cr_expect(anykv_calibration_load(context, "no such file", &calibration) == ANYKV_E_NOT_FOUND);
    cr_expect(anykv_calibration_load(context, ".", &calibration) != ANYKV_OK);
    cr_expect(!calibration);
    anykv_context_destroy(context);
}

/* ---- whose it is ---- */

Test(calibration, foreign_models)
{
    struct model model;
    anykv_context *context = house_context();
    make_model(&model, ANYKV_ROPE_INTERLEAVED, PAIRS);
    anykv_calibration *calibration = solve(context, &model);
    cr_expect(akv_calibration_fits(calibration, model.layers, 2, "weights", 7) == ANYKV_OK);
    cr_expect(akv_calibration_fits(calibration, model.layers, 2, NULL, 0) == ANYKV_OK);
    cr_expect(akv_calibration_fits(calibration, model.layers, 2, "others", 6) == ANYKV_E_DATA);
    cr_expect(akv_calibration_fits(calibration, model.layers, 1, NULL, 0) == ANYKV_E_DATA);
#define FOREIGN(change, field)                                                                     \
    {                                                                                              \
        anykv_layer layers[2];                                                                     \
        memcpy(layers, model.layers, sizeof layers);                                               \
        change;                                                                                    \
        cr_expect(akv_calibration_fits(calibration, layers, 2, NULL, 0) == ANYKV_E_DATA, field);   \
        cr_expect(strstr(anykv_error_detail(), field), "%s: \"%s\"", field, anykv_error_detail()); \
    }
    FOREIGN(layers[1].kv_heads = 4, "layers[1].kv_heads")
    FOREIGN(layers[1].k_dim = 128, "layers[1].k_dim")
    FOREIGN(layers[1].v_dim = 128, "layers[1].v_dim")
    FOREIGN(layers[1].rope_pairs = 16, "layers[1].rope_pairs")
    FOREIGN(layers[1].rope = ANYKV_ROPE_HALF, "layers[1].rope")
    FOREIGN(layers[1].source = 0, "reads the rows of layer 0")
    uint64_t turns[PAIRS];
    memcpy(turns, model.turns, sizeof turns);
    turns[3]++;
    model.layers[1].rope_turns = turns;
    cr_expect(akv_calibration_fits(calibration, model.layers, 2, NULL, 0) == ANYKV_OK, "a rounding error");
    turns[3] += turns[3] / 4096;
    FOREIGN(layers[1].rope_turns = turns, "layers[1].rope_turns[3]")
    FOREIGN((layers[0].kv_heads = 1, layers[1].kv_heads = 1), "layers[1].kv_heads")
    anykv_calibration_destroy(calibration);
    free_model(&model);
    anykv_context_destroy(context);
}

/* Queries whose halves, dealt in runs of 64 positions, care for other channels: a matrix of one half is
 * worse for the other than none, although one of all queries would predict less error for them. */
Test(calibration, matrix_must_help_queries_it_was_not_fitted_to)
{
    anykv_context *context = house_context();
    struct model model;
    make_model(&model, ANYKV_ROPE_HALF, PAIRS);
    anykv_calibration *calibration = solve(context, &model);
    cr_expect(akv_calibration_find(calibration, 1)->side[0].transform == ANYKV_TRANSFORM_MATRIX);
    anykv_calibration_destroy(calibration);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t i = 0; i < QHEADS * DIM; i++)
            if (i % 2 == t / 64 % 2)
                model.q[t * QHEADS * DIM + i] *= 1e-3f;
    calibration = solve(context, &model);
    const struct akv_calibration_side *side = &akv_calibration_find(calibration, 1)->side[0];
    cr_expect(side->transform == ANYKV_TRANSFORM_CENTRE && side->mu && !side->matrix);
    for (uint32_t h = 0; h < HEADS; h++)
        cr_expect(side->head[h].transform == ANYKV_TRANSFORM_CENTRE &&
                      side->head[h].matrix > side->head[h].centre,
                  "head %u: centre %g, matrix %g", h, side->head[h].centre, side->head[h].matrix);
    anykv_calibration_destroy(calibration);
    free_model(&model);
    anykv_context_destroy(context);
}

/* ---- moments that say nothing ---- */

static void unsolvable(anykv_context *context, anykv_moments *moments, anykv_status status, const char *text)
{
    anykv_calibration *calibration = NULL;
    cr_expect(anykv_moments_solve(moments, NULL, &calibration) == status && !calibration, "%s", text);
    cr_expect(strstr(anykv_error_detail(), text), "%s: \"%s\"", text, anykv_error_detail());
    (void)context;
    anykv_moments_destroy(moments);
}

Test(calibration, moments_that_are_refused)
{
    struct model model;
    anykv_context *context = house_context();
    make_model(&model, ANYKV_ROPE_INTERLEAVED, PAIRS);
    anykv_moments *moments = NULL;
    anykv_view k = anykv_view_host(model.k, ANYKV_F32, HEADS, DIM);
    anykv_view q = anykv_view_host(model.q, ANYKV_F32, QHEADS, DIM);
    MUST(anykv_moments_create(context, model.layers, 2, &moments));
    cr_expect(anykv_moments_add(moments, 2, 0, 1, &k, NULL, NULL) == ANYKV_E_ARG);
    cr_expect(anykv_moments_add(moments, 0, UINT64_MAX, 1, &k, NULL, NULL) == ANYKV_E_ARG);
    unsolvable(context, moments, ANYKV_E_STATE, "no layer has rows");
    unsolvable(context, gather(context, &model, 0, 200), ANYKV_E_STATE, "keys, 256 are needed");
    MUST(anykv_moments_create(context, model.layers, 2, &moments));
    MUST(anykv_moments_add(moments, 0, 0, TOKENS, &k, NULL, NULL));
    MUST(anykv_moments_add(moments, 0, 0, 255, NULL, NULL, &q));
    unsolvable(context, moments, ANYKV_E_STATE, "255 positions of queries");
    float *kept = model.k;
    model.k = calloc(TOKENS * HEADS * DIM, sizeof(float));
    unsolvable(context, gather(context, &model, 0, TOKENS), ANYKV_E_DATA, "layer 0, k head 0: all zero");
    free(model.k);
    model.k = kept;
    float *queries = model.q;
    model.q = calloc(TOKENS * QHEADS * DIM, sizeof(float));
    unsolvable(context, gather(context, &model, 1, TOKENS), ANYKV_E_DATA, "layer 1, q head 0: all zero");
    free(model.q);
    model.q = queries;
    model.k[4 * HEADS * DIM + 3] = (float)NAN;
    MUST(anykv_moments_create(context, model.layers, 2, &moments));
    cr_expect(anykv_moments_add(moments, 0, 0, TOKENS, &k, NULL, NULL) == ANYKV_E_DATA &&
              strstr(anykv_error_detail(), "token 4, head 0"));
    k.dtype = ANYKV_N4;
    cr_expect(anykv_moments_add(moments, 0, 0, TOKENS, &k, NULL, NULL) == ANYKV_E_ARG);
    anykv_moments_destroy(moments);
    free_model(&model);
    anykv_context_destroy(context);
}

/* Shared rows: the reader's queries count for the owner. */
Test(calibration, shared_rows)
{
    struct model model;
    anykv_context *context = house_context();
    make_model(&model, ANYKV_ROPE_INTERLEAVED, PAIRS);
    model.layers[1].source = 0;
    anykv_moments *moments = NULL;
    anykv_calibration *calibration = NULL;
    anykv_view k = anykv_view_host(model.k, ANYKV_F32, HEADS, DIM);
    anykv_view q = anykv_view_host(model.q, ANYKV_F32, QHEADS, DIM);
    MUST(anykv_moments_create(context, model.layers, 2, &moments));
    cr_expect(anykv_moments_add(moments, 1, 0, TOKENS, &k, NULL, NULL) == ANYKV_E_STATE);
    MUST(anykv_moments_add(moments, 0, 0, TOKENS, &k, NULL, NULL));
    MUST(anykv_moments_add(moments, 1, 0, TOKENS, NULL, NULL, &q));
    MUST(anykv_moments_solve(moments, NULL, &calibration));
    cr_expect(calibration->count == 1 && calibration->layers[0].number == 0);
    anykv_moments_destroy(moments);
    anykv_calibration_destroy(calibration);
    free_model(&model);
    anykv_context_destroy(context);
}

/* ---- live steps ---- */

/* Two sequences in ragged steps, host and device views: the same moments as their rows added by hand. */
Test(calibration, live_steps)
{
    struct model model;
    anykv_context *context = house_context();
    anykv_device *device = house_device(context, 0);
    make_model(&model, ANYKV_ROPE_INTERLEAVED, PAIRS);
    anykv_layout_options named = ANYKV_LAYOUT_OPTIONS_INIT;
    anykv_cache_options room = ANYKV_CACHE_OPTIONS_INIT;
    anykv_seq_options who = ANYKV_SEQ_OPTIONS_INIT;
    anykv_layout *layout = NULL;
    anykv_cache *cache = NULL;
    anykv_seq *seqs[2] = {NULL, NULL};
    anykv_moments *by_hand = NULL, *live = NULL;
    named.weights = "w";
    named.weights_bytes = 1;
    room.budget_bytes = 64u << 20;
    room.max_step_tokens = room.max_seq_tokens = TOKENS;
    who.flags = ANYKV_SEQ_PRIVATE;
    MUST(anykv_layout_create(context, model.layers, 1, &named, &layout));
    MUST(anykv_cache_create(device, layout, &room, &cache));
    for (int i = 0; i < 2; i++)
        MUST(anykv_seq_create(cache, &who, &seqs[i]));
    MUST(anykv_moments_create(context, model.layers, 1, &by_hand));
    MUST(anykv_moments_create(context, model.layers, 1, &live));
    static const uint32_t counts[2][2] = {{90, 210}, {200, 100}};
    uint32_t at = 0, length[2] = {0, 0};
    for (int n = 0; n < 2; n++) {
        anykv_step *step = NULL;
        anykv_view k = anykv_view_host(model.k + at * HEADS * DIM, ANYKV_F32, HEADS, DIM);
        anykv_view v = anykv_view_host(model.v + at * HEADS * DIM, ANYKV_F32, HEADS, DIM);
        anykv_view q = anykv_view_host(model.q + at * QHEADS * DIM, ANYKV_F32, QHEADS, DIM);
        anykv_view q_there = q;
        MUST(anykv_step_begin(cache, seqs, counts[n], 2, &step));
        MUST(anykv_step_append(step, 0, &k, &v));
        anykv_mem *mem = NULL;
        MUST(anykv_mem_create(device, 300 * QHEADS * DIM * 4, &mem));
        MUST(anykv_mem_put(mem, 0, q.data, 300 * QHEADS * DIM * 4));
        q_there.data = NULL;
        q_there.mem = mem;
        MUST(anykv_step_observe(step, 0, &k, &v, &q_there, live));
        cr_expect(anykv_step_observe(step, 1, &k, &v, NULL, live) == ANYKV_E_ARG);
        MUST(anykv_step_end(step, NULL, NULL));
        anykv_mem_destroy(mem);
        for (int i = 0; i < 2; i++) {
            MUST(anykv_moments_add(by_hand, 0, length[i], counts[n][i], &k, &v, &q));
            length[i] += counts[n][i];
            k.data = (float *)k.data + counts[n][i] * HEADS * DIM;
            v.data = (float *)v.data + counts[n][i] * HEADS * DIM;
            q.data = (float *)q.data + counts[n][i] * QHEADS * DIM;
        }
        at += 300;
    }
    anykv_calibration *a = NULL, *b = NULL;
    uint8_t first[32], second[32];
    MUST(anykv_moments_solve(by_hand, NULL, &a));
    MUST(anykv_moments_solve(live, NULL, &b));
    MUST(anykv_calibration_digest(a, first));
    MUST(anykv_calibration_digest(b, second));
    cr_expect(memcmp(first, second, 32) == 0, "live steps give another calibration");
    anykv_calibration_destroy(a);
    anykv_calibration_destroy(b);
    anykv_moments_destroy(by_hand);
    anykv_moments_destroy(live);
    for (int i = 0; i < 2; i++)
        anykv_seq_destroy(seqs[i]);
    anykv_cache_destroy(cache);
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    free_model(&model);
    anykv_context_destroy(context);
}

/* ---- memory ---- */

static struct model small;

static anykv_status everything(void)
{
    anykv_context *context = NULL;
    anykv_moments *moments = NULL;
    anykv_calibration *calibration = NULL, *again = NULL;
    anykv_calibrate_options options = ANYKV_CALIBRATE_OPTIONS_INIT;
    anykv_view k = anykv_view_host(small.k, ANYKV_F32, HEADS, DIM);
    anykv_view v = anykv_view_host(small.v, ANYKV_F32, HEADS, DIM);
    anykv_view q = anykv_view_host(small.q, ANYKV_F32, QHEADS, DIM);
    options.most_values = ANYKV_TRANSFORM_MATRIX;
    static uint8_t memory[1 << 17];
    size_t bytes = sizeof memory;
    anykv_status status = anykv_context_create(NULL, &context);
    if (!status)
        status = anykv_moments_create(context, small.layers, 1, &moments);
    if (!status)
        status = anykv_moments_add(moments, 0, 0, 300, &k, &v, &q);
    if (!status)
        status = anykv_moments_solve(moments, &options, &calibration);
    if (!status)
        status = anykv_calibration_save(calibration, "/dev/null");
    if (!status)
        status = anykv_calibration_write(calibration, memory, &bytes);
    if (!status)
        status = anykv_calibration_read(context, memory, bytes, &again);
    anykv_calibration_destroy(calibration);
    anykv_calibration_destroy(again);
    anykv_moments_destroy(moments);
    anykv_context_destroy(context);
    return status;
}

Test(calibration, every_allocation_may_fail)
{
    make_model(&small, ANYKV_ROPE_INTERLEAVED, 2);
    house_fail_allocations("a calibration", everything);
    free_model(&small);
}
