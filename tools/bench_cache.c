/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench cache`: what the engine itself costs, through the public interface. */
#include "bench.h"
#include "bench_policy.h"
#include "prefix.h"
#include <stdatomic.h>
#include <stdio.h>

static const struct akv_column columns[] = {
    {"bench", NULL, 0},        {"op", "op", 0},           {"size", "size", 0},
    {"unit", "of", 0},         {"threads", "threads", 0}, {"device", "device", 0},
    {"ns_per_op", "ns/op", 1}, {"spread", "spread", 2},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

#define BLOCK        16u
#define STEP_TOKENS  2048u
#define LONG_TOKENS  131072u
#define INDEX_BLOCKS 65536u /* in the index when it is searched */

/* A cache, with rows to append and room for what comes out. */
struct rig {
    struct bench *b;
    anykv_device *device;
    anykv_layout *layout;
    anykv_cache *cache;
    uint32_t layers, kv_heads, q_heads, dim, threads;
    uint16_t *rows; /* [STEP_TOKENS][q_heads][dim] */
    uint16_t *out;
    uint32_t *tokens; /* [LONG_TOKENS]; number 0 is changed to make other chains */
};

static void rig_close(struct rig *rig)
{
    anykv_cache_destroy(rig->cache);
    anykv_layout_destroy(rig->layout);
    anykv_device_close(rig->device);
    akv_free(rig->b->context, rig->rows);
    akv_free(rig->b->context, rig->out);
    akv_free(rig->b->context, rig->tokens);
}

static anykv_status rig_open(struct bench *b, struct rig *rig, anykv_format format, uint64_t budget,
                             uint32_t recent)
{
    anykv_device_options device = ANYKV_DEVICE_OPTIONS_INIT;
    device.threads = rig->threads == 1 ? 0 : rig->threads;
    rig->b = b;
    size_t values = (size_t)STEP_TOKENS * rig->q_heads * rig->dim;
    rig->rows = akv_alloc(b->context, values, sizeof *rig->rows);
    rig->out = akv_alloc(b->context, values, sizeof *rig->out);
    rig->tokens = akv_alloc(b->context, LONG_TOKENS, sizeof *rig->tokens);
    if (!rig->rows || !rig->out || !rig->tokens)
        return ANYKV_E_MEMORY;
    uint32_t state = 1;
    for (size_t i = 0; i < values; i++) { /* fp16 between 0.5 and 2, either sign */
        state = state * 1664525u + 1013904223u;
        rig->rows[i] = (uint16_t)((state >> 16 & 0x83FFu) | (0x3800u + (state >> 8 & 0x400u)));
    }
    for (uint32_t i = 0; i < LONG_TOKENS; i++)
        rig->tokens[i] = (state = state * 1664525u + 1013904223u) >> 15;
    anykv_status status = anykv_device_open(b->context, b->label, &device, &rig->device);
    if (status != ANYKV_OK)
        return status;
    anykv_layer layer = ANYKV_LAYER_INIT, layers[8];
    layer.kv_heads = rig->kv_heads;
    layer.q_heads = rig->q_heads;
    layer.k_dim = layer.v_dim = rig->dim;
    layer.k_format = layer.v_format = format;
    for (uint32_t i = 0; i < rig->layers; i++)
        layers[i] = layer;
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    options.block_tokens = BLOCK;
    options.weights = "bench";
    options.weights_bytes = 5;
    status = anykv_layout_create(b->context, layers, rig->layers, &options, &rig->layout);
    anykv_cache_options cache = ANYKV_CACHE_OPTIONS_INIT;
    cache.budget_bytes = budget;
    cache.recent = recent;
    cache.sinks = 0;
    cache.max_step_tokens = STEP_TOKENS;
    cache.max_seq_tokens = LONG_TOKENS + STEP_TOKENS;
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    if (status == ANYKV_OK && budget == 0) { /* the least, and a little for what is cached */
        cache.budget_bytes = 1ull << 30;
        status = anykv_cache_estimate(rig->device, rig->layout, &cache, &estimate);
        cache.budget_bytes = estimate.minimum_bytes + (4ull << 20);
    }
    if (status == ANYKV_OK)
        status = anykv_cache_create(rig->device, rig->layout, &cache, &rig->cache);
    return status;
}

static anykv_status sequence(struct rig *rig, anykv_seq **seq_out)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PUBLIC;
    return anykv_seq_create(rig->cache, &options, seq_out);
}

/* Nanoseconds of the parts of one step. */
struct times {
    double begin, append, attend, end;
};

static anykv_status append_all(struct rig *rig, anykv_step *step, bool attend, struct times *times)
{
    anykv_status status = ANYKV_OK;
    anykv_view kv = anykv_view_host(rig->rows, ANYKV_F16, rig->kv_heads, rig->dim);
    anykv_view q = anykv_view_host(rig->rows, ANYKV_F16, rig->q_heads, rig->dim);
    anykv_view out = anykv_view_host(rig->out, ANYKV_F16, rig->q_heads, rig->dim);
    for (uint32_t l = 0; l < rig->layers && status == ANYKV_OK; l++) {
        uint64_t start = akv_now_ns();
        status = anykv_step_append(step, l, &kv, &kv);
        uint64_t between = akv_now_ns();
        if (status == ANYKV_OK && attend)
            status = anykv_step_attend(step, l, &q, NULL, &out);
        times->append += (double)(between - start);
        times->attend += (double)(akv_now_ns() - between);
    }
    return status;
}

/* One step of `count` tokens, from number `first` of the list on; adds to times. */
static anykv_status one_step(struct rig *rig, anykv_seq *seq, uint32_t first, uint32_t count,
                             bool attend, bool keep, struct times *times)
{
    anykv_step *step = NULL;
    uint64_t start = akv_now_ns();
    anykv_status status = anykv_step_begin(rig->cache, &seq, &count, 1, &step);
    times->begin += (double)(akv_now_ns() - start);
    if (status != ANYKV_OK)
        return status;
    status = append_all(rig, step, attend, times);
    if (status != ANYKV_OK || !keep) {
        anykv_step_cancel(step);
        return status;
    }
    start = akv_now_ns();
    status = anykv_step_end(step, NULL, rig->tokens + first % LONG_TOKENS);
    if (status == ANYKV_OK)
        status = anykv_cache_wait(rig->cache, UINT64_MAX);
    times->end += (double)(akv_now_ns() - start);
    return status;
}

static anykv_status prefill(struct rig *rig, anykv_seq *seq, uint32_t tokens)
{
    struct times times = {0};
    anykv_status status = ANYKV_OK;
    for (uint32_t at = 0; at < tokens && status == ANYKV_OK; at += STEP_TOKENS)
        status = one_step(rig, seq, at, AKV_MIN(STEP_TOKENS, tokens - at), false, true, &times);
    return status;
}

static uint64_t counter(struct rig *rig, size_t offset)
{
    anykv_stats stats = {.size = sizeof stats};
    uint64_t value = 0;
    if (anykv_cache_stats(rig->cache, &stats) == ANYKV_OK)
        memcpy(&value, (const char *)&stats + offset, sizeof value);
    return value;
}

/* ---- operations: one run each, nanoseconds of one operation ---- */

struct op {
    const char *name, *unit;
    uint32_t size;
    anykv_status (*run)(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out);
};

static anykv_status run_append(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    struct times times = {0};
    uint32_t loops = size >= 512 ? 2 : 20;
    anykv_status status = ANYKV_OK;
    for (uint32_t i = 0; i < loops && status == ANYKV_OK; i++)
        status = one_step(rig, seq, 0, size, false, false, &times);
    *ns_out = times.append / ((double)loops * rig->layers);
    return status;
}

/* Decode steps of one token; what the engine itself takes of them is `step_engine`. */
static anykv_status decode_steps(struct rig *rig, anykv_seq *seq, struct times *times,
                                 uint32_t loops)
{
    anykv_status status = ANYKV_OK;
    uint64_t length = 0;
    for (uint32_t i = 0; i < loops && status == ANYKV_OK; i++) {
        status = anykv_seq_length(seq, &length);
        if (status == ANYKV_OK)
            status = one_step(rig, seq, (uint32_t)length, 1, true, true, times);
    }
    return status;
}

static anykv_status run_step(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    struct times times = {0};
    (void)size;
    anykv_status status = decode_steps(rig, seq, &times, 2 * BLOCK);
    *ns_out = (times.begin + times.append + times.attend + times.end) / (2 * BLOCK);
    return status;
}

static anykv_status run_step_engine(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    struct times times = {0};
    (void)size;
    anykv_status status = decode_steps(rig, seq, &times, 2 * BLOCK);
    *ns_out = (times.begin + times.end) / (2 * BLOCK);
    return status;
}

/* Begin and cancel alone, of a sequence that is long. */
static anykv_status run_long_step(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    enum { LOOPS = 32 };
    const uint32_t count = 1;
    anykv_status status = ANYKV_OK;
    (void)size;
    uint64_t start = akv_now_ns();
    for (uint32_t i = 0; i < LOOPS && status == ANYKV_OK; i++) {
        anykv_step *step = NULL;
        status = anykv_step_begin(rig->cache, &seq, &count, 1, &step);
        anykv_step_cancel(step);
    }
    *ns_out = (double)(akv_now_ns() - start) / LOOPS;
    return status;
}

static anykv_status run_seal(struct rig *rig, anykv_seq *ignored, uint32_t size, double *ns_out)
{
    anykv_seq *seq = NULL;
    struct times times = {0};
    (void)ignored;
    uint64_t before = counter(rig, offsetof(anykv_stats, blocks_sealed));
    anykv_status status = sequence(rig, &seq);
    rig->tokens[0]++; /* other content, or the block would be there already */
    if (status == ANYKV_OK)
        status = one_step(rig, seq, 0, size, false, true, &times);
    uint64_t sealed = counter(rig, offsetof(anykv_stats, blocks_sealed)) - before;
    *ns_out = sealed ? times.end / (double)sealed : 0.0;
    anykv_seq_destroy(seq);
    return status;
}

static anykv_status run_gather(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    anykv_view rows = anykv_view_host(rig->out, ANYKV_F16, rig->kv_heads, rig->dim);
    uint64_t start = akv_now_ns();
    anykv_status status = anykv_seq_gather(seq, 0, 1, 0, size, &rows);
    *ns_out = (double)(akv_now_ns() - start);
    return status;
}

static anykv_status run_block_key(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    enum { LOOPS = 10000 };
    akv_digest key = {{1}};
    (void)seq;
    uint64_t start = akv_now_ns();
    for (uint32_t i = 0; i < LOOPS; i++)
        key = akv_prefix_key(&key, rig->tokens, size);
    *ns_out = (double)(akv_now_ns() - start) / LOOPS;
    rig->tokens[LONG_TOKENS - 1] ^= key.byte[0] & 1u; /* the keys are wanted */
    return ANYKV_OK;
}

static anykv_status run_match(struct rig *rig, anykv_seq *ignored, uint32_t size, double *ns_out)
{
    anykv_seq *seq = NULL;
    uint64_t matched = 0;
    (void)ignored;
    anykv_status status = sequence(rig, &seq);
    uint64_t start = akv_now_ns();
    if (status == ANYKV_OK)
        status = anykv_seq_match(seq, rig->tokens, size, &matched);
    *ns_out = (double)(akv_now_ns() - start);
    anykv_seq_destroy(seq);
    if (status == ANYKV_OK && matched + BLOCK < size)
        status = akv_fail(rig->b->context, ANYKV_E_INTERNAL, "bench: matched %llu of %u tokens",
                          (unsigned long long)matched, (unsigned)size);
    return status;
}

/* Threads that look a prompt up, or take it, while another one may make and evict blocks. */
struct looker {
    struct rig *rig;
    uint32_t size, loops;
    akv_mutex *mutex; /* around each call, to compare with; or NULL */
    bool match;
    atomic_bool *over; /* the thread that evicts goes on until then */
    anykv_status status;
};

static void hold(akv_mutex *mutex, bool hold)
{
    if (mutex && hold)
        akv_mutex_lock(mutex);
    else if (mutex)
        akv_mutex_unlock(mutex);
}

static anykv_status take(const struct looker *looker, uint64_t *matched)
{
    anykv_seq *seq = NULL;
    anykv_status status = sequence(looker->rig, &seq);
    if (status == ANYKV_OK)
        status = anykv_seq_match(seq, looker->rig->tokens, looker->size, matched);
    anykv_seq_destroy(seq);
    return status;
}

static void *look(void *argument)
{
    struct looker *looker = argument;
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
    options.flags = ANYKV_SEQ_PUBLIC;
    /* cppcheck-suppress uninitvar ; the caller fills as many as it starts */
    for (uint32_t i = 0; i < looker->loops && looker->status == ANYKV_OK; i++) {
        uint64_t matched = 0;
        hold(looker->mutex, true);
        looker->status = looker->match ? take(looker, &matched)
                                       : anykv_cache_lookup(looker->rig->cache, &options,
                                                            looker->rig->tokens, looker->size,
                                                            &matched);
        hold(looker->mutex, false);
        if (looker->status == ANYKV_OK && matched + BLOCK < looker->size)
            looker->status = akv_fail(looker->rig->b->context, ANYKV_E_INTERNAL,
                                      "bench: matched %llu of %u tokens",
                                      (unsigned long long)matched, (unsigned)looker->size);
    }
    return NULL;
}

/* A prompt of 2,048 new tokens every EVICT_NS, or as fast as it goes, each call under the mutex. */
#define EVICT_NS 2000000u
static void *evict(void *argument)
{
    struct looker *looker = argument;
    struct rig *rig = looker->rig;
    const anykv_view kv = anykv_view_host(rig->rows, ANYKV_F16, rig->kv_heads, rig->dim);
    const uint32_t count = STEP_TOKENS;
    uint32_t *tokens = akv_alloc(rig->b->context, count, sizeof *tokens);
    looker->status = tokens ? ANYKV_OK : ANYKV_E_MEMORY;
    for (uint64_t next = akv_now_ns(); looker->status == ANYKV_OK && !atomic_load(looker->over);) {
        anykv_seq *seq = NULL;
        anykv_step *step = NULL;
        const uint64_t now = akv_now_ns();
        if (now < next) {
            const struct timespec rest = {0, (long)(next - now)};
            nanosleep(&rest, NULL);
            continue;
        }
        next = now + EVICT_NS;
        tokens[0]++;
        hold(looker->mutex, true);
        looker->status = sequence(rig, &seq);
        if (looker->status == ANYKV_OK)
            looker->status = anykv_step_begin(rig->cache, &seq, &count, 1, &step);
        hold(looker->mutex, false);
        hold(looker->mutex, true);
        if (looker->status == ANYKV_OK)
            looker->status = anykv_step_append(step, 0, &kv, &kv);
        hold(looker->mutex, false);
        hold(looker->mutex, true);
        if (looker->status == ANYKV_OK)
            looker->status = anykv_step_end(step, NULL, tokens);
        anykv_seq_destroy(seq);
        hold(looker->mutex, false);
    }
    akv_free(rig->b->context, tokens);
    return NULL;
}

static anykv_status look_all(const struct looker *how, bool evicting, double *ns_out)
{
    enum { MOST = 64 };
    struct looker lookers[MOST], evictor = *how;
    akv_thread threads[MOST], other;
    anykv_context *context = how->rig->b->context;
    uint32_t count = AKV_MIN(how->rig->threads, MOST), started = 0;
    atomic_bool over = false;
    evictor.over = &over;
    anykv_status status = ANYKV_OK;
    if (evicting)
        status = akv_thread_start(context, &other, evict, &evictor);
    if (status != ANYKV_OK)
        return status;
    uint64_t start = akv_now_ns();
    for (uint32_t i = 0; i < count; i++)
        lookers[i] = *how;
    for (uint32_t i = 1; i < count && status == ANYKV_OK; i++) {
        status = akv_thread_start(context, &threads[i], look, &lookers[i]);
        started += status == ANYKV_OK;
    }
    look(&lookers[0]);
    for (uint32_t i = 1; i <= started; i++) {
        akv_thread_join(&threads[i]);
        status = status == ANYKV_OK ? lookers[i].status : status;
    }
    *ns_out = (double)(akv_now_ns() - start) / ((double)how->loops * count);
    atomic_store(&over, true);
    if (evicting) {
        akv_thread_join(&other);
        status = status == ANYKV_OK ? evictor.status : status;
    }
    return status == ANYKV_OK ? lookers[0].status : status;
}

/* The same with one mutex around each call. */
static anykv_status under_mutex(struct looker *how, bool evicting, double *ns_out)
{
    akv_mutex mutex;
    anykv_status status = akv_mutex_init(how->rig->b->context, &mutex);
    if (status != ANYKV_OK)
        return status;
    /* cppcheck-suppress autoVariables ; taken back below */
    how->mutex = &mutex;
    status = look_all(how, evicting, ns_out);
    how->mutex = NULL;
    akv_mutex_destroy(&mutex);
    return status;
}

static anykv_status run_lookup(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    const struct looker how = {.rig = rig, .size = size, .loops = size > 4096 ? 1 : 100};
    (void)seq;
    return look_all(&how, false, ns_out);
}

static anykv_status run_lookup_mutex(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    struct looker how = {.rig = rig, .size = size, .loops = 100};
    (void)seq;
    return under_mutex(&how, false, ns_out);
}

#define SHARE_LOOPS 2000u

static anykv_status run_busy_lookup(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    const struct looker how = {.rig = rig, .size = size, .loops = SHARE_LOOPS};
    (void)seq;
    return look_all(&how, true, ns_out);
}

static anykv_status run_busy_lookup_mutex(struct rig *rig, anykv_seq *seq, uint32_t size,
                                          double *ns_out)
{
    struct looker how = {.rig = rig, .size = size, .loops = SHARE_LOOPS};
    (void)seq;
    return under_mutex(&how, true, ns_out);
}

static anykv_status run_share(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    const struct looker how = {.rig = rig, .size = size, .loops = SHARE_LOOPS, .match = true};
    (void)seq;
    return look_all(&how, false, ns_out);
}

static anykv_status run_share_mutex(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    struct looker how = {.rig = rig, .size = size, .loops = SHARE_LOOPS, .match = true};
    (void)seq;
    return under_mutex(&how, false, ns_out);
}

static anykv_status run_busy_share(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    const struct looker how = {.rig = rig, .size = size, .loops = SHARE_LOOPS, .match = true};
    (void)seq;
    return look_all(&how, true, ns_out);
}

static anykv_status run_busy_share_mutex(struct rig *rig, anykv_seq *seq, uint32_t size,
                                         double *ns_out)
{
    struct looker how = {.rig = rig, .size = size, .loops = SHARE_LOOPS, .match = true};
    (void)seq;
    return under_mutex(&how, true, ns_out);
}

static anykv_status run_fork(struct rig *rig, anykv_seq *seq, uint32_t size, double *ns_out)
{
    anykv_seq *child = NULL;
    (void)rig;
    (void)size;
    uint64_t start = akv_now_ns();
    anykv_status status = anykv_seq_fork(seq, &child);
    *ns_out = (double)(akv_now_ns() - start);
    anykv_seq_destroy(child);
    return status;
}

/* A budget that is full of cached blocks: each new sequence has to drive others out. */
static anykv_status run_evict(struct rig *rig, anykv_seq *ignored, uint32_t size, double *ns_out)
{
    struct times times = {0};
    anykv_status status = ANYKV_OK;
    (void)ignored;
    uint64_t before = counter(rig, offsetof(anykv_stats, blocks_evicted)), evicted = 0;
    for (uint32_t i = 0; i < 64 && evicted < 2 * STEP_TOKENS / BLOCK && status == ANYKV_OK; i++) {
        anykv_seq *seq = NULL;
        rig->tokens[0]++;
        status = sequence(rig, &seq);
        if (status == ANYKV_OK && evicted == 0)
            times.begin = times.end = 0.0;
        if (status == ANYKV_OK)
            status = one_step(rig, seq, 0, size, false, true, &times);
        anykv_seq_destroy(seq);
        evicted = counter(rig, offsetof(anykv_stats, blocks_evicted)) - before;
    }
    *ns_out = evicted ? times.begin / (double)evicted : 0.0;
    return status;
}

/* ---- rows of the table ---- */

static void add_row(struct bench *b, const char *op, uint32_t size, const char *unit,
                    uint32_t threads, double *ns, uint32_t count)
{
    struct akv_value values[COLUMNS] = {
        akv_text("cache"),
        akv_text(op),
        akv_whole(size),
        akv_text(unit),
        akv_whole(threads),
        akv_text(b->label),
        akv_real(bench_median(ns, count)),
        akv_real(bench_spread(ns, count)),
    };
    akv_progress_hide(&b->progress);
    akv_report_row(b->report, values);
}

static anykv_status measure(struct rig *rig, anykv_seq *seq, const struct op *op)
{
    struct bench *b = rig->b;
    char name[64];
    double ns[BENCH_REPEATS_MAX], warm;
    uint32_t count = (uint32_t)b->options.repeats;
    snprintf(name, sizeof name, "%s/%u/t%u", op->name, (unsigned)op->size, (unsigned)rig->threads);
    if (!bench_chosen(b, name))
        return ANYKV_OK;
    bench_progress(b, name);
    anykv_status status = op->run(rig, seq, op->size, &warm);
    for (uint32_t r = 0; r < count && status == ANYKV_OK; r++)
        status = op->run(rig, seq, op->size, &ns[r]);
    if (status != ANYKV_OK)
        return status;
    add_row(b, op->name, op->size, op->unit, rig->threads, ns, count);
    return ANYKV_OK;
}

static anykv_status measure_all(struct rig *rig, anykv_seq *seq, const struct op *ops, size_t count)
{
    anykv_status status = ANYKV_OK;
    for (size_t i = 0; i < count && status == ANYKV_OK; i++)
        status = measure(rig, seq, &ops[i]);
    return status;
}

/* Four layers of an 8B-like model, 2,048 tokens of context. */
static anykv_status bench_model(struct bench *b, uint32_t threads)
{
    static const struct op ops[] = {
        {"append", "tokens, one layer", 1, run_append},
        {"append", "tokens, one layer", 64, run_append},
        {"append", "tokens, one layer", 1024, run_append},
        {"step", "tokens, four layers", 1, run_step},
        {"step_engine", "tokens, begin and end", 1, run_step_engine},
        {"seal", "tokens; ns of a block", 512, run_seal},
        {"gather", "rows of 8 heads", 1024, run_gather},
    };
    struct rig rig = {.layers = 4, .kv_heads = 8, .q_heads = 32, .dim = 128, .threads = threads};
    anykv_seq *seq = NULL;
    anykv_status status = rig_open(b, &rig, ANYKV_N4, 512ull << 20, 0);
    if (status == ANYKV_OK)
        status = sequence(&rig, &seq);
    if (status == ANYKV_OK)
        status = prefill(&rig, seq, 2048);
    if (status == ANYKV_OK)
        status = measure_all(&rig, seq, ops, sizeof ops / sizeof ops[0]);
    anykv_seq_destroy(seq);
    rig_close(&rig);
    return status;
}

/* A small model, so that many blocks fit: the prefix index and the policy. */
static anykv_status bench_index(struct bench *b, uint32_t threads)
{
    static const struct op ops[] = {
        {"block_key", "tokens", BLOCK, run_block_key},
        {"prefix_match", "tokens", 1024, run_match},
        {"prefix_match", "tokens", LONG_TOKENS, run_match},
        {"lookup", "tokens", 1024, run_lookup},
        {"lookup", "tokens", LONG_TOKENS, run_lookup},
        {"lookup_mutex", "tokens", 1024, run_lookup_mutex},
        {"fork", "tokens", LONG_TOKENS, run_fork},
        {"step_engine", "tokens held, begin and cancel", LONG_TOKENS, run_long_step},
    };
    struct rig rig = {.layers = 1, .kv_heads = 1, .q_heads = 1, .dim = 64, .threads = threads};
    anykv_seq *seq = NULL, *other = NULL;
    anykv_status status = rig_open(b, &rig, ANYKV_N2, 512ull << 20, 0);
    for (uint32_t blocks = 0; blocks < INDEX_BLOCKS && status == ANYKV_OK;
         blocks += LONG_TOKENS / BLOCK) {
        rig.tokens[0]++; /* other chains first: the one that is searched is the last */
        anykv_seq_destroy(other);
        other = NULL;
        status = sequence(&rig, &other);
        if (status == ANYKV_OK)
            status = prefill(&rig, other, LONG_TOKENS);
    }
    anykv_seq_destroy(other);
    if (status == ANYKV_OK)
        status = sequence(&rig, &seq);
    if (status == ANYKV_OK) {
        rig.tokens[0]++;
        status = prefill(&rig, seq, LONG_TOKENS);
    }
    if (status == ANYKV_OK)
        status = measure_all(&rig, seq, ops, sizeof ops / sizeof ops[0]);
    anykv_seq_destroy(seq);
    rig_close(&rig);
    return status;
}

static anykv_status bench_eviction(struct bench *b, uint32_t threads)
{
    static const struct op ops[] = {{"evict", "tokens; ns of a block", STEP_TOKENS, run_evict}};
    static const struct op shares[] = {
        {"busy_lookup", "tokens, while others are evicted", 1024, run_busy_lookup},
        {"busy_lookup_mutex", "tokens, while others are evicted", 1024, run_busy_lookup_mutex},
        {"share", "tokens", 1024, run_share},
        {"share_mutex", "tokens", 1024, run_share_mutex},
        {"busy_share", "tokens, while others are evicted", 1024, run_busy_share},
        {"busy_share_mutex", "tokens, while others are evicted", 1024, run_busy_share_mutex},
    };
    struct rig rig = {.layers = 1, .kv_heads = 1, .q_heads = 1, .dim = 64, .threads = threads};
    anykv_status status = rig_open(b, &rig, ANYKV_N2, 0, 0);
    if (status == ANYKV_OK)
        status = measure_all(&rig, NULL, ops, 1);
    anykv_seq *seq = NULL; /* holds what is looked up: names of its own, not those of an evicted prompt */
    rig.tokens[0]++;
    if (status == ANYKV_OK)
        status = sequence(&rig, &seq);
    if (status == ANYKV_OK)
        status = prefill(&rig, seq, 1024);
    if (status == ANYKV_OK)
        status = measure_all(&rig, NULL, shares, sizeof shares / sizeof shares[0]);
    anykv_seq_destroy(seq);
    rig_close(&rig);
    return status;
}

/* The policies themselves, in an index without a cache. */
static anykv_status bench_policies(struct bench *b)
{
    static const struct {
        const char *op;
        anykv_policy policy;
        bool evictions;
    } ops[] = {
        {"touch_lru", ANYKV_POLICY_LRU, false},
        {"touch_adaptive", ANYKV_POLICY_ADAPTIVE, false},
        {"touch_gittins", ANYKV_POLICY_GITTINS, false},
        {"evict_lru", ANYKV_POLICY_LRU, true},
        {"evict_adaptive", ANYKV_POLICY_ADAPTIVE, true},
        {"evict_gittins", ANYKV_POLICY_GITTINS, true},
    };
    double ns[BENCH_REPEATS_MAX];
    const uint32_t count = (uint32_t)b->options.repeats;
    anykv_status status = ANYKV_OK;
    for (size_t i = 0; i < sizeof ops / sizeof ops[0] && status == ANYKV_OK; i++) {
        if (!bench_chosen(b, ops[i].op))
            continue;
        bench_progress(b, ops[i].op);
        status = bench_policy(b, ops[i].policy, ops[i].evictions, ns, count);
        if (status == ANYKV_OK)
            add_row(b, ops[i].op, 1u << 20, "blocks in the index", 1, ns, count);
    }
    return status;
}

anykv_status bench_cache(struct bench *b)
{
    const struct akv_u64_list *threads = &b->options.threads;
    b->report = akv_report_begin(stdout, b->options.json, columns, COLUMNS);
    if (!b->report)
        return ANYKV_E_MEMORY;
    akv_progress_begin(&b->progress, "bench cache", threads->count * 20u + 6u);
    anykv_status status = bench_policies(b);
    for (uint32_t i = 0; i < threads->count && status == ANYKV_OK; i++) {
        uint32_t count = (uint32_t)threads->item[i];
        status = bench_model(b, count);
        if (status == ANYKV_OK)
            status = bench_index(b, count);
        if (status == ANYKV_OK)
            status = bench_eviction(b, count);
    }
    return status;
}
