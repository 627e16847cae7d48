/* SPDX-License-Identifier: Apache-2.0 */
/* A dump of real keys, values and queries of a model: a safetensors file read by its metadata. */
#include "dump.h"
#include "cli.h"
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

static anykv_status need_number(const struct akv_dump *dump, const char *key, uint64_t min,
                                uint64_t max, uint32_t *value_out)
{
    const char *text = akv_safetensors_meta(dump->file, key);
    uint64_t value;
    if (text == NULL)
        return akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"%s\" is missing", key);
    if (!akv_cli_u64(text, &value) || value < min || value > max)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "__metadata__: \"%s\" is \"%s\", not within %" PRIu64 " … %" PRIu64, key,
                        text, min, max);
    *value_out = (uint32_t)value;
    return ANYKV_OK;
}

/* A comma list of layer numbers, ascending; an absent or empty one has none. */
static anykv_status read_layer_list(const struct akv_dump *dump, const char *key, uint32_t *list,
                                    uint32_t *count_out)
{
    const char *text = akv_safetensors_meta(dump->file, key);
    uint32_t count = 0;
    while (text != NULL && *text != '\0') {
        char *end;
        while (*text == ' ')
            text++;
        unsigned long number = *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : ULONG_MAX;
        if (number > 65535 || (count > 0 && number <= list[count - 1]))
            return akv_fail(NULL, ANYKV_E_DATA,
                            "__metadata__: \"%s\" must be ascending layer numbers up to 65535",
                            key);
        if (count == AKV_DUMP_LAYERS)
            return akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"%s\" has more than %d layers", key,
                            AKV_DUMP_LAYERS);
        list[count++] = (uint32_t)number;
        text = end;
        if (*text == ',' && text[1] != '\0')
            text++;
        else if (*text != '\0')
            return akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"%s\" is no list of numbers", key);
    }
    *count_out = count;
    return ANYKV_OK;
}

static anykv_status read_windows(struct akv_dump *dump)
{
    uint32_t global[AKV_DUMP_LAYERS], count = 0, window = 0;
    if (akv_safetensors_meta(dump->file, "sliding_window") == NULL)
        return ANYKV_OK;
    anykv_status status = need_number(dump, "sliding_window", 1, 1u << 30, &window);
    if (status == ANYKV_OK)
        status = read_layer_list(dump, "global_layers", global, &count);
    for (uint32_t i = 0; i < dump->layers && status == ANYKV_OK; i++) {
        dump->window[i] = window;
        for (uint32_t j = 0; j < count; j++)
            if (global[j] == dump->layer[i])
                dump->window[i] = 0;
    }
    return status;
}

static anykv_status read_scale(struct akv_dump *dump)
{
    const char *text = akv_safetensors_meta(dump->file, "scale");
    char *end = NULL;
    if (text == NULL)
        return akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"scale\" is missing");
    dump->scale = strtod(text, &end);
    if (end == text || *end != '\0' || !(dump->scale > 0.0 && dump->scale < 1e6))
        return akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"scale\" is \"%s\", not within 0 … 1e6",
                        text);
    return ANYKV_OK;
}

static anykv_status check_rows(const struct akv_dump *dump, uint32_t layer, char side,
                               const struct akv_tensor **tensor_out, anykv_dtype *dtype_out)
{
    char name[40];
    snprintf(name, sizeof name, "layers.%" PRIu32 ".%c", layer, side);
    const struct akv_tensor *tensor = akv_safetensors_find(dump->file, name);
    if (tensor == NULL)
        return akv_fail(NULL, ANYKV_E_DATA, "%s: this tensor is missing", name);
    uint64_t rows = side == 'q' ? dump->tokens - dump->q_first : dump->tokens;
    uint64_t heads = side == 'q' ? dump->q_heads : dump->kv_heads;
    if (tensor->rank != 3 || tensor->shape[0] != rows || tensor->shape[1] != heads ||
        tensor->shape[2] != dump->head_dim)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "%s: the metadata ask for shape [%" PRIu64 ", %" PRIu64 ", %" PRIu32 "]",
                        name, rows, heads, dump->head_dim);
    if (strcmp(tensor->dtype, "F16") == 0)
        *dtype_out = ANYKV_F16;
    else if (strcmp(tensor->dtype, "BF16") == 0)
        *dtype_out = ANYKV_BF16;
    else if (strcmp(tensor->dtype, "F32") == 0)
        *dtype_out = ANYKV_F32;
    else
        return akv_fail(NULL, ANYKV_E_DATA, "%s: dtype is %s, not F16, BF16 or F32", name,
                        tensor->dtype);
    *tensor_out = tensor;
    return ANYKV_OK;
}

static anykv_status check_tensors(const struct akv_dump *dump)
{
    const struct akv_tensor *tensor;
    anykv_dtype dtype;
    for (uint32_t i = 0; i < dump->layers; i++)
        for (const char *side = "kvq"; *side != '\0'; side++) {
            anykv_status status = check_rows(dump, dump->layer[i], *side, &tensor, &dtype);
            if (status != ANYKV_OK)
                return status;
        }
    return ANYKV_OK;
}

