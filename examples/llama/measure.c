/* SPDX-License-Identifier: Apache-2.0 */
/* `perplexity` and `kld`: a text through caches of several settings, in steps of one block, so that
 * all but the newest tokens are read as they are stored.  All settings go through the weights
 * together; only their caches differ.  Counted are the second halves of the chunks, as llama.cpp's
 * perplexity does. */
#include "program.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 16 };

struct setting {
    struct store store;
    anykv_seq *seq;
    double nll, kld, bits;
    uint64_t top1;
    float *klds; /* one a position, for the quantile */
};

struct measure {
    struct program *program;
    uint32_t *ids, chunks, context;
    struct setting settings[MAX_SETTINGS + 1]; /* the first is the reference, if there is one */
    struct store *parts[MAX_SETTINGS + 1];
    uint32_t counts[MAX_SETTINGS + 1], count, reference;
    uint64_t positions;
    float *logits, *exact; /* exact: probabilities of the reference */
};

static void close_measure(struct measure *m)
{
    for (uint32_t i = 0; i < m->count; i++) {
        store_cancel(&m->settings[i].store);
        anykv_seq_destroy(m->settings[i].seq);
        store_close(&m->settings[i].store);
        free(m->settings[i].klds);
    }
    free(m->ids);
    free(m->logits);
    free(m->exact);
}

static const struct eviction evictions[] = {
    {"knorm", ANYKV_TOKENS_KNORM, 0, SHARE_EQUAL},
    {"knorm:heads", ANYKV_TOKENS_KNORM, 0, SHARE_HEADS},
    {"knorm:all", ANYKV_TOKENS_KNORM, 0, SHARE_ALL},
    {"keydiff", ANYKV_TOKENS_KEYDIFF, 0, SHARE_EQUAL},
    {"keydiff:heads", ANYKV_TOKENS_KEYDIFF, 0, SHARE_HEADS},
    {"keydiff:all", ANYKV_TOKENS_KEYDIFF, 0, SHARE_ALL},
    {"paged", ANYKV_TOKENS_RATIO, 0, SHARE_EQUAL},
    {"paged:heads", ANYKV_TOKENS_RATIO, 0, SHARE_HEADS},
    {"paged:all", ANYKV_TOKENS_RATIO, 0, SHARE_ALL},
    {"snapkv", ANYKV_TOKENS_MASS, 5, SHARE_EQUAL},
    {"snapkv:heads", ANYKV_TOKENS_MASS, 5, SHARE_HEADS},
    {"snapkv:all", ANYKV_TOKENS_MASS, 5, SHARE_ALL},
};

static int find_eviction(const char *name, const struct eviction **out)
{
    *out = NULL;
    if (strcmp(name, "none") == 0)
        return 0;
    for (size_t i = 0; i < sizeof evictions / sizeof evictions[0]; i++)
        if (strcmp(name, evictions[i].name) == 0)
            *out = &evictions[i];
    return *out ? 0
                : fail("--evict: \"%s\" is none of knorm, keydiff, paged, snapkv, with :heads or "
                       ":all, none",
                       name);
}

static int add_setting(struct measure *m, const char *formats, int exact,
                       const struct eviction *eviction)
{
    struct program *p = m->program;
    struct setting *s = &m->settings[m->count];
    struct store_options options = program_store(p, formats, m->context, STEP);
    options.exact = exact;
    options.eviction = eviction;
    if (exact)
        options.budget = 0, options.budget_share = 0.0;
    if (strcmp(formats, "plain") == 0)
        return fail("plain arrays are no setting of a cache");
    if (store_open(&s->store, &p->machine, &p->model, &options) != 0)
        return -1;
    m->parts[m->count] = &s->store;
    m->counts[m->count++] = STEP;
    s->klds = grab((uint64_t)m->chunks * m->context, sizeof *s->klds);
    return s->klds ? 0 : -1;
}

