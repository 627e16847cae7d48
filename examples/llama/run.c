/* SPDX-License-Identifier: Apache-2.0 */
/* `run`: prompts of different lengths in one ragged batch.  Each step gives every request that
 * decodes its one token and shares the rest of the step among those whose prompt is not in the
 * cache yet. */
#include "dense.h"
#include "program.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP = 256, MAX_REQUESTS = 64 };

struct request {
    anykv_seq *seq;
    uint32_t *ids;                             /* prompt, then what was generated */
    uint32_t prompt, length, computed, wanted; /* tokens; wanted: length to stop at */
    int greedy, ended;
    uint64_t random;
};

struct run {
    struct program *program;
    struct store store;
    struct request requests[MAX_REQUESTS];
    uint32_t count, room; /* room: tokens of prompts in a step */
    uint32_t ids[STEP], positions[STEP], rows[MAX_REQUESTS];
    float *logits;
    uint64_t prompt_tokens, matched, decoded;
    double prompt_time, decode_time;
    anykv_stats told; /* when pressure was last told of */
};

static void close_run(struct run *r)
{
    store_cancel(&r->store);
    for (uint32_t i = 0; i < r->count; i++) {
        anykv_seq_destroy(r->requests[i].seq);
        free(r->requests[i].ids);
    }
    store_close(&r->store);
    free(r->logits);
}

/* Reads the prompts; *longest_out is the longest request with what is to be generated. */
static int read_prompts(struct run *r, uint32_t *longest_out)
{
    struct program *p = r->program;
    const struct options *o = &p->options;
    *longest_out = 0;
    for (uint32_t i = 0; i < o->prompt_count; i++, r->count++) {
        struct request *request = &r->requests[i];
        uint32_t *ids, count;
        if (tokenizer_encode(&p->tokenizer, o->prompts[i], strlen(o->prompts[i]), &ids, &count) !=
            0)
            return -1;
        request->ids = grab((uint64_t)count + o->new_tokens, sizeof *ids);
        if (request->ids)
            memcpy(request->ids, ids, count * sizeof *ids);
        free(ids);
        if (!request->ids)
            return -1;
        if (count == 0)
            return fail("prompt %u is empty", i + 1);
        request->prompt = request->length = count;
        request->wanted = count + o->new_tokens;
        request->greedy = 1;
        if (request->wanted > *longest_out)
            *longest_out = request->wanted;
    }
    return 0;
}

static int start(struct run *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        struct request *request = &r->requests[i];
        uint64_t matched;
        if (!(request->seq = store_sequence(&r->store, 1)) ||
            check(anykv_seq_match(request->seq, request->ids, request->length, &matched),
                  "match") != 0)
            return -1;
        request->computed = (uint32_t)matched;
        r->matched += matched;
    }
    return 0;
}

/* A continuation of its own that shares all blocks of the prompt with the request it comes from. */
static int fork_request(struct run *r, struct request *from)
{
    struct request *to = &r->requests[r->count];
    *to = *from;
    to->ids = grab(from->wanted, sizeof *to->ids);
    to->seq = NULL;
    to->greedy = 0;
    to->random = ((uint64_t)r->program->options.seed << 32) + r->count;
    if (!to->ids)
        return -1;
    memcpy(to->ids, from->ids, from->length * sizeof *to->ids);
    r->count++; /* so that close_run frees the ids whatever happens */
    return check(anykv_seq_fork(from->seq, &to->seq), "fork");
}

/* Greedy, or a draw at temperature 0.8. */
static uint32_t choose(struct request *request, float *logits, uint32_t n)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < n; i++)
        top = logits[i] > logits[top] ? i : top;
    if (request->greedy)
        return top;
    double sum = 0.0;
    float most = logits[top];
    for (uint32_t i = 0; i < n; i++)
        sum += (double)(logits[i] = expf((logits[i] - most) / 0.8f));
    request->random = request->random * 6364136223846793005u + 1442695040888963407u;
    double left = sum * (double)(request->random >> 11) * 0x1p-53;
    for (uint32_t i = 0; i < n; i++)
        if ((left -= (double)logits[i]) < 0)
            return i;
    return top;
}

/* The new token of a request; the first one's text is streamed. */
static void extend(struct run *r, struct request *request, uint32_t id)
{
    const struct tokenizer *t = &r->program->tokenizer;
    char text[256];
    request->ids[request->length++] = id;
    if (request == &r->requests[0] && id != t->end) {
        (void)fwrite(text, 1, tokenizer_decode(t, id, text, sizeof text), stdout);
        (void)fflush(stdout);
    }
    request->ended = id == t->end || request->length == request->wanted;
    if (request->ended)
        (void)anykv_seq_done(request->seq);
}

