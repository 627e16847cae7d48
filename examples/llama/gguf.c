/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF: opening and checking a file, finding keys and tensors. */
#include "gguf.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_KEYS = 65536, MAX_TENSORS = 65536, MAX_NAME = 1024, DEFAULT_ALIGNMENT = 32 };

/* Elements and bytes of a block of each tensor type that gguf_row.c decodes. */
static const struct {
    uint32_t type, elements, bytes;
} blocks[] = {
    {0, 1, 4},      /* F32 */
    {1, 1, 2},      /* F16 */
    {2, 32, 18},    /* Q4_0 */
    {3, 32, 20},    /* Q4_1 */
    {8, 32, 34},    /* Q8_0 */
    {14, 256, 210}, /* Q6_K */
    {30, 1, 2},     /* BF16 */
};

/* A place in the file while it is checked; `bad` sticks. */
struct reader {
    const uint8_t *at, *end;
    int bad;
};

static const uint8_t *take(struct reader *in, uint64_t bytes)
{
    if (in->bad || bytes > (uint64_t)(in->end - in->at)) {
        in->bad = 1;
        return NULL;
    }
    const uint8_t *start = in->at;
    in->at += bytes;
    return start;
}

static uint64_t number(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; at && i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static uint32_t take_u32(struct reader *in)
{
    return (uint32_t)number(take(in, 4), 4);
}
static uint64_t take_u64(struct reader *in)
{
    return number(take(in, 8), 8);
}

static struct gguf_text take_text(struct reader *in)
{
    struct gguf_text text = {"", take_u64(in)};
    const uint8_t *at = take(in, text.bytes);
    if (at)
        text.data = (const char *)at;
    else
        text.bytes = 0;
    return text;
}

/* Bytes of a scalar value; 0: not a scalar. */
static uint32_t scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

static int same(struct gguf_text text, const char *name)
{
    return text.bytes == strlen(name) && memcmp(text.data, name, text.bytes) == 0;
}

static int take_key(struct reader *in, struct gguf_key *key)
{
    key->name = take_text(in);
    key->type = take_u32(in);
    key->array = key->type == GGUF_ARRAY;
    key->count = 1;
    if (key->array) {
        key->type = take_u32(in);
        key->count = take_u64(in);
    }
    if (in->bad || key->name.bytes == 0 || key->name.bytes > MAX_NAME)
        return fail("GGUF: a key is cut off or its name is empty or longer than %d bytes",
                    MAX_NAME);
    key->at = in->at;
    if (key->type == GGUF_STRING) {
        /* Each takes at least its length, so a huge count ends with the file. */
        for (uint64_t i = 0; i < key->count && !in->bad; i++)
            (void)take_text(in);
    } else if (scalar_bytes(key->type) == 0) {
        return fail("GGUF: key %.*s has values of type %u", (int)key->name.bytes, key->name.data,
                    key->type);
    } else if (key->count > (uint64_t)(in->end - in->at) / scalar_bytes(key->type)) {
        in->bad = 1;
    } else {
        (void)take(in, key->count * scalar_bytes(key->type));
    }
    if (in->bad)
        return fail("GGUF: key %.*s runs past the end of the file", (int)key->name.bytes,
                    key->name.data);
    return 0;
}

/* Name, shape and type; *at_out is where its data begin in the data section. */
static int take_tensor(struct reader *in, struct gguf_tensor *tensor, uint64_t *at_out)
{
    tensor->name = take_text(in);
    if (in->bad || tensor->name.bytes == 0 || tensor->name.bytes > MAX_NAME)
        return fail("GGUF: a tensor is cut off or its name is empty or longer than %d bytes",
                    MAX_NAME);
    tensor->dimensions = take_u32(in);
    if (in->bad || tensor->dimensions < 1 || tensor->dimensions > 4)
        return fail("GGUF: tensor %.*s has %u dimensions", (int)tensor->name.bytes,
                    tensor->name.data, tensor->dimensions);
    tensor->rows = 1;
    for (uint32_t i = 0; i < tensor->dimensions; i++) {
        uint64_t size = take_u64(in);
        if (in->bad || size == 0 || size > UINT32_MAX || tensor->rows > UINT32_MAX / size)
            return fail("GGUF: tensor %.*s: dimension %u out of range", (int)tensor->name.bytes,
                        tensor->name.data, i);
        if (i == 0)
            tensor->columns = size;
        else
            tensor->rows *= size;
    }
    tensor->type = take_u32(in);
    *at_out = take_u64(in);
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        if (blocks[i].type != tensor->type)
            continue;
        if (tensor->columns % blocks[i].elements != 0)
            return fail("GGUF: tensor %.*s: rows of %llu elements do not fit blocks of %u",
                        (int)tensor->name.bytes, tensor->name.data,
                        (unsigned long long)tensor->columns, blocks[i].elements);
        tensor->row_bytes = tensor->columns / blocks[i].elements * blocks[i].bytes;
    }
    return in->bad ? fail("GGUF: the list of tensors is cut off") : 0;
}

static int take_tensors(struct gguf *file, struct reader *in, uint64_t alignment)
{
    uint64_t *starts = grab(file->tensor_count, sizeof *starts);
    int status = starts ? 0 : -1;
    for (uint64_t i = 0; i < file->tensor_count && status == 0; i++)
        status = take_tensor(in, &file->tensors[i], &starts[i]);
    uint64_t header = (uint64_t)(in->at - file->data);
    uint64_t data = (header + alignment - 1) / alignment * alignment;
    for (uint64_t i = 0; i < file->tensor_count && status == 0; i++) {
        struct gguf_tensor *tensor = &file->tensors[i];
        uint64_t space = data <= file->bytes ? file->bytes - data : 0;
        /* rows < 2^32, row_bytes < 2^36: the product cannot wrap once it is compared by division.
         */
        if (starts[i] % alignment != 0 || starts[i] > space ||
            (tensor->row_bytes && tensor->rows > (space - starts[i]) / tensor->row_bytes))
            status = fail("GGUF: tensor %.*s lies outside the file (cut off?)",
                          (int)tensor->name.bytes, tensor->name.data);
        else
            tensor->at = file->data + data + starts[i];
    }
    free(starts);
    return status;
}

