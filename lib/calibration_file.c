/* SPDX-License-Identifier: Apache-2.0 */
/* The calibration's file (docs/format.md): every size is checked before it is used. */
#include "calibration.h"
#include "layout_check.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>

#define MAGIC          "anykvcal"
#define FILE_VERSION   1u
#define BASES_VERSION  2u /* with bases */
#define HEADER_BYTES   64u
#define RECORD_BYTES   32u
#define HEAD_BYTES     32u
#define CHECKSUM_BYTES 32u
#define MOST_BYTES     ((size_t)1 << 32) /* of a file: far above what a model needs */

static size_t padded(size_t bytes)
{
    return (bytes + 7) & ~(size_t)7;
}

/* ---- writing ---- */

/* Counts only where `at` is NULL. */
struct writer {
    uint8_t *at;
    size_t used;
};

static void put_bytes(struct writer *out, const void *bytes, size_t count)
{
    if (out->at && count)
        memcpy(out->at + out->used, bytes, count);
    out->used += count;
}

static void put_integer(struct writer *out, uint64_t value, unsigned bytes)
{
    uint8_t byte[8];
    for (unsigned i = 0; i < bytes; i++)
        byte[i] = (uint8_t)(value >> (8 * i));
    put_bytes(out, byte, bytes);
}

static void put_real(struct writer *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_integer(out, bits, 8);
}

static void put_padded(struct writer *out, const void *bytes, size_t count)
{
    put_bytes(out, bytes, count);
    while (out->used % 8)
        put_integer(out, 0, 1);
}

static void put_halves(struct writer *out, const uint16_t *halves, size_t count)
{
    for (size_t i = 0; halves && i < count; i++)
        put_integer(out, halves[i], 2);
}

static void put_layer(struct writer *out, const struct akv_calibration_layer *layer)
{
    const uint32_t fields[8] = {layer->number,      layer->kv_heads,
                                layer->side[0].dim, layer->side[1].dim,
                                layer->rope_pairs,  layer->rope,
                                layer->side[0].transform, layer->side[1].transform};
    for (int i = 0; i < 8; i++)
        put_integer(out, fields[i], 4);
    for (uint32_t i = 0; i < layer->rope_pairs; i++)
        put_integer(out, layer->turns[i], 8);
    for (int s = 0; s < 2; s++) {
        const struct akv_calibration_side *side = &layer->side[s];
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            put_integer(out, side->head[h].transform, 8);
            put_real(out, side->head[h].rotate);
            put_real(out, side->head[h].centre);
            put_real(out, side->head[h].matrix);
        }
        const size_t row = (size_t)layer->kv_heads * side->dim;
        put_halves(out, side->mu, row);
        put_halves(out, side->matrix, row * side->dim);
        put_halves(out, side->centre, row);
        put_halves(out, side->basis, row * side->dim);
    }
}

static void put_all(struct writer *out, const anykv_calibration *calibration, size_t bytes)
{
    put_bytes(out, MAGIC, 8);
    put_integer(out, calibration->bases ? BASES_VERSION : FILE_VERSION, 4);
    put_integer(out, calibration->count, 4);
    put_integer(out, bytes, 8);
    put_integer(out, strlen(calibration->model), 4);
    put_integer(out, calibration->weights_bytes, 4);
    put_bytes(out, calibration->digest.byte, 32);
    put_padded(out, calibration->model, strlen(calibration->model));
    put_padded(out, calibration->weights, calibration->weights_bytes);
    for (uint32_t l = 0; l < calibration->count; l++)
        put_layer(out, &calibration->layers[l]);
}

static akv_digest checksum(const uint8_t *bytes, size_t count)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, bytes, count);
    return akv_sha256_final(&state);
}

size_t akv_calibration_bytes(const anykv_calibration *calibration)
{
    struct writer count = {NULL, 0};
    put_all(&count, calibration, 0);
    return count.used + CHECKSUM_BYTES;
}

