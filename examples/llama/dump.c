/* SPDX-License-Identifier: Apache-2.0 */
/* `dump`: keys, values and queries of a text as safetensors, in F16, in the layout that `anykv
 * calibrate` and `anykv eval` read: tokens        I32 [tokens] layers.N.k    F16
 * [tokens][kv_heads][head_dim], after rotary embedding layers.N.v    F16
 * [tokens][kv_heads][head_dim] layers.N.q    F16 [tokens - q_first][heads][head_dim], after rotary
 * embedding */
#include "program.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 256 };

struct dump {
    const struct model *model;
    uint32_t tokens, queries, at, count; /* of the step that runs: its first token and how many */
    uint32_t *chosen, chosen_count;      /* layers */
    uint16_t *rows;                      /* layer by layer: k, v, q */
};

/* Nearest F16, ties to even; beyond the range infinity. */
static uint16_t half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7FFFFFFFu;
    if (rest > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u);
    if (rest >= 0x477FF000u)
        return (uint16_t)(sign | 0x7C00u);
    if (rest < 0x38800000u) /* subnormal: adding 0.5 leaves the fraction at the bottom, rounded */
    {
        float magnitude, shifted;
        memcpy(&magnitude, &rest, sizeof magnitude);
        shifted = magnitude + 0.5f;
        memcpy(&bits, &shifted, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3F000000u));
    }
    return (uint16_t)(sign | ((rest + 0xFFFu + (rest >> 13 & 1u)) - 0x38000000u) >> 13);
}

static size_t kv_size(const struct dump *d)
{
    return (size_t)d->tokens * d->model->kv_heads * d->model->head_dim;
}

static size_t q_size(const struct dump *d)
{
    return (size_t)d->queries * d->model->heads * d->model->head_dim;
}

static void keep(void *user, uint32_t layer, const float *q, const float *k, const float *v)
{
    struct dump *d = user;
    size_t kv = (size_t)d->model->kv_heads * d->model->head_dim,
           qs = (size_t)d->model->heads * d->model->head_dim;
    for (uint32_t slot = 0; slot < d->chosen_count; slot++) {
        if (d->chosen[slot] != layer)
            continue;
        uint16_t *rows = d->rows + slot * (2 * kv_size(d) + q_size(d));
        for (size_t i = 0; i < d->count * kv; i++) {
            rows[d->at * kv + i] = half(k[i]);
            rows[kv_size(d) + d->at * kv + i] = half(v[i]);
        }
        uint32_t q_first = d->tokens - d->queries;
        for (uint32_t t = 0; t < d->count; t++)
            for (size_t i = 0; d->at + t >= q_first && i < qs; i++)
                rows[2 * kv_size(d) + (d->at + t - q_first) * qs + i] = half(q[t * qs + i]);
    }
}

static int choose_layers(struct dump *d, const char *list)
{
    char copy[1024];
    const char *names[256];
    uint32_t count = d->model->layers;
    if (list && split_list(list, copy, sizeof copy, names, 256, &count) != 0)
        return -1;
    if (!(d->chosen = grab(count, sizeof *d->chosen)))
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        char *end = NULL;
        unsigned long layer = list ? strtoul(names[i], &end, 10) : i;
        if ((list && (names[i][0] < '0' || names[i][0] > '9' || *end)) ||
            layer >= d->model->layers || (i > 0 && layer <= d->chosen[i - 1]))
            return fail("--layers \"%s\" is no ascending list of layers below %u", list,
                        d->model->layers);
        d->chosen[i] = (uint32_t)layer;
    }
    d->chosen_count = count;
    return 0;
}

static void put_string(FILE *out, const char *name, const char *text)
{
    fprintf(out, ",\"%s\":\"", name);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        fputc((unsigned char)*text < ' ' ? ' ' : *text, out);
    }
    fputc('"', out);
}

