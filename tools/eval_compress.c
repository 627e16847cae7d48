/* SPDX-License-Identifier: Apache-2.0 */
/* Rows through the library's compression and back. */
#include "eval_compress.h"
#include "dump.h"
#include "kernel/fp.h"
#include <inttypes.h>

/* ---- names ---- */

int akv_eval_method_parse(const char *text, struct akv_eval_method *method)
{
    snprintf(method->name, sizeof method->name, "%s", text);
    if (strcmp(text, "bx16") != 0)
        return akv_cli_wrong("eval", "--compress: unknown method \"%s\"", text);
    method->compression = ANYKV_COMPRESS_BX16;
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

/* ---- any ---- */

anykv_status akv_eval_compress(const struct akv_eval_rows *rows, const struct akv_eval_method *method,
                               double *stored, uint64_t *bytes_out)
{
    (void)method;
    return bx16(rows, stored, bytes_out);
}