static int open_measure(struct measure *m, struct program *p, int with_reference)
{
    const struct options *o = &p->options;
    static char copy[512], evict_copy[512];
    const char *formats[MAX_SETTINGS], *evict[MAX_SETTINGS];
    uint32_t count, tokens, ways;
    memset(m, 0, sizeof *m);
    m->program = p;
    m->context = o->context;
    m->reference = with_reference ? 1 : 0;
    if (o->context % STEP != 0)
        return fail("--ctx %u is not a multiple of %d", o->context, STEP);
    if (split_list(o->kv, copy, sizeof copy, formats, MAX_SETTINGS, &count) != 0 ||
        split_list(o->evict ? o->evict : "none", evict_copy, sizeof evict_copy, evict, MAX_SETTINGS,
                   &ways) != 0 ||
        program_tokens(p, &m->ids, &tokens) != 0)
        return -1;
    if (count * ways > MAX_SETTINGS)
        return fail("more than %d settings", MAX_SETTINGS);
    m->chunks = tokens / o->context < o->chunks ? tokens / o->context : o->chunks;
    if (m->chunks == 0)
        return fail("%s has %u tokens, less than one chunk of %u", o->text, tokens, o->context);
    uint32_t rows = STEP * (count * ways + m->reference);
    if (program_model(p, rows) != 0)
        return -1;
    if (o->context > p->model.context)
        return fail("--ctx %u is beyond the model's context of %u", o->context, p->model.context);
    m->logits = grab((uint64_t)rows * p->model.vocabulary, sizeof(float));
    m->exact = grab(p->model.vocabulary, sizeof(float));
    if (!m->logits || !m->exact)
        return -1;
    if (with_reference && add_setting(m, "F32", 1, NULL) != 0)
        return -1;
    for (uint32_t i = 0; i < count * ways; i++) {
        const struct eviction *eviction;
        if (find_eviction(evict[i % ways], &eviction) != 0 ||
            add_setting(m, formats[i / ways], 0, eviction) != 0)
            return -1;
    }
    return 0;
}

/* Index of the largest logit, and the logarithm of the sum of all exponentials. */
static uint32_t top_and_sum(const float *logits, uint32_t n, double *log_sum)
{
    uint32_t top = 0;
    double sum = 0.0;
    for (uint32_t i = 1; i < n; i++)
        top = logits[i] > logits[top] ? i : top;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)expf(logits[i] - logits[top]);
    *log_sum = (double)logits[top] + log(sum);
    return top;
}

/* One position, all settings; row `row` of each part. */
static void count_position(struct measure *m, uint32_t row, uint32_t next)
{
    uint32_t n = m->program->model.vocabulary, exact_top = 0;
    const float *exact = NULL;
    double exact_sum = 0.0;
    for (uint32_t i = 0; i < m->count; i++) {
        struct setting *s = &m->settings[i];
        const float *logits = m->logits + ((uint64_t)i * STEP + row) * n;
        double log_sum, kld = 0.0;
        uint32_t top = top_and_sum(logits, n, &log_sum);
        s->nll += log_sum - (double)logits[next];
        if (!m->reference)
            continue;
        if (i == 0) {
            exact = logits, exact_sum = log_sum, exact_top = top;
            for (uint32_t j = 0; j < n; j++)
                m->exact[j] = expf(logits[j] - (float)log_sum);
            continue;
        }
        for (uint32_t j = 0; j < n; j++)
            kld += (double)m->exact[j] * ((double)exact[j] - (double)logits[j]);
        kld += log_sum - exact_sum;
        kld = kld > 0.0 ? kld : 0.0; /* rounding */
        s->kld += kld;
        s->klds[m->positions] = (float)kld;
        s->top1 += top == exact_top;
    }
    m->positions++;
}

static int one_step(struct measure *m, const uint32_t *ids, uint32_t first)
{
    uint32_t batch[STEP * (MAX_SETTINGS + 1)], positions[STEP * (MAX_SETTINGS + 1)];
    uint32_t wanted[STEP * (MAX_SETTINGS + 1)], count = STEP, rows = STEP * m->count;
    int counted = first + STEP > m->context / 2;
    for (uint32_t i = 0; i < rows; i++) {
        batch[i] = ids[first + i % STEP];
        positions[i] = first + i % STEP;
        wanted[i] = i;
    }
    for (uint32_t i = 0; i < m->count; i++)
        if (store_begin(m->parts[i], &m->settings[i].seq, &count, 1) != 0)
            return -1;
    if (model_forward(&m->program->model, batch, positions, m->parts, m->counts, m->count, wanted,
                      counted ? rows : 0, m->logits, NULL) != 0)
        return -1;
    for (uint32_t i = 0; i < m->count; i++)
        if (store_end(m->parts[i], ids + first) != 0)
            return -1;
    for (uint32_t row = 0; counted && row < STEP; row++)
        if (first + row >= m->context / 2 && first + row + 1 < m->context)
            count_position(m, row, ids[first + row + 1]);
    return 0;
}

/* After `rows` tokens of a chunk. */
static int evict_all(struct measure *m, uint32_t rows)
{
    for (uint32_t i = 0; i < m->count; i++)
        if (m->parts[i]->eviction && store_evict(m->parts[i], m->settings[i].seq,
                                                 (uint64_t)(rows * m->program->options.keep)) != 0)
            return -1;
    return 0;
}