anykv_status anykv_calibration_write(const anykv_calibration *calibration, void *memory,
                                     size_t *bytes_in_out)
{
    if (!calibration || !bytes_in_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", calibration ? "bytes_in_out" : "calibration");
    const size_t bytes = akv_calibration_bytes(calibration), capacity = *bytes_in_out;
    *bytes_in_out = bytes;
    if (!memory)
        return ANYKV_OK;
    if (capacity < bytes)
        return akv_fail(calibration->context, ANYKV_E_SHAPE,
                        "bytes_in_out: %zu bytes, the calibration takes %zu", capacity, bytes);
    struct writer out = {memory, 0};
    put_all(&out, calibration, bytes);
    const akv_digest sum = checksum(memory, out.used);
    put_bytes(&out, sum.byte, sizeof sum.byte);
    return ANYKV_OK;
}

/* ---- reading ---- */

struct reader {
    anykv_context *context;
    const uint8_t *at, *end;
};

static anykv_status need(const struct reader *in, uint64_t bytes, const char *field)
{
    if (bytes <= (uint64_t)(in->end - in->at))
        return ANYKV_OK;
    return akv_fail(in->context, ANYKV_E_DATA,
                    "calibration: %s takes %llu bytes, %llu are left: the file is cut off", field,
                    (unsigned long long)bytes, (unsigned long long)(in->end - in->at));
}

static uint64_t get_integer(struct reader *in, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)*in->at++ << (8 * i);
    return value;
}

