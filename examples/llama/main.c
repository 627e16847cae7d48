/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest honest inference engine around an anykv cache: its command line. */
#include "dense.h"
#include "program.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: llama COMMAND MODEL.gguf [TEXT] [OPTIONS]\n"
    "\n"
    "  run MODEL -p TEXT         continue a text; several -p make a batch of ragged lengths\n"
    "      [-n N] [--sequences N] [--seed N]\n"
    "  perplexity MODEL TEXT     of a text file, per setting of the cache\n"
    "  kld MODEL TEXT            divergence of the next token from that of an exact cache, per "
    "setting\n"
    "      [--ctx N] [--chunks N] [--svg FILE] [--evict LIST] [--keep SHARE]\n"
    "  dump MODEL TEXT OUT       keys, values and queries as safetensors, for `anykv calibrate` "
    "and `eval`\n"
    "      [--tokens N] [--queries N] [--layers LIST]\n"
    "  prefix MODEL TEXT         asks one prompt twice, forks it: what is computed, what is "
    "shared\n"
    "      [--tokens N]\n"
    "  speed MODEL TEXT          decode time in the cache against plain F32 arrays, by context\n"
    "      [--tokens N]\n"
    "\n"
    "  --kv K/V[,K/V…]  formats or profiles of anykv (default q4)\n"
    "  --sinks N, --recent N  first and newest tokens that stay at 16 bits (4, 128)\n"
    "  --device NAME    as in `anykv devices` (default auto)\n"
    "  --threads N      of the CPU (default all); a CBLAS has its own say, OPENBLAS_NUM_THREADS "
    "for one\n"
    "  --budget BYTES   of the cache, all included; 40% means: of the F16 bytes of the rows, "
    "beyond what\n"
    "                   the cache holds for its work (default: what is needed)\n"
    "  --error-budget E relative error of attention output that the precision ladder may cause to "
    "keep the\n"
    "                   budget (0.35; 0: no ladder)\n"
    "  --evict LIST     in the middle of a chunk tokens go: knorm, keydiff, paged or snapkv, with "
    ":heads "
    "the heads of\n"
    "                   a layer compete for what stays, with :all those of all layers; none: "
    "nothing "
    "goes\n"
    "  --keep SHARE     of the tokens that stay then (0.5)\n"
    "  --transforms T   none, rotate, centre, matrix or auto (default: what the calibration has, "
    "or rotate)\n"
    "  --calibration FILE  of `anykv calibrate`\n"
    "  --json           results as JSON Lines\n"
    "\n"
    "example: llama kld SmolLM2-135M-Instruct.Q4_1.gguf book.txt --kv q8,q4,q3 --ctx 1024 --chunks "
    "2\n"
    "Exit status: 0 done, 1 the check or the work failed, 2 wrong use, 3 a file or device is "
    "missing.\n";

static int number(const char *text, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > most)
        return -1;
    *out = value;
    return 0;
}

static int parse_share(const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= 0.0 && value <= 1.0))
        return -1;
    *out = value;
    return 0;
}

static int parse_budget(const char *text, struct options *o)
{
    size_t length = strlen(text);
    uint64_t value;
    if (length > 1 && length < 8 && text[length - 1] == '%') {
        char digits[8];
        memcpy(digits, text, length - 1);
        digits[length - 1] = '\0';
        if (number(digits, 1000, &value) != 0 || value == 0)
            return -1;
        o->budget_share = (double)value / 100.0;
        return 0;
    }
    return number(text, UINT64_MAX / 4, &o->budget) == 0 && o->budget ? 0 : -1;
}

enum {
    OPTION_KV = 256,
    OPTION_SINKS,
    OPTION_RECENT,
    OPTION_DEVICE,
    OPTION_BUDGET,
    OPTION_JSON,
    OPTION_SVG,
    OPTION_CTX,
    OPTION_CHUNKS,
    OPTION_SEQUENCES,
    OPTION_SEED,
    OPTION_TOKENS,
    OPTION_QUERIES,
    OPTION_LAYERS,
    OPTION_THREADS,
    OPTION_TRANSFORMS,
    OPTION_CALIBRATION,
    OPTION_ERROR,
    OPTION_EVICT,
    OPTION_KEEP,
    OPTION_HELP
};

