/* SPDX-License-Identifier: Apache-2.0 */
/* Text to tokens: split into words as GPT-2 does, then join pairs of tokens, the earliest learnt
 * first. */
#include "tokenizer.h"
#include "unicode.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKENS = 1 << 22, NONE = 0xFFFFFFFFu };

struct merge {
    uint32_t left, right, joined, rank; /* rank + 1; 0: free slot */
};

/* ---- tables -------------------------------------------------------------------------------------
 */

/* GPT-2 spells each byte as one printable character: itself where that is one, else 256, 257, … */
static uint32_t character_of_byte(uint32_t byte)
{
    uint32_t next = 256;
    for (uint32_t i = 0; i < 256; i++) {
        int printable = (i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
        if (i == byte)
            return printable ? i : next;
        next += !printable;
    }
    return 0;
}

static uint32_t hash_bytes(const char *data, uint64_t bytes)
{
    uint32_t hash = 2166136261u;
    for (uint64_t i = 0; i < bytes; i++)
        hash = (hash ^ (uint8_t)data[i]) * 16777619u;
    return hash ^ hash >> 15;
}

static uint32_t hash_pair(uint32_t left, uint32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(hash >> 32);
}

static uint32_t id_of(const struct tokenizer *t, const char *data, uint64_t bytes)
{
    for (uint32_t slot = hash_bytes(data, bytes) & t->slot_mask; t->slots[slot];
         slot = (slot + 1) & t->slot_mask) {
        struct gguf_text token = t->tokens[t->slots[slot] - 1];
        if (token.bytes == bytes && memcmp(token.data, data, bytes) == 0)
            return t->slots[slot] - 1;
    }
    return NONE;
}

static const struct merge *merge_of(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint32_t slot = hash_pair(left, right) & t->merge_mask;
    for (; t->merges[slot].rank; slot = (slot + 1) & t->merge_mask)
        if (t->merges[slot].left == left && t->merges[slot].right == right)
            return &t->merges[slot];
    return NULL;
}

/* A power of two with at most half of the slots in use. */
static uint32_t slots_for(uint64_t count)
{
    uint32_t slots = 16;
    while (slots < 2 * count)
        slots *= 2;
    return slots;
}

static int read_tokens(struct tokenizer *t, const struct gguf_key *key)
{
    uint32_t slots = slots_for(key->count);
    t->count = (uint32_t)key->count;
    t->slot_mask = slots - 1;
    t->tokens = grab(t->count, sizeof *t->tokens);
    t->slots = grab(slots, sizeof *t->slots);
    if (!t->tokens || !t->slots)
        return -1;
    uint64_t cursor = 0;
    for (uint32_t id = 0; id < t->count; id++) {
        t->tokens[id] = gguf_next_text(key, &cursor);
        if (id_of(t, t->tokens[id].data, t->tokens[id].bytes) != NONE)
            continue; /* the first of this spelling counts */
        uint32_t slot = hash_bytes(t->tokens[id].data, t->tokens[id].bytes) & t->slot_mask;
        while (t->slots[slot])
            slot = (slot + 1) & t->slot_mask;
        t->slots[slot] = id + 1;
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t c = character_of_byte(byte);
        char spelling[2] = {(char)c, 0};
        uint64_t bytes = 1;
        if (c >= 0x80) {
            spelling[0] = (char)(0xC0 | c >> 6);
            spelling[1] = (char)(0x80 | (c & 63));
            bytes = 2;
        }
        t->of_byte[byte] = id_of(t, spelling, bytes); /* NONE: no text with this byte */
    }
    return 0;
}

static int read_merges(struct tokenizer *t, const struct gguf_key *key)
{
    uint32_t slots = slots_for(key->count);
    t->merge_mask = slots - 1;
    t->merges = grab(slots, sizeof *t->merges);
    if (!t->merges)
        return -1;
    uint64_t cursor = 0;
    for (uint32_t rank = 0; rank < key->count; rank++) {
        struct gguf_text text = gguf_next_text(key, &cursor);
        const char *space = text.bytes > 2 ? memchr(text.data + 1, ' ', text.bytes - 1) : NULL;
        char joined[1024];
        if (!space || text.bytes > sizeof joined)
            return fail("GGUF: merge %u of the tokenizer is no pair", rank);
        uint64_t left = (uint64_t)(space - text.data), right = text.bytes - left - 1;
        memcpy(joined, text.data, left);
        memcpy(joined + left, space + 1, right);
        struct merge merge = {id_of(t, text.data, left), id_of(t, space + 1, right),
                              id_of(t, joined, left + right), rank + 1};
        if (merge.left == NONE || merge.right == NONE || merge.joined == NONE)
            return fail("GGUF: merge %u of the tokenizer names a token that is missing", rank);
        if (merge_of(t, merge.left, merge.right))
            continue;
        uint32_t slot = hash_pair(merge.left, merge.right) & t->merge_mask;
        while (t->merges[slot].rank)
            slot = (slot + 1) & t->merge_mask;
        t->merges[slot] = merge;
    }
    return 0;
}

int tokenizer_open(struct tokenizer *t, const struct gguf *file)
{
    memset(t, 0, sizeof *t);
    const struct gguf_key *tokens = gguf_find(file, "tokenizer.ggml.tokens");
    const struct gguf_key *merges = gguf_find(file, "tokenizer.ggml.merges");
    if (!gguf_is(file, "tokenizer.ggml.model", "gpt2"))
        return fail(
            "GGUF: tokenizer.ggml.model is not gpt2, the only kind that this program reads");
    t->digits_alone = gguf_is(file, "tokenizer.ggml.pre", "smollm");
    if (!t->digits_alone && !gguf_is(file, "tokenizer.ggml.pre", "gpt-2"))
        return fail("GGUF: tokenizer.ggml.pre is neither smollm nor gpt-2");
    if (!tokens || !tokens->array || tokens->type != GGUF_STRING || tokens->count == 0 ||
        tokens->count > MAX_TOKENS || !merges || !merges->array || merges->type != GGUF_STRING ||
        merges->count > MAX_TOKENS)
        return fail("GGUF: the lists of tokens and merges are missing, empty or beyond %d",
                    MAX_TOKENS);
    if (gguf_u32(file, "tokenizer.ggml.eos_token_id", 0, (uint32_t)tokens->count - 1, NULL,
                 &t->end) != 0 ||
        read_tokens(t, tokens) != 0 || read_merges(t, merges) != 0) {
        tokenizer_close(t);
        return -1;
    }
    return 0;
}

void tokenizer_close(struct tokenizer *t)
{
    free(t->tokens);
    free(t->slots);
    free(t->merges);
    memset(t, 0, sizeof *t);
}

/* ---- words
 * ---------------------------------------------------------------------------------------- */

enum class { SPACE, LETTER, NUMBER, OTHER, OUTSIDE };

/* One code point and where the next begins; 0: not valid UTF-8 (overlong forms and surrogates too).
 */
static uint32_t code_point(const uint8_t *at, uint64_t bytes, uint32_t *out)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t length = at[0] < 0x80       ? 1
                      : at[0] >> 5 == 6  ? 2
                      : at[0] >> 4 == 14 ? 3
                      : at[0] >> 3 == 30 ? 4
                                         : 0;
    if (length == 0 || length > bytes)
        return 0;
    uint32_t c = length == 1 ? at[0] : at[0] & (0x7Fu >> length);
    for (uint32_t i = 1; i < length; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        c = c << 6 | (at[i] & 63);
    }
    *out = c;
    return c >= least[length] && c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF) ? length : 0;
}

