/* SPDX-License-Identifier: Apache-2.0 */
/* A CUDA graph that captured one step's appends and attends does those of later steps: the same
 * bytes as a cache whose calls are made each time.  On the fake driver, and on a card where there
 * is one; there also beside work that the application does in the same context. */
#include "house.h"
#if defined(AKV_WITH_CUDA)
#include "cuda_rig.h"
#include "engine.h"

/* What an application calls of the driver. */
struct driver {
    CUresult (*init)(unsigned);
    CUresult (*count)(int *);
    CUresult (*retain)(CUcontext *, CUdevice);
    CUresult (*release)(CUdevice);
    CUresult (*current)(CUcontext);
    CUresult (*push)(CUcontext);
    CUresult (*pop)(CUcontext *);
    CUresult (*stream)(CUstream *, unsigned);
    CUresult (*stream_destroy)(CUstream);
    CUresult (*wait)(CUstream);
    CUresult (*capture)(CUstream, int);
    CUresult (*end)(CUstream, void **);
    CUresult (*instantiate)(void **, void *, unsigned long long);
    CUresult (*launch)(void *, CUstream);
    CUresult (*graph_destroy)(void *);
    CUresult (*exec_destroy)(void *);
};
static const char *const names[] = {"cuInit",
                                    "cuDeviceGetCount",
                                    "cuDevicePrimaryCtxRetain",
                                    "cuDevicePrimaryCtxRelease_v2",
                                    "cuCtxSetCurrent",
                                    "cuCtxPushCurrent_v2",
                                    "cuCtxPopCurrent_v2",
                                    "cuStreamCreate",
                                    "cuStreamDestroy_v2",
                                    "cuStreamSynchronize",
                                    "cuStreamBeginCapture_v2",
                                    "cuStreamEndCapture",
                                    "cuGraphInstantiateWithFlags",
                                    "cuGraphLaunch",
                                    "cuGraphDestroy",
                                    "cuGraphExecDestroy"};

static bool load(struct driver *driver)
{
    const char *path = getenv("ANYKV_CUDA_LIBRARY");
    void *library = dlopen(path && *path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library && i < sizeof names / sizeof *names; i++) {
        void *address = dlsym(library, names[i]);
        if (!address && strcmp(names[i], "cuCtxSetCurrent") != 0)
            return false;
        memcpy((char *)driver + i * sizeof address, &address, sizeof address);
    }
    return library != NULL;
}
#define CU(call) cr_assert((call) == 0, #call)

enum {
    LAYERS = 2,
    SEQUENCES = 3,
    KV_HEADS = 2,
    DIM = 64,
    STEPS = 40,
    PROMPT = 75,
    ROW = KV_HEADS * DIM,
    Q_ROW = 2 * ROW
};

/* A cache and the rows that go through it, in device memory. */
struct side {
    anykv_cache *cache;
    anykv_seq *seq[SEQUENCES];
    anykv_mem *k, *v, *q, *out;
};
struct stage {
    struct driver driver;
    CUcontext context;
    CUstream stream;
    anykv_context *anykv;
    anykv_device *device;
    anykv_layout *layout;
    void *graph, *executable;
    uint64_t recording;
    uint32_t captures, replays;
};

static anykv_view view_of(anykv_mem *mem, uint32_t layer, uint32_t tokens, uint32_t row)
{
    return (anykv_view){NULL, mem, (uint64_t)layer * tokens * row * 4, ANYKV_F32, row, DIM};
}

static void set_up_side(struct stage *stage, struct side *side)
{
    anykv_cache_options options = engine_options(32u << 20);
    options.max_sequences = SEQUENCES;
    options.max_step_tokens = SEQUENCES * PROMPT;
    OK(anykv_cache_create(stage->device, stage->layout, &options, &side->cache));
    anykv_seq_options seq = ANYKV_SEQ_OPTIONS_INIT;
    seq.flags = ANYKV_SEQ_PUBLIC;
    for (uint32_t s = 0; s < SEQUENCES; s++)
        OK(anykv_seq_create(side->cache, &seq, &side->seq[s]));
    const uint64_t rows = (uint64_t)LAYERS * SEQUENCES * PROMPT * 4;
    OK(anykv_mem_create(stage->device, rows * ROW, &side->k));
    OK(anykv_mem_create(stage->device, rows * ROW, &side->v));
    OK(anykv_mem_create(stage->device, rows * Q_ROW, &side->q));
    OK(anykv_mem_create(stage->device, rows * Q_ROW, &side->out));
}
static void tear_down_side(struct side *side)
{
    for (uint32_t s = 0; s < SEQUENCES; s++)
        anykv_seq_destroy(side->seq[s]);
    anykv_cache_destroy(side->cache);
    anykv_mem_destroy(side->k);
    anykv_mem_destroy(side->v);
    anykv_mem_destroy(side->q);
    anykv_mem_destroy(side->out);
}

