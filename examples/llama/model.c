/* SPDX-License-Identifier: Apache-2.0 */
/* A model of llama architecture. */
#include "model.h"
#include "dense.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- weights
 * -------------------------------------------------------------------------------------- */

/* All rows of a tensor as F32. */
static float *weights(const struct gguf *file, uint64_t columns, uint64_t rows, const char *format,
                      ...)
{
    char name[64];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const struct gguf_tensor *tensor = gguf_tensor(file, name, columns, rows);
    float *data = tensor ? grab(tensor->rows * columns, sizeof *data) : NULL;
    for (uint64_t row = 0; data && row < tensor->rows; row++)
        gguf_row(tensor, row, data + row * columns);
    return data;
}

/* Sizes, each within bounds that keep every product below in 64 bits. */
static int read_shape(struct model *m, const struct gguf *file)
{
    uint32_t size, zero = 0;
    if (!gguf_is(file, "general.architecture", "llama"))
        return fail("GGUF: general.architecture is not llama");
    if (gguf_u32(file, "llama.block_count", 1, 1024, NULL, &m->layers) != 0 ||
        gguf_u32(file, "llama.embedding_length", 32, 1u << 16, NULL, &m->width) != 0 ||
        gguf_u32(file, "llama.feed_forward_length", 32, 1u << 18, NULL, &m->feed) != 0 ||
        gguf_u32(file, "llama.attention.head_count", 1, 1024, NULL, &m->heads) != 0 ||
        gguf_u32(file, "llama.attention.head_count_kv", 1, 1024, &m->heads, &m->kv_heads) != 0 ||
        gguf_u32(file, "llama.context_length", 1, 1u << 24, NULL, &m->context) != 0 ||
        gguf_f32(file, "llama.attention.layer_norm_rms_epsilon", NULL, &m->epsilon) != 0)
        return -1;
    size = m->width / m->heads;
    if (gguf_u32(file, "llama.attention.key_length", 1, 1024, &size, &m->head_dim) != 0 ||
        gguf_u32(file, "llama.attention.value_length", m->head_dim, m->head_dim, &m->head_dim,
                 &size) != 0)
        return -1;
    if (m->heads % m->kv_heads != 0 || m->head_dim == 0 || m->head_dim % 2 != 0)
        return fail("GGUF: %u heads of %u over %u key/value heads", m->heads, m->head_dim,
                    m->kv_heads);
    if (gguf_u32(file, "llama.rope.dimension_count", 2, m->head_dim, &m->head_dim, &m->rope_dim) !=
            0 ||
        gguf_u32(file, "llama.expert_count", 0, 0, &zero, &size) != 0)
        return -1;
    const struct gguf_key *tokens = gguf_find(file, "tokenizer.ggml.tokens");
    if (!tokens || tokens->count == 0 || tokens->count > 1u << 22)
        return fail("GGUF: tokenizer.ggml.tokens is missing, empty or too long");
    m->vocabulary = (uint32_t)tokens->count;
    return 0;
}

static int read_rope(struct model *m, const struct gguf *file)
{
    float usual = 10000.0f, one = 1.0f, factor;
    uint32_t pairs = m->rope_dim / 2;
    float *factors = NULL;
    if (gguf_f32(file, "llama.rope.freq_base", &usual, &m->rope_base) != 0 ||
        gguf_f32(file, "llama.rope.scaling.factor", &one, &factor) != 0)
        return -1;
    if (!(m->rope_base > 1.0f) || !(factor >= 1.0f))
        return fail("GGUF: llama.rope.freq_base %g or llama.rope.scaling.factor %g is out of range",
                    (double)m->rope_base, (double)factor);
    if (gguf_find(file, "llama.rope.scaling.type") &&
        !gguf_is(file, "llama.rope.scaling.type", "linear") &&
        !gguf_is(file, "llama.rope.scaling.type", "none"))
        return fail("GGUF: llama.rope.scaling.type is neither none nor linear");
    if (!gguf_is(file, "llama.rope.scaling.type", "linear"))
        factor = 1.0f;
    if (gguf_has(file, "rope_freqs.weight") &&
        !(factors = weights(file, pairs, 0, "rope_freqs.weight")))
        return -1;
    m->frequencies = grab(pairs, sizeof *m->frequencies);
    for (uint32_t i = 0; m->frequencies && i < pairs; i++) {
        double frequency = pow((double)m->rope_base, -2.0 * i / m->rope_dim) / (double)factor;
        m->frequencies[i] = factors && factors[i] > 0 ? frequency / (double)factors[i] : frequency;
    }
    free(factors);
    return m->frequencies ? 0 : -1;
}

