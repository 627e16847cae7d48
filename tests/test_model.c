/* SPDX-License-Identifier: Apache-2.0 */
/* Random operations on a cache and on a naive one, compared after each; with every kind of failure.
 */
#include "model.h"
#include <math.h>

static uint64_t lowered, compressed; /* blocks, in all games of a test */

static struct model_seq *pick(struct model *model, bool idle)
{
    const uint32_t start = model_below(model, MODEL_SEQS);
    for (uint32_t i = 0; i < MODEL_SEQS; i++) {
        struct model_seq *seq = &model->seqs[(start + i) % MODEL_SEQS];
        if (seq->seq && (!idle || !seq->in_step))
            return seq;
    }
    return NULL;
}

static struct model_seq *unused(struct model *model)
{
    for (uint32_t i = 0; i < MODEL_SEQS; i++)
        if (!model->seqs[i].seq)
            return &model->seqs[i];
    return NULL;
}

static anykv_seq_options identity(uint32_t which)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = which == 0 ? ANYKV_SEQ_PUBLIC : which == 3 ? ANYKV_SEQ_PRIVATE : 0;
    options.tenant = which == 1 ? "alice" : which == 2 ? "bob" : NULL;
    options.tenant_bytes = which == 1 ? 5 : which == 2 ? 3 : 0;
    return options;
}

/* Tokens come from few texts, so that prefixes meet. */
static void append_tokens(struct model *model, struct model_seq *seq, uint32_t count)
{
    const uint32_t text = model_below(model, 3);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t p = seq->length + i;
        seq->tokens[p] = text * 1000 + p;
        seq->seeds[p] = engine_chain(p ? seq->seeds[p - 1] : seq->salt, seq->tokens[p]);
    }
}

/* An operation failed: that is allowed only with faults, or for want of budget.  What the failure
 * did not take must be as it was. */
static void check_failure(struct model *model, anykv_status status, const char *what)
{
    akv_alloc_fail_at(0, false);
    akv_fault_at(0, ANYKV_OK, false);
    if (status == ANYKV_E_BUSY)
        cr_assert(model->depth, "%s: busy with no step open", what);
    else if (!model->faults)
        cr_assert(status == ANYKV_E_BUDGET && model->tight, "%s: %s: %s", what,
                  anykv_status_name(status), anykv_error_detail());
    else
        cr_assert(status == ANYKV_E_BUDGET || status == ANYKV_E_MEMORY ||
                      status == ANYKV_E_DEVICE || status == ANYKV_E_DEAD,
                  "%s: %s: %s", what, anykv_status_name(status), anykv_error_detail());
    (void)anykv_cache_wait(model->engine.cache, UINT64_MAX);
}

/* Sequences that a device failure hit are given up. */
static void bury_dead(struct model *model)
{
    for (uint32_t i = 0; i < MODEL_SEQS; i++) {
        struct model_seq *seq = &model->seqs[i];
        uint64_t length;
        if (!seq->seq || seq->in_step || anykv_seq_length(seq->seq, &length) != ANYKV_E_DEAD)
            continue;
        cr_assert(model->faults, "a sequence is dead without a fault");
        anykv_seq_destroy(seq->seq);
        memset(seq, 0, sizeof *seq);
    }
}

static void arm(struct model *model)
{
    if (!model->faults)
        return;
    const uint32_t kind = model_below(model, 6);
    if (kind == 0)
        akv_alloc_fail_at(1 + model_below(model, 6), model_below(model, 2));
    else if (kind <= 2)
        akv_fault_at(1 + model_below(model, 12), ANYKV_E_DEVICE, kind == 2);
}

static void disarm(void)
{
    akv_alloc_fail_at(0, false);
    akv_fault_at(0, ANYKV_OK, false);
}

/* ---- operations ---- */