static void put_rows(struct side *side, uint32_t tokens, uint64_t seed)
{
    static float x[LAYERS * SEQUENCES * PROMPT * Q_ROW];
    anykv_mem *const mem[] = {side->k, side->v, side->q};
    for (uint32_t m = 0; m < 3; m++) {
        const uint32_t n = LAYERS * tokens * (m == 2 ? Q_ROW : ROW);
        for (uint32_t i = 0; i < n; i++)
            x[i] = (float)(house_random(&seed) % 2001) * 1e-3f - 1.0f;
        OK(anykv_mem_put(mem[m], 0, x, n * 4ull));
    }
}

static void calls(struct side *side, anykv_step *step, uint32_t tokens)
{
    for (uint32_t l = 0; l < LAYERS; l++) {
        anykv_view k = view_of(side->k, l, tokens, ROW), v = view_of(side->v, l, tokens, ROW);
        anykv_view q = view_of(side->q, l, tokens, Q_ROW),
                   out = view_of(side->out, l, tokens, Q_ROW);
        OK(anykv_step_append(step, l, &k, &v));
        OK(anykv_step_attend(step, l, &q, NULL, &out));
    }
}

static void drop_graph(struct stage *stage)
{
    CU(stage->driver.push(stage->context));
    if (stage->executable)
        CU(stage->driver.exec_destroy(stage->executable));
    if (stage->graph)
        CU(stage->driver.graph_destroy(stage->graph));
    CU(stage->driver.pop(&stage->context));
    stage->graph = stage->executable = NULL;
}

/* The step's calls by a graph: one captured before where it does, else a new one. */
static void by_graph(struct stage *stage, struct side *side, anykv_step *step)
{
    const uint64_t recording = anykv_step_recording(step);
    cr_assert(recording);
    if (!stage->executable || recording != stage->recording) {
        if (stage->executable)
            REFUSED(ANYKV_E_STATE, "other launches", anykv_step_replayed(step, stage->recording));
        drop_graph(stage);
        CU(stage->driver.push(stage->context));
        CU(stage->driver.capture(stage->stream, 0)); /* global: nothing unsafe from any thread */
        calls(side, step, SEQUENCES);
        CU(stage->driver.end(stage->stream, &stage->graph));
        CU(stage->driver.instantiate(&stage->executable, stage->graph, 0));
        stage->recording = recording;
        stage->captures++;
        REFUSED(ANYKV_E_STATE, "appended already", anykv_step_replayed(step, recording));
    } else {
        CU(stage->driver.push(stage->context));
        OK(anykv_step_replayed(step, recording));
        stage->replays++;
    }
    CU(stage->driver.launch(stage->executable, stage->stream));
    CU(stage->driver.pop(&stage->context));
}

static void one_step(struct stage *stage, struct side *side, const uint32_t *counts,
                     uint32_t tokens, bool graph)
{
    anykv_step *step;
    OK(anykv_step_begin(side->cache, side->seq, counts, SEQUENCES, &step));
    if (graph)
        by_graph(stage, side, step);
    else
        calls(side, step, tokens);
    OK(anykv_step_end(step, NULL, NULL));
}

static void compare(const struct side *a, const struct side *b, uint32_t tokens, uint32_t number)
{
    static float x[LAYERS * SEQUENCES * PROMPT * Q_ROW], y[LAYERS * SEQUENCES * PROMPT * Q_ROW];
    const uint64_t bytes = (uint64_t)LAYERS * tokens * Q_ROW * 4;
    OK(anykv_mem_get(a->out, 0, x, bytes));
    OK(anykv_mem_get(b->out, 0, y, bytes));
    for (uint64_t i = 0; i < bytes / 4; i++)
        cr_assert(memcmp(&x[i], &y[i], 4) == 0, "step %u, element %llu: %g, by the graph %g",
                  number, (unsigned long long)i, (double)x[i], (double)y[i]);
}