anykv_status akv_dump_open(struct akv_dump *dump, const char *path)
{
    memset(dump, 0, sizeof *dump);
    anykv_status status = akv_safetensors_open(path, &dump->file);
    if (status == ANYKV_OK)
        status = need_number(dump, "tokens", 1, 1u << 22, &dump->tokens);
    if (status == ANYKV_OK)
        status = need_number(dump, "q_first", 0, dump->tokens - 1, &dump->q_first);
    if (status == ANYKV_OK)
        status = need_number(dump, "kv_heads", 1, 1024, &dump->kv_heads);
    if (status == ANYKV_OK)
        status = need_number(dump, "q_heads", 1, 1024, &dump->q_heads);
    if (status == ANYKV_OK)
        status = need_number(dump, "head_dim", 1, 65536, &dump->head_dim);
    if (status == ANYKV_OK && dump->q_heads % dump->kv_heads != 0)
        status = akv_fail(NULL, ANYKV_E_DATA,
                          "__metadata__: q_heads %" PRIu32 " is no multiple of kv_heads %" PRIu32,
                          dump->q_heads, dump->kv_heads);
    if (status == ANYKV_OK)
        status = read_scale(dump);
    if (status == ANYKV_OK)
        status = read_layer_list(dump, "layers", dump->layer, &dump->layers);
    if (status == ANYKV_OK && dump->layers == 0)
        status = akv_fail(NULL, ANYKV_E_DATA, "__metadata__: \"layers\" is missing or empty");
    if (status == ANYKV_OK)
        status = read_windows(dump);
    if (status == ANYKV_OK)
        status = check_tensors(dump);
    if (status != ANYKV_OK)
        return status;
    dump->model = akv_safetensors_meta(dump->file, "model");
    dump->text = akv_safetensors_meta(dump->file, "text");
    dump->license = akv_safetensors_meta(dump->file, "license");
    return ANYKV_OK;
}

void akv_dump_close(struct akv_dump *dump)
{
    akv_safetensors_close(dump->file);
    dump->file = NULL;
}

anykv_status akv_dump_tokens(const struct akv_dump *dump, uint32_t *ids)
{
    const struct akv_tensor *tensor = akv_safetensors_find(dump->file, "tokens");
    if (tensor == NULL)
        return akv_fail(NULL, ANYKV_E_DATA, "tokens: this tensor is missing");
    if (strcmp(tensor->dtype, "I32") != 0 || tensor->rank != 1 || tensor->shape[0] != dump->tokens)
        return akv_fail(NULL, ANYKV_E_DATA, "tokens: I32 of shape [%" PRIu32 "] is expected",
                        dump->tokens);
    anykv_status status = akv_safetensors_read(dump->file, tensor, ids);
    for (uint32_t i = 0; i < dump->tokens && status == ANYKV_OK; i++)
        if (ids[i] > INT32_MAX)
            status = akv_fail(NULL, ANYKV_E_DATA, "tokens: number %" PRIu32 " is negative", i);
    return status;
}

static anykv_status load_side(const struct akv_dump *dump, uint32_t layer, char side,
                              void **rows_out, anykv_dtype *dtype_out)
{
    const struct akv_tensor *tensor = NULL;
    anykv_status status = check_rows(dump, layer, side, &tensor, dtype_out);
    if (status != ANYKV_OK || tensor == NULL)
        return status;
    *rows_out = akv_alloc(NULL, (size_t)tensor->bytes, 1);
    return *rows_out == NULL ? ANYKV_E_MEMORY : akv_safetensors_read(dump->file, tensor, *rows_out);
}

anykv_status akv_dump_load(const struct akv_dump *dump, uint32_t index,
                           struct akv_dump_layer *layer)
{
    memset(layer, 0, sizeof *layer);
    anykv_status status = load_side(dump, dump->layer[index], 'k', &layer->k, &layer->k_dtype);
    if (status == ANYKV_OK)
        status = load_side(dump, dump->layer[index], 'v', &layer->v, &layer->v_dtype);
    if (status == ANYKV_OK)
        status = load_side(dump, dump->layer[index], 'q', &layer->q, &layer->q_dtype);
    return status;
}

void akv_dump_free(struct akv_dump_layer *layer)
{
    akv_free(NULL, layer->k);
    akv_free(NULL, layer->v);
    akv_free(NULL, layer->q);
    memset(layer, 0, sizeof *layer);
}

static double half_to_double(uint32_t bits)
{
    int exponent = (int)(bits >> 10 & 31u);
    double fraction = (double)(bits & 1023u);
    double value = exponent == 31  ? (fraction == 0.0 ? (double)INFINITY : (double)NAN)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024.0, exponent - 25);
    return bits & 0x8000u ? -value : value;
}

void akv_rows_to_double(const void *rows, anykv_dtype dtype, size_t count, double *out)
{
    const uint16_t *halves = rows;
    const float *floats = rows;
    for (size_t i = 0; i < count; i++) {
        if (dtype == ANYKV_F32) {
            out[i] = (double)floats[i];
        } else if (dtype == ANYKV_F16) {
            out[i] = half_to_double(halves[i]);
        } else {
            uint32_t bits = (uint32_t)halves[i] << 16;
            float value;
            memcpy(&value, &bits, sizeof value);
            out[i] = (double)value;
        }
    }
}
