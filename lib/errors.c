/* SPDX-License-Identifier: Apache-2.0 */
/* Ring of a context's last failures. */
#include "objects.h"

void akv_error_record(anykv_context *context, anykv_status code, const char *text)
{
    if (!context || !context->errors.ready) /* a context in the making */
        return;
    struct akv_error_ring *ring = &context->errors;
    akv_mutex_lock(&ring->lock);
    anykv_error_record *record = &ring->record[ring->next % AKV_ERRORS];
    memset(record, 0, sizeof *record);
    record->sequence_number = ++ring->next;
    record->time_ns = akv_now_ns();
    record->status = code;
    strncpy(record->text, text, sizeof record->text - 1);
    akv_mutex_unlock(&ring->lock);
}

anykv_status anykv_context_errors(anykv_context *context, anykv_error_record *records,
                                  uint32_t *count_in_out, uint64_t *lost_out)
{
    if (!context || !count_in_out || !lost_out || (!records && *count_in_out))
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL",
                        !context        ? "context"
                        : !count_in_out ? "count_in_out"
                        : !lost_out     ? "lost_out"
                                        : "records");
    struct akv_error_ring *ring = &context->errors;
    akv_mutex_lock(&ring->lock);
    const uint64_t kept = ring->next > AKV_ERRORS ? ring->next - AKV_ERRORS : 0;
    *lost_out = ring->drained < kept ? kept - ring->drained : 0;
    if (ring->drained < kept)
        ring->drained = kept;
    uint32_t count = 0;
    while (count < *count_in_out && ring->drained < ring->next)
        records[count++] = ring->record[ring->drained++ % AKV_ERRORS];
    *count_in_out = count;
    akv_mutex_unlock(&ring->lock);
    return ANYKV_OK;
}
