/* SPDX-License-Identifier: Apache-2.0 */
/* Request traces: JSON lines with timestamp, input_length, output_length, hash_ids. */
#include "trace.h"
#include "json.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define FILE_LIMIT    (UINT64_C(1) << 30)
#define REQUEST_LIMIT (1u << 26)

struct loader {
    struct akv_trace *trace;
    uint64_t *raw; /* ids as the file has them */
    uint64_t raw_capacity;
    uint32_t request_capacity;
    uint32_t block_tokens;
};

static anykv_status slurp(const char *path, char **text_out, size_t *bytes_out)
{
    size_t bytes = 0, capacity = 1u << 20;
    anykv_status status = ANYKV_OK;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return akv_fail(NULL, ANYKV_E_IO, "file: cannot be opened: %s", strerror(errno));
    char *text = akv_alloc(NULL, capacity, 1);
    while (text != NULL) {
        bytes += fread(text + bytes, 1, capacity - bytes, file);
        if (bytes < capacity)
            break;
        char *wider =
            capacity >= FILE_LIMIT ? NULL : akv_resize(NULL, text, capacity, capacity * 2, 1);
        if (wider == NULL) {
            status =
                capacity >= FILE_LIMIT
                    ? akv_fail(NULL, ANYKV_E_DATA, "file: more than %" PRIu64 " bytes", FILE_LIMIT)
                    : ANYKV_E_MEMORY;
            break;
        }
        text = wider;
        capacity *= 2;
    }
    if (text == NULL)
        status = ANYKV_E_MEMORY;
    else if (status == ANYKV_OK && ferror(file))
        status = akv_fail(NULL, ANYKV_E_IO, "file: cannot be read: %s", strerror(errno));
    fclose(file);
    *text_out = text;
    *bytes_out = bytes;
    return status;
}

static anykv_status more_requests(struct loader *l)
{
    struct akv_trace *trace = l->trace;
    uint32_t old = l->request_capacity, wider = old == 0 ? 4096 : old * 2;
    if (trace->requests < old)
        return ANYKV_OK;
    if (old >= REQUEST_LIMIT)
        return akv_fail(NULL, ANYKV_E_DATA, "file: more than %u requests", REQUEST_LIMIT);
    double *seconds = akv_resize(NULL, trace->seconds, old, wider, sizeof *seconds);
    trace->seconds = seconds != NULL ? seconds : trace->seconds;
    bool *partial = akv_resize(NULL, trace->partial, old, wider, sizeof *partial);
    trace->partial = partial != NULL ? partial : trace->partial;
    uint64_t *first = akv_resize(NULL, trace->first, old == 0 ? 0 : (size_t)old + 1,
                                 (size_t)wider + 1, sizeof *first);
    trace->first = first != NULL ? first : trace->first;
    if (seconds == NULL || partial == NULL || first == NULL)
        return ANYKV_E_MEMORY;
    l->request_capacity = wider;
    return ANYKV_OK;
}

static anykv_status add_id(struct loader *l, uint64_t id)
{
    if (l->trace->blocks == l->raw_capacity) {
        uint64_t wider = l->raw_capacity == 0 ? 65536 : l->raw_capacity * 2;
        uint64_t *raw = akv_resize(NULL, l->raw, l->raw_capacity, wider, sizeof *raw);
        if (raw == NULL)
            return ANYKV_E_MEMORY;
        l->raw = raw;
        l->raw_capacity = wider;
    }
    l->raw[l->trace->blocks++] = id;
    return ANYKV_OK;
}

static anykv_status line_error(uint64_t line, const char *field, const char *what)
{
    return akv_fail(NULL, ANYKV_E_DATA, "line %" PRIu64 ": %s: %s", line, field, what);
}

static anykv_status read_ids(struct loader *l, struct akv_json_reader *json, uint64_t line)
{
    if (akv_json_enter_array(json))
        while (akv_json_next_item(json)) {
            uint64_t id;
            if (!akv_json_read_u64(json, &id))
                break;
            anykv_status status = add_id(l, id);
            if (status != ANYKV_OK)
                return status;
        }
    return json->error != NULL ? line_error(line, "hash_ids", json->error) : ANYKV_OK;
}