static void op_create(struct model *model)
{
    struct model_seq *seq = unused(model);
    if (!seq)
        return;
    memset(seq, 0, sizeof *seq);
    seq->identity = model_below(model, 8) == 0 ? 3 : model_below(model, 3);
    seq->salt = seq->identity + 1;
    const anykv_seq_options options = identity(seq->identity);
    const anykv_status status = anykv_seq_create(model->engine.cache, &options, &seq->seq);
    if (status) {
        check_failure(model, status, "create");
        seq->seq = NULL;
        return;
    }
    seq->own = true;
    if (seq->identity == 3)
        seq->salt = 1000 + model_below(model, 1u << 30);
    uint32_t count = model_below(model, 200);
    append_tokens(model, seq, count);
    const uint32_t expected = seq->identity == 3 ? 0 : model_match(model, seq->seeds, count);
    uint64_t matched = 77, looked = 77;
    anykv_status looked_status =
        anykv_cache_lookup(model->engine.cache, &options, seq->tokens, count, &looked);
    anykv_status match_status = anykv_seq_match(seq->seq, seq->tokens, count, &matched);
    if (looked_status || match_status) {
        check_failure(model, looked_status ? looked_status : match_status, "match");
        if (match_status)
            return;
    }
    if (model->tight || model->faults)
        cr_assert(matched <= expected, "matched %llu, only %u were ever named",
                  (unsigned long long)matched, expected);
    else
        cr_assert(matched == expected && looked == expected, "matched %llu, looked up %llu, not %u",
                  (unsigned long long)matched, (unsigned long long)looked, expected);
    seq->length = seq->named = (uint32_t)matched;
    for (uint32_t i = 0; matched && i < MODEL_SEQS; i++)
        model->seqs[i].own = false; /* whoever named the blocks shares them now */
    for (uint32_t g = 0; g < model->engine.layout->group_count; g++)
        seq->first[g] = model_visible(model, g, seq->length);
    model->counts[0]++;
}

static void op_destroy(struct model *model)
{
    struct model_seq *seq = pick(model, true);
    if (!seq)
        return;
    if (model_below(model, 3) == 0 && anykv_seq_done(seq->seq))
        return;
    anykv_seq_destroy(seq->seq);
    memset(seq, 0, sizeof *seq);
    model->counts[1]++;
}

static void op_fork(struct model *model)
{
    struct model_seq *seq = pick(model, true), *copy = unused(model);
    if (!seq || !copy)
        return;
    anykv_seq *handle;
    const anykv_status status = anykv_seq_fork(seq->seq, &handle);
    if (status) {
        check_failure(model, status, "fork");
        return;
    }
    seq->own = false;
    *copy = *seq;
    copy->seq = handle;
    model->counts[2]++;
}

/* A naive softmax over the rows that the sequence should see. */
static void check_attention(struct model *model, struct model_seq *seq, uint32_t layer, uint32_t t,
                            const float *q, const float *out)
{
    const anykv_layout *layout = model->engine.layout;
    const anykv_layer *record = &layout->layers[layer];
    const struct akv_group *group = &layout->groups[layout->places[layer].group];
    const uint32_t owner = record->source == ANYKV_OWN_ROWS ? layer : record->source;
    const uint32_t position = seq->length + t, dim = group->k_dim, v_dim = group->v_dim;
    const uint32_t from =
        record->window && position >= record->window ? position - record->window + 1 : 0;
    double *score = malloc((position + 1) * sizeof *score), *sum = calloc(v_dim, sizeof *sum);
    for (uint32_t h = 0; h < record->q_heads; h++) {
        const uint32_t kv = h / (record->q_heads / record->kv_heads);
        double most = -1e300, total = 0;
        for (uint32_t p = from; p <= position; p++) {
            double s = 0;
            for (uint32_t i = 0; i < dim; i++)
                s += (double)q[h * dim + i] * (double)engine_value(seq->seeds[p], owner, 0, kv, i);
            score[p] = s / sqrt((double)dim);
            if (!seq->removed[p / 16] && score[p] > most)
                most = score[p];
        }
        memset(sum, 0, v_dim * sizeof *sum);
        for (uint32_t p = from; p <= position; p++) {
            if (seq->removed[p / 16])
                continue;
            const double w = exp(score[p] - most);
            total += w;
            for (uint32_t i = 0; i < v_dim; i++)
                sum[i] += w * (double)engine_value(seq->seeds[p], owner, 1, kv, i);
        }
        double error = 0, size = 0;
        for (uint32_t i = 0; i < v_dim; i++) {
            const double d = (double)out[h * v_dim + i] - sum[i] / total;
            error += d * d;
            size += sum[i] / total * sum[i] / total;
        }
        cr_assert(sqrt(error) <= 0.5 * sqrt(size) + 0.5,
                  "layer %u head %u position %u: attention is off by %g of %g", layer, h, position,
                  sqrt(error), sqrt(size));
    }
    free(score);
    free(sum);
}