static int within(const uint32_t (*ranges)[2], size_t count, uint32_t c)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > ranges[middle][1])
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && c >= ranges[low][0];
}

static enum class class_of(uint32_t c) {
    if (c == ' ' || (c >= 9 && c <= 13)) return SPACE;
    if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z' ? LETTER
    : c >= '0' && c <= '9'                                  ? NUMBER
                                                            : OTHER;
    if (c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
        c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000) return SPACE;
    if (within(letters, sizeof letters / sizeof letters[0], c)) return LETTER;
    return within(numbers, sizeof numbers / sizeof numbers[0], c) ? NUMBER : OTHER;
}

static enum class class_at(const uint8_t *at, const uint8_t *end, uint32_t *length) {
    uint32_t c = 0; *length = 0; if (at >= end) return OUTSIDE;
    *length = code_point(at, (uint64_t)(end - at), &c);
    return class_of(c);
}

/* The end of the word that begins at `at`:  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+|
 * ?[^\s\p{L}\p{N}]+
 * |\s+(?!\S)|\s+ .  Where digits stand alone, \p{N} is split off before this rule is applied, so
 * that the text before a digit ends there. */
static const uint8_t *word_end(const struct tokenizer *t, const uint8_t *at, const uint8_t *end)
{
    uint32_t length;
    enum class class = class_at(at, end, &length);
    if (t->digits_alone && class == NUMBER)
        return at + length;
    if (*at == '\'' && end - at > 1) {
        if (strchr("stmd", at[1]) && at[1])
            return at + 2;
        if (end - at > 2 && ((at[1] == 'r' && at[2] == 'e') || (at[1] == 'v' && at[2] == 'e') ||
                             (at[1] == 'l' && at[2] == 'l')))
            return at + 3;
    }
    const uint8_t *start = at;
    if (*at == ' ') {
        enum class next = class_at(at + 1, end, &length);
        if (next == LETTER || next == OTHER || (next == NUMBER && !t->digits_alone)) {
            at++;
            class = next;
        } else {
            length = 1;
        }
    }
    const uint8_t *last = at;
    enum class now = class;
    while (now == class) {
        last = at;
        at += length;
        now = class_at(at, end, &length);
    }
    /* White space leaves its last character to the word that follows. */
    int ends_here = now == OUTSIDE || (t->digits_alone && now == NUMBER);
    return class == SPACE && !ends_here && last > start ? last : at;
}