static const struct option long_options[] = {
    {"kv", required_argument, NULL, OPTION_KV},
    {"sinks", required_argument, NULL, OPTION_SINKS},
    {"recent", required_argument, NULL, OPTION_RECENT},
    {"device", required_argument, NULL, OPTION_DEVICE},
    {"budget", required_argument, NULL, OPTION_BUDGET},
    {"json", no_argument, NULL, OPTION_JSON},
    {"svg", required_argument, NULL, OPTION_SVG},
    {"ctx", required_argument, NULL, OPTION_CTX},
    {"chunks", required_argument, NULL, OPTION_CHUNKS},
    {"sequences", required_argument, NULL, OPTION_SEQUENCES},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"tokens", required_argument, NULL, OPTION_TOKENS},
    {"queries", required_argument, NULL, OPTION_QUERIES},
    {"layers", required_argument, NULL, OPTION_LAYERS},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"transforms", required_argument, NULL, OPTION_TRANSFORMS},
    {"calibration", required_argument, NULL, OPTION_CALIBRATION},
    {"error-budget", required_argument, NULL, OPTION_ERROR},
    {"evict", required_argument, NULL, OPTION_EVICT},
    {"keep", required_argument, NULL, OPTION_KEEP},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

/* Options that are whole numbers: where they go and their bounds. */
static int parse_number(int option, const char *text, struct options *o)
{
    const struct {
        int option;
        uint32_t *to, least, most;
    } all[] = {
        {'n', &o->new_tokens, 1, 1u << 20},         {OPTION_SINKS, &o->sinks, 0, 1u << 20},
        {OPTION_RECENT, &o->recent, 0, 1u << 20},   {OPTION_CTX, &o->context, 32, 1u << 20},
        {OPTION_CHUNKS, &o->chunks, 1, 1u << 20},   {OPTION_SEQUENCES, &o->sequences, 1, 64},
        {OPTION_SEED, &o->seed, 0, UINT32_MAX},     {OPTION_TOKENS, &o->tokens, 32, 1u << 20},
        {OPTION_QUERIES, &o->queries, 1, 1u << 20}, {OPTION_THREADS, &o->threads, 1, 256},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        uint64_t value;
        if (all[i].option != option)
            continue;
        if (number(text, all[i].most, &value) != 0 || value < all[i].least)
            return fail("\"%s\" is not a whole number from %u to %u", text, all[i].least,
                        all[i].most);
        *all[i].to = (uint32_t)value;
        return 0;
    }
    return fail("unknown option");
}

/* -1: wrong use. */
static int parse(int argc, char **argv, struct options *o)
{
    int option, status = 0;
    while (status == 0 && (option = getopt_long(argc, argv, "p:n:", long_options, NULL)) != -1) {
        switch (option) {
        case 'p':
            if (o->prompt_count == MAX_PROMPTS)
                return fail("more than %d prompts", MAX_PROMPTS);
            o->prompts[o->prompt_count++] = optarg;
            break;
        case OPTION_KV:
            o->kv = optarg;
            break;
        case OPTION_DEVICE:
            o->device = optarg;
            break;
        case OPTION_SVG:
            o->svg = optarg;
            break;
        case OPTION_LAYERS:
            o->layers = optarg;
            break;
        case OPTION_TRANSFORMS:
            o->transforms = optarg;
            break;
        case OPTION_CALIBRATION:
            o->calibration = optarg;
            break;
        case OPTION_ERROR:
            if (parse_share(optarg, &o->error_budget) != 0)
                return fail("--error-budget \"%s\" is not a number from 0 to 1", optarg);
            break;
        case OPTION_EVICT:
            o->evict = optarg;
            break;
        case OPTION_KEEP:
            if (parse_share(optarg, &o->keep) != 0)
                return fail("--keep \"%s\" is not a number from 0 to 1", optarg);
            break;
        case OPTION_JSON:
            o->json = 1;
            break;
        case OPTION_BUDGET:
            if (parse_budget(optarg, o) != 0)
                return fail("--budget \"%s\" is neither bytes nor a percentage", optarg);
            break;
        case OPTION_HELP:
            (void)fputs(usage_text, stdout);
            exit(0);
        case '?':
            return fail("see llama --help");
        default:
            status = parse_number(option, optarg, o);
        }
    }
    const char **places[] = {&o->command, &o->model, &o->text, &o->out};
    for (size_t i = 0; status == 0 && optind < argc; i++, optind++) {
        if (i == sizeof places / sizeof places[0])
            return fail("\"%s\" is one argument too many", argv[optind]);
        *places[i] = argv[optind];
    }
    return status;
}

