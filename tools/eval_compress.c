/* SPDX-License-Identifier: Apache-2.0 */
/* Rows through the library's compression and back. */
#include "eval_compress.h"
#include "dump.h"
#include "eval_evict.h"
#include "kernel/fp.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define TOKEN_SCORE "snapkv"
#define VALUE_STEP  3.0 /* of the keys': about as much error of the output */

/* ---- names ---- */

/* The share behind NAME: of text; false: another name. */
static bool share_of(const char *text, const char *name, double *share_out)
{
    const size_t length = strlen(name);
    if (strncmp(text, name, length) != 0 || text[length] != ':')
        return false;
    char *end;
    *share_out = strtod(text + length + 1, &end);
    if (*end != '\0' || end == text + length + 1)
        *share_out = -1.0;
    return true;
}

/* lowrank:KEYS[/VALUES]. */
static int parse_steps(const char *text, struct akv_eval_method *method)
{
    char *end;
    double step[2];
    step[0] = strtod(text + 8, &end);
    step[1] = step[0] * VALUE_STEP;
    if (*end == '/')
        step[1] = strtod(end + 1, &end);
    method->compression = ANYKV_COMPRESS_LOWRANK;
    for (int side = 0; side < 2; side++) {
        if (*end != '\0' || !(step[side] >= 0x1p-20 && step[side] <= 0x1p20))
            return akv_cli_wrong("eval", "--compress: \"%s\" has no steps within 2^-20 to 2^20", text);
        method->step[side] = (float)step[side];
    }
    return AKV_CLI_GO;
}

int akv_eval_method_parse(const char *text, struct akv_eval_method *method)
{
    snprintf(method->name, sizeof method->name, "%s", text);
    method->compression = ANYKV_COMPRESS_BX16;
    if (strcmp(text, "bx16") == 0)
        return AKV_CLI_GO;
    if (strncmp(text, "lowrank:", 8) == 0)
        return parse_steps(text, method);
    method->compression = ANYKV_COMPRESS_SPARSE;
    method->axis = strncmp(text, "channels", 8) == 0 ? ANYKV_AXIS_CHANNEL : ANYKV_AXIS_TOKEN;
    if (!share_of(text, "sparse", &method->keep) && !share_of(text, "channels", &method->keep))
        return akv_cli_wrong("eval", "--compress: unknown method \"%s\"", text);
    if (!(method->keep > 0.0 && method->keep <= 1.0))
        return akv_cli_wrong("eval", "--compress: \"%s\" keeps no share above 0 and at most 1", text);
    return AKV_CLI_GO;
}

/* ---- BX16 ---- */

/* Compressed and back; what comes back must be the same bits. */
static anykv_status through_bx16(const struct akv_eval_rows *rows, const uint16_t *from, uint16_t *to,
                                 void *packed, uint64_t capacity, uint64_t *bytes_out)
{
    const anykv_view in = anykv_view_host(from, ANYKV_BF16, rows->heads, rows->dim);
    const anykv_view out = anykv_view_host(to, ANYKV_BF16, rows->heads, rows->dim);
    anykv_status status = anykv_compress(rows->device, ANYKV_COMPRESS_BX16, &in, rows->tokens, rows->heads, rows->dim,
                                         packed, capacity, bytes_out);
    if (status == ANYKV_OK)
        status = anykv_decompress(rows->device, packed, *bytes_out, &out, rows->tokens, rows->heads, rows->dim);
    if (status == ANYKV_OK && memcmp(from, to, (size_t)capacity) != 0)
        status = akv_fail(NULL, ANYKV_E_DATA, "bx16: layer %" PRIu32 " did not come back", rows->layer);
    return status;
}

