/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of safetensors files: untrusted input, every size and offset checked before it is used.
 *
 * A file is a u64 header length, the header (a JSON object: name → dtype, shape, data_offsets, and
 * "__metadata__" → strings), then the data; offsets count from where the data begin. */
#include "safetensors.h"
#include "json.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define META_BYTES 1024

struct meta {
    char key[AKV_TENSOR_NAME];
    char value[META_BYTES];
};
struct akv_safetensors {
    int fd;
    uint64_t data_offset, data_bytes;
    struct akv_tensor *tensors;
    uint32_t count, capacity;
    struct meta *metas;
    uint32_t meta_count, meta_capacity;
};

static const struct {
    const char *name;
    uint32_t bytes;
} dtypes[] = {{"F64", 8},     {"I64", 8},     {"U64", 8},  {"F32", 4}, {"I32", 4},
              {"U32", 4},     {"F16", 2},     {"BF16", 2}, {"I16", 2}, {"U16", 2},
              {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1},   {"U8", 1},  {"BOOL", 1}};

/* Room for one more element in a growing array; at most `limit` elements. */
static anykv_status grow(void **array, uint32_t count, uint32_t *capacity, uint32_t limit,
                         size_t each, const char *what)
{
    if (count < *capacity)
        return ANYKV_OK;
    if (count >= limit)
        return akv_fail(NULL, ANYKV_E_DATA, "header: more than %" PRIu32 " %s", limit, what);
    uint32_t wider = *capacity == 0 ? 64 : *capacity * 2;
    void *moved = akv_resize(NULL, *array, *capacity, wider, each);
    if (moved == NULL)
        return ANYKV_E_MEMORY;
    *array = moved;
    *capacity = wider;
    return ANYKV_OK;
}

static anykv_status json_error(const struct akv_json_reader *json, const char *where)
{
    return akv_fail(NULL, ANYKV_E_DATA, "header: %s%s%s at byte %zu: %s", where[0] ? "\"" : "",
                    where, where[0] ? "\"" : "", akv_json_offset(json) + 8, json->error);
}

static anykv_status read_metadata(struct akv_safetensors *file, struct akv_json_reader *json)
{
    struct meta meta;
    if (!akv_json_enter_object(json))
        return json_error(json, "__metadata__");
    while (akv_json_next_key(json, meta.key, sizeof meta.key)) {
        if (!akv_json_read_text(json, meta.value, sizeof meta.value))
            return json_error(json, meta.key);
        if (akv_safetensors_meta(file, meta.key) != NULL)
            return akv_fail(NULL, ANYKV_E_DATA, "header: __metadata__ has \"%s\" twice", meta.key);
        anykv_status status = grow((void **)&file->metas, file->meta_count, &file->meta_capacity,
                                   1024, sizeof meta, "metadata entries");
        if (status != ANYKV_OK)
            return status;
        file->metas[file->meta_count++] = meta;
    }
    return json->error != NULL ? json_error(json, "__metadata__") : ANYKV_OK;
}

static anykv_status read_shape(struct akv_json_reader *json, struct akv_tensor *tensor)
{
    if (!akv_json_enter_array(json))
        return json_error(json, tensor->name);
    while (akv_json_next_item(json)) {
        if (tensor->rank == AKV_TENSOR_RANK)
            return akv_fail(NULL, ANYKV_E_DATA, "%s: shape has more than %d dimensions",
                            tensor->name, AKV_TENSOR_RANK);
        if (!akv_json_read_u64(json, &tensor->shape[tensor->rank++]))
            return json_error(json, tensor->name);
    }
    return json->error != NULL ? json_error(json, tensor->name) : ANYKV_OK;
}

static anykv_status read_offsets(struct akv_json_reader *json, struct akv_tensor *tensor)
{
    uint64_t offsets[2];
    uint32_t count = 0;
    if (!akv_json_enter_array(json))
        return json_error(json, tensor->name);
    while (akv_json_next_item(json)) {
        if (count == 2)
            return akv_fail(NULL, ANYKV_E_DATA, "%s: data_offsets has more than 2 numbers",
                            tensor->name);
        if (!akv_json_read_u64(json, &offsets[count++]))
            return json_error(json, tensor->name);
    }
    if (json->error != NULL)
        return json_error(json, tensor->name);
    if (count != 2 || offsets[1] < offsets[0])
        return akv_fail(NULL, ANYKV_E_DATA, "%s: data_offsets must be a begin and an end behind it",
                        tensor->name);
    tensor->offset = offsets[0];
    tensor->bytes = offsets[1] - offsets[0];
    return ANYKV_OK;
}

