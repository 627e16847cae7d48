/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv demo`: real keys and values through the engine, on one page. */
#include "demo.h"
#include "eval_reference.h"
#include "kernel/format.h"
#include "tools.h"
#include <inttypes.h>
#include <unistd.h>

#define DATA_NAME "smollm2-code-cut.safetensors"

/* --data, else where `make install` puts the file, else the source tree it was built from. */
static const char *find_data(void)
{
#ifdef ANYKV_PKGDATADIR
    static const char installed[] = ANYKV_PKGDATADIR "/" DATA_NAME;
    if (access(installed, R_OK) == 0)
        return installed;
#endif
#ifdef ANYKV_DEMO_DATA
    static const char source[] = ANYKV_DEMO_DATA "/" DATA_NAME;
    if (access(source, R_OK) == 0)
        return source;
#endif
    return NULL;
}

static void heading(const struct akv_demo *demo, const char *title, const char *text)
{
    if (demo->json)
        return;
    printf("\n== %s ==\n%s\n\n", title, text);
    fflush(stdout);
}

/* ---- data ---- */

static anykv_status load(struct akv_demo *demo, const char *path)
{
    anykv_status status = akv_dump_open(&demo->dump, path);
    if (status != ANYKV_OK)
        return status;
    if (demo->dump.layers > AKV_DEMO_LAYERS)
        return akv_fail(NULL, ANYKV_E_DATA, "layers: %" PRIu32 " are more than the %u of the demo",
                        demo->dump.layers, AKV_DEMO_LAYERS);
    demo->ids = akv_alloc(NULL, demo->dump.tokens, sizeof *demo->ids);
    if (demo->ids == NULL)
        return ANYKV_E_MEMORY;
    status = akv_dump_tokens(&demo->dump, demo->ids);
    for (uint32_t i = 0; i < demo->dump.layers && status == ANYKV_OK; i++) {
        status = akv_dump_load(&demo->dump, i, &demo->layer[i]);
        if (status == ANYKV_OK)
            status = akv_eval_exact(&demo->dump, i, &demo->layer[i], &demo->exact[i]);
    }
    return status;
}

static void unload(struct akv_demo *demo)
{
    for (uint32_t i = 0; i < AKV_DEMO_LAYERS; i++) {
        akv_dump_free(&demo->layer[i]);
        akv_free(NULL, demo->exact[i]);
    }
    akv_free(NULL, demo->ids);
    akv_dump_close(&demo->dump);
}

/* ---- the cache ---- */

static uint64_t chunk_bytes_of(uint64_t blocks, uint64_t block_bytes, uint64_t chunk_bytes)
{
    uint64_t each = block_bytes == 0 || block_bytes > chunk_bytes ? 1 : chunk_bytes / block_bytes;
    return (blocks + each - 1) / each * chunk_bytes;
}

/* Sets the budget to what `sequences` whole sequences take, one of them at work.  How many blocks a
 * chunk holds follows from the budget, hence the loop. */
static anykv_status fit_budget(const struct akv_demo *demo, anykv_cache_options *options,
                               uint32_t sequences, struct akv_demo_cache *out)
{
    const uint64_t block_tokens = 16;
    const uint64_t sealed = (demo->dump.tokens + block_tokens - 1) / block_tokens * sequences;
    const uint64_t hot =
        (options->sinks + options->recent + options->max_step_tokens) / block_tokens + 4;
    anykv_estimate *estimate = &out->estimate;
    options->budget_bytes = UINT64_C(1) << 20;
    for (;;) {
        anykv_status status =
            anykv_cache_estimate(demo->tool.device, out->layout, options, estimate);
        if (status != ANYKV_OK)
            return status;
        uint64_t chunk = estimate->chunk_bytes;
        uint64_t need = chunk + chunk_bytes_of(hot, estimate->hot_block_bytes, chunk) +
                        chunk_bytes_of(sealed, estimate->sealed_block_bytes, chunk);
        if (options->budget_bytes >= estimate->minimum_bytes && estimate->pool_bytes >= need)
            return ANYKV_OK;
        uint64_t least = estimate->fixed_bytes + estimate->pool_bytes + chunk;
        options->budget_bytes = least > estimate->minimum_bytes ? least : estimate->minimum_bytes;
    }
}

anykv_status akv_demo_open_cache(struct akv_demo *demo, anykv_format k, anykv_format v,
                                 uint32_t sequences, uint32_t flags, struct akv_demo_cache *out)
{
    const struct akv_dump *dump = &demo->dump;
    anykv_layer layers[AKV_DEMO_LAYERS];
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < dump->layers; i++) {
        layers[i] = (anykv_layer)ANYKV_LAYER_INIT;
        layers[i].kv_heads = dump->kv_heads;
        layers[i].q_heads = dump->q_heads;
        layers[i].k_dim = layers[i].v_dim = dump->head_dim;
        layers[i].window = dump->window[i];
        layers[i].k_format = k;
        layers[i].v_format = v;
    }
    anykv_layout_options identity = ANYKV_LAYOUT_OPTIONS_INIT;
    identity.weights = "anykv demo";
    identity.weights_bytes = 10;
    anykv_cache_options options = ANYKV_CACHE_OPTIONS_INIT;
    options.max_sequences = 1;
    options.max_step_tokens = 128;
    options.max_seq_tokens = dump->tokens;
    options.flags = flags;
    out->estimate = (anykv_estimate)ANYKV_ESTIMATE_INIT;
    anykv_status status =
        anykv_layout_create(demo->tool.context, layers, dump->layers, &identity, &out->layout);
    if (status == ANYKV_OK)
        status = fit_budget(demo, &options, sequences, out);
    if (status == ANYKV_OK)
        status = anykv_cache_create(demo->tool.device, out->layout, &options, &out->cache);
    if (status != ANYKV_OK)
        akv_demo_close_cache(out);
    return status;
}

void akv_demo_close_cache(struct akv_demo_cache *cache)
{
    anykv_cache_destroy(cache->cache);
    anykv_layout_destroy(cache->layout);
    memset(cache, 0, sizeof *cache);
}

/* The rows of position `first` and on. */
static anykv_view view_from(const void *rows, anykv_dtype dtype, uint32_t heads, uint32_t dim,
                            uint32_t first)
{
    size_t bytes = dtype == ANYKV_F32 ? 4 : 2;
    return anykv_view_host((const char *)rows + (size_t)first * heads * dim * bytes, dtype, heads,
                           dim);
}

static anykv_status attend(struct akv_demo *demo, anykv_step *step, uint32_t layer, uint32_t first,
                           uint32_t count, float *out, double *errors, size_t *error_count,
                           struct akv_demo_times *times)
{
    const struct akv_dump *dump = &demo->dump;
    const struct akv_dump_layer *raw = &demo->layer[layer];
    size_t from = (size_t)(first - dump->q_first) * dump->q_heads,
           rows = (size_t)count * dump->q_heads;
    anykv_attend_params params = ANYKV_ATTEND_PARAMS_INIT;
    params.scale = (float)dump->scale;
    anykv_view q =
        view_from(raw->q, raw->q_dtype, dump->q_heads, dump->head_dim, first - dump->q_first);
    anykv_view o = anykv_view_host(out, ANYKV_F32, dump->q_heads, dump->head_dim);
    uint64_t start = akv_now_ns();
    anykv_status status = anykv_step_attend(step, layer, &q, &params, &o);
    times->attend_ns += akv_now_ns() - start;
    for (size_t r = 0; r < rows && status == ANYKV_OK; r++) {
        double row[AKV_MAX_HEAD_DIM];
        akv_rows_to_double(out + r * dump->head_dim, ANYKV_F32, dump->head_dim, row);
        errors[(*error_count)++] = akv_relative_error(
            row, demo->exact[layer] + (from + r) * dump->head_dim, dump->head_dim);
    }
    return status;
}

anykv_status akv_demo_step(struct akv_demo *demo, anykv_cache *cache, anykv_seq *seq,
                           uint32_t first, uint32_t count, const uint32_t *ids, double *errors,
                           size_t *error_count, struct akv_demo_times *times)
{
    const struct akv_dump *dump = &demo->dump;
    anykv_step *step = NULL;
    float *out = akv_alloc(NULL, (size_t)count * dump->q_heads * dump->head_dim, sizeof *out);
    if (out == NULL)
        return ANYKV_E_MEMORY;
    uint64_t start = akv_now_ns();
    anykv_status status = anykv_step_begin(cache, &seq, &count, 1, &step);
    times->append_ns += akv_now_ns() - start;
    for (uint32_t i = 0; i < dump->layers && status == ANYKV_OK; i++) {
        const struct akv_dump_layer *raw = &demo->layer[i];
        anykv_view k = view_from(raw->k, raw->k_dtype, dump->kv_heads, dump->head_dim, first);
        anykv_view v = view_from(raw->v, raw->v_dtype, dump->kv_heads, dump->head_dim, first);
        start = akv_now_ns();
        status = anykv_step_append(step, i, &k, &v);
        times->append_ns += akv_now_ns() - start;
        if (status != ANYKV_OK || errors == NULL)
            continue;
        status = attend(demo, step, i, first, count, out, errors, error_count, times);
    }
    akv_free(NULL, out);
    if (status != ANYKV_OK) {
        anykv_step_cancel(step);
        return status;
    }
    start = akv_now_ns();
    status = anykv_step_end(step, NULL, ids);
    times->append_ns += akv_now_ns() - start;
    return status;
}

/* ---- sections ---- */

/* Another subcommand as a section: words end with NULL; --device and --json are added. */
static int run_section(const struct akv_demo *demo, int (*tool)(int, char **), const char *device,
                       const char *const *words)
{
    char *arguments[16];
    int count = 0;
    for (; *words != NULL; words++)
        arguments[count++] = (char *)(uintptr_t)*words;
    if (device != NULL) {
        arguments[count++] = "--device";
        arguments[count++] = (char *)(uintptr_t)device;
    }
    if (demo->json)
        arguments[count++] = "--json";
    return tool(count, arguments);
}

static int run_formats(const struct akv_demo *demo, const char *device, const char *path)
{
    const char *const words[] = {"eval", "--formats", "I8,N6,N5,N4,N3,N2", path, NULL};
    heading(demo, "Formats",
            "Every key and value packed, none kept at 16 bit; attention compared with\n"
            "attention over the exact rows, in double precision.");
    return run_section(demo, akv_tool_eval, device, words);
}

static int run_engine(struct akv_demo *demo)
{
    heading(
        demo, "Pages",
        "The same rows through the cache: appended, sealed into packed blocks once they are older\n"
        "than 128 tokens, and attended over where they lie, one token at a time.  \"precise\" is "
        "the\n"
        "error without approximations made for speed.");
    anykv_status status = akv_demo_pages(demo);
    if (status != ANYKV_OK)
        return akv_cli_status("demo", "pages", status);
    heading(demo, "Sharing under a byte budget",
            "Conversations that begin alike: blocks in the cache are found by their tokens, old "
            "ones are\n"
            "evicted, and what returns is attended over again.  Blocks of 16 tokens, N4/N4; room "
            "for 1, 2\n"
            "and 4 of the 8 conversations.");
    status = akv_demo_share(demo);
    return status == ANYKV_OK ? AKV_EXIT_GOOD : akv_cli_status("demo", "sharing", status);
}

static int run_speed(const struct akv_demo *demo, const char *device)
{
    static const char *const words[] = {
        "bench",     "attend", "--tokens",  "8192",
        "--gqa",     "4",      "--formats", "F16/F16,I8/I8,N5/N4,N4/N4",
        "--repeats", "7",      NULL};
    heading(demo, "Speed",
            "One token's attention over 8,192 others, 32 query and 8 kv heads of 128; random\n"
            "rows.");
    return run_section(demo, akv_tool_bench, device, words);
}

static int run_check(const struct akv_demo *demo, const char *device)
{
    static const char *const words[] = {"verify",     "--kernel", "encode",
                                        "--elements", "100000",   NULL};
    heading(demo, "Bytes",
            "Packed bytes of this device against those of the portable reference, rounding ties,\n"
            "infinities and all: `anykv verify` does the same for every kernel.");
    return run_section(demo, akv_tool_verify, device, words);
}

static int run(struct akv_demo *demo, const char *device, const char *path)
{
    static const char *const words[] = {"devices", NULL};
    heading(demo, "Devices", "What there is; the demo runs on the one that --device names.");
    int go = run_section(demo, akv_tool_devices, NULL, words);
    if (go == AKV_EXIT_GOOD)
        go = akv_tool_open(&demo->tool, "demo", device, NULL);
    if (go != AKV_CLI_GO)
        return go;
    anykv_status status = load(demo, path);
    if (status != ANYKV_OK)
        return akv_cli_status("demo", path, status);
    go = run_formats(demo, device, path);
    if (go == AKV_EXIT_GOOD)
        go = run_engine(demo);
    if (go == AKV_EXIT_GOOD)
        go = run_speed(demo, device);
    return go == AKV_EXIT_GOOD ? run_check(demo, device) : go;
}

int akv_tool_demo(int argc, char **argv)
{
    const char *device = "auto", *data = NULL;
    bool json = false;
    const struct akv_cli_option options[] = {
        {"data", AKV_CLI_TEXT, &data, 0, 0, "FILE",
         "another dump of keys, values and queries (default: the bundled\none)"},
        AKV_DEVICE_OPTION(device),
        AKV_JSON_OPTION(json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        "demo",
        "[OPTION]...",
        "Shows the engine at work on keys and values of a real language model: quantised, paged,\n"
        "attended over, shared and evicted under a byte budget, with the error, the bytes and the "
        "speed.",
        "anykv demo",
        options,
        0,
        0};
    int go = akv_cli_parse(&cli, argc, argv, NULL, NULL);
    if (go != AKV_CLI_GO)
        return go;
    const char *path = data != NULL ? data : find_data();
    if (path == NULL) {
        akv_cli_message("demo", "--data: the bundled file %s is not where it was installed",
                        DATA_NAME);
        return AKV_EXIT_MISSING;
    }
    struct akv_demo *demo = akv_alloc(NULL, 1, sizeof *demo);
    if (demo == NULL)
        return akv_cli_status("demo", "memory", ANYKV_E_MEMORY);
    demo->json = json;
    go = run(demo, device, path);
    unload(demo);
    akv_tool_close(&demo->tool);
    akv_free(NULL, demo);
    return go;
}
