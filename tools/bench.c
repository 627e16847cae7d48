/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv bench`: options, devices, clocks and the copy that everything is compared with. */
#include "bench.h"
#include "../lib/objects.h"
#include "device_option.h"
#include "tools.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char command[] = "bench";

/* ---- devices and clocks ---- */

static uint32_t isa_mask(const char *isa)
{
    if (!isa)
        return ANYKV_ISA_ALL;
    if (strcmp(isa, "avx2") == 0)
        return ANYKV_ISA_AVX2;
    if (strcmp(isa, "avx512") == 0)
        return ANYKV_ISA_AVX2 | ANYKV_ISA_AVX512;
    return strcmp(isa, "neon") == 0 ? ANYKV_ISA_NEON : 0;
}

anykv_status bench_open(struct bench *b, uint32_t threads, struct bench_device *device)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    memset(device, 0, sizeof *device);
    options.threads = threads == 1 ? 0 : threads; /* one thread: the caller's own */
    options.isa_mask = isa_mask(b->options.isa);
    anykv_status status = akv_device_open(b->context, b->label, &options, &device->device);
    if (status == ANYKV_OK)
        status = akv_queue_create(device->device, NULL, &device->queue);
    device->remote = device->device && !(device->device->info.caps & AKV_CAP_HOST_MEMORY);
    device->busy = b->options.busy && threads == 1 && !device->remote;
    device->threads = threads;
    if (status == ANYKV_OK && device->remote)
        status = akv_event_create(device->device, &device->from);
    if (status == ANYKV_OK && device->remote)
        status = akv_event_create(device->device, &device->to);
    if (status != ANYKV_OK)
        bench_close(device);
    return status;
}

void bench_close(struct bench_device *device)
{
    akv_event_destroy(device->from);
    akv_event_destroy(device->to);
    akv_queue_destroy(device->queue);
    akv_device_close(device->device);
    memset(device, 0, sizeof *device);
}

static uint64_t clock_of(const struct bench_device *device)
{
    struct timespec now;
    if (!device->busy || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0)
        return akv_now_ns();
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

anykv_status bench_time(struct bench_device *device, bench_work *work, void *user, uint32_t loops,
                        double *ns_out)
{
    uint64_t start = clock_of(device), ns = 0;
    anykv_status status = device->remote ? akv_event_record(device->from, device->queue) : ANYKV_OK;
    for (uint32_t i = 0; i < loops && status == ANYKV_OK; i++)
        status = work(user, i);
    if (status == ANYKV_OK && device->remote)
        status = akv_event_record(device->to, device->queue);
    if (status == ANYKV_OK)
        status = akv_queue_wait(device->queue, UINT64_MAX);
    ns = clock_of(device) - start;
    if (status == ANYKV_OK && device->remote)
        status = akv_event_elapsed(device->from, device->to, &ns);
    *ns_out = (double)ns / loops;
    return status;
}

anykv_status bench_loops(struct bench_device *device, bench_work *work, void *user,
                         double target_ns, uint32_t *loops_out)
{
    double ns = 0.0;
    anykv_status status = bench_time(device, work, user, 1, &ns);
    if (status == ANYKV_OK)
        status = bench_time(device, work, user, ns < target_ns / 10 ? 3 : 1, &ns);
    double loops = ns > 0.0 ? target_ns / ns : 1.0;
    *loops_out = loops < 1.0 ? 1 : loops > 100000.0 ? 100000 : (uint32_t)loops;
    return status;
}

/* ---- the copy ---- */

anykv_status bench_copy_create(struct bench_device *device, uint64_t bytes, struct bench_copy *copy)
{
    *copy = (struct bench_copy){device, bytes, NULL, NULL};
    anykv_status status = akv_mem_alloc(device->device, bytes, AKV_MEM_DEVICE, &copy->from);
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device->device, bytes, AKV_MEM_DEVICE, &copy->to);
    struct akv_span from = {copy->from, 0, bytes}, to = {copy->to, 0, bytes};
    if (status == ANYKV_OK) /* every page is written once, so that none is the zero page */
        status = akv_queue_fill(device->queue, from, 0x3A);
    if (status == ANYKV_OK)
        status = akv_queue_fill(device->queue, to, 0x3B);
    if (status == ANYKV_OK)
        status = akv_queue_wait(device->queue, UINT64_MAX);
    if (status != ANYKV_OK)
        bench_copy_destroy(copy);
    return status;
}

void bench_copy_destroy(struct bench_copy *copy)
{
    akv_mem_free(copy->from);
    akv_mem_free(copy->to);
    copy->from = copy->to = NULL;
}

struct copy_part {
    const uint8_t *from;
    uint8_t *to; /* NULL: only read */
    size_t bytes;
    uint32_t loops;
};

/* Sums the words of eight streams, which keeps more lines in flight than one. */
static uint64_t read_part(const uint8_t *from, size_t bytes)
{
    enum { STREAMS = 8 };
    const uint64_t *words = (const uint64_t *)(const void *)from;
    size_t each = bytes / sizeof *words / STREAMS / 8 * 8;
    uint64_t sum[STREAMS] = {0}, all = 0;
    for (size_t i = 0; i < each; i += 8)
        for (size_t s = 0; s < STREAMS; s++)
            for (size_t k = 0; k < 8; k++)
                sum[s] += words[s * each + i + k];
    for (size_t s = 0; s < STREAMS; s++)
        all += sum[s];
    return all;
}

static void *copy_part(void *argument)
{
    const struct copy_part *part = argument;
    /* cppcheck-suppress uninitvar ; the caller fills as many parts as it starts */
    for (uint32_t i = 0; i < part->loops; i++) {
        if (part->to) {
            memcpy(part->to, part->from, part->bytes);
            __asm__ volatile("" ::: "memory"); /* each copy must be made */
        } else {
            uint64_t sum = read_part(part->from, part->bytes);
            __asm__ volatile("" ::"r"(sum) : "memory");
        }
    }
    return NULL;
}

static anykv_status copy_enqueue(void *user, uint32_t loop)
{
    const struct bench_copy *copy = user;
    (void)loop;
    struct akv_span from = {copy->from, 0, copy->bytes}, to = {copy->to, 0, copy->bytes};
    return akv_queue_copy(copy->device->queue, to, from);
}

static anykv_status move(struct bench_copy *copy, uint32_t loops, bool write, double *ns_out)
{
    enum { MOST = 64 };
    struct copy_part parts[MOST];
    akv_thread threads[MOST];
    uint32_t count = AKV_MIN(copy->device->threads, MOST), started = 1;
    size_t each = copy->bytes / count / 64 * 64;
    for (uint32_t i = 0; i < count; i++) {
        parts[i].from = (const uint8_t *)akv_mem_map(copy->from) + i * each;
        parts[i].to = write ? (uint8_t *)akv_mem_map(copy->to) + i * each : NULL;
        parts[i].bytes = i + 1 == count ? copy->bytes - i * each : each;
        parts[i].loops = loops;
    }
    anykv_status status = ANYKV_OK;
    uint64_t start = clock_of(copy->device);
    for (; started < count && status == ANYKV_OK; started += status == ANYKV_OK)
        status = akv_thread_start(copy->device->device->context, &threads[started], copy_part,
                                  &parts[started]);
    copy_part(&parts[0]);
    for (uint32_t i = 1; i < started; i++)
        akv_thread_join(&threads[i]);
    *ns_out = (double)(clock_of(copy->device) - start) / loops;
    return status;
}

anykv_status bench_copy_time(struct bench_copy *copy, uint32_t loops, double *ns_out)
{
    if (copy->device->remote)
        return bench_time(copy->device, copy_enqueue, copy, loops, ns_out);
    return move(copy, loops, true, ns_out);
}

anykv_status bench_read_time(struct bench_copy *copy, uint32_t loops, double *ns_out)
{
    return move(copy, loops, false, ns_out);
}

/* ---- numbers ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const double *values, uint32_t count)
{
    double sorted[BENCH_REPEATS_MAX];
    /* cppcheck-suppress uninitvar ; callers measured all of them */
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, by_value);
    return count % 2 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

double bench_ratio(const double *a, const double *b, uint32_t count)
{
    double ratios[BENCH_REPEATS_MAX];
    for (uint32_t i = 0; i < count; i++)
        ratios[i] = a[i] / b[i];
    return bench_median(ratios, count);
}

double bench_spread(const double *values, uint32_t count)
{
    double least = values[0], most = values[0];
    for (uint32_t i = 1; i < count; i++) {
        least = values[i] < least ? values[i] : least;
        most = values[i] > most ? values[i] : most;
    }
    return most / least;
}

bool bench_chosen(const struct bench *b, const char *name)
{
    return !b->options.filter || strstr(name, b->options.filter) != NULL;
}

void bench_progress(struct bench *b, const char *name)
{
    akv_progress_step(&b->progress, b->rows_done++, name);
}

/* ---- the command ---- */

static const struct bench_kind {
    const char *name;
    anykv_status (*run)(struct bench *b);
} kinds[] = {{"codec", bench_codec}, {"attend", bench_attend}, {"cache", bench_cache}, {"evict", bench_evict},
             {"compress", bench_compress}, {"page", bench_page}};

static int check_options(struct bench_options *o)
{
    static const char *const isas[] = {"scalar", "avx2", "avx512", "neon"};
    bool known = !o->isa;
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++)
        known = known || strcmp(o->isa, isas[i]) == 0;
    if (!known)
        return akv_cli_wrong(command, "--isa: \"%s\" is not one of scalar, avx2, avx512, neon",
                             o->isa);
    if (strcmp(o->peer, "memcpy") != 0 && strcmp(o->peer, "none") != 0)
        return akv_cli_wrong(command, "--peer: \"%s\" is neither memcpy nor none", o->peer);
    for (uint32_t i = 0; i < o->phase.count; i++)
        if (strcmp(o->phase.item[i], "decode") != 0 && strcmp(o->phase.item[i], "prefill") != 0)
            return akv_cli_wrong(command, "--phase: \"%s\" is neither decode nor prefill",
                                 o->phase.item[i]);
    for (uint32_t i = 0; i < o->head_dim.count; i++)
        if (o->head_dim.item[i] % 16 != 0)
            return akv_cli_wrong(command, "--head-dim: %u is not a multiple of 16",
                                 (unsigned)o->head_dim.item[i]);
    for (uint32_t i = 0; i < o->gqa.count; i++)
        if (o->q_heads % o->gqa.item[i] != 0)
            return akv_cli_wrong(command, "--gqa: %u does not divide --q-heads %u",
                                 (unsigned)o->gqa.item[i], (unsigned)o->q_heads);
    return AKV_CLI_GO;
}

static int run(struct bench *b, const struct bench_kind *kind)
{
    struct akv_tool tool = {0};
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = 0;
    int go = akv_tool_open(&tool, command, b->options.device, &options);
    if (go == AKV_CLI_GO) {
        b->context = tool.context;
        memcpy(b->label, tool.label, sizeof b->label);
        b->gpu = (tool.device->device->info.caps & AKV_CAP_GPU) != 0;
        anykv_device_close(tool.device);
        tool.device = NULL;
        anykv_status status = kind->run(b);
        akv_progress_end(&b->progress);
        if (b->report) {
            anykv_status end = akv_report_end(b->report);
            status = status == ANYKV_OK ? end : status;
        }
        go = status == ANYKV_OK ? AKV_EXIT_GOOD : akv_cli_status(command, kind->name, status);
    }
    akv_tool_close(&tool);
    return go;
}

int akv_tool_bench(int argc, char **argv)
{
    struct bench *b = akv_alloc(NULL, 1, sizeof *b);
    if (!b)
        return akv_cli_status(command, "start", ANYKV_E_MEMORY);
    struct bench_options *o = &b->options;
    o->device = "auto";
    o->peer = "memcpy";
    o->repeats = 9;
    o->q_heads = 32;
    o->threads = (struct akv_u64_list){1, {1}};
    o->head_dim = (struct akv_u64_list){1, {128}};
    o->tokens = (struct akv_u64_list){3, {1024, 8192, 32768}};
    o->gqa = (struct akv_u64_list){3, {1, 4, 8}};
    o->batch = (struct akv_u64_list){1, {1}};
    o->phase.count = 1;
    memcpy(o->phase.item[0], "decode", sizeof "decode");
    const struct akv_cli_option list[] = {
        AKV_DEVICE_OPTION(o->device),
        {"filter", AKV_CLI_TEXT, &o->filter, 0, 0, "TEXT", "only rows whose name holds it"},
        {"repeats", AKV_CLI_U64, &o->repeats, 7, BENCH_REPEATS_MAX, "N",
         "alternations of which the median is taken (default: 9)"},
        {"threads", AKV_CLI_U64_LIST, &o->threads, 1, 1024, "LIST", "of cpu (default: 1)"},
        {"isa", AKV_CLI_TEXT, &o->isa, 0, 0, "LEVEL",
         "of cpu: scalar, avx2, avx512, neon (default: the best)"},
        {"head-dim", AKV_CLI_U64_LIST, &o->head_dim, 16, 576, "LIST", "(default: 128)"},
        {"tokens", AKV_CLI_U64_LIST, &o->tokens, 1, 1 << 24, "LIST",
         "attend: length of a sequence (default: 1024,8192,32768)"},
        {"q-heads", AKV_CLI_U64, &o->q_heads, 1, 1024, "N", "attend (default: 32)"},
        {"gqa", AKV_CLI_U64_LIST, &o->gqa, 1, 1024, "LIST",
         "attend: q heads for each kv head (default: 1,4,8)"},
        {"transforms", AKV_CLI_TEXT_LIST, &o->transforms, 0, 0, "LIST",
         "attend, codec: none, rotate, centre, matrix (default: attend rotate,\ncodec none and "
         "rotate)"},
        {"formats", AKV_CLI_TEXT_LIST, &o->formats, 0, 0, "LIST",
         "attend: pairs or profiles (default: F16/F16,I8/I8,N4/N4);\ncodec: formats (default: "
         "all)"},
        {"batch", AKV_CLI_U64_LIST, &o->batch, 1, 4096, "LIST", "attend: sequences (default: 1)"},
        {"phase", AKV_CLI_TEXT_LIST, &o->phase, 0, 0, "LIST",
         "attend: decode, prefill (default: decode)"},
        {"new-tokens", AKV_CLI_U64, &o->new_tokens, 0, 1 << 20, "N",
         "attend, prefill: the newest tokens, which ask (default: 64 on\ncpu, 2048 elsewhere)"},
        {"precise", AKV_CLI_FLAG, &o->precise, 0, 0, NULL, "attend without approximations"},
        {"busy", AKV_CLI_FLAG, &o->busy, 0, 0, NULL,
         "cpu with one thread: count processor time, not the clock on the\nwall, because other "
         "programs run"},
        {"peer", AKV_CLI_TEXT, &o->peer, 0, 0, "memcpy|none",
         "compare with a copy (default: memcpy)"},
        AKV_JSON_OPTION(o->json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        command,
        "codec|attend|cache|evict|compress|page [OPTION]...",
        "Measures the codec, attention, the cache, the eviction of tokens, compression or\nthe way of blocks to host memory; one row for each combination of the lists.\n"
        "Runs alternate with their peer; figures are medians, spread is the largest over the "
        "least.",
        "anykv bench codec --device cpu --formats I8,N4\n"
        "anykv bench attend --device cpu --tokens 8192,32768 --gqa 4 --threads 1,2",
        list,
        1,
        1,
    };
    const char *positional[AKV_LIST_MAX];
    uint32_t count = 0;
    int go = akv_cli_parse(&cli, argc, argv, positional, &count);
    if (go == AKV_CLI_GO)
        go = check_options(o);
    if (go == AKV_CLI_GO) {
        o->what = positional[0];
        go = -2;
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
            if (strcmp(kinds[i].name, o->what) == 0)
                go = run(b, &kinds[i]);
        if (go == -2)
            go = akv_cli_wrong(command, "\"%s\" is not one of codec, attend, cache, evict, compress, page", o->what);
    }
    akv_free(NULL, b);
    return go;
}
