/* SPDX-License-Identifier: Apache-2.0 */
/* The engine loop on random rows: a prompt, then a few decoded tokens, on whatever device there is. */
#include <anykv.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 2, KV_HEADS = 2, Q_HEADS = 8, DIM = 64, PROMPT = 300, DECODE = 20 };

/* Stops with the library's own explanation. */
static void check(anykv_status status, const char *what)
{
    if (status != ANYKV_OK) {
        fprintf(stderr, "%s: %s (%s)\n", what, anykv_status_text(status), anykv_error_detail());
        exit(1);
    }
}

/* What a model would compute: rows of small random numbers. */
static void fill(float *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        rows[i] = (float)rand() / (float)RAND_MAX - 0.5f;
}

int main(void)
{
    static float q[PROMPT * Q_HEADS * DIM], k[PROMPT * KV_HEADS * DIM], v[PROMPT * KV_HEADS * DIM];
    static float out[PROMPT * Q_HEADS * DIM];
    static uint32_t ids[PROMPT];
    anykv_context *context;
    anykv_device *device;
    anykv_layout *layout;
    anykv_cache *cache;
    anykv_seq *seq;

    check(anykv_context_create(NULL, &context), "context");
    check(anykv_device_open(context, "auto", NULL, &device), "device");

    /* One record a layer: keys at 8 bits, values at 4, the newest tokens at 16. */
    anykv_layer layers[LAYERS];
    for (int i = 0; i < LAYERS; i++) {
        anykv_layer layer = ANYKV_LAYER_INIT;
        layer.kv_heads = KV_HEADS;
        layer.q_heads = Q_HEADS;
        layer.k_dim = layer.v_dim = DIM;
        layer.k_format = ANYKV_I8;
        layer.v_format = ANYKV_N4;
        layers[i] = layer;
    }
    anykv_layout_options model = ANYKV_LAYOUT_OPTIONS_INIT;
    model.weights = "minimal example, no weights";
    model.weights_bytes = 27;
    check(anykv_layout_create(context, layers, LAYERS, &model, &layout), "layout");

    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    options.budget_bytes = 64u << 20;
    options.max_sequences = 4;
    options.max_step_tokens = PROMPT;
    options.max_seq_tokens = 1024;
    check(anykv_cache_create(device, layout, &options, &cache), "cache");

    anykv_seq_options request = ANYKV_SEQ_OPTIONS_INIT;
    request.flags = ANYKV_SEQ_PUBLIC;
    check(anykv_seq_create(cache, &request, &seq), "sequence");

    for (int pass = 0; pass <= DECODE; pass++) {
        uint32_t count = pass == 0 ? PROMPT : 1;
        anykv_step *step;
        for (uint32_t i = 0; i < count; i++)
            ids[i] = (uint32_t)rand() % 32000u;
        check(anykv_step_begin(cache, &seq, &count, 1, &step), "begin");
        for (uint32_t layer = 0; layer < LAYERS; layer++) {
            fill(q, (size_t)count * Q_HEADS * DIM);
            fill(k, (size_t)count * KV_HEADS * DIM);
            fill(v, (size_t)count * KV_HEADS * DIM);
            anykv_view k_view = anykv_view_host(k, ANYKV_F32, KV_HEADS, DIM);
            anykv_view v_view = anykv_view_host(v, ANYKV_F32, KV_HEADS, DIM);
            anykv_view q_view = anykv_view_host(q, ANYKV_F32, Q_HEADS, DIM);
            anykv_view out_view = anykv_view_host(out, ANYKV_F32, Q_HEADS, DIM);
            check(anykv_step_append(step, layer, &k_view, &v_view), "append");
            check(anykv_step_attend(step, layer, &q_view, NULL, &out_view), "attend");
            /* Host views: out is complete here, the engine goes on with it. */
        }
        check(anykv_step_end(step, NULL, ids), "end");
    }

    anykv_stats stats = {.size = sizeof stats};
    uint64_t length;
    check(anykv_seq_length(seq, &length), "length");
    check(anykv_cache_stats(cache, &stats), "stats");
    printf("%llu tokens, %llu blocks at 16 bit, %llu packed, %llu of %llu bytes used\n",
           (unsigned long long)length, (unsigned long long)stats.hot_blocks,
           (unsigned long long)stats.sealed_blocks, (unsigned long long)stats.used_bytes,
           (unsigned long long)stats.budget_bytes);

    anykv_seq_destroy(seq);
    anykv_cache_destroy(cache);
    anykv_layout_destroy(layout);
    anykv_device_close(device);
    anykv_context_destroy(context);
    return 0;
}