static anykv_status attend_all(struct model *model, anykv_step *step, struct model_seq **seqs)
{
    const anykv_layout *layout = model->engine.layout;
    const uint32_t layer = model_below(model, layout->count);
    const anykv_layer *record = &layout->layers[layer];
    const size_t q_count = (size_t)step->tokens * record->q_heads * record->k_dim;
    const size_t o_count = (size_t)step->tokens * record->q_heads * record->v_dim;
    float *q = malloc((q_count + 1) * sizeof *q), *out = malloc((o_count + 1) * sizeof *out);
    for (size_t i = 0; i < q_count; i++)
        q[i] = ((float)model_below(model, 201) - 100.0f) / 1600.0f;
    const anykv_view q_view = anykv_view_host(q, ANYKV_F32, record->q_heads, record->k_dim);
    const anykv_view o_view = anykv_view_host(out, ANYKV_F32, record->q_heads, record->v_dim);
    const anykv_status status = anykv_step_attend(step, layer, &q_view, NULL, &o_view);
    uint32_t row = 0;
    for (uint32_t s = 0; s < step->n && !status; s++)
        for (uint32_t t = 0; t < step->counts[s]; t++, row++)
            if (model_below(model, 8) == 0)
                check_attention(model, seqs[s], layer, t,
                                q + (size_t)row * record->q_heads * record->k_dim,
                                out + (size_t)row * record->q_heads * record->v_dim);
    free(q);
    free(out);
    return status;
}

/* The step ended with these accepted counts. */
static void commit(struct model *model, struct model_seq *seq, uint32_t accepted, bool named)
{
    const uint32_t before = seq->named;
    if (named && accepted && seq->identity != 3 && !seq->closed && seq->named == seq->length) {
        seq->named = seq->length + accepted;
        model_publish(model, seq, before);
    }
    seq->length += accepted;
    model_slide(model, seq);
}

static void one_operation(struct model *model);

/* Something happens to other sequences while the step is open. */
static void meanwhile(struct model *model, struct model_seq **seqs, uint32_t n)
{
    if (model->depth == 2 || model_below(model, 3))
        return;
    for (uint32_t i = 0; i < n; i++)
        seqs[i]->in_step = true;
    model->depth++;
    for (uint32_t count = 1 + model_below(model, 3); count > 0; count--) {
        one_operation(model);
        audit(model->engine.cache, "inside a step");
    }
    model->depth--;
    for (uint32_t i = 0; i < n; i++)
        seqs[i]->in_step = false;
}

