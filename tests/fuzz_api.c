/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: sequences of calls on a small cache against a naive record of lengths, refusals included.
 * After every call the budget holds and every length is what the record says. */
#include "fuzz.h"
#include <anykv.h>
#include <string.h>

enum { SEQS = 4, HEADS = 1, DIM = 64, STEP = 40, LONGEST = 200, LAYERS = 2 };

struct world {
    anykv_cache *cache;
    anykv_seq *seq[SEQS];
    uint64_t length[SEQS];
    uint64_t budget;
};
static anykv_context *context;
static anykv_device *device;
static anykv_layout *layout;

size_t akv_fuzz_seed(unsigned index, uint8_t *out, size_t capacity)
{
    if (index > 7 || capacity < 512)
        return 0;
    for (unsigned i = 0; i < 512; i++)
        out[i] = (uint8_t)(i * (2 * index + 3) + (i >> 3) * index);
    return 512;
}

static void set_up(void)
{
    if (context)
        return;
    anykv_device_options inline_cpu = ANYKV_DEVICE_OPTIONS_INIT;
    inline_cpu.threads = 0;
    FUZZ_REQUIRE(anykv_context_create(NULL, &context) == ANYKV_OK);
    FUZZ_REQUIRE(anykv_device_open(context, "cpu", &inline_cpu, &device) == ANYKV_OK);
    anykv_layer layers[LAYERS] = {ANYKV_LAYER_INIT, ANYKV_LAYER_INIT};
    for (int i = 0; i < LAYERS; i++) {
        layers[i].kv_heads = layers[i].q_heads = HEADS;
        layers[i].k_dim = layers[i].v_dim = DIM;
    }
    layers[1].k_format = ANYKV_I8;
    layers[1].window = 48;
    anykv_layout_options options = ANYKV_LAYOUT_OPTIONS_INIT;
    options.weights = "fuzz";
    options.weights_bytes = 4;
    FUZZ_REQUIRE(anykv_layout_create(context, layers, LAYERS, &options, &layout) == ANYKV_OK);
}

static void require_sound(struct world *world)
{
    anykv_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    FUZZ_REQUIRE(anykv_cache_stats(world->cache, &stats) == ANYKV_OK);
    FUZZ_REQUIRE(stats.budget_bytes == world->budget && stats.used_bytes <= stats.budget_bytes);
    uint64_t sequences = 0;
    for (int i = 0; i < SEQS; i++) {
        uint64_t length;
        if (!world->seq[i])
            continue;
        sequences++;
        FUZZ_REQUIRE(anykv_seq_length(world->seq[i], &length) == ANYKV_OK);
        FUZZ_REQUIRE(length == world->length[i]);
    }
    FUZZ_REQUIRE(stats.sequences == sequences);
}

/* Token ids from a small alphabet, so that prefixes meet. */
static void tokens_of(struct fuzz_bytes *in, uint32_t *tokens, uint32_t count)
{
    uint32_t seed = fuzz_u8(in) % 3u;
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = (i * 7u + seed) % 11u;
}

static void one_step(struct world *world, struct fuzz_bytes *in)
{
    static float rows[STEP * HEADS * DIM], out[STEP * HEADS * DIM];
    anykv_seq *seqs[SEQS];
    uint32_t counts[SEQS], accepted[SEQS], tokens[STEP], n = 0, total = 0, which = fuzz_u8(in), at[SEQS];
    for (int i = 0; i < SEQS; i++) {
        if (!(which & (1u << i)) || !world->seq[i])
            continue;
        at[n] = (uint32_t)i;
        seqs[n] = world->seq[i];
        counts[n] = fuzz_u8(in) % (STEP / SEQS + 1u);
        accepted[n] = counts[n] ? fuzz_u8(in) % (counts[n] + 1u) : 0;
        total += counts[n++];
    }
    anykv_step *step = NULL;
    anykv_status status = anykv_step_begin(world->cache, seqs, counts, n, &step);
    if (status != ANYKV_OK) {
        FUZZ_REQUIRE(step == NULL && anykv_error_detail()[0] != '\0');
        return;
    }
    for (uint32_t i = 0; i < STEP * HEADS * DIM; i++)
        rows[i] = (float)((int)(i * 37u + which) % 17 - 8) * 0.25f;
    tokens_of(in, tokens, total);
    anykv_view in_view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
    anykv_view out_view = anykv_view_host(out, ANYKV_F32, HEADS, DIM);
    uint8_t end = fuzz_u8(in) % 8u;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        FUZZ_REQUIRE(anykv_step_append(step, layer, &in_view, &in_view) == ANYKV_OK);
        FUZZ_REQUIRE(anykv_step_append(step, layer, &in_view, &in_view) != ANYKV_OK);
        FUZZ_REQUIRE(anykv_step_attend(step, layer, &in_view, NULL, &out_view) == ANYKV_OK);
        for (uint32_t i = 0; i < total * HEADS * DIM; i++)
            FUZZ_REQUIRE(out[i] >= -3.0f && out[i] <= 3.0f);
        if (end == 0) { /* half-way */
            anykv_step_cancel(step);
            return;
        }
    }
    if (end == 1) {
        anykv_step_cancel(step);
        return;
    }
    FUZZ_REQUIRE(anykv_step_end(step, end == 2 ? NULL : accepted, end == 3 ? NULL : tokens) == ANYKV_OK);
    for (uint32_t i = 0; i < n; i++)
        world->length[at[i]] += end == 2 ? counts[i] : accepted[i];
}