/* What a step will compute: at most `room` tokens of prompts and one of each request that decodes.
 */
struct plan {
    anykv_seq *seqs[MAX_REQUESTS];
    uint32_t counts[MAX_REQUESTS], request[MAX_REQUESTS];
    uint32_t n, total, decoding, prompts; /* prompts: tokens of them */
};

static void make_plan(struct run *r, uint32_t room, struct plan *plan)
{
    memset(plan, 0, sizeof *plan);
    for (uint32_t i = 0; i < r->count; i++) {
        struct request *request = &r->requests[i];
        uint32_t count = request->length - request->computed;
        if (request->ended)
            continue;
        if (count == 1) {
            plan->decoding++;
        } else {
            count = count < room ? count : room;
            room -= count;
            plan->prompts += count;
        }
        if (count == 0)
            continue;
        for (uint32_t j = 0; j < count; j++, plan->total++) {
            r->ids[plan->total] = request->ids[request->computed + j];
            r->positions[plan->total] = request->computed + j;
        }
        plan->seqs[plan->n] = request->seq;
        plan->request[plan->n] = i;
        plan->counts[plan->n++] = count;
    }
}

/* Begins a step.  Where the budget has no room for so many new rows at 16 bits, a shorter part of
 * the prompts is tried: nothing has changed, and what the short step seals makes room for the next.
 */
static int begin(struct run *r, struct plan *plan)
{
    for (;; r->room = plan->prompts / 2) { /* and the steps that follow stay as short */
        make_plan(r, r->room, plan);
        if (plan->n == 0)
            return 0;
        if (store_begin(&r->store, plan->seqs, plan->counts, plan->n) == 0)
            return 0;
        if (!r->store.refused || plan->prompts <= 16)
            return -1;
    }
}

/* Tells what the cache gave up since the last step, and why, in its own words. */
static int tell_pressure(struct run *r)
{
    anykv_stats now;
    char why[256];
    if (!r->program->options.budget && r->program->options.budget_share == 0.0)
        return 0;
    if (store_stats(&r->store, &now) != 0)
        return -1;
    if (now.blocks_evicted != r->told.blocks_evicted ||
        now.blocks_lowered != r->told.blocks_lowered ||
        now.budget_refusals != r->told.budget_refusals) {
        (void)anykv_cache_explain(r->store.cache, why, sizeof why);
        fprintf(stderr,
                "\nllama: %llu blocks lowered, %llu evicted, %llu steps refused, %llu of %llu "
                "bytes: %s\n",
                (unsigned long long)(now.blocks_lowered - r->told.blocks_lowered),
                (unsigned long long)(now.blocks_evicted - r->told.blocks_evicted),
                (unsigned long long)(now.budget_refusals - r->told.budget_refusals),
                (unsigned long long)now.used_bytes, (unsigned long long)now.budget_bytes, why);
    }
    r->told = now;
    return 0;
}

/* Chooses the next token of each request whose tokens have all been computed. */
static int take_logits(struct run *r, const uint32_t *owner, uint32_t wanted)
{
    uint32_t vocabulary = r->program->model.vocabulary, sequences = r->program->options.sequences;
    for (uint32_t i = 0; i < wanted; i++) {
        struct request *request = &r->requests[owner[i]];
        float *logits = r->logits + (uint64_t)i * vocabulary;
        uint32_t first = r->count;
        for (uint32_t j = 1; request->length == request->prompt && request->greedy && j < sequences;
             j++)
            if (fork_request(r, request) != 0)
                return -1;
        extend(r, request, choose(request, logits, vocabulary));
        for (uint32_t j = first; j < r->count; j++) {
            float *copy = r->logits + (uint64_t)MAX_REQUESTS * vocabulary;
            memcpy(copy, logits, vocabulary * sizeof *copy);
            extend(r, &r->requests[j], choose(&r->requests[j], copy, vocabulary));
        }
    }
    return 0;
}