static anykv_status bx16(const struct akv_eval_rows *rows, double *stored, uint64_t *bytes_out)
{
    const size_t count = (size_t)rows->tokens * rows->heads * rows->dim;
    uint64_t capacity = 0;
    anykv_status status = anykv_compress_bound(ANYKV_COMPRESS_BX16, ANYKV_BF16, rows->tokens, rows->heads, rows->dim,
                                               &capacity);
    if (status != ANYKV_OK)
        return status;
    uint16_t *from = akv_alloc(NULL, count, sizeof *from), *to = akv_alloc(NULL, count, sizeof *to);
    void *packed = akv_alloc(NULL, (size_t)capacity, 1);
    status = from && to && packed ? ANYKV_OK : ANYKV_E_MEMORY;
    for (size_t i = 0; i < count && status == ANYKV_OK; i++)
        from[i] = (uint16_t)akv_bf16_from_f32(akv_as_u32((float)rows->exact[i]));
    if (status == ANYKV_OK)
        status = through_bx16(rows, from, to, packed, capacity, bytes_out);
    if (status == ANYKV_OK)
        akv_rows_to_double(to, ANYKV_BF16, count, stored);
    akv_free(NULL, from);
    akv_free(NULL, to);
    akv_free(NULL, packed);
    return status;
}

/* ---- sparse ---- */

static anykv_status score_tokens(const struct akv_evict_layer *seen, float *scores)
{
    const struct akv_evict_method *method = akv_evict_methods;
    const size_t count = (size_t)seen->kv_heads * seen->cut;
    while (strcmp(method->name, TOKEN_SCORE) != 0)
        method++;
    double *all = akv_alloc(NULL, count, sizeof *all);
    anykv_status status = all ? method->score(seen, all) : ANYKV_E_MEMORY;
    for (size_t i = 0; i < count && status == ANYKV_OK; i++)
        scores[i] = (float)all[i];
    akv_free(NULL, all);
    return status;
}

/* Mean square of channel i of a head's values, of its keys times that of its queries. */
static float score_channel(const struct akv_evict_layer *seen, uint32_t side, uint32_t head, uint32_t i)
{
    const double *rows = side ? seen->v : seen->k;
    const uint32_t group = seen->q_heads / seen->kv_heads;
    double sum = 0.0, queries = side ? 1.0 : 0.0;
    for (uint32_t t = 0; t < seen->cut; t++) {
        const double x = rows[((size_t)t * seen->kv_heads + head) * seen->dim + i];
        sum += x * x;
    }
    for (uint32_t p = 0; p < seen->cut - seen->q_first && !side; p++)
        for (uint32_t g = 0; g < group; g++) {
            const double x = seen->q[((size_t)p * seen->q_heads + head * group + g) * seen->dim + i];
            queries += x * x;
        }
    return (float)(sum * queries);
}

static anykv_status fill_kept(const struct akv_eval_rows *rows, const void *packed, uint64_t bytes, uint8_t **kept_out)
{
    const uint32_t cut = rows->seen->cut;
    *kept_out = akv_alloc(NULL, (size_t)rows->heads * rows->tokens, 1);
    anykv_status status = *kept_out ? ANYKV_OK : ANYKV_E_MEMORY;
    for (uint32_t h = 0; h < rows->heads && status == ANYKV_OK; h++) {
        uint8_t *kept = *kept_out + (size_t)h * rows->tokens;
        status = anykv_sparse_kept(packed, bytes, h, kept);
        memset(kept + cut, 1, rows->tokens - cut);
    }
    return status;
}

static anykv_status through_sparse(const struct akv_eval_rows *rows, const struct akv_eval_method *method,
                                   const float *scores, void *packed, uint64_t capacity, uint8_t *back,
                                   uint64_t *bytes_out, uint8_t **kept_out)
{
    const uint32_t cut = rows->seen->cut, units = method->axis == ANYKV_AXIS_TOKEN ? cut : rows->dim;
    const uint32_t keep = (uint32_t)ceil(method->keep * units - 1e-9);
    const anykv_view in = anykv_view_host(rows->data, rows->dtype, rows->heads, rows->dim);
    const anykv_view out = anykv_view_host(back, rows->dtype, rows->heads, rows->dim);
    anykv_status status = anykv_sparse_compress(rows->device, method->axis, keep, scores, &in, cut, rows->heads,
                                                rows->dim, packed, capacity, bytes_out);
    if (status == ANYKV_OK)
        status = anykv_decompress(rows->device, packed, *bytes_out, &out, cut, rows->heads, rows->dim);
    if (status == ANYKV_OK && method->axis == ANYKV_AXIS_TOKEN && rows->side == 0)
        status = fill_kept(rows, packed, *bytes_out, kept_out);
    *bytes_out += (uint64_t)(rows->tokens - cut) * rows->heads * rows->dim * 2u;
    return status;
}

