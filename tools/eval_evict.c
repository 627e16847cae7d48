/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv eval --evict`: tokens are evicted when a prompt has been read, later queries attend to what is
 * left and to each other; compared with attention to everything, in double precision. */
#include "eval_evict.h"
#include "eval_reference.h"
#include "progress.h"
#include "report.h"
#include "tools.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define CHOICES 160u
#define SAFE    0.2 /* AdaKV: of its share, what every head keeps */
#define BLOCK   16u /* rows that the engine's blocks hold */

/* Who has how much: every head the same; the heads of a layer by score, row by row; the same in whole blocks,
 * as the engine keeps them; the heads of all layers in whole blocks. */
enum budget { EQUAL, ADAPTIVE, APART, ACROSS };
static const char *const budget_names[] = {"head", "adaptive", "apart", "across"};

/* One row of the table. */
struct choice {
    const struct akv_evict_method *method;
    enum budget budget;
    double keep;
    uint8_t *kept;    /* [kv_heads][cut] */
    double *value;    /* APART, ACROSS: [layers][kv_heads][blocks], descending */
    uint32_t *blocks; /* [layers][kv_heads] that stay */
    struct akv_eval_result sum, layer;
};
struct evict {
    struct akv_dump dump;
    struct akv_dump_model model;
    struct akv_safetensors *scores;
    uint32_t sinks, recent, choices;
    struct choice choice[CHOICES];
    struct akv_report *report;
    bool layers;
};

static const struct akv_column columns[] = {
    {"method", "method", 0},
    {"budget", "budget", 0},
    {"keep", "keep", 2},
    {"layer", "layer", 0},
    {"attention_tv", "attention TV", 4},
    {"output_error", "output error", 4},
    {"output_error_999", "99.9 %", 4},
    {"top1", NULL, 0},
    {NULL, "top-1 %", 1},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- options ---- */

static int add_choices(struct evict *evict, const char *text, const struct akv_text_list *keep)
{
    const struct akv_evict_method *method = akv_evict_methods;
    const size_t length = strcspn(text, ":");
    const char *rest = text[length] == ':' ? text + length + 1 : "";
    while (method->name != NULL && (strlen(method->name) != length || strncmp(method->name, text, length) != 0))
        method++;
    if (method->name == NULL)
        return akv_cli_wrong("eval", "--evict: unknown method \"%s\"", text);
    const bool given = strcmp(method->name, "scores") == 0;
    enum budget budget = EQUAL;
    for (enum budget b = ADAPTIVE; b <= ACROSS && !given; b++)
        if (strcmp(rest, budget_names[b]) == 0)
            budget = b;
    if (!given && *rest != '\0' && budget == EQUAL)
        return akv_cli_wrong("eval", "--evict: \"%s\": adaptive, apart and across are the parameters", text);
    if (budget != EQUAL && method->shared)
        return akv_cli_wrong("eval", "--evict: \"%s\": all heads keep the same tokens, so none can have more",
                             text);
    if (given && (*rest == '\0' || evict->scores != NULL))
        return akv_cli_wrong("eval", "--evict: scores:FILE, once");
    if (given) {
        anykv_status status = akv_safetensors_open(rest, &evict->scores);
        if (status != ANYKV_OK)
            return akv_cli_status("eval", rest, status);
    }
    for (uint32_t i = 0; i < keep->count; i++) {
        char *end;
        const double share = strtod(keep->item[i], &end);
        if (*end != '\0' || end == keep->item[i] || !(share > 0.0 && share <= 1.0))
            return akv_cli_wrong("eval", "--keep: \"%s\" is not above 0 and at most 1", keep->item[i]);
        if (evict->choices == CHOICES)
            return akv_cli_wrong("eval", "--evict: more than %u rows", CHOICES);
        evict->choice[evict->choices++] = (struct choice){.method = method, .budget = budget, .keep = share};
    }
    return AKV_CLI_GO;
}

/* ---- which tokens stay ---- */

struct candidate {
    double score;
    uint32_t unit, head;
};

/* Larger score, then older, then lower head: the rule of the kernels. */
static int before(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->unit != y->unit)
        return x->unit < y->unit ? -1 : 1;
    return x->head < y->head ? -1 : x->head > y->head;
}

static uint32_t list(const struct akv_evict_layer *l, const struct choice *c, const double *scores,
                     uint32_t head, uint32_t first, uint32_t units, struct candidate *into)
{
    uint32_t n = 0;
    for (uint32_t u = 0; u < units; u++) {
        double sum = 0.0;
        if (c->kept[(size_t)head * l->cut + first + u * c->method->unit])
            continue;
        for (uint32_t h = 0; h < l->kv_heads; h++)
            for (uint32_t i = 0; i < c->method->unit; i++)
                if (c->method->shared || h == head)
                    sum += scores[(size_t)h * l->cut + first + u * c->method->unit + i];
        into[n++] = (struct candidate){sum, u, head};
    }
    return n;
}

static void take(const struct akv_evict_layer *l, struct choice *c, uint32_t first, struct candidate *from,
                 uint32_t n, uint32_t keep)
{
    qsort(from, n, sizeof *from, before);
    for (uint32_t i = 0; i < keep && i < n; i++)
        for (uint32_t t = 0; t < c->method->unit; t++)
            c->kept[(size_t)from[i].head * l->cut + first + from[i].unit * c->method->unit + t] = 1;
}

/* The candidates of a layer, and how many units of them every head keeps with equal budgets. */
struct region {
    uint32_t first, units, last, keep;
};
static struct region region_of(const struct evict *evict, const struct choice *c, uint32_t cut)
{
    const uint32_t unit = c->method->unit, budget = (uint32_t)ceil(c->keep * cut - 1e-9);
    const uint32_t first = evict->sinks < cut ? evict->sinks : cut;
    const uint32_t fixed = first + (evict->recent < cut - first ? evict->recent : cut - first);
    const uint32_t whole = c->budget >= APART ? BLOCK : unit; /* candidates are so many rows or blocks */
    const uint32_t units = (cut - fixed) / whole * whole / unit, last = first + units * unit;
    const uint32_t exact = first + cut - last; /* rows that are no candidates */
    return (struct region){first, units, last, budget > exact ? (budget - exact) / unit : 0};
}

static anykv_status choose(const struct evict *evict, const struct akv_evict_layer *l, struct choice *c,
                           const double *scores, uint32_t index)
{
    const uint32_t cut = l->cut;
    const struct region region = region_of(evict, c, cut);
    const uint32_t first = region.first, units = region.units, last = region.last, keep = region.keep;
    const uint32_t least = (uint32_t)(keep * SAFE);
    struct candidate *all = akv_alloc(NULL, (size_t)l->kv_heads * (units + 1), sizeof *all);
    if (all == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t h = 0; h < l->kv_heads; h++)
        for (uint32_t t = 0; t < cut; t++)
            c->kept[(size_t)h * cut + t] = t < first || t >= last;
    for (uint32_t h = 0; h < l->kv_heads; h++)
        take(l, c, first, all, list(l, c, scores, h, first, units, all),
             c->budget == EQUAL      ? keep
             : c->budget == ADAPTIVE ? least
                                     : c->blocks[index * l->kv_heads + h] * BLOCK);
    if (c->budget == ADAPTIVE) {
        uint32_t n = 0;
        for (uint32_t h = 0; h < l->kv_heads; h++)
            n += list(l, c, scores, h, first, units, all + n);
        take(l, c, first, all, n, (keep - least) * l->kv_heads);
    }
    akv_free(NULL, all);
    return ANYKV_OK;
}

static int larger_first(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* What each block of a layer's heads is worth: the middle score of the rows that would be in it. */
static anykv_status weigh(const struct evict *evict, const struct akv_evict_layer *l, struct choice *c,
                          const double *scores, uint32_t index)
{
    const struct region region = region_of(evict, c, l->cut);
    const uint32_t blocks = region.units / BLOCK;
    double *sorted = akv_alloc(NULL, region.units + 1, sizeof *sorted);
    if (sorted == NULL)
        return ANYKV_E_MEMORY;
    for (uint32_t h = 0; h < l->kv_heads; h++) {
        memcpy(sorted, scores + (size_t)h * l->cut + region.first, region.units * sizeof *sorted);
        qsort(sorted, region.units, sizeof *sorted, larger_first);
        for (uint32_t b = 0; b < blocks; b++)
            c->value[((size_t)index * l->kv_heads + h) * blocks + b] = sorted[b * BLOCK + BLOCK / 2];
    }
    akv_free(NULL, sorted);
    return ANYKV_OK;
}

/* The blocks that are worth most, as many as equal budgets give the heads first … end - 1; a fifth of its
 * equal share is safe. */
static void share_out(const struct evict *evict, struct choice *c, uint32_t cut, uint32_t first, uint32_t end)
{
    const struct region region = region_of(evict, c, cut);
    const uint32_t blocks = region.units / BLOCK, share = region.keep / BLOCK, safe = (share + 4) / 5;
    uint32_t left = region.keep * (end - first) / BLOCK - safe * (end - first);
    for (uint32_t h = first; h < end; h++)
        c->blocks[h] = safe;
    for (; left > 0; left--) {
        uint32_t best = end;
        for (uint32_t h = first; h < end; h++)
            if (c->blocks[h] < blocks &&
                (best == end || c->value[(size_t)h * blocks + c->blocks[h]] >
                                    c->value[(size_t)best * blocks + c->blocks[best]]))
                best = h;
        if (best == end)
            return;
        c->blocks[best]++;
    }
}

/* ---- what it does to later queries ---- */

/* Attention of one query: weights of positions 0 … p, their sum over `kept` (NULL: all) and output. */
static double weighted(const struct akv_evict_layer *l, uint32_t p, uint32_t head, const double *weight,
                       const uint8_t *kept, double *out)
{
    double sum = 0.0;
    memset(out, 0, l->dim * sizeof *out);
    for (uint32_t t = 0; t <= p; t++) {
        if (kept != NULL && t < l->cut && !kept[t])
            continue;
        const double w = weight[t], *v = l->v + ((size_t)t * l->kv_heads + head) * l->dim;
        sum += w;
        for (uint32_t i = 0; i < l->dim; i += 16) /* head sizes are multiples of 16 */
            for (uint32_t j = i; j < i + 16; j++)
                out[j] += w * v[j];
    }
    for (uint32_t i = 0; i < l->dim; i++)
        out[i] /= sum;
    return sum;
}

static uint32_t largest(const double *weight, const uint8_t *kept, uint32_t cut, uint32_t p)
{
    uint32_t best = p;
    for (uint32_t t = 0; t <= p; t++)
        if ((kept == NULL || t >= cut || kept[t]) && weight[t] > weight[best])
            best = t;
    return best;
}

static anykv_status measure(struct evict *evict, const struct akv_evict_layer *l)
{
    const uint32_t group = l->q_heads / l->kv_heads;
    const size_t queries = (size_t)(l->tokens - l->cut) * l->q_heads;
    double *room = akv_alloc(NULL, l->tokens + 2 * (size_t)l->dim + queries * evict->choices, sizeof *room);
    if (room == NULL)
        return ANYKV_E_MEMORY;
    double *weight = room, *exact = weight + l->tokens, *out = exact + l->dim, *error = out + l->dim;
    size_t number = 0;
    for (uint32_t n = 0; n < evict->choices; n++)
        memset(&evict->choice[n].layer, 0, sizeof evict->choice[n].layer);
    for (uint32_t p = l->cut; p < l->tokens; p++)
        for (uint32_t h = 0; h < l->q_heads; h++, number++) {
            const double *q = l->q + ((size_t)(p - l->q_first) * l->q_heads + h) * l->dim;
            double most = -INFINITY;
            for (uint32_t t = 0; t <= p; t++) {
                const double *k = l->k + ((size_t)t * l->kv_heads + h / group) * l->dim;
                double s = 0.0;
                for (uint32_t i = 0; i < l->dim; i++)
                    s += q[i] * k[i];
                weight[t] = s * l->scale;
                most = weight[t] > most ? weight[t] : most;
            }
            for (uint32_t t = 0; t <= p; t++)
                weight[t] = exp(weight[t] - most);
            const double all = weighted(l, p, h / group, weight, NULL, exact);
            const uint32_t top = largest(weight, NULL, l->cut, p);
            for (uint32_t n = 0; n < evict->choices; n++) {
                struct choice *c = &evict->choice[n];
                const uint8_t *kept = c->kept + (size_t)(h / group) * l->cut;
                const double part = weighted(l, p, h / group, weight, kept, out);
                const double off = akv_relative_error(out, exact, l->dim);
                error[n * queries + number] = off;
                c->layer.output_error += off / (double)queries;
                c->layer.attention_tv += (1.0 - part / all) / (double)queries;
                c->layer.top1 += (largest(weight, kept, l->cut, p) == top) / (double)queries;
            }
        }
    for (uint32_t n = 0; n < evict->choices; n++)
        evict->choice[n].layer.output_error_999 = akv_quantile(error + n * queries, queries, 0.999);
    akv_free(NULL, room);
    return ANYKV_OK;
}

/* ---- layers and report ---- */

static void add_row(const struct evict *evict, const struct choice *c, const struct akv_eval_result *result,
                    const char *layer, uint32_t number)
{
    const struct akv_value row[COLUMNS] = {
        akv_text(c->method->name),
        akv_text(c->method->shared ? "shared" : budget_names[c->budget]),
        akv_real(c->keep),
        layer != NULL ? akv_text(layer) : akv_whole(number),
        akv_real(result->attention_tv),
        akv_real(result->output_error),
        akv_real(result->output_error_999),
        akv_real(result->top1),
        akv_real(result->top1 * 100.0),
    };
    akv_report_row(evict->report, row);
}

static anykv_status to_double(const void *rows, anykv_dtype dtype, size_t count, double **out)
{
    *out = akv_alloc(NULL, count, sizeof **out);
    if (*out == NULL)
        return ANYKV_E_MEMORY;
    akv_rows_to_double(rows, dtype, count, *out);
    for (size_t i = 0; i < count; i++)
        if (!isfinite((*out)[i]))
            return akv_fail(NULL, ANYKV_E_DATA, "element %zu of a tensor is not finite", i);
    return ANYKV_OK;
}

static bool by_block(const struct choice *c)
{
    return c->budget >= APART;
}

/* Scores of a layer for every choice: what stays, or first what its blocks are worth. */
static anykv_status choose_all(struct evict *evict, const struct akv_evict_layer *l, uint32_t index, bool worth)
{
    const struct akv_evict_method *scored = NULL;
    const size_t count = (size_t)l->kv_heads * l->cut;
    double *scores = akv_alloc(NULL, count, sizeof *scores);
    anykv_status status = scores == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
    for (uint32_t n = 0; n < evict->choices && status == ANYKV_OK; n++) {
        struct choice *c = &evict->choice[n];
        if (worth && !by_block(c))
            continue;
        if (c->method != scored) {
            memset(scores, 0, count * sizeof *scores);
            status = c->method->score(l, scores);
            scored = c->method;
        }
        if (status == ANYKV_OK)
            status = worth ? weigh(evict, l, c, scores, index) : choose(evict, l, c, scores, index);
    }
    akv_free(NULL, scores);
    return status;
}

/* A layer in double precision; its rows are the caller's to free. */
static anykv_status load_layer(struct evict *evict, uint32_t index, struct akv_evict_layer *l, double *rows[3])
{
    const struct akv_dump *dump = &evict->dump;
    const size_t row = (size_t)dump->kv_heads * dump->head_dim;
    struct akv_dump_layer raw;
    anykv_status status = akv_dump_load(dump, index, &raw);
    if (status == ANYKV_OK)
        status = to_double(raw.q, raw.q_dtype,
                           (size_t)(dump->tokens - dump->q_first) * dump->q_heads * dump->head_dim, &rows[0]);
    if (status == ANYKV_OK)
        status = to_double(raw.k, raw.k_dtype, row * dump->tokens, &rows[1]);
    if (status == ANYKV_OK)
        status = to_double(raw.v, raw.v_dtype, row * dump->tokens, &rows[2]);
    akv_dump_free(&raw);
    *l = (struct akv_evict_layer){dump->tokens, dump->q_first, dump->q_first + (dump->tokens - dump->q_first) / 2,
                                  dump->q_heads, dump->kv_heads, dump->head_dim, dump->scale, rows[0], rows[1], rows[2],
                                  &evict->model.layers[dump->layer[index]], dump->layer[index], evict->scores};
    return status;
}

static anykv_status one_layer(struct evict *evict, uint32_t index, bool worth)
{
    struct akv_evict_layer l;
    double *rows[3] = {NULL, NULL, NULL};
    anykv_status status = load_layer(evict, index, &l, rows);
    if (status == ANYKV_OK)
        status = choose_all(evict, &l, index, worth);
    if (status == ANYKV_OK && !worth)
        status = measure(evict, &l);
    for (uint32_t n = 0; n < evict->choices && status == ANYKV_OK && !worth; n++) {
        struct choice *c = &evict->choice[n];
        c->sum.attention_tv += c->layer.attention_tv;
        c->sum.output_error += c->layer.output_error;
        c->sum.output_error_999 += c->layer.output_error_999;
        c->sum.top1 += c->layer.top1;
        if (evict->layers)
            add_row(evict, c, &c->layer, NULL, evict->dump.layer[index]);
    }
    for (int i = 0; i < 3; i++)
        akv_free(NULL, rows[i]);
    return status;
}

/* Blocks for the heads where budgets go by block. */
static anykv_status share_blocks(struct evict *evict, uint32_t cut)
{
    const struct akv_dump *dump = &evict->dump;
    const uint32_t heads = dump->layers * dump->kv_heads;
    anykv_status status = ANYKV_OK;
    bool any = false;
    for (uint32_t n = 0; n < evict->choices && status == ANYKV_OK; n++) {
        struct choice *c = &evict->choice[n];
        if (!by_block(c))
            continue;
        any = true;
        c->value = akv_alloc(NULL, (size_t)heads * (cut / BLOCK + 1), sizeof *c->value);
        c->blocks = akv_alloc(NULL, heads, sizeof *c->blocks);
        status = c->value == NULL || c->blocks == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
    }
    for (uint32_t i = 0; any && i < dump->layers && status == ANYKV_OK; i++)
        status = one_layer(evict, i, true);
    for (uint32_t n = 0; n < evict->choices && status == ANYKV_OK; n++) {
        const uint32_t step = evict->choice[n].budget == ACROSS ? heads : dump->kv_heads;
        for (uint32_t h = 0; by_block(&evict->choice[n]) && h < heads; h += step)
            share_out(evict, &evict->choice[n], cut, h, h + step);
    }
    return status;
}

static anykv_status run(struct evict *evict, bool json)
{
    const struct akv_dump *dump = &evict->dump;
    const uint32_t cut = dump->q_first + (dump->tokens - dump->q_first) / 2;
    struct akv_progress progress;
    for (uint32_t i = 0; i < dump->layers; i++)
        if (dump->window[i])
            return akv_fail(NULL, ANYKV_E_UNSUPPORTED,
                            "layers.%" PRIu32 ": it has a window; token policies take layers without",
                            dump->layer[i]);
    if (cut == dump->q_first)
        return akv_fail(NULL, ANYKV_E_DATA, "q_first: one query alone cannot score and be measured");
    anykv_status status = akv_dump_model_open(&evict->model, dump, 0);
    for (uint32_t n = 0; n < evict->choices && status == ANYKV_OK; n++) {
        evict->choice[n].kept = akv_alloc(NULL, (size_t)dump->kv_heads * cut, 1);
        status = evict->choice[n].kept == NULL ? ANYKV_E_MEMORY : ANYKV_OK;
    }
    if (status != ANYKV_OK)
        return status;
    if (!json)
        printf("%s, %" PRIu32 " layers: tokens 0 … %" PRIu32 " cached, scores from queries %" PRIu32 " … %" PRIu32
               ", error over queries %" PRIu32 " … %" PRIu32 ", %" PRIu32 " sinks, %" PRIu32 " recent\n\n",
               dump->model != NULL ? dump->model : "a model", dump->layers, cut - 1, dump->q_first, cut - 1, cut,
               dump->tokens - 1, evict->sinks, evict->recent);
    evict->report = akv_report_begin(stdout, json, columns, COLUMNS);
    if (evict->report == NULL)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&progress, "eval", dump->layers);
    status = share_blocks(evict, cut);
    for (uint32_t i = 0; i < dump->layers && status == ANYKV_OK; i++) {
        akv_progress_step(&progress, i, NULL);
        status = one_layer(evict, i, false);
    }
    akv_progress_end(&progress);
    for (uint32_t n = 0; n < evict->choices && status == ANYKV_OK; n++) {
        struct akv_eval_result mean = evict->choice[n].sum;
        mean.attention_tv /= dump->layers;
        mean.output_error /= dump->layers;
        mean.output_error_999 /= dump->layers;
        mean.top1 /= dump->layers;
        add_row(evict, &evict->choice[n], &mean, "all", 0);
    }
    anykv_status end = akv_report_end(evict->report);
    return status != ANYKV_OK ? status : end;
}

static int choose_methods(struct evict *evict, const struct akv_text_list *methods, const struct akv_text_list *keep)
{
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < methods->count && go == AKV_CLI_GO; i++) {
        if (strcmp(methods->item[i], "all") != 0) {
            go = add_choices(evict, methods->item[i], keep);
            continue;
        }
        for (const struct akv_evict_method *m = akv_evict_methods; m->name != NULL && go == AKV_CLI_GO; m++) {
            if (strcmp(m->name, "scores") == 0)
                continue;
            go = add_choices(evict, m->name, keep);
            for (enum budget b = ADAPTIVE; b <= ACROSS && !m->shared && go == AKV_CLI_GO; b++) {
                char name[AKV_ITEM_MAX];
                snprintf(name, sizeof name, "%s:%s", m->name, budget_names[b]);
                go = add_choices(evict, name, keep);
            }
        }
    }
    return go;
}

int akv_eval_evict(const char *path, const struct akv_text_list *methods, const struct akv_text_list *keep,
                   uint32_t sinks, uint32_t recent, bool layers, bool json)
{
    static const struct akv_text_list usual = {3, {"0.75", "0.5", "0.25"}};
    struct evict *evict = akv_alloc(NULL, 1, sizeof *evict);
    if (evict == NULL)
        return akv_cli_status("eval", "memory", ANYKV_E_MEMORY);
    evict->sinks = sinks;
    evict->recent = recent;
    evict->layers = layers;
    int go = choose_methods(evict, methods, keep->count ? keep : &usual);
    if (go == AKV_CLI_GO) {
        anykv_status status = akv_dump_open(&evict->dump, path);
        if (status == ANYKV_OK)
            status = run(evict, json);
        go = status == ANYKV_OK ? AKV_EXIT_GOOD : akv_cli_status("eval", path, status);
        akv_dump_model_close(&evict->model);
        akv_dump_close(&evict->dump);
    }
    for (uint32_t n = 0; n < evict->choices; n++) {
        akv_free(NULL, evict->choice[n].kept);
        akv_free(NULL, evict->choice[n].value);
        akv_free(NULL, evict->choice[n].blocks);
    }
    akv_safetensors_close(evict->scores);
    akv_free(NULL, evict);
    return go;
}