/* auto: all that the calibration has. */
static int parse_transform(const struct options *o, anykv_transform *out)
{
    static const char *const names[] = {"none", "rotate", "centre", "matrix"};
    *out = o->calibration ? ANYKV_TRANSFORM_MATRIX : ANYKV_TRANSFORM_ROTATE;
    if (!o->transforms || strcmp(o->transforms, "auto") == 0)
        return 0;
    for (int i = 0; i < 4; i++) {
        if (strcmp(o->transforms, names[i]) != 0)
            continue;
        *out = (anykv_transform)i;
        return i >= 2 && !o->calibration ? fail("--transforms %s needs --calibration", names[i])
                                         : 0;
    }
    return fail("--transforms \"%s\" is none of none, rotate, centre, matrix, auto", o->transforms);
}

static const struct {
    const char *name;
    int (*run)(struct program *);
    int texts; /* positional arguments behind the model */
} commands[] = {
    {"run", command_run, 0},   {"perplexity", command_perplexity, 1}, {"kld", command_kld, 1},
    {"dump", command_dump, 2}, {"prefix", command_prefix, 1},         {"speed", command_speed, 1},
};

int program_tokens(struct program *p, uint32_t **ids_out, uint32_t *count_out)
{
    uint64_t bytes;
    char *text = read_file(p->options.text, 1u << 30, &bytes);
    if (!text)
        return -1;
    int status = tokenizer_encode(&p->tokenizer, text, bytes, ids_out, count_out);
    free(text);
    return status;
}

int program_model(struct program *p, uint32_t capacity)
{
    return model_open(&p->model, &p->file, capacity);
}

struct store_options program_store(const struct program *p, const char *formats, uint32_t tokens,
                                   uint32_t step_tokens)
{
    struct store_options store = {0};
    store.formats = formats;
    store.budget = p->options.budget;
    store.budget_share = p->options.budget_share;
    store.error_budget =
        p->options.budget || p->options.budget_share > 0 ? (float)p->options.error_budget : 0;
    store.sequences = 1;
    store.tokens = tokens;
    store.step_tokens = step_tokens;
    store.transform = p->transform;
    store.sinks = p->options.sinks;
    store.recent = p->options.recent;
    return store;
}

int split_list(const char *list, char *copy, size_t room, const char **pieces, uint32_t most,
               uint32_t *count_out)
{
    uint32_t count = 0;
    if (strlen(list) >= room)
        return fail("a list of more than %zu characters", room - 1);
    memcpy(copy, list, strlen(list) + 1);
    for (char *at = copy; at; count++) {
        if (count == most)
            return fail("more than %u items in a list", most);
        pieces[count] = at;
        at = strchr(at, ',');
        if (at)
            *at++ = '\0';
    }
    *count_out = count;
    return 0;
}

int main(int argc, char **argv)
{
    static struct program program;
    struct options *o = &program.options;
    o->kv = "q4", o->device = "auto";
    o->new_tokens = 64, o->sequences = 1, o->context = 1024, o->chunks = 8, o->seed = 1;
    o->sinks = 4, o->recent = 128, o->queries = 512, o->error_budget = 0.35;
    o->keep = 0.5;
    if (parse(argc, argv, o) != 0) {
        fprintf(stderr, "llama: %s\n", failure());
        return 2;
    }
    if (parse_transform(o, &program.transform) != 0) {
        fprintf(stderr, "llama: %s\n", failure());
        return 2;
    }
    size_t which = 0, count = sizeof commands / sizeof commands[0];
    while (which < count && (!o->command || strcmp(o->command, commands[which].name) != 0))
        which++;
    if (which == count || !o->model || (commands[which].texts > 0) != (o->text != NULL) ||
        (commands[which].texts > 1) != (o->out != NULL)) {
        (void)fputs(usage_text, stderr);
        return 2;
    }
    int status = 3;
    if (gguf_open(&program.file, o->model) == 0 &&
        tokenizer_open(&program.tokenizer, &program.file) == 0 &&
        machine_open(&program.machine, o->device, o->threads, o->calibration) == 0) {
        (void)dense_start(o->threads);
        status = commands[which].run(&program);
        status = status < 0 ? 1 : status;
        dense_stop();
    }
    if (status != 0 && failure()[0])
        fprintf(stderr, "llama: %s\n", failure());
    model_close(&program.model);
    machine_close(&program.machine);
    tokenizer_close(&program.tokenizer);
    gguf_close(&program.file);
    return status;
}