/* ---- joining
 * ---------------------------------------------------------------------------------------- */

/* Joins all places of the pair that was learnt first, until none is left. */
static uint32_t join(const struct tokenizer *t, uint32_t *ids, uint32_t count)
{
    for (;;) {
        const struct merge *best = NULL;
        for (uint32_t i = 0; i + 1 < count; i++) {
            const struct merge *merge = merge_of(t, ids[i], ids[i + 1]);
            if (merge && (!best || merge->rank < best->rank))
                best = merge;
        }
        if (!best)
            return count;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < count; i++, kept++) {
            int pair = i + 1 < count && ids[i] == best->left && ids[i + 1] == best->right;
            ids[kept] = pair ? best->joined : ids[i];
            i += (uint32_t)pair;
        }
        count = kept;
    }
}

int tokenizer_encode(const struct tokenizer *t, const char *text, uint64_t bytes,
                     uint32_t **ids_out, uint32_t *count_out)
{
    const uint8_t *at = (const uint8_t *)text, *end = at + bytes;
    if (bytes > UINT32_MAX / 2)
        return fail("the text has more than 2^31 bytes");
    for (uint64_t i = 0; i < bytes;) {
        uint32_t c, length = code_point(at + i, bytes - i, &c);
        if (length == 0)
            return fail("the text is not valid UTF-8 at byte %llu", (unsigned long long)i);
        i += length;
    }
    uint32_t *ids = grab(bytes, sizeof *ids), count = 0;
    if (!ids)
        return -1;
    while (at < end) {
        const uint8_t *stop = word_end(t, at, end);
        uint32_t word = 0;
        for (; at < stop; at++) {
            ids[count + word] = t->of_byte[*at];
            if (ids[count + word++] == NONE) {
                free(ids);
                return fail("the tokenizer has no token for byte 0x%02x", *at);
            }
        }
        count += join(t, ids + count, word);
    }
    *ids_out = ids;
    *count_out = count;
    return 0;
}

uint32_t tokenizer_decode(const struct tokenizer *t, uint32_t id, char *out, uint32_t room)
{
    uint32_t bytes = 0;
    if (id >= t->count)
        return 0;
    const uint8_t *at = (const uint8_t *)t->tokens[id].data, *end = at + t->tokens[id].bytes;
    while (at < end && bytes < room) {
        uint32_t c, length = code_point(at, (uint64_t)(end - at), &c), byte = 0;
        if (length == 0)
            break;
        while (byte < 256 && character_of_byte(byte) != c)
            byte++;
        if (byte < 256)
            out[bytes++] = (char)byte;
        at += length;
    }
    return bytes;
}
