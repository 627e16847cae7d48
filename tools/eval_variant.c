/* SPDX-License-Identifier: Apache-2.0 */
/* A side's way through a format: transform, codec and back.
 *
 * Rotation is the codec's own.  Mean and matrix are applied here to f32 rows, in the arithmetic of
 * docs/format.md: one fused multiply-add an element, ascending. */
#include "eval_variant.h"
#include "dump.h"
#include "eval_kivi.h"
#include "half.h"
#include "kernel/format.h"

/* ---- names ---- */

const char *akv_eval_format_name(const struct akv_eval_variant *variant)
{
    return variant->kivi == 0   ? anykv_format_name(variant->format)
           : variant->kivi == 4 ? "KIVI4"
                                : "KIVI2";
}

double akv_eval_format_bits(const struct akv_eval_variant *variant, uint32_t dim)
{
    return variant->kivi != 0 ? akv_kivi_bits(variant->kivi)
                              : anykv_format_bits(variant->format, dim);
}

/* ---- the codec ---- */

static anykv_status through_codec(const struct akv_eval_rows *rows, anykv_format format,
                                  anykv_transform transform, const void *data, anykv_dtype dtype,
                                  float *out)
{
    anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
    anykv_codec *codec = NULL;
    uint64_t bytes = 0;
    options.format = format;
    options.transform = transform;
    options.head_dim = rows->dim;
    anykv_status status = anykv_codec_create(rows->device, &options, &codec);
    if (status == ANYKV_OK)
        status = anykv_codec_bytes(codec, (uint64_t)rows->tokens * rows->heads, &bytes);
    void *packed = status == ANYKV_OK ? akv_alloc(NULL, (size_t)bytes, 1) : NULL;
    if (status == ANYKV_OK && packed == NULL)
        status = ANYKV_E_MEMORY;
    const anykv_view from = anykv_view_host(data, dtype, rows->heads, rows->dim);
    const anykv_view to = anykv_view_host(out, ANYKV_F32, rows->heads, rows->dim);
    if (status == ANYKV_OK)
        status = anykv_codec_encode(codec, &from, rows->tokens, rows->heads, packed, bytes, NULL);
    if (status == ANYKV_OK)
        status = anykv_codec_decode(codec, packed, bytes, rows->tokens, rows->heads, &to);
    akv_free(NULL, packed);
    anykv_codec_destroy(codec);
    return status;
}

/* ---- mean and matrix ---- */

/* The mean of a head turned to a position. */
static void turned_mean(const struct akv_eval_rows *rows, uint32_t head, uint64_t position,
                        double *mean)
{
    const struct akv_calibration_layer *calibration = rows->calibration;
    const uint16_t *mu = calibration->side[0].mu + (size_t)head * rows->dim;
    const uint32_t pairs = calibration->rope_pairs;
    for (uint32_t i = 0; i < rows->dim; i++)
        mean[i] = akv_half_value(mu[i]);
    for (uint32_t i = 0; i < pairs; i++) {
        const bool half = calibration->rope == ANYKV_ROPE_HALF;
        const uint32_t a = half ? i : 2 * i, b = half ? i + pairs : 2 * i + 1;
        const uint64_t turns = position * calibration->turns[i];
        const double angle = (double)(int64_t)turns * (6.283185307179586476925 * 0x1p-64);
        const double x = mean[a], y = mean[b];
        mean[a] = x * cos(angle) - y * sin(angle);
        mean[b] = x * sin(angle) + y * cos(angle);
    }
}

/* Adds the mean of every row, or with sign -1 takes it off. */
static void add_mean(const struct akv_eval_rows *rows, double sign, double *values)
{
    double mean[AKV_MAX_HEAD_DIM];
    for (uint32_t t = 0; t < rows->tokens; t++)
        for (uint32_t h = 0; h < rows->heads; h++, values += rows->dim) {
            turned_mean(rows, h, t, mean);
            for (uint32_t i = 0; i < rows->dim; i++)
                values[i] += sign * mean[i];
        }
}

static void multiply(const struct akv_eval_rows *rows, const float *matrices, float *values)
{
    const size_t dim = rows->dim;
    for (uint32_t t = 0; t < rows->tokens; t++)
        for (uint32_t h = 0; h < rows->heads; h++, values += dim) {
            const float *matrix = matrices + h * dim * dim; /* of columns */
            float row[AKV_MAX_HEAD_DIM];
            memcpy(row, values, dim * sizeof *row);
            memset(values, 0, dim * sizeof *values);
            for (size_t i = 0; i < dim; i++)
                for (size_t j = 0; j < dim; j++)
                    values[j] = fmaf(matrix[i * dim + j], row[i], values[j]);
        }
}