static double get_real(struct reader *in)
{
    const uint64_t bits = get_integer(in, 8);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static anykv_status within(const struct reader *in, uint32_t record, const char *field,
                           uint64_t value, uint64_t least, uint64_t most)
{
    if (value >= least && value <= most)
        return ANYKV_OK;
    return akv_fail(in->context, ANYKV_E_DATA,
                    "calibration record %u: %s is %llu, not within %llu to %llu", record, field,
                    (unsigned long long)value, (unsigned long long)least, (unsigned long long)most);
}

static anykv_status get_text(struct reader *in, const char *field, void *into, size_t count)
{
    anykv_status status = need(in, padded(count), field);
    if (status)
        return status;
    memcpy(into, in->at, count);
    for (size_t i = count; i < padded(count); i++)
        if (in->at[i])
            return akv_fail(in->context, ANYKV_E_DATA, "calibration: padding of %s is not zero",
                            field);
    in->at += padded(count);
    return ANYKV_OK;
}

static anykv_status get_geometry(struct reader *in, uint32_t record, uint32_t after,
                                 struct akv_calibration_layer *layer)
{
    anykv_status status = need(in, RECORD_BYTES, "a layer record");
    if (status)
        return status;
    uint32_t field[8];
    for (int i = 0; i < 8; i++)
        field[i] = (uint32_t)get_integer(in, 4);
    status = within(in, record, "number", field[0], after, AKV_MAX_LAYERS - 1);
    if (!status)
        status = within(in, record, "kv_heads", field[1], 1, AKV_LAYER_HEADS);
    for (int s = 0; s < 2 && !status; s++)
        if (!akv_dim_known(field[2 + s]))
            status = akv_fail(in->context, ANYKV_E_DATA,
                              "calibration record %u: %s is %u, no head size of the library", record,
                              s ? "v_dim" : "k_dim", field[2 + s]);
    if (!status)
        status = within(in, record, "rope_pairs", field[4], 0, field[2] / 2);
    if (!status)
        status = within(in, record, "rope", field[5], 0, ANYKV_ROPE_HALF);
    if (!status)
        status = within(in, record, "k_transform", field[6], ANYKV_TRANSFORM_ROTATE,
                        ANYKV_TRANSFORM_MATRIX);
    if (!status)
        status = within(in, record, "v_transform", field[7], ANYKV_TRANSFORM_ROTATE,
                        ANYKV_TRANSFORM_MATRIX);
    if (!status && field[7] == ANYKV_TRANSFORM_CENTRE)
        status = akv_fail(in->context, ANYKV_E_DATA,
                          "calibration record %u: v_transform is centre, which values have not",
                          record);
    layer->number = field[0];
    layer->kv_heads = field[1];
    layer->rope_pairs = field[4];
    layer->rope = field[5];
    for (int s = 0; s < 2; s++) {
        layer->side[s].dim = field[2 + s];
        layer->side[s].transform = field[6 + s];
    }
    return status;
}

static anykv_status get_predictions(struct reader *in, uint32_t record, uint32_t heads,
                                    struct akv_calibration_side *side)
{
    for (uint32_t h = 0; h < heads; h++) {
        struct akv_prediction *head = &side->head[h];
        const uint64_t transform = get_integer(in, 8);
        anykv_status status = within(in, record, "transform of a head", transform,
                                     ANYKV_TRANSFORM_ROTATE, side->transform);
        if (status)
            return status;
        head->transform = (uint32_t)transform;
        head->rotate = get_real(in);
        head->centre = get_real(in);
        head->matrix = get_real(in);
        if (!isfinite(head->rotate) || !isfinite(head->centre) || !isfinite(head->matrix))
            return akv_fail(in->context, ANYKV_E_DATA,
                            "calibration record %u: a predicted error of head %u is not finite",
                            record, h);
    }
    return ANYKV_OK;
}

static void get_halves(struct reader *in, uint16_t *halves, size_t count)
{
    for (size_t i = 0; halves && i < count; i++)
        halves[i] = (uint16_t)get_integer(in, 2);
}

/* Bytes that follow a record's geometry. */
static uint64_t bytes_behind(const struct akv_calibration_layer *layer, bool bases)
{
    uint64_t bytes = (uint64_t)layer->rope_pairs * 8 + (uint64_t)layer->kv_heads * HEAD_BYTES * 2;
    for (int s = 0; s < 2; s++) {
        const uint64_t row = (uint64_t)layer->kv_heads * layer->side[s].dim * 2;
        if (s == 0 && layer->side[s].transform >= ANYKV_TRANSFORM_CENTRE)
            bytes += row;
        if (layer->side[s].transform == ANYKV_TRANSFORM_MATRIX)
            bytes += row * layer->side[s].dim;
        if (bases)
            bytes += row * layer->side[s].dim + (s == 0 ? row : 0);
    }
    return bytes;
}

static anykv_status get_layer(struct reader *in, anykv_calibration *calibration, uint32_t record)
{
    struct akv_calibration_layer *layer = &calibration->layers[record];
    const uint32_t after = record ? calibration->layers[record - 1].number + 1 : 0;
    anykv_status status = get_geometry(in, record, after, layer);
    if (!status)
        status = need(in, bytes_behind(layer, calibration->bases), "the data of a layer");
    if (!status)
        status = akv_calibration_room(calibration, layer);
    if (status)
        return status;
    for (uint32_t i = 0; i < layer->rope_pairs; i++)
        layer->turns[i] = get_integer(in, 8);
    for (int s = 0; s < 2 && !status; s++) {
        struct akv_calibration_side *side = &layer->side[s];
        const size_t row = (size_t)layer->kv_heads * side->dim;
        status = get_predictions(in, record, layer->kv_heads, side);
        if (status)
            break;
        get_halves(in, side->mu, row);
        get_halves(in, side->matrix, row * side->dim);
        get_halves(in, side->centre, row);
        get_halves(in, side->basis, row * side->dim);
    }
    return status;
}

/* The fixed header: count of layers and lengths of the texts, or why it is no calibration. */
static anykv_status get_header(struct reader *in, size_t bytes, uint32_t *count_out,
                               bool *bases_out, uint32_t *model_out, uint32_t *weights_out)
{
    if (bytes < HEADER_BYTES + CHECKSUM_BYTES || memcmp(in->at, MAGIC, 8) != 0)
        return akv_fail(in->context, ANYKV_E_DATA, "calibration: magic is missing, no calibration");
    in->at += 8;
    const uint64_t version = get_integer(in, 4);
    if (version != FILE_VERSION && version != BASES_VERSION)
        return akv_fail(in->context, ANYKV_E_DATA, "calibration: version is %llu, known are %u and %u",
                        (unsigned long long)version, FILE_VERSION, BASES_VERSION);
    *bases_out = version == BASES_VERSION;
    *count_out = (uint32_t)get_integer(in, 4);
    const uint64_t said = get_integer(in, 8);
    if (said != bytes)
        return akv_fail(in->context, ANYKV_E_DATA, "calibration: bytes is %llu, the file has %zu",
                        (unsigned long long)said, bytes);
    *model_out = (uint32_t)get_integer(in, 4);
    *weights_out = (uint32_t)get_integer(in, 4);
    if (*model_out > 255 || *weights_out > 256)
        return akv_fail(in->context, ANYKV_E_DATA, "calibration: %s is %u, the limit is %u",
                        *model_out > 255 ? "model_bytes" : "weights_bytes",
                        *model_out > 255 ? *model_out : *weights_out, *model_out > 255 ? 255 : 256);
    if (*count_out < 1 || *count_out > AKV_MAX_LAYERS)
        return akv_fail(in->context, ANYKV_E_DATA, "calibration: layers is %u, not within 1 to %u",
                        *count_out, AKV_MAX_LAYERS);
    return ANYKV_OK;
}

static anykv_status get_all(struct reader *in, anykv_calibration *calibration, uint32_t model_bytes,
                            uint32_t weights_bytes)
{
    akv_digest said;
    memcpy(said.byte, in->at, sizeof said.byte);
    in->at += sizeof said.byte;
    anykv_status status = get_text(in, "model", calibration->model, model_bytes);
    if (!status)
        status = get_text(in, "weights", calibration->weights, weights_bytes);
    calibration->weights_bytes = weights_bytes;
    for (uint32_t l = 0; l < calibration->count && !status; l++)
        status = get_layer(in, calibration, l);
    if (!status && in->at != in->end)
        status = akv_fail(in->context, ANYKV_E_DATA, "calibration: %llu bytes behind the last layer",
                          (unsigned long long)(in->end - in->at));
    if (!status)
        status = akv_calibration_finish(calibration);
    if (!status && memcmp(said.byte, calibration->digest.byte, sizeof said.byte) != 0)
        status = akv_fail(in->context, ANYKV_E_DATA, "calibration: digest differs from its content");
    return status;
}

anykv_status anykv_calibration_read(anykv_context *context, const void *memory, size_t bytes,
                                    anykv_calibration **calibration_out)
{
    if (!memory || !calibration_out)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", memory ? "calibration_out" : "memory");
    struct reader in = {context, memory, (const uint8_t *)memory + bytes};
    uint32_t count = 0, model_bytes = 0, weights_bytes = 0;
    bool bases = false;
    anykv_status status = get_header(&in, bytes, &count, &bases, &model_bytes, &weights_bytes);
    if (status)
        return status;
    in.end -= CHECKSUM_BYTES;
    const akv_digest sum = checksum(memory, bytes - CHECKSUM_BYTES);
    if (memcmp(sum.byte, in.end, CHECKSUM_BYTES) != 0)
        return akv_fail(context, ANYKV_E_DATA, "calibration: checksum differs: the file is damaged");
    anykv_calibration *calibration;
    status = akv_calibration_create(context, count, &calibration);
    if (status)
        return status;
    calibration->bases = bases;
    status = get_all(&in, calibration, model_bytes, weights_bytes);
    if (status) {
        anykv_calibration_destroy(calibration);
        return status;
    }
    *calibration_out = calibration;
    return ANYKV_OK;
}

/* ---- files ---- */

static anykv_status no_file(anykv_context *context, const char *path, const char *what)
{
    return akv_fail(context, errno == ENOENT ? ANYKV_E_NOT_FOUND : ANYKV_E_IO,
                    "calibration %s: cannot be %s: %s", path, what, strerror(errno));
}

anykv_status anykv_calibration_load(anykv_context *context, const char *path,
                                    anykv_calibration **calibration_out)
{
    if (!path || !calibration_out)
        return akv_fail(context, ANYKV_E_ARG, "%s: NULL", path ? "calibration_out" : "path");
    FILE *file = fopen(path, "rb");
    if (!file)
        return no_file(context, path, "opened");
    anykv_status status = ANYKV_OK;
    uint8_t *memory = NULL;
    long bytes = -1;
    if (fseek(file, 0, SEEK_END) != 0 || (bytes = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
        status = no_file(context, path, "read");
    else if ((uint64_t)bytes > MOST_BYTES)
        status = akv_fail(context, ANYKV_E_DATA, "calibration %s: %ld bytes, the limit is %zu", path,
                          bytes, MOST_BYTES);
    else if (!(memory = akv_alloc(context, bytes ? (size_t)bytes : 1, 1)))
        status = ANYKV_E_MEMORY;
    else if (fread(memory, 1, (size_t)bytes, file) != (size_t)bytes)
        status = akv_fail(context, ANYKV_E_IO, "calibration %s: cannot be read", path);
    fclose(file);
    if (!status)
        status = anykv_calibration_read(context, memory, (size_t)bytes, calibration_out);
    akv_free(context, memory);
    return status;
}

anykv_status anykv_calibration_save(const anykv_calibration *calibration, const char *path)
{
    if (!calibration || !path)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", calibration ? "path" : "calibration");
    anykv_context *context = calibration->context;
    size_t bytes = akv_calibration_bytes(calibration);
    uint8_t *memory = akv_alloc(context, bytes, 1);
    if (!memory)
        return ANYKV_E_MEMORY;
    anykv_status status = anykv_calibration_write(calibration, memory, &bytes);
    FILE *file = status ? NULL : fopen(path, "wb");
    if (!status && !file)
        status = no_file(context, path, "created");
    bool wrote = file && fwrite(memory, 1, bytes, file) == bytes;
    if (file && fclose(file) != 0)
        wrote = false;
    if (!status && !wrote)
        status = no_file(context, path, "written");
    akv_free(context, memory);
    return status;
}