static void one_call(struct world *world, struct fuzz_bytes *in)
{
    uint32_t tokens[LONGEST];
    int which = fuzz_u8(in) % SEQS;
    anykv_seq *seq = world->seq[which];
    uint64_t number, length;
    switch (fuzz_u8(in) % 16u) {
    case 0:
        anykv_seq_destroy(seq);
        world->seq[which] = NULL;
        break;
    case 1:
    case 2:
        if (!seq) {
            anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT;
            options.flags = fuzz_u8(in) % 4u; /* 0 and 3 are refused */
            if (anykv_seq_create(world->cache, &options, &world->seq[which]) != ANYKV_OK)
                world->seq[which] = NULL;
            world->length[which] = 0;
        } else {
            number = 1u + fuzz_u8(in) % (LONGEST - 1u);
            tokens_of(in, tokens, (uint32_t)number);
            if (anykv_seq_match(seq, tokens, number, &length) == ANYKV_OK) {
                FUZZ_REQUIRE(world->length[which] == 0 && length < number);
                world->length[which] = length;
            }
        }
        break;
    case 3:
        if (seq) {
            anykv_seq *fork = NULL;
            int to = fuzz_u8(in) % SEQS;
            if (!world->seq[to] && anykv_seq_fork(seq, &fork) == ANYKV_OK) {
                world->seq[to] = fork;
                world->length[to] = world->length[which];
            }
        }
        break;
    case 4:
        if (seq) {
            number = fuzz_u8(in);
            if (anykv_seq_trim(seq, number) == ANYKV_OK) {
                FUZZ_REQUIRE(number <= world->length[which]);
                world->length[which] = number;
            }
        }
        break;
    case 5:
        if (seq)
            (void)anykv_seq_remove(seq, fuzz_u8(in) % 5u * 16u, fuzz_u8(in) % 3u * 16u);
        break;
    case 6:
        if (seq)
            (void)anykv_seq_done(seq);
        break;
    case 7:
        if (seq)
            FUZZ_REQUIRE(anykv_seq_pin(seq, fuzz_u8(in) & 1) == ANYKV_OK);
        break;
    case 8:
        number = fuzz_u8(in) < 128 ? world->budget : fuzz_u32(in);
        if (anykv_cache_set_budget(world->cache, number) == ANYKV_OK)
            world->budget = number;
        break;
    case 9:
        (void)anykv_cache_trim_memory(world->cache);
        break;
    case 10:
        if (seq) {
            number = fuzz_u8(in);
            tokens_of(in, tokens, LONGEST);
            (void)anykv_seq_name(seq, tokens, number < LONGEST ? number : LONGEST);
        }
        break;
    case 11:
        if (seq && world->length[which] > 0) {
            static float rows[LONGEST * HEADS * DIM];
            anykv_view view = anykv_view_host(rows, ANYKV_F32, HEADS, DIM);
            number = fuzz_u8(in) % (world->length[which] + 2u);
            length = fuzz_u8(in) % LONGEST;
            (void)anykv_seq_gather(seq, fuzz_u8(in) % 3u, fuzz_u8(in) % 3, number, length, &view);
        }
        break;
    default:
        one_step(world, in);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_bytes in = {data, data + size};
    struct world world = {NULL, {NULL}, {0}, 0};
    set_up();

    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    options.max_sequences = SEQS;
    options.max_step_tokens = STEP;
    options.max_seq_tokens = LONGEST;
    options.sinks = fuzz_u8(&in) % 20u;
    options.recent = fuzz_u8(&in) % 40u;
    options.budget_bytes = 1u << 30;
    anykv_estimate estimate = ANYKV_ESTIMATE_INIT;
    FUZZ_REQUIRE(anykv_cache_estimate(device, layout, &options, &estimate) == ANYKV_OK);
    options.budget_bytes = estimate.minimum_bytes + fuzz_u8(&in) % 16u * estimate.chunk_bytes + fuzz_u8(&in);
    FUZZ_REQUIRE(anykv_cache_create(device, layout, &options, &world.cache) == ANYKV_OK);
    world.budget = options.budget_bytes;
    for (int calls = 0; in.at < in.end && calls < 200; calls++) {
        one_call(&world, &in);
        require_sound(&world);
    }
    for (int i = 0; i < SEQS; i++)
        anykv_seq_destroy(world.seq[i]);
    anykv_cache_destroy(world.cache);
    return 0;
}