static anykv_status sparse(const struct akv_eval_rows *rows, const struct akv_eval_method *method, double *stored,
                           uint64_t *bytes_out, uint8_t **kept_out)
{
    const uint32_t cut = rows->seen->cut, units = method->axis == ANYKV_AXIS_TOKEN ? cut : rows->dim;
    const size_t count = (size_t)cut * rows->heads * rows->dim, each = rows->dtype == ANYKV_F32 ? 4 : 2;
    float *scores = akv_alloc(NULL, (size_t)rows->heads * units, sizeof *scores);
    void *packed = akv_alloc(NULL, count, each);
    uint8_t *back = akv_alloc(NULL, count, each);
    anykv_status status = scores && packed && back ? ANYKV_OK : ANYKV_E_MEMORY;
    if (status == ANYKV_OK && method->axis == ANYKV_AXIS_TOKEN)
        status = score_tokens(rows->seen, scores);
    for (uint32_t n = 0; n < rows->heads * units && status == ANYKV_OK && method->axis == ANYKV_AXIS_CHANNEL; n++)
        scores[n] = score_channel(rows->seen, rows->side, n / units, n % units);
    if (status == ANYKV_OK)
        status = through_sparse(rows, method, scores, packed, count * each, back, bytes_out, kept_out);
    if (status == ANYKV_OK) {
        memcpy(stored, rows->exact, (size_t)rows->tokens * rows->heads * rows->dim * sizeof *stored);
        akv_rows_to_double(back, rows->dtype, count, stored);
    }
    akv_free(NULL, scores);
    akv_free(NULL, packed);
    akv_free(NULL, back);
    return status;
}

/* ---- low rank ---- */

static anykv_status lowrank(const struct akv_eval_rows *rows, const struct akv_eval_method *method, double *stored,
                            uint64_t *bytes_out)
{
    const size_t count = (size_t)rows->tokens * rows->heads * rows->dim, each = rows->dtype == ANYKV_F32 ? 4 : 2;
    anykv_lowrank_options options = ANYKV_LOWRANK_OPTIONS_INIT;
    if (rows->calibration == NULL)
        return akv_fail(NULL, ANYKV_E_ARG, "--compress: lowrank needs --calibration FILE with bases");
    options.calibration = rows->calibration;
    options.layer = rows->layer;
    options.side = rows->side;
    options.step = method->step[rows->side];
    void *packed = akv_alloc(NULL, count, each), *back = akv_alloc(NULL, count, each);
    const anykv_view in = anykv_view_host(rows->data, rows->dtype, rows->heads, rows->dim);
    const anykv_view out = anykv_view_host(back, rows->dtype, rows->heads, rows->dim);
    anykv_status status = packed && back ? ANYKV_OK : ANYKV_E_MEMORY;
    if (status == ANYKV_OK)
        status = anykv_lowrank_compress(rows->device, &options, &in, rows->tokens, rows->heads, rows->dim, packed,
                                        count * each, bytes_out);
    if (status == ANYKV_OK)
        status = anykv_lowrank_decompress(rows->device, rows->calibration, packed, *bytes_out, &out, rows->tokens,
                                          rows->heads, rows->dim);
    if (status == ANYKV_OK)
        akv_rows_to_double(back, rows->dtype, count, stored);
    akv_free(NULL, packed);
    akv_free(NULL, back);
    return status;
}

/* ---- any ---- */

anykv_status akv_eval_compress(const struct akv_eval_rows *rows, const struct akv_eval_method *method,
                               double *stored, uint64_t *bytes_out, uint8_t **kept_out)
{
    return method->compression == ANYKV_COMPRESS_BX16      ? bx16(rows, stored, bytes_out)
           : method->compression == ANYKV_COMPRESS_LOWRANK ? lowrank(rows, method, stored, bytes_out)
                                                           : sparse(rows, method, stored, bytes_out, kept_out);
}