static int read_layer(struct model *m, struct layer *l, const struct gguf *file, uint32_t i)
{
    uint64_t width = m->width, feed = m->feed;
    uint64_t q = (uint64_t)m->heads * m->head_dim, kv = (uint64_t)m->kv_heads * m->head_dim;
    l->attention_norm = weights(file, width, 0, "blk.%u.attn_norm.weight", i);
    l->q = weights(file, width, q, "blk.%u.attn_q.weight", i);
    l->k = weights(file, width, kv, "blk.%u.attn_k.weight", i);
    l->v = weights(file, width, kv, "blk.%u.attn_v.weight", i);
    l->out = weights(file, q, width, "blk.%u.attn_output.weight", i);
    l->feed_norm = weights(file, width, 0, "blk.%u.ffn_norm.weight", i);
    l->gate = weights(file, width, feed, "blk.%u.ffn_gate.weight", i);
    l->up = weights(file, width, feed, "blk.%u.ffn_up.weight", i);
    l->down = weights(file, feed, width, "blk.%u.ffn_down.weight", i);
    return l->attention_norm && l->q && l->k && l->v && l->out && l->feed_norm && l->gate &&
                   l->up && l->down
               ? 0
               : -1;
}

/* A model with tensors that this forward pass does not have would silently compute something else.
 */
static int all_tensors_known(const struct model *m, const struct gguf *file)
{
    uint64_t expected = UINT64_C(9) * m->layers + 2 + (uint64_t)gguf_has(file, "output.weight") +
                        (uint64_t)gguf_has(file, "rope_freqs.weight");
    if (file->tensor_count != expected)
        return fail("GGUF: %llu tensors where a plain llama model of %u layers has %llu",
                    (unsigned long long)file->tensor_count, m->layers,
                    (unsigned long long)expected);
    return 0;
}

static void read_name(const struct gguf *file, const char *key, char *out, size_t room)
{
    const struct gguf_key *found = gguf_find(file, key);
    uint64_t cursor = 0;
    (void)snprintf(out, room, "unknown");
    if (found && !found->array && found->type == GGUF_STRING) {
        struct gguf_text text = gguf_next_text(found, &cursor);
        (void)snprintf(out, room, "%.*s", (int)(text.bytes < room ? text.bytes : room - 1),
                       text.data);
    }
}

/* Names the weights in block keys: four FNV-1a sums of every fourth byte.  Against mix-ups, not
 * against an adversary, who would need a cryptographic hash here. */
static void read_identity(struct model *m, const struct gguf *file)
{
    uint64_t sum[4] = {14695981039346656037u, 1, 2, 3};
    for (uint64_t i = 0; i < file->bytes; i++)
        sum[i % 4] = (sum[i % 4] ^ file->data[i]) * 1099511628211u;
    memcpy(m->identity, sum, sizeof m->identity);
}

static int make_room(struct model *m)
{
    uint64_t tokens = m->capacity, q = (uint64_t)m->heads * m->head_dim,
             kv = (uint64_t)m->kv_heads * m->head_dim;
    m->x = grab(tokens * m->width, sizeof(float));
    m->normed = grab(tokens * m->width, sizeof(float));
    m->q = grab(tokens * q, sizeof(float));
    m->k = grab(tokens * kv, sizeof(float));
    m->v = grab(tokens * kv, sizeof(float));
    m->mixed = grab(tokens * q, sizeof(float));
    m->gate = grab(tokens * m->feed, sizeof(float));
    m->up = grab(tokens * m->feed, sizeof(float));
    m->angles = grab(tokens * m->rope_dim, sizeof(float));
    return m->x && m->normed && m->q && m->k && m->v && m->mixed && m->gate && m->up && m->angles
               ? 0
               : -1;
}

int model_open(struct model *m, const struct gguf *file, uint32_t capacity)
{
    memset(m, 0, sizeof *m);
    m->capacity = capacity;
    int status = read_shape(m, file);
    if (status == 0)
        status = all_tensors_known(m, file);
    if (status == 0)
        status = read_rope(m, file);
    if (status == 0 &&
        !(m->embedding = gguf_tensor(file, "token_embd.weight", m->width, m->vocabulary)))
        status = -1;
    if (status == 0 && !(m->layer = grab(m->layers, sizeof *m->layer)))
        status = -1;
    for (uint32_t i = 0; status == 0 && i < m->layers; i++)
        status = read_layer(m, &m->layer[i], file, i);
    if (status == 0) {
        const char *output =
            gguf_has(file, "output.weight") ? "output.weight" : "token_embd.weight";
        m->output_norm = weights(file, m->width, 0, "output_norm.weight");
        m->output = m->output_norm ? weights(file, m->width, m->vocabulary, "%s", output) : NULL;
        status = m->output ? make_room(m) : -1;
    }
    if (status == 0) {
        read_name(file, "general.name", m->name, sizeof m->name);
        read_name(file, "general.license", m->license, sizeof m->license);
        read_identity(m, file);
        return 0;
    }
    model_close(m);
    return -1;
}

