/* SPDX-License-Identifier: Apache-2.0 */
/* A side's way through a format: the library's codec there and back, or KIVI. */
#include "eval_variant.h"
#include "dump.h"
#include "eval_compress.h"
#include "eval_kivi.h"
#include <inttypes.h>
#include <math.h>

/* ---- names ---- */

const char *akv_eval_format_name(const struct akv_eval_variant *variant)
{
    return variant->method != NULL ? variant->method->name
           : variant->kivi == 0    ? anykv_format_name(variant->format)
           : variant->kivi == 4    ? "KIVI4"
                                   : "KIVI2";
}

/* ---- the codec ---- */

/* A variant as the codec takes it; the codec does no more than the calibration has. */
static anykv_status codec_options(const struct akv_eval_rows *rows,
                                  const struct akv_eval_variant *variant,
                                  anykv_codec_options *options)
{
    const anykv_codec_options defaults = ANYKV_CODEC_OPTIONS_INIT;
    anykv_transform transform = variant->transform;
    const bool found = rows->calibration != NULL &&
                       akv_calibration_find(rows->calibration, rows->layer) != NULL;
    if (transform == AKV_EVAL_AUTO)
        transform = found ? ANYKV_TRANSFORM_MATRIX : ANYKV_TRANSFORM_ROTATE;
    if (transform >= ANYKV_TRANSFORM_CENTRE && !found)
        return akv_fail(NULL, ANYKV_E_DATA, "the calibration lacks layer %" PRIu32, rows->layer);
    if (transform == ANYKV_TRANSFORM_CENTRE && rows->side == 1)
        transform = ANYKV_TRANSFORM_ROTATE;
    *options = defaults;
    options->format = variant->format;
    options->transform = transform;
    options->head_dim = rows->dim;
    options->search = rows->search;
    options->calibration = rows->calibration;
    options->layer = rows->layer;
    options->side = rows->side;
    options->position = 0; /* a file's rows begin with the text */
    return ANYKV_OK;
}

/* Scales of E4M3G under which no row of the first tokens reaches beyond 448, whatever turns it: a share of
 * the longest row of each head, or of all of them. */
static anykv_status make_scales(const struct akv_eval_rows *rows, float **scales_out)
{
    float all = 0.0f, *scales = akv_alloc(NULL, rows->heads, sizeof *scales);
    if (scales == NULL)
        return ANYKV_E_MEMORY;
    const uint32_t tokens = rows->tokens < AKV_EVAL_OWN_TOKENS ? rows->tokens : AKV_EVAL_OWN_TOKENS;
    const size_t count = (size_t)tokens * rows->heads;
    for (size_t r = 0; r < count; r++) {
        double length = 0.0;
        for (uint32_t i = 0; i < rows->dim; i++)
            length += rows->exact[r * rows->dim + i] * rows->exact[r * rows->dim + i];
        const float scale = (float)(sqrt(length) / 448.0);
        scales[r % rows->heads] = fmaxf(scales[r % rows->heads], scale);
        all = fmaxf(all, scale);
    }
    for (uint32_t h = 0; h < rows->heads; h++) {
        const float scale = rows->scales == AKV_SCALES_HEAD ? scales[h] : all;
        scales[h] = fminf(fmaxf(scale, 0x1p-40f), 0x1p40f);
    }
    *scales_out = scales;
    return ANYKV_OK;
}

static anykv_status through_codec(const struct akv_eval_rows *rows,
                                  const anykv_codec_options *options, float *out)
{
    anykv_codec *codec = NULL;
    uint64_t bytes = 0;
    anykv_status status = anykv_codec_create(rows->device, options, &codec);
    if (status == ANYKV_OK)
        status = anykv_codec_bytes(codec, (uint64_t)rows->tokens * rows->heads, &bytes);
    void *packed = status == ANYKV_OK ? akv_alloc(NULL, (size_t)bytes, 1) : NULL;
    if (status == ANYKV_OK && packed == NULL)
        status = ANYKV_E_MEMORY;
    const anykv_view from = anykv_view_host(rows->data, rows->dtype, rows->heads, rows->dim);
    const anykv_view to = anykv_view_host(out, ANYKV_F32, rows->heads, rows->dim);
    if (status == ANYKV_OK)
        status = anykv_codec_encode(codec, &from, rows->tokens, rows->heads, packed, bytes, NULL);
    if (status == ANYKV_OK)
        status = anykv_codec_decode(codec, packed, bytes, rows->tokens, rows->heads, &to);
    akv_free(NULL, packed);
    anykv_codec_destroy(codec);
    return status;
}

/* ---- a variant ---- */

anykv_status akv_eval_pass(const struct akv_eval_rows *rows, const struct akv_eval_variant *variant,
                           double **stored_out, double *bits_out, uint8_t **kept_out)
{
    const size_t count = (size_t)rows->tokens * rows->heads * rows->dim;
    anykv_codec_options options;
    *stored_out = akv_alloc(NULL, count, sizeof **stored_out);
    if (*stored_out == NULL)
        return ANYKV_E_MEMORY;
    if (variant->method != NULL) {
        uint64_t bytes = 0;
        const anykv_status status = akv_eval_compress(rows, variant->method, *stored_out, &bytes, kept_out);
        *bits_out = 8.0 * (double)bytes / (double)count;
        return status;
    }
    *bits_out = variant->kivi != 0 ? akv_kivi_bits(variant->kivi)
                                   : anykv_format_bits(variant->format, rows->dim);
    if (variant->kivi != 0) {
        akv_kivi_pass(rows->exact, rows->tokens, rows->heads, rows->dim, variant->kivi,
                      rows->side == 0, *stored_out);
        return ANYKV_OK;
    }
    anykv_status status = codec_options(rows, variant, &options);
    if (status != ANYKV_OK)
        return status;
    float *scales = NULL, *floats = akv_alloc(NULL, count, sizeof *floats);
    if (floats == NULL)
        return ANYKV_E_MEMORY;
    if (variant->format == ANYKV_E4M3G && rows->scales != AKV_SCALES_ONE) {
        status = make_scales(rows, &scales);
        options.scales = scales;
        options.scale_count = rows->heads;
    }
    if (status == ANYKV_OK)
        status = through_codec(rows, &options, floats);
    akv_rows_to_double(floats, ANYKV_F32, count, *stored_out);
    akv_free(NULL, scales);
    akv_free(NULL, floats);
    return status;
}