/* Back from the stored domain, in double. */
static void multiply_back(const struct akv_eval_rows *rows, const float *inverses,
                          const float *stored, double *values)
{
    const size_t dim = rows->dim;
    for (uint32_t t = 0; t < rows->tokens; t++)
        for (uint32_t h = 0; h < rows->heads; h++, values += dim, stored += dim) {
            const float *inverse = inverses + h * dim * dim;
            memset(values, 0, dim * sizeof *values);
            for (size_t j = 0; j < dim; j++)
                for (size_t i = 0; i < dim; i++)
                    values[i] += (double)inverse[j * dim + i] * (double)stored[j];
        }
}

/* f16 matrices as f32 and transposed, so that a row is summed along columns. */
static float *matrix_columns(const struct akv_eval_rows *rows, const uint16_t *matrix)
{
    const size_t dim = rows->dim;
    float *columns = akv_alloc(NULL, rows->heads * dim * dim, sizeof *columns);
    for (size_t h = 0; columns != NULL && h < rows->heads; h++)
        for (size_t j = 0; j < dim; j++)
            for (size_t i = 0; i < dim; i++)
                columns[(h * dim + i) * dim + j] =
                    (float)akv_half_value(matrix[(h * dim + j) * dim + i]);
    return columns;
}

static anykv_status through_matrix(const struct akv_eval_rows *rows, anykv_format format,
                                   const struct akv_calibration_side *side, float *floats,
                                   double *stored)
{
    float *columns = matrix_columns(rows, side->matrix);
    if (columns == NULL)
        return ANYKV_E_MEMORY;
    multiply(rows, columns, floats);
    akv_free(NULL, columns);
    anykv_status status =
        through_codec(rows, format, ANYKV_TRANSFORM_NONE, floats, ANYKV_F32, floats);
    if (status == ANYKV_OK)
        multiply_back(rows, side->inverse, floats, stored);
    return status;
}

/* Mean and matrix as far as the transform goes; exact rows in, stored rows out. */
static anykv_status through_calibration(const struct akv_eval_rows *rows, anykv_format format,
                                        anykv_transform transform, float *floats, double *stored)
{
    const size_t count = (size_t)rows->tokens * rows->heads * rows->dim;
    const struct akv_calibration_side *side = &rows->calibration->side[rows->side];
    anykv_status status;
    memcpy(stored, rows->exact, count * sizeof *stored);
    if (side->mu != NULL)
        add_mean(rows, -1.0, stored);
    for (size_t i = 0; i < count; i++)
        floats[i] = (float)stored[i];
    if (transform == ANYKV_TRANSFORM_MATRIX) {
        status = through_matrix(rows, format, side, floats, stored);
    } else {
        status = through_codec(rows, format, ANYKV_TRANSFORM_ROTATE, floats, ANYKV_F32, floats);
        akv_rows_to_double(floats, ANYKV_F32, count, stored);
    }
    if (status == ANYKV_OK && side->mu != NULL)
        add_mean(rows, 1.0, stored);
    return status;
}

/* ---- a variant ---- */

/* What a transform by name comes to in this layer and side. */
static anykv_status settle(const struct akv_eval_rows *rows, anykv_transform wanted,
                           anykv_transform *transform_out)
{
    const struct akv_calibration_layer *calibration = rows->calibration;
    const anykv_transform chosen =
        calibration == NULL ? ANYKV_TRANSFORM_ROTATE
                            : (anykv_transform)calibration->side[rows->side].transform;
    *transform_out = wanted;
    if (wanted <= ANYKV_TRANSFORM_ROTATE)
        return ANYKV_OK;
    if (wanted != AKV_EVAL_AUTO && calibration == NULL)
        return akv_fail(NULL, ANYKV_E_DATA, "the calibration lacks this layer");
    *transform_out = wanted < chosen ? wanted : chosen;
    if (rows->side == 1 && *transform_out == ANYKV_TRANSFORM_CENTRE)
        *transform_out = ANYKV_TRANSFORM_ROTATE;
    return ANYKV_OK;
}

anykv_status akv_eval_pass(const struct akv_eval_rows *rows, const struct akv_eval_variant *variant,
                           double **stored_out)
{
    const size_t count = (size_t)rows->tokens * rows->heads * rows->dim;
    anykv_transform transform;
    *stored_out = akv_alloc(NULL, count, sizeof **stored_out);
    if (*stored_out == NULL)
        return ANYKV_E_MEMORY;
    if (variant->kivi != 0) {
        akv_kivi_pass(rows->exact, rows->tokens, rows->heads, rows->dim, variant->kivi,
                      rows->side == 0, *stored_out);
        return ANYKV_OK;
    }
    anykv_status status = settle(rows, variant->transform, &transform);
    if (status != ANYKV_OK)
        return status;
    float *floats = akv_alloc(NULL, count, sizeof *floats);
    if (floats == NULL)
        return ANYKV_E_MEMORY;
    if (transform >= ANYKV_TRANSFORM_CENTRE) {
        status = through_calibration(rows, variant->format, transform, floats, *stored_out);
    } else {
        status = through_codec(rows, variant->format, transform, rows->data, rows->dtype, floats);
        akv_rows_to_double(floats, ANYKV_F32, count, *stored_out);
    }
    akv_free(NULL, floats);
    return status;
}