/* The JSON header, into a temporary file, so that its length is known. */
static void put_header(FILE *out, const struct dump *d, const struct options *o)
{
    const struct model *m = d->model;
    const char *base = strrchr(o->text, '/');
    uint64_t at = 0, bytes = UINT64_C(4) * d->tokens;
    fputs("{\"__metadata__\":{\"rope\":\"interleaved\"", out);
    put_string(out, "model", m->name);
    put_string(out, "license", m->license);
    put_string(out, "text", base ? base + 1 : o->text);
    base = strrchr(o->model, '/');
    put_string(out, "weights", base ? base + 1 : o->model);
    fprintf(out,
            ",\"q_heads\":\"%u\",\"kv_heads\":\"%u\",\"head_dim\":\"%u\",\"tokens\":\"%u\","
            "\"q_first\":\"%u\",\"rope_base\":\"%.9g\",\"rope_dim\":\"%u\",\"scale\":\"%.9g\","
            "\"layers\":\"",
            m->heads, m->kv_heads, m->head_dim, d->tokens, d->tokens - d->queries,
            (double)m->rope_base, m->rope_dim, 1.0 / sqrt((double)m->head_dim));
    for (uint32_t i = 0; i < d->chosen_count; i++)
        fprintf(out, "%s%u", i ? "," : "", d->chosen[i]);
    fprintf(out, "\"},\"tokens\":{\"dtype\":\"I32\",\"shape\":[%u],\"data_offsets\":[0,%llu]}",
            d->tokens, (unsigned long long)bytes);
    for (uint32_t i = 0; i < d->chosen_count; i++) {
        for (int part = 0; part < 3; part++) {
            at += bytes;
            bytes = UINT64_C(2) * (part < 2 ? kv_size(d) : q_size(d));
            fprintf(out,
                    ",\"layers.%u.%c\":{\"dtype\":\"F16\",\"shape\":[%u,%u,%u],\"data_offsets\":[%"
                    "llu,%llu]}",
                    d->chosen[i], "kvq"[part], part < 2 ? d->tokens : d->queries,
                    part < 2 ? m->kv_heads : m->heads, m->head_dim, (unsigned long long)at,
                    (unsigned long long)(at + bytes));
        }
    }
    fputc('}', out);
}

/* Writes under another name first: whoever finds OUT finds all of it. */
static int write_dump(const struct dump *d, const struct options *o, const uint32_t *ids)
{
    char name[4096];
    if (snprintf(name, sizeof name, "%s.new", o->out) >= (int)sizeof name)
        return fail("the name of the output is too long");
    FILE *out = fopen(name, "wb+");
    if (!out)
        return fail("%s: %s", name, strerror(errno));
    uint8_t length[8] = {0};
    (void)fwrite(length, 1, 8, out);
    put_header(out, d, o);
    while (ftell(out) % 8 != 0)
        fputc(' ', out);
    long header = ftell(out) - 8;
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header >> (8 * i));
    (void)fwrite(ids, 4, d->tokens, out);
    (void)fwrite(d->rows, 2, d->chosen_count * (2 * kv_size(d) + q_size(d)), out);
    int bad =
        header < 0 || fseek(out, 0, SEEK_SET) != 0 || fwrite(length, 1, 8, out) != 8 || ferror(out);
    if (fclose(out) != 0 || bad || rename(name, o->out) != 0) {
        (void)fail("%s: not written: %s", o->out, strerror(errno));
        (void)remove(name);
        return -1;
    }
    return 0;
}

static int compute(struct program *p, struct dump *d, const uint32_t *ids)
{
    struct store_options options = program_store(p, "F32", d->tokens, STEP);
    struct store store, *part = &store;
    struct tap tap = {keep, d};
    uint32_t positions[STEP];
    options.exact = 1;
    if (store_open(&store, &p->machine, &p->model, &options) != 0)
        return -1;
    anykv_seq *seq = store_sequence(&store, 0);
    int status = seq ? 0 : -1;
    for (d->at = 0; status == 0 && d->at < d->tokens; d->at += d->count) {
        d->count = d->tokens - d->at < STEP ? d->tokens - d->at : STEP;
        for (uint32_t i = 0; i < d->count; i++)
            positions[i] = d->at + i;
        status = store_begin(&store, &seq, &d->count, 1);
        if (status == 0)
            status = model_forward(&p->model, ids + d->at, positions, &part, &d->count, 1, NULL, 0,
                                   NULL, &tap);
        if (status == 0)
            status = store_end(&store, NULL);
    }
    store_cancel(&store);
    anykv_seq_destroy(seq);
    store_close(&store);
    return status;
}

int command_dump(struct program *p)
{
    const struct options *o = &p->options;
    struct dump d = {0};
    uint32_t *ids = NULL, count;
    int status = program_tokens(p, &ids, &count);
    if (status == 0)
        status = program_model(p, STEP);
    d.model = &p->model;
    d.tokens = o->tokens ? o->tokens : 1024;
    d.queries = o->queries < d.tokens ? o->queries : d.tokens;
    if (status == 0 && (d.tokens > count || d.tokens > p->model.context))
        status = fail("%u tokens are more than the text's %u or the model's context of %u",
                      d.tokens, count, p->model.context);
    if (status == 0)
        status = choose_layers(&d, o->layers);
    if (status == 0 &&
        !(d.rows = grab(d.chosen_count * (UINT64_C(2) * kv_size(&d) + q_size(&d)), sizeof *d.rows)))
        status = -1;
    if (status == 0)
        status = compute(p, &d, ids);
    if (status == 0)
        status = write_dump(&d, o, ids);
    if (status == 0)
        fprintf(stderr, "llama: %s: %u tokens, %u queries, %u layers\n", o->out, d.tokens,
                d.queries, d.chosen_count);
    free(d.chosen);
    free(d.rows);
    free(ids);
    return status;
}