static int walk(struct measure *m)
{
    for (uint32_t chunk = 0; chunk < m->chunks; chunk++) {
        const uint32_t *ids = m->ids + (uint64_t)chunk * m->context;
        for (uint32_t i = 0; i < m->count; i++)
            if (!(m->settings[i].seq = store_sequence(m->parts[i], 0)))
                return -1;
        for (uint32_t first = 0; first < m->context; first += STEP) {
            if (first == m->context / 2 / STEP * STEP && evict_all(m, first) != 0)
                return -1;
            if (one_step(m, ids, first) != 0)
                return -1;
        }
        for (uint32_t i = 0; i < m->count; i++) {
            m->settings[i].bits += store_bits(m->parts[i], m->context) / m->chunks;
            anykv_seq_destroy(m->settings[i].seq);
            m->settings[i].seq = NULL;
        }
        fprintf(stderr, "llama: chunk %u of %u: perplexity", chunk + 1, m->chunks);
        for (uint32_t i = 0; i < m->count && i < 4; i++)
            fprintf(stderr, " %.4f", exp(m->settings[i].nll / (double)m->positions));
        fputs(m->count > 4 ? " …\n" : "\n", stderr);
    }
    return 0;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Linear between the neighbours, as llama.cpp's program does. */
static double quantile(float *values, uint64_t count, double share)
{
    qsort(values, count, sizeof *values, ascending);
    double at = share * (double)(count - 1);
    uint64_t below = (uint64_t)at, above = below + 1 < count ? below + 1 : below;
    double weight = at - (double)below;
    return (1.0 - weight) * (double)values[below] + weight * (double)values[above];
}

int command_perplexity(struct program *p)
{
    static struct measure m;
    int status = open_measure(&m, p, 0);
    if (status == 0)
        status = walk(&m);
    if (status == 0 && !p->options.json)
        printf("%-10s %8s %12s\n", "K/V", "bits", "perplexity");
    for (uint32_t i = 0; status == 0 && i < m.count; i++) {
        struct setting *s = &m.settings[i];
        double perplexity = exp(s->nll / (double)m.positions);
        if (p->options.json)
            printf("{\"k\":\"%s\",\"v\":\"%s\",\"sinks\":%u,\"recent\":%u,\"bits\":%.4f,"
                   "\"perplexity\":%.5f,"
                   "\"positions\":%llu}\n",
                   anykv_format_name(s->store.k), anykv_format_name(s->store.v), p->options.sinks,
                   p->options.recent, s->bits, perplexity, (unsigned long long)m.positions);
        else
            printf("%-10s %8.3f %12.4f\n", s->store.name, s->bits, perplexity);
    }
    close_measure(&m);
    return status;
}

static int report(struct measure *m)
{
    const struct options *o = &m->program->options;
    struct point points[MAX_SETTINGS];
    double n = (double)m->positions;
    if (!o->json)
        printf("%-21s %8s %8s %10s %10s %8s %10s\n", "K/V", "bits", "limit", "KLD", "99.9 %",
               "top-1 %", "ppl ratio");
    for (uint32_t i = 1; i < m->count; i++) {
        struct setting *s = &m->settings[i];
        double kld = s->kld / n, high = quantile(s->klds, m->positions, 0.999);
        double ratio = exp((s->nll - m->settings[0].nll) / n), limit = store_bits_limit(&s->store);
        points[i - 1] = (struct point){s->bits, kld, s->store.name};
        if (o->json)
            printf("{\"k\":\"%s\",\"v\":\"%s\",\"evict\":\"%s\",\"sinks\":%u,\"recent\":%u,"
                   "\"bits\":%.4f,"
                   "\"bits_limit\":%.4f,\"kld\":%.7f,\"kld_999\":%.6f,\"top1\":%.5f,\"ppl_ratio\":%"
                   ".6f,"
                   "\"positions\":%llu}\n",
                   anykv_format_name(s->store.k), anykv_format_name(s->store.v),
                   s->store.eviction ? s->store.eviction->name : "none", o->sinks, o->recent,
                   s->bits, limit, kld, high, (double)s->top1 / n, ratio,
                   (unsigned long long)m->positions);
        else
            printf("%-21s %8.3f %8.3f %10.6f %10.5f %8.2f %10.5f\n", s->store.name, s->bits, limit,
                   kld, high, 100.0 * (double)s->top1 / n, ratio);
    }
    if (!o->json)
        printf("%llu positions in %u chunks of %u tokens; %u sinks, %u recent; exact cache: "
               "perplexity "
               "%.4f; %s\n",
               (unsigned long long)m->positions, m->chunks, m->context, o->sinks, o->recent,
               exp(m->settings[0].nll / n), m->program->machine.device_name);
    return o->svg ? chart_write(o->svg, points, m->count - 1, m->program->model.name) : 0;
}

int command_kld(struct program *p)
{
    static struct measure m;
    int status = open_measure(&m, p, 1);
    if (status == 0)
        status = walk(&m);
    if (status == 0)
        status = report(&m);
    close_measure(&m);
    return status;
}