/* One step over all requests that are not at their end.  *more_out: some still are not. */
static int step(struct run *r, int *more_out)
{
    struct plan plan;
    uint32_t owner[MAX_REQUESTS], wanted = 0, end = 0;
    double begun = seconds();
    struct store *part = &r->store;
    if (begin(r, &plan) != 0)
        return -1;
    *more_out = plan.n > 0;
    if (plan.n == 0)
        return 0;
    for (uint32_t i = 0; i < plan.n; i++) {
        struct request *request = &r->requests[plan.request[i]];
        end += plan.counts[i];
        if (request->computed + plan.counts[i] != request->length)
            continue;
        owner[wanted] = plan.request[i];
        r->rows[wanted++] = end - 1;
    }
    if (model_forward(&r->program->model, r->ids, r->positions, &part, &plan.total, 1, r->rows,
                      wanted, r->logits, NULL) != 0 ||
        store_end(part, r->ids) != 0)
        return -1;
    for (uint32_t i = 0; i < plan.n; i++)
        r->requests[plan.request[i]].computed += plan.counts[i];
    if (take_logits(r, owner, wanted) != 0)
        return -1;
    double took = seconds() - begun;
    r->decoded += plan.decoding;
    r->prompt_tokens += plan.prompts;
    /* A step that does both is charged by tokens. */
    r->decode_time += took * plan.decoding / plan.total;
    r->prompt_time += took * plan.prompts / plan.total;
    return tell_pressure(r);
}

static void print_others(const struct run *r)
{
    for (uint32_t i = 1; i < r->count; i++) {
        const struct request *request = &r->requests[i];
        printf("--- sequence %u\n", i + 1);
        for (uint32_t j = request->prompt; j < request->length; j++) {
            char text[256];
            if (request->ids[j] != r->program->tokenizer.end)
                (void)fwrite(
                    text, 1,
                    tokenizer_decode(&r->program->tokenizer, request->ids[j], text, sizeof text),
                    stdout);
        }
        fputs("\n", stdout);
    }
}

static void print_figures(struct run *r)
{
    anykv_stats stats;
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < r->count; i++)
        tokens += r->requests[i].computed;
    if (store_stats(&r->store, &stats) != 0)
        return;
    double f16 = (double)store_f16_bytes(&r->program->model, 1),
           held = (double)store_row_bytes(&stats);
    fprintf(
        stderr,
        "llama: %s on %s, products by %s\n"
        "llama: prompt %llu tokens computed, %llu from the cache, %.1f tokens/s; decode %llu, %.1f "
        "tokens/s\n"
        "llama: %u sequences of %llu tokens together: blocks of %.0f bytes (F16: %.0f), %.2f bits "
        "an "
        "element of all sequences\n"
        "llama: cache %llu of %llu bytes, work memory %llu; %llu blocks sealed, %llu evicted, %llu "
        "refusals\n",
        r->store.name, r->program->machine.device_name, dense_name(),
        (unsigned long long)r->prompt_tokens, (unsigned long long)r->matched,
        r->prompt_time > 0 ? (double)r->prompt_tokens / r->prompt_time : 0.0,
        (unsigned long long)r->decoded,
        r->decode_time > 0 ? (double)r->decoded / r->decode_time : 0.0, r->count,
        (unsigned long long)tokens, held, f16 * (double)tokens,
        tokens ? 16.0 * held / (f16 * (double)tokens) : 0.0, (unsigned long long)stats.used_bytes,
        (unsigned long long)stats.budget_bytes, (unsigned long long)stats.fixed_bytes,
        (unsigned long long)stats.blocks_sealed, (unsigned long long)stats.blocks_evicted,
        (unsigned long long)stats.budget_refusals);
}

int command_run(struct program *p)
{
    static struct run r;
    const struct options *o = &p->options;
    uint32_t longest = 0;
    int status, more = 1;
    r.program = p;
    r.room = STEP - MAX_REQUESTS;
    if (o->prompt_count == 0)
        return fail("run needs a prompt: -p TEXT");
    if (o->prompt_count * o->sequences > MAX_REQUESTS)
        return fail("%u prompts with %u sequences each are more than %d", o->prompt_count,
                    o->sequences, MAX_REQUESTS);
    status = read_prompts(&r, &longest);
    if (status == 0)
        status = program_model(p, STEP);
    if (status == 0 && longest > p->model.context)
        status = fail("%u tokens are beyond the model's context of %u", longest, p->model.context);
    if (status == 0 &&
        !(r.logits = grab((uint64_t)(MAX_REQUESTS + 1) * p->model.vocabulary, sizeof(float))))
        status = -1;
    if (status == 0) {
        struct store_options store = program_store(p, o->kv, longest, STEP);
        store.sequences = o->prompt_count * o->sequences;
        status = store_open(&r.store, &p->machine, &p->model, &store);
    }
    if (status == 0)
        status = start(&r);
    while (status == 0 && more)
        status = step(&r, &more);
    if (r.store.cache) {
        fputs("\n", stdout);
        print_others(&r);
        (void)fflush(stdout);
        print_figures(&r);
    }
    close_run(&r);
    return status;
}
