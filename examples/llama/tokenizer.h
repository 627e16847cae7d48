/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair tokenizer of GPT-2's kind, from the keys of a GGUF file. */
#ifndef LLAMA_TOKENIZER_H
#define LLAMA_TOKENIZER_H
#include "gguf.h"

struct merge;

struct tokenizer {
    struct gguf_text
        *tokens; /* spelt with one printable character a byte; they point into the file */
    uint32_t count;
    uint32_t *slots;      /* hash table of the tokens: id + 1, 0: free */
    struct merge *merges; /* hash table of the pairs that may be joined */
    uint32_t slot_mask, merge_mask;
    uint32_t of_byte[256];
    uint32_t end;     /* end of text */
    int digits_alone; /* "smollm": each digit is a word */
};

int tokenizer_open(struct tokenizer *tokenizer, const struct gguf *file);
void tokenizer_close(struct tokenizer *tokenizer);
/* Tokens of a text; fails on invalid UTF-8.  *ids_out is the caller's to free. */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, uint64_t bytes,
                     uint32_t **ids_out, uint32_t *count_out);
/* Bytes that a token stands for, at most `room`; returns how many. */
uint32_t tokenizer_decode(const struct tokenizer *tokenizer, uint32_t id, char *out, uint32_t room);

#endif
