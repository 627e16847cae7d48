/* SPDX-License-Identifier: Apache-2.0 */
/* A model of llama architecture: weights as F32, and the forward pass over one batch. */
#ifndef LLAMA_MODEL_H
#define LLAMA_MODEL_H
#include "gguf.h"
#include "store.h"

struct layer {
    float *attention_norm, *q, *k, *v, *out;
    float *feed_norm, *gate, *up, *down;
};

struct model {
    uint32_t layers, width, feed, heads, kv_heads, head_dim, vocabulary, rope_dim, context;
    float epsilon, rope_base;
    double *frequencies; /* radians a position, of each of the rope_dim/2 pairs (2i, 2i+1) */
    struct layer *layer;
    float *output_norm;
    float *output;                       /* [vocabulary][width]; tied: the embedding */
    const struct gguf_tensor *embedding; /* rows are decoded when they are needed */
    char name[128], license[64];
    uint8_t identity[32]; /* of the weights, for block keys */
    /* Room for a batch. */
    uint32_t capacity;
    float *x, *normed, *q, *k, *v, *mixed, *gate, *up, *angles;
};

/* Reads the weights; batches have at most `capacity` tokens. */
int model_open(struct model *model, const struct gguf *file, uint32_t capacity);
void model_close(struct model *model);

/* Sees the rows of one layer as they go to the store (`llama dump`). */
struct tap {
    void (*rows)(void *user, uint32_t layer, const float *q, const float *k, const float *v);
    void *user;
};

/* One forward pass.  The tokens of the parts stand one part after the other; each part's rows go to
 * its own store, whose step the caller has begun and will end.  logits: [count of
 * `wanted`][vocabulary], of the tokens with these indices in the batch. */
int model_forward(struct model *model, const uint32_t *ids, const uint32_t *positions,
                  struct store *const *parts, const uint32_t *part_tokens, uint32_t part_count,
                  const uint32_t *wanted, uint32_t wanted_count, float *logits,
                  const struct tap *tap);

#endif