/* Steps of one token with each cache; sequences differ in length and leave blocks behind to be
 * sealed. */
static void replay(struct stage *stage)
{
    CU(stage->driver.retain(&stage->context, 0));
    CU(stage->driver.push(stage->context));
    CU(stage->driver.stream(&stage->stream, 1));
    CU(stage->driver.pop(&stage->context));
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.cuda_context = stage->context;
    options.cuda_stream = stage->stream;
    anykv_layer layers[LAYERS];
    struct side plain, graph;
    stage->anykv = house_context();
    OK(anykv_device_open(stage->anykv, "cuda", &options, &stage->device));
    for (uint32_t l = 0; l < LAYERS; l++)
        layers[l] = engine_layer(KV_HEADS, DIM, 0);
    stage->layout = engine_layout(stage->anykv, layers, LAYERS);
    set_up_side(stage, &plain);
    set_up_side(stage, &graph);
    static const uint32_t prompt[SEQUENCES] = {PROMPT, 31, 5}, one[SEQUENCES] = {1, 1, 1};
    struct side *const sides[] = {&plain, &graph};
    for (uint32_t i = 0; i < 2; i++) {
        put_rows(sides[i], PROMPT + 31 + 5, 1);
        one_step(stage, sides[i], prompt, PROMPT + 31 + 5, false);
    }
    for (uint32_t n = 0; n < STEPS; n++) {
        for (uint32_t i = 0; i < 2; i++) {
            put_rows(sides[i], SEQUENCES, 100 + n);
            one_step(stage, sides[i], one, SEQUENCES, i == 1);
        }
        compare(&plain, &graph, SEQUENCES, n);
    }
    anykv_stats a = {.size = sizeof a}, b = {.size = sizeof b};
    OK(anykv_cache_stats(plain.cache, &a));
    OK(anykv_cache_stats(graph.cache, &b));
    cr_expect(a.blocks_sealed > 0 && a.blocks_sealed == b.blocks_sealed,
              "%llu and %llu blocks sealed", (unsigned long long)a.blocks_sealed,
              (unsigned long long)b.blocks_sealed);
    cr_expect(a.tokens_attended == b.tokens_attended && a.tokens_appended == b.tokens_appended);
    cr_expect(stage->captures == 1 && stage->replays == STEPS - 1, "%u captures, %u replays",
              stage->captures, stage->replays);
    /* A step with another number of tokens is another recording. */
    static const uint32_t two[SEQUENCES] = {1, 2, 1};
    anykv_step *step;
    cr_expect(anykv_step_recording(NULL) == 0);
    OK(anykv_step_begin(graph.cache, graph.seq, two, SEQUENCES, &step));
    cr_expect(anykv_step_recording(step) != stage->recording);
    REFUSED(ANYKV_E_STATE, "other launches", anykv_step_replayed(step, stage->recording));
    REFUSED(ANYKV_E_STATE, "not appended", anykv_step_end(step, NULL, NULL));
    anykv_step_cancel(step);
    drop_graph(stage);
    tear_down_side(&plain);
    tear_down_side(&graph);
    anykv_layout_destroy(stage->layout);
    anykv_device_close(stage->device);
    anykv_context_destroy(stage->anykv);
    CU(stage->driver.push(stage->context));
    CU(stage->driver.stream_destroy(stage->stream));
    CU(stage->driver.pop(&stage->context));
    CU(stage->driver.release(0));
    cr_expect(akv_alloc_live() == 0);
}

Test(cuda_graph, replay_on_the_fake_driver)
{
    struct stage stage = {0};
    const struct fake_cuda *fake = rig_use_fake();
    cr_assert(load(&stage.driver));
    CU(stage.driver.init(0));
    replay(&stage);
    rig_expect_clean(fake, "after the replays");
}

Test(cuda_graph, replay_on_a_card)
{
    struct stage stage = {0};
    int devices = 0;
    if (!load(&stage.driver))
        cr_skip_test("no CUDA driver that captures graphs");
    if (stage.driver.init(0) != 0 || stage.driver.count(&devices) != 0 || devices < 1)
        cr_skip_test("the CUDA driver knows no device");
    replay(&stage);
}
#else
Test(cuda_graph, absent)
{
    cr_skip_test("this build has no CUDA backend");
}
#endif