void model_close(struct model *m)
{
    for (uint32_t i = 0; m->layer && i < m->layers; i++) {
        struct layer *l = &m->layer[i];
        float *all[] = {l->attention_norm, l->q,    l->k,  l->v,   l->out,
                        l->feed_norm,      l->gate, l->up, l->down};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++)
            free(all[j]);
    }
    float *all[] = {m->output_norm, m->output, m->x,    m->normed, m->q,     m->k,
                    m->v,           m->mixed,  m->gate, m->up,     m->angles};
    for (size_t j = 0; j < sizeof all / sizeof all[0]; j++)
        free(all[j]);
    free(m->layer);
    free(m->frequencies);
    memset(m, 0, sizeof *m);
}

/* ---- forward
 * ---------------------------------------------------------------------------------------- */

/* cos and sin of every pair at every token of the batch. */
static void set_angles(struct model *m, const uint32_t *positions, uint32_t tokens)
{
    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t i = 0; i < m->rope_dim / 2; i++) {
            double angle = (double)positions[t] * m->frequencies[i];
            m->angles[(size_t)t * m->rope_dim + 2 * i] = (float)cos(angle);
            m->angles[(size_t)t * m->rope_dim + 2 * i + 1] = (float)sin(angle);
        }
    }
}

static void rotate(const struct model *m, float *rows, uint32_t tokens, uint32_t heads)
{
    for (uint32_t t = 0; t < tokens; t++) {
        const float *angle = m->angles + (size_t)t * m->rope_dim;
        for (uint32_t h = 0; h < heads; h++, rows += m->head_dim) {
            for (uint32_t i = 0; i < m->rope_dim; i += 2) {
                float a = rows[i], b = rows[i + 1];
                rows[i] = a * angle[i] - b * angle[i + 1];
                rows[i + 1] = a * angle[i + 1] + b * angle[i];
            }
        }
    }
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

int model_forward(struct model *m, const uint32_t *ids, const uint32_t *positions,
                  struct store *const *parts, const uint32_t *part_tokens, uint32_t part_count,
                  const uint32_t *wanted, uint32_t wanted_count, float *logits,
                  const struct tap *tap)
{
    size_t width = m->width, feed = m->feed, q = (size_t)m->heads * m->head_dim,
           kv = (size_t)m->kv_heads * m->head_dim;
    uint32_t tokens = 0;
    for (uint32_t p = 0; p < part_count; p++)
        tokens += part_tokens[p];
    if (tokens > m->capacity)
        return fail("a batch of %u tokens is beyond the %u that this model was opened for", tokens,
                    m->capacity);
    for (uint32_t t = 0; t < tokens; t++) {
        if (ids[t] >= m->vocabulary)
            return fail("token %u is beyond the vocabulary of %u", ids[t], m->vocabulary);
        gguf_row(m->embedding, ids[t], m->x + t * width);
    }
    set_angles(m, positions, tokens);
    for (uint32_t i = 0; i < m->layers; i++) {
        const struct layer *l = &m->layer[i];
        dense_rms_norm(m->normed, m->x, l->attention_norm, tokens, width, m->epsilon);
        dense_product(m->q, q, m->normed, width, l->q, width, tokens, q, width);
        dense_product(m->k, kv, m->normed, width, l->k, width, tokens, kv, width);
        dense_product(m->v, kv, m->normed, width, l->v, width, tokens, kv, width);
        rotate(m, m->q, tokens, m->heads);
        rotate(m, m->k, tokens, m->kv_heads);
        if (tap)
            tap->rows(tap->user, i, m->q, m->k, m->v);
        for (uint32_t p = 0, at = 0; p < part_count; at += part_tokens[p], p++)
            if (store_layer(parts[p], i, m->q + at * q, m->k + at * kv, m->v + at * kv,
                            m->mixed + at * q) != 0)
                return -1;
        dense_product(m->normed, width, m->mixed, q, l->out, q, tokens, width, q);
        add(m->x, m->normed, tokens * width);
        dense_rms_norm(m->normed, m->x, l->feed_norm, tokens, width, m->epsilon);
        dense_product(m->gate, feed, m->normed, width, l->gate, width, tokens, feed, width);
        dense_product(m->up, feed, m->normed, width, l->up, width, tokens, feed, width);
        dense_swiglu(m->gate, m->up, tokens * feed);
        dense_product(m->normed, width, m->gate, feed, l->down, feed, tokens, width, feed);
        add(m->x, m->normed, tokens * width);
    }
    for (uint32_t i = 0; i < wanted_count; i++)
        dense_rms_norm(m->normed + i * width, m->x + wanted[i] * width, m->output_norm, 1, width,
                       m->epsilon);
    if (wanted_count)
        dense_product(logits, m->vocabulary, m->normed, width, m->output, width, wanted_count,
                      m->vocabulary, width);
    return 0;
}