static anykv_status read_line(struct loader *l, const char *text, size_t bytes, uint64_t line)
{
    static const char *const names[] = {"timestamp", "input_length", "output_length", "hash_ids"};
    struct akv_trace *trace = l->trace;
    struct akv_json_reader json;
    char key[64];
    double time = 0.0;
    uint64_t input = 0, output;
    uint32_t seen = 0;
    anykv_status status = more_requests(l);
    if (status != ANYKV_OK)
        return status;
    trace->first[trace->requests] = trace->blocks;
    akv_json_open(&json, text, bytes);
    if (!akv_json_enter_object(&json))
        return line_error(line, "request", json.error);
    while (akv_json_next_key(&json, key, sizeof key)) {
        uint32_t field = 0;
        while (field < 4 && strcmp(key, names[field]) != 0)
            field++;
        if (field < 4 && (seen >> field & 1u))
            return line_error(line, key, "is there twice");
        seen |= 1u << field;
        if (field == 0)
            akv_json_read_real(&json, &time);
        else if (field == 1)
            akv_json_read_u64(&json, &input);
        else if (field == 2)
            akv_json_read_u64(&json, &output);
        else if (field == 3)
            status = read_ids(l, &json, line);
        else
            akv_json_skip(&json); /* other tools' fields */
        if (status != ANYKV_OK)
            return status;
        if (json.error != NULL)
            return line_error(line, key, json.error);
    }
    if (!akv_json_finish(&json))
        return line_error(line, "request", json.error);
    for (uint32_t field = 0; field < 4; field++)
        if (field != 2 && !(seen >> field & 1u))
            return line_error(line, names[field], "is missing");
    trace->seconds[trace->requests] = time / 1000.0;
    if (trace->requests > 0 && time / 1000.0 < trace->seconds[trace->requests - 1])
        return line_error(line, "timestamp", "is before the one above");
    trace->partial[trace->requests] = input % l->block_tokens != 0;
    trace->first[++trace->requests] = trace->blocks;
    return ANYKV_OK;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t find_id(const uint64_t *sorted, uint32_t count, uint64_t id)
{
    uint32_t low = 0, high = count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (sorted[middle] <= id)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Numbers the ids 0 … ids-1 and checks that each has one parent. */
static anykv_status chain(struct loader *l)
{
    struct akv_trace *trace = l->trace;
    uint32_t ids = 0;
    if (trace->blocks > UINT32_MAX / 2)
        return akv_fail(NULL, ANYKV_E_DATA, "hash_ids: more than %u in the file", UINT32_MAX / 2);
    uint64_t *sorted = akv_alloc(NULL, (size_t)trace->blocks + 1, sizeof *sorted);
    trace->id = akv_alloc(NULL, (size_t)trace->blocks + 1, sizeof *trace->id);
    if (sorted == NULL || trace->id == NULL) {
        akv_free(NULL, sorted);
        return ANYKV_E_MEMORY;
    }
    if (l->raw != NULL)
        memcpy(sorted, l->raw, (size_t)trace->blocks * sizeof *sorted);
    qsort(sorted, (size_t)trace->blocks, sizeof *sorted, ascending);
    for (uint64_t i = 0; i < trace->blocks; i++)
        if (i == 0 || sorted[i] != sorted[ids - 1])
            sorted[ids++] = sorted[i];
    for (uint64_t i = 0; i < trace->blocks; i++)
        trace->id[i] = find_id(sorted, ids, l->raw[i]);
    akv_free(NULL, sorted);
    trace->ids = ids;
    trace->parent = akv_alloc(NULL, (size_t)ids + 1, sizeof *trace->parent);
    trace->depth = akv_alloc(NULL, (size_t)ids + 1, sizeof *trace->depth);
    if (trace->parent == NULL || trace->depth == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t i = 0; i < ids; i++)
        trace->depth[i] = AKV_NEVER;
    for (uint32_t r = 0; r < trace->requests; r++)
        for (uint64_t i = trace->first[r]; i < trace->first[r + 1]; i++) {
            uint32_t id = trace->id[i], depth = (uint32_t)(i - trace->first[r]);
            uint32_t parent = depth == 0 ? AKV_NEVER : trace->id[i - 1];
            if (trace->depth[id] != AKV_NEVER && trace->parent[id] != parent)
                return akv_fail(NULL, ANYKV_E_DATA,
                                "request %" PRIu32 ": hash_ids: %" PRIu64
                                " stands behind another id than before",
                                r + 1, l->raw[i]);
            trace->parent[id] = parent;
            trace->depth[id] = depth;
        }
    return ANYKV_OK;
}

/* For each block the next request that has it again. */
static anykv_status look_ahead(struct akv_trace *trace)
{
    uint32_t *last = akv_alloc(NULL, (size_t)trace->ids + 1, sizeof *last);
    trace->again = akv_alloc(NULL, (size_t)trace->blocks + 1, sizeof *trace->again);
    if (last == NULL || trace->again == NULL) {
        akv_free(NULL, last);
        return ANYKV_E_MEMORY;
    }
    for (uint32_t i = 0; i < trace->ids; i++)
        last[i] = AKV_NEVER;
    for (uint32_t r = trace->requests; r-- > 0;)
        for (uint64_t i = trace->first[r]; i < trace->first[r + 1]; i++) {
            trace->again[i] = last[trace->id[i]];
            last[trace->id[i]] = r;
        }
    akv_free(NULL, last);
    return ANYKV_OK;
}

anykv_status akv_trace_load(const char *path, uint32_t block_tokens, struct akv_trace *trace)
{
    struct loader loader = {trace, NULL, 0, 0, block_tokens};
    char *text = NULL;
    size_t bytes = 0;
    uint64_t line = 0;
    memset(trace, 0, sizeof *trace);
    anykv_status status = slurp(path, &text, &bytes);
    for (size_t at = 0; at < bytes && status == ANYKV_OK;) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t length = end != NULL ? (size_t)(end - text) - at : bytes - at;
        line++;
        if (length > 0)
            status = read_line(&loader, text + at, length, line);
        at += length + 1;
    }
    akv_free(NULL, text);
    if (status == ANYKV_OK && trace->requests == 0)
        status = akv_fail(NULL, ANYKV_E_DATA, "file: no request in it");
    if (status == ANYKV_OK)
        status = chain(&loader);
    if (status == ANYKV_OK)
        status = look_ahead(trace);
    akv_free(NULL, loader.raw);
    return status;
}

void akv_trace_free(struct akv_trace *trace)
{
    akv_free(NULL, trace->seconds);
    akv_free(NULL, trace->first);
    akv_free(NULL, trace->id);
    akv_free(NULL, trace->parent);
    akv_free(NULL, trace->depth);
    akv_free(NULL, trace->partial);
    akv_free(NULL, trace->again);
    memset(trace, 0, sizeof *trace);
}
