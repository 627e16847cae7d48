/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of the program and what they are given. */
#ifndef LLAMA_PROGRAM_H
#define LLAMA_PROGRAM_H
#include "model.h"
#include "store.h"
#include "tokenizer.h"

enum { MAX_PROMPTS = 16, MAX_SETTINGS = 24 };

struct options {
    const char *command, *model, *text, *out;
    const char *prompts[MAX_PROMPTS];
    uint32_t prompt_count;
    const char *kv, *device, *svg, *layers, *transforms, *calibration, *evict;
    uint32_t new_tokens, sequences, context, chunks, sinks, recent, tokens, queries, seed, threads;
    uint64_t budget;
    double budget_share, error_budget, keep;
    int json;
};

/* Everything that is open while a command runs. */
struct program {
    struct options options;
    struct gguf file;
    struct tokenizer tokenizer;
    struct model model;
    struct machine machine;
    anykv_transform transform;
};

/* Each returns 0, or -1 after fail(), or 1: done, and the result is not as it must be. */
int command_run(struct program *program);
int command_perplexity(struct program *program);
int command_kld(struct program *program);
int command_dump(struct program *program);
int command_prefix(struct program *program);
int command_speed(struct program *program);

/* Reads and tokenizes options.text. */
int program_tokens(struct program *program, uint32_t **ids_out, uint32_t *count_out);
/* Opens the weights for batches of `capacity` tokens. */
int program_model(struct program *program, uint32_t capacity);
/* The store options that the command line gives for one sequence of `tokens` tokens. */
struct store_options program_store(const struct program *program, const char *formats,
                                   uint32_t tokens, uint32_t step_tokens);
/* Cuts a list at its commas; -1: more than `most`.  The pieces point into `copy`. */
int split_list(const char *list, char *copy, size_t room, const char **pieces, uint32_t most,
               uint32_t *count_out);

/* An SVG of points (bits, divergence), the second axis logarithmic. */
struct point {
    double bits, divergence;
    const char *name;
};
int chart_write(const char *path, const struct point *points, uint32_t count, const char *title);

#endif