/* dtype known, the product of the shape within bounds and equal to the bytes. */
static anykv_status check_tensor(const struct akv_safetensors *file, struct akv_tensor *tensor)
{
    size_t bytes = 0, elements = 1;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, tensor->dtype) == 0)
            tensor->element_bytes = dtypes[i].bytes;
    if (tensor->element_bytes == 0)
        return akv_fail(NULL, ANYKV_E_UNSUPPORTED, "%s: dtype \"%s\" is not known", tensor->name,
                        tensor->dtype);
    for (uint32_t i = 0; i < tensor->rank; i++)
        if (tensor->shape[i] > SIZE_MAX ||
            akv_mul_overflows(elements, (size_t)tensor->shape[i], &elements))
            return akv_fail(NULL, ANYKV_E_DATA,
                            "%s: the product of shape is beyond the address space", tensor->name);
    if (akv_mul_overflows(elements, tensor->element_bytes, &bytes))
        return akv_fail(NULL, ANYKV_E_DATA, "%s: the product of shape is beyond the address space",
                        tensor->name);
    if (bytes != tensor->bytes)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "%s: shape and dtype take %zu bytes, data_offsets %" PRIu64, tensor->name,
                        bytes, tensor->bytes);
    if (tensor->offset > file->data_bytes || tensor->bytes > file->data_bytes - tensor->offset)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "%s: data_offsets reach beyond the %" PRIu64 " data bytes of the file",
                        tensor->name, file->data_bytes);
    return ANYKV_OK;
}

static anykv_status read_tensor(struct akv_safetensors *file, struct akv_json_reader *json,
                                const char *name)
{
    struct akv_tensor tensor;
    char key[32];
    uint32_t seen = 0; /* bit 0 dtype, 1 shape, 2 data_offsets */
    memset(&tensor, 0, sizeof tensor);
    memcpy(tensor.name, name, strlen(name));
    if (!akv_json_enter_object(json))
        return json_error(json, name);
    while (akv_json_next_key(json, key, sizeof key)) {
        uint32_t bit = strcmp(key, "dtype") == 0          ? 1u
                       : strcmp(key, "shape") == 0        ? 2u
                       : strcmp(key, "data_offsets") == 0 ? 4u
                                                          : 0u;
        anykv_status status = ANYKV_OK;
        if (bit == 0)
            return akv_fail(NULL, ANYKV_E_DATA, "%s: unknown field \"%s\"", name, key);
        if (seen & bit)
            return akv_fail(NULL, ANYKV_E_DATA, "%s: field \"%s\" twice", name, key);
        seen |= bit;
        if (bit == 1u && !akv_json_read_text(json, tensor.dtype, sizeof tensor.dtype))
            return json_error(json, name);
        if (bit == 2u)
            status = read_shape(json, &tensor);
        if (bit == 4u)
            status = read_offsets(json, &tensor);
        if (status != ANYKV_OK)
            return status;
    }
    if (json->error != NULL)
        return json_error(json, name);
    if (seen != 7u)
        return akv_fail(NULL, ANYKV_E_DATA, "%s: field \"%s\" is missing", name,
                        !(seen & 1u)   ? "dtype"
                        : !(seen & 2u) ? "shape"
                                       : "data_offsets");
    anykv_status status = check_tensor(file, &tensor);
    if (status == ANYKV_OK)
        status = grow((void **)&file->tensors, file->count, &file->capacity, 65536, sizeof tensor,
                      "tensors");
    if (status == ANYKV_OK)
        file->tensors[file->count++] = tensor;
    return status;
}

static anykv_status read_header(struct akv_safetensors *file, const char *text, size_t bytes)
{
    struct akv_json_reader json;
    char name[AKV_TENSOR_NAME];
    bool metadata = false;
    akv_json_open(&json, text, bytes);
    if (!akv_json_enter_object(&json))
        return json_error(&json, "");
    while (akv_json_next_key(&json, name, sizeof name)) {
        anykv_status status;
        if (strcmp(name, "__metadata__") != 0)
            status = read_tensor(file, &json, name);
        else if (metadata)
            status = akv_fail(NULL, ANYKV_E_DATA, "header: __metadata__ twice");
        else
            status = read_metadata(file, &json);
        metadata |= strcmp(name, "__metadata__") == 0;
        if (status != ANYKV_OK)
            return status;
    }
    return akv_json_finish(&json) ? ANYKV_OK : json_error(&json, "");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct akv_tensor *)a)->name, ((const struct akv_tensor *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    const struct akv_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* No hole, no overlap, nothing behind the last one; no name twice.  Leaves the tensors in name
 * order. */
static anykv_status check_coverage(struct akv_safetensors *file)
{
    uint64_t end = 0;
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof *file->tensors, by_offset);
    for (uint32_t i = 0; i < file->count; i++) {
        const struct akv_tensor *tensor = &file->tensors[i];
        if (tensor->offset < end)
            return akv_fail(NULL, ANYKV_E_DATA, "%s: data_offsets overlap those of %s",
                            tensor->name, file->tensors[i - 1].name);
        if (tensor->offset > end)
            return akv_fail(NULL, ANYKV_E_DATA,
                            "%s: data_offsets leave a hole of %" PRIu64 " bytes before it",
                            tensor->name, tensor->offset - end);
        end += tensor->bytes; /* within data_bytes: checked with the tensor */
    }
    if (end != file->data_bytes)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "file: the tensors end %" PRIu64 " bytes before the file does",
                        file->data_bytes - end);
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
    for (uint32_t i = 1; i < file->count; i++)
        if (strcmp(file->tensors[i - 1].name, file->tensors[i].name) == 0)
            return akv_fail(NULL, ANYKV_E_DATA, "%s: this tensor is there twice",
                            file->tensors[i].name);
    return ANYKV_OK;
}