static int parse(struct gguf *file)
{
    struct reader in = {file->data, file->data + file->bytes, 0};
    if (take_u32(&in) != 0x46554747u)
        return fail("no GGUF file: it does not begin with GGUF");
    uint32_t version = take_u32(&in);
    if (version != 2 && version != 3)
        return fail("GGUF version %u is not one of 2, 3", version);
    uint64_t tensors = take_u64(&in), keys = take_u64(&in);
    if (in.bad || keys > MAX_KEYS || tensors > MAX_TENSORS)
        return fail("GGUF: header cut off, or more than %d keys or %d tensors", MAX_KEYS,
                    MAX_TENSORS);
    file->keys = grab(keys, sizeof *file->keys);
    file->tensors = grab(tensors, sizeof *file->tensors);
    if (!file->keys || !file->tensors)
        return -1;
    for (; file->key_count < keys; file->key_count++)
        if (take_key(&in, &file->keys[file->key_count]) != 0)
            return -1;
    uint32_t alignment, usual = DEFAULT_ALIGNMENT;
    if (gguf_u32(file, "general.alignment", 1, 1u << 20, &usual, &alignment) != 0)
        return -1;
    if (alignment & (alignment - 1))
        return fail("GGUF: general.alignment %u is no power of two", alignment);
    file->tensor_count = tensors;
    return take_tensors(file, &in, alignment);
}

int gguf_open(struct gguf *file, const char *path)
{
    memset(file, 0, sizeof *file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0)
        return fail("%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size <= 0) {
        (void)close(fd);
        return fail("%s: no file, or an empty one", path);
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    (void)close(fd);
    if (data == MAP_FAILED)
        return fail("%s: %s", path, strerror(errno));
    file->data = data;
    file->bytes = (uint64_t)info.st_size;
    if (parse(file) != 0) {
        gguf_close(file);
        return -1;
    }
    return 0;
}

void gguf_close(struct gguf *file)
{
    free(file->keys);
    free(file->tensors);
    if (file->data)
        (void)munmap((void *)(uintptr_t)file->data, (size_t)file->bytes);
    memset(file, 0, sizeof *file);
}

/* ---- keys ---- */

const struct gguf_key *gguf_find(const struct gguf *file, const char *name)
{
    for (uint64_t i = 0; i < file->key_count; i++)
        if (same(file->keys[i].name, name))
            return &file->keys[i];
    return NULL;
}

int gguf_u32(const struct gguf *file, const char *name, uint32_t least, uint32_t most,
             const uint32_t *fallback, uint32_t *out)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (!key && fallback) {
        *out = *fallback;
        return 0;
    }
    uint64_t value = 0;
    if (key && !key->array)
        value = number(key->at, scalar_bytes(key->type));
    if (!key || key->array || key->type == GGUF_STRING || key->type == GGUF_F32 ||
        key->type == GGUF_F64 || value < least || value > most)
        return fail("GGUF: %s is missing or not a number from %u to %u", name, least, most);
    *out = (uint32_t)value;
    return 0;
}

int gguf_f32(const struct gguf *file, const char *name, const float *fallback, float *out)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (!key && fallback) {
        *out = *fallback;
        return 0;
    }
    if (!key || key->array || key->type != GGUF_F32)
        return fail("GGUF: %s is missing or not an F32 number", name);
    memcpy(out, key->at, sizeof *out);
    return *out > -1e30f && *out < 1e30f ? 0 : fail("GGUF: %s is not finite", name);
}

int gguf_is(const struct gguf *file, const char *name, const char *value)
{
    const struct gguf_key *key = gguf_find(file, name);
    uint64_t cursor = 0;
    return key && !key->array && key->type == GGUF_STRING &&
           same(gguf_next_text(key, &cursor), value);
}

struct gguf_text gguf_next_text(const struct gguf_key *key, uint64_t *cursor)
{
    struct gguf_text text;
    text.bytes = number(key->at + *cursor, 8);
    text.data = (const char *)key->at + *cursor + 8;
    *cursor += 8 + text.bytes;
    return text;
}

/* ---- tensors ---- */

static const struct gguf_tensor *named(const struct gguf *file, const char *name)
{
    for (uint64_t i = 0; i < file->tensor_count; i++)
        if (same(file->tensors[i].name, name))
            return &file->tensors[i];
    return NULL;
}

int gguf_has(const struct gguf *file, const char *name)
{
    return named(file, name) != NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *file, const char *name, uint64_t columns,
                                      uint64_t rows)
{
    const struct gguf_tensor *tensor = named(file, name);
    if (!tensor)
        (void)fail("GGUF: tensor %s is missing", name);
    else if (tensor->columns != columns || tensor->rows != (rows ? rows : 1) ||
             tensor->dimensions != (rows ? 2u : 1u))
        (void)fail("GGUF: tensor %s is not %llu x %llu", name, (unsigned long long)columns,
                   (unsigned long long)(rows ? rows : 1));
    else if (tensor->row_bytes == 0)
        (void)fail(
            "GGUF: tensor %s has type %u; this program reads F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
            "Q6_K",
            name, tensor->type);
    else
        return tensor;
    return NULL;
}