static void op_step(struct model *model)
{
    struct model_seq *seqs[3];
    anykv_seq *handles[3];
    uint32_t counts[3], accepted[3], n = 0, tokens = 0, ids[128];
    uint64_t seeds[128];
    for (uint32_t tries = 1 + model_below(model, 3); tries > 0; tries--) {
        struct model_seq *seq = pick(model, true);
        if (!seq)
            break;
        bool twice = false;
        for (uint32_t i = 0; i < n; i++)
            twice = twice || seqs[i] == seq;
        if (twice)
            continue;
        uint32_t count = model_below(model, 3) ? model_below(model, 6) : model_below(model, 40);
        if (seq->length + count > MODEL_TOKENS - 8)
            count = 0;
        append_tokens(model, seq, count);
        memcpy(ids + tokens, seq->tokens + seq->length, count * sizeof *ids);
        memcpy(seeds + tokens, seq->seeds + seq->length, count * sizeof *seeds);
        handles[n] = seq->seq;
        counts[n] = count;
        accepted[n] = model_below(model, 4) ? count : model_below(model, count + 1);
        seqs[n++] = seq;
        tokens += count;
    }
    if (n == 0)
        return;
    anykv_step *step;
    anykv_status status = anykv_step_begin(model->engine.cache, handles, counts, n, &step);
    if (status) {
        check_failure(model, status, "begin");
        return;
    }
    meanwhile(model, seqs, n);
    status = engine_append(step, seeds);
    if (!status)
        meanwhile(model, seqs, n);
    if (!status && model_below(model, 2))
        status = attend_all(model, step, seqs);
    if (status || model_below(model, 10) == 0) {
        anykv_step_cancel(step);
        if (status)
            check_failure(model, status, "append or attend");
        return;
    }
    const bool named = model_below(model, 4) != 0, partial = model_below(model, 3) == 0;
    status = anykv_step_end(step, partial ? accepted : NULL, named ? ids : NULL);
    if (status) {
        check_failure(model, status, "end");
        bury_dead(model);
        for (uint32_t i = 0; i < n; i++)
            cr_assert(!seqs[i]->seq, "a sequence survived a failed end");
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        commit(model, seqs[i], partial ? accepted[i] : counts[i], named);
    model->counts[3]++;
}

static void op_name(struct model *model)
{
    struct model_seq *seq = pick(model, true);
    if (!seq || seq->identity == 3 || seq->closed || seq->named == seq->length)
        return;
    const uint32_t count = 1 + model_below(model, seq->length - seq->named), before = seq->named;
    const anykv_status status = anykv_seq_name(seq->seq, seq->tokens + seq->named, count);
    if (status) {
        check_failure(model, status, "name");
        return;
    }
    seq->named += count;
    model_publish(model, seq, before);
    model->counts[4]++;
}

static void op_trim(struct model *model)
{
    struct model_seq *seq = pick(model, true);
    if (!seq || seq->length == 0)
        return;
    uint32_t to = model_below(model, 2)
                      ? model_below(model, seq->length + 1)
                      : seq->length - model_below(model, seq->length < 20 ? seq->length : 20);
    if (model_below(model, 2))
        to = to / 16 * 16;
    const anykv_status status = anykv_seq_trim(seq->seq, to);
    if (status == ANYKV_E_STATE)
        return;
    if (status) {
        check_failure(model, status, "trim");
        return;
    }
    seq->own = false; /* what was sealed stays so */
    seq->length = to;
    if (seq->named > to)
        seq->named = to;
    for (uint32_t b = (to + 15) / 16; b < MODEL_TOKENS / 16; b++)
        seq->removed[b] = false;
    for (uint32_t g = 0; g < model->engine.layout->group_count; g++)
        if (seq->first[g] > model_visible(model, g, to))
            seq->first[g] = model_visible(model, g, to);
    model->counts[5]++;
}

static void op_remove(struct model *model)
{
    struct model_seq *seq = pick(model, true);
    if (!seq || seq->length < 48 || model_below(model, 4))
        return;
    const uint32_t whole = seq->length / 16, first = model_below(model, whole);
    const uint32_t count = 1 + model_below(model, whole - first < 3 ? whole - first : 3);
    const anykv_status status = anykv_seq_remove(seq->seq, first * 16, count * 16);
    if (status) {
        check_failure(model, status, "remove");
        return;
    }
    for (uint32_t b = first; b < first + count; b++)
        seq->removed[b] = true;
    seq->closed = true;
    model->counts[6]++;
}

static void op_memory(struct model *model)
{
    anykv_cache *cache = model->engine.cache;
    if (!model->tight)
        return;
    const uint32_t kind = model_below(model, 20);
    anykv_status status = ANYKV_OK;
    if (kind == 0)
        status = anykv_cache_trim_memory(cache);
    else if (kind <= 3)
        status = anykv_cache_set_budget(cache, cache->plan.options.budget_bytes / 16 *
                                                   (8 + model_below(model, 16)));
    if (status)
        check_failure(model, status, "budget");
    else
        model->counts[7]++;
}

/* Rows stay what they are, bit for bit. */
static void op_compress(struct model *model)
{
    anykv_compress_info info = ANYKV_COMPRESS_INFO_INIT;
    struct model_seq *seq = model_below(model, 3) ? pick(model, true) : NULL;
    anykv_status status;
    if (seq && model_below(model, 3))
        status = anykv_seq_compress(seq->seq, ANYKV_COMPRESS_BX16, model_below(model, 100), model_below(model, 300), &info);
    else if (seq)
        status = anykv_seq_compress(seq->seq, ANYKV_COMPRESS_BX16, 0, UINT64_MAX, &info);
    else
        status = anykv_cache_compress(model->engine.cache, ANYKV_COMPRESS_BX16,
                                      model_below(model, 2) ? UINT64_MAX : model_below(model, 20), &info);
    if (status)
        check_failure(model, status, "compress");
    cr_assert(info.bytes < info.plain_bytes || info.blocks == 0, "%llu blocks grew", (unsigned long long)info.blocks);
    model->counts[8]++;
    compressed += info.blocks;
}

static void one_operation(struct model *model)
{
    const uint32_t kind = model_below(model, model->cold ? 30 : 24);
    if (kind < 3)
        op_create(model);
    else if (kind < 5)
        op_destroy(model);
    else if (kind < 6)
        op_fork(model);
    else if (kind < 18)
        op_step(model);
    else if (kind < 20)
        op_name(model);
    else if (kind < 22)
        op_trim(model);
    else if (kind < 23)
        op_remove(model);
    else if (kind < 24)
        op_memory(model);
    else
        op_compress(model);
}

static void run(struct model *model, uint32_t operations, uint64_t seed)
{
    char when[96];
    for (uint32_t i = 0; i < operations; i++) {
        arm(model);
        one_operation(model);
        disarm();
        bury_dead(model);
        snprintf(when, sizeof when, "seed %llu, operation %u", (unsigned long long)seed, i);
        audit(model->engine.cache, when);
        struct model_seq *seq = pick(model, false);
        if (seq)
            model_check_seq(model, seq, 8);
    }
    for (uint32_t i = 0; i < MODEL_SEQS; i++)
        if (model->seqs[i].seq) {
            model_check_seq(model, &model->seqs[i], 100);
            anykv_seq_destroy(model->seqs[i].seq);
        }
    OK(anykv_cache_trim_memory(model->engine.cache));
    const anykv_stats stats = engine_stats(model->engine.cache);
    cr_assert(stats.used_bytes == stats.fixed_bytes, "%llu bytes left",
              (unsigned long long)(stats.used_bytes - stats.fixed_bytes));
}

enum { WITH_BUDGET = 1, WITH_FAULTS = 2, WITH_STAGING = 4, WITH_LADDER = 8, WITH_COLD = 16 };

static void play(uint64_t seed, uint32_t operations, uint32_t what)
{
    struct model *model = calloc(1, sizeof *model);
    const uint64_t live = akv_alloc_live();
    model->random = seed;
    model->tight = what & WITH_BUDGET;
    model->faults = what & WITH_FAULTS;
    model->cold = what & WITH_COLD;
    anykv_layer layers[4];
    layers[0] = engine_layer(1, 64, 0);
    layers[1] = engine_layer(2, 64, 40 + model_below(model, 40));
    layers[1].k_format = ANYKV_I8;
    layers[1].v_format = ANYKV_N3;
    layers[1].v_dim = 80;
    layers[1].hot_type = ANYKV_BF16;
    if (what & WITH_COLD) {
        layers[0].hot_type = ANYKV_BF16;
        if (model_below(model, 2))
            layers[0].k_format = layers[0].v_format = ANYKV_BF16;
    }
    layers[2] = layers[0];
    layers[2].source = 0;
    layers[2].q_heads = 3;
    layers[3] = layers[0];
    const uint32_t formats = model_below(model, 5);
    if (formats == 0) {
        layers[1].k_format = layers[1].v_format = ANYKV_BF16;
    } else if (formats == 1) {
        layers[1].k_format = ANYKV_Q8_0;
        layers[1].v_format = ANYKV_IQ4_NL;
    } else if (formats == 2) {
        layers[1].k_format = ANYKV_E4M3;
        layers[1].v_format = ANYKV_Q5_1;
    }
    anykv_cache_options options = engine_options(8u << 20);
    options.sinks = model_below(model, 2) * 4;
    options.recent = model_below(model, 3) * 24;
    options.max_seq_tokens = MODEL_TOKENS;
    engine_policy(&options, seed);
    if (what & WITH_COLD)
        options.flags |= model_below(model, 2) ? ANYKV_CACHE_COMPRESS : ANYKV_CACHE_COMPRESS_CACHED;
    if (what & WITH_LADDER) {
        options.error_budget = 0.6f;
        options.ladder_blocks = model_below(model, 2) * 8;
    }
    if (model->tight) { /* room for about 60 blocks */
        anykv_context *context = house_context();
        anykv_device *device = engine_device(context, 0);
        if (what & WITH_STAGING)
            engine_hide_host_memory(device);
        anykv_layout *layout = engine_layout(context, layers, 4);
        anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
        OK(anykv_cache_estimate(device, layout, &options, &estimate));
        const uint32_t blocks = what & (WITH_LADDER | WITH_COLD) ? 20 : 60;
        options.budget_bytes = estimate.fixed_bytes + blocks * estimate.hot_block_bytes;
        anykv_layout_destroy(layout);
        anykv_device_close(device);
        anykv_context_destroy(context);
    }
    engine_start_at(&model->engine, layers, 4, &options, model_below(model, 2),
                    what & WITH_STAGING);
    run(model, operations, seed);
    const anykv_stats stats = engine_stats(model->engine.cache);
    lowered += stats.blocks_lowered;
    engine_stop(&model->engine);
    fprintf(stderr,
            "# seed %llu: create %llu, destroy %llu, fork %llu, step %llu, name %llu, trim %llu, "
            "remove %llu, memory %llu, compress %llu\n",
            (unsigned long long)seed, (unsigned long long)model->counts[0],
            (unsigned long long)model->counts[1], (unsigned long long)model->counts[2],
            (unsigned long long)model->counts[3], (unsigned long long)model->counts[4],
            (unsigned long long)model->counts[5], (unsigned long long)model->counts[6],
            (unsigned long long)model->counts[7], (unsigned long long)model->counts[8]);
    free(model->names);
    free(model);
    cr_assert(akv_alloc_live() == live, "seed %llu: %llu allocations leaked",
              (unsigned long long)seed, (unsigned long long)(akv_alloc_live() - live));
}

/* ANYKV_TEST_SEED and ANYKV_TEST_OPERATIONS choose another run. */
static void play_many(uint64_t seed, uint32_t games, uint32_t what)
{
    const char *given = getenv("ANYKV_TEST_SEED"), *length = getenv("ANYKV_TEST_OPERATIONS");
    const uint32_t operations = length ? (uint32_t)strtoul(length, NULL, 10) : 250;
    if (given) {
        seed = strtoull(given, NULL, 10);
        games = 1;
    }
    for (uint32_t i = 0; i < engine_share(games); i++)
        play(seed + i, operations, what);
}

Test(model, plenty_of_memory, .timeout = 300)
{
    play_many(100, 6, 0);
}

Test(model, short_of_memory, .timeout = 300)
{
    play_many(200, 8, WITH_BUDGET);
}

Test(model, failures, .timeout = 300)
{
    play_many(300, 8, WITH_FAULTS);
}

Test(model, failures_and_short_of_memory, .timeout = 300)
{
    play_many(400, 8, WITH_BUDGET | WITH_FAULTS);
}

/* Precision goes down before anything is dropped; sinks, recent, pinned and running blocks keep
 * theirs: audit and model_check_kind say so after every operation. */
Test(model, precision_ladder, .timeout = 300)
{
    play_many(700, 8, WITH_BUDGET | WITH_LADDER);
    play_many(800, 6, WITH_BUDGET | WITH_LADDER | WITH_FAULTS);
    play_many(900, 2, WITH_BUDGET | WITH_LADDER | WITH_STAGING);
    cr_expect(lowered > engine_share(100), "the ladder was hardly used: %llu blocks",
              (unsigned long long)lowered);
}

/* Blocks are compressed in place and read back on use. */
Test(model, compressed_blocks, .timeout = 300)
{
    play_many(1000, 6, WITH_COLD);
    play_many(1100, 8, WITH_COLD | WITH_BUDGET);
    play_many(1200, 6, WITH_COLD | WITH_BUDGET | WITH_LADDER);
    play_many(1300, 6, WITH_COLD | WITH_FAULTS);
    play_many(1400, 8, WITH_COLD | WITH_BUDGET | WITH_LADDER | WITH_FAULTS);
    play_many(1500, 4, WITH_COLD | WITH_BUDGET | WITH_FAULTS | WITH_STAGING);
    cr_expect(compressed > engine_share(1000), "compression was hardly used: %llu blocks",
              (unsigned long long)compressed);
}

Test(model, host_rows_are_staged, .timeout = 300)
{
    play_many(500, 4, WITH_STAGING);
    play_many(600, 4, WITH_STAGING | WITH_BUDGET | WITH_FAULTS);
}