static anykv_status read_at(int fd, void *data, uint64_t bytes, uint64_t offset)
{
    char *at = data;
    while (bytes > 0) {
        size_t want = bytes > (1u << 30) ? 1u << 30 : (size_t)bytes;
        ssize_t got = pread(fd, at, want, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return akv_fail(NULL, ANYKV_E_IO, "file: cannot be read: %s", strerror(errno));
        if (got == 0)
            return akv_fail(NULL, ANYKV_E_DATA, "file: ends at byte %" PRIu64, offset);
        at += got;
        bytes -= (uint64_t)got;
        offset += (uint64_t)got;
    }
    return ANYKV_OK;
}

static anykv_status load(struct akv_safetensors *file, const char *path)
{
    struct stat about;
    uint8_t raw[8];
    uint64_t header = 0;
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0 || fstat(file->fd, &about) != 0)
        return akv_fail(NULL, ANYKV_E_IO, "file: cannot be opened: %s", strerror(errno));
    if (!S_ISREG(about.st_mode))
        return akv_fail(NULL, ANYKV_E_IO, "file: is not a regular file");
    uint64_t size = (uint64_t)about.st_size;
    if (size < sizeof raw)
        return akv_fail(NULL, ANYKV_E_DATA, "file: %" PRIu64 " bytes are too few for a header",
                        size);
    anykv_status status = read_at(file->fd, raw, sizeof raw, 0);
    if (status != ANYKV_OK)
        return status;
    for (int i = 8; i-- > 0;)
        header = header << 8 | raw[i];
    if (header > AKV_HEADER_LIMIT)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "header length: %" PRIu64 " is above the limit of %u bytes", header,
                        AKV_HEADER_LIMIT);
    if (header > size - sizeof raw)
        return akv_fail(NULL, ANYKV_E_DATA,
                        "header length: %" PRIu64 " bytes, but only %" PRIu64 " follow in the file",
                        header, size - sizeof raw);
    file->data_offset = sizeof raw + header;
    file->data_bytes = size - file->data_offset;
    char *text = akv_alloc(NULL, (size_t)header + 1, 1);
    if (text == NULL)
        return ANYKV_E_MEMORY;
    status = read_at(file->fd, text, header, sizeof raw);
    if (status == ANYKV_OK)
        status = read_header(file, text, (size_t)header);
    akv_free(NULL, text);
    return status == ANYKV_OK ? check_coverage(file) : status;
}

anykv_status akv_safetensors_open(const char *path, struct akv_safetensors **file_out)
{
    struct akv_safetensors *file = akv_alloc(NULL, 1, sizeof *file);
    if (file == NULL)
        return ANYKV_E_MEMORY;
    file->fd = -1;
    anykv_status status = load(file, path);
    if (status != ANYKV_OK)
        akv_safetensors_close(file);
    else
        *file_out = file;
    return status;
}

void akv_safetensors_close(struct akv_safetensors *file)
{
    if (file == NULL)
        return;
    if (file->fd >= 0)
        close(file->fd);
    akv_free(NULL, file->tensors);
    akv_free(NULL, file->metas);
    akv_free(NULL, file);
}

uint32_t akv_safetensors_count(const struct akv_safetensors *file)
{
    return file->count;
}

const struct akv_tensor *akv_safetensors_at(const struct akv_safetensors *file, uint32_t index)
{
    return index < file->count ? &file->tensors[index] : NULL;
}

const struct akv_tensor *akv_safetensors_find(const struct akv_safetensors *file, const char *name)
{
    for (uint32_t i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0)
            return &file->tensors[i];
    return NULL;
}

const char *akv_safetensors_meta(const struct akv_safetensors *file, const char *key)
{
    for (uint32_t i = 0; i < file->meta_count; i++)
        if (strcmp(file->metas[i].key, key) == 0)
            return file->metas[i].value;
    return NULL;
}

anykv_status akv_safetensors_read(struct akv_safetensors *file, const struct akv_tensor *tensor,
                                  void *data)
{
    return read_at(file->fd, data, tensor->bytes, file->data_offset + tensor->offset);
}
