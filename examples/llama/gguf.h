/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of GGUF files (versions 2 and 3): keys, and tensors whose rows it decodes to F32.
 * The file is untrusted: every count, length and offset is checked when it is opened, so that what
 * the functions below hand out lies inside the file. */
#ifndef LLAMA_GGUF_H
#define LLAMA_GGUF_H
#include "common.h"

enum gguf_type { /* of values of keys */
                 GGUF_U8,
                 GGUF_I8,
                 GGUF_U16,
                 GGUF_I16,
                 GGUF_U32,
                 GGUF_I32,
                 GGUF_F32,
                 GGUF_BOOL,
                 GGUF_STRING,
                 GGUF_ARRAY,
                 GGUF_U64,
                 GGUF_I64,
                 GGUF_F64
};

struct gguf_text { /* not terminated */
    const char *data;
    uint64_t bytes;
};

struct gguf_key {
    struct gguf_text name;
    uint32_t type; /* of the elements, if it is an array */
    int array;
    uint64_t count;    /* 1, if it is none */
    const uint8_t *at; /* the elements */
};

struct gguf_tensor {
    struct gguf_text name;
    uint64_t columns, rows; /* a row is what lies together; all further dimensions are rows */
    uint32_t dimensions;
    uint32_t type;
    uint64_t row_bytes; /* 0: a type that this program does not read */
    const uint8_t *at;
};

struct gguf {
    const uint8_t *data;
    uint64_t bytes;
    struct gguf_key *keys;
    uint64_t key_count;
    struct gguf_tensor *tensors;
    uint64_t tensor_count;
};

int gguf_open(struct gguf *file, const char *path);
void gguf_close(struct gguf *file);

/* A key; NULL if there is none of this name. */
const struct gguf_key *gguf_find(const struct gguf *file, const char *name);
/* The value of a number or of a text; -1: absent (with `fallback` not NULL: taken instead) or of
 * another kind, or beyond the limits. */
int gguf_u32(const struct gguf *file, const char *name, uint32_t least, uint32_t most,
             const uint32_t *fallback, uint32_t *out);
int gguf_f32(const struct gguf *file, const char *name, const float *fallback, float *out);
int gguf_is(const struct gguf *file, const char *name, const char *value);
/* Walks an array of texts: *cursor begins with 0, ends after `count` calls. */
struct gguf_text gguf_next_text(const struct gguf_key *key, uint64_t *cursor);

/* A tensor of this shape and a type that this program reads; NULL otherwise.  rows 0: one
 * dimension. gguf_has: is there one of this name. */
const struct gguf_tensor *gguf_tensor(const struct gguf *file, const char *name, uint64_t columns,
                                      uint64_t rows);
int gguf_has(const struct gguf *file, const char *name);
/* Decodes one row. */
void gguf_row(const struct gguf_tensor *tensor, uint64_t row, float *out);

#endif
